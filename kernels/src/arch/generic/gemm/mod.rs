//! Matrix product over [`Simd`]: the register tile and its two loops, and the unpacked product that other kernels use too.

mod blocked;
mod pack;
mod tile;

use super::super::Simd;
use crate::Write;
use crate::elem::Elem;
#[cfg(feature = "parallel")]
pub(crate) use blocked::even_columns;
pub(crate) use blocked::{PackOp, Product, ProductOp, SmallOp, pack_len, prepacked_len};
pub(crate) use tile::Block;
use tile::BlockOp;

/// `C = alpha A B` or `C += alpha A B`, nothing packed: C (m, n) and B (k, n) with contiguous columns, A (m, k) of any strides.
///
/// Every entry of C is one FMA chain over k in order, then `alpha * sum` or `c + alpha * sum` (one FMA). `Set` never
/// reads C; k = 0 gives `alpha * 0`; m = 0 or n = 0 does nothing.
///
/// The work happens in a function of its own per instruction set and type ([`Simd::outline`]): the ladder of tiles is
/// some tens of KiB of code, and every kernel that multiplies small matrices calls this one copy. The call costs a few ns.
///
/// # Safety
/// Entries `a[i * rs_a + p * cs_a]` and `b[p * rs_b + j]` are readable, `c[i * rs_c + j]` writable, readable too for `Add`,
/// and distinct from one another and from A and B.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
// Attention has tiles of its own now: only the tests of the tile are left here.
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) unsafe fn gemm_unpacked<E: Elem, S: Simd<E>>(
    s: S,
    m: usize,
    k: usize,
    n: usize,
    alpha: E,
    a: *const E,
    rs_a: usize,
    cs_a: usize,
    b: *const E,
    rs_b: usize,
    c: *mut E,
    rs_c: usize,
    write: Write,
) {
    let block =
        Block { m, k, n, alpha, a, rs_a, cs_a, packed_a: false, b, rs_b, packed_b: false, c, rs_c, write };
    // SAFETY: the contract above, nothing being packed.
    s.outline(unsafe { BlockOp::new(&block) });
}

#[cfg(test)]
mod tests;
