//! Dirichlet rows whose roots follow the stationary law: a Gauss rule for S = 2, Monte Carlo over π
//! for any S.
//!
//! S = 2: p = π(1|0), q = π(0|1) i.i.d. Beta(α, α), μ = (q, p)/(p+q), which is not analytic at p =
//! q = 0, so a tensor rule over the square converges algebraically only. Cut the square at ½. Where
//! p > ½, work with 1 - p. Three cells have an analytic μ and endpoint weights x^{α-1} in both
//! coordinates. In the corner p, q < ½ put larger = x, smaller = xt, both orders: weights x^{2α-1}
//! and t^{α-1}, and μ = (t, 1)/(1+t). n nodes per axis make 5n² atoms, and convergence is geometric
//! again.
//!
//! The Gauss rules are our own because the public crate `gauss-quad` (0.3.2) puts the middle node
//! of every odd rule at the centre, whatever the weight: moments wrong by a tenth at n = 5. What it
//! does for even n is the eigenvalue problem with an absolute error; here small nodes are as
//! accurate relative to themselves as large ones.

use super::{FinitePrior, Prior, RootLaw};
use crate::num::{Sum, exp, ln, log_sum_exp, sum};
use crate::rng::{Key, LogGamma};
use crate::task::stationary::{StationaryScratch, stationary};
use crate::task::{CausalTree, Roots, Task};
use crate::{Error, Result};

/// Nodes (n) in (0, 1), ascending, and weights (n) of the Gauss rule for the density c x^{c-1}.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Relative error of a few ulp each.
    pub nodes: Vec<f64>,
    /// Positive, sum 1.
    pub weights: Vec<f64>,
}

/// The n-point Gauss rule for the density c x^{c-1} on (0, 1), c > 0: exact for polynomials of
/// degree 2n-1.
///
/// The Jacobi matrix factors as LU with q_k = (k-1+c)²/((2k-2+c)(2k-1+c)) on the diagonal of U and
/// e_k = k²/((2k-1+c)(2k+c)) below that of L, all positive (Stieltjes' fraction of Σ z^k c/(c+k)).
/// Bisection on the signs of its shifted factors in the differential form of Rutishauser's qd keeps
/// the relative accuracy that those determine the eigenvalues to. The weight at x is 1/Σ_k p_k(x)²,
/// p_k orthonormal. O(n²) with about 60 bisections each.
///
/// # Panics
/// When n is 0 or c is not a positive number.
pub fn power_rule(n: usize, c: f64) -> Rule {
    assert!(n > 0 && c > 0.0 && c.is_finite(), "no such rule");
    let q: Vec<f64> = (0..n)
        .map(|k| k as f64)
        // (c + 2k) cancels against one c + k at k = 0, so that tiny c cannot give 0/0.
        .map(|k| (k + c) / (2.0 * k + c) * ((k + c) / (2.0 * k + 1.0 + c)))
        .collect();
    let e: Vec<f64> =
        (1..n).map(|k| k as f64).map(|k| k / (2.0 * k - 1.0 + c) * (k / (2.0 * k + c))).collect();
    // Eigenvalues below x.
    let below = |x: f64| {
        let (mut t, mut count) = (-x, 0);
        for k in 0..n {
            let d = q[k] + t;
            count += usize::from(d < 0.0);
            // Any sign will do for an exact zero; a normal number keeps the next quotient finite.
            let d = if d == 0.0 { 1e-200 } else { d };
            t = if k + 1 < n { t * (e[k] / d) - x } else { 0.0 };
        }
        count
    };
    let mut rule = Rule { nodes: Vec::with_capacity(n), weights: Vec::with_capacity(n) };
    for i in 0..n {
        let (mut lo, mut hi) = (rule.nodes.last().copied().unwrap_or(0.0), 1.0);
        loop {
            let mid = 0.5 * (lo + hi);
            if mid <= lo || mid >= hi {
                break;
            }
            if below(mid) > i { hi = mid } else { lo = mid }
        }
        rule.nodes.push(hi);
        // p_{k+1} √b_{k+1} = (x - a_k) p_k - √b_k p_{k-1}, a_k = q_{k+1} + e_k, b_k = q_k e_k.
        let (mut old, mut p, mut norm) = (0.0, 1.0, Sum::new());
        for k in 0..n {
            norm.add(p * p);
            if k + 1 < n {
                let low = if k > 0 { e[k - 1] } else { 0.0 };
                let next = ((hi - (q[k] + low)) * p
                    - (if k > 0 { q[k - 1] * low } else { 0.0 }).sqrt() * old)
                    / (q[k] * e[k]).sqrt();
                (old, p) = (p, next);
            }
        }
        rule.weights.push(1.0 / norm.value());
    }
    let total = sum(&rule.weights);
    rule.weights.iter_mut().for_each(|w| *w /= total);
    rule
}

/// Most nodes per axis: 327,680 atoms.
pub const MAX_NODES: usize = 256;

/// The S = 2 prior with Dirichlet(α, α) rows and stationary roots as 5n² atoms, `nodes` = n per
/// axis.
///
/// Every entry of π and μ is accurate relative to itself.
///
/// # Errors
/// α outside the range of the task, n outside 1 ..= [`MAX_NODES`].
pub fn stationary_pairs(alpha: f64, nodes: usize) -> Result<FinitePrior> {
    LogGamma::new(alpha)?;
    if !(1..=MAX_NODES).contains(&nodes) {
        return Err(Error::invalid("nodes", nodes.to_string(), format!("1 to {MAX_NODES}")));
    }
    let (one, two) = (power_rule(nodes, alpha), power_rule(nodes, 2.0 * alpha));
    let mut atoms = Atoms { alpha, log_weight: Vec::new(), pi: Vec::new(), roots: Vec::new() };
    for i in 0..nodes {
        for j in 0..nodes {
            // ∫∫ over an outer cell is (2^{-α}/α)² times the mean of the rest; over a corner
            // triangle half of that.
            let (x, y) = (0.5 * one.nodes[i], 0.5 * one.nodes[j]);
            let w = ln(one.weights[i]) + ln(one.weights[j]);
            atoms.push(w, [1.0 - x, x], [y, 1.0 - y]);
            atoms.push(w, [x, 1.0 - x], [1.0 - y, y]);
            atoms.push(w, [1.0 - x, x], [1.0 - y, y]);
            let (x, t) = (0.5 * two.nodes[i], one.nodes[j]);
            let w = ln(two.weights[i]) + ln(one.weights[j]) - std::f64::consts::LN_2;
            atoms.push(w, [x, 1.0 - x], [x * t, 1.0 - x * t]);
            atoms.push(w, [x * t, 1.0 - x * t], [x, 1.0 - x]);
        }
    }
    let Atoms { mut log_weight, pi, roots, .. } = atoms;
    // For large α every plain weight underflows.
    let total = log_sum_exp(&log_weight);
    log_weight.iter_mut().for_each(|w| *w = exp(*w - total));
    Ok(FinitePrior::stationary_from_parts(2, log_weight, pi, roots))
}

impl Prior {
    /// The prior of `task`: in closed form for uniform roots, by quadrature with `nodes` per axis
    /// for stationary ones.
    ///
    /// # Errors
    /// Stationary roots and more than two symbols; as [`stationary_pairs`].
    pub fn of_task(task: &CausalTree, nodes: usize) -> Result<Prior> {
        match (task.roots(), task.vocab(), task.floor()) {
            (Roots::Uniform, s, None) => Prior::dirichlet(s, task.alpha(), RootLaw::Uniform),
            (roots, 2, floor) => Ok(stationary_pairs(task.alpha(), nodes)?.of_task(floor, roots)?.into()),
            (Roots::Stationary, s, _) => {
                let allowed = "S = 2, or uniform roots; Monte Carlo else";
                Err(Error::invalid("S", format!("{s} with stationary roots"), allowed))
            }
            (_, s, Some(_)) => {
                let allowed = "S = 2, or prior=dirichlet; Monte Carlo else";
                Err(Error::invalid("S", format!("{s} with a floored prior"), allowed))
            }
        }
    }
}

struct Atoms {
    alpha: f64,
    log_weight: Vec<f64>,
    pi: Vec<f64>,
    roots: Vec<f64>,
}

impl Atoms {
    /// `p` = (p, 1-p), `q` = (q, 1-q), and the logarithm of the Gauss weight, without the smooth
    /// factors: for each coordinate that of its larger part, whose power no rule has taken up.
    fn push(&mut self, w: f64, p: [f64; 2], q: [f64; 2]) {
        let smooth = ln(p[0].max(p[1])) + ln(q[0].max(q[1]));
        self.log_weight.push(w + (self.alpha - 1.0) * smooth);
        self.pi.extend([p[1], p[0], q[0], q[1]]);
        self.roots.extend([q[0] / (p[0] + q[0]), p[0] / (p[0] + q[0])]);
    }
}

/// The result of [`until_converged`].
#[derive(Debug, Clone)]
pub struct Converged {
    /// The last prior.
    pub prior: FinitePrior,
    /// Its nodes per axis.
    pub nodes: usize,
    /// Its loss.
    pub loss: f64,
    /// Change of the loss at the last doubling of the nodes.
    pub change: f64,
}

/// Doubles the nodes per axis of [`stationary_pairs`] from 8 until the quadrature has converged:
/// the loss changes by less than 10⁻¹² max(1, |loss|), about the accuracy of the sums in f64.
///
/// # Errors
/// Errors of `loss` and [`stationary_pairs`]; no convergence at [`MAX_NODES`].
pub fn until_converged(alpha: f64, mut loss: impl FnMut(&FinitePrior) -> Result<f64>) -> Result<Converged> {
    let mut nodes = 8;
    let mut prior = stationary_pairs(alpha, nodes)?;
    let mut old = loss(&prior)?;
    let mut change = f64::INFINITY;
    while 2 * nodes <= MAX_NODES {
        nodes *= 2;
        prior = stationary_pairs(alpha, nodes)?;
        let new = loss(&prior)?;
        change = (new - old).abs();
        if change < 1e-12 * new.abs().max(1.0) {
            return Ok(Converged { prior, nodes, loss: new, change });
        }
        old = new;
    }
    let found = format!("the loss still moves by {change:e} at {nodes} nodes per axis");
    Err(Error::invalid("quadrature", found, "a change below 1e-12"))
}

/// `count` equally likely draws of π with Dirichlet(α, .., α) rows and its stationary law: draws
/// `first .. first + count` under `key`.
///
/// # Errors
/// S or α outside the range of the task, no draws, more entries than a finite prior may have.
pub fn draws(symbols: usize, alpha: f64, key: &Key, first: u64, count: usize) -> Result<FinitePrior> {
    FinitePrior::check_size(symbols, count)?;
    let (s, gamma) = (symbols, LogGamma::new(alpha)?);
    let mut pi = vec![0.0; count * s * s];
    let mut roots = vec![0.0; count * s];
    let mut log_pi = vec![0.0; s * s];
    let mut scratch = StationaryScratch::new(s);
    for (n, (pi, mu)) in pi.chunks_exact_mut(s * s).zip(roots.chunks_exact_mut(s)).enumerate() {
        gamma.fill(key, first.wrapping_add(n as u64), 0, &mut log_pi);
        for (log_row, row) in log_pi.chunks_exact_mut(s).zip(pi.chunks_exact_mut(s)) {
            let total = log_sum_exp(log_row);
            log_row.iter_mut().for_each(|y| *y -= total);
            row.iter_mut().zip(&*log_row).for_each(|(p, y)| *p = exp(*y));
        }
        stationary(pi, &log_pi, s, mu, None, &mut scratch);
    }
    Ok(FinitePrior::stationary_from_parts(s, vec![1.0 / count as f64; count], pi, roots))
}

/// Mean and its standard error, entry by entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// Means.
    pub mean: Vec<f64>,
    /// Standard deviation of each mean, from the sample variance.
    pub standard_error: Vec<f64>,
    /// Draws of π.
    pub draws: u64,
}

/// Monte Carlo over π, exact inside: the mean of `evaluate` over `count` draws of a single π (of
/// [`draws`]). Loss and gradients of a model are linear in the prior, so their means estimate the
/// population's without bias.
///
/// `evaluate` writes `len` numbers for the prior it is given.
///
/// # Errors
/// Fewer than two draws; what [`draws`] and `evaluate` report.
pub fn monte_carlo(
    symbols: usize,
    alpha: f64,
    key: &Key,
    count: u64,
    len: usize,
    mut evaluate: impl FnMut(&FinitePrior, &mut [f64]) -> Result<()>,
) -> Result<Estimate> {
    if count < 2 {
        return Err(Error::invalid("draws", count.to_string(), "draws >= 2"));
    }
    let mut x = vec![0.0; len];
    // Welford: mean and the sum of squares about it.
    let (mut mean, mut squares) = (vec![0.0; len], vec![0.0; len]);
    for n in 0..count {
        evaluate(&draws(symbols, alpha, key, n, 1)?, &mut x)?;
        for ((m, s), x) in mean.iter_mut().zip(&mut squares).zip(&x) {
            let d = x - *m;
            *m += d / (n + 1) as f64;
            *s += d * (x - *m);
        }
    }
    let b = count as f64;
    let standard_error = squares.iter().map(|s| (s / (b * (b - 1.0))).sqrt()).collect();
    Ok(Estimate { mean, standard_error, draws: count })
}
