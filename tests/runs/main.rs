//! Whole runs and studies, through the binary.

#[path = "../support/mod.rs"]
#[allow(dead_code)]
mod support;

mod birth;
mod causal;
mod folders;
mod mlp;
mod pairs;
mod samples;
mod studies;
mod warnings;
mod weights;
