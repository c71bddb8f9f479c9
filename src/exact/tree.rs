//! Loss and gradients of the simplified model on the exact population, by a prefix tree over all
//! S^T words.
//!
//! | symbol | name | shape |
//! |---|---|---|
//! | A1, A2 | `a1`, `a2` | (T, T), (S, S); A1 above the diagonal is not read |
//! | M | `mix` | (T, T), softmax over j <= i of A1\[i, j\] |
//! | W, f, L | | as in [`brute`](super::brute), which computes the same word by word |
//!
//! Words with a common prefix share its work: O(S) operations per word instead of O(T²). The sums
//! are compensated across prefixes.

use super::brute::Gradients;
use super::shards::{Shards, affordable, check_finite, check_weight, identity_and_constant, mix};
use super::{Prior, Progress};
use crate::task::Forest;
use crate::{Error, Result};
use popgrad_kernels::Elem;

/// Estimated cost of an exact evaluation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Words visited.
    pub words: f64,
    /// Seconds per loss and gradient on the threads of the current pool; an order of magnitude.
    pub seconds: f64,
    /// Approximate number of bytes held.
    pub bytes: f64,
}

impl Cost {
    /// Evaluations estimated to take more seconds than this are refused unless forced.
    pub const PATIENCE: f64 = 3600.0;

    /// Seconds per word on one thread, by the number of symbols. Measured in f64 on a CPU that runs
    /// AVX-512 operations as two halves.
    fn per_word(symbols: usize) -> f64 {
        match symbols {
            2 => 5e-9,
            3 => 8e-9,
            4 => 10e-9,
            n => 5e-9 * n as f64,
        }
    }

    pub(super) fn new(words: f64, symbols: usize, len: usize) -> Self {
        let threads = rayon::current_num_threads() as f64;
        // Shards with their sums and classes, and a list of prefixes.
        let bytes = 64.0 * (16 * len * len * symbols + (1 << 18)) as f64 + words / 1000.0 * len as f64;
        Cost { words, seconds: words * Self::per_word(symbols) / threads, bytes }
    }
}

/// The exact population of a forest and a prior, prepared for many evaluations.
pub struct Tree<E = f64> {
    shards: Shards<E>,
    symmetric: bool,
    mix: Vec<f64>,
    out: Gradients,
}

impl<E: Elem> Tree<E> {
    /// Cost of an evaluation. `symmetric`: only one query instead of S is summed, which is enough
    /// if `a2` is bI + c11ᵀ and the prior is symmetric.
    pub fn cost(forest: &Forest, prior: &Prior, symmetric: bool) -> Cost {
        let (s, t) = (prior.symbols(), forest.seq_len());
        Cost::new((s as f64).powi(t as i32 - i32::from(symmetric)), s, t)
    }

    /// Prepares everything that does not depend on A1 and A2, including the weights of a finite
    /// prior. `force` allows an evaluation that takes longer than [`Cost::PATIENCE`].
    ///
    /// # Errors
    /// ε or a prior out of range; [`Error::TooLong`]; more words than can be
    /// listed.
    pub fn new(forest: &Forest, prior: &Prior, eps: f64, force: bool) -> Result<Self> {
        prior.check()?;
        let symmetric = prior.is_relabelling_invariant();
        affordable(&Self::cost(forest, prior, symmetric), force)?;
        let (s, t) = (prior.symbols(), forest.seq_len());
        let out = Gradients { loss: 0.0, weight: 0.0, a1: vec![0.0; t * t], a2: vec![0.0; s * s] };
        let shards = Shards::new(forest, prior, eps, false)?;
        Ok(Tree { shards, symmetric, mix: vec![0.0; t * t], out })
    }

    /// Words of all queries, S^T.
    pub fn words(&self) -> u64 {
        self.shards.words() * self.shards.symbols as u64
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.shards.bytes()
    }

    /// L, Σ W, −∂L/∂A1 and −∂L/∂A2 at `a1` (T, T), `a2` (S, S). Note the sign: these are minus the
    /// gradients. Allocates nothing in later calls inside the same pool.
    ///
    /// # Errors
    /// Operands of the wrong size or not finite; a row of A2 whose range overflows exponentials,
    /// above [`Walk::MOST_RANGE`](popgrad_kernels::prefix_tree::Walk::MOST_RANGE); probabilities
    /// that do not sum to 1.
    pub fn gradients(&mut self, a1: &[f64], a2: &[f64]) -> Result<&Gradients> {
        self.gradients_with(a1, a2, None)
    }

    /// The same; calls `progress` from the worker threads.
    ///
    /// # Errors
    /// As [`Self::gradients`].
    pub fn gradients_with(
        &mut self,
        a1: &[f64],
        a2: &[f64],
        progress: Option<&(dyn Fn(Progress) + Sync)>,
    ) -> Result<&Gradients> {
        let (s, t) = (self.shards.symbols, self.shards.len);
        mix(a1, t, &mut self.mix)?;
        if a2.len() != s * s {
            return Err(Error::invalid("A2", format!("{} entries", a2.len()), format!("{}", s * s)));
        }
        if !a2.iter().all(|x| x.is_finite()) {
            return Err(Error::invalid("A2", "an entry that is not finite", "finite"));
        }
        let alike = self.symmetric && identity_and_constant(a2, s).is_some();
        let (queries, scale) = if alike { (1, s as f64) } else { (s, 1.0) };
        self.shards.sum(&self.mix, a2, queries, progress)?;
        let out = &mut self.out;
        (out.loss, out.weight) = (0.0, 0.0);
        out.a1.fill(0.0);
        for k in 0..queries {
            let total = self.shards.total(k);
            out.loss += scale * total.loss();
            out.weight += scale * total.weight();
            self.shards.add_a1(k, &self.mix, &a2[k * s..(k + 1) * s], scale, &mut out.a1);
            for c in 0..s {
                out.a2[k * s + c] = self.shards.a2(k, &self.mix, c);
            }
        }
        check_weight::<E>(out.weight)?;
        check_finite(self.shards.eps, out.loss, out.a1.iter().chain(&out.a2))?;
        if alike {
            // Every row is the first with symbols renamed, and its entries off the diagonal are
            // equal.
            let (d, rest) = (out.a2[0], out.a2[1..s].iter().sum::<f64>() / (s - 1) as f64);
            for (at, x) in out.a2.iter_mut().enumerate() {
                *x = if at / s == at % s { d } else { rest };
            }
        }
        Ok(&self.out)
    }
}
