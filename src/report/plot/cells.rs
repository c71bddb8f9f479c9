//! Values of many cells, pooled where they are more than can be seen, and their image.

use resvg::tiny_skia::{ColorU8, Pixmap};
use std::borrow::Cow;

use super::color::{Colormap, LEVELS, NAN_COLOR};

/// Most rows or columns that are drawn; more are pooled.
const MOST: usize = 400;

/// How many rows, and how many columns, of a matrix one drawn cell stands for.
pub(super) fn factors(rows: usize, cols: usize) -> (usize, usize) {
    (rows.div_ceil(MOST).max(1), cols.div_ceil(MOST).max(1))
}

/// Of each k x l entries of a matrix of `cols` columns the one of largest size, so that thin
/// structure (a sub-diagonal) survives; NaN where all are.
pub(super) fn pooled(values: &[f64], cols: usize, (k, l): (usize, usize)) -> Cow<'_, [f64]> {
    if k <= 1 && l <= 1 {
        return Cow::Borrowed(values);
    }
    let width = cols.div_ceil(l);
    let mut out = vec![f64::NAN; (values.len() / cols).div_ceil(k) * width];
    for (i, row) in values.chunks_exact(cols).enumerate() {
        for (cell, x) in out[i / k * width..].iter_mut().zip(row.chunks(l)) {
            for x in x {
                if cell.is_nan() || x.abs() > cell.abs() {
                    *cell = *x;
                }
            }
        }
    }
    Cow::Owned(out)
}

/// Cells with their colours.
pub(super) struct Cells {
    pub(super) values: Vec<f64>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) range: (f64, f64),
    pub(super) colormap: Colormap,
}

impl Cells {
    /// A pixel for each `k` x `k` cells; none if there is no memory for it.
    pub(super) fn pixels(&self, k: usize) -> Option<Pixmap> {
        let (rows, cols) = (self.rows.div_ceil(k), self.cols.div_ceil(k));
        let mut out = Pixmap::new(u32::try_from(cols).ok()?, u32::try_from(rows).ok()?)?;
        let palette: Vec<_> = (0..LEVELS)
            .map(|level| self.colormap.color(level))
            .chain([NAN_COLOR])
            .map(|c| ColorU8::from_rgba(c.0, c.1, c.2, u8::MAX).premultiply())
            .collect();
        for (pixel, v) in out.pixels_mut().iter_mut().zip(pooled(&self.values, self.cols, (k, k)).iter()) {
            *pixel = palette[Colormap::level(*v, self.range).unwrap_or(LEVELS)];
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooling_keeps_the_largest_of_each_square() {
        let n = 900;
        let mut values = vec![0.1; n * n];
        (1..n).for_each(|i| values[i * n + i - 1] = -5.0);
        assert_eq!(factors(n, 20), (3, 1));
        let small = pooled(&values, n, (3, 3));
        assert_eq!(small.len(), 300 * 300);
        assert!((1..300).all(|i| small[i * 300 + i] == -5.0));
        assert_eq!(small[299], 0.1);
        // The last squares are cut off; NaN only where nothing else is.
        let odd = [1.0, f64::NAN, f64::NAN, -2.0, f64::NAN, f64::NAN];
        let small = pooled(&odd, 3, (2, 2));
        assert!(small.len() == 2 && small[0] == -2.0 && small[1].is_nan());
    }
}
