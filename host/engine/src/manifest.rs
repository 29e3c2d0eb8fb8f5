//! Checks what a plugin says of itself: that it is well-formed and bounded. Whether it may and can have what it asks for is
//! decided later, by grants and discovery.

use std::{collections::BTreeSet, mem::discriminant, time::Duration};

use dask_wasm_operator_core::{
    contract::{
        AnnotationCondition, FieldCondition, HandlerDeclaration, KindReference, Manifest, PatchPermission, Permissions,
        RelatedRequest, RelatedSelection, Subscription, TriggerRequest, ValueTest,
    },
    names::DNS_LABEL_MAX,
    plugin::{HANDLER_NAME_MAX, check_field_path},
};
use semver::Version;

/// Entries of any list. The largest example has 17 handlers.
const ENTRIES: usize = 64;

/// Bytes of any text: selectors, expressions, paths.
const TEXT: usize = 4 << 10;

/// The shortest interval of a timer.
const SHORTEST_TIMER: Duration = Duration::from_secs(1);

/// A part of a manifest that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plugin's manifest can't be used: {path}: {problem}")]
pub struct ManifestError {
    /// Where, `handlers[0].name`.
    path: String,
    /// What is wrong and what would be right.
    problem: String,
}

type Checked = Result<(), ManifestError>;

/// Checks the whole manifest of a plugin that exports `interface`.
pub(crate) fn validate(manifest: &Manifest, interface: &Version) -> Checked {
    let Manifest { name, version, interface_version, handlers, permissions } = manifest;
    let at = At::root();
    at.field("name").words(name)?;
    at.field("version").words(version)?;
    if *interface_version != interface.to_string() {
        let problem =
            format!("is {interface_version:?}, but the component exports version {interface}; set it to that");
        return at.field("interface-version").refuse(problem);
    }
    if handlers.is_empty() {
        return at.field("handlers").refuse("is empty; declare at least one handler");
    }
    at.field("handlers").unique(handlers, |handler| &handler.name)?;
    at.field("handlers").each(handlers, handler)?;
    self::permissions(&at.field("permissions"), permissions)
}

fn handler(at: &At, handler: &HandlerDeclaration) -> Checked {
    let HandlerDeclaration { name, subscription, triggers, projection, related } = handler;
    at.field("name").label(name, HANDLER_NAME_MAX)?;
    self::subscription(&at.field("subscription"), subscription)?;
    self::triggers(&at.field("triggers"), triggers)?;
    paths(&at.field("projection"), projection.as_deref().unwrap_or_default())?;
    at.field("related").unique(related, |request| &request.name)?;
    at.field("related").each(related, self::related)
}

fn subscription(at: &At, subscription: &Subscription) -> Checked {
    let Subscription { kind, namespaces, labels, annotations, fields, expression } = subscription;
    self::kind(&at.field("kind"), kind)?;
    at.field("namespaces").each(namespaces, |at, pattern| {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'*');
        at.matches(pattern, DNS_LABEL_MAX, fits, "a namespace, or a pattern like team-*")
    })?;
    at.field("labels").optional_text(labels.as_deref())?;
    at.field("annotations").each(annotations, |at, AnnotationCondition { key, test }| {
        at.field("key").words(key)?;
        match test {
            ValueTest::Equals(text) => at.field("test").text(text),
            ValueTest::Present | ValueTest::Absent | ValueTest::Changed => Ok(()),
        }
    })?;
    at.field("fields").each(fields, |at, FieldCondition { path, test }| {
        self::path(&at.field("path"), path)?;
        match test {
            ValueTest::Equals(json) => at.field("test").json(json),
            ValueTest::Present | ValueTest::Absent | ValueTest::Changed => Ok(()),
        }
    })?;
    at.field("expression").optional_text(expression.as_deref())
}

fn triggers(at: &At, triggers: &[TriggerRequest]) -> Checked {
    if triggers.is_empty() {
        return at.refuse("is empty; name at least one trigger, for example observed");
    }
    for (index, trigger) in triggers.iter().enumerate() {
        let is_same = |other: &TriggerRequest| match (trigger, other) {
            (TriggerRequest::FieldChanged(path), TriggerRequest::FieldChanged(other)) => path == other,
            _ => discriminant(trigger) == discriminant(other),
        };
        if triggers[..index].iter().any(is_same) {
            return at.index(index).refuse(format!("{} is there twice; remove one", trigger.name()));
        }
    }
    at.each(triggers, |at, trigger| match trigger {
        TriggerRequest::FieldChanged(path) => self::path(at, path),
        TriggerRequest::Timer(interval) if *interval < SHORTEST_TIMER => at.refuse(format!(
            "timer({}) is too short; the shortest interval is 1000 (milliseconds)",
            interval.as_millis()
        )),
        _ => Ok(()),
    })
}

fn related(at: &At, related: &RelatedRequest) -> Checked {
    let RelatedRequest { name, kind, selection, projection } = related;
    at.field("name").label(name, DNS_LABEL_MAX)?;
    self::kind(&at.field("kind"), kind)?;
    match selection {
        RelatedSelection::Labels(text) | RelatedSelection::Named(text) => at.field("selection").text(text)?,
        RelatedSelection::OwnedBySubject | RelatedSelection::OwnersOfSubject => {}
    }
    paths(&at.field("projection"), projection.as_deref().unwrap_or_default())
}

fn permissions(at: &At, permissions: &Permissions) -> Checked {
    let Permissions { read, create, patch, delete_subject: _ } = permissions;
    at.field("read").each(read, kind)?;
    at.field("create").each(create, kind)?;
    at.field("patch").each(patch, |at, PatchPermission { kind, fields, strategy: _ }| {
        self::kind(&at.field("kind"), kind)?;
        if fields.is_empty() {
            return at.field("fields").refuse("is empty; name the fields, for example metadata.annotations");
        }
        paths(&at.field("fields"), fields)
    })
}

fn kind(at: &At, kind: &KindReference) -> Checked {
    let KindReference { group, version, name } = kind;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if let Some(group) = group.as_deref().filter(|group| !group.is_empty()) {
        at.field("group").matches(
            group,
            253,
            |byte| is_name(byte) || byte == b'.',
            "an API group like networking.istio.io",
        )?;
    }
    if let Some(version) = version {
        at.field("version").matches(version, DNS_LABEL_MAX, is_name, "an API version like v1")?;
    }
    at.field("name").matches(name, DNS_LABEL_MAX, is_name, "a kind like Service")
}

fn paths(at: &At, paths: &[String]) -> Checked {
    at.each(paths, |at, path| self::path(at, path))
}

fn path(at: &At, path: &str) -> Checked {
    at.text(path)?;
    check_field_path(path).or_else(|error| at.refuse(error.to_string()))
}

/// A place in the manifest.
struct At(String);

impl At {
    fn root() -> Self {
        Self(String::new())
    }

    fn field(&self, name: &str) -> Self {
        Self(if self.0.is_empty() { name.to_owned() } else { format!("{}.{name}", self.0) })
    }

    fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    fn refuse(&self, problem: impl Into<String>) -> Checked {
        Err(ManifestError { path: self.0.clone(), problem: problem.into() })
    }

    fn each<T>(&self, list: &[T], check: impl Fn(&Self, &T) -> Checked) -> Checked {
        if list.len() > ENTRIES {
            return self.refuse(format!("has {} entries; the most are {ENTRIES}", list.len()));
        }
        list.iter().enumerate().try_for_each(|(index, entry)| check(&self.index(index), entry))
    }

    fn unique<T>(&self, list: &[T], name: impl Fn(&T) -> &String) -> Checked {
        let mut seen = BTreeSet::new();
        match list.iter().map(name).find(|name| !seen.insert(*name)) {
            Some(name) => self.refuse(format!("two are named {:?}; give each its own name", excerpt(name))),
            None => Ok(()),
        }
    }

    /// Something for people, on one line.
    fn words(&self, text: &str) -> Checked {
        if text.trim().is_empty() {
            return self.refuse("is empty; it must be given");
        }
        if text.len() > 253 || text.chars().any(char::is_control) {
            return self.refuse(format!(
                "{:?} is longer than 253 bytes or holds control characters; shorten it",
                excerpt(text)
            ));
        }
        Ok(())
    }

    fn text(&self, text: &str) -> Checked {
        match text.len() {
            0 => self.refuse("is empty; leave it out or give it"),
            1..=TEXT => Ok(()),
            length => self.refuse(format!("has {length} bytes; the most are {TEXT}")),
        }
    }

    fn optional_text(&self, text: Option<&str>) -> Checked {
        text.map_or(Ok(()), |text| self.text(text))
    }

    fn json(&self, json: &str) -> Checked {
        self.text(json)?;
        match serde_json::from_str::<serde::de::IgnoredAny>(json) {
            Ok(_) => Ok(()),
            Err(error) => self.refuse(format!("{:?} is not JSON ({error}); put a text into quotes", excerpt(json))),
        }
    }

    fn label(&self, name: &str, longest: usize) -> Checked {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.starts_with('-') || name.ends_with('-') {
            return self.refuse(format!("{:?} begins or ends with a dash; remove it", excerpt(name)));
        }
        self.matches(name, longest, fits, "lower-case letters, digits and dashes")
    }

    fn matches(&self, text: &str, longest: usize, fits: impl Fn(u8) -> bool, expected: &str) -> Checked {
        if text.is_empty() || text.len() > longest || !text.bytes().all(fits) {
            return self.refuse(format!("{:?} must be {expected}, of at most {longest} characters", excerpt(text)));
        }
        Ok(())
    }
}

/// The beginning of a text that may be of any length.
fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> KindReference {
        KindReference { group: None, version: None, name: "svc".into() }
    }

    fn manifest() -> Manifest {
        Manifest {
            name: "example".into(),
            version: "1.0".into(),
            interface_version: "0.1.0".into(),
            handlers: vec![HandlerDeclaration {
                name: "expose".into(),
                subscription: Subscription {
                    kind: service(),
                    namespaces: vec!["team-*".into()],
                    labels: Some("dask.org/component=scheduler".into()),
                    annotations: Vec::new(),
                    fields: Vec::new(),
                    expression: None,
                },
                triggers: vec![TriggerRequest::Created, TriggerRequest::FieldChanged("spec.ports".into())],
                projection: Some(vec!["metadata.labels[\"dask.org/component\"]".into()]),
                related: Vec::new(),
            }],
            permissions: Permissions::default(),
        }
    }

    fn refusal(change: impl FnOnce(&mut Manifest)) -> String {
        let mut manifest = manifest();
        change(&mut manifest);
        let error = validate(&manifest, &Version::new(0, 1, 0)).unwrap_err();
        format!("{}: {}", error.path, error.problem)
    }

    #[test]
    fn a_good_manifest_passes() {
        assert_eq!(validate(&manifest(), &Version::new(0, 1, 0)), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        type Change = fn(&mut Manifest);
        let cases: [(&str, Change); 14] = [
            ("name: is empty", |manifest| manifest.name.clear()),
            ("version: \"a\\nb\" is longer", |manifest| manifest.version = "a\nb".into()),
            ("interface-version: is \"0.2.0\", but the component exports version 0.1.0", |manifest| {
                manifest.interface_version = "0.2.0".into();
            }),
            ("handlers: is empty", |manifest| manifest.handlers.clear()),
            ("handlers: two are named \"expose\"", |manifest| manifest.handlers.push(manifest.handlers[0].clone())),
            ("handlers: has 65 entries", |manifest| {
                let handler = manifest.handlers[0].clone();
                manifest.handlers =
                    (0..65).map(|n| HandlerDeclaration { name: format!("h{n}"), ..handler.clone() }).collect();
            }),
            ("handlers[0].name: \"Expose\" must be lower-case letters", |manifest| {
                manifest.handlers[0].name = "Expose".into()
            }),
            ("handlers[0].name: \"-a\" begins or ends with a dash", |manifest| manifest.handlers[0].name = "-a".into()),
            ("handlers[0].subscription.kind.name: \"../pods\" must be a kind", |manifest| {
                manifest.handlers[0].subscription.kind.name = "../pods".into();
            }),
            ("handlers[0].subscription.labels: has 5000 bytes", |manifest| {
                manifest.handlers[0].subscription.labels = Some("x".repeat(5000));
            }),
            ("handlers[0].subscription.fields[0].test: \"blue\" is not JSON", |manifest| {
                let test = ValueTest::Equals("blue".into());
                manifest.handlers[0].subscription.fields.push(FieldCondition { path: "spec.colour".into(), test });
            }),
            ("handlers[0].triggers: is empty", |manifest| manifest.handlers[0].triggers.clear()),
            ("handlers[0].triggers[2]: created is there twice", |manifest| {
                manifest.handlers[0].triggers.push(TriggerRequest::Created);
            }),
            ("permissions.patch[0].fields: is empty", |manifest| {
                let strategy = dask_wasm_operator_core::contract::PatchStrategy::Apply;
                manifest.permissions.patch.push(PatchPermission { kind: service(), fields: Vec::new(), strategy });
            }),
        ];
        for (expected, change) in cases {
            let found = refusal(change);
            assert!(found.starts_with(expected), "expected {expected}, found {found}");
        }
    }

    #[test]
    fn a_timer_is_at_least_a_second() {
        let found =
            refusal(|manifest| manifest.handlers[0].triggers = vec![TriggerRequest::Timer(Duration::from_millis(999))]);
        assert!(found.starts_with("handlers[0].triggers[0]: timer(999) is too short"), "{found}");
    }
}
