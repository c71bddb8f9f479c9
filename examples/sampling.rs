//! Milliseconds per 1,024 sequences of the causal tree (chain, S = 10, T = 20, alpha = 0.1,
//! stationary roots): one sample after the other, side by side, and by stage. Medians.
//!
//! `cargo run --release --example sampling [threads]`

use popgrad::rng::{Key, LogGamma, Purpose};
use popgrad::task::{CausalTree, CausalTreeBlock, Forest, Roots};
use popgrad_kernels::sampling::{Addresses, RowOf, SAMPLE_LANES};
use popgrad_kernels::{Isa, Kernels};
use rayon::prelude::*;
use std::hint::black_box;
use std::time::Instant;

const S: usize = 10;
const T: usize = 20;
const BATCH: usize = 1024;
const SHARDS: usize = 16;

/// Median milliseconds of `run`, over a quarter of a second.
fn median(mut run: impl FnMut(u64)) -> f64 {
    for i in 0..5 {
        run(i);
    }
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed().as_secs_f64() < 0.25 {
        let one = Instant::now();
        run(times.len() as u64);
        times.push(one.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

struct Shard {
    first: u64,
    work: CausalTreeBlock,
    tokens: Vec<u32>,
    targets: Vec<f64>,
}

fn main() {
    let threads = std::env::args().nth(1).map_or(1, |n| n.parse().expect("a number of threads"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
    let task = CausalTree::new(Forest::chain(T).unwrap(), S, 0.1, Roots::Stationary).unwrap();
    let key = Key::new(0, Purpose::Train);
    println!("ms per {BATCH} sequences, {threads} threads");
    for isa in Isa::available() {
        let k = Kernels::new(isa).unwrap();
        let mut shards: Vec<Shard> = (0..SHARDS)
            .map(|i| Shard {
                first: (i * BATCH / SHARDS) as u64,
                work: task.block(k),
                tokens: vec![0; BATCH / SHARDS * T],
                targets: vec![0.0; BATCH / SHARDS * S],
            })
            .collect();
        let ms = pool.install(|| {
            median(|step| {
                shards.par_iter_mut().for_each(|x| {
                    let first = step * BATCH as u64 + x.first;
                    task.sample_block(&key, first, &mut x.work, &mut x.tokens, &mut x.targets);
                });
            })
        });
        println!("{:>9}: all {ms:.3}", isa.name());
        if threads == 1 {
            stages(k);
        }
    }
    if threads == 1 {
        let (mut work, mut tokens, mut target) = (task.work(), vec![0; T], vec![0.0; S]);
        let ms = median(|step| {
            for n in 0..BATCH as u64 {
                task.sample(&key, step * BATCH as u64 + n, &mut work, &mut tokens, &mut target);
            }
            black_box(tokens[0]);
        });
        println!("one after the other: {ms:.3}");
    }
}

/// Every kernel on its own, in the order of the sampler.
fn stages(k: Kernels<f64>) {
    let envelope = LogGamma::new(0.1).unwrap().envelope();
    let (n, stride) = (S * S * SAMPLE_LANES, S * S + S + SAMPLE_LANES);
    let (mut logs, mut p, mut sums) = (vec![0.0; n], vec![0.0; n], vec![0.0; S * SAMPLE_LANES]);
    let (mut table, mut mu, mut pending) =
        (vec![0.0; stride * SAMPLE_LANES], vec![0.0; S * SAMPLE_LANES], vec![0; n]);
    let (mut words, mut tokens) = (vec![0u64; T * SAMPLE_LANES], vec![0u32; T * SAMPLE_LANES]);
    let mut rows = vec![RowOf::Fixed(S as u32)];
    rows.extend((0..T as u32 - 1).map(RowOf::Symbol));
    let at = |step: u64, variate| Addresses {
        key: [1, 2],
        sample: std::array::from_fn(|l| step * SAMPLE_LANES as u64 + l as u64),
        variate: [variate; SAMPLE_LANES],
    };
    let blocks = (BATCH / SAMPLE_LANES) as u64;
    let gamma = median(|step| {
        for b in 0..blocks {
            k.log_gamma(&envelope, &at(step * blocks + b, 1 << 31), &mut logs, &mut pending).unwrap();
        }
    });
    let drawn = logs.clone();
    let mut copy = logs.clone();
    let copying = median(|_| {
        for _ in 0..blocks {
            black_box(&mut copy).copy_from_slice(&drawn);
        }
    });
    let simplex = median(|_| {
        for _ in 0..blocks {
            logs.copy_from_slice(&drawn);
            k.simplex_rows(S, &mut logs, &mut p, &mut sums, &mut table, stride).unwrap();
        }
    });
    let pi = p.clone();
    let laws = median(|_| {
        for _ in 0..blocks {
            p.copy_from_slice(&pi);
            black_box(k.off_diagonal_below(S, &p, 1e-150).unwrap());
            k.stationary(S, &mut p, &mut mu).unwrap();
        }
    });
    for b in 1..S {
        for l in 0..SAMPLE_LANES {
            mu[b * SAMPLE_LANES + l] += mu[(b - 1) * SAMPLE_LANES + l];
        }
    }
    k.lanes_to_rows(&mu, &mut table, stride, S * S).unwrap();
    let philox = median(|step| {
        for b in 0..blocks {
            k.philox_words(&at(step * blocks + b, 0), &mut words).unwrap();
        }
    });
    let invert = median(|_| {
        for _ in 0..blocks {
            k.invert_forest(S, &rows, &words, &table, stride, &mut tokens).unwrap();
        }
    });
    println!(
        "           gamma {gamma:.3}, normalise {:.3}, stationary {:.3}, words {philox:.3}, tokens {invert:.3}",
        simplex - copying,
        laws - copying
    );
}
