//! Times a training step without sampling, and its parts: median milliseconds per step of 1024
//! sequences. Batches are drawn beforehand and copied in. `gradient` is the forward pass, the
//! backward pass and the sum over 16 shards; `update` adds loss, schedule and SGD.
//!
//! `cargo run --release --example step [rounds]`
#![forbid(unsafe_code)]

use popgrad::Result;
use popgrad::measure::Repeated;
use popgrad::model::{DisentangledSpec, Spec};
use popgrad::optim::{Schedule, Sgd, UnfreezeAt};
use popgrad::rng::{Key, Purpose};
use popgrad::source::{Sampled, Source};
use popgrad::task::{CausalTree, Forest, Roots};
use popgrad::train::{Plan, Sharded, Trainer};
use popgrad_kernels::{AdamW, Elem, Kernels};
use std::hint::black_box;
use std::time::Instant;

const B: usize = 1024;
const SHARDS: usize = 16;

/// Median milliseconds of a call.
fn median(rounds: usize, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    for _ in 0..3 {
        f()?;
    }
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        f()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[rounds / 2])
}

fn shape<E: Elem>(rounds: usize, s: usize, t: usize, heads: &[usize]) -> Result<()> {
    let task = CausalTree::new(Forest::chain(t)?, s, 0.1, Roots::Stationary)?;
    let source = Repeated::new(Sampled::new(task, Key::new(0, Purpose::Train)), B)?;
    let model = Spec::Disentangled(DisentangledSpec::new(heads)).build::<E>(s, t)?;
    let plan = Plan {
        steps: 1 << 40,
        batch: B,
        shards: SHARDS,
        lr: 1e-9,
        schedule: Schedule::Constant,
        eval_every: 1 << 40,
        checkpoint_every: 1 << 40,
    };
    let len = model.layout().len();
    // Numbers in (-1/2, 1/2): patterns neither flat nor sharp.
    let params: Vec<E> = (0..len).map(|i| E::from_f64((i * 7919 % 1009) as f64 / 1009.0 - 0.5)).collect();
    let label = format!("{} S={s} T={t} {heads:?}", E::NAME);
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
        let optimizer = Box::new(Sgd::new(0.0)?);
        let blocks = model.layout().blocks().iter().zip(model.trainable());
        let unfreeze = UnfreezeAt::all(blocks.map(|(b, can)| (b.name(), b.range(), *can)));
        let objective = Sharded::new(model.as_ref(), &source, &plan, unfreeze)?;
        let mut trainer = Trainer::new(objective, optimizer, plan, params.clone())?;
        let (gradient, update) = pool.install(|| -> Result<_> {
            let gradient =
                median(rounds, || trainer.loss_and_grad().map(|l| assert!(black_box(l).is_finite())))?;
            Ok((gradient, median(rounds, || trainer.update().map(|l| assert!(l.is_finite())))?))
        })?;
        println!("{label} {threads} threads: gradient {gradient:.3} update {update:.3}");
    }
    let shard = B / SHARDS;
    let mut batch = source.batch(shard)?;
    source.fill(0, shard, &mut source.work(), &mut batch);
    let (mut ws, mut grad) = (model.workspace(source.targets(), shard)?, vec![E::ZERO; len]);
    let (none, all_blocks) = (vec![false; model.trainable().len()], model.trainable());
    let mut pass = |active: &[bool]| {
        median(rounds, || model.loss_and_grad(&params, &batch, active, &mut ws, &mut grad).map(|_| ()))
    };
    let (forward, both) = (pass(&none)?, pass(all_blocks)?);
    let fill = median(rounds, || {
        source.fill(0, shard, &mut source.work(), &mut batch);
        Ok(())
    })?;
    let kernels = Kernels::<E>::from_env()?;
    let (mut p, mut m, mut v) = (params.clone(), vec![E::ZERO; len], vec![E::ZERO; len]);
    let adam = AdamW { lr: 1e-9, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    let adam = median(rounds, || Ok(kernels.adamw(adam, 9, &mut p, &grad, &mut m, &mut v)?))?;
    let all = SHARDS as f64;
    println!(
        "{label} 1 thread, 16 shards: copy {:.3} forward {:.3} backward {:.3}; adamw {adam:.4}, {len} parameters",
        all * fill,
        all * forward,
        all * (both - forward)
    );
    Ok(())
}

fn main() -> Result<()> {
    let rounds = std::env::args().nth(1).and_then(|r| r.parse().ok()).unwrap_or(201);
    shape::<f32>(rounds, 10, 20, &[1, 1])?;
    shape::<f64>(rounds, 10, 20, &[1, 1])?;
    shape::<f32>(rounds, 5, 32, &[2, 1])?;
    shape::<f64>(rounds, 5, 32, &[2, 1])
}
