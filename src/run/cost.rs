//! What a run will take, before it is started: updates, memory, files, and time by steps that are
//! measured. Nothing is written.

use super::params;
use super::session::{batches, bytes, initial, of_type, optimizer, plan, unfreeze};
use super::view::At;
use super::{Experiment, Log, Progress, Setup, Sink, Sizes};
use crate::Result;
use crate::config::{Config, Dtype};
use crate::optim::UnfreezeAt;
use crate::train::{Moment, Objective, Observer, State, Trainer};
use popgrad_kernels::Elem;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a run will take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Updates.
    pub steps: u64,
    /// Evaluations, the one before the first update included.
    pub evaluations: u64,
    /// Snapshots of the weights.
    pub snapshots: u64,
    /// Bytes of memory while it trains.
    pub memory: usize,
    /// Parameters of the model.
    pub parameters: usize,
    /// Bytes of a checkpoint, of a snapshot, of the records of an evaluation, and of the attention
    /// at the end.
    pub file_bytes: [u64; 4],
    /// Median seconds of an update.
    pub step_seconds: f64,
    /// Seconds of an evaluation.
    pub evaluation_seconds: f64,
}

impl Cost {
    /// Bytes of its files, without figures.
    pub fn disk(&self) -> u64 {
        let [checkpoint, snapshot, record, attention] = self.file_bytes;
        checkpoint + attention + self.snapshots * snapshot + self.evaluations * record
    }

    /// The same for a model of other sizes.
    pub fn with_sizes(self, Sizes { parameters, attention }: Sizes) -> Cost {
        let of = |bytes: u64| {
            HEADER + ((bytes - HEADER) as f64 * parameters as f64 / self.parameters as f64) as u64
        };
        let [checkpoint, snapshot, record, _] = self.file_bytes;
        let attention = attention as u64 + HEADER;
        Cost { parameters, file_bytes: [of(checkpoint), of(snapshot), record, attention], ..self }
    }

    /// Seconds of the whole run, without figures.
    pub fn seconds(&self) -> f64 {
        self.steps as f64 * self.step_seconds + self.evaluations as f64 * self.evaluation_seconds
    }
}

/// Bytes of a line of `timing.jsonl`, and of the names and shapes in a file of weights: about.
const LINE: u64 = 130;
const HEADER: u64 = 400;

/// The [`Cost`] of `config`: evaluates once and makes updates for `budget`, at least one, on the
/// threads of the current pool.
///
/// # Errors
/// A configuration that cannot run; a loss that is not finite before the first update.
pub fn cost(experiment: &dyn Experiment, config: &Config, budget: Duration) -> Result<Cost> {
    match config.plan.dtype {
        Dtype::F32 => typed::<f32>(experiment, config, budget),
        Dtype::F64 => typed::<f64>(experiment, config, budget),
    }
}

fn typed<E: Elem>(experiment: &dyn Experiment, config: &Config, budget: Duration) -> Result<Cost> {
    let memory = bytes(experiment, config)?;
    let mut setup = experiment.setup(config)?;
    let model = config.model.build::<E>(setup.vocab(), config.task.seq_len())?;
    let (model, layout) = (model.as_ref(), model.layout());
    let unfreeze = unfreeze(config, model)?;
    let optimizer = optimizer::<E>(config, layout, unfreeze.clone())?;
    let plan = plan(config, setup.population()?);
    let source;
    let mut objective: Box<dyn Objective<E> + '_> = match setup.objective(layout, &mut Silent)? {
        Some(own) => of_type(own)?,
        None => {
            source = setup.train()?;
            Box::new(batches(setup.as_mut(), model, source.as_ref(), (&plan, config), &unfreeze)?)
        }
    };
    let params = match &config.plan.params {
        Some(file) => params::read(Path::new(file), layout)?,
        None => initial(model, config.plan.seed),
    };
    let kept: usize = optimizer.state().iter().map(|(_, values)| values.len()).sum();
    let mut trainer = Trainer::new(objective.as_mut(), optimizer, plan, params)?;
    let mut clock = Clock {
        setup: setup.as_mut(),
        model,
        unfreeze: &unfreeze,
        budget,
        began: None,
        last: None,
        steps: Vec::new(),
        evaluation: 0.0,
        record: 0,
    };
    match trainer.run(&mut clock) {
        // The steps until then took as long as any.
        Err(e) if e.is_divergence() && !clock.steps.is_empty() => {}
        other => drop(other?),
    }
    let p = &config.plan;
    let evaluations = 1 + p.steps.div_ceil(p.eval_every);
    let snapshots = p.snapshots.as_ref().map_or(0, |s| s.up_to(p.steps).len() as u64);
    let array = |entries: usize| (entries * size_of::<E>()) as u64 + HEADER;
    let attention = Sizes::of(model).attention as u64 + HEADER;
    let file_bytes = [array(layout.len() + kept), array(layout.len()), clock.record as u64 + LINE, attention];
    // The first one allocates: it counts where there is no other.
    if clock.steps.len() > 1 {
        clock.steps.remove(0);
    }
    clock.steps.sort_by(f64::total_cmp);
    let step_seconds = clock.steps.get(clock.steps.len() / 2).copied().unwrap_or(0.0);
    let (parameters, evaluation_seconds) = (layout.len(), clock.evaluation);
    Ok(Cost {
        steps: p.steps,
        evaluations,
        snapshots,
        memory,
        parameters,
        file_bytes,
        step_seconds,
        evaluation_seconds,
    })
}

/// Times updates and the first evaluation, and keeps nothing.
struct Clock<'a, E: Elem> {
    setup: &'a mut dyn Setup,
    model: &'a dyn crate::model::Model<E>,
    unfreeze: &'a [UnfreezeAt],
    budget: Duration,
    /// Of the first update.
    began: Option<Instant>,
    last: Option<Instant>,
    /// Seconds.
    steps: Vec<f64>,
    evaluation: f64,
    /// Bytes of a record.
    record: usize,
}

impl<E: Elem> Observer<E> for Clock<'_, E> {
    fn stepped(&mut self, _step: u64, _loss: Option<f64>) -> Result<()> {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.steps.push(now.duration_since(last).as_secs_f64());
        }
        Ok(())
    }

    fn wants_to_stop(&mut self) -> bool {
        let began = *self.began.get_or_insert_with(Instant::now);
        self.last.get_or_insert(began);
        !self.steps.is_empty() && began.elapsed() >= self.budget
    }

    fn evaluate(
        &mut self,
        at: &Moment,
        objective: &mut dyn Objective<E>,
        params: &[E],
    ) -> Result<Option<f64>> {
        let began = Instant::now();
        let mut view = At::new(self.model, objective, self.unfreeze, params);
        let mut log = Log { metrics: Sink::Kept(None), shown: None };
        let loss = self.setup.evaluate(at, &mut view, &mut log)?;
        self.evaluation = began.elapsed().as_secs_f64();
        if let Sink::Kept(Some(record)) = log.metrics {
            self.record = record.to_string().len() + 1;
        }
        // The time of an evaluation is in no step.
        self.last = self.last.map(|_| Instant::now());
        Ok(Some(loss))
    }

    fn checkpoint(&mut self, _state: &State<E>) -> Result<()> {
        Ok(())
    }
}

/// Says nothing.
struct Silent;

impl Progress for Silent {
    fn stepped(&mut self, _step: u64, _loss: f64) {}
    fn evaluated(&mut self, _name: &'static str, _value: f64) {}
    fn finished(&mut self) {}
    fn note(&mut self, _text: &str) {}
}
