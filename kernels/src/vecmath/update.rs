//! Updates of parameters, and the rectifier: flat vectors in place.

pub(crate) mod loops;
pub(crate) mod problem;

use crate::elem::Elem;
use crate::error::{KernelError, expect};
use crate::kernels::Kernels;
use crate::vecmath::update::problem::{
    Accumulate, AdamOp, AdamW, ColumnSums, Relu, ReluBackward, Sgd, SgdOp,
};
use crate::view::Write;

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

impl<E: Elem> Kernels<E> {
    /// A step of gradient descent in PyTorch's convention: b ← m b + (g + λ θ), θ ← θ − lr b.
    /// Without momentum (m = 0) θ ← θ − lr (g + λ θ) and `buf` is empty; before the first step with
    /// momentum it holds zeros. Each operation is rounded to E: the same bits on every instruction
    /// set.
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

    /// Step number `t` (from 1) of AdamW: m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², θ ← (1 −
    /// lr λ) θ − lr m̂ / (sqrt v̂ + eps), m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ). `m` and `v` hold
    /// zeros before the first step.
    ///
    /// The scalar factors are computed in f64, each operation on elements is rounded to E: the same
    /// bits on every instruction set.
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

    /// `acc += x` in f64, the fold of gradients: one rounding each, the same bits on every
    /// instruction set.
    ///
    /// # Errors
    /// Lengths differ.
    pub fn accumulate(&self, x: &[E], acc: &mut [f64]) -> Result<(), KernelError> {
        expect("accumulate", "acc length", x.len(), acc.len())?;
        E::run_accumulate(self.isa(), Accumulate { x, acc });
        Ok(())
    }

    /// `out = factor Σ rows of x` ([`Write::Set`]) or `out += factor Σ rows of x`: x (B, D) one row
    /// after the other, out (D). Sums in order of rows, each operation rounded to E: the same bits
    /// on every instruction set.
    ///
    /// # Errors
    /// A length of x that is not whole rows.
    pub fn column_sums(&self, x: &[E], factor: E, write: Write, out: &mut [E]) -> Result<(), KernelError> {
        if out.is_empty() {
            return expect("column_sums", "x length", 0, x.len());
        }
        expect("column_sums", "x length", x.len().next_multiple_of(out.len()), x.len())?;
        E::run_column_sums(self.isa(), ColumnSums { x, factor, write, out });
        Ok(())
    }

    /// x ← max(x, 0) in place; NaN stays, and −0.
    pub fn relu(&self, x: &mut [E]) {
        E::run_relu(self.isa(), Relu { x });
    }

    /// Gradient through [`Kernels::relu`] in place, given what it left in `out`: 0 where out <= 0,
    /// unchanged elsewhere.
    ///
    /// # Errors
    /// Lengths differ.
    pub fn relu_backward(&self, out: &[E], grad: &mut [E]) -> Result<(), KernelError> {
        expect("relu_backward", "grad length", out.len(), grad.len())?;
        E::run_relu_backward(self.isa(), ReluBackward { out, grad });
        Ok(())
    }
}
