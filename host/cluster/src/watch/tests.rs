//! Watches of servers that are odd.

mod parts;
mod server;

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};

use dask_wasm_operator_core::object::{GroupVersionKind, NamespacedName, Object, Resource};
use http::{Request, Response};
use kube::client::Body;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::sleep};
use tower::service_fn;

use super::{
    event::{Event, Place},
    lines::Lines,
    *,
};
use crate::index::Change;
use server::{Server, Spoil, Where};

const LIMIT: Duration = Duration::from_secs(90);

fn key() -> WatchKey {
    let kind = GroupVersionKind::new("", "v1", "ConfigMap");
    let resource = Resource { kind, plural: "configmaps".to_owned(), namespaced: true };
    WatchKey { resource, namespace: None, labels: None }
}

/// Watches of a server that answers each request so, given whether it asks for a watch.
fn watches(answer: impl Fn(bool) -> (u16, Value) + Send + 'static) -> Watches {
    let service = service_fn(move |request: Request<Body>| {
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let (status, body) = answer(is_watch);
        let response = Response::builder().status(status).body(Body::from(body.to_string().into_bytes())).unwrap();
        async move { Ok::<_, Infallible>(response) }
    });
    Watches::new(Client::new(service, "default"), Arc::new(Index::new(|_| {})))
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_to_be_watched_from_its_own_lists_is_not_hammered() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let watches = watches(move |is_watch| {
        counted.fetch_add(1, Ordering::Relaxed);
        match is_watch {
            true => (410, json!({"status": "Failure", "reason": "Expired", "code": 410})),
            false => (200, json!({"metadata": {"resourceVersion": "7"}, "items": []})),
        }
    });
    let watch = watches.start(&key()).unwrap();
    watch.synced().await;
    sleep(Duration::from_secs(60)).await;
    let requests = requests.load(Ordering::Relaxed);
    assert!((10..40).contains(&requests), "{requests} requests in a minute");
}

#[tokio::test(start_paused = true)]
async fn what_the_server_refuses_is_named_and_not_waited_for() {
    let watches = watches(|_| (400, json!({"status": "Failure", "message": "unable to parse", "code": 400})));
    let watch = watches.start(&key()).unwrap();
    watches.settled().await;
    assert_eq!(watch.status().problem, Some(WatchProblem::Refused("unable to parse".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn fault_16_a_silent_server_is_asked_again_and_a_watch_that_asks_no_more_is_stuck() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
    let client = Client::try_from(kube::Config::new(url)).unwrap();
    let watches = Watches::new(client, Arc::new(Index::new(|_| {})));
    let key = key();
    let handle = watches.start(&key).unwrap();
    for _ in 0..60 {
        sleep(Duration::from_secs(10)).await;
        assert!(watches.stuck(LIMIT).is_empty(), "{:?}", handle.status());
    }
    assert!(matches!(handle.status().problem, Some(WatchProblem::Unavailable(_))));
    // As when it panics, or waits for what never comes.
    watches.shared.running()[&key].task.abort();
    sleep(LIMIT + Duration::from_secs(1)).await;
    assert_eq!(watches.stuck(LIMIT), [key]);
}

/// What comes in the place of what is expected of a watch, or before it.
fn spoilt_watches() -> Vec<(&'static str, Spoil)> {
    let event = |type_: &str, object: Value| format!("{}\n", json!({"type": type_, "object": object})).into_bytes();
    let failure = |code: u16| json!({"kind": "Status", "status": "Failure", "code": code, "message": "odd"});
    let more = |text: &str| Spoil::More(text.as_bytes().to_vec());
    let only = |text: &str| Spoil::Only(text.as_bytes().to_vec());
    let object = |name: Value, namespace: Value| json!({"metadata": {"name": name, "namespace": namespace}});
    vec![
        ("no JSON", more("surely no JSON\n")),
        ("HTML", only("<html><body>504</body></html>")),
        ("a cut line", more("{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"x\"\n")),
        ("an end within a line", only("{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"x\"")),
        ("an end at once", only("")),
        ("blank lines", more("\n\r\n  \n")),
        ("only blank lines", only("\n\n")),
        ("an unknown type", Spoil::More(event("FROBNICATED", object(json!("x"), json!("n"))))),
        ("no type", more("{}\n")),
        ("null", more("null\n")),
        ("half a character", Spoil::More(b"{\"type\": \"ADDED\xc3\"}\n".to_vec())),
        ("nobody", Spoil::More(event("ADDED", json!({"metadata": {}})))),
        ("no object", Spoil::More(event("ADDED", json!([1, 2])))),
        ("an odd name", Spoil::More(event("ADDED", object(json!({}), json!("n"))))),
        ("another namespace", Spoil::More(event("ADDED", object(json!("x"), json!("other"))))),
        ("a bookmark without a version", Spoil::More(event("BOOKMARK", json!({"metadata": {}})))),
        ("a line without end", Spoil::More(vec![b'x'; lines::LONGEST + 1])),
        ("the failure 410", Spoil::More(event("ERROR", failure(410)))),
        ("the failure 500", Spoil::More(event("ERROR", failure(500)))),
        ("the failure 429", Spoil::More(event("ERROR", failure(429)))),
        ("the failure 403", Spoil::More(event("ERROR", failure(403)))),
        ("the failure 0", Spoil::More(event("ERROR", failure(0)))),
        ("a failure without words", Spoil::More(event("ERROR", json!(null)))),
        ("a bare failure", Spoil::More(format!("{}\n", failure(500)).into_bytes())),
        ("the answer 410", Spoil::Answer(410, failure(410).to_string())),
        ("the answer 500", Spoil::Answer(500, "oh".to_owned())),
        ("the answer 429", Spoil::Answer(429, failure(429).to_string())),
        ("the answer 403", Spoil::Answer(403, failure(403).to_string())),
        ("the answer 404", Spoil::Answer(404, failure(404).to_string())),
    ]
}

/// The same for lists.
fn spoilt_lists() -> Vec<(&'static str, Spoil)> {
    let more = |text: &str| Spoil::More(text.as_bytes().to_vec());
    let answer = |text: &str| Spoil::Answer(200, text.to_owned());
    vec![
        ("an item that is null", more("null")),
        ("an item that is a number", more("7")),
        ("an item that is a list", more("[]")),
        ("an item that is nobody", more("{}")),
        ("an item with an odd name", more(r#"{"metadata": {"name": 1, "namespace": "n"}}"#)),
        ("an item of another namespace", more(r#"{"metadata": {"name": "x", "namespace": "other"}}"#)),
        ("HTML", answer("<html><body>welcome</body></html>")),
        ("nothing", answer("")),
        ("another object", answer(r#"{"kind": "Status", "status": "Success"}"#)),
        ("no items", answer(r#"{"metadata": {"resourceVersion": "1000"}}"#)),
        ("an odd version", answer(r#"{"metadata": {"resourceVersion": "x"}, "items": []}"#)),
        ("a cut page", answer(r#"{"metadata": {"resourceVersion": "1000"}, "items": [{"metad"#)),
        ("a list without end", answer(r#"{"metadata": {"resourceVersion": "1000", "continue": "x"}, "items": []}"#)),
        ("the answer 410", Spoil::Answer(410, json!({"code": 410}).to_string())),
        ("the answer 500", Spoil::Answer(500, "oh".to_owned())),
        ("the answer 429", Spoil::Answer(429, "oh".to_owned())),
        ("the answer 403", Spoil::Answer(403, json!({"code": 403}).to_string())),
    ]
}

/// A watch of a server, with what it has lost.
struct Site {
    server: Server,
    index: Arc<Index>,
    watches: Watches,
    losses: Arc<Mutex<Vec<String>>>,
}

impl Site {
    fn new() -> Self {
        let (server, losses) = (Server::default(), Arc::new(Mutex::new(Vec::new())));
        let lost = Arc::clone(&losses);
        let index = Arc::new(Index::new(move |change: Change| {
            if let (Some(old), None) = (change.old, change.new) {
                lost.lock().unwrap().push(old.metadata.name.clone());
            }
        }));
        let watches = Watches::new(server.client(), Arc::clone(&index));
        Self { server, index, watches, losses }
    }

    fn start(&self) -> WatchHandle {
        self.watches.start(&WatchKey { namespace: Some("n".to_owned()), ..key() }).unwrap()
    }

    fn known(&self, name: &str) -> Option<Arc<Object>> {
        self.index.get(&key().resource.kind, &NamespacedName::new("n", name))
    }

    /// How long it takes until something is so.
    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Duration {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < Duration::from_secs(120), "never: {what}; {:?}", self.watches.statuses());
            sleep(Duration::from_millis(10)).await;
        }
        begun.elapsed()
    }

    fn lost(&self) -> Vec<String> {
        self.losses.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn fault_01_whatever_a_watch_tells_the_others_are_known_and_it_goes_on() {
    for (what, spoil) in spoilt_watches() {
        let site = Site::new();
        site.server.put("a", |_| {});
        let watch = site.start();
        site.until("the first list", |site| site.known("a").is_some()).await;
        site.server.spoil(Where::Watch, spoil, usize::MAX);
        site.server.hang_up(None);
        site.until("a spoilt watch", |_| watch.status().problem.is_some() || what == "blank lines").await;
        site.server.put("b", |_| {});
        let took = site.until(what, |site| site.known("b").is_some()).await;
        assert!(took < Duration::from_secs(2), "{what}: {took:?}");
        let (requests, lists) = (site.server.requests(), site.server.lists());
        sleep(Duration::from_secs(60)).await;
        let (requests, lists) = (site.server.requests() - requests, site.server.lists() - lists);
        assert!(requests < 60 && lists < 20, "{what}: {requests} requests and {lists} lists in a minute");
        assert!(watch.status().is_synced && site.lost().is_empty(), "{what}: {:?}", site.lost());
        let counted: u64 = site.watches.failures().iter().map(|(_, _, count)| count).sum();
        assert!(counted > 0 || what.contains("blank lines"), "{what}");
        site.server.mend();
        site.server.delete("a");
        site.server.put("c", |_| {});
        site.until(what, |site| site.known("c").is_some() && site.known("a").is_none()).await;
        site.until(what, |_| watch.status().problem.is_none()).await;
        assert_eq!(site.lost(), ["a"], "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn fault_01_whatever_a_list_says_nothing_is_taken_for_gone() {
    for (what, spoil) in spoilt_lists() {
        let site = Site::new();
        site.server.put("a", |_| {});
        let watch = site.start();
        site.until("the first list", |site| site.known("a").is_some()).await;
        site.server.spoil(Where::List, spoil.clone(), usize::MAX);
        site.server.hang_up(Some(json!({"type": "ERROR", "object": {"code": 410}})));
        site.until("a spoilt list", |_| watch.status().problem.is_some()).await;
        site.server.put("b", |_| {});
        if matches!(spoil, Spoil::More(_)) {
            let took = site.until(what, |site| site.known("b").is_some()).await;
            assert!(took < Duration::from_secs(1), "{what}: {took:?}");
        }
        let requests = site.server.requests();
        sleep(Duration::from_secs(60)).await;
        let requests = site.server.requests() - requests;
        assert!(requests < 60, "{what}: {requests} requests in a minute");
        assert!(site.known("a").is_some() && site.lost().is_empty(), "{what}");
        assert!(watch.status().problem.is_some(), "{what}");
        site.server.mend();
        site.server.delete("a");
        site.until(what, |site| site.known("b").is_some() && site.known("a").is_none()).await;
        site.until(what, |_| watch.status().problem.is_none()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn fault_01_a_first_list_in_which_somebody_is_nobody_is_no_whole_one() {
    let site = Site::new();
    site.server.put("a", |_| {});
    site.server.spoil(Where::List, Spoil::More(b"null".to_vec()), 3);
    let watch = site.start();
    site.until("the others", |site| site.known("a").is_some()).await;
    assert!(!watch.status().is_synced && !watch.status().is_settled(), "{:?}", watch.status());
    let problem = watch.status().problem.unwrap();
    assert!(problem.kind() == "Undecodable" && problem.to_string().contains("null"), "{problem}");
    watch.synced().await;
    assert_eq!(watch.status().problem, None);
}

type Oddity = fn(&mut Value);

/// Objects of which somebody has made something odd, and whether they can be read all the same.
fn odd_objects() -> Vec<(&'static str, Oddity, bool)> {
    fn deep(levels: usize) -> Value {
        (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }))
    }
    vec![
        ("deep", |object| object["spec"] = deep(110), false),
        ("deeper", |object| object["spec"] = deep(120), false),
        (
            "deep-managers",
            |object| {
                object["metadata"]["managedFields"] = json!([{"manager": "m", "fieldsV1": deep(115)}]);
            },
            true,
        ),
        ("large", |object| object["data"] = json!({"x": "y".repeat(5 << 20)}), true),
        ("labels", |object| object["metadata"]["labels"] = json!({"a": 1}), false),
        ("owners", |object| object["metadata"]["ownerReferences"] = json!({"a": [1]}), false),
        ("managers", |object| object["metadata"]["managedFields"] = json!("mine"), false),
        ("version", |object| object["metadata"]["resourceVersion"] = json!(7), false),
        ("spec", |object| object["spec"] = json!("a text"), true),
        ("status", |object| object["status"] = json!(["a", "list"]), true),
        ("characters", |object| object["data"] = json!({"ä\u{1f600}": "\u{0}\u{7}\u{fffd}"}), true),
    ]
}

#[tokio::test(start_paused = true)]
async fn fault_01_an_odd_object_is_there_until_it_is_deleted() {
    // A piece ends in the middle of a line, and of a character.
    for piece in [0, 7] {
        let site = Site::new();
        site.server.cut_in_pieces_of(piece);
        let names = || odd_objects().into_iter().map(|(name, ..)| name);
        for (name, change, _) in odd_objects().into_iter().filter(|(name, ..)| *name == "deep" || *name == "owners") {
            site.server.put(name, change);
        }
        site.server.put("other", |_| {});
        let watch = site.start();
        site.until("those that are listed", |site| site.known("deep").is_some() && site.known("other").is_some()).await;
        for (name, change, _) in odd_objects().into_iter().filter(|(name, ..)| piece == 0 || *name != "large") {
            site.server.put(name, change);
            site.server.put("last", |_| {});
            let took = site.until(name, |site| site.known(name).is_some() && site.known("last").is_some()).await;
            assert!(took < Duration::from_secs(1), "{name}: {took:?}");
            site.server.delete("last");
            site.until("its end", |site| site.known("last").is_none()).await;
        }
        site.server.hang_up(Some(json!({"type": "ERROR", "object": {"code": 410}})));
        sleep(Duration::from_secs(5)).await;
        for (name, _, is_readable) in odd_objects().into_iter().filter(|(name, ..)| site.known(name).is_some()) {
            let unreadable = site.known(name).unwrap().unreadable.clone();
            assert_eq!(unreadable.is_none(), is_readable, "{name}: {unreadable:?}");
        }
        assert!(site.lost().iter().all(|name| name == "last"), "{:?}", site.lost());
        assert!(watch.status().problem.is_none(), "an object is no fault of the watch: {:?}", watch.status());
        for name in names() {
            site.server.put(name, |_| {});
            site.until(name, |site| site.known(name).is_some_and(|known| known.unreadable.is_none())).await;
            site.server.delete(name);
            site.until(name, |site| site.known(name).is_none()).await;
        }
        assert!(site.known("other").is_some());
    }
}

proptest! {
    #[test]
    fn whatever_a_stream_holds_what_follows_is_told(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'{'), Just(b'"'), any::<u8>()], 0..400), piece in 1_usize..50) {
        let place = Place { namespaced: true, namespace: None };
        let good = json!({"type": "ADDED", "object": {"metadata": {"name": "a", "namespace": "n"}}}).to_string();
        let stream = [&bytes[..], b"\n", good.as_bytes(), b"\n"].concat();
        let (mut lines, mut last) = (Lines::default(), None);
        for piece in stream.chunks(piece) {
            lines.push(piece);
            while let Some(line) = lines.next().unwrap() {
                last = Some(Event::read(&line, place));
            }
        }
        prop_assert!(matches!(last, Some(Ok(Event::Is(object))) if object.metadata.name == "a"));
        prop_assert_eq!(lines.rest(), None);
    }
}
