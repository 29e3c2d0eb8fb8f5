//! Where the sources are.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The workspace's directory.
///
/// Cargo names the running package's directory to tests and to `cargo run`. The directory of the build serves
/// programs started without cargo only: a target directory may be shared by several checkouts.
pub fn workspace() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let workspace = package.ancestors().find(|directory| directory.join("Cargo.lock").is_file());
    workspace.map_or_else(|| package.clone(), Path::to_owned)
}
