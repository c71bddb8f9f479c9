//! Steps of optimisers and other updates: what they take, and the operations on checked operands.

use crate::elem::real::Real;
use crate::simd::{Op, Simd, compiled_once};
use crate::vecmath::update::loops;
use crate::vecmath::update::loops::AdamFactors;
use crate::view::Write;

/// What a step of [`Kernels::sgd`](crate::Kernels::sgd) takes: all finite and >= 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f64,
    /// m of the running sum of gradients; 0: there is none.
    pub momentum: f64,
    /// λ, added to the gradient as λ θ.
    pub weight_decay: f64,
}

/// What a step of [`Kernels::adamw`](crate::Kernels::adamw) takes: all finite and >= 0, the betas
/// below 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the mean gradient.
    pub beta1: f64,
    /// Decay of the mean square.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// λ of the decoupled decay θ ← (1 − lr λ) θ.
    pub weight_decay: f64,
}

compiled_once! {
    /// Optimiser steps, the fold of gradients, the rectifier.
    UpdateBodies {
        fn run_sgd(SgdOp<'_, Self>);
        fn run_adamw(AdamOp<'_, Self>);
        fn run_accumulate(Accumulate<'_, Self>);
        fn run_column_sums(ColumnSums<'_, Self>);
        fn run_relu(Relu<'_, Self>);
        fn run_relu_backward(ReluBackward<'_, Self>);
    }
}

impl AdamW {
    /// In f64, then rounded. 1 − βᵗ as −expm1(t ln β): exact to a few ulps also where βᵗ is near 1.
    pub(crate) fn factors<E: Real>(&self, t: u64) -> AdamFactors<E> {
        let [c1, c2] = [self.beta1, self.beta2].map(|b| -(t as f64 * b.ln()).exp_m1());
        AdamFactors {
            shrink: E::from_f64(1.0 - self.lr * self.weight_decay),
            beta1: E::from_f64(self.beta1),
            rest1: E::from_f64(1.0 - self.beta1),
            beta2: E::from_f64(self.beta2),
            rest2: E::from_f64(1.0 - self.beta2),
            rate: E::from_f64(self.lr / c1),
            root: E::from_f64(1.0 / c2.sqrt()),
            eps: E::from_f64(self.eps),
        }
    }
}

pub(crate) struct SgdOp<'a, E> {
    pub(crate) step: Sgd,
    pub(crate) params: &'a mut [E],
    pub(crate) grad: &'a [E],
    pub(crate) buf: &'a mut [E],
}

impl<E: Real> Op<E> for SgdOp<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        let factors =
            [E::from_f64(self.step.lr), E::from_f64(self.step.momentum), E::from_f64(self.step.weight_decay)];
        let n = self.params.len();
        let (p, g, b) = (self.params.as_mut_ptr(), self.grad.as_ptr(), self.buf.as_mut_ptr());
        // SAFETY: slices of n elements, `buf` empty and not touched without momentum:
        // `Kernels::sgd` compared them.
        unsafe {
            if self.step.momentum == 0.0 {
                loops::sgd::<E, S, false>(s, n, p, g, b, factors);
            } else {
                loops::sgd::<E, S, true>(s, n, p, g, b, factors);
            }
        }
    }
}

pub(crate) struct AdamOp<'a, E> {
    pub(crate) factors: AdamFactors<E>,
    pub(crate) params: &'a mut [E],
    pub(crate) grad: &'a [E],
    pub(crate) m: &'a mut [E],
    pub(crate) v: &'a mut [E],
}

impl<E: Real> Op<E> for AdamOp<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        let n = self.params.len();
        let (p, g) = (self.params.as_mut_ptr(), self.grad.as_ptr());
        // SAFETY: four slices of n elements: `Kernels::adamw` compared them.
        unsafe { loops::adamw::<E, S>(s, n, p, g, self.m.as_mut_ptr(), self.v.as_mut_ptr(), self.factors) }
    }
}

pub(crate) struct Accumulate<'a, E> {
    pub(crate) x: &'a [E],
    pub(crate) acc: &'a mut [f64],
}

impl<E: Real> Op<E> for Accumulate<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, _: S) {
        // The compiler vectorises it with the features of S, widening included.
        for (a, x) in self.acc.iter_mut().zip(self.x) {
            *a += x.to_f64();
        }
    }
}

pub(crate) struct ColumnSums<'a, E> {
    pub(crate) x: &'a [E],
    pub(crate) factor: E,
    pub(crate) write: Write,
    pub(crate) out: &'a mut [E],
}

impl<E: Real> Op<E> for ColumnSums<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        let (d, add) = (self.out.len(), self.write == Write::Add);
        let (rows, x, out) = (self.x.len() / d, self.x.as_ptr(), self.out.as_mut_ptr());
        // SAFETY: rows of out.len() elements: `Kernels::column_sums` compared them.
        unsafe { loops::column_sums::<E, S>(s, [rows, d], x, self.factor, add, out) }
    }
}

pub(crate) struct Relu<'a, E> {
    pub(crate) x: &'a mut [E],
}

impl<E: Real> Op<E> for Relu<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        // SAFETY: a slice of x.len() elements.
        unsafe { loops::relu::<E, S>(s, self.x.len(), self.x.as_mut_ptr()) }
    }
}

pub(crate) struct ReluBackward<'a, E> {
    pub(crate) out: &'a [E],
    pub(crate) grad: &'a mut [E],
}

impl<E: Real> Op<E> for ReluBackward<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        // SAFETY: two slices of out.len() elements: `Kernels::relu_backward` compared them.
        unsafe {
            loops::relu_backward::<E, S>(s, self.out.len(), self.out.as_ptr(), self.grad.as_mut_ptr());
        }
    }
}
