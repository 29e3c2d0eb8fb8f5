//! A write that is done although nobody said so. The server is a double, which loses an answer on purpose.

use std::sync::Arc;

use anyhow::Context as _;
use dask_wasm_operator_cluster::{
    applier::{Applier, CONCURRENCY},
    gate::Gate,
    index::Index,
};
use dask_wasm_operator_core::{
    action::{Action, Apply, ApplyTarget, Written},
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
    let entry = |manager, operation, fields: Value| json!({"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields});
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "2", "ownerReferences": [owner],
            "managedFields": [
                entry(crate::MANAGER, "Apply", json!({"f:data": {"f:ours": {}}})),
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
        body,
        force: false,
        creates: true,
    }
}

#[tokio::test]
async fn what_was_created_without_an_answer_is_not_taken_for_a_strangers() -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let config = kube::Config::new(format!("http://{}", listener.local_addr()?).parse()?);
    let index = Arc::new(Index::new(|_| ()));
    let applier = Applier::new(kube::Client::try_from(config)?, index, Gate::open(), CONCURRENCY);
    let server = tokio::spawn(lose_the_first_answer(listener));
    let written = applier.write(Action::Apply(creation())).await?;
    assert!(matches!(written, Written::Applied(object) if object.metadata.uid == "u"));
    assert_eq!(server.await??, ["PATCH", "GET"]);
    Ok(())
}

/// Takes two requests, answers the second, and returns their methods.
async fn lose_the_first_answer(listener: TcpListener) -> anyhow::Result<Vec<String>> {
    let (first, _) = listener.accept().await?;
    let mut methods = vec![request(&mut BufReader::new(first)).await?];
    let (second, _) = listener.accept().await?;
    let mut second = BufReader::new(second);
    methods.push(request(&mut second).await?);
    let body = added_to().to_string();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    second.write_all(answer.as_bytes()).await?;
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
