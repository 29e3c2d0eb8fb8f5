//! The Dask objects: how many of each kind are in which phase and condition, and the workers of all groups. Counted when
//! asked for, from what the watches have told.

use std::{collections::BTreeMap, fmt, sync::Arc};

use dask_wasm_operator_cluster::index::Index;
use dask_wasm_operator_core::{
    dask::{autoscaler_kind, cluster_kind, job_kind, worker_group_kind},
    object::{GroupVersionKind, Object},
    spec::{ConditionStatus, DaskWorkerGroupSpec},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use serde::Deserialize;
use serde_json::Value;

/// What is said of an object that has no phase yet, or one that another operator has written.
const UNKNOWN: &str = "Unknown";

/// The conditions that are counted; other operators may write others.
const CONDITIONS: [&str; 3] = ["Available", "Progressing", "Degraded"];

/// The kinds with their phases; none: they have only conditions.
fn kinds() -> [(GroupVersionKind, &'static [&'static str]); 4] {
    [
        (cluster_kind(), &["Created", "Pending", "Running", "Error", UNKNOWN]),
        (worker_group_kind(), &[]),
        (job_kind(), &["JobCreated", "ClusterCreated", "Running", "Successful", "Failed", UNKNOWN]),
        (autoscaler_kind(), &[]),
    ]
}

/// Collector of the metrics of Dask objects.
pub(super) struct DaskObjects {
    index: Arc<Index>,
}

/// What is read of the status of any kind.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    #[serde(alias = "jobStatus")]
    phase: Option<String>,
    conditions: Vec<Value>,
    replicas: Option<u32>,
    ready_replicas: Option<u32>,
    outdated_replicas: Option<u32>,
}

/// Numbers by the values of their labels.
type Counts = BTreeMap<Vec<(&'static str, String)>, i64>;

#[derive(Default)]
struct Figures {
    objects: Counts,
    conditions: Counts,
    workers: Counts,
}

impl DaskObjects {
    pub(super) fn of(index: Arc<Index>) -> Self {
        Self { index }
    }
}

impl fmt::Debug for DaskObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaskObjects").finish_non_exhaustive()
    }
}

impl Figures {
    fn count(index: &Index) -> Self {
        let mut figures = Self::default();
        for (kind, phases) in kinds() {
            let label = ("kind", kind.kind.clone());
            // Those that there are none of are told, too: their alerts are to end.
            let without = phases.is_empty().then(|| vec![label.clone()]);
            let with = phases.iter().map(|phase| vec![label.clone(), ("phase", (*phase).to_owned())]);
            figures.objects.extend(with.chain(without).map(|labels| (labels, 0)));
            for object in index.list(&kind) {
                figures.add(&object, phases);
            }
        }
        for state in ["wanted", "existing", "ready", "outdated"] {
            figures.workers.entry(vec![("state", state.to_owned())]).or_default();
        }
        figures
    }

    fn add(&mut self, object: &Object, phases: &[&'static str]) {
        let status: Status = object.field("status").and_then(Result::ok).unwrap_or_default();
        let kind = ("kind", object.kind.kind.clone());
        let mut labels = vec![kind.clone()];
        if !phases.is_empty() {
            let known = phases.iter().find(|phase| status.phase.as_deref() == Some(**phase));
            labels.push(("phase", (*known.unwrap_or(&UNKNOWN)).to_owned()));
        }
        *self.objects.entry(labels).or_default() += 1;
        for condition in &status.conditions {
            let text = |field: &str| condition.get(field).and_then(Value::as_str);
            let Some(type_) = text("type").filter(|type_| CONDITIONS.contains(type_)) else { continue };
            let is = condition.get("status").and_then(|status| ConditionStatus::deserialize(status).ok());
            let is = match is {
                Some(ConditionStatus::True) => "True",
                Some(ConditionStatus::False) => "False",
                Some(ConditionStatus::Unknown) | None => UNKNOWN,
            };
            let labels = vec![kind.clone(), ("condition", type_.to_owned()), ("status", is.to_owned())];
            *self.conditions.entry(labels).or_default() += 1;
        }
        if object.kind.same_kind(&worker_group_kind()) {
            let spec = object.field::<DaskWorkerGroupSpec>("spec").and_then(Result::ok);
            let wanted = spec.map(|spec| spec.worker.replicas);
            for (state, workers) in [
                ("wanted", wanted),
                ("existing", status.replicas),
                ("ready", status.ready_replicas),
                ("outdated", status.outdated_replicas),
            ] {
                *self.workers.entry(vec![("state", state.to_owned())]).or_default() += i64::from(workers.unwrap_or(0));
            }
        }
    }
}

impl Collector for DaskObjects {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let figures = Figures::count(&self.index);
        for (name, help, counts) in [
            ("objects", "Dask objects, by kind, and by phase where the kind has one", figures.objects),
            ("object_conditions", "Dask objects, by kind and status of each condition", figures.conditions),
            ("workers", "Workers of all groups, by state", figures.workers),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, count) in counts {
                ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_cluster::index::Scope;
    use serde_json::json;

    use super::*;
    use crate::metrics::Metrics;

    fn object(kind: &GroupVersionKind, number: usize, spec: &Value, status: &Value) -> Object {
        let object = json!({
            "apiVersion": kind.api_version(), "kind": kind.kind,
            "metadata": {"name": format!("object-{number}"), "namespace": "n", "uid": format!("{kind}-{number}")},
            "spec": spec, "status": status,
        });
        Object::from_value(&object).unwrap()
    }

    #[test]
    fn objects_are_counted_by_phase_and_condition_and_never_named() {
        let index = Arc::new(Index::new(|_| {}));
        let condition =
            |type_: &str, status: &str| json!({"type": type_, "status": status, "reason": "x", "message": "y"});
        let group = json!({"cluster": "c", "worker": {"replicas": 4, "spec": {}}});
        for (kind, spec, statuses) in [
            (
                cluster_kind(),
                json!({}),
                vec![
                    json!({"phase": "Running", "conditions": [condition("Available", "True"), condition("Degraded", "False")]}),
                    json!({"phase": "Running", "conditions": [condition("Available", "False"), condition("Foreign", "True")]}),
                    json!({"phase": "object-3"}),
                    json!(null),
                ],
            ),
            (
                worker_group_kind(),
                group,
                vec![json!({"replicas": 4, "readyReplicas": 3, "outdatedReplicas": 1}), json!({"readyReplicas": 2})],
            ),
            (job_kind(), json!({}), vec![json!({"jobStatus": "Failed"})]),
            (autoscaler_kind(), json!({}), vec![json!({"conditions": [condition("Available", "odd")]})]),
        ] {
            let watch = index.add_watch(&kind, Scope::default());
            let objects = statuses.iter().enumerate().map(|(number, status)| object(&kind, number, &spec, status));
            index.relisted(watch, 1, objects.collect());
        }
        let text = Metrics::new().of_objects(index).encode();
        for line in [
            "dask_operator_objects{kind=\"DaskCluster\",phase=\"Running\"} 2",
            "dask_operator_objects{kind=\"DaskCluster\",phase=\"Unknown\"} 2",
            "dask_operator_objects{kind=\"DaskCluster\",phase=\"Error\"} 0",
            "dask_operator_objects{kind=\"DaskWorkerGroup\"} 2",
            "dask_operator_objects{kind=\"DaskJob\",phase=\"Failed\"} 1",
            "dask_operator_objects{kind=\"DaskJob\",phase=\"Running\"} 0",
            "dask_operator_objects{kind=\"DaskAutoscaler\"} 1",
            "dask_operator_object_conditions{kind=\"DaskCluster\",condition=\"Available\",status=\"True\"} 1",
            "dask_operator_object_conditions{kind=\"DaskCluster\",condition=\"Available\",status=\"False\"} 1",
            "dask_operator_object_conditions{kind=\"DaskAutoscaler\",condition=\"Available\",status=\"Unknown\"} 1",
            "dask_operator_workers{state=\"wanted\"} 8",
            "dask_operator_workers{state=\"existing\"} 4",
            "dask_operator_workers{state=\"ready\"} 5",
            "dask_operator_workers{state=\"outdated\"} 1",
        ] {
            assert!(text.lines().any(|candidate| candidate == line), "{line}\nnot in\n{text}");
        }
        assert!(!text.contains("Foreign") && !text.contains("object-"), "labels are words from the code:\n{text}");
    }
}
