//! SIMD kernels of popgrad.
mod error;
pub use error::KernelError;
