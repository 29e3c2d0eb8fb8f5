//! What the API server tells: the events of a watch, and the pages of a list. Pure.
//!
//! An object is taken whatever is in it ([`WireObject::read`]), as long as it says which it is. What does not even say that
//! makes no other news worthless.

use std::{borrow::Cow, fmt};

use dask_wasm_operator_core::{object::WireObject, text::line};
use kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;

/// An event of a watch.
#[derive(Debug)]
pub(super) enum Event {
    /// An object as it is now.
    Is(Box<WireObject>),
    /// An object that is gone, or is not selected any more, as it was last.
    Was(Box<WireObject>),
    /// Everything up to this version was told.
    Reached(u64),
    /// The watch can't go on.
    Failed(Box<Status>),
}

/// How much is kept of a reason, which may quote what came.
const REASON: usize = 200;

/// Something that was told and can't be understood, so that nobody knows which object it was about.
#[derive(Debug)]
pub(crate) struct Garbled(String);

impl Garbled {
    fn new(why: &str) -> Self {
        Self(line(why, REASON).into_owned())
    }
}

impl fmt::Display for Garbled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default, borrow, rename = "type")]
    type_: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    object: Option<&'a RawValue>,
}

impl Event {
    /// Reads a line of a watch in `namespace`; none: in all, of a kind whose objects have one.
    pub(super) fn read(line: &[u8], place: Place<'_>) -> Result<Self, Garbled> {
        let text = String::from_utf8_lossy(line);
        let envelope = serde_json::from_str::<Envelope<'_>>(&text);
        let envelope = envelope.map_err(|error| Garbled::new(&format!("an event is not JSON: {error}")))?;
        match (envelope.type_.as_deref(), envelope.object) {
            (Some("ADDED" | "MODIFIED"), Some(object)) => Ok(Self::Is(place.object(object.get(), &text)?)),
            (Some("DELETED"), Some(object)) => Ok(Self::Was(place.object(object.get(), &text)?)),
            (Some("BOOKMARK"), Some(object)) => {
                let version = WireObject::read(object.get()).ok();
                let version = version.and_then(|bookmark| bookmark.metadata.resource_version.parse().ok());
                version.map(Self::Reached).ok_or_else(|| Garbled::new("a bookmark has no version"))
            }
            (Some("ERROR"), object) => Ok(Self::Failed(Box::new(status(object.map_or("", RawValue::get))))),
            // In the place of events some servers send what they answer to a request.
            (None, None) if kind_of(&text).as_deref() == Some("Status") => Ok(Self::Failed(Box::new(status(&text)))),
            (Some(other), _) => Err(Garbled::new(&format!("an event of the type {other} is unknown or has no object"))),
            (None, _) => Err(Garbled::new("an event has no type")),
        }
    }
}

fn kind_of(json: &str) -> Option<String> {
    WireObject::read(json).ok()?.kind
}

fn status(json: &str) -> Status {
    serde_json::from_str(json)
        .unwrap_or_else(|_| Status::failure("the API server ended the watch with an odd status", ""))
}

/// Where the objects of a watch are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// Whether the kind's objects have a namespace.
    pub(crate) namespaced: bool,
    /// The only one that is watched.
    pub(crate) namespace: Option<&'a str>,
}

impl Place<'_> {
    /// An object that says which it is, and that it is one of these. `source` is what it was cut out of.
    #[expect(clippy::ptr_arg, reason = "an owned text is one in which something was replaced")]
    fn object(self, json: &str, source: &Cow<'_, str>) -> Result<Box<WireObject>, Garbled> {
        // What was no UTF-8 has been replaced by now, and would seem to be meant.
        let object = match source {
            Cow::Borrowed(_) => WireObject::read(json),
            Cow::Owned(_) => WireObject::read_lossy(json),
        };
        let object = object.map_err(|error| Garbled::new(&format!("an object is none: {error}")))?;
        let namespace = object.metadata.namespace.as_deref();
        if object.metadata.name.is_empty() || namespace.is_some() != self.namespaced {
            return Err(Garbled::new("an object does not say which it is"));
        }
        if self.namespace.is_some() && namespace != self.namespace {
            return Err(Garbled::new("an object of another namespace was received"));
        }
        Ok(Box::new(object))
    }
}

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Page {
    /// As of which version the list is.
    pub(crate) version: u64,
    /// How to ask for the next page; empty: it is the last.
    pub(crate) next: String,
    /// The objects that say which they are.
    pub(crate) objects: Vec<WireObject>,
    /// The first item that does not.
    pub(crate) garbled: Option<Garbled>,
}

#[derive(Deserialize)]
struct WirePage<'a> {
    #[serde(borrow)]
    metadata: PageMetadata<'a>,
    // Null stands for none; without any the answer is no list.
    #[serde(borrow, deserialize_with = "Option::deserialize")]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata<'a> {
    #[serde(borrow)]
    resource_version: Cow<'a, str>,
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

impl Page {
    /// Reads an answer.
    #[expect(clippy::ptr_arg, reason = "an owned text is one in which something was replaced")]
    pub(crate) fn read(text: &Cow<'_, str>, place: Place<'_>) -> Result<Self, Garbled> {
        let page = serde_json::from_str::<WirePage<'_>>(text);
        let page = page.map_err(|error| Garbled::new(&format!("the answer is no list: {error}")))?;
        let version = &page.metadata.resource_version;
        let version = version.parse().map_err(|_| Garbled::new("the version of a list is no number"))?;
        let mut read =
            Self { version, next: page.metadata.next.unwrap_or_default(), objects: Vec::new(), garbled: None };
        for item in page.items.unwrap_or_default() {
            match place.object(item.get(), text) {
                Ok(object) => read.objects.push(*object),
                Err(garbled) => {
                    read.garbled.get_or_insert(garbled);
                }
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const ALL: Place<'_> = Place { namespaced: true, namespace: None };
    const ONE: Place<'_> = Place { namespaced: true, namespace: Some("n") };
    const CLUSTER: Place<'_> = Place { namespaced: false, namespace: None };

    fn added(metadata: serde_json::Value) -> Vec<u8> {
        json!({"type": "ADDED", "object": {"metadata": metadata}}).to_string().into_bytes()
    }

    #[test]
    fn events_are_told_apart() {
        let object = json!({"metadata": {"name": "a", "namespace": "n", "resourceVersion": "7"}});
        let read = |type_: &str, object: &serde_json::Value| {
            Event::read(json!({"type": type_, "object": object}).to_string().as_bytes(), ALL)
        };
        assert!(matches!(read("ADDED", &object), Ok(Event::Is(_))));
        assert!(matches!(read("MODIFIED", &object), Ok(Event::Is(_))));
        assert!(matches!(read("DELETED", &object), Ok(Event::Was(_))));
        assert!(matches!(read("BOOKMARK", &object), Ok(Event::Reached(7))));
        for status in [json!({"code": 410}), json!({"code": "odd"}), json!(null), json!([])] {
            assert!(matches!(read("ERROR", &status), Ok(Event::Failed(_))), "{status}");
        }
        let status = json!({"kind": "Status", "status": "Failure", "code": 429}).to_string();
        let Ok(Event::Failed(status)) = Event::read(status.as_bytes(), ALL) else { panic!("it is a failure") };
        assert_eq!(status.code, 429);
        assert!(read("FROBNICATED", &object).is_err() && read("added", &object).is_err());
        assert!(read("BOOKMARK", &json!({"metadata": {"resourceVersion": "x"}})).is_err());
        for line in ["{", "<html>", "null", "7", "{}", r#"{"type": "ADDED"}"#, r#"{"type": 1, "object": {}}"#] {
            assert!(Event::read(line.as_bytes(), ALL).is_err(), "{line}");
        }
    }

    #[test]
    fn whoever_says_which_it_is_is_there() {
        let depth = 5_000;
        let odd = format!(
            r#"{{"object": {{"spec": {}{}, "metadata": {{"name": "a", "labels": 7, "namespace": "n"}}}}, "type": "ADDED"}}"#,
            "[".repeat(depth),
            "]".repeat(depth)
        );
        let Ok(Event::Is(object)) = Event::read(odd.as_bytes(), ONE) else { panic!("it is there") };
        assert!(object.metadata.name == "a" && object.unreadable.is_some());
        let cut = [
            &br#"{"type": "ADDED", "object": {"metadata": {"name": "a", "namespace": "n"}, "spec": ""#[..],
            b"\xc3\"}}",
        ]
        .concat();
        let Ok(Event::Is(object)) = Event::read(&cut, ONE) else { panic!("it is there") };
        assert!(object.unreadable.is_some());
    }

    #[test]
    fn who_is_nobody_or_of_another_place_is_not_taken() {
        for (metadata, place) in [
            (json!({}), ALL),
            (json!({"name": 1, "namespace": "n"}), ALL),
            (json!({"name": "a"}), ALL),
            (json!({"name": "a", "namespace": ["n"]}), ALL),
            (json!({"name": "a", "namespace": "other"}), ONE),
            (json!({"name": "a", "namespace": "n"}), CLUSTER),
        ] {
            assert!(Event::read(&added(metadata.clone()), place).is_err(), "{metadata}");
        }
        assert!(Event::read(&added(json!({"name": "a", "namespace": "n"})), ONE).is_ok());
        assert!(Event::read(&added(json!({"name": "a"})), CLUSTER).is_ok());
    }

    #[test]
    fn an_item_that_is_nobody_costs_no_other() {
        let item = |name: &str| json!({"metadata": {"name": name, "namespace": "n"}});
        for nobody in [json!(null), json!("a"), json!([]), json!({}), json!({"metadata": null})] {
            let page = json!({"metadata": {"resourceVersion": "7"}, "items": [item("a"), nobody, item("b")]});
            let page = Page::read(&page.to_string().into(), ALL).unwrap();
            let names: Vec<_> = page.objects.iter().map(|object| &*object.metadata.name).collect();
            assert_eq!((names, page.version, page.garbled.is_some()), (vec!["a", "b"], 7, true), "{nobody}");
        }
    }

    #[test]
    fn what_is_no_list_says_nothing_of_what_there_is() {
        for page in [
            json!({"metadata": {"resourceVersion": "7"}}),
            json!({"metadata": {"resourceVersion": ""}, "items": []}),
            json!({"metadata": {"resourceVersion": 7}, "items": []}),
            json!({"items": []}),
            json!({"metadata": {"resourceVersion": "7"}, "items": {}}),
            json!("<html>"),
        ] {
            assert!(Page::read(&page.to_string().into(), ALL).is_err(), "{page}");
        }
        for page in ["<html>", "", r#"{"metadata": {"resourceVersion": "7"}, "items": []"#] {
            assert!(Page::read(&page.into(), ALL).is_err(), "{page}");
        }
        let none = json!({"metadata": {"resourceVersion": "7", "continue": null}, "items": null});
        assert!(Page::read(&none.to_string().into(), ALL).unwrap().objects.is_empty());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Event::read(&bytes, ALL);
            let _ = Page::read(&String::from_utf8_lossy(&bytes), ONE);
        }

        /// A whole event that somebody has damaged in one place.
        #[test]
        fn whatever_is_damaged_is_read_or_refused(at in 0_usize..400, byte in any::<u8>(), cut in any::<bool>()) {
            let mut event = added(json!({"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7",
                "labels": {"a": "b"}, "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}]}));
            let at = at % event.len();
            if cut { event.truncate(at) } else { event[at] = byte }
            let _ = Event::read(&event, ALL);
        }
    }
}
