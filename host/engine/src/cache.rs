//! Compiled components on disk.
//!
//! Compiled code is native code that is run as it is, so the directory must be ours alone, and a file is only used if its
//! content is what was written. The name of an entry says all that is needed for that:
//! `<digest of the wasm>-<engine, version and settings>-<digest of the compiled code>.cwasm`.

use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};

use crate::artifact::Digest;

const ENDING: &str = ".cwasm";

/// An unfinished file of this age belongs to a process that is gone: compiling takes at most minutes.
const LEFT_OVER: Duration = Duration::from_secs(3600);

/// Files that this process has begun.
static UNFINISHED: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Cache {
    directory: PathBuf,
    capacity: u64,
}

impl Cache {
    /// Opens the directory, or makes it.
    pub(crate) fn open(directory: &Path, capacity: u64) -> Result<Self, CacheError> {
        let failed = |source| CacheError::Open { directory: directory.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let metadata = fs::symlink_metadata(directory).map_err(failed)?;
        let is_ours = metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw();
        if !is_ours || metadata.permissions().mode() & 0o077 != 0 {
            return Err(CacheError::NotPrivate { directory: directory.to_owned() });
        }
        Ok(Self { directory: directory.to_owned(), capacity })
    }

    /// Finds a file with the compiled form of a component. An entry whose content was changed is removed.
    pub(crate) fn find(&self, key: &Key) -> Result<Option<PathBuf>, CacheError> {
        let prefix = key.prefix();
        let is_form = |entry: &Entry| entry.name.starts_with(&prefix) && entry.name.ends_with(ENDING);
        for entry in self.entries()?.into_iter().filter(is_form) {
            let path = self.directory.join(&entry.name);
            let checksum = File::open(&path).and_then(|mut file| checksum(&mut file));
            if checksum.is_ok_and(|checksum| entry.name == key.name(checksum)) {
                // Last used, for `prune`; a file system that does not keep times only makes that less exact.
                let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                return Ok(Some(path));
            }
            self.remove(&entry.name)?;
        }
        Ok(None)
    }

    /// Makes an entry from what `write` puts into a file. A crash on the way leaves no entry.
    pub(crate) fn insert<E: From<CacheError>>(
        &self,
        key: &Key,
        write: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        // Unique, because several engines, also of other processes, may share a directory.
        let number = UNFINISHED.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{}-{number}.part", key.prefix(), std::process::id());
        let unfinished = Unfinished(self.directory.join(name));
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&unfinished.0)
            .map_err(|source| self.failed(&key.prefix(), source))?;
        write(&file)?;
        let mut finish = || {
            file.rewind()?;
            let path = self.directory.join(key.name(checksum(&mut file)?));
            file.sync_all()?;
            fs::rename(&unfinished.0, &path)?;
            Ok(path)
        };
        let path = finish().map_err(|source| self.failed(&key.prefix(), source))?;
        self.prune(&path)?;
        Ok(path)
    }

    /// Removes the entries that were not used for longest until the rest fits, and what crashes have left.
    fn prune(&self, keep: &Path) -> Result<(), CacheError> {
        let mut entries = self.entries()?;
        entries.sort_by_key(|entry| entry.used);
        let mut total: u64 = entries.iter().map(|entry| entry.size).sum();
        for entry in entries {
            let is_left_over = !entry.name.ends_with(ENDING) && entry.used.elapsed().is_ok_and(|age| age > LEFT_OVER);
            if self.directory.join(&entry.name) != keep && (total > self.capacity || is_left_over) {
                self.remove(&entry.name)?;
                total -= entry.size;
            }
        }
        Ok(())
    }

    /// Another process with the same directory may have been quicker.
    fn remove(&self, name: &str) -> Result<(), CacheError> {
        match fs::remove_file(self.directory.join(name)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(self.failed(name, source)),
            _ => Ok(()),
        }
    }

    fn entries(&self) -> Result<Vec<Entry>, CacheError> {
        let failed = |source| CacheError::Open { directory: self.directory.clone(), source };
        let files = fs::read_dir(&self.directory).map_err(failed)?;
        // What vanishes meanwhile was another process's to finish or to remove.
        let is_there = |entry: &Result<Option<Entry>, io::Error>| !matches!(entry, Err(error) if error.kind() == io::ErrorKind::NotFound);
        files
            .map(|file| Entry::of(&file?))
            .filter(is_there)
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()
            .map_err(failed)
    }

    fn failed(&self, name: &str, source: io::Error) -> CacheError {
        CacheError::Entry { path: self.directory.join(name), source }
    }
}

struct Entry {
    name: String,
    size: u64,
    used: SystemTime,
}

impl Entry {
    /// None for what is no entry.
    fn of(file: &fs::DirEntry) -> io::Result<Option<Self>> {
        let metadata = file.metadata()?;
        match file.file_name().into_string() {
            Ok(name) if metadata.is_file() => Ok(Some(Self { name, size: metadata.len(), used: metadata.modified()? })),
            _ => Ok(None),
        }
    }
}

/// A file that is removed if it does not become an entry.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What a compiled component depends on.
pub(crate) struct Key {
    pub(crate) wasm: Digest,
    /// Hash of the engine's version and settings.
    pub(crate) engine: u64,
}

impl Key {
    fn prefix(&self) -> String {
        format!("{}-{:016x}-", self.wasm, self.engine)
    }

    fn name(&self, checksum: Digest) -> String {
        format!("{}{checksum}{ENDING}", self.prefix())
    }
}

fn checksum(file: &mut File) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::finish(hasher)),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Why the directory for compiled plugins can't be used. The host's or the administrator's fault, never a plugin's.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The directory can't be made or read.
    #[error("the cache directory {} can't be used", directory.display())]
    Open {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could put code into the directory.
    #[error("the cache directory {} must belong to the operator's user alone: `chmod 700` it, or name another", directory.display())]
    NotPrivate {
        /// The directory.
        directory: PathBuf,
    },
    /// A file can't be read, written or removed.
    #[error("the cache entry {} can't be used", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn key(wasm: &str) -> Key {
        Key { wasm: Digest::of(wasm.as_bytes()), engine: 7 }
    }

    fn insert(cache: &Cache, wasm: &str, compiled: &str) -> PathBuf {
        cache
            .insert(&key(wasm), |mut file| {
                file.write_all(compiled.as_bytes()).map_err(|source| cache.failed("", source))
            })
            .unwrap()
    }

    #[test]
    fn what_was_inserted_is_found_under_its_key_only() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(&directory.path().join("a/b"), 1 << 20).unwrap();
        let path = insert(&cache, "one", "compiled");
        assert_eq!(cache.find(&key("one")).unwrap(), Some(path.clone()));
        assert_eq!(cache.find(&key("two")).unwrap(), None);
        assert_eq!(cache.find(&Key { engine: 8, ..key("one") }).unwrap(), None);
        assert_eq!(fs::read(path).unwrap(), b"compiled");
    }

    #[test]
    fn an_entry_with_another_content_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path().join("cache").as_path(), 1 << 20).unwrap();
        let path = insert(&cache, "one", "compiled");
        fs::write(&path, "Compiled").unwrap();
        assert_eq!(cache.find(&key("one")).unwrap(), None);
        assert!(!path.exists());
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path().join("cache").as_path(), 1 << 20).unwrap();
        let failed: Result<_, CacheError> =
            cache.insert(&key("one"), |_| Err(cache.failed("", io::ErrorKind::Other.into())));
        assert!(failed.is_err());
        assert!(cache.entries().unwrap().is_empty());
    }

    #[test]
    fn it_keeps_within_its_capacity_and_drops_the_least_recently_used() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path().join("cache").as_path(), 20).unwrap();
        for (seconds, wasm) in (1..).zip(["one", "two"]) {
            let path = insert(&cache, wasm, "12345678");
            let used = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            File::options().append(true).open(&path).unwrap().set_modified(used).unwrap();
        }
        assert!(cache.find(&key("one")).unwrap().is_some());
        insert(&cache, "three", "12345678");
        assert!(cache.find(&key("one")).unwrap().is_some());
        assert!(cache.find(&key("two")).unwrap().is_none());
        assert!(cache.find(&key("three")).unwrap().is_some());
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(Cache::open(&path, 1), Err(CacheError::NotPrivate { .. })));

        let link = directory.path().join("link");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(Cache::open(&link, 1), Err(CacheError::NotPrivate { .. })));
    }
}
