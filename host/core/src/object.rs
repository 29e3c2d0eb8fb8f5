//! Kubernetes objects as the operator observes them.
//!
//! An [`Object`] is decoded only as far as ownership, selection and drift need: everything else stays JSON text, so that
//! fields that are newer than us pass through and a thousand objects take little memory.

mod depth;
mod part;
pub(crate) mod recorded;
mod top_fields;
mod unreadable;
mod wire;

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    ser::{Error as _, SerializeMap},
};
use serde_json::{Map, Value, json, value::RawValue};

use crate::names::PAUSED;
pub use depth::{DEEPEST, nests_deeper};
pub use part::Part;
pub use top_fields::TopFields;
pub use unreadable::Unreadable;
pub use wire::WireObject;

/// Group, version and kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupVersionKind {
    /// `""` for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// `Deployment`.
    pub kind: String,
}

impl GroupVersionKind {
    /// From its three parts.
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Self { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() }
    }

    /// Whether Kubernetes itself serves it, as far as the group tells: those of custom kinds are domains of others. Its
    /// lists have merge keys, its fields have defaults, and what is empty is dropped.
    pub fn is_built_in(&self) -> bool {
        !self.group.contains('.') || self.group.ends_with(".k8s.io")
    }

    /// Whether it is a kind of Kubernetes' own in which pods are described.
    pub fn describes_pods(&self) -> bool {
        match self.group.as_str() {
            "" => matches!(self.kind.as_str(), "Pod" | "PodTemplate" | "ReplicationController"),
            group => matches!(group, "apps" | "batch"),
        }
    }

    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// From an object's `apiVersion` and `kind`.
    pub fn from_api_version(api_version: &str, kind: &str) -> Self {
        match api_version.split_once('/') {
            Some((group, version)) => Self::new(group, version, kind),
            None => Self::new("", api_version, kind),
        }
    }

    /// Whether both are the same kind of the same group, whatever the version.
    pub fn same_kind(&self, other: &Self) -> bool {
        self.group == other.group && self.kind == other.kind
    }
}

/// Ends the kind under which only the metadata of objects is kept. No kind of the API has a dot.
const OF_METADATA: &str = ".metadata";

impl GroupVersionKind {
    /// The kind of the API, if only the metadata of its objects is kept under this one.
    pub fn of_metadata(&self) -> Option<Self> {
        let kind = self.kind.strip_suffix(OF_METADATA)?;
        Some(Self { kind: kind.to_owned(), ..self.clone() })
    }
}

impl fmt::Display for GroupVersionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.kind) } else { write!(f, "{}.{}", self.kind, self.group) }
    }
}

/// A kind that the API server serves: what is needed to build a URL for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Resource {
    /// The kind.
    pub kind: GroupVersionKind,
    /// Its plural name in URLs and access rules, `deployments`.
    pub plural: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

impl Resource {
    /// The same, of which only the metadata is asked for and kept, under a kind of its own, which the API server does not know.
    #[must_use]
    pub fn metadata_only(&self) -> Self {
        let kind = GroupVersionKind { kind: format!("{}{OF_METADATA}", self.kind.kind), ..self.kind.clone() };
        Self { kind, ..self.clone() }
    }
}

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamespacedName {
    /// None for cluster-scoped objects.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

impl NamespacedName {
    /// An object in a namespace.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), name: name.to_owned() }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Which object: kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// The kind.
    pub kind: GroupVersionKind,
    /// Namespace and name.
    pub at: NamespacedName,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.at)
    }
}

/// An owner reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerReference {
    /// `kubernetes.dask.org/v1`.
    pub api_version: String,
    /// Kind of the owner.
    pub kind: String,
    /// Name of the owner.
    pub name: String,
    /// Uid of the owner: what counts.
    pub uid: String,
    /// Whether it is the managing owner, of which there is one at most.
    #[serde(default, skip_serializing_if = "is_false")]
    pub controller: bool,
    /// Whether foreground deletion of the owner waits for this object.
    #[serde(default, skip_serializing_if = "is_false")]
    pub block_owner_deletion: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// For `#[serde(serialize_with = "…")]`.
pub(crate) fn shared<T: Serialize + ?Sized, S: Serializer>(value: &Arc<T>, serializer: S) -> Result<S::Ok, S::Error> {
    value.serialize(serializer)
}

/// For `#[serde(deserialize_with = "…")]`.
pub(crate) fn to_be_shared<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Arc<T>, D::Error> {
    T::deserialize(deserializer).map(Arc::new)
}

fn list_to_be_shared<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[T]>, D::Error> {
    Vec::deserialize(deserializer).map(Into::into)
}

fn is_empty_map(map: &BTreeMap<String, String>) -> bool {
    map.is_empty()
}

/// An object's metadata, without `managedFields`. What many objects have in common can be shared between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Name.
    pub name: String,
    /// Namespace; none for cluster-scoped objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Identity over time: an object made anew under the same name has another.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Version of the stored object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Counts changes of the specification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// RFC 3339; set when the object is being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
    /// Labels.
    #[serde(skip_serializing_if = "is_empty_map", serialize_with = "shared", deserialize_with = "to_be_shared")]
    pub labels: Arc<BTreeMap<String, String>>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Owners.
    #[serde(
        skip_serializing_if = "<[_]>::is_empty",
        serialize_with = "shared",
        deserialize_with = "list_to_be_shared"
    )]
    pub owner_references: Arc<[OwnerReference]>,
    /// Finalizers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
}

impl Metadata {
    /// The managing owner.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.controller)
    }
}

/// What one field manager holds of an object: an entry of `metadata.managedFields`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedFields {
    /// The manager's name.
    #[serde(default)]
    pub manager: String,
    /// `Apply` or `Update`.
    #[serde(default)]
    pub operation: String,
    /// `status` for what was written through the status subresource.
    #[serde(default)]
    pub subresource: String,
    /// The set of fields as JSON text, in Kubernetes' `FieldsV1` form.
    #[serde(default, rename = "fieldsV1", serialize_with = "as_json", deserialize_with = "json_text")]
    pub fields: Option<Arc<str>>,
}

impl ManagedFields {
    /// The set of fields.
    pub fn decoded(&self) -> Option<Value> {
        serde_json::from_str(self.fields.as_deref()?).ok()
    }
}

fn as_json<S: Serializer>(text: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    let raw = text.as_deref().map(serde_json::from_str::<&RawValue>).transpose();
    raw.map_err(S::Error::custom)?.serialize(serializer)
}

fn json_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<str>>, D::Error> {
    let raw = Option::<Box<RawValue>>::deserialize(deserializer)?;
    Ok(raw.map(|raw| Box::<str>::from(raw).into()))
}

/// An object as it was observed.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its kind.
    pub kind: Arc<GroupVersionKind>,
    /// Its metadata.
    pub metadata: Metadata,
    /// The top-level fields besides `apiVersion`, `kind` and `metadata`.
    pub fields: TopFields,
    /// Entries of `metadata.managedFields`.
    pub managed_fields: Vec<ManagedFields>,
    /// Why nothing may be concluded from the rest: the object is there, and not all of it can be read.
    pub unreadable: Option<Box<Unreadable>>,
}

impl Object {
    /// Gives a decoded object its kind: items of a list don't carry one.
    pub fn new(kind: Arc<GroupVersionKind>, wire: WireObject) -> Self {
        let WireObject { metadata, managed_fields, fields, unreadable, .. } = wire;
        Self { kind, metadata, fields, managed_fields, unreadable }
    }

    /// From a whole object, `apiVersion` and `kind` included.
    ///
    /// # Errors
    /// When it is not a JSON object.
    pub fn from_value(value: &Value) -> Result<Self, serde_json::Error> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
        let kind = GroupVersionKind::from_api_version(text("apiVersion"), text("kind"));
        Ok(Self::new(Arc::new(kind), WireObject::read(&value.to_string())?))
    }

    /// Kind, namespace and name.
    pub fn key(&self) -> ObjectKey {
        ObjectKey { kind: (*self.kind).clone(), at: self.at() }
    }

    /// Namespace and name.
    pub fn at(&self) -> NamespacedName {
        NamespacedName { namespace: self.metadata.namespace.clone(), name: self.metadata.name.clone() }
    }

    /// One top-level field, decoded.
    pub fn field<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Option<Result<T, serde_json::Error>> {
        self.fields.get(name).map(|raw| serde_json::from_str(raw.get()))
    }

    /// The whole object without `managedFields`, decoded. A field that can't be (a number that no computer has room for) is
    /// null.
    pub fn to_value(&self) -> Value {
        let mut object = Map::new();
        object.insert("apiVersion".to_owned(), json!(self.kind.api_version()));
        object.insert("kind".to_owned(), json!(self.kind.kind));
        object.insert("metadata".to_owned(), json!(self.metadata));
        for (name, raw) in self.fields.iter() {
            object.insert(name.to_owned(), serde_json::from_str(raw.get()).unwrap_or_default());
        }
        object.into()
    }

    /// The whole object without `managedFields`, as JSON text.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an object that was decoded from JSON can be encoded as JSON")
    }

    /// See [`PAUSED`].
    pub fn is_paused(&self) -> bool {
        self.metadata.annotations.get(PAUSED).is_some_and(|value| value == "true")
    }

    /// What a manager holds through `apply` on the object itself (not on a subresource).
    pub fn applied_by(&self, manager: &str) -> Option<&ManagedFields> {
        self.applied_through("", manager)
    }

    /// What a manager holds through `apply` on the status.
    pub fn status_applied_by(&self, manager: &str) -> Option<&ManagedFields> {
        self.applied_through("status", manager)
    }

    fn applied_through(&self, subresource: &str, manager: &str) -> Option<&ManagedFields> {
        self.managed_fields
            .iter()
            .find(|entry| entry.manager == manager && entry.operation == "Apply" && entry.subresource == subresource)
    }

    /// Whether its metadata prove whose it is.
    pub fn has_readable_metadata(&self) -> bool {
        !self.unreadable.as_ref().is_some_and(|unreadable| unreadable.is_in_metadata())
    }

    /// Whether the object is on its way out.
    pub fn is_being_deleted(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether the subject of this uid manages the object.
    pub fn is_controlled_by(&self, uid: &str) -> bool {
        self.metadata.controller().is_some_and(|owner| owner.uid == uid)
    }

    /// A controller reference to this object, for its children.
    pub fn as_owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: self.kind.api_version(),
            kind: self.kind.kind.clone(),
            name: self.metadata.name.clone(),
            uid: self.metadata.uid.clone(),
            controller: true,
            block_owner_deletion: true,
        }
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len() + 3))?;
        map.serialize_entry("apiVersion", &self.kind.api_version())?;
        map.serialize_entry("kind", &self.kind.kind)?;
        map.serialize_entry("metadata", &self.metadata)?;
        for (name, value) in self.fields.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_pass_through_and_managed_fields_are_kept_apart() {
        let whole = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "namespace": "n", "uid": "u", "managedFields": [
                {"manager": "m", "operation": "Apply", "fieldsV1": {"f:spec": {}}}]},
            "spec": {"template": {"spec": {"newerThanUs": {"b": 1}}}},
        });
        let object = Object::from_value(&whole).unwrap();
        assert!(object.applied_by("m").is_some());
        let mut expected = whole;
        expected["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(object.to_value(), expected);
    }

    #[test]
    fn a_field_that_can_not_be_decoded_is_null() {
        let wire = WireObject::read(r#"{"metadata": {"name": "a"}, "spec": 1e999, "data": {}}"#).unwrap();
        let value = Object::new(Arc::new(GroupVersionKind::new("", "v1", "A")), wire).to_value();
        assert_eq!((&value["spec"], &value["data"]), (&Value::Null, &json!({})));
    }
}
