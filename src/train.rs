//! Training: shards, the step, the loop.
//!
//! A step splits its batch into a fixed number of shards. Each shard draws its samples, runs the model forward and backward
//! in its own memory, and the shards' losses and gradients are folded in index order; so the result depends on the
//! number of shards, which is configuration, and never on the threads. A warm step allocates nothing.
//!
//! Run everything inside one rayon pool (`pool.install`): entering a pool from outside allocates.

use crate::batch::Batch;
use crate::model::{Model, Workspace};
use crate::num::Sum;
use crate::optim::{Optimizer, Schedule};
use crate::source::{Source, SourceWork};
use crate::{Error, Result};
use popgrad_kernels::Elem;
use rayon::prelude::*;

/// How long, how fast, how often.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Updates in all; the horizon of the schedule.
    pub steps: u64,
    /// Sequences per update.
    pub batch: usize,
    /// Shards per batch.
    pub shards: usize,
    /// Learning rate before the schedule.
    pub lr: f64,
    /// Its schedule.
    pub schedule: Schedule,
    /// Steps between evaluations (one at step 0 and one at the end besides).
    pub eval_every: u64,
    /// Steps between checkpoints; taken right after an evaluation of the same step, and at the end.
    pub checkpoint_every: u64,
}

/// Everything that a resumed run needs, beyond configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct State<E> {
    /// Updates done.
    pub step: u64,
    /// Parameters.
    pub params: Vec<E>,
    /// Optimiser memory, by name.
    pub optimizer: Vec<(String, Vec<E>)>,
    /// Sum of the training losses since the last evaluation, and how many.
    pub interval: ([f64; 2], u64),
}

/// One evaluation on the test set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Updates done.
    pub step: u64,
    /// Learning rate of the next update.
    pub lr: f64,
    /// Mean training loss of the updates since the last evaluation; none before the first.
    pub train_loss: Option<f64>,
    /// Loss on the test set.
    pub test_loss: f64,
    /// Euclidean norm of the last gradient; none before the first update.
    pub grad_norm: Option<f64>,
}

/// What a run reports to. Called on the training thread, between steps.
pub trait Observer<E> {
    /// After every update: the step just finished and its batch loss. Must not allocate.
    ///
    /// # Errors
    /// Ends the run.
    fn stepped(&mut self, step: u64, loss: f64) -> Result<()>;
    /// After every evaluation.
    ///
    /// # Errors
    /// Ends the run.
    fn evaluated(&mut self, evaluation: &Evaluation, params: &[E]) -> Result<()>;
    /// When a checkpoint is due.
    ///
    /// # Errors
    /// Ends the run.
    fn checkpoint(&mut self, state: &State<E>) -> Result<()>;
}

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

/// A model, its parameters, an optimiser and the memory of a step.
pub struct Trainer<'a, E: Elem> {
    model: &'a dyn Model<E>,
    source: &'a dyn Source,
    optimizer: Box<dyn Optimizer<E>>,
    plan: Plan,
    shards: Vec<Shard<E>>,
    params: Vec<E>,
    grad: Vec<E>,
    step: u64,
    interval: (Sum, u64),
    grad_norm: Option<f64>,
}

/// Range of part `i` of `n` items cut into `parts` nearly equal parts.
fn part(n: usize, parts: usize, i: usize) -> (usize, usize) {
    // In u128 because n * i may exceed 64 bits on the way.
    let cut = |i: usize| (n as u128 * i as u128 / parts as u128) as usize;
    (cut(i), cut(i + 1) - cut(i))
}

/// Bytes that a [`Trainer`] of this model and plan allocates for parameters, gradients and activations, test set aside;
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

/// Entries per task when shard gradients are folded: big enough to be worth a task.
const FOLD: usize = 1024;

impl<'a, E: Elem> Trainer<'a, E> {
    /// Allocates everything. `params` are the initial parameters, in the model's layout.
    ///
    /// # Errors
    /// When plan, model and source do not fit together, or memory sizes overflow.
    pub fn new(
        model: &'a dyn Model<E>,
        source: &'a dyn Source,
        optimizer: Box<dyn Optimizer<E>>,
        plan: Plan,
        params: Vec<E>,
    ) -> Result<Self> {
        let positive = |field: &str, value: u64| match value {
            0 => Err(Error::invalid(field, "0", format!("{field} >= 1"))),
            _ => Ok(()),
        };
        positive("batch", plan.batch as u64)?;
        positive("shards", plan.shards as u64)?;
        positive("eval_every", plan.eval_every)?;
        positive("checkpoint_every", plan.checkpoint_every)?;
        if !(plan.lr.is_finite() && plan.lr >= 0.0) {
            return Err(Error::invalid("lr", plan.lr.to_string(), "finite, >= 0"));
        }
        if plan.steps.checked_mul(plan.batch as u64).is_none() {
            return Err(Error::invalid("steps", plan.steps.to_string(), "steps * batch < 2^64"));
        }
        if params.len() != model.layout().len() {
            let allowed = format!("{} entries for this model", model.layout().len());
            return Err(Error::invalid("params", format!("{} entries", params.len()), allowed));
        }
        let (t, s) = (source.seq_len(), source.vocab());
        if (t, s) != (model.seq_len(), model.vocab()) {
            let allowed = format!("T = {}, S = {} as in the model", model.seq_len(), model.vocab());
            return Err(Error::invalid("source", format!("T = {t}, S = {s}"), allowed));
        }
        let shards = (0..plan.shards.min(plan.batch))
            .map(|i| {
                let (first, count) = part(plan.batch, plan.shards.min(plan.batch), i);
                Ok(Shard {
                    first,
                    count,
                    source: source.work(),
                    batch: Batch::with_capacity(count, t, s)?,
                    ws: model.workspace(count)?,
                    grad: vec![E::ZERO; params.len()],
                    loss: Ok(Sum::new()),
                    tests: Vec::new(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let grad = vec![E::ZERO; params.len()];
        Ok(Trainer {
            model,
            source,
            optimizer,
            plan,
            shards,
            params,
            grad,
            step: 0,
            interval: (Sum::new(), 0),
            grad_norm: None,
        })
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

    /// Parameters, in the model's layout.
    pub fn params(&self) -> &[E] {
        &self.params
    }

    /// Gradient of the last update.
    pub fn grad(&self) -> &[E] {
        &self.grad
    }

    /// Updates done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// Loss and gradient on samples `step * batch ..`, the gradient left in [`Trainer::grad`]. No update.
    ///
    /// # Errors
    /// What the model reports.
    pub fn loss_and_grad(&mut self) -> Result<f64> {
        let (model, source, params) = (self.model, self.source, &self.params);
        let (base, batch) = (self.step * self.plan.batch as u64, self.plan.batch);
        self.shards.par_iter_mut().for_each(|shard| {
            source.fill(base + shard.first as u64, shard.count, batch, &mut shard.source, &mut shard.batch);
            shard.loss = shard.gradient(model, params);
        });
        let loss = self.fold_losses()?;
        let shards = &self.shards;
        self.grad.par_chunks_mut(FOLD).enumerate().for_each(|(i, out)| {
            for (j, out) in out.iter_mut().enumerate() {
                let mut sum = 0.0;
                for shard in shards {
                    sum += shard.grad[i * FOLD + j].to_f64();
                }
                *out = E::from_f64(sum);
            }
        });
        Ok(loss)
    }

    fn fold_losses(&mut self) -> Result<f64> {
        let mut sum = Sum::new();
        for shard in &mut self.shards {
            let loss = std::mem::replace(&mut shard.loss, Ok(Sum::new()))?;
            sum.add(loss.value());
        }
        Ok(sum.value())
    }

    /// One update; returns the batch loss before it.
    ///
    /// # Errors
    /// What the model reports, and a loss that is not finite.
    pub fn update(&mut self) -> Result<f64> {
        let loss = self.loss_and_grad()?;
        self.check_finite("training loss", loss)?;
        let lr = self.plan.schedule.rate(self.plan.lr, self.step, self.plan.steps);
        self.optimizer.step(lr, &mut self.params, &self.grad);
        self.step += 1;
        self.interval.0.add(loss);
        self.interval.1 += 1;
        Ok(loss)
    }

    fn check_finite(&self, what: &str, value: f64) -> Result<()> {
        if value.is_finite() {
            return Ok(());
        }
        let found = format!("training diverged: {what} is {value} at step {}", self.step);
        Err(Error::invalid("lr, weight_decay", found, "rates at which everything stays finite"))
    }

    /// Loss on the test set.
    ///
    /// # Errors
    /// What the model reports.
    pub fn test_loss(&mut self) -> Result<f64> {
        let (model, params) = (self.model, &self.params);
        self.shards.par_iter_mut().for_each(|shard| shard.loss = shard.test_loss(model, params));
        self.fold_losses()
    }

    fn evaluate(&mut self, observer: &mut dyn Observer<E>) -> Result<()> {
        let test_loss = self.test_loss()?;
        self.check_finite("test loss", test_loss)?;
        let (sum, count) = std::mem::take(&mut self.interval);
        let evaluation = Evaluation {
            step: self.step,
            lr: self.plan.schedule.rate(self.plan.lr, self.step, self.plan.steps),
            train_loss: (count > 0).then(|| sum.value() / count as f64),
            test_loss,
            grad_norm: self.grad_norm,
        };
        observer.evaluated(&evaluation, &self.params)
    }

    /// Trains up to `plan.steps` updates, evaluating and checkpointing on the way. A fresh run evaluates once before the
    /// first update; a restored one has that behind it.
    ///
    /// # Errors
    /// What model and observer report.
    pub fn run(&mut self, observer: &mut dyn Observer<E>) -> Result<()> {
        if self.step == 0 {
            self.evaluate(observer)?;
        }
        while self.step < self.plan.steps {
            let loss = self.update()?;
            observer.stepped(self.step, loss)?;
            let last = self.step == self.plan.steps;
            let checkpoint = last || self.step.is_multiple_of(self.plan.checkpoint_every);
            if last || self.step.is_multiple_of(self.plan.eval_every) {
                let sq: f64 = self.grad.iter().map(|g| g.to_f64() * g.to_f64()).sum();
                self.grad_norm = Some(sq.sqrt());
                self.evaluate(observer)?;
            }
            if checkpoint {
                // The last good checkpoint must not give way to one that nothing can resume from.
                let largest =
                    self.params.iter().fold(0.0, |m: f64, p| if p.is_finite() { m } else { p.to_f64() });
                self.check_finite("a parameter", largest)?;
                observer.checkpoint(&self.state())?;
            }
        }
        Ok(())
    }

    /// What a checkpoint holds.
    pub fn state(&self) -> State<E> {
        State {
            step: self.step,
            params: self.params.clone(),
            optimizer: self.optimizer.state().into_iter().map(|(n, v)| (n.to_string(), v.to_vec())).collect(),
            interval: (self.interval.0.parts(), self.interval.1),
        }
    }

    /// Puts a checkpoint back.
    ///
    /// # Errors
    /// When it is not one of this model and optimiser, or lies past the end of the plan.
    pub fn restore(&mut self, state: State<E>) -> Result<()> {
        if state.params.len() != self.params.len() {
            let allowed = format!("{} entries", self.params.len());
            return Err(Error::invalid(
                "checkpoint params",
                format!("{} entries", state.params.len()),
                allowed,
            ));
        }
        if state.step > self.plan.steps {
            let allowed = format!("at most steps = {}", self.plan.steps);
            return Err(Error::invalid("checkpoint step", state.step.to_string(), allowed));
        }
        let optimizer: Vec<(&str, Vec<E>)> =
            state.optimizer.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
        self.optimizer.restore(&optimizer)?;
        self.params = state.params;
        self.step = state.step;
        self.interval = (Sum::from_parts(state.interval.0), state.interval.1);
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
