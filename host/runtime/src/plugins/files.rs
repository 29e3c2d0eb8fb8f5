//! Plugins given as files: a component, and beside it a DaskPlugin in YAML if it needs grants or configuration.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use dask_wasm_operator_core::spec::DaskPluginSpec;
use rustix::fs::OFlags;
use serde_json::{Value, json};
use serde_saphyr::Options;

use crate::settings::PluginFiles;

/// Endings of components.
const ENDINGS: [&str; 3] = [".wasm", ".wasm.gz", ".wasm.zst"];

/// A DaskPlugin is an object of an API server, which takes no more.
const MANIFEST_BYTES: u64 = 3 << 20;

/// How deep documents may nest: deeper than an object that can be read, which is then named and holds up no others, and not so
/// deep that the stack overflows.
const DEEPEST_DOCUMENT: usize = 128;

/// The documents of a YAML or JSON file, which may be a pipe.
pub(crate) fn documents(file: &Path) -> anyhow::Result<Vec<Value>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let budget = serde_saphyr::budget! { max_depth: DEEPEST_DOCUMENT };
    parse(file, &text, serde_saphyr::options! { budget: budget })
}

fn parse(file: &Path, text: &str, options: Options) -> anyhow::Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
        .with_context(|| format!("{} is no YAML", file.display()))?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// Name and specification of a plugin. Its source is the component, whatever its DaskPlugin says.
pub(crate) fn plugin(files: &PluginFiles) -> anyhow::Result<(String, DaskPluginSpec)> {
    let source = json!({"path": files.wasm});
    let Some(manifest) = &files.manifest else {
        return Ok((stem(&files.wasm), serde_json::from_value(json!({"source": source}))?));
    };
    let text =
        read(manifest, MANIFEST_BYTES).map_err(anyhow::Error::from).and_then(|text| Ok(String::from_utf8(text)?));
    let text = text.with_context(|| format!("reading {}", manifest.display()))?;
    let found = parse(manifest, &text, Options::default())?
        .into_iter()
        .find(|document| document.get("kind").and_then(Value::as_str) == Some("DaskPlugin"));
    let Some(mut document) = found else { bail!("{} holds no DaskPlugin", manifest.display()) };
    let name = document.pointer("/metadata/name").and_then(Value::as_str);
    let name = name.map_or_else(|| stem(&files.wasm), str::to_owned);
    let mut spec = document["spec"].take();
    if !spec.is_object() {
        bail!("{}: spec is missing", manifest.display());
    }
    spec["source"] = source;
    let spec = serde_json::from_value(spec).with_context(|| format!("{}: spec", manifest.display()))?;
    Ok((name, spec))
}

/// What a component is called without its endings.
pub(super) fn stem(wasm: &Path) -> String {
    let name = wasm.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stem = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending));
    stem.or_else(|| Path::new(name).file_stem()?.to_str()).unwrap_or_default().to_owned()
}

/// A component of the directory with what stands beside it.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) wasm: PathBuf,
    pub(super) has_manifest: bool,
    pub(super) plugin: Result<(String, DaskPluginSpec), String>,
}

/// What the plugin directory and the files of plugins look like. Reads the disk, which may take its time.
pub(super) struct Survey {
    /// What the directory holds; none: there is no directory.
    pub(super) listing: Option<Result<Vec<Reading>, String>>,
    /// A mark of each component's file, another one when it was changed.
    pub(super) marks: BTreeMap<PathBuf, u64>,
}

impl Survey {
    /// Of a directory, and of files that DaskPlugins name.
    pub(super) fn make(directory: Option<&Path>, mut paths: Vec<PathBuf>) -> Self {
        let listing = directory.map(|directory| list(directory).map_err(|error| format!("{error:#}")));
        paths.extend(listing.iter().flatten().flatten().map(|reading| reading.wasm.clone()));
        let marks = paths.into_iter().map(|path| (path.clone(), mark(&path))).collect();
        Self { listing, marks }
    }
}

/// The plugins of a directory: each `NAME.wasm` (or `.wasm.gz`, `.wasm.zst`), with `NAME.yaml` beside it if there is one.
fn list(directory: &Path) -> anyhow::Result<Vec<Reading>> {
    let context = || format!("reading the plugin directory {}", directory.display());
    let mut readings = Vec::new();
    for entry in fs::read_dir(directory).with_context(context)? {
        let wasm = entry.with_context(context)?.path();
        let name = wasm.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !ENDINGS.iter().any(|ending| name.ends_with(ending)) {
            continue;
        }
        let manifest = directory.join(format!("{}.yaml", stem(&wasm)));
        let manifest = manifest.try_exists().with_context(context)?.then_some(manifest);
        let has_manifest = manifest.is_some();
        let plugin = plugin(&PluginFiles { wasm: wasm.clone(), manifest }).map_err(|error| format!("{error:#}"));
        readings.push(Reading { wasm, has_manifest, plugin });
    }
    Ok(readings)
}

fn mark(path: &Path) -> u64 {
    let metadata = fs::metadata(path).map(|metadata| {
        let (modified, changed) =
            ((metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec()));
        (metadata.dev(), metadata.ino(), metadata.len(), modified, changed)
    });
    let mut hasher = DefaultHasher::new();
    metadata.map_err(|error| error.kind()).hash(&mut hasher);
    hasher.finish()
}

/// Reads a regular file of at most `limit` bytes. Anything else may never end, and neither may a file of `/proc`, which is
/// longer than it says: no more is read than that.
pub(super) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let regular = |metadata: Metadata| {
        if metadata.is_file() { Ok(metadata.len()) } else { Err(io::Error::other("it is no regular file")) }
    };
    // Looked at before it is opened, which does something to some devices, and after, because it may be another one by then.
    regular(fs::metadata(path)?)?;
    let waits_for_nobody = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(waits_for_nobody).open(path)?;
    let length = regular(file.metadata()?)?;
    if length > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
    }
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for path in [pipe.as_path(), Path::new("/dev/zero"), directory.path()] {
            let error = read(path, 10).unwrap_err();
            assert!(error.to_string().contains("no regular file"), "{}: {error}", path.display());
        }
        assert!(read(Path::new("/proc/self/environ"), 1 << 20).unwrap().is_empty(), "it says that it is empty");
        let file = directory.path().join("file");
        fs::write(&file, "0123456789").unwrap();
        assert_eq!(read(&file, 10).unwrap(), b"0123456789");
        assert_eq!(read(&file, 9).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_directory_is_surveyed_with_what_is_wrong_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["a.wasm", "b.wasm.gz", "c.d.wasm.zst", "README", "e.wasm"] {
            fs::write(path(name), "code").unwrap();
        }
        fs::write(path("a.yaml"), r#"{"kind": "DaskPlugin", "metadata": {"name": "other"}, "spec": {}}"#).unwrap();
        fs::write(path("b.yaml"), "spec: [").unwrap();
        fs::write(path("e.yaml"), r#"{"kind": "DaskPlugin", "metadata": {"name": "e"}}"#).unwrap();
        let survey = Survey::make(Some(directory.path()), vec![path("absent.wasm")]);
        assert_eq!(survey.marks.len(), 5);
        let mut readings = survey.listing.unwrap().unwrap();
        readings.sort_by(|one, other| one.wasm.cmp(&other.wasm));
        let names: Vec<_> = readings
            .iter()
            .map(|reading| match &reading.plugin {
                Ok((name, _)) => name.clone(),
                Err(why) => why.replace(&*directory.path().to_string_lossy(), ""),
            })
            .collect();
        assert_eq!((&*names[0], &*names[2]), ("other", "c.d"));
        assert!(names[1].starts_with("/b.yaml is no YAML"), "{}", names[1]);
        assert_eq!(names[3], "/e.yaml: spec is missing");
        assert!(Survey::make(Some(&path("absent")), Vec::new()).listing.unwrap().is_err());
    }

    #[test]
    fn a_file_that_is_replaced_or_goes_has_another_mark() {
        let directory = tempfile::tempdir().unwrap();
        let (file, next) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&file, "1").unwrap();
        let first = mark(&file);
        assert_eq!(mark(&file), first);
        fs::write(&next, "2").unwrap();
        fs::rename(&next, &file).unwrap();
        let second = mark(&file);
        assert_ne!(second, first);
        fs::remove_file(&file).unwrap();
        assert_ne!(mark(&file), second);
    }
}
