//! The latent graph from one sampled gradient at initialisation, before any training; and from pair
//! counts.
//!
//! | symbol | name | meaning |
//! |---|---|---|
//! | T | `len` | tokens per sequence, the query s_T the last |
//! | y | `labels` | law of the symbol after the query: a symbol or a distribution |
//! | i, j | row, column | position, candidate parent j < i; every position but the query has a row |
//!
//! There are two scores. [`gradient`] is the simplified model's gradient at A1 = 0 (theory 1.3). It
//! needs labels, and allows every sequence its own transitions. [`chi2`] is the χ² mutual
//! information of two positions over all sequences. It needs no labels, but assumes one law that
//! all sequences share.

pub mod chi2;
pub mod gradient;
mod independence;
pub mod null;
mod tails;
pub mod tokens;

use crate::{Error, Result};
use serde::Serialize;

/// The symbol after the query, or its law.
#[derive(Debug, Clone, PartialEq)]
pub enum Labels {
    /// One symbol per sequence (B).
    Symbols(Vec<u32>),
    /// One distribution per sequence, row-major (B, S).
    Soft(Vec<f64>),
}

/// Sequences of equal length with a label each.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// B.
    pub seqs: usize,
    /// T, the query included.
    pub len: usize,
    /// S.
    pub symbols: usize,
    /// Row-major (B, T), each below S.
    pub tokens: Vec<u32>,
    /// Labels of the queries; `None` if only pair counts are used.
    pub labels: Option<Labels>,
}

impl Sample {
    /// Longest sequence: scores take T² numbers per shard.
    pub const MAX_LEN: usize = 4096;

    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// Sizes out of range or that contradict each other, a token or label that is not below S, a
    /// soft label that is negative, not finite or does not sum to 1.
    pub fn check(&self) -> Result<()> {
        if self.seqs < 2 {
            return Err(Error::invalid("tokens", format!("{} sequences", self.seqs), "at least 2"));
        }
        if !(2..=Self::MAX_LEN).contains(&self.len) {
            let allowed = format!("2 to {} tokens per sequence", Self::MAX_LEN);
            return Err(Error::invalid("T", self.len.to_string(), allowed));
        }
        if !(2..=tokens::MAX_SYMBOLS).contains(&self.symbols) {
            let allowed = format!("2 <= S <= {}", tokens::MAX_SYMBOLS);
            return Err(Error::invalid("S", self.symbols.to_string(), allowed));
        }
        if self.seqs.checked_mul(self.len) != Some(self.tokens.len()) {
            let found = format!("{} for {} x {}", self.tokens.len(), self.seqs, self.len);
            return Err(Error::invalid("tokens", found, "B*T of them"));
        }
        let below = |field: &str, values: &[u32]| match values.iter().find(|c| **c as usize >= self.symbols) {
            None => Ok(()),
            Some(c) => Err(Error::invalid(field, c.to_string(), format!("0 to S-1 = {}", self.symbols - 1))),
        };
        below("tokens", &self.tokens)?;
        match &self.labels {
            None => Ok(()),
            Some(Labels::Symbols(y)) if y.len() == self.seqs => below("labels", y),
            Some(Labels::Soft(y)) if self.seqs.checked_mul(self.symbols) == Some(y.len()) => {
                for (n, row) in y.chunks_exact(self.symbols).enumerate() {
                    check_soft(row).map_err(|p| Error::invalid(format!("labels[{n}]"), p, SOFT))?;
                }
                Ok(())
            }
            Some(_) => Err(Error::invalid("labels", "another number than sequences", "one per sequence")),
        }
    }
}

/// The requirements on a soft label.
pub const SOFT: &str = "finite, >= 0, summing to 1";

/// Says what is wrong with a soft label.
///
/// # Errors
/// The problem, in words.
pub fn check_soft(row: &[f64]) -> std::result::Result<(), String> {
    if let Some(x) = row.iter().find(|x| !(x.is_finite() && **x >= 0.0)) {
        return Err(format!("holds {x}"));
    }
    let sum = crate::num::sum(row);
    // As for the targets of `grad`: rows rounded to f32 are off by S u at most.
    if (sum - 1.0).abs() > 1e-6 * (row.len() as f64).max(10.0) {
        return Err(format!("sums to {sum}"));
    }
    Ok(())
}

/// Which score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Score {
    /// The gradient at initialisation.
    Gradient,
    /// χ² mutual information of pair counts.
    Chi2,
}

/// The result for one position.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Position {
    /// i, from 0.
    pub position: usize,
    /// The parent: `best` where p is at most the level (and, of [`Score::Gradient`], the score
    /// positive); else none.
    pub parent: Option<usize>,
    /// True if there was a test that could have found a parent. If not, `parent` is none whatever
    /// the graph: nothing varies, or what varies is too rare. False at position 0.
    pub tested: bool,
    /// The candidate of the highest score, significant or not; none at position 0. Of
    /// [`Score::Chi2`], of those that are significant if there are any, else of those that could
    /// have been.
    pub best: Option<usize>,
    /// Its score.
    pub score: f64,
    /// Standard error of the score.
    pub score_se: f64,
    /// The candidate of the highest score among the others.
    pub second: Option<usize>,
    /// How much lower that is.
    pub margin: f64,
    /// Standard error of the margin.
    pub margin_se: f64,
    /// The test statistic: standard normal for a position without parent, or the normal quantile
    /// of an exact p; NaN where `tested` is false.
    pub z: f64,
    /// P(any of the candidates reaches z | no parent), at most: the tail of one of them times
    /// their number; 0 where that is below the smallest f64, 1 where `tested` is false, NaN where
    /// [`Graph::tested`] is.
    pub p: f64,
    /// log10 of p, which never underflows; NaN where `tested` is false.
    pub log10_p: f64,
}

/// A graph with what supports it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Graph {
    /// Which score.
    pub score: Score,
    /// Sequences.
    pub sequences: usize,
    /// T.
    pub length: usize,
    /// S.
    pub symbols: usize,
    /// Nominal level of the test: an edge needs p at most this.
    pub level: f64,
    /// True if the sample is large enough for the test. If not, no position has a parent.
    pub tested: bool,
    /// Candidates with the highest score in so many rows that their column effect cannot be read
    /// from their own column.
    pub heavy: Vec<usize>,
    /// Standard deviation of the test's entries beyond sampling noise, which the test takes into
    /// account.
    pub spread: f64,
    /// One per position.
    pub positions: Vec<Position>,
    /// Scores, row-major (rows, rows), row i columns j < i; NaN elsewhere.
    #[serde(skip)]
    pub scores: Vec<f64>,
}

impl Graph {
    /// Parents, none for a root.
    pub fn parents(&self) -> Vec<Option<usize>> {
        self.positions.iter().map(|p| p.parent).collect()
    }
}

/// The test of one candidate: z, p and its logarithm, all NaN if there was none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Test {
    pub(crate) z: f64,
    pub(crate) p: f64,
    pub(crate) ln_p: f64,
}

impl Test {
    pub(crate) const NONE: Test = Test { z: f64::NAN, p: f64::NAN, ln_p: f64::NAN };

    /// Of a statistic that is standard normal; none of NaN.
    pub(crate) fn of_z(z: f64) -> Self {
        Test { z, p: null::upper_tail(z), ln_p: tails::ln_normal_tail(z) }
    }

    pub(crate) fn of_tail(ln_p: f64) -> Self {
        Test { z: tails::normal_quantile(ln_p), p: crate::num::exp(ln_p), ln_p }
    }
}

/// What a row holds: the candidates to report, the test of the first, and standard errors of score
/// and margin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) leaders: Leaders,
    pub(crate) test: Test,
    pub(crate) errors: [f64; 2],
}

/// What a parent takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    /// p, over all candidates, at most this.
    pub(crate) level: f64,
    /// False if the sample is too small for any test.
    pub(crate) tested: bool,
    /// A positive score, too.
    pub(crate) positive: bool,
}

/// A record for each row of `scores` (rows, rows).
pub(crate) fn positions(scores: &[f64], found: &[Found], rule: Rule) -> Vec<Position> {
    let n = found.len();
    let of = |(i, found): (usize, &Found)| {
        let Found { leaders: (best, second), test, errors: [score_se, margin_se] } = *found;
        let at = |j: Option<usize>| j.map_or(f64::NAN, |j| scores[i * n + j]);
        let tested = rule.tested && !test.p.is_nan();
        let test = if tested { test } else { Test::NONE };
        let p = match tested {
            true => (test.p * i as f64).min(1.0),
            false if rule.tested => 1.0,
            false => f64::NAN,
        };
        let enough = tested && p <= rule.level && (!rule.positive || at(best) > 0.0);
        Position {
            position: i,
            parent: best.filter(|_| enough),
            tested,
            best,
            score: at(best),
            score_se: if best.is_some() { score_se } else { f64::NAN },
            second,
            margin: at(best) - at(second),
            margin_se: if second.is_some() { margin_se } else { f64::NAN },
            z: test.z,
            p,
            log10_p: (test.ln_p + crate::num::ln(i as f64)).min(0.0) / std::f64::consts::LN_10
                + if tested { 0.0 } else { f64::NAN },
        }
    };
    found.iter().enumerate().map(of).collect()
}

/// Highest and second highest candidate of a row.
pub(crate) type Leaders = (Option<usize>, Option<usize>);

/// Highest and second highest score of each row, the earlier candidate where they are equal.
pub(crate) fn leaders(scores: &[f64], rows: usize) -> Vec<Leaders> {
    let of = |i: usize| {
        let row = &scores[i * rows..i * rows + i];
        let top = |skip: Option<usize>| {
            let better = |best: Option<usize>, j: usize| match best {
                Some(b) if row[j].total_cmp(&row[b]).is_le() => Some(b),
                _ => Some(j),
            };
            (0..i).filter(|j| Some(*j) != skip).fold(None, better)
        };
        let best = top(None);
        (best, if best.is_some() { top(best) } else { None })
    };
    (0..rows).map(of).collect()
}

/// Refuses a level that is no probability.
pub fn check_level(level: f64) -> Result<()> {
    if level > 0.0 && level < 1.0 {
        return Ok(());
    }
    Err(Error::invalid("level", level.to_string(), "0 < level < 1"))
}
