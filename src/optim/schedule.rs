//! Learning rate as a function of the step.

use crate::{Error, Result};

/// How the learning rate moves over a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// lr at every step.
    Constant,
    /// lr ½ (1 + cos(π step / horizon)): from lr at step 0 to 0 at the horizon.
    Cosine,
}

impl Schedule {
    /// The names that [`Schedule::parse`] takes.
    pub const NAMES: [&'static str; 2] = ["constant", "cosine"];

    /// By name.
    ///
    /// # Errors
    /// An unknown name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "constant" => Ok(Schedule::Constant),
            "cosine" => Ok(Schedule::Cosine),
            other => Err(Error::unknown("schedule", other, Self::NAMES)),
        }
    }

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
        let s = Schedule::parse("cosine").unwrap();
        assert_eq!(s.rate(2.0, 0, 100), 2.0);
        assert!((s.rate(2.0, 50, 100) - 1.0).abs() < 1e-15);
        assert!(s.rate(2.0, 100, 100).abs() < 1e-15 && s.rate(2.0, 200, 100).abs() < 1e-15);
        assert_eq!(Schedule::Constant.rate(2.0, 50, 100), 2.0);
        assert!(Schedule::parse("cosin").is_err());
    }
}
