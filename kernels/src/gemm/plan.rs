//! How a product is computed: its blocks, what is packed, and the scratch that this takes.

use crate::elem::real::Real;
use crate::gemm::blocking::{Blocking, blocking, pays_to_pack_a, pays_to_pack_b};
use crate::gemm::loops::pack_len;
use crate::simd::Isa;

/// What the tests vary and the public entry derives from shapes and strides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) blocking: Blocking,
    /// Packs A, and B even where its columns are contiguous; `None`: as sizes and strides suggest.
    pub(crate) pack: Option<[bool; 2]>,
    /// Where C has neither contiguous rows nor columns: the block that it is computed in.
    pub(crate) staging: (usize, usize),
}

const STAGING: (usize, usize) = (64, 256);

impl Plan {
    /// What the library chooses: a constant of instruction set and type.
    #[inline]
    pub(crate) fn new<E: Real>(isa: Isa) -> Self {
        Plan { blocking: blocking(isa, size_of::<E>()), pack: None, staging: STAGING }
    }

    /// Pack A, and B even where its columns are contiguous? Sizes and strides alone decide, and
    /// only over time: the bits are the same either way.
    #[inline]
    pub(crate) fn packs<E: Real>(&self, [m, k, n]: [usize; 3], a_cols: usize, b_rows: usize) -> [bool; 2] {
        self.pack.unwrap_or_else(|| {
            [pays_to_pack_a(k, n, a_cols), pays_to_pack_b(m, k, n, b_rows, size_of::<E>())]
        })
    }

    /// Scratch elements for any strides, as many for the transposed problem: either may come behind
    /// the staging block. Nothing here can overflow, every factor being capped by a block size.
    #[inline]
    pub(crate) fn scratch(&self, m: usize, k: usize, n: usize, lanes: usize) -> usize {
        if m == 0 || n == 0 {
            return 0;
        }
        let (rows, cols) = self.staging;
        let staging = (m.min(rows) * n.min(cols)).max(n.min(rows) * m.min(cols));
        staging.next_multiple_of(ALIGN)
            + pack_len(m, k, n, self.blocking, lanes).max(pack_len(n, k, m, self.blocking, lanes))
    }
}

/// Packed panels start on a cache line: 16 elements of f32 or more.
pub(crate) const ALIGN: usize = 16;
