//! Recall of the model's memories, under the public code's names.

use crate::model::Layout;
use crate::num::{ln, log_sum_exp};
use serde::{Deserialize, Serialize};

/// Share of what a memory should recall that it does; -1 where the model has not the memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// W_K of layer 1: each position to the one before.
    pub wk0_acc: f64,
    /// The same over the first 64 positions.
    pub wk0_64_acc: f64,
    /// W_K of layer 2: a trigger to itself as layer 1 copies it; among the triggers if they are fixed.
    pub wk1_acc: f64,
    /// W_O of layer 2: each symbol to itself.
    pub wo1_acc: f64,
    /// Feed-forward of layer 2: mean KL of the bigrams from its prediction, over the symbols that are no fixed trigger.
    pub ff1_loss: f64,
}

impl Default for Recall {
    fn default() -> Self {
        Recall { wk0_acc: -1.0, wk0_64_acc: -1.0, wk1_acc: -1.0, wo1_acc: -1.0, ff1_loss: -1.0 }
    }
}

/// (m, k) times (n, k) transposed.
fn outer(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    a.chunks(k).flat_map(|x| b.chunks(k).map(move |y| dot(x, y))).collect()
}

fn argmax(row: &[f64]) -> usize {
    let better = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
    (1..row.len()).fold(0, better)
}

fn share(hits: impl Iterator<Item = bool>) -> f64 {
    let (hits, of) = hits.fold((0u32, 0u32), |(h, n), hit| (h + u32::from(hit), n + 1));
    if of == 0 { -1.0 } else { f64::from(hits) / f64::from(of) }
}

/// Of the memory model's parameters. `bigram` is π_b (N, N), `fixed` the triggers if they are fixed.
pub(super) fn of(layout: &Layout, params: &[f64], bigram: &[f64], fixed: Option<&[u32]>) -> Recall {
    let mut out = Recall::default();
    let block = |name: &str| layout.find(name).map(|b| &params[b.range()]);
    let weight = |name: &str| block(&format!("layers.{name}.weight"));
    let (Some(e), Some(embeddings)) = (block("tok_embeddings.weight"), layout.find("tok_embeddings.weight"))
    else {
        return out;
    };
    let (n, d) = (embeddings.shape()[0], embeddings.shape()[1]);
    let u = block("output.weight").unwrap_or(e);
    let prefix = |t: usize, scores: &[f64], len: usize| {
        // Of positions 1..t; keys are those that have a successor.
        share((1..t).map(|i| argmax(&scores[i * len..i * len + t - 1]) == i - 1))
    };
    if let (Some(pe), Some(wk)) = (block("pe"), weight("0.attention.wk")) {
        let t = pe.len() / d;
        let scores = outer(pe, &outer(pe, wk, d), d);
        (out.wk0_acc, out.wk0_64_acc) = (prefix(t, &scores, t), prefix(t.min(64), &scores, t));
    }
    if let (Some(wk), Some(wv), Some(wo)) =
        (weight("1.attention.wk"), weight("0.attention.wv"), weight("0.attention.wo"))
    {
        let copied = outer(&outer(e, wv, d), wo, d);
        let scores = outer(e, &outer(&copied, wk, d), d);
        let among: Vec<usize> = fixed.map_or((0..n).collect(), |f| f.iter().map(|k| *k as usize).collect());
        let right = |k: &usize| {
            let row: Vec<f64> = among.iter().map(|j| scores[k * n + j]).collect();
            among[argmax(&row)] == *k
        };
        out.wk1_acc = share(among.iter().map(right));
    }
    if let (Some(wv), Some(wo)) = (weight("1.attention.wv"), weight("1.attention.wo")) {
        let logits = outer(&outer(&outer(e, wv, d), wo, d), u, d);
        out.wo1_acc = share((0..n).map(|v| argmax(&logits[v * n..(v + 1) * n]) == v));
    }
    let ahead = match (weight("1.ff"), weight("1.ff.w1"), weight("1.ff.w2")) {
        (Some(w), ..) => Some(outer(e, w, d)),
        (None, Some(w1), Some(w2)) => {
            let hidden: Vec<f64> = outer(e, w1, d).into_iter().map(|x| x.max(0.0)).collect();
            Some(outer(&hidden, w2, 4 * d))
        }
        _ => None,
    };
    if let Some(ahead) = ahead {
        let logits = outer(&ahead, u, d);
        let counted = |v: &usize| fixed.is_none_or(|f| !f.contains(&(*v as u32)));
        let kl = |v: usize| {
            let (row, law) = (&logits[v * n..(v + 1) * n], &bigram[v * n..(v + 1) * n]);
            let norm = log_sum_exp(row);
            law.iter()
                .zip(row)
                .filter(|(p, _)| **p > 0.0)
                .map(|(p, x)| p * (ln(*p) - (x - norm)))
                .sum::<f64>()
        };
        let kls: Vec<f64> = (0..n).filter(counted).map(kl).collect();
        out.ff1_loss = kls.iter().sum::<f64>() / kls.len().max(1) as f64;
    }
    out
}
