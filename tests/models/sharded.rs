//! Training over shards: the loss is one mean over the batch for any number of shards, blocks start
//! to train at the right update, batches in which no output counts are accepted, and operands that
//! do not fit together are refused.

use crate::support::Draws;
use popgrad::batch::{Batch, Targets, divisor};
use popgrad::model::{FeedForward, Memory, MemorySpec, Model, Output, Transformer, TransformerSpec};
use popgrad::optim::{PerBlock, Rule, Schedule, UnfreezeAt};
use popgrad::rng::{Key, Purpose};
use popgrad::source::{LossOn, Sampled, Source, SourceWork, TriggerPopulation, TriggerSource};
use popgrad::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, Triggers};
use popgrad::task::{CausalTree, Forest, Roots, TriggerBigram};
use popgrad::train::{Objective, On, Plan, Sharded, Trainer};
use std::sync::{Arc, Mutex};

const N: usize = 5;
const T: usize = 14;
const BATCH: usize = 12;

fn model(seq_len: usize) -> Memory<f64> {
    let spec =
        MemorySpec { dim: 6, ff2: FeedForward::Linear, output: Output::Frozen, ..MemorySpec::default() };
    Memory::new(N, seq_len, &spec).unwrap()
}

fn params(model: &Memory<f64>) -> Vec<f64> {
    model.initial(&Draws(Key::new(7, Purpose::Init)))
}

fn task(seq_len: usize) -> TriggerBigram {
    let outputs = OutputLaw { law: Outputs::Uniform, no_repeat: false, allowed: Vec::new() };
    let laws = Bigrams::dirichlet(N, 0.7, 3).unwrap();
    TriggerBigram::new(laws, seq_len, Triggers::Random { count: 2 }, outputs).unwrap()
}

fn source(purpose: Purpose) -> TriggerSource {
    TriggerSource::new(Arc::new(task(T)), Key::new(1, purpose), LossOn::Head)
}

fn plan(batch: usize, shards: usize) -> Plan {
    Plan {
        steps: 10,
        batch,
        shards,
        lr: 0.1,
        schedule: Schedule::Constant,
        eval_every: 10,
        checkpoint_every: 10,
    }
}

/// Everything that can train does from update 0.
fn unfreeze(model: &dyn Model<f64>) -> Vec<UnfreezeAt> {
    let blocks = model.layout().blocks().iter().zip(model.trainable());
    UnfreezeAt::all(blocks.map(|(b, can)| (b.name(), b.range(), *can)))
}

fn batch(source: &dyn Source, first: u64, count: usize) -> Batch {
    let mut b = source.batch(count).unwrap();
    source.fill(first, count, &mut source.work(), &mut b);
    b
}

/// Mean loss and gradient of one call on a batch.
fn whole(model: &dyn Model<f64>, params: &[f64], batch: &Batch) -> (f64, Vec<f64>) {
    let mut ws = model.workspace(batch.kind(), batch.seqs()).unwrap();
    let mut grad = vec![0.0; params.len()];
    let active = model.trainable().to_vec();
    let loss = model.loss_and_grad(params, batch, &active, &mut ws, &mut grad).unwrap();
    let weight = divisor(batch.total_weight());
    grad.iter_mut().for_each(|g| *g /= weight);
    (loss.value() / weight, grad)
}

#[test]
fn the_cut_into_shards_changes_nothing_but_rounding() {
    let (model, source) = (model(T), source(Purpose::Train));
    let params = params(&model);
    let step = 3;
    let first = step * BATCH as u64;
    let all = batch(&source, first, BATCH);
    let (loss, grad) = whole(&model, &params, &all);
    // Shards weigh differently, or the mean of their means would pass.
    let counts: Vec<f64> = (0..4).map(|i| batch(&source, first + 3 * i, 3).total_weight()).collect();
    assert!(counts.iter().any(|c| *c != counts[0]), "{counts:?}");
    // What is added up over the sequences: their gradients' sizes, by block.
    let mut sizes = vec![0.0; params.len()];
    for i in 0..BATCH as u64 {
        let one = batch(&source, first + i, 1);
        if one.total_weight() > 0.0 {
            let share = one.total_weight() / all.total_weight();
            let (_, own) = whole(&model, &params, &one);
            sizes.iter_mut().zip(own).for_each(|(s, g)| *s += share * g.abs());
        }
    }
    for shards in [1, 4, 7, 40] {
        let mut objective = Sharded::new(&model, &source, &plan(BATCH, shards), unfreeze(&model)).unwrap();
        let mut got = vec![f64::NAN; params.len()];
        let value = objective.loss_and_grad(step, &params, &mut got).unwrap();
        assert!(objective.counted());
        // Sums of at most B T terms of one sign.
        let rounding = (BATCH * T) as f64 * f64::EPSILON;
        assert!((value - loss).abs() <= rounding * loss, "{shards} shards: {value}, {loss}");
        for (block, can) in model.layout().blocks().iter().zip(model.trainable()) {
            let range = block.range();
            let largest = sizes[range.clone()].iter().fold(0.0, |m: f64, x| m.max(*x));
            assert_eq!(largest > 0.0, *can, "{}", block.name());
            for (a, b) in got[range.clone()].iter().zip(&grad[range]) {
                // T d further terms where sums by token and position pass W_K.
                let bound = 6.0 * rounding * largest;
                assert!((a - b).abs() <= bound, "{shards} shards, {}: {a} for {b}", block.name());
            }
        }
    }
}

#[test]
fn a_test_set_of_any_size_is_seen_once_and_in_order() {
    let (model, train, test) = (model(T), source(Purpose::Train), source(Purpose::Test));
    let params = params(&model);
    let mut objective = Sharded::new(&model, &train, &plan(BATCH, 5), unfreeze(&model)).unwrap();
    let e = objective.test_loss(&params).unwrap_err().to_string();
    assert!(e.starts_with("test set: none"), "{e}");
    assert!(objective.set_tests(&[&test], 0).is_err());
    // Below the shards, below the batch, above it and no multiple; the last replaces what was
    // there.
    for size in [3, 7, 31] {
        objective.set_tests(&[&test], size).unwrap();
        let all = batch(&test, 0, size);
        let tokens: Vec<u32> = objective.test_batches(0).flat_map(|b| b.tokens().to_vec()).collect();
        assert_eq!(tokens, all.tokens(), "{size} sequences");
        let (expected, _) = whole(&model, &params, &all);
        let got = objective.test_loss(&params).unwrap();
        let bound = (size * T) as f64 * f64::EPSILON * expected;
        assert!((got - expected).abs() <= bound, "{size} sequences: {got}, {expected}");
    }
}

#[test]
fn blocks_have_a_gradient_from_their_first_update_on() {
    let (model, source) = (model(T), source(Purpose::Train));
    let params = params(&model);
    let mut late = unfreeze(&model);
    let (slow, quick) = (model.layout().find("layers.0.attention.wk.weight").unwrap(), "layers.1.ff.weight");
    late.iter_mut().find(|t| t.name == slow.name()).unwrap().from = Some(2);
    let never = late.iter_mut().find(|t| t.name == "tok_embeddings.weight").unwrap();
    never.from = None;
    let never = never.range.clone();
    let quick = model.layout().find(quick).unwrap().range();
    let [mut some, mut all] =
        [late, unfreeze(&model)].map(|t| Sharded::new(&model, &source, &plan(BATCH, 3), t).unwrap());
    let [mut a, mut b] = [(); 2].map(|()| vec![f64::NAN; params.len()]);
    for step in 0..4 {
        let losses = [
            some.loss_and_grad(step, &params, &mut a).unwrap(),
            all.loss_and_grad(step, &params, &mut b).unwrap(),
        ];
        assert_eq!(losses[0], losses[1]);
        assert!(a[never.clone()].iter().all(|g| *g == 0.0) && b[never.clone()].iter().any(|g| *g != 0.0));
        assert_eq!(a[quick.clone()], b[quick.clone()]);
        if step < 2 {
            assert!(a[slow.range()].iter().all(|g| *g == 0.0), "update {step}");
        } else {
            assert_eq!(a[slow.range()], b[slow.range()], "update {step}");
        }
    }
}

/// Samples of which every third batch counts nothing.
struct Gaps(TriggerSource);

impl Source for Gaps {
    fn seq_len(&self) -> usize {
        self.0.seq_len()
    }
    fn vocab(&self) -> usize {
        self.0.vocab()
    }
    fn targets(&self) -> Targets {
        self.0.targets()
    }
    fn batch(&self, capacity: usize) -> popgrad::Result<Batch> {
        self.0.batch(capacity)
    }
    fn work(&self) -> SourceWork {
        self.0.work()
    }
    fn fill(&self, first: u64, count: usize, work: &mut SourceWork, batch: &mut Batch) {
        self.0.fill(first, count, work, batch);
        if first / BATCH as u64 % 3 == 1 {
            batch.parts_mut().weights.fill(0.0);
        }
    }
}

#[test]
fn a_batch_that_counts_nothing_is_an_update_without_gradient() {
    let (model, source) = (model(T), Gaps(source(Purpose::Train)));
    let optimizer = PerBlock::new(&Rule::Sgd { momentum: 0.0 }, 0.5, unfreeze(&model)).unwrap();
    let objective = Sharded::new(&model, &source, &plan(BATCH, 5), unfreeze(&model)).unwrap();
    let mut trainer = Trainer::new(objective, Box::new(optimizer), plan(BATCH, 5), params(&model)).unwrap();
    let mut sum = 0.0;
    for step in 0..6 {
        let before = trainer.params().to_vec();
        let loss = trainer.update().unwrap();
        let counts = step % 3 != 1;
        assert_eq!((trainer.objective().counted(), loss > 0.0), (counts, counts), "update {step}");
        sum += loss;
        if !counts {
            assert!(trainer.grad().iter().all(|g| *g == 0.0));
            for t in unfreeze(&model) {
                for (a, b) in before[t.range.clone()].iter().zip(&trainer.params()[t.range]) {
                    let expected = if t.from.is_some() { a - 0.1 * (0.5 * a) } else { *a };
                    assert!((b - expected).abs() <= 2.0 * f64::EPSILON * a.abs(), "{}: {a} to {b}", t.name);
                }
            }
        }
    }
    let (parts, count) = trainer.state().interval;
    assert_eq!(count, 4, "four losses, not six");
    assert!((parts[0] + parts[1] - sum).abs() <= 8.0 * f64::EPSILON * sum);
    // A test set of such sequences has no loss; its error differs from that of a batch.
    let last = trainer.params().to_vec();
    let mut objective = Sharded::new(&model, &source, &plan(BATCH, 5), unfreeze(&model)).unwrap();
    struct Nothing(TriggerSource);
    impl Source for Nothing {
        fn seq_len(&self) -> usize {
            self.0.seq_len()
        }
        fn vocab(&self) -> usize {
            self.0.vocab()
        }
        fn targets(&self) -> Targets {
            self.0.targets()
        }
        fn batch(&self, capacity: usize) -> popgrad::Result<Batch> {
            self.0.batch(capacity)
        }
        fn work(&self) -> SourceWork {
            self.0.work()
        }
        fn fill(&self, first: u64, count: usize, work: &mut SourceWork, batch: &mut Batch) {
            self.0.fill(first, count, work, batch);
            batch.parts_mut().weights.fill(0.0);
        }
    }
    objective.set_tests(&[&Nothing(self::source(Purpose::Test))], 9).unwrap();
    let e = objective.test_loss(&last).unwrap_err().to_string();
    assert!(e.contains("no position of the test set"), "{e}");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let (model, source) = (model(T), source(Purpose::Train));
    #[track_caller]
    fn refused(model: &Memory<f64>, source: &dyn Source, plan: &Plan, unfreeze: Vec<UnfreezeAt>, said: &str) {
        let e = Sharded::new(model, source, plan, unfreeze).err().expect("refused").to_string();
        assert!(e.starts_with(said), "{e}");
    }
    let fine = plan(BATCH, 4);
    assert!(Sharded::new(&model, &source, &fine, unfreeze(&model)).is_ok());
    refused(&model, &source, &plan(0, 4), unfreeze(&model), "batch: 0");
    let longer = self::model(T + 1);
    refused(&longer, &source, &fine, unfreeze(&longer), "source: T = 14, S = 5");
    let other = |change: &dyn Fn(&mut Vec<UnfreezeAt>)| {
        let mut t = unfreeze(&model);
        change(&mut t);
        t
    };
    refused(&model, &source, &fine, other(&|t| drop(t.pop())), "unfreeze:");
    refused(&model, &source, &fine, other(&|t| t.swap(0, 1)), "unfreeze:");
    refused(&model, &source, &fine, other(&|t| t[0].range.end -= 1), "unfreeze:");
    refused(&model, &source, &fine, other(&|t| t.iter_mut().for_each(|t| t.from = None)), "frozen: every");
    // Weight decay would move what has no gradient: buffers, and a frozen output.
    let all = |t: &mut Vec<UnfreezeAt>| t.iter_mut().for_each(|t| t.from = Some(0));
    refused(&model, &source, &fine, other(&all), "unfreeze: pe");
    let output = |t: &mut Vec<UnfreezeAt>| t.last_mut().unwrap().from = Some(5);
    refused(&model, &source, &fine, other(&output), "unfreeze: output.weight");
    // A population is one batch, or its weights mean nothing.
    let population = TriggerPopulation::new(&task(3), LossOn::All).unwrap();
    let (short, p) = (self::model(3), population.entries());
    refused(&short, &population, &plan(p - 1, 4), unfreeze(&short), &format!("batch: {}", p - 1));
    let mut objective = Sharded::new(&short, &population, &plan(p, 4), unfreeze(&short)).unwrap();
    let (params, mut grad) = (params(&short), vec![0.0; short.layout().len()]);
    let losses = [0, 1].map(|step| objective.loss_and_grad(step, &params, &mut grad).unwrap());
    assert_eq!(losses[0], losses[1], "every step sees all of it");
}

/// Laws and labels alike: any number of shards is one shard, within rounding.
#[test]
fn laws_are_one_mean_however_they_are_cut() {
    let (s, t) = (4, 9);
    let task = CausalTree::new(Forest::icl(t).unwrap(), s, 0.3, Roots::Stationary).unwrap();
    let source = Sampled::new(task, Key::new(5, Purpose::Train));
    let memory =
        MemorySpec { dim: 6, ff1: FeedForward::Relu, ff2: FeedForward::Linear, ..MemorySpec::default() };
    let full = TransformerSpec { dim: 6, heads: vec![2], ..TransformerSpec::default() };
    let models: [Box<dyn Model<f64>>; 2] =
        [Box::new(Memory::new(s, t, &memory).unwrap()), Box::new(Transformer::new(s, t, &full).unwrap())];
    for model in &models {
        let model = model.as_ref();
        let params = model.initial(&Draws(Key::new(7, Purpose::Init)));
        let (step, mut one) = (3, Vec::new());
        let (loss, expected) = whole(model, &params, &batch(&source, step * BATCH as u64, BATCH));
        let largest = expected.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
        for shards in [1, 2, 5, 12, 40] {
            let mut objective = Sharded::new(model, &source, &plan(BATCH, shards), unfreeze(model)).unwrap();
            let mut grad = vec![f64::NAN; params.len()];
            let value = objective.loss_and_grad(step, &params, &mut grad).unwrap();
            // Sums of B terms in another order, each of a few hundred roundings.
            let rounding = 500.0 * f64::EPSILON;
            assert!((value - loss).abs() <= rounding * loss, "{}: {value}, {loss}", model.name());
            if shards == 1 {
                one.clone_from(&grad);
            }
            for (g, o) in grad.iter().zip(&one) {
                assert!((g - o).abs() <= rounding * largest, "{}, {shards}: {g} for {o}", model.name());
            }
            for (block, can) in model.layout().blocks().iter().zip(model.trainable()) {
                let own = grad[block.range()].iter().zip(&expected[block.range()]);
                for (g, e) in own.filter(|_| *can) {
                    assert!((g - e).abs() <= rounding * largest, "{}: {g} for {e}", block.name());
                }
            }
        }
    }
}

/// Which sequences were asked for.
struct Recording<'a> {
    source: &'a dyn Source,
    asked: Mutex<Vec<(u64, usize)>>,
}

impl Recording<'_> {
    /// Asserts that what was asked for since the last call is `first .. first + count`, each once.
    fn assert_partition(&self, first: u64, count: usize, what: &str) {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.sort_unstable();
        let mut next = first;
        for (start, n) in asked {
            assert_eq!(start, next, "{what}");
            next += n as u64;
        }
        assert_eq!(next, first + count as u64, "{what}");
    }
}

impl Source for Recording<'_> {
    fn seq_len(&self) -> usize {
        self.source.seq_len()
    }
    fn vocab(&self) -> usize {
        self.source.vocab()
    }
    fn targets(&self) -> Targets {
        self.source.targets()
    }
    fn work(&self) -> SourceWork {
        self.source.work()
    }
    fn fill(&self, first: u64, count: usize, work: &mut SourceWork, batch: &mut Batch) {
        self.asked.lock().unwrap().push((first, count));
        self.source.fill(first, count, work, batch);
    }
}

/// No sequence is left out, and none is in two shards: neither in training, nor in reports, nor in
/// test sets.
#[test]
fn sample_numbers_are_a_partition_for_any_batch_and_shards() {
    let task = CausalTree::new(Forest::chain(3).unwrap(), 2, 0.3, Roots::Stationary).unwrap();
    let sampled = Sampled::new(task, Key::new(5, Purpose::Train));
    let source = Recording { source: &sampled, asked: Mutex::new(Vec::new()) };
    let model = Memory::<f64>::new(2, 3, &MemorySpec { dim: 2, ..MemorySpec::default() }).unwrap();
    let params = params(&model);
    let mut grad = vec![0.0; params.len()];
    let sizes = (1..=20).chain([31, 32, 33, 64, 100, 255, 256, 257]);
    let shards = || (1..=20).chain([24, 31, 40, 64]);
    for (batch, shards) in sizes.flat_map(|b| shards().map(move |s| (b, s))) {
        let what = format!("{batch} sequences in {shards} shards");
        let mut objective = Sharded::new(&model, &source, &plan(batch, shards), unfreeze(&model)).unwrap();
        for step in [0, 1, 7] {
            objective.loss_and_grad(step, &params, &mut grad).unwrap();
            source.assert_partition(step * batch as u64, batch, &what);
        }
        objective.reports(On::Update(3), &params, &mut |_, _, _| Ok(())).unwrap();
        source.assert_partition(3 * batch as u64, batch, &what);
        for size in [1, 9, batch + 1] {
            objective.set_tests(&[&source], size).unwrap();
            source.assert_partition(0, size, &format!("{what}, a test set of {size}"));
        }
    }
}

#[test]
fn weights_that_sum_to_one_are_not_divided() {
    for total in [1.0, 1.0 + 1e-15, 1.0 - 3e-13] {
        assert_eq!(divisor(total), 1.0);
    }
    for total in [0.5, 1.0 + 1e-9, 7.0, 1024.0] {
        assert_eq!(divisor(total), total);
    }
}
