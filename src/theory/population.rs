//! The words of a population with their weights, and what the model answers to each.

use super::formulas::softmax;
use crate::Result;
use crate::exact::Prior;
use crate::exact::brute::words;
use crate::task::Forest;

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
}

impl Work {
    fn new(t: usize, s: usize) -> Self {
        let each = vec![0.0; t];
        Work { a: each.clone(), z: each.clone(), v: each, f: vec![0.0; s] }
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
}
