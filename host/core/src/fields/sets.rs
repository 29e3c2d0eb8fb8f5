//! Sets of fields, as the API server keeps one for each manager of an object. Pure.
//! <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/#ObjectMeta>

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Map, Value};

/// A set of fields: of each whether it is a member, and which members are below it. Steps are written as in `FieldsV1`:
/// `f:name`, `k:{"name":"a"}`, `v:"a"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    member: bool,
    below: BTreeMap<String, Fields>,
}

impl Fields {
    pub(crate) fn from_json(fields: &Value) -> Self {
        let below = fields.as_object().into_iter().flatten();
        let mut set = Self::default();
        for (step, below) in below {
            match step.as_str() {
                "." => set.member = true,
                _ => drop(set.below.insert(step.clone(), Self::from_json(below))),
            }
        }
        set.member |= set.below.is_empty();
        set
    }

    /// As `FieldsV1`, in which a member without anything below it is an empty object.
    pub(crate) fn to_json(&self) -> Value {
        let dot = (self.member && !self.below.is_empty()).then(|| (".".to_owned(), Value::Object(Map::new())));
        let below = self.below.iter().map(|(step, below)| (step.clone(), below.to_json()));
        dot.into_iter().chain(below).collect::<Map<_, _>>().into()
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    /// Whether the field itself is a member.
    pub(crate) fn is_member(&self) -> bool {
        self.member
    }

    /// Makes the field itself a member.
    pub(crate) fn join(&mut self) {
        self.member = true;
    }

    pub(crate) fn below(&self, step: &str) -> Option<&Self> {
        self.below.get(step)
    }

    /// Puts a set in the place of what is below a step.
    pub(crate) fn put(&mut self, step: String, set: Self) {
        if !set.is_empty() {
            self.below.insert(step, set);
        }
    }

    /// Takes out what is at a path, and all above it that is empty without it.
    pub(crate) fn take(&mut self, path: &[impl AsRef<str>]) -> Option<Self> {
        let (step, rest) = path.split_first()?;
        let step = step.as_ref();
        if rest.is_empty() {
            return self.below.remove(step);
        }
        let below = self.below.get_mut(step)?;
        let taken = below.take(rest)?;
        if below.is_empty() {
            self.below.remove(step);
        }
        Some(taken)
    }

    /// Adds a set at a path.
    pub(crate) fn add_at(&mut self, path: &[impl AsRef<str>], set: &Self) {
        if set.is_empty() {
            return;
        }
        let at = path.iter().fold(self, |set, step| set.below.entry(step.as_ref().to_owned()).or_default());
        at.add(set);
    }

    /// All that a value says. Lists are taken as a whole.
    pub(crate) fn all_of(value: &Value) -> Self {
        let fields = value.as_object().into_iter().flatten();
        let below = fields.map(|(name, value)| (format!("f:{name}"), Self::all_of(value)));
        Self { member: true, below: below.collect() }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.member |= other.member;
        for (step, below) in &other.below {
            self.below.entry(step.clone()).or_default().add(below);
        }
    }

    /// Takes out the members of another set. What is below them stays.
    pub(crate) fn subtract(&mut self, other: &Self) {
        self.member &= !other.member;
        self.below.retain(|step, below| {
            if let Some(other) = other.below.get(step) {
                below.subtract(other);
            }
            !below.is_empty()
        });
    }

    pub(crate) fn common(&self, other: &Self) -> Self {
        let mut common = Self { member: self.member && other.member, below: BTreeMap::new() };
        for (step, below) in &self.below {
            if let Some(other) = other.below.get(step) {
                common.put(step.clone(), below.common(other));
            }
        }
        common
    }

    /// The paths of all members, as the API server writes them: `.spec.ports[port=80,protocol="TCP"].name`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths(&mut String::new(), &mut paths);
        paths
    }

    fn collect_paths(&self, path: &mut String, paths: &mut Vec<String>) {
        if self.member {
            paths.push(path.clone());
        }
        for (step, below) in &self.below {
            let length = path.len();
            write_step(step, path);
            below.collect_paths(path, paths);
            path.truncate(length);
        }
    }
}

fn write_step(step: &str, path: &mut String) {
    // Nothing that is written to text fails.
    let _ = match step.split_once(':') {
        Some(("f", name)) => write!(path, ".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<_> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            write!(path, "[{}]", keys.join(","))
        }
        Some((_, value)) => write!(path, "[={value}]"),
        None => write!(path, "{step}"),
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(fields: Value) -> Fields {
        Fields::from_json(&fields)
    }

    #[test]
    fn they_are_read_and_written_as_the_server_does() {
        let fields = json!({"f:a": {".": {}, "f:b": {}}, "f:c": {"k:{\"name\":\"x\"}": {".": {}, "f:d": {}}}});
        assert_eq!(set(fields.clone()).to_json(), fields);
        let paths = [".a", ".a.b", r#".c[name="x"]"#, r#".c[name="x"].d"#];
        assert_eq!(set(fields).paths(), paths);
        assert_eq!(set(json!({"f:finalizers": {"v:\"a\"": {}}})).paths(), [r#".finalizers[="a"]"#]);
    }

    #[test]
    fn a_part_goes_with_what_is_empty_without_it() {
        let item = r#"k:{"port":1}"#;
        let whole = json!({"f:spec": {"f:type": {}, "f:ports": {item: {".": {}, "f:port": {}}}}, "f:a": {"f:b": {}}});
        let mut fields = set(whole.clone());
        let taken = fields.take(&["f:spec", "f:ports", item]).unwrap();
        assert_eq!(taken.to_json(), json!({".": {}, "f:port": {}}));
        assert_eq!(fields.to_json(), json!({"f:spec": {"f:type": {}}, "f:a": {"f:b": {}}}));
        fields.add_at(&["f:spec", "f:ports", item], &taken);
        fields.add_at(&["f:spec", "f:ports", item], &taken);
        assert_eq!(fields.to_json(), whole);
        for path in [&["f:spec", "f:none"][..], &["f:none", "f:a"], &["f:spec", "f:type", "f:deep"], &[]] {
            assert_eq!(fields.take(path), None);
            assert_eq!(fields.to_json(), whole);
        }
        fields.add_at(&["f:none"], &Fields::default());
        assert_eq!(fields.to_json(), whole, "nothing is no member");
        // One without members below it stands for the field as a whole.
        let mut labels = set(json!({"f:labels": {".": {}, "f:a": {}}}));
        labels.take(&["f:labels", "f:a"]);
        assert_eq!(labels.to_json(), json!({"f:labels": {}}));
    }

    #[test]
    fn all_of_a_value_has_its_fields_and_its_lists_as_a_whole() {
        let all = Fields::all_of(&json!({"a": 1, "list": [{"x": 1}], "map": {"b": "c"}}));
        assert_eq!(all.to_json(), json!({".": {}, "f:a": {}, "f:list": {}, "f:map": {".": {}, "f:b": {}}}));
    }

    #[test]
    fn members_are_taken_out_one_by_one() {
        let mut left = set(json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}}));
        left.subtract(&set(json!({"f:a": {"f:b": {}}})));
        assert_eq!(left.to_json(), json!({"f:a": {".": {}, "f:c": {}}}));
        left.subtract(&set(json!({"f:a": {}})));
        assert_eq!(left.to_json(), json!({"f:a": {"f:c": {}}}));
        assert!(left.common(&set(json!({"f:a": {}}))).is_empty());
        left.add(&set(json!({"f:a": {}})));
        assert_eq!(left.common(&set(json!({"f:a": {}, "f:x": {}}))).to_json(), json!({"f:a": {}}));
        left.subtract(&set(json!({"f:a": {".": {}, "f:c": {}}})));
        assert!(left.is_empty());
    }
}
