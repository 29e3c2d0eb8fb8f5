//! A way to the API server on which things go wrong: to a client it is plain HTTP on the loopback interface.
//!
//! It counts the requests that ask for a change, stops at the n-th (a test then kills whoever sent it), answers with errors,
//! or holds back what watches tell. Everything else passes unchanged, with the rights of the kubeconfig that it was made
//! from.

use std::{
    convert::Infallible,
    future::pending,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Context;
use dask_wasm_operator_test_support::Kubeconfig;
use futures::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::{Client, client::Body, config::KubeConfigOptions};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// When a request is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The API server never hears of it.
    BeforeForwarding,
    /// The API server has answered, which the client never hears of.
    AfterCommit,
}

/// What becomes of a request instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// 503, without the API server.
    Unavailable,
    /// 409, without the API server.
    Conflict,
    /// The API server carries it out, and its answer gets lost.
    AnswerLost,
}

/// What becomes of what the API server tells of the objects of a kind.
#[derive(Clone, Debug)]
pub enum Spoil {
    /// Another answer stands in the place of each.
    Answer(StatusCode, String),
    /// A list has an item more; a watch tells this first.
    More(String),
}

/// How it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// By a list.
    List,
    /// By a watch.
    Watch,
}

/// Ends with this value, its connections included.
pub struct Proxy {
    shared: Arc<Shared>,
    kubeconfig: Kubeconfig,
    server: JoinHandle<()>,
}

struct Shared {
    client: Client,
    faults: Mutex<Faults>,
    stopped: watch::Sender<bool>,
    /// The plural of the kind whose watches tell nothing at the moment.
    held: watch::Sender<Option<String>>,
    /// How often something was to be told while it was held back.
    held_back: AtomicUsize,
    /// Counts how often all watches were ended.
    hung_up: watch::Sender<u64>,
    failed: AtomicUsize,
}

#[derive(Default)]
struct Faults {
    stop: Option<Stop>,
    failing: Option<Failing>,
    spoilt: Vec<Spoilt>,
}

struct Spoilt {
    plural: String,
    asked: Asked,
    spoil: Spoil,
    answers: usize,
}

struct Stop {
    /// How many requests for a change still pass.
    passing: usize,
    moment: Moment,
}

struct Failing {
    left: usize,
    failure: Failure,
}

type Answer = Response<UnsyncBoxBody<Bytes, kube::Error>>;

impl Proxy {
    /// In front of the API server of a kubeconfig, with its rights.
    ///
    /// # Errors
    /// When there is no port, or the kubeconfig can't be used.
    pub async fn start(kubeconfig: &Kubeconfig) -> anyhow::Result<Self> {
        let parsed = kube::config::Kubeconfig::from_yaml(kubeconfig.as_str()).context("parsing a kubeconfig")?;
        let mut config = kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?;
        config.default_retry = false;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("finding a port for the proxy")?;
        let address = listener.local_addr().context("finding a port for the proxy")?;
        let shared = Arc::new(Shared {
            client: Client::try_from(config).context("making the proxy's client")?,
            faults: Mutex::default(),
            stopped: watch::Sender::new(false),
            held: watch::Sender::new(None),
            held_back: AtomicUsize::new(0),
            hung_up: watch::Sender::new(0),
            failed: AtomicUsize::new(0),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { shared, kubeconfig: kubeconfig.with_server(&url(address))?, server })
    }

    /// For clients that are to go through here.
    pub fn kubeconfig(&self) -> &Kubeconfig {
        &self.kubeconfig
    }

    /// Stops at the `n`-th request for a change from now on, counted from 1: neither it nor a later one goes on. Those for
    /// a Lease or about the sender's own rights don't count.
    pub fn stop_at(&self, n: usize, moment: Moment) {
        self.shared.faults().stop = Some(Stop { passing: n - 1, moment });
    }

    /// Does not stop any more, unless it has.
    pub fn pass(&self) {
        self.shared.faults().stop = None;
    }

    /// Whether it has stopped.
    pub fn is_stopped(&self) -> bool {
        *self.shared.stopped.borrow()
    }

    /// Waits until it has stopped.
    pub async fn stopped(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.stopped.subscribe().wait_for(|stopped| *stopped).await;
    }

    /// Lets the next `n` requests for a change fail.
    pub fn fail(&self, n: usize, failure: Failure) {
        self.shared.faults().failing = Some(Failing { left: n, failure });
    }

    /// Spoils what is told of a kind, by its plural, until [`Self::mend`]. Watches that are under way end.
    pub fn spoil(&self, plural: &str, asked: Asked, spoil: Spoil) {
        self.shared.faults().spoilt.push(Spoilt { plural: plural.to_owned(), asked, spoil, answers: 0 });
        self.shared.hung_up.send_modify(|times| *times += 1);
    }

    /// How many answers of a sort are spoilt by now.
    pub fn spoilt(&self, asked: Asked) -> usize {
        self.shared.faults().spoilt.iter().filter(|spoilt| spoilt.asked == asked).map(|spoilt| spoilt.answers).sum()
    }

    /// Tells everything of a sort as it is again.
    pub fn mend(&self, asked: Asked) {
        self.shared.faults().spoilt.retain(|spoilt| spoilt.asked != asked);
    }

    /// How many requests for a change have failed by [`Self::fail`].
    pub fn failed(&self) -> usize {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Holds back what watches tell of a kind, by its plural, until [`Self::release`].
    pub fn hold(&self, plural: &str) {
        self.shared.held.send_replace(Some(plural.to_owned()));
    }

    /// How often a watch had something to tell while it was held back: one that is, once.
    pub fn held_back(&self) -> usize {
        self.shared.held_back.load(Ordering::Relaxed)
    }

    /// Lets the watches tell what was held back.
    pub fn release(&self) {
        self.shared.held.send_replace(None);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((connection, _)) = listener.accept().await {
        connections.spawn(converse(connection, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(connection: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.answer(request).await) }
    });
    // Clients come and go, or are killed.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
}

impl Shared {
    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Answer {
        if !asks_for_change(request.method(), request.uri()) {
            return self.forward(request).await;
        }
        // A client that does not wait for the answer takes its connection away: what was to become of the request still does.
        let shared = Arc::clone(self);
        let change = tokio::spawn(async move { shared.change(request).await });
        match change.await {
            Ok(answer) => answer,
            Err(_) => pending().await,
        }
    }

    async fn change(self: &Arc<Self>, request: Request<Incoming>) -> Answer {
        let (stop, failure) = self.fate();
        if stop == Some(Moment::BeforeForwarding) {
            self.stop();
        }
        self.unless_stopped().await;
        match failure {
            Some(Failure::Unavailable) => return refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
            Some(Failure::Conflict) => return refusal(StatusCode::CONFLICT, "Conflict"),
            Some(Failure::AnswerLost) | None => {}
        }
        let answer = self.forward(request).await;
        if stop == Some(Moment::AfterCommit) {
            self.stop();
        }
        self.unless_stopped().await;
        if failure == Some(Failure::AnswerLost) {
            pending::<()>().await;
        }
        answer
    }

    /// What becomes of the next request for a change.
    fn fate(&self) -> (Option<Moment>, Option<Failure>) {
        let mut faults = self.faults();
        let stop = match &mut faults.stop {
            Some(Stop { passing: 0, moment }) => {
                let moment = *moment;
                faults.stop = None;
                Some(moment)
            }
            Some(stop) => {
                stop.passing -= 1;
                None
            }
            None => None,
        };
        let failing = faults.failing.as_mut().filter(|failing| failing.left > 0);
        let failure = failing.map(|failing| {
            failing.left -= 1;
            self.failed.fetch_add(1, Ordering::Relaxed);
            failing.failure
        });
        (stop, failure)
    }

    fn stop(&self) {
        self.stopped.send_replace(true);
    }

    async fn unless_stopped(&self) {
        if *self.stopped.borrow() {
            pending::<()>().await;
        }
    }

    async fn forward(self: &Arc<Self>, request: Request<Incoming>) -> Answer {
        let spoil = self.spoil_of(request.method(), request.uri());
        if let Some(Spoil::Answer(code, text)) = spoil {
            return answer(code, text);
        }
        let watched = watched_plural(request.uri());
        let (mut head, body) = request.into_parts();
        // The client puts its own in their place.
        head.headers.remove(header::HOST);
        head.headers.remove(header::AUTHORIZATION);
        let Ok(body) = body.collect().await else { return pending().await };
        let request = Request::from_parts(head, Body::from(body.to_bytes()));
        match self.client.send(request).await {
            Ok(answer) => match watched {
                Some(plural) => answer.map(|body| self.holding(plural, spoil, body)),
                None => match spoil {
                    Some(Spoil::More(item)) => with_item(answer, &item).await,
                    _ => answer.map(|body| body.boxed_unsync()),
                },
            },
            Err(error) => refusal(StatusCode::BAD_GATEWAY, &error.to_string()),
        }
    }

    /// What a watch tells, when it is not held back.
    fn holding(
        self: &Arc<Self>,
        plural: String,
        spoil: Option<Spoil>,
        body: Body,
    ) -> UnsyncBoxBody<Bytes, kube::Error> {
        let first = if let Some(Spoil::More(first)) = spoil { Some(Ok(Frame::data(first.into()))) } else { None };
        let mut hung_up = self.hung_up.subscribe();
        let shared = Arc::clone(self);
        let frames = stream::iter(first).chain(BodyStream::new(body)).then(move |frame| {
            let (shared, plural) = (Arc::clone(&shared), plural.clone());
            async move {
                let is_held = |held: &Option<String>| held.as_ref() == Some(&plural);
                let mut held = shared.held.subscribe();
                if is_held(&held.borrow()) {
                    shared.held_back.fetch_add(1, Ordering::Relaxed);
                }
                // `shared` has the sender: it does not fail.
                let _ = held.wait_for(|held| !is_held(held)).await;
                frame
            }
        });
        let ended = async move { drop(hung_up.changed().await) };
        StreamBody::new(frames.take_until(ended)).boxed_unsync()
    }

    fn spoil_of(&self, method: &Method, uri: &Uri) -> Option<Spoil> {
        let asked = if watched_plural(uri).is_some() { Asked::Watch } else { Asked::List };
        let plural = uri.path().rsplit('/').next().filter(|_| *method == Method::GET)?;
        let mut faults = self.faults();
        let spoilt = faults.spoilt.iter_mut().find(|spoilt| spoilt.asked == asked && spoilt.plural == plural)?;
        spoilt.answers += 1;
        Some(spoilt.spoil.clone())
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn asks_for_change(method: &Method, uri: &Uri) -> bool {
    let uncounted = ["/leases", "/selfsubject"].iter().any(|part| uri.path().contains(part));
    *method != Method::GET && !uncounted
}

/// The plural of the kind that is watched, if it is a watch.
fn watched_plural(uri: &Uri) -> Option<String> {
    let is_watch = uri.query().unwrap_or_default().split('&').any(|parameter| parameter == "watch=true");
    is_watch.then(|| uri.path().rsplit('/').next().map(str::to_owned)).flatten()
}

/// A list with one more item, before the others.
async fn with_item(list: Response<Body>, item: &str) -> Answer {
    let (head, body) = list.into_parts();
    let Ok(body) = body.collect().await else { return pending().await };
    let text = String::from_utf8_lossy(&body.to_bytes()).replacen("\"items\":[", &format!("\"items\":[{item},"), 1);
    answer(head.status, text.replacen(",]", "]", 1))
}

fn refusal(code: StatusCode, reason: &str) -> Answer {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": format!("the proxy says {reason}"),
    });
    answer(code, status.to_string())
}

fn answer(code: StatusCode, text: String) -> Answer {
    let body = Full::from(text).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}
