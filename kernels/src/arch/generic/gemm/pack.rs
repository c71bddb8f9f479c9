//! Packing: operands copied into panels that the tile reads from front to back.
//!
//! ```text
//! A, m rows in panels of at most mr:      B, n columns in panels of at most nv vectors:
//!   panel: k columns of rows elements       panel: k rows of whole vectors, the last one padded
//! ```

use super::tile::{packed_row_split, vector_split};
use crate::arch::Simd;
use crate::elem::Elem;

/// A (m, k) into `to`, m * k elements.
///
/// # Safety
/// A is readable with its strides, `to` holds m * k elements and overlaps nothing.
#[inline(always)]
pub(super) unsafe fn pack_a<E: Elem, S: Simd<E>>(
    s: S,
    m: usize,
    k: usize,
    a: *const E,
    rs: usize,
    cs: usize,
    to: *mut E,
) {
    let rows = packed_row_split::<E, S>(m);
    // A few columns of A at a time: memory is read in long runs, and the lines that two panels share stay in L1.
    let columns = if rs == 1 { 16 } else { k };
    let mut p0 = 0;
    while p0 < k {
        let p1 = (p0 + columns).min(k);
        let mut row = 0;
        for piece in 0..rows.pieces {
            let mr = rows.size(piece);
            // SAFETY: row + mr <= m, p1 <= k; the panel starts after `row` whole rows.
            unsafe {
                let (from, to) = (a.add(row * rs), to.add(row * k));
                if rs == 1 && mr <= S::LANES {
                    // One masked vector per column of the panel, none of them reaching past its end.
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

/// B (k, n) into `to`, k * (n rounded up to whole vectors) elements. Lanes beyond n are never read back.
///
/// # Safety
/// B is readable with its strides, `to` holds as many elements as said and overlaps nothing.
#[inline(always)]
pub(super) unsafe fn pack_b<E: Elem, S: Simd<E>>(
    s: S,
    k: usize,
    n: usize,
    b: *const E,
    rs: usize,
    cs: usize,
    to: *mut E,
) {
    let vectors = vector_split::<E, S>(n);
    let mut col = 0;
    for piece in 0..vectors.pieces {
        let padded = vectors.size(piece) * S::LANES;
        let width = padded.min(n - col);
        // SAFETY: col + width <= n; the panel starts after k rows of `col` elements, `col` being whole vectors.
        unsafe {
            let (b, to) = (b.add(col * cs), to.add(col * k));
            if cs == 1 {
                copy_rows(s, k, width, b, rs, to, padded);
            } else if rs == 1 {
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
unsafe fn copy_rows<E: Elem, S: Simd<E>>(
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
            // SAFETY: the first min(LANES, width - j) lanes are inside the row; `to` has room for the whole vector.
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
unsafe fn transpose<E: Elem, S: Simd<E>>(
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
            // SAFETY: elements p.. of columns j.. are inside B; rows p.. and columns j.. inside the padded panel.
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
unsafe fn gather<E: Elem>(
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
