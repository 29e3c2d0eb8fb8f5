//! A node for a local control plane: containerd, kubelet, kube-proxy and CoreDNS, real pods with real Dask.
//!
//! It lives in network, mount and PID namespaces of its own, which `tests/local-kubernetes/node` makes and keeps. The
//! machine's network stays as it is: the API server and the node talk through two sockets in the file system, and
//! nothing in the node has a way out. Whatever ends the node's starter ends the node, with its processes, mounts and
//! control groups. Needs Linux and root: [`node_unavailable`] says what else.
//!
//! Tests get one from [`NodeCluster::obtain`], people by `cargo xtask cluster up --node`.

mod binaries;
mod cluster;
mod configuration;
mod connection;
mod images;
mod requirements;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::net::UnixStream;
use tokio::process::Child;

use crate::control_plane::Program;
use crate::control_plane::components::{Components, text};
use crate::wait::wait_for;

pub use binaries::NodeBinaries;
pub use cluster::NodeCluster;
pub(crate) use configuration::publish_api_server;
pub use connection::NodeConnection;
pub use images::dask_image;
pub use requirements::{NodeUnavailable, node_unavailable};

/// Name of the node's object.
pub(crate) const NODE_NAME: &str = "node";

/// The node's address, which `tests/local-kubernetes/node` gives it.
const NODE_ADDRESS: &str = "10.245.0.2";

/// Where the node keeps its data, below the directory of its control plane.
const DIRECTORY: &str = "node";

/// Preparing namespaces takes milliseconds, loading images seconds; this leaves room for a machine that compiles.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A running node; it ends when this is dropped, and when this process ends for whatever reason.
#[derive(Debug)]
pub struct Node {
    binaries: NodeBinaries,
    directory: PathBuf,
    pid: u32,
    /// The first one keeps the namespaces.
    programs: Vec<Program>,
    /// Processes that load images.
    imports: Vec<(PathBuf, Child)>,
}

impl Node {
    /// Starts making the namespaces, with the node's data in a new directory below `control_plane`.
    pub(crate) fn start(binaries: &NodeBinaries, control_plane: &Path, api_port: u16) -> anyhow::Result<Self> {
        let directory = control_plane.join(DIRECTORY);
        DirBuilder::new().create(&directory).with_context(|| format!("creating {}", directory.display()))?;
        let arguments = ["run".to_owned(), text(&directory), format!("127.0.0.1:{api_port}")];
        let keeper = Program::start("node", &binaries.node, &arguments, &directory)?;
        let binaries = binaries.clone();
        Ok(Self { binaries, directory, pid: 0, programs: vec![keeper], imports: Vec::new() })
    }

    /// Where kube-apiserver finds the way into the node, below its directory.
    pub(crate) fn egress_socket() -> PathBuf {
        Path::new(DIRECTORY).join("egress.sock")
    }

    /// Waits for the namespaces, starts containerd and lets it load the images.
    pub(crate) async fn start_container_runtime(&mut self) -> anyhow::Result<()> {
        let file = self.directory.join("init.pid");
        let keeper = &mut self.programs[0];
        let pid = wait_for("the namespaces of the node", START_TIMEOUT, async || {
            match (fs::read_to_string(&file), keeper.exit_status()?) {
                (Ok(pid), _) => Ok(Some(Ok(pid))),
                (_, Some(status)) => Ok(Some(Err(anyhow::anyhow!("{status}: {}", keeper.log_tail())))),
                _ => Ok(None),
            }
        });
        self.pid = pid.await?.context("making the namespaces of the node")?.parse().context("reading init.pid")?;
        let configuration = configuration::containerd(&self.binaries, &self.directory)?;
        self.run("containerd", &self.binaries.containerd.clone(), &["--config".into(), text(&configuration)])?;
        let socket = format!("/proc/{}/root{}", self.pid, configuration::CONTAINERD_SOCKET);
        wait_for("containerd to listen", START_TIMEOUT, async || Ok(Some(UnixStream::connect(&socket).await?)))
            .await
            .with_context(|| self.programs.last().map(Program::log_tail).unwrap_or_default())?;
        for image in &self.binaries.images {
            self.imports.push((image.clone(), self.import(image)?));
        }
        Ok(())
    }

    /// Begins to load the images of an archive.
    fn import(&self, archive: &Path) -> anyhow::Result<Child> {
        let mut import = tokio::process::Command::from(self.command(&self.binaries.ctr));
        import
            .args(["--address", configuration::CONTAINERD_SOCKET, "--namespace", "k8s.io", "images", "import"])
            .args(["--snapshotter", "overlayfs"])
            .arg(archive)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        import.spawn().context("starting ctr")
    }

    /// Makes an image of a program of this machine and loads it, under a name such as `localhost/program:local`.
    ///
    /// # Errors
    /// When it can't be made or loaded.
    pub async fn load_program(&self, image: &str, program: &Path) -> anyhow::Result<()> {
        let directory = tempfile::tempdir_in(&self.directory).context("making a directory for an image")?;
        let archive = directory.path().join("image.tar");
        images::of_program(&self.binaries.node, image, program, &archive)?;
        loaded(&archive, self.import(&archive)?).await
    }

    pub(crate) fn kube_scheduler(&self) -> &Path {
        &self.binaries.kube_scheduler
    }

    /// Starts what makes it a node of the control plane, which must be ready: kubelet and kube-proxy wait long before
    /// they try again.
    pub(crate) fn join(&mut self, components: &Components<'_>) -> anyhow::Result<()> {
        let configuration = configuration::Configuration::write(components, &self.directory, self.cgroup())?;
        let binaries = self.binaries.clone();
        self.run("kubelet", &binaries.kubelet, &configuration.kubelet)?;
        self.run("kube-proxy", &binaries.kube_proxy, &configuration.kube_proxy)?;
        self.run("coredns", &binaries.coredns, &configuration.coredns)
    }

    /// Waits until the images are there.
    pub(crate) async fn images_loaded(&mut self) -> anyhow::Result<()> {
        for (image, import) in std::mem::take(&mut self.imports) {
            loaded(&image, import).await?;
        }
        Ok(())
    }

    /// A command that runs in the node: it sees pods, Services and the cluster's DNS as a pod does, and the API server
    /// at the address that it has outside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", "--mount", "--pid", "--"]).arg(program);
        command
    }

    /// The way to programs in the node from outside.
    pub fn connection(&self) -> NodeConnection {
        NodeConnection::new(self.directory.clone())
    }

    /// PID 1 of the node as the machine counts.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn programs(&mut self) -> std::slice::IterMut<'_, Program> {
        self.programs.iter_mut()
    }

    /// For somebody who lets them live on.
    pub(crate) fn into_programs(mut self) -> Vec<Program> {
        std::mem::take(&mut self.programs)
    }

    /// Waits until the node of this control plane, if it has one, has cleaned up: its starter is gone.
    pub(crate) fn wait_for_end(control_plane: &Path) -> anyhow::Result<()> {
        match File::open(control_plane.join(DIRECTORY).join("lock")) {
            Ok(lock) => lock.lock().context("waiting for the end of the node"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).context("opening the lock of the node"),
        }
    }

    /// The control group of pods, which the keeper of the namespaces names.
    fn cgroup(&self) -> String {
        format!("/dask-wasm-operator-node-{}", self.programs[0].pid())
    }

    fn run(&mut self, name: &'static str, binary: &Path, arguments: &[String]) -> anyhow::Result<()> {
        let command = self.command(binary);
        let mut all: Vec<String> = command.get_args().map(|argument| text(Path::new(argument))).collect();
        all.extend_from_slice(arguments);
        self.programs.push(Program::start(name, Path::new(command.get_program()), &all, &self.directory)?);
        Ok(())
    }
}

async fn loaded(archive: &Path, import: Child) -> anyhow::Result<()> {
    let output = import.wait_with_output().await.context("waiting for ctr")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "loading {}: {}: {errors}", archive.display(), output.status);
    Ok(())
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.programs.is_empty() {
            self.programs.clear();
            if let Some(control_plane) = self.directory.parent() {
                let _ = Self::wait_for_end(control_plane);
            }
        }
    }
}
