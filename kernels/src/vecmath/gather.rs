//! Rows of a table by token, and their gradient.

pub(crate) mod problem;

use crate::elem::Elem;
use crate::error::{KernelError, expect};
use crate::kernels::Kernels;
use crate::vecmath::gather::problem::ScatterAdd;
use crate::view::{Mat, MatMut};

fn check_tokens(op: &'static str, tokens: &[u32], rows: usize) -> Result<(), KernelError> {
    if tokens.iter().all(|t| (*t as usize) < rows) {
        return Ok(());
    }
    Err(KernelError::Domain { op, what: "a token", allowed: "below the number of rows of the table" })
}

impl<E: Elem> Kernels<E> {
    /// `out[i] = table[tokens[i]]`. table (N, D), tokens (L), out (L, D).
    ///
    /// # Errors
    /// Shapes that do not fit together; a token >= N.
    pub fn gather(
        &self,
        table: Mat<'_, E>,
        tokens: &[u32],
        mut out: MatMut<'_, E>,
    ) -> Result<(), KernelError> {
        expect("gather", "out rows", tokens.len(), out.rows())?;
        expect("gather", "out columns", table.cols(), out.cols())?;
        check_tokens("gather", tokens, table.rows())?;
        let (n, unit) = (table.cols(), table.col_stride() == 1 && out.col_stride() == 1);
        let ors = out.row_stride();
        for (i, t) in tokens.iter().enumerate() {
            let row = *t as usize;
            if unit && n > 0 {
                // SAFETY: row `row` of the table and row i of out, n entries each, checked above;
                // `out` is borrowed mutably, so they do not overlap.
                unsafe {
                    let from = table.ptr().add(row * table.row_stride());
                    std::ptr::copy_nonoverlapping(from, out.ptr().add(i * ors), n);
                }
            } else {
                for j in 0..n {
                    out.set(i, j, table.at(row, j));
                }
            }
        }
        Ok(())
    }

    /// `dtable[tokens[i]] += dout[i]`, the gradient through [`Kernels::gather`], in order of i: the
    /// same bits on every instruction set. dout (L, D), tokens (L), dtable (N, D).
    ///
    /// # Errors
    /// Shapes that do not fit together; a token >= N.
    pub fn scatter_add(
        &self,
        dout: Mat<'_, E>,
        tokens: &[u32],
        dtable: MatMut<'_, E>,
    ) -> Result<(), KernelError> {
        expect("scatter_add", "dout rows", tokens.len(), dout.rows())?;
        expect("scatter_add", "dout columns", dtable.cols(), dout.cols())?;
        check_tokens("scatter_add", tokens, dtable.rows())?;
        E::run_scatter_add(self.isa(), ScatterAdd { dout, tokens, dtable });
        Ok(())
    }
}
