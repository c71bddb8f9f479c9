//! Times a training step of `transformer` on trigger bigrams: seconds with sampling and on a batch
//! drawn beforehand, its multiply-adds, and their share of the peak.
//!
//! `cargo run --release --example transformer_step [threads] [rounds] [shards] [key=value ..]`,
//! keys batch, T, d, heads, layers, block (public, standard, postnorm), loss (all, head). As given:
//! 2 threads, 5 rounds, 16 shards as in a run, and the full model of the memory paper on 512
//! sequences. The text's 65 or so symbols are those of the shipped corpus. With loss=head flops are
//! still those of all positions, though the top layer computes fewer.
#![forbid(unsafe_code)]

use popgrad::Result;
use popgrad::measure::Repeated;
use popgrad::model::{BlockKind, Draw, Model, Transformer, TransformerSpec};
use popgrad::optim::{PerBlock, Rule, Schedule, UnfreezeAt};
use popgrad::rng::{Key, Purpose};
use popgrad::source::{LossOn, Source, TriggerSource};
use popgrad::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, Triggers};
use popgrad::task::{Corpus, TriggerBigram};
use popgrad::train::{Plan, Sharded, Trainer};
use popgrad_kernels::Kernels;
use std::collections::HashSet;
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

/// Flops of a step: what the equations ask at every position, causal attention and its
/// recomputation backwards included; and what is left of that when the first layer's maps are done
/// for `pairs` rows instead of `positions`.
fn flops(model: &Transformer<f32>, positions: f64, pairs: f64) -> [f64; 2] {
    let (spec, model): (_, &dyn Model<f32>) = (model.spec(), model);
    let [d, t, n] = [spec.dim, model.seq_len(), model.vocab()].map(|x| x as f64);
    let attention = 2.0 * d * t * 3.5;
    let (qkv, o, ff) = (18.0 * d * d, 6.0 * d * d, 48.0 * d * d);
    let all = positions * (spec.layers as f64 * (attention + qkv + o + ff) + 6.0 * d * n);
    let once = qkv + if spec.block == BlockKind::Public { ff } else { 0.0 };
    [all, all - (positions - pairs) * once]
}

/// Seconds of `rounds` steps, ascending.
fn steps(model: &Transformer<f32>, source: &dyn Source, plan: Plan, rounds: usize) -> Result<Vec<f64>> {
    let model: &dyn Model<f32> = model;
    let blocks = model.layout().blocks().iter().zip(model.trainable());
    let unfreeze = UnfreezeAt::all(blocks.map(|(b, can)| (b.name(), b.range(), *can)));
    let rule = Rule::AdamW { beta1: 0.9, beta2: 0.99, adam_eps: 1e-8 };
    let params = model.initial(&Draws(Key::new(0, Purpose::Init)));
    let objective = Sharded::new(model, source, &plan, unfreeze.clone())?;
    let optimizer = Box::new(PerBlock::new(&rule, 0.01, unfreeze)?);
    let mut trainer = Trainer::new(objective, optimizer, plan, params)?;
    let mut times = Vec::new();
    for _ in 0..=rounds {
        let start = Instant::now();
        assert!(trainer.update()?.is_finite());
        times.push(start.elapsed().as_secs_f64());
    }
    let mut times = times.split_off(1);
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Multiply-adds of one thread, in GFLOP/s: the best of a few.
fn peak() -> Result<f64> {
    let k = Kernels::<f32>::from_env()?;
    let one = |_| {
        let start = Instant::now();
        let flops = k.fma_peak(2_000_000);
        flops as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    Ok((0..9).map(one).fold(0.0, f64::max))
}

fn main() -> Result<()> {
    let (mut numbers, mut batch, mut loss) = (Vec::new(), 512usize, LossOn::All);
    let corpus = Corpus::shipped();
    let (mut t, mut spec) = (256usize, TransformerSpec::default());
    for arg in std::env::args().skip(1) {
        let Some((key, value)) = arg.split_once('=') else {
            numbers.push(arg.parse::<usize>().expect("a number"));
            continue;
        };
        let number = || value.parse::<usize>().expect("a number");
        match key {
            "batch" => batch = number(),
            "T" => t = number(),
            "d" => spec.dim = number(),
            "heads" => spec.heads = vec![number()],
            "layers" => spec.layers = number(),
            "loss" => loss = if value == "head" { LossOn::Head } else { LossOn::All },
            "block" => {
                spec.block = match value {
                    "standard" => BlockKind::Standard,
                    "postnorm" => BlockKind::PostNorm,
                    _ => BlockKind::Public,
                }
            }
            _ => panic!("unknown key {key}"),
        }
    }
    let [threads, rounds, shards] =
        [(0, 2), (1, 5), (2, 16)].map(|(i, v)| numbers.get(i).copied().unwrap_or(v));

    let laws = Bigrams::new(corpus.unigram_law(), corpus.bigram_law())?;
    let outputs = OutputLaw { law: Outputs::Uniform, no_repeat: false, allowed: Vec::new() };
    let task = TriggerBigram::new(laws, t, Triggers::Random { count: 5 }, outputs)?;
    let source = TriggerSource::new(Arc::new(task), Key::new(0, Purpose::Train), loss);
    let drawn = Repeated::new(source.clone(), batch)?;
    let per_shard = batch.div_ceil(shards) * t;
    let of_shard = |tokens: &[u32]| -> usize {
        tokens.iter().enumerate().map(|(i, z)| (i % t, *z)).collect::<HashSet<_>>().len()
    };
    let pairs: usize = drawn.drawn().tokens().chunks(per_shard).map(of_shard).sum();

    let model = Transformer::<f32>::new(corpus.vocab(), t, &spec)?;
    let plan = Plan {
        steps: 1 << 40,
        batch,
        shards,
        lr: 1e-4,
        schedule: Schedule::Constant,
        eval_every: 1 << 40,
        checkpoint_every: 1 << 40,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
    let [sampled, times] = pool.install(|| -> Result<[Vec<f64>; 2]> {
        Ok([steps(&model, &source, plan, rounds)?, steps(&model, &drawn, plan, rounds)?])
    })?;
    let (median, positions) = (times[rounds / 2], (batch * t) as f64);
    let ([all, left], peak) = (flops(&model, positions, pairs as f64), threads as f64 * peak()?);
    println!(
        "{threads} threads, {shards} shards, N = {}: {:.3} s a step with sampling, {median:.3} s without [{:.3}, {:.3}]; \
         {:.0} GFLOP of the equations = {:.0} GFLOP/s; {:.0} GFLOP computed = {:.0} GFLOP/s, {:.0} % of {threads} x {:.0}; {:.2} of the first layer's rows",
        corpus.vocab(),
        sampled[rounds / 2],
        times[0],
        times[rounds - 1],
        all / 1e9,
        all / 1e9 / median,
        left / 1e9,
        left / 1e9 / median,
        100.0 * left / 1e9 / median / peak,
        peak / threads as f64,
        pairs as f64 / positions,
    );
    Ok(())
}
