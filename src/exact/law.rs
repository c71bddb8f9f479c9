//! Laws of whole words with their target, for sources that enumerate a task.
//!
//! Words are numbered: token 0 is the most significant digit in base S, the query the least.

use super::{FinitePrior, Prior, RootLaw};
use crate::task::Forest;
use crate::{Error, Result};
use std::collections::HashMap;

/// The joint law of a word s and its target symbol s', with π integrated out: W(s, s') =
/// E_π\[P(s | π) π(s' | ..)\].
///
/// Implemented for trees by [`TreeLaw`], for several parents per position by
/// [`DagLaw`](super::DagLaw).
pub trait WordLaw: Send + Sync {
    /// T, the query included.
    fn seq_len(&self) -> usize;
    /// S.
    fn vocab(&self) -> usize;
    /// Writes W of the words `first ..` into `out` (n, S). The sum over all words and s' is 1.
    ///
    /// # Panics
    /// If `out` does not hold whole rows, or goes past the last word.
    fn weights(&self, first: u64, out: &mut [f64]);
}

/// S^T; `None` if it overflows.
pub fn word_count(symbols: usize, len: usize) -> Option<u64> {
    u32::try_from(len).ok().and_then(|t| (symbols as u64).checked_pow(t))
}

/// Writes the tokens (T) of word `number`.
pub fn spell(number: u64, symbols: usize, tokens: &mut [u32]) {
    let (s, mut rest) = (symbols as u64, number);
    for c in tokens.iter_mut().rev() {
        *c = (rest % s) as u32;
        rest /= s;
    }
}

/// Replaces the tokens of a word by those of the next one; word 0 follows the last.
pub fn advance(symbols: usize, tokens: &mut [u32]) {
    for c in tokens.iter_mut().rev() {
        *c += 1;
        if (*c as usize) < symbols {
            return;
        }
        *c = 0;
    }
}

/// The causal-tree task under any prior: query uniform, target π(·|query).
///
/// W depends on the word through its counts of transitions and of roots and its query.
#[derive(Debug, Clone)]
pub struct TreeLaw {
    forest: Forest,
    prior: Prior,
    /// Powers 0 .. T−1 of every entry of π and of the root law, (S² + S, T, Q), for finite priors.
    powers: Vec<f64>,
}

/// Largest table of powers (128 MiB).
const MAX_POWERS: usize = 1 << 24;

impl TreeLaw {
    /// The law of words over `forest` under `prior`.
    ///
    /// # Errors
    /// A Dirichlet prior with fields out of range; a finite one with so many atoms that their
    /// powers exceed 128 MiB.
    pub fn new(forest: Forest, prior: Prior) -> Result<Self> {
        prior.check()?;
        let powers = match &prior {
            Prior::Dirichlet { .. } => Vec::new(),
            Prior::Finite(p) => powers(p, forest.seq_len())?,
        };
        Ok(TreeLaw { forest, prior, powers })
    }

    /// The forest.
    pub fn forest(&self) -> &Forest {
        &self.forest
    }

    /// The prior.
    pub fn prior(&self) -> &Prior {
        &self.prior
    }

    /// Transition counts (S, S), then root counts (S).
    fn count(&self, tokens: &[u32], counts: &mut [u32]) {
        let s = self.prior.symbols();
        counts.fill(0);
        for (i, p) in self.forest.parents().iter().enumerate() {
            let b = tokens[i] as usize;
            counts[p.map_or(s * s, |p| tokens[p] as usize * s) + b] += 1;
        }
    }

    /// One factor for each position: the probability of its token given the earlier ones.
    fn dirichlet(&self, alpha: f64, roots: RootLaw, tokens: &[u32], counts: &mut [f64], out: &mut [f64]) {
        let s = self.prior.symbols();
        counts.fill(0.0);
        let mut w = 1.0 / s as f64;
        for (i, p) in self.forest.parents().iter().enumerate() {
            let b = tokens[i] as usize;
            if p.is_none() && roots == RootLaw::Uniform {
                w /= s as f64;
                continue;
            }
            let row = &mut counts[p.map_or(s, |p| tokens[p] as usize) * (s + 1)..][..s + 1];
            w *= (alpha + row[b]) / (s as f64 * alpha + row[s]);
            row[b] += 1.0;
            row[s] += 1.0;
        }
        let row = &counts[tokens[tokens.len() - 1] as usize * (s + 1)..][..s + 1];
        let w = w / (s as f64 * alpha + row[s]);
        out.iter_mut().zip(row).for_each(|(o, n)| *o = w * (alpha + n));
    }

    /// Σ_q w_q Π_ab π_ab^{N_ab} Π_a μ_a^{R_a} π(·|query) / S.
    fn finite(&self, p: &FinitePrior, query: usize, counts: &[u32], scratch: &mut [f64], out: &mut [f64]) {
        let (s, t, q) = (p.symbols(), self.forest.seq_len(), p.atoms());
        scratch.copy_from_slice(p.weight());
        for (e, n) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
            let power = &self.powers[(e * t + *n as usize) * q..][..q];
            scratch.iter_mut().zip(power).for_each(|(w, x)| *w *= x);
        }
        for (b, out) in out.iter_mut().enumerate() {
            let row = &self.powers[((query * s + b) * t + 1) * q..][..q];
            let total: crate::num::Sum = scratch.iter().zip(row).map(|(w, x)| w * x).collect();
            *out = total.value() / s as f64;
        }
    }
}

fn powers(p: &FinitePrior, t: usize) -> Result<Vec<f64>> {
    let (s, q) = (p.symbols(), p.atoms());
    let len = (s * s + s).checked_mul(t).and_then(|n| n.checked_mul(q)).filter(|n| *n <= MAX_POWERS);
    let Some(len) = len else {
        let found = format!("{q} atoms with S = {s}, T = {t}");
        return Err(Error::invalid("prior", found, format!("(S^2 + S) T Q <= {MAX_POWERS}")));
    };
    let mut powers = vec![1.0; len];
    for e in 0..s * s + s {
        let block = &mut powers[e * t * q..][..t * q];
        for n in 1..t {
            let (low, high) = block.split_at_mut(n * q);
            let old = &low[(n - 1) * q..];
            for (a, (new, old)) in high[..q].iter_mut().zip(old).enumerate() {
                *new = old * if e < s * s { p.atom_pi(a)[e] } else { p.atom_roots(a)[e - s * s] };
            }
        }
    }
    Ok(powers)
}

impl WordLaw for TreeLaw {
    fn seq_len(&self) -> usize {
        self.forest.seq_len()
    }

    fn vocab(&self) -> usize {
        self.prior.symbols()
    }

    fn weights(&self, first: u64, out: &mut [f64]) {
        let (s, t) = (self.vocab(), self.seq_len());
        let n = (out.len() / s) as u64;
        let fits = word_count(s, t).is_some_and(|all| first <= all && n <= all - first);
        assert!(out.len().is_multiple_of(s) && fits, "not rows of words of this task");
        let mut tokens = vec![0; t];
        spell(first, s, &mut tokens);
        match &self.prior {
            Prior::Dirichlet { alpha, roots, .. } => {
                let mut counts = vec![0.0; (s + 1) * (s + 1)];
                for out in out.chunks_exact_mut(s) {
                    self.dirichlet(*alpha, *roots, &tokens, &mut counts, out);
                    advance(s, &mut tokens);
                }
            }
            Prior::Finite(p) => {
                // Far fewer count vectors than words.
                let mut seen: HashMap<Vec<u32>, usize> = HashMap::new();
                let mut values: Vec<f64> = Vec::new();
                let mut key = vec![0; s * s + s + 1];
                let mut scratch = vec![0.0; p.atoms()];
                for out in out.chunks_exact_mut(s) {
                    let query = tokens[t - 1];
                    self.count(&tokens, &mut key[..s * s + s]);
                    key[s * s + s] = query;
                    let at = match seen.get(&key) {
                        Some(at) => *at,
                        None => {
                            let at = values.len();
                            values.resize(at + s, 0.0);
                            let counts = &key[..s * s + s];
                            self.finite(p, query as usize, counts, &mut scratch, &mut values[at..]);
                            seen.insert(key.clone(), at);
                            at
                        }
                    };
                    out.copy_from_slice(&values[at..at + s]);
                    advance(s, &mut tokens);
                }
            }
        }
    }
}
