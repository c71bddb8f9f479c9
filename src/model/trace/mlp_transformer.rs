//! y = Σ_h softmax(x A_h xᵀ) x V_h; x += relu(y W1 + √d b1) W2 + √d b2; logits = x W.

use super::Points;
use super::pass::{Pass, add, of_head};
use crate::Result;
use popgrad_kernels::Mat;

pub(super) fn points(heads: &[usize], points: &mut Points) {
    let d = points.s + points.t;
    points.embed(d);
    for (l, h) in heads.iter().enumerate() {
        points.attention(l, *h, d);
        points.mlp(l, Some(d), d);
        points.stream(l, d);
    }
    points.output();
}

pub(super) fn forward(pass: &mut Pass<'_, '_>) -> Result<Vec<f64>> {
    let (t, s) = (pass.t(), pass.s());
    let d = s + t;
    let root = (d as f64).sqrt();
    let mut x = pass.embed(pass.block("wte")?, pass.block("wpe")?, d);
    for (l, heads) in pass.heads().iter().enumerate() {
        let (a, v) = (pass.block(&format!("A.{l}"))?, pass.block(&format!("V.{l}"))?);
        let keys = Mat::new(&x, t, d)?;
        let mut scores = Vec::with_capacity(heads * t * t);
        for a in a.chunks_exact(d * d) {
            let q = pass.product(keys, Mat::new(a, d, d)?)?;
            scores.extend(pass.product(Mat::new(&q, t, d)?, keys.t())?);
        }
        let pattern = pass.pattern(scores)?;
        let mut y = vec![0.0; t * d];
        for (h, v) in v.chunks_exact(d * d).enumerate() {
            let mixed = pass.product(of_head(&pattern, h, t)?, keys)?;
            let mut out = pass.times(&mixed, Mat::new(v, d, d)?)?;
            pass.see(&mut out);
            add(&mut y, &out);
        }
        let part = |name: &str| format!("mlp.{l}.{name}");
        let (w1, b1) = (pass.matrix(&part("w1"), d)?, pass.block(&part("b1"))?);
        let (w2, b2) = (pass.matrix(&part("w2"), d)?, pass.block(&part("b2"))?);
        let mut hidden = pass.times(&y, w1)?;
        for row in hidden.chunks_exact_mut(d) {
            row.iter_mut().zip(b1).for_each(|(h, b)| *h = (*h + root * b).max(0.0));
        }
        pass.see(&mut hidden);
        let mut out = pass.times(&hidden, w2)?;
        for row in out.chunks_exact_mut(d) {
            row.iter_mut().zip(b2).for_each(|(o, b)| *o += root * b);
        }
        pass.see(&mut out);
        add(&mut x, &out);
        pass.see(&mut x);
    }
    let w = pass.matrix("W", s)?;
    let mut logits = pass.times(&x, w)?;
    pass.see(&mut logits);
    Ok(logits)
}
