//! General matrix product.

pub(crate) mod blocking;

use crate::elem::Elem;
use crate::{KernelError, Kernels, Mat, MatMut, Scratch, Write, expect};

impl<E: Elem> Kernels<E> {
    /// Scratch elements that [`Kernels::gemm`] needs for an (m, k) by (k, n) product, whatever the strides.
    pub fn gemm_scratch(&self, _m: usize, _k: usize, _n: usize) -> usize {
        0
    }

    /// `C = alpha A B` ([`Write::Set`]) or `C += alpha A B` ([`Write::Add`]); A (m, k), B (k, n), C (m, n), any strides.
    ///
    /// # Errors
    /// Shapes that do not fit together; scratch smaller than [`Kernels::gemm_scratch`].
    pub fn gemm(
        &self,
        write: Write,
        alpha: E,
        a: Mat<'_, E>,
        b: Mat<'_, E>,
        mut c: MatMut<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        expect("gemm", "b rows", a.cols(), b.rows())?;
        expect("gemm", "c rows", a.rows(), c.rows())?;
        expect("gemm", "c columns", b.cols(), c.cols())?;
        scratch.get(self.gemm_scratch(a.rows(), a.cols(), b.cols()))?;
        crate::reference::gemm(write, alpha, a, b, &mut c);
        Ok(())
    }
}
