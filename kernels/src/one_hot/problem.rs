//! Checked sequences, and the operations on checked operands.

use crate::elem::real::Real;
use crate::error::{KernelError, expect};
use crate::one_hot::loops;
use crate::one_hot::loops::{GROUP, PatternGrad, Words, triangle};
use crate::simd::{Op, Simd, compiled_once};
use crate::view::{Mat, MatMut};

/// Sequences whose tokens are checked once, for all kernels that look them up.
#[derive(Debug, Clone, Copy)]
pub struct OneHot<'a> {
    pub(crate) tokens: &'a [u32],
    pub(crate) seqs: usize,
    pub(crate) len: usize,
    pub(crate) symbols: usize,
}

impl<'a> OneHot<'a> {
    /// Sequences side by side; column matrices have a multiple of it.
    pub const GROUP: usize = GROUP;

    /// `tokens` (B, T), T = `len`, each below S = `symbols`.
    ///
    /// # Errors
    /// T = 0; tokens that are not whole sequences; a token >= S; sizes that overflow.
    pub fn new(tokens: &'a [u32], len: usize, symbols: usize) -> Result<Self, KernelError> {
        let domain = |what, allowed| Err(KernelError::Domain { op: "one_hot", what, allowed });
        if len == 0 {
            return domain("the length of a sequence", ">= 1");
        }
        let seqs = tokens.len() / len;
        expect("one_hot", "tokens length", seqs * len, tokens.len())?;
        // The largest, not the first that is too large: this is a vector loop.
        if tokens.iter().fold(0, |m, t| m.max(*t)) as usize >= symbols && !tokens.is_empty() {
            return domain("a token", "below the number of symbols");
        }
        let this = OneHot { tokens, seqs, len, symbols };
        let square = symbols.checked_add(len).and_then(|d| d.checked_mul(d));
        let words = seqs.checked_next_multiple_of(GROUP).zip(square).and_then(|(n, d)| n.checked_mul(d));
        if words.is_none_or(|w| w > isize::MAX as usize / 64) {
            return Err(KernelError::Overflow);
        }
        Ok(this)
    }

    /// Sequences (B).
    pub fn seqs(&self) -> usize {
        self.seqs
    }
    /// Columns of a column matrix: the next multiple of 16.
    pub fn padded(&self) -> usize {
        self.seqs.next_multiple_of(GROUP)
    }
    /// Elements of the patterns of one table.
    pub fn patterns_len(&self) -> usize {
        self.padded() * triangle(self.len)
    }

    pub(crate) fn words(&self) -> Words {
        Words { tokens: self.tokens.as_ptr(), n: self.seqs, t: self.len, s: self.symbols }
    }
    pub(crate) fn width(&self) -> usize {
        self.symbols + self.len
    }
    pub(crate) fn columns(
        &self,
        op: &'static str,
        what: &'static str,
        rows: usize,
        m: &Mat<'_, impl Real>,
    ) -> Check {
        expect(op, what, rows, m.rows())?;
        expect(op, "columns", self.padded(), m.cols())?;
        expect(op, "column stride", 1, m.col_stride())
    }
    pub(crate) fn columns_mut(
        &self,
        op: &'static str,
        what: &'static str,
        rows: usize,
        m: &MatMut<'_, impl Real>,
    ) -> Check {
        self.columns(op, what, rows, &m.as_ref())
    }
}

type Check = Result<(), KernelError>;

/// Checked operands of one call.
pub(crate) enum OneHotOp<'a, E> {
    Patterns {
        w: Words,
        table: Mat<'a, E>,
        q: &'a mut [E],
        out: &'a mut [E],
    },
    PatternsBackward {
        w: Words,
        pattern: &'a [E],
        from: PatternGrad<E>,
        dtable: MatMut<'a, E>,
        q: &'a mut [E],
        ds: &'a mut [E],
    },
    Read {
        w: Words,
        x: Mat<'a, E>,
        out: MatMut<'a, E>,
    },
    Collect {
        w: Words,
        x: Mat<'a, E>,
        out: MatMut<'a, E>,
    },
    Apply {
        shape: [usize; 2],
        p: &'a [E],
        x: Mat<'a, E>,
        y: MatMut<'a, E>,
    },
    ApplyT {
        shape: [usize; 2],
        p: &'a [E],
        x: Mat<'a, E>,
        y: MatMut<'a, E>,
    },
    Softmax {
        x: MatMut<'a, E>,
    },
    SoftmaxBackward {
        p: Mat<'a, E>,
        dp: MatMut<'a, E>,
    },
}

impl<E: Real> Op<E> for OneHotOp<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        // SAFETY: the entries below checked shapes and strides (contiguous columns, padded to
        // groups) and lengths of slices; `OneHot` checked the tokens; outputs are exclusive
        // borrows.
        unsafe {
            match self {
                OneHotOp::Patterns { w, table, q, out } => {
                    loops::patterns(s, w, table.ptr(), table.row_stride(), q.as_mut_ptr(), out.as_mut_ptr());
                }
                OneHotOp::PatternsBackward { w, pattern, from, mut dtable, q, ds } => {
                    let (to, rs) = (dtable.ptr(), dtable.row_stride());
                    let (q, ds) = (q.as_mut_ptr(), ds.as_mut_ptr());
                    loops::patterns_backward(s, w, pattern.as_ptr(), from, (to, rs), q, ds);
                }
                OneHotOp::Read { w, x, mut out } => {
                    let os = out.row_stride();
                    loops::read(w, x.ptr(), x.row_stride(), out.ptr(), os);
                }
                OneHotOp::Collect { w, x, mut out } => {
                    let os = out.row_stride();
                    loops::collect(w, x.ptr(), x.row_stride(), out.ptr(), os);
                }
                OneHotOp::Apply { shape, p, x, mut y } => {
                    let ys = y.row_stride();
                    loops::apply(s, shape, p.as_ptr(), x.ptr(), x.row_stride(), y.ptr(), ys);
                }
                OneHotOp::ApplyT { shape, p, x, mut y } => {
                    let ys = y.row_stride();
                    loops::apply_t(s, shape, p.as_ptr(), x.ptr(), x.row_stride(), y.ptr(), ys);
                }
                OneHotOp::Softmax { mut x } => {
                    let (rows, cols, xs) = (x.rows(), x.cols(), x.row_stride());
                    loops::softmax_columns(s, rows, cols, x.ptr(), xs);
                }
                OneHotOp::SoftmaxBackward { p, mut dp } => {
                    let ds = dp.row_stride();
                    let (rows, cols) = (p.rows(), p.cols());
                    loops::softmax_columns_backward(s, rows, cols, p.ptr(), p.row_stride(), dp.ptr(), ds);
                }
            }
        }
    }
}

compiled_once! {
    /// All entries of this module.
    OneHotBodies {
        fn run_one_hot(OneHotOp<'_, Self>);
    }
}

/// What the gradient of [`Kernels::one_hot_patterns`](crate::Kernels::one_hot_patterns) starts
/// from, as column matrices: dP_ij = Σ_r left_r\[i\] right_r\[j\] + \[i = T − 1\] last\[j\].
#[derive(Debug, Clone, Copy)]
pub struct PatternTerms<'a, E> {
    /// (R T, padded B): R terms of T rows.
    pub left: Mat<'a, E>,
    /// (R T, padded B).
    pub right: Mat<'a, E>,
    /// (T, padded B).
    pub last: Mat<'a, E>,
}
