//! Sequences side by side: the bits of [`TriggerBigram::sample`], several times as fast.
//!
//! A sequence is one chain of dependent look-ups, each of which waits for the last. Lanes fill the
//! wait: [`SAMPLE_LANES`] sequences advance together, their random words come from one kernel, and
//! no branch depends on a token. All lane arrays are (.., SAMPLE_LANES).

use super::{NONE, OUTPUT_VARIATES, Outputs, TRIGGER_VARIATES, TriggerBigram, Triggers};
use crate::rng::{Key, lemire, unit};
use popgrad_kernels::Kernels;
use popgrad_kernels::sampling::{Addresses, SAMPLE_LANES};
use std::hint::select_unpredictable;

/// Storage for [`TriggerBigram::sample_block`]. Made by [`TriggerBigram::block`].
#[derive(Debug, Clone)]
pub struct TriggerBigramBlock {
    kernels: Kernels<f64>,
    /// Words of tokens (T + 1 rounded up to even), of triggers (2K, empty for fixed ones) and of
    /// outputs (2K).
    words: Vec<u64>,
    trigger_words: Vec<u64>,
    output_words: Vec<u64>,
    /// For each symbol (N), its output (`NONE` if it is not a trigger), and its occurrences so far.
    output: Vec<u32>,
    seen: Vec<u32>,
    /// Tokens (T + 1) and counts (T) of the lanes.
    tokens: Vec<u32>,
    counts: Vec<u32>,
}

impl TriggerBigram {
    /// Storage for [`sample_block`](Self::sample_block) on `kernels`, whose instruction set changes
    /// speed only.
    pub fn block(&self, kernels: Kernels<f64>) -> TriggerBigramBlock {
        let (n, t, k) = (self.vocab(), self.len, self.triggers());
        let drawn = if self.fixed.is_empty() { k } else { 0 };
        TriggerBigramBlock {
            kernels,
            words: vec![0; (t + 1).next_multiple_of(2) * SAMPLE_LANES],
            trigger_words: vec![0; 2 * drawn * SAMPLE_LANES],
            output_words: vec![0; 2 * k * SAMPLE_LANES],
            output: vec![NONE; n * SAMPLE_LANES],
            seen: vec![0; n * SAMPLE_LANES],
            tokens: vec![0; (t + 1) * SAMPLE_LANES],
            counts: vec![0; t * SAMPLE_LANES],
        }
    }

    /// Sequences `first`, `first + 1`, .. (numbers wrap): `tokens`, `labels` and `seen`, each (n,
    /// L). The bits are those of
    /// [`sample`](Self::sample), whose tokens are the first of `tokens`, then `labels`.
    ///
    /// Allocates nothing.
    ///
    /// # Panics
    /// When the outputs are not whole rows of equal number, or `work` does not fit the task.
    pub fn sample_block(
        &self,
        key: &Key,
        first: u64,
        work: &mut TriggerBigramBlock,
        tokens: &mut [u32],
        labels: &mut [u32],
        seen: &mut [u32],
    ) {
        let t = self.len;
        let whole = tokens.len().is_multiple_of(t) && [labels.len(), seen.len()] == [tokens.len(); 2];
        assert!(whole, "outputs are not whole rows");
        let same = work.output.len() == self.vocab() * SAMPLE_LANES
            && work.counts.len() == t * SAMPLE_LANES
            && work.output_words.len() == 2 * self.triggers() * SAMPLE_LANES
            && work.trigger_words.is_empty() != self.fixed.is_empty();
        assert!(same, "work storage of another task");
        let rows = SAMPLE_LANES * t;
        let blocks = tokens.chunks_mut(rows).zip(labels.chunks_mut(rows)).zip(seen.chunks_mut(rows));
        for (i, ((tokens, labels), seen)) in blocks.enumerate() {
            self.walk(key, first.wrapping_add((i * SAMPLE_LANES) as u64), work);
            // Samples in lanes past the last row are discarded.
            let rows =
                tokens.chunks_exact_mut(t).zip(labels.chunks_exact_mut(t)).zip(seen.chunks_exact_mut(t));
            for (l, ((tokens, labels), seen)) in rows.enumerate() {
                let lane = |of: &mut [u32], from: &[u32]| {
                    of.iter_mut().zip(from.chunks_exact(SAMPLE_LANES)).for_each(|(x, lanes)| *x = lanes[l]);
                };
                lane(tokens, &work.tokens);
                lane(labels, &work.tokens[SAMPLE_LANES..]);
                lane(seen, &work.counts);
            }
        }
    }

    /// Samples `first .. first + SAMPLE_LANES` into the lanes.
    fn walk(&self, key: &Key, first: u64, work: &mut TriggerBigramBlock) {
        let sample: [u64; SAMPLE_LANES] = std::array::from_fn(|l| first.wrapping_add(l as u64));
        let draw = |variate, out: &mut [u64]| {
            let at = Addresses { key: key.words(), sample, variate: [variate; SAMPLE_LANES] };
            work.kernels.philox_words(&at, out).expect("whole blocks");
        };
        draw(0, &mut work.words);
        draw(OUTPUT_VARIATES, &mut work.output_words);
        if !work.trigger_words.is_empty() {
            draw(TRIGGER_VARIATES, &mut work.trigger_words);
        }
        self.draw_triggers_side_by_side(key, &sample, work);
        let TriggerBigramBlock { words, output, seen, tokens, counts, .. } = work;
        let mut now = [0; SAMPLE_LANES];
        for (l, word) in words[..SAMPLE_LANES].iter().enumerate() {
            now[l] = self.first.pick(*word);
        }
        tokens[..SAMPLE_LANES].copy_from_slice(&now);
        let steps = words[SAMPLE_LANES..]
            .chunks_exact(SAMPLE_LANES)
            .zip(tokens[SAMPLE_LANES..].chunks_exact_mut(SAMPLE_LANES));
        for ((words, tokens), counts) in steps.zip(counts.chunks_exact_mut(SAMPLE_LANES)) {
            for l in 0..SAMPLE_LANES {
                let before = now[l] as usize;
                let (at, picked) = (before * SAMPLE_LANES + l, self.next.pick(before, words[l]));
                let (o, count) = (output[at], seen[at].wrapping_add(1));
                // Every symbol is counted; only counts of triggers are reported.
                seen[at] = count;
                counts[l] = select_unpredictable(o == NONE, 0, count);
                now[l] = select_unpredictable(o == NONE, picked, o);
                tokens[l] = now[l];
            }
        }
    }

    fn draw_triggers_side_by_side(
        &self,
        key: &Key,
        sample: &[u64; SAMPLE_LANES],
        work: &mut TriggerBigramBlock,
    ) {
        let n = self.vocab();
        let TriggerBigramBlock { trigger_words, output_words, output, seen, .. } = work;
        output.fill(NONE);
        seen.fill(0);
        for k in 0..self.triggers() {
            // The first word of the variate.
            let words = |of: &[u64]| std::array::from_fn(|l| of[2 * k * SAMPLE_LANES + l]);
            let q: [usize; SAMPLE_LANES] = match self.triggers {
                Triggers::Fixed { .. } => [self.fixed[k] as usize; SAMPLE_LANES],
                Triggers::Random { .. } => {
                    let u = &self.laws.unigram;
                    pick(
                        n,
                        |s, l| if output[s * SAMPLE_LANES + l] == NONE { u[s] } else { 0.0 },
                        &words(trigger_words),
                    )
                }
            };
            let word: [u64; SAMPLE_LANES] = words(output_words);
            let o: [usize; SAMPLE_LANES] = match self.outputs.law {
                Outputs::Uniform if self.any_output() => std::array::from_fn(|l| {
                    let again = || key.below(n as u64, sample[l], OUTPUT_VARIATES + k as u32, 0);
                    lemire(word[l], n as u64).unwrap_or_else(again) as usize
                }),
                Outputs::Bigram if self.any_output() => {
                    std::array::from_fn(|l| self.next.pick(q[l], word[l]) as usize)
                }
                _ => pick(n, |o, l| self.output_weight(q[l], o), &word),
            };
            for l in 0..SAMPLE_LANES {
                output[q[l] * SAMPLE_LANES + l] = o[l] as u32;
            }
        }
    }
}

/// [`super::pick`] for each lane, in the same order of operations.
fn pick(
    n: usize,
    weight: impl Fn(usize, usize) -> f64,
    words: &[u64; SAMPLE_LANES],
) -> [usize; SAMPLE_LANES] {
    let (mut total, mut sum, mut picked) = ([0.0; SAMPLE_LANES], [0.0; SAMPLE_LANES], [0; SAMPLE_LANES]);
    for s in 0..n {
        for l in 0..SAMPLE_LANES {
            total[l] += weight(s, l);
        }
    }
    let level: [f64; SAMPLE_LANES] = std::array::from_fn(|l| unit(words[l]) * total[l]);
    for s in 0..n {
        for l in 0..SAMPLE_LANES {
            // Until the sum is past the level: the last symbol that is possible.
            let w = weight(s, l);
            let open = sum[l] <= level[l];
            picked[l] = select_unpredictable(open & (w > 0.0), s, picked[l]);
            sum[l] += w;
        }
    }
    picked
}
