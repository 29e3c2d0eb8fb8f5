//! Which plugins there are, from what was seen of DaskPlugins and of the plugin directory. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use dask_wasm_operator_core::spec::DaskPluginSpec;

use super::files::{Reading, stem};

/// Where a plugin is from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Origin {
    /// A DaskPlugin.
    #[default]
    Object,
    /// A file of the directory. There is no object to show its state on.
    File(PathBuf),
}

/// A plugin as it is found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) origin: Origin,
    pub(super) spec: Result<DaskPluginSpec, String>,
    pub(super) generation: Option<i64>,
}

/// What is believed of the plugin directory. Whoever replaces a file may remove it first, so that one look proves nothing:
/// what is missing is believed gone at the second look in a row.
#[derive(Default)]
pub(super) struct Directory(BTreeMap<PathBuf, Known>);

struct Known {
    name: String,
    reading: Reading,
    is_missing: bool,
}

impl Directory {
    /// Takes note of a whole listing.
    pub(super) fn note(&mut self, listing: Vec<Reading>) {
        let mut listed: BTreeMap<_, _> = listing.into_iter().map(|reading| (reading.wasm.clone(), reading)).collect();
        self.0.retain(|wasm, known| {
            let is_whole = |reading: &Reading| reading.has_manifest || !known.reading.has_manifest;
            if listed.get(wasm).is_some_and(is_whole) {
                return true;
            }
            let was_missing = std::mem::replace(&mut known.is_missing, true);
            if !was_missing {
                listed.remove(wasm);
            }
            !was_missing
        });
        for (wasm, reading) in listed {
            // A manifest that can't be read names nobody: the file is the plugin that it was.
            let name = match (&reading.plugin, self.0.get(&wasm)) {
                (Ok((name, _)), _) => name.clone(),
                (Err(_), Some(known)) => known.name.clone(),
                (Err(_), None) => stem(&wasm),
            };
            self.0.insert(wasm, Known { name, reading, is_missing: false });
        }
    }

    fn found(&self) -> Vec<Found> {
        // The same plugin in another file is the one that takes the missing one's place.
        let there: BTreeSet<_> = self.0.values().filter(|known| !known.is_missing).map(|known| &known.name).collect();
        let found = self.0.values().filter(|known| !known.is_missing || !there.contains(&known.name));
        found
            .map(|Known { name, reading, .. }| Found {
                name: name.clone(),
                origin: Origin::File(reading.wasm.clone()),
                spec: reading.plugin.as_ref().map(|(_, spec)| spec.clone()).map_err(Clone::clone),
                generation: None,
            })
            .collect()
    }
}

/// All plugins, each name once, and the files whose name is taken: by a DaskPlugin, or by a file before them.
pub(super) fn all(objects: Vec<Found>, directory: &Directory) -> (Vec<Found>, BTreeMap<PathBuf, String>) {
    let mut found = objects;
    let mut taken = BTreeMap::new();
    for file in directory.found() {
        match &file.origin {
            Origin::File(wasm) if found.iter().any(|other| other.name == file.name) => {
                taken.insert(wasm.clone(), file.name);
            }
            _ => found.push(file),
        }
    }
    (found, taken)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(wasm: &str, name: &str, has_manifest: bool) -> Reading {
        let spec = serde_json::from_value(json!({"source": {"path": wasm}})).unwrap();
        Reading { wasm: wasm.into(), has_manifest, plugin: Ok((name.to_owned(), spec)) }
    }

    fn broken(wasm: &str) -> Reading {
        Reading { wasm: wasm.into(), has_manifest: true, plugin: Err("no YAML".to_owned()) }
    }

    fn object(name: &str) -> Found {
        Found { name: name.to_owned(), origin: Origin::Object, spec: Err(String::new()), generation: None }
    }

    fn names(directory: &Directory) -> Vec<String> {
        directory.found().into_iter().map(|found| found.name).collect()
    }

    #[test]
    fn what_is_missing_once_is_there_and_twice_is_gone() {
        let mut directory = Directory::default();
        directory.note(vec![file("x.wasm", "x", false), file("y.wasm", "y", false)]);
        directory.note(vec![file("y.wasm", "y", false)]);
        assert_eq!(names(&directory), ["x", "y"]);
        directory.note(vec![file("x.wasm", "x", false), file("y.wasm", "y", false)]);
        directory.note(vec![file("y.wasm", "y", false)]);
        assert_eq!(names(&directory), ["x", "y"]);
        directory.note(vec![file("y.wasm", "y", false)]);
        assert_eq!(names(&directory), ["y"]);
    }

    #[test]
    fn a_manifest_that_is_missing_once_is_there_and_twice_is_gone() {
        let mut directory = Directory::default();
        let named = |directory: &Directory| names(directory).join(" ");
        directory.note(vec![file("x.wasm", "named", true)]);
        directory.note(vec![file("x.wasm", "x", false)]);
        assert_eq!(named(&directory), "named");
        directory.note(vec![file("x.wasm", "named", true)]);
        directory.note(vec![file("x.wasm", "x", false)]);
        assert_eq!(named(&directory), "named");
        directory.note(vec![file("x.wasm", "x", false)]);
        assert_eq!(named(&directory), "x");
    }

    #[test]
    fn a_broken_manifest_changes_no_name() {
        let mut directory = Directory::default();
        directory.note(vec![file("x.wasm.gz", "named", true), broken("new.wasm.gz")]);
        for _ in 0..3 {
            directory.note(vec![broken("x.wasm.gz"), broken("new.wasm.gz")]);
            assert_eq!(names(&directory), ["new", "named"]);
            assert!(directory.found().iter().all(|found| found.spec.is_err()));
        }
    }

    #[test]
    fn a_name_is_given_once_and_always_to_the_same() {
        let mut directory = Directory::default();
        let listing = || vec![file("b.wasm.gz", "b", false), file("a.wasm", "a", false), file("b.wasm", "b", false)];
        for _ in 0..3 {
            directory.note(listing());
            let (found, taken) = all(vec![object("a")], &directory);
            let origins: Vec<_> = found.iter().map(|found| (&*found.name, &found.origin)).collect();
            assert_eq!(origins, [("a", &Origin::Object), ("b", &Origin::File("b.wasm".into()))]);
            let taken: Vec<_> = taken.iter().map(|(wasm, name)| (wasm.to_str().unwrap(), &**name)).collect();
            assert_eq!(taken, [("a.wasm", "a"), ("b.wasm.gz", "b")]);
        }
    }

    #[test]
    fn a_component_that_is_replaced_by_a_packed_one_stays_the_same_plugin() {
        let mut directory = Directory::default();
        directory.note(vec![file("x.wasm", "x", false)]);
        directory.note(vec![file("x.wasm.gz", "x", false)]);
        let (found, taken) = all(Vec::new(), &directory);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].origin, Origin::File("x.wasm.gz".into()));
        assert!(taken.is_empty());
    }
}
