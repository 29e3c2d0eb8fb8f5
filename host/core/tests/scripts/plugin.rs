//! The plugin of a script. It is about DaskClusters, and answers for each what a step says.

use std::{collections::BTreeMap, sync::Arc};

use dask_wasm_operator_core::{
    contract::{Child, Failure, Outcome, TriggerRequest},
    dask::{Environment, Handler, Pipeline},
    object::NamespacedName,
    pipeline::{MountedHandler, SubjectState},
    ports::CallError,
    wanted::Problem,
};
use serde_json::Value;

use crate::{
    api::Recorder,
    guests::{Puppet, handler},
    world,
};

/// How often it may be asked until it has to be content.
const ROUNDS: usize = 10;

/// See the module.
pub(crate) struct Plugin {
    recorder: Arc<Recorder>,
    guest: Arc<Puppet>,
    handler: Arc<MountedHandler>,
    /// By DaskCluster, what is remembered, and the problems that were told.
    states: BTreeMap<NamespacedName, (SubjectState, Vec<Problem>)>,
}

impl Plugin {
    pub(crate) fn new(recorder: &Arc<Recorder>) -> Self {
        let guest = Puppet::new(|_| Ok(Outcome::default()));
        let handler = Arc::new(handler("notes", &[TriggerRequest::Observed], &guest));
        Self { recorder: Arc::clone(recorder), guest, handler, states: BTreeMap::new() }
    }

    /// From now on it wants these objects.
    pub(crate) fn answer(&self, objects: Vec<Value>) {
        let text =
            |object: &Value, path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let names: Vec<_> = objects
            .iter()
            .map(|object| format!("{} {}", text(object, "/kind"), text(object, "/metadata/name")))
            .collect();
        let children: Vec<_> = objects
            .iter()
            .map(|object| Child { key: text(object, "/metadata/name"), object: object.to_string() })
            .collect();
        let answer = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        let recorder = Arc::clone(&self.recorder);
        self.guest.answers(move |call| {
            recorder.note(format!("call the plugin about DaskCluster {}: it wants {answer}", call.subject.name));
            Ok(Outcome { children: Some(children.clone()), ..Outcome::default() })
        });
    }

    /// From now on it fails.
    pub(crate) fn fail(&self, words: &str) {
        let (recorder, words) = (Arc::clone(&self.recorder), words.to_owned());
        self.guest.answers(move |call| {
            recorder.note(format!("call the plugin about DaskCluster {}: it fails", call.subject.name));
            Err(CallError::Handler(Failure::Permanent { message: words.clone() }))
        });
    }

    /// A new process remembers nothing.
    pub(crate) fn restart(&mut self) {
        self.states.clear();
    }

    /// Asks it about each DaskCluster as often as is called for; whether anything was written.
    pub(crate) fn settle(&mut self, now: u64) -> bool {
        let environment = Environment::default();
        let recorder = Arc::clone(&self.recorder);
        let pipeline = Pipeline::new(&*recorder, &*recorder, &environment);
        let handler = Handler::Plugin(Arc::clone(&self.handler));
        let objects = recorder.kubernetes.cluster.objects().into_iter();
        let clusters: Vec<_> =
            objects.filter(|object| object.kind.kind == "DaskCluster").map(|object| object.at()).collect();
        let mut has_written = false;
        for at in clusters {
            for _ in 0..ROUNDS {
                let (state, told) = self.states.entry(at.clone()).or_default();
                let report = world::now(pipeline.reconcile(&handler, &at, state, now));
                for problem in report.findings.problems.iter().filter(|problem| !problem.is_among(told)) {
                    recorder.note(format!("problem {} of the plugin about DaskCluster {}:", problem.reason, at.name));
                    recorder.note(format!("    {}", problem.message));
                }
                told.clone_from(&report.findings.problems);
                has_written |= report.writes > 0;
                if report.writes == 0 || report.retry.is_some() {
                    break;
                }
            }
        }
        has_written
    }
}
