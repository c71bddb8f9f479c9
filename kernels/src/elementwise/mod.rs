//! Vector mathematics: exp, log, softmax, cross-entropy, ordered sums.

use crate::elem::Elem;
use crate::{KernelError, Kernels, Mat, MatMut, expect, reference};

impl<E: Elem> Kernels<E> {
    /// exp of each element of `x`.
    ///
    /// # Errors
    /// Lengths differ.
    pub fn exp(&self, x: &[E], out: &mut [E]) -> Result<(), KernelError> {
        expect("exp", "out length", x.len(), out.len())?;
        reference::exp(x, out);
        Ok(())
    }

    /// Natural logarithm of each element of `x`.
    ///
    /// # Errors
    /// Lengths differ.
    pub fn ln(&self, x: &[E], out: &mut [E]) -> Result<(), KernelError> {
        expect("ln", "out length", x.len(), out.len())?;
        reference::ln(x, out);
        Ok(())
    }

    /// Sum of the elements, in an order fixed by the length alone, accumulated in f64.
    pub fn sum(&self, x: &[E]) -> f64 {
        reference::sum(x)
    }

    /// Softmax of every row, in place.
    ///
    /// # Errors
    /// None today; rows of any strides are accepted.
    pub fn softmax_rows(&self, mut x: MatMut<'_, E>) -> Result<(), KernelError> {
        reference::softmax_rows(&mut x);
        Ok(())
    }

    /// Cross-entropy with soft targets: `losses[i] = Σ_s y_is (lse_i − z_is)` over s with y_is ≠ 0, and `probs` = softmax of
    /// each row. logits (B, S), targets (B, S), losses (B), probs (B, S).
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn cross_entropy(
        &self,
        logits: Mat<'_, E>,
        targets: Mat<'_, f64>,
        losses: &mut [f64],
        mut probs: MatMut<'_, E>,
    ) -> Result<(), KernelError> {
        let (b, s) = (logits.rows(), logits.cols());
        expect("cross_entropy", "targets rows", b, targets.rows())?;
        expect("cross_entropy", "targets columns", s, targets.cols())?;
        expect("cross_entropy", "losses length", b, losses.len())?;
        expect("cross_entropy", "probs rows", b, probs.rows())?;
        expect("cross_entropy", "probs columns", s, probs.cols())?;
        reference::cross_entropy(logits, targets, losses, &mut probs);
        Ok(())
    }

    /// `dlogits[i][s] = w_i (p_is Σ_s' y_is' − y_is)`, the gradient of Σᵢ wᵢ lossᵢ. probs, targets, dlogits (B, S); weights (B).
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn cross_entropy_backward(
        &self,
        probs: Mat<'_, E>,
        targets: Mat<'_, f64>,
        weights: &[f64],
        mut dlogits: MatMut<'_, E>,
    ) -> Result<(), KernelError> {
        let (b, s) = (probs.rows(), probs.cols());
        expect("cross_entropy_backward", "targets rows", b, targets.rows())?;
        expect("cross_entropy_backward", "targets columns", s, targets.cols())?;
        expect("cross_entropy_backward", "weights length", b, weights.len())?;
        expect("cross_entropy_backward", "dlogits rows", b, dlogits.rows())?;
        expect("cross_entropy_backward", "dlogits columns", s, dlogits.cols())?;
        reference::cross_entropy_backward(probs, targets, weights, &mut dlogits);
        Ok(())
    }
}
