//! What users have where a Dask reconciler wants an object is not touched, nor does it go with the Dask object.

use anyhow::ensure;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    manifests,
    objects::{CLUSTER, DEPLOYMENT, GROUP, JOB, Kind, POD, SERVICE, essence, text},
    stage::{Stage, on_stage},
};

/// An object of a user, at the place of one that the Dask object `name` asks for.
fn theirs(kind: Kind<'_>, name: &str) -> Value {
    let pod = json!({"containers": [{"name": "c", "image": "i"}]});
    let labels = json!({"a": "b"});
    let (name, spec) = match kind.1 {
        "Service" => {
            (format!("{name}-scheduler"), json!({"selector": labels, "ports": [{"name": "http", "port": 80}]}))
        }
        "Deployment" => {
            let template = json!({"metadata": {"labels": labels}, "spec": pod});
            let spec = json!({"replicas": 0, "selector": {"matchLabels": labels}, "template": template});
            (format!("{name}-scheduler"), spec)
        }
        "DaskWorkerGroup" => (format!("{name}-default"), manifests::group("g", "elsewhere", 1)["spec"].clone()),
        "Pod" => (format!("{name}-runner"), pod),
        _ => (name.to_owned(), manifests::cluster(name, 0)["spec"].clone()),
    };
    json!({"apiVersion": kind.0, "kind": kind.1, "metadata": {"name": name}, "spec": spec})
}

/// Makes the objects, one after the other in another way: by create, by server-side apply, as a copy with the labels of ours.
async fn make(stage: &Stage, objects: &[(Kind<'_>, Value)], way: usize) -> anyhow::Result<()> {
    for (number, (kind, object)) in objects.iter().enumerate() {
        let name = text(object, "/metadata/name");
        match (number + way) % 3 {
            0 => drop(stage.create(object).await?),
            1 => {
                let parameters = PatchParams::apply("kubectl");
                stage.api(*kind).patch(name, &parameters, &Patch::Apply(object)).await?;
            }
            _ => {
                let mut object = object.clone();
                let component = if kind.1 == "Pod" { "job-runner" } else { "scheduler" };
                object["metadata"]["labels"] = json!({"dask.org/component": component, "dask.org/cluster-name": "x"});
                stage.create(&object).await?;
            }
        }
    }
    Ok(())
}

async fn now(stage: &Stage, objects: &[(Kind<'_>, Value)]) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for (kind, object) in objects {
        all.push(essence(&stage.get(*kind, text(object, "/metadata/name")).await?));
    }
    Ok(all)
}

#[tokio::test]
async fn what_a_cluster_finds_at_the_places_of_its_own_stays_as_it_is() -> anyhow::Result<()> {
    on_stage(async |stage| {
        for way in 0..3 {
            let name = format!("simple{way}");
            let objects = [SERVICE, DEPLOYMENT, GROUP].map(|kind| (kind, theirs(kind, &name)));
            make(stage, &objects, way).await?;
            let before = now(stage, &objects).await?;
            stage.create(&manifests::cluster(&name, 1)).await?;
            stage.until_condition(CLUSTER, &name, ["Degraded", "True", "ForeignObject"]).await?;
            assert_eq!(now(stage, &objects).await?, before, "when it was made");
            // It tries again.
            stage.merge(CLUSTER, &name, &json!({"spec": {"worker": {"replicas": 2}}})).await?;
            let looked = |cluster: &Value| cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"];
            stage.until(CLUSTER, &name, "looked at", looked).await?;
            assert_eq!(now(stage, &objects).await?, before, "when it was changed");
            stage.delete(CLUSTER, &name).await?;
            stage.until_gone(CLUSTER, &name).await?;
            stage.running_cluster(&format!("healthy{way}"), 1).await?;
            assert_eq!(now(stage, &objects).await?, before, "when it had gone");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_a_job_finds_at_the_places_of_its_own_stays_as_it_is() -> anyhow::Result<()> {
    on_stage(async |stage| {
        for (way, kind) in [CLUSTER, POD, POD, POD].into_iter().enumerate() {
            let name = format!("job{way}");
            let objects = [(kind, theirs(kind, &name))];
            make(stage, &objects, way).await?;
            let before = now(stage, &objects).await?;
            stage.create(&manifests::job(&name)).await?;
            let message = stage.until_event(JOB, &name, "ForeignObject").await?;
            ensure!(message.contains(kind.1), "{message}");
            assert_eq!(now(stage, &objects).await?, before, "when it was made");
            stage.delete(JOB, &name).await?;
            stage.until_gone(JOB, &name).await?;
            stage.running_cluster(&format!("healthy{way}"), 1).await?;
            assert_eq!(now(stage, &objects).await?, before, "when it had gone");
        }
        Ok(())
    })
    .await
}
