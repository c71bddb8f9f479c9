//! The null model: the distribution of an entry whose two positions are unrelated.
//!
//! At finite T the estimate ĝ is not 0 for unrelated positions: the frequencies μ̂ in its
//! denominator count the positions themselves. To first order in 1/T that bias is a function of i
//! plus a function of j (given the transitions, a position far from both does not notice either),
//! while an edge is a single entry. So a row effect and a column effect are fitted by medians
//! (Tukey's median polish) and what is left over is tested. A row has one edge at most, which
//! hardly moves its median; but a parent of many has an edge in most entries of its column, and
//! there the median would take the edges for the effect. The effect of such a column ([`heavy`]) is
//! read from the rows that it does not lead, and taken to be no lower than that of the other
//! columns: where all rows are led by it, that is an assumption, which [`heavy`] reports. How far
//! the left-overs of all pairs scatter beyond their sampling error (second order in 1/T, relatives
//! at a distance) is measured too and widens the test: an empirical null.

/// Rounds of the median polish, which converges long before.
const ROUNDS: usize = 25;

/// Fewest entries that a heavy column's own effect is read from.
const MIN_ENTRIES: usize = 3;

/// Columns that lead 40% or more of the n − 1 other rows; `led` (n) holds each row's leader. The
/// median of a column breaks down at half.
pub fn heavy(led: &[Option<usize>]) -> Vec<usize> {
    let count = |j: usize| led.iter().filter(|l| **l == Some(j)).count();
    (0..led.len()).filter(|j| count(*j) > 0 && 5 * count(*j) >= 2 * (led.len() - 1)).collect()
}

/// Left-over of every off-diagonal entry of `x` (n, n), zero on the diagonal; `led` (n) as in
/// [`heavy`].
pub fn polish(x: &[f64], n: usize, led: &[Option<usize>]) -> Vec<f64> {
    let heavy = heavy(led);
    let light: Vec<usize> = (0..n).filter(|j| !heavy.contains(j)).collect();
    let (mut row, mut column) = (vec![0.0; n], vec![0.0; n]);
    let mut line = Vec::with_capacity(n);
    for _ in 0..ROUNDS {
        let mut moved = false;
        let mut set = |effect: &mut f64, to: f64| {
            moved |= *effect != to;
            *effect = to;
        };
        for i in 0..n {
            line.clear();
            line.extend((0..n).filter(|j| *j != i).map(|j| x[i * n + j] - column[j]));
            set(&mut row[i], median(&mut line));
        }
        for j in &light {
            line.clear();
            line.extend((0..n).filter(|i| i != j).map(|i| x[i * n + j] - row[i]));
            set(&mut column[*j], median(&mut line));
        }
        for j in &heavy {
            line.clear();
            line.extend(light.iter().map(|k| column[*k]));
            let others = median(&mut line);
            line.clear();
            line.extend((0..n).filter(|i| i != j && led[*i] != Some(*j)).map(|i| x[i * n + j] - row[i]));
            let own = if line.len() < MIN_ENTRIES { others } else { median(&mut line) };
            set(&mut column[*j], own.max(others));
        }
        if !moved {
            break;
        }
    }
    (0..n * n).map(|e| if e / n == e % n { 0.0 } else { x[e] - row[e / n] - column[e % n] }).collect()
}

/// Variance of the left-over of an entry that stands out, over that of an entry centred by the
/// means of row and column: a median of n − 1 entries adds π/2 / (n − 1) of an entry's variance and
/// does not follow one that stands out, where a mean takes off 1/n of it.
pub fn widening(n: usize) -> f64 {
    let n = n as f64;
    (1.0 + std::f64::consts::PI / (n - 1.0)) / ((1.0 - 1.0 / n) * (1.0 - 1.0 / n))
}

/// Standard deviation of the off-diagonal left-overs `rest` (n, n) beyond what their standard
/// errors `se` explain: from the median of |rest|/se over pairs of no edge.
pub fn spread(rest: &[f64], se: &[f64], n: usize) -> f64 {
    let pairs = || (0..n * n).filter(|e| e / n != e % n && se[*e] > 0.0);
    let mut ratio: Vec<f64> = pairs().map(|e| (rest[e] / se[e]).abs()).collect();
    let mut errors: Vec<f64> = pairs().map(|e| se[e]).collect();
    if ratio.is_empty() {
        return 0.0;
    }
    // Median of |N(0, 1)|.
    let inflation = median(&mut ratio) / 0.674_489_750_196_081_7;
    median(&mut errors) * (inflation * inflation - 1.0).max(0.0).sqrt()
}

/// The median; 0 of nothing.
pub(super) fn median(x: &mut [f64]) -> f64 {
    x.sort_unstable_by(f64::total_cmp);
    match x.len() {
        0 => 0.0,
        n if n % 2 == 1 => x[n / 2],
        n => 0.5 * (x[n / 2 - 1] + x[n / 2]),
    }
}

/// P(N(0, 1) > z).
pub fn upper_tail(z: f64) -> f64 {
    0.5 * super::tails::erfc(z / std::f64::consts::SQRT_2)
}
