//! The claims of the theory: closed forms compared with exact engines, each with a residual and a
//! verdict.
//!
//! A claim is one file and one line of [`CLAIMS`]. It returns [`Check`]s; a check is a number that
//! was measured, what the theory says of it, and whether that holds. Formulas come from
//! [`Settings::formulas`], so that tests can break them and see the claims fail.

mod algorithm;
mod any_bigrams;
mod argmax;
pub mod associative;
mod capacity;
mod check;
mod data_processing;
mod diagonal;
mod dual;
mod finite_length;
mod first_steps;
mod formulas;
mod gradients;
mod key_gap;
mod label_noise;
mod leading;
mod lemmas;
mod memory_formulas;
mod memory_model;
mod noise_filter;
mod nonlinear_step;
pub mod plain;
mod population;
mod several_parents;
mod support;
mod symmetry;
mod theorem1;
mod theorem2;
mod third_step;
mod two_symbols;

pub use check::{Check, Fit, Rule, Verdict};
pub use formulas::Formulas;
pub use memory_formulas::MemoryFormulas;

use crate::{Error, Result};
use std::time::{Duration, Instant};

/// How claims are run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// Larger sizes and more of them.
    pub thorough: bool,
    /// The closed forms under test.
    pub formulas: Formulas,
}

/// A statement and how it is tested.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// Name on the command line.
    pub id: &'static str,
    /// A few words.
    pub title: &'static str,
    /// What is claimed.
    pub statement: &'static str,
    /// Where it is stated.
    pub source: &'static str,
    /// Measures it.
    pub run: fn(&Settings) -> Result<Vec<Check>>,
}

/// All claims, in the order they build on each other.
pub const CLAIMS: &[Claim] = &[
    gradients::CLAIM,
    leading::CLAIM,
    finite_length::CLAIM,
    argmax::CLAIM,
    data_processing::CLAIM,
    diagonal::CLAIM,
    two_symbols::CLAIM,
    symmetry::CLAIM,
    algorithm::CLAIM,
    theorem1::CLAIM,
    theorem2::CLAIM,
    several_parents::CLAIM,
    label_noise::CLAIM,
    lemmas::CLAIM,
    noise_filter::CLAIM,
    capacity::CLAIM,
    first_steps::CLAIM,
    key_gap::CLAIM,
    third_step::CLAIM,
    nonlinear_step::CLAIM,
    any_bigrams::CLAIM,
    memory_model::CLAIM,
];

/// The result of a claim.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The claim.
    pub claim: &'static Claim,
    /// Its checks.
    pub checks: Vec<Check>,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// Fail if any check fails; a counterexample if one was found where the theory has one; else
    /// pass.
    pub fn verdict(&self) -> Verdict {
        let any = |v| self.checks.iter().any(|c| c.verdict() == v);
        if any(Verdict::Fail) || self.checks.is_empty() {
            Verdict::Fail
        } else if any(Verdict::Counterexample) {
            Verdict::Counterexample
        } else {
            Verdict::Pass
        }
    }
}

/// The claims named, all of them where none is; each once, in the order of [`CLAIMS`].
///
/// # Errors
/// A name that is no claim's.
pub fn select(names: &[String]) -> Result<Vec<&'static Claim>> {
    if let Some(name) = names.iter().find(|n| CLAIMS.iter().all(|c| c.id != n.as_str())) {
        return Err(Error::unknown("claim", name, CLAIMS.iter().map(|c| c.id)));
    }
    Ok(CLAIMS.iter().filter(|c| names.is_empty() || names.iter().any(|n| n == c.id)).collect())
}

/// Runs one claim.
///
/// # Errors
/// What the engines refuse; no claim asks for anything out of range.
pub fn run(claim: &'static Claim, settings: &Settings) -> Result<Outcome> {
    let start = Instant::now();
    let checks = (claim.run)(settings)?;
    Ok(Outcome { claim, checks, took: start.elapsed() })
}
