//! One training step, its parts, and sampling: sequences per second at the paper's Figure 2 sizes.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use popgrad::exact::{Prior, RootLaw, TreeLaw};
use popgrad::model::{DisentangledSpec, Model, SimplifiedSpec, Spec};
use popgrad::optim::{Schedule, Sgd, UnfreezeAt};
use popgrad::rng::{Key, Purpose};
use popgrad::source::{Population, Sampled, Source};
use popgrad::task::{CausalTree, Forest, Roots};
use popgrad::train::{Plan, Sharded, Trainer};
use popgrad_kernels::Elem;
use std::hint::black_box;
use std::time::Instant;

const S: usize = 10;
const T: usize = 20;
const B: usize = 1024;

fn source() -> Sampled {
    let forest = Forest::chain(T).expect("T is in range");
    let task = CausalTree::new(forest, S, 0.1, Roots::Stationary).expect("sizes are in range");
    Sampled::new(task, Key::new(0, Purpose::Train))
}

fn sampling(c: &mut Criterion) {
    let source = source();
    let (mut work, mut batch) = (source.work(), source.batch(B).expect("fits memory"));
    let mut group = c.benchmark_group("sample");
    group.throughput(Throughput::Elements(B as u64));
    let mut first = 0;
    group.bench_function("chain_S10_T20_B1024_1thread", |b| {
        b.iter(|| {
            source.fill(first, B, &mut work, &mut batch);
            first += B as u64;
            black_box(batch.tokens()[0])
        });
    });
    group.finish();
}

/// Gradient descent on everything that can train.
fn trainer<'a, E: Elem>(
    model: &'a dyn Model<E>,
    source: &'a dyn Source,
    plan: Plan,
    params: Vec<E>,
) -> Trainer<E, Sharded<'a, E>> {
    let blocks = model.layout().blocks().iter().zip(model.trainable());
    let unfreeze = UnfreezeAt::all(blocks.map(|(b, can)| (b.name(), b.range(), *can)));
    let objective = Sharded::new(model, source, &plan, unfreeze).expect("everything fits");
    let optimizer = Box::new(Sgd::new(0.0).expect("no decay"));
    Trainer::new(objective, optimizer, plan, params).expect("everything fits")
}

/// `update` samples its batch; `gradient` is forward and backward alone on one fixed shard.
fn step<E: Elem>(c: &mut Criterion, threads: usize) {
    let source = source();
    let spec = Spec::Disentangled(DisentangledSpec::new(&[1, 1]));
    let model = spec.build::<E>(S, T).expect("sizes are in range");
    let plan = Plan {
        steps: 1 << 40,
        batch: B,
        shards: 16,
        lr: 0.1,
        schedule: Schedule::Constant,
        eval_every: 1 << 40,
        checkpoint_every: 1 << 40,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
    let mut group = c.benchmark_group(format!("step_{}", E::NAME));
    group.throughput(Throughput::Elements(B as u64));
    let params = vec![E::from_f64(0.01); model.layout().len()];
    let mut trainer = trainer(model.as_ref(), &source, plan, params.clone());
    group.bench_function(format!("update_S10_T20_h11_B1024_{threads}threads"), |b| {
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
    if threads == 1 {
        // A shard's worth of sequences, as training cuts them.
        let shard = B / 16;
        let mut batch = source.batch(shard).expect("fits memory");
        source.fill(0, shard, &mut source.work(), &mut batch);
        let mut ws = model.workspace(source.targets(), shard).expect("fits memory");
        let mut grad = vec![E::ZERO; params.len()];
        group.throughput(Throughput::Elements(shard as u64));
        group.bench_function(format!("gradient_S10_T20_h11_B{shard}_1thread"), |b| {
            b.iter(|| {
                model.loss_and_grad(&params, &batch, model.trainable(), &mut ws, &mut grad).expect("fits");
                black_box(grad[0])
            });
        });
    }
    group.finish();
}

fn steps(c: &mut Criterion) {
    for threads in [1, 2] {
        step::<f32>(c, threads);
        step::<f64>(c, threads);
    }
}

/// One step on the exact population, all S^T sequences.
fn exact<E: Elem>(c: &mut Criterion, spec: &Spec, s: usize, t: usize, threads: usize) {
    let prior = Prior::dirichlet(s, 0.1, RootLaw::Uniform).expect("sizes are in range");
    let law = TreeLaw::new(Forest::chain(t).expect("T is in range"), prior).expect("sizes are in range");
    let source = Population::new(&law).expect("fits memory");
    let model = spec.build::<E>(s, t).expect("sizes are in range");
    let plan = Plan {
        steps: 1 << 40,
        batch: source.words(),
        shards: 16,
        lr: 0.1,
        schedule: Schedule::Constant,
        eval_every: 1 << 40,
        checkpoint_every: 1 << 40,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
    let params = vec![E::from_f64(0.01); model.layout().len()];
    let mut trainer = trainer(model.as_ref(), &source, plan, params);
    let mut group = c.benchmark_group(format!("exact_{}", E::NAME));
    group.throughput(Throughput::Elements(source.words() as u64));
    group.bench_function(format!("{}_chain_S{s}_T{t}_{threads}threads", spec.name()), |b| {
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
    group.finish();
}

fn populations(c: &mut Criterion) {
    for (s, t) in [(2, 12), (3, 8)] {
        for threads in [1, 2] {
            let disentangled = Spec::Disentangled(DisentangledSpec::new(&[1, 1]));
            exact::<f64>(c, &disentangled, s, t, threads);
            exact::<f32>(c, &disentangled, s, t, threads);
            exact::<f64>(c, &Spec::Simplified(SimplifiedSpec::new(0.01)), s, t, threads);
        }
    }
}

criterion_group!(benches, sampling, steps, populations);
criterion_main!(benches);
