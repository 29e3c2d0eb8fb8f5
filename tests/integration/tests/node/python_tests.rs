//! The tests of dask-kubernetes that its package ships, unchanged, against this operator.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_support::{NodeCluster, PythonOperator, control_plane::Binaries, dask_image, program};

/// The image that their manifests name: they make it with Docker.
const THEIR_IMAGE: &str = "dask-kubernetes:dev";

/// The release that has the commands which their manifests run.
const IMAGE: &str = "2026.3.0";

/// Each with what it is about; docs/compatibility.md says why. Those that they skip themselves are skipped here, too.
const LEFT_OUT: [&str; 3] = [
    // Plugins of the Python operator.
    "test_controller.py::test_operator_plugins",
    // Fails by itself as soon as the group has Deployments.
    "test_controller.py::test_object_dask_cluster",
    // Its scheduler runs the image `latest`, which is always pulled.
    "test_kubecluster.py::test_cluster_crashloopbackoff",
];

/// How long a test may take.
const SECONDS: &str = "--timeout=300";

#[tokio::test]
#[ignore = "builds and starts a node: cargo xtask test --full"]
async fn the_python_operators_own_tests_pass() -> anyhow::Result<()> {
    let Some(cluster) = NodeCluster::obtain(&crds()).await? else { return Ok(()) };
    let kubeconfig = cluster.kubeconfig_path();
    tokio::task::spawn_blocking(move || run(kubeconfig)).await?
}

fn run(kubeconfig: &Path) -> anyhow::Result<()> {
    let python = PythonOperator::install_with_tests()?;
    let kubectl = Binaries::ensure(&|line| eprintln!("{line}"))?.kubectl;
    let directory = tempfile::tempdir().context("making a directory for tests")?;
    for tests in ["operator/controller/tests", "operator/kubecluster/tests"] {
        copy(&python.package()?.join(tests), directory.path())?;
    }
    fs::write(directory.path().join("conftest.py"), include_str!("python_tests.py")).context("writing the fixtures")?;
    let mut pytest = Command::new(python.python());
    pytest.args(["-m", "pytest", "-p", "no:cacheprovider", "-rA", "--show-capture=all", "--tb=short", SECONDS]);
    pytest.args(LEFT_OUT.map(|test| format!("--deselect={test}")));
    pytest
        .current_dir(directory.path())
        .envs([("KUBECONFIG", kubeconfig), ("TEST_PROGRAM", &program()?), ("TEST_KUBECTL", &kubectl)])
        .env("TEST_IMAGE", dask_image(IMAGE))
        .stdin(Stdio::null());
    let output = pytest.output().context("starting pytest")?;
    let (written, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}: {written}{errors}", output.status);
    println!("{}", written.lines().last().unwrap_or_default());
    Ok(())
}

/// Copies a directory; in manifests, the image is one that the node has.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let path = entry?.path();
        let target = to.join(path.file_name().context("a file without a name")?);
        if path.is_dir() {
            copy(&path, &target)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            let manifest = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            fs::write(target, manifest.replace(THEIR_IMAGE, &dask_image(IMAGE)))?;
        } else {
            fs::copy(&path, target).with_context(|| format!("copying {}", path.display()))?;
        }
    }
    Ok(())
}
