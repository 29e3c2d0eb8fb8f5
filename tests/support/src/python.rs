//! Python packages in environments of their own, which are kept.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

use crate::control_plane::cache_directory;

/// Installs packages in an environment of this name, unless it is there. Several processes may call this at the same time.
///
/// # Errors
/// When there is no Python 3 with venv, or pip fails.
pub(crate) fn environment(name: &str, packages: &[&str]) -> anyhow::Result<PathBuf> {
    let environment = cache_directory(name)?;
    fs::create_dir_all(&environment).with_context(|| format!("creating {}", environment.display()))?;
    let path = cache_directory(&format!("{name}.lock"))?;
    let lock = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    lock.lock().with_context(|| format!("locking {}", path.display()))?;
    let finished = environment.join("finished");
    if !finished.is_file() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
        run(Command::new(environment.join("bin/python")).args(["-m", "pip", "install", "--quiet"]).args(packages))?;
        File::create(&finished).with_context(|| format!("creating {}", finished.display()))?;
    }
    Ok(environment)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!(
            "tests talk to real Dask, which needs Python 3.9 or later with venv, and there is no python3: install it \
             (on Debian: apt install python3-venv)"
        ),
        _ => error.into(),
    })?;
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
