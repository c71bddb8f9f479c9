//! What an entry would be if its two positions had nothing to do with each other.
//!
//! At finite T the estimate ĝ is not 0 for unrelated positions: the frequencies μ̂ in its denominator count the positions
//! themselves. To first order in 1/T that bias is a function of i plus a function of j (given the transitions, a position far
//! from both does not notice either), while an edge is a single entry. So a row effect and a column effect are fitted by
//! medians (Tukey's median polish), which edges, few per row and column, hardly move; what is left over is tested. How far
//! the left-overs of all pairs scatter beyond their sampling error (second order in 1/T, relatives at a distance) is measured too
//! and widens the test: an empirical null.

/// Rounds of the polish; it stops moving long before.
const ROUNDS: usize = 25;

/// Left-over of every off-diagonal entry of `x` (n, n); zero on the diagonal.
pub fn polish(x: &[f64], n: usize) -> Vec<f64> {
    let mut rest = x.to_vec();
    let mut line = Vec::with_capacity(n);
    for _ in 0..ROUNDS {
        let mut moved = 0.0f64;
        for by_row in [true, false] {
            let at = |a: usize, b: usize| if by_row { a * n + b } else { b * n + a };
            for a in 0..n {
                line.clear();
                line.extend((0..n).filter(|b| *b != a).map(|b| rest[at(a, b)]));
                let m = median(&mut line);
                moved = moved.max(m.abs());
                (0..n).for_each(|b| rest[at(a, b)] -= m);
            }
        }
        if moved == 0.0 {
            break;
        }
    }
    (0..n).for_each(|i| rest[i * n + i] = 0.0);
    rest
}

/// Standard deviation of the off-diagonal left-overs `rest` (n, n) beyond what their standard errors `se` explain: from the
/// median of |rest|/se over pairs of no edge.
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
    0.5 * erfc(z / std::f64::consts::SQRT_2)
}

/// erfc(x) = 1 − erf(x): the series of erf below 2, the continued fraction of Laplace above (modified Lentz).
fn erfc(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    let gauss = (-x * x).exp() / std::f64::consts::PI.sqrt();
    if x < 2.0 {
        // erf x = 2/√π e^{−x²} Σ_n 2^n x^{2n+1} / (2n+1)!!: positive terms.
        let (mut term, mut total, mut n) = (x, x, 1.0);
        while term > total * 1e-17 {
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            total += term;
            n += 1.0;
        }
        return 1.0 - 2.0 * gauss * total;
    }
    if x > 27.0 {
        return 0.0;
    }
    // x + (1/2)/(x + 1/(x + (3/2)/(x + ..))), from far inside.
    let mut f = x;
    for k in (1..=120).rev() {
        f = x + 0.5 * f64::from(k) / f;
    }
    gauss / f
}
