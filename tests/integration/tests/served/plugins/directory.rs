//! Plugins from a directory of the operator's machine.

use std::{fs, process::Command};

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
    fs::write(path("broken.wasm.gz"), odd()?)?;
    fs::write(path("no_name.wasm"), odd()?)?;
    anyhow::ensure!(Command::new("mkfifo").arg(path("pipe.wasm")).status()?.success());
    let argument = format!("--plugin-dir={}", directory.path().display());
    on_stage_with(&json!({}), &[&argument], async |stage| {
        stage.subject("first", &json!({"key": "value"})).await?;
        let child = stage.until_there(CONFIG_MAP, "first-key").await?;
        assert_eq!(child["metadata"]["labels"]["plugins.dask.org/plugin"], "mirror");
        assert_eq!(stage.list(PLUGIN, "").await?.len(), 0);
        for words in [
            ["broken", "NotWasm"],
            ["broken.wasm.gz", "NameTaken"],
            ["no_name", "InvalidName"],
            ["pipe", "FileNotReadable"],
        ] {
            stage.operator.until_logged(&words).await?;
        }

        // What can't be read says nothing of what is there.
        let aside = tempfile::tempdir()?;
        let moved = aside.path().join("plugins");
        fs::rename(directory.path(), &moved)?;
        stage.operator.until_logged(&["the plugin directory can't be read"]).await?;
        stage.the_mirror_works("meanwhile").await?;
        fs::rename(&moved, directory.path())?;
        stage.get(CONFIG_MAP, "first-key").await?;

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
