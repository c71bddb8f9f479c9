//! Tasks and samplers against their distributions.

#[path = "../support/mod.rs"]
#[allow(dead_code)]
mod support;

mod causal_dag;
mod golden_samples;
mod priors;
mod sampler;
mod sampler_lanes;
mod sampler_laws;
mod stationary;
mod trigger_samples;
