//! Fields that other field managers hold: why a server-side apply that takes nothing from others is refused.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    contract::{FieldPath, append_name},
    object::ObjectKey,
    quote::{and_more, quote},
    text::line,
};

/// The most conflicts of one apply that are kept. A person looks at a few, and who took one field of an object has mostly taken
/// others, too.
pub const CONFLICTS: usize = 16;

/// The most bytes of a path: a label's key has up to 317, and a longer one is cut.
const PATH_BYTES: usize = 512;

/// The most bytes of a field manager's name: what Kubernetes allows.
const MANAGER_BYTES: usize = 128;

/// Conflicts that a message names.
const TOLD: usize = 3;

/// A field of an object that another field manager holds with another value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Conflict {
    /// The object.
    pub object: ObjectKey,
    /// The field. Items of lists are written as the API server does: `spec.ports[port=80,protocol="TCP"].targetPort`.
    pub path: FieldPath,
    /// The field manager that holds it.
    pub manager: String,
    /// Through which subresource; empty: the object itself.
    pub subresource: String,
}

impl Conflict {
    /// From the words of the API server: `field` as `.metadata.labels.a.b/c`, where the names are those of the `body` that was
    /// applied. Every text is cut to what one of its kind may have.
    pub fn new(object: &ObjectKey, body: &Value, field: &str, manager: &str, subresource: &str) -> Self {
        let mut path = FieldPath::new();
        if !follow(body, field, &mut path) {
            field.strip_prefix('.').unwrap_or(field).clone_into(&mut path);
        }
        let own = |text: &str, most| line(text, most).into_owned();
        Self {
            object: object.clone(),
            path: own(&path, PATH_BYTES),
            manager: own(manager, MANAGER_BYTES),
            subresource: own(subresource, MANAGER_BYTES),
        }
    }

    /// Whether both are about the same field, whoever holds it.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.object, &self.path) == (&other.object, &other.path)
    }

    /// Whether it is about the same field as one of these.
    pub fn is_among(&self, conflicts: &[Self]) -> bool {
        conflicts.iter().any(|conflict| self.is_same(conflict))
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, manager, subresource, .. } = self;
        // The path is in names of ours, the rest in those of others.
        let manager = match subresource.as_str() {
            "" => quote(manager),
            subresource => quote(&format!("{manager} by way of {subresource}")),
        };
        write!(f, ".{} is held by {manager}", path.replace(['“', '”'], "\""))
    }
}

/// In a fixed order, no field twice by one manager, and as many as are kept.
pub fn bounded(mut conflicts: Vec<Conflict>) -> Vec<Conflict> {
    conflicts.sort_unstable();
    conflicts.dedup();
    conflicts.truncate(CONFLICTS);
    conflicts
}

/// The first ones in words, and how many more there are.
pub fn in_words(conflicts: &[Conflict]) -> String {
    let first: Vec<_> = conflicts.iter().take(TOLD).map(Conflict::to_string).collect();
    and_more(&first.join("; "), conflicts.len().saturating_sub(TOLD))
}

/// Writes a path in the words of the API server, which does not say where a name with dots ends, by the names of what it leads
/// into. False: it does not lead there, and nothing was written.
fn follow(at: &Value, rest: &str, path: &mut FieldPath) -> bool {
    if rest.is_empty() {
        return true;
    }
    let length = path.len();
    let mut try_on = |at: &Value, rest: &str, write: &dyn Fn(&mut FieldPath)| {
        write(path);
        let leads_there = follow(at, rest, path);
        if !leads_there {
            path.truncate(length);
        }
        leads_there
    };
    match at {
        Value::Object(fields) => rest.strip_prefix('.').is_some_and(|rest| {
            fields.iter().any(|(name, below)| {
                let after = rest.strip_prefix(name.as_str());
                after.is_some_and(|after| try_on(below, after, &|path| append_name(path, name)))
            })
        }),
        Value::Array(items) if rest.starts_with('[') => rest.match_indices(']').any(|(end, _)| {
            let (item, after) = rest.split_at(end + 1);
            items.iter().any(|below| try_on(below, after, &|path| path.push_str(item)))
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::{GroupVersionKind, NamespacedName};

    fn conflict(field: &str) -> Conflict {
        let object = ObjectKey { kind: GroupVersionKind::new("", "v1", "Service"), at: NamespacedName::new("n", "a") };
        let body = json!({
            "metadata": {"annotations": {"a.b/c": "1", "a": "2", "a.b": "3"}, "finalizers": ["x/y"]},
            "spec": {
                "ports": [{"port": 80, "name": "x"}, {"port": 81, "limits": {"nvidia.com/gpu": 1}}],
                "selector": {"app": "b"},
            },
        });
        Conflict::new(&object, &body, field, "kubectl", "")
    }

    #[test]
    fn the_path_is_one_in_what_was_applied() {
        for (field, path) in [
            (".spec.selector", "spec.selector"),
            (".spec.selector.app", "spec.selector.app"),
            (".metadata.annotations.a.b/c", "metadata.annotations[\"a.b/c\"]"),
            (".metadata.annotations.a.b", "metadata.annotations[\"a.b\"]"),
            (".metadata.annotations.a", "metadata.annotations.a"),
            (".metadata.finalizers[=\"x/y\"]", "metadata.finalizers[=\"x/y\"]"),
            (".spec.ports[port=80,protocol=\"TCP\"]", "spec.ports[port=80,protocol=\"TCP\"]"),
            (".spec.ports[port=81].limits.nvidia.com/gpu", "spec.ports[port=81].limits[\"nvidia.com/gpu\"]"),
            // Words that lead nowhere stay as they are.
            (".spec.other[0].x", "spec.other[0].x"),
            ("odd", "odd"),
            ("", ""),
        ] {
            assert_eq!(conflict(field).path, path, "{field}");
        }
    }

    #[test]
    fn what_others_say_is_bounded_and_on_one_line() {
        let long = "x".repeat(1 << 16);
        let object = conflict("").object;
        let mut many: Vec<_> =
            (0..100).map(|n| Conflict::new(&object, &json!({}), &format!(".{n}{long}"), &long, &long)).collect();
        many.push(Conflict::new(&object, &json!({}), ".a\nb", "m\n\u{202e}", ""));
        let kept = bounded(many);
        assert_eq!(kept.len(), CONFLICTS);
        let bytes: usize = kept.iter().map(|kept| kept.path.len() + kept.manager.len() + kept.subresource.len()).sum();
        assert!(bytes <= CONFLICTS * (PATH_BYTES + 2 * MANAGER_BYTES), "{bytes}");
        let odd = Conflict::new(&object, &json!({}), ".a\nb", "m\n\u{202e}", "");
        assert_eq!(odd.to_string(), ".a\\nb is held by “m\\n\\u{202e}”");
        assert!(in_words(&kept).ends_with(" (and 13 more)"));
    }

    #[test]
    fn a_conflict_is_the_same_whoever_holds_the_field() {
        let one = conflict(".spec.selector");
        assert!(one.is_same(&Conflict { manager: "other".to_owned(), ..one.clone() }));
        assert!(!one.is_same(&conflict(".spec.ports")));
    }

    #[test]
    fn the_order_in_which_the_server_tells_conflicts_is_no_difference() {
        let (one, other) = (conflict(".spec.selector"), conflict(".spec.ports"));
        let told = bounded(vec![one.clone(), other.clone(), one.clone()]);
        assert_eq!(told, bounded(vec![other, one]));
        assert_eq!(in_words(&told), ".spec.ports is held by “kubectl”; .spec.selector is held by “kubectl”");
    }
}
