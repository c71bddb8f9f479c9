//! popgrad: exact population gradients and fast CPU training for the theory of how transformers learn.
#![forbid(unsafe_code)]

pub mod batch;
pub mod error;
pub mod num;
pub mod report;

pub use error::{Error, Result};
