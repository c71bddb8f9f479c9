//! The naive twin of every kernel: textbook loops, sums in f64 in index order, no blocking. Slow,
//! and the oracle of every test. Shapes are asserted, not reported.

mod one_hot;
pub mod sampling;
mod vecmath;

pub use one_hot::*;
pub use vecmath::*;

use crate::attention::problem::{Attention, AttentionGrad, KvGrad, Saved};
use crate::elem::Elem;
use crate::view::{Mat, MatMut, Write};

fn put<E: Elem>(write: Write, c: &mut MatMut<'_, E>, i: usize, j: usize, x: f64) {
    let old = match write {
        Write::Set => 0.0,
        Write::Add => c.at(i, j).to_f64(),
    };
    c.set(i, j, E::from_f64(old + x));
}

/// `C = alpha A B` or `C += alpha A B`; A (m, k), B (k, n), C (m, n).
pub fn gemm<E: Elem>(write: Write, alpha: E, a: Mat<'_, E>, b: Mat<'_, E>, c: &mut MatMut<'_, E>) {
    assert_eq!((a.rows(), a.cols(), b.cols()), (c.rows(), b.rows(), c.cols()));
    for i in 0..a.rows() {
        for j in 0..b.cols() {
            let dot: f64 = (0..a.cols()).map(|k| a.at(i, k).to_f64() * b.at(k, j).to_f64()).sum();
            put(write, c, i, j, alpha.to_f64() * dot);
        }
    }
}

/// exp of each element.
pub fn exp<E: Elem>(x: &[E], out: &mut [E]) {
    assert_eq!(x.len(), out.len());
    for (o, x) in out.iter_mut().zip(x) {
        *o = E::from_f64(x.to_f64().exp());
    }
}

/// Natural logarithm of each element.
pub fn ln<E: Elem>(x: &[E], out: &mut [E]) {
    assert_eq!(x.len(), out.len());
    for (o, x) in out.iter_mut().zip(x) {
        *o = E::from_f64(x.to_f64().ln());
    }
}

/// Sum of the elements.
pub fn sum<E: Elem>(x: &[E]) -> f64 {
    x.iter().map(|x| x.to_f64()).sum()
}

/// `x <- scale x + step`, `iterations` times.
pub fn fma_chain<E: Elem>(start: E, iterations: u32, scale: E, step: E) -> E {
    (0..iterations).fold(start, |x, _| scale * x + step)
}

/// Softmax of a row, and its log-sum-exp. An entry of +∞, or NaN, gives NaN; all −∞ gives NaN; an
/// empty row gives −∞.
pub fn softmax(row: &[f64]) -> (Vec<f64>, f64) {
    let max = row.iter().fold(f64::NEG_INFINITY, |m, x| if x.is_nan() { *x } else { m.max(*x) });
    let e: Vec<f64> = row.iter().map(|x| (x - max).exp()).collect();
    let z: f64 = e.iter().sum();
    (e.iter().map(|e| e / z).collect(), max + z.ln())
}

/// Softmax of every row of X, in place.
pub fn softmax_rows<E: Elem>(x: &mut MatMut<'_, E>) {
    for i in 0..x.rows() {
        let row: Vec<f64> = (0..x.cols()).map(|j| x.at(i, j).to_f64()).collect();
        for (j, p) in softmax(&row).0.into_iter().enumerate() {
            x.set(i, j, E::from_f64(p));
        }
    }
}

/// `losses[i] = Σ_s y_is (lse_i − z_is)` over s with y_is ≠ 0; `probs` = softmax of each row of
/// logits.
pub fn cross_entropy<E: Elem>(
    logits: Mat<'_, E>,
    targets: Mat<'_, f64>,
    losses: &mut [f64],
    probs: &mut MatMut<'_, E>,
) {
    for i in 0..logits.rows() {
        let row: Vec<f64> = (0..logits.cols()).map(|j| logits.at(i, j).to_f64()).collect();
        let (p, lse) = softmax(&row);
        losses[i] = 0.0;
        for j in 0..row.len() {
            if targets.at(i, j) != 0.0 {
                losses[i] += targets.at(i, j) * (lse - row[j]);
            }
            probs.set(i, j, E::from_f64(p[j]));
        }
    }
}

/// `dlogits[i][s] = w_i (p_is Σ_s' y_is' − y_is)`: the gradient of Σ w_i `losses[i]`.
pub fn cross_entropy_backward<E: Elem>(
    probs: Mat<'_, E>,
    targets: Mat<'_, f64>,
    weights: &[f64],
    dlogits: &mut MatMut<'_, E>,
) {
    for i in 0..probs.rows() {
        let mass: f64 = (0..probs.cols()).map(|j| targets.at(i, j)).sum();
        for j in 0..probs.cols() {
            let d = weights[i] * (probs.at(i, j).to_f64() * mass - targets.at(i, j));
            let d = if weights[i] == 0.0 { 0.0 } else { d };
            dlogits.set(i, j, E::from_f64(d));
        }
    }
}

/// Keys that query `i` of `tq` sees among `tk`: all up to its own position, the queries being the
/// last `tq` positions.
pub fn visible(i: usize, tq: usize, tk: usize) -> usize {
    i + 1 + (tk - tq)
}

/// Causal softmax attention, one problem. Q (tq, d), K (tk, d), V (tk, dv), tq <= tk; query i
/// stands at position i + tk − tq. `probs[i][j]` = softmax over j <= position of `scale q_i·k_j`, 0
/// beyond; `out = probs V`.
pub fn attention<E: Elem>(
    q: Mat<'_, E>,
    k: Mat<'_, E>,
    v: Mat<'_, E>,
    scale: E,
    out: &mut MatMut<'_, E>,
    probs: &mut MatMut<'_, E>,
) {
    let (tq, tk) = (q.rows(), k.rows());
    for i in 0..tq {
        let n = visible(i, tq, tk);
        let s: Vec<f64> = (0..n)
            .map(|j| {
                let dot: f64 = (0..q.cols()).map(|c| q.at(i, c).to_f64() * k.at(j, c).to_f64()).sum();
                scale.to_f64() * dot
            })
            .collect();
        let p = softmax(&s).0;
        for j in 0..tk {
            probs.set(i, j, if j < n { E::from_f64(p[j]) } else { E::ZERO });
        }
        for c in 0..v.cols() {
            out.set(i, c, E::from_f64((0..n).map(|j| p[j] * v.at(j, c).to_f64()).sum()));
        }
    }
}

/// Gradient of a scalar through [`attention`] of problem `b`, the last queries, given its gradient
/// `dout` with respect to `out`: dP = dO Vᵀ, dS = P ∘ (dP − rowsum(dO ∘ O)), dQ = scale dS K, dK =
/// scale dSᵀ Q, dV = Pᵀ dO. `dq` is set, `dkv` is added to.
///
/// # Panics
/// When something else than the probabilities was saved.
pub fn attention_backward<E: Elem>(x: &Attention<'_, E>, grad: &mut AttentionGrad<'_, E>, b: usize) {
    let (q, k, v, scale) = (x.q.mat(b), x.k.mat(b), x.v.mat(b), x.scale);
    let Saved::Probs(probs) = grad.saved else { panic!("the textbook keeps the probabilities") };
    let (probs, out, dout) = (probs.mat(b), grad.out.mat(b), grad.dout.mat(b));
    let (mut dq, dkv) = (grad.dq.mat(b), &mut grad.dkv);
    let (tq, tk) = (q.rows(), k.rows());
    let mut ds = vec![0.0; tq * tk];
    for i in 0..tq {
        let n = visible(i, tq, tk);
        let dp: Vec<f64> = (0..n)
            .map(|j| (0..v.cols()).map(|c| dout.at(i, c).to_f64() * v.at(j, c).to_f64()).sum())
            .collect();
        let mean: f64 = (0..v.cols()).map(|c| dout.at(i, c).to_f64() * out.at(i, c).to_f64()).sum();
        for j in 0..n {
            ds[i * tk + j] = scale.to_f64() * probs.at(i, j).to_f64() * (dp[j] - mean);
        }
        for c in 0..q.cols() {
            dq.set(i, c, E::from_f64((0..n).map(|j| ds[i * tk + j] * k.at(j, c).to_f64()).sum()));
        }
    }
    for j in 0..tk {
        let sees = (0..tq).filter(|i| j < visible(*i, tq, tk));
        let dk_at = |c: usize| sees.clone().map(|i| ds[i * tk + j] * q.at(i, c).to_f64()).sum::<f64>();
        let dv_at =
            |c: usize| sees.clone().map(|i| probs.at(i, j).to_f64() * dout.at(i, c).to_f64()).sum::<f64>();
        match dkv {
            KvGrad::Separate { dk, dv } => {
                if let Some(dk) = dk {
                    (0..q.cols()).for_each(|c| put(Write::Add, &mut dk.mat(b), j, c, dk_at(c)));
                }
                if let Some(dv) = dv {
                    (0..v.cols()).for_each(|c| put(Write::Add, &mut dv.mat(b), j, c, dv_at(c)));
                }
            }
            KvGrad::Shared(x) => {
                (0..q.cols()).for_each(|c| put(Write::Add, &mut x.mat(b), j, c, dk_at(c) + dv_at(c)));
            }
        }
    }
}

/// What [`Kernels::prefix_tree`](crate::Kernels::prefix_tree) sums up, word by word: L, Σ W,
/// `C[j][c][i]` row-major (T, S, T), and the same sums with nothing cancelling, v_i (W/(f + ε) + Σ
/// f W/(f + ε)), which errors are relative to.
///
/// Softmax with the largest z subtracted, weights as products over the word: nothing of the tree.
/// Looked-up weights alone use the plan's classes.
///
/// # Panics
/// When the plan is of canonical words.
pub fn prefix_tree(w: &crate::prefix_tree::Walk<'_, f64>) -> (f64, f64, Vec<f64>, Vec<f64>) {
    use crate::prefix_tree::{Compensated, Weights};
    assert!(w.plan.canonical().is_none());
    let (s, n, parents) = (w.plan.symbols(), w.plan.parents().len(), w.plan.parents());
    let t = n + 1;
    // Thousands of words: compensated, so that the twin does not err more than the tree.
    let (mut loss, mut total) = (Compensated::default(), Compensated::default());
    let (mut sums, mut sizes) = (vec![Compensated::default(); t * s * t], vec![0.0; t * s * t]);
    let mut word = vec![0; t];
    word[n] = w.query;
    for mut number in 0..(s as u64).pow(n as u32) {
        for c in word[..n].iter_mut().rev() {
            *c = (number % s as u64) as usize;
            number /= s as u64;
        }
        let z: Vec<f64> = (0..t).map(|i| (0..=i).map(|j| w.mix.at(i, j) * w.table[word[j]]).sum()).collect();
        let v = softmax(&z).0;
        let mut f = vec![0.0; s];
        for (v, c) in v.iter().zip(&word) {
            f[*c] += v;
        }
        let (mut counts, mut root_counts) = (vec![0.0; s * s], vec![0.0; s]);
        for j in 0..n {
            match parents[j] {
                Some(q) => counts[word[q] * s + word[j]] += 1.0,
                None => root_counts[word[j]] += 1.0,
            }
        }
        // Γ(x + n) / Γ(x).
        let rising = |x: f64, n: f64| (0..n as u32).map(|i| x + f64::from(i)).product::<f64>();
        let weight = |b: usize| -> f64 {
            match w.weights {
                Weights::Dirichlet { alpha, shared_roots } => {
                    let row = |c: &[f64]| {
                        c.iter().map(|c| rising(alpha, *c)).product::<f64>()
                            / rising(alpha * s as f64, c.iter().sum())
                    };
                    let roots = if shared_roots {
                        row(&root_counts)
                    } else {
                        (s as f64).powf(-root_counts.iter().sum::<f64>())
                    };
                    let mut counts = counts.clone();
                    counts[w.query * s + b] += 1.0;
                    roots * counts.chunks(s).map(row).product::<f64>() / s as f64
                }
                Weights::Atoms { weight, pi, roots } => (0..weight.len())
                    .map(|q| {
                        let step = |a: usize, b: usize| pi[(q * s + a) * s + b];
                        let word: f64 = (0..n)
                            .map(|j| parents[j].map_or(roots[q * s + word[j]], |a| step(word[a], word[j])))
                            .product();
                        weight[q] * word * step(w.query, b) / s as f64
                    })
                    .sum(),
                Weights::Table { values } => {
                    let (head, tail) = word[..n].split_at(w.plan.prefix_len());
                    let head = head.iter().fold(0, |at, c| at * s + w.symbol(*c));
                    let row = w.plan.prefix_class(head) * w.plan.suffix_classes()
                        + w.plan.suffix_class(tail.iter().map(|c| w.symbol(*c)));
                    values[row * s + w.symbol(b)]
                }
            }
        };
        let weights: Vec<f64> = (0..s).map(weight).collect();
        let mut mean = 0.0;
        for b in 0..s {
            total.add(weights[b]);
            if weights[b] > 0.0 {
                loss.add(-weights[b] * (f[b] + w.eps).ln());
            }
            if f[b] > 0.0 {
                mean += f[b] * weights[b] / (f[b] + w.eps);
            }
        }
        for i in 0..t {
            let pull = weights[word[i]] / (f[word[i]] + w.eps);
            for j in 0..=i {
                let at = (j * s + word[j]) * t + i;
                sums[at].add(v[i] * (pull - mean));
                sizes[at] += v[i] * (pull + mean);
            }
        }
    }
    (loss.value(), total.value(), sums.into_iter().map(Compensated::value).collect(), sizes)
}
