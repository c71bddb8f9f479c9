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
        // One piece, the common case of small products, without a division.
        if len <= max {
            return Split { pieces: usize::from(len > 0), base: len, longer: 0 };
        }
        let pieces = len.div_ceil(max);
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

/// What the last vector of a column panel is: whole, the first `last` lanes of one, or at most half of one, in a register of
/// half the width ([`Simd::Half`]): on CPUs that run 512 bits as two halves it takes half the time, on others as long as before.
const WHOLE: u8 = 0;
const MASKED: u8 = 1;
const HALF: u8 = 2;

/// Whether an instruction set has a tile of M rows by NV vectors: a constant, so that the others are never compiled.
struct Has<E, S, const M: usize, const NV: usize, const EDGE: u8>(PhantomData<(E, S)>);

impl<E: Elem, S: Simd<E>, const M: usize, const NV: usize, const EDGE: u8> Has<E, S, M, NV, EDGE> {
    const TILE: bool = {
        let t = tile_shape(S::ISA);
        let tallest = t.mr[NV - 1];
        assert!(tallest <= MAX_ROWS && t.mr[t.nv - 1] <= tallest || NV > t.nv);
        NV <= t.nv && M <= tallest && (EDGE != HALF || S::Half::LANES < S::LANES)
    };
}

/// What becomes of the sums of a tile.
#[derive(Clone, Copy)]
enum Finish {
    /// C = sums: alpha is 1, and the product with it, which would change no bit, is left out.
    Copy,
    /// C = alpha sums.
    Scale,
    /// C += sums, likewise.
    Add,
    /// C += alpha sums, one FMA.
    AddScaled,
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
        let finish = match (x.write, x.alpha == E::ONE) {
            (Write::Set, true) => Finish::Copy,
            (Write::Set, false) => Finish::Scale,
            (Write::Add, true) => Finish::Add,
            (Write::Add, false) => Finish::AddScaled,
        };
        let vectors = vector_split::<E, S>(x.n);
        let mut col = 0;
        for piece in 0..vectors.pieces {
            let nv = vectors.size(piece);
            let width = (nv * S::LANES).min(x.n - col);
            let last = width - (nv - 1) * S::LANES;
            let edge = if last == S::LANES {
                WHOLE
            } else if S::Half::LANES < S::LANES && last <= S::Half::LANES {
                HALF
            } else {
                MASKED
            };
            // SAFETY: the contract of `BlockOp::new`; column `col` is inside B and C, and a
            // packed panel starts after the k rows of `col` elements before it.
            unsafe {
                let (b, rs_b) =
                    if x.packed_b { (x.b.add(col * x.k), nv * S::LANES) } else { (x.b.add(col), x.rs_b) };
                let c = x.c.add(col);
                match (nv, edge) {
                    (1, WHOLE) => column::<E, S, 1, WHOLE>(s, x, finish, b, rs_b, last, c),
                    (1, MASKED) => column::<E, S, 1, MASKED>(s, x, finish, b, rs_b, last, c),
                    (1, _) => column::<E, S, 1, HALF>(s, x, finish, b, rs_b, last, c),
                    (2, WHOLE) => column::<E, S, 2, WHOLE>(s, x, finish, b, rs_b, last, c),
                    (2, MASKED) => column::<E, S, 2, MASKED>(s, x, finish, b, rs_b, last, c),
                    (2, _) => column::<E, S, 2, HALF>(s, x, finish, b, rs_b, last, c),
                    (_, WHOLE) => column::<E, S, 3, WHOLE>(s, x, finish, b, rs_b, last, c),
                    (_, MASKED) => column::<E, S, 3, MASKED>(s, x, finish, b, rs_b, last, c),
                    (_, _) => column::<E, S, 3, HALF>(s, x, finish, b, rs_b, last, c),
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
unsafe fn column<E: Elem, S: Simd<E>, const NV: usize, const EDGE: u8>(
    s: S,
    x: &Block<E>,
    finish: Finish,
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
            let t = Operands { k: x.k, a, rs_a, cs_a, b, rs_b, last, alpha: x.alpha, finish };
            let (c, rs_c) = (c.add(row * x.rs_c), x.rs_c);
            match mr {
                1 => tile::<E, S, 1, NV, EDGE>(s, t, c, rs_c),
                2 => tile::<E, S, 2, NV, EDGE>(s, t, c, rs_c),
                3 => tile::<E, S, 3, NV, EDGE>(s, t, c, rs_c),
                4 => tile::<E, S, 4, NV, EDGE>(s, t, c, rs_c),
                5 => tile::<E, S, 5, NV, EDGE>(s, t, c, rs_c),
                6 => tile::<E, S, 6, NV, EDGE>(s, t, c, rs_c),
                7 => tile::<E, S, 7, NV, EDGE>(s, t, c, rs_c),
                8 => tile::<E, S, 8, NV, EDGE>(s, t, c, rs_c),
                9 => tile::<E, S, 9, NV, EDGE>(s, t, c, rs_c),
                10 => tile::<E, S, 10, NV, EDGE>(s, t, c, rs_c),
                11 => tile::<E, S, 11, NV, EDGE>(s, t, c, rs_c),
                12 => tile::<E, S, 12, NV, EDGE>(s, t, c, rs_c),
                13 => tile::<E, S, 13, NV, EDGE>(s, t, c, rs_c),
                14 => tile::<E, S, 14, NV, EDGE>(s, t, c, rs_c),
                15 => tile::<E, S, 15, NV, EDGE>(s, t, c, rs_c),
                _ => tile::<E, S, 16, NV, EDGE>(s, t, c, rs_c),
            }
        }
        row += mr;
    }
}

/// What a tile reads, and what it does with the sums.
struct Operands<E> {
    k: usize,
    a: *const E,
    rs_a: usize,
    cs_a: usize,
    b: *const E,
    rs_b: usize,
    last: usize,
    alpha: E,
    finish: Finish,
}

/// M rows by NV vectors of C, the last vector as `EDGE` says. Every entry is one FMA chain over k in order.
///
/// # Safety
/// k columns of M elements of A are readable with the strides; k rows of `(NV - 1) * LANES + last` elements of B, `last` being
/// as `EDGE` has it; M rows as wide of C are readable (for [`Write::Add`]) and writable.
#[inline(always)]
unsafe fn tile<E: Elem, S: Simd<E>, const M: usize, const NV: usize, const EDGE: u8>(
    s: S,
    t: Operands<E>,
    c: *mut E,
    rs_c: usize,
) {
    if !Has::<E, S, M, NV, EDGE>::TILE {
        return;
    }
    let (zero, half) = (s.splat(E::ZERO), s.half());
    // With `HALF` the last column of `acc` is never touched and takes no registers.
    let mut sums = Sums::<E, S, M, NV> { whole: [[zero; NV]; M], half: [half.splat(E::ZERO); M] };
    let (mut a, mut b) = (t.a, t.b);
    for _ in 0..t.k {
        let (mut bv, mut bh) = ([zero; NV], half.splat(E::ZERO));
        for j in 0..NV {
            // SAFETY: inside this row of B, by the contract above.
            unsafe {
                let p = b.add(j * S::LANES);
                if EDGE == HALF && j + 1 == NV {
                    bh = half.load_partial(p, t.last);
                } else if EDGE == MASKED && j + 1 == NV {
                    bv[j] = s.load_partial(p, t.last);
                } else {
                    bv[j] = s.load(p);
                }
            }
        }
        for i in 0..M {
            // SAFETY: inside this column of A, by the contract above.
            let av = s.splat(unsafe { *a.add(i * t.rs_a) });
            for j in 0..NV {
                if EDGE == HALF && j + 1 == NV {
                    sums.half[i] = half.fma(s.low(av), bh, sums.half[i]);
                } else {
                    sums.whole[i][j] = s.fma(av, bv[j], sums.whole[i][j]);
                }
            }
        }
        // Wrapping: after the last step the pointers may leave their allocations.
        a = a.wrapping_add(t.cs_a);
        b = b.wrapping_add(t.rs_b);
    }
    // One branch per tile: the arms are straight lines.
    // SAFETY: the contract above.
    unsafe {
        match t.finish {
            Finish::Copy => sums.finish::<EDGE, 0>(s, &t, c, rs_c),
            Finish::Scale => sums.finish::<EDGE, 1>(s, &t, c, rs_c),
            Finish::Add => sums.finish::<EDGE, 2>(s, &t, c, rs_c),
            Finish::AddScaled => sums.finish::<EDGE, 3>(s, &t, c, rs_c),
        }
    }
}

/// The accumulators of a tile.
struct Sums<E: Elem, S: Simd<E>, const M: usize, const NV: usize> {
    whole: [[S::V; NV]; M],
    half: [<S::Half as Simd<E>>::V; M],
}

impl<E: Elem, S: Simd<E>, const M: usize, const NV: usize> Sums<E, S, M, NV> {
    /// # Safety
    /// M rows of C, as wide as `EDGE` and `t.last` say, are writable, readable too for the sums that are added.
    #[inline(always)]
    unsafe fn finish<const EDGE: u8, const FINISH: u8>(&self, s: S, t: &Operands<E>, c: *mut E, rs_c: usize) {
        let alpha = s.splat(t.alpha);
        let mut row = c;
        for i in 0..M {
            for j in 0..NV {
                // SAFETY: row i, vector j of the tile in C, by the contract above.
                unsafe {
                    let p = row.add(j * S::LANES);
                    if EDGE == HALF && j + 1 == NV {
                        put::<E, S::Half, FINISH>(s.half(), s.low(alpha), self.half[i], p, t.last, false);
                    } else {
                        let whole = EDGE == WHOLE || j + 1 < NV;
                        put::<E, S, FINISH>(s, alpha, self.whole[i][j], p, t.last, whole);
                    }
                }
            }
            row = row.wrapping_add(rs_c);
        }
    }
}

/// One vector of sums into C at `p`: all lanes where `whole`, else the first `last`. FINISH: the variants of [`Finish`] in order.
///
/// # Safety
/// Those lanes are writable, readable too where sums are added.
#[inline(always)]
unsafe fn put<E: Elem, S: Simd<E>, const FINISH: u8>(
    s: S,
    alpha: S::V,
    sum: S::V,
    p: *mut E,
    last: usize,
    whole: bool,
) {
    // SAFETY: the contract above.
    unsafe {
        let mut v = sum;
        if FINISH >= 2 {
            let old = if whole { s.load(p) } else { s.load_partial(p, last) };
            v = if FINISH == 2 { s.add(sum, old) } else { s.fma(alpha, sum, old) };
        } else if FINISH == 1 {
            v = s.mul(alpha, sum);
        }
        if whole {
            s.store(p, v);
        } else {
            s.store_partial(p, last, v);
        }
    }
}
