use std::sync::atomic::{AtomicU32, Ordering};

use dask_wasm_operator_cluster::events::EventLevel;
use dask_wasm_operator_core::{
    memory::{MemoryCluster, built_in_resources},
    object::{GroupVersionKind, Object, Resource},
};

use super::*;

/// A cluster in memory of which the first looks go wrong.
struct Faulty {
    cluster: MemoryCluster,
    panics: AtomicU32,
    looked: Notify,
}

impl Observed for Faulty {
    fn get(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Option<Arc<Object>> {
        let is_left = |panics: u32| panics.checked_sub(1);
        let is_broken = self.panics.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_left).is_ok();
        assert!(!is_broken, "a fault of ours");
        self.looked.notify_one();
        self.cluster.get(kind, at)
    }

    fn controlled_by(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.cluster.controlled_by(kind, uid)
    }

    fn departed(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.cluster.departed(kind, uid)
    }

    fn resource(&self, kind: &GroupVersionKind) -> Option<Resource> {
        self.cluster.resource(kind)
    }

    fn has_status(&self, kind: &GroupVersionKind) -> bool {
        self.cluster.has_status(kind)
    }
}

fn controller(observed: &Arc<Faulty>) -> Arc<Controller> {
    let nowhere = "http://127.0.0.1:1".parse().unwrap();
    let client = kube::Client::try_from(kube::Config::new(nowhere)).unwrap();
    let memory = || Arc::new(MemoryCluster::new(built_in_resources(), "2026-11-22T18:30:00Z"));
    Arc::new(Controller::new(Surroundings {
        index: Arc::new(Index::new(|_| {})),
        observed: Arc::clone(observed) as Arc<dyn Observed>,
        writes: memory(),
        schedulers: memory(),
        gate: Gate::open(),
        environment: Environment::default(),
        metrics: Arc::new(Metrics::new()),
        events: Events::start(client, Gate::open(), "test".to_owned(), EventLevel::Nothing),
    }))
}

#[tokio::test]
async fn a_pass_that_breaks_off_is_tried_again_and_its_place_is_free() {
    let cluster = MemoryCluster::new(built_in_resources(), "2026-11-22T18:30:00Z");
    let observed = Arc::new(Faulty { cluster, panics: AtomicU32::new(2), looked: Notify::new() });
    let controller = controller(&observed);
    let work = Work::Reconcile(Reconciler::Autoscaler);
    let at = NamespacedName::new("ns1", "simple");
    controller.lock().queue.wake(work.clone(), at.clone());

    let (_changes_tx, changes_rx) = mpsc::unbounded_channel();
    let running = tokio::spawn(Arc::clone(&controller).run(changes_rx, Shutdown::never()));
    observed.looked.notified().await;
    while !controller.lock().queue.is_idle() {
        tokio::task::yield_now().await;
    }
    assert_eq!(observed.panics.load(Ordering::Relaxed), 0);
    let inner = controller.lock();
    assert!(inner.running.is_empty());
    drop(inner);
    running.abort();
}

#[test]
fn what_wakes_a_subject_before_its_time_does_not_change_its_appointment() {
    let mut inner = Inner::default();
    let key = (Work::Reconcile(Reconciler::Cluster), NamespacedName::new("ns1", "simple"));
    inner.requeues.insert(key.clone(), 100);
    assert!(!inner.take_requeue(&key, 99));
    assert!(inner.take_requeue(&key, 100));
    assert!(!inner.take_requeue(&key, 101), "it is kept once");
}
