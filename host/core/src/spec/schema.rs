//! Places in our schemas where a schema of Kubernetes' own belongs.
//!
//! This crate does not know Kubernetes' types: it leaves a mark, and `host/api` puts the schema there.

use schemars::{Schema, SchemaGenerator, json_schema};

pub(super) fn pod_spec(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-embedded": "PodSpec" })
}

pub(super) fn runner_pod_spec(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-embedded": "RunnerPodSpec" })
}

pub(super) fn int_or_string(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-int-or-string": true })
}

pub(super) fn service_spec(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-embedded": "ServiceSpec" })
}
