//! The closed forms of theory part 2 under test, each a function that a test can replace by a wrong
//! one.

use crate::Result;
use crate::exact::trigger_chain::{Averaged, Steps};
use crate::model::{Memories, Memory};
use crate::num::Sum;

/// The pieces that they are made of.
#[derive(Debug, Clone, Copy)]
pub struct MemoryFormulas {
    /// What pulls logit k, from (1\[y = k\] or its probability, p̂_k).
    pub residual: fn(f64, f64) -> f64,
    /// What attention to a key is worth to a logit, from (u_k(t), u_k) (lemma 3).
    pub advantage: fn(f64, f64) -> f64,
    /// The three steps, from (N, T).
    pub steps: fn(usize, usize) -> Result<Steps>,
    /// The three steps under any bigrams, from (π_u, π_b, T).
    pub averaged: fn(&[f64], &[f64], usize) -> Result<Averaged>,
    /// c_v + C (c_k + c_x) (T, T).
    pub third: fn(&Steps, f64) -> Vec<f64>,
    /// Writes the three memories into parameters.
    pub written: fn(&Memory<f64>, &mut [f64], &Memories<'_>) -> Result<()>,
    /// From (n, d): variances of the scores of one wrong output (about 0) and of the right one
    /// (about 1) in a memory of n random pairs in d dimensions, both over ‖w_U(i)‖ ‖w_E(i)‖, which
    /// moves them together. n/d² of the other pairs; 2/d of the overlaps with the wrong pair; 1/d
    /// of the two lengths.
    pub noise: fn(usize, usize) -> [f64; 2],
    /// From (N, T, samples), for one step of rate 1 on x = w_E(y) + p_t: the lead 1/N of the right
    /// output, and the root mean square of an output's answer to p_t.
    pub filter: fn(usize, usize, usize) -> [f64; 2],
}

impl Default for MemoryFormulas {
    fn default() -> Self {
        MemoryFormulas {
            residual: |y, p| y - p,
            advantage: |of, mean| of - mean,
            steps: Steps::uniform,
            averaged: Averaged::new,
            third: Steps::third,
            written: |model, params, what| model.write_memories(params, what),
            noise: |n, d| {
                let (n, d) = (n as f64, d as f64);
                [(n - 2.0) / (d * d) + 2.0 / d, (n - 1.0) / (d * d) + 1.0 / d]
            },
            filter: |n, t, samples| {
                let (n, t, samples) = (n as f64, t as f64, samples as f64);
                // Of each sample at t, 1[y = k] − 1/N.
                [1.0 / n, ((n - 1.0) / (n * n * t * samples)).sqrt()]
            },
        }
    }
}

/// Inputs with a joint law of labels.
pub(super) struct Labelled<'a> {
    /// Dimension.
    pub d: usize,
    /// x (M, d).
    pub inputs: &'a [f64],
    /// P(input m, label k) (M, K).
    pub joint: &'a [f64],
    /// w_U (K, d).
    pub outputs: &'a [f64],
}

impl Labelled<'_> {
    pub(super) fn classes(&self) -> usize {
        self.outputs.len() / self.d
    }

    /// p̂(k|x_m) (M, K) at W (d, d).
    fn predicted(&self, w: &[f64]) -> Vec<f64> {
        let (d, k) = (self.d, self.classes());
        let mut out = Vec::with_capacity(self.joint.len());
        for x in self.inputs.chunks_exact(d) {
            let image: Vec<f64> = w.chunks_exact(d).map(|row| dot(row, x)).collect();
            let mut logits: Vec<f64> = self.outputs.chunks_exact(d).map(|u| dot(u, &image)).collect();
            softmax(&mut logits);
            debug_assert_eq!(logits.len(), k);
            out.extend(logits);
        }
        out
    }
}

impl MemoryFormulas {
    /// Lemma 1: −∇L(W) = Σ_{z,k} p(z) (p(k|z) − p̂(k|z)) w_U(k) w_E(z)ᵀ, W (d, d).
    pub(super) fn lemma1(&self, of: &Labelled<'_>, w: &[f64]) -> Vec<f64> {
        let (d, k) = (of.d, of.classes());
        let mut out = vec![Sum::new(); d * d];
        for (m, predicted) in of.predicted(w).chunks_exact(k).enumerate() {
            let joint = &of.joint[m * k..(m + 1) * k];
            let p: f64 = joint.iter().sum();
            for c in 0..k {
                let pull = p * (self.residual)(joint[c] / p, predicted[c]);
                outer(&mut out, pull, &of.outputs[c * d..(c + 1) * d], &of.inputs[m * d..(m + 1) * d]);
            }
        }
        out.iter().map(Sum::value).collect()
    }

    /// Lemma 2: −∇L(W) = Σ_k p(k) w_U(k) (μ_k − μ̂_k)ᵀ, μ_k = E\[x|k\], μ̂_k = E\[p̂(k|x) x\]/p(k).
    pub(super) fn lemma2(&self, of: &Labelled<'_>, w: &[f64]) -> Vec<f64> {
        let (d, k, predicted) = (of.d, of.classes(), of.predicted(w));
        let rows: Vec<f64> = of.joint.chunks_exact(k).map(|r| r.iter().sum()).collect();
        let mut out = vec![Sum::new(); d * d];
        for c in 0..k {
            let p: f64 = of.joint.iter().skip(c).step_by(k).sum();
            let mean = |weight: &dyn Fn(usize) -> f64, i: usize| {
                (0..rows.len()).map(|m| weight(m) * of.inputs[m * d + i]).collect::<Sum>().value() / p
            };
            let pull: Vec<f64> = (0..d)
                .map(|i| {
                    let seen = mean(&|m| of.joint[m * k + c], i);
                    let expected = mean(&|m| rows[m] * predicted[m * k + c], i);
                    (self.residual)(seen, expected)
                })
                .collect();
            outer(&mut out, p, &of.outputs[c * d..(c + 1) * d], &pull);
        }
        out.iter().map(Sum::value).collect()
    }

    /// Lemma 3: −∇L(W_K) = E Σ_k (1\[y = k\] − p̂_k) Σ_t σ_t (u_k(t) − u_k) x_q x_tᵀ for one
    /// sequence x (T, d) whose last position is the query; `values` (K, d): w_U(k)ᵀΦ. Adds `weight`
    /// times it.
    pub(super) fn lemma3(
        &self,
        x: &[f64],
        values: &[f64],
        label: usize,
        w: &[f64],
        weight: f64,
        out: &mut [Sum],
    ) {
        let d = (w.len() as f64).sqrt() as usize;
        let query = &x[x.len() - d..];
        let score = |x: &[f64]| (0..d * d).map(|i| query[i / d] * w[i] * x[i % d]).sum::<f64>();
        let mut sigma: Vec<f64> = x.chunks_exact(d).map(score).collect();
        softmax(&mut sigma);
        let each = |v: &[f64]| -> Vec<f64> { x.chunks_exact(d).map(|x| dot(v, x)).collect() };
        let mut predicted: Vec<f64> = values.chunks_exact(d).map(|v| dot(&each(v), &sigma)).collect();
        let logits = predicted.clone();
        softmax(&mut predicted);
        for (k, v) in values.chunks_exact(d).enumerate() {
            let pull = weight * (self.residual)(f64::from(u8::from(k == label)), predicted[k]);
            for ((u, s), key) in each(v).iter().zip(&sigma).zip(x.chunks_exact(d)) {
                outer(out, pull * s * (self.advantage)(*u, logits[k]), query, key);
            }
        }
    }
}

/// out += c a bᵀ.
fn outer(out: &mut [Sum], c: f64, a: &[f64], b: &[f64]) {
    for (row, a) in out.chunks_exact_mut(b.len()).zip(a) {
        row.iter_mut().zip(b).for_each(|(o, b)| o.add(c * a * b));
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn softmax(x: &mut [f64]) {
    let copy = x.to_vec();
    super::formulas::softmax(&copy, x);
}
