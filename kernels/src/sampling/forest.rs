//! Symbols by inversion, each from the row that an earlier symbol names.

use crate::sampling::philox::unit;
use crate::sampling::problem::{RowOf, SAMPLE_LANES};
use crate::simd::{WordOp, Words};

/// table (SAMPLE_LANES, stride): rows of n prefix sums; words (len, SAMPLE_LANES); symbols (lanes,
/// len), lanes <= SAMPLE_LANES. Checked by the entry: rows and given symbols exist, SAMPLE_LANES
/// columns of slack.
pub(crate) struct InvertForest<'a> {
    pub(crate) n: usize,
    pub(crate) rows: &'a [RowOf],
    pub(crate) words: &'a [u64],
    pub(crate) table: &'a [f64],
    pub(crate) stride: usize,
    pub(crate) symbols: &'a mut [u32],
}

impl WordOp for InvertForest<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Words>(self, s: S) {
        let (n, len) = (self.n, self.rows.len());
        let lanes = self.symbols.len() / len;
        assert!(
            lanes <= SAMPLE_LANES
                && self.words.len() >= len * SAMPLE_LANES
                && self.table.len() >= SAMPLE_LANES * self.stride
        );
        let mut u = [0.0; SAMPLE_LANES];
        for i in 0..len {
            let row_of = self.rows[i];
            if matches!(row_of, RowOf::Given) {
                continue;
            }
            let mut lane = 0;
            while lane < SAMPLE_LANES {
                // SAFETY: lane + LANES <= SAMPLE_LANES words of row i, length asserted; as many in
                // u.
                unsafe {
                    let w = s.load_words(self.words.as_ptr().add(i * SAMPLE_LANES + lane));
                    s.store(u.as_mut_ptr().add(lane), unit(s, w));
                }
                lane += S::LANES;
            }
            // Lanes do not depend on one another: the CPU overlaps their chains.
            for l in 0..lanes {
                let row = match row_of {
                    RowOf::Symbol(p) => self.symbols[l * len + p as usize],
                    RowOf::Fixed(r) => r,
                    RowOf::Given => 0,
                } as usize;
                let mut above = 0;
                // SAFETY: the entry checked fixed rows and given symbols, and drawn ones are below
                // n: the row ends before stride - SAMPLE_LANES, and a vector reaches less than
                // SAMPLE_LANES past it.
                unsafe {
                    let sums = self.table.as_ptr().add(l * self.stride + row * n);
                    let level = s.splat(u[l] * *sums.add(n - 1));
                    let mut b = 0;
                    while b < n {
                        let mut mask = s.mask_lt(level, s.load(sums.add(b)));
                        if n - b < S::LANES {
                            mask &= (1 << (n - b)) - 1;
                        }
                        above += mask.count_ones() as usize;
                        b += S::LANES;
                    }
                }
                // Some sum is above the level unless the row is not a distribution.
                let symbol = if above > 0 { n - above } else { n - 1 };
                self.symbols[l * len + i] = symbol as u32;
            }
        }
    }
}
