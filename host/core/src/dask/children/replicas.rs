//! A number of workers that one object copies to another that is scaled by itself, too: a DaskCluster to its default group, a
//! DaskJob to its DaskCluster.

use serde_json::{Value, json};

use crate::{
    fields,
    object::{ManagedFields, Object},
    wanted::WantedChild,
};

/// The value of `spec.worker.replicas` that was last copied to the object. Its own value counts until the one that it was
/// copied from changes: scaling writes only this object.
pub(crate) const COPIED_REPLICAS: &str = "operator.dask.org/copied-replicas";

/// Where kopf 1.x notes what it has handled, as JSON, unless it is told otherwise, which the Python operator does not.
pub const KOPF_LAST_HANDLED: &str = "kopf.zalando.org/last-handled-configuration";

/// A number of workers, and where it comes from.
pub(in crate::dask) struct Copied<'a> {
    /// The object that asks for it.
    pub(in crate::dask) source: &'a Object,
    /// Where it stands there.
    pub(in crate::dask) path: &'static str,
    /// The number.
    pub(in crate::dask) asked: u32,
}

impl Copied<'_> {
    /// Writes the number to `spec.worker.replicas` of a child, or leaves it to whoever has scaled the child since.
    pub(in crate::dask) fn write(&self, child: WantedChild, live: Option<&Object>, manager: &str) -> WantedChild {
        let WantedChild { mut object, .. } = child;
        let replicas = self.replicas(live, manager);
        if let Some(worker) = object["spec"]["worker"].as_object_mut() {
            match replicas {
                Some(replicas) => worker.insert("replicas".to_owned(), json!(replicas)),
                None => worker.remove("replicas"),
            };
        }
        object["metadata"]["annotations"][COPIED_REPLICAS] = json!(self.asked.to_string());
        WantedChild { object, guarded: live.is_some() && replicas.is_some(), ..child }
    }

    /// The value to apply; none: it is in other hands, say nothing of it.
    ///
    /// Server-side apply removes a field that its manager stops to send. So while the field is ours, the live value is sent
    /// back, guarded against a change in between; once somebody else scales the child, the field is theirs.
    fn replicas(&self, live: Option<&Object>, manager: &str) -> Option<u32> {
        let Some(live) = live else { return Some(self.asked) };
        let copied = live.metadata.annotations.get(COPIED_REPLICAS).and_then(|text| text.parse().ok());
        if copied.or_else(|| self.copied_by_python()).is_some_and(|copied| copied != self.asked) {
            return Some(self.asked);
        }
        let held = live.applied_by(manager).and_then(ManagedFields::decoded)?;
        if !fields::holds(&held, &["spec", "worker", "replicas"]) {
            return None;
        }
        number(&live.field("spec")?.ok()?, "/worker/replicas")
    }

    /// The number that the Python operator saw last: what was changed after that it has not copied.
    fn copied_by_python(&self) -> Option<u32> {
        let handled: Value = serde_json::from_str(self.source.metadata.annotations.get(KOPF_LAST_HANDLED)?).ok()?;
        number(&handled, self.path)
    }
}

fn number(value: &Value, path: &str) -> Option<u32> {
    value.pointer(path).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok())
}
