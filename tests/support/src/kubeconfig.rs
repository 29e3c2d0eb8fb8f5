//! Kubeconfigs: how to reach a cluster, and as whom.

use std::path::Path;

use anyhow::Context;
use k8s_openapi::ByteString;
use kube::Client;
use kube::config::{Config, KubeConfigOptions};
use serde_json::{Value, json};

/// The text of a kubeconfig with one cluster, one user and one context, in YAML.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kubeconfig(String);

impl Kubeconfig {
    /// For the server at `url`, whose certificate `authority`, in PEM, has signed.
    pub(crate) fn new(url: &str, authority: &str, token: &str) -> anyhow::Result<Self> {
        let authority = ByteString(authority.into());
        Self::from_value(&json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": NAME, "cluster": {"server": url, "certificate-authority-data": authority}}],
            "users": [{"name": NAME, "user": {"token": token}}],
            "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
            "current-context": NAME,
        }))
    }

    /// Reads any kubeconfig; relative paths in it become absolute.
    ///
    /// # Errors
    /// When the file cannot be read or is not a kubeconfig.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = kube::config::Kubeconfig::read_from(path)
            .with_context(|| format!("reading the kubeconfig {}", path.display()))?;
        Self::from_value(&serde_json::to_value(file).context("converting a kubeconfig")?)
    }

    fn from_value(value: &Value) -> anyhow::Result<Self> {
        serde_saphyr::to_string(value).map(Self).context("writing a kubeconfig as YAML")
    }

    /// The same cluster as seen by the bearer of `token`.
    ///
    /// # Errors
    /// When the kubeconfig names no current context.
    pub fn with_token(&self, token: &str) -> anyhow::Result<Self> {
        let mut value: Value = serde_saphyr::from_str(&self.0).context("parsing a kubeconfig")?;
        let current = value["current-context"].clone();
        let context = value["contexts"]
            .as_array_mut()
            .and_then(|contexts| contexts.iter_mut().find(|context| context["name"] == current))
            .with_context(|| format!("the kubeconfig has no context {current}, its current-context"))?;
        context["context"]["user"] = json!(NAME);
        let context = context.take();
        value["contexts"] = json!([context]);
        value["users"] = json!([{"name": NAME, "user": {"token": token}}]);
        Self::from_value(&value)
    }

    /// The same user at another server: the way through a proxy.
    ///
    /// # Errors
    /// When the kubeconfig is incomplete.
    pub fn with_server(&self, url: &str) -> anyhow::Result<Self> {
        let mut value: Value = serde_saphyr::from_str(&self.0).context("parsing a kubeconfig")?;
        let clusters = value["clusters"].as_array_mut().context("the kubeconfig has no clusters")?;
        clusters.iter_mut().for_each(|cluster| cluster["cluster"]["server"] = json!(url));
        Self::from_value(&value)
    }

    /// The YAML text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Writes the text to a file that only the owner can read.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(self.0.as_bytes()))
            .with_context(|| format!("writing the kubeconfig {}", path.display()))
    }

    /// A client for the current context.
    ///
    /// # Errors
    /// When the kubeconfig is incomplete; the server is not asked yet.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let parsed = kube::config::Kubeconfig::from_yaml(&self.0).context("parsing a kubeconfig")?;
        let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
            .await
            .context("understanding a kubeconfig")?;
        Client::try_from(config).context("making a client from a kubeconfig")
    }
}

/// Name of the cluster, user and context in kubeconfigs that are made here.
const NAME: &str = "dask-wasm-operator-local";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_replaces_every_other_identity() {
        let admin = Kubeconfig::new("https://127.0.0.1:1", "authority", "secret").unwrap();
        let other = admin.with_token("other").unwrap();
        assert!(admin.as_str().contains("secret"));
        assert!(other.as_str().contains("other"));
        assert!(!other.as_str().contains("secret"));
        assert!(other.as_str().contains("https://127.0.0.1:1"));
    }

    #[test]
    fn a_missing_context_is_named() {
        let error = Kubeconfig("current-context: x\ncontexts: []\n".into()).with_token("t").unwrap_err();
        assert_eq!(error.to_string(), "the kubeconfig has no context \"x\", its current-context");
    }
}
