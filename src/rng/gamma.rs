//! Gamma variates on the log scale.

use super::Key;
use crate::num::{exp, ln};
use popgrad_kernels::sampling::Envelope;

/// Draws ln X for X ~ Gamma(α, 1), for every α from 10⁻³ (where X itself underflows) to 10³.
///
/// Y = ln X has density ∝ e^{g(y)}, g(y) = αy - e^y, which is concave for every α. The envelope is
/// two tangents of g, at a left and b right of the mode, cut where they meet at y*; with slopes p =
/// α - e^a > 0 and -q = α - e^b < 0 it is a two-sided exponential, drawn by inversion with one
/// uniform. The second uniform accepts with probability e^{-d}, d = tangent(y) - g(y) = e^y - e^c
/// (1 + y - c), c being the tangent point of that side. One Philox block per attempt, one code path
/// for every α, no normal variate.
///
/// Choice of a, b: the area e^{V}(1/p + 1/q), V = height at y*, is stationary where y* - a = 1/p
/// and b - y* = 1/q, whence V = g(a) + 1 = g(b) + 1. The acceptance tends to 1 as α → 0 and to
/// √(π/2e) = 0.76 as α → ∞; 0.95 at α = 0.1, decreasing in between. (With a = -∞ the optimum is e^b
/// = 1 + α; this improves on the sampler of Liu, Martin and Syring 2013, e^b = 1 with a
/// discontinuous envelope: 0.91 at α = 0.1.) Any a, b give the right law: only the speed depends on
/// how well the optimum was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogGamma {
    alpha: f64,
    /// Probability of the left side, q / (p + q).
    left: f64,
    /// y*.
    knot: f64,
    /// [left, right]: the reciprocal of the side's probability, ±1/slope, tangent point, its
    /// exponential.
    scale: [f64; 2],
    mean: [f64; 2],
    point: [f64; 2],
    point_exp: [f64; 2],
}

impl LogGamma {
    /// Smallest α accepted.
    pub const MIN_ALPHA: f64 = crate::num::MIN_ALPHA;
    /// Largest α accepted.
    pub const MAX_ALPHA: f64 = crate::num::MAX_ALPHA;

    /// The sampler of shape `alpha`.
    ///
    /// # Errors
    /// When `alpha` is not in [`MIN_ALPHA`](Self::MIN_ALPHA)..=[`MAX_ALPHA`](Self::MAX_ALPHA).
    pub fn new(alpha: f64) -> crate::Result<Self> {
        crate::num::check_alpha(alpha)?;
        let (a, b) = Self::tangent_points(alpha);
        let (ea, eb) = (exp(a), exp(b));
        let (p, q) = (alpha - ea, eb - alpha);
        // Where the tangents αy - e^c (1 + y - c) meet.
        let knot = (ea * (1.0 - a) - eb * (1.0 - b)) / (eb - ea);
        let left = q / (p + q);
        Ok(LogGamma {
            alpha,
            left,
            knot,
            scale: [1.0 / left, (p + q) / p],
            mean: [1.0 / p, -1.0 / q],
            point: [a, b],
            point_exp: [ea, eb],
        })
    }

    /// Bisects for b; for each b, for the a of equal height. Fixed counts, our own exp: the same
    /// bits everywhere.
    fn tangent_points(alpha: f64) -> (f64, f64) {
        let g = |y: f64| alpha * y - exp(y);
        let mode = ln(alpha);
        let left_of = |b: f64| {
            // g(mode - x) < g(b) at the far end: the slope of g is below α, and at least α(1 - 1/e)
            // beyond one unit.
            let (mut lo, mut hi) = (mode - 2.0 - 2.0 * (g(mode) - g(b)) / alpha, mode);
            for _ in 0..60 {
                let mid = 0.5 * (lo + hi);
                if g(mid) < g(b) { lo = mid } else { hi = mid }
            }
            lo
        };
        // At b = mode the two mean lengths 1/p + 1/q are infinite, far right they are shorter than
        // b - a.
        let (mut lo, mut hi) = (mode, mode + 1.0 + ln(1.0 + 8.0 / alpha));
        for _ in 0..60 {
            let b = 0.5 * (lo + hi);
            let a = left_of(b);
            let lengths = 1.0 / (alpha - exp(a)) + 1.0 / (exp(b) - alpha);
            if lengths > b - a { lo = b } else { hi = b }
        }
        (left_of(hi), hi)
    }

    /// The shape α.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// For [`popgrad_kernels::Kernels::log_gamma`], which draws the same bits in lanes.
    pub fn envelope(&self) -> Envelope {
        Envelope {
            left: self.left,
            knot: self.knot,
            scale: self.scale,
            mean: self.mean,
            point: self.point,
            point_exp: self.point_exp,
        }
    }

    /// ln X at (`sample`, `variate`): finite always.
    #[inline]
    pub fn draw(&self, key: &Key, sample: u64, variate: u32) -> f64 {
        self.draw_from(key, sample, variate, 0)
    }

    #[inline]
    fn draw_from(&self, key: &Key, sample: u64, variate: u32, mut attempt: u32) -> f64 {
        loop {
            let [u, v] = key.uniforms(sample, variate, attempt);
            let (y, d) = self.propose(u);
            if accepts(v, d) {
                return y;
            }
            attempt += 1;
        }
    }

    /// `out[i]` = [`draw`](Self::draw) of variate `first + i`, bit for bit, faster.
    ///
    /// First attempts go in groups, one stage after the other: the dependency chain of a single
    /// draw (ten Philox rounds, a logarithm, an exponential) is longer than what a processor looks
    /// ahead. Rejected ones follow singly.
    pub fn fill(&self, key: &Key, sample: u64, first: u32, out: &mut [f64]) {
        const GROUP: usize = 16;
        let (mut u, mut v, mut d) = ([0.5; GROUP], [0.5; GROUP], [0.0; GROUP]);
        let mut variate = first;
        for out in out.chunks_mut(GROUP) {
            let n = out.len();
            for i in 0..n {
                [u[i], v[i]] = key.uniforms(sample, variate.wrapping_add(i as u32), 0);
            }
            for i in 0..n {
                (out[i], d[i]) = self.propose(u[i]);
            }
            for i in 0..n {
                if !accepts(v[i], d[i]) {
                    out[i] = self.draw_from(key, sample, variate.wrapping_add(i as u32), 1);
                }
            }
            variate = variate.wrapping_add(n as u32);
        }
    }

    /// A draw y from the envelope by inverting the uniform `u`, and d = tangent(y) - g(y) >= 0 up
    /// to rounding.
    #[inline]
    fn propose(&self, u: f64) -> (f64, f64) {
        let side = usize::from(u >= self.left);
        // 1 - u is exact. Given the side, w is uniform on (0,1); the product may round up to an ulp
        // past 1, where the envelope is also above the density.
        let w = (if side == 0 { u } else { 1.0 - u }) * self.scale[side];
        let y = self.knot + self.mean[side] * ln(w);
        (y, exp(y) - self.point_exp[side] * (1.0 + (y - self.point[side])))
    }
}

/// Accepts with probability e^{-d}. The squeeze e^{-d} >= 1 - d saves an exponential; the rule is
/// this disjunction, rounding included, so that lanes that evaluate both sides decide alike.
#[inline]
fn accepts(v: f64, d: f64) -> bool {
    v < 1.0 - d || v < exp(-d)
}

/// ln X for X ~ Gamma(`alpha`, 1) at (`sample`, `variate`); [`LogGamma`] is cheaper for many draws
/// of one shape.
///
/// # Errors
/// As [`LogGamma::new`].
pub fn log_gamma_variate(key: &Key, sample: u64, variate: u32, alpha: f64) -> crate::Result<f64> {
    Ok(LogGamma::new(alpha)?.draw(key, sample, variate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, unit};

    #[test]
    fn acceptance_is_as_documented() {
        let k = Key::new(1, Purpose::Test);
        let mut report = String::new();
        for alpha in [1e-3, 0.01, 0.1, 0.3, 0.5, 1.0, 2.5, 10.0, 100.0, 1e3] {
            let g = LogGamma::new(alpha).unwrap();
            // The optimality conditions hold, so the search found the optimum.
            assert!((g.knot - g.point[0] - g.mean[0]).abs() < 1e-6 * g.mean[0], "{g:?}");
            assert!((g.point[1] - g.knot + g.mean[1]).abs() < 1e-6 * g.mean[0], "{g:?}");
            let n = 40_000;
            let accepted = (0..n)
                .filter(|&i| {
                    let [u, v] = k.uniforms(i, 0, 0);
                    accepts(v, g.propose(u).1)
                })
                .count();
            // Envelope area against Γ(α): exact acceptance.
            let height = alpha * g.knot - g.point_exp[0] * (1.0 + g.knot - g.point[0]);
            let area = height + ln(g.mean[0] - g.mean[1]);
            let exact = libm::exp(libm::lgamma(alpha) - area);
            report += &format!(" {alpha}:{exact:.4}");
            let sd = (exact * (1.0 - exact) / n as f64).sqrt();
            assert!(
                (accepted as f64 / n as f64 - exact).abs() < 5.0 * sd + 1e-9,
                "{alpha}: {accepted} of {n}, {exact}"
            );
            assert!(exact > 0.76, "{alpha}: {exact}");
        }
        println!("acceptance:{report}");
    }

    #[test]
    fn acceptance_probability_is_exact() {
        for i in 0..400 {
            // From d far below the rounding of 1 to certain rejection.
            let d = libm::exp2(-60.0 + 0.17 * f64::from(i));
            let p = libm::exp(-d);
            assert!(
                accepts(p * (1.0 - 4.0 * f64::EPSILON), d) && !accepts(p * (1.0 + 4.0 * f64::EPSILON), d),
                "{d}"
            );
        }
        assert!(accepts(1.0, -1e-12) && !accepts(1e-300, f64::INFINITY));
    }

    #[test]
    fn filling_is_drawing() {
        let k = Key::new(3, Purpose::Train);
        for alpha in [1e-3, 0.1, 10.0] {
            let g = LogGamma::new(alpha).unwrap();
            let mut out = [f64::NAN; 101];
            g.fill(&k, 8, u32::MAX - 50, &mut out);
            for (i, y) in out.iter().enumerate() {
                assert_eq!(*y, g.draw(&k, 8, (u32::MAX - 50).wrapping_add(i as u32)));
            }
            assert_eq!(out[100], log_gamma_variate(&k, 8, 49, alpha).unwrap());
        }
    }

    #[test]
    fn log_gamma_rejects_bad_shapes() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 0.9e-3, 1.1e3] {
            assert!(LogGamma::new(bad).unwrap_err().to_string().starts_with("alpha: "));
        }
    }

    #[test]
    fn extreme_uniforms_stay_finite() {
        let ends = [unit(0), 0.25, 0.5, 0.75, unit(u64::MAX)];
        for alpha in [1e-3, 0.1, 1.0, 1e3] {
            let g = LogGamma::new(alpha).unwrap();
            for u in ends {
                let (y, d) = g.propose(u);
                assert!(y.is_finite() && !d.is_nan() && d > -1e-9, "{alpha} {u}: {y} {d}");
            }
        }
    }
}
