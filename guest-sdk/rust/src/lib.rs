//! Write handlers for dask-wasm-operator in Rust.
//!
//! A plugin is a set of functions from what was observed to what is wanted. Here is a whole one: a ConfigMap beside each
//! DaskCluster.
//!
//! ```
//! use dask_operator_sdk::{Call, Child, Failure, Handler, KindReference, Outcome, Plugin, TriggerRequest, json};
//!
//! fn plugin() -> Plugin {
//!     Plugin::new("notes", env!("CARGO_PKG_VERSION"))
//!         .handler(
//!             Handler::new("note", KindReference::new("kubernetes.dask.org", "DaskCluster"))
//!                 .on(TriggerRequest::Observed)
//!                 .needs(["spec.worker.replicas"]),
//!             note,
//!         )
//!         .creates(KindReference::core("ConfigMap"))
//! }
//!
//! #[derive(serde::Deserialize)]
//! struct Cluster {
//!     spec: Spec,
//! }
//!
//! #[derive(serde::Deserialize)]
//! struct Spec {
//!     worker: Worker,
//! }
//!
//! #[derive(serde::Deserialize)]
//! struct Worker {
//!     replicas: u32,
//! }
//!
//! fn note(call: &Call) -> Result<Outcome, Failure> {
//!     let cluster: Cluster = call.subject()?;
//!     let note = json!({
//!         "apiVersion": "v1",
//!         "kind": "ConfigMap",
//!         "metadata": {"name": format!("{}-note", call.subject.name)},
//!         "data": {"workers": cluster.spec.worker.replicas.to_string()},
//!     });
//!     Ok(Outcome::children([Child::new("note", &note)?]))
//! }
//!
//! dask_operator_sdk::export_plugin!(plugin);
//!
//! // A test needs neither wasm nor a cluster.
//! use dask_operator_sdk::testing;
//! let cluster = json!({
//!     "apiVersion": "kubernetes.dask.org/v1",
//!     "kind": "DaskCluster",
//!     "metadata": {"name": "simple", "namespace": "default", "uid": "1"},
//!     "spec": {"worker": {"replicas": 3}},
//! });
//! let outcome = plugin().handle(&testing::call("note", &cluster)).unwrap();
//! assert_eq!(testing::child(&outcome, "note")["data"]["workers"], "3");
//! ```
//!
//! Build it with `crate-type = ["cdylib", "rlib"]` for `wasm32-unknown-unknown` and turn it into a component with
//! `wasm-tools component new`. The types are those of the interface, `wit/types.wit`, with a few functions that make them;
//! what is not here can be filled in field by field.

mod answer;
#[doc(hidden)]
pub mod bindings;
mod call;
mod declare;
pub mod log;
mod plugin;
pub mod testing;

pub use serde_json::{Value, json};

pub use self::{
    bindings::dask::operator::types::{
        AnnotationCondition, Call, Child, Conflict, EventNote, EventSeverity, Failure, FieldChange, FieldCondition,
        HandlerDeclaration as Handler, KindReference, Manifest, Outcome, OwnedChild, Patch, PatchPermission,
        PatchStrategy, PatchTarget, Permissions, RelatedObjects, RelatedRequest, RelatedSelection, Subject,
        Subscription, TemporaryFailure, Trigger, TriggerRequest, ValueTest,
    },
    plugin::{HandlerFunction, Plugin, report_panics},
};

/// Exports a plugin from a component: the name of a function that makes the [`Plugin`].
///
/// On any other target than wasm it does nothing, so that the same crate is an ordinary library in its tests.
#[macro_export]
macro_rules! export_plugin {
    ($plugin:path) => {
        #[cfg(target_arch = "wasm32")]
        #[allow(
            unsafe_code,
            unsafe_op_in_unsafe_fn,
            reason = "exported functions of a component are unsafe by their form"
        )]
        const _: () = {
            struct Component;

            impl $crate::bindings::exports::dask::operator::handler::Guest for Component {
                fn describe() -> $crate::Manifest {
                    $crate::report_panics();
                    $plugin().into_manifest()
                }

                fn handle(call: $crate::Call) -> ::core::result::Result<$crate::Outcome, $crate::Failure> {
                    $crate::report_panics();
                    $plugin().handle(&call)
                }
            }

    $crate::bindings::export!(Component with_types_in $crate::bindings);
        };
    };
}
