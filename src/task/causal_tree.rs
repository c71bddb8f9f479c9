//! In-context learning of a forest of Markov transitions (paper 1, arXiv 2402.14735; `InContextTree` in its code).
//!
//! Per sequence: rows π(·|s) i.i.d. Dirichlet(α,..,α); in order, s_i ~ root law for a root i, else
//! s_i ~ π(·|s_{p(i)}); the query s_{T-1} uniform and independent; target π(·|s_{T-1}).
//!
//! | symbol | name | shape |
//! |---|---|---|
//! | π | `pi`, `log_pi`: transition probabilities, row = from | (S, S) |
//! | μ | `mu`: stationary law of π | (S) |
//! | p | `forest`: parents of the positions 0..T-2 | (T-1) |

use super::graph::Forest;
use super::stationary::{StationaryScratch, stationary};
use super::{Sampler, Task, Work};
use crate::num::{exp, ln};
use crate::rng::{Key, LogGamma, lemire, unit};
use crate::{Error, Result};

/// The law of root tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Roots {
    /// μ, the stationary law of π (the paper).
    Stationary,
    /// Uniform on the alphabet, independent of π.
    Uniform,
}

/// The task: forest, alphabet, prior and root law.
#[derive(Debug, Clone, PartialEq)]
pub struct CausalTree {
    forest: Forest,
    vocab: usize,
    roots: Roots,
    gamma: LogGamma,
}

/// Variate of π(b|a) is this plus aS + b; the tokens use the variates below it, two positions to a variate.
/// Frozen, like everything that says which random bits go where.
const PI_VARIATES: u32 = 1 << 31;

impl CausalTree {
    /// Smallest alphabet.
    pub const MIN_VOCAB: usize = 2;
    /// Largest alphabet: π then takes 8 MiB per copy, and S² gamma variates per sequence.
    pub const MAX_VOCAB: usize = 1024;

    /// The task over `forest` with `vocab` (S) symbols and concentration `alpha`.
    ///
    /// # Errors
    /// When S is outside [`MIN_VOCAB`](Self::MIN_VOCAB)..=[`MAX_VOCAB`](Self::MAX_VOCAB) or α outside
    /// [`LogGamma::MIN_ALPHA`]..=[`LogGamma::MAX_ALPHA`]. (T is checked by [`Forest`].)
    pub fn new(forest: Forest, vocab: usize, alpha: f64, roots: Roots) -> Result<Self> {
        if !(Self::MIN_VOCAB..=Self::MAX_VOCAB).contains(&vocab) {
            let allowed = format!("{} <= S <= {}", Self::MIN_VOCAB, Self::MAX_VOCAB);
            return Err(Error::invalid("S", vocab.to_string(), allowed));
        }
        Ok(CausalTree { forest, vocab, roots, gamma: LogGamma::new(alpha)? })
    }

    /// The forest.
    pub fn forest(&self) -> &Forest {
        &self.forest
    }

    /// Dirichlet concentration α (every entry the same).
    pub fn alpha(&self) -> f64 {
        self.gamma.alpha()
    }

    /// The law of root tokens.
    pub fn roots(&self) -> Roots {
        self.roots
    }

    /// Storage for [`sample`](Self::sample).
    pub fn work(&self) -> CausalTreeWork {
        let s = self.vocab;
        CausalTreeWork {
            vocab: s,
            has_mu: false,
            log_pi: vec![0.0; s * s],
            pi: vec![0.0; s * s],
            cumulated: vec![0.0; s * s],
            mu: vec![0.0; s],
            mu_cumulated: vec![0.0; s],
            scratch: StationaryScratch::new(s),
        }
    }

    /// Sample number `n` under `key`: `tokens` (T), and `target` (S) = π(·|query), which sums to 1 up to rounding
    /// (S/2 ulp) and may have exact zeros. Depends on the key, `n` and the task only. π and μ stay readable in `work`.
    ///
    /// Allocates nothing.
    ///
    /// # Panics
    /// When `tokens`, `target` or `work` do not fit the task.
    pub fn sample(
        &self,
        key: &Key,
        n: u64,
        work: &mut CausalTreeWork,
        tokens: &mut [u32],
        target: &mut [f64],
    ) {
        let (s, t) = (self.vocab, self.seq_len());
        assert!(tokens.len() == t && target.len() == s, "outputs do not fit the task");
        assert_eq!(work.vocab, s, "work storage of another task");
        self.draw_pi(key, n, work);
        work.has_mu = self.roots == Roots::Stationary;
        if work.has_mu {
            stationary(&work.pi, &work.log_pi, s, &mut work.mu, None, &mut work.scratch);
            cumulate(&work.mu, &mut work.mu_cumulated);
        }
        let mut block = [0; 2];
        for i in 0..t {
            if i % 2 == 0 {
                block = key.block(n, (i / 2) as u32, 0);
            }
            let word = block[i % 2];
            let parent = if i + 1 < t { self.forest.parent(i) } else { None };
            tokens[i] = match parent {
                Some(p) => {
                    let row = tokens[p] as usize * s;
                    invert(&work.cumulated[row..row + s], unit(word))
                }
                None if work.has_mu && i + 1 < t => invert(&work.mu_cumulated, unit(word)),
                // Rejected about once in 2^64 / S words.
                None => lemire(word, s as u64)
                    .unwrap_or_else(|| key.below(s as u64, n, (i / 2) as u32, i % 2))
                    as u32,
            };
        }
        let row = tokens[t - 1] as usize * s;
        target.copy_from_slice(&work.pi[row..row + s]);
    }

    /// π by normalising gamma variates on the log scale: at α = 10⁻³ most of them underflow as plain numbers, and a
    /// whole row would be 0/0 now and then.
    fn draw_pi(&self, key: &Key, n: u64, work: &mut CausalTreeWork) {
        let s = self.vocab;
        self.gamma.fill(key, n, PI_VARIATES, &mut work.log_pi);
        let rows = work.log_pi.chunks_exact_mut(s).zip(work.pi.chunks_exact_mut(s));
        for ((log_row, row), cumulated) in rows.zip(work.cumulated.chunks_exact_mut(s)) {
            let max = log_row.iter().fold(f64::NEG_INFINITY, |m, &y| if y > m { y } else { m });
            for (p, y) in row.iter_mut().zip(log_row.iter_mut()) {
                *y -= max;
                *p = exp(*y);
            }
            // The prefix sums serve as the unnormalised distribution function; the last one normalises.
            let total = cumulate(row, cumulated);
            let (log_total, scale) = (ln(total), 1.0 / total);
            for (p, y) in row.iter_mut().zip(log_row.iter_mut()) {
                *p *= scale;
                *y -= log_total;
            }
        }
    }
}

impl Task for CausalTree {
    fn name(&self) -> &'static str {
        "causal_tree"
    }
    fn seq_len(&self) -> usize {
        self.forest.seq_len()
    }
    fn vocab(&self) -> usize {
        self.vocab
    }
}

impl Sampler for CausalTree {
    fn new_work(&self) -> Work {
        Work::new(self.work())
    }

    fn samples(&self, key: &Key, first: u64, work: &mut Work, tokens: &mut [u32], targets: &mut [f64]) {
        let (t, s) = (self.seq_len(), self.vocab);
        let n = tokens.len() / t;
        assert!(tokens.len() == n * t && targets.len() == n * s, "outputs are not whole rows");
        let work: &mut CausalTreeWork = work.get();
        for (i, (tokens, target)) in tokens.chunks_exact_mut(t).zip(targets.chunks_exact_mut(s)).enumerate() {
            self.sample(key, first.wrapping_add(i as u64), work, tokens, target);
        }
    }
}

/// What one sample needed: π and μ of the latest sample, and scratch. Made by [`CausalTree::work`].
#[derive(Debug, Clone)]
pub struct CausalTreeWork {
    vocab: usize,
    has_mu: bool,
    log_pi: Vec<f64>,
    pi: Vec<f64>,
    cumulated: Vec<f64>,
    mu: Vec<f64>,
    mu_cumulated: Vec<f64>,
    scratch: StationaryScratch,
}

impl CausalTreeWork {
    /// π of the latest sample, (S, S) row-major; entries below 10⁻³⁰⁸ underflow.
    pub fn pi(&self) -> &[f64] {
        &self.pi
    }
    /// ln π of the latest sample, (S, S) row-major, all finite.
    pub fn log_pi(&self) -> &[f64] {
        &self.log_pi
    }
    /// μ of the latest sample (S); `None` if the roots are uniform, where it is not computed.
    pub fn mu(&self) -> Option<&[f64]> {
        self.has_mu.then_some(&self.mu)
    }
}

/// Prefix sums of `p` into `out`; returns the total.
pub(super) fn cumulate(p: &[f64], out: &mut [f64]) -> f64 {
    let mut total = 0.0;
    for (c, &x) in out.iter_mut().zip(p) {
        total += x;
        *c = total;
    }
    total
}

/// The symbol of a uniform `u` in (0,1), given prefix sums: the number of prefix sums not above u·total.
///
/// u ≤ 1 - 2⁻⁵³ keeps the rounded product below the total, so the result is a symbol, and one of positive
/// probability: its prefix sum exceeds the previous one. Counting instead of searching: no branch to mispredict.
pub(super) fn invert(cumulated: &[f64], u: f64) -> u32 {
    let level = u * cumulated[cumulated.len() - 1];
    cumulated.iter().map(|&c| u32::from(c <= level)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inversion_never_picks_an_impossible_symbol() {
        let p = [0.0, 0.25, 0.0, 0.5, 0.0];
        let mut c = [0.0; 5];
        cumulate(&p, &mut c);
        for (u, symbol) in [(unit(0), 1), (0.3, 1), (0.34, 3), (unit(u64::MAX), 3)] {
            assert_eq!(invert(&c, u), symbol);
        }
        // Totals on both sides of a power of two, the largest u.
        for total in [0.5, 1.0 - 2f64.powi(-53), 1.0, 1.0 + f64::EPSILON, 2.0, 1e-300] {
            assert_eq!(invert(&[0.0, total, total], unit(u64::MAX)), 1);
        }
    }

    #[test]
    fn limits_are_checked() {
        let f = || Forest::chain(3).unwrap();
        let message = |s, a| CausalTree::new(f(), s, a, Roots::Uniform).unwrap_err().to_string();
        assert_eq!(message(1, 0.1), "S: 1; allowed: 2 <= S <= 1024");
        assert!(message(1025, 0.1).starts_with("S: 1025"));
        for a in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e4] {
            assert!(message(2, a).starts_with("alpha: "));
        }
    }
}
