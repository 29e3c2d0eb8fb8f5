//! The program: parses, runs, and turns errors into exit codes.

use std::{env, process::ExitCode};

use dask_wasm_operator_engine::{COMPILE_SUBCOMMAND, compile_child};

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1).peekable();
    // The engine starts this program anew to compile a plugin within limits; that child must do nothing else.
    if arguments.next_if(|argument| argument == COMPILE_SUBCOMMAND).is_some() {
        return compile_child(arguments);
    }
    let invocation = dask_wasm_operator::parse(arguments).unwrap_or_else(|error| error.exit());
    match dask_wasm_operator::execute(invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
