//! Attention on a sample text, kept for pictures.

use super::{TriggerTasks, figures};
use crate::Result;
use crate::report::arrays::{Array, write_arrays};
use crate::rng::Purpose;
use crate::run::{View, folder};
use crate::source::Source;
use std::path::Path;

/// Sequences among which the sample for pictures is chosen.
pub(super) const SAMPLES: usize = 64;
/// Most bytes of attention on the sample that are kept whole.
const MOST_ATTENTION: usize = 64 << 20;

/// Positions of the sample whose attention is kept, of `t`: all of them, or as many as pictures
/// show where (maps, T, T) would be too much.
pub(super) fn kept(maps: usize, t: usize) -> usize {
    let whole = [maps, t, t, size_of::<f64>()].into_iter().try_fold(1usize, usize::checked_mul);
    if whole.is_some_and(|bytes| bytes <= MOST_ATTENTION) { t } else { t.min(figures::SHOWN) }
}

/// The sample for pictures: its tokens (T), and how often the trigger at each position has
/// occurred. It is the first of those in which most triggers occur a second time where pictures
/// show it, and none is its own output.
pub(super) fn sample(tasks: &TriggerTasks) -> Result<(Vec<u32>, Vec<u32>)> {
    let source = tasks.sampled(&tasks.tests[0].1, Purpose::Probe);
    let t = source.seq_len();
    let mut batch = source.batch(SAMPLES)?;
    source.fill(0, SAMPLES, &mut source.work(), &mut batch);
    let shown = t.min(figures::SHOWN);
    let all_seen = batch.seen().unwrap_or_default();
    let returns = |s: &usize| {
        let row = s * t..s * t + shown;
        let (seen, tokens) = (&all_seen[row.clone()], &batch.tokens()[row.clone()]);
        let own_output =
            seen.iter().zip(tokens).zip(&batch.labels()[row]).any(|((c, z), y)| *c > 0 && z == y);
        if own_output { 0 } else { 1 + seen.iter().filter(|c| **c == 2).count() }
    };
    // The first of the best.
    let best = (0..SAMPLES).rev().max_by_key(returns).unwrap_or(0);
    Ok((batch.sequence(best).to_vec(), all_seen[best * t..(best + 1) * t].to_vec()))
}

/// Writes attention on the sample: arrays `tokens` (T), `seen` (T), and `layer1`, `layer2`, ..
/// (heads, T, T); where these would be large, on its first positions only: no position sees a later
/// one.
pub(super) fn write(folder: &Path, tasks: &TriggerTasks, view: &mut dyn View) -> Result<()> {
    let (tokens, seen) = sample(tasks)?;
    let t = tokens.len();
    let heads = view.heads().to_vec();
    let maps: usize = heads.iter().sum();
    let kept = kept(maps, t);
    let mut attention = vec![0.0; maps * t * t];
    view.attention(&tokens, &mut attention)?;
    let integers = |values: &[u32]| Array::vector(values.iter().map(|v| i64::from(*v)).collect::<Vec<_>>());
    let mut arrays =
        vec![("tokens".to_string(), integers(&tokens[..kept])), ("seen".into(), integers(&seen[..kept]))];
    let mut rest = attention.as_slice();
    for (l, heads) in heads.iter().enumerate() {
        let (of_layer, others) = rest.split_at(heads * t * t);
        rest = others;
        let rows = of_layer.chunks(t * t).flat_map(|map| map.chunks(t).take(kept));
        let values: Vec<f64> = rows.flat_map(|row| row[..kept].iter().copied()).collect();
        arrays.push((format!("layer{}", l + 1), Array::new(&[*heads, kept, kept], values)?));
    }
    let arrays: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (n.as_str(), a)).collect();
    write_arrays(&folder.join(folder::ATTENTION_FILE), &arrays, None)
}

#[cfg(test)]
mod tests {
    use super::kept;

    #[test]
    fn attention_is_kept_whole_where_that_is_little() {
        assert_eq!([kept(8, 1024), kept(8, 1025), kept(2, 2048), kept(4096, 30)], [1024, 40, 2048, 30]);
    }
}
