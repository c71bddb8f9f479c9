//! Attention of the first layer on the parents of the latent graph.

/// Attention on the parents, and whether the graph can be read off.
#[derive(Debug, Clone, PartialEq)]
pub struct ParentAttention {
    /// For each position i with a parent: i, p(i), the attention of the best head on p(i).
    pub rows: Vec<(usize, usize, f64)>,
    /// Mean over these rows.
    pub mean: f64,
    /// Minimum over these rows.
    pub min: f64,
    /// In every such row the parent has the (strictly) largest attention of some head.
    pub recovered: bool,
}

/// Softmax over j <= i of row `i` of a score matrix (row-major, `stride` entries per row).
pub fn causal_row(scores: &[f64], stride: usize, i: usize) -> Vec<f64> {
    let row = &scores[i * stride..i * stride + i + 1];
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = row.iter().map(|x| (x - max).exp()).collect();
    let z: f64 = e.iter().sum();
    e.into_iter().map(|e| e / z).collect()
}

/// Causal softmax of every row of a (t, t) score matrix; entries above the diagonal are NaN, since they do not exist.
pub fn causal_pattern(scores: &[f64], t: usize) -> Vec<f64> {
    let mut out = vec![f64::NAN; t * t];
    for i in 0..t {
        out[i * t..i * t + i + 1].copy_from_slice(&causal_row(scores, t, i));
    }
    out
}

/// The position-position block of one head of the first layer, (t, t), from its (s+t, s+t) matrix.
pub fn position_block(a: &[f64], s: usize, t: usize) -> Vec<f64> {
    let d = s + t;
    (0..t).flat_map(|i| a[(s + i) * d + s..(s + i) * d + d].iter().copied()).collect()
}

/// Attention that the heads of layer 1 put on `parents` by position alone: softmax over j <= i of the position block.
/// `heads` are score matrices (t, t); `parents[i]` is the parent of position i. `None` when no position has a parent.
pub fn parent_attention(heads: &[Vec<f64>], t: usize, parents: &[Option<usize>]) -> Option<ParentAttention> {
    let mut rows = Vec::new();
    let mut recovered = true;
    for (i, p) in parents.iter().enumerate().filter_map(|(i, p)| p.map(|p| (i, p))) {
        let (mut best, mut hit) = (0.0f64, false);
        for head in heads {
            let row = causal_row(head, t, i);
            best = best.max(row[p]);
            hit |= row.iter().enumerate().all(|(j, x)| j == p || *x < row[p]);
        }
        recovered &= hit;
        rows.push((i, p, best));
    }
    if rows.is_empty() {
        return None;
    }
    let mean = rows.iter().map(|r| r.2).sum::<f64>() / rows.len() as f64;
    let min = rows.iter().map(|r| r.2).fold(f64::INFINITY, f64::min);
    Some(ParentAttention { rows, mean, min, recovered })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_graph_is_found_and_a_tie_is_not() {
        let (s, t) = (2, 4);
        let parents = [None, Some(0), Some(0), Some(2)];
        let d = s + t;
        let mut a = vec![0.0; d * d];
        for (i, p) in parents.iter().enumerate() {
            if let Some(p) = p {
                a[(s + i) * d + s + p] = 3f64.ln();
            }
        }
        let block = position_block(&a, s, t);
        let got = parent_attention(std::slice::from_ref(&block), t, &parents).unwrap();
        // Row i has i + 1 keys, one of weight 3 and i of weight 1.
        let expected = [3.0 / 4.0, 3.0 / 5.0, 3.0 / 6.0];
        for (row, e) in got.rows.iter().zip(expected) {
            assert!((row.2 - e).abs() < 1e-15);
        }
        assert!(got.recovered && (got.min - 0.5).abs() < 1e-15);
        assert!((got.mean - expected.iter().sum::<f64>() / 3.0).abs() < 1e-15);
        let flat = parent_attention(&[vec![0.0; t * t]], t, &parents).unwrap();
        assert!(!flat.recovered, "a tie is no recovery");
        // The best head counts, row by row.
        let both = parent_attention(&[vec![0.0; t * t], block], t, &parents).unwrap();
        assert_eq!(both, got);
        assert!(parent_attention(&[], t, &[None, None]).is_none());
    }
}
