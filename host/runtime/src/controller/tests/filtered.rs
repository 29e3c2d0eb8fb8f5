//! Changes are filtered by what an object was and what it is.

use dask_wasm_operator_core::plugin::Projection;

use super::*;

fn service(namespace: &str, spec: &str, status: &str) -> Arc<Object> {
    let metadata =
        json!({"namespace": namespace, "name": "a", "uid": "u", "resourceVersion": format!("{spec}{status}")});
    let (spec, status) = (json!({"externalName": spec}), json!({"x": status}));
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec, "status": status});
    Arc::new(Object::from_value(&object).unwrap())
}

#[tokio::test]
async fn a_change_of_what_a_handler_does_not_see_queues_nothing() {
    let controller = controller(Arc::new(cluster()), Gate::open());
    let mut handler = Arc::into_inner(of_services("ours", &Arc::default())).unwrap();
    handler.projection = Some(Projection::parse(&["spec".to_owned()]).unwrap());
    controller.mount("p", &[Arc::new(handler)]);
    let depth_after = |old: Option<Arc<Object>>, new: Option<Arc<Object>>| {
        let kind = Arc::new(GroupVersionKind::new("", "v1", "Service"));
        controller.wake(&Change { kind, old, new, own_write: false });
        controller.lock().queue.depth()
    };
    let ours = |spec: &str, status: &str| Some(service("ours", spec, status));
    let theirs = |spec: &str| Some(service("theirs", spec, "1"));
    assert_eq!(depth_after(None, theirs("1")), 0);
    assert_eq!(depth_after(theirs("1"), theirs("2")), 0);
    assert_eq!(depth_after(ours("1", "1"), ours("1", "2")), 0, "it does not see the status");
    assert_eq!(depth_after(ours("1", "2"), ours("2", "2")), 1);
}

#[tokio::test]
async fn what_becomes_a_subject_and_what_is_none_any_more_is_looked_at() {
    for (old, new) in [(None, Some("1")), (Some("1"), None), (Some("1"), Some("2"))] {
        let controller = controller(Arc::new(cluster()), Gate::open());
        controller.mount("p", &[of_services("ours", &Arc::default())]);
        let of = |spec: Option<&str>| spec.map(|spec| service("ours", spec, "1"));
        let kind = Arc::new(GroupVersionKind::new("", "v1", "Service"));
        controller.wake(&Change { kind, old: of(old), new: of(new), own_write: false });
        assert_eq!(controller.lock().queue.depth(), 1, "{old:?} {new:?}");
    }
}
