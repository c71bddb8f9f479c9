//! A model in one element type, with the storage that its calls use again.

use crate::params::Real;
use crate::pools;
use popgrad::batch::Targets;
use popgrad::model::{Model as Passes, Spec};
use popgrad::rng::{Key, Purpose};
use popgrad::run::initial;
use popgrad::train::{Evaluation, Storage, Values};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// A model in one element type.
pub(crate) struct Typed<E> {
    pub(crate) model: Box<dyn Passes<E>>,
    /// Which blocks have a gradient: all but buffers.
    active: Vec<bool>,
    none: Vec<bool>,
    /// Working storage that no call uses now: calls in two threads each have their own.
    idle: Mutex<Vec<Storage<E>>>,
}

/// The lock, if nobody has it. Storage is taken and given back by this, so that no call waits: a
/// child of a fork may find a lock held by a thread that it lacks. A call that finds it held makes
/// storage of its own.
pub(crate) fn unless_held<T>(lock: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match lock.try_lock() {
        Ok(held) => Some(held),
        Err(TryLockError::Poisoned(held)) => Some(PoisonError::into_inner(held)),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// What a call evaluates.
pub(crate) struct Call<'a, F> {
    pub(crate) kind: Targets,
    pub(crate) seqs: usize,
    pub(crate) threads: Option<usize>,
    pub(crate) keep: bool,
    /// False if no output has a weight: the loss and its gradient are then 0.
    pub(crate) counts: bool,
    pub(crate) fill: &'a F,
}

impl<E: Real> Typed<E> {
    pub(crate) fn new(spec: &Spec, vocab: usize, len: usize) -> popgrad::Result<Self> {
        let model = spec.build::<E>(vocab, len)?;
        // A frozen output is a choice of training; its gradient exists.
        let blocks = model.layout().blocks().iter().zip(model.trainable());
        let active: Vec<bool> = blocks.map(|(b, on)| *on || b.name() == "output.weight").collect();
        let none = vec![false; active.len()];
        Ok(Typed { model, active, none, idle: Mutex::new(Vec::new()) })
    }

    /// Evaluates; writes the gradient to `grad`, if any. Needs no interpreter: callers that are
    /// attached to it detach.
    pub(crate) fn evaluate<F>(
        &self,
        params: &[E],
        call: &Call<'_, F>,
        grad: Option<&mut [E]>,
    ) -> popgrad::Result<Values>
    where
        F: Fn(usize, &mut popgrad::batch::Batch) + Sync,
    {
        self.model.accepts(call.kind)?;
        let threads = pools::count(call.threads)?;
        if !call.counts && !call.keep {
            grad.unwrap_or(&mut []).fill(E::ZERO);
            return Ok(Values { loss: 0.0, losses: Vec::new(), predictions: Vec::new() });
        }
        let evaluation = Evaluation {
            model: self.model.as_ref(),
            params,
            active: if grad.is_some() { &self.active } else { &self.none },
            kind: call.kind,
            seqs: call.seqs,
            keep: call.keep,
        };
        let mut storage = unless_held(&self.idle).and_then(|mut idle| idle.pop()).unwrap_or_default();
        let out = grad.unwrap_or(&mut []);
        // A single piece does not enter a pool.
        let found = if threads == 1 || evaluation.pieces() <= 1 {
            evaluation.run_in(&mut storage, 1, call.fill, out)
        } else {
            let pool = pools::shared(threads)?;
            pool.install(|| evaluation.run_in(&mut storage, threads, call.fill, out))
        };
        if let Some(mut idle) = unless_held(&self.idle) {
            idle.push(storage);
        }
        found
    }

    /// The model's own start under `seed`; with `std` normal numbers of that deviation in every
    /// block that trains.
    pub(crate) fn init(&self, seed: u64, std: Option<f64>) -> Vec<E> {
        let model = self.model.as_ref();
        let mut params = initial(model, seed);
        if let Some(std) = std {
            let key = Key::new(seed, Purpose::Init);
            for (block, _) in model.layout().blocks().iter().zip(model.trainable()).filter(|(_, on)| **on) {
                for i in block.range() {
                    params[i] = E::from_f64(std * key.normal(i as u64));
                }
            }
        }
        params
    }
}
