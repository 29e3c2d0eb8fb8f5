//! The way through the API server, by a double of it that forwards to a scheduler's double as kubelet does.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use dask_wasm_operator_cluster::scheduler::{Addresses, Deadlines, FindPod, Route, SchedulerClient};
use dask_wasm_operator_core::{
    dask::scheduler_pod,
    scheduler::{SchedulerCall, SchedulerError},
};
use dask_wasm_operator_test_support::wait_for;
use futures::{SinkExt as _, StreamExt as _};
use http::HeaderValue;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::{
    Message,
    handshake::server::{Request, Response},
};

use super::{
    IMPATIENT, PATIENCE, adaptive_target,
    double::{Double, HANDSHAKE, Reaction, message},
    faults::sane,
    pods::{POD, Seen},
    say,
};

/// Port of the pod behind the Service's comm port.
const CONTAINER_PORT: u16 = 9786;

/// An API server that forwards ports of the scheduler's pod.
struct ApiServer {
    client: kube::Client,
    /// Ports that are being forwarded.
    forwarding: Arc<AtomicUsize>,
}

impl ApiServer {
    async fn start(scheduler: &Double) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let client = kube::Client::try_from(kube::Config::new(format!("http://{}", listener.local_addr()?).parse()?))?;
        let (scheduler, forwarding) = (scheduler.address.clone(), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&forwarding);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (scheduler, counter) = (scheduler.clone(), Arc::clone(&counter));
                // Ends when the other side is gone, with an error.
                tokio::spawn(async move { serve(stream, &scheduler, &counter).await });
            }
        });
        Ok(Self { client, forwarding })
    }

    fn scheduler_client(&self, observed: Seen, deadlines: Deadlines) -> SchedulerClient {
        let pods: FindPod = Arc::new(move |cluster| scheduler_pod(&observed, cluster));
        let addresses = Addresses { given: BTreeMap::new(), pods, route: Route::PortForward(self.client.clone()) };
        SchedulerClient::new(self.client.clone(), addresses, deadlines)
    }
}

async fn serve(stream: TcpStream, scheduler: &str, forwarding: &AtomicUsize) -> anyhow::Result<()> {
    let mut start = [0; 256];
    let count = stream.peek(&mut start).await?;
    let line = String::from_utf8_lossy(&start[..count]);
    let path = line.split(' ').nth(1).context("no path")?;
    let (pod, port) = (format!("/api/v1/namespaces/n/pods/{POD}/portforward?"), format!("ports={CONTAINER_PORT}"));
    anyhow::ensure!(path.starts_with(&pod) && path.contains(&port), "{path} was asked for");
    forwarding.fetch_add(1, Ordering::SeqCst);
    let result = forward(stream, scheduler).await;
    forwarding.fetch_sub(1, Ordering::SeqCst);
    result
}

/// Data goes over channel 0 and errors over channel 1; both begin with the number of the port.
async fn forward(stream: TcpStream, scheduler: &str) -> anyhow::Result<()> {
    let accept = |_: &Request, mut response: Response| {
        response.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("v4.channel.k8s.io"));
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, accept).await?;
    let mut pod = TcpStream::connect(scheduler).await?;
    let [low, high] = CONTAINER_PORT.to_le_bytes();
    for channel in [0, 1] {
        socket.send(Message::binary(vec![channel, low, high])).await?;
    }
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            message = socket.next() => match message.transpose()? {
                Some(Message::Binary(bytes)) => pod.write_all(&bytes[1..]).await?,
                // The pod's side is still open.
                Some(Message::Close(_)) => {
                    tokio::io::copy(socket.get_mut(), &mut tokio::io::sink()).await?;
                    return Ok(());
                }
                _ => return Ok(()),
            },
            count = pod.read(&mut buffer) => match count? {
                0 => return Ok(socket.close(None).await?),
                count => socket.send(Message::binary([&[0], &buffer[..count]].concat())).await?,
            },
        }
    }
}

fn answered(operation: &str) -> Reaction {
    Reaction::Answer(message(&sane(operation)))
}

#[tokio::test]
async fn from_outside_schedulers_are_reached_through_the_api_server() -> anyhow::Result<()> {
    let scheduler = Double::comm(answered).await?;
    let api_server = ApiServer::start(&scheduler).await?;
    let client = api_server.scheduler_client(Seen::good(CONTAINER_PORT), Deadlines::default());
    for _ in 0..2 {
        assert_eq!(adaptive_target(&client, "c").await?, 7);
    }
    assert_eq!(scheduler.connections(), 1, "the forwarded connection is kept");
    Ok(())
}

#[tokio::test]
async fn forwarding_ends_with_the_connection_however_the_pod_hangs() -> anyhow::Result<()> {
    let scheduler =
        Double::comm(|operation| if operation == HANDSHAKE { answered(operation) } else { Reaction::Hang(Vec::new()) })
            .await?;
    let api_server = ApiServer::start(&scheduler).await?;
    let deadlines = Deadlines { connect: Duration::from_secs(5), ..IMPATIENT };
    let client = api_server.scheduler_client(Seen::good(CONTAINER_PORT), deadlines);
    let result = say(&client, "c", SchedulerCall::Retire(Vec::new())).await;
    assert!(matches!(result, Err(SchedulerError::Unreachable(_))), "{result:?}");
    assert_eq!(scheduler.connections(), 1);
    wait_for("the end of forwarding", PATIENCE, async || {
        Ok((api_server.forwarding.load(Ordering::SeqCst) == 0).then_some(()))
    })
    .await
}

#[tokio::test]
async fn without_a_pod_nothing_is_forwarded() -> anyhow::Result<()> {
    let scheduler = Double::comm(answered).await?;
    let api_server = ApiServer::start(&scheduler).await?;
    let client = api_server.scheduler_client(Seen(Vec::new()), Deadlines::default());
    let result = say(&client, "c", SchedulerCall::Workers).await;
    let Err(SchedulerError::Unreachable(text)) = &result else { panic!("{result:?}") };
    assert!(text.contains("no pod of Deployment c-scheduler has an address"), "{text}");
    assert_eq!(scheduler.connections(), 0);
    Ok(())
}
