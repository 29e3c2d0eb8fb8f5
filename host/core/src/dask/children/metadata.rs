//! Labels and annotations: what is propagated from a custom resource to its children, and which labels are reserved.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{dask::environment::Environment, names::OWN_PREFIXES, spec};

/// Istio's sidecar would intercept Dask's own protocol, so it is off unless somebody asks for it.
const ISTIO_INJECTION_LABEL: (&str, &str) = ("sidecar.istio.io/inject", "false");

/// A map of labels or annotations.
pub(in crate::dask) type Entries = BTreeMap<String, String>;

impl Environment {
    /// What children inherit of an object's labels or annotations.
    pub(in crate::dask) fn inherited(&self, entries: &Entries) -> Entries {
        let excluded = self.excluded_prefixes.iter().map(String::as_str);
        let prefixes: Vec<_> = excluded.filter(|prefix| !prefix.is_empty()).chain(OWN_PREFIXES).collect();
        let is_excluded = |key: &str| prefixes.iter().any(|prefix| key.starts_with(prefix));
        entries.iter().filter(|(key, _)| !is_excluded(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// Labels and annotations of a child: inherited ones, over them the section's own (`spec.worker.metadata`, say), over them
/// the reserved labels.
pub(in crate::dask) struct ChildMetadata {
    labels: Entries,
    annotations: Entries,
}

impl ChildMetadata {
    pub(in crate::dask) fn new(labels: Entries, annotations: Entries, section: Option<&spec::Metadata>) -> Self {
        let mut child = Self { labels, annotations };
        if let Some(section) = section {
            child.labels.extend(section.labels.clone());
            child.annotations.extend(section.annotations.clone());
        }
        child
    }

    pub(in crate::dask) fn reserve<const N: usize>(mut self, labels: [(&str, &str); N]) -> Self {
        self.labels.extend(labels.map(|(key, value)| (key.to_owned(), value.to_owned())));
        self
    }

    /// Adds what is not there yet.
    pub(in crate::dask) fn complete(mut self, labels: &Entries) -> Self {
        for (key, value) in labels {
            self.labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
        self
    }

    pub(in crate::dask) fn without_istio(self) -> Self {
        let (key, value) = ISTIO_INJECTION_LABEL;
        self.complete(&Entries::from([(key.to_owned(), value.to_owned())]))
    }

    /// Object metadata.
    pub(in crate::dask) fn named(&self, name: &str) -> Value {
        json!({"name": name, "labels": self.labels, "annotations": self.annotations})
    }

    /// Metadata of a pod template.
    pub(in crate::dask) fn of_template(&self) -> Value {
        json!({"labels": self.labels, "annotations": self.annotations})
    }

    pub(in crate::dask) fn labels(&self) -> &Entries {
        &self.labels
    }
}
