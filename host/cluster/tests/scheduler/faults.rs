//! Schedulers that hang, lie, break off or are none: an error that says so, in bounded time, and no harm to others.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use dask_wasm_operator_cluster::scheduler::Deadlines;
use dask_wasm_operator_core::scheduler::{Left, SchedulerCall, SchedulerError};
use serde_json::{Value, json};

use super::{
    IMPATIENT, NOWHERE, adaptive_target, client,
    double::{Double, HANDSHAKE, Reaction, framed, frames, message},
    idle_since, retire, say, workers,
};

pub(super) const CALLS: [SchedulerCall; 3] =
    [SchedulerCall::Workers, SchedulerCall::AdaptiveTarget, SchedulerCall::IdleSince];

/// What a sane scheduler answers.
pub(super) fn sane(operation: &str) -> Value {
    match operation {
        HANDSHAKE => json!({"compression": null, "python": [3, 12, 1], "pickle-protocol": 5}),
        "identity" => json!({"id": "Scheduler-1", "workers": {
            "tcp://a": {"name": "a", "status": "running", "metrics": {}},
            "tcp://b": {"name": "b", "status": "closing_gracefully"},
        }}),
        "workers_to_close" => json!(["tcp://b", "tcp://a"]),
        "adaptive_target" => json!(7),
        "versions" => json!({"packages": {"distributed": "2026.8.0"}}),
        "check_idle" => json!(1.5),
        "processing" => json!({"tcp://b": []}),
        "retire_workers" => json!({"tcp://b": {"name": "b"}}),
        _ => Value::Null,
    }
}

pub(super) fn answer(operation: &str) -> Reaction {
    Reaction::Answer(message(&sane(operation)))
}

/// A scheduler that is sane but for one operation, and a sane one beside it: what each call to the first gives, and that the
/// second is served all the while.
async fn failures(
    of: &'static str,
    reaction: Reaction,
    calls: impl IntoIterator<Item = SchedulerCall>,
) -> anyhow::Result<Vec<SchedulerError>> {
    let bad = Double::comm(move |operation| if operation == of { reaction.clone() } else { answer(operation) }).await?;
    let good = Double::comm(answer).await?;
    let client = client(&[("bad", &bad.address), ("good", &good.address)], NOWHERE, IMPATIENT)?;
    let mut errors = Vec::new();
    for call in calls {
        errors.extend(say(&client, "bad", call).await.err());
        assert_eq!(adaptive_target(&client, "good").await?, 7);
    }
    assert_eq!(good.connections(), 1, "a connection is kept");
    Ok(errors)
}

#[tokio::test]
async fn a_sane_scheduler_is_understood() -> anyhow::Result<()> {
    let double = Double::comm(answer).await?;
    let client = client(&[("c", &double.address)], NOWHERE, Deadlines::default())?;
    let workers = workers(&client, "c").await?;
    let found: Vec<_> = workers.iter().map(|worker| (worker.name.as_str(), worker.place, worker.retiring)).collect();
    assert_eq!(found, [("a", 1, None), ("b", 0, Some(Left::Nothing))]);
    assert_eq!(adaptive_target(&client, "c").await?, 7);
    assert_eq!(idle_since(&client, "c").await?, Some(1_500));
    assert_eq!(retire(&client, "c", &["tcp://a", "tcp://b"]).await?, ["tcp://b"]);
    assert_eq!(double.connections(), 2, "one that is kept, one to retire");
    Ok(())
}

#[tokio::test]
async fn silence_ends_with_the_deadline() -> anyhow::Result<()> {
    for operation in [HANDSHAKE, "adaptive_target"] {
        let errors = failures(operation, Reaction::Hang(Vec::new()), [SchedulerCall::AdaptiveTarget]).await?;
        let [SchedulerError::Unreachable(text)] = &errors[..] else { panic!("{errors:?}") };
        assert!(text.contains(&format!("no answer to {operation} within 1s")), "{text}");
    }
    let errors =
        failures("retire_workers", Reaction::Hang(Vec::new()), [SchedulerCall::Retire(vec!["tcp://a".to_owned()])])
            .await?;
    assert!(matches!(&errors[..], [SchedulerError::Unreachable(_)]), "{errors:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_no_message_is_named() -> anyhow::Result<()> {
    let mut gigabyte = (1_u64 << 30).to_le_bytes().to_vec();
    gigabyte.extend(vec![0; 1 << 20]);
    for (bytes, reason) in [
        (gigabyte, "1073741824 bytes"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "speaks HTTP"),
        (b"\x15\x03\x03\x00\x02\x02\x32\x00\x00".to_vec(), "speaks TLS"),
        (vec![0; 8], "another length"),
        (framed(b"\xc1"), "not what it should be"),
        (framed(b""), "not what it should be"),
        (message(&"words"), "not what it should be"),
        // {"__Serialized__": 1} and a pickle that would end the process.
        (frames(&[b"\x81\xae__Serialized__\x01", b"\x80", b"cos\n_exit\n(I1\ntR."]), "not what it should be"),
    ] {
        for operation in [HANDSHAKE, "adaptive_target"] {
            let errors = failures(operation, Reaction::Answer(bytes.clone()), [SchedulerCall::AdaptiveTarget]).await?;
            let [SchedulerError::Unusable(text)] = &errors[..] else { panic!("{operation}: {errors:?}") };
            assert!(text.contains(reason), "{operation}: {text}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn lies_are_no_answers() -> anyhow::Result<()> {
    for (operation, call, lie) in [
        ("identity", SchedulerCall::Workers, json!([])),
        ("identity", SchedulerCall::Workers, json!({"id": "x"})),
        ("identity", SchedulerCall::Workers, json!({"id": "x", "workers": {"tcp://a": {"name": [], "status": "x"}}})),
        ("workers_to_close", SchedulerCall::Workers, json!({"a": 1})),
        ("workers_to_close", SchedulerCall::Workers, json!(vec![""; 200_000])),
        ("adaptive_target", SchedulerCall::AdaptiveTarget, json!(-1)),
        ("adaptive_target", SchedulerCall::AdaptiveTarget, json!(1.5)),
        ("check_idle", SchedulerCall::IdleSince, json!(-1.5)),
        ("check_idle", SchedulerCall::IdleSince, json!("now")),
        ("versions", SchedulerCall::IdleSince, json!("2026.8.0")),
        ("retire_workers", SchedulerCall::Retire(Vec::new()), json!([])),
        (
            "adaptive_target",
            SchedulerCall::AdaptiveTarget,
            json!({"status": "uncaught-error", "exception_text": "ValueError()", "exception": {"__Pickled__": 1}}),
        ),
    ] {
        let errors = failures(operation, Reaction::Answer(message(&lie)), [call]).await?;
        assert!(matches!(&errors[..], [SchedulerError::Unusable(_)]), "{operation} {lie}: {errors:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_a_scheduler_does_not_know_is_told_apart_from_what_it_can_not_do() -> anyhow::Result<()> {
    for (operation, call) in [
        ("workers_to_close", SchedulerCall::Workers),
        ("adaptive_target", SchedulerCall::AdaptiveTarget),
        ("retire_workers", SchedulerCall::Retire(Vec::new())),
    ] {
        let errors = failures(operation, Reaction::Answer(message(&Value::Null)), [call]).await?;
        let [SchedulerError::Unsupported(text)] = &errors[..] else { panic!("{errors:?}") };
        assert!(text.contains(operation), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_scheduler_that_is_not_there_is_unreachable() -> anyhow::Result<()> {
    let client = client(&[("c", NOWHERE)], NOWHERE, Deadlines::default())?;
    for call in CALLS.into_iter().chain([SchedulerCall::Retire(vec!["tcp://a".to_owned()])]) {
        let result = say(&client, "c", call).await;
        let Err(SchedulerError::Unreachable(text)) = &result else { panic!("{result:?}") };
        assert!(text.contains(NOWHERE) && text.contains("refused"), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_replaced() -> anyhow::Result<()> {
    let double = Double::comm(|operation| match operation {
        HANDSHAKE => answer(operation),
        _ => Reaction::Close(message(&sane(operation))),
    })
    .await?;
    let client = client(&[("c", &double.address)], NOWHERE, Deadlines::default())?;
    for _ in 0..3 {
        assert_eq!(adaptive_target(&client, "c").await?, 7);
    }
    assert_eq!(double.connections(), 3);
    Ok(())
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_no_connection_behind() -> anyhow::Result<()> {
    let hangs = Arc::new(AtomicBool::new(false));
    let hanging = Arc::clone(&hangs);
    let double = Double::comm(move |operation| match operation {
        "adaptive_target" if hanging.load(Ordering::SeqCst) => Reaction::Hang(Vec::new()),
        _ => answer(operation),
    })
    .await?;
    let client = client(&[("c", &double.address)], NOWHERE, Deadlines::default())?;
    assert_eq!(adaptive_target(&client, "c").await?, 7);
    hangs.store(true, Ordering::SeqCst);
    let short = std::time::Duration::from_millis(100);
    assert!(tokio::time::timeout(short, adaptive_target(&client, "c")).await.is_err());
    hangs.store(false, Ordering::SeqCst);
    assert_eq!(adaptive_target(&client, "c").await?, 7);
    assert_eq!(double.connections(), 2);
    Ok(())
}

#[tokio::test]
async fn a_worker_of_which_it_is_not_known_what_it_has_left_may_have_something() -> anyhow::Result<()> {
    let gone = json!({"status": "uncaught-error", "exception_text": "KeyError('tcp://b')", "exception": {}});
    for reaction in [
        Reaction::Hang(Vec::new()),
        Reaction::Close(Vec::new()),
        Reaction::Answer(message(&gone)),
        Reaction::Answer(message(&json!(null))),
    ] {
        let double = Double::comm(move |operation| match operation {
            "processing" => reaction.clone(),
            _ => answer(operation),
        })
        .await?;
        let client = client(&[("c", &double.address)], NOWHERE, IMPATIENT)?;
        let retiring: Vec<_> = workers(&client, "c").await?.into_iter().filter_map(|worker| worker.retiring).collect();
        assert_eq!(retiring, [Left::Tasks { begun: false }]);
    }
    Ok(())
}
