//! exp, ln, sums and softmax as operations on checked operands.

use crate::elem::real::Real;
use crate::simd::{Op, Simd, compiled_once};
use crate::vecmath::exp::exp_slice;
use crate::vecmath::log::ln_slice;
use crate::vecmath::softmax;
use crate::vecmath::sum::{dot, sum};
use crate::view::MatMut;

compiled_once! {
    /// exp, ln, sums and softmax.
    VecmathBodies {
        fn run_exp(Exp<'_, Self>);
        fn run_ln(Ln<'_, Self>);
        fn run_sum(Sum<'_, Self>) -> f64;
        fn run_dot(Dot<'_, Self>) -> f64;
        fn run_softmax_rows(SoftmaxRows<'_, Self>);
    }
}

pub(crate) struct Exp<'a, E> {
    pub(crate) x: &'a [E],
    pub(crate) out: &'a mut [E],
}

impl<E: Real> Op<E> for Exp<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        debug_assert_eq!(self.x.len(), self.out.len());
        // SAFETY: both slices have x.len() elements: `Kernels::exp` compared them.
        unsafe { exp_slice::<E, S>(s, self.x.len(), self.x.as_ptr(), self.out.as_mut_ptr()) }
    }
}

pub(crate) struct Ln<'a, E> {
    pub(crate) x: &'a [E],
    pub(crate) out: &'a mut [E],
}

impl<E: Real> Op<E> for Ln<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        debug_assert_eq!(self.x.len(), self.out.len());
        // SAFETY: both slices have x.len() elements: `Kernels::ln` compared them.
        unsafe { ln_slice::<E, S>(s, self.x.len(), self.x.as_ptr(), self.out.as_mut_ptr()) }
    }
}

pub(crate) struct Sum<'a, E> {
    pub(crate) x: &'a [E],
}

impl<E: Real> Op<E> for Sum<'_, E> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd<E>>(self, _: S) -> f64 {
        // SAFETY: a slice of x.len() elements.
        unsafe { sum(self.x.len(), self.x.as_ptr(), 1) }
    }
}

pub(crate) struct Dot<'a, E> {
    pub(crate) x: &'a [E],
    pub(crate) y: &'a [E],
}

impl<E: Real> Op<E> for Dot<'_, E> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd<E>>(self, _: S) -> f64 {
        debug_assert_eq!(self.x.len(), self.y.len());
        // SAFETY: both slices have x.len() elements: `Kernels::dot` compared them.
        unsafe { dot(self.x.len(), self.x.as_ptr(), self.y.as_ptr()) }
    }
}

pub(crate) struct SoftmaxRows<'a, E> {
    pub(crate) x: MatMut<'a, E>,
}

impl<E: Real> Op<E> for SoftmaxRows<'_, E> {
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
