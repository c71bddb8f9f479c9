//! Samples drawn side by side against one alone, bit for bit, on every instruction set.

use popgrad::rng::{Key, Purpose};
use popgrad::task::{CausalTree, Forest, Roots, Task};
use popgrad_kernels::{Isa, Kernels};
use proptest::prelude::*;

/// Samples `first .. first + n` in pieces of `pieces` (cycled), against the single sampler.
fn check(task: &CausalTree, kernels: Kernels<f64>, key: &Key, first: u64, n: usize, pieces: &[usize]) {
    let (s, t) = (task.vocab(), task.seq_len());
    let (mut tokens, mut targets) = (vec![u32::MAX; n * t], vec![f64::NAN; n * s]);
    let mut block = task.block(kernels);
    let (mut at, mut piece) = (0, 0);
    while at < n {
        let m = pieces[piece % pieces.len()].min(n - at);
        let (x, y) = (&mut tokens[at * t..(at + m) * t], &mut targets[at * s..(at + m) * s]);
        task.sample_block(key, first.wrapping_add(at as u64), &mut block, x, y);
        (at, piece) = (at + m, piece + 1);
    }
    let (mut work, mut x, mut y) = (task.work(), vec![0; t], vec![0.0; s]);
    for i in 0..n {
        task.sample(key, first.wrapping_add(i as u64), &mut work, &mut x, &mut y);
        assert_eq!(x, tokens[i * t..(i + 1) * t], "{:?}, sample {first} + {i}", kernels.isa());
        let bits = |p: &[f64]| p.iter().map(|p| p.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&y), bits(&targets[i * s..(i + 1) * s]), "{:?}, {first} + {i}", kernels.isa());
    }
}

fn kernels() -> impl Iterator<Item = Kernels<f64>> {
    Isa::available().map(|isa| Kernels::new(isa).unwrap())
}

#[test]
fn a_shard_is_its_samples_however_it_is_cut() {
    let task = CausalTree::new(Forest::chain(20).unwrap(), 10, 0.1, Roots::Stationary).unwrap();
    let key = Key::new(0, Purpose::Train);
    for k in kernels() {
        for pieces in [&[64][..], &[1], &[3], &[7], &[8], &[1, 3, 7], &[17, 47]] {
            check(&task, k, &key, 0, 64, pieces);
        }
        // Sample numbers past 32 bits, and where they wrap.
        check(&task, k, &key, u32::MAX as u64 - 2, 13, &[13]);
        check(&task, k, &key, u64::MAX - 4, 13, &[13]);
        check(&task, k, &key, 0, 4000, &[4000]);
    }
}

#[test]
fn alphabets_on_both_sides_of_the_largest_in_lanes() {
    let key = Key::new(4, Purpose::Test);
    for s in [2, 3, 64, 127, 128, 129] {
        let task = CausalTree::new(Forest::icl(9).unwrap(), s, 0.3, Roots::Stationary).unwrap();
        for task in [task.clone(), task.floored(0.2).unwrap()] {
            for k in kernels() {
                check(&task, k, &key, 5, 11, &[11]);
            }
        }
    }
}

proptest! {
    // A failure becomes a named test, not a file.
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn lanes_draw_the_bits_of_one(
        s in 2usize..13, t in 2usize..25, log_alpha in -3f64..3.0, seed: u64, first: u64, n in 1usize..20, stationary: bool,
        log_floor in -320f64..80.0,
    ) {
        // The ends themselves too.
        let alpha = 10f64.powf(if log_alpha < -2.5 { -3.0 } else { log_alpha }).clamp(1e-3, 1e3);
        let roots = if stationary { Roots::Stationary } else { Roots::Uniform };
        let mut task = CausalTree::new(Forest::named("random", t, seed).unwrap(), s, alpha, roots).unwrap();
        if log_floor < 0.0 {
            task = task.floored(10f64.powf(log_floor).max(f64::MIN_POSITIVE)).unwrap();
        }
        let key = Key::new(seed, Purpose::Train);
        for k in kernels() {
            check(&task, k, &key, first, n, &[n]);
        }
    }
}
