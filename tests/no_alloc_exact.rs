//! An evaluation of the exact population after the first allocates nothing.

use popgrad::exact::{Orbits, Prior, RootLaw, Tree};
use popgrad::task::Forest;
use rayon::prelude::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::sync::Barrier;

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn allocations(pool: &rayon::ThreadPool) -> usize {
    let forest = Forest::chain(9).unwrap();
    let prior = Prior::dirichlet(3, 0.1, RootLaw::Uniform).unwrap();
    let threads = pool.current_num_threads();
    pool.install(|| {
        // A worker's first steal registers it with the deques' garbage collector, once in its life.
        let all_here = Barrier::new(threads);
        (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
            all_here.wait();
        });
        let mut tree = Tree::<f64>::new(&forest, &prior, 1e-2, false).unwrap();
        let mut orbits = Orbits::<f64>::new(&forest, &prior, 1e-2, false).unwrap();
        let a1: Vec<f64> = (0..81).map(|i| f64::from(i % 7)).collect();
        let a2: Vec<f64> = (0..9).map(|i| f64::from(i % 4)).collect();
        let mut evaluate = |times: usize| {
            for _ in 0..times {
                tree.gradients(&a1, &a2).unwrap();
                orbits.gradients(&a1, 1.0).unwrap();
            }
        };
        evaluate(20);
        // The least of a few rounds: a thread of another pool may still be starting up during one
        // of them, which allocates once in its life; an evaluation that allocates does so in every
        // round.
        let round = || {
            let before = GLOBAL.stats();
            evaluate(20);
            let after = GLOBAL.stats();
            (after.allocations - before.allocations) + (after.reallocations - before.reallocations)
        };
        std::iter::repeat_with(round).take(5).min().unwrap_or(usize::MAX)
    })
}

/// One test, so that no other thread of the harness allocates meanwhile.
#[test]
fn a_warm_evaluation_allocates_nothing() {
    let before = GLOBAL.stats().allocations;
    std::hint::black_box(vec![0u8; 100]);
    assert!(GLOBAL.stats().allocations > before, "the counter counts");
    // All pools live to the end: the threads of a dropped one allocate while they die, during
    // somebody else's count.
    let pools = [1, 2, 3].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap());
    for pool in &pools {
        assert_eq!(allocations(pool), 0, "{} threads", pool.current_num_threads());
    }
}
