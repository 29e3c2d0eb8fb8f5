//! The way into a node from outside of its network namespace.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1;
use kube::{Api, Client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{NODE_ADDRESS, NODE_NAME};

/// Connects with pods, Services and programs of a node.
#[derive(Clone, Debug)]
pub struct NodeConnection {
    directory: PathBuf,
}

impl NodeConnection {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// A connection with `address`, `HOST:PORT` as the node understands it.
    ///
    /// # Errors
    /// When nothing listens there.
    pub async fn connect(&self, address: &str) -> anyhow::Result<UnixStream> {
        let connect = async || -> anyhow::Result<UnixStream> {
            // The path may be longer than the name of a socket can be.
            let directory = File::open(&self.directory)?;
            let mut stream =
                UnixStream::connect(format!("/proc/self/fd/{}/egress.sock", directory.as_raw_fd())).await?;
            stream.write_all(format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                answer.push(stream.read_u8().await?);
            }
            ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer).trim());
            Ok(stream)
        };
        connect().await.with_context(|| format!("connecting with {address} in the node"))
    }

    /// Whether pods can be started and names are resolved.
    pub(crate) async fn is_ready(&self, client: &Client) -> anyhow::Result<Option<()>> {
        // It listens as soon as it knows all Services.
        self.connect(&format!("{NODE_ADDRESS}:53")).await?;
        let node = Api::<v1::Node>::all(client.clone()).get(NODE_NAME).await?;
        Ok(is_ready(&node).then_some(()))
    }
}

/// Whether a node takes pods.
pub(super) fn is_ready(node: &v1::Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let tainted = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).next().is_some();
    conditions.clone().any(|condition| condition.type_ == "Ready" && condition.status == "True") && !tainted
}
