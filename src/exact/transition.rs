//! One transition matrix with its stationary law and its centred, balanced form.
//!
//! | symbol | shape | meaning |
//! |---|---|---|
//! | π | (S, S) | row = from |
//! | μ | (S) | stationary law, μ = μπ |
//! | B | (S, S) | D^½ π D^-½ − √μ √μᵀ, D = diag μ: π without its equilibrium, in balanced coordinates |
//! | ρ | | ‖B‖_op <= 1, the contraction per edge |

use crate::num::{Sum, ln};
use crate::task::stationary::{StationaryScratch, stationary};
use crate::{Error, Result};

/// π, checked, with μ and B.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    symbols: usize,
    pi: Vec<f64>,
    mu: Vec<f64>,
    b: Vec<f64>,
}

/// Largest distance of a row's sum from 1; rows are then normalised.
const ROW_TOLERANCE: f64 = 1e-12;

impl Transition {
    /// From π (S, S) row-major; rows are normalised.
    ///
    /// # Errors
    /// S below 2, a length other than S², entries that are negative or not finite, rows that do not
    /// sum to 1 within 10⁻¹², symbols with stationary probability 0.
    pub fn new(symbols: usize, pi: &[f64]) -> Result<Self> {
        let s = symbols;
        if s < 2 || s.checked_mul(s) != Some(pi.len()) {
            return Err(Error::invalid(
                "pi",
                format!("{} entries for S = {s}", pi.len()),
                "S >= 2, S*S entries",
            ));
        }
        let mut pi = pi.to_vec();
        for (i, row) in pi.chunks_exact_mut(s).enumerate() {
            if let Some(j) = row.iter().position(|x| !(x.is_finite() && *x >= 0.0)) {
                return Err(Error::invalid(format!("pi[{i}][{j}]"), row[j].to_string(), "finite, >= 0"));
            }
            let total = row.iter().copied().collect::<Sum>().value();
            if (total - 1.0).abs() > ROW_TOLERANCE {
                return Err(Error::invalid(format!("pi[{i}]"), format!("sums to {total}"), "1 within 1e-12"));
            }
            row.iter_mut().for_each(|x| *x /= total);
        }
        let log_pi: Vec<f64> = pi.iter().map(|x| ln(*x)).collect();
        let mut mu = vec![0.0; s];
        stationary(&pi, &log_pi, s, &mut mu, None, &mut StationaryScratch::new(s));
        if let Some(k) = mu.iter().position(|m| *m < f64::MIN_POSITIVE) {
            let problem = format!("symbol {k} has stationary probability {}", mu[k]);
            return Err(Error::invalid("pi", problem, "a positive stationary law"));
        }
        let root: Vec<f64> = mu.iter().map(|m| m.sqrt()).collect();
        let mut b = vec![0.0; s * s];
        for i in 0..s {
            for j in 0..s {
                b[i * s + j] = root[i] * (pi[i * s + j] / root[j] - root[j]);
            }
        }
        Ok(Transition { symbols, pi, mu, b })
    }

    /// S.
    pub fn symbols(&self) -> usize {
        self.symbols
    }

    /// π (S, S).
    pub fn pi(&self) -> &[f64] {
        &self.pi
    }

    /// μ (S).
    pub fn mu(&self) -> &[f64] {
        &self.mu
    }

    /// B (S, S).
    pub fn b(&self) -> &[f64] {
        &self.b
    }

    /// tr π.
    pub fn trace(&self) -> f64 {
        (0..self.symbols).map(|s| self.pi[s * (self.symbols + 1)]).collect::<Sum>().value()
    }

    /// ‖B‖_F²: the χ² mutual information of an edge whose ends follow μ.
    pub fn chi2(&self) -> f64 {
        self.b.iter().map(|x| x * x).collect::<Sum>().value()
    }

    /// ρ = ‖B‖_op.
    pub fn rho(&self) -> f64 {
        spectral_norm(&self.b, self.symbols)
    }
}

/// Largest singular value of `a` (n, n) by one-sided Jacobi rotations: columns are made orthogonal,
/// the longest is the answer.
pub(crate) fn spectral_norm(a: &[f64], n: usize) -> f64 {
    let mut u = a.to_vec();
    // Cubically convergent; thirty sweeps are never needed.
    for _ in 0..30 {
        let mut rotated = false;
        for p in 0..n {
            for q in p + 1..n {
                let (mut app, mut aqq, mut apq) = (0.0, 0.0, 0.0);
                for row in u.chunks_exact(n) {
                    app += row[p] * row[p];
                    aqq += row[q] * row[q];
                    apq += row[p] * row[q];
                }
                if apq.abs() <= f64::EPSILON * (app * aqq).sqrt() {
                    continue;
                }
                rotated = true;
                let zeta = (aqq - app) / (2.0 * apq);
                let t = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let c = 1.0 / (1.0 + t * t).sqrt();
                let s = c * t;
                for row in u.chunks_exact_mut(n) {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
            }
        }
        if !rotated {
            break;
        }
    }
    let norm2 = |j: usize| u.chunks_exact(n).map(|row| row[j] * row[j]).collect::<Sum>().value();
    (0..n).map(norm2).fold(0.0, f64::max).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_symbols_in_closed_form() {
        // p = π(1|0), q = π(0|1): μ = (q, p)/(p + q), B of rank one with the only eigenvalue λ = 1
        // − p − q.
        let (p, q) = (0.25, 0.45);
        let t = Transition::new(2, &[1.0 - p, p, q, 1.0 - q]).unwrap();
        let close = |a: f64, b: f64| assert!((a - b).abs() <= 4.0 * f64::EPSILON, "{a} {b}");
        close(t.mu()[0], q / (p + q));
        close(t.rho(), 1.0 - p - q);
        close(t.chi2(), (1.0 - p - q) * (1.0 - p - q));
        close(t.trace(), 2.0 - p - q);
    }

    #[test]
    fn norms_of_known_matrices() {
        assert_eq!(spectral_norm(&[3.0, 0.0, 0.0, -5.0], 2), 5.0);
        // 1 1ᵀ has norm n; a rotation has norm 1.
        assert!((spectral_norm(&[1.0; 49], 7) - 7.0).abs() < 1e-14);
        let (s, c) = 0.7f64.sin_cos();
        assert!((spectral_norm(&[c, s, -s, c], 2) - 1.0).abs() < 1e-15);
        assert_eq!(spectral_norm(&[0.0; 9], 3), 0.0);
    }

    #[test]
    fn bad_matrices_are_refused_by_name() {
        let message = |s: usize, pi: &[f64]| Transition::new(s, pi).unwrap_err().to_string();
        assert!(message(1, &[1.0]).starts_with("pi: 1 entries"));
        assert!(message(usize::MAX, &[1.0]).starts_with("pi: "));
        assert!(message(2, &[1.0, 0.0, f64::NAN, 1.0]).starts_with("pi[1][0]: NaN"));
        assert!(message(2, &[1.0, 0.0, 0.5, 0.6]).starts_with("pi[1]: sums to 1.1"));
        assert!(message(2, &[1.0, 0.0, 0.5, 0.5]).contains("symbol 1 has stationary probability 0"));
    }
}
