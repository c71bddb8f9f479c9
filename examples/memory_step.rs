//! Times a training step of the basic model on trigger bigrams of the shipped text, with 5 fixed
//! triggers and the loss on their later occurrences: median seconds with and without sampling.
//! Embeddings and output are frozen, as in the public code's command.
//!
//! `cargo run --release --example memory_step [d] [T] [batch] [N] [threads] [f32|f64] [frozen|free]
//! [rounds]`; N = 0: the text's characters, else Dirichlet bigrams over N symbols.
#![forbid(unsafe_code)]

use popgrad::batch::Batch;
use popgrad::measure::Repeated;
use popgrad::model::{Draw, Memory, MemorySpec, Model, Output};
use popgrad::optim::{PerBlock, Rule, Schedule, UnfreezeAt};
use popgrad::rng::{Key, Purpose};
use popgrad::source::{LossOn, Source, TriggerSource};
use popgrad::task::Corpus;
use popgrad::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, TriggerBigram, Triggers};
use popgrad::train::{Plan, Sharded, Trainer};
use popgrad::{Error, Result};
use popgrad_kernels::{Elem, Kernels};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

struct Draws(Key);

impl Draw for Draws {
    fn normal(&self, i: u64) -> f64 {
        self.0.normal(i)
    }
    fn uniform(&self, i: u64) -> f64 {
        2.0 * self.0.uniforms(i, 1, 0)[0] - 1.0
    }
}

/// GFLOP/s of multiply-adds on registers, on all threads of this pool at once.
fn peak<E: Elem>() -> Result<f64> {
    let kernels = Kernels::<E>::from_env()?;
    let start = Instant::now();
    let flops: u64 = rayon::broadcast(|_| black_box(kernels.fma_peak(300_000))).into_iter().sum();
    Ok(flops as f64 / start.elapsed().as_secs_f64() / 1e9)
}

/// CPU seconds of this process, all threads together; 0 if the system does not report them.
fn cpu() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let ns = |dir: std::path::PathBuf| -> Option<f64> {
        std::fs::read_to_string(dir.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    tasks.filter_map(|t| ns(t.ok()?.path())).sum::<f64>() * 1e-9
}

/// Multiplications and additions of a step with frozen embeddings and output, in GFLOP: what
/// products need that use what is known to be zero and compute every probability once. Layer 1:
/// scores, mixing, and their gradients in probabilities and queries; layer 2 at its queries: the
/// same and those of its keys and values; six products with W_K and Ψ; logits there and back.
fn gflop(batch: &Batch, d: usize) -> f64 {
    let (t, n) = (batch.len_tokens(), batch.vocab());
    let (mut first, mut second, mut queries) = (0, 0, 0);
    for weights in batch.weights().chunks(t) {
        let list: Vec<usize> = (0..t).filter(|i| weights[*i] > 0.0).collect();
        let m = list.last().map_or(0, |i| i + 1);
        first += m * (m + 1) / 2;
        second += list.iter().map(|i| i + 1).sum::<usize>();
        queries += list.len();
    }
    2e-9 * d as f64 * (4 * first + 6 * second + queries * (6 * d + 2 * n)) as f64
}

/// Seconds of a step, median and least, and the mean on a CPU, all threads together; the peak
/// before the steps and after them.
fn step<E: Elem>(
    model: &Memory<E>,
    source: &dyn Source,
    batch: usize,
    rounds: usize,
    frozen: bool,
) -> Result<([f64; 3], [f64; 2])> {
    let plan = Plan {
        steps: 1 << 40,
        batch,
        shards: 16,
        lr: 0.03,
        schedule: Schedule::Constant,
        eval_every: 1 << 40,
        checkpoint_every: 1 << 40,
    };
    let model: &dyn Model<E> = model;
    let stays = |name: &str| frozen && name == "tok_embeddings.weight";
    let blocks = model.layout().blocks().iter().zip(model.trainable());
    let blocks = blocks.map(|(b, can)| (b.name(), b.range(), *can && !stays(b.name())));
    let unfreeze = UnfreezeAt::all(blocks);
    let optimizer = PerBlock::new(&Rule::Sgd { momentum: 0.9 }, 1e-4, unfreeze.clone())?;
    let params = model.initial(&Draws(Key::new(1, Purpose::Init)));
    let objective = Sharded::new(model, source, &plan, unfreeze)?;
    let mut trainer = Trainer::new(objective, Box::new(optimizer), plan, params)?;
    for _ in 0..2 {
        trainer.update()?;
    }
    let (first, before) = (peak::<E>()?, cpu());
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        trainer.update()?;
        times.push(start.elapsed().as_secs_f64());
    }
    // Over all of them: the system counts a thread that runs in ticks, which may be longer than a
    // step.
    let busy = (cpu() - before) / rounds as f64;
    times.sort_by(f64::total_cmp);
    Ok(([times[rounds / 2], times[0], busy], [first, peak::<E>()?]))
}

fn run<E: Elem>(n: usize, t: usize, d: usize, batch: usize, frozen: bool, rounds: usize) -> Result<()> {
    let laws = if n == 0 {
        let corpus = Corpus::shipped();
        Bigrams::new(corpus.unigram_law(), corpus.bigram_law())?
    } else {
        Bigrams::dirichlet(n, 0.1, 0)?
    };
    let vocab = laws.vocab();
    let fixed = Triggers::Fixed { count: 5, offset: 0 };
    let outputs = OutputLaw { law: Outputs::Uniform, no_repeat: false, allowed: Vec::new() };
    let task = TriggerBigram::new(laws, t, fixed, outputs)?;
    let source = TriggerSource::new(Arc::new(task), Key::new(0, Purpose::Train), LossOn::Head);
    let drawn = Repeated::new(source.clone(), batch)?;
    let count = drawn.drawn().total_weight() / batch as f64;
    let work = gflop(drawn.drawn(), d);
    let output = if frozen { Output::Frozen } else { Output::Free };
    let model = Memory::<E>::new(vocab, t, &MemorySpec { dim: d, output, ..MemorySpec::default() })?;
    let ([with, with_min, busy], [before, after]) = step(&model, &source, batch, rounds, frozen)?;
    let ([without, without_min, _], _) = step(&model, &drawn, batch, rounds, frozen)?;
    println!("N {vocab}, T {t}, d {d}, batch {batch}, {count:.1} queries a sequence, frozen {frozen}");
    println!("step            {with:.4} s (least {with_min:.4})");
    if frozen {
        println!("work            {work:.2} GFLOP, {:.1} GFLOP/s", work / with);
        println!("on a CPU        {busy:.4} s a step, all threads");
        // No share of it: other programs take part of the machine, and not the same part then and
        // meanwhile.
        println!("multiply-adds   {before:.0} GFLOP/s before the steps, {after:.0} after, all threads");
    }
    println!("without samples {without:.4} s (least {without_min:.4})");
    Ok(())
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| -> Result<usize> {
        let Some(x) = args.get(i) else { return Ok(default) };
        x.parse().map_err(|_| Error::invalid("argument", x, "a number"))
    };
    let word = |i: usize, yes: &str| args.get(i).is_none_or(|x| x == yes);
    let [d, t, batch] = [number(0, 128)?, number(1, 256)?, number(2, 512)?];
    let [n, threads, rounds] = [number(3, 0)?, number(4, 2)?, number(7, 9)?];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| Error::invalid("threads", e.to_string(), "threads that start"))?;
    let frozen = word(6, "frozen");
    pool.install(|| {
        if word(5, "f32") {
            run::<f32>(n, t, d, batch, frozen, rounds)
        } else {
            run::<f64>(n, t, d, batch, frozen, rounds)
        }
    })
}
