//! Loss and gradients of the simplified model on the exact population, by orbits of words under
//! renaming the symbols.
//!
//! If the prior is symmetric in the symbols and A2 = bI + c11ᵀ, words that differ by a renaming of
//! the symbols have the same loss and the same gradient. One word of each orbit is enough: its
//! query is symbol 0, and every new symbol is the smallest unused one. It represents S (S−1) ..
//! (S−m+1) words, where m is the number of its distinct symbols. Symbols that do not occur in it
//! share one weight, and have f = 0.
//!
//! The gradient of A2 is (∂L/∂b) (I − 11ᵀ/S) / (S − 1), so that gradient descent from such an A2
//! stays in this family; c, which changes no attention, has no gradient.

use super::shards::{Shards, affordable, check_finite, check_weight, identity_and_constant, mix};
use super::{Cost, Prior, Progress};
use crate::task::Forest;
use crate::{Error, Result};
use popgrad_kernels::Elem;

/// Loss and gradients at (A1, b).
#[derive(Debug, Clone, PartialEq)]
pub struct OrbitGradients {
    /// L.
    pub loss: f64,
    /// Σ W: 1 up to rounding.
    pub weight: f64,
    /// −∂L/∂A1 (T, T), zero above the diagonal.
    pub a1: Vec<f64>,
    /// −∂L/∂b, the trace of −∂L/∂A2.
    pub b: f64,
}

impl OrbitGradients {
    /// −∂L/∂A2 (S, S) = b (I − 11ᵀ/S)/(S − 1), row by row.
    pub fn a2(&self, symbols: usize) -> impl Iterator<Item = f64> {
        let (s, b) = (symbols, self.b / (symbols - 1) as f64);
        (0..s * s).map(move |at| if at / s == at % s { b - b / s as f64 } else { -b / s as f64 })
    }
}

/// True if `a2` (S, S) has the form bI + c11ᵀ.
pub fn is_symmetric(a2: &[f64], symbols: usize) -> bool {
    a2.len() == symbols * symbols && identity_and_constant(a2, symbols).is_some()
}

/// The exact population of a forest and a symmetric prior, prepared for many evaluations.
pub struct Orbits<E = f64> {
    shards: Shards<E>,
    mix: Vec<f64>,
    a2: Vec<f64>,
    out: OrbitGradients,
}

/// Canonical words, Σ_{m<=S} Stirling₂(T, m).
pub fn canonical_words(symbols: usize, len: usize) -> f64 {
    // Stirling numbers of one length after the other.
    let mut row = vec![0.0; symbols.min(len) + 1];
    row[0] = 1.0;
    for _ in 0..len {
        for m in (1..row.len()).rev() {
            row[m] = m as f64 * row[m] + row[m - 1];
        }
        row[0] = 0.0;
    }
    row.iter().sum()
}

impl<E: Elem> Orbits<E> {
    /// Cost of an evaluation.
    pub fn cost(forest: &Forest, prior: &Prior) -> Cost {
        let (s, t) = (prior.symbols(), forest.seq_len());
        Cost::new(canonical_words(s, t), s.min(t), t)
    }

    /// Prepares everything that does not depend on A1 and b, including the weights of a finite
    /// prior. `force` allows an evaluation that takes longer than [`Cost::PATIENCE`].
    ///
    /// # Errors
    /// As [`Tree::new`](super::Tree::new); a prior that is not symmetric in the symbols.
    pub fn new(forest: &Forest, prior: &Prior, eps: f64, force: bool) -> Result<Self> {
        prior.check()?;
        affordable(&Self::cost(forest, prior), force)?;
        if !prior.is_relabelling_invariant() {
            return Err(Error::invalid(
                "prior",
                "it tells symbols apart",
                "one that is invariant under relabelling",
            ));
        }
        let (s, t) = (prior.symbols(), forest.seq_len());
        let out = OrbitGradients { loss: 0.0, weight: 0.0, a1: vec![0.0; t * t], b: 0.0 };
        let shards = Shards::new(forest, prior, eps, true)?;
        Ok(Orbits { shards, mix: vec![0.0; t * t], a2: vec![0.0; s * s], out })
    }

    /// Canonical words.
    pub fn words(&self) -> u64 {
        self.shards.words()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.shards.bytes()
    }

    /// L, Σ W, −∂L/∂A1 and −∂L/∂b at `a1` (T, T) and A2 = bI. Allocates nothing when called again
    /// inside a pool.
    ///
    /// # Errors
    /// A1 of another size, values that are not finite, a b that overflows exponentials.
    pub fn gradients(&mut self, a1: &[f64], b: f64) -> Result<&OrbitGradients> {
        self.gradients_with(a1, b, None)
    }

    /// The same; calls `progress` from the worker threads.
    ///
    /// # Errors
    /// As [`Self::gradients`].
    pub fn gradients_with(
        &mut self,
        a1: &[f64],
        b: f64,
        progress: Option<&(dyn Fn(Progress) + Sync)>,
    ) -> Result<&OrbitGradients> {
        let (s, t) = (self.shards.symbols, self.shards.len);
        mix(a1, t, &mut self.mix)?;
        if !b.is_finite() {
            return Err(Error::invalid("b", b.to_string(), "finite"));
        }
        // Only the first row is read.
        self.a2[0] = b;
        self.shards.sum(&self.mix, &self.a2, 1, progress)?;
        let (out, total) = (&mut self.out, self.shards.total(0));
        out.loss = s as f64 * total.loss();
        out.weight = s as f64 * total.weight();
        check_weight::<E>(out.weight)?;
        out.a1.fill(0.0);
        self.shards.add_a1(0, &self.mix, &self.a2[..s], s as f64, &mut out.a1);
        out.b = s as f64 * self.shards.a2(0, &self.mix, 0);
        check_finite(self.shards.eps, out.loss, out.a1.iter().chain([&out.b]))?;
        Ok(&self.out)
    }

    /// [`Self::gradients`] at an A2 (S, S) that is bI + c11ᵀ.
    ///
    /// # Errors
    /// As [`Self::gradients`]; an A2 that does not have that form.
    pub fn gradients_at(&mut self, a1: &[f64], a2: &[f64]) -> Result<&OrbitGradients> {
        let s = self.shards.symbols;
        if a2.len() != s * s {
            return Err(Error::invalid("A2", format!("{} entries", a2.len()), format!("{}", s * s)));
        }
        let Some((b, _)) = identity_and_constant(a2, s) else {
            return Err(Error::invalid(
                "A2",
                "not of the form bI + c11ᵀ",
                "one value on the diagonal, one off it",
            ));
        };
        self.gradients(a1, b)
    }
}
