//! The three top-down gradient steps in closed form (Bietti et al. 2023): on W_O², then W_K², then
//! W_K¹.
//!
//! | symbol | shape | meaning |
//! |---|---|---|
//! | ȳ_t(v) | | share of v among z_1..z_t: what uniform attention of layer 1 brings to position t |
//! | g, g' | (S) | what step 1 made z_t, ȳ_t worth for the target: G_t = g(z_t) + Σ_v g'(v) ȳ_t(v); a1\[· = o\], a'1\[· = o\] |
//! | G°_t | | G_t minus its mean over t |
//! | a, a' | | gaps (diagonal − off-diagonal) of w_UᵀW_O²W_V²w_E, w_UᵀW_O²W_V²w_1 per η₁ |
//! | c_v, c_k, c_x | (T, T) | coefficient of p_t p_sᵀ in −∇W_K¹, per η₁: value path; per η₁C: key path, value path through layer 2 |
//!
//! Step 1 is exact at any rate. Steps 2 and 3 take the model's own prediction for uniform, an error
//! O(η₁).

use super::{LUMPED, TriggerChain};
use crate::Result;
use crate::num::Sum;

/// Steps 2 and 3 for one q and o, given what step 1 made of W_O². Positions 0-based, row t, column
/// s <= t, else 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Conditional {
    /// E\[G°_t ȳ_t(q)\] (T): T times the coefficient of w_E(q) w_1(q)ᵀ in −∇W_K² is its sum.
    pub key_gap: Vec<f64>,
    /// c_v = (E g'(z_s) − E ȳ_t(g'))/(Tt).
    pub value: Vec<f64>,
    /// c_k = E\[G°_t (1\[z_s = q\] − ȳ_t(q))\]/(Tt).
    pub key: Vec<f64>,
    /// c_x = E\[(ȳ_t(q) − mean_{t'} ȳ_{t'}(q)) (g'(z_s) − ȳ_t(g'))\]/(Tt).
    pub cross: Vec<f64>,
}

/// out[t] = (1/(t + 1)) Σ_{s <= t} x[s] along rows of `x` (T, T).
fn mean_along_rows(x: &[f64], n: usize) -> Vec<f64> {
    x.chunks_exact(n).flat_map(running_mean).collect()
}

fn running_mean(x: &[f64]) -> Vec<f64> {
    let mut sum = Sum::new();
    let mean = |(t, x): (usize, &f64)| {
        sum.add(*x);
        sum.value() / (t + 1) as f64
    };
    x.iter().enumerate().map(mean).collect()
}

/// The same down columns.
fn mean_down_columns(x: &[f64], n: usize) -> Vec<f64> {
    let mut sums = vec![Sum::new(); n];
    let mut out = Vec::with_capacity(n * n);
    for (t, row) in x.chunks_exact(n).enumerate() {
        for (sum, x) in sums.iter_mut().zip(row) {
            sum.add(*x);
            out.push(sum.value() / (t + 1) as f64);
        }
    }
    out
}

/// Each column minus its mean over all rows.
fn centre_columns(x: &mut [f64], n: usize) {
    for s in 0..n {
        let mean = (0..n).map(|t| x[t * n + s]).collect::<Sum>().value() / n as f64;
        (0..n).for_each(|t| x[t * n + s] -= mean);
    }
}

impl Conditional {
    /// From g, g' (S) of the chain's symbols. O(T² S).
    ///
    /// # Panics
    /// When a length is not S.
    pub fn new(chain: &TriggerChain, g: &[f64], g_mean: &[f64]) -> Self {
        let n = chain.seq_len();
        // E g'(z_t) 1[z_s = q], and its means over z and over q.
        let second = chain.with_trigger(g_mean);
        let mut worth = mean_down_columns(&second, n);
        worth.iter_mut().zip(chain.with_trigger(g)).for_each(|(w, x)| *w += x);
        // E G°_t 1[z_s = q], E G°_t ȳ_s(q).
        centre_columns(&mut worth, n);
        let averaged = mean_along_rows(&worth, n);
        let key_gap = (0..n).map(|t| averaged[t * n + t]).collect();
        // E g'(z_s) (ȳ_t(q) − mean ȳ(q)), entry (s, t), and the same of ȳ_s(g').
        let mut shares = mean_along_rows(&second, n);
        for row in shares.chunks_exact_mut(n) {
            let mean = row.iter().copied().collect::<Sum>().value() / n as f64;
            row.iter_mut().for_each(|x| *x -= mean);
        }
        let both = mean_down_columns(&shares, n);
        let first = chain.mean(g_mean);
        let first_mean = running_mean(&first);
        let mut out =
            Conditional { key_gap, value: vec![0.0; n * n], key: vec![0.0; n * n], cross: vec![0.0; n * n] };
        for t in 0..n {
            let scale = 1.0 / (n * (t + 1)) as f64;
            for s in 0..=t {
                out.value[t * n + s] = scale * (first[s] - first_mean[t]);
                out.key[t * n + s] = scale * (worth[t * n + s] - averaged[t * n + t]);
                out.cross[t * n + s] = scale * (shares[s * n + t] - both[t * n + t]);
            }
        }
        out
    }
}

/// The three steps for uniform tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Steps {
    /// a.
    pub token: f64,
    /// a'.
    pub average: f64,
    /// Gap of w_EᵀW_K²w_1 per η₁η₂.
    pub key_gap: f64,
    /// c_v, c_k and c_x.
    pub rows: Conditional,
}

impl Steps {
    /// For a vocabulary of `n` and sequences of `len`. O(T²).
    ///
    /// # Errors
    /// What [`TriggerChain::uniform`] refuses.
    pub fn uniform(n: usize, len: usize) -> Result<Self> {
        let chain = TriggerChain::uniform(n, len)?;
        let is_output = [0.0, 1.0, 0.0];
        debug_assert_eq!(LUMPED[1], chain.output());
        let excess: Vec<f64> = chain.mean(&is_output).iter().map(|p| p - 1.0 / n as f64).collect();
        let scale = 1.0 / ((n - 1) * len) as f64;
        let total = |x: &[f64]| scale * x.iter().copied().collect::<Sum>().value();
        let (token, average) = (total(&excess), total(&running_mean(&excess)));
        let rows = Conditional::new(&chain, &is_output.map(|x| token * x), &is_output.map(|x| average * x));
        let key_gap = total(&rows.key_gap);
        Ok(Steps { token, average, key_gap, rows })
    }

    /// c_v + C (c_k + c_x) (T, T).
    pub fn third(&self, c: f64) -> Vec<f64> {
        let r = &self.rows;
        r.value.iter().zip(&r.key).zip(&r.cross).map(|((v, k), x)| v + c * (k + x)).collect()
    }
}
