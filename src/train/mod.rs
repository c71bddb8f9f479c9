//! Training: the [`Trainer`] minimises an [`Objective`]; most runs use the objective [`Sharded`].
//!
//! [`Sharded`] splits each batch into a fixed number of shards. Each shard draws its samples and
//! runs the model in its own workspace. The shards' losses and gradients are added in index order,
//! so the result depends on the number of shards, which is configuration, and never on the number
//! of threads. After the first step a step allocates nothing.
//!
//! [`Evaluation`] takes a batch of any size apart from training, piece by piece.
//!
//! Run everything inside one rayon pool (`pool.install`): entering a pool from outside allocates.

mod evaluation;
mod sharded;

pub use evaluation::{Evaluated, Evaluation, Storage, Values};
pub use sharded::{Sharded, batch_bytes, bytes};

use crate::batch::Batch;
use crate::model::{Model, Report};
use crate::num::Sum;
use crate::optim::{Optimizer, Schedule, Sgd, UnfreezeAt};
use crate::source::Source;
use crate::{Error, Result};
use popgrad_kernels::Elem;

/// The numbers that define a training run: its length, batch, learning rate and intervals.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Total number of updates, and the horizon of the schedule.
    pub steps: u64,
    /// Sequences per update; >= 1.
    pub batch: usize,
    /// Shards per batch; >= 1. They fix the order of the sums.
    pub shards: usize,
    /// Base learning rate, which the schedule multiplies; finite, >= 0.
    pub lr: f64,
    /// Schedule of the learning rate.
    pub schedule: Schedule,
    /// Updates between evaluations; >= 1. Step 0 and the last step are evaluated too.
    pub eval_every: u64,
    /// Updates between checkpoints; >= 1. A checkpoint follows the evaluation of the same step; the
    /// last step has one too.
    pub checkpoint_every: u64,
}

impl Default for Plan {
    /// 1,000 updates of 256 sequences at a constant rate of 1, an evaluation every 100 updates, one
    /// checkpoint at the end.
    fn default() -> Self {
        Plan {
            steps: 1000,
            batch: 256,
            shards: 16,
            lr: 1.0,
            schedule: Schedule::Constant,
            eval_every: 100,
            checkpoint_every: u64::MAX,
        }
    }
}

impl Plan {
    fn check(&self) -> Result<()> {
        let positive = |field: &str, value: u64| match value {
            0 => Err(Error::invalid(field, "0", format!("{field} >= 1"))),
            _ => Ok(()),
        };
        positive("batch", self.batch as u64)?;
        positive("shards", self.shards as u64)?;
        positive("eval_every", self.eval_every)?;
        positive("checkpoint_every", self.checkpoint_every)?;
        if !(self.lr.is_finite() && self.lr >= 0.0) {
            return Err(Error::invalid("lr", self.lr.to_string(), "finite, >= 0"));
        }
        if self.steps.checked_mul(self.batch as u64).is_none() {
            return Err(Error::invalid("steps", self.steps.to_string(), "steps * batch < 2^64"));
        }
        Ok(())
    }
}

/// Which sequences [`Objective::reports`] evaluates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// The batch of the update with this number (from 0).
    Update(u64),
    /// The test set with this number (from 0).
    Test(usize),
}

/// The function that training minimises: its loss and gradient at given parameters, sampled or
/// exact, and what observers may evaluate between updates.
pub trait Objective<E: Elem> {
    /// Entries of the parameter vector.
    fn len(&self) -> usize;
    /// True if there are no parameters.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Overwrites `grad` with the gradient for update number `step` (from 0), and returns the loss
    /// there. Both are 0 if no output of the batch counts. Allocates nothing after the first call.
    ///
    /// # Errors
    /// Errors of the model or of the exact engine.
    fn loss_and_grad(&mut self, step: u64, params: &[E], grad: &mut [E]) -> Result<f64>;
    /// False if no output counted in the last [`Objective::loss_and_grad`]. Its loss is then left
    /// out of every mean.
    fn counted(&self) -> bool {
        true
    }
    /// The loss on the first test set.
    ///
    /// # Errors
    /// As [`Objective::loss_and_grad`]; no test set.
    fn test_loss(&mut self, params: &[E]) -> Result<f64>;
    /// Number of test sets.
    fn test_sets(&self) -> usize {
        0
    }
    /// The gradient that update number `step` at these parameters will use; that update does not
    /// compute it again. `None` if no output of its batch counts, or the objective cannot look
    /// ahead.
    ///
    /// # Errors
    /// As [`Objective::loss_and_grad`].
    fn ahead(&mut self, _step: u64, _params: &[E]) -> Result<Option<&[E]>> {
        Ok(None)
    }
    /// Evaluates the sequences that `on` names, piece by piece. Calls `visit` for every piece, in
    /// order, with the shard, the batch and the model's report. Reports hold attention for the
    /// batch of an update, not for test sets.
    ///
    /// # Errors
    /// Errors of the model or of `visit`; an objective without batches.
    fn reports(
        &mut self,
        _on: On,
        _params: &[E],
        _visit: &mut dyn FnMut(usize, &Batch, &Report) -> Result<()>,
    ) -> Result<()> {
        Err(Error::invalid("source", "no sequences", "one that fills batches"))
    }
}

impl<E: Elem, O: Objective<E> + ?Sized> Objective<E> for &mut O {
    fn len(&self) -> usize {
        (**self).len()
    }
    fn loss_and_grad(&mut self, step: u64, params: &[E], grad: &mut [E]) -> Result<f64> {
        (**self).loss_and_grad(step, params, grad)
    }
    fn counted(&self) -> bool {
        (**self).counted()
    }
    fn test_loss(&mut self, params: &[E]) -> Result<f64> {
        (**self).test_loss(params)
    }
    fn test_sets(&self) -> usize {
        (**self).test_sets()
    }
    fn ahead(&mut self, step: u64, params: &[E]) -> Result<Option<&[E]>> {
        (**self).ahead(step, params)
    }
    fn reports(
        &mut self,
        on: On,
        params: &[E],
        visit: &mut dyn FnMut(usize, &Batch, &Report) -> Result<()>,
    ) -> Result<()> {
        (**self).reports(on, params, visit)
    }
}

/// Everything that a resumed run needs besides its configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct State<E> {
    /// Updates done.
    pub step: u64,
    /// Parameters.
    pub params: Vec<E>,
    /// Arrays of the optimiser's state, by name.
    pub optimizer: Vec<(String, Vec<E>)>,
    /// Compensated sum of the training losses since the last evaluation, and their number. A batch
    /// in which no output counts has no loss.
    pub interval: ([f64; 2], u64),
}

/// The state of training at an evaluation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Updates done.
    pub step: u64,
    /// Learning rate of the next update.
    pub lr: f64,
    /// Mean training loss of the updates since the last evaluation. `None` before the first update,
    /// and if no output counted in any of them.
    pub train_loss: Option<f64>,
    /// Euclidean norm of the last gradient; `None` before the first update.
    pub grad_norm: Option<f64>,
    /// True at the last step of the plan.
    pub last: bool,
}

/// Receives the events of a run. Called on the training thread, between steps.
pub trait Observer<E: Elem> {
    /// Called after every update with the number of updates done and the batch loss, `None` if no
    /// output of the batch counts. Must not allocate.
    ///
    /// # Errors
    /// An error ends the run.
    fn stepped(&mut self, step: u64, loss: Option<f64>) -> Result<()>;
    /// Called with the parameters before the first update of a new run, and after every update.
    ///
    /// # Errors
    /// An error ends the run.
    fn moved(&mut self, _step: u64, _params: &[E]) -> Result<()> {
        Ok(())
    }
    /// Asked before every update. If it is true, the run saves a checkpoint, unless it has made no
    /// update since the last one, and ends.
    fn wants_to_stop(&mut self) -> bool {
        false
    }
    /// Called when an evaluation is due. The observer evaluates what it needs through `objective`
    /// and returns the test loss, `None` where there is no test set. If that is not finite, the run
    /// ends with [`Error::Diverged`].
    ///
    /// # Errors
    /// An error ends the run.
    fn evaluate(
        &mut self,
        at: &Moment,
        objective: &mut dyn Objective<E>,
        params: &[E],
    ) -> Result<Option<f64>>;
    /// Called when a checkpoint is due.
    ///
    /// # Errors
    /// An error ends the run.
    fn checkpoint(&mut self, state: &State<E>) -> Result<()>;
}

/// An observer that calls `f` at every evaluation, with the state of training, the loss on the
/// first test set, if there is one, and the parameters. It keeps no checkpoints.
///
/// ```
/// # use popgrad::prelude::*;
/// # fn main() -> popgrad::Result<()> {
/// # let (s, t) = (2, 5);
/// # let task = CausalTree::new(Forest::chain(t)?, s, 1.0, Roots::Uniform)?;
/// # let source = Sampled::new(task, Key::new(0, Purpose::Train));
/// # let model = Spec::Disentangled(DisentangledSpec::new(&[1, 1])).build::<f64>(s, t)?;
/// # let plan = Plan { steps: 20, batch: 8, eval_every: 10, ..Plan::default() };
/// # let start = initial(model.as_ref(), 0);
/// # let mut trainer = Trainer::sgd(model.as_ref(), &source, plan, start)?;
/// let mut steps = Vec::new();
/// trainer.run(&mut observe(|at, _, _| {
///     steps.push(at.step);
///     Ok(())
/// }))?;
/// assert_eq!(steps, [0, 10, 20]);
/// # Ok(())
/// # }
/// ```
pub fn observe<E: Elem>(f: impl FnMut(&Moment, Option<f64>, &[E]) -> Result<()>) -> impl Observer<E> {
    Observing(f)
}

struct Observing<F>(F);

impl<E: Elem, F: FnMut(&Moment, Option<f64>, &[E]) -> Result<()>> Observer<E> for Observing<F> {
    fn stepped(&mut self, _step: u64, _loss: Option<f64>) -> Result<()> {
        Ok(())
    }
    fn evaluate(
        &mut self,
        at: &Moment,
        objective: &mut dyn Objective<E>,
        params: &[E],
    ) -> Result<Option<f64>> {
        let loss = if objective.test_sets() > 0 { Some(objective.test_loss(params)?) } else { None };
        (self.0)(at, loss, params)?;
        Ok(loss)
    }
    fn checkpoint(&mut self, _state: &State<E>) -> Result<()> {
        Ok(())
    }
}

/// How [`Trainer::run`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All updates of the plan are done.
    Done,
    /// The observer wanted it to stop. The last checkpoint is of the last update.
    Stopped,
}

/// The training loop: an objective, its parameters, an optimiser, and the number of updates done.
pub struct Trainer<E: Elem, O: Objective<E>> {
    objective: O,
    optimizer: Box<dyn Optimizer<E>>,
    plan: Plan,
    params: Vec<E>,
    grad: Vec<E>,
    step: u64,
    interval: (Sum, u64),
    grad_norm: Option<f64>,
}

impl<'a, E: Elem> Trainer<E, Sharded<'a, E>> {
    /// Plain gradient descent on batches of `source`, from `params`; every block trains that can.
    ///
    /// # Errors
    /// As [`Sharded::new`] and [`Trainer::new`].
    pub fn sgd(model: &'a dyn Model<E>, source: &'a dyn Source, plan: Plan, params: Vec<E>) -> Result<Self> {
        let blocks = model.layout().blocks().iter().zip(model.trainable());
        let unfreeze = UnfreezeAt::all(blocks.map(|(b, can)| (b.name(), b.range(), *can)));
        let objective = Sharded::new(model, source, &plan, unfreeze)?;
        Trainer::new(objective, Box::new(Sgd::new(0.0)?), plan, params)
    }

    /// The same with a test set: the first `size` sequences of `source`.
    ///
    /// # Errors
    /// As [`Sharded::set_tests`].
    pub fn with_test(mut self, source: &dyn Source, size: usize) -> Result<Self> {
        self.objective.set_tests(&[source], size)?;
        Ok(self)
    }
}

impl<E: Elem, O: Objective<E>> Trainer<E, O> {
    /// A trainer of `objective` that starts from `params`, in the model's layout.
    ///
    /// # Errors
    /// A field of the plan out of range; parameters of the wrong length.
    pub fn new(objective: O, optimizer: Box<dyn Optimizer<E>>, plan: Plan, params: Vec<E>) -> Result<Self> {
        plan.check()?;
        if params.len() != objective.len() {
            let allowed = format!("{} entries for this model", objective.len());
            return Err(Error::invalid("params", format!("{} entries", params.len()), allowed));
        }
        let grad = vec![E::ZERO; params.len()];
        Ok(Trainer {
            objective,
            optimizer,
            plan,
            params,
            grad,
            step: 0,
            interval: (Sum::new(), 0),
            grad_norm: None,
        })
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

    /// The objective.
    pub fn objective(&mut self) -> &mut O {
        &mut self.objective
    }

    /// The loss of the next update; its gradient is left in [`Trainer::grad`]. The parameters do
    /// not change.
    ///
    /// # Errors
    /// Errors of the objective.
    pub fn loss_and_grad(&mut self) -> Result<f64> {
        self.objective.loss_and_grad(self.step, &self.params, &mut self.grad)
    }

    /// Makes one update and returns the batch loss before it. If no output of the batch counts, the
    /// loss and the gradient are 0; weight decay and momentum still act.
    ///
    /// # Errors
    /// Errors of the objective; [`Error::Diverged`] if the loss is not finite.
    pub fn update(&mut self) -> Result<f64> {
        let loss = self.loss_and_grad()?;
        self.check_finite("training loss", loss)?;
        let lr = self.plan.schedule.rate(self.plan.lr, self.step, self.plan.steps);
        self.optimizer.step(self.step, lr, &mut self.params, &self.grad);
        self.step += 1;
        if self.objective.counted() {
            self.interval.0.add(loss);
            self.interval.1 += 1;
        }
        Ok(loss)
    }

    fn check_finite(&self, what: &str, value: f64) -> Result<()> {
        if value.is_finite() {
            return Ok(());
        }
        Err(Error::Diverged { what: what.into(), value, step: self.step })
    }

    /// Loss on the first test set.
    ///
    /// # Errors
    /// Errors of the objective; no test set.
    pub fn test_loss(&mut self) -> Result<f64> {
        self.objective.test_loss(&self.params)
    }

    fn evaluate(&mut self, observer: &mut dyn Observer<E>) -> Result<()> {
        let (sum, count) = std::mem::take(&mut self.interval);
        let at = Moment {
            step: self.step,
            lr: self.plan.schedule.rate(self.plan.lr, self.step, self.plan.steps),
            train_loss: (count > 0).then(|| sum.value() / count as f64),
            grad_norm: self.grad_norm,
            last: self.step == self.plan.steps,
        };
        let loss = observer.evaluate(&at, &mut self.objective, &self.params)?;
        loss.map_or(Ok(()), |loss| self.check_finite("test loss", loss))
    }

    /// Trains until `plan.steps` updates are done, and calls `observer` at every update, evaluation
    /// and checkpoint, or until the observer wants to stop. A new run evaluates once before the
    /// first update; a restored run does not.
    ///
    /// # Errors
    /// Errors of the objective or the observer; [`Error::Diverged`] if a loss, or at a checkpoint a
    /// parameter, is not finite.
    pub fn run(&mut self, observer: &mut dyn Observer<E>) -> Result<Ended> {
        if self.step == 0 {
            self.evaluate(observer)?;
            observer.moved(0, &self.params)?;
        }
        // A restored run has its checkpoint, and a new one starts over to the same.
        let mut saved = self.step;
        while self.step < self.plan.steps {
            if observer.wants_to_stop() {
                if saved != self.step {
                    self.save(observer)?;
                }
                return Ok(Ended::Stopped);
            }
            let loss = self.update()?;
            let loss = self.objective.counted().then_some(loss);
            observer.stepped(self.step, loss)?;
            observer.moved(self.step, &self.params)?;
            let last = self.step == self.plan.steps;
            let checkpoint = last || self.step.is_multiple_of(self.plan.checkpoint_every);
            if last || self.step.is_multiple_of(self.plan.eval_every) {
                let sq: f64 = self.grad.iter().map(|g| g.to_f64() * g.to_f64()).sum();
                self.grad_norm = Some(sq.sqrt());
                self.evaluate(observer)?;
            }
            if checkpoint {
                self.save(observer)?;
                saved = self.step;
            }
        }
        Ok(Ended::Done)
    }

    fn save(&self, observer: &mut dyn Observer<E>) -> Result<()> {
        // Do not replace the last good checkpoint by one that cannot be resumed.
        let largest = self.params.iter().fold(0.0, |m: f64, p| if p.is_finite() { m } else { p.to_f64() });
        self.check_finite("a parameter", largest)?;
        observer.checkpoint(&self.state())
    }

    /// The state that a checkpoint stores.
    pub fn state(&self) -> State<E> {
        State {
            step: self.step,
            params: self.params.clone(),
            optimizer: self.optimizer.state().into_iter().map(|(n, v)| (n, v.to_vec())).collect(),
            interval: (self.interval.0.parts(), self.interval.1),
        }
    }

    /// Restores the state of a checkpoint.
    ///
    /// # Errors
    /// A state of another model or optimiser; a step past the end of the plan.
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
        self.optimizer.restore(&state.optimizer)?;
        self.params = state.params;
        self.step = state.step;
        self.interval = (Sum::from_parts(state.interval.0), state.interval.1);
        Ok(())
    }
}
