//! A batch drawn once and given out again and again, so that a step is timed without its sampling.

use crate::Result;
use crate::batch::{Batch, Targets};
use crate::source::{Source, SourceWork};

/// The first sequences of a source, repeated: sequence n is number n modulo their count.
#[derive(Debug)]
pub struct Repeated<S> {
    batch: Batch,
    source: S,
}

impl<S: Source> Repeated<S> {
    /// The first `count` sequences of `source`.
    ///
    /// # Errors
    /// When their size overflows.
    pub fn new(source: S, count: usize) -> Result<Self> {
        let mut batch = source.batch(count)?;
        source.fill(0, count, &mut source.work(), &mut batch);
        Ok(Repeated { batch, source })
    }

    /// The sequences.
    pub fn drawn(&self) -> &Batch {
        &self.batch
    }
}

impl<S: Source> Source for Repeated<S> {
    fn seq_len(&self) -> usize {
        self.source.seq_len()
    }
    fn vocab(&self) -> usize {
        self.source.vocab()
    }
    fn targets(&self) -> Targets {
        self.source.targets()
    }
    fn batch(&self, capacity: usize) -> Result<Batch> {
        self.source.batch(capacity)
    }
    fn work(&self) -> SourceWork {
        self.source.work()
    }
    /// # Panics
    /// If the sequences go past the last one and on with the first.
    fn fill(&self, first: u64, count: usize, _: &mut SourceWork, batch: &mut Batch) {
        let from = &self.batch;
        let at = first as usize % from.seqs();
        batch.set_seqs(count);
        let to = batch.parts_mut();
        let part = [at, count, from.seqs()];
        copy(to.tokens, from.tokens(), part);
        copy(to.labels, from.labels(), part);
        copy(to.laws, from.laws(), part);
        copy(to.weights, from.weights(), part);
        copy(to.seen, from.seen().unwrap_or_default(), part);
    }
}

/// Rows `at .. at + count` of the `seqs` rows of `all`. What a kind of batch does not have is empty
/// on both sides.
fn copy<T: Copy>(to: &mut [T], all: &[T], [at, count, seqs]: [usize; 3]) {
    let width = all.len() / seqs;
    to.copy_from_slice(&all[at * width..(at + count) * width]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Purpose};
    use crate::source::Sampled;
    use crate::task::{CausalTree, Forest, Roots};

    #[test]
    fn sequences_come_again_as_they_were() -> Result<()> {
        let task = CausalTree::new(Forest::chain(5)?, 3, 0.5, Roots::Uniform)?;
        let source = Sampled::new(task, Key::new(3, Purpose::Train));
        let again = Repeated::new(source.clone(), 6)?;
        let (mut batch, mut drawn) = (again.batch(4)?, source.batch(4)?);
        for (first, same) in [(0, 0), (2, 2), (6, 0), (14, 2)] {
            again.fill(first, 4, &mut again.work(), &mut batch);
            source.fill(same, 4, &mut source.work(), &mut drawn);
            assert_eq!((batch.tokens(), batch.laws()), (drawn.tokens(), drawn.laws()));
            assert_eq!(batch.weights(), drawn.weights());
        }
        Ok(())
    }
}
