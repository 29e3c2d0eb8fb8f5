//! A subject that can't be read is there: what was made for it stays as it is until it can be read again, or goes.

use crate::{object::Object, wanted::Problem};

/// Why nothing is done for a subject before it can be read. None: it can, or it is on its way out, for which nothing of it has to
/// be read.
pub(super) fn unreadable(subject: &Object) -> Option<Problem> {
    Problem::with_subject(subject).filter(|_| !subject.is_being_deleted())
}
