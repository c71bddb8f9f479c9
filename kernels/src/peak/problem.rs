//! Chains of multiply-adds and sweeps of loads as operations.

use crate::elem::real::Real;
use crate::simd::{BASELINE_REGISTERS, Op, Simd, compiled_once};

/// Independent chains of multiply-adds. A CPU hides latency times pipes of them: 4 x 2 = 8 on
/// today's x86 cores, 4 x 4 = 16 on none that the 16 registers of AVX2 could serve; 12, the factor
/// and the summand fit. aarch64 has such cores, and the 32 registers of NEON hold 24.
pub(crate) const CHAINS: usize = if BASELINE_REGISTERS == 32 { 24 } else { 12 };

/// Independent sums of a load sweep: additions, 3 or 4 cycles each on 2 pipes, keep up with two
/// loads a cycle.
pub(crate) const SUMS: usize = 8;

compiled_once! {
    /// What the machine can do.
    PeakBodies {
        fn run_fma_chains(FmaChains<Self>) -> ([Self; CHAINS], usize);
        fn run_load_sweep(LoadSweep<'_, Self>) -> Self;
    }
}

pub(crate) struct FmaChains<E> {
    pub(crate) iterations: u32,
    pub(crate) scale: E,
    pub(crate) step: E,
}

impl<E: Real> Op<E> for FmaChains<E> {
    type Out = ([E; CHAINS], usize);
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) -> Self::Out {
        let (scale, step) = (s.splat(self.scale), s.splat(self.step));
        // Different starts: equal chains would be one chain to the compiler.
        let mut acc = [s.splat(E::ZERO); CHAINS];
        for (c, acc) in acc.iter_mut().enumerate() {
            *acc = s.splat(E::from_f64(c as f64));
        }
        for _ in 0..self.iterations {
            for c in 0..CHAINS {
                acc[c] = s.fma(acc[c], scale, step);
            }
        }
        let mut out = [E::ZERO; CHAINS];
        for c in 0..CHAINS {
            out[c] = s.reduce_add(acc[c]);
        }
        (out, S::LANES)
    }
}

pub(crate) struct LoadSweep<'a, E> {
    pub(crate) x: &'a [E],
}

impl<E: Real> Op<E> for LoadSweep<'_, E> {
    type Out = E;
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) -> E {
        let (p, n) = (self.x.as_ptr(), self.x.len());
        let mut acc = [s.splat(E::ZERO); SUMS];
        let mut i = 0;
        while i + SUMS * S::LANES <= n {
            for c in 0..SUMS {
                // SAFETY: i + (c + 1) LANES <= n, the length of the slice.
                acc[c] = s.add(acc[c], unsafe { s.load(p.add(i + c * S::LANES)) });
            }
            i += SUMS * S::LANES;
        }
        while i < n {
            let rest = if n - i < S::LANES { n - i } else { S::LANES };
            // SAFETY: rest <= LANES, i + rest <= n.
            acc[0] = s.add(acc[0], unsafe { s.load_partial(p.add(i), rest) });
            i += rest;
        }
        let mut width = SUMS / 2;
        while width > 0 {
            for c in 0..width {
                acc[c] = s.add(acc[c], acc[c + width]);
            }
            width /= 2;
        }
        s.reduce_add(acc[0])
    }
}
