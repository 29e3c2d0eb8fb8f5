//! A cluster and a plugin that find objects of users where they want their own: these stay as they are, whenever the operator is
//! killed.

use anyhow::ensure;
use dask_wasm_operator_test_integration::{
    manifests::{self, SIMPLE},
    objects::{CLUSTER, DEPLOYMENT, Kind, PLUGIN, SERVICE, VIRTUAL_SERVICE, essence},
};
use serde_json::{Value, json};

use super::{Flow, World, crash_at_every_write};

#[test]
fn what_users_made_survives_a_crash_at_every_write() {
    crash_at_every_write(&Strangers).unwrap();
}

/// Where the user has something: what the cluster's reconciler wants, and what the example plugin wants.
const TAKEN: [Kind<'_>; 2] = [DEPLOYMENT, VIRTUAL_SERVICE];

const NAME: &str = "simple-scheduler";

struct Strangers;

impl Flow for Strangers {
    // The Service, the group, its record, its worker, and the statuses of both.
    const WRITES: usize = 6;
    const COMES_LATER: bool = true;

    async fn prepare(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        for kind in TAKEN {
            world.create(&theirs(kind)).await?;
        }
        Ok(())
    }

    async fn run(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        let before = all(world).await?;
        world.create(&manifests::cluster(SIMPLE, 1)).await?;
        let foreign = ["Degraded", "True", "ForeignObject"];
        world.until_condition(CLUSTER, SIMPLE, foreign).await?;
        world.until_condition(PLUGIN, "istio-virtual-service", foreign).await?;
        world.delete(CLUSTER, SIMPLE).await?;
        world.until_gone(CLUSTER, SIMPLE).await?;
        world.until_gone(SERVICE, NAME).await?;
        ensure!(all(world).await? == before, "what users made was changed");
        Ok(())
    }
}

fn theirs(Kind(api_version, kind): Kind<'_>) -> Value {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = match kind {
        "Deployment" => json!({"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": template}),
        _ => json!({"hosts": ["example.org"]}),
    };
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": NAME}, "spec": spec})
}

async fn all(world: &World<'_>) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for kind in TAKEN {
        objects.push(essence(&world.get(kind, NAME).await?));
    }
    Ok(objects)
}
