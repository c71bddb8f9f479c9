//! Gradient descent with weight decay and momentum.

use super::{Optimizer, check_names, put_back};
use crate::{Error, Result};
use popgrad_kernels::{Elem, Kernels};

/// θ ← θ − lr (g + λ θ), λ the weight decay; with momentum m (PyTorch's convention) b ← m b + (g +
/// λ θ), θ ← θ − lr b.
#[derive(Debug, Clone)]
pub struct Sgd<E> {
    weight_decay: f64,
    momentum: f64,
    /// b; empty without momentum.
    sum: Vec<E>,
}

impl<E: Elem> Sgd<E> {
    /// An optimiser with weight decay λ >= 0 and no momentum.
    ///
    /// # Errors
    /// λ negative or not finite.
    pub fn new(weight_decay: f64) -> Result<Self> {
        if !(weight_decay >= 0.0 && weight_decay.is_finite()) {
            return Err(Error::invalid("weight_decay", weight_decay.to_string(), "finite, >= 0"));
        }
        Ok(Sgd { weight_decay, momentum: 0.0, sum: Vec::new() })
    }

    /// The same with momentum m >= 0 for `len` parameters; m = 0 stores no running sum.
    ///
    /// # Errors
    /// m negative or not finite.
    pub fn with_momentum(self, momentum: f64, len: usize) -> Result<Self> {
        if !(momentum >= 0.0 && momentum.is_finite()) {
            return Err(Error::invalid("momentum", momentum.to_string(), "finite, >= 0"));
        }
        let sum = vec![E::ZERO; if momentum == 0.0 { 0 } else { len }];
        Ok(Sgd { momentum, sum, ..self })
    }
}

impl<E: Elem> Optimizer<E> for Sgd<E> {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn step(&mut self, _step: u64, lr: f64, params: &mut [E], grad: &[E]) {
        assert_eq!(params.len(), grad.len(), "a gradient of other parameters");
        let step = popgrad_kernels::Sgd { lr, momentum: self.momentum, weight_decay: self.weight_decay };
        if Kernels::from_env().and_then(|k| k.sgd(step, params, grad, &mut self.sum)).is_ok() {
            return;
        }
        // The kernel refuses some operands, such as a negative learning rate. They get the same
        // formula, with the kernel's rounding.
        let (lr, decay, m) = (E::from_f64(lr), E::from_f64(self.weight_decay), E::from_f64(self.momentum));
        for (i, (p, g)) in params.iter_mut().zip(grad).enumerate() {
            let mut step = *g + decay * *p;
            if let Some(sum) = self.sum.get_mut(i) {
                *sum = m * *sum + step;
                step = *sum;
            }
            *p -= lr * step;
        }
    }

    fn state(&self) -> Vec<(String, &[E])> {
        if self.momentum == 0.0 { Vec::new() } else { vec![("momentum".into(), &self.sum)] }
    }

    fn check_state(&self, state: &[(String, Vec<E>)]) -> Result<()> {
        let owner = if self.momentum == 0.0 { "sgd without momentum" } else { "sgd with momentum" };
        check_names(state, owner, &self.state())
    }

    fn restore(&mut self, state: &[(String, Vec<E>)]) -> Result<()> {
        self.check_state(state)?;
        put_back(state, "momentum", &mut self.sum);
        Ok(())
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
        assert!(Sgd::<f64>::new(-1.0).is_err() && Sgd::<f64>::new(f64::NAN).is_err());
    }

    #[test]
    fn momentum_by_hand_and_its_memory() {
        // Powers of two: exact. b = 1, then 0.5 + 2, then 1.25 − 1; λ = 0.
        let mut o = Sgd::new(0.0).unwrap().with_momentum(0.5, 1).unwrap();
        let mut p = [8.0f64];
        let mut kept = Vec::new();
        for (g, expected) in [(1.0, 7.0), (2.0, 4.5), (-1.0, 4.25)] {
            kept = o.state().into_iter().map(|(n, v)| (n, v.to_vec())).collect::<Vec<_>>();
            o.step(0, 1.0, &mut p, &[g]);
            assert_eq!(p, [expected]);
        }
        let mut other = Sgd::new(0.0).unwrap().with_momentum(0.5, 1).unwrap();
        other.restore(&kept).unwrap();
        let mut q = [4.5];
        other.step(0, 1.0, &mut q, &[-1.0]);
        assert_eq!(q, p);
        // A rate that the kernel refuses: the same formula.
        o.step(0, -1.0, &mut p, &[0.0]);
        assert_eq!(p, [4.25 + 0.125]);
        // With decay: b = 1 + 0.25 · 4, θ = 4 − 0.5 b.
        let (mut r, mut o) = ([4.0f64], Sgd::new(0.25).unwrap().with_momentum(0.5, 1).unwrap());
        o.step(0, 0.5, &mut r, &[1.0]);
        assert_eq!(r, [3.0]);
        assert!(Sgd::<f64>::new(0.0).unwrap().restore(&kept).is_err(), "memory of another optimiser");
        assert!(
            other.restore(&[]).is_err() && other.restore(&[("momentum".into(), vec![1.0, 2.0])]).is_err()
        );
        assert!(Sgd::<f64>::new(0.0).unwrap().with_momentum(f64::INFINITY, 1).is_err());
    }
}
