mod filtered;
mod related;
mod renamed;

use std::{
    future::{poll_fn, ready},
    pin::pin,
    sync::atomic::{AtomicU32, Ordering},
};

use dask_wasm_operator_cluster::{events::EventLevel, index::Scope};
use dask_wasm_operator_core::{
    contract::{Call, HandlerDeclaration, KindReference, Outcome, Permissions, Subscription, TriggerRequest},
    dask::cluster_in_memory,
    identity::Identity,
    memory::{MemoryCluster, built_in_resources},
    object::{GroupVersionKind, Object, Resource},
    pipeline::MountedHandler,
    plugin::Rights,
    ports::{CallReport, Guest, Pending},
    scheduler::{Scheduler, SchedulerCall, SchedulerError, SchedulerReply, ServicePort},
    spec::{Grants, Limits},
    time::rfc3339,
};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, yield_now},
};

use super::{schedule::TICK, *};

const PATIENCE: Duration = Duration::from_secs(10);

/// Long enough for a loop without rest to be seen.
const A_WHILE: Duration = Duration::from_millis(100);

fn cluster() -> MemoryCluster {
    cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z")
}

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

/// A controller that can reach nobody.
fn controller(observed: Arc<dyn Observed>, gate: Gate) -> Arc<Controller> {
    let cluster = Arc::new(cluster());
    let schedulers = Arc::clone(&cluster) as Arc<dyn Schedulers>;
    controller_of(observed, cluster, schedulers, gate, "127.0.0.1:1")
}

/// A controller whose Events go to this address.
fn controller_of(
    observed: Arc<dyn Observed>,
    writes: Arc<dyn Writes>,
    schedulers: Arc<dyn Schedulers>,
    gate: Gate,
    address: &str,
) -> Arc<Controller> {
    let client = Client::try_from(Config::new(format!("http://{address}").parse().unwrap())).unwrap();
    let metrics = Arc::new(Metrics::new());

    let index = Arc::new(Index::new(|_| {}));
    Arc::new(Controller::new(Surroundings {
        watches: Watches::new(client.clone(), Arc::clone(&index)),
        index,
        observed,
        writes,
        schedulers,
        events: Events::start(client, gate.clone(), String::new(), EventLevel::All),
        gate,
        environment: Environment::default(),
        stalls: Arc::new(Stalls::new(Arc::clone(&metrics))),
        metrics,
    }))
}

/// Whether nothing is ready or being worked on.
fn is_idle(controller: &Controller) -> bool {
    let inner = controller.lock();
    inner.queue.depth() == 0 && inner.running.is_empty()
}

#[tokio::test]
async fn a_reconcile_that_breaks_off_is_tried_again_and_its_place_is_free() {
    let observed = Arc::new(Faulty { cluster: cluster(), panics: AtomicU32::new(2), looked: Notify::new() });
    let controller = controller(Arc::clone(&observed) as Arc<dyn Observed>, Gate::open());
    let work = Work::Reconcile(Reconciler::Autoscaler);
    let at = NamespacedName::new("ns1", "simple");
    controller.lock().queue.wake(work.clone(), at.clone(), 0);

    let (_changes_tx, changes_rx) = mpsc::unbounded_channel();
    let running = tokio::spawn(Arc::clone(&controller).run(changes_rx, Shutdown::never()));
    observed.looked.notified().await;
    while !is_idle(&controller) {
        yield_now().await;
    }
    assert_eq!(observed.panics.load(Ordering::Relaxed), 0);
    let inner = controller.lock();
    assert!(inner.running.is_empty());
    drop(inner);
    running.abort();
}

/// The belief that is attacked: that no more reconciles end between two turns than a turn takes notice of. Each that has
/// ended held 6 KB, 1.5 GB after 240,000 of them.
#[tokio::test]
async fn passes_that_have_ended_hold_no_memory_however_many_end_between_two_turns() {
    let controller = controller(Arc::new(cluster()), Gate::open());
    let mut reconciles = JoinSet::new();
    let ends: Vec<_> = (0..100).map(|_| reconciles.spawn(ready(()))).collect();
    while !ends.iter().all(AbortHandle::is_finished) {
        yield_now().await;
    }
    controller.dispatch(&mut reconciles);
    assert!(reconciles.is_empty(), "{} of 100 are still held", reconciles.len());
}

#[test]
fn what_wakes_a_subject_before_its_time_does_not_change_its_appointment() {
    let mut queue = Queue::<Work, NamespacedName>::default();
    let (work, at) = (Work::Reconcile(Reconciler::Cluster), NamespacedName::new("ns1", "simple"));
    queue.appoint(work.clone(), at.clone(), Slot::Requeue, 100);
    queue.wake(work.clone(), at.clone(), 50);
    let mut due = |now| {
        let due = queue.next(now, |_| 1).map(|next| next.due);
        queue.done(work.clone(), at.clone(), now);
        due
    };
    assert_eq!([due(50), due(99), due(100), due(101)], [Some(vec![]), None, Some(vec![Slot::Requeue]), None]);
}

/// The belief that is attacked: that nothing changes while a call is under way. What it was told then was forgotten at its end.
#[tokio::test]
async fn a_change_during_a_call_that_fails_is_followed_by_another_call() {
    let controller = controller(Arc::new(cluster()), Gate::open());
    let name = HandlerName { plugin: "p".to_owned(), handler: "h".to_owned() };
    let key = (Work::Call(Arc::new(name)), NamespacedName::new("ns1", "subject"));
    let kind = GroupVersionKind::new("", "v1", "ResourceQuota");
    let quota = ObjectKey { kind, at: NamespacedName::new("ns1", "full") };
    let mut inner = controller.lock();
    let problems = [Problem::passing("Forbidden", "exceeded quota").until(quota.clone())];
    inner.waiting.note(&key.0, &key.1, &problems);
    controller.remind(&mut inner, &quota);
    let call = CallReport { result: Ok(Outcome::default()), log: Vec::new(), log_dropped: 0, duration: PATIENCE };
    let retry = Some(Retry::Parked(Duration::from_secs(60)));
    let report = Report { retry, call: Some(call), alive: true, ..Report::default() };
    controller.schedule(&mut inner, &key.0, &key.1, &report);

    let next = inner.queue.next(controller.millis(), |_| 1).expect("it is not tried before a minute has passed");
    assert_eq!(next.due, [Slot::Reminder]);
    let mut state = SubjectState::default();
    assert!(inner.take_reminder(&key, &mut state) && !inner.take_reminder(&key, &mut state));
}

#[tokio::test]
async fn without_the_lease_it_rests_whatever_is_due_and_begins_as_soon_as_it_is_held() {
    let (until, gate) = watch::channel(None);
    let controller = controller(Arc::new(cluster()), Gate::held_until(gate));
    let work = Work::Reconcile(Reconciler::Cluster);
    controller.lock().queue.wake(work.clone(), NamespacedName::new("n", "woken"), 0);
    controller.lock().queue.wake_by(work, NamespacedName::new("n", "due"), 0);

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
        while !is_idle(&controller) || controller.lock().queue.next_due().is_some() {
            yield_now().await;
        }
    };
    tokio::select! {
        () = running => unreachable!("it was not told to stop"),
        done = timeout(PATIENCE, done) => done.expect("what waited is done when the Lease is held"),
    }
}

/// A scheduler that has been idle since a time, in milliseconds since the Unix epoch.
struct Idle(u64);

impl Schedulers for Idle {
    fn call(&self, _: Scheduler, _: SchedulerCall) -> Pending<'_, Result<SchedulerReply, SchedulerError>> {
        Box::pin(ready(Ok(SchedulerReply::IdleSince(Some(self.0)))))
    }
}

#[tokio::test]
async fn a_deletion_waits_for_the_event_that_announces_it() {
    let since = now() - 60_000;
    let cluster = Arc::new(cluster_in_memory(built_in_resources(), &rfc3339(since)));
    let owner = cluster.create(json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster",
        "metadata": {"name": "a", "namespace": "ns1"},
        "spec": {"idleTimeout": 1, "scheduler": {}, "worker": {}},
        "status": {"idleSince": rfc3339(since)},
    }));
    let owner = owner.expect("it is valid");
    let subject = cluster.get(&owner.kind, &owner.at).unwrap();
    let child = |api_version: &str, kind: &str, spec: Value, status: Value| {
        cluster.create(json!({
            "apiVersion": api_version, "kind": kind, "spec": spec, "status": status,
            "metadata": {"name": "a-scheduler", "namespace": "ns1", "ownerReferences": [subject.as_owner()]},
        }))
    };
    child("apps/v1", "Deployment", json!({}), json!({"availableReplicas": 1})).unwrap();
    child("v1", "Service", json!({"ports": [{"name": "tcp-comm", "port": 8786}]}), json!({})).unwrap();
    let server = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = server.local_addr().unwrap().to_string();
    let controller = controller_of(
        Arc::clone(&cluster) as Arc<dyn Observed>,
        Arc::clone(&cluster) as Arc<dyn Writes>,
        Arc::new(Idle(since)),
        Gate::open(),
        &address,
    );
    controller.lock().queue.wake(Work::Reconcile(Reconciler::IdleShutdown), owner.at.clone(), 0);
    let (_changes, receiver) = mpsc::unbounded_channel();
    let running = tokio::spawn(Arc::clone(&controller).run(receiver, Shutdown::never()));

    let (connection, _) = timeout(PATIENCE, server.accept()).await.expect("it is announced").unwrap();
    let deleted = async || {
        while cluster.get(&owner.kind, &owner.at).is_some() {
            yield_now().await;
        }
    };
    timeout(A_WHILE, deleted()).await.expect_err("the Event is on its way, and the cluster is still there");
    drop((connection, server));
    timeout(PATIENCE, deleted()).await.expect("what can't be announced is deleted all the same");
    running.abort();
}

/// A guest that wants nothing, and counts how often it is asked.
#[derive(Default)]
struct Content(AtomicU32);

impl Guest for Content {
    fn call(&self, _: Call) -> Pending<'_, CallReport> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let result = Ok(Outcome::default());
        Box::pin(ready(CallReport { result, log: Vec::new(), log_dropped: 0, duration: Duration::ZERO }))
    }
}

/// A handler of Services in one namespace.
fn of_services(namespace: &str, guest: &Arc<Content>) -> Arc<MountedHandler> {
    let kind = KindReference { group: None, version: None, name: "Service".to_owned() };
    let subscription = Subscription {
        kind,
        namespaces: vec![namespace.to_owned()],
        labels: None,
        annotations: Vec::new(),
        fields: Vec::new(),
        expression: None,
    };
    let declaration = HandlerDeclaration {
        name: "h".to_owned(),
        subscription,
        triggers: vec![TriggerRequest::Observed],
        projection: None,
        related: Vec::new(),
    };
    let subject = built_in_resources().into_iter().find(|resource| resource.kind.kind == "Service").unwrap();
    let nothing = |_: &KindReference| Err("nothing is asked for".to_owned());
    Arc::new(MountedHandler {
        name: HandlerName { plugin: "p".to_owned(), handler: "h".to_owned() },
        mounted: dask_wasm_operator_core::plugin::Mounted::new(&declaration, &[]).unwrap(),
        declaration,
        subject,
        rights: Rights::new(&Permissions::default(), &Grants::default(), Limits::default(), &nothing),
        children: vec![GroupVersionKind::new("", "v1", "ConfigMap")],
        projection: None,
        config: "null".to_owned(),
        code: 1,
        takes_conflicts: false,
        identity: Identity::Operator,
        guest: Arc::clone(guest) as Arc<dyn Guest>,
    })
}

#[tokio::test]
async fn what_a_handler_is_not_about_is_neither_queued_nor_remembered() {
    let cluster = Arc::new(cluster());
    let controller = controller(Arc::clone(&cluster) as Arc<dyn Observed>, Gate::open());
    let service = |namespace: &str, number: u32| {
        let created = cluster.create(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": format!("s{number}")},
        }));
        (*cluster.get(&created.as_ref().unwrap().kind, &created.as_ref().unwrap().at).unwrap()).clone()
    };
    let services: Vec<_> = (0..50).flat_map(|number| [service("ours", number), service("theirs", number)]).collect();
    let theirs = Arc::new(services[1].clone());
    let index = &controller.surroundings.index;
    let watch = index.add_watch(&theirs.kind, Scope::default());
    index.relisted(watch, 1_000, services);

    let guest = Arc::new(Content::default());
    controller.mount("p", &[of_services("ours", &guest)]);
    assert!(controller.lock().queue.depth() <= work::PLUGIN_AT_ONCE, "the others wait in the index");
    let (changes, receiver) = mpsc::unbounded_channel();
    let running = tokio::spawn(Arc::clone(&controller).run(receiver, Shutdown::never()));
    let calls = || guest.0.load(Ordering::Relaxed);
    let served = async || {
        while calls() < 50 || !is_idle(&controller) {
            yield_now().await;
        }
    };
    timeout(PATIENCE, served()).await.expect("all of its own are served");
    assert_eq!(controller.figures_of("p").0.subjects, 50);

    // Mounted elsewhere, it lets go of what it had, and is called for the others.
    controller.mount("p", &[of_services("theirs", &guest)]);
    let moved = async || {
        while calls() < 100 || controller.figures_of("p").0.subjects != 50 || !is_idle(&controller) {
            yield_now().await;
        }
    };
    timeout(PATIENCE, moved()).await.expect("those of the other namespace are served");
    let work = Work::Call(Arc::new(HandlerName { plugin: "p".to_owned(), handler: "h".to_owned() }));
    assert!(!controller.lock().states.has(&work, &NamespacedName::new("ours", "s0")), "it is let go");
    controller.mount("p", &[of_services("ours", &guest)]);
    controller.mount("p", &[]);
    assert_eq!(controller.figures_of("p").0.subjects, 0, "nothing is left of a plugin that is gone");
    let kind = Arc::clone(&theirs.kind);
    changes.send(Change { kind, old: None, new: Some(theirs), own_write: false }).unwrap();
    timeout(PATIENCE, async {
        while !is_idle(&controller) {
            yield_now().await;
        }
    })
    .await
    .expect("nobody is called for it");
    running.abort();
}

/// Schedulers whose answers nobody can bear.
struct Unbearable;

impl Schedulers for Unbearable {
    fn call(&self, _: Scheduler, _: SchedulerCall) -> Pending<'_, Result<SchedulerReply, SchedulerError>> {
        Box::pin(async { unreachable!("a fault of ours") })
    }
}

#[tokio::test]
async fn a_call_that_breaks_off_has_ended() {
    let cluster = Arc::new(cluster());
    let writes = Arc::clone(&cluster) as Arc<dyn Writes>;
    let controller = controller_of(cluster, writes, Arc::new(Unbearable), Gate::open(), "127.0.0.1:1");
    let (work, at) = (Work::Reconcile(Reconciler::IdleShutdown), NamespacedName::new("ns1", "a"));
    let scheduler = Scheduler {
        cluster: at.clone(),
        service: "a-scheduler".to_owned(),
        comm_port: ServicePort::straight(8786),
        dashboard_port: None,
        tls_secret: None,
    };
    let (mut state, call) = (SubjectState::default(), SchedulerCall::IdleSince);
    let calls = vec![(scheduler, call.clone())];
    controller.call_schedulers(&mut controller.lock(), &work, &at, &state, calls);

    timeout(PATIENCE, controller.woken.notified()).await.expect("its subject is woken");
    controller.lock().calls.take_note(&(work, at), &mut state);
    assert!(state.was_called_in_vain(&call));
}

#[tokio::test]
async fn what_is_due_later_is_due_at_a_tick_and_never_early() {
    let controller = controller(Arc::new(cluster()), Gate::open());
    let tick = u64::try_from(TICK.as_millis()).unwrap();
    for delay in [1_000, 1_001, 60_000] {
        let earliest = controller.millis() + delay;
        let due = controller.millis_after(Duration::from_millis(delay));
        assert!(due >= earliest && due.is_multiple_of(tick), "{delay}: {due}");
    }
    let (before, due, after) = (controller.millis(), controller.millis_after(STATUS_WINDOW), controller.millis());
    assert!((before..=after).contains(&(due - 250)), "a short wait is as long as it was asked for");
}
