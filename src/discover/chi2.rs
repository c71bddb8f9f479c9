//! χ² mutual information of two positions, from pair counts over all sequences.
//!
//! | symbol | meaning |
//! |---|---|
//! | n_ab, n_a, n_b | sequences with s_j = a and s_i = b; margins; N in all |
//! | X² | N (Σ n_ab²/(n_a n_b) − 1) |
//! | score | (X² − E X²)/N, E X² = N (r−1)(c−1)/(N−1) if the two are independent: bias-corrected |
//!
//! The score needs no label and no gradient. It assumes that all sequences share one law: with
//! transitions drawn anew for each sequence, as in the in-context task, the pooled counts carry no
//! information. For a Markov chain or tree the parent has the highest score of all earlier
//! positions (data processing). Whether the two are independent at all is another question, which
//! `independence.rs` answers from the same counts.

use super::independence::{self, Column};
use super::{Found, Graph, Leaders, Rule, Sample, Score, Test, check_level, positions};
use crate::num::exp;
use crate::{Error, Result};
use rayon::prelude::*;

/// Largest alphabet: a table of as many as S² counts per thread.
pub const MAX_SYMBOLS: usize = 2048;

/// Counts of a pair of positions.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// n_ab, row-major (classes of j, classes of i).
    pub(super) pair: Vec<u32>,
    pub(super) a: Vec<u32>,
    pub(super) b: Vec<u32>,
}

impl Counts {
    pub(super) fn fill(&mut self, a: &Column, b: &Column) {
        self.a.clone_from(&a.counts);
        self.b.clone_from(&b.counts);
        self.pair.clear();
        self.pair.resize(a.classes() * b.classes(), 0);
        for (x, y) in a.codes.iter().zip(&b.codes) {
            self.pair[*x as usize * b.classes() + *y as usize] += 1;
        }
    }

    /// Σ n_ab²/(n_a n_b).
    pub(super) fn ratio(&self) -> f64 {
        let mut total = 0.0;
        for (row, a) in self.pair.chunks_exact(self.b.len()).zip(&self.a) {
            let part: f64 = row
                .iter()
                .zip(&self.b)
                .filter(|(n, _)| **n > 0)
                .map(|(n, b)| f64::from(*n) * f64::from(*n) / f64::from(*b))
                .sum();
            total += part / f64::from(*a);
        }
        total
    }

    /// What one more sequence with (a, b) adds to Σ p_ab²/(p_a p_b), to first order: 2 p_ab/(p_a
    /// p_b) − Σ_b' p_ab'²/(p_a² p_b') − Σ_a' p_a'b²/(p_a' p_b²), laid out as the counts.
    fn influence(&self, n: f64) -> Vec<f64> {
        let (r, c) = (self.a.len(), self.b.len());
        let (mut row, mut column) = (vec![0.0; r], vec![0.0; c]);
        let mut out = vec![0.0; r * c];
        let p = |x: u32| f64::from(x) / n;
        for a in 0..r {
            for b in 0..c {
                let x = p(self.pair[a * c + b]);
                if x > 0.0 {
                    let (pa, pb) = (p(self.a[a]), p(self.b[b]));
                    out[a * c + b] = 2.0 * x / (pa * pb);
                    row[a] += x * x / (pa * pa * pb);
                    column[b] += x * x / (pa * pb * pb);
                }
            }
        }
        (0..r * c).for_each(|e| out[e] -= row[e / c] + column[e % c]);
        out
    }

    /// Mean and variance of X² over permutations.
    pub(super) fn null(&self, n: f64) -> (f64, f64) {
        let side = |x: &[u32]| {
            let r = x.len() as f64;
            let inverse: f64 = x.iter().map(|c| 1.0 / f64::from(*c)).sum();
            ((r - 1.0) * (n - r) / (n - 1.0), (n * inverse - r * r) / (n - 2.0), r - 1.0)
        };
        let ((v, w, r), (x, y, c)) = (side(&self.a), side(&self.b));
        let mean = n * r * c / (n - 1.0);
        (mean, 2.0 * n / (n - 3.0) * (v - w) * (x - y) + n * n / (n - 1.0) * w * y)
    }
}

/// Checks that `sample` can be counted.
///
/// # Errors
/// As [`Sample::check`]; fewer than 4 sequences, S above [`MAX_SYMBOLS`].
pub fn check(sample: &Sample) -> Result<()> {
    sample.check()?;
    if sample.symbols > MAX_SYMBOLS {
        let allowed = format!("S <= {MAX_SYMBOLS} for score=chi2");
        return Err(Error::invalid("S", sample.symbols.to_string(), allowed));
    }
    if sample.seqs < 4 || u32::try_from(sample.seqs).is_err() {
        return Err(Error::invalid("tokens", format!("{} sequences", sample.seqs), "4 to 2^32 - 1"));
    }
    Ok(())
}

/// All columns of a sample.
struct Columns {
    of: Vec<Column>,
    n: f64,
    test: independence::Test,
    level: f64,
}

impl Columns {
    /// Scores of the row of position `i`, and what is found there.
    fn row(&self, i: usize) -> (Vec<f64>, Found) {
        let (t, n, b) = (self.of.len(), self.n, &self.of[i]);
        let (mut counts, mut scores) = (Counts::default(), vec![f64::NAN; t]);
        for (j, a) in self.of[..i].iter().enumerate() {
            counts.fill(a, b);
            scores[j] = (n * (counts.ratio() - 1.0) - counts.null(n).0) / n;
        }
        let (best, test) = self.tested(i, &scores, &mut counts);
        let higher = |a: Option<usize>, j: usize| match a {
            Some(a) if scores[j].total_cmp(&scores[a]).is_le() => Some(a),
            _ => Some(j),
        };
        let second = (0..i).filter(|j| Some(*j) != best).fold(None, higher);
        let errors = self.errors(i, best, second, &mut counts);
        let leaders: Leaders = (best, second);
        (scores, Found { leaders, test, errors })
    }

    /// The candidate to report, and its test: the highest score among those that the data
    /// distinguish from independence at the level; if none is, among those that could have been.
    fn tested(&self, i: usize, scores: &[f64], counts: &mut Counts) -> (Option<usize>, Test) {
        let (b, level) = (&self.of[i], self.level / i as f64);
        let mut order: Vec<usize> = (0..i).collect();
        // The earlier of two equal ones first.
        order.sort_by(|x, y| scores[*y].total_cmp(&scores[*x]));
        let pair = |j: usize| independence::Pair {
            a: &self.of[j],
            b,
            number: (i * self.of.len() + j) as u64,
            level,
        };
        let mut first = None;
        for j in &order {
            let pair = pair(*j);
            if pair.a.classes() < 2 || b.classes() < 2 {
                continue;
            }
            counts.fill(pair.a, b);
            let ln_p = self.test.ln_p(pair, counts, first.is_none());
            if exp(ln_p) <= level {
                return (Some(*j), Test::of_tail(ln_p));
            }
            first = first.or_else(|| self.test.possible(pair, counts).then_some((*j, ln_p)));
        }
        match first {
            Some((j, ln_p)) => (Some(j), Test::of_tail(ln_p)),
            None => (order.first().copied(), Test::NONE),
        }
    }

    fn errors(&self, i: usize, best: Option<usize>, second: Option<usize>, counts: &mut Counts) -> [f64; 2] {
        let (n, b) = (self.n, &self.of[i]);
        let mut influence = |j: Option<usize>| {
            j.map(|j| {
                counts.fill(&self.of[j], b);
                (&self.of[j].codes, counts.influence(n))
            })
        };
        let (best, second) = (influence(best), influence(second));
        let mut sums = [0.0; 4];
        for (k, y) in b.codes.iter().enumerate() {
            let at = |of: &Option<(&Vec<u32>, Vec<f64>)>| {
                of.as_ref().map_or(0.0, |(x, influence)| influence[x[k] as usize * b.classes() + *y as usize])
            };
            let x = at(&best);
            let d = x - at(&second);
            sums.iter_mut().zip([x, x * x, d, d * d]).for_each(|(o, x)| *o += x);
        }
        let se = |sum: f64, squares: f64| ((squares / n - (sum / n) * (sum / n)).max(0.0) / (n - 1.0)).sqrt();
        [se(sums[0], sums[1]), se(sums[2], sums[3])]
    }
}

/// The graph of highest χ² mutual information among earlier positions, over all T positions. O(B T²
/// + S² T²).
///
/// # Errors
/// As [`check`]; a level that is no probability.
pub fn discover(sample: &Sample, level: f64) -> Result<Graph> {
    check_level(level)?;
    check(sample)?;
    let (t, s) = (sample.len, sample.symbols);
    let column = |i: usize| Column::new(sample.tokens[i..].iter().step_by(t).copied(), s);
    let columns = Columns {
        of: (0..t).into_par_iter().map(column).collect(),
        n: sample.seqs as f64,
        test: independence::Test::new(sample.seqs),
        level,
    };
    // One task per row, so threads do not change a bit.
    let rows: Vec<(Vec<f64>, Found)> = (0..t).into_par_iter().map(|i| columns.row(i)).collect();
    let (scores, found): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    let scores = scores.concat();
    Ok(Graph {
        score: Score::Chi2,
        sequences: sample.seqs,
        length: t,
        symbols: s,
        level,
        tested: true,
        heavy: Vec::new(),
        spread: 0.0,
        // The tests see more than X² sums: where they reject, the score may have either sign.
        positions: positions(&scores, &found, Rule { level, tested: true, positive: false }),
        scores,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All orders of `x`.
    fn permutations(x: &[u32]) -> Vec<Vec<u32>> {
        if x.is_empty() {
            return vec![Vec::new()];
        }
        let mut out = Vec::new();
        for k in 0..x.len() {
            let mut rest = x.to_vec();
            let first = rest.remove(k);
            out.extend(permutations(&rest).into_iter().map(|mut p| {
                p.insert(0, first);
                p
            }));
        }
        out
    }

    #[test]
    fn moments_over_permutations_are_exact() {
        for (a, b) in
            [([0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 0, 0, 2, 0]), ([0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 2])]
        {
            let n = a.len() as f64;
            let (mut counts, a) = (Counts::default(), Column::new(a.into_iter(), 4));
            let all = permutations(&b);
            let x2: Vec<f64> = all
                .iter()
                .map(|b| {
                    counts.fill(&a, &Column::new(b.iter().copied(), 4));
                    n * (counts.ratio() - 1.0)
                })
                .collect();
            let mean = x2.iter().sum::<f64>() / x2.len() as f64;
            let variance = x2.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / x2.len() as f64;
            let (m, v) = counts.null(n);
            assert!(
                (m / mean - 1.0).abs() < 1e-12 && (v / variance - 1.0).abs() < 1e-11,
                "{m} {mean} {v} {variance}"
            );
        }
    }

    #[test]
    fn influence_is_the_derivative_of_the_score() {
        let (a, b) = ([0, 0, 1, 1, 2, 2, 2, 0], [0, 1, 1, 0, 0, 2, 0, 0]);
        let mut counts = Counts::default();
        counts.fill(&Column::new(a.into_iter(), 3), &Column::new(b.into_iter(), 3));
        let n = 8.0;
        let influence = counts.influence(n);
        // Σ p²/(p_a p_b) with weights w on the sequences, by hand.
        let ratio = |w: &[f64]| {
            let total: f64 = w.iter().sum();
            let (mut p, mut pa, mut pb) = ([[0.0; 3]; 3], [0.0; 3], [0.0; 3]);
            for (k, w) in w.iter().enumerate() {
                p[a[k] as usize][b[k] as usize] += w / total;
                pa[a[k] as usize] += w / total;
                pb[b[k] as usize] += w / total;
            }
            let mut r = 0.0;
            for x in 0..3 {
                for y in 0..3 {
                    r += p[x][y] * p[x][y] / (pa[x] * pb[y]);
                }
            }
            r
        };
        let mean: f64 = (0..8).map(|k| influence[(a[k] * 3 + b[k]) as usize]).sum::<f64>() / n;
        for k in 0..8 {
            let h = 1e-5;
            let at = |d: f64| {
                let mut w = [1.0; 8];
                w[k] += d;
                ratio(&w)
            };
            let slope = (at(h) - at(-h)) / (2.0 * h) * n;
            let expected = influence[(a[k] * 3 + b[k]) as usize] - mean;
            assert!((slope - expected).abs() < 1e-8, "{k}: {slope} {expected}");
        }
    }
}
