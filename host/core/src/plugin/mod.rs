//! Everything about plugins that can be decided without running one: names, subscriptions, grants, and what an answer may hold.

mod answer;
mod budget;
mod cursor;
mod delivery;
mod pods;
mod program;
mod projection;
mod rights;
mod subscription;
mod traces;

pub use answer::accept;
pub use budget::ApplyBudget;
pub use cursor::{Cursor, Cursors, Handled};
pub use delivery::{Delivery, Seen, There, decide};
pub use program::Program;
pub use projection::{FieldPathError, Projection, check_field_path};
pub use rights::Rights;
pub use subscription::{Filtered, Mounted, SubscriptionError, unserved};
pub use traces::removal;

use std::collections::BTreeMap;

pub use crate::names::{HANDLER_LABEL, KEY_ANNOTATION, PLUGIN_LABEL, RETRY_ANNOTATION, SUBJECT_UID_LABEL};

/// Longest name of a DaskPlugin: it is a label value and part of a field manager.
pub const PLUGIN_NAME_MAX: usize = 63;
/// Longest name of a handler. `dask-plugin/` + 63 + `/` + 40 is below the 128 that a field manager may have.
pub const HANDLER_NAME_MAX: usize = 40;
const _: () = assert!("dask-plugin/".len() + PLUGIN_NAME_MAX + 1 + HANDLER_NAME_MAX <= 128);

/// Which handler of which plugin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandlerName {
    /// Name of the DaskPlugin: never what the plugin says of itself.
    pub plugin: String,
    /// The handler.
    pub handler: String,
}

impl HandlerName {
    /// The field manager under which the handler's children and patches are applied.
    pub fn field_manager(&self) -> String {
        format!("dask-plugin/{}/{}", self.plugin, self.handler)
    }

    /// Labels by which the handler's children for a subject are found.
    pub fn labels(&self, subject_uid: &str) -> BTreeMap<String, String> {
        BTreeMap::from([
            (PLUGIN_LABEL.to_owned(), self.plugin.clone()),
            (HANDLER_LABEL.to_owned(), self.handler.clone()),
            (SUBJECT_UID_LABEL.to_owned(), subject_uid.to_owned()),
        ])
    }
}

impl std::fmt::Display for HandlerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.plugin, self.handler)
    }
}
