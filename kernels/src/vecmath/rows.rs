//! Small row operations: what attention needs besides block products.

use crate::elem::real::Real;
use crate::simd::Simd;

/// First `len <= LANES` elements, zeros beyond.
///
/// # Safety
/// `len <= LANES` elements are readable.
#[inline(always)]
pub(crate) unsafe fn load<E: Real, S: Simd<E>>(s: S, p: *const E, len: usize) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { if len == S::LANES { s.load(p) } else { s.load_partial(p, len) } }
}

/// Writes the first `len <= LANES` lanes.
///
/// # Safety
/// `len <= LANES` elements are writable.
#[inline(always)]
pub(crate) unsafe fn store<E: Real, S: Simd<E>>(s: S, p: *mut E, len: usize, v: S::V) {
    // SAFETY: the caller's promise.
    unsafe { if len == S::LANES { s.store(p, v) } else { s.store_partial(p, len, v) } }
}

/// `out[j] = alpha x·row_j` for `rows` rows of `n` elements, four at a time so that their sums
/// overlap. Each lane adds n / LANES products by fma, then the lanes fold.
///
/// # Safety
/// `x` is readable for n elements, row j for n from j * rs, `out` writable for `rows`.
#[inline(always)]
pub(crate) unsafe fn dots<E: Real, S: Simd<E>>(
    s: S,
    n: usize,
    alpha: E,
    x: *const E,
    rows: usize,
    (row, rs): (*const E, usize),
    out: *mut E,
) {
    let mut j = 0;
    while j < rows {
        // The last group moves back and repeats rows: the same bits are written twice.
        let (first, group) = if rows < 4 { (j, 1) } else { (if j + 4 <= rows { j } else { rows - 4 }, 4) };
        let mut acc = [s.splat(E::ZERO); 4];
        let mut i = 0;
        while i < n {
            let len = if n - i < S::LANES { n - i } else { S::LANES };
            // SAFETY: len <= n - i elements of x and of each row; first + group <= rows.
            unsafe {
                let xv = load::<E, S>(s, x.add(i), len);
                for (g, acc) in acc.iter_mut().enumerate() {
                    if g < group {
                        *acc = s.fma(xv, load::<E, S>(s, row.add((first + g) * rs + i), len), *acc);
                    }
                }
            }
            i += len;
        }
        for (g, acc) in acc.iter().enumerate() {
            if g < group {
                // SAFETY: first + group <= rows.
                unsafe { *out.add(first + g) = alpha * s.reduce_add(*acc) };
            }
        }
        j = first + group;
    }
}

/// Σ a_i b_i over n elements.
///
/// # Safety
/// Both are readable for n elements.
#[inline(always)]
pub(crate) unsafe fn dot<E: Real, S: Simd<E>>(s: S, n: usize, a: *const E, b: *const E) -> E {
    let mut acc = s.splat(E::ZERO);
    let mut i = 0;
    while i < n {
        let len = if n - i < S::LANES { n - i } else { S::LANES };
        // SAFETY: len <= n - i.
        unsafe { acc = s.fma(load::<E, S>(s, a.add(i), len), load::<E, S>(s, b.add(i), len), acc) };
        i += len;
    }
    s.reduce_add(acc)
}

/// `c = Σ_p coef_p row_p` (`SET`, never reads c) or `c += ..`: `k` rows of `n` elements,
/// coefficients `cs` apart. One fma chain per entry, in order of p.
///
/// # Safety
/// `coef` is readable at p * cs, row p for n elements from p * rs, `c` for n elements readable
/// (unless `SET`) and writable.
#[inline(always)]
pub(crate) unsafe fn combine<E: Real, S: Simd<E>, const SET: bool>(
    s: S,
    n: usize,
    k: usize,
    (coef, cs): (*const E, usize),
    (row, rs): (*const E, usize),
    c: *mut E,
) {
    let mut i = 0;
    while i < n {
        let left = n - i;
        let (row, c) = (row.wrapping_add(i), c.wrapping_add(i));
        // SAFETY: `left` elements from i on; each call takes NV vectors, the last with `last`
        // lanes, of which there are enough.
        unsafe {
            if left > 3 * S::LANES {
                let last = if left < 4 * S::LANES { left - 3 * S::LANES } else { S::LANES };
                combine_chunk::<E, S, SET, 4>(s, last, k, (coef, cs), (row, rs), c);
                i += 3 * S::LANES + last;
            } else if left > S::LANES {
                let last = if left < 2 * S::LANES { left - S::LANES } else { S::LANES };
                combine_chunk::<E, S, SET, 2>(s, last, k, (coef, cs), (row, rs), c);
                i += S::LANES + last;
            } else {
                combine_chunk::<E, S, SET, 1>(s, left, k, (coef, cs), (row, rs), c);
                i = n;
            }
        }
    }
}

/// # Safety
/// As [`combine`], for `(NV - 1) * LANES + last` elements, `last <= LANES`.
#[inline(always)]
unsafe fn combine_chunk<E: Real, S: Simd<E>, const SET: bool, const NV: usize>(
    s: S,
    last: usize,
    k: usize,
    (coef, cs): (*const E, usize),
    (row, rs): (*const E, usize),
    c: *mut E,
) {
    // SAFETY: vector v has LANES elements inside the row, the last one `last`.
    unsafe {
        let mut acc = [s.splat(E::ZERO); NV];
        if !SET {
            for (v, acc) in acc.iter_mut().enumerate() {
                *acc = load::<E, S>(s, c.add(v * S::LANES), if v + 1 < NV { S::LANES } else { last });
            }
        }
        for p in 0..k {
            let x = s.splat(*coef.add(p * cs));
            for (v, acc) in acc.iter_mut().enumerate() {
                let len = if v + 1 < NV { S::LANES } else { last };
                *acc = s.fma(x, load::<E, S>(s, row.add(p * rs + v * S::LANES), len), *acc);
            }
        }
        for (v, acc) in acc.iter().enumerate() {
            store::<E, S>(s, c.add(v * S::LANES), if v + 1 < NV { S::LANES } else { last }, *acc);
        }
    }
}

/// `c += coef_j x` for every row j of C: the rank-one update of a last query.
///
/// # Safety
/// `coef` is readable for `rows` elements, `x` for n, row j of C readable and writable for n from
/// j * rs.
#[inline(always)]
pub(crate) unsafe fn outer<E: Real, S: Simd<E>>(
    s: S,
    rows: usize,
    n: usize,
    coef: *const E,
    x: *const E,
    c: *mut E,
    rs: usize,
) {
    for j in 0..rows {
        // SAFETY: row j, len <= n - i elements from i on.
        unsafe {
            let a = s.splat(*coef.add(j));
            let mut i = 0;
            while i < n {
                let len = if n - i < S::LANES { n - i } else { S::LANES };
                let p = c.add(j * rs + i);
                store::<E, S>(s, p, len, s.fma(a, load::<E, S>(s, x.add(i), len), load::<E, S>(s, p, len)));
                i += len;
            }
        }
    }
}
