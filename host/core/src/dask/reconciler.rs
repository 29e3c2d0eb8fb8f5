//! Which Dask reconcilers there are.

/// The native reconcilers. Each is a pure description and two pure functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reconciler {
    /// DaskCluster → scheduler Deployment and Service, default worker group.
    Cluster,
    /// DaskWorkerGroup → one Deployment per worker.
    WorkerGroup,
    /// DaskJob → DaskCluster and the pod that runs the job.
    Job,
    /// DaskAutoscaler → replicas of a DaskWorkerGroup, as its scheduler asks for.
    Autoscaler,
    /// DaskCluster with `idleTimeout` → its end, when its scheduler has had nothing to do for so long.
    IdleShutdown,
}

impl Reconciler {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Cluster, Self::WorkerGroup, Self::Job, Self::Autoscaler, Self::IdleShutdown];
}
