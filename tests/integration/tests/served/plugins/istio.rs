//! The example from end to end: a ConfigMap, a DaskPlugin of the chart with its rights, a VirtualService.

use anyhow::{Context, ensure};
use dask_wasm_operator_test_support::{TestCluster, ThirdParty, apply_crds, sha256, third_party_crds};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, api::DeleteParams};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    SOON,
    mounting::{code, istio},
};
use crate::{
    objects::{Kind, PLUGIN, SERVICE, controller, uid},
    stage::{Stage, on_own_stage, on_stage_with},
};

const VIRTUAL_SERVICE: Kind<'_> = Kind("networking.istio.io/v1", "VirtualService");

/// Makes the shared API server know the kind.
async fn virtual_services_are_known() -> anyhow::Result<()> {
    let cluster = TestCluster::obtain(&dask_wasm_operator_api::crds()).await?;
    define_virtual_services(&cluster.client().await?).await
}

async fn define_virtual_services(client: &Client) -> anyhow::Result<()> {
    let mut crds = third_party_crds(ThirdParty::Istio)?;
    crds.retain(|crd| crd.spec.names.kind == "VirtualService");
    apply_crds(client, &crds).await
}

/// Values of the chart that mount it.
fn mounted(name: &str) -> anyhow::Result<Value> {
    Ok(json!({"plugins": [{
        "name": name,
        "source": {"configMap": {"name": name, "keys": [format!("{name}.wasm")]}, "sha256": sha256(istio()?)},
        "config": {"gateway": "dask/public", "host": "{cluster}.example.org"},
        "grants": {"create": [{"group": "networking.istio.io", "kind": "VirtualService"}]},
        "onConflict": "take",
    }]}))
}

#[tokio::test]
async fn the_dashboard_of_each_cluster_is_exposed() -> anyhow::Result<()> {
    virtual_services_are_known().await?;
    let name = "istio-virtual-service";
    on_stage_with(&mounted(name)?, &[], async |stage| {
        stage.running_cluster("before", 1).await?;
        stage.create(&code(name, istio()?)).await?;
        let plugin = stage.until_ready(name).await?;
        assert_eq!(plugin["status"]["digest"], sha256(istio()?));
        stage.running_cluster("after", 1).await?;

        for cluster in ["before", "after"] {
            let name = format!("{cluster}-scheduler");
            let made = stage.until_there(VIRTUAL_SERVICE, &name).await?;
            let service = stage.get(SERVICE, &name).await?;
            assert_eq!(controller(&made), uid(&service));
            assert_eq!(made["metadata"]["labels"]["dask.org/cluster-name"], cluster);
            let host = format!("{name}.{}.svc.cluster.local", stage.namespace);
            let expected = json!({
                "gateways": ["dask/public"],
                "hosts": [format!("{cluster}.example.org")],
                "http": [{"route": [{"destination": {"host": host, "port": {"number": 8787}}}]}],
            });
            assert_eq!(made["spec"], expected);

            stage.merge(VIRTUAL_SERVICE, &name, &json!({"spec": {"hosts": ["evil.example.org"]}})).await?;
            let is_as_made = |service: &Value| service["spec"] == expected;
            stage.until(VIRTUAL_SERVICE, &name, "repaired after an edit", is_as_made).await?;
            stage.delete(VIRTUAL_SERVICE, &name).await?;
            stage.until_new(VIRTUAL_SERVICE, &name, &made).await?;
        }

        // That these Services were handled is on record: a restart changes nothing.
        let before = stage.get(VIRTUAL_SERVICE, "before-scheduler").await?;
        let records = stage.list(Kind("plugins.dask.org/v1alpha1", "DaskPluginRecord"), "").await?;
        assert_eq!(records.len(), 2);
        stage.stop().await?;
        stage.start().await?;
        stage
            .until(PLUGIN, name, "called for both again", |plugin| plugin["status"]["counts"]["subjects"] == 2)
            .await?;
        let after = stage.get(VIRTUAL_SERVICE, "before-scheduler").await?;
        assert_eq!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_its_grant_it_is_refused_by_name() -> anyhow::Result<()> {
    virtual_services_are_known().await?;
    on_stage_with(&json!({}), &[], async |stage| {
        stage.mount("istio", istio()?, &json!({})).await?;
        stage.until_ready("istio").await?;
        stage.running_cluster("simple", 1).await?;
        let message = stage.until_condition(PLUGIN, "istio", ["Degraded", "True", "AnswerRefused"]).await?;
        anyhow::ensure!(message.contains("VirtualService.networking.istio.io is not granted"), "{message}");
        assert_eq!(stage.find(VIRTUAL_SERVICE, "simple-scheduler").await?, None);
        Ok(())
    })
    .await
}

/// The beliefs that are attacked: that a kind which was there stays, and that who is given up because it is gone hears of its
/// return.
#[tokio::test]
async fn a_kind_that_comes_goes_and_comes_again_is_waited_for() -> anyhow::Result<()> {
    let name = "istio-virtual-service";
    on_own_stage(&mounted(name)?, async |stage| {
        stage.create(&code(name, istio()?)).await?;
        stage.running_cluster("simple", 1).await?;
        let refused = stage.until_event(SERVICE, "simple-scheduler", "AnswerRefused").await?;
        ensure!(refused.contains("the API server does not serve VirtualService.networking.istio.io"), "{refused}");

        define_virtual_services(&stage.client).await?;
        let made = made_soon(stage).await?;

        let definitions: Api<CustomResourceDefinition> = Api::all(stage.client.clone());
        definitions.delete("virtualservices.networking.istio.io", &DeleteParams::default()).await?;
        let message = stage.until_condition(PLUGIN, name, ["Degraded", "True", "KindNotServed"]).await?;
        ensure!(message.contains("given up on 1 subjects"), "{message}");
        let told = stage.until_event(SERVICE, "simple-scheduler", "KindNotServed").await?;
        ensure!(told.contains("install its CustomResourceDefinition; tried again when VirtualService"), "{told}");

        define_virtual_services(&stage.client).await?;
        let again = made_soon(stage).await?;
        ensure!(again["spec"] == made["spec"] && uid(&again) != uid(&made), "{again:#}");
        stage.until_condition(PLUGIN, name, ["Degraded", "False", "AsWanted"]).await?;
        Ok(())
    })
    .await
}

async fn made_soon(stage: &Stage) -> anyhow::Result<Value> {
    timeout(SOON, stage.until_there(VIRTUAL_SERVICE, "simple-scheduler")).await.context("it is not made soon")?
}
