//! In-context learning of a forest of Markov transitions (paper 1, arXiv 2402.14735;
//! `InContextTree` in its code).
//!
//! Per sequence: rows π(·|s) i.i.d. Dirichlet(α,..,α); in order, s_i ~ root law for a root i, else
//! s_i ~ π(·|s_{p(i)}); the query s_{T-1} uniform and independent; target π(·|s_{T-1}).
//!
//! | symbol | name | shape |
//! |---|---|---|
//! | π | `pi`, `log_pi`: transition probabilities, row = from | (S, S) |
//! | μ | `mu`: stationary law of π | (S) |
//! | p | `forest`: parents of the positions 0..T-2 | (T-1) |

use super::dirichlet::{DirichletRows, kernels, raised};
use super::graph::Forest;
use super::stationary::{LINEAR_FLOOR, StationaryScratch, stationary};
use super::{Sampler, Task, Work};
use crate::num::{exp, ln};
use crate::rng::{Key, LogGamma, lemire, unit};
use crate::{Error, Result};
use popgrad_kernels::Kernels;
use popgrad_kernels::sampling::{Addresses, RowOf, SAMPLE_LANES};

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
    /// γ of rows γ/S + (1 − γ) Dirichlet(α).
    floor: Option<f64>,
}

/// Variate of π(b|a) is this plus aS + b; the tokens use the variates below it, two positions to a
/// variate. Frozen, like everything that says which random bits go where.
const PI_VARIATES: u32 = 1 << 31;

impl CausalTree {
    /// Smallest alphabet.
    pub const MIN_VOCAB: usize = 2;
    /// Largest alphabet: π then takes 8 MiB per copy, and S² gamma variates per sequence.
    pub const MAX_VOCAB: usize = 1024;

    /// The task over `forest` with `vocab` (S) symbols and concentration `alpha`.
    ///
    /// # Errors
    /// When S is outside [`MIN_VOCAB`](Self::MIN_VOCAB)..=[`MAX_VOCAB`](Self::MAX_VOCAB) or α
    /// outside
    /// [`LogGamma::MIN_ALPHA`]..=[`LogGamma::MAX_ALPHA`]. (T is checked by [`Forest`].)
    pub fn new(forest: Forest, vocab: usize, alpha: f64, roots: Roots) -> Result<Self> {
        if !(Self::MIN_VOCAB..=Self::MAX_VOCAB).contains(&vocab) {
            let allowed = format!("{} <= S <= {}", Self::MIN_VOCAB, Self::MAX_VOCAB);
            return Err(Error::invalid("S", vocab.to_string(), allowed));
        }
        Ok(CausalTree { forest, vocab, roots, gamma: LogGamma::new(alpha)?, floor: None })
    }

    /// The same with rows γ/S + (1 − γ) Dirichlet(α), no entry of which is below γ/S: what Theorems
    /// 1 and 2 assume of π, and constant mean with it.
    ///
    /// # Errors
    /// γ outside (0, 1].
    pub fn floored(self, gamma: f64) -> Result<Self> {
        if !(gamma > 0.0 && gamma <= 1.0) {
            return Err(Error::invalid("gamma", gamma.to_string(), "0 < gamma <= 1"));
        }
        Ok(CausalTree { floor: Some(gamma), ..self })
    }

    /// γ of a floored prior.
    pub fn floor(&self) -> Option<f64> {
        self.floor
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

    /// Sample number `n` under `key`: `tokens` (T), and `target` (S) = π(·|query), which sums to 1
    /// up to rounding (S/2 ulp) and may have exact zeros. Depends on the key, `n` and the task
    /// only. π and μ stay readable in `work`.
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
            tokens[i] = match self.parent(i) {
                Some(p) => {
                    let row = tokens[p] as usize * s;
                    invert(&work.cumulated[row..row + s], unit(word))
                }
                None if work.has_mu && i + 1 < t => invert(&work.mu_cumulated, unit(word)),
                None => self.uniform_symbol(key, n, i, word),
            };
        }
        let row = tokens[t - 1] as usize * s;
        target.copy_from_slice(&work.pi[row..row + s]);
    }

    /// The parent of position i; the query has none.
    fn parent(&self, i: usize) -> Option<usize> {
        if i + 1 < self.seq_len() { self.forest.parent(i) } else { None }
    }

    /// π by normalising gamma variates on the log scale: at α = 10⁻³ most of them underflow as
    /// plain numbers, and a whole row would be 0/0 now and then.
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
            // The prefix sums serve as the unnormalised distribution function; the last one
            // normalises.
            let total = cumulate(row, cumulated);
            let (log_total, scale) = (ln(total), 1.0 / total);
            for (p, y) in row.iter_mut().zip(log_row.iter_mut()) {
                *p *= scale;
                *y -= log_total;
            }
            if let Some(gamma) = self.floor {
                row.iter_mut().for_each(|p| *p = raised(*p, gamma, s));
                let log_total = ln(cumulate(row, cumulated));
                log_row.iter_mut().zip(&*row).for_each(|(y, p)| *y = ln(*p) - log_total);
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
        Work::new(self.block(kernels()))
    }

    fn samples(&self, key: &Key, first: u64, work: &mut Work, tokens: &mut [u32], targets: &mut [f64]) {
        self.sample_block(key, first, work.get(), tokens, targets);
    }
}

/// Working storage of [`CausalTree::sample_block`]. Made by [`CausalTree::block`].
#[derive(Debug, Clone)]
pub struct CausalTreeBlock {
    /// For alphabets too large for lanes, and for laws that need extended exponents.
    single: CausalTreeWork,
    lanes: Option<Lanes>,
}

#[derive(Debug, Clone)]
struct Lanes {
    kernels: Kernels<f64>,
    rows: DirichletRows,
    /// Where each position's symbol comes from; row S of the table is μ.
    row_of: Vec<RowOf>,
    /// (T rounded up to even, SAMPLE_LANES).
    words: Vec<u64>,
    /// (S, SAMPLE_LANES).
    mu: Vec<f64>,
    /// (SAMPLE_LANES, S): the laws that the elimination in lanes cannot find.
    wide_mu: Vec<f64>,
}

impl CausalTree {
    /// Largest alphabet that goes in lanes, which hold [`SAMPLE_LANES`] samples' π at once: 3 MiB
    /// here.
    const MAX_LANE_VOCAB: usize = 128;

    /// Where the law of position `i` stands in a lane's table: rows of π, then μ.
    fn row_of(&self, i: usize) -> RowOf {
        match self.parent(i) {
            Some(p) => RowOf::Symbol(p as u32),
            None if i + 1 < self.seq_len() && self.roots == Roots::Stationary => {
                RowOf::Fixed(self.vocab as u32)
            }
            None => RowOf::Given,
        }
    }

    /// Storage for [`sample_block`](Self::sample_block) on `kernels`, whose instruction set changes
    /// speed only.
    pub fn block(&self, kernels: Kernels<f64>) -> CausalTreeBlock {
        let (s, t) = (self.vocab, self.seq_len());
        let lanes = (s <= Self::MAX_LANE_VOCAB).then(|| Lanes {
            kernels,
            rows: DirichletRows::new(kernels, s, s, 1),
            row_of: (0..t).map(|i| self.row_of(i)).collect(),
            words: vec![0; t.next_multiple_of(2) * SAMPLE_LANES],
            mu: vec![0.0; s * SAMPLE_LANES],
            wide_mu: vec![0.0; s * SAMPLE_LANES],
        });
        CausalTreeBlock { single: self.work(), lanes }
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
        work: &mut CausalTreeBlock,
        tokens: &mut [u32],
        targets: &mut [f64],
    ) {
        let (s, t) = (self.vocab, self.seq_len());
        let n = tokens.len() / t;
        assert!(tokens.len() == n * t && targets.len() == n * s, "outputs are not whole rows");
        let CausalTreeBlock { single, lanes } = work;
        assert_eq!(single.vocab, s, "work storage of another task");
        let Some(lanes) = lanes else {
            for (i, (tokens, target)) in
                tokens.chunks_exact_mut(t).zip(targets.chunks_exact_mut(s)).enumerate()
            {
                self.sample(key, first.wrapping_add(i as u64), single, tokens, target);
            }
            return;
        };
        let same = lanes.row_of.len() == t && (0..t).all(|i| lanes.row_of[i] == self.row_of(i));
        assert!(same, "work storage of another task");
        let blocks = tokens.chunks_mut(SAMPLE_LANES * t).zip(targets.chunks_mut(SAMPLE_LANES * s));
        for (i, (tokens, targets)) in blocks.enumerate() {
            let first = first.wrapping_add((i * SAMPLE_LANES) as u64);
            self.fill_lanes(key, first, single, lanes, tokens, targets);
        }
    }

    /// At most SAMPLE_LANES samples; lanes beyond are drawn and thrown away.
    fn fill_lanes(
        &self,
        key: &Key,
        first: u64,
        single: &mut CausalTreeWork,
        lanes: &mut Lanes,
        tokens: &mut [u32],
        targets: &mut [f64],
    ) {
        let (s, t) = (self.vocab, self.seq_len());
        let sample: [u64; SAMPLE_LANES] = std::array::from_fn(|l| first.wrapping_add(l as u64));
        lanes.rows.draw(&self.gamma, key, sample, [PI_VARIATES; SAMPLE_LANES]);
        if let Some(gamma) = self.floor {
            lanes.rows.raise(gamma);
        }
        let at = Addresses { key: key.words(), sample, variate: [0; SAMPLE_LANES] };
        lanes.kernels.philox_words(&at, &mut lanes.words).expect("whole blocks");
        // The query, and roots that do not depend on π.
        for i in (0..t).filter(|&i| lanes.row_of[i] == RowOf::Given) {
            for (l, tokens) in tokens.chunks_exact_mut(t).enumerate() {
                let word = lanes.words[i * SAMPLE_LANES + l];
                tokens[i] = self.uniform_symbol(key, sample[l], i, word);
            }
        }
        for (l, (tokens, target)) in tokens.chunks_exact(t).zip(targets.chunks_exact_mut(s)).enumerate() {
            lanes.rows.copy_row(l, tokens[t - 1] as usize, target);
        }
        if self.roots == Roots::Stationary {
            self.stationary_lanes(single, lanes, tokens.len() / t);
        }
        let (table, stride) = lanes.rows.table();
        let words = &lanes.words[..t * SAMPLE_LANES];
        lanes.kernels.invert_forest(s, &lanes.row_of, words, table, stride, tokens).expect("sizes fit");
    }

    /// Row S of the table: prefix sums of μ. π is overwritten.
    fn stationary_lanes(&self, single: &mut CausalTreeWork, lanes: &mut Lanes, count: usize) {
        let (s, kernels) = (self.vocab, lanes.kernels);
        let all = (1u32 << count) - 1;
        let below = kernels.off_diagonal_below(s, lanes.rows.p(), LINEAR_FLOOR).expect("sizes fit") & all;
        for l in (0..count).filter(|l| below >> l & 1 == 1) {
            for row in 0..s {
                lanes.rows.copy_row(l, row, &mut single.pi[row * s..]);
                lanes.rows.copy_log_row(l, row, &mut single.log_pi[row * s..]);
            }
            let mu = &mut lanes.wide_mu[l * s..(l + 1) * s];
            stationary(&single.pi, &single.log_pi, s, mu, None, &mut single.scratch);
        }
        if below != all {
            kernels.stationary(s, lanes.rows.p_mut(), &mut lanes.mu).expect("sizes fit");
        }
        for l in (0..count).filter(|l| below >> l & 1 == 1) {
            for b in 0..s {
                lanes.mu[b * SAMPLE_LANES + l] = lanes.wide_mu[l * s + b];
            }
        }
        for b in 1..s {
            for l in 0..SAMPLE_LANES {
                lanes.mu[b * SAMPLE_LANES + l] += lanes.mu[(b - 1) * SAMPLE_LANES + l];
            }
        }
        lanes.rows.set_row(s, &lanes.mu);
    }

    /// A uniform symbol from the `word` of position `i`; rejected about once in 2^64 / S words.
    fn uniform_symbol(&self, key: &Key, n: u64, i: usize, word: u64) -> u32 {
        let s = self.vocab as u64;
        lemire(word, s).unwrap_or_else(|| key.below(s, n, (i / 2) as u32, i % 2)) as u32
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

/// The symbol of a uniform `u` in (0,1), given prefix sums: the number of prefix sums not above
/// u·total.
///
/// u ≤ 1 - 2⁻⁵³ keeps the rounded product below the total, so the result is a symbol, and one of
/// positive probability: its prefix sum exceeds the previous one. Counting instead of searching: no
/// branch to mispredict.
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
