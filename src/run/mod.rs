//! One life of a run: folder, lock, resume, fingerprint, logs, timing, summary, figures.
//!
//! An [`Experiment`] supplies what a configuration stands for: task and sources, what is measured,
//! what is drawn. The session owns everything else, and knows no paper.

pub mod folder;
mod session;
mod view;

pub use session::{bytes, check, fits, initial, run, unfreeze};
pub use view::View;

use crate::Result;
use crate::batch::{Batch, Targets};
use crate::config::Config;
use crate::model::Layout;
use crate::report::metrics::{MetricsWriter, Summary};
use crate::source::Source;
use crate::train::{Moment, Objective};
use serde::Serialize;
use std::path::Path;

/// A kind of run. Which one a configuration belongs to, a registry says.
pub trait Experiment: Sync {
    /// A word for it.
    fn name(&self) -> &'static str;
    /// Is a run of this configuration one of its?
    fn takes(&self, config: &Config) -> bool;
    /// What the configuration stands for.
    ///
    /// # Errors
    /// Values out of range; files that cannot be read.
    fn setup(&self, config: &Config) -> Result<Box<dyn Setup>>;
}

/// A run's task, sources, measurements and pictures, whatever the type of its parameters.
pub trait Setup {
    /// Alphabet size S.
    fn vocab(&self) -> usize;
    /// What sequences are scored on.
    fn targets(&self) -> Targets;
    /// Refuses what cannot run, before anything is written.
    ///
    /// # Errors
    /// The first value out of range.
    fn check(&self) -> Result<()> {
        Ok(())
    }
    /// Sequences of the population, where every step takes all of it.
    ///
    /// # Errors
    /// More than a source holds.
    fn population(&self) -> Result<Option<usize>>;
    /// What batches come from.
    ///
    /// # Errors
    /// As [`Setup::population`].
    fn train(&self) -> Result<Box<dyn Source>>;
    /// Test sets; none: the population that is trained on.
    ///
    /// # Errors
    /// As [`Setup::population`].
    fn tests(&self) -> Result<Vec<Box<dyn Source>>>;
    /// An objective of its own instead of batches of [`Setup::train`]; `layout` is the model's.
    ///
    /// # Errors
    /// What cannot be evaluated.
    fn objective(
        &self,
        _layout: &Layout,
        _progress: &mut dyn Progress,
    ) -> Result<Option<Box<dyn Objective<f64>>>> {
        Ok(None)
    }
    /// Does it train on an objective of its own?
    fn has_objective(&self) -> bool {
        false
    }
    /// Does it look at reports of the model on batches?
    fn wants_reports(&self) -> bool {
        false
    }
    /// Further bytes that a run of a model with so many attention maps needs.
    fn more_bytes(&self, _maps: usize) -> usize {
        0
    }
    /// Digest of data that the configuration only names.
    fn digest(&self) -> Option<u64> {
        None
    }
    /// A fact for `run.json`, with its name.
    fn fact(&self) -> (&'static str, serde_json::Value);
    /// Before training: the first test set.
    ///
    /// # Errors
    /// What it needs and does not get.
    fn prepare(&mut self, _test: &[&Batch]) -> Result<()> {
        Ok(())
    }
    /// Measures, logs, and returns the test loss.
    ///
    /// # Errors
    /// What model and objective report; a log that cannot be written.
    fn evaluate(&mut self, at: &Moment, view: &mut dyn View, log: &mut Log<'_>) -> Result<f64>;
    /// After training: what was found, into the summary, and arrays into the folder.
    ///
    /// # Errors
    /// As [`Setup::evaluate`].
    fn finish(&mut self, view: &mut dyn View, folder: &Path, summary: &mut Summary) -> Result<()>;
    /// Draws figures, from what is in the folder and the final parameters.
    ///
    /// # Errors
    /// Files that cannot be read or written.
    fn draw(&mut self, view: &mut dyn View, folder: &Path) -> Result<()>;
}

/// Where an evaluation is written down.
#[derive(Debug)]
pub struct Log<'a> {
    metrics: &'a mut MetricsWriter,
    shown: Option<(&'static str, f64)>,
}

impl Log<'_> {
    /// Appends a record to `metrics.jsonl`, and says which number of it tells most. A loss that is
    /// not finite ends the run: its record is not written.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(
        &mut self,
        loss: f64,
        record: &impl Serialize,
        shown: Option<(&'static str, f64)>,
    ) -> Result<()> {
        if loss.is_finite() {
            self.metrics.metric(record)?;
            self.shown = shown;
        }
        Ok(())
    }
}

/// A finished run: what it found, and whether its figures could be drawn.
#[derive(Debug)]
pub struct Outcome {
    /// Also in the run folder.
    pub summary: Summary,
    /// Training may take hours: a picture that cannot be drawn or written does not take its result
    /// away.
    pub figures: Result<()>,
}

/// What a run tells whoever watches it.
pub trait Progress: Send {
    /// After every update.
    fn stepped(&mut self, step: u64, loss: f64);
    /// After every evaluation: the number that tells most, and its name.
    fn evaluated(&mut self, name: &'static str, value: f64);
    /// Training is over.
    fn finished(&mut self);
    /// Something worth a line.
    fn note(&mut self, text: &str);
    /// Should the run draw its figures? Those of many small runs are seldom looked at.
    fn wants_figures(&self) -> bool {
        true
    }
}
