//! Causal softmax attention, forward and backward, over a batch of problems.

use crate::elem::Elem;
use crate::{KernelError, Kernels, Mats, MatsMut, Scratch, expect, reference};

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
    /// `dk` (count, tk, d) and `dv` (count, tk, dv), where given, are added to.
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
        mut dk: Option<MatsMut<'_, E>>,
        mut dv: Option<MatsMut<'_, E>>,
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
        if let Some(dk) = &dk {
            expect("attention_backward", "dk count", k.count(), dk.count())?;
            expect("attention_backward", "dk rows", k.rows(), dk.rows())?;
            expect("attention_backward", "dk columns", k.cols(), dk.cols())?;
        }
        if let Some(dv) = &dv {
            expect("attention_backward", "dv count", v.count(), dv.count())?;
            expect("attention_backward", "dv rows", v.rows(), dv.rows())?;
            expect("attention_backward", "dv columns", v.cols(), dv.cols())?;
        }
        scratch.get(self.attention_scratch(q.rows(), k.rows(), q.cols(), v.cols()))?;
        for b in 0..q.count() {
            let mut dkb = dk.as_mut().map(|x| x.mat(b));
            let mut dvb = dv.as_mut().map(|x| x.mat(b));
            reference::attention_backward(
                q.mat(b),
                k.mat(b),
                v.mat(b),
                scale,
                probs.mat(b),
                dout.mat(b),
                &mut dq.mat(b),
                dkb.as_mut(),
                dvb.as_mut(),
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
