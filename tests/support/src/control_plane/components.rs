//! With which options the programs run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use super::binaries::Binaries;
use super::certificates::Credentials;
use super::program::Program;
use crate::kubeconfig::Kubeconfig;

/// Metadata of every request once it has been answered: who, what, when, with which result.
const AUDIT_POLICY: &str = r#"apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
"#;

/// What the programs of one control plane share.
pub(crate) struct Components<'a> {
    pub(crate) binaries: &'a Binaries,
    pub(crate) directory: &'a Path,
    pub(crate) credentials: Credentials,
    pub(crate) etcd_port: u16,
    pub(crate) api_port: u16,
    /// The socket by which kube-apiserver reaches a node, if there will be one.
    pub(crate) egress_socket: Option<PathBuf>,
}

impl Components<'_> {
    pub(crate) fn etcd(&self) -> anyhow::Result<Program> {
        let url = self.etcd_url();
        self.start(
            "etcd",
            &self.binaries.etcd,
            &[
                ("data-dir", text(&self.directory.join("etcd"))),
                ("listen-client-urls", url.clone()),
                ("advertise-client-urls", url),
                // A single member has no peers, any port does.
                ("listen-peer-urls", "http://127.0.0.1:0".into()),
                ("cert-file", text(&self.credentials.certificate)),
                ("key-file", text(&self.credentials.key)),
                ("trusted-ca-file", text(&self.credentials.authority)),
                ("client-cert-auth", "true".into()),
                // The data is worth nothing after a crash of the machine.
                ("unsafe-no-fsync", "true".into()),
            ],
        )
    }

    pub(crate) fn kube_apiserver(&self) -> anyhow::Result<Program> {
        let policy = self.directory.join("audit-policy.yaml");
        fs::write(&policy, AUDIT_POLICY).context("writing the audit policy")?;
        let mut options = vec![
            ("etcd-servers", self.etcd_url()),
            ("etcd-cafile", text(&self.credentials.authority)),
            ("etcd-certfile", text(&self.credentials.certificate)),
            ("etcd-keyfile", text(&self.credentials.key)),
            ("bind-address", "127.0.0.1".into()),
            ("secure-port", self.api_port.to_string()),
            ("tls-cert-file", text(&self.credentials.certificate)),
            ("tls-private-key-file", text(&self.credentials.key)),
            ("authorization-mode", "Node,RBAC".into()),
            ("token-auth-file", text(&self.credentials.tokens)),
            ("service-account-key-file", text(&self.credentials.service_account_public_key)),
            ("service-account-signing-key-file", text(&self.credentials.service_account_key)),
            ("service-account-issuer", "https://kubernetes.default.svc".into()),
            ("service-cluster-ip-range", "10.96.0.0/16".into()),
            // The Service `kubernetes` must not point at a loopback address.
            ("endpoint-reconciler-type", "none".into()),
            ("allow-privileged", "true".into()),
            ("profiling", "false".into()),
            ("audit-policy-file", text(&policy)),
            ("audit-log-path", text(&audit_log(self.directory))),
            // In MB: never rotated, readers count on one file.
            ("audit-log-maxsize", "100000".into()),
        ];
        if let Some(socket) = &self.egress_socket {
            let egress = self.directory.join("egress.json");
            fs::write(&egress, egress_selector(socket).to_string()).context("writing the egress configuration")?;
            options.extend([
                ("egress-selector-config-file", text(&egress)),
                ("kubelet-client-certificate", text(&self.credentials.certificate)),
                ("kubelet-client-key", text(&self.credentials.key)),
                ("kubelet-preferred-address-types", "InternalIP".into()),
            ]);
        }
        self.start("kube-apiserver", &self.binaries.kube_apiserver, &options)
    }

    pub(crate) fn kube_controller_manager(&self) -> anyhow::Result<Program> {
        let kubeconfig = self.directory.join("kube-controller-manager.kubeconfig");
        self.kubeconfig(&self.credentials.controller_manager_token)?.write(&kubeconfig)?;
        self.start(
            "kube-controller-manager",
            &self.binaries.kube_controller_manager,
            &[
                ("kubeconfig", text(&kubeconfig)),
                ("secure-port", "0".into()),
                ("leader-elect", "false".into()),
                ("use-service-account-credentials", "true".into()),
                ("root-ca-file", text(&self.credentials.authority)),
                ("service-account-private-key-file", text(&self.credentials.service_account_key)),
                ("profiling", "false".into()),
                // With the default of 20 requests per second, collecting the children of 200 clusters takes minutes.
                ("kube-api-qps", "1000".into()),
                ("kube-api-burst", "1000".into()),
            ],
        )
    }

    /// `binary` is kube-scheduler.
    pub(crate) fn kube_scheduler(&self, binary: &Path) -> anyhow::Result<Program> {
        let kubeconfig = self.directory.join("kube-scheduler.kubeconfig");
        self.kubeconfig(&self.credentials.scheduler_token)?.write(&kubeconfig)?;
        self.start(
            "kube-scheduler",
            binary,
            &[
                ("kubeconfig", text(&kubeconfig)),
                ("secure-port", "0".into()),
                ("leader-elect", "false".into()),
                ("profiling", "false".into()),
                ("kube-api-qps", "1000".into()),
                ("kube-api-burst", "1000".into()),
            ],
        )
    }

    /// For the bearer of `token`.
    pub(crate) fn kubeconfig(&self, token: &str) -> anyhow::Result<Kubeconfig> {
        let url = format!("https://127.0.0.1:{}", self.api_port);
        Kubeconfig::new(&url, &self.credentials.authority_pem, token)
    }

    fn etcd_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.etcd_port)
    }

    fn start(&self, name: &'static str, binary: &Path, options: &[(&str, String)]) -> anyhow::Result<Program> {
        let arguments: Vec<String> = options.iter().map(|(option, value)| format!("--{option}={value}")).collect();
        Program::start(name, binary, &arguments, self.directory)
    }
}

/// Requests to kubelets and pods go through the socket. Its path is relative to the directory that kube-apiserver runs
/// in: absolute ones may be longer than the name of a socket can be.
fn egress_selector(socket: &Path) -> Value {
    json!({
        "apiVersion": "apiserver.k8s.io/v1beta1",
        "kind": "EgressSelectorConfiguration",
        "egressSelections": [{
            "name": "cluster",
            "connection": {"proxyProtocol": "HTTPConnect", "transport": {"uds": {"udsName": text(socket)}}},
        }],
    })
}

/// Where kube-apiserver writes its audit log.
pub(crate) fn audit_log(directory: &Path) -> PathBuf {
    directory.join("audit.log")
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("checked when the control plane was started").to_owned()
}
