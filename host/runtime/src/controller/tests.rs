//! The controller's loop while the Lease is not held, and when it is.

use std::{future::poll_fn, pin::pin};

use dask_wasm_operator_cluster::events::EventLevel;
use dask_wasm_operator_core::memory::MemoryCluster;
use kube::{Client, Config};
use tokio::{sync::watch, task::yield_now, time::timeout};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// Long enough for a loop without rest to be seen.
const A_WHILE: Duration = Duration::from_millis(100);

/// A controller of an empty cluster that nobody can be reached in.
fn controller(gate: Gate) -> Arc<Controller> {
    let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    let cluster = Arc::new(MemoryCluster::new(Vec::new(), "2026-01-01T00:00:00Z"));
    Arc::new(Controller::new(Surroundings {
        index: Arc::new(Index::new(|_| {})),
        observed: Arc::clone(&cluster) as Arc<dyn Observed>,
        writes: Arc::clone(&cluster) as Arc<dyn Writes>,
        schedulers: cluster,
        events: Events::start(client, gate.clone(), String::new(), EventLevel::Nothing),
        gate,
        environment: Environment::default(),
        metrics: Arc::new(Metrics::new()),
    }))
}

#[tokio::test]
async fn without_the_lease_it_rests_whatever_is_due_and_begins_as_soon_as_it_is_held() {
    let (until, gate) = watch::channel(None);
    let controller = controller(Gate::held_until(gate));
    let work = Work::Reconcile(Reconciler::Cluster);
    controller.lock().queue.wake(work.clone(), NamespacedName::new("n", "woken"));
    controller.lock().queue.wake_at(work, NamespacedName::new("n", "due"), 0);

    let (_changes, receiver) = mpsc::unbounded_channel();
    let mut running = pin!(Arc::clone(&controller).run(receiver, Shutdown::never()));
    let mut polls = 0;
    let counted = poll_fn(|context| {
        polls += 1;
        running.as_mut().poll(context)
    });
    timeout(A_WHILE, counted).await.expect_err("it runs until it is told to stop");
    assert!(polls < 5, "it looked {polls} times although nothing happened");
    assert_eq!(controller.lock().queue.depth(), 1, "nothing was begun");

    until.send_replace(Some(Instant::now() + PATIENCE));
    let done = async {
        while !controller.lock().queue.is_idle() || controller.lock().queue.next_due().is_some() {
            yield_now().await;
        }
    };
    tokio::select! {
        () = running => unreachable!("it was not told to stop"),
        done = timeout(PATIENCE, done) => done.expect("what waited is done when the Lease is held"),
    }
}
