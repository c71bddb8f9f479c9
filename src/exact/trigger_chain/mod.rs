//! One trigger's sequence as a Markov chain: exact moments by forward and backward passes (Bietti
//! et al. 2023, the model of the three gradient steps).
//!
//! z_1 ∼ u, z_{t+1} = o after q, else ∼ π(·|z_t); conditioned on z_T = q and on q at an earlier
//! position. The state is the symbol and whether q was seen before it: 2S states, or 6 for uniform
//! tokens, whose symbols are lumped to {q, o, rest}.
//!
//! | symbol | shape | meaning |
//! |---|---|---|
//! | S, N | | symbols of the chain (3 when lumped), of the task |
//! | α_t(f, x) | (T, 2, S) | P(z_t = x, q seen before t: f) |
//! | β_t(f, x) | (T, 2, S) | P(the condition \| z_t = x, f) |
//! | a_τ(x), h_τ(x) | (T, S) | P(z_{t+τ} = x \| z_t = o), P(z_{t+τ} = q \| z_t = x): seen or not is settled once q came |
//! | Z | | α_T(1, q), probability of the condition |
//!
//! Moments with 1\[z_s = q\] need no clamped pass of their own: after q the chain is at o, before q
//! it must arrive there. All T² of them cost O(T S² + T² S) by a_τ and h_τ. [`steps`] makes the
//! three top-down gradient steps of them, [`third_in_c`] the third one at any size of the second.

mod average;
pub mod steps;
mod third;
mod words;

pub use average::Averaged;
pub use steps::{Conditional, Steps};
pub use third::{MAX_C, MAX_THIRD, third_in_c};
pub use words::{Word, words};

use crate::num::Sum;
use crate::rng::Key;
use crate::{Error, Result};

/// Most symbols of a chain, longest sequence: the T² tables stay below half a gigabyte.
pub const MAX_SYMBOLS: usize = 4096;
/// See [`MAX_SYMBOLS`].
pub const MAX_LEN: usize = 4096;

/// The chain with its passes.
#[derive(Debug, Clone, PartialEq)]
pub struct TriggerChain {
    symbols: usize,
    len: usize,
    q: usize,
    o: usize,
    start: Vec<f64>,
    /// (S, S), row q replaced by o's unit vector.
    step: Vec<f64>,
    alpha: Vec<f64>,
    beta: Vec<f64>,
    after: Vec<f64>,
    hit: Vec<f64>,
    z: f64,
}

/// q, o and all others of [`TriggerChain::uniform`].
pub const LUMPED: [usize; 3] = [0, 1, 2];

/// Largest distance of a law's sum from 1.
const TOLERANCE: f64 = 1e-12;

impl TriggerChain {
    /// Uniform tokens of a vocabulary of `n`, lumped to q = 0, o = 1 and rest = 2.
    ///
    /// # Errors
    /// N below 2, T below 3 (q, o, q is the shortest sequence) or above [`MAX_LEN`].
    pub fn uniform(n: usize, len: usize) -> Result<Self> {
        if n < 2 {
            return Err(Error::invalid("N", n.to_string(), "N >= 2"));
        }
        let law = [1.0 / n as f64, 1.0 / n as f64, (n - 2) as f64 / n as f64];
        Self::passes(law.to_vec(), law.repeat(3), 0, 1, len)
    }

    /// Any law of the first token `start` (N) and any bigrams `pi` (N, N), row = from; row q is not
    /// read. Laws are used as they are, not normalised.
    ///
    /// # Errors
    /// Sizes out of range, q or o not below N, q = o, entries that are negative or not finite, laws
    /// that do not sum to 1 within 10⁻¹², a condition of probability 0.
    pub fn bigram(start: &[f64], pi: &[f64], q: usize, o: usize, len: usize) -> Result<Self> {
        let n = start.len();
        if !(2..=MAX_SYMBOLS).contains(&n) || pi.len() != n * n {
            let problem = format!("{} entries for N = {n}", pi.len());
            return Err(Error::invalid("pi", problem, format!("2 <= N <= {MAX_SYMBOLS}, N*N entries")));
        }
        if q >= n || o >= n || q == o {
            return Err(Error::invalid(
                "trigger",
                format!("q = {q}, o = {o}"),
                format!("q != o, both below {n}"),
            ));
        }
        let law = |name: String, row: &[f64]| {
            if let Some(x) = row.iter().find(|x| !(x.is_finite() && **x >= 0.0)) {
                return Err(Error::invalid(name, x.to_string(), "finite, >= 0"));
            }
            let total = row.iter().copied().collect::<Sum>().value();
            if (total - 1.0).abs() > TOLERANCE {
                return Err(Error::invalid(name, format!("sums to {total}"), "1 within 1e-12"));
            }
            Ok(())
        };
        law("start".into(), start)?;
        for (x, row) in pi.chunks_exact(n).enumerate().filter(|(x, _)| *x != q) {
            law(format!("pi[{x}]"), row)?;
        }
        Self::passes(start.to_vec(), pi.to_vec(), q, o, len)
    }

    fn passes(start: Vec<f64>, mut step: Vec<f64>, q: usize, o: usize, len: usize) -> Result<Self> {
        if !(3..=MAX_LEN).contains(&len) {
            return Err(Error::invalid("T", len.to_string(), format!("3 <= T <= {MAX_LEN}")));
        }
        let s = start.len();
        step[q * s..(q + 1) * s].fill(0.0);
        step[q * s + o] = 1.0;
        let last = len - 1;
        let (mut alpha, mut beta) = (vec![0.0; len * 2 * s], vec![0.0; len * 2 * s]);
        alpha[..s].copy_from_slice(&start);
        for t in 0..last {
            let (now, next) = alpha[2 * s * t..2 * s * (t + 2)].split_at_mut(2 * s);
            let arrived = now[q] + now[s + q];
            for x in (0..s).filter(|x| *x != q) {
                let row = &step[x * s..(x + 1) * s];
                for f in 0..2 {
                    let p = now[f * s + x];
                    next[f * s..(f + 1) * s].iter_mut().zip(row).for_each(|(n, m)| *n += p * m);
                }
            }
            next[s + o] += arrived;
        }
        beta[2 * s * last + s + q] = 1.0;
        for t in (0..last).rev() {
            let (now, next) = beta[2 * s * t..2 * s * (t + 2)].split_at_mut(2 * s);
            for f in 0..2 {
                for x in 0..s {
                    // From q on it has been seen.
                    let g = if x == q { 1 } else { f };
                    now[f * s + x] = dot(&step[x * s..(x + 1) * s], &next[g * s..(g + 1) * s]);
                }
            }
        }
        let (mut after, mut hit) = (vec![0.0; len * s], vec![0.0; len * s]);
        (after[o], hit[q]) = (1.0, 1.0);
        for t in 0..last {
            let (now, next) = after[s * t..s * (t + 2)].split_at_mut(s);
            for (p, row) in now.iter().zip(step.chunks_exact(s)) {
                next.iter_mut().zip(row).for_each(|(n, m)| *n += p * m);
            }
            let (now, next) = hit[s * t..s * (t + 2)].split_at_mut(s);
            next.iter_mut().zip(step.chunks_exact(s)).for_each(|(n, row)| *n = dot(row, now));
        }
        let z = alpha[2 * s * last + s + q];
        if z.is_nan() || z < f64::MIN_POSITIVE {
            return Err(Error::invalid(
                "trigger",
                format!("P(z_T = q, seen before) = {z}"),
                "a positive probability",
            ));
        }
        Ok(TriggerChain { symbols: s, len, q, o, start, step, alpha, beta, after, hit, z })
    }

    /// S.
    pub fn symbols(&self) -> usize {
        self.symbols
    }

    /// T.
    pub fn seq_len(&self) -> usize {
        self.len
    }

    /// q.
    pub fn trigger(&self) -> usize {
        self.q
    }

    /// o.
    pub fn output(&self) -> usize {
        self.o
    }

    /// P(z_T = q, q seen before).
    pub fn probability(&self) -> f64 {
        self.z
    }

    /// P(z_t = x) under the condition (T, S).
    pub fn marginals(&self) -> Vec<f64> {
        let s = self.symbols;
        let both = self.alpha.chunks_exact(2 * s).zip(self.beta.chunks_exact(2 * s));
        both.flat_map(|(a, b)| (0..s).map(|x| (a[x] * b[x] + a[s + x] * b[s + x]) / self.z)).collect()
    }

    /// E f(z_t) under the condition (T), f (S).
    ///
    /// # Panics
    /// When the length of `f` is not S.
    pub fn mean(&self, f: &[f64]) -> Vec<f64> {
        assert_eq!(f.len(), self.symbols, "mean: length of f");
        self.marginals().chunks_exact(self.symbols).map(|m| dot(m, f)).collect()
    }

    /// E f(z_t) 1\[z_s = q\] under the condition, entry (t, s) of (T, T). O(T² S).
    ///
    /// # Panics
    /// When the length of `f` is not S.
    pub fn with_trigger(&self, f: &[f64]) -> Vec<f64> {
        let (n, s, q) = (self.len, self.symbols, self.q);
        assert_eq!(f.len(), s, "with_trigger: length of f");
        let mut out = vec![0.0; n * n];
        let mut weighed = vec![0.0; s];
        let mean = self.mean(f);
        // P(the condition | q at s), P(q at s).
        let rest = |at: usize| self.hit[(n - 1 - at) * s + q];
        let here = |at: usize| self.alpha[2 * s * at + q] + self.alpha[2 * s * at + s + q];
        for t in 0..n {
            let (a, b) =
                (&self.alpha[2 * s * t..2 * s * (t + 1)], &self.beta[2 * s * t + s..2 * s * (t + 1)]);
            for x in 0..s {
                weighed[x] = f[x] * b[x];
            }
            for at in 0..t {
                out[t * n + at] =
                    here(at) * dot(&self.after[(t - at - 1) * s..(t - at) * s], &weighed) / self.z;
            }
            if t < n - 1 {
                out[t * n + t] = f[q] * here(t) * rest(t) / self.z;
            }
            for x in 0..s {
                weighed[x] = f[x] * (a[x] + a[s + x]);
            }
            for at in t + 1..n - 1 {
                out[t * n + at] =
                    dot(&self.hit[(at - t) * s..(at - t + 1) * s], &weighed) * rest(at) / self.z;
            }
            // z_T = q always.
            out[t * n + n - 1] = mean[t];
        }
        out
    }

    /// P(z_s = x, z_t = y) under the condition (S, S), by a clamped pass for every x: O((t − s + 1)
    /// S³). 0-based, s <= t < T.
    ///
    /// # Panics
    /// When s <= t < T does not hold.
    pub fn pair(&self, at: usize, t: usize) -> Vec<f64> {
        assert!(at <= t && t < self.len, "pair: positions");
        let (s, q) = (self.symbols, self.q);
        let mut out = vec![0.0; s * s];
        for x in 0..s {
            let mut now = vec![0.0; 2 * s];
            for f in 0..2 {
                now[f * s + x] = self.alpha[2 * s * at + f * s + x];
            }
            for _ in at..t {
                let mut next = vec![0.0; 2 * s];
                for f in 0..2 {
                    for y in 0..s {
                        let g = if y == q { 1 } else { f };
                        for w in 0..s {
                            next[g * s + w] += now[f * s + y] * self.step[y * s + w];
                        }
                    }
                }
                now = next;
            }
            for y in 0..s {
                let beta = |f: usize| self.beta[2 * s * t + f * s + y];
                out[x * s + y] = (now[y] * beta(0) + now[s + y] * beta(1)) / self.z;
            }
        }
        out
    }

    /// Draws z_1..z_T under the condition, sample `n` of `key`; variate t is position t's. `out`
    /// (T).
    ///
    /// # Panics
    /// When the length of `out` is not T.
    pub fn draw(&self, key: &Key, n: u64, out: &mut [usize]) {
        assert_eq!(out.len(), self.len, "draw: length");
        let s = self.symbols;
        let mut seen = 0;
        for t in 0..self.len {
            let from =
                if t == 0 { &self.start[..] } else { &self.step[out[t - 1] * s..(out[t - 1] + 1) * s] };
            let beta = &self.beta[2 * s * t + seen * s..2 * s * t + (seen + 1) * s];
            let total = dot(from, beta);
            let mut left = key.uniforms(n, t as u32, 0)[0] * total;
            // Rounding may leave a little at the end: the last symbol that is possible takes it.
            let mut taken = None;
            for x in 0..s {
                let p = from[x] * beta[x];
                if p > 0.0 {
                    taken = Some(x);
                    left -= p;
                    if left <= 0.0 {
                        break;
                    }
                }
            }
            // The condition has positive probability, so some symbol leads to it.
            out[t] = taken.unwrap_or(self.q);
            seen |= usize::from(out[t] == self.q);
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
