//! The weights of a run, at its end or at an update that it kept, in f64 whatever its type.

use super::folder::{self, CHECKPOINT_FILE, CONFIG_FILE, SNAPSHOTS_FOLDER, snapshot_name};
use super::{Experiment, params};
use crate::config::Config;
use crate::model::Spec;
use crate::model::trace::Trace;
use crate::report::checkpoint::Checkpoint;
use crate::report::files::expect;
use crate::{Error, Result};
use std::path::Path;

/// A run's configuration and weights.
#[derive(Debug)]
pub struct Trained {
    /// Its configuration.
    pub config: Config,
    /// Updates done.
    pub step: u64,
    /// Its model, to be looked into.
    pub trace: Trace,
    /// Its parameters, in the model's layout.
    pub params: Vec<f64>,
}

impl Trained {
    /// From `folder`: the weights after `step` updates, those of the checkpoint if `None`.
    ///
    /// # Errors
    /// A folder without configuration or checkpoint; an update whose weights were not kept; files
    /// that are damaged or of another model.
    pub fn load(
        folder: &Path,
        step: Option<u64>,
        find: impl FnOnce(&Config) -> Result<&'static dyn Experiment>,
    ) -> Result<Self> {
        for name in [CONFIG_FILE, CHECKPOINT_FILE] {
            expect("run", folder, name, "the folder of a run with a checkpoint")?;
        }
        let config = folder::read_config(folder)?;
        let setup = find(&config)?.setup(&config)?;
        let trace = Trace::new(&config.model, setup.vocab(), config.task.seq_len())?;
        let last = folder.join(CHECKPOINT_FILE);
        let (path, step) = match step {
            None => {
                let step = Checkpoint::load(&last)?.step;
                (last, step)
            }
            Some(step) => {
                let kept = folder.join(SNAPSHOTS_FOLDER).join(snapshot_name(step));
                if kept.is_file() {
                    (kept, step)
                } else {
                    let done = Checkpoint::load(&last)?.step;
                    if done != step {
                        return Err(Error::invalid("step", step.to_string(), choices(folder, done)));
                    }
                    (last, step)
                }
            }
        };
        // The digest of the whole file first.
        let held = Checkpoint::load(&path)?;
        if held.step != step {
            let problem = format!("weights of update {}; expected those of {step}", held.step);
            return Err(Error::format(&path, problem));
        }
        folder::check_own(&path, &held.config_fingerprint, &config, setup.digest())?;
        let params = params::read(&path, trace.model().layout())?;
        Ok(Trained { config, step, trace, params })
    }
}

impl Trained {
    /// Checks that `other` has the same model: the same function of its parameters and a sequence.
    ///
    /// # Errors
    /// Another model, other sizes, other options than those of the start.
    pub fn check_same_model(&self, other: &Trained) -> Result<()> {
        let sizes = |t: &Trained| (t.trace.model().vocab(), t.trace.model().seq_len());
        if sizes(self) != sizes(other) {
            let in_words = |(s, t)| format!("S = {s}, T = {t}");
            return Err(Error::invalid("with", in_words(sizes(other)), in_words(sizes(self))));
        }
        let (own, theirs) = (of_function(&self.config.model), of_function(&other.config.model));
        if own != theirs {
            let allowed = format!("the model of this run: {own:?}");
            return Err(Error::invalid("with", format!("{theirs:?}"), allowed));
        }
        Ok(())
    }
}

/// The options without those that say how parameters start or what the loss adds.
fn of_function(spec: &Spec) -> Spec {
    let mut spec = spec.clone();
    match &mut spec {
        Spec::Disentangled(s) => s.init = 0.0,
        Spec::MlpTransformer(s) => s.init = 0.0,
        Spec::Simplified(s) => (s.eps, s.beta0) = (0.0, 0.0),
        Spec::Memory(s) => s.scale_embeddings = false,
        Spec::Transformer(_) => {}
    }
    spec
}

/// The updates after which the run in `folder` kept its weights in [`SNAPSHOTS_FOLDER`], ascending.
pub(super) fn kept(folder: &Path) -> Vec<u64> {
    let mut kept: Vec<u64> = std::fs::read_dir(folder.join(SNAPSHOTS_FOLDER))
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let digits = name.to_str()?.strip_prefix("step-")?.strip_suffix(".safetensors")?.to_string();
            digits.parse().ok()
        })
        .collect();
    kept.sort_unstable();
    kept
}

/// The updates whose weights are there: snapshots and the checkpoint at `done`.
fn choices(folder: &Path, done: u64) -> String {
    let mut kept = kept(folder);
    kept.push(done);
    kept.sort_unstable();
    kept.dedup();
    let all: Vec<String> = kept.iter().map(u64::to_string).collect();
    match all.len() {
        1 => format!("{done}, the checkpoint: this run kept no snapshots (key `snapshots`)"),
        n if n > SHOWN => format!("{}, .. {} (of {n})", all[..SHOWN - 1].join(", "), all[n - 1]),
        _ => all.join(", "),
    }
}

/// Most updates that a message lists.
const SHOWN: usize = 60;
