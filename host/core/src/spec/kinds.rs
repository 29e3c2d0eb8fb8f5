//! Groups, versions, kinds and plurals of the custom resources.

use crate::object::GroupVersionKind;

/// API group of Dask's kinds, the Python operator's.
pub const DASK_GROUP: &str = "kubernetes.dask.org";
/// Version of Dask's kinds.
pub const DASK_VERSION: &str = "v1";
/// API group of plugins: one of its own, so that a right to `kubernetes.dask.org/*` is no right to let code in.
pub const PLUGINS_GROUP: &str = "plugins.dask.org";
/// Version of the plugins' kinds.
pub const PLUGINS_VERSION: &str = "v1alpha1";

/// A kind that we define. All are namespaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CustomKind {
    /// API group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Plural name, in URLs and access rules.
    pub plural: &'static str,
}

impl CustomKind {
    const fn dask(kind: &'static str, plural: &'static str) -> Self {
        Self { group: DASK_GROUP, version: DASK_VERSION, kind, plural }
    }

    const fn plugins(kind: &'static str, plural: &'static str) -> Self {
        Self { group: PLUGINS_GROUP, version: PLUGINS_VERSION, kind, plural }
    }

    /// Group, version and kind as an object carries them.
    pub fn group_version_kind(self) -> GroupVersionKind {
        GroupVersionKind::new(self.group, self.version, self.kind)
    }
}

/// A scheduler with its Service and its default group of workers.
pub const DASK_CLUSTER: CustomKind = CustomKind::dask("DaskCluster", "daskclusters");
/// A group of equal workers of one cluster.
pub const DASK_WORKER_GROUP: CustomKind = CustomKind::dask("DaskWorkerGroup", "daskworkergroups");
/// A pod that runs once, with a cluster for the time of its run.
pub const DASK_JOB: CustomKind = CustomKind::dask("DaskJob", "daskjobs");
/// Scales a cluster's default group by its load.
pub const DASK_AUTOSCALER: CustomKind = CustomKind::dask("DaskAutoscaler", "daskautoscalers");
/// A mounted plugin.
pub const DASK_PLUGIN: CustomKind = CustomKind::plugins("DaskPlugin", "daskplugins");
/// What one plugin has handled of one subject.
pub const DASK_PLUGIN_RECORD: CustomKind = CustomKind::plugins("DaskPluginRecord", "daskpluginrecords");
