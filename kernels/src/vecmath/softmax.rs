//! exp(x − max) and its sum over a row: the common part of softmax, cross-entropy and attention.
//!
//! NaN anywhere, or +∞ (∞ − ∞), or nothing but −∞, makes an exponential NaN and with it the sum: no
//! test for them is needed.

use crate::elem::real::Real;
use crate::simd::Simd;
use crate::vecmath::exp::exp_normal;

/// Vector of `len <= LANES` elements `cs` apart; zeros in the other lanes.
///
/// # Safety
/// `p` is readable at i * cs, i < len; `UNIT` only if cs = 1.
#[inline(always)]
unsafe fn get<E: Real, S: Simd<E>, const UNIT: bool>(s: S, p: *const E, cs: usize, len: usize) -> S::V {
    // SAFETY: as the caller vouches; the array has 16 >= LANES elements.
    unsafe {
        if UNIT {
            return if len == S::LANES { s.load(p) } else { s.load_partial(p, len) };
        }
        let mut a = [E::ZERO; 16];
        for (i, a) in a.iter_mut().enumerate().take(len) {
            *a = *p.add(i * cs);
        }
        s.load(a.as_ptr())
    }
}

/// Writes the first `len <= LANES` lanes, `cs` apart.
///
/// # Safety
/// `p` is writable at i * cs, i < len; `UNIT` only if cs = 1.
#[inline(always)]
unsafe fn put<E: Real, S: Simd<E>, const UNIT: bool>(s: S, p: *mut E, cs: usize, len: usize, v: S::V) {
    // SAFETY: as the caller vouches; the array has 16 >= LANES elements.
    unsafe {
        if UNIT {
            return if len == S::LANES { s.store(p, v) } else { s.store_pieces(p, len, v) };
        }
        let mut a = [E::ZERO; 16];
        s.store(a.as_mut_ptr(), v);
        for (i, a) in a.iter().enumerate().take(len) {
            *p.add(i * cs) = *a;
        }
    }
}

/// `v` in the first `len` lanes, `fill` in the others.
#[inline(always)]
fn keep<E: Real, S: Simd<E>>(s: S, v: S::V, len: usize, fill: E) -> S::V {
    // SAFETY: the table has 16 >= LANES entries.
    let index = unsafe { s.load(E::INDEX.as_ptr()) };
    s.select_lt(index, s.splat(E::from_f64(len as f64)), v, s.splat(fill))
}

/// exp(x − max), and 0 where that is below
/// e^[`SOFTMAX_MIN`](super::consts::MathConsts::SOFTMAX_MIN). Subnormal numbers would be slow (a
/// microcode assist per vector, here and again in every product with them) and do not matter
/// next to a 1.
#[inline(always)]
pub(crate) fn exp_below<E: Real, S: Simd<E>>(s: S, x: S::V, max: S::V) -> S::V {
    let (t, low) = (s.sub(x, max), s.splat(E::SOFTMAX_MIN));
    s.select_lt(t, low, s.splat(E::ZERO), exp_normal::<E, S>(s, s.max(low, t)))
}

/// Largest of n >= 1 elements, NaN ignored or not as it falls.
///
/// # Safety
/// `x` is readable at i * cs, i < n; `UNIT` only if cs = 1.
#[inline(always)]
unsafe fn row_max<E: Real, S: Simd<E>, const UNIT: bool>(s: S, n: usize, x: *const E, cs: usize) -> E {
    let mut m = s.splat(E::NEG_INFINITY);
    let mut i = 0;
    while i + S::LANES <= n {
        // SAFETY: i + LANES <= n.
        m = s.max(m, unsafe { get::<E, S, UNIT>(s, x.add(i * cs), cs, S::LANES) });
        i += S::LANES;
    }
    if i < n {
        // SAFETY: n - i elements from i on.
        let v = unsafe { get::<E, S, UNIT>(s, x.add(i * cs), cs, n - i) };
        m = s.max(m, keep::<E, S>(s, v, n - i, E::NEG_INFINITY));
    }
    s.reduce_max(m)
}

/// `out = exp(x − max x)` for a row of n >= 1 elements (in place if x = out); returns max and the
/// sum of `out` in E. Each lane adds n / LANES terms, then the lanes fold: relative error (n /
/// LANES + log2 LANES) u, all terms being positive.
///
/// # Safety
/// `x` is readable at i * xs and `out` writable at i * os, i < n; `UNIT` only if both strides are
/// 1.
#[inline(always)]
pub(crate) unsafe fn exp_row<E: Real, S: Simd<E>, const UNIT: bool>(
    s: S,
    n: usize,
    x: *const E,
    xs: usize,
    out: *mut E,
    os: usize,
) -> (E, E) {
    // SAFETY: the caller's promise.
    let max = unsafe { row_max::<E, S, UNIT>(s, n, x, xs) };
    let m = s.splat(max);
    let mut sum = s.splat(E::ZERO);
    let mut i = 0;
    while i + S::LANES <= n {
        // SAFETY: i + LANES <= n.
        unsafe {
            let e = exp_below::<E, S>(s, get::<E, S, UNIT>(s, x.add(i * xs), xs, S::LANES), m);
            put::<E, S, UNIT>(s, out.add(i * os), os, S::LANES, e);
            sum = s.add(sum, e);
        }
        i += S::LANES;
    }
    if i < n {
        // SAFETY: n - i elements from i on.
        unsafe {
            let e = exp_below::<E, S>(s, get::<E, S, UNIT>(s, x.add(i * xs), xs, n - i), m);
            put::<E, S, UNIT>(s, out.add(i * os), os, n - i, e);
            sum = s.add(sum, keep::<E, S>(s, e, n - i, E::ZERO));
        }
    }
    (max, s.reduce_add(sum))
}

/// Multiplies a row by `by`.
///
/// # Safety
/// `x` is readable and writable at i * cs, i < n; `UNIT` only if cs = 1.
#[inline(always)]
pub(crate) unsafe fn scale_row<E: Real, S: Simd<E>, const UNIT: bool>(
    s: S,
    n: usize,
    x: *mut E,
    cs: usize,
    by: E,
) {
    let by = s.splat(by);
    let mut i = 0;
    while i < n {
        let len = if n - i < S::LANES { n - i } else { S::LANES };
        // SAFETY: len <= n - i elements from i on.
        unsafe {
            let p = x.add(i * cs);
            put::<E, S, UNIT>(s, p, cs, len, s.mul(get::<E, S, UNIT>(s, p, cs, len), by));
        }
        i += len;
    }
}

/// Softmax of a row of n >= 1 elements, in place: p = e (1 / Σ e). The reciprocal costs one
/// rounding more than a division per element would. Rows of up to four vectors stay in registers:
/// one load and one store per vector.
///
/// # Safety
/// `x` is readable and writable at i * cs, i < n; `UNIT` only if cs = 1.
#[inline(always)]
pub(crate) unsafe fn softmax_row<E: Real, S: Simd<E>, const UNIT: bool>(
    s: S,
    n: usize,
    x: *mut E,
    cs: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if UNIT && n <= 4 * S::LANES {
            return match n.div_ceil(S::LANES) {
                1 => short_row::<E, S, 1>(s, n, x),
                2 => short_row::<E, S, 2>(s, n, x),
                3 => short_row::<E, S, 3>(s, n, x),
                _ => short_row::<E, S, 4>(s, n, x),
            };
        }
        let (_, sum) = exp_row::<E, S, UNIT>(s, n, x, cs, x, cs);
        scale_row::<E, S, UNIT>(s, n, x, cs, E::ONE / sum);
    }
}

/// [`softmax_row`] of NV vectors, the last one not empty.
///
/// # Safety
/// `x` is readable and writable for n elements, (NV − 1) LANES < n <= NV LANES.
#[inline(always)]
unsafe fn short_row<E: Real, S: Simd<E>, const NV: usize>(s: S, n: usize, x: *mut E) {
    let last = n - (NV - 1) * S::LANES;
    let low = s.splat(E::NEG_INFINITY);
    let (mut v, mut max) = ([low; NV], low);
    for j in 0..NV {
        let len = if j + 1 < NV { S::LANES } else { last };
        // SAFETY: len elements from j LANES on.
        v[j] = unsafe { get::<E, S, true>(s, x.add(j * S::LANES), 1, len) };
        if j + 1 == NV {
            // Lanes beyond the row: exp makes them 0, unless the row is −∞ throughout: then they
            // are NaN as it is.
            v[j] = keep::<E, S>(s, v[j], len, E::NEG_INFINITY);
        }
        max = s.max(max, v[j]);
    }
    let max = s.splat(s.reduce_max(max));
    let mut sum = s.splat(E::ZERO);
    for j in 0..NV {
        v[j] = exp_below::<E, S>(s, v[j], max);
        sum = s.add(sum, v[j]);
    }
    let by = s.splat(E::ONE / s.reduce_add(sum));
    for j in 0..NV {
        let len = if j + 1 < NV { S::LANES } else { last };
        // SAFETY: as above.
        unsafe { put::<E, S, true>(s, x.add(j * S::LANES), 1, len, s.mul(v[j], by)) };
    }
}
