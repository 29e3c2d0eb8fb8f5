//! Objects as they come over the wire.
//!
//! Whatever is in an object, it is there: who took one that can't be read for absent would make it again, or remove what was
//! made for it. So reading fails only for what is no JSON object at all. What can't be read is left out, and named.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    DEEPEST, ManagedFields, Metadata, OwnerReference, TopFields, Unreadable,
    depth::{nests_deeper, path_to_deepest},
};

/// An object as it comes over the wire, in a list (where items carry no kind) or alone.
#[derive(Clone, Debug, Default)]
pub struct WireObject {
    /// `apiVersion`, if it is there.
    pub api_version: Option<String>,
    /// `kind`, if it is there.
    pub kind: Option<String>,
    /// Metadata without `managedFields`.
    pub metadata: Metadata,
    /// Entries of `metadata.managedFields`.
    pub managed_fields: Vec<ManagedFields>,
    /// All other top-level fields.
    pub fields: TopFields,
    /// What could not be read.
    pub unreadable: Option<Box<Unreadable>>,
}

impl WireObject {
    /// Reads an object. What can't be read of it is left out, and the first of that is in [`Self::unreadable`].
    ///
    /// # Errors
    /// When it is not a JSON object.
    pub fn read(json: &str) -> Result<Self, serde_json::Error> {
        match serde_json::from_str(json) {
            Ok(Whole(object)) => Ok(object),
            Err(_) => salvage(json),
        }
    }

    /// As [`Self::read`], of bytes that should be UTF-8.
    ///
    /// # Errors
    /// When they are not a JSON object.
    pub fn read_bytes(json: &[u8]) -> Result<Self, serde_json::Error> {
        match String::from_utf8_lossy(json) {
            Cow::Borrowed(text) => Self::read(text),
            Cow::Owned(text) => Self::read_lossy(&text),
        }
    }

    /// As [`Self::read`], of what has the mark of replacement wherever it was not UTF-8: a name may have it, too.
    ///
    /// # Errors
    /// When it is not a JSON object.
    pub fn read_lossy(json: &str) -> Result<Self, serde_json::Error> {
        let mut object = Self::read(json)?;
        if json.contains(char::REPLACEMENT_CHARACTER) && object.unreadable.is_none() {
            object.unreadable = Some(Box::new(Unreadable::new("metadata", "the object is not all UTF-8")));
        }
        Ok(object)
    }
}

/// An object of which everything can be read: nearly all.
struct Whole(WireObject);

/// [`Metadata`] together with the one field that is kept apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMetadata {
    #[serde(default)]
    managed_fields: Vec<ManagedFields>,
    #[serde(default)]
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource_version: String,
    generation: Option<i64>,
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    finalizers: Option<Vec<String>>,
}

impl WireMetadata {
    fn split(self) -> (Metadata, Vec<ManagedFields>) {
        let metadata = Metadata {
            name: self.name,
            namespace: self.namespace,
            uid: self.uid,
            resource_version: self.resource_version,
            generation: self.generation,
            creation_timestamp: self.creation_timestamp,
            deletion_timestamp: self.deletion_timestamp,
            labels: self.labels.unwrap_or_default().into(),
            annotations: self.annotations.unwrap_or_default(),
            owner_references: self.owner_references.unwrap_or_default().into(),
            finalizers: self.finalizers.unwrap_or_default(),
        };
        (metadata, self.managed_fields)
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = WireObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a Kubernetes object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireObject, A::Error> {
                let mut object = WireObject::default();
                let mut fields = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        "apiVersion" => object.api_version = map.next_value()?,
                        "kind" => object.kind = map.next_value()?,
                        "metadata" => {
                            let metadata: WireMetadata = map.next_value()?;
                            (object.metadata, object.managed_fields) = metadata.split();
                        }
                        _ => {
                            let value: Box<RawValue> = map.next_value()?;
                            if is_too_deep(&value) {
                                return Err(A::Error::custom("it nests too deep"));
                            }
                            fields.push((name, value));
                        }
                    }
                }
                object.fields = fields.into_iter().collect();
                Ok(object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor).map(Self)
    }
}

fn is_too_deep(field: &RawValue) -> bool {
    nests_deeper(field.get(), DEEPEST - 1)
}

/// Reads what can be read.
fn salvage(json: &str) -> Result<WireObject, serde_json::Error> {
    let parts: BTreeMap<String, &RawValue> = serde_json::from_str(json)?;
    let mut salvage = Salvage::default();
    let (metadata, managed_fields) = salvage.metadata(parts.get("metadata").copied());
    let mut object = WireObject {
        api_version: salvage.part("apiVersion", parts.get("apiVersion").copied()),
        kind: salvage.part("kind", parts.get("kind").copied()),
        metadata,
        managed_fields,
        ..WireObject::default()
    };
    let others = parts.into_iter().filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
    let readable = others.filter(|(name, raw)| {
        let is_too_deep = is_too_deep(raw);
        if is_too_deep {
            let path = path_to_deepest(name, raw, DEEPEST - 1);
            salvage.note(&path, &format!("the object nests deeper than {DEEPEST} levels here"));
        }
        !is_too_deep
    });
    object.fields = readable.map(|(name, raw)| (name, raw.to_owned())).collect();
    object.unreadable = salvage.unreadable;
    Ok(object)
}

/// Reads an object in parts, and keeps the first that can't be.
#[derive(Default)]
struct Salvage {
    unreadable: Option<Box<Unreadable>>,
}

impl Salvage {
    fn note(&mut self, path: &str, why: &str) {
        self.unreadable.get_or_insert_with(|| Box::new(Unreadable::new(path, why)));
    }

    /// A part; the default if it is missing, null or can't be read.
    fn part<'a, T: Deserialize<'a> + Default>(&mut self, path: &str, raw: Option<&'a RawValue>) -> T {
        let Some(raw) = raw else { return T::default() };
        match serde_json::from_str::<Option<T>>(raw.get()) {
            Ok(part) => part.unwrap_or_default(),
            Err(error) => {
                let error = error.to_string();
                let why = error.rsplit_once(" at line ").map_or(&*error, |(why, _)| why);
                self.note(path, why);
                T::default()
            }
        }
    }

    /// Those of several parts that can be read.
    fn parts<'a, T: Deserialize<'a>>(&mut self, path: &str, raw: Option<&'a RawValue>) -> Vec<T> {
        let parts: Vec<&RawValue> = self.part(path, raw);
        let parts = parts.into_iter().enumerate();
        parts.filter_map(|(index, raw)| self.part(&format!("{path}[{index}]"), Some(raw))).collect()
    }

    fn texts(&mut self, path: &str, raw: Option<&RawValue>) -> BTreeMap<String, String> {
        let texts: BTreeMap<String, &RawValue> = self.part(path, raw);
        let texts = texts.into_iter();
        texts
            .filter_map(|(name, raw)| {
                let text: Option<String> = self.part(&format!("{path}.{name}"), Some(raw));
                Some((name, text?))
            })
            .collect()
    }

    fn metadata(&mut self, raw: Option<&RawValue>) -> (Metadata, Vec<ManagedFields>) {
        let parts: BTreeMap<String, &RawValue> = self.part("metadata", raw);
        let part = |name: &str| parts.get(name).copied();
        let metadata = WireMetadata {
            name: self.part("metadata.name", part("name")),
            namespace: self.part("metadata.namespace", part("namespace")),
            uid: self.part("metadata.uid", part("uid")),
            resource_version: self.part("metadata.resourceVersion", part("resourceVersion")),
            generation: self.part("metadata.generation", part("generation")),
            creation_timestamp: self.part("metadata.creationTimestamp", part("creationTimestamp")),
            deletion_timestamp: self.part("metadata.deletionTimestamp", part("deletionTimestamp")),
            labels: Some(self.texts("metadata.labels", part("labels"))),
            annotations: Some(self.texts("metadata.annotations", part("annotations"))),
            owner_references: Some(self.parts("metadata.ownerReferences", part("ownerReferences"))),
            finalizers: Some(self.parts("metadata.finalizers", part("finalizers"))),
            managed_fields: self.parts("metadata.managedFields", part("managedFields")),
        };
        metadata.split()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::object::{GroupVersionKind, Object};

    fn read(json: &str) -> WireObject {
        WireObject::read(json).unwrap()
    }

    #[test]
    fn null_maps_count_as_absent() {
        let object = read(r#"{"metadata": {"name": "a", "labels": null, "finalizers": null}, "spec": null}"#);
        assert_eq!(object.metadata.name, "a");
        assert!(object.metadata.labels.is_empty() && object.unreadable.is_none());
    }

    #[test]
    fn what_nests_deeper_than_anybody_can_decode_is_there_with_the_path_to_it() {
        let object = |levels: usize| {
            let (open, close) = (r#"{"a":"#.repeat(levels - 1), "}".repeat(levels - 1));
            let object =
                format!(r#"{{"metadata": {{"name": "a", "uid": "u"}}, "status": 1, "spec": {open}[]{close}}}"#);
            Object::new(Arc::new(GroupVersionKind::new("", "v1", "A")), read(&object))
        };
        let deepest = object(DEEPEST - 1);
        assert!(deepest.unreadable.is_none() && deepest.to_value()["spec"].is_object());
        for levels in [DEEPEST, 127, 128, 129, 100_000] {
            let object = object(levels);
            assert_eq!((&*object.metadata.name, &*object.metadata.uid), ("a", "u"));
            assert_eq!(object.fields.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["status"]);
            let unreadable = object.unreadable.unwrap();
            assert_eq!(unreadable.path, format!("spec{}…", ".a".repeat(8)));
            assert_eq!(unreadable.why, "the object nests deeper than 100 levels here");
        }
    }

    #[test]
    fn of_metadata_that_is_odd_what_can_be_read_is() {
        let owner = json!({"apiVersion": "v1", "kind": "A", "name": "o", "uid": "o", "controller": true});
        let whole = json!({"metadata": {
            "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7", "generation": 1,
            "labels": {"a": "b"}, "annotations": {"c": "d"}, "ownerReferences": [owner], "finalizers": ["f"],
            "managedFields": [{"manager": "m", "operation": "Apply", "fieldsV1": {}}],
        }, "spec": {}});
        for (pointer, value, path) in [
            ("/uid", json!(1), "metadata.uid"),
            ("/resourceVersion", json!(7), "metadata.resourceVersion"),
            ("/generation", json!("1"), "metadata.generation"),
            ("/deletionTimestamp", json!({}), "metadata.deletionTimestamp"),
            ("/labels", json!({"a": "b", "x": 1}), "metadata.labels.x"),
            ("/labels", json!("a=b"), "metadata.labels"),
            ("/annotations", json!({"c": "d", "x": ["e"]}), "metadata.annotations.x"),
            ("/ownerReferences", json!([owner, {"uid": 1}]), "metadata.ownerReferences[1]"),
            ("/ownerReferences", json!([7, owner]), "metadata.ownerReferences[0]"),
            ("/finalizers", json!(["f", 1]), "metadata.finalizers[1]"),
            ("/managedFields", json!([whole["metadata"]["managedFields"][0], "m"]), "metadata.managedFields[1]"),
            ("/managedFields", json!({"manager": "m"}), "metadata.managedFields"),
        ] {
            let mut odd = whole.clone();
            odd["metadata"][&pointer[1..]] = value;
            let object = read(&odd.to_string());
            assert_eq!(object.unreadable.as_ref().unwrap().path, path);
            assert_eq!((&*object.metadata.name, object.metadata.namespace.as_deref()), ("a", Some("n")), "{odd}");
            if path.ends_with(']') {
                assert!(object.metadata.controller().is_some() && object.managed_fields.len() == 1, "{odd}");
            }
            assert!(object.fields.get("spec").is_some());
        }
        assert_eq!(read(r#"{"metadata": {"name": 1}}"#).unreadable.unwrap().path, "metadata.name");
        assert_eq!(read(r#"{"metadata": 1}"#).unreadable.unwrap().path, "metadata");
    }

    #[test]
    fn what_is_no_utf8_is_there() {
        let json = [&br#"{"metadata": {"name": "a"}, "spec": ""#[..], &[0xff, 0xc3], br#""}"#].concat();
        let object = WireObject::read_bytes(&json).unwrap();
        assert_eq!(object.metadata.name, "a");
        assert!(object.unreadable.unwrap().is_in_metadata());
        assert!(WireObject::read_bytes(r#"{"metadata": {"name": "ä"}}"#.as_bytes()).unwrap().unreadable.is_none());
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        for text in ["", "null", "[]", "7", "\"a\"", "{", "<html>", "{} {}"] {
            assert!(WireObject::read(text).is_err(), "{text}");
        }
    }

    proptest! {
        /// Whatever stands in the place of any part, the object is there, and is read in parts as it is as a whole.
        #[test]
        fn an_object_with_a_name_is_there(part in 0_usize..13, odd in any_json()) {
            let mut object = json!({"metadata": {"name": "a"}, "spec": {"b": 1}});
            let parts = ["uid", "namespace", "resourceVersion", "generation", "labels", "annotations", "ownerReferences",
                "finalizers", "managedFields", "deletionTimestamp", "creationTimestamp", "other"];
            match parts.get(part) {
                Some(part) => object["metadata"][*part] = odd,
                None => object["spec"] = odd,
            }
            let text = object.to_string();
            let read = read(&text);
            prop_assert_eq!(&read.metadata.name, "a");
            prop_assert!(read.fields.get("spec").is_some());
            let salvaged = salvage(&text).unwrap();
            prop_assert_eq!(read.metadata, salvaged.metadata);
            prop_assert_eq!(read.unreadable, salvaged.unreadable);
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<i64>().prop_map(|number| json!(number)),
            ".{0,8}".prop_map(|text| json!(text))
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|items| json!(items)),
                prop::collection::btree_map("[a-z]{1,8}", inner, 0..4).prop_map(|entries| json!(entries)),
            ]
        })
    }
}
