//! Twins of the sampling kernels, one problem at a time. Lanes have exactly these bits: every
//! operation here is theirs, in their order.

use crate::sampling::exact::{EXP, EXP_LOWEST, LN, LN2_HI, LN2_LO, SQRT_HALF_BITS};
use crate::sampling::philox::{M0, M1, W0, W1};
use crate::sampling::problem::{Envelope, MAX_ATTEMPTS, RowOf};

/// Philox4x32-10.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let (p0, p1) = (M0 * u64::from(c0), M1 * u64::from(c2));
        (c0, c1) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32);
        (c2, c3) = ((p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        (k0, k1) = (k0.wrapping_add(W0), k1.wrapping_add(W1));
    }
    [c0, c1, c2, c3]
}

/// The block at (sample, variate, attempt) as two words.
pub fn philox_words(key: [u32; 2], sample: u64, variate: u32, attempt: u32) -> [u64; 2] {
    let b = philox4x32_10([sample as u32, (sample >> 32) as u32, variate, attempt], key);
    [u64::from(b[0]) | u64::from(b[1]) << 32, u64::from(b[2]) | u64::from(b[3]) << 32]
}

/// The uniform of (0,1) in the upper 52 bits.
pub fn unit(word: u64) -> f64 {
    f64::from_bits(word >> 12 | 0x3FF0_0000_0000_0000) - (1.0 - f64::EPSILON / 2.0)
}

/// e^x, x <= 709, by fixed operations.
pub fn exp_exact(x: f64) -> f64 {
    if x < EXP_LOWEST {
        return 0.0;
    }
    let k = (x * std::f64::consts::LOG2_E).round_ties_even();
    let (hi, lo) = (x - k * LN2_HI, k * LN2_LO);
    let r = hi - lo;
    let r2 = r * r;
    let even = ((((EXP[10] * r2 + EXP[8]) * r2 + EXP[6]) * r2 + EXP[4]) * r2 + EXP[2]) * r2 + EXP[0];
    let odd = (((EXP[9] * r2 + EXP[7]) * r2 + EXP[5]) * r2 + EXP[3]) * r2 + EXP[1];
    let y = 1.0 + (hi + (r2 * (even + odd * r) - lo));
    // 2^k in two factors: one alone may leave the exponent range. The first product is exact.
    let half = (k * 0.5).floor();
    let power = |k: f64| f64::from_bits(((k as i64 + 1023) as u64) << 52);
    y * power(half) * power(k - half)
}

/// ln x of a positive normal number by fixed operations.
pub fn ln_exact(x: f64) -> f64 {
    let e = (x.to_bits().wrapping_sub(SQRT_HALF_BITS) as i64) >> 52;
    let m = f64::from_bits(x.to_bits().wrapping_sub((e as u64) << 52));
    let (k, f) = (e as f64, m - 1.0);
    let s = f / (2.0 + f);
    let z = s * s;
    let z2 = z * z;
    let even = ((LN[6] * z2 + LN[4]) * z2 + LN[2]) * z2 + LN[0];
    let odd = (LN[5] * z2 + LN[3]) * z2 + LN[1];
    let series = z * (even + odd * z);
    let half = 0.5 * f * f;
    k * LN2_HI - ((half - (s * (half + series) + k * LN2_LO)) - f)
}

/// One log-gamma variate; `None` after [`MAX_ATTEMPTS`] rejections.
pub fn log_gamma(e: &Envelope, key: [u32; 2], sample: u64, variate: u32) -> Option<f64> {
    (0..MAX_ATTEMPTS).find_map(|attempt| {
        let [u, v] = philox_words(key, sample, variate, attempt).map(unit);
        let side = usize::from(u >= e.left);
        let w = (if side == 0 { u } else { 1.0 - u }) * e.scale[side];
        let y = e.knot + e.mean[side] * ln_exact(w);
        let d = exp_exact(y) - e.point_exp[side] * (1.0 + (y - e.point[side]));
        (v < 1.0 - d || v < exp_exact(-d)).then_some(y)
    })
}

/// A row of logarithms: the maximum is taken out; probabilities; prefix sums of e^logs.
pub fn simplex_row(logs: &mut [f64], p: &mut [f64], sums: &mut [f64]) {
    let max = logs.iter().fold(f64::NEG_INFINITY, |m, &y| if y > m { y } else { m });
    let mut total = 0.0;
    for b in 0..logs.len() {
        logs[b] -= max;
        p[b] = exp_exact(logs[b]);
        total += p[b];
        sums[b] = total;
    }
    let scale = 1.0 / total;
    p.iter_mut().for_each(|p| *p *= scale);
}

/// The stationary law of a (n, n), row-stochastic, off its diagonal alone.
pub fn stationary(n: usize, a: &mut [f64], mu: &mut [f64]) {
    for k in (1..n).rev() {
        let mut pivot = a[k * n];
        for j in 1..k {
            pivot += a[k * n + j];
        }
        for i in 0..k {
            let f = a[i * n + k] / pivot;
            a[i * n + k] = f;
            for j in 0..k {
                a[i * n + j] += f * a[k * n + j];
            }
        }
    }
    mu[0] = 1.0;
    let mut total = 1.0;
    for k in 1..n {
        mu[k] = (0..k).fold(0.0, |m, i| m + mu[i] * a[i * n + k]);
        total += mu[k];
    }
    mu.iter_mut().for_each(|m| *m /= total);
}

/// One lane's symbols from rows of n prefix sums.
pub fn invert_forest(n: usize, rows: &[RowOf], words: &[u64], table: &[f64], symbols: &mut [u32]) {
    for i in 0..rows.len() {
        let row = match rows[i] {
            RowOf::Symbol(p) => symbols[p as usize] as usize,
            RowOf::Fixed(r) => r as usize,
            RowOf::Given => continue,
        };
        let sums = &table[row * n..(row + 1) * n];
        let level = unit(words[i]) * sums[n - 1];
        let below = sums.iter().filter(|c| **c <= level).count();
        symbols[i] = below.min(n - 1) as u32;
    }
}
