//! What is done again and again, once for each kind.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{
    kinds::{KINDS, Kind, kind},
    run,
    steps::{By, Expected, Fields, Step},
};
use crate::in_world;

use Expected::{Absent, Another, Outdated, This, Unchanged};

const LABEL: &str = "/metadata/labels/l";
const ANNOTATION: &str = "/metadata/annotations/n";
const FINALIZERS: &str = "/metadata/finalizers";
const OWNERS: &str = "/metadata/ownerReferences";

fn fields(fields: &[(&'static str, Value)]) -> Fields {
    Fields(fields.to_vec())
}

fn nothing() -> Fields {
    Fields(Vec::new())
}

/// A field with this value, and no others.
fn label(value: &str) -> Fields {
    fields(&[(LABEL, json!(value))])
}

fn create(object: usize, fields: Fields) -> Step {
    Step::Create { object, fields }
}

fn make(object: usize, manager: usize, fields: Fields) -> Step {
    Step::Apply { object, manager, fields, force: false, expected: Absent }
}

fn apply(manager: usize, fields: Fields) -> Step {
    Step::Apply { object: 0, manager, fields, force: false, expected: This }
}

fn force(manager: usize, fields: Fields) -> Step {
    Step::Apply { object: 0, manager, fields, force: true, expected: This }
}

fn change(by: By, set: Fields, remove: &[&'static str]) -> Step {
    Step::Change { object: 0, by, set, remove: remove.to_vec() }
}

fn delete(object: usize, expected: Expected) -> Step {
    Step::Delete { object, expected }
}

/// The fields that only this kind has, and two values of each.
fn own(kind: &Kind) -> impl Iterator<Item = (&'static str, Value, Value)> {
    let own = kind.fields.iter().filter(|(path, _)| !path.starts_with("/metadata/"));
    own.map(|(path, values)| {
        let last = values.last().cloned().unwrap_or_default();
        (*path, values.first().cloned().unwrap_or_default(), last)
    })
}

async fn agree(of_kind: impl Fn(&Kind) -> Vec<Vec<Step>>) -> anyhow::Result<()> {
    in_world(async |world| {
        let mut differences = String::new();
        for kind in KINDS.iter() {
            for (number, steps) in of_kind(kind).iter().enumerate() {
                if let Some(difference) = run(&world, kind, steps).await? {
                    differences.push_str(&format!("\n{} {number}, {difference}", kind.name));
                }
            }
        }
        ensure!(differences.is_empty(), "{differences}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn users_create_and_change() -> anyhow::Result<()> {
    agree(|kind| {
        let of_field = |(path, one, two): (&'static str, Value, Value)| {
            let both = |value: &Value| fields(&[(path, value.clone()), (LABEL, json!("1"))]);
            let by = |by| {
                vec![
                    create(0, nothing()),
                    create(0, both(&one)),
                    change(by, both(&one), &[]),
                    change(by, both(&one), &[]),
                    change(by, both(&two), &[]),
                    change(by, fields(&[(ANNOTATION, json!("1"))]), &[LABEL]),
                    change(by, nothing(), &[LABEL]),
                    delete(0, This),
                    change(by, both(&one), &[]),
                    create(0, both(&two)),
                ]
            };
            [by(By::Update), by(By::MergePatch)]
        };
        own(kind).flat_map(of_field).collect()
    })
    .await
}

#[tokio::test]
async fn three_managers_apply() -> anyhow::Result<()> {
    agree(|kind| {
        let of_field = |(path, one, two): (&'static str, Value, Value)| {
            let with = |value: &Value| fields(&[(path, value.clone())]);
            vec![
                make(0, 0, with(&one)),
                apply(0, with(&one)),
                apply(1, label("1")),
                apply(1, label("1")),
                apply(2, with(&two)),
                force(2, with(&two)),
                apply(0, with(&one)),
                apply(2, with(&one)),
                apply(0, with(&one)),
                apply(2, nothing()),
                apply(2, label("2")),
                force(2, fields(&[(LABEL, json!("2")), (path, two.clone())])),
                apply(0, nothing()),
                apply(2, nothing()),
                apply(1, nothing()),
                apply(1, with(&one)),
                apply(1, with(&two)),
                apply(1, nothing()),
            ]
        };
        own(kind).map(of_field).collect()
    })
    .await
}

#[tokio::test]
async fn what_users_change_is_theirs() -> anyhow::Result<()> {
    agree(|kind| {
        let of_field = |(path, one, two): (&'static str, Value, Value)| {
            let with = |value: &Value| fields(&[(path, value.clone()), (LABEL, json!("1"))]);
            let by = |by| {
                vec![
                    make(0, 0, with(&one)),
                    change(by, with(&two), &[]),
                    apply(0, with(&one)),
                    force(0, with(&one)),
                    change(by, label("2"), &[]),
                    apply(1, label("1")),
                    apply(1, label("2")),
                    apply(0, nothing()),
                    change(by, nothing(), &[LABEL]),
                    apply(0, with(&two)),
                    change(by, fields(&[(ANNOTATION, json!("1"))]), &[LABEL]),
                    apply(0, with(&two)),
                    force(1, fields(&[(ANNOTATION, json!("2"))])),
                    apply(1, nothing()),
                ]
            };
            [by(By::Update), by(By::MergePatch)]
        };
        own(kind).flat_map(of_field).collect()
    })
    .await
}

#[tokio::test]
async fn preconditions_are_heeded() -> anyhow::Result<()> {
    agree(|kind| {
        let on = |manager, value: &str, expected| {
            [false, true].map(|force| Step::Apply { object: 0, manager, fields: label(value), force, expected })
        };
        let mut steps = Vec::new();
        steps.extend(on(0, "1", This));
        steps.push(make(0, 0, label("1")));
        for expected in [Absent, Another, Outdated, Unchanged] {
            if kind.is_controlled && matches!(expected, Outdated | Unchanged) {
                continue;
            }
            steps.extend(on(0, "2", expected));
            steps.extend(on(1, "2", expected));
            steps.extend(on(1, "1", expected));
        }
        steps.extend([delete(0, Another), apply(0, label("1"))]);
        if !kind.is_controlled {
            steps.extend([delete(0, Outdated), delete(0, Unchanged), delete(0, Unchanged), delete(0, This)]);
        }
        steps.extend([make(0, 1, label("1")), delete(0, This), delete(0, This), apply(0, label("1"))]);
        // Of whose owner it is, it is taken for the manager's own.
        let owned = fields(&[(OWNERS, json!([{"object": 1, "controller": true}]))]);
        let own = vec![
            create(1, nothing()),
            make(0, 0, owned.clone()),
            make(0, 0, owned.clone()),
            make(0, 1, owned.clone()),
            make(0, 2, owned),
        ];
        vec![steps, own]
    })
    .await
}

#[tokio::test]
async fn finalizers_keep_what_is_deleted() -> anyhow::Result<()> {
    agree(|kind| {
        let held = |finalizers: &[&str]| fields(&[(FINALIZERS, json!(finalizers))]);
        let mut steps = vec![
            make(0, 0, held(&["example.com/a"])),
            apply(1, held(&["example.com/b"])),
            apply(1, nothing()),
            change(By::MergePatch, held(&["example.com/b", "example.com/a"]), &[]),
            delete(0, This),
            delete(0, This),
            make(0, 0, nothing()),
            apply(0, fields(&[(FINALIZERS, json!(["example.com/a"])), (LABEL, json!("1"))])),
            apply(1, held(&["example.com/c"])),
            apply(0, nothing()),
        ];
        if !kind.is_controlled {
            steps.push(Step::RemoveFinalizer { object: 0, expected: Another });
            steps.push(Step::RemoveFinalizer { object: 0, expected: Outdated });
            steps.push(Step::RemoveFinalizer { object: 0, expected: Unchanged });
            steps.push(Step::RemoveFinalizer { object: 0, expected: Unchanged });
        } else {
            steps.push(change(By::MergePatch, nothing(), &[FINALIZERS]));
        }
        steps.push(make(0, 0, label("1")));
        let by_user = vec![
            create(0, held(&["example.com/a"])),
            delete(0, This),
            change(By::Update, nothing(), &[FINALIZERS]),
            create(0, nothing()),
        ];
        let by_apply =
            vec![make(0, 0, held(&["example.com/a"])), delete(0, This), apply(0, nothing()), make(0, 0, nothing())];
        vec![steps, by_user, by_apply]
    })
    .await
}

#[tokio::test]
async fn what_has_lost_its_owners_goes() -> anyhow::Result<()> {
    let owned = |owners: &[(usize, bool)]| {
        let owners = owners.iter().map(|(object, controller)| json!({"object": object, "controller": controller}));
        fields(&[(OWNERS, owners.collect())])
    };
    agree(|_| {
        let two = vec![
            create(1, nothing()),
            create(2, nothing()),
            make(0, 0, owned(&[(1, true), (2, false)])),
            force(1, owned(&[(2, true)])),
            apply(1, owned(&[(2, false)])),
            delete(1, This),
            delete(2, This),
        ];
        let chain = vec![
            create(2, nothing()),
            make(1, 0, owned(&[(2, true)])),
            make(0, 0, owned(&[(1, true)])),
            force(1, owned(&[(2, true)])),
            delete(2, This),
        ];
        let held = vec![
            create(1, nothing()),
            create(0, owned(&[(1, true)])),
            change(By::Update, fields(&[(FINALIZERS, json!(["example.com/a"]))]), &[]),
            delete(1, This),
            change(By::Update, nothing(), &[FINALIZERS]),
        ];
        let let_go = vec![
            create(1, nothing()),
            make(0, 0, owned(&[(1, true)])),
            apply(0, nothing()),
            delete(1, This),
            delete(0, This),
        ];
        vec![two, chain, held, let_go]
    })
    .await
}

#[tokio::test]
async fn a_status_is_apart() -> anyhow::Result<()> {
    in_world(async |world| {
        let kind = kind("daskworkergroup");
        let status = |manager, values: &[usize], force| {
            let field =
                |(path, values): &(&'static str, Vec<Value>), at: &usize| Some((*path, values.get(*at)?.clone()));
            let set = kind.status.iter().zip(values).filter_map(|(of, at)| field(of, at)).collect();
            Step::ApplyStatus { object: 0, manager, fields: Fields(set), force }
        };
        let none = usize::MAX;
        let steps = [
            status(0, &[0], false),
            make(0, 0, label("1")),
            status(0, &[0, 0, 0], false),
            status(0, &[0, 0, 0], false),
            status(1, &[1, none, 1], false),
            status(1, &[1, none, 1], true),
            status(0, &[none, none, none], false),
            apply(0, nothing()),
            status(1, &[none, none, 2], false),
            status(1, &[], false),
            delete(0, This),
            status(1, &[0], false),
        ];
        if let Some(difference) = run(&world, kind, &steps).await? {
            anyhow::bail!("{difference}");
        }
        Ok(())
    })
    .await
}

/// ConfigMaps need nothing.
#[tokio::test]
async fn who_applies_nothing_takes_everything_back() -> anyhow::Result<()> {
    in_world(async |world| {
        let withdraw = |manager| Step::Withdraw { object: 0, manager };
        let data = |value: &str| fields(&[("/data/x", json!(value)), (LABEL, json!("1"))]);
        let steps = [
            make(0, 0, data("1")),
            apply(1, data("1")),
            apply(2, fields(&[("/data/y", json!("1"))])),
            withdraw(0),
            withdraw(0),
            withdraw(2),
            withdraw(1),
            apply(0, data("2")),
        ];
        if let Some(difference) = run(&world, kind("configmap"), &steps).await? {
            anyhow::bail!("{difference}");
        }
        Ok(())
    })
    .await
}
