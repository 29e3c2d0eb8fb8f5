//! `dask:operator@0.1`: bindings, and what they mean in the host's own values.

use std::time::Duration;

use dask_wasm_operator_core::{contract, ports::LogLevel};
use wasmtime::{
    Store,
    component::{HasSelf, InstancePre, Linker},
};

use self::{
    dask::operator::{host, types},
    exports::dask::operator::handler,
};
use crate::{abi::NotStarted, call_state::CallState};

wasmtime::component::bindgen!({ path: "../../wit", world: "plugin" });

/// Defines what a component of this version may import, WASI aside.
pub(crate) fn link(linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
    Plugin::add_to_linker::<_, HasSelf<_>>(linker, |state| state)
}

impl types::Host for CallState {}

impl host::Host for CallState {
    fn log(&mut self, level: host::LogLevel, message: String) {
        let level = match level {
            host::LogLevel::Debug => LogLevel::Debug,
            host::LogLevel::Info => LogLevel::Info,
            host::LogLevel::Warn => LogLevel::Warn,
            host::LogLevel::Error => LogLevel::Error,
        };
        self.log.write(level, &message);
    }
}

/// A component whose imports are resolved and whose exports have the types of this version.
pub(crate) struct Linked(PluginPre<CallState>);

impl Linked {
    pub(crate) fn new(component: InstancePre<CallState>) -> wasmtime::Result<Self> {
        PluginPre::new(component).map(Self)
    }

    /// What the plugin says of itself, as it says it.
    pub(crate) fn describe(&self, store: &mut Store<CallState>) -> wasmtime::Result<contract::Manifest> {
        self.instantiate(store)?.dask_operator_handler().call_describe(store).map(manifest)
    }

    pub(crate) fn handle(
        &self,
        store: &mut Store<CallState>,
        call: contract::Call,
    ) -> wasmtime::Result<Result<contract::Outcome, contract::Failure>> {
        let answer = self.instantiate(store)?.dask_operator_handler().call_handle(store, &self::call(call))?;
        Ok(answer.map(outcome).map_err(failure))
    }

    fn instantiate(&self, store: &mut Store<CallState>) -> wasmtime::Result<Plugin> {
        self.0.instantiate(store).map_err(|error| error.context(NotStarted))
    }
}

fn each<From, To>(list: Vec<From>, convert: impl FnMut(From) -> To) -> Vec<To> {
    list.into_iter().map(convert).collect()
}

// ------------------------------------------------------------------------------------------------------ the host's to the guest's

fn call(call: contract::Call) -> handler::Call {
    let contract::Call { handler, trigger, redelivery, attempt, now, subject, related, children, conflicts, config } =
        call;
    let contract::Subject { api_version, kind, namespace, name, uid, object } = subject;
    handler::Call {
        handler,
        trigger: self::trigger(trigger),
        redelivery,
        attempt,
        now,
        subject: types::Subject { api_version, kind, namespace, name, uid, object },
        related: each(related, |contract::RelatedObjects { name, objects }| types::RelatedObjects { name, objects }),
        children: each(children, |contract::OwnedChild { key, object }| types::OwnedChild { key, object }),
        conflicts: each(conflicts, |contract::Conflict { child, path, manager }| types::Conflict {
            child,
            path,
            manager,
        }),
        config,
    }
}

fn trigger(trigger: contract::Trigger) -> types::Trigger {
    use contract::Trigger;
    match trigger {
        Trigger::Observed => types::Trigger::Observed,
        Trigger::Created => types::Trigger::Created,
        Trigger::Updated(old) => types::Trigger::Updated(old),
        Trigger::FieldChanged(contract::FieldChange { path, old, new }) => {
            types::Trigger::FieldChanged(types::FieldChange { path, old, new })
        }
        Trigger::Deleting(deadline) => types::Trigger::Deleting(deadline),
        Trigger::Deleted => types::Trigger::Deleted,
        Trigger::Resumed => types::Trigger::Resumed,
        Trigger::Timer => types::Trigger::Timer,
        Trigger::Build(children) => {
            types::Trigger::Build(each(children, |contract::Child { key, object }| types::Child { key, object }))
        }
    }
}

// ------------------------------------------------------------------------------------------------------ the guest's to the host's

fn outcome(outcome: handler::Outcome) -> contract::Outcome {
    let handler::Outcome { children, patches, events, requeue_after, delete_subject } = outcome;
    contract::Outcome {
        children: children
            .map(|children| each(children, |types::Child { key, object }| contract::Child { key, object })),
        patches: patches.map(|patches| each(patches, patch)),
        events: each(events, |types::EventNote { severity, reason, message }| {
            let severity = match severity {
                types::EventSeverity::Normal => contract::EventSeverity::Normal,
                types::EventSeverity::Warning => contract::EventSeverity::Warning,
            };
            contract::EventNote { severity, reason, message }
        }),
        requeue_after: requeue_after.map(Duration::from_millis),
        delete_subject,
    }
}

fn patch(patch: types::Patch) -> contract::Patch {
    let types::Patch { target, strategy, body } = patch;
    let target = match target {
        types::PatchTarget::Subject => contract::PatchTarget::Subject,
        types::PatchTarget::SubjectStatus => contract::PatchTarget::SubjectStatus,
        types::PatchTarget::Child(key) => contract::PatchTarget::Child(key),
    };
    contract::Patch { target, strategy: self::strategy(strategy), body }
}

fn strategy(strategy: types::PatchStrategy) -> contract::PatchStrategy {
    match strategy {
        types::PatchStrategy::Apply => contract::PatchStrategy::Apply,
        types::PatchStrategy::Merge => contract::PatchStrategy::Merge,
    }
}

fn failure(failure: handler::Failure) -> contract::Failure {
    match failure {
        handler::Failure::Temporary(types::TemporaryFailure { message, retry_after }) => {
            contract::Failure::Temporary { message, retry_after: retry_after.map(Duration::from_millis) }
        }
        handler::Failure::Permanent(message) => contract::Failure::Permanent { message },
    }
}

fn manifest(manifest: handler::Manifest) -> contract::Manifest {
    let handler::Manifest { name, version, interface_version, handlers, permissions } = manifest;
    let types::Permissions { read, create, patch, delete_subject } = permissions;
    let patch = each(patch, |types::PatchPermission { kind, fields, strategy }| contract::PatchPermission {
        kind: self::kind(kind),
        fields,
        strategy: self::strategy(strategy),
    });
    contract::Manifest {
        name,
        version,
        interface_version,
        handlers: each(handlers, declaration),
        permissions: contract::Permissions {
            read: each(read, kind),
            create: each(create, kind),
            patch,
            delete_subject,
        },
    }
}

fn declaration(declaration: types::HandlerDeclaration) -> contract::HandlerDeclaration {
    let types::HandlerDeclaration { name, subscription, triggers, projection, related } = declaration;
    contract::HandlerDeclaration {
        name,
        subscription: self::subscription(subscription),
        triggers: each(triggers, trigger_request),
        projection,
        related: each(related, |types::RelatedRequest { name, kind, selection, projection }| {
            contract::RelatedRequest {
                name,
                kind: self::kind(kind),
                selection: match selection {
                    types::RelatedSelection::Labels(selector) => contract::RelatedSelection::Labels(selector),
                    types::RelatedSelection::Named(name) => contract::RelatedSelection::Named(name),
                    types::RelatedSelection::OwnedBySubject => contract::RelatedSelection::OwnedBySubject,
                    types::RelatedSelection::OwnersOfSubject => contract::RelatedSelection::OwnersOfSubject,
                },
                projection,
            }
        }),
    }
}

fn subscription(subscription: types::Subscription) -> contract::Subscription {
    let types::Subscription { kind, namespaces, labels, annotations, fields, expression } = subscription;
    contract::Subscription {
        kind: self::kind(kind),
        namespaces,
        labels,
        annotations: each(annotations, |types::AnnotationCondition { key, test }| contract::AnnotationCondition {
            key,
            test: value_test(test),
        }),
        fields: each(fields, |types::FieldCondition { path, test }| contract::FieldCondition {
            path,
            test: value_test(test),
        }),
        expression,
    }
}

fn value_test(test: types::ValueTest) -> contract::ValueTest {
    match test {
        types::ValueTest::Present => contract::ValueTest::Present,
        types::ValueTest::Absent => contract::ValueTest::Absent,
        types::ValueTest::Equals(value) => contract::ValueTest::Equals(value),
        types::ValueTest::Changed => contract::ValueTest::Changed,
    }
}

fn trigger_request(request: types::TriggerRequest) -> contract::TriggerRequest {
    use contract::TriggerRequest;
    match request {
        types::TriggerRequest::Observed => TriggerRequest::Observed,
        types::TriggerRequest::Created => TriggerRequest::Created,
        types::TriggerRequest::Updated => TriggerRequest::Updated,
        types::TriggerRequest::FieldChanged(path) => TriggerRequest::FieldChanged(path),
        types::TriggerRequest::Deleting => TriggerRequest::Deleting,
        types::TriggerRequest::Deleted => TriggerRequest::Deleted,
        types::TriggerRequest::Resumed => TriggerRequest::Resumed,
        types::TriggerRequest::Timer(interval) => TriggerRequest::Timer(Duration::from_millis(interval)),
        types::TriggerRequest::Build => TriggerRequest::Build,
    }
}

fn kind(kind: types::KindReference) -> contract::KindReference {
    let types::KindReference { group, version, name } = kind;
    contract::KindReference { group, version, name }
}
