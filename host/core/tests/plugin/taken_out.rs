//! What a handler takes out of a list that is owned as a whole, in which more may stand than was applied.

use std::sync::Arc;

use dask_wasm_operator_core::{contract::TriggerRequest::Observed, pipeline::MountedHandler};
use serde_json::{Value, json};

use crate::world::{Puppet, World, child, children, handler, problems};

/// A handler whose child of this kind has a list without keys.
fn handler_of(guest: &Arc<Puppet>, kind: &'static str, items: Value) -> Arc<MountedHandler> {
    guest.answers(move |_| children([child(kind, "one", json!({"spec": {"list": items}}))]));
    Arc::new(handler("p", &[Observed], guest))
}

fn list(world: &World, kind: &str) -> Value {
    world.get(kind, "one").unwrap()["spec"]["list"].take()
}

/// After a restart nothing tells of a pod what admission has added to its lists.
#[test]
fn it_goes_from_the_child() {
    for (kind, restarts) in [("Service", false), ("Service", true), ("Pod", false)] {
        let mut world = World::new();
        let guest = Puppet::new(|_| children([]));
        for items in [json!([{"from": "a"}, {"from": "b", "to": "c"}]), json!([{"from": "b"}]), json!([{}])] {
            if restarts {
                world.restart();
            }
            world.edit("DaskCluster", "simple", |cluster| {
                cluster["metadata"]["annotations"]["now"] = json!(items.to_string())
            });
            let report = world.settle(&handler_of(&guest, kind, items.clone()));
            assert_eq!(problems(&report), [""; 0]);
            assert_eq!(list(&world, kind), items, "{kind}, restarts: {restarts}");
        }
    }
}
