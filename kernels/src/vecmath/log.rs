//! Natural logarithm of a vector.

use crate::elem::real::Real;
use crate::simd::Simd;
use crate::vecmath::exp::horner;

/// ln of every lane: x = 2^e m with m in [√½, √2], f = m − 1 (exact), s = f / (2 + f), and
/// ln m = 2 atanh s = f − (f²/2 − s (f²/2 + R(s²))).
///
/// 1. The series in s is odd: half the terms of one in f, for the price of a division.
/// 2. f − .. instead of 2 s + ..: f is exact, so the rounding of s only touches a correction of
///    size f²/2.
/// 3. e times the high part of ln 2 is exact; the low part joins the correction.
/// 4. Arguments without a logarithm are repaired at the end, by comparisons that are false for NaN.
#[inline(always)]
pub(crate) fn ln<E: Real, S: Simd<E>>(s: S, x: S::V) -> S::V {
    let (zero, one, half) = (s.splat(E::ZERO), s.splat(E::ONE), s.splat(E::from_f64(0.5)));
    let (m, e) = s.frexp(x);
    let root = s.splat(E::SQRT_2);
    let e = s.select_lt(root, m, s.add(e, one), e);
    let m = s.select_lt(root, m, s.mul(m, half), m);
    let f = s.sub(m, one);
    let r = s.div(f, s.add(f, s.splat(E::from_f64(2.0))));
    let z = s.mul(r, r);
    let series = s.mul(z, horner::<E, S>(s, E::LOG, z));
    let h = s.mul(s.mul(f, half), f);
    let t = s.fma(r, s.add(h, series), s.mul(e, s.splat(E::LN2_LO)));
    let y = s.fma(e, s.splat(E::LN2_HI), s.sub(f, s.sub(h, t)));
    let y = s.select_lt(x, s.splat(E::INFINITY), y, x); // +∞ and NaN are their own logarithms
    // 0, also where the thread reads subnormal numbers as 0; NaN is below neither 0 nor 1.
    let y = s.select_lt(zero, x, y, s.select_lt(x, one, s.splat(E::NEG_INFINITY), y));
    s.select_lt(x, zero, s.splat(E::NAN), y)
}

/// Writes ln of `n` elements.
///
/// # Safety
/// `x` is readable and `out` writable for n elements.
#[inline(always)]
pub(crate) unsafe fn ln_slice<E: Real, S: Simd<E>>(s: S, n: usize, x: *const E, out: *mut E) {
    let mut i = 0;
    while i + S::LANES <= n {
        // SAFETY: i + LANES <= n elements, which the caller vouches for.
        unsafe { s.store(out.add(i), ln::<E, S>(s, s.load(x.add(i)))) };
        i += S::LANES;
    }
    if i < n {
        // SAFETY: n - i < LANES elements from i on.
        unsafe { s.store_partial(out.add(i), n - i, ln::<E, S>(s, s.load_partial(x.add(i), n - i))) };
    }
}
