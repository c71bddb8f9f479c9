//! What claims share: random matrices and graphs, the largest difference, labels of a graph.

use crate::Result;
use crate::exact::effective::effective_length;
use crate::exact::quadrature::draws;
use crate::exact::transition::Transition;
use crate::exact::{AtomRoots, FinitePrior};
use crate::rng::{Key, Purpose};
use crate::task::Forest;

/// Draws of the claims: one key, so that every number can be drawn again.
pub(super) fn key(seed: u64) -> Key {
    Key::new(0x7468_656f_7279 ^ seed, Purpose::Probe)
}

/// One π with i.i.d. Dirichlet(α) rows and stationary roots, draw `n`.
pub(super) fn drawn(key: &Key, n: u64, symbols: usize, alpha: f64) -> Result<FinitePrior> {
    draws(symbols, alpha, key, n, 1)
}

/// `count` standard normals from number `from`.
pub(super) fn normals(key: &Key, from: u64, count: usize, scale: f64) -> Vec<f64> {
    (0..count as u64).map(|n| scale * key.normal((from << 32) + n)).collect()
}

/// The atoms of a finite prior with stationary roots: (weight, π).
pub(super) fn transitions(prior: &FinitePrior) -> Result<Vec<(f64, Transition)>> {
    (0..prior.atoms())
        .map(|q| Ok((prior.weight()[q], Transition::new(prior.symbols(), prior.atom_pi(q))?)))
        .collect()
}

/// Atoms as the engines take them, roots ∼ μ.
pub(super) fn atoms(of: &[(f64, Transition)]) -> impl Iterator<Item = (f64, &Transition, Option<&[f64]>)> {
    of.iter().map(|(w, transition)| (*w, transition, None))
}

/// One π with stationary roots, averaged over its cyclic column shifts: constant mean.
pub(super) fn shifted(symbols: usize, pi: Vec<f64>) -> Result<FinitePrior> {
    FinitePrior::single(symbols, pi, AtomRoots::Stationary)?.closed_under_column_shifts()
}

/// The pair of matrices that theory's claims 2 and 3 are stated with.
pub(super) fn pair() -> Result<FinitePrior> {
    shifted(2, vec![0.75, 0.25, 0.45, 0.55])
}

/// max |x − y|.
pub(super) fn apart(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

/// max |x|.
pub(super) fn largest(x: &[f64]) -> f64 {
    x.iter().map(|x| x.abs()).fold(0.0, f64::max)
}

/// ‖x‖.
pub(super) fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Eigenvalues of a symmetric matrix (n, n) by Jacobi's rotations.
pub(super) fn eigenvalues(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    for _ in 0..30 {
        let off: f64 = (0..n * n).filter(|e| e / n != e % n).map(|e| a[e] * a[e]).sum();
        if off <= 1e-30 * norm(&a).powi(2) {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                let x = a[p * n + q];
                if x == 0.0 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * x);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let (c, s) = (1.0 / (t * t + 1.0).sqrt(), t / (t * t + 1.0).sqrt());
                for k in 0..n {
                    let (u, v) = (a[k * n + p], a[k * n + q]);
                    (a[k * n + p], a[k * n + q]) = (c * u - s * v, s * u + c * v);
                }
                for k in 0..n {
                    let (u, v) = (a[p * n + k], a[q * n + k]);
                    (a[p * n + k], a[q * n + k]) = (c * u - s * v, s * u + c * v);
                }
            }
        }
    }
    (0..n).map(|i| a[i * (n + 1)]).collect()
}

/// T_eff to three digits.
pub(super) fn t_eff(forest: &Forest, rho: f64) -> String {
    format!("{:.2}", effective_length(forest, rho))
}

/// A family of graphs: its name, and the member of length T.
pub(super) type Graphs = (&'static str, fn(usize) -> Result<Forest>);

/// A star: position 0 has all others for children.
pub(super) fn star(t: usize) -> Result<Forest> {
    let parents: Vec<i64> = (0..t as i64 - 1).map(|i| if i == 0 { -1 } else { 0 }).collect();
    Forest::from_parents(&parents)
}

/// The parents of a small graph.
pub(super) fn parents(forest: &Forest) -> String {
    format!("{:?}", forest.parents_i64())
}

/// Where row `i` of `g` (T, T) is largest among j <= i, and by how much `of` exceeds the best other
/// entry.
pub(super) fn lead(g: &[f64], t: usize, i: usize, of: usize) -> f64 {
    let others = (0..=i).filter(|j| *j != of).map(|j| g[i * t + j]).fold(f64::NEG_INFINITY, f64::max);
    g[i * t + of] - others
}
