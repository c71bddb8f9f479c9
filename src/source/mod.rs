//! Sources: what fills a batch, by sampling or by enumeration.

mod exact;
mod sampled;
mod trigger_population;
mod triggers;

pub use exact::Exact;
pub use sampled::Sampled;
pub use trigger_population::TriggerPopulation;
pub use triggers::{LossOn, TriggerSource};

/// Working storage of a [`Source`], of a type that only the source knows.
pub use crate::task::Work as SourceWork;

use crate::batch::{Batch, LabelledBatch};

/// Fills batches with weighted sequences; the model cannot tell one source from another.
pub trait Source: Send + Sync {
    /// Sequence length T, the query included.
    fn seq_len(&self) -> usize;
    /// Alphabet size S.
    fn vocab(&self) -> usize;
    /// Sequences of one pass over everything, if there is an end: a batch of that many is the population itself.
    fn population(&self) -> Option<usize> {
        None
    }
    /// Storage for [`fill`](Self::fill), one per thread or shard.
    fn work(&self) -> SourceWork;
    /// Overwrites `batch` with the sequences `first .. first + count`, each of weight 1 / `denominator`, or of p N /
    /// `denominator` where it is one of N with probability p.
    ///
    /// Sequence number n is the same whatever batch it lands in, so shards may split a batch at will, passing the
    /// size of the whole batch as `denominator`. Allocates nothing.
    ///
    /// # Panics
    /// When `batch` has another T or S or room for fewer than `count` sequences, when `work` was made by another
    /// source, or when `denominator` is 0.
    fn fill(&self, first: u64, count: usize, denominator: usize, work: &mut SourceWork, batch: &mut Batch);
}

/// Fills batches with sequences that have a label at every position.
pub trait LabelledSource: Send + Sync {
    /// Sequence length T.
    fn seq_len(&self) -> usize;
    /// Alphabet size N.
    fn vocab(&self) -> usize;
    /// Sequences of one pass over everything, if there is an end: a batch of that many is the population itself.
    fn population(&self) -> Option<usize> {
        None
    }
    /// Storage for [`fill`](Self::fill), one per thread or shard.
    fn work(&self) -> SourceWork;
    /// Overwrites `batch` with the sequences `first .. first + count`: weight 1 (or the word's probability) where a position counts,
    /// 0 elsewhere. Sequence number n is the same whatever batch it lands in. Allocates nothing.
    ///
    /// # Panics
    /// When `batch` has another T or N or room for fewer than `count` sequences, or `work` was made by another source.
    fn fill(&self, first: u64, count: usize, work: &mut SourceWork, batch: &mut LabelledBatch);
}
