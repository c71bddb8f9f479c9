//! exp and ln as fixed sequences of `+ - * /`, selects and bit operations, never fused: the same
//! bits on every instruction set, and those of the scalar twins in `reference`.

use crate::simd::Words;

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

/// e^x for x <= 709; through the subnormals to 0. Without a meaning above and for NaN.
///
/// Zero is selected at the end and not reached by underflow, which some processors leave to
/// microcode. `ldexp` rounds once, as two factors of which only the second can leave the normal
/// range do.
#[inline(always)]
pub(crate) fn exp_exact<S: Words>(s: S, x: S::V) -> S::V {
    let (lowest, zero) = (s.splat(EXP_LOWEST), s.splat(0.0));
    let z = s.select_lt(x, lowest, zero, x);
    let k = s.round(s.mul(z, s.splat(std::f64::consts::LOG2_E)));
    let hi = s.sub(z, s.mul(k, s.splat(LN2_HI)));
    let lo = s.mul(k, s.splat(LN2_LO));
    let r = s.sub(hi, lo);
    let r2 = s.mul(r, r);
    let even = s.add(s.mul(s.splat(EXP[10]), r2), s.splat(EXP[8]));
    let even = s.add(s.mul(even, r2), s.splat(EXP[6]));
    let even = s.add(s.mul(even, r2), s.splat(EXP[4]));
    let even = s.add(s.mul(even, r2), s.splat(EXP[2]));
    let even = s.add(s.mul(even, r2), s.splat(EXP[0]));
    let odd = s.add(s.mul(s.splat(EXP[9]), r2), s.splat(EXP[7]));
    let odd = s.add(s.mul(odd, r2), s.splat(EXP[5]));
    let odd = s.add(s.mul(odd, r2), s.splat(EXP[3]));
    let odd = s.add(s.mul(odd, r2), s.splat(EXP[1]));
    let q = s.add(even, s.mul(odd, r));
    let y = s.add(s.splat(1.0), s.add(hi, s.sub(s.mul(r2, q), lo)));
    s.select_lt(x, lowest, zero, s.ldexp(y, k))
}

/// At least [`exp_exact`], and at most 2⁻¹⁶ above it relative to it, for -700 <= x <= 700; at least
/// it below. Which bits, that depends on the instruction set: for comparisons that may fail on the
/// safe side only.
#[inline(always)]
pub(crate) fn exp_above<S: Words>(s: S, x: S::V) -> S::V {
    // Taylor to r⁵: r⁶/720 (1 + |r|) <= 4e-6 of e^r for |r| <= 0.35, less than the 2⁻¹⁷ that all
    // coefficients are raised by.
    const UP: f64 = 1.0 + 1.0 / 131_072.0;
    let x = s.max(x, s.splat(-700.0));
    let k = s.round(s.mul(x, s.splat(std::f64::consts::LOG2_E)));
    let r = s.fma(k, s.splat(-std::f64::consts::LN_2), x);
    let p = s.fma(s.splat(UP / 120.0), r, s.splat(UP / 24.0));
    let p = s.fma(p, r, s.splat(UP / 6.0));
    let p = s.fma(p, r, s.splat(UP / 2.0));
    let p = s.fma(p, r, s.splat(UP));
    let p = s.fma(p, r, s.splat(UP));
    s.ldexp_normal(p, k)
}

/// ln x of a positive normal number; without a meaning elsewhere.
#[inline(always)]
pub(crate) fn ln_exact<S: Words>(s: S, x: S::V) -> S::V {
    // The scalar twin's (bits - √½) >> 52, biased so that a shift without sign does.
    let t = s.add_words(s.bits(x), s.splat_word(BIAS - SQRT_HALF_BITS));
    let k = s.value(s.or(s.shift_right(t, 52), s.splat_word(TWO_52.to_bits())));
    let k = s.sub(k, s.splat(TWO_52 + 1023.0));
    let m = s.value(s.add_words(s.and(t, s.splat_word(MANTISSA)), s.splat_word(SQRT_HALF_BITS)));
    let f = s.sub(m, s.splat(1.0));
    let r = s.div(f, s.add(s.splat(2.0), f));
    let z = s.mul(r, r);
    let z2 = s.mul(z, z);
    let even = s.add(s.mul(s.splat(LN[6]), z2), s.splat(LN[4]));
    let even = s.add(s.mul(even, z2), s.splat(LN[2]));
    let even = s.add(s.mul(even, z2), s.splat(LN[0]));
    let odd = s.add(s.mul(s.splat(LN[5]), z2), s.splat(LN[3]));
    let odd = s.add(s.mul(odd, z2), s.splat(LN[1]));
    let series = s.mul(z, s.add(even, s.mul(odd, z)));
    let half = s.mul(s.mul(s.splat(0.5), f), f);
    let t = s.add(s.mul(r, s.add(half, series)), s.mul(k, s.splat(LN2_LO)));
    s.sub(s.mul(k, s.splat(LN2_HI)), s.sub(s.sub(half, t), f))
}
