//! Independent samples of a task.

use super::{Source, SourceWork};
use crate::batch::{Batch, Parts, Targets};
use crate::rng::Key;
use crate::task::Sampler;
use std::sync::Arc;

/// Samples of a task under a key; sequence n is sample n.
#[derive(Clone)]
pub struct Sampled {
    task: Arc<dyn Sampler>,
    key: Key,
}

impl Sampled {
    /// A source of samples of `task`; the key carries seed and purpose.
    pub fn new(task: impl Sampler + 'static, key: Key) -> Self {
        Sampled { task: Arc::new(task), key }
    }
}

impl std::fmt::Debug for Sampled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampled").field("task", &self.task.name()).field("key", &self.key).finish()
    }
}

impl Source for Sampled {
    fn seq_len(&self) -> usize {
        self.task.seq_len()
    }

    fn vocab(&self) -> usize {
        self.task.vocab()
    }

    fn targets(&self) -> Targets {
        Targets::Law
    }

    fn work(&self) -> SourceWork {
        self.task.new_work()
    }

    fn fill(&self, first: u64, count: usize, work: &mut SourceWork, batch: &mut Batch) {
        let (t, s) = (self.seq_len(), self.vocab());
        assert!(batch.len_tokens() == t && batch.vocab() == s, "batch of another task");
        batch.set_seqs(count);
        let Parts { tokens, laws, weights, .. } = batch.parts_mut();
        self.task.samples(&self.key, first, work, tokens, laws);
        weights.fill(1.0);
    }
}
