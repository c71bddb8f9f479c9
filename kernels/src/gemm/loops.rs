//! Loops 5 to 3 of the product: blocks of B that stay in L2 or L3, blocks of A that stay in L2,
//! packed where asked.
//!
//! ```text
//! 5  for jc in n by nc              twice nc where A is packed, unless the caller packed B
//! 4    for pc in k by kc
//!        for q in the batch         pack B (kc, nc)? once if all share it, never if the caller did
//! 3        for ic in m by mc        pack A (mc, kc)?
//! 2          for ir in mc by a tile   |
//! 1            for jr in nc by a tile | tile.rs, these two the other way round for some blocks
//! ```
//!
//! Whether to pack, mc and nc do not touch the bits of the result: every entry of C is one FMA
//! chain per kc block, and the blocks are added in order.

use crate::elem::real::Real;
use crate::gemm::blocking::Blocking;
use crate::gemm::pack::{pack_a, pack_b};
use crate::gemm::tile::{Block, BlockOp, Step, block_split, steps};
use crate::simd::tiles::MAX_LANES;
use crate::simd::{Op, Simd, compiled_once};
use crate::view::Write;

compiled_once! {
    /// The loops of a product, of a small one, and packing.
    GemmBodies {
        fn run_product(ProductOp<'_, Self>);
        fn run_small_product(SmallOp<'_, Self>);
        fn run_plan(PlanOp<'_, Self>) -> Vec<Step<Self>>;
        fn run_pack(PackOp<Self>);
    }
}

/// `count` products of one shape whose C have contiguous columns, and how to compute them.
#[derive(Clone, Copy)]
pub(crate) struct Product<E> {
    pub(crate) count: usize,
    /// Elements from one A, B and C to the next; 0 for an A or B that all products share.
    pub(crate) next: [usize; 3],
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
    /// B is what [`PackOp`] wrote with the same n and blocking; its strides and `pack_b` are not
    /// looked at.
    pub(crate) prepacked: bool,
    /// Room for the packed block of B, then that of A: see `pack_len`.
    pub(crate) scratch: *mut E,
}

/// Elements of scratch that a [`Product`] needs at most, for vectors of `lanes`. (With B packed
/// before, a block of A is enough.)
#[inline]
pub(crate) fn pack_len(m: usize, k: usize, n: usize, blocking: Blocking, lanes: usize) -> usize {
    let k = k.min(blocking.kc);
    k * (n.min(blocking.columns(true)).next_multiple_of(lanes) + m.min(blocking.mc))
}

/// Elements of all of B in panels, the last vector of each row padded; `None` on overflow.
pub(crate) fn prepacked_len(k: usize, n: usize, lanes: usize) -> Option<usize> {
    n.checked_next_multiple_of(lanes)?.checked_mul(k)
}

/// `len` in blocks as equal as can be: 520 columns are 272 + 248, not 512 + 8. What fits one block
/// is not divided, divisions being as long as a small tile.
#[inline(always)]
fn even_block(len: usize, block: usize) -> usize {
    if len <= block { len } else { len.div_ceil(len.div_ceil(block)) }
}

/// The same for columns, which are cut at whole vectors of any instruction set. Asked for blocks of
/// this size, n columns are cut as before.
#[inline(always)]
pub(crate) fn even_columns(n: usize, mut nc: usize) -> usize {
    while n > nc {
        let even = even_block(n, nc).next_multiple_of(MAX_LANES);
        if even == nc {
            break;
        }
        nc = even;
    }
    n.min(nc)
}

/// [`Product`] as an operation.
#[derive(Clone, Copy)]
pub(crate) struct ProductOp<'a, E>(&'a Product<E>);

impl<'a, E> ProductOp<'a, E> {
    /// # Safety
    /// All entries of A and B are readable and those of C writable, readable too for
    /// [`Write::Add`], each entry of C an element of its own, apart from A, B and scratch; the
    /// latter has [`pack_len`] elements, or room for a block of A where B is packed before. The
    /// blocks are at least 1, and B is packed where its columns are not contiguous.
    pub(crate) unsafe fn new(product: &'a Product<E>) -> Self {
        ProductOp(product)
    }
}

impl<E: Real> Op<E> for ProductOp<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        let x = self.0;
        let Blocking { mc, kc, .. } = x.blocking;
        // Panels packed before were cut without knowing A.
        let nc = x.blocking.columns(x.pack_a && !x.prepacked);
        debug_assert!(x.prepacked || x.pack_b || x.cs_b == 1 || x.n == 1);
        let (mc, nc) = (even_block(x.m, mc), even_columns(x.n, nc));
        let pack = x.pack_b && !x.prepacked;
        let mut jc = 0;
        while jc < x.n {
            let n = nc.min(x.n - jc);
            let padded = n.next_multiple_of(S::LANES);
            let mut pc = 0;
            loop {
                let k = kc.min(x.k - pc);
                // The first block sets what the others add to.
                let write = if pc == 0 { x.write } else { Write::Add };
                let a_room = if x.prepacked { x.scratch } else { x.scratch.wrapping_add(k * padded) };
                for q in 0..x.count {
                    let [next_a, next_b, next_c] = x.next;
                    let mut b = if x.prepacked {
                        x.b.wrapping_add(x.k * jc + pc * padded)
                    } else {
                        x.b.wrapping_add(q * next_b + pc * x.rs_b + jc * x.cs_b)
                    };
                    if pack {
                        if q == 0 || next_b != 0 {
                            // SAFETY: the contract of `ProductOp::new`; (pc, jc) is the corner of a
                            // (k, n) block of B, and scratch has room for it, k <= kc and n <= nc.
                            unsafe { pack_b(s, k, n, b, x.rs_b, x.cs_b, x.scratch) };
                        }
                        b = x.scratch;
                    }
                    let mut ic = 0;
                    while ic < x.m {
                        let m = mc.min(x.m - ic);
                        let mut a = x.a.wrapping_add(q * next_a + ic * x.rs_a + pc * x.cs_a);
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
                            packed_b: x.pack_b || x.prepacked,
                            c: x.c.wrapping_add(q * next_c + ic * x.rs_c + jc),
                            rs_c: x.rs_c,
                            write,
                        };
                        let rows = block_split::<E, S>(&block);
                        let mut row = 0;
                        for piece in 0..rows.pieces {
                            let part = Block {
                                m: rows.size(piece),
                                a: block.a.wrapping_add(row * if x.pack_a { k } else { x.rs_a }),
                                c: block.c.wrapping_add(row * x.rs_c),
                                ..block
                            };
                            row += part.m;
                            // SAFETY: the contract of `ProductOp::new`; the three corners are those
                            // of blocks inside A, B and C, and what is packed was packed with the
                            // same sizes, the rows of a part being whole panels.
                            unsafe { BlockOp::new(&part) }.run(s);
                        }
                        ic += m;
                    }
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

/// One block, nothing packed: what most small products are, without the loops around it.
pub(crate) struct SmallOp<'a, E>(BlockOp<'a, E>);

impl<'a, E> SmallOp<'a, E> {
    /// # Safety
    /// As for [`BlockOp::new`].
    pub(crate) unsafe fn new(block: &'a Block<E>) -> Self {
        // SAFETY: the contract above.
        SmallOp(unsafe { BlockOp::new(block) })
    }
}

impl<E: Real> Op<E> for SmallOp<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        self.0.run(s);
    }
}

/// The strips of one block, nothing packed, for whoever has its operands later.
pub(crate) struct PlanOp<'a, E>(pub(crate) &'a Block<E>);

impl<E: Real> Op<E> for PlanOp<'_, E> {
    type Out = Vec<Step<E>>;
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) -> Vec<Step<E>> {
        let mut all = Vec::new();
        steps(s, self.0, |step| all.push(step));
        all
    }
}

/// All of B (k, n) in panels, block after block in the order of loops 5 and 4.
pub(crate) struct PackOp<E> {
    k: usize,
    n: usize,
    b: *const E,
    rs: usize,
    cs: usize,
    blocking: Blocking,
    to: *mut E,
}

impl<E> PackOp<E> {
    /// # Safety
    /// B is readable with its strides; `to` has [`prepacked_len`] elements for the lanes of any
    /// instruction set and overlaps nothing. The blocks are at least 1.
    pub(crate) unsafe fn new(
        [k, n]: [usize; 2],
        b: *const E,
        [rs, cs]: [usize; 2],
        blocking: Blocking,
        to: *mut E,
    ) -> Self {
        PackOp { k, n, b, rs, cs, blocking, to }
    }
}

impl<E: Real> Op<E> for PackOp<E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        let x = self;
        let (kc, nc) = (x.blocking.kc, even_columns(x.n, x.blocking.nc));
        let mut jc = 0;
        while jc < x.n {
            let n = nc.min(x.n - jc);
            let padded = n.next_multiple_of(S::LANES);
            let mut pc = 0;
            while pc < x.k {
                let k = kc.min(x.k - pc);
                let b = x.b.wrapping_add(pc * x.rs + jc * x.cs);
                // SAFETY: the contract of `PackOp::new`; the (k, n) block at (pc, jc) is inside B,
                // its panels follow the x.k rows of `jc` columns, jc being whole vectors, and the
                // pc padded rows before it.
                unsafe { pack_b(s, k, n, b, x.rs, x.cs, x.to.add(x.k * jc + pc * padded)) };
                pc += k;
            }
            jc += n;
        }
    }
}
