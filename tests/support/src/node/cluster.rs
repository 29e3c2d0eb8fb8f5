//! The cluster with real pods that the tests of one process share.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use k8s_openapi::api::core::v1;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::sync::OnceCell;

use super::connection::is_ready;
use super::{Node, NodeBinaries, node_unavailable};
use crate::client::apply_crds;
use crate::cluster::KUBECONFIG_VARIABLE;
use crate::control_plane::{Binaries, ControlPlane};
use crate::kubeconfig::Kubeconfig;
use crate::skipped::say_skipped;

/// A cluster on whose nodes pods run, and on which a test is administrator.
#[derive(Debug)]
pub struct NodeCluster {
    kubeconfig: Kubeconfig,
    kubeconfig_path: PathBuf,
    /// None when the cluster is somebody else's.
    control_plane: Option<ControlPlane>,
}

impl NodeCluster {
    /// The cluster of [`KUBECONFIG_VARIABLE`] if it has a node, or else a local one, which is started by the first test
    /// of a process and ends with the process. It serves `crds`.
    ///
    /// None where there can be no node: then this says on the terminal that the running test is skipped, and why.
    ///
    /// # Errors
    /// When there can be a node, but it does not start.
    pub async fn obtain(crds: &[CustomResourceDefinition]) -> anyhow::Result<Option<&'static Self>> {
        static CLUSTER: OnceCell<Option<NodeCluster>> = OnceCell::const_new();
        let cluster = CLUSTER.get_or_try_init(async || match Self::existing(crds).await? {
            None if node_unavailable().is_none() => Self::started(crds).await.map(Some),
            existing => Ok(existing),
        });
        let cluster = cluster.await?.as_ref();
        if cluster.is_none()
            && let Some(reason) = node_unavailable()
        {
            reason.say_that_the_test_is_skipped();
        }
        Ok(cluster)
    }

    async fn existing(crds: &[CustomResourceDefinition]) -> anyhow::Result<Option<Self>> {
        let Some(kubeconfig_path) = std::env::var_os(KUBECONFIG_VARIABLE).map(PathBuf::from) else {
            return Ok(None);
        };
        let kubeconfig = Kubeconfig::read(&kubeconfig_path)?;
        let client = kubeconfig.client().await?;
        let nodes = Api::<v1::Node>::all(client.clone()).list(&ListParams::default()).await;
        let nodes = nodes.with_context(|| format!("listing the nodes of the cluster of {KUBECONFIG_VARIABLE}"))?;
        if !nodes.iter().any(is_ready) {
            return Ok(None);
        }
        apply_crds(&client, crds).await?;
        Ok(Some(Self { kubeconfig, kubeconfig_path, control_plane: None }))
    }

    async fn started(crds: &[CustomResourceDefinition]) -> anyhow::Result<Self> {
        let build = || {
            let progress = |line: &str| eprintln!("{line}");
            anyhow::Ok((Binaries::ensure(&progress)?, NodeBinaries::ensure(&progress)?))
        };
        let built = tokio::task::spawn_blocking(build).await.context("building the local Kubernetes")?;
        let (binaries, node) = built?;
        let control_plane = ControlPlane::start_with_node(&binaries, &node, crds).await?;
        Ok(Self {
            kubeconfig: control_plane.kubeconfig().clone(),
            kubeconfig_path: control_plane.kubeconfig_path(),
            control_plane: Some(control_plane),
        })
    }

    /// The kubeconfig of an administrator. For the local cluster it is good inside the node, too.
    pub fn kubeconfig(&self) -> &Kubeconfig {
        &self.kubeconfig
    }

    /// A file with [`Self::kubeconfig`].
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig_path
    }

    /// The local control plane; none when the cluster is somebody else's.
    pub fn control_plane(&self) -> Option<&ControlPlane> {
        self.control_plane.as_ref()
    }

    /// A command that runs where names of Services are resolved, with KUBECONFIG set; none when the cluster is somebody
    /// else's.
    pub fn command(&self, program: &str) -> Option<Command> {
        let node = self.control_plane.as_ref().and_then(ControlPlane::node);
        node.map(|node: &Node| {
            let mut command = node.command(program);
            command.env("KUBECONFIG", &self.kubeconfig_path);
            command
        })
    }

    /// Makes an image of a program of this machine that pods can run. False when the cluster is somebody else's: then this says
    /// on the terminal that the running test is skipped.
    ///
    /// # Errors
    /// When it can't be made or loaded.
    pub async fn load_program(&self, image: &str, program: &Path) -> anyhow::Result<bool> {
        let Some(node) = self.control_plane.as_ref().and_then(ControlPlane::node) else {
            say_skipped(&format!("{image} can't be loaded into a cluster of somebody else's"));
            return Ok(false);
        };
        node.load_program(image, program).await.map(|()| true)
    }

    /// A client of an administrator. A client belongs to the tokio runtime that made it: one for each test.
    ///
    /// # Errors
    /// When the kubeconfig is incomplete.
    pub async fn client(&self) -> anyhow::Result<Client> {
        self.kubeconfig.client().await
    }
}
