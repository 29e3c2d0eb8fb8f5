//! Whether a handler is to be called now, and with which trigger: one decision, from the cursors of its triggers and from what is
//! seen. What is special about a trigger stands in its [`Row`].

use std::sync::Arc;

use super::cursor::{Cursors, Handled};
use crate::{
    contract::{Trigger, TriggerRequest},
    object::Object,
};

/// What is seen of a subject now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is there.
    There(There),
    /// It is gone.
    Gone,
}

/// A subject that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct There {
    /// Fingerprint of what would be handed over: subject, configuration and code.
    pub input: u64,
    /// As `input`, of the configuration and code alone.
    pub code: u64,
    /// Whether children or patches are not as they were returned.
    pub drifted: bool,
    /// Whether the handler asked to be called again about now.
    pub requeued: bool,
}

/// The next call.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Which of the handler's triggers it is.
    pub request: TriggerRequest,
    /// The trigger as it is handed over.
    pub trigger: Trigger,
    /// Whether it was delivered before.
    pub redelivery: bool,
    /// Fingerprint of what counts for the trigger. While it stays the same, the trigger is due again only for what the handler
    /// returned to it, or on requeue.
    pub mark: u64,
    /// The state that the trigger's cursor has kept.
    pub old: Option<Arc<Object>>,
}

/// A trigger that a handler asked for, with what is special about it.
struct Row<'a> {
    request: &'a TriggerRequest,
    trigger: Trigger,
    /// See [`Delivery::mark`].
    mark: u64,
    /// Whether it tells of a change. Then it goes before those that tell of a state, and says so when it is delivered again.
    is_edge: bool,
}

impl<'a> Row<'a> {
    /// None: it is not due for what is seen, whatever was handled, or is not served.
    fn of(request: &'a TriggerRequest, seen: Seen) -> Option<Self> {
        let (trigger, mark, is_edge) = match (request, seen) {
            // A process that started knows no handler's children, and asks once more for them.
            (TriggerRequest::Created, Seen::There(there)) => (Trigger::Created, there.code, true),
            (TriggerRequest::Observed, Seen::There(there)) => (Trigger::Observed, there.input, false),
            // There is one end.
            (TriggerRequest::Deleted, Seen::Gone) => (Trigger::Deleted, 0, true),
            _ => return None,
        };
        Some(Self { request, trigger, mark, is_edge })
    }
}

/// Whether a trigger is served by this version.
pub(super) fn is_served(request: &TriggerRequest) -> bool {
    [Seen::There(There::default()), Seen::Gone].into_iter().any(|seen| Row::of(request, seen).is_some())
}

/// The next call; none: there is nothing new to the handler.
///
/// A trigger is due if its mark is not the one that this process has handled with it. What drifted is asked for by the trigger to
/// which the handler returned it; who asked to be called again is called with the last trigger, which tells of the state if the
/// handler wants to hear of that.
pub fn decide(triggers: &[TriggerRequest], cursors: &Cursors, seen: Seen) -> Option<Delivery> {
    let mut rows: Vec<_> = triggers.iter().filter_map(|request| Row::of(request, seen)).collect();
    rows.sort_by_key(|row| !row.is_edge);
    let last = rows.last().map(|row| row.request);
    let (drifted, requeued) = match seen {
        Seen::There(There { drifted, requeued, .. }) => (drifted, requeued),
        Seen::Gone => (false, false),
    };
    let is_due = |row: &Row<'_>| {
        let is_new = cursors.handled(row.request) != Some(Handled::Here(row.mark));
        let is_last = last == Some(row.request);
        is_new || drifted && (is_last || cursors.have_made(row.request)) || requeued && is_last
    };
    let row = rows.iter().position(is_due).map(|due| rows.swap_remove(due))?;
    Some(Delivery {
        redelivery: row.is_edge && cursors.handled(row.request).is_some(),
        old: cursors.old(row.request).cloned(),
        request: row.request.clone(),
        trigger: row.trigger,
        mark: row.mark,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::contract::TriggerRequest::{Created, Deleted, Observed};

    const NOW: There = There { input: 1, code: 2, drifted: false, requeued: false };

    /// Trigger and redelivery.
    fn decided(triggers: &[TriggerRequest], cursors: &Cursors, there: There) -> Option<(Trigger, bool)> {
        decide(triggers, cursors, Seen::There(there)).map(|Delivery { trigger, redelivery, .. }| (trigger, redelivery))
    }

    fn cursors(handled: &[(TriggerRequest, Handled)]) -> Cursors {
        let mut cursors = Cursors::default();
        handled.iter().for_each(|(trigger, handled)| cursors.set_handled(trigger, Some(*handled)));
        cursors
    }

    /// Both triggers have handled what there is [`NOW`].
    fn handled() -> Cursors {
        cursors(&[(Created, Handled::Here(2)), (Observed, Handled::Here(1))])
    }

    fn after_a_restart() -> Cursors {
        cursors(&[(Created, Handled::OnRecord)])
    }

    #[test]
    fn created_is_delivered_once_and_again_when_its_children_drift_or_its_state_was_lost() {
        let triggers = [Created];
        assert_eq!(decided(&triggers, &Cursors::default(), NOW), Some((Trigger::Created, false)));
        assert_eq!(decided(&triggers, &handled(), NOW), None);
        assert_eq!(
            decided(&triggers, &handled(), There { input: 9, ..NOW }),
            None,
            "a change of the subject is no creation"
        );
        for reason in [There { drifted: true, ..NOW }, There { code: 9, ..NOW }, There { requeued: true, ..NOW }] {
            assert_eq!(decided(&triggers, &handled(), reason), Some((Trigger::Created, true)));
        }
        assert_eq!(decided(&triggers, &after_a_restart(), NOW), Some((Trigger::Created, true)));
    }

    #[test]
    fn observed_is_delivered_at_each_change() {
        let triggers = [Observed];
        assert_eq!(decided(&triggers, &Cursors::default(), NOW), Some((Trigger::Observed, false)));
        assert_eq!(decided(&triggers, &handled(), NOW), None);
        for reason in [There { input: 9, ..NOW }, There { drifted: true, ..NOW }, There { requeued: true, ..NOW }] {
            assert_eq!(decided(&triggers, &handled(), reason), Some((Trigger::Observed, false)));
        }
    }

    #[test]
    fn a_handler_of_both_hears_of_the_creation_first_in_whichever_order_it_asks() {
        for triggers in [[Observed, Created], [Created, Observed]] {
            assert_eq!(decided(&triggers, &Cursors::default(), NOW), Some((Trigger::Created, false)));
            let after = cursors(&[(Created, Handled::Here(2))]);
            assert_eq!(decided(&triggers, &after, NOW), Some((Trigger::Observed, false)));
        }
    }

    #[test]
    fn of_a_handler_of_both_what_created_returned_is_asked_for_by_created() {
        let triggers = [Observed, Created];
        assert_eq!(decided(&triggers, &after_a_restart(), NOW), Some((Trigger::Created, true)));
        let drifted = There { drifted: true, ..NOW };
        assert_eq!(decided(&triggers, &handled(), drifted), Some((Trigger::Observed, false)));
        for (children, patches) in [(Created, None), (Observed, Some(Created))] {
            let mut of_created = handled();
            (of_created.children, of_created.patches) = (Some(children), patches);
            assert_eq!(decided(&triggers, &of_created, drifted), Some((Trigger::Created, true)));
            for reason in [There { input: 9, ..NOW }, There { requeued: true, ..NOW }] {
                assert_eq!(decided(&triggers, &of_created, reason), Some((Trigger::Observed, false)));
            }
        }
    }

    #[test]
    fn who_asked_for_neither_is_not_called() {
        assert_eq!(decided(&[Deleted], &Cursors::default(), There { drifted: true, ..NOW }), None);
    }

    #[test]
    fn of_the_end_hears_who_asked_for_it_with_the_state_that_was_kept() {
        let subject = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        let subject = Arc::new(Object::from_value(&subject).unwrap());
        let mut cursors = handled();
        cursors.set_old(&Deleted, Some(Arc::clone(&subject)));
        let end = decide(&[Created, Deleted, Observed], &cursors, Seen::Gone).unwrap();
        assert_eq!((end.trigger, end.redelivery), (Trigger::Deleted, false));
        assert!(end.old.is_some_and(|old| Arc::ptr_eq(&old, &subject)));
        assert!(decide(&[Created, Observed], &cursors, Seen::Gone).is_none());
    }
}
