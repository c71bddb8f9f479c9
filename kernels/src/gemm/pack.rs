//! Packing: operands copied into panels that the tile reads from front to back.
//!
//! ```text
//! A, m rows in panels of at most mr:      B, n columns in panels of at most nv vectors:
//!   panel: k columns of rows elements       panel: k rows of whole vectors, the last one padded
//! ```

use crate::elem::real::Real;
use crate::gemm::tile::{packed_row_split, vector_split};
use crate::simd::Simd;

/// Rows or columns of an operand that are copied into all panels before the next ones.
const RUN: usize = 16;

/// Bytes that rows of B span from which on they are copied in runs: what is near needs neither
/// these nor to be prefetched.
const FAR: usize = 256 << 10;

/// Asks memory for the run after this one, line after line as they lie, a share with every panel.
struct Ahead<E> {
    at: *const E,
    next: usize,
    lines: usize,
    line: usize,
    share: usize,
}

impl<E> Ahead<E> {
    const LINE: usize = 64 / size_of::<E>();

    /// [`RUN`] times `width` elements from `at` on, which may lie behind the operand's end, `next`
    /// elements from one to the next.
    #[inline(always)]
    fn new(at: *const E, next: usize, width: usize, panels: usize) -> Self {
        let lines = width.div_ceil(Self::LINE);
        Ahead { at, next, lines, line: 0, share: (lines * RUN).div_ceil(panels.max(1)) }
    }

    #[inline(always)]
    fn step<S: Simd<E>>(&mut self, s: S)
    where
        E: Real,
    {
        for _ in 0..self.share {
            s.prefetch(self.at.wrapping_add(self.line * Self::LINE));
            self.line += 1;
            if self.line == self.lines {
                self.line = 0;
                self.at = self.at.wrapping_add(self.next);
            }
        }
    }
}

/// A (m, k) into `to`, m * k elements.
///
/// # Safety
/// A is readable with its strides, `to` holds m * k elements and overlaps nothing.
#[inline(always)]
pub(super) unsafe fn pack_a<E: Real, S: Simd<E>>(
    s: S,
    m: usize,
    k: usize,
    a: *const E,
    rs: usize,
    cs: usize,
    to: *mut E,
) {
    let rows = packed_row_split::<E, S>(m);
    // A few columns of A at a time: memory is read in long runs, and the lines that two panels
    // share stay in L1.
    let columns = if rs == 1 { RUN } else { k };
    let mut p0 = 0;
    while p0 < k {
        let p1 = (p0 + columns).min(k);
        let mut row = 0;
        let mut ahead = Ahead::new(a.wrapping_add(p1 * cs), cs, if rs == 1 { m } else { 0 }, rows.pieces);
        for piece in 0..rows.pieces {
            let mr = rows.size(piece);
            ahead.step(s);
            // SAFETY: row + mr <= m, p1 <= k; the panel starts after `row` whole rows.
            unsafe {
                let (from, to) = (a.add(row * rs), to.add(row * k));
                if rs == 1 && mr <= S::LANES {
                    // One masked vector per column of the panel, none of them reaching past its
                    // end.
                    for p in p0..p1 {
                        s.store_partial(to.add(p * mr), mr, s.load_partial(from.add(p * cs), mr));
                    }
                } else {
                    for p in p0..p1 {
                        for i in 0..mr {
                            *to.add(p * mr + i) = *from.add(i * rs + p * cs);
                        }
                    }
                }
            }
            row += mr;
        }
        p0 = p1;
    }
}

/// B (k, n) into `to`, k * (n rounded up to whole vectors) elements. Lanes beyond n are never read
/// back.
///
/// # Safety
/// B is readable with its strides, `to` holds as many elements as said and overlaps nothing.
#[inline(always)]
pub(super) unsafe fn pack_b<E: Real, S: Simd<E>>(
    s: S,
    k: usize,
    n: usize,
    b: *const E,
    rs: usize,
    cs: usize,
    to: *mut E,
) {
    let vectors = vector_split::<E, S>(n, false);
    if cs == 1 {
        let far = k.saturating_mul(rs).saturating_mul(size_of::<E>()) > FAR;
        let (run, wanted) = if far { (RUN, n) } else { (k, 0) };
        let mut p0 = 0;
        while p0 < k {
            let p1 = (p0 + run).min(k);
            let mut ahead = Ahead::new(b.wrapping_add(p1 * rs), rs, wanted, vectors.pieces);
            let mut col = 0;
            for piece in 0..vectors.pieces {
                let padded = vectors.size(piece) * S::LANES;
                let width = padded.min(n - col);
                ahead.step(s);
                // SAFETY: rows p0..p1 of `width` columns from `col` on, p1 <= k and col + width <=
                // n; the panel starts after k rows of `col` elements, `col` being whole vectors.
                unsafe {
                    let to = to.add(col * k + p0 * padded);
                    copy_rows(s, p1 - p0, width, b.add(p0 * rs + col), rs, to, padded);
                }
                col += width;
            }
            p0 = p1;
        }
        return;
    }
    let mut col = 0;
    for piece in 0..vectors.pieces {
        let padded = vectors.size(piece) * S::LANES;
        let width = padded.min(n - col);
        // SAFETY: col + width <= n; the panel starts after k rows of `col` elements, `col` being
        // whole vectors.
        unsafe {
            let (b, to) = (b.add(col * cs), to.add(col * k));
            if rs == 1 {
                transpose(s, k, width, b, cs, to, padded);
            } else {
                gather(k, width, b, rs, cs, to, padded);
            }
        }
        col += width;
    }
}

/// k rows of `width` contiguous elements.
///
/// # Safety
/// Both sides hold the rows, `to` with room for whole vectors.
#[inline(always)]
unsafe fn copy_rows<E: Real, S: Simd<E>>(
    s: S,
    k: usize,
    width: usize,
    b: *const E,
    rs: usize,
    to: *mut E,
    padded: usize,
) {
    for p in 0..k {
        let mut j = 0;
        while j < width {
            // SAFETY: the first min(LANES, width - j) lanes are inside the row; `to` has room for
            // the whole vector.
            unsafe {
                let from = b.add(p * rs + j);
                let v = if width - j >= S::LANES { s.load(from) } else { s.load_partial(from, width - j) };
                s.store(to.add(p * padded + j), v);
            }
            j += S::LANES;
        }
    }
}

/// `width` columns of k contiguous elements: B transposed, block by block in registers.
///
/// # Safety
/// Both sides hold the columns, `to` with room for rows of whole vectors.
#[inline(always)]
unsafe fn transpose<E: Real, S: Simd<E>>(
    s: S,
    k: usize,
    width: usize,
    b: *const E,
    cs: usize,
    to: *mut E,
    padded: usize,
) {
    // So that the last block of a row ends inside its padding.
    const { assert!(S::LANES.is_multiple_of(S::EDGE)) };
    let mut p = 0;
    while p < k {
        let rows = (k - p).min(S::EDGE);
        let mut j = 0;
        while j < width {
            let cols = (width - j).min(S::EDGE);
            // SAFETY: elements p.. of columns j.. are inside B; rows p.. and columns j.. inside the
            // padded panel.
            unsafe { s.transpose(rows, cols, b.add(j * cs + p), cs, to.add(p * padded + j), padded) };
            j += cols;
        }
        p += rows;
    }
}

/// k rows of `width` strided elements: views that are contiguous neither way.
///
/// # Safety
/// Both sides hold the rows.
#[inline(always)]
unsafe fn gather<E: Real>(
    k: usize,
    width: usize,
    b: *const E,
    rs: usize,
    cs: usize,
    to: *mut E,
    padded: usize,
) {
    for j in 0..width {
        for p in 0..k {
            // SAFETY: p < k, j < width.
            unsafe { *to.add(p * padded + j) = *b.add(p * rs + j * cs) };
        }
    }
}
