//! Causal softmax attention of one problem, forward and backward.
//!
//! Query i sees keys j < i + 1 + tk − tq. The mask is nowhere a value, only a loop bound: what a query does not see is not
//! exponentiated, and in sums over keys or queries it is not even multiplied by zero, so that a NaN or infinity behind the
//! mask stays there. For a block of rows the visible keys are a rectangle, which goes to the block product, and a triangle
//! at the diagonal, which goes row by row:
//!
//! ```text
//!            keys  0 ........ base        seen .... tk
//!   block row 0    [ rectangle  ]
//!   block row 1    [            ] x
//!   block row 2    [            ] x x
//!   block row 3    [            ] x x x   (zeros)
//! ```

use super::gemm::gemm_unpacked;
use super::rows::{combine, dot, dots, load, outer, store, transpose};
use super::softmax::softmax_row;
use crate::Write;
use crate::arch::Simd;
use crate::elem::Elem;

/// Rows of a block: the height of the product's tallest tile. More rows would mean more work in triangles.
const BLOCK: usize = 8;

/// Shapes: Q (tq, d), K (tk, d), V (tk, dv), 1 <= tq <= tk.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) tq: usize,
    pub(crate) tk: usize,
    pub(crate) d: usize,
    pub(crate) dv: usize,
}

/// Scratch rows start on cache lines: `tk` rounded up.
fn padded(tk: usize) -> usize {
    tk.saturating_add(15) & !15
}

/// Scratch elements of either direction: K or V transposed, and dS. Monotone in every argument, saturating.
pub(crate) fn scratch_len(x: Shape) -> usize {
    padded(x.tk).saturating_mul(x.d.max(x.dv).saturating_add(x.tq))
}

/// Block b of `len` rows cut into equal pieces of at most [`BLOCK`]: (first row, one past the last).
#[inline(always)]
fn block(b: usize, blocks: usize, len: usize) -> (usize, usize) {
    let (base, longer) = (len / blocks, len % blocks);
    let start = b * base + if b < longer { b } else { longer };
    (start, start + base + usize::from(b < longer))
}

/// A matrix with contiguous columns: pointer and row stride.
#[derive(Clone, Copy)]
pub(crate) struct In<E>(pub(crate) *const E, pub(crate) usize);

/// The same, writable.
#[derive(Clone, Copy)]
pub(crate) struct Out<E>(pub(crate) *mut E, pub(crate) usize);

// Wrapping: a matrix without columns may have row offsets beyond its allocation; they are never read.
impl<E> In<E> {
    #[inline(always)]
    fn row(self, i: usize) -> *const E {
        self.0.wrapping_add(i * self.1)
    }
}

impl<E> Out<E> {
    #[inline(always)]
    fn row(self, i: usize) -> *mut E {
        self.0.wrapping_add(i * self.1)
    }
}

/// `P` = softmax of `scale Q Kᵀ` over the visible keys, 0 beyond; `O = P V`.
///
/// # Safety
/// The matrices have the shapes that `x` says; P (tq, tk) and O (tq, dv) are writable and share nothing with anything; `scratch` has
/// [`scratch_len`] elements.
#[inline(always)]
pub(crate) unsafe fn forward<E: Elem, S: Simd<E>>(
    s: S,
    x: Shape,
    scale: E,
    q: In<E>,
    k: In<E>,
    v: In<E>,
    out: Out<E>,
    probs: Out<E>,
    scratch: *mut E,
) {
    let Shape { tq, tk, d, dv } = x;
    // SAFETY: rows and columns inside the shapes throughout; K transposed takes d * padded(tk) elements of scratch.
    unsafe {
        if tq == 1 {
            // One query: transposing K would cost as much as the scores.
            dots::<E, S>(s, d, scale, q.0, tk, k.0, k.1, probs.0);
            softmax_row::<E, S, true>(s, tk, probs.0, 1);
            combine::<E, S, true>(s, dv, tk, probs.0, 1, v.0, v.1, out.0);
            return;
        }
        let (off, ld, blocks) = (tk - tq, padded(tk), tq.div_ceil(BLOCK));
        transpose::<E, S>(s, tk, d, k.0, k.1, scratch, ld);
        for b in 0..blocks {
            let (i0, i1) = block(b, blocks, tq);
            let (rows, base, seen) = (i1 - i0, i0 + 1 + off, i1 + off);
            let (p, o) = (probs.row(i0), out.row(i0));
            if d == 0 {
                for r in 0..rows {
                    fill(p.add(r * probs.1), seen, E::ZERO);
                }
            } else {
                gemm_unpacked(
                    s,
                    rows,
                    d,
                    seen,
                    scale,
                    q.row(i0),
                    q.1,
                    1,
                    scratch,
                    ld,
                    p,
                    probs.1,
                    Write::Set,
                );
            }
            for r in 0..rows {
                let p = p.add(r * probs.1);
                softmax_row::<E, S, true>(s, base + r, p, 1);
                fill(p.add(base + r), tk - base - r, E::ZERO);
            }
            if dv > 0 {
                gemm_unpacked(s, rows, base, dv, E::ONE, p, probs.1, 1, v.0, v.1, o, out.1, Write::Set);
                for r in 1..rows {
                    let p = p.add(r * probs.1 + base);
                    combine::<E, S, false>(s, dv, r, p, 1, v.row(base), v.1, o.add(r * out.1));
                }
            }
        }
    }
}

/// What the backward pass reads: the forward operands, P and dO.
#[derive(Clone, Copy)]
pub(crate) struct Saved<E> {
    pub(crate) q: In<E>,
    pub(crate) k: In<E>,
    pub(crate) v: In<E>,
    pub(crate) probs: In<E>,
    pub(crate) dout: In<E>,
}

/// What it writes: dQ is set, dK and dV, where wanted, are added to.
#[derive(Clone, Copy)]
pub(crate) struct Grads<E> {
    pub(crate) dq: Out<E>,
    pub(crate) dk: Option<Out<E>>,
    pub(crate) dv: Option<Out<E>>,
}

/// dP = dO Vᵀ, dS = scale P ∘ (dP − rowsum(P ∘ dP)), then dQ = dS K, dK += dSᵀ Q, dV += Pᵀ dO.
///
/// # Safety
/// The matrices have the shapes that `x` says; dQ, dK, dV are writable and share nothing with anything, save
/// that dK and dV may be the same matrix (d = dv): each is added to in a pass of its own; `scratch` has [`scratch_len`]
/// elements.
#[inline(always)]
pub(crate) unsafe fn backward<E: Elem, S: Simd<E>>(
    s: S,
    x: Shape,
    scale: E,
    saved: Saved<E>,
    grads: Grads<E>,
    scratch: *mut E,
) {
    let Saved { q, k, v, probs, dout } = saved;
    let Grads { dq, dk, dv } = grads;
    let Shape { tq, tk, d, dv: e } = x;
    // SAFETY: rows and columns inside the shapes throughout; V transposed takes dv * padded(tk) elements of scratch, dS
    // the tq * padded(tk) after them.
    unsafe {
        if tq == 1 {
            dots::<E, S>(s, e, E::ONE, dout.0, tk, v.0, v.1, scratch);
            score_gradient::<E, S>(s, tk, scale, probs.0, scratch);
            combine::<E, S, true>(s, d, tk, scratch, 1, k.0, k.1, dq.0);
            if let Some(dk) = dk {
                outer::<E, S>(s, tk, d, scratch, q.0, dk.0, dk.1);
            }
            if let Some(dv) = dv {
                outer::<E, S>(s, tk, e, probs.0, dout.0, dv.0, dv.1);
            }
            return;
        }
        let (off, ld, blocks) = (tk - tq, padded(tk), tq.div_ceil(BLOCK));
        let ds = scratch.add(e * ld);
        transpose::<E, S>(s, tk, e, v.0, v.1, scratch, ld);
        for b in 0..blocks {
            let (i0, i1) = block(b, blocks, tq);
            let (rows, base, seen) = (i1 - i0, i0 + 1 + off, i1 + off);
            let g = ds.add(i0 * ld);
            if e == 0 {
                for r in 0..rows {
                    fill(g.add(r * ld), seen, E::ZERO);
                }
            } else {
                let o = dout.row(i0);
                gemm_unpacked(s, rows, e, seen, E::ONE, o, dout.1, 1, scratch, ld, g, ld, Write::Set);
            }
            for r in 0..rows {
                score_gradient::<E, S>(s, base + r, scale, probs.row(i0 + r), g.add(r * ld));
            }
            if d > 0 {
                gemm_unpacked(s, rows, base, d, E::ONE, g, ld, 1, k.0, k.1, dq.row(i0), dq.1, Write::Set);
                for r in 1..rows {
                    let g = g.add(r * ld + base);
                    combine::<E, S, false>(s, d, r, g, 1, k.row(base), k.1, dq.row(i0 + r));
                }
            }
        }
        if let Some(dk) = dk {
            by_keys::<E, S>(s, tq, tk, d, In(ds, ld), q, dk);
        }
        if let Some(dv) = dv {
            by_keys::<E, S>(s, tq, tk, e, probs, dout, dv);
        }
    }
}

/// C += Aᵀ B over visible pairs: `c_j += Σ a_ij b_i` over queries i that see key j. A (tq, tk), B (tq, n), C (tk, n).
///
/// # Safety
/// The shapes are right, C shares nothing with A and B.
#[inline(always)]
unsafe fn by_keys<E: Elem, S: Simd<E>>(s: S, tq: usize, tk: usize, n: usize, a: In<E>, b: In<E>, c: Out<E>) {
    if n == 0 {
        return;
    }
    let (off, blocks) = (tk - tq, tk.div_ceil(BLOCK));
    for bl in 0..blocks {
        let (j0, j1) = block(bl, blocks, tk);
        // Queries from `full` on see the whole block of keys; those before it see a part.
        let full = (j1 - 1).saturating_sub(off);
        // SAFETY: rows and columns inside the shapes.
        unsafe {
            let at = a.row(full).add(j0);
            gemm_unpacked(
                s,
                j1 - j0,
                tq - full,
                n,
                E::ONE,
                at,
                1,
                a.1,
                b.row(full),
                b.1,
                c.row(j0),
                c.1,
                Write::Add,
            );
            for j in j0..j1 - 1 {
                let first = j.saturating_sub(off);
                let at = a.row(first).add(j);
                combine::<E, S, false>(s, n, full - first, at, a.1, b.row(first), b.1, c.row(j));
            }
        }
    }
}

/// One row: dP in `g` becomes dS = scale p (dP − Σ p dP).
///
/// # Safety
/// `p` is readable, `g` readable and writable for n elements.
#[inline(always)]
unsafe fn score_gradient<E: Elem, S: Simd<E>>(s: S, n: usize, scale: E, p: *const E, g: *mut E) {
    // SAFETY: len <= n - i elements from i on.
    unsafe {
        let mean = s.splat(dot::<E, S>(s, n, p, g));
        let scale = s.splat(scale);
        let mut i = 0;
        while i < n {
            let len = if n - i < S::LANES { n - i } else { S::LANES };
            let sp = s.mul(scale, load::<E, S>(s, p.add(i), len));
            let dp = load::<E, S>(s, g.add(i), len);
            store::<E, S>(s, g.add(i), len, s.mul(sp, s.sub(dp, mean)));
            i += len;
        }
    }
}

/// # Safety
/// `p` is writable for n elements.
#[inline(always)]
unsafe fn fill<E: Elem>(p: *mut E, n: usize, x: E) {
    for i in 0..n {
        // SAFETY: i < n.
        unsafe { *p.add(i) = x };
    }
}
