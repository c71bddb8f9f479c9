//! Vector mathematics: exp, log, softmax, ordered sums; losses, layer norm, updates and table rows in files of their own.

mod gather;
mod loss;
mod norm;
mod update;

pub(crate) use gather::GatherBodies;
pub use loss::IGNORED;
pub(crate) use loss::LossBodies;
pub(crate) use norm::NormBodies;
pub(crate) use update::UpdateBodies;
pub use update::{AdamW, Sgd};

use crate::arch::generic::exp::exp_slice;
use crate::arch::generic::log::ln_slice;
use crate::arch::generic::softmax;
use crate::arch::generic::sum::{dot, sum};
use crate::arch::{Op, Simd, compiled_once};
use crate::elem::Elem;
use crate::{KernelError, Kernels, MatMut, expect};

compiled_once! {
    /// exp, ln, sums and softmax.
    ElementwiseBodies {
        fn run_exp(Exp<'_, Self>);
        fn run_ln(Ln<'_, Self>);
        fn run_sum(Sum<'_, Self>) -> f64;
        fn run_dot(Dot<'_, Self>) -> f64;
        fn run_softmax_rows(SoftmaxRows<'_, Self>);
    }
}

impl<E: Elem> Kernels<E> {
    /// exp of each element of `x`: within 1 ulp (f32) or 1.05 ulp (f64), subnormal results included; exp 0 = 1, overflow gives +∞, NaN stays.
    ///
    /// # Errors
    /// Lengths differ.
    pub fn exp(&self, x: &[E], out: &mut [E]) -> Result<(), KernelError> {
        expect("exp", "out length", x.len(), out.len())?;
        E::run_exp(self.isa(), Exp { x, out });
        Ok(())
    }

    /// Natural logarithm of each element of `x`: within 1 ulp, subnormal arguments included; ln 1 = 0, ln 0 = −∞, NaN below 0.
    ///
    /// # Errors
    /// Lengths differ.
    pub fn ln(&self, x: &[E], out: &mut [E]) -> Result<(), KernelError> {
        expect("ln", "out length", x.len(), out.len())?;
        E::run_ln(self.isa(), Ln { x, out });
        Ok(())
    }

    /// Sum of the elements in f64, compensated: |result − Σ x| <= u |Σ x| + (n u)² Σ |x|, u = 2⁻⁵³. The order is fixed by the
    /// length alone: the same bits on every instruction set.
    pub fn sum(&self, x: &[E]) -> f64 {
        E::run_sum(self.isa(), Sum { x })
    }

    /// Σ x_i y_i in f64, compensated: |result − Σ x y| <= 2 u |Σ x y| + (n u)² Σ |x y|, u = 2⁻⁵³, barring underflow. The same bits on
    /// every instruction set; in f64 slow where there is no fma.
    ///
    /// # Errors
    /// Lengths differ.
    pub fn dot(&self, x: &[E], y: &[E]) -> Result<f64, KernelError> {
        expect("dot", "y length", x.len(), y.len())?;
        Ok(E::run_dot(self.isa(), Dot { x, y }))
    }

    /// Σ x_i², as [`Kernels::dot`].
    pub fn norm2(&self, x: &[E]) -> f64 {
        E::run_dot(self.isa(), Dot { x, y: x })
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
        E::run_softmax_rows(self.isa(), SoftmaxRows { x });
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

struct Dot<'a, E> {
    x: &'a [E],
    y: &'a [E],
}

impl<E: Elem> Op<E> for Dot<'_, E> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd<E>>(self, _: S) -> f64 {
        debug_assert_eq!(self.x.len(), self.y.len());
        // SAFETY: both slices have x.len() elements: `Kernels::dot` compared them.
        unsafe { dot(self.x.len(), self.x.as_ptr(), self.y.as_ptr()) }
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

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vecmath_tests;
