//! What a command reads and writes once: without a watch, and without the Lease.
//!
//! As for the watches, an object is there whatever is in it, and no answer is decoded further than that: what one tenant has
//! written keeps nobody from seeing the objects of the others.

use std::sync::Arc;

use dask_wasm_operator_core::object::{NamespacedName, Object, Resource};
use http::Method;
use kube::Client;
use serde_json::Value;

use crate::{
    path::{self, PathError, with_parameter},
    request::{Call, JSON, RequestError, TOTAL_DEADLINE},
    watch::{event::Place, pages::Pages},
};

/// Media type of a patch in which null removes.
const MERGE_PATCH: &str = "application/merge-patch+json";

/// Which objects are listed.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// The kind.
    pub resource: &'a Resource,
    /// One namespace; none: all.
    pub namespace: Option<&'a str>,
    /// A label selector; empty: any.
    pub labels: &'a str,
    /// A field selector; empty: any.
    pub fields: &'a str,
}

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// All objects that say which they are, also those that can't be read as a whole.
    pub objects: Vec<Object>,
    /// Why an item can't be understood that does not even say which it is: there are more than these objects.
    pub garbled: Option<String>,
}

/// Lists objects.
///
/// # Errors
/// When the server does not answer with a list; the code is 404 where it does not serve the kind.
pub async fn list(client: &Client, selection: Selection<'_>) -> Result<Listed, RequestError> {
    let Selection { resource, namespace, labels, fields } = selection;
    let mut path = path::collection(resource, namespace).map_err(bad_name)?;
    for (name, selector) in [("labelSelector", labels), ("fieldSelector", fields)] {
        if !selector.is_empty() {
            path = with_parameter(path, name, selector);
        }
    }
    let place = Place { namespaced: resource.namespaced, namespace };
    match all(client, resource, Pages::new(&path, JSON, place, true)).await {
        // It took longer than the server remembers.
        Err(error) if error.code() == 410 => all(client, resource, Pages::new(&path, JSON, place, false)).await,
        listed => listed,
    }
}

async fn all(client: &Client, resource: &Resource, mut pages: Pages<'_>) -> Result<Listed, RequestError> {
    let kind = Arc::new(resource.kind.clone());
    let mut listed = Listed::default();
    while let Some(page) = pages.next(client).await? {
        listed.objects.extend(page.objects.into_iter().map(|object| Object::new(Arc::clone(&kind), object)));
        listed.garbled = listed.garbled.or(page.garbled.map(|garbled| garbled.to_string()));
    }
    Ok(listed)
}

/// Merges a patch into an object, as a field manager.
///
/// # Errors
/// When the server refuses; the code is 404 where the object is not there.
pub async fn merge(
    client: &Client,
    resource: &Resource,
    at: &NamespacedName,
    manager: &str,
    patch: &Value,
) -> Result<(), RequestError> {
    let path = path::object(resource, at).map_err(bad_name)?;
    let path = with_parameter(path, "fieldManager", manager);
    let call = Call { content_type: MERGE_PATCH, ..Call::json(Method::PATCH, &path, patch) };
    call.send(client, TOTAL_DEADLINE).await.map(drop)
}

fn bad_name(error: PathError) -> RequestError {
    RequestError::Transport(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use dask_wasm_operator_core::object::GroupVersionKind;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use tower::service_fn;

    use super::*;

    /// Answers by query.
    fn server(answer: impl Fn(&str) -> (u16, String) + Clone + Send + Sync + 'static) -> Client {
        let service = service_fn(move |request: Request<Body>| {
            let (code, text) = answer(request.uri().query().unwrap_or_default());
            let response = Response::builder().status(code).body(Body::from(text.into_bytes()));
            async move { Ok::<_, Infallible>(response.expect("the answer is well-formed")) }
        });
        Client::new(service, "default")
    }

    async fn listed(client: &Client) -> Result<Listed, RequestError> {
        let kind = GroupVersionKind::new("kubernetes.dask.org", "v1", "DaskCluster");
        let resource = Resource { kind, plural: "daskclusters".into(), namespaced: true };
        list(client, Selection { resource: &resource, namespace: None, labels: "", fields: "" }).await
    }

    fn page(next: &str, items: &[&str]) -> (u16, String) {
        let metadata = json!({"resourceVersion": "7", "continue": next});
        (200, format!(r#"{{"metadata": {metadata}, "items": [{}]}}"#, items.join(",")))
    }

    #[tokio::test]
    async fn an_item_that_is_odd_hides_no_other() {
        let deep = format!(
            r#"{{"metadata": {{"name": "deep", "namespace": "n"}}, "spec": {}{}}}"#,
            "[".repeat(300),
            "]".repeat(300)
        );
        let client = server(move |query| {
            let first = [r#"{"metadata": {"name": "good", "namespace": "n"}}"#, &*deep];
            let second =
                [r#"{"metadata": {"name": 7}}"#, r#"{"metadata": {"name": "odd", "namespace": "n", "labels": 7}}"#];
            if query.contains("continue=next") { page("", &second) } else { page("next", &first) }
        });
        let listed = listed(&client).await.unwrap();
        let read = listed.objects.iter().map(|object| {
            let unreadable =
                object.unreadable.as_ref().map(|unreadable| unreadable.path.chars().take(8).collect::<String>());
            (&*object.metadata.name, unreadable)
        });
        let expected = [("good", None), ("deep", Some("spec[0][".to_owned())), ("odd", Some("metadata".to_owned()))];
        assert_eq!(read.collect::<Vec<_>>(), expected);
        assert_eq!(listed.garbled.as_deref(), Some("an object does not say which it is"));
    }

    #[tokio::test]
    async fn a_list_that_takes_too_long_in_pages_is_asked_for_as_a_whole() {
        let client = server(|query| match query {
            "limit=500" => page("next", &[]),
            "" => page("", &[r#"{"metadata": {"name": "good", "namespace": "n"}}"#]),
            _ => (410, "{}".to_owned()),
        });
        assert_eq!(listed(&client).await.unwrap().objects.len(), 1);
    }

    #[tokio::test]
    async fn a_list_without_an_end_is_given_up() {
        let client = server(|_| page("next", &[]));
        assert!(listed(&client).await.unwrap_err().to_string().contains("has no end"));
    }
}
