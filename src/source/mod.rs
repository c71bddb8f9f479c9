//! Sources: what fills a batch, by sampling or by enumeration.

mod sampled;

pub use sampled::Sampled;

use crate::batch::Batch;
use crate::task::CausalTreeWork;

/// Fills batches with weighted sequences; the model cannot tell one source from another.
pub trait Source: Send + Sync {
    /// Sequence length T, the query included.
    fn seq_len(&self) -> usize;
    /// Alphabet size S.
    fn vocab(&self) -> usize;
    /// Storage for [`fill`](Self::fill), one per thread or shard.
    fn work(&self) -> SourceWork;
    /// Overwrites `batch` with the sequences `first .. first + count`, each of weight 1 / `denominator`.
    ///
    /// Sequence number n is the same whatever batch it lands in, so shards may split a batch at will, passing the
    /// size of the whole batch as `denominator`. Allocates nothing.
    ///
    /// # Panics
    /// When `batch` has another T or S or room for fewer than `count` sequences, when `work` was made by another
    /// source, or when `denominator` is 0.
    fn fill(&self, first: u64, count: usize, denominator: usize, work: &mut SourceWork, batch: &mut Batch);
}

/// Working storage of a [`Source`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SourceWork {
    /// Of a source over [`CausalTree`](crate::task::CausalTree).
    CausalTree(CausalTreeWork),
}
