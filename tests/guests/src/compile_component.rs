//! What the operator is for itself when it compiles a plugin: the hidden subcommand and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    dask_wasm_operator_engine::compile_child(std::env::args_os().skip(1))
}
