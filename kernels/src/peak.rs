//! What the machine could do: the multiply-add rate and the load bandwidth that other kernels are
//! measured against.

pub(crate) mod problem;

use crate::elem::Elem;
use crate::kernels::Kernels;
use crate::peak::problem::{CHAINS, FmaChains, LoadSweep};
use std::hint::black_box;

impl<E: Elem> Kernels<E> {
    /// Runs `iterations` rounds of independent vector multiply-adds on registers, 12 or (aarch64)
    /// 24, and returns the flops they are, two per lane and multiply-add. Over the time it takes:
    /// the peak that a GEMM of this instruction set and type cannot pass. Where the instruction set
    /// lacks FMA (portable on x86) a multiplication and an addition stand for it, as in every
    /// kernel.
    pub fn fma_peak(&self, iterations: u32) -> u64 {
        let (chains, lanes) = self.fma_chains(iterations, black_box(E::ONE), black_box(E::ONE));
        // The value is what keeps the work from being removed.
        black_box(chains);
        2 * CHAINS as u64 * lanes as u64 * u64::from(iterations)
    }

    /// Chain c starts at c in every lane, and `x <- scale x + step` runs `iterations` times; the
    /// sum of each chain's lanes, and how many there are.
    pub(crate) fn fma_chains(&self, iterations: u32, scale: E, step: E) -> ([E; CHAINS], usize) {
        E::run_fma_chains(self.isa(), FmaChains { iterations, scale, step })
    }

    /// Reads every element of `x` once, as fast as loads go, and returns their sum, n elements
    /// within γ(n / (8 lanes) + 20) Σ |x|. Bytes over the time it takes: the load bandwidth of the
    /// cache that holds `x`. For a sum to compute with, see [`Kernels::sum`].
    pub fn load_sweep(&self, x: &[E]) -> E {
        E::run_load_sweep(self.isa(), LoadSweep { x })
    }
}

#[cfg(test)]
mod tests {
    use super::CHAINS;
    use crate::checks::{peak::check_sweep, testkit::every_isa};
    use crate::{Elem, reference};
    use proptest::prelude::*;

    /// Small integers are exact with and without FMA, so every chain equals its twin; x + 1 counts
    /// the rounds that were run.
    fn chains_equal_their_twin<E: Elem>(iterations: u32, scale: i32, step: i32) {
        let (scale, step) = (E::from_f64(scale.into()), E::from_f64(step.into()));
        for k in every_isa::<E>() {
            let (chains, lanes) = k.fma_chains(iterations, scale, step);
            for c in 0..CHAINS {
                let want = reference::fma_chain(E::from_f64(c as f64), iterations, scale, step);
                assert_eq!(chains[c].to_f64(), lanes as f64 * want.to_f64(), "{:?} chain {c}", k.isa());
            }
        }
    }

    #[test]
    fn every_round_is_run() {
        for n in [0, 1, 2, 3, 11, 12, 13, 1000, 65_537] {
            chains_equal_their_twin::<f32>(n, 1, 1);
            chains_equal_their_twin::<f64>(n, 1, 1);
        }
    }

    #[test]
    fn flops_are_two_per_lane_chain_and_round() {
        for k in every_isa::<f32>() {
            let (_, lanes) = k.fma_chains(0, 1.0, 1.0);
            assert_eq!(k.fma_peak(0), 0);
            assert_eq!(k.fma_peak(7), 2 * CHAINS as u64 * 7 * lanes as u64);
        }
        for k in every_isa::<f64>() {
            let (_, lanes) = k.fma_chains(0, 1.0, 1.0);
            assert_eq!(k.fma_peak(7), 2 * CHAINS as u64 * 7 * lanes as u64);
        }
    }

    proptest! {
        #[test]
        fn chains_multiply_and_add(iterations in 0u32..12, scale in -2i32..=2, step in -3i32..=3) {
            chains_equal_their_twin::<f32>(iterations, scale, step);
            chains_equal_their_twin::<f64>(iterations, scale, step);
        }

        #[test]
        fn a_sweep_reads_everything_once(len in 0usize..700, offset in 0usize..17, seed: u64) {
            check_sweep::<f32>(len, offset, seed);
            check_sweep::<f64>(len, offset, seed);
        }
    }
}
