//! The measurements of `popgrad bench`: kernels on one thread, then whole training steps.

use super::{Lane, Measured, PEAK, interleave};
use crate::Result;
use crate::exact::{Prior, RootLaw, Tree};
use crate::model::{DisentangledSpec, Model, Spec};
use crate::optim::{Schedule, Sgd, UnfreezeAt};
use crate::rng::{Key, Purpose};
use crate::source::{Sampled, Source};
use crate::task::{CausalTree, Forest, Roots};
use crate::train::{Plan, Sharded, Trainer};
use popgrad_kernels::{
    Attention, Elem, Isa, Kernels, KvGrad, Mat, MatMut, Mats, MatsMut, Queries, Save, Saved, Scratch, Write,
};
use std::hint::black_box;
use std::time::Duration;

/// Figure 2 of the causal-structure paper: symbols, sequence length with the query, batch, shards.
const SYMBOLS: usize = 10;
const LEN: usize = 20;
const BATCH: usize = 1024;
const SHARDS: usize = 16;

/// Length of a round of each lane, and how many.
const ROUND: Duration = Duration::from_millis(8);
const ROUNDS: usize = 11;

/// Measures everything on the process's instruction set. To be called inside a pool of `threads`
/// threads, which training uses; kernels run on one.
///
/// # Errors
/// When something does not fit memory.
pub fn run(threads: usize) -> Result<Vec<Measured>> {
    let isa = Isa::from_env()?;
    let source = source()?;
    let (single, double) = (model::<f32>()?, model::<f64>()?);
    let mut lanes = Vec::new();
    kernels::<f32>(isa, &mut lanes)?;
    kernels::<f64>(isa, &mut lanes)?;
    load(isa, &mut lanes)?;
    attention(isa, 64, 20, 30, &mut lanes)?;
    attention(isa, 2, 256, 128, &mut lanes)?;
    population(&mut lanes)?;
    sampler(&source, &mut lanes)?;
    step(single.as_ref(), &source, threads, &mut lanes)?;
    step(double.as_ref(), &source, threads, &mut lanes)?;
    interleave(&mut lanes, ROUNDS, ROUND)
}

fn lane<'a, E: Elem>(
    name: impl Into<String>,
    work: f64,
    unit: &'static str,
    call: impl FnMut() -> Result<()> + Send + 'a,
) -> Lane<'a> {
    Lane { name: name.into(), dtype: E::NAME, threads: 1, work, unit, call: Box::new(call) }
}

/// Entries in [-1, 1) without pattern enough to matter. They start on a cache line, as all operands
/// here: where an allocator happens to put them is worth up to 14 % of a product of 64^3.
fn numbers<E: Elem>(n: usize) -> Scratch<E> {
    let mut x = Scratch::new(n);
    for (i, x) in x.as_mut_slice().iter_mut().enumerate() {
        *x = E::from_f64((i * 7919 % 1000) as f64 / 500.0 - 1.0);
    }
    x
}

/// Peak, products and exp.
fn kernels<E: Elem>(isa: Isa, lanes: &mut Vec<Lane<'_>>) -> Result<()> {
    let k = Kernels::<E>::new(isa)?;
    let rounds = 1000;
    lanes.push(lane::<E>(PEAK, k.fma_peak(rounds) as f64 / 1e9, "GFLOP/s", move || {
        k.fma_peak(rounds);
        Ok(())
    }));
    for (m, n_k, n) in
        [(16, 16, 16), (32, 32, 32), (64, 64, 64), (128, 128, 128), (256, 256, 256), (1280, 30, 30)]
    {
        let (a, b, mut c) = (numbers::<E>(m * n_k), numbers::<E>(n_k * n), Scratch::new(m * n));
        let mut scratch = Scratch::new(k.gemm_scratch(m, n_k, n));
        let flops = 2.0 * (m * n_k * n) as f64;
        lanes.push(lane::<E>(format!("gemm {m}x{n_k}x{n}"), flops / 1e9, "GFLOP/s", move || {
            let a = Mat::new(black_box(a.as_slice()), m, n_k)?;
            let b = Mat::new(black_box(b.as_slice()), n_k, n)?;
            let c = MatMut::new(c.as_mut_slice(), m, n)?;
            Ok(k.gemm(Write::Set, E::ONE, a, b, c, &mut scratch)?)
        }));
    }
    // Input and output stay in the first cache.
    let x = numbers::<E>(1024);
    let mut out = Scratch::new(x.len());
    lanes.push(lane::<E>("exp", x.len() as f64 / 1e9, "Gelem/s", move || {
        Ok(k.exp(black_box(x.as_slice()), out.as_mut_slice())?)
    }));
    Ok(())
}

/// Load bandwidth of first cache, second cache, memory.
fn load(isa: Isa, lanes: &mut Vec<Lane<'_>>) -> Result<()> {
    let k = Kernels::<f32>::new(isa)?;
    for (what, kib) in [("16 KiB", 16), ("256 KiB", 256), ("128 MiB", 128 << 10)] {
        let mut x = Scratch::<f32>::new(kib << 8);
        x.as_mut_slice().fill(1.0);
        lanes.push(lane::<f32>(format!("load {what}"), (kib << 10) as f64 / 1e9, "GB/s", move || {
            black_box(k.load_sweep(black_box(x.as_mut_slice())));
            Ok(())
        }));
    }
    Ok(())
}

/// Forward and backward of `count` problems of T positions and width D. Flops are those of the
/// causal triangle: two products of T² D flops forward, four backward, none for computing a
/// probability twice.
fn attention(isa: Isa, count: usize, t: usize, d: usize, lanes: &mut Vec<Lane<'_>>) -> Result<()> {
    let kernels = Kernels::<f32>::new(isa)?;
    let mut scratch = Scratch::new(kernels.attention_scratch(t, t, d, d));
    let n = count * t * d;
    let (q, keys, v, dout) = (numbers::<f32>(n), numbers::<f32>(n), numbers::<f32>(n), numbers::<f32>(n));
    let (mut out, mut kept) = (Scratch::new(n), Scratch::new(count * t * 2));
    let (mut dq, mut dk, mut dv) = (Scratch::new(n), Scratch::new(n), Scratch::new(n));
    let scale = 1.0 / (d as f32).sqrt();
    let flops = 6.0 * (count * t * t * d) as f64;
    let name = format!("attention {count}x{t}x{d}, both ways");
    lanes.push(lane::<f32>(name, flops / 1e9, "GFLOP/s", move || {
        let shape = [count, t, d];
        let rows = |x| Mats::new(x, shape, t * d, d);
        let (q, k, v) = (rows(black_box(q.as_slice()))?, rows(keys.as_slice())?, rows(v.as_slice())?);
        let problem = Attention { q, k, v, scale, queries: Queries::Last };
        // Gradients of keys and values are added to: they must not grow from call to call.
        dk.as_mut_slice().fill(0.0);
        dv.as_mut_slice().fill(0.0);
        let keep = Save::Rows(MatsMut::new(kept.as_mut_slice(), [count, t, 2], 2 * t, 2)?);
        kernels.attention(
            &problem,
            MatsMut::new(out.as_mut_slice(), shape, t * d, d)?,
            keep,
            &mut scratch,
        )?;
        let grad = |x| MatsMut::new(x, shape, t * d, d);
        let (dk, dv) = (Some(grad(dk.as_mut_slice())?), Some(grad(dv.as_mut_slice())?));
        let kept = Saved::Rows(Mats::new(kept.as_slice(), [count, t, 2], 2 * t, 2)?);
        let (out, dout, dq) = (rows(out.as_slice())?, rows(dout.as_slice())?, grad(dq.as_mut_slice())?);
        let grads = KvGrad::Separate { dk, dv };
        Ok(kernels.attention_backward(&problem, kept, out, dout, dq, grads, &mut scratch)?)
    }));
    Ok(())
}

/// Loss and both gradients over the whole population of a chain, in the pool's threads.
fn population(lanes: &mut Vec<Lane<'_>>) -> Result<()> {
    let (s, t) = (2usize, 16usize);
    let prior = Prior::dirichlet(s, 0.1, RootLaw::Uniform)?;
    let mut tree = Tree::<f64>::new(&Forest::chain(t)?, &prior, 0.01, false)?;
    // Not bI + c: every query counts.
    let (a1, a2) = (vec![0.0; t * t], vec![1.0, 0.1, 0.2, 0.9]);
    let words = tree.words() as f64;
    lanes.push(lane::<f64>(format!("population of S={s} T={t}"), words / 1e6, "Mword/s", move || {
        black_box(tree.gradients(&a1, &a2)?.loss);
        Ok(())
    }));
    Ok(())
}

fn source() -> Result<Sampled> {
    let task = CausalTree::new(Forest::chain(LEN)?, SYMBOLS, 0.1, Roots::Stationary)?;
    Ok(Sampled::new(task, Key::new(0, Purpose::Train)))
}

fn model<E: Elem>() -> Result<Box<dyn Model<E>>> {
    Spec::Disentangled(DisentangledSpec::new(&[1, 1])).build(SYMBOLS, LEN)
}

fn sampler<'a>(source: &'a Sampled, lanes: &mut Vec<Lane<'a>>) -> Result<()> {
    // A shard's worth: long enough to be timed, short enough to fit a round.
    let count = BATCH / SHARDS;
    let (mut work, mut batch) = (source.work(), source.batch(count)?);
    let mut first = 0;
    lanes.push(lane::<f64>("sampling, chain S=10 T=20", count as f64 / 1e3, "kseq/s", move || {
        source.fill(first, count, &mut work, &mut batch);
        first += count as u64;
        black_box(batch.tokens()[0]);
        Ok(())
    }));
    Ok(())
}

/// Sampling, forward, backward, fold and update.
fn step<'a, E: Elem>(
    model: &'a dyn Model<E>,
    source: &'a Sampled,
    threads: usize,
    lanes: &mut Vec<Lane<'a>>,
) -> Result<()> {
    let plan = Plan {
        steps: 1 << 40,
        batch: BATCH,
        shards: SHARDS,
        lr: 0.1,
        schedule: Schedule::Constant,
        eval_every: 1 << 40,
        checkpoint_every: 1 << 40,
    };
    let params = vec![E::from_f64(0.01); model.layout().len()];
    let blocks = model.layout().blocks().iter().zip(model.trainable());
    let unfreeze = UnfreezeAt::all(blocks.map(|(b, can)| (b.name(), b.range(), *can)));
    let objective = Sharded::new(model, source, &plan, unfreeze)?;
    let mut trainer = Trainer::new(objective, Box::new(Sgd::new(0.0)?), plan, params)?;
    let call = move || trainer.update().map(|_| ());
    let step = lane::<E>("training step, chain S=10 T=20 B=1024", BATCH as f64 / 1e3, "kseq/s", call);
    lanes.push(Lane { threads, ..step });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every lane does what it says it does, once: nothing here is timed.
    #[test]
    fn every_lane_runs() -> Result<()> {
        let source = source()?;
        let (single, double) = (model::<f32>()?, model::<f64>()?);
        for isa in Isa::available() {
            let mut lanes = Vec::new();
            kernels::<f32>(isa, &mut lanes)?;
            kernels::<f64>(isa, &mut lanes)?;
            load(isa, &mut lanes)?;
            attention(isa, 3, 20, 30, &mut lanes)?;
            population(&mut lanes)?;
            sampler(&source, &mut lanes)?;
            step(single.as_ref(), &source, 2, &mut lanes)?;
            step(double.as_ref(), &source, 2, &mut lanes)?;
            for lane in &mut lanes {
                assert!(lane.work > 0.0, "{}", lane.name);
                (lane.call)()?;
            }
        }
        Ok(())
    }
}
