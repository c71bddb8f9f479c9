//! Attention over one-hot rows, query by query: the rows that products take, where a layer goes on
//! with a matrix of all queries.
//!
//! A query row of a head has D = S + T entries: the weights of the symbols, then the pattern
//! itself, 0 behind the mask. Sequences are worked on one after the other in passes over all
//! queries of one, so that no vector is read right after its elements were written one by one.

pub(crate) mod problem;

use crate::elem::Elem;
use crate::error::{KernelError, expect};
use crate::kernels::Kernels;
use crate::one_hot::problem::OneHot;
use crate::one_hot::rows::problem::RowsOp;
use crate::view::Mat;

impl<E: Elem> Kernels<E> {
    /// Rows of attention over one-hot tokens and positions, of the last `rows` queries of every
    /// sequence and of every head: `c` (B, rows, H, D) holds Σ_{j <= i: s_j = s} p_ij for every
    /// symbol s, then p_ij for every j, with p_i the softmax over j <= i of A\[s_i, s_j\] + A\[s_i,
    /// S + j\] + A\[S + i, s_j\] + A\[S + i, S + j\], A the head's table of `tables` (H, D, D).
    /// `row` is working storage of D elements.
    ///
    /// A score errs by γ(3) times the sum of its four |A|; the softmax is that of
    /// [`Kernels::softmax_rows`], sums of weights go in order of j.
    ///
    /// # Errors
    /// Lengths that do not fit together; rows > T.
    pub fn token_patterns(
        &self,
        x: &OneHot<'_>,
        rows: usize,
        tables: &[E],
        c: &mut [E],
        row: &mut [E],
    ) -> Result<(), KernelError> {
        let op = "token_patterns";
        let d = x.width();
        check_rows(op, x, rows)?;
        expect(op, "tables length", tables.len().next_multiple_of(d * d), tables.len())?;
        expect(op, "c length", x.seqs() * rows * (tables.len() / d), c.len())?;
        expect(op, "row length", d, row.len())?;
        E::run_token_rows(self.isa(), RowsOp::Patterns { w: x.words(), rows, tables, c, row });
        Ok(())
    }

    /// Overwrites `dtable` (D, D) with the gradient of table `head` of `heads` through
    /// [`Kernels::token_patterns`], given its output `c` and that output's gradient `dc`. `ds` is
    /// working storage of rows times D elements.
    ///
    /// Each entry is a sum of at most B T² terms in E, in order of sequences and queries.
    ///
    /// # Errors
    /// Lengths that do not fit together; rows > T; head >= heads.
    #[expect(
        clippy::too_many_arguments,
        reason = "the operands of one formula, which callers hold as separate slices"
    )]
    pub fn token_patterns_backward(
        &self,
        x: &OneHot<'_>,
        rows: usize,
        head: [usize; 2],
        c: &[E],
        dc: &[E],
        dtable: &mut [E],
        ds: &mut [E],
    ) -> Result<(), KernelError> {
        let op = "token_patterns_backward";
        let d = x.width();
        check_rows(op, x, rows)?;
        if head[0] >= head[1] {
            return Err(KernelError::Domain { op, what: "the head", allowed: "below the number of heads" });
        }
        // The number of heads is the caller's alone: no slice bounds it yet.
        let of_heads = (x.seqs() * rows * d).checked_mul(head[1]).ok_or(KernelError::Overflow)?;
        expect(op, "c length", of_heads, c.len())?;
        expect(op, "dc length", c.len(), dc.len())?;
        expect(op, "dtable length", d * d, dtable.len())?;
        expect(op, "ds length", rows * d, ds.len())?;
        let (w, rows_of_ds) = (x.words(), ds);
        E::run_token_rows(self.isa(), RowsOp::PatternsBackward { w, rows, head, c, dc, dtable, rows_of_ds });
        Ok(())
    }

    /// `out = table[s_i] + table[S + i] + factor shift` for the last `rows` positions of every
    /// sequence: table (D, D), shift (D), out (B, rows, D). Three roundings, the same bits on every
    /// instruction set.
    ///
    /// # Errors
    /// Lengths that do not fit together; rows > T.
    pub fn token_rows(
        &self,
        x: &OneHot<'_>,
        rows: usize,
        table: Mat<'_, E>,
        factor: E,
        shift: &[E],
        out: &mut [E],
    ) -> Result<(), KernelError> {
        let op = "token_rows";
        let d = x.width();
        check_rows(op, x, rows)?;
        expect(op, "table rows", d, table.rows())?;
        expect(op, "table columns", d, table.cols())?;
        expect(op, "table row stride", d, table.row_stride())?;
        expect(op, "table column stride", 1, table.col_stride())?;
        expect(op, "shift length", d, shift.len())?;
        expect(op, "out length", x.seqs() * rows * d, out.len())?;
        // SAFETY: a checked view of d rows one after the other.
        let table = unsafe { std::slice::from_raw_parts(table.ptr(), d * d) };
        E::run_token_rows(self.isa(), RowsOp::Embed { w: x.words(), rows, table, shift, factor, out });
        Ok(())
    }
}

fn check_rows(op: &'static str, x: &OneHot<'_>, rows: usize) -> Result<(), KernelError> {
    if rows <= x.len { Ok(()) } else { Err(KernelError::Domain { op, what: "rows", allowed: "0 to T" }) }
}

#[cfg(test)]
mod tests;
