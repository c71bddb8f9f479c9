//! The score that the gradient of the simplified model has at initialisation (theory 1.3, leading
//! order).
//!
//! At A1 = 0, A2 = β₀ I, for j <= i: −∂L/∂A1\[i, j\] = β₀/(S T i) c_ij + O(β₀²), c_ij = ĝ_ij −
//! mean_{k<=i} ĝ_ik (i from 1),
//!
//! - ĝ_ij = S E\[(y(s_i)/(μ̂(s_i)+ε) − r̄) 1\[s_j = s_T\]\],
//! - r̄ = Σ_s y(s) μ̂(s)/(μ̂(s)+ε),
//! - μ̂(s) = #{i <= T: s_i = s}/T.
//!
//! This is the exact first-order coefficient on the sample, not a gradient at some small β₀: one
//! pass over the tokens, each sequence T numbers u_i = S (y(s_i)/(μ̂(s_i)+ε) − r̄) added to the
//! columns of the positions that hold the query's symbol. In the population limit ĝ_ij is E‖B‖²_F,
//! the χ² mutual information, for the parent, and less for all others (data processing). Row T of
//! the gradient (the query's own) is no evidence about the graph and is left out.
//!
//! Errors are those of a mean of independent sequences. The argmax is that of c; whether the row
//! has a parent is tested on the residual of ĝ after its finite-T bias is removed, see
//! [`super::null`].

use super::independence;
use super::tails;
use super::{
    Found, Graph, Labels, Leaders, Rule, Sample, Score, Test, check_level, leaders, null, positions,
};
use crate::num::{Sum, ln};
use crate::rng::{Key, Purpose};
use crate::{Error, Result};
use rayon::prelude::*;

/// Sequences per piece: pieces are folded in order, so threads do not change a bit.
const PIECE: usize = 1024;

/// Fewest rows at which row and column effects can be separated from edges. Below it the test would
/// not keep its level.
const MIN_ROWS: usize = 6;

/// Fewest sequences whose means are taken for normal.
const MIN_SEQS: usize = 30;

/// Fewest sequences that a tested entry must come from for its mean to be taken for normal: below,
/// up to 13% of unrelated positions were given a parent at level .01.
const MIN_CONTRIBUTING: f64 = 15.0;

/// Columns whose laws differ by more than this, in mean χ² distance from the law of all, have a
/// bias that is no sum of effects of row and column.
const UNEQUAL: f64 = 0.02;

/// Samples with unrelated columns that this bias is measured on.
const UNRELATED: u64 = 8;

/// Moments over sequences.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// T−1: positions but for the query.
    pub rows: usize,
    /// ĝ (rows, rows), all i and j.
    pub g: Vec<f64>,
    /// Standard error of (u_i − ū)(1\[s_j = s_T\] − mean), rows and columns centred per sequence
    /// (rows, rows); 0 where the sequences differ by no more than rounding.
    pub se: Vec<f64>,
}

/// What one sequence contributes.
struct Terms {
    count: Vec<f64>,
    /// u (T).
    u: Vec<f64>,
    /// Context positions that hold the query's symbol.
    hits: Vec<usize>,
}

impl Terms {
    fn new(sample: &Sample) -> Self {
        Terms { count: vec![0.0; sample.symbols], u: vec![0.0; sample.len], hits: Vec::new() }
    }

    fn fill(&mut self, sample: &Sample, labels: &Labels, n: usize, eps: f64) {
        let (t, s) = (sample.len, sample.symbols);
        let tokens = &sample.tokens[n * t..][..t];
        let scale = 1.0 / t as f64;
        tokens.iter().for_each(|c| self.count[*c as usize] += scale);
        let y = |c: u32| match labels {
            Labels::Symbols(y) => f64::from(u8::from(y[n] == c)),
            Labels::Soft(y) => y[n * s + c as usize],
        };
        // r̄ over the symbols that occur: each of their positions carries 1/T of μ̂.
        let mut mean = 0.0;
        for (u, c) in self.u.iter_mut().zip(tokens) {
            *u = y(*c) / (self.count[*c as usize] + eps);
            mean += *u * scale;
        }
        self.u.iter_mut().for_each(|u| *u = s as f64 * (*u - mean));
        tokens.iter().for_each(|c| self.count[*c as usize] = 0.0);
        let query = tokens[t - 1];
        self.hits.clear();
        self.hits.extend((0..t - 1).filter(|j| tokens[*j] == query));
    }
}

fn labels(sample: &Sample) -> Result<&Labels> {
    sample.labels.as_ref().ok_or_else(|| Error::invalid("labels", "none", "labels for score=gradient"))
}

/// `body` over pieces of the sample, sums folded in their order.
fn fold(sample: &Sample, sums: usize, body: impl Fn(std::ops::Range<usize>, &mut [f64]) + Sync) -> Vec<f64> {
    let starts: Vec<usize> = (0..sample.seqs).step_by(PIECE).collect();
    let mut total = vec![Sum::new(); sums];
    for group in starts.chunks(4 * rayon::current_num_threads()) {
        let run = |start: &usize| {
            let mut out = vec![0.0; sums];
            body(*start..(*start + PIECE).min(sample.seqs), &mut out);
            out
        };
        let done: Vec<Vec<f64>> = group.par_iter().map(run).collect();
        for piece in done {
            total.iter_mut().zip(piece).for_each(|(t, x)| t.add(x));
        }
    }
    total.iter().map(Sum::value).collect()
}

/// Refuses an ε that no denominator can take.
///
/// # Errors
/// ε outside the range of [`num::check_eps`](crate::num::check_eps).
pub fn check_eps(eps: f64) -> Result<()> {
    crate::num::check_eps(eps)
}

/// ĝ and its errors. O(B (T + hits T)).
///
/// # Errors
/// As [`Sample::check`]; no labels; ε out of range.
pub fn moments(sample: &Sample, eps: f64) -> Result<Moments> {
    sample.check()?;
    let labels = labels(sample)?;
    check_eps(eps)?;
    let rows = sample.len - 1;
    let (size, n, r) = (rows * rows, sample.seqs as f64, rows as f64);
    // By column: sums of u and of the squares; and the part of the squares that all columns share.
    let sums = fold(sample, 2 * size + rows, |range, out| {
        let (g, rest) = out.split_at_mut(size);
        let (squares, shared) = rest.split_at_mut(size);
        let mut terms = Terms::new(sample);
        for k in range {
            terms.fill(sample, labels, k, eps);
            let u = &terms.u[..rows];
            let (hit, mean) = (terms.hits.len() as f64 / r, u.iter().sum::<f64>() / r);
            for j in &terms.hits {
                g[j * rows..][..rows].iter_mut().zip(u).for_each(|(g, u)| *g += u);
                let column = squares[j * rows..][..rows].iter_mut().zip(u);
                column.for_each(|(q, u)| *q += (1.0 - 2.0 * hit) * (u - mean) * (u - mean));
            }
            shared.iter_mut().zip(u).for_each(|(q, u)| *q += hit * hit * (u - mean) * (u - mean));
        }
    });
    let (g, rest) = sums.split_at(size);
    let (squares, shared) = rest.split_at(size);
    let transposed =
        |x: &[f64]| -> Vec<f64> { (0..size).map(|e| x[(e % rows) * rows + e / rows] / n).collect() };
    let g = transposed(g);
    let centred = centred(&g, rows);
    let squares = transposed(squares);
    let largest = g.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let se = |e: usize| {
        let common = shared[e / rows] / n;
        let variance = squares[e] + common - centred[e] * centred[e];
        // Sums of PIECE terms each, and their difference: what is below this is rounding, not
        // evidence.
        let rounding = 4.0 * PIECE as f64 * f64::EPSILON * (squares[e].abs() + common + largest * largest);
        if variance <= rounding { 0.0 } else { (variance / (n - 1.0)).sqrt() }
    };
    let se = (0..size).map(se).collect();
    Ok(Moments { rows, g, se })
}

/// Rows and columns minus their means.
fn centred(x: &[f64], n: usize) -> Vec<f64> {
    let size = n as f64;
    let row: Vec<f64> = x.chunks_exact(n).map(|r| r.iter().sum::<f64>() / size).collect();
    let column: Vec<f64> = (0..n).map(|j| x[j..].iter().step_by(n).sum::<f64>() / size).collect();
    let all = row.iter().sum::<f64>() / size;
    (0..n * n).map(|e| x[e] - row[e / n] - column[e % n] + all).collect()
}

/// c_ij = ĝ_ij − mean_{k<=i} ĝ_ik at j <= i, NaN above: −∂L/∂A1\[i, j\] times S T i / β₀.
pub fn scores(m: &Moments) -> Vec<f64> {
    let n = m.rows;
    let mut out = vec![f64::NAN; n * n];
    for i in 0..n {
        let row = &m.g[i * n..][..=i];
        let mean = row.iter().copied().collect::<Sum>().value() / (i + 1) as f64;
        (0..=i).for_each(|j| out[i * n + j] = row[j] - mean);
    }
    out
}

/// The graph that the gradient at initialisation shows.
///
/// # Errors
/// As [`moments`]; a level that is no probability.
pub fn discover(sample: &Sample, eps: f64, level: f64) -> Result<Graph> {
    check_level(level)?;
    let m = moments(sample, eps)?;
    let n = m.rows;
    let scores = scores(&m);
    let leaders = leaders(&scores, n);
    let tested = n >= MIN_ROWS && sample.seqs >= MIN_SEQS;
    let (z, heavy, spread) = if tested {
        let led: Vec<Option<usize>> = leaders.iter().map(|(best, _)| *best).collect();
        let (g, noise) = without_bias(sample, eps, &m)?;
        let rest = null::polish(&g, n, &led);
        let spread = null::spread(&rest, &m.se, n);
        let widening = null::widening(n) * noise;
        // An error of 0 is no certainty: nothing varies, so nothing is known.
        let z = |(r, se): (&f64, &f64)| match *se > 0.0 {
            true => r / (widening * se * se + spread * spread).sqrt(),
            false => f64::NAN,
        };
        (rest.iter().zip(&m.se).map(z).collect(), null::heavy(&led), spread)
    } else {
        (vec![f64::NAN; n * n], Vec::new(), 0.0)
    };
    let errors = errors(sample, eps, &leaders)?;
    let of = |(i, (leaders, e)): (usize, (&Leaders, &Errors))| {
        // z² of k contributions is k at most: fewer cannot reach the level.
        let least = tails::normal_quantile(ln(level / i as f64)).powi(2).max(MIN_CONTRIBUTING);
        let test = leaders.0.map(|j| z[i * n + j]).filter(|z| !z.is_nan() && e.contributing >= least);
        Found { leaders: *leaders, test: test.map_or(Test::NONE, Test::of_z), errors: [e.score, e.margin] }
    };
    let found: Vec<Found> = leaders.iter().zip(&errors).enumerate().map(of).collect();
    Ok(Graph {
        score: Score::Gradient,
        sequences: sample.seqs,
        length: sample.len,
        symbols: sample.symbols,
        level,
        tested,
        heavy,
        spread,
        positions: positions(&scores, &found, Rule { level, tested, positive: true }),
        scores,
    })
}

/// ĝ without the bias that unequal columns give it, and the factor of its variance: where they are
/// alike, as it is. Else the mean of ĝ over samples in which every column but the query's is
/// permuted is taken off: there all positions are unrelated, and have the same laws.
fn without_bias(sample: &Sample, eps: f64, m: &Moments) -> Result<(Vec<f64>, f64)> {
    if inequality(sample) <= UNEQUAL {
        return Ok((m.g.clone(), 1.0));
    }
    let mut g = m.g.clone();
    for round in 0..UNRELATED {
        let mut tokens = sample.tokens.clone();
        for i in 0..m.rows {
            let key = Key::new(i as u64, Purpose::Permutation);
            let mut column: Vec<u32> = tokens[i..].iter().step_by(sample.len).copied().collect();
            independence::shuffle(&mut column, &key, round);
            tokens[i..].iter_mut().step_by(sample.len).zip(column).for_each(|(to, c)| *to = c);
        }
        let labels = sample.labels.clone();
        let unrelated = moments(&Sample { tokens, labels, ..*sample }, eps)?;
        g.iter_mut().zip(&unrelated.g).for_each(|(g, x)| *g -= x / UNRELATED as f64);
    }
    Ok((g, 1.0 + 1.0 / UNRELATED as f64))
}

/// Mean over the positions but the query's of Σ_s (p_i(s) − p(s))²/p(s), p_i the law of position i
/// and p that of all, beyond what equal laws would show.
fn inequality(sample: &Sample) -> f64 {
    let (t, s, rows) = (sample.len, sample.symbols, sample.len - 1);
    let mut counts = vec![0u32; rows * s];
    for tokens in sample.tokens.chunks_exact(t) {
        tokens[..rows].iter().enumerate().for_each(|(i, c)| counts[i * s + *c as usize] += 1);
    }
    let (mut total, mut symbols) = (0.0, 0.0);
    for c in 0..s {
        let column: Vec<f64> = counts[c..].iter().step_by(s).map(|n| f64::from(*n)).collect();
        let mean = column.iter().sum::<f64>() / rows as f64;
        if mean > 0.0 {
            symbols += 1.0;
            total += column.iter().map(|n| (n - mean) * (n - mean)).sum::<f64>() / mean;
        }
    }
    let n = sample.seqs as f64;
    (total / rows as f64 - (symbols - 1.0)) / n
}

/// What is known of the leader of a row besides its score.
struct Errors {
    /// Standard error of its score, and of the margin to the second.
    score: f64,
    margin: f64,
    /// How many sequences its tested entry comes from: (Σ |x|)²/Σ x² over their contributions x.
    contributing: f64,
}

fn errors(sample: &Sample, eps: f64, leaders: &[Leaders]) -> Result<Vec<Errors>> {
    let labels = labels(sample)?;
    let (rows, n) = (leaders.len(), sample.seqs as f64);
    let sums = fold(sample, 6 * rows, |range, out| {
        let mut terms = Terms::new(sample);
        let mut hit = vec![0.0; rows];
        for k in range {
            terms.fill(sample, labels, k, eps);
            hit.fill(0.0);
            terms.hits.iter().for_each(|j| hit[*j] = 1.0);
            let mean_hit = terms.hits.len() as f64 / rows as f64;
            let mean = terms.u[..rows].iter().sum::<f64>() / rows as f64;
            let mut before = 0.0;
            for (i, (best, second)) in leaders.iter().enumerate() {
                before += hit[i];
                let (Some(best), u) = (best, terms.u[i]) else { continue };
                let x = u * (hit[*best] - before / (i + 1) as f64);
                let d = u * (hit[*best] - second.map_or(0.0, |s| hit[s]));
                let tested = (u - mean) * (hit[*best] - mean_hit);
                let sums = &mut out[6 * i..][..6];
                let all = [x, x * x, d, d * d, tested.abs(), tested * tested];
                sums.iter_mut().zip(all).for_each(|(o, x)| *o += x);
            }
        }
    });
    let se = |sum: f64, squares: f64| ((squares / n - (sum / n) * (sum / n)).max(0.0) / (n - 1.0)).sqrt();
    let of = |s: &[f64]| Errors {
        score: se(s[0], s[1]),
        margin: se(s[2], s[3]),
        contributing: if s[5] > 0.0 { s[4] * s[4] / s[5] } else { 0.0 },
    };
    Ok(sums.chunks_exact(6).map(of).collect())
}
