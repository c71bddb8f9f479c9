//! Updates of flat vectors, in the element type and without fma: every operation rounds once, the
//! same bits on every instruction set.

use crate::elem::real::Real;
use crate::simd::Simd;
use crate::vecmath::rows::{load, store};

/// θ ← θ − lr (g + wd θ); with `MOMENTUM`, b ← m b + (g + wd θ), θ ← θ − lr b.
///
/// # Safety
/// `p` (and with `MOMENTUM` `b`) are readable and writable, `g` readable, for n elements.
#[inline(always)]
pub(crate) unsafe fn sgd<E: Real, S: Simd<E>, const MOMENTUM: bool>(
    s: S,
    n: usize,
    p: *mut E,
    g: *const E,
    b: *mut E,
    [lr, momentum, decay]: [E; 3],
) {
    let (lr, momentum, decay) = (s.splat(lr), s.splat(momentum), s.splat(decay));
    let mut i = 0;
    while i < n {
        let len = if n - i < S::LANES { n - i } else { S::LANES };
        // SAFETY: len <= n - i elements from i on.
        unsafe {
            let x = load::<E, S>(s, p.add(i), len);
            let mut d = s.add(load::<E, S>(s, g.add(i), len), s.mul(decay, x));
            if MOMENTUM {
                d = s.add(s.mul(momentum, load::<E, S>(s, b.add(i), len)), d);
                store::<E, S>(s, b.add(i), len, d);
            }
            store::<E, S>(s, p.add(i), len, s.sub(x, s.mul(lr, d)));
        }
        i += len;
    }
}

/// What a step of AdamW multiplies with.
pub(crate) struct AdamFactors<E> {
    /// 1 − lr wd.
    pub(crate) shrink: E,
    pub(crate) beta1: E,
    /// 1 − β₁.
    pub(crate) rest1: E,
    pub(crate) beta2: E,
    /// 1 − β₂.
    pub(crate) rest2: E,
    /// lr / (1 − β₁ᵗ).
    pub(crate) rate: E,
    /// 1 / sqrt(1 − β₂ᵗ).
    pub(crate) root: E,
    pub(crate) eps: E,
}

/// m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², θ ← (1 − lr wd) θ − rate m / (root sqrt v + eps).
///
/// # Safety
/// `p`, `m`, `v` are readable and writable, `g` readable, for n elements.
#[inline(always)]
pub(crate) unsafe fn adamw<E: Real, S: Simd<E>>(
    s: S,
    n: usize,
    p: *mut E,
    g: *const E,
    m: *mut E,
    v: *mut E,
    f: AdamFactors<E>,
) {
    let (beta1, rest1, beta2, rest2) =
        (s.splat(f.beta1), s.splat(f.rest1), s.splat(f.beta2), s.splat(f.rest2));
    let (shrink, rate, root, eps) = (s.splat(f.shrink), s.splat(f.rate), s.splat(f.root), s.splat(f.eps));
    let mut i = 0;
    while i < n {
        let len = if n - i < S::LANES { n - i } else { S::LANES };
        // SAFETY: len <= n - i elements from i on.
        unsafe {
            let (g, old) = (load::<E, S>(s, g.add(i), len), load::<E, S>(s, p.add(i), len));
            let mean = s.add(s.mul(beta1, load::<E, S>(s, m.add(i), len)), s.mul(rest1, g));
            let square = s.add(s.mul(beta2, load::<E, S>(s, v.add(i), len)), s.mul(rest2, s.mul(g, g)));
            store::<E, S>(s, m.add(i), len, mean);
            store::<E, S>(s, v.add(i), len, square);
            let scale = s.add(s.mul(root, s.sqrt(square)), eps);
            let new = s.sub(s.mul(shrink, old), s.div(s.mul(rate, mean), scale));
            store::<E, S>(s, p.add(i), len, new);
        }
        i += len;
    }
}

/// x ← max(x, 0): NaN stays, and −0.
///
/// # Safety
/// `x` is readable and writable for n elements.
#[inline(always)]
pub(crate) unsafe fn relu<E: Real, S: Simd<E>>(s: S, n: usize, x: *mut E) {
    let mut i = 0;
    while i < n {
        let len = if n - i < S::LANES { n - i } else { S::LANES };
        // SAFETY: len <= n - i elements from i on.
        unsafe {
            let y = s.max(s.splat(E::ZERO), load::<E, S>(s, x.add(i), len));
            store::<E, S>(s, x.add(i), len, y);
        }
        i += len;
    }
}

/// d ← d where out > 0 or NaN, else 0.
///
/// # Safety
/// `out` is readable, `d` readable and writable, for n elements.
#[inline(always)]
pub(crate) unsafe fn relu_backward<E: Real, S: Simd<E>>(s: S, n: usize, out: *const E, d: *mut E) {
    let mut i = 0;
    while i < n {
        let len = if n - i < S::LANES { n - i } else { S::LANES };
        // SAFETY: len <= n - i elements from i on.
        unsafe {
            let (y, g) = (load::<E, S>(s, out.add(i), len), load::<E, S>(s, d.add(i), len));
            // Compared with 0 and 1, not with the least number above 0: threads of other libraries
            // may read subnormal numbers as 0. NaN is below neither.
            let cut = s.select_lt(y, s.splat(E::ONE), s.splat(E::ZERO), g);
            store::<E, S>(s, d.add(i), len, s.select_lt(s.splat(E::ZERO), y, g, cut));
        }
        i += len;
    }
}

/// `to += from`.
///
/// # Safety
/// `from` is readable, `to` readable and writable, for n elements.
#[inline(always)]
pub(crate) unsafe fn add_row<E: Real, S: Simd<E>>(s: S, n: usize, from: *const E, to: *mut E) {
    let mut i = 0;
    while i < n {
        let len = if n - i < S::LANES { n - i } else { S::LANES };
        // SAFETY: len <= n - i elements from i on.
        unsafe {
            let (x, y) = (load::<E, S>(s, from.add(i), len), load::<E, S>(s, to.add(i), len));
            let sum = s.add(y, x);
            if len == S::LANES { s.store(to.add(i), sum) } else { s.store_pieces(to.add(i), len, sum) }
        }
        i += len;
    }
}

/// out = factor Σ rows of x, or out + that where `add`: x (rows, d).
///
/// # Safety
/// `x` is readable for rows d elements, `out` readable and writable for d.
#[inline(always)]
pub(crate) unsafe fn column_sums<E: Real, S: Simd<E>>(
    s: S,
    [rows, d]: [usize; 2],
    x: *const E,
    factor: E,
    add: bool,
    out: *mut E,
) {
    let factor = s.splat(factor);
    let mut j = 0;
    // Four vectors at a time, whose sums overlap.
    while j + 4 * S::LANES <= d {
        let mut sums = [s.splat(E::ZERO); 4];
        for i in 0..rows {
            for v in 0..4 {
                // SAFETY: four vectors at column j of row i.
                sums[v] = s.add(sums[v], unsafe { s.load(x.add(i * d + j + v * S::LANES)) });
            }
        }
        for v in 0..4 {
            // SAFETY: as above, of out.
            unsafe {
                let p = out.add(j + v * S::LANES);
                let sum = s.mul(factor, sums[v]);
                s.store(p, if add { s.add(s.load(p), sum) } else { sum });
            }
        }
        j += 4 * S::LANES;
    }
    while j < d {
        let n = if d - j < S::LANES { d - j } else { S::LANES };
        let mut sum = s.splat(E::ZERO);
        // SAFETY: n <= d - j elements from j on, of row i and of out.
        unsafe {
            for i in 0..rows {
                sum = s.add(sum, load::<E, S>(s, x.add(i * d + j), n));
            }
            let (p, sum) = (out.add(j), s.mul(factor, sum));
            store::<E, S>(s, p, n, if add { s.add(load::<E, S>(s, p, n), sum) } else { sum });
        }
        j += n;
    }
}
