//! A plugin: handlers, each with its function.

use crate::{Call, Failure, Handler, KindReference, Manifest, Outcome, PatchPermission, Permissions};

/// What answers the calls of a handler.
pub type HandlerFunction = fn(&Call) -> Result<Outcome, Failure>;

/// The version of the interface that this crate is built for: that of the package in `wit/`.
const INTERFACE: &str = "0.1.0";

/// A plugin, made by the function that [`export_plugin!`](crate::export_plugin) names.
#[derive(Debug)]
pub struct Plugin {
    manifest: Manifest,
    functions: Vec<HandlerFunction>,
}

impl Plugin {
    /// A plugin without handlers. Name and version are for people.
    pub fn new(name: &str, version: &str) -> Self {
        let permissions =
            Permissions { read: Vec::new(), create: Vec::new(), patch: Vec::new(), delete_subject: false };
        let manifest = Manifest {
            name: name.into(),
            version: version.into(),
            interface_version: INTERFACE.into(),
            handlers: Vec::new(),
            permissions,
        };
        Self { manifest, functions: Vec::new() }
    }

    /// Adds a handler and the function that answers its calls.
    #[must_use]
    pub fn handler(mut self, handler: Handler, function: HandlerFunction) -> Self {
        self.manifest.handlers.push(handler);
        self.functions.push(function);
        self
    }

    /// Asks to create children of a kind.
    #[must_use]
    pub fn creates(mut self, kind: KindReference) -> Self {
        self.manifest.permissions.create.push(kind);
        self
    }

    /// Asks to read a kind, for related objects.
    #[must_use]
    pub fn reads(mut self, kind: KindReference) -> Self {
        self.manifest.permissions.read.push(kind);
        self
    }

    /// Asks to patch fields of subjects.
    #[must_use]
    pub fn patches(mut self, permission: PatchPermission) -> Self {
        self.manifest.permissions.patch.push(permission);
        self
    }

    /// Asks to have subjects deleted.
    #[must_use]
    pub fn deletes_subjects(mut self) -> Self {
        self.manifest.permissions.delete_subject = true;
        self
    }

    /// What the plugin says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// As [`manifest`](Self::manifest), to fill in what has no function of its own.
    pub fn manifest_mut(&mut self) -> &mut Manifest {
        &mut self.manifest
    }

    /// As [`manifest`](Self::manifest), for the host.
    pub fn into_manifest(self) -> Manifest {
        self.manifest
    }

    /// Answers a call by the function of its handler.
    ///
    /// # Errors
    /// What the function answers; permanent if there is no such handler.
    pub fn handle(&self, call: &Call) -> Result<Outcome, Failure> {
        let mut handlers = self.manifest.handlers.iter().zip(&self.functions);
        match handlers.find(|(handler, _)| handler.name == call.handler) {
            Some((_, function)) => function(call),
            None => Err(Failure::permanent(format!("the plugin has no handler {:?}", call.handler))),
        }
    }
}

/// Makes a panic write its message to the operator's log before it ends the call.
#[doc(hidden)]
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| crate::log::error(panic)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TriggerRequest, json, testing};

    fn plugin() -> Plugin {
        Plugin::new("example", "1.0")
            .handler(Handler::new("nothing", KindReference::core("Service")).on(TriggerRequest::Observed), |_| {
                Ok(Outcome::default())
            })
    }

    #[test]
    fn a_call_reaches_the_function_of_its_handler() {
        let subject = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "uid": "1"}});
        assert_eq!(plugin().handle(&testing::call("nothing", &subject)), Ok(Outcome::default()));
        let failure = plugin().handle(&testing::call("something", &subject)).unwrap_err();
        assert_eq!(failure, Failure::Permanent("the plugin has no handler \"something\"".into()));
    }

    #[test]
    fn the_interface_is_that_of_the_package() {
        let package = include_str!("../../../wit/world.wit").lines().next().unwrap();
        assert_eq!(package, format!("package dask:operator@{INTERFACE};"));
    }
}
