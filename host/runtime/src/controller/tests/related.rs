//! Who is woken by a change of what it has looked up.

use std::collections::BTreeSet;

use dask_wasm_operator_core::dask::{pod_summary_kind, summary};

use super::*;

/// The label of each work that waits now or later, with the name of its subject. Nothing waits afterwards.
fn woken(controller: &Controller) -> BTreeSet<(String, String)> {
    let mut inner = controller.lock();
    let mut woken = BTreeSet::new();
    while let Some(next) = inner.queue.next(u64::MAX, Work::at_once) {
        inner.queue.done(next.group.clone(), next.key.clone(), u64::MAX);
        woken.insert((next.group.label(), next.key.name));
    }
    woken
}

struct World {
    cluster: Arc<MemoryCluster>,
    controller: Arc<Controller>,
}

impl World {
    fn new() -> Self {
        let cluster = Arc::new(cluster());
        let controller = controller(Arc::clone(&cluster) as Arc<dyn Observed>, Gate::open());
        Self { cluster, controller }
    }

    fn create(&self, kind: &str, name: &str, owner: Option<&Object>, spec: Value) -> Arc<Object> {
        let metadata = json!({
            "name": name, "namespace": "ns1",
            "ownerReferences": owner.map(Object::as_owner).into_iter().collect::<Vec<_>>(),
        });
        let api_version = if kind == "Deployment" { "apps/v1" } else { "kubernetes.dask.org/v1" };
        let object = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec});
        let key = self.cluster.create(object).expect("it is valid");
        self.cluster.get(&key.kind, &key.at).expect("it was created")
    }

    async fn reconcile(&self, reconciler: Reconciler, name: &str) {
        let at = NamespacedName::new("ns1", name);
        self.controller.reconcile(reconciler, &at, &mut SubjectState::default()).await;
    }

    /// Who is woken by a change of an object.
    fn change(&self, object: &Object, change: impl FnOnce(&mut Value)) -> BTreeSet<(String, String)> {
        woken(&self.controller);
        let before = object.to_value();
        let mut after = before.clone();
        change(&mut after);
        let side = |value: &Value| Some(Arc::new(Object::from_value(value).expect("it is an object")));
        let (old, new) = (side(&before), side(&after));
        self.controller.wake(&Change { kind: Arc::clone(&object.kind), old, new, own_write: false });
        woken(&self.controller)
    }

    fn pod_change(&self, labels: &Value) -> BTreeSet<(String, String)> {
        woken(&self.controller);
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns1", "labels": labels}});
        let kind = Arc::new(pod_summary_kind());
        let new = Arc::new(summary(Arc::clone(&kind), &Object::from_value(&pod).unwrap()));
        self.controller.wake(&Change { kind, old: None, new: Some(new), own_write: false });
        woken(&self.controller)
    }
}

fn of(labels: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    labels.iter().map(|(label, name)| ((*label).to_owned(), (*name).to_owned())).collect()
}

/// Two clusters, each with a group, the first with an autoscaler; all have been looked at.
async fn world() -> (World, Arc<Object>, Arc<Object>) {
    let world = World::new();
    let a = world.create("DaskCluster", "a", None, json!({"scheduler": {}, "worker": {}}));
    let b = world.create("DaskCluster", "b", None, json!({"scheduler": {}, "worker": {}}));
    let group = |of: &str| json!({"cluster": of, "worker": {"replicas": 0, "spec": {}}});
    let group_of_a = world.create("DaskWorkerGroup", "a-default", Some(&a), group("a"));
    world.create("DaskWorkerGroup", "b-default", Some(&b), group("b"));
    let limits = json!({"cluster": "a", "minimum": 1, "maximum": 2});
    world.create("DaskAutoscaler", "scales", None, limits);
    for (reconciler, name) in [
        (Reconciler::Cluster, "a"),
        (Reconciler::Cluster, "b"),
        (Reconciler::WorkerGroup, "a-default"),
        (Reconciler::WorkerGroup, "b-default"),
        (Reconciler::Autoscaler, "scales"),
    ] {
        world.reconcile(reconciler, name).await;
    }
    (world, a, group_of_a)
}

#[tokio::test]
async fn a_cluster_wakes_its_groups_and_its_autoscaler_unless_only_its_status_changes() {
    let (world, a, group_of_a) = world().await;
    assert_eq!(
        world.change(&a, |cluster| cluster["spec"]["idleTimeout"] = json!(60)),
        of(&[("autoscaler", "scales"), ("cluster", "a"), ("idle-shutdown", "a"), ("workergroup", "a-default")]),
    );
    // The shutdown of idle clusters reads its own record there.
    assert_eq!(
        world.change(&a, |cluster| cluster["status"] = json!({"phase": "Running"})),
        of(&[("idle-shutdown", "a")])
    );

    world.cluster.delete(&group_of_a.key());
    world.reconcile(Reconciler::WorkerGroup, "a-default").await;
    let woken = world.change(&a, |cluster| cluster["spec"]["idleTimeout"] = json!(90));
    assert_eq!(woken, of(&[("autoscaler", "scales"), ("cluster", "a"), ("idle-shutdown", "a")]), "it is forgotten");
}

#[tokio::test]
async fn a_group_wakes_the_autoscaler_that_has_looked_at_it() {
    let (world, _, group_of_a) = world().await;
    let woken = world.change(&group_of_a, |group| group["spec"]["worker"]["replicas"] = json!(5));
    assert!(woken.contains(&("autoscaler".to_owned(), "scales".to_owned())), "{woken:?}");
}

#[tokio::test]
async fn a_status_is_looked_at_when_what_it_counts_has_changed_and_then_only() {
    let (world, a, group_of_a) = world().await;
    let worker = world.create("Deployment", "w", Some(&group_of_a), json!({}));
    let woken = world.change(&worker, |worker| worker["status"] = json!({"replicas": 1}));
    assert_eq!(woken, of(&[("cluster-status", "a"), ("workergroup-status", "a-default")]));
    let other = world.create("DaskWorkerGroup", "other", Some(&a), json!({"cluster": "a", "worker": {"spec": {}}}));
    let worker = world.create("Deployment", "o", Some(&other), json!({}));
    let woken = world.change(&worker, |worker| worker["status"] = json!({"replicas": 1}));
    assert_eq!(woken, of(&[("workergroup-status", "other")]), "the cluster's status does not count them");

    let pod = |component: &str, group: &[(&str, &str)]| {
        let mut labels = json!({"dask.org/cluster-name": "a", "dask.org/component": component});
        group.iter().for_each(|(key, value)| labels[*key] = json!(value));
        world.pod_change(&labels)
    };
    assert_eq!(pod("scheduler", &[]), of(&[("cluster-status", "a")]));
    assert_eq!(
        pod("worker", &[("dask.org/workergroup-name", "a-default")]),
        of(&[("workergroup-status", "a-default")])
    );
}
