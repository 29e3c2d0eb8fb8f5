//! `cargo xtask cluster`: a local control plane that outlives this program, to try things on.

use clap::Subcommand;
use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_support::control_plane::{
    Binaries,
    detached::{self, Started, Stopped},
};

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Start it, with the operator's definitions installed.
    Up,
    /// Stop it and remove its data.
    Down,
    /// Print the path of its kubeconfig: `export KUBECONFIG=$(cargo xtask cluster kubeconfig)`.
    Kubeconfig,
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(command: ClusterCommand) -> anyhow::Result<()> {
    let directory = detached::default_directory()?;
    match command {
        ClusterCommand::Up => {
            let binaries = Binaries::ensure(&|line| eprintln!("{line}"))?;
            let started = detached::start(&directory, &binaries, &crds()).await?;
            eprintln!("{}", if started == Started::Now { "started" } else { "it was running already" });
            let kubeconfig = running(&directory)?;
            eprintln!("try: {} --kubeconfig {kubeconfig} get crds", binaries.kubectl.display());
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
        None => anyhow::bail!("no control plane runs; start one: cargo xtask cluster up"),
    }
}
