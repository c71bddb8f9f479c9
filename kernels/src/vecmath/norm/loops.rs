//! Layer norm of rows. Arithmetic is f64 and without fma whatever the element type, results are
//! rounded once: the same bits on every instruction set. Sums go to sixteen lanes by index,
//! whatever the vector length.

use crate::elem::real::Real;

const LANES: usize = 16;

/// Columns whose gradients are summed up at a time.
const BLOCK: usize = 32;

#[inline(always)]
fn fold(mut a: [f64; LANES]) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            a[l] += a[l + width];
        }
        width /= 2;
    }
    a[0]
}

/// Mean and 1 / sqrt(variance + eps) of n >= 1 elements; two passes.
///
/// # Safety
/// `x` is readable at i * cs, i < n; `UNIT` only if cs = 1.
#[inline(always)]
unsafe fn moments<E: Real, const UNIT: bool>(n: usize, x: *const E, cs: usize, eps: f64) -> (f64, f64) {
    let cs = if UNIT { 1 } else { cs };
    let mut sum = [0.0; LANES];
    let mut i = 0;
    while i + LANES <= n {
        for l in 0..LANES {
            // SAFETY: i + l < n.
            sum[l] += unsafe { *x.add((i + l) * cs) }.to_f64();
        }
        i += LANES;
    }
    for l in 0..n - i {
        // SAFETY: i + l < n.
        sum[l] += unsafe { *x.add((i + l) * cs) }.to_f64();
    }
    let mean = fold(sum) / n as f64;
    let mut sum = [0.0; LANES];
    let mut i = 0;
    while i + LANES <= n {
        for l in 0..LANES {
            // SAFETY: i + l < n.
            let d = unsafe { *x.add((i + l) * cs) }.to_f64() - mean;
            sum[l] += d * d;
        }
        i += LANES;
    }
    for l in 0..n - i {
        // SAFETY: i + l < n.
        let d = unsafe { *x.add((i + l) * cs) }.to_f64() - mean;
        sum[l] += d * d;
    }
    (mean, 1.0 / (fold(sum) / n as f64 + eps).sqrt())
}

/// One row of [`Kernels::layer_norm`](crate::Kernels::layer_norm); returns mean and 1/std.
///
/// # Safety
/// `x` is readable at i * xs, `out` writable at i * os, `weight` and `bias` readable, i < n; `UNIT`
/// only if both strides are 1.
#[inline(always)]
pub(crate) unsafe fn forward_row<E: Real, const UNIT: bool>(
    n: usize,
    [x, weight, bias]: [*const E; 3],
    xs: usize,
    eps: f64,
    out: *mut E,
    os: usize,
) -> (f64, f64) {
    let (xs, os) = if UNIT { (1, 1) } else { (xs, os) };
    // SAFETY: as the caller vouches.
    unsafe {
        let (mean, rstd) = moments::<E, UNIT>(n, x, xs, eps);
        for j in 0..n {
            let hat = ((*x.add(j * xs)).to_f64() - mean) * rstd;
            *out.add(j * os) = E::from_f64(hat * (*weight.add(j)).to_f64() + (*bias.add(j)).to_f64());
        }
        (mean, rstd)
    }
}

/// One row of dx: with g = dout ∘ weight, `rstd (g − mean g − x̂ mean(g ∘ x̂))`.
///
/// # Safety
/// `x`, `dout` are readable and `dx` writable at their strides, `weight` readable, i < n, n >= 1;
/// `UNIT` only if all strides are 1.
#[inline(always)]
pub(crate) unsafe fn backward_row<E: Real, const UNIT: bool>(
    n: usize,
    [x, dout, weight]: [*const E; 3],
    [xs, gs, ds]: [usize; 3],
    [mean, rstd]: [f64; 2],
    dx: *mut E,
) {
    let (xs, gs, ds) = if UNIT { (1, 1, 1) } else { (xs, gs, ds) };
    let (mut sum_g, mut sum_gx) = ([0.0; LANES], [0.0; LANES]);
    let mut i = 0;
    while i + LANES <= n {
        for l in 0..LANES {
            // SAFETY: i + l < n.
            unsafe {
                let g = (*dout.add((i + l) * gs)).to_f64() * (*weight.add(i + l)).to_f64();
                sum_g[l] += g;
                sum_gx[l] += g * (((*x.add((i + l) * xs)).to_f64() - mean) * rstd);
            }
        }
        i += LANES;
    }
    for l in 0..n - i {
        // SAFETY: i + l < n.
        unsafe {
            let g = (*dout.add((i + l) * gs)).to_f64() * (*weight.add(i + l)).to_f64();
            sum_g[l] += g;
            sum_gx[l] += g * (((*x.add((i + l) * xs)).to_f64() - mean) * rstd);
        }
    }
    let (mean_g, mean_gx) = (fold(sum_g) / n as f64, fold(sum_gx) / n as f64);
    for j in 0..n {
        // SAFETY: j < n.
        unsafe {
            let g = (*dout.add(j * gs)).to_f64() * (*weight.add(j)).to_f64();
            let hat = ((*x.add(j * xs)).to_f64() - mean) * rstd;
            *dx.add(j * ds) = E::from_f64(rstd * ((g - mean_g) - hat * mean_gx));
        }
    }
}

/// `dweight[j] += Σ_i dout_ij x̂_ij`, `dbias[j] += Σ_i dout_ij`, over `rows` in order, in f64, one
/// rounding at the end.
///
/// # Safety
/// X and dout are readable for `rows` by n at (row, column) strides, `mean` and `rstd` for `rows`,
/// `dweight` and `dbias` readable and writable for n; `UNIT` only if the column strides are 1.
#[inline(always)]
pub(crate) unsafe fn backward_columns<E: Real, const UNIT: bool>(
    rows: usize,
    n: usize,
    (x, xr, xs): (*const E, usize, usize),
    (dout, gr, gs): (*const E, usize, usize),
    [mean, rstd]: [*const f64; 2],
    [dweight, dbias]: [*mut E; 2],
) {
    let (xs, gs) = if UNIT { (1, 1) } else { (xs, gs) };
    let mut from = 0;
    // SAFETY: columns from .. from + len <= n.
    unsafe {
        while from + BLOCK <= n {
            let (x, dout) = ((x.add(from * xs), xr, xs), (dout.add(from * gs), gr, gs));
            let to = [dweight.add(from), dbias.add(from)];
            column_block::<E>(rows, BLOCK, x, dout, [mean, rstd], to);
            from += BLOCK;
        }
        if from < n {
            let (x, dout) = ((x.add(from * xs), xr, xs), (dout.add(from * gs), gr, gs));
            let to = [dweight.add(from), dbias.add(from)];
            column_block::<E>(rows, n - from, x, dout, [mean, rstd], to);
        }
    }
}

/// [`backward_columns`] for `len <= BLOCK` columns. Inlined with a constant `len`, its loops
/// vectorise.
///
/// # Safety
/// As [`backward_columns`], for `len` columns.
#[inline(always)]
unsafe fn column_block<E: Real>(
    rows: usize,
    len: usize,
    (x, xr, xs): (*const E, usize, usize),
    (dout, gr, gs): (*const E, usize, usize),
    [mean, rstd]: [*const f64; 2],
    [dweight, dbias]: [*mut E; 2],
) {
    let (mut dw, mut db) = ([0.0; BLOCK], [0.0; BLOCK]);
    for i in 0..rows {
        // SAFETY: row i, column j < len, as the caller vouches.
        unsafe {
            let (m, r) = (*mean.add(i), *rstd.add(i));
            let (x, g) = (x.add(i * xr), dout.add(i * gr));
            for j in 0..len {
                let g = (*g.add(j * gs)).to_f64();
                dw[j] += g * (((*x.add(j * xs)).to_f64() - m) * r);
                db[j] += g;
            }
        }
    }
    for j in 0..len {
        // SAFETY: j < len.
        unsafe {
            let (w, b) = (dweight.add(j), dbias.add(j));
            *w = E::from_f64((*w).to_f64() + dw[j]);
            *b = E::from_f64((*b).to_f64() + db[j]);
        }
    }
}
