//! Sources fill batches: from samples, or exactly.
use crate::Result;
use crate::batch::Batch;
/// Memory of a source.
#[derive(Debug)]
pub struct SourceWork;
/// A stream of weighted sequences addressed by index.
pub trait Source: Sync + Send {
    /// T.
    fn seq_len(&self) -> usize;
    /// S.
    fn vocab(&self) -> usize;
    /// Memory for [`Source::fill`].
    fn work(&self) -> SourceWork;
    /// Fills `batch` with samples `first..first + count`, each of weight `1 / denominator`.
    ///
    /// # Errors
    /// When `batch` does not fit.
    fn fill(
        &self,
        first: u64,
        count: usize,
        denominator: usize,
        work: &mut SourceWork,
        batch: &mut Batch,
    ) -> Result<()>;
}
