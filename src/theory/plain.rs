//! The two-layer model of the three steps (Bietti et al. 2023, the theorem on three gradient steps)
//! in coefficients of its orthonormal basis, in plain loops: the oracle.
//!
//! | symbol | shape | meaning |
//! |---|---|---|
//! | B | N + T | w_E(v), then p_t: the basis of layer 1's input x_t = w_E(z_t) + p_t |
//! | | 2B | B, then its images under Φ₁ = W_O¹W_V¹: the basis of X_t = x_t + Φ₁ Σ_s α_ts x_s |
//! | K1 | (B, B) | W_K¹: α_t = softmax_{s<=t}(x_tᵀ W_K¹ x_s) |
//! | K2 | (2B, 2B) | W_K²: σ = softmax_{t<=T}(X_Tᵀ W_K² X_t) |
//! | O2 | (N, 2B) | w_U(k)ᵀ W_O² W_V² b: logits = O2 Σ_t σ_t X_t |
//!
//! No √d. The images of X under W_V² and w_U are orthonormal to all of this, so nothing else is in
//! the model; gradients in the coefficients are gradients in W_K¹, W_K², W_O².

use crate::exact::trigger_chain::{TriggerChain, Word};
use crate::num::{Sum, exp, ln};
use crate::rng::Key;
use crate::{Error, Result};
use rayon::prelude::*;

/// Which matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// W_O².
    O2,
    /// W_K².
    K2,
    /// W_K¹.
    K1,
}

/// What an index of a matrix means.
#[derive(Debug, Clone, Copy)]
enum Part {
    Token,
    Position,
}
use Part::{Position, Token};

/// The model.
#[derive(Debug, Clone, PartialEq)]
pub struct Plain {
    /// N.
    pub tokens: usize,
    /// T.
    pub len: usize,
    /// K1 (B, B).
    pub k1: Vec<f64>,
    /// K2 (2B, 2B).
    pub k2: Vec<f64>,
    /// O2 (N, 2B).
    pub o2: Vec<f64>,
}

/// One forward pass.
struct Pass {
    /// α (T, T).
    alpha: Vec<f64>,
    /// X (T, 2B).
    x: Vec<f64>,
    /// σ (T).
    sigma: Vec<f64>,
    /// Σ_t σ_t X_t (2B).
    mixed: Vec<f64>,
    /// p̂ (N).
    predicted: Vec<f64>,
}

impl Plain {
    /// All weights zero.
    pub fn zero(tokens: usize, len: usize) -> Self {
        let b = tokens + len;
        Plain { tokens, len, k1: vec![0.0; b * b], k2: vec![0.0; 4 * b * b], o2: vec![0.0; tokens * 2 * b] }
    }

    fn basis(&self) -> usize {
        self.tokens + self.len
    }

    /// A matrix and its number of columns.
    pub fn block(&self, block: Block) -> (&[f64], usize) {
        match block {
            Block::O2 => (&self.o2, 2 * self.basis()),
            Block::K2 => (&self.k2, 2 * self.basis()),
            Block::K1 => (&self.k1, self.basis()),
        }
    }

    /// The same, to write.
    pub fn block_mut(&mut self, block: Block) -> &mut [f64] {
        match block {
            Block::O2 => &mut self.o2,
            Block::K2 => &mut self.k2,
            Block::K1 => &mut self.k1,
        }
    }

    /// K2 becomes C Σ_v w_E(v) w_1(v)ᵀ and nothing else.
    pub fn set_keys(&mut self, c: f64) {
        let b = self.basis();
        self.k2.fill(0.0);
        (0..self.tokens).for_each(|v| self.k2[v * 2 * b + b + v] = c);
    }

    fn forward(&self, z: &[usize]) -> Pass {
        let (n, len, b) = (self.tokens, self.len, self.basis());
        let mut alpha = vec![0.0; len * len];
        let mut x = vec![0.0; len * 2 * b];
        for t in 0..len {
            let row = &mut alpha[t * len..t * len + t + 1];
            for s in 0..=t {
                let at = |i: usize, j: usize| self.k1[i * b + j];
                row[s] = at(z[t], z[s]) + at(z[t], n + s) + at(n + t, z[s]) + at(n + t, n + s);
            }
            softmax(row);
            let out = &mut x[t * 2 * b..(t + 1) * 2 * b];
            (out[z[t]], out[n + t]) = (1.0, 1.0);
            for s in 0..=t {
                out[b + z[s]] += row[s];
                out[b + n + s] = row[s];
            }
        }
        let query = self.query(&x);
        let mut sigma: Vec<f64> = x.chunks_exact(2 * b).map(|x| dot(x, &query)).collect();
        softmax(&mut sigma);
        let mut mixed = vec![0.0; 2 * b];
        for (s, x) in sigma.iter().zip(x.chunks_exact(2 * b)) {
            mixed.iter_mut().zip(x).for_each(|(m, x)| *m += s * x);
        }
        let mut predicted: Vec<f64> = self.o2.chunks_exact(2 * b).map(|row| dot(row, &mixed)).collect();
        softmax(&mut predicted);
        Pass { alpha, x, sigma, mixed, predicted }
    }

    /// X (T, 2B) and Σ_t σ_t X_t (2B) of a sequence.
    pub(super) fn states(&self, z: &[usize]) -> (Vec<f64>, Vec<f64>) {
        let pass = self.forward(z);
        (pass.x, pass.mixed)
    }

    /// X_Tᵀ K2.
    fn query(&self, x: &[f64]) -> Vec<f64> {
        let w = 2 * self.basis();
        let mut query = vec![0.0; w];
        for (i, x) in x[(self.len - 1) * w..].iter().enumerate().filter(|(_, x)| **x != 0.0) {
            query.iter_mut().zip(&self.k2[i * w..(i + 1) * w]).for_each(|(q, k)| *q += x * k);
        }
        query
    }

    /// Σ w · −ln p̂(o).
    pub fn loss(&self, words: &[Word]) -> f64 {
        words
            .iter()
            .map(|w| -w.weight * ln(self.forward(&w.tokens).predicted[w.label]))
            .collect::<Sum>()
            .value()
    }

    /// −∂L/∂ one matrix, summed over `words` with compensation. The same bits on any number of
    /// threads.
    pub fn descent(&self, words: &[Word], block: Block) -> Vec<f64> {
        let size = self.block(block).0.len();
        // Few parts: each holds a matrix of sums.
        let parts: Vec<Vec<Sum>> = words
            .par_chunks(words.len().div_ceil(16).max(1))
            .map(|words| {
                let mut sums = vec![Sum::new(); size];
                words.iter().for_each(|w| self.backward(w, block, &mut sums));
                sums
            })
            .collect();
        let mut total = vec![Sum::new(); size];
        for part in &parts {
            total.iter_mut().zip(part).for_each(|(t, p)| t.merge(*p));
        }
        total.iter().map(Sum::value).collect()
    }

    /// Adds w · −∂ℓ/∂ the matrix.
    fn backward(&self, word: &Word, block: Block, out: &mut [Sum]) {
        let (n, len, b) = (self.tokens, self.len, self.basis());
        let (w, z) = (2 * b, &word.tokens);
        let pass = self.forward(z);
        let hot = |k: usize| f64::from(u8::from(k == word.label));
        let residual: Vec<f64> =
            pass.predicted.iter().enumerate().map(|(k, p)| word.weight * (hot(k) - p)).collect();
        if block == Block::O2 {
            for (row, r) in out.chunks_exact_mut(w).zip(&residual) {
                row.iter_mut().zip(&pass.mixed).filter(|(_, x)| **x != 0.0).for_each(|(o, x)| o.add(r * x));
            }
            return;
        }
        // What a unit of each basis vector in Σ σX is worth.
        let mut worth = vec![0.0; w];
        for (r, row) in residual.iter().zip(self.o2.chunks_exact(w)) {
            worth.iter_mut().zip(row).for_each(|(u, o)| *u += r * o);
        }
        let mut score: Vec<f64> = pass.x.chunks_exact(w).map(|x| dot(x, &worth)).collect();
        softmax_backward(&pass.sigma, &mut score);
        let last = &pass.x[(len - 1) * w..];
        // Σ_t dscore_t X_t.
        let mut keys = vec![0.0; w];
        for (d, x) in score.iter().zip(pass.x.chunks_exact(w)) {
            keys.iter_mut().zip(x).for_each(|(k, x)| *k += d * x);
        }
        if block == Block::K2 {
            for (row, x) in out.chunks_exact_mut(w).zip(last).filter(|(_, x)| **x != 0.0) {
                row.iter_mut().zip(&keys).filter(|(_, k)| **k != 0.0).for_each(|(o, k)| o.add(x * k));
            }
            return;
        }
        // dX_t on the images: through the value, as a key, and for t = T as the query.
        let query = self.query(&pass.x);
        for t in 0..len {
            let mut dx: Vec<f64> = (b..w).map(|i| pass.sigma[t] * worth[i] + score[t] * query[i]).collect();
            if t == len - 1 {
                for (i, d) in dx.iter_mut().enumerate() {
                    *d += dot(&self.k2[(b + i) * w..(b + i + 1) * w], &keys);
                }
            }
            let alpha = &pass.alpha[t * len..t * len + t + 1];
            let mut d: Vec<f64> = (0..=t).map(|s| dx[z[s]] + dx[n + s]).collect();
            softmax_backward(alpha, &mut d);
            for (s, d) in d.iter().enumerate() {
                for i in [z[t], n + t] {
                    out[i * b + z[s]].add(*d);
                    out[i * b + n + s].add(*d);
                }
            }
        }
    }

    /// The mean of a gradient over all permutations of the tokens: with q and o fixed in the words
    /// and weights that no permutation changes, the gradient over uniform q and o.
    pub fn symmetrised(&self, block: Block, of: &[f64]) -> Vec<f64> {
        let (n, len, b) = (self.tokens, self.len, self.basis());
        let twice = [(0, Token), (n, Position), (b, Token), (b + n, Position)];
        let (rows, columns, w): (&[_], &[_], _) = match block {
            Block::O2 => (&twice[..1], &twice, 2 * b),
            Block::K2 => (&twice, &twice, 2 * b),
            Block::K1 => (&twice[..2], &twice[..2], b),
        };
        let mean = |x: &mut dyn Iterator<Item = usize>, out: &mut Vec<f64>| {
            let all: Vec<usize> = x.collect();
            let value = all.iter().map(|i| of[*i]).collect::<Sum>().value() / all.len() as f64;
            all.iter().for_each(|i| out[*i] = value);
        };
        let mut out = of.to_vec();
        for &(r, row) in rows {
            for &(c, column) in columns {
                match (row, column) {
                    (Token, Token) => {
                        mean(&mut (0..n).map(|v| (r + v) * w + c + v), &mut out);
                        let off = (0..n * n).filter(|i| i / n != i % n);
                        mean(&mut off.map(|i| (r + i / n) * w + c + i % n), &mut out);
                    }
                    (Token, Position) => {
                        (0..len).for_each(|p| mean(&mut (0..n).map(|v| (r + v) * w + c + p), &mut out));
                    }
                    (Position, Token) => {
                        (0..len).for_each(|p| mean(&mut (0..n).map(|v| (r + p) * w + c + v), &mut out));
                    }
                    (Position, Position) => {}
                }
            }
        }
        out
    }

    /// Diagonal minus off-diagonal of w_UᵀW_O²W_V²w_E in a matrix like O2, symmetrised.
    pub fn token_gap(&self, o2: &[f64]) -> f64 {
        o2[0] - o2[1]
    }

    /// The same of w_UᵀW_O²W_V²w_1.
    pub fn average_gap(&self, o2: &[f64]) -> f64 {
        o2[self.basis()] - o2[self.basis() + 1]
    }

    /// The same of w_EᵀW_K²w_1 in a matrix like K2.
    pub fn key_gap(&self, k2: &[f64]) -> f64 {
        k2[self.basis()] - k2[self.basis() + 1]
    }

    /// Coefficients of p_t p_sᵀ (T, T) in a matrix like K1.
    pub fn positions(&self, k1: &[f64]) -> Vec<f64> {
        let (n, b) = (self.tokens, self.basis());
        (0..self.len).flat_map(|t| k1[(n + t) * b + n..(n + t + 1) * b].iter().copied()).collect()
    }
}

/// `count` sequences of uniform tokens with q = 0 and o = 1, samples 0, 1, .. of `key`, each of
/// weight 1/count.
///
/// # Errors
/// No sequence asked for; what [`TriggerChain::uniform`] refuses.
pub fn sampled(tokens: usize, len: usize, key: &Key, count: usize) -> Result<Vec<Word>> {
    if count == 0 {
        return Err(Error::invalid("count", "0", "count >= 1"));
    }
    let chain = TriggerChain::uniform(tokens, len)?;
    let mut out = Vec::with_capacity(count);
    for n in 0..count as u64 {
        let mut z = vec![0; len];
        chain.draw(key, n, &mut z);
        for (t, z) in z.iter_mut().enumerate().filter(|(_, z)| **z == 2) {
            // Variates 0..T are the chain's.
            *z += key.below(tokens as u64 - 2, n, (len + t) as u32, 0) as usize;
        }
        out.push(Word { weight: 1.0 / count as f64, tokens: z, label: 1 });
    }
    Ok(out)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn softmax(x: &mut [f64]) {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    x.iter_mut().for_each(|x| *x = exp(*x - max));
    let z: f64 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= z);
}

/// d ← m ⊙ (d − ⟨m, d⟩).
fn softmax_backward(m: &[f64], d: &mut [f64]) {
    let mean = dot(m, d);
    d.iter_mut().zip(m).for_each(|(d, m)| *d = m * (*d - mean));
}
