//! Entries of the managed fields change hands, and nothing else of the object does.

use std::sync::Arc;

use dask_wasm_operator_core::{
    action::{Action, Apply, Precondition, WriteError, Written},
    object::Object,
    ports::Writes,
};
use dask_wasm_operator_test_support::wait_for;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::{MANAGER, PATIENCE, World, api_resource, controlled_by, in_world};

/// Its pod spec as a KubeCluster sends it: a zero that the server leaves out, quantities that it writes in another way.
fn pod_spec(env: &[&str]) -> Value {
    let env: Vec<_> = env.iter().map(|name| json!({"name": name, "value": "x"})).collect();
    json!({"containers": [{
        "name": "c", "image": "i", "env": env, "stdin": false,
        "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}},
        "readinessProbe": {"httpGet": {"port": 8787, "path": "/health"}, "initialDelaySeconds": 0},
    }]})
}

/// As the Python operator makes it: with the whole metadata of the object in the template.
fn deployment(owner: &Object) -> Value {
    let metadata = json!({"name": "a", "labels": {"app": "a"}, "ownerReferences": controlled_by(owner)});
    let template = json!({"metadata": metadata, "spec": pod_spec(&["A", "B"])});
    json!({
        "metadata": metadata,
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "a"}}, "template": template},
    })
}

/// What we want of it.
fn wanted(owner: &Object, env: &[&str]) -> Value {
    json!({
        "metadata": {"labels": {"app": "a"}, "ownerReferences": controlled_by(owner)},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": pod_spec(env)},
        },
    })
}

fn service(owner: &Object, selector: &Value, port: u16) -> Value {
    json!({
        "metadata": {"labels": {"app": "a"}, "ownerReferences": controlled_by(owner)},
        "spec": {"selector": selector, "ports": [{"name": "tcp-comm", "port": port, "targetPort": 8786}]},
    })
}

/// The Python operator's client makes it.
async fn made(world: &World, kind: &str, body: Value) -> anyhow::Result<Value> {
    let apply = world.apply(kind, "a", body);
    let api = api(world, kind);
    let parameters = PostParams { field_manager: Some("kr8s".to_owned()), ..PostParams::default() };
    let object = api.create(&parameters, &DynamicObject::deserialize(&apply.body)?).await?;
    // As kopf notes something on it.
    let note = json!({"metadata": {"annotations": {"kopf.zalando.org/note": "x"}}});
    let parameters = PatchParams { field_manager: Some("kopf".to_owned()), ..PatchParams::default() };
    api.patch("a", &parameters, &Patch::Merge(note)).await?;
    Ok(serde_json::to_value(object)?)
}

fn api(world: &World, kind: &str) -> Api<DynamicObject> {
    Api::namespaced_with(world.admin.clone(), &world.namespace, &api_resource(&world.resource(kind)))
}

async fn inherit(world: &World, kind: &str, owner: &Object, uid: &str) -> Result<Written, WriteError> {
    let (resource, object) = (world.resource(kind), world.key(kind, "a"));
    let (uid, controller, manager) = (uid.to_owned(), owner.metadata.uid.clone(), MANAGER.to_owned());
    world.applier.write(Action::Inherit { resource, object, uid, controller, manager }).await
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

/// A forced apply to an object that is there.
fn forced(world: &World, kind: &str, live: &Value, body: Value) -> Apply {
    let precondition = Precondition::Uid(uid(live).to_owned());
    Apply { force: true, precondition, ..world.apply(kind, "a", body) }
}

fn entry<'a>(object: &'a Value, manager: &str) -> Option<&'a Value> {
    let entries = object["metadata"]["managedFields"].as_array()?;
    entries.iter().find(|entry| entry["manager"] == manager)
}

async fn live(world: &World, kind: &str) -> anyhow::Result<Value> {
    Ok(world.live(kind, "a").await?.expect("it exists"))
}

async fn owner(world: &World) -> anyhow::Result<Arc<Object>> {
    Ok(world.write(world.apply("configmap", "owner", json!({}))).await?)
}

#[tokio::test]
async fn a_deployment_becomes_ours_as_it_is_and_a_dry_run_tells_what_would_restart_it() -> anyhow::Result<()> {
    in_world(async |world| {
        let owner = owner(&world).await?;
        made(&world, "deployment", deployment(&owner)).await?;
        let before = live(&world, "deployment").await?;
        // The Deployment's controller writes its status meanwhile.
        wait_for("the Deployment to be ours", PATIENCE, async || {
            match inherit(&world, "deployment", &owner, uid(&before)).await {
                Err(WriteError::Stale { .. }) => Ok(None),
                inherited => Ok(Some(inherited?)),
            }
        })
        .await?;
        let after = live(&world, "deployment").await?;
        assert_eq!(after["spec"], before["spec"]);
        assert_eq!(after["metadata"]["generation"], before["metadata"]["generation"]);
        assert_eq!(after["metadata"]["annotations"]["kopf.zalando.org/note"], "x");
        assert_eq!(entry(&after, "kopf"), entry(&before, "kopf"));
        assert_eq!((entry(&after, "kr8s"), &entry(&after, MANAGER).unwrap()["operation"]), (None, &json!("Apply")));

        let dry_run = async |env: &[&str]| {
            let apply = forced(&world, "deployment", &before, wanted(&owner, env));
            let Written::Applied(object) = world.applier.write(Action::DryRun(apply)).await? else { unreachable!() };
            anyhow::Ok(object.to_value()["spec"]["template"].clone())
        };
        assert_eq!(dry_run(&["A", "B"]).await?, before["spec"]["template"]);
        assert_eq!(dry_run(&["A"]).await?["spec"]["containers"][0]["env"], json!([{"name": "A", "value": "x"}]));
        let unchanged = live(&world, "deployment").await?;
        assert_eq!(unchanged["spec"], after["spec"]);
        assert_eq!(entry(&unchanged, MANAGER), entry(&after, MANAGER));

        world.write(forced(&world, "deployment", &before, wanted(&owner, &["A", "B"]))).await?;
        let applied = live(&world, "deployment").await?;
        assert_eq!(applied["spec"], before["spec"]);
        assert_eq!(applied["metadata"]["generation"], before["metadata"]["generation"]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_told_apart_by_what_changes_is_replaced() -> anyhow::Result<()> {
    in_world(async |world| {
        let owner = owner(&world).await?;
        let made = made(&world, "service", service(&owner, &json!({"app": "a", "old": "key"}), 8786)).await?;
        inherit(&world, "service", &owner, uid(&made)).await?;
        world.write(forced(&world, "service", &made, service(&owner, &json!({"app": "a"}), 9000))).await?;
        let after = live(&world, "service").await?;
        assert_eq!(after["spec"]["selector"], json!({"app": "a"}));
        let ports: Vec<_> = after["spec"]["ports"].as_array().unwrap().iter().map(|port| &port["port"]).collect();
        assert_eq!(ports, [9000]);
        assert_eq!(after["spec"]["clusterIP"], made["spec"]["clusterIP"]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn only_the_very_object_is_inherited_and_once() -> anyhow::Result<()> {
    in_world(async |world| {
        let owner = owner(&world).await?;
        let made = made(&world, "service", service(&owner, &json!({"app": "a"}), 8786)).await?;
        let before = live(&world, "service").await?;
        let error = inherit(&world, "service", &owner, "another").await.unwrap_err();
        assert_eq!(error.kind(), "Stale");
        let stranger = world.write(world.apply("configmap", "stranger", json!({}))).await?;
        assert_eq!(inherit(&world, "service", &stranger, uid(&made)).await.unwrap_err().kind(), "Stale");
        assert_eq!(live(&world, "service").await?, before);
        inherit(&world, "service", &owner, uid(&made)).await?;
        let after = live(&world, "service").await?;
        let error = inherit(&world, "service", &owner, uid(&made)).await.unwrap_err();
        assert_eq!(error.kind(), "Stale");
        assert_eq!(live(&world, "service").await?, after);
        Ok(())
    })
    .await
}

/// Somebody edits the number of a port: for the API server it is another port, which keeps ours from being applied. So does a port
/// that two hold, when one of them lets it go.
#[tokio::test]
async fn what_stands_in_the_way_goes_with_the_apply_whoever_holds_it() -> anyhow::Result<()> {
    in_world(async |world| {
        let owner = owner(&world).await?;
        let wanted = |port: u16| service(&owner, &json!({"app": "a"}), port);
        let made = world.write(world.apply("service", "a", wanted(8786))).await?.to_value();
        let ports_of = |service: &Value| {
            let ports = service["spec"]["ports"].as_array().into_iter().flatten();
            ports.map(|port| port["port"].clone()).collect::<Vec<_>>()
        };
        let edit = async |port: u16| {
            let edit = json!({"spec": {"ports": [{"name": "tcp-comm", "port": port, "targetPort": 8786}]}});
            api(&world, "service").patch("a", &PatchParams::default(), &Patch::Merge(edit)).await
        };
        let displace = async |uid: &str, port: u16, in_the_way: u16| {
            let key = format!(r#"k:{{"port":{in_the_way},"protocol":"TCP"}}"#);
            let parts = vec![vec!["f:spec".to_owned(), "f:ports".to_owned(), key]];
            let precondition = Precondition::Uid(uid.to_owned());
            let apply = Apply { precondition, ..forced(&world, "service", &made, wanted(port)) };
            world.applier.write(Action::Displace { apply, parts }).await
        };

        edit(9000).await?;
        let edited = live(&world, "service").await?;
        let refused = world.write(forced(&world, "service", &made, wanted(8786))).await.unwrap_err();
        assert!(refused.to_string().contains("Duplicate value"), "{refused}");
        assert_eq!(displace("another", 8786, 9000).await.unwrap_err().kind(), "Stale");
        assert_eq!(live(&world, "service").await?, edited);
        displace(uid(&made), 8786, 9000).await?;
        let repaired = live(&world, "service").await?;
        assert_eq!(
            (ports_of(&repaired), &repaired["spec"]["clusterIP"]),
            (vec![json!(8786)], &made["spec"]["clusterIP"])
        );

        // They hold it, and we want the same; then we want another.
        edit(9000).await?;
        world.write(forced(&world, "service", &made, wanted(9000))).await?;
        let refused = world.write(forced(&world, "service", &made, wanted(9100))).await.unwrap_err();
        assert!(refused.to_string().contains("Duplicate value"), "{refused}");
        displace(uid(&made), 9100, 9000).await?;
        let changed = live(&world, "service").await?;
        assert_eq!(ports_of(&changed), [json!(9100)]);
        // With nothing in the way any more it is an apply.
        displace(uid(&made), 9100, 9000).await?;
        assert_eq!(live(&world, "service").await?, changed);
        Ok(())
    })
    .await
}
