//! Causal softmax attention of one problem, forward and backward, block by block.
//!
//! Query i at position p sees keys j <= p. The mask is nowhere a value, only a loop bound: what a
//! query does not see is not exponentiated and in sums over keys or queries not even multiplied by
//! zero, so that a NaN or infinity behind the mask stays there. Blocks start at multiples of `bq`
//! (queries) and `bk` (keys) in position, `bq` divides `bk`: a block of queries crosses no border
//! of key blocks, and its last block of keys ends in the triangle of [`tile`]:
//!
//! ```text
//!   keys          0 ........ bk ....... first ... last
//!   block row 0   [ key block ][ rectangle  ] x
//!   block row 1   [           ][            ] x x
//!   block row 2   [           ][            ] x x x
//! ```
//!
//! A row's bits depend on its query, on the keys and values that it sees and on `bk`: not on the
//! other rows of the call.

use super::tile::panel;
use crate::elem::real::Real;
use crate::simd::Simd;

/// Shapes: Q (tq, d), K (tk, d), V (tk, dv), 1 <= tq <= tk.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) tq: usize,
    pub(crate) tk: usize,
    pub(crate) d: usize,
    pub(crate) dv: usize,
}

/// Block sizes. `bq` divides both others, which are multiples of 32: whole panels for every type
/// and instruction set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) bq: usize,
    /// Keys of a block, forward: softmax is rescaled once per block.
    pub(crate) bk_forward: usize,
    /// Backward: two blocks (bq, bk) of P and dS stay in L2.
    pub(crate) bk_backward: usize,
}

/// What the library uses. 96 rows are tiles of 12, 6 or 4 without a rest.
pub(crate) const PLAN: Plan = Plan { bq: 96, bk_forward: 384, bk_backward: 192 };

/// Whole panels and cache lines.
pub(super) fn padded(n: usize) -> usize {
    n.saturating_add(31) & !31
}

/// Row stride of a block of scores: an odd number of cache lines, so that rows do not fall on the
/// same sets.
pub(super) fn block_stride(bk: usize, tk: usize) -> usize {
    padded(tk).min(bk) + 16
}

/// Elements of one array of numbers per row of a block.
pub(super) fn per_row(plan: Plan, tq: usize) -> usize {
    padded(tq.min(plan.bq)) + 32
}

/// Scratch elements of either direction. Monotone in every size, saturating.
pub(crate) fn scratch_len(x: Shape, plan: Plan) -> usize {
    let rows = x.tq.min(plan.bq);
    let panels = padded(x.tk).saturating_mul(x.d.saturating_add(x.dv));
    let blocks = 2 * rows.max(16) * block_stride(plan.bk_forward.max(plan.bk_backward), x.tk);
    let gathered = x.d.saturating_add(x.dv).saturating_mul(2 * rows);
    let blockwise =
        panels.saturating_add(blocks).saturating_add(gathered).saturating_add(4 * per_row(plan, x.tq));
    // The last query alone: two rows.
    blockwise.max(padded(x.tk).saturating_mul(2))
}

/// A matrix with contiguous columns: pointer and row stride.
#[derive(Clone, Copy)]
pub(crate) struct In<E>(pub(crate) *const E, pub(crate) usize);

/// The same, writable.
#[derive(Clone, Copy)]
pub(crate) struct Out<E>(pub(crate) *mut E, pub(crate) usize);

// Wrapping: a matrix without columns may have row offsets beyond its allocation; they are never
// read.
impl<E: Real> In<E> {
    #[inline(always)]
    pub(super) fn row(self, i: usize) -> *const E {
        self.0.wrapping_add(i * self.1)
    }
    /// From row i on.
    #[inline(always)]
    pub(super) fn skip(self, i: usize) -> Self {
        In(self.row(i), self.1)
    }
}

impl<E: Real> Out<E> {
    #[inline(always)]
    pub(super) fn row(self, i: usize) -> *mut E {
        self.0.wrapping_add(i * self.1)
    }
    /// From row i on.
    #[inline(always)]
    pub(super) fn skip(self, i: usize) -> Self {
        Out(self.row(i), self.1)
    }
    #[inline(always)]
    pub(super) fn input(self) -> In<E> {
        In(self.0, self.1)
    }
}

/// Which queries: the last tq positions, row i being at i + tk − tq; or the listed ones of tk rows,
/// each at its own position, ascending.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    Last,
    Listed(&'a [usize]),
}

/// A block of query rows.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// Number of the first row: in Q for [`Rows::Last`], in the list otherwise.
    pub(super) i0: usize,
    pub(super) rows: usize,
    /// Its position.
    pub(super) first: usize,
    /// Position of the last row.
    pub(super) last: usize,
    pub(super) list: Option<&'a [usize]>,
}

impl Block<'_> {
    /// Position of row r of the block.
    #[inline(always)]
    pub(super) fn position(&self, r: usize) -> usize {
        match self.list {
            Some(list) => list[self.i0 + r],
            None => self.first + r,
        }
    }
    /// Row of Q and of the outputs.
    #[inline(always)]
    pub(super) fn row(&self, r: usize) -> usize {
        match self.list {
            Some(list) => list[self.i0 + r],
            None => self.i0 + r,
        }
    }
}

/// The block that starts at row `i0` of the call; `None` after the last one.
#[inline(always)]
pub(super) fn next_block<'a>(x: Shape, bq: usize, rows: Rows<'a>, i0: usize) -> Option<Block<'a>> {
    match rows {
        Rows::Last => {
            if i0 >= x.tq {
                return None;
            }
            let first = i0 + (x.tk - x.tq);
            let len = (bq - first % bq).min(x.tq - i0);
            Some(Block { i0, rows: len, first, last: first + len - 1, list: None })
        }
        Rows::Listed(list) => {
            if i0 >= list.len() {
                return None;
            }
            let first = list[i0];
            let end = first - first % bq + bq;
            let mut len = 1;
            while i0 + len < list.len() && list[i0 + len] < end {
                len += 1;
            }
            Some(Block { i0, rows: len, first, last: list[i0 + len - 1], list: Some(list) })
        }
    }
}

/// X (rows, cols) transposed into panels of [`tile::panel`] rows: panel after panel, each `cols`
/// rows of whole vectors. Lanes beyond `rows` receive arbitrary values or none.
///
/// # Safety
/// X is readable; `to` is writable for cols * padded(rows) elements.
#[inline(always)]
pub(super) unsafe fn pack<E: Real, S: Simd<E>>(s: S, rows: usize, cols: usize, x: In<E>, to: *mut E) {
    let width = panel::<E, S>();
    let mut j0 = 0;
    while j0 < rows {
        let to = to.wrapping_add(j0 * cols);
        let keys = if rows - j0 < width { rows - j0 } else { width };
        let mut j = 0;
        while j < keys {
            let runs = if keys - j < S::EDGE { keys - j } else { S::EDGE };
            let mut c = 0;
            while c < cols {
                let high = if cols - c < S::EDGE { cols - c } else { S::EDGE };
                // SAFETY: `runs` rows of X, `high` elements from c on; rows c.. of the panel,
                // columns j..j + EDGE <= width.
                unsafe {
                    let (from, to) = (x.row(j0 + j).add(c), to.add(c * width + j));
                    s.transpose(high, runs, from, x.1, to, width);
                }
                c += S::EDGE;
            }
            j += S::EDGE;
        }
        j0 += width;
    }
}

/// Copies `n` elements.
///
/// # Safety
/// `from` is readable, `to` writable for n elements; they do not overlap.
#[inline(always)]
pub(super) unsafe fn copy<E: Real>(n: usize, from: *const E, to: *mut E) {
    // SAFETY: the contract above.
    unsafe { std::ptr::copy_nonoverlapping(from, to, n) }
}

/// # Safety
/// `p` is writable for n elements.
#[inline(always)]
pub(super) unsafe fn fill<E: Real>(p: *mut E, n: usize, x: E) {
    for i in 0..n {
        // SAFETY: i < n.
        unsafe { *p.add(i) = x };
    }
}
