//! The interface, as `wit/` has it.
#![allow(missing_docs, unsafe_code, clippy::all, unused_qualifications, reason = "generated")]

wit_bindgen::generate!({
    path: "../../wit",
    world: "plugin",
    pub_export_macro: true,
    export_macro_name: "export",
    default_bindings_module: "dask_operator_sdk::bindings",
    additional_derives: [PartialEq],
});
