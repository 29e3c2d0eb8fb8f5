//! Related objects: what a subject looks up beyond its children, and the index that finds the subjects whom a change of such an
//! object concerns.
//!
//! The controller notes the lookups of a subject before each reconcile, and asks at each change. An entry is a hash and a
//! number; the hashes are keyed, so nobody can choose names that meet. If two meet by chance, a subject is woken without need.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
};

use crate::object::{GroupVersionKind, NamespacedName, Object};

/// A lookup beyond the children of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Under which name the handler finds the objects in its snapshot.
    pub name: &'static str,
    /// What is looked up.
    pub related: Related,
    /// What a change of one of the objects is to the subject.
    pub concern: Concern,
    /// Only changes of objects with this label, of all that are looked up, concern the subject. Served for
    /// [`Related::ControlledBy`].
    pub labelled: Option<(&'static str, String)>,
}

/// Objects that are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Related {
    /// One object.
    Named(GroupVersionKind, NamespacedName),
    /// What the object of this uid controls.
    ControlledBy(GroupVersionKind, String),
}

/// What a change of a related object is to the subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concern {
    /// Nothing: the subject is looked at again often enough for other reasons.
    Nothing,
    /// The subject's status may say something else.
    Status,
    /// There may be something to do for the subject, if more than the related object's status has changed.
    Reconcile,
}

impl Lookup {
    /// A lookup whose objects may change without anybody being told.
    pub fn new(name: &'static str, related: Related) -> Self {
        Self { name, related, concern: Concern::Nothing, labelled: None }
    }

    /// The same, whose objects' changes concern the subject.
    #[must_use]
    pub fn concerning(self, concern: Concern) -> Self {
        Self { concern, ..self }
    }

    /// The same, of whose objects only those with this label concern the subject.
    #[must_use]
    pub fn labelled(self, key: &'static str, value: &str) -> Self {
        Self { labelled: Some((key, value.to_owned())), ..self }
    }
}

/// Stands for what is looked up.
type Mark = u64;

/// Stands for who looks it up.
type Number = u64;

/// Who looks something up, and what.
type Lookups<S> = (Arc<S>, Box<[(Mark, Concern)]>);

/// From a related object to those that have looked it up when they were last reconciled. `S` is a handler and a subject.
#[derive(Debug)]
pub struct RelatedIndex<S> {
    hashing: RandomState,
    concerned: BTreeSet<(Mark, Number, Concern)>,
    seekers: HashMap<Arc<S>, Number>,
    lookups: HashMap<Number, Lookups<S>>,
    last: Number,
}

impl<S> Default for RelatedIndex<S> {
    fn default() -> Self {
        Self {
            hashing: RandomState::new(),
            concerned: BTreeSet::new(),
            seekers: HashMap::new(),
            lookups: HashMap::new(),
            last: 0,
        }
    }
}

impl<S: Clone + Eq + Hash> RelatedIndex<S> {
    /// Notes what somebody looks up from now on, in the place of what it did before. Called before the objects are read, so
    /// that no change falls between.
    pub fn note(&mut self, seeker: &S, lookups: &[Lookup]) {
        let of_concern = lookups.iter().filter(|lookup| lookup.concern != Concern::Nothing);
        let marks: Box<[_]> = of_concern.map(|lookup| (self.mark_of(lookup), lookup.concern)).collect();
        let number = self.seekers.get(seeker).copied();
        if number.and_then(|number| self.lookups.get(&number)).is_some_and(|(_, before)| *before == marks) {
            return;
        }
        self.forget(seeker);
        if marks.is_empty() {
            return;
        }
        self.last += 1;
        self.concerned.extend(marks.iter().map(|(mark, concern)| (*mark, self.last, *concern)));
        let seeker = Arc::new(seeker.clone());
        self.seekers.insert(Arc::clone(&seeker), self.last);
        self.lookups.insert(self.last, (seeker, marks));
    }

    /// Those whom a change of an object concerns, as it was or is.
    pub fn concerned(&self, object: &Object) -> impl Iterator<Item = (&S, Concern)> {
        let named = self.named(&object.kind, &object.at());
        let controlled = object.metadata.controller().into_iter().flat_map(|owner| {
            let labelled = object.metadata.labels.iter().map(|(key, value)| Some((key.as_str(), value.as_str())));
            [None].into_iter().chain(labelled).map(|label| self.controlled(&object.kind, &owner.uid, label))
        });
        let of_mark = |mark| (mark, 0, Concern::Nothing)..=(mark, Number::MAX, Concern::Reconcile);
        let entries = [named].into_iter().chain(controlled).flat_map(move |mark| self.concerned.range(of_mark(mark)));
        entries.filter_map(|(_, number, concern)| Some((&*self.lookups.get(number)?.0, *concern)))
    }

    /// Forgets somebody.
    pub fn forget(&mut self, seeker: &S) {
        let Some(number) = self.seekers.remove(seeker) else { return };
        for (mark, concern) in self.lookups.remove(&number).map(|(_, marks)| marks).unwrap_or_default() {
            self.concerned.remove(&(mark, number, concern));
        }
    }

    /// Forgets all others.
    pub fn retain(&mut self, keep: impl Fn(&S) -> bool) {
        let gone: Vec<_> = self.seekers.keys().filter(|seeker| !keep(seeker)).cloned().collect();
        gone.iter().for_each(|seeker| self.forget(seeker));
    }

    fn mark_of(&self, lookup: &Lookup) -> Mark {
        match &lookup.related {
            Related::Named(kind, at) => self.named(kind, at),
            Related::ControlledBy(kind, uid) => {
                let label = lookup.labelled.as_ref().map(|(key, value)| (*key, value.as_str()));
                self.controlled(kind, uid, label)
            }
        }
    }

    fn named(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Mark {
        self.hashing.hash_one((&kind.group, &kind.kind, at))
    }

    fn controlled(&self, kind: &GroupVersionKind, uid: &str, label: Option<(&str, &str)>) -> Mark {
        self.hashing.hash_one((&kind.group, &kind.kind, uid, label))
    }
}

#[cfg(test)]
mod tests;
