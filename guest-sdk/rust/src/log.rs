//! The plugin's log: lines in the operator's log, beside the names of plugin, handler and subject. In tests, standard error.

use std::fmt::Display;

use crate::bindings::dask::operator::host::LogLevel;

/// For the plugin's developers.
pub fn debug(message: impl Display) {
    write(LogLevel::Debug, &message);
}

/// For those who run it.
pub fn info(message: impl Display) {
    write(LogLevel::Info, &message);
}

/// Something is odd.
pub fn warn(message: impl Display) {
    write(LogLevel::Warn, &message);
}

/// Something failed.
pub fn error(message: impl Display) {
    write(LogLevel::Error, &message);
}

#[cfg(target_arch = "wasm32")]
fn write(level: LogLevel, message: &dyn Display) {
    crate::bindings::dask::operator::host::log(level, &message.to_string());
}

#[cfg(not(target_arch = "wasm32"))]
fn write(level: LogLevel, message: &dyn Display) {
    eprintln!("{level:?}: {message}");
}
