//! Loss and gradient of a soft average over words, summed over every word of an alphabet.

use crate::elem::Elem;
use crate::error::{KernelError, expect};
use crate::kernels::Kernels;
use crate::prefix_tree::loops::{WalkOp, scratch_len};
use crate::scratch::Scratch;

pub(crate) mod accumulator;
pub(crate) mod loops;
pub(crate) mod plan;
pub(crate) mod problem;

pub use accumulator::{Accumulator, Compensated};
pub use plan::{MAX_LEN, MAX_PREFIXES, MAX_SUFFIXES, Plan, Shape};
pub use problem::{Walk, Weights};

impl<E: Elem> Kernels<E> {
    /// Scratch elements that [`Kernels::prefix_tree`] needs.
    ///
    /// # Errors
    /// As there.
    pub fn prefix_tree_scratch(&self, walk: &Walk<'_, E>) -> Result<usize, KernelError> {
        walk.check()?;
        Ok(scratch_len(walk))
    }

    /// Adds the words under the plan's prefixes `prefixes` to `acc`.
    ///
    /// # Errors
    /// A walk out of range, scratch too small, an accumulator of another size.
    pub fn prefix_tree(
        &self,
        walk: &Walk<'_, E>,
        prefixes: std::ops::Range<usize>,
        acc: &mut Accumulator,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        walk.check()?;
        let op = "prefix_tree";
        if prefixes.end > walk.plan.prefixes() {
            return Err(KernelError::Domain { op, what: "prefixes", allowed: "up to those of the plan" });
        }
        expect(op, "accumulator symbols", walk.plan.tracked(), acc.symbols())?;
        expect(op, "accumulator length", walk.plan.word_len(), acc.len())?;
        let scratch = scratch.get(scratch_len(walk))?;
        E::run_walk(self.isa(), WalkOp { walk, first: prefixes.start, last: prefixes.end, acc, scratch });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
