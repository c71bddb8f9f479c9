//! What attention is asked to do: operands, their checks, and the two operations on checked
//! operands.

use crate::attention::plan::{In, Out, Plan, Rows, Shape, scratch_len};
use crate::attention::{backward, forward};
use crate::elem::real::Real;
use crate::error::{KernelError, expect};
use crate::simd::{Op, Simd, compiled_once};
use crate::view::{Mats, MatsMut};

/// A batch of problems: Q (count, tq, d), K (count, tk, d), V (count, tk, dv); scores are
/// `scale q·k`.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a, E> {
    /// Queries.
    pub q: Mats<'a, E>,
    /// Keys.
    pub k: Mats<'a, E>,
    /// Values.
    pub v: Mats<'a, E>,
    /// Factor of the scores.
    pub scale: E,
    /// Which queries, and where they stand: each sees the keys up to its own position.
    pub queries: Queries<'a>,
}

/// The queries of a batch.
#[derive(Debug, Clone, Copy)]
pub enum Queries<'a> {
    /// The last tq of the tk positions, 1 <= tq <= tk: all of them, or the last one only.
    Last,
    /// Some of tk rows, those of problem b at `positions[starts[b]..starts[b + 1]]`, ascending.
    /// Everything that has a row per query has tk rows; those not listed are not read, and only
    /// gradients are written to them: zeros.
    Listed {
        /// count + 1 indices into `positions`: 0 first, ascending, its length last.
        starts: &'a [usize],
        /// Positions, each list strictly ascending and below tk.
        positions: &'a [usize],
    },
}

/// What the forward pass leaves for the backward pass.
#[derive(Debug)]
pub enum Save<'a, E> {
    /// Nothing: no backward pass follows.
    Nothing,
    /// (count, tq, 2), per query its largest score m and r = 1 / Σ exp(score − m): log-sum-exp is m
    /// − ln r. In two numbers, because next to a large m one would lose the logarithm of the number
    /// of ties.
    Rows(MatsMut<'a, E>),
    /// (count, tq, tk), the probabilities; 0 behind the mask.
    Probs(MatsMut<'a, E>),
}

/// What the backward pass starts from: see [`Save`].
#[derive(Debug, Clone, Copy)]
pub enum Saved<'a, E> {
    /// (count, tq, 2): the probabilities are computed again.
    Rows(Mats<'a, E>),
    /// (count, tq, tk).
    Probs(Mats<'a, E>),
}

/// Where the gradients of keys and values go. They are added to what is there; what is absent costs
/// nothing.
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

/// What the backward pass starts from beside the operands, and where its gradients go.
#[derive(Debug)]
pub struct AttentionGrad<'a, E> {
    /// What the forward pass saved.
    pub saved: Saved<'a, E>,
    /// O (count, tq, dv), the output of the forward pass.
    pub out: Mats<'a, E>,
    /// Gradient of O (count, tq, dv).
    pub dout: Mats<'a, E>,
    /// Gradient of Q (count, tq, d), which is set.
    pub dq: MatsMut<'a, E>,
    /// Gradients of K and V, which are added to.
    pub dkv: KvGrad<'a, E>,
}

impl<E> KvGrad<'_, E> {
    /// Neither is wanted.
    pub const NONE: Self = KvGrad::Separate { dk: None, dv: None };
}

impl<'a, E: Real> Attention<'a, E> {
    fn shape(&self) -> Shape {
        Shape { tq: self.q.rows(), tk: self.k.rows(), d: self.q.cols(), dv: self.v.cols() }
    }

    /// Scratch elements with the given blocks.
    pub(crate) fn scratch_len(&self, plan: Plan) -> usize {
        scratch_len(self.shape(), plan)
    }

    pub(crate) fn check(&self, op: &'static str) -> Result<(), KernelError> {
        let (count, tk) = (self.q.count(), self.k.rows());
        expect(op, "k count", count, self.k.count())?;
        expect(op, "v count", count, self.v.count())?;
        expect(op, "k columns", self.q.cols(), self.k.cols())?;
        expect(op, "v rows", tk, self.v.rows())?;
        match self.queries {
            Queries::Last => {
                if self.q.rows() == 0 || self.q.rows() > tk {
                    let what = "q rows (1 <= queries <= keys)";
                    return Err(KernelError::Shape { op, what, expected: tk, found: self.q.rows() });
                }
                Ok(())
            }
            Queries::Listed { starts, positions } => {
                expect(op, "q rows (listed queries)", tk, self.q.rows())?;
                if tk == 0 {
                    let what = "keys (at least 1)";
                    return Err(KernelError::Shape { op, what, expected: 1, found: 0 });
                }
                expect(op, "starts of the lists", count + 1, starts.len())?;
                let ends = starts[0] == 0 && starts[count] == positions.len();
                if !ends || starts.windows(2).any(|w| w[0] > w[1]) {
                    let allowed = "from 0 up to the number of positions, ascending";
                    return Err(KernelError::Domain { op, what: "starts of the lists", allowed });
                }
                for w in starts.windows(2) {
                    let list = &positions[w[0]..w[1]];
                    if list.windows(2).any(|w| w[0] >= w[1]) || list.last().is_some_and(|p| *p >= tk) {
                        let allowed = "strictly ascending in each list, below the number of keys";
                        return Err(KernelError::Domain { op, what: "positions", allowed });
                    }
                }
                Ok(())
            }
        }
    }

    /// An array with a row per query.
    fn expect_rows(
        &self,
        op: &'static str,
        x: &Mats<'_, E>,
        cols: usize,
        what: [&'static str; 3],
    ) -> Result<(), KernelError> {
        expect(op, what[0], self.q.count(), x.count())?;
        expect(op, what[1], self.q.rows(), x.rows())?;
        expect(op, what[2], cols, x.cols())
    }
}

const FORWARD: &str = "attention";
const BACKWARD: &str = "attention_backward";

pub(crate) fn check_forward<E: Real>(
    x: &Attention<'_, E>,
    out: &MatsMut<'_, E>,
    save: &Save<'_, E>,
) -> Result<(), KernelError> {
    x.check(FORWARD)?;
    x.expect_rows(FORWARD, &out.as_ref(), x.v.cols(), ["out count", "out rows", "out columns"])?;
    match save {
        Save::Nothing => Ok(()),
        Save::Rows(m) => {
            x.expect_rows(FORWARD, &m.as_ref(), 2, ["saved count", "saved rows", "saved columns"])
        }
        Save::Probs(m) => {
            let what = ["probs count", "probs rows", "probs columns"];
            x.expect_rows(FORWARD, &m.as_ref(), x.k.rows(), what)
        }
    }
}

pub(crate) fn check_backward<E: Real>(
    x: &Attention<'_, E>,
    grad: &AttentionGrad<'_, E>,
) -> Result<(), KernelError> {
    let AttentionGrad { saved, out, dout, dq, dkv } = grad;
    x.check(BACKWARD)?;
    match saved {
        Saved::Rows(m) => x.expect_rows(BACKWARD, m, 2, ["saved count", "saved rows", "saved columns"])?,
        Saved::Probs(m) => {
            x.expect_rows(BACKWARD, m, x.k.rows(), ["probs count", "probs rows", "probs columns"])?;
        }
    }
    x.expect_rows(BACKWARD, out, x.v.cols(), ["out count", "out rows", "out columns"])?;
    x.expect_rows(BACKWARD, dout, x.v.cols(), ["dout count", "dout rows", "dout columns"])?;
    x.expect_rows(BACKWARD, &dq.as_ref(), x.q.cols(), ["dq count", "dq rows", "dq columns"])?;
    let expect_like = |m: &MatsMut<'_, E>, cols: usize, what: [&'static str; 3]| {
        expect(BACKWARD, what[0], x.k.count(), m.count())?;
        expect(BACKWARD, what[1], x.k.rows(), m.rows())?;
        expect(BACKWARD, what[2], cols, m.cols())
    };
    match dkv {
        KvGrad::Separate { dk, dv } => {
            if let Some(dk) = dk {
                expect_like(dk, x.k.cols(), ["dk count", "dk rows", "dk columns"])?;
            }
            if let Some(dv) = dv {
                expect_like(dv, x.v.cols(), ["dv count", "dv rows", "dv columns"])?;
            }
            Ok(())
        }
        KvGrad::Shared(m) => {
            expect(BACKWARD, "v columns (shared gradient)", x.k.cols(), x.v.cols())?;
            expect_like(m, x.k.cols(), ["dkv count", "dkv rows", "dkv columns"])
        }
    }
}

compiled_once! {
    /// Both directions.
    AttentionBodies {
        fn run_attention(Forward<'_, Self>);
        fn run_attention_backward(Backward<'_, Self>);
    }
}

/// A batch whose operands are checked and fit together: one entry into the instruction set per
/// call.
pub(crate) struct Forward<'a, E> {
    pub(crate) plan: Plan,
    pub(crate) x: Attention<'a, E>,
    pub(crate) out: MatsMut<'a, E>,
    pub(crate) save: Save<'a, E>,
    pub(crate) scratch: &'a mut [E],
}

impl<E: Real> Op<E> for Forward<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(mut self, s: S) {
        let (x, shape) = (self.x, self.x.shape());
        assert!(self.scratch.len() >= scratch_len(shape, self.plan));
        for b in 0..x.q.count() {
            let (q, k, v) = (input(&x.q, b), input(&x.k, b), input(&x.v, b));
            let out = output(&mut self.out, b);
            let save = match &mut self.save {
                Save::Nothing => forward::SaveTo::Nothing,
                Save::Rows(m) => forward::SaveTo::Rows(output(m, b)),
                Save::Probs(m) => forward::SaveTo::Probs(output(m, b)),
            };
            let (rows, scratch) = (rows(&x, b), self.scratch.as_mut_ptr());
            let (plan, scale) = (self.plan, x.scale);
            let problem = forward::Problem { x: shape, plan, scale, q, k, v, rows, out, save };
            // SAFETY: checked views whose counts and shapes `check_forward` compared, the lists
            // too; mutable views are exclusive borrows; scratch has the length asserted above.
            unsafe { forward::forward(s, problem, scratch) }
        }
    }
}

/// As [`Forward`].
pub(crate) struct Backward<'a, E> {
    pub(crate) plan: Plan,
    pub(crate) x: Attention<'a, E>,
    pub(crate) grad: AttentionGrad<'a, E>,
    pub(crate) scratch: &'a mut [E],
}

impl<E: Real> Op<E> for Backward<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(mut self, s: S) {
        let (x, shape) = (self.x, self.x.shape());
        assert!(self.scratch.len() >= scratch_len(shape, self.plan));
        for b in 0..x.q.count() {
            let (q, k, v) = (input(&x.q, b), input(&x.k, b), input(&x.v, b));
            let saved = match &self.grad.saved {
                Saved::Rows(m) => backward::SavedFrom::Rows(input(m, b)),
                Saved::Probs(m) => backward::SavedFrom::Probs(input(m, b)),
            };
            let (out, dout) = (input(&self.grad.out, b), input(&self.grad.dout, b));
            let dq = output(&mut self.grad.dq, b);
            // Shared: both gradients go to the same rows, one after the other.
            let (dk, dv) = match &mut self.grad.dkv {
                KvGrad::Separate { dk, dv } => (optional(dk, b), optional(dv, b)),
                KvGrad::Shared(m) => (Some(output(m, b)), Some(output(m, b))),
            };
            let inputs = backward::Inputs { scale: x.scale, q, k, v, saved, out, dout };
            let (grads, rows) = (backward::Grads { dq, dk, dv }, rows(&x, b));
            let scratch = self.scratch.as_mut_ptr();
            // SAFETY: checked views whose counts and shapes `check_backward` compared, the lists
            // too; mutable views are exclusive borrows, and dk = dv only in the shared case, whose
            // widths it compared too; scratch has the length asserted above.
            unsafe { backward::backward(s, shape, self.plan, inputs, rows, grads, scratch) }
        }
    }
}

#[inline(always)]
fn rows<'a, E: Real>(x: &Attention<'a, E>, b: usize) -> Rows<'a> {
    match x.queries {
        Queries::Last => Rows::Last,
        Queries::Listed { starts, positions } => Rows::Listed(&positions[starts[b]..starts[b + 1]]),
    }
}

#[inline(always)]
fn input<E: Real>(m: &Mats<'_, E>, b: usize) -> In<E> {
    let m = m.mat(b);
    In(m.ptr(), m.row_stride())
}

#[inline(always)]
fn output<E: Real>(m: &mut MatsMut<'_, E>, b: usize) -> Out<E> {
    let mut m = m.mat(b);
    Out(m.ptr(), m.row_stride())
}

#[inline(always)]
fn optional<E: Real>(m: &mut Option<MatsMut<'_, E>>, b: usize) -> Option<Out<E>> {
    match m {
        Some(m) => Some(output(m, b)),
        None => None,
    }
}
