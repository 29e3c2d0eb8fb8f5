//! Performs writes: the only place from which objects are changed.
//!
//! Called by the pipeline through [`Writes`]. It decides nothing: an action is performed as it stands, or the reason why not
//! comes back. What the server answers is in the index before the caller hears of it. Every write carries a precondition, so that
//! nothing that somebody else made is ever touched (docs/adr/0041), and nothing is written while the Lease may be somebody else's.

mod verdict;

use std::{sync::Arc, time::Duration};

use dask_wasm_operator_core::{
    action::{Action, Apply, ApplyTarget, Precondition, WriteError, Written},
    claim::claimed,
    dask::Reconciler,
    identity::Identity,
    inheritance::inherited,
    native::Native as _,
    object::{Object, ObjectKey, Resource, WireObject},
    ownership::is_of_author,
    ports::{Mandate, Pending, Writes},
};
use http::Method;
use kube::Client;
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    backoff::Backoff,
    gate::Gate,
    index::Index,
    path::{self, PathError, with_parameter},
    request::{Answer, Call, RequestError, TOTAL_DEADLINE},
};
use verdict::{Verdict, conflicts, fields, judge, names_uid, owner_of};

/// How long one attempt at a write may take: it must end while the Lease is surely held (duration 10 s, renewed every 3 s).
pub const WRITE_DEADLINE: Duration = Duration::from_secs(3);

/// Writes on their way at once: as many connections as saturate an API server with two cores.
pub const CONCURRENCY: usize = 16;

/// Waits between attempts when the server names none.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));

/// Media type of a server-side apply. JSON is YAML.
const APPLY: &str = "application/apply-patch+yaml";

/// The resource version that no object has, because the first write to etcd makes 2: an apply with it creates an object or
/// fails, and never changes one.
const NO_VERSION: &str = "1";

/// Media type of a list of tests and changes.
const JSON_PATCH: &str = "application/json-patch+json";

/// Performs writes. Clones share the places of writes that are on their way.
#[derive(Clone)]
pub struct Applier {
    client: Client,
    index: Arc<Index>,
    gate: Gate,
    /// In whose name it writes. It reads in the operator's own.
    identity: Identity,
    /// One for each attempt that is on its way.
    permits: Arc<Semaphore>,
}

impl Applier {
    /// Writes through `client`, while `gate` is open, with at most `concurrency` writes on their way at once
    /// ([`CONCURRENCY`]).
    pub fn new(client: Client, index: Arc<Index>, gate: Gate, concurrency: usize) -> Self {
        Self { client, index, gate, identity: Identity::Operator, permits: Arc::new(Semaphore::new(concurrency)) }
    }

    async fn perform(&self, action: Action) -> Result<Written, WriteError> {
        match action {
            Action::Apply(apply) => self.apply(apply).await,
            Action::DryRun(apply) => self.dry_run(apply).await,
            Action::Delete { resource, object, uid, resource_version } => {
                self.delete(&resource, object, &uid, resource_version.as_deref()).await
            }
            Action::RemoveFinalizer { resource, object, uid, resource_version, position, annotations } => {
                let patch = json!([
                    {"op": "test", "path": "/metadata/uid", "value": uid},
                    {"op": "test", "path": "/metadata/resourceVersion", "value": resource_version},
                    {"op": "remove", "path": format!("/metadata/finalizers/{position}")},
                    {"op": "add", "path": "/metadata/annotations", "value": annotations},
                ]);
                self.patch(&resource, object, &uid, &patch).await
            }
            Action::Inherit { resource, object, uid, controller, manager } => {
                let inherit = |live: &Value| inherited(live, &manager, &controller);
                let stale = || "there is nothing to inherit any more".to_owned();
                let inherited = self.hand_over(&resource, &object, &uid, inherit).await?;
                inherited.ok_or_else(|| WriteError::Stale { object, message: stale() })
            }
            Action::Displace { apply, parts } => {
                if let Some(uid) = apply.precondition.uid() {
                    let claim = |live: &Value| claimed(live, &apply.manager, &parts);
                    self.hand_over(&apply.resource, &apply.object, uid, claim).await?;
                }
                self.apply(apply).await
            }
        }
    }

    async fn apply(&self, mut apply: Apply) -> Result<Written, WriteError> {
        let path = apply_path(&apply).map_err(|error| bad_name(apply.object.clone(), &error))?;
        put_precondition(&mut apply);
        let call = Call { content_type: APPLY, ..self.call(Method::PATCH, &path, &apply.body) };
        match self.send(&call).await {
            Ok(wire) => Ok(Written::Applied(self.learn(&apply.resource, wire))),
            Err(failure) => Err(self.why_not(&apply, failure).await),
        }
    }

    /// Lets nobody know what the object would be but the caller.
    async fn dry_run(&self, mut apply: Apply) -> Result<Written, WriteError> {
        let path = apply_path(&apply).map_err(|error| bad_name(apply.object.clone(), &error))?;
        let path = with_parameter(path, "dryRun", "All");
        put_precondition(&mut apply);
        let call = Call { content_type: APPLY, ..self.call(Method::PATCH, &path, &apply.body) };
        match self.send(&call).await {
            Ok(wire) => Ok(Written::Applied(Arc::new(self.index.object(&apply.resource.kind, wire)))),
            Err(failure) => Err(self.why_not(&apply, failure).await),
        }
    }

    async fn why_not(&self, apply: &Apply, failure: Failure) -> WriteError {
        let Failure::Request(error) = failure else { return WriteError::NotLeader };
        let object = apply.object.clone();
        let RequestError::Status(status) = &error else { return unavailable(object, "apply", &error) };
        match judge(status, apply) {
            Verdict::Taken => self.who_has(apply).await,
            Verdict::Conflict => WriteError::Conflict { object, conflicts: conflicts(status, apply) },
            Verdict::NotServed => WriteError::NotServed { object },
            Verdict::Refused => refused(object, status.code, &status.reason, &error),
            Verdict::Stale => {
                if names_uid(status) {
                    self.index.forget_departed(&object);
                }
                WriteError::Stale { object, message: error.to_string() }
            }
        }
    }

    /// Changes the managed fields of an object and nothing else. No watch and no index has them whole. None: there is nothing to
    /// be changed.
    async fn hand_over(
        &self,
        resource: &Resource,
        object: &ObjectKey,
        uid: &str,
        change: impl FnOnce(&Value) -> Option<Value>,
    ) -> Result<Option<Written>, WriteError> {
        let path = path::object(resource, &object.at).map_err(|error| bad_name(object.clone(), &error))?;
        let live: Value = match self.read(&path).await.and_then(|answer| answer.decode()) {
            Ok(live) => live,
            Err(error) if error.code() == 404 => {
                self.index.deleted(object, uid);
                return Ok(Some(Written::Deleted));
            }
            Err(error) => return Err(unavailable(object.clone(), "read", &error)),
        };
        let Some(entries) = change(&live) else { return Ok(None) };
        let patch = json!([
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "test", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
            {"op": "replace", "path": "/metadata/managedFields", "value": entries},
        ]);
        self.patch(resource, object.clone(), uid, &patch).await.map(Some)
    }

    /// Lets the index know what the server answered.
    fn learn(&self, resource: &Resource, wire: WireObject) -> Arc<Object> {
        let object = Arc::new(self.index.object(&resource.kind, wire));
        self.index.wrote(&object);
        object
    }

    /// Who has what could not be applied. If it is the author's, the index knows it from then on, and the next look goes on
    /// with it.
    async fn who_has(&self, apply: &Apply) -> WriteError {
        let object = apply.object.clone();
        let path = match path::object(&apply.resource, &object.at) {
            Ok(path) => path,
            Err(error) => return bad_name(object, &error),
        };
        let wire = match self.read(&path).await.and_then(|answer| answer.object()) {
            Ok(wire) => wire,
            Err(error) if error.code() == 404 => return WriteError::Stale { object, message: error.to_string() },
            Err(error) => return unavailable(object, "read", &error),
        };
        let owner = owner_of(&wire, &apply.manager);
        let live = Arc::new(self.index.object(&apply.resource.kind, wire));
        if let Some(subject_uid) = apply.controller_uid().filter(|_| is_of_author(apply, &live, Reconciler::makes)) {
            self.index.found(&live, subject_uid);
            return WriteError::Stale { object, message: "it exists already".to_owned() };
        }
        self.index.is_foreign(&object, &live.metadata.uid);
        WriteError::Foreign { object, owner }
    }

    async fn delete(
        &self,
        resource: &Resource,
        object: ObjectKey,
        uid: &str,
        resource_version: Option<&str>,
    ) -> Result<Written, WriteError> {
        let path = path::object(resource, &object.at).map_err(|error| bad_name(object.clone(), &error))?;
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions",
            "propagationPolicy": "Background", "preconditions": {"uid": uid, "resourceVersion": resource_version},
        });
        match self.send(&self.call(Method::DELETE, &path, &options)).await {
            // Finalizers or a grace period keep it for a while.
            Ok(wire) if wire.metadata.deletion_timestamp.is_some() => {
                self.learn(resource, wire);
                Ok(Written::Deleted)
            }
            Ok(_) => {
                self.index.deleted(&object, uid);
                Ok(Written::Deleted)
            }
            Err(Failure::Closed) => Err(WriteError::NotLeader),
            Err(Failure::Request(error)) => match &error {
                // Gone, or another object of the same name by now.
                RequestError::Status(status) if status.code == 404 || names_uid(status) => {
                    self.index.deleted(&object, uid);
                    Ok(Written::Deleted)
                }
                RequestError::Status(status) if status.code == 409 && resource_version.is_some() => {
                    Err(WriteError::Stale { object, message: status.message.clone() })
                }
                RequestError::Status(status) => Err(refused(object, status.code, &status.reason, &error)),
                _ => Err(unavailable(object, "delete", &error)),
            },
        }
    }

    /// A JSON patch that tests what it was made for.
    async fn patch(
        &self,
        resource: &Resource,
        object: ObjectKey,
        uid: &str,
        patch: &Value,
    ) -> Result<Written, WriteError> {
        let path = path::object(resource, &object.at).map_err(|error| bad_name(object.clone(), &error))?;
        let call = Call { content_type: JSON_PATCH, ..self.call(Method::PATCH, &path, patch) };
        match self.send(&call).await {
            // The last finalizer of an object that is being deleted was all that kept it.
            Ok(wire) if wire.metadata.deletion_timestamp.is_some() && wire.metadata.finalizers.is_empty() => {
                self.index.deleted(&object, uid);
                Ok(Written::Deleted)
            }
            Ok(wire) => Ok(Written::Applied(self.learn(resource, wire))),
            Err(Failure::Closed) => Err(WriteError::NotLeader),
            Err(Failure::Request(RequestError::Status(status))) if status.code == 404 => {
                self.index.deleted(&object, uid);
                Ok(Written::Deleted)
            }
            // A test failed, or the object changed meanwhile.
            Err(Failure::Request(RequestError::Status(status))) if matches!(status.code, 409 | 422) => {
                Err(WriteError::Stale { object, message: status.message.clone() })
            }
            Err(Failure::Request(error @ RequestError::Status(_))) => Err(refused(object, error.code(), "", &error)),
            Err(Failure::Request(error)) => Err(unavailable(object, "patch", &error)),
        }
    }

    /// A change.
    fn call<'a>(&self, method: Method, path: &'a str, body: &Value) -> Call<'a> {
        Call { identity: self.identity.clone(), ..Call::json(method, path, body) }
    }

    /// Sends a request that can be sent twice, until it is answered or its time has passed, which begins with the first
    /// attempt.
    async fn send(&self, call: &Call<'_>) -> Result<WireObject, Failure> {
        let mut backoff = BACKOFF;
        let mut permit = self.permit().await;
        let deadline = Instant::now() + TOTAL_DEADLINE;
        loop {
            if !self.gate.allows(WRITE_DEADLINE) {
                return Err(Failure::Closed);
            }
            let error = match call.send(&self.client, WRITE_DEADLINE.min(left(deadline))).await {
                Ok(answer) => match answer.object() {
                    Ok(object) => return Ok(object),
                    Err(error) => error,
                },
                Err(error @ RequestError::Status(_)) => return Err(Failure::Request(error)),
                Err(error) => error,
            };
            // Other writes go first meanwhile: what keeps this one from being done may be its own, a webhook that is down.
            drop(permit);
            let asked = match &error {
                RequestError::TryAgain(_, Some(retry_after)) => *retry_after,
                _ => Duration::ZERO,
            };
            let wait = backoff.after_failure().max(asked);
            if Instant::now() + wait >= deadline {
                return Err(Failure::Request(error));
            }
            sleep(wait).await;
            permit = match timeout_at(deadline, self.permit()).await {
                Ok(permit) => permit,
                Err(_) => return Err(Failure::Request(error)),
            };
        }
    }

    /// Reads an object, once.
    async fn read(&self, path: &str) -> Result<Answer, RequestError> {
        let _permit = self.permit().await;
        Call::get(path).send(&self.client, TOTAL_DEADLINE).await
    }

    /// For one attempt. Permits are handed out in the order in which they were asked for.
    async fn permit(&self) -> SemaphorePermit<'_> {
        self.permits.acquire().await.expect("the semaphore is never closed")
    }
}

impl Writes for Applier {
    fn write(&self, action: Action) -> Pending<'_, Result<Written, WriteError>> {
        Box::pin(self.perform(action))
    }

    fn write_under(&self, action: Action, mandate: Mandate) -> Pending<'_, Result<Written, WriteError>> {
        let Mandate { identity, warrant } = mandate;
        let bound = Self { gate: self.gate.under(warrant.clone()), identity, ..self.clone() };
        Box::pin(async move {
            match bound.perform(action).await {
                Err(WriteError::NotLeader) if !warrant.holds() => Err(WriteError::Withdrawn),
                result => result,
            }
        })
    }

    fn is_gone(&self, resource: Resource, object: ObjectKey, uid: String) -> Pending<'_, Result<bool, WriteError>> {
        Box::pin(async move {
            let path = path::object(&resource, &object.at).map_err(|error| bad_name(object.clone(), &error))?;
            let answer = Call::get(&path).send(&self.client, WRITE_DEADLINE).await;
            match answer.and_then(|answer| answer.object()) {
                Ok(wire) => Ok(wire.metadata.uid != uid),
                Err(error) if error.code() == 404 => Ok(true),
                Err(error @ RequestError::Status(_)) => Err(refused(object, error.code(), "", &error)),
                Err(error) => Err(unavailable(object, "read", &error)),
            }
        })
    }
}

/// Why there is no answer to go on with.
enum Failure {
    /// The gate is closed.
    Closed,
    /// The request failed.
    Request(RequestError),
}

/// Where the API server looks for the precondition of an apply.
fn put_precondition(apply: &mut Apply) {
    let metadata = &mut apply.body["metadata"];
    match &apply.precondition {
        Precondition::Absent => metadata["resourceVersion"] = json!(NO_VERSION),
        Precondition::Uid(uid) => metadata["uid"] = json!(uid),
        Precondition::Unchanged { uid, resource_version } => {
            metadata["uid"] = json!(uid);
            metadata["resourceVersion"] = json!(resource_version);
        }
    }
}

fn apply_path(apply: &Apply) -> Result<String, PathError> {
    let mut path = path::object(&apply.resource, &apply.object.at)?;
    if apply.target == ApplyTarget::Status {
        path.push_str("/status");
    }
    path = with_parameter(path, "fieldManager", &apply.manager);
    Ok(with_parameter(path, "force", if apply.force { "true" } else { "false" }))
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// The server would refuse it as well, if it could be asked without risk.
fn bad_name(object: ObjectKey, error: &PathError) -> WriteError {
    WriteError::Refused {
        object,
        code: 422,
        reason: "Invalid".to_owned(),
        message: error.to_string(),
        fields: Vec::new(),
    }
}

fn refused(object: ObjectKey, code: u16, reason: &str, error: &RequestError) -> WriteError {
    let fields = if let RequestError::Status(status) = error { fields(status) } else { Vec::new() };
    WriteError::Refused { object, code, reason: reason.to_owned(), message: error.to_string(), fields }
}

fn unavailable(object: ObjectKey, verb: &'static str, error: &RequestError) -> WriteError {
    WriteError::Unavailable { object, verb, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use dask_wasm_operator_core::{
        object::{GroupVersionKind, NamespacedName},
        ports::Warrant,
    };
    use http::{Request, Response};
    use kube::client::Body;
    use tower::service_fn;

    use super::*;

    /// A server that is asked to try writes in the namespace `down` again, at once, and does all others.
    fn server(attempts: Arc<AtomicUsize>) -> Client {
        let answer = move |request: Request<Body>| {
            let is_down = request.uri().path().contains("/namespaces/down/");
            attempts.fetch_add(usize::from(is_down), Ordering::Relaxed);
            let object = json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": "1"}}).to_string();
            let (status, body) =
                if is_down { (503, "no endpoints available for the webhook") } else { (200, &*object) };
            let head = Response::builder().status(status).header("Retry-After", "0");
            let response = head.body(Body::from(body.as_bytes().to_vec())).unwrap();
            async move { Ok::<_, Infallible>(response) }
        };
        Client::new(service_fn(answer), "default")
    }

    fn deletion(namespace: &str) -> Action {
        let kind = GroupVersionKind::new("", "v1", "ConfigMap");
        Action::Delete {
            resource: Resource { kind: kind.clone(), plural: "configmaps".to_owned(), namespaced: true },
            object: ObjectKey { kind, at: NamespacedName::new(namespace, "a") },
            uid: "u".to_owned(),
            resource_version: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_whose_warrant_is_withdrawn_while_it_waits_is_not_sent() {
        let attempts = Arc::new(AtomicUsize::new(0));
        let applier = Applier::new(server(Arc::clone(&attempts)), Arc::new(Index::new(|_| {})), Gate::open(), 1);
        let warrant = Warrant::new();
        let mandate = || Mandate { warrant: warrant.clone(), ..Mandate::default() };
        let sent = || attempts.load(Ordering::Relaxed);
        let withdraw = async {
            while sent() == 0 {
                tokio::task::yield_now().await;
            }
            warrant.withdraw();
            sent()
        };
        let (result, before) = tokio::join!(applier.write_under(deletion("down"), mandate()), withdraw);
        assert!(matches!(result, Err(WriteError::Withdrawn)), "{result:?}");
        assert_eq!(sent(), before, "it was not tried again");
        let late = applier.write_under(deletion("up"), mandate()).await;
        assert!(matches!(late, Err(WriteError::Withdrawn)), "{late:?}");
        applier.write_under(deletion("up"), Mandate::default()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn writes_that_are_to_be_tried_again_hold_up_no_others() {
        let attempts = Arc::new(AtomicUsize::new(0));
        let applier = Applier::new(server(Arc::clone(&attempts)), Arc::new(Index::new(|_| {})), Gate::open(), 1);
        let begun = Instant::now();
        let failing = futures::future::join_all((0..50).map(|_| applier.write(deletion("down"))));
        let others = async {
            applier.write(deletion("up")).await.unwrap();
            begun.elapsed()
        };
        let (failed, others) = tokio::join!(failing, others);
        assert!(others < Duration::from_secs(1), "{others:?}");
        assert!(failed.iter().all(|result| matches!(result, Err(WriteError::Unavailable { .. }))), "{failed:?}");
        assert!(begun.elapsed() <= TOTAL_DEADLINE, "{:?}", begun.elapsed());
        let attempts = attempts.load(Ordering::Relaxed) / failed.len();
        assert!((3..30).contains(&attempts), "{attempts} attempts each, asked to wait for 0 s");
    }
}
