//! Optimisers and learning-rate schedules over flat vectors.

mod adamw;
mod per_block;
mod schedule;
mod sgd;
mod staged;

pub use adamw::AdamW;
pub use per_block::{PerBlock, UnfreezeAt};
pub use schedule::Schedule;
pub use sgd::Sgd;
pub use staged::{Stage, Staged};

use crate::{Error, Result};
use popgrad_kernels::Elem;
use serde::{Deserialize, Serialize};

/// An optimiser: updates a flat parameter vector from a gradient of the same length.
pub trait Optimizer<E: Elem>: Send {
    /// Its name in configurations and checkpoints.
    fn name(&self) -> &'static str;
    /// Makes update number `step` (from 0) at learning rate `lr`. Allocates nothing.
    fn step(&mut self, step: u64, lr: f64, params: &mut [E], grad: &[E]);
    /// Its state for checkpoints, as named arrays (momentum, moments).
    fn state(&self) -> Vec<(String, &[E])>;
    /// Checks that [`Optimizer::restore`] accepts `state`.
    ///
    /// # Errors
    /// A name or length that [`Optimizer::state`] does not have; an entry that is not finite.
    fn check_state(&self, state: &[(String, Vec<E>)]) -> Result<()> {
        check_names(state, self.name(), &self.state())
    }
    /// Restores a state that [`Optimizer::state`] returned.
    ///
    /// # Errors
    /// As [`Optimizer::check_state`]; the optimiser is then unchanged.
    fn restore(&mut self, state: &[(String, Vec<E>)]) -> Result<()>;
}

/// Hyperparameters of the optimisers; each uses the ones that it has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyper {
    /// λ, finite and >= 0.
    pub weight_decay: f64,
    /// m of `sgd`, finite and >= 0; 0: no running sum is kept.
    pub momentum: f64,
    /// β₁ of `adamw`, >= 0 and < 1.
    pub beta1: f64,
    /// β₂, as β₁.
    pub beta2: f64,
    /// eps of `adamw`, finite and > 0: at 0 an entry whose gradient is exactly 0 would become NaN.
    pub eps: f64,
}

impl Default for Hyper {
    /// No decay, no momentum, and Adam's usual values.
    fn default() -> Self {
        Hyper { weight_decay: 0.0, momentum: 0.0, beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

impl Hyper {
    /// Checks the ranges above.
    ///
    /// # Errors
    /// The first value out of range.
    pub fn check(&self) -> Result<()> {
        for (name, value) in
            [("weight_decay", self.weight_decay), ("momentum", self.momentum), ("adam_eps", self.eps)]
        {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(Error::invalid(name, value.to_string(), "finite, >= 0"));
            }
        }
        for (name, value) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::invalid(name, value.to_string(), ">= 0, < 1"));
            }
        }
        Ok(())
    }
}

/// The choice of an optimiser with its hyperparameters. Those that a configuration leaves out have
/// their usual values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "optimizer", rename_all = "lowercase")]
pub enum Rule {
    /// [`Sgd`].
    Sgd {
        /// m; 0: none.
        #[serde(default)]
        momentum: f64,
    },
    /// [`AdamW`].
    AdamW {
        /// β₁.
        #[serde(default = "beta1")]
        beta1: f64,
        /// β₂.
        #[serde(default = "beta2")]
        beta2: f64,
        /// eps.
        #[serde(default = "adam_eps")]
        adam_eps: f64,
    },
    /// [`Staged`]: gradient descent on A1 of the simplified model, then on A2.
    Staged {
        /// Number of updates of the first stage.
        steps1: u64,
        /// Learning rate of the second.
        lr2: f64,
    },
}

fn beta1() -> f64 {
    Hyper::default().beta1
}
fn beta2() -> f64 {
    Hyper::default().beta2
}
fn adam_eps() -> f64 {
    Hyper::default().eps
}

impl Rule {
    /// Names of the optimisers.
    pub const NAMES: [&'static str; 3] = ["sgd", "adamw", "staged"];

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Rule::Sgd { .. } => "sgd",
            Rule::AdamW { .. } => "adamw",
            Rule::Staged { .. } => "staged",
        }
    }

    /// Its hyperparameters, with the given weight decay.
    pub fn hyper(&self, weight_decay: f64) -> Hyper {
        let usual = Hyper { weight_decay, ..Hyper::default() };
        match *self {
            Rule::Sgd { momentum } => Hyper { momentum, ..usual },
            Rule::AdamW { beta1, beta2, adam_eps } => Hyper { beta1, beta2, eps: adam_eps, ..usual },
            Rule::Staged { .. } => usual,
        }
    }

    /// The optimiser for `len` parameters.
    ///
    /// # Errors
    /// A hyperparameter out of range; `staged`, which needs the ranges of the blocks: use
    /// [`Staged::new`].
    pub fn build<E: Elem>(&self, len: usize, weight_decay: f64) -> Result<Box<dyn Optimizer<E>>> {
        let hyper = self.hyper(weight_decay);
        hyper.check()?;
        match self {
            Rule::Sgd { .. } => {
                Ok(Box::new(Sgd::new(hyper.weight_decay)?.with_momentum(hyper.momentum, len)?))
            }
            Rule::AdamW { .. } => Ok(Box::new(AdamW::new(len, &hyper)?)),
            Rule::Staged { .. } => Err(Error::invalid("optimizer", "staged", "sgd or adamw for any model")),
        }
    }
}

/// Checks that `state` holds one finite array of the name and length of each of `memory`, and no
/// other array.
fn check_names<E: Elem>(state: &[(String, Vec<E>)], owner: &str, memory: &[(String, &[E])]) -> Result<()> {
    let names: Vec<&str> = memory.iter().map(|(name, _)| name.as_str()).collect();
    if let Some((extra, _)) = state.iter().find(|(name, _)| !names.contains(&name.as_str())) {
        let allowed = if names.is_empty() { "none".into() } else { names.join(", ") };
        return Err(Error::invalid("optimizer state", extra, format!("{allowed} for {owner}")));
    }
    for (name, array) in memory {
        let found = state.iter().find(|(n, _)| n == name).map(|(_, v)| v);
        if found.filter(|v| v.len() == array.len() && v.iter().all(|x| x.is_finite())).is_none() {
            let allowed = format!("{} finite entries for {owner}", array.len());
            let problem =
                found.map_or_else(|| format!("no `{name}`"), |v| format!("`{name}` of {} entries", v.len()));
            return Err(Error::invalid("optimizer state", problem, allowed));
        }
    }
    Ok(())
}

/// Overwrites `memory` with the array called `name` of a state that has been checked.
fn put_back<E: Elem>(state: &[(String, Vec<E>)], name: &str, memory: &mut [E]) {
    if let Some((_, found)) = state.iter().find(|(n, _)| n == name) {
        memory.copy_from_slice(found);
    }
}
