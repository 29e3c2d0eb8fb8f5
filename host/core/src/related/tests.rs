use std::collections::BTreeMap;

use dask_wasm_operator_test_properties::cases;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A handler and the number of a subject.
type Seeker = (&'static str, u8);

const LABEL: &str = "group";

fn kind(number: u8) -> GroupVersionKind {
    GroupVersionKind::new("example.org", "v1", ["A", "B"][usize::from(number % 2)])
}

fn at(number: u8) -> NamespacedName {
    NamespacedName::new(["n", "m"][usize::from(number % 2)], &format!("name-{number}"))
}

fn object(of: u8, number: u8, owner: Option<u8>, label: Option<u8>) -> Object {
    let NamespacedName { namespace, name } = at(number);
    let owners = owner.map(|owner| {
        json!({"apiVersion": "v1", "kind": "Owner", "name": "o", "uid": format!("uid-{owner}"), "controller": true})
    });
    let labels = label.map(|label| (LABEL.to_owned(), json!(label.to_string())));
    Object::from_value(&json!({
        // The same is served under each version.
        "apiVersion": "example.org/v2", "kind": kind(of).kind,
        "metadata": {
            "name": name, "namespace": namespace, "uid": "u", "labels": labels.into_iter().collect::<serde_json::Map<_, _>>(),
            "ownerReferences": owners.into_iter().collect::<Vec<_>>(),
        },
    }))
    .unwrap()
}

/// Whether a change of an object concerns who made a lookup: what the index is to find.
fn finds(lookup: &Lookup, object: &Object) -> bool {
    match &lookup.related {
        Related::Named(kind, at) => object.kind.same_kind(kind) && object.at() == *at,
        Related::ControlledBy(kind, uid) => {
            let has = |(key, value): &(&str, String)| object.metadata.labels.get(*key) == Some(value);
            object.kind.same_kind(kind) && object.is_controlled_by(uid) && lookup.labelled.as_ref().is_none_or(has)
        }
    }
}

fn lookups() -> impl Strategy<Value = Vec<Lookup>> {
    let related = prop_oneof![
        (0..2_u8, 0..4_u8).prop_map(|(of, number)| Related::Named(kind(of), at(number))),
        (0..2_u8, 0..3_u8).prop_map(|(of, owner)| Related::ControlledBy(kind(of), format!("uid-{owner}"))),
    ];
    let concern = prop_oneof![Just(Concern::Nothing), Just(Concern::Status), Just(Concern::Reconcile)];
    let lookup = (related, concern, prop::option::of(0..2_u8)).prop_map(|(related, concern, label)| {
        let lookup = Lookup::new("it", related).concerning(concern);
        match (&lookup.related, label) {
            (Related::ControlledBy(..), Some(label)) => lookup.labelled(LABEL, &label.to_string()),
            _ => lookup,
        }
    });
    prop::collection::vec(lookup, 0..4)
}

#[derive(Clone, Debug)]
enum Step {
    Note(u8, Vec<Lookup>),
    Forget(u8),
    Retain(u8),
    Change(u8, u8, Option<u8>, Option<u8>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let option = || prop::option::of(0..3_u8);
    let step = prop_oneof![
        4 => (0..5_u8, lookups()).prop_map(|(seeker, lookups)| Step::Note(seeker, lookups)),
        1 => (0..5_u8).prop_map(Step::Forget),
        1 => (0..5_u8).prop_map(Step::Retain),
        6 => (0..2_u8, 0..4_u8, option(), option()).prop_map(|(of, number, owner, label)| Step::Change(of, number, owner, label)),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn it_finds_those_that_a_scan_of_all_lookups_finds(steps in steps()) {
        let mut index = RelatedIndex::<Seeker>::default();
        let mut noted: BTreeMap<Seeker, Vec<Lookup>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Note(seeker, lookups) => {
                    index.note(&("h", seeker), &lookups);
                    noted.insert(("h", seeker), lookups);
                }
                Step::Forget(seeker) => {
                    index.forget(&("h", seeker));
                    noted.remove(&("h", seeker));
                }
                Step::Retain(least) => {
                    index.retain(|(_, seeker)| *seeker >= least);
                    noted.retain(|(_, seeker), _| *seeker >= least);
                }
                Step::Change(of, number, owner, label) => {
                    let object = object(of, number, owner, label);
                    for concern in [Concern::Nothing, Concern::Status, Concern::Reconcile] {
                        let told = index.concerned(&object).filter(|(_, of)| *of == concern);
                        let told: BTreeSet<_> = told.map(|(seeker, _)| *seeker).collect();
                        let of = |lookup: &Lookup| {
                            lookup.concern == concern && concern != Concern::Nothing && finds(lookup, &object)
                        };
                        let scanned = noted.iter().filter(|(_, lookups)| lookups.iter().any(of));
                        prop_assert_eq!(told, scanned.map(|(seeker, _)| *seeker).collect::<BTreeSet<_>>());
                    }
                }
            }
        }
        index.retain(|_| false);
        prop_assert!(index.concerned.is_empty() && index.seekers.is_empty() && index.lookups.is_empty());
    }
}

/// A thousand groups of each of a hundred clusters: none of the others is looked at.
#[test]
fn a_change_finds_its_own_only_and_what_is_noted_again_takes_no_more_place() {
    let mut index = RelatedIndex::<(u32, u32)>::default();
    let cluster = |cluster: u32| NamespacedName::new("n", &format!("cluster-{cluster}"));
    for _ in 0..2 {
        for seeker in (0..100).flat_map(|of| (0..1_000).map(move |group| (of, group))) {
            let related = Related::Named(kind(0), cluster(seeker.0));
            index.note(&seeker, &[Lookup::new("cluster", related).concerning(Concern::Reconcile)]);
        }
    }
    assert_eq!((index.concerned.len(), index.lookups.len(), index.last), (100_000, 100_000, 100_000));
    let NamespacedName { namespace, name } = cluster(7);
    let changed = json!({
        "apiVersion": "example.org/v1", "kind": "A", "metadata": {"name": name, "namespace": namespace, "uid": "u"},
    });
    let changed = Object::from_value(&changed).unwrap();
    let found: Vec<_> = index.concerned(&changed).collect();
    assert_eq!(found.len(), 1_000);
    assert!(found.iter().all(|((of, _), concern)| *of == 7 && *concern == Concern::Reconcile));
}

#[test]
fn a_lookup_takes_some_tens_of_bytes() {
    assert_eq!(size_of::<(Mark, Number, Concern)>(), 24, "in the index");
    assert_eq!(size_of::<(Mark, Concern)>(), 16, "with who looks it up");
    assert!(size_of::<(Arc<Seeker>, Number)>() + size_of::<(Number, Lookups<Seeker>)>() <= 48);
}
