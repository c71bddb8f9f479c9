//! Running one experiment: folder, lock, resume, fingerprint, logs, timing, summary, figures.
//!
//! An [`Experiment`] turns a configuration into a [`Setup`]: task, sources, measurements, figures.
//! The session does everything else and depends on no paper. A session is one execution of a run;
//! a resumed run has several.

pub mod ablate;
mod cost;
pub mod folder;
pub mod params;
pub mod provenance;
pub mod report;
mod session;
mod sets;
mod trained;
pub mod verdict;
mod view;

pub use cost::{Cost, cost};
pub use session::{MEASURED, Measured, bytes, check, fits, initial, measure, run, unfreeze};
pub use sets::{Sizes, sizes, test_sets};
pub use trained::Trained;
pub use view::View;

use crate::Result;
use crate::batch::{Batch, Targets};
use crate::config::Config;
use crate::model::Layout;
use crate::model::trace::Trace;
use crate::report::arrays::Array;
use crate::report::html::data::{Frame, Sketch};
use crate::report::metrics::{MetricsWriter, Summary};
use crate::source::Source;
use crate::train::{Moment, Objective};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::Path;

/// A kind of run. A registry finds the experiment of a configuration.
pub trait Experiment: Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// True if it runs this configuration.
    fn takes(&self, config: &Config) -> bool;
    /// Builds the task, sources and measurements of the configuration.
    ///
    /// # Errors
    /// Values out of range; files that cannot be read.
    fn setup(&self, config: &Config) -> Result<Box<dyn Setup>>;
}

/// A run's task, sources, measurements and figures, independent of the type of its parameters.
pub trait Setup {
    /// Alphabet size S.
    fn vocab(&self) -> usize;
    /// The kind of targets.
    fn targets(&self) -> Targets;
    /// Checks that the run can start, before anything is written.
    ///
    /// # Errors
    /// The first value out of range.
    fn check(&self) -> Result<()> {
        Ok(())
    }
    /// Number of sequences of the population, if every step takes all of them.
    ///
    /// # Errors
    /// A population larger than a source can hold.
    fn population(&self) -> Result<Option<usize>>;
    /// The source of training batches.
    ///
    /// # Errors
    /// As [`Setup::population`].
    fn train(&self) -> Result<Box<dyn Source>>;
    /// Sources of the test sets. Empty if the run trains on the population, which is then also the
    /// test set.
    ///
    /// # Errors
    /// As [`Setup::population`].
    fn tests(&self) -> Result<Vec<Box<dyn Source>>>;
    /// The source of the first test set, or the population where that is the test set.
    ///
    /// # Errors
    /// As [`Setup::population`].
    fn test(&self) -> Result<Box<dyn Source>> {
        match self.tests()?.into_iter().next() {
            Some(test) => Ok(test),
            None => self.train(),
        }
    }
    /// A special objective that replaces batches of [`Setup::train`]; `layout` is the model's.
    ///
    /// # Errors
    /// An objective that cannot be evaluated.
    fn objective(
        &self,
        _layout: &Layout,
        _progress: &mut dyn Progress,
    ) -> Result<Option<Box<dyn Objective<f64>>>> {
        Ok(None)
    }
    /// True if [`Setup::objective`] returns one.
    fn has_objective(&self) -> bool {
        false
    }
    /// True if measurements use reports of the model on batches.
    fn wants_reports(&self) -> bool {
        false
    }
    /// Further bytes that a run needs, for a model with so many attention maps.
    fn more_bytes(&self, _maps: usize) -> usize {
        0
    }
    /// Digest of data outside the configuration, such as a corpus file.
    fn digest(&self) -> Option<u64> {
        None
    }
    /// One more entry of `run.json`: its key and value.
    fn fact(&self) -> (&'static str, serde_json::Value);
    /// Called before training with the batches of the first test set.
    ///
    /// # Errors
    /// A test set that the measurements cannot use.
    fn prepare(&mut self, _test: &[&Batch]) -> Result<()> {
        Ok(())
    }
    /// The loss of the Bayes predictor on the test set, after [`Setup::prepare`]; `None` if the
    /// task has no such predictor.
    fn bayes(&self) -> Option<f64> {
        None
    }
    /// Measures, logs, and returns the test loss.
    ///
    /// # Errors
    /// Errors of the model and the objective; a log that cannot be written.
    fn evaluate(&mut self, at: &Moment, view: &mut dyn View, log: &mut Log<'_>) -> Result<f64>;
    /// Called after training: adds results to the summary and writes arrays into the folder.
    ///
    /// # Errors
    /// As [`Setup::evaluate`].
    fn finish(&mut self, view: &mut dyn View, folder: &Path, summary: &mut Summary) -> Result<()>;
    /// Draws figures from the logs in the folder and the final parameters.
    ///
    /// # Errors
    /// Files that cannot be read or written.
    fn draw(&mut self, view: &mut dyn View, folder: &Path) -> Result<()>;
    /// What a report shows of the run, weights aside.
    ///
    /// # Errors
    /// A task whose sequences cannot be drawn.
    fn sketch(&mut self, results: &Results) -> Result<Sketch>;
    /// What a report shows of weights `params`, in the layout of the model of `trace`.
    ///
    /// # Errors
    /// As [`Trace::forward`].
    fn frame(&mut self, trace: &Trace, params: &[f64]) -> Result<Frame>;
}

/// The results of a run, as its folder holds them.
#[derive(Debug, Clone, Default)]
pub struct Results {
    /// Every evaluation, in order.
    pub records: Vec<Map<String, Value>>,
    /// The summary; empty if the run is not over.
    pub summary: Vec<(String, Value)>,
}

impl Results {
    /// The points (updates, value) of a number that the records have under `key`.
    pub fn curve(&self, key: &str) -> Vec<(f64, f64)> {
        self.curve_of(|r| r.get(key)?.as_f64())
    }

    /// The same of a number that is made of a record.
    pub fn curve_of(&self, value: impl Fn(&Map<String, Value>) -> Option<f64>) -> Vec<(f64, f64)> {
        let of = |r: &Map<String, Value>| Some((r.get("step")?.as_f64()?, value(r)?));
        self.records.iter().filter_map(of).collect()
    }

    /// The entries of the summary under `keys`, or of the last evaluation, with what they are
    /// called.
    pub fn headline(&self, keys: &[(&str, &str)]) -> Vec<(String, Value)> {
        let found = |key: &str| match self.summary.is_empty() {
            false => Some(&self.summary.iter().find(|(k, _)| k == key)?.1),
            true => self.records.last()?.get(key),
        };
        keys.iter().filter_map(|(key, name)| Some((name.to_string(), found(key)?.clone()))).collect()
    }

    /// A number of the summary.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.summary.iter().find(|(k, _)| k == key)?.1.as_f64()
    }
}

/// The log of evaluations.
#[derive(Debug)]
pub struct Log<'a> {
    metrics: Sink<'a>,
    shown: Option<(&'static str, f64)>,
}

/// Where records go.
#[derive(Debug)]
enum Sink<'a> {
    Folder(&'a mut MetricsWriter),
    /// The last record is kept.
    Kept(Option<serde_json::Value>),
}

impl Log<'_> {
    /// Appends a record to `metrics.jsonl`, and passes its most informative number to the progress
    /// display. A loss that is not finite ends the run, and its record is not written.
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
            match &mut self.metrics {
                Sink::Folder(metrics) => metrics.metric(record)?,
                Sink::Kept(kept) => *kept = serde_json::to_value(record).ok(),
            }
            self.shown = shown;
        }
        Ok(())
    }
}

/// The result of a finished run.
#[derive(Debug)]
pub struct Outcome {
    /// The summary, also written to the run folder.
    pub summary: Summary,
    /// Whether the figures were drawn; [`crate::Error::Figures`] if not all were. A failure here
    /// does not fail the run, whose training may have taken hours.
    pub figures: Result<()>,
}

/// Receives the progress of a run, for display.
pub trait Progress: Send {
    /// Called after every update with the batch loss, NaN if no output of the batch counts.
    fn stepped(&mut self, step: u64, loss: f64);
    /// Called with the number of updates done before the first update of a new run, and after every
    /// update, after [`Progress::stepped`]. `weights` copies the parameters: an array for each
    /// block, by its name.
    fn moved(&mut self, _step: u64, _weights: &dyn Fn() -> Result<Vec<(String, Array)>>) {}
    /// Called after every evaluation with its most informative number and the name of that.
    fn evaluated(&mut self, name: &'static str, value: f64);
    /// Called when training is over, or stopped.
    fn finished(&mut self);
    /// Asked before every update. If it is true, the run saves what it has and ends with
    /// [`crate::Error::Stopped`].
    fn wants_to_stop(&self) -> bool {
        false
    }
    /// A note of one line for the user.
    fn note(&mut self, text: &str);
    /// A warning of one line: the run goes on, maybe not as the user thinks.
    fn warn(&mut self, text: &str) {
        self.note(text);
    }
    /// A warning about what the finished run means. Studies of many runs leave it to their tables.
    fn verdict(&mut self, text: &str) {
        self.warn(text);
    }
    /// True if the run should draw its figures. Studies of many small runs skip them.
    fn wants_figures(&self) -> bool {
        true
    }
}
