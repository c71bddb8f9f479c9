//! The gradient of a look-up as an operation on checked operands.

use crate::elem::real::Real;
use crate::simd::{Op, Simd, compiled_once};
use crate::vecmath::update::loops::add_row;
use crate::view::{Mat, MatMut};

compiled_once! {
    /// The gradient of a look-up.
    GatherBodies {
        fn run_scatter_add(ScatterAdd<'_, Self>);
    }
}

pub(crate) struct ScatterAdd<'a, E> {
    pub(crate) dout: Mat<'a, E>,
    pub(crate) tokens: &'a [u32],
    pub(crate) dtable: MatMut<'a, E>,
}

impl<E: Real> Op<E> for ScatterAdd<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(mut self, s: S) {
        let (n, gs, ds) = (self.dout.cols(), self.dout.col_stride(), self.dtable.col_stride());
        let (gr, dr) = (self.dout.row_stride(), self.dtable.row_stride());
        if n == 0 {
            return;
        }
        for i in 0..self.tokens.len() {
            // SAFETY: row i of dout and the token's row of the table, n >= 1 entries each at their
            // column strides: `Kernels::scatter_add` compared the shapes and the tokens.
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
