//! What a configuration stands for: task, sources, model, schedule of freezing.

use crate::config::birth::{BOTH, BirthConfig};
use crate::model::sequence::named_blocks;
use crate::model::{
    BlockKind, FeedForward, Memory, MemorySpec, Output, Positions, SequenceModel, Transformer,
    TransformerSpec,
};
use crate::optim::{Hyper, Schedule, Thaw};
use crate::paper::corpus;
use crate::rng::{Key, Purpose};
use crate::source::{LossOn, TriggerSource};
use crate::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, Triggers};
use crate::task::{Corpus, TriggerBigram};
use crate::train::{self, Plan};
use crate::{Error, Result};
use popgrad_kernels::Elem;
use std::path::Path;
use std::sync::Arc;

/// A trigger-bigram task for training, the ones for testing, and what symbols are called.
#[derive(Debug, Clone)]
pub struct Setup {
    /// For training.
    pub task: Arc<TriggerBigram>,
    /// For testing, with the law of its outputs: the first is the one that `acc_end_test` is about.
    pub tests: Vec<(&'static str, Arc<TriggerBigram>)>,
    /// Name of each symbol (N).
    pub symbols: Vec<String>,
    loss: LossOn,
    seed: u64,
}

impl Setup {
    /// Of `config`.
    ///
    /// # Errors
    /// A corpus that cannot be read, triggers that do not fit it.
    pub fn of(config: &BirthConfig) -> Result<Self> {
        let (laws, symbols) = laws(config)?;
        let n = laws.vocab();
        let triggers = match config.triggers.as_str() {
            "random" => Triggers::Random { count: config.K },
            _ => Triggers::Fixed { count: config.K, offset: config.offset.unwrap_or(0) },
        };
        let task = |law: &str, training: bool| -> Result<Arc<TriggerBigram>> {
            let allowed = match config.output_split {
                Some(share) => {
                    let first = (share * n as f64).floor() as usize;
                    (0..n).map(|s| (s < first) == training).collect()
                }
                None => Vec::new(),
            };
            let law = if law == "bigram" { Outputs::Bigram } else { Outputs::Uniform };
            let outputs = OutputLaw { law, no_repeat: config.no_repeat, allowed };
            Ok(Arc::new(TriggerBigram::new(laws.clone(), config.T, triggers, outputs)?))
        };
        let law = |name: &str| if name == "bigram" { "bigram" } else { "uniform" };
        let tested = match config.test_outputs.as_str() {
            BOTH if config.outputs == "bigram" => vec!["bigram", "uniform"],
            BOTH => vec!["uniform", "bigram"],
            one => vec![law(one)],
        };
        let tests = tested.into_iter().map(|l| Ok((l, task(l, false)?))).collect::<Result<_>>()?;
        let loss = if config.loss == "all" { LossOn::All } else { LossOn::Head };
        Ok(Setup { task: task(&config.outputs, true)?, tests, symbols, loss, seed: config.seed })
    }

    /// N.
    pub fn vocab(&self) -> usize {
        self.task.vocab()
    }

    /// Training sequences.
    pub fn train(&self) -> TriggerSource {
        self.source(&self.task, Purpose::Train)
    }

    /// Held-out sequences of each test law.
    pub fn held_out(&self) -> Vec<TriggerSource> {
        self.tests.iter().map(|(_, t)| self.source(t, Purpose::Test)).collect()
    }

    /// Sequences for pictures, of the first test law.
    pub fn samples(&self) -> TriggerSource {
        self.source(&self.tests[0].1, Purpose::Probe)
    }

    fn source(&self, task: &Arc<TriggerBigram>, purpose: Purpose) -> TriggerSource {
        TriggerSource::new(task.clone(), Key::new(self.seed, purpose), self.loss)
    }
}

/// π_u and π_b, and the names of the symbols.
fn laws(config: &BirthConfig) -> Result<(Bigrams, Vec<String>)> {
    let corpus = match (config.corpus.as_str(), config.N, config.alpha) {
        ("dirichlet", Some(n), Some(alpha)) => {
            let laws = Bigrams::dirichlet(n, alpha, config.seed)?;
            return Ok((laws, (0..n).map(|s| s.to_string()).collect()));
        }
        ("shipped", ..) => Corpus::shipped(),
        // The prefix says what the folder is; any folder is read so.
        (name, ..) => corpus::read(Path::new(name.strip_prefix("counts:").unwrap_or(name)))?,
    };
    let names = corpus.symbols().iter().map(|c| name_of(*c)).collect();
    Ok((Bigrams::new(corpus.unigram_law(), corpus.bigram_law())?, names))
}

/// A character that can be seen.
fn name_of(c: char) -> String {
    match c {
        ' ' => "␣".into(),
        '\n' => "↵".into(),
        '\t' => "⇥".into(),
        c => c.to_string(),
    }
}

/// The model, and of each of its blocks when it trains.
///
/// # Errors
/// Sizes out of range, names of blocks that it has not.
pub(super) fn model<E: Elem>(
    config: &BirthConfig,
    vocab: usize,
) -> Result<(Box<dyn SequenceModel<E>>, Vec<Thaw>)> {
    // Names are resolved against the blocks there are, so those come first.
    let all = build::<E>(config, vocab, Vec::new())?;
    let mut frozen = Vec::new();
    for name in config.frozen_names() {
        let meant = named_blocks("frozen", name, all.layout())?;
        frozen.extend(meant.iter().map(|b| all.layout().blocks()[*b].name().to_string()));
    }
    let model = build::<E>(config, vocab, frozen)?;
    let mut from: Vec<Option<u64>> = model.trainable().iter().map(|can| can.then_some(0)).collect();
    for (update, name) in config.thaws()? {
        for block in named_blocks("freeze_until", name, model.layout())? {
            let Some(own) = &mut from[block] else {
                let block = model.layout().blocks()[block].name();
                return Err(Error::invalid("freeze_until", block, "blocks that train at all"));
            };
            *own = update;
        }
    }
    if from.iter().all(Option::is_none) {
        return Err(Error::invalid("frozen", "every block", "at least one block to train"));
    }
    let blocks = model.layout().blocks().iter().zip(from);
    let thaws = blocks.map(|(b, from)| Thaw { name: b.name().into(), range: b.range(), from }).collect();
    Ok((model, thaws))
}

fn build<E: Elem>(
    config: &BirthConfig,
    vocab: usize,
    frozen: Vec<String>,
) -> Result<Box<dyn SequenceModel<E>>> {
    let ff = |value: &Option<String>| match value.as_deref() {
        Some("linear") => FeedForward::Linear,
        Some("relu") => FeedForward::Relu,
        _ => FeedForward::None,
    };
    let positions = match config.positions.as_str() {
        "sincos" => Positions::SinCos,
        "rotary" => Positions::Rotary,
        "learned" => Positions::Learned,
        _ => Positions::Random,
    };
    let output = match config.output.as_str() {
        "frozen" => Output::Frozen,
        "tied" => Output::Tied,
        "tied_frozen" => Output::TiedFrozen,
        _ => Output::Free,
    };
    if config.model == "memory" {
        return Ok(Box::new(Memory::<E>::new(&MemorySpec {
            vocab,
            seq_len: config.T,
            dim: config.dim,
            ff: [ff(&config.ff1), ff(&config.ff2)],
            positions,
            output,
            scale_scores: config.scale_scores.unwrap_or(true),
            scale_embeddings: config.scale_embeddings.unwrap_or(false),
            frozen,
        })?));
    }
    Ok(Box::new(Transformer::<E>::new(&TransformerSpec {
        vocab,
        seq_len: config.T,
        dim: config.dim,
        layers: config.layers.unwrap_or(2),
        heads: config.heads.unwrap_or(4),
        block: match config.block.as_deref() {
            Some("standard") => BlockKind::Standard,
            Some("postnorm") => BlockKind::PostNorm,
            _ => BlockKind::Public,
        },
        norm: config.norm.unwrap_or(true),
        ff: ff(&config.ff),
        positions,
        output,
        frozen,
    })?))
}

/// How training goes.
pub(super) fn plan(config: &BirthConfig) -> Result<Plan> {
    Ok(Plan {
        steps: config.steps,
        batch: config.batch,
        shards: config.shards,
        lr: config.lr,
        schedule: Schedule::parse(&config.schedule)?,
        eval_every: config.eval_every,
        checkpoint_every: config.checkpoint_every,
    })
}

/// Numbers of the optimiser; customary ones where the configuration gives none.
pub(super) fn hyper(config: &BirthConfig) -> Hyper {
    let usual = Hyper::default();
    Hyper {
        weight_decay: config.weight_decay,
        momentum: config.momentum.unwrap_or(usual.momentum),
        beta1: config.beta1.unwrap_or(usual.beta1),
        beta2: config.beta2.unwrap_or(usual.beta2),
        eps: config.adam_eps.unwrap_or(usual.eps),
    }
}

/// Bytes that a run holds while it trains.
///
/// # Errors
/// A configuration that cannot run.
pub fn memory(config: &BirthConfig) -> Result<usize> {
    fn typed<E: Elem>(config: &BirthConfig) -> Result<usize> {
        let setup = Setup::of(config)?;
        let (model, _) = model::<E>(config, setup.vocab())?;
        // Training, and as much again for the metrics; 28 bytes a position of the test sets.
        let training = train::labelled_memory(model.as_ref(), &plan(config)?);
        let test = config.test_size.checked_mul(config.T).and_then(|n| n.checked_mul(28 * setup.tests.len()));
        Ok(training
            .and_then(|b| b.checked_mul(2))
            .zip(test)
            .and_then(|(a, b)| a.checked_add(b))
            .unwrap_or(usize::MAX))
    }
    match config.dtype.as_str() {
        "f64" => typed::<f64>(config),
        _ => typed::<f32>(config),
    }
}
