//! Which objects a mounted handler is called for, and which of its wishes can't be served yet.

use crate::{
    contract::{HandlerDeclaration, TriggerRequest},
    object::Object,
    selector::{Selector, SelectorError},
};

/// A handler's subscription as it is mounted: what the handler asks for, within what the administrator allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    labels: Selector,
    /// Globs that the handler asks for; empty: any namespace.
    asked: Vec<String>,
    /// Namespaces that the DaskPlugin names; empty: any.
    allowed: Vec<String>,
}

impl Mounted {
    /// From a declaration and the namespaces that the DaskPlugin names.
    ///
    /// # Errors
    /// When the label selector can't be read.
    pub fn new(handler: &HandlerDeclaration, allowed: &[String]) -> Result<Self, SelectorError> {
        let labels = handler.subscription.labels.as_deref().map(Selector::parse).transpose()?.unwrap_or_default();
        Ok(Self { labels, asked: handler.subscription.namespaces.clone(), allowed: allowed.to_vec() })
    }

    /// Whether the handler is called for an object of its kind.
    pub fn matches(&self, object: &Object) -> bool {
        let namespace = object.metadata.namespace.as_deref();
        let asked = self.asked.is_empty()
            || namespace.is_some_and(|name| self.asked.iter().any(|glob| matches_glob(glob, name)));
        let allowed =
            self.allowed.is_empty() || namespace.is_some_and(|name| self.allowed.iter().any(|allowed| allowed == name));
        asked && allowed && self.labels.matches(&object.metadata.labels)
    }
}

/// `*` stands for any characters, also none.
fn matches_glob(glob: &str, text: &str) -> bool {
    match glob.split_once('*') {
        None => glob == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).filter(|&at| rest.is_char_boundary(at)).any(|at| matches_glob(tail, &rest[at..]))
        }),
    }
}

/// A part of the interface that this version does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unserved {
    /// What was asked for, `trigger updated`.
    pub what: String,
}

/// What a handler asks for that this version does not serve. Such a handler is not called; the plugin's others are.
pub fn unserved(handler: &HandlerDeclaration) -> Vec<Unserved> {
    let served = |trigger: &&TriggerRequest| {
        matches!(trigger, TriggerRequest::Observed | TriggerRequest::Created | TriggerRequest::Deleted)
    };
    let subscription = &handler.subscription;
    let mut found: Vec<String> = handler
        .triggers
        .iter()
        .filter(|trigger| !served(trigger))
        .map(|trigger| format!("trigger {}", trigger.name()))
        .collect();
    found.extend((!subscription.annotations.is_empty()).then(|| "annotation conditions".to_owned()));
    found.extend((!subscription.fields.is_empty()).then(|| "field conditions".to_owned()));
    found.extend(subscription.expression.is_some().then(|| "CEL expressions".to_owned()));
    found.extend((!handler.related.is_empty()).then(|| "related objects".to_owned()));
    found.into_iter().map(|what| Unserved { what }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (glob, yes, no) in
            [("team-*", "team-a", "steam-a"), ("*", "", ""), ("a*b*c", "axxbc", "axxcb"), ("a", "a", "aa")]
        {
            assert!(matches_glob(glob, yes), "{glob} {yes}");
            assert!(glob == "*" || !matches_glob(glob, no), "{glob} {no}");
        }
    }
}
