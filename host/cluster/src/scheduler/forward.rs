//! The way to a scheduler from outside of the cluster: the API server forwards a port of a pod behind its Service.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use dask_wasm_operator_core::scheduler::Scheduler;
use k8s_openapi::{
    api::core::v1::{Pod, Service},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{
    Api,
    api::{ListParams, Portforwarder},
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::connect::{BoxStream, namespace};
use crate::RequestError;

/// Why nothing is forwarded.
#[derive(Debug, Error)]
pub(super) enum ForwardError {
    /// The Service can't be read.
    #[error("Service {service} can't be read")]
    Service {
        /// Its name.
        service: String,
        /// Why.
        #[source]
        source: RequestError,
    },
    /// Pods can't be listed.
    #[error("the pods behind Service {service} can't be listed")]
    Pods {
        /// Its name.
        service: String,
        /// Why.
        #[source]
        source: RequestError,
    },
    /// There is none that could answer.
    #[error("no pod behind Service {service} is ready")]
    NoPod {
        /// Its name.
        service: String,
    },
    /// The Service names a port that the pod does not have.
    #[error("Service {service} has no port {port} that leads to one of pod {pod}")]
    NoPort {
        /// Name of the Service.
        service: String,
        /// The port of the Service.
        port: u16,
        /// Name of the pod.
        pod: String,
    },
    /// The API server refuses to forward.
    #[error("port {port} of pod {pod} can't be forwarded (it needs the right to create pods/portforward)")]
    Refused {
        /// Name of the pod.
        pod: String,
        /// The port of the pod.
        port: u16,
        /// Why.
        #[source]
        source: RequestError,
    },
}

/// Opens a connection to the pod's port behind this port of the scheduler's Service.
pub(super) async fn open(client: &kube::Client, scheduler: &Scheduler, port: u16) -> Result<BoxStream, ForwardError> {
    let (namespace, name) = (namespace(scheduler), scheduler.service.clone());
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let service = services
        .get(&name)
        .await
        .map_err(|error| ForwardError::Service { service: name.clone(), source: RequestError::from_kube(error) })?;
    let Some(selector) = selector(&service) else {
        return Err(ForwardError::NoPod { service: name });
    };
    let candidates = pods
        .list(&ListParams::default().labels(&selector))
        .await
        .map_err(|error| ForwardError::Pods { service: name.clone(), source: RequestError::from_kube(error) })?;
    let Some(pod) = candidates.items.iter().find(|pod| is_ready(pod)) else {
        return Err(ForwardError::NoPod { service: name });
    };
    let pod_name = pod.metadata.name.clone().unwrap_or_default();
    let Some(port) = target_port(&service, pod, port) else {
        return Err(ForwardError::NoPort { service: name, port, pod: pod_name });
    };
    let refused = |source| ForwardError::Refused { pod: pod_name.clone(), port, source };
    let mut forwarder =
        pods.portforward(&pod_name, &[port]).await.map_err(|error| refused(RequestError::from_kube(error)))?;
    let stream = forwarder.take_stream(port).expect("it was asked for, and is taken once");
    Ok(Box::new(Forwarded { stream, forwarder }))
}

/// As the API server takes it; none: a Service without pods of its own.
fn selector(service: &Service) -> Option<String> {
    let selector = service.spec.as_ref()?.selector.as_ref().filter(|selector| !selector.is_empty())?;
    Some(selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The pod's port behind a port of the Service.
fn target_port(service: &Service, pod: &Pod, port: u16) -> Option<u16> {
    let ports = service.spec.as_ref()?.ports.as_deref().unwrap_or_default();
    let found = ports.iter().find(|found| found.port == i32::from(port))?;
    let number = match &found.target_port {
        None => return Some(port),
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            let containers = pod.spec.as_ref()?.containers.iter();
            let mut ports = containers.flat_map(|container| container.ports.as_deref().unwrap_or_default());
            ports.find(|port| port.name.as_ref() == Some(name))?.container_port
        }
    };
    u16::try_from(number).ok()
}

/// A forwarded port; the forwarding ends with it.
struct Forwarded {
    stream: DuplexStream,
    forwarder: Portforwarder,
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        // By itself it would wait until the pod closes its side, which a pod that hangs never does.
        self.forwarder.abort();
    }
}

impl AsyncRead for Forwarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Forwarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "scheduler", "ports": [{"name": "comm", "containerPort": 9000}]}]},
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        }))
        .unwrap()
    }

    fn service(port: &Value) -> Service {
        serde_json::from_value(json!({"spec": {"selector": {"a": "b", "c": "d"}, "ports": [port]}})).unwrap()
    }

    #[test]
    fn a_port_of_the_service_leads_to_one_of_the_pod() {
        for (port, target) in [
            (json!({"port": 8786}), Some(8786)),
            (json!({"port": 8786, "targetPort": 1}), Some(1)),
            (json!({"port": 8786, "targetPort": "comm"}), Some(9000)),
            (json!({"port": 8786, "targetPort": "other"}), None),
            (json!({"port": 1, "targetPort": 2}), None),
        ] {
            assert_eq!(target_port(&service(&port), &pod("True"), 8786), target, "{port}");
        }
    }

    #[test]
    fn only_ready_pods_of_the_selector_count() {
        assert!(is_ready(&pod("True")) && !is_ready(&pod("False")) && !is_ready(&Pod::default()));
        assert_eq!(selector(&service(&json!({"port": 1}))).as_deref(), Some("a=b,c=d"));
        assert_eq!(selector(&Service::default()), None);
    }
}
