//! In-context learning of transitions with several parents (paper 1, arXiv 2402.14735;
//! `InContextDAG` in its code).
//!
//! Per sequence: for each arity k a tensor π_k of S^k rows i.i.d. Dirichlet(α,..,α); in order, s_i
//! ~ π_k(·|s_{p_1},..,s_{p_k}) for a position with parents (p_1,..,p_k), s_i ~ root law for one
//! without; target π_k(·|..) at the target's parents. No position is special: the last token is
//! drawn from its parents, unlike the query of `causal_tree`.
//!
//! | symbol | name | shape |
//! |---|---|---|
//! | π_k | rows, numbered over all arities: `first_row[k]` + Σ_j a_j S^{k-j}, first parent most significant | (S^k, S) |
//! | p | `dag`: parents of the positions 0..T-1 and of the target | (T+1) |
//!
//! Only the rows that a sequence visits are drawn, T + 1 at most: a row is a function of its
//! address. Side by side, samples draw the row of every token anew instead, or all rows at once
//! where those are fewer: what one visits the others need not.

use super::causal_tree::{cumulate, invert};
use super::dirichlet::{DirichletRows, kernels};
use super::{Dag, Sampler, Task, Work};
use crate::num::exp;
use crate::rng::{Key, LogGamma, lemire, unit};
use crate::{Error, Result};
use popgrad_kernels::Kernels;
use popgrad_kernels::sampling::{Addresses, SAMPLE_LANES};

/// The law of tokens without parents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DagRoots {
    /// π_0: one Dirichlet(α,..,α) draw shared by all roots of a sequence (the public code).
    Shared,
    /// Uniform on the alphabet.
    Uniform,
}

/// The task: graph, alphabet, prior and root law.
#[derive(Debug, Clone, PartialEq)]
pub struct CausalDag {
    dag: Dag,
    vocab: usize,
    roots: DagRoots,
    gamma: LogGamma,
    /// Number of π_k's first row, by arity k.
    first_row: Vec<u32>,
}

/// Variate of entry b of row r is this plus rS + b; the tokens use the variates below it, two
/// positions to a variate. Frozen, like everything that says which random bits go where.
const PI_VARIATES: u32 = 1 << 31;

impl CausalDag {
    /// Smallest alphabet.
    pub const MIN_VOCAB: usize = 2;
    /// Largest alphabet.
    pub const MAX_VOCAB: usize = 1024;
    /// Most entries that the tensors of all arities up to the largest may have: each has its own
    /// random number.
    pub const MAX_ENTRIES: u64 = 1 << 31;

    /// The task over `dag` with `vocab` (S) symbols and concentration `alpha`.
    ///
    /// # Errors
    /// When S is outside [`MIN_VOCAB`](Self::MIN_VOCAB)..=[`MAX_VOCAB`](Self::MAX_VOCAB), α outside
    /// [`LogGamma::MIN_ALPHA`]..=[`LogGamma::MAX_ALPHA`], or S + S² + .. + S^{k+1} above
    /// [`MAX_ENTRIES`](Self::MAX_ENTRIES) for the largest arity k.
    pub fn new(dag: Dag, vocab: usize, alpha: f64, roots: DagRoots) -> Result<Self> {
        if !(Self::MIN_VOCAB..=Self::MAX_VOCAB).contains(&vocab) {
            let allowed = format!("{} <= S <= {}", Self::MIN_VOCAB, Self::MAX_VOCAB);
            return Err(Error::invalid("S", vocab.to_string(), allowed));
        }
        let (s, arity) = (vocab as u64, dag.max_arity());
        let (mut first_row, mut rows, mut size) = (Vec::new(), 0u64, 1u64);
        for k in 0..=arity {
            first_row.push(rows as u32);
            // Both stay below 2^42: size was at most MAX_ENTRIES / S.
            rows += size;
            size *= s;
            if rows * s > Self::MAX_ENTRIES {
                let found = format!("{arity} for one entry, S = {vocab}: tables of S^{arity} rows");
                let allowed = format!("at most {} parents with this S", k.saturating_sub(1));
                return Err(Error::invalid("parents per position", found, allowed));
            }
        }
        Ok(CausalDag { dag, vocab, roots, gamma: LogGamma::new(alpha)?, first_row })
    }

    /// The graph.
    pub fn dag(&self) -> &Dag {
        &self.dag
    }

    /// Dirichlet concentration α (every entry the same).
    pub fn alpha(&self) -> f64 {
        self.gamma.alpha()
    }

    /// The law of tokens without parents.
    pub fn roots(&self) -> DagRoots {
        self.roots
    }

    /// Number of the row that `parents` point at in `tokens`. Rows of different arities have
    /// different numbers.
    ///
    /// # Panics
    /// When a parent is no position, or there are more parents than anywhere in the graph.
    #[inline]
    pub fn row(&self, parents: &[usize], tokens: &[u32]) -> u32 {
        let s = self.vocab as u32;
        self.first_row[parents.len()] + parents.iter().fold(0, |row, &p| row * s + tokens[p])
    }

    /// Storage for [`sample`](Self::sample).
    pub fn work(&self) -> CausalDagWork {
        let (s, t) = (self.vocab, self.dag.seq_len());
        let all: u64 =
            self.first_row.last().map_or(0, |f| u64::from(*f)) + (s as u64).pow(self.dag.max_arity() as u32);
        let rows = all.min(t as u64 + 1) as usize;
        CausalDagWork {
            vocab: s,
            numbers: Vec::with_capacity(rows),
            slots: vec![0; (2 * rows).next_power_of_two()],
            pi: vec![0.0; rows * s],
            cumulated: vec![0.0; rows * s],
        }
    }

    /// Sample number `n` under `key`: `tokens` (T), and `target` (S), the row at the target's
    /// parents, which sums to 1 up to rounding (S/2 ulp) and may have exact zeros. Depends on the
    /// key, `n` and the task only. The rows visited stay readable in `work`.
    ///
    /// Allocates nothing.
    ///
    /// # Panics
    /// When `tokens`, `target` or `work` do not fit the task.
    pub fn sample(
        &self,
        key: &Key,
        n: u64,
        work: &mut CausalDagWork,
        tokens: &mut [u32],
        target: &mut [f64],
    ) {
        let (s, t) = (self.vocab, self.dag.seq_len());
        assert!(tokens.len() == t && target.len() == s, "outputs do not fit the task");
        assert_eq!(work.vocab, s, "work storage of another task");
        work.clear();
        let mut block = [0; 2];
        for i in 0..t {
            if i % 2 == 0 {
                block = key.block(n, (i / 2) as u32, 0);
            }
            let (word, parents) = (block[i % 2], self.dag.parents(i));
            tokens[i] = if self.is_uniform(i) {
                self.uniform_symbol(key, n, i, word)
            } else {
                let at = self.draw_row(key, n, self.row(parents, tokens), work) * s;
                invert(&work.cumulated[at..at + s], unit(word))
            };
        }
        let at = self.draw_row(key, n, self.row(self.dag.target(), tokens), work) * s;
        target.copy_from_slice(&work.pi[at..at + s]);
    }

    /// Is position `i` a root that no row belongs to?
    fn is_uniform(&self, i: usize) -> bool {
        self.roots == DagRoots::Uniform && self.dag.parents(i).is_empty()
    }

    /// A uniform symbol from the `word` of position `i`; rejected about once in 2^64 / S words.
    fn uniform_symbol(&self, key: &Key, n: u64, i: usize, word: u64) -> u32 {
        let s = self.vocab as u64;
        lemire(word, s).unwrap_or_else(|| key.below(s, n, (i / 2) as u32, i % 2)) as u32
    }

    /// Rows of all arities up to the largest.
    fn rows(&self) -> u64 {
        self.first_row.last().map_or(0, |f| u64::from(*f))
            + (self.vocab as u64).pow(self.dag.max_arity() as u32)
    }

    /// Most entries of a table that is drawn whole: 1 MiB side by side.
    const MAX_WHOLE: u64 = 1 << 14;

    /// Rows of the table, where it is drawn whole: it has no more than a sequence visits.
    fn whole_rows(&self) -> Option<usize> {
        let all = self.rows();
        let few = all <= self.dag.seq_len() as u64 + 1 && all * self.vocab as u64 <= Self::MAX_WHOLE;
        few.then_some(all as usize)
    }

    /// Storage for [`sample_block`](Self::sample_block) on `kernels`, whose instruction set changes
    /// speed only.
    pub fn block(&self, kernels: Kernels<f64>) -> CausalDagBlock {
        let (s, t) = (self.vocab, self.dag.seq_len());
        let whole = self.whole_rows();
        let rows = whole.unwrap_or(1);
        CausalDagBlock {
            len: t,
            whole,
            rows: DirichletRows::new(kernels, s, rows, 0),
            kernels,
            words: vec![0; t.next_multiple_of(2) * SAMPLE_LANES],
            vocab: s,
        }
    }

    /// Samples `first`, `first + 1`, .. (numbers wrap): tokens (n, T), targets (n, S). The bits are
    /// those of
    /// [`sample`](Self::sample); [`SAMPLE_LANES`] samples go side by side.
    ///
    /// Allocates nothing.
    ///
    /// # Panics
    /// When the outputs are not whole rows of equal number, or `work` does not fit the task.
    pub fn sample_block(
        &self,
        key: &Key,
        first: u64,
        work: &mut CausalDagBlock,
        tokens: &mut [u32],
        targets: &mut [f64],
    ) {
        let (t, s) = (self.dag.seq_len(), self.vocab);
        let n = tokens.len() / t;
        assert!(tokens.len() == n * t && targets.len() == n * s, "outputs are not whole rows");
        let fits = (work.len, work.vocab, work.whole) == (t, s, self.whole_rows());
        assert!(fits, "work storage of another task");
        let groups = tokens.chunks_mut(SAMPLE_LANES * t).zip(targets.chunks_mut(SAMPLE_LANES * s));
        for (i, (tokens, targets)) in groups.enumerate() {
            self.fill_lanes(key, first.wrapping_add((i * SAMPLE_LANES) as u64), work, tokens, targets);
        }
    }

    /// At most SAMPLE_LANES samples; lanes beyond are drawn and thrown away.
    fn fill_lanes(
        &self,
        key: &Key,
        first: u64,
        work: &mut CausalDagBlock,
        tokens: &mut [u32],
        targets: &mut [f64],
    ) {
        let (t, s) = (self.dag.seq_len(), self.vocab);
        let sample: [u64; SAMPLE_LANES] = std::array::from_fn(|l| first.wrapping_add(l as u64));
        let at = Addresses { key: key.words(), sample, variate: [0; SAMPLE_LANES] };
        work.kernels.philox_words(&at, &mut work.words).expect("whole blocks");
        if work.whole.is_some() {
            work.rows.draw(&self.gamma, key, sample, [PI_VARIATES; SAMPLE_LANES]);
        }
        for i in 0..=t {
            if i < t && self.is_uniform(i) {
                for (l, tokens) in tokens.chunks_exact_mut(t).enumerate() {
                    tokens[i] = self.uniform_symbol(key, sample[l], i, work.words[i * SAMPLE_LANES + l]);
                }
                continue;
            }
            let mut row = [0; SAMPLE_LANES];
            for (row, tokens) in row.iter_mut().zip(tokens.chunks_exact(t)) {
                *row = self.row(self.dag.parents(i), tokens);
            }
            if work.whole.is_none() {
                work.rows.draw(&self.gamma, key, sample, row.map(|r| PI_VARIATES + r * s as u32));
                row = [0; SAMPLE_LANES];
            }
            if i == t {
                for ((l, target), row) in targets.chunks_exact_mut(s).enumerate().zip(row) {
                    work.rows.copy_row(l, row as usize, target);
                }
                return;
            }
            let (table, stride) = work.rows.table();
            for ((l, tokens), row) in tokens.chunks_exact_mut(t).enumerate().zip(row) {
                let sums = &table[l * stride + row as usize * s..][..s];
                tokens[i] = invert(sums, unit(work.words[i * SAMPLE_LANES + l]));
            }
        }
    }

    /// Where row `number` lies in `work`, drawn if it was not there: gamma variates normalised on
    /// the log scale, since at α = 10⁻³ most of them underflow as plain numbers.
    fn draw_row(&self, key: &Key, n: u64, number: u32, work: &mut CausalDagWork) -> usize {
        let (at, new) = work.find(number);
        if new {
            let s = self.vocab;
            let (row, cumulated) =
                (&mut work.pi[at * s..(at + 1) * s], &mut work.cumulated[at * s..(at + 1) * s]);
            self.fill_row(key, n, number, row, cumulated);
        }
        at
    }

    fn fill_row(&self, key: &Key, n: u64, number: u32, row: &mut [f64], cumulated: &mut [f64]) {
        self.gamma.fill(key, n, PI_VARIATES + number * self.vocab as u32, row);
        let max = row.iter().fold(f64::NEG_INFINITY, |m, &y| if y > m { y } else { m });
        row.iter_mut().for_each(|p| *p = exp(*p - max));
        let scale = 1.0 / cumulate(row, cumulated);
        row.iter_mut().for_each(|p| *p *= scale);
    }

    /// π_k of sample number `n` under `key`: all rows, (S^k, S), first parent most significant.
    ///
    /// # Panics
    /// When no position has `k` parents or more, or `out` has another size.
    pub fn tensor(&self, key: &Key, n: u64, k: usize, out: &mut [f64]) {
        let s = self.vocab;
        assert!(out.len() == s.pow(k as u32 + 1), "output does not fit the tensor");
        let mut cumulated = vec![0.0; s];
        for (row, number) in out.chunks_exact_mut(s).zip(self.first_row[k]..) {
            self.fill_row(key, n, number, row, &mut cumulated);
        }
    }
}

impl Task for CausalDag {
    fn name(&self) -> &'static str {
        "causal_dag"
    }
    fn seq_len(&self) -> usize {
        self.dag.seq_len()
    }
    fn vocab(&self) -> usize {
        self.vocab
    }
}

impl Sampler for CausalDag {
    fn new_work(&self) -> Work {
        Work::new(self.block(kernels()))
    }

    fn samples(&self, key: &Key, first: u64, work: &mut Work, tokens: &mut [u32], targets: &mut [f64]) {
        self.sample_block(key, first, work.get(), tokens, targets);
    }
}

/// Storage for samples side by side. Made by [`CausalDag::block`].
#[derive(Debug, Clone)]
pub struct CausalDagBlock {
    kernels: Kernels<f64>,
    vocab: usize,
    len: usize,
    /// Rows held, at their numbers, where that is all of them; else one is, drawn as it is needed.
    whole: Option<usize>,
    rows: DirichletRows,
    /// (T rounded up to even, SAMPLE_LANES).
    words: Vec<u64>,
}

/// The rows that the latest sample visited. Made by [`CausalDag::work`].
#[derive(Debug, Clone)]
pub struct CausalDagWork {
    vocab: usize,
    /// Numbers of the rows, in the order of their first visit.
    numbers: Vec<u32>,
    /// A hash table over them, at most half full: place + 1, 0 where free.
    slots: Vec<u32>,
    /// (rows, S) each.
    pi: Vec<f64>,
    cumulated: Vec<f64>,
}

impl CausalDagWork {
    /// Probabilities (S) in row `number` (see [`CausalDag::row`]) of the latest sample, if it
    /// visited the row.
    pub fn pi(&self, number: u32) -> Option<&[f64]> {
        let at = self.numbers.iter().position(|n| *n == number)?;
        Some(&self.pi[at * self.vocab..(at + 1) * self.vocab])
    }

    /// Numbers of the rows that the latest sample visited, in the order of their first visit.
    pub fn visited(&self) -> &[u32] {
        &self.numbers
    }

    fn clear(&mut self) {
        self.numbers.clear();
        self.slots.fill(0);
    }

    /// The place of row `number`, and whether it is new.
    fn find(&mut self, number: u32) -> (usize, bool) {
        let mask = self.slots.len() - 1;
        // Fibonacci hashing: the high half of the product, of which the mask takes the low bits.
        let mut slot = (u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize & mask;
        loop {
            match self.slots[slot] {
                0 => {
                    self.numbers.push(number);
                    self.slots[slot] = self.numbers.len() as u32;
                    return (self.numbers.len() - 1, true);
                }
                at if self.numbers[at as usize - 1] == number => return (at as usize - 1, false),
                _ => slot = (slot + 1) & mask,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbered_by_arity_and_tuple() {
        let dag = Dag::parse("-;0;1,0;2,1").unwrap();
        let task = CausalDag::new(dag, 3, 0.5, DagRoots::Shared).unwrap();
        let x = [2, 1, 0];
        assert_eq!(task.row(&[], &x), 0);
        assert_eq!(task.row(&[0], &x), 1 + 2);
        // Arity 2 starts after 1 + 3 rows; the first parent is the most significant digit.
        assert_eq!(task.row(&[1, 0], &x), 4 + 3 + 2);
        assert_eq!(task.row(&[0, 1], &x), 4 + 6 + 1);
    }

    #[test]
    fn limits_are_checked() {
        let message = |t, k, s, a| {
            CausalDag::new(Dag::ngram(t, k).unwrap(), s, a, DagRoots::Uniform).unwrap_err().to_string()
        };
        assert_eq!(message(4, 1, 1, 0.1), "S: 1; allowed: 2 <= S <= 1024");
        assert!(message(4, 1, 1025, 0.1).starts_with("S: 1025"));
        for a in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e4] {
            assert!(message(4, 1, 2, a).starts_with("alpha: "));
        }
        // 10 + .. + 10^9 fits 2^31, 10^10 more does not; 1024 + 1024^2 + 1024^3 fits.
        assert!(CausalDag::new(Dag::ngram(12, 8).unwrap(), 10, 0.1, DagRoots::Shared).is_ok());
        assert!(CausalDag::new(Dag::ngram(12, 2).unwrap(), 1024, 0.1, DagRoots::Shared).is_ok());
        assert_eq!(
            message(12, 9, 10, 0.1),
            "parents per position: 9 for one entry, S = 10: tables of S^9 rows; allowed: at most 8 parents with this S"
        );
        assert!(message(3, 3, 1024, 0.1).contains("at most 2 parents"));
        assert!(message(5000, 5000, 2, 0.1).contains("at most 29 parents"));
        // The largest addresses stay above those of the tokens.
        let task = CausalDag::new(Dag::ngram(40, 29).unwrap(), 2, 0.1, DagRoots::Shared).unwrap();
        let last = u64::from(task.row(task.dag().target(), &[1; 40]));
        assert!(u64::from(PI_VARIATES) + 2 * last < 1 << 32 && u64::from(PI_VARIATES) + 2 * last > 1 << 31);
    }

    #[test]
    fn the_table_of_rows_finds_what_it_holds() {
        let task = CausalDag::new(Dag::ngram(6, 2).unwrap(), 5, 0.1, DagRoots::Shared).unwrap();
        let mut work = task.work();
        work.clear();
        let numbers = [0, 30, 1, 17, 16, 8, 24];
        for (i, n) in numbers.into_iter().enumerate() {
            assert_eq!(work.find(n), (i, true));
            assert_eq!(work.find(n), (i, false));
        }
        assert_eq!(numbers.map(|n| work.find(n).0), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(work.visited(), numbers);
    }
}
