//! Maps that lose their last field: what the API server makes of them, and that two applies bring it about.

use std::sync::Arc;

use anyhow::ensure;
use dask_wasm_operator_core::{
    action::{Apply, WriteError},
    object::Object,
    plan::{Memory, is_applied, next_apply},
};
use serde_json::{Value, json};

use crate::{MANAGER, World, in_world};

fn group(pod: &Value) -> Value {
    let mut worker = json!({"replicas": 1, "spec": pod});
    worker["spec"]["containers"] = json!([{"name": "worker", "image": "i"}]);
    json!({"spec": {"cluster": "c", "worker": worker}})
}

fn deployment(pod: &Value, volume: &Value) -> Value {
    let mut pod = pod.clone();
    pod["containers"] = json!([{"name": "c", "image": "i"}]);
    pod["volumes"] = json!([{"name": "v", "emptyDir": volume}]);
    let labels = json!({"a": "b"});
    json!({"spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}})
}

/// Applies until nothing is left to do, as after a restart each time; returns after how many writes.
async fn bring(world: &World, live: &Arc<Object>, wanted: &Value) -> anyhow::Result<(usize, Arc<Object>)> {
    let mut live = Arc::clone(live);
    for writes in 0..4 {
        let apply = world.apply_to(&live, wanted.clone());
        if is_applied(&Memory::default(), MANAGER, &apply.body, &live) {
            return Ok((writes, live));
        }
        let body = next_apply(MANAGER, apply.body.clone(), &live);
        live = world.write(Apply { body, ..apply }).await?;
    }
    anyhow::bail!("no end of writes: {wanted}")
}

#[tokio::test]
async fn a_map_of_a_custom_resource_is_emptied_by_two_applies() -> anyhow::Result<()> {
    in_world(async |world| {
        // The last two are of fields that the definition does not know: null is not refused there, and kept.
        let pods = [
            (json!({"securityContext": {"runAsUser": 1}}), json!({"securityContext": {}}), Some("null")),
            (json!({"nodeSelector": {"a": "b"}}), json!({"nodeSelector": {}}), Some("null")),
            (
                json!({"affinity": {"nodeAffinity": {"newer": 1}}}),
                json!({"affinity": {"nodeAffinity": {}}}),
                Some("null"),
            ),
            (json!({"affinity": {"nodeAffinity": {"newer": 1}}}), json!({"affinity": {}}), Some("null")),
            (json!({"newer": {"a": {"b": 1}}}), json!({"newer": {"a": {}}}), None),
            (json!({"newer": {"a": {"b": 1}}}), json!({"newer": {}}), None),
        ];
        for (number, (full, emptied, refusal)) in pods.into_iter().enumerate() {
            let name = format!("g{number}");
            let made = world.write(world.apply("daskworkergroup", &name, group(&full))).await?;
            if let Some(refusal) = refusal {
                let error = world.write(world.apply_to(&made, group(&emptied))).await.unwrap_err();
                let message = error.to_string();
                ensure!(matches!(error, WriteError::Refused { .. }) && message.contains(refusal), "{message}");
            }
            let (writes, live) = bring(&world, &made, &group(&emptied)).await?;
            assert_eq!((writes, &live.to_value()["spec"]), (2, &group(&emptied)["spec"]));
            let (writes, live) = bring(&world, &live, &group(&json!({}))).await?;
            assert_eq!((writes, &live.to_value()["spec"]), (1, &group(&json!({}))["spec"]));
            let (writes, live) = bring(&world, &live, &group(&emptied)).await?;
            assert_eq!((writes, &live.to_value()["spec"]), (1, &group(&emptied)["spec"]));
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_taken_out_of_a_list_that_is_owned_as_a_whole_goes_by_one_apply() -> anyhow::Result<()> {
    in_world(async |world| {
        let wanted = |container: Value| {
            let mut group = group(&json!({}));
            group["spec"]["worker"]["spec"]["containers"][0] = container;
            group
        };
        let full = json!({"name": "w", "resources": {"limits": {"cpu": "1"}}, "env": [{"name": "A"}, {"name": "B"}]});
        let mut live = world.write(world.apply("daskworkergroup", "g", wanted(full.clone()))).await?;
        let others = [json!({"name": "w", "resources": {}, "env": [{"name": "B"}]}), json!({"name": "w"}), full];
        for container in others {
            let wanted = wanted(container);
            let (writes, now) = bring(&world, &live, &wanted).await?;
            assert_eq!((writes, &now.to_value()["spec"]), (1, &wanted["spec"]));
            live = now;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_map_that_somebody_else_has_put_a_field_into_keeps_it() -> anyhow::Result<()> {
    in_world(async |world| {
        let made =
            world.write(world.apply("daskworkergroup", "g", group(&json!({"nodeSelector": {"a": "b"}})))).await?;
        let theirs = json!({"spec": {"worker": {"spec": {"nodeSelector": {"theirs": "c"}}}}});
        world.somebody_applies("daskworkergroup", "g", theirs).await?;
        let (_, live) = bring(&world, &made, &group(&json!({"nodeSelector": {}}))).await?;
        assert_eq!(live.to_value()["spec"]["worker"]["spec"]["nodeSelector"], json!({"theirs": "c"}));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn kinds_of_kubernetes_take_a_map_that_is_emptied() -> anyhow::Result<()> {
    in_world(async |world| {
        let full =
            json!({"securityContext": {"runAsUser": 1}, "nodeSelector": {"a": "b"}, "affinity": {"nodeAffinity": {}}});
        let emptied = json!({"securityContext": {}, "nodeSelector": {}, "affinity": {}});
        let (full, emptied) = (deployment(&full, &json!({"sizeLimit": "1Gi"})), deployment(&emptied, &json!({})));
        let made = world.write(world.apply("deployment", "at-once", full.clone())).await?;
        let at_once = world.write(world.apply_to(&made, emptied.clone())).await?;
        let made = world.write(world.apply("deployment", "in-two", full)).await?;
        let (writes, in_two) = bring(&world, &made, &emptied).await?;
        ensure!(writes <= 2, "{writes}");
        let pod = |object: &Object| object.to_value()["spec"]["template"]["spec"].clone();
        assert_eq!(pod(&in_two), pod(&at_once));
        assert_eq!(pod(&in_two)["volumes"], json!([{"name": "v", "emptyDir": {}}]));
        Ok(())
    })
    .await
}
