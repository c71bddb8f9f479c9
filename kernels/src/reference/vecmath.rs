//! Naive twins of losses, layer norm, updates and table rows.

use crate::elem::Elem;
use crate::vecmath::loss::problem::IGNORED;
use crate::vecmath::update::problem::{AdamW, Sgd};
use crate::view::{Mat, MatMut};

/// `x_is − lse_i`, as f64 rows.
pub fn log_softmax(row: &[f64]) -> Vec<f64> {
    let lse = super::softmax(row).1;
    row.iter().map(|x| x - lse).collect()
}

/// The one-hot targets that `labels` mean; zeros where [`IGNORED`].
pub fn one_hot(labels: &[u32], symbols: usize) -> Vec<f64> {
    let mut y = vec![0.0; labels.len() * symbols];
    for (i, l) in labels.iter().enumerate().filter(|(_, l)| **l != IGNORED) {
        y[i * symbols + *l as usize] = 1.0;
    }
    y
}

/// −Σ_s y_s log(f_s + ε) over s with y_s ≠ 0, and the sum of its terms' absolute values.
pub fn log_loss(f: &[f64], y: &[f64], eps: f64) -> (f64, f64) {
    let terms: Vec<f64> =
        f.iter().zip(y).filter(|(_, y)| **y != 0.0).map(|(f, y)| -y * (f + eps).ln()).collect();
    (terms.iter().sum(), terms.iter().map(|t| t.abs()).sum())
}

/// Mean and 1 / sqrt(variance + eps) of a row.
pub fn moments(x: &[f64], eps: f64) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    (mean, 1.0 / (var + eps).sqrt())
}

/// Layer norm of one row.
pub fn layer_norm(x: &[f64], weight: &[f64], bias: &[f64], eps: f64) -> Vec<f64> {
    let (mean, rstd) = moments(x, eps);
    (0..x.len()).map(|j| (x[j] - mean) * rstd * weight[j] + bias[j]).collect()
}

/// dx of one row, and what the row adds to dweight and dbias.
pub fn layer_norm_backward(
    x: &[f64],
    weight: &[f64],
    (mean, rstd): (f64, f64),
    dout: &[f64],
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let n = x.len() as f64;
    let hat: Vec<f64> = x.iter().map(|x| (x - mean) * rstd).collect();
    let g: Vec<f64> = dout.iter().zip(weight).map(|(d, w)| d * w).collect();
    let mean_g = g.iter().sum::<f64>() / n;
    let mean_gx = g.iter().zip(&hat).map(|(g, h)| g * h).sum::<f64>() / n;
    let dx = g.iter().zip(&hat).map(|(g, h)| rstd * (g - mean_g - h * mean_gx)).collect();
    (dx, dout.iter().zip(&hat).map(|(d, h)| d * h).collect(), dout.to_vec())
}

/// One parameter's step of SGD: (θ, b) afterwards.
pub fn sgd(step: Sgd, p: f64, g: f64, b: f64) -> (f64, f64) {
    let b = step.momentum * b + g + step.weight_decay * p;
    (p - step.lr * b, b)
}

/// One parameter's step `t` of AdamW: (θ, m, v) afterwards, the textbook way.
pub fn adamw(step: AdamW, t: u64, p: f64, g: f64, m: f64, v: f64) -> (f64, f64, f64) {
    let m = step.beta1 * m + (1.0 - step.beta1) * g;
    let v = step.beta2 * v + (1.0 - step.beta2) * g * g;
    let m_hat = m / (1.0 - step.beta1.powf(t as f64));
    let v_hat = v / (1.0 - step.beta2.powf(t as f64));
    (p - step.lr * step.weight_decay * p - step.lr * m_hat / (v_hat.sqrt() + step.eps), m, v)
}

/// `acc += x`, in f64.
pub fn accumulate<E: Elem>(x: &[E], acc: &mut [f64]) {
    for (i, x) in x.iter().enumerate() {
        acc[i] += x.to_f64();
    }
}

/// max(x, 0); NaN stays, and −0.
pub fn relu<E: Elem>(x: E) -> E {
    if x < E::ZERO { E::ZERO } else { x }
}

/// `out[i] = table[tokens[i]]`.
pub fn gather<E: Elem>(table: Mat<'_, E>, tokens: &[u32], out: &mut MatMut<'_, E>) {
    for (i, t) in tokens.iter().enumerate() {
        for j in 0..table.cols() {
            out.set(i, j, table.at(*t as usize, j));
        }
    }
}

/// `dtable[tokens[i]] += dout[i]` in order of i, in E: the kernel's very additions.
pub fn scatter_add<E: Elem>(dout: Mat<'_, E>, tokens: &[u32], dtable: &mut MatMut<'_, E>) {
    for (i, t) in tokens.iter().enumerate() {
        for j in 0..dout.cols() {
            dtable.set(*t as usize, j, dtable.at(*t as usize, j) + dout.at(i, j));
        }
    }
}
