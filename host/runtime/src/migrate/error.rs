//! Why a migration ends without having done what it was asked to, or finds something.

use std::path::PathBuf;

use crate::process::exit::Failure;

/// Why nothing, or not all, was done.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The check has found something.
    #[error("{count} of the lines above need attention before a takeover")]
    Attention {
        /// How many.
        count: usize,
    },
    /// The Python operator is at work, which can't write the status of clusters with our definitions.
    #[error("the Python operator runs, or may run; stop it first. {}", .findings.join("; "))]
    PythonRuns {
        /// Its Deployments, and those of which nobody knows what they run.
        findings: Vec<String>,
    },
    /// This operator is at work.
    #[error(
        "this operator runs: {holder} renews the Lease {namespace}/dask-wasm-operator. Stop it first: \
         kubectl scale deployment -n {namespace} NAME --replicas=0"
    )]
    OursRuns {
        /// Who holds the Lease.
        holder: String,
        /// The Lease's namespace.
        namespace: String,
    },
    /// Some objects were not marked as handled.
    #[error(
        "{count} of the lines above are about objects that were not handed over. Correct or delete it, and run this \
         again, before the Python operator is started: it would treat each as new, and run a job again"
    )]
    Left {
        /// How many.
        count: usize,
    },
    /// What was given does not hold the Python operator's definitions.
    #[error(
        "{} has no definition of {kind} without a status subresource; give the directory `crds` of the Python operator's \
         chart, or what `helm show crds dask/dask-kubernetes-operator` prints", path.display()
    )]
    NotPython {
        /// The file or directory.
        path: PathBuf,
        /// The kind that is not there.
        kind: &'static str,
    },
}

impl From<MigrateError> for Failure {
    fn from(error: MigrateError) -> Self {
        Self::Migrate(error.into())
    }
}
