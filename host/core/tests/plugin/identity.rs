//! In whose name it is written what a handler wants.

use std::sync::Arc;

use dask_wasm_operator_core::{
    contract::{
        Outcome,
        TriggerRequest::{Created, Observed},
    },
    identity::{Identity, ServiceAccount},
    pipeline::MountedHandler,
};
use serde_json::json;

use crate::world::{Puppet, World, annotations, child, children, handler, problems};

fn robot() -> Identity {
    Identity::Impersonated(ServiceAccount::new("ops", "robot").unwrap())
}

/// A child of that name and an annotation, in the name of the robot.
fn plugin(name: &'static str, code: u64) -> Arc<MountedHandler> {
    let guest = Puppet::new(move |_| {
        let made = children([child("ConfigMap", name, json!({"data": {"a": "b"}}))])?;
        Ok(Outcome { children: made.children, ..annotations(&[json!({"a": name})])? })
    });
    Arc::new(MountedHandler { identity: robot(), code, ..handler("p", &[Created, Observed], &guest) })
}

fn written(world: &World) -> Vec<(String, Identity)> {
    let mut written = world.take_written();
    written.sort_by(|left, right| left.0.cmp(&right.0));
    written.dedup();
    written
}

fn by(identity: &Identity, words: &str) -> (String, Identity) {
    (words.to_owned(), identity.clone())
}

/// The belief that is attacked: that some write of a handler is sent in the operator's name, or a note of the operator in the
/// account's.
#[test]
fn what_a_handler_wants_is_written_in_the_name_of_its_account_and_what_the_operator_notes_in_its_own() {
    let mut world = World::new();
    world.reconcile(&plugin("one", 1));
    let notes = by(&Identity::Operator, "create DaskPluginRecord");
    let patch = by(&robot(), "apply DaskCluster");
    assert_eq!(written(&world), [patch.clone(), by(&robot(), "create ConfigMap"), notes]);
    // Another answer prunes, and what somebody edited is repaired.
    let other = plugin("two", 2);
    world.settle(&other);
    let (made, pruned) = (by(&robot(), "create ConfigMap"), by(&robot(), "delete ConfigMap"));
    assert_eq!(written(&world), [patch, made, pruned]);
    world.edit("ConfigMap", "two", |child| child["data"]["a"] = json!("edited"));
    world.settle(&other);
    assert_eq!(written(&world), [by(&robot(), "apply ConfigMap")]);
    // At the end of its subject, too.
    world.delete("DaskCluster", "simple");
    world.reconcile(&other);
    let end = written(&world);
    assert!(!end.is_empty() && end.iter().all(|(_, identity)| *identity == robot()), "{end:?}");
}

#[test]
fn the_operators_own_reconcilers_write_in_its_own_name() {
    let mut world = World::new();
    world.run_cluster();
    let written = written(&world);
    assert!(!written.is_empty() && written.iter().all(|(_, identity)| *identity == Identity::Operator), "{written:?}");
}

#[test]
fn a_permission_that_the_account_lacks_is_told_with_the_rule_that_gives_it() {
    let mut world = World::new();
    let words = "configmaps \"one\" is forbidden: User \"system:serviceaccount:ops:robot\" cannot patch resource \"configmaps\" in API group \"\" in the namespace \"ns1\"";
    world.refuse("ConfigMap", "one", words);
    let told = problems(&world.reconcile(&plugin("one", 1)));
    let rule = "bind ServiceAccount ops/robot to a Role in namespace ns1 with the rule {apiGroups: [\"\"], resources: [configmaps], verbs: [create, patch]}";
    assert!(told.len() == 1 && told[0].starts_with("Forbidden: ") && told[0].ends_with(rule), "{told:?}");
    world.refuse_nothing();
    assert!(problems(&world.reconcile(&plugin("one", 1))).is_empty());
}
