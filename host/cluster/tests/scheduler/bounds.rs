//! What a call takes at most, whatever the scheduler does: time, memory, connections, tasks. And what is never sent.

use std::time::{Duration, Instant};

use dask_wasm_operator_cluster::scheduler::Deadlines;
use dask_wasm_operator_core::scheduler::{SchedulerCall, SchedulerError, SchedulerReply};
use dask_wasm_operator_test_support::wait_for;
use futures::future::{join, join_all};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::{
    IMPATIENT, NOWHERE, PATIENCE, adaptive_target, client,
    double::{Double, HANDSHAKE, Reaction, framed, message, response},
    faults::{CALLS, answer, sane},
    idle_since, retire, say, workers,
};

/// What may lie in buffers between two sockets.
const UNDER_WAY: u64 = 16 << 20;

#[tokio::test]
async fn a_call_ends_as_a_whole_and_so_does_one_that_waits_for_it() -> anyhow::Result<()> {
    let double = Double::comm(|operation| match operation {
        HANDSHAKE => answer(operation),
        _ => Reaction::Hang(Vec::new()),
    })
    .await?;
    // No step of the call ends by itself.
    let deadlines =
        Deadlines { whole: Duration::from_millis(500), call: PATIENCE, retire: Duration::ZERO, ..Deadlines::default() };
    let client = client(&[("c", &double.address)], NOWHERE, deadlines)?;
    let both = join(say(&client, "c", SchedulerCall::Workers), say(&client, "c", SchedulerCall::IdleSince));
    let (first, second) = both.await;
    let retired = say(&client, "c", SchedulerCall::Retire(vec!["tcp://a".to_owned()])).await;
    for result in [first, second, retired] {
        let Err(SchedulerError::Unreachable(text)) = &result else { panic!("{result:?}") };
        assert!(text.contains(&double.address), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_scheduler_that_hangs_keeps_no_task_and_no_connection_of_ours() -> anyhow::Result<()> {
    let identity = message(&sane("identity"));
    let mut long = (32_u64 << 20).to_le_bytes().to_vec();
    long.resize(1 << 20, 0);
    let mut cases = Vec::new();
    for (operation, reaction, call) in [
        (HANDSHAKE, Reaction::Hang(Vec::new()), SchedulerCall::Workers),
        (HANDSHAKE, Reaction::Hang(vec![1]), SchedulerCall::Retire(Vec::new())),
        ("identity", Reaction::Hang(Vec::new()), SchedulerCall::Workers),
        ("identity", Reaction::Hang(identity[..identity.len() - 1].to_vec()), SchedulerCall::Workers),
        ("identity", Reaction::Hang(long), SchedulerCall::Workers),
        ("retire_workers", Reaction::Hang(Vec::new()), SchedulerCall::Retire(Vec::new())),
    ] {
        let comm = Double::comm(move |asked| if asked == operation { reaction.clone() } else { answer(asked) }).await?;
        let http = Double::http(|_| Reaction::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec())).await?;
        let client = client(&[("c", &format!("{},{}", comm.address, http.address))], NOWHERE, IMPATIENT)?;
        cases.push((comm, http, client, call));
    }
    let tasks = Handle::current().metrics().num_alive_tasks();
    let results = join_all(cases.iter().map(|(.., client, call)| say(client, "c", call.clone()))).await;
    for (result, (comm, ..)) in results.iter().zip(&cases) {
        assert!(matches!(result, Err(SchedulerError::Unreachable(_))) && comm.connections() > 0, "{result:?}");
    }
    wait_for("the end of all connections and tasks", PATIENCE, async || {
        let alive = Handle::current().metrics().num_alive_tasks();
        let open: usize = cases.iter().map(|(comm, http, ..)| comm.open() + http.open()).sum();
        Ok((open == 0 && alive == tasks).then_some(()))
    })
    .await
}

#[tokio::test]
async fn schedulers_that_announce_much_and_stop_hold_up_nobody() -> anyhow::Result<()> {
    let announced = Reaction::Hang((64_u64 << 20).to_le_bytes().into_iter().chain([0; 1000]).collect());
    let mut bad = Vec::new();
    for _ in 0..20 {
        let reaction = announced.clone();
        bad.push(
            Double::comm(move |operation| match operation {
                "identity" | "retire_workers" => reaction.clone(),
                other => answer(other),
            })
            .await?,
        );
    }
    let identity = message(&identity_of(1_000));
    let good = Double::comm(move |operation| match operation {
        "identity" => Reaction::Answer(identity.clone()),
        "workers_to_close" => Reaction::Answer(framed(b"\x90")),
        other => answer(other),
    })
    .await?;
    let names: Vec<_> = (0..bad.len()).map(|number| format!("bad{number}")).collect();
    let given = names.iter().map(String::as_str).zip(bad.iter().map(|bad| bad.address.as_str()));
    let given: Vec<_> = given.chain([("good", good.address.as_str())]).collect();
    let deadlines = Deadlines { call: PATIENCE, transfer: PATIENCE, ..Deadlines::default() };
    let client = client(&given, NOWHERE, deadlines)?;
    let calls = [SchedulerCall::Workers, SchedulerCall::Retire(vec!["tcp://a".to_owned()])];
    let bad_calls = names.iter().flat_map(|name| calls.iter().map(|call| say(&client, name, call.clone())));
    let bad_calls = join_all(bad_calls.collect::<Vec<_>>());
    let good_calls = async {
        wait_for("the others to be asked", PATIENCE, async || {
            Ok(bad.iter().all(|bad| bad.requests().len() == calls.len()).then_some(()))
        })
        .await?;
        for _ in 0..20 {
            assert_eq!(workers(&client, "good").await?.len(), 1_000);
        }
        anyhow::Ok(())
    };
    tokio::select! {
        results = bad_calls => panic!("the others were not waiting any more: {results:?}"),
        result = good_calls => result,
    }
}

#[tokio::test]
async fn an_answer_that_has_begun_has_little_time_however_long_it_was_waited_for() -> anyhow::Result<()> {
    let begun = message(&sane("retire_workers"));
    let begun = begun[..begun.len() - 1].to_vec();
    let comm = Double::comm(move |operation| match operation {
        "retire_workers" => Reaction::Hang(begun.clone()),
        other => answer(other),
    })
    .await?;
    let http = Double::http(|_| Reaction::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec())).await?;
    let deadlines = Deadlines { whole: PATIENCE, retire: PATIENCE, ..IMPATIENT };
    for address in [comm.address.clone(), format!("{NOWHERE},{}", http.address)] {
        let client = client(&[("c", &address)], NOWHERE, deadlines)?;
        let began = Instant::now();
        let result = say(&client, "c", SchedulerCall::Retire(vec!["tcp://a".to_owned()])).await;
        assert!(matches!(result, Err(SchedulerError::Unreachable(_))), "{result:?}");
        assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    }
    Ok(())
}

#[tokio::test]
async fn a_scheduler_that_is_mute_is_left() -> anyhow::Result<()> {
    let (comm, http) = (Double::mute().await?, Double::mute().await?);
    let address = format!("{},{}", comm.address, http.address);
    let names = ["a", "b", "c"];
    let client = client(&names.map(|name| (name, address.as_str())), NOWHERE, IMPATIENT)?;
    for result in join_all(names.into_iter().zip(CALLS).map(|(name, call)| say(&client, name, call))).await {
        assert!(matches!(result, Err(SchedulerError::Unreachable(_))), "{result:?}");
    }
    wait_for("the end of all connections", PATIENCE, async || Ok((comm.open() == 0 && http.open() == 0).then_some(())))
        .await
}

#[tokio::test]
async fn little_is_taken_of_a_gigabyte() -> anyhow::Result<()> {
    let numbers = |numbers: &[u64]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
    for (announcement, call, most, reason) in [
        (numbers(&[1 << 30]), SchedulerCall::Workers, 0, "at most 67108864"),
        (numbers(&[24, 2, 1 << 29, 1 << 29]), SchedulerCall::Workers, 0, "at most 67108864"),
        (numbers(&[2 << 20]), SchedulerCall::AdaptiveTarget, 0, "at most 1048576"),
        // As long a message as is taken, and nothing in it.
        (numbers(&[64 << 20]), SchedulerCall::Workers, 64 << 20, "0 frames"),
    ] {
        let double = Double::comm(move |operation| match operation {
            HANDSHAKE => answer(operation),
            _ => Reaction::Flood(announcement.clone()),
        })
        .await?;
        let client = client(&[("c", &double.address)], NOWHERE, Deadlines::default())?;
        let result = say(&client, "c", call).await;
        let Err(SchedulerError::Unusable(text)) = &result else { panic!("{result:?}") };
        assert!(text.contains(reason), "{text}");
        assert!(double.flooded() <= most + UNDER_WAY, "{}", double.flooded());
    }
    Ok(())
}

#[tokio::test]
async fn little_is_taken_of_a_page_without_end() -> anyhow::Result<()> {
    for head in [
        // The first has no end, the second a long one, the third is a chunk of 4 GiB, the fourth a header.
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        "HTTP/1.1 200 OK\r\nX: ",
    ] {
        let http = Double::http(move |_| Reaction::Flood(head.into())).await?;
        let client = client(&[("c", &format!("{NOWHERE},{}", http.address))], NOWHERE, Deadlines::default())?;
        let result = say(&client, "c", SchedulerCall::AdaptiveTarget).await;
        assert!(matches!(result, Err(SchedulerError::Unreachable(_))), "{result:?}");
        // It is asked for the target and for the counts.
        assert_eq!(http.connections(), 2);
        assert!(http.flooded() <= 2 * UNDER_WAY, "{head}: {}", http.flooded());
    }
    Ok(())
}

#[tokio::test]
async fn calls_at_the_same_time_share_one_connection() -> anyhow::Result<()> {
    let double = Double::comm(answer).await?;
    let client = client(&[("c", &double.address)], NOWHERE, Deadlines::default())?;
    let results = join_all((0..20).map(|_| say(&client, "c", SchedulerCall::AdaptiveTarget))).await;
    assert!(results.into_iter().all(|result| result == Ok(SchedulerReply::AdaptiveTarget(7))));
    assert_eq!((double.connections(), double.open()), (1, 1));
    drop(client);
    wait_for("its end", PATIENCE, async || Ok((double.open() == 0).then_some(()))).await
}

/// The double refuses what is no plain data, as pickles are.
#[tokio::test]
async fn nothing_is_sent_but_these() -> anyhow::Result<()> {
    let double = Double::comm(answer).await?;
    let client = client(&[("c", &double.address)], NOWHERE, Deadlines::default())?;
    workers(&client, "c").await?;
    adaptive_target(&client, "c").await?;
    idle_since(&client, "c").await?;
    retire(&client, "c", &["tcp://a"]).await?;
    let expected = [
        json!({"op": "identity", "reply": true}),
        json!({"op": "workers_to_close", "reply": true, "n": 1_000_000, "attribute": "address"}),
        json!({"op": "processing", "reply": true, "workers": ["tcp://b"]}),
        json!({"op": "adaptive_target", "reply": true}),
        json!({"op": "versions", "reply": true}),
        json!({"op": "check_idle", "reply": true}),
        json!({"op": "retire_workers", "reply": true, "workers": ["tcp://a"], "remove": false, "close_workers": false}),
    ];
    assert_eq!(double.requests(), expected);
    Ok(())
}

#[tokio::test]
async fn what_is_told_of_an_error_is_short() -> anyhow::Result<()> {
    // Who decodes quotes what it did not expect.
    let words = json!("x".repeat(100_000));
    let exception = json!({"status": "uncaught-error", "exception_text": "\u{1}".repeat(100_000)});
    for lie in [words, exception] {
        let double = Double::comm(move |operation| match operation {
            HANDSHAKE => answer(operation),
            _ => Reaction::Answer(message(&lie)),
        })
        .await?;
        let client = client(&[("c", &double.address)], NOWHERE, Deadlines::default())?;
        let result = say(&client, "c", SchedulerCall::Workers).await;
        let Err(SchedulerError::Unusable(text)) = &result else { panic!("{result:?}") };
        assert!(text.len() < 1_500, "{} bytes", text.len());
    }
    Ok(())
}

/// The description of so many workers, at 3 KB each.
fn identity_of(workers: usize) -> Value {
    let worker = |number| {
        let worker = json!({"name": format!("w{number}"), "status": "running", "metrics": "x".repeat(3_000)});
        (format!("tcp://10.0.0.1:{number}"), worker)
    };
    json!({"id": "s", "workers": (0..workers).map(worker).collect::<serde_json::Map<_, _>>()})
}

#[tokio::test]
async fn a_long_answer_is_read_all_the_same() -> anyhow::Result<()> {
    let identity = message(&identity_of(1_000));
    let double = Double::comm(move |operation| match operation {
        "identity" => Reaction::Answer(identity.clone()),
        "workers_to_close" => Reaction::Answer(framed(b"\x90")),
        other => answer(other),
    })
    .await?;
    let client = client(&[("c", &double.address)], NOWHERE, Deadlines::default())?;
    for _ in 0..3 {
        assert_eq!(workers(&client, "c").await?.len(), 1_000);
    }
    Ok(())
}

#[tokio::test]
async fn schedulers_may_have_addresses_of_version_6() -> anyhow::Result<()> {
    let comm = match Double::comm_at("[::1]:0", answer).await {
        Ok(comm) => comm,
        Err(error) => {
            eprintln!("skipped: this machine has no IPv6: {error}");
            return Ok(());
        }
    };
    let http = Double::http(|_| Reaction::Answer(response("200 OK", r#"{"workers": 5}"#))).await?;
    let client = client(&[("c", &format!("{},{}", comm.address, http.address))], NOWHERE, Deadlines::default())?;
    assert_eq!(adaptive_target(&client, "c").await?, 5);
    assert_eq!(workers(&client, "c").await?.len(), 2);
    Ok(())
}
