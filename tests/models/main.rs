//! Models and training: forward and gradients against transcriptions and differences.

#[path = "../support/mod.rs"]
#[allow(dead_code)]
mod support;

mod gradients;
mod laws;
mod memory;
mod memory_probes;
mod mlp_transformer;
mod rates;
mod sharded;
mod simplified;
mod structured;
mod trace;
mod transformer;
