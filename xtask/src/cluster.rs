//! `cargo xtask cluster`: a local control plane that outlives this program, to try things on.

use anyhow::bail;
use clap::Subcommand;
use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_support::{
    NodeBinaries,
    control_plane::{
        Binaries,
        detached::{self, Started, Stopped},
    },
    node_unavailable,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Start it, with the operator's definitions installed.
    Up {
        /// With a node on which pods run, and images of Dask. Linux and root only.
        #[arg(long)]
        node: bool,
    },
    /// Stop it and remove its data.
    Down,
    /// Print the path of its kubeconfig: `export KUBECONFIG=$(cargo xtask cluster kubeconfig)`.
    Kubeconfig,
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(command: ClusterCommand) -> anyhow::Result<()> {
    let directory = detached::default_directory()?;
    match command {
        ClusterCommand::Up { node } => {
            if let Some(reason) = node_unavailable().filter(|_| node) {
                bail!(reason);
            }
            let progress = |line: &str| eprintln!("{line}");
            let binaries = Binaries::ensure(&progress)?;
            let started = if node {
                detached::start_with_node(&directory, &binaries, &NodeBinaries::ensure(&progress)?, &crds()).await?
            } else {
                detached::start(&directory, &binaries, &crds()).await?
            };
            eprintln!("{}", if started == Started::Now { "started" } else { "it was running already" });
            let kubeconfig = running(&directory)?;
            eprintln!("try: {} --kubeconfig {kubeconfig} get crds", binaries.kubectl.display());
            if let Some(pid) = detached::node_pid(&directory)? {
                eprintln!(
                    "as a pod sees it: KUBECONFIG={kubeconfig} nsenter --target {pid} --net --mount --pid PROGRAM"
                );
            }
        }
        ClusterCommand::Down => {
            let stopped = detached::stop(&directory).await?;
            eprintln!("{}", if stopped == Stopped::Now { "stopped" } else { "it was not running" });
        }
        ClusterCommand::Kubeconfig => println!("{}", running(&directory)?),
    }
    Ok(())
}

fn running(directory: &std::path::Path) -> anyhow::Result<String> {
    match detached::kubeconfig_path(directory)? {
        Some(path) => Ok(path.display().to_string()),
        None => bail!("no control plane runs; start one: cargo xtask cluster up"),
    }
}
