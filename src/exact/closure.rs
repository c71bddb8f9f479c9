//! Finite priors closed under relabelling or column shifts, and whether one is.

use super::FinitePrior;
use super::prior::{Kind, SUM_TOLERANCE, check_entries};
use crate::Result;
use crate::num::Sum;

impl FinitePrior {
    /// The mean of the prior over all S! permutations of the symbols: (π, μ) with π'(σb|σa) =
    /// π(b|a), μ'(σa) = μ(a).
    ///
    /// Atoms that coincide are not merged.
    ///
    /// # Errors
    /// When the result would exceed [`MAX_ENTRIES`](super::prior::MAX_ENTRIES).
    pub fn closed_under_relabelling(&self) -> Result<Self> {
        let (s, q) = (self.symbols, self.atoms());
        let count = (1..=s).try_fold(1usize, |n, k| n.checked_mul(k));
        check_entries(count.and_then(|n| n.checked_mul(q * s * s)), "relabellings (S! Q)")?;
        let mut out = self.empty();
        let mut sigma: Vec<usize> = (0..s).collect();
        let share = 1.0 / count.unwrap_or(1) as f64;
        loop {
            for a in 0..q {
                out.weight.push(self.weight[a] * share);
                out.push_relabelled(self, a, &sigma);
            }
            if !next_permutation(&mut sigma) {
                return Ok(out);
            }
        }
    }

    /// The mean of the prior over the cyclic column shifts π'(b|a) = π(b+m|a): E π' = 11ᵀ/S.
    /// Stationary roots are found anew; other root laws stay as they are.
    ///
    /// # Errors
    /// When the result would exceed [`MAX_ENTRIES`](super::prior::MAX_ENTRIES), or roots are
    /// stationary and a shifted matrix is reducible.
    pub fn closed_under_column_shifts(&self) -> Result<Self> {
        let (s, q) = (self.symbols, self.atoms());
        check_entries(s.checked_mul(q * s * s), "column shifts (S Q)")?;
        let mut out = self.empty();
        for m in 0..s {
            for a in 0..q {
                out.weight.push(self.weight[a] / s as f64);
                for row in self.atom_pi(a).chunks_exact(s) {
                    out.pi.extend_from_slice(&row[m..]);
                    out.pi.extend_from_slice(&row[..m]);
                }
                out.roots.extend_from_slice(self.atom_roots(a));
            }
        }
        if self.kind == Kind::Stationary {
            out.set_stationary()?;
        }
        Ok(out)
    }

    /// True if any permutation of the symbols leaves the law of (π, μ) unchanged; entries and
    /// masses are compared within [`SUM_TOLERANCE`].
    ///
    /// O(Q² S²) at worst; atoms are found by their first entry.
    pub fn is_relabelling_invariant(&self) -> bool {
        let (s, q) = (self.symbols, self.atoms());
        let mut order: Vec<usize> = (0..q).collect();
        order.sort_by(|a, b| self.atom_pi(*a)[0].total_cmp(&self.atom_pi(*b)[0]));
        // The swap of 0 and 1 and the cycle generate all permutations.
        let mut swap: Vec<usize> = (0..s).collect();
        swap.swap(0, 1);
        let cycle: Vec<usize> = (0..s).map(|a| (a + 1) % s).collect();
        let mut image = self.empty();
        for sigma in [swap, cycle] {
            for a in 0..q {
                image.pi.clear();
                image.roots.clear();
                image.push_relabelled(self, a, &sigma);
                let here = self.mass_at(&order, self.atom_pi(a), self.atom_roots(a));
                let there = self.mass_at(&order, &image.pi, &image.roots);
                if (here - there).abs() > SUM_TOLERANCE {
                    return false;
                }
            }
        }
        true
    }

    /// True if E π = 11ᵀ/S, within [`SUM_TOLERANCE`] in each entry.
    pub fn is_constant_mean(&self) -> bool {
        let n = self.symbols * self.symbols;
        (0..n).all(|e| {
            let mean: Sum =
                self.weight.iter().zip(self.pi[e..].iter().step_by(n)).map(|(w, p)| w * p).collect();
            (mean.value() - 1.0 / self.symbols as f64).abs() <= SUM_TOLERANCE
        })
    }

    fn empty(&self) -> Self {
        let (weight, pi, roots) = (Vec::new(), Vec::new(), Vec::new());
        FinitePrior { symbols: self.symbols, weight, pi, roots, kind: self.kind }
    }

    /// Appends π and μ of atom `a` of `from` with symbol b called `sigma[b]`.
    fn push_relabelled(&mut self, from: &FinitePrior, a: usize, sigma: &[usize]) {
        let (s, pi, roots) = (self.symbols, from.atom_pi(a), from.atom_roots(a));
        let (p, r) = (self.pi.len(), self.roots.len());
        self.pi.resize(p + s * s, 0.0);
        self.roots.resize(r + s, 0.0);
        for b in 0..s {
            self.roots[r + sigma[b]] = roots[b];
            for c in 0..s {
                self.pi[p + sigma[b] * s + sigma[c]] = pi[b * s + c];
            }
        }
    }

    /// Σ of the weights of atoms within the tolerance of (pi, roots); `order` sorts the atoms by
    /// their first entry.
    fn mass_at(&self, order: &[usize], pi: &[f64], roots: &[f64]) -> f64 {
        let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(x, y)| (x - y).abs() <= SUM_TOLERANCE);
        let first = order.partition_point(|a| self.atom_pi(*a)[0] < pi[0] - SUM_TOLERANCE);
        let window = order[first..].iter().take_while(|a| self.atom_pi(**a)[0] <= pi[0] + SUM_TOLERANCE);
        window
            .filter(|a| near(self.atom_pi(**a), pi) && near(self.atom_roots(**a), roots))
            .map(|a| self.weight[*a])
            .sum()
    }
}

/// The next permutation in lexicographic order; false after the last.
fn next_permutation(p: &mut [usize]) -> bool {
    let Some(i) = (1..p.len()).rev().find(|i| p[i - 1] < p[*i]) else { return false };
    let j = (i..p.len()).rev().find(|j| p[*j] > p[i - 1]).unwrap_or(i);
    p.swap(i - 1, j);
    p[i..].reverse();
    true
}
