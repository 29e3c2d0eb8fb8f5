//! A job from its creation to its end: its runner runs once.

use anyhow::ensure;
use dask_wasm_operator_test_integration::{
    manifests::{self, SIMPLE},
    objects::{CLUSTER, JOB, POD, text, uid},
};

use super::{Flow, World, crash_at_every_write};

#[test]
fn a_job_survives_a_crash_at_every_write() {
    crash_at_every_write(&Job).unwrap();
}

const RUNNER: &str = "simple-runner";

struct Job;

impl Flow for Job {
    // The DaskCluster, what it consists of, the runner, four times the job's status, and the cluster's end.
    const WRITES: usize = 12;
    const COMES_LATER: bool = true;

    async fn run(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        world.create(&manifests::job(SIMPLE)).await?;
        let runner = world.until_there(POD, RUNNER).await?;
        world.run_runner(RUNNER, "Running", None).await?;
        world.until_job("Running").await?;
        world.run_runner(RUNNER, "Succeeded", Some(0)).await?;
        world.until_job("Successful").await?;
        world.until_gone(CLUSTER, SIMPLE).await?;
        ensure!(uid(&world.get(POD, RUNNER).await?) == uid(&runner), "the runner was made twice");
        Ok(())
    }
}

impl World<'_> {
    async fn until_job(&self, status: &str) -> anyhow::Result<()> {
        self.until(JOB, SIMPLE, status, |job| text(job, "/status/jobStatus") == status).await?;
        Ok(())
    }
}
