//! The `popgrad` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    popgrad::cli::main()
}
