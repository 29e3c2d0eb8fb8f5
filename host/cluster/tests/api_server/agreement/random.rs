//! Whatever is done in whatever order.

use dask_wasm_operator_test_properties::cases;
use proptest::{
    prelude::*,
    sample::subsequence,
    test_runner::{Config, TestRunner},
};
use serde_json::Value;
use tokio::{runtime::Handle, task::block_in_place};

use super::{
    differences::is_known,
    kinds::{KINDS, Kind},
    run,
    steps::{By, Expected, Fields, MANAGERS, OBJECTS, Step},
};
use crate::in_world;

/// Some of the fields, each once. Nobody is owned by what it may own.
fn fields(of: &[(&'static str, Vec<Value>)], object: usize) -> BoxedStrategy<Fields> {
    let is_owner_possible = move |value: &Value| {
        value.as_array().into_iter().flatten().all(|owner| owner["object"].as_u64() > Some(object as u64))
    };
    let values = |(path, values): &(&'static str, Vec<Value>)| {
        let values = values.iter().map(|value| (*path, value.clone())).collect::<Vec<_>>();
        values.into_iter().filter(move |(path, value)| *path != "/metadata/ownerReferences" || is_owner_possible(value))
    };
    let all: Vec<_> = of.iter().flat_map(values).collect();
    let most = all.len().min(4);
    let once = |chosen: Vec<(&'static str, Value)>| {
        let mut fields: Vec<(&'static str, Value)> = Vec::new();
        for (path, value) in chosen {
            if fields.iter().all(|(other, _)| *other != path) {
                fields.push((path, value));
            }
        }
        Fields(fields)
    };
    subsequence(all, 0..=most).prop_map(once).boxed()
}

fn expected() -> impl Strategy<Value = Expected> {
    prop_oneof![
        12 => Just(Expected::This),
        3 => Just(Expected::Absent),
        1 => Just(Expected::Another),
        1 => Just(Expected::Unchanged),
        1 => Just(Expected::Outdated),
    ]
}

fn step_of(kind: &'static Kind, object: usize) -> BoxedStrategy<Step> {
    let of = || fields(&kind.fields, object);
    let by = || prop_oneof![Just(By::Update), Just(By::MergePatch)];
    let paths: Vec<_> = kind.fields.iter().map(|(path, _)| *path).collect();
    let manager = 0..MANAGERS.len();
    prop_oneof![
        2 => of().prop_map(move |fields| Step::Create { object, fields }),
        4 => (by(), of(), subsequence(paths, 0..=1)).prop_map(move |(by, set, remove)| {
            let is_set = |path: &&str| set.0.iter().any(|(other, _)| other == path);
            let remove = remove.into_iter().filter(|path| !is_set(path)).collect();
            Step::Change { object, by, set, remove }
        }),
        10 => (manager.clone(), of(), any::<bool>(), expected()).prop_map(move |(manager, fields, force, expected)| {
            Step::Apply { object, manager, fields, force, expected }
        }),
        1 => manager.clone().prop_map(move |manager| Step::Withdraw { object, manager }),
        2 => (manager, fields(&kind.status, object), any::<bool>()).prop_map(move |(manager, fields, force)| {
            Step::ApplyStatus { object, manager, fields, force }
        }),
        2 => expected().prop_map(move |expected| Step::Delete { object, expected }),
        2 => expected().prop_map(move |expected| Step::RemoveFinalizer { object, expected }),
    ]
    .boxed()
}

/// A kind, and what is done to objects of it, most to the first of them.
fn sequence() -> impl Strategy<Value = (usize, Vec<Step>)> {
    (0..KINDS.len()).prop_flat_map(|number| {
        let kind = &KINDS[number];
        let object = prop_oneof![4 => Just(0), 1 => 1..OBJECTS];
        let step = object.prop_flat_map(move |object| step_of(kind, object));
        let made = fields(&kind.fields, 0).prop_flat_map(|fields| {
            let by_apply =
                Step::Apply { object: 0, manager: 0, fields: fields.clone(), force: false, expected: Expected::Absent };
            prop_oneof![Just(by_apply), Just(Step::Create { object: 0, fields })]
        });
        let steps = (made, prop::collection::vec(step, 1..12)).prop_map(move |(made, mut steps)| {
            steps.insert(0, made);
            steps.retain(|step| !is_known(kind, step));
            steps
        });
        (Just(number), steps)
    })
}

async fn agree(config: Config) -> anyhow::Result<()> {
    in_world(async |world| {
        let mut runner = TestRunner::new(Config { source_file: Some(file!()), max_shrink_iters: 200, ..config });
        let outcome = block_in_place(|| {
            runner.run(&sequence(), |(number, steps)| {
                let difference = Handle::current().block_on(run(&world, &KINDS[number], &steps));
                let difference = difference.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
                difference.map_or(Ok(()), |difference| {
                    Err(TestCaseError::fail(format!("{}: {difference}", KINDS[number].name)))
                })
            })
        });
        outcome.map_err(|error| anyhow::anyhow!("{error}"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_both_agree() -> anyhow::Result<()> {
    agree(cases(48)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: cargo xtask test --full"]
async fn whatever_is_done_10_000_times_both_agree() -> anyhow::Result<()> {
    agree(cases(10_000)).await
}
