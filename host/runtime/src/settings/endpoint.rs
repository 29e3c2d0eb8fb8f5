//! Where health and metrics are served, by an address or by the URL of the health check; and where spans are sent.

use axum::http::Uri;

/// Paths under which health, readiness and metrics are told.
pub(crate) const HEALTH: &str = "/healthz";
pub(crate) const READINESS: &str = "/readyz";
pub(crate) const METRICS: &str = "/metrics";

/// Where to listen, and under which path health is told besides `/healthz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminEndpoint {
    pub(crate) address: String,
    pub(crate) health_path: String,
}

/// The collector that spans are sent to, by OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpEndpoint(String);

/// What is wrong with an address or URL.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Not an address.
    #[error("write HOST:PORT, such as 0.0.0.0:8080")]
    Address,
    /// Not a URL of ours.
    #[error("write a URL such as http://0.0.0.0:8080/healthz")]
    Url,
    /// The path can't be served, or means something else.
    #[error("choose another path: letters, digits, '/', '-', '_' and '.', but neither {READINESS} nor {METRICS}")]
    Path,
    /// Not a collector that can be reached.
    #[error(
        "write the URL of a collector's OTLP/HTTP receiver, such as http://collector.observability:4318; https is not spoken"
    )]
    Collector,
}

impl OtlpEndpoint {
    /// From the URL that OpenTelemetry calls the base URL: `/v1/traces` is added to it.
    ///
    /// # Errors
    /// When it is something else, or asks for TLS.
    pub fn at_url(text: &str) -> Result<Self, EndpointError> {
        let url: Uri = text.parse().map_err(|_| EndpointError::Collector)?;
        let host = url.host().filter(|host| !host.is_empty());
        let has_user = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
        match (url.scheme_str(), host, url.query(), has_user) {
            (Some("http"), Some(_), None, false) => Ok(Self(text.trim_end_matches('/').to_owned())),
            _ => Err(EndpointError::Collector),
        }
    }

    /// Where traces are posted.
    pub fn traces(&self) -> String {
        format!("{}/v1/traces", self.0)
    }
}

impl AdminEndpoint {
    /// From `HOST:PORT`; port 0 is any free one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn at_address(text: &str) -> Result<Self, EndpointError> {
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self { address: text.to_owned(), health_path: HEALTH.to_owned() })
            }
            _ => Err(EndpointError::Address),
        }
    }

    /// From the URL of the health check, as kopf reads it: without a host localhost, without a port 80.
    ///
    /// # Errors
    /// When it is something else, or its path can't be served.
    pub fn at_url(text: &str) -> Result<Self, EndpointError> {
        let url: Uri = text.parse().map_err(|_| EndpointError::Url)?;
        let (Some("http"), Some(host), None) = (url.scheme_str(), url.host(), url.query()) else {
            return Err(EndpointError::Url);
        };
        let path = url.path();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
        if !path.bytes().all(plain) || [READINESS, METRICS].contains(&path) {
            return Err(EndpointError::Path);
        }
        let host = if host.is_empty() { "localhost" } else { host };
        let port = url.port_u16().unwrap_or(80);
        Ok(Self { address: format!("{host}:{port}"), health_path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let url = |text| AdminEndpoint::at_url(text).map(|endpoint| (endpoint.address, endpoint.health_path)).ok();
        let expect = |address: &str, path: &str| Some((address.to_owned(), path.to_owned()));
        assert_eq!(url("http://0.0.0.0:8080/healthz"), expect("0.0.0.0:8080", "/healthz"));
        assert_eq!(url("http://[::]:8080/healthz"), expect("[::]:8080", "/healthz"));
        assert_eq!(url("http://example/live"), expect("example:80", "/live"));
        assert_eq!(url("http://example"), expect("example:80", "/"));
        for refused in
            ["0.0.0.0:8080", "https://a/b", "http://a/metrics", "http://a/readyz", "http://a/{b}", "http://a/b?c", "a"]
        {
            assert_eq!(url(refused), None, "{refused}");
        }
        for refused in ["8080", ":8080", "a", "a:b", "a:65536"] {
            assert!(AdminEndpoint::at_address(refused).is_err(), "{refused}");
        }
    }
}
