//! What tests do with a client again and again.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};

use crate::wait::wait_for;

/// Field manager of objects that the tests apply.
const FIELD_MANAGER: &str = "dask-wasm-operator-tests";

/// A CRD is established within a second on an idle machine.
const ESTABLISHED_TIMEOUT: Duration = Duration::from_secs(60);

/// Applies the CRDs and waits until the API server serves all of them.
///
/// # Errors
/// When the API server refuses one, or does not establish it in time.
pub async fn apply_crds(client: &Client, crds: &[CustomResourceDefinition]) -> anyhow::Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    for crd in crds {
        let name = crd.name_any();
        api.patch(&name, &parameters, &Patch::Apply(crd)).await.with_context(|| format!("applying the CRD {name}"))?;
    }
    for crd in crds {
        let name = crd.name_any();
        wait_for(&format!("the CRD {name} to be established"), ESTABLISHED_TIMEOUT, async || {
            Ok(is_established(&api.get(&name).await?).then_some(()))
        })
        .await?;
    }
    Ok(())
}

fn is_established(crd: &CustomResourceDefinition) -> bool {
    let conditions = crd.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
    })
}

/// A token of the ServiceAccount for the API server, good for an hour.
///
/// # Errors
/// When there is no such ServiceAccount.
pub async fn service_account_token(client: &Client, namespace: &str, name: &str) -> anyhow::Result<String> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec { expiration_seconds: Some(3600), ..Default::default() }),
        ..Default::default()
    };
    let answer = api
        .create_token_request(name, &PostParams::default(), &request)
        .await
        .with_context(|| format!("requesting a token of the ServiceAccount {namespace}/{name}"))?;
    answer.status.and_then(|status| status.token).context("the answer to a TokenRequest has no token")
}
