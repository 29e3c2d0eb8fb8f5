//! TLS with the certificates of a Secret.
//!
//! The scheduler's certificate must be signed by `ca.crt`. Its name is not compared: certificates for Dask are made without
//! knowing where a scheduler will run, and distributed itself does not look at the name either. So `ca.crt` decides alone
//! whom we talk to, as between the workers and the scheduler.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use dask_wasm_operator_core::names::{NameError, check_dns_subdomain};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::Api;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};
use thiserror::Error as ThisError;
use tokio_rustls::TlsConnector;

use super::stream::BoxStream;
use crate::request::RequestError;

/// Key of the Secret with the certificates that signed the scheduler's.
const AUTHORITY: &str = "ca.crt";
/// Key of the Secret with our certificate.
const CERTIFICATE: &str = "tls.crt";
/// Key of the Secret with our private key.
const PRIVATE_KEY: &str = "tls.key";

/// Why there are no certificates.
#[derive(Debug, ThisError)]
pub(super) enum CertificatesError {
    /// We may not read it.
    #[error(
        "Secret {secret} can't be read: the operator has no permission; allow it to get Secrets in namespace {namespace}"
    )]
    Forbidden {
        /// Name of the Secret.
        secret: String,
        /// Its namespace.
        namespace: String,
    },
    /// It is not there.
    #[error(
        "there is no Secret {secret} in namespace {namespace}; create it with the keys ca.crt, tls.crt and tls.key"
    )]
    Missing {
        /// Name of the Secret.
        secret: String,
        /// Its namespace.
        namespace: String,
    },
    /// It can't be one: as part of a URL it could lead elsewhere.
    #[error("{secret:?} can't be the name of a Secret")]
    Name {
        /// What was given.
        secret: String,
        /// Why.
        #[source]
        source: NameError,
    },
    /// The API server did not answer.
    #[error("Secret {secret} can't be read")]
    Read {
        /// Name of the Secret.
        secret: String,
        /// Why.
        #[source]
        source: RequestError,
    },
    /// A key is missing.
    #[error("Secret {secret} has no key {key}; it needs ca.crt, tls.crt and tls.key")]
    NoKey {
        /// Name of the Secret.
        secret: String,
        /// The key.
        key: &'static str,
    },
    /// A key has something else in it.
    #[error("{key} of Secret {secret} is not what it should be in PEM format")]
    Pem {
        /// Name of the Secret.
        secret: String,
        /// The key.
        key: &'static str,
    },
    /// The certificates can't be used, or don't belong together.
    #[error("the certificates of Secret {secret} can't be used")]
    Unusable {
        /// Name of the Secret.
        secret: String,
        /// Why.
        #[source]
        source: Error,
    },
}

/// Reads the Secret.
pub(super) async fn configuration(
    client: &kube::Client,
    namespace: &str,
    secret: &str,
    deadline: Duration,
) -> Result<Arc<ClientConfig>, CertificatesError> {
    let name = || secret.to_owned();
    check_dns_subdomain(secret).map_err(|source| CertificatesError::Name { secret: name(), source })?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let read = tokio::time::timeout(deadline, secrets.get(secret)).await;
    let result =
        read.map_err(|_| RequestError::Timeout(deadline)).and_then(|read| read.map_err(RequestError::from_kube));
    let data = match result {
        Ok(secret) => secret.data.unwrap_or_default(),
        Err(error) => {
            let namespace = namespace.to_owned();
            return Err(match error.code() {
                403 => CertificatesError::Forbidden { secret: name(), namespace },
                404 => CertificatesError::Missing { secret: name(), namespace },
                _ => CertificatesError::Read { secret: name(), source: error },
            });
        }
    };
    parse(secret, &data)
}

fn parse(secret: &str, data: &BTreeMap<String, ByteString>) -> Result<Arc<ClientConfig>, CertificatesError> {
    let name = || secret.to_owned();
    let value = |key| match data.get(key) {
        Some(ByteString(value)) => Ok(value.as_slice()),
        None => Err(CertificatesError::NoKey { secret: name(), key }),
    };
    // Why is not told: the reason may quote the private key.
    let certificates = |key| {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(value(key)?).collect();
        match found {
            Ok(found) if !found.is_empty() => Ok(found),
            Ok(_) | Err(_) => Err(CertificatesError::Pem { secret: name(), key }),
        }
    };
    let unusable = |source| CertificatesError::Unusable { secret: name(), source };
    let private_key = PrivateKeyDer::from_pem_slice(value(PRIVATE_KEY)?)
        .map_err(|_| CertificatesError::Pem { secret: name(), key: PRIVATE_KEY })?;
    let authorities = certificates(AUTHORITY)?;
    let mut roots = RootCertStore::empty();
    for authority in &authorities {
        roots.add(authority.clone()).map_err(unusable)?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(SignedBy { authorities, roots, provider: Arc::clone(&provider) });
    let configuration = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(certificates(CERTIFICATE)?, private_key)
        .map_err(unusable)?;
    Ok(Arc::new(configuration))
}

/// The TLS handshake. With TLS 1.3 a scheduler that refuses our certificate says so only when something is read.
pub(super) async fn connect(
    stream: BoxStream,
    configuration: Arc<ClientConfig>,
    host: String,
) -> io::Result<BoxStream> {
    let name = ServerName::try_from(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(Box::new(TlsConnector::from(configuration).connect(name, stream).await?))
}

/// Whether a connection failed because one side does not accept the other's certificate.
pub(super) fn is_about_certificates(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    matches!(cause, Some(Error::InvalidCertificate(_) | Error::AlertReceived(_) | Error::NoCertificatesPresented))
}

/// Accepts what was signed by one of the authorities, or is one of them: a certificate that signs itself is all that small
/// installations have.
#[derive(Debug)]
struct SignedBy {
    authorities: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for SignedBy {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms) {
            // That it is an authority's is no reason to refuse the very one that is trusted.
            Err(Error::InvalidCertificate(CertificateError::Other(_))) if self.authorities.contains(certificate) => {}
            verified => verified?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
