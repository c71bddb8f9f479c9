//! Tails of laws as logarithms, so that none underflows: normal, χ², hypergeometric.

use crate::num::{exp, ln};

/// ln √(2π) and ln √π.
const LN_ROOT_2PI: f64 = 0.918_938_533_204_672_7;
const LN_ROOT_PI: f64 = 0.572_364_942_924_700_1;

/// ln P(N(0, 1) > z).
pub(super) fn ln_normal_tail(z: f64) -> f64 {
    ln_erfc(z / std::f64::consts::SQRT_2) - std::f64::consts::LN_2
}

/// ln erfc(x): the series of erf below 2, the continued fraction of Laplace above.
fn ln_erfc(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x < 2.0 {
        return ln(erfc_below_2(x));
    }
    -x * x - LN_ROOT_PI - ln(laplace(x))
}

/// erfc(x) for x < 2.
fn erfc_below_2(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    // erf x = 2/√π e^{−x²} Σ_n 2^n x^{2n+1} / (2n+1)!!: positive terms.
    let gauss = (-x * x).exp() / std::f64::consts::PI.sqrt();
    let (mut term, mut total, mut n) = (x, x, 1.0);
    while term > total * 1e-17 {
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        total += term;
        n += 1.0;
    }
    1.0 - 2.0 * gauss * total
}

/// x + (1/2)/(x + 1/(x + (3/2)/(x + ..))), from far inside.
fn laplace(x: f64) -> f64 {
    (1..=120).rev().fold(x, |f, k| x + 0.5 * f64::from(k) / f)
}

/// erfc(x) = 1 − erf(x).
pub(super) fn erfc(x: f64) -> f64 {
    match x {
        _ if x.is_nan() => x,
        _ if x < 2.0 => erfc_below_2(x),
        _ if x > 27.0 => 0.0,
        _ => (-x * x).exp() / std::f64::consts::PI.sqrt() / laplace(x),
    }
}

/// The z of P(N(0, 1) > z) = e^`ln_p`: −∞ at 0 (p = 1), NaN above.
pub(super) fn normal_quantile(ln_p: f64) -> f64 {
    if ln_p.is_nan() || ln_p > 0.0 {
        return f64::NAN;
    }
    if ln_p > -std::f64::consts::LN_2 {
        return -normal_quantile(ln(-ln_p.exp_m1()));
    }
    if ln_p == f64::NEG_INFINITY {
        return f64::INFINITY;
    }
    // The tail is below e^{−z²/2}/2, and its logarithm concave: Newton comes down from the right.
    let mut z = (-2.0 * (ln_p + std::f64::consts::LN_2)).sqrt();
    for _ in 0..60 {
        let tail = ln_normal_tail(z);
        let hazard = exp(-0.5 * z * z - LN_ROOT_2PI - tail);
        let step = (tail - ln_p) / hazard;
        z += step;
        if step.abs() <= 1e-14 * z.abs() {
            break;
        }
    }
    z
}

/// ln Γ(x), x > 0: Stirling's series, from 10 on.
fn ln_gamma(x: f64) -> f64 {
    let (mut y, mut product) = (x, 1.0);
    while y < 10.0 {
        product *= y;
        y += 1.0;
    }
    let w = 1.0 / (y * y);
    let series = (1.0 / 12.0 - w * (1.0 / 360.0 - w * (1.0 / 1260.0 - w * (1.0 / 1680.0 - w / 1188.0)))) / y;
    (y - 0.5) * ln(y) - y + LN_ROOT_2PI + series - ln(product)
}

/// ln P(G > x) for G of the gamma law of shape `a` and scale 1: χ² of k degrees of freedom is twice
/// that of shape k/2.
pub(super) fn ln_gamma_tail(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    let front = a * ln(x) - x - ln_gamma(a);
    if x < a + 1.0 {
        // P(G <= x) = x^a e^{−x} Σ_n x^n / (a (a+1) .. (a+n)).
        let (mut term, mut total, mut n) = (1.0 / a, 1.0 / a, a);
        while term > total * 1e-17 {
            n += 1.0;
            term *= x / n;
            total += term;
        }
        return (-exp((front + ln(total)).min(0.0))).ln_1p();
    }
    // 1/(x+1−a − 1(1−a)/(x+3−a − ..)), by Lentz.
    let mut b = x + 1.0 - a;
    let (mut c, mut d) = (f64::INFINITY, 1.0 / b);
    let mut h = d;
    for i in 1..1_000_000 {
        let i = f64::from(i);
        let numerator = -i * (i - a);
        b += 2.0;
        d = 1.0 / (numerator * d + b);
        c = b + numerator / c;
        let factor = c * d;
        h *= factor;
        if (factor - 1.0).abs() < 1e-15 {
            break;
        }
    }
    (front + ln(h)).min(0.0)
}

/// ln n!, from a table as far as it reaches.
#[derive(Debug)]
pub(super) struct Factorials(Vec<f64>);

impl Factorials {
    /// Longest table: 8 MiB.
    const MOST: u64 = 1 << 20;

    /// For arguments up to `n`, most of which are looked up.
    pub(super) fn new(n: u64) -> Self {
        Factorials((0..=n.min(Self::MOST)).map(|k| ln_gamma(k as f64 + 1.0)).collect())
    }

    fn ln(&self, n: u64) -> f64 {
        self.0.get(n as usize).copied().unwrap_or_else(|| ln_gamma(n as f64 + 1.0))
    }
}

/// The number of `b` marked sequences among `a` of `n`: hypergeometric.
#[derive(Clone, Copy)]
pub(super) struct Draws<'a> {
    ln: &'a Factorials,
    n: u64,
    a: u64,
    b: u64,
    /// ln of what does not depend on the number.
    front: f64,
}

/// Relative to the probability of what was found, how much more another number may have and still
/// count as no more probable: equal ones differ by rounding.
const EQUAL: f64 = 1e-7;

impl<'a> Draws<'a> {
    pub(super) fn new(ln: &'a Factorials, n: u64, a: u64, b: u64) -> Self {
        let front = ln.ln(a) + ln.ln(n - a) + ln.ln(b) + ln.ln(n - b) - ln.ln(n);
        Draws { ln, n, a, b, front }
    }

    pub(super) fn least(&self) -> u64 {
        (self.a + self.b).saturating_sub(self.n)
    }

    pub(super) fn most(&self) -> u64 {
        self.a.min(self.b)
    }

    /// ln P(X = x), least() <= x <= most().
    pub(super) fn ln_at(&self, x: u64) -> f64 {
        let ln = |n| self.ln.ln(n);
        self.front - ln(x) - ln(self.a - x) - ln(self.b - x) - ln(self.n + x - self.a - self.b)
    }

    /// Odds of x + 1 against x.
    fn odds(&self, x: f64) -> f64 {
        let (n, a, b) = (self.n as f64, self.a as f64, self.b as f64);
        (a - x) * (b - x) / ((x + 1.0) * (n - a - b + x + 1.0))
    }

    /// ln P(X >= x), x above the mode.
    pub(super) fn ln_from(&self, x: u64) -> f64 {
        let (mut term, mut total, mut at) = (1.0, 1.0, x);
        while at < self.most() && term > total * 1e-17 {
            term *= self.odds(at as f64);
            total += term;
            at += 1;
        }
        (self.ln_at(x) + ln(total)).min(0.0)
    }

    /// ln P(X <= x), x below the mode.
    pub(super) fn ln_to(&self, x: u64) -> f64 {
        let (mut term, mut total, mut at) = (1.0, 1.0, x);
        while at > self.least() && term > total * 1e-17 {
            at -= 1;
            term /= self.odds(at as f64);
            total += term;
        }
        (self.ln_at(x) + ln(total)).min(0.0)
    }

    /// ln of the probability of all numbers that are no more probable than `x`: Fisher's exact
    /// test, two-sided.
    pub(super) fn ln_two_sided(&self, x: u64) -> f64 {
        let limit = self.ln_at(x) + EQUAL;
        // 128 bits: the product may exceed 64.
        let mode = (u128::from(self.a + 1) * u128::from(self.b + 1) / u128::from(self.n + 2)) as u64;
        let mode = mode.clamp(self.least(), self.most());
        if self.ln_at(mode) <= limit {
            return 0.0;
        }
        // The law falls on both sides of its mode.
        let rare = |x: u64| self.ln_at(x) <= limit;
        let upper = rare(self.most()).then(|| {
            let (mut no, mut yes) = (mode, self.most());
            while yes - no > 1 {
                let at = no + (yes - no) / 2;
                *(if rare(at) { &mut yes } else { &mut no }) = at;
            }
            self.ln_from(yes)
        });
        let lower = rare(self.least()).then(|| {
            let (mut yes, mut no) = (self.least(), mode);
            while no - yes > 1 {
                let at = yes + (no - yes) / 2;
                *(if rare(at) { &mut yes } else { &mut no }) = at;
            }
            self.ln_to(yes)
        });
        let parts: Vec<f64> = upper.into_iter().chain(lower).collect();
        crate::num::log_sum_exp(&parts).min(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_tails_and_quantiles_are_inverse() {
        // ln P(N > z), 16 digits, by mpmath.
        for (z, expected) in [
            (0.0, -std::f64::consts::LN_2),
            (1.0, -1.841_021_645_009_264),
            (6.9, -26.675_460_839_155_64),
            (40.0, -804.608_442_013_753_8),
            (1000.0, -500_007.826_694_812_2),
        ] {
            let found = ln_normal_tail(z);
            assert!((found / expected - 1.0).abs() < 1e-9, "{z}: {found} {expected}");
        }
        for z in [-3.0, -0.5, 0.1, 0.7, 2.0, 2.9, 5.0, 12.0, 38.0, 150.0, 3000.0] {
            let back = normal_quantile(ln_normal_tail(z));
            assert!((back - z).abs() < 1e-9 * (1.0 + z * z.abs()).abs(), "{z}: {back}");
        }
        assert_eq!(normal_quantile(0.0), f64::NEG_INFINITY);
        assert!(normal_quantile(f64::NAN).is_nan() && normal_quantile(0.1).is_nan());
    }

    #[test]
    fn chi_squared_tails_meet_the_normal_law_and_the_exponential() {
        // One degree of freedom: a squared normal; two: an exponential of mean 2.
        for z in [0.1, 0.5, 1.0, 1.4, 2.0, 5.0, 6.9, 20.0, 50.0] {
            let expected = ln_normal_tail(z) + std::f64::consts::LN_2;
            let found = ln_gamma_tail(0.5, z * z / 2.0);
            assert!((found - expected).abs() < 1e-10 * (1.0 - expected), "{z}: {found} {expected}");
        }
        for x in [0.01, 0.5, 1.9, 2.1, 10.0, 1e3, 1e5] {
            assert!((ln_gamma_tail(1.0, x) + x).abs() < 1e-11 * (1.0 + x), "{x}");
        }
        // A sum of k exponentials: e^{−x} Σ_{n<k} x^n/n!.
        for (k, x) in [(3, 2.0), (3, 9.0), (20, 20.0), (20, 80.0), (60, 30.0)] {
            let mut term = 1.0;
            let mut total = 1.0;
            (1..k).for_each(|n| {
                term *= x / f64::from(n);
                total += term;
            });
            let expected = f64::ln(total) - x;
            let found = ln_gamma_tail(f64::from(k), x);
            assert!((found - expected).abs() < 1e-11 * (1.0 - expected), "{k} {x}: {found} {expected}");
        }
    }

    #[test]
    fn hypergeometric_tails_are_sums_of_the_law() {
        let table = Factorials::new(3000);
        for (n, a, b) in [(10, 4, 5), (10, 9, 8), (30, 1, 15), (100, 50, 50), (3000, 40, 2900), (7, 0, 3)] {
            let x = Draws::new(&table, n, a, b);
            let law: Vec<f64> = (x.least()..=x.most()).map(|k| x.ln_at(k).exp()).collect();
            assert!((law.iter().sum::<f64>() - 1.0).abs() < 1e-11, "{n} {a} {b}");
            let mean = a as f64 * b as f64 / n as f64;
            for k in x.least()..=x.most() {
                let at = (k - x.least()) as usize;
                let close = |found: f64, expected: f64| {
                    assert!(
                        (found.exp() / expected - 1.0).abs() < 1e-9,
                        "{n} {a} {b} {k}: {found} {expected}"
                    );
                };
                if k as f64 > mean + 1.0 {
                    close(x.ln_from(k), law[at..].iter().sum());
                }
                if (k as f64) < mean - 1.0 {
                    close(x.ln_to(k), law[..=at].iter().sum());
                }
                let rare = law.iter().filter(|p| **p <= law[at] * (1.0 + 1e-7)).sum::<f64>();
                close(x.ln_two_sided(k), rare.min(1.0));
            }
        }
    }
}
