//! As many workers as the work needs.

use anyhow::ensure;

use crate::{
    manifests::{self, SIMPLE},
    objects::{AUTOSCALER, GROUP},
    stage::on_stage_with_dask,
};

/// What a scheduler asks for grows with the time that it has seen the tasks take: no more are asked for while workers are to come,
/// and nobody runs those that come here.
#[tokio::test]
async fn workers_come_with_the_work_and_stay_within_bounds() -> anyhow::Result<()> {
    on_stage_with_dask(&[], async |stage, dask| {
        stage.running_simple(dask, 1).await?;
        dask.run(
            "import time\n\
             work = client.map(time.sleep, [600] * 100, pure=False)\n\
             client.publish_dataset(work, name='work')\n\
             asked = lambda dask_scheduler: dask_scheduler.adaptive_target()\n\
             while client.run_on_scheduler(asked) < 3: time.sleep(0.05)",
        )?;
        let mut autoscaler = manifests::autoscaler(SIMPLE, 1, 3);
        autoscaler["spec"]["intervalSeconds"] = 1.into();
        stage.create(&autoscaler).await?;
        stage.until_workers("simple-default", 3).await?;
        let autoscaler = stage
            .until(AUTOSCALER, SIMPLE, "at its maximum", |autoscaler| {
                autoscaler["status"]["desiredReplicas"] == 3 && autoscaler["status"]["currentReplicas"] == 3
            })
            .await?;
        ensure!(autoscaler["status"]["lastScaleTime"].is_string(), "{autoscaler:#}");
        let owner = &autoscaler["metadata"]["ownerReferences"][0]["kind"];
        assert_eq!(owner, "DaskCluster", "the autoscaler goes with its cluster");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_minimum_holds_without_work() -> anyhow::Result<()> {
    on_stage_with_dask(&[], async |stage, dask| {
        stage.running_simple(dask, 1).await?;
        let mut autoscaler = manifests::autoscaler(SIMPLE, 2, 3);
        autoscaler["spec"]["intervalSeconds"] = 1.into();
        stage.create(&autoscaler).await?;
        stage
            .until(GROUP, "simple-default", "at the minimum", |group| group["spec"]["worker"]["replicas"] == 2)
            .await?;
        Ok(())
    })
    .await
}
