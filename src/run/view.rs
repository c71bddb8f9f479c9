//! The interface of measurements to a model at given parameters, independent of their type.

use crate::batch::Batch;
use crate::model::{Layout, Model, Report, Workspace};
use crate::num::Sum;
use crate::optim::UnfreezeAt;
use crate::probe;
use crate::train::{Objective, On};
use crate::{Error, Result};
use popgrad_kernels::Elem;

/// A model at the current parameters, and its objective, for measurements.
pub trait View {
    /// The model's blocks.
    fn layout(&self) -> &Layout;
    /// Attention heads of each layer.
    fn heads(&self) -> &[usize];
    /// Parameters, in the model's layout.
    fn params(&self) -> &[f64];
    /// For each block, the first update that trains it.
    fn unfreeze(&self) -> &[UnfreezeAt];
    /// Loss on the first test set, or on the population.
    ///
    /// # Errors
    /// Errors of the objective.
    fn test_loss(&mut self) -> Result<f64>;
    /// Number of test sets.
    fn test_sets(&self) -> usize;
    /// Reports of the model, see [`Objective::reports`].
    ///
    /// # Errors
    /// As [`Objective::reports`].
    fn reports(&mut self, on: On, visit: &mut dyn FnMut(usize, &Batch, &Report) -> Result<()>) -> Result<()>;
    /// Euclidean norm of each block's gradient at update number `step`, which does not compute it
    /// again. `None` for a block that does not train yet, or if no output of the batch counts.
    ///
    /// # Errors
    /// Errors of the objective.
    fn gradient_norms(&mut self, step: u64) -> Result<Vec<Option<f64>>>;
    /// Mean pattern of each head of layer `layer` (from 0) over weighted sequences, (T, T) each,
    /// NaN above the diagonal.
    ///
    /// # Errors
    /// Errors of the model; no such layer.
    fn patterns(&mut self, layer: usize, sequences: &Batch) -> Result<Vec<Vec<f64>>>;
    /// Attention on one sequence, see [`Model::attention`].
    ///
    /// # Errors
    /// As [`Model::attention`].
    fn attention(&mut self, tokens: &[u32], out: &mut [f64]) -> Result<()>;
}

pub(super) struct At<'a, E: Elem> {
    pub(super) model: &'a dyn Model<E>,
    pub(super) objective: &'a mut dyn Objective<E>,
    pub(super) unfreeze: &'a [UnfreezeAt],
    pub(super) params: &'a [E],
    reals: Vec<f64>,
    ws: Option<Workspace<E>>,
}

impl<'a, E: Elem> At<'a, E> {
    pub(super) fn new(
        model: &'a dyn Model<E>,
        objective: &'a mut dyn Objective<E>,
        unfreeze: &'a [UnfreezeAt],
        params: &'a [E],
    ) -> Self {
        let reals = params.iter().map(|p| p.to_f64()).collect();
        At { model, objective, unfreeze, params, reals, ws: None }
    }
}

/// Euclidean norm, in f64, in order.
pub(crate) fn norm<E: Elem>(values: &[E]) -> f64 {
    values.iter().map(|x| x.to_f64() * x.to_f64()).collect::<Sum>().value().sqrt()
}

impl<E: Elem> View for At<'_, E> {
    fn layout(&self) -> &Layout {
        self.model.layout()
    }

    fn heads(&self) -> &[usize] {
        self.model.heads()
    }

    fn params(&self) -> &[f64] {
        &self.reals
    }

    fn unfreeze(&self) -> &[UnfreezeAt] {
        self.unfreeze
    }

    fn test_loss(&mut self) -> Result<f64> {
        self.objective.test_loss(self.params)
    }

    fn test_sets(&self) -> usize {
        self.objective.test_sets()
    }

    fn reports(&mut self, on: On, visit: &mut dyn FnMut(usize, &Batch, &Report) -> Result<()>) -> Result<()> {
        self.objective.reports(on, self.params, visit)
    }

    fn gradient_norms(&mut self, step: u64) -> Result<Vec<Option<f64>>> {
        let grad = self.objective.ahead(step, self.params)?;
        let of = |u: &UnfreezeAt| {
            let grad = grad.filter(|_| u.from.is_some_and(|from| from <= step))?;
            Some(norm(&grad[u.range.clone()]))
        };
        Ok(self.unfreeze.iter().map(of).collect())
    }

    fn patterns(&mut self, layer: usize, sequences: &Batch) -> Result<Vec<Vec<f64>>> {
        if layer >= self.heads().len() {
            let allowed = format!("below {}", self.heads().len());
            return Err(Error::invalid("layer", layer.to_string(), allowed));
        }
        match layer {
            0 => probe::attention::first_layer_patterns(self.model, self.params, sequences),
            _ => probe::attention::layer_patterns(self.model, self.params, sequences, layer),
        }
    }

    fn attention(&mut self, tokens: &[u32], out: &mut [f64]) -> Result<()> {
        if self.ws.is_none() {
            self.ws = Some(self.model.workspace(crate::batch::Targets::Law, 1)?);
        }
        match &mut self.ws {
            Some(ws) => self.model.attention(self.params, tokens, ws, out),
            None => Ok(()),
        }
    }
}
