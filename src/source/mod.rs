//! Sources: what fills a batch, by sampling or by enumeration.

mod population;
mod sampled;
mod trigger_population;
mod triggers;

pub use population::Population;
pub use sampled::Sampled;
pub use trigger_population::TriggerPopulation;
pub use triggers::{LossOn, TriggerSource};

/// Working storage of a [`Source`], of a type that only the source knows.
pub use crate::task::Work as SourceWork;

use crate::Result;
use crate::batch::{Batch, Targets};

/// Fills batches with weighted sequences; the model cannot tell one source from another.
pub trait Source: Send + Sync {
    /// Sequence length T.
    fn seq_len(&self) -> usize;
    /// Alphabet size S.
    fn vocab(&self) -> usize;
    /// What its sequences are scored on.
    fn targets(&self) -> Targets;
    /// Sequences of one pass over everything, if there is an end: a batch of that many is the
    /// population itself.
    fn population(&self) -> Option<usize> {
        None
    }
    /// An empty batch of this source's sizes, with the side columns that it fills.
    ///
    /// # Errors
    /// When the size overflows.
    fn batch(&self, capacity: usize) -> Result<Batch> {
        Batch::with_capacity(self.targets(), capacity, self.seq_len(), self.vocab())
    }
    /// Storage for [`fill`](Self::fill), one per thread or shard.
    fn work(&self) -> SourceWork;
    /// Overwrites `batch` with the sequences `first .. first + count`. An output that counts has
    /// weight 1, or the probability of its sequence where the population is enumerated; any other
    /// has weight 0.
    ///
    /// Sequence number n is the same whatever batch it lands in, so shards may split a batch at
    /// will. Allocates nothing.
    ///
    /// # Panics
    /// When `batch` is of other sizes or has room for fewer than `count` sequences, or `work` was
    /// made by another source.
    fn fill(&self, first: u64, count: usize, work: &mut SourceWork, batch: &mut Batch);
}
