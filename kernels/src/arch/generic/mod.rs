//! Algorithms, each written once over [`super::Simd`].
