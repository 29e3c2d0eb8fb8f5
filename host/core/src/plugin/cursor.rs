//! How far a handler has come with each of its triggers, for one subject.

use std::sync::Arc;

use crate::{contract::TriggerRequest, object::Object};

/// How far a handler has come with one trigger.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// What was handled last; none: nothing yet.
    pub handled: Option<Handled>,
    /// The subject as it was then, for triggers that hand over an old state. It is the object of the index, not a copy, and one
    /// at most.
    pub old: Option<Arc<Object>>,
}

/// What was handled last, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// By this process: the fingerprint of what counts for the trigger, see [`super::Delivery::mark`].
    Here(u64),
    /// By an earlier process, which put it on record.
    OnRecord,
}

/// The cursors of one handler for one subject, and the triggers to which it returned what it wants.
#[derive(Clone, Debug, Default)]
pub struct Cursors {
    /// Of the triggers with which something was handled or seen.
    cursors: Vec<(TriggerRequest, Cursor)>,
    /// The trigger whose answer the children are; none: no answer had an opinion on them.
    pub children: Option<TriggerRequest>,
    /// As `children`, of the patches.
    pub patches: Option<TriggerRequest>,
}

impl Cursors {
    /// What was handled last with a trigger.
    pub fn handled(&self, trigger: &TriggerRequest) -> Option<Handled> {
        self.of(trigger).and_then(|cursor| cursor.handled)
    }

    /// The old state of a trigger.
    pub fn old(&self, trigger: &TriggerRequest) -> Option<&Arc<Object>> {
        self.of(trigger).and_then(|cursor| cursor.old.as_ref())
    }

    /// Notes what was handled with a trigger; none: it is delivered afresh.
    pub fn set_handled(&mut self, trigger: &TriggerRequest, handled: Option<Handled>) {
        self.change(trigger, |cursor| cursor.handled = handled);
    }

    /// Keeps a state for a trigger.
    pub fn set_old(&mut self, trigger: &TriggerRequest, old: Option<Arc<Object>>) {
        self.change(trigger, |cursor| cursor.old = old);
    }

    /// Whether this process or an earlier one has handled something.
    pub fn has_handled(&self) -> bool {
        self.cursors.iter().any(|(_, cursor)| cursor.handled.is_some())
    }

    /// Whether this process has handled something.
    pub fn has_handled_here(&self) -> bool {
        self.cursors.iter().any(|(_, cursor)| matches!(cursor.handled, Some(Handled::Here(_))))
    }

    /// Whether an old state is kept.
    pub fn has_old(&self) -> bool {
        self.cursors.iter().any(|(_, cursor)| cursor.old.is_some())
    }

    /// Whether children or patches are what the handler returned to this trigger.
    pub fn have_made(&self, trigger: &TriggerRequest) -> bool {
        [&self.children, &self.patches].into_iter().any(|by| by.as_ref() == Some(trigger))
    }

    /// The triggers that have a cursor.
    pub fn triggers(&self) -> impl Iterator<Item = &TriggerRequest> {
        self.cursors.iter().map(|(trigger, _)| trigger)
    }

    fn of(&self, trigger: &TriggerRequest) -> Option<&Cursor> {
        self.cursors.iter().find(|(of, _)| of == trigger).map(|(_, cursor)| cursor)
    }

    fn change(&mut self, trigger: &TriggerRequest, change: impl FnOnce(&mut Cursor)) {
        let mut cursor = self.of(trigger).cloned().unwrap_or_default();
        change(&mut cursor);
        self.cursors.retain(|(of, _)| of != trigger);
        if cursor.handled.is_some() || cursor.old.is_some() {
            self.cursors.push((trigger.clone(), cursor));
        }
    }
}
