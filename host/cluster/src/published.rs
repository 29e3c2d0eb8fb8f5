//! Which fields of pods and Services the API server knows: from the schemas that it publishes (OpenAPI v3), which every account
//! may read. Asked at start and now and then: a server that was upgraded knows more.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use dask_wasm_operator_core::{
    object::GroupVersionKind,
    schema::{KnownFields, OpenApi, Schema},
};
use kube::Client;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::request::{Call, RequestError, TOTAL_DEADLINE};

/// Names the documents, each with an address that changes with its content.
const INDEX: &str = "/openapi/v3";

/// The document of the core group, where pods and Services are.
const CORE: &str = "api/v1";

/// The schemas as they were when last asked for.
pub struct PublishedFields {
    client: Client,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    /// Of the document that they were read from.
    address: String,
    fields: Arc<KnownFields>,
}

impl PublishedFields {
    /// Knows nothing yet.
    pub fn new(client: Client) -> Self {
        Self { client, known: RwLock::default() }
    }

    /// As last known.
    pub fn known(&self) -> Arc<KnownFields> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner).fields)
    }

    /// Asks the server. Answers whether anything changed.
    ///
    /// # Errors
    /// When it can't be asked, or publishes nothing; what was known before stays.
    pub async fn refresh(&self) -> Result<bool, RequestError> {
        let index: Index = Call::get(INDEX).send(&self.client, TOTAL_DEADLINE).await?.decode()?;
        let address = index.paths.get(CORE).map(|document| document.address.as_str());
        // One of another host is none of its own.
        let address =
            address.filter(|address| address.starts_with(INDEX)).ok_or_else(|| missing("a document of v1"))?;
        if self.known.read().unwrap_or_else(PoisonError::into_inner).address == address {
            return Ok(false);
        }
        let answer = Call::get(address).send(&self.client, TOTAL_DEADLINE).await?;
        let fields = Arc::new(answer.decode::<Document<'_>>()?.known_fields()?);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let changed = known.fields != fields;
        *known = Known { address: address.to_owned(), fields };
        Ok(changed)
    }
}

fn missing(what: &str) -> RequestError {
    RequestError::Decode(format!("{what} is not published"))
}

#[derive(Deserialize)]
struct Index {
    paths: BTreeMap<String, Published>,
}

#[derive(Deserialize)]
struct Published {
    #[serde(rename = "serverRelativeURL")]
    address: String,
}

/// The published schemas of a group and version. There are many more than are looked into.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    components: Components<'a>,
}

#[derive(Deserialize)]
struct Components<'a> {
    #[serde(borrow)]
    schemas: BTreeMap<String, &'a RawValue>,
}

/// A schema of a kind.
#[derive(Deserialize)]
struct Kind {
    #[serde(default, rename = "x-kubernetes-group-version-kind")]
    kinds: Vec<GroupVersionKind>,
    #[serde(default)]
    properties: BTreeMap<String, OpenApi>,
}

impl Document<'_> {
    fn known_fields(&self) -> Result<KnownFields, RequestError> {
        Ok(KnownFields { pod: Some(self.spec_of("Pod")?), service: Some(self.spec_of("Service")?) })
    }

    fn spec_of(&self, kind: &str) -> Result<Schema, RequestError> {
        let wanted = GroupVersionKind::new("", "v1", kind);
        let kinds =
            self.components.schemas.values().filter_map(|schema| serde_json::from_str::<Kind>(schema.get()).ok());
        let found = kinds.into_iter().find(|found| found.kinds.contains(&wanted));
        let spec = found.and_then(|mut found| found.properties.remove("spec"));
        let spec = spec.ok_or_else(|| missing(&format!("the schema of {kind}")))?;
        Ok(Schema::new(spec, |name| serde_json::from_str(self.components.schemas.get(name)?.get()).ok()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(schemas: serde_json::Value) -> Result<KnownFields, RequestError> {
        let text = json!({"openapi": "3.0.0", "components": {"schemas": schemas}}).to_string();
        serde_json::from_str::<Document<'_>>(&text).unwrap().known_fields()
    }

    fn kind(kind: &str, spec: &str) -> serde_json::Value {
        let reference = json!({"allOf": [{"$ref": format!("#/components/schemas/{spec}")}], "default": {}});
        let kinds = json!([{"group": "", "version": "v1", "kind": kind}]);
        json!({"type": "object", "properties": {"spec": reference}, "x-kubernetes-group-version-kind": kinds})
    }

    #[test]
    fn kinds_are_found_by_what_they_are_and_not_by_name() {
        let spec = |field: &str| json!({"type": "object", "properties": {field: {"type": "string"}}});
        let mut schemas = json!({
            "x.Pod": kind("Pod", "x.PodSpec"), "x.PodSpec": spec("nodeName"),
            "x.Service": kind("Service", "x.ServiceSpec"), "x.ServiceSpec": spec("clusterIP"),
            "x.Other": {"oneOf": [{"type": "string"}]},
        });
        let known = document(schemas.clone()).unwrap();
        let mut pod = json!({"nodeName": "n", "clusterIP": "None"});
        assert_eq!(known.pod.unwrap().prune(&mut pod).within("spec"), "spec.clusterIP");
        assert_eq!(pod, json!({"nodeName": "n"}));
        schemas["x.Service"] = json!({});
        assert!(document(schemas).unwrap_err().to_string().contains("the schema of Service is not published"));
    }
}
