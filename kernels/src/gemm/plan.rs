//! How a product is computed: its blocks, what is packed, and the scratch that this takes.

use crate::elem::real::Real;
use crate::gemm::blocking::{Blocking, blocking, pays_to_pack_a, pays_to_pack_b};
use crate::gemm::loops::pack_len;
use crate::simd::Isa;
use crate::simd::tiles::MAX_LANES;

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

    /// Pack A and B, whose strides these are? Sizes and strides alone decide, and only over time:
    /// the bits are the same either way.
    #[inline]
    pub(crate) fn packs<E: Real>(&self, [m, k, n]: [usize; 3], a: [usize; 2], b: [usize; 2]) -> [bool; 2] {
        let [pack_a, pack_b] = self
            .pack
            .unwrap_or_else(|| [pays_to_pack_a(k, n, a[1]), pays_to_pack_b(m, k, n, b[0], size_of::<E>())]);
        // Always where the columns of B are not contiguous.
        [pack_a, pack_b || b[1] != 1 && n != 1]
    }

    /// Is a product of these sizes one block?
    #[inline]
    pub(crate) fn small(&self, [m, k, n]: [usize; 3]) -> bool {
        let Blocking { mc, kc, nc } = self.blocking;
        m <= mc && k <= kc && n <= nc
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

/// [`Plan::scratch`] of a product that no block or staging size cuts, for [`MAX_LANES`]: the same
/// number in a few operations.
#[inline]
pub(crate) fn small_scratch(m: usize, k: usize, n: usize) -> usize {
    let up = |x: usize| x.next_multiple_of(MAX_LANES);
    (m * n).next_multiple_of(ALIGN) + k * (up(n) + m).max(up(m) + n)
}

/// Is the transpose the product to compute, so that columns of C are contiguous? A column of C lies
/// both ways; transposed, its vectors run down A, which must lie that way too.
#[inline]
pub(crate) fn transposes([m, n]: [usize; 2], rs_a: usize, [rs_c, cs_c]: [usize; 2]) -> bool {
    if n == 1 { m > 1 && rs_c == 1 && rs_a == 1 } else { cs_c != 1 && (rs_c == 1 || m == 1) }
}

/// Packed panels start on a cache line: 16 elements of f32 or more.
pub(crate) const ALIGN: usize = 16;
