//! Labels and annotations: what is propagated from a custom resource to its children, and which labels are reserved.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Environment;
use crate::{names::OWN_PREFIXES, spec};

/// The cluster that an object belongs to.
pub const CLUSTER_NAME_LABEL: &str = "dask.org/cluster-name";
/// `scheduler`, `worker`, `workergroup`.
pub const COMPONENT_LABEL: &str = "dask.org/component";
/// The worker group that a worker belongs to.
pub const WORKER_GROUP_NAME_LABEL: &str = "dask.org/workergroup-name";
/// Istio's sidecar would intercept Dask's own protocol, so it is off unless somebody asks for it.
const ISTIO_INJECTION_LABEL: (&str, &str) = ("sidecar.istio.io/inject", "false");

/// How labels and annotations begin that are not propagated unless something else is set: those of tools that speak of the
/// very object they stand on. The Python operator leaves out the first and the third, of annotations.
pub const EXCLUDED_PREFIXES: [&str; 6] =
    ["kopf.zalando.org", "kopf.dev/", "kubectl.kubernetes.io", "argocd.argoproj.io/", "helm.sh/", "meta.helm.sh/"];

/// A map of labels or annotations.
pub(super) type Entries = BTreeMap<String, String>;

impl Environment {
    /// What children inherit of an object's labels or annotations.
    pub(super) fn inherited(&self, entries: &Entries) -> Entries {
        let excluded = self.excluded_prefixes.iter().map(String::as_str);
        let prefixes: Vec<_> = excluded.filter(|prefix| !prefix.is_empty()).chain(OWN_PREFIXES).collect();
        let is_excluded = |key: &str| prefixes.iter().any(|prefix| key.starts_with(prefix));
        entries.iter().filter(|(key, _)| !is_excluded(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// Labels and annotations of a child: inherited ones, over them the section's own (`spec.worker.metadata`, say), over them
/// the reserved labels.
pub(super) struct ChildMetadata {
    labels: Entries,
    annotations: Entries,
}

impl ChildMetadata {
    pub(super) fn new(labels: Entries, annotations: Entries, section: Option<&spec::Metadata>) -> Self {
        let mut child = Self { labels, annotations };
        if let Some(section) = section {
            child.labels.extend(section.labels.clone());
            child.annotations.extend(section.annotations.clone());
        }
        child
    }

    pub(super) fn reserve<const N: usize>(mut self, labels: [(&str, &str); N]) -> Self {
        self.labels.extend(labels.map(|(key, value)| (key.to_owned(), value.to_owned())));
        self
    }

    /// Adds what is not there yet.
    pub(super) fn complete(mut self, labels: &Entries) -> Self {
        for (key, value) in labels {
            self.labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
        self
    }

    pub(super) fn without_istio(self) -> Self {
        let (key, value) = ISTIO_INJECTION_LABEL;
        self.complete(&Entries::from([(key.to_owned(), value.to_owned())]))
    }

    /// Object metadata.
    pub(super) fn named(&self, name: &str) -> Value {
        json!({"name": name, "labels": self.labels, "annotations": self.annotations})
    }

    /// Metadata of a pod template.
    pub(super) fn of_template(&self) -> Value {
        json!({"labels": self.labels, "annotations": self.annotations})
    }

    pub(super) fn labels(&self) -> &Entries {
        &self.labels
    }
}
