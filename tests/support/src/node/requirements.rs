//! What a machine needs for a node.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::control_plane::binaries::cache_root;
use crate::skipped::say_skipped;

/// Why this machine can run no node, and what to use instead.
#[derive(Debug, thiserror::Error)]
#[error(
    "no node with real pods on this machine: {}. Use a cluster that has nodes instead: --kubeconfig with that of kind, \
     minikube, k3d or any other whose nodes can have {}",
    missing.join("; "),
    super::dask_image("VERSION")
)]
pub struct NodeUnavailable {
    missing: Vec<String>,
}

impl NodeUnavailable {
    /// Tells who runs the tests that this one is skipped, and why.
    pub fn say_that_the_test_is_skipped(&self) {
        say_skipped(&self.to_string());
    }
}

/// What keeps this machine from running a node, or nothing.
pub fn node_unavailable() -> Option<NodeUnavailable> {
    let missing = if cfg!(target_os = "linux") { missing_on_linux() } else { vec!["it needs Linux".into()] };
    (!missing.is_empty()).then_some(NodeUnavailable { missing })
}

fn missing_on_linux() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let file_systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let mut missing = Vec::new();
    let mut need = |met: bool, what: &dyn fmt::Display| {
        if !met {
            missing.push(what.to_string());
        }
    };
    for (bit, name) in CAPABILITIES {
        need(has_capability(&status, bit), &format_args!("run it as root, with the capability {name}"));
    }
    for controller in CONTROLLERS {
        let hierarchy = format!("/sys/fs/cgroup/{controller}");
        need(
            is_writable_mount(&mounts, &hierarchy),
            &format_args!("{hierarchy} must be a control group hierarchy of version 1, mounted for writing"),
        );
    }
    need(file_systems.contains("\toverlay\n"), &"the kernel needs overlayfs");
    if let Ok(cache) = cache_root() {
        need(
            file_system_of(&mounts, &cache) != Some("overlay"),
            &format_args!(
                "{} must not be on overlayfs: name a directory on a disk",
                crate::control_plane::CACHE_VARIABLE
            ),
        );
    }
    for (program, remedy) in PROGRAMS {
        need(is_installed(program), &format_args!("{program} is missing: {remedy}"));
    }
    missing
}

/// By their bits, see capabilities(7).
const CAPABILITIES: [(u32, &str); 2] = [(21, "CAP_SYS_ADMIN"), (12, "CAP_NET_ADMIN")];

/// Those that kubelet requires.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

const PROGRAMS: [(&str, &str); 6] = [
    ("go", "install Go 1.26 or later"),
    ("runc", "install it, with support for seccomp; builds without a C library have none"),
    ("nft", "install nftables, which kube-proxy runs, or add its directory (/usr/sbin) to PATH"),
    ("nsenter", "install util-linux"),
    ("python3", "install Python 3 with venv, which the images are made of"),
    ("ldd", "install the C library's tools"),
];

fn has_capability(status: &str, bit: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).is_some_and(|bits| bits >> bit & 1 == 1)
}

/// Lines of /proc/self/mounts as (mount point, type, options).
fn mounts(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?, fields.next()?))
    })
}

fn is_writable_mount(text: &str, hierarchy: &str) -> bool {
    mounts(text).any(|(point, kind, options)| {
        // Hierarchies of several controllers have a link for each.
        let is_it = point == hierarchy || fs::canonicalize(hierarchy).is_ok_and(|target| Path::new(point) == target);
        is_it && kind == "cgroup" && options.split(',').any(|option| option == "rw")
    })
}

fn file_system_of<'a>(text: &'a str, path: &Path) -> Option<&'a str> {
    mounts(text)
        .filter(|(point, ..)| path.starts_with(point))
        .max_by_key(|(point, ..)| point.len())
        .map(|(_, kind, _)| kind)
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_bits_of_the_effective_set() {
        let status = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000200000\n";
        assert!(has_capability(status, 21));
        assert!(!has_capability(status, 12));
        assert!(!has_capability("", 21));
    }

    #[test]
    fn the_innermost_mount_counts() {
        let text = "overlay / overlay rw,lowerdir=x 0 0\n/dev/sda /home ext4 rw 0 0\n\
            cgroup /none/memory cgroup rw,memory 0 0\ncgroup /none/cpu cgroup ro,cpu 0 0\n";
        assert_eq!(file_system_of(text, Path::new("/home/me")), Some("ext4"));
        assert_eq!(file_system_of(text, Path::new("/homeless")), Some("overlay"));
        assert!(is_writable_mount(text, "/none/memory"));
        assert!(!is_writable_mount(text, "/none/cpu"));
        assert!(!is_writable_mount(text, "/none/pids"));
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_use_instead() {
        let message = NodeUnavailable { missing: vec!["nft is missing: install nftables".into()] }.to_string();
        assert!(message.contains("nft is missing: install nftables"), "{message}");
        assert!(message.contains("--kubeconfig"), "{message}");
    }
}
