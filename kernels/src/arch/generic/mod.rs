//! Algorithms, each written once over [`super::Simd`].

pub(crate) mod gemm;
