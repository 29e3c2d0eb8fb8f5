//! How many workers there are, and which of them go.

use anyhow::ensure;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    clusters::workers,
    objects::{CLUSTER, DEPLOYMENT, GROUP, SERVICE, name, names, text, uid},
    stage::on_stage,
};

#[tokio::test]
async fn a_groups_own_number_counts_until_the_clusters_changes() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 3).await?;
        stage.scale(GROUP, "simple-default", 5).await?;
        let cluster = stage.until_running("simple", 5).await?;
        assert_eq!(cluster["spec"]["worker"]["replicas"], 3, "only the group was scaled");
        stage.until_workers("simple-default", 5).await?;

        stage.stop().await?;
        stage.start().await?;
        // A repair shows that the cluster was looked at since the start; an edit, that it was looked at anew.
        let service = stage.get(SERVICE, "simple-scheduler").await?;
        stage.delete(SERVICE, "simple-scheduler").await?;
        stage.until_new(SERVICE, "simple-scheduler", &service).await?;
        stage.merge(CLUSTER, "simple", &json!({"spec": {"idleTimeout": 100}})).await?;
        stage.until_running("simple", 5).await?;
        assert_eq!(stage.get(GROUP, "simple-default").await?["spec"]["worker"]["replicas"], 5);
        assert_eq!(stage.workers("simple-default").await?.len(), 5);

        stage.scale(CLUSTER, "simple", 2).await?;
        stage.until_running("simple", 2).await?;
        stage.until_workers("simple-default", 2).await?;
        // The group's status is written apart from the cluster's.
        stage.until(GROUP, "simple-default", "counted", |group| group["status"]["replicas"] == 2).await?;
        let scale = stage.api(GROUP).get_scale("simple-default").await?;
        assert_eq!(
            (scale.spec.and_then(|spec| spec.replicas), scale.status.map(|status| status.replicas)),
            (Some(2), Some(2))
        );
        let scale = stage.api(CLUSTER).get_scale("simple").await?;
        let selector = scale.status.and_then(|status| status.selector).unwrap_or_default();
        assert_eq!(stage.list(DEPLOYMENT, &selector).await?.len(), 2, "autoscalers find the workers by {selector}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nothing_is_left_of_a_group_without_workers() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 2).await?;
        stage.scale(GROUP, "simple-default", 0).await?;
        stage.until_running("simple", 0).await?;
        stage.until_count(DEPLOYMENT, &workers("simple-default"), 0).await?;
        stage.scale(GROUP, "simple-default", 1).await?;
        stage.until_running("simple", 1).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn those_that_never_started_go_first_and_then_the_newest() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 4).await?;
        let group = stage.get(GROUP, "simple-default").await?;
        stage.until_workers("simple-default", 4).await?;
        let worker = |ordinal: u32| {
            let digest = Sha256::digest(format!("{}:{ordinal}", uid(&group)));
            let suffix: String = digest[..5].iter().map(|byte| format!("{byte:02x}")).collect();
            format!("simple-default-worker-{suffix}")
        };
        for ordinal in [0, 2, 3] {
            stage.run_pod_of(&worker(ordinal)).await?;
        }
        stage
            .until(GROUP, "simple-default", "of 3 ready workers", |group| group["status"]["readyReplicas"] == 3)
            .await?;

        for left in [vec![0, 2, 3], vec![0, 2], vec![0]] {
            stage.scale(GROUP, "simple-default", u32::try_from(left.len())?).await?;
            let mut expected: Vec<_> = left.into_iter().map(worker).collect();
            expected.sort();
            assert_eq!(names(&stage.until_workers("simple-default", expected.len()).await?), expected);
        }

        // A name is never used again: the scheduler remembers who has left.
        stage.scale(GROUP, "simple-default", 2).await?;
        let workers = stage.until_workers("simple-default", 2).await?;
        let mut expected = [worker(0), worker(4)];
        expected.sort();
        assert_eq!(names(&workers), expected);
        let group = stage.get(GROUP, "simple-default").await?;
        let record = text(&group["metadata"]["annotations"], "/operator.dask.org~1worker-ordinals");
        ensure!(record == r#"{"next":5,"workers":"0,4"}"#, "{record} of {}", name(&group));
        Ok(())
    })
    .await
}
