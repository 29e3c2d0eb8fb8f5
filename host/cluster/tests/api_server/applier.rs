//! Creating, taking back, preconditions, conflicts, deleting.

use std::sync::Arc;

use dask_wasm_operator_cluster::{applier::Applier, gate::Gate};
use dask_wasm_operator_core::{
    action::{Action, Apply, ApplyTarget, Precondition, WriteError, Written},
    conflict::Conflict,
    object::NamespacedName,
    ports::Writes,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{controlled_by, in_world};

fn deployment(image: &str) -> Value {
    json!({
        "spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
        },
    })
}

#[tokio::test]
async fn what_was_written_can_be_read_at_once() -> anyhow::Result<()> {
    in_world(async |world| {
        let _watch = world.watch("configmap", None).await?;
        let created = world.write(world.apply("configmap", "a", json!({"data": {"k": "1"}}))).await?;
        assert_eq!(world.known("configmap", "a").unwrap().metadata.uid, created.metadata.uid);
        assert!(created.applied_by(crate::MANAGER).is_some(), "manager names with slashes are accepted");
        for n in 0..20 {
            let text = n.to_string();
            world.write(world.apply_to(&created, json!({"data": {"k": text}}))).await?;
            assert_eq!(world.known("configmap", "a").unwrap().to_value()["data"]["k"], text);
        }
        assert!(matches!(world.delete("configmap", "a", &created.metadata.uid).await?, Written::Deleted));
        assert!(world.known("configmap", "a").is_none());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_object_of_somebody_else_is_left_as_it_was() -> anyhow::Result<()> {
    in_world(async |world| {
        let owner = world.write(world.apply("configmap", "owner", json!({}))).await?;
        let before = world.somebody_applies("configmap", "a", json!({"data": {"theirs": "1"}})).await?;
        let mut create = world.apply("configmap", "a", json!({"data": {"ours": "2"}}));
        create.body["metadata"]["ownerReferences"] = controlled_by(&owner);
        for force in [false, true] {
            let error = world.write(Apply { force, ..create.clone() }).await.unwrap_err();
            assert_eq!(
                error,
                WriteError::Foreign {
                    object: world.key("configmap", "a"),
                    owner: "others (field managers: somebody)".into()
                }
            );
            assert_eq!(world.live("configmap", "a").await?.unwrap(), before, "not even its version has changed");
        }
        Ok(())
    })
    .await
}

/// What the default grant lets plugins make, what Dask reconcilers make, and a custom kind.
fn creatable() -> [(&'static str, Value); 8] {
    let pod = json!({"containers": [{"name": "c", "image": "i"}]});
    [
        ("configmap", json!({"data": {"a": "b"}})),
        ("service", json!({"spec": {"ports": [{"port": 80}]}})),
        ("ingress", json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}})),
        ("networkpolicy", json!({"spec": {"podSelector": {"matchLabels": {"a": "b"}}}})),
        ("poddisruptionbudget", json!({"spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}}})),
        ("deployment", deployment("i")),
        ("pod", json!({"spec": pod})),
        ("lease", json!({"spec": {"leaseDurationSeconds": 10}})),
    ]
}

/// What nobody but its maker has changed: controllers of Kubernetes keep statuses, and notes.
fn essence(mut object: Value) -> Value {
    object["status"] = Value::Null;
    object["metadata"]["annotations"] = Value::Null;
    object["metadata"]["resourceVersion"] = Value::Null;
    if let Some(entries) = object["metadata"]["managedFields"].as_array_mut() {
        entries.retain(|entry| entry["operation"] == "Apply");
    }
    object
}

/// Everything rests on this: that the API server creates with the version that no object has, and changes nothing.
#[tokio::test]
async fn what_is_to_be_made_is_made_once_and_never_changed() -> anyhow::Result<()> {
    in_world(async |world| {
        let owner = world.write(world.apply("configmap", "owner", json!({}))).await?;
        for (kind, fields) in creatable() {
            let mut create = world.apply(kind, "a", fields);
            create.body["metadata"]["ownerReferences"] = controlled_by(&owner);
            create.body["metadata"]["labels"] = json!({"a": "1"});
            let made = world.write(create.clone()).await?;
            let entry = made.applied_by(crate::MANAGER).map(|entry| entry.operation.as_str());
            assert_eq!(entry, Some("Apply"), "{kind}: what it no longer wants can be removed");
            let before = essence(world.live(kind, "a").await?.unwrap());
            create.body["metadata"]["labels"] = json!({"a": "2", "b": "2"});
            let by_another = Apply { manager: "dask-plugin/istio/other".to_owned(), ..create.clone() };
            for (apply, expected) in [(create, "Stale"), (by_another, "ForeignObject")] {
                for force in [false, true] {
                    let error = world.write(Apply { force, ..apply.clone() }).await.unwrap_err();
                    assert_eq!(error.kind(), expected, "{kind}: {error:?}");
                    assert_eq!(essence(world.live(kind, "a").await?.unwrap()), before, "{kind}");
                }
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_child_of_ours_that_no_watch_shows_is_found_where_it_was_to_be_made() -> anyhow::Result<()> {
    in_world(async |world| {
        let _watch = world.watch("configmap", Some("test=yes")).await?;
        let owner = world.write(world.apply("service", "owner", json!({"spec": {"ports": [{"port": 80}]}}))).await?;
        let mut create = world.apply("configmap", "a", json!({"data": {"k": "1"}}));
        create.body["metadata"]["ownerReferences"] = controlled_by(&owner);
        let made = world.write(create.clone()).await?;
        assert!(world.known("configmap", "a").is_none(), "it has no label");
        assert_eq!(world.write(create.clone()).await.unwrap_err().kind(), "Stale");
        let departed = world.index.departed(&made.kind, &owner.metadata.uid);
        let [departed] = &departed[..] else { panic!("{departed:?}") };
        assert_eq!(departed.metadata.uid, made.metadata.uid);
        create.body["metadata"]["labels"] = json!({"test": "yes"});
        world.write(Apply { precondition: Precondition::is(departed), ..create }).await?;
        assert_eq!(world.known("configmap", "a").unwrap().metadata.uid, made.metadata.uid);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_second_controller_is_refused_and_the_first_named() -> anyhow::Result<()> {
    in_world(async |world| {
        let ours = world.write(world.apply("configmap", "ours", json!({}))).await?;
        let theirs = world.write(world.apply("configmap", "theirs", json!({}))).await?;
        let metadata = json!({"ownerReferences": controlled_by(&theirs)});
        world.somebody_applies("configmap", "a", json!({"metadata": metadata})).await?;
        let mut create = world.apply("configmap", "a", json!({}));
        create.body["metadata"]["ownerReferences"] = controlled_by(&ours);
        let live = world.live("configmap", "a").await?.unwrap();
        let uid = live["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        for precondition in [Precondition::Absent, Precondition::Uid(uid)] {
            let error = world.write(Apply { precondition, ..create.clone() }).await.unwrap_err();
            assert_eq!(error.kind(), "ForeignObject");
            assert!(error.to_string().contains("ConfigMap theirs"), "{error}");
        }
        assert_eq!(world.live("configmap", "a").await?.unwrap(), live);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_wrong_uid_is_stale_whether_or_not_the_object_exists() -> anyhow::Result<()> {
    in_world(async |world| {
        world.write(world.apply("configmap", "a", json!({}))).await?;
        for name in ["a", "absent"] {
            let precondition = Precondition::Uid("00000000-0000-0000-0000-000000000000".to_owned());
            let apply = Apply { precondition, ..world.apply("configmap", name, json!({})) };
            let error = world.write(apply).await.unwrap_err();
            assert_eq!(error.kind(), "Stale", "{name}: {error:?}");
        }
        assert!(world.live("configmap", "absent").await?.is_none());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_departed_object_is_forgotten_when_the_server_says_that_it_is_gone() -> anyhow::Result<()> {
    in_world(async |world| {
        let _watch = world.watch("configmap", None).await?;
        let owner = world.write(world.apply("configmap", "owner", json!({}))).await?;
        let metadata = json!({"ownerReferences": controlled_by(&owner)});
        let child = world.write(world.apply("configmap", "a", json!({"metadata": metadata}))).await?;
        let departed = || world.index.departed(&child.kind, &owner.metadata.uid);
        world.somebody_deletes("configmap", "a").await?;
        dask_wasm_operator_test_support::wait_for("the departure", crate::PATIENCE, async || {
            Ok((!departed().is_empty()).then_some(()))
        })
        .await?;
        let apply = world.apply_to(&departed()[0], json!({}));
        assert_eq!(world.write(apply).await.unwrap_err().kind(), "Stale");
        assert!(departed().is_empty());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_conflict_names_manager_and_field() -> anyhow::Result<()> {
    in_world(async |world| {
        let owner = world.write(world.apply("configmap", "owner", json!({}))).await?;
        let metadata = json!({"ownerReferences": controlled_by(&owner)});
        let made =
            world.write(world.apply("configmap", "a", json!({"metadata": metadata, "data": {"k": "1"}}))).await?;
        world.somebody_applies("configmap", "a", json!({"data": {"k": "2"}})).await?;
        let apply = world.apply_to(&made, json!({"metadata": metadata, "data": {"k": "3"}}));
        let error = world.write(apply.clone()).await.unwrap_err();
        assert_eq!(error.kind(), "FieldConflict", "{error:?}");
        assert!(error.to_string().contains("“somebody”") && error.to_string().contains(".data.k"), "{error}");
        let [Conflict { object, path, manager, .. }] = error.conflicts() else { panic!("{error:?}") };
        assert_eq!((object, path.as_str(), manager.as_str()), (&made.key(), "data.k", "somebody"));
        assert_eq!(world.write(Apply { force: true, ..apply }).await?.to_value()["data"]["k"], "3");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn refusals_carry_the_words_of_the_server() -> anyhow::Result<()> {
    in_world(async |world| {
        let mut elsewhere = world.apply("configmap", "a", json!({}));
        elsewhere.object.at = NamespacedName::new("no-such-namespace", "a");
        elsewhere.body["metadata"]["namespace"] = json!("no-such-namespace");
        let error = world.write(elsewhere).await.unwrap_err();
        assert!(matches!(error, WriteError::Refused { code: 404, .. }), "{error:?}");
        assert!(error.to_string().contains("no-such-namespace"), "{error}");

        let invalid = json!({"spec": {"template": {"spec": {"containers": []}}}});
        let error = world.write(world.apply("deployment", "a", invalid)).await.unwrap_err();
        assert!(matches!(error, WriteError::Refused { code: 422, .. }), "{error:?}");
        assert!(error.to_string().contains("spec.selector"), "{error}");

        let unknown = json!({"data": {}, "noSuchField": 1});
        let error = world.write(world.apply("configmap", "a", unknown)).await.unwrap_err();
        assert_eq!(error.kind(), "Refused", "{error:?}");
        assert!(error.to_string().contains("noSuchField"), "{error}");

        let error = world.write(world.apply("configmap", "x?force=true", json!({}))).await.unwrap_err();
        assert_eq!(error.kind(), "Refused", "{error:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_status_of_what_is_gone_is_stale() -> anyhow::Result<()> {
    in_world(async |world| {
        let apply = world.apply("deployment", "absent", json!({"status": {"observedGeneration": 1}}));
        let precondition = Precondition::Uid("00000000-0000-0000-0000-000000000000".to_owned());
        let apply = Apply { target: ApplyTarget::Status, precondition, ..apply };
        let error = world.write(apply).await.unwrap_err();
        assert_eq!(error.kind(), "Stale", "{error:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn only_the_very_object_is_deleted() -> anyhow::Result<()> {
    in_world(async |world| {
        let _watch = world.watch("service", None).await?;
        let ports = json!({"spec": {"ports": [{"port": 80}]}});
        let service = world.write(world.apply("service", "a", ports)).await?;
        world.delete("service", "a", "00000000-0000-0000-0000-000000000000").await?;
        assert!(world.live("service", "a").await?.is_some());
        assert!(world.known("service", "a").is_some());
        world.delete("service", "a", &service.metadata.uid).await?;
        assert!(world.live("service", "a").await?.is_none());
        assert!(world.known("service", "a").is_none());
        world.delete("service", "a", &service.metadata.uid).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_object_that_waits_for_a_finalizer_is_known_to_be_on_its_way() -> anyhow::Result<()> {
    in_world(async |world| {
        let _watch = world.watch("configmap", None).await?;
        let metadata = json!({"finalizers": ["plugins.dask.org/istio"]});
        let object = world.write(world.apply("configmap", "a", json!({"metadata": metadata}))).await?;
        world.delete("configmap", "a", &object.metadata.uid).await?;
        assert!(world.known("configmap", "a").unwrap().is_being_deleted());
        world.write(world.apply_to(&object, json!({}))).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nothing_is_written_without_the_lease() -> anyhow::Result<()> {
    in_world(async |world| {
        let (_sender, closed) = watch::channel(None);
        let applier = Applier::new(world.clients.unary.clone(), Arc::clone(&world.index), Gate::held_until(closed), 1);
        let apply = world.apply("configmap", "a", json!({}));
        assert_eq!(applier.write(Action::Apply(apply)).await.unwrap_err(), WriteError::NotLeader);
        assert!(world.live("configmap", "a").await?.is_none());
        Ok(())
    })
    .await
}
