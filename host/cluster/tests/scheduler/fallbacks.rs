//! The HTTP API where it is on, and what is left where something is missing.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::UNIX_EPOCH,
};

use dask_wasm_operator_cluster::scheduler::Deadlines;
use dask_wasm_operator_core::scheduler::{SchedulerCall, SchedulerError};
use dask_wasm_operator_test_support::wait_for;
use serde_json::{Value, json};

use super::{
    IMPATIENT, NOWHERE, PATIENCE, adaptive_target, client,
    double::{Double, Reaction, message, response},
    faults::{answer, sane},
    idle_since, retire, say, workers,
};

fn ok(body: &Value) -> Reaction {
    Reaction::Answer(response("200 OK", &body.to_string()))
}

fn not_found() -> Reaction {
    Reaction::Answer(response("404 Not Found", "<html></html>"))
}

fn counts(waiting: u64) -> Value {
    json!({"processing": 0, "unrunnable": 0, "waiting": waiting, "workers": 3, "desired_workers": 3, "tasks": 9})
}

/// A scheduler of this release that is sane otherwise.
async fn release(version: &'static str) -> anyhow::Result<Double> {
    Double::comm(move |operation| {
        Reaction::Answer(message(&match operation {
            "versions" => json!({"packages": {"distributed": version}}),
            "check_idle" => Value::Null,
            other => sane(other),
        }))
    })
    .await
}

#[tokio::test]
async fn without_rpc_everything_is_asked_by_http() -> anyhow::Result<()> {
    let http = Double::http(|path| match path {
        "/api/v1/get_workers" => {
            ok(&json!({"num_workers": 2, "workers": [{"name": "a", "address": "x"}, {"name": 1, "address": "y"}]}))
        }
        "/api/v1/adaptive_target" => ok(&json!({"workers": 5})),
        "/api/v1/check_idle" => ok(&json!({"idle_since": null})),
        "/api/v1/retire_workers" => ok(&json!({"x": {"name": "a"}})),
        _ => not_found(),
    })
    .await?;
    let client = client(&[("c", &format!("{NOWHERE},{}", http.address))], NOWHERE, Deadlines::default())?;
    let names: Vec<_> = workers(&client, "c").await?.into_iter().map(|worker| worker.name).collect();
    assert_eq!(names, ["a", "1"]);
    assert_eq!(adaptive_target(&client, "c").await?, 5);
    assert_eq!(idle_since(&client, "c").await?, None);
    assert_eq!(retire(&client, "c", &["x", "y"]).await?, ["x"]);
    Ok(())
}

#[tokio::test]
async fn who_says_nothing_by_rpc_is_asked_by_http_only_where_the_connection_may_be_to_blame() -> anyhow::Result<()> {
    let hangs = Arc::new(AtomicBool::new(false));
    let hanging = Arc::clone(&hangs);
    let comm = Double::comm(move |operation| match operation {
        "adaptive_target" if hanging.load(Ordering::SeqCst) => Reaction::Hang(Vec::new()),
        _ => answer(operation),
    })
    .await?;
    let http = Double::http(|path| if path == "/json/counts.json" { ok(&counts(0)) } else { not_found() }).await?;
    let client = client(&[("c", &format!("{},{}", comm.address, http.address))], NOWHERE, IMPATIENT)?;
    assert_eq!(adaptive_target(&client, "c").await?, 7);
    hangs.store(true, Ordering::SeqCst);
    assert_eq!(adaptive_target(&client, "c").await?, 3, "the connection was kept");
    let (asked, result) = (http.connections(), say(&client, "c", SchedulerCall::AdaptiveTarget).await);
    assert!(matches!(&result, Err(SchedulerError::Unreachable(text)) if text.contains("no answer")), "{result:?}");
    assert_eq!((comm.connections(), http.connections()), (2, asked), "a new one, and nothing else");
    Ok(())
}

#[tokio::test]
async fn which_workers_there_are_and_retiring_go_by_http_whatever_is_wrong_with_rpc() -> anyhow::Result<()> {
    let http = Double::http(|path| match path {
        "/api/v1/get_workers" => ok(&json!({"num_workers": 1, "workers": [{"name": "a", "address": "x"}]})),
        "/api/v1/retire_workers" => ok(&json!({"x": {"name": "a"}})),
        _ => not_found(),
    })
    .await?;
    let exception = json!({"status": "uncaught-error", "exception_text": "ValueError()"});
    for lie in [json!("words"), exception, Value::Null] {
        for operation in ["identity", "workers_to_close"] {
            let lie = lie.clone();
            let comm = Double::comm(move |asked| {
                let lies = asked == operation || asked == "retire_workers";
                Reaction::Answer(message(&if lies { lie.clone() } else { sane(asked) }))
            })
            .await?;
            let address = format!("{},{}", comm.address, http.address);
            let client = client(&[("c", &address)], NOWHERE, Deadlines::default())?;
            let names: Vec<_> = workers(&client, "c").await?.into_iter().map(|worker| worker.name).collect();
            assert_eq!(names, ["a"], "{operation}");
            assert_eq!(retire(&client, "c", &["x", "y"]).await?, ["x"], "{operation}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_release_that_tells_no_version_is_believed_that_it_is_busy() -> anyhow::Result<()> {
    let http = Double::http(|path| match path {
        "/api/v1/check_idle" => ok(&json!({"idle_since": null})),
        "/json/counts.json" => ok(&counts(0)),
        _ => not_found(),
    })
    .await?;
    let comm = release("0+unknown").await?;
    let address = format!("{},{}", comm.address, http.address);
    let client = client(&[("c", &address)], NOWHERE, Deadlines::default())?;
    assert_eq!(idle_since(&client, "c").await?, None);
    Ok(())
}

#[tokio::test]
async fn an_api_that_is_off_is_not_asked_each_time() -> anyhow::Result<()> {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let http = Double::http(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        not_found()
    })
    .await?;
    let comm = release("2026.8.0").await?;
    let address = format!("{},{}", comm.address, http.address);
    let client = client(&[("c", &address)], NOWHERE, Deadlines::default())?;
    for _ in 0..3 {
        assert_eq!(adaptive_target(&client, "c").await?, 7);
        assert_eq!(idle_since(&client, "c").await?, None);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2, "one for each route");
    Ok(())
}

#[tokio::test]
async fn releases_that_can_not_tell_idleness_are_looked_at() -> anyhow::Result<()> {
    for version in ["2022.8.1", "2023.3.1", "2023.3.2"] {
        let now = Arc::new(Mutex::new(counts(0)));
        let shown = Arc::clone(&now);
        let http = Double::http(move |path| match path {
            "/json/counts.json" => ok(&shown.lock().unwrap()),
            // What 2023.3.2 says however idle it is.
            "/api/v1/check_idle" if version == "2023.3.2" => ok(&json!({"idle_since": null})),
            _ => not_found(),
        })
        .await?;
        let comm = release(version).await?;
        let address = format!("{},{}", comm.address, http.address);
        let client = client(&[("c", &address)], NOWHERE, Deadlines::default())?;
        let since = idle_since(&client, "c").await?;
        assert!(since.is_some(), "{version}");
        assert_eq!(idle_since(&client, "c").await?, since, "the clock goes on");
        *now.lock().unwrap() = counts(1);
        assert_eq!(idle_since(&client, "c").await?, None, "a task that waits");
        *now.lock().unwrap() = json!({"processing": 0});
        let result = say(&client, "c", SchedulerCall::IdleSince).await;
        assert!(matches!(result, Err(SchedulerError::Unsupported(_))), "{result:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_failure_between_two_looks_starts_the_clock_again() -> anyhow::Result<()> {
    let fails = Arc::new(AtomicUsize::new(0));
    let failing = Arc::clone(&fails);
    let http = Double::http(move |path| match path {
        "/json/counts.json" if failing.load(Ordering::SeqCst) == 0 => ok(&counts(0)),
        _ => not_found(),
    })
    .await?;
    let comm = release("2022.8.1").await?;
    let address = format!("{},{}", comm.address, http.address);
    let client = client(&[("c", &address)], NOWHERE, Deadlines::default())?;
    let since = idle_since(&client, "c").await?.unwrap();
    fails.store(1, Ordering::SeqCst);
    assert!(idle_since(&client, "c").await.is_err());
    fails.store(0, Ordering::SeqCst);
    wait_for("the next millisecond", PATIENCE, async || {
        Ok((UNIX_EPOCH.elapsed()?.as_millis() > u128::from(since)).then_some(()))
    })
    .await?;
    assert!(idle_since(&client, "c").await?.unwrap() > since);
    Ok(())
}

#[tokio::test]
async fn the_clock_of_an_old_release_goes_on_after_a_restart_of_the_operator() -> anyhow::Result<()> {
    let idle = Arc::new(AtomicBool::new(true));
    let is_idle = Arc::clone(&idle);
    let http = Double::http(move |path| match path {
        "/json/counts.json" => ok(&counts(u64::from(!is_idle.load(Ordering::SeqCst)))),
        _ => not_found(),
    })
    .await?;
    let comm = release("2022.8.1").await?;
    let address = format!("{},{}", comm.address, http.address);
    let after_a_restart = || {
        let client = client(&[("c", &address)], NOWHERE, Deadlines::default())?;
        anyhow::Ok(client.with_idle_since(|cluster| (cluster.name == "c").then_some(5_000)))
    };
    let client = after_a_restart()?;
    for _ in 0..2 {
        assert_eq!(idle_since(&client, "c").await?, Some(5_000));
    }
    let client = after_a_restart()?;
    idle.store(false, Ordering::SeqCst);
    assert_eq!(idle_since(&client, "c").await?, None);
    idle.store(true, Ordering::SeqCst);
    assert!(idle_since(&client, "c").await?.unwrap() > 5_000, "what was before the work does not count");
    Ok(())
}

#[tokio::test]
async fn counts_are_the_last_resort_for_a_target() -> anyhow::Result<()> {
    let http = Double::http(|path| if path == "/json/counts.json" { ok(&counts(0)) } else { not_found() }).await?;
    let client = client(&[("c", &format!("{NOWHERE},{}", http.address))], NOWHERE, Deadlines::default())?;
    assert_eq!(adaptive_target(&client, "c").await?, 3);
    assert!(idle_since(&client, "c").await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_dashboard_that_lies_or_never_ends_is_passed_over() -> anyhow::Result<()> {
    let endless = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n".to_vec(), vec![b' '; 20 << 20]].concat();
    for reaction in [
        Reaction::Answer(endless),
        Reaction::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{".to_vec()),
        Reaction::Answer(response("200 OK", r#"{"workers": -1}"#)),
        Reaction::Answer(response("500 no", r#"{"Error": "Internal Server Error"}"#)),
        Reaction::Close(b"SSH-2.0-OpenSSH\r\n".to_vec()),
        Reaction::Reset(Vec::new()),
    ] {
        let http = Double::http(move |_| reaction.clone()).await?;
        let comm = release("2026.8.0").await?;
        let address = format!("{},{}", comm.address, http.address);
        let client = client(&[("c", &address)], NOWHERE, Deadlines::default())?;
        assert_eq!(adaptive_target(&client, "c").await?, 7);
    }
    Ok(())
}
