//! x^{l+1} = \[x, softmax(x A_h xᵀ) x, ..\]; logits = x W.

use super::Points;
use super::pass::{Pass, of_head};
use crate::Result;
use popgrad_kernels::Mat;

pub(super) fn points(heads: &[usize], points: &mut Points) {
    let mut d = points.s + points.t;
    points.embed(d);
    for (l, h) in heads.iter().enumerate() {
        points.attention(l, *h, d);
        d *= 1 + h;
        points.stream(l, d);
    }
    points.output();
}

pub(super) fn forward(pass: &mut Pass<'_, '_>) -> Result<Vec<f64>> {
    let (t, s) = (pass.t(), pass.s());
    let mut x = pass.one_hot(s + t);
    for (l, heads) in pass.heads().iter().enumerate() {
        let d = x.len() / t;
        let (a, keys) = (pass.block(&format!("A.{l}"))?, Mat::new(&x, t, d)?);
        let mut scores = Vec::with_capacity(heads * t * t);
        for a in a.chunks_exact(d * d) {
            let q = pass.product(keys, Mat::new(a, d, d)?)?;
            scores.extend(pass.product(Mat::new(&q, t, d)?, keys.t())?);
        }
        let pattern = pass.pattern(scores)?;
        let mut parts = vec![x.clone()];
        for h in 0..*heads {
            let mut out = pass.product(of_head(&pattern, h, t)?, keys)?;
            pass.see(&mut out);
            parts.push(out);
        }
        let row = |i: usize| parts.iter().flat_map(move |p| p[i * d..(i + 1) * d].iter().copied());
        let mut next: Vec<f64> = (0..t).flat_map(row).collect();
        pass.see(&mut next);
        x = next;
    }
    let w = pass.matrix("W", s)?;
    let mut logits = pass.times(&x, w)?;
    pass.see(&mut logits);
    Ok(logits)
}
