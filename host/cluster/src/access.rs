//! Which rights this process lacks: asked at start, so that a missing rule is named before anything fails by it.

use std::collections::BTreeSet;

use dask_wasm_operator_api::Access;
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, ResourceRule, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SelfSubjectRulesReview,
    SelfSubjectRulesReviewSpec,
};
use kube::Client;

use crate::request::{Call, RequestError, TOTAL_DEADLINE};

/// Reviews on their way at once.
const CONCURRENCY: usize = 8;

/// What of `needed` this process may not do.
///
/// One review lists the rules of a namespace; what these don't settle, and rights for all namespaces, are asked for one by one.
///
/// # Errors
/// When the server can't be asked.
pub async fn missing_access(client: &Client, needed: &BTreeSet<Access>) -> Result<BTreeSet<Access>, RequestError> {
    let namespaces: BTreeSet<&str> = needed.iter().filter_map(|access| access.namespace.as_deref()).collect();
    let mut rules = Vec::new();
    for namespace in namespaces {
        rules.push((namespace, rules_in(client, namespace).await?));
    }
    let is_granted = |access: &Access| {
        rules.iter().any(|(namespace, rules)| {
            access.namespace.as_deref() == Some(namespace) && rules.iter().any(|rule| grants(rule, access))
        })
    };
    let doubtful: Vec<&Access> = needed.iter().filter(|access| !is_granted(access)).collect();
    stream::iter(doubtful)
        .map(async |access| Ok((!is_allowed(client, access).await?).then(|| access.clone())))
        .buffered(CONCURRENCY)
        .try_filter_map(async |missing| Ok(missing))
        .try_collect()
        .await
}

async fn rules_in(client: &Client, namespace: &str) -> Result<Vec<ResourceRule>, RequestError> {
    let review = SelfSubjectRulesReview {
        spec: SelfSubjectRulesReviewSpec { namespace: Some(namespace.to_owned()) },
        ..SelfSubjectRulesReview::default()
    };
    let call = Call::json(Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &review);
    let review: SelfSubjectRulesReview = call.send(client, TOTAL_DEADLINE).await?.decode()?;
    Ok(review.status.map(|status| status.resource_rules).unwrap_or_default())
}

async fn is_allowed(client: &Client, access: &Access) -> Result<bool, RequestError> {
    let attributes = ResourceAttributes {
        group: Some(access.group.to_owned()),
        resource: Some(access.resource.to_owned()),
        subresource: access.subresource.map(str::to_owned),
        verb: Some(access.verb.to_owned()),
        namespace: access.namespace.clone(),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let call = Call::json(Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review);
    let review: SelfSubjectAccessReview = call.send(client, TOTAL_DEADLINE).await?.decode()?;
    Ok(review.status.is_some_and(|status| status.allowed))
}

/// Whether a rule grants the right for every object name.
fn grants(rule: &ResourceRule, access: &Access) -> bool {
    let has = |list: Option<&Vec<String>>, wanted: &str| {
        list.is_some_and(|list| list.iter().any(|entry| entry == "*" || entry == wanted))
    };
    let resource = match access.subresource {
        Some(subresource) => format!("{}/{subresource}", access.resource),
        None => access.resource.to_owned(),
    };
    let any_of_subresource = access.subresource.map(|subresource| format!("*/{subresource}"));
    has(Some(&rule.verbs), access.verb)
        && has(rule.api_groups.as_ref(), access.group)
        && (has(rule.resources.as_ref(), &resource)
            || any_of_subresource.is_some_and(|resource| has(rule.resources.as_ref(), &resource)))
        && rule.resource_names.as_ref().is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> ResourceRule {
        let owned = |list: &[&str]| list.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>();
        ResourceRule {
            api_groups: Some(owned(groups)),
            resources: Some(owned(resources)),
            verbs: owned(verbs),
            resource_names: None,
        }
    }

    #[test]
    fn rules_grant_as_rbac_does() {
        let deployments = rule(&["apps"], &["deployments"], &["get", "patch"]);
        assert!(grants(&deployments, &Access::new("apps", "deployments", "patch", None)));
        assert!(!grants(&deployments, &Access::new("apps", "deployments", "delete", None)));
        assert!(!grants(&deployments, &Access::new("apps", "deployments/status", "patch", None)));
        assert!(!grants(&deployments, &Access::new("", "deployments", "get", None)));
        assert!(grants(&rule(&["*"], &["*"], &["*"]), &Access::new("x", "y/z", "w", None)));
        assert!(grants(
            &rule(&["apps"], &["*/status"], &["patch"]),
            &Access::new("apps", "deployments/status", "patch", None)
        ));
        let named = ResourceRule { resource_names: Some(vec!["one".into()]), ..deployments };
        assert!(!grants(&named, &Access::new("apps", "deployments", "get", None)));
    }
}
