//! What the handler reads: the Service of a scheduler, and its own configuration.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The port of the dashboard where a Service does not name one: Dask's default.
const DASHBOARD_PORT: u16 = 8787;

/// Names of the dashboard's port, the preferred one first. The operator itself uses the first.
const DASHBOARD_NAMES: [&str; 2] = ["http-dashboard", "dashboard"];

/// The fields of a Service that matter here.
#[derive(Deserialize)]
pub(crate) struct Service<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(default)]
    spec: Spec<'a>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow, default)]
    labels: BTreeMap<&'a str, String>,
}

#[derive(Default, Deserialize)]
struct Spec<'a> {
    #[serde(borrow, default)]
    ports: Vec<Port<'a>>,
}

#[derive(Deserialize)]
struct Port<'a> {
    name: Option<&'a str>,
    port: u16,
}

impl Service<'_> {
    /// The Dask cluster that it belongs to.
    pub(crate) fn cluster(&self) -> Option<&str> {
        self.metadata.labels.get("dask.org/cluster-name").map(String::as_str)
    }

    /// The port of the dashboard.
    pub(crate) fn dashboard_port(&self) -> u16 {
        let named = |name| self.spec.ports.iter().find(|port| port.name == Some(name));
        DASHBOARD_NAMES.into_iter().find_map(named).map_or(DASHBOARD_PORT, |port| port.port)
    }
}

/// `spec.config` of the DaskPlugin.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The Istio Gateway, `namespace/name`.
    pub(crate) gateway: String,
    /// The host under which a dashboard is reached; `{cluster}` and `{namespace}` are filled in.
    host: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { gateway: "istio-system/public".into(), host: "{cluster}.{namespace}.dask.local".into() }
    }
}

impl Config {
    /// The host of one cluster's dashboard.
    pub(crate) fn host(&self, cluster: &str, namespace: &str) -> String {
        self.host.replace("{cluster}", cluster).replace("{namespace}", namespace)
    }
}
