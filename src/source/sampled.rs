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
    /// Draws the label of a sample, where labels are symbols.
    labels: Option<Key>,
}

impl Sampled {
    /// A source of samples of `task`; the key carries seed and purpose.
    pub fn new(task: impl Sampler + 'static, key: Key) -> Self {
        Sampled { task: Arc::new(task), key, labels: None }
    }

    /// The same samples, the target of each one symbol drawn from its law under `key`, as a law
    /// with the one entry 1.
    pub fn with_labels(self, key: Key) -> Self {
        Sampled { labels: Some(key), ..self }
    }
}

/// The symbol at `u` in (0, 1) of a law that sums to 1 up to rounding; never one of probability 0.
pub fn draw(law: &[f64], u: f64) -> usize {
    let total: f64 = law.iter().sum();
    let (mut left, mut last) = (u * total, 0);
    for (symbol, p) in law.iter().enumerate().filter(|(_, p)| **p > 0.0) {
        left -= p;
        last = symbol;
        if left < 0.0 {
            break;
        }
    }
    last
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
        if let Some(key) = &self.labels {
            for (n, law) in laws.chunks_exact_mut(s).enumerate() {
                let [u, _] = key.uniforms(first.wrapping_add(n as u64), 0, 0);
                let symbol = draw(law, u);
                law.fill(0.0);
                law[symbol] = 1.0;
            }
        }
        weights.fill(1.0);
    }
}
