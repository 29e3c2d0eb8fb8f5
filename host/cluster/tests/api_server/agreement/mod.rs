//! The cluster in memory agrees with the API server: the same is done to both, and after each step both answer the same and
//! show the same. So a test over the cluster in memory means what it says.
//!
//! What they are known to differ in stands in `differences.rs`, each with its reason, and is looked for as well.

mod cases;
mod differences;
mod kinds;
mod random;
mod steps;
mod stores;
mod view;

use std::fmt;

use dask_wasm_operator_core::{dask::cluster_in_memory, memory::built_in_resources};
use dask_wasm_operator_test_support::wait_for;

use crate::World;
use kinds::Kind;
use steps::{Scene, Step, perform};
use stores::{Answer, Memory, Server, Store as _};
use view::{Viewer, difference};

/// What was different, and when.
#[derive(Debug)]
struct Difference {
    after: String,
    what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {}:\n{}", self.after, self.what)
    }
}

/// Does the same to both, each time with objects of their own; answers the first difference.
async fn run(world: &World, kind: &'static Kind, steps: &[Step]) -> anyhow::Result<Option<Difference>> {
    let memory = cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z");
    let scene = Scene::new(world, kind);
    let (memory, server) = (Memory { cluster: &memory }, Server::new(world, kind));
    let outcome = compare(&scene, &memory, &server, steps).await;
    clear(&scene, &server).await?;
    outcome
}

async fn compare(
    scene: &Scene,
    memory: &Memory<'_>,
    server: &Server<'_>,
    steps: &[Step],
) -> anyhow::Result<Option<Difference>> {
    let (mut of_memory, mut of_server) = (Viewer::new(scene), Viewer::new(scene));
    for (number, step) in steps.iter().enumerate() {
        let in_memory = of_memory.answer(perform(scene, memory, &of_memory, step).await?);
        let at_server = of_server.answer(perform(scene, server, &of_server, step).await?);
        let found = |what: String| Some(Difference { after: format!("step {number}, {step:?}"), what });
        if (&in_memory, &at_server) == (&Answer::Done, &Answer::Refused) && !is_allowed(scene, memory).await? {
            return Ok(None);
        }
        if in_memory != at_server {
            return Ok(found(format!("the cluster in memory answers {in_memory:?}, the API server {at_server:?}")));
        }
        let expected = of_memory.look(memory.objects(scene).await?);
        let mut last = None;
        let mut look = async || -> anyhow::Result<bool> {
            let seen = of_server.look(server.objects(scene).await?);
            last = difference(&expected, &seen);
            Ok(last.is_none())
        };
        // What has lost its owner goes a moment later.
        let agrees = match step {
            Step::Delete { .. } | Step::RemoveFinalizer { .. } => {
                let agreed =
                    wait_for("the same objects", scene.patience, async || Ok(look().await?.then_some(()))).await;
                agreed.is_ok()
            }
            _ => look().await?,
        };
        if !agrees {
            return Ok(found(last.unwrap_or_default()));
        }
        of_memory.keep();
        of_server.keep();
    }
    Ok(None)
}

/// Whether the API server could have taken what is in memory.
async fn is_allowed(scene: &Scene, memory: &Memory<'_>) -> anyhow::Result<bool> {
    Ok(memory.objects(scene).await?.iter().flatten().all(scene.kind.is_allowed))
}

/// Leaves nothing behind that a finalizer would keep.
async fn clear(scene: &Scene, server: &Server<'_>) -> anyhow::Result<()> {
    for (key, object) in scene.keys().zip(server.objects(scene).await?) {
        if object.is_some() {
            server.discard(&key).await?;
        }
    }
    Ok(())
}
