//! A scheduler that says what a test wants it to, and a server of HTTP that does the same.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What the handshake is called among the operations.
pub(super) const HANDSHAKE: &str = "handshake";

/// What is done when something was received.
#[derive(Clone, Debug)]
pub(super) enum Reaction {
    /// Answers with these bytes.
    Answer(Vec<u8>),
    /// Sends these bytes and closes the connection.
    Close(Vec<u8>),
    /// Sends these bytes and resets the connection.
    Reset(Vec<u8>),
    /// Keeps the connection and says nothing.
    Hang,
}

/// A server on a port of its own. Ends with this value.
pub(super) struct Double {
    /// `HOST:PORT`.
    pub(super) address: String,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Double {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone, Copy)]
enum Protocol {
    Comm,
    Http,
}

impl Double {
    /// A scheduler's comm port; `react` is given the name of each operation.
    pub(super) async fn comm(react: impl Fn(&str) -> Reaction + Send + Sync + 'static) -> anyhow::Result<Self> {
        Self::start(Protocol::Comm, react).await
    }

    /// A server of HTTP; `react` is given the path of each request.
    pub(super) async fn http(react: impl Fn(&str) -> Reaction + Send + Sync + 'static) -> anyhow::Result<Self> {
        Self::start(Protocol::Http, react).await
    }

    async fn start(
        protocol: Protocol,
        react: impl Fn(&str) -> Reaction + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (react, connections) = (Arc::new(react), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let react = Arc::clone(&react);
                // Ends when the other side is gone, with an error.
                tokio::spawn(async move { serve(stream, protocol, &*react).await });
            }
        });
        Ok(Self { address, connections, task })
    }

    /// How many connections were made.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(
    mut stream: TcpStream,
    protocol: Protocol,
    react: &(impl Fn(&str) -> Reaction + Sync),
) -> io::Result<()> {
    loop {
        let request = match protocol {
            Protocol::Comm => read_operation(&mut stream).await?,
            Protocol::Http => read_path(&mut stream).await?,
        };
        match react(&request) {
            Reaction::Answer(bytes) => stream.write_all(&bytes).await?,
            Reaction::Close(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Reaction::Reset(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.set_zero_linger();
            }
            Reaction::Hang => std::future::pending().await,
        }
    }
}

async fn read_operation(stream: &mut TcpStream) -> io::Result<String> {
    /// Our requests; the greeting has no operation.
    #[derive(Deserialize)]
    struct Request {
        op: Option<String>,
    }
    let mut message = vec![0; usize::try_from(stream.read_u64_le().await?).map_err(io::Error::other)?];
    stream.read_exact(&mut message).await?;
    // Behind the number of frames, 1, and its length.
    let request: Request = rmp_serde::from_slice(&message[16..]).map_err(io::Error::other)?;
    Ok(request.op.unwrap_or_else(|| HANDSHAKE.to_owned()))
}

/// The requests of our client fit into what is read at once.
async fn read_path(stream: &mut TcpStream) -> io::Result<String> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let text = String::from_utf8_lossy(&request);
    Ok(text.split(' ').nth(1).unwrap_or_default().to_owned())
}

/// A message of one frame.
pub(super) fn message(value: &impl Serialize) -> Vec<u8> {
    framed(&rmp_serde::to_vec_named(value).expect("tests write what can be written"))
}

/// A message with this frame.
pub(super) fn framed(frame: &[u8]) -> Vec<u8> {
    let length = frame.len() as u64;
    [16 + length, 1, length].iter().flat_map(|number| number.to_le_bytes()).chain(frame.iter().copied()).collect()
}

/// A response with a body in JSON.
pub(super) fn response(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: application/json\r\n\r\n{body}", body.len())
        .into_bytes()
}
