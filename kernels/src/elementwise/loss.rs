//! Losses of rows and their gradients: cross-entropy of logits against soft targets or labels, log loss of probabilities.

use crate::arch::generic::{softmax, sum::sum};
use crate::arch::{Op, Simd, compiled_once};
use crate::elem::Elem;
use crate::{KernelError, Kernels, Mat, MatMut, expect};

/// The label of a row that has none: loss 0, gradient 0.
pub const IGNORED: u32 = u32::MAX;

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

compiled_once! {
    /// Losses and their gradients.
    LossBodies {
        fn run_log_softmax(LogSoftmaxRows<'_, Self>);
        fn run_cross_entropy(CrossEntropy<'_, Self>);
        fn run_cross_entropy_backward(CrossEntropyBackward<'_, Self>);
        fn run_label_cross_entropy(LabelCrossEntropy<'_, Self>);
        fn run_label_cross_entropy_backward(LabelCrossEntropyBackward<'_, Self>);
    }
}

impl<E: Elem> Kernels<E> {
    /// Logarithm of the softmax of every row: `out[i][s] = x_is − lse_i`, lse as in [`Kernels::cross_entropy`]. x, out (B, S). A row with
    /// NaN or +∞, or of −∞ alone, becomes NaN.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn log_softmax_rows(&self, x: Mat<'_, E>, out: MatMut<'_, E>) -> Result<(), KernelError> {
        expect("log_softmax_rows", "out rows", x.rows(), out.rows())?;
        expect("log_softmax_rows", "out columns", x.cols(), out.cols())?;
        E::run_log_softmax(self.isa(), LogSoftmaxRows { x, out });
        Ok(())
    }

    /// Cross-entropy with soft targets: `losses[i] = Σ_s y_is (lse_i − z_is)` over s with y_is ≠ 0, and `probs` = softmax of
    /// each row. logits (B, S), targets (B, S), losses (B), probs (B, S).
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

    /// `dlogits[i][s] = w_i (p_is Σ_s' y_is' − y_is)`, the gradient of Σᵢ wᵢ lossᵢ, computed in f64 and rounded once. probs, targets,
    /// dlogits (B, S); weights (B).
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

    /// Cross-entropy with one label per row: `losses[i] = lse_i − z_i,label`, and `probs` = softmax of each row. A row labelled
    /// [`IGNORED`] has loss 0, whatever its logits. logits, probs (B, S); labels, losses (B). The loss is that of
    /// [`Kernels::cross_entropy`] with a one-hot target, to the bit.
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

    /// `dlogits[i][s] = w_i (p_is − 1[s = label_i])`, the gradient of Σᵢ wᵢ lossᵢ, computed in f64 and rounded once; 0 throughout in a row
    /// labelled [`IGNORED`] or of weight 0, whatever its probabilities. probs, dlogits (B, S); labels, weights (B).
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

    /// Log loss of probabilities, kept finite by ε: `losses[i] = −Σ_s y_is log(f_is + ε)` over s with y_is ≠ 0 (arXiv 2402.14735, the loss of
    /// the simplified model). probs, targets (B, S), losses (B). In f64; +∞ where f + ε = 0 < y, NaN where f + ε < 0.
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

    /// `dprobs[i][s] = −w_i y_is / (f_is + ε)`, the gradient of Σᵢ wᵢ lossᵢ, computed in f64 and rounded once; 0 where w_i y_is = 0, whatever
    /// f. probs, targets, dprobs (B, S); weights (B).
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

/// Softmax of a row of n >= 1 logits; returns the logarithm of the sum of their exponentials. The exponentials have the logits' type,
/// their sum and its logarithm are f64.
///
/// # Safety
/// `z` is readable at i * zs and `p` writable at i * ps, i < n.
#[inline(always)]
unsafe fn probs_row<E: Elem, S: Simd<E>>(
    s: S,
    n: usize,
    z: *const E,
    zs: usize,
    p: *mut E,
    ps: usize,
) -> f64 {
    // SAFETY: the caller's promise; UNIT only where both strides are 1.
    unsafe {
        let unit = zs == 1 && ps == 1;
        let (max, _) = if unit {
            softmax::exp_row::<E, S, true>(s, n, z, 1, p, 1)
        } else {
            softmax::exp_row::<E, S, false>(s, n, z, zs, p, ps)
        };
        let total = sum(n, p, ps);
        if unit {
            softmax::scale_row::<E, S, true>(s, n, p, 1, E::from_f64(1.0 / total));
        } else {
            softmax::scale_row::<E, S, false>(s, n, p, ps, E::from_f64(1.0 / total));
        }
        max.to_f64() + total.ln()
    }
}

struct LogSoftmaxRows<'a, E> {
    x: Mat<'a, E>,
    out: MatMut<'a, E>,
}

impl<E: Elem> Op<E> for LogSoftmaxRows<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(mut self, s: S) {
        let x = self.x;
        let (n, xs, os, ors) = (x.cols(), x.col_stride(), self.out.col_stride(), self.out.row_stride());
        if n == 0 {
            return;
        }
        for i in 0..x.rows() {
            // SAFETY: row i of two checked views, each with n >= 1 entries at its column stride: `Kernels::log_softmax_rows` compared
            // the shapes.
            unsafe {
                let xi = x.ptr().add(i * x.row_stride());
                let oi = self.out.ptr().add(i * ors);
                // The exponentials pass through the output.
                let (max, _) = if xs == 1 && os == 1 {
                    softmax::exp_row::<E, S, true>(s, n, xi, 1, oi, 1)
                } else {
                    softmax::exp_row::<E, S, false>(s, n, xi, xs, oi, os)
                };
                let lse = max.to_f64() + sum(n, oi, os).ln();
                for j in 0..n {
                    *oi.add(j * os) = E::from_f64((*xi.add(j * xs)).to_f64() - lse);
                }
            }
        }
    }
}

struct LabelCrossEntropy<'a, E> {
    logits: Mat<'a, E>,
    labels: &'a [u32],
    losses: &'a mut [f64],
    probs: MatMut<'a, E>,
}

impl<E: Elem> Op<E> for LabelCrossEntropy<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(mut self, s: S) {
        let z = self.logits;
        let (n, zs, ps, prs) = (z.cols(), z.col_stride(), self.probs.col_stride(), self.probs.row_stride());
        if n == 0 {
            self.losses.fill(0.0);
            return;
        }
        for i in 0..z.rows() {
            let label = self.labels[i];
            // SAFETY: row i of two checked views, each with n >= 1 entries at its column stride, and labels below n or IGNORED:
            // `Kernels::cross_entropy_labels` compared them.
            unsafe {
                let zi = z.ptr().add(i * z.row_stride());
                let pi = self.probs.ptr().add(i * prs);
                let lse = probs_row::<E, S>(s, n, zi, zs, pi, ps);
                self.losses[i] =
                    if label == IGNORED { 0.0 } else { lse - (*zi.add(label as usize * zs)).to_f64() };
            }
        }
    }
}

struct LabelCrossEntropyBackward<'a, E> {
    probs: Mat<'a, E>,
    labels: &'a [u32],
    weights: &'a [f64],
    dlogits: MatMut<'a, E>,
}

impl<E: Elem> Op<E> for LabelCrossEntropyBackward<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(mut self, _: S) {
        let p = self.probs;
        let (n, ps, ds, drs) =
            (p.cols(), p.col_stride(), self.dlogits.col_stride(), self.dlogits.row_stride());
        if n == 0 {
            return;
        }
        for i in 0..p.rows() {
            let (label, w) = (self.labels[i], self.weights[i]);
            // SAFETY: row i of two checked views, each with n >= 1 entries at its column stride, and labels below n or IGNORED:
            // `Kernels::cross_entropy_labels_backward` compared them.
            unsafe {
                let pi = p.ptr().add(i * p.row_stride());
                let di = self.dlogits.ptr().add(i * drs);
                if label == IGNORED || w == 0.0 {
                    for j in 0..n {
                        *di.add(j * ds) = E::ZERO;
                    }
                    continue;
                }
                // The two branches are the same loop: with constant strides the compiler vectorises it.
                if ps == 1 && ds == 1 {
                    for j in 0..n {
                        *di.add(j) = E::from_f64(w * (*pi.add(j)).to_f64());
                    }
                } else {
                    for j in 0..n {
                        *di.add(j * ds) = E::from_f64(w * (*pi.add(j * ps)).to_f64());
                    }
                }
                let at = label as usize;
                *di.add(at * ds) = E::from_f64(w * ((*pi.add(at * ps)).to_f64() - 1.0));
            }
        }
    }
}

struct CrossEntropy<'a, E> {
    logits: Mat<'a, E>,
    targets: Mat<'a, f64>,
    losses: &'a mut [f64],
    probs: MatMut<'a, E>,
}

impl<E: Elem> Op<E> for CrossEntropy<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(mut self, s: S) {
        let (z, y) = (self.logits, self.targets);
        let (n, zs, ys, ps) = (z.cols(), z.col_stride(), y.col_stride(), self.probs.col_stride());
        if n == 0 {
            self.losses.fill(0.0);
            return;
        }
        for i in 0..z.rows() {
            // SAFETY: row i of three checked views, each with n >= 1 entries at its column stride: `Kernels::cross_entropy`
            // compared the shapes.
            unsafe {
                let zi = z.ptr().add(i * z.row_stride());
                let yi = y.ptr().add(i * y.row_stride());
                let prs = self.probs.row_stride();
                let pi = self.probs.ptr().add(i * prs);
                let lse = probs_row::<E, S>(s, n, zi, zs, pi, ps);
                let mut loss = 0.0;
                for j in 0..n {
                    let yij = *yi.add(j * ys);
                    if yij != 0.0 {
                        loss += yij * (lse - (*zi.add(j * zs)).to_f64());
                    }
                }
                self.losses[i] = loss;
            }
        }
    }
}

struct CrossEntropyBackward<'a, E> {
    probs: Mat<'a, E>,
    targets: Mat<'a, f64>,
    weights: &'a [f64],
    dlogits: MatMut<'a, E>,
}

impl<E: Elem> Op<E> for CrossEntropyBackward<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(mut self, _: S) {
        let (p, y) = (self.probs, self.targets);
        let (n, ps, ys) = (p.cols(), p.col_stride(), y.col_stride());
        let (drs, ds) = (self.dlogits.row_stride(), self.dlogits.col_stride());
        if n == 0 {
            return;
        }
        for i in 0..p.rows() {
            // SAFETY: row i of three checked views, each with n >= 1 entries at its column stride:
            // `Kernels::cross_entropy_backward` compared the shapes.
            unsafe {
                let pi = p.ptr().add(i * p.row_stride());
                let yi = y.ptr().add(i * y.row_stride());
                let di = self.dlogits.ptr().add(i * drs);
                let mut mass = 0.0;
                for j in 0..n {
                    mass += *yi.add(j * ys);
                }
                let w = self.weights[i];
                // The two branches are the same loop: with constant strides the compiler vectorises it.
                if ps == 1 && ys == 1 && ds == 1 {
                    for j in 0..n {
                        *di.add(j) = E::from_f64(w * ((*pi.add(j)).to_f64() * mass - *yi.add(j)));
                    }
                } else {
                    for j in 0..n {
                        let d = w * ((*pi.add(j * ps)).to_f64() * mass - *yi.add(j * ys));
                        *di.add(j * ds) = E::from_f64(d);
                    }
                }
            }
        }
    }
}
