//! What is remembered of a subject between passes, as small as it can be: there is one for each handler and subject.

use std::{num::NonZeroU64, sync::Arc};

use super::state::{Common, GuestState, Share, SubjectState};
use crate::{object::Object, plan::Memory, plugin::Handled, retry::Backoff, wanted::Findings};

/// A [`SubjectState`] at rest. Made from one and back, nothing is lost.
pub struct Remembered(Form);

enum Form {
    Settled(Settled),
    Whole(Box<SubjectState>),
}

/// Of a plugin's handler: the subject was handled, and all is as the handler answered.
struct Settled {
    uid: [u8; 16],
    input: Option<NonZeroU64>,
    code: Option<NonZeroU64>,
    held: Option<NonZeroU64>,
    last_seen: Option<Arc<Object>>,
    children: u16,
    created: bool,
    children_of_created: bool,
    patches_of_created: bool,
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
            handled: Handled { created, input, code, children_of_created, patches_of_created },
            parked: None,
            told,
            requeued: false,
            last_seen,
        } = state
        else {
            return None;
        };
        let is_rest_empty = *memory == Memory::default()
            && *backoff == Backoff::default()
            && *findings == Findings::default()
            && told.is_empty();
        is_rest_empty.then_some(())?;
        Some(Self {
            uid: packed(uid)?,
            input: fingerprint(*input)?,
            code: fingerprint(*code)?,
            held: fingerprint(*held)?,
            last_seen: last_seen.clone(),
            children: u16::try_from(*children).ok()?,
            created: *created,
            children_of_created: *children_of_created,
            patches_of_created: *patches_of_created,
            patched: *patched,
        })
    }
}

impl Remembered {
    /// What it adds to the figures of its handler.
    pub fn share(&self) -> Share {
        match &self.0 {
            Form::Settled(Settled { input, created, children, .. }) => {
                Share { is_handled: input.is_some() || *created, is_parked: false, children: *children }
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
        let Settled {
            uid,
            input,
            code,
            held,
            last_seen,
            children,
            created,
            children_of_created,
            patches_of_created,
            patched,
        } = match form {
            Form::Whole(state) => return *state,
            Form::Settled(settled) => settled,
        };
        let [input, code, held] = [input, code, held].map(|fingerprint| fingerprint.map(NonZeroU64::get));
        Self::from(GuestState {
            common: Common { uid: unpacked(uid), ..Common::default() },
            children: usize::from(children),
            held,
            patched,
            handled: Handled { created, input, code, children_of_created, patches_of_created },
            last_seen,
            ..GuestState::default()
        })
    }
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
            handled: Handled { created: true, input: Some(5), code: Some(6), ..Handled::default() },
            ..GuestState::default()
        }
    }

    fn is_small(state: GuestState) -> bool {
        matches!(Remembered::from(SubjectState::from(state)).0, Form::Settled(_))
    }

    #[test]
    fn what_was_handled_takes_some_tens_of_bytes() {
        assert!(size_of::<Remembered>() <= 56, "{}", size_of::<Remembered>());
        assert!(is_small(settled()));
        assert!(is_small(GuestState { held: None, ..settled() }));
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        let changed = |change: fn(&mut GuestState)| {
            let mut state = settled();
            change(&mut state);
            state
        };
        let changes: [fn(&mut GuestState); 8] = [
            |_| {},
            |state| state.common.uid = "not-a-uuid".to_owned(),
            |state| state.common.uid = state.common.uid.to_uppercase(),
            |state| state.common.uid.clear(),
            |state| state.children = 70_000,
            |state| state.held = Some(0),
            |state| state.parked = Some(1),
            |state| state.requeued = true,
        ];
        for change in changes {
            let before = changed(change);
            let mut after = SubjectState::from(Remembered::from(SubjectState::from(changed(change))));
            let after = after.guest();
            assert_eq!(before.common.uid, after.common.uid);
            assert_eq!(before.handled, after.handled);
            assert_eq!((before.children, before.held, before.patched), (after.children, after.held, after.patched));
            assert_eq!((before.parked, before.requeued), (after.parked, after.requeued));
            assert_eq!(before.share(), after.share());
        }
    }
}
