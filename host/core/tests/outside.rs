//! What is read back from the API server is outside data, whoever is believed to have written it: annotations, statuses,
//! numbers, times. The belief that is attacked: that what stands where we write was written by us.
#![expect(clippy::panic, clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

use std::collections::BTreeMap;

use dask_wasm_operator_core::{
    contract::EventNote,
    dask::{Environment, Handler, Pipeline, Reconciler, cluster_in_memory},
    memory::{MemoryCluster, built_in_resources},
    native::Native as _,
    object::{NamespacedName, Object, ObjectKey},
    pipeline::SubjectState,
    scheduler::{Left, SchedulerCall, SchedulerError, SchedulerReply, SchedulerWorker},
    time::rfc3339,
    wanted::Problem,
};
use dask_wasm_operator_test_properties::cases;
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

const BEGIN: u64 = 1_795_372_200_000;
const SECOND: u64 = 1_000;

const ORDINALS: &str = "operator.dask.org/worker-ordinals";

/// Annotations that are read back.
const ANNOTATIONS: [&str; 10] = [
    ORDINALS,
    "operator.dask.org/template-hash",
    "operator.dask.org/copied-replicas",
    "operator.dask.org/paused",
    "operator.dask.org/taken-over-at",
    "operator.dask.org/failed-attempts",
    "operator.dask.org/runner-failed-at",
    "operator.dask.org/active-since",
    "kubernetes.dask.org/cooldown-until",
    "kopf.zalando.org/last-handled-configuration",
];

struct World {
    cluster: MemoryCluster,
    states: BTreeMap<(Reconciler, NamespacedName), SubjectState>,
    environment: Environment,
    now: u64,
    reply: Result<SchedulerReply, SchedulerError>,
    events: Vec<EventNote>,
    problems: Vec<Problem>,
}

/// Polls a future that never waits: the cluster in memory answers at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the cluster in memory made somebody wait"),
    }
}

fn cluster(name: &str) -> Value {
    json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster", "metadata": {"name": name, "namespace": "ns1"},
        "spec": {
            "idleTimeout": 60,
            "scheduler": {
                "spec": {"containers": [{"name": "scheduler", "image": "dask"}]},
                "service": {"ports": [{"name": "tcp-comm", "port": 8786}]},
            },
            "worker": {"replicas": 3, "spec": {"containers": [{"name": "worker", "image": "dask"}]}},
        },
    })
}

fn objects() -> [Value; 3] {
    let autoscaler = json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskAutoscaler", "metadata": {"name": "a", "namespace": "ns1"},
        "spec": {"cluster": "a", "minimum": 3, "maximum": 5},
    });
    let job = json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskJob", "metadata": {"name": "j", "namespace": "ns1"},
        "spec": {
            "backoffLimit": 3, "activeDeadlineSeconds": 600, "ttlSecondsAfterFinished": 60,
            "job": {"spec": {"containers": [{"name": "job", "image": "dask"}]}},
            "cluster": {"spec": cluster("j")["spec"]},
        },
    });
    [cluster("a"), autoscaler, job]
}

impl World {
    fn new() -> Self {
        let cluster = cluster_in_memory(built_in_resources(), &rfc3339(BEGIN));
        for object in objects() {
            cluster.create(object).unwrap();
        }
        let mut world = Self {
            cluster,
            states: BTreeMap::new(),
            environment: Environment::default(),
            now: BEGIN,
            reply: Err(SchedulerError::Unreachable("refused".to_owned())),
            events: Vec::new(),
            problems: Vec::new(),
        };
        (0..6).for_each(|_| world.round());
        world
    }

    /// A reconcile of everybody over every subject, with its status.
    fn round(&mut self) {
        self.problems.clear();
        for reconciler in Reconciler::ALL {
            for object in self.cluster.objects().iter().filter(|object| object.kind.same_kind(&reconciler.subject())) {
                let pipeline = Pipeline::new(&self.cluster, &self.cluster, &self.environment);
                let state = self.states.entry((reconciler, object.at())).or_default();
                let report = now(pipeline.reconcile(&Handler::Native(reconciler), &object.at(), state, self.now));
                for (_, call) in &report.calls {
                    state.heard(call, self.reply.clone(), self.now);
                }
                self.events.extend(report.events);
                self.problems.extend(report.findings.problems);
                let _ = now(pipeline.publish(reconciler, &object.at(), state.found().as_ref(), self.now));
            }
        }
    }

    fn restart(&mut self) {
        self.states.clear();
    }

    fn object(&self, kind: &str, name: &str) -> Value {
        let objects = self.cluster.objects();
        let is_it = |object: &&std::sync::Arc<Object>| object.kind.kind == kind && object.metadata.name == name;
        objects.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}")).to_value()
    }

    fn key(&self, kind: &str, name: &str) -> ObjectKey {
        let objects = self.cluster.objects();
        objects.iter().find(|object| object.kind.kind == kind && object.metadata.name == name).unwrap().key()
    }

    fn annotate(&self, kind: &str, name: &str, annotation: &str, text: &str) {
        self.cluster.edit(&self.key(kind, name), |object| object["metadata"]["annotations"][annotation] = json!(text));
    }

    fn annotation(&self, kind: &str, name: &str, annotation: &str) -> String {
        self.object(kind, name)["metadata"]["annotations"][annotation].as_str().unwrap_or_default().to_owned()
    }

    fn workers(&self, group: &str) -> Vec<String> {
        let prefix = format!("{group}-worker-");
        let names = self.cluster.objects().into_iter().map(|object| object.metadata.name.clone());
        names.filter(|name| name.starts_with(&prefix)).collect()
    }

    fn told(&self, reason: &str) -> bool {
        self.problems.iter().any(|problem| problem.reason == reason)
    }
}

#[test]
fn a_record_of_workers_that_was_not_written_by_us_is_told_and_made_anew_and_the_workers_stay() {
    let ranges: Vec<_> = (0..100_u64).map(|n| format!("{}-{}", n * 100_001, n * 100_001 + 99_999)).collect();
    for text in [
        r#"{"next":4294967295,"workers":""}"#,
        r#"{"next":1073741824,"workers":"0-1073741823"}"#,
        &format!(r#"{{"next":20000000,"workers":"{}"}}"#, ranges.join(",")),
        &"[".repeat(100_000),
        "",
    ] {
        let mut world = World::new();
        let (workers, record) =
            (world.workers("a-default"), world.annotation("DaskWorkerGroup", "a-default", ORDINALS));
        assert_eq!(workers.len(), 3);
        world.events.clear();
        world.annotate("DaskWorkerGroup", "a-default", ORDINALS, text);
        (0..3).for_each(|_| world.round());
        assert_eq!(world.workers("a-default"), workers);
        assert_eq!(world.annotation("DaskWorkerGroup", "a-default", ORDINALS), record);
        let lost: Vec<_> = world.events.iter().filter(|event| event.reason == "RecordLost").collect();
        let [event] = &lost[..] else { panic!("{:?}", world.events) };
        assert!(event.message.contains("DaskWorkerGroup a-default") && event.message.contains(ORDINALS), "{event:?}");
    }
}

#[test]
fn no_number_in_a_spec_makes_more_workers_than_are_served() {
    for replicas in [json!(2_147_483_647_u32), json!(u64::MAX), json!(-1), json!(1e300), json!("x")] {
        let mut world = World::new();
        let workers = world.workers("a-default");
        let key = world.key("DaskWorkerGroup", "a-default");
        world.cluster.edit(&key, |group| group["spec"]["worker"]["replicas"] = replicas.clone());
        world.round();
        assert_eq!(world.workers("a-default"), workers, "{replicas}");
        assert!(world.told("InvalidSpec"), "{replicas}: {:?}", world.problems);
    }
    let mut world = World::new();
    let key = world.key("DaskCluster", "a");
    world.cluster.edit(&key, |cluster| {
        cluster["spec"]["updateStrategy"] =
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": u32::MAX, "maxUnavailable": "4294967295%"}});
        cluster["spec"]["worker"]["spec"]["containers"][0]["image"] = json!("newer");
    });
    (0..4).for_each(|_| world.round());
    assert!(world.workers("a-default").len() <= 6);
}

#[test]
fn an_annotation_that_cannot_be_meant_is_told_and_counts_for_nothing() {
    let mut world = World::new();
    world.annotate("DaskCluster", "a", "operator.dask.org/taken-over-at", "9999-01-01T00:00:00Z");
    world.annotate("DaskAutoscaler", "a", "kubernetes.dask.org/cooldown-until", "1e18");
    world.annotate("DaskCluster", "j", "operator.dask.org/paused", "True");
    let key = world.key("DaskWorkerGroup", "a-default");
    world.cluster.edit(&key, |group| group["spec"]["worker"]["replicas"] = json!(5));
    world.round();
    assert_eq!(world.workers("a-default").len(), 5, "the cluster is not held up");
    let told: Vec<_> = world.problems.iter().filter(|problem| problem.reason == "InvalidAnnotation").collect();
    for (object, annotation) in
        [("DaskCluster a", "taken-over-at"), ("DaskAutoscaler a", "cooldown-until"), ("DaskCluster j", "paused")]
    {
        assert!(
            told.iter().any(|problem| problem.message.starts_with(object) && problem.message.contains(annotation)),
            "{object} {annotation}: {told:?}"
        );
    }
    assert_eq!(told.len(), 3, "once each");
}

#[test]
fn a_job_does_not_wait_for_times_that_are_yet_to_come() {
    let mut world = World::new();
    let far = "9999-01-01T00:00:00Z";
    world.annotate("DaskJob", "j", "operator.dask.org/active-since", far);
    world.round();
    assert_eq!(world.annotation("DaskJob", "j", "operator.dask.org/active-since"), rfc3339(world.now));
    // Its deadline is that of the specification, from now on.
    world.now += 601 * SECOND;
    (0..3).for_each(|_| world.round());
    assert_eq!(world.object("DaskJob", "j")["status"]["jobStatus"], "Failed");
    let key = world.key("DaskJob", "j");
    world.cluster.edit(&key, |job| job["status"]["endTime"] = json!(far));
    world.restart();
    (0..2).for_each(|_| world.round());
    assert_eq!(world.object("DaskJob", "j")["status"]["endTime"], rfc3339(world.now));
    world.now += 61 * SECOND;
    world.round();
    assert!(world.cluster.objects().iter().all(|object| object.kind.kind != "DaskJob"), "it has had its time");
}

#[test]
fn an_autoscaler_does_not_wait_for_the_end_of_a_change_that_is_yet_to_come() {
    let mut world = World::new();
    world.reply = Ok(SchedulerReply::AdaptiveTarget(5));
    let key = world.key("DaskAutoscaler", "a");
    world.cluster.edit(&key, |autoscaler| autoscaler["status"]["lastScaleTime"] = json!("9999-01-01T00:00:00Z"));
    world.restart();
    for _ in 0..10 {
        world.now += 5 * SECOND;
        world.round();
    }
    assert_eq!(world.workers("a-default").len(), 5);
    assert_ne!(world.object("DaskAutoscaler", "a")["status"]["lastScaleTime"], "9999-01-01T00:00:00Z");
}

/// JSON of any form, with the names that are looked for.
fn anything() -> impl Strategy<Value = Value> {
    const NAMES: [&str; 24] = [
        "conditions",
        "type",
        "status",
        "reason",
        "message",
        "lastTransitionTime",
        "phase",
        "readyReplicas",
        "availableReplicas",
        "outdatedReplicas",
        "currentReplicas",
        "desiredReplicas",
        "lastScaleTime",
        "idleSince",
        "jobStatus",
        "startTime",
        "endTime",
        "next",
        "workers",
        "adopted",
        "retiring",
        "observedGeneration",
        "spec",
        "replicas",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((prop::sample::select(&NAMES[..]), inner), 0..8)
                .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "(?s).{0,40}",
        any::<u64>().prop_map(|number| number.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| number.to_string()),
        (0..300_000_000_000_u64).prop_map(|seconds| rfc3339(seconds.saturating_mul(1_000))),
        (any::<u32>(), any::<u32>(), any::<u32>())
            .prop_map(|(next, first, last)| format!(r#"{{"next":{next},"workers":"{first}-{last},{next}"}}"#)),
        prop::sample::select(vec![
            "",
            "true",
            "{}",
            "null",
            "inf",
            "NaN",
            "Running",
            "Failed",
            "Successful",
            "True",
            "Degraded"
        ])
        .prop_map(str::to_owned),
        (1..3_000_usize).prop_map(|depth| "[".repeat(depth) + &"]".repeat(depth)),
        (1..3_000_usize).prop_map(|length| "0,".repeat(length)),
    ]
}

fn reply() -> impl Strategy<Value = Result<SchedulerReply, SchedulerError>> {
    let worker = (text(), text(), any::<usize>(), any::<bool>()).prop_map(|(name, address, place, begun)| {
        SchedulerWorker { name, address, place, retiring: begun.then_some(Left::Tasks { begun }) }
    });
    prop_oneof![
        vec(worker, 0..8).prop_map(|workers| Ok(SchedulerReply::Workers(workers))),
        any::<u64>().prop_map(|target| Ok(SchedulerReply::AdaptiveTarget(target))),
        any::<Option<u64>>().prop_map(|since| Ok(SchedulerReply::IdleSince(since))),
        vec(text(), 0..8).prop_map(|addresses| Ok(SchedulerReply::Retired(addresses))),
        text().prop_map(|text| Err(SchedulerError::Unreachable(text))),
    ]
}

/// Any time, and those about which clocks differ.
fn time() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        any::<u64>(),
        (0..10_000_000_u64).prop_map(|offset| BEGIN - 5_000_000 + offset)
    ]
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn whatever_is_read_back_reconciles_end_and_make_no_more_than_was_asked_for(
        annotations in vec((any::<prop::sample::Index>(), prop::sample::select(&ANNOTATIONS[..]), text()), 0..6),
        statuses in vec((any::<prop::sample::Index>(), anything()), 0..4),
        times in vec(time(), 1..5),
        reply in reply(),
        restarts in any::<bool>(),
    ) {
        let mut world = World::new();
        world.reply = reply;
        let objects = world.cluster.objects();
        for (index, annotation, text) in annotations {
            world.cluster.edit(&index.get(&objects).key(), |object| object["metadata"]["annotations"][annotation] = json!(text));
        }
        for (index, status) in statuses {
            world.cluster.edit(&index.get(&objects).key(), |object| object["status"] = status);
        }
        if restarts {
            world.restart();
        }
        for time in times {
            world.now = time;
            world.round();
            let deployments = world.cluster.objects().iter().filter(|object| object.kind.kind == "Deployment").count();
            prop_assert!(deployments <= 2 + 5 + 3, "{} Deployments", deployments);
        }
    }

    #[test]
    fn whatever_is_asked_of_a_scheduler_again_is_bounded(call in reply(), times in vec(time(), 1..6)) {
        let mut world = World::new();
        for time in times {
            world.now = time;
            for state in world.states.values_mut() {
                state.heard(&SchedulerCall::Workers, call.clone(), time);
            }
            world.round();
        }
    }
}
