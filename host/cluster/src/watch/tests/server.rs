//! An API server with ConfigMaps, some of whose answers are spoilt.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::sleep};
use tower::service_fn;

type Told = UnsyncBoxBody<Bytes, Infallible>;

/// What becomes of an answer to a list, or to a watch.
#[derive(Clone, Debug)]
pub(super) enum Spoil {
    /// Another answer.
    Answer(u16, String),
    /// Of a list: an item more. Of a watch: these bytes come first.
    More(Vec<u8>),
    /// Of a watch: these bytes, and no more.
    Only(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Where {
    List,
    Watch,
}

struct Spoilt {
    at: Where,
    spoil: Spoil,
    left: usize,
}

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<String, Value>,
    history: Vec<(u64, Vec<u8>)>,
    watchers: Vec<mpsc::UnboundedSender<Vec<u8>>>,
    spoilt: Option<Spoilt>,
    /// Bytes of a piece that a watch tells; 0: each event is one.
    piece: usize,
    requests: usize,
    lists: usize,
}

impl Server {
    pub(super) fn client(&self) -> Client {
        let server = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let response = server.answer(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        Client::new(service, "default")
    }

    /// Spoils the next answers of a sort.
    pub(super) fn spoil(&self, at: Where, spoil: Spoil, left: usize) {
        self.state().spoilt = Some(Spoilt { at, spoil, left });
    }

    pub(super) fn mend(&self) {
        self.state().spoilt = None;
    }

    pub(super) fn cut_in_pieces_of(&self, bytes: usize) {
        self.state().piece = bytes;
    }

    /// Ends the watches, after a last event.
    pub(super) fn hang_up(&self, last: Option<Value>) {
        let mut state = self.state();
        if let Some(last) = last {
            let line = format!("{last}\n").into_bytes();
            state.watchers.iter().for_each(|watcher| drop(watcher.send(line.clone())));
        }
        state.watchers.clear();
    }

    /// Makes or changes an object, of which `change` makes what is odd.
    pub(super) fn put(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        state.version += 1;
        let mut object = json!({"metadata": {
            "name": name, "namespace": "n", "uid": name, "resourceVersion": state.version.to_string()}});
        change(&mut object);
        let is_new = state.objects.insert(name.to_owned(), object.clone()).is_none();
        state.tell(if is_new { "ADDED" } else { "MODIFIED" }, &object);
    }

    pub(super) fn delete(&self, name: &str) {
        let mut state = self.state();
        state.version += 1;
        if let Some(mut object) = state.objects.remove(name) {
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            state.tell("DELETED", &object);
        }
    }

    pub(super) fn requests(&self) -> usize {
        self.state().requests
    }

    pub(super) fn lists(&self) -> usize {
        self.state().lists
    }

    fn answer(&self, request: &Request<Body>) -> Response<Told> {
        let query = request.uri().query().unwrap_or_default();
        let version = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
        let mut state = self.state();
        state.requests += 1;
        let at = if query.contains("watch=true") { Where::Watch } else { Where::List };
        state.lists += usize::from(at == Where::List);
        let spoilt = state.spoilt.as_mut().filter(|spoilt| spoilt.at == at && spoilt.left > 0);
        let spoil = spoilt.map(|spoilt| {
            spoilt.left -= 1;
            spoilt.spoil.clone()
        });
        match (at, spoil) {
            (_, Some(Spoil::Answer(status, body))) => response(status, whole(body.into_bytes())),
            (Where::List, spoil) => {
                let mut items: Vec<String> = state.objects.values().map(Value::to_string).collect();
                if let Some(Spoil::More(item) | Spoil::Only(item)) = spoil {
                    items.insert(0, String::from_utf8(item).unwrap());
                }
                let page = format!(
                    r#"{{"metadata": {{"resourceVersion": "{}"}}, "items": [{}]}}"#,
                    state.version,
                    items.join(",")
                );
                response(200, whole(page.into_bytes()))
            }
            (Where::Watch, Some(Spoil::Only(bytes))) => response(200, whole(bytes)),
            (Where::Watch, spoil) => {
                let from: u64 = version.and_then(|version| version.parse().ok()).unwrap_or(0);
                let mut told = if let Some(Spoil::More(bytes)) = spoil { bytes } else { Vec::new() };
                let later = state.history.iter().filter(|(version, _)| *version > from);
                later.for_each(|(_, line)| told.extend(line));
                let (sender, receiver) = mpsc::unbounded_channel();
                let _ = sender.send(told);
                state.watchers.push(sender);
                response(200, live(receiver, state.piece))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    fn tell(&mut self, type_: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": type_, "object": object})).into_bytes();
        self.watchers.iter().for_each(|watcher| drop(watcher.send(line.clone())));
        self.history.push((self.version, line));
    }
}

fn response(status: u16, body: Told) -> Response<Told> {
    Response::builder().status(status).body(body).unwrap()
}

fn whole(bytes: Vec<u8>) -> Told {
    Full::from(bytes).boxed_unsync()
}

/// What a watch tells, until its time is over.
fn live(receiver: mpsc::UnboundedReceiver<Vec<u8>>, piece: usize) -> Told {
    let told = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    let pieces = told.flat_map(move |bytes| {
        let size = if piece == 0 { bytes.len().max(1) } else { piece };
        stream::iter(bytes.chunks(size).map(Bytes::copy_from_slice).collect::<Vec<_>>())
    });
    let frames = pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    StreamBody::new(frames.take_until(sleep(Duration::from_secs(30)))).boxed_unsync()
}
