//! Figure 8's transformer at the paper's sizes: the step alone (all shards, fold, AdamW; no
//! sampling), and its parts.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use popgrad::batch::Targets;
use popgrad::measure::Repeated;
use popgrad::model::{MlpTransformerSpec, Model, Spec};
use popgrad::optim::{PerBlock, Rule, Schedule, UnfreezeAt};
use popgrad::rng::{Key, Purpose};
use popgrad::source::{Sampled, Source};
use popgrad::task::{CausalTree, Forest, Roots};
use popgrad::train::{Plan, Sharded, Trainer};
use std::hint::black_box;
use std::time::Instant;

const S: usize = 10;
const T: usize = 20;
const B: usize = 1024;
const SHARDS: usize = 16;

/// A batch drawn once and handed out again and again: what is left is the step.
fn drawn() -> Repeated<Sampled> {
    let forest = Forest::chain(T).expect("T is in range");
    let task = CausalTree::new(forest, S, 0.1, Roots::Stationary).expect("sizes are in range");
    Repeated::new(Sampled::new(task, Key::new(0, Purpose::Train)), B).expect("fits memory")
}

fn model() -> Box<dyn Model<f32>> {
    Spec::MlpTransformer(MlpTransformerSpec::new(&[1, 1])).build(S, T).expect("sizes are in range")
}

/// Every block from the first update on.
fn unfreeze(model: &dyn Model<f32>) -> Vec<UnfreezeAt> {
    UnfreezeAt::all(model.layout().blocks().iter().map(|b| (b.name(), b.range(), true)))
}

const ADAMW: Rule = Rule::AdamW { beta1: 0.9, beta2: 0.999, adam_eps: 1e-8 };

/// Parameters from which every unit and every head has a gradient.
fn params(model: &dyn Model<f32>) -> Vec<f32> {
    let key = Key::new(1, Purpose::Init);
    (0..model.layout().len()).map(|i| 0.15 * key.normal(i as u64) as f32).collect()
}

fn step(c: &mut Criterion) {
    let (source, model) = (drawn(), model());
    let params = params(model.as_ref());
    let plan = Plan {
        steps: 1 << 40,
        batch: B,
        shards: SHARDS,
        lr: 1e-9,
        schedule: Schedule::Constant,
        eval_every: 1 << 40,
        checkpoint_every: 1 << 40,
    };
    let mut group = c.benchmark_group("mlp_transformer_f32");
    group.throughput(Throughput::Elements(B as u64));
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
        let blocks = unfreeze(model.as_ref());
        let optimizer = PerBlock::new(&ADAMW, 0.0, blocks.clone()).expect("numbers in range");
        let batches = Sharded::new(model.as_ref(), &source, &plan, blocks).expect("everything fits");
        let mut trainer =
            Trainer::new(batches, Box::new(optimizer), plan, params.clone()).expect("everything fits");
        group.bench_function(format!("step_S10_T20_h11_B1024_{threads}threads"), |b| {
            // The loop runs inside the pool, as training does: entering it costs more than a small
            // kernel.
            b.iter_custom(|iters| {
                pool.install(|| {
                    let start = Instant::now();
                    for _ in 0..iters {
                        trainer.update().expect("a finite loss");
                    }
                    start.elapsed()
                })
            });
        });
    }
    // A shard's worth of sequences, as training cuts them.
    let shard = B / SHARDS;
    let mut batch = source.batch(shard).expect("fits memory");
    source.fill(0, shard, &mut source.work(), &mut batch);
    let mut ws = model.workspace(Targets::Law, shard).expect("fits memory");
    let mut grad = vec![0.0; params.len()];
    let all = vec![true; model.layout().blocks().len()];
    let none = vec![false; all.len()];
    group.throughput(Throughput::Elements(shard as u64));
    for (name, active) in [("forward_shard_of_64", &none), ("gradient_shard_of_64", &all)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let loss = model.loss_and_grad(&params, &batch, active, &mut ws, &mut grad);
                black_box(loss.expect("fits"))
            });
        });
    }
    let mut optimizer = ADAMW.build::<f32>(params.len(), 0.0).expect("in range");
    let mut moving = params.clone();
    let mut t = 0;
    group.throughput(Throughput::Elements(params.len() as u64));
    group.bench_function("adamw", |b| {
        b.iter(|| {
            optimizer.step(t, 1e-9, &mut moving, &grad);
            t += 1;
        });
    });
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
