//! Algorithm 1 of Nichani et al. 2024 on the simplified model: A1 alone, then A2 alone, on the exact population, on its
//! orbits under relabelling, or on samples. The three differ in the objective and in nothing else.
//!
//! Expectation: stage 1 turns the rows of softmax(A1) into the graph; stage 2 sharpens A2 = β I, and the loss falls to near
//! the Bayes loss. The last row, which has no parent, drifts to itself.

use super::causal::{Outcome, tree as task};
use super::folder::{self, TimingRecord};
use super::{Progress, algorithm1_figures as figures, population};
use crate::config::Config;
use crate::model::{self, Layout, Model, ModelSpec};
use crate::optim::{Schedule, Stage, Staged};
use crate::probe::attention::{causal_row, parent_attention};
use crate::report::files::write_bytes_atomic;
use crate::report::metrics::{MetricsWriter, Summary};
use crate::rng::{Key, Purpose};
use crate::source::Sampled;
use crate::task::CausalTree;
use crate::train::{Evaluation, Objective, Observer, Plan, Sharded, State, Trainer};
use crate::{Error, Result};
use popgrad_kernels::Elem;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MetricRecord {
    /// Updates done.
    pub step: u64,
    /// Stage of the next update, 1 or 2.
    pub stage: u64,
    /// Mean training loss since the last record.
    pub train_loss: Option<f64>,
    /// Loss at the parameters: exact, or on the test set.
    pub test_loss: f64,
    /// Norm of the last gradient.
    pub grad_norm: Option<f64>,
    /// Mean of A2's diagonal minus mean of its other entries.
    pub beta: f64,
    /// Attention on the parent, by position; none for a root.
    pub attention_on_parent: Vec<Option<f64>>,
    /// Attention of the query, position T, on every position.
    pub last_row: Vec<f64>,
    /// Is every parent the argmax of its row?
    pub graph_recovered: bool,
}

/// Refuses a configuration that cannot run, before anything is written.
///
/// # Errors
/// The first value out of range.
pub fn check(config: &Config) -> Result<()> {
    let task = task(config)?;
    let model = simplified::<f64>(config)?;
    stages(config, model.layout())?;
    Schedule::parse(&config.schedule)?;
    if config.source == "sampled" { Ok(()) } else { population::check(config, &task) }
}

fn simplified<E: Elem>(config: &Config) -> Result<Box<dyn Model<E>>> {
    model::build(&ModelSpec {
        name: config.model.clone(),
        vocab: config.S,
        seq_len: config.T,
        heads: config.heads.clone(),
        eps: config.eps.unwrap_or_default(),
    })
}

fn stages(config: &Config, layout: &Layout) -> Result<Staged> {
    let range = |name: &str| layout.find(name).map(|b| b.range()).unwrap_or_default();
    Staged::new(vec![
        Stage { until: config.steps1.unwrap_or_default(), range: range("A1"), lr: config.lr },
        Stage { until: config.steps, range: range("A2"), lr: config.lr2.unwrap_or_default() },
    ])
}

/// Runs, or continues, Algorithm 1 in `folder`; draws its figures; returns its summary, which is also written.
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
    pool.install(|| match (config.source.as_str(), config.dtype.as_str()) {
        ("sampled", "f64") => sampled::<f64>(config, folder, resumed, progress),
        ("sampled", _) => sampled::<f32>(config, folder, resumed, progress),
        _ => {
            let task = task(config)?;
            let model = simplified::<f64>(config)?;
            let mut population = population::objective(config, &task, model.layout(), progress)?;
            train(config, &task, model.as_ref(), population.as_mut(), folder, resumed, progress)
        }
    })
}

fn sampled<E: Elem>(
    config: &Config,
    folder: &Path,
    resumed: bool,
    progress: &mut dyn Progress,
) -> Result<Outcome> {
    let task = task(config)?;
    let model = simplified::<E>(config)?;
    let source = Sampled::new(task.clone(), Key::new(config.seed, Purpose::Train));
    let test = Sampled::new(task.clone(), Key::new(config.seed, Purpose::Test));
    let mut batches = Sharded::new(model.as_ref(), &source, &plan(config)?)?;
    batches.set_test(&test, config.test_size)?;
    train(config, &task, model.as_ref(), &mut batches, folder, resumed, progress)
}

fn plan(config: &Config) -> Result<Plan> {
    Ok(Plan {
        steps: config.steps,
        batch: config.batch,
        shards: config.shards,
        // The stages bring their own rates.
        lr: 1.0,
        schedule: Schedule::parse(&config.schedule)?,
        eval_every: config.eval_every,
        checkpoint_every: config.checkpoint_every,
    })
}

fn train<E: Elem>(
    config: &Config,
    task: &CausalTree,
    model: &dyn Model<E>,
    objective: &mut dyn Objective<E>,
    folder: &Path,
    resumed: bool,
    progress: &mut dyn Progress,
) -> Result<Outcome> {
    let layout = model.layout();
    let mut trainer =
        Trainer::of(objective, Box::new(stages(config, layout)?), plan(config)?, initial(config, layout))?;
    let fingerprint = config.to_toml()?;
    if !resumed {
        write_bytes_atomic(&folder.join(folder::CONFIG_FILE), fingerprint.as_bytes())?;
    }
    let _lock = folder::lock(folder)?;
    let logs = match folder::load(folder, resumed, &fingerprint, layout, progress)? {
        Some(state) => {
            let step = state.step;
            trainer.restore(state)?;
            folder::check_logs(folder, (config.steps, config.eval_every), step)?;
            MetricsWriter::resume(folder, step)?
        }
        None => MetricsWriter::open(folder)?,
    };
    let head = (config.preset.as_str(), config.seed, config.dtype.as_str());
    folder::write_run_file(folder, head, "parents", task.forest().parents_i64())?;
    let earlier = folder::last_seconds(folder)?;
    let mut recorder = Recorder {
        config,
        task,
        layout,
        folder,
        fingerprint: &fingerprint,
        logs,
        progress,
        started: Instant::now(),
        earlier,
        first_step: trainer.steps_done(),
    };
    trainer.run(&mut recorder)?;
    recorder.progress.finished();
    let seconds = earlier + recorder.started.elapsed().as_secs_f64();

    let records = figures::read_metrics(folder)?;
    let Some(last) = records.last() else {
        return Err(Error::format(folder, "no metrics were written"));
    };
    // A reference line: what training found does not depend on it.
    let bayes = population::bayes_loss(task).ok().flatten();
    let after1 = records.iter().find(|r| r.step == config.steps1.unwrap_or_default());
    let on_parent: Vec<f64> = last.attention_on_parent.iter().flatten().copied().collect();
    let mean = on_parent.iter().sum::<f64>() / on_parent.len() as f64;
    let mut summary = Summary::new();
    summary.set("loss_start", records.first().map(|r| r.test_loss))?;
    summary.set("loss_stage1", after1.map(|r| r.test_loss))?;
    summary.set("loss", last.test_loss)?;
    summary.set("bayes", bayes)?;
    summary.set("uniform_guess", (config.S as f64).ln())?;
    summary.set("attention_on_parent_mean", (!on_parent.is_empty()).then_some(mean))?;
    summary.set("attention_on_parent_min", on_parent.iter().copied().reduce(f64::min))?;
    summary.set("last_row_on_itself", last.last_row.last())?;
    summary.set("beta", last.beta)?;
    summary.set("graph_recovered", last.graph_recovered)?;
    summary.set("steps", trainer.steps_done())?;
    summary.set("seconds", seconds)?;
    summary.set("run_folder", folder.display().to_string())?;
    summary.write(folder)?;
    let params: Vec<f64> = trainer.params().iter().map(|p| p.to_f64()).collect();
    let figures = match recorder.progress.wants_figures() {
        true => figures::draw(config, task, layout, &params, bayes, &records, folder),
        false => Ok(()),
    };
    Ok(Outcome { summary, figures })
}

/// A1 = 0, A2 = β₀ I.
fn initial<E: Elem>(config: &Config, layout: &Layout) -> Vec<E> {
    let mut params = vec![E::ZERO; layout.len()];
    if let Some(block) = layout.find("A2") {
        let beta0 = E::from_f64(config.beta0.unwrap_or_default());
        params[block.range()].iter_mut().step_by(config.S + 1).for_each(|p| *p = beta0);
    }
    params
}

/// Writes logs and checkpoints as training goes.
struct Recorder<'a> {
    config: &'a Config,
    task: &'a CausalTree,
    layout: &'a Layout,
    folder: &'a Path,
    fingerprint: &'a str,
    logs: MetricsWriter,
    progress: &'a mut dyn Progress,
    started: Instant,
    earlier: f64,
    first_step: u64,
}

impl<E: Elem> Observer<E> for Recorder<'_> {
    fn stepped(&mut self, step: u64, loss: f64) -> Result<()> {
        self.progress.stepped(step, loss);
        Ok(())
    }

    fn evaluated(&mut self, e: &Evaluation, params: &[E]) -> Result<()> {
        let params: Vec<f64> = params.iter().map(|p| p.to_f64()).collect();
        let block = |name: &str| self.layout.find(name).map(|b| &params[b.range()]).unwrap_or_default();
        let (a1, a2, t, s) = (block("A1"), block("A2"), self.config.T, self.config.S);
        let parents = self.task.forest().parents();
        let diagonal: f64 = a2.iter().step_by(s + 1).sum();
        let others = a2.iter().sum::<f64>() - diagonal;
        let on_parent = parents.iter().enumerate().map(|(i, p)| p.map(|p| causal_row(a1, t, i)[p]));
        self.logs.metric(&MetricRecord {
            step: e.step,
            stage: 1 + u64::from(self.config.steps1.is_some_and(|n| e.step >= n)),
            train_loss: e.train_loss,
            test_loss: e.test_loss,
            grad_norm: e.grad_norm,
            beta: diagonal / s as f64 - others / (s * (s - 1)) as f64,
            attention_on_parent: on_parent.collect(),
            last_row: causal_row(a1, t, t - 1),
            graph_recovered: parent_attention(&[a1.to_vec()], t, parents).is_some_and(|a| a.recovered),
        })?;
        let seconds = self.started.elapsed().as_secs_f64();
        let done = (e.step - self.first_step) as f64;
        self.logs.timing(&TimingRecord {
            step: e.step,
            seconds: self.earlier + seconds,
            steps_per_second: if seconds > 0.0 { done / seconds } else { 0.0 },
        })
    }

    fn checkpoint(&mut self, state: &State<E>) -> Result<()> {
        // The logs first: a checkpoint must never be ahead of the records that lead to it.
        self.logs.sync()?;
        folder::save(self.folder, self.layout, self.fingerprint, state)
    }
}
