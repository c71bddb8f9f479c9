//! Rows of logarithms to probabilities and prefix sums.

use crate::sampling::exact::exp_exact;
use crate::sampling::problem::SAMPLE_LANES;
use crate::simd::{WordOp, Words};

/// logs, p (rows, n, SAMPLE_LANES); sums (n, SAMPLE_LANES); table (SAMPLE_LANES, stride), stride >=
/// rows n + SAMPLE_LANES.
pub(crate) struct SimplexRows<'a> {
    pub(crate) n: usize,
    pub(crate) logs: &'a mut [f64],
    pub(crate) p: &'a mut [f64],
    pub(crate) sums: &'a mut [f64],
    pub(crate) table: &'a mut [f64],
    pub(crate) stride: usize,
}

impl WordOp for SimplexRows<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Words>(self, s: S) {
        let n = self.n;
        let rows = self.logs.len() / (n * SAMPLE_LANES);
        assert!(self.p.len() == self.logs.len() && self.sums.len() >= n * SAMPLE_LANES);
        assert!(self.stride >= rows * n + SAMPLE_LANES && self.table.len() >= SAMPLE_LANES * self.stride);
        for r in 0..rows {
            let mut lane = 0;
            while lane < SAMPLE_LANES {
                // SAFETY: entry b of row r at lane .. lane + LANES <= SAMPLE_LANES: (r n + b)
                // SAMPLE_LANES + lane + LANES <= rows n SAMPLE_LANES, and b SAMPLE_LANES + lane +
                // LANES <= n SAMPLE_LANES in `sums`: lengths asserted.
                unsafe {
                    let logs = self.logs.as_mut_ptr().add(r * n * SAMPLE_LANES + lane);
                    let p = self.p.as_mut_ptr().add(r * n * SAMPLE_LANES + lane);
                    let sums = self.sums.as_mut_ptr().add(lane);
                    let mut max = s.splat(f64::NEG_INFINITY);
                    for b in 0..n {
                        max = s.max(s.load(logs.add(b * SAMPLE_LANES)), max);
                    }
                    let mut total = s.splat(0.0);
                    for b in 0..n {
                        let y = s.sub(s.load(logs.add(b * SAMPLE_LANES)), max);
                        s.store(logs.add(b * SAMPLE_LANES), y);
                        let e = exp_exact(s, y);
                        s.store(p.add(b * SAMPLE_LANES), e);
                        total = s.add(total, e);
                        s.store(sums.add(b * SAMPLE_LANES), total);
                    }
                    let scale = s.div(s.splat(1.0), total);
                    for b in 0..n {
                        s.store(p.add(b * SAMPLE_LANES), s.mul(s.load(p.add(b * SAMPLE_LANES)), scale));
                    }
                }
                lane += S::LANES;
            }
            // SAFETY: stride >= r n + n + SAMPLE_LANES, lengths asserted.
            unsafe {
                lanes_to_rows(s, n, self.sums.as_ptr(), self.table.as_mut_ptr().add(r * n), self.stride)
            };
        }
    }
}

/// from (n, SAMPLE_LANES) to the first n columns of to (SAMPLE_LANES, stride).
pub(crate) struct LanesToRows<'a> {
    pub(crate) n: usize,
    pub(crate) from: &'a [f64],
    pub(crate) to: &'a mut [f64],
    pub(crate) stride: usize,
}

impl WordOp for LanesToRows<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Words>(self, s: S) {
        assert!(self.from.len() >= self.n * SAMPLE_LANES);
        assert!(
            self.stride >= self.n + SAMPLE_LANES
                && self.to.len() >= (SAMPLE_LANES - 1) * self.stride + self.n + SAMPLE_LANES
        );
        // SAFETY: asserted.
        unsafe { lanes_to_rows(s, self.n, self.from.as_ptr(), self.to.as_mut_ptr(), self.stride) };
    }
}

/// Columns from n on, fewer than EDGE of them, receive arbitrary values.
///
/// # Safety
/// `from` is readable for n SAMPLE_LANES elements, n + SAMPLE_LANES columns of the SAMPLE_LANES
/// rows of `to` are writable; EDGE divides SAMPLE_LANES.
#[inline(always)]
unsafe fn lanes_to_rows<S: Words>(s: S, n: usize, from: *const f64, to: *mut f64, stride: usize) {
    let mut b = 0;
    while b < n {
        let cols = if n - b < S::EDGE { n - b } else { S::EDGE };
        let mut lane = 0;
        while lane < SAMPLE_LANES {
            // SAFETY: `cols` runs of EDGE lanes, SAMPLE_LANES apart, below n; EDGE columns from b
            // on end before n + SAMPLE_LANES.
            unsafe {
                s.transpose(
                    S::EDGE,
                    cols,
                    from.add(b * SAMPLE_LANES + lane),
                    SAMPLE_LANES,
                    to.add(lane * stride + b),
                    stride,
                );
            }
            lane += S::EDGE;
        }
        b += S::EDGE;
    }
}
