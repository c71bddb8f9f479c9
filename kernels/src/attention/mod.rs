//! Causal softmax attention, forward and backward, over a batch of problems.

use crate::elem::Elem;
use crate::{KernelError, Kernels, Mats, MatsMut, Scratch, expect, reference};

/// Where the gradients of keys and values go. They are added to what is there; what is absent costs nothing.
#[derive(Debug)]
pub enum KvGrad<'a, E> {
    /// Keys and values are different arrays.
    Separate {
        /// Gradient of K (count, tk, d).
        dk: Option<MatsMut<'a, E>>,
        /// Gradient of V (count, tk, dv).
        dv: Option<MatsMut<'a, E>>,
    },
    /// Keys and values are one array (d = dv), and so is its gradient (count, tk, d).
    Shared(MatsMut<'a, E>),
}

impl<E> KvGrad<'_, E> {
    /// Neither is wanted.
    pub const NONE: Self = KvGrad::Separate { dk: None, dv: None };
}

impl<E: Elem> Kernels<E> {
    /// Scratch elements that [`Kernels::attention`] and [`Kernels::attention_backward`] need.
    pub fn attention_scratch(&self, _tq: usize, _tk: usize, _d: usize, _dv: usize) -> usize {
        0
    }

    /// Causal attention. Q (count, tq, d), K (count, tk, d), V (count, tk, dv), 1 <= tq <= tk; the queries are the last tq of
    /// the tk positions (tq = 1: the last query only). probs (count, tq, tk) receives the softmax of `scale q·k` over the
    /// visible keys and 0 beyond; out (count, tq, dv) = probs V.
    ///
    /// # Errors
    /// Shapes that do not fit together; scratch too small.
    #[allow(clippy::too_many_arguments)]
    pub fn attention(
        &self,
        q: Mats<'_, E>,
        k: Mats<'_, E>,
        v: Mats<'_, E>,
        scale: E,
        mut out: MatsMut<'_, E>,
        mut probs: MatsMut<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        check(&q, &k, &v)?;
        expect("attention", "out count", q.count(), out.count())?;
        expect("attention", "out rows", q.rows(), out.rows())?;
        expect("attention", "out columns", v.cols(), out.cols())?;
        expect("attention", "probs count", q.count(), probs.count())?;
        expect("attention", "probs rows", q.rows(), probs.rows())?;
        expect("attention", "probs columns", k.rows(), probs.cols())?;
        scratch.get(self.attention_scratch(q.rows(), k.rows(), q.cols(), v.cols()))?;
        for b in 0..q.count() {
            reference::attention(q.mat(b), k.mat(b), v.mat(b), scale, &mut out.mat(b), &mut probs.mat(b));
        }
        Ok(())
    }

    /// Gradients through [`Kernels::attention`] from `dout` (count, tq, dv) and the saved `probs`: `dq` (count, tq, d) is set;
    /// the gradients of keys and values are added to `dkv`.
    ///
    /// # Errors
    /// Shapes that do not fit together; scratch too small.
    #[allow(clippy::too_many_arguments)]
    pub fn attention_backward(
        &self,
        q: Mats<'_, E>,
        k: Mats<'_, E>,
        v: Mats<'_, E>,
        scale: E,
        probs: Mats<'_, E>,
        dout: Mats<'_, E>,
        mut dq: MatsMut<'_, E>,
        mut dkv: KvGrad<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        check(&q, &k, &v)?;
        expect("attention_backward", "probs count", q.count(), probs.count())?;
        expect("attention_backward", "probs rows", q.rows(), probs.rows())?;
        expect("attention_backward", "probs columns", k.rows(), probs.cols())?;
        expect("attention_backward", "dout count", q.count(), dout.count())?;
        expect("attention_backward", "dout rows", q.rows(), dout.rows())?;
        expect("attention_backward", "dout columns", v.cols(), dout.cols())?;
        expect("attention_backward", "dq count", q.count(), dq.count())?;
        expect("attention_backward", "dq rows", q.rows(), dq.rows())?;
        expect("attention_backward", "dq columns", q.cols(), dq.cols())?;
        let expect_like = |x: &MatsMut<'_, E>, cols: usize, what: [&'static str; 3]| {
            expect("attention_backward", what[0], k.count(), x.count())?;
            expect("attention_backward", what[1], k.rows(), x.rows())?;
            expect("attention_backward", what[2], cols, x.cols())
        };
        match &dkv {
            KvGrad::Separate { dk, dv } => {
                if let Some(dk) = dk {
                    expect_like(dk, k.cols(), ["dk count", "dk rows", "dk columns"])?;
                }
                if let Some(dv) = dv {
                    expect_like(dv, v.cols(), ["dv count", "dv rows", "dv columns"])?;
                }
            }
            KvGrad::Shared(x) => {
                expect("attention_backward", "v columns (shared gradient)", k.cols(), v.cols())?;
                expect_like(x, k.cols(), ["dkv count", "dkv rows", "dkv columns"])?;
            }
        }
        scratch.get(self.attention_scratch(q.rows(), k.rows(), q.cols(), v.cols()))?;
        for b in 0..q.count() {
            reference::attention_backward(
                q.mat(b),
                k.mat(b),
                v.mat(b),
                scale,
                probs.mat(b),
                dout.mat(b),
                &mut dq.mat(b),
                &mut dkv,
                b,
            );
        }
        Ok(())
    }
}

fn check<E: Elem>(q: &Mats<'_, E>, k: &Mats<'_, E>, v: &Mats<'_, E>) -> Result<(), KernelError> {
    expect("attention", "k count", q.count(), k.count())?;
    expect("attention", "v count", q.count(), v.count())?;
    expect("attention", "k columns", q.cols(), k.cols())?;
    expect("attention", "v rows", k.rows(), v.rows())?;
    if q.rows() == 0 || q.rows() > k.rows() {
        return Err(KernelError::Shape {
            op: "attention",
            what: "q rows (1 <= queries <= keys)",
            expected: k.rows(),
            found: q.rows(),
        });
    }
    Ok(())
}
