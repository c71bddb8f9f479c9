//! Causal attention over one-hot rows, by look-ups in place of products, and linear maps whose rows
//! are one-hot.
//!
//! | symbol | meaning |
//! |---|---|
//! | B, T, S, D | sequences, tokens of each, symbols, S + T |
//! | x_i | one-hot token and one-hot position of place i: entries s_i and S + i are 1, (D) |
//! | P | pattern, (T, T), lower triangle: P_ij = softmax_{j <= i}(x_i A x_jᵀ) |
//!
//! Sequences lie side by side. A **column matrix** has one column per sequence,
//! [`padded`](OneHot::padded) to a multiple of 16, columns contiguous; columns past B hold
//! arbitrary finite values wherever column B − 1 is finite. **Patterns** are slices of
//! [`patterns_len`](OneHot::patterns_len) elements: (group of 16 sequences, entry i (i + 1) / 2 +
//! j, sequence of the group).

pub(crate) mod loops;
pub(crate) mod problem;
pub(crate) mod rows;

pub use problem::{OneHot, PatternTerms};

use crate::elem::Elem;
use crate::error::{KernelError, expect};
use crate::kernels::Kernels;
use crate::one_hot::loops::{GROUP, PatternGrad, padded};
use crate::one_hot::problem::OneHotOp;
use crate::scratch::Scratch;
use crate::view::{Mat, MatMut};

impl<E: Elem> Kernels<E> {
    /// Scratch elements of [`Kernels::one_hot_patterns`] and its backward pass; `None` on overflow.
    pub fn one_hot_scratch(&self, len: usize, symbols: usize) -> Option<usize> {
        let ld = symbols.checked_add(len)?.checked_next_multiple_of(GROUP)?;
        symbols.checked_add(GROUP)?.checked_mul(ld)?.checked_add(len.checked_mul(GROUP)?)
    }

    /// Patterns of x_i A x_jᵀ: P_ij = softmax over j <= i of A\[s_i, s_j\] + A\[s_i, S + j\] +
    /// A\[S + i, s_j\] + A\[S + i, S + j\]. `table` A (D, D), contiguous rows; `patterns` as the
    /// module says.
    ///
    /// A score errs by γ(3) times the sum of its four |A|; the softmax adds n + 12 roundings, n the
    /// entries of the row.
    ///
    /// # Errors
    /// Shapes that do not fit together; scratch smaller than [`Kernels::one_hot_scratch`].
    pub fn one_hot_patterns(
        &self,
        table: Mat<'_, E>,
        x: &OneHot<'_>,
        patterns: &mut [E],
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        let op = "one_hot_patterns";
        expect(op, "table rows", x.width(), table.rows())?;
        expect(op, "table columns", x.width(), table.cols())?;
        expect(op, "table column stride", 1, table.col_stride())?;
        expect(op, "patterns length", x.patterns_len(), patterns.len())?;
        let q = scratch.get(self.one_hot_scratch(x.len, x.symbols).ok_or(KernelError::Overflow)?)?;
        E::run_one_hot(self.isa(), OneHotOp::Patterns { w: x.words(), table, q, out: patterns });
        Ok(())
    }

    /// Overwrites `dtable` (D, D), contiguous rows, with the gradient of A through
    /// [`Kernels::one_hot_patterns`], summed over the sequences.
    ///
    /// Each entry is a sum of at most B T² terms in E, in an order that depends on the shapes
    /// alone.
    ///
    /// # Errors
    /// As [`Kernels::one_hot_patterns`].
    pub fn one_hot_patterns_backward(
        &self,
        x: &OneHot<'_>,
        patterns: &[E],
        from: PatternTerms<'_, E>,
        dtable: MatMut<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        let op = "one_hot_patterns_backward";
        expect(op, "dtable rows", x.width(), dtable.rows())?;
        expect(op, "dtable columns", x.width(), dtable.cols())?;
        expect(op, "dtable column stride", 1, dtable.col_stride())?;
        expect(op, "patterns length", x.patterns_len(), patterns.len())?;
        let terms = from.left.rows() / x.len;
        x.columns(op, "left rows", terms * x.len, &from.left)?;
        x.columns(op, "right rows", terms * x.len, &from.right)?;
        x.columns(op, "last rows", x.len, &from.last)?;
        let ld = from.left.row_stride();
        expect(op, "right row stride", ld, from.right.row_stride())?;
        expect(op, "last row stride", ld, from.last.row_stride())?;
        let scratch = scratch.get(self.one_hot_scratch(x.len, x.symbols).ok_or(KernelError::Overflow)?)?;
        let (q, ds) = scratch.split_at_mut((x.symbols + GROUP) * padded(x.width()));
        let from =
            PatternGrad { left: from.left.ptr(), right: from.right.ptr(), terms, last: from.last.ptr(), ld };
        E::run_one_hot(
            self.isa(),
            OneHotOp::PatternsBackward { w: x.words(), pattern: patterns, from, dtable, q, ds },
        );
        Ok(())
    }

    /// `out = x v`: `out[k] = v[s_k] + v[S + k]`, column by column. v (D, padded B), out (T, padded
    /// B). One rounding.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn one_hot_mul(&self, x: &OneHot<'_>, v: Mat<'_, E>, out: MatMut<'_, E>) -> Result<(), KernelError> {
        x.columns("one_hot_mul", "v rows", x.width(), &v)?;
        x.columns_mut("one_hot_mul", "out rows", x.len, &out)?;
        E::run_one_hot(self.isa(), OneHotOp::Read { w: x.words(), x: v, out });
        Ok(())
    }

    /// `out = xᵀ v`: `out[c] = Σ_{k: s_k = c} v[k]` for c < S, `out[S + k] = v[k]`, column by
    /// column. v (T, padded B), out (D, padded B). Sums in order of k: the same bits on every
    /// instruction set.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn one_hot_mul_t(
        &self,
        x: &OneHot<'_>,
        v: Mat<'_, E>,
        out: MatMut<'_, E>,
    ) -> Result<(), KernelError> {
        x.columns("one_hot_mul_t", "v rows", x.len, &v)?;
        x.columns_mut("one_hot_mul_t", "out rows", x.width(), &out)?;
        E::run_one_hot(self.isa(), OneHotOp::Collect { w: x.words(), x: v, out });
        Ok(())
    }

    /// `y += P v`, column by column. v, y (T, padded B).
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn patterns_mul_add(
        &self,
        x: &OneHot<'_>,
        patterns: &[E],
        v: Mat<'_, E>,
        y: MatMut<'_, E>,
    ) -> Result<(), KernelError> {
        expect("patterns_mul_add", "patterns length", x.patterns_len(), patterns.len())?;
        x.columns("patterns_mul_add", "v rows", x.len, &v)?;
        x.columns_mut("patterns_mul_add", "y rows", x.len, &y)?;
        let shape = [x.padded() / GROUP, x.len];
        E::run_one_hot(self.isa(), OneHotOp::Apply { shape, p: patterns, x: v, y });
        Ok(())
    }

    /// `y = Pᵀ v`, column by column. v, y (T, padded B).
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn patterns_mul_t(
        &self,
        x: &OneHot<'_>,
        patterns: &[E],
        v: Mat<'_, E>,
        y: MatMut<'_, E>,
    ) -> Result<(), KernelError> {
        expect("patterns_mul_t", "patterns length", x.patterns_len(), patterns.len())?;
        x.columns("patterns_mul_t", "v rows", x.len, &v)?;
        x.columns_mut("patterns_mul_t", "y rows", x.len, &y)?;
        let shape = [x.padded() / GROUP, x.len];
        E::run_one_hot(self.isa(), OneHotOp::ApplyT { shape, p: patterns, x: v, y });
        Ok(())
    }

    /// Last row of every pattern: `out[j] = P_{T−1, j}`. out (T, padded B).
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn patterns_last(
        &self,
        x: &OneHot<'_>,
        patterns: &[E],
        mut out: MatMut<'_, E>,
    ) -> Result<(), KernelError> {
        expect("patterns_last", "patterns length", x.patterns_len(), patterns.len())?;
        x.columns_mut("patterns_last", "out rows", x.len, &out)?;
        let (shape, os) = ([x.padded() / GROUP, x.len], out.row_stride());
        // SAFETY: shapes and strides checked above; `out` is an exclusive borrow.
        unsafe { loops::pattern_row(shape, x.len - 1, patterns.as_ptr(), out.ptr(), os) };
        Ok(())
    }

    /// Softmax of every column of a column matrix, in place; as [`Kernels::softmax_rows`], each sum
    /// in order of rows.
    ///
    /// # Errors
    /// No rows; columns that are not contiguous or no multiple of 16.
    pub fn softmax_columns(&self, x: MatMut<'_, E>) -> Result<(), KernelError> {
        check_groups("softmax_columns", &x.as_ref())?;
        E::run_one_hot(self.isa(), OneHotOp::Softmax { x });
        Ok(())
    }

    /// `dp ← p (dp − Σ p dp)` of every column: the gradient through [`Kernels::softmax_columns`].
    /// Column matrices of the same shape.
    ///
    /// # Errors
    /// Shapes that differ; otherwise as [`Kernels::softmax_columns`].
    pub fn softmax_columns_backward(&self, p: Mat<'_, E>, dp: MatMut<'_, E>) -> Result<(), KernelError> {
        check_groups("softmax_columns_backward", &p)?;
        check_groups("softmax_columns_backward", &dp.as_ref())?;
        expect("softmax_columns_backward", "dp rows", p.rows(), dp.rows())?;
        expect("softmax_columns_backward", "dp columns", p.cols(), dp.cols())?;
        E::run_one_hot(self.isa(), OneHotOp::SoftmaxBackward { p, dp });
        Ok(())
    }
}

fn check_groups<E: Elem>(op: &'static str, x: &Mat<'_, E>) -> Result<(), KernelError> {
    if x.rows() == 0 {
        return Err(KernelError::Domain { op, what: "the number of rows", allowed: ">= 1" });
    }
    expect(op, "columns", x.cols().next_multiple_of(GROUP), x.cols())?;
    expect(op, "column stride", 1, x.col_stride())
}

#[cfg(test)]
mod tests;
