//! Ordered, compensated sums, and `ln`/`exp` that give the same bits everywhere.
//!
//! The crate has its own `ln` and `exp` because sampled tokens and targets must not depend on the
//! platform's libm, on the instruction set or on the number of lanes. Both functions are a fixed
//! sequence of IEEE `+ - * /`, bit operations and selects, without fused multiply-add, so the same
//! sequence in SIMD lanes gives the same bits. Do not reorder them: golden samples depend on the
//! last bit.
//!
//! The ranges of the tasks' α and of the loss's ε are declared here, once, for every key, task,
//! prior, engine and model.

use crate::{Error, Result};

/// Smallest α of Dirichlet rows. An entry of a row is typically as small as e^(−1/α): below this it
/// leaves f64, and rows cannot be told from one-hot ones.
pub const MIN_ALPHA: f64 = 1e-3;
/// Largest α. The loss differs from ln S by about 1/(2 S α): beyond, rounding of f32 is as large,
/// and products of Sα + n leave f64 in long words.
pub const MAX_ALPHA: f64 = 1e3;
/// Smallest ε > 0 of −Σ y ln(f + ε). ε and its products with sums of exponentials stay normal
/// numbers of f32, as they must where it is all that a symbol has.
pub const MIN_EPS: f64 = 1e-30;
/// Largest ε. Gradients are made of y/(f + ε) − Σ f y/(f + ε), which cancel to a part of about
/// 1/(1 + ε): beyond, digits are lost, in the end all of them.
pub const MAX_EPS: f64 = 1.0;

/// Refuses an α outside \[[`MIN_ALPHA`], [`MAX_ALPHA`]\].
///
/// # Errors
/// Such a value; the message names `alpha`.
pub fn check_alpha(alpha: f64) -> Result<()> {
    if (MIN_ALPHA..=MAX_ALPHA).contains(&alpha) {
        return Ok(());
    }
    Err(Error::invalid("alpha", shown(alpha), format!("{MIN_ALPHA:e} <= alpha <= {MAX_ALPHA:e}")))
}

/// Refuses an ε that is neither 0 nor in \[[`MIN_EPS`], [`MAX_EPS`]\].
///
/// # Errors
/// Such a value; the message names `eps`.
pub fn check_eps(eps: f64) -> Result<()> {
    if eps == 0.0 || (MIN_EPS..=MAX_EPS).contains(&eps) {
        return Ok(());
    }
    Err(Error::invalid("eps", shown(eps), format!("0, or {MIN_EPS:e} <= eps <= {MAX_EPS}")))
}

/// A number for a message, without hundreds of zeros.
fn shown(x: f64) -> String {
    if x == 0.0 || (1e-6..1e15).contains(&x.abs()) { x.to_string() } else { format!("{x:e}") }
}

/// Refuses probabilities of all sequences whose sum is further from 1 than `tolerance`.
///
/// # Errors
/// Such a sum, or NaN.
pub fn check_total(total: f64, tolerance: f64) -> Result<()> {
    if (total - 1.0).abs() <= tolerance {
        return Ok(());
    }
    let found = format!("all sequences together have probability {total}");
    Err(Error::invalid("probabilities", found, format!("1 within {tolerance:e}")))
}

/// Neumaier's compensated sum: error about one rounding of the result plus O(n u²) Σ|x|, in the
/// order of the calls. Plain data, so that a run can be resumed in the middle of a sum.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sum {
    total: f64,
    carry: f64,
}

impl Sum {
    /// The empty sum.
    pub const fn new() -> Self {
        Sum { total: 0.0, carry: 0.0 }
    }

    /// Adds `x`. Once the running total is infinite or NaN it stays so, as in a plain sum.
    #[inline]
    pub fn add(&mut self, x: f64) {
        let t = self.total + x;
        // The low part comes exactly from the larger of the two operands (Neumaier 1974); Kahan's
        // sum loses it when a term exceeds the total.
        let low = if self.total.abs() >= x.abs() { (self.total - t) + x } else { (x - t) + self.total };
        self.total = t;
        // inf - inf would turn an infinite sum into NaN.
        if t.is_finite() {
            self.carry += low;
        }
    }

    /// Adds another sum: folding partial sums in a fixed order is itself reproducible.
    pub fn merge(&mut self, other: Sum) {
        self.add(other.total);
        self.add(other.carry);
    }

    /// The sum, rounded to f64.
    #[inline]
    pub fn value(&self) -> f64 {
        if self.total.is_finite() { self.total + self.carry } else { self.total }
    }

    /// The state `[total, carry]`, for a checkpoint.
    pub fn parts(&self) -> [f64; 2] {
        [self.total, self.carry]
    }

    /// The sum whose [`parts`](Self::parts) were saved; continues bit for bit.
    pub fn from_parts(parts: [f64; 2]) -> Self {
        Sum { total: parts[0], carry: parts[1] }
    }
}

impl Extend<f64> for Sum {
    fn extend<I: IntoIterator<Item = f64>>(&mut self, iter: I) {
        iter.into_iter().for_each(|x| self.add(x));
    }
}

impl FromIterator<f64> for Sum {
    fn from_iter<I: IntoIterator<Item = f64>>(iter: I) -> Self {
        let mut s = Sum::new();
        s.extend(iter);
        s
    }
}

/// Compensated sum of `xs`, first to last.
pub fn sum(xs: &[f64]) -> f64 {
    xs.iter().copied().collect::<Sum>().value()
}

/// Compensated sum of the rounded products `a[i] * b[i]`, first to last.
///
/// # Panics
/// When the lengths differ.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "dot: lengths differ");
    a.iter().zip(b).map(|(x, y)| x * y).collect::<Sum>().value()
}

/// ln 2 = LN2_HI + LN2_LO; the low 32 bits of LN2_HI are zero, so k * LN2_HI is exact for |k| <
/// 2^32.
pub(crate) const LN2_HI: f64 = 0.693_146_705_627_441_4;
/// See [`LN2_HI`].
pub(crate) const LN2_LO: f64 = 4.749_325_039_031_672_6e-7;
const INV_LN2: f64 = std::f64::consts::LOG2_E;
/// 1.5 * 2^52: adding and subtracting it rounds to the nearest integer, which stays readable in the
/// low bits.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// (e^r - 1 - r) / r² on |r| <= ln(2)/2: Chebyshev interpolation of degree 10, error of e^r below
/// 3e-19.
const EXP: [f64; 11] = [
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

/// e^x, error below 1.5 ulp (measured: below 1). Overflows to +inf, underflows through the
/// subnormals to 0; NaN stays NaN.
#[inline]
pub fn exp(x: f64) -> f64 {
    // Beyond these bounds the result is inf or 0 anyway; replacing x keeps k small and lets NaN
    // through. Zero is selected at the end and not reached by underflow: that costs processors a
    // microcode assist of about 150 cycles.
    let x = if x > 710.0 { 710.0 } else { x };
    let vanishes = x < -745.2;
    let x = if vanishes { 0.0 } else { x };
    let shifted = x * INV_LN2 + ROUND;
    let k = shifted - ROUND;
    let hi = x - k * LN2_HI;
    let lo = k * LN2_LO;
    let r = hi - lo;
    let r2 = r * r;
    // Odd and even halves: two short dependency chains instead of a long one.
    let even = ((((EXP[10] * r2 + EXP[8]) * r2 + EXP[6]) * r2 + EXP[4]) * r2 + EXP[2]) * r2 + EXP[0];
    let odd = (((EXP[9] * r2 + EXP[7]) * r2 + EXP[5]) * r2 + EXP[3]) * r2 + EXP[1];
    let q = even + odd * r;
    let y = 1.0 + (hi + (r2 * q - lo));
    // 2^k in two factors, because k reaches -1075 and 1024, outside the exponents of normal
    // numbers. (For NaN the bits are arbitrary, the shifts cannot trap, and y is NaN.)
    let k = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i64;
    let half = k >> 1;
    let y = y * pow2(half) * pow2(k.wrapping_sub(half));
    if vanishes { 0.0 } else { y }
}

/// 2^k for -1022 <= k <= 1023; arbitrary bits outside.
#[inline]
pub(crate) fn pow2(k: i64) -> f64 {
    f64::from_bits((k.wrapping_add(1023) as u64) << 52)
}

/// (2 atanh(s) - 2s) / s³ as a polynomial in s², s <= (√2-1)/(√2+1): Chebyshev interpolation of
/// degree 6, error of the logarithm below 2e-18.
const LN: [f64; 7] = [
    0.666666666666667,
    0.39999999999899444,
    0.2857142862600327,
    0.22222211130259878,
    0.18182889455674947,
    0.15331710618210773,
    0.14616585424888623,
];
/// The bits of √½: significands are taken in [√½, √2).
const SQRT_HALF_BITS: u64 = 0x3fe6_a09e_667f_3bcd;

/// Natural logarithm, error below 1.5 ulp (measured: below 1), subnormals included. ln(±0) = -inf,
/// ln(inf) = inf, negative numbers and NaN give NaN.
#[inline]
pub fn ln(x: f64) -> f64 {
    let tiny = x < f64::MIN_POSITIVE;
    let scaled = if tiny { x * 18_014_398_509_481_984.0 } else { x }; // 2^54
    let bits = scaled.to_bits();
    let e = (bits.wrapping_sub(SQRT_HALF_BITS) as i64) >> 52;
    let m = f64::from_bits(bits.wrapping_sub((e as u64) << 52));
    let k = e as f64 - if tiny { 54.0 } else { 0.0 };
    // ln m = ln(1+f) = f - f²/2 + s (f²/2 + R(s²)), s = f/(2+f): f is exact, so nothing cancels
    // near m = 1.
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let z2 = z * z;
    let even = ((LN[6] * z2 + LN[4]) * z2 + LN[2]) * z2 + LN[0];
    let odd = (LN[5] * z2 + LN[3]) * z2 + LN[1];
    let r = z * (even + odd * z);
    let half = 0.5 * f * f;
    let y = k * LN2_HI - ((half - (s * (half + r) + k * LN2_LO)) - f);
    let y = if x == 0.0 { f64::NEG_INFINITY } else { y };
    let y = if x < 0.0 { f64::NAN } else { y };
    if x < f64::INFINITY { y } else { x } // +inf and NaN return themselves
}

/// ln Σ exp(x_i), the maximum taken out first; -inf for an empty slice or one of -inf only, +inf if
/// any is +inf.
pub fn log_sum_exp(xs: &[f64]) -> f64 {
    let m = xs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if m.is_infinite() {
        // inf - inf is NaN; a NaN element still has to come through.
        return if xs.iter().any(|x| x.is_nan()) { f64::NAN } else { m };
    }
    m + ln(xs.iter().map(|&x| exp(x - m)).collect::<Sum>().value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use num_bigint::BigInt;
    use num_rational::BigRational;
    use num_traits::ToPrimitive;

    /// A small generator, so that these tests do not depend on `rng`.
    fn weyl(i: u64) -> u64 {
        let mut z = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn ulp(x: f64) -> f64 {
        let x = x.abs();
        if x < f64::MIN_POSITIVE { f64::from_bits(1) } else { f64::from_bits(x.to_bits() + 1) - x }
    }

    /// The error of libm is itself below one ulp, so this bounds ours by the difference plus one;
    /// the tighter figure in the documentation comes from the exact comparison below.
    fn worst(ours: fn(f64) -> f64, reference: fn(f64) -> f64, xs: impl Iterator<Item = f64>) -> f64 {
        xs.map(|x| {
            let (y, r) = (ours(x), reference(x));
            if y == r { 0.0 } else { (y - r).abs() / ulp(r) }
        })
        .fold(0.0, f64::max)
    }

    #[test]
    fn exp_and_ln_agree_with_libm() {
        let unit = |i: u64| (weyl(i) >> 11) as f64 * 2f64.powi(-53);
        let n = 400_000;
        let e = worst(exp, libm::exp, (0..n).map(|i| unit(i) * 1500.0 - 760.0))
            .max(worst(exp, libm::exp, (0..n).map(|i| unit(i) - 0.5)))
            .max(worst(exp, libm::exp, (0..n).map(|i| -745.2 + 38.0 * unit(i))));
        // Every positive bit pattern alike (subnormals included), then around 1, then the uniforms
        // of the sampler.
        let l = worst(ln, libm::log, (0..n).map(|i| f64::from_bits(weyl(i) >> 1)).filter(|x| x.is_finite()))
            .max(worst(ln, libm::log, (0..n).map(|i| 0.5 + 1.5 * unit(i))))
            .max(worst(ln, libm::log, (0..n).map(|i| 1.0 + (unit(i) - 0.5) * 1e-6)))
            .max(worst(ln, libm::log, (0..2000).map(|i| f64::from_bits(i + 1))));
        println!("largest difference to libm: exp {e:.3} ulp, ln {l:.3} ulp");
        assert!(e <= 1.5 && l <= 1.5, "exp {e}, ln {l}");
    }

    /// e^x by its series in 200-bit fixed point, so that the error is measured and not only
    /// bounded.
    #[test]
    fn exp_and_ln_against_exact_arithmetic() {
        const BITS: u32 = 200;
        let fixed = |x: f64| -> BigInt {
            let r = BigRational::from_float(x).expect("finite");
            (r.numer() << BITS) / r.denom()
        };
        let exp_fixed = |x: f64| -> BigInt {
            let x = fixed(x);
            let (mut term, mut total) = (BigInt::from(1) << BITS, BigInt::from(0));
            let mut n = 1;
            while term != BigInt::from(0) {
                total += &term;
                term = ((&term * &x) >> BITS) / n;
                n += 1;
            }
            total
        };
        let to_f64 =
            |b: &BigInt| BigRational::new(b.clone(), BigInt::from(1) << BITS).to_f64().expect("finite");
        let (mut worst_exp, mut worst_ln) = (0f64, 0f64);
        for i in 0..3000 {
            let x = ((weyl(i) >> 11) as f64 * 2f64.powi(-53) - 0.5) * if i % 2 == 0 { 16.0 } else { 1.0 };
            let exact = exp_fixed(x);
            let y = exp(x);
            worst_exp = worst_exp.max(to_f64(&(fixed(y) - &exact)).abs() / ulp(y));
            // ln u against v: ln u = v + (u e^{-v} - 1) + O(4e-32 relative to 1); e^{-v} exactly.
            let u = y + 0.0;
            let v = ln(u);
            let d = ((&fixed(u) * &exp_fixed(-v)) >> BITS) - (BigInt::from(1) << BITS);
            worst_ln = worst_ln.max(to_f64(&d).abs() / ulp(v));
        }
        println!("measured error: exp {worst_exp:.3} ulp, ln {worst_ln:.3} ulp");
        assert!(worst_exp < 1.0, "exp {worst_exp}");
        assert!(worst_ln < 1.0, "ln {worst_ln}");
    }

    #[test]
    fn exp_and_ln_at_the_edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e300), 0.0);
        assert_eq!(exp(-745.2), 0.0);
        assert_eq!(exp(-745.0), f64::from_bits(1));
        assert_eq!(exp(f64::INFINITY), f64::INFINITY);
        assert_eq!(exp(709.79), f64::INFINITY);
        assert!(exp(709.78).is_finite());
        assert!(exp(f64::NAN).is_nan());
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(ln(0.0), f64::NEG_INFINITY);
        assert_eq!(ln(-0.0), f64::NEG_INFINITY);
        assert_eq!(ln(f64::INFINITY), f64::INFINITY);
        assert!(ln(-1.0).is_nan() && ln(f64::NEG_INFINITY).is_nan() && ln(f64::NAN).is_nan());
        assert_eq!(ln(f64::from_bits(1)), -744.4400719213812);
        assert_eq!(ln(f64::MAX), 709.782712893384);
        assert_eq!(ln(std::f64::consts::E), 1.0);
    }

    #[test]
    fn compensated_sum_keeps_what_cancels() {
        assert_eq!(sum(&[1.0, 1e100, 1.0, -1e100]), 2.0);
        let mut a: Sum = [0.1; 10].into_iter().collect();
        assert_eq!(a.value(), 1.0);
        let mut b = Sum::from_parts(a.parts());
        a.add(1e-30);
        b.add(1e-30);
        assert_eq!(a, b);
        assert_eq!(sum(&[f64::INFINITY, 1.0]), f64::INFINITY);
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
        assert_eq!(dot(&[1.0, 1e100, 1.0], &[1.0, 1.0, -1e100]), 1.0);
    }

    #[test]
    fn log_sum_exp_at_the_edges() {
        assert_eq!(log_sum_exp(&[]), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[f64::NEG_INFINITY; 3]), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[f64::INFINITY, 0.0]), f64::INFINITY);
        assert!(log_sum_exp(&[f64::NAN, f64::NEG_INFINITY]).is_nan());
        assert_eq!(log_sum_exp(&[-30000.0, -30000.0]), -30000.0 + std::f64::consts::LN_2);
        assert!((log_sum_exp(&[1000.0, 999.0]) - 1000.3132616875182).abs() < 1e-12);
    }
}
