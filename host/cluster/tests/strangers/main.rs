//! Nothing that somebody else made is ever touched: users, plugins and Dask reconcilers over one namespace, with watches that
//! lag, labels and owners that are taken away, and crashes at any write. The server is the one in memory, the index is the real
//! one.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

mod handlers;
mod operator;
mod server;

use std::collections::BTreeMap;

use dask_wasm_operator_core::object::{NamespacedName, ObjectKey};
use dask_wasm_operator_test_properties::cases;
use proptest::prelude::*;
use serde_json::{Value, json};

use handlers::{CLUSTERS, Place, places};
use operator::Operator;
use server::Server;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A user makes an object where handlers want one, or a plain other one.
    Create { place: usize, disguise: Disguise, same: bool },
    /// A user changes what they made.
    Edit { place: usize },
    /// A user deletes an object, whoever made it.
    Delete { place: usize },
    /// A user deletes an object and makes their own in its place before anybody sees it.
    Replace { place: usize, disguise: Disguise },
    /// A user takes the labels or owners from an object, whoever made it.
    Strip { place: usize, labels: bool, owners: bool },
    /// A user makes or deletes a DaskCluster.
    ToggleCluster { cluster: usize },
    /// A plugin wants this child from now on, or does not.
    ToggleChild { plugin: usize, child: usize },
    /// A watch tells so many of the events that it has yet to tell.
    Deliver { watch: usize, events: usize },
    /// A handler looks at a subject.
    Reconcile { handler: usize, cluster: usize },
    /// The same, killed at a write: before it, or after it and before its answer.
    Crash { handler: usize, cluster: usize, write: usize, is_done: bool },
    /// The operator ends and starts anew.
    Restart,
}

/// How much a user's object looks like a child.
#[derive(Clone, Copy, Debug)]
enum Disguise {
    None,
    /// It has the labels of children, as a copy of one has.
    Labels,
}

fn step() -> impl Strategy<Value = Step> {
    let place = 0..places().len();
    let disguise = prop_oneof![Just(Disguise::None), Just(Disguise::Labels)];
    let (handler, cluster) = (0..handlers::COUNT, 0..CLUSTERS.len());
    prop_oneof![
        3 => (place.clone(), disguise.clone(), any::<bool>())
            .prop_map(|(place, disguise, same)| Step::Create { place, disguise, same }),
        1 => place.clone().prop_map(|place| Step::Edit { place }),
        2 => place.clone().prop_map(|place| Step::Delete { place }),
        2 => (place.clone(), disguise).prop_map(|(place, disguise)| Step::Replace { place, disguise }),
        2 => (place, any::<bool>(), any::<bool>())
            .prop_map(|(place, labels, owners)| Step::Strip { place, labels, owners }),
        1 => cluster.clone().prop_map(|cluster| Step::ToggleCluster { cluster }),
        2 => (0..2_usize, 0..handlers::CHILDREN.len()).prop_map(|(plugin, child)| Step::ToggleChild { plugin, child }),
        8 => (0..server::WATCHES, 1..4_usize).prop_map(|(watch, events)| Step::Deliver { watch, events }),
        10 => (handler.clone(), cluster.clone()).prop_map(|(handler, cluster)| Step::Reconcile { handler, cluster }),
        2 => (handler, cluster, 0..4_usize, any::<bool>())
            .prop_map(|(handler, cluster, write, is_done)| Step::Crash { handler, cluster, write, is_done }),
        1 => Just(Step::Restart),
    ]
}

/// The world, and what users made in it.
struct World {
    server: Server,
    operator: Operator,
    /// Uid and resource version of each object that a user made and did not delete.
    theirs: BTreeMap<ObjectKey, (String, String)>,
}

impl World {
    fn new() -> Self {
        let server = Server::new();
        let operator = Operator::start(&server);
        let mut world = Self { server, operator, theirs: BTreeMap::new() };
        world.toggle_cluster(0);
        world
    }

    fn perform(&mut self, step: &Step) {
        match *step {
            Step::Create { place, disguise, same } => self.create(&places()[place], disguise, same),
            Step::Edit { place } => {
                let key = places()[place].key();
                if self.theirs.contains_key(&key) {
                    self.server.edit(&key, |object| object["metadata"]["annotations"]["edited"] = json!("yes"));
                    self.note(&key);
                }
            }
            Step::Delete { place } => self.delete(&places()[place].key()),
            Step::Replace { place, disguise } => {
                self.delete(&places()[place].key());
                self.create(&places()[place], disguise, true);
            }
            Step::Strip { place, labels, owners } => {
                let key = places()[place].key();
                self.server.edit(&key, |object| {
                    let metadata = object["metadata"].as_object_mut().unwrap();
                    if labels {
                        metadata.remove("labels");
                    }
                    if owners {
                        metadata.remove("ownerReferences");
                    }
                });
                if self.theirs.contains_key(&key) {
                    self.note(&key);
                }
            }
            Step::ToggleCluster { cluster } => self.toggle_cluster(cluster),
            Step::ToggleChild { plugin, child } => self.operator.plugins[plugin].toggle(child),
            Step::Deliver { watch, events } => (0..events).for_each(|_| self.operator.deliver(&self.server, watch)),
            Step::Reconcile { handler, cluster } => {
                self.operator.reconcile(&self.server, handler, cluster);
            }
            Step::Crash { handler, cluster, write, is_done } => {
                self.operator.crash(&self.server, handler, cluster, write, is_done);
                self.operator.restart(&self.server);
            }
            Step::Restart => self.operator.restart(&self.server),
        }
    }

    fn create(&mut self, place: &Place, disguise: Disguise, same: bool) {
        let key = place.key();
        if self.server.get(&key).is_some() {
            return;
        }
        let mut object = place.object(if same { "wanted" } else { "theirs" });
        if let Disguise::Labels = disguise {
            object["metadata"]["labels"] = handlers::labels_of_children();
        }
        self.server.create(object);
        self.note(&key);
    }

    fn note(&mut self, key: &ObjectKey) {
        let metadata = self.server.get(key).unwrap().metadata.clone();
        self.theirs.insert(key.clone(), (metadata.uid, metadata.resource_version));
    }

    fn delete(&mut self, key: &ObjectKey) {
        self.server.delete(key);
        self.theirs.remove(key);
    }

    fn toggle_cluster(&mut self, cluster: usize) {
        let key = handlers::cluster_key(cluster);
        if self.server.get(&key).is_some() {
            self.server.delete(&key);
        } else {
            self.server.create(handlers::cluster(cluster));
        }
    }

    /// What is wrong with the objects of users.
    fn check(&self) -> Result<(), TestCaseError> {
        for (key, (uid, version)) in &self.theirs {
            let Some(live) = self.server.get(key) else {
                return Err(TestCaseError::fail(format!("{key}, which a user made, is gone")));
            };
            let now = (&live.metadata.uid, &live.metadata.resource_version);
            prop_assert_eq!(now, (uid, version), "{}, which a user made, was changed: {:#}", key, live.to_value());
        }
        Ok(())
    }

    /// All news arrive, and all handlers look until there is nothing left to do.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        // Who has given up looks again, and keeps what the index knows.
        self.operator.forget_states();
        let mut quiet = 0;
        for _ in 0..30 {
            self.operator.deliver_all(&self.server);
            let mut writes = 0;
            for handler in 0..handlers::COUNT {
                for cluster in 0..CLUSTERS.len() {
                    writes += self.operator.reconcile(&self.server, handler, cluster);
                    self.check()?;
                }
            }
            // What was found out in one round is written in the next.
            quiet = if writes == 0 { quiet + 1 } else { 0 };
            if quiet == 3 {
                return Ok(());
            }
        }
        Err(TestCaseError::fail("there is no end of writes"))
    }

    /// What handlers want is there, unless somebody else has its place.
    fn check_wanted(&self) -> Result<(), TestCaseError> {
        for (key, maker) in self.operator.wanted(&self.server) {
            let Some(live) = self.server.get(&key) else {
                return Err(TestCaseError::fail(format!("{key} was not made")));
            };
            let is_ours = live.is_controlled_by(&maker.1);
            let is_taken = self.theirs.contains_key(&key) || self.operator.has_other_maker(&key, &maker);
            // Nothing in it tells any more whose it is.
            let is_nobodys = live.metadata.owner_references.is_empty() && live.metadata.labels.is_empty();
            prop_assert!(is_ours || is_taken || is_nobodys, "{} is not repaired: {:#}", key, live.to_value());
        }
        Ok(())
    }
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut world = World::new();
    for step in steps {
        world.perform(step);
        world.check()?;
    }
    world.settle()?;
    world.check_wanted()
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn whatever_happens_nothing_of_others_is_touched(steps in prop::collection::vec(step(), 1..60)) {
        run(&steps)?;
    }
}

/// As it was found: the watch by label saw an object of a user come and go, because an apply had been tried on it.
#[test]
fn an_object_of_a_user_at_the_place_of_a_child_stays_as_it_is_at_every_look() {
    for place in 0..places().len() {
        let mut world = World::new();
        world.create(&places()[place], Disguise::None, false);
        for child in 0..handlers::CHILDREN.len() {
            world.operator.plugins[0].toggle(child);
        }
        for _ in 0..5 {
            world.settle().unwrap();
            world.check().unwrap();
        }
        for child in 0..handlers::CHILDREN.len() {
            world.operator.plugins[0].toggle(child);
        }
        world.settle().unwrap();
        world.check().unwrap();
        world.toggle_cluster(0);
        world.settle().unwrap();
        world.check().unwrap();
    }
}

/// An object at a place in the only namespace.
fn key(group: &str, version: &str, kind: &str, name: &str) -> ObjectKey {
    let kind = dask_wasm_operator_core::object::GroupVersionKind::new(group, version, kind);
    ObjectKey { kind, at: NamespacedName::new("n", name) }
}

fn at(cluster: usize) -> NamespacedName {
    NamespacedName::new("n", CLUSTERS[cluster])
}

/// `apiVersion`, `kind` and identity of an object.
fn identity(key: &ObjectKey) -> Value {
    json!({
        "apiVersion": key.kind.api_version(), "kind": key.kind.kind,
        "metadata": {"name": key.at.name, "namespace": key.at.namespace},
    })
}
