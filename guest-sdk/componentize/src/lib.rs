//! Builds a plugin's crate for wasm and turns the module into a component.
//!
//! Used by the workspace's own commands and tests, with nothing installed but Rust and its `wasm32-unknown-unknown` target.

use std::{
    env, fs,
    io::{self, BufReader},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
};

use cargo_metadata::{Artifact, Message};
use wit_component::ComponentEncoder;

/// The target of plugins: it has no WASI, so the component imports the operator's log at most.
const TARGET: &str = "wasm32-unknown-unknown";

/// The cargo profile that plugins are built with, declared in the workspace.
const PROFILE: &str = "guest";

/// Builds a package of the current workspace and answers the path of its component: `components/PACKAGE.wasm` in the target
/// directory.
///
/// # Errors
/// When cargo fails (it has said why on standard error), or the module is not a plugin.
pub fn build(package: &str) -> Result<PathBuf, BuildError> {
    let module = build_module(package)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::File { path, source }
    };
    let component = componentize(&fs::read(&module).map_err(failed(&module))?)?;
    // <target>/wasm32-unknown-unknown/<profile>/<name>.wasm
    let target_directory = module.ancestors().nth(3).unwrap_or(Path::new("."));
    let directory = target_directory.join("components");
    let path = directory.join(format!("{package}.wasm"));
    let unfinished = directory.join(format!("{package}.{}.part", process::id()));
    fs::create_dir_all(&directory).map_err(failed(&directory))?;
    fs::write(&unfinished, component).map_err(failed(&unfinished))?;
    fs::rename(&unfinished, &path).map_err(failed(&path))?;
    Ok(path)
}

/// Turns a core module, into which the toolchain has put the description of its interface, into a component.
///
/// # Errors
/// When the module does not fit its description.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, BuildError> {
    ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| BuildError::Encode { message: format!("{error:#}") })
}

fn build_module(package: &str) -> Result<PathBuf, BuildError> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = || {
        let mut cargo = Command::new(&cargo)
            .args(["build", "--quiet", "--package", package, "--lib", "--target", TARGET, "--profile", PROFILE])
            .arg("--message-format=json-render-diagnostics")
            // Flags for the host's code, coverage for example, are not for guests.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .stdout(Stdio::piped())
            .spawn()?;
        let output = cargo.stdout.take().map(BufReader::new);
        let messages = output.into_iter().flat_map(Message::parse_stream).collect::<Result<Vec<_>, _>>()?;
        Ok((cargo.wait()?, messages))
    };
    let (status, messages) = run().map_err(|source| BuildError::Cargo { source })?;
    if !status.success() {
        return Err(BuildError::Package { package: package.into() });
    }
    let library = package.replace('-', "_");
    let of_package = |message| match message {
        Message::CompilerArtifact(Artifact { target, filenames, .. }) if target.name == library => Some(filenames),
        _ => None,
    };
    let mut files = messages.into_iter().filter_map(of_package).flatten();
    let module = files.find(|file| file.extension() == Some("wasm"));
    module.map(Into::into).ok_or_else(|| BuildError::NoModule { package: package.into() })
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Cargo can't be run.
    #[error("cargo can't be run")]
    Cargo {
        /// Why.
        source: io::Error,
    },
    /// The package does not compile.
    #[error(
        "{package} can't be built for {TARGET}; cargo says why above (is the target there? `rustup target add {TARGET}`)"
    )]
    Package {
        /// Its name.
        package: String,
    },
    /// The package has no module.
    #[error("{package} builds no wasm module; its Cargo.toml must say: [lib] crate-type = [\"cdylib\", \"rlib\"]")]
    NoModule {
        /// Its name.
        package: String,
    },
    /// The module is no plugin.
    #[error("the module can't be turned into a component: {message}")]
    Encode {
        /// Why.
        message: String,
    },
    /// A file can't be read or written.
    #[error("{} can't be read or written", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
