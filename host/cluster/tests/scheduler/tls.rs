//! Certificates from a Secret, by an API server's double.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use dask_wasm_operator_cluster::scheduler::Deadlines;
use dask_wasm_operator_core::scheduler::{Scheduler, SchedulerCall, SchedulerError, SchedulerReply};
use dask_wasm_operator_test_support::{Dask, DaskCertificates, DaskOptions, wait_for};
use serde_json::json;

use super::{
    IMPATIENT, NOWHERE, PATIENCE, client,
    double::{Double, Reaction, response},
    say_to, scheduler,
};

fn with_secret() -> Scheduler {
    Scheduler { tls_secret: Some("certificates".to_owned()), ..scheduler("c") }
}

/// What an API server answers that has the Secret with this data, or nothing but a refusal.
fn secret(answer: Result<BTreeMap<&str, &str>, u16>) -> Vec<u8> {
    let (status, body) = match answer {
        Ok(data) => {
            let data: BTreeMap<_, _> =
                data.into_iter().map(|(key, text)| (key, BASE64_STANDARD.encode(text))).collect();
            let secret =
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "certificates"}, "data": data});
            ("200 OK".to_owned(), secret)
        }
        Err(code) => {
            let status =
                json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": "x"});
            (format!("{code} x"), status)
        }
    };
    response(&status, &body.to_string())
}

async fn api_server(answer: Result<BTreeMap<&str, &str>, u16>) -> anyhow::Result<Double> {
    let answer = secret(answer);
    Double::http(move |path| {
        assert_eq!(path.split('?').next(), Some("/api/v1/namespaces/n/secrets/certificates"));
        Reaction::Answer(answer.clone())
    })
    .await
}

fn data(certificates: &DaskCertificates) -> BTreeMap<&str, &str> {
    BTreeMap::from([
        ("ca.crt", certificates.authority.as_str()),
        ("tls.crt", certificates.certificate.as_str()),
        ("tls.key", certificates.private_key.as_str()),
    ])
}

async fn target(address: &str, api_server: &Double, scheduler: Scheduler) -> Result<SchedulerReply, SchedulerError> {
    let client = client(&[("c", address)], &api_server.address, Deadlines::default()).expect("the addresses are right");
    say_to(&client, scheduler, SchedulerCall::AdaptiveTarget).await
}

#[tokio::test]
async fn a_secret_that_can_not_be_used_says_what_to_do() -> anyhow::Result<()> {
    let certificates = DaskCertificates::generate()?;
    let other = DaskCertificates::generate()?;
    let without = |key| {
        let mut data = data(&certificates);
        data.remove(key);
        Ok(data)
    };
    let with = |key, value| {
        let mut data = data(&certificates);
        data.insert(key, value);
        Ok(data)
    };
    for (answer, words) in [
        (Err(403), "allow it to get Secrets in namespace n"),
        (Err(404), "no Secret certificates in namespace n; create it"),
        (without("ca.crt"), "no key ca.crt"),
        (without("tls.crt"), "no key tls.crt"),
        (without("tls.key"), "no key tls.key"),
        (with("ca.crt", ""), "ca.crt of Secret certificates"),
        (with("tls.crt", "x"), "tls.crt of Secret certificates"),
        (with("tls.key", "-----BEGIN PRIVATE KEY-----\n!"), "tls.key of Secret certificates"),
        (with("tls.key", other.private_key.as_str()), "can't be used"),
    ] {
        let result = target(NOWHERE, &api_server(answer).await?, with_secret()).await;
        let Err(SchedulerError::Certificates(text)) = &result else { panic!("{words}: {result:?}") };
        assert!(text.contains(words), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn without_the_right_to_read_the_secret_workers_are_retired_by_http_where_it_is_on() -> anyhow::Result<()> {
    let http = Double::http(|path| {
        let body = match path {
            "/api/v1/get_workers" => r#"{"num_workers": 1, "workers": [{"name": "a", "address": "x"}]}"#,
            _ => r#"{"x": {"name": "a"}}"#,
        };
        Reaction::Answer(response("200 OK", body))
    })
    .await?;
    let api_server = api_server(Err(403)).await?;
    let address = format!("{NOWHERE},{}", http.address);
    let client = client(&[("c", &address)], &api_server.address, Deadlines::default())?;
    let found = say_to(&client, with_secret(), SchedulerCall::Workers).await?;
    let SchedulerReply::Workers(found) = &found else { panic!("{found:?}") };
    assert!(matches!(&found[..], [worker] if worker.address == "x"), "{found:?}");
    let retired = say_to(&client, with_secret(), SchedulerCall::Retire(vec!["x".to_owned()])).await?;
    assert_eq!(retired, SchedulerReply::Retired(vec!["x".to_owned()]));
    Ok(())
}

#[tokio::test]
async fn the_name_of_a_secret_leads_nowhere_else() -> anyhow::Result<()> {
    let certificates = DaskCertificates::generate()?;
    let api_server = api_server(Ok(data(&certificates))).await?;
    for name in ["../../other/secrets/certificates", "certificates?x=y", "a/b", "..", ""] {
        let scheduler = Scheduler { tls_secret: Some(name.to_owned()), ..scheduler("c") };
        let result = target(NOWHERE, &api_server, scheduler).await;
        let Err(SchedulerError::Certificates(text)) = &result else { panic!("{name}: {result:?}") };
        assert!(text.contains("can't be the name of a Secret"), "{text}");
    }
    assert_eq!(api_server.connections(), 0);
    Ok(())
}

#[tokio::test]
async fn a_scheduler_that_does_not_finish_the_handshake_is_left() -> anyhow::Result<()> {
    let certificates = DaskCertificates::generate()?;
    let (api_server, mute) = (api_server(Ok(data(&certificates))).await?, Double::mute().await?);
    let client = client(&[("c", &mute.address)], &api_server.address, IMPATIENT)?;
    let result = say_to(&client, with_secret(), SchedulerCall::Workers).await;
    assert!(matches!(result, Err(SchedulerError::Unreachable(_))), "{result:?}");
    wait_for("the end of the connection", PATIENCE, async || Ok((mute.open() == 0).then_some(()))).await
}

#[tokio::test]
async fn fault_23_a_scheduler_with_certificates_lets_in_only_those_with_theirs() -> anyhow::Result<()> {
    for version in [Dask::OLDEST, Dask::NEWEST] {
        let certificates = DaskCertificates::generate()?;
        let options = DaskOptions { certificates: Some(certificates), ..DaskOptions::default() };
        let dask = Dask::install(version)?.start(options).await?;
        let certificates = dask.certificates().unwrap();
        let ours = api_server(Ok(data(certificates))).await?;
        assert_eq!(target(dask.comm(), &ours, with_secret()).await?, SchedulerReply::AdaptiveTarget(0));

        let plain = target(dask.comm(), &ours, scheduler("c")).await;
        let Err(SchedulerError::Unreachable(text)) = &plain else { panic!("{plain:?}") };
        assert!(text.contains("set spec.tlsSecretName"), "{text}");

        let others = DaskCertificates::generate()?;
        // Signed by another authority: the scheduler's, and ours.
        let mixed = BTreeMap::from([("ca.crt", certificates.authority.as_str())]);
        for data in [data(&others), [data(&others), mixed].into_iter().flatten().collect()] {
            let result = target(dask.comm(), &api_server(Ok(data)).await?, with_secret()).await;
            assert!(matches!(result, Err(SchedulerError::Certificates(_))), "{version}: {result:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_secret_that_is_renewed_or_taken_away_counts_also_for_a_connection_in_use() -> anyhow::Result<()> {
    let (certificates, others) = (DaskCertificates::generate()?, DaskCertificates::generate()?);
    let options = DaskOptions { certificates: Some(certificates), ..DaskOptions::default() };
    let dask = Dask::install(Dask::NEWEST)?.start(options).await?;
    let ours = dask.certificates().context("it has certificates")?;
    let now = Arc::new(Mutex::new(secret(Ok(data(ours)))));
    let shown = Arc::clone(&now);
    let api_server = Double::http(move |_| Reaction::Answer(shown.lock().unwrap().clone())).await?;
    let given = [("c", dask.comm())];
    let ask = async |client| say_to(client, with_secret(), SchedulerCall::AdaptiveTarget).await;

    let kept = client(&given, &api_server.address, Deadlines::default())?;
    let renewing = client(&given, &api_server.address, Deadlines { reuse: Duration::ZERO, ..Deadlines::default() })?;
    for client in [&kept, &kept, &renewing] {
        assert_eq!(ask(client).await?, SchedulerReply::AdaptiveTarget(0));
    }
    assert_eq!(api_server.connections(), 2, "for a while a connection is used again");
    for answer in [Err(403), Err(404), Ok(data(&others))] {
        *now.lock().unwrap() = secret(answer);
        assert_eq!(ask(&kept).await?, SchedulerReply::AdaptiveTarget(0));
        let result = ask(&renewing).await;
        assert!(matches!(result, Err(SchedulerError::Certificates(_))), "{result:?}");
    }
    *now.lock().unwrap() = secret(Ok(data(ours)));
    assert_eq!(ask(&renewing).await?, SchedulerReply::AdaptiveTarget(0));
    Ok(())
}

#[tokio::test]
async fn one_certificate_may_be_all_there_is() -> anyhow::Result<()> {
    let certificates = DaskCertificates::self_signed()?;
    let options = DaskOptions { certificates: Some(certificates), ..DaskOptions::default() };
    let dask = Dask::install(Dask::NEWEST)?.start(options).await?;
    let api_server = api_server(Ok(data(dask.certificates().unwrap()))).await?;
    assert_eq!(target(dask.comm(), &api_server, with_secret()).await?, SchedulerReply::AdaptiveTarget(0));
    Ok(())
}
