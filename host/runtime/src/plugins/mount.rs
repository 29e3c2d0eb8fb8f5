//! From a plugin that has described itself to handlers: what it asks for, within what was granted and is served.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use dask_wasm_operator_core::{
    contract::{HandlerDeclaration, KindReference, Manifest},
    object::{GroupVersionKind, Resource},
    pipeline::MountedHandler,
    plugin::{HandlerName, Mounted, PLUGIN_NAME_MAX, Projection, Rights, unserved},
    ports::Guest,
    spec::{ConflictPolicy, DEFAULT_CHILDREN, DaskPluginSpec, HandlerState, HandlerStatus, Limits, LimitsSpec},
};
use serde_json::Value;

/// What became of a plugin's handlers.
pub(crate) struct Mounting {
    /// Those that are called.
    pub(crate) handlers: Vec<Arc<MountedHandler>>,
    /// All of them, for people.
    pub(crate) statuses: Vec<HandlerStatus>,
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
    /// What answers its calls.
    pub(crate) guest: Arc<dyn Guest>,
}

/// Mounts each handler that can be served. `resolve` finds what the cluster serves by the name that a person gave.
pub(crate) fn mount(plugin: &Mountable<'_>, resolve: &dyn Fn(&KindReference) -> Result<Resource, String>) -> Mounting {
    let mut mounting = Mounting { handlers: Vec::new(), statuses: Vec::new() };
    for declaration in &plugin.manifest.handlers {
        let mut status = HandlerStatus {
            name: declaration.name.clone(),
            triggers: declaration.triggers.iter().map(|trigger| trigger.name().to_owned()).collect(),
            subscription: in_words(declaration),
            state: HandlerState::Served,
            reason: None,
            message: None,
        };
        match mount_handler(plugin, declaration, resolve) {
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

fn mount_handler(
    plugin: &Mountable<'_>,
    declaration: &HandlerDeclaration,
    resolve: &dyn Fn(&KindReference) -> Result<Resource, String>,
) -> Result<MountedHandler, NotServed> {
    if plugin.name.len() > PLUGIN_NAME_MAX {
        let why = format!(
            "metadata.name of the DaskPlugin has {} characters, at most {PLUGIN_NAME_MAX} are allowed",
            plugin.name.len()
        );
        return Err(("InvalidName", why));
    }
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
    let subject = resolve(&declaration.subscription.kind).map_err(|why| ("KindNotServed", why))?;
    if subject.kind.group.is_empty() && subject.kind.kind == "Secret" {
        return Err(("NeverReadable", "Secrets are not shown to plugins, whatever is granted".to_owned()));
    }
    let mounted = Mounted::new(declaration, &namespaces.names)
        .map_err(|error| ("InvalidSubscription", format!("subscription.{error}")))?;
    let projection = declaration.projection.as_ref().map(Projection::parse).transpose();
    let projection = projection.map_err(|error| ("InvalidSubscription", format!("projection: {error}")))?;
    let limits = Limits::resolve(plugin.spec.limits.as_ref().unwrap_or(&LimitsSpec::default()))
        .map_err(|error| ("InvalidLimits", error.to_string()))?;
    let config = match plugin.spec.config.is_empty() {
        true => "null".to_owned(),
        false => Value::Object(plugin.spec.config.clone()).to_string(),
    };
    let children = child_kinds(plugin, resolve);
    Ok(MountedHandler {
        name: HandlerName { plugin: plugin.name.to_owned(), handler: declaration.name.clone() },
        declaration: declaration.clone(),
        subject,
        mounted,
        rights: Rights { asked: plugin.manifest.permissions.clone(), granted: plugin.spec.grants.clone(), limits },
        code: fingerprint(plugin, &config, &children),
        children,
        projection,
        config,
        takes_conflicts: plugin.spec.on_conflict == ConflictPolicy::Take,
        guest: Arc::clone(&plugin.guest),
    })
}

/// Kinds of which the plugin may have children: asked for, granted, and served. One that is not served yet is refused when
/// it is returned, with its name.
fn child_kinds(
    plugin: &Mountable<'_>,
    resolve: &dyn Fn(&KindReference) -> Result<Resource, String>,
) -> Vec<GroupVersionKind> {
    let granted = |kind: &GroupVersionKind| {
        DEFAULT_CHILDREN.contains(&(kind.group.as_str(), kind.kind.as_str()))
            || plugin.spec.grants.create.iter().any(|grant| grant.group == kind.group && grant.kind == kind.kind)
    };
    let asked = plugin.manifest.permissions.create.iter().filter_map(|reference| resolve(reference).ok());
    let mut kinds: Vec<_> = asked.map(|resource| resource.kind).filter(granted).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

fn fingerprint(plugin: &Mountable<'_>, config: &str, children: &[GroupVersionKind]) -> u64 {
    let mut hasher = DefaultHasher::new();
    children.hash(&mut hasher);
    plugin.digest.hash(&mut hasher);
    config.hash(&mut hasher);
    serde_json::to_string(&plugin.spec.grants).unwrap_or_default().hash(&mut hasher);
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
