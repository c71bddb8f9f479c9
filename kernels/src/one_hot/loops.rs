//! Inner loops over one-hot operands. [`GROUP`] sequences lie side by side, one to a lane:
//! everything but the look-ups is vertical, and the triangle of a causal pattern wastes no lane.
//! The look-ups are scalar: a vector gather costs as much per lane on the CPUs at hand.

use crate::elem::real::Real;
use crate::simd::Simd;
use crate::vecmath::rows;
use crate::vecmath::softmax::exp_below;

/// Sequences side by side. A multiple of every LANES.
pub(crate) const GROUP: usize = 16;

/// Sequences of T tokens, every token checked to be below S.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    pub(crate) tokens: *const u32,
    /// Sequences, at least 1.
    pub(crate) n: usize,
    pub(crate) t: usize,
    pub(crate) s: usize,
}

impl Words {
    /// First token of each lane's sequence; lanes past the end repeat the last sequence, so that
    /// they hold no other numbers than it does.
    #[inline(always)]
    fn lanes(&self, group: usize) -> [*const u32; GROUP] {
        let mut at = [self.tokens; GROUP];
        for (b, at) in at.iter_mut().enumerate() {
            let seq = group * GROUP + b;
            *at = self.tokens.wrapping_add((if seq < self.n { seq } else { self.n - 1 }) * self.t);
        }
        at
    }
    fn groups(&self) -> usize {
        self.n.div_ceil(GROUP)
    }
}

/// Entries of a pattern of T rows, row i having i + 1.
#[inline(always)]
pub(crate) fn triangle(t: usize) -> usize {
    t * (t + 1) / 2
}

/// Row length of the tables in scratch: rows start on cache lines.
pub(crate) fn padded(d: usize) -> usize {
    d.next_multiple_of(GROUP)
}

/// `out = a + b`, n elements.
///
/// # Safety
/// Readable and writable for n elements; `out` overlaps neither, or is one of them.
#[inline(always)]
unsafe fn add<E: Real, S: Simd<E>>(s: S, n: usize, a: *const E, b: *const E, out: *mut E) {
    let mut i = 0;
    while i < n {
        let len = if n - i < S::LANES { n - i } else { S::LANES };
        // SAFETY: len <= n - i elements from i on.
        unsafe {
            let sum = s.add(rows::load::<E, S>(s, a.add(i), len), rows::load::<E, S>(s, b.add(i), len));
            rows::store::<E, S>(s, out.add(i), len, sum);
        }
        i += len;
    }
}

/// Softmax down the columns of `rows` >= 1 rows of LANES entries, `rs` apart, in place.
///
/// # Safety
/// Every row is readable and writable for LANES elements.
#[inline(always)]
unsafe fn softmax_column<E: Real, S: Simd<E>>(s: S, rows: usize, x: *mut E, rs: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut max = s.load(x);
        for j in 1..rows {
            max = s.max(s.load(x.add(j * rs)), max);
        }
        let mut sum = s.splat(E::ZERO);
        for j in 0..rows {
            let e = exp_below::<E, S>(s, s.load(x.add(j * rs)), max);
            s.store(x.add(j * rs), e);
            sum = s.add(sum, e);
        }
        let by = s.div(s.splat(E::ONE), sum);
        for j in 0..rows {
            s.store(x.add(j * rs), s.mul(s.load(x.add(j * rs)), by));
        }
    }
}

/// Patterns of all sequences: softmax over j <= i of q_i\[s_j\] + q_i\[S + j\], where
/// q_i = table\[s_i\] + table\[S + i\]. For a fixed i there are at most S different q_i: they are
/// made once for all sequences.
///
/// # Safety
/// table (D, D), rows `rs` apart, D = S + T; `q` is writable for S rows of `padded(D)`; `out` for
/// groups · triangle · GROUP elements.
#[inline(always)]
pub(crate) unsafe fn patterns<E: Real, S: Simd<E>>(
    s: S,
    w: Words,
    table: *const E,
    rs: usize,
    q: *mut E,
    out: *mut E,
) {
    let ld = padded(w.s + w.t);
    for i in 0..w.t {
        for token in 0..w.s {
            // SAFETY: rows `token` and S + i of the table, row `token` of q; S + i + 1 <= D
            // columns.
            unsafe {
                let (a, b) = (table.add(token * rs), table.add((w.s + i) * rs));
                add::<E, S>(s, w.s + i + 1, a, b, q.add(token * ld));
            }
        }
        for group in 0..w.groups() {
            let lanes = w.lanes(group);
            // SAFETY: row i of the group's triangle; tokens are below S, so that look-ups stay
            // inside a row of q.
            unsafe {
                let row = out.add((group * triangle(w.t) + triangle(i)) * GROUP);
                for b in 0..GROUP {
                    let word = lanes[b];
                    let q = q.add(*word.add(i) as usize * ld);
                    let (positions, to) = (q.add(w.s), row.add(b));
                    for j in 0..i + 1 {
                        *to.add(j * GROUP) = *q.add(*word.add(j) as usize) + *positions.add(j);
                    }
                }
                let mut v = 0;
                while v < GROUP {
                    softmax_column::<E, S>(s, i + 1, row.add(v), GROUP);
                    v += S::LANES;
                }
            }
        }
    }
}

/// What the gradient of [`patterns`] starts from, all with a column per sequence, rows `ld` apart:
/// dP_ij = Σ_r left_r\[i\] right_r\[j\] + (i = T − 1) last\[j\].
#[derive(Clone, Copy)]
pub(crate) struct PatternGrad<E> {
    /// (terms, T).
    pub(crate) left: *const E,
    pub(crate) right: *const E,
    pub(crate) terms: usize,
    /// (T).
    pub(crate) last: *const E,
    pub(crate) ld: usize,
}

/// Gradient of the table of [`patterns`], overwritten. ds = P (dP − Σ_j P dP) row by row; dq_i has
/// ds_ij at S + j and, added up, at s_j; it is added to rows s_i and S + i. As in the forward pass
/// dq_i is collected per token first.
///
/// # Safety
/// As [`patterns`]; the rows of `from` are readable for groups · GROUP elements, dtable writable;
/// `q` has S + GROUP rows, `ds` T · GROUP elements.
#[inline(always)]
pub(crate) unsafe fn patterns_backward<E: Real, S: Simd<E>>(
    s: S,
    w: Words,
    pattern: *const E,
    from: PatternGrad<E>,
    (dtable, rs): (*mut E, usize),
    q: *mut E,
    ds: *mut E,
) {
    let (d, ld) = (w.s + w.t, padded(w.s + w.t));
    let per_lane = q.wrapping_add(w.s * ld);
    // SAFETY: the caller's promise throughout; tokens are below S, j <= i < T.
    unsafe {
        for r in 0..d {
            std::slice::from_raw_parts_mut(dtable.add(r * rs), d).fill(E::ZERO);
        }
        for i in 0..w.t {
            std::slice::from_raw_parts_mut(q, w.s * ld).fill(E::ZERO);
            for group in 0..w.groups() {
                let row = pattern.add((group * triangle(w.t) + triangle(i)) * GROUP);
                let mut v = 0;
                while v < GROUP {
                    softmax_gradient::<E, S>(s, i, w.t, row.add(v), from, group * GROUP + v, ds.add(v));
                    v += S::LANES;
                }
                let lanes = w.lanes(group);
                for b in 0..GROUP {
                    std::slice::from_raw_parts_mut(per_lane.add(b * ld), w.s).fill(E::ZERO);
                }
                // Lane after lane: a token that comes again does so in another place, so that no
                // addition waits for the last one's store.
                for j in 0..i + 1 {
                    for b in 0..GROUP {
                        let word = lanes[b];
                        let (x, to) = (*ds.add(j * GROUP + b), per_lane.add(b * ld));
                        *to.add(*word.add(j) as usize) += x;
                        *to.add(w.s + j) = x;
                    }
                }
                let real = if w.n - group * GROUP < GROUP { w.n - group * GROUP } else { GROUP };
                for b in 0..real {
                    let word = lanes[b];
                    let to = q.add(*word.add(i) as usize * ld);
                    add::<E, S>(s, w.s + i + 1, to, per_lane.add(b * ld), to);
                }
            }
            for token in 0..w.s {
                let from = q.add(token * ld);
                for row in [token, w.s + i] {
                    let to = dtable.add(row * rs);
                    add::<E, S>(s, w.s + i + 1, to, from, to);
                }
            }
        }
    }
}

/// Gradient of the scores of row i, for LANES sequences from column `at` on.
///
/// # Safety
/// `p` and `ds` have i + 1 rows of LANES elements, GROUP apart; `from` as in [`patterns_backward`].
#[inline(always)]
unsafe fn softmax_gradient<E: Real, S: Simd<E>>(
    s: S,
    i: usize,
    t: usize,
    p: *const E,
    from: PatternGrad<E>,
    at: usize,
    ds: *mut E,
) {
    let ld = from.ld;
    // SAFETY: the caller's promise.
    unsafe {
        let (mut dot, zero, is_last) = (s.splat(E::ZERO), s.splat(E::ZERO), i + 1 == t);
        // Without terms there may be nothing to point into.
        let (left, right) = (from.left.wrapping_add(i * ld + at), from.right.wrapping_add(at));
        let term = t * ld;
        if from.terms == 2 {
            // The usual case, one head reading the pattern: both factors stay in registers.
            let (a, b) = (s.load(left), s.load(left.add(term)));
            for j in 0..i + 1 {
                let mut dp = if is_last { s.load(from.last.add(j * ld + at)) } else { zero };
                dp = s.fma(a, s.load(right.add(j * ld)), dp);
                dp = s.fma(b, s.load(right.add(term + j * ld)), dp);
                s.store(ds.add(j * GROUP), dp);
                dot = s.fma(s.load(p.add(j * GROUP)), dp, dot);
            }
        } else {
            for j in 0..i + 1 {
                let mut dp = if is_last { s.load(from.last.add(j * ld + at)) } else { zero };
                for r in 0..from.terms {
                    dp = s.fma(s.load(left.add(r * term)), s.load(right.add(r * term + j * ld)), dp);
                }
                s.store(ds.add(j * GROUP), dp);
                dot = s.fma(s.load(p.add(j * GROUP)), dp, dot);
            }
        }
        for j in 0..i + 1 {
            let to = ds.add(j * GROUP);
            s.store(to, s.mul(s.load(p.add(j * GROUP)), s.sub(s.load(to), dot)));
        }
    }
}

/// `out[k] = x[s_k] + x[S + k]` per column, k < T; rows of both `ld` apart.
///
/// # Safety
/// x has S + T rows, out T, of groups · GROUP elements.
#[inline(always)]
pub(crate) unsafe fn read<E: Real>(w: Words, x: *const E, xs: usize, out: *mut E, os: usize) {
    for group in 0..w.groups() {
        let (lanes, at) = (w.lanes(group), group * GROUP);
        // SAFETY: tokens are below S.
        unsafe {
            let (x, out) = (x.add(at), out.add(at));
            for k in 0..w.t {
                for b in 0..GROUP {
                    let word = lanes[b];
                    *out.add(k * os + b) =
                        *x.add(*word.add(k) as usize * xs + b) + *x.add((w.s + k) * xs + b);
                }
            }
        }
    }
}

/// `out[c] = Σ_{k: s_k = c} x[k]`, c < S; `out[S + k] = x[k]`: the transpose of [`read`].
///
/// # Safety
/// x has T rows, out S + T, of groups · GROUP elements.
#[inline(always)]
pub(crate) unsafe fn collect<E: Real>(w: Words, x: *const E, xs: usize, out: *mut E, os: usize) {
    for group in 0..w.groups() {
        let (lanes, at) = (w.lanes(group), group * GROUP);
        // SAFETY: tokens are below S.
        unsafe {
            let (x, out) = (x.add(at), out.add(at));
            for c in 0..w.s {
                std::slice::from_raw_parts_mut(out.add(c * os), GROUP).fill(E::ZERO);
            }
            for k in 0..w.t {
                for b in 0..GROUP {
                    let word = lanes[b];
                    let v = *x.add(k * xs + b);
                    *out.add(*word.add(k) as usize * os + b) += v;
                    *out.add((w.s + k) * os + b) = v;
                }
            }
        }
    }
}

/// `y[i] += Σ_{j <= i} P_ij x[j]` per column. Four sums at a time: one alone would wait for its own
/// additions.
///
/// # Safety
/// P has groups · triangle · GROUP elements; x and y T rows of groups · GROUP.
#[inline(always)]
pub(crate) unsafe fn apply<E: Real, S: Simd<E>>(
    s: S,
    [groups, t]: [usize; 2],
    p: *const E,
    x: *const E,
    xs: usize,
    y: *mut E,
    ys: usize,
) {
    for group in 0..groups {
        let mut v = 0;
        while v < GROUP {
            // SAFETY: the caller's promise; j <= i < T.
            unsafe {
                let (p, x) = (p.add(group * triangle(t) * GROUP + v), x.add(group * GROUP + v));
                for i in 0..t {
                    let (row, y) = (p.add(triangle(i) * GROUP), y.add(i * ys + group * GROUP + v));
                    let mut acc = [s.load(y), s.splat(E::ZERO), s.splat(E::ZERO), s.splat(E::ZERO)];
                    let mut j = 0;
                    while j + 4 <= i + 1 {
                        for (u, acc) in acc.iter_mut().enumerate() {
                            let x = s.load(x.add((j + u) * xs));
                            *acc = s.fma(s.load(row.add((j + u) * GROUP)), x, *acc);
                        }
                        j += 4;
                    }
                    while j <= i {
                        acc[0] = s.fma(s.load(row.add(j * GROUP)), s.load(x.add(j * xs)), acc[0]);
                        j += 1;
                    }
                    s.store(y, s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])));
                }
            }
            v += S::LANES;
        }
    }
}

/// `y[j] = Σ_{i >= j} P_ij x[i]` per column: the transpose of [`apply`]. Four rows at a time, so
/// that y is read and written a quarter as often.
///
/// # Safety
/// As [`apply`].
#[inline(always)]
pub(crate) unsafe fn apply_t<E: Real, S: Simd<E>>(
    s: S,
    [groups, t]: [usize; 2],
    p: *const E,
    x: *const E,
    xs: usize,
    y: *mut E,
    ys: usize,
) {
    for group in 0..groups {
        let mut v = 0;
        while v < GROUP {
            // SAFETY: the caller's promise; j <= i < T.
            unsafe {
                let p = p.add(group * triangle(t) * GROUP + v);
                let (x, y) = (x.add(group * GROUP + v), y.add(group * GROUP + v));
                for j in 0..t {
                    s.store(y.add(j * ys), s.splat(E::ZERO));
                }
                let mut i = 0;
                while i < t {
                    let rows = if t - i < 4 { t - i } else { 4 };
                    let mut w = [s.splat(E::ZERO); 4];
                    for (u, w) in w.iter_mut().enumerate().take(rows) {
                        *w = s.load(x.add((i + u) * xs));
                    }
                    let row = p.add(triangle(i) * GROUP);
                    if rows == 4 {
                        // Rows i .. i + 4 of the triangle, i + 1, i + 2 and i + 3 entries further
                        // on each.
                        let at = [0, i + 1, 2 * i + 3, 3 * i + 6];
                        for j in 0..i + 1 {
                            let mut acc = s.load(y.add(j * ys));
                            for u in 0..4 {
                                acc = s.fma(s.load(row.add((at[u] + j) * GROUP)), w[u], acc);
                            }
                            s.store(y.add(j * ys), acc);
                        }
                    }
                    // What is left: the corner above the diagonal of the four, or all of fewer
                    // rows.
                    for u in 0..rows {
                        let row = p.add(triangle(i + u) * GROUP);
                        for j in (if rows == 4 { i + 1 } else { 0 })..i + u + 1 {
                            let to = y.add(j * ys);
                            s.store(to, s.fma(s.load(row.add(j * GROUP)), w[u], s.load(to)));
                        }
                    }
                    i += rows;
                }
            }
            v += S::LANES;
        }
    }
}

/// Row i of the patterns, a row per key.
///
/// # Safety
/// P as in [`apply`]; out has i + 1 rows of groups · GROUP elements.
#[inline(always)]
pub(crate) unsafe fn pattern_row<E: Real>(
    [groups, t]: [usize; 2],
    i: usize,
    p: *const E,
    out: *mut E,
    os: usize,
) {
    for group in 0..groups {
        for j in 0..i + 1 {
            // SAFETY: the caller's promise; j <= i < T.
            unsafe {
                let from = p.add((group * triangle(t) + triangle(i) + j) * GROUP);
                std::ptr::copy_nonoverlapping(from, out.add(j * os + group * GROUP), GROUP);
            }
        }
    }
}

/// Softmax of every column, in place.
///
/// # Safety
/// x has rows >= 1 rows of groups · GROUP elements.
#[inline(always)]
pub(crate) unsafe fn softmax_columns<E: Real, S: Simd<E>>(
    s: S,
    rows: usize,
    cols: usize,
    x: *mut E,
    xs: usize,
) {
    let mut c = 0;
    while c < cols {
        // SAFETY: LANES divides GROUP, which divides cols.
        unsafe { softmax_column::<E, S>(s, rows, x.add(c), xs) };
        c += S::LANES;
    }
}

/// `dp = p (dp − Σ p dp)` of every column, in place.
///
/// # Safety
/// p and dp have `rows` rows of `cols` elements, GROUP dividing `cols`.
#[inline(always)]
pub(crate) unsafe fn softmax_columns_backward<E: Real, S: Simd<E>>(
    s: S,
    rows: usize,
    cols: usize,
    p: *const E,
    ps: usize,
    dp: *mut E,
    ds: usize,
) {
    let mut c = 0;
    while c < cols {
        // SAFETY: as above.
        unsafe {
            let mut dot = s.splat(E::ZERO);
            for j in 0..rows {
                dot = s.fma(s.load(p.add(j * ps + c)), s.load(dp.add(j * ds + c)), dot);
            }
            for j in 0..rows {
                let to = dp.add(j * ds + c);
                s.store(to, s.mul(s.load(p.add(j * ps + c)), s.sub(s.load(to), dot)));
            }
        }
        c += S::LANES;
    }
}
