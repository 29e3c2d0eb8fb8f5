//! What is remembered of a subject between reconciles, as small as it can be: there is one for each handler and subject.

use std::{num::NonZeroU64, sync::Arc};

use super::state::{Common, GuestState, Share, SubjectState};
use crate::{
    contract::TriggerRequest,
    object::Object,
    plan::Memory,
    plugin::{Cursors, Handled},
    retry::Backoff,
    wanted::Findings,
};

/// A [`SubjectState`] at rest. Made from one and back, nothing is lost.
pub struct Remembered(Form);

enum Form {
    Settled(Settled),
    Whole(Box<SubjectState>),
}

/// The triggers of which it is kept in the smallest form what was handled with them.
const MARKED: [TriggerRequest; 2] = [TriggerRequest::Created, TriggerRequest::Observed];

/// As [`MARKED`], of which an old state is kept.
const WITH_OLD: TriggerRequest = TriggerRequest::Deleted;

/// Stands for [`Handled::OnRecord`].
const ON_RECORD: NonZeroU64 = NonZeroU64::MAX;

/// Of a plugin's handler: the subject was handled, and all is as the handler answered.
struct Settled {
    uid: [u8; 16],
    /// Of each of [`MARKED`].
    marks: [Option<NonZeroU64>; MARKED.len()],
    held: Option<NonZeroU64>,
    old: Option<Arc<Object>>,
    children: u16,
    /// Places in [`MARKED`].
    children_by: Option<u8>,
    patches_by: Option<u8>,
    patched: bool,
}

impl Settled {
    /// None: there is more in it.
    fn of(state: &GuestState) -> Option<Self> {
        let GuestState {
            common: Common { uid, memory, backoff, findings },
            children,
            held,
            patched,
            cursors,
            parked: None,
            told,
            conflicts,
            requeued: false,
        } = state
        else {
            return None;
        };
        let is_rest_empty = *memory == Memory::default()
            && *backoff == Backoff::default()
            && *findings == Findings::default()
            && told.is_empty()
            && conflicts.is_empty()
            && cursors.handled(&WITH_OLD).is_none()
            && cursors.triggers().all(|trigger| *trigger == WITH_OLD || MARKED.contains(trigger))
            && MARKED.iter().all(|trigger| cursors.old(trigger).is_none());
        is_rest_empty.then_some(())?;
        let [created, observed] = MARKED.each_ref().map(|trigger| mark(cursors.handled(trigger)));
        Some(Self {
            uid: packed(uid)?,
            marks: [created?, observed?],
            held: fingerprint(*held)?,
            old: cursors.old(&WITH_OLD).cloned(),
            children: u16::try_from(*children).ok()?,
            children_by: place(cursors.children.as_ref())?,
            patches_by: place(cursors.patches.as_ref())?,
            patched: *patched,
        })
    }

    fn cursors(&self) -> Cursors {
        let by = |place: Option<u8>| place.and_then(|place| MARKED.get(usize::from(place))).cloned();
        let mut cursors = Cursors::default();
        (cursors.children, cursors.patches) = (by(self.children_by), by(self.patches_by));
        for (trigger, mark) in MARKED.iter().zip(self.marks) {
            let handled =
                |mark: NonZeroU64| if mark == ON_RECORD { Handled::OnRecord } else { Handled::Here(mark.get()) };
            cursors.set_handled(trigger, mark.map(handled));
        }
        cursors.set_old(&WITH_OLD, self.old.clone());
        cursors
    }
}

impl Remembered {
    /// What it adds to the figures of its handler.
    pub fn share(&self) -> Share {
        match &self.0 {
            Form::Settled(Settled { marks, children, .. }) => {
                Share { is_handled: marks.iter().any(Option::is_some), is_parked: false, children: *children }
            }
            Form::Whole(state) => state.share(),
        }
    }
}

impl From<SubjectState> for Remembered {
    fn from(state: SubjectState) -> Self {
        Self(match state.into_guest() {
            Ok(guest) => {
                Settled::of(&guest).map_or_else(|| Form::Whole(Box::new(SubjectState::from(*guest))), Form::Settled)
            }
            Err(other) => Form::Whole(Box::new(other)),
        })
    }
}

impl From<Remembered> for SubjectState {
    fn from(Remembered(form): Remembered) -> Self {
        let settled = match form {
            Form::Whole(state) => return *state,
            Form::Settled(settled) => settled,
        };
        Self::from(GuestState {
            common: Common { uid: unpacked(settled.uid), ..Common::default() },
            children: usize::from(settled.children),
            held: settled.held.map(NonZeroU64::get),
            patched: settled.patched,
            cursors: settled.cursors(),
            ..GuestState::default()
        })
    }
}

/// None: it is a fingerprint that has no place.
fn mark(handled: Option<Handled>) -> Option<Option<NonZeroU64>> {
    match handled {
        None => Some(None),
        Some(Handled::OnRecord) => Some(Some(ON_RECORD)),
        Some(Handled::Here(mark)) => NonZeroU64::new(mark).filter(|mark| *mark != ON_RECORD).map(Some),
    }
}

/// None: it is a trigger that has no place.
fn place(trigger: Option<&TriggerRequest>) -> Option<Option<u8>> {
    let Some(trigger) = trigger else { return Some(None) };
    let place = MARKED.iter().position(|marked| marked == trigger)?;
    u8::try_from(place).ok().map(Some)
}

/// None: it is a number that has no place.
fn fingerprint(fingerprint: Option<u64>) -> Option<Option<NonZeroU64>> {
    match fingerprint {
        None => Some(None),
        Some(fingerprint) => NonZeroU64::new(fingerprint).map(Some),
    }
}

/// A uid as 16 bytes. None: it is not written as Kubernetes writes them, and could not be had back.
fn packed(uid: &str) -> Option<[u8; 16]> {
    let mut digits = uid.bytes().filter(|byte| *byte != b'-').map(|digit| (digit as char).to_digit(16));
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        *byte = u8::try_from(digits.next()?? << 4 | digits.next()??).ok()?;
    }
    (unpacked(bytes) == uid).then_some(bytes)
}

fn unpacked(bytes: [u8; 16]) -> String {
    let mut uid = String::with_capacity(36);
    for (number, byte) in bytes.into_iter().enumerate() {
        if matches!(number, 4 | 6 | 8 | 10) {
            uid.push('-');
        }
        uid.extend([byte >> 4, byte & 15].into_iter().filter_map(|digit| char::from_digit(digit.into(), 16)));
    }
    uid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled() -> GuestState {
        GuestState {
            common: Common { uid: "0f8fad5b-d9cb-469f-a165-70867728950e".to_owned(), ..Common::default() },
            children: 3,
            held: Some(7),
            patched: true,
            cursors: cursors(&[
                (TriggerRequest::Created, Handled::Here(6)),
                (TriggerRequest::Observed, Handled::Here(5)),
            ]),
            ..GuestState::default()
        }
    }

    fn cursors(handled: &[(TriggerRequest, Handled)]) -> Cursors {
        let mut cursors = Cursors::default();
        handled.iter().for_each(|(trigger, handled)| cursors.set_handled(trigger, Some(*handled)));
        cursors
    }

    fn subject() -> Arc<Object> {
        let subject = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        Arc::new(Object::from_value(&subject).unwrap())
    }

    fn is_small(state: GuestState) -> bool {
        matches!(Remembered::from(SubjectState::from(state)).0, Form::Settled(_))
    }

    #[test]
    fn what_was_handled_takes_some_tens_of_bytes() {
        assert!(size_of::<Remembered>() <= 56, "{}", size_of::<Remembered>());
        assert!(is_small(settled()));
        assert!(is_small(GuestState { held: None, ..settled() }));
        let mut on_record = cursors(&[(TriggerRequest::Created, Handled::OnRecord)]);
        on_record.set_old(&TriggerRequest::Deleted, Some(subject()));
        on_record.children = Some(TriggerRequest::Created);
        on_record.patches = Some(TriggerRequest::Observed);
        assert!(is_small(GuestState { cursors: on_record, ..settled() }));
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        let changed = |change: fn(&mut GuestState)| {
            let mut state = settled();
            change(&mut state);
            state
        };
        let changes: [fn(&mut GuestState); 16] = [
            |_| {},
            |state| state.common.uid = "not-a-uuid".to_owned(),
            |state| state.common.uid = state.common.uid.to_uppercase(),
            |state| state.common.uid.clear(),
            |state| state.children = 70_000,
            |state| state.held = Some(0),
            |state| state.parked = Some(1),
            |state| state.requeued = true,
            |state| state.cursors.children = Some(TriggerRequest::Created),
            |state| state.cursors.patches = Some(TriggerRequest::Observed),
            |state| state.cursors.patches = Some(TriggerRequest::Updated),
            |state| state.cursors.set_handled(&TriggerRequest::Created, Some(Handled::OnRecord)),
            |state| state.cursors.set_handled(&TriggerRequest::Created, Some(Handled::Here(u64::MAX))),
            |state| state.cursors.set_handled(&TriggerRequest::Updated, Some(Handled::Here(1))),
            |state| state.cursors.set_old(&TriggerRequest::Deleted, Some(subject())),
            |state| state.cursors.set_old(&TriggerRequest::Observed, Some(subject())),
        ];
        for change in changes {
            let before = changed(change);
            let mut after = SubjectState::from(Remembered::from(SubjectState::from(changed(change))));
            let after = after.guest();
            assert_eq!(before.common.uid, after.common.uid);
            for trigger in [&MARKED[0], &MARKED[1], &WITH_OLD, &TriggerRequest::Updated] {
                assert_eq!(before.cursors.handled(trigger), after.cursors.handled(trigger));
                assert_eq!(before.cursors.old(trigger).is_some(), after.cursors.old(trigger).is_some());
                assert_eq!(before.cursors.have_made(trigger), after.cursors.have_made(trigger));
            }
            assert_eq!(before.cursors.children, after.cursors.children);
            assert_eq!((before.children, before.held, before.patched), (after.children, after.held, after.patched));
            assert_eq!((before.parked, before.requeued), (after.parked, after.requeued));
            assert_eq!(before.share(), after.share());
        }
    }
}
