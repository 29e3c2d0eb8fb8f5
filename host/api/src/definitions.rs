//! The custom resource definitions, in one table.

use dask_wasm_operator_core::object::GroupVersionKind;
use dask_wasm_operator_core::spec::{
    CustomKind, DASK_AUTOSCALER, DASK_CLUSTER, DASK_JOB, DASK_PLUGIN, DASK_PLUGIN_RECORD, DASK_WORKER_GROUP,
    DaskAutoscalerSpec, DaskAutoscalerStatus, DaskClusterSpec, DaskClusterStatus, DaskJobSpec, DaskJobStatus,
    DaskPluginRecordSpec, DaskPluginRecordStatus, DaskPluginSpec, DaskPluginStatus, DaskWorkerGroupSpec,
    DaskWorkerGroupStatus,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, CustomResourceSubresourceScale,
    CustomResourceSubresourceStatus, CustomResourceSubresources, CustomResourceValidation,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::structural::schema_of;

/// What a definition says besides its schemas.
struct Definition {
    kind: CustomKind,
    description: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    spec: fn() -> Value,
    status: fn() -> Value,
    /// Whether `status` is written apart from the rest.
    status_subresource: bool,
    /// Whether `kubectl scale` and autoscalers can set `spec.worker.replicas`.
    scalable: bool,
    columns: &'static [Column],
}

/// A column of `kubectl get`.
struct Column {
    name: &'static str,
    type_: &'static str,
    path: &'static str,
    /// Whether it is shown only with `--output wide`.
    wide: bool,
}

const fn column(name: &'static str, type_: &'static str, path: &'static str) -> Column {
    Column { name, type_, path, wide: false }
}

const fn wide(name: &'static str, type_: &'static str, path: &'static str) -> Column {
    Column { name, type_, path, wide: true }
}

const AGE: Column = column("Age", "date", ".metadata.creationTimestamp");
const AVAILABLE: Column = wide("Message", "string", r#".status.conditions[?(@.type=="Available")].message"#);

/// `kubectl get dask` lists what users of Dask have rights to. Not in `all`: `kubectl delete all --all` would take clusters
/// along. The plugins' kinds are not in `dask`: whoever may not read them would get an error with each list.
const DASK_CATEGORY: &[&str] = &["dask"];

/// Names, short names and the columns' meaning are the Python operator's for its four kinds.
const DEFINITIONS: [Definition; 6] = [
    Definition {
        kind: DASK_CLUSTER,
        description: "A Dask cluster: a scheduler, its Service and a default group of workers.",
        short_names: &["daskcluster", "dsk"],
        categories: DASK_CATEGORY,
        spec: schema_of::<DaskClusterSpec>,
        status: schema_of::<DaskClusterStatus>,
        status_subresource: true,
        scalable: true,
        columns: &[
            column("Workers", "integer", ".spec.worker.replicas"),
            column("Ready", "integer", ".status.readyReplicas"),
            column("Status", "string", ".status.phase"),
            wide("Current", "integer", ".status.replicas"),
            wide("Outdated", "integer", ".status.outdatedReplicas"),
            AVAILABLE,
            AGE,
        ],
    },
    Definition {
        kind: DASK_WORKER_GROUP,
        description: "A group of equal workers of a Dask cluster.",
        short_names: &["daskworkers"],
        categories: DASK_CATEGORY,
        spec: schema_of::<DaskWorkerGroupSpec>,
        status: schema_of::<DaskWorkerGroupStatus>,
        status_subresource: true,
        scalable: true,
        columns: &[
            column("Cluster", "string", ".spec.cluster"),
            column("Workers", "integer", ".spec.worker.replicas"),
            column("Ready", "integer", ".status.readyReplicas"),
            wide("Current", "integer", ".status.replicas"),
            wide("Outdated", "integer", ".status.outdatedReplicas"),
            AVAILABLE,
            AGE,
        ],
    },
    Definition {
        kind: DASK_JOB,
        description: "A pod that runs once, and a Dask cluster for the time of its run.",
        short_names: &["djb"],
        categories: DASK_CATEGORY,
        spec: schema_of::<DaskJobSpec>,
        status: schema_of::<DaskJobStatus>,
        status_subresource: true,
        scalable: false,
        columns: &[
            column("Status", "string", ".status.jobStatus"),
            column("Number Of Workers", "integer", ".spec.cluster.spec.worker.replicas"),
            AGE,
        ],
    },
    Definition {
        kind: DASK_AUTOSCALER,
        description: "Scales the default group of a Dask cluster to what its scheduler asks for.",
        short_names: &[],
        categories: DASK_CATEGORY,
        spec: schema_of::<DaskAutoscalerSpec>,
        status: schema_of::<DaskAutoscalerStatus>,
        status_subresource: true,
        scalable: false,
        columns: &[
            column("Cluster", "string", ".spec.cluster"),
            column("Minimum", "integer", ".spec.minimum"),
            column("Maximum", "integer", ".spec.maximum"),
            column("Desired", "integer", ".status.desiredReplicas"),
            column("Current", "integer", ".status.currentReplicas"),
            column("Last Scale", "date", ".status.lastScaleTime"),
            AVAILABLE,
            AGE,
        ],
    },
    Definition {
        kind: DASK_PLUGIN,
        description: "A plugin of the Dask operator: its code, its configuration and what it may do. Honoured only in the operator's own namespace.",
        short_names: &["dpl"],
        categories: &[],
        spec: schema_of::<DaskPluginSpec>,
        status: schema_of::<DaskPluginStatus>,
        status_subresource: true,
        scalable: false,
        columns: &[
            column("State", "string", ".status.state"),
            column("Reason", "string", ".status.reason"),
            column("Subjects", "integer", ".status.counts.subjects"),
            column("Children", "integer", ".status.counts.children"),
            column("Parked", "integer", ".status.counts.parked"),
            wide("Version", "string", ".status.version"),
            wide("Digest", "string", ".status.digest"),
            wide("Message", "string", ".status.message"),
            AGE,
        ],
    },
    Definition {
        kind: DASK_PLUGIN_RECORD,
        description: "What one plugin has handled of one subject. Written and removed by the operator.",
        short_names: &[],
        categories: &[],
        spec: schema_of::<DaskPluginRecordSpec>,
        status: schema_of::<DaskPluginRecordStatus>,
        // One write makes the record together with what was handled.
        status_subresource: false,
        scalable: false,
        columns: &[
            column("Plugin", "string", ".spec.plugin"),
            column("Kind", "string", ".spec.subject.kind"),
            column("Subject", "string", ".spec.subject.name"),
            AGE,
        ],
    },
];

/// The definitions of all our kinds.
pub fn crds() -> Vec<CustomResourceDefinition> {
    DEFINITIONS.iter().map(Definition::to_crd).collect()
}

/// The kinds of ours with their schemas, one after the other: all definitions at once take 20 MiB.
pub fn schemas() -> impl Iterator<Item = (GroupVersionKind, Value)> {
    DEFINITIONS.iter().map(|definition| (definition.kind.group_version_kind(), definition.schema()))
}

impl Definition {
    fn to_crd(&self) -> CustomResourceDefinition {
        let singular = self.kind.kind.to_lowercase();
        let owned = |texts: &[&str]| (!texts.is_empty()).then(|| texts.iter().map(|&text| text.to_owned()).collect());
        CustomResourceDefinition {
            metadata: ObjectMeta {
                name: Some(format!("{}.{}", self.kind.plural, self.kind.group)),
                ..ObjectMeta::default()
            },
            spec: CustomResourceDefinitionSpec {
                group: self.kind.group.to_owned(),
                names: CustomResourceDefinitionNames {
                    kind: self.kind.kind.to_owned(),
                    list_kind: Some(format!("{}List", self.kind.kind)),
                    plural: self.kind.plural.to_owned(),
                    singular: Some(singular),
                    short_names: owned(self.short_names),
                    categories: owned(self.categories),
                },
                scope: "Namespaced".to_owned(),
                versions: vec![self.version()],
                ..CustomResourceDefinitionSpec::default()
            },
            status: None,
        }
    }

    fn schema(&self) -> Value {
        json!({
            "description": self.description,
            "type": "object",
            "required": ["spec"],
            "properties": { "spec": (self.spec)(), "status": (self.status)() },
        })
    }

    fn version(&self) -> CustomResourceDefinitionVersion {
        let schema = self.schema();
        CustomResourceDefinitionVersion {
            name: self.kind.version.to_owned(),
            served: true,
            storage: true,
            additional_printer_columns: Some(self.columns.iter().map(Column::to_definition).collect()),
            schema: Some(CustomResourceValidation {
                open_api_v3_schema: Some(
                    serde_json::from_value(schema).expect("a schema from schemars has only keywords of OpenAPI 3"),
                ),
            }),
            subresources: self.subresources(),
            ..CustomResourceDefinitionVersion::default()
        }
    }

    fn subresources(&self) -> Option<CustomResourceSubresources> {
        let scale = self.scalable.then(|| CustomResourceSubresourceScale {
            spec_replicas_path: ".spec.worker.replicas".to_owned(),
            status_replicas_path: ".status.replicas".to_owned(),
            label_selector_path: Some(".status.labelSelector".to_owned()),
        });
        let status = self.status_subresource.then(|| CustomResourceSubresourceStatus(json!({})));
        (scale.is_some() || status.is_some()).then_some(CustomResourceSubresources { scale, status })
    }
}

impl Column {
    fn to_definition(&self) -> CustomResourceColumnDefinition {
        CustomResourceColumnDefinition {
            name: self.name.to_owned(),
            type_: self.type_.to_owned(),
            json_path: self.path.to_owned(),
            priority: self.wide.then_some(1),
            ..CustomResourceColumnDefinition::default()
        }
    }
}
