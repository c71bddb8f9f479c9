//! Learning a latent causal graph from in-context Markov chains: Nichani, Damian, Lee 2024, Figure
//! 2 and related figures.
//!
//! Expectation: the loss stays on a plateau (the predictor that ignores the graph), then falls to
//! near the Bayes loss while the first layer's position block turns into the graph's parent matrix.

mod algorithm1;
mod algorithm1_figures;
mod draw;
mod drawing;
mod figures;
mod gather;
pub mod ood;
mod population;
mod posterior;
mod report;
mod studies;
mod tables;
mod task;

pub use algorithm1::MetricRecord as Algorithm1Record;
pub use task::{CausalTask, Reference, References, task, tree};

use super::Paper;
use crate::batch::{Batch, Targets};
use crate::config::{Config, Source as From, Task};
use crate::model::trace::Trace;
use crate::probe::attention::{HeadAssignment, ParentAttention, head_assignment, pattern_attention};
use crate::report::html::data::{Frame, Sketch};
use crate::report::metrics::Summary;
use crate::report::plot::{LineChart, Series};
use crate::rng::Purpose;
use crate::run::{Experiment, Log, Results, Setup, View, folder};
use crate::source::Source;
use crate::train::Moment;
use crate::{Error, Result};
use drawing::{ARCHITECTURES, GRID, HEADS, MATRICES, PATTERNS, POSITIONS, SEEDS};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Nichani, Damian, Lee 2024.
pub const PAPER: Paper = Paper {
    experiments: &[&algorithm1::Algorithm1, &Causal],
    drawings: &[&MATRICES, &PATTERNS, &HEADS, &ARCHITECTURES, &POSITIONS, &SEEDS, &GRID],
    seeds: &SEEDS,
    grid: Some(&GRID),
    presets: &[
        ("chain", include_str!("../../../presets/chain.toml")),
        ("icl", include_str!("../../../presets/icl.toml")),
        ("random", include_str!("../../../presets/random.toml")),
        ("manual", include_str!("../../../presets/manual.toml")),
        ("many", include_str!("../../../presets/many.toml")),
        ("two-parents", include_str!("../../../presets/two-parents.toml")),
        ("causal-fig8", include_str!("../../../presets/causal-fig8.toml")),
        ("algorithm1", include_str!("../../../presets/algorithm1.toml")),
    ],
    studies: studies::STUDIES,
    citation: "causal-*: Nichani, Damian, Lee 2024, How transformers learn causal structure with gradient descent (arXiv \
               2402.14735).",
};

/// One line of `metrics.jsonl`: everything that a rerun reproduces bit for bit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MetricRecord {
    /// Updates done.
    pub step: u64,
    /// Learning rate of the next update.
    pub lr: f64,
    /// Mean training loss since the last record.
    pub train_loss: Option<f64>,
    /// Loss on the test set.
    pub test_loss: f64,
    /// Test loss minus that of the counts predictor; under a floored prior minus that of the exact
    /// posterior, null where it has no form that can be evaluated.
    #[serde(default)]
    pub gap: Option<f64>,
    /// Norm of the last gradient.
    pub grad_norm: Option<f64>,
    /// Mean attention on the parents.
    pub attention_on_parent_mean: Option<f64>,
    /// Minimum attention on the parents.
    pub attention_on_parent_min: Option<f64>,
    /// True if every parent stands out in its row: see
    /// [`ParentAttention::recovered`](crate::probe::attention::ParentAttention::recovered).
    pub graph_recovered: bool,
    /// True if every parent is the argmax of its row.
    #[serde(default)]
    pub graph_argmax: bool,
    /// With several parents: share of positions at which each head's argmax is the parent that the
    /// head is assigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads_split_parents: Option<f64>,
}

/// Runs on a latent graph with any model.
#[derive(Debug)]
struct Causal;

impl Experiment for Causal {
    fn name(&self) -> &'static str {
        "causal"
    }

    fn takes(&self, config: &Config) -> bool {
        matches!(config.task, Task::CausalTree(_) | Task::CausalDag(_))
    }

    fn setup(&self, config: &Config) -> Result<Box<dyn Setup>> {
        Ok(Box::new(CausalSetup {
            config: config.clone(),
            task: task(config)?,
            references: References { counts: None, all: Vec::new() },
            probe: None,
            test_loss: None,
            patterns: Vec::new(),
        }))
    }
}

struct CausalSetup {
    config: Config,
    task: CausalTask,
    references: References,
    probe: Option<Probe>,
    /// Of the last evaluation of this session.
    test_loss: Option<f64>,
    /// Of the final parameters, kept for the figures.
    patterns: Vec<Vec<f64>>,
}

impl CausalSetup {
    fn probe(&self) -> Result<&Probe> {
        self.probe.as_ref().ok_or_else(|| Error::invalid("probe", "none", "one made before training"))
    }

    /// The same, made if a run has not made it.
    fn own_probe(&mut self) -> Result<&Probe> {
        if self.probe.is_none() {
            let words = self.population()?;
            self.probe = Some(Probe::new(self.config.plan.seed, &self.task, words)?);
        }
        self.probe()
    }

    /// Attention patterns (T, T) of the first layer's heads. Every number and picture about the
    /// first layer's attention comes from here.
    fn patterns(&self, view: &mut dyn View) -> Result<Vec<Vec<f64>>> {
        view.patterns(0, &self.probe()?.sequences)
    }
}

impl Setup for CausalSetup {
    fn vocab(&self) -> usize {
        self.task.vocab()
    }

    fn targets(&self) -> Targets {
        Targets::Law
    }

    fn check(&self) -> Result<()> {
        if self.config.plan.source == From::Exact { self.task.check_prior() } else { Ok(()) }
    }

    fn population(&self) -> Result<Option<usize>> {
        match self.config.plan.source {
            From::Sampled => Ok(None),
            From::Exact | From::Orbit => population::words(self.task.vocab(), self.task.seq_len()).map(Some),
        }
    }

    fn train(&self) -> Result<Box<dyn Source>> {
        match self.config.plan.source {
            From::Sampled => {
                let labels = self.config.task.labels().unwrap_or_default();
                Ok(self.task.training(self.config.plan.seed, labels))
            }
            From::Exact | From::Orbit => Ok(Box::new(self.task.population()?)),
        }
    }

    fn tests(&self) -> Result<Vec<Box<dyn Source>>> {
        match self.config.plan.source {
            From::Sampled => Ok(vec![self.task.sampled(self.config.plan.seed, Purpose::Test)]),
            From::Exact | From::Orbit => Ok(Vec::new()),
        }
    }

    fn fact(&self) -> (&'static str, serde_json::Value) {
        ("parents", self.task.graph_json())
    }

    fn prepare(&mut self, test: &[&Batch]) -> Result<()> {
        self.references = self.task.references(test);
        let words = self.population()?;
        self.probe = Some(Probe::new(self.config.plan.seed, &self.task, words)?);
        Ok(())
    }

    fn bayes(&self) -> Option<f64> {
        self.references.counts
    }

    fn evaluate(&mut self, at: &Moment, view: &mut dyn View, log: &mut Log<'_>) -> Result<f64> {
        let test_loss = view.test_loss()?;
        let patterns = self.patterns(view)?;
        let probe = self.probe()?;
        let attention = probe.attention(&patterns);
        let gap = self.references.counts.map(|best| test_loss - best);
        let record = MetricRecord {
            step: at.step,
            lr: at.lr,
            train_loss: at.train_loss,
            test_loss,
            gap,
            grad_norm: at.grad_norm,
            attention_on_parent_mean: attention.as_ref().map(|a| a.mean),
            attention_on_parent_min: attention.as_ref().map(|a| a.min),
            graph_recovered: attention.as_ref().is_some_and(|a| a.recovered),
            graph_argmax: attention.as_ref().is_some_and(|a| a.argmax),
            heads_split_parents: probe.assignment(&patterns).map(|a| a.split),
        };
        log.record(test_loss, &record, gap.map(|gap| ("gap", gap)))?;
        self.test_loss = Some(test_loss);
        Ok(test_loss)
    }

    fn finish(&mut self, view: &mut dyn View, folder: &Path, summary: &mut Summary) -> Result<()> {
        let test_loss = match self.test_loss {
            Some(loss) => loss,
            // Resumed after the last update: nothing was left to do but this.
            None => view.test_loss()?,
        };
        let patterns = self.patterns(view)?;
        let probe = self.probe()?;
        let attention = probe.attention(&patterns);
        folder::write_attention(folder, &patterns, self.task.seq_len())?;
        summary.set("test_loss", test_loss)?;
        for reference in &self.references.all {
            summary.set(reference.key, reference.loss)?;
        }
        summary.set("gap", self.references.counts.map(|best| test_loss - best))?;
        summary.set("attention_on_parent_mean", attention.as_ref().map(|a| a.mean))?;
        summary.set("attention_on_parent_min", attention.as_ref().map(|a| a.min))?;
        summary.set("graph_recovered", attention.as_ref().is_some_and(|a| a.recovered))?;
        summary.set("graph_argmax", attention.as_ref().is_some_and(|a| a.argmax))?;
        if let Some(heads) = probe.assignment_of_any(&patterns) {
            summary.set("recovery", heads.in_words())?;
            // Heads from 1, as figures name them.
            let of = heads.head_of.iter().map(|h| h.map(|h| h + 1)).collect::<Vec<_>>();
            summary.set("head_of_parent", of)?;
            summary.set("attention_of_assigned_head", heads.on_parent())?;
            summary.set("attention_of_heads", heads.mean.chunks(heads.slots).collect::<Vec<_>>())?;
            if heads.slots > 1 {
                summary.set("heads_split_parents", heads.split)?;
            }
        }
        self.patterns = patterns;
        Ok(())
    }

    fn draw(&mut self, view: &mut dyn View, folder: &Path) -> Result<()> {
        let probe = self.probe()?;
        let drawn = figures::Drawn {
            config: &self.config,
            task: &self.task,
            layout: view.layout(),
            heads: view.heads(),
            params: view.params(),
            patterns: &self.patterns,
            probe,
            references: &self.references,
        };
        drawn.draw(folder)
    }

    fn sketch(&mut self, results: &Results) -> Result<Sketch> {
        let curves = [
            ("mean", "attention_on_parent_mean"),
            ("minimum", "attention_on_parent_min"),
            ("heads split parents", "heads_split_parents"),
        ];
        let series =
            curves.iter().enumerate().map(|(i, (name, key))| Series::new(*name, results.curve(key), i));
        let unit = Some((0.0, 1.0));
        let on_parent =
            LineChart::over_steps("Attention on the parent", "share", report::kept(series.collect()), unit);
        let charts = vec![report::loss(self.task.vocab(), results), on_parent];
        let sample = report::sample(&self.own_probe()?.sequences).to_vec();
        Ok(report::sketch(&self.config, &self.task, &sample, (charts, results)))
    }

    fn frame(&mut self, trace: &Trace, params: &[f64]) -> Result<Frame> {
        self.own_probe()?;
        report::frame(&self.task, trace, params, &self.probe()?.sequences)
    }
}

/// The parents that the first layer's attention is compared with, and the sequences that it is
/// averaged over if it depends on the tokens.
#[derive(Debug)]
struct Probe {
    /// Sequences of the test set, weighted: a few of its samples, all words of a small population.
    sequences: Batch,
    len: usize,
    /// Parents of the positions 0..T-2.
    parents: Vec<Vec<usize>>,
    /// Parents of a position that the target has as well, where those are several.
    several: Option<usize>,
}

/// Test sequences that attention is averaged over where it depends on them.
const PROBED: usize = 256;
/// Words of a population that it is averaged over whole.
const ALL_PROBED: usize = 1 << 13;

impl Probe {
    /// `words`: of the population, where that is the test set.
    fn new(seed: u64, task: &CausalTask, words: Option<usize>) -> Result<Self> {
        // Of a small population all; of a large one samples too, its first words being all alike.
        let (source, n): (Box<dyn Source>, usize) = match words {
            Some(words) if words <= ALL_PROBED => (Box::new(task.population()?), words),
            Some(_) => (task.sampled(seed, Purpose::Probe), PROBED),
            None => (task.sampled(seed, Purpose::Test), PROBED),
        };
        let mut sequences = source.batch(n)?;
        source.fill(0, n, &mut source.work(), &mut sequences);
        let several = match task {
            CausalTask::Tree(_) => None,
            CausalTask::Dag(task) => Some(task.dag().target().len()).filter(|k| *k > 1),
        };
        Ok(Probe { sequences, len: task.seq_len(), parents: task.parents(), several })
    }

    /// Attention of the first layer's patterns on the parents.
    fn attention(&self, patterns: &[Vec<f64>]) -> Option<ParentAttention> {
        let pairs = self.parents.iter().enumerate().flat_map(|(i, set)| set.iter().map(move |p| (i, *p)));
        pattern_attention(patterns, self.len, pairs)
    }

    /// Which head holds which parent, over the positions with as many parents as the target; none
    /// if that is one.
    fn assignment(&self, patterns: &[Vec<f64>]) -> Option<HeadAssignment> {
        self.assignment_over(self.several?, patterns)
    }

    /// The same with one parent too, where there are several heads.
    fn assignment_of_any(&self, patterns: &[Vec<f64>]) -> Option<HeadAssignment> {
        let one = (patterns.len() > 1).then_some(1);
        self.assignment_over(self.several.or(one)?, patterns)
    }

    /// Over the positions with `count` parents.
    fn assignment_over(&self, count: usize, patterns: &[Vec<f64>]) -> Option<HeadAssignment> {
        let parents = self.parents.iter().enumerate().map(|(i, p)| (i, p.as_slice()));
        let like_target: Vec<_> = parents.filter(|(_, p)| p.len() == count).collect();
        head_assignment(patterns, self.len, &like_target)
    }
}
