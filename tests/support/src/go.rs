//! Runs the `go` command in one of the pinned modules of tests/local-kubernetes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, anyhow, bail};
use sha2::{Digest, Sha256};

use crate::control_plane::supervised;
use crate::workspace;

/// A directory of tests/local-kubernetes with a go.mod of its own, the only place where versions are written down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PinnedModule {
    /// Name of the directory below tests/local-kubernetes.
    pub(crate) directory: &'static str,
    /// Path of the Go module whose version the directory pins, or of the module in the directory itself.
    pub(crate) path: &'static str,
}

impl PinnedModule {
    fn directory(&self) -> PathBuf {
        workspace().join("tests/local-kubernetes").join(self.directory)
    }

    /// The version that go.mod requires, such as `v1.36.3`; a program of our own is told apart from its earlier
    /// versions by a digest of its files.
    pub(crate) fn version(&self) -> anyhow::Result<String> {
        let file = self.directory().join("go.mod");
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        if text.lines().any(|line| line.strip_prefix("module ") == Some(self.path)) {
            return self.digest();
        }
        required_version(&text, self.path)
            .map(str::to_owned)
            .with_context(|| format!("{} requires no version of {}", file.display(), self.path))
    }

    fn digest(&self) -> anyhow::Result<String> {
        let directory = self.directory();
        let read = || -> io::Result<String> {
            let paths = std::fs::read_dir(&directory)?.map(|entry| entry.map(|entry| entry.path()));
            let mut digest = Sha256::new();
            for path in paths.collect::<io::Result<BTreeSet<_>>>()? {
                digest.update(std::fs::read(path)?);
            }
            Ok(format!("v0.0.0-{:.12}", format!("{:x}", digest.finalize())))
        };
        read().with_context(|| format!("reading {}", directory.display()))
    }

    /// Starts `go ARGUMENTS` in this module, its output piped; static binaries, never another version than go.mod and go.sum
    /// say. It ends with this process, whatever ends that.
    pub(crate) fn start_go(&self, arguments: &[&OsStr]) -> anyhow::Result<RunningGo> {
        let is_there = Command::new("go").arg("version").stdin(Stdio::null()).stdout(Stdio::null()).status();
        is_there.map_err(explain_missing_go)?;
        let mut child = supervised("go", Path::new("go"))
            .args(arguments)
            .current_dir(self.directory())
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting go")?;
        Ok(RunningGo { _lifeline: child.stdin.take(), child })
    }

    /// Where the Go module cache keeps the sources of this module; downloads and verifies them if need be.
    pub(crate) fn sources(&self) -> anyhow::Result<PathBuf> {
        let arguments = ["mod", "download", "-json", self.path].map(OsStr::new);
        let RunningGo { child, _lifeline } = self.start_go(&arguments)?;
        let output = child.wait_with_output().context("waiting for go mod download")?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
            .with_context(|| format!("reading the answer of go mod download {}", self.path))?;
        match answer["Dir"].as_str() {
            Some(directory) => Ok(directory.into()),
            None => bail!("go mod download {}: {}", self.path, answer["Error"]),
        }
    }
}

/// Go at work.
pub(crate) struct RunningGo {
    pub(crate) child: Child,
    pub(crate) _lifeline: Option<ChildStdin>,
}

/// Says what to do when the `go` command could not be run.
fn explain_missing_go(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::NotFound {
        anyhow!(
            "there is no go command: the local Kubernetes, helm and the definitions of other projects come from Go modules. \
             Install Go 1.26 or later from https://go.dev/dl. Another cluster (--kubeconfig) takes the place of the \
             control plane that tests share, not of helm, nor of the control planes that some tests have to themselves"
        )
    } else {
        anyhow::Error::new(error).context("running go")
    }
}

fn required_version<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word == "require");
        (words.next() == Some(module)).then(|| words.next()).flatten().filter(|version| version.starts_with('v'))
    })
}

#[cfg(test)]
mod tests {
    use super::required_version;

    const GO_MOD: &str = "module a\n\ntool example.com/b/cmd\n\nrequire example.com/c v0.1.0\n\nrequire (\n\
        \texample.com/b v1.2.3\n\texample.com/b/d v9.0.0 // indirect\n)\n\nreplace example.com/e => example.com/e v2.0.0\n";

    #[test]
    fn versions_are_those_of_the_require_directives() {
        assert_eq!(required_version(GO_MOD, "example.com/b"), Some("v1.2.3"));
        assert_eq!(required_version(GO_MOD, "example.com/c"), Some("v0.1.0"));
        assert_eq!(required_version(GO_MOD, "example.com/b/cmd"), None);
        assert_eq!(required_version(GO_MOD, "example.com/e"), None);
    }
}
