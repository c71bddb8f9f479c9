//! Backward: P recomputed (or read), dS beside it, for a block of queries and one of keys; then
//! three products from both.

use crate::attention::plan::{
    Block, In, Out, Plan, Rows, Shape, block_stride, copy, fill, next_block, pack, padded, per_row,
};
use crate::attention::softmax;
use crate::attention::softmax::{Grad, Prob, probabilities};
use crate::attention::tile::{Chains, Scores, Start, height};
use crate::elem::real::Real;
use crate::simd::Simd;
use crate::vecmath::rows::{combine, dot, dots, outer};

/// What the forward pass saved.
#[derive(Clone, Copy)]
pub(crate) enum SavedFrom<E> {
    /// Two columns: see [`crate::Save::Rows`].
    Rows(In<E>),
    Probs(In<E>),
}

/// What the backward pass reads: the forward operands, what was saved, O and dO.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<E> {
    pub(crate) scale: E,
    pub(crate) q: In<E>,
    pub(crate) k: In<E>,
    pub(crate) v: In<E>,
    pub(crate) saved: SavedFrom<E>,
    pub(crate) out: In<E>,
    pub(crate) dout: In<E>,
}

/// What it writes: the rows of dQ are set, to zeros where they are not listed, dK and dV, where
/// wanted, are added to.
#[derive(Clone, Copy)]
pub(crate) struct Grads<E> {
    pub(crate) dq: Out<E>,
    pub(crate) dk: Option<Out<E>>,
    pub(crate) dv: Option<Out<E>>,
}

/// dP = dO Vᵀ, dS = scale P ∘ (dP − rowsum(dO ∘ O)), then dQ = dS K, dK += dSᵀ Q, dV += Pᵀ dO.
///
/// # Safety
/// As [`super::forward`]; dQ, dK, dV are writable and share nothing with anything, save that dK and
/// dV may be the same matrix (d = dv): each is added to in a pass of its own.
#[inline(always)]
pub(crate) unsafe fn backward<E: Real, S: Simd<E>>(
    s: S,
    x: Shape,
    plan: Plan,
    inputs: Inputs<E>,
    rows: Rows<'_>,
    grads: Grads<E>,
    scratch: *mut E,
) {
    let Shape { tq, tk, d, dv: e } = x;
    let (bk, scale) = (plan.bk_backward, inputs.scale);
    let (ld, per_row, most) = (block_stride(bk, tk), per_row(plan, tq), tq.min(plan.bq));
    let (kt, vt) = (scratch, scratch.wrapping_add(d * padded(tk)));
    let p = Out(vt.wrapping_add(e * padded(tk)), ld);
    let ds = Out(p.0.wrapping_add(most * ld), ld);
    let mean = ds.0.wrapping_add(most * ld);
    let (max, inv) = (mean.wrapping_add(per_row), mean.wrapping_add(2 * per_row));
    let gathered = mean.wrapping_add(3 * per_row);
    let gather_q = Out(gathered, d);
    let gather_dq = Out(gathered.wrapping_add(most * d), d);
    let gather_do = Out(gathered.wrapping_add(2 * most * d), e);
    // SAFETY: rows and columns inside the shapes throughout; scratch laid out above, within its
    // length.
    unsafe {
        if let (1, Rows::Last) = (tq, rows) {
            return single::<E, S>(s, x, inputs, grads, scratch);
        }
        let seen = match rows {
            Rows::Last => tk,
            Rows::Listed([]) => 0,
            Rows::Listed([.., last]) => last + 1,
        };
        if let Rows::Listed(_) = rows {
            for i in 0..tk {
                fill(grads.dq.row(i), d, E::ZERO);
            }
        }
        if let SavedFrom::Rows(_) = inputs.saved {
            pack::<E, S>(s, seen, d, inputs.k, kt);
        }
        pack::<E, S>(s, seen, e, inputs.v, vt);
        let mut i0 = 0;
        while let Some(block) = next_block(x, plan.bq, rows, i0) {
            i0 += block.rows;
            for r in 0..block.rows {
                let i = block.row(r);
                *mean.add(r) = dot::<E, S>(s, e, inputs.dout.row(i), inputs.out.row(i));
                if let SavedFrom::Rows(saved) = inputs.saved {
                    *max.add(r) = *saved.row(i);
                    *inv.add(r) = *saved.row(i).add(1);
                }
            }
            let (q, dout, dq) = if block.list.is_some() {
                for r in 0..block.rows {
                    let i = block.row(r);
                    copy(d, inputs.q.row(i), gather_q.row(r));
                    copy(e, inputs.dout.row(i), gather_do.row(r));
                }
                (gather_q.input(), gather_do.input(), gather_dq)
            } else {
                (inputs.q.skip(block.i0), inputs.dout.skip(block.i0), grads.dq.skip(block.i0))
            };
            let mut j0 = 0;
            while j0 <= block.last {
                let end = block.last < j0 + bk;
                // P of this block of keys: in scratch, or where the forward pass left it.
                let mut p_at = p.input();
                if let (SavedFrom::Probs(at), None) = (inputs.saved, block.list) {
                    p_at = In(at.row(block.i0).wrapping_add(j0), at.1);
                }
                let mut r = 0;
                while r < block.rows {
                    let m = height(S::ISA, block.rows - r);
                    let n = if end { block.position(r + m - 1) + 1 - j0 } else { bk };
                    match inputs.saved {
                        SavedFrom::Rows(_) => {
                            let (max, inv) = (max.add(r), inv.add(r));
                            let finish = Prob { to: p.skip(r), scale, max, inv };
                            let panels = kt.wrapping_add(j0 * d).cast_const();
                            s.outline(Scores { m, k: d, n, a: q.skip(r), panels, finish });
                        }
                        SavedFrom::Probs(at) => {
                            if block.list.is_some() {
                                for r in r..r + m {
                                    copy(n, at.row(block.row(r)).add(j0), p.row(r));
                                }
                            }
                        }
                    }
                    let (mean, cols) = (mean.add(r), if end { n } else { bk });
                    let finish = Grad { to: ds.skip(r), scale, p: p_at.skip(r), cols, mean };
                    let panels = vt.wrapping_add(j0 * e).cast_const();
                    s.outline(Scores { m, k: e, n, a: dout.skip(r), panels, finish });
                    r += m;
                }
                let at = At { x, bk, j0, end };
                query_rows::<E, S>(s, at, &block, ds.input(), inputs.k, dq);
                if let Some(dk) = grads.dk {
                    key_rows::<E, S>(s, at, &block, d, ds.input(), q, dk);
                }
                if let Some(dv) = grads.dv {
                    key_rows::<E, S>(s, at, &block, e, p_at, dout, dv);
                }
                j0 += bk;
            }
            if block.list.is_some() {
                for r in 0..block.rows {
                    copy(d, gather_dq.row(r), grads.dq.row(block.row(r)));
                }
            }
        }
    }
}

/// A block of keys.
#[derive(Clone, Copy)]
struct At {
    x: Shape,
    bk: usize,
    j0: usize,
    /// The queries' own.
    end: bool,
}

/// `dq (+)= Σ_j ds_ij k_j` over the visible keys of this block.
///
/// # Safety
/// As [`backward`].
#[inline(always)]
unsafe fn query_rows<E: Real, S: Simd<E>>(s: S, at: At, block: &Block<'_>, a: In<E>, k: In<E>, c: Out<E>) {
    let At { x, bk, j0, end } = at;
    let (m, n, b, by) = (block.rows, x.d, k.skip(j0), None);
    let start = if j0 == 0 { Start::Zero } else { Start::C };
    // SAFETY: rows and columns inside the shapes.
    unsafe {
        if !end {
            s.outline(Chains::<E, false> { m, k: bk, n, tri: false, a, b, c, start, by });
        } else if block.list.is_none() {
            s.outline(Chains::<E, false> { m, k: block.first - j0, n, tri: true, a, b, c, start, by });
        } else {
            let all = block.first + 1 - j0;
            s.outline(Chains::<E, false> { m, k: all, n, tri: false, a, b, c, start, by });
            for r in 0..m {
                let more = block.position(r) + 1 - j0 - all;
                combine::<E, S, false>(s, n, more, (a.row(r).add(all), 1), (b.row(all), b.1), c.row(r));
            }
        }
    }
}

/// `c_j += Σ_i a_ij b_i` over the queries of this block that see key j, for the keys of this block;
/// c has n columns.
///
/// # Safety
/// As [`backward`].
#[inline(always)]
unsafe fn key_rows<E: Real, S: Simd<E>>(
    s: S,
    at: At,
    block: &Block<'_>,
    n: usize,
    a: In<E>,
    b: In<E>,
    c: Out<E>,
) {
    let At { bk, j0, end, .. } = at;
    let (start, by) = (Start::C, None);
    // Keys that all queries see; then those of the triangle.
    let all = if !end {
        bk
    } else if block.list.is_none() {
        block.first - j0
    } else {
        block.first + 1 - j0
    };
    // SAFETY: rows and columns inside the shapes.
    unsafe {
        let c0 = c.skip(j0);
        s.outline(Chains::<E, true> { m: all, k: block.rows, n, tri: false, a, b, c: c0, start, by });
        if !end {
            return;
        }
        let (a, c) = (In(a.0.add(all), a.1), c.skip(j0 + all));
        if block.list.is_none() {
            s.outline(Chains::<E, true> { m: block.rows, k: 0, n, tri: true, a, b, c, start, by });
        } else {
            for r in 1..block.rows {
                let more = block.position(r) - block.first;
                outer::<E, S>(s, more, n, a.row(r), b.row(r), c.0, c.1);
            }
        }
    }
}

/// One query, the last.
///
/// # Safety
/// As [`backward`].
#[inline(always)]
unsafe fn single<E: Real, S: Simd<E>>(s: S, x: Shape, inputs: Inputs<E>, grads: Grads<E>, scratch: *mut E) {
    let Shape { tk, d, dv: e, .. } = x;
    let Inputs { scale, q, k, v, saved, out, dout } = inputs;
    // SAFETY: scratch holds twice tk elements rounded up to whole vectors.
    unsafe {
        let ds = scratch.add(padded(tk));
        let p = match saved {
            SavedFrom::Probs(p) => p.0,
            SavedFrom::Rows(saved) => {
                dots::<E, S>(s, d, scale, q.0, tk, (k.0, k.1), scratch);
                probabilities::<E, S>(s, tk, scratch, *saved.0, *saved.0.add(1), scratch);
                scratch.cast_const()
            }
        };
        let mean = dot::<E, S>(s, e, dout.0, out.0);
        dots::<E, S>(s, e, E::ONE, dout.0, tk, (v.0, v.1), ds);
        softmax::score_gradient::<E, S>(s, tk, scale, p, mean, ds);
        combine::<E, S, true>(s, d, tk, (ds, 1), (k.0, k.1), grads.dq.0);
        if let Some(dk) = grads.dk {
            outer::<E, S>(s, tk, d, ds, q.0, dk.0, dk.1);
        }
        if let Some(dv) = grads.dv {
            outer::<E, S>(s, tk, e, p, dout.0, dv.0, dv.1);
        }
    }
}
