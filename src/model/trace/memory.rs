//! h = x + Φ Σ_s α_ts x_s, α = softmax(scale x_tᵀ W_K x_s), Φ = W_O W_V; x = h + FF(h);
//! logits = c W_U x.

use super::super::{FeedForward, MemorySpec, Output, Positions};
use super::Points;
use super::pass::{Pass, add, of_head};
use crate::Result;
use popgrad_kernels::Mat;

pub(super) fn points(spec: &MemorySpec, points: &mut Points) {
    let d = spec.dim;
    points.embed(d);
    for (l, ff) in [spec.ff1, spec.ff2].into_iter().enumerate() {
        points.attention(l, 1, d);
        match ff {
            FeedForward::None => {}
            FeedForward::Linear => points.mlp(l, None, d),
            FeedForward::Relu => points.mlp(l, Some(4 * d), d),
        }
        points.stream(l, d);
    }
    points.output();
}

/// Turns row t by t 10000^(−2m/d) in the plane of entries 2m, 2m + 1.
fn rotated(x: &[f64], d: usize) -> Vec<f64> {
    let mut out = x.to_vec();
    for (t, row) in out.chunks_exact_mut(d).enumerate() {
        for (m, pair) in row.chunks_exact_mut(2).enumerate() {
            let (sin, cos) = (t as f64 * 10000f64.powf(-2.0 * m as f64 / d as f64)).sin_cos();
            let [a, b] = [pair[0], pair[1]];
            (pair[0], pair[1]) = (a * cos - b * sin, a * sin + b * cos);
        }
    }
    out
}

pub(super) fn forward(spec: &MemorySpec, pass: &mut Pass<'_, '_>) -> Result<Vec<f64>> {
    let (t, d) = (pass.t(), spec.dim);
    let scale = if spec.scale_scores { 1.0 / (d as f64).sqrt() } else { 1.0 };
    let rotary = spec.positions == Positions::Rotary;
    let pe = if rotary { &[][..] } else { pass.block("pe")? };
    let mut x = pass.embed(pass.block("tok_embeddings.weight")?, pe, d);
    for (l, ff) in [spec.ff1, spec.ff2].into_iter().enumerate() {
        let part = |name: &str| format!("layers.{l}.attention.{name}.weight");
        let [wk, wv, wo] =
            [pass.matrix(&part("wk"), d)?, pass.matrix(&part("wv"), d)?, pass.matrix(&part("wo"), d)?];
        // x_tᵀ W_K x_s; positions of layer 1 turn x_t and W_K x_s.
        let mut scores = if rotary && l == 0 {
            let keys = pass.times(&x, wk.t())?;
            let (q, k) = (rotated(&x, d), rotated(&keys, d));
            pass.product(Mat::new(&q, t, d)?, Mat::new(&k, t, d)?.t())?
        } else {
            let q = pass.times(&x, wk)?;
            pass.product(Mat::new(&q, t, d)?, Mat::new(&x, t, d)?.t())?
        };
        scores.iter_mut().for_each(|z| *z *= scale);
        let pattern = pass.pattern(scores)?;
        let mixed = pass.product(of_head(&pattern, 0, t)?, Mat::new(&x, t, d)?)?;
        let values = pass.times(&mixed, wv.t())?;
        let mut out = pass.times(&values, wo.t())?;
        pass.see(&mut out);
        add(&mut x, &out);
        if ff != FeedForward::None {
            let more = pass.feed_forward(&x, d, ff == FeedForward::Relu, &format!("layers.{l}.ff"))?;
            add(&mut x, &more);
        }
        pass.see(&mut x);
    }
    let (name, c) = match spec.output {
        Output::Free | Output::Frozen => ("output.weight", 1.0),
        Output::Tied => ("tok_embeddings.weight", 1.0 / d as f64),
        Output::TiedFrozen => ("output.weight", 1.0 / (d as f64).sqrt()),
    };
    let u = pass.matrix(name, d)?;
    let mut logits = pass.times(&x, u.t())?;
    logits.iter_mut().for_each(|z| *z *= c);
    pass.see(&mut logits);
    Ok(logits)
}
