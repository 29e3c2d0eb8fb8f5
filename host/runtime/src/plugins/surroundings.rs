//! What works around the plugins.

use std::{path::PathBuf, sync::Arc};

use dask_wasm_operator_cluster::{config_maps::ConfigMaps, discovery::Discovery, index::Index, watch::Watches};
use dask_wasm_operator_core::{
    object::Resource,
    ports::{Observed, Writes},
};
use dask_wasm_operator_engine::Engine;
use tokio::sync::Notify;

use crate::{controller::Controller, metrics::Metrics, watches::served::ServedWatches};

/// What the manager needs.
pub(crate) struct ManagerSurroundings {
    pub(crate) engine: Engine,
    pub(crate) index: Arc<Index>,
    pub(crate) observed: Arc<dyn Observed>,
    pub(crate) writes: Arc<dyn Writes>,
    pub(crate) watches: Watches,
    pub(crate) discovery: Arc<Discovery>,
    pub(crate) controller: Arc<Controller>,
    pub(crate) metrics: Arc<Metrics>,
    /// Where DaskPlugins and their ConfigMaps are.
    pub(crate) operator_namespace: String,
    /// Reads the ConfigMaps.
    pub(crate) config_maps: ConfigMaps,
    /// What is watched wherever Dask objects are served.
    pub(crate) served: ServedWatches,
    pub(crate) directory: Option<PathBuf>,
    /// The kind of CustomResourceDefinitions, if the operator may watch them.
    pub(crate) definitions: Option<Resource>,
    /// Told when what a DaskPlugin asks for or a ConfigMap of the operator's namespace changed.
    pub(crate) changed: Arc<Notify>,
    /// Told when somebody else changed the status of a DaskPlugin.
    pub(crate) statuses_changed: Arc<Notify>,
    /// Told when a CustomResourceDefinition changed.
    pub(crate) definitions_changed: Arc<Notify>,
}
