//! A control plane that lives on when its starter ends: `cargo xtask cluster up|down|kubeconfig`. Needs Linux' /proc.
//!
//! A state file says which processes belong to it; each is told apart from later processes with the same number, so
//! that `stop` never ends a process that is not its own, even after the machine was started anew.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::{Deserialize, Serialize};

use super::binaries::{Binaries, cache_root};
use super::process::Process;
use super::{Instance, Program};
use crate::node::{Node, NodeBinaries};
use crate::wait::wait_for;

/// SIGKILL takes effect at once unless the machine writes to a slow disk.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// What [`start`] found or did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Started {
    /// It was started.
    Now,
    /// It was running already and is left alone.
    Before,
}

/// What [`stop`] found or did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stopped {
    /// It was ended.
    Now,
    /// There was nothing to end.
    Before,
}

/// Where `cargo xtask cluster` keeps its control plane.
///
/// # Errors
/// When there is no home directory.
pub fn default_directory() -> anyhow::Result<PathBuf> {
    Ok(cache_root()?.join("cluster"))
}

/// Starts a control plane whose data are in `directory`, unless one runs there.
///
/// # Errors
/// As [`ControlPlane::start`](super::ControlPlane::start).
pub async fn start(
    directory: &Path,
    binaries: &Binaries,
    crds: &[CustomResourceDefinition],
) -> anyhow::Result<Started> {
    start_with(directory, binaries, None, crds).await
}

/// The same with a node, on which pods run.
///
/// # Errors
/// As [`ControlPlane::start_with_node`](super::ControlPlane::start_with_node), and when a control plane without a node
/// runs there.
pub async fn start_with_node(
    directory: &Path,
    binaries: &Binaries,
    node: &NodeBinaries,
    crds: &[CustomResourceDefinition],
) -> anyhow::Result<Started> {
    start_with(directory, binaries, Some(node), crds).await
}

async fn start_with(
    directory: &Path,
    binaries: &Binaries,
    node: Option<&NodeBinaries>,
    crds: &[CustomResourceDefinition],
) -> anyhow::Result<Started> {
    let _lock = lock(directory)?;
    if let Some(state) = State::read(directory)?.filter(State::is_running) {
        ensure!(
            node.is_none() || state.node_pid.is_some(),
            "a control plane without a node runs already; end it first: cargo xtask cluster down"
        );
        return Ok(Started::Before);
    }
    end(directory).await?;
    // Until they are released below, the programs end with this process: an interrupted start leaves nothing.
    let instance = Instance::start(binaries, node, crds, &data(directory)).await?;
    let kubeconfig = instance.kubeconfig_path();
    let node_pid = instance.node.as_ref().map(Node::pid);
    let programs: Vec<Program> =
        instance.node.map(Node::into_programs).into_iter().flatten().chain(instance.programs).collect();
    let processes = programs.iter().map(|program| Process::of(program.pid())).collect::<anyhow::Result<_>>()?;
    State { processes, kubeconfig, node_pid }.write(directory)?;
    for program in programs {
        program.release()?;
    }
    Ok(Started::Now)
}

/// Ends the control plane of `directory` and removes its data.
///
/// # Errors
/// When the state file cannot be read, or a process does not end.
pub async fn stop(directory: &Path) -> anyhow::Result<Stopped> {
    let _lock = lock(directory)?;
    end(directory).await
}

/// The file with the administrator's kubeconfig, if a control plane runs.
///
/// # Errors
/// When the state file cannot be read.
pub fn kubeconfig_path(directory: &Path) -> anyhow::Result<Option<PathBuf>> {
    let running = State::read(directory)?.filter(State::is_running);
    Ok(running.map(|state| state.kubeconfig))
}

/// PID 1 of the node, if one runs: the way into its namespaces.
///
/// # Errors
/// When the state file cannot be read.
pub fn node_pid(directory: &Path) -> anyhow::Result<Option<u32>> {
    Ok(State::read(directory)?.filter(State::is_running).and_then(|state| state.node_pid))
}

async fn end(directory: &Path) -> anyhow::Result<Stopped> {
    let Some(state) = State::read(directory)? else {
        return Ok(Stopped::Before);
    };
    let running = state.processes.iter().any(Process::is_running);
    for process in &state.processes {
        process.kill();
    }
    wait_for("the programs of the control plane to end", STOP_TIMEOUT, async || {
        Ok((!state.processes.iter().any(Process::is_running)).then_some(()))
    })
    .await?;
    Node::wait_for_end(&data(directory))?;
    fs::remove_dir_all(data(directory)).context("removing the data of the control plane")?;
    fs::remove_file(State::path(directory)).context("removing the state file of the control plane")?;
    Ok(if running { Stopped::Now } else { Stopped::Before })
}

fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// Keeps `up` and `down` of other terminals waiting until the file is dropped.
fn lock(directory: &Path) -> anyhow::Result<File> {
    let acquire = || {
        fs::create_dir_all(directory)?;
        let file = File::create(directory.join("lock"))?;
        file.lock()?;
        Ok::<_, std::io::Error>(file)
    };
    acquire().with_context(|| format!("locking {}", directory.display()))
}

/// Content of the state file.
#[derive(Debug, Deserialize, Serialize)]
struct State {
    processes: Vec<Process>,
    kubeconfig: PathBuf,
    node_pid: Option<u32>,
}

impl State {
    fn path(directory: &Path) -> PathBuf {
        directory.join("state.json")
    }

    fn read(directory: &Path) -> anyhow::Result<Option<Self>> {
        let path = Self::path(directory);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).with_context(|| format!("parsing {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let path = Self::path(directory);
        let text = serde_json::to_vec_pretty(self).context("writing the state as JSON")?;
        // Whole or not at all, whenever this process is killed.
        let unfinished = path.with_extension("unfinished");
        fs::write(&unfinished, text)
            .and_then(|()| fs::rename(&unfinished, &path))
            .with_context(|| format!("writing {}", path.display()))
    }

    fn is_running(&self) -> bool {
        self.processes.iter().all(Process::is_running)
    }
}
