//! Whether a handler is to be called now, and with which trigger.

use crate::contract::{Trigger, TriggerRequest};

/// What a handler is known to have handled for one subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handled {
    /// Whether `created` was handled, by this process or an earlier one.
    pub created: bool,
    /// Fingerprint of what was handed over at the last success: subject, configuration and code. None: not in this process.
    pub input: Option<u64>,
    /// As `input`, of the configuration and code alone.
    pub code: Option<u64>,
    /// Whether the children are those that were returned to `created`, and no later trigger had an opinion on them.
    pub children_of_created: bool,
    /// As `children_of_created`, of the patches.
    pub patches_of_created: bool,
}

/// What is seen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Fingerprint of what would be handed over.
    pub input: u64,
    /// As `input`, of the configuration and code alone.
    pub code: u64,
    /// Whether children are not as they were returned.
    pub drifted: bool,
    /// Whether the handler asked to be called again about now.
    pub requeued: bool,
}

/// The trigger of the next call and whether it was delivered before; none: there is nothing new to the handler.
///
/// A process that started knows no handler's children, so it asks each handler once: `observed` handlers as ever, `created`
/// handlers with `redelivery` if it is on record that they succeeded before. Of a handler of both, what `created` returned is
/// asked for by `created`.
pub fn decide(triggers: &[TriggerRequest], handled: &Handled, now: Delivery) -> Option<(Trigger, bool)> {
    let observed = triggers.contains(&TriggerRequest::Observed);
    let created = triggers.contains(&TriggerRequest::Created);
    if created && !handled.created {
        return Some((Trigger::Created, false));
    }
    let again = now.drifted || now.requeued;
    let lost = handled.code != Some(now.code);
    if observed {
        let of_created = handled.children_of_created || handled.patches_of_created;
        if created && (lost || now.drifted && of_created) {
            return Some((Trigger::Created, true));
        }
        return (again || handled.input != Some(now.input)).then_some((Trigger::Observed, false));
    }
    (created && (again || lost)).then_some((Trigger::Created, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Delivery = Delivery { input: 1, code: 2, drifted: false, requeued: false };

    fn handled() -> Handled {
        Handled { created: true, input: Some(1), code: Some(2), ..Handled::default() }
    }

    #[test]
    fn created_is_delivered_once_and_again_when_its_children_drift_or_its_state_was_lost() {
        let triggers = [TriggerRequest::Created];
        assert_eq!(decide(&triggers, &Handled::default(), NOW), Some((Trigger::Created, false)));
        assert_eq!(decide(&triggers, &handled(), NOW), None);
        assert_eq!(
            decide(&triggers, &handled(), Delivery { input: 9, ..NOW }),
            None,
            "a change of the subject is no creation"
        );
        for reason in
            [Delivery { drifted: true, ..NOW }, Delivery { code: 9, ..NOW }, Delivery { requeued: true, ..NOW }]
        {
            assert_eq!(decide(&triggers, &handled(), reason), Some((Trigger::Created, true)));
        }
        let after_a_restart = Handled { created: true, ..Handled::default() };
        assert_eq!(decide(&triggers, &after_a_restart, NOW), Some((Trigger::Created, true)));
    }

    #[test]
    fn observed_is_delivered_at_each_change() {
        let triggers = [TriggerRequest::Observed];
        assert_eq!(decide(&triggers, &Handled::default(), NOW), Some((Trigger::Observed, false)));
        assert_eq!(decide(&triggers, &handled(), NOW), None);
        for reason in
            [Delivery { input: 9, ..NOW }, Delivery { drifted: true, ..NOW }, Delivery { requeued: true, ..NOW }]
        {
            assert_eq!(decide(&triggers, &handled(), reason), Some((Trigger::Observed, false)));
        }
    }

    #[test]
    fn a_handler_of_both_hears_of_the_creation_first() {
        let triggers = [TriggerRequest::Observed, TriggerRequest::Created];
        assert_eq!(decide(&triggers, &Handled::default(), NOW), Some((Trigger::Created, false)));
        let after = Handled { input: None, ..handled() };
        assert_eq!(decide(&triggers, &after, NOW), Some((Trigger::Observed, false)));
    }

    #[test]
    fn of_a_handler_of_both_what_created_returned_is_asked_for_by_created() {
        let triggers = [TriggerRequest::Observed, TriggerRequest::Created];
        let after_a_restart = Handled { created: true, ..Handled::default() };
        assert_eq!(decide(&triggers, &after_a_restart, NOW), Some((Trigger::Created, true)));
        let drifted = Delivery { drifted: true, ..NOW };
        assert_eq!(decide(&triggers, &handled(), drifted), Some((Trigger::Observed, false)));
        for of_created in
            [Handled { children_of_created: true, ..handled() }, Handled { patches_of_created: true, ..handled() }]
        {
            assert_eq!(decide(&triggers, &of_created, drifted), Some((Trigger::Created, true)));
            assert_eq!(decide(&triggers, &of_created, Delivery { input: 9, ..NOW }), Some((Trigger::Observed, false)));
        }
    }

    #[test]
    fn who_asked_for_neither_is_not_called() {
        assert_eq!(decide(&[TriggerRequest::Deleted], &Handled::default(), Delivery { drifted: true, ..NOW }), None);
    }
}
