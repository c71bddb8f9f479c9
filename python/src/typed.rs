//! A model in one element type, with the storage that its calls use again.

use crate::errors::OrRaise;
use crate::params::Real;
use crate::pools;
use popgrad::batch::Targets;
use popgrad::model::{Model as Passes, Spec};
use popgrad::rng::{Key, Purpose};
use popgrad::run::initial;
use popgrad::train::{Evaluation, Storage, Values};
use pyo3::prelude::*;
use std::sync::{Mutex, PoisonError};

/// A model in one element type.
pub(crate) struct Typed<E> {
    pub(crate) model: Box<dyn Passes<E>>,
    /// Which blocks have a gradient: all but buffers.
    active: Vec<bool>,
    none: Vec<bool>,
    /// Working storage that no call uses now. The lock is held only to take and to give back, while
    /// attached to the interpreter: calls in two threads each have their own storage.
    idle: Mutex<Vec<Storage<E>>>,
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

    /// Evaluates with the lock of the interpreter released; writes the gradient to `grad`, if any.
    pub(crate) fn evaluate<F>(
        &self,
        py: Python<'_>,
        params: &[E],
        call: &Call<'_, F>,
        grad: Option<&mut [E]>,
    ) -> PyResult<Values>
    where
        F: Fn(usize, &mut popgrad::batch::Batch) + Sync,
    {
        self.model.accepts(call.kind).or_raise()?;
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
        let free = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut storage = free().pop().unwrap_or_default();
        let out = grad.unwrap_or(&mut []);
        // A single piece does not enter a pool.
        let alone = threads == 1 || evaluation.pieces() <= 1;
        let pool = if alone { None } else { Some(pools::pool(py, threads)?) };
        let (found, storage) = py.detach(|| {
            let found = match &pool {
                None => evaluation.run_in(&mut storage, 1, call.fill, out),
                Some(pool) => pool.install(|| evaluation.run_in(&mut storage, threads, call.fill, out)),
            };
            (found, storage)
        });
        free().push(storage);
        found.or_raise()
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
