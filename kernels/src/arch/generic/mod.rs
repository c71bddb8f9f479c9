//! Algorithms, each written once over [`super::Simd`].

pub(crate) mod consts;
pub(crate) mod exp;
pub(crate) mod log;
pub(crate) mod softmax;
pub(crate) mod sum;
