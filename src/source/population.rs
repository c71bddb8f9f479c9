//! The whole population as a source: every sequence once, with its probability as weight.

use super::{Source, SourceWork};
use crate::batch::{Batch, Parts, Targets};
use crate::exact::law::{WordLaw, advance, spell, word_count};
use crate::num::check_total;
use crate::{Error, Result};
use rayon::prelude::*;

/// Largest distance from 1 of the probabilities of all sequences together.
pub(super) const SUM_TOLERANCE: f64 = 1e-9;

/// All S^T sequences of a task, each with its probability. Sequence n is word n modulo S^T (see
/// [`law`](crate::exact::law)), with weight P(s) = Σ_{s'} W(s, s') and target W(s, ·)/P(s).
///
/// The transition matrix π is integrated out. The loss is linear in the target and the model does
/// not see π, so loss and gradient equal those on the task's own targets π(·|query), averaged over
/// π.
#[derive(Debug, Clone)]
pub struct Population {
    seq_len: usize,
    vocab: usize,
    /// Targets (S^T, S) and probabilities (S^T).
    targets: Vec<f64>,
    probabilities: Vec<f64>,
}

impl Population {
    /// Largest table of targets and weights, in numbers: S^T (S+1) <= 2^26, which is 512 MiB.
    pub const MAX_ENTRIES: u64 = 1 << 26;

    /// Sequences per parallel task while the table is computed.
    const CHUNK: usize = 1 << 16;

    /// The population of `law`. Evaluates the law of every sequence once and holds 8 S^T (S+1)
    /// bytes.
    ///
    /// # Errors
    /// S^T (S+1) above [`MAX_ENTRIES`](Self::MAX_ENTRIES); probabilities that do not sum to 1.
    pub fn new(law: &dyn WordLaw) -> Result<Self> {
        let (s, t) = (law.vocab(), law.seq_len());
        let entries = word_count(s, t).and_then(|n| n.checked_mul(s as u64 + 1));
        let Some(n) = entries.filter(|n| *n <= Self::MAX_ENTRIES).map(|n| (n / (s as u64 + 1)) as usize)
        else {
            let allowed = format!("S^T (S+1) <= {}", Self::MAX_ENTRIES);
            return Err(Error::invalid("S, T", format!("{s}^{t} words to enumerate"), allowed));
        };
        let (mut targets, mut probabilities) = (vec![0.0; n * s], vec![0.0; n]);
        let chunks = targets.par_chunks_mut(Self::CHUNK * s).zip(probabilities.par_chunks_mut(Self::CHUNK));
        chunks.enumerate().for_each(|(i, (targets, probabilities))| {
            law.weights((i * Self::CHUNK) as u64, targets);
            for (row, p) in targets.chunks_exact_mut(s).zip(probabilities) {
                *p = row.iter().sum();
                // A sequence of probability 0 has weight 0, so its target does not matter.
                let scale = if *p > 0.0 { 1.0 / *p } else { 0.0 };
                row.iter_mut().for_each(|y| *y *= scale);
            }
        });
        let all = Population { seq_len: t, vocab: s, targets, probabilities };
        check_total(all.weight(), SUM_TOLERANCE)?;
        Ok(all)
    }

    /// P(s) of every sequence (S^T), in order of number.
    pub fn probabilities(&self) -> &[f64] {
        &self.probabilities
    }

    /// Σ P(s): 1 up to rounding.
    pub fn weight(&self) -> f64 {
        crate::num::sum(&self.probabilities)
    }

    /// Number of sequences, S^T.
    pub fn words(&self) -> usize {
        self.probabilities.len()
    }
}

impl Source for Population {
    fn seq_len(&self) -> usize {
        self.seq_len
    }

    fn vocab(&self) -> usize {
        self.vocab
    }

    fn targets(&self) -> Targets {
        Targets::Law
    }

    fn population(&self) -> Option<usize> {
        Some(self.words())
    }

    fn work(&self) -> SourceWork {
        SourceWork::none()
    }

    fn fill(&self, first: u64, count: usize, _: &mut SourceWork, batch: &mut Batch) {
        let (t, s, n) = (self.seq_len, self.vocab, self.words());
        assert!(batch.len_tokens() == t && batch.vocab() == s, "batch of another task");
        batch.set_seqs(count);
        let Parts { tokens, laws, weights, .. } = batch.parts_mut();
        if count == 0 {
            return;
        }
        let mut word = (first % n as u64) as usize;
        spell(word as u64, s, &mut tokens[..t]);
        for i in 0..count {
            if i > 0 {
                let (before, here) = tokens.split_at_mut(i * t);
                here[..t].copy_from_slice(&before[(i - 1) * t..]);
                advance(s, &mut here[..t]);
            }
            laws[i * s..(i + 1) * s].copy_from_slice(&self.targets[word * s..(word + 1) * s]);
            weights[i] = self.probabilities[word];
            word = if word + 1 == n { 0 } else { word + 1 };
        }
    }
}
