//! Associative memories: W = Σ_i w_U(y_i) w_E(i)ᵀ and what gradient descent makes instead.
//!
//! | symbol | shape | meaning |
//! |---|---|---|
//! | n, d | | stored pairs, dimension |
//! | E, U | (n, d) | inputs and outputs, entries N(0, 1/d): nearly orthonormal |
//! | W | (d, d) | the memory; score of output k for input i: w_U(k)ᵀ W w_E(i) |
//!
//! Pair i is input i with output i; outputs are all different, so recall at W = 0 is chance.

use crate::num::{Sum, exp};
use crate::rng::Key;
use crate::{Error, Result};

/// n random pairs in d dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct Pairs {
    n: usize,
    d: usize,
    inputs: Vec<f64>,
    outputs: Vec<f64>,
}

/// Most numbers of a table (n, n) or (n, d).
const MOST: usize = 1 << 26;

impl Pairs {
    /// Drawn from `key`, sample `draw`.
    ///
    /// # Errors
    /// n below 2, d zero, or tables past 2²⁶ numbers.
    pub fn random(n: usize, d: usize, key: &Key, draw: u32) -> Result<Self> {
        let fits = |a: usize, b: usize| a.checked_mul(b).is_some_and(|x| x <= MOST);
        if n < 2 || d == 0 || !fits(n, n) || !fits(n, d) || !fits(d, d) {
            return Err(Error::invalid(
                "pairs",
                format!("n = {n}, d = {d}"),
                format!("n >= 2, d >= 1, squares <= {MOST}"),
            ));
        }
        let scale = 1.0 / (d as f64).sqrt();
        let table = |which: u64| -> Vec<f64> {
            // Numbers of different tables are apart: MOST is below 2³¹.
            let from = (u64::from(draw) << 32) | which << 31;
            (0..(n * d) as u64).map(|i| scale * key.normal(from + i)).collect()
        };
        Ok(Pairs { n, d, inputs: table(0), outputs: table(1) })
    }

    /// Given ones, (n, d) each.
    ///
    /// # Errors
    /// Lengths that differ or are no multiple of d, fewer than two pairs.
    pub fn new(d: usize, inputs: Vec<f64>, outputs: Vec<f64>) -> Result<Self> {
        let n = inputs.len().checked_div(d).unwrap_or(0);
        if n < 2 || n * d != inputs.len() || inputs.len() != outputs.len() {
            let problem = format!("{} and {} entries for d = {d}", inputs.len(), outputs.len());
            return Err(Error::invalid("pairs", problem, "(n, d) twice, n >= 2"));
        }
        Ok(Pairs { n, d, inputs, outputs })
    }

    /// W = Σ_i w_U(i) w_E(i)ᵀ (d, d).
    pub fn outer_product(&self) -> Vec<f64> {
        let mut w = vec![0.0; self.d * self.d];
        self.add(&mut w, |_, u| u.to_vec());
        w
    }

    /// w += Σ_i pull(i, w_U(i)) w_E(i)ᵀ.
    fn add(&self, w: &mut [f64], pull: impl Fn(usize, &[f64]) -> Vec<f64>) {
        let d = self.d;
        for (i, (e, u)) in self.inputs.chunks_exact(d).zip(self.outputs.chunks_exact(d)).enumerate() {
            for (row, p) in w.chunks_exact_mut(d).zip(pull(i, u)) {
                row.iter_mut().zip(e).for_each(|(w, e)| *w += p * e);
            }
        }
    }

    /// Scores of all outputs for input `i` (n).
    fn scores(&self, w: &[f64], i: usize, out: &mut [f64]) {
        let e = &self.inputs[i * self.d..(i + 1) * self.d];
        let image: Vec<f64> = w.chunks_exact(self.d).map(|row| dot(row, e)).collect();
        out.iter_mut().zip(self.outputs.chunks_exact(self.d)).for_each(|(o, u)| *o = dot(u, &image));
    }

    /// Share of inputs whose own output has the largest score; ties are misses.
    ///
    /// # Panics
    /// When W is not (d, d).
    pub fn recall(&self, w: &[f64]) -> f64 {
        assert_eq!(w.len(), self.d * self.d, "recall: W");
        let mut scores = vec![0.0; self.n];
        let right = (0..self.n).filter(|i| {
            self.scores(w, *i, &mut scores);
            (0..self.n).all(|k| k == *i || scores[k] < scores[*i])
        });
        right.count() as f64 / self.n as f64
    }

    /// W after `steps` of gradient descent from 0 on Σ_i −ln p̂(i|i), rate `eta`, and the loss per
    /// pair before each step. The gradient is lemma 1's: each step adds η Σ_i Σ_k (1\[k = i\] −
    /// p̂_k) w_U(k) w_E(i)ᵀ. O(steps (n² d + n d²)).
    pub fn descend(&self, steps: usize, eta: f64) -> (Vec<f64>, Vec<f64>) {
        let (n, d) = (self.n, self.d);
        let mut w = vec![0.0; d * d];
        let mut losses = Vec::with_capacity(steps);
        let mut residual = vec![0.0; n];
        for _ in 0..steps {
            let mut loss = Sum::new();
            let mut pulls = vec![0.0; n * d];
            for i in 0..n {
                self.scores(&w, i, &mut residual);
                let own = residual[i];
                let max = residual.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                residual.iter_mut().for_each(|x| *x = exp(*x - max));
                let z: f64 = residual.iter().sum();
                loss.add(crate::num::ln(z) + max - own);
                let pull = &mut pulls[i * d..(i + 1) * d];
                for (k, (r, u)) in residual.iter().zip(self.outputs.chunks_exact(d)).enumerate() {
                    let r = f64::from(u8::from(k == i)) - r / z;
                    pull.iter_mut().zip(u).for_each(|(p, u)| *p += eta * r * u);
                }
            }
            losses.push(loss.value() / n as f64);
            self.add(&mut w, |i, _| pulls[i * d..(i + 1) * d].to_vec());
        }
        (w, losses)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
