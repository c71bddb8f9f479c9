//! Bayes predictors of the causal-tree task: the next symbol after the query, given the context.
//!
//! There are three: the counts predictor, the public code's variant of it, and the exact posterior.
//! Neither of the first two is optimal if the roots carry information about π.

use super::causal_tree::{CausalTree, Roots};
use super::{Forest, Task};
use crate::num::{exp, ln};

/// (α + #{i: s_{p(i)} = s_q, s_i = ·}) normalised, s_q the query: the posterior mean of π(·|s_q)
/// given the edges.
///
/// Optimal when the root law does not depend on π. `tokens` (T), `out` (S).
///
/// # Panics
/// When `tokens` or `out` do not fit the task, or a token is not below S.
pub fn bayes_counts(task: &CausalTree, tokens: &[u32], out: &mut [f64]) {
    counts(task, tokens, out, None);
}

/// The predictor of the public code: as [`bayes_counts`], but its parent index -1 of a root reads
/// the *last context token*, so every root counts as a child of position T-2 (0-based; position T-2
/// itself too, if it is a root).
///
/// # Panics
/// As [`bayes_counts`].
pub fn bayes_public(task: &CausalTree, tokens: &[u32], out: &mut [f64]) {
    counts(task, tokens, out, tokens.len().checked_sub(2));
}

/// The exact posterior mean of π(·|s_q) given all tokens; `None` (and `out` untouched) where no
/// closed form exists.
///
/// With uniform roots it is [`bayes_counts`]. Roots drawn from μ carry information about π, and the
/// stationary law has no conjugate form. See [`Mixture`] for finite priors, also those made by
/// quadrature.
///
/// # Panics
/// As [`bayes_counts`].
pub fn bayes_posterior(task: &CausalTree, tokens: &[u32], out: &mut [f64]) -> Option<()> {
    match task.roots() {
        Roots::Uniform => {
            bayes_counts(task, tokens, out);
            Some(())
        }
        Roots::Stationary => None,
    }
}

/// The exact posterior under a prior of finitely many matrices: π_q with root law μ_q, probability
/// w_q.
#[derive(Debug, Clone)]
pub struct Mixture {
    symbols: usize,
    /// (Q).
    log_weight: Vec<f64>,
    /// (S, S, Q) and (S, Q): what one transition, one root adds to every atom's log-likelihood lies
    /// together.
    pi: Vec<f64>,
    log_pi: Vec<f64>,
    log_roots: Vec<f64>,
    /// Transition counts (S, S), root counts (S) and posterior weights (Q) of the latest sequence.
    transitions: Vec<f64>,
    root_counts: Vec<f64>,
    posterior: Vec<f64>,
}

impl Mixture {
    /// The prior `weight` (Q), `pi` (Q, S, S), `roots` (Q, S) over `symbols` (S).
    ///
    /// # Panics
    /// When the lengths do not fit, or there are no atoms.
    pub fn new(symbols: usize, weight: &[f64], pi: &[f64], roots: &[f64]) -> Self {
        let (s, q) = (symbols, weight.len());
        assert!(q > 0 && pi.len() == q * s * s && roots.len() == q * s, "operands do not fit Q and S");
        let by_entry = |x: &[f64], n: usize| -> Vec<f64> {
            (0..n).flat_map(|e| x[e..].iter().step_by(n).copied()).collect()
        };
        let logs = |x: Vec<f64>| x.into_iter().map(ln).collect();
        Mixture {
            symbols,
            log_weight: weight.iter().map(|w| ln(*w)).collect(),
            pi: by_entry(pi, s * s),
            log_pi: logs(by_entry(pi, s * s)),
            log_roots: logs(by_entry(roots, s)),
            transitions: vec![0.0; s * s],
            root_counts: vec![0.0; s],
            posterior: vec![0.0; q],
        }
    }

    /// Posterior mean of π(·|query) into `out` (S), given the word `tokens` (T) over `forest`;
    /// `None` (and `out` untouched) where no atom can have produced it.
    ///
    /// Allocates nothing; O(Q) for each kind of transition that occurs.
    ///
    /// # Panics
    /// When `tokens` or `out` do not fit, or a token is not below S.
    pub fn predict(&mut self, forest: &Forest, tokens: &[u32], out: &mut [f64]) -> Option<()> {
        let (s, q) = (self.symbols, self.posterior.len());
        assert!(tokens.len() == forest.seq_len() && out.len() == s, "operands do not fit the task");
        self.transitions.fill(0.0);
        self.root_counts.fill(0.0);
        for (i, parent) in forest.parents().iter().enumerate() {
            let b = tokens[i] as usize;
            match parent {
                Some(p) => self.transitions[tokens[*p] as usize * s + b] += 1.0,
                None => self.root_counts[b] += 1.0,
            }
        }
        self.posterior.copy_from_slice(&self.log_weight);
        let transitions = self.transitions.iter().zip(self.log_pi.chunks_exact(q));
        let roots = self.root_counts.iter().zip(self.log_roots.chunks_exact(q));
        // Kinds that do not occur are left out: 0 times -inf.
        for (n, logs) in transitions.chain(roots).filter(|(n, _)| **n > 0.0) {
            self.posterior.iter_mut().zip(logs).for_each(|(x, l)| *x += n * l);
        }
        let max = self.posterior.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if max == f64::NEG_INFINITY {
            return None;
        }
        self.posterior.iter_mut().for_each(|x| *x = exp(*x - max));
        let query = tokens[tokens.len() - 1] as usize;
        let mut total = 0.0;
        for (b, out) in out.iter_mut().enumerate() {
            let row = &self.pi[(query * s + b) * q..(query * s + b + 1) * q];
            *out = self.posterior.iter().zip(row).map(|(w, p)| w * p).sum();
            total += *out;
        }
        out.iter_mut().for_each(|p| *p /= total);
        Some(())
    }
}

/// `root_parent`: the position that roots are counted under, if any.
fn counts(task: &CausalTree, tokens: &[u32], out: &mut [f64], root_parent: Option<usize>) {
    assert!(tokens.len() == task.seq_len() && out.len() == task.vocab(), "operands do not fit the task");
    let query = tokens[tokens.len() - 1];
    let alpha = task.alpha();
    out.fill(alpha);
    let mut total = alpha * out.len() as f64;
    for (i, parent) in task.forest().parents().iter().enumerate() {
        if let Some(p) = parent.or(root_parent)
            && tokens[p] == query
        {
            out[tokens[i] as usize] += 1.0;
            total += 1.0;
        }
    }
    out.iter_mut().for_each(|p| *p /= total);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Forest;

    /// Predictive weights of all sequences, roots uniform: W = S^{-1-|R|} Π_edges (α + N_ab)/(Sα +
    /// N_a·), times the predictive probability of the target.
    fn losses(forest: Forest, s: usize, alpha: f64) -> [f64; 3] {
        let task = CausalTree::new(forest, s, alpha, Roots::Uniform).unwrap();
        let t = task.seq_len();
        let mut tokens = vec![0u32; t];
        let mut f = [vec![0.0; s], vec![0.0; s], vec![0.0; s]];
        let (mut loss, mut mass) = ([0.0; 3], 0.0);
        for code in 0..s.pow(t as u32) {
            let mut c = code;
            for x in &mut tokens {
                *x = (c % s) as u32;
                c /= s;
            }
            let mut n = vec![vec![0.0; s]; s];
            let mut w = 1.0 / s as f64;
            for (i, p) in task.forest().parents().iter().enumerate() {
                let b = tokens[i] as usize;
                w *= match p {
                    None => 1.0 / s as f64,
                    Some(p) => {
                        let row = &mut n[tokens[*p] as usize];
                        let q = (alpha + row[b]) / (s as f64 * alpha + row.iter().sum::<f64>());
                        row[b] += 1.0;
                        q
                    }
                };
            }
            let row = &n[tokens[t - 1] as usize];
            bayes_counts(&task, &tokens, &mut f[0]);
            bayes_posterior(&task, &tokens, &mut f[1]).unwrap();
            bayes_public(&task, &tokens, &mut f[2]);
            for b in 0..s {
                let w = w * (alpha + row[b]) / (s as f64 * alpha + row.iter().sum::<f64>());
                mass += w;
                for (l, f) in loss.iter_mut().zip(&f) {
                    *l -= w * f[b].ln();
                }
            }
        }
        assert!((mass - 1.0).abs() < 1e-13, "{mass}");
        loss
    }

    #[test]
    fn losses_by_enumeration_are_those_of_the_theory() {
        let [counts, posterior, public] = losses(Forest::icl(9).unwrap(), 2, 0.1);
        println!("counts {counts:.7}, posterior {posterior:.7}, public {public:.7}");
        assert!((counts - 0.262535).abs() < 6e-7, "{counts}");
        assert!((posterior - 0.262535).abs() < 6e-7, "{posterior}");
        assert!((public - 0.407845).abs() < 6e-7, "{public}");
    }

    #[test]
    fn predictors_by_hand() {
        // Forest 0→1, 0→2, root 3; query 1.
        let forest = Forest::from_parents(&[-1, 0, 0, -1]).unwrap();
        let task = CausalTree::new(forest.clone(), 3, 0.5, Roots::Uniform).unwrap();
        let mut out = [f64::NAN; 3];
        bayes_counts(&task, &[1, 2, 0, 1, 1], &mut out);
        assert_eq!(out, [1.5 / 3.5, 0.5 / 3.5, 1.5 / 3.5]);
        // The last context token is 1, the query: both roots (tokens 1 and 1) count as children.
        bayes_public(&task, &[1, 2, 0, 1, 1], &mut out);
        assert_eq!(out, [1.5 / 5.5, 2.5 / 5.5, 1.5 / 5.5]);
        // Last context token 0 and query 1: no root counts.
        bayes_public(&task, &[1, 2, 0, 0, 1], &mut out);
        assert_eq!(out, [1.5 / 3.5, 0.5 / 3.5, 1.5 / 3.5]);
        let stationary = CausalTree::new(forest, 3, 0.5, Roots::Stationary).unwrap();
        assert_eq!(bayes_posterior(&stationary, &[1, 2, 0, 1, 1], &mut out), None);
    }
}
