//! Loss and gradients on a whole population, its words and weights found once.

use super::formulas::softmax;
use crate::Result;
use crate::exact::Prior;
use crate::exact::brute::{Gradients, words};
use crate::num::Sum;
use crate::task::Forest;
use rayon::prelude::*;

/// Shares of the words, whose sums are folded in order.
const SHARES: usize = 16;

/// All words of a task.
pub(super) struct Population {
    symbols: usize,
    len: usize,
    /// (words, T).
    tokens: Vec<u32>,
    /// (words, S).
    weights: Vec<f64>,
}

impl Population {
    /// Of `forest` under `prior`.
    ///
    /// # Errors
    /// More words than can be enumerated.
    pub(super) fn new(forest: &Forest, prior: &Prior) -> Result<Self> {
        let (mut tokens, mut weights) = (Vec::new(), Vec::new());
        for word in words(forest, prior)? {
            tokens.extend(word.tokens);
            weights.extend(word.weights);
        }
        Ok(Population { symbols: prior.symbols(), len: forest.seq_len(), tokens, weights })
    }

    /// Words with their weights W (S).
    pub(super) fn words(&self) -> impl Iterator<Item = (&[u32], &[f64])> {
        self.tokens.chunks_exact(self.len).zip(self.weights.chunks_exact(self.symbols))
    }

    /// What the model answers to every word: f (words, S).
    pub(super) fn predictions(&self, a1: &[f64], a2: &[f64]) -> Vec<f64> {
        let mix = mix(a1, self.len);
        let mut work = Work::new(self.len, self.symbols);
        let mut out = Vec::with_capacity(self.weights.len());
        for (word, _) in self.words() {
            work.forward(word, &mix, a2);
            out.extend_from_slice(&work.f);
        }
        out
    }

    /// Loss and gradients at (A1, A2, ε). Same bits for any thread count.
    pub(super) fn evaluate(&self, a1: &[f64], a2: &[f64], eps: f64) -> Gradients {
        let (t, s) = (self.len, self.symbols);
        let mix = mix(a1, t);
        let share = (self.tokens.len() / t).div_ceil(SHARES);
        let shares: Vec<Vec<f64>> = self
            .tokens
            .par_chunks(share * t)
            .zip(self.weights.par_chunks(share * s))
            .map(|(tokens, weights)| {
                // Loss, weight, A1, A2.
                let mut sums = vec![0.0; 2 + t * t + s * s];
                let mut work = Work::new(t, s);
                for (word, w) in tokens.chunks_exact(t).zip(weights.chunks_exact(s)) {
                    work.forward(word, &mix, a2);
                    work.backward(word, w, &mix, eps, &mut sums);
                }
                sums
            })
            .collect();
        let folded: Vec<f64> =
            (0..2 + t * t + s * s).map(|n| shares.iter().map(|x| x[n]).collect::<Sum>().value()).collect();
        Gradients {
            loss: folded[0],
            weight: folded[1],
            a1: folded[2..2 + t * t].to_vec(),
            a2: folded[2 + t * t..].to_vec(),
        }
    }
}

/// M (T, T).
fn mix(a1: &[f64], t: usize) -> Vec<f64> {
    let mut mix = vec![0.0; t * t];
    for i in 0..t {
        softmax(&a1[i * t..i * t + i + 1], &mut mix[i * t..i * t + i + 1]);
    }
    mix
}

/// Of one word.
struct Work {
    a: Vec<f64>,
    z: Vec<f64>,
    v: Vec<f64>,
    f: Vec<f64>,
    r: Vec<f64>,
}

impl Work {
    fn new(t: usize, s: usize) -> Self {
        let (per_t, per_s) = (vec![0.0; t], vec![0.0; s]);
        Work { a: per_t.clone(), z: per_t.clone(), v: per_t, f: per_s.clone(), r: per_s }
    }

    fn forward(&mut self, word: &[u32], mix: &[f64], a2: &[f64]) {
        let (t, s) = (word.len(), self.f.len());
        let row = &a2[word[t - 1] as usize * s..][..s];
        for (i, c) in word.iter().enumerate() {
            self.a[i] = row[*c as usize];
            self.z[i] = mix[i * t..i * t + i + 1].iter().zip(&self.a).map(|(m, a)| m * a).sum();
        }
        softmax(&self.z, &mut self.v);
        self.f.fill(0.0);
        word.iter().zip(&self.v).for_each(|(c, v)| self.f[*c as usize] += v);
    }

    fn backward(&mut self, word: &[u32], w: &[f64], mix: &[f64], eps: f64, sums: &mut [f64]) {
        let (t, s) = (word.len(), self.f.len());
        let (head, rest) = sums.split_at_mut(2);
        let (d1, d2) = rest.split_at_mut(t * t);
        let d2 = &mut d2[word[t - 1] as usize * s..][..s];
        let mut mean = 0.0;
        for (x, (w, f)) in self.r.iter_mut().zip(w.iter().zip(&self.f)) {
            head[0] -= if *w > 0.0 { w * (f + eps).ln() } else { 0.0 };
            head[1] += w;
            *x = if *f > 0.0 { w / (f + eps) } else { 0.0 };
            mean += f * *x;
        }
        for i in 0..t {
            let delta = self.v[i] * (self.r[word[i] as usize] - mean);
            for j in 0..=i {
                let x = delta * mix[i * t + j];
                d1[i * t + j] += x * (self.a[j] - self.z[i]);
                d2[word[j] as usize] += x;
            }
        }
    }
}
