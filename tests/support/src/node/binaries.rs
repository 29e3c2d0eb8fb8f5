//! What a node is made of: programs from pinned modules, and images.

use std::path::PathBuf;

use super::images;
use crate::control_plane::binaries::{KUBERNETES, KUBERNETES_VERSION, Tool, VersionPart, cache_root, ensure_all};
use crate::go::PinnedModule;

const CONTAINERD: PinnedModule = PinnedModule { directory: "containerd", path: "github.com/containerd/containerd/v2" };
const CONTAINERD_VERSION: &[(&str, VersionPart)] =
    &[("github.com/containerd/containerd/v2/version.Version", VersionPart::Whole)];
const CNI_PLUGINS: PinnedModule =
    PinnedModule { directory: "cni-plugins", path: "github.com/containernetworking/plugins" };
const CNI_VERSION: &[(&str, VersionPart)] =
    &[("github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion", VersionPart::Whole)];
const COREDNS: PinnedModule =
    PinnedModule { directory: "coredns", path: "dask-wasm-operator/tests/local-kubernetes/coredns" };
const NODE: PinnedModule = PinnedModule { directory: "node", path: "dask-wasm-operator/tests/local-kubernetes/node" };

const TOOLS: [Tool; 10] = [
    kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    containerd("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
    containerd("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
    containerd("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
    cni_plugin("ptp", "github.com/containernetworking/plugins/plugins/main/ptp"),
    cni_plugin("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local"),
    Tool {
        name: "coredns",
        module: COREDNS,
        package: ".",
        version_variables: &[("github.com/coredns/coredns/coremain.GitCommit", VersionPart::Whole)],
        print_version: &["-version"],
    },
    Tool {
        name: "node",
        module: NODE,
        package: ".",
        version_variables: &[("main.version", VersionPart::Whole)],
        print_version: &["version"],
    },
];

const fn kubernetes(name: &'static str, package: &'static str) -> Tool {
    Tool { name, module: KUBERNETES, package, version_variables: KUBERNETES_VERSION, print_version: &["--version"] }
}

const fn containerd(name: &'static str, package: &'static str) -> Tool {
    Tool { name, module: CONTAINERD, package, version_variables: CONTAINERD_VERSION, print_version: &["-v"] }
}

/// Without arguments it says which version it is.
const fn cni_plugin(name: &'static str, package: &'static str) -> Tool {
    Tool { name, module: CNI_PLUGINS, package, version_variables: CNI_VERSION, print_version: &[] }
}

/// The programs and images of a node, built and verified.
#[derive(Clone, Debug)]
pub struct NodeBinaries {
    pub(crate) kube_scheduler: PathBuf,
    pub(crate) kubelet: PathBuf,
    pub(crate) kube_proxy: PathBuf,
    pub(crate) containerd: PathBuf,
    pub(crate) containerd_shim: PathBuf,
    pub(crate) ctr: PathBuf,
    /// The directory of the CNI plugins.
    pub(crate) cni_plugins: PathBuf,
    pub(crate) coredns: PathBuf,
    pub(crate) node: PathBuf,
    /// Archives for containerd.
    pub(crate) images: Vec<PathBuf>,
}

impl NodeBinaries {
    /// Builds what is missing, damaged or of another version than tests/local-kubernetes pins, and makes images of
    /// Dask from the machine's Python. The first time takes some five minutes more than
    /// [`Binaries::ensure`](crate::control_plane::Binaries::ensure).
    ///
    /// # Errors
    /// When Go or Python with venv is missing, or a build fails.
    pub fn ensure(progress: &dyn Fn(&str)) -> anyhow::Result<Self> {
        let root = cache_root()?;
        let [kube_scheduler, kubelet, kube_proxy, containerd, containerd_shim, ctr, ptp, _host_local, coredns, node] =
            ensure_all(&root, TOOLS.each_ref(), progress)?;
        let cni_plugins = ptp.with_file_name("");
        let images = images::ensure(&node, &root.join("images"), progress)?;
        Ok(Self {
            kube_scheduler,
            kubelet,
            kube_proxy,
            containerd,
            containerd_shim,
            ctr,
            cni_plugins,
            coredns,
            node,
            images,
        })
    }
}
