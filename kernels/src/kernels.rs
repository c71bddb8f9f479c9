//! The handle that every kernel is a method of.

use crate::elem::Elem;
use crate::error::KernelError;
use crate::simd::Isa;
use std::marker::PhantomData;

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
