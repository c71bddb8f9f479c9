//! popgrad: exact population gradients and fast CPU training for the theory of how transformers learn.
#![forbid(unsafe_code)]

pub mod batch;
pub mod error;
pub mod num;
pub mod rng;
pub mod source;
pub mod task;

pub use error::{Error, Result};
