//! Where a script is performed: a cluster in memory with its API server, a scheduler, the operator, and a clock.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use dask_wasm_operator_core::{
    action::WriteError,
    object::{Object, ObjectKey},
    ports::Observed as _,
    schema::{KnownFields, OpenApi, Schema},
};
use serde_json::{Value, json};

use crate::{
    api::{Recorder, short_name},
    plugin::Plugin,
    pods,
    scheduler::Scheduler,
    script::Step,
    told,
    world::World,
};

/// Helpers of pods, of which a reader need not know.
const HIDDEN: &str = "ReplicaSet";

type Told = BTreeMap<ObjectKey, BTreeMap<String, String>>;

/// See the module.
pub(crate) struct Stage {
    world: World,
    recorder: Arc<Recorder>,
    scheduler: Scheduler,
    /// The plugin, from the first step on that speaks of it.
    plugin: Option<Plugin>,
    /// Where the objects are that scripts name as files.
    files: PathBuf,
    is_stopped: bool,
    /// By uid, the objects that ever were, in words.
    uids: BTreeMap<String, String>,
}

impl Stage {
    pub(crate) fn new(files: PathBuf) -> Self {
        let (recorder, scheduler) = (Arc::new(Recorder::new()), Scheduler::default());
        let (noted, asked) = (Arc::clone(&recorder), scheduler.clone());
        let cluster = Arc::clone(&recorder.kubernetes.cluster);
        let world = World::over(cluster, Arc::clone(&recorder) as _, move |call, _| asked.answer(&noted, call));
        Self { world, recorder, scheduler, plugin: None, files, is_stopped: false, uids: BTreeMap::new() }
    }

    /// Performs a step, has the operator do what it does then, and tells what happened.
    pub(crate) fn perform(&mut self, step: &Step<'_>) -> Vec<String> {
        let (begin, before, there) = (self.world.now, self.statuses(), self.keys());
        let words: Vec<_> = step.call.words.iter().map(|word| self.real(word)).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let shown = self.act(step, &words).unwrap_or_else(|error| panic!("{}: {}: {error}", step.at, step.text));
        if let Some(shown) = shown {
            return shown.lines().map(|line| self.readable(line)).collect();
        }
        if !self.is_stopped {
            self.settle();
        }
        if step.call.step == "begin with FILE" {
            self.recorder.take_lines();
            self.note_uids();
            return Vec::new();
        }
        let mut lines = told::lines(begin, self.recorder.take_lines());
        let mut deleted = self.recorder.take_deleted();
        if let ("delete KIND NAME", [kind, name]) = (step.call.step, &words[..]) {
            deleted.extend(there.iter().find(|key| key.kind.kind == *kind && key.at.name == *name).cloned());
        }
        let now = self.keys();
        let gone = there.iter().filter(|key| !now.contains(key) && !deleted.contains(key) && key.kind.kind != HIDDEN);
        let mut gone: Vec<_> = gone.map(|key| self.readable(&short_name(key))).collect();
        gone.sort_unstable();
        if !gone.is_empty() {
            lines.push(format!("gone with its owner: {}", gone.join(", ")));
        }
        for (key, status) in self.statuses() {
            let before = before.get(&key).cloned().unwrap_or_default();
            if let Some(changes) = told::status_changes(&before, &status) {
                lines.push(format!("status of {}: {changes}", short_name(&key)));
            }
        }
        if lines.is_empty() && !self.is_stopped && !is_of_surroundings(step.call.step) {
            lines.push("nothing".to_owned());
        }
        self.note_uids();
        lines.iter().map(|line| self.readable(line)).collect()
    }

    /// What a step does before the operator looks; a text that it shows instead.
    fn act(&mut self, step: &Step<'_>, words: &[&str]) -> Result<Option<String>, String> {
        let recorder = Arc::clone(&self.recorder);
        let kubernetes = &recorder.kubernetes;
        match (step.call.step, words) {
            ("apply:", []) => self.apply(&self.block(step))?,
            ("apply FILE" | "begin with FILE", [file]) => {
                let path = self.files.join(file);
                let yaml = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                self.apply(&yaml)?;
            }
            ("change KIND NAME: PATH = VALUE", [kind, name, path, value]) => {
                let value = yaml(value)?;
                self.edit(kind, name, |object| *at(object, path) = value)?;
            }
            ("remove PATH of KIND NAME", [path, kind, name]) => {
                self.edit(kind, name, |object| remove(object, path))?;
            }
            ("scale KIND NAME to N", [kind, name, number]) => {
                let number = count(number)?;
                self.edit(kind, name, |object| object["spec"]["worker"]["replicas"] = json!(number))?;
            }
            ("delete KIND NAME", [kind, name]) => kubernetes.cluster.delete(&self.object(kind, name)?.key()),
            ("show KIND NAME: PATH", [kind, name, path]) => {
                let mut object = self.object(kind, name)?.to_value();
                let shown = at(&mut object, path).take();
                return serde_saphyr::to_string(&shown).map(Some).map_err(|error| error.to_string());
            }
            ("pods start when a step says so", []) => kubernetes.start_slowly(),
            ("all pods run", []) => {
                for deployment in self.world.of_kind("Deployment") {
                    self.start_pod(&deployment);
                }
            }
            ("the pod of DEPLOYMENT runs", [name]) => self.start_pod(&*self.object("Deployment", name)?),
            ("the pod of DEPLOYMENT is not ready", [name]) => {
                kubernetes.set_ready(&*self.object("Deployment", name)?, false);
            }
            ("the pod of DEPLOYMENT waits: WORDS", [name, words]) => {
                pods::wait(&kubernetes.cluster, &*self.object("Deployment", name)?, words);
            }
            ("no pods can be made: WORDS", [words]) => kubernetes.without_pods(Some(words)),
            ("pods can be made again", []) => kubernetes.without_pods(None),
            ("pod NAME waits: WORDS", [name, words]) => {
                self.edit("Pod", name, |pod| pod["status"] = pods::waiting(&pod["spec"], words))?;
            }
            ("pod NAME runs", [name]) => self.report(name, "Running", 0)?,
            ("pod NAME succeeds", [name]) => self.report(name, "Succeeded", 0)?,
            ("pod NAME fails with exit code N", [name, code]) => self.report(name, "Failed", count(code)?)?,
            ("the API server refuses NAME: CODE WORDS", [name, code, words]) => self.refuse(name, code, words)?,
            ("the API server accepts everything again", []) => kubernetes.accept(),
            ("the API server knows of containers: FIELDS", [fields]) => kubernetes.know(known(fields)),
            ("KIND NAME can't be read at PATH", [kind, name, path]) => {
                self.recorder.set_unreadable(self.object(kind, name)?.key(), Some(path));
            }
            ("KIND NAME can be read again", [kind, name]) => {
                self.recorder.set_unreadable(self.object(kind, name)?.key(), None);
            }
            ("the scheduler does not answer", []) => self.scheduler.set_silent(true),
            ("the scheduler answers again", []) => self.scheduler.set_silent(false),
            ("the scheduler asks for N workers", [number]) => {
                self.scheduler.ask_for(u64::try_from(count(number)?).map_err(|error| error.to_string())?);
            }
            ("the scheduler is idle", []) => self.scheduler.set_idle_since(Some(self.world.now)),
            ("the scheduler is busy", []) => self.scheduler.set_idle_since(None),
            ("the scheduler can't empty WORKER", [worker]) => self.scheduler.set_full(worker, true),
            ("the scheduler can empty WORKER", [worker]) => self.scheduler.set_full(worker, false),
            ("the scheduler can do without WORKER", [workers]) => {
                self.scheduler.do_without_first(workers.split(", ").map(str::to_owned).collect());
            }
            ("WORKER begins a long task", [worker]) => self.scheduler.set_at_work(worker, true),
            ("WORKER ends its task", [worker]) => self.scheduler.set_at_work(worker, false),
            ("stop the operator", []) => self.is_stopped = true,
            ("the plugin wants:", []) => {
                let objects = serde_saphyr::from_str(&self.block(step)).map_err(|error| error.to_string())?;
                self.plugin().answer(objects);
            }
            ("the plugin wants nothing", []) => self.plugin().answer(Vec::new()),
            ("the plugin fails: WORDS", [words]) => self.plugin().fail(words),
            ("start the operator" | "restart the operator", []) => {
                self.is_stopped = false;
                self.world.restart();
                self.plugin.iter_mut().for_each(Plugin::restart);
            }
            ("advance N UNIT", [number, unit]) => self.advance(number, unit)?,
            (step, words) => return Err(format!("nobody performs {step:?} with {words:?}")),
        }
        Ok(None)
    }

    /// The operator does what there is to do, until nothing is left.
    fn settle(&mut self) {
        self.world.settle();
        let now = self.world.now;
        if self.plugin.as_mut().is_some_and(|plugin| plugin.settle(now)) {
            self.world.settle();
        }
    }

    fn plugin(&mut self) -> &Plugin {
        self.plugin.get_or_insert_with(|| Plugin::new(&self.recorder))
    }

    /// The YAML below a step.
    fn block(&self, step: &Step<'_>) -> String {
        step.block.iter().map(|line| self.real(line)).collect::<Vec<_>>().join("\n")
    }

    fn advance(&mut self, number: &str, unit: &str) -> Result<(), String> {
        let unit = match unit {
            "s" => 1_000,
            "min" => 60_000,
            "h" => 3_600_000,
            other => return Err(format!("{other} is no unit of time: s, min, h")),
        };
        let millis = u64::try_from(count(number)?).map_err(|error| error.to_string())? * unit;
        if self.is_stopped {
            self.world.now += millis
        } else {
            self.world.advance(millis)
        }
        Ok(())
    }

    fn object(&self, kind: &str, name: &str) -> Result<Arc<Object>, String> {
        let found = self.world.of_kind(kind).into_iter().find(|object| object.metadata.name == name);
        found.ok_or_else(|| format!("there is no {kind} {name}"))
    }

    fn edit(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) -> Result<(), String> {
        self.recorder.kubernetes.cluster.edit(&self.object(kind, name)?.key(), change);
        Ok(())
    }

    /// As kubectl does: what is not there is created, of the rest the spec, labels and annotations are set.
    fn apply(&self, text: &str) -> Result<(), String> {
        let cluster = &self.recorder.kubernetes.cluster;
        for mut object in serde_saphyr::from_multiple::<Value>(text).map_err(|error| error.to_string())? {
            let kind = object["kind"].as_str().unwrap_or_default().to_owned();
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            for owner in object["metadata"]["ownerReferences"].as_array_mut().into_iter().flatten() {
                let text = |field: &str| owner[field].as_str().unwrap_or_default();
                owner["uid"] = json!(self.object(text("kind"), text("name"))?.metadata.uid);
            }
            if self.object(&kind, &name).is_ok() {
                self.edit(&kind, &name, |live| {
                    live["spec"] = object["spec"].take();
                    for map in ["labels", "annotations"] {
                        for (key, value) in object["metadata"][map].as_object().into_iter().flatten() {
                            live["metadata"][map][key] = value.clone();
                        }
                    }
                })?;
                continue;
            }
            self.recorder.keep_name(&name);
            let key = cluster.create(object)?;
            if let Some(deployment) = cluster.get(&key.kind, &key.at).filter(|_| kind == "Deployment") {
                self.recorder.kubernetes.set_ready(&deployment, true);
            }
        }
        Ok(())
    }

    fn start_pod(&self, deployment: &Object) {
        pods::end(&self.recorder.kubernetes.cluster, deployment);
        self.recorder.kubernetes.set_ready(deployment, true);
    }

    /// The kubelet reports of the pod of a job.
    fn report(&self, name: &str, phase: &str, exit_code: i64) -> Result<(), String> {
        let now = self.world.now;
        self.edit("Pod", name, |pod| pod["status"] = pods::runner_status(pod, phase, exit_code, now))
    }

    fn refuse(&self, name: &str, code: &str, words: &str) -> Result<(), String> {
        let code = u16::try_from(count(code)?).map_err(|error| error.to_string())?;
        let words = words.to_owned();
        self.recorder.kubernetes.fail(name, move |object| {
            let (object, message) = (object.clone(), words.clone());
            match code {
                500.. => WriteError::Unavailable { object, verb: "write", message },
                code => {
                    let reason = if code == 403 { "Forbidden" } else { "Invalid" }.to_owned();
                    WriteError::Refused { object, code, reason, message, fields: Vec::new() }
                }
            }
        });
        Ok(())
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.recorder.kubernetes.cluster.objects().iter().map(|object| object.key()).collect()
    }

    /// The statuses of Dask objects.
    fn statuses(&self) -> Told {
        let objects = self.recorder.kubernetes.cluster.objects().into_iter();
        let dask = objects.filter(|object| object.kind.kind.starts_with("Dask"));
        dask.map(|object| (object.key(), told::status(&object.to_value()))).collect()
    }

    fn note_uids(&mut self) {
        for object in self.recorder.kubernetes.cluster.objects() {
            let words = format!("(uid of {})", short_name(&object.key()));
            self.uids.insert(object.metadata.uid.clone(), words);
        }
    }

    /// With the names of workers as they really are.
    fn real(&self, text: &str) -> String {
        let workers = self.recorder.workers();
        workers.iter().rev().fold(text.to_owned(), |text, (name, shown)| text.replace(shown, name))
    }

    /// With the names of workers as scripts have them, and words for uids.
    fn readable(&self, text: &str) -> String {
        let workers = self.recorder.workers();
        let text = workers.iter().fold(text.to_owned(), |text, (name, shown)| text.replace(name, shown));
        self.uids.iter().fold(text, |text, (uid, words)| text.replace(uid, words))
    }
}

/// Whether a step changes what is around the operator only, so that it need not follow that something happens.
fn is_of_surroundings(step: &str) -> bool {
    ["the scheduler ", "the API server ", "WORKER ", "pods ", "no pods ", "stop ", "the plugin "]
        .iter()
        .any(|begin| step.starts_with(begin))
}

fn count(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn yaml(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

/// An API server whose containers have no field but these.
fn known(containers: &str) -> KnownFields {
    let with_fields = |names: &str| {
        let fields: serde_json::Map<_, _> = names.split(", ").map(|name| (name.to_owned(), json!({}))).collect();
        json!({"properties": fields})
    };
    let mut pod = with_fields("initContainers, nodeSelector, restartPolicy, serviceAccountName, volumes");
    pod["properties"]["containers"] = json!({"items": with_fields(containers)});
    let api: OpenApi = serde_json::from_value(pod).unwrap();
    KnownFields { pod: Some(Schema::new(api, |_| None)), service: None }
}

/// The names and numbers of a path like `spec.containers[0].image` or `metadata.annotations[a.b/c]`.
fn names(path: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut is_within = false;
    for character in path.chars() {
        match character {
            '[' => {
                is_within = true;
                names.push(String::new());
            }
            ']' => is_within = false,
            '.' if !is_within => names.push(String::new()),
            other => names.last_mut().unwrap().push(other),
        }
    }
    names
}

fn at<'a>(object: &'a mut Value, path: &str) -> &'a mut Value {
    below(object, names(path))
}

fn below(object: &mut Value, names: Vec<String>) -> &mut Value {
    names.into_iter().fold(object, |value, name| match name.parse::<usize>() {
        Ok(number) if value.is_array() => &mut value[number],
        _ => &mut value[name],
    })
}

fn remove(object: &mut Value, path: &str) {
    let mut names = names(path);
    let last = names.pop().unwrap();
    if let Some(fields) = below(object, names).as_object_mut() {
        fields.remove(&last);
    }
}
