//! Which objects a mounted handler is called for, and which of its wishes can't be served yet.

use super::delivery::is_served;
use crate::{
    contract::HandlerDeclaration,
    glob::Glob,
    object::Object,
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
