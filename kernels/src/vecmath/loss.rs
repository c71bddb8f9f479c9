//! Losses of rows and their gradients: cross-entropy of logits against soft targets or labels, log
//! loss of probabilities.

pub(crate) mod problem;

use crate::elem::Elem;
use crate::error::{KernelError, expect};
use crate::kernels::Kernels;
use crate::vecmath::loss::problem::{
    CrossEntropy, CrossEntropyBackward, IGNORED, LabelCrossEntropy, LabelCrossEntropyBackward, LogSoftmaxRows,
};
use crate::view::{Mat, MatMut};

/// Every label names one of `symbols` columns, or is [`IGNORED`].
fn check_labels(op: &'static str, labels: &[u32], symbols: usize) -> Result<(), KernelError> {
    if labels.iter().all(|l| *l == IGNORED || (*l as usize) < symbols) {
        return Ok(());
    }
    Err(KernelError::Domain { op, what: "a label", allowed: "below the number of columns, or IGNORED" })
}

fn check_eps(op: &'static str, eps: f64) -> Result<(), KernelError> {
    if eps >= 0.0 && eps.is_finite() {
        return Ok(());
    }
    Err(KernelError::Domain { op, what: "eps", allowed: "finite, >= 0" })
}

impl<E: Elem> Kernels<E> {
    /// Logarithm of the softmax of every row: `out[i][s] = x_is − lse_i`, lse as in
    /// [`Kernels::cross_entropy`]. x, out (B, S). A row with NaN or +∞, or of −∞ alone, becomes
    /// NaN.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn log_softmax_rows(&self, x: Mat<'_, E>, out: MatMut<'_, E>) -> Result<(), KernelError> {
        expect("log_softmax_rows", "out rows", x.rows(), out.rows())?;
        expect("log_softmax_rows", "out columns", x.cols(), out.cols())?;
        E::run_log_softmax(self.isa(), LogSoftmaxRows { x, out });
        Ok(())
    }

    /// Cross-entropy with soft targets: `losses[i] = Σ_s y_is (lse_i − z_is)` over s with y_is ≠ 0,
    /// and `probs` = softmax of each row. logits (B, S), targets (B, S), losses (B), probs (B, S).
    ///
    /// The exponentials have the logits' type; their sum, its logarithm and the loss are f64.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn cross_entropy(
        &self,
        logits: Mat<'_, E>,
        targets: Mat<'_, f64>,
        losses: &mut [f64],
        probs: MatMut<'_, E>,
    ) -> Result<(), KernelError> {
        let (b, s) = (logits.rows(), logits.cols());
        expect("cross_entropy", "targets rows", b, targets.rows())?;
        expect("cross_entropy", "targets columns", s, targets.cols())?;
        expect("cross_entropy", "losses length", b, losses.len())?;
        expect("cross_entropy", "probs rows", b, probs.rows())?;
        expect("cross_entropy", "probs columns", s, probs.cols())?;
        E::run_cross_entropy(self.isa(), CrossEntropy { logits, targets, losses, probs });
        Ok(())
    }

    /// `dlogits[i][s] = w_i (p_is Σ_s' y_is' − y_is)`, the gradient of Σᵢ wᵢ lossᵢ, computed in f64
    /// and rounded once; 0 throughout in a row of weight 0, whatever its probabilities. probs,
    /// targets, dlogits (B, S); weights (B).
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn cross_entropy_backward(
        &self,
        probs: Mat<'_, E>,
        targets: Mat<'_, f64>,
        weights: &[f64],
        dlogits: MatMut<'_, E>,
    ) -> Result<(), KernelError> {
        let (b, s) = (probs.rows(), probs.cols());
        expect("cross_entropy_backward", "targets rows", b, targets.rows())?;
        expect("cross_entropy_backward", "targets columns", s, targets.cols())?;
        expect("cross_entropy_backward", "weights length", b, weights.len())?;
        expect("cross_entropy_backward", "dlogits rows", b, dlogits.rows())?;
        expect("cross_entropy_backward", "dlogits columns", s, dlogits.cols())?;
        E::run_cross_entropy_backward(self.isa(), CrossEntropyBackward { probs, targets, weights, dlogits });
        Ok(())
    }

    /// Cross-entropy with one label per row: `losses[i] = lse_i − z_i,label`, and `probs` = softmax
    /// of each row. A row labelled [`IGNORED`] has loss 0, whatever its logits. logits, probs (B,
    /// S); labels, losses (B). The loss is that of [`Kernels::cross_entropy`] with a one-hot
    /// target, to the bit.
    ///
    /// # Errors
    /// Shapes that do not fit together; a label that is neither below S nor [`IGNORED`].
    pub fn cross_entropy_labels(
        &self,
        logits: Mat<'_, E>,
        labels: &[u32],
        losses: &mut [f64],
        probs: MatMut<'_, E>,
    ) -> Result<(), KernelError> {
        let (b, s) = (logits.rows(), logits.cols());
        expect("cross_entropy_labels", "labels length", b, labels.len())?;
        expect("cross_entropy_labels", "losses length", b, losses.len())?;
        expect("cross_entropy_labels", "probs rows", b, probs.rows())?;
        expect("cross_entropy_labels", "probs columns", s, probs.cols())?;
        check_labels("cross_entropy_labels", labels, s)?;
        E::run_label_cross_entropy(self.isa(), LabelCrossEntropy { logits, labels, losses, probs });
        Ok(())
    }

    /// `dlogits[i][s] = w_i (p_is − 1[s = label_i])`, the gradient of Σᵢ wᵢ lossᵢ, computed in f64
    /// and rounded once; 0 throughout in a row labelled [`IGNORED`] or of weight 0, whatever its
    /// probabilities. probs, dlogits (B, S); labels, weights (B).
    ///
    /// # Errors
    /// As [`Kernels::cross_entropy_labels`].
    pub fn cross_entropy_labels_backward(
        &self,
        probs: Mat<'_, E>,
        labels: &[u32],
        weights: &[f64],
        dlogits: MatMut<'_, E>,
    ) -> Result<(), KernelError> {
        let (b, s) = (probs.rows(), probs.cols());
        expect("cross_entropy_labels_backward", "labels length", b, labels.len())?;
        expect("cross_entropy_labels_backward", "weights length", b, weights.len())?;
        expect("cross_entropy_labels_backward", "dlogits rows", b, dlogits.rows())?;
        expect("cross_entropy_labels_backward", "dlogits columns", s, dlogits.cols())?;
        check_labels("cross_entropy_labels_backward", labels, s)?;
        E::run_label_cross_entropy_backward(
            self.isa(),
            LabelCrossEntropyBackward { probs, labels, weights, dlogits },
        );
        Ok(())
    }

    /// Log loss of probabilities, kept finite by ε: `losses[i] = −Σ_s y_is log(f_is + ε)` over s
    /// with y_is ≠ 0 (arXiv 2402.14735, the loss of the simplified model). probs, targets (B, S),
    /// losses (B). In f64; +∞ where f + ε = 0 < y, NaN where f + ε < 0.
    ///
    /// # Errors
    /// Shapes that do not fit together; ε negative or not finite.
    pub fn log_loss(
        &self,
        probs: Mat<'_, E>,
        targets: Mat<'_, f64>,
        eps: f64,
        losses: &mut [f64],
    ) -> Result<(), KernelError> {
        expect("log_loss", "targets rows", probs.rows(), targets.rows())?;
        expect("log_loss", "targets columns", probs.cols(), targets.cols())?;
        expect("log_loss", "losses length", probs.rows(), losses.len())?;
        check_eps("log_loss", eps)?;
        // One logarithm at a time: targets are sparse, and std's is good to the last bit.
        for (i, loss) in losses.iter_mut().enumerate() {
            *loss = 0.0;
            for j in 0..probs.cols() {
                let y = targets.at(i, j);
                if y != 0.0 {
                    *loss -= y * (probs.at(i, j).to_f64() + eps).ln();
                }
            }
        }
        Ok(())
    }

    /// `dprobs[i][s] = −w_i y_is / (f_is + ε)`, the gradient of Σᵢ wᵢ lossᵢ, computed in f64 and
    /// rounded once; 0 where w_i y_is = 0, whatever f. probs, targets, dprobs (B, S); weights (B).
    ///
    /// # Errors
    /// As [`Kernels::log_loss`].
    pub fn log_loss_backward(
        &self,
        probs: Mat<'_, E>,
        targets: Mat<'_, f64>,
        eps: f64,
        weights: &[f64],
        mut dprobs: MatMut<'_, E>,
    ) -> Result<(), KernelError> {
        expect("log_loss_backward", "targets rows", probs.rows(), targets.rows())?;
        expect("log_loss_backward", "targets columns", probs.cols(), targets.cols())?;
        expect("log_loss_backward", "weights length", probs.rows(), weights.len())?;
        expect("log_loss_backward", "dprobs rows", probs.rows(), dprobs.rows())?;
        expect("log_loss_backward", "dprobs columns", probs.cols(), dprobs.cols())?;
        check_eps("log_loss_backward", eps)?;
        for (i, w) in weights.iter().enumerate() {
            for j in 0..probs.cols() {
                let wy = w * targets.at(i, j);
                let d = if wy == 0.0 { 0.0 } else { -wy / (probs.at(i, j).to_f64() + eps) };
                dprobs.set(i, j, E::from_f64(d));
            }
        }
        Ok(())
    }
}
