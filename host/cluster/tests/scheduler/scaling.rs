//! From what a scheduler answers on the wire to the number of workers.

use std::sync::{Arc, Mutex};

use dask_wasm_operator_cluster::scheduler::Deadlines;
use dask_wasm_operator_core::scheduler::{SchedulerCall, SchedulerReply};
use dask_wasm_operator_test_properties::cases;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{
    NOWHERE, client,
    double::{Double, Reaction, framed, message},
    faults::answer,
    say,
    world::{SECOND, World, dask_cluster, unreachable},
};

/// An answer to `adaptive_target`: sane, a value of another kind, or any bytes.
fn any_answer() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        Just(Value::Null),
        (0..30_u64).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0.0..30.0).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        ".{0,9}".prop_map(Value::from),
        (0..30_u64).prop_map(|workers| json!([workers])),
        (0..30_u64).prop_map(|workers| json!({ "workers": workers })),
    ];
    let bytes = prop::collection::vec(any::<u8>(), 0..20);
    prop_oneof![
        6 => value.prop_map(|value| message(&value)),
        1 => bytes.clone().prop_map(|bytes| framed(&bytes)),
        1 => bytes.prop_map(|bytes| [&32_u64.to_le_bytes(), &bytes[..], &[0; 32]].concat()),
    ]
}

proptest! {
    #![proptest_config(cases(48))]
    #[test]
    fn fault_04_whatever_is_on_the_wire_the_number_of_workers_stays_within_the_limits_or_nears_them(
        (minimum, maximum, begin) in (0..10_u64, 0..10_u64, 0..14_u64),
        answers in prop::collection::vec(any_answer(), 1..6),
    ) {
        let runtime = Runtime::new().unwrap();
        let now = Arc::new(Mutex::new(Vec::new()));
        let shown = Arc::clone(&now);
        let double = runtime.block_on(Double::comm(move |operation| match operation {
            "adaptive_target" => Reaction::Close(shown.lock().unwrap().clone()),
            other => answer(other),
        })).unwrap();
        let client = runtime.block_on(async { client(&[("a", &double.address)], NOWHERE, Deadlines::default()) }).unwrap();
        let autoscaler = json!({
            "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskAutoscaler",
            "metadata": {"name": "a", "namespace": "ns1"},
            "spec": {"cluster": "a", "minimum": minimum, "maximum": maximum},
        });
        let begin = u32::try_from(begin).unwrap();
        let mut world = World::new([dask_cluster(begin), autoscaler], move |call, _| match call {
            SchedulerCall::AdaptiveTarget => runtime.block_on(say(&client, "a", call.clone())),
            SchedulerCall::Workers => Ok(SchedulerReply::Workers(Vec::new())),
            _ => unreachable(),
        });
        let replicas =
            |world: &World| world.get("DaskWorkerGroup", "a-default")["spec"]["worker"]["replicas"].as_u64().unwrap();
        let low = minimum.min(maximum);
        for answer in answers {
            now.lock().unwrap().clone_from(&answer);
            let before = replicas(&world);
            // Long enough for the next question, also after failures, and for one change.
            world.advance(61 * SECOND);
            let after = replicas(&world);
            let (least, most) = (low.min(before), maximum.max(before));
            prop_assert!((least..=most).contains(&after), "{before} -> {after} after {answer:?}");
            prop_assert!(before <= maximum || after <= before, "{before} -> {after} after {answer:?}");
        }
        prop_assert!(replicas(&world) >= low, "not even in the end: {}", replicas(&world));
    }
}
