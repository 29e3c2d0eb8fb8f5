//! What releases of distributed say, byte by byte as it was recorded: by it the double is checked, and the client.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use dask_wasm_operator_cluster::scheduler::Deadlines;
use dask_wasm_operator_core::scheduler::{SchedulerCall, SchedulerError, SchedulerReply};
use dask_wasm_operator_test_support::{Dask, DaskOptions, DaskProcesses, wait_for};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    NOWHERE, PATIENCE, adaptive_target, client,
    double::{Double, HANDSHAKE, Reaction, frames, message, read_frames},
    faults::sane,
    idle_since, retire, say, workers,
};

/// The oldest supported release, the one whose `check_idle` forgets, one between, and the newest.
const RELEASES: [&str; 4] = [Dask::OLDEST, "2023.3.2", "2024.8.0", Dask::NEWEST];

/// A scheduler with an idle worker `alpha` and a retired worker `beta`.
#[derive(Debug, Serialize, Deserialize)]
struct Recording {
    /// The address of `beta`.
    beta: String,
    /// Messages in base64, by operation.
    comm: BTreeMap<String, String>,
    /// Responses by path.
    http: BTreeMap<String, String>,
}

impl Recording {
    /// In the package, in which cargo starts tests.
    fn path(release: &str) -> PathBuf {
        PathBuf::from(format!("tests/scheduler/recorded/{release}.json"))
    }

    fn load(release: &str) -> anyhow::Result<Self> {
        let path = Self::path(release);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("parsing {}", path.display()))
    }

    /// Asks a real scheduler everything that the client asks.
    async fn of(release: &str) -> anyhow::Result<Self> {
        let mut dask = Dask::install(release)?.start(DaskOptions { with_api: true, ..DaskOptions::default() }).await?;
        let names = ["alpha", "beta"];
        for name in names {
            dask.add_worker(name)?;
        }
        let address = format!("{},{}", dask.comm(), dask.dashboard());
        let here = client(&[("c", &address)], NOWHERE, Deadlines::default())?;
        let registered = wait_for("the workers", PATIENCE, async || {
            let workers = workers(&here, "c").await?;
            Ok((workers.len() == names.len()).then_some(workers))
        });
        let registered = registered.await?;
        // After a task workers tell more of themselves.
        dask.run("client.submit(sum, [1, 2]).result()")?;
        wait_for("an idle scheduler", PATIENCE, async || idle_since(&here, "c").await).await?;
        let beta = registered.into_iter().find(|worker| worker.name == "beta").context("it is registered")?.address;

        let retire =
            json!({"op": "retire_workers", "reply": true, "workers": [&beta], "remove": false, "close_workers": false});
        let plain = |operation: &str| json!({"op": operation, "reply": true});
        let mut stream = TcpStream::connect(dask.comm()).await?;
        let greeting = json!({"compression": null, "python": [3, 11, 0], "pickle-protocol": 4});
        let mut comm = BTreeMap::new();
        for (name, request) in [
            (HANDSHAKE, greeting),
            ("retire_workers", retire),
            ("identity", plain("identity")),
            (
                "workers_to_close",
                json!({"op": "workers_to_close", "reply": true, "n": 1_000_000, "attribute": "address"}),
            ),
            ("adaptive_target", plain("adaptive_target")),
            ("versions", plain("versions")),
            ("check_idle", plain("check_idle")),
            ("unknown", plain("unknown")),
            ("error", json!({"op": "adaptive_target", "reply": true, "unknown": 1})),
        ] {
            stream.write_all(&message(&request)).await?;
            let answer = read_frames(&mut stream).await?;
            let answer: Vec<_> = answer.iter().map(|frame| anonymous(frame.clone(), &dask)).collect();
            let answer = frames(&answer.iter().map(Vec::as_slice).collect::<Vec<_>>());
            comm.insert(name.to_owned(), BASE64_STANDARD.encode(answer));
        }

        let mut http = BTreeMap::new();
        for path in ["/json/counts.json", "/api/v1/get_workers", "/api/v1/adaptive_target", "/api/v1/check_idle"] {
            http.insert(path.to_owned(), exchange(&dask, "GET", path, "").await?);
        }
        let arguments = json!({ "workers": [&beta] }).to_string();
        let path = "/api/v1/retire_workers";
        http.insert(path.to_owned(), exchange(&dask, "POST", path, &arguments).await?);
        Ok(Self { beta, comm, http })
    }

    fn message(&self, operation: &str) -> anyhow::Result<Vec<u8>> {
        Ok(BASE64_STANDARD.decode(self.comm.get(operation).with_context(|| operation.to_owned())?)?)
    }

    /// The first frame of an answer.
    async fn value(&self, operation: &str) -> anyhow::Result<Value> {
        let frames = read_frames(&mut self.message(operation)?.as_slice()).await?;
        let Loose(value) = rmp_serde::from_slice(&frames[0])?;
        Ok(value)
    }

    /// The body of a response; one that is not JSON as text.
    fn body(&self, path: &str) -> anyhow::Result<Value> {
        let response = self.http.get(path).with_context(|| path.to_owned())?;
        let (_, body) = response.split_once("\r\n\r\n").context("no body")?;
        Ok(serde_json::from_str(body).unwrap_or_else(|_| body.into()))
    }

    /// Doubles of the scheduler and of its HTTP server.
    async fn replay(&self) -> anyhow::Result<(Double, Double)> {
        let messages: anyhow::Result<BTreeMap<_, _>> =
            self.comm.keys().map(|operation| Ok((operation.clone(), self.message(operation)?))).collect();
        let (messages, responses) = (messages?, self.http.clone());
        let comm = Double::comm(move |operation| replayed(&messages, operation)).await?;
        let http = Double::http(move |path| Reaction::Answer(responses[path].clone().into_bytes())).await?;
        Ok((comm, http))
    }
}

/// What was not recorded, as no call depends on it, has no answer.
fn replayed(messages: &BTreeMap<String, Vec<u8>>, operation: &str) -> Reaction {
    messages.get(operation).map_or(Reaction::Close(Vec::new()), |message| Reaction::Answer(message.clone()))
}

/// One request and its response as text.
async fn exchange(dask: &DaskProcesses, method: &str, path: &str, body: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(dask.dashboard()).await?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await?;
    Ok(String::from_utf8(anonymous(response, dask))?)
}

/// Without what tells of the machine, at the same length.
fn anonymous(mut bytes: Vec<u8>, dask: &DaskProcesses) -> Vec<u8> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let [files, packages] = dask.directories().map(|path| path.display().to_string());
    for private in
        [release.trim(), &files, &packages].map(str::as_bytes).into_iter().filter(|private| !private.is_empty())
    {
        while let Some(at) = bytes.windows(private.len()).position(|found| found == private) {
            bytes[at..at + private.len()].fill(b'x');
        }
    }
    bytes
}

/// A value of msgpack, with keys of any type as text.
struct Loose(Value);

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut values = Vec::new();
                while let Some(Loose(value)) = list.next_element()? {
                    values.push(value);
                }
                Ok(values.into())
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut values = serde_json::Map::new();
                while let Some((Loose(key), Loose(value))) = map.next_entry()? {
                    values.insert(key.as_str().map_or_else(|| key.to_string(), str::to_owned), value);
                }
                Ok(values.into())
            }
        }
        deserializer.deserialize_any(Visitor).map(Self)
    }
}

/// Whether a value is made like another: it has no other keys, and values of the same types. Workers' addresses differ, and a
/// list is made like its first value.
fn is_like(made: &Value, real: &Value) -> Result<(), String> {
    match (made, real) {
        (Value::Object(made), Value::Object(real)) => made.iter().try_for_each(|(key, made)| {
            let same = real.get(key).or_else(|| real.values().next().filter(|_| key.starts_with("tcp://")));
            let real = same.ok_or_else(|| format!("there is no {key}"))?;
            is_like(made, real).map_err(|difference| format!("{key}: {difference}"))
        }),
        (Value::Array(made), Value::Array(real)) => match real.first() {
            Some(real) => made.iter().try_for_each(|made| is_like(made, real)),
            None => Ok(()),
        },
        (Value::Null, _) | (_, Value::Null) => Ok(()),
        _ if std::mem::discriminant(made) == std::mem::discriminant(real) => Ok(()),
        _ => Err(format!("{made} instead of {real}")),
    }
}

#[tokio::test]
async fn the_double_speaks_as_every_release_does() -> anyhow::Result<()> {
    for release in RELEASES {
        let recording = Recording::load(release)?;
        for operation in recording.comm.keys().filter(|operation| *operation != "error") {
            let real = recording.value(operation).await?;
            let difference = is_like(&sane(operation), &real).err();
            assert_eq!(difference, None, "{operation} of {release}");
            // And it says so in as many frames.
            let count = read_frames(&mut recording.message(operation)?.as_slice()).await?.len();
            assert_eq!(count, 1, "{operation} of {release}");
        }
        assert_eq!(recording.value("unknown").await?, Value::Null, "{release}");
        let error = recording.value("error").await?;
        let made = json!({"status": "uncaught-error", "exception_text": "", "exception": {}});
        assert_eq!(is_like(&made, &error).err(), None, "{release}: {error}");
        let counts =
            json!({"processing": 0, "unrunnable": 0, "waiting": 0, "workers": 3, "desired_workers": 3, "tasks": 9});
        assert_eq!(is_like(&counts, &recording.body("/json/counts.json")?).err(), None, "{release}");
    }
    Ok(())
}

#[tokio::test]
async fn every_release_is_understood() -> anyhow::Result<()> {
    for release in RELEASES {
        let recording = Recording::load(release)?;
        let (comm, http) = recording.replay().await?;
        let both = format!("{},{}", comm.address, http.address);
        let only_http = format!("{NOWHERE},{}", http.address);
        let client =
            client(&[("both", &both), ("rpc", &comm.address), ("http", &only_http)], NOWHERE, Deadlines::default())?;
        for way in ["both", "rpc", "http"] {
            let found = workers(&client, way).await?;
            let names: BTreeSet<_> = found.iter().map(|worker| worker.name.as_str()).collect();
            assert_eq!(names, BTreeSet::from(["alpha", "beta"]), "{release} {way}");
            let retiring = found.iter().filter(|worker| worker.retiring.is_some()).map(|worker| &worker.address);
            let retiring: Vec<_> = retiring.collect();
            assert!(way == "http" || retiring == [&recording.beta], "{release} {way}: {retiring:?}");
            assert_eq!(retire(&client, way, &[&recording.beta, "tcp://127.0.0.1:1"]).await?, [recording.beta.as_str()]);
            assert_eq!(adaptive_target(&client, way).await?, 0, "{release} {way}");
            let is_idle = match say(&client, way, SchedulerCall::IdleSince).await {
                Ok(SchedulerReply::IdleSince(since)) => Ok(since.is_some()),
                other => Err(other),
            };
            match (release, way) {
                ("2022.8.1" | "2023.3.2", "rpc") => {
                    assert!(
                        matches!(is_idle, Err(Err(SchedulerError::Unsupported(_)))),
                        "{release} {way}: {is_idle:?}"
                    );
                }
                // It says that it is busy, and nothing tells that it is this release.
                ("2023.3.2", "http") => assert_eq!(is_idle, Ok(false)),
                _ => assert_eq!(is_idle, Ok(true), "{release} {way}"),
            }
        }
    }
    Ok(())
}

/// Which call has this operation as a step on which it depends.
fn call_with(operation: &str) -> SchedulerCall {
    match operation {
        "identity" | "workers_to_close" => SchedulerCall::Workers,
        "versions" | "check_idle" => SchedulerCall::IdleSince,
        "retire_workers" => SchedulerCall::Retire(vec!["tcp://a".to_owned()]),
        _ => SchedulerCall::AdaptiveTarget,
    }
}

#[tokio::test]
async fn an_answer_may_end_at_every_byte() -> anyhow::Result<()> {
    let of_all = [HANDSHAKE, "identity", "workers_to_close", "adaptive_target", "versions", "retire_workers"];
    let of_new = [&of_all[..], &["check_idle"]].concat();
    for (release, operations) in [(Dask::OLDEST, of_all.to_vec()), (Dask::NEWEST, of_new)] {
        let recording = Recording::load(release)?;
        let broken = Arc::new(Mutex::new((String::new(), Reaction::Close(Vec::new()))));
        let reaction = Arc::clone(&broken);
        let messages: anyhow::Result<BTreeMap<_, _>> =
            recording.comm.keys().map(|operation| Ok((operation.clone(), recording.message(operation)?))).collect();
        let messages = messages?;
        let answers = messages.clone();
        let double = Double::comm(move |operation| match &*reaction.lock().unwrap() {
            (broken, reaction) if broken == operation => reaction.clone(),
            _ => replayed(&answers, operation),
        })
        .await?;
        let client = client(&[("c", &double.address)], NOWHERE, Deadlines::default())?;
        for operation in operations {
            for end in 0..messages[operation].len() {
                let bytes = &messages[operation][..end];
                for reaction in [Reaction::Close(bytes.to_vec()), Reaction::Reset(bytes.to_vec())] {
                    *broken.lock().unwrap() = (operation.to_owned(), reaction);
                    let result = say(&client, "c", call_with(operation)).await;
                    let Err(SchedulerError::Unreachable(text)) = &result else {
                        panic!("{release} {operation} {end}: {result:?}")
                    };
                    assert!(text.contains(operation), "{end} bytes of {operation} of {release}: {text}");
                }
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_response_may_end_at_every_byte() -> anyhow::Result<()> {
    for release in [Dask::OLDEST, Dask::NEWEST] {
        let recording = Recording::load(release)?;
        for (path, call) in [
            ("/api/v1/get_workers", SchedulerCall::Workers),
            ("/api/v1/adaptive_target", SchedulerCall::AdaptiveTarget),
            ("/api/v1/check_idle", SchedulerCall::IdleSince),
            ("/api/v1/retire_workers", SchedulerCall::Retire(vec![recording.beta.clone()])),
            ("/json/counts.json", SchedulerCall::AdaptiveTarget),
        ] {
            let response = recording.http[path].clone().into_bytes();
            let broken = Arc::new(Mutex::new(Reaction::Close(Vec::new())));
            let reaction = Arc::clone(&broken);
            let http = Double::http(move |asked| match asked == path {
                true => reaction.lock().unwrap().clone(),
                false => Reaction::Close(Vec::new()),
            })
            .await?;
            // A route that fails is not asked again, so each has a cluster of its own.
            let (names, address) =
                ((0..2 * response.len()).map(|number| format!("c{number}")), format!("{NOWHERE},{}", http.address));
            let names: Vec<_> = names.collect();
            let given: Vec<_> = names.iter().map(|name| (name.as_str(), address.as_str())).collect();
            let client = client(&given, NOWHERE, Deadlines::default())?;
            for (number, name) in names.iter().enumerate() {
                let bytes = response[..number / 2].to_vec();
                *broken.lock().unwrap() = if number % 2 == 0 { Reaction::Close(bytes) } else { Reaction::Reset(bytes) };
                let result = say(&client, name, call.clone()).await;
                assert!(
                    matches!(result, Err(SchedulerError::Unreachable(_))),
                    "{} bytes of {path} of {release}: {result:?}",
                    number / 2
                );
            }
        }
    }
    Ok(())
}

/// The recordings of the oldest and the newest release are what these say today.
#[tokio::test]
async fn the_recordings_are_true() -> anyhow::Result<()> {
    for release in [Dask::OLDEST, Dask::NEWEST] {
        let (recording, today) = (Recording::load(release)?, Recording::of(release).await?);
        assert!(recording.comm.keys().eq(today.comm.keys()), "{release}");
        for operation in recording.comm.keys() {
            let (recorded, real) = (recording.value(operation).await?, today.value(operation).await?);
            let differences =
                [is_like(&without_metrics(&recorded), &real), is_like(&without_metrics(&real), &recorded)];
            assert_eq!(differences, [Ok(()), Ok(())], "{operation} of {release}");
        }
        for path in recording.http.keys() {
            let (recorded, real) = (recording.body(path)?, today.body(path)?);
            let differences =
                [is_like(&without_metrics(&recorded), &real), is_like(&without_metrics(&real), &recorded)];
            assert_eq!(differences, [Ok(()), Ok(())], "{path} of {release}");
        }
    }
    Ok(())
}

/// What workers tell of themselves depends on what they did last.
fn without_metrics(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, _)| *key != "metrics");
            Value::Object(kept.map(|(key, value)| (key.clone(), without_metrics(value))).collect())
        }
        other => other.clone(),
    }
}

#[tokio::test]
#[ignore = "writes the recordings anew, for which it installs these releases, if DASK_WASM_OPERATOR_TEST_RECORD is set"]
async fn record() -> anyhow::Result<()> {
    if std::env::var_os("DASK_WASM_OPERATOR_TEST_RECORD").is_none() {
        return Ok(());
    }
    for release in RELEASES {
        let recording = Recording::of(release).await?;
        let path = Recording::path(release);
        fs::create_dir_all(path.parent().context("it has a directory")?)?;
        fs::write(&path, serde_json::to_string_pretty(&recording)? + "\n")
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
