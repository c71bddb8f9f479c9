//! What allocates nothing once it is warm: steps, kernels, evaluations, samplers.
//!
//! The counters are those of the process. So this binary has a harness of its own that runs every
//! test on the main thread, one after the other: the usual one allocates on a second thread while
//! a test runs.

mod exact;
mod kernels;
mod sampling;
mod training;

use libtest_mimic::{Arguments, Failed, Trial};
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::sync::{Barrier, LazyLock};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    let test = |name, body: fn()| {
        Trial::test(name, move || {
            body();
            Ok::<(), Failed>(())
        })
    };
    let tests = vec![
        test("the_counter_counts", the_counter_counts),
        test("filling_a_batch", sampling::filling_a_batch),
        test("kernels_over_threads", kernels::kernels_over_threads),
        test("a_warm_evaluation", exact::a_warm_evaluation),
        test("a_warm_step", training::a_warm_step),
    ];
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, tests).exit();
}

fn the_counter_counts() {
    assert!(counted(|| drop(std::hint::black_box(vec![0u8; 100]))) > 0);
}

/// Pools of one, two and three threads. They live to the end: the threads of a dropped pool
/// allocate while they die, during somebody else's count.
fn pools() -> &'static [ThreadPool; 3] {
    static POOLS: LazyLock<[ThreadPool; 3]> =
        LazyLock::new(|| [1, 2, 3].map(|n| ThreadPoolBuilder::new().num_threads(n).build().unwrap()));
    &POOLS
}

/// Makes every thread of this pool steal a task now. Its first steal registers it with the deques'
/// garbage collector, once in its life; on a loaded machine it may sleep through any number of
/// warm-up calls.
fn wake_all_threads() {
    let threads = rayon::current_num_threads();
    let all_here = Barrier::new(threads);
    (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
        all_here.wait();
    });
}

/// Allocations while `call` runs.
fn counted(call: impl FnOnce()) -> usize {
    let before = GLOBAL.stats();
    call();
    let after = GLOBAL.stats();
    (after.allocations - before.allocations) + (after.reallocations - before.reallocations)
}

/// The least count of at most five rounds. A thread of another pool may still be starting up during
/// one of them, which allocates once in its life; code that allocates does so in every round.
fn least(mut round: impl FnMut() -> usize) -> usize {
    let mut least = usize::MAX;
    for _ in 0..5 {
        least = least.min(round());
        if least == 0 {
            break;
        }
    }
    least
}
