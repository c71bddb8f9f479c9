//! The two element types.
//!
//! [`Real`] is their arithmetic, which kernel bodies are written over. [`Elem`] adds the bodies
//! that each operation compiles for both: what public entries are generic over.

pub(crate) mod consts;
pub(crate) mod real;

pub use real::Real;

/// `f32` or `f64`: what kernels, models and optimisers are generic over. Sealed.
pub trait Elem:
    Real
    + crate::attention::problem::AttentionBodies
    + crate::gemm::loops::GemmBodies
    + crate::one_hot::problem::OneHotBodies
    + crate::one_hot::rows::problem::RowsBodies
    + crate::peak::problem::PeakBodies
    + crate::prefix_tree::loops::PrefixTreeBodies
    + crate::vecmath::problem::VecmathBodies
    + crate::vecmath::gather::problem::GatherBodies
    + crate::vecmath::loss::problem::LossBodies
    + crate::vecmath::norm::problem::NormBodies
    + crate::vecmath::update::problem::UpdateBodies
{
}

impl Elem for f32 {}
impl Elem for f64 {}
