//! A training step after the first allocates nothing.

use crate::{counted, least, pools, wake_all_threads};
use popgrad::exact::{Prior, RootLaw, TreeLaw};
use popgrad::model::{Model, Spec};
use popgrad::optim::{PerBlock, Rule, Schedule, UnfreezeAt};
use popgrad::rng::{Key, Purpose};
use popgrad::source::{LossOn, Population, Sampled, Source, TriggerSource};
use popgrad::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, TriggerBigram, Triggers};
use popgrad::task::{CausalDag, CausalTree, Dag, DagRoots, Forest, Roots};
use popgrad::train::{Objective, Plan, Sharded, Trainer};
use std::sync::Arc;

fn sampled() -> Sampled {
    let task = CausalTree::new(Forest::chain(12).unwrap(), 5, 0.1, Roots::Stationary).unwrap();
    Sampled::new(task, Key::new(1, Purpose::Train))
}

fn population() -> Population {
    let prior = Prior::dirichlet(2, 0.1, RootLaw::Uniform).unwrap();
    Population::new(&TreeLaw::new(Forest::chain(7).unwrap(), prior).unwrap()).unwrap()
}

fn spec(text: &str) -> Spec {
    toml::from_str(text).unwrap()
}

fn allocations_of_warm_steps(spec: &Spec, source: &dyn Source, pool: &rayon::ThreadPool) -> usize {
    let model = spec.build::<f32>(source.vocab(), source.seq_len()).unwrap();
    let plan = plan(128, 1.0);
    let params = vec![0.01f32; model.layout().len()];
    pool.install(|| {
        let rule = match model.name() {
            "mlp_transformer" => Rule::AdamW { beta1: 0.9, beta2: 0.999, adam_eps: 1e-8 },
            _ => Rule::Sgd { momentum: if model.heads().len() == 1 { 0.9 } else { 0.0 } },
        };
        let optimizer = rule.build(params.len(), 0.01).unwrap();
        let blocks = model.layout().blocks().iter().map(|b| (b.name(), b.range(), true));
        let objective = Sharded::new(&*model, source, &plan, UnfreezeAt::all(blocks)).unwrap();
        let mut trainer = Trainer::new(objective, optimizer, plan, params).unwrap();
        allocations(&mut trainer)
    })
}

/// Updates before allocations are counted, and while they are.
const WARM: u64 = 20;
const COUNTED: u64 = 200;

fn warm<O: Objective<f32>>(trainer: &mut Trainer<f32, O>) {
    wake_all_threads();
    for _ in 0..WARM {
        trainer.update().unwrap();
    }
}

/// Of 200 steps of a warm trainer.
fn round<O: Objective<f32>>(trainer: &mut Trainer<f32, O>) -> usize {
    counted(|| {
        for _ in 0..COUNTED {
            trainer.update().unwrap();
        }
    })
}

/// Of 200 warm steps. Runs in the trainer's pool.
fn allocations<O: Objective<f32>>(trainer: &mut Trainer<f32, O>) -> usize {
    warm(trainer);
    least(|| round(trainer))
}

fn plan(batch: usize, lr: f64) -> Plan {
    Plan {
        steps: 1000,
        batch,
        shards: 4,
        lr,
        schedule: Schedule::Cosine,
        eval_every: 1000,
        checkpoint_every: 1000,
    }
}

/// A model with labels at every position: its first block trains from the start, the others one
/// after the other while allocations are counted.
fn allocations_of_labelled(model: &dyn Model<f32>, pool: &rayon::ThreadPool) -> usize {
    let laws = Bigrams::dirichlet(model.vocab(), 0.5, 1).unwrap();
    let outputs = OutputLaw { law: Outputs::Uniform, no_repeat: false, allowed: Vec::new() };
    let triggers = Triggers::Random { count: 3 };
    let task = TriggerBigram::new(laws, model.seq_len(), triggers, outputs).unwrap();
    let source = TriggerSource::new(Arc::new(task), Key::new(1, Purpose::Train), LossOn::Head);
    let blocks = model.layout().blocks().iter().zip(model.trainable()).enumerate();
    let from = |i: usize| if i == 0 { 0 } else { WARM + 4 * i as u64 };
    assert!(from(model.layout().blocks().len()) < WARM + COUNTED, "all train before the counting ends");
    let unfreeze: Vec<UnfreezeAt> = blocks
        .map(|(i, (b, can))| UnfreezeAt {
            name: b.name().into(),
            range: b.range(),
            from: can.then_some(from(i)),
        })
        .collect();
    let params = vec![0.01; model.layout().len()];
    pool.install(|| {
        // Blocks start to train once in a trainer's life: every round has one of its own.
        let fresh = || {
            let optimizer = PerBlock::new(&Rule::Sgd { momentum: 0.9 }, 0.01, unfreeze.clone()).unwrap();
            let objective = Sharded::new(model, &source, &plan(16, 0.01), unfreeze.clone()).unwrap();
            let mut trainer =
                Trainer::new(objective, Box::new(optimizer), plan(16, 0.01), params.clone()).unwrap();
            warm(&mut trainer);
            round(&mut trainer)
        };
        least(fresh)
    })
}

pub(crate) fn a_warm_step() {
    let (sampled, population) = (sampled(), population());
    let dag = CausalDag::new(Dag::two_parents(12).unwrap(), 5, 0.1, DagRoots::Shared).unwrap();
    let dag = Sampled::new(dag, Key::new(1, Purpose::Train));
    let disentangled = |heads: &str| format!("model = \"disentangled\"\nheads = {heads}");
    let mlp = |heads: &str| format!("model = \"mlp_transformer\"\nheads = {heads}");
    let simplified = || String::from("model = \"simplified\"");
    for (text, source) in [
        (disentangled("[1, 1]"), &sampled as &dyn Source),
        (disentangled("[2, 1]"), &sampled),
        (disentangled("[1]"), &sampled),
        (simplified(), &sampled),
        (simplified(), &population),
        (disentangled("[1, 1]"), &population),
        (disentangled("[2, 1]"), &dag),
        (mlp("[1, 1]"), &sampled),
        (mlp("[2, 1, 1]"), &sampled),
    ] {
        for pool in pools() {
            let threads = pool.current_num_threads();
            let count = allocations_of_warm_steps(&spec(&text), source, pool);
            assert_eq!(count, 0, "{text}, {threads} threads: {count} allocations in 200 steps");
        }
    }
    let small = |model: &str, rest: &str| format!("model = \"{model}\"\ndim = 8\n{rest}");
    let memory = "ff1 = \"linear\"\nff2 = \"relu\"\npositions = ";
    for text in [
        small("memory", &format!("{memory}\"random\"")),
        small("memory", &format!("{memory}\"rotary\"")),
        small("transformer", "heads = [2]\nblock = \"public\""),
        small("transformer", "heads = [2]\nblock = \"standard\""),
        small("transformer", "heads = [2]\nblock = \"postnorm\""),
        disentangled("[2, 1]"),
        mlp("[1, 2]"),
    ] {
        let model = spec(&text).build::<f32>(9, 20).unwrap();
        for pool in pools() {
            let count = allocations_of_labelled(&*model, pool);
            assert_eq!(count, 0, "{text}: {count} allocations in 200 steps");
        }
    }
}
