//! Vector mathematics: exp, log, softmax, cross-entropy, ordered sums.

use crate::arch::generic::{exp::exp_slice, log::ln_slice, softmax, sum::sum};
use crate::arch::{Op, Simd};
use crate::elem::Elem;
use crate::{KernelError, Kernels, Mat, MatMut, expect};

impl<E: Elem> Kernels<E> {
    /// exp of each element of `x`: within 1 ulp (f32) or 1.05 ulp (f64), subnormal results included; exp 0 = 1, overflow gives +∞, NaN stays.
    ///
    /// # Errors
    /// Lengths differ.
    pub fn exp(&self, x: &[E], out: &mut [E]) -> Result<(), KernelError> {
        expect("exp", "out length", x.len(), out.len())?;
        E::dispatch(self.isa(), Exp { x, out });
        Ok(())
    }

    /// Natural logarithm of each element of `x`: within 1 ulp, subnormal arguments included; ln 1 = 0, ln 0 = −∞, NaN below 0.
    ///
    /// # Errors
    /// Lengths differ.
    pub fn ln(&self, x: &[E], out: &mut [E]) -> Result<(), KernelError> {
        expect("ln", "out length", x.len(), out.len())?;
        E::dispatch(self.isa(), Ln { x, out });
        Ok(())
    }

    /// Sum of the elements in f64, compensated: |result − Σ x| <= u |Σ x| + (n u)² Σ |x|, u = 2⁻⁵³. The order is fixed by the
    /// length alone: the same bits on every instruction set.
    pub fn sum(&self, x: &[E]) -> f64 {
        E::dispatch(self.isa(), Sum { x })
    }

    /// Softmax of every row, in place. A row with NaN or +∞, or of −∞ alone, becomes NaN. Entries below e^−80 (f32) or e^−700
    /// (f64) of the row's largest are 0, never subnormal: those are slow wherever they are used.
    ///
    /// Relative error of an entry p_j: 2 u (max x − min over entries that matter of x) from the subtraction, plus
    /// (n / lanes + 12) u; see the test for the derivation.
    ///
    /// # Errors
    /// None today; rows of any strides are accepted.
    pub fn softmax_rows(&self, x: MatMut<'_, E>) -> Result<(), KernelError> {
        E::dispatch(self.isa(), SoftmaxRows { x });
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
        E::dispatch(self.isa(), CrossEntropy { logits, targets, losses, probs });
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
        E::dispatch(self.isa(), CrossEntropyBackward { probs, targets, weights, dlogits });
        Ok(())
    }
}

struct Exp<'a, E> {
    x: &'a [E],
    out: &'a mut [E],
}

impl<E: Elem> Op<E> for Exp<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        debug_assert_eq!(self.x.len(), self.out.len());
        // SAFETY: both slices have x.len() elements: `Kernels::exp` compared them.
        unsafe { exp_slice::<E, S>(s, self.x.len(), self.x.as_ptr(), self.out.as_mut_ptr()) }
    }
}

struct Ln<'a, E> {
    x: &'a [E],
    out: &'a mut [E],
}

impl<E: Elem> Op<E> for Ln<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        debug_assert_eq!(self.x.len(), self.out.len());
        // SAFETY: both slices have x.len() elements: `Kernels::ln` compared them.
        unsafe { ln_slice::<E, S>(s, self.x.len(), self.x.as_ptr(), self.out.as_mut_ptr()) }
    }
}

struct Sum<'a, E> {
    x: &'a [E],
}

impl<E: Elem> Op<E> for Sum<'_, E> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd<E>>(self, _: S) -> f64 {
        // SAFETY: a slice of x.len() elements.
        unsafe { sum(self.x.len(), self.x.as_ptr(), 1) }
    }
}

struct SoftmaxRows<'a, E> {
    x: MatMut<'a, E>,
}

impl<E: Elem> Op<E> for SoftmaxRows<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(mut self, s: S) {
        let (rows, n, rs, cs) = (self.x.rows(), self.x.cols(), self.x.row_stride(), self.x.col_stride());
        if n == 0 {
            return;
        }
        for i in 0..rows {
            // SAFETY: row i of a checked view, which has n >= 1 entries cs apart.
            unsafe {
                let p = self.x.ptr().add(i * rs);
                if cs == 1 {
                    softmax::softmax_row::<E, S, true>(s, n, p, 1);
                } else {
                    softmax::softmax_row::<E, S, false>(s, n, p, cs);
                }
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
                let unit = zs == 1 && ps == 1;
                let (max, _) = if unit {
                    softmax::exp_row::<E, S, true>(s, n, zi, 1, pi, 1)
                } else {
                    softmax::exp_row::<E, S, false>(s, n, zi, zs, pi, ps)
                };
                let total = sum(n, pi, ps);
                if unit {
                    softmax::scale_row::<E, S, true>(s, n, pi, 1, E::from_f64(1.0 / total));
                } else {
                    softmax::scale_row::<E, S, false>(s, n, pi, ps, E::from_f64(1.0 / total));
                }
                let lse = max.to_f64() + total.ln();
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

#[cfg(test)]
mod tests;
