//! Independent sequences with in-context triggers.

use super::{Source, SourceWork};
use crate::Result;
use crate::batch::{Batch, Parts, Targets};
use crate::rng::Key;
use crate::task::TriggerBigram;
use crate::task::dirichlet::kernels;
use crate::task::trigger_bigram::TriggerBigramBlock;
use std::sync::Arc;

/// Which positions count in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossOn {
    /// A trigger's second occurrence and later ones (outs >= 2), where the context determines what
    /// follows.
    Head,
    /// All positions.
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

impl Source for TriggerSource {
    fn seq_len(&self) -> usize {
        self.task.seq_len()
    }

    fn vocab(&self) -> usize {
        self.task.vocab()
    }

    fn targets(&self) -> Targets {
        Targets::Labels
    }

    fn batch(&self, capacity: usize) -> Result<Batch> {
        Ok(Batch::with_capacity(self.targets(), capacity, self.seq_len(), self.vocab())?.with_seen())
    }

    fn work(&self) -> SourceWork {
        SourceWork::new(self.task.block(kernels()))
    }

    fn fill(&self, first: u64, count: usize, work: &mut SourceWork, batch: &mut Batch) {
        let t = self.seq_len();
        assert!(batch.len_tokens() == t && batch.vocab() == self.vocab(), "batch of another task");
        batch.set_seqs(count);
        let work: &mut TriggerBigramBlock = work.get();
        let Parts { tokens, labels, weights, seen, .. } = batch.parts_mut();
        self.task.sample_block(&self.key, first, work, tokens, labels, seen);
        match self.loss {
            LossOn::Head => {
                weights.iter_mut().zip(seen).for_each(|(w, s)| *w = if *s >= 2 { 1.0 } else { 0.0 });
            }
            LossOn::All => weights.fill(1.0),
        }
    }
}
