//! Children of plugins: made, repaired, pruned.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{mounting::odd, strangers::NETWORK_POLICY};
use crate::{
    objects::{CONFIG_MAP, DEPLOYMENT, Kind, PLUGIN, controller, text, uid},
    stage::{Stage, on_stage},
};

/// Mounts the mirror with this specification and has it make two children of one subject.
async fn mirrored(stage: &Stage, mut spec: Value) -> anyhow::Result<Value> {
    spec["config"] = json!({"do": "Mirror"});
    stage.mount("mirror", odd()?, &spec).await?;
    let subject = stage.subject("pair", &json!({"left": "1", "right": "2"})).await?;
    for child in ["pair-left", "pair-right"] {
        stage.until_there(CONFIG_MAP, child).await?;
    }
    Ok(subject)
}

#[tokio::test]
async fn children_are_owned_labelled_and_counted() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let subject = mirrored(stage, json!({})).await?;
        let left = stage.get(CONFIG_MAP, "pair-left").await?;
        assert_eq!(controller(&left), uid(&subject));
        let labels = json!({
            "plugins.dask.org/plugin": "mirror", "plugins.dask.org/handler": "odd",
            "plugins.dask.org/subject-uid": uid(&subject),
        });
        assert_eq!(left["metadata"]["labels"], labels);
        assert_eq!(left["metadata"]["annotations"], json!({"plugins.dask.org/key": "left"}));
        let managers = left["metadata"]["managedFields"].as_array().into_iter().flatten();
        let managers: Vec<_> = managers.map(|entry| text(entry, "/manager")).collect();
        assert_eq!(managers, ["dask-plugin/mirror/odd"]);
        let counted = |plugin: &Value| {
            let counts = &plugin["status"]["counts"];
            (&counts["subjects"], &counts["children"], &counts["failures"]) == (&json!(1), &json!(2), &json!(0))
        };
        stage.until(PLUGIN, "mirror", "of one subject and two children", counted).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn drift_is_repaired() -> anyhow::Result<()> {
    on_stage(async |stage| {
        mirrored(stage, json!({})).await?;
        let left = stage.get(CONFIG_MAP, "pair-left").await?;
        stage.delete(CONFIG_MAP, "pair-left").await?;
        let left = stage.until_new(CONFIG_MAP, "pair-left", &left).await?;
        for removed in [
            json!({"data": {"value": null, "foreign": "stays"}}),
            // With this one the child leaves what the operator watches.
            json!({"metadata": {"labels": {"plugins.dask.org/plugin": null}}}),
            json!({"metadata": {"ownerReferences": null}}),
        ] {
            stage.merge(CONFIG_MAP, "pair-left", &removed).await?;
            let repaired = stage
                .until(CONFIG_MAP, "pair-left", "repaired", |child| {
                    child["data"]["value"] == "1"
                        && child["metadata"]["labels"] == left["metadata"]["labels"]
                        && controller(child) == controller(&left)
                })
                .await?;
            assert_eq!(uid(&repaired), uid(&left), "{removed}");
            assert_eq!(repaired["data"]["foreign"], "stays");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_rule_that_is_taken_out_of_a_list_goes_also_after_a_restart() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.mount_puppet("puppet", &json!({"children": []}), &json!({})).await?;
        stage.subject("of-gate", &json!({})).await?;
        for (ports, restarts) in [(vec![80, 81, 82], false), (vec![81, 82], false), (vec![82], true), (vec![], true)] {
            let rules: Vec<_> = ports.iter().map(|port| json!({"ports": [{"port": port}]})).collect();
            let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": rules});
            let Kind(api_version, kind) = NETWORK_POLICY;
            let policy = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "gate"}, "spec": spec});
            if restarts {
                stage.stop().await?;
            }
            stage.script("of-gate", &json!({"children": [{"key": "gate", "object": policy}]})).await?;
            if restarts {
                stage.start().await?;
            }
            let lets_in = |policy: &Value| {
                let rules = policy["spec"]["ingress"].as_array().into_iter().flatten();
                rules.map(|rule| &rule["ports"][0]["port"]).eq(&ports)
            };
            stage.until(NETWORK_POLICY, "gate", &format!("open for {ports:?}"), lets_in).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_field_that_others_take_is_a_conflict() -> anyhow::Result<()> {
    on_stage(async |stage| {
        mirrored(stage, json!({})).await?;
        stage.merge(CONFIG_MAP, "pair-left", &json!({"data": {"value": "edited"}})).await?;
        let message = stage.until_condition(PLUGIN, "mirror", ["Degraded", "True", "FieldConflict"]).await?;
        ensure!(
            message.contains("ConfigMap") && message.contains("pair-left") && message.contains(".data.value"),
            "{message}"
        );
        assert_eq!(stage.get(CONFIG_MAP, "pair-left").await?["data"]["value"], "edited");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn and_is_taken_back_where_that_is_wanted() -> anyhow::Result<()> {
    on_stage(async |stage| {
        mirrored(stage, json!({"onConflict": "take"})).await?;
        stage.merge(CONFIG_MAP, "pair-left", &json!({"data": {"value": "edited"}})).await?;
        stage.until(CONFIG_MAP, "pair-left", "reverted", |child| child["data"]["value"] == "1").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_guest_hears_of_a_conflict_at_its_next_call_and_no_more_when_it_is_gone() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let script = |other: &str| {
            let data = json!({"value": "wanted", "other": other});
            let object =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{name}-left"}, "data": data});
            json!({"yields": true, "children": [{"key": "left", "object": object}]})
        };
        stage.mount_puppet("puppet", &json!({"children": []}), &json!({})).await?;
        stage.subject("yielding", &json!({})).await?;
        stage.script("yielding", &script("1")).await?;
        stage.until_there(CONFIG_MAP, "yielding-left").await?;
        let edited = stage.merge(CONFIG_MAP, "yielding-left", &json!({"data": {"value": "edited"}})).await?;
        let managers = edited["metadata"]["managedFields"].as_array().into_iter().flatten();
        let editor = managers.map(|entry| text(entry, "/manager")).find(|name| !name.starts_with("dask-plugin/"));
        let note = stage.until_event(CONFIG_MAP, "yielding", "Yielded").await?;
        assert_eq!(note, format!("left: {} holds data.value", editor.unwrap_or_default()));
        stage.until_condition(PLUGIN, "puppet", ["Degraded", "False", "AsWanted"]).await?;
        assert_eq!(stage.get(CONFIG_MAP, "yielding-left").await?["data"], json!({"value": "edited", "other": "1"}));
        // What nobody holds any more is the guest's again, as it hears of no conflict.
        stage.merge(CONFIG_MAP, "yielding-left", &json!({"data": {"value": null}})).await?;
        stage.script("yielding", &script("2")).await?;
        let data = json!({"value": "wanted", "other": "2"});
        stage.until(CONFIG_MAP, "yielding-left", "the guest's again", |child| child["data"] == data).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_field_that_can_t_be_changed_says_so_and_the_remedy_helps() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let config = |label: &str| {
            let labels = json!({"a": label});
            let template =
                json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
            let spec = json!({"replicas": 0, "selector": {"matchLabels": labels}, "template": template});
            let object =
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "{name}-d"}, "spec": spec});
            json!({"children": [{"key": "d", "object": object}]})
        };
        let grants = json!({"create": [{"group": "apps", "kind": "Deployment"}]});
        stage.mount_puppet("puppet", &config("b"), &grants).await?;
        stage.subject("subject", &json!({})).await?;
        let made = stage.until_there(DEPLOYMENT, "subject-d").await?;
        stage.merge(PLUGIN, "puppet", &json!({"spec": {"config": config("c")}})).await?;
        let message = stage.until_condition(PLUGIN, "puppet", ["Degraded", "True", "Refused"]).await?;
        ensure!(message.contains("Deployment") && message.contains("subject-d"), "{message}");
        ensure!(message.contains("delete it to have it recreated"), "{message}");
        stage.delete(DEPLOYMENT, "subject-d").await?;
        let anew = stage.until_new(DEPLOYMENT, "subject-d", &made).await?;
        assert_eq!(anew["spec"]["selector"]["matchLabels"], json!({"a": "c"}));
        stage.until_condition(PLUGIN, "puppet", ["Degraded", "False", "AsWanted"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_no_longer_wanted_goes() -> anyhow::Result<()> {
    on_stage(async |stage| {
        mirrored(stage, json!({})).await?;
        stage.merge(CONFIG_MAP, "pair", &json!({"data": {"left": null, "middle": "3"}})).await?;
        stage.until_there(CONFIG_MAP, "pair-middle").await?;
        stage.until_gone(CONFIG_MAP, "pair-left").await?;
        stage.get(CONFIG_MAP, "pair-right").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_children_of_what_is_no_subject_any_more_go() -> anyhow::Result<()> {
    on_stage(async |stage| {
        mirrored(stage, json!({})).await?;
        stage.merge(CONFIG_MAP, "pair", &json!({"metadata": {"labels": null}})).await?;
        stage.until_gone(CONFIG_MAP, "pair-left").await?;
        stage.until_gone(CONFIG_MAP, "pair-right").await?;
        stage.get(CONFIG_MAP, "pair").await?;
        stage.until(PLUGIN, "mirror", "without subject", |plugin| plugin["status"]["counts"]["subjects"] == 0).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_plugin_that_is_removed_takes_its_children_along() -> anyhow::Result<()> {
    on_stage(async |stage| {
        mirrored(stage, json!({})).await?;
        stage.delete(PLUGIN, "mirror").await?;
        stage.until_gone(CONFIG_MAP, "pair-left").await?;
        stage.until_gone(CONFIG_MAP, "pair-right").await?;
        stage.get(CONFIG_MAP, "pair").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn or_leaves_them_where_that_is_wanted() -> anyhow::Result<()> {
    on_stage(async |stage| {
        mirrored(stage, json!({"onRemoval": "leave"})).await?;
        let left = stage.get(CONFIG_MAP, "pair-left").await?;
        stage.delete(PLUGIN, "mirror").await?;
        // One that comes after it: when that works, the former one is gone for the operator.
        stage.mount_odd("next", "Mirror").await?;
        stage.subject("other", &json!({"key": "value"})).await?;
        let child = stage.until_there(CONFIG_MAP, "other-key").await?;
        assert_eq!(child["metadata"]["labels"]["plugins.dask.org/plugin"], "next");
        let now = stage.get(CONFIG_MAP, "pair-left").await?;
        assert_eq!((uid(&now), &now["data"]), (uid(&left), &left["data"]));
        stage.get(CONFIG_MAP, "pair-right").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_plugin_that_is_suspended_is_not_called_and_keeps_its_children() -> anyhow::Result<()> {
    on_stage(async |stage| {
        mirrored(stage, json!({})).await?;
        stage.merge(PLUGIN, "mirror", &json!({"spec": {"suspend": true}})).await?;
        stage.until_state("mirror", "Suspended", "Suspended").await?;
        stage.mount_odd("other", "Mirror").await?;
        stage.subject("late", &json!({"key": "value"})).await?;
        let late = stage.until_there(CONFIG_MAP, "late-key").await?;
        assert_eq!(late["metadata"]["labels"]["plugins.dask.org/plugin"], "other");
        stage.get(CONFIG_MAP, "pair-left").await?;

        stage.merge(PLUGIN, "mirror", &json!({"spec": {"suspend": false}})).await?;
        stage.until_ready("mirror").await?;
        Ok(())
    })
    .await
}
