//! What the producers of a plugin's code say to the manager, which work on their own.

use super::{entry::Prepared, mount::Mounting, progress::Edition, status::Newest};

/// What a producer has to say of an edition of a plugin.
pub(super) struct Report {
    pub(super) plugin: String,
    pub(super) edition: Edition,
    pub(super) step: Step,
}

/// What a producer has done.
pub(super) enum Step {
    /// The source has handed over the bytes.
    Read,
    /// The engine has compiled them, and they have described themselves; or why not.
    Loaded(Box<Result<Prepared, Newest>>),
    /// All that these handlers watch is in sync.
    Synced(Box<(Prepared, Mounting)>),
}
