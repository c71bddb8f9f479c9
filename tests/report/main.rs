//! Files that are written and read: never half, never a panic.

#[path = "../support/mod.rs"]
#[allow(dead_code)]
mod support;

mod arrays;
mod files;
mod plot;
