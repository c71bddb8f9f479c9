//! Loss and gradient over the shards of a batch.

use super::{Objective, Plan};
use crate::batch::Batch;
use crate::model::{Model, Workspace};
use crate::num::Sum;
use crate::source::{Source, SourceWork};
use crate::{Error, Result};
use popgrad_kernels::{Elem, Kernels};
use rayon::prelude::*;

/// One shard: its slice of the batch and the memory it works in.
struct Shard<E> {
    /// First sample within the batch, and how many.
    first: usize,
    count: usize,
    source: SourceWork,
    batch: Batch,
    ws: Workspace<E>,
    grad: Vec<E>,
    loss: Result<Sum>,
    /// Test chunks that this shard evaluates.
    tests: Vec<Batch>,
}

impl<E: Elem> Shard<E> {
    /// Loss and gradient on the shard's batch; the gradient stays in `self.grad`.
    fn gradient(&mut self, model: &dyn Model<E>, params: &[E]) -> Result<Sum> {
        model.forward(params, &self.batch, &mut self.ws)?;
        model.backward(params, &self.batch, &mut self.ws, &mut self.grad)?;
        Ok(self.ws.weighted_loss(self.batch.weights()))
    }

    /// Loss on the shard's part of the test set.
    fn test_loss(&mut self, model: &dyn Model<E>, params: &[E]) -> Result<Sum> {
        let mut sum = Sum::new();
        for chunk in &self.tests {
            model.forward(params, chunk, &mut self.ws)?;
            sum.add(self.ws.weighted_loss(chunk.weights()).value());
        }
        Ok(sum)
    }
}

/// Range of part `i` of `n` items cut into `parts` nearly equal parts.
pub(crate) fn part(n: usize, parts: usize, i: usize) -> (usize, usize) {
    // In u128 because n * i may exceed 64 bits on the way.
    let cut = |i: usize| (n as u128 * i as u128 / parts as u128) as usize;
    (cut(i), cut(i + 1) - cut(i))
}

/// Bytes that a [`Trainer`](super::Trainer) of this model and plan allocates for parameters, gradients and activations, test set aside;
/// `None` when that overflows.
pub fn memory<E: Elem>(model: &dyn Model<E>, plan: &Plan) -> Option<usize> {
    let shards = plan.shards.min(plan.batch).max(1);
    let per_shard = plan.batch.div_ceil(shards);
    let [arena, kernel] = model.workspace_len(per_shard)?;
    let shard = arena.checked_add(kernel)?.checked_add(model.layout().len())?;
    let elements = shard.checked_mul(shards)?.checked_add(model.layout().len().checked_mul(2)?)?;
    let row = model.seq_len() * size_of::<u32>() + (2 * model.vocab() + 2) * size_of::<f64>();
    elements.checked_mul(size_of::<E>())?.checked_add(plan.batch.checked_mul(row)?)
}

/// Entries that are folded at a time: their sums in f64 stay in the first-level cache.
const FOLD: usize = 1024;

/// Gradients of up to this many entries, over all shards, are folded where the step runs: waking other threads takes longer.
const FOLD_ALONE: usize = 1 << 18;

/// `out` = `factor` times the sum of entries `from ..` of `parts` gradients, in order, in f64; on several threads where that is much.
pub(super) fn fold<'g, E: Elem>(
    kernels: &Kernels<E>,
    parts: usize,
    gradient: &(dyn Fn(usize) -> &'g [E] + Sync),
    from: usize,
    factor: f64,
    out: &mut [E],
) {
    let chunk = |(i, out): (usize, &mut [E])| {
        let mut sums = [0.0; FOLD];
        let sums = &mut sums[..out.len()];
        for part in 0..parts {
            let entries = &gradient(part)[from + i * FOLD..][..out.len()];
            kernels.accumulate(entries, sums).expect("as many sums as entries");
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = E::from_f64(factor * *sum);
        }
    };
    if out.len() * parts <= FOLD_ALONE {
        out.chunks_mut(FOLD).enumerate().for_each(chunk);
    } else {
        out.par_chunks_mut(FOLD).enumerate().for_each(chunk);
    }
}

/// A model on batches from a source: every step takes the next `plan.batch` sequences, shard by shard.
pub struct Sharded<'a, E: Elem> {
    model: &'a dyn Model<E>,
    source: &'a dyn Source,
    kernels: Kernels<E>,
    batch: usize,
    shards: Vec<Shard<E>>,
}

impl<'a, E: Elem> Sharded<'a, E> {
    /// Allocates the shards.
    ///
    /// # Errors
    /// When plan, model and source do not fit together, or memory sizes overflow.
    pub fn new(model: &'a dyn Model<E>, source: &'a dyn Source, plan: &Plan) -> Result<Self> {
        plan.check()?;
        let (t, s) = (source.seq_len(), source.vocab());
        if (t, s) != (model.seq_len(), model.vocab()) {
            let allowed = format!("T = {}, S = {} as in the model", model.seq_len(), model.vocab());
            return Err(Error::invalid("source", format!("T = {t}, S = {s}"), allowed));
        }
        let parts = plan.shards.min(plan.batch);
        let shards = (0..parts)
            .map(|i| {
                let (first, count) = part(plan.batch, parts, i);
                Ok(Shard {
                    first,
                    count,
                    source: source.work(),
                    batch: Batch::with_capacity(count, t, s)?,
                    ws: model.workspace(count)?,
                    grad: vec![E::ZERO; model.layout().len()],
                    loss: Ok(Sum::new()),
                    tests: Vec::new(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Sharded { model, source, kernels: Kernels::from_env()?, batch: plan.batch, shards })
    }

    /// Draws the test set: samples `0..size` of `source`, kept for all evaluations.
    ///
    /// # Errors
    /// When it does not fit memory.
    pub fn set_test(&mut self, source: &dyn Source, size: usize) -> Result<()> {
        if size == 0 {
            return Err(Error::invalid("test_size", "0", "test_size >= 1"));
        }
        let parts = self.shards.len();
        self.shards.par_iter_mut().enumerate().try_for_each(|(i, shard)| {
            let (first, count) = part(size, parts, i);
            let mut work = source.work();
            shard.tests.clear();
            for start in (first..first + count).step_by(shard.count) {
                let n = shard.count.min(first + count - start);
                let mut chunk = Batch::with_capacity(n, source.seq_len(), source.vocab())?;
                source.fill(start as u64, n, size, &mut work, &mut chunk);
                shard.tests.push(chunk);
            }
            Ok(())
        })
    }

    /// The test set, in sample order.
    pub fn test_batches(&self) -> impl Iterator<Item = &Batch> {
        self.shards.iter().flat_map(|s| &s.tests)
    }

    fn fold_losses(&mut self) -> Result<f64> {
        let mut sum = Sum::new();
        for shard in &mut self.shards {
            let loss = std::mem::replace(&mut shard.loss, Ok(Sum::new()))?;
            sum.add(loss.value());
        }
        Ok(sum.value())
    }
}

impl<E: Elem> Objective<E> for Sharded<'_, E> {
    fn len(&self) -> usize {
        self.model.layout().len()
    }

    /// On sequences `step * batch ..` of the source.
    fn loss_and_grad(&mut self, step: u64, params: &[E], grad: &mut [E]) -> Result<f64> {
        let (model, source) = (self.model, self.source);
        let (base, batch) = (step * self.batch as u64, self.batch);
        self.shards.par_iter_mut().for_each(|shard| {
            source.fill(base + shard.first as u64, shard.count, batch, &mut shard.source, &mut shard.batch);
            shard.loss = shard.gradient(model, params);
        });
        let loss = self.fold_losses()?;
        let shards = &self.shards;
        fold(&self.kernels, shards.len(), &|s| shards[s].grad.as_slice(), 0, 1.0, grad);
        Ok(loss)
    }

    /// On the test set.
    fn test_loss(&mut self, params: &[E]) -> Result<f64> {
        let model = self.model;
        self.shards.par_iter_mut().for_each(|shard| shard.loss = shard.test_loss(model, params));
        self.fold_losses()
    }
}

#[cfg(test)]
mod tests {
    use super::part;

    #[test]
    fn parts_cover_everything_once() {
        for (n, parts) in [(1024, 16), (10, 3), (3, 3), (7, 5), (1, 1)] {
            let mut next = 0;
            for i in 0..parts {
                let (first, count) = part(n, parts, i);
                assert_eq!(first, next);
                assert!(count == n / parts || count == n / parts + 1);
                next += count;
            }
            assert_eq!(next, n);
        }
    }
}
