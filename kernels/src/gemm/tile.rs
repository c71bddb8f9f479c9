//! The register tile: loops 2 and 1 of the product, and the kernel inside them.
//!
//! A block is cut into column panels of a few vectors, a panel into strips: tiles of one size one
//! below the other. Each size is a function of its own, called through a pointer, so that whoever
//! plans a product keeps the pointers and calls them again ([`steps`]).

use crate::elem::real::Real;
use crate::simd::tiles::{MAX_ROWS, gemm_tile as tile_shape};
use crate::simd::{Op, Routine, Simd};
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

/// How the rows of A and C are cut beside `nv` vectors, the last of them as `edge` says.
#[inline(always)]
pub(super) fn row_split<E: Real, S: Simd<E>>(m: usize, nv: usize, edge: u8) -> Split {
    let tile = tile_shape(S::ISA);
    Split::equal(m, if edge <= MASKED { tile.mr[nv - 1] } else { tile.shared[nv - 1] })
}

/// How the rows of A are cut where they are packed: one way for tiles of any width, that of the
/// widest.
#[inline(always)]
pub(super) fn packed_row_split<E: Real, S: Simd<E>>(m: usize) -> Split {
    row_split::<E, S>(m, const { tile_shape(S::ISA).nv }, WHOLE)
}

/// How the columns of B and C are cut, counted in vectors; `in_place`: neither A nor B is packed.
#[inline(always)]
pub(super) fn vector_split<E: Real, S: Simd<E>>(n: usize, in_place: bool) -> Split {
    let (vectors, tile) = (n.div_ceil(S::LANES), const { tile_shape(S::ISA) });
    let alone = in_place && vectors == tile.alone;
    Split::new(vectors, if alone { tile.alone } else { tile.nv })
}

/// What the last vector of a column panel is: whole, or its first `last` lanes; or, where these are
/// at most a half or a quarter, one vector for two or four rows, which then share a multiply-add:
/// 65 columns cost 4.25 vectors a row, not 5 (Zen 5, 65^3 f32).
const WHOLE: u8 = 0;
const MASKED: u8 = 1;
const PAIR: u8 = 2;
const QUAD: u8 = 4;

/// The kind of an edge of `last` lanes.
#[inline(always)]
fn edge_of<E: Real, S: Simd<E>>(last: usize) -> u8 {
    match last {
        _ if last == S::LANES => WHOLE,
        _ if !S::PARTS || 2 * last > S::LANES => MASKED,
        _ if 4 * last > S::LANES => PAIR,
        _ => QUAD,
    }
}

/// Whether an instruction set has a tile of M rows by NV vectors: a constant, so that the others
/// are never compiled.
struct Has<E, S, const M: usize, const NV: usize, const EDGE: u8>(PhantomData<(E, S)>);

impl<E: Real, S: Simd<E>, const M: usize, const NV: usize, const EDGE: u8> Has<E, S, M, NV, EDGE> {
    const TILE: bool = {
        let t = tile_shape(S::ISA);
        let exists = NV <= t.alone && (EDGE <= MASKED || S::PARTS);
        let tallest = if EDGE <= MASKED { t.mr[NV - 1] } else { t.shared[NV - 1] };
        // Panels of a packed A fit every tile that they meet.
        assert!(!exists || tallest <= MAX_ROWS && (NV > t.nv || t.mr[t.nv - 1] <= tallest));
        // A finish reads as many of them as a row of the tile has elements.
        assert!(t.alone * S::LANES <= E::NEG_ZEROS.len());
        exists && M <= tallest
    };
}

/// Tiles of one size one below the other: how they read A and B and what becomes of their sums.
/// Strides are bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strip<E> {
    /// Tiles, at least one.
    count: usize,
    k: usize,
    rs_a: usize,
    cs_a: usize,
    /// From the A of a tile to that of the next.
    next_a: usize,
    rs_b: usize,
    rs_c: usize,
    /// Lanes of the last vector.
    last: usize,
    alpha: E,
    /// C = sums: alpha is 1, and the product with it, which would change no bit, is left out. Else
    /// C = alpha sums + old, one FMA.
    copy: bool,
    /// Are the old entries of C read? Where not, they count as -0, the one number that a sum with
    /// it leaves as it was: one finish to compile instead of two.
    add: bool,
    /// Bytes from an entry of A to the one to prefetch meanwhile: that of the next tile; 0: none.
    ahead: usize,
}

/// A strip's function, on A, B and C.
pub(crate) type StripFn<E> = unsafe fn(&Strip<E>, *const E, *const E, *mut E);

/// A strip of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step<E> {
    run: StripFn<E>,
    with: Strip<E>,
    /// Where its A, B and C begin, in elements from those of the block.
    at: [usize; 3],
}

impl<E> Step<E> {
    /// Computes the first strip of a block, which begins where that does: small products feel every
    /// load.
    ///
    /// # Safety
    /// As for [`Step::call`].
    #[inline(always)]
    pub(crate) unsafe fn call_at_start(&self, a: *const E, b: *const E, c: *mut E) {
        debug_assert_eq!(self.at, [0; 3]);
        // SAFETY: the contract above.
        unsafe { (self.run)(&self.with, a, b, c) }
    }

    /// Computes the strip.
    ///
    /// # Safety
    /// The operands are those of the block that [`steps`] cut, valid as [`BlockOp::new`] has it, on
    /// a CPU with the instruction set that it was cut for.
    #[inline(always)]
    pub(crate) unsafe fn call(&self, a: *const E, b: *const E, c: *mut E) {
        let [at_a, at_b, at_c] = self.at;
        // SAFETY: the contract above. Wrapping: with k = 0 nothing of A and B is there.
        unsafe { (self.run)(&self.with, a.wrapping_add(at_a), b.wrapping_add(at_b), c.wrapping_add(at_c)) }
    }
}

/// The function of a tile. Of one that the cut never asks for there is none: what stands in its
/// place says so.
#[inline(always)]
fn tile_fn<E: Real, S: Simd<E>, const M: usize, const NV: usize, const EDGE: u8>(s: S) -> StripFn<E> {
    if const { Has::<E, S, M, NV, EDGE>::TILE } {
        s.routine::<TileRun<M, NV, EDGE>>()
    } else {
        |_, _, _, _| unreachable!("a tile of {M} rows, {NV} vectors, edge {EDGE}")
    }
}

/// The function of tiles of `m` rows by `nv` vectors.
#[inline(always)]
fn strip_fn<E: Real, S: Simd<E>>(s: S, m: usize, nv: usize, edge: u8) -> StripFn<E> {
    macro_rules! rows {
        ($nv:literal, $edge:ident: $($m:literal)+) => {
            match m {
                $($m => tile_fn::<E, S, $m, $nv, $edge>(s),)+
                _ => tile_fn::<E, S, 16, $nv, $edge>(s),
            }
        };
    }
    macro_rules! width {
        ($nv:literal) => {
            match edge {
                WHOLE => rows!($nv, WHOLE: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
                MASKED => rows!($nv, MASKED: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
                PAIR => rows!($nv, PAIR: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
                _ => rows!($nv, QUAD: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
            }
        };
    }
    match nv {
        1 => width!(1),
        2 => width!(2),
        3 => width!(3),
        _ => width!(4),
    }
}

/// Cuts a block into strips, column panel after column panel.
#[inline(always)]
pub(crate) fn steps<E: Real, S: Simd<E>>(s: S, x: &Block<E>, mut each: impl FnMut(Step<E>)) {
    let bytes = |elements: usize| elements.wrapping_mul(size_of::<E>());
    let copy = x.write == Write::Set && x.alpha == E::ONE;
    let vectors = vector_split::<E, S>(x.n, !x.packed_a && !x.packed_b);
    let mut col = 0;
    for piece in 0..vectors.pieces {
        let nv = vectors.size(piece);
        let width = (nv * S::LANES).min(x.n - col);
        let last = width - (nv - 1) * S::LANES;
        let edge = edge_of::<E, S>(last);
        // A packed panel starts after the k rows of `col` elements before it.
        let (at_b, rs_b) = if x.packed_b { (col * x.k, nv * S::LANES) } else { (col, x.rs_b) };
        let rows = if x.packed_a { packed_row_split::<E, S>(x.m) } else { row_split::<E, S>(x.m, nv, edge) };
        let mut row = 0;
        for (count, mr) in [(rows.longer, rows.base + 1), (rows.pieces - rows.longer, rows.base)] {
            if count == 0 {
                continue;
            }
            // A packed panel starts after the k columns of `row` elements before it.
            let (at_a, rs_a, cs_a, next_a) = if x.packed_a {
                (row * x.k, 1, mr, mr * x.k)
            } else {
                (row.wrapping_mul(x.rs_a), x.rs_a, x.cs_a, mr.wrapping_mul(x.rs_a))
            };
            let ahead = col == 0 && !x.packed_a && x.cs_a == 1 && x.k >= AHEAD;
            let with = Strip {
                count,
                k: x.k,
                rs_a: bytes(rs_a),
                cs_a: bytes(cs_a),
                next_a: bytes(next_a),
                rs_b: bytes(rs_b),
                rs_c: bytes(x.rs_c),
                last,
                alpha: x.alpha,
                copy,
                add: x.write == Write::Add,
                ahead: if ahead { bytes(next_a) } else { 0 },
            };
            let run = strip_fn::<E, S>(s, mr, nv, edge);
            each(Step { run, with, at: [at_a, at_b, row * x.rs_c + col] });
            row += count * mr;
        }
        col += width;
    }
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
        // SAFETY: the contract of `BlockOp::new`; the strips are those of this block, and `s` says
        // what this CPU has.
        steps(s, x, |step| unsafe { step.call(x.a, x.b, x.c) });
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

/// Steps of k from which on rows of A are prefetched: shorter ones come with what lies
/// beside them; and those of C, which otherwise is soon needed.
const AHEAD: usize = 64;
const AHEAD_OF_C: usize = 192;

/// Tiles of M rows by NV vectors of C, the last vector as `EDGE` says. Every entry is one FMA chain
/// over k in order.
struct TileRun<const M: usize, const NV: usize, const EDGE: u8>;

impl<E: Real, const M: usize, const NV: usize, const EDGE: u8> Routine<E> for TileRun<M, NV, EDGE> {
    type With = Strip<E>;
    /// Safety: with the strip's strides, k columns of `count * M` elements of A are readable, k
    /// rows of `(NV - 1) * LANES + last` elements of B, `last` being as `EDGE` has it; as many rows
    /// as wide of C are readable (where `add`) and writable.
    #[inline(always)]
    unsafe fn run<S: Simd<E>>(s: S, x: &Strip<E>, mut a: *const E, b: *const E, mut c: *mut E) {
        if !Has::<E, S, M, NV, EDGE>::TILE {
            return;
        }
        let mut left = x.count;
        loop {
            // Opaque, so that what a tile needs once is read then, not kept on the stack: loads are
            // what bounds narrow tiles.
            // SAFETY: the strip that `x` is.
            let x = unsafe { &*s.opaque(std::ptr::from_ref(x)) };
            // SAFETY: the contract above, M rows at a time.
            unsafe { tile::<E, S, M, NV, EDGE>(s, x, a, b, c) };
            left -= 1;
            if left == 0 {
                return;
            }
            // SAFETY: as above.
            let x = unsafe { &*s.opaque(std::ptr::from_ref(x)) };
            a = a.wrapping_byte_add(x.next_a);
            c = c.wrapping_byte_add(x.rs_c.wrapping_mul(M));
        }
    }
}

/// One tile of the strip.
///
/// # Safety
/// As for [`TileRun`], of M rows.
#[inline(always)]
unsafe fn tile<E: Real, S: Simd<E>, const M: usize, const NV: usize, const EDGE: u8>(
    s: S,
    x: &Strip<E>,
    a: *const E,
    mut b: *const E,
    c: *mut E,
) {
    let zero = s.splat(E::ZERO);
    // Entries of the last column are never touched where rows share its vector, nor those of
    // `shared` beyond, and take no registers.
    let mut sums = Sums::<E, S, M, NV, EDGE> { whole: [[zero; NV]; M], shared: [zero; M] };
    // Four rows of A from one pointer: the others are addressing modes, so that a step of k takes a
    // quarter of the additions. Opaque, because the compiler would make all of them pointers, which
    // do not fit the registers.
    let (rs_a, cs_a) = (x.rs_a, x.cs_a);
    let mut rows = [a; MAX_ROWS.div_ceil(4)];
    for g in 1..M.div_ceil(4) {
        rows[g] = rows[g - 1].wrapping_byte_add(rs_a.wrapping_mul(4));
    }
    let mut left = x.k;
    if left >= AHEAD_OF_C {
        // C is wanted at the end of the sums: until then its lines have come, from wherever they
        // are.
        let mut row = c.cast_const();
        for _ in 0..M {
            for j in 0..NV {
                s.prefetch(row.wrapping_add(j * S::LANES));
            }
            s.prefetch(row.wrapping_add(NV * S::LANES - 1));
            row = row.wrapping_byte_add(x.rs_c);
        }
    }
    let (strides, last) = ([rs_a, cs_a, x.rs_b], x.last);
    while left > 0 {
        let mut steps = left;
        // SAFETY: the strip that `x` is; opaque as in `TileRun`.
        let ahead = unsafe { (*s.opaque(std::ptr::from_ref(x))).ahead };
        if ahead != 0 {
            steps = left.min(const { 64 / size_of::<E>() });
            for g in 0..M.div_ceil(4) {
                for r in 0..4 {
                    if 4 * g + r < M {
                        s.prefetch(rows[g].wrapping_byte_add(r * rs_a + ahead));
                    }
                }
            }
        }
        left -= steps;
        for _ in 0..steps {
            // SAFETY: inside A and B, by the contract above.
            unsafe { sums.step(s, &mut rows, &mut b, strides, last) };
        }
    }
    let Sums { mut whole, shared } = sums;
    if EDGE > MASKED {
        for i in 0..M {
            whole[i][NV - 1] = match EDGE {
                PAIR => s.part::<2>(shared[i / 2], i % 2),
                _ => s.part::<4>(shared[i / 4], i % 4),
            };
        }
    }
    // One branch per tile. The loops have to stay short: one that the compiler does not unroll
    // keeps the sums in memory.
    if !x.copy {
        let alpha = s.splat(x.alpha);
        let (mut row, next) = if x.add { (c.cast_const(), x.rs_c) } else { (E::NEG_ZEROS.as_ptr(), 0) };
        for i in 0..M {
            for j in 0..NV {
                // SAFETY: row i, vector j of the tile in C, which is readable; or vector j of the
                // constant row.
                let old = unsafe {
                    let p = row.add(j * S::LANES);
                    if EDGE != WHOLE && j + 1 == NV { s.load_partial(p, last) } else { s.load(p) }
                };
                whole[i][j] = s.fma(alpha, whole[i][j], old);
            }
            row = row.wrapping_byte_add(next);
        }
    }
    let rs_c = x.rs_c;
    let mut four = c;
    for g in 0..M.div_ceil(4) {
        for i in 4 * g..M.min(4 * g + 4) {
            let row = four.wrapping_byte_add(rs_c.wrapping_mul(i % 4));
            for j in 0..NV {
                // SAFETY: row i, vector j of the tile in C, by the contract above.
                unsafe {
                    let p = row.add(j * S::LANES);
                    if EDGE != WHOLE && j + 1 == NV {
                        s.store_partial(p, last, whole[i][j]);
                    } else {
                        s.store(p, whole[i][j]);
                    }
                }
            }
        }
        four = s.opaque(four.cast_const()).cast_mut().wrapping_byte_add(rs_c.wrapping_mul(4));
    }
}

/// The accumulators of a tile.
struct Sums<E: Real, S: Simd<E>, const M: usize, const NV: usize, const EDGE: u8> {
    /// Entries of the last column are never touched where rows share its vector, nor those of
    /// `shared` beyond, and take no registers.
    whole: [[S::V; NV]; M],
    shared: [S::V; M],
}

impl<E: Real, S: Simd<E>, const M: usize, const NV: usize, const EDGE: u8> Sums<E, S, M, NV, EDGE> {
    /// One step of k.
    ///
    /// # Safety
    /// The column of A and the row of B are readable, with the strides of A and then of B.
    #[inline(always)]
    unsafe fn step(
        &mut self,
        s: S,
        rows: &mut [*const E; MAX_ROWS.div_ceil(4)],
        b: &mut *const E,
        [rs_a, cs_a, rs_b]: [usize; 3],
        last: usize,
    ) {
        let zero = s.splat(E::ZERO);
        let own = if EDGE <= MASKED { NV } else { NV - 1 };
        let mut bv = [zero; NV];
        for j in 0..NV {
            // SAFETY: inside this row of B, by the contract above.
            bv[j] = unsafe { load::<E, S, NV, EDGE>(s, (*b).add(j * S::LANES), j, last) };
        }
        // By fours, too, because the compiler looks into no loop of more than ten passes
        // before it decides to unroll it.
        for g in 0..M.div_ceil(4) {
            let mut av = [zero; 4];
            for r in 0..4 {
                let i = 4 * g + r;
                if i >= M {
                    break;
                }
                // SAFETY: inside this column of A, by the contract above.
                av[r] = s.splat(unsafe { *rows[g].wrapping_byte_add(r * rs_a) });
                for j in 0..own {
                    self.whole[i][j] = s.fma(av[r], bv[j], self.whole[i][j]);
                }
            }
            if EDGE == QUAD {
                self.shared[g] = s.fma(s.join::<4>(av), bv[NV - 1], self.shared[g]);
            }
            if EDGE == PAIR {
                for h in 0..2 {
                    if 4 * g + 2 * h < M {
                        let two = [av[2 * h], av[2 * h + 1], zero, zero];
                        self.shared[2 * g + h] = s.fma(s.join::<2>(two), bv[NV - 1], self.shared[2 * g + h]);
                    }
                }
            }
        }
        // Wrapping: after the last step the pointers may leave their allocations.
        for g in 0..M.div_ceil(4) {
            rows[g] = s.opaque(rows[g].wrapping_byte_add(cs_a));
        }
        *b = s.opaque((*b).wrapping_byte_add(rs_b));
    }
}

/// Vector j of NV of a row of B: all lanes or, the last one, what `EDGE` has of it.
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
    // SAFETY: the contract above; an edge that two or four rows share is at most a half or a
    // quarter of a vector.
    unsafe {
        match EDGE {
            MASKED if j + 1 == NV => s.load_partial(p, last),
            PAIR if j + 1 == NV => s.repeat::<2>(p, last),
            QUAD if j + 1 == NV => s.repeat::<4>(p, last),
            _ => s.load(p),
        }
    }
}

#[cfg(test)]
mod tests;
