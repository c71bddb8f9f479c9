//! Rows of one-hot attention as operations on checked operands.

use crate::elem::real::Real;
use crate::one_hot::loops::Words;
use crate::simd::{Op, Simd, compiled_once};
use crate::vecmath::rows::{load, store};
use crate::vecmath::softmax::softmax_row;
use crate::vecmath::update::loops::add_row;

compiled_once! {
    /// All entries of this module.
    RowsBodies {
        fn run_token_rows(RowsOp<'_, Self>);
    }
}

/// Checked operands of one call; `rows` queries of each sequence, the last ones.
pub(crate) enum RowsOp<'a, E> {
    Patterns {
        w: Words,
        rows: usize,
        tables: &'a [E],
        c: &'a mut [E],
        row: &'a mut [E],
    },
    PatternsBackward {
        w: Words,
        rows: usize,
        /// Head and their number.
        head: [usize; 2],
        c: &'a [E],
        dc: &'a [E],
        dtable: &'a mut [E],
        rows_of_ds: &'a mut [E],
    },
    Embed {
        w: Words,
        rows: usize,
        table: &'a [E],
        shift: &'a [E],
        factor: E,
        out: &'a mut [E],
    },
}

impl<E: Real> Op<E> for RowsOp<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        // SAFETY: the entries above compared the lengths; `OneHot` checked the tokens.
        unsafe {
            match self {
                RowsOp::Patterns { w, rows, tables, c, row } => {
                    let heads = tables.len() / ((w.s + w.t) * (w.s + w.t));
                    patterns(s, w, [rows, heads], tables.as_ptr(), c.as_mut_ptr(), row.as_mut_ptr());
                }
                RowsOp::PatternsBackward { w, rows, head, c, dc, dtable, rows_of_ds } => {
                    dtable.fill(E::ZERO);
                    let (c, dc) = (c.as_ptr(), dc.as_ptr());
                    backward(s, w, rows, head, [c, dc], dtable.as_mut_ptr(), rows_of_ds.as_mut_ptr());
                }
                RowsOp::Embed { w, rows, table, shift, factor, out } => {
                    embed(s, w, rows, table.as_ptr(), (shift.as_ptr(), factor), out.as_mut_ptr());
                }
            }
        }
    }
}

/// Lanes of the next vector where `left` elements are left.
#[inline(always)]
fn lanes<E: Real, S: Simd<E>>(left: usize) -> usize {
    left.min(S::LANES)
}

/// # Safety
/// Lengths as in [`crate::Kernels::token_patterns`]; tokens below S.
#[inline(always)]
unsafe fn patterns<E: Real, S: Simd<E>>(
    s: S,
    w: Words,
    [rows, heads]: [usize; 2],
    tables: *const E,
    c: *mut E,
    z: *mut E,
) {
    let (symbols, t) = (w.s, w.t);
    let d = symbols + t;
    for q in 0..w.n {
        // SAFETY: sequence q, its query rows, entries below D throughout.
        unsafe {
            let tokens = w.tokens.add(q * t);
            let c = c.add(q * rows * heads * d);
            let row = |i: usize, h: usize| c.wrapping_add(((i + rows - t) * heads + h) * d);
            for i in t - rows..t {
                for h in 0..heads {
                    let table = tables.add(h * d * d);
                    let (a, b) = (table.add(*tokens.add(i) as usize * d), table.add((symbols + i) * d));
                    let mut j = 0;
                    while j < d {
                        let n = lanes::<E, S>(d - j);
                        let sum = s.add(load::<E, S>(s, a.add(j), n), load::<E, S>(s, b.add(j), n));
                        store::<E, S>(s, z.add(j), n, sum);
                        j += n;
                    }
                    let pattern = row(i, h).add(symbols);
                    for j in 0..=i {
                        *pattern.add(j) = *z.add(symbols + j) + *z.add(*tokens.add(j) as usize);
                    }
                    for j in i + 1..t {
                        *pattern.add(j) = E::NEG_INFINITY;
                    }
                }
            }
            for i in t - rows..t {
                for h in 0..heads {
                    softmax_row::<E, S, true>(s, t, row(i, h).add(symbols), 1);
                }
            }
            for i in t - rows..t {
                for h in 0..heads {
                    let row = row(i, h);
                    for b in 0..symbols {
                        *row.add(b) = E::ZERO;
                    }
                    for j in 0..=i {
                        *row.add(*tokens.add(j) as usize) += *row.add(symbols + j);
                    }
                }
            }
        }
    }
}

/// # Safety
/// Lengths as in [`crate::Kernels::token_patterns_backward`]; tokens below S.
#[inline(always)]
unsafe fn backward<E: Real, S: Simd<E>>(
    s: S,
    w: Words,
    rows: usize,
    [head, heads]: [usize; 2],
    [c, dc]: [*const E; 2],
    dtable: *mut E,
    ds: *mut E,
) {
    let (symbols, t) = (w.s, w.t);
    let d = symbols + t;
    for q in 0..w.n {
        // SAFETY: sequence q, its query rows, entries below D throughout.
        unsafe {
            let tokens = w.tokens.add(q * t);
            for i in t - rows..t {
                let at = ((q * rows + i + rows - t) * heads + head) * d;
                let (c, dc) = (c.add(at), dc.add(at));
                // Σ_j p_ij dp_ij, dp_ij = dc[s_j] + dc[S + j].
                let mean = dot(d, c, dc);
                let e = ds.add((i + rows - t) * d);
                for b in 0..symbols {
                    *e.add(b) = E::ZERO;
                }
                for j in 0..=i {
                    let token = *tokens.add(j) as usize;
                    let g = *c.add(symbols + j) * (*dc.add(symbols + j) + *dc.add(token) - mean);
                    *e.add(symbols + j) = g;
                    *e.add(token) += g;
                }
                for j in i + 1..t {
                    *e.add(symbols + j) = E::ZERO;
                }
            }
            for i in t - rows..t {
                let e = ds.add((i + rows - t) * d);
                for r in [*tokens.add(i) as usize, symbols + i] {
                    add_row::<E, S>(s, d, e, dtable.add(r * d));
                }
            }
        }
    }
}

/// Σ x y in eight partial sums, the rest behind them: an order that depends on the length alone.
///
/// # Safety
/// Both are readable for n elements.
#[inline(always)]
unsafe fn dot<E: Real>(n: usize, x: *const E, y: *const E) -> E {
    let (mut sums, mut rest) = ([E::ZERO; 8], E::ZERO);
    let whole = n - n % 8;
    // SAFETY: below n.
    unsafe {
        for j in whole..n {
            rest += *x.add(j) * *y.add(j);
        }
        for j in (0..whole).step_by(8) {
            for l in 0..8 {
                sums[l] += *x.add(j + l) * *y.add(j + l);
            }
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + b) + (c + d)) + ((e + f) + (g + h)) + rest
}

/// # Safety
/// Lengths as in [`crate::Kernels::token_rows`]; tokens below S.
#[inline(always)]
unsafe fn embed<E: Real, S: Simd<E>>(
    s: S,
    w: Words,
    rows: usize,
    table: *const E,
    (shift, factor): (*const E, E),
    out: *mut E,
) {
    let (symbols, t) = (w.s, w.t);
    let d = symbols + t;
    for q in 0..w.n {
        for i in t - rows..t {
            // SAFETY: position i of sequence q, entries below D.
            unsafe {
                let a = table.add(*w.tokens.add(q * t + i) as usize * d);
                let (b, out) = (table.add((symbols + i) * d), out.add((q * rows + i + rows - t) * d));
                let mut j = 0;
                while j < d {
                    let n = lanes::<E, S>(d - j);
                    let sum = s.add(load::<E, S>(s, a.add(j), n), load::<E, S>(s, b.add(j), n));
                    let more = s.mul(s.splat(factor), load::<E, S>(s, shift.add(j), n));
                    store::<E, S>(s, out.add(j), n, s.add(sum, more));
                    j += n;
                }
            }
        }
    }
}
