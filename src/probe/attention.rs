//! Attention patterns of a model's layers, and the attention on the parents of the latent
//! graph.

use crate::batch::Batch;
use crate::model::Model;
use crate::{Error, Result};
use popgrad_kernels::Elem;

/// Attention on the parents, and whether it recovers the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct ParentAttention {
    /// For each position i with a parent: i, p(i), the attention of the best head on p(i).
    pub rows: Vec<(usize, usize, f64)>,
    /// Mean over these rows.
    pub mean: f64,
    /// Minimum over these rows.
    pub min: f64,
    /// True if in every such row the parent has strictly the largest attention of some head,
    /// however little that is.
    pub argmax: bool,
    /// True if in every such row the parent stands out in some head: it gets at least
    /// [`OVER_MEAN`] times what the other positions get on average and [`OVER_NEXT`] times what any
    /// of them gets.
    pub recovered: bool,
}

/// See [`ParentAttention::recovered`]. Uniform attention gives 1.
pub const OVER_MEAN: f64 = 3.0;
/// See [`ParentAttention::recovered`].
pub const OVER_NEXT: f64 = 2.0;

/// Softmax over j <= i of row `i` of a score matrix (row-major, `stride` entries per row).
pub fn causal_row(scores: &[f64], stride: usize, i: usize) -> Vec<f64> {
    softmax(&scores[i * stride..i * stride + i + 1])
}

fn softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = row.iter().map(|x| (x - max).exp()).collect();
    let z: f64 = e.iter().sum();
    e.into_iter().map(|e| e / z).collect()
}

/// Causal softmax of every row of a (t, t) score matrix. Masked entries, above the diagonal, are
/// NaN.
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

/// The attention pattern (T, T) averaged over `sequences`, each weighted by the sum of its weights;
/// NaN above the diagonal. `scores` (d, d), d = S + T, has rows for the query's token and position
/// and columns for the key's. score_ij is the sum of the entries of (s_i, position i) against (s_j,
/// position j).
pub fn average_pattern(scores: &[f64], sequences: &Batch) -> Vec<f64> {
    let (s, t) = (sequences.vocab(), sequences.len_tokens());
    let d = s + t;
    let total: f64 = sequences.weights().iter().sum();
    let mut out = vec![f64::NAN; t * t];
    (0..t).for_each(|i| out[i * t..i * t + i + 1].fill(0.0));
    let mut row = vec![0.0; t];
    let weights = sequences.weights().chunks_exact(sequences.outputs());
    for (tokens, weights) in sequences.tokens().chunks_exact(t).zip(weights) {
        let weight: f64 = weights.iter().sum();
        if weight == 0.0 {
            continue;
        }
        for i in 0..t {
            let (by_token, by_position) =
                (&scores[tokens[i] as usize * d..][..d], &scores[(s + i) * d..][..d]);
            for (j, z) in row[..=i].iter_mut().enumerate() {
                let token = tokens[j] as usize;
                *z = by_token[token] + by_token[s + j] + by_position[token] + by_position[s + j];
            }
            let pattern = softmax(&row[..=i]);
            out[i * t..].iter_mut().zip(pattern).for_each(|(o, p)| *o += weight / total * p);
        }
    }
    out
}

/// Patterns (T, T) of the heads of layer 1, NaN above the diagonal. They come from
/// [`Model::first_layer_scores`] if the model has them, otherwise from [`layer_patterns`].
///
/// # Errors
/// As [`layer_patterns`].
pub fn first_layer_patterns<E: Elem>(
    model: &dyn Model<E>,
    params: &[E],
    sequences: &Batch,
) -> Result<Vec<Vec<f64>>> {
    let (s, t) = (model.vocab(), model.seq_len());
    let wide: Vec<f64> = params.iter().map(|p| p.to_f64()).collect();
    let Some(found) = model.first_layer_scores(&wide) else {
        return layer_patterns(model, params, sequences, 0);
    };
    let pattern = |scores: &[f64]| match found.by_position {
        true => causal_pattern(&position_block(scores, s, t), t),
        false => average_pattern(scores, sequences),
    };
    Ok(found.scores.chunks_exact((s + t) * (s + t)).map(pattern).collect())
}

/// Patterns (T, T) of the heads of layer `layer` (from 0), NaN above the diagonal: the mean over
/// `sequences` of [`Model::attention`], each weighted by the sum of its weights.
///
/// # Errors
/// A layer that the model does not have; sequences whose weights are all 0 or that do not fit the
/// model; errors of the model.
pub fn layer_patterns<E: Elem>(
    model: &dyn Model<E>,
    params: &[E],
    sequences: &Batch,
    layer: usize,
) -> Result<Vec<Vec<f64>>> {
    let (t, heads) = (model.seq_len(), model.heads());
    let Some(own) = heads.get(layer) else {
        return Err(Error::invalid("layer", layer.to_string(), format!("below {}", heads.len())));
    };
    let total = sequences.total_weight();
    if total <= 0.0 {
        return Err(Error::invalid("sequences", "none that counts", "at least one of weight > 0"));
    }
    let before: usize = heads[..layer].iter().sum();
    let mut ws = model.workspace(sequences.kind(), 1)?;
    let mut maps = vec![0.0; heads.iter().sum::<usize>() * t * t];
    let mut mean = vec![vec![f64::NAN; t * t]; *own];
    mean.iter_mut().for_each(|p| (0..t).for_each(|i| p[i * t..i * t + i + 1].fill(0.0)));
    for (b, weights) in sequences.weights().chunks_exact(sequences.outputs()).enumerate() {
        let weight: f64 = weights.iter().sum();
        if weight == 0.0 {
            continue;
        }
        model.attention(params, sequences.sequence(b), &mut ws, &mut maps)?;
        let maps = maps[before * t * t..].chunks_exact(t * t);
        for (mean, map) in mean.iter_mut().zip(maps) {
            // NaN above the diagonal stays.
            mean.iter_mut().zip(map).for_each(|(m, a)| *m += weight / total * a);
        }
    }
    Ok(mean)
}

/// Attention that the heads of layer 1 put on `parents` by position alone: softmax over j <= i of
/// the position block. `heads` are score matrices (t, t); `parents[i]` is the parent of position i.
/// `None` when no position has a parent.
pub fn parent_attention(heads: &[Vec<f64>], t: usize, parents: &[Option<usize>]) -> Option<ParentAttention> {
    let patterns: Vec<Vec<f64>> = heads.iter().map(|h| causal_pattern(h, t)).collect();
    pattern_attention(&patterns, t, parents.iter().enumerate().filter_map(|(i, p)| Some((i, (*p)?))))
}

/// Attention of the patterns (t, t) on each of `pairs` (i, a parent of i); entries above the
/// diagonal are not read. `None` when there are no pairs.
///
/// Each pair counts with its best head. Two parents of one position cannot both be the largest
/// entry of one head's row, so a recovered graph has them in different heads.
pub fn pattern_attention(
    patterns: &[Vec<f64>],
    t: usize,
    pairs: impl Iterator<Item = (usize, usize)>,
) -> Option<ParentAttention> {
    let mut rows = Vec::new();
    let (mut argmax, mut recovered) = (true, true);
    for (i, p) in pairs {
        let (mut best, mut peak, mut clear) = (0.0f64, false, false);
        for pattern in patterns {
            let row = &pattern[i * t..i * t + i + 1];
            best = best.max(row[p]);
            peak |= is_peak(row, p);
            clear |= stands_out(row, p);
        }
        argmax &= peak;
        recovered &= clear;
        rows.push((i, p, best));
    }
    if rows.is_empty() {
        return None;
    }
    let mean = rows.iter().map(|r| r.2).sum::<f64>() / rows.len() as f64;
    let min = rows.iter().map(|r| r.2).fold(f64::INFINITY, f64::min);
    Some(ParentAttention { rows, mean, min, argmax, recovered })
}

/// True if entry `p` is strictly the largest.
fn is_peak(row: &[f64], p: usize) -> bool {
    row.iter().enumerate().all(|(j, x)| j == p || *x < row[p])
}

/// True if entry `p` is far above the others, by both measures of [`ParentAttention::recovered`].
/// With one other position the mean is that position's.
pub fn stands_out(row: &[f64], p: usize) -> bool {
    let others = || row.iter().enumerate().filter(|(j, _)| *j != p).map(|(_, x)| *x);
    let n = row.len().saturating_sub(1).max(1) as f64;
    let (mean, next) = (others().sum::<f64>() / n, others().fold(0.0, f64::max));
    row[p] > 0.0 && row[p] >= OVER_MEAN * mean && row[p] >= OVER_NEXT * next
}

/// The assignment of heads to parents, for positions with several parents.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadAssignment {
    /// Number of heads, H.
    pub heads: usize,
    /// Parents per position, K.
    pub slots: usize,
    /// For each position with K parents: its number, and the attention of head h on parent k (H,
    /// K).
    pub rows: Vec<(usize, Vec<f64>)>,
    /// Mean over these positions (H, K).
    pub mean: Vec<f64>,
    /// The head assigned to parent k (K): largest mean attention first, no head twice. `None` if
    /// all heads are taken.
    pub head_of: Vec<Option<usize>>,
    /// Share of these positions at which every parent is strictly the largest entry of its own
    /// head's row.
    pub split: f64,
}

impl HeadAssignment {
    /// Mean attention on parent k of the head that it is assigned (K).
    pub fn on_parent(&self) -> Vec<Option<f64>> {
        let of = |(k, h): (usize, &Option<usize>)| h.map(|h| self.mean[h * self.slots + k]);
        self.head_of.iter().enumerate().map(of).collect()
    }

    /// What the assignment means, in a sentence; heads and parents from 1.
    pub fn in_words(&self) -> String {
        let one = |(k, on): (usize, Option<f64>)| {
            let parent = if self.slots == 1 { "the parent".into() } else { format!("parent {}", k + 1) };
            match (self.head_of[k], on) {
                (Some(h), Some(on)) => format!("head {} on {parent} with mean attention {on:.3}", h + 1),
                _ => format!("no head left for {parent}"),
            }
        };
        let each: Vec<String> = self.on_parent().into_iter().enumerate().map(one).collect();
        let led = if self.slots == 1 { "it is" } else { "each is" };
        let share = 100.0 * self.split;
        format!("{}; {led} the largest entry of its head's row at {share:.1}% of positions", each.join(", "))
    }
}

/// Assigns heads to parents from the patterns (t, t). `parents` holds (i, parents of i); every
/// position has the same number K >= 1 of parents. `None` without positions or heads.
pub fn head_assignment(
    patterns: &[Vec<f64>],
    t: usize,
    parents: &[(usize, &[usize])],
) -> Option<HeadAssignment> {
    let (heads, slots) = (patterns.len(), parents.first()?.1.len());
    if heads == 0 {
        return None;
    }
    let on = |i: usize, p: &[usize]| -> Vec<f64> {
        patterns.iter().flat_map(|a| p.iter().map(move |p| a[i * t + p])).collect()
    };
    let rows: Vec<(usize, Vec<f64>)> = parents.iter().map(|(i, p)| (*i, on(*i, p))).collect();
    let n = rows.len() as f64;
    let mean: Vec<f64> = (0..heads * slots).map(|e| rows.iter().map(|r| r.1[e]).sum::<f64>() / n).collect();
    let mut head_of = vec![None; slots];
    for _ in 0..heads.min(slots) {
        let free = |e: &usize| head_of[e % slots].is_none() && !head_of.contains(&Some(e / slots));
        // The first of equal values, so that rounding does not decide.
        let best =
            (0..heads * slots).filter(free).max_by(|a, b| mean[*a].total_cmp(&mean[*b]).then(b.cmp(a)));
        if let Some(e) = best {
            head_of[e % slots] = Some(e / slots);
        }
    }
    let follows = |(i, p): &&(usize, &[usize])| {
        p.iter()
            .zip(&head_of)
            .all(|(p, h)| h.is_some_and(|h| is_peak(&patterns[h][i * t..i * t + i + 1], *p)))
    };
    let split = parents.iter().filter(follows).count() as f64 / n;
    Some(HeadAssignment { heads, slots, rows, mean, head_of, split })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Targets;

    #[test]
    fn averaged_patterns_follow_tokens_and_positions() {
        let (s, t) = (2, 3);
        let d = s + t;
        let mut sequences = Batch::with_capacity(Targets::Law, 2, t, s).unwrap();
        sequences.set_seqs(2);
        let parts = sequences.parts_mut();
        parts.tokens.copy_from_slice(&[0, 1, 0, 1, 1, 0]);
        parts.weights.copy_from_slice(&[1.0, 3.0]);
        // Position 2 prefers position 0 threefold; a key of token 1 counts double where the query
        // has token 0.
        let mut scores = vec![0.0; d * d];
        scores[(s + 2) * d + s] = 3f64.ln();
        scores[1] = 2f64.ln();
        let got = average_pattern(&scores, &sequences);
        // Last row: weights (3, 2, 1) of the first sequence, (6, 2, 1) of the second.
        for (j, expected) in
            [3.0 / 6.0 / 4.0 + 6.0 / 9.0 * 0.75, 2.0 / 6.0 / 4.0 + 2.0 / 9.0 * 0.75].iter().enumerate()
        {
            assert!((got[2 * t + j] - expected).abs() < 1e-15);
        }
        assert_eq!((got[0], got[t], got[t + 1]), (1.0, 0.5, 0.5));
        assert!(got[1].is_nan() && got[t + 2].is_nan());
    }

    #[test]
    fn a_planted_graph_is_found_and_a_tie_is_not() {
        let (s, t) = (2, 4);
        let parents = [None, Some(0), Some(0), Some(2)];
        let d = s + t;
        let mut a = vec![0.0; d * d];
        for (i, p) in parents.iter().enumerate() {
            if let Some(p) = p {
                // A hair above the bound, which rounding may miss.
                a[(s + i) * d + s + p] = 3f64.ln() + 1e-12;
            }
        }
        let block = position_block(&a, s, t);
        let got = parent_attention(std::slice::from_ref(&block), t, &parents).unwrap();
        // Row i has i + 1 keys, one of weight 3 and i of weight 1.
        let expected = [3.0 / 4.0, 3.0 / 5.0, 3.0 / 6.0];
        for (row, e) in got.rows.iter().zip(expected) {
            assert!((row.2 - e).abs() < 1e-12);
        }
        assert!(got.recovered && got.argmax && (got.min - 0.5).abs() < 1e-12);
        assert!((got.mean - expected.iter().sum::<f64>() / 3.0).abs() < 1e-12);
        let flat = parent_attention(&[vec![0.0; t * t]], t, &parents).unwrap();
        assert!(!flat.recovered && !flat.argmax, "a tie is no recovery");
        // The best head counts, row by row.
        let both = parent_attention(&[vec![0.0; t * t], block], t, &parents).unwrap();
        assert_eq!(both, got);
        assert!(parent_attention(&[], t, &[None, None]).is_none());
    }

    #[test]
    fn recovery_needs_a_margin_over_the_mean_and_over_the_next() {
        let says = |last: [f64; 4]| {
            let mut pattern = vec![f64::NAN; 16];
            pattern[12..].copy_from_slice(&last);
            let a = pattern_attention(&[pattern], 4, std::iter::once((3, 2))).unwrap();
            (a.argmax, a.recovered)
        };
        assert_eq!(says([0.25, 0.25, 0.2501, 0.2499]), (true, false), "uniform but for a hair");
        // Three times the mean of the others is one half.
        assert_eq!(says([0.17, 0.17, 0.49, 0.17]), (true, false));
        assert_eq!(says([0.16, 0.16, 0.52, 0.16]), (true, true));
        // Twice the next one.
        assert_eq!(says([0.3, 0.05, 0.59, 0.06]), (true, false));
        assert_eq!(says([0.28, 0.08, 0.58, 0.06]), (true, true));
        assert_eq!(says([0.6, 0.0, 0.4, 0.0]), (false, false));
        assert_eq!(says([0.0, 0.0, 1.0, 0.0]), (true, true));
    }

    #[test]
    fn heads_are_assigned_to_parents() {
        let t = 4;
        let pattern = |peaks: [usize; 4]| -> Vec<f64> {
            let mut a = vec![f64::NAN; t * t];
            for (i, p) in peaks.into_iter().enumerate() {
                for j in 0..=i {
                    a[i * t + j] = if j == p { 0.7 } else { 0.3 / i as f64 };
                }
            }
            a
        };
        let parents: [(usize, &[usize]); 2] = [(2, &[0, 1]), (3, &[1, 2])];
        // Head 0 follows the second parent everywhere, head 1 the first at position 2 only.
        let patterns = [pattern([0, 0, 1, 2]), pattern([0, 0, 0, 0])];
        let got = head_assignment(&patterns, t, &parents).unwrap();
        assert_eq!((got.heads, got.slots), (2, 2));
        assert_eq!(got.rows[0], (2, vec![0.15, 0.7, 0.7, 0.15]));
        assert_eq!(got.head_of, [Some(1), Some(0)]);
        assert_eq!(got.split, 0.5);
        assert!((got.mean[2] - (0.7 + 0.1) / 2.0).abs() < 1e-15);
        let all = pattern_attention(&patterns, t, [(2, 0), (2, 1), (3, 1), (3, 2)].into_iter()).unwrap();
        assert!(!all.recovered && (all.min - 0.1).abs() < 1e-15);
        assert_eq!(
            got.in_words(),
            "head 2 on parent 1 with mean attention 0.400, head 1 on parent 2 with mean attention 0.700; each is the \
             largest entry of its head's row at 50.0% of positions"
        );
        // One head for two parents: the one it holds more, and no split.
        let one = head_assignment(&patterns[..1], t, &parents).unwrap();
        assert!(one.in_words().starts_with("no head left for parent 1, head 1 on parent 2 with"));
        assert_eq!(one.on_parent()[0], None);
        // A single parent each.
        let single: [(usize, &[usize]); 2] = [(2, &[1]), (3, &[2])];
        let of_one = head_assignment(&patterns, t, &single).unwrap().in_words();
        assert_eq!(
            of_one,
            "head 1 on the parent with mean attention 0.700; it is the largest entry of its head's row at 100.0% of positions"
        );
        assert_eq!((one.head_of, one.split), (vec![None, Some(0)], 0.0));
        // A tie goes to the first pair, and is no split.
        let flat = vec![pattern([0, 0, 9, 9]); 2];
        let tie = head_assignment(&flat, t, &parents).unwrap();
        assert_eq!((tie.head_of, tie.split), (vec![Some(0), Some(1)], 0.0));
        assert!(head_assignment(&[], t, &parents).is_none() && head_assignment(&patterns, t, &[]).is_none());
    }
}
