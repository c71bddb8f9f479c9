//! What a product is asked to do.

use crate::elem::real::Real;
use crate::gemm::plan::Plan;
use crate::view::{Mat, Write};

/// `C = alpha A B` or `C += alpha A B` and how it is computed: all but C and scratch. A (m, k), B
/// (k, n).
#[derive(Clone, Copy)]
pub(crate) struct GemmProblem<'a, E> {
    pub(crate) plan: Plan,
    pub(crate) write: Write,
    pub(crate) alpha: E,
    pub(crate) a: Mat<'a, E>,
    pub(crate) b: Mat<'a, E>,
}

impl<'a, E: Real> GemmProblem<'a, E> {
    /// m, k, n.
    #[inline]
    pub(crate) fn sizes(&self) -> [usize; 3] {
        [self.a.rows(), self.a.cols(), self.b.cols()]
    }
    /// Rows i0..i1 of A, and so of C.
    pub(crate) fn rows(self, i0: usize, i1: usize) -> Self {
        GemmProblem { a: self.a.sub(i0, i1 - i0, 0, self.a.cols()), ..self }
    }
    /// Columns j0..j1 of B, and so of C.
    pub(crate) fn cols(self, j0: usize, j1: usize) -> Self {
        GemmProblem { b: self.b.sub(0, self.b.rows(), j0, j1 - j0), ..self }
    }
    /// Terms p0..p1 of the sums.
    #[cfg(feature = "parallel")]
    pub(crate) fn ks(self, p0: usize, p1: usize) -> Self {
        let (m, n) = (self.a.rows(), self.b.cols());
        GemmProblem { a: self.a.sub(0, m, p0, p1 - p0), b: self.b.sub(p0, p1 - p0, 0, n), ..self }
    }
    /// What gets packed, A and B.
    #[inline]
    pub(crate) fn packs(&self) -> [bool; 2] {
        let strides = |x: &Mat<'_, E>| [x.row_stride(), x.col_stride()];
        self.plan.packs::<E>(self.sizes(), strides(&self.a), strides(&self.b))
    }
    /// The problem of the transpose of C.
    #[inline]
    pub(crate) fn t(self) -> Self {
        GemmProblem { a: self.b.t(), b: self.a.t(), ..self }
    }
}

/// The same with B in panels that `Kernels::pack_into` wrote with the same plan.
#[derive(Clone, Copy)]
pub(crate) struct PanelProblem<'a, E> {
    pub(crate) plan: Plan,
    pub(crate) write: Write,
    pub(crate) alpha: E,
    pub(crate) a: Mat<'a, E>,
    pub(crate) panels: &'a [E],
}
