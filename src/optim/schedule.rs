//! Learning rate as a function of the step.

use serde::{Deserialize, Serialize};

/// The learning rate over a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// lr at every update.
    Constant,
    /// lr ½ (1 + cos(π step / horizon)): from lr at step 0 to 0 at the horizon.
    Cosine,
}

impl Schedule {
    /// The learning rate of update number `step` (from 0) of `horizon`.
    pub fn rate(self, lr: f64, step: u64, horizon: u64) -> f64 {
        match self {
            Schedule::Constant => lr,
            Schedule::Cosine => {
                let share = (step as f64 / horizon.max(1) as f64).min(1.0);
                0.5 * lr * (1.0 + (std::f64::consts::PI * share).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_goes_from_lr_through_half_to_zero() {
        let s = Schedule::Cosine;
        assert_eq!(s.rate(2.0, 0, 100), 2.0);
        assert!((s.rate(2.0, 50, 100) - 1.0).abs() < 1e-15);
        assert!(s.rate(2.0, 100, 100).abs() < 1e-15 && s.rate(2.0, 200, 100).abs() < 1e-15);
        assert_eq!(Schedule::Constant.rate(2.0, 50, 100), 2.0);
    }
}
