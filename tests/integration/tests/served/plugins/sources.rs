//! Where the code of plugins comes from, and where plugins are called.

use std::{fs, io::Write};

use anyhow::ensure;
use dask_wasm_operator_test_support::{sha256, with_namespace};
use flate2::{Compression, write::GzEncoder};
use k8s_openapi::ByteString;
use odd_guest::Description;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Value, json};

use super::mounting::{code, odd, odd_that_says, plugin, wasi};
use crate::{
    objects::{CONFIG_MAP, Objects, PLUGIN},
    stage::on_stage,
};

fn keys(name: &str, data: &[(&str, &[u8])]) -> Value {
    let data: serde_json::Map<_, _> =
        data.iter().map(|(key, bytes)| ((*key).to_owned(), json!(ByteString(bytes.to_vec())))).collect();
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "binaryData": data})
}

#[tokio::test]
async fn code_may_be_packed_and_in_pieces() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(odd()?)?;
        let gzip = gzip.finish()?;
        let zstd = compress_to_vec(odd()?, CompressionLevel::Fastest);
        let (first, rest) = zstd.split_at(zstd.len() / 3);
        let (second, third) = rest.split_at(rest.len() / 2);
        stage.create(&keys("gzip", &[("odd.wasm.gz", gzip.as_slice())])).await?;
        stage.create(&keys("zstd", &[("1", first), ("2", second)])).await?;
        stage.create(&keys("zstd-more", &[("3", third)])).await?;
        let sources = [
            ("gzip", json!({"configMap": {"name": "gzip"}})),
            (
                "zstd",
                json!({
                    "configMap": {
                        "name": "zstd", "keys": ["1", "2"], "continued": [{"name": "zstd-more", "keys": ["3"]}],
                    },
                    "sha256": sha256(odd()?),
                }),
            ),
        ];
        for (name, source) in sources {
            let mut packed = plugin(name, &json!({"config": {"do": "Mirror"}}));
            packed["spec"]["source"] = source;
            stage.create(&packed).await?;
            stage.until_served_by(name, odd()?).await?;
            stage.delete(PLUGIN, name).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_file_that_a_daskplugin_names_is_followed() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |file: &str| directory.path().join(file);
    fs::write(path("odd.wasm"), odd()?)?;
    on_stage(async |stage| {
        let mut mirror = plugin("mirror", &json!({"config": {"do": "Mirror"}}));
        mirror["spec"]["source"] = json!({"path": path("odd.wasm")});
        stage.create(&mirror).await?;
        stage.until_served_by("mirror", odd()?).await?;
        let newer = odd_that_says(Description::Newer)?;
        fs::write(path("next"), &newer)?;
        fs::rename(path("next"), path("odd.wasm"))?;
        stage.until_served_by("mirror", &newer).await?;

        // What is no file, or never ends, is refused, and what serves goes on.
        for odd_path in ["/dev/zero".into(), directory.path().to_owned()] {
            stage.merge(PLUGIN, "mirror", &json!({"spec": {"source": {"path": odd_path}}})).await?;
            let message = stage.until_state("mirror", "Failed", "FileNotReadable").await?;
            ensure!(message.contains("it is no regular file"), "{message}");
            stage.merge(PLUGIN, "mirror", &json!({"spec": {"source": {"path": path("odd.wasm")}}})).await?;
            stage.until_served_by("mirror", &newer).await?;
        }
        stage.the_mirror_works("subject").await
    })
    .await
}

#[tokio::test]
async fn a_daskplugin_outside_of_the_operators_namespace_has_no_effect() -> anyhow::Result<()> {
    on_stage(async |stage| {
        with_namespace(&stage.client, async |elsewhere| {
            let elsewhere = Objects { client: stage.client.clone(), namespace: elsewhere.to_owned() };
            elsewhere.create(&code("foreign", odd()?)).await?;
            elsewhere.create(&plugin("foreign", &json!({"config": {"do": "Mirror"}}))).await?;
            stage.mount_odd("told", "Told").await?;
            stage.subject("subject", &json!({"key": "value"})).await?;
            let child = stage.until_there(CONFIG_MAP, "subject-key").await?;
            assert_eq!(child["metadata"]["labels"]["plugins.dask.org/plugin"], "told");
            assert_eq!(elsewhere.get(PLUGIN, "foreign").await?["status"], Value::Null);
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_plugin_is_called_in_the_namespaces_that_are_named() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let spec = json!({"config": {"do": "Mirror"}, "namespaces": {"names": ["elsewhere"]}});
        stage.mount("confined", odd()?, &spec).await?;
        stage.until_ready("confined").await?;
        stage.mount_odd("told", "Told").await?;
        stage.subject("subject", &json!({"key": "value"})).await?;
        let child = stage.until_there(CONFIG_MAP, "subject-key").await?;
        assert_eq!(child["metadata"]["labels"]["plugins.dask.org/plugin"], "told");
        assert_eq!(stage.get(PLUGIN, "confined").await?["status"]["counts"]["calls"], 0);

        let names = json!({"spec": {"namespaces": {"names": ["elsewhere", stage.namespace]}}});
        stage.merge(PLUGIN, "confined", &names).await?;
        stage.until(PLUGIN, "confined", "called", |plugin| plugin["status"]["counts"]["calls"] != 0).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_strict_plugin_imports_nothing_but_the_log() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.mount("wasi", wasi()?, &json!({"profile": "strict"})).await?;
        let message = stage.until_state("wasi", "Failed", "NotStrict").await?;
        ensure!(message.contains("wasi:"), "{message}");
        stage.mount("strict", odd()?, &json!({"profile": "strict", "config": {"do": "Mirror"}})).await?;
        stage.until_ready("strict").await?;
        stage.the_mirror_works("subject").await?;
        stage.merge(PLUGIN, "wasi", &json!({"spec": {"profile": "standard"}})).await?;
        stage.until_ready("wasi").await?;
        Ok(())
    })
    .await
}
