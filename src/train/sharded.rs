//! Loss and gradient of a model over the shards of a batch.

use super::{Objective, On, Plan};
use crate::batch::{Batch, Targets, divisor};
use crate::model::{Model, Report, Workspace};
use crate::num::Sum;
use crate::optim::UnfreezeAt;
use crate::source::{Source, SourceWork};
use crate::{Error, Result};
use popgrad_kernels::{Elem, Kernels};
use rayon::prelude::*;

/// One shard: its part of the batch and its workspace.
struct Shard<E> {
    /// First sample within the batch, and how many.
    first: usize,
    count: usize,
    work: SourceWork,
    batch: Batch,
    ws: Workspace<E>,
    grad: Vec<E>,
    /// Σ w ℓ and Σ w.
    sums: Result<[Sum; 2]>,
    /// Of each test set, the chunks that this shard evaluates.
    tests: Vec<Vec<Batch>>,
    /// Reports of the batch, and of each chunk; allocated at first use.
    report: Option<Report>,
    test_reports: Vec<Vec<Report>>,
    reported: Result<()>,
}

/// Range of part `i` of `n` items cut into `parts` nearly equal parts: first item and count.
pub(crate) fn part(n: usize, parts: usize, i: usize) -> (usize, usize) {
    // In u128 because n * i may exceed 64 bits on the way.
    let cut = |i: usize| (n as u128 * i as u128 / parts as u128) as usize;
    (cut(i), cut(i + 1) - cut(i))
}

/// Bytes that a [`Trainer`](super::Trainer) of this model and plan allocates for parameters,
/// gradients and activations, test set aside; `None` when that overflows.
pub fn bytes<E: Elem>(model: &dyn Model<E>, targets: Targets, plan: &Plan) -> Option<usize> {
    let shards = plan.shards.min(plan.batch).max(1);
    let ws = model.workspace_len(targets, plan.batch.div_ceil(shards))?.bytes::<E>()?;
    let params = model.layout().len().checked_mul(size_of::<E>())?;
    let shard = ws.checked_add(params)?.checked_mul(shards)?;
    // Parameters, gradient, two of the optimiser's.
    let shared = params.checked_mul(4)?;
    shard.checked_add(shared)?.checked_add(batch_bytes(targets, plan.batch, model.seq_len(), model.vocab())?)
}

/// Bytes of `seqs` sequences as a [`Batch`] holds them; `None` when that overflows.
pub fn batch_bytes(targets: Targets, seqs: usize, len: usize, vocab: usize) -> Option<usize> {
    let row = match targets {
        Targets::Law => len.checked_mul(4)?.checked_add(vocab.checked_mul(8)?)?.checked_add(8)?,
        // Tokens, labels, weights, how often each trigger was seen.
        Targets::Labels => len.checked_mul(20)?,
    };
    seqs.checked_mul(row)
}

/// Number of entries summed at a time: their f64 sums stay in the L1 cache.
const FOLD: usize = 1024;

/// Gradients of up to this many entries, over all shards, are summed on the calling thread: waking
/// other threads takes longer.
const FOLD_ALONE: usize = 1 << 18;

/// `out` = `factor` times the sum of entries `from ..` of `parts` gradients, added in order in f64.
/// Large gradients are summed on several threads.
fn fold<'g, E: Elem>(
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

/// The objective of a model on batches from a source. Step n takes sequences `n * plan.batch ..`,
/// shard by shard. Loss and gradient are weighted means over the whole batch, so they do not depend
/// on how the outputs that count are distributed over the shards. If no output of a batch counts,
/// the batch has no loss and its gradient is 0.
pub struct Sharded<'a, E: Elem> {
    model: &'a dyn Model<E>,
    source: &'a dyn Source,
    kernels: Kernels<E>,
    batch: usize,
    /// For each block, the first update that trains it.
    unfreeze: Vec<UnfreezeAt>,
    active: Vec<bool>,
    /// True if an output of the last batch counted.
    counted: bool,
    /// Step and loss of an update that an observer evaluated ahead; the gradient is in
    /// `ahead_grad`. Nothing is computed twice.
    ahead: Option<(u64, f64)>,
    ahead_grad: Vec<E>,
    shards: Vec<Shard<E>>,
}

impl<'a, E: Elem> Sharded<'a, E> {
    /// Allocates the shards. `unfreeze` has one entry for each block of the model's layout, in
    /// order: the first update that trains the block.
    ///
    /// # Errors
    /// Plan, model, source and `unfreeze` that do not fit together; no block that trains; sizes
    /// that overflow; a `plan.batch` that is not the whole population of a source that enumerates
    /// one.
    pub fn new(
        model: &'a dyn Model<E>,
        source: &'a dyn Source,
        plan: &Plan,
        unfreeze: Vec<UnfreezeAt>,
    ) -> Result<Self> {
        plan.check()?;
        model.accepts(source.targets())?;
        let (t, s) = (source.seq_len(), source.vocab());
        if (t, s) != (model.seq_len(), model.vocab()) {
            let allowed = format!("T = {}, S = {} as in the model", model.seq_len(), model.vocab());
            return Err(Error::invalid("source", format!("T = {t}, S = {s}"), allowed));
        }
        if let Some(p) = source.population().filter(|p| *p != plan.batch) {
            let allowed = format!("{p}: the whole population at every step");
            return Err(Error::invalid("batch", plan.batch.to_string(), allowed));
        }
        let blocks = model.layout().blocks();
        if unfreeze.len() != blocks.len()
            || unfreeze.iter().zip(blocks).any(|(t, b)| t.name != b.name() || t.range != b.range())
        {
            let allowed = "one for each block of the model, in order";
            return Err(Error::invalid("unfreeze", format!("{} blocks", unfreeze.len()), allowed));
        }
        // The gradient of such a block would be 0, but weight decay would still move it.
        let fixed = unfreeze.iter().zip(model.trainable()).find(|(t, can)| t.from.is_some() && !**can);
        if let Some((t, _)) = fixed {
            return Err(Error::invalid("unfreeze", &t.name, "blocks that can train"));
        }
        if unfreeze.iter().all(|t| t.from.is_none()) {
            return Err(Error::invalid("frozen", "every block", "at least one block to train"));
        }
        let parts = plan.shards.min(plan.batch);
        let shards = (0..parts)
            .map(|i| {
                let (first, count) = part(plan.batch, parts, i);
                Ok(Shard {
                    first,
                    count,
                    work: source.work(),
                    batch: source.batch(count)?,
                    ws: model.workspace(source.targets(), count)?,
                    grad: vec![E::ZERO; model.layout().len()],
                    sums: Ok([Sum::new(); 2]),
                    tests: Vec::new(),
                    report: None,
                    test_reports: Vec::new(),
                    reported: Ok(()),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Sharded {
            model,
            source,
            kernels: Kernels::from_env()?,
            batch: plan.batch,
            active: vec![false; unfreeze.len()],
            unfreeze,
            counted: true,
            ahead: None,
            ahead_grad: Vec::new(),
            shards,
        })
    }

    /// Draws the test sets: sequences `0..size` of each of `sources`. All evaluations use them.
    ///
    /// # Errors
    /// `size` 0; a test set whose size overflows.
    pub fn set_tests(&mut self, sources: &[&dyn Source], size: usize) -> Result<()> {
        if size == 0 {
            return Err(Error::invalid("test_size", "0", "test_size >= 1"));
        }
        let parts = self.shards.len();
        self.shards.par_iter_mut().enumerate().try_for_each(|(i, shard)| {
            let (first, count) = part(size, parts, i);
            shard.test_reports.clear();
            shard.tests = sources
                .iter()
                .map(|source| {
                    let mut work = source.work();
                    let chunk = |start: usize| {
                        let n = shard.count.min(first + count - start);
                        let mut chunk = source.batch(n)?;
                        source.fill(start as u64, n, &mut work, &mut chunk);
                        Ok(chunk)
                    };
                    (first..first + count).step_by(shard.count).map(chunk).collect()
                })
                .collect::<Result<_>>()?;
            Ok(())
        })
    }

    /// Test set `i`, in sample order.
    pub fn test_batches(&self, i: usize) -> impl Iterator<Item = &Batch> {
        self.shards.iter().filter_map(move |s| s.tests.get(i)).flatten()
    }

    /// Σ w ℓ and Σ w over the shards, in order.
    fn fold_sums(&mut self) -> Result<[f64; 2]> {
        let mut all = [Sum::new(); 2];
        for shard in &mut self.shards {
            let sums = std::mem::replace(&mut shard.sums, Ok([Sum::new(); 2]))?;
            for (all, sum) in all.iter_mut().zip(sums) {
                match self.source.targets() {
                    // Each sum is rounded first: recorded logs of runs on laws depend on it.
                    Targets::Law => all.add(sum.value()),
                    Targets::Labels => all.merge(sum),
                }
            }
        }
        Ok(all.map(|s| s.value()))
    }

    fn compute(&mut self, step: u64, params: &[E], grad: &mut [E]) -> Result<f64> {
        for (on, unfreeze) in self.active.iter_mut().zip(&self.unfreeze) {
            *on = unfreeze.from.is_some_and(|from| step >= from);
        }
        let (model, source, active) = (self.model, self.source, &self.active);
        let base = step * self.batch as u64;
        self.shards.par_iter_mut().for_each(|shard| {
            let Shard { first, count, work, batch, ws, grad, .. } = shard;
            source.fill(base + *first as u64, *count, work, batch);
            let loss = model.loss_and_grad(params, batch, active, ws, grad);
            shard.sums = loss.map(|loss| [loss, weight(&shard.batch)]);
        });
        let [loss, weight] = self.fold_sums()?;
        self.counted = weight > 0.0;
        if !self.counted {
            grad.fill(E::ZERO);
            return Ok(0.0);
        }
        let (kernels, shards, by) = (&self.kernels, &self.shards, divisor(weight));
        let gradient = |s: usize| shards[s].grad.as_slice();
        for (unfreeze, on) in self.unfreeze.iter().zip(&self.active) {
            let out = &mut grad[unfreeze.range.clone()];
            if *on {
                fold(kernels, shards.len(), &gradient, unfreeze.range.start, 1.0 / by, out);
            } else {
                out.fill(E::ZERO);
            }
        }
        Ok(loss / by)
    }
}

fn weight(batch: &Batch) -> Sum {
    batch.weights().iter().copied().collect()
}

impl<E: Elem> Objective<E> for Sharded<'_, E> {
    fn len(&self) -> usize {
        self.model.layout().len()
    }

    /// Takes sequences `step * batch ..` of the source. The gradient is 0 in blocks that do not
    /// train yet.
    fn loss_and_grad(&mut self, step: u64, params: &[E], grad: &mut [E]) -> Result<f64> {
        if let Some((_, loss)) = self.ahead.take_if(|(of, _)| *of == step) {
            grad.copy_from_slice(&self.ahead_grad);
            return Ok(loss);
        }
        self.compute(step, params, grad)
    }

    fn counted(&self) -> bool {
        self.counted
    }

    /// The loss on the first test set.
    fn test_loss(&mut self, params: &[E]) -> Result<f64> {
        if self.test_batches(0).next().is_none() {
            return Err(Error::invalid("test set", "none", "one drawn by `set_tests`"));
        }
        let (model, off, targets) = (self.model, vec![false; self.unfreeze.len()], self.source.targets());
        self.shards.par_iter_mut().for_each(|shard| {
            let Shard { tests, ws, grad, .. } = shard;
            let each = |mut sums: [Sum; 2], chunk: &Batch| {
                let loss = model.loss_and_grad(params, chunk, &off, ws, grad)?;
                match targets {
                    Targets::Law => sums[0].add(loss.value()),
                    Targets::Labels => sums[0].merge(loss),
                }
                sums[1].merge(weight(chunk));
                Ok(sums)
            };
            shard.sums = tests[0].iter().try_fold([Sum::new(); 2], each);
        });
        let [loss, weight] = self.fold_sums()?;
        if weight > 0.0 {
            return Ok(loss / divisor(weight));
        }
        let allowed = "at least one position that counts: use longer or more sequences, or more triggers";
        Err(Error::invalid("test_size", "no position of the test set counts", allowed))
    }

    fn test_sets(&self) -> usize {
        self.shards.first().map_or(0, |s| s.tests.len())
    }

    fn ahead(&mut self, step: u64, params: &[E]) -> Result<Option<&[E]>> {
        let mut grad = std::mem::take(&mut self.ahead_grad);
        grad.resize(self.model.layout().len(), E::ZERO);
        let loss = self.compute(step, params, &mut grad);
        self.ahead_grad = grad;
        self.ahead = Some((step, loss?));
        Ok(self.counted.then_some(self.ahead_grad.as_slice()))
    }

    fn reports(
        &mut self,
        on: On,
        params: &[E],
        visit: &mut dyn FnMut(usize, &Batch, &Report) -> Result<()>,
    ) -> Result<()> {
        let (model, source, all) = (self.model, self.source, self.batch as u64);
        let targets = source.targets();
        match on {
            On::Update(step) => {
                self.shards.par_iter_mut().for_each(|shard| {
                    let Shard { first, count, work, batch, ws, report, .. } = shard;
                    source.fill(step * all + *first as u64, *count, work, batch);
                    let report =
                        report.get_or_insert_with(|| Report::new(model, targets, *count, true, false));
                    shard.reported = model.report(params, batch, ws, report);
                });
            }
            On::Test(i) => {
                self.shards.par_iter_mut().for_each(|shard| {
                    let Shard { tests, ws, test_reports, .. } = shard;
                    if test_reports.len() != tests.len() {
                        let of = |b: &Batch| Report::new(model, b.kind(), b.seqs(), false, false);
                        *test_reports = tests.iter().map(|set| set.iter().map(of).collect()).collect();
                    }
                    shard.reported = tests[i]
                        .iter()
                        .zip(&mut test_reports[i])
                        .try_for_each(|(batch, report)| model.report(params, batch, ws, report));
                });
            }
        }
        for (i, shard) in self.shards.iter_mut().enumerate() {
            std::mem::replace(&mut shard.reported, Ok(()))?;
            match on {
                On::Update(_) => {
                    if let Some(report) = &shard.report {
                        visit(i, &shard.batch, report)?;
                    }
                }
                On::Test(set) => {
                    for (batch, report) in shard.tests[set].iter().zip(&shard.test_reports[set]) {
                        visit(i, batch, report)?;
                    }
                }
            }
        }
        Ok(())
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
