//! A run: training, its logs, its checkpoints, its summary.

use super::evaluate::{Evaluator, Found, Watched, norm};
use super::recall::{self, Recall};
use super::{figures, setup};
use crate::batch::LabelledBatch;
use crate::config::birth::BirthConfig;
use crate::model::{Draw, Layout, SequenceModel};
use crate::optim::PerBlock;
use crate::paper::Progress;
use crate::paper::causal::Outcome;
use crate::paper::folder::{self, TimingRecord};
use crate::probe::birth::Metrics;
use crate::report::arrays::{Array, write_arrays};
use crate::report::files::write_bytes_atomic;
use crate::report::metrics::{MetricsWriter, Summary};
use crate::rng::{Key, Purpose};
use crate::source::LabelledSource;
use crate::train::{Evaluation, Labelled, Observer, State, Trainer};
use crate::{Error, Result};
use popgrad_kernels::Elem;
use serde::{Deserialize, Serialize};
use setup::{SAMPLES, Setup};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

/// One line of `metrics.jsonl`, under the names of the public code: everything that a rerun reproduces bit for bit. Metrics are those of
/// the batch of update `iter`, which is yet to be made; what is not defined is null, a memory that the model has not -1.
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
    /// Of the batch.
    #[serde(flatten)]
    pub batch: Metrics,
    /// `acc_end` on held-out sequences, outputs by the first test law.
    pub acc_end_test: Option<f64>,
    /// Mean loss there where outs = 0.
    pub loss_bigram_test: Option<f64>,
    /// Mean loss there where outs >= 2.
    pub loss_head_test: Option<f64>,
    /// `acc_end` with uniform outputs, if both laws are tested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acc_end_test_uniform: Option<f64>,
    /// `acc_end` with outputs by the bigrams, if both laws are tested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acc_end_test_bigram: Option<f64>,
    /// Recall of the memories.
    #[serde(flatten)]
    pub recall: Recall,
    /// norm_NAME and gradnorm_NAME of every block that trains; the latter null before it does, where the batch counts nothing, and at the end.
    #[serde(flatten)]
    pub norms: BTreeMap<String, Option<f64>>,
}

/// Addressed draws of initial parameters.
struct Draws(Key);

impl Draw for Draws {
    fn normal(&self, i: u64) -> f64 {
        self.0.normal(i)
    }

    fn uniform(&self, i: u64) -> f64 {
        // Variates below belong to `normal`.
        2.0 * self.0.uniforms(i, 1, 0)[0] - 1.0
    }
}

/// Refuses a configuration that cannot run, before anything is written.
///
/// # Errors
/// The first value out of range.
pub fn check(config: &BirthConfig) -> Result<()> {
    fn typed<E: Elem>(config: &BirthConfig, vocab: usize) -> Result<()> {
        let (_, thaws) = setup::model::<E>(config, vocab)?;
        PerBlock::<E>::new(&config.optimizer, thaws, &setup::hyper(config)).map(drop)
    }
    setup::plan(config)?;
    let setup = Setup::of(config)?;
    match config.dtype.as_str() {
        "f64" => typed::<f64>(config, setup.vocab())?,
        _ => typed::<f32>(config, setup.vocab())?,
    }
    folder::check_memory("memory (T, dim, batch, shards, test_size)", Some(setup::memory(config)?))
}

/// Trains, or continues, the experiment in `folder`; draws its figures; returns its summary, which is also written.
///
/// # Errors
/// Values out of range, a folder that cannot be written, a checkpoint of another run.
pub fn run(
    config: &BirthConfig,
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
    config: &BirthConfig,
    folder: &Path,
    resumed: bool,
    progress: &mut dyn Progress,
) -> Result<Outcome> {
    let setup = Setup::of(config)?;
    let (model, thaws) = setup::model::<E>(config, setup.vocab())?;
    let (model, plan) = (model.as_ref(), setup::plan(config)?);
    let (train, tests) = (setup.train(), setup.held_out());
    let params = model.initial(&Draws(Key::new(config.seed, Purpose::Init)));
    let optimizer = PerBlock::new(&config.optimizer, thaws.clone(), &setup::hyper(config))?;
    let blocks = thaws.iter().map(|t| (t.range.clone(), t.from)).collect();
    let late: Vec<(String, u64)> = thaws
        .iter()
        .filter_map(|t| Some((t.name.clone(), t.from.filter(|from| *from >= config.steps)?)))
        .collect();
    let found = Rc::new(RefCell::new(Found::default()));
    let inner = Labelled::new(model, &train, &plan, thaws)?;
    let evaluator = Evaluator::new(model, &train, (config.batch, config.shards), &tests, config.test_size)?;
    let watched = Watched::new(inner, evaluator, plan.steps, blocks, found.clone());
    let mut trainer = Trainer::of(watched, Box::new(optimizer), plan, params)?;

    let written = config.to_toml()?;
    if !resumed {
        write_bytes_atomic(&folder.join(folder::CONFIG_FILE), written.as_bytes())?;
    }
    // The configuration names a corpus; its files may change between sittings.
    let fingerprint = folder::with_data(&written, setup.digest);
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
    for (block, from) in late {
        progress.note(&format!(
            "`{block}` waits for update {from}: it does not train within {} steps",
            config.steps
        ));
    }
    folder::write_run_file(folder, (&config.preset, config.seed, &config.dtype), "symbols", &setup.symbols)?;

    let earlier = folder::last_seconds(folder)?;
    let first_step = trainer.steps_done();
    let mut recorder = Recorder {
        config,
        setup: &setup,
        model,
        folder,
        fingerprint: &fingerprint,
        found,
        logs,
        progress,
        started: Instant::now(),
        earlier,
        first_step,
    };
    trainer.run(&mut recorder)?;
    // Where nothing was left to do, what earlier sittings took stands.
    let (seconds, rate) = match recorder.rate(trainer.steps_done()) {
        Some(rate) => (earlier + recorder.started.elapsed().as_secs_f64(), Some(rate)),
        None => (earlier, folder::last_timing(folder)?.map(|t| t.steps_per_second)),
    };
    recorder.progress.finished();
    let wants_figures = recorder.progress.wants_figures();

    write_attention(folder, config, &setup, model, trainer.params())?;
    let mut summary = Summary::new();
    let last = figures::records(folder)?.pop().ok_or_else(|| {
        Error::format(folder.join(crate::report::metrics::METRICS_FILE), "no record; expected one at the end")
    })?;
    for key in figures::KEYS.iter().filter(|k| last.contains_key(**k)) {
        summary.set(key, &last[*key])?;
    }
    summary.set("steps", trainer.steps_done())?;
    summary.set("seconds", seconds)?;
    summary.set("steps_per_second", rate)?;
    summary.set("run_folder", folder.display().to_string())?;
    summary.write(folder)?;
    let figures = if wants_figures { figures::draw(config, &setup.symbols, folder) } else { Ok(()) };
    Ok(Outcome { summary, figures })
}

/// Writes attention on a sample sequence: arrays `tokens` (T), `seen` (T), and `layer1`, `layer2`, .. (heads, T, T); where these would be
/// large, on its first positions only. It is the first of those in which most triggers occur a second time where pictures show it, and none
/// is its own output.
fn write_attention<E: Elem>(
    folder: &Path,
    config: &BirthConfig,
    setup: &Setup,
    model: &dyn SequenceModel<E>,
    params: &[E],
) -> Result<()> {
    let (t, n) = (model.seq_len(), model.vocab());
    let source = setup.samples();
    let mut batch = LabelledBatch::with_capacity(SAMPLES, t, n)?;
    source.fill(0, SAMPLES, &mut source.work(), &mut batch);
    let shown = t.min(figures::SHOWN);
    let returns = |s: &usize| {
        let row = s * t..s * t + shown;
        let (seen, tokens) = (&batch.seen()[row.clone()], &batch.tokens()[row.clone()]);
        let own_output =
            seen.iter().zip(tokens).zip(&batch.labels()[row]).any(|((c, z), y)| *c > 0 && z == y);
        if own_output { 0 } else { 1 + seen.iter().filter(|c| **c == 2).count() }
    };
    // The first of the best.
    let best = (0..SAMPLES).rev().max_by_key(returns).unwrap_or(0);
    let [layers, heads] = model.attention_shape();
    let kept = setup::kept([layers, heads], t);
    let row = best * t..best * t + kept;
    // No position sees a later one: a model of the first ones attends as this one does.
    let of_kept;
    let (model, params) = if kept == t {
        (model, Cow::Borrowed(params))
    } else {
        of_kept = setup::build::<E>(&BirthConfig { T: kept, ..config.clone() }, n, Vec::new())?;
        (of_kept.as_ref(), Cow::Owned(first_rows(model.layout(), params, of_kept.layout())?))
    };
    let t = kept;
    let mut attention = vec![0.0; layers * heads * t * t];
    model.attention(&params, &batch.tokens()[row.clone()], &mut model.workspace(1)?, &mut attention)?;
    let integers = |values: &[u32]| Array::vector(values.iter().map(|v| i64::from(*v)).collect::<Vec<_>>());
    let mut arrays = vec![
        ("tokens".to_string(), integers(&batch.tokens()[row.clone()])),
        ("seen".into(), integers(&batch.seen()[row])),
    ];
    for (l, of_layer) in attention.chunks(heads * t * t).enumerate() {
        arrays.push((format!("layer{}", l + 1), Array::new(&[heads, t, t], of_layer.to_vec())?));
    }
    let arrays: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (n.as_str(), a)).collect();
    write_arrays(&folder.join(folder::ATTENTION_FILE), &arrays, None)
}

/// `params` in a layout of the same blocks, of which some have fewer rows.
fn first_rows<E: Elem>(layout: &Layout, params: &[E], to: &Layout) -> Result<Vec<E>> {
    let mut out = vec![E::ZERO; to.len()];
    for block in to.blocks() {
        let own = layout.find(block.name()).filter(|own| own.len() >= block.len());
        let own = own.ok_or_else(|| Error::invalid("layout", block.name(), "blocks of the run's model"))?;
        out[block.range()].copy_from_slice(&params[own.range()][..block.len()]);
    }
    Ok(out)
}

/// Writes logs and checkpoints as training goes.
struct Recorder<'a, E: Elem> {
    config: &'a BirthConfig,
    setup: &'a Setup,
    model: &'a dyn SequenceModel<E>,
    folder: &'a Path,
    fingerprint: &'a str,
    found: Rc<RefCell<Found>>,
    logs: MetricsWriter,
    progress: &'a mut dyn Progress,
    started: Instant,
    /// Seconds of earlier sittings.
    earlier: f64,
    /// First step of this sitting.
    first_step: u64,
}

impl<E: Elem> Recorder<'_, E> {
    /// Updates per second of this sitting.
    fn rate(&self, step: u64) -> Option<f64> {
        let seconds = self.started.elapsed().as_secs_f64();
        let done = step - self.first_step;
        (done > 0 && seconds > 0.0).then(|| done as f64 / seconds)
    }

    fn layout(&self) -> &Layout {
        self.model.layout()
    }

    fn record(&self, e: &Evaluation, params: &[E]) -> Result<MetricRecord> {
        let found = self.found.borrow();
        let mut norms = BTreeMap::new();
        let blocks = self.layout().blocks().iter().zip(&found.gradients).zip(self.model.trainable());
        for ((block, gradient), _) in blocks.filter(|(_, trains)| **trains) {
            norms.insert(format!("norm_{}", block.name()), Some(norm(&params[block.range()])));
            norms.insert(format!("gradnorm_{}", block.name()), *gradient);
        }
        let own = found.tests.first().copied().unwrap_or_default();
        let of = |law: &str| {
            let at = self.setup.tests.iter().position(|(l, _)| *l == law);
            let several = self.setup.tests.len() > 1;
            at.filter(|_| several).and_then(|i| found.tests.get(i)?.acc_end)
        };
        let reals: Vec<f64> = params.iter().map(|p| p.to_f64()).collect();
        Ok(MetricRecord {
            step: e.step,
            iter: e.step,
            lr: e.lr,
            train_loss: e.train_loss,
            test_loss: e.test_loss,
            grad_norm: e.grad_norm,
            batch: found.batch,
            acc_end_test: own.acc_end,
            loss_bigram_test: own.loss_bigram,
            loss_head_test: own.loss_head,
            acc_end_test_uniform: of("uniform"),
            acc_end_test_bigram: of("bigram"),
            recall: recall::of(self.config, self.layout(), &reals, &self.setup.task)?,
            norms,
        })
    }
}

impl<E: Elem> Observer<E> for Recorder<'_, E> {
    fn stepped(&mut self, step: u64, loss: f64) -> Result<()> {
        self.progress.stepped(step, loss);
        Ok(())
    }

    fn evaluated(&mut self, e: &Evaluation, params: &[E]) -> Result<()> {
        let record = self.record(e, params)?;
        self.logs.metric(&record)?;
        let seconds = self.earlier + self.started.elapsed().as_secs_f64();
        let steps_per_second = self.rate(e.step).unwrap_or(0.0);
        self.logs.timing(&TimingRecord { step: e.step, seconds, steps_per_second })?;
        self.progress.evaluated("acc_end", record.batch.acc_end.unwrap_or(f64::NAN));
        Ok(())
    }

    fn checkpoint(&mut self, state: &State<E>) -> Result<()> {
        // The logs first: a checkpoint must never be ahead of the records that lead to it.
        self.logs.sync()?;
        folder::save(self.folder, self.layout(), self.fingerprint, state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paper::preset;

    /// What is kept of a long sample is what the whole would show there.
    #[test]
    fn the_first_rows_of_a_model_attend_as_the_model_does() {
        for base in ["birth", "birth-full"] {
            let mut config = crate::config::birth::resolve(&[preset(base, true).unwrap()]).unwrap();
            (config.T, config.dim, config.dtype) = (24, 8, "f64".into());
            let (n, t, k) = (9, 24, 7);
            let model = setup::build::<f64>(&config, n, Vec::new()).unwrap();
            let of_first = BirthConfig { T: k, ..config };
            let first = setup::build::<f64>(&of_first, n, Vec::new()).unwrap();
            let params = model.initial(&Draws(Key::new(3, Purpose::Init)));
            let cut = first_rows(model.layout(), &params, first.layout()).unwrap();
            let tokens: Vec<u32> = (0..t as u32).map(|i| i * i % n as u32).collect();
            let [layers, heads] = model.attention_shape();
            let (mut whole, mut part) =
                (vec![0.0; layers * heads * t * t], vec![0.0; layers * heads * k * k]);
            model.attention(&params, &tokens, &mut model.workspace(1).unwrap(), &mut whole).unwrap();
            first.attention(&cut, &tokens[..k], &mut first.workspace(1).unwrap(), &mut part).unwrap();
            for (all, some) in whole.chunks(t * t).zip(part.chunks(k * k)) {
                for (i, row) in some.chunks(k).enumerate() {
                    for (a, b) in all[i * t..][..k].iter().zip(row) {
                        // Entries of a row are at most 1, sums of d or fewer products: rounding alone.
                        assert!((a - b).abs() <= 64.0 * f64::EPSILON, "{base}, row {i}: {a} against {b}");
                    }
                }
            }
            assert!(first_rows(first.layout(), &cut, model.layout()).is_err(), "no rows out of nothing");
        }
    }
}
