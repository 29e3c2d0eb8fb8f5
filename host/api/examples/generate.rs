//! Writes the chart's generated files into the directory that is given: what `cargo xtask gen` does, without xtask.

use std::{env, fs, io, path::Path};

fn main() -> io::Result<()> {
    let chart = env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: generate CHART_DIRECTORY"))?;
    for (path, content) in dask_wasm_operator_api::chart_files() {
        let path = Path::new(&chart).join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, content)?;
    }
    Ok(())
}
