//! How many pairs a memory of d × d numbers recalls.

use super::associative::Pairs;
use super::support::key;
use super::{Check, Claim, Fit, Settings};
use crate::Result;

pub(super) const CLAIM: Claim = Claim {
    id: "capacity",
    title: "Capacity of an associative memory",
    statement: "W = Σ w_U(y_i) w_E(i)ᵀ with random embeddings scores the right output 1 and others 0, with Gaussian noise of \
                variance about n/d² + 2/d: pairs are lost from n of order d²/log n on. Gradient descent on the same pairs \
                keeps far more of them.",
    source: "Bietti et al. 2023, associative memories; the Gaussian estimate is ours",
    run,
};

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let (key, formulas) = (key(15), &settings.formulas.memory);
    let mut checks = Vec::new();
    let d = 32;
    // Orthonormal embeddings: nothing interferes.
    let unit: Vec<f64> = (0..d * d).map(|i| f64::from(u8::from(i / d == i % d))).collect();
    let pairs = Pairs::new(d, unit.clone(), unit)?;
    checks.push(Check::within(
        "recall of d orthonormal pairs",
        1.0,
        pairs.recall(&pairs.outer_product()),
        0.0,
    ));

    for (d, sizes) in [(16, &[8, 16, 32, 64, 128, 256][..]), (32, &[16, 32, 64, 128, 256, 512])] {
        for &n in sizes {
            // Standard error of a recall below 0.01.
            let draws = (if settings.thorough { 40_960 } else { 4096 } / n).max(8);
            let mut recall = 0.0;
            for draw in 0..draws {
                let pairs = Pairs::random(n, d, &key, (d * 100_000 + draw) as u32)?;
                recall += pairs.recall(&pairs.outer_product()) / draws as f64;
            }
            let expected = gaussian(n, (formulas.noise)(n, d));
            let c = Check::within("recall by outer products", expected, recall, 0.04);
            checks
                .push(c.with("d", d).with("n", n).with("n/d²", format!("{:.3}", n as f64 / (d * d) as f64)));
        }
    }
    checks.extend(half(settings)?);
    descent(settings, &mut checks)?;
    Ok(checks)
}

/// P(one right score above n − 1 wrong ones), all independent Gaussians: ∫ φ(x) Φ((1 +
/// s₁x)/s₀)^{n−1} dx.
fn gaussian(n: usize, [wrong, right]: [f64; 2]) -> f64 {
    let steps = 4000;
    let width = 16.0 / f64::from(steps);
    let at = |i: i32| {
        let x = -8.0 + (f64::from(i) + 0.5) * width;
        let below = normal_cdf((1.0 + right.sqrt() * x) / wrong.sqrt());
        width * (-0.5 * x * x).exp() * below.powi(n as i32 - 1) / (2.0 * std::f64::consts::PI).sqrt()
    };
    (0..steps).map(at).sum()
}

/// Φ, absolute error below 1e-7 (Abramowitz and Stegun 26.2.17).
fn normal_cdf(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let poly = t
        * (0.319_381_530
            + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let tail = poly * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x >= 0.0 { 1.0 - tail } else { tail }
}

/// The n at which half of the pairs are recalled, by the estimate, grows nearly as d².
fn half(settings: &Settings) -> Result<Option<Check>> {
    let mut points = Vec::new();
    for d in [64, 128, 256, 512] {
        let (mut low, mut high) = (2, 4 * d * d);
        while high - low > 1 {
            let n = usize::midpoint(low, high);
            if gaussian(n, (settings.formulas.memory.noise)(n, d)) > 0.5 { low = n } else { high = n }
        }
        points.push((d as f64, low as f64));
    }
    let fit = Fit::new("d", "pairs at recall 1/2", points);
    // d² less the logarithm of n, whose share of the slope is about 2/ln n.
    Ok(Some(Check::slope("order of the capacity in d", 1.8, 0.1, fit)))
}

/// Gradient descent on the pairs that outer products lose.
fn descent(settings: &Settings, checks: &mut Vec<Check>) -> Result<()> {
    let key = key(16);
    let cases = if settings.thorough {
        &[(16, 64), (16, 128), (16, 192), (32, 256)][..]
    } else {
        &[(8, 24), (16, 64)]
    };
    for &(d, n) in cases {
        let pairs = Pairs::random(n, d, &key, d as u32)?;
        let outer = pairs.recall(&pairs.outer_product());
        let (first, _) = pairs.descend(1, 1.0);
        let (w, losses) = pairs.descend(if settings.thorough { 4000 } else { 1000 }, 1.0);
        let label = |c: Check| c.with("d", d).with("n", n);
        checks.push(label(
            Check::at_least("recall after descent", outer, pairs.recall(&w)).with("bound", "outer products"),
        ));
        checks.push(label(Check::noted("recall after one step", pairs.recall(&first))));
        let rose = losses.windows(2).filter(|l| l[1] > l[0]).count();
        checks.push(label(Check::at_most("steps that raised the loss", 0.0, rose as f64)));
    }
    Ok(())
}
