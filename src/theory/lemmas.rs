//! Claim 9, lemmas: three gradients in closed form.

use super::dual::{Dual, softmax};
use super::memory_formulas::Labelled;
use super::support::{apart, key, largest, normals};
use super::{Check, Claim, Settings};
use crate::Result;
use crate::num::Sum;
use crate::rng::Key;

pub(super) const CLAIM: Claim = Claim {
    id: "lemmas",
    title: "Gradients of memories and of attention",
    statement: "−∇L of logits W_U W w_E(z) is Σ p(z)(p(k|z) − p̂(k|z)) w_U(k) w_E(z)ᵀ; of logits W_U W x it is \
                Σ p(k) w_U(k)(μ_k − μ̂_k)ᵀ; of attention σ = softmax(x_qᵀW_K x_t) it is \
                E Σ_k (1[y = k] − p̂_k) Σ_t σ_t (u_k(t) − u_k) x_q x_tᵀ. One step from W = 0 recalls argmax_k p(k|z).",
    source: "Bietti et al. 2023, Lemmas 1 to 3",
    run,
};

/// A loss as a program on dual numbers, of a matrix W.
type Program<'a> = &'a dyn Fn(&[Dual]) -> Dual;

fn dot(a: &[Dual], b: &[f64]) -> Dual {
    a.iter().zip(b).fold(Dual::ZERO, |z, (a, b)| z.plus(a.times(constant(*b))))
}

fn constant(x: f64) -> Dual {
    Dual { x, d: 0.0 }
}

/// −∇ by forward differentiation.
fn automatic(loss: Program<'_>, w: &[f64]) -> Vec<f64> {
    let seeded = |seed: usize| -> Vec<Dual> {
        w.iter().enumerate().map(|(i, x)| Dual { x: *x, d: f64::from(u8::from(i == seed)) }).collect()
    };
    (0..w.len()).map(|i| -loss(&seeded(i)).d).collect()
}

/// −∇ by five-point differences.
fn differences(loss: Program<'_>, w: &[f64]) -> Vec<f64> {
    let h = 1e-3;
    let at = |i: usize, step: f64| {
        let moved = |(j, x): (usize, &f64)| constant(if i == j { x + step } else { *x });
        loss(&w.iter().enumerate().map(moved).collect::<Vec<_>>()).x
    };
    (0..w.len())
        .map(|i| (at(i, 2.0 * h) - at(i, -2.0 * h) - 8.0 * (at(i, h) - at(i, -h))) / (12.0 * h))
        .collect()
}

/// Σ −P(m, k) ln p̂(k|x_m).
fn memory_loss(of: &Labelled<'_>, w: &[Dual]) -> Dual {
    let d = of.d;
    let mut total = Dual::ZERO;
    for (x, joint) in of.inputs.chunks_exact(d).zip(of.joint.chunks_exact(of.classes())) {
        let image: Vec<Dual> = w.chunks_exact(d).map(|row| dot(row, x)).collect();
        let logits: Vec<Dual> = of.outputs.chunks_exact(d).map(|u| dot(&image, u)).collect();
        for (p, q) in joint.iter().zip(softmax(&logits)) {
            total = total.plus(q.ln().times(constant(-p)));
        }
    }
    total
}

/// A joint law (M, K) with every entry positive.
fn law(key: &Key, from: u64, entries: usize) -> Vec<f64> {
    let raw: Vec<f64> = normals(key, from, entries, 1.0).iter().map(|x| x.exp()).collect();
    let total: f64 = raw.iter().sum();
    raw.iter().map(|x| x / total).collect()
}

fn compare(name: &str, formula: &[f64], loss: Program<'_>, w: &[f64], checks: &mut Vec<Check>) {
    let scale = largest(formula);
    let label = |c: Check| c.with("largest entry", format!("{scale:.2}"));
    let by = automatic(loss, w);
    checks.push(label(Check::at_most(format!("{name}: formula − dual numbers"), 1e-14, apart(formula, &by))));
    let by = differences(loss, w);
    checks.push(label(Check::at_most(format!("{name}: formula − differences"), 1e-10, apart(formula, &by))));
}

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let (key, formulas) = (key(9), &settings.formulas.memory);
    let mut checks = Vec::new();
    for case in 0..if settings.thorough { 20 } else { 4 } {
        let at = |n: u64| 100 * case + n;
        let (d, m, k) = (4 + case as usize % 3, 7, 5);
        let (inputs, outputs) = (normals(&key, at(0), m * d, 1.0), normals(&key, at(1), k * d, 1.0));
        let joint = law(&key, at(2), m * k);
        let of = Labelled { d, inputs: &inputs, joint: &joint, outputs: &outputs };
        let w = normals(&key, at(3), d * d, 0.5);
        compare("lemma 1", &formulas.lemma1(&of, &w), &|w| memory_loss(&of, w), &w, &mut checks);
        compare("lemma 2", &formulas.lemma2(&of, &w), &|w| memory_loss(&of, w), &w, &mut checks);
        attention(settings, &key, at(10), d, &mut checks);
    }
    from_zero(settings, &key, &mut checks);
    Ok(checks)
}

/// Lemma 3 on a few weighted sequences, K = 3.
fn attention(settings: &Settings, key: &Key, from: u64, d: usize, checks: &mut Vec<Check>) {
    let (t, k) = (5, 3);
    let values = normals(key, from, k * d, 1.0);
    let w = normals(key, from + 1, d * d, 0.3);
    let weights = law(key, from + 2, 4);
    let sequences: Vec<Vec<f64>> = (0..4).map(|n| normals(key, from + 3 + n, t * d, 1.0)).collect();
    let mut sums = vec![Sum::new(); d * d];
    for (n, x) in sequences.iter().enumerate() {
        settings.formulas.memory.lemma3(x, &values, n % k, &w, weights[n], &mut sums);
    }
    let formula: Vec<f64> = sums.iter().map(Sum::value).collect();
    let loss = |w: &[Dual]| {
        let mut total = Dual::ZERO;
        for (n, x) in sequences.iter().enumerate() {
            let query = &x[(t - 1) * d..];
            // x_qᵀ W.
            let mut left = vec![Dual::ZERO; d];
            for (i, w) in w.iter().enumerate() {
                left[i % d] = left[i % d].plus(w.times(constant(query[i / d])));
            }
            let sigma = softmax(&x.chunks_exact(d).map(|x| dot(&left, x)).collect::<Vec<_>>());
            let logit = |v: &[f64]| {
                let each: Vec<f64> =
                    x.chunks_exact(d).map(|x| v.iter().zip(x).map(|(v, x)| v * x).sum()).collect();
                dot(&sigma, &each)
            };
            let p = softmax(&values.chunks_exact(d).map(logit).collect::<Vec<_>>());
            total = total.plus(p[n % k].ln().times(constant(-weights[n])));
        }
        total
    };
    compare("lemma 3", &formula, &loss, &w, checks);
}

/// At W = 0: uniform labels in lemma 2, and what one step recalls when the embeddings are
/// orthonormal.
fn from_zero(settings: &Settings, key: &Key, checks: &mut Vec<Check>) {
    let formulas = &settings.formulas.memory;
    let (m, k) = (24, 6);
    let d = m + k;
    let outputs = normals(key, 5000, k * d, 1.0);
    let inputs = normals(key, 5001, m * d, 1.0);
    // Column k of P(m, k) sums to 1/K.
    let mut joint = law(key, 5002, m * k);
    for c in 0..k {
        let p: f64 = joint.iter().skip(c).step_by(k).sum();
        joint.iter_mut().skip(c).step_by(k).for_each(|x| *x /= p * k as f64);
    }
    let of = Labelled { d, inputs: &inputs, joint: &joint, outputs: &outputs };
    let zero = vec![0.0; d * d];
    let rows: Vec<f64> = joint.chunks_exact(k).map(|r| r.iter().sum()).collect();
    let direct: Vec<f64> = (0..d * d)
        .map(|n| {
            let term = |i: usize| {
                let (c, m) = (i % k, i / k);
                outputs[c * d + n / d] * (k as f64 * joint[i] - rows[m]) * inputs[m * d + n % d]
            };
            (0..m * k).map(term).collect::<Sum>().value() / k as f64
        })
        .collect();
    let off = apart(&direct, &formulas.lemma2(&of, &zero));
    checks.push(Check::at_most("lemma 2 at W = 0: Σ w_U(k)(E[x|k] − E x)ᵀ/N", 1e-14, off));

    let unit = |n: usize, from: usize| -> Vec<f64> {
        (0..n * d).map(|i| f64::from(u8::from(i % d == from + i / d))).collect()
    };
    let (inputs, outputs, joint) = (unit(m, 0), unit(k, m), law(key, 5003, m * k));
    let of = Labelled { d, inputs: &inputs, joint: &joint, outputs: &outputs };
    let step = formulas.lemma1(&of, &zero);
    let best = |x: &dyn Fn(usize) -> f64| (0..k).fold(0, |b, c| if x(c) > x(b) { c } else { b });
    let missed = (0..m).filter(|z| best(&|c| step[(m + c) * d + z]) != best(&|c| joint[z * k + c])).count();
    checks.push(Check::at_most("tokens whose most likely successor one step misses", 0.0, missed as f64));
}
