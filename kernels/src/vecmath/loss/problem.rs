//! Losses as operations on checked operands.

use crate::elem::real::Real;
use crate::simd::{Op, Simd, compiled_once};
use crate::vecmath::softmax;
use crate::vecmath::sum::sum;
use crate::view::{Mat, MatMut};

/// The label of a row that has none: loss 0, gradient 0.
pub const IGNORED: u32 = u32::MAX;

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

/// lse − z, where lse = max + log. Beside a large maximum its logarithm would be lost in rounding:
/// the maximum then meets z first. Below that the order is the one that recorded numbers have.
#[inline(always)]
fn above((max, log): (f64, f64), z: f64) -> f64 {
    if max.abs() < LARGE { max + log - z } else { (max - z) + log }
}

/// Largest logit whose sum with a logarithm keeps 33 bits of it.
const LARGE: f64 = (1u64 << 20) as f64;

/// Softmax of a row of n >= 1 logits; returns the largest logit, and the logarithm of the sum of
/// the exponentials of logits less that. The exponentials have the logits' type, their sum and its
/// logarithm are f64.
///
/// # Safety
/// `z` is readable at i * zs and `p` writable at i * ps, i < n.
#[inline(always)]
unsafe fn probs_row<E: Real, S: Simd<E>>(
    s: S,
    n: usize,
    z: *const E,
    zs: usize,
    p: *mut E,
    ps: usize,
) -> (f64, f64) {
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
        (max.to_f64(), total.ln())
    }
}

pub(crate) struct LogSoftmaxRows<'a, E> {
    pub(crate) x: Mat<'a, E>,
    pub(crate) out: MatMut<'a, E>,
}

impl<E: Real> Op<E> for LogSoftmaxRows<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(mut self, s: S) {
        let x = self.x;
        let (n, xs, os, ors) = (x.cols(), x.col_stride(), self.out.col_stride(), self.out.row_stride());
        if n == 0 {
            return;
        }
        for i in 0..x.rows() {
            // SAFETY: row i of two checked views, each with n >= 1 entries at its column stride:
            // `Kernels::log_softmax_rows` compared the shapes.
            unsafe {
                let xi = x.ptr().add(i * x.row_stride());
                let oi = self.out.ptr().add(i * ors);
                // The exponentials pass through the output.
                let (max, _) = if xs == 1 && os == 1 {
                    softmax::exp_row::<E, S, true>(s, n, xi, 1, oi, 1)
                } else {
                    softmax::exp_row::<E, S, false>(s, n, xi, xs, oi, os)
                };
                let lse = (max.to_f64(), sum(n, oi, os).ln());
                for j in 0..n {
                    *oi.add(j * os) = E::from_f64(0.0 - above(lse, (*xi.add(j * xs)).to_f64()));
                }
            }
        }
    }
}

pub(crate) struct LabelCrossEntropy<'a, E> {
    pub(crate) logits: Mat<'a, E>,
    pub(crate) labels: &'a [u32],
    pub(crate) losses: &'a mut [f64],
    pub(crate) probs: MatMut<'a, E>,
}

impl<E: Real> Op<E> for LabelCrossEntropy<'_, E> {
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
            // SAFETY: row i of two checked views, each with n >= 1 entries at its column stride,
            // and labels below n or IGNORED: `Kernels::cross_entropy_labels` compared them.
            unsafe {
                let zi = z.ptr().add(i * z.row_stride());
                let pi = self.probs.ptr().add(i * prs);
                let lse = probs_row::<E, S>(s, n, zi, zs, pi, ps);
                self.losses[i] =
                    if label == IGNORED { 0.0 } else { above(lse, (*zi.add(label as usize * zs)).to_f64()) };
            }
        }
    }
}

pub(crate) struct LabelCrossEntropyBackward<'a, E> {
    pub(crate) probs: Mat<'a, E>,
    pub(crate) labels: &'a [u32],
    pub(crate) weights: &'a [f64],
    pub(crate) dlogits: MatMut<'a, E>,
}

impl<E: Real> Op<E> for LabelCrossEntropyBackward<'_, E> {
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
            // SAFETY: row i of two checked views, each with n >= 1 entries at its column stride,
            // and labels below n or IGNORED: `Kernels::cross_entropy_labels_backward` compared
            // them.
            unsafe {
                let pi = p.ptr().add(i * p.row_stride());
                let di = self.dlogits.ptr().add(i * drs);
                if label == IGNORED || w == 0.0 {
                    for j in 0..n {
                        *di.add(j * ds) = E::ZERO;
                    }
                    continue;
                }
                // The two branches are the same loop: with constant strides the compiler vectorises
                // it.
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

pub(crate) struct CrossEntropy<'a, E> {
    pub(crate) logits: Mat<'a, E>,
    pub(crate) targets: Mat<'a, f64>,
    pub(crate) losses: &'a mut [f64],
    pub(crate) probs: MatMut<'a, E>,
}

impl<E: Real> Op<E> for CrossEntropy<'_, E> {
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
            // SAFETY: row i of three checked views, each with n >= 1 entries at its column stride:
            // `Kernels::cross_entropy` compared the shapes.
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
                        loss += yij * above(lse, (*zi.add(j * zs)).to_f64());
                    }
                }
                self.losses[i] = loss;
            }
        }
    }
}

pub(crate) struct CrossEntropyBackward<'a, E> {
    pub(crate) probs: Mat<'a, E>,
    pub(crate) targets: Mat<'a, f64>,
    pub(crate) weights: &'a [f64],
    pub(crate) dlogits: MatMut<'a, E>,
}

impl<E: Real> Op<E> for CrossEntropyBackward<'_, E> {
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
                let w = self.weights[i];
                if w == 0.0 {
                    for j in 0..n {
                        *di.add(j * ds) = E::ZERO;
                    }
                    continue;
                }
                let mut mass = 0.0;
                for j in 0..n {
                    mass += *yi.add(j * ys);
                }
                // The two branches are the same loop: with constant strides the compiler vectorises
                // it.
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
