//! Ordered, compensated sums in f64.

use crate::elem::real::Real;

/// Partial sums. Eight on every instruction set: the order of additions depends on the length
/// alone, and the result has the same bits everywhere.
const LANES: usize = 8;

/// Rounded sum of a and b, and its rounding error (exact unless a sum overflows).
#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

/// Sum of `n` elements `stride` apart: element i goes to lane i mod 8, each lane keeps the errors
/// of its additions, the lanes fold pairwise.
///
/// Error: at most u |Σ x| + γ²(n/8 + 4) Σ |x|, u = 2⁻⁵³: a sum without cancellation is right to the
/// last bit or so.
///
/// # Safety
/// `x` is readable at i * stride, i < n.
#[inline(always)]
pub(crate) unsafe fn sum<E: Real>(n: usize, x: *const E, stride: usize) -> f64 {
    let (mut hi, mut lo) = ([0.0f64; LANES], [0.0f64; LANES]);
    let mut i = 0;
    while i + LANES <= n {
        for l in 0..LANES {
            // SAFETY: i + l < n, which the caller vouches for.
            let v = unsafe { *x.add((i + l) * stride) }.to_f64();
            let (s, e) = two_sum(hi[l], v);
            hi[l] = s;
            lo[l] += e;
        }
        i += LANES;
    }
    for l in 0..n - i {
        // SAFETY: i + l < n.
        let v = unsafe { *x.add((i + l) * stride) }.to_f64();
        let (s, e) = two_sum(hi[l], v);
        hi[l] = s;
        lo[l] += e;
    }
    fold(hi, lo)
}

/// Lanes to a number, pairwise.
#[inline(always)]
fn fold(mut hi: [f64; LANES], mut lo: [f64; LANES]) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            let (s, e) = two_sum(hi[l], hi[l + width]);
            hi[l] = s;
            lo[l] += lo[l + width] + e;
        }
        width /= 2;
    }
    // Infinities and NaN turn the errors into NaN: the plain sum has the answer.
    if hi[0].is_finite() && lo[0].is_finite() { hi[0] + lo[0] } else { hi[0] }
}

/// x y and its rounding error. Products of f32 are exact. The error is fused, in software where the
/// instruction set has no fma: the same bits everywhere.
#[inline(always)]
fn two_product<E: Real>(x: E, y: E) -> (f64, f64) {
    let (x, y) = (x.to_f64(), y.to_f64());
    let p = x * y;
    (p, if E::UNIT_ROUNDOFF > f64::UNIT_ROUNDOFF { 0.0 } else { x.mul_add(y, -p) })
}

/// Σ x_i y_i over `n` elements, in the lanes and the order of [`sum`].
///
/// |result − Σ x y| <= u |Σ x y| + γ²(n/4 + 6) Σ |x y|, barring underflow.
///
/// # Safety
/// Both are readable for n elements.
#[inline(always)]
pub(crate) unsafe fn dot<E: Real>(n: usize, x: *const E, y: *const E) -> f64 {
    let (mut hi, mut lo) = ([0.0f64; LANES], [0.0f64; LANES]);
    let mut i = 0;
    while i + LANES <= n {
        for l in 0..LANES {
            // SAFETY: i + l < n, which the caller vouches for.
            let (p, pe) = unsafe { two_product(*x.add(i + l), *y.add(i + l)) };
            let (s, e) = two_sum(hi[l], p);
            hi[l] = s;
            lo[l] += e + pe;
        }
        i += LANES;
    }
    for l in 0..n - i {
        // SAFETY: i + l < n.
        let (p, pe) = unsafe { two_product(*x.add(i + l), *y.add(i + l)) };
        let (s, e) = two_sum(hi[l], p);
        hi[l] = s;
        lo[l] += e + pe;
    }
    fold(hi, lo)
}
