//! The share of edges found against the number of samples.

use super::drawn::Drawn;
use super::show::{Verdict, to_json};
use super::{DiscoverArgs, Score, find};
use crate::cli::table::{Right, markdown};
use crate::cli::{tell, wants_json};
use crate::discover::{Labels, Sample};
use crate::{Error, Result};
use serde::Serialize;

/// Most tokens of a sweep: about an hour of one core.
const MAX_SWEEP: u128 = 1 << 34;

/// Share of edges whose parent has the highest score, and what the test makes of them, by number of
/// samples.
pub(super) fn sweep(drawn: &Drawn, seeds: u64, args: &DiscoverArgs, score: Score) -> Result<()> {
    let tokens = u128::from(seeds) * drawn.samples as u128 * drawn.len as u128;
    if seeds == 0 || drawn.samples < 256 || tokens > MAX_SWEEP {
        return Err(Error::invalid(
            "sweep",
            format!("{seeds} seeds, {} samples, T = {}", drawn.samples, drawn.len),
            ">= 1 seed, >= 2^8 samples, seeds * samples * T <= 2^34",
        ));
    }
    let sizes: Vec<usize> = (8..usize::BITS).map(|e| 1 << e).take_while(|n| *n <= drawn.samples).collect();
    let mut sums = vec![Sums::default(); sizes.len()];
    for more in 0..seeds {
        let (all, forest) = (drawn.sample(more)?, drawn.forest(more)?);
        for (n, sums) in sizes.iter().zip(&mut sums) {
            let labels = match all.labels.as_ref() {
                Some(Labels::Soft(y)) => Labels::Soft(y[..n * all.symbols].to_vec()),
                Some(Labels::Symbols(y)) => Labels::Symbols(y[..*n].to_vec()),
                None => continue,
            };
            let tokens = all.tokens[..n * all.len].to_vec();
            let part = Sample { seqs: *n, tokens, labels: Some(labels), ..all };
            sums.add(&Verdict::of(&find(&part, args, score)?, forest.parents()));
        }
    }
    let records: Vec<Record> = sizes.iter().zip(&sums).map(|(n, s)| s.record(*n, seeds)).collect();
    if wants_json() {
        return tell(&(to_json(&records)? + "\n"));
    }
    let heads = [
        "samples",
        "parent has the highest score",
        "edges found",
        "wrong parent",
        "roots given a parent",
        "whole graph",
    ];
    // A graph of roots has no share, one without test no verdict.
    let share = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.3}"));
    let count = |n: Option<usize>, of: u64| n.map_or("-".into(), |n| format!("{n} of {of}"));
    let row = |r: &Record| {
        vec![
            r.samples.to_string(),
            share(r.best),
            share(r.found),
            share(r.wrong),
            count(r.false_edges, r.roots as u64),
            count(r.whole, r.seeds),
        ]
    };
    tell(&markdown(&heads.map(|h| (h, Right)), records.iter().map(row).collect()))
}

/// Verdicts of several seeds.
#[derive(Debug, Clone, Default)]
struct Sums {
    edges: usize,
    best: usize,
    found: usize,
    wrong: usize,
    roots: usize,
    false_edges: usize,
    whole: usize,
    untested: bool,
}

#[derive(Debug, Serialize)]
struct Record {
    samples: usize,
    seeds: u64,
    edges: usize,
    /// Shares of `edges`; null where there are none.
    best: Option<f64>,
    /// Null where the sample is too small for a test, as are all below.
    found: Option<f64>,
    wrong: Option<f64>,
    roots: usize,
    false_edges: Option<usize>,
    whole: Option<usize>,
}

impl Sums {
    fn add(&mut self, v: &Verdict) {
        self.edges += v.edges;
        self.best += v.best;
        self.found += v.found;
        self.wrong += v.wrong;
        self.roots += v.roots;
        self.false_edges += v.false_edges;
        self.whole += usize::from(v.whole());
        self.untested |= !v.tested;
    }

    fn record(&self, samples: usize, seeds: u64) -> Record {
        let share = |n: usize| (self.edges > 0).then(|| n as f64 / self.edges as f64);
        let tested = !self.untested;
        Record {
            samples,
            seeds,
            edges: self.edges,
            best: share(self.best),
            found: share(self.found).filter(|_| tested),
            wrong: share(self.wrong).filter(|_| tested),
            roots: self.roots,
            false_edges: tested.then_some(self.false_edges),
            whole: tested.then_some(self.whole),
        }
    }
}
