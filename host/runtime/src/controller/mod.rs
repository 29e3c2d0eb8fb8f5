//! The controller: turns changes into passes of the pipeline, a bounded number at a time.
//!
//! One task decides what is next; each pass is a task of its own. What is remembered of a subject travels with its pass, so
//! that no two passes of a handler ever see the same subject at once. Nothing here decides what is wanted.

mod calls;
mod figures;
mod progress;
mod served;
mod wake;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dask_wasm_operator_cluster::{
    events::Events,
    gate::Gate,
    index::{Change, Index},
};
use dask_wasm_operator_core::{
    contract::{EventNote, EventSeverity},
    dask::{Environment, Reconciler},
    object::{NamespacedName, ObjectKey},
    pipeline::{Handler, MountedHandler, Pass, Pipeline, SubjectState},
    plugin::{ApplyBudget, HandlerName},
    ports::{CallReport, LogLevel, Observed, Schedulers, Writes},
    queue::Queue,
    retry::{Backoff, Retry},
    wanted::{Findings, Problem},
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until},
};

pub(crate) use figures::PluginFigures;

use crate::{Metrics, Shutdown};

/// Passes of one native reconciler at once: enough to keep the applier's connections busy while others wait for answers.
const NATIVE_AT_ONCE: usize = 32;
/// Status writes at once: fewer, so that objects come first.
const STATUS_AT_ONCE: usize = 4;
/// Passes of one plugin's handler at once: a slow plugin delays only itself.
const PLUGIN_AT_ONCE: usize = 4;

/// A status is written at most so often, so that many changes make one write. Clients poll it four times a second.
const STATUS_WINDOW: Duration = Duration::from_millis(250);

/// What is to be done for a subject.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Work {
    /// A pass of a native reconciler.
    Reconcile(Reconciler),
    /// Writing the status of a Dask object.
    Publish(Reconciler),
    /// A pass of a plugin's handler.
    Call(HandlerName),
}

impl Work {
    fn at_once(&self) -> usize {
        match self {
            Self::Reconcile(_) => NATIVE_AT_ONCE,
            Self::Publish(_) => STATUS_AT_ONCE,
            Self::Call(_) => PLUGIN_AT_ONCE,
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Reconcile(reconciler) => reconciler.name().to_owned(),
            Self::Publish(reconciler) => format!("{}-status", reconciler.name()),
            Self::Call(name) => name.to_string(),
        }
    }
}

/// What the controller needs.
pub(crate) struct Surroundings {
    pub(crate) index: Arc<Index>,
    pub(crate) observed: Arc<dyn Observed>,
    pub(crate) writes: Arc<dyn Writes>,
    pub(crate) schedulers: Arc<dyn Schedulers>,
    pub(crate) gate: Gate,
    pub(crate) environment: Environment,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) events: Events,
}

/// See the module.
pub(crate) struct Controller {
    surroundings: Surroundings,
    started: Instant,
    inner: Mutex<Inner>,
    handlers: RwLock<BTreeMap<HandlerName, Arc<MountedHandler>>>,
    woken: Notify,
    figures: PluginFigures,
}

#[derive(Default)]
struct Inner {
    /// Where subjects are worked on; none: everywhere.
    namespaces: Option<BTreeSet<String>>,
    queue: Queue<Work, NamespacedName>,
    states: HashMap<(Work, NamespacedName), SubjectState>,
    /// What the last pass of a native reconciler left behind, for the status.
    findings: HashMap<(Reconciler, NamespacedName), Findings>,
    /// Failures to write a status.
    publishing: HashMap<(Reconciler, NamespacedName), Backoff>,
    /// Subjects that wait for an object that is not there.
    waiting: HashSet<(Reconciler, NamespacedName)>,
    running: HashMap<(Work, NamespacedName), progress::Running>,
    /// When a write was last answered.
    answered: Option<Instant>,
    /// Keys whose appointment is a requeue that the handler asked for.
    requeues: HashSet<(Work, NamespacedName)>,
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
            figures: PluginFigures::default(),
        }
    }

    /// Figures of the plugins.
    pub(crate) fn figures(&self) -> &PluginFigures {
        &self.figures
    }

    /// Mounts a plugin's handlers in the place of those that it had, and looks at all their subjects.
    pub(crate) fn mount(&self, plugin: &str, handlers: &[Arc<MountedHandler>]) {
        {
            let mut mounted = self.handlers.write().unwrap_or_else(PoisonError::into_inner);
            mounted.retain(|name, _| name.plugin != plugin);
            mounted.extend(handlers.iter().map(|handler| (handler.name.clone(), Arc::clone(handler))));
        }
        let mut inner = self.lock();
        for handler in handlers {
            for subject in self.surroundings.index.list(&handler.subject.kind) {
                inner.queue.wake(Work::Call(handler.name.clone()), subject.at());
            }
        }
        drop(inner);
        self.woken.notify_one();
    }

    /// Unmounts a plugin's handlers and removes what they made, if that is wanted. Their subjects stay.
    pub(crate) async fn unmount(&self, plugin: &str, remove_children: bool) {
        let removed: Vec<_> = {
            let mut mounted = self.handlers.write().unwrap_or_else(PoisonError::into_inner);
            let removed = mounted.values().filter(|handler| handler.name.plugin == plugin).cloned().collect();
            mounted.retain(|name, _| name.plugin != plugin);
            removed
        };
        for handler in removed {
            let work = Work::Call(handler.name.clone());
            for subject in self.surroundings.index.list(&handler.subject.kind) {
                let state = self.lock().states.remove(&(work.clone(), subject.at()));
                if remove_children {
                    let mut state = state.unwrap_or_default();
                    let pass = self
                        .pipeline(&*self.surroundings.writes)
                        .remove(&handler, &subject.at(), &mut state, now())
                        .await;
                    if pass.retry.is_some() {
                        tracing::warn!(plugin, subject = %subject.at(), "children of the removed plugin could not be deleted; delete them by their label plugins.dask.org/plugin");
                    }
                }
            }
        }
        self.figures.forget(plugin);
    }

    /// Takes note of changes, for [`Self::run`] to work on, and does nothing yet.
    pub(crate) async fn note(&self, changes: &mut mpsc::UnboundedReceiver<Change>) {
        while let Some(change) = changes.recv().await {
            self.wake(&change);
        }
    }

    /// Works until told to stop, then waits for the passes that are on their way.
    pub(crate) async fn run(self: Arc<Self>, mut changes: mpsc::UnboundedReceiver<Change>, mut shutdown: Shutdown) {
        let mut passes = JoinSet::new();
        loop {
            self.dispatch(&mut passes);
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
                Some(_) = passes.join_next(), if !passes.is_empty() => {}
                () = self.woken.notified() => {}
                () = sleep_until(due) => {}
            }
        }
        while passes.join_next().await.is_some() {}
    }

    /// Starts what may be started now. Without the Lease, nothing: what is to be done stays in the queue.
    fn dispatch(self: &Arc<Self>, passes: &mut JoinSet<()>) {
        if !self.surroundings.gate.allows(Duration::ZERO) {
            return;
        }
        let mut inner = self.lock();
        while let Some((work, at)) = inner.queue.next(self.millis(), Work::at_once) {
            let mut state = inner.states.remove(&(work.clone(), at.clone())).unwrap_or_default();
            inner.calls.take_note(&work, &at, &mut state);
            // When its namespace is served, it is woken again.
            if !inner.serves(&at) {
                inner.queue.done(work, at);
                continue;
            }
            inner.running.insert((work.clone(), at.clone()), progress::Running::new());
            let controller = Arc::clone(self);
            passes.spawn(async move { controller.work(work, at, state).await });
        }
        self.surroundings.metrics.set_queue_depth(inner.queue.depth());
    }

    async fn work(self: Arc<Self>, work: Work, at: NamespacedName, mut state: SubjectState) {
        let begun = Instant::now();
        match &work {
            Work::Reconcile(reconciler) => self.reconcile(*reconciler, &at, &mut state).await,
            Work::Publish(reconciler) => self.publish(*reconciler, &at).await,
            Work::Call(name) => self.call(name, &at, &mut state).await,
        }
        self.surroundings.metrics.reconciled(&work.label(), begun.elapsed());
        let mut inner = self.lock();
        inner.running.remove(&(work.clone(), at.clone()));
        if !state.is_spent() && inner.serves(&at) {
            inner.states.insert((work.clone(), at.clone()), state);
        }
        inner.queue.done(work, at);
    }

    async fn reconcile(self: &Arc<Self>, reconciler: Reconciler, at: &NamespacedName, state: &mut SubjectState) {
        let writes = self.writes(Work::Reconcile(reconciler), at);
        let mut pass = self.pipeline(&writes).reconcile(&Handler::Native(reconciler), at, state, now()).await;
        let mut inner = self.lock();
        let key = (reconciler, at.clone());
        if !pass.alive {
            inner.findings.remove(&key);
            inner.publishing.remove(&key);
            inner.waiting.remove(&key);
            return;
        }
        if pass.findings.problems.iter().any(|problem| problem.reason.starts_with("Cluster")) {
            inner.waiting.insert(key.clone());
        } else {
            inner.waiting.remove(&key);
        }
        let before = inner.findings.insert(key, pass.findings.clone()).unwrap_or_default();
        let at_status = self.millis_after(STATUS_WINDOW);
        inner.queue.wake_at(Work::Publish(reconciler), at.clone(), at_status);
        self.schedule(&mut inner, Work::Reconcile(reconciler), at, &pass);
        // A call that changes something is made when what is recorded about it is written.
        if pass.retry.is_none() {
            self.call_schedulers(&mut inner, &Work::Reconcile(reconciler), at, std::mem::take(&mut pass.calls));
        }
        drop(inner);
        for event in &pass.events {
            tracing::info!(handler = reconciler.name(), subject = %at, reason = event.reason, "{}", event.message);
        }
        let subject = ObjectKey { kind: reconciler.subject(), at: at.clone() };
        self.post(&subject, &pass.events);
        if !reconciler.has_conditions() || !self.surroundings.observed.has_status(&subject.kind) {
            let new = pass.findings.problems.iter().filter(|problem| !before.problems.contains(problem));
            self.post(&subject, &new.map(Problem::as_event).collect::<Vec<_>>());
        }
        self.report(&reconciler.name(), at, &pass.findings.problems, &before.problems);
    }

    async fn publish(&self, reconciler: Reconciler, at: &NamespacedName) {
        let key = (reconciler, at.clone());
        let findings = self.lock().findings.get(&key).cloned().unwrap_or_default();
        let writes = self.writes(Work::Publish(reconciler), at);
        match self.pipeline(&writes).publish(reconciler, at, &findings, now()).await {
            Ok(notes) => {
                self.lock().publishing.remove(&key);
                let subject = ObjectKey { kind: reconciler.subject(), at: at.clone() };
                self.post(&subject, &notes);
            }
            Err(error) => {
                tracing::debug!(subject = %at, kind = error.kind(), %error, "status not written");
                let mut inner = self.lock();
                if let Retry::After(delay) = inner.publishing.entry(key).or_default().fail(at, None, None) {
                    let due = self.millis_after(delay);
                    inner.queue.wake_at(Work::Publish(reconciler), at.clone(), due);
                }
            }
        }
    }

    async fn call(&self, name: &HandlerName, at: &NamespacedName, state: &mut SubjectState) {
        let handler = self.handlers.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let Some(handler) = handler else { return };
        let work = Work::Call(name.clone());
        if self.lock().requeues.remove(&(work.clone(), at.clone())) {
            state.requeue();
        }
        let limit = handler.rights.limits.applies_per_minute;
        let wait = self.lock().budgets.entry(name.plugin.clone()).or_default().wait(limit, now());
        if let Some(wait) = wait {
            tracing::debug!(
                plugin = name.plugin,
                ?wait,
                "waits for its budget of writes (spec.limits.appliesPerMinute)"
            );
            let due = self.millis_after(wait);
            self.lock().queue.wake_at(work, at.clone(), due);
            return;
        }
        let subject = ObjectKey { kind: handler.subject.kind.clone(), at: at.clone() };
        let writes = self.writes(work.clone(), at);
        let pass = self.pipeline(&writes).reconcile(&Handler::Plugin(Arc::clone(&handler)), at, state, now()).await;
        if let Some(report) = &pass.call {
            self.surroundings.metrics.plugin_called(&name.plugin, &name.handler, report);
            log_guest(name, at, report);
        }
        self.figures.note(name, &subject, &pass, state, now());
        self.surroundings.metrics.set_parked(&name.plugin, self.figures.parked(&name.plugin));
        self.post(&subject, &pass.events);
        {
            let mut inner = self.lock();
            inner.budgets.entry(name.plugin.clone()).or_default().spend(pass.writes, now());
            if pass.requeue_after.is_some() && pass.retry.is_none() {
                inner.requeues.insert((work.clone(), at.clone()));
            }
            self.schedule(&mut inner, work, at, &pass);
        }
        if pass.call.is_some() {
            self.report(name, at, &pass.findings.problems, &[]);
            self.warn_of(&subject, &pass);
        }
    }

    /// Says on the subject that a plugin could not handle it, when it is given up.
    fn warn_of(&self, subject: &ObjectKey, pass: &Pass) {
        let (Some(Retry::Parked), Some(problem)) = (pass.retry, pass.findings.problems.first()) else { return };
        let note = EventNote {
            severity: EventSeverity::Warning,
            reason: problem.reason.to_owned(),
            message: format!("{}; not tried again until something changes", problem.message),
        };
        self.post(subject, &[note]);
    }

    fn schedule(&self, inner: &mut Inner, work: Work, at: &NamespacedName, pass: &Pass) {
        let delay = match pass.retry {
            Some(Retry::After(delay)) => Some(delay),
            Some(Retry::Parked) => None,
            None => pass.requeue_after,
        };
        if let Some(delay) = delay {
            inner.queue.wake_at(work, at.clone(), self.millis_after(delay));
        }
    }

    /// The one place that logs and counts what could not be done. What was said before is not said again.
    fn report(&self, handler: &dyn fmt::Display, at: &NamespacedName, problems: &[Problem], before: &[Problem]) {
        for problem in problems {
            self.surroundings.metrics.reconcile_failed(&handler.to_string(), problem.reason);
            if before.contains(problem) {
                tracing::debug!(%handler, subject = %at, reason = problem.reason, problem = problem.message, "still not done");
            } else {
                tracing::warn!(%handler, subject = %at, reason = problem.reason, problem = problem.message, "not done");
            }
        }
    }

    fn post(&self, subject: &ObjectKey, notes: &[EventNote]) {
        if notes.is_empty() {
            return;
        }
        if let Some(object) = self.surroundings.observed.get(&subject.kind, &subject.at) {
            notes.iter().for_each(|note| self.surroundings.events.post((&*object).into(), note.clone()));
        }
    }

    fn pipeline<'a>(&'a self, writes: &'a dyn Writes) -> Pipeline<'a> {
        Pipeline { observed: self.surroundings.observed.as_ref(), writes, environment: &self.surroundings.environment }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn millis_after(&self, delay: Duration) -> u64 {
        self.millis().saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn log_guest(name: &HandlerName, at: &NamespacedName, report: &CallReport) {
    for line in &report.log {
        let message = line.message.as_str();
        match line.level {
            LogLevel::Debug => tracing::debug!(target: "guest", handler = %name, subject = %at, message),
            LogLevel::Info => tracing::info!(target: "guest", handler = %name, subject = %at, message),
            LogLevel::Warn => tracing::warn!(target: "guest", handler = %name, subject = %at, message),
            LogLevel::Error => tracing::error!(target: "guest", handler = %name, subject = %at, message),
        }
    }
    if report.log_dropped > 0 {
        tracing::warn!(target: "guest", handler = %name, subject = %at, dropped = report.log_dropped, "more lines than allowed (spec.limits.logLines)");
    }
}
