//! The layout of activations, for one sequence at a time: its backward pass runs while they are in
//! cache.

use super::Shape;
use crate::model::FeedForward;

/// Products of parameters alone, computed once per call, and gradients that are sums over all
/// sequences.
pub(super) struct Tables<'a, E> {
    /// Φ, Ψ (d, d).
    pub(super) phi: &'a mut [E],
    pub(super) psi: &'a mut [E],
    /// E W_K of layer 1, rotary E W_Kᵀ (N, d); p W_K (T, d).
    pub(super) ek: &'a mut [E],
    pub(super) pk: &'a mut [E],
    /// E Φᵀ (N, d), p Φᵀ (T, d).
    pub(super) ev: &'a mut [E],
    pub(super) pv: &'a mut [E],
    /// Gradients of Ψ, and of the tables but the last, p being constant.
    pub(super) dpsi: &'a mut [E],
    pub(super) dek: &'a mut [E],
    pub(super) dpk: &'a mut [E],
    pub(super) dev: &'a mut [E],
}

impl<E: popgrad_kernels::Elem> Tables<'_, E> {
    /// No gradient yet.
    pub(super) fn clear(&mut self) {
        for x in [&mut *self.dpsi, &mut *self.dek, &mut *self.dpk, &mut *self.dev] {
            x.fill(E::ZERO);
        }
    }
}

/// Activations of one sequence: T rows of d unless stated otherwise, of which the first ones are
/// used. n is the number of queries of layer 2.
pub(super) struct Activations<'a, E> {
    pub(super) x0: &'a mut [E],
    pub(super) q1: &'a mut [E],
    /// Rotary only: elsewhere the keys are x0.
    pub(super) k1: &'a mut [E],
    pub(super) v1: &'a mut [E],
    /// Φ Σ α x; h = x0 + that.
    pub(super) a1: &'a mut [E],
    pub(super) h1: &'a mut [E],
    /// W₁ h rectified (T, 4d), or space for one more gradient (T, d).
    pub(super) f1: &'a mut [E],
    /// Without feed-forward empty: h1 is it.
    pub(super) x1: &'a mut [E],
    /// (T, stride of T) each.
    pub(super) p1: &'a mut [E],
    pub(super) p2: &'a mut [E],
    /// x1 W_K of layer 2, and Σ α x1: rows of queries only.
    pub(super) q2: &'a mut [E],
    pub(super) a2: &'a mut [E],
    /// Rows of x1, of a2, h, hidden and y of layer 2 side by side (n, d).
    pub(super) xq: &'a mut [E],
    pub(super) aq: &'a mut [E],
    pub(super) hq: &'a mut [E],
    pub(super) fq: &'a mut [E],
    pub(super) yq: &'a mut [E],
    /// (n, N) each; the first becomes their gradient.
    pub(super) logits: &'a mut [E],
    pub(super) probs: &'a mut [E],
    /// Gradients: of y, then h (n, d); of aq, then of the queries (n, d); of a2, q2, x1 (then h),
    /// q1, k1 or x0, v1.
    pub(super) dyq: &'a mut [E],
    pub(super) daq: &'a mut [E],
    pub(super) da2: &'a mut [E],
    pub(super) dq2: &'a mut [E],
    pub(super) dx1: &'a mut [E],
    pub(super) dq1: &'a mut [E],
    pub(super) dk1: &'a mut [E],
    pub(super) dv1: &'a mut [E],
    /// Of the hidden layer: (T, 4d), or nothing.
    pub(super) df: &'a mut [E],
}

/// Lengths of the arrays of [`Tables`] and [`Activations`], in order; `None` on overflow.
pub(super) fn sizes(shape: &Shape) -> Option<([usize; 10], [usize; 28])> {
    let Shape { vocab: n, len: t, dim: d, ff, rotary } = *shape;
    let (square, nd, td) = (d.checked_mul(d)?, n.checked_mul(d)?, t.checked_mul(d)?);
    let (tt, tn) = (t.checked_mul(stride(t))?, t.checked_mul(n)?);
    let pd = if rotary { 0 } else { td };
    let [hidden0, hidden1] = ff.map(|ff| match ff {
        FeedForward::None => Some(0),
        FeedForward::Linear => Some(td),
        FeedForward::Relu => td.checked_mul(4),
    });
    let (hidden0, hidden1) = (hidden0?, hidden1?);
    let df = if ff.contains(&FeedForward::Relu) { td.checked_mul(4)? } else { 0 };
    let x1 = if hidden0 == 0 { 0 } else { td };
    let yq = if hidden1 == 0 { 0 } else { td };
    let tables = [square, square, nd, pd, nd, pd, square, nd, pd, nd];
    let activations = [
        td,
        td,
        if rotary { td } else { 0 },
        td,
        td,
        td,
        hidden0,
        x1,
        tt,
        tt,
        td,
        td,
        td,
        td,
        td,
        hidden1,
        yq,
        tn,
        tn,
        td,
        td,
        td,
        td,
        td,
        td,
        td,
        td,
        df,
    ];
    Some((tables, activations))
}

/// Row stride of a pattern over m positions: an odd number of cache lines at the usual lengths, so
/// that rows do not fall on the same sets.
pub(super) fn stride(m: usize) -> usize {
    m.next_multiple_of(16) + 16
}

/// Elements of the arena.
pub(super) fn len(shape: &Shape) -> Option<usize> {
    let (tables, activations) = sizes(shape)?;
    let all = tables.into_iter().chain(activations).try_fold(0usize, |sum, len| sum.checked_add(round(len)?));
    all.filter(|a| *a <= isize::MAX as usize / 64)
}

/// Arrays start on cache lines.
fn round(len: usize) -> Option<usize> {
    len.checked_next_multiple_of(16)
}

fn next<'a, E>(rest: &mut &'a mut [E], len: usize) -> &'a mut [E] {
    let (piece, tail) = std::mem::take(rest).split_at_mut(len.next_multiple_of(16));
    *rest = tail;
    &mut piece[..len]
}

/// Divides an arena of [`len`] elements into arrays.
pub(super) fn carve<'a, E>(shape: &Shape, arena: &'a mut [E]) -> (Tables<'a, E>, Activations<'a, E>) {
    let mut rest = arena;
    let (tables, activations) = sizes(shape).expect("the workspace was made for this model");
    let [phi, psi, ek, pk, ev, pv, dpsi, dek, dpk, dev] = tables.map(|len| next(&mut rest, len));
    let [
        x0,
        q1,
        k1,
        v1,
        a1,
        h1,
        f1,
        x1,
        p1,
        p2,
        q2,
        a2,
        xq,
        aq,
        hq,
        fq,
        yq,
        logits,
        probs,
        dyq,
        daq,
        da2,
        dq2,
        dx1,
        dq1,
        dk1,
        dv1,
        df,
    ] = activations.map(|len| next(&mut rest, len));
    let tables = Tables { phi, psi, ek, pk, ev, pv, dpsi, dek, dpk, dev };
    let activations = Activations {
        x0,
        q1,
        k1,
        v1,
        a1,
        h1,
        f1,
        x1,
        p1,
        p2,
        q2,
        a2,
        xq,
        aq,
        hq,
        fq,
        yq,
        logits,
        probs,
        dyq,
        daq,
        da2,
        dq2,
        dx1,
        dq1,
        dk1,
        dv1,
        df,
    };
    (tables, activations)
}
