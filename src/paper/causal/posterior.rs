//! The loss of the exact posterior, for roots that carry information about π.

use crate::Error;
use crate::batch::{Batch, divisor};
use crate::exact::{FinitePrior, quadrature};
use crate::num::Sum;
use crate::paper::cross_entropy;
use crate::task::bayes::Mixture;
use crate::task::{CausalTree, Task};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Kinds of sequences times atoms that the posterior may cost: some seconds.
const MOST_POSTERIOR_TERMS: usize = 1 << 30;

/// Loss of the exact posterior at S = 2, by quadrature over π; `None` for larger alphabets, and
/// where the quadrature would take too long or does not converge.
pub(super) fn loss(task: &CausalTree, batches: &[&Batch]) -> Option<f64> {
    let forest = task.forest();
    if task.vocab() != 2 {
        return None;
    }
    // Sequences with the same counts and query have the same posterior: one of them, and Σ w y.
    let mut weight_sum = Sum::new();
    let mut kinds: BTreeMap<[u32; 7], (&[u32], [f64; 2])> = BTreeMap::new();
    for batch in batches {
        for i in 0..batch.seqs() {
            let (tokens, target, weight) = (batch.sequence(i), batch.law(i), batch.weights()[i]);
            weight_sum.add(weight);
            let mut key = [0; 7];
            for (i, p) in forest.parents().iter().enumerate() {
                key[p.map_or(4, |p| 2 * tokens[p] as usize) + tokens[i] as usize] += 1;
            }
            key[6] = tokens[tokens.len() - 1];
            let kind = kinds.entry(key).or_insert((tokens, [0.0; 2]));
            (0..2).for_each(|b| kind.1[b] += weight * target[b]);
        }
    }
    let by = divisor(weight_sum.value());
    let kinds: Vec<_> = kinds.into_values().collect();
    let loss_under = |prior: &FinitePrior| {
        if prior.atoms() * kinds.len() > MOST_POSTERIOR_TERMS {
            return Err(Error::invalid("posterior", "too many terms", "fewer"));
        }
        let mixture = Mixture::new(2, prior.weight(), prior.pi(), prior.roots());
        let of_chunk = |kinds: &[(&[u32], [f64; 2])]| {
            let (mut mixture, mut f, mut sum) = (mixture.clone(), [0.0; 2], Sum::new());
            for (tokens, target) in kinds {
                match mixture.predict(forest, tokens, &mut f) {
                    Some(()) => sum.add(cross_entropy(target, &f)),
                    None => sum.add(f64::NAN),
                }
            }
            sum
        };
        // Chunks of one size, folded in order: the same bits for any number of threads.
        let chunks: Vec<Sum> = kinds.par_chunks(64).map(of_chunk).collect();
        let mut total = Sum::new();
        chunks.into_iter().for_each(|s| total.merge(s));
        Ok(total.value() / by)
    };
    let of_task = |pairs: &FinitePrior| loss_under(&pairs.of_task(task.floor(), task.roots())?);
    Some(quadrature::until_converged(task.alpha(), of_task).ok()?.loss)
}
