//! exp of a vector.

use crate::elem::real::Real;
use crate::simd::Simd;

/// exp of every lane: x = n ln 2 + r, |r| <= ln 2 / 2, then 2^n (1 + r (1 + r q(r))).
///
/// 1. n times the high part of ln 2 is exact, and x minus it too: r carries one rounding.
/// 2. Clamping replaces branches: beyond the bounds `ldexp` overflows to +∞ or underflows to 0 by
///    itself. `max` and `min` return their second operand where one is NaN, so NaN passes through.
/// 3. 1 is added last: exp 0 = 1 exactly. Worst for results in [√½, 1), whose ulp is 2⁻²⁴ (f32):
///    1/2 from that addition, 1/4 e^r from r, at most |r| (1/2 + |r| / 2) from the sum before it, a
///    few hundredths from the polynomial. Without fma that product rounds once more; there r is
///    added to r² q instead, so that only terms of size r²/2 pass through two roundings. Largest
///    found (`examples/ulp.rs`): over all f32 0.891 with fma, 0.978 without; over 20 million f64
///    0.902 and 0.998.
/// 4. Ten operations use the multipliers. Unrolling gains nothing measurable: vectors do not depend
///    on one another, and the CPU overlaps them by itself.
#[inline(always)]
pub(crate) fn exp<E: Real, S: Simd<E>>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(E::EXP_MIN), s.min(s.splat(E::EXP_MAX), x));
    let (p, n) = exp_parts::<E, S>(s, x);
    s.ldexp(p, n)
}

/// [`exp`] where the result is a normal number,
/// [`SOFTMAX_MIN`](super::consts::MathConsts::SOFTMAX_MIN) <= x <= 0, or NaN: no clamps, and a
/// scaling in one step on instruction sets that need two.
#[inline(always)]
pub(crate) fn exp_normal<E: Real, S: Simd<E>>(s: S, x: S::V) -> S::V {
    let (p, n) = exp_parts::<E, S>(s, x);
    s.ldexp_normal(p, n)
}

/// e^r and n.
#[inline(always)]
fn exp_parts<E: Real, S: Simd<E>>(s: S, x: S::V) -> (S::V, S::V) {
    let n = s.round(s.mul(x, s.splat(E::LOG2_E)));
    let r = s.fma(n, s.splat(-E::LN2_HI), x);
    let r = s.fma(n, s.splat(-E::LN2_LO), r);
    let (q, one) = (horner::<E, S>(s, E::EXP, r), s.splat(E::ONE));
    let p = if S::FUSED { s.fma(s.fma(q, r, one), r, one) } else { s.add(s.fma(s.mul(r, r), q, r), one) };
    (p, n)
}

/// Polynomial with coefficients from the constant term up.
#[inline(always)]
pub(crate) fn horner<E: Real, S: Simd<E>>(s: S, c: &'static [E], x: S::V) -> S::V {
    let mut k = c.len() - 1;
    let mut q = s.splat(c[k]);
    while k > 0 {
        k -= 1;
        q = s.fma(q, x, s.splat(c[k]));
    }
    q
}

/// Writes exp of `n` elements.
///
/// # Safety
/// `x` is readable and `out` writable for n elements.
#[inline(always)]
pub(crate) unsafe fn exp_slice<E: Real, S: Simd<E>>(s: S, n: usize, x: *const E, out: *mut E) {
    let mut i = 0;
    while i + S::LANES <= n {
        // SAFETY: i + LANES <= n elements, which the caller vouches for.
        unsafe { s.store(out.add(i), exp::<E, S>(s, s.load(x.add(i)))) };
        i += S::LANES;
    }
    if i < n {
        // SAFETY: n - i < LANES elements from i on.
        unsafe { s.store_partial(out.add(i), n - i, exp::<E, S>(s, s.load_partial(x.add(i), n - i))) };
    }
}
