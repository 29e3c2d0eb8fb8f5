//! Dask clusters as their users see them, and what a kubelet and processes of Dask do for them where there is no node.

use dask_wasm_operator_test_support::{DaskProcesses, wait_for};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    manifests::{self, SIMPLE, SIMPLE_GROUP},
    objects::{CLUSTER, DEPLOYMENT, GROUP, Objects, POD, REPLICA_SET, TIMEOUT, controller, name, uid},
};

/// Selects the workers of a group.
pub fn workers(group: &str) -> String {
    format!("dask.org/component=worker,dask.org/workergroup-name={group}")
}

impl Objects {
    /// Creates a DaskCluster and waits until all of it exists and its status says so.
    pub async fn running_cluster(&self, name: &str, workers: u32) -> anyhow::Result<Value> {
        self.create(&manifests::cluster(name, workers)).await?;
        self.until_running(name, workers).await
    }

    /// Waits until a cluster and its default group have this many workers and say so.
    pub async fn until_running(&self, name: &str, workers: u32) -> anyhow::Result<Value> {
        let says_so = |object: &Value| {
            let status = &object["status"];
            status["replicas"] == workers && status["observedGeneration"] == object["metadata"]["generation"]
        };
        self.until(GROUP, &format!("{name}-default"), &format!("said to have {workers} workers"), says_so).await?;
        self.until(CLUSTER, name, &format!("Running with {workers} workers"), |cluster| {
            cluster["status"]["phase"] == "Running" && says_so(cluster)
        })
        .await
    }

    /// The Deployments of a group's workers, by name.
    pub async fn workers(&self, group: &str) -> anyhow::Result<Vec<Value>> {
        self.list(DEPLOYMENT, &workers(group)).await
    }

    /// Waits until a group has this many workers, and answers them by name.
    pub async fn until_workers(&self, group: &str, count: usize) -> anyhow::Result<Vec<Value>> {
        self.until_count(DEPLOYMENT, &workers(group), count).await
    }

    /// Does for the pod of a Deployment what a kubelet would: it runs and is ready.
    pub async fn run_pod_of(&self, deployment: &str) -> anyhow::Result<()> {
        let ready = json!({"type": "Ready", "status": "True"});
        self.report_pod_of(deployment, &json!({"phase": "Running", "conditions": [ready]})).await
    }

    /// Reports this status of the pod of a Deployment, as a kubelet would.
    pub async fn report_pod_of(&self, deployment: &str, status: &Value) -> anyhow::Result<()> {
        let deployment = self.until_there(DEPLOYMENT, deployment).await?;
        let pod = wait_for("the pod of a Deployment", TIMEOUT, async || {
            let sets = self.list(REPLICA_SET, "").await?;
            let sets: Vec<_> = sets.iter().filter(|set| controller(set) == uid(&deployment)).map(uid).collect();
            let pods = self.list(POD, "").await?;
            Ok(pods.iter().find(|pod| sets.contains(&controller(pod))).map(|pod| name(pod).to_owned()))
        })
        .await?;
        self.report_pod(&pod, status).await
    }

    /// Does for the runner of a job what a kubelet would: it is in this phase, its container has ended if there is an exit
    /// code.
    pub async fn run_runner(&self, pod: &str, phase: &str, exit_code: Option<i32>) -> anyhow::Result<()> {
        let at = "2026-01-01T00:00:00Z";
        let state = match exit_code {
            None => json!({"running": {"startedAt": at}}),
            Some(code) => {
                json!({"terminated": {"exitCode": code, "reason": "Ended", "startedAt": at, "finishedAt": at}})
            }
        };
        let container =
            json!({"name": "job", "image": "i", "imageID": "i", "ready": true, "restartCount": 0, "state": state});
        self.report_pod(pod, &json!({"phase": phase, "startTime": at, "containerStatuses": [container]})).await
    }

    async fn report_pod(&self, pod: &str, status: &Value) -> anyhow::Result<()> {
        let status = json!({"status": status});
        self.api(POD).patch_status(pod, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }

    /// Creates DaskCluster [`SIMPLE`] whose workers all run: pods that are ready, and processes at its scheduler under their
    /// names, which it answers.
    pub async fn running_simple(&self, dask: &mut DaskProcesses, workers: u32) -> anyhow::Result<Vec<String>> {
        self.running_cluster(SIMPLE, workers).await?;
        self.run_pod_of(&format!("{SIMPLE}-scheduler")).await?;
        let workers = self.workers(SIMPLE_GROUP).await?;
        let names: Vec<_> = workers.iter().map(|worker| name(worker).to_owned()).collect();
        for name in &names {
            self.run_pod_of(name).await?;
            dask.add_worker(name)?;
        }
        dask.run(&format!("client.wait_for_workers({})", names.len()))?;
        Ok(names)
    }
}
