//! Milliseconds per 512 sequences of the trigger-bigram task (T = 256, K = 5), labels, weights and
//! counts included: as training takes them, in 16 shards, and one after the other. Medians.
//!
//! `cargo run --release --example trigger_sampling [threads]`

use popgrad::rng::{Key, Purpose};
use popgrad::source::{LossOn, Source, TriggerSource};
use popgrad::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, Triggers};
use popgrad::task::{Corpus, TriggerBigram};
use rayon::prelude::*;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const T: usize = 256;
const BATCH: usize = 512;
const SHARDS: usize = 16;

/// Median milliseconds of `run`, over half a second.
fn median(mut run: impl FnMut(u64)) -> f64 {
    for i in 0..5 {
        run(i);
    }
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed().as_secs_f64() < 0.5 {
        let one = Instant::now();
        run(times.len() as u64);
        times.push(one.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let threads = std::env::args().nth(1).map_or(1, |n| n.parse().expect("a number of threads"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
    let corpus = Corpus::shipped();
    let laws = Bigrams::new(corpus.unigram_law(), corpus.bigram_law()).unwrap();
    let key = Key::new(0, Purpose::Train);
    println!("ms per {BATCH} sequences of {T}, N = {}, {threads} threads", laws.vocab());
    for triggers in [Triggers::Fixed { count: 5, offset: 0 }, Triggers::Random { count: 5 }] {
        for law in [Outputs::Uniform, Outputs::Bigram] {
            let outputs = OutputLaw { law, no_repeat: false, allowed: Vec::new() };
            let task = Arc::new(TriggerBigram::new(laws.clone(), T, triggers, outputs).unwrap());
            let source = TriggerSource::new(task.clone(), key, LossOn::Head);
            let mut shards: Vec<_> = (0..SHARDS)
                .map(|i| {
                    let batch = source.batch(BATCH / SHARDS).unwrap();
                    ((i * BATCH / SHARDS) as u64, source.work(), batch)
                })
                .collect();
            let ms = pool.install(|| {
                median(|step| {
                    shards.par_iter_mut().for_each(|(first, work, batch)| {
                        source.fill(step * BATCH as u64 + *first, BATCH / SHARDS, work, batch);
                    });
                })
            });
            let (mut work, mut tokens, mut seen) = (task.work(), vec![0; T + 1], vec![0; T]);
            let alone = median(|step| {
                for n in 0..BATCH as u64 {
                    task.sample(&key, step * BATCH as u64 + n, &mut work, &mut tokens, &mut seen);
                }
                black_box(tokens[0]);
            });
            println!("{triggers:?}, {law:?} outputs: {ms:.3}, one after the other on one thread {alone:.3}");
        }
    }
}
