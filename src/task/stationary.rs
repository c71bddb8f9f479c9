//! The stationary law of a transition matrix, every entry accurate relative to itself.
//!
//! Elimination in the form of Grassmann, Taksar and Heyman (1985): it uses off-diagonal entries
//! only and neither subtracts nor cancels, so each entry of μ has relative error O(S³ u) however
//! nearly reducible the matrix is (O'Cinneide 1993), *as long as nothing under- or overflows*.
//! Dirichlet rows with small α have entries such as 10⁻⁵⁰⁰, hence two number formats for one
//! elimination:
//!
//! - plain f64 when every off-diagonal entry is at least [`LINEAR_FLOOR`] = θ. Then nothing can
//!   leave the normal range: censored entries only grow from ≥ θ and stay ≤ 1; pivots lie in [θ,
//!   1], quotients in [θ, 1/θ], products in [θ², 1]; ratios of μ in [θ/2, 2/θ] because μ_j ≥ θ (1 -
//!   μ_j), their terms ≥ θ²/2 = 5·10⁻³⁰¹.
//! - otherwise a significand in [1,2) with a 64-bit exponent. Logarithms would do too, but cost two
//!   transcendental functions per addition, and lose accuracy where they are large: ln x = -30,000
//!   is known to 4·10⁻¹² only.
//!
//! Reducible chains (an exact zero pivot): the law is not unique if there are several closed
//! classes. The result is the stationary law of the closed class found first when eliminating from
//! the last state down, zero elsewhere. It always satisfies μ = μπ, is never NaN, and is *the*
//! stationary law when there is only one closed class.

use crate::num::{LN2_HI, LN2_LO, exp, ln, pow2};

/// If an off-diagonal entry is below this, the elimination uses extended exponents.
pub const LINEAR_FLOOR: f64 = 1e-150;

/// Working storage of [`stationary`] for up to `s` states; allocated once.
#[derive(Debug, Clone)]
pub struct StationaryScratch {
    linear: Vec<f64>,
    wide: Vec<Wide>,
    wide_mu: Vec<Wide>,
}

impl StationaryScratch {
    /// A workspace for matrices of up to `s` states.
    pub fn new(s: usize) -> Self {
        StationaryScratch {
            linear: vec![0.0; s * s],
            wide: vec![Wide::ZERO; s * s],
            wide_mu: vec![Wide::ZERO; s],
        }
    }
}

/// Stationary law `mu` (S, sums to 1) of the row-stochastic matrix `pi` (S, S) row-major, `log_pi`
/// its logarithm.
///
/// Both forms are read: the linear one where it is a normal number, the logarithm where it under-
/// or overflows gradually. Diagonal entries are not read. Entries of `mu` below 10⁻³⁰⁸ underflow;
/// `log_mu` (S), if given, receives the logarithms of all. A logarithm of -inf or below -2·10⁹ is a
/// zero entry. See the module for accuracy and reducible chains.
///
/// # Panics
/// When a slice or the scratch does not fit `s`, or `s` is 0.
pub fn stationary(
    pi: &[f64],
    log_pi: &[f64],
    s: usize,
    mu: &mut [f64],
    log_mu: Option<&mut [f64]>,
    scratch: &mut StationaryScratch,
) {
    assert!(pi.len() == s * s, "pi is not S x S");
    scratch.linear[..s * s].copy_from_slice(pi);
    solve(log_pi, s, mu, log_mu, scratch);
}

/// [`stationary`] from the logarithms alone.
///
/// # Panics
/// As [`stationary`].
pub fn stationary_from_log(
    log_pi: &[f64],
    s: usize,
    mu: &mut [f64],
    log_mu: Option<&mut [f64]>,
    scratch: &mut StationaryScratch,
) {
    assert!(log_pi.len() == s * s, "log_pi is not S x S");
    for (x, &l) in scratch.linear.iter_mut().zip(log_pi) {
        *x = exp(l);
    }
    solve(log_pi, s, mu, log_mu, scratch);
}

/// `scratch.linear` holds the matrix.
fn solve(
    log_pi: &[f64],
    s: usize,
    mu: &mut [f64],
    log_mu: Option<&mut [f64]>,
    scratch: &mut StationaryScratch,
) {
    assert!(s > 0 && log_pi.len() == s * s && mu.len() == s, "operands do not fit S");
    let a = &mut scratch.linear[..s * s];
    if smallest_off_diagonal(a, s) >= LINEAR_FLOOR {
        eliminate_linear(a, s, mu);
        if let Some(log_mu) = log_mu {
            log_mu.iter_mut().zip(&*mu).for_each(|(l, &m)| *l = ln(m));
        }
    } else {
        for ((w, &x), &l) in scratch.wide.iter_mut().zip(&*a).zip(log_pi) {
            *w = if x.is_normal() { Wide::new(x, 0) } else { Wide::from_log(l) };
        }
        let total = eliminate_wide(&mut scratch.wide, s, &mut scratch.wide_mu[..s]);
        for (m, w) in mu.iter_mut().zip(&scratch.wide_mu) {
            *m = w.div(total).value();
        }
        if let Some(log_mu) = log_mu {
            log_mu.iter_mut().zip(&scratch.wide_mu).for_each(|(l, w)| *l = w.div(total).log());
        }
    }
}

fn smallest_off_diagonal(a: &[f64], s: usize) -> f64 {
    let mut least = f64::INFINITY;
    for (i, row) in a.chunks_exact(s).enumerate() {
        for (j, &x) in row.iter().enumerate() {
            least = if j != i && x < least { x } else { least };
        }
    }
    least
}

/// GTH in f64; `a` (S, S) is overwritten. All pivots are positive here.
fn eliminate_linear(a: &mut [f64], s: usize, mu: &mut [f64]) {
    for n in (1..s).rev() {
        let (above, row) = a.split_at_mut(n * s);
        let row = &row[..n];
        // Probability of leaving n downwards; 1 - π(n|n) would cancel.
        let pivot: f64 = row.iter().sum();
        for upper in above.chunks_exact_mut(s) {
            let f = upper[n] / pivot;
            upper[n] = f;
            // The diagonal entry is updated too and never read: cheaper than skipping it.
            for (x, &r) in upper[..n].iter_mut().zip(row) {
                *x += f * r;
            }
        }
    }
    mu[0] = 1.0;
    let mut total = 1.0;
    for n in 1..s {
        let m: f64 = (0..n).map(|i| mu[i] * a[i * s + n]).sum();
        mu[n] = m;
        total += m;
    }
    mu.iter_mut().for_each(|m| *m /= total);
}

/// The same elimination with extended exponents; leaves unnormalised μ in `mu` and returns its sum.
fn eliminate_wide(a: &mut [Wide], s: usize, mu: &mut [Wide]) -> Wide {
    let mut start = 0;
    for n in (1..s).rev() {
        let pivot = (0..n).fold(Wide::ZERO, |t, j| t.add(a[n * s + j]));
        if pivot.m == 0.0 {
            // States above n all lead down again and n never leads below itself: {states reachable
            // from n} is a closed class with lowest state n.
            start = n;
            break;
        }
        for i in 0..n {
            let f = a[i * s + n].div(pivot);
            a[i * s + n] = f;
            for j in 0..n {
                a[i * s + j] = a[i * s + j].add(f.mul(a[n * s + j]));
            }
        }
    }
    mu.fill(Wide::ZERO);
    mu[start] = Wide::new(1.0, 0);
    let mut total = mu[start];
    for n in start + 1..s {
        let m = (start..n).fold(Wide::ZERO, |t, i| t.add(mu[i].mul(a[i * s + n])));
        mu[n] = m;
        total = total.add(m);
    }
    total
}

/// m · 2^e ≥ 0 with m in [1,2), or m = 0 and e = `ZERO.e`: f64 accuracy without its range.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Wide {
    m: f64,
    e: i64,
}

impl Wide {
    /// Far below any exponent that occurs, yet two of them can be added.
    const ZERO: Wide = Wide { m: 0.0, e: -(1 << 60) };

    /// m · 2^e for a normal m > 0 or m = 0.
    #[inline]
    fn new(m: f64, e: i64) -> Self {
        if m == 0.0 {
            return Wide::ZERO;
        }
        let shift = (m.to_bits() >> 52) as i64 - 1023;
        Wide { m: f64::from_bits(m.to_bits() & 0x000F_FFFF_FFFF_FFFF | 0x3FF0_0000_0000_0000), e: e + shift }
    }

    fn from_log(l: f64) -> Self {
        if l < -2e9 {
            return Wide::ZERO;
        }
        // Truncation is one instruction where floor is a call; the sign of the remainder does not
        // matter.
        let k = (l * std::f64::consts::LOG2_E) as i64 as f64;
        // Two-part ln 2 as in `exp`: k * LN2_HI is exact for |k| < 2^32.
        Wide::new(exp((l - k * LN2_HI) - k * LN2_LO), k as i64)
    }

    #[inline]
    fn mul(self, o: Wide) -> Self {
        Wide::new(self.m * o.m, self.e + o.e)
    }

    #[inline]
    fn div(self, o: Wide) -> Self {
        Wide::new(self.m / o.m, self.e - o.e)
    }

    #[inline]
    fn add(self, o: Wide) -> Self {
        // Two selects and no branch: which exponent is larger is as good as random here.
        let swap = self.e < o.e;
        let (hi_m, lo_m) = if swap { (o.m, self.m) } else { (self.m, o.m) };
        let (hi_e, lo_e) = if swap { (o.e, self.e) } else { (self.e, o.e) };
        // Beyond 2^-200 the smaller one is lost in rounding anyway; the bound keeps the power
        // representable.
        Wide::new(hi_m + lo_m * pow2((lo_e - hi_e).max(-200)), hi_e)
    }

    fn value(self) -> f64 {
        let e = self.e.clamp(-1200, 1023);
        self.m * pow2(e / 2) * pow2(e - e / 2)
    }

    fn log(self) -> f64 {
        if self.m == 0.0 {
            return f64::NEG_INFINITY;
        }
        let e = self.e as f64;
        e * LN2_HI + (e * LN2_LO + ln(self.m))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solve_linear_entries(pi: &[f64], s: usize) -> (Vec<f64>, Vec<f64>) {
        let log_pi: Vec<f64> = pi.iter().map(|&x| ln(x)).collect();
        let (mut mu, mut log_mu) = (vec![f64::NAN; s], vec![f64::NAN; s]);
        stationary(pi, &log_pi, s, &mut mu, Some(&mut log_mu), &mut StationaryScratch::new(s));
        (mu, log_mu)
    }

    #[test]
    fn reducible_chains_have_documented_answers() {
        // Two closed classes {0,1} and {2,3}: the one with the last state.
        let pi = [0.5, 0.5, 0., 0., 0.5, 0.5, 0., 0., 0., 0., 0.2, 0.8, 0., 0., 0.4, 0.6];
        let (mu, log_mu) = solve_linear_entries(&pi, 4);
        assert_eq!((mu[0], mu[1]), (0.0, 0.0));
        assert!((mu[2] - 1.0 / 3.0).abs() < 1e-15 && (mu[3] - 2.0 / 3.0).abs() < 1e-15);
        assert_eq!(log_mu[0], f64::NEG_INFINITY);
        // Transient states on either side of the only closed class {1}.
        let (mu, _) = solve_linear_entries(&[0.5, 0.5, 0., 0., 1., 0., 0.3, 0.3, 0.4], 3);
        assert_eq!(mu, [0.0, 1.0, 0.0]);
        // The identity; a permutation; one state.
        assert_eq!(solve_linear_entries(&[1., 0., 0., 1.], 2).0, [0.0, 1.0]);
        let (mu, _) = solve_linear_entries(&[0., 1., 0., 0., 0., 1., 1., 0., 0.], 3);
        assert_eq!(mu, [1.0 / 3.0; 3]);
        assert_eq!(solve_linear_entries(&[1.0], 1).0, [1.0]);
    }

    #[test]
    fn entries_far_below_the_range_of_f64() {
        // S = 2: mu = (q, p) / (p + q).
        let (p, q) = (-30_000.0, -29_000.0);
        let log_pi = [0.0, p, q, 0.0];
        let (mut mu, mut log_mu) = ([0.0; 2], [0.0; 2]);
        let mut scratch = StationaryScratch::new(2);
        stationary_from_log(&log_pi, 2, &mut mu, Some(&mut log_mu), &mut scratch);
        assert_eq!(mu, [1.0, 0.0]);
        assert!((log_mu[1] + 1000.0).abs() < 2e-12, "{log_mu:?}");
        stationary_from_log(&[0.0, p, p + 2.0, 0.0], 2, &mut mu, None, &mut scratch);
        let odds = mu[1] / mu[0];
        assert!((odds - libm::exp(-2.0)).abs() < 1e-11, "{mu:?}");
    }

    #[test]
    fn both_formats_agree() {
        let s = 5;
        let mut x = 1u64;
        let pi: Vec<f64> = (0..s * s)
            .map(|_| {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                exp(-40.0 * (x >> 11) as f64 * 2f64.powi(-53))
            })
            .collect();
        let mut linear = vec![0.0; s];
        eliminate_linear(&mut pi.clone(), s, &mut linear);
        let mut a: Vec<Wide> = pi.iter().map(|&x| Wide::new(x, 0)).collect();
        let mut mu = vec![Wide::ZERO; s];
        let total = eliminate_wide(&mut a, s, &mut mu);
        for (l, w) in linear.iter().zip(&mu) {
            assert!((w.div(total).value() - l).abs() < 1e-14 * l);
        }
    }
}
