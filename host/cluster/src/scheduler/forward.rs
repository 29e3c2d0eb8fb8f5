//! The way to a scheduler's pod from outside of the cluster: the API server forwards a port of it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::Portforwarder};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::stream::BoxStream;
use crate::request::RequestError;

/// The API server refuses to forward.
#[derive(Debug, Error)]
#[error("its port can't be forwarded (that needs the permission to create pods/portforward)")]
pub(super) struct ForwardError(#[source] RequestError);

/// Opens a connection to a port of a pod.
pub(super) async fn open(
    client: &kube::Client,
    namespace: &str,
    pod: &str,
    port: u16,
) -> Result<BoxStream, ForwardError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let forwarder = pods.portforward(pod, &[port]).await;
    let mut forwarder = forwarder.map_err(|error| ForwardError(RequestError::from_kube(error)))?;
    let stream = forwarder.take_stream(port).expect("it was asked for, and is taken once");
    Ok(Box::new(Forwarded { stream, forwarder }))
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
