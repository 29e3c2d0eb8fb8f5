//! The record that `created` was handled: a DaskPluginRecord beside the subject.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{MountedHandler, is_passing, tell};
use crate::{
    action::{Action, Apply, ApplyTarget, Precondition, WriteError},
    contract::TriggerRequest,
    fields::hex,
    native::Native,
    object::{NamespacedName, Object, ObjectKey},
    ownership::is_record_of,
    pipeline::{Pipeline, Report, state::GuestState},
    plugin::Handled,
    spec::{DASK_PLUGIN_RECORD, DaskPluginRecordSpec, DaskPluginRecordStatus, HandledTrigger, SubjectReference},
    time::rfc3339,
    wanted::Problem,
};

impl<N: Native> Pipeline<'_, N> {
    /// That `created` was handled, if it is on record.
    pub(super) fn record(&self, handler: &MountedHandler, subject: &Object) -> Option<HandledTrigger> {
        let kind = DASK_PLUGIN_RECORD.group_version_kind();
        let record = self.observed.get(&kind, &record_name(handler, subject)?)?;
        if !is_record_of(&record, &handler.name.plugin, &subject.metadata.uid) {
            return None;
        }
        let status: DaskPluginRecordStatus = record.field("status")?.ok()?;
        status.handlers.get(&handler.name.handler).filter(|handled| handled.trigger == "created").cloned()
    }

    /// Puts on record that `created` was handled. If that fails, it is delivered again: at least once is what is promised.
    pub(super) async fn note_created(
        &self,
        handler: &MountedHandler,
        subject: &Object,
        now: u64,
        report: &mut Report,
        state: &mut GuestState,
    ) {
        let kind = DASK_PLUGIN_RECORD.group_version_kind();
        let (Some(at), Some(resource)) = (record_name(handler, subject), self.observed.resource(&kind)) else {
            // There is no place for a record, so it lasts as long as this process.
            state.cursors.set_handled(&TriggerRequest::Created, Some(Handled::Here(handler.code)));
            return;
        };
        let handled = HandledTrigger {
            trigger: "created".to_owned(),
            handled_at: rfc3339(now),
            digest: hex(&Sha256::digest(handler.project(subject))),
        };
        let spec = DaskPluginRecordSpec {
            plugin: handler.name.plugin.clone(),
            subject: SubjectReference {
                api_version: subject.kind.api_version(),
                kind: subject.kind.kind.clone(),
                name: subject.metadata.name.clone(),
                uid: subject.metadata.uid.clone(),
            },
        };
        let mut owner = subject.as_owner();
        // Several plugins keep a record of one subject, and a record holds nobody up.
        owner.block_owner_deletion = false;
        let body = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.kind,
            "metadata": {"name": at.name, "namespace": at.namespace, "ownerReferences": [owner]},
            "spec": spec,
            "status": {"handlers": {handler.name.handler.clone(): handled}},
        });
        let live = self.observed.get(&kind, &at);
        let object = ObjectKey { kind, at };
        let written = match live {
            Some(live) if !is_record_of(&live, &handler.name.plugin, &subject.metadata.uid) => {
                Err(WriteError::Foreign { object, owner: "somebody else".to_owned() })
            }
            live => {
                let apply = Apply {
                    resource,
                    object,
                    target: ApplyTarget::Object,
                    manager: handler.name.field_manager(),
                    precondition: live.map_or(Precondition::Absent, |live| Precondition::is(&live)),
                    body,
                    force: true,
                };
                self.writes.write(Action::Apply(apply)).await
            }
        };
        match written {
            Ok(_) => {
                state.cursors.set_handled(&TriggerRequest::Created, Some(Handled::Here(handler.code)));
                report.writes += 1;
            }
            Err(error) => {
                let why = || format!("{}: the record of what was handled: {error}", handler.name);
                let problem = (!is_passing(&error)).then(|| Problem::passing(error.kind(), why()));
                let problems = problem.into_iter().collect();
                let retry = state.common.backoff.fail_to_write(&subject.metadata.uid, &[error]);
                *report = Report { writes: report.writes, ..tell(state, problems, retry) };
            }
        }
    }
}

/// One record per plugin and subject, beside the subject. Those of cluster-scoped subjects are not served yet.
fn record_name(handler: &MountedHandler, subject: &Object) -> Option<NamespacedName> {
    let namespace = subject.metadata.namespace.as_deref()?;
    Some(NamespacedName::new(namespace, &format!("{}.{}", handler.name.plugin, subject.metadata.uid)))
}
