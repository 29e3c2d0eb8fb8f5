//! The Python operator, from its package, for comparison.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;
use dask_wasm_operator_test_support::{Kubeconfig, control_plane::cache_directory};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::workspace;

/// The release that is compared.
const VERSION: &str = "2026.3.0";

/// Its installation, in an environment of its own that is kept.
pub(super) struct PythonOperator {
    environment: PathBuf,
}

/// The running process. Ends with this value.
pub(super) struct Running {
    child: Child,
    _directory: tempfile::TempDir,
}

impl PythonOperator {
    /// Installs it, unless it is there.
    pub(super) fn install() -> anyhow::Result<Self> {
        let environment = cache_directory(&format!("dask-kubernetes-{VERSION}"))?;
        if !environment.join("bin/kopf").is_file() {
            workspace::run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
            let package = format!("dask-kubernetes=={VERSION}");
            workspace::run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", &package]))?;
        }
        Ok(Self { environment })
    }

    /// Its definitions: it can't work with ours, because it writes the phase past the status subresource.
    pub(super) fn crds(&self) -> anyhow::Result<Vec<CustomResourceDefinition>> {
        let find = Command::new(self.environment.join("bin/python"))
            .args(["-c", "import dask_kubernetes, os; print(os.path.dirname(dask_kubernetes.__file__))"])
            .output()
            .context("asking Python for the package")?;
        let package = PathBuf::from(String::from_utf8_lossy(&find.stdout).trim());
        let directory = package.join("operator/deployment/helm/dask-kubernetes-operator/crds");
        let mut crds = Vec::new();
        for entry in std::fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))? {
            crds.extend(definitions(&entry?.path())?);
        }
        Ok(crds)
    }

    /// Starts it as its chart does.
    pub(super) fn start(&self, kubeconfig: &Kubeconfig) -> anyhow::Result<Running> {
        let directory = tempfile::tempdir().context("making a directory")?;
        let path = directory.path().join("kubeconfig");
        kubeconfig.write(&path)?;
        let log = File::create(directory.path().join("log")).context("making a log")?;
        let child = Command::new(self.environment.join("bin/kopf"))
            .args(["run", "-m", "dask_kubernetes.operator.controller", "--verbose", "--all-namespaces"])
            .env("KUBECONFIG", &path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing the log")?)
            .stderr(log)
            .spawn()
            .context("starting the Python operator")?;
        Ok(Running { child, _directory: directory })
    }
}

fn definitions(file: &Path) -> anyhow::Result<Vec<CustomResourceDefinition>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    serde_saphyr::from_multiple(&text).with_context(|| format!("parsing {}", file.display()))
}

impl Running {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
