use super::*;
use crate::{
    contract::{Child, KindReference, PatchPermission, Permissions},
    spec::{Grants, KindGrant, Limits, PatchGrant},
};

fn kind(group: &str, name: &str) -> KindReference {
    KindReference { group: Some(group.to_owned()), version: None, name: name.to_owned() }
}

fn rights() -> Rights {
    let asked = Permissions {
        create: vec![kind("", "ConfigMap"), kind("x.io", "Widget"), kind("", "Secret"), kind("apps", "Deployment")],
        patch: vec![PatchPermission {
            kind: kind("", "Service"),
            fields: vec!["metadata".to_owned()],
            strategy: PatchStrategy::Apply,
        }],
        ..Permissions::default()
    };
    let granted = Grants {
        create: vec![
            KindGrant { group: String::new(), kind: "Secret".to_owned() },
            KindGrant { group: "apps".to_owned(), kind: "Deployment".to_owned() },
        ],
        patch: vec![PatchGrant {
            group: String::new(),
            kind: "Service".to_owned(),
            fields: vec!["metadata.annotations".to_owned()],
            merge: false,
        }],
        ..Grants::default()
    };
    let resolve = |asked: &KindReference| {
        let group = asked.group.clone().unwrap_or_default();
        resource(&GroupVersionKind::new(&group, "v1", &asked.name)).ok_or_else(|| "it is not served".to_owned())
    };
    Rights::new(&asked, &granted, Limits::default(), &resolve)
}

fn subject() -> Object {
    Object::from_value(
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "n", "uid": "u"}}),
    )
    .unwrap()
}

fn handler() -> HandlerName {
    HandlerName { plugin: "p".to_owned(), handler: "h".to_owned() }
}

fn resource(kind: &GroupVersionKind) -> Option<Resource> {
    let plural = format!("{}s", kind.kind.to_lowercase());
    (kind.kind != "Unserved").then(|| Resource { kind: kind.clone(), plural, namespaced: kind.kind != "Global" })
}

fn with_child(object: Value) -> Outcome {
    Outcome { children: Some(vec![Child { key: "k".to_owned(), object: object.to_string() }]), ..Outcome::default() }
}

fn with_patch(body: Value) -> Outcome {
    let patch = Patch { target: PatchTarget::Subject, strategy: PatchStrategy::Apply, body: body.to_string() };
    Outcome { patches: Some(vec![patch]), ..Outcome::default() }
}

fn judge(outcome: &Outcome) -> Result<Wanted, String> {
    accept(outcome, &handler(), &subject(), &rights(), &resource)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

#[test]
fn an_accepted_child_is_placed_and_labelled() {
    let config_map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": {"a": "b"}}, "data": {"x": "y"}});
    let wanted = judge(&with_child(config_map)).unwrap();
    let object = &wanted.children.unwrap()[0].object;
    assert_eq!(
        object["metadata"],
        json!({
            "name": "c", "namespace": "n",
            "labels": {"a": "b", "plugins.dask.org/plugin": "p", "plugins.dask.org/handler": "h", "plugins.dask.org/subject-uid": "u"},
            "annotations": {"plugins.dask.org/key": "k"},
        })
    );
}

#[test]
fn what_a_child_may_not_hold_is_refused_by_name() {
    let good = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    for (pointer, value, word) in [
        ("/metadata/ownerReferences", json!([{"uid": "x"}]), "ownerReferences"),
        ("/metadata/finalizers", json!(["x"]), "finalizers"),
        ("/metadata/uid", json!("x"), "uid"),
        ("/metadata/resourceVersion", json!("1"), "resourceVersion"),
        ("/metadata/namespace", json!("other"), "metadata.namespace"),
        ("/metadata/name", json!("../../secrets/x"), "metadata.name"),
        ("/metadata/name", json!("x?force=true"), "metadata.name"),
        ("/metadata/name", json!(1), "metadata.name"),
        ("/metadata/labels", json!({"plugins.dask.org/plugin": "other"}), "reserved"),
        ("/metadata/annotations", json!({"operator.dask.org/paused": "true"}), "reserved"),
        ("/metadata/labels", json!({"a": 1}), "no string"),
        ("/metadata/labels", json!([]), "no object"),
        ("/status", json!({}), "status"),
        ("/kind", json!("Secret"), "never"),
        ("/kind", json!("Pod"), "not granted"),
        ("/kind", json!("Ingress"), "not granted"),
        ("/apiVersion", json!("rbac.authorization.k8s.io/v1"), "never"),
        ("/apiVersion", Value::Null, "apiVersion"),
    ] {
        let mut object = good.clone();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[field] = value.clone();
        let why = judge(&with_child(object)).expect_err(&format!("{pointer} = {value}"));
        assert!(why.contains(word), "{pointer} = {value}: {why}");
    }
    assert!(judge(&with_child(good)).is_ok());
}

#[test]
fn what_was_not_asked_for_is_refused() {
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"}});
    assert!(judge(&with_child(ingress)).unwrap_err().contains("does not ask"));
}

#[test]
fn a_grant_does_not_cover_the_way_out_of_a_pod() {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"template": {"spec": {"hostNetwork": true}}}});
    assert!(judge(&with_child(deployment)).unwrap_err().contains("spec.template.spec.hostNetwork"));
}

#[test]
fn one_bad_child_refuses_the_whole_answer() {
    let child = |key: &str, object: Value| Child { key: key.to_owned(), object: object.to_string() };
    let good = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "d"}});
    for children in [
        vec![child("a", good.clone()), child("a", other.clone())],
        vec![child("a", good.clone()), child("b", good.clone())],
        vec![child("", good.clone())],
        vec![child("a", good.clone()), Child { key: "b".to_owned(), object: "{".to_owned() }],
    ] {
        assert!(judge(&Outcome { children: Some(children), ..Outcome::default() }).is_err());
    }
    let many = (0..101).map(|n| {
        child(&n.to_string(), json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{n}")}}))
    });
    assert!(
        judge(&Outcome { children: Some(many.collect()), ..Outcome::default() })
            .unwrap_err()
            .contains("childrenPerSubject")
    );
}

#[test]
fn patches_are_confined_to_what_is_granted() {
    let wanted = judge(&with_patch(json!({"metadata": {"annotations": {"a": "1"}}}))).unwrap();
    assert_eq!(wanted.subject.unwrap().body, json!({"metadata": {"annotations": {"a": "1"}}}));
    for (body, word) in [
        (
            json!({"metadata": {"labels": {"example.org/it's": "1"}}}),
            r#"fields: ['metadata.labels["example.org/it''s"]']}"#,
        ),
        (json!({"metadata": {"annotations": {"plugins.dask.org/retry": "x"}}}), "reserved"),
        (json!({"metadata": {"finalizers": ["x"]}}), "finalizers"),
        (json!({"spec": {"type": "NodePort"}}), "spec"),
        (json!([]), "no object"),
    ] {
        let why = judge(&with_patch(body)).unwrap_err();
        assert!(why.contains(word), "{why}");
    }
}

#[test]
fn an_answer_that_nobody_could_decode_any_more_is_refused() {
    let deep = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let child = |levels| {
        let object = format!(
            r#"{{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {{"name": "c"}}, "data": {}}}"#,
            deep(levels)
        );
        Outcome { children: Some(vec![Child { key: "k".to_owned(), object }]), ..Outcome::default() }
    };
    assert!(judge(&child(DEEPEST - 1)).is_ok());
    for levels in [DEEPEST, 100_000] {
        assert!(judge(&child(levels)).unwrap_err().contains("nests deeper than 100 levels"));
    }
}

#[test]
fn nobody_is_called_again_all_the_time() {
    for (asked, given) in [(0, 1_000), (999, 1_000), (1_500, 1_500)] {
        let outcome = Outcome { requeue_after: Some(Duration::from_millis(asked)), ..Outcome::default() };
        assert_eq!(judge(&outcome).unwrap().requeue_after, Some(Duration::from_millis(given)));
    }
}

#[test]
fn no_opinion_and_the_empty_set_are_told_apart() {
    let none = judge(&Outcome::default()).unwrap();
    assert_eq!((none.children, none.subject), (None, None));
    let empty = judge(&Outcome { children: Some(vec![]), patches: Some(vec![]), ..Outcome::default() }).unwrap();
    assert_eq!(empty.children, Some(vec![]));
    assert!(empty.subject.is_some());
}
