//! Gradient descent on one block of the parameters after the other: Algorithm 1 of Nichani et al.
//! 2024.

use super::Optimizer;
use crate::{Error, Result};
use popgrad_kernels::Elem;
use std::ops::Range;

/// A stage: updates before number `until` change the parameters in `range`, at rate `lr` times that
/// of the schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// First update after this stage.
    pub until: u64,
    /// Entries of the flat vector that it trains.
    pub range: Range<usize>,
    /// Learning rate.
    pub lr: f64,
}

/// θ_range ← θ_range − lr g_range for the range of the current stage. After the last stage nothing
/// changes.
#[derive(Debug, Clone)]
pub struct Staged {
    stages: Vec<Stage>,
}

impl Staged {
    /// Stages in order of `until`.
    ///
    /// # Errors
    /// A rate that is negative or not finite, stages out of order.
    pub fn new(stages: Vec<Stage>) -> Result<Self> {
        for s in &stages {
            if !(s.lr >= 0.0 && s.lr.is_finite()) {
                return Err(Error::invalid("lr", s.lr.to_string(), "finite, >= 0"));
            }
        }
        if !stages.is_sorted_by_key(|s| s.until) {
            let found = stages.iter().map(|s| s.until.to_string()).collect::<Vec<_>>().join(", ");
            return Err(Error::invalid("stages", found, "ascending ends"));
        }
        Ok(Staged { stages })
    }
}

impl<E: Elem> Optimizer<E> for Staged {
    fn name(&self) -> &'static str {
        "staged"
    }

    fn step(&mut self, step: u64, lr: f64, params: &mut [E], grad: &[E]) {
        let Some(stage) = self.stages.iter().find(|s| step < s.until) else { return };
        let lr = E::from_f64(lr * stage.lr);
        for (p, g) in params[stage.range.clone()].iter_mut().zip(&grad[stage.range.clone()]) {
            *p -= lr * *g;
        }
    }

    fn state(&self) -> Vec<(String, &[E])> {
        Vec::new()
    }

    fn restore(&mut self, state: &[(String, Vec<E>)]) -> Result<()> {
        Optimizer::<E>::check_state(self, state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_moves_its_own_block() {
        let stage = |until, range, lr| Stage { until, range, lr };
        let mut o = Staged::new(vec![stage(1, 0..1, 2.0), stage(3, 1..3, 0.5)]).unwrap();
        let (mut p, g) = ([1.0f64, 1.0, 1.0], [1.0, 2.0, 4.0]);
        o.step(0, 1.0, &mut p, &g);
        assert_eq!(p, [-1.0, 1.0, 1.0]);
        o.step(1, 1.0, &mut p, &g);
        o.step(2, 0.5, &mut p, &g);
        assert_eq!(p, [-1.0, -0.5, -2.0]);
        o.step(3, 1.0, &mut p, &g);
        assert_eq!(p, [-1.0, -0.5, -2.0]);
        assert!(Staged::new(vec![stage(3, 0..1, 1.0), stage(1, 1..2, 1.0)]).is_err());
        assert!(Staged::new(vec![stage(3, 0..1, f64::NAN)]).is_err());
    }
}
