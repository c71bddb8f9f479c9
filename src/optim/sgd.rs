//! Gradient descent with weight decay.

use super::Optimizer;
use crate::{Error, Result};
use popgrad_kernels::{Elem, Kernels};

/// θ ← θ − lr (g + λ θ), λ the weight decay.
#[derive(Debug, Clone)]
pub struct Sgd {
    weight_decay: f64,
}

impl Sgd {
    /// With weight decay λ >= 0.
    ///
    /// # Errors
    /// λ negative or not finite.
    pub fn new(weight_decay: f64) -> Result<Self> {
        if !(weight_decay >= 0.0 && weight_decay.is_finite()) {
            return Err(Error::invalid("weight_decay", weight_decay.to_string(), "finite, >= 0"));
        }
        Ok(Sgd { weight_decay })
    }
}

impl<E: Elem> Optimizer<E> for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn step(&mut self, _step: u64, lr: f64, params: &mut [E], grad: &[E]) {
        assert_eq!(params.len(), grad.len(), "a gradient of other parameters");
        let step = popgrad_kernels::Sgd { lr, momentum: 0.0, weight_decay: self.weight_decay };
        if Kernels::from_env().and_then(|k| k.sgd(step, params, grad, &mut [])).is_ok() {
            return;
        }
        // What the kernel refuses, a learning rate that is no number >= 0 for one, still has a meaning: the kernel's formula, its bits.
        let (lr, decay) = (E::from_f64(lr), E::from_f64(self.weight_decay));
        for (p, g) in params.iter_mut().zip(grad) {
            *p -= lr * (*g + decay * *p);
        }
    }

    fn state(&self) -> Vec<(&'static str, &[E])> {
        Vec::new()
    }

    fn restore(&mut self, state: &[(&str, Vec<E>)]) -> Result<()> {
        match state.first() {
            None => Ok(()),
            Some((name, _)) => Err(Error::invalid("optimizer state", *name, "none for sgd")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_step_by_hand() {
        let mut p = [1.0f64, -2.0];
        Sgd::new(0.1).unwrap().step(0, 0.5, &mut p, &[0.2, 0.4]);
        assert_eq!(p, [1.0 - 0.5 * (0.2 + 0.1), -2.0 - 0.5 * (0.4 + 0.1 * -2.0)]);
        assert!(Sgd::new(-1.0).is_err() && Sgd::new(f64::NAN).is_err());
    }
}
