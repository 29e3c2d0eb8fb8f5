//! Tests that can't be run everywhere.

use std::io::Write;

/// Tells who runs the tests that this one is skipped, or a part of it, and why.
pub fn say_skipped(reason: &str) {
    let test = std::thread::current();
    // Not eprintln: what tests print that way is shown only when they fail.
    let _ = writeln!(std::io::stderr(), "SKIPPED {}: {reason}", test.name().unwrap_or("a test"));
}
