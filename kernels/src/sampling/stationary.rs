//! Stationary laws by elimination, one matrix per lane.

use crate::sampling::problem::SAMPLE_LANES;
use crate::simd::{WordOp, Words};

/// Which lanes of a (n, n, SAMPLE_LANES) have an off-diagonal entry below `floor`.
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
        assert!(self.a.len() == n * n * SAMPLE_LANES);
        let (mut mask, mut lane) = (0, 0);
        while lane < SAMPLE_LANES {
            let mut least = s.splat(f64::INFINITY);
            for i in 0..n {
                for j in 0..n {
                    if i != j {
                        // SAFETY: entry (i, j), lanes up to lane + LANES <= SAMPLE_LANES: length
                        // asserted.
                        least = s.min(
                            unsafe { s.load(self.a.as_ptr().add((i * n + j) * SAMPLE_LANES + lane)) },
                            least,
                        );
                    }
                }
            }
            mask |= s.mask_lt(least, s.splat(self.floor)) << lane;
            lane += S::LANES;
        }
        mask
    }
}

/// a (n, n, SAMPLE_LANES) is overwritten; mu (n, SAMPLE_LANES).
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
        assert!(
            size > 0 && self.a.len() == size * size * SAMPLE_LANES && self.mu.len() == size * SAMPLE_LANES
        );
        let mut lane = 0;
        while lane < SAMPLE_LANES {
            // SAFETY: entries (i, j) with i, j < size, lanes up to lane + LANES <= SAMPLE_LANES:
            // lengths asserted.
            unsafe {
                let (a, mu) = (self.a.as_mut_ptr().add(lane), self.mu.as_mut_ptr().add(lane));
                let mut n = size;
                while n > 1 {
                    n -= 1;
                    let row = a.add(n * size * SAMPLE_LANES);
                    let mut pivot = s.load(row);
                    for j in 1..n {
                        pivot = s.add(pivot, s.load(row.add(j * SAMPLE_LANES)));
                    }
                    for i in 0..n {
                        let upper = a.add(i * size * SAMPLE_LANES);
                        let f = s.div(s.load(upper.add(n * SAMPLE_LANES)), pivot);
                        s.store(upper.add(n * SAMPLE_LANES), f);
                        for j in 0..n {
                            let x = s.load(upper.add(j * SAMPLE_LANES));
                            s.store(
                                upper.add(j * SAMPLE_LANES),
                                s.add(x, s.mul(f, s.load(row.add(j * SAMPLE_LANES)))),
                            );
                        }
                    }
                }
                let one = s.splat(1.0);
                s.store(mu, one);
                let mut total = one;
                for n in 1..size {
                    let mut m = s.splat(0.0);
                    for i in 0..n {
                        let x = s.mul(
                            s.load(mu.add(i * SAMPLE_LANES)),
                            s.load(a.add((i * size + n) * SAMPLE_LANES)),
                        );
                        m = s.add(m, x);
                    }
                    s.store(mu.add(n * SAMPLE_LANES), m);
                    total = s.add(total, m);
                }
                for n in 0..size {
                    s.store(mu.add(n * SAMPLE_LANES), s.div(s.load(mu.add(n * SAMPLE_LANES)), total));
                }
            }
            lane += S::LANES;
        }
    }
}
