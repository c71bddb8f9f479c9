//! Causal softmax attention, forward and backward, over a batch of problems.

use crate::arch::generic::attention::{Grads, In, Out, Saved, Shape, backward, forward, scratch_len};
use crate::arch::{Op, Simd};
use crate::elem::Elem;
use crate::{KernelError, Kernels, Mats, MatsMut, Scratch, expect};

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
    /// Scratch elements that [`Kernels::attention`] and [`Kernels::attention_backward`] need. Grows with every argument, so the
    /// largest shape serves all; saturates instead of overflowing.
    pub fn attention_scratch(&self, tq: usize, tk: usize, d: usize, dv: usize) -> usize {
        scratch_len(Shape { tq, tk, d, dv })
    }

    /// Causal attention. Q (count, tq, d), K (count, tk, d), V (count, tk, dv), 1 <= tq <= tk; the queries are the last tq of
    /// the tk positions (tq = 1: the last query only). probs (count, tq, tk) receives the softmax of `scale q·k` over the
    /// visible keys and 0 beyond; out (count, tq, dv) = probs V. As in [`Kernels::softmax_rows`], probabilities below e^−80 (f32) or
    /// e^−700 (f64) of the row's largest are 0. Nothing behind the mask is read into a result, not even a NaN times zero.
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
        out: MatsMut<'_, E>,
        probs: MatsMut<'_, E>,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        check(&q, &k, &v)?;
        expect("attention", "out count", q.count(), out.count())?;
        expect("attention", "out rows", q.rows(), out.rows())?;
        expect("attention", "out columns", v.cols(), out.cols())?;
        expect("attention", "probs count", q.count(), probs.count())?;
        expect("attention", "probs rows", q.rows(), probs.rows())?;
        expect("attention", "probs columns", k.rows(), probs.cols())?;
        let shape = Shape { tq: q.rows(), tk: k.rows(), d: q.cols(), dv: v.cols() };
        let scratch = scratch.get(scratch_len(shape))?;
        E::dispatch(self.isa(), Forward { shape, q, k, v, scale, out, probs, scratch });
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
        dq: MatsMut<'_, E>,
        dkv: KvGrad<'_, E>,
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
        let shape = Shape { tq: q.rows(), tk: k.rows(), d: q.cols(), dv: v.cols() };
        let scratch = scratch.get(scratch_len(shape))?;
        E::dispatch(self.isa(), Backward { shape, q, k, v, scale, probs, dout, dq, dkv, scratch });
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

/// The whole batch: one entry into the instruction set per call.
struct Forward<'a, E> {
    shape: Shape,
    q: Mats<'a, E>,
    k: Mats<'a, E>,
    v: Mats<'a, E>,
    scale: E,
    out: MatsMut<'a, E>,
    probs: MatsMut<'a, E>,
    scratch: &'a mut [E],
}

impl<E: Elem> Op<E> for Forward<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(mut self, s: S) {
        for b in 0..self.q.count() {
            let (q, k, v) = (input(&self.q, b), input(&self.k, b), input(&self.v, b));
            let (out, probs) = (output(&mut self.out, b), output(&mut self.probs, b));
            // SAFETY: checked views whose counts and shapes `Kernels::attention` compared; mutable views are exclusive
            // borrows; `Scratch::get` gave scratch_len elements.
            unsafe { forward(s, self.shape, self.scale, q, k, v, out, probs, self.scratch.as_mut_ptr()) }
        }
    }
}

struct Backward<'a, E> {
    shape: Shape,
    q: Mats<'a, E>,
    k: Mats<'a, E>,
    v: Mats<'a, E>,
    scale: E,
    probs: Mats<'a, E>,
    dout: Mats<'a, E>,
    dq: MatsMut<'a, E>,
    dkv: KvGrad<'a, E>,
    scratch: &'a mut [E],
}

impl<E: Elem> Op<E> for Backward<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(mut self, s: S) {
        for b in 0..self.q.count() {
            let (q, k, v) = (input(&self.q, b), input(&self.k, b), input(&self.v, b));
            let (probs, dout) = (input(&self.probs, b), input(&self.dout, b));
            let dq = output(&mut self.dq, b);
            // Shared: both gradients go to the same rows, one after the other.
            let (dk, dv) = match &mut self.dkv {
                KvGrad::Separate { dk, dv } => (optional(dk, b), optional(dv, b)),
                KvGrad::Shared(m) => (Some(output(m, b)), Some(output(m, b))),
            };
            let (saved, grads) = (Saved { q, k, v, probs, dout }, Grads { dq, dk, dv });
            let scratch = self.scratch.as_mut_ptr();
            // SAFETY: checked views whose counts and shapes `Kernels::attention_backward` compared; mutable views are
            // exclusive borrows, and dk = dv only in the shared case, whose widths it compared too; `Scratch::get` gave
            // scratch_len elements.
            unsafe { backward(s, self.shape, self.scale, saved, grads, scratch) }
        }
    }
}

#[inline(always)]
fn input<E: Elem>(m: &Mats<'_, E>, b: usize) -> In<E> {
    let m = m.mat(b);
    In(m.ptr(), m.row_stride())
}

#[inline(always)]
fn output<E: Elem>(m: &mut MatsMut<'_, E>, b: usize) -> Out<E> {
    let mut m = m.mat(b);
    Out(m.ptr(), m.row_stride())
}

#[inline(always)]
fn optional<E: Elem>(m: &mut Option<MatsMut<'_, E>>, b: usize) -> Option<Out<E>> {
    match m {
        Some(m) => Some(output(m, b)),
        None => None,
    }
}

#[cfg(test)]
mod tests;
