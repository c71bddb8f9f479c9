//! One measured number, what the theory says of it, and the verdict.

use serde::Serialize;
use std::fmt::Display;

/// The verdict of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As the theory says.
    Pass,
    /// Not as the theory says.
    Fail,
    /// A conclusion failed where the theory says that it does, a hypothesis being dropped.
    Counterexample,
    /// Measured, and nothing claimed.
    Noted,
}

/// The condition on a measured number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "rule", content = "tolerance")]
pub enum Rule {
    /// Within this of the expected number.
    Within(f64),
    /// Not above the expected number.
    AtMost,
    /// Not below the expected number.
    AtLeast,
    /// Below the expected number: not below it is what a dropped hypothesis would have given.
    Refutes,
    /// Nothing.
    Noted,
}

/// Points of a convergence plot, both axes logarithmic, and the slope of the least-squares line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fit {
    /// What x is.
    pub x: String,
    /// What y is.
    pub y: String,
    /// (x, y), positive.
    pub points: Vec<(f64, f64)>,
    /// d ln y / d ln x.
    pub slope: f64,
}

impl Fit {
    /// Fits `points`. NaN where fewer than two points are given, or one is not positive.
    pub fn new(x: &str, y: &str, points: Vec<(f64, f64)>) -> Self {
        let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
        let n = logs.len() as f64;
        let mean = |f: fn(&(f64, f64)) -> f64| logs.iter().map(f).sum::<f64>() / n;
        let (mx, my) = (mean(|p| p.0), mean(|p| p.1));
        let (mut xy, mut xx) = (0.0, 0.0);
        for (x, y) in &logs {
            xy += (x - mx) * (y - my);
            xx += (x - mx) * (x - mx);
        }
        Fit { x: x.into(), y: y.into(), slope: xy / xx, points }
    }
}

/// A measured number against the theory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// What was measured.
    pub quantity: String,
    /// At which sizes and values, T_eff among them where an error at finite T is measured.
    pub parameters: Vec<(String, String)>,
    /// What the theory says, or its bound.
    pub expected: f64,
    /// What was found.
    pub measured: f64,
    /// How the two are compared.
    #[serde(flatten)]
    pub rule: Rule,
    /// The points behind a fitted rate.
    pub fit: Option<Fit>,
}

impl Check {
    fn new(quantity: impl Into<String>, expected: f64, measured: f64, rule: Rule) -> Self {
        Check { quantity: quantity.into(), parameters: Vec::new(), expected, measured, rule, fit: None }
    }

    /// |measured − expected| <= tolerance.
    pub fn within(quantity: impl Into<String>, expected: f64, measured: f64, tolerance: f64) -> Self {
        Self::new(quantity, expected, measured, Rule::Within(tolerance))
    }

    /// measured <= bound.
    pub fn at_most(quantity: impl Into<String>, bound: f64, measured: f64) -> Self {
        Self::new(quantity, bound, measured, Rule::AtMost)
    }

    /// measured >= bound.
    pub fn at_least(quantity: impl Into<String>, bound: f64, measured: f64) -> Self {
        Self::new(quantity, bound, measured, Rule::AtLeast)
    }

    /// With its hypothesis the theory would give measured >= bound; without, it need not, and here
    /// does not.
    pub fn refutes(quantity: impl Into<String>, bound: f64, measured: f64) -> Self {
        Self::new(quantity, bound, measured, Rule::Refutes)
    }

    /// Only measured.
    pub fn noted(quantity: impl Into<String>, measured: f64) -> Self {
        Self::new(quantity, f64::NAN, measured, Rule::Noted)
    }

    /// The slope of `fit` is `expected` within `tolerance`.
    pub fn slope(quantity: impl Into<String>, expected: f64, tolerance: f64, fit: Fit) -> Self {
        Self::within(quantity, expected, fit.slope, tolerance).plotted(fit)
    }

    /// With the points behind it.
    pub fn plotted(mut self, fit: Fit) -> Self {
        self.fit = Some(fit);
        self
    }

    /// With a parameter.
    pub fn with(mut self, name: &str, value: impl Display) -> Self {
        self.parameters.push((name.into(), value.to_string()));
        self
    }

    /// NaN fails.
    pub fn verdict(&self) -> Verdict {
        let pass = |ok| if ok { Verdict::Pass } else { Verdict::Fail };
        match self.rule {
            Rule::Within(tolerance) => pass((self.measured - self.expected).abs() <= tolerance),
            Rule::AtMost => pass(self.measured <= self.expected),
            Rule::AtLeast => pass(self.measured >= self.expected),
            Rule::Refutes if self.measured < self.expected => Verdict::Counterexample,
            Rule::Refutes => Verdict::Fail,
            Rule::Noted => Verdict::Noted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_their_edges() {
        use Verdict::{Counterexample, Fail, Pass};
        let v = |c: Check| c.verdict();
        assert_eq!(v(Check::within("", 1.0, 1.5, 0.5)), Pass);
        assert_eq!(v(Check::within("", 1.0, 1.6, 0.5)), Fail);
        assert_eq!(v(Check::at_most("", 1.0, 1.0)), Pass);
        assert_eq!(v(Check::at_most("", 1.0, 1.1)), Fail);
        assert_eq!(v(Check::at_least("", 1.0, 0.9)), Fail);
        assert_eq!(v(Check::refutes("", 0.0, -0.1)), Counterexample);
        assert_eq!(v(Check::refutes("", 0.0, 0.0)), Fail);
        for c in [
            Check::within("", 1.0, f64::NAN, 0.5),
            Check::at_most("", 1.0, f64::NAN),
            Check::at_least("", 1.0, f64::NAN),
            Check::refutes("", 1.0, f64::NAN),
        ] {
            assert_eq!(c.verdict(), Fail);
        }
    }

    #[test]
    fn slopes_of_powers() {
        let points = (1..6).map(|n| (f64::from(n), 3.0 * f64::from(n).powf(-1.5))).collect();
        assert!((Fit::new("n", "e", points).slope + 1.5).abs() < 1e-12);
        assert!(Fit::new("n", "e", vec![(1.0, 1.0)]).slope.is_nan());
        assert!(Fit::new("n", "e", vec![(1.0, 1.0), (2.0, 0.0)]).slope.is_nan());
    }
}
