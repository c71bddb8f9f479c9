//! Register tiles of attention: the block products, with the mask as a triangle of unrolled steps.
//!
//! A tile is M rows by NV vectors of sums, each one FMA chain in order of its terms, whatever the
//! tile. Two products have a triangle, because a query does not see every key of its own tile; the
//! steps of the triangle leave out what is not seen, so that nothing behind the mask is multiplied,
//! not even by zero:
//!
//! ```text
//! rows are queries (P V, dS K):           rows are keys (dSᵀ Q, Pᵀ dO):
//! rectangle, then triangle                triangle, then rectangle
//!   terms = keys                            terms = queries
//!   row 0  x x x x | x                      row 0  x x x | x x x x
//!   row 1  x x x x | x x                    row 1    x x | x x x x
//!   row 2  x x x x | x x x                  row 2      x | x x x x
//! ```
//!
//! Scores need no triangle: what is behind the mask is computed with its tile and never used.

use crate::attention::plan::{In, Out};
use crate::elem::real::Real;
use crate::simd::tiles::attention_rows;
use crate::simd::{Isa, Op, Simd};

/// Vectors of the widest tile.
pub(super) const WIDE: usize = 2;

/// Keys of a panel of Kᵀ or Vᵀ.
pub(super) const fn panel<E: Real, S: Simd<E>>() -> usize {
    WIDE * S::LANES
}

/// Rows of the next tile where `left` are left: few heights, so that few kernels are compiled.
#[inline(always)]
pub(super) fn height(isa: Isa, left: usize) -> usize {
    let tall = attention_rows(isa);
    if left >= tall {
        tall
    } else if left >= 8 {
        8
    } else if left >= 4 {
        4
    } else if left >= 2 {
        2
    } else {
        1
    }
}

/// Is there a tile of M rows? A constant: the others are never compiled.
const fn has(isa: Isa, m: usize) -> bool {
    m == attention_rows(isa) || m < attention_rows(isa) && (m == 8 || m == 4 || m == 2 || m == 1)
}

/// Columns of a panel of the tile beside `left` columns: (vectors, lanes of the last one).
#[inline(always)]
fn width<E: Real, S: Simd<E>>(left: usize) -> (usize, usize) {
    if left >= WIDE * S::LANES {
        (WIDE, S::LANES)
    } else if left > S::LANES {
        (WIDE, left - S::LANES)
    } else {
        (1, left)
    }
}

/// What becomes of a tile of scores.
pub(super) trait Finish<E: Real>: Copy {
    /// `acc`: row r, vector v of a tile whose first entry is (row, col). Must be `inline(always)`.
    ///
    /// # Safety
    /// The tile is inside the matrices that the implementor holds, whole vectors included.
    unsafe fn finish<S: Simd<E>, const M: usize, const NV: usize>(
        self,
        s: S,
        acc: &[[S::V; NV]; M],
        row: usize,
        col: usize,
    );
}

/// A Bᵀ, A (m, k) with contiguous columns, Bᵀ as panels of [`panel`] columns, `n` of them; columns
/// of the last tile beyond n come out as whatever the panel holds there.
#[derive(Clone, Copy)]
pub(super) struct Scores<E, F> {
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) n: usize,
    pub(super) a: In<E>,
    pub(super) panels: *const E,
    pub(super) finish: F,
}

impl<E: Real, F: Finish<E>> Op<E> for Scores<E, F> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        let mut row = 0;
        while row < self.m {
            let m = height(S::ISA, self.m - row);
            // SAFETY: what the maker of `self` vouches for; row + m <= self.m.
            unsafe {
                match m {
                    12 => self.strip::<S, 12>(s, row),
                    8 => self.strip::<S, 8>(s, row),
                    6 => self.strip::<S, 6>(s, row),
                    4 => self.strip::<S, 4>(s, row),
                    2 => self.strip::<S, 2>(s, row),
                    _ => self.strip::<S, 1>(s, row),
                }
            }
            row += m;
        }
    }
}

impl<E: Real, F: Finish<E>> Scores<E, F> {
    /// # Safety
    /// M rows from `row` on are inside A and whatever the finish writes.
    #[inline(always)]
    unsafe fn strip<S: Simd<E>, const M: usize>(&self, s: S, row: usize) {
        if !const { has(S::ISA, M) } {
            return;
        }
        let a = self.a.row(row);
        let mut col = 0;
        while col < self.n {
            let b = self.panels.wrapping_add(col * self.k);
            // SAFETY: panel `col / panel` of B; row and col inside.
            unsafe {
                if self.n - col > S::LANES {
                    let acc = self.sums::<S, M, 2>(s, a, b);
                    self.finish.finish::<S, M, 2>(s, &acc, row, col);
                } else {
                    let acc = self.sums::<S, M, 1>(s, a, b);
                    self.finish.finish::<S, M, 1>(s, &acc, row, col);
                }
            }
            col += WIDE * S::LANES;
        }
    }

    /// # Safety
    /// M rows of k elements at `a`, k rows of a panel at `b` are readable.
    #[inline(always)]
    unsafe fn sums<S: Simd<E>, const M: usize, const NV: usize>(
        &self,
        s: S,
        a: *const E,
        b: *const E,
    ) -> [[S::V; NV]; M] {
        let mut acc = [[s.splat(E::ZERO); NV]; M];
        let mut rows = Quads::new::<M>(a, self.a.1);
        let mut b = b;
        for _ in 0..self.k {
            let mut bv = [s.splat(E::ZERO); NV];
            for v in 0..NV {
                // SAFETY: vector v of a panel's row.
                bv[v] = unsafe { s.load(b.add(v * S::LANES)) };
            }
            for r in 0..M {
                // SAFETY: row r of A.
                let x = s.splat(unsafe { *rows.at(r) });
                for v in 0..NV {
                    acc[r][v] = s.fma(x, bv[v], acc[r][v]);
                }
            }
            rows.step::<S, M>(s);
            b = s.opaque(b.wrapping_add(WIDE * S::LANES));
        }
        acc
    }
}

/// What a product of [`Chains`] starts from.
#[derive(Clone, Copy)]
pub(super) enum Start<E> {
    Zero,
    /// What C holds.
    C,
    /// What C holds times one factor per row.
    Scaled(*const E),
}

/// `C = start + A B` row by row of C (m, n), then times `by[row]` where given: every entry one FMA
/// chain over its terms in order.
///
/// `KEYS`: rows are keys and the triangle comes first; A is then read down its columns, A[r, p] at
/// `a + r + p * stride`. Otherwise rows are queries, the triangle comes last, A[r, p] at
/// `a + r * stride + p`. `tri`: row r of the m takes part in r + 1 (queries) or m − r (keys) steps
/// of the triangle's m.
#[derive(Clone, Copy)]
pub(super) struct Chains<E, const KEYS: bool> {
    pub(super) m: usize,
    /// Terms of the rectangle.
    pub(super) k: usize,
    pub(super) n: usize,
    pub(super) tri: bool,
    pub(super) a: In<E>,
    pub(super) b: In<E>,
    pub(super) c: Out<E>,
    pub(super) start: Start<E>,
    pub(super) by: Option<*const E>,
}

impl<E: Real, const KEYS: bool> Op<E> for Chains<E, KEYS> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        let mut row = 0;
        while row < self.m {
            let m = height(S::ISA, self.m - row);
            // SAFETY: what the maker of `self` vouches for; row + m <= self.m.
            unsafe {
                match m {
                    12 => self.strip::<S, 12>(s, row),
                    8 => self.strip::<S, 8>(s, row),
                    6 => self.strip::<S, 6>(s, row),
                    4 => self.strip::<S, 4>(s, row),
                    2 => self.strip::<S, 2>(s, row),
                    _ => self.strip::<S, 1>(s, row),
                }
            }
            row += m;
        }
    }
}

impl<E: Real, const KEYS: bool> Chains<E, KEYS> {
    /// # Safety
    /// M rows from `row` on are inside A and C.
    #[inline(always)]
    unsafe fn strip<S: Simd<E>, const M: usize>(&self, s: S, row: usize) {
        if !const { has(S::ISA, M) } {
            return;
        }
        let mut x = *self;
        x.c.0 = self.c.row(row);
        if let Start::Scaled(by) = &mut x.start {
            *by = by.wrapping_add(row);
        }
        if let Some(by) = &mut x.by {
            *by = by.wrapping_add(row);
        }
        // The triangle of this strip, and the rectangle beside it, inside those of the whole.
        if KEYS {
            x.a.0 = self.a.0.wrapping_add(row);
            if self.tri {
                x.a.0 = x.a.row(row);
                x.b.0 = self.b.row(row);
                x.k = self.k + (self.m - row - M);
            }
        } else {
            x.a.0 = self.a.row(row);
            if self.tri {
                x.k = self.k + row;
            }
        }
        let mut col = 0;
        while col < self.n {
            let (nv, last) = width::<E, S>(self.n - col);
            // SAFETY: column `col` of B and C, `last` lanes in the last of nv vectors.
            unsafe {
                match (nv, last == S::LANES) {
                    (2, true) => x.tile::<S, M, 2, true>(s, col, last),
                    (2, false) => x.tile::<S, M, 2, false>(s, col, last),
                    (_, true) => x.tile::<S, M, 1, true>(s, col, last),
                    (_, false) => x.tile::<S, M, 1, false>(s, col, last),
                }
            }
            col += (nv - 1) * S::LANES + last;
        }
    }

    /// # Safety
    /// M rows; columns from `col` on: NV vectors, the last of `last` lanes, all of them if `FULL`.
    #[inline(always)]
    unsafe fn tile<S: Simd<E>, const M: usize, const NV: usize, const FULL: bool>(
        &self,
        s: S,
        col: usize,
        last: usize,
    ) {
        let mut acc = [[s.splat(E::ZERO); NV]; M];
        // SAFETY: rows and columns of the tile, by the contract; steps of A and B are inside the
        // rectangle and the triangle.
        unsafe {
            match self.start {
                Start::Zero => {}
                Start::C => {
                    for r in 0..M {
                        for v in 0..NV {
                            let p = self.c.row(r).wrapping_add(col + v * S::LANES);
                            acc[r][v] = get::<E, S, FULL>(s, p, v + 1 < NV, last);
                        }
                    }
                }
                Start::Scaled(by) => {
                    for r in 0..M {
                        let by = s.splat(*by.add(r));
                        for v in 0..NV {
                            let p = self.c.row(r).wrapping_add(col + v * S::LANES);
                            acc[r][v] = s.mul(by, get::<E, S, FULL>(s, p, v + 1 < NV, last));
                        }
                    }
                }
            }
            let mut at = Steps {
                column: self.a,
                rows: Quads::new::<M>(self.a.0, self.a.1),
                b: In(self.b.0.wrapping_add(col), self.b.1),
                last,
            };
            if KEYS && self.tri {
                at.triangle::<S, M, NV, FULL, true>(s, &mut acc);
            }
            for _ in 0..self.k {
                at.step::<S, M, NV, FULL, KEYS>(s, &mut acc, 0, M);
            }
            if !KEYS && self.tri {
                at.triangle::<S, M, NV, FULL, false>(s, &mut acc);
            }
            for r in 0..M {
                let by = match self.by {
                    Some(by) => s.splat(*by.add(r)),
                    None => s.splat(E::ONE),
                };
                for v in 0..NV {
                    let p = self.c.row(r).wrapping_add(col + v * S::LANES);
                    let x = if self.by.is_some() { s.mul(acc[r][v], by) } else { acc[r][v] };
                    if FULL || v + 1 < NV {
                        s.store(p, x);
                    } else {
                        s.store_partial(p, last, x);
                    }
                }
            }
        }
    }
}

/// # Safety
/// LANES elements, or `last` of them where neither `FULL` nor `whole`, are readable.
#[inline(always)]
unsafe fn get<E: Real, S: Simd<E>, const FULL: bool>(s: S, p: *const E, whole: bool, last: usize) -> S::V {
    // SAFETY: the contract above.
    unsafe { if FULL || whole { s.load(p) } else { s.load_partial(p, last) } }
}

/// Rows of A by fours: one pointer for each four, the others from the stride between rows.
/// Opaque to the compiler, which would make all of them pointers, more than fit the registers.
struct Quads<E> {
    first: [*const E; 3],
    stride: usize,
}

impl<E: Real> Quads<E> {
    #[inline(always)]
    fn new<const M: usize>(a: *const E, stride: usize) -> Self {
        const { assert!(M <= 12) };
        let mut first = [a; 3];
        for g in 1..M.div_ceil(4) {
            first[g] = first[g - 1].wrapping_add(4 * stride);
        }
        Quads { first, stride }
    }
    /// Row r of this column.
    #[inline(always)]
    fn at(&self, r: usize) -> *const E {
        self.first[r / 4].wrapping_add(r % 4 * self.stride)
    }
    /// To the next column.
    #[inline(always)]
    fn step<S: Simd<E>, const M: usize>(&mut self, s: S) {
        // Wrapping: after the last step the pointers may leave their allocations.
        for g in 0..M.div_ceil(4) {
            self.first[g] = s.opaque(self.first[g].wrapping_add(1));
        }
    }
}

/// Where the next term of the chains is.
struct Steps<E> {
    /// Column of A, where rows are keys.
    column: In<E>,
    /// Rows of A, where these are queries.
    rows: Quads<E>,
    b: In<E>,
    last: usize,
}

impl<E: Real> Steps<E> {
    /// One term, added to rows `r0..r1`.
    ///
    /// # Safety
    /// The term is inside A and B.
    #[inline(always)]
    unsafe fn step<S: Simd<E>, const M: usize, const NV: usize, const FULL: bool, const KEYS: bool>(
        &mut self,
        s: S,
        acc: &mut [[S::V; NV]; M],
        r0: usize,
        r1: usize,
    ) {
        let mut bv = [s.splat(E::ZERO); NV];
        for v in 0..NV {
            // SAFETY: vector v of this row of B.
            bv[v] =
                unsafe { get::<E, S, FULL>(s, self.b.0.wrapping_add(v * S::LANES), v + 1 < NV, self.last) };
        }
        for r in 0..M {
            if r >= r0 && r < r1 {
                let p = if KEYS { self.column.0.wrapping_add(r) } else { self.rows.at(r) };
                // SAFETY: row r of this term of A.
                let x = s.splat(unsafe { *p });
                for v in 0..NV {
                    acc[r][v] = s.fma(x, bv[v], acc[r][v]);
                }
            }
        }
        // Wrapping: after the last step the pointers may leave their allocations.
        if KEYS {
            self.column.0 = s.opaque(self.column.0.wrapping_add(self.column.1));
        } else {
            self.rows.step::<S, M>(s);
        }
        self.b.0 = s.opaque(self.b.0.wrapping_add(self.b.1));
    }

    /// M terms: term p goes to rows p.. (queries) or ..=p (keys). Written out, so that the row
    /// bounds are constants.
    ///
    /// # Safety
    /// As [`Steps::step`].
    #[inline(always)]
    unsafe fn triangle<S: Simd<E>, const M: usize, const NV: usize, const FULL: bool, const KEYS: bool>(
        &mut self,
        s: S,
        acc: &mut [[S::V; NV]; M],
    ) {
        // SAFETY: the contract above, M terms in all.
        unsafe {
            self.corner::<S, M, NV, FULL, KEYS, 0>(s, acc);
            self.corner::<S, M, NV, FULL, KEYS, 1>(s, acc);
            self.corner::<S, M, NV, FULL, KEYS, 2>(s, acc);
            self.corner::<S, M, NV, FULL, KEYS, 3>(s, acc);
            self.corner::<S, M, NV, FULL, KEYS, 4>(s, acc);
            self.corner::<S, M, NV, FULL, KEYS, 5>(s, acc);
            self.corner::<S, M, NV, FULL, KEYS, 6>(s, acc);
            self.corner::<S, M, NV, FULL, KEYS, 7>(s, acc);
            self.corner::<S, M, NV, FULL, KEYS, 8>(s, acc);
            self.corner::<S, M, NV, FULL, KEYS, 9>(s, acc);
            self.corner::<S, M, NV, FULL, KEYS, 10>(s, acc);
            self.corner::<S, M, NV, FULL, KEYS, 11>(s, acc);
        }
    }

    /// Term P of the triangle.
    ///
    /// # Safety
    /// As [`Steps::step`].
    #[inline(always)]
    unsafe fn corner<
        S: Simd<E>,
        const M: usize,
        const NV: usize,
        const FULL: bool,
        const KEYS: bool,
        const P: usize,
    >(
        &mut self,
        s: S,
        acc: &mut [[S::V; NV]; M],
    ) {
        if P < M {
            let (r0, r1) = if KEYS { (0, P + 1) } else { (P, M) };
            // SAFETY: the contract above.
            unsafe { self.step::<S, M, NV, FULL, KEYS>(s, acc, r0, r1) };
        }
    }
}
