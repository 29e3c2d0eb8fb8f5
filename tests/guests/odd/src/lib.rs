//! A plugin that does whatever a plugin must not do: what `spec.config` says, as a [`Config`].

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use dask_operator_sdk::{
    Call, Child, EventNote, Failure, Handler, KindReference, Outcome, Patch, PatchPermission, Plugin, Trigger,
    TriggerRequest, Value, ValueTest, json,
};
use serde::{Deserialize, Serialize, de::IntoDeserializer};

mod puppet;

pub use puppet::SCRIPT;

/// `spec.config` of the DaskPlugin: `{do: Mirror}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// What to do.
    #[serde(rename = "do")]
    pub behaviour: Behaviour,
}

/// What the handler does. The tests match on it, so that none can be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behaviour {
    /// What it should: one ConfigMap.
    Answer,
    /// Loops for ever.
    Loop,
    /// Fills a large memory for ever, by an instruction that nothing interrupts.
    Fill,
    /// Loops over a call of the host.
    LoopLog,
    /// Takes ever more memory.
    Hog,
    /// Panics with a message.
    Panic,
    /// Executes `unreachable`.
    Unreachable,
    /// Answers a child of 100 MB.
    Output,
    /// Answers ten million children without content.
    Children,
    /// Answers a text that is not UTF-8.
    InvalidUtf8,
    /// Answers a child that is not JSON.
    InvalidJson,
    /// Logs one line of 100 MB.
    LogLarge,
    /// Logs a hundred thousand lines.
    LogMany,
    /// Nests calls for ever, with nothing but the engine's own stack.
    Recurse,
    /// Nests calls for ever, with variables in memory.
    RecurseInMemory,
    /// Fails, and asks to be called again after a minute.
    Temporary,
    /// Fails for good.
    Permanent,
    /// Fails twice, then does as [`Behaviour::Mirror`].
    Flaky,
    /// A ConfigMap for each entry of the subject's data, but for `do`.
    Mirror,
    /// One child: the subject, read and returned whole, under another name.
    Copy,
    /// Says how much of what earlier calls left in memory it finds, and leaves more.
    Remember,
    /// What the subject's data say under `do`; without it as [`Behaviour::Mirror`].
    Told,
    /// A Job, which nobody grants.
    Ungranted,
    /// Patches an annotation of the subject to what it is not.
    Flip,
    /// Keeps what the subject's data say under `note` as an annotation of it; without it none.
    Note,
    /// Logs [`FORGED`], and answers an Event of it.
    Forge,
    /// Panics with [`FORGED`].
    ForgePanic,
    /// Fails for good with [`FORGED`], ten thousand times over.
    ForgeFailure,
    /// Answers a child whose key is [`FORGED`].
    ForgeKey,
}

/// A text that is more than it seems, wherever it is shown as it is: two lines, of which the second is what the operator says
/// when it is ready; a screen that is cleared; what is read from right to left.
pub const FORGED: &str = "forged\r\nready\0\u{1b}[2J\u{85}\u{2028}\u{202e}\u{2066}\u{200b}\u{feff}end";

impl Behaviour {
    /// All of them.
    pub const ALL: [Self; 29] = [
        Self::Answer,
        Self::Loop,
        Self::Fill,
        Self::LoopLog,
        Self::Hog,
        Self::Panic,
        Self::Unreachable,
        Self::Output,
        Self::Children,
        Self::InvalidUtf8,
        Self::InvalidJson,
        Self::LogLarge,
        Self::LogMany,
        Self::Recurse,
        Self::RecurseInMemory,
        Self::Temporary,
        Self::Permanent,
        Self::Flaky,
        Self::Mirror,
        Self::Copy,
        Self::Remember,
        Self::Told,
        Self::Ungranted,
        Self::Flip,
        Self::Note,
        Self::Forge,
        Self::ForgePanic,
        Self::ForgeFailure,
        Self::ForgeKey,
    ];
}

/// What `describe` does: the text after [`DESCRIBE`] in the component, which the tests overwrite before they load it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Description {
    /// What it should.
    Honest,
    /// Loops for ever.
    Loop,
    /// Panics.
    Panic,
    /// Claims another version of the interface.
    OtherVersion,
    /// Names a handler with a path.
    Path,
    /// Declares the same handler twice.
    Twice,
    /// Declares no handler.
    Empty,
    /// Declares a name of 100 MB.
    Large,
    /// What it should, in another version.
    Newer,
    /// Declares, beside one that is served, handlers that ask for what the operator does not serve yet.
    Unserved,
    /// Declares, beside the usual one, a handler that logs when subjects begin and end.
    Edges,
    /// Another plugin: it returns whatever children its configuration holds.
    Puppet,
    /// Declares six handlers of Services, which all do the same.
    Services,
}

/// What the tests look for in the component; one letter follows.
pub const DESCRIBE: &[u8] = b"what the odd guest says of itself: ";

static DESCRIPTION: [u8; DESCRIBE.len() + 1] = *b"what the odd guest says of itself: H";

impl Description {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Honest,
        Self::Loop,
        Self::Panic,
        Self::OtherVersion,
        Self::Path,
        Self::Twice,
        Self::Empty,
        Self::Large,
        Self::Newer,
        Self::Unserved,
        Self::Edges,
        Self::Puppet,
        Self::Services,
    ];

    /// The letter that stands for it in the component.
    pub fn letter(self) -> u8 {
        match self {
            Self::Honest => b'H',
            Self::Loop => b'L',
            Self::Panic => b'P',
            Self::OtherVersion => b'V',
            Self::Path => b'/',
            Self::Twice => b'2',
            Self::Empty => b'0',
            Self::Large => b'M',
            Self::Newer => b'N',
            Self::Unserved => b'U',
            Self::Edges => b'E',
            Self::Puppet => b'S',
            Self::Services => b'6',
        }
    }

    /// The component with this description in the place of its own.
    pub fn of(self, component: &[u8]) -> Vec<u8> {
        let mut changed = component.to_vec();
        for (at, window) in component.windows(DESCRIBE.len()).enumerate() {
            if window == DESCRIBE {
                changed[at + DESCRIBE.len()] = self.letter();
            }
        }
        changed
    }

    fn of_this_component() -> Self {
        let letter = std::hint::black_box(&DESCRIPTION)[DESCRIBE.len()];
        Self::ALL.into_iter().find(|description| description.letter() == letter).unwrap_or(Self::Honest)
    }
}

/// The plugin.
pub fn plugin() -> Plugin {
    let all = |name| Handler::new(name, KindReference::core("ConfigMap")).labels("odd");
    let handler = |name| all(name).on(TriggerRequest::Observed);
    let plugin = |name| Plugin::new(name, "1.0");
    let honest = |version| {
        Plugin::new("odd", version)
            .handler(handler("odd"), handle)
            .creates(KindReference::core("ConfigMap"))
            .creates(KindReference::new("batch", "Job"))
            .patches(PatchPermission::apply(KindReference::core("ConfigMap"), ["metadata.annotations"]))
    };
    match Description::of_this_component() {
        Description::Honest => honest("1.0"),
        Description::Newer => honest("2.0"),
        Description::Unserved => honest("1.0")
            .handler(all("late").on(TriggerRequest::Updated), handle)
            .handler(handler("choosy").field("data.key", ValueTest::Present), handle),
        Description::Edges => {
            honest("1.0").handler(all("edges").on(TriggerRequest::Created).on(TriggerRequest::Deleted), tell)
        }
        Description::Puppet => puppet::plugin(),
        Description::Services => (1..=6).fold(plugin("odd"), |plugin, number| {
            let services = Handler::new(&format!("services-{number}"), KindReference::core("Service"));
            plugin.handler(services.on(TriggerRequest::Observed), handle)
        }),
        Description::Loop => endless(),
        Description::Panic => boom("describing"),
        Description::OtherVersion => {
            let mut lying = plugin("odd").handler(handler("odd"), handle);
            lying.manifest_mut().interface_version = "9.9.9".into();
            lying
        }
        Description::Path => plugin("odd").handler(handler("../../odd"), handle),
        Description::Twice => plugin("odd").handler(handler("odd"), handle).handler(handler("odd"), handle),
        Description::Empty => plugin("odd"),
        Description::Large => plugin(&large_text()).handler(handler("odd"), handle),
    }
}

/// Logs why it is called.
fn tell(call: &Call) -> Result<Outcome, Failure> {
    let what = match call.trigger {
        Trigger::Created if call.redelivery => "created, again",
        Trigger::Created => "created",
        Trigger::Deleted => "deleted",
        _ => "what nobody asked for",
    };
    dask_operator_sdk::log::info(format!("{}: {what}.", call.subject.name));
    Ok(Outcome::default())
}

/// Does what the configuration says.
pub fn handle(call: &Call) -> Result<Outcome, Failure> {
    let Config { behaviour } = call.config()?;
    behave(behaviour, call)
}

fn behave(behaviour: Behaviour, call: &Call) -> Result<Outcome, Failure> {
    match behaviour {
        Behaviour::Answer => {
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": call.subject.name}});
            Ok(Outcome::children([Child::new("answer", &object)?]))
        }
        Behaviour::Loop => endless(),
        Behaviour::Fill => {
            let mut memory = vec![0_u8; 48 << 20];
            loop {
                std::hint::black_box(&mut memory).fill(1);
            }
        }
        Behaviour::LoopLog => loop {
            dask_operator_sdk::log::info("again");
        },
        Behaviour::Hog => {
            let mut hog = Vec::new();
            loop {
                hog.push(vec![1_u8; 1 << 20]);
                std::hint::black_box(&hog);
            }
        }
        Behaviour::Panic => boom("handling"),
        Behaviour::Unreachable => unreachable(),
        Behaviour::Output => answer(large_text()),
        Behaviour::Children => {
            let child = Child { key: String::new(), object: String::new() };
            Ok(Outcome::children(std::iter::repeat_n(child, 5_000_000)))
        }
        Behaviour::InvalidUtf8 => answer(invalid_text()),
        Behaviour::InvalidJson => answer("{\"kind\":".into()),
        Behaviour::LogLarge => {
            dask_operator_sdk::log::info(large_text());
            Ok(Outcome::default())
        }
        Behaviour::LogMany => {
            (0..100_000).for_each(dask_operator_sdk::log::info);
            Ok(Outcome::default())
        }
        Behaviour::Recurse => answer(ackermann(std::hint::black_box(4), std::hint::black_box(4)).to_string()),
        Behaviour::RecurseInMemory => answer(nest(0).to_string()),
        Behaviour::Temporary => Err(Failure::temporary_for("not yet", std::time::Duration::from_secs(60))),
        Behaviour::Permanent => Err(Failure::permanent("never")),
        Behaviour::Flaky if call.attempt < 3 => {
            Err(Failure::temporary(format!("attempt {} fails on purpose", call.attempt)))
        }
        Behaviour::Flaky | Behaviour::Mirror => mirror(call),
        Behaviour::Copy => copy(call),
        Behaviour::Remember => answer(remember()),
        Behaviour::Told => {
            let Subject { data, .. } = call.subject()?;
            match data.get("do") {
                Some(told) => {
                    let told: &str = told;
                    let behaviour = Behaviour::deserialize(told.into_deserializer())
                        .map_err(|error: serde::de::value::Error| Failure::permanent(format!("data.do: {error}")))?;
                    behave(behaviour, call)
                }
                None => mirror(call),
            }
        }
        Behaviour::Ungranted => {
            let pod = json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "a"}]});
            let object = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": call.subject.name},
                "spec": {"template": {"spec": pod}}});
            Ok(Outcome::children([Child::new("job", &object)?]))
        }
        Behaviour::Flip => {
            let Subject { metadata, .. } = call.subject()?;
            let flipped =
                if metadata.annotations.get("side").is_some_and(|side| side == "heads") { "tails" } else { "heads" };
            Ok(Outcome::default().patch(Patch::subject(&json!({"metadata": {"annotations": {"side": flipped}}}))?))
        }
        Behaviour::Note => {
            let Subject { data, .. } = call.subject()?;
            let note = |note: &String| Patch::subject(&json!({"metadata": {"annotations": {"note": note}}}));
            let patches = data.get("note").map(note).into_iter().collect::<Result<_, _>>()?;
            Ok(Outcome { patches: Some(patches), ..Outcome::default() })
        }
        Behaviour::Forge => {
            dask_operator_sdk::log::info(FORGED);
            Ok(Outcome::default().event(EventNote::warning(FORGED, FORGED)))
        }
        Behaviour::ForgePanic => boom(FORGED),
        Behaviour::ForgeFailure => Err(Failure::permanent(FORGED.repeat(10_000))),
        Behaviour::ForgeKey => Ok(Outcome::children([Child { key: FORGED.into(), object: "{}".into() }])),
    }
}

/// What is read of a subject.
#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

fn mirror(call: &Call) -> Result<Outcome, Failure> {
    let Subject { data, .. } = call.subject()?;
    let child = |(key, value): (&String, &String)| {
        let object: Value = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("{}-{key}", call.subject.name)}, "data": {"value": value}});
        Child::new(key, &object)
    };
    let children = data.iter().filter(|(key, _)| *key != "do").map(child).collect::<Result<Vec<_>, _>>()?;
    Ok(Outcome::children(children))
}

fn copy(call: &Call) -> Result<Outcome, Failure> {
    let mut object: Value = call.subject()?;
    object["metadata"]["name"] = format!("{}-copy", call.subject.name).into();
    Ok(Outcome::children([Child::new("copy", &object)?]))
}

static CALLS_BEFORE: AtomicUsize = AtomicUsize::new(0);

fn remember() -> String {
    let calls = CALLS_BEFORE.fetch_add(1, Ordering::Relaxed);
    let mut memory = std::hint::black_box(vec![0_u8; 4 << 20]);
    let bytes = memory.iter().filter(|byte| **byte != 0).count();
    std::hint::black_box(&mut memory).fill(1);
    format!("{calls} calls, {bytes} bytes")
}

dask_operator_sdk::export_plugin!(plugin);

fn answer(object: String) -> Result<Outcome, Failure> {
    Ok(Outcome::children([Child { key: "answer".into(), object }]))
}

fn large_text() -> String {
    "a".repeat(100_000_000)
}

fn endless() -> ! {
    loop {
        std::hint::black_box(());
    }
}

#[expect(clippy::panic, reason = "what this guest is for")]
fn boom(doing: &str) -> ! {
    panic!("boom while {doing}")
}

fn unreachable() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    endless()
}

#[expect(unsafe_code, reason = "what this guest is for")]
fn invalid_text() -> String {
    // SAFETY: there is none; the host must not rely on it.
    unsafe { String::from_utf8_unchecked(vec![0xff]) }
}

fn ackermann(m: u64, n: u64) -> u64 {
    match (m, n) {
        (0, n) => n + 1,
        (m, 0) => ackermann(m - 1, 1),
        (m, n) => ackermann(m - 1, ackermann(m, n - 1)),
    }
}

#[expect(unconditional_recursion, reason = "what this guest is for")]
fn nest(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 512]);
    nest(frame[7] + 1) + frame[9]
}
