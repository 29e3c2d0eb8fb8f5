//! Connections to the API server, made once at start by the runtime.
//!
//! There are two, because what bounds a request would end a watch: kube's client by itself waits for ever for an answer that
//! never comes, and re-sends requests that must not be sent twice.

use std::{path::PathBuf, time::Duration};

use kube::{
    Client, Config,
    config::{InferConfigError, KubeConfigOptions, Kubeconfig},
};
use thiserror::Error;

/// How long to wait for a connection, and for the next byte of an answer.
const UNARY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the server keeps a watch open, in seconds. Short, so that a connection that died in silence is noticed soon.
pub(crate) const WATCH_SECONDS: u64 = 30;

/// How long to wait for the next byte on a watch's connection: longer than a watch without news lasts, and a bound for the
/// list before it.
const WATCH_READ_TIMEOUT: Duration = Duration::from_secs(WATCH_SECONDS + 10);

/// Where the API server is and who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    /// By a kubeconfig if there is one (`KUBECONFIG` or `~/.kube/config`), else as in a pod.
    Infer,
    /// By a kubeconfig.
    Kubeconfig {
        /// The file; none: `KUBECONFIG` or `~/.kube/config`.
        path: Option<PathBuf>,
        /// The context; none: its current one.
        context: Option<String>,
    },
    /// By the ServiceAccount of the pod that this process runs in.
    InCluster,
}

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a ServiceAccount.
    #[error("there is neither a usable kubeconfig nor a pod's ServiceAccount; give --kubeconfig or run in a pod")]
    Infer(#[source] Box<InferConfigError>),
    /// The kubeconfig can't be used.
    #[error("the kubeconfig {} can't be used", path.as_ref().map_or("of KUBECONFIG or ~/.kube/config".into(), |path| path.display().to_string()))]
    Kubeconfig {
        /// The file that was given.
        path: Option<PathBuf>,
        /// Why.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// Not in a pod, or in one without a mounted ServiceAccount token.
    #[error("the pod's ServiceAccount can't be used; is its token mounted (automountServiceAccountToken)?")]
    InCluster(#[source] Box<kube::config::InClusterError>),
    /// The certificates or the authentication given can't be used.
    #[error("no client can be made from the configuration")]
    Client(#[source] Box<kube::Error>),
}

/// Clients for one API server.
#[derive(Clone)]
pub struct Clients {
    /// For requests that are answered at once.
    pub unary: Client,
    /// For lists and watches.
    pub watch: Client,
    /// The namespace of the context or of the pod.
    pub namespace: String,
    /// The API server's URL, for messages.
    pub server: String,
}

impl Clients {
    /// Reads the configuration; the server is not asked yet.
    ///
    /// # Errors
    /// When there is no configuration, or none that can be used.
    pub async fn connect(connection: &Connection) -> Result<Self, ConnectError> {
        let config = config(connection).await?;
        let client = |read_timeout| {
            let mut config = config.clone();
            config.connect_timeout = Some(UNARY_TIMEOUT);
            config.write_timeout = Some(UNARY_TIMEOUT);
            config.read_timeout = Some(read_timeout);
            config.reset_reader_on_write = true;
            config.default_retry = false;
            Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))
        };
        Ok(Self {
            unary: client(UNARY_TIMEOUT)?,
            watch: client(WATCH_READ_TIMEOUT)?,
            namespace: config.default_namespace.clone(),
            server: config.cluster_url.to_string(),
        })
    }
}

async fn config(connection: &Connection) -> Result<Config, ConnectError> {
    match connection {
        Connection::Infer => Config::infer().await.map_err(|error| ConnectError::Infer(Box::new(error))),
        Connection::InCluster => Config::incluster().map_err(|error| ConnectError::InCluster(Box::new(error))),
        Connection::Kubeconfig { path, context } => {
            let failed = |error| ConnectError::Kubeconfig { path: path.clone(), source: Box::new(error) };
            let kubeconfig = match path {
                Some(path) => Kubeconfig::read_from(path),
                None => Kubeconfig::read(),
            };
            let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
            Config::from_custom_kubeconfig(kubeconfig.map_err(failed)?, &options).await.map_err(failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kubeconfig_that_is_not_there_is_named() {
        let connection = Connection::Kubeconfig { path: Some("/nonexistent/config".into()), context: None };
        let error = Clients::connect(&connection).await.err().unwrap();
        assert!(error.to_string().contains("/nonexistent/config"), "{error}");
    }
}
