//! What creation takes and apply refuses: fields that the schema does not know, and lists whose items are told apart by keys.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use dask_wasm_operator_api::known_fields;
use dask_wasm_operator_cluster::published::PublishedFields;
use dask_wasm_operator_core::{
    dask::{Environment, Handler, Pipeline, Reconciler, cluster_in_memory},
    memory::built_in_resources,
    pipeline::SubjectState,
    schema::KnownFields,
};
use http::Request;
use serde_json::{Value, json};

use crate::{World, in_world};

/// The document of pods and Services, as the server publishes it.
struct Document(Value);

impl Document {
    async fn read(world: &World) -> anyhow::Result<Self> {
        let request = Request::get("/openapi/v3/api/v1").body(Vec::new())?;
        Ok(Self(world.admin.request(request).await?))
    }

    fn spec_of(&self, kind: &str) -> &Value {
        let schemas = &self.0["components"]["schemas"];
        &schemas[format!("io.k8s.api.core.v1.{kind}")]["properties"]["spec"]
    }

    /// The schema that is meant.
    fn resolve<'a>(&'a self, mut schema: &'a Value) -> &'a Value {
        loop {
            let reference = schema.get("$ref").or_else(|| schema.pointer("/allOf/0/$ref"));
            let Some(reference) = reference.and_then(Value::as_str) else { return schema };
            schema = self.0.pointer(&reference[1..]).unwrap_or(&Value::Null);
        }
    }

    /// Calls `visit` with each schema below one and its path.
    fn walk(&self, schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
        let schema = self.resolve(schema);
        visit(path, schema);
        let properties = schema["properties"].as_object().into_iter().flatten();
        for (name, below) in properties {
            self.walk(below, &format!("{path}.{name}"), visit);
        }
        if let Some(items) = schema.get("items") {
            self.walk(items, &format!("{path}[]"), visit);
        }
    }

    /// A value with everything that the schema knows, and in each object one field that it does not.
    fn everything(&self, schema: &Value) -> Value {
        let schema = self.resolve(schema);
        let properties = schema["properties"].as_object();
        match schema["type"].as_str() {
            Some("object") if properties.is_some() => {
                let known =
                    properties.into_iter().flatten().map(|(name, below)| (name.clone(), self.everything(below)));
                let known = known.chain([("tpyo".to_owned(), json!({"a": [1]}))]);
                Value::Object(known.collect())
            }
            Some("object") => match schema.get("additionalProperties") {
                Some(below) => json!({"key": self.everything(below)}),
                None => json!({}),
            },
            Some("array") => json!([self.everything(&schema["items"])]),
            Some("integer" | "number") => json!(1),
            Some("boolean") => json!(true),
            _ => json!("1"),
        }
    }
}

/// What an object is answered with when it is created, or applied, and nothing is kept.
async fn ask(world: &World, object: &Value, applied: bool) -> anyhow::Result<Result<Value, String>> {
    let (collection, name) = match object["kind"].as_str() {
        Some("Service") => ("/api/v1", "services"),
        Some("DaskCluster") => ("/apis/kubernetes.dask.org/v1", "daskclusters"),
        _ => ("/apis/apps/v1", "deployments"),
    };
    let path = format!("{collection}/namespaces/{}/{name}", world.namespace);
    let request = if applied {
        Request::patch(format!(
            "{path}/{}?dryRun=All&fieldManager=test",
            object["metadata"]["name"].as_str().unwrap_or("")
        ))
        .header("Content-Type", "application/apply-patch+yaml")
    } else {
        Request::post(format!("{path}?dryRun=All")).header("Content-Type", "application/json")
    };
    match world.admin.request::<Value>(request.body(serde_json::to_vec(object)?)?).await {
        Ok(object) => Ok(Ok(object)),
        Err(kube::Error::Api(status)) => Ok(Err(status.message)),
        Err(error) => Err(error.into()),
    }
}

/// A DaskCluster whose scheduler has this pod and this Service.
fn cluster(pod: &Value, service: &Value) -> Value {
    json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster", "metadata": {"name": "c"},
        "spec": {"scheduler": {"spec": pod, "service": service}, "worker": {"replicas": 0, "spec": {"containers": []}}},
    })
}

/// The scheduler's Deployment and Service as we apply them.
async fn wanted(cluster: &Value, known: KnownFields) -> anyhow::Result<[Value; 2]> {
    let memory = cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z").that_knows(known);
    let key = memory.create(cluster.clone()).map_err(anyhow::Error::msg)?;
    let environment = Environment::default();
    let pipeline = Pipeline::new(&memory, &memory, &environment);
    pipeline.reconcile(&Handler::Native(Reconciler::Cluster), &key.at, &mut SubjectState::default(), 0).await;
    let made = |kind: &str| -> anyhow::Result<Value> {
        let objects = memory.objects();
        let made =
            objects.iter().find(|object| object.kind.kind == kind).with_context(|| format!("no {kind}"))?.to_value();
        let metadata = json!({"name": made["metadata"]["name"]});
        Ok(json!({"apiVersion": made["apiVersion"], "kind": kind, "metadata": metadata, "spec": made["spec"]}))
    };
    Ok([made("Deployment")?, made("Service")?])
}

async fn published(world: &World) -> anyhow::Result<KnownFields> {
    let published = PublishedFields::new(world.clients.unary.clone());
    ensure!(published.refresh().await?, "it was not known before");
    ensure!(!published.refresh().await?, "it is the same as before");
    Ok(published.known().as_ref().clone())
}

/// Attacks: that what is pruned by the published schema is what apply refuses, wherever a field stands.
#[tokio::test]
async fn nothing_that_is_left_is_a_field_that_the_server_does_not_know() -> anyhow::Result<()> {
    in_world(async |world| {
        let document = Document::read(&world).await?;
        let [pod, service] = ["Pod", "Service"].map(|kind| document.everything(document.spec_of(kind)));
        let cluster = cluster(&pod, &service);
        let typos = pod.to_string().matches("tpyo").count();
        ensure!(typos > 100, "{typos}");
        for object in wanted(&cluster, KnownFields::default()).await? {
            let refused = ask(&world, &object, true).await?.expect_err("it holds what the server does not know");
            ensure!(refused.contains("tpyo: field not declared in schema"), "{refused}");
        }
        for known in [published(&world).await?, known_fields()] {
            for object in wanted(&cluster, known).await? {
                ensure!(!object.to_string().contains("tpyo"), "{object}");
                // That all fields at once make no sense is another matter.
                let refused = ask(&world, &object, true).await?.expect_err("it makes no sense");
                ensure!(!refused.contains("schema"), "{refused}");
            }
        }
        Ok(())
    })
    .await
}

/// What becomes of a list with several items of one key.
#[derive(Clone)]
enum Fate {
    /// Creation refuses it as well.
    Refused,
    /// The definition of a DaskCluster refuses it, as that of the Python operator does.
    RefusedByDefinition,
    /// It means the same when it is applied so.
    Applied(Value),
    /// It can't be said otherwise: that is refused, and told with the remedy.
    OnlyCreated,
}

/// A list that apply takes each key once in: where it is in a pod, items, and what becomes of them.
type List = (&'static str, Value, Fate);

fn lists_of_pods() -> Vec<List> {
    use Fate::{Applied, OnlyCreated, Refused, RefusedByDefinition};
    let twice = |item: Value| json!([item, item]);
    let spread = json!({"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1});
    let names = json!([{"ip": "1.1.1.1", "hostnames": ["a"]}, {"ip": "1.1.1.1", "hostnames": ["b"]}]);
    vec![
        (".hostAliases", names, Applied(json!([{"ip": "1.1.1.1", "hostnames": ["a", "b"]}]))),
        (
            ".imagePullSecrets",
            json!([{"name": "a"}, {"name": "b"}, {"name": "a"}]),
            Applied(json!([{"name": "a"}, {"name": "b"}])),
        ),
        (".imagePullSecrets", json!([{}, {"name": ""}]), Applied(json!([{}]))),
        (".volumes", twice(json!({"name": "twice", "emptyDir": {}})), Refused),
        (".topologySpreadConstraints", twice(spread), RefusedByDefinition),
        (".schedulingGates", twice(json!({"name": "a.b/c"})), Refused),
        (".resourceClaims", twice(json!({"name": "twice", "resourceClaimName": "x"})), Refused),
        (".resources.claims", twice(json!({"name": "claim"})), Refused),
        (".volumes[].ephemeral.volumeClaimTemplate.metadata.finalizers", twice(json!("a.b/c")), Refused),
        (
            ".volumes[].ephemeral.volumeClaimTemplate.metadata.ownerReferences",
            twice(json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"})),
            Refused,
        ),
        (".containers", twice(json!({"name": "twice", "image": "i"})), Refused),
        (".initContainers", twice(json!({"name": "twice", "image": "i"})), Refused),
        (".containers[].env", twice(json!({"name": "A", "value": "1"})), Applied(json!([{"name": "A", "value": "1"}]))),
        (
            ".containers[].env",
            json!([{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)"}, {"name": "A", "value": "$(A)2"}]),
            Applied(json!([{"name": "B", "value": "1"}, {"name": "A", "value": "12"}])),
        ),
        (
            ".containers[].env",
            json!([
                {"name": "A", "value": "1"},
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", "optional": true}}},
            ]),
            OnlyCreated,
        ),
        (
            ".containers[].ports",
            json!([{"containerPort": 1, "name": "a"}, {"containerPort": 1, "name": "b"}]),
            RefusedByDefinition,
        ),
        (".containers[].resources.claims", twice(json!({"name": "claim"})), Refused),
        (
            ".containers[].resources.claims",
            json!([{"name": "claim", "request": "a"}, {"name": "claim", "request": "b"}]),
            OnlyCreated,
        ),
        (".containers[].restartPolicyRules[].exitCodes.values", json!([1, 2, 1]), Applied(json!([1, 2]))),
        (".containers[].volumeDevices", twice(json!({"name": "claimed", "devicePath": "/a"})), Refused),
        (".containers[].volumeMounts", twice(json!({"name": "tmp", "mountPath": "/a"})), Refused),
    ]
}

/// What the items of the lists refer to.
fn pod() -> Value {
    let rule = json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}});
    let container = |name: &str| json!({"name": name, "image": "i", "restartPolicy": "Never", "resources": {}, "restartPolicyRules": [rule]});
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    json!({
        "containers": [container("c")], "initContainers": [container("i")], "resources": {},
        "resourceClaims": [{"name": "claim", "resourceClaimName": "x"}],
        "volumes": [
            {"name": "ephemeral", "ephemeral": {"volumeClaimTemplate": {"metadata": {}, "spec": claim}}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "claimed", "persistentVolumeClaim": {"claimName": "x"}},
        ],
    })
}

/// Puts items in the place of a list; of lists above it in the first item.
fn set(pod: &mut Value, path: &str, items: Value) {
    let mut place = pod;
    for name in path.split('.').skip(1) {
        place = match name.strip_suffix("[]") {
            Some(list) => &mut place[list][0],
            None => &mut place[name],
        };
    }
    *place = items;
}

fn at<'a>(pod: &'a Value, path: &str) -> &'a Value {
    pod.pointer(&path.replace("[]", ".0").replace('.', "/")).unwrap_or(&Value::Null)
}

/// Lists that apply takes each key once in, of this spec.
fn keyed_lists(document: &Document, kind: &str) -> BTreeSet<String> {
    let mut lists = BTreeSet::new();
    document.walk(document.spec_of(kind), "", &mut |path, schema| {
        if matches!(schema["x-kubernetes-list-type"].as_str(), Some("map" | "set")) {
            lists.insert(path.to_owned());
        }
    });
    lists
}

/// Attacks: that we know all lists in which apply is stricter than creation.
#[tokio::test]
async fn what_creation_takes_twice_is_applied_once_and_means_the_same() -> anyhow::Result<()> {
    in_world(async |world| {
        let document = Document::read(&world).await?;
        let known = published(&world).await?;
        let service = json!({"ports": [{"port": 1}]});
        let mut left = keyed_lists(&document, "Pod");
        // Those of pods that run: no template may have them.
        left.retain(|path| !path.starts_with(".ephemeralContainers"));
        let lists = lists_of_pods().into_iter().flat_map(|(path, items, fate)| {
            let of_init = path.strip_prefix(".containers[]").map(|below| format!(".initContainers[]{below}"));
            let paths = [Some(path.to_owned()), of_init].into_iter().flatten();
            paths.map(move |path| (path, items.clone(), fate.clone())).collect::<Vec<_>>()
        });
        let sound = [(String::from(".containers[].env"), json!([]), Fate::Applied(Value::Null))];
        for (path, items, fate) in sound.into_iter().chain(lists) {
            left.remove(&path);
            let mut pod = pod();
            set(&mut pod, &path, items);
            let cluster = cluster(&pod, &service);
            let defined = ask(&world, &cluster, false).await?;
            if matches!(fate, Fate::RefusedByDefinition) {
                ensure!(defined.is_err_and(|why| why.contains("Duplicate value")), "{path}");
                continue;
            }
            defined.map_err(anyhow::Error::msg).context(path.clone())?;
            let [deployment, _] = wanted(&cluster, known.clone()).await?;
            let mut raw = deployment.clone();
            raw["spec"]["template"]["spec"] = pod;
            let (created, applied) = (ask(&world, &raw, false).await?, ask(&world, &deployment, true).await?);
            match (fate, created, applied) {
                (Fate::Applied(expected), Ok(_), Ok(applied)) => {
                    assert_eq!(at(&applied["spec"]["template"]["spec"], &path), &expected, "{path}");
                }
                (Fate::Refused, Err(_), Err(_)) => {}
                (Fate::OnlyCreated, Ok(_), Err(why)) if why.contains("duplicate entries for key") => {}
                (_, created, applied) => anyhow::bail!("{path}: created {created:?}, applied {applied:?}"),
            }
        }
        ensure!(left.is_empty(), "nobody knows what becomes of {left:?}");

        ensure!(keyed_lists(&document, "Service") == BTreeSet::from([".ports".to_owned()]));
        let twice = json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 1}]});
        let refused = ask(&world, &cluster(&pod(), &twice), false).await?;
        ensure!(refused.is_err_and(|why| why.contains("Duplicate value")));
        Ok(())
    })
    .await
}

/// Attacks: that whatever passes the definition passes apply, too.
#[tokio::test]
async fn a_value_of_another_type_is_taken_by_all_or_refused() -> anyhow::Result<()> {
    let env = |value: Value| json!([{"name": "A", "value": value}]);
    let port = |port: Value| json!([{"containerPort": port}]);
    let values = [
        (".containers[].env", env(json!(4))),
        (".containers[].env", env(json!(true))),
        (".containers[].env", env(Value::Null)),
        (".containers[].ports", port(json!("8786"))),
        (".containers[].ports", port(json!(8786.5))),
        (".containers[].args", json!("dask")),
        (".containers[].args", json!([1])),
        (".containers[].command", Value::Null),
        (".containers[].resources.limits", json!({"cpu": 4, "memory": 1024})),
        (".containers[].resources.limits", json!({"cpu": "0.5", "memory": "1.5Gi"})),
        (".containers[].livenessProbe", json!({"tcpSocket": {"port": "8786"}})),
        (".containers[].livenessProbe", json!({"tcpSocket": {"port": 8786}, "periodSeconds": "5"})),
        (".terminationGracePeriodSeconds", json!("30")),
        (".hostNetwork", json!("false")),
        (".nodeSelector", json!({"a": true})),
        (".nodeSelector", json!({"a": null})),
        (".securityContext", json!({"runAsUser": "1000"})),
        (".securityContext", Value::Null),
        (".tolerations", json!([{"key": "a", "operator": "Exists", "tolerationSeconds": null}])),
    ];
    in_world(async |world| {
        let known = published(&world).await?;
        for (path, value) in values {
            let mut pod = pod();
            set(&mut pod, path, value.clone());
            let cluster = cluster(&pod, &json!({"ports": [{"port": 1}]}));
            let [deployment, _] = wanted(&cluster, known.clone()).await?;
            let mut raw = deployment.clone();
            raw["spec"]["template"]["spec"] = pod;
            let created = ask(&world, &raw, false).await?;
            let (defined, applied) = (ask(&world, &cluster, false).await?, ask(&world, &deployment, true).await?);
            let is_taken = defined.is_ok() && applied.is_ok();
            ensure!(
                is_taken == created.is_ok(),
                "{path} {value}: created {created:?}, defined {defined:?}, applied {applied:?}"
            );
        }
        Ok(())
    })
    .await
}
