//! The Python operator, from its package: what clusters are taken over from, and compared with.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command},
};

use anyhow::Context as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Kubeconfig, control_plane::supervised, python};

/// Its release.
const VERSION: &str = "2026.3.0";

/// What its own tests need: pytest, and that no test waits for ever.
const TEST_PACKAGES: [&str; 2] = ["pytest==9.0.2", "pytest-timeout==2.4.0"];

/// Its installation, in an environment of its own that is kept.
pub struct PythonOperator {
    environment: PathBuf,
}

/// The running process. Ends with this value.
pub struct RunningPythonOperator {
    child: Child,
    _lifeline: Option<ChildStdin>,
    directory: TempDir,
}

impl PythonOperator {
    /// Installs it, unless it is there.
    ///
    /// # Errors
    /// When there is no Python 3 with venv, or pip fails.
    pub fn install() -> anyhow::Result<Self> {
        Self::in_environment(&format!("dask-kubernetes-{VERSION}"), &[])
    }

    /// As [`Self::install`], in another environment that has what its own tests need.
    ///
    /// # Errors
    /// When there is no Python 3 with venv, or pip fails.
    pub fn install_with_tests() -> anyhow::Result<Self> {
        Self::in_environment(&format!("dask-kubernetes-{VERSION}-tests"), &TEST_PACKAGES)
    }

    fn in_environment(name: &str, others: &[&str]) -> anyhow::Result<Self> {
        let package = format!("dask-kubernetes=={VERSION}");
        let packages: Vec<_> = [package.as_str()].into_iter().chain(others.iter().copied()).collect();
        Ok(Self { environment: python::environment(name, &packages)? })
    }

    /// The Python of its environment, where its client is, too.
    pub fn python(&self) -> PathBuf {
        self.environment.join("bin/python")
    }

    /// The directory of its package.
    ///
    /// # Errors
    /// When Python does not know the package.
    pub fn package(&self) -> anyhow::Result<PathBuf> {
        let find = Command::new(self.python())
            .args(["-c", "import dask_kubernetes, os; print(os.path.dirname(dask_kubernetes.__file__))"])
            .output()
            .context("asking Python for the package")?;
        Ok(PathBuf::from(String::from_utf8_lossy(&find.stdout).trim()))
    }

    /// The directory of its chart.
    fn chart(&self) -> anyhow::Result<PathBuf> {
        Ok(self.package()?.join("operator/deployment/helm/dask-kubernetes-operator"))
    }

    /// The directory of its chart that holds its definitions.
    ///
    /// # Errors
    /// When Python does not know the package.
    pub fn crds_directory(&self) -> anyhow::Result<PathBuf> {
        Ok(self.chart()?.join("crds"))
    }

    /// The default values of its chart.
    ///
    /// # Errors
    /// When the package does not have them.
    pub fn values(&self) -> anyhow::Result<Value> {
        let file = self.chart()?.join("values.yaml");
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        serde_saphyr::from_str(&text).with_context(|| format!("parsing {}", file.display()))
    }

    /// Its definitions: it can't work with ours, because it writes the phase past the status subresource.
    ///
    /// # Errors
    /// When the package does not have them.
    pub fn crds(&self) -> anyhow::Result<Vec<CustomResourceDefinition>> {
        let directory = self.crds_directory()?;
        let mut crds = Vec::new();
        for entry in std::fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))? {
            crds.extend(definitions(&entry?.path())?);
        }
        Ok(crds)
    }

    /// Starts it as its chart does.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(&self, kubeconfig: &Kubeconfig) -> anyhow::Result<RunningPythonOperator> {
        let directory = tempfile::tempdir().context("making a directory")?;
        let path = directory.path().join("kubeconfig");
        kubeconfig.write(&path)?;
        let log = File::create(directory.path().join("log")).context("making a log")?;
        let mut child = supervised("python-operator", &self.environment.join("bin/kopf"))
            .args(["run", "-m", "dask_kubernetes.operator.controller", "--verbose", "--all-namespaces"])
            .env("KUBECONFIG", &path)
            .stdout(log.try_clone().context("sharing the log")?)
            .stderr(log)
            .spawn()
            .context("starting the Python operator")?;
        Ok(RunningPythonOperator { _lifeline: child.stdin.take(), child, directory })
    }
}

fn definitions(file: &Path) -> anyhow::Result<Vec<CustomResourceDefinition>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    serde_saphyr::from_multiple(&text).with_context(|| format!("parsing {}", file.display()))
}

impl RunningPythonOperator {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for RunningPythonOperator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
