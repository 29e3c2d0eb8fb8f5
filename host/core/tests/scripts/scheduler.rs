//! The Dask scheduler of a script: it does what a scheduler does, unless a step says otherwise.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
};

use dask_wasm_operator_core::{
    object::Object,
    scheduler::{Left, SchedulerCall, SchedulerError, SchedulerReply, SchedulerWorker},
};

use crate::api::Recorder;

/// Where workers listen. Of no interest to a reader.
const SCHEME: &str = "tcp://";

/// See the module. It serves all clusters of a script.
#[derive(Clone, Default)]
pub(crate) struct Scheduler(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    is_silent: bool,
    /// As many workers as it asks for; none: as many as there are.
    target: Option<u64>,
    idle_since: Option<u64>,
    /// Names of workers: those that it can't empty, those with a task that takes long, those that it can do without, the first
    /// first, and those that it has retired.
    full: BTreeSet<String>,
    at_work: BTreeSet<String>,
    order: Vec<String>,
    retired: BTreeSet<String>,
}

impl Scheduler {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn set_silent(&self, is_silent: bool) {
        self.state().is_silent = is_silent;
    }

    pub(crate) fn ask_for(&self, workers: u64) {
        self.state().target = Some(workers);
    }

    pub(crate) fn set_idle_since(&self, since: Option<u64>) {
        self.state().idle_since = since;
    }

    pub(crate) fn set_full(&self, worker: &str, is_full: bool) {
        set(&mut self.state().full, worker, is_full);
    }

    pub(crate) fn set_at_work(&self, worker: &str, is_at_work: bool) {
        set(&mut self.state().at_work, worker, is_at_work);
    }

    pub(crate) fn do_without_first(&self, workers: Vec<String>) {
        self.state().order = workers;
    }

    /// Answers, and has the recorder note both question and answer.
    pub(crate) fn answer(&self, recorder: &Recorder, call: &SchedulerCall) -> Result<SchedulerReply, SchedulerError> {
        let mut state = self.state();
        let question = match call {
            SchedulerCall::Workers => "query the scheduler: which workers can go?".to_owned(),
            SchedulerCall::AdaptiveTarget => "query the scheduler: how many workers does it want?".to_owned(),
            SchedulerCall::IdleSince => "query the scheduler: idle since when?".to_owned(),
            SchedulerCall::Retire(addresses) => format!("retire {}:", names(addresses)),
        };
        if state.is_silent {
            recorder.note(format!("{question} no answer"));
            return Err(SchedulerError::Unreachable("connection refused".to_owned()));
        }
        let workers = registered(recorder);
        let (answer, reply) = match call {
            SchedulerCall::Workers => {
                let workers: Vec<_> = workers.into_iter().map(|worker| state.worker(worker)).collect();
                let is_there = |name: &&String| workers.iter().any(|worker| worker.name == **name);
                let first: Vec<_> = state.order.iter().filter(is_there).cloned().collect();
                let answer = if first.is_empty() { "any".to_owned() } else { format!("first {}", first.join(", ")) };
                (answer, SchedulerReply::Workers(workers))
            }
            SchedulerCall::AdaptiveTarget => {
                let target = state.target.unwrap_or(workers.len() as u64);
                (target.to_string(), SchedulerReply::AdaptiveTarget(target))
            }
            SchedulerCall::IdleSince => {
                let answer = state.idle_since.map_or("it is busy".to_owned(), dask_wasm_operator_core::time::rfc3339);
                (answer, SchedulerReply::IdleSince(state.idle_since))
            }
            SchedulerCall::Retire(addresses) => {
                let asked: BTreeSet<_> = addresses.iter().filter_map(|address| address.strip_prefix(SCHEME)).collect();
                state.retired.extend(
                    workers
                        .iter()
                        .map(|worker| worker.metadata.name.clone())
                        .filter(|name| asked.contains(name.as_str())),
                );
                let is_empty = |address: &&String| {
                    let name = address.trim_start_matches(SCHEME);
                    state.retired.contains(name) && !state.full.contains(name)
                };
                let empty: Vec<_> = addresses.iter().filter(is_empty).cloned().collect();
                let left: Vec<_> = addresses.iter().filter(|address| !is_empty(address)).cloned().collect();
                let answer = match left.is_empty() {
                    true => "done".to_owned(),
                    false => format!("the data of {} can't be moved", names(&left)),
                };
                (answer, SchedulerReply::Retired(empty))
            }
        };
        recorder.note(format!("{question} {answer}"));
        Ok(reply)
    }
}

impl State {
    fn worker(&self, worker: Arc<Object>) -> SchedulerWorker {
        let name = worker.metadata.name.clone();
        let left = if self.at_work.contains(&name) { Left::Tasks { begun: true } } else { Left::Nothing };
        SchedulerWorker {
            address: format!("{SCHEME}{name}"),
            place: self.order.iter().position(|first| *first == name).unwrap_or(self.order.len()),
            retiring: self.retired.contains(&name).then_some(left),
            name,
        }
    }
}

fn set(names: &mut BTreeSet<String>, name: &str, is_in: bool) {
    match is_in {
        true => names.insert(name.to_owned()),
        false => names.remove(name),
    };
}

/// The workers that run.
fn registered(recorder: &Recorder) -> Vec<Arc<Object>> {
    let is_worker = |object: &Arc<Object>| {
        let component = object.metadata.labels.get("dask.org/component");
        object.kind.kind == "Deployment" && component.is_some_and(|component| component == "worker")
    };
    let kubernetes = &recorder.kubernetes;
    let deployments = kubernetes.cluster.objects().into_iter().filter(is_worker);
    deployments.filter(|deployment| kubernetes.is_ready(deployment)).collect()
}

fn names(addresses: &[String]) -> String {
    addresses.iter().map(|address| address.trim_start_matches(SCHEME)).collect::<Vec<_>>().join(", ")
}
