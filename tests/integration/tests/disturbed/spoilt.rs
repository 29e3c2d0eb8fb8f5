//! What the API server tells is spoilt on the way: the others are served, the operator goes on by itself, nothing is removed.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use dask_wasm_operator_test_integration::{
    objects::{CLUSTER, DEPLOYMENT, GROUP, SERVICE, TIMEOUT, name, uid},
    proxy::{Asked, Proxy, Spoil},
};
use dask_wasm_operator_test_support::wait_for;
use http::StatusCode;
use serde_json::json;

use crate::site::{Site, with_site};

/// Spoilt answers to lists and watches of a kind.
fn faults() -> Vec<(&'static str, Asked, Spoil)> {
    let failure = |code: u16| json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code});
    let event = |type_: &str, object: serde_json::Value| format!("{}\n", json!({"type": type_, "object": object}));
    let watch = |what, first: String| (what, Asked::Watch, Spoil::More(first));
    let list = |what, item: &str| (what, Asked::List, Spoil::More(item.to_owned()));
    vec![
        watch("a line that is not JSON", "<html>\n".to_owned()),
        watch("a line that is cut", "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"na\n".to_owned()),
        watch("an unknown type", event("FROBNICATED", json!({"metadata": {"name": "x"}}))),
        watch("an object without a name", event("ADDED", json!({"metadata": {}}))),
        watch("the failure 410", event("ERROR", failure(410))),
        watch("the failure 500", event("ERROR", failure(500))),
        watch("the failure 0", event("ERROR", failure(0))),
        ("the answer 503", Asked::Watch, Spoil::Answer(StatusCode::SERVICE_UNAVAILABLE, failure(503).to_string())),
        ("an answer without end", Asked::Watch, Spoil::Answer(StatusCode::OK, "{\"type\":\"ADDED\",\"obj".to_owned())),
        list("an item that is null", "null"),
        list("an item that is no object", "[7]"),
        list("an item without a name", "{}"),
        ("a page of HTML", Asked::List, Spoil::Answer(StatusCode::OK, "<html>welcome</html>".to_owned())),
        (
            "a list without items",
            Asked::List,
            Spoil::Answer(StatusCode::OK, json!({"metadata": {"resourceVersion": "9"}}).to_string()),
        ),
        ("the answer 500", Asked::List, Spoil::Answer(StatusCode::INTERNAL_SERVER_ERROR, "oh".to_owned())),
    ]
}

/// A cluster and what was made of it, with the identities.
async fn everything(site: &Site, cluster: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for kind in [CLUSTER, GROUP, DEPLOYMENT, SERVICE] {
        let objects = site.list(kind, "").await?;
        let of_cluster = objects.iter().filter(|object| name(object).starts_with(cluster));
        all.extend(of_cluster.map(|object| (format!("{} {}", kind.1, name(object)), uid(object).to_owned())));
    }
    Ok(all)
}

#[tokio::test]
async fn fault_01_whatever_is_told_others_are_served_and_nothing_is_removed() {
    with_site(async |site| {
        let proxy = Proxy::start(&site.installation.kubeconfig).await?;
        let mut operator = site.start(proxy.kubeconfig(), &["--standalone"])?;
        operator.ready().await?;
        site.running_cluster("kept", 2).await?;
        let kept = everything(site, "kept").await?;
        ensure!(kept.len() == 6, "{kept:?}");
        let plurals = ["daskclusters", "daskworkergroups", "deployments"];
        for ((what, asked, spoil), plural) in faults().into_iter().zip(plurals.into_iter().cycle()) {
            let outcome = async {
                served_beside(site, &proxy, plural, asked, spoil).await?;
                ensure!(everything(site, "kept").await? == kept, "something was changed or removed");
                operator.must_run()
            };
            outcome.await.with_context(|| format!("{what}: {plural}\n{}", operator.log()))?;
        }
        Ok(())
    })
    .await
    .unwrap();
}

async fn served_beside(site: &Site, proxy: &Proxy, plural: &str, asked: Asked, spoil: Spoil) -> anyhow::Result<()> {
    // Of a list that is none at all nobody learns anything.
    let others_are_told = asked == Asked::Watch || matches!(spoil, Spoil::More(_));
    proxy.spoil(plural, asked, spoil);
    if asked == Asked::List {
        // A watch that can't go on has everything listed.
        let expired = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410}});
        proxy.spoil(plural, Asked::Watch, Spoil::More(format!("{expired}\n")));
    }
    wait_for("a spoilt answer", TIMEOUT, async || Ok((proxy.spoilt(asked) > 0).then_some(()))).await?;
    if asked == Asked::List {
        proxy.mend(Asked::Watch);
    }
    if !others_are_told {
        proxy.mend(asked);
    }
    site.running_cluster("beside", 1).await?;
    proxy.mend(asked);
    site.delete(CLUSTER, "beside").await?;
    for (kind, name) in [(CLUSTER, "beside"), (GROUP, "beside-default"), (SERVICE, "beside-scheduler")] {
        site.until_gone(kind, name).await?;
    }
    Ok(())
}
