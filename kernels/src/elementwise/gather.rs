//! Rows of a table by token, and their gradient.

use crate::arch::generic::optim::add_row;
use crate::arch::{Op, Simd, compiled_once};
use crate::elem::Elem;
use crate::{KernelError, Kernels, Mat, MatMut, expect};

fn check_tokens(op: &'static str, tokens: &[u32], rows: usize) -> Result<(), KernelError> {
    if tokens.iter().all(|t| (*t as usize) < rows) {
        return Ok(());
    }
    Err(KernelError::Domain { op, what: "a token", allowed: "below the number of rows of the table" })
}

compiled_once! {
    /// The gradient of a look-up.
    GatherBodies {
        fn run_scatter_add(ScatterAdd<'_, Self>);
    }
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
                // SAFETY: row `row` of the table and row i of out, n entries each, checked above; `out` is borrowed mutably, so they
                // do not overlap.
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

    /// `dtable[tokens[i]] += dout[i]`, the gradient through [`Kernels::gather`], in order of i: the same bits on every instruction set.
    /// dout (L, D), tokens (L), dtable (N, D).
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

struct ScatterAdd<'a, E> {
    dout: Mat<'a, E>,
    tokens: &'a [u32],
    dtable: MatMut<'a, E>,
}

impl<E: Elem> Op<E> for ScatterAdd<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(mut self, s: S) {
        let (n, gs, ds) = (self.dout.cols(), self.dout.col_stride(), self.dtable.col_stride());
        let (gr, dr) = (self.dout.row_stride(), self.dtable.row_stride());
        if n == 0 {
            return;
        }
        for i in 0..self.tokens.len() {
            // SAFETY: row i of dout and the token's row of the table, n >= 1 entries each at their column strides:
            // `Kernels::scatter_add` compared the shapes and the tokens.
            unsafe {
                let from = self.dout.ptr().add(i * gr);
                let to = self.dtable.ptr().add(self.tokens[i] as usize * dr);
                if gs == 1 && ds == 1 {
                    add_row::<E, S>(s, n, from, to);
                } else {
                    for j in 0..n {
                        *to.add(j * ds) += *from.add(j * gs);
                    }
                }
            }
        }
    }
}
