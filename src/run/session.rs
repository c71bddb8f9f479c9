//! The session of a run: from the configuration to the summary.

use super::folder::{self, TimingRecord};
use super::params;
use super::provenance;
use super::verdict::{self, WARNINGS_KEY};
use super::view::At;
use super::{Experiment, Log, Outcome, Progress, Setup, Sink, View};
use crate::batch::{Batch, Targets};
use crate::config::{Config, Dtype};
use crate::input::in_words;
use crate::model::{Draw, Layout, Model, named_blocks};
use crate::optim::{Optimizer, PerBlock, Rule, Stage, Staged, UnfreezeAt};
use crate::report::files::{claim_folder, lock_folder};
use crate::report::metrics::{MetricsWriter, Summary};
use crate::rng::{Key, Purpose};
use crate::source::Source;
use crate::train::{self, Ended, Moment, Objective, Observer, Plan, Sharded, State, Trainer};
use crate::{Error, Result};
use popgrad_kernels::Elem;
use std::any::Any;
use std::path::Path;
use std::time::Instant;

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

/// The initial parameters of `model` under this seed, in its layout.
pub fn initial<E: Elem>(model: &dyn Model<E>, seed: u64) -> Vec<E> {
    model.initial(&Draws(Key::new(seed, Purpose::Init)))
}

/// For each block of `model`, the first update that trains it, from the keys `frozen` and
/// `freeze_until`.
///
/// # Errors
/// Names of blocks that the model lacks; schedules that train no block or name a block twice.
pub fn unfreeze<E: Elem>(config: &Config, model: &dyn Model<E>) -> Result<Vec<UnfreezeAt>> {
    let blocks = model.layout().blocks();
    let mut from: Vec<Option<u64>> = model.trainable().iter().map(|can| can.then_some(0)).collect();
    for name in config.frozen_names() {
        named_blocks("frozen", name, model.layout())?.into_iter().for_each(|b| from[b] = None);
    }
    let mut named: Vec<usize> = Vec::new();
    for (update, name) in config.unfreeze_steps()? {
        for block in named_blocks("freeze_until", name, model.layout())? {
            let known = blocks[block].name();
            let Some(own) = &mut from[block] else {
                return Err(Error::invalid("freeze_until", known, "blocks that train at all"));
            };
            *own = update;
            if named.contains(&block) {
                return Err(Error::invalid("freeze_until", format!("{known} twice"), "every block once"));
            }
            named.push(block);
        }
    }
    match from.iter().flatten().min() {
        None => return Err(Error::invalid("frozen", "every block", "at least one block to train")),
        Some(first) if *first >= config.plan.steps => {
            let found = format!("every block until update {first} or later");
            let allowed = format!("at least one block to train within steps = {}", config.plan.steps);
            return Err(Error::invalid("freeze_until", found, allowed));
        }
        _ => {}
    }
    let each = blocks.iter().zip(from);
    Ok(each.map(|(b, from)| UnfreezeAt { name: b.name().into(), range: b.range(), from }).collect())
}

pub(super) fn plan(config: &Config, population: Option<usize>) -> Plan {
    let p = &config.plan;
    Plan {
        steps: p.steps,
        batch: population.unwrap_or(p.batch),
        shards: p.shards,
        // The stages have their own rates.
        lr: if matches!(config.optimizer, Rule::Staged { .. }) { 1.0 } else { p.lr },
        schedule: p.schedule,
        eval_every: p.eval_every,
        checkpoint_every: p.checkpoint_every,
    }
}

pub(super) fn optimizer<E: Elem>(
    config: &Config,
    layout: &Layout,
    unfreeze: Vec<UnfreezeAt>,
) -> Result<Box<dyn Optimizer<E>>> {
    let Rule::Staged { steps1, lr2 } = config.optimizer else {
        return Ok(Box::new(PerBlock::new(&config.optimizer, config.plan.weight_decay, unfreeze)?));
    };
    let range = |name: &str| layout.find(name).map(|b| b.range()).unwrap_or_default();
    Ok(Box::new(Staged::new(vec![
        Stage { until: steps1, range: range("A1"), lr: config.plan.lr },
        Stage { until: config.plan.steps, range: range("A2"), lr: lr2 },
    ])?))
}

/// Checks that a configuration can run, before anything is written.
///
/// # Errors
/// The first value out of range; more memory than is free.
pub fn check(experiment: &dyn Experiment, config: &Config) -> Result<()> {
    let needed = bytes(experiment, config)?;
    folder::check_memory("memory (S, T, heads, dim, batch, shards, test_size)", Some(needed))
}

/// Bytes that a run holds while it trains.
///
/// # Errors
/// A configuration that cannot run.
pub fn bytes(experiment: &dyn Experiment, config: &Config) -> Result<usize> {
    fn typed<E: Elem>(config: &Config, setup: &dyn Setup) -> Result<usize> {
        let model = config.model.build::<E>(setup.vocab(), config.task.seq_len())?;
        model.accepts(setup.targets())?;
        let unfreeze = unfreeze(config, model.as_ref())?;
        optimizer::<E>(config, model.layout(), unfreeze)?;
        if let Some(file) = &config.plan.params {
            params::read::<E>(Path::new(file), model.layout())?;
        }
        setup.check()?;
        if setup.has_objective() {
            return Ok(0);
        }
        Ok(needed(config, setup, model.as_ref())?.unwrap_or(usize::MAX))
    }
    let setup = experiment.setup(config)?;
    match config.plan.dtype {
        Dtype::F32 => typed::<f32>(config, setup.as_ref()),
        Dtype::F64 => typed::<f64>(config, setup.as_ref()),
    }
}

/// Bytes of training, test sets and reports; `None` on overflow.
fn needed<E: Elem>(config: &Config, setup: &dyn Setup, model: &dyn Model<E>) -> Result<Option<usize>> {
    let population = setup.population()?;
    let (plan, targets) = (plan(config, population), setup.targets());
    let (t, s, maps) = (model.seq_len(), model.vocab(), model.heads().iter().sum::<usize>());
    let tests = population.unwrap_or(config.plan.test_size);
    let sets = if population.is_some() { 1 } else { setup.tests()?.len() };
    let outputs = targets.outputs(t);
    let all = || {
        let training = train::bytes(model, targets, &plan)?;
        let mut row = train::batch_bytes(targets, 1, t, s)?;
        let mut looked = 0;
        if setup.wants_reports() {
            // Loss and prediction of each output; of the batch, too, where each map looks.
            row = row.checked_add(12 * outputs)?;
            looked = plan.batch.checked_mul(12 * outputs + 4 * maps * t)?;
        }
        let tests = tests.checked_mul(row)?.checked_mul(sets)?;
        training.checked_add(tests)?.checked_add(looked)?.checked_add(setup.more_bytes(maps))
    };
    Ok(all())
}

/// True if `bytes` of memory are free now, or the system does not report free memory.
pub fn fits(bytes: usize) -> bool {
    crate::ram::free().is_none_or(|free| bytes <= free)
}

/// Trains in `folder`, or resumes training there, draws figures, and returns the summary, which is
/// also written to the folder.
///
/// # Errors
/// Values out of range, a folder that cannot be written, a checkpoint of another run.
pub fn run(
    experiment: &dyn Experiment,
    config: &Config,
    folder: &Path,
    resumed: bool,
    pool: &rayon::ThreadPool,
    progress: &mut dyn Progress,
) -> Result<Outcome> {
    // Probes and progress run on the training thread, which enters the pool once.
    let mut session = Session { experiment, config, folder, resumed, progress };
    pool.install(|| match config.plan.dtype {
        Dtype::F32 => session.typed::<f32>(),
        Dtype::F64 => session.typed::<f64>(),
    })
}

/// What [`measure`] finds.
#[derive(Debug)]
pub struct Measured {
    /// The record that a run would log.
    pub record: serde_json::Value,
    /// By layer and head: attention (T, T), rows queries, NaN where there is no key; the mean over
    /// at most [`MEASURED`] test sequences, or of layer 1 the pattern by position alone where the
    /// model has one.
    pub patterns: Vec<Vec<Vec<f64>>>,
    /// The entry of `run.json` about the task.
    pub fact: (&'static str, serde_json::Value),
}

/// Test sequences that attention is averaged over.
pub const MEASURED: usize = 256;

/// Evaluates the model of `config` at `params`, in its layout, as a run does before its first
/// update. In f64, on samples.
///
/// # Errors
/// A configuration that cannot run or has another alphabet than `symbols`; parameters at which the
/// loss is not finite.
pub fn measure(
    experiment: &dyn Experiment,
    config: &Config,
    symbols: usize,
    params: &[f64],
) -> Result<Measured> {
    let mut setup = experiment.setup(config)?;
    if setup.vocab() != symbols {
        let allowed = format!("{}, the task's alphabet", setup.vocab());
        return Err(Error::invalid("S", format!("{symbols} in the parameters"), allowed));
    }
    let model = config.model.build::<f64>(setup.vocab(), config.task.seq_len())?;
    let model = model.as_ref();
    if params.len() != model.layout().len() {
        let allowed = format!("{} for this model", model.layout().len());
        return Err(Error::invalid("params length", params.len().to_string(), allowed));
    }
    let unfreeze = unfreeze(config, model)?;
    let plan = plan(config, setup.population()?);
    let source = setup.train()?;
    let mut objective = batches(setup.as_mut(), model, source.as_ref(), (&plan, config), &unfreeze)?;
    let tests = setup.tests()?;
    let of = tests.first().map_or(source.as_ref(), |t| t.as_ref());
    let n = MEASURED.min(of.population().unwrap_or(config.plan.test_size));
    let mut sequences = of.batch(n)?;
    of.fill(0, n, &mut of.work(), &mut sequences);
    if of.population().is_none() {
        // Attention does not depend on which positions count.
        sequences.parts_mut().weights.fill(1.0);
    }
    let at = Moment { step: 0, lr: plan.lr, train_loss: None, grad_norm: None, last: false };
    let mut view = At::new(model, &mut objective, &unfreeze, params);
    let mut log = Log { metrics: Sink::Kept(None), shown: None };
    let loss = setup.evaluate(&at, &mut view, &mut log)?;
    let Sink::Kept(Some(record)) = log.metrics else {
        let allowed = "parameters at which it is finite";
        return Err(Error::invalid("params", format!("the test loss is {loss}"), allowed));
    };
    let patterns = (0..model.heads().len()).map(|l| view.patterns(l, &sequences)).collect::<Result<_>>()?;
    Ok(Measured { record, patterns, fact: setup.fact() })
}

struct Session<'a> {
    experiment: &'a dyn Experiment,
    config: &'a Config,
    folder: &'a Path,
    resumed: bool,
    progress: &'a mut dyn Progress,
}

impl Session<'_> {
    fn typed<E: Elem>(&mut self) -> Result<Outcome> {
        let (config, folder) = (self.config, self.folder);
        let mut setup = self.experiment.setup(config)?;
        let model = config.model.build::<E>(setup.vocab(), config.task.seq_len())?;
        let (model, layout) = (model.as_ref(), model.layout());
        let unfreeze = unfreeze(config, model)?;
        let optimizer = optimizer::<E>(config, layout, unfreeze.clone())?;
        let plan = plan(config, setup.population()?);
        let source;
        let mut objective: Box<dyn Objective<E> + '_> = match setup.objective(layout, self.progress)? {
            Some(own) => of_type(own)?,
            None => {
                source = setup.train()?;
                Box::new(batches(setup.as_mut(), model, source.as_ref(), (&plan, config), &unfreeze)?)
            }
        };
        let params = match &config.plan.params {
            // A checkpoint will replace them, and the file may be gone.
            Some(file) if !(self.resumed && folder.join(folder::CHECKPOINT_FILE).exists()) => {
                params::read(Path::new(file), layout)?
            }
            _ => initial(model, config.plan.seed),
        };
        let mut trainer = Trainer::new(objective.as_mut(), optimizer, plan, params)?;

        // The lock before the first file: of two processes, one changes nothing.
        let _lock = if self.resumed { lock_folder(folder)? } else { claim_folder(folder)? };
        if self.resumed {
            folder::check_config(folder, config)?;
        } else {
            folder::write_config(folder, config)?;
        }
        // The configuration may name data whose files change between sessions.
        let fingerprint = folder::with_data(&config.to_toml(), setup.digest());
        let logs = match folder::load(folder, self.resumed, &fingerprint, layout, self.progress)? {
            Some((state, mark)) => {
                let step = state.step;
                trainer.restore(state)?;
                folder::resume_logs(folder, mark, step)?
            }
            None => MetricsWriter::open(folder)?,
        };
        folder::forget_summary(folder)?;
        self.note_what_never_moves(&unfreeze);
        folder::write_run_file(folder, config, setup.fact())?;
        provenance::record(folder, trainer.steps_done(), rayon::current_num_threads())?;

        let snapshots = self.snapshots(layout.len() * size_of::<E>());
        let earlier = folder::last_seconds(folder)?;
        let mut recorder = Recorder {
            setup: setup.as_mut(),
            model,
            unfreeze: &unfreeze,
            folder,
            fingerprint: &fingerprint,
            logs,
            progress: self.progress,
            started: Instant::now(),
            earlier,
            first_step: trainer.steps_done(),
            snapshots,
        };
        if trainer.run(&mut recorder)? == Ended::Stopped {
            recorder.progress.finished();
            let done = format!("update {} of {}", trainer.steps_done(), config.plan.steps);
            return Err(Error::Stopped { done, folder: folder.to_path_buf() });
        }
        // A session without updates reports the time of the earlier ones.
        let (seconds, rate) = match recorder.rate(trainer.steps_done()) {
            Some(rate) => (earlier + recorder.started.elapsed().as_secs_f64(), Some(rate)),
            None => (earlier, folder::last_timing(folder)?.map(|t| t.steps_per_second)),
        };
        recorder.progress.finished();
        let wants_figures = recorder.progress.wants_figures();

        let (params, steps) = (trainer.params().to_vec(), trainer.steps_done());
        let mut view = At::new(model, trainer.objective(), &unfreeze, &params);
        let mut summary = Summary::new();
        setup.finish(&mut view, folder, &mut summary)?;
        let warnings = verdict::warnings(&verdict::curve(folder)?, setup.vocab());
        summary.set(WARNINGS_KEY, warnings.iter().map(|w| w.name()).collect::<Vec<_>>())?;
        summary.set("steps", steps)?;
        summary.set("seconds", seconds)?;
        summary.set("steps_per_second", rate)?;
        summary.set("run_folder", folder.display().to_string())?;
        folder::write_summary(folder, &summary)?;
        warnings.iter().for_each(|w| self.progress.verdict(&w.to_string()));
        let figures = if wants_figures { setup.draw(&mut view, folder) } else { Ok(()) };
        let figures = figures.map_err(|e| e.of_figures(folder));
        Ok(Outcome { summary, figures })
    }

    /// After how many updates weights are kept, ascending; says what that costs.
    fn snapshots(&mut self, bytes: usize) -> Vec<u64> {
        let steps = self.config.plan.steps;
        let all = self.config.plan.snapshots.as_ref().map_or(Vec::new(), |s| s.up_to(steps));
        if !all.is_empty() {
            let size = in_words((all.len() * bytes) as u64);
            self.progress.note(&format!("snapshots: {} files, {size} in all", all.len()));
        }
        all
    }

    fn note_what_never_moves(&mut self, unfreeze: &[UnfreezeAt]) {
        use crate::model::Spec;
        let steps = self.config.plan.steps;
        for block in unfreeze {
            if let Some(from) = block.from.filter(|from| *from >= steps) {
                self.progress.warn(&format!(
                    "block `{}` starts to train at update {from}, after the last of {steps} steps",
                    block.name
                ));
            }
        }
        if let Spec::Disentangled(d) = &self.config.model
            && d.init == 0.0
            && d.heads.iter().any(|h| *h > 1)
        {
            self.progress.warn("with init=0 the heads of a layer stay equal; init=1e-4 makes them differ");
        }
    }
}

/// An objective in f64 as one in `E`, which is f64.
pub(super) fn of_type<'a, E: Elem>(objective: Box<dyn Objective<f64>>) -> Result<Box<dyn Objective<E> + 'a>> {
    let any: Box<dyn Any> = Box::new(objective);
    match any.downcast::<Box<dyn Objective<E>>>() {
        Ok(own) => Ok(*own),
        Err(_) => Err(Error::invalid("dtype", E::NAME, "f64 for this source")),
    }
}

/// Batches of the setup's sources, with its test sets.
pub(super) fn batches<'a, E: Elem>(
    setup: &mut dyn Setup,
    model: &'a dyn Model<E>,
    source: &'a dyn Source,
    (plan, config): (&Plan, &Config),
    unfreeze: &[UnfreezeAt],
) -> Result<Sharded<'a, E>> {
    let mut batches = Sharded::new(model, source, plan, unfreeze.to_vec())?;
    let tests = setup.tests()?;
    match source.population() {
        Some(words) => batches.set_tests(&[source], words)?,
        None => {
            let tests: Vec<&dyn Source> = tests.iter().map(|t| t.as_ref()).collect();
            batches.set_tests(&tests, config.plan.test_size)?;
        }
    }
    setup.prepare(&batches.test_batches(0).collect::<Vec<&Batch>>())?;
    debug_assert!(matches!(source.targets(), Targets::Law | Targets::Labels));
    Ok(batches)
}

/// Writes logs and checkpoints during training.
struct Recorder<'a, E: Elem> {
    setup: &'a mut dyn Setup,
    model: &'a dyn Model<E>,
    unfreeze: &'a [UnfreezeAt],
    folder: &'a Path,
    fingerprint: &'a str,
    logs: MetricsWriter,
    progress: &'a mut dyn Progress,
    started: Instant,
    /// Seconds of earlier sessions.
    earlier: f64,
    /// First step of this session.
    first_step: u64,
    /// Updates after which weights are kept, ascending.
    snapshots: Vec<u64>,
}

impl<E: Elem> Recorder<'_, E> {
    /// Updates per second of this session.
    fn rate(&self, step: u64) -> Option<f64> {
        let seconds = self.started.elapsed().as_secs_f64();
        let done = step - self.first_step;
        (done > 0 && seconds > 0.0).then(|| done as f64 / seconds)
    }
}

impl<E: Elem> Observer<E> for Recorder<'_, E> {
    fn stepped(&mut self, step: u64, loss: Option<f64>) -> Result<()> {
        self.progress.stepped(step, loss.unwrap_or(f64::NAN));
        Ok(())
    }

    fn moved(&mut self, step: u64, params: &[E]) -> Result<()> {
        let layout = self.model.layout();
        let named = |(name, array): (&str, _)| (name.to_string(), array);
        let weights = || Ok(params::arrays(layout, params)?.into_iter().map(named).collect());
        self.progress.moved(step, &weights);
        match self.snapshots.binary_search(&step) {
            Ok(_) => folder::keep(self.folder, self.fingerprint, self.model.layout(), step, params),
            Err(_) => Ok(()),
        }
    }

    fn wants_to_stop(&mut self) -> bool {
        self.progress.wants_to_stop()
    }

    fn evaluate(
        &mut self,
        at: &Moment,
        objective: &mut dyn Objective<E>,
        params: &[E],
    ) -> Result<Option<f64>> {
        let mut view = At::new(self.model, objective, self.unfreeze, params);
        let mut log = Log { metrics: Sink::Folder(&mut self.logs), shown: None };
        let loss = self.setup.evaluate(at, &mut view, &mut log)?;
        let shown = log.shown;
        if loss.is_finite() {
            let seconds = self.earlier + self.started.elapsed().as_secs_f64();
            let steps_per_second = self.rate(at.step).unwrap_or(0.0);
            self.logs.timing(&TimingRecord::new(at.step, seconds, steps_per_second))?;
        }
        if let Some((name, value)) = shown {
            self.progress.evaluated(name, value);
        }
        Ok(Some(loss))
    }

    fn checkpoint(&mut self, state: &State<E>) -> Result<()> {
        // The logs first: a checkpoint must never be ahead of the records that lead to it.
        self.logs.sync()?;
        folder::save(self.folder, self.model.layout(), self.fingerprint, state, self.logs.mark())
    }
}
