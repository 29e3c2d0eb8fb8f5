//! What the status of a Deployment says of its pods.

use serde::Deserialize;

use crate::{object::Object, time::epoch_millis};

/// What is read of a Deployment's status.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::dask) struct DeploymentStatus {
    observed_generation: i64,
    pub(in crate::dask) replicas: u32,
    updated_replicas: u32,
    pub(in crate::dask) ready_replicas: u32,
    pub(in crate::dask) available_replicas: u32,
    pub(in crate::dask) conditions: Vec<DeploymentCondition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[serde(rename_all = "camelCase")]
pub(in crate::dask) struct DeploymentCondition {
    #[serde(rename = "type")]
    pub(in crate::dask) type_: String,
    pub(in crate::dask) status: String,
    pub(in crate::dask) reason: String,
    pub(in crate::dask) message: String,
    last_transition_time: Option<String>,
}

impl DeploymentStatus {
    pub(in crate::dask) fn of(deployment: &Object) -> Self {
        deployment.field("status").and_then(Result::ok).unwrap_or_default()
    }

    /// Whether it is that of the Deployment as it is now: its controller has looked.
    pub(in crate::dask) fn is_of(&self, deployment: &Object) -> bool {
        self.observed_generation > 0
            && deployment.metadata.generation.is_none_or(|generation| self.observed_generation >= generation)
    }

    /// Whether its pod was ready at any time: the rollout was complete once.
    pub(in crate::dask) fn has_started(&self) -> bool {
        let complete = |condition: &DeploymentCondition| {
            condition.type_ == "Progressing" && condition.reason == "NewReplicaSetAvailable"
        };
        self.ready_replicas > 0 || self.conditions.iter().any(complete)
    }

    /// Since when its pod is ready, in milliseconds since the Unix epoch.
    pub(in crate::dask) fn ready_since(&self) -> Option<u64> {
        let available = |condition: &&DeploymentCondition| condition.type_ == "Available" && condition.status == "True";
        epoch_millis(self.conditions.iter().find(available)?.last_transition_time.as_deref()?)
    }

    /// Why pods of the present template can't be made (quota, admission), in the server's words. That those of an older one can't
    /// is told until the new ones are ready, and matters no more.
    pub(in crate::dask) fn failure(&self) -> Option<&str> {
        let failing =
            |condition: &&DeploymentCondition| condition.type_ == "ReplicaFailure" && condition.status == "True";
        let failure = self.conditions.iter().find(failing).filter(|_| self.updated_replicas == 0)?;
        Some(&failure.message)
    }
}
