//! The controller: turns changes into reconciles of the pipeline, a bounded number at a time.
//!
//! One task decides what is next; each reconcile is a task of its own. What is remembered of a subject travels with its
//! reconcile, so that no two reconciles of a handler ever see the same subject at once. Nothing here decides what is wanted.

mod calls;
mod figures;
mod mounted;
mod progress;
mod removal;
mod report;
mod schedule;
mod served;
mod states;
#[cfg(test)]
mod tests;
mod trace;
mod vigil;
mod waiting;
mod wake;
mod work;

use std::{
    any::Any,
    collections::{BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use dask_wasm_operator_cluster::{
    applier::WRITE_DEADLINE,
    events::{Events, Posting, Source},
    gate::Gate,
    index::{Change, Index},
    watch::Watches,
};
use dask_wasm_operator_core::{
    action::WriteError,
    dask::{Environment, Handler, Pipeline, Reconciler},
    native::Native as _,
    object::{NamespacedName, ObjectKey},
    pipeline::{Report, SubjectState},
    plugin::{ApplyBudget, HandlerName},
    ports::{Observed, Schedulers, Warrant, Writes},
    queue::{Next, Queue, Slot},
    related::RelatedIndex,
    retry::{Backoff, Retry},
    wanted::{Found, Problem},
};
use futures::{FutureExt as _, future::join_all};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tracing::Instrument as _;

pub(crate) use figures::PluginFigures;
use mounted::Mounted;
use report::log_guest;
pub(crate) use trace::TracedGuest;
pub(crate) use work::Work;

use crate::{
    metrics::Metrics,
    process::{clock::now, shutdown::Shutdown, stalls::Stalls},
};

/// A status is written at most so often, so that many changes make one write. Clients poll it four times a second.
const STATUS_WINDOW: Duration = Duration::from_millis(250);

/// How long what was announced waits for its Event to be posted.
const ANNOUNCEMENT_DEADLINE: Duration = Duration::from_secs(5);

/// What the controller needs.
pub(crate) struct Surroundings {
    pub(crate) index: Arc<Index>,
    pub(crate) watches: Watches,
    pub(crate) observed: Arc<dyn Observed>,
    pub(crate) writes: Arc<dyn Writes>,
    pub(crate) schedulers: Arc<dyn Schedulers>,
    pub(crate) gate: Gate,
    pub(crate) environment: Environment,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stalls: Arc<Stalls>,
    pub(crate) events: Events,
}

/// See the module.
pub(crate) struct Controller {
    surroundings: Surroundings,
    started: Instant,
    inner: Mutex<Inner>,
    handlers: RwLock<mounted::Handlers>,
    woken: Notify,
    reconcile_ended: Notify,
    figures: PluginFigures,
}

#[derive(Default)]
struct Inner {
    /// Where subjects are worked on; none: everywhere.
    namespaces: Option<BTreeSet<String>>,
    queue: Queue<Work, NamespacedName>,
    states: states::States,
    backlog: mounted::Backlog,
    /// What reconciles of a native reconciler have found out, for the status.
    found: HashMap<(Reconciler, NamespacedName), Found>,
    /// Failures to write a status.
    publishing: HashMap<(Reconciler, NamespacedName), Backoff>,
    waiting: waiting::Waiting,
    /// What native reconcilers look up of each subject beyond its children.
    related: RelatedIndex<(Reconciler, NamespacedName)>,
    vigils: vigil::Vigils,
    running: HashMap<(Work, NamespacedName), progress::Running>,
    /// When a write was last answered.
    answered: Option<Instant>,
    /// Writes of each plugin.
    budgets: HashMap<String, ApplyBudget>,
    calls: calls::Calls,
    tasks: calls::Tasks,
}

impl Controller {
    pub(crate) fn new(surroundings: Surroundings) -> Self {
        Self {
            surroundings,
            started: Instant::now(),
            inner: Mutex::default(),
            handlers: RwLock::default(),
            woken: Notify::new(),
            reconcile_ended: Notify::new(),
            figures: PluginFigures::default(),
        }
    }

    /// Figures of the plugins.
    pub(crate) fn figures(&self) -> &PluginFigures {
        &self.figures
    }

    /// Takes note of changes, for [`Self::run`] to work on, and does nothing yet.
    pub(crate) async fn note(&self, changes: &mut mpsc::UnboundedReceiver<Change>) {
        while let Some(change) = changes.recv().await {
            self.wake(&change);
        }
    }

    /// Works until told to stop, then waits for the reconciles that are on their way.
    pub(crate) async fn run(self: Arc<Self>, mut changes: mpsc::UnboundedReceiver<Change>, mut shutdown: Shutdown) {
        let mut reconciles = JoinSet::new();
        loop {
            // While nothing can be written, what is to be done stays in the queue, however long it has been due.
            let may_write = self.surroundings.gate.allows(WRITE_DEADLINE);
            if may_write {
                self.dispatch(&mut reconciles);
            }
            let due = self.lock().queue.next_due().map(|due| self.started + Duration::from_millis(due));
            let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
            tokio::select! {
                biased;
                () = shutdown.requested() => break,
                Some(change) = changes.recv() => {
                    self.wake(&change);
                    while let Ok(change) = changes.try_recv() {
                        self.wake(&change);
                    }
                }
                Some(_) = reconciles.join_next(), if !reconciles.is_empty() => {}
                () = self.woken.notified() => {}
                () = self.surroundings.gate.opened(WRITE_DEADLINE), if !may_write => {}
                () = sleep_until(due), if may_write => {}
            }
        }
        while reconciles.join_next().await.is_some() {}
    }

    /// Starts what may be started now.
    fn dispatch(self: &Arc<Self>, reconciles: &mut JoinSet<()>) {
        // Those that have ended take their memory until they are taken out, and many end between two turns.
        while reconciles.try_join_next().is_some() {}
        let handlers = self.handlers.read().unwrap_or_else(PoisonError::into_inner);
        let mut inner = self.lock();
        while let Some(Next { group, key, waited, due }) = inner.queue.next(self.millis(), Work::at_once) {
            let subject = (group, key);
            let mut state = inner.states.take(&subject.0, &subject.1);
            inner.calls.take_note(&subject, &mut state);
            inner.take_due(&subject, &due, &mut state);
            let (work, at) = subject;
            // When its namespace is served, it is woken again.
            if !inner.serves(&at) {
                inner.states.drop(&work, &at);
                self.ended(&mut inner, &handlers, work, at);
                continue;
            }
            inner.running.insert((work.clone(), at.clone()), progress::Running::new());
            let label = work.label();
            self.surroundings.metrics.waited(&label, Duration::from_millis(waited));
            let span = trace::reconcile(&work, &at, &due, &state, &handlers);
            let reconcile =
                self.surroundings.stalls.watch(label, at.to_string(), Arc::clone(self).work(work, at, state));
            reconciles.spawn(reconcile.instrument(span));
        }
        self.surroundings.metrics.set_queue_depth(inner.queue.depth());
    }

    async fn work(self: Arc<Self>, work: Work, at: NamespacedName, mut state: SubjectState) {
        let begun = Instant::now();
        let reconcile = async {
            match &work {
                Work::Reconcile(reconciler) => self.reconcile(*reconciler, &at, &mut state).await,
                Work::Publish(reconciler) => self.publish(*reconciler, &at, &mut state).await,
                Work::Call(name) => self.call(name, &at, &mut state).await,
            }
        };
        // Whatever happens in a reconcile, its place and its subject must not be lost with it.
        let ended = AssertUnwindSafe(reconcile).catch_unwind().await;
        let record = || self.surroundings.metrics.reconciled(&work.label(), begun.elapsed());
        match &work {
            Work::Call(name) => self.while_mounted(name, record),
            Work::Reconcile(_) | Work::Publish(_) => record(),
        }
        let handlers = self.handlers.read().unwrap_or_else(PoisonError::into_inner);
        let is_mounted = if let Work::Call(name) = &work { handlers.contains_key(name) } else { true };
        let mut inner = self.lock();
        if let Err(panic) = ended {
            self.broke_off(&mut inner, &work, &at, &mut state, panic.as_ref());
        }
        inner.running.remove(&(work.clone(), at.clone()));
        let changes_sums = if is_mounted && inner.serves(&at) {
            inner.states.keep(&work, &at, state)
        } else {
            inner.states.drop(&work, &at)
        };
        if let Work::Call(name) = &work
            && is_mounted
            && changes_sums
        {
            self.note_sums(&inner, &name.plugin);
        }
        self.ended(&mut inner, &handlers, work, at);
        drop((inner, handlers));
        self.reconcile_ended.notify_waiters();
    }

    /// A reconcile panicked: a fault of ours, which is said, counted, and tried again later and later.
    fn broke_off(
        &self,
        inner: &mut Inner,
        work: &Work,
        at: &NamespacedName,
        state: &mut SubjectState,
        panic: &(dyn Any + Send),
    ) {
        let words = panic.downcast_ref::<&str>().copied();
        let words = words.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
        tracing::error!(handler = work.label(), subject = %at, reason = "Panic", problem = words, "a reconcile panicked; this is a bug in the operator");
        self.surroundings.metrics.reconcile_failed(&work.label(), "Panic");
        let retry = match work {
            Work::Publish(reconciler) => {
                inner.publishing.entry((*reconciler, at.clone())).or_default().fail(at, None, None)
            }
            Work::Reconcile(_) | Work::Call(_) => state.broke_off(),
        };
        self.schedule(inner, work, at, &Report { retry: Some(retry), alive: true, ..Report::default() });
    }

    async fn reconcile(self: &Arc<Self>, reconciler: Reconciler, at: &NamespacedName, state: &mut SubjectState) {
        let work = Work::Reconcile(reconciler);
        let trace = self.trace(work.clone(), &ObjectKey { kind: reconciler.subject(), at: at.clone() });
        let writes = self.writes(work, at, Warrant::default());
        let pipeline = self.pipeline(&writes);
        let lookups = pipeline.lookups(reconciler, at);
        self.lock().related.note(&(reconciler, at.clone()), &lookups);
        let report = pipeline.reconcile_traced(&Handler::Native(reconciler), at, state, now(), &trace).await;
        let postings = self.conclude(reconciler, at, state, report);
        if reconciler.traits().announces {
            // The next reconcile of this subject waits for the end of this one. It is not put off for long: Events are a
            // courtesy.
            let ended = join_all(postings.into_iter().map(Posting::ended));
            let _ = timeout(ANNOUNCEMENT_DEADLINE, ended).await;
        }
    }

    /// Says and schedules what came of a reconcile; answers the Events that are on their way.
    fn conclude(
        self: &Arc<Self>,
        reconciler: Reconciler,
        at: &NamespacedName,
        state: &mut SubjectState,
        mut report: Report,
    ) -> Vec<Posting> {
        let mut inner = self.lock();
        let key = (reconciler, at.clone());
        if !report.alive {
            let before = inner.found.remove(&key).map(|found| found.findings).unwrap_or_default();
            inner.publishing.remove(&key);
            self.note_waits(&mut inner, &Work::Reconcile(reconciler), at, &[]);
            inner.states.drop(&Work::Publish(reconciler), at);
            // Something may still be in the way of its end.
            self.schedule(&mut inner, &Work::Reconcile(reconciler), at, &report);
            let problems = &report.findings.problems;
            inner.found.extend(state.found().filter(|_| !problems.is_empty()).map(|found| (key, found)));
            drop(inner);
            let subject = ObjectKey { kind: reconciler.subject(), at: at.clone() };
            self.post_new(&Source::Operator, &subject, problems, &before.problems);
            self.report(&reconciler.name(), &subject, problems, &before.problems);
            return Vec::new();
        }
        self.note_waits(&mut inner, &Work::Reconcile(reconciler), at, &report.findings.problems);
        let found = state.found();
        let before = inner.found.remove(&key).map(|found| found.findings).unwrap_or_default();
        inner.found.extend(found.map(|found| (key, found)));
        if !report.is_told {
            // What a job does next waits for its status, and its clients read that soon after they have made it. What else
            // heeds a status writes its own seldom.
            let window = if reconciler.traits().heeds_status { Duration::ZERO } else { STATUS_WINDOW };
            self.wake_status(&mut inner, reconciler, at, window);
        }
        self.schedule(&mut inner, &Work::Reconcile(reconciler), at, &report);
        let calls = std::mem::take(&mut report.calls);
        self.call_schedulers(&mut inner, &Work::Reconcile(reconciler), at, state, calls);
        drop(inner);
        let subject = ObjectKey { kind: reconciler.subject(), at: at.clone() };
        for event in &report.events {
            tracing::info!(handler = reconciler.name(), %subject, reason = event.reason, "{}", event.message);
        }
        let postings = self.post(&Source::Operator, &subject, &report.events);
        if !reconciler.traits().has_conditions {
            self.post_new(&Source::Operator, &subject, &report.findings.problems, &before.problems);
        }
        self.report(&reconciler.name(), &subject, &report.findings.problems, &before.problems);
        postings
    }

    async fn publish(&self, reconciler: Reconciler, at: &NamespacedName, state: &mut SubjectState) {
        let key = (reconciler, at.clone());
        let found = self.lock().found.get(&key).cloned();
        let subject = ObjectKey { kind: reconciler.subject(), at: at.clone() };
        self.identify(&subject);
        let writes = self.writes(Work::Publish(reconciler), at, Warrant::default());
        let pipeline = self.pipeline(&writes);
        self.post(&Source::Operator, &subject, &pipeline.announce(reconciler, at, found.as_ref(), state, now()));
        match pipeline.publish(reconciler, at, found.as_ref(), now()).await {
            Ok(notes) => {
                let mut inner = self.lock();
                inner.publishing.remove(&key);
                inner.queue.cancel(&Work::Publish(reconciler), at, Slot::Retry);
                drop(inner);
                self.post(&Source::Operator, &subject, &notes);
            }
            Err(error) => {
                tracing::debug!(%subject, kind = error.kind(), %error, "status not written");
                let mut inner = self.lock();
                let publishing = inner.publishing.entry(key).or_default();
                let is_news = publishing.attempts() == 0;
                let retry = publishing.fail_to_write(at, std::slice::from_ref(&error));
                if let Retry::After(delay) = retry {
                    let due = self.millis_after(delay);
                    inner.queue.appoint(Work::Publish(reconciler), at.clone(), Slot::Retry, due);
                }
                drop(inner);
                // A job ends when its status says so, not before.
                if is_news && !matches!(error, WriteError::Stale { .. } | WriteError::NotLeader | WriteError::Withdrawn)
                {
                    let problem = Problem::passing(error.kind(), format!("its status can't be written: {error}"));
                    self.report(&reconciler.name(), &subject, std::slice::from_ref(&problem), &[]);
                    self.post(&Source::Operator, &subject, &[problem.as_event()]);
                }
            }
        }
    }

    async fn call(self: &Arc<Self>, name: &Arc<HandlerName>, at: &NamespacedName, state: &mut SubjectState) {
        let handler = self.handlers.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let Some(Mounted { handler, warrant }) = handler else { return };
        let work = Work::Call(Arc::clone(name));
        let limit = handler.rights.limits.applies_per_minute;
        let wait = self.lock().budgets.entry(name.plugin.clone()).or_default().wait(limit, self.millis());
        if let Some(wait) = wait {
            tracing::debug!(
                plugin = name.plugin,
                ?wait,
                "waits for its budget of writes (spec.limits.appliesPerMinute)"
            );
            let due = self.millis_after(wait);
            self.lock().queue.wake_by(work, at.clone(), due);
            return;
        }
        let subject = ObjectKey { kind: handler.subject.kind.clone(), at: at.clone() };
        let writes = self.writes(work.clone(), at, warrant);
        let before = state.findings().problems.clone();
        let (asked, trace) = (Handler::Plugin(Arc::clone(&handler)), self.trace(work.clone(), &subject));
        let report = self.pipeline(&writes).reconcile_traced(&asked, at, state, now(), &trace).await;
        if let Some(call) = &report.call {
            log_guest(name, &subject, call);
        }
        self.while_mounted(name, || {
            if let Some(call) = &report.call {
                self.surroundings.metrics.plugin_called(&name.plugin, &name.handler, call);
            }
            self.figures.note(name, &subject, &report, now());
        });
        let source = Source::Plugin(name.plugin.clone());
        self.post(&source, &subject, &report.events);
        self.lock().budgets.entry(name.plugin.clone()).or_default().spend(report.writes, self.millis());
        self.while_mounted(name, || {
            let mut inner = self.lock();
            if report.call.is_some() || !report.alive {
                // What stays at an end is watched already, by its label.
                let waits: &[Problem] = if report.call.is_some() { &report.findings.problems } else { &[] };
                self.note_waits(&mut inner, &work, at, waits);
            }
            self.schedule(&mut inner, &work, at, &report);
        });
        let problems = &report.findings.problems;
        let was_asked = report.call.is_some();
        if was_asked || report.retry.is_some() {
            self.while_mounted(name, || self.report(name, &subject, problems, &before));
        }
        if was_asked {
            self.warn_of(&source, &subject, &report, state);
        } else {
            // At the end of a subject, which may be gone: it is told on what stays as well.
            self.post_new(&source, &subject, problems, &before);
            for problem in problems {
                let remains = problem.waits_for.as_ref().filter(|remains| **remains != subject);
                if let Some(remains) = remains {
                    self.post_new(&source, remains, std::slice::from_ref(problem), &before);
                }
            }
        }
    }

    /// Counts for a handler, unless it is there no more: what was counted of it is dropped after its end.
    fn while_mounted(&self, name: &HandlerName, record: impl FnOnce()) {
        let handlers = self.handlers.read().unwrap_or_else(PoisonError::into_inner);
        if handlers.contains_key(name) {
            record();
        }
    }

    /// Notes what a subject waits for by its last reconcile.
    fn note_waits(self: &Arc<Self>, inner: &mut Inner, work: &Work, at: &NamespacedName, problems: &[Problem]) {
        if inner.waiting.note(work, at, problems) {
            inner.queue.cancel(work, at, Slot::Reminder);
            self.keep_vigil(inner);
        }
    }

    fn pipeline<'a>(&'a self, writes: &'a dyn Writes) -> Pipeline<'a> {
        Pipeline::new(self.surroundings.observed.as_ref(), writes, &self.surroundings.environment)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
