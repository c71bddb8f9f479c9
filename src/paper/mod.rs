//! The papers' experiments. A paper is a folder here, its preset files in `presets/`, and one line
//! of [`PAPERS`].

pub mod birth;
pub mod causal;
mod formulas;
mod presets;
pub mod sample;
pub mod studies;

pub use presets::{Preset, preset, presets};

use crate::config::Config;
use crate::model::{Block, Layout};
use crate::report::plot::{Colormap, HeatMap, Ticks};
use crate::run::Experiment;
use crate::study::{Drawing, Registry};
use crate::{Error, Result};
use studies::Named;

/// A paper: its experiments, its presets, its studies, and how these are drawn.
pub struct Paper {
    /// Its experiments; the first that takes a configuration runs it.
    pub experiments: &'static [&'static dyn Experiment],
    /// Drawings of several runs.
    pub drawings: &'static [&'static dyn Drawing],
    /// How repetitions of one of its presets over seeds are drawn.
    pub seeds: &'static dyn Drawing,
    /// How a grid of its runs is drawn, if it can be.
    pub grid: Option<&'static dyn Drawing>,
    /// Names of its presets, each with the text of its file.
    pub presets: &'static [(&'static str, &'static str)],
    /// Studies with a name.
    pub studies: &'static [Named],
    /// Its citation on pages.
    pub citation: &'static str,
}

/// The papers.
pub const PAPERS: [&Paper; 2] = [&causal::PAPER, &birth::PAPER];

impl Paper {
    /// The paper whose experiment runs `config`.
    ///
    /// # Errors
    /// When none does.
    pub fn of(config: &Config) -> Result<&'static Paper> {
        let takes = |p: &&Paper| p.experiments.iter().any(|e| e.takes(config));
        PAPERS.into_iter().find(takes).ok_or_else(|| no_experiment(config))
    }
}

fn no_experiment(config: &Config) -> Error {
    let found = format!("{} with model={}", config.task.name(), config.model.name());
    Error::invalid("task, model", found, "a pair that an experiment runs")
}

/// The registry of all papers.
#[derive(Debug)]
pub struct Papers;

impl Registry for Papers {
    fn experiment(&self, config: &Config) -> Result<&'static dyn Experiment> {
        let all = PAPERS.into_iter().flat_map(|p| p.experiments).copied();
        all.into_iter().find(|e| e.takes(config)).ok_or_else(|| no_experiment(config))
    }

    fn drawing(&self, name: &str) -> Result<&'static dyn Drawing> {
        let all = || PAPERS.into_iter().flat_map(|p| p.drawings).copied();
        all()
            .find(|d| d.name() == name)
            .ok_or_else(|| Error::unknown("drawing", name, all().map(|d| d.name())))
    }
}

/// The experiment that runs `config`.
///
/// # Errors
/// When none does.
pub fn experiment(config: &Config) -> Result<&'static dyn Experiment> {
    Papers.experiment(config)
}

/// Every matrix among the blocks of `params`, as they are: for models whose weights say nothing in
/// coordinates of the task.
fn blocks(layout: &Layout, params: &[f64]) -> Vec<HeatMap> {
    let of = |b: &Block| {
        let [rows, cols] = *b.shape() else { return None };
        Some(HeatMap {
            title: b.name().into(),
            colormap: Colormap::Diverging,
            row_ticks: Ticks::From(0),
            col_ticks: Ticks::From(0),
            ..HeatMap::of(&params[b.range()], rows, cols)
        })
    };
    layout.blocks().iter().filter_map(of).collect()
}

/// −Σ y log f over y > 0.
fn cross_entropy(target: &[f64], f: &[f64]) -> f64 {
    target.iter().zip(f).filter(|(y, _)| **y > 0.0).map(|(y, f)| -y * f.ln()).sum()
}
