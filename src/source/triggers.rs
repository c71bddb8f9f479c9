//! Independent sequences with in-context triggers.

use super::{LabelledSource, SourceWork};
use crate::batch::{LabelledBatch, LabelledParts};
use crate::rng::Key;
use crate::task::TriggerBigram;
use crate::task::trigger_bigram::TriggerBigramWork;
use std::sync::Arc;

/// Which positions count in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossOn {
    /// A trigger's second occurrence and later ones: where the context tells what follows (outs >= 2).
    Head,
    /// All.
    All,
}

/// Samples of a trigger-bigram task under a key; sequence n is sample n.
#[derive(Debug, Clone)]
pub struct TriggerSource {
    task: Arc<TriggerBigram>,
    key: Key,
    loss: LossOn,
}

impl TriggerSource {
    /// A source of samples of `task`; the key carries seed and purpose.
    pub fn new(task: Arc<TriggerBigram>, key: Key, loss: LossOn) -> Self {
        TriggerSource { task, key, loss }
    }
}

struct Work {
    task: TriggerBigramWork,
    tokens: Vec<u32>,
}

impl LabelledSource for TriggerSource {
    fn seq_len(&self) -> usize {
        self.task.seq_len()
    }

    fn vocab(&self) -> usize {
        self.task.vocab()
    }

    fn work(&self) -> SourceWork {
        SourceWork::new(Work { task: self.task.work(), tokens: vec![0; self.seq_len() + 1] })
    }

    fn fill(&self, first: u64, count: usize, work: &mut SourceWork, batch: &mut LabelledBatch) {
        let t = self.seq_len();
        assert!(batch.len_tokens() == t && batch.vocab() == self.vocab(), "batch of another task");
        batch.set_seqs(count);
        let work: &mut Work = work.get();
        let LabelledParts { tokens, labels, weights, seen } = batch.parts_mut();
        for i in 0..count {
            let row = i * t..(i + 1) * t;
            let seen = &mut seen[row.clone()];
            self.task.sample(&self.key, first.wrapping_add(i as u64), &mut work.task, &mut work.tokens, seen);
            tokens[row.clone()].copy_from_slice(&work.tokens[..t]);
            labels[row.clone()].copy_from_slice(&work.tokens[1..]);
            for (w, s) in weights[row].iter_mut().zip(seen) {
                *w = match self.loss {
                    LossOn::Head => f64::from(u8::from(*s >= 2)),
                    LossOn::All => 1.0,
                };
            }
        }
    }
}
