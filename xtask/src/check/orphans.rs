//! Source files that no `mod` names: they compile nowhere, and no lint sees them.
//!
//! Modules are found by their lines, as rustfmt writes them; a file that is named in another way (inside of an inline module,
//! by `include!`) counts as an orphan, and would better be named in the usual way.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use cargo_metadata::Metadata;

pub(super) fn check(metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    for package in metadata.workspace_packages() {
        let directory = package.manifest_path.parent().context("a manifest has no directory")?;
        let roots = package.targets.iter().map(|target| target.src_path.clone().into_std_path_buf());
        let orphans = orphans(directory.as_std_path(), roots)?;
        findings.extend(orphans.into_iter().map(|file| format!("{}: no `mod` names it", file.display())));
    }
    Ok(findings)
}

/// Source files below `directory` that can't be reached from `roots`. Directories of other packages are theirs.
fn orphans(directory: &Path, roots: impl IntoIterator<Item = PathBuf>) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut orphans = BTreeSet::new();
    source_files(directory, &mut orphans)?;
    let mut queue: Vec<(PathBuf, bool)> = roots.into_iter().map(|root| (root, true)).collect();
    while let Some((file, is_root)) = queue.pop() {
        // Modules that are not there are the compiler's business; a file may be reached twice.
        if orphans.remove(&file) {
            let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            queue.extend(module_files(&file, is_root, &text).into_iter().map(|module| (module, false)));
        }
    }
    Ok(orphans)
}

fn source_files(directory: &Path, files: &mut BTreeSet<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if !hidden && !path.ends_with("target") && !path.join("Cargo.toml").exists() {
                source_files(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.insert(path);
        }
    }
    Ok(())
}

/// Where the modules that a file declares may be.
fn module_files(file: &Path, is_root: bool, text: &str) -> Vec<PathBuf> {
    let directory = file.parent().unwrap_or(Path::new(""));
    let own = if is_root || file.ends_with("mod.rs") { directory.to_owned() } else { file.with_extension("") };
    let mut files = Vec::new();
    let mut explicit = None;
    for line in text.lines().map(str::trim) {
        if let Some(path) = line.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
            explicit = Some(directory.join(path));
        } else if let Some(name) = declared_module(line) {
            match explicit.take() {
                Some(path) => files.push(path),
                None => files.extend([own.join(format!("{name}.rs")), own.join(name).join("mod.rs")]),
            }
        }
    }
    files
}

/// The name in a line like `pub(crate) mod name;`.
fn declared_module(line: &str) -> Option<&str> {
    let declaration = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.strip_prefix(' ')?,
        None => line,
    };
    let name = declaration.strip_prefix("mod ")?.strip_suffix(';')?;
    Some(name.strip_prefix("r#").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_no_module_names_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("src/lib.rs", "mod a;\npub(crate) mod b;\n// mod d;\nmod r#gen;\n#[path = \"elsewhere/x.rs\"]\nmod c;\n");
        write("src/a.rs", "#[cfg(test)]\nmod tests;\n");
        write("src/a/tests.rs", "");
        write("src/b/mod.rs", "pub mod deep;\n");
        write("src/b/deep.rs", "");
        write("src/gen.rs", "");
        write("src/elsewhere/x.rs", "");
        write("src/d.rs", "");
        write("src/b/forgotten.rs", "mod deep;");
        write("other/Cargo.toml", "");
        write("other/src/lib.rs", "");

        let orphans = orphans(directory.path(), [directory.path().join("src/lib.rs")]).unwrap();
        let expected = ["src/b/forgotten.rs", "src/d.rs"].map(|path| directory.path().join(path));
        assert_eq!(orphans, BTreeSet::from(expected));
    }
}
