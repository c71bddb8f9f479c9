//! The register tile: loops 2 and 1 of the product, and the kernel inside them.

use crate::elem::real::Real;
use crate::simd::tiles::{MAX_ROWS, gemm_tile as tile_shape};
use crate::simd::{Op, Simd};
use crate::view::Write;
use std::marker::PhantomData;

/// One block product C (m, n) = or += alpha A (m, k) B (k, n), operands in place or packed into
/// panels.
///
/// Packed operands are panels one after another, each as [`Split`] cuts them: A as k columns of
/// `rows` elements, B as k rows of a whole number of vectors.
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

/// `len` cut into the fewest pieces of at most `max`, as equal as can be, the longer ones first.
/// Equal pieces keep every tile tall enough to hide the latency of the FMAs: 20 rows are 7 + 7 + 6,
/// not 8 + 8 + 4.
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

    /// The same, with one piece more where that makes them equal and still nearly as long: 32 rows
    /// are 4 times 8 rather than 11 + 11 + 10. One kernel runs throughout, and no branch
    /// to the next one is mispredicted (Zen 4, 32^3 f32: 104 -> 108 GFLOP/s).
    #[inline(always)]
    pub(super) fn equal(len: usize, max: usize) -> Self {
        let split = Split::new(len, max);
        let more = split.pieces + 1;
        if split.longer == 0 || len < more * (max - max / 3) || !len.is_multiple_of(more) {
            return split;
        }
        Split { pieces: more, base: len / more, longer: 0 }
    }

    #[inline(always)]
    pub(super) fn size(self, piece: usize) -> usize {
        self.base + usize::from(piece < self.longer)
    }
}

/// How the rows of A and C are cut beside `nv` vectors.
#[inline(always)]
pub(super) fn row_split<E: Real, S: Simd<E>>(m: usize, nv: usize) -> Split {
    Split::equal(m, tile_shape(S::ISA).mr[nv - 1])
}

/// How the rows of A are cut where they are packed: one way for tiles of any width, that of the
/// widest.
#[inline(always)]
pub(super) fn packed_row_split<E: Real, S: Simd<E>>(m: usize) -> Split {
    row_split::<E, S>(m, const { tile_shape(S::ISA).nv })
}

/// How the columns of B and C are cut, counted in vectors.
#[inline(always)]
pub(super) fn vector_split<E: Real, S: Simd<E>>(n: usize) -> Split {
    Split::new(n.div_ceil(S::LANES), const { tile_shape(S::ISA).nv })
}

/// What the last vector of a column panel is: whole, the first `last` lanes of one, or at most half
/// of one, in a register of half the width ([`Simd::Half`]): on CPUs that run 512 bits as two
/// halves it takes half the time, on others as long as before.
const WHOLE: u8 = 0;
const MASKED: u8 = 1;
const HALF: u8 = 2;

/// Whether an instruction set has a tile of M rows by NV vectors: a constant, so that the others
/// are never compiled.
struct Has<E, S, const M: usize, const NV: usize, const EDGE: u8>(PhantomData<(E, S)>);

impl<E: Real, S: Simd<E>, const M: usize, const NV: usize, const EDGE: u8> Has<E, S, M, NV, EDGE> {
    const TILE: bool = {
        let t = tile_shape(S::ISA);
        let tallest = t.mr[NV - 1];
        assert!(tallest <= MAX_ROWS && t.mr[t.nv - 1] <= tallest || NV > t.nv);
        // A finish reads as many of them as a row of the tile has elements.
        assert!(t.nv * S::LANES <= E::NEG_ZEROS.len());
        NV <= t.nv && M <= tallest && (EDGE != HALF || S::Half::LANES < S::LANES)
    };
}

/// What becomes of the sums of a tile.
#[derive(Clone, Copy)]
enum Finish {
    /// C = sums: alpha is 1, and the product with it, which would change no bit, is left out.
    Copy,
    /// C = alpha sums + old, one FMA. Where C is only written, its old entries are read as -0, the
    /// one number that a sum with it leaves as it was: one finish to compile instead of two.
    Fma,
}

/// [`Block`] as an operation of its own.
pub(super) struct BlockOp<'a, E>(&'a Block<E>);

impl<'a, E> BlockOp<'a, E> {
    /// # Safety
    /// All entries of A and B are readable and those of C writable, readable too for
    /// [`Write::Add`], each entry of C an element of its own, apart from A and B. Packed operands
    /// hold whole panels as `pack.rs` writes them.
    #[inline(always)]
    pub(super) unsafe fn new(block: &'a Block<E>) -> Self {
        BlockOp(block)
    }
}

impl<E: Real> Op<E> for BlockOp<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        let x = self.0;
        let finish = if x.write == Write::Set && x.alpha == E::ONE { Finish::Copy } else { Finish::Fma };
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
                let panel = Panel { b, rs_b, last, first: col == 0, c: x.c.add(col) };
                match (nv, edge) {
                    (1, WHOLE) => column::<E, S, 1, WHOLE>(s, x, finish, panel),
                    (1, MASKED) => column::<E, S, 1, MASKED>(s, x, finish, panel),
                    (1, _) => column::<E, S, 1, HALF>(s, x, finish, panel),
                    (2, WHOLE) => column::<E, S, 2, WHOLE>(s, x, finish, panel),
                    (2, MASKED) => column::<E, S, 2, MASKED>(s, x, finish, panel),
                    (2, _) => column::<E, S, 2, HALF>(s, x, finish, panel),
                    (_, WHOLE) => column::<E, S, 3, WHOLE>(s, x, finish, panel),
                    (_, MASKED) => column::<E, S, 3, MASKED>(s, x, finish, panel),
                    (_, _) => column::<E, S, 3, HALF>(s, x, finish, panel),
                }
            }
            col += width;
        }
    }
}

/// Bytes of B that stay in L1 and in L2 beside all else, on CPUs of today. 256x128x128 f32 on Zen
/// 4: 113 GFLOP/s with a panel of B in L1, 105 with all of B from L2.
const L1: usize = 26 << 10;
const L2: usize = 640 << 10;

/// How the rows of a block are cut into blocks of their own. Where a panel of B is small enough for
/// L1, not at all: it stays there while all of A passes, and tiles beside narrow panels may be
/// taller. Else into panels: one of A stays while all of B passes from L2, if B fits there: beside
/// a packed A it may not.
#[inline(always)]
pub(super) fn block_split<E: Real, S: Simd<E>>(x: &Block<E>) -> Split {
    let row_bytes = x.n.min(const { tile_shape(S::ISA).nv * S::LANES }) * size_of::<E>();
    if x.k * row_bytes > L1 && x.k * x.n * size_of::<E>() < L2 {
        packed_row_split::<E, S>(x.m)
    } else {
        Split::new(x.m, x.m)
    }
}

/// A column panel of B and C.
struct Panel<E> {
    b: *const E,
    rs_b: usize,
    /// Lanes of the last vector.
    last: usize,
    /// The first of the block.
    first: bool,
    c: *mut E,
}

/// The row panels of `x` against one panel of B, `NV` vectors wide.
///
/// # Safety
/// The panel is one of the operands of `x`, which are valid.
#[inline(always)]
unsafe fn column<E: Real, S: Simd<E>, const NV: usize, const EDGE: u8>(
    s: S,
    x: &Block<E>,
    finish: Finish,
    panel: Panel<E>,
) {
    let Panel { b, rs_b, last, first, c } = panel;
    let rows = if x.packed_a { packed_row_split::<E, S>(x.m) } else { row_split::<E, S>(x.m, NV) };
    let mut row = 0;
    for piece in 0..rows.pieces {
        let mr = rows.size(piece);
        // SAFETY: row `row` is inside A and C; a packed panel starts after the k columns of `row`
        // elements before it.
        unsafe {
            let (a, rs_a, cs_a) = if x.packed_a {
                (x.a.add(row * x.k), 1, mr)
            } else {
                (x.a.add(row * x.rs_a), x.rs_a, x.cs_a)
            };
            let ahead = if first && !x.packed_a && x.cs_a == 1 && x.k >= AHEAD {
                mr.wrapping_mul(rs_a).wrapping_mul(size_of::<E>())
            } else {
                0
            };
            let add = x.write == Write::Add;
            let t = Operands { k: x.k, a, rs_a, cs_a, b, rs_b, last, alpha: x.alpha, finish, add, ahead };
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
    /// Are the old entries of C read?
    add: bool,
    /// Bytes from an entry of A to the one to prefetch meanwhile: that of the next row panel;
    /// 0: none.
    ahead: usize,
}

/// Steps of k from which on rows of A are prefetched: shorter ones come with what lies
/// beside them; and those of C, which otherwise is soon needed.
const AHEAD: usize = 64;
const AHEAD_OF_C: usize = 192;

/// M rows by NV vectors of C, the last vector as `EDGE` says. Every entry is one FMA chain over k
/// in order.
///
/// # Safety
/// k columns of M elements of A are readable with the strides; k rows of `(NV - 1) * LANES + last`
/// elements of B, `last` being as `EDGE` has it; M rows as wide of C are readable (for
/// [`Write::Add`]) and writable.
#[inline(always)]
unsafe fn tile<E: Real, S: Simd<E>, const M: usize, const NV: usize, const EDGE: u8>(
    s: S,
    t: Operands<E>,
    c: *mut E,
    rs_c: usize,
) {
    if !Has::<E, S, M, NV, EDGE>::TILE {
        return;
    }
    let (zero, half) = (s.splat(E::ZERO), s.half());
    let mut sums = Sums::<E, S, M, NV> { whole: [[zero; NV]; M], half: [half.splat(E::ZERO); M] };
    // Three rows of A from one pointer: the second and third are addressing modes, so that a step
    // of k takes a third of the additions and its loads leave more of the reorder buffer to what
    // follows.
    let (rs_a, cs_a) = (t.rs_a.wrapping_mul(size_of::<E>()), t.cs_a.wrapping_mul(size_of::<E>()));
    let mut a = [t.a; MAX_ROWS.div_ceil(3)];
    for g in 1..M.div_ceil(3) {
        a[g] = a[g - 1].wrapping_byte_add(rs_a).wrapping_byte_add(2 * rs_a);
    }
    let mut b = t.b;
    let mut left = t.k;
    if left >= AHEAD_OF_C {
        // C is wanted at the end of the sums: until then its lines have come, from wherever they
        // are.
        let mut row = c;
        for _ in 0..M {
            for j in 0..NV {
                s.prefetch(row.wrapping_add(j * S::LANES));
            }
            s.prefetch(row.wrapping_add(NV * S::LANES - 1));
            row = row.wrapping_add(rs_c);
        }
    }
    while left > 0 {
        let mut steps = left;
        if t.ahead != 0 {
            steps = left.min(const { 64 / size_of::<E>() });
            for g in 0..M.div_ceil(3) {
                for r in 0..3 {
                    if 3 * g + r < M {
                        s.prefetch(a[g].wrapping_byte_add(r * rs_a + t.ahead));
                    }
                }
            }
        }
        left -= steps;
        for _ in 0..steps {
            let (mut bv, mut bh) = ([zero; NV], half.splat(E::ZERO));
            for j in 0..NV {
                // SAFETY: inside this row of B, by the contract above.
                unsafe {
                    let p = b.add(j * S::LANES);
                    if EDGE == HALF && j + 1 == NV {
                        bh = s.load_half(p, t.last);
                    } else {
                        bv[j] = load::<E, S, NV, EDGE>(s, p, j, t.last);
                    }
                }
            }
            // By threes, too, because the compiler looks into no loop of more than ten passes
            // before it decides to unroll it.
            for g in 0..M.div_ceil(3) {
                for r in 0..3 {
                    let i = 3 * g + r;
                    if i >= M {
                        break;
                    }
                    // SAFETY: inside this column of A, by the contract above.
                    let av = s.splat(unsafe { *a[g].wrapping_byte_add(r * rs_a) });
                    for j in 0..NV {
                        if EDGE == HALF && j + 1 == NV {
                            sums.half[i] = half.fma(s.low(av), bh, sums.half[i]);
                        } else {
                            sums.whole[i][j] = s.fma(av, bv[j], sums.whole[i][j]);
                        }
                    }
                }
            }
            // Wrapping: after the last step the pointers may leave their allocations.
            for g in 0..M.div_ceil(3) {
                a[g] = a[g].wrapping_byte_add(cs_a);
            }
            b = b.wrapping_add(t.rs_b);
        }
    }
    // One branch per tile. The loops have to stay short: one that the compiler does not unroll
    // keeps the sums in memory.
    if let Finish::Fma = t.finish {
        let alpha = s.splat(t.alpha);
        let (mut row, next) = if t.add { (c.cast_const(), rs_c) } else { (E::NEG_ZEROS.as_ptr(), 0) };
        for i in 0..M {
            for j in 0..NV {
                // SAFETY: row i, vector j of the tile in C, which is readable; or vector j of the
                // constant row.
                unsafe {
                    let p = row.add(j * S::LANES);
                    if EDGE == HALF && j + 1 == NV {
                        sums.half[i] = half.fma(s.low(alpha), sums.half[i], s.load_half(p, t.last));
                    } else {
                        let old = load::<E, S, NV, EDGE>(s, p, j, t.last);
                        sums.whole[i][j] = s.fma(alpha, sums.whole[i][j], old);
                    }
                }
            }
            row = row.wrapping_add(next);
        }
    }
    let mut row = c;
    for i in 0..M {
        for j in 0..NV {
            // SAFETY: row i, vector j of the tile in C, by the contract above.
            unsafe {
                let p = row.add(j * S::LANES);
                if EDGE == HALF && j + 1 == NV {
                    s.store_half(p, t.last, sums.half[i]);
                } else if EDGE == MASKED && j + 1 == NV {
                    s.store_partial(p, t.last, sums.whole[i][j]);
                } else {
                    s.store(p, sums.whole[i][j]);
                }
            }
        }
        row = row.wrapping_add(rs_c);
    }
}

/// Vector j of NV: all lanes or, of the last one where `EDGE` is `MASKED`, the first `last`.
///
/// # Safety
/// The lanes that it reads are readable.
#[inline(always)]
unsafe fn load<E: Real, S: Simd<E>, const NV: usize, const EDGE: u8>(
    s: S,
    p: *const E,
    j: usize,
    last: usize,
) -> S::V {
    // SAFETY: the contract above.
    unsafe { if EDGE == MASKED && j + 1 == NV { s.load_partial(p, last) } else { s.load(p) } }
}

/// The accumulators of a tile; with `HALF` the last column of `whole` is never touched and takes no
/// registers.
struct Sums<E: Real, S: Simd<E>, const M: usize, const NV: usize> {
    whole: [[S::V; NV]; M],
    half: [<S::Half as Simd<E>>::V; M],
}

#[cfg(test)]
mod tests;
