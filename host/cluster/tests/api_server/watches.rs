//! What watches bring, and what they survive.

use std::sync::Arc;

use anyhow::Context;
use dask_wasm_operator_cluster::{
    index::Index,
    watch::{WatchKey, WatchProblem, Watches},
};
use dask_wasm_operator_core::{
    action::Apply,
    object::{GroupVersionKind, Resource},
};
use dask_wasm_operator_test_support::{TestCluster, apply_crds, service_account_token, wait_for};
use serde_json::json;

use crate::{PATIENCE, connect, controlled_by, in_world, proxy::Proxy};

#[tokio::test]
async fn a_watch_catches_up_after_an_outage() -> anyhow::Result<()> {
    in_world(async |world| {
        let cluster = TestCluster::obtain(&[]).await?;
        let proxy = Proxy::start(cluster.kubeconfig()).await?;
        let clients = connect(&proxy.kubeconfig(cluster.kubeconfig())?).await?;
        let index = Arc::new(Index::new(|_| ()));
        let watches = Watches::new(clients.watch, Arc::clone(&index));
        let watch = watches.start(&world.watch_key("configmap", Some("test=yes")))?;
        tokio::time::timeout(PATIENCE, watch.synced()).await?;

        let labelled = || json!({"metadata": {"labels": {"test": "yes"}}});
        world.write(world.apply("configmap", "before", labelled())).await?;
        let known = |name: &str| index.get(&watch.key().resource.kind, &world.key("configmap", name).at);
        wait_for("the first object", PATIENCE, async || Ok(known("before"))).await?;
        proxy.cut();
        wait_for("the outage to be noticed", PATIENCE, async || {
            Ok(matches!(watch.status().problem, Some(WatchProblem::Unavailable(_))).then_some(()))
        })
        .await?;
        assert!(known("before").is_some(), "what is known stays known");
        assert!(watch.status().is_synced);
        world.somebody_deletes("configmap", "before").await?;
        world.write(world.apply("configmap", "after", labelled())).await?;
        proxy.mend();
        wait_for("the object that was made meanwhile", PATIENCE, async || Ok(known("after"))).await?;
        assert!(known("before").is_none());
        assert_eq!(watch.status().problem, None);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_kind_that_is_not_served_says_so_until_it_is() -> anyhow::Result<()> {
    in_world(async |world| {
        let resource = Resource {
            kind: GroupVersionKind::new("watches.test", "v1", "Late"),
            plural: "lates".to_owned(),
            namespaced: true,
        };
        let missing = world.watches.start(&WatchKey { resource: resource.clone(), namespace: None, labels: None })?;
        let served = world.watch("configmap", None).await?;
        tokio::time::timeout(PATIENCE, world.watches.settled()).await?;
        assert_eq!(missing.status().problem, Some(WatchProblem::NotServed));
        assert!(served.status().is_synced && !missing.status().is_synced);
        let crd = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "lates.watches.test"},
            "spec": {
                "group": "watches.test", "scope": "Namespaced",
                "names": {"kind": "Late", "plural": "lates", "singular": "late", "shortNames": ["lt"]},
                "versions": [{
                    "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                }],
            },
        });
        apply_crds(&world.admin, &[serde_json::from_value(crd)?]).await?;
        tokio::time::timeout(PATIENCE, missing.synced()).await.context("waiting for the kind")?;
        wait_for("the discovery to know", PATIENCE, async || {
            world.discovery.refresh().await?;
            Ok(dask_wasm_operator_cluster::crds::installed(&world.discovery.table(), "watches.test", "Late"))
        })
        .await
        .map(|installed| assert!(installed.has_status_subresource))?;
        assert_eq!(world.resource("lt"), resource);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_missing_right_is_named() -> anyhow::Result<()> {
    in_world(async |world| {
        let cluster = TestCluster::obtain(&[]).await?;
        world.write(world.apply("serviceaccount", "nobody", json!({}))).await?;
        let token = service_account_token(&world.admin, &world.namespace, "nobody").await?;
        let clients = connect(&cluster.kubeconfig().with_token(&token)?).await?;
        let watches = Watches::new(clients.watch, Arc::clone(&world.index));
        let watch = watches.start(&world.watch_key("configmap", None))?;
        tokio::time::timeout(PATIENCE, watches.settled()).await?;
        let Some(WatchProblem::Forbidden(message)) = watch.status().problem else { panic!("{:?}", watch.status()) };
        assert!(message.contains("cannot list resource \"configmaps\""), "{message}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_object_that_loses_its_label_departs_and_returns() -> anyhow::Result<()> {
    in_world(async |world| {
        let _owners = world.watch("serviceaccount", None).await?;
        let _children = world.watch("configmap", Some("test=yes")).await?;
        let owner = world.write(world.apply("serviceaccount", "owner", json!({}))).await?;
        let references = controlled_by(&owner);
        let labelled = json!({"metadata": {"labels": {"test": "yes"}, "ownerReferences": references}});
        let child = world.write(world.apply("configmap", "a", labelled.clone())).await?;
        let departed = || world.index.departed(&child.kind, &owner.metadata.uid);
        let force = |label: serde_json::Value| json!({"metadata": {"labels": {"test": label}}});
        world.somebody_applies("configmap", "a", force(json!("no"))).await?;
        wait_for("the departure", PATIENCE, async || Ok((departed().len() == 1).then_some(()))).await?;
        assert!(world.known("configmap", "a").is_none());
        let repair = world.apply_to(&departed()[0], labelled);
        world.write(Apply { force: true, ..repair }).await?;
        assert!(world.known("configmap", "a").is_some());
        assert!(departed().is_empty());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_same_watch_twice_is_one() -> anyhow::Result<()> {
    in_world(async |world| {
        let first = world.watch("configmap", None).await?;
        let second = world.watch("configmap", None).await?;
        assert_eq!(world.watches.statuses().len(), 1);
        drop(first);
        world.write(world.apply("configmap", "a", json!({}))).await?;
        assert!(world.known("configmap", "a").is_some());
        drop(second);
        assert!(world.watches.statuses().is_empty());
        wait_for("the index to forget", PATIENCE, async || Ok(world.known("configmap", "a").is_none().then_some(())))
            .await?;
        Ok(())
    })
    .await
}
