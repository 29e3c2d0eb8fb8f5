//! Snapshot, decision, plan and report are values: written down and read again between the steps, they lead to the same.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::{Environment, Handler, Pipeline, Reconciler, cluster_in_memory};
use crate::{
    memory::{MemoryCluster, built_in_resources},
    native::Native as _,
    object::NamespacedName,
    pipeline::SubjectState,
    ports::Schedulers as _,
};

const NOW: u64 = 1_795_372_200_000;

struct World {
    cluster: MemoryCluster,
    states: BTreeMap<(Reconciler, NamespacedName), SubjectState>,
    as_json: bool,
    now: u64,
}

impl World {
    fn new(as_json: bool) -> Self {
        let cluster = cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z");
        Self { cluster, states: BTreeMap::new(), as_json, now: NOW }
    }

    fn create(&self, objects: &[Value]) {
        for object in objects {
            self.cluster.create(object.clone()).unwrap();
        }
    }

    fn edit(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let objects = self.cluster.objects().into_iter();
        let found = objects.filter(|object| object.kind.kind == kind).find(|object| object.metadata.name == name);
        self.cluster.edit(&found.unwrap().key(), change);
    }

    /// Reconciles everything, several times; what came of it, and what there is.
    fn settle(&mut self) -> (Vec<String>, Vec<String>) {
        let environment = Environment::default();
        let mut reconciles = Vec::new();
        for _ in 0..8 {
            for reconciler in Reconciler::ALL {
                let of_kind = |object: &_| crate::object::Object::key(object).kind.same_kind(&reconciler.subject());
                for at in self.cluster.objects().iter().filter(|object| of_kind(object)).map(|object| object.at()) {
                    let pipeline = Pipeline::new(&self.cluster, &self.cluster, &environment);
                    let state = self.states.entry((reconciler, at.clone())).or_default();
                    // The cluster in memory answers at once.
                    let report = if self.as_json {
                        pipeline.reconcile_as_json(reconciler, &at, state, self.now).now_or_never().unwrap()
                    } else {
                        let handler = Handler::Native(reconciler);
                        pipeline.reconcile(&handler, &at, state, self.now).now_or_never().unwrap()
                    };
                    for (scheduler, call) in &report.calls {
                        let reply = self.cluster.call(scheduler.clone(), call.clone()).now_or_never().unwrap();
                        state.heard(call, reply, self.now);
                    }
                    reconciles.push(format!("{reconciler:?} {at}: {report:?}"));
                    let found = state.found();
                    pipeline.publish(reconciler, &at, found.as_ref(), self.now).now_or_never().unwrap().unwrap();
                }
            }
            self.now += 30_000;
        }
        (reconciles, self.cluster.objects().iter().map(|object| object.to_json()).collect())
    }
}

fn objects() -> Vec<Value> {
    let pod = json!({"containers": [{"name": "dask", "image": "i", "args": ["dask"]}]});
    let spec = json!({
        "scheduler": {"spec": pod, "service": {"ports": [{"name": "tcp-comm", "port": 8786}]}},
        "worker": {"replicas": 3, "spec": pod},
    });
    let dask = |kind: &str, name: &str, spec: Value| {
        let metadata = json!({"name": name, "namespace": "n", "labels": {"team": "a"}});
        json!({"apiVersion": "kubernetes.dask.org/v1", "kind": kind, "metadata": metadata, "spec": spec})
    };
    let mut odd = spec.clone();
    odd["idleTimeout"] = json!(60);
    odd["worker"]["spec"]["containers"][0].as_object_mut().unwrap().remove("image");
    vec![
        dask("DaskCluster", "plain", spec.clone()),
        dask("DaskCluster", "odd", odd),
        dask("DaskAutoscaler", "plain", json!({"cluster": "plain", "minimum": 1, "maximum": 4})),
        dask("DaskWorkerGroup", "orphan", json!({"cluster": "nobody", "worker": {"replicas": 1, "spec": pod}})),
        dask("DaskJob", "job", json!({"job": {"spec": pod}, "cluster": {"spec": spec}})),
    ]
}

#[test]
fn values_that_are_written_down_and_read_again_lead_to_the_same() {
    let mut worlds = [World::new(false), World::new(true)];
    for step in 0..5 {
        let [direct, replayed] = worlds.each_mut().map(|world| {
            match step {
                0 => world.create(&objects()),
                1 => world.edit("DaskCluster", "plain", |cluster| cluster["spec"]["worker"]["replicas"] = json!(1)),
                2 => world.edit("DaskCluster", "plain", |cluster| {
                    cluster["spec"]["scheduler"]["spec"]["containers"][0]["image"] = json!("other");
                }),
                3 => world.edit("Deployment", "plain-scheduler", |deployment| {
                    deployment["metadata"]["ownerReferences"] = json!([]);
                    deployment["spec"]["replicas"] = json!(0);
                }),
                _ => world.states.clear(),
            }
            world.settle()
        });
        assert!(direct.1.len() > 5);
        assert_eq!(direct, replayed, "after step {step}");
    }
}
