//! Which objects a mounted handler is called for, and which of its wishes can't be served yet.

use super::delivery::is_served;
use crate::{
    contract::HandlerDeclaration,
    glob::Glob,
    object::{Object, Part},
    selector::{Selector, SelectorError},
};

/// A handler's subscription as it is mounted: what the handler asks for, within what the administrator allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    labels: Selector,
    /// What the handler asks for; empty: any namespace.
    asked: Vec<Glob>,
    /// Namespaces that the DaskPlugin names; empty: any.
    allowed: Vec<String>,
}

/// What a change of an object is to a subscription, as to an informer with a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtered {
    /// It is one of the subjects from now on, or it is not known whether it was before.
    Added,
    /// It is one as before, and something changed that counts.
    Updated,
    /// It is one as before, and nothing changed that counts.
    Unchanged,
    /// It is not one any more: gone, or different.
    Removed,
    /// It is none and was none, as far as is known.
    Outside,
}

/// Why a subscription can't be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    /// The label selector can't be read.
    #[error("labels: {0}")]
    Labels(#[from] SelectorError),
    /// A pattern holds a character that no namespace's name has.
    #[error(
        "namespaces: {character:?} in {pattern:?} is in no namespace's name; write a name, or a pattern like team-*"
    )]
    Namespaces {
        /// The pattern.
        pattern: String,
        /// The character.
        character: char,
    },
}

impl Mounted {
    /// From a declaration and the namespaces that the DaskPlugin names.
    ///
    /// # Errors
    /// When the label selector or the pattern of a namespace can't be read.
    pub fn new(handler: &HandlerDeclaration, allowed: &[String]) -> Result<Self, SubscriptionError> {
        let labels = handler.subscription.labels.as_deref().map(Selector::parse).transpose()?.unwrap_or_default();
        let glob = |pattern: &String| {
            Glob::parse(pattern)
                .map_err(|character| SubscriptionError::Namespaces { pattern: pattern.clone(), character })
        };
        let asked = handler.subscription.namespaces.iter().map(glob).collect::<Result<_, _>>()?;
        Ok(Self { labels, asked, allowed: allowed.to_vec() })
    }

    /// What a change of an object of its kind is to it. What an object was is not known after a restart.
    pub fn filter(&self, old: Option<&Object>, new: Option<&Object>) -> Filtered {
        match [old, new].map(|object| object.is_some_and(|object| self.matches(object))) {
            [false, true] => Filtered::Added,
            [true, true] => Filtered::Updated,
            [true, false] => Filtered::Removed,
            [false, false] => Filtered::Outside,
        }
    }

    /// What of an object decides about it.
    pub fn part(&self) -> Part {
        Part::METADATA
    }

    /// Whether the handler is called for an object of its kind.
    pub fn matches(&self, object: &Object) -> bool {
        let namespace = object.metadata.namespace.as_deref();
        let asked =
            self.asked.is_empty() || namespace.is_some_and(|name| self.asked.iter().any(|glob| glob.matches(name)));
        let allowed =
            self.allowed.is_empty() || namespace.is_some_and(|name| self.allowed.iter().any(|allowed| allowed == name));
        asked && allowed && self.labels.matches(&object.metadata.labels)
    }
}

/// What a handler asks for that this version does not serve, `trigger updated`. Such a handler is not called; the plugin's
/// others are.
pub fn unserved(handler: &HandlerDeclaration) -> Vec<String> {
    let subscription = &handler.subscription;
    let mut found: Vec<String> = handler
        .triggers
        .iter()
        .filter(|trigger| !is_served(trigger))
        .map(|trigger| format!("trigger {}", trigger.name()))
        .collect();
    found.extend((!subscription.annotations.is_empty()).then(|| "annotation conditions".to_owned()));
    found.extend((!subscription.fields.is_empty()).then(|| "field conditions".to_owned()));
    found.extend(subscription.expression.is_some().then(|| "CEL expressions".to_owned()));
    found.extend((!handler.related.is_empty()).then(|| "related objects".to_owned()));
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::contract::{KindReference, Subscription};

    fn object(namespace: &str, labels: &Value) -> Object {
        let metadata = json!({"namespace": namespace, "name": "a", "labels": labels});
        Object::from_value(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})).unwrap()
    }

    #[test]
    fn a_change_is_judged_by_what_the_object_was_and_what_it_is() {
        let subscription = Subscription {
            kind: KindReference { group: None, version: None, name: "ConfigMap".to_owned() },
            namespaces: vec!["team-*".to_owned()],
            labels: Some("app=dask".to_owned()),
            annotations: Vec::new(),
            fields: Vec::new(),
            expression: None,
        };
        let handler = HandlerDeclaration {
            name: "h".to_owned(),
            subscription,
            triggers: Vec::new(),
            projection: None,
            related: Vec::new(),
        };
        let mounted = Mounted::new(&handler, &["team-a".to_owned()]).unwrap();
        let subject = object("team-a", &json!({"app": "dask"}));
        let others = [
            object("team-a", &json!({"app": "other"})),
            object("team-b", &json!({"app": "dask"})),
            object("elsewhere", &json!({"app": "dask"})),
        ];
        assert_eq!(mounted.filter(None, Some(&subject)), Filtered::Added, "after a restart");
        assert_eq!(mounted.filter(Some(&subject), Some(&subject)), Filtered::Updated);
        assert_eq!(mounted.filter(Some(&subject), None), Filtered::Removed);
        for other in &others {
            assert_eq!(mounted.filter(Some(other), Some(&subject)), Filtered::Added);
            assert_eq!(mounted.filter(Some(&subject), Some(other)), Filtered::Removed);
            for old in [None, Some(other)] {
                assert_eq!(mounted.filter(old, Some(other)), Filtered::Outside);
            }
            assert_eq!(mounted.filter(Some(other), None), Filtered::Outside);
        }
        assert_eq!(mounted.part(), Part::METADATA, "labels and namespaces");
    }
}
