//! Training on labels at every position: the loss is one mean over the batch however it is cut, blocks thaw when they should, batches that
//! count nothing pass, and what does not fit together is refused.

use popgrad::batch::LabelledBatch;
use popgrad::model::{Draw, FeedForward, Memory, MemorySpec, Output, Positions, SequenceModel};
use popgrad::optim::{Hyper, PerBlock, Schedule, Thaw};
use popgrad::rng::{Key, Purpose};
use popgrad::source::{LabelledSource, LossOn, SourceWork, TriggerPopulation, TriggerSource};
use popgrad::task::TriggerBigram;
use popgrad::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, Triggers};
use popgrad::train::{Labelled, Objective, Plan, Trainer};
use std::sync::Arc;

const N: usize = 5;
const T: usize = 14;
const BATCH: usize = 12;

struct Draws(Key);

impl Draw for Draws {
    fn normal(&self, i: u64) -> f64 {
        self.0.normal(i)
    }
    fn uniform(&self, i: u64) -> f64 {
        2.0 * self.0.uniforms(i, 1, 0)[0] - 1.0
    }
}

fn model(seq_len: usize) -> Memory<f64> {
    Memory::new(&MemorySpec {
        vocab: N,
        seq_len,
        dim: 6,
        ff: [FeedForward::None, FeedForward::Linear],
        positions: Positions::Random,
        output: Output::Free,
        scale_scores: true,
        scale_embeddings: false,
        frozen: vec!["output.weight".into()],
    })
    .unwrap()
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
fn thaws(model: &dyn SequenceModel<f64>) -> Vec<Thaw> {
    let blocks = model.layout().blocks().iter().zip(model.trainable());
    blocks.map(|(b, can)| Thaw { name: b.name().into(), range: b.range(), from: can.then_some(0) }).collect()
}

fn batch(source: &dyn LabelledSource, first: u64, count: usize) -> LabelledBatch {
    let mut b = LabelledBatch::with_capacity(count, source.seq_len(), source.vocab()).unwrap();
    source.fill(first, count, &mut source.work(), &mut b);
    b
}

/// Mean loss and gradient of one call on a batch.
fn whole(model: &Memory<f64>, params: &[f64], batch: &LabelledBatch) -> (f64, Vec<f64>) {
    let mut ws = model.workspace(batch.seqs()).unwrap();
    let mut grad = vec![0.0; params.len()];
    let active = model.trainable().to_vec();
    let loss = model.loss_and_grad(params, batch, &active, &mut ws, &mut grad).unwrap();
    let weight = batch.total_weight();
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
        let mut objective = Labelled::new(&model, &source, &plan(BATCH, shards), thaws(&model)).unwrap();
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
    let mut objective = Labelled::new(&model, &train, &plan(BATCH, 5), thaws(&model)).unwrap();
    let e = objective.test_loss(&params).unwrap_err().to_string();
    assert!(e.starts_with("test set: none"), "{e}");
    assert!(objective.set_test(&test, 0).is_err());
    // Below the shards, below the batch, above it and no multiple; the last replaces what was there.
    for size in [3, 7, 31] {
        objective.set_test(&test, size).unwrap();
        let all = batch(&test, 0, size);
        let tokens: Vec<u32> = objective.test_batches().flat_map(|b| b.tokens().to_vec()).collect();
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
    let mut late = thaws(&model);
    let (slow, quick) = (model.layout().find("layers.0.attention.wk.weight").unwrap(), "layers.1.ff.weight");
    late.iter_mut().find(|t| t.name == slow.name()).unwrap().from = Some(2);
    let never = late.iter_mut().find(|t| t.name == "tok_embeddings.weight").unwrap();
    never.from = None;
    let never = never.range.clone();
    let quick = model.layout().find(quick).unwrap().range();
    let [mut some, mut all] =
        [late, thaws(&model)].map(|t| Labelled::new(&model, &source, &plan(BATCH, 3), t).unwrap());
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

impl LabelledSource for Gaps {
    fn seq_len(&self) -> usize {
        self.0.seq_len()
    }
    fn vocab(&self) -> usize {
        self.0.vocab()
    }
    fn work(&self) -> SourceWork {
        self.0.work()
    }
    fn fill(&self, first: u64, count: usize, work: &mut SourceWork, batch: &mut LabelledBatch) {
        self.0.fill(first, count, work, batch);
        if first / BATCH as u64 % 3 == 1 {
            batch.parts_mut().weights.fill(0.0);
        }
    }
}

#[test]
fn a_batch_that_counts_nothing_is_an_update_without_gradient() {
    let (model, source) = (model(T), Gaps(source(Purpose::Train)));
    let hyper = Hyper { weight_decay: 0.5, ..Hyper::default() };
    let optimizer = PerBlock::new("sgd", thaws(&model), &hyper).unwrap();
    let objective = Labelled::new(&model, &source, &plan(BATCH, 5), thaws(&model)).unwrap();
    let mut trainer = Trainer::of(objective, Box::new(optimizer), plan(BATCH, 5), params(&model)).unwrap();
    let mut sum = 0.0;
    for step in 0..6 {
        let before = trainer.params().to_vec();
        let loss = trainer.update().unwrap();
        let counts = step % 3 != 1;
        assert_eq!((trainer.objective().counted(), loss > 0.0), (counts, counts), "update {step}");
        sum += loss;
        if !counts {
            assert!(trainer.grad().iter().all(|g| *g == 0.0));
            for t in thaws(&model) {
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
    // A test set of such sequences has no loss, and is told from a batch.
    let last = trainer.params().to_vec();
    let mut objective = Labelled::new(&model, &source, &plan(BATCH, 5), thaws(&model)).unwrap();
    struct Nothing(TriggerSource);
    impl LabelledSource for Nothing {
        fn seq_len(&self) -> usize {
            self.0.seq_len()
        }
        fn vocab(&self) -> usize {
            self.0.vocab()
        }
        fn work(&self) -> SourceWork {
            self.0.work()
        }
        fn fill(&self, first: u64, count: usize, work: &mut SourceWork, batch: &mut LabelledBatch) {
            self.0.fill(first, count, work, batch);
            batch.parts_mut().weights.fill(0.0);
        }
    }
    objective.set_test(&Nothing(self::source(Purpose::Test)), 9).unwrap();
    let e = objective.test_loss(&last).unwrap_err().to_string();
    assert!(e.contains("no position of the test set"), "{e}");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let (model, source) = (model(T), source(Purpose::Train));
    #[track_caller]
    fn refused(model: &Memory<f64>, source: &dyn LabelledSource, plan: &Plan, thaws: Vec<Thaw>, said: &str) {
        let e = Labelled::new(model, source, plan, thaws).err().expect("refused").to_string();
        assert!(e.starts_with(said), "{e}");
    }
    let fine = plan(BATCH, 4);
    assert!(Labelled::new(&model, &source, &fine, thaws(&model)).is_ok());
    refused(&model, &source, &plan(0, 4), thaws(&model), "batch: 0");
    let longer = self::model(T + 1);
    refused(&longer, &source, &fine, thaws(&longer), "source: T = 14, N = 5");
    let other = |change: &dyn Fn(&mut Vec<Thaw>)| {
        let mut t = thaws(&model);
        change(&mut t);
        t
    };
    refused(&model, &source, &fine, other(&|t| drop(t.pop())), "thaws:");
    refused(&model, &source, &fine, other(&|t| t.swap(0, 1)), "thaws:");
    refused(&model, &source, &fine, other(&|t| t[0].range.end -= 1), "thaws:");
    refused(&model, &source, &fine, other(&|t| t.iter_mut().for_each(|t| t.from = None)), "frozen: every");
    // Weight decay would move what has no gradient: buffers, and blocks that the model was told to freeze.
    let all = |t: &mut Vec<Thaw>| t.iter_mut().for_each(|t| t.from = Some(0));
    refused(&model, &source, &fine, other(&all), "thaws: pe");
    let output = |t: &mut Vec<Thaw>| t.last_mut().unwrap().from = Some(5);
    refused(&model, &source, &fine, other(&output), "thaws: output.weight");
    // A population is one batch, or its weights mean nothing.
    let population = TriggerPopulation::new(&task(3), LossOn::All).unwrap();
    let (short, p) = (self::model(3), population.entries());
    refused(&short, &population, &plan(p - 1, 4), thaws(&short), &format!("batch: {}", p - 1));
    let mut objective = Labelled::new(&short, &population, &plan(p, 4), thaws(&short)).unwrap();
    let (params, mut grad) = (params(&short), vec![0.0; short.layout().len()]);
    let losses = [0, 1].map(|step| objective.loss_and_grad(step, &params, &mut grad).unwrap());
    assert_eq!(losses[0], losses[1], "every step sees all of it");
}
