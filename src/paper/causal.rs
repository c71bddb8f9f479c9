//! Learning a latent causal graph from in-context Markov chains: Nichani, Damian, Lee 2024, Figure 2 and its kin.
//!
//! Expectation: the loss stays on a plateau (the predictor that ignores the graph), then falls to near the Bayes loss while
//! the first layer's position block turns into the graph's parent matrix.

pub use super::causal_task::{CausalTask, Reference, References, task, tree};
use super::folder::{self, TimingRecord};
use super::{Progress, figures, one_hot, optimizer, population};
use crate::batch::Batch;
use crate::config::Config;
use crate::model::{self, Layout, ModelSpec};
use crate::optim::Schedule;
use crate::probe::attention::{
    HeadAssignment, ParentAttention, average_pattern, causal_pattern, head_assignment, pattern_attention,
    position_block,
};
use crate::report::files::write_bytes_atomic;
use crate::report::metrics::{MetricsWriter, Summary};
use crate::rng::{Key, Purpose};
use crate::source::Source;
use crate::train::{self, Evaluation, Observer, Plan, State, Trainer};
use crate::{Error, Result};
use popgrad_kernels::Elem;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;

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
    /// Test loss minus that of the counts predictor.
    pub gap: f64,
    /// Norm of the last gradient.
    pub grad_norm: Option<f64>,
    /// Mean attention on the parents.
    pub attention_on_parent_mean: Option<f64>,
    /// Minimum attention on the parents.
    pub attention_on_parent_min: Option<f64>,
    /// Is every parent the argmax of its row?
    pub graph_recovered: bool,
    /// With several parents: share of positions at which each head's argmax is the parent that the head is assigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads_split_parents: Option<f64>,
}

/// A finished run: what it found, and whether its figures could be drawn.
#[derive(Debug)]
pub struct Outcome {
    /// Also in the run folder.
    pub summary: Summary,
    /// Training may take hours: a picture that cannot be drawn or written does not take its result away.
    pub figures: Result<()>,
}

fn plan(config: &Config) -> Result<Plan> {
    Ok(Plan {
        steps: config.steps,
        batch: population::words(config)?.unwrap_or(config.batch),
        shards: config.shards,
        lr: config.lr,
        schedule: Schedule::parse(&config.schedule)?,
        eval_every: config.eval_every,
        checkpoint_every: config.checkpoint_every,
    })
}

/// Sequences of the test set: with source=exact the population, like every batch.
fn test_size(config: &Config) -> Result<usize> {
    Ok(population::words(config)?.unwrap_or(config.test_size))
}

pub(super) fn spec(config: &Config) -> ModelSpec {
    ModelSpec {
        name: config.model.clone(),
        vocab: config.S,
        seq_len: config.T,
        heads: config.heads.clone(),
        eps: 0.0,
    }
}

/// Refuses a configuration that cannot run, before anything is written.
///
/// # Errors
/// The first value out of range.
pub fn check(config: &Config) -> Result<()> {
    match config.dtype.as_str() {
        "f64" => check_typed::<f64>(config),
        _ => check_typed::<f32>(config),
    }
}

fn check_typed<E: Elem>(config: &Config) -> Result<()> {
    let task = task(config)?;
    let model = model::build::<E>(&spec(config))?;
    if model.layout().find("A.0").is_none() {
        // Figures and metrics of this experiment are about its blocks.
        return Err(Error::invalid("model", model.name(), "disentangled or mlp_transformer"));
    }
    let len = model.layout().len();
    optimizer::build::<E>(config, len)?;
    let plan = plan(config)?;
    if !(config.lr.is_finite() && config.lr >= 0.0) {
        return Err(Error::invalid("lr", config.lr.to_string(), "finite, >= 0"));
    }
    if config.source == "exact" {
        task.check_prior()?;
    }
    let test = test_size(config)?.checked_mul(4 * config.T + 8 * config.S + 8);
    let needed = train::memory(model.as_ref(), &plan).and_then(|b| b.checked_add(test?));
    folder::check_memory("memory (S, T, heads, batch, shards, test_size)", needed)
}

/// Trains, or continues, the experiment in `folder`; draws its figures; returns its summary, which is also written.
///
/// # Errors
/// Values out of range, a folder that cannot be written, a checkpoint of another run.
pub fn run(
    config: &Config,
    folder: &Path,
    resumed: bool,
    pool: &rayon::ThreadPool,
    progress: &mut dyn Progress,
) -> Result<Outcome> {
    pool.install(|| match config.dtype.as_str() {
        "f64" => run_typed::<f64>(config, folder, resumed, progress),
        _ => run_typed::<f32>(config, folder, resumed, progress),
    })
}

fn run_typed<E: Elem>(
    config: &Config,
    folder: &Path,
    resumed: bool,
    progress: &mut dyn Progress,
) -> Result<Outcome> {
    let task = task(config)?;
    let model = model::build::<E>(&spec(config))?;
    let sampled = |purpose| task.sampled(config.seed, purpose);
    let (source, test): (Box<dyn Source>, Option<Box<dyn Source>>) = match config.source.as_str() {
        "exact" => (Box::new(task.population()?), None),
        _ => (sampled(Purpose::Train), Some(sampled(Purpose::Test))),
    };
    let key = Key::new(config.seed, Purpose::Init);
    let params = model.initial(config.init, &|i| key.normal(i));
    let optimizer = optimizer::build(config, params.len())?;
    let mut trainer = Trainer::new(model.as_ref(), source.as_ref(), optimizer, plan(config)?, params)?;

    let fingerprint = config.to_toml()?;
    if !resumed {
        write_bytes_atomic(&folder.join(folder::CONFIG_FILE), fingerprint.as_bytes())?;
    }
    let _lock = folder::lock(folder)?;
    let logs = match folder::load(folder, resumed, &fingerprint, model.layout(), progress)? {
        Some(state) => {
            let step = state.step;
            trainer.restore(state)?;
            folder::check_logs(folder, (config.steps, config.eval_every), step)?;
            MetricsWriter::resume(folder, step)?
        }
        None => MetricsWriter::open(folder)?,
    };
    if config.init == 0.0 && config.model == "disentangled" && config.heads.iter().any(|h| *h > 1) {
        progress.note("init=0 leaves the heads of a layer equal for ever; init=1e-4 tells them apart");
    }
    let head = (config.preset.as_str(), config.seed, config.dtype.as_str());
    folder::write_run_file(folder, head, "parents", task.graph_json())?;
    let test = test.as_deref().unwrap_or(source.as_ref());
    trainer.set_test(test, test_size(config)?)?;
    let references = task.references(&trainer.test_batches().collect::<Vec<_>>());
    let probe = Probe::new(config, &task, test)?;

    let earlier = folder::last_seconds(folder)?;
    let first_step = trainer.steps_done();
    let mut recorder = Recorder {
        config,
        probe: &probe,
        layout: model.layout(),
        folder,
        fingerprint: &fingerprint,
        gap_from: references.counts,
        logs,
        progress,
        started: Instant::now(),
        earlier,
        first_step,
        last: None,
    };
    trainer.run(&mut recorder)?;
    // Where nothing was left to do, what earlier sittings took stands.
    let (seconds, rate) = match recorder.rate(trainer.steps_done()) {
        Some(rate) => (earlier + recorder.started.elapsed().as_secs_f64(), Some(rate)),
        None => (earlier, folder::last_timing(folder)?.map(|t| t.steps_per_second)),
    };
    recorder.progress.finished();

    let test_loss = match &recorder.last {
        Some(e) => e.test_loss,
        // Resumed after the last update: nothing was left to do but this.
        None => trainer.test_loss()?,
    };
    let params: Vec<f64> = trainer.params().iter().map(|p| p.to_f64()).collect();
    let patterns = first_layer_patterns(config, model.layout(), &params, &probe);
    let attention = probe.attention(&patterns);
    folder::write_attention(folder, &patterns, config.T)?;
    let mut summary = Summary::new();
    summary.set("test_loss", test_loss)?;
    for reference in &references.all {
        summary.set(reference.key, reference.loss)?;
    }
    summary.set("gap", test_loss - references.counts)?;
    summary.set("attention_on_parent_mean", attention.as_ref().map(|a| a.mean))?;
    summary.set("attention_on_parent_min", attention.as_ref().map(|a| a.min))?;
    summary.set("graph_recovered", attention.as_ref().is_some_and(|a| a.recovered))?;
    if let Some(heads) = probe.assignment(&patterns) {
        // Heads from 1, as figures name them.
        summary.set("head_of_parent", heads.head_of.iter().map(|h| h.map(|h| h + 1)).collect::<Vec<_>>())?;
        summary.set("attention_of_heads", heads.mean.chunks(heads.slots).collect::<Vec<_>>())?;
        summary.set("heads_split_parents", heads.split)?;
    }
    summary.set("steps", trainer.steps_done())?;
    summary.set("seconds", seconds)?;
    summary.set("steps_per_second", rate)?;
    summary.set("run_folder", folder.display().to_string())?;
    summary.write(folder)?;
    let figures = match recorder.progress.wants_figures() {
        true => figures::draw(config, &task, model.layout(), &params, &patterns, &probe, &references, folder),
        false => Ok(()),
    };
    Ok(Outcome { summary, figures })
}

/// What the first layer's attention is held against, and the sequences that it is read from where it depends on them.
#[derive(Debug)]
pub struct Probe {
    /// Sequences of the test set, weighted: a few of its samples, all words of a small population.
    pub sequences: Batch,
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
    fn new(config: &Config, task: &CausalTask, test: &dyn Source) -> Result<Self> {
        // Of a small population all; of a large one samples too, its first words being all alike.
        let sampled;
        let (source, n) = match test.population() {
            Some(words) if words <= ALL_PROBED => (test, words),
            Some(_) => {
                sampled = task.sampled(config.seed, Purpose::Probe);
                (sampled.as_ref(), PROBED)
            }
            None => (test, PROBED),
        };
        let mut sequences = Batch::with_capacity(n, config.T, config.S)?;
        source.fill(0, n, n, &mut source.work(), &mut sequences);
        let several = match task {
            CausalTask::Tree(_) => None,
            CausalTask::Dag(task) => Some(task.dag().target().len()).filter(|k| *k > 1),
        };
        Ok(Probe { sequences, len: config.T, parents: task.parents(), several })
    }

    /// Attention of the first layer's patterns on the parents.
    pub fn attention(&self, patterns: &[Vec<f64>]) -> Option<ParentAttention> {
        let pairs = self.parents.iter().enumerate().flat_map(|(i, set)| set.iter().map(move |p| (i, *p)));
        pattern_attention(patterns, self.len, pairs)
    }

    /// Which head holds which parent, over the positions with as many parents as the target; none if that is one.
    pub fn assignment(&self, patterns: &[Vec<f64>]) -> Option<HeadAssignment> {
        let parents = self.parents.iter().enumerate().map(|(i, p)| (i, p.as_slice()));
        let like_target: Vec<_> = parents.filter(|(_, p)| Some(p.len()) == self.several).collect();
        head_assignment(patterns, self.len, &like_target)
    }
}

/// Attention pattern (T, T) of every head of the first layer, from the flat parameters; NaN above the diagonal. Every number and
/// picture of this experiment about the first layer's attention comes from here.
pub fn first_layer_patterns(
    config: &Config,
    layout: &Layout,
    params: &[f64],
    probe: &Probe,
) -> Vec<Vec<f64>> {
    if let Ok(Some((layout, params))) = one_hot::coordinates(layout, params) {
        // Tokens and positions share their dimensions: nothing is by position alone.
        let (d, scores) = (config.S + config.T, layout.find("A.0").map(|b| &params[b.range()]));
        let heads = scores.unwrap_or_default().chunks(d * d);
        return heads.map(|scores| average_pattern(scores, &probe.sequences)).collect();
    }
    // By position alone: exact where the other blocks are equal along a row, and what the paper shows.
    position_blocks(config, layout, params).iter().map(|block| causal_pattern(block, config.T)).collect()
}

/// Position-position block of every head of the first layer, (T, T) each.
pub fn position_blocks(config: &Config, layout: &Layout, params: &[f64]) -> Vec<Vec<f64>> {
    let d = config.S + config.T;
    let heads = layout.find("A.0").map(|b| &params[b.range()]).unwrap_or_default();
    heads.chunks(d * d).map(|a| position_block(a, config.S, config.T)).collect()
}

/// −Σ y log f over y > 0.
pub(super) fn cross_entropy(target: &[f64], f: &[f64]) -> f64 {
    target.iter().zip(f).filter(|(y, _)| **y > 0.0).map(|(y, f)| -y * f.ln()).sum()
}

/// Writes logs and checkpoints as training goes.
struct Recorder<'a> {
    config: &'a Config,
    probe: &'a Probe,
    layout: &'a Layout,
    folder: &'a Path,
    fingerprint: &'a str,
    /// Loss of the counts predictor.
    gap_from: f64,
    logs: MetricsWriter,
    progress: &'a mut dyn Progress,
    started: Instant,
    /// Seconds of earlier sittings.
    earlier: f64,
    /// First step of this sitting.
    first_step: u64,
    last: Option<Evaluation>,
}

impl Recorder<'_> {
    /// Updates per second of this sitting.
    fn rate(&self, step: u64) -> Option<f64> {
        let seconds = self.started.elapsed().as_secs_f64();
        let done = step - self.first_step;
        (done > 0 && seconds > 0.0).then(|| done as f64 / seconds)
    }
}

impl<E: Elem> Observer<E> for Recorder<'_> {
    fn stepped(&mut self, step: u64, loss: f64) -> Result<()> {
        self.progress.stepped(step, loss);
        Ok(())
    }

    fn evaluated(&mut self, e: &Evaluation, params: &[E]) -> Result<()> {
        let params: Vec<f64> = params.iter().map(|p| p.to_f64()).collect();
        let patterns = first_layer_patterns(self.config, self.layout, &params, self.probe);
        let attention = self.probe.attention(&patterns);
        let gap = e.test_loss - self.gap_from;
        self.logs.metric(&MetricRecord {
            step: e.step,
            lr: e.lr,
            train_loss: e.train_loss,
            test_loss: e.test_loss,
            gap,
            grad_norm: e.grad_norm,
            attention_on_parent_mean: attention.as_ref().map(|a| a.mean),
            attention_on_parent_min: attention.as_ref().map(|a| a.min),
            graph_recovered: attention.as_ref().is_some_and(|a| a.recovered),
            heads_split_parents: self.probe.assignment(&patterns).map(|a| a.split),
        })?;
        let seconds = self.earlier + self.started.elapsed().as_secs_f64();
        let steps_per_second = self.rate(e.step).unwrap_or(0.0);
        self.logs.timing(&TimingRecord { step: e.step, seconds, steps_per_second })?;
        self.last = Some(*e);
        self.progress.evaluated("gap", gap);
        Ok(())
    }

    fn checkpoint(&mut self, state: &State<E>) -> Result<()> {
        // The logs first: a checkpoint must never be ahead of the records that lead to it.
        self.logs.sync()?;
        folder::save(self.folder, self.layout, self.fingerprint, state)
    }
}
