//! Optimisers and learning-rate schedules over flat vectors.

mod schedule;
mod sgd;
mod staged;

pub use schedule::Schedule;
pub use sgd::Sgd;
pub use staged::{Stage, Staged};

use crate::{Error, Result};
use popgrad_kernels::Elem;

/// Updates a flat parameter vector from a gradient of the same length.
pub trait Optimizer<E: Elem>: Send {
    /// Registry name.
    fn name(&self) -> &'static str;
    /// Update number `step` (from 0) at learning rate `lr`. Allocates nothing.
    fn step(&mut self, step: u64, lr: f64, params: &mut [E], grad: &[E]);
    /// Its memory beyond the parameters, as named arrays as long as the parameters, for checkpoints.
    fn state(&self) -> Vec<(&'static str, &[E])>;
    /// Puts back what `state` gave.
    ///
    /// # Errors
    /// When a name or length is not what `state` gives.
    fn restore(&mut self, state: &[(&str, Vec<E>)]) -> Result<()>;
}

/// Names that [`build`] knows.
pub const OPTIMIZERS: [&str; 1] = ["sgd"];

/// Builds an optimiser by name for `len` parameters.
///
/// # Errors
/// An unknown name, or a weight decay out of range.
pub fn build<E: Elem>(name: &str, _len: usize, weight_decay: f64) -> Result<Box<dyn Optimizer<E>>> {
    match name {
        "sgd" => Ok(Box::new(Sgd::new(weight_decay)?)),
        other => Err(Error::unknown("optimizer", other, OPTIMIZERS)),
    }
}
