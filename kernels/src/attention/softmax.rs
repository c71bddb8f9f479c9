//! Exponentials of attention: rows forward, tiles backward, both with the same operations, so that
//! P recomputed is P.

use crate::attention::plan::{In, Out};
use crate::attention::tile::Finish;
use crate::elem::real::Real;
use crate::simd::Simd;
use crate::vecmath::exp::horner;
use crate::vecmath::rows::{load, store};

/// e^t for t <= 0, 0 below e^[`SOFTMAX_MIN`](super::super::consts::MathConsts::SOFTMAX_MIN), NaN
/// for NaN: the library's exp without the clamps, which this range does not need. t > 0 gives
/// anything.
#[inline(always)]
pub(super) fn exp_neg<E: Real, S: Simd<E>>(s: S, t: S::V) -> S::V {
    let low = s.splat(E::SOFTMAX_MIN);
    let x = s.max(low, t);
    let n = s.round(s.mul(x, s.splat(E::LOG2_E)));
    let r = s.fma(n, s.splat(-E::LN2_HI), x);
    let r = s.fma(n, s.splat(-E::LN2_LO), r);
    let q = horner::<E, S>(s, E::EXP, r);
    let p = s.add(s.fma(s.mul(r, r), q, r), s.splat(E::ONE));
    s.select_lt(t, low, s.splat(E::ZERO), s.ldexp(p, n))
}

/// `v` in the first `len` lanes, `fill` in the others.
#[inline(always)]
fn keep<E: Real, S: Simd<E>>(s: S, v: S::V, len: usize, fill: E) -> S::V {
    // SAFETY: the table has 16 >= LANES entries.
    let index = unsafe { s.load(E::INDEX.as_ptr()) };
    s.select_lt(index, s.splat(E::from_f64(len as f64)), v, s.splat(fill))
}

/// Largest of n elements, NaN ignored or not as it falls; −∞ if there are none.
///
/// # Safety
/// `x` is readable for n elements.
#[inline(always)]
pub(super) unsafe fn row_max<E: Real, S: Simd<E>>(s: S, n: usize, x: *const E) -> E {
    let mut m = [s.splat(E::NEG_INFINITY); 2];
    let mut i = 0;
    while i + 2 * S::LANES <= n {
        // SAFETY: i + 2 LANES <= n.
        unsafe {
            m[0] = s.max(m[0], s.load(x.add(i)));
            m[1] = s.max(m[1], s.load(x.add(i + S::LANES)));
        }
        i += 2 * S::LANES;
    }
    while i < n {
        let len = if n - i < S::LANES { n - i } else { S::LANES };
        // SAFETY: len <= n - i.
        let v = unsafe { load::<E, S>(s, x.add(i), len) };
        m[0] = s.max(m[0], if len == S::LANES { v } else { keep::<E, S>(s, v, len, E::NEG_INFINITY) });
        i += len;
    }
    s.reduce_max(s.max(m[0], m[1]))
}

/// `x = exp(x − max)` in place; their sum: each lane adds n / LANES terms, then the lanes fold.
/// Elements beyond n, up to a whole vector, receive arbitrary values.
///
/// # Safety
/// `x` is readable and writable for n elements rounded up to whole vectors.
#[inline(always)]
pub(super) unsafe fn exp_row<E: Real, S: Simd<E>>(s: S, n: usize, x: *mut E, max: E) -> E {
    let m = s.splat(max);
    let mut sum = s.splat(E::ZERO);
    let mut i = 0;
    while i < n {
        // SAFETY: a whole vector at i < n.
        unsafe {
            let e = exp_neg::<E, S>(s, s.sub(s.load(x.add(i)), m));
            s.store(x.add(i), e);
            sum = s.add(sum, if n - i < S::LANES { keep::<E, S>(s, e, n - i, E::ZERO) } else { e });
        }
        i += S::LANES;
    }
    s.reduce_add(sum)
}

/// `to = exp(x − max) * by` for n elements.
///
/// # Safety
/// `x` is readable, `to` writable for n elements.
#[inline(always)]
pub(super) unsafe fn probabilities<E: Real, S: Simd<E>>(
    s: S,
    n: usize,
    x: *const E,
    max: E,
    by: E,
    to: *mut E,
) {
    let (m, by) = (s.splat(max), s.splat(by));
    let mut i = 0;
    while i < n {
        let len = if n - i < S::LANES { n - i } else { S::LANES };
        // SAFETY: len <= n - i.
        unsafe {
            let e = exp_neg::<E, S>(s, s.sub(load::<E, S>(s, x.add(i), len), m));
            store::<E, S>(s, to.add(i), len, s.mul(e, by));
        }
        i += len;
    }
}

/// `to = x * by` for n elements.
///
/// # Safety
/// `x` is readable, `to` writable for n elements; they may be the same.
#[inline(always)]
pub(super) unsafe fn scaled<E: Real, S: Simd<E>>(s: S, n: usize, x: *const E, by: E, to: *mut E) {
    let by = s.splat(by);
    let mut i = 0;
    while i < n {
        let len = if n - i < S::LANES { n - i } else { S::LANES };
        // SAFETY: len <= n - i.
        unsafe { store::<E, S>(s, to.add(i), len, s.mul(load::<E, S>(s, x.add(i), len), by)) };
        i += len;
    }
}

/// Softmax of a row of at most NV vectors that has no other block: `row` becomes exp(x − max) in
/// its first n elements and 0 in the others of its NV vectors. Returns max and 1 / sum, the bits of
/// [`row_max`] and [`exp_row`]; writes the probabilities to `probs`, if there, and 0 from n up to
/// its length `total`. One load and one store per vector.
///
/// # Safety
/// `row` is readable and writable for NV vectors, `probs` writable for `total` elements; 1 <= n <=
/// NV LANES.
#[inline(always)]
pub(super) unsafe fn short_row<E: Real, S: Simd<E>, const NV: usize>(
    s: S,
    n: usize,
    row: *mut E,
    probs: Option<*mut E>,
    total: usize,
) -> (E, E) {
    // SAFETY: the contract above; the table has 16 >= LANES entries.
    unsafe {
        let index = s.load(E::INDEX.as_ptr());
        let (mut x, mut max) = ([s.splat(E::NEG_INFINITY); NV], s.splat(E::NEG_INFINITY));
        for v in 0..NV {
            let left = s.splat(E::from_f64(n as f64 - (v * S::LANES) as f64));
            let seen = s.load(row.add(v * S::LANES));
            x[v] = s.select_lt(index, left, seen, s.splat(E::NEG_INFINITY));
            max = s.max(max, x[v]);
        }
        let max = s.reduce_max(max);
        let (m, mut sum) = (s.splat(max), s.splat(E::ZERO));
        for v in 0..NV {
            x[v] = exp_neg::<E, S>(s, s.sub(x[v], m));
            s.store(row.add(v * S::LANES), x[v]);
            sum = s.add(sum, x[v]);
        }
        let inv = E::ONE / s.reduce_add(sum);
        if let Some(probs) = probs {
            let by = s.splat(inv);
            let mut v = 0;
            while v * S::LANES < total {
                let left = total - v * S::LANES;
                let len = if left < S::LANES { left } else { S::LANES };
                let left = s.splat(E::from_f64(n as f64 - (v * S::LANES) as f64));
                let p = if v < NV {
                    s.select_lt(index, left, s.mul(s.load(row.add(v * S::LANES)), by), s.splat(E::ZERO))
                } else {
                    s.splat(E::ZERO)
                };
                store::<E, S>(s, probs.add(v * S::LANES), len, p);
                v += 1;
            }
        }
        (max, inv)
    }
}

/// Scores as they are: `to = scale * sum`.
#[derive(Clone, Copy)]
pub(super) struct Raw<E> {
    pub(super) to: Out<E>,
    pub(super) scale: E,
}

impl<E: Real> Finish<E> for Raw<E> {
    #[inline(always)]
    unsafe fn finish<S: Simd<E>, const M: usize, const NV: usize>(
        self,
        s: S,
        acc: &[[S::V; NV]; M],
        row: usize,
        col: usize,
    ) {
        let scale = s.splat(self.scale);
        for r in 0..M {
            for v in 0..NV {
                // SAFETY: inside `to`, by the contract of the trait.
                unsafe {
                    s.store(self.to.row(row + r).add(col + v * S::LANES), s.mul(scale, acc[r][v]));
                }
            }
        }
    }
}

/// Scores become probabilities: `to = exp(scale * sum − max) * inv`, row by row.
#[derive(Clone, Copy)]
pub(super) struct Prob<E> {
    pub(super) to: Out<E>,
    pub(super) scale: E,
    pub(super) max: *const E,
    pub(super) inv: *const E,
}

impl<E: Real> Finish<E> for Prob<E> {
    #[inline(always)]
    unsafe fn finish<S: Simd<E>, const M: usize, const NV: usize>(
        self,
        s: S,
        acc: &[[S::V; NV]; M],
        row: usize,
        col: usize,
    ) {
        let scale = s.splat(self.scale);
        for r in 0..M {
            // SAFETY: inside `to` and the two arrays, by the contract of the trait.
            unsafe {
                let (max, inv) = (s.splat(*self.max.add(row + r)), s.splat(*self.inv.add(row + r)));
                for v in 0..NV {
                    let e = exp_neg::<E, S>(s, s.sub(s.mul(scale, acc[r][v]), max));
                    s.store(self.to.row(row + r).add(col + v * S::LANES), s.mul(e, inv));
                }
            }
        }
    }
}

/// Gradients of probabilities become gradients of scores: `to = (scale p) (sum − mean)`. P is read
/// in its first `cols` columns only.
#[derive(Clone, Copy)]
pub(super) struct Grad<E> {
    pub(super) to: Out<E>,
    pub(super) scale: E,
    pub(super) p: In<E>,
    pub(super) cols: usize,
    pub(super) mean: *const E,
}

impl<E: Real> Finish<E> for Grad<E> {
    #[inline(always)]
    unsafe fn finish<S: Simd<E>, const M: usize, const NV: usize>(
        self,
        s: S,
        acc: &[[S::V; NV]; M],
        row: usize,
        col: usize,
    ) {
        let scale = s.splat(self.scale);
        let whole = col + NV * S::LANES <= self.cols;
        for r in 0..M {
            // SAFETY: inside `to`, P and the array, by the contract of the trait; `cols` bounds
            // what is read of a row of P.
            unsafe {
                let mean = s.splat(*self.mean.add(row + r));
                for v in 0..NV {
                    let (at, c) = (self.p.row(row + r), col + v * S::LANES);
                    let p = if whole {
                        s.load(at.add(c))
                    } else {
                        let left = self.cols.saturating_sub(c);
                        let len = if left < S::LANES { left } else { S::LANES };
                        s.load_partial(at.wrapping_add(c), len)
                    };
                    let g = s.mul(s.mul(scale, p), s.sub(acc[r][v], mean));
                    s.store(self.to.row(row + r).add(c), g);
                }
            }
        }
    }
}

/// One row: dP in `g` becomes dS = (scale p) (dP − mean).
///
/// # Safety
/// `p` is readable, `g` readable and writable for n elements.
#[inline(always)]
pub(super) unsafe fn score_gradient<E: Real, S: Simd<E>>(
    s: S,
    n: usize,
    scale: E,
    p: *const E,
    mean: E,
    g: *mut E,
) {
    let (scale, mean) = (s.splat(scale), s.splat(mean));
    let mut i = 0;
    while i < n {
        let len = if n - i < S::LANES { n - i } else { S::LANES };
        // SAFETY: len <= n - i elements from i on.
        unsafe {
            let sp = s.mul(scale, load::<E, S>(s, p.add(i), len));
            let dp = load::<E, S>(s, g.add(i), len);
            store::<E, S>(s, g.add(i), len, s.mul(sp, s.sub(dp, mean)));
        }
        i += len;
    }
}
