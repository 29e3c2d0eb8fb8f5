//! The versions of the handler interface that are served. Each has its own module with its bindings and the conversions to the
//! host's own values; nothing outside of it knows a binding's type.

pub(crate) mod v0_1;

use semver::Version;

/// The newest version that is served.
pub(crate) static SERVED: Version = Version::new(0, 1, 0);

/// Marks an error on the way to an instance: if it is none of the guest's own, the host had no room for it.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox can't be made")]
pub(crate) struct NotStarted;
