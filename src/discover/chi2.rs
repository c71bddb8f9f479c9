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
//! positions (data processing). The test compares X² with its law over permutations of the
//! sequences: mean and variance are exact (Haldane 1940, Dawson 1954), and a scaled χ² of the same
//! two moments is mapped to a normal z (Wilson and Hilferty 1931). Two moments do not hold the tail
//! of a table with nearly empty cells, so the test, not the score, pools each column's rare symbols
//! into classes of at least √(5N) sequences: no cell's expected count is below 5 (Cochran 1954).

use super::gradient::positions;
use super::{Graph, Leaders, Sample, Score, Table, check_level, leaders};
use crate::{Error, Result};
use rayon::prelude::*;

/// Largest alphabet: a table of S² counts per thread.
pub const MAX_SYMBOLS: usize = 2048;

/// A column with its symbols pooled, rarest first, into classes of at least √(5N) sequences; and
/// the number of classes.
fn classes(column: &[u32], symbols: usize) -> (Vec<u32>, usize) {
    let mut count = vec![0usize; symbols];
    column.iter().for_each(|c| count[*c as usize] += 1);
    let mut order: Vec<usize> = (0..symbols).filter(|c| count[*c] > 0).collect();
    order.sort_by_key(|c| (count[*c], *c));
    let least = (5.0 * column.len() as f64).sqrt();
    let (mut class, mut open, mut held) = (vec![0u32; symbols], 0u32, 0);
    for c in &order {
        class[*c] = open;
        held += count[*c];
        if held as f64 >= least {
            (open, held) = (open + 1, 0);
        }
    }
    // Symbols too rare for a separate class join the class before.
    let last = open.saturating_sub(1);
    let of = column.iter().map(|c| class[*c as usize].min(last)).collect();
    (of, last as usize + 1)
}

/// Counts of a pair of positions.
struct Counts {
    s: usize,
    pair: Vec<u32>,
    a: Vec<u32>,
    b: Vec<u32>,
}

impl Counts {
    fn new(s: usize) -> Self {
        Counts { s, pair: vec![0; s * s], a: vec![0; s], b: vec![0; s] }
    }

    fn fill(&mut self, a: &[u32], b: &[u32]) {
        self.pair.fill(0);
        self.a.fill(0);
        self.b.fill(0);
        for (a, b) in a.iter().zip(b) {
            self.pair[*a as usize * self.s + *b as usize] += 1;
            self.a[*a as usize] += 1;
            self.b[*b as usize] += 1;
        }
    }

    /// Σ n_ab²/(n_a n_b).
    fn ratio(&self) -> f64 {
        let mut total = 0.0;
        for (row, a) in self.pair.chunks_exact(self.s).zip(&self.a).filter(|(_, a)| **a > 0) {
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
    /// p_b) − Σ_b' p_ab'²/(p_a² p_b') − Σ_a' p_a'b²/(p_a' p_b²), for all a and b (S, S).
    fn influence(&self, n: f64) -> Vec<f64> {
        let s = self.s;
        let (mut row, mut column) = (vec![0.0; s], vec![0.0; s]);
        let mut out = vec![0.0; s * s];
        let p = |x: u32| f64::from(x) / n;
        for a in 0..s {
            for b in 0..s {
                let x = p(self.pair[a * s + b]);
                if x > 0.0 {
                    let (pa, pb) = (p(self.a[a]), p(self.b[b]));
                    out[a * s + b] = 2.0 * x / (pa * pb);
                    row[a] += x * x / (pa * pa * pb);
                    column[b] += x * x / (pa * pb * pb);
                }
            }
        }
        (0..s * s).for_each(|e| out[e] -= row[e / s] + column[e % s]);
        out
    }

    /// Mean and variance of X² over permutations.
    fn null(&self, n: f64) -> (f64, f64) {
        let side = |x: &[u32]| {
            let r = x.iter().filter(|c| **c > 0).count() as f64;
            let inverse: f64 = x.iter().filter(|c| **c > 0).map(|c| 1.0 / f64::from(*c)).sum();
            ((r - 1.0) * (n - r) / (n - 1.0), (n * inverse - r * r) / (n - 2.0), r - 1.0)
        };
        let ((v, w, r), (x, y, c)) = (side(&self.a), side(&self.b));
        let mean = n * r * c / (n - 1.0);
        (mean, 2.0 * n / (n - 3.0) * (v - w) * (x - y) + n * n / (n - 1.0) * w * y)
    }
}

/// z of X²; −∞ where the margins leave X² no choice.
fn normal(x2: f64, (mean, variance): (f64, f64)) -> f64 {
    if !(mean > 0.0 && variance > 0.0) {
        return f64::NEG_INFINITY;
    }
    let k = 2.0 * mean * mean / variance;
    let c = 2.0 / (9.0 * k);
    ((x2 / mean).cbrt() - (1.0 - c)) / c.sqrt()
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

/// The graph of highest χ² mutual information among earlier positions, over all T positions. O(B T²
/// + S² T²).
///
/// # Errors
/// As [`check`]; a level that is no probability.
pub fn discover(sample: &Sample, level: f64) -> Result<Graph> {
    check_level(level)?;
    check(sample)?;
    let (t, s, n) = (sample.len, sample.symbols, sample.seqs as f64);
    let columns: Vec<Vec<u32>> =
        (0..t).map(|i| sample.tokens[i..].iter().step_by(t).copied().collect()).collect();
    let pooled: Vec<(Vec<u32>, usize)> = columns.par_iter().map(|c| classes(c, s)).collect();
    let most = pooled.iter().map(|(_, classes)| *classes).max().unwrap_or(1);
    // One task per row: each writes its own, so threads do not change a bit.
    let row = |i: usize| {
        let (mut counts, mut pool) = (Counts::new(s), Counts::new(most));
        let (mut scores, mut z) = (vec![f64::NAN; t], vec![f64::NAN; t]);
        for j in 0..i {
            counts.fill(&columns[j], &columns[i]);
            scores[j] = (n * (counts.ratio() - 1.0) - counts.null(n).0) / n;
            pool.fill(&pooled[j].0, &pooled[i].0);
            z[j] = normal(n * (pool.ratio() - 1.0), pool.null(n));
        }
        (scores, z)
    };
    let rows: Vec<(Vec<f64>, Vec<f64>)> = (0..t).into_par_iter().map(row).collect();
    let (scores, z): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    let table = Table { rows: t, scores: scores.concat(), z: z.concat() };
    let leaders = leaders(&table.scores, t);
    let error = |(i, (best, second)): (usize, &Leaders)| {
        let mut counts = Counts::new(s);
        let mut influence = |j: &Option<usize>| {
            j.map(|j| {
                counts.fill(&columns[j], &columns[i]);
                (j, counts.influence(n))
            })
        };
        let (best, second) = (influence(best), influence(second));
        let mut sums = [0.0; 4];
        for k in 0..sample.seqs {
            let at = |of: &Option<(usize, Vec<f64>)>| {
                of.as_ref().map_or(0.0, |(j, x)| x[columns[*j][k] as usize * s + columns[i][k] as usize])
            };
            let x = at(&best);
            let d = x - at(&second);
            sums.iter_mut().zip([x, x * x, d, d * d]).for_each(|(o, x)| *o += x);
        }
        let se = |sum: f64, squares: f64| ((squares / n - (sum / n) * (sum / n)).max(0.0) / (n - 1.0)).sqrt();
        [se(sums[0], sums[1]), se(sums[2], sums[3])]
    };
    let errors: Vec<[f64; 2]> = leaders.par_iter().enumerate().map(error).collect();
    Ok(Graph {
        score: Score::Chi2,
        sequences: sample.seqs,
        length: t,
        symbols: s,
        level,
        tested: true,
        heavy: Vec::new(),
        spread: 0.0,
        positions: positions(&table, &leaders, &errors, level, true),
        scores: table.scores,
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
    fn classes_hold_enough_and_keep_common_symbols_apart() {
        // N = 100: at least 22.4 in each.
        let column = |counts: &[usize]| -> Vec<u32> {
            (0..counts.len()).flat_map(|c| vec![c as u32; counts[c]]).collect()
        };
        for (counts, expected) in [
            (&[40, 3, 57][..], &[0, 0, 1][..]),
            (&[97, 3], &[0, 0]),
            (&[10, 60, 8, 22], &[0, 1, 0, 0]),
            (&[25, 25, 25, 25], &[0, 1, 2, 3]),
            (&[20, 20, 20, 20, 20], &[0, 0, 1, 1, 1]),
        ] {
            let x = column(counts);
            let (class, number) = classes(&x, counts.len());
            let found: Vec<u32> =
                (0..counts.len()).map(|c| class[x.iter().position(|y| *y as usize == c).unwrap()]).collect();
            assert_eq!(found, expected, "{counts:?}");
            assert_eq!(number as u32, expected.iter().max().unwrap() + 1);
        }
        assert_eq!(classes(&[1, 1], 3), (vec![0, 0], 1));
    }

    #[test]
    fn moments_over_permutations_are_exact() {
        for (a, b) in
            [([0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 0, 0, 2, 0]), ([0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 2])]
        {
            let n = a.len() as f64;
            let mut counts = Counts::new(4);
            let all = permutations(&b);
            let x2: Vec<f64> = all
                .iter()
                .map(|b| {
                    counts.fill(&a, b);
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
        let mut counts = Counts::new(3);
        counts.fill(&a, &b);
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
