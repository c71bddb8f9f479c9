//! The structured path of `disentangled` against the dense one, on every instruction set.

use crate::support::noise;
use popgrad::batch::{Batch, Targets};
use popgrad::model::{Disentangled, DisentangledSpec, Model, Path, Report};
use popgrad::optim::{Schedule, Sgd, UnfreezeAt};
use popgrad::rng::{Key, Purpose};
use popgrad::source::Sampled;
use popgrad::task::{CausalTree, Forest, Roots};
use popgrad::train::{Plan, Sharded, Trainer};
use popgrad_kernels::{Elem, Isa, Kernels, Real};
use proptest::prelude::*;

/// Every third weight is 0, every second target one-hot.
fn batch(seed: u64, seqs: usize, t: usize, s: usize) -> Batch {
    let mut draw = noise(seed);
    let mut batch = Batch::with_capacity(Targets::Law, seqs, t, s).unwrap();
    batch.set_seqs(seqs);
    let parts = batch.parts_mut();
    for x in parts.tokens {
        *x = ((draw() + 1.0) * 0.5 * s as f64) as u32 % s as u32;
    }
    for (b, row) in parts.laws.chunks_mut(s).enumerate() {
        row.iter_mut().for_each(|y| *y = draw().abs() + 0.01);
        let z: f64 = row.iter().sum();
        row.iter_mut().for_each(|y| *y /= z);
        if b % 2 == 1 {
            row.fill(0.0);
            row[b % s] = 1.0;
        }
    }
    for (b, w) in parts.weights.iter_mut().enumerate() {
        *w = if b % 3 == 2 { 0.0 } else { draw().abs() / seqs as f64 };
    }
    batch
}

struct Results {
    loss: f64,
    losses: Vec<f64>,
    probs: Vec<f64>,
    grad: Vec<f64>,
}

fn run<E: Elem>(model: &Disentangled<E>, params: &[f64], batch: &Batch) -> Results {
    let params: Vec<E> = params.iter().map(|p| E::from_f64(*p)).collect();
    let mut ws = model.workspace(Targets::Law, batch.seqs()).unwrap();
    let mut grad = vec![E::NAN; params.len()];
    let loss = model.loss_and_grad(&params, batch, model.trainable(), &mut ws, &mut grad).unwrap();
    let mut report = Report::new(model, Targets::Law, batch.seqs(), false, true);
    model.report(&params, batch, &mut ws, &mut report).unwrap();
    Results {
        loss: loss.value(),
        losses: report.losses,
        probs: report.probs,
        grad: grad.iter().map(|x| x.to_f64()).collect(),
    }
}

/// Both paths round a few hundred times between parameters and results, u each, sums of n terms n
/// times; a rounding of a score of size |z| moves a probability by u |z|, relatively, and so on
/// through the layers. An entry of the gradient is compared to the largest of its block over the
/// sequences one by one, where nothing cancels.
fn tolerance<E: Elem>(model: &Disentangled<E>, params: &[f64], batch: &Batch) -> f64 {
    let layout = Model::layout(model);
    let mut amplified = 1.0;
    for (block, heads) in layout.blocks().iter().zip(Model::heads(model)) {
        let largest = params[block.range()].iter().fold(0.0, |m: f64, p| m.max(p.abs()));
        // Rows of x¹ have 2 (1 + H) entries' worth of mass at most.
        amplified *= 1.0 + ((2 * (1 + heads)).pow(2) as f64) * largest;
    }
    let d = model.widths().last().unwrap() + batch.len_tokens().pow(2) + batch.seqs();
    2.0 * d as f64 * E::UNIT_ROUNDOFF * amplified
}

fn compare<E: Elem>(heads: &[usize], [seqs, t, s]: [usize; 3], scale: f64, seed: u64) {
    let dense = Disentangled::<f64>::new(s, t, &DisentangledSpec::new(heads))
        .unwrap()
        .with_path(Path::Dense)
        .unwrap();
    let (mut draw, batch) = (noise(seed), batch(seed + 1, seqs, t, s));
    let len = Model::layout(&dense).len();
    // Rounded to f32, so that every type has the same parameters.
    let params: Vec<f64> = (0..len).map(|_| f64::from((scale * draw()) as f32)).collect();
    let exact = run(&dense, &params, &batch);
    let mut sizes = vec![0.0; len];
    for b in 0..seqs {
        let mut one = batch.clone();
        one.parts_mut().weights.iter_mut().enumerate().for_each(|(i, w)| *w = if i == b { *w } else { 0.0 });
        run(&dense, &params, &one).grad.iter().zip(&mut sizes).for_each(|(g, s)| *s += g.abs());
    }
    for isa in Isa::available() {
        let model = Disentangled::<E>::new(s, t, &DisentangledSpec::new(heads)).unwrap();
        let model = model.with_kernels(Kernels::new(isa).unwrap());
        let got = run(&model, &params, &batch);
        let tolerance = tolerance(&model, &params, &batch);
        let what = format!("{isa:?} {} {heads:?} {seqs} {t} {s} {scale} {seed}", E::NAME);
        if E::UNIT_ROUNDOFF == f64::UNIT_ROUNDOFF && scale <= 0.7 {
            assert!((got.loss - exact.loss).abs() <= 1e-13, "{what}: {} for {}", got.loss, exact.loss);
        }
        for (got, exact) in got.losses.iter().zip(&exact.losses) {
            assert!((got - exact).abs() <= tolerance * (1.0 + exact), "{what}: {got} for {exact}");
        }
        for (got, exact) in got.probs.iter().zip(&exact.probs) {
            assert!((got - exact).abs() <= tolerance, "{what}: {got} for {exact}");
        }
        for block in Model::layout(&model).blocks() {
            let size = sizes[block.range()].iter().fold(0.0, |m: f64, s| m.max(*s));
            for i in block.range() {
                let (got, exact) = (got.grad[i], exact.grad[i]);
                let ok = (got - exact).abs() <= tolerance * size;
                assert!(ok, "{what} {} {}: {got} for {exact}, {size}", block.name(), i - block.range().start);
            }
        }
    }
}

const HEADS: [&[usize]; 7] = [&[1], &[3], &[1, 1], &[2, 1], &[1, 2], &[3, 2], &[2, 3]];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn structured_is_dense(
        heads in prop::sample::select(HEADS.to_vec()),
        seqs in 1usize..40, t in 2usize..24, s in 2usize..20,
        scale in prop::sample::select(vec![0.0, 0.1, 0.7, 3.0]), seed in 0u64..1 << 40,
    ) {
        compare::<f64>(heads, [seqs, t, s], scale, seed);
        // In f32 the bound is worth something at small scales only.
        compare::<f32>(heads, [seqs, t, s], scale.min(0.1), seed);
    }
}

#[test]
fn long_sequences_and_many_symbols() {
    compare::<f64>(&[1, 1], [3, 256, 64], 0.1, 5);
    compare::<f32>(&[1, 1], [18, 70, 33], 0.1, 6);
}

/// The sequences of a shard are computed side by side; none must see another.
#[test]
fn a_sequence_is_the_same_in_any_company() {
    let model = Disentangled::<f64>::new(7, 9, &DisentangledSpec::new(&[2, 1])).unwrap();
    let mut draw = noise(4);
    let params: Vec<f64> = (0..Model::layout(&model).len()).map(|_| draw()).collect();
    let many = batch(9, 35, 9, 7);
    let all = run(&model, &params, &many);
    for b in [0, 1, 15, 16, 34] {
        let mut one = Batch::with_capacity(Targets::Law, 1, 9, 7).unwrap();
        one.set_seqs(1);
        let parts = one.parts_mut();
        parts.tokens.copy_from_slice(many.sequence(b));
        parts.laws.copy_from_slice(many.law(b));
        parts.weights[0] = 1.0;
        let got = run(&model, &params, &one);
        assert_eq!(got.probs, all.probs[b * 7..(b + 1) * 7], "sequence {b}");
    }
}

#[test]
fn numbers_that_are_none_stay_in_their_columns() {
    let model = Disentangled::<f64>::new(4, 6, &DisentangledSpec::new(&[1, 1])).unwrap();
    let mut draw = noise(8);
    let mut params: Vec<f64> = (0..Model::layout(&model).len()).map(|_| draw()).collect();
    // Row 0 of A.0, token 0 as a query: no sequence below has that token.
    params[..4 + 6].fill(f64::NAN);
    let mut clean = batch(3, 5, 6, 4);
    clean.parts_mut().tokens.iter_mut().for_each(|t| *t = (*t).max(1));
    let got = run(&model, &params, &clean);
    assert!(got.loss.is_finite() && got.grad.iter().all(|g| g.is_finite()));
    clean.parts_mut().tokens[6 + 2] = 0;
    let got = run(&model, &params, &clean);
    let nan: Vec<bool> = got.losses.iter().map(|l| l.is_nan()).collect();
    assert_eq!(nan, [false, true, false, false, false]);
}

#[test]
fn the_gradient_has_the_same_bits_for_any_number_of_threads() {
    for heads in [&[1, 1][..], &[2, 1], &[1]] {
        let task = CausalTree::new(Forest::chain(12).unwrap(), 5, 0.1, Roots::Stationary).unwrap();
        let source = Sampled::new(task, Key::new(1, Purpose::Train));
        let model = Disentangled::<f32>::new(5, 12, &DisentangledSpec::new(heads)).unwrap();
        let mut draw = noise(2);
        let params: Vec<f32> = (0..Model::layout(&model).len()).map(|_| draw() as f32).collect();
        let plan = Plan {
            steps: 10,
            batch: 130,
            shards: 7,
            lr: 0.5,
            schedule: Schedule::Cosine,
            eval_every: 10,
            checkpoint_every: 10,
        };
        let bits = [1, 2, 5].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let optimizer = Box::new(Sgd::new(0.01).unwrap());
                let blocks = Model::layout(&model).blocks().iter().map(|b| (b.name(), b.range(), true));
                let objective = Sharded::new(&model, &source, &plan, UnfreezeAt::all(blocks)).unwrap();
                let mut trainer = Trainer::new(objective, optimizer, plan, params.clone()).unwrap();
                let losses: Vec<u64> = (0..4).map(|_| trainer.update().unwrap().to_bits()).collect();
                (losses, trainer.params().iter().map(|p| p.to_bits()).collect::<Vec<_>>())
            })
        });
        assert!(bits[0] == bits[1] && bits[1] == bits[2], "{heads:?}");
    }
}

#[test]
fn three_layers_have_no_structured_path() {
    let three = || Disentangled::<f32>::new(3, 5, &DisentangledSpec::new(&[1, 1, 1])).unwrap();
    let message = three().with_path(Path::Structured).err().unwrap().to_string();
    assert!(message.starts_with("path: structured, 3 layers"), "{message}");
    assert!(three().with_path(Path::Dense).is_ok());
}
