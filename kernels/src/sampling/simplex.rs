//! Rows of logarithms to probabilities and prefix sums.

use crate::sampling::exact::exp_exact;
use crate::sampling::problem::SIDE;
use crate::simd::{WordOp, Words};

/// logs, p (rows, n, SIDE); sums (n, SIDE); table (SIDE, stride), stride >= rows n + SIDE.
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
        let rows = self.logs.len() / (n * SIDE);
        assert!(self.p.len() == self.logs.len() && self.sums.len() >= n * SIDE);
        assert!(self.stride >= rows * n + SIDE && self.table.len() >= SIDE * self.stride);
        for r in 0..rows {
            let mut lane = 0;
            while lane < SIDE {
                // SAFETY: entry b of row r at lane .. lane + LANES <= SIDE: (r n + b) SIDE + lane + LANES <= rows n SIDE, and
                // b SIDE + lane + LANES <= n SIDE in `sums`: lengths asserted.
                unsafe {
                    let logs = self.logs.as_mut_ptr().add(r * n * SIDE + lane);
                    let p = self.p.as_mut_ptr().add(r * n * SIDE + lane);
                    let sums = self.sums.as_mut_ptr().add(lane);
                    let mut max = s.splat(f64::NEG_INFINITY);
                    for b in 0..n {
                        max = s.max(s.load(logs.add(b * SIDE)), max);
                    }
                    let mut total = s.splat(0.0);
                    for b in 0..n {
                        let y = s.sub(s.load(logs.add(b * SIDE)), max);
                        s.store(logs.add(b * SIDE), y);
                        let e = exp_exact(s, y);
                        s.store(p.add(b * SIDE), e);
                        total = s.add(total, e);
                        s.store(sums.add(b * SIDE), total);
                    }
                    let scale = s.div(s.splat(1.0), total);
                    for b in 0..n {
                        s.store(p.add(b * SIDE), s.mul(s.load(p.add(b * SIDE)), scale));
                    }
                }
                lane += S::LANES;
            }
            // SAFETY: stride >= r n + n + SIDE, lengths asserted.
            unsafe {
                lanes_to_rows(s, n, self.sums.as_ptr(), self.table.as_mut_ptr().add(r * n), self.stride)
            };
        }
    }
}

/// from (n, SIDE) to the first n columns of to (SIDE, stride).
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
        assert!(self.from.len() >= self.n * SIDE);
        assert!(self.stride >= self.n + SIDE && self.to.len() >= (SIDE - 1) * self.stride + self.n + SIDE);
        // SAFETY: asserted.
        unsafe { lanes_to_rows(s, self.n, self.from.as_ptr(), self.to.as_mut_ptr(), self.stride) };
    }
}

/// Columns from n on, fewer than EDGE of them, receive anything.
///
/// # Safety
/// `from` is readable for n SIDE elements, n + SIDE columns of the SIDE rows of `to` are writable; EDGE divides SIDE.
#[inline(always)]
unsafe fn lanes_to_rows<S: Words>(s: S, n: usize, from: *const f64, to: *mut f64, stride: usize) {
    let mut b = 0;
    while b < n {
        let cols = if n - b < S::EDGE { n - b } else { S::EDGE };
        let mut lane = 0;
        while lane < SIDE {
            // SAFETY: `cols` runs of EDGE lanes, SIDE apart, below n; EDGE columns from b on end before n + SIDE.
            unsafe {
                s.transpose(
                    S::EDGE,
                    cols,
                    from.add(b * SIDE + lane),
                    SIDE,
                    to.add(lane * stride + b),
                    stride,
                );
            }
            lane += S::EDGE;
        }
        b += S::EDGE;
    }
}
