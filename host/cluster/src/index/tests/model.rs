//! The index against a model of the API server: whatever the order in which news arrive, nothing goes back in time, own
//! writes are seen at once, and in the end the index equals the server.

use std::collections::HashSet;

use dask_wasm_operator_test_properties::cases;
use proptest::prelude::*;

use super::*;

const NAMES: usize = 3;

/// A server with its history, and watches that are behind it.
struct Model {
    version: u64,
    uids: u64,
    now: BTreeMap<String, Object>,
    /// Each state of an object at its version; none: deleted.
    history: Vec<(u64, String, Option<Object>)>,
    index: Index,
    watches: Vec<ModelWatch>,
    /// Answers to our writes on their way.
    answers: Vec<Answer>,
    deleted_by_us: HashSet<String>,
}

struct ModelWatch {
    id: WatchId,
    labelled: bool,
    /// Position in the history.
    position: usize,
    /// What it has told.
    members: BTreeMap<String, Object>,
    /// A list that was answered, and has not arrived.
    list: Option<(usize, u64, BTreeMap<String, Object>)>,
}

enum Answer {
    Wrote(Arc<Object>),
    Deleted(String, String),
}

#[derive(Clone, Debug)]
enum Step {
    /// Somebody writes.
    Write {
        name: usize,
        labelled: bool,
    },
    Delete {
        name: usize,
    },
    /// We write; the answer arrives at once or later.
    OwnWrite {
        name: usize,
        labelled: bool,
        at_once: bool,
    },
    OwnDelete {
        name: usize,
        at_once: bool,
    },
    AnswerArrives {
        which: usize,
    },
    /// A watch delivers its next event, or the same once more.
    Deliver {
        watch: usize,
        again: bool,
    },
    Bookmark {
        watch: usize,
    },
    ListAnswered {
        watch: usize,
    },
    ListArrives {
        watch: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES;
    let watch = 0..2_usize;
    prop_oneof![
        2 => (name.clone(), any::<bool>()).prop_map(|(name, labelled)| Step::Write { name, labelled }),
        1 => name.clone().prop_map(|name| Step::Delete { name }),
        3 => (name.clone(), prop::bool::weighted(0.8), any::<bool>())
            .prop_map(|(name, labelled, at_once)| Step::OwnWrite { name, labelled, at_once }),
        2 => (name, any::<bool>()).prop_map(|(name, at_once)| Step::OwnDelete { name, at_once }),
        2 => (0..4_usize).prop_map(|which| Step::AnswerArrives { which }),
        6 => (watch.clone(), prop::bool::weighted(0.2)).prop_map(|(watch, again)| Step::Deliver { watch, again }),
        1 => watch.clone().prop_map(|watch| Step::Bookmark { watch }),
        1 => watch.clone().prop_map(|watch| Step::ListAnswered { watch }),
        1 => watch.prop_map(|watch| Step::ListArrives { watch }),
    ]
}

impl Model {
    fn new(watches: &[bool]) -> Self {
        let index = Index::new(|_| ());
        let watches = watches.iter().map(|&labelled| ModelWatch {
            id: index.add_watch(&kind(), scope(if labelled { "dask=yes" } else { "" })),
            labelled,
            position: 0,
            members: BTreeMap::new(),
            list: None,
        });
        let watches: Vec<_> = watches.collect();
        for watch in &watches {
            index.relisted(watch.id, 1, vec![]);
        }
        Self {
            version: 1,
            uids: 0,
            now: BTreeMap::new(),
            history: Vec::new(),
            index,
            watches,
            answers: Vec::new(),
            deleted_by_us: HashSet::new(),
        }
    }

    fn write(&mut self, name: usize, labelled: bool) -> Object {
        let name = format!("o{name}");
        self.version += 1;
        let uid = match self.now.get(&name) {
            Some(object) => object.metadata.uid.clone(),
            None => {
                self.uids += 1;
                format!("u{}", self.uids)
            }
        };
        let written = object(&name, &uid, self.version, labelled);
        self.now.insert(name.clone(), written.clone());
        self.history.push((self.version, name, Some(written.clone())));
        written
    }

    fn delete(&mut self, name: usize) -> Option<(String, String)> {
        let name = format!("o{name}");
        let object = self.now.remove(&name)?;
        self.version += 1;
        self.history.push((self.version, name.clone(), None));
        Some((name, object.metadata.uid))
    }

    fn answer(&mut self, answer: &Answer) {
        match answer {
            Answer::Wrote(object) => {
                let version = version_of(object);
                self.index.wrote(object);
                // Read your own write: this version or what came after it, unless no watch would tell of it.
                let is_covered = self.watches.iter().any(|watch| !watch.labelled || object.metadata.labels.len() == 1);
                let known = self.index.get(&kind(), &object.at());
                let latest = self.now.get(&object.metadata.name).map(version_of) == Some(version);
                if latest && is_covered {
                    assert_eq!(known.map(|known| version_of(&known)), Some(version));
                }
            }
            Answer::Deleted(name, uid) => {
                self.deleted_by_us.insert(uid.clone());
                self.index.deleted(&key(name), uid);
            }
        }
    }

    fn own(&mut self, answer: Answer, at_once: bool) {
        if at_once {
            self.answer(&answer);
        } else {
            self.answers.push(answer);
        }
    }

    fn deliver(&mut self, watch: usize) {
        let watch = &mut self.watches[watch];
        let Some((version, name, state)) = self.history.get(watch.position) else { return };
        watch.position += 1;
        let covered = state.as_ref().filter(|object| !watch.labelled || !object.metadata.labels.is_empty());
        match (covered, watch.members.remove(name)) {
            (Some(object), _) => {
                watch.members.insert(name.clone(), object.clone());
                self.index.observed(watch.id, object.clone());
            }
            (None, Some(mut last)) => {
                last.metadata.resource_version = version.to_string();
                self.index.vanished(watch.id, &last);
            }
            (None, None) => {}
        }
    }

    /// A connection was lost: the last event comes once more.
    fn deliver_again(&self, watch: usize) {
        let watch = &self.watches[watch];
        let Some((_, name, Some(_))) = watch.position.checked_sub(1).and_then(|last| self.history.get(last)) else {
            return;
        };
        if let Some(object) = watch.members.get(name) {
            self.index.observed(watch.id, object.clone());
        }
    }

    fn perform(&mut self, step: &Step) {
        match *step {
            Step::Write { name, labelled } => {
                self.write(name, labelled);
            }
            Step::Delete { name } => {
                self.delete(name);
            }
            Step::OwnWrite { name, labelled, at_once } => {
                let written = self.write(name, labelled);
                self.own(Answer::Wrote(Arc::new(written)), at_once);
            }
            Step::OwnDelete { name, at_once } => {
                if let Some((name, uid)) = self.delete(name) {
                    self.own(Answer::Deleted(name, uid), at_once);
                }
            }
            Step::AnswerArrives { which } => {
                if which < self.answers.len() {
                    let answer = self.answers.remove(which);
                    self.answer(&answer);
                }
            }
            Step::Deliver { watch, again: false } => self.deliver(watch % self.watches.len()),
            Step::Deliver { watch, again: true } => self.deliver_again(watch % self.watches.len()),
            Step::Bookmark { watch } => {
                let watch = &self.watches[watch % self.watches.len()];
                if let Some((version, ..)) = watch.position.checked_sub(1).and_then(|last| self.history.get(last)) {
                    self.index.advanced(watch.id, *version);
                }
            }
            Step::ListAnswered { watch } => {
                let count = self.watches.len();
                let watch = &mut self.watches[watch % count];
                let covered =
                    self.now.iter().filter(|(_, object)| !watch.labelled || !object.metadata.labels.is_empty());
                let covered = covered.map(|(name, object)| (name.clone(), object.clone())).collect();
                watch.list = Some((self.history.len(), self.version, covered));
            }
            Step::ListArrives { watch } => {
                let count = self.watches.len();
                let watch = &mut self.watches[watch % count];
                // A watch that lists does not deliver: a list that was overtaken never happened.
                if let Some((position, version, objects)) = watch.list.take()
                    && position >= watch.position
                {
                    watch.position = position;
                    watch.members = objects.clone();
                    self.index.relisted(watch.id, version, objects.into_values().collect());
                }
            }
        }
    }

    fn known(&self) -> BTreeMap<String, (u64, String)> {
        let known = self.index.list(&kind());
        known
            .iter()
            .map(|object| (object.metadata.name.clone(), (version_of(object), object.metadata.uid.clone())))
            .collect()
    }

    fn settle(&mut self) {
        while !self.answers.is_empty() {
            let answer = self.answers.remove(0);
            self.answer(&answer);
        }
        for watch in 0..self.watches.len() {
            for _ in 0..=self.history.len() {
                self.deliver(watch);
            }
        }
    }
}

/// Steps that must hold for any watches; returns what is wrong.
fn run(watches: &[bool], steps: &[Step]) -> Result<(), TestCaseError> {
    let mut model = Model::new(watches);
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    for step in steps {
        model.perform(step);
        for (name, (version, uid)) in model.known() {
            let before = newest.insert(name.clone(), version).unwrap_or(0);
            prop_assert!(version >= before, "{name} went back from {before} to {version} by {step:?}");
            prop_assert!(!model.deleted_by_us.contains(&uid), "{name} came back by {step:?}");
        }
    }
    model.settle();
    let covered = model.now.iter().filter(|(_, object)| watches.contains(&false) || !object.metadata.labels.is_empty());
    let expected: BTreeMap<_, _> =
        covered.map(|(name, object)| (name.clone(), (version_of(object), object.metadata.uid.clone()))).collect();
    prop_assert_eq!(model.known(), expected);
    Ok(())
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn one_watch_of_everything(steps in prop::collection::vec(step(), 1..60)) {
        run(&[false], &steps)?;
    }

    #[test]
    fn one_watch_by_label(steps in prop::collection::vec(step(), 1..60)) {
        run(&[true], &steps)?;
    }

    #[test]
    fn overlapping_watches(steps in prop::collection::vec(step(), 1..60)) {
        run(&[false, true], &steps)?;
    }
}
