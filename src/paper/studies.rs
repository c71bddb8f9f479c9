//! Studies: named ones, repetitions over seeds, and grids.

use super::{PAPERS, Paper, Papers, preset};
use crate::config::{self, Config, Rule};
use crate::study::{Axis, Drawing, MOST_RUNS, Member, Study, slug, value_text};
use crate::{Error, Result};
use toml::{Table, Value};

/// A study with a name.
pub struct Named {
    /// Its name.
    pub name: &'static str,
    /// A line for `--help`.
    pub what: &'static str,
    /// What the paper shows.
    pub shows: &'static str,
    /// What to expect here.
    pub expect: &'static str,
    /// True if `popgrad figures` makes it by default.
    pub in_paper: bool,
    pub(super) drawing: &'static dyn Drawing,
    /// True if every run also draws its own figures.
    pub(super) figures: bool,
    pub(super) drafts: fn(&Form) -> Vec<Draft>,
    /// Keys that users may not give: titles, groups and names of runs refer to them.
    pub(super) own_keys: fn(&[Draft]) -> Vec<&'static str>,
}

/// The requested form of a study.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub(super) quick: bool,
    /// Repetitions.
    pub(super) seeds: Option<u64>,
}

/// How a run of a study is named.
#[derive(Debug, Clone)]
enum Naming {
    /// By itself; its own group.
    Itself,
    /// A repetition: by its group and its seed.
    InGroup(String),
    /// By itself, in one group with all others.
    Together,
    /// By itself, what it is resolved to, and its seed: steps and seed may be given.
    Resolved,
}

/// A run before it is resolved.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    name: String,
    naming: Naming,
    base: &'static str,
    keys: Table,
    /// Added to the study's seed.
    seed: u64,
}

impl Draft {
    pub(super) fn new(name: &str, base: &'static str) -> Self {
        Draft { name: name.into(), naming: Naming::Itself, base, keys: Table::new(), seed: 0 }
    }

    pub(super) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.keys.insert(key.into(), value.into());
        self
    }

    pub(super) fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// A repetition, named by its group and its seed.
    pub(super) fn in_group(mut self, group: &str) -> Self {
        self.naming = Naming::InGroup(group.into());
        self
    }

    /// One of many that are looked at together.
    pub(super) fn together(mut self) -> Self {
        self.naming = Naming::Together;
        self
    }

    /// Named by what it is resolved to.
    pub(super) fn resolved(mut self) -> Self {
        self.naming = Naming::Resolved;
        self
    }

    /// Keys that it sets.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }
}

/// Every study that has a name.
pub fn named_studies() -> impl Iterator<Item = &'static Named> {
    PAPERS.into_iter().flat_map(|p| p.studies)
}

/// The study called `name`.
pub fn find(name: &str) -> Option<&'static Named> {
    named_studies().find(|s| s.name == name)
}

/// The study called `name` in full, or in its short form if `quick`, with `layers` over every run's
/// keys. A `seed` in them is added to that of each run; `seeds` sets how many repetitions there
/// are.
///
/// # Errors
/// An unknown name, values out of range, `seeds` where nothing is repeated, keys that are the
/// study's own.
pub fn named(name: &str, quick: bool, seeds: Option<u64>, layers: &[Table]) -> Result<Study> {
    let of = find(name).ok_or_else(|| Error::unknown("study", name, named_studies().map(|s| s.name)))?;
    if let Some(k) = seeds {
        check_seeds(k)?;
        if !of.drawing.repeats() {
            let repeat: Vec<&str> = named_studies().filter(|s| s.drawing.repeats()).map(|s| s.name).collect();
            let allowed = format!("for presets of one run, {}", repeat.join(", "));
            return Err(Error::invalid("seeds", k.to_string(), allowed));
        }
    }
    let drafts = (of.drafts)(&Form { quick, seeds });
    let own = (of.own_keys)(&drafts);
    // What every run has anyhow may be said.
    let differs = |k: &str, v: &Value| drafts.iter().any(|d| d.keys.get(k) != Some(v));
    let given = |k: &str| layers.iter().any(|l| l.get(k).is_some_and(|v| differs(k, v)));
    if let Some(key) = own.iter().find(|k| given(k)) {
        let own = own.join(", ");
        let allowed = format!("not with {name}, whose runs have their own {own}; presets of one run take it");
        return Err(Error::invalid(*key, "given", allowed));
    }
    let mut runs: Vec<Member> = Vec::new();
    for draft in drafts {
        let config = resolve(draft.base, quick, &draft.keys, layers, draft.seed)?;
        // A key given for all runs may make two the same.
        if runs.iter().any(|m| m.config == config) {
            continue;
        }
        let seed = config.plan.seed;
        let (name, group) = match draft.naming {
            Naming::Itself => (draft.name.clone(), draft.name),
            Naming::InGroup(group) => (slug(&format!("{group}-seed-{seed}")), group),
            Naming::Together => (draft.name, String::new()),
            Naming::Resolved => {
                (slug(&format!("{}-{}-seed-{seed}", draft.name, horizon(&config))), group(&config))
            }
        };
        runs.push(Member { name, group, config });
    }
    let title = of.what.split(';').next().unwrap_or_default().split(" (seeds").next().unwrap_or_default();
    Ok(Study {
        name: name.into(),
        title: title.into(),
        drawing: of.drawing,
        figures: of.figures,
        axes: Vec::new(),
        runs,
        registry: &Papers,
    })
}

/// `count` runs of a preset that differ in their seeds.
///
/// # Errors
/// As [`named`]; `algorithm1`.
pub fn seeds(base: &str, quick: bool, count: u64, layers: &[Table]) -> Result<Study> {
    check_seeds(count)?;
    check_base(base)?;
    let run = |i: u64| {
        let config = resolve(base, quick, &Table::new(), layers, i)?;
        Ok(Member { name: format!("seed-{}", config.plan.seed), group: group(&config), config })
    };
    let runs: Vec<Member> = (0..count).map(run).collect::<Result<_>>()?;
    Ok(Study {
        name: format!("{base}-seeds"),
        title: format!("{base}, {count} seeds"),
        drawing: Paper::of(&runs[0].config)?.seeds,
        figures: false,
        axes: Vec::new(),
        runs,
        registry: &Papers,
    })
}

/// A grid over `axes` of short runs of preset `base`, `seeds` in each cell: `own` holds the keys
/// that make them short, `layers` those of the user. Cells are in row-major order: the last axis
/// goes fastest.
///
/// # Errors
/// No axis, too many runs, `algorithm1`, values out of range.
pub fn grid(
    (base, quick): (&str, bool),
    axes: Vec<Axis>,
    seeds: u64,
    own: &Table,
    layers: &[Table],
) -> Result<Study> {
    check_seeds(seeds)?;
    let drawing = grid_drawing(base)?;
    if axes.is_empty() {
        return Err(Error::invalid("grid", "none", "keys with several values, key=a,b,.."));
    }
    let cells = axes.iter().try_fold(1u64, |n, a| n.checked_mul(a.values.len() as u64));
    let count = cells.and_then(|n| n.checked_mul(seeds));
    if count.is_none_or(|n| n > MOST_RUNS as u64) {
        let found = count.map_or("more than 2^64 runs".into(), |n| format!("{n} runs"));
        return Err(Error::invalid("grid", found, format!("at most {MOST_RUNS} runs")));
    }
    let mut runs = Vec::new();
    for cell in 0..cells.unwrap_or(0) as usize {
        let mut keys = Table::new();
        let mut rest = cell;
        for axis in axes.iter().rev() {
            keys.insert(axis.key.clone(), axis.values[rest % axis.values.len()].clone());
            rest /= axis.values.len();
        }
        let text = |a: &Axis| format!("{}={}", a.key, value_text(&keys[&a.key]));
        let place = axes.iter().map(text).collect::<Vec<_>>().join(" ");
        for i in 0..seeds {
            let mut layers = layers.to_vec();
            layers.push(keys.clone());
            let config = resolve(base, quick, own, &layers, i)?;
            let name = slug(&format!("{place} seed={}", config.plan.seed));
            runs.push(Member { name, group: place.clone(), config });
        }
    }
    let keys: Vec<&str> = axes.iter().map(|a| a.key.as_str()).collect();
    let keys = match keys.split_last() {
        Some((last, [_, ..])) => format!("{} and {last}", keys[..keys.len() - 1].join(", ")),
        _ => keys.concat(),
    };
    Ok(Study {
        name: format!("{base}-sweep"),
        title: format!("{base}: recovery against {keys}, {seeds} runs in each cell"),
        drawing,
        figures: false,
        axes,
        runs,
        registry: &Papers,
    })
}

fn check_seeds(count: u64) -> Result<()> {
    if (1..=1000).contains(&count) {
        return Ok(());
    }
    Err(Error::invalid("seeds", count.to_string(), "1 to 1000"))
}

/// How a grid of runs of preset `base` is drawn.
///
/// # Errors
/// Presets that no grid is made of: `algorithm1`, those of a paper without grids, unknown ones.
pub fn grid_drawing(base: &str) -> Result<&'static dyn Drawing> {
    let config = check_base(base)?;
    let allowed = "a preset of the causal-structure paper: a grid is about recovering a graph";
    Paper::of(&config)?.grid.ok_or_else(|| Error::invalid("preset", base, allowed))
}

/// Algorithm 1 keeps other logs: nothing that a study gathers is in them.
fn check_base(base: &str) -> Result<Config> {
    let config = config::resolve(&preset(base, true)?)?;
    if matches!(config.optimizer, Rule::Staged { .. }) {
        let allowed = "for several runs (seeds=K, sweep) any other preset of one run";
        return Err(Error::invalid("preset", base, allowed));
    }
    Ok(config)
}

/// Runs of one preset and one horizon repeat each other.
fn group(config: &Config) -> String {
    format!("{}, {} steps", config.plan.preset, horizon(config))
}

/// Updates as a text.
fn horizon(config: &Config) -> String {
    match config.plan.steps {
        n if n.is_power_of_two() && n > 8 => format!("2^{}", n.ilog2()),
        n => n.to_string(),
    }
}

fn resolve(base: &str, quick: bool, keys: &Table, layers: &[Table], seed: u64) -> Result<Config> {
    let mut tables = preset(base, quick)?;
    tables.push(keys.clone());
    let mut config = config::resolve_over(&tables, layers)?;
    config.add_to_seed(seed)?;
    Ok(config)
}
