//! What watches keep of objects, when their users need parts of them.

use super::*;

const OBJECTS: usize = 1_000;

/// Bytes of a field that not everybody asks for.
const LARGE: usize = 4_096;

fn fields(names: &[&str]) -> Part {
    Part::Fields(names.iter().map(|name| (*name).to_owned()).collect())
}

struct World {
    server: Server,
    index: Arc<Index>,
    watches: Watches,
}

impl World {
    fn new() -> Self {
        let (server, index) = (Server::default(), Arc::new(Index::new(|_| {})));
        for number in 0..OBJECTS {
            server.put(&format!("o{number}"), |object| {
                object["metadata"]["labels"] = json!({"even": (number % 2 == 0).to_string()});
                object["data"] = json!({"text": "x".repeat(LARGE)});
                object["status"] = json!({"number": number});
            });
        }
        let watches = Watches::new(server.client(), Arc::clone(&index));
        Self { server, index, watches }
    }

    /// Bytes that are kept of all objects beside their metadata, and the number of objects.
    fn kept(&self) -> (usize, usize) {
        let objects = self.index.list(&key().resource.kind);
        let bytes = |object: &Arc<Object>| object.fields.iter().map(|(_, raw)| raw.get().len()).sum::<usize>();
        (objects.iter().map(bytes).sum(), objects.len())
    }

    fn data(&self, name: &str) -> Option<Value> {
        let object = self.index.get(&key().resource.kind, &NamespacedName::new("n", name))?;
        object.field("data").and_then(Result::ok)
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_needs_takes_no_memory_and_what_one_more_needs_is_listed_before_it_counts_as_in_sync() {
    let world = World::new();
    let small = world.watches.start_for(&key(), &fields(&["status"])).unwrap();
    small.synced().await;
    let (bytes, count) = world.kept();
    assert_eq!(count, OBJECTS);
    assert!(bytes < OBJECTS * 20, "{bytes} bytes of {}", OBJECTS * LARGE);

    let also_small = world.watches.start_for(&key(), &Part::METADATA).unwrap();
    assert!(also_small.status().is_synced, "it needs nothing that is not there");
    let whole = world.watches.start(&key()).unwrap();
    assert!(!whole.status().is_synced && small.status().is_synced, "only who needs more has to wait");
    whole.synced().await;
    assert!(world.kept().0 > OBJECTS * LARGE);
    assert_eq!((world.server.lists(), world.watches.statuses().len()), (2, 1), "one watch, listed once more");

    drop(whole);
    world.server.put("o7", |object| object["data"] = json!({"text": "new"}));
    while world.data("o7").is_some() {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(world.data("o8").is_some(), "what is known stays until it is told again");
}

#[tokio::test(start_paused = true)]
async fn of_what_two_watches_cover_the_union_is_kept() {
    let world = World::new();
    let all = world.watches.start_for(&key(), &fields(&["status"])).unwrap();
    all.synced().await;
    let even = world.watches.start(&WatchKey { labels: Some("even=true".to_owned()), ..key() }).unwrap();
    even.synced().await;
    assert!(world.data("o8").is_some() && world.data("o7").is_none());
    world.server.put("o8", |object| {
        object["metadata"]["labels"] = json!({"even": "true"});
        object["data"] = json!({"text": "new"});
    });
    while world.data("o8") != Some(json!({"text": "new"})) {
        sleep(Duration::from_millis(10)).await;
    }
}
