//! What the operator serves itself: health and metrics, on a port of this machine.

use http_body_util::{BodyExt, Empty};
use hyper::{StatusCode, body::Bytes};
use hyper_util::{client::legacy::Client as HttpClient, rt::TokioExecutor};

/// Status and body of a GET.
///
/// # Errors
/// When nobody answers.
pub async fn get(port: u16, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let client: HttpClient<_, Empty<Bytes>> = HttpClient::builder(TokioExecutor::new()).build_http();
    let answer = client.get(format!("http://127.0.0.1:{port}{path}").parse()?).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec())?))
}

/// A port that was free a moment ago.
///
/// # Errors
/// When there is none.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The value of a metric, all its labels together.
pub fn metric(text: &str, name: &str) -> f64 {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let ours = samples.filter(|line| line.split(['{', ' ']).next() == Some(name));
    ours.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
