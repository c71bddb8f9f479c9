//! Training steps on a batch drawn beforehand: loss, gradient of every block, update.

use super::cases::SINGLE;
use super::process::ToArray;
use super::{Case, Check, Race};
use crate::Result;
use crate::batch::Batch;
use crate::measure::Repeated;
use crate::model::{
    DisentangledSpec, Draw, MemorySpec, MlpTransformerSpec, Model, Output, Spec, TransformerSpec,
};
use crate::optim::{PerBlock, Rule, Schedule, UnfreezeAt};
use crate::report::arrays::Array;
use crate::rng::{Key, Purpose};
use crate::source::{LossOn, Sampled, Source, TriggerSource};
use crate::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, Triggers};
use crate::task::{CausalDag, CausalTree, Corpus, Dag, DagRoots, Forest, Roots, TriggerBigram};
use crate::train::{Plan, Sharded, Trainer};
use serde_json::{Value, json};
use std::sync::Arc;

/// Largest difference of an update, relative to it. The first step of AdamW is about the sign of a
/// gradient, so entries whose gradient is all rounding go either way.
const UPDATE: f64 = 0.02;

/// A source that repeats a batch, and the number of sequences of that.
type Drawn = (Box<dyn Source>, usize);

fn drawn(source: impl Source + 'static, count: usize) -> Result<Drawn> {
    Ok((Box::new(Repeated::new(source, count)?), count))
}

pub(super) fn all(race: &mut Race<'_>) -> Result<()> {
    let sgd = Rule::Sgd { momentum: 0.0 };
    let adamw = |beta2| Rule::AdamW { beta1: 0.9, beta2, adam_eps: 1e-8 };
    let heads = |heads: &[usize]| Spec::Disentangled(DisentangledSpec::new(heads));
    let chain = || -> Result<Drawn> {
        let task = CausalTree::new(Forest::chain(20)?, 10, 0.1, Roots::Stationary)?;
        drawn(Sampled::new(task, Key::new(0, Purpose::Train)), 1024)
    };
    let dag = || -> Result<Drawn> {
        let task = CausalDag::new(Dag::two_parents(32)?, 5, 0.1, DagRoots::Shared)?;
        drawn(Sampled::new(task, Key::new(0, Purpose::Train)), 1024)
    };
    let triggers = |which: Triggers, loss: LossOn| -> Result<Drawn> {
        let corpus = Corpus::shipped();
        let laws = Bigrams::new(corpus.unigram_law(), corpus.bigram_law())?;
        let outputs = OutputLaw { law: Outputs::Uniform, no_repeat: false, allowed: Vec::new() };
        let task = TriggerBigram::new(laws, 256, which, outputs)?;
        drawn(TriggerSource::new(Arc::new(task), Key::new(0, Purpose::Train), loss), 512)
    };
    step(race, "step chain S=10 T=20, 1024, SGD", &chain, Step::new(heads(&[1, 1]), sgd, 0.1, 0.0))?;
    let two = Step::new(heads(&[2, 1]), adamw(0.999), 0.01, 1e-4);
    step(race, "step two parents S=5 T=32, 1024, AdamW", &dag, two)?;
    let mlp = Spec::MlpTransformer(MlpTransformerSpec::new(&[1, 1]));
    let mlp = Step::new(mlp, adamw(0.999), 0.01, 2e-4);
    step(race, "step mlp_transformer S=10 T=20, 1024, AdamW", &chain, mlp)?;
    // As the public code's command: embeddings and output stay.
    let memory = Spec::Memory(MemorySpec { dim: 128, output: Output::Frozen, ..MemorySpec::default() });
    let momentum = Rule::Sgd { momentum: 0.9 };
    let memory = Step { frozen: &["tok_embeddings.weight"], ..Step::new(memory, momentum, 0.03, 1e-4) };
    let fixed = || triggers(Triggers::Fixed { count: 5, offset: 0 }, LossOn::Head);
    step(race, "step memory d=128 T=256, 512, SGD", &fixed, memory)?;
    let transformer = Step::new(Spec::Transformer(TransformerSpec::default()), adamw(0.99), 0.001, 0.01);
    let transformer = Step { shards: 8, ..transformer };
    let random = || triggers(Triggers::Random { count: 5 }, LossOn::All);
    step(race, "step transformer d=128 T=256, 512, AdamW", &random, transformer)
}

/// What is trained, and how.
struct Step {
    spec: Spec,
    rule: Rule,
    lr: f64,
    decay: f64,
    frozen: &'static [&'static str],
    /// Of the preset.
    shards: usize,
}

impl Step {
    fn new(spec: Spec, rule: Rule, lr: f64, decay: f64) -> Self {
        Step { spec, rule, lr, decay, frozen: &[], shards: 16 }
    }

    fn optimizer(&self) -> Value {
        let Step { lr, decay, .. } = *self;
        match self.rule {
            Rule::AdamW { beta1, beta2, adam_eps } => json!({
                "name": "adamw", "lr": lr, "beta1": beta1, "beta2": beta2, "eps": adam_eps, "weight_decay": decay,
            }),
            Rule::Sgd { momentum } => {
                json!({ "name": "sgd", "lr": lr, "momentum": momentum, "weight_decay": decay })
            }
            Rule::Staged { .. } => Value::Null,
        }
    }
}

struct Normal(Key);

impl Draw for Normal {
    fn normal(&self, i: u64) -> f64 {
        self.0.normal(i)
    }
    fn uniform(&self, i: u64) -> f64 {
        2.0 * self.0.uniforms(i, 1, 0)[0] - 1.0
    }
}

/// Parameters that no symmetry ties and no pattern flattens: a start, and a little noise on top.
fn start(model: &dyn Model<f32>) -> Vec<f32> {
    let mut params = model.initial(&Normal(Key::new(1, Purpose::Init)));
    for (block, can) in model.layout().blocks().iter().zip(model.trainable()) {
        if *can {
            let of = &mut params[block.range()];
            of.iter_mut().enumerate().for_each(|(i, p)| *p += (i * 7919 % 1009) as f32 / 5045.0 - 0.1);
        }
    }
    params
}

fn operands(batch: &Batch) -> Result<Vec<(String, Array)>> {
    let (b, t, s) = (batch.seqs(), batch.len_tokens(), batch.vocab());
    let mut inputs = vec![("tokens".into(), batch.tokens().to_array(&[b, t])?)];
    let single = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<_>>();
    if batch.labels().is_empty() {
        inputs.push(("laws".into(), single(batch.laws()).to_array(&[b, s])?));
    } else {
        inputs.push(("labels".into(), batch.labels().to_array(&[b, t])?));
        inputs.push(("weights".into(), single(batch.weights()).to_array(&[b, t])?));
    }
    Ok(inputs)
}

fn step(race: &mut Race<'_>, name: &str, source: &dyn Fn() -> Result<Drawn>, step: Step) -> Result<()> {
    if !race.wants(name) {
        return Ok(());
    }
    let (source, batch) = source()?;
    let model = step.spec.build::<f32>(source.vocab(), source.seq_len())?;
    let (model, params) = (model.as_ref(), start(model.as_ref()));
    let mut drawn = source.batch(batch)?;
    source.fill(0, batch, &mut source.work(), &mut drawn);
    let mut inputs = operands(&drawn)?;
    drop(drawn);
    for block in model.layout().blocks() {
        let array = params[block.range()].to_array(block.shape())?;
        inputs.push((format!("param:{}", block.name()), array));
    }
    let plan = Plan {
        steps: 1 << 40,
        batch,
        shards: step.shards,
        lr: step.lr,
        schedule: Schedule::Constant,
        eval_every: 1 << 40,
        checkpoint_every: 1 << 40,
    };
    let can = |name: &str, can: bool| can && !step.frozen.contains(&name);
    let blocks = || model.layout().blocks().iter().zip(model.trainable());
    let unfreeze = UnfreezeAt::all(blocks().map(|(b, c)| (b.name(), b.range(), can(b.name(), *c))));
    let optimizer = Box::new(PerBlock::new(&step.rule, step.decay, unfreeze.clone())?);
    let objective = Sharded::new(model, source.as_ref(), &plan, unfreeze)?;
    let mut trainer = Trainer::new(objective, optimizer, plan, params.clone())?;
    let loss = trainer.loss_and_grad()?;
    let grad: Vec<f32> = trainer.grad().to_vec();
    trainer.update()?;
    let mut numbers = vec![("loss".into(), vec![loss], SINGLE)];
    let mut trained = Vec::new();
    for (block, c) in blocks() {
        if !can(block.name(), *c) {
            continue;
        }
        trained.push(block.name());
        let wide = |x: &[f32]| x[block.range()].iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        let (before, after) = (wide(&params), wide(trainer.params()));
        let size = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let update: Vec<f64> = before.iter().zip(&after).map(|(b, a)| a - b).collect();
        // The difference is asked of the update, the numbers compared are parameters.
        let most = UPDATE * size(&update) / size(&after).max(f64::MIN_POSITIVE);
        numbers.push((format!("grad:{}", block.name()), wide(&grad), 10.0 * SINGLE));
        numbers.push((format!("param:{}", block.name()), after, most.max(1e-6)));
    }
    let config = json!({
        "vocab": source.vocab(), "heads": heads(&step.spec), "trained": trained, "optimizer": step.optimizer(),
    });
    let call = Box::new(|| trainer.update().map(|_| ()));
    let check = Check::Numbers(numbers);
    race.case(Case { name: name.into(), dtype: "f32", kind: step.spec.name(), config, inputs, check, call })
}

/// Of each layer, or of all.
fn heads(spec: &Spec) -> Value {
    match spec {
        Spec::Disentangled(d) => json!(d.heads),
        Spec::MlpTransformer(m) => json!(m.heads),
        Spec::Transformer(t) => json!(t.heads[0]),
        _ => json!(1),
    }
}
