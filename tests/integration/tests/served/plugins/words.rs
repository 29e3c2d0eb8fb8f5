//! What plugins and files say, as it is shown to people.

use std::fs;

use anyhow::ensure;
use dask_wasm_operator_core::text::line;
use dask_wasm_operator_test_support::sha256;
use odd_guest::FORGED;
use serde_json::{Value, json};

use super::mounting::plugin;
use crate::{
    objects::{CONFIG_MAP, PLUGIN, text},
    stage::on_stage_with,
};

/// Whether a text can't be taken for another one: by the characters that are shown, not by what the operator takes for harmful.
fn is_plain(text: &str) -> bool {
    text.chars().all(|character| matches!(character, ' '..='~' | '…' | '“' | '”'))
}

/// Every text of a value, but for what is no one's words.
fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

async fn shown_in(format: &str, is_ready: fn(&str) -> bool) -> anyhow::Result<()> {
    on_stage_with(&json!({}), &[&format!("--log-format={format}")], async |stage| {
        stage.mount_odd("told", "Told").await?;
        for (subject, behaviour) in
            [("says", "Forge"), ("panics", "ForgePanic"), ("fails", "ForgeFailure"), ("keys", "ForgeKey")]
        {
            stage.subject(subject, &json!({"do": behaviour})).await?;
        }
        let shown = line(FORGED, 1_024);
        let note = stage.until_event(CONFIG_MAP, "says", &shown).await?;
        assert_eq!(note, shown);
        let note = stage.until_event(CONFIG_MAP, "fails", "PermanentFailure").await?;
        ensure!(is_plain(&note) && note.len() <= 1_024 && note.contains(" bytes more]"), "{note}");
        let note = stage.until_event(CONFIG_MAP, "keys", "AnswerRefused").await?;
        ensure!(is_plain(&note) && note.contains("the key"), "{note}");

        for words in [&["says", "the plugin says"][..], &["panics", "Trap"], &["fails", "PermanentFailure"]] {
            stage.operator.until_logged(words).await?;
        }
        let log = stage.operator.log();
        // Lines as a program reads them that knows carriage returns and other ends of lines, too.
        let lines: Vec<_> = log.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).collect();
        let strange: Vec<_> = lines.iter().filter(|line| !is_plain(line)).collect();
        ensure!(strange.is_empty(), "{strange:?}");
        assert_eq!(lines.iter().filter(|line| is_ready(line)).count(), 1, "{log}");
        ensure!(lines.iter().all(|line| line.len() < 16 << 10), "a long line: {log}");

        let parked = |told: &Value| told["status"]["counts"]["parked"].as_u64() >= Some(2);
        let told = stage.until(PLUGIN, "told", "given up on two", parked).await?;
        let mut words = Vec::new();
        texts(&told["status"], &mut words);
        for text in words {
            ensure!(is_plain(text) && text.len() <= 4_096, "{text}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_a_plugin_says_is_one_visible_line_in_plain_logs() -> anyhow::Result<()> {
    shown_in("plain", |line| line == "ready").await
}

#[tokio::test]
async fn what_a_plugin_says_is_one_visible_line_in_full_logs() -> anyhow::Result<()> {
    shown_in("full", |line| line.ends_with(": ready")).await
}

#[tokio::test]
async fn what_a_plugin_says_is_one_visible_line_in_json_logs() -> anyhow::Result<()> {
    let is_ready = |line: &str| serde_json::from_str::<Value>(line).is_ok_and(|line| line["message"] == "ready");
    shown_in("json", is_ready).await
}

#[tokio::test]
async fn a_config_map_with_very_many_keys_is_described_in_a_line() -> anyhow::Result<()> {
    on_stage_with(&json!({}), &[], async |stage| {
        let keys: serde_json::Map<_, _> = (0..2_000).map(|n| (format!("{n:0>250}"), json!("x"))).collect();
        let code = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "many"}, "data": keys});
        stage.create(&code).await?;
        stage.create(&plugin("many", &json!({}))).await?;
        let message = stage.until_state("many", "Failed", "KeyNotFound").await?;
        ensure!(message.len() <= 1_024 && message.contains("ConfigMap many has no key many.wasm"), "{message}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nothing_of_a_file_that_is_no_component_is_shown() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let (secret, link) = (directory.path().join("token"), directory.path().join("link.wasm"));
    fs::write(&secret, "eyJhbGciOiJSUzI1NiIs")?;
    std::os::unix::fs::symlink(&secret, &link)?;
    on_stage_with(&json!({}), &[], async |stage| {
        for (name, file, expected) in
            [("file", &secret, sha256(b"other")), ("link", &link, sha256(b"other")), ("known", &secret, String::new())]
        {
            let mut nosy = plugin(name, &json!({}));
            nosy["spec"]["source"] = json!({"path": file});
            if !expected.is_empty() {
                nosy["spec"]["source"]["sha256"] = json!(expected);
            }
            stage.create(&nosy).await?;
            stage.until_state(name, "Failed", "NotWasm").await?;
            let status = stage.get(PLUGIN, name).await?["status"].to_string();
            ensure!(!status.contains("eyJ") && !status.contains(&sha256(&fs::read(&secret)?)), "{status}");
        }
        let log = stage.operator.log();
        ensure!(log.contains("NotWasm") && !log.contains("eyJ"), "{log}");
        for (name, file) in [("environment", "/proc/self/environ"), ("nothing", "/dev/null")] {
            let mut nosy = plugin(name, &json!({}));
            nosy["spec"]["source"] = json!({"path": file});
            stage.create(&nosy).await?;
            let failed = stage.until(PLUGIN, name, "Failed", |nosy| nosy["status"]["state"] == "Failed").await?;
            let message = text(&failed, "/status/message");
            ensure!(message.contains("it is empty") || message.contains("no regular file"), "{message}");
        }
        Ok(())
    })
    .await
}
