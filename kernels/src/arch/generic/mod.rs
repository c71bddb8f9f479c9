//! Algorithms, each written once over [`super::Simd`].

pub(crate) mod attention;
pub(crate) mod consts;
pub(crate) mod exact;
pub(crate) mod exp;
pub(crate) mod gemm;
pub(crate) mod log;
pub(crate) mod norm;
pub(crate) mod one_hot;
pub(crate) mod optim;
pub(crate) mod prefix_tree;
pub(crate) mod rows;
pub(crate) mod sampling;
pub(crate) mod softmax;
pub(crate) mod sum;
