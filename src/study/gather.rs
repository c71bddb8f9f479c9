//! Reading the results of a study's runs from their folders.

use super::Member;
use crate::input::{self, RECORDS};
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use std::path::Path;

/// The JSON file at `path`.
///
/// # Errors
/// A file that is absent or damaged.
pub fn read_json<R: DeserializeOwned>(path: &Path) -> Result<R> {
    let text = input::text(path, RECORDS)?;
    serde_json::from_str(&text).map_err(|e| Error::format(path, e.to_string().replace('\n', " ")))
}

/// The records of a log, one per line.
///
/// # Errors
/// A file that is absent or damaged.
pub fn read_records<R: DeserializeOwned>(path: &Path) -> Result<Vec<R>> {
    let text = input::text(path, RECORDS)?;
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::format(path, format!("line {}: {e}", i + 1)))
    };
    text.lines().enumerate().map(parse).collect()
}

/// A result of a run.
pub trait OfMember {
    /// The run.
    fn member(&self) -> &Member;
}

/// Runs with the same group, in order of their first run.
pub fn groups<F: OfMember>(found: &[F]) -> Vec<(&str, Vec<&F>)> {
    groups_of(found.iter().map(|f| (f.member().group.as_str(), f)))
}

/// What has the same group, in order of the first of each.
pub fn groups_of<'a, F>(found: impl Iterator<Item = (&'a str, F)>) -> Vec<(&'a str, Vec<F>)> {
    let mut out: Vec<(&str, Vec<F>)> = Vec::new();
    for (group, f) in found {
        match out.iter_mut().find(|(g, _)| *g == group) {
            Some((_, of)) => of.push(f),
            None => out.push((group, vec![f])),
        }
    }
    out
}

/// Mean and spread of some numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// How many.
    pub n: usize,
    /// Mean.
    pub mean: f64,
    /// Standard deviation with n - 1; none of a single number.
    pub sd: Option<f64>,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

/// [`Spread`] of the finite numbers among `values`; none without any.
pub fn spread(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
    if values.is_empty() {
        return None;
    }
    let n = values.len();
    let mean = values.iter().sum::<f64>() / n as f64;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    Some(Spread {
        n,
        mean,
        sd: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()),
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_by_hand() {
        let s = spread([1.0, 4.0, f64::NAN, 7.0]).unwrap();
        assert_eq!((s.n, s.mean, s.sd, s.min, s.max), (3, 4.0, Some(3.0), 1.0, 7.0));
        assert_eq!(spread([2.0]).unwrap().sd, None);
        assert_eq!(spread([f64::NAN]), None);
    }
}
