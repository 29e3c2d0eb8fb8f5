//! The cluster that the tests of one process share.

use std::path::{Path, PathBuf};

use anyhow::Context;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use tokio::sync::OnceCell;

use crate::audit::AuditLog;
use crate::client::apply_crds;
use crate::control_plane::{Binaries, ControlPlane};
use crate::kubeconfig::Kubeconfig;

/// Environment variable that names the kubeconfig of an administrator of the cluster to run the tests against.
pub const KUBECONFIG_VARIABLE: &str = "DASK_WASM_OPERATOR_TEST_KUBECONFIG";

/// Environment variable that names the audit log of that cluster, if this machine has it.
pub(crate) const AUDIT_LOG_VARIABLE: &str = "DASK_WASM_OPERATOR_TEST_AUDIT_LOG";

/// A cluster on which a test is administrator. Others use it at the same time: work in a namespace of your own, see
/// [`with_namespace`](crate::with_namespace), and start a [`ControlPlane`] where even that is too much company.
#[derive(Debug)]
pub struct TestCluster {
    kubeconfig: Kubeconfig,
    kubeconfig_path: PathBuf,
    audit_log: Option<AuditLog>,
    /// Never dropped: statics live until the process ends, which ends the programs.
    _control_plane: Option<ControlPlane>,
}

impl TestCluster {
    /// The cluster of `DASK_WASM_OPERATOR_TEST_KUBECONFIG`, or else a local control plane, which is started by the
    /// first test of a process and ends with the process. It serves `crds`.
    ///
    /// # Errors
    /// When the cluster does not answer, or the control plane cannot be started.
    pub async fn obtain(crds: &[CustomResourceDefinition]) -> anyhow::Result<&'static Self> {
        static CLUSTER: OnceCell<TestCluster> = OnceCell::const_new();
        CLUSTER
            .get_or_try_init(async || match std::env::var_os(KUBECONFIG_VARIABLE) {
                Some(path) => Self::existing(path.into(), crds).await,
                None => Self::started(crds).await,
            })
            .await
    }

    async fn existing(kubeconfig_path: PathBuf, crds: &[CustomResourceDefinition]) -> anyhow::Result<Self> {
        let kubeconfig = Kubeconfig::read(&kubeconfig_path)?;
        let cluster = Self {
            kubeconfig,
            kubeconfig_path,
            audit_log: std::env::var_os(AUDIT_LOG_VARIABLE).map(|path| AuditLog::new(path.into())),
            _control_plane: None,
        };
        apply_crds(&cluster.client().await?, crds)
            .await
            .with_context(|| format!("preparing the cluster of {KUBECONFIG_VARIABLE}"))?;
        Ok(cluster)
    }

    async fn started(crds: &[CustomResourceDefinition]) -> anyhow::Result<Self> {
        let binaries = tokio::task::spawn_blocking(|| Binaries::ensure(&|line| eprintln!("{line}")))
            .await
            .context("building the local Kubernetes")??;
        let control_plane = ControlPlane::start(&binaries, crds).await?;
        Ok(Self {
            kubeconfig: control_plane.kubeconfig().clone(),
            kubeconfig_path: control_plane.kubeconfig_path(),
            audit_log: Some(control_plane.audit_log()),
            _control_plane: Some(control_plane),
        })
    }

    /// The kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> &Kubeconfig {
        &self.kubeconfig
    }

    /// A file with [`Self::kubeconfig`].
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig_path
    }

    /// The audit log; a cluster of somebody else has none that could be read here.
    pub fn audit_log(&self) -> Option<&AuditLog> {
        self.audit_log.as_ref()
    }

    /// A client of an administrator. A client belongs to the tokio runtime that made it: one for each test.
    ///
    /// # Errors
    /// When the kubeconfig is incomplete.
    pub async fn client(&self) -> anyhow::Result<Client> {
        self.kubeconfig.client().await
    }
}
