//! B packed once for many products.

use crate::elem::Elem;
use crate::error::{KernelError, expect};
use crate::gemm::loops::{PackOp, Product, ProductOp, prepacked_len};
use crate::gemm::plan::Plan;
use crate::gemm::problem::PanelProblem;
use crate::kernels::Kernels;
use crate::scratch::Scratch;
use crate::simd::Isa;
use crate::simd::tiles::MAX_LANES;
use crate::view::{Mat, MatMut, Write};

/// A right operand in the panels that one instruction set reads: made by [`Kernels::pack_b`], used
/// by [`Kernels::gemm_packed`] as often as wanted. Pays where B is transposed or large and A has
/// few rows: the product alone would pack B in each call.
#[derive(Debug)]
pub struct PackedB<E> {
    isa: Isa,
    k: usize,
    n: usize,
    data: Scratch<E>,
    plan: Plan,
}

impl<E> PackedB<E> {
    /// Rows of B.
    pub fn rows(&self) -> usize {
        self.k
    }
    /// Columns of B.
    pub fn cols(&self) -> usize {
        self.n
    }
}

impl<E: Elem> Kernels<E> {
    /// A copy of B (k, n), of any strides, in panels. Allocates k times n rounded up to 16
    /// elements.
    ///
    /// # Errors
    /// [`KernelError::Overflow`] where that is more than memory holds.
    pub fn pack_b(&self, b: Mat<'_, E>) -> Result<PackedB<E>, KernelError> {
        self.pack_b_planned(Plan::new::<E>(self.isa()), b)
    }

    pub(crate) fn pack_b_planned(&self, plan: Plan, b: Mat<'_, E>) -> Result<PackedB<E>, KernelError> {
        let (k, n) = (b.rows(), b.cols());
        let len = prepacked_len(k, n, MAX_LANES).ok_or(KernelError::Overflow)?;
        let mut packed = PackedB { isa: self.isa(), k, n, data: Scratch::try_new(len)?, plan };
        self.repack_b(b, &mut packed)?;
        Ok(packed)
    }

    /// Overwrites the panels with those of another B of the same shape. Allocates nothing.
    ///
    /// # Errors
    /// Another shape; panels of another instruction set.
    pub fn repack_b(&self, b: Mat<'_, E>, packed: &mut PackedB<E>) -> Result<(), KernelError> {
        expect("repack_b", "b rows", packed.k, b.rows())?;
        expect("repack_b", "b columns", packed.n, b.cols())?;
        self.same_panels("repack_b", packed)?;
        let len = packed.k * packed.n.next_multiple_of(MAX_LANES);
        self.pack_into(&packed.plan, b, packed.data.get(len)?);
        Ok(())
    }

    /// B (k, n) in panels into the front of `to`, which has k times n rounded up to 16 elements at
    /// least.
    pub(crate) fn pack_into(&self, plan: &Plan, b: Mat<'_, E>, to: &mut [E]) {
        let (k, n) = (b.rows(), b.cols());
        assert!(prepacked_len(k, n, MAX_LANES).is_some_and(|len| len <= to.len()));
        let (rs, cs) = (b.row_stride(), b.col_stride());
        // SAFETY: the view is checked; the panels have the length just compared, of which any
        // instruction set uses as much or less.
        let op = unsafe { PackOp::new([k, n], b.ptr(), [rs, cs], plan.blocking, to.as_mut_ptr()) };
        E::run_pack(self.isa(), op);
    }

    /// `C = alpha A B` or `C += alpha A B` with B packed before: A (m, k) of any strides, C (m, n)
    /// with contiguous columns. The bits are those of [`Kernels::gemm`]; scratch too. Allocates
    /// nothing.
    ///
    /// # Errors
    /// Shapes that do not fit together; columns of C that are not contiguous; panels of another
    /// instruction set; scratch that is too small.
    pub fn gemm_packed(
        &self,
        write: Write,
        alpha: E,
        a: Mat<'_, E>,
        b: &PackedB<E>,
        c: MatMut<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        let (m, k, n, plan) = (a.rows(), a.cols(), b.n, b.plan);
        expect("gemm_packed", "b rows", k, b.k)?;
        expect("gemm_packed", "c rows", m, c.rows())?;
        expect("gemm_packed", "c columns", n, c.cols())?;
        if n > 1 {
            expect("gemm_packed", "c column stride", 1, c.col_stride())?;
        }
        self.same_panels("gemm_packed", b)?;
        let scratch = scratch.get(self.planned_scratch(&plan, m, k, n))?;
        if m == 0 || n == 0 {
            return Ok(());
        }
        let problem = PanelProblem { plan, write, alpha, a, panels: b.data.as_slice() };
        self.multiply_panels(problem, c, scratch);
        Ok(())
    }

    /// The product with panels that [`Kernels::pack_into`] wrote with the same plan, for a B of as
    /// many rows as A has columns, as many columns as C. Columns of C are contiguous; scratch has
    /// room for a block of A, where it is packed.
    pub(crate) fn multiply_panels(
        &self,
        problem: PanelProblem<'_, E>,
        mut c: MatMut<'_, E>,
        scratch: &mut [E],
    ) {
        let PanelProblem { plan, write, alpha, a, panels } = problem;
        let (m, k, n) = (a.rows(), a.cols(), c.cols());
        let [pack_a, _] = plan.packs::<E>([m, k, n], [a.row_stride(), a.col_stride()], [1, 1]);
        assert!(c.rows() == m && (c.col_stride() == 1 || n == 1));
        assert!(prepacked_len(k, n, MAX_LANES).is_some_and(|len| len <= panels.len()));
        assert!(scratch.len() >= k.min(plan.blocking.kc) * m.min(plan.blocking.mc) || !pack_a);
        let product = Product {
            count: 1,
            next: [0; 3],
            m,
            k,
            n,
            alpha,
            a: a.ptr(),
            rs_a: a.row_stride(),
            cs_a: a.col_stride(),
            b: panels.as_ptr(),
            rs_b: 0,
            cs_b: 1,
            c: c.ptr(),
            rs_c: c.row_stride(),
            write,
            blocking: plan.blocking,
            pack_a,
            pack_b: false,
            prepacked: true,
            scratch: scratch.as_mut_ptr(),
        };
        // SAFETY: the views are checked, C exclusive and injective; shapes and the lengths of
        // panels and scratch are asserted above. Whatever panels hold, they are initialised
        // numbers.
        E::run_product(self.isa(), unsafe { ProductOp::new(&product) });
    }

    fn same_panels(&self, op: &'static str, packed: &PackedB<E>) -> Result<(), KernelError> {
        if packed.isa == self.isa() {
            return Ok(());
        }
        Err(KernelError::Domain { op, what: "packed b", allowed: "panels of the same instruction set" })
    }
}
