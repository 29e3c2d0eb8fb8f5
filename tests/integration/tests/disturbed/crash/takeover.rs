//! Objects that the Python operator made: they are kept, and served from then on.

use anyhow::{Context, ensure};
use dask_wasm_operator_test_integration::{
    manifests::{self, SIMPLE, SIMPLE_GROUP},
    objects::{CLUSTER, DEPLOYMENT, GROUP, text, uid},
};
use serde_json::{Value, json};

use super::{Flow, World, crash_at_every_write};

/// What it makes of a DaskCluster with one worker.
const MADE: &str = include_str!("../../../../../host/core/tests/fixtures/python-operator-objects.json");

/// On all of it, put there by somebody else: what is made anew has it not.
const MARK: &str = "example.org/mark";

const KOPF_FINALIZER: &str = "kopf.zalando.org/KopfFinalizerMarker";

#[test]
fn a_takeover_survives_a_crash_at_every_write() {
    crash_at_every_write(&Takeover).unwrap();
}

struct Takeover;

impl Flow for Takeover {
    // The finalizer; what the Python operator has set on four objects becomes ours, two templates are asked about, the four are
    // applied; a worker, the group's record, statuses.
    const WRITES: usize = 14;
    const COMES_LATER: bool = true;

    async fn prepare(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        // It made them in a namespace of that name.
        let made = MADE.replace(".ns1.svc", &format!(".{}.svc", world.namespace));
        let made: Value = serde_json::from_str(&made).context("parsing the Python operator's objects")?;
        let mut cluster = manifests::cluster(SIMPLE, 1);
        cluster["spec"]["scheduler"]["spec"] = made["scheduler"]["spec"]["template"]["spec"].clone();
        cluster["spec"]["scheduler"]["service"] = made["service"]["spec"].clone();
        cluster["spec"]["worker"] = made["wg"]["spec"]["worker"].clone();
        cluster["metadata"]["finalizers"] = json!([KOPF_FINALIZER]);
        cluster["metadata"]["labels"] = json!({"test-label": "label-value"});
        cluster["metadata"]["annotations"] = json!({"test-annotation": "annotation-value"});
        cluster["spec"]["scheduler"]["metadata"] = json!({
            "labels": {"scheduler-sublabel": "label-value"},
            "annotations": {"scheduler-subannotation": "annotation-value"},
        });
        let cluster = world.create(&marked(&cluster)).await?;
        let group = world.create(&owned(&made["wg"], &cluster)).await?;
        world.create(&owned(&made["scheduler"], &cluster)).await?;
        world.create(&owned(&made["service"], &cluster)).await?;
        world.create(&owned(&made["worker"], &group)).await?;
        Ok(())
    }

    async fn run(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        let is_ours =
            |group: &Value| !text(group, "/metadata/annotations/operator.dask.org~1worker-ordinals").is_empty();
        world.until(GROUP, SIMPLE_GROUP, "ours", is_ours).await?;
        world.scale(GROUP, SIMPLE_GROUP, 2).await?;
        world.until_running(SIMPLE, 2).await?;
        let cluster = world.get(CLUSTER, SIMPLE).await?;
        ensure!(cluster["metadata"]["finalizers"].is_null(), "kopf's finalizer is still there");
        // Deployments are of the present template, and rolled out once: no pod was made anew.
        world.until_final(|seen| seen.of_kind(DEPLOYMENT.1).all(is_first)).await
    }
}

fn is_first(deployment: &Value) -> bool {
    let annotations = &deployment["metadata"]["annotations"];
    annotations["operator.dask.org/template-hash"].is_string()
        && annotations["deployment.kubernetes.io/revision"] == "1"
}

fn marked(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"]["namespace"].take();
    object["metadata"]["annotations"][MARK] = "yes".into();
    object
}

fn owned(object: &Value, owner: &Value) -> Value {
    let mut object = marked(object);
    object["metadata"]["ownerReferences"][0]["uid"] = uid(owner).into();
    object
}
