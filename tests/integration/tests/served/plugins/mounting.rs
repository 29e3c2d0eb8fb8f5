//! Putting plugins onto a stage.

use std::sync::LazyLock;

use anyhow::Context;
use dask_wasm_operator_test_support::sha256;
use k8s_openapi::ByteString;
use odd_guest::Description;
use serde_json::{Value, json};

use crate::{
    manifests::odd_subject,
    objects::{CONFIG_MAP, PLUGIN, text},
    stage::Stage,
};

type Built = LazyLock<Result<Vec<u8>, String>>;

fn build(package: &str) -> Result<Vec<u8>, String> {
    let path = dask_operator_componentize::build(package).map_err(|error| error.to_string())?;
    std::fs::read(path).map_err(|error| error.to_string())
}

fn built(package: &'static Built) -> anyhow::Result<&'static [u8]> {
    package.as_ref().map(Vec::as_slice).map_err(|error| anyhow::anyhow!("{error}")).context("building a guest")
}

/// The guest that does what it is told.
pub(crate) fn odd() -> anyhow::Result<&'static [u8]> {
    static ODD: Built = LazyLock::new(|| build("odd-guest"));
    built(&ODD)
}

/// The odd guest with another description of itself.
pub(crate) fn odd_that_says(description: Description) -> anyhow::Result<Vec<u8>> {
    Ok(description.of(odd()?))
}

/// The guest that returns the children of its configuration.
pub(crate) fn puppet() -> anyhow::Result<Vec<u8>> {
    odd_that_says(Description::Puppet)
}

/// The guest that uses WASI.
pub(crate) fn wasi() -> anyhow::Result<&'static [u8]> {
    static WASI: Built = LazyLock::new(|| build("wasi-guest"));
    built(&WASI)
}

/// The example plugin.
pub(crate) fn istio() -> anyhow::Result<&'static [u8]> {
    static ISTIO: Built = LazyLock::new(|| build("istio-virtual-service"));
    built(&ISTIO)
}

/// The ConfigMap that holds the code of a plugin.
pub(crate) fn code(plugin: &str, bytes: &[u8]) -> Value {
    let bytes = ByteString(bytes.to_vec());
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": plugin},
        "binaryData": {format!("{plugin}.wasm"): bytes},
    })
}

/// A DaskPlugin whose code is in the ConfigMap of its name; `spec` is what it has beside the source.
pub(crate) fn plugin(name: &str, spec: &Value) -> Value {
    let mut plugin = json!({
        "apiVersion": "plugins.dask.org/v1alpha1", "kind": "DaskPlugin", "metadata": {"name": name}, "spec": spec,
    });
    plugin["spec"]["source"]["configMap"] = json!({"name": name, "keys": [format!("{name}.wasm")]});
    plugin
}

impl Stage {
    /// Creates a plugin and its code.
    pub(crate) async fn mount(&self, name: &str, bytes: &[u8], spec: &Value) -> anyhow::Result<()> {
        self.create(&code(name, bytes)).await?;
        self.create(&plugin(name, spec)).await?;
        Ok(())
    }

    /// Mounts the odd guest with a behaviour and waits until it is ready.
    pub(crate) async fn mount_odd(&self, name: &str, behaviour: &str) -> anyhow::Result<()> {
        self.mount(name, odd()?, &json!({"config": {"do": behaviour}})).await?;
        self.until_ready(name).await?;
        Ok(())
    }

    /// Mounts the puppet with a configuration and grants, and waits until it is ready.
    pub(crate) async fn mount_puppet(&self, name: &str, config: &Value, grants: &Value) -> anyhow::Result<()> {
        let component = puppet()?;
        let source = json!({"sha256": sha256(&component)});
        self.mount(name, &component, &json!({"config": config, "grants": grants, "source": source})).await?;
        self.until_ready(name).await?;
        Ok(())
    }

    /// Tells the puppet what to answer for a subject.
    pub(crate) async fn script(&self, subject: &str, script: &Value) -> anyhow::Result<()> {
        let annotations = json!({odd_guest::SCRIPT: script.to_string()});
        self.merge(CONFIG_MAP, subject, &json!({"metadata": {"annotations": annotations}})).await?;
        Ok(())
    }

    /// Replaces the code of a plugin.
    pub(crate) async fn replace_code(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        self.merge(CONFIG_MAP, name, &json!({"binaryData": code(name, bytes)["binaryData"]})).await?;
        Ok(())
    }

    /// Waits until a plugin serves calls.
    pub(crate) async fn until_ready(&self, plugin: &str) -> anyhow::Result<Value> {
        self.until(PLUGIN, plugin, "Ready", |plugin| {
            plugin["status"]["state"] == "Ready"
                && plugin["status"]["observedGeneration"] == plugin["metadata"]["generation"]
        })
        .await
    }

    /// Waits until code of these bytes serves the calls of a plugin.
    pub(crate) async fn until_served_by(&self, plugin: &str, bytes: &[u8]) -> anyhow::Result<Value> {
        let digest = sha256(bytes);
        self.until(PLUGIN, plugin, &format!("Ready with {digest}"), |plugin| {
            plugin["status"]["state"] == "Ready" && plugin["status"]["digest"] == digest
        })
        .await
    }

    /// Waits until a plugin is in this state for this reason, and answers the message.
    pub(crate) async fn until_state(&self, plugin: &str, state: &str, reason: &str) -> anyhow::Result<String> {
        let plugin = self
            .until(PLUGIN, plugin, &format!("{state} ({reason})"), |plugin| {
                (text(plugin, "/status/state"), text(plugin, "/status/reason")) == (state, reason)
            })
            .await?;
        Ok(text(&plugin, "/status/message").to_owned())
    }

    /// Creates a subject of the odd guest.
    pub(crate) async fn subject(&self, name: &str, data: &Value) -> anyhow::Result<Value> {
        self.create(&odd_subject(name, data)).await
    }

    /// A plugin called `mirror` beside whatever is tested still does its work, for a new subject.
    pub(crate) async fn the_mirror_works(&self, subject: &str) -> anyhow::Result<()> {
        self.subject(subject, &json!({"still": "well"})).await?;
        self.until(CONFIG_MAP, &format!("{subject}-still"), "there", |child| child["data"]["value"] == "well").await?;
        Ok(())
    }
}
