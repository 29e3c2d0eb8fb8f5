//! A cluster in memory that has Dask's schedulers.

use crate::{
    dask::{
        naming::{CLUSTER_NAME_LABEL, COMPONENT_LABEL},
        reconciler::Reconciler,
    },
    memory::MemoryCluster,
    object::{Object, Resource},
    ports::{Pending, Schedulers},
    scheduler::{Left, Scheduler, SchedulerCall, SchedulerError, SchedulerReply, SchedulerWorker},
};

/// An empty cluster that serves these kinds, for the Dask reconcilers. `created_at` is the time of all objects, RFC 3339.
pub fn cluster_in_memory(resources: Vec<Resource>, created_at: &str) -> MemoryCluster {
    MemoryCluster::new(resources, created_at).that_serves::<Reconciler>()
}

/// Its schedulers are busy, have the workers that they want, and give any of them up.
impl Schedulers for MemoryCluster {
    fn call(&self, scheduler: Scheduler, call: SchedulerCall) -> Pending<'_, Result<SchedulerReply, SchedulerError>> {
        let cluster = scheduler.cluster;
        let is_worker = |object: &Object| {
            let label = |key: &str| object.metadata.labels.get(key).map(String::as_str);
            object.metadata.namespace == cluster.namespace
                && label(CLUSTER_NAME_LABEL) == Some(&cluster.name)
                && label(COMPONENT_LABEL) == Some("worker")
        };
        let workers = || {
            let objects = self.objects().into_iter().filter(|object| is_worker(object));
            objects.map(|object| object.metadata.name.clone())
        };
        let worker = |name: String| {
            let address = format!("tcp://{name}");
            let retiring = self.is_retired(&address).then_some(Left::Nothing);
            SchedulerWorker { name, address, place: 0, retiring }
        };
        let reply = match call {
            SchedulerCall::Workers => SchedulerReply::Workers(workers().map(worker).collect()),
            SchedulerCall::AdaptiveTarget => SchedulerReply::AdaptiveTarget(workers().count() as u64),
            SchedulerCall::IdleSince => SchedulerReply::IdleSince(None),
            SchedulerCall::Retire(addresses) => {
                self.retire(addresses.iter().cloned());
                SchedulerReply::Retired(addresses)
            }
        };
        Box::pin(std::future::ready(Ok(reply)))
    }
}
