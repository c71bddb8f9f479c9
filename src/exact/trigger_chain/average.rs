//! The three steps for any bigrams, q uniform and o uniform among the others: averages of
//! [`Conditional`] over all pairs.
//!
//! Positions get nothing in step 1: given that the condition holds, o is uniform whatever the
//! position. So
//!
//! −∇W_O² = Σ_{k,v} w_U(k) (M_kv W_V²w_E(v) + M'_kv W_V²w_1(v))ᵀ, M_kv = E\[(1\[o = k\] − 1/N)
//! (1/T) Σ_t 1\[z_t = v\]\], M' with ȳ_t(v),
//!
//! and what step 1 makes of W_O² is worth g = M_o·, g' = M'_o· for the target o: the columns of M,
//! M' sum to 0.

use super::{Conditional, TriggerChain};
use crate::Result;
use crate::num::Sum;
use rayon::prelude::*;

/// The steps, each per unit of the rates before it. Positions 0-based, row t, column s <= t, else
/// 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Averaged {
    /// M (N, N).
    pub token: Vec<f64>,
    /// M' (N, N).
    pub average: Vec<f64>,
    /// Coefficient of w_E(q) w_1(q)ᵀ in −∇W_K² (N).
    pub key_own: Vec<f64>,
    /// c_v, c_k and c_x (T, T), see [`Conditional`].
    pub value: Vec<f64>,
    /// See [`Self::value`].
    pub key: Vec<f64>,
    /// See [`Self::value`].
    pub cross: Vec<f64>,
}

impl Averaged {
    /// For first tokens of law `start` (N) and bigrams `pi` (N, N), row = from. O(N² T (T N + N²)),
    /// in parallel over q; the same bits on any number of threads.
    ///
    /// # Errors
    /// What [`TriggerChain::bigram`] refuses, for any of the pairs.
    pub fn new(start: &[f64], pi: &[f64], len: usize) -> Result<Self> {
        let n = start.len();
        // Checks the sizes before anything is made of them.
        TriggerChain::bigram(start, pi, 0, 1, len)?;
        let pairs = (n * (n - 1)) as f64;
        let others = |q: usize| (0..n).filter(move |o| *o != q);
        // Σ_q Σ_t P(z_t = v), Σ_t E ȳ_t(v) for each o: (N, 2N).
        let each = |o: usize| -> Result<Vec<f64>> {
            let mut sums = vec![Sum::new(); 2 * n];
            for q in others(o) {
                let chain = TriggerChain::bigram(start, pi, q, o, len)?;
                for (v, law) in by_symbol(&chain.marginals(), n).iter().enumerate() {
                    let mut before = Sum::new();
                    for (t, p) in law.iter().enumerate() {
                        before.add(*p);
                        sums[v].add(*p);
                        sums[n + v].add(before.value() / (t + 1) as f64);
                    }
                }
            }
            Ok(sums.iter().map(Sum::value).collect())
        };
        let given: Vec<Vec<f64>> = (0..n).into_par_iter().map(each).collect::<Result<_>>()?;
        let centred = |from: usize| -> Vec<f64> {
            let mut out = vec![0.0; n * n];
            for v in 0..n {
                let total = given.iter().map(|g| g[from + v]).collect::<Sum>().value();
                for (k, g) in given.iter().enumerate() {
                    out[k * n + v] = (g[from + v] - total / n as f64) / (pairs * len as f64);
                }
            }
            out
        };
        let (token, average) = (centred(0), centred(n));
        let of_trigger = |q: usize| -> Result<(f64, Vec<Sum>)> {
            let (mut own, mut rows) = (Sum::new(), vec![Sum::new(); 3 * len * len]);
            for o in others(q) {
                let chain = TriggerChain::bigram(start, pi, q, o, len)?;
                let worth = |of: &[f64]| of[o * n..(o + 1) * n].to_vec();
                let c = Conditional::new(&chain, &worth(&token), &worth(&average));
                own.add(c.key_gap.iter().copied().collect::<Sum>().value() / len as f64);
                let all = c.value.iter().chain(&c.key).chain(&c.cross);
                rows.iter_mut().zip(all).for_each(|(sum, x)| sum.add(*x));
            }
            Ok((own.value() / pairs, rows))
        };
        let by_trigger: Vec<(f64, Vec<Sum>)> =
            (0..n).into_par_iter().map(of_trigger).collect::<Result<_>>()?;
        let mut rows = vec![Sum::new(); 3 * len * len];
        for (_, of) in &by_trigger {
            rows.iter_mut().zip(of).for_each(|(sum, x)| sum.merge(*x));
        }
        let rows: Vec<f64> = rows.iter().map(|sum| sum.value() / pairs).collect();
        let part = |i: usize| rows[i * len * len..(i + 1) * len * len].to_vec();
        let key_own = by_trigger.iter().map(|(own, _)| *own).collect();
        Ok(Averaged { token, average, key_own, value: part(0), key: part(1), cross: part(2) })
    }
}

/// Columns of a table (T, N).
fn by_symbol(table: &[f64], n: usize) -> Vec<Vec<f64>> {
    (0..n).map(|v| table.iter().skip(v).step_by(n).copied().collect()).collect()
}
