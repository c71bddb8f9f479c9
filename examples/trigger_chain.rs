//! Seconds for the exact three steps: the lumped chain at N = 1,000, T = 512; one trigger and
//! output of Dirichlet bigrams at N = 65, T = 256; all pairs of N = 20, T = 64. Medians of five.
//!
//! `cargo run --release --example trigger_chain`

use popgrad::exact::trigger_chain::{Averaged, Conditional, Steps, TriggerChain};
use popgrad::task::trigger_bigram::Bigrams;
use std::hint::black_box;
use std::time::Instant;

fn median(name: &str, mut run: impl FnMut()) {
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{name}: {:.4} s", times[2]);
}

fn main() {
    median("lumped, N = 1000, T = 512", || {
        black_box(Steps::uniform(1000, 512).unwrap());
    });
    let laws = Bigrams::dirichlet(65, 0.3, 1).unwrap();
    median("one (q, o), N = 65, T = 256", || {
        let chain = TriggerChain::bigram(laws.unigram(), laws.bigram(), 0, 1, 256).unwrap();
        let worth = |x: usize| (0..65).map(|v| f64::from(u8::from(v == x))).collect::<Vec<f64>>();
        black_box(Conditional::new(&chain, &worth(1), &worth(1)));
    });
    let laws = Bigrams::dirichlet(20, 0.3, 1).unwrap();
    median("all (q, o), N = 20, T = 64", || {
        black_box(Averaged::new(laws.unigram(), laws.bigram(), 64).unwrap());
    });
}
