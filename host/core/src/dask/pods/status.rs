//! What the status of a pod says: how far it is, when it ran, why it failed and what keeps it from running.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::removed::remedy;
use crate::{
    dask::remedy::{Place, by_cause},
    object::Object,
    quote::quote,
    text::line,
};

/// Reasons of a waiting container that are no trouble.
const STARTING: [&str; 3] = ["", "ContainerCreating", "PodInitializing"];
/// Reasons of a waiting container whose image can't be had (kubelet's `images` package).
const IMAGE_TROUBLE: [&str; 6] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
];

/// Bytes of a container's last words that are told on: a message holds more than these.
const LAST_WORDS: usize = 400;

/// What is read of a pod's status.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::dask) struct PodStatus {
    pub(in crate::dask) phase: String,
    reason: String,
    message: String,
    start_time: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
    conditions: Vec<PodCondition>,
    init_container_statuses: Vec<ContainerStatus>,
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodCondition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    reason: String,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatus {
    name: String,
    ready: bool,
    restart_count: u32,
    started: Option<bool>,
    state: ContainerState,
    last_state: ContainerState,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerState {
    waiting: Option<Waiting>,
    running: Option<Running>,
    terminated: Option<Terminated>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Waiting {
    reason: String,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Running {
    started_at: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Terminated {
    exit_code: i32,
    reason: String,
    message: String,
    started_at: Option<String>,
    finished_at: Option<String>,
}

/// What keeps a pod from running, although it has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::dask) struct Trouble {
    pub(in crate::dask) kind: TroubleKind,
    /// None: it is the pod's own.
    container: Option<String>,
    /// In the words of kubelet or the Kubernetes scheduler, cut.
    why: String,
}

/// The kinds of trouble, the one that hides the others first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::dask) enum TroubleKind {
    /// No node takes the pod.
    Unschedulable,
    /// An image can't be pulled.
    Image,
    /// A container can't be started for another reason.
    NotStarting,
    /// A container fails again and again.
    CrashLoop,
}

impl TroubleKind {
    /// All of them.
    pub(in crate::dask) const ALL: [Self; 4] = [Self::Unschedulable, Self::Image, Self::NotStarting, Self::CrashLoop];

    /// The end of condition reasons: `SchedulerImage`.
    pub(in crate::dask) fn word(self) -> &'static str {
        match self {
            Self::Unschedulable => "Unschedulable",
            Self::Image => "Image",
            Self::NotStarting => "NotStarting",
            Self::CrashLoop => "CrashLoop",
        }
    }
}

impl Trouble {
    /// With what to write where the pod was told to run what its image has no more.
    pub(super) fn with_remedy(mut self, pod: &Object) -> Self {
        if let Some(remedy) = self.container.as_deref().and_then(|container| remedy(&self.why, pod, container)) {
            self.why = format!("{}; {remedy}", self.why);
        }
        self
    }

    /// What is wrong with the pod of this name, and what can be done where its spec was written.
    pub(in crate::dask) fn describe(&self, pod: &str, place: &Place) -> String {
        let (why, container) = (&self.why, self.container.as_deref().unwrap_or_default());
        match self.kind {
            TroubleKind::Unschedulable => {
                format!("Pod {pod} can't be scheduled: {why}; ask for less in {place}, or make room on the nodes")
            }
            TroubleKind::Image => format!(
                "the image of container {container} of Pod {pod} can't be pulled: {why}; correct image or imagePullSecrets in \
                 {place}"
            ),
            TroubleKind::NotStarting => {
                let remedy = by_cause(why, Some(place)).unwrap_or_else(|| format!("correct {place}"));
                format!("container {container} of Pod {pod} can't be started: {why}; {remedy}")
            }
            TroubleKind::CrashLoop => format!(
                "container {container} of Pod {pod} keeps failing: {why}; read kubectl logs --previous {pod} -c {container}"
            ),
        }
    }
}

impl PodStatus {
    pub(in crate::dask) fn of(pod: &Object) -> Self {
        pod.field("status").and_then(Result::ok).unwrap_or_default()
    }

    pub(in crate::dask) fn has_ended(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    fn containers(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.init_container_statuses.iter().chain(&self.container_statuses)
    }

    /// When the first of its containers began to run, RFC 3339. That of the pod itself comes before its images are pulled.
    pub(in crate::dask) fn started_at(&self) -> Option<&str> {
        let states = self.container_statuses.iter().flat_map(|container| [&container.state, &container.last_state]);
        states.filter_map(ContainerState::started_at).min().or(self.start_time.as_deref())
    }

    /// When the last of its containers ended, RFC 3339.
    pub(in crate::dask) fn finished_at(&self) -> Option<&str> {
        let ends = self.container_statuses.iter().filter_map(|container| container.state.terminated.as_ref());
        ends.filter_map(|terminated| terminated.finished_at.as_deref()).max()
    }

    /// When this container ended, RFC 3339; none: it has not.
    pub(in crate::dask) fn ended_at(&self, container: &str) -> Option<&str> {
        let ended = self.container_statuses.iter().find(|status| status.name == container)?;
        ended.state.terminated.as_ref()?.finished_at.as_deref()
    }

    /// The containers that run.
    pub(in crate::dask) fn running(&self) -> Vec<&str> {
        let running = self.container_statuses.iter().filter(|container| container.state.running.is_some());
        running.map(|container| container.name.as_str()).collect()
    }

    /// When the youngest of the containers that run began to, RFC 3339; none: none runs.
    pub(super) fn running_since(&self) -> Option<&str> {
        let running = self.container_statuses.iter().filter_map(|container| container.state.running.as_ref());
        running.filter_map(|running| running.started_at.as_deref()).max()
    }

    /// Whether none of its containers can have run so far: it has no node, or kubelet says what keeps them from being started.
    /// One that is about to start may have, and kubelet has not said so yet.
    pub(in crate::dask) fn has_never_run(&self, pod: &Object) -> bool {
        let spec: Value = pod.field("spec").and_then(Result::ok).unwrap_or_default();
        let has_node = spec.get("nodeName").and_then(Value::as_str).is_some_and(|node| !node.is_empty());
        let is_held_up = self.trouble().is_some_and(|trouble| {
            matches!(trouble.kind, TroubleKind::Unschedulable | TroubleKind::Image | TroubleKind::NotStarting)
        });
        matches!(self.phase.as_str(), "" | "Pending")
            && !self.containers().any(ContainerStatus::has_run)
            && (!has_node || is_held_up)
    }

    /// Its addresses, in alphabetical order.
    pub(super) fn ips(&self) -> Vec<String> {
        let mut ips: Vec<_> = self.ips_in_order().map(str::to_owned).collect();
        ips.sort_unstable();
        ips.dedup();
        ips
    }

    /// Its addresses, the first one first, and perhaps once more.
    pub(super) fn ips_in_order(&self) -> impl Iterator<Item = &str> {
        let ips = self.pod_ips.iter().map(|address| address.ip.as_str());
        std::iter::once(self.pod_ip.as_str()).chain(ips).filter(|ip| !ip.is_empty())
    }

    /// Whether it counts among what a Service leads to.
    pub(super) fn is_ready(&self) -> bool {
        self.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }

    /// How often its containers were started again after a failure: they are only under `restartPolicy: OnFailure`.
    pub(in crate::dask) fn failed_runs(&self, pod: &Object) -> u32 {
        let spec: Value = pod.field("spec").and_then(Result::ok).unwrap_or_default();
        if spec.get("restartPolicy").and_then(Value::as_str) != Some("OnFailure") {
            return 0;
        }
        self.containers().fold(0, |sum, container| sum.saturating_add(container.restart_count))
    }

    /// Why it failed, or its containers do.
    pub(in crate::dask) fn failure(&self) -> String {
        if !self.reason.is_empty() {
            return format!("{}: {}", self.reason, quoted(&self.message));
        }
        let end = |container: &ContainerStatus| {
            Some(format!("container {} ended with {}", container.name, container.failure()?))
        };
        self.containers().find_map(end).unwrap_or_else(|| "its status does not say why".to_owned())
    }

    /// What keeps it from running, although it has not failed.
    pub(in crate::dask) fn trouble(&self) -> Option<Trouble> {
        self.unschedulable().or_else(|| self.containers().find_map(ContainerStatus::trouble))
    }

    /// As [`Self::trouble`], for a pod whose containers are always started again: one that failed and is not ready (again)
    /// is trouble also between its ends and the next attempts.
    pub(super) fn lasting_trouble(&self) -> Option<Trouble> {
        let failing = |container: &ContainerStatus| {
            let why = container.failure().filter(|_| !container.ready)?;
            Some(Trouble { kind: TroubleKind::CrashLoop, container: Some(container.name.clone()), why })
        };
        self.trouble().or_else(|| self.containers().find_map(failing))
    }

    fn unschedulable(&self) -> Option<Trouble> {
        let condition = self.conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
        // Gates hold a pod back on purpose.
        if condition.status != "False" || condition.reason == "SchedulingGated" {
            return None;
        }
        Some(Trouble { kind: TroubleKind::Unschedulable, container: None, why: quoted(&condition.message) })
    }
}

impl ContainerState {
    fn started_at(&self) -> Option<&str> {
        let running = self.running.as_ref().and_then(|running| running.started_at.as_deref());
        running.or_else(|| self.terminated.as_ref()?.started_at.as_deref())
    }
}

impl ContainerStatus {
    /// Whether it runs, or did.
    fn has_run(&self) -> bool {
        let states = [&self.state, &self.last_state];
        self.restart_count > 0
            || self.started == Some(true)
            || states.into_iter().any(|state| state.running.is_some() || state.terminated.is_some())
    }

    /// How it ended last, if that was a failure.
    fn failure(&self) -> Option<String> {
        let ends = [&self.state, &self.last_state].map(|state| state.terminated.as_ref());
        let end = ends.into_iter().flatten().find(|terminated| terminated.exit_code != 0)?;
        let words = if end.message.is_empty() { String::new() } else { format!(": {}", quoted(&end.message)) };
        Some(format!("exit code {} ({}){words}", end.exit_code, end.reason))
    }

    fn trouble(&self) -> Option<Trouble> {
        let Waiting { reason, message } = self.state.waiting.as_ref()?;
        let told = |reason: &str| {
            if message.is_empty() { reason.to_owned() } else { format!("{reason}: {}", quoted(message)) }
        };
        let (kind, why) = match reason.as_str() {
            reason if STARTING.contains(&reason) => return None,
            reason if IMAGE_TROUBLE.contains(&reason) => (TroubleKind::Image, told(reason)),
            reason @ "CrashLoopBackOff" => {
                (TroubleKind::CrashLoop, self.failure().unwrap_or_else(|| reason.to_owned()))
            }
            reason => (TroubleKind::NotStarting, told(reason)),
        };
        Some(Trouble { kind, container: Some(self.name.clone()), why })
    }
}

fn quoted(text: &str) -> String {
    quote(&line(text.trim(), LAST_WORDS))
}
