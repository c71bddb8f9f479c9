//! The register tile: loops 2 and 1 of the product, and the kernel inside them.

use crate::Write;
use crate::arch::{Op, Simd};
use crate::elem::Elem;
use crate::gemm::blocking::{MAX_ROWS, tile as tile_shape};
use std::marker::PhantomData;

/// One block product C (m, n) = or += alpha A (m, k) B (k, n), operands in place or packed into panels.
///
/// Packed operands are panels one after another, each as [`Split`] cuts them: A as k columns of `rows` elements, B as k
/// rows of a whole number of vectors.
#[derive(Clone, Copy)]
pub(crate) struct Block<E> {
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) alpha: E,
    pub(crate) a: *const E,
    /// Strides of A in place; unused when packed.
    pub(crate) rs_a: usize,
    pub(crate) cs_a: usize,
    pub(crate) packed_a: bool,
    pub(crate) b: *const E,
    /// Row stride of B in place, whose columns are contiguous; unused when packed.
    pub(crate) rs_b: usize,
    pub(crate) packed_b: bool,
    pub(crate) c: *mut E,
    /// Row stride of C, whose columns are contiguous.
    pub(crate) rs_c: usize,
    pub(crate) write: Write,
}

/// `len` cut into the fewest pieces of at most `max`, as equal as can be, the longer ones first. Equal pieces keep every
/// tile tall enough to hide the latency of the FMAs: 20 rows are 7 + 7 + 6, not 8 + 8 + 4.
#[derive(Clone, Copy)]
pub(super) struct Split {
    pub(super) pieces: usize,
    base: usize,
    longer: usize,
}

impl Split {
    #[inline(always)]
    pub(super) fn new(len: usize, max: usize) -> Self {
        let pieces = len.div_ceil(max);
        if pieces == 0 {
            return Split { pieces, base: 0, longer: 0 };
        }
        Split { pieces, base: len / pieces, longer: len % pieces }
    }

    #[inline(always)]
    pub(super) fn size(self, piece: usize) -> usize {
        self.base + usize::from(piece < self.longer)
    }
}

/// How the rows of A and C are cut beside `nv` vectors.
#[inline(always)]
pub(super) fn row_split<E: Elem, S: Simd<E>>(m: usize, nv: usize) -> Split {
    Split::new(m, tile_shape(S::ISA).mr[nv - 1])
}

/// How the rows of A are cut where they are packed: one way for tiles of any width, that of the widest.
#[inline(always)]
pub(super) fn packed_row_split<E: Elem, S: Simd<E>>(m: usize) -> Split {
    row_split::<E, S>(m, const { tile_shape(S::ISA).nv })
}

/// How the columns of B and C are cut, counted in vectors.
#[inline(always)]
pub(super) fn vector_split<E: Elem, S: Simd<E>>(n: usize) -> Split {
    Split::new(n.div_ceil(S::LANES), const { tile_shape(S::ISA).nv })
}

/// Whether an instruction set has a tile of M rows by NV vectors: a constant, so that the others are never compiled.
struct Has<E, S, const M: usize, const NV: usize>(PhantomData<(E, S)>);

impl<E: Elem, S: Simd<E>, const M: usize, const NV: usize> Has<E, S, M, NV> {
    const TILE: bool = {
        let t = tile_shape(S::ISA);
        let tallest = t.mr[NV - 1];
        assert!(tallest <= MAX_ROWS && t.mr[t.nv - 1] <= tallest || NV > t.nv);
        NV <= t.nv && M <= tallest
    };
}

/// [`Block`] as an operation of its own.
pub(super) struct BlockOp<'a, E>(&'a Block<E>);

impl<'a, E> BlockOp<'a, E> {
    /// # Safety
    /// All entries of A and B are readable and those of C writable, readable too for [`Write::Add`], each entry of C an element
    /// of its own, apart from A and B. Packed operands hold whole panels as `pack.rs` writes them.
    #[inline(always)]
    pub(super) unsafe fn new(block: &'a Block<E>) -> Self {
        BlockOp(block)
    }
}

impl<E: Elem> Op<E> for BlockOp<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        let x = self.0;
        let vectors = vector_split::<E, S>(x.n);
        let mut col = 0;
        for piece in 0..vectors.pieces {
            let nv = vectors.size(piece);
            let width = (nv * S::LANES).min(x.n - col);
            let last = width - (nv - 1) * S::LANES;
            // SAFETY: the contract of `BlockOp::new`; column `col` is inside B and C, and a
            // packed panel starts after the k rows of `col` elements before it.
            unsafe {
                let (b, rs_b) =
                    if x.packed_b { (x.b.add(col * x.k), nv * S::LANES) } else { (x.b.add(col), x.rs_b) };
                let c = x.c.add(col);
                match (nv, last == S::LANES) {
                    (1, true) => column::<E, S, 1, true>(s, x, b, rs_b, last, c),
                    (1, false) => column::<E, S, 1, false>(s, x, b, rs_b, last, c),
                    (2, true) => column::<E, S, 2, true>(s, x, b, rs_b, last, c),
                    (2, false) => column::<E, S, 2, false>(s, x, b, rs_b, last, c),
                    (_, true) => column::<E, S, 3, true>(s, x, b, rs_b, last, c),
                    (_, false) => column::<E, S, 3, false>(s, x, b, rs_b, last, c),
                }
            }
            col += width;
        }
    }
}

/// Loop 1: all row panels against one panel of B, `NV` vectors wide with `last` lanes in the last one.
///
/// # Safety
/// `b` and `c` point at a column panel of the operands of `x`, which are valid.
#[inline(always)]
unsafe fn column<E: Elem, S: Simd<E>, const NV: usize, const FULL: bool>(
    s: S,
    x: &Block<E>,
    b: *const E,
    rs_b: usize,
    last: usize,
    c: *mut E,
) {
    let rows = if x.packed_a { packed_row_split::<E, S>(x.m) } else { row_split::<E, S>(x.m, NV) };
    let mut row = 0;
    for piece in 0..rows.pieces {
        let mr = rows.size(piece);
        // SAFETY: row `row` is inside A and C; a packed panel starts after the k columns of `row` elements before it.
        unsafe {
            let (a, rs_a, cs_a) = if x.packed_a {
                (x.a.add(row * x.k), 1, mr)
            } else {
                (x.a.add(row * x.rs_a), x.rs_a, x.cs_a)
            };
            let t = Operands { k: x.k, a, rs_a, cs_a, b, rs_b, last, alpha: x.alpha };
            let (c, rs_c, write) = (c.add(row * x.rs_c), x.rs_c, x.write);
            match mr {
                1 => tile::<E, S, 1, NV, FULL>(s, t, c, rs_c, write),
                2 => tile::<E, S, 2, NV, FULL>(s, t, c, rs_c, write),
                3 => tile::<E, S, 3, NV, FULL>(s, t, c, rs_c, write),
                4 => tile::<E, S, 4, NV, FULL>(s, t, c, rs_c, write),
                5 => tile::<E, S, 5, NV, FULL>(s, t, c, rs_c, write),
                6 => tile::<E, S, 6, NV, FULL>(s, t, c, rs_c, write),
                7 => tile::<E, S, 7, NV, FULL>(s, t, c, rs_c, write),
                8 => tile::<E, S, 8, NV, FULL>(s, t, c, rs_c, write),
                9 => tile::<E, S, 9, NV, FULL>(s, t, c, rs_c, write),
                10 => tile::<E, S, 10, NV, FULL>(s, t, c, rs_c, write),
                11 => tile::<E, S, 11, NV, FULL>(s, t, c, rs_c, write),
                12 => tile::<E, S, 12, NV, FULL>(s, t, c, rs_c, write),
                13 => tile::<E, S, 13, NV, FULL>(s, t, c, rs_c, write),
                14 => tile::<E, S, 14, NV, FULL>(s, t, c, rs_c, write),
                15 => tile::<E, S, 15, NV, FULL>(s, t, c, rs_c, write),
                _ => tile::<E, S, 16, NV, FULL>(s, t, c, rs_c, write),
            }
        }
        row += mr;
    }
}

/// What a tile reads.
struct Operands<E> {
    k: usize,
    a: *const E,
    rs_a: usize,
    cs_a: usize,
    b: *const E,
    rs_b: usize,
    last: usize,
    alpha: E,
}

/// M rows by NV vectors of C. Every entry is one FMA chain over k in order; `FULL` says that the last vector has all lanes.
///
/// # Safety
/// k columns of M elements of A are readable with the strides; k rows of `(NV - 1) * LANES + last` elements of B, `last <=
/// LANES`; M rows as wide of C are readable (for [`Write::Add`]) and writable.
#[inline(always)]
unsafe fn tile<E: Elem, S: Simd<E>, const M: usize, const NV: usize, const FULL: bool>(
    s: S,
    t: Operands<E>,
    c: *mut E,
    rs_c: usize,
    write: Write,
) {
    if !Has::<E, S, M, NV>::TILE {
        return;
    }
    let zero = s.splat(E::ZERO);
    let mut acc = [[zero; NV]; M];
    let (mut a, mut b) = (t.a, t.b);
    for _ in 0..t.k {
        let mut bv = [zero; NV];
        for j in 0..NV {
            // SAFETY: inside this row of B, by the contract above.
            bv[j] = unsafe { load::<E, S, NV, FULL>(s, b.add(j * S::LANES), j, t.last) };
        }
        for i in 0..M {
            // SAFETY: inside this column of A, by the contract above.
            let av = s.splat(unsafe { *a.add(i * t.rs_a) });
            for j in 0..NV {
                acc[i][j] = s.fma(av, bv[j], acc[i][j]);
            }
        }
        // Wrapping: after the last step the pointers may leave their allocations.
        a = a.wrapping_add(t.cs_a);
        b = b.wrapping_add(t.rs_b);
    }
    let alpha = s.splat(t.alpha);
    for i in 0..M {
        for j in 0..NV {
            // SAFETY: row i, vector j of the tile in C, by the contract above.
            unsafe {
                let p = c.add(i * rs_c + j * S::LANES);
                let v = match write {
                    Write::Set => s.mul(alpha, acc[i][j]),
                    Write::Add => s.fma(alpha, acc[i][j], load::<E, S, NV, FULL>(s, p, j, t.last)),
                };
                if FULL || j + 1 < NV {
                    s.store(p, v);
                } else {
                    s.store_partial(p, t.last, v);
                }
            }
        }
    }
}

/// Vector j of NV, all lanes or the first `last`.
///
/// # Safety
/// The lanes that it reads are readable, `last <= LANES`.
#[inline(always)]
unsafe fn load<E: Elem, S: Simd<E>, const NV: usize, const FULL: bool>(
    s: S,
    p: *const E,
    j: usize,
    last: usize,
) -> S::V {
    // SAFETY: the contract above.
    unsafe { if FULL || j + 1 < NV { s.load(p) } else { s.load_partial(p, last) } }
}
