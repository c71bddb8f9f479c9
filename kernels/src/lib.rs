//! SIMD kernels of popgrad: numbers only.
//!
//! Everything is a method of [`Kernels`], which remembers the instruction set it runs on. Operands are checked views
//! ([`Mat`], [`MatMut`], [`Mats`], [`MatsMut`]); shapes that do not fit together are a [`KernelError`] and write nothing.
//! Each kernel has a naive twin in [`mod@reference`] and states its error bound there where it is tested.
//!
//! ```
//! use popgrad_kernels::{Kernels, Mat, MatMut, Scratch, Write};
//! let kernels = Kernels::<f64>::from_env()?;
//! let (a, b, mut c) = ([1.0, 2.0, 3.0, 4.0], [1.0, 1.0], [0.0; 2]);
//! let mut scratch = Scratch::new(kernels.gemm_scratch(2, 2, 1));
//! let (a, b) = (Mat::new(&a, 2, 2)?, Mat::new(&b, 2, 1)?);
//! kernels.gemm(Write::Set, 1.0, a, b, MatMut::new(&mut c, 2, 1)?, &mut scratch)?;
//! assert_eq!(c, [3.0, 7.0]);
//! # Ok::<(), popgrad_kernels::KernelError>(())
//! ```

mod attention;
#[doc(hidden)]
pub mod checks;
mod elem;
mod error;
mod gemm;
mod kernels;
mod one_hot;
#[cfg(feature = "parallel")]
mod parallel;
mod peak;
pub mod prefix_tree;
pub mod reference;
pub mod sampling;
mod scratch;
mod simd;
mod vecmath;
mod view;

pub use attention::{Attention, Bilinear, Keep, Kept, KvGrad, Queries};
pub use elem::{Elem, Real};
pub use error::KernelError;
pub use gemm::{Batch, PackedB};
pub use kernels::Kernels;
pub use one_hot::{OneHot, PatternTerms};
pub use scratch::Scratch;
pub use simd::Isa;
pub use vecmath::{AdamW, IGNORED, Sgd};
pub use view::{Mat, MatMut, Mats, MatsMut, Write};
