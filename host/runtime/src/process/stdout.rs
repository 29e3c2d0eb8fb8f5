//! What commands print for people and for other programs.

use std::io::{self, Write as _};

use anyhow::Context as _;

use super::exit::Failure;

/// Writes to stdout. A reader that has seen enough (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output").map_err(Failure::from)
        }
        _ => Ok(()),
    }
}
