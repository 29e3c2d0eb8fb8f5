//! The shapes of the operator's custom resources: the one source of their schemas.
//!
//! Plain serde structs, without a client. `host/api` makes the CustomResourceDefinitions of them (feature `schema`), the
//! reconcilers and the plugin host decode objects with them. The doc comments of fields are what `kubectl explain` shows, so
//! they speak to users. Nothing here may drop a field of a pod or service spec: those stay JSON values.

mod common;
mod dask;
mod kinds;
mod limits;
mod plugin;
mod plugin_status;
mod record;
#[cfg(feature = "schema")]
mod schema;
mod source;
mod text;
mod update;

pub use common::{Condition, ConditionStatus, Finding, LabelSelector, LabelSelectorRequirement, Metadata};
pub use dask::{
    ClusterPhase, DaskAutoscalerSpec, DaskAutoscalerStatus, DaskClusterSpec, DaskClusterStatus, DaskJobSpec,
    DaskJobStatus, DaskWorkerGroupSpec, DaskWorkerGroupStatus, JobCluster, JobRunner, JobStatus, SchedulerSpec,
    WorkerSpec,
};
pub use kinds::{
    CustomKind, DASK_AUTOSCALER, DASK_CLUSTER, DASK_GROUP, DASK_JOB, DASK_PLUGIN, DASK_PLUGIN_RECORD, DASK_VERSION,
    DASK_WORKER_GROUP, PLUGINS_GROUP, PLUGINS_VERSION,
};
pub use limits::{
    APPLIES_PER_MINUTE, CHILDREN_PER_SUBJECT, COMPILE_CPU_TIME, COMPILE_MEMORY_BYTES, COMPONENT_BYTES, CORE_INSTANCES,
    DEADLINE, LOG_LINE_BYTES, LOG_LINES, Limit, LimitError, Limits, LimitsSpec, MEMORY_BYTES, OUTCOME_BYTES,
    STACK_BYTES, TABLE_ELEMENTS,
};
pub use plugin::{
    ConflictPolicy, DEFAULT_CHILDREN, DaskPluginSpec, FailurePolicy, Grants, KindGrant, Mode, PatchGrant,
    PluginNamespaces, Profile, ReadGrant, RemovalPolicy,
};
pub use plugin_status::{DaskPluginStatus, HandlerState, HandlerStatus, LastError, PluginCounts, PluginState};
pub use record::{DaskPluginRecordSpec, DaskPluginRecordStatus, HandledTrigger, SubjectReference};
pub use source::{
    ConfigMapKeys, ConfigMapSource, OciSource, OciVerification, PluginSource, ScriptLanguage, ScriptSource,
    SelectedSource, SourceError, code_resource,
};
pub use text::{DurationText, QuantityText, TextError};
pub use update::{RollingUpdate, Share, UpdateStrategy, UpdateStrategyType};
