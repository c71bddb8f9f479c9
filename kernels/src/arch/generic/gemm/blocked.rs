//! Loops 5 to 3 of the product: blocks of B that stay in L2 or L3, blocks of A that stay in L2, packed where asked.
//!
//! ```text
//! 5  for jc in n by nc
//! 4    for pc in k by kc            pack B (kc, nc)?
//! 3      for ic in m by mc          pack A (mc, kc)?
//! 2        for jr in nc by a tile   |
//! 1          for ir in mc by a tile | tile.rs
//! ```
//!
//! Whether to pack, mc and nc do not touch the bits of the result: every entry of C is one FMA chain per kc block,
//! and the blocks are added in order.

use super::pack::{pack_a, pack_b};
use super::tile::{Block, BlockOp};
use crate::Write;
use crate::arch::{Op, Simd};
use crate::elem::Elem;
use crate::gemm::blocking::Blocking;

/// A product whose C has contiguous columns, and how to compute it.
#[derive(Clone, Copy)]
pub(crate) struct Product<E> {
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) alpha: E,
    pub(crate) a: *const E,
    pub(crate) rs_a: usize,
    pub(crate) cs_a: usize,
    pub(crate) b: *const E,
    pub(crate) rs_b: usize,
    pub(crate) cs_b: usize,
    pub(crate) c: *mut E,
    pub(crate) rs_c: usize,
    pub(crate) write: Write,
    pub(crate) blocking: Blocking,
    pub(crate) pack_a: bool,
    /// Must be true where the columns of B are not contiguous.
    pub(crate) pack_b: bool,
    /// Room for the packed block of B, then that of A: see `pack_len`.
    pub(crate) scratch: *mut E,
}

/// Elements of scratch that a [`Product`] needs at most, for vectors of `lanes`.
pub(crate) fn pack_len(m: usize, k: usize, n: usize, blocking: Blocking, lanes: usize) -> usize {
    let k = k.min(blocking.kc);
    k * (n.min(blocking.nc).next_multiple_of(lanes) + m.min(blocking.mc))
}

/// [`Product`] as an operation.
#[derive(Clone, Copy)]
pub(crate) struct ProductOp<E>(Product<E>);

impl<E> ProductOp<E> {
    /// # Safety
    /// All entries of A and B are readable and those of C writable, readable too for [`Write::Add`], each entry of C an element
    /// of its own, apart from A, B and scratch; the latter has [`pack_len`] elements. The blocks are at least 1, and B is
    /// packed where its columns are not contiguous.
    pub(crate) unsafe fn new(product: Product<E>) -> Self {
        ProductOp(product)
    }
}

impl<E: Elem> Op<E> for ProductOp<E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        let x = self.0;
        let Blocking { mc, kc, nc } = x.blocking;
        debug_assert!(x.pack_b || x.cs_b == 1 || x.n == 1);
        // Blocks of m and n as equal as can be: 520 columns are 272 + 248, not 512 + 8. Those of n are whole vectors.
        // What fits one block is not divided, divisions being as long as a small tile.
        let mc = if x.m <= mc { x.m } else { x.m.div_ceil(x.m.div_ceil(mc)) };
        let nc = if x.n <= nc { x.n } else { x.n.div_ceil(x.n.div_ceil(nc)).next_multiple_of(S::LANES) };
        let mut jc = 0;
        while jc < x.n {
            let n = nc.min(x.n - jc);
            let mut pc = 0;
            loop {
                let k = kc.min(x.k - pc);
                // The first block sets what the others add to.
                let write = if pc == 0 { x.write } else { Write::Add };
                let mut b = x.b.wrapping_add(pc * x.rs_b + jc * x.cs_b);
                let a_room = x.scratch.wrapping_add(k * n.next_multiple_of(S::LANES));
                if x.pack_b {
                    // SAFETY: the contract of `ProductOp::new`; (pc, jc) is the corner of a (k, n) block of B, and scratch has
                    // room for it, k <= kc and n <= nc.
                    unsafe { pack_b(s, k, n, b, x.rs_b, x.cs_b, x.scratch) };
                    b = x.scratch;
                }
                let mut ic = 0;
                while ic < x.m {
                    let m = mc.min(x.m - ic);
                    let mut a = x.a.wrapping_add(ic * x.rs_a + pc * x.cs_a);
                    if x.pack_a {
                        // SAFETY: as for B, behind whose room that of A begins.
                        unsafe { pack_a(s, m, k, a, x.rs_a, x.cs_a, a_room) };
                        a = a_room;
                    }
                    let block = Block {
                        m,
                        k,
                        n,
                        alpha: x.alpha,
                        a,
                        rs_a: x.rs_a,
                        cs_a: x.cs_a,
                        packed_a: x.pack_a,
                        b,
                        rs_b: x.rs_b,
                        packed_b: x.pack_b,
                        c: x.c.wrapping_add(ic * x.rs_c + jc),
                        rs_c: x.rs_c,
                        write,
                    };
                    // SAFETY: the contract of `ProductOp::new`; the three corners are those of blocks inside A, B and C, and
                    // what is packed was packed just now with the same sizes.
                    s.outline(unsafe { BlockOp::new(&block) });
                    ic += m;
                }
                pc += k;
                if pc >= x.k {
                    break;
                }
            }
            jc += n;
        }
    }
}
