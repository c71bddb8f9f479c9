//! The `popgrad` command.
#![forbid(unsafe_code)]

fn main() {}
