//! What is remembered between reconciles, by subject and handler.
//!
//! There may be hundreds of handlers of each of thousands of subjects: a subject's name is kept once, and each handler that was
//! called for it has a place of some tens of bytes beside it.

use std::collections::HashMap;

use dask_wasm_operator_core::{
    object::NamespacedName,
    pipeline::{Remembered, Share, SubjectState},
};

use super::Work;

/// See the module.
#[derive(Default)]
pub(super) struct States {
    subjects: HashMap<NamespacedName, Vec<(Number, Place)>>,
    works: HashMap<Work, Known>,
    last: Number,
}

/// Stands for a [`Work`].
type Number = u32;

/// A work, and the sums over its subjects.
#[derive(Default)]
struct Known {
    number: Number,
    sums: Sums,
}

/// What the subjects of a handler add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) subjects: usize,
    pub(super) parked: usize,
    pub(super) children: usize,
}

enum Place {
    AtRest(Remembered),
    /// Its reconcile has it.
    Taken(Share),
}

impl Place {
    fn share(&self) -> Share {
        match self {
            Self::AtRest(remembered) => remembered.share(),
            Self::Taken(share) => *share,
        }
    }
}

impl Sums {
    fn replace(&mut self, before: Share, after: Share) {
        let changed = |sum: usize, before: usize, after: usize| (sum + after).saturating_sub(before);
        self.subjects = changed(self.subjects, before.is_handled.into(), after.is_handled.into());
        self.parked = changed(self.parked, before.is_parked.into(), after.is_parked.into());
        self.children = changed(self.children, before.children.into(), after.children.into());
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            subjects: self.subjects + other.subjects,
            parked: self.parked + other.parked,
            children: self.children + other.children,
        }
    }
}

impl States {
    /// Whether there is something to be remembered, be it that a reconcile has it.
    pub(super) fn has(&self, work: &Work, at: &NamespacedName) -> bool {
        let Some(Known { number, .. }) = self.works.get(work) else { return false };
        self.subjects.get(at).is_some_and(|places| find(places, *number).is_ok())
    }

    /// Hands out a state. It has a place until it is [kept](Self::keep) or [dropped](Self::drop).
    pub(super) fn take(&mut self, work: &Work, at: &NamespacedName) -> SubjectState {
        let known = match self.works.get(work) {
            Some(known) => known,
            None => {
                self.last += 1;
                self.works.entry(work.clone()).or_insert(Known { number: self.last, sums: Sums::default() })
            }
        };
        let places = match self.subjects.get_mut(at) {
            Some(places) => places,
            None => self.subjects.entry(at.clone()).or_default(),
        };
        match find(places, known.number) {
            Ok(found) => {
                let place = &mut places[found].1;
                match std::mem::replace(place, Place::Taken(place.share())) {
                    Place::AtRest(remembered) => remembered.into(),
                    Place::Taken(_) => SubjectState::default(),
                }
            }
            Err(free) => {
                // Twice as many, as vectors grow, would be twice as much for the whole.
                if places.len() == places.capacity() {
                    places.reserve_exact(1 + places.len() / 8);
                }
                places.insert(free, (known.number, Place::Taken(Share::default())));
                SubjectState::default()
            }
        }
    }

    /// Keeps what a reconcile has left, if there is anything to be remembered. Answers whether the sums of the work have
    /// changed.
    pub(super) fn keep(&mut self, work: &Work, at: &NamespacedName, state: SubjectState) -> bool {
        if state.is_spent() {
            return self.drop(work, at);
        }
        let Some(known) = self.works.get_mut(work) else { return false };
        let places = self.subjects.get_mut(at);
        let Some(place) = places.and_then(|places| find(places, known.number).ok().map(|found| &mut places[found].1))
        else {
            return false;
        };
        let before = std::mem::replace(place, Place::AtRest(state.into())).share();
        known.sums.replace(before, place.share());
        before != place.share()
    }

    /// Drops what is remembered of one subject. Answers whether the sums of the work have changed.
    pub(super) fn drop(&mut self, work: &Work, at: &NamespacedName) -> bool {
        let Some(known) = self.works.get_mut(work) else { return false };
        let Some(places) = self.subjects.get_mut(at) else { return false };
        let Ok(found) = find(places, known.number) else { return false };
        let (_, place) = places.remove(found);
        known.sums.replace(place.share(), Share::default());
        self.give_back(at);
        place.share() != Share::default()
    }

    /// Drops everything that is remembered of a work.
    pub(super) fn forget(&mut self, work: &Work) {
        let Some(Known { number, .. }) = self.works.remove(work) else { return };
        self.subjects.retain(|_, places| {
            if let Ok(found) = find(places, number) {
                places.remove(found);
                shrink(places);
            }
            !places.is_empty()
        });
        self.subjects.shrink_to(2 * self.subjects.len());
    }

    /// Drops everything that is remembered of other subjects.
    pub(super) fn retain(&mut self, keep: impl Fn(&NamespacedName) -> bool) {
        let gone: Vec<_> = self.subjects.keys().filter(|at| !keep(at)).cloned().collect();
        let works: Vec<_> = self.works.keys().cloned().collect();
        for at in &gone {
            works.iter().for_each(|work| {
                self.drop(work, at);
            });
        }
    }

    /// The sums of the works that are chosen.
    pub(super) fn sums(&self, choose: impl Fn(&Work) -> bool) -> Sums {
        let chosen = self.works.iter().filter(|(work, _)| choose(work));
        chosen.fold(Sums::default(), |sums, (_, known)| sums.plus(known.sums))
    }

    fn give_back(&mut self, at: &NamespacedName) {
        let Some(places) = self.subjects.get_mut(at) else { return };
        shrink(places);
        if places.is_empty() {
            self.subjects.remove(at);
            if self.subjects.len() * 4 < self.subjects.capacity() {
                self.subjects.shrink_to(2 * self.subjects.len());
            }
        }
    }
}

fn find(places: &[(Number, Place)], number: Number) -> Result<usize, usize> {
    places.binary_search_by_key(&number, |(number, _)| *number)
}

fn shrink(places: &mut Vec<(Number, Place)>) {
    if places.len() * 4 < places.capacity() {
        places.shrink_to(2 * places.len());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dask_wasm_operator_core::{dask::Reconciler, plugin::HandlerName};

    use super::*;

    fn work(handler: &str) -> Work {
        Work::Call(Arc::new(HandlerName { plugin: "p".to_owned(), handler: handler.to_owned() }))
    }

    /// One that a reconcile broke off, which is remembered.
    fn unsettled() -> SubjectState {
        let mut state = SubjectState::default();
        state.broke_off();
        state
    }

    #[test]
    fn a_place_is_small() {
        assert!(size_of::<(Number, Place)>() <= 64, "{}", size_of::<(Number, Place)>());
    }

    #[test]
    fn what_is_dropped_leaves_nothing() {
        let mut states = States::default();
        let places: Vec<_> = (0..100).map(|number| NamespacedName::new("n", &format!("{number}"))).collect();
        for at in &places {
            for work in [work("a"), work("b"), Work::Reconcile(Reconciler::Cluster)] {
                assert!(states.take(&work, at).is_spent());
                assert!(states.has(&work, at), "a reconcile has it");
                states.keep(&work, at, unsettled());
            }
        }
        assert_eq!(states.sums(|work| matches!(work, Work::Call(_))).subjects, 200);
        states.forget(&work("a"));
        assert!(!states.has(&work("a"), &places[0]) && states.has(&work("b"), &places[0]));
        states.retain(|at| at.name.len() == 1);
        assert_eq!(states.sums(|of| *of == work("b")).subjects, 10);
        assert!(!states.take(&work("b"), &places[0]).is_spent(), "it was kept");
        for at in &places {
            states.drop(&work("b"), at);
            states.drop(&Work::Reconcile(Reconciler::Cluster), at);
        }
        assert!(states.subjects.is_empty() && states.subjects.capacity() < 10);
        assert_eq!(states.sums(|_| true), Sums::default());
    }

    #[test]
    fn a_reconcile_that_has_found_nothing_leaves_nothing_and_one_of_a_forgotten_work_neither() {
        let (mut states, at) = (States::default(), NamespacedName::new("n", "a"));
        let nothing = states.take(&work("a"), &at);
        states.keep(&work("a"), &at, nothing);
        assert!(!states.has(&work("a"), &at));
        states.take(&work("a"), &at);
        states.forget(&work("a"));
        states.keep(&work("a"), &at, unsettled());
        assert!(!states.has(&work("a"), &at) && states.subjects.is_empty());
    }
}
