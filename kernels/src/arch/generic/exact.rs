//! exp and ln as fixed sequences of `+ - * /`, selects and bit operations, never fused: the same bits on every instruction
//! set, and those of the scalar twins in `reference`.

use crate::arch::{Simd, Words};

pub(crate) const LN2_HI: f64 = 0.693_146_705_627_441_4;
pub(crate) const LN2_LO: f64 = 4.749_325_039_031_672_6e-7;
/// (e^r - 1 - r) / r² on |r| <= ln(2)/2.
pub(crate) const EXP: [f64; 11] = [
    0.5,
    0.1666666666666667,
    0.04166666666666667,
    0.008333333333326136,
    0.0013888888888883748,
    0.00019841269874820627,
    2.4801587325547743e-05,
    2.7557255400206422e-06,
    2.75572736431103e-07,
    2.5105217004720745e-08,
    2.0914686968086876e-09,
];
/// (2 atanh(s) - 2s) / s³ in s².
pub(crate) const LN: [f64; 7] = [
    0.666666666666667,
    0.39999999999899444,
    0.2857142862600327,
    0.22222211130259878,
    0.18182889455674947,
    0.15331710618210773,
    0.14616585424888623,
];
/// The bits of √½.
pub(crate) const SQRT_HALF_BITS: u64 = 0x3fe6_a09e_667f_3bcd;
/// Below, e^x is zero.
pub(crate) const EXP_LOWEST: f64 = -745.2;
const BIAS: u64 = 1023 << 52;
const MANTISSA: u64 = (1 << 52) - 1;
const TWO_52: f64 = 4_503_599_627_370_496.0;

/// K vectors through the same operations. What a processor looks ahead is shorter than one chain of them here: only chains that
/// alternate in the code overlap.
pub(crate) type Few<S, const K: usize> = [<S as Simd<f64>>::V; K];

#[inline(always)]
pub(crate) fn add<S: Simd<f64>, const K: usize>(s: S, a: Few<S, K>, b: Few<S, K>) -> Few<S, K> {
    let mut out = a;
    for k in 0..K {
        out[k] = s.add(a[k], b[k]);
    }
    out
}

#[inline(always)]
pub(crate) fn sub<S: Simd<f64>, const K: usize>(s: S, a: Few<S, K>, b: Few<S, K>) -> Few<S, K> {
    let mut out = a;
    for k in 0..K {
        out[k] = s.sub(a[k], b[k]);
    }
    out
}

#[inline(always)]
pub(crate) fn mul<S: Simd<f64>, const K: usize>(s: S, a: Few<S, K>, b: Few<S, K>) -> Few<S, K> {
    let mut out = a;
    for k in 0..K {
        out[k] = s.mul(a[k], b[k]);
    }
    out
}

#[inline(always)]
pub(crate) fn scaled<S: Simd<f64>, const K: usize>(s: S, a: Few<S, K>, x: f64) -> Few<S, K> {
    mul(s, a, [s.splat(x); K])
}

/// a b + x, rounded twice.
#[inline(always)]
pub(crate) fn mul_add<S: Simd<f64>, const K: usize>(s: S, a: Few<S, K>, b: Few<S, K>, x: f64) -> Few<S, K> {
    add(s, mul(s, a, b), [s.splat(x); K])
}

/// `a < x ? y : z`.
#[inline(always)]
fn below<S: Simd<f64>, const K: usize>(s: S, a: Few<S, K>, x: f64, y: f64, z: Few<S, K>) -> Few<S, K> {
    let mut out = a;
    for k in 0..K {
        out[k] = s.select_lt(a[k], s.splat(x), s.splat(y), z[k]);
    }
    out
}

/// e^x for x <= 709; through the subnormals to 0. Without a meaning above and for NaN.
///
/// Zero is selected at the end and not reached by underflow, which some processors leave to microcode.
#[inline(always)]
pub(crate) fn exp_exact<S: Words, const K: usize>(s: S, x: Few<S, K>) -> Few<S, K> {
    let z = below(s, x, EXP_LOWEST, 0.0, x);
    let mut n = scaled(s, z, std::f64::consts::LOG2_E);
    for k in 0..K {
        n[k] = s.round(n[k]);
    }
    let (hi, lo) = (sub(s, z, scaled(s, n, LN2_HI)), scaled(s, n, LN2_LO));
    let r = sub(s, hi, lo);
    let r2 = mul(s, r, r);
    let even = mul_add(s, [s.splat(EXP[10]); K], r2, EXP[8]);
    let odd = mul_add(s, [s.splat(EXP[9]); K], r2, EXP[7]);
    let even = mul_add(s, even, r2, EXP[6]);
    let odd = mul_add(s, odd, r2, EXP[5]);
    let even = mul_add(s, even, r2, EXP[4]);
    let odd = mul_add(s, odd, r2, EXP[3]);
    let even = mul_add(s, even, r2, EXP[2]);
    let odd = mul_add(s, odd, r2, EXP[1]);
    let even = mul_add(s, even, r2, EXP[0]);
    let q = add(s, even, mul(s, odd, r));
    let mut y = add(s, [s.splat(1.0); K], add(s, hi, sub(s, mul(s, r2, q), lo)));
    for k in 0..K {
        y[k] = s.scale2_once(y[k], n[k]);
    }
    below(s, x, EXP_LOWEST, 0.0, y)
}

/// ln x of a positive normal number; without a meaning elsewhere.
#[inline(always)]
pub(crate) fn ln_exact<S: Words, const K: usize>(s: S, x: Few<S, K>) -> Few<S, K> {
    let (mut e, mut m) = (x, x);
    for k in 0..K {
        // The scalar twin's (bits - √½) >> 52, biased so that a shift without sign does.
        let t = s.add_words(s.bits(x[k]), s.splat_word(BIAS - SQRT_HALF_BITS));
        e[k] = s.from_bits(s.or(s.shift_right(t, 52), s.splat_word(TWO_52.to_bits())));
        m[k] = s.from_bits(s.add_words(s.and(t, s.splat_word(MANTISSA)), s.splat_word(SQRT_HALF_BITS)));
    }
    let e = sub(s, e, [s.splat(TWO_52 + 1023.0); K]);
    let f = sub(s, m, [s.splat(1.0); K]);
    let mut r = add(s, [s.splat(2.0); K], f);
    for k in 0..K {
        r[k] = s.div(f[k], r[k]);
    }
    let z = mul(s, r, r);
    let z2 = mul(s, z, z);
    let even = mul_add(s, [s.splat(LN[6]); K], z2, LN[4]);
    let odd = mul_add(s, [s.splat(LN[5]); K], z2, LN[3]);
    let even = mul_add(s, even, z2, LN[2]);
    let odd = mul_add(s, odd, z2, LN[1]);
    let even = mul_add(s, even, z2, LN[0]);
    let series = mul(s, z, add(s, even, mul(s, odd, z)));
    let half = mul(s, scaled(s, f, 0.5), f);
    let t = add(s, mul(s, r, add(s, half, series)), scaled(s, e, LN2_LO));
    sub(s, scaled(s, e, LN2_HI), sub(s, sub(s, half, t), f))
}
