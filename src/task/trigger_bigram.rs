//! Bigram sequences with in-context triggers (Bietti et al. 2023, arXiv 2306.00802, section 3).
//!
//! Per sequence: triggers q_1..q_K, each with an output o_k; z_1 ~ π_u, then z_{t+1} = o_k if z_t =
//! q_k, else z_{t+1} ~ π_b(·|z_t). What follows a trigger is to be learned from the context,
//! everything else from the weights.
//!
//! | symbol | name | shape |
//! |---|---|---|
//! | π_u, π_b | `unigram`, `bigram` (row = from) | (N), (N, N) |
//! | z_1..z_{L+1} | `tokens`: inputs are the first L, labels the last L | (L+1) |
//! | outs_t | `seen`: how often z_t, if a trigger, has occurred up to and including t; else 0 | (L) |

mod lanes;

pub use lanes::TriggerBigramBlock;

use super::alias::{Alias, AliasRows};
use super::stationary::{StationaryScratch, stationary};
use crate::num::exp;
use crate::rng::{Key, LogGamma, Purpose, lemire, unit};
use crate::{Error, Result};

/// A law of sequences: first symbol, then one transition a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Bigrams {
    unigram: Vec<f64>,
    bigram: Vec<f64>,
}

impl Bigrams {
    /// From π_u (N) and π_b (N, N), rows that sum to 1 within 1e-9.
    ///
    /// # Errors
    /// Lengths that do not fit, N outside 2 to 1024, entries that are negative or not finite, rows
    /// that do not sum to 1.
    pub fn new(unigram: Vec<f64>, bigram: Vec<f64>) -> Result<Self> {
        let n = unigram.len();
        if !(2..=1024).contains(&n) {
            return Err(Error::invalid("N", n.to_string(), "2 <= N <= 1024"));
        }
        if bigram.len() != n * n {
            return Err(Error::invalid("bigram", format!("{} entries", bigram.len()), format!("{n} x {n}")));
        }
        for (name, law) in
            std::iter::once(("unigram", &unigram[..])).chain(bigram.chunks(n).map(|r| ("bigram", r)))
        {
            let sum = crate::num::sum(law);
            if law.iter().any(|p| !(*p >= 0.0 && p.is_finite())) || (sum - 1.0).abs() > 1e-9 {
                return Err(Error::invalid(name, format!("a law of sum {sum}"), "probabilities of sum 1"));
            }
        }
        Ok(Bigrams { unigram, bigram })
    }

    /// Rows drawn i.i.d. Dirichlet(α, .., α) under `seed`, π_u their stationary law.
    ///
    /// # Errors
    /// N outside 2 to 1024, α out of range.
    pub fn dirichlet(symbols: usize, alpha: f64, seed: u64) -> Result<Self> {
        if !(2..=1024).contains(&symbols) {
            return Err(Error::invalid("N", symbols.to_string(), "2 <= N <= 1024"));
        }
        let (gamma, key, n) = (LogGamma::new(alpha)?, Key::new(seed, Purpose::Task), symbols);
        let mut log_pi = vec![0.0; n * n];
        gamma.fill(&key, 0, 0, &mut log_pi);
        let mut pi = vec![0.0; n * n];
        for (row, log_row) in pi.chunks_exact_mut(n).zip(log_pi.chunks_exact_mut(n)) {
            let max = log_row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            log_row.iter_mut().for_each(|y| *y -= max);
            row.iter_mut().zip(&*log_row).for_each(|(p, y)| *p = exp(*y));
            let total = crate::num::sum(row);
            row.iter_mut().for_each(|p| *p /= total);
            log_row.iter_mut().for_each(|y| *y -= crate::num::ln(total));
        }
        let mut mu = vec![0.0; n];
        stationary(&pi, &log_pi, n, &mut mu, None, &mut StationaryScratch::new(n));
        Bigrams::new(mu, pi)
    }

    /// N.
    pub fn vocab(&self) -> usize {
        self.unigram.len()
    }

    /// π_u (N).
    pub fn unigram(&self) -> &[f64] {
        &self.unigram
    }

    /// π_b(·|row), (N, N).
    pub fn bigram(&self) -> &[f64] {
        &self.bigram
    }
}

/// Which symbols are triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Triggers {
    /// The K symbols of largest π_u after leaving out the `offset` most frequent ones; ties go to
    /// the smaller symbol.
    Fixed {
        /// K.
        count: usize,
        /// Symbols left out.
        offset: usize,
    },
    /// K symbols drawn anew for each sequence from π_u, without replacement.
    Random {
        /// K.
        count: usize,
    },
}

/// The law of a trigger's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// Uniform on the alphabet.
    Uniform,
    /// π_b(·|q).
    Bigram,
}

/// What may follow a trigger.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputLaw {
    /// Its law, before the exclusions below.
    pub law: Outputs,
    /// Excludes o_k = q_k.
    pub no_repeat: bool,
    /// Symbols that may be outputs (N); all where empty. With a set for training and its complement
    /// for testing, a model is asked to copy symbols that it never had to copy.
    pub allowed: Vec<bool>,
}

/// The task.
#[derive(Debug, Clone)]
pub struct TriggerBigram {
    laws: Bigrams,
    len: usize,
    triggers: Triggers,
    outputs: OutputLaw,
    fixed: Vec<u32>,
    first: Alias,
    next: AliasRows,
}

/// Token i takes word i % 2 of variate i / 2; trigger and output k of the sequence take the
/// variates below. Frozen.
const TRIGGER_VARIATES: u32 = 1 << 30;
const OUTPUT_VARIATES: u32 = 1 << 31;

/// Of a symbol that is no trigger.
const NONE: u32 = u32::MAX;

/// Storage for [`TriggerBigram::sample`]; afterwards it tells the triggers of the latest sequence.
#[derive(Debug, Clone)]
pub struct TriggerBigramWork {
    /// Output of each symbol (N), `NONE` if it is no trigger, and its occurrences so far.
    output: Vec<u32>,
    seen: Vec<u32>,
    triggers: Vec<u32>,
    outputs: Vec<u32>,
}

impl TriggerBigramWork {
    /// q_1..q_K of the latest sequence.
    pub fn triggers(&self) -> &[u32] {
        &self.triggers
    }

    /// o_1..o_K of the latest sequence.
    pub fn outputs(&self) -> &[u32] {
        &self.outputs
    }
}

impl TriggerBigram {
    /// Sequences of `len` (L) inputs, and one more token for the last label.
    ///
    /// # Errors
    /// L below 2 or above 65536; K of 0, or more than the symbols there are (that can occur, for
    /// random triggers; after the offset, for fixed ones); a trigger without a possible output.
    pub fn new(laws: Bigrams, len: usize, triggers: Triggers, outputs: OutputLaw) -> Result<Self> {
        let n = laws.vocab();
        if !(2..=1 << 16).contains(&len) {
            return Err(Error::invalid("T", len.to_string(), "2 <= T <= 65536"));
        }
        if !outputs.allowed.is_empty() && outputs.allowed.len() != n {
            let found = format!("{} entries", outputs.allowed.len());
            return Err(Error::invalid("allowed outputs", found, format!("{n}, one per symbol")));
        }
        let possible = laws.unigram.iter().filter(|p| **p > 0.0).count();
        let mut fixed: Vec<u32> = Vec::new();
        let (count, most) = match triggers {
            Triggers::Fixed { count, offset } => {
                if offset >= n {
                    let allowed = format!("below the number of symbols, {n}");
                    return Err(Error::invalid("offset", offset.to_string(), allowed));
                }
                let mut order: Vec<u32> = (0..n as u32).collect();
                // Stable: ties stay in order of symbols.
                order.sort_by(|a, b| laws.unigram[*b as usize].total_cmp(&laws.unigram[*a as usize]));
                fixed.extend(order.iter().skip(offset).take(count));
                (count, n - offset)
            }
            Triggers::Random { count } => (count, possible),
        };
        if count == 0 || count > most {
            let allowed = match triggers {
                Triggers::Fixed { offset, .. } => format!("1 to {most}: {n} symbols less offset = {offset}"),
                Triggers::Random { .. } => format!("1 to {most}: the symbols that occur"),
            };
            return Err(Error::invalid("K", count.to_string(), allowed));
        }
        let first = Alias::new(&laws.unigram);
        let next = AliasRows::new(n, &laws.bigram);
        let task = TriggerBigram { laws, len, triggers, outputs, fixed, first, next };
        for q in 0..n {
            let may_trigger = match triggers {
                Triggers::Fixed { .. } => task.fixed.contains(&(q as u32)),
                Triggers::Random { .. } => task.laws.unigram[q] > 0.0,
            };
            if may_trigger && !(0..n).any(|o| task.output_weight(q, o) > 0.0) {
                let found = format!("trigger {q} has no possible output");
                return Err(Error::invalid("outputs", found, "at least one output for every trigger"));
            }
        }
        Ok(task)
    }

    /// The laws of everything that is no trigger.
    pub fn laws(&self) -> &Bigrams {
        &self.laws
    }

    /// N.
    pub fn vocab(&self) -> usize {
        self.laws.vocab()
    }

    /// L, the inputs of a sequence.
    pub fn seq_len(&self) -> usize {
        self.len
    }

    /// K.
    pub fn triggers(&self) -> usize {
        match self.triggers {
            Triggers::Fixed { count, .. } | Triggers::Random { count } => count,
        }
    }

    /// The triggers of every sequence, if they are fixed; in order of falling frequency.
    pub fn fixed_triggers(&self) -> Option<&[u32]> {
        matches!(self.triggers, Triggers::Fixed { .. }).then_some(&self.fixed)
    }

    /// Unnormalised probability of output `o` for trigger `q`.
    pub fn output_weight(&self, q: usize, o: usize) -> f64 {
        let n = self.vocab();
        let excluded = (self.outputs.no_repeat && o == q) || self.outputs.allowed.get(o) == Some(&false);
        match self.outputs.law {
            _ if excluded => 0.0,
            Outputs::Uniform => 1.0 / n as f64,
            Outputs::Bigram => self.laws.bigram[q * n + o],
        }
    }

    /// Is no output excluded?
    fn any_output(&self) -> bool {
        !self.outputs.no_repeat && self.outputs.allowed.is_empty()
    }

    /// Storage for [`sample`](Self::sample).
    pub fn work(&self) -> TriggerBigramWork {
        let (n, k) = (self.vocab(), self.triggers());
        TriggerBigramWork {
            output: vec![NONE; n],
            seen: vec![0; n],
            triggers: Vec::with_capacity(k),
            outputs: Vec::with_capacity(k),
        }
    }

    /// Sequence number `number` under `key`: `tokens` (L+1) and `seen` (L). Depends on key, number
    /// and task only.
    ///
    /// Allocates nothing.
    ///
    /// # Panics
    /// When the outputs or `work` do not fit the task.
    pub fn sample(
        &self,
        key: &Key,
        number: u64,
        work: &mut TriggerBigramWork,
        tokens: &mut [u32],
        seen: &mut [u32],
    ) {
        assert!(tokens.len() == self.len + 1 && seen.len() == self.len, "outputs do not fit the task");
        assert_eq!(work.output.len(), self.vocab(), "work storage of another task");
        self.draw_triggers(key, number, work);
        let mut block = [0; 2];
        for i in 0..=self.len {
            if i % 2 == 0 {
                block = key.block(number, (i / 2) as u32, 0);
            }
            let token = match i {
                0 => self.first.pick(block[0]),
                _ => {
                    let before = tokens[i - 1] as usize;
                    match work.output[before] {
                        NONE => self.next.pick(before, block[i % 2]),
                        output => output,
                    }
                }
            };
            tokens[i] = token;
            if let Some(s) = seen.get_mut(i) {
                let trigger = u32::from(work.output[token as usize] != NONE);
                work.seen[token as usize] += trigger;
                *s = trigger * work.seen[token as usize];
            }
        }
    }

    fn draw_triggers(&self, key: &Key, number: u64, work: &mut TriggerBigramWork) {
        let n = self.vocab();
        work.output.fill(NONE);
        work.seen.fill(0);
        work.triggers.clear();
        work.outputs.clear();
        for k in 0..self.triggers() {
            let q = match self.triggers {
                Triggers::Fixed { .. } => self.fixed[k] as usize,
                Triggers::Random { .. } => {
                    let [word, _] = key.block(number, TRIGGER_VARIATES + k as u32, 0);
                    let left = |s: usize| if work.output[s] == NONE { self.laws.unigram[s] } else { 0.0 };
                    pick(n, left, word)
                }
            };
            let variate = OUTPUT_VARIATES + k as u32;
            let [word, _] = key.block(number, variate, 0);
            let o = match self.outputs.law {
                Outputs::Uniform if self.any_output() => {
                    lemire(word, n as u64).unwrap_or_else(|| key.below(n as u64, number, variate, 0)) as usize
                }
                Outputs::Bigram if self.any_output() => self.next.pick(q, word) as usize,
                _ => pick(n, |o| self.output_weight(q, o), word),
            };
            work.output[q] = o as u32;
            work.triggers.push(q as u32);
            work.outputs.push(o as u32);
        }
    }
}

/// Inverts the distribution function of the unnormalised `weight` of 0..n, not all zero, at the
/// uniform of `word`; never picks weight 0.
fn pick(n: usize, weight: impl Fn(usize) -> f64, word: u64) -> usize {
    let total: f64 = (0..n).map(&weight).sum();
    let level = unit(word) * total;
    let (mut sum, mut last) = (0.0, 0);
    for s in 0..n {
        let w = weight(s);
        sum += w;
        if w > 0.0 {
            last = s;
            if sum > level {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests;
