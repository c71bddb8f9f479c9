//! Layer norm.

pub(crate) mod loops;
pub(crate) mod problem;

use crate::elem::Elem;
use crate::error::{KernelError, expect};
use crate::kernels::Kernels;
use crate::vecmath::norm::problem::{Backward, Forward};
use crate::view::{Mat, MatMut};

impl<E: Elem> Kernels<E> {
    /// Layer norm of every row: with μ the mean and σ² the mean square deviation, r = 1 / sqrt(σ² +
    /// eps), `out[i][j] = (x_ij − μ_i) r_i weight_j + bias_j`; `mean` = μ and `rstd` = r are kept
    /// for the gradient. x, out (B, D); weight, bias (D); mean, rstd (B).
    ///
    /// Computed in f64, rounded once: the same bits on every instruction set. A constant row with
    /// eps = 0 gives NaN.
    ///
    /// # Errors
    /// Shapes that do not fit together; eps negative or not finite.
    #[expect(
        clippy::too_many_arguments,
        reason = "the operands of one formula, which callers hold as separate views"
    )]
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

    /// Gradient through [`Kernels::layer_norm`], given `dout`: with x̂ = (x − μ) r and g = dout ∘
    /// weight, `dx = r (g − mean_j g − x̂ mean_j(g ∘ x̂))` is set, `dweight += Σ_i dout ∘ x̂` and
    /// `dbias += Σ_i dout` are added to. x, dout, dx (B, D); weight, dweight, dbias (D); mean, rstd
    /// (B).
    ///
    /// Computed in f64, the sums over rows in row order, rounded once: the same bits on every
    /// instruction set.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    #[expect(
        clippy::too_many_arguments,
        reason = "the operands of one formula, which callers hold as separate views"
    )]
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
