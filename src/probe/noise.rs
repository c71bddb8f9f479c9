//! Finite samples against the population: how far the gradient of a batch of B samples is from the
//! exact one.
//!
//! E‖g_B − g‖² = σ²/B, σ² the trace of the covariance of one sample's gradient, so the error falls
//! with slope −½ in log B. What a batch can resolve, entry by entry, is |g_e| against σ_e/√B.

use crate::batch::{Batch, divisor};
use crate::model::{Model, Workspace};
use crate::num::Sum;
use crate::source::{Source, SourceWork};
use crate::{Error, Result};

/// The error at one batch size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// B.
    pub batch: usize,
    /// Root mean square of ‖g_B − g‖₂ over the repeats.
    pub error: f64,
    /// Standard error of ln `error`.
    pub log_error_se: f64,
}

/// The result of [`gradient_noise`].
#[derive(Debug, Clone, PartialEq)]
pub struct GradientNoise {
    /// The exact gradient g, in the model's layout.
    pub exact: Vec<f64>,
    /// ‖g‖₂.
    pub norm: f64,
    /// The error at each batch size.
    pub levels: Vec<Level>,
    /// d ln error / d ln B: weighted least squares over the levels; theory: −½.
    pub slope: f64,
    /// Its standard error.
    pub slope_se: f64,
    /// σ_e: standard deviation of entry e of one sample's gradient, estimated about the exact mean
    /// from all batches.
    pub deviation: Vec<f64>,
}

impl GradientNoise {
    /// Noise to signal of entry `e` at batch size `batch`: σ_e / (√B |g_e|). Infinite where g_e = 0
    /// but samples vary, 0 where they do not vary.
    ///
    /// # Panics
    /// When there is no such entry.
    pub fn noise_to_signal(&self, e: usize, batch: usize) -> f64 {
        let noise = self.deviation[e] / (batch as f64).sqrt();
        if noise == 0.0 { 0.0 } else { noise / self.exact[e].abs() }
    }

    /// Batch size at which the error is as large as the gradient itself: σ²/‖g‖².
    pub fn critical_batch(&self) -> f64 {
        self.deviation.iter().map(|d| d * d).sum::<f64>() / (self.norm * self.norm)
    }
}

/// Sequences that go through the model at a time.
const PIECE: usize = 1024;

/// Gradient of Σ w ℓ / Σ w over the sequences `first .. first + count` of `source`, in the model's
/// layout. It is 0 in blocks that cannot train, and everywhere if no output counts.
///
/// # Errors
/// Model, parameters and source that do not fit together.
pub fn gradient(
    model: &dyn Model<f64>,
    params: &[f64],
    source: &dyn Source,
    first: u64,
    count: usize,
) -> Result<Vec<f64>> {
    Evaluator::new(model, source)?.gradient(params, first, count)
}

struct Evaluator<'a> {
    model: &'a dyn Model<f64>,
    source: &'a dyn Source,
    work: SourceWork,
    batch: Batch,
    ws: Workspace<f64>,
    active: Vec<bool>,
    grad: Vec<f64>,
}

impl<'a> Evaluator<'a> {
    fn new(model: &'a dyn Model<f64>, source: &'a dyn Source) -> Result<Self> {
        Ok(Evaluator {
            model,
            source,
            work: source.work(),
            batch: source.batch(PIECE)?,
            ws: model.workspace(source.targets(), PIECE)?,
            active: model.trainable().to_vec(),
            grad: vec![0.0; model.layout().len()],
        })
    }

    fn gradient(&mut self, params: &[f64], first: u64, count: usize) -> Result<Vec<f64>> {
        let (mut total, mut weight) = (vec![Sum::new(); self.grad.len()], Sum::new());
        for start in (0..count).step_by(PIECE) {
            let n = PIECE.min(count - start);
            self.source.fill(first + start as u64, n, &mut self.work, &mut self.batch);
            let (batch, ws) = (&self.batch, &mut self.ws);
            self.model.loss_and_grad(params, batch, &self.active, ws, &mut self.grad)?;
            weight.extend(self.batch.weights().iter().copied());
            total.iter_mut().zip(&self.grad).for_each(|(t, g)| t.add(*g));
        }
        let weight = weight.value();
        let by = if weight > 0.0 { divisor(weight) } else { 1.0 };
        Ok(total.iter().map(|g| g.value() / by).collect())
    }
}

/// Compares gradients of `repeats` independent batches of each size in `batches` with the exact
/// one, at `params`. Samples are taken in order from number 0 of `sampled`, none twice.
///
/// # Errors
/// A `population` that does not enumerate one; fewer than two different batch sizes or two repeats;
/// errors of the model.
pub fn gradient_noise(
    model: &dyn Model<f64>,
    params: &[f64],
    population: &dyn Source,
    sampled: &dyn Source,
    batches: &[usize],
    repeats: usize,
) -> Result<GradientNoise> {
    let Some(words) = population.population() else {
        return Err(Error::invalid("population", "a source that samples", "a source of all sequences"));
    };
    if batches.contains(&0) || batches.iter().all(|b| *b == batches[0]) {
        return Err(Error::invalid("batches", format!("{batches:?}"), "two or more different sizes, >= 1"));
    }
    if repeats < 2 {
        return Err(Error::invalid("repeats", repeats.to_string(), "repeats >= 2"));
    }
    let exact = gradient(model, params, population, 0, words)?;
    let mut evaluator = Evaluator::new(model, sampled)?;
    let mut levels = Vec::with_capacity(batches.len());
    let mut variance = vec![Sum::new(); exact.len()];
    let (r, mut first) = (repeats as f64, 0u64);
    for &batch in batches {
        let mut squares = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            let g = evaluator.gradient(params, first, batch)?;
            first += batch as u64;
            let mut square = Sum::new();
            for ((g, e), v) in g.iter().zip(&exact).zip(&mut variance) {
                let d = (g - e) * (g - e);
                square.add(d);
                v.add(d * batch as f64 / (r * batches.len() as f64));
            }
            squares.push(square.value());
        }
        let mean = squares.iter().sum::<f64>() / r;
        let spread = squares.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (r * (r - 1.0));
        // ln of a mean, and half of it for the root.
        levels.push(Level { batch, error: mean.sqrt(), log_error_se: 0.5 * spread.sqrt() / mean });
    }
    let (slope, slope_se) = fit(&levels);
    Ok(GradientNoise {
        norm: exact.iter().map(|g| g * g).sum::<f64>().sqrt(),
        exact,
        levels,
        slope,
        slope_se,
        deviation: variance.iter().map(|v| v.value().sqrt()).collect(),
    })
}

/// Slope of ln error over ln B, each level weighted by its inverse variance, and the slope's
/// standard error.
fn fit(levels: &[Level]) -> (f64, f64) {
    let points = || levels.iter().map(|l| ((l.batch as f64).ln(), l.error.ln(), l.log_error_se.powi(-2)));
    let total: f64 = points().map(|(_, _, w)| w).sum();
    let (mx, my) = points().fold((0.0, 0.0), |(a, b), (x, y, w)| (a + w * x / total, b + w * y / total));
    let xx: f64 = points().map(|(x, _, w)| w * (x - mx) * (x - mx)).sum();
    let xy: f64 = points().map(|(x, y, w)| w * (x - mx) * (y - my)).sum();
    (xy / xx, xx.powf(-0.5))
}
