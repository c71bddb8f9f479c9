//! Many products of one shape in one call: one check, one decision what to pack, one dispatch.

use crate::elem::Elem;
use crate::error::{KernelError, expect};
use crate::gemm::loops::{Product, ProductOp, pack_len};
use crate::gemm::plan::Plan;
use crate::kernels::Kernels;
use crate::scratch::Scratch;
use crate::simd::tiles::MAX_LANES;
use crate::view::{Mats, MatsMut, Write};

/// An operand of [`Kernels::gemm_batch`]: the matrices of a view, or their transposes.
#[derive(Debug, Clone, Copy)]
pub enum Batch<'a, E> {
    /// As they are.
    N(Mats<'a, E>),
    /// Transposed.
    T(Mats<'a, E>),
}

impl<'a, E> From<Mats<'a, E>> for Batch<'a, E> {
    fn from(mats: Mats<'a, E>) -> Self {
        Batch::N(mats)
    }
}

/// Products of one shape and how they are computed: all but C and scratch.
#[derive(Clone, Copy)]
pub(crate) struct BatchProblem<'a, E> {
    pub(crate) plan: Plan,
    pub(crate) write: Write,
    pub(crate) alpha: E,
    pub(crate) a: Batch<'a, E>,
    pub(crate) b: Batch<'a, E>,
}

/// Shape, strides and first entry of an operand.
struct Parts<E> {
    count: usize,
    rows: usize,
    cols: usize,
    rs: usize,
    cs: usize,
    next: usize,
    ptr: *const E,
}

impl<E: Elem> Batch<'_, E> {
    fn parts(&self) -> Parts<E> {
        let (Batch::N(v) | Batch::T(v)) = self;
        let (count, next, ptr) = (v.count(), v.batch_stride(), v.ptr());
        let (rows, cols, rs) = (v.rows(), v.cols(), v.row_stride());
        match self {
            Batch::N(_) => Parts { count, rows, cols, rs, cs: 1, next, ptr },
            Batch::T(_) => Parts { count, rows: cols, cols: rows, rs: 1, cs: rs, next, ptr },
        }
    }
}

impl<E: Elem> Kernels<E> {
    /// `C_q = alpha A_q B_q`, or `C_q += alpha A_q B_q`, for every q of the batch: A (m, k), B (k,
    /// n), C (m, n), columns of C contiguous. An operand that all products share is a view of batch
    /// stride 0.
    ///
    /// Every C_q has the bits that [`Kernels::gemm`] gives it, which says how far they err.
    /// Scratch: [`Kernels::gemm_scratch`] of one product. Allocates nothing.
    ///
    /// # Errors
    /// Shapes or counts that do not fit together; scratch that is too small.
    pub fn gemm_batch<'a>(
        &self,
        write: Write,
        alpha: E,
        a: impl Into<Batch<'a, E>>,
        b: impl Into<Batch<'a, E>>,
        c: MatsMut<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        let (plan, a, b) = (Plan::new::<E>(self.isa()), a.into(), b.into());
        self.gemm_batch_planned(BatchProblem { plan, write, alpha, a, b }, c, scratch)
    }

    /// [`Kernels::gemm_batch`] with blocks of any size (at least 1) and packing as told.
    pub(crate) fn gemm_batch_planned(
        &self,
        problem: BatchProblem<'_, E>,
        mut c: MatsMut<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        let BatchProblem { plan, write, alpha, .. } = problem;
        let (a, b) = (problem.a.parts(), problem.b.parts());
        let (mut count, mut m, k, n) = (a.count, a.rows, a.cols, b.cols);
        expect("gemm_batch", "b count", count, b.count)?;
        expect("gemm_batch", "c count", count, c.count())?;
        expect("gemm_batch", "b rows", k, b.rows)?;
        expect("gemm_batch", "c rows", m, c.rows())?;
        expect("gemm_batch", "c columns", n, c.cols())?;
        let scratch = scratch.get(self.planned_scratch(&plan, m, k, n))?;
        if count == 0 || m == 0 || n == 0 {
            return Ok(());
        }
        let (mut rs_a, mut rs_c) = (a.rs, c.row_stride());
        if b.next == 0 && count > 1 {
            // One tall product where the rows of all A and all C line up. Scratch is that of m
            // rows: nothing of A is packed.
            if m == 1 {
                (m, count, rs_a, rs_c) = (count, 1, a.next, c.batch_stride());
            } else if a.next == m.saturating_mul(rs_a) && c.batch_stride() == m.saturating_mul(rs_c) {
                (m, count) = (m * count, 1);
            }
        }
        let tall = m != a.rows;
        let [pack_a, pack_b] = plan.packs::<E>([m, k, n], [rs_a, a.cs], [b.rs, b.cs]);
        assert!(scratch.len() >= pack_len(a.rows, k, n, plan.blocking, MAX_LANES));
        let product = Product {
            count,
            next: [a.next, b.next, c.batch_stride()],
            m,
            k,
            n,
            alpha,
            a: a.ptr,
            rs_a,
            cs_a: a.cs,
            b: b.ptr,
            rs_b: b.rs,
            cs_b: b.cs,
            c: c.ptr(),
            rs_c,
            write,
            blocking: plan.blocking,
            pack_a: pack_a && !tall,
            pack_b,
            prepacked: false,
            scratch: scratch.as_mut_ptr(),
        };
        // SAFETY: the views are checked, C exclusive and injective, shapes and counts compared
        // above; rows that line up are entries of the same views. Scratch has the length asserted
        // above, to which A adds nothing where there are more rows. `pack_b` holds where the
        // columns are not contiguous.
        E::run_product(self.isa(), unsafe { ProductOp::new(&product) });
        Ok(())
    }
}
