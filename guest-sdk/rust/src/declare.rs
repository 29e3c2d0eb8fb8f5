//! Making declarations: handlers, kinds, conditions, permissions.

use std::time::Duration;

use crate::{
    AnnotationCondition, FieldCondition, Handler, KindReference, PatchPermission, PatchStrategy, RelatedRequest,
    RelatedSelection, Subscription, TriggerRequest, Value, ValueTest, call::milliseconds,
};

impl KindReference {
    /// A kind of an API group, in the version that the cluster prefers.
    pub fn new(group: &str, name: &str) -> Self {
        Self { group: Some(group.into()), version: None, name: name.into() }
    }

    /// A kind of the core group: Service, ConfigMap, Pod.
    pub fn core(name: &str) -> Self {
        Self::new("", name)
    }

    /// The kind in this version only.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        self.version = Some(version.into());
        self
    }
}

impl Handler {
    /// A handler of all objects of a kind, without a trigger yet.
    pub fn new(name: &str, kind: KindReference) -> Self {
        let subscription = Subscription {
            kind,
            namespaces: Vec::new(),
            labels: None,
            annotations: Vec::new(),
            fields: Vec::new(),
            expression: None,
        };
        Self { name: name.into(), subscription, triggers: Vec::new(), projection: None, related: Vec::new() }
    }

    /// Calls it on this trigger, too.
    #[must_use]
    pub fn on(mut self, trigger: TriggerRequest) -> Self {
        self.triggers.push(trigger);
        self
    }

    /// Calls it at this interval for each subject, too.
    #[must_use]
    pub fn every(self, interval: Duration) -> Self {
        self.on(TriggerRequest::Timer(milliseconds(interval)))
    }

    /// Only objects in these namespaces; `*` stands for any text.
    #[must_use]
    pub fn namespaces<'a>(mut self, namespaces: impl IntoIterator<Item = &'a str>) -> Self {
        self.subscription.namespaces.extend(namespaces.into_iter().map(Into::into));
        self
    }

    /// Only objects whose labels match a selector in `kubectl -l`'s form.
    #[must_use]
    pub fn labels(mut self, selector: &str) -> Self {
        self.subscription.labels = Some(selector.into());
        self
    }

    /// Only objects whose annotation passes a test.
    #[must_use]
    pub fn annotation(mut self, key: &str, test: ValueTest) -> Self {
        self.subscription.annotations.push(AnnotationCondition { key: key.into(), test });
        self
    }

    /// Only objects whose field passes a test.
    #[must_use]
    pub fn field(mut self, path: &str, test: ValueTest) -> Self {
        self.subscription.fields.push(FieldCondition { path: path.into(), test });
        self
    }

    /// Only objects for which a CEL expression over `object` and `oldObject` is true.
    #[must_use]
    pub fn expression(mut self, expression: &str) -> Self {
        self.subscription.expression = Some(expression.into());
        self
    }

    /// Passes only these fields and the subject's identity: a change of any other does not wake the handler.
    #[must_use]
    pub fn needs<'a>(mut self, fields: impl IntoIterator<Item = &'a str>) -> Self {
        self.projection.get_or_insert_default().extend(fields.into_iter().map(Into::into));
        self
    }

    /// Passes related objects with each call, under this name.
    #[must_use]
    pub fn related(mut self, name: &str, kind: KindReference, selection: RelatedSelection) -> Self {
        self.related.push(RelatedRequest { name: name.into(), kind, selection, projection: None });
        self
    }
}

impl ValueTest {
    /// The value is exactly this one; for fields.
    pub fn equals(value: &Value) -> Self {
        Self::Equals(value.to_string())
    }
}

impl PatchPermission {
    /// To keep fields of a kind as the handler returns them.
    pub fn apply<'a>(kind: KindReference, fields: impl IntoIterator<Item = &'a str>) -> Self {
        Self { kind, fields: fields.into_iter().map(Into::into).collect(), strategy: PatchStrategy::Apply }
    }
}
