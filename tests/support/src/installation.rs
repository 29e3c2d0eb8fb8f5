//! The chart, rendered and applied: everything but the pod, in whose place the operator runs as a process of this machine.
//!
//! So whoever runs the operator by an [`Installation`] runs it with exactly the rights that the chart gives.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use kube::{
    Client, ResourceExt,
    api::{Api, DynamicObject, Patch, PatchParams},
    discovery::{Discovery, Scope},
};
use serde_json::Value;

use crate::{Kubeconfig, client::service_account_token, control_plane::ensure_helm, workspace};

const FIELD_MANAGER: &str = "helm";

/// Name of the release.
pub const RELEASE: &str = "dask";

/// An installed chart.
#[derive(Debug)]
pub struct Installation {
    /// Namespace of the release.
    pub namespace: String,
    /// Name of the operator's ServiceAccount.
    pub service_account: String,
    /// What a pod of the operator would be given, for the API server.
    pub kubeconfig: Kubeconfig,
}

/// SHA-256 in hexadecimal digits, as a DaskPlugin names the code that its grants are for.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The chart's directory.
pub fn chart() -> PathBuf {
    workspace().join("charts/dask-wasm-operator")
}

/// `helm template`: the manifests for these values.
///
/// # Errors
/// When helm refuses the values or the templates.
pub fn render_chart(namespace: &str, values: &Value) -> anyhow::Result<Vec<Value>> {
    let text = helm(&["template"], namespace, values)?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).context("parsing what helm rendered")?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// `helm install` into a namespace that exists: everything that the chart has but the definitions, its pod included.
///
/// # Errors
/// When helm or the API server refuse something.
pub fn install_chart(kubeconfig: &Path, namespace: &str, values: &Value) -> anyhow::Result<()> {
    let kubeconfig = kubeconfig.to_string_lossy();
    helm(&["install", "--skip-crds", "--kubeconfig", &kubeconfig], namespace, values).map(drop)
}

/// Runs helm for the chart as [`RELEASE`]; answers what it prints.
fn helm(arguments: &[&str], namespace: &str, values: &Value) -> anyhow::Result<String> {
    let helm = ensure_helm(&|line| eprintln!("{line}"))?;
    let file = tempfile::NamedTempFile::new().context("making a file for the chart's values")?;
    std::fs::write(file.path(), values.to_string()).context("writing the chart's values")?;
    let output = Command::new(helm)
        .args(arguments)
        .arg(RELEASE)
        .arg(chart())
        .args(["--namespace", namespace, "--values"])
        .arg(file.path())
        .output()
        .context("running helm")?;
    ensure!(output.status.success(), "helm {}: {}", arguments[0], String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).context("reading what helm prints")
}

/// Server-side apply of any objects, in their order; those without a namespace go to `namespace`.
///
/// # Errors
/// When the API server does not serve a kind, or refuses an object.
pub async fn apply_objects(client: &Client, namespace: &str, objects: &[Value]) -> anyhow::Result<()> {
    let discovery = Discovery::new(client.clone()).run_aggregated().await.context("asking which kinds there are")?;
    for value in objects {
        let object: DynamicObject = serde_json::from_value(value.clone()).context("reading an object")?;
        let name = object.name_any();
        let types = object.types.clone().context("an object has no kind")?;
        let kind = kube::core::GroupVersionKind::try_from(&types).context("reading the kind of an object")?;
        let (resource, capabilities) =
            discovery.resolve_gvk(&kind).with_context(|| format!("the API server does not serve {}", types.kind))?;
        let api: Api<DynamicObject> = match capabilities.scope {
            Scope::Cluster => Api::all_with(client.clone(), &resource),
            Scope::Namespaced => {
                let at = object.namespace().unwrap_or_else(|| namespace.to_owned());
                Api::namespaced_with(client.clone(), &at, &resource)
            }
        };
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&name, &parameters, &Patch::Apply(value))
            .await
            .with_context(|| format!("applying {} {name}", types.kind))?;
    }
    Ok(())
}

impl Installation {
    /// Applies the chart with these values to a namespace that exists; its CustomResourceDefinitions must be there.
    ///
    /// # Errors
    /// When helm or the API server refuse something.
    pub async fn apply(admin: &Kubeconfig, namespace: &str, values: &Value) -> anyhow::Result<Self> {
        let client = admin.client().await?;
        let rendered = render_chart(namespace, values)?;
        let kind = |object: &Value| object["kind"].as_str().unwrap_or_default().to_owned();
        let service_account = rendered.iter().find(|object| kind(object) == "ServiceAccount");
        let service_account = service_account
            .and_then(|object| object["metadata"]["name"].as_str())
            .context("the chart renders no ServiceAccount")?;
        let applied: Vec<_> = rendered
            .iter()
            .filter(|object| !matches!(kind(object).as_str(), "Deployment" | "CustomResourceDefinition"))
            .cloned()
            .collect();
        apply_objects(&client, namespace, &applied).await?;
        let token = service_account_token(&client, namespace, service_account).await?;
        let kubeconfig = admin.with_token(&token)?;
        Ok(Self { namespace: namespace.to_owned(), service_account: service_account.to_owned(), kubeconfig })
    }

    /// The identity in the audit log.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.service_account)
    }
}
