//! Which namespaces are served: lists by Roles alone, and patterns whose namespaces come and go.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use dask_wasm_operator_api::{Served, crds, required_access};
use dask_wasm_operator_test_support::{
    Installation, Kubeconfig, Operator, TestCluster, apply_objects, render_chart, say_skipped, wait_for,
};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    manifests,
    objects::{CLUSTER, CONFIG_MAP, DEPLOYMENT, Kind, Objects, SERVICE, TIMEOUT, text},
    plugins::mounting::{odd, plugin},
    stage::in_namespace,
};

const ROLE: Kind<'_> = Kind("rbac.authorization.k8s.io/v1", "Role");
const EXIT_MISSING_RIGHTS: i32 = 77;

/// The operator's namespace, and others whose names begin with its.
struct Home {
    objects: Objects,
    admin: Kubeconfig,
}

impl Home {
    fn name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.objects.namespace)
    }

    fn api(&self) -> Api<Namespace> {
        Api::all(self.objects.client.clone())
    }

    /// Makes a namespace, and waits until the former one of that name is gone.
    async fn namespace(&self, suffix: &str) -> anyhow::Result<Objects> {
        let name = self.name(suffix);
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        wait_for(&format!("namespace {name} to be made"), TIMEOUT, async || {
            Ok(self.api().create(&PostParams::default(), &namespace).await.ok())
        })
        .await?;
        Ok(Objects { client: self.objects.client.clone(), namespace: name })
    }

    async fn delete(&self, suffix: &str) -> anyhow::Result<()> {
        self.api().delete(&self.name(suffix), &DeleteParams::default()).await.map(drop).context("deleting a namespace")
    }

    /// These values of the chart, with a name that no other test's ClusterRole has.
    fn values(&self, values: &Value) -> Value {
        let mut values = values.clone();
        values["fullnameOverride"] = json!(self.objects.namespace);
        values
    }

    async fn install(&self, values: &Value) -> anyhow::Result<Installation> {
        Installation::apply(&self.admin, &self.objects.namespace, &self.values(values)).await
    }

    fn render(&self, values: &Value) -> anyhow::Result<Vec<Value>> {
        render_chart(&self.objects.namespace, &self.values(values))
    }

    /// An operator that serves these values of `--namespace`, with the Lease.
    fn start(&self, installation: &Installation, served: &[String], more: &[&str]) -> anyhow::Result<Operator> {
        let scope = served.iter().map(|value| format!("--namespace={value}"));
        let arguments: Vec<String> =
            [format!("--operator-namespace={}", self.objects.namespace)].into_iter().chain(scope).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Operator::start(&installation.kubeconfig, &arguments)
    }
}

/// Runs `body` in the operator's namespace, and deletes those that it may have made beside.
async fn at_home(suffixes: &[&str], body: impl AsyncFnOnce(&Home) -> anyhow::Result<()>) -> anyhow::Result<()> {
    in_namespace(async |objects, admin| {
        let home = Home { objects, admin };
        let outcome = body(&home).await;
        for suffix in suffixes {
            // It may not have come to be.
            let _ = home.delete(suffix).await;
        }
        outcome
    })
    .await
}

/// Creates a DaskCluster and waits until it runs.
async fn is_served(objects: &Objects, name: &str) -> anyhow::Result<()> {
    objects.create(&manifests::cluster(name, 1)).await?;
    objects.until(CLUSTER, name, "Running", |cluster| cluster["status"]["phase"] == "Running").await?;
    objects.until_there(DEPLOYMENT, &format!("{name}-scheduler")).await?;
    Ok(())
}

/// As [`is_served`], and a plugin that serves [`mirror`] makes a child of a subject.
async fn is_served_with_plugins(objects: &Objects, name: &str) -> anyhow::Result<()> {
    is_served(objects, name).await?;
    objects.create(&manifests::odd_subject("first", &json!({"key": "value"}))).await?;
    objects.until_there(CONFIG_MAP, "first-key").await.map(drop)
}

/// A directory with a plugin, and the argument that names it.
fn mirror() -> anyhow::Result<(TempDir, String)> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("mirror.wasm"), odd()?)?;
    let mirror = plugin("mirror", &json!({"config": {"do": "Mirror"}})).to_string();
    fs::write(directory.path().join("mirror.yaml"), mirror)?;
    let argument = format!("--plugin-dir={}", directory.path().display());
    Ok((directory, argument))
}

/// The warning that says this is there once, about this namespace.
fn names_once(operator: &Operator, says: &str, namespace: &str) -> anyhow::Result<()> {
    let log = operator.log();
    let named: Vec<_> = log.lines().filter(|line| line.contains(says)).collect();
    assert_eq!(named.len(), 1, "{log}");
    ensure!(named[0].contains(namespace) && named[0].contains("WARN"), "{log}");
    Ok(())
}

/// Waits for a line of the log that says this of that.
async fn until_said(operator: &Operator, of: &str, says: &str) -> anyhow::Result<()> {
    wait_for(&format!("the log to say {says:?} of {of}"), TIMEOUT, async || {
        Ok(operator.log().lines().any(|line| line.contains(of) && line.contains(says)).then_some(()))
    })
    .await
}

async fn is_left_alone(objects: &Objects, name: &str) -> anyhow::Result<()> {
    let cluster = objects.get(CLUSTER, name).await?;
    ensure!(cluster["status"].is_null(), "{} is served: {}", objects.namespace, cluster["status"]);
    assert_eq!(objects.list(DEPLOYMENT, "").await?, Vec::<Value>::new(), "{}", objects.namespace);
    Ok(())
}

/// What the operator has asked the API server for, each with the code of the answer. A cluster without an audit log that can
/// be read here tells nothing.
async fn requests(installation: &Installation) -> anyhow::Result<Vec<(String, u16)>> {
    let Some(log) = TestCluster::obtain(&crds()).await?.audit_log() else {
        say_skipped("what was asked for can't be seen: this cluster's audit log can't be read here");
        return Ok(Vec::new());
    };
    let requests = log.requests_of(&installation.user(), ..)?;
    ensure!(!requests.is_empty(), "the audit log has no request of {}", installation.user());
    Ok(requests.into_iter().map(|request| (format!("{} {}", request.verb, request.uri), request.code)).collect())
}

/// Whether a request reads or writes objects of more than one namespace, or without one.
fn spans_namespaces(request: &str) -> bool {
    let path = request.split_once(' ').map_or(request, |(_, uri)| uri);
    let path = path.split('?').next().unwrap_or_default();
    let is_about_itself = path.starts_with("/apis/authorization.k8s.io/");
    // Discovery: /api, /apis, and the published schemas.
    let is_about_kinds = path.starts_with("/openapi/") || path.split('/').filter(|part| !part.is_empty()).count() < 2;
    !path.contains("/namespaces/") && !is_about_itself && !is_about_kinds
}

#[tokio::test]
async fn fault_18_a_list_of_namespaces_is_served_by_roles_alone() -> anyhow::Result<()> {
    at_home(&["a", "b", "c"], async |home| {
        let (a, b, c) = (home.namespace("a").await?, home.namespace("b").await?, home.namespace("c").await?);
        let values = json!({"rbac": {"cluster": false}, "namespaces": [a.namespace, b.namespace]});
        let rendered = home.render(&values)?;
        ensure!(
            rendered.iter().all(|object| !text(object, "/kind").starts_with("Cluster")),
            "a ClusterRole is rendered"
        );
        let installation = home.install(&values).await?;
        let mut operator = home.start(&installation, &[a.namespace.clone(), b.namespace.clone()], &[])?;
        operator.ready().await?;

        c.create(&manifests::cluster("simple", 1)).await?;
        is_served(&a, "simple").await?;
        is_served(&b, "simple").await?;
        is_left_alone(&c, "simple").await?;

        let status = operator.stop().await?;
        ensure!(status.success(), "{status}:\n{}", operator.log());
        let log = operator.log();
        ensure!(!log.contains("misses events") && !log.contains("has no right"), "{log}");
        for (request, code) in requests(&installation).await? {
            ensure!(!spans_namespaces(&request), "{request}");
            ensure!(code != 403, "{request} was forbidden");
            ensure!(!request.contains(&c.namespace), "{request}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_listed_namespace_that_is_not_there_yet_is_served_when_it_is() -> anyhow::Result<()> {
    at_home(&["a", "later"], async |home| {
        let a = home.namespace("a").await?;
        let installation = home.install(&json!({"rbac": {"cluster": false}, "namespaces": [a.namespace]})).await?;
        let listed = [a.namespace.clone(), home.name("later")];
        let (_plugins, directory) = mirror()?;
        let mut operator = home.start(&installation, &listed, &["--verbose", &directory])?;
        operator.ready().await?;
        is_served_with_plugins(&a, "simple").await?;
        names_once(&operator, "has no right in this namespace", &listed[1])?;

        // With a part of the rights a part of the objects is known: nothing must be made by that.
        let later = home.namespace("later").await?;
        later.create(&manifests::cluster("early", 1)).await?;
        let mut partial = home.render(&json!({"rbac": {"cluster": false}, "namespaces": listed}))?;
        for rules in partial.iter_mut().filter_map(|object| object.get_mut("rules")?.as_array_mut()) {
            rules.retain(|rule| rule["resources"] != json!(["deployments"]));
        }
        partial.retain(|object| text(object, "/metadata/namespace") == later.namespace);
        apply_objects(&home.objects.client, &later.namespace, &partial).await?;
        for kind in ["DaskCluster.kubernetes.dask.org", "DaskWorkerGroup.kubernetes.dask.org", "Service"] {
            until_said(&operator, &format!("{kind} in namespace {}", later.namespace), "in sync").await?;
        }
        is_served(&a, "another").await?;
        is_left_alone(&later, "early").await?;
        assert_eq!(later.list(SERVICE, "").await?, Vec::<Value>::new());

        home.install(&json!({"rbac": {"cluster": false}, "namespaces": listed})).await?;
        later.until(CLUSTER, "early", "Running", |cluster| cluster["status"]["phase"] == "Running").await?;
        is_served_with_plugins(&later, "simple").await?;
        operator.must_run()
    })
    .await
}

#[tokio::test]
async fn a_listed_namespace_that_does_not_exist_is_named_where_that_can_be_seen() -> anyhow::Result<()> {
    at_home(&["a", "later"], async |home| {
        let a = home.namespace("a").await?;
        let listed = [a.namespace.clone(), home.name("later")];
        let installation = home.install(&json!({"namespaces": listed})).await?;
        let mut operator = home.start(&installation, &listed, &[])?;
        operator.ready().await?;
        is_served(&a, "simple").await?;
        names_once(&operator, "does not exist", &listed[1])?;
        is_served(&home.namespace("later").await?, "simple").await?;
        operator.must_run()
    })
    .await
}

#[tokio::test]
async fn patterns_follow_the_namespaces_as_they_come_and_go() -> anyhow::Result<()> {
    at_home(&["a", "b", "not"], async |home| {
        let (a, not) = (home.namespace("a").await?, home.namespace("not").await?);
        let pattern = format!("{0}-*, !{0}-not", home.objects.namespace);
        let installation = home.install(&json!({"namespaces": [pattern]})).await?;
        let (_plugins, directory) = mirror()?;
        let mut operator = home.start(&installation, &[pattern], &[&directory])?;
        operator.ready().await?;
        not.create(&manifests::cluster("simple", 1)).await?;
        not.create(&manifests::odd_subject("first", &json!({"key": "value"}))).await?;
        is_served_with_plugins(&a, "simple").await?;

        // One that comes, one that goes, and one that comes again.
        is_served_with_plugins(&home.namespace("b").await?, "simple").await?;
        home.delete("b").await?;
        until_said(&operator, &home.name("b"), "namespace is gone").await?;
        is_served_with_plugins(&home.namespace("b").await?, "simple").await?;
        is_served(&a, "another").await?;

        is_left_alone(&not, "simple").await?;
        assert_eq!(not.find(CONFIG_MAP, "first-key").await?, None);
        let status = operator.stop().await?;
        ensure!(status.success(), "{status}:\n{}", operator.log());
        for (request, code) in requests(&installation).await? {
            let is_of_namespaces = request.contains(" /api/v1/namespaces?");
            let is_of_definitions = request.contains("/customresourcedefinitions");
            ensure!(!spans_namespaces(&request) || is_of_namespaces || is_of_definitions, "{request}");
            ensure!(code != 403 || request.contains(&home.name("b")), "{request} was forbidden");
            ensure!(!request.contains(&not.namespace), "{request}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_missing_is_named_for_each_scope() -> anyhow::Result<()> {
    at_home(&["a", "b"], async |home| {
        let (a, b) = (home.namespace("a").await?, home.namespace("b").await?);
        let listed = [a.namespace.clone(), b.namespace.clone()];
        let installation = home.install(&json!({"rbac": {"cluster": false}, "namespaces": listed})).await?;
        let role = b.get(ROLE, &home.objects.namespace).await?;
        let mut rules = role["rules"].as_array().cloned().unwrap_or_default();
        rules.retain(|rule| rule["resources"] != json!(["deployments"]));
        b.merge(ROLE, &home.objects.namespace, &json!({"rules": rules})).await?;
        let verbs = ["get", "list", "watch", "create", "patch", "delete"];
        let missing = verbs.map(|verb| format!("{verb} deployments.apps in namespace {}", b.namespace));
        lacks(async || home.start(&installation, &listed, &[]), &missing).await?;

        let required = required_access(Served::AllNamespaces, &home.objects.namespace);
        let everywhere: Vec<_> =
            required.iter().filter(|access| access.namespace.is_none()).map(ToString::to_string).collect();
        lacks(async || home.start(&installation, &[], &[]), &everywhere).await?;

        let pattern = [format!("{}-*", home.objects.namespace)];
        let installation = home.install(&json!({})).await?;
        b.delete(ROLE, &home.objects.namespace).await?;
        let missing = ["get", "list", "watch"].map(|verb| format!("{verb} namespaces in all namespaces"));
        lacks(async || home.start(&installation, &pattern, &[]), &missing).await
    })
    .await
}

/// Starts operators until one ends because exactly these rights are missing: the API server's authorizer learns of changes by
/// watches of its own.
async fn lacks(start: impl AsyncFn() -> anyhow::Result<Operator>, missing: &[String]) -> anyhow::Result<()> {
    let mut last = String::new();
    let named = wait_for("the operator to lack rights", TIMEOUT, async || {
        let mut operator = start().await?;
        let ended = operator.ended(Duration::from_secs(10)).await;
        last = operator.log();
        let mut named: Vec<_> = last.lines().filter_map(|line| line.strip_prefix("    ")).collect();
        let mut wanted: Vec<_> = missing.iter().map(String::as_str).collect();
        named.sort_unstable();
        wanted.sort_unstable();
        let is_end = ended.is_ok_and(|status| status.code() == Some(EXIT_MISSING_RIGHTS));
        Ok((is_end && named == wanted).then_some(()))
    })
    .await;
    named.with_context(|| format!("its last log:\n{last}"))
}
