//! Exact engines against enumeration and closed forms.

#[path = "../support/mod.rs"]
#[allow(dead_code)]
mod support;

mod marginals;
mod ranges;
mod source;
mod tree;
mod trigger_chain;
mod trigger_population;
