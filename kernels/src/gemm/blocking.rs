//! Block sizes of the matrix product: one page of data.
//!
//! `kc` fixes where a sum over k is cut, hence the bits of the result; it is a constant of the
//! instruction set and the type and must never follow the machine. `mc` and `nc` only move work
//! between cache levels.

use crate::simd::Isa;

/// Cache blocks. B (kc, nc) stays in L2 while rows of A pass, one panel in L1 at a time (a panel of
/// B, where it fits). Where A is packed, a block (mc, kc) stays in L2, and twice as many columns of
/// B pass ([`Blocking::columns`]), so that the copies gain more than they cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blocking {
    pub(crate) mc: usize,
    pub(crate) kc: usize,
    pub(crate) nc: usize,
}

impl Blocking {
    /// Columns of a block of B.
    #[inline(always)]
    pub(crate) const fn columns(self, pack_a: bool) -> usize {
        if pack_a { self.nc.saturating_mul(2) } else { self.nc }
    }
}

/// The blocks for elements of `bytes` bytes.
#[inline]
pub(crate) const fn blocking(isa: Isa, bytes: usize) -> Blocking {
    // B (kc, nc) takes about half of an L2 of 1 MiB. Where A is packed, its block takes the other
    // half and the wider one of B comes from L3, panel by panel. With kc = 512 a panel of B does
    // not fit L1, but streaming it from L2 costs less than going through C twice as often (Intel
    // Xeon, 1024^3 f32: 121 -> 135 GFLOP/s).
    match (isa, bytes) {
        (Isa::Avx512, 4) => Blocking { mc: 256, kc: 512, nc: 288 },
        (Isa::Avx512, _) => Blocking { mc: 128, kc: 512, nc: 144 },
        (Isa::Avx2, 4) => Blocking { mc: 240, kc: 512, nc: 256 },
        (Isa::Avx2, _) => Blocking { mc: 120, kc: 512, nc: 128 },
        (Isa::Portable, 4) => Blocking { mc: 256, kc: 512, nc: 256 },
        (Isa::Portable, _) => Blocking { mc: 128, kc: 512, nc: 128 },
    }
}

/// Does a copy of A in panels repay itself? Only where its rows are not contiguous, so that each
/// step of k is another cache line and soon another page, and every panel is read many times.
/// Contiguous rows are as good as panels.
#[inline]
pub(crate) fn pays_to_pack_a(k: usize, n: usize, col_stride: usize) -> bool {
    col_stride != 1 && k.saturating_mul(col_stride) >= 1 << 17 && n >= 256
}

/// Does a copy of B in panels repay itself, its columns being contiguous? Where many rows of A use
/// it, and either its rows straddle cache lines (20480 x 30 x 30 f32 on an Intel Xeon: 113 -> 133
/// GFLOP/s) or it is spread over more than L2. What is about as large is as good in place: 128^3 to
/// 512^3 f32 on Zen 5 are 2 to 6% faster so.
#[inline]
pub(crate) fn pays_to_pack_b(m: usize, k: usize, n: usize, row_stride: usize, bytes: usize) -> bool {
    let row = row_stride.wrapping_mul(bytes);
    m >= 128 && n > 1 && (m >= 512 && !row.is_multiple_of(64) || k.saturating_mul(row) >= 5 << 18)
}
