//! A scheduler that says what a test wants it to, and a server of HTTP that does the same.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What the handshake is called among the operations.
pub(super) const HANDSHAKE: &str = "handshake";

/// Where nobody but this process listens.
const LOOPBACK: &str = "127.0.0.1:0";

/// What is done when something was received.
#[derive(Clone, Debug)]
pub(super) enum Reaction {
    /// Answers with these bytes.
    Answer(Vec<u8>),
    /// Sends these bytes and closes the connection.
    Close(Vec<u8>),
    /// Sends these bytes and resets the connection.
    Reset(Vec<u8>),
    /// Sends these bytes, keeps the connection and says nothing more.
    Hang(Vec<u8>),
    /// Sends these bytes and then zeros until the other side has had enough.
    Flood(Vec<u8>),
}

/// A server on a port of its own. Ends with this value.
pub(super) struct Double {
    /// `HOST:PORT`.
    pub(super) address: String,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

/// What a server has seen.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    closed: AtomicUsize,
    flooded: AtomicU64,
    requests: Mutex<Vec<Value>>,
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
    None,
}

impl Double {
    /// A scheduler's comm port; `react` is given the name of each operation.
    pub(super) async fn comm(react: impl Fn(&str) -> Reaction + Send + Sync + 'static) -> anyhow::Result<Self> {
        Self::start(LOOPBACK, Protocol::Comm, react).await
    }

    /// The same at this `HOST:PORT`.
    pub(super) async fn comm_at(
        address: &str,
        react: impl Fn(&str) -> Reaction + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        Self::start(address, Protocol::Comm, react).await
    }

    /// A server of HTTP; `react` is given the path of each request.
    pub(super) async fn http(react: impl Fn(&str) -> Reaction + Send + Sync + 'static) -> anyhow::Result<Self> {
        Self::start(LOOPBACK, Protocol::Http, react).await
    }

    /// A server that accepts connections and says nothing.
    pub(super) async fn mute() -> anyhow::Result<Self> {
        Self::start(LOOPBACK, Protocol::None, |_| Reaction::Hang(Vec::new())).await
    }

    async fn start(
        address: &str,
        protocol: Protocol,
        react: impl Fn(&str) -> Reaction + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?.to_string();
        let (react, seen) = (Arc::new(react), Arc::new(Seen::default()));
        let witness = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                witness.connections.fetch_add(1, Ordering::SeqCst);
                let (react, witness) = (Arc::clone(&react), Arc::clone(&witness));
                tokio::spawn(async move {
                    // Ends when the other side is gone, with an error.
                    let _ = serve(stream, protocol, &*react, &witness).await;
                    witness.closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Self { address, seen, task })
    }

    /// How many connections were made.
    pub(super) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub(super) fn open(&self) -> usize {
        let closed = self.seen.closed.load(Ordering::SeqCst);
        self.connections() - closed
    }

    /// How many zeros were taken.
    pub(super) fn flooded(&self) -> u64 {
        self.seen.flooded.load(Ordering::SeqCst)
    }

    /// What was asked for, without the handshakes.
    pub(super) fn requests(&self) -> Vec<Value> {
        self.seen.requests.lock().expect("nobody panics with it").clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    protocol: Protocol,
    react: &(impl Fn(&str) -> Reaction + Sync),
    seen: &Seen,
) -> anyhow::Result<()> {
    loop {
        let request = match protocol {
            Protocol::Comm => read_operation(&mut stream, seen).await?,
            Protocol::Http => read_path(&mut stream).await?,
            Protocol::None => String::new(),
        };
        match react(&request) {
            Reaction::Answer(bytes) => stream.write_all(&bytes).await?,
            Reaction::Close(bytes) => {
                stream.write_all(&bytes).await?;
                return Ok(stream.shutdown().await?);
            }
            Reaction::Reset(bytes) => {
                stream.write_all(&bytes).await?;
                return Ok(stream.set_zero_linger()?);
            }
            Reaction::Hang(bytes) => {
                stream.write_all(&bytes).await?;
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
                return Ok(());
            }
            Reaction::Flood(bytes) => {
                stream.write_all(&bytes).await?;
                let zeros = [0; 1 << 14];
                loop {
                    let count = stream.write(&zeros).await?;
                    seen.flooded.fetch_add(count as u64, Ordering::SeqCst);
                }
            }
        }
    }
}

async fn read_operation(stream: &mut TcpStream, seen: &Seen) -> anyhow::Result<String> {
    let frames = read_frames(stream).await?;
    let [frame] = &frames[..] else { anyhow::bail!("a request with something beside it") };
    // Fails where there are bytes in it, as of a pickle.
    let request: Value = rmp_serde::from_slice(frame)?;
    let Some(operation) = request.get("op") else { return Ok(HANDSHAKE.to_owned()) };
    let operation = operation.as_str().context("a name")?.to_owned();
    seen.requests.lock().expect("nobody panics with it").push(request);
    Ok(operation)
}

/// The frames of the next message.
pub(super) async fn read_frames(stream: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<Vec<Vec<u8>>> {
    // The first number counts bytes that are counted once more.
    stream.read_u64_le().await?;
    let count = stream.read_u64_le().await?;
    let mut lengths = Vec::new();
    for _ in 0..count {
        lengths.push(usize::try_from(stream.read_u64_le().await?)?);
    }
    let mut frames = Vec::new();
    for length in lengths {
        anyhow::ensure!(length < 1 << 30, "{length} bytes");
        let mut frame = vec![0; length];
        stream.read_exact(&mut frame).await?;
        frames.push(frame);
    }
    Ok(frames)
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
    frames(&[frame])
}

/// A message with these frames.
pub(super) fn frames(frames: &[&[u8]]) -> Vec<u8> {
    let lengths = frames.iter().map(|frame| frame.len() as u64);
    let announced = 8 + 8 * lengths.len() as u64 + lengths.clone().sum::<u64>();
    let numbers = [announced, lengths.len() as u64].into_iter().chain(lengths);
    numbers.flat_map(u64::to_le_bytes).chain(frames.concat()).collect()
}

/// A response with a body in JSON.
pub(super) fn response(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: application/json\r\n\r\n{body}", body.len())
        .into_bytes()
}
