//! What has never run gets a corrected template at once.

use std::cell::LazyCell;

use super::{DeploymentStatus, Pods};
use crate::{
    object::Object,
    template::TEMPLATE_HASH,
    wanted::{OnNewTemplate, WantedChild},
};

/// A Deployment whose pods are left alone when its template changes, unless there is surely nothing to leave alone: what has
/// never run holds no work, and a corrected template is what it waits for. It is written only if nothing changes meanwhile.
pub(in crate::dask) fn corrected<'a>(
    child: WantedChild,
    live: Option<&Object>,
    pods: &LazyCell<Pods<'a>, impl FnOnce() -> Pods<'a>>,
) -> WantedChild {
    // Of one that another operator made, the API server is asked first whether the template is another at all.
    let is_stamped = |live: &Object| live.metadata.annotations.contains_key(TEMPLATE_HASH);
    let has_work = |live: &Object| DeploymentStatus::of(live).has_started() || !pods.have_never_run(live);
    if live.is_none_or(|live| !is_stamped(live) || has_work(live)) {
        return child;
    }
    WantedChild { guarded: true, on_new_template: OnNewTemplate::Apply, ..child }
}
