//! Layer norm as operations on checked operands.

use crate::elem::real::Real;
use crate::simd::{Op, Simd, compiled_once};
use crate::vecmath::norm::loops::{backward_columns, backward_row, forward_row};
use crate::view::{Mat, MatMut};

compiled_once! {
    /// Layer norm, both directions.
    NormBodies {
        fn run_layer_norm(Forward<'_, Self>);
        fn run_layer_norm_backward(Backward<'_, Self>);
    }
}

pub(crate) struct Forward<'a, E> {
    pub(crate) x: Mat<'a, E>,
    pub(crate) weight: &'a [E],
    pub(crate) bias: &'a [E],
    pub(crate) eps: f64,
    pub(crate) out: MatMut<'a, E>,
    pub(crate) mean: &'a mut [f64],
    pub(crate) rstd: &'a mut [f64],
}

impl<E: Real> Op<E> for Forward<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(mut self, _: S) {
        let x = self.x;
        let (n, xs, os, ors) = (x.cols(), x.col_stride(), self.out.col_stride(), self.out.row_stride());
        for i in 0..x.rows() {
            if n == 0 {
                (self.mean[i], self.rstd[i]) = (0.0, 0.0);
                continue;
            }
            // SAFETY: row i of two checked views with n >= 1 columns, weight and bias of n
            // elements: `Kernels::layer_norm` compared them.
            let moments = unsafe {
                let read = [x.ptr().add(i * x.row_stride()), self.weight.as_ptr(), self.bias.as_ptr()];
                let out = self.out.ptr().add(i * ors);
                if xs == 1 && os == 1 {
                    forward_row::<E, true>(n, read, 1, self.eps, out, 1)
                } else {
                    forward_row::<E, false>(n, read, xs, self.eps, out, os)
                }
            };
            (self.mean[i], self.rstd[i]) = moments;
        }
    }
}

pub(crate) struct Backward<'a, E> {
    pub(crate) x: Mat<'a, E>,
    pub(crate) weight: &'a [E],
    pub(crate) mean: &'a [f64],
    pub(crate) rstd: &'a [f64],
    pub(crate) dout: Mat<'a, E>,
    pub(crate) dx: MatMut<'a, E>,
    pub(crate) dweight: &'a mut [E],
    pub(crate) dbias: &'a mut [E],
}

impl<E: Real> Op<E> for Backward<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(mut self, _: S) {
        let (x, g) = (self.x, self.dout);
        let (rows, n) = (x.rows(), x.cols());
        if n == 0 || rows == 0 {
            return;
        }
        let (xs, gs, ds, dr) = (x.col_stride(), g.col_stride(), self.dx.col_stride(), self.dx.row_stride());
        let unit = xs == 1 && gs == 1;
        for i in 0..rows {
            // SAFETY: row i of three checked views with n >= 1 columns, weight of n elements:
            // `Kernels::layer_norm_backward` compared them.
            unsafe {
                let read =
                    [x.ptr().add(i * x.row_stride()), g.ptr().add(i * g.row_stride()), self.weight.as_ptr()];
                let (dx, moments) = (self.dx.ptr().add(i * dr), [self.mean[i], self.rstd[i]]);
                if unit && ds == 1 {
                    backward_row::<E, true>(n, read, [1; 3], moments, dx);
                } else {
                    backward_row::<E, false>(n, read, [xs, gs, ds], moments, dx);
                }
            }
        }
        let (moments, grads) =
            ([self.mean.as_ptr(), self.rstd.as_ptr()], [self.dweight.as_mut_ptr(), self.dbias.as_mut_ptr()]);
        let (x, g) = ((x.ptr(), x.row_stride(), xs), (g.ptr(), g.row_stride(), gs));
        // SAFETY: two checked views of `rows` by n, two slices of `rows` and two of n elements,
        // compared as above.
        unsafe {
            if unit {
                backward_columns::<E, true>(rows, n, x, g, moments, grads);
            } else {
                backward_columns::<E, false>(rows, n, x, g, moments, grads);
            }
        }
    }
}
