//! How proptest runs the tests of every package. Nothing here is ever part of the operator.

use std::env;

use proptest::test_runner::{Config, FileFailurePersistence};

/// So many cases are tried, unless the variable `PROPTEST_CASES` says how many.
///
/// An input that fails is kept beside the test: that of `names.rs` in `names.regressions`. With that file in the repository
/// everybody tries it first.
pub fn cases(cases: u32) -> Config {
    // It has read the variable.
    let default = Config::default();
    Config {
        cases: if env::var_os("PROPTEST_CASES").is_some() { default.cases } else { cases },
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..default
    }
}
