//! Forward: scores strip by strip, softmax with a running maximum where a row has several blocks of
//! keys, output in registers.

use crate::attention::plan::{
    Block, In, Out, Plan, Rows, Shape, block_stride, copy, fill, next_block, pack, padded, per_row,
};
use crate::attention::softmax::{Raw, exp_neg, exp_row, probabilities, row_max, scaled, short_row};
use crate::attention::tile::{Chains, Scores, Start, height};
use crate::elem::real::Real;
use crate::simd::Simd;
use crate::vecmath::rows::{combine, dots};

/// What stays for the backward pass.
#[derive(Clone, Copy)]
pub(crate) enum SaveTo<E> {
    Nothing,
    /// Per row the largest score and 1 / Σ exp(score − largest): two columns. Their logarithmic sum
    /// alone would lose, next to a large score, the logarithm of the number of ties.
    Rows(Out<E>),
    /// P.
    Probs(Out<E>),
}

/// One problem of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Problem<'a, E> {
    pub(crate) x: Shape,
    pub(crate) plan: Plan,
    pub(crate) scale: E,
    pub(crate) q: In<E>,
    pub(crate) k: In<E>,
    pub(crate) v: In<E>,
    pub(crate) rows: Rows<'a>,
    pub(crate) out: Out<E>,
    pub(crate) save: SaveTo<E>,
}

/// Scratch of one call.
struct Workspace<E> {
    kt: *mut E,
    /// A strip of scores, then of exponentials.
    scores: Out<E>,
    /// Per row of a block: running maximum, sum, factor of what came before.
    max: *mut E,
    sum: *mut E,
    rescale: *mut E,
    /// Rows of Q and O brought together, for lists.
    q: Out<E>,
    o: Out<E>,
}

/// `P` = softmax of `scale Q Kᵀ` over the visible keys, 0 beyond; `O = P V`, computed as (Σ e_j
/// v_j) / Σ e_j.
///
/// # Safety
/// The matrices have the shapes that `x` says, with tk rows of Q, O and what is kept where rows are
/// listed; a list ascends below tk. O and what is kept are writable and share nothing with
/// anything; `scratch` has [`super::scratch_len`] elements.
#[inline(always)]
pub(crate) unsafe fn forward<E: Real, S: Simd<E>>(s: S, problem: Problem<'_, E>, scratch: *mut E) {
    let Problem { x, plan, scale, q, k, v, rows, out, save } = problem;
    let Shape { tq, tk, d, dv } = x;
    let bk = plan.bk_forward;
    let (ld, per_row) = (block_stride(bk, tk), per_row(plan, tq));
    let kt = scratch;
    let scores = kt.wrapping_add(d * padded(tk));
    let max = scores.wrapping_add(16 * ld);
    let (sum, rescale) = (max.wrapping_add(per_row), max.wrapping_add(2 * per_row));
    let gathered = max.wrapping_add(3 * per_row);
    let ws = Workspace {
        kt,
        scores: Out(scores, ld),
        max,
        sum,
        rescale,
        q: Out(gathered, d),
        o: Out(gathered.wrapping_add(tq.min(plan.bq) * d), dv),
    };
    // SAFETY: rows and columns inside the shapes throughout; scratch laid out above, within its
    // length.
    unsafe {
        if let (1, Rows::Last) = (tq, rows) {
            return single::<E, S>(s, problem, scratch);
        }
        let seen = match rows {
            Rows::Last => tk,
            Rows::Listed([]) => 0,
            Rows::Listed([.., last]) => last + 1,
        };
        pack::<E, S>(s, seen, d, k, kt);
        let mut i0 = 0;
        while let Some(block) = next_block(x, plan.bq, rows, i0) {
            i0 += block.rows;
            let (bq, bo) = if block.list.is_some() {
                for r in 0..block.rows {
                    copy(d, q.row(block.row(r)), ws.q.row(r));
                }
                (ws.q.input(), ws.o)
            } else {
                (q.skip(block.i0), out.skip(block.i0))
            };
            let mut j0 = 0;
            while j0 <= block.last {
                let mut r = 0;
                while r < block.rows {
                    let m = height(S::ISA, block.rows - r);
                    let strip = Strip { x, bk, j0, r, m, scale, q: bq, v, o: bo, save };
                    one_strip::<E, S>(s, strip, &block, &ws);
                    r += m;
                }
                j0 += bk;
            }
            if block.list.is_some() {
                for r in 0..block.rows {
                    copy(dv, ws.o.row(r), out.row(block.row(r)));
                }
            }
        }
    }
}

/// Rows r..r + m of a block against the block of keys that starts at j0.
#[derive(Clone, Copy)]
struct Strip<E> {
    x: Shape,
    bk: usize,
    j0: usize,
    r: usize,
    m: usize,
    scale: E,
    /// Q and O of the block.
    q: In<E>,
    v: In<E>,
    o: Out<E>,
    save: SaveTo<E>,
}

/// # Safety
/// As [`forward`].
#[inline(always)]
unsafe fn one_strip<E: Real, S: Simd<E>>(s: S, strip: Strip<E>, block: &Block<'_>, ws: &Workspace<E>) {
    let Strip { x: Shape { tk, d, dv, .. }, bk, j0, r: r0, m, scale, q, v, o, save } = strip;
    let (scores, first) = (ws.scores, j0 == 0);
    // All rows of a block are in one block of keys, their last one.
    let end = block.last < j0 + bk;
    let n = if end { block.position(r0 + m - 1) + 1 - j0 } else { bk };
    // SAFETY: rows and columns inside the shapes; scratch as laid out.
    unsafe {
        let panels = ws.kt.wrapping_add(j0 * d).cast_const();
        let finish = Raw { to: scores, scale };
        s.outline(Scores { m, k: d, n, a: q.skip(r0), panels, finish });
        let (max, sum, rescale) = (ws.max.add(r0), ws.sum.add(r0), ws.rescale.add(r0));
        // Short rows of one block stay in registers.
        let short = if first && end && n <= 4 * S::LANES { n.div_ceil(S::LANES) } else { 0 };
        for r in 0..m {
            if short > 0 {
                let (i, seen, row) = (block.row(r0 + r), block.position(r0 + r) + 1, scores.row(r));
                let p = if let SaveTo::Probs(p) = save { Some(p.row(i)) } else { None };
                let (new, inv) = match short {
                    1 => short_row::<E, S, 1>(s, seen, row, p, tk),
                    2 => short_row::<E, S, 2>(s, seen, row, p, tk),
                    3 => short_row::<E, S, 3>(s, seen, row, p, tk),
                    _ => short_row::<E, S, 4>(s, seen, row, p, tk),
                };
                *sum.add(r) = inv;
                if let SaveTo::Rows(to) = save {
                    *to.row(i) = new;
                    *to.row(i).add(1) = inv;
                }
                continue;
            }
            let seen = if end { block.position(r0 + r) + 1 - j0 } else { bk };
            let row = scores.row(r);
            if let (SaveTo::Probs(p), false) = (save, first && end) {
                // Of several blocks: the scores now, what becomes of them when the maximum is
                // known.
                copy(seen, row, p.row(block.row(r0 + r)).add(j0));
            }
            let old = if first { E::NEG_INFINITY } else { *max.add(r) };
            let new = row_max::<E, S>(s, seen, row);
            let new = if new > old || old.is_nan() { new } else { old };
            *max.add(r) = new;
            // Nothing but −∞ so far: these keys count for nothing if a finite score follows.
            let base = if new == E::NEG_INFINITY && !end { E::ZERO } else { new };
            let e = exp_row::<E, S>(s, seen, row, base);
            if first {
                *sum.add(r) = e;
            } else {
                let by = s.splat(old - base);
                let by = s.reduce_max(exp_neg::<E, S>(s, by));
                *rescale.add(r) = by;
                *sum.add(r) = *sum.add(r) * by + e;
            }
            if end {
                let (i, seen, inv) = (block.row(r0 + r), block.position(r0 + r) + 1, E::ONE / *sum.add(r));
                *sum.add(r) = inv;
                match save {
                    SaveTo::Nothing => {}
                    SaveTo::Rows(to) => {
                        *to.row(i) = new;
                        *to.row(i).add(1) = inv;
                    }
                    SaveTo::Probs(p) => {
                        let p = p.row(i);
                        if first {
                            scaled::<E, S>(s, seen, row, inv, p);
                        } else {
                            probabilities::<E, S>(s, seen, p, new, inv, p);
                        }
                        fill(p.add(seen), tk - seen, E::ZERO);
                    }
                }
            }
        }
        let start = if first { Start::Zero } else { Start::Scaled(rescale) };
        let (a, b, c) = (scores.input(), v.skip(j0), o.skip(r0));
        if !end {
            s.outline(Chains::<E, false> { m, k: bk, n: dv, tri: false, a, b, c, start, by: None });
        } else if block.list.is_none() {
            let k = block.position(r0) - j0;
            s.outline(Chains::<E, false> { m, k, n: dv, tri: true, a, b, c, start, by: Some(sum) });
        } else {
            // What all rows see as a rectangle, the rest row by row: the same chains.
            let k = block.position(r0) + 1 - j0;
            s.outline(Chains::<E, false> { m, k, n: dv, tri: false, a, b, c, start, by: None });
            for r in 0..m {
                let more = block.position(r0 + r) + 1 - j0 - k;
                let p = scores.row(r).add(k);
                combine::<E, S, false>(s, dv, more, (p, 1), (v.row(j0 + k), v.1), c.row(r));
                scaled::<E, S>(s, dv, c.row(r), *sum.add(r), c.row(r));
            }
        }
    }
}

/// One query, the last: transposing K would cost as much as the scores.
///
/// # Safety
/// As [`forward`].
#[inline(always)]
unsafe fn single<E: Real, S: Simd<E>>(s: S, problem: Problem<'_, E>, scratch: *mut E) {
    let Problem { x: Shape { tk, d, dv, .. }, scale, q, k, v, out, save, .. } = problem;
    // SAFETY: scratch holds tk elements rounded up to whole vectors.
    unsafe {
        dots::<E, S>(s, d, scale, q.0, tk, (k.0, k.1), scratch);
        let max = row_max::<E, S>(s, tk, scratch);
        let inv = E::ONE / exp_row::<E, S>(s, tk, scratch, max);
        scaled::<E, S>(s, tk, scratch, inv, scratch);
        match save {
            SaveTo::Nothing => {}
            SaveTo::Rows(to) => {
                *to.0 = max;
                *to.0.add(1) = inv;
            }
            SaveTo::Probs(p) => copy(tk, scratch, p.0),
        }
        combine::<E, S, true>(s, dv, tk, (scratch, 1), (v.0, v.1), out.0);
    }
}
