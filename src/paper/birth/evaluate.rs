//! Metrics of the batch about to be trained on and of the held-out sequences, over the same shards as training.

use crate::batch::LabelledBatch;
use crate::model::{Report, SequenceModel, SequenceWorkspace};
use crate::num::Sum;
use crate::probe::birth::{Metrics, Tally};
use crate::source::{LabelledSource, SourceWork, TriggerSource};
use crate::train::{Labelled, Objective, part};
use crate::{Error, Result};
use popgrad_kernels::Elem;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

struct Shard<E> {
    first: usize,
    work: SourceWork,
    batch: LabelledBatch,
    ws: SequenceWorkspace<E>,
    report: Report,
    /// Of each test set, this shard's chunks with reports of their size.
    tests: Vec<Vec<(LabelledBatch, Report)>>,
    tally: Result<Tally>,
}

/// Evaluates a model on batches of its training source and on test sets.
pub(super) struct Evaluator<'a, E: Elem> {
    model: &'a dyn SequenceModel<E>,
    source: &'a TriggerSource,
    batch: usize,
    shards: Vec<Shard<E>>,
}

impl<'a, E: Elem> Evaluator<'a, E> {
    /// For batches of `batch` sequences in `shards` parts, and the first `test_size` sequences of each of `tests`.
    ///
    /// # Errors
    /// When memory sizes overflow.
    pub(super) fn new(
        model: &'a dyn SequenceModel<E>,
        source: &'a TriggerSource,
        (batch, shards): (usize, usize),
        tests: &[TriggerSource],
        test_size: usize,
    ) -> Result<Self> {
        let (t, n, parts) = (model.seq_len(), model.vocab(), shards.min(batch));
        let shard = |i: usize| -> Result<Shard<E>> {
            let (first, count) = part(batch, parts, i);
            let chunks = |test: &TriggerSource| -> Result<Vec<(LabelledBatch, Report)>> {
                let (first, size) = part(test_size, parts, i);
                let mut work = test.work();
                let chunk = |start: usize| {
                    let n_seqs = count.min(first + size - start);
                    let mut chunk = LabelledBatch::with_capacity(n_seqs, t, n)?;
                    test.fill(start as u64, n_seqs, &mut work, &mut chunk);
                    Ok((chunk, Report::new(model, n_seqs, false, false)))
                };
                (first..first + size).step_by(count).map(chunk).collect()
            };
            Ok(Shard {
                first,
                work: source.work(),
                batch: LabelledBatch::with_capacity(count, t, n)?,
                ws: model.workspace(count)?,
                report: Report::new(model, count, true, false),
                tests: tests.iter().map(chunks).collect::<Result<_>>()?,
                tally: Ok(Tally::default()),
            })
        };
        let shards = (0..parts).into_par_iter().map(shard).collect::<Result<Vec<_>>>()?;
        Ok(Evaluator { model, source, batch, shards })
    }

    /// On the batch of update number `step`.
    fn training(&mut self, step: u64, params: &[E]) -> Result<Metrics> {
        let (model, source, base) = (self.model, self.source, step * self.batch as u64);
        self.shards.par_iter_mut().for_each(|shard| {
            let Shard { first, work, batch, ws, report, .. } = shard;
            source.fill(base + *first as u64, batch.capacity(), work, batch);
            shard.tally = model.report(params, batch, ws, report).and_then(|()| {
                let mut tally = Tally::default();
                tally.add(batch, report, model.attention_shape()).map(|()| tally)
            });
        });
        self.fold()
    }

    /// On test set `i`.
    fn test(&mut self, i: usize, params: &[E]) -> Result<Metrics> {
        let model = self.model;
        self.shards.par_iter_mut().for_each(|shard| {
            let Shard { tests, ws, .. } = shard;
            let each = |mut tally: Tally, (batch, report): &mut (LabelledBatch, Report)| {
                model.report(params, batch, ws, report)?;
                tally.add(batch, report, model.attention_shape()).map(|()| tally)
            };
            shard.tally = tests[i].iter_mut().try_fold(Tally::default(), each);
        });
        self.fold()
    }

    /// Over the shards, in order.
    fn fold(&mut self) -> Result<Metrics> {
        let mut all = Tally::default();
        for shard in &mut self.shards {
            all.merge(&std::mem::replace(&mut shard.tally, Ok(Tally::default()))?);
        }
        Ok(all.metrics())
    }
}

/// What an evaluation found.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// On the batch of the next update.
    pub(super) batch: Metrics,
    /// On each test set.
    pub(super) tests: Vec<Metrics>,
    /// Norm of each block's gradient on that batch; none where it does not train yet, the batch counts nothing, or no update follows.
    pub(super) gradients: Vec<Option<f64>>,
}

/// Training that looks at the batch of the next update whenever it is evaluated. The gradient that this takes is not computed twice.
pub(super) struct Watched<'a, E: Elem> {
    inner: Labelled<'a, E>,
    evaluator: Evaluator<'a, E>,
    /// Each block's entries and first update.
    blocks: Vec<(Range<usize>, Option<u64>)>,
    /// Updates in all.
    steps: u64,
    /// Number of the next update. A run that is taken up again makes one before it evaluates.
    next: u64,
    /// Loss of the next update, whose gradient is in `grad`, if that is known. Whether it counts is then what `inner` says.
    ready: Option<f64>,
    grad: Vec<E>,
    /// What the last evaluation found, for whoever writes it down.
    found: Rc<RefCell<Found>>,
}

impl<'a, E: Elem> Watched<'a, E> {
    /// For `steps` updates; `blocks` are entries and first update of each of the model's blocks.
    pub(super) fn new(
        inner: Labelled<'a, E>,
        evaluator: Evaluator<'a, E>,
        steps: u64,
        blocks: Vec<(Range<usize>, Option<u64>)>,
        found: Rc<RefCell<Found>>,
    ) -> Self {
        let grad = vec![E::ZERO; Objective::<E>::len(&inner)];
        Watched { inner, evaluator, blocks, steps, next: 0, ready: None, grad, found }
    }
}

/// Euclidean norm, in f64, in order.
pub(super) fn norm<E: Elem>(values: &[E]) -> f64 {
    values.iter().map(|x| x.to_f64() * x.to_f64()).collect::<Sum>().value().sqrt()
}

impl<E: Elem> Objective<E> for Watched<'_, E> {
    fn len(&self) -> usize {
        self.grad.len()
    }

    fn loss_and_grad(&mut self, step: u64, params: &[E], grad: &mut [E]) -> Result<f64> {
        let ready = self.ready.take().filter(|_| step == self.next);
        self.next = step + 1;
        match ready {
            Some(loss) => {
                grad.copy_from_slice(&self.grad);
                Ok(loss)
            }
            None => self.inner.loss_and_grad(step, params, grad),
        }
    }

    fn counted(&self) -> bool {
        self.inner.counted()
    }

    /// On the first test set; leaves everything in `found`.
    fn test_loss(&mut self, params: &[E]) -> Result<f64> {
        let batch = self.evaluator.training(self.next, params)?;
        let sets = self.evaluator.shards.first().map_or(0, |s| s.tests.len());
        let tests = (0..sets).map(|i| self.evaluator.test(i, params)).collect::<Result<Vec<_>>>()?;
        // After the last update nothing trains on the batch to come.
        self.ready = match self.next < self.steps {
            true => Some(self.inner.loss_and_grad(self.next, params, &mut self.grad)?),
            false => None,
        };
        let known = self.ready.is_some() && self.inner.counted();
        let trains = |from: &Option<u64>| known && from.is_some_and(|f| f <= self.next);
        let of = |(range, from): &(Range<usize>, Option<u64>)| {
            trains(from).then(|| norm(&self.grad[range.clone()]))
        };
        let gradients = self.blocks.iter().map(of).collect();
        let loss = tests.first().and_then(|m| m.loss);
        *self.found.borrow_mut() = Found { batch, tests, gradients };
        loss.ok_or_else(|| {
            let allowed =
                "a loss over at least one position of the test set: longer or more sequences, more triggers";
            Error::invalid("test_size", "no position of the test set counts", allowed)
        })
    }
}
