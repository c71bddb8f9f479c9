//! Recall of the associative memories of Bietti et al. 2023 (arXiv 2306.00802, section 4). Metric
//! keys of the public code: `wk0_acc`, `wk0_64_acc`, `wk1_acc`, `wo1_acc`, `ff1_loss`.

use crate::model::Layout;
use crate::{Error, Result};

/// Recall of each associative memory, in \[0, 1\], and a loss in nats. −1 if the model lacks the
/// memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recall {
    /// Share of positions t >= 2 of 1..T whose strongest score p_tᵀ W_Q¹ᵀ W_K¹ p_s over s < T,
    /// later ones included, is that of t − 1.
    pub wk0: f64,
    /// The same among the first 64 positions.
    pub wk0_64: f64,
    /// Share of k with argmax_j w_E(k)ᵀ W_Q²ᵀ W_K² W_O¹ W_V¹ w_E(j) = k; both run over the fixed
    /// triggers, or all symbols.
    pub wk1: f64,
    /// Share of v with argmax_u w_U(u)ᵀ W_O² W_V² w_E(v) = v.
    pub wo1: f64,
    /// Mean of KL(π_b(·|v) ‖ softmax(W_U F w_E(v))) over v that are no fixed trigger, F the
    /// feed-forward of layer 2.
    pub ff1: f64,
}

/// What recall is measured against.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The fixed triggers; `None` if triggers are random.
    pub triggers: Option<&'a [u32]>,
    /// π_b (N, N).
    pub bigram: &'a [f64],
    /// Factor of the logits: 1 unless the output is tied.
    pub readout: f64,
}

/// Named arrays of a model.
struct Blocks<'a> {
    layout: &'a Layout,
    params: &'a [f64],
}

impl<'a> Blocks<'a> {
    fn get(&self, name: &str) -> Option<&'a [f64]> {
        self.layout.find(name).map(|b| &self.params[b.range()])
    }
    fn part(&self, l: usize, name: &str) -> Option<&'a [f64]> {
        self.get(&format!("layers.{l}.{name}.weight"))
    }
}

/// Rows of `x` (d) through y = W x, W (m, d): rows of m.
fn through(x: &[f64], d: usize, w: &[f64]) -> Vec<f64> {
    x.chunks_exact(d).flat_map(|x| w.chunks_exact(d).map(move |w| dot(w, x))).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Eight sums, so that the loop is a vector loop.
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Share of rows i of `q` whose product with the rows of `k` is largest, first among equals, at row
/// i.
fn recall(q: &[f64], k: &[f64], d: usize) -> f64 {
    let rows = q.len() / d;
    let hits = q.chunks_exact(d).enumerate().filter(|(i, q)| {
        let (mut best, mut at) = (f64::NEG_INFINITY, usize::MAX);
        for (j, k) in k.chunks_exact(d).enumerate() {
            let score = dot(q, k);
            if score > best {
                (best, at) = (score, j);
            }
        }
        at == *i
    });
    hits.count() as f64 / rows as f64
}

/// KL(p ‖ softmax(z)).
fn divergence(p: &[f64], z: &[f64]) -> f64 {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lse = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
    p.iter().zip(z).filter(|(p, _)| **p > 0.0).map(|(p, z)| p * (p.ln() - z + lse)).sum()
}

/// The scores that recall of a memory is measured on: the row's answer is its largest entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// The memory, as its metric: `wk0`, `wk1`, `wo1`.
    pub name: &'static str,
    /// True if rows and columns are positions; else they are symbols.
    pub of_positions: bool,
    /// Rows and columns.
    pub size: usize,
    /// (size, size).
    pub values: Vec<f64>,
}

/// The scores of the memories that a model with `layout` has at `params`, see [`Recall`]: of `wk0`
/// p_tᵀ W_Qᵀ W_K p_s over the first `most` positions, of `wk1` and `wo1` over all symbols. None
/// for a model without them.
pub fn scores(layout: &Layout, params: &[f64], most: usize) -> Vec<Scores> {
    let b = Blocks { layout, params };
    let Some((e, d)) = b.get("tok_embeddings.weight").zip(layout.find("tok_embeddings.weight")) else {
        return Vec::new();
    };
    let d = d.shape()[1];
    let output = b.get("output.weight").unwrap_or(e);
    let query = |l: usize, x: &[f64]| match b.part(l, "attention.wq") {
        Some(wq) => through(x, d, wq),
        None => x.to_vec(),
    };
    // Row i, column j: q_i · k_j.
    let table = |name, of_positions, q: &[f64], k: &[f64]| {
        let values: Vec<f64> =
            q.chunks_exact(d).flat_map(|q| k.chunks_exact(d).map(move |k| dot(q, k))).collect();
        Scores { name, of_positions, size: q.len() / d, values }
    };
    let previous = || {
        let p = b.get("pe").or_else(|| b.get("pos_embeddings.weight"))?;
        let p = &p[..p.len().min(most * d)];
        Some(table("wk0", true, &query(0, p), &through(p, d, b.part(0, "attention.wk")?)))
    };
    let same = || {
        let first = through(&through(e, d, b.part(0, "attention.wv")?), d, b.part(0, "attention.wo")?);
        Some(table("wk1", false, &query(1, e), &through(&first, d, b.part(1, "attention.wk")?)))
    };
    let copy = || {
        let values = through(&through(e, d, b.part(1, "attention.wv")?), d, b.part(1, "attention.wo")?);
        Some(table("wo1", false, &values, output))
    };
    [previous(), same(), copy()].into_iter().flatten().collect()
}

/// Measures recall at parameters `params` of a `memory` or `transformer` model with `layout`. Layer
/// norms of the transformer are left out, and its heads are taken together.
///
/// # Errors
/// A layout without `tok_embeddings.weight`; parameters, triggers or a table that do not fit it.
pub fn memories(layout: &Layout, params: &[f64], asked: &Asked<'_>) -> Result<Recall> {
    let Some(block) = layout.find("tok_embeddings.weight") else {
        return Err(Error::invalid("model", "no tok_embeddings.weight", "memory or transformer"));
    };
    let [n, d] = *block.shape() else { unreachable!("a matrix") };
    if params.len() != layout.len() {
        let allowed = format!("{} for this model", layout.len());
        return Err(Error::invalid("params length", params.len().to_string(), allowed));
    }
    if asked.bigram.len() != n * n {
        let found = format!("{} entries", asked.bigram.len());
        return Err(Error::invalid("bigram", found, format!("{n} x {n}")));
    }
    let triggers = asked.triggers.unwrap_or_default();
    if let Some(k) = triggers.iter().find(|k| **k as usize >= n) {
        return Err(Error::invalid("triggers", k.to_string(), format!("0 <= symbol < {n}")));
    }
    let b = Blocks { layout, params };
    let e = &params[block.range()];
    let output = b.get("output.weight").unwrap_or(e);
    let query = |l: usize, x: &[f64]| match b.part(l, "attention.wq") {
        Some(wq) => through(x, d, wq),
        None => x.to_vec(),
    };
    let previous = |most: usize| -> f64 {
        let positions = b.get("pe").or_else(|| b.get("pos_embeddings.weight"));
        let (Some(p), Some(wk)) = (positions, b.part(0, "attention.wk")) else { return -1.0 };
        let p = &p[..p.len().min(most * d)];
        if p.len() < 2 * d {
            return -1.0;
        }
        recall(&query(0, &p[d..]), &through(&p[..p.len() - d], d, wk), d)
    };
    let same = || -> Option<f64> {
        let e: Vec<f64> = match asked.triggers {
            Some(list) => list.iter().flat_map(|k| &e[*k as usize * d..][..d]).copied().collect(),
            None => e.to_vec(),
        };
        let first = through(&through(&e, d, b.part(0, "attention.wv")?), d, b.part(0, "attention.wo")?);
        let keys = through(&first, d, b.part(1, "attention.wk")?);
        (!e.is_empty()).then(|| recall(&query(1, &e), &keys, d))
    };
    let copy = || -> Option<f64> {
        let values = through(&through(e, d, b.part(1, "attention.wv")?), d, b.part(1, "attention.wo")?);
        Some(recall(&values, output, d))
    };
    let global = || -> Option<f64> {
        let f = match (b.part(1, "ff"), b.part(1, "ff.w1"), b.part(1, "ff.w2")) {
            (Some(w), _, _) => through(e, d, w),
            (None, Some(w1), Some(w2)) => {
                let mut hidden = through(e, d, w1);
                hidden.iter_mut().for_each(|h| *h = h.max(0.0));
                through(&hidden, w1.len() / d, w2)
            }
            _ => return None,
        };
        let (mut sum, mut count) = (0.0, 0);
        for v in (0..n).filter(|v| !triggers.contains(&(*v as u32))) {
            let mut z = through(&f[v * d..][..d], d, output);
            z.iter_mut().for_each(|z| *z *= asked.readout);
            sum += divergence(&asked.bigram[v * n..][..n], &z);
            count += 1;
        }
        (count > 0).then(|| sum / f64::from(count))
    };
    Ok(Recall {
        wk0: previous(usize::MAX / d.max(1)),
        wk0_64: previous(64),
        wk1: same().unwrap_or(-1.0),
        wo1: copy().unwrap_or(-1.0),
        ff1: global().unwrap_or(-1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MemorySpec, Spec};

    #[test]
    fn the_largest_scores_are_what_recall_counts() {
        let spec = Spec::Memory(MemorySpec { dim: 6, ..MemorySpec::default() });
        let (n, t) = (5, 7);
        let model = spec.build::<f64>(n, t).unwrap();
        let params: Vec<f64> = (0..model.layout().len()).map(|i| (i as f64 * 1.7).sin()).collect();
        let bigram = vec![1.0 / n as f64; n * n];
        let asked = Asked { triggers: None, bigram: &bigram, readout: 1.0 };
        let recall = memories(model.layout(), &params, &asked).unwrap();
        let all = scores(model.layout(), &params, 64);
        assert_eq!(
            all.iter().map(|s| (s.name, s.size)).collect::<Vec<_>>(),
            [("wk0", t), ("wk1", n), ("wo1", n)]
        );
        let first_largest = |row: &[f64]| (0..row.len()).fold(0, |b, j| if row[j] > row[b] { j } else { b });
        let share = |s: &Scores, from: usize, keys: usize| {
            let rows = s.values.chunks(s.size).enumerate().skip(from);
            let hits = rows.filter(|(i, row)| first_largest(&row[..keys]) == i - from).count();
            hits as f64 / (s.size - from) as f64
        };
        // Position t finds t - 1 among those before the last.
        assert_eq!(share(&all[0], 1, t - 1), recall.wk0);
        assert_eq!((share(&all[1], 0, n), share(&all[2], 0, n)), (recall.wk1, recall.wo1));
        assert_eq!(scores(model.layout(), &params, 3)[0].size, 3);
    }
}
