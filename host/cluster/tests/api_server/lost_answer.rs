//! A write that is done although nobody said so. The server is a double, which loses an answer on purpose.

use std::sync::Arc;

use anyhow::Context as _;
use dask_wasm_operator_cluster::{
    applier::{Applier, CONCURRENCY},
    gate::Gate,
    index::{Index, Scope},
};
use dask_wasm_operator_core::{
    action::{Action, Apply, ApplyTarget, Precondition, WriteError},
    object::{GroupVersionKind, NamespacedName, ObjectKey, Resource},
    ports::Writes as _,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

/// The object as it is when it is looked at: made by the lost attempt, and added to by somebody else.
fn added_to() -> Value {
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "owner", "uid": "o", "controller": true});
    let held = json!({"f:ownerReferences": {"k:{\"uid\":\"o\"}": {}}});
    let entry = |manager, operation, fields: Value| json!({"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields});
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "2", "ownerReferences": [owner],
            "managedFields": [
                entry(crate::MANAGER, "Apply", json!({"f:data": {"f:ours": {}}, "f:metadata": held})),
                entry("somebody", "Update", json!({"f:data": {"f:theirs": {}}})),
            ],
        },
        "data": {"ours": "1", "theirs": "2"},
    })
}

fn creation() -> Apply {
    let kind = GroupVersionKind::new("", "v1", "ConfigMap");
    let mut body = added_to();
    body["metadata"] = json!({"name": "a", "namespace": "n", "ownerReferences": body["metadata"]["ownerReferences"]});
    body["data"] = json!({"ours": "1"});
    Apply {
        object: ObjectKey { kind: kind.clone(), at: NamespacedName::new("n", "a") },
        resource: Resource { kind, plural: "configmaps".to_owned(), namespaced: true },
        target: ApplyTarget::Object,
        manager: crate::MANAGER.to_owned(),
        precondition: Precondition::Absent,
        body,
        force: false,
    }
}

#[tokio::test]
async fn what_was_created_without_an_answer_is_not_taken_for_a_strangers() -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let config = kube::Config::new(format!("http://{}", listener.local_addr()?).parse()?);
    let creation = creation();
    let index = Arc::new(Index::new(|_| ()));
    index.add_watch(&creation.object.kind, Scope::default());
    let applier = Applier::new(kube::Client::try_from(config)?, Arc::clone(&index), Gate::open(), CONCURRENCY);
    let server = tokio::spawn(lose_the_first_answer(listener));
    let error = applier.write(Action::Apply(creation.clone())).await.unwrap_err();
    assert!(matches!(error, WriteError::Stale { .. }), "the next look goes on with it: {error:?}");
    let known = index.get(&creation.object.kind, &creation.object.at);
    assert_eq!(known.context("the index does not know it")?.metadata.uid, "u");
    assert_eq!(server.await??, ["PATCH", "PATCH", "GET"]);
    Ok(())
}

/// Takes three requests: loses the answer to the first, says of the second that the object is there, shows the object, and
/// returns the methods.
async fn lose_the_first_answer(listener: TcpListener) -> anyhow::Result<Vec<String>> {
    let (first, _) = listener.accept().await?;
    let mut methods = vec![request(&mut BufReader::new(first)).await?];
    let conflict =
        json!({"kind": "Status", "code": 409, "reason": "Conflict", "message": "the object has been modified"});
    for (status, body) in [("409 Conflict", conflict), ("200 OK", added_to())] {
        let (connection, _) = listener.accept().await?;
        let mut connection = BufReader::new(connection);
        methods.push(request(&mut connection).await?);
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n");
        let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        connection.write_all(answer.as_bytes()).await?;
    }
    Ok(methods)
}

/// Reads a whole request, and returns its method.
async fn request(stream: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let (mut method, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if method.is_empty() {
            method = line.split(' ').next().context("there is no method")?.to_owned();
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    stream.read_exact(&mut vec![0; length]).await?;
    Ok(method)
}
