//! Updates of parameters, and the rectifier: flat vectors in place.

use crate::arch::generic::optim::{self, AdamFactors};
use crate::arch::{Op, Simd, compiled_once};
use crate::elem::Elem;
use crate::{KernelError, Kernels, expect};

/// What a step of [`Kernels::sgd`] takes: all finite and >= 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f64,
    /// m of the running sum of gradients; 0: there is none.
    pub momentum: f64,
    /// λ, added to the gradient as λ θ.
    pub weight_decay: f64,
}

/// What a step of [`Kernels::adamw`] takes: all finite and >= 0, the betas below 1.
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

fn check(
    op: &'static str,
    what: &'static str,
    x: f64,
    below: f64,
    allowed: &'static str,
) -> Result<(), KernelError> {
    if x >= 0.0 && x < below { Ok(()) } else { Err(KernelError::Domain { op, what, allowed }) }
}

const FINITE: &str = "finite, >= 0";
const SHARE: &str = ">= 0, < 1";

compiled_once! {
    /// Optimiser steps, the fold of gradients, the rectifier.
    UpdateBodies {
        fn run_sgd(SgdOp<'_, Self>);
        fn run_adamw(AdamOp<'_, Self>);
        fn run_accumulate(Accumulate<'_, Self>);
        fn run_relu(Relu<'_, Self>);
        fn run_relu_backward(ReluBackward<'_, Self>);
    }
}

impl<E: Elem> Kernels<E> {
    /// A step of gradient descent in PyTorch's convention: b ← m b + (g + λ θ), θ ← θ − lr b. Without momentum (m = 0) θ ← θ − lr (g + λ θ) and
    /// `buf` is empty; before the first step with momentum it holds zeros. Each operation is rounded to E: the same bits on every
    /// instruction set.
    ///
    /// # Errors
    /// Lengths differ; a value of `step` out of range.
    pub fn sgd(&self, step: Sgd, params: &mut [E], grad: &[E], buf: &mut [E]) -> Result<(), KernelError> {
        expect("sgd", "grad length", params.len(), grad.len())?;
        expect("sgd", "buf length", if step.momentum == 0.0 { 0 } else { params.len() }, buf.len())?;
        check("sgd", "lr", step.lr, f64::INFINITY, FINITE)?;
        check("sgd", "momentum", step.momentum, f64::INFINITY, FINITE)?;
        check("sgd", "weight_decay", step.weight_decay, f64::INFINITY, FINITE)?;
        E::run_sgd(self.isa(), SgdOp { step, params, grad, buf });
        Ok(())
    }

    /// Step number `t` (from 1) of AdamW: m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g²,
    /// θ ← (1 − lr λ) θ − lr m̂ / (sqrt v̂ + eps), m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ). `m` and `v` hold zeros before the first step.
    ///
    /// The scalar factors are computed in f64, each operation on elements is rounded to E: the same bits on every instruction set.
    ///
    /// # Errors
    /// Lengths differ; t = 0; a value of `step` out of range.
    pub fn adamw(
        &self,
        step: AdamW,
        t: u64,
        params: &mut [E],
        grad: &[E],
        m: &mut [E],
        v: &mut [E],
    ) -> Result<(), KernelError> {
        expect("adamw", "grad length", params.len(), grad.len())?;
        expect("adamw", "m length", params.len(), m.len())?;
        expect("adamw", "v length", params.len(), v.len())?;
        check("adamw", "lr", step.lr, f64::INFINITY, FINITE)?;
        check("adamw", "beta1", step.beta1, 1.0, SHARE)?;
        check("adamw", "beta2", step.beta2, 1.0, SHARE)?;
        check("adamw", "eps", step.eps, f64::INFINITY, FINITE)?;
        check("adamw", "weight_decay", step.weight_decay, f64::INFINITY, FINITE)?;
        if t == 0 {
            return Err(KernelError::Domain { op: "adamw", what: "t", allowed: ">= 1" });
        }
        E::run_adamw(self.isa(), AdamOp { factors: step.factors(t), params, grad, m, v });
        Ok(())
    }

    /// `acc += x` in f64, the fold of gradients: one rounding each, the same bits on every instruction set.
    ///
    /// # Errors
    /// Lengths differ.
    pub fn accumulate(&self, x: &[E], acc: &mut [f64]) -> Result<(), KernelError> {
        expect("accumulate", "acc length", x.len(), acc.len())?;
        E::run_accumulate(self.isa(), Accumulate { x, acc });
        Ok(())
    }

    /// x ← max(x, 0) in place; NaN stays, and −0.
    pub fn relu(&self, x: &mut [E]) {
        E::run_relu(self.isa(), Relu { x });
    }

    /// Gradient through [`Kernels::relu`] in place, given what it left in `out`: 0 where out <= 0, unchanged elsewhere.
    ///
    /// # Errors
    /// Lengths differ.
    pub fn relu_backward(&self, out: &[E], grad: &mut [E]) -> Result<(), KernelError> {
        expect("relu_backward", "grad length", out.len(), grad.len())?;
        E::run_relu_backward(self.isa(), ReluBackward { out, grad });
        Ok(())
    }
}

impl AdamW {
    /// In f64, then rounded. 1 − βᵗ as −expm1(t ln β): exact to a few ulps also where βᵗ is near 1.
    fn factors<E: Elem>(&self, t: u64) -> AdamFactors<E> {
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

struct SgdOp<'a, E> {
    step: Sgd,
    params: &'a mut [E],
    grad: &'a [E],
    buf: &'a mut [E],
}

impl<E: Elem> Op<E> for SgdOp<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        let factors =
            [E::from_f64(self.step.lr), E::from_f64(self.step.momentum), E::from_f64(self.step.weight_decay)];
        let n = self.params.len();
        let (p, g, b) = (self.params.as_mut_ptr(), self.grad.as_ptr(), self.buf.as_mut_ptr());
        // SAFETY: slices of n elements, `buf` empty and not touched without momentum: `Kernels::sgd` compared them.
        unsafe {
            if self.step.momentum == 0.0 {
                optim::sgd::<E, S, false>(s, n, p, g, b, factors);
            } else {
                optim::sgd::<E, S, true>(s, n, p, g, b, factors);
            }
        }
    }
}

struct AdamOp<'a, E> {
    factors: AdamFactors<E>,
    params: &'a mut [E],
    grad: &'a [E],
    m: &'a mut [E],
    v: &'a mut [E],
}

impl<E: Elem> Op<E> for AdamOp<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        let n = self.params.len();
        let (p, g) = (self.params.as_mut_ptr(), self.grad.as_ptr());
        // SAFETY: four slices of n elements: `Kernels::adamw` compared them.
        unsafe { optim::adamw::<E, S>(s, n, p, g, self.m.as_mut_ptr(), self.v.as_mut_ptr(), self.factors) }
    }
}

struct Accumulate<'a, E> {
    x: &'a [E],
    acc: &'a mut [f64],
}

impl<E: Elem> Op<E> for Accumulate<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, _: S) {
        // The compiler vectorises it with the features of S, widening included.
        for (a, x) in self.acc.iter_mut().zip(self.x) {
            *a += x.to_f64();
        }
    }
}

struct Relu<'a, E> {
    x: &'a mut [E],
}

impl<E: Elem> Op<E> for Relu<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        // SAFETY: a slice of x.len() elements.
        unsafe { optim::relu::<E, S>(s, self.x.len(), self.x.as_mut_ptr()) }
    }
}

struct ReluBackward<'a, E> {
    out: &'a [E],
    grad: &'a mut [E],
}

impl<E: Elem> Op<E> for ReluBackward<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        // SAFETY: two slices of out.len() elements: `Kernels::relu_backward` compared them.
        unsafe {
            optim::relu_backward::<E, S>(s, self.out.len(), self.out.as_ptr(), self.grad.as_mut_ptr());
        }
    }
}
