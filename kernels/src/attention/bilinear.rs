//! The papers' form of attention: scores x_iᵀ A x_j, one matrix instead of queries and keys.

use crate::attention::plan::PLAN;
use crate::attention::problem::{
    Attention, AttentionGrad, KvGrad, Queries, Save, check_backward, check_forward,
};
use crate::elem::Elem;
use crate::error::{KernelError, expect};
use crate::kernels::Kernels;
use crate::scratch::Scratch;
use crate::view::{Mat, MatMut, Mats, MatsMut, Write};

/// A batch of problems: X (count, T, d), A (d, d), V (count, T, dv); scores are `scale x_iᵀ A x_j`.
#[derive(Debug, Clone, Copy)]
pub struct Bilinear<'a, E> {
    /// Queries and keys.
    pub x: Mats<'a, E>,
    /// Rows: the query's coordinates, columns: the key's.
    pub a: Mat<'a, E>,
    /// Values; may be X itself.
    pub v: Mats<'a, E>,
    /// Factor of the scores.
    pub scale: E,
}

const OP: &str = "bilinear_attention";

impl<'a, E: Elem> Bilinear<'a, E> {
    /// The rows of X that ask, the last tq.
    fn asking(&self, tq: usize) -> Mats<'a, E> {
        self.x.sub(self.x.rows() - tq, tq, 0, self.x.cols())
    }

    fn check(&self, count: usize, tq: usize, d: usize) -> Result<(), KernelError> {
        expect(OP, "a rows", self.x.cols(), self.a.rows())?;
        expect(OP, "a columns", self.x.cols(), self.a.cols())?;
        expect(OP, "q count", self.x.count(), count)?;
        expect(OP, "q columns", self.x.cols(), d)?;
        if tq > self.x.rows() {
            let what = "q rows (queries <= positions)";
            return Err(KernelError::Shape { op: OP, what, expected: self.x.rows(), found: tq });
        }
        Ok(())
    }

    fn attention<'b>(&self, q: Mats<'b, E>) -> Attention<'b, E>
    where
        'a: 'b,
    {
        Attention { q, k: self.x, v: self.v, scale: self.scale, queries: Queries::Last }
    }
}

impl<E: Elem> Kernels<E> {
    /// Scratch elements of [`Kernels::bilinear_attention`] and its backward pass. Grows with every
    /// argument.
    pub fn bilinear_attention_scratch(
        &self,
        count: usize,
        tq: usize,
        tk: usize,
        d: usize,
        dv: usize,
    ) -> usize {
        let rows = count.saturating_mul(tq);
        let products = self.gemm_scratch(rows, d, d).max(self.gemm_scratch(d, rows, d));
        products.max(self.attention_scratch(tq, tk, d, dv))
    }

    /// [`Kernels::attention`] with Q = X A for the last tq positions; `q` (count, tq, d) receives
    /// it, for the backward pass.
    ///
    /// # Errors
    /// As [`Kernels::attention`].
    pub fn bilinear_attention(
        &self,
        x: &Bilinear<'_, E>,
        mut q: MatsMut<'_, E>,
        out: MatsMut<'_, E>,
        save: Save<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        let (count, tq, d) = (q.count(), q.rows(), q.cols());
        x.check(count, tq, d)?;
        check_forward(&x.attention(q.as_ref()), &out, &save)?;
        let needed = self.bilinear_attention_scratch(count, tq, x.x.rows(), d, x.v.cols());
        scratch.get(needed)?;
        self.each_or_all(Write::Set, x.asking(tq), x.a, q.rb(), scratch)?;
        self.attention(&x.attention(q.as_ref()), out, save, scratch)
    }

    /// Gradients through [`Kernels::bilinear_attention`] from what it left: `grad.dq` (count, tq,
    /// d) receives the gradient of Q = X A. dA = Σ Xᵀ dQ is added to `da`; to `grad.dkv`, read as
    /// gradients of keys (X) and values, the gradients of keys and values, and dQ Aᵀ to those of X
    /// in the rows that asked.
    ///
    /// # Errors
    /// As [`Kernels::attention_backward`].
    pub fn bilinear_attention_backward(
        &self,
        x: &Bilinear<'_, E>,
        q: Mats<'_, E>,
        grad: AttentionGrad<'_, E>,
        mut da: MatMut<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        let (count, tq, tk, d) = (q.count(), q.rows(), x.x.rows(), q.cols());
        x.check(count, tq, d)?;
        expect(OP, "da rows", d, da.rows())?;
        expect(OP, "da columns", d, da.cols())?;
        check_backward(&x.attention(q), &grad)?;
        let AttentionGrad { saved, out, dout, mut dq, dkv: mut dx } = grad;
        scratch.get(self.bilinear_attention_scratch(count, tq, tk, d, x.v.cols()))?;
        let shorter = match &mut dx {
            KvGrad::Separate { dk, dv } => {
                KvGrad::Separate { dk: dk.as_mut().map(MatsMut::rb), dv: dv.as_mut().map(MatsMut::rb) }
            }
            KvGrad::Shared(m) => KvGrad::Shared(m.rb()),
        };
        let inner = AttentionGrad { saved, out, dout, dq: dq.rb(), dkv: shorter };
        self.attention_backward_planned(PLAN, &x.attention(q), inner, scratch)?;
        let (asking, dq) = (x.asking(tq), dq.as_ref());
        match (asking.flatten(), dq.flatten()) {
            (Some(rows), Some(dq)) => self.gemm(Write::Add, E::ONE, rows.t(), dq, da, scratch)?,
            _ => {
                for b in 0..count {
                    self.gemm(Write::Add, E::ONE, asking.mat(b).t(), dq.mat(b), da.rb(), scratch)?;
                }
            }
        }
        match dx {
            KvGrad::Separate { dk: Some(dx), .. } | KvGrad::Shared(dx) => {
                self.each_or_all(Write::Add, dq, x.a.t(), dx.sub(tk - tq, tq, 0, d), scratch)
            }
            KvGrad::Separate { dk: None, .. } => Ok(()),
        }
    }

    /// C = or += B A for every B of a batch, in one product where the rows line up.
    fn each_or_all(
        &self,
        write: Write,
        b: Mats<'_, E>,
        a: Mat<'_, E>,
        mut c: MatsMut<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        if let (Some(b), Some(c)) = (b.flatten(), c.rb().flatten()) {
            return self.gemm(write, E::ONE, b, a, c, scratch);
        }
        for i in 0..b.count() {
            self.gemm(write, E::ONE, b.mat(i), a, c.mat(i), scratch)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
