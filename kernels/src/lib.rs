//! SIMD kernels of popgrad: numbers only.
//!
//! Everything is a method of [`Kernels`], which remembers the instruction set it runs on: the one
//! that `POPGRAD_ISA` names (`portable`, `avx2`, `avx512`), else the best of this CPU. Operands are
//! checked views ([`Mat`], [`MatMut`], [`Mats`], [`MatsMut`]); shapes that do not fit together are
//! a [`KernelError`], and nothing has been written then. Kernels allocate nothing: they ask for
//! [`Scratch`]; a `*_scratch` method returns its length.
//!
//! - matrix products: [`Kernels::gemm`], [`Kernels::gemm_batch`], [`Kernels::gemm_packed`];
//!   of one shape, planned once: [`Kernels::plan_gemm`]
//! - causal attention: [`Kernels::attention`], [`Kernels::attention_backward`],
//!   [`Kernels::bilinear_attention`]
//! - attention over one-hot rows: [`Kernels::one_hot_patterns`], [`Kernels::patterns_mul_add`],
//!   [`Kernels::token_patterns`], ..
//! - vectors: [`Kernels::exp`], [`Kernels::ln`], [`Kernels::sum`], [`Kernels::dot`],
//!   [`Kernels::softmax_rows`]
//! - layers and losses: [`Kernels::layer_norm`], [`Kernels::relu`], [`Kernels::gather`],
//!   [`Kernels::cross_entropy`], [`Kernels::log_loss`]
//! - optimiser steps: [`Kernels::sgd`], [`Kernels::adamw`], [`Kernels::accumulate`]
//! - sums over all words of an alphabet: [`Kernels::prefix_tree`], module [`mod@prefix_tree`]
//! - counter-addressed random numbers: [`Kernels::log_gamma`], [`Kernels::invert_forest`], ..,
//!   module [`sampling`]
//! - what the machine could do: [`Kernels::fma_peak`], [`Kernels::load_sweep`]
//!
//! With the feature `parallel`, `gemm_parallel`, `attention_parallel` and
//! `attention_backward_parallel` spread one call over the threads of a rayon pool; their bits
//! depend neither on the threads nor on the number of tasks. Each kernel has a naive twin in
//! [`mod@reference`] and states its error bound where it is tested.
//!
//! # Examples
//!
//! A matrix product:
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
//!
//! Causal attention over one sequence of two positions, whose scores are all 0: each position
//! averages the values up to its own.
//!
//! ```
//! use popgrad_kernels::{Attention, Kernels, Mats, MatsMut, Queries, Save, Scratch};
//! let kernels = Kernels::<f32>::from_env()?;
//! let (q, v, mut out) = ([0.0; 2], [1.0, 3.0], [0.0; 2]);
//! // (problems, positions, width).
//! let (q, v) = (Mats::contiguous(&q, [1, 2, 1])?, Mats::contiguous(&v, [1, 2, 1])?);
//! let x = Attention { q, k: q, v, scale: 1.0, queries: Queries::Last };
//! let mut scratch = Scratch::new(kernels.attention_scratch(2, 2, 1, 1));
//! kernels.attention(&x, MatsMut::contiguous(&mut out, [1, 2, 1])?, Save::Nothing, &mut scratch)?;
//! assert_eq!(out, [1.0, 2.0]);
//! # Ok::<(), popgrad_kernels::KernelError>(())
//! ```
//!
//! A dot product on every instruction set of this CPU, the same bits on each:
//!
//! ```
//! use popgrad_kernels::{Isa, Kernels};
//! for isa in Isa::available() {
//!     let kernels = Kernels::<f32>::new(isa)?;
//!     assert_eq!(kernels.dot(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0])?, 32.0);
//! }
//! # Ok::<(), popgrad_kernels::KernelError>(())
//! ```

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

mod attention;
#[cfg(any(test, feature = "checks"))]
#[doc(hidden)]
pub mod checks;
mod elem;
mod error;
mod gemm;
mod heap;
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

pub use attention::{Attention, AttentionGrad, Bilinear, KvGrad, Queries, Save, Saved};
pub use elem::{Elem, Real};
pub use error::KernelError;
pub use gemm::{Batch, GemmPlan, GemmShape, PackedB};
pub use heap::Heap;
pub use kernels::Kernels;
pub use one_hot::{OneHot, PatternTerms};
#[cfg(feature = "parallel")]
pub use parallel::ParallelScratch;
pub use scratch::Scratch;
pub use simd::Isa;
pub use vecmath::{AdamW, IGNORED, Sgd};
pub use view::{Mat, MatMut, Mats, MatsMut, Write};
