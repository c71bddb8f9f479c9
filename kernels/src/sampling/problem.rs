//! Where draws lie, and the laws that they follow.

use crate::error::KernelError;

/// Problems side by side.
pub const SAMPLE_LANES: usize = 8;

/// Attempts at one variate before [`Kernels::log_gamma`](crate::Kernels::log_gamma) gives up: an
/// envelope that accepts half of its proposals gets there with probability 2⁻⁴⁰⁹⁶.
pub const MAX_ATTEMPTS: u32 = 4096;

/// Where the draws of each lane are: Philox4x32-10 under `key` at counter (sample low, sample high,
/// variate, attempt).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The key.
    pub key: [u32; 2],
    /// The lane's sample.
    pub sample: [u64; SAMPLE_LANES],
    /// The lane's first variate; the following ones wrap.
    pub variate: [u32; SAMPLE_LANES],
}

/// Two exponentials back to back over the density of ln X, X ~ Gamma(α, 1): tangents of its
/// logarithm αy − e^y at two points, left and right of where they meet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Envelope {
    /// Probability of the left side, in (0, 1).
    pub left: f64,
    /// Where the sides meet.
    pub knot: f64,
    /// [left, right]: the reciprocal of the side's probability.
    pub scale: [f64; 2],
    /// ± its mean length: positive, negative.
    pub mean: [f64; 2],
    /// Its tangent point.
    pub point: [f64; 2],
    /// e to that.
    pub point_exp: [f64; 2],
}

impl Envelope {
    pub(crate) fn check(&self) -> Result<(), KernelError> {
        let side = |k: usize| {
            (1.0..=1e300).contains(&self.scale[k])
                && [self.mean[k], self.point[k], self.point_exp[k]].iter().all(|x| x.is_finite())
        };
        let ok = self.left > 0.0 && self.left < 1.0 && self.knot.is_finite() && side(0) && side(1);
        if ok && self.mean[0] > 0.0 && self.mean[1] < 0.0 {
            return Ok(());
        }
        let allowed = "finite, 0 < left < 1, scale >= 1, mean positive on the left and negative on the right";
        Err(KernelError::Domain { op: "log_gamma", what: "the envelope", allowed })
    }
}

/// The row of a table that a position's symbol is drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOf {
    /// The row of the symbol at this earlier position.
    Symbol(u32),
    /// This row.
    Fixed(u32),
    /// None: the symbol is there already.
    Given,
}
