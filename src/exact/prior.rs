//! Priors over the transition matrix π of the causal-tree task (paper 1, arXiv 2402.14735), in the forms that can be
//! integrated exactly.
//!
//! | symbol | name | shape |
//! |---|---|---|
//! | w | `weight`: probability of each atom | (Q) |
//! | π | `pi`: transition matrices, row = from | (Q, S, S) |
//! | μ | `roots`: law of the root tokens under each π | (Q, S) |

use crate::num::{ln, sum};
use crate::task::CausalTree;
use crate::task::stationary::{StationaryScratch, stationary};
use crate::{Error, Result};

/// How far probabilities given as numbers may sum from 1; they are then normalised.
pub const SUM_TOLERANCE: f64 = 1e-12;

/// Largest finite prior, in entries of π (128 MiB).
pub const MAX_ENTRIES: usize = 1 << 24;

/// Law of the root tokens under a Dirichlet prior.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RootLaw {
    /// Uniform on the alphabet.
    Uniform,
    /// One Dirichlet(α, .., α) draw shared by all roots of a sequence, independent of π.
    SharedDirichlet,
}

/// A prior over π and the root law.
///
/// Dirichlet rows whose roots follow the stationary law have no closed form: see `quadrature` for S = 2.
#[derive(Debug, Clone, PartialEq)]
pub enum Prior {
    /// Rows i.i.d. Dirichlet(α, .., α). Made by [`Prior::dirichlet`], which checks the values.
    Dirichlet {
        /// S.
        symbols: usize,
        /// α.
        alpha: f64,
        /// The law of the roots.
        roots: RootLaw,
    },
    /// Finitely many transition matrices.
    Finite(FinitePrior),
}

impl Prior {
    /// Rows i.i.d. Dirichlet(α, .., α) over `symbols` (S).
    ///
    /// # Errors
    /// When S is not an alphabet size of the task, or α is not a positive number.
    pub fn dirichlet(symbols: usize, alpha: f64, roots: RootLaw) -> Result<Self> {
        let prior = Prior::Dirichlet { symbols, alpha, roots };
        prior.check()?;
        Ok(prior)
    }

    /// Checks the fields of a `Dirichlet` written down by hand; a finite prior is checked when made.
    ///
    /// # Errors
    /// As [`Prior::dirichlet`].
    pub fn check(&self) -> Result<()> {
        if let Prior::Dirichlet { symbols, alpha, .. } = *self {
            check_symbols(symbols)?;
            if !(alpha > 0.0 && alpha.is_finite()) {
                return Err(Error::invalid("alpha", alpha.to_string(), "finite, > 0"));
            }
        }
        Ok(())
    }

    /// S.
    pub fn symbols(&self) -> usize {
        match self {
            Prior::Dirichlet { symbols, .. } => *symbols,
            Prior::Finite(p) => p.symbols,
        }
    }

    /// Is the law of (π, μ) the same after any permutation of the symbols?
    pub fn is_relabelling_invariant(&self) -> bool {
        match self {
            Prior::Dirichlet { .. } => true,
            Prior::Finite(p) => p.is_relabelling_invariant(),
        }
    }

    /// Is E π = 11ᵀ/S?
    pub fn is_constant_mean(&self) -> bool {
        match self {
            Prior::Dirichlet { .. } => true,
            Prior::Finite(p) => p.is_constant_mean(),
        }
    }
}

impl From<FinitePrior> for Prior {
    fn from(p: FinitePrior) -> Self {
        Prior::Finite(p)
    }
}

/// The root law of the atoms of a finite prior.
#[derive(Debug, Clone, PartialEq)]
pub enum AtomRoots {
    /// μ of each π, its stationary law; every π has to be irreducible.
    Stationary,
    /// Uniform on the alphabet.
    Uniform,
    /// (Q, S), rows summing to 1.
    Given(Vec<f64>),
}

/// What is known of `roots`, for operations that change π.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Stationary,
    Other,
}

/// A mixture of finitely many transition matrices, each with its root law.
#[derive(Debug, Clone, PartialEq)]
pub struct FinitePrior {
    symbols: usize,
    weight: Vec<f64>,
    pi: Vec<f64>,
    roots: Vec<f64>,
    kind: Kind,
}

impl FinitePrior {
    /// The mixture of matrices `pi` (Q, S, S) with probabilities `weight` (Q) over `symbols` (S).
    ///
    /// Weights, rows and root laws may miss the sum 1 by [`SUM_TOLERANCE`]; they are normalised.
    ///
    /// # Errors
    /// Lengths that do not fit, an entry that is negative or not finite, a sum that is not 1, a reducible π where the
    /// roots are stationary, too many entries. The message names `weight[q]`, `pi[q][s]`, `pi[q][s][s']` or `roots[q]`.
    pub fn new(symbols: usize, weight: Vec<f64>, pi: Vec<f64>, roots: AtomRoots) -> Result<Self> {
        Self::check_size(symbols, weight.len())?;
        let (s, q) = (symbols, weight.len());
        same_len("pi", pi.len(), q * s * s)?;
        let mut prior = FinitePrior { symbols, weight, pi, roots: Vec::new(), kind: Kind::Other };
        normalise(&mut prior.weight, || "weight".into())?;
        for (i, row) in prior.pi.chunks_exact_mut(s).enumerate() {
            normalise(row, || format!("pi[{}][{}]", i / s, i % s))?;
        }
        match roots {
            AtomRoots::Uniform => prior.roots = vec![1.0 / s as f64; q * s],
            AtomRoots::Stationary => prior.set_stationary()?,
            AtomRoots::Given(mut roots) => {
                same_len("roots", roots.len(), q * s)?;
                for (i, row) in roots.chunks_exact_mut(s).enumerate() {
                    normalise(row, || format!("roots[{i}]"))?;
                }
                prior.roots = roots;
            }
        }
        Ok(prior)
    }

    /// The point mass on one matrix `pi` (S, S).
    ///
    /// # Errors
    /// As [`FinitePrior::new`].
    pub fn single(symbols: usize, pi: Vec<f64>, roots: AtomRoots) -> Result<Self> {
        Self::new(symbols, vec![1.0], pi, roots)
    }

    /// From values that are right by construction, `roots` the stationary laws.
    pub(super) fn stationary_from_parts(
        symbols: usize,
        weight: Vec<f64>,
        pi: Vec<f64>,
        roots: Vec<f64>,
    ) -> Self {
        debug_assert!(pi.len() == weight.len() * symbols * symbols && roots.len() == weight.len() * symbols);
        FinitePrior { symbols, weight, pi, roots, kind: Kind::Stationary }
    }

    /// Refuses alphabets and numbers of atoms out of range.
    pub(super) fn check_size(symbols: usize, atoms: usize) -> Result<()> {
        check_symbols(symbols)?;
        if atoms == 0 {
            return Err(Error::invalid("weight", "no atoms", "at least one"));
        }
        check_entries(atoms.checked_mul(symbols * symbols), "pi")
    }

    /// S.
    pub fn symbols(&self) -> usize {
        self.symbols
    }
    /// Q.
    pub fn atoms(&self) -> usize {
        self.weight.len()
    }
    /// Probabilities of the atoms (Q).
    pub fn weight(&self) -> &[f64] {
        &self.weight
    }
    /// Transition matrices (Q, S, S), row = from.
    pub fn pi(&self) -> &[f64] {
        &self.pi
    }
    /// Root laws (Q, S).
    pub fn roots(&self) -> &[f64] {
        &self.roots
    }
    /// π of atom `q`, (S, S).
    ///
    /// # Panics
    /// When there is no such atom; so for [`FinitePrior::atom_roots`].
    pub fn atom_pi(&self, q: usize) -> &[f64] {
        let n = self.symbols * self.symbols;
        &self.pi[q * n..(q + 1) * n]
    }
    /// Root law of atom `q`, (S).
    pub fn atom_roots(&self, q: usize) -> &[f64] {
        &self.roots[q * self.symbols..(q + 1) * self.symbols]
    }

    /// The mean of the prior over all S! permutations of the symbols: (π, μ) with π'(σb|σa) = π(b|a), μ'(σa) = μ(a).
    ///
    /// Atoms that coincide are not merged.
    ///
    /// # Errors
    /// When the result would exceed [`MAX_ENTRIES`].
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

    /// The mean of the prior over the cyclic column shifts π'(b|a) = π(b+m|a): E π' = 11ᵀ/S. Stationary roots are found
    /// anew; other root laws stay as they are.
    ///
    /// # Errors
    /// When the result would exceed [`MAX_ENTRIES`], or roots are stationary and a shifted matrix is reducible.
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

    /// Is the law of (π, μ) the same after any permutation of the symbols, entries and masses compared within
    /// [`SUM_TOLERANCE`]?
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

    /// Is E π = 11ᵀ/S within [`SUM_TOLERANCE`] of each entry?
    pub fn is_constant_mean(&self) -> bool {
        let n = self.symbols * self.symbols;
        (0..n).all(|e| {
            let mean: crate::num::Sum =
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

    /// Σ of the weights of atoms within the tolerance of (pi, roots); `order` sorts the atoms by their first entry.
    fn mass_at(&self, order: &[usize], pi: &[f64], roots: &[f64]) -> f64 {
        let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(x, y)| (x - y).abs() <= SUM_TOLERANCE);
        let first = order.partition_point(|a| self.atom_pi(*a)[0] < pi[0] - SUM_TOLERANCE);
        let window = order[first..].iter().take_while(|a| self.atom_pi(**a)[0] <= pi[0] + SUM_TOLERANCE);
        window
            .filter(|a| near(self.atom_pi(**a), pi) && near(self.atom_roots(**a), roots))
            .map(|a| self.weight[*a])
            .sum()
    }

    fn set_stationary(&mut self) -> Result<()> {
        let s = self.symbols;
        self.kind = Kind::Stationary;
        self.roots.clear();
        self.roots.resize(self.atoms() * s, 0.0);
        let mut scratch = StationaryScratch::new(s);
        let mut log_pi = vec![0.0; s * s];
        for (q, (pi, mu)) in self.pi.chunks_exact(s * s).zip(self.roots.chunks_exact_mut(s)).enumerate() {
            if !is_irreducible(pi, s) {
                return Err(Error::invalid(
                    format!("pi[{q}]"),
                    "reducible, with stationary roots",
                    "every symbol reachable from every other",
                ));
            }
            log_pi.iter_mut().zip(pi).for_each(|(l, p)| *l = ln(*p));
            stationary(pi, &log_pi, s, mu, None, &mut scratch);
        }
        Ok(())
    }
}

/// Is every symbol reachable from every other by positive entries of `pi` (S, S)?
fn is_irreducible(pi: &[f64], s: usize) -> bool {
    let reaches_all = |edge: &dyn Fn(usize, usize) -> bool| {
        let (mut seen, mut open) = (vec![false; s], vec![0]);
        seen[0] = true;
        while let Some(a) = open.pop() {
            for b in 0..s {
                if !seen[b] && edge(a, b) {
                    seen[b] = true;
                    open.push(b);
                }
            }
        }
        seen.iter().all(|x| *x)
    };
    reaches_all(&|a, b| pi[a * s + b] > 0.0) && reaches_all(&|a, b| pi[b * s + a] > 0.0)
}

/// The next permutation in lexicographic order; false after the last.
fn next_permutation(p: &mut [usize]) -> bool {
    let Some(i) = (1..p.len()).rev().find(|i| p[i - 1] < p[*i]) else { return false };
    let j = (i..p.len()).rev().find(|j| p[*j] > p[i - 1]).unwrap_or(i);
    p.swap(i - 1, j);
    p[i..].reverse();
    true
}

fn check_symbols(s: usize) -> Result<()> {
    let (low, high) = (CausalTree::MIN_VOCAB, CausalTree::MAX_VOCAB);
    if (low..=high).contains(&s) {
        return Ok(());
    }
    Err(Error::invalid("S", s.to_string(), format!("{low} <= S <= {high}")))
}

fn check_entries(n: Option<usize>, what: &str) -> Result<()> {
    match n {
        Some(n) if n <= MAX_ENTRIES => Ok(()),
        _ => {
            let found =
                n.map_or("more entries of pi than can be counted".into(), |n| format!("{n} entries of pi"));
            Err(Error::invalid(what, found, format!("at most {MAX_ENTRIES}")))
        }
    }
}

fn same_len(field: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::invalid(field, format!("{found} entries"), format!("{expected} for these Q and S")))
}

/// Checks that `p` is a probability vector and divides it by its sum.
fn normalise(p: &mut [f64], name: impl Fn() -> String) -> Result<()> {
    if let Some((i, x)) = p.iter().enumerate().find(|(_, x)| !(**x >= 0.0 && x.is_finite())) {
        return Err(Error::invalid(format!("{}[{i}]", name()), x.to_string(), "finite, >= 0"));
    }
    let total = sum(p);
    if (total - 1.0).abs() > SUM_TOLERANCE {
        return Err(Error::invalid(name(), format!("sums to {total}"), "1 within 1e-12"));
    }
    p.iter_mut().for_each(|x| *x /= total);
    Ok(())
}
