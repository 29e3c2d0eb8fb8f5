//! What users have where a plugin wants a child is not touched, not for a moment: not even its resource version changes.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    objects::{CONFIG_MAP, Kind, Objects, PLUGIN, SERVICE, essence, text},
    stage::{Stage, on_stage},
};

const INGRESS: Kind<'_> = Kind("networking.k8s.io/v1", "Ingress");
pub(super) const NETWORK_POLICY: Kind<'_> = Kind("networking.k8s.io/v1", "NetworkPolicy");
const BUDGET: Kind<'_> = Kind("policy/v1", "PodDisruptionBudget");

/// The kinds of the default grant.
const KINDS: [Kind<'_>; 5] = [CONFIG_MAP, SERVICE, INGRESS, NETWORK_POLICY, BUDGET];

/// An object of a kind whose value of one field is `value`.
fn object(Kind(api_version, kind): Kind<'_>, name: &str, value: u16) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    let selector = json!({"matchLabels": {"a": "b"}});
    let (field, body) = match kind {
        "ConfigMap" => ("data", json!({"port": value.to_string()})),
        "Service" => {
            ("spec", json!({"selector": {"a": "b"}, "ports": [{"name": "p", "port": 80, "targetPort": value}]}))
        }
        "Ingress" => ("spec", json!({"defaultBackend": {"service": {"name": "s", "port": {"number": value}}}})),
        "NetworkPolicy" => ("spec", json!({"podSelector": selector, "ingress": [{"ports": [{"port": value}]}]})),
        _ => ("spec", json!({"selector": selector, "maxUnavailable": value})),
    };
    object[field] = body;
    object
}

/// How a user makes an object.
#[derive(Clone, Copy, Debug)]
enum Way {
    Create,
    Apply,
    /// With all labels of a child, as a copy of one has them.
    CreateDisguised,
}

/// The user's objects: each way of making one, with the value that the plugin wants, and with another one.
const CASES: [(&str, Way, u16); 6] = [
    ("created-same", Way::Create, 1),
    ("created-other", Way::Create, 2),
    ("applied-same", Way::Apply, 1),
    ("applied-other", Way::Apply, 2),
    ("disguised-same", Way::CreateDisguised, 1),
    ("disguised-other", Way::CreateDisguised, 2),
];

async fn make(objects: &Objects, kind: Kind<'_>, (name, way, value): (&str, Way, u16)) -> anyhow::Result<()> {
    let mut object = object(kind, name, value);
    match way {
        Way::Create => drop(objects.create(&object).await?),
        Way::Apply => {
            let parameters = PatchParams::apply("kubectl");
            objects.api(kind).patch(name, &parameters, &Patch::Apply(object)).await?;
        }
        Way::CreateDisguised => {
            object["metadata"]["labels"] = json!({
                "plugins.dask.org/plugin": "puppet", "plugins.dask.org/handler": "configmap",
                "plugins.dask.org/subject-uid": "x",
            });
            objects.create(&object).await?;
        }
    }
    Ok(())
}

/// What users have now.
async fn theirs(objects: &Objects) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for kind in KINDS {
        for (name, ..) in CASES {
            all.push(essence(&objects.get(kind, name).await?));
        }
    }
    Ok(all)
}

fn assert_same(now: &[Value], before: &[Value], when: &str) {
    for (now, before) in now.iter().zip(before) {
        assert_eq!(now, before, "{when}");
    }
}

/// For each subject a child of each kind under its own name, and one that nobody else has.
fn wanted() -> Value {
    let children = KINDS.map(|kind| json!({"key": kind.1.to_lowercase(), "object": object(kind, "{name}", 1)}));
    let free = json!({"key": "free", "object": object(CONFIG_MAP, "{name}-free", 1)});
    json!({"children": children.into_iter().chain([free]).collect::<Vec<_>>()})
}

/// A subject that is a ConfigMap can't have a child of its own name: its children have the name without `of-`.
fn script_of(case: &str, wanted: &Value) -> Value {
    serde_json::from_str(&wanted.to_string().replace("{name}", case)).unwrap_or_default()
}

async fn until_given_up(stage: &Stage, subjects: usize) -> anyhow::Result<()> {
    let given_up = |plugin: &Value| plugin["status"]["counts"]["parked"] == subjects;
    stage.until(PLUGIN, "puppet", "given up on all", given_up).await?;
    Ok(())
}

#[tokio::test]
async fn they_stay_as_they_are_however_often_the_plugin_tries_and_whatever_ends() -> anyhow::Result<()> {
    on_stage(async |stage| {
        for kind in KINDS {
            for case in CASES {
                make(stage, kind, case).await?;
            }
        }
        let before = theirs(stage).await?;
        stage.mount_puppet("puppet", &json!({"children": []}), &json!({})).await?;
        for (case, ..) in CASES {
            let subject = format!("of-{case}");
            stage.subject(&subject, &json!({})).await?;
            stage.script(&subject, &script_of(case, &wanted())).await?;
        }
        // What is free is made, and stays the plugin's.
        for (case, ..) in CASES {
            stage.until_there(CONFIG_MAP, &format!("{case}-free")).await?;
        }
        until_given_up(stage, CASES.len()).await?;
        assert_same(&theirs(stage).await?, &before, "after all attempts");
        let message = stage.until_condition(PLUGIN, "puppet", ["Degraded", "True", "ForeignObject"]).await?;
        anyhow::ensure!(message.contains("exists already"), "{message}");

        // They are wanted no longer; a subject goes; the plugin goes.
        stage.script("of-created-same", &json!({"children": []})).await?;
        stage.until_gone(CONFIG_MAP, "created-same-free").await?;
        assert_same(&theirs(stage).await?, &before, "when they are not wanted any more");
        stage.delete(CONFIG_MAP, "of-created-other").await?;
        stage.until_gone(CONFIG_MAP, "created-other-free").await?;
        assert_same(&theirs(stage).await?, &before, "when the subject has gone");
        stage.stop().await?;
        stage.start().await?;
        stage.until_ready("puppet").await?;
        stage.delete(PLUGIN, "puppet").await?;
        for case in ["applied-same", "applied-other", "disguised-same", "disguised-other"] {
            stage.until_gone(CONFIG_MAP, &format!("{case}-free")).await?;
        }
        assert_same(&theirs(stage).await?, &before, "when the plugin has gone");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn so_do_those_that_users_make_in_the_place_of_children() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.mount_puppet("puppet", &json!({"children": []}), &json!({})).await?;
        for (case, ..) in CASES {
            let subject = format!("of-{case}");
            stage.subject(&subject, &json!({})).await?;
            stage.script(&subject, &script_of(case, &wanted())).await?;
        }
        for kind in KINDS {
            for (case, ..) in CASES {
                stage.until_there(kind, case).await?;
            }
        }
        // The operator is not there while users replace them.
        stage.stop().await?;
        for kind in KINDS {
            for case in CASES {
                stage.delete(kind, case.0).await?;
                stage.until_gone(kind, case.0).await?;
                make(stage, kind, case).await?;
            }
        }
        let before = theirs(stage).await?;
        stage.start().await?;
        until_given_up(stage, CASES.len()).await?;
        assert_same(&theirs(stage).await?, &before, "after all attempts");
        stage.delete(PLUGIN, "puppet").await?;
        for (case, ..) in CASES {
            stage.until_gone(CONFIG_MAP, &format!("{case}-free")).await?;
        }
        assert_same(&theirs(stage).await?, &before, "when the plugin has gone");
        Ok(())
    })
    .await
}

/// An honest plugin with a name that Kubernetes uses, and one that wants to redirect a user's Service.
#[tokio::test]
async fn what_kubernetes_and_others_rely_on_stays_as_it_is() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let root = stage.until_there(CONFIG_MAP, "kube-root-ca.crt").await?;
        let service = stage.create(&object(SERVICE, "shop", 80)).await?;
        let grabbing = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"},
            "spec": {"externalIPs": ["192.0.2.1"]}});
        let ca = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"},
            "data": {"extra": "x"}});
        let children = json!([{"key": "shop", "object": grabbing}, {"key": "ca", "object": ca}]);
        stage.mount_puppet("puppet", &json!({"children": children}), &json!({})).await?;
        stage.subject("subject", &json!({})).await?;
        until_given_up(stage, 1).await?;
        let same = |now: Value, before: &Value| assert_eq!(now, *before, "{}", text(before, "/metadata/name"));
        same(stage.get(CONFIG_MAP, "kube-root-ca.crt").await?, &root);
        same(stage.get(SERVICE, "shop").await?, &service);
        stage.delete(PLUGIN, "puppet").await?;
        stage.mount_odd("mirror", "Mirror").await?;
        stage.the_mirror_works("after").await?;
        same(stage.get(CONFIG_MAP, "kube-root-ca.crt").await?, &root);
        same(stage.get(SERVICE, "shop").await?, &service);
        Ok(())
    })
    .await
}
