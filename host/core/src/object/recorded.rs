//! Objects within values that are kept and read again: whole, with their managed fields, and what could not be read of them.
//!
//! For `#[serde(with = "…")]`. As JSON only: fields are kept as the text that they came in.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{GroupVersionKind, ManagedFields, Metadata, Object, Unreadable};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Decoded {
    kind: GroupVersionKind,
    metadata: Metadata,
    fields: BTreeMap<String, Box<RawValue>>,
    managed_fields: Vec<ManagedFields>,
    unreadable: Option<Box<Unreadable>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Encoded<'a> {
    kind: &'a GroupVersionKind,
    metadata: &'a Metadata,
    fields: BTreeMap<&'a str, &'a RawValue>,
    managed_fields: &'a [ManagedFields],
    unreadable: Option<&'a Unreadable>,
}

impl From<Decoded> for Arc<Object> {
    fn from(decoded: Decoded) -> Self {
        let Decoded { kind, metadata, fields, managed_fields, unreadable } = decoded;
        let fields = fields.into_iter().collect();
        Self::new(Object { kind: Arc::new(kind), metadata, fields, managed_fields, unreadable })
    }
}

impl<'a> From<&'a Object> for Encoded<'a> {
    fn from(object: &'a Object) -> Self {
        Self {
            kind: &object.kind,
            metadata: &object.metadata,
            fields: object.fields.iter().collect(),
            managed_fields: &object.managed_fields,
            unreadable: object.unreadable.as_deref(),
        }
    }
}

/// An object.
pub(crate) mod one {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(object: &Arc<Object>, serializer: S) -> Result<S::Ok, S::Error> {
        Encoded::from(&**object).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Object>, D::Error> {
        Decoded::deserialize(deserializer).map(Into::into)
    }
}

/// A list of objects.
pub(crate) mod many {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(objects: &[Arc<Object>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(objects.iter().map(|object| Encoded::from(&**object)))
    }

    pub(crate) fn deserialize<'de, T: FromIterator<Arc<Object>>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        Ok(Vec::<Decoded>::deserialize(deserializer)?.into_iter().map(Into::into).collect())
    }
}

/// Lists of objects by name.
pub(crate) mod named {
    use super::*;

    fn encoded(objects: &[Arc<Object>]) -> Vec<Encoded<'_>> {
        objects.iter().map(|object| Encoded::from(&**object)).collect()
    }

    type Named = BTreeMap<Cow<'static, str>, Vec<Arc<Object>>>;

    pub(crate) fn serialize<S: Serializer>(named: &Named, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(named.iter().map(|(name, objects)| (name, encoded(objects))))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Named, D::Error> {
        let decoded = BTreeMap::<String, Vec<Decoded>>::deserialize(deserializer)?;
        let objects = |objects: Vec<Decoded>| objects.into_iter().map(Into::into).collect();
        Ok(decoded.into_iter().map(|(name, decoded)| (name.into(), objects(decoded))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::WireObject;

    #[derive(Serialize, Deserialize)]
    struct Kept(#[serde(with = "one")] Arc<Object>);

    /// The belief that is attacked: that every object decodes.
    #[test]
    fn an_object_is_read_as_it_was_written_also_what_can_not_be_decoded_of_it() {
        let kind = Arc::new(GroupVersionKind::new("g", "v1", "A"));
        for json in [
            r#"{"metadata": {"name": "a", "namespace": "n", "uid": "u", "labels": {"a": "b"}, "finalizers": ["f"],
                "ownerReferences": [{"apiVersion": "v1", "kind": "B", "name": "b", "uid": "c", "controller": true}],
                "managedFields": [{"manager": "m", "operation": "Apply", "fieldsV1": {"f:spec": {".": {}}}}]},
                "spec": 1e999, "status": {"number": 12345678901234567890123}}"#,
            r#"{"metadata": {"name": "a", "labels": {"a": 1}, "managedFields": [7]}, "spec": null}"#,
            "{}",
        ] {
            let object = Arc::new(Object::new(Arc::clone(&kind), WireObject::read(json).unwrap()));
            let kept = serde_json::to_string(&Kept(Arc::clone(&object))).unwrap();
            let Kept(read) = serde_json::from_str(&kept).unwrap();
            assert_eq!(format!("{read:?}"), format!("{object:?}"));
        }
    }
}
