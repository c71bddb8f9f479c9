//! Loss and gradient of a model with a prediction at every position, over the shards of a batch.

use super::sharded::{fold, part};
use super::{Objective, Plan};
use crate::batch::LabelledBatch;
use crate::model::{SequenceModel, SequenceWorkspace};
use crate::num::Sum;
use crate::optim::Thaw;
use crate::source::{LabelledSource, SourceWork};
use crate::{Error, Result};
use popgrad_kernels::{Elem, Kernels};
use rayon::prelude::*;

struct Shard<E> {
    first: usize,
    count: usize,
    source: SourceWork,
    batch: LabelledBatch,
    ws: SequenceWorkspace<E>,
    grad: Vec<E>,
    /// Σ w ℓ and Σ w.
    sums: Result<[Sum; 2]>,
    /// Test chunks that this shard evaluates.
    tests: Vec<LabelledBatch>,
}

impl<E: Elem> Shard<E> {
    fn gradient(&mut self, model: &dyn SequenceModel<E>, params: &[E], active: &[bool]) -> Result<[Sum; 2]> {
        let loss = model.loss_and_grad(params, &self.batch, active, &mut self.ws, &mut self.grad)?;
        Ok([loss, weight(&self.batch)])
    }
}

fn weight(batch: &LabelledBatch) -> Sum {
    batch.weights().iter().copied().collect()
}

/// Bytes that training of this model and plan allocates for gradients, activations and batches; `None` when that overflows.
pub fn labelled_memory<E: Elem>(model: &dyn SequenceModel<E>, plan: &Plan) -> Option<usize> {
    let shards = plan.shards.min(plan.batch).max(1);
    let ws = model.workspace_len(plan.batch.div_ceil(shards))?.bytes::<E>()?;
    let params = model.layout().len().checked_mul(size_of::<E>())?;
    let shard = ws.checked_add(params)?.checked_mul(shards)?;
    // Parameters, gradient, two of the optimiser's.
    let shared = params.checked_mul(4)?;
    let batch = plan.batch.checked_mul(model.seq_len())?.checked_mul(20)?;
    shard.checked_add(shared)?.checked_add(batch)
}

/// A model on batches from a source: every step takes the next `plan.batch` sequences, shard by shard. Loss and gradient are Σ w ℓ / Σ w of the
/// whole batch, so they do not depend on how the positions that count lie in the shards. A batch may draw no position that counts: it has no
/// loss, and its gradient is 0.
pub struct Labelled<'a, E: Elem> {
    model: &'a dyn SequenceModel<E>,
    source: &'a dyn LabelledSource,
    kernels: Kernels<E>,
    batch: usize,
    /// Of each block, its first update.
    thaws: Vec<Thaw>,
    active: Vec<bool>,
    /// Had the last batch a position that counts?
    counted: bool,
    shards: Vec<Shard<E>>,
}

impl<'a, E: Elem> Labelled<'a, E> {
    /// Allocates the shards. `thaws` says of each block of the model's layout, in order, from which update on it trains.
    ///
    /// # Errors
    /// When plan, model, source and `thaws` do not fit together, nothing trains, or memory sizes overflow; a population that is not one batch.
    pub fn new(
        model: &'a dyn SequenceModel<E>,
        source: &'a dyn LabelledSource,
        plan: &Plan,
        thaws: Vec<Thaw>,
    ) -> Result<Self> {
        plan.check()?;
        let (t, n) = (source.seq_len(), source.vocab());
        if (t, n) != (model.seq_len(), model.vocab()) {
            let allowed = format!("T = {}, N = {} as in the model", model.seq_len(), model.vocab());
            return Err(Error::invalid("source", format!("T = {t}, N = {n}"), allowed));
        }
        if let Some(p) = source.population().filter(|p| *p != plan.batch) {
            let allowed = format!("{p}: the whole population at every step");
            return Err(Error::invalid("batch", plan.batch.to_string(), allowed));
        }
        let blocks = model.layout().blocks();
        if thaws.len() != blocks.len()
            || thaws.iter().zip(blocks).any(|(t, b)| t.name != b.name() || t.range != b.range())
        {
            let allowed = "one for each block of the model, in order";
            return Err(Error::invalid("thaws", format!("{} blocks", thaws.len()), allowed));
        }
        // Its gradient would be 0, and weight decay would move it all the same.
        if let Some((t, _)) = thaws.iter().zip(model.trainable()).find(|(t, can)| t.from.is_some() && !**can)
        {
            return Err(Error::invalid("thaws", &t.name, "blocks that can train"));
        }
        if thaws.iter().all(|t| t.from.is_none()) {
            return Err(Error::invalid("frozen", "every block", "at least one block to train"));
        }
        let parts = plan.shards.min(plan.batch);
        let shards = (0..parts)
            .map(|i| {
                let (first, count) = part(plan.batch, parts, i);
                Ok(Shard {
                    first,
                    count,
                    source: source.work(),
                    batch: LabelledBatch::with_capacity(count, t, n)?,
                    ws: model.workspace(count)?,
                    grad: vec![E::ZERO; model.layout().len()],
                    sums: Ok([Sum::new(); 2]),
                    tests: Vec::new(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let active = vec![false; thaws.len()];
        let kernels = Kernels::from_env()?;
        Ok(Labelled { model, source, kernels, batch: plan.batch, thaws, active, counted: true, shards })
    }

    /// Draws the test set: sequences `0..size` of `source`, kept for all evaluations.
    ///
    /// # Errors
    /// When it does not fit memory.
    pub fn set_test(&mut self, source: &dyn LabelledSource, size: usize) -> Result<()> {
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
                let mut chunk = LabelledBatch::with_capacity(n, source.seq_len(), source.vocab())?;
                source.fill(start as u64, n, &mut work, &mut chunk);
                shard.tests.push(chunk);
            }
            Ok(())
        })
    }

    /// The test set, in order.
    pub fn test_batches(&self) -> impl Iterator<Item = &LabelledBatch> {
        self.shards.iter().flat_map(|s| &s.tests)
    }

    /// Σ w ℓ and Σ w over the shards, in order.
    fn fold_sums(&mut self) -> Result<[f64; 2]> {
        let mut all = [Sum::new(); 2];
        for shard in &mut self.shards {
            let sums = std::mem::replace(&mut shard.sums, Ok([Sum::new(); 2]))?;
            all.iter_mut().zip(sums).for_each(|(a, s)| a.merge(s));
        }
        Ok(all.map(|s| s.value()))
    }
}

impl<E: Elem> Objective<E> for Labelled<'_, E> {
    fn len(&self) -> usize {
        self.model.layout().len()
    }

    /// On sequences `step * batch ..` of the source. The gradient of blocks that do not train yet is 0.
    fn loss_and_grad(&mut self, step: u64, params: &[E], grad: &mut [E]) -> Result<f64> {
        for (on, thaw) in self.active.iter_mut().zip(&self.thaws) {
            *on = thaw.from.is_some_and(|from| step >= from);
        }
        let (model, source, active) = (self.model, self.source, &self.active);
        let base = step * self.batch as u64;
        self.shards.par_iter_mut().for_each(|shard| {
            source.fill(base + shard.first as u64, shard.count, &mut shard.source, &mut shard.batch);
            shard.sums = shard.gradient(model, params, active);
        });
        let [loss, weight] = self.fold_sums()?;
        self.counted = weight > 0.0;
        if !self.counted {
            grad.fill(E::ZERO);
            return Ok(0.0);
        }
        let (kernels, shards) = (&self.kernels, &self.shards);
        let gradient = |s: usize| shards[s].grad.as_slice();
        for (thaw, on) in self.thaws.iter().zip(&self.active) {
            let out = &mut grad[thaw.range.clone()];
            if *on {
                fold(kernels, shards.len(), &gradient, thaw.range.start, 1.0 / weight, out);
            } else {
                out.fill(E::ZERO);
            }
        }
        Ok(loss / weight)
    }

    fn counted(&self) -> bool {
        self.counted
    }

    /// On the test set.
    fn test_loss(&mut self, params: &[E]) -> Result<f64> {
        if self.shards.iter().all(|s| s.tests.is_empty()) {
            return Err(Error::invalid("test set", "none", "one drawn by `set_test`"));
        }
        let (model, off) = (self.model, vec![false; self.thaws.len()]);
        self.shards.par_iter_mut().for_each(|shard| {
            let Shard { tests, ws, grad, .. } = shard;
            let each = |mut sums: [Sum; 2], chunk: &LabelledBatch| {
                sums[0].merge(model.loss_and_grad(params, chunk, &off, ws, grad)?);
                sums[1].merge(weight(chunk));
                Ok(sums)
            };
            shard.sums = tests.iter().try_fold([Sum::new(); 2], each);
        });
        let [loss, weight] = self.fold_sums()?;
        if weight > 0.0 {
            return Ok(loss / weight);
        }
        let allowed = "a loss over at least one position of it: longer or more sequences, more triggers";
        Err(Error::invalid("test set", "no position of the test set counts", allowed))
    }
}
