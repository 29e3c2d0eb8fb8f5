//! Plugins from a directory of the operator's machine.

use std::fs;

use odd_guest::Description;
use serde_json::json;

use super::mounting::{odd, odd_that_says, plugin};
use crate::{
    objects::{CONFIG_MAP, PLUGIN},
    stage::on_stage_with,
};

#[tokio::test]
async fn a_directory_of_plugins_is_served_and_followed() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |file: &str| directory.path().join(file);
    fs::write(path("mirror.wasm"), odd()?)?;
    fs::write(path("mirror.yaml"), plugin("mirror", &json!({"config": {"do": "Mirror"}})).to_string())?;
    fs::write(path("broken.wasm"), "<html>")?;
    let argument = format!("--plugin-dir={}", directory.path().display());
    on_stage_with(&json!({}), &[&argument], async |stage| {
        stage.subject("first", &json!({"key": "value"})).await?;
        let child = stage.until_there(CONFIG_MAP, "first-key").await?;
        assert_eq!(child["metadata"]["labels"]["plugins.dask.org/plugin"], "mirror");
        assert_eq!(stage.list(PLUGIN, "").await?.len(), 0);
        let log = stage.operator.log();
        anyhow::ensure!(log.lines().any(|line| line.contains("broken") && line.contains("NotWasm")), "{log}");

        // A file that takes its place, and one that goes.
        let newer = odd_that_says(Description::Newer)?;
        fs::write(path("next.part"), newer)?;
        fs::rename(path("next.part"), path("next.wasm"))?;
        fs::write(path("next.yaml"), plugin("next", &json!({"config": {"do": "Mirror"}})).to_string())?;
        fs::remove_file(path("mirror.wasm"))?;
        stage
            .until(CONFIG_MAP, "first-key", "made by the other plugin", |child| {
                child["metadata"]["labels"]["plugins.dask.org/plugin"] == "next"
            })
            .await?;
        Ok(())
    })
    .await
}
