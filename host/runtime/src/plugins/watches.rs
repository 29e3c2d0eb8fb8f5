//! What the handlers of a plugin need to be watched.

use dask_wasm_operator_core::{
    contract::{KindReference, TriggerRequest},
    dask::Reconciler,
    error::chain,
    native::Native as _,
    object::{GroupVersionKind, Part, Resource},
    pipeline::MountedHandler,
    plugin::PLUGIN_LABEL,
    spec::{DASK_PLUGIN_RECORD, HandlerState, HandlerStatus},
};

use super::mount::Mounting;
use crate::watches::served::{Interest, Party, ServedWatch, ServedWatches};

/// Starts what the handlers need. A handler whose watches can't be started is not served, and its status says so.
pub(super) fn start_watches(
    mounting: &mut Mounting,
    served: &ServedWatches,
    resolve: &dyn Fn(&KindReference) -> Result<Resource, String>,
) -> Vec<ServedWatch> {
    let mut watches = Vec::new();
    let Mounting { handlers, statuses, .. } = mounting;
    handlers.retain(|handler| {
        let interests = interests(handler, resolve).into_iter();
        match interests.map(|interest| served.start(interest, Party::Plugin)).collect::<Result<Vec<_>, _>>() {
            Ok(started) => {
                watches.extend(started);
                true
            }
            Err(error) => {
                refuse(statuses, &handler.name.handler, "InvalidSubscription", &chain(&error));
                false
            }
        }
    });
    watches
}

/// A handler's subjects, the children that plugins make, and the records of what was handled.
fn interests(handler: &MountedHandler, resolve: &dyn Fn(&KindReference) -> Result<Resource, String>) -> Vec<Interest> {
    let named = |kind: &GroupVersionKind| {
        resolve(&KindReference {
            group: Some(kind.group.clone()),
            version: Some(kind.version.clone()),
            name: kind.kind.clone(),
        })
        .ok()
    };
    let labels = handler.declaration.subscription.labels.clone();
    // What reconcilers of the operator look at they find whole, whatever its labels.
    let part = if is_native(&handler.subject.kind) { Part::Whole } else { handler.part() };
    let mut interests = vec![Interest { resource: handler.subject.clone(), labels, part }];
    let children = handler.children.iter().filter_map(named);
    interests.extend(children.map(|resource| Interest {
        resource,
        labels: Some(PLUGIN_LABEL.to_owned()),
        part: Part::Whole,
    }));
    if handler.declaration.triggers.contains(&TriggerRequest::Created) {
        let records = named(&DASK_PLUGIN_RECORD.group_version_kind());
        interests.extend(records.map(|resource| Interest { resource, labels: None, part: Part::Whole }));
    }
    interests
}

fn is_native(kind: &GroupVersionKind) -> bool {
    let is_of = |reconciler: &Reconciler| {
        reconciler.subject().same_kind(kind) || reconciler.children().iter().any(|child| child.same_kind(kind))
    };
    Reconciler::ALL.iter().any(is_of)
}

fn refuse(statuses: &mut [HandlerStatus], handler: &str, reason: &str, message: &str) {
    if let Some(status) = statuses.iter_mut().find(|status| status.name == handler) {
        status.state = HandlerState::NotServed;
        status.reason = Some(reason.to_owned());
        status.message = Some(message.to_owned());
    }
}
