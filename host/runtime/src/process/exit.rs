//! Why the program ends early, in words for the person who started it, and with an exit code for whatever did.
//!
//! A bad command line ends with 2, as everywhere. A migration that has something to tell ends with 1. The other codes are those of BSD's sysexits.h, which tell a fault of the
//! surroundings from one of ours.

use std::{
    collections::BTreeSet,
    error::Error,
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

use dask_wasm_operator_api::Access;
use dask_wasm_operator_core::text::line;

/// Why the program ends early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no usable description of a cluster.
    #[error("no Kubernetes cluster to talk to; name a kubeconfig by --kubeconfig or $KUBECONFIG, or run in a pod")]
    Connection(#[source] anyhow::Error),
    /// The API server does not answer.
    #[error("the API server {server} can't be reached")]
    Unreachable {
        /// Its URL.
        server: String,
        /// Why.
        source: anyhow::Error,
    },
    /// The cluster does not know our kinds.
    #[error("the cluster has no {}; install the CRDs: dask-wasm-operator crds | kubectl apply --server-side -f -", .names.join(", "))]
    MissingCrds {
        /// Names of the definitions, `daskclusters.kubernetes.dask.org`.
        names: Vec<String>,
    },
    /// The account may not do what the operator has to.
    #[error(
        "the account of the operator (kubectl auth whoami) lacks permissions; bind it to the roles that the chart renders:{}",
        list(.rights)
    )]
    MissingRights {
        /// Each of them.
        rights: BTreeSet<Access>,
    },
    /// Health and metrics can't be served.
    #[error(transparent)]
    Admin(anyhow::Error),
    /// A migration has found something, or was not begun.
    #[error(transparent)]
    Migrate(anyhow::Error),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

fn list(rights: &BTreeSet<Access>) -> String {
    rights.iter().fold(String::new(), |mut lines, right| {
        let _ = write!(lines, "\n{right}");
        lines
    })
}

impl Failure {
    /// Exit code.
    fn code(&self) -> u8 {
        match self {
            Self::Migrate(_) => 1,
            Self::Unreachable { .. } => 69,
            Self::Other(_) => 70,
            Self::Admin(_) => 71,
            Self::MissingRights { .. } => 77,
            Self::Connection(_) | Self::MissingCrds { .. } => 78,
        }
    }

    /// The whole chain of causes. What others have to do with it rules no terminal, and forges no line: each but the first is
    /// indented.
    fn message(&self) -> String {
        let mut message = format!("error: {}", indented(self));
        let mut cause = self.source();
        while let Some(error) = cause {
            let _ = write!(message, "\n  because: {}", indented(error));
            cause = error.source();
        }
        message
    }

    /// Tells people on stderr and answers the exit code.
    pub fn report(&self) -> ExitCode {
        // Nobody is left to hear that stderr is closed.
        let _ = writeln!(io::stderr(), "{}", self.message());
        ExitCode::from(self.code())
    }
}

fn indented(error: &dyn Error) -> String {
    let text = error.to_string();
    let lines: Vec<_> = text.split('\n').map(|part| line(part, usize::MAX)).collect();
    lines.join("\n    ")
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use dask_wasm_operator_api::{Served, required_access};

    use super::*;

    #[test]
    fn every_missing_right_is_named() {
        let rights = required_access(Served::AllNamespaces, "dask-operator");
        let failure = Failure::MissingRights { rights: rights.clone() };
        let message = failure.message();
        for right in rights {
            assert!(
                message.contains(&format!("\n    {right}\n")) || message.ends_with(&format!("\n    {right}")),
                "{right}"
            );
        }
        assert!(message.contains("chart"));
        assert_eq!(failure.code(), 77);
    }

    #[test]
    fn missing_definitions_come_with_their_remedy() {
        let failure = Failure::MissingCrds { names: vec!["daskjobs.kubernetes.dask.org".into()] };
        assert_eq!(
            failure.message(),
            "error: the cluster has no daskjobs.kubernetes.dask.org; install the CRDs: dask-wasm-operator crds | \
             kubectl apply --server-side -f -"
        );
    }

    #[test]
    fn what_others_say_does_not_rule_the_terminal() {
        let failure = Failure::Other(anyhow::anyhow!("a webhook said\u{1b}[2J\u{202e}\r\nno"));
        assert_eq!(failure.message(), "error: a webhook said\\u{1b}[2J\\u{202e}\\r\n    no");
    }

    #[test]
    fn each_cause_is_told_once() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let source = Err::<(), _>(refused).context("connecting").unwrap_err();
        let failure = Failure::Unreachable { server: "https://127.0.0.1:1".into(), source };
        assert_eq!(
            failure.message(),
            "error: the API server https://127.0.0.1:1 can't be reached\n  because: connecting\n  because: connection refused"
        );
    }
}
