//! How many runs memory holds at a time: the check of a configuration takes it to be alone.

use super::Member;
use crate::config::Config;
use crate::paper::experiment::Experiment;
use crate::paper::{birth, causal, folder, population};
use crate::{Result, model, optim, train};
use popgrad_kernels::Elem;

/// How many of `runs`, at most `most` and at least one, go side by side.
///
/// # Errors
/// A configuration that cannot run.
pub(super) fn workers(most: usize, runs: &[&Member]) -> Result<usize> {
    let bytes = runs.iter().map(|m| of(&m.config)).collect::<Result<_>>()?;
    Ok(fitting(most, bytes, folder::available_memory().unwrap_or(usize::MAX)))
}

fn of(config: &Experiment) -> Result<usize> {
    match config {
        Experiment::Causal(c) => needed(c),
        Experiment::Birth(c) => birth::memory(c),
    }
}

/// Bytes that a run holds while it trains, as far as the check of a single run counts them.
fn needed(config: &Config) -> Result<usize> {
    fn typed<E: Elem>(config: &Config) -> Result<usize> {
        let model = model::build::<E>(&causal::spec(config))?;
        let plan = train::Plan {
            steps: config.steps,
            batch: population::words(config)?.unwrap_or(config.batch),
            shards: config.shards,
            lr: config.lr,
            schedule: optim::Schedule::parse(&config.schedule)?,
            eval_every: config.eval_every,
            checkpoint_every: config.checkpoint_every,
        };
        let test = if config.source == "exact" { plan.batch } else { config.test_size };
        let test = test.checked_mul(4 * config.T + 8 * config.S + 8);
        let training = train::memory(model.as_ref(), &plan);
        Ok(training.zip(test).and_then(|(a, b)| a.checked_add(b)).unwrap_or(usize::MAX))
    }
    match config.dtype.as_str() {
        "f64" => typed::<f64>(config),
        _ => typed::<f32>(config),
    }
}

/// How many runs, at most `most` and at least one, `free` bytes hold side by side whichever of them meet.
fn fitting(most: usize, mut bytes: Vec<usize>, free: usize) -> usize {
    bytes.sort_unstable_by(|a, b| b.cmp(a));
    let sums = bytes.iter().scan(0usize, |sum, b| {
        *sum = sum.saturating_add(*b);
        Some(*sum)
    });
    sums.take(most).take_while(|sum| *sum <= free).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::fitting;

    #[test]
    fn as_many_side_by_side_as_memory_holds() {
        let of = |most, free| fitting(most, vec![1, 5, 3], free);
        // The largest may meet: 5, 5 + 3, 5 + 3 + 1.
        assert_eq!([of(3, 9), of(3, 8), of(3, 7), of(2, 9), of(3, 0), of(0, 9)], [3, 2, 1, 2, 1, 1]);
        assert_eq!(fitting(2, vec![usize::MAX, usize::MAX], usize::MAX - 1), 1);
    }
}
