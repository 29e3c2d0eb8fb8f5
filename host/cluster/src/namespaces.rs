//! Which namespaces are not there: asked at start, lest one that was misspelt goes unnoticed. `run` tells of them.

use std::collections::BTreeSet;

use dask_wasm_operator_api::Access;
use kube::Client;

use crate::{
    access::missing_access,
    request::{Call, RequestError, TOTAL_DEADLINE},
};

/// Those of `names` that do not exist; none if this process may not read Namespaces. Each must be a DNS label.
///
/// # Errors
/// When the server can't be asked.
pub async fn absent_namespaces(client: &Client, names: &BTreeSet<String>) -> Result<BTreeSet<String>, RequestError> {
    let right = Access::new("", "namespaces", "get", None);
    let mut absent = BTreeSet::new();
    if !missing_access(client, &BTreeSet::from([right])).await?.is_empty() {
        return Ok(absent);
    }
    for name in names {
        match Call::get(&format!("/api/v1/namespaces/{name}")).send(client, TOTAL_DEADLINE).await {
            Ok(_) => {}
            Err(error) if error.code() == 404 => {
                absent.insert(name.clone());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(absent)
}
