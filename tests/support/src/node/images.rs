//! Container images without a registry: releases of Dask with this machine's Python, and the sandbox of pods.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::control_plane::components::text;
use crate::dask::Dask;

/// The image of each pod's sandbox.
pub(super) const PAUSE: &str = "localhost/pause:local";

/// The releases of Dask that there are images of: the last with the commands `dask-scheduler` and `dask-worker`, which
/// the Python client calls by default, and the newest.
const DASK_VERSIONS: [&str; 2] = ["2026.3.0", Dask::NEWEST];

/// The image of a release of Dask; a local node has those of 2026.3.0 and [`Dask::NEWEST`].
pub fn dask_image(version: &str) -> String {
    format!("ghcr.io/dask/dask:{version}")
}

/// Makes the archives that are not there yet with `node`, the program, and returns all.
pub(super) fn ensure(node: &Path, directory: &Path, progress: &dyn Fn(&str)) -> anyhow::Result<Vec<PathBuf>> {
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let mut archives = vec![archive("pause", &pause(node), node, directory, progress)?];
    for version in DASK_VERSIONS {
        let description = dask(version, progress)?;
        archives.push(archive(&format!("dask-{version}"), &description, node, directory, progress)?);
    }
    Ok(archives)
}

fn pause(node: &Path) -> Value {
    json!({"name": PAUSE, "command": [text(node), "pause"], "paths": [text(node)]})
}

/// Writes an archive to `output` with the image of a program of this machine, such as the operator's: it starts the program
/// with the arguments that a container gives.
pub(super) fn of_program(node: &Path, name: &str, program: &Path, output: &Path) -> anyhow::Result<()> {
    let program = program.canonicalize().with_context(|| format!("finding {}", program.display()))?;
    let mut paths = BTreeSet::from([program.clone()]);
    for library in loaded_libraries(std::slice::from_ref(&program))? {
        paths.extend(links(&library)?);
    }
    let description = json!({
        "name": name,
        "entrypoint": [text(&program)],
        "paths": paths.iter().map(|path| text(path)).collect::<Vec<_>>(),
        "texts": {"/etc/nsswitch.conf": "hosts: files dns\n"},
        "output": text(output),
    });
    run_node_image(node, &description).with_context(|| format!("making the image {name}"))
}

/// The archive of an image of this description; made if it is not there.
fn archive(
    name: &str,
    description: &Value,
    node: &Path,
    directory: &Path,
    progress: &dyn Fn(&str),
) -> anyhow::Result<PathBuf> {
    let digest = format!("{:x}", Sha256::digest(format!("{} {description}", node.display())));
    let path = directory.join(format!("{name}-{digest:.12}.tar"));
    if !path.is_file() {
        progress(&format!("making the image {name}"));
        // Of its own, for others may make the same.
        let unfinished = tempfile::NamedTempFile::new_in(directory).context("making a file for an image")?;
        let mut description = description.clone();
        description["output"] = text(unfinished.path()).into();
        run_node_image(node, &description).with_context(|| format!("making the image {name}"))?;
        unfinished.persist(&path).with_context(|| format!("storing {}", path.display()))?;
    }
    Ok(path)
}

fn run_node_image(node: &Path, description: &Value) -> anyhow::Result<()> {
    let mut child = Command::new(node).arg("image").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("it has no stdin")?.write_all(description.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A release of Dask with everything that it runs on, at the same paths as on this machine.
fn dask(version: &str, progress: &dyn Fn(&str)) -> anyhow::Result<Value> {
    progress(&format!("looking for Dask {version}"));
    let dask = Dask::install(version)?;
    let python = Python::describe(dask.environment())?;
    let shell = PathBuf::from("/bin/sh");
    let mut paths = BTreeSet::from([dask.environment().to_owned()]);
    for program in [&python.venv_executable, &python.executable, &shell] {
        paths.extend(links(program)?);
    }
    let mut libraries = vec![python.executable.clone(), shell];
    for entry in fs::read_dir(&python.library).with_context(|| format!("reading {}", python.library.display()))? {
        let path = entry.context("reading Python's library")?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name != "site-packages" && name != "dist-packages" {
            paths.insert(path);
        }
    }
    for directory in [dask.environment(), &python.library.join("lib-dynload")] {
        shared_objects(directory, &mut libraries)?;
    }
    for library in loaded_libraries(&libraries)? {
        paths.extend(links(&library)?);
    }
    Ok(json!({
        "name": dask_image(version),
        "environment": [
            format!("PATH={}:/usr/bin:/bin", dask.environment().join("bin").display()),
            "HOME=/root",
            "PYTHONUNBUFFERED=1",
        ],
        "command": ["python"],
        "paths": paths.iter().map(|path| text(path)).collect::<Vec<_>>(),
        "excluded": EXCLUDED,
        "texts": {
            "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
            "/etc/group": "root:x:0:\n",
            "/etc/nsswitch.conf": "hosts: files dns\n",
        },
        "scratch": ["/tmp", "/root"],
    }))
}

/// Patterns of names of what no program of Dask uses: more than half of the size, which each start of a node unpacks.
const EXCLUDED: [&str; 15] = [
    "*.opt-[12].pyc",
    "_test*",
    "_tkinter*",
    "config-3*",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pip",
    "pkg_resources",
    "pydoc_data",
    "setuptools",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
];

/// What is loaded by name while a program runs, where there is such a file beside the C library.
const LOADED_BY_NAME: [&str; 3] = ["libgcc_s.so.1", "libnss_dns.so.2", "libnss_files.so.2"];

/// Where the parts of a Python are.
#[derive(Deserialize)]
struct Python {
    venv_executable: PathBuf,
    executable: PathBuf,
    library: PathBuf,
}

impl Python {
    fn describe(environment: &Path) -> anyhow::Result<Self> {
        const SCRIPT: &str = "import json, os, sys, sysconfig\n\
            print(json.dumps({'venv_executable': sys.executable, 'executable': os.path.realpath(sys.executable),\n\
            'library': sysconfig.get_path('stdlib')}))";
        let answer = output(Command::new(environment.join("bin/python")).args(["-c", SCRIPT]))?;
        serde_json::from_str(&answer).context("reading where Python's parts are")
    }
}

/// A path, and if it is a link all that it leads to.
fn links(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = vec![path.to_owned()];
    let mut last = path.to_owned();
    while last.is_symlink() {
        let target = fs::read_link(&last).with_context(|| format!("following {}", last.display()))?;
        last = without_parents(&last.parent().unwrap_or(Path::new("/")).join(target));
        ensure!(!all.contains(&last), "{} leads in a circle", path.display());
        all.push(last.clone());
    }
    Ok(all)
}

/// Takes `..` for what it says: directories of an image are no links.
fn without_parents(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut before, component| {
        if component == Component::ParentDir {
            before.pop();
        } else {
            before.push(component);
        }
        before
    })
}

/// All files in a directory that are named like shared objects and not excluded.
fn shared_objects(directory: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let entry = entry.with_context(|| format!("reading {}", directory.display()))?;
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            shared_objects(&path, found)?;
        } else if path.file_name().is_some_and(|name| is_loaded(&name.to_string_lossy())) {
            found.push(path);
        }
    }
    Ok(())
}

fn is_loaded(name: &str) -> bool {
    name.contains(".so") && !name.starts_with("_test") && !name.starts_with("_tkinter")
}

/// The shared libraries that the programs and libraries need.
fn loaded_libraries(programs: &[PathBuf]) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut libraries: BTreeSet<PathBuf> =
        output(Command::new("ldd").args(programs))?.lines().filter_map(library).map(PathBuf::from).collect();
    let beside = libraries.iter().find(|path| path.ends_with("libc.so.6")).cloned();
    libraries.extend(
        LOADED_BY_NAME
            .iter()
            .filter_map(|name| Some(beside.as_ref()?.with_file_name(name)))
            .filter(|path| path.exists()),
    );
    Ok(libraries)
}

/// The path in a line of ldd: `libc.so.6 => /lib/libc.so.6 (0x…)` or `/lib64/ld-linux.so.2 (0x…)`.
fn library(line: &str) -> Option<&str> {
    let path = line.split_once(" => ").map_or(line, |(_, path)| path).trim().split_once(" (0x")?.0;
    path.starts_with('/').then_some(path)
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).with_context(|| format!("reading the output of {command:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_in_two_ways() {
        assert_eq!(library("\tlibc.so.6 => /lib/libc.so.6 (0x00007f)"), Some("/lib/libc.so.6"));
        assert_eq!(library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007f)"), None);
        assert_eq!(library("\tlibx.so => not found"), None);
        assert_eq!(library("/bin/sh:"), None);
    }

    #[test]
    fn links_are_followed_to_their_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("c"), "").unwrap();
        std::os::unix::fs::symlink("nowhere/../c", path("b")).unwrap();
        std::os::unix::fs::symlink(path("b"), path("a")).unwrap();
        assert_eq!(links(&path("a")).unwrap(), [path("a"), path("b"), path("c")]);
        std::os::unix::fs::symlink("e", path("d")).unwrap();
        std::os::unix::fs::symlink("d", path("e")).unwrap();
        assert!(links(&path("d")).is_err());
    }
}
