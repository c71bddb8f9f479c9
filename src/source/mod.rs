//! Sources fill batches, by sampling a task or by enumerating its population.

mod population;
mod sampled;
mod trigger_population;
mod triggers;

pub use population::Population;
pub use sampled::{Sampled, draw};
pub use trigger_population::TriggerPopulation;
pub use triggers::{LossOn, TriggerSource};

/// Workspace of a [`Source`]; its type is known to the source only.
pub use crate::task::Work as SourceWork;

use crate::Result;
use crate::batch::{Batch, Targets};

/// Fills batches with weighted sequences. A model does not depend on which source filled its batch.
pub trait Source: Send + Sync {
    /// Sequence length T.
    fn seq_len(&self) -> usize;
    /// Alphabet size S.
    fn vocab(&self) -> usize;
    /// The kind of targets of its sequences.
    fn targets(&self) -> Targets;
    /// The number of sequences of an enumerated population: a batch of that many is the whole
    /// population. `None` for a source that samples.
    fn population(&self) -> Option<usize> {
        None
    }
    /// An empty batch for `capacity` sequences of this source, with the side columns that it fills.
    ///
    /// # Errors
    /// When the size overflows.
    fn batch(&self, capacity: usize) -> Result<Batch> {
        Batch::with_capacity(self.targets(), capacity, self.seq_len(), self.vocab())
    }
    /// A workspace for [`fill`](Self::fill); make one per thread or shard.
    fn work(&self) -> SourceWork;
    /// Overwrites `batch` with the sequences `first .. first + count`. An output that counts has
    /// weight 1, or the probability of its sequence if the population is enumerated. Other outputs
    /// have weight 0.
    ///
    /// Sequence number n does not depend on the batch that holds it, so a batch may be split into
    /// shards in any way. Allocates nothing.
    ///
    /// # Panics
    /// If `batch` has other sizes or a capacity below `count`, or another source made `work`.
    fn fill(&self, first: u64, count: usize, work: &mut SourceWork, batch: &mut Batch);
}
