//! popgrad: exact population gradients and fast CPU training for the theory of how transformers learn.
#![forbid(unsafe_code)]

pub mod batch;
pub mod error;
pub mod model;
pub mod num;
pub mod optim;
pub mod source;
pub mod train;

pub use error::{Error, Result};
