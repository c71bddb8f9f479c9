//! Stationary laws by elimination, one matrix per lane.

use crate::sampling::problem::SIDE;
use crate::simd::{WordOp, Words};

/// Which lanes of a (n, n, SIDE) have an off-diagonal entry below `floor`.
pub(crate) struct OffDiagonalBelow<'a> {
    pub(crate) n: usize,
    pub(crate) a: &'a [f64],
    pub(crate) floor: f64,
}

impl WordOp for OffDiagonalBelow<'_> {
    type Out = u32;
    #[inline(always)]
    fn run<S: Words>(self, s: S) -> u32 {
        let n = self.n;
        assert!(self.a.len() == n * n * SIDE);
        let (mut mask, mut lane) = (0, 0);
        while lane < SIDE {
            let mut least = s.splat(f64::INFINITY);
            for i in 0..n {
                for j in 0..n {
                    if i != j {
                        // SAFETY: entry (i, j), lanes up to lane + LANES <= SIDE: length asserted.
                        least =
                            s.min(unsafe { s.load(self.a.as_ptr().add((i * n + j) * SIDE + lane)) }, least);
                    }
                }
            }
            mask |= s.mask_lt(least, s.splat(self.floor)) << lane;
            lane += S::LANES;
        }
        mask
    }
}

/// a (n, n, SIDE) is overwritten; mu (n, SIDE).
pub(crate) struct Stationary<'a> {
    pub(crate) n: usize,
    pub(crate) a: &'a mut [f64],
    pub(crate) mu: &'a mut [f64],
}

impl WordOp for Stationary<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Words>(self, s: S) {
        let size = self.n;
        assert!(size > 0 && self.a.len() == size * size * SIDE && self.mu.len() == size * SIDE);
        let mut lane = 0;
        while lane < SIDE {
            // SAFETY: entries (i, j) with i, j < size, lanes up to lane + LANES <= SIDE: lengths asserted.
            unsafe {
                let (a, mu) = (self.a.as_mut_ptr().add(lane), self.mu.as_mut_ptr().add(lane));
                let mut n = size;
                while n > 1 {
                    n -= 1;
                    let row = a.add(n * size * SIDE);
                    let mut pivot = s.load(row);
                    for j in 1..n {
                        pivot = s.add(pivot, s.load(row.add(j * SIDE)));
                    }
                    for i in 0..n {
                        let upper = a.add(i * size * SIDE);
                        let f = s.div(s.load(upper.add(n * SIDE)), pivot);
                        s.store(upper.add(n * SIDE), f);
                        for j in 0..n {
                            let x = s.load(upper.add(j * SIDE));
                            s.store(upper.add(j * SIDE), s.add(x, s.mul(f, s.load(row.add(j * SIDE)))));
                        }
                    }
                }
                let one = s.splat(1.0);
                s.store(mu, one);
                let mut total = one;
                for n in 1..size {
                    let mut m = s.splat(0.0);
                    for i in 0..n {
                        let x = s.mul(s.load(mu.add(i * SIDE)), s.load(a.add((i * size + n) * SIDE)));
                        m = s.add(m, x);
                    }
                    s.store(mu.add(n * SIDE), m);
                    total = s.add(total, m);
                }
                for n in 0..size {
                    s.store(mu.add(n * SIDE), s.div(s.load(mu.add(n * SIDE)), total));
                }
            }
            lane += S::LANES;
        }
    }
}
