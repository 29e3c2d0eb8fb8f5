//! What the status of a job's pod says: how far it is, when it ran, and what is wrong with it.

use serde::Deserialize;
use serde_json::Value;

use crate::{object::Object, wanted::Problem};

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

/// Characters of a container's last words that are told on: an Event holds 1,024 bytes.
const LAST_WORDS: usize = 300;

/// What is read of a pod's status.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodStatus {
    pub(super) phase: String,
    reason: String,
    message: String,
    start_time: Option<String>,
    conditions: Vec<PodCondition>,
    init_container_statuses: Vec<ContainerStatus>,
    container_statuses: Vec<ContainerStatus>,
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
    restart_count: u32,
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

impl PodStatus {
    pub(super) fn of(pod: &Object) -> Self {
        pod.field("status").and_then(Result::ok).unwrap_or_default()
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    fn containers(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.init_container_statuses.iter().chain(&self.container_statuses)
    }

    /// When the first of its containers began to run, RFC 3339. That of the pod itself comes before its images are pulled.
    pub(super) fn started_at(&self) -> Option<&str> {
        let states = self.container_statuses.iter().flat_map(|container| [&container.state, &container.last_state]);
        states.filter_map(ContainerState::started_at).min().or(self.start_time.as_deref())
    }

    /// When the last of its containers ended, RFC 3339.
    pub(super) fn finished_at(&self) -> Option<&str> {
        let ends = self.container_statuses.iter().filter_map(|container| container.state.terminated.as_ref());
        ends.filter_map(|terminated| terminated.finished_at.as_deref()).max()
    }

    /// How often its containers were started again after a failure: they are only under `restartPolicy: OnFailure`.
    pub(super) fn failed_runs(&self, pod: &Object) -> u32 {
        let spec: Value = pod.field("spec").and_then(Result::ok).unwrap_or_default();
        if spec.get("restartPolicy").and_then(Value::as_str) != Some("OnFailure") {
            return 0;
        }
        self.containers().fold(0, |sum, container| sum.saturating_add(container.restart_count))
    }

    /// Why it failed, or its containers do.
    pub(super) fn failure(&self) -> String {
        if !self.reason.is_empty() {
            return format!("{}: {}", self.reason, cut(&self.message));
        }
        let end = |container: &ContainerStatus| {
            let ends = [&container.state, &container.last_state].map(|state| state.terminated.as_ref());
            let end = ends.into_iter().flatten().find(|terminated| terminated.exit_code != 0)?;
            let (name, code, reason) = (&container.name, end.exit_code, &end.reason);
            let words = if end.message.is_empty() { String::new() } else { format!(": {}", cut(&end.message)) };
            Some(format!("container {name} ended with exit code {code} ({reason}){words}"))
        };
        self.containers().find_map(end).unwrap_or_else(|| "its status does not say why".to_owned())
    }

    /// What keeps it from running, although it has not failed.
    pub(super) fn trouble(&self, pod: &Object) -> Option<Problem> {
        let name = &pod.metadata.name;
        if pod.is_being_deleted() {
            let message = format!(
                "Pod {name} is being deleted, and not by the operator; the job goes on when it is gone: if its node is lost, \
                 delete it with --force"
            );
            return Some(Problem::passing("RunnerTerminating", message));
        }
        self.unschedulable(name).or_else(|| self.containers().find_map(|container| container.trouble(name)))
    }

    fn unschedulable(&self, name: &str) -> Option<Problem> {
        let condition = self.conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
        // Gates hold a pod back on purpose.
        if condition.status != "False" || condition.reason == "SchedulingGated" {
            return None;
        }
        let message = format!(
            "Pod {name} can't be scheduled: {}; ask for less in spec.job.spec, or make room on the nodes",
            cut(&condition.message)
        );
        Some(Problem::passing("RunnerUnschedulable", message))
    }
}

impl ContainerState {
    fn started_at(&self) -> Option<&str> {
        let running = self.running.as_ref().and_then(|running| running.started_at.as_deref());
        running.or_else(|| self.terminated.as_ref()?.started_at.as_deref())
    }
}

impl ContainerStatus {
    fn trouble(&self, pod: &str) -> Option<Problem> {
        let Waiting { reason, message } = self.state.waiting.as_ref()?;
        let (container, message) = (&self.name, cut(message));
        let again = "then set spec.suspend to true and to false to begin anew";
        Some(match reason.as_str() {
            reason if STARTING.contains(&reason) => return None,
            reason if IMAGE_TROUBLE.contains(&reason) => Problem::passing(
                "RunnerImage",
                format!(
                    "the image of container {container} of Pod {pod} can't be pulled ({reason}): {message}; correct image or \
                     imagePullSecrets in spec.job.spec, {again}"
                ),
            ),
            "CrashLoopBackOff" => Problem::passing(
                "RunnerCrashLoop",
                format!(
                    "container {container} of Pod {pod} fails again and again; read kubectl logs --previous {pod}, and set \
                     spec.backoffLimit to end the job after so many failures"
                ),
            ),
            reason => Problem::passing(
                "RunnerNotStarting",
                format!(
                    "container {container} of Pod {pod} can't be started ({reason}): {message}; correct spec.job.spec, {again}"
                ),
            ),
        })
    }
}

fn cut(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(LAST_WORDS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
