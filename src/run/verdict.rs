//! Whether the end of a run means what it seems to: warnings about its curve of test losses.

use crate::input::{self, RECORDS};
use crate::report::metrics::METRICS_FILE;
use crate::{Error, Result};
use serde::Deserialize;
use std::path::Path;

/// Key of the summary: names of the warnings, none for a run without.
pub const WARNINGS_KEY: &str = "warnings";

/// The rise that is reported, as a share of how far the loss had fallen.
pub const SHARE_OF_DROP: f64 = 0.1;
/// The rise that is reported, in units of the noise of the evaluations.
pub const TIMES_NOISE: f64 = 5.0;
/// What noise excuses at most, as a share of how far the loss had fallen: an unstable run is noisy.
pub const EXCUSED: f64 = 0.5;
/// The rise that is reported, as a share of log S. So is what counts as above log S, which a model
/// that has learned nothing meets but for rounding.
pub const SHARE_OF_UNIFORM: f64 = 1e-3;

/// What is wrong with the curve of a run. Losses in nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Warning {
    /// The last test loss is above that of a uniform guess, log S, by more than a
    /// [`SHARE_OF_UNIFORM`].
    AboveUniform {
        /// The last test loss.
        loss: f64,
        /// Alphabet size S.
        vocab: usize,
    },
    /// The last test loss is above the lowest one by more than [`SHARE_OF_DROP`] of the fall from
    /// the first to the lowest, [`TIMES_NOISE`] times the noise (which excuses at most [`EXCUSED`]
    /// of that fall), and [`SHARE_OF_UNIFORM`] of log S. The noise is the median of
    /// |l_(k-1) - 2 l_k + l_(k+1)| / √6 over the evaluations: the standard deviation of
    /// independent errors, but for a factor, whatever the trend.
    Rose {
        /// The last test loss.
        loss: f64,
        /// The lowest one.
        best: f64,
        /// Updates before the lowest one.
        at: u64,
    },
}

impl Warning {
    /// Its name in the summary.
    pub fn name(&self) -> &'static str {
        match self {
            Warning::AboveUniform { .. } => "above_uniform_guess",
            Warning::Rose { .. } => "loss_rose",
        }
    }
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Warning::AboveUniform { loss, vocab } => {
                let uniform = (*vocab as f64).ln();
                write!(
                    f,
                    "the final test loss, {loss:.4}, is above {uniform:.4}, that of a uniform guess of "
                )?;
                write!(f, "{vocab} symbols")
            }
            Warning::Rose { loss, best, at } => {
                write!(f, "the test loss rose from {best:.4} at update {at} to {loss:.4} at the end")
            }
        }
    }
}

/// The warnings about a curve of (updates done, test loss) of a task with `vocab` symbols.
pub fn warnings(curve: &[(u64, f64)], vocab: usize) -> Vec<Warning> {
    let (Some((_, first)), Some((_, last))) = (curve.first(), curve.last()) else { return Vec::new() };
    let uniform = (vocab as f64).ln();
    let mut out = Vec::new();
    if *last > uniform * (1.0 + SHARE_OF_UNIFORM) {
        out.push(Warning::AboveUniform { loss: *last, vocab });
    }
    // The first of equals, so that a flat curve is at its best from the start.
    let (at, best) = curve.iter().fold(curve[0], |best, now| if now.1 < best.1 { *now } else { best });
    let fall = first - best;
    let allowed = (SHARE_OF_DROP * fall).max((TIMES_NOISE * noise(curve)).min(EXCUSED * fall));
    if last - best > allowed.max(SHARE_OF_UNIFORM * uniform) {
        out.push(Warning::Rose { loss: *last, best, at });
    }
    out
}

/// See [`Warning::Rose`]; 0 for fewer than three evaluations.
fn noise(curve: &[(u64, f64)]) -> f64 {
    let bend = |w: &[(u64, f64)]| (w[0].1 - 2.0 * w[1].1 + w[2].1).abs() / 6f64.sqrt();
    let mut bends: Vec<f64> = curve.windows(3).map(bend).collect();
    bends.sort_by(f64::total_cmp);
    bends.get(bends.len() / 2).copied().unwrap_or(0.0)
}

/// The test losses in the log of the run in `folder`, with the number of updates before each.
///
/// # Errors
/// A log that is absent or damaged.
pub fn curve(folder: &Path) -> Result<Vec<(u64, f64)>> {
    #[derive(Deserialize)]
    struct Record {
        step: u64,
        test_loss: Option<f64>,
    }
    let path = folder.join(METRICS_FILE);
    let text = input::text(&path, RECORDS)?;
    let mut out = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let bad = |e: serde_json::Error| Error::format(&path, format!("line {}: {e}", n + 1));
        let record: Record = serde_json::from_str(line).map_err(bad)?;
        out.extend(record.test_loss.map(|loss| (record.step, loss)));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(losses: &[f64], vocab: usize) -> Vec<&'static str> {
        let curve: Vec<(u64, f64)> = losses.iter().enumerate().map(|(i, l)| (10 * i as u64, *l)).collect();
        warnings(&curve, vocab).iter().map(Warning::name).collect()
    }

    #[test]
    fn each_warning_has_its_bound() {
        let none: [&str; 0] = [];
        let u = 5f64.ln();
        assert_eq!(of(&[], 5), none);
        // Nothing learned, but for rounding; then above by more than a thousandth.
        assert_eq!(of(&[u, u * 1.0009], 5), none);
        assert_eq!(of(&[u, u * 1.0011], 5), ["above_uniform_guess", "loss_rose"]);
        assert_eq!(of(&[3.0, u * 1.0011], 5), ["above_uniform_guess"]);
        // A tenth of the fall from 1.5 to 1 is 0.05, on a curve whose bends are 0 but for two.
        let ends_at = |last: f64| vec![1.5, 1.4, 1.3, 1.2, 1.1, 1.0, last];
        assert_eq!(of(&ends_at(1.049), 5), none);
        assert_eq!(of(&ends_at(1.051), 5), ["loss_rose"]);
        // It comes back.
        assert_eq!(of(&[1.5, 1.4, 1.3, 1.2, 3.0, 1.1, 1.0], 5), none);
        // Losses that jump by 0.02 bend by 0.04: their noise is 0.0163, five times 0.0816.
        let jumps = |by: f64, last: f64| -> Vec<f64> {
            let between = (0..20).map(|i| 1.2 + by * f64::from(i % 2));
            std::iter::once(1.6).chain(between).chain([last]).collect()
        };
        assert_eq!(of(&jumps(0.02, 1.28), 20), none);
        assert_eq!(of(&jumps(0.02, 1.283), 20), ["loss_rose"]);
        // Noise, here 0.163, excuses no more than half of the fall of 0.4.
        assert_eq!(of(&jumps(0.2, 1.39), 20), none);
        assert_eq!(of(&jumps(0.2, 1.41), 20), ["loss_rose"]);
        // Wild from the start: nothing had fallen.
        assert_eq!(of(&[2.9, 2.89, 140.0, 7.0, 90.0, 12.0, 60.0], 20), ["above_uniform_guess", "loss_rose"]);
    }

    #[test]
    fn noise_is_that_of_independent_errors_and_no_trend() {
        let line: Vec<(u64, f64)> = (0..50).map(|i| (i, 3.0 - 0.03 * i as f64)).collect();
        assert!(noise(&line) < 1e-14);
        // Bends of +-d are |d + 2d + d| = 4 d: 4 d / sqrt(6).
        let zigzag: Vec<(u64, f64)> = (0..51).map(|i| (i, if i % 2 == 0 { 1.5 } else { 0.5 })).collect();
        assert!((noise(&zigzag) - 2.0 / 6f64.sqrt()).abs() < 1e-14);
    }

    #[test]
    fn they_say_where_and_by_how_much() {
        let curve = [(0, 1.6), (64, 0.9), (128, 1.7)];
        let said: Vec<String> = warnings(&curve, 5).iter().map(Warning::to_string).collect();
        assert_eq!(
            said,
            [
                "the final test loss, 1.7000, is above 1.6094, that of a uniform guess of 5 symbols",
                "the test loss rose from 0.9000 at update 64 to 1.7000 at the end",
            ]
        );
    }
}
