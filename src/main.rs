//! The `popgrad` command.
#![forbid(unsafe_code)]

use popgrad_kernels::Heap;
use std::process::ExitCode;

#[global_allocator]
static HEAP: Heap = Heap;

fn main() -> ExitCode {
    popgrad::cli::main()
}
