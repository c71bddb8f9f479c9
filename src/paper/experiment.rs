//! The configuration of a run, of whichever family: what the command line and studies hold.

use super::{Progress, birth, causal, run};
use crate::config::birth::BirthConfig;
use crate::config::{self, Config, Key};
use crate::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::path::Path;
use toml::Table;

/// A resolved configuration. In files they are told apart by `task`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Experiment {
    /// The causal-structure paper.
    Causal(Box<Config>),
    /// The memory-viewpoint paper.
    Birth(Box<BirthConfig>),
}

impl<'de> Deserialize<'de> for Experiment {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let table = Table::deserialize(from)?;
        let read = match config::birth::is_of(&table) {
            true => table.try_into().map(|c| Experiment::Birth(Box::new(c))),
            false => table.try_into().map(|c| Experiment::Causal(Box::new(c))),
        };
        read.map_err(serde::de::Error::custom)
    }
}

impl From<Config> for Experiment {
    fn from(c: Config) -> Self {
        Experiment::Causal(Box::new(c))
    }
}

impl From<BirthConfig> for Experiment {
    fn from(c: BirthConfig) -> Self {
        Experiment::Birth(Box::new(c))
    }
}

/// The keys of a family: that of the first of `tables`, which is a preset's or a whole run's.
pub fn keys_of(tables: &[Table]) -> &'static [Key] {
    if tables.first().is_some_and(config::birth::is_of) { &config::birth::KEYS } else { &config::KEYS }
}

impl Experiment {
    /// Layers `tables`, of which the first says which family it is.
    ///
    /// # Errors
    /// A missing key or a value out of range.
    pub fn resolve(tables: &[Table]) -> Result<Self> {
        match tables.first().is_some_and(config::birth::is_of) {
            true => config::birth::resolve(tables).map(Self::from),
            false => config::resolve(tables).map(Self::from),
        }
    }

    /// The configuration in a file that holds all of it.
    ///
    /// # Errors
    /// A file that cannot be read, unknown keys, values out of range.
    pub fn read(path: &Path) -> Result<Self> {
        let table = config::read_table(path)?;
        let keys = keys_of(std::slice::from_ref(&table));
        Self::resolve(&[config::check_keys(table, keys)?])
    }

    /// Of the causal-structure paper.
    pub fn causal(&self) -> Option<&Config> {
        if let Experiment::Causal(c) = self { Some(c) } else { None }
    }

    /// Of the memory-viewpoint paper.
    pub fn birth(&self) -> Option<&BirthConfig> {
        if let Experiment::Birth(c) = self { Some(c) } else { None }
    }

    /// The preset that it started from.
    pub fn preset(&self) -> &str {
        match self {
            Experiment::Causal(c) => &c.preset,
            Experiment::Birth(c) => &c.preset,
        }
    }

    /// Seed of every draw.
    pub fn seed(&self) -> u64 {
        match self {
            Experiment::Causal(c) => c.seed,
            Experiment::Birth(c) => c.seed,
        }
    }

    pub(super) fn add_to_seed(&mut self, more: u64) -> Result<()> {
        let own = match self {
            Experiment::Causal(c) => &mut c.seed,
            Experiment::Birth(c) => &mut c.seed,
        };
        let sum = own.checked_add(more).filter(|s| i64::try_from(*s).is_ok());
        *own = sum.ok_or_else(|| Error::invalid("seed", "too large", "seeds up to 2^63 - 1"))?;
        Ok(())
    }

    /// Updates.
    pub fn steps(&self) -> u64 {
        match self {
            Experiment::Causal(c) => c.steps,
            Experiment::Birth(c) => c.steps,
        }
    }

    /// Sequences of an update, if they are sampled.
    pub fn sampled(&self) -> Option<usize> {
        match self {
            Experiment::Causal(c) => (c.source == "sampled").then_some(c.batch),
            Experiment::Birth(c) => Some(c.batch),
        }
    }

    /// Keys and values.
    ///
    /// # Errors
    /// Never in practice.
    pub fn table(&self) -> Result<Table> {
        Table::try_from(self).map_err(|e| Error::invalid("configuration", e.to_string(), "TOML values"))
    }

    /// As TOML, for the run folder.
    ///
    /// # Errors
    /// Never in practice: every field has a TOML form.
    pub fn to_toml(&self) -> Result<String> {
        match self {
            Experiment::Causal(c) => c.to_toml(),
            Experiment::Birth(c) => c.to_toml(),
        }
    }

    /// What a run costs, in some unit.
    pub(super) fn cost(&self) -> f64 {
        match self {
            Experiment::Causal(c) => {
                let heads: usize = c.heads.iter().sum();
                let sequences = c.steps as f64 * c.batch as f64;
                sequences * (c.T * c.T * (heads + 1) + c.S * c.T) as f64
            }
            Experiment::Birth(c) => {
                let layers = c.layers.unwrap_or(2);
                c.steps as f64 * (c.batch * layers) as f64 * (c.T * c.dim) as f64 * (c.T + 4 * c.dim) as f64
            }
        }
    }

    /// Refuses what cannot run, before anything is written.
    ///
    /// # Errors
    /// The first value out of range.
    pub fn check(&self) -> Result<()> {
        match self {
            Experiment::Causal(c) => super::check(c),
            Experiment::Birth(c) => birth::check(c),
        }
    }

    /// Runs, or continues, in `folder`.
    ///
    /// # Errors
    /// Values out of range, a folder that cannot be written, a checkpoint of another run.
    pub fn run(
        &self,
        folder: &Path,
        resumed: bool,
        pool: &rayon::ThreadPool,
        progress: &mut dyn Progress,
    ) -> Result<causal::Outcome> {
        match self {
            Experiment::Causal(c) => run(c, folder, resumed, pool, progress),
            Experiment::Birth(c) => birth::run(c, folder, resumed, pool, progress),
        }
    }
}
