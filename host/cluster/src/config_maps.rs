//! The content of ConfigMaps, which may be a megabyte each and which no watch keeps.

use std::collections::BTreeMap;

use dask_wasm_operator_core::{object::NamespacedName, spec::code_resource};
use kube::Client;
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::{
    path,
    request::{Call, RequestError, TOTAL_DEADLINE},
};

/// ConfigMaps that are read at once: a hundred plugins that are loaded at start are not all in memory.
const AT_ONCE: usize = 4;

/// Reads ConfigMaps of one namespace.
pub struct ConfigMaps {
    client: Client,
    namespace: String,
    places: Semaphore,
}

/// What a ConfigMap holds.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Content {
    /// Texts, by key.
    pub data: BTreeMap<String, String>,
    /// Bytes in Base64, by key.
    pub binary_data: BTreeMap<String, String>,
}

impl ConfigMaps {
    /// Those of a namespace.
    pub fn new(client: Client, namespace: String) -> Self {
        Self { client, namespace, places: Semaphore::new(AT_ONCE) }
    }

    /// The content of one, as it is now.
    ///
    /// # Errors
    /// When the server does not answer with a ConfigMap; the code is 404 where there is none.
    pub async fn read(&self, name: &str) -> Result<Content, RequestError> {
        let _place = self.places.acquire().await.expect("the semaphore is never closed");
        let path = path::object(&code_resource(), &NamespacedName::new(&self.namespace, name))
            .map_err(|error| RequestError::Transport(error.to_string()))?;
        Call::get(&path).send(&self.client, TOTAL_DEADLINE).await?.decode()
    }
}
