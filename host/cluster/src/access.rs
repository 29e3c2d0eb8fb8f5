//! Which rights this process lacks: asked at start, so that a missing rule is named before anything fails by it.

use std::fmt;

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

/// A right that is needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// API group, `""` for the core group.
    pub group: String,
    /// Plural name, `deployments`.
    pub resource: String,
    /// `status`, for instance.
    pub subresource: Option<String>,
    /// `patch`, for instance.
    pub verb: String,
    /// One namespace; none: all of them.
    pub namespace: Option<String>,
}

/// `patch deployments.apps/status in all namespaces`, as `kubectl auth can-i` names it.
impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if let Some(subresource) = &self.subresource {
            write!(f, "/{subresource}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => f.write_str(" in all namespaces"),
        }
    }
}

impl Right {
    /// `resource` as rules name it: a subresource stands behind a slash, `deployments/status`.
    pub fn new(group: &str, resource: &str, verb: &str, namespace: Option<&str>) -> Self {
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (resource, None),
        };
        Self {
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource,
            verb: verb.to_owned(),
            namespace: namespace.map(str::to_owned),
        }
    }

    /// As rules name it, `deployments/status`.
    fn rule_resource(&self) -> String {
        match &self.subresource {
            Some(subresource) => format!("{}/{subresource}", self.resource),
            None => self.resource.clone(),
        }
    }
}

/// Those of the rights that this process does not have, in their order.
///
/// One review lists the rules of a namespace; what these don't settle, and rights for all namespaces, are asked for one by one.
///
/// # Errors
/// When the server can't be asked.
pub async fn missing_rights(client: &Client, rights: &[Right]) -> Result<Vec<Right>, RequestError> {
    let mut namespaces: Vec<&str> = rights.iter().filter_map(|right| right.namespace.as_deref()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    let mut rules = Vec::new();
    for namespace in namespaces {
        rules.push((namespace, rules_in(client, namespace).await?));
    }
    let is_granted = |right: &Right| {
        rules.iter().any(|(namespace, rules)| {
            right.namespace.as_deref() == Some(namespace) && rules.iter().any(|rule| grants(rule, right))
        })
    };
    let doubtful: Vec<&Right> = rights.iter().filter(|right| !is_granted(right)).collect();
    stream::iter(doubtful)
        .map(async |right| Ok((!is_allowed(client, right).await?).then(|| right.clone())))
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

async fn is_allowed(client: &Client, right: &Right) -> Result<bool, RequestError> {
    let attributes = ResourceAttributes {
        group: Some(right.group.clone()),
        resource: Some(right.resource.clone()),
        subresource: right.subresource.clone(),
        verb: Some(right.verb.clone()),
        namespace: right.namespace.clone(),
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
fn grants(rule: &ResourceRule, right: &Right) -> bool {
    let has = |list: Option<&Vec<String>>, wanted: &str| {
        list.is_some_and(|list| list.iter().any(|entry| entry == "*" || entry == wanted))
    };
    let resource = right.rule_resource();
    let any_of_subresource = right.subresource.as_ref().map(|subresource| format!("*/{subresource}"));
    has(Some(&rule.verbs), &right.verb)
        && has(rule.api_groups.as_ref(), &right.group)
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
        assert!(grants(&deployments, &Right::new("apps", "deployments", "patch", None)));
        assert!(!grants(&deployments, &Right::new("apps", "deployments", "delete", None)));
        assert!(!grants(&deployments, &Right::new("apps", "deployments/status", "patch", None)));
        assert!(!grants(&deployments, &Right::new("", "deployments", "get", None)));
        assert!(grants(&rule(&["*"], &["*"], &["*"]), &Right::new("x", "y/z", "w", None)));
        assert!(grants(
            &rule(&["apps"], &["*/status"], &["patch"]),
            &Right::new("apps", "deployments/status", "patch", None)
        ));
        let named = ResourceRule { resource_names: Some(vec!["one".into()]), ..deployments };
        assert!(!grants(&named, &Right::new("apps", "deployments", "get", None)));
    }

    #[test]
    fn a_right_reads_as_kubectl_names_it() {
        let status = Right::new("apps", "deployments/status", "patch", None);
        assert_eq!(status.to_string(), "patch deployments.apps/status in all namespaces");
        let secrets = Right::new("", "secrets", "get", Some("n"));
        assert_eq!(secrets.to_string(), "get secrets in namespace n");
    }
}
