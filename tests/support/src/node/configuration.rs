//! With which options the programs of a node run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{NODE_ADDRESS, NODE_NAME, NodeBinaries, images};
use crate::control_plane::components::{Components, text};

/// In the node's own /run.
pub(super) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// Addresses of pods.
const POD_RANGE: &str = "10.244.0.0/24";

/// Arguments of the programs that make it a node.
pub(super) struct Configuration {
    pub(super) kubelet: Vec<String>,
    pub(super) kube_proxy: Vec<String>,
    pub(super) coredns: Vec<String>,
}

impl Configuration {
    /// Writes the files that the arguments name.
    pub(super) fn write(components: &Components<'_>, directory: &Path, cgroup: String) -> anyhow::Result<Self> {
        let credentials = &components.credentials;
        let kubeconfig = |name: &str, token: &str| -> anyhow::Result<String> {
            let path = directory.join(name);
            components.kubeconfig(token)?.write(&path)?;
            Ok(text(&path))
        };
        // The machine's resolver is none of the pods' business.
        let resolver = store(directory, "resolv.conf", "")?;
        let kubelet = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE_ADDRESS,
            "failCgroupV1": false,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup,
            "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
            "resolvConf": text(&resolver),
            "clusterDNS": [NODE_ADDRESS],
            "clusterDomain": "cluster.local",
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": text(&credentials.authority)},
            },
            "authorization": {"mode": "Webhook"},
            "failSwapOn": false,
            // Whoever fills the disk is somebody else.
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "nodefs.inodesFree": "1%",
                "imagefs.available": "1%",
                "imagefs.inodesFree": "1%",
            },
            // An image that is gone cannot be had again.
            "imageGCHighThresholdPercent": 100,
            "serializeImagePulls": false,
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
        });
        let kubelet = vec![
            format!("--config={}", text(&store(directory, "kubelet.json", &kubelet.to_string())?)),
            format!("--kubeconfig={}", kubeconfig("kubelet.kubeconfig", &credentials.kubelet_token)?),
            format!("--hostname-override={NODE_NAME}"),
            format!("--node-ip={NODE_ADDRESS}"),
        ];
        let kube_proxy = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clusterCIDR": POD_RANGE,
            "bindAddress": NODE_ADDRESS,
            "hostnameOverride": NODE_NAME,
            // A limit for the whole machine, which is not ours.
            "conntrack": {"maxPerCore": 0},
            "nftables": {"minSyncPeriod": "100ms"},
            "clientConnection": {
                "kubeconfig": kubeconfig("kube-proxy.kubeconfig", &credentials.kube_proxy_token)?,
            },
        });
        let kube_proxy =
            vec![format!("--config={}", text(&store(directory, "kube-proxy.json", &kube_proxy.to_string())?))];
        let corefile = corefile(&kubeconfig("coredns.kubeconfig", &credentials.admin_token)?);
        let coredns = vec!["-conf".into(), text(&store(directory, "Corefile", &corefile)?)];
        Ok(Self { kubelet, kube_proxy, coredns })
    }
}

/// It runs beside kubelet, not as a pod, and pods ask it at the node's address.
fn corefile(kubeconfig: &str) -> String {
    format!(
        ".:53 {{
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 1
    }}
    cache 1
}}
"
    )
}

/// Writes the configuration of containerd and of the network of pods.
pub(super) fn containerd(binaries: &NodeBinaries, directory: &Path) -> anyhow::Result<PathBuf> {
    let networks = directory.join("networks");
    fs::create_dir(&networks).with_context(|| format!("creating {}", networks.display()))?;
    store(&networks, "pods.conflist", &pod_network().to_string())?;
    let quoted = |path: &Path| Value::String(text(path)).to_string();
    let configuration = format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  # Lowering it needs a capability that root has not everywhere.
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    runtime_path = {shim}
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [{plugins}]
    conf_dir = {networks}
    use_internal_loopback = true
"#,
        pause = images::PAUSE,
        shim = quoted(&binaries.containerd_shim),
        plugins = quoted(&binaries.cni_plugins),
        networks = quoted(&networks),
    );
    store(directory, "containerd.toml", &configuration)
}

/// Each pod has a pair of interfaces with the node, and the node a route for each: no bridge that packets to a Service
/// could take past kube-proxy's rules.
fn pod_network() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/pod-addresses",
                "ranges": [[{"subnet": POD_RANGE}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}

/// Points the Service `kubernetes` at the API server's port in the node. The API server itself does not: it listens on
/// a loopback address only.
pub(crate) async fn publish_api_server(client: &Client, api_port: u16) -> anyhow::Result<()> {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": api_port, "protocol": "TCP"}],
    });
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    api.patch("kubernetes", &PatchParams::apply("dask-wasm-operator-tests"), &Patch::Apply(slice))
        .await
        .map(drop)
        .context("publishing the API server in the node")
}

fn store(directory: &Path, name: &str, content: &str) -> anyhow::Result<PathBuf> {
    let path = directory.join(name);
    fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}
