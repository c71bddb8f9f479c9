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

mod arch;
mod attention;
mod elem;
mod elementwise;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod gemm;
mod one_hot;
#[cfg(feature = "parallel")]
mod par;
mod peak;
pub mod prefix_tree;
pub mod reference;
pub mod sampling;
mod scratch;
mod view;

pub use arch::Isa;
pub use attention::{Attention, Bilinear, Keep, Kept, KvGrad, Queries};
pub use elem::Elem;
pub use elementwise::{AdamW, IGNORED, Sgd};
pub use error::KernelError;
pub use gemm::{Batch, PackedB};
pub use one_hot::{OneHot, PatternTerms};
pub use scratch::Scratch;
pub use view::{Mat, MatMut, Mats, MatsMut};

use std::marker::PhantomData;

/// What a kernel does to its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Overwrites; old contents are never read, so NaN in uninitialised memory cannot leak.
    Set,
    /// Adds to what is there.
    Add,
}

/// The kernels for elements of type `E` on one instruction set. Costs nothing to copy.
#[derive(Debug)]
pub struct Kernels<E> {
    /// Checked: this CPU has it.
    isa: Isa,
    elem: PhantomData<E>,
}

impl<E> Clone for Kernels<E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E> Copy for Kernels<E> {}

impl<E: Elem> Kernels<E> {
    /// On the instruction set that `POPGRAD_ISA` names, else the best of this CPU.
    ///
    /// # Errors
    /// See [`Isa::from_env`].
    pub fn from_env() -> Result<Self, KernelError> {
        Self::new(Isa::from_env()?)
    }

    /// On `isa`.
    ///
    /// # Errors
    /// [`KernelError::IsaUnavailable`] when this CPU lacks it.
    pub fn new(isa: Isa) -> Result<Self, KernelError> {
        Ok(Kernels { isa: isa.check()?, elem: PhantomData })
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

/// `Ok` when a dimension is what the other operands require.
fn expect(op: &'static str, what: &'static str, expected: usize, found: usize) -> Result<(), KernelError> {
    if expected == found { Ok(()) } else { Err(KernelError::Shape { op, what, expected, found }) }
}
