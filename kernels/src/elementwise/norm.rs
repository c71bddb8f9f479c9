//! Layer norm.

use crate::arch::generic::norm::{backward_columns, backward_row, forward_row};
use crate::arch::{Op, Simd, compiled_once};
use crate::elem::Elem;
use crate::{KernelError, Kernels, Mat, MatMut, expect};

compiled_once! {
    /// Layer norm, both directions.
    NormBodies {
        fn run_layer_norm(Forward<'_, Self>);
        fn run_layer_norm_backward(Backward<'_, Self>);
    }
}

impl<E: Elem> Kernels<E> {
    /// Layer norm of every row: with μ the mean and σ² the mean square deviation, r = 1 / sqrt(σ² + eps),
    /// `out[i][j] = (x_ij − μ_i) r_i weight_j + bias_j`; `mean` = μ and `rstd` = r are kept for the gradient. x, out (B, D); weight, bias
    /// (D); mean, rstd (B).
    ///
    /// Computed in f64, rounded once: the same bits on every instruction set. A constant row with eps = 0 gives NaN.
    ///
    /// # Errors
    /// Shapes that do not fit together; eps negative or not finite.
    #[allow(clippy::too_many_arguments)]
    pub fn layer_norm(
        &self,
        x: Mat<'_, E>,
        weight: &[E],
        bias: &[E],
        eps: f64,
        out: MatMut<'_, E>,
        mean: &mut [f64],
        rstd: &mut [f64],
    ) -> Result<(), KernelError> {
        let (b, d) = (x.rows(), x.cols());
        expect("layer_norm", "weight length", d, weight.len())?;
        expect("layer_norm", "bias length", d, bias.len())?;
        expect("layer_norm", "out rows", b, out.rows())?;
        expect("layer_norm", "out columns", d, out.cols())?;
        expect("layer_norm", "mean length", b, mean.len())?;
        expect("layer_norm", "rstd length", b, rstd.len())?;
        if !(eps >= 0.0 && eps.is_finite()) {
            return Err(KernelError::Domain { op: "layer_norm", what: "eps", allowed: "finite, >= 0" });
        }
        E::run_layer_norm(self.isa(), Forward { x, weight, bias, eps, out, mean, rstd });
        Ok(())
    }

    /// Gradient through [`Kernels::layer_norm`], given `dout`: with x̂ = (x − μ) r and g = dout ∘ weight,
    /// `dx = r (g − mean_j g − x̂ mean_j(g ∘ x̂))` is set, `dweight += Σ_i dout ∘ x̂` and `dbias += Σ_i dout` are added to. x, dout, dx
    /// (B, D); weight, dweight, dbias (D); mean, rstd (B).
    ///
    /// Computed in f64, the sums over rows in row order, rounded once: the same bits on every instruction set.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    #[allow(clippy::too_many_arguments)]
    pub fn layer_norm_backward(
        &self,
        x: Mat<'_, E>,
        weight: &[E],
        mean: &[f64],
        rstd: &[f64],
        dout: Mat<'_, E>,
        dx: MatMut<'_, E>,
        dweight: &mut [E],
        dbias: &mut [E],
    ) -> Result<(), KernelError> {
        let (b, d) = (x.rows(), x.cols());
        expect("layer_norm_backward", "weight length", d, weight.len())?;
        expect("layer_norm_backward", "mean length", b, mean.len())?;
        expect("layer_norm_backward", "rstd length", b, rstd.len())?;
        expect("layer_norm_backward", "dout rows", b, dout.rows())?;
        expect("layer_norm_backward", "dout columns", d, dout.cols())?;
        expect("layer_norm_backward", "dx rows", b, dx.rows())?;
        expect("layer_norm_backward", "dx columns", d, dx.cols())?;
        expect("layer_norm_backward", "dweight length", d, dweight.len())?;
        expect("layer_norm_backward", "dbias length", d, dbias.len())?;
        E::run_layer_norm_backward(self.isa(), Backward { x, weight, mean, rstd, dout, dx, dweight, dbias });
        Ok(())
    }
}

struct Forward<'a, E> {
    x: Mat<'a, E>,
    weight: &'a [E],
    bias: &'a [E],
    eps: f64,
    out: MatMut<'a, E>,
    mean: &'a mut [f64],
    rstd: &'a mut [f64],
}

impl<E: Elem> Op<E> for Forward<'_, E> {
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
            // SAFETY: row i of two checked views with n >= 1 columns, weight and bias of n elements: `Kernels::layer_norm` compared them.
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

struct Backward<'a, E> {
    x: Mat<'a, E>,
    weight: &'a [E],
    mean: &'a [f64],
    rstd: &'a [f64],
    dout: Mat<'a, E>,
    dx: MatMut<'a, E>,
    dweight: &'a mut [E],
    dbias: &'a mut [E],
}

impl<E: Elem> Op<E> for Backward<'_, E> {
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
            // SAFETY: row i of three checked views with n >= 1 columns, weight of n elements: `Kernels::layer_norm_backward` compared them.
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
        let (x_strides, g_strides) = ((x.row_stride(), xs), (g.row_stride(), gs));
        // SAFETY: two checked views of `rows` by n, two slices of `rows` and two of n elements, compared as above.
        unsafe {
            if unit {
                backward_columns::<E, true>(rows, n, x.ptr(), x_strides, g.ptr(), g_strides, moments, grads);
            } else {
                backward_columns::<E, false>(rows, n, x.ptr(), x_strides, g.ptr(), g_strides, moments, grads);
            }
        }
    }
}
