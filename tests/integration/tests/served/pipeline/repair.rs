//! Whatever happens to what the operator has made is repaired at once; what others add stays.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    manifests,
    objects::{CLUSTER, DEPLOYMENT, GROUP, Kind, SERVICE, condition, controller, name, names, uid},
    stage::{Stage, image, on_stage},
};

#[tokio::test]
async fn fault_20_what_is_deleted_is_made_anew() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let cluster = stage.running_cluster("simple", 3).await?;
        for (kind, name) in [(DEPLOYMENT, "simple-scheduler"), (SERVICE, "simple-scheduler")] {
            let old = stage.get(kind, name).await?;
            stage.delete(kind, name).await?;
            let new = stage.until_new(kind, name, &old).await?;
            assert_eq!(controller(&new), uid(&cluster));
        }

        let workers = stage.workers("simple-default").await?;
        stage.delete(DEPLOYMENT, name(&workers[1])).await?;
        stage.until_new(DEPLOYMENT, name(&workers[1]), &workers[1]).await?;
        let repaired = stage.until_workers("simple-default", 3).await?;
        assert_eq!(names(&repaired), names(&workers), "a worker comes back under its name");

        let group = stage.get(GROUP, "simple-default").await?;
        stage.delete(GROUP, "simple-default").await?;
        let new = stage.until_new(GROUP, "simple-default", &group).await?;
        stage
            .until(CLUSTER, "simple", "served by workers of the new group", |cluster| {
                cluster["status"]["replicas"] == 3
            })
            .await?;
        for worker in &workers {
            stage.until_gone(DEPLOYMENT, name(worker)).await?;
        }
        let workers = stage.until_workers("simple-default", 3).await?;
        ensure!(workers.iter().all(|worker| controller(worker) == uid(&new)), "workers of the former group are left");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_happened_while_nobody_looked_is_repaired() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 2).await?;
        stage.stop().await?;
        stage.delete(SERVICE, "simple-scheduler").await?;
        let workers = stage.workers("simple-default").await?;
        stage.delete(DEPLOYMENT, name(&workers[0])).await?;
        stage.merge(DEPLOYMENT, name(&workers[1]), &json!({"spec": {"replicas": 0}})).await?;
        stage.start().await?;
        stage.until_there(SERVICE, "simple-scheduler").await?;
        stage.until_new(DEPLOYMENT, name(&workers[0]), &workers[0]).await?;
        stage.until(DEPLOYMENT, name(&workers[1]), "started", |worker| worker["spec"]["replicas"] == 1).await?;
        Ok(())
    })
    .await
}

/// Every object of a cluster of one worker: kind and name.
async fn made(stage: &Stage) -> anyhow::Result<Vec<(Kind<'static>, String)>> {
    let worker = stage.until_workers("simple-default", 1).await?.remove(0);
    Ok(vec![
        (DEPLOYMENT, "simple-scheduler".to_owned()),
        (SERVICE, "simple-scheduler".to_owned()),
        (GROUP, "simple-default".to_owned()),
        (DEPLOYMENT, name(&worker).to_owned()),
    ])
}

#[tokio::test]
async fn labels_and_owners_that_are_removed_come_back_and_foreign_ones_stay() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 1).await?;
        for (kind, name) in made(stage).await? {
            let before = stage.get(kind, &name).await?;
            // With its labels the object leaves what the operator watches. What is foreign comes in the same change, so that
            // it is there when the repair is made.
            let none: serde_json::Map<_, _> = before["metadata"]["labels"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(label, _)| (label.clone(), Value::Null))
                .chain([("example.org/foreign".to_owned(), json!("label"))])
                .collect();
            let patch = json!({"metadata": {
                "labels": none, "annotations": {"example.org/foreign": "annotation"}, "finalizers": ["example.org/foreign"],
            }});
            stage.merge(kind, &name, &patch).await?;
            let repaired = stage
                .until(kind, &name, "labelled again", |object| {
                    let labels = before["metadata"]["labels"].as_object().into_iter().flatten();
                    labels.into_iter().all(|(label, value)| object["metadata"]["labels"][label] == *value)
                })
                .await?;
            assert_eq!(uid(&repaired), uid(&before), "{name}");
            assert_eq!(repaired["metadata"]["labels"]["example.org/foreign"], "label", "{name}");

            stage.merge(kind, &name, &json!({"metadata": {"ownerReferences": null}})).await?;
            let repaired = stage
                .until(kind, &name, "owned again", |object| controller(object) == controller(&before))
                .await?;
            assert_eq!(uid(&repaired), uid(&before), "{name}");
            assert_eq!(repaired["metadata"]["annotations"]["example.org/foreign"], "annotation", "{name}");
            assert_eq!(repaired["metadata"]["finalizers"], json!(["example.org/foreign"]), "{name}");
            // Nobody else would take it away.
            stage.merge(kind, &name, &json!({"metadata": {"finalizers": null}})).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn annotations_of_the_operator_that_are_removed_come_back() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 1).await?;
        // The group's own value is not the cluster's, and must not be lost with the record of what was copied.
        stage.scale(GROUP, "simple-default", 2).await?;
        stage.until_running("simple", 2).await?;
        let worker = stage.until_workers("simple-default", 2).await?.remove(0);
        for (kind, name, annotation) in [
            (DEPLOYMENT, "simple-scheduler", "operator.dask.org/template-hash"),
            (DEPLOYMENT, name(&worker), "operator.dask.org/template-hash"),
            (GROUP, "simple-default", "operator.dask.org/worker-ordinals"),
            (GROUP, "simple-default", "operator.dask.org/copied-replicas"),
        ] {
            let before = stage.get(kind, name).await?;
            let remove = json!({"metadata": {"annotations": {annotation: null}}});
            let removed = stage.merge(kind, name, &remove).await?;
            ensure!(removed["metadata"]["annotations"][annotation].is_null(), "{name} has no {annotation} to remove");
            let repaired = stage
                .until(kind, name, &format!("annotated with {annotation}"), |object| {
                    object["metadata"]["annotations"][annotation] == before["metadata"]["annotations"][annotation]
                })
                .await?;
            assert_eq!(repaired["spec"], before["spec"], "{name} without {annotation}");
        }
        assert_eq!(stage.workers("simple-default").await?.len(), 2);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn edits_of_what_the_cluster_says_are_reverted_and_additions_stay() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 1).await?;
        let worker = name(&stage.until_workers("simple-default", 1).await?[0]).to_owned();
        for deployment in ["simple-scheduler", &worker] {
            let container = stage.get(DEPLOYMENT, deployment).await?;
            let container = &crate::stage::container(&container)["name"];
            let patch = json!({"spec": {
                "replicas": 4,
                "revisionHistoryLimit": 3,
                "template": {"spec": {"containers": [{"name": container, "image": "evil", "tty": true}]}},
            }});
            let patch = kube::api::Patch::Strategic(patch);
            stage.api(DEPLOYMENT).patch(deployment, &kube::api::PatchParams::default(), &patch).await?;
            let repaired = stage
                .until(DEPLOYMENT, deployment, "as the cluster says", |object| {
                    object["spec"]["replicas"] == 1 && image(object) == manifests::IMAGE
                })
                .await?;
            assert_eq!(repaired["spec"]["revisionHistoryLimit"], 3);
            assert_eq!(crate::stage::container(&repaired)["tty"], true);
        }

        let patch = json!({"spec": {"selector": {"dask.org/component": "nobody"}, "sessionAffinity": "ClientIP"}});
        stage.merge(SERVICE, "simple-scheduler", &patch).await?;
        let service = stage
            .until(SERVICE, "simple-scheduler", "selecting the scheduler", |service| {
                service["spec"]["selector"]["dask.org/component"] == "scheduler"
            })
            .await?;
        assert_eq!(service["spec"]["sessionAffinity"], "ClientIP");

        let patch = json!({"spec": {"cluster": "another"}});
        stage.merge(GROUP, "simple-default", &patch).await?;
        stage.until(GROUP, "simple-default", "of its cluster", |group| group["spec"]["cluster"] == "simple").await?;
        Ok(())
    })
    .await
}

/// The belief that is attacked: that an apply puts back whatever somebody has changed. Of a list with keys, another key is another
/// item.
#[tokio::test]
async fn edited_keys_of_ports_are_put_back() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 1).await?;
        let ports_of = |service: &Value| service["spec"]["ports"].as_array().cloned().unwrap_or_default();
        let edit =
            async |edited: &Value| stage.merge(SERVICE, "simple-scheduler", &json!({"spec": {"ports": edited}})).await;
        let ports = ports_of(&stage.until_there(SERVICE, "simple-scheduler").await?);
        ensure!(ports.len() == 2, "{ports:?}");
        let changed = |port: &Value, field: &str, value: Value| {
            let mut changed = port.clone();
            changed[field] = value;
            changed
        };
        let (first, second) = (&ports[0], &ports[1]);
        for (what, edited) in [
            ("number", json!([changed(first, "port", json!(9999)), second])),
            ("name", json!([changed(first, "name", json!("renamed")), second])),
            ("protocol", json!([changed(first, "protocol", json!("UDP")), second])),
            ("all numbers", json!([changed(first, "port", json!(1)), changed(second, "port", json!(2))])),
            (
                "numbers that change places",
                json!([changed(first, "port", second["port"].clone()), changed(second, "port", first["port"].clone())]),
            ),
            (
                "a name that moves",
                json!([changed(first, "name", json!("x")), second, changed(first, "port", json!(9999))]),
            ),
        ] {
            edit(&edited).await?;
            stage
                .until(SERVICE, "simple-scheduler", &format!("as before somebody edited {what}"), |service| {
                    let live = ports_of(service);
                    live.len() == 2 && ports.iter().all(|port| live.contains(port))
                })
                .await?;
        }
        // What somebody adds stays, also where a port of ours is put back.
        let added = json!({"name": "added", "port": 7777, "protocol": "TCP", "targetPort": 7777});
        edit(&json!([changed(first, "port", json!(9999)), second, added])).await?;
        let repaired = stage
            .until(SERVICE, "simple-scheduler", "with the port that was added", |service| {
                ports_of(service).contains(first)
            })
            .await?;
        assert!(ports_of(&repaired).contains(&added) && ports_of(&repaired).len() == 3, "{repaired}");

        // What somebody has added to a port of ours goes with it.
        let mut extended = first.clone();
        extended["appProtocol"] = json!("example.org/dask");
        edit(&json!([extended, second])).await?;
        let path = "/spec/scheduler/service/ports";
        let cluster = stage.get(CLUSTER, "simple").await?;
        let mut wanted = cluster.pointer(path).cloned().unwrap_or_default();
        wanted[0]["port"] = json!(9000);
        stage.merge(CLUSTER, "simple", &json!({"spec": {"scheduler": {"service": {"ports": wanted}}}})).await?;
        stage
            .until(SERVICE, "simple-scheduler", "with the new number", |service| {
                let numbers: Vec<_> = ports_of(service).iter().map(|port| port["port"].clone()).collect();
                numbers.len() == 2 && numbers.contains(&json!(9000)) && numbers.contains(&second["port"])
            })
            .await?;

        let ports_of = |deployment: &Value| crate::stage::container(deployment)["ports"].clone();
        let deployment = stage.get(DEPLOYMENT, "simple-scheduler").await?;
        let ports = ports_of(&deployment);
        let mut containers = deployment["spec"]["template"]["spec"]["containers"].clone();
        containers[0]["ports"][0]["containerPort"] = json!(9999);
        let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
        let edited = stage.merge(DEPLOYMENT, "simple-scheduler", &patch).await?;
        assert_ne!(ports_of(&edited), ports);
        stage.until(DEPLOYMENT, "simple-scheduler", "with its ports", |live| ports_of(live) == ports).await?;
        Ok(())
    })
    .await
}

/// The belief that is attacked: that what the operator holds it holds alone. Who sets a value first, holds it too.
#[tokio::test]
async fn a_port_that_somebody_else_has_set_as_well_goes_with_it() -> anyhow::Result<()> {
    const PAUSED: &str = "operator.dask.org/paused";
    on_stage(async |stage| {
        stage.running_cluster("simple", 1).await?;
        let mut wanted = stage.get(CLUSTER, "simple").await?["spec"]["scheduler"]["service"]["ports"].clone();
        stage.merge(CLUSTER, "simple", &json!({"metadata": {"annotations": {PAUSED: "true"}}})).await?;
        stage.until_condition(CLUSTER, "simple", ["Progressing", "False", "Paused"]).await?;
        wanted[0]["port"] = json!(9100);
        stage.merge(SERVICE, "simple-scheduler", &json!({"spec": {"ports": wanted}})).await?;
        let to_wanted = |wanted: &Value| {
            json!({"metadata": {"annotations": {PAUSED: null}}, "spec": {"scheduler": {"service": {"ports": wanted}}}})
        };
        stage.merge(CLUSTER, "simple", &to_wanted(&wanted)).await?;
        let holders = |service: &Value| {
            let entries = service["metadata"]["managedFields"].as_array().into_iter().flatten();
            entries.filter(|entry| entry.to_string().contains(r#"\"port\":9100"#)).count()
        };
        stage.until(SERVICE, "simple-scheduler", "held by two", |service| holders(service) == 2).await?;
        wanted[0]["port"] = json!(9200);
        stage.merge(CLUSTER, "simple", &to_wanted(&wanted)).await?;
        let service = stage
            .until(SERVICE, "simple-scheduler", "with the new number", |service| {
                let ports = service["spec"]["ports"].as_array().into_iter().flatten();
                ports.map(|port| &port["port"]).any(|port| *port == 9200)
            })
            .await?;
        assert_eq!(service["spec"]["ports"].as_array().map(Vec::len), wanted.as_array().map(Vec::len));
        assert_eq!(holders(&service), 0, "{service}");
        Ok(())
    })
    .await
}

/// The same of fields of which only one may be set: an apply would set ours beside the other.
#[tokio::test]
async fn another_choice_between_fields_is_put_back() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let mut cluster = manifests::cluster("simple", 1);
        let pod = &mut cluster["spec"]["worker"]["spec"];
        pod["volumes"] = json!([{"name": "scratch", "emptyDir": {}}]);
        let container = &mut pod["containers"][0];
        container["env"] = json!([{"name": "A", "value": "a"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
        container["livenessProbe"] = json!({"httpGet": {"path": "/health", "port": 8787}});
        container["lifecycle"] = json!({"preStop": {"exec": {"command": ["true"]}}});
        stage.create(&cluster).await?;
        stage.until_running("simple", 1).await?;
        let worker = stage.until_workers("simple-default", 1).await?.remove(0);
        let made = worker["spec"]["template"]["spec"].clone();
        let mut edited = made.clone();
        edited["volumes"][0] = json!({"name": "scratch", "configMap": {"name": "other"}});
        let container = &mut edited["containers"][0];
        let place = |name: &str| {
            let variables = made["containers"][0]["env"].as_array().into_iter().flatten();
            variables.into_iter().position(|variable| variable["name"] == name).expect("it is there")
        };
        container["env"][place("A")] = json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}});
        container["env"][place("B")] = json!({"name": "B", "value": "b"});
        container["livenessProbe"] = json!({"tcpSocket": {"port": 8787}});
        container["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 1}}});
        let patch = json!({"spec": {"template": {"spec": edited}}});
        stage.api(DEPLOYMENT).patch(name(&worker), &kube::api::PatchParams::default(), &kube::api::Patch::Merge(patch)).await?;
        stage.until(DEPLOYMENT, name(&worker), "as it was made", |live| live["spec"]["template"]["spec"] == made).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_paused_cluster_is_left_alone() -> anyhow::Result<()> {
    const PAUSED: &str = "operator.dask.org/paused";
    on_stage(async |stage| {
        stage.running_cluster("simple", 1).await?;
        stage.merge(CLUSTER, "simple", &json!({"metadata": {"annotations": {PAUSED: "true"}}})).await?;
        let message = stage.until_condition(CLUSTER, "simple", ["Progressing", "False", "Paused"]).await?;
        ensure!(message.contains(PAUSED), "{message}");

        stage.delete(SERVICE, "simple-scheduler").await?;
        stage.merge(CLUSTER, "simple", &json!({"spec": {"worker": {"replicas": 3}}})).await?;
        // That the Service is gone is seen in the status, and after that another cluster is made.
        stage.until(CLUSTER, "simple", "without Service", |cluster| cluster["status"]["phase"] == "Created").await?;
        stage.running_cluster("other", 1).await?;
        assert_eq!(stage.find(SERVICE, "simple-scheduler").await?, None);
        assert_eq!(stage.get(GROUP, "simple-default").await?["spec"]["worker"]["replicas"], 1);

        stage.merge(CLUSTER, "simple", &json!({"metadata": {"annotations": {PAUSED: null}}})).await?;
        let cluster = stage.until_running("simple", 3).await?;
        assert_ne!(condition(&cluster, "Progressing")["reason"], "Paused");
        stage.get(SERVICE, "simple-scheduler").await?;
        Ok(())
    })
    .await
}
