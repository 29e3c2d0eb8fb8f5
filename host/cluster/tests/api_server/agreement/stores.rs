//! The two stores. Managers write through the ports of the pipeline; what users do, the cluster in memory offers as methods
//! and the API server to any client.

use std::collections::BTreeSet;

use anyhow::Context as _;
use dask_wasm_operator_core::{
    action::{Action, WriteError, Written},
    conflict::Conflict,
    memory::MemoryCluster,
    object::ObjectKey,
    ports::{Observed as _, Writes},
};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{
    kinds::Kind,
    steps::{Scene, merge_patch},
    view::known_manager,
};
use crate::{World, api_resource};

/// The field manager of users.
pub(crate) const USER: &str = "given";

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Deleted,
    /// Manager and path of each field that another holds.
    Conflict(BTreeSet<(String, String)>),
    Stale,
    Foreign,
    Refused,
    Exists,
    Absent,
}

pub(crate) trait Store {
    /// An object with its managed fields.
    async fn get(&self, key: &ObjectKey) -> anyhow::Result<Option<Value>>;

    async fn create(&self, object: Value) -> anyhow::Result<Answer>;

    /// A user changes what they have read, and puts it back.
    async fn edit(&self, key: &ObjectKey, change: &dyn Fn(&mut Value)) -> anyhow::Result<Answer>;

    /// A user sends a merge patch.
    async fn merge(&self, key: &ObjectKey, patch: &Value) -> anyhow::Result<Answer>;

    async fn write(&self, action: Action) -> anyhow::Result<Answer>;

    /// All objects of a scene.
    async fn objects(&self, scene: &Scene) -> anyhow::Result<Vec<Option<Value>>> {
        let mut objects = Vec::new();
        for key in scene.keys() {
            objects.push(self.get(&key).await?);
        }
        Ok(objects)
    }
}

async fn written(writes: &impl Writes, action: Action) -> anyhow::Result<Answer> {
    Ok(match writes.write(action).await {
        Ok(Written::Applied(_)) => Answer::Done,
        Ok(Written::Deleted) => Answer::Deleted,
        Err(WriteError::Conflict { conflicts, .. }) => Answer::Conflict(told(&conflicts)?),
        Err(WriteError::Stale { .. }) => Answer::Stale,
        Err(WriteError::Foreign { .. }) => Answer::Foreign,
        Err(WriteError::Refused { .. }) => Answer::Refused,
        Err(error) => return Err(error.into()),
    })
}

/// Manager, with the subresource if there is one, and path.
fn told(conflicts: &[Conflict]) -> anyhow::Result<BTreeSet<(String, String)>> {
    let told = |Conflict { path, manager, subresource, .. }: &Conflict| {
        let known = known_manager(manager).with_context(|| format!("a conflict with {manager}"))?;
        Ok((format!("{known} {subresource}").trim_end().to_owned(), path.clone()))
    };
    conflicts.iter().map(told).collect()
}

pub(crate) struct Memory<'a> {
    pub(crate) cluster: &'a MemoryCluster,
}

impl Store for Memory<'_> {
    async fn get(&self, key: &ObjectKey) -> anyhow::Result<Option<Value>> {
        let Some(object) = self.cluster.get(&key.kind, &key.at) else { return Ok(None) };
        let mut value = object.to_value();
        let entries = object.managed_fields.iter().map(|entry| {
            json!({
                "manager": entry.manager, "operation": entry.operation, "subresource": entry.subresource,
                "fieldsV1": entry.decoded(),
            })
        });
        value["metadata"]["managedFields"] = entries.collect();
        Ok(Some(value))
    }

    async fn create(&self, object: Value) -> anyhow::Result<Answer> {
        Ok(match self.cluster.create(object) {
            Ok(_) => Answer::Done,
            Err(why) if why.contains("exists already") => Answer::Exists,
            Err(_) => Answer::Refused,
        })
    }

    async fn edit(&self, key: &ObjectKey, change: &dyn Fn(&mut Value)) -> anyhow::Result<Answer> {
        if self.get(key).await?.is_none() {
            return Ok(Answer::Absent);
        }
        Ok(if self.cluster.edit(key, change) { Answer::Done } else { Answer::Refused })
    }

    async fn merge(&self, key: &ObjectKey, patch: &Value) -> anyhow::Result<Answer> {
        self.edit(key, &|object| merge_patch(object, patch)).await
    }

    async fn write(&self, action: Action) -> anyhow::Result<Answer> {
        written(self.cluster, action).await
    }
}

pub(crate) struct Server<'a> {
    world: &'a World,
    api: Api<DynamicObject>,
}

impl<'a> Server<'a> {
    pub(crate) fn new(world: &'a World, kind: &Kind) -> Self {
        let resource = api_resource(&world.resource(kind.name));
        Self { world, api: Api::namespaced_with(world.admin.clone(), &world.namespace, &resource) }
    }

    /// Deletes an object, whatever finalizers it has.
    pub(crate) async fn discard(&self, key: &ObjectKey) -> anyhow::Result<()> {
        let name = &key.at.name;
        let patch = json!({"metadata": {"finalizers": null}});
        let patched = self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        let deleted = self.api.delete(name, &DeleteParams::default()).await;
        for error in [patched.err(), deleted.err()].into_iter().flatten() {
            // The last finalizer was all that kept it.
            if answer(Err(error))? != Answer::Absent {
                anyhow::bail!("{name} can't be deleted");
            }
        }
        Ok(())
    }
}

/// What the API server says to a user.
fn answer(result: kube::Result<DynamicObject>) -> anyhow::Result<Answer> {
    match result {
        Ok(_) => Ok(Answer::Done),
        Err(kube::Error::Api(status)) => Ok(match (status.code, &*status.reason) {
            (409, "AlreadyExists") => Answer::Exists,
            (409, _) => Answer::Stale,
            (404, _) => Answer::Absent,
            (400 | 403 | 422, _) => Answer::Refused,
            _ => return Err(kube::Error::Api(status).into()),
        }),
        Err(error) => Err(error.into()),
    }
}

impl Store for Server<'_> {
    async fn get(&self, key: &ObjectKey) -> anyhow::Result<Option<Value>> {
        Ok(self.api.get_opt(&key.at.name).await?.map(serde_json::to_value).transpose()?)
    }

    async fn create(&self, object: Value) -> anyhow::Result<Answer> {
        let parameters = PostParams { field_manager: Some(USER.to_owned()), ..PostParams::default() };
        answer(self.api.create(&parameters, &DynamicObject::deserialize(&object)?).await)
    }

    async fn edit(&self, key: &ObjectKey, change: &dyn Fn(&mut Value)) -> anyhow::Result<Answer> {
        let parameters = PostParams { field_manager: Some(USER.to_owned()), ..PostParams::default() };
        loop {
            let Some(mut object) = self.get(key).await? else { return Ok(Answer::Absent) };
            change(&mut object);
            let put = self.api.replace(&key.at.name, &parameters, &DynamicObject::deserialize(&object)?).await;
            // A controller has written meanwhile.
            match answer(put)? {
                Answer::Stale => {}
                answer => return Ok(answer),
            }
        }
    }

    async fn merge(&self, key: &ObjectKey, patch: &Value) -> anyhow::Result<Answer> {
        let parameters = PatchParams { field_manager: Some(USER.to_owned()), ..PatchParams::default() };
        answer(self.api.patch(&key.at.name, &parameters, &Patch::Merge(patch)).await)
    }

    async fn write(&self, action: Action) -> anyhow::Result<Answer> {
        written(&self.world.applier, action).await
    }
}
