//! General matrix product: the entry, which turns any strides into a product with contiguous
//! columns of C, and chooses what to pack. Tile shapes are in `simd/tiles.rs`, block sizes in
//! `blocking`, the five loops in `loops` and `tile`.

pub(crate) mod batch;
pub(crate) mod blocking;
pub(crate) mod loops;
pub(crate) mod pack;
pub(crate) mod packed;
#[cfg(feature = "parallel")]
pub(crate) mod parallel;
pub(crate) mod plan;
pub(crate) mod planned;
pub(crate) mod problem;
pub(crate) mod tile;

pub use batch::Batch;
pub use packed::PackedB;
pub use planned::{GemmPlan, GemmShape};

use crate::elem::Elem;
use crate::error::{KernelError, expect};
use crate::gemm::loops::{Product, ProductOp, SmallOp, pack_len};
use crate::gemm::plan::{ALIGN, Plan, transposes};
use crate::gemm::problem::GemmProblem;
use crate::gemm::tile::Block;
use crate::kernels::Kernels;
use crate::scratch::Scratch;
use crate::simd::tiles::MAX_LANES;
use crate::view::{Mat, MatMut, Write};

/// Products up to this size go to their block after a few comparisons: no rule of `blocking` cuts
/// or packs them.
const SMALL: usize = 64;

impl<E: Elem> Kernels<E> {
    /// Scratch elements that [`Kernels::gemm`] needs for an (m, k) by (k, n) product, whatever the
    /// strides. Grows with each argument, so that the largest product's scratch serves smaller
    /// ones, up to a few MiB at most.
    #[inline]
    pub fn gemm_scratch(&self, m: usize, k: usize, n: usize) -> usize {
        self.planned_scratch(&Plan::new::<E>(self.isa()), m, k, n)
    }

    /// `C = alpha A B` ([`Write::Set`]) or `C += alpha A B` ([`Write::Add`]); A (m, k), B (k, n), C
    /// (m, n), any strides: transposed operands are views with strides swapped ([`Mat::t`]).
    ///
    /// Each entry errs by at most γ(k + 3) (|alpha| Σ|a||b| + |c|), γ(j) = j u / (1 − j u). It is a
    /// sum in order of k, cut every `kc` terms, `kc` being a constant of instruction set and type:
    /// its bits depend on the entries of its row of A and column of B and on nothing else, neither
    /// m and n, nor strides, nor caches. NaN and infinity propagate as IEEE arithmetic has it;
    /// `Set` never reads C. k = 0 is an empty sum. Allocates nothing.
    ///
    /// # Errors
    /// Shapes that do not fit together; scratch smaller than [`Kernels::gemm_scratch`].
    #[inline]
    pub fn gemm(
        &self,
        write: Write,
        alpha: E,
        a: Mat<'_, E>,
        b: Mat<'_, E>,
        c: MatMut<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        let [m, k, n] = [a.rows(), a.cols(), b.cols()];
        let fit = (k ^ b.rows()) | (m ^ c.rows()) | (n ^ c.cols()) == 0;
        let in_rows = (b.col_stride() ^ 1) | (c.col_stride() ^ 1) == 0;
        let small = m.wrapping_sub(1) < SMALL && k.wrapping_sub(1) < SMALL && n.wrapping_sub(2) < SMALL;
        if fit && in_rows && small && plan::small_scratch(m, k, n) <= scratch.len() {
            self.one_block(write, alpha, a, b, c);
            return Ok(());
        }
        self.gemm_planned(GemmProblem { plan: Plan::new::<E>(self.isa()), write, alpha, a, b }, c, scratch)
    }

    /// A product that is one block with nothing packed, its columns of B and C contiguous (one
    /// column of B is), of shapes that fit.
    #[inline]
    fn one_block(&self, write: Write, alpha: E, a: Mat<'_, E>, b: Mat<'_, E>, mut c: MatMut<'_, E>) {
        let block = Block {
            m: a.rows(),
            k: a.cols(),
            n: b.cols(),
            alpha,
            a: a.ptr(),
            rs_a: a.row_stride(),
            cs_a: a.col_stride(),
            packed_a: false,
            b: b.ptr(),
            rs_b: b.row_stride(),
            packed_b: false,
            c: c.ptr(),
            rs_c: c.row_stride(),
            write,
        };
        // SAFETY: the views are checked, C exclusive and injective, their shapes compared by the
        // caller.
        E::run_small_product(self.isa(), unsafe { SmallOp::new(&block) });
    }

    /// Scratch elements for [`Kernels::gemm_planned`].
    #[inline]
    pub(crate) fn planned_scratch(&self, plan: &Plan, m: usize, k: usize, n: usize) -> usize {
        plan.scratch(m, k, n, MAX_LANES)
    }

    /// [`Kernels::gemm`] with blocks of any size (at least 1) and packing as told.
    #[inline]
    pub(crate) fn gemm_planned(
        &self,
        problem: GemmProblem<'_, E>,
        c: MatMut<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        let (GemmProblem { plan, a, b, .. }, [m, k, n]) = (problem, problem.sizes());
        expect("gemm", "b rows", k, b.rows())?;
        expect("gemm", "c rows", m, c.rows())?;
        expect("gemm", "c columns", n, c.cols())?;
        let scratch = scratch.get(self.planned_scratch(&plan, m, k, n))?;
        if m == 0 || n == 0 {
            return Ok(());
        }
        let (rs_c, cs_c) = (c.row_stride(), c.col_stride());
        let transpose = transposes([m, n], a.row_stride(), [rs_c, cs_c]);
        // By reference and in two calls: small products feel every copy of a problem.
        if transpose {
            self.product_into(&problem.t(), c.t(), scratch);
        } else {
            self.product_into(&problem, c, scratch);
        }
        Ok(())
    }

    #[inline]
    fn product_into(&self, problem: &GemmProblem<'_, E>, c: MatMut<'_, E>, scratch: &mut [E]) {
        if c.col_stride() == 1 || c.cols() == 1 {
            self.rows_product(problem, c, scratch);
        } else {
            self.staged(problem, c, scratch);
        }
    }

    /// C with contiguous columns, or one column.
    #[inline]
    fn rows_product(&self, problem: &GemmProblem<'_, E>, mut c: MatMut<'_, E>, scratch: &mut [E]) {
        let (&GemmProblem { plan, write, alpha, a, b }, [m, k, n]) = (problem, problem.sizes());
        let [pack_a, pack_b] = problem.packs();
        if plan.small([m, k, n]) && !pack_a && !pack_b {
            self.one_block(write, alpha, a, b, c);
            return;
        }
        assert!(scratch.len() >= pack_len(m, k, n, plan.blocking, MAX_LANES));
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
            b: b.ptr(),
            rs_b: b.row_stride(),
            cs_b: b.col_stride(),
            c: c.ptr(),
            rs_c: c.row_stride(),
            write,
            blocking: plan.blocking,
            pack_a,
            pack_b,
            prepacked: false,
            scratch: scratch.as_mut_ptr(),
        };
        // SAFETY: the views are checked, C exclusive and injective, their shapes compared by the
        // caller; scratch has the length asserted above; `pack_b` holds where the columns are not
        // contiguous.
        E::run_product(self.isa(), unsafe { ProductOp::new(&product) });
    }

    /// C of general strides, block by block through contiguous memory; the same bits as in place.
    fn staged(&self, problem: &GemmProblem<'_, E>, mut c: MatMut<'_, E>, scratch: &mut [E]) {
        let (&GemmProblem { plan, write, .. }, [m, _, n]) = (problem, problem.sizes());
        let (rows, cols) = (m.min(plan.staging.0), n.min(plan.staging.1));
        let (stage, scratch) = scratch.split_at_mut((rows * cols).next_multiple_of(ALIGN));
        for i0 in (0..m).step_by(rows) {
            for j0 in (0..n).step_by(cols) {
                let (rows, cols) = (rows.min(m - i0), cols.min(n - j0));
                if write == Write::Add {
                    for i in 0..rows {
                        for j in 0..cols {
                            stage[i * cols + j] = c.at(i0 + i, j0 + j);
                        }
                    }
                }
                // In range of `stage`, whose size the caller's scratch covers.
                let Ok(block) = MatMut::new(stage, rows, cols) else { unreachable!() };
                let part = problem.rows(i0, i0 + rows).cols(j0, j0 + cols);
                self.rows_product(&part, block, scratch);
                for i in 0..rows {
                    for j in 0..cols {
                        c.set(i0 + i, j0 + j, stage[i * cols + j]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
