//! The workspace: where it is, what is in it, and running cargo in it.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use anyhow::{Context as _, anyhow, bail};
use cargo_metadata::{CargoOpt, Metadata, MetadataCommand};

/// Target of the guests.
pub(crate) const GUEST_TARGET: &str = "wasm32-unknown-unknown";

/// Directory of the workspace.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(dask_wasm_operator_test_support::workspace);
    &ROOT
}

/// `cargo ARGUMENTS` in the workspace, the same cargo that runs this program.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    // What cargo tells this program of its package. Build scripts look at it, and crates would be built again by turns.
    let of_this_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_this_package)) {
        command.env_remove(name);
    }
    command
}

/// Says what is run, runs it, and fails if it fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let line = describe(command);
    eprintln!("+ {line}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("`{line}` failed ({status})"),
        Err(error) => Err(anyhow!(error).context(format!("running `{line}`"))),
    }
}

/// The command as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = [program].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Whether there is such a program.
pub(crate) fn is_installed(program: &str) -> anyhow::Result<bool> {
    match Command::new(program).arg("--version").output() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context(format!("running {program}")),
    }
}

/// All packages, with their resolved dependencies.
pub(crate) fn metadata() -> anyhow::Result<Metadata> {
    MetadataCommand::new()
        .current_dir(root())
        .features(CargoOpt::AllFeatures)
        .other_options(["--locked".to_owned()])
        .exec()
        .context("reading the metadata of the workspace")
}

/// Makes sure that guests can be built.
pub(crate) fn ensure_guest_target() -> anyhow::Result<()> {
    let output =
        Command::new("rustc").args(["--print", "target-libdir", "--target", GUEST_TARGET]).current_dir(root()).output();
    let output = output.context("running rustc")?;
    let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && directory.is_dir() {
        return Ok(());
    }
    run(Command::new("rustup").args(["target", "add", GUEST_TARGET]).current_dir(root()))
        .with_context(|| format!("guests are built for {GUEST_TARGET}; install its standard library"))
}

/// Builds the program. With the features of the whole workspace, so that the tests need not build wasmtime again.
pub(crate) fn build_operator() -> anyhow::Result<()> {
    run(&mut cargo(["build", "--locked", "--workspace", "--bin", "dask-wasm-operator"]))
}

/// The program as [`build_operator`] builds it.
pub(crate) fn operator() -> anyhow::Result<PathBuf> {
    let metadata =
        MetadataCommand::new().current_dir(root()).no_deps().exec().context("asking for the target directory")?;
    Ok(metadata.target_directory.join("debug").join("dask-wasm-operator").into())
}
