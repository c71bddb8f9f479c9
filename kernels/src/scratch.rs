//! Aligned scratch memory, allocated once by the caller and lent to kernels.

use crate::elem::real::Real;
use crate::error::KernelError;

const ALIGN: usize = 64;

/// A buffer of elements that starts on a cache line. Kernels ask for a length through their
/// `*_scratch` functions; the largest of them serves all.
#[derive(Debug)]
pub struct Scratch<E> {
    data: Vec<E>,
    start: usize,
    len: usize,
}

impl<E: Real> Scratch<E> {
    /// Room for `len` elements.
    pub fn new(len: usize) -> Self {
        let slack = ALIGN / size_of::<E>();
        let data = vec![E::ZERO; len + slack];
        // Alignment is for speed alone: were the offset not to be had, 0 is correct too.
        let start = data.as_ptr().align_offset(ALIGN);
        let start = if start <= slack { start } else { 0 };
        Scratch { data, start, len }
    }

    /// The same, refusing what memory cannot hold.
    ///
    /// # Errors
    /// [`KernelError::Overflow`].
    pub(crate) fn try_new(len: usize) -> Result<Self, KernelError> {
        let slack = ALIGN / size_of::<E>();
        let mut data = Vec::new();
        let all = len.checked_add(slack).ok_or(KernelError::Overflow)?;
        data.try_reserve_exact(all).map_err(|_| KernelError::Overflow)?;
        data.resize(all, E::ZERO);
        let start = data.as_ptr().align_offset(ALIGN);
        let start = if start <= slack { start } else { 0 };
        Ok(Scratch { data, start, len })
    }

    /// All of it, to read.
    #[inline]
    pub fn as_slice(&self) -> &[E] {
        &self.data[self.start..self.start + self.len]
    }

    /// Elements.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// No room at all?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Grows to at least `len` elements; contents are lost. Allocates only if it must.
    pub fn reserve(&mut self, len: usize) {
        if len > self.len {
            *self = Scratch::new(len);
        }
    }

    /// All of it.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [E] {
        &mut self.data[self.start..self.start + self.len]
    }

    /// The first `len` elements.
    ///
    /// # Errors
    /// [`KernelError::ScratchTooSmall`].
    #[inline]
    pub fn get(&mut self, len: usize) -> Result<&mut [E], KernelError> {
        if len > self.len {
            return Err(KernelError::ScratchTooSmall { needed: len, have: self.len });
        }
        Ok(&mut self.data[self.start..self.start + len])
    }
}
