//! In whose name something is written, and what to do where the API server does not let it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    action::WriteError,
    names::{DNS_SUBDOMAIN_MAX, NameError, check_dns_label, check_dns_subdomain},
};

/// By whose RBAC permissions the API server judges a write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Identity {
    /// The operator's own account.
    #[default]
    Operator,
    /// An account that the operator impersonates.
    Impersonated(ServiceAccount),
}

/// A ServiceAccount, by names that Kubernetes accepts. It need not exist.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceAccount {
    namespace: String,
    name: String,
}

impl ServiceAccount {
    /// The account of this name.
    ///
    /// # Errors
    /// What is wrong with one of the names.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        check_dns_label(namespace)?;
        check_dns_subdomain(name)?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// As the API server calls it.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Identity {
    /// What an administrator can do where a write in this name was forbidden for want of a permission, as a sentence that
    /// follows the error. Empty: the write failed for something else, or the operator's own permissions do not suffice.
    pub fn remedy(&self, error: &WriteError) -> String {
        let (Self::Impersonated(account), WriteError::Refused { code: 403, message, .. }) = (self, error) else {
            return String::new();
        };
        let Some(denied) = Denied::read(message) else { return String::new() };
        if denied.verb.starts_with("impersonate") {
            let ServiceAccount { namespace, name } = account;
            return format!(
                "; the operator may not write in the name of ServiceAccount {account}: give it the rule {{apiGroups: [\"\"], resources: [serviceaccounts], resourceNames: [{name}], verbs: [impersonate]}} in namespace {namespace} (the chart does for each of its `plugins` with a serviceAccountName)"
            );
        }
        if denied.user != account.user() {
            return String::new();
        }
        // Who may not do the one may not do the other either, as a rule, and a server-side apply that creates needs both.
        let verbs = if matches!(denied.verb, "create" | "patch") { "create, patch" } else { denied.verb };
        let (group, resource) = (denied.group, denied.resource);
        let place = match denied.namespace {
            Some(namespace) => format!("a Role in namespace {namespace}"),
            None => "a ClusterRole".to_owned(),
        };
        format!(
            "; bind ServiceAccount {account} to {place} with the rule {{apiGroups: [\"{group}\"], resources: [{resource}], verbs: [{verbs}]}}"
        )
    }
}

/// What the API server says that somebody may not do.
#[derive(Debug, PartialEq)]
struct Denied<'a> {
    user: &'a str,
    verb: &'a str,
    resource: &'a str,
    group: &'a str,
    namespace: Option<&'a str>,
}

impl<'a> Denied<'a> {
    /// Reads `configmaps "a" is forbidden: User "u" cannot patch resource "configmaps" in API group "" in the namespace "n"`, as
    /// Kubernetes words it (`apiserver/pkg/endpoints/handlers/responsewriters/errors.go`). None: the words say something else.
    /// Webhooks and policies forbid, too, and may quote what a plugin wrote: only what stands where Kubernetes puts it counts.
    fn read(message: &'a str) -> Option<Self> {
        let (object, rest) = message.split_once(" is forbidden: User \"")?;
        let (kind, name) = object.split_once(" \"")?;
        [kind, name.strip_suffix('"')?].into_iter().all(is_plain).then_some(())?;
        let (user, rest) = rest.split_once("\" cannot ")?;
        let (verb, rest) = rest.split_once(" resource \"")?;
        let (resource, rest) = rest.split_once("\" in API group \"")?;
        let (group, rest) = rest.split_once('"')?;
        let namespace = match rest.strip_prefix(" in the namespace \"") {
            Some(rest) => Some(rest.split_once('"')?.0),
            None => rest.starts_with(" at the cluster scope").then_some(None)?,
        };
        let words = [user, verb, resource, group, namespace.unwrap_or_default()];
        words.into_iter().all(is_plain).then_some(Self { user, verb, resource, group, namespace })
    }
}

/// Whether a text has nothing but what names of users, verbs and resources consist of.
fn is_plain(text: &str) -> bool {
    let length = 2 * DNS_SUBDOMAIN_MAX;
    text.len() <= length && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:/*_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{GroupVersionKind, NamespacedName, ObjectKey};

    fn robot() -> Identity {
        Identity::Impersonated(ServiceAccount::new("ops", "robot").unwrap())
    }

    fn refused(code: u16, message: &str) -> WriteError {
        let kind = GroupVersionKind::new("", "v1", "ConfigMap");
        let object = ObjectKey { kind, at: NamespacedName::new("n", "a") };
        let message = message.to_owned();
        WriteError::Refused { object, code, reason: "Forbidden".to_owned(), message, fields: Vec::new() }
    }

    #[test]
    fn only_names_that_kubernetes_accepts_make_an_account() {
        assert_eq!(ServiceAccount::new("ops", "a.robot").unwrap().user(), "system:serviceaccount:ops:a.robot");
        for (namespace, name) in
            [("ops", ""), ("", "a"), ("ops", "a:b"), ("ops", "a\r\nX-Remote-User: b"), ("a.b", "c")]
        {
            assert!(ServiceAccount::new(namespace, name).is_err(), "{namespace:?} {name:?}");
        }
    }

    /// In the words of Kubernetes 1.36.
    #[test]
    fn a_missing_permission_is_told_as_the_rule_that_gives_it() {
        let user = "User \"system:serviceaccount:ops:robot\"";
        for (words, remedy) in [
            (
                format!(
                    "configmaps \"a\" is forbidden: {user} cannot patch resource \"configmaps\" in API group \"\" in the namespace \"n\""
                ),
                "; bind ServiceAccount ops/robot to a Role in namespace n with the rule {apiGroups: [\"\"], resources: [configmaps], verbs: [create, patch]}",
            ),
            (
                format!(
                    "x \"a\" is forbidden: {user} cannot delete resource \"x\" in API group \"g.io\" at the cluster scope: RBAC: no"
                ),
                "; bind ServiceAccount ops/robot to a ClusterRole with the rule {apiGroups: [\"g.io\"], resources: [x], verbs: [delete]}",
            ),
        ] {
            assert_eq!(robot().remedy(&refused(403, &words)), remedy);
            assert_eq!(Identity::Operator.remedy(&refused(403, &words)), "", "that is the chart's table");
            assert_eq!(robot().remedy(&refused(422, &words)), "");
        }
        let impersonation = "serviceaccounts \"robot\" is forbidden: User \"system:serviceaccount:ops:operator\" cannot impersonate resource \"serviceaccounts\" in API group \"\" in the namespace \"ops\"";
        let remedy = robot().remedy(&refused(403, impersonation));
        assert!(remedy.contains("resourceNames: [robot], verbs: [impersonate]} in namespace ops"), "{remedy}");
    }

    #[test]
    fn whatever_else_is_forbidden_is_no_want_of_a_permission() {
        for words in [
            "configmaps \"a\" is forbidden: exceeded quota: few",
            "admission webhook \"w\" denied the request: User \"x",
            "a \"b\" is forbidden: User \"system:serviceaccount:ops:robot\" cannot patch resource \"a\nb\" in API group \"\" in the namespace \"n\"",
            "a \"b\" is forbidden: User \"somebody\" cannot patch resource \"a\" in API group \"\" in the namespace \"n\"",
            "a \"b\" is forbidden: User \"system:serviceaccount:ops:robot\" cannot patch resource \"a\" in API group \"\" anywhere",
        ] {
            assert_eq!(robot().remedy(&refused(403, words)), "", "{words}");
        }
    }

    /// The belief that is attacked: that who forbids in the words of Kubernetes is Kubernetes. A plugin would have administrators
    /// give its account what it wants.
    #[test]
    fn no_policy_that_quotes_a_plugin_has_a_rule_recommended() {
        let wish = "secrets \"a\" is forbidden: User \"system:serviceaccount:ops:robot\" cannot patch resource \"secrets\" in API group \"\" in the namespace \"n\"";
        assert_ne!(robot().remedy(&refused(403, wish)), "", "the words of Kubernetes itself");
        for words in [
            format!("admission webhook \"w\" denied the request: label {wish}"),
            format!(
                "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: {wish}"
            ),
            format!("ValidatingAdmissionPolicy 'p' denied request: {wish}"),
            format!("w: {wish}"),
        ] {
            assert_eq!(robot().remedy(&refused(403, &words)), "", "{words}");
        }
    }
}
