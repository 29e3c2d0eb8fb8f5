//! From a plugin that has described itself to handlers: what it asks for, within what was granted and is served.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use dask_wasm_operator_core::{
    contract::{HandlerDeclaration, KindReference, Manifest},
    identity::{Identity, ServiceAccount},
    names::NameError,
    object::{GroupVersionKind, Resource},
    pipeline::MountedHandler,
    plugin::{HandlerName, Mounted, Projection, Rights, unserved},
    ports::Guest,
    spec::{ConflictPolicy, DaskPluginSpec, HandlerState, HandlerStatus, Limits, LimitsSpec},
};
use serde_json::Value;

use crate::controller::TracedGuest;

/// What became of a plugin's handlers.
pub(crate) struct Mounting {
    /// Those that are called.
    pub(crate) handlers: Vec<Arc<MountedHandler>>,
    /// All of them, for people.
    pub(crate) statuses: Vec<HandlerStatus>,
    /// What the plugin asks for and was not granted, for people.
    pub(crate) ungranted: Vec<String>,
}

/// What is mounted: a plugin with what was said of it.
pub(crate) struct Mountable<'a> {
    /// Name of the DaskPlugin.
    pub(crate) name: &'a str,
    /// Its specification.
    pub(crate) spec: &'a DaskPluginSpec,
    /// What the plugin says of itself.
    pub(crate) manifest: &'a Manifest,
    /// Digest of its code.
    pub(crate) digest: &'a str,
    /// In whose name it writes.
    pub(crate) identity: Identity,
    /// What answers its calls.
    pub(crate) guest: Arc<dyn Guest>,
}

/// In whose name a plugin writes. `namespace` is the operator's.
pub(super) fn identity(spec: &DaskPluginSpec, namespace: &str) -> Result<Identity, NameError> {
    let account = spec.service_account_name.as_deref().map(|name| ServiceAccount::new(namespace, name)).transpose()?;
    Ok(account.map_or(Identity::Operator, Identity::Impersonated))
}

/// Mounts each handler that can be served. `resolve` finds what the cluster serves by the name that a person gave.
pub(crate) fn mount(plugin: &Mountable<'_>, resolve: &dyn Fn(&KindReference) -> Result<Resource, String>) -> Mounting {
    let rights = rights(plugin, resolve);
    let ungranted = rights.as_ref().map(Rights::ungranted).unwrap_or_default();
    let mut mounting = Mounting { handlers: Vec::new(), statuses: Vec::new(), ungranted };
    for declaration in &plugin.manifest.handlers {
        let mut status = HandlerStatus {
            name: declaration.name.clone(),
            triggers: declaration.triggers.iter().map(|trigger| trigger.name().to_owned()).collect(),
            subscription: in_words(declaration),
            state: HandlerState::Served,
            reason: None,
            message: None,
        };
        match mount_handler(plugin, declaration, rights.as_ref(), resolve) {
            Ok(handler) => mounting.handlers.push(Arc::new(handler)),
            Err((reason, message)) => {
                status.state = HandlerState::NotServed;
                status.reason = Some(reason.to_owned());
                status.message = Some(message);
            }
        }
        mounting.statuses.push(status);
    }
    mounting
}

/// Why a handler is not called: one word, and the whole story.
type NotServed = (&'static str, String);

fn rights(
    plugin: &Mountable<'_>,
    resolve: &dyn Fn(&KindReference) -> Result<Resource, String>,
) -> Result<Rights, NotServed> {
    let limits = Limits::resolve(plugin.spec.limits.as_ref().unwrap_or(&LimitsSpec::default()))
        .map_err(|error| ("InvalidLimits", error.to_string()))?;
    Ok(Rights::new(&plugin.manifest.permissions, &plugin.spec.grants, limits, resolve))
}

fn mount_handler(
    plugin: &Mountable<'_>,
    declaration: &HandlerDeclaration,
    rights: Result<&Rights, &NotServed>,
    resolve: &dyn Fn(&KindReference) -> Result<Resource, String>,
) -> Result<MountedHandler, NotServed> {
    let unserved = unserved(declaration);
    if !unserved.is_empty() {
        let why = format!("this version of the operator does not serve: {}", unserved.join(", "));
        return Err(("NotServedYet", why));
    }
    let namespaces = plugin.spec.namespaces.clone().unwrap_or_default();
    if namespaces.selector.is_some() {
        return Err((
            "NotServedYet",
            "this version of the operator does not serve: spec.namespaces.selector".to_owned(),
        ));
    }
    let rights = rights.map_err(Clone::clone)?;
    let subject = resolve(&declaration.subscription.kind).map_err(|why| ("KindNotServed", why))?;
    let unserved = rights.unserved(&subject.kind);
    if !unserved.is_empty() {
        let why =
            format!("the plugin asks for what this version of the operator does not serve: {}", unserved.join(", "));
        return Err(("NotServedYet", why));
    }
    if subject.kind.group.is_empty() && subject.kind.kind == "Secret" {
        return Err(("NeverReadable", "Secrets are not shown to plugins, whatever is granted".to_owned()));
    }
    let mounted = Mounted::new(declaration, &namespaces.names)
        .map_err(|error| ("InvalidSubscription", format!("subscription.{error}")))?;
    let projection = declaration.projection.as_ref().map(Projection::parse).transpose();
    let projection = projection.map_err(|error| ("InvalidSubscription", format!("projection: {error}")))?;
    let config = match plugin.spec.config.is_empty() {
        true => "null".to_owned(),
        false => Value::Object(plugin.spec.config.clone()).to_string(),
    };
    let children = rights.children();
    Ok(MountedHandler {
        name: HandlerName { plugin: plugin.name.to_owned(), handler: declaration.name.clone() },
        declaration: declaration.clone(),
        subject,
        mounted,
        rights: rights.clone(),
        code: fingerprint(plugin, &config, &children),
        children,
        projection,
        config,
        takes_conflicts: plugin.spec.on_conflict == ConflictPolicy::Take,
        identity: plugin.identity.clone(),
        guest: Arc::new(TracedGuest(Arc::clone(&plugin.guest))),
    })
}

fn fingerprint(plugin: &Mountable<'_>, config: &str, children: &[GroupVersionKind]) -> u64 {
    let mut hasher = DefaultHasher::new();
    children.hash(&mut hasher);
    plugin.digest.hash(&mut hasher);
    plugin.identity.hash(&mut hasher);
    config.hash(&mut hasher);
    let DaskPluginSpec { grants, limits, namespaces, on_conflict, .. } = plugin.spec;
    serde_json::to_string(&(grants, limits, namespaces, on_conflict)).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

/// `Service, labels dask.org/component=scheduler, namespaces team-*`.
fn in_words(declaration: &HandlerDeclaration) -> String {
    let subscription = &declaration.subscription;
    let mut words = subscription.kind.name.clone();
    if let Some(group) = subscription.kind.group.as_deref().filter(|group| !group.is_empty()) {
        words = format!("{words}.{group}");
    }
    if let Some(labels) = &subscription.labels {
        words = format!("{words}, labels {labels}");
    }
    if !subscription.namespaces.is_empty() {
        words = format!("{words}, namespaces {}", subscription.namespaces.join(" "));
    }
    words
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_core::{
        contract::{Call, Permissions},
        ports::{CallReport, Pending},
    };
    use serde_json::json;

    use super::*;

    struct Nobody;

    impl Guest for Nobody {
        fn call(&self, _: Call) -> Pending<'_, CallReport> {
            Box::pin(std::future::pending())
        }
    }

    fn code(spec: &Value) -> u64 {
        let mut spec = spec.clone();
        spec["source"] = json!({"path": "/a.wasm"});
        let spec: DaskPluginSpec = serde_json::from_value(spec).unwrap();
        let manifest = Manifest {
            name: "p".to_owned(),
            version: "1".to_owned(),
            interface_version: "0.1.0".to_owned(),
            handlers: Vec::new(),
            permissions: Permissions::default(),
        };
        let plugin = Mountable {
            name: "p",
            spec: &spec,
            manifest: &manifest,
            digest: "d",
            identity: identity(&spec, "ops").unwrap(),
            guest: Arc::new(Nobody),
        };
        fingerprint(&plugin, "null", &[])
    }

    #[test]
    fn a_subject_that_was_given_up_is_tried_again_when_the_daskplugin_allows_more() {
        let before = code(&json!({}));
        assert_eq!(before, code(&json!({"onRemoval": "leave", "priority": 7})));
        for spec in [
            json!({"limits": {"memory": "256Mi"}}),
            json!({"onConflict": "take"}),
            json!({"serviceAccountName": "robot"}),
            json!({"namespaces": {"names": ["a"]}}),
            json!({"grants": {"create": [{"group": "batch", "kind": "Job"}]}}),
        ] {
            assert_ne!(before, code(&spec), "{spec}");
        }
    }
}
