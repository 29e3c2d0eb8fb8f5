//! Exposes the dashboard of every Dask cluster through an Istio VirtualService.

mod service;

use dask_operator_sdk::{Call, Child, Failure, Handler, KindReference, Outcome, Plugin, TriggerRequest, json};

use self::service::{Config, Service};

/// The plugin: one handler, called for every new scheduler Service.
pub fn plugin() -> Plugin {
    let services = Handler::new("dashboard", KindReference::core("Service"))
        .labels("dask.org/component=scheduler")
        .on(TriggerRequest::Created)
        .needs(["metadata.labels", "spec.ports"]);
    Plugin::new("istio-virtual-service", env!("CARGO_PKG_VERSION"))
        .handler(services, dashboard)
        .creates(KindReference::new("networking.istio.io", "VirtualService"))
}

/// From a scheduler's Service to the VirtualService of its dashboard.
pub fn dashboard(call: &Call) -> Result<Outcome, Failure> {
    let service: Service<'_> = call.subject()?;
    let config: Config = call.config()?;
    let (name, namespace) = (&call.subject.name, call.subject.namespace.as_deref().unwrap_or("default"));
    let cluster = service.cluster().unwrap_or(name);
    let virtual_service = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name, "labels": {"dask.org/cluster-name": cluster}},
        "spec": {
            "gateways": [config.gateway],
            "hosts": [config.host(cluster, namespace)],
            "http": [{"route": [{"destination": {
                "host": format!("{name}.{namespace}.svc.cluster.local"),
                "port": {"number": service.dashboard_port()},
            }}]}],
        },
    });
    Ok(Outcome::children([Child::new("dashboard", &virtual_service)?]))
}

dask_operator_sdk::export_plugin!(plugin);
