//! Causal softmax attention, forward and backward, over a batch of problems.

pub(crate) mod backward;
pub(crate) mod bilinear;
pub(crate) mod forward;
#[cfg(feature = "parallel")]
pub(crate) mod parallel;
pub(crate) mod plan;
pub(crate) mod problem;
pub(crate) mod softmax;
pub(crate) mod tile;

pub use bilinear::Bilinear;
pub use problem::{Attention, AttentionGrad, KvGrad, Queries, Save, Saved};

use crate::attention::plan::{PLAN, Plan, Shape, scratch_len};
use crate::attention::problem::{Backward, Forward, check_backward, check_forward};
use crate::elem::Elem;
use crate::error::KernelError;
use crate::kernels::Kernels;
use crate::scratch::Scratch;
use crate::view::{Mats, MatsMut};

impl<E: Elem> Kernels<E> {
    /// Scratch elements that [`Kernels::attention`] and [`Kernels::attention_backward`] need. Grows
    /// with every argument, so the largest shape serves all; saturates instead of overflowing.
    pub fn attention_scratch(&self, tq: usize, tk: usize, d: usize, dv: usize) -> usize {
        scratch_len(Shape { tq, tk, d, dv }, PLAN)
    }

    /// Causal attention: out (count, tq, dv) = P V, P the softmax of `scale q·k` over the visible
    /// keys. As in [`Kernels::softmax_rows`], probabilities below e^−80 (f32) or e^−700 (f64) of
    /// the row's largest are 0. Computed as (Σ e_j v_j) / Σ e_j with e_j <= 1: tk times the largest
    /// |v| must not overflow. Nothing behind the mask is read into a result, not even a NaN times
    /// zero. A query's bits do not depend on which others the call has, save that a last query
    /// alone adds in another order.
    ///
    /// # Errors
    /// Shapes that do not fit together; lists that do not ascend or leave the keys; scratch too
    /// small.
    pub fn attention(
        &self,
        x: &Attention<'_, E>,
        out: MatsMut<'_, E>,
        save: Save<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        self.attention_planned(PLAN, x, out, save, scratch)
    }

    /// [`Kernels::attention`] with blocks of any size that [`Plan`] allows.
    pub(crate) fn attention_planned(
        &self,
        plan: Plan,
        x: &Attention<'_, E>,
        out: MatsMut<'_, E>,
        save: Save<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        check_forward(x, &out, &save)?;
        self.run_forward(plan, x, out, save, scratch.get(x.scratch_len(plan))?);
        Ok(())
    }

    /// The operands have been checked.
    pub(crate) fn run_forward(
        &self,
        plan: Plan,
        x: &Attention<'_, E>,
        out: MatsMut<'_, E>,
        save: Save<'_, E>,
        scratch: &mut [E],
    ) {
        E::run_attention(self.isa(), Forward { plan, x: *x, out, save, scratch });
    }

    /// Gradients through [`Kernels::attention`] from its `out`, what it saved, and `dout` (count,
    /// tq, dv): `dq` (count, tq, d) is set, the gradients of keys and values are added to `dkv`.
    ///
    /// # Errors
    /// As [`Kernels::attention`].
    #[expect(
        clippy::too_many_arguments,
        reason = "the operands of one formula, which callers hold as separate views"
    )]
    pub fn attention_backward(
        &self,
        x: &Attention<'_, E>,
        saved: Saved<'_, E>,
        out: Mats<'_, E>,
        dout: Mats<'_, E>,
        dq: MatsMut<'_, E>,
        dkv: KvGrad<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        self.attention_backward_planned(PLAN, x, AttentionGrad { saved, out, dout, dq, dkv }, scratch)
    }

    /// [`Kernels::attention_backward`] with blocks of any size that [`Plan`] allows.
    pub(crate) fn attention_backward_planned(
        &self,
        plan: Plan,
        x: &Attention<'_, E>,
        grad: AttentionGrad<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        check_backward(x, &grad)?;
        self.run_backward(plan, x, grad, scratch.get(x.scratch_len(plan))?);
        Ok(())
    }

    /// The operands have been checked.
    pub(crate) fn run_backward(
        &self,
        plan: Plan,
        x: &Attention<'_, E>,
        grad: AttentionGrad<'_, E>,
        scratch: &mut [E],
    ) {
        E::run_attention_backward(self.isa(), Backward { plan, x: *x, grad, scratch });
    }
}

#[cfg(test)]
mod tests;
