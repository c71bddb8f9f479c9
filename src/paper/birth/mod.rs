//! The emergence of associative memories and an induction head: Bietti, Cabannes, Bouchacourt,
//! Jegou, Bottou 2023 (arXiv 2306.00802).
//!
//! Sequences of a bigram law in which a few triggers have an output of their own in each sequence.
//! Expectation: what follows by the bigrams is learned soon; then, in this order, W_O of layer 2
//! maps outputs to themselves, W_K of layer 2 finds the trigger's earlier occurrence, and W_K of
//! layer 1 attends to the token before.

mod attention;
pub mod corpus;
mod drawing;
mod figures;
mod recall;
mod report;
mod studies;
mod task;

pub use recall::Recall;
pub use task::TriggerTasks;

use super::Paper;
use crate::batch::{Batch, Targets};
use crate::config::{Config, Source as From, Task};
use crate::model::Spec;
use crate::model::trace::Trace;
use crate::num::Sum;
use crate::probe::in_context::{Metrics, Tally};
use crate::report::html::data::{Frame, Sketch};
use crate::report::metrics::{METRICS_FILE, Summary};
use crate::rng::Purpose;
use crate::run::{Experiment, Log, Results, Setup, View};
use crate::source::Source;
use crate::train::{Moment, On};
use crate::{Error, Result};
use drawing::{DEPTH, LOSSES, MAPS, ORDER, RECALL};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Bietti et al. 2023.
pub const PAPER: Paper = Paper {
    experiments: &[&Birth],
    drawings: &[&MAPS, &RECALL, &LOSSES, &DEPTH, &ORDER],
    seeds: &RECALL,
    grid: None,
    presets: &[
        ("birth", include_str!("../../../presets/birth.toml")),
        ("birth-readme", include_str!("../../../presets/birth-readme.toml")),
        ("birth-adamw", include_str!("../../../presets/birth-adamw.toml")),
        ("birth-full", include_str!("../../../presets/birth-full.toml")),
        ("birth-block", include_str!("../../../presets/birth-block.toml")),
    ],
    studies: studies::STUDIES,
    citation: "birth-*: Bietti, Cabannes, Bouchacourt, Jegou, Bottou 2023, Birth of a transformer: a memory viewpoint (arXiv \
               2306.00802).",
};

/// One line of `metrics.jsonl`, under the names of the public code: everything that a rerun
/// reproduces bit for bit. Metrics are those of the batch of update `iter`, which is yet to be
/// made. A metric that is not defined is null; a memory that the model lacks is -1.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MetricRecord {
    /// Updates done.
    pub step: u64,
    /// The same, as the public code calls it.
    pub iter: u64,
    /// Learning rate of the next update.
    pub lr: f64,
    /// Mean training loss since the last record, of the batches that count something.
    pub train_loss: Option<f64>,
    /// Loss on the test set.
    pub test_loss: f64,
    /// Norm of the last gradient.
    pub grad_norm: Option<f64>,
    /// Metrics of the batch.
    #[serde(flatten)]
    pub batch: Metrics,
    /// Accuracy on held-out sequences, outputs by the first test law: where outs >= 2 as `acc_end`,
    /// of the full model where outs >= 1, as its public script counts it.
    pub acc_end_test: Option<f64>,
    /// Mean loss there where outs = 0.
    pub loss_bigram_test: Option<f64>,
    /// Mean loss there where outs >= 2.
    pub loss_head_test: Option<f64>,
    /// The same with uniform outputs, if both laws are tested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acc_end_test_uniform: Option<f64>,
    /// The same with outputs by the bigrams, if both laws are tested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acc_end_test_bigram: Option<f64>,
    /// Recall of the memories.
    #[serde(flatten)]
    pub recall: Recall,
    /// norm_NAME and gradnorm_NAME of every block that trains; the latter null before it does,
    /// where the batch counts nothing, and at the end.
    #[serde(flatten)]
    pub norms: BTreeMap<String, Option<f64>>,
}

/// Key of the summary: the loss of the bigrams themselves where outs = 0 on the test set. What
/// `loss_bigram_test` exceeds it by is the KL of the bigrams from the model there.
const BIGRAM_LAW: &str = "loss_bigram_law";

/// Runs on trigger bigrams with any model that predicts at every position.
#[derive(Debug)]
struct Birth;

impl Experiment for Birth {
    fn name(&self) -> &'static str {
        "birth"
    }

    fn takes(&self, config: &Config) -> bool {
        matches!(config.task, Task::TriggerBigram(_))
    }

    fn setup(&self, config: &Config) -> Result<Box<dyn Setup>> {
        let Task::TriggerBigram(keys) = &config.task else {
            return Err(Error::invalid("task", config.task.name(), "trigger_bigram"));
        };
        let tasks = TriggerTasks::new(keys, config.plan.seed)?;
        Ok(Box::new(BirthSetup { config: config.clone(), tasks, bigrams: None }))
    }
}

struct BirthSetup {
    config: Config,
    tasks: TriggerTasks,
    /// Loss of the bigrams themselves on the test set, where outs = 0.
    bigrams: Option<f64>,
}

/// Metrics of what `on` names: tallies of the shards, in order.
fn metrics(view: &mut dyn View, on: On) -> Result<Metrics> {
    let heads = view.heads().to_vec();
    let mut shards: Vec<Tally> = Vec::new();
    view.reports(on, &mut |shard, batch, report| {
        if shards.len() <= shard {
            shards.resize_with(shard + 1, Tally::default);
        }
        shards[shard].add(batch, report, &heads)
    })?;
    let mut all = Tally::default();
    shards.iter().for_each(|tally| all.merge(tally));
    Ok(all.metrics())
}

/// Euclidean norm, in order.
fn norm(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).collect::<Sum>().value().sqrt()
}

impl BirthSetup {
    fn record(&self, at: &Moment, view: &mut dyn View) -> Result<Option<MetricRecord>> {
        let batch = metrics(view, On::Update(at.step))?;
        let tests = (0..view.test_sets()).map(|i| metrics(view, On::Test(i))).collect::<Result<Vec<_>>>()?;
        // After the last update nothing trains on the batch to come.
        let gradients = if at.last { Vec::new() } else { view.gradient_norms(at.step)? };
        let mut norms = BTreeMap::new();
        for (b, block) in view.unfreeze().iter().enumerate().filter(|(_, b)| b.from.is_some()) {
            norms.insert(format!("norm_{}", block.name), Some(norm(&view.params()[block.range.clone()])));
            norms.insert(format!("gradnorm_{}", block.name), gradients.get(b).copied().flatten());
        }
        let own = tests.first().copied().unwrap_or_default();
        let Some(test_loss) = own.loss else { return Ok(None) };
        let full = matches!(self.config.model, Spec::Transformer(_));
        let end = |m: &Metrics| if full { m.acc_tot } else { m.acc_end };
        let of = |law: &str| {
            let tasks = &self.tasks.tests;
            let at = tasks.iter().position(|(l, _)| *l == law).filter(|_| tests.len() > 1);
            at.and_then(|i| end(tests.get(i)?))
        };
        Ok(Some(MetricRecord {
            step: at.step,
            iter: at.step,
            lr: at.lr,
            train_loss: at.train_loss,
            test_loss,
            grad_norm: at.grad_norm,
            batch,
            acc_end_test: end(&own),
            loss_bigram_test: own.loss_bigram,
            loss_head_test: own.loss_head,
            acc_end_test_uniform: of("uniform"),
            acc_end_test_bigram: of("bigram"),
            recall: recall::of(&self.config.model, view.layout(), view.params(), &self.tasks.train)?,
            norms,
        }))
    }
}

impl Setup for BirthSetup {
    fn vocab(&self) -> usize {
        self.tasks.train.vocab()
    }

    fn targets(&self) -> Targets {
        Targets::Labels
    }

    fn population(&self) -> Result<Option<usize>> {
        match self.config.plan.source {
            From::Sampled => Ok(None),
            From::Exact | From::Orbit => Ok(Some(self.tasks.population()?.entries())),
        }
    }

    fn train(&self) -> Result<Box<dyn Source>> {
        match self.config.plan.source {
            From::Sampled => Ok(Box::new(self.tasks.sampled(&self.tasks.train, Purpose::Train))),
            From::Exact | From::Orbit => Ok(Box::new(self.tasks.population()?)),
        }
    }

    fn tests(&self) -> Result<Vec<Box<dyn Source>>> {
        let held_out =
            |(_, task): &(&str, _)| -> Box<dyn Source> { Box::new(self.tasks.sampled(task, Purpose::Test)) };
        match self.config.plan.source {
            From::Sampled => Ok(self.tasks.tests.iter().map(held_out).collect()),
            From::Exact | From::Orbit => Ok(Vec::new()),
        }
    }

    fn wants_reports(&self) -> bool {
        true
    }

    /// Attention on a sample as it comes, as an array, and as bytes of a file; the samples.
    fn more_bytes(&self, maps: usize) -> usize {
        let t = self.config.task.seq_len();
        let kept = attention::kept(maps, t);
        size_of::<f64>() * maps * (t * t + 2 * kept * kept) + attention::SAMPLES * t * 20
    }

    fn digest(&self) -> Option<u64> {
        self.tasks.digest
    }

    fn fact(&self) -> (&'static str, serde_json::Value) {
        ("symbols", self.tasks.symbols.clone().into())
    }

    /// What the loss where outs = 0 cannot go below.
    fn prepare(&mut self, test: &[&Batch]) -> Result<()> {
        let (laws, n) = (self.tasks.train.laws().bigram(), self.tasks.train.vocab());
        let (mut sum, mut weight) = (Sum::new(), Sum::new());
        // Samples count alike here, whatever the loss counts.
        let sampled = self.config.plan.source == From::Sampled;
        for batch in test {
            let seen = batch.seen().unwrap_or_default();
            for (i, z) in batch.tokens().iter().enumerate().filter(|(i, _)| seen.get(*i) == Some(&0)) {
                let w = if sampled { 1.0 } else { batch.weights()[i] };
                if w > 0.0 {
                    sum.add(-w * laws[*z as usize * n + batch.labels()[i] as usize].ln());
                    weight.add(w);
                }
            }
        }
        self.bigrams = (weight.value() > 0.0).then(|| sum.value() / weight.value());
        Ok(())
    }

    fn evaluate(&mut self, at: &Moment, view: &mut dyn View, log: &mut Log<'_>) -> Result<f64> {
        let Some(record) = self.record(at, view)? else {
            let allowed = "at least one position that counts: use longer or more sequences, or more triggers";
            return Err(Error::invalid("test_size", "no position of the test set counts", allowed));
        };
        let shown = record.batch.acc_end.map(|x| ("acc_end", x));
        log.record(record.test_loss, &record, shown)?;
        Ok(record.test_loss)
    }

    fn finish(&mut self, view: &mut dyn View, folder: &Path, summary: &mut Summary) -> Result<()> {
        attention::write(folder, &self.tasks, view)?;
        let last = figures::records(folder)?
            .pop()
            .ok_or_else(|| Error::format(folder.join(METRICS_FILE), "no record; expected one at the end"))?;
        for key in figures::KEYS.iter().filter(|k| last.contains_key(**k)) {
            summary.set(key, &last[*key])?;
        }
        summary.set(BIGRAM_LAW, self.bigrams)?;
        Ok(())
    }

    fn draw(&mut self, _view: &mut dyn View, folder: &Path) -> Result<()> {
        figures::draw(&self.config, &self.tasks.symbols, folder)
    }

    fn sketch(&mut self, results: &Results) -> Result<Sketch> {
        report::sketch(&self.config, &self.tasks, results)
    }

    fn frame(&mut self, trace: &Trace, params: &[f64]) -> Result<Frame> {
        report::frame(&self.tasks, trace, params)
    }
}
