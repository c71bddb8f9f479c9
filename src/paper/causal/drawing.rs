//! How studies of causal graphs are gathered and drawn.

use super::{draw, gather, tables};
use crate::Result;
use crate::config::{Config, Rule, Task};
use crate::run::Outcome;
use crate::study::{Drawing, Recovery, ShortTable, Study};
use std::path::Path;

/// What is drawn from the runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A row for each run: graph, first-layer pattern, A2, W; and its loss.
    Matrices,
    /// A row for each run: graph and first-layer patterns; and its loss.
    Patterns,
    /// Which head attends to which parent, by position.
    Heads,
    /// Attention on the parents of the best head of each layer, whatever the model.
    Architectures,
    /// Attention on the parent by position, mean and spread over the runs of a group.
    Positions,
    /// Loss and attention over steps, mean and spread over the runs of a group.
    Seeds,
    /// Recovery over a grid of keys.
    Grid,
}

#[derive(Debug)]
pub(super) struct OfGraphs(Kind);

pub(super) const MATRICES: OfGraphs = OfGraphs(Kind::Matrices);
pub(super) const PATTERNS: OfGraphs = OfGraphs(Kind::Patterns);
pub(super) const HEADS: OfGraphs = OfGraphs(Kind::Heads);
pub(super) const ARCHITECTURES: OfGraphs = OfGraphs(Kind::Architectures);
pub(super) const POSITIONS: OfGraphs = OfGraphs(Kind::Positions);
pub(super) const SEEDS: OfGraphs = OfGraphs(Kind::Seeds);
pub(super) const GRID: OfGraphs = OfGraphs(Kind::Grid);

impl Drawing for OfGraphs {
    fn name(&self) -> &'static str {
        match self.0 {
            Kind::Matrices => "matrices",
            Kind::Patterns => "patterns",
            Kind::Heads => "heads",
            Kind::Architectures => "architectures",
            Kind::Positions => "positions",
            Kind::Seeds => "seeds",
            Kind::Grid => "grid",
        }
    }

    fn takes(&self, config: &Config) -> bool {
        let causal = matches!(config.task, Task::CausalTree(_) | Task::CausalDag(_));
        causal && !matches!(config.optimizer, Rule::Staged { .. })
    }

    fn write(&self, study: &Study, folder: &Path) -> Result<Outcome> {
        let found = gather::read(study, folder)?;
        let summary = tables::write(self.0, study, folder, &found)?;
        let figures = draw::draw(self.0, study, folder, &found).map_err(|e| e.of_figures(folder));
        Ok(Outcome { summary, figures })
    }

    fn key_numbers(&self, study: &Study, folder: &Path) -> Result<ShortTable> {
        tables::key_numbers(self.0, &gather::read(study, folder)?)
    }

    fn figures(&self, study: &Study) -> &'static [(&'static str, &'static str)] {
        if self.0 == Kind::Grid && draw::without_phase(study).is_some() { &[] } else { draw::names(self.0) }
    }

    fn tables(&self) -> &'static [&'static str] {
        match self.0 {
            Kind::Grid => &["positions.csv", "grid.csv", "grid.json"],
            Kind::Architectures => &["positions.csv", "heads.csv"],
            _ => &["positions.csv"],
        }
    }

    fn repeats(&self) -> bool {
        matches!(self.0, Kind::Positions | Kind::Seeds)
    }

    /// In a grid, divergence is the result of a cell.
    fn allows_divergence(&self) -> bool {
        self.0 == Kind::Grid
    }

    fn cells(&self, study: &Study, folder: &Path) -> Result<Vec<Recovery>> {
        let found = gather::read(study, folder)?;
        let cells = tables::cells(study, &found);
        let of = |c: tables::Cell| Recovery {
            runs: c.runs,
            recovered: c.recovered,
            attention: c.attention.map(|s| s.mean),
            gap: c.gap.map(|s| s.mean),
        };
        Ok(cells.into_iter().map(of).collect())
    }
}
