//! h = x + Attn(LN x) and h + FF(..), by kind of block; logits = W_U LN x.

use super::super::{BlockKind, FeedForward, Output, Positions, TransformerSpec};
use super::Points;
use super::pass::{Pass, add, of_head};
use crate::Result;
use popgrad_kernels::Mat;

pub(super) fn points(spec: &TransformerSpec, heads: &[usize], points: &mut Points) {
    let d = spec.dim;
    points.embed(d);
    for (l, h) in heads.iter().enumerate() {
        points.attention(l, *h, d);
        match spec.ff {
            FeedForward::None => {}
            FeedForward::Linear => points.mlp(l, None, d),
            FeedForward::Relu => points.mlp(l, Some(4 * d), d),
        }
        points.stream(l, d);
    }
    points.output();
}

/// LN x of rows (.., d), or x itself without norms.
fn norm(spec: &TransformerSpec, pass: &Pass<'_, '_>, name: &str, x: &[f64]) -> Result<Vec<f64>> {
    if !spec.norm {
        return Ok(x.to_vec());
    }
    let (w, b) = (pass.block(&format!("{name}.weight"))?, pass.block(&format!("{name}.bias"))?);
    let mut out = x.to_vec();
    for row in out.chunks_exact_mut(spec.dim) {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        row.iter_mut().for_each(|x| *x -= mean);
        let by = 1.0 / (row.iter().map(|x| x * x).sum::<f64>() / n + 1e-5).sqrt();
        row.iter_mut().zip(w).zip(b).for_each(|((x, w), b)| *x = *x * by * w + b);
    }
    Ok(out)
}

/// What attention adds to the stream for normalised `x` (T, d).
fn attention(pass: &mut Pass<'_, '_>, l: usize, x: &[f64], d: usize) -> Result<Vec<f64>> {
    let (t, heads) = (pass.t(), pass.heads()[l]);
    let each = d / heads;
    let part = |name: &str| format!("layers.{l}.attention.{name}.weight");
    let map = |pass: &mut Pass<'_, '_>, name: &str| -> Result<Vec<f64>> {
        let w = pass.matrix(&part(name), d)?;
        pass.times(x, w.t())
    };
    let (q, k, v) = (map(pass, "wq")?, map(pass, "wk")?, map(pass, "wv")?);
    let [q, k, v] = [Mat::new(&q, t, d)?, Mat::new(&k, t, d)?, Mat::new(&v, t, d)?];
    let own = |x: Mat<'_, f64>, h: usize| -> Vec<f64> {
        (0..t).flat_map(|i| (0..each).map(move |c| x.at(i, h * each + c))).collect()
    };
    let mut scores = Vec::with_capacity(heads * t * t);
    for h in 0..heads {
        let (q, k) = (own(q, h), own(k, h));
        scores.extend(pass.product(Mat::new(&q, t, each)?, Mat::new(&k, t, each)?.t())?);
    }
    scores.iter_mut().for_each(|z| *z /= (each as f64).sqrt());
    let (pattern, wo) = (pass.pattern(scores)?, pass.matrix(&part("wo"), d)?);
    let mut all = vec![0.0; t * d];
    for h in 0..heads {
        let v = own(v, h);
        let mixed = pass.product(of_head(&pattern, h, t)?, Mat::new(&v, t, each)?)?;
        // Columns of W_O that read this head.
        let mut out = pass.times(&mixed, wo.sub(0, d, h * each, each).t())?;
        pass.see(&mut out);
        add(&mut all, &out);
    }
    Ok(all)
}

pub(super) fn forward(spec: &TransformerSpec, pass: &mut Pass<'_, '_>) -> Result<Vec<f64>> {
    let d = spec.dim;
    let pe = if spec.positions == Positions::Learned { "pos_embeddings.weight" } else { "pe" };
    let mut x = pass.embed(pass.block("tok_embeddings.weight")?, pass.block(pe)?, d);
    let post = spec.block == BlockKind::PostNorm;
    for l in 0..pass.heads().len() {
        let [of_attention, of_ff] = ["attention_norm", "ff_norm"].map(|n| format!("layers.{l}.{n}"));
        let read = if post { x.clone() } else { norm(spec, pass, &of_attention, &x)? };
        let added = attention(pass, l, &read, d)?;
        let mut h = x.clone();
        add(&mut h, &added);
        if post {
            h = norm(spec, pass, &of_attention, &h)?;
        }
        if spec.ff != FeedForward::None {
            let read = match spec.block {
                BlockKind::Public => norm(spec, pass, &of_ff, &x)?,
                BlockKind::Standard => norm(spec, pass, &of_ff, &h)?,
                BlockKind::PostNorm => h.clone(),
            };
            let relu = spec.ff == FeedForward::Relu;
            let more = pass.feed_forward(&read, d, relu, &format!("layers.{l}.ff"))?;
            add(&mut h, &more);
            if post {
                h = norm(spec, pass, &of_ff, &h)?;
            }
        }
        pass.see(&mut h);
        x = h;
    }
    let x = if post { x } else { norm(spec, pass, "norm", &x)? };
    let tied = spec.output == Output::Tied;
    let u = pass.matrix(if tied { "tok_embeddings.weight" } else { "output.weight" }, d)?;
    let mut logits = pass.times(&x, u.t())?;
    pass.see(&mut logits);
    Ok(logits)
}
