//! Priors over the transition matrix π of the causal-tree task (paper 1, arXiv 2402.14735), in the
//! forms that can be integrated exactly.
//!
//! | symbol | name | shape |
//! |---|---|---|
//! | w | `weight`: probability of each atom | (Q) |
//! | π | `pi`: transition matrices, row = from | (Q, S, S) |
//! | μ | `roots`: law of the root tokens under each π | (Q, S) |

use crate::num::{check_alpha, ln, sum};
use crate::task::dirichlet::raised;
use crate::task::stationary::{StationaryScratch, stationary};
use crate::task::{CausalTree, Roots};
use crate::{Error, Result};

/// Largest distance of a sum of given probabilities from 1; they are then normalised.
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
/// Dirichlet rows whose roots follow the stationary law have no closed form: see `quadrature` for S
/// = 2.
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
    /// When S is not an alphabet size of the task, or α outside \[[`MIN_ALPHA`], [`MAX_ALPHA`]\].
    ///
    /// [`MIN_ALPHA`]: crate::num::MIN_ALPHA
    /// [`MAX_ALPHA`]: crate::num::MAX_ALPHA
    pub fn dirichlet(symbols: usize, alpha: f64, roots: RootLaw) -> Result<Self> {
        let prior = Prior::Dirichlet { symbols, alpha, roots };
        prior.check()?;
        Ok(prior)
    }

    /// Checks the fields of a `Dirichlet` written down by hand; a finite prior is checked when
    /// made.
    ///
    /// # Errors
    /// As [`Prior::dirichlet`].
    pub fn check(&self) -> Result<()> {
        if let Prior::Dirichlet { symbols, alpha, .. } = *self {
            check_symbols(symbols)?;
            check_alpha(alpha)?;
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

    /// True if any permutation of the symbols leaves the law of (π, μ) unchanged.
    pub fn is_relabelling_invariant(&self) -> bool {
        match self {
            Prior::Dirichlet { .. } => true,
            Prior::Finite(p) => p.is_relabelling_invariant(),
        }
    }

    /// True if E π = 11ᵀ/S.
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
pub(super) enum Kind {
    Stationary,
    Other,
}

/// A mixture of finitely many transition matrices, each with its root law.
#[derive(Debug, Clone, PartialEq)]
pub struct FinitePrior {
    pub(super) symbols: usize,
    pub(super) weight: Vec<f64>,
    pub(super) pi: Vec<f64>,
    pub(super) roots: Vec<f64>,
    pub(super) kind: Kind,
}

impl FinitePrior {
    /// The mixture of matrices `pi` (Q, S, S) with probabilities `weight` (Q) over `symbols` (S).
    ///
    /// Weights, rows and root laws may miss the sum 1 by [`SUM_TOLERANCE`]; they are normalised.
    ///
    /// # Errors
    /// Lengths that do not fit, an entry that is negative or not finite, a sum that is not 1, a
    /// reducible π where the roots are stationary, too many entries. The message names `weight[q]`,
    /// `pi[q][s]`, `pi[q][s][s']` or `roots[q]`.
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

    /// These matrices as those of a task: rows raised by γ where the prior is floored, roots by
    /// `roots`.
    ///
    /// # Errors
    /// As [`FinitePrior::floored`].
    pub fn of_task(&self, gamma: Option<f64>, roots: Roots) -> Result<Self> {
        let law = match roots {
            Roots::Stationary => AtomRoots::Stationary,
            Roots::Uniform => AtomRoots::Uniform,
        };
        match gamma {
            Some(gamma) => self.floored(gamma, law),
            // As they are: their stationary laws are accurate to the last bit.
            None if roots == Roots::Stationary && self.kind == Kind::Stationary => Ok(self.clone()),
            None => Self::new(self.symbols, self.weight.clone(), self.pi.clone(), law),
        }
    }

    /// Every row p replaced by γ/S + (1 − γ) p, with the root laws `roots`.
    ///
    /// # Errors
    /// γ outside [0, 1]; root laws that do not fit.
    pub fn floored(&self, gamma: f64, roots: AtomRoots) -> Result<Self> {
        if !(0.0..=1.0).contains(&gamma) {
            return Err(Error::invalid("gamma", gamma.to_string(), "0 <= gamma <= 1"));
        }
        let pi = self.pi.iter().map(|p| raised(*p, gamma, self.symbols)).collect();
        Self::new(self.symbols, self.weight.clone(), pi, roots)
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

    pub(super) fn set_stationary(&mut self) -> Result<()> {
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

/// True if every symbol is reachable from every other through positive entries of `pi` (S, S).
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

fn check_symbols(s: usize) -> Result<()> {
    let (low, high) = (CausalTree::MIN_VOCAB, CausalTree::MAX_VOCAB);
    if (low..=high).contains(&s) {
        return Ok(());
    }
    Err(Error::invalid("S", s.to_string(), format!("{low} <= S <= {high}")))
}

pub(super) fn check_entries(n: Option<usize>, what: &str) -> Result<()> {
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
