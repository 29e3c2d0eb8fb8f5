//! Builds the programs of the control plane from their pinned Go modules into the cache, once.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::go::{PinnedModule, RunningGo};

/// Environment variable that names another root of the cache than `~/.cache/dask-wasm-operator`.
pub const CACHE_VARIABLE: &str = "DASK_WASM_OPERATOR_CACHE";

pub(crate) const KUBERNETES: PinnedModule = PinnedModule { directory: "kubernetes", path: "k8s.io/kubernetes" };
const ETCD: PinnedModule = PinnedModule { directory: "etcd", path: "go.etcd.io/etcd/server/v3" };
const HELM: PinnedModule = PinnedModule { directory: "helm", path: "helm.sh/helm/v4" };

/// One program and how it is made.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) module: PinnedModule,
    pub(crate) package: &'static str,
    /// Go variables that take the version, its major and its minor part at link time. Without them Kubernetes
    /// takes itself for version 0 and rejects its own feature gates.
    pub(crate) version_variables: &'static [(&'static str, VersionPart)],
    /// Arguments that make the program print its version.
    pub(crate) print_version: &'static [&'static str],
}

#[derive(Clone, Copy)]
pub(crate) enum VersionPart {
    Whole,
    Major,
    Minor,
}

pub(crate) const KUBERNETES_VERSION: &[(&str, VersionPart)] = &[
    ("k8s.io/component-base/version.gitVersion", VersionPart::Whole),
    ("k8s.io/component-base/version.gitMajor", VersionPart::Major),
    ("k8s.io/component-base/version.gitMinor", VersionPart::Minor),
];

const CONTROL_PLANE: [Tool; 4] = [
    Tool {
        name: "etcd",
        module: ETCD,
        package: "go.etcd.io/etcd/server/v3",
        version_variables: &[],
        print_version: &["--version"],
    },
    Tool {
        name: "kube-apiserver",
        module: KUBERNETES,
        package: "k8s.io/kubernetes/cmd/kube-apiserver",
        version_variables: KUBERNETES_VERSION,
        print_version: &["--version"],
    },
    Tool {
        name: "kube-controller-manager",
        module: KUBERNETES,
        package: "k8s.io/kubernetes/cmd/kube-controller-manager",
        version_variables: KUBERNETES_VERSION,
        print_version: &["--version"],
    },
    Tool {
        name: "kubectl",
        module: KUBERNETES,
        package: "k8s.io/kubernetes/cmd/kubectl",
        version_variables: KUBERNETES_VERSION,
        print_version: &["version", "--client"],
    },
];

const HELM_TOOL: Tool = Tool {
    name: "helm",
    module: HELM,
    package: "helm.sh/helm/v4/cmd/helm",
    version_variables: &[("helm.sh/helm/v4/internal/version.version", VersionPart::Whole)],
    print_version: &["version", "--short"],
};

/// The programs of the control plane, built and verified.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub kube_apiserver: PathBuf,
    /// kube-controller-manager.
    pub kube_controller_manager: PathBuf,
    /// kubectl of the same version, for people.
    pub kubectl: PathBuf,
}

impl Binaries {
    /// Builds what is missing, damaged or of another version than tests/local-kubernetes pins.
    ///
    /// The first time takes about five minutes on two cores and 5 GB of Go's own caches; `progress` gets a line now
    /// and then. Several processes may call this at the same time: one builds, the others wait for it.
    ///
    /// # Errors
    /// When Go is missing, a build fails, or a program reports another version than the one pinned.
    pub fn ensure(progress: &dyn Fn(&str)) -> anyhow::Result<Self> {
        let [etcd, kube_apiserver, kube_controller_manager, kubectl] =
            ensure_all(&cache_root()?, CONTROL_PLANE.each_ref(), progress)?;
        Ok(Self { etcd, kube_apiserver, kube_controller_manager, kubectl })
    }
}

/// Like [`Binaries::ensure`] for helm, which few need; about two minutes the first time.
///
/// # Errors
/// As [`Binaries::ensure`].
pub fn ensure_helm(progress: &dyn Fn(&str)) -> anyhow::Result<PathBuf> {
    ensure_all(&cache_root()?, [&HELM_TOOL], progress).map(|[helm]| helm)
}

/// Where everything that the local Kubernetes keeps between runs is stored.
pub(crate) fn cache_root() -> anyhow::Result<PathBuf> {
    cache_directory("local-kubernetes")
}

/// A directory for what may be kept between runs.
///
/// # Errors
/// When there is no home directory and none is named by the environment.
pub fn cache_directory(name: &str) -> anyhow::Result<PathBuf> {
    let root = match std::env::var_os(CACHE_VARIABLE) {
        Some(root) => PathBuf::from(root),
        None => std::env::home_dir()
            .with_context(|| format!("no home directory for the cache: set {CACHE_VARIABLE}"))?
            .join(".cache/dask-wasm-operator"),
    };
    Ok(root.join(name))
}

pub(crate) fn ensure_all<const N: usize>(
    root: &Path,
    tools: [&Tool; N],
    progress: &dyn Fn(&str),
) -> anyhow::Result<[PathBuf; N]> {
    let places = tools.iter().map(|tool| Place::of(tool, root)).collect::<anyhow::Result<Vec<_>>>()?;
    if places.iter().any(|place| place.verify().is_err()) {
        let _lock = lock(root, progress)?;
        for place in &places {
            // Another process may have built it while this one waited for the lock.
            if place.verify().is_err() {
                place.build(progress)?;
            }
        }
    }
    Ok(std::array::from_fn(|index| places[index].binary.clone()))
}

/// Holds the lock of the cache until the file is dropped.
fn lock(root: &Path, progress: &dyn Fn(&str)) -> anyhow::Result<File> {
    fs::create_dir_all(root).with_context(|| format!("creating {}", root.display()))?;
    let path = root.join("build.lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    if file.try_lock().is_err() {
        progress("waiting for another process that builds the local Kubernetes");
        file.lock().with_context(|| format!("locking {}", path.display()))?;
    }
    Ok(file)
}

/// Where a tool of a certain version lives in the cache.
struct Place<'a> {
    tool: &'a Tool,
    version: String,
    binary: PathBuf,
    /// Written last: the version and the size that the finished binary had.
    stamp: PathBuf,
}

impl<'a> Place<'a> {
    fn of(tool: &'a Tool, root: &Path) -> anyhow::Result<Self> {
        let version = tool.module.version()?;
        let directory = root.join(format!("{}-{version}", tool.module.directory)).join("bin");
        Ok(Self {
            binary: directory.join(tool.name),
            stamp: directory.join(format!("{}.stamp", tool.name)),
            tool,
            version,
        })
    }

    fn verify(&self) -> anyhow::Result<()> {
        let stamp = fs::read_to_string(&self.stamp)?;
        ensure!(stamp == self.stamp_of(&self.binary)?, "the size has changed");
        self.verify_version(&self.binary)
    }

    fn stamp_of(&self, binary: &Path) -> anyhow::Result<String> {
        Ok(format!("{} {}\n", self.version, fs::metadata(binary)?.len()))
    }

    fn verify_version(&self, binary: &Path) -> anyhow::Result<()> {
        let output = Command::new(binary)
            .args(self.tool.print_version)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("running {}", binary.display()))?;
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed);
        let wanted = self.version.trim_start_matches('v');
        let found = printed
            .split(|character: char| character.is_whitespace() || character == '+')
            .any(|word| word.trim_start_matches('v') == wanted);
        ensure!(
            output.status.success() && found,
            "{} should be {}, but says {printed:?}",
            binary.display(),
            self.version
        );
        Ok(())
    }

    fn build(&self, progress: &dyn Fn(&str)) -> anyhow::Result<()> {
        let Self { tool, version, .. } = self;
        progress(&format!("building {} {version}", tool.name));
        // Go writes the file piece by piece: under its final name it would pass for finished after a crash.
        let unfinished = self.binary.with_extension("unfinished");
        let _ = fs::remove_file(&self.stamp);
        let flags = self.linker_flags()?;
        let arguments = ["build", "-v", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", &flags, "-o"];
        let mut arguments: Vec<_> = arguments.iter().map(OsStr::new).collect();
        arguments.extend([unfinished.as_os_str(), OsStr::new(tool.package)]);
        let RunningGo { mut child, _lifeline } = tool.module.start_go(&arguments)?;
        let lines = BufReader::new(child.stderr.take().context("go has no stderr")?).lines();
        let last_lines = follow(tool.name, lines.map_while(Result::ok), progress);
        let status = child.wait().context("waiting for go build")?;
        if !status.success() {
            bail!("go build {} {version}: {status}\n{last_lines}", tool.package);
        }
        self.verify_version(&unfinished)?;
        let stamp = self.stamp_of(&unfinished)?;
        fs::rename(&unfinished, &self.binary)
            .and_then(|()| fs::write(&self.stamp, stamp))
            .with_context(|| format!("storing {}", self.binary.display()))
    }

    fn linker_flags(&self) -> anyhow::Result<String> {
        let mut parts = self.version.trim_start_matches('v').split('.');
        let (Some(major), Some(minor)) = (parts.next(), parts.next()) else {
            bail!("{} has the version {}, which is not vX.Y.Z", self.tool.module.path, self.version);
        };
        let assignments = self.tool.version_variables.iter().map(|(variable, part)| {
            let value = match part {
                VersionPart::Whole => &self.version,
                VersionPart::Major => major,
                VersionPart::Minor => minor,
            };
            format!(" -X {variable}={value}")
        });
        Ok(std::iter::once("-s -w".to_owned()).chain(assignments).collect())
    }
}

/// Turns the lines of `go build -v`, one for each compiled package, into progress; returns the last lines for the
/// message in case of failure.
fn follow(name: &str, lines: impl Iterator<Item = String>, progress: &dyn Fn(&str)) -> String {
    const REPORT_EVERY: usize = 100;
    const KEPT: usize = 20;
    let mut last_lines = VecDeque::with_capacity(KEPT);
    for (index, line) in lines.enumerate() {
        if (index + 1) % REPORT_EVERY == 0 {
            progress(&format!("building {name}: {} packages compiled", index + 1));
        }
        if last_lines.len() == KEPT {
            last_lines.pop_front();
        }
        last_lines.push_back(line);
    }
    Vec::from(last_lines).join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const TOOL: Tool = Tool {
        name: "tool",
        module: ETCD,
        package: "unused",
        version_variables: KUBERNETES_VERSION,
        print_version: &["--version"],
    };

    fn place(directory: &Path, printed: &str) -> Place<'static> {
        let binary = directory.join("tool");
        fs::write(&binary, format!("#!/bin/sh\necho '{printed}'\n")).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        let stamp = directory.join("tool.stamp");
        let place = Place { tool: &TOOL, version: "v1.2.3".into(), stamp, binary };
        fs::write(&place.stamp, place.stamp_of(&place.binary).unwrap()).unwrap();
        place
    }

    #[test]
    fn a_finished_program_of_the_pinned_version_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        for printed in ["Kubernetes v1.2.3", "etcd Version: 1.2.3", "v1.2.3+g0123456"] {
            place(directory.path(), printed).verify().unwrap();
        }
    }

    #[test]
    fn damaged_or_unfinished_programs_and_other_versions_are_not() {
        let directory = tempfile::tempdir().unwrap();
        assert!(place(directory.path(), "v1.2.30").verify().is_err());

        let without_stamp = place(directory.path(), "v1.2.3");
        fs::remove_file(&without_stamp.stamp).unwrap();
        assert!(without_stamp.verify().is_err());

        // Cut behind the version, so that only the size tells.
        let truncated = place(directory.path(), "v1.2.3");
        fs::write(&truncated.binary, "#!/bin/sh\necho v1.2.3\n").unwrap();
        assert!(truncated.verify_version(&truncated.binary).is_ok());
        assert!(truncated.verify().is_err());

        let missing = place(directory.path(), "v1.2.3");
        fs::remove_file(&missing.binary).unwrap();
        assert!(missing.verify().is_err());
    }

    #[test]
    fn the_version_is_linked_in() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(
            place(directory.path(), "").linker_flags().unwrap(),
            "-s -w -X k8s.io/component-base/version.gitVersion=v1.2.3 \
             -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=2"
        );
    }
}
