//! Independent samples of a task.

use super::{Source, SourceWork};
use crate::batch::Batch;
use crate::rng::Key;
use crate::task::{CausalTree, CausalTreeWork, Task};

/// Samples of `task` under `key`; sequence n is sample n.
#[derive(Debug, Clone)]
pub struct Sampled {
    task: CausalTree,
    key: Key,
}

impl Sampled {
    /// A source of samples of `task`; the key carries seed and purpose.
    pub fn new(task: CausalTree, key: Key) -> Self {
        Sampled { task, key }
    }

    /// The task sampled.
    pub fn task(&self) -> &CausalTree {
        &self.task
    }
}

impl Source for Sampled {
    fn seq_len(&self) -> usize {
        self.task.seq_len()
    }

    fn vocab(&self) -> usize {
        self.task.vocab()
    }

    fn work(&self) -> SourceWork {
        SourceWork::new(self.task.work())
    }

    fn fill(&self, first: u64, count: usize, denominator: usize, work: &mut SourceWork, batch: &mut Batch) {
        let (t, s) = (self.seq_len(), self.vocab());
        assert!(batch.len_tokens() == t && batch.vocab() == s, "batch of another task");
        assert!(denominator > 0, "weights 1/0");
        let work: &mut CausalTreeWork = work.get();
        batch.set_seqs(count);
        let (tokens, targets, weights) = batch.parts_mut();
        let rows = tokens.chunks_exact_mut(t).zip(targets.chunks_exact_mut(s));
        for (n, (tokens, target)) in rows.enumerate() {
            self.task.sample(&self.key, first.wrapping_add(n as u64), work, tokens, target);
        }
        weights.fill(1.0 / denominator as f64);
    }
}
