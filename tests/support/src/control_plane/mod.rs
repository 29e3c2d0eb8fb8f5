//! A Kubernetes control plane on this machine: etcd, kube-apiserver with RBAC and an audit log, and
//! kube-controller-manager, all on free loopback ports. Pods stay Pending, unless a [node](crate::NodeCluster) is asked
//! for.
//!
//! `cargo xtask` and [`TestCluster`](crate::TestCluster) start it. It must never outlive whoever started it (unless
//! detached on purpose), never reach beyond the loopback interface and never end a process that it did not start.
//!
//! Every control plane has an authority, certificates and tokens of its own, so that one that lost a race for a port
//! cannot be mistaken for the one that won it.

pub(crate) mod binaries;
mod certificates;
pub(crate) mod components;
pub mod detached;
pub(crate) mod process;
mod program;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client};
use tempfile::TempDir;

pub use binaries::{Binaries, CACHE_VARIABLE, cache_directory, ensure_helm};
pub(crate) use program::{Program, supervised};

use crate::audit::AuditLog;
use crate::client::apply_crds;
use crate::kubeconfig::Kubeconfig;
use crate::node::{Node, NodeBinaries, publish_api_server};
use crate::wait::wait_for;
use certificates::Credentials;
use components::{Components, audit_log};

/// Starting takes about 8 s on an idle machine; this leaves room for one that compiles at the same time.
const START_TIMEOUT: Duration = Duration::from_secs(180);

/// How many times other processes may take a port between its choice and its use.
const PORT_ATTEMPTS: u32 = 5;

/// A running control plane; it ends when this is dropped, and when this process ends for whatever reason.
#[derive(Debug)]
pub struct ControlPlane {
    instance: Instance,
    // Declared behind the programs, for they write to it until they end.
    directory: TempDir,
    _lock: File,
}

impl ControlPlane {
    /// Starts one in a new directory and waits until it serves, with `crds` established and default ServiceAccounts.
    ///
    /// CRDs that are known here have their owner references followed from the start; kube-controller-manager looks
    /// for CRDs that come later only every 30 s.
    ///
    /// # Errors
    /// With the last lines of the log of the program that did not start.
    pub async fn start(binaries: &Binaries, crds: &[CustomResourceDefinition]) -> anyhow::Result<Self> {
        Self::start_with(binaries, None, crds).await
    }

    /// The same with a node, on which pods run.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with_node(
        binaries: &Binaries,
        node: &NodeBinaries,
        crds: &[CustomResourceDefinition],
    ) -> anyhow::Result<Self> {
        Self::start_with(binaries, Some(node), crds).await
    }

    async fn start_with(
        binaries: &Binaries,
        node: Option<&NodeBinaries>,
        crds: &[CustomResourceDefinition],
    ) -> anyhow::Result<Self> {
        let runs = binaries::cache_root()?.join("runs");
        let (directory, lock) =
            new_directory(&runs).with_context(|| format!("creating a directory in {}", runs.display()))?;
        let instance = Instance::start(binaries, node, crds, &directory.path().join("data")).await?;
        Ok(Self { instance, directory, _lock: lock })
    }

    /// The kubeconfig of an administrator (group `system:masters`).
    pub fn kubeconfig(&self) -> &Kubeconfig {
        &self.instance.kubeconfig
    }

    /// A file with [`Self::kubeconfig`].
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.instance.kubeconfig_path()
    }

    /// The kubeconfig for the bearer of `token`.
    ///
    /// # Errors
    /// Never in practice; see [`Kubeconfig::with_token`].
    pub fn kubeconfig_for_token(&self, token: &str) -> anyhow::Result<Kubeconfig> {
        self.instance.kubeconfig.with_token(token)
    }

    /// Every request that kube-apiserver has answered.
    pub fn audit_log(&self) -> AuditLog {
        AuditLog::new(audit_log(&self.instance.directory))
    }

    /// Name and process identifier of each program.
    pub fn pids(&self) -> Vec<(&'static str, u32)> {
        self.instance.programs.iter().map(|program| (program.name(), program.pid())).collect()
    }

    /// The node, if it was started with one.
    pub fn node(&self) -> Option<&Node> {
        self.instance.node.as_ref()
    }

    /// Environment variables that make the tests in a child process use this control plane, see
    /// [`TestCluster::obtain`](crate::TestCluster::obtain).
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [
            (crate::cluster::KUBECONFIG_VARIABLE, self.kubeconfig_path()),
            (crate::cluster::AUDIT_LOG_VARIABLE, audit_log(&self.instance.directory)),
        ]
    }

    /// Ends the programs and removes the directory; the same as dropping it, but says what went wrong.
    ///
    /// # Errors
    /// When the directory cannot be removed.
    pub fn stop(self) -> anyhow::Result<()> {
        drop(self.instance);
        let path = self.directory.path().to_owned();
        self.directory.close().with_context(|| format!("removing {}", path.display()))
    }
}

/// Makes a directory and takes its lock, which tells others that it is in use. Directories whose lock nobody holds
/// are left over from processes that were killed; they are removed.
fn new_directory(runs: &Path) -> io::Result<(TempDir, File)> {
    const LOCK: &str = "lock";
    fs::create_dir_all(runs)?;
    let common_lock = File::create(runs.join(LOCK))?;
    common_lock.lock()?;
    for entry in fs::read_dir(runs)? {
        let path = entry?.path();
        let in_use = File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_err());
        if path.is_dir() && !in_use {
            // Programs that are being killed may still write; the next start tries again.
            let _ = fs::remove_dir_all(&path);
        }
    }
    let directory = tempfile::Builder::new().prefix("control-plane-").tempdir_in(runs)?;
    let lock = File::create(directory.path().join(LOCK))?;
    lock.lock()?;
    Ok((directory, lock))
}

/// The programs and what is needed to reach them.
#[derive(Debug)]
struct Instance {
    /// Declared before the programs that it works for, so that it ends first.
    node: Option<Node>,
    programs: Vec<Program>,
    kubeconfig: Kubeconfig,
    directory: PathBuf,
}

impl Instance {
    /// Starts in `directory`, which is made anew.
    async fn start(
        binaries: &Binaries,
        node: Option<&NodeBinaries>,
        crds: &[CustomResourceDefinition],
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::attempt(binaries, node, crds, directory, free_ports()?).await {
                Err(error) if attempt < PORT_ATTEMPTS && error.is::<PortTaken>() => attempt += 1,
                result => return result.context("starting a local control plane"),
            }
        }
    }

    async fn attempt(
        binaries: &Binaries,
        node: Option<&NodeBinaries>,
        crds: &[CustomResourceDefinition],
        directory: &Path,
        [etcd_port, api_port]: [u16; 2],
    ) -> anyhow::Result<Self> {
        if directory.exists() {
            fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))?;
        }
        // It holds keys and tokens.
        DirBuilder::new().mode(0o700).create(directory).with_context(|| format!("creating {}", directory.display()))?;
        let components = Components {
            binaries,
            directory,
            credentials: Credentials::create(directory)?,
            etcd_port,
            api_port,
            egress_socket: node.map(|_| Node::egress_socket()),
        };
        let kubeconfig = components.kubeconfig(&components.credentials.admin_token)?;
        let mut instance = Self {
            node: node.map(|binaries| Node::start(binaries, directory, api_port)).transpose()?,
            programs: vec![components.etcd()?, components.kube_apiserver()?],
            kubeconfig,
            directory: directory.to_owned(),
        };
        // Its container runtime loads images while the control plane starts.
        if let Some(node) = &mut instance.node {
            node.start_container_runtime().await?;
        }
        instance.kubeconfig.write(&instance.kubeconfig_path())?;
        let client = instance.kubeconfig.client().await?;
        instance.until("kube-apiserver is ready", async || ready(&client).await).await?;
        apply_crds(&client, crds).await?;
        instance.programs.push(components.kube_controller_manager()?);
        instance
            .until("there are default ServiceAccounts", async || {
                let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
                Ok(accounts.get_opt("default").await?.map(|_| ()))
            })
            .await?;
        if let Some(node) = &mut instance.node {
            instance.programs.push(components.kube_scheduler(node.kube_scheduler())?);
            node.join(&components)?;
            publish_api_server(&client, api_port).await?;
            let connection = node.connection();
            instance.until("the node is ready", async || connection.is_ready(&client).await).await?;
        }
        if let Some(node) = &mut instance.node {
            node.images_loaded().await?;
        }
        Ok(instance)
    }

    /// Waits for `condition`; fails at once when a program ends.
    async fn until(
        &mut self,
        description: &str,
        condition: impl AsyncFnMut() -> anyhow::Result<Option<()>>,
    ) -> anyhow::Result<()> {
        // Side by side: while a port is somebody else's, a request to it may hang for a long time.
        let reached = tokio::select! {
            error = first_end(self.programs().collect()) => return Err(error),
            reached = wait_for(description, START_TIMEOUT, condition) => reached,
        };
        reached.with_context(|| self.programs().map(|program| describe_log(program)).collect::<String>())
    }

    fn programs(&mut self) -> impl Iterator<Item = &mut Program> {
        self.programs.iter_mut().chain(self.node.iter_mut().flat_map(Node::programs))
    }

    fn kubeconfig_path(&self) -> PathBuf {
        self.directory.join("admin.kubeconfig")
    }
}

async fn ready(client: &Client) -> anyhow::Result<Option<()>> {
    let request = http::Request::get("/readyz").body(Vec::new())?;
    client.request_text(request).await?;
    Ok(Some(()))
}

/// Waits until a program ends, which none should; says which and why.
async fn first_end(mut programs: Vec<&mut Program>) -> anyhow::Error {
    let ended = wait_for("a program to end", 2 * START_TIMEOUT, async || {
        for program in programs.iter_mut() {
            if let Some(status) = program.exit_status()? {
                return Ok(Some(ended(program, status)));
            }
        }
        Ok(None)
    });
    ended.await.unwrap_or_else(|error| error)
}

/// Another process took the port that was free a moment ago.
#[derive(Debug, thiserror::Error)]
#[error("a port was taken by another process")]
struct PortTaken;

fn ended(program: &Program, status: ExitStatus) -> anyhow::Error {
    let log = describe_log(program);
    if log.contains("address already in use") {
        anyhow::Error::new(PortTaken).context(log)
    } else {
        anyhow::anyhow!("{} ended ({status}){log}", program.name())
    }
}

fn describe_log(program: &Program) -> String {
    format!("\nlast lines of the log of {}:\n{}", program.name(), program.log_tail())
}

/// Ports that nothing on the loopback interface listens on at this moment.
fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut ports = [0; N];
    // All are held until the last is known, so that they differ.
    let mut listeners = Vec::with_capacity(N);
    for port in &mut ports {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("finding a free port")?;
        *port = listener.local_addr().context("finding a free port")?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_lost_to_another_process_is_recognized() {
        let binaries = Binaries::ensure(&|line| eprintln!("{line}")).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let foreign = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let taken = foreign.local_addr().unwrap().port();
        for choose in [|taken, free| [taken, free], |taken, free| [free, taken]] {
            let [free] = free_ports().unwrap();
            let data = directory.path().join("data");
            let outcome = Instance::attempt(&binaries, None, &[], &data, choose(taken, free)).await;
            let error = outcome.unwrap_err();
            assert!(error.is::<PortTaken>(), "{error:#}");
        }
    }
}
