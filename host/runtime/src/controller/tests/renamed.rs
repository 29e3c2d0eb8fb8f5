//! Handlers that a plugin has no more, because they were renamed or removed.

use dask_wasm_operator_core::{
    contract::{Call, Failure, HandlerDeclaration, KindReference, Permissions, Subscription, TriggerRequest},
    identity::Identity,
    plugin::{Mounted, Rights},
    ports::{CallError, CallReport, Guest},
    spec::{Grants, Limits, PluginCounts},
};
use tokio::sync::Semaphore;

use super::*;

/// A guest that gives up on everything, as often as it may.
struct GivesUp {
    called: Notify,
    may: Semaphore,
}

impl Guest for GivesUp {
    fn call(&self, _: Call) -> Pending<'_, CallReport> {
        Box::pin(async {
            self.called.notify_one();
            self.may.acquire().await.expect("it is not closed").forget();
            let result = Err(CallError::Handler(Failure::Permanent { message: "no".to_owned() }));
            CallReport { result, log: Vec::new(), log_dropped: 0, duration: Duration::ZERO }
        })
    }
}

fn handler(name: &str, guest: &Arc<GivesUp>) -> Arc<MountedHandler> {
    let kind = KindReference { group: Some(String::new()), version: None, name: "ConfigMap".to_owned() };
    let subscription = Subscription {
        kind,
        namespaces: Vec::new(),
        labels: None,
        annotations: Vec::new(),
        fields: Vec::new(),
        expression: None,
    };
    let declaration = HandlerDeclaration {
        name: name.to_owned(),
        subscription,
        triggers: vec![TriggerRequest::Observed],
        projection: None,
        related: Vec::new(),
    };
    let kind = GroupVersionKind::new("", "v1", "ConfigMap");
    let subject = Resource { kind, plural: "configmaps".to_owned(), namespaced: true };
    let resolve = |_: &KindReference| Ok(subject.clone());
    Arc::new(MountedHandler {
        name: HandlerName { plugin: "p".to_owned(), handler: name.to_owned() },
        mounted: Mounted::new(&declaration, &[]).expect("there is no selector"),
        declaration,
        rights: Rights::new(&Permissions::default(), &Grants::default(), Limits::default(), &resolve),
        subject: subject.clone(),
        children: Vec::new(),
        projection: None,
        config: "null".to_owned(),
        code: 1,
        takes_conflicts: false,
        identity: Identity::Operator,
        guest: Arc::clone(guest) as Arc<dyn Guest>,
    })
}

fn remembers(controller: &Controller, work: &Work, at: &NamespacedName) -> bool {
    let inner = controller.lock();
    inner.states.has(work, at) || inner.queue.appointment(work, at, Slot::Requeue).is_some()
}

/// The belief that is attacked: that a plugin is forgotten as a whole or not at all.
#[tokio::test]
async fn nothing_is_left_of_a_handler_that_is_there_no_more_neither_of_reconciles_that_end_later() {
    let cluster = Arc::new(cluster());
    let subject = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "ns1"}});
    let at = cluster.create(subject).expect("it is valid").at;
    let controller = controller(cluster, Gate::open());
    let guest = Arc::new(GivesUp { called: Notify::new(), may: Semaphore::new(0) });
    let (_changes, receiver) = mpsc::unbounded_channel();
    let running = tokio::spawn(Arc::clone(&controller).run(receiver, Shutdown::never()));
    let idle = async || {
        while !is_idle(&controller) {
            yield_now().await;
        }
    };
    let begin = |name: &str| {
        let handler = handler(name, &guest);
        let work = Work::Call(Arc::new(handler.name.clone()));
        controller.mount("p", &[handler]);
        controller.lock().queue.wake(work.clone(), at.clone(), 0);
        controller.woken.notify_one();
        work
    };

    let ended = begin("ended");
    guest.may.add_permits(1);
    idle().await;
    assert!(remembers(&controller, &ended, &at));
    assert_eq!(controller.figures_of("p").0.parked, 1);
    controller.lock().queue.appoint(ended.clone(), at.clone(), Slot::Requeue, 1_000_000);

    guest.called.notified().await;
    let under_way = begin("under-way");
    assert!(!remembers(&controller, &ended, &at) && controller.lock().queue.next_due().is_none());
    assert_eq!(controller.figures_of("p").0.parked, 0);
    timeout(PATIENCE, guest.called.notified()).await.expect("its reconcile is under way");
    controller.mount("p", &[]);
    guest.may.add_permits(1);
    idle().await;
    assert!(!remembers(&controller, &under_way, &at) && controller.lock().queue.next_due().is_none());
    let (counts, last_error) = controller.figures_of("p");
    assert_eq!(PluginCounts { calls: 0, failures: 0, ..counts }, PluginCounts::default());
    assert_eq!(last_error, None);
    running.abort();
}
