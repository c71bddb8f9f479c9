//! popgrad: exact population gradients and fast CPU training for the theory of how transformers
//! learn.
#![forbid(unsafe_code)]
// A closed pipe makes `println!` panic: the command line has its own two functions.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod batch;

pub mod cli;
pub mod config;
pub mod discover;
pub mod error;
pub mod exact;
pub mod measure;
pub mod model;
pub mod num;
pub mod optim;
pub mod paper;
pub mod probe;
pub mod report;
pub mod rng;
pub mod run;
pub mod source;
pub mod study;
pub mod task;
pub mod theory;
pub mod train;

pub use error::{Error, Result};
