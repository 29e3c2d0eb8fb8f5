//! DaskWorkerGroups that people make beside the default one.

use anyhow::ensure;
use serde_json::json;

use crate::{
    manifests,
    objects::{CLUSTER, DEPLOYMENT, GROUP, condition, controller, name, uid},
    stage::{container, on_stage},
};

#[tokio::test]
async fn a_group_made_by_hand_belongs_to_its_cluster() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let cluster = stage.running_cluster("simple", 1).await?;
        stage.create(&manifests::group("extra", "simple", 2)).await?;
        let workers = stage.until_workers("extra", 2).await?;
        let group = stage.get(GROUP, "extra").await?;
        assert_eq!(controller(&group), uid(&cluster));
        for worker in &workers {
            assert_eq!(controller(worker), uid(&group));
            assert_eq!(worker["metadata"]["labels"]["dask.org/cluster-name"], "simple");
            let address = &container(worker)["env"][1]["value"];
            ensure!(
                address.as_str().is_some_and(|address| address.starts_with("tcp://simple-scheduler.")),
                "{address}"
            );
        }
        stage.until(GROUP, "extra", "of 2 workers", |group| group["status"]["replicas"] == 2).await?;
        let cluster = stage.get(CLUSTER, "simple").await?;
        assert_eq!(cluster["status"]["replicas"], 1, "a cluster's status counts its default group");

        stage.delete(CLUSTER, "simple").await?;
        stage.until_gone(GROUP, "extra").await?;
        for worker in &workers {
            stage.until_gone(DEPLOYMENT, name(worker)).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_group_without_cluster_says_so_and_comes_alive_with_it() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.create(&manifests::group("early", "late", 2)).await?;
        let message = stage.until_condition(GROUP, "early", ["Degraded", "True", "ClusterNotFound"]).await?;
        let remedy =
            "spec.cluster names late, which is no DaskCluster of this namespace; create it, or correct the name";
        ensure!(message.contains(remedy), "{message}");
        let note = stage.until_event(GROUP, "early", "ClusterNotFound").await?;
        assert_eq!(note, message);
        assert_eq!(stage.workers("early").await?.len(), 0);

        let cluster = stage.running_cluster("late", 1).await?;
        stage.until_workers("early", 2).await?;
        assert_eq!(controller(&stage.get(GROUP, "early").await?), uid(&cluster));
        stage.until_condition(GROUP, "early", ["Degraded", "False", "AsWanted"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn fault_12_a_group_of_a_cluster_that_goes_gets_no_workers() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("going", 1).await?;
        stage.create(&manifests::group("early", "going", 0)).await?;
        stage.merge(CLUSTER, "going", &json!({"metadata": {"finalizers": ["example.org/wait"]}})).await?;
        stage.delete(CLUSTER, "going").await?;
        // Each kind has a watch of its own: that the operator knows of the deletion is told by a group that it knew before.
        stage.until_condition(GROUP, "early", ["Degraded", "True", "ClusterDeleting"]).await?;
        stage.create(&manifests::group("tardy", "going", 2)).await?;
        let message = stage.until_condition(GROUP, "tardy", ["Degraded", "True", "ClusterDeleting"]).await?;
        ensure!(message.contains("DaskCluster going (spec.cluster) is being deleted"), "{message}");
        stage.until_event(GROUP, "tardy", "ClusterDeleting").await?;
        assert_eq!(stage.workers("tardy").await?.len(), 0);

        stage.merge(CLUSTER, "going", &json!({"metadata": {"finalizers": null}})).await?;
        stage.until_gone(CLUSTER, "going").await?;
        stage.until_condition(GROUP, "tardy", ["Degraded", "True", "ClusterNotFound"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_group_can_be_given_another_cluster() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 1).await?;
        stage.create(&manifests::group("extra", "simpel", 1)).await?;
        stage.until_condition(GROUP, "extra", ["Degraded", "True", "ClusterNotFound"]).await?;
        stage.merge(GROUP, "extra", &json!({"spec": {"cluster": "simple"}})).await?;
        stage.until_workers("extra", 1).await?;
        let group =
            stage.until(GROUP, "extra", "well", |group| condition(group, "Degraded")["status"] == "False").await?;
        assert_eq!(group["status"]["replicas"], 1);
        Ok(())
    })
    .await
}
