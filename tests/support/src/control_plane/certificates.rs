//! The certificate authority, certificate and tokens of one control plane; all of it is made anew at each start.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::node::NODE_NAME;

/// How kube-apiserver is called by programs of this machine, and by pods on a node of it.
const SERVER_NAMES: [&str; 6] =
    ["127.0.0.1", "localhost", "10.96.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];

/// Files that kube-apiserver, etcd and kube-controller-manager are pointed at.
pub(crate) struct Credentials {
    /// Certificate of the authority.
    pub(crate) authority: PathBuf,
    /// The same as PEM text.
    pub(crate) authority_pem: String,
    /// Certificate of kube-apiserver and of etcd, and of the former as client of the latter and of kubelet: nothing
    /// but the kube-apiserver of the same control plane gets into its etcd.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Key pair that signs the tokens of ServiceAccounts.
    pub(crate) service_account_key: PathBuf,
    pub(crate) service_account_public_key: PathBuf,
    /// What kube-apiserver takes as `--token-auth-file`.
    pub(crate) tokens: PathBuf,
    pub(crate) admin_token: String,
    pub(crate) controller_manager_token: String,
    pub(crate) scheduler_token: String,
    pub(crate) kubelet_token: String,
    pub(crate) kube_proxy_token: String,
}

impl Credentials {
    pub(crate) fn create(directory: &Path) -> anyhow::Result<Self> {
        let authority_key = KeyPair::generate().context("making the key of the authority")?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "local-kubernetes");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority = parameters.self_signed(&authority_key).context("making the certificate of the authority")?;
        let issuer = Issuer::new(parameters, authority_key);

        let key = KeyPair::generate().context("making the key of the servers")?;
        let mut parameters = CertificateParams::new(SERVER_NAMES.map(str::to_owned)).context("naming the servers")?;
        parameters.distinguished_name.push(DnType::CommonName, "control-plane");
        // What a kubelet takes for the group of its client.
        parameters.distinguished_name.push(DnType::OrganizationName, "system:masters");
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = parameters.signed_by(&key, &issuer).context("making the certificate of the servers")?;

        let service_account_key = KeyPair::generate().context("making the key of the ServiceAccounts")?;
        let admin_token = random_token()?;
        let controller_manager_token = random_token()?;
        let [scheduler_token, kubelet_token, kube_proxy_token] = [random_token()?, random_token()?, random_token()?];
        let tokens = format!(
            "{admin_token},admin,admin,system:masters\n\
             {controller_manager_token},system:kube-controller-manager,system:kube-controller-manager\n\
             {scheduler_token},system:kube-scheduler,system:kube-scheduler\n\
             {kubelet_token},system:node:{NODE_NAME},kubelet,system:nodes\n\
             {kube_proxy_token},system:kube-proxy,system:kube-proxy\n"
        );

        let store = |name: &str, text: String| -> anyhow::Result<PathBuf> {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            Ok(path)
        };
        Ok(Self {
            authority: store("authority.pem", authority.pem())?,
            authority_pem: authority.pem(),
            certificate: store("servers.pem", certificate.pem())?,
            key: store("servers.key", key.serialize_pem())?,
            service_account_key: store("service-accounts.key", service_account_key.serialize_pem())?,
            service_account_public_key: store("service-accounts.pub", service_account_key.public_key_pem())?,
            tokens: store("tokens.csv", tokens)?,
            admin_token,
            controller_manager_token,
            scheduler_token,
            kubelet_token,
            kube_proxy_token,
        })
    }
}

fn random_token() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("reading /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
