//! Training: the loop over an [`Objective`], and the one that most runs have, [`Sharded`].
//!
//! [`Sharded`] splits its batch into a fixed number of shards. Each shard draws its samples and
//! runs the model in its own storage, and the shards' losses and gradients are folded in index
//! order; so the result depends on the number of shards, which is configuration, and never on the
//! threads. A warm step allocates nothing.
//!
//! Run everything inside one rayon pool (`pool.install`): entering a pool from outside allocates.

mod sharded;

pub use sharded::{Sharded, batch_bytes, bytes};

use crate::batch::Batch;
use crate::model::Report;
use crate::num::Sum;
use crate::optim::{Optimizer, Schedule};
use crate::{Error, Result};
use popgrad_kernels::Elem;

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

/// Sequences that [`Objective::reports`] looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// The batch of the update of this number.
    Update(u64),
    /// The test set of this number.
    Test(usize),
}

/// What training descends on: a loss and its gradient at given parameters, sampled or exact; and
/// what observers may ask of it between updates.
pub trait Objective<E: Elem> {
    /// Entries of the parameter vector.
    fn len(&self) -> usize;
    /// Has it no parameters?
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Overwrites `grad` with the gradient for update number `step` (from 0), and returns the loss
    /// there; both are 0 where the loss counts nothing. Allocates nothing once warm.
    ///
    /// # Errors
    /// What model or engine reports.
    fn loss_and_grad(&mut self, step: u64, params: &[E], grad: &mut [E]) -> Result<f64>;
    /// Did the last [`Objective::loss_and_grad`] have anything to count? If not, its loss is no
    /// loss and enters no mean.
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
    /// The gradient that update number `step` at these parameters will have; that update does not
    /// compute it again. None where its batch counts nothing, or the objective cannot look ahead.
    ///
    /// # Errors
    /// As [`Objective::loss_and_grad`].
    fn ahead(&mut self, _step: u64, _params: &[E]) -> Result<Option<&[E]>> {
        Ok(None)
    }
    /// Calls `visit` with the shard, the batch and the model's report of every piece of what `on`
    /// names, in order; with attention for the batch of an update, without for test sets.
    ///
    /// # Errors
    /// What model or visitor report; an objective without batches.
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

/// Everything that a resumed run needs, beyond configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct State<E> {
    /// Updates done.
    pub step: u64,
    /// Parameters.
    pub params: Vec<E>,
    /// Optimiser memory, by name.
    pub optimizer: Vec<(String, Vec<E>)>,
    /// Sum of the training losses since the last evaluation, and how many; batches that count
    /// nothing have none.
    pub interval: ([f64; 2], u64),
}

/// Where training stands when it is evaluated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Updates done.
    pub step: u64,
    /// Learning rate of the next update.
    pub lr: f64,
    /// Mean training loss of the updates since the last evaluation; none before the first, and
    /// where none of them counted anything.
    pub train_loss: Option<f64>,
    /// Euclidean norm of the last gradient; none before the first update.
    pub grad_norm: Option<f64>,
    /// Is this the end of the plan?
    pub last: bool,
}

/// What a run reports to. Called on the training thread, between steps.
pub trait Observer<E: Elem> {
    /// After every update: the step just finished and its batch loss, 0 where the batch counts
    /// nothing. Must not allocate.
    ///
    /// # Errors
    /// Ends the run.
    fn stepped(&mut self, step: u64, loss: f64) -> Result<()>;
    /// When an evaluation is due. The observer asks the objective for whatever it wants to know;
    /// the loss that it returns must be finite, or the run ends as diverged.
    ///
    /// # Errors
    /// Ends the run.
    fn evaluate(&mut self, at: &Moment, objective: &mut dyn Objective<E>, params: &[E]) -> Result<f64>;
    /// When a checkpoint is due.
    ///
    /// # Errors
    /// Ends the run.
    fn checkpoint(&mut self, state: &State<E>) -> Result<()>;
}

/// An objective, its parameters, an optimiser and where training stands.
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

impl<E: Elem, O: Objective<E>> Trainer<E, O> {
    /// Training on `objective` from `params`, in the model's layout.
    ///
    /// # Errors
    /// A plan out of range, parameters of another length.
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

    /// What it descends on.
    pub fn objective(&mut self) -> &mut O {
        &mut self.objective
    }

    /// Loss and gradient of the next update, the gradient left in [`Trainer::grad`]. No update.
    ///
    /// # Errors
    /// What the objective reports.
    pub fn loss_and_grad(&mut self) -> Result<f64> {
        self.objective.loss_and_grad(self.step, &self.params, &mut self.grad)
    }

    /// One update; returns the batch loss before it. Where the batch counts nothing that is 0, and
    /// the update is the optimiser's with gradient 0: decay and momentum act.
    ///
    /// # Errors
    /// What the objective reports, and a loss that is not finite.
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

    /// Loss on the test set.
    ///
    /// # Errors
    /// What the objective reports.
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
        self.check_finite("test loss", loss)
    }

    /// Trains up to `plan.steps` updates, evaluating and checkpointing on the way. A fresh run
    /// evaluates once before the first update; a restored one has that behind it.
    ///
    /// # Errors
    /// What objective and observer report.
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
            optimizer: self.optimizer.state().into_iter().map(|(n, v)| (n, v.to_vec())).collect(),
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
        self.optimizer.restore(&state.optimizer)?;
        self.params = state.params;
        self.step = state.step;
        self.interval = (Sum::from_parts(state.interval.0), state.interval.1);
        Ok(())
    }
}
