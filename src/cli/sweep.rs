//! `popgrad sweep`: recovery of the graph over a grid of keys, by many short runs.

use super::output::new_folder;
use super::run::{is_preset, take_seeds};
use super::{pool, progress, tell};
use crate::config;
use crate::paper::{Papers, studies};
use crate::report::page::Page;
use crate::study::{Axis, STUDY_FILE, Study};
use crate::{Error, Result};
use clap::Args;
use std::path::PathBuf;
use toml::Table;

/// Arguments of `popgrad sweep`.
#[derive(Debug, Args)]
pub(super) struct SweepArgs {
    /// Preset of the runs [default: chain].
    preset: Option<String>,
    /// Grid and overrides: a key with several values (alpha=0.1,1) is an axis, the first one the
    /// rows.
    #[arg(value_name = "KEY=VALUES")]
    keys: Vec<String>,
    /// Folder: new or empty [default: runs/PRESET-sweep, numbered].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the sweep in this folder.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["preset", "keys", "out"])]
    resume: Option<PathBuf>,
    /// Worker threads; they change the speed, not one bit of the result [default: all cores].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = super::threads)]
    threads: Option<usize>,
}

pub(super) const AFTER_HELP: &str = "\
Without keys: alpha=0.03,0.1,0.3,1,3 against T=6,8,12,16,24,32, seeds=5: 150 runs. Those of chain, icl and random are short ones \
(S=5, T=12, 1,024 updates of 256 sequences at rate 4); other presets have their own short form, that of `run --quick`.
One key or two may have several values; seeds=K sets the runs of each cell. Every other key is as in `run`.
Results: figures/phase.svg and .png, grid.csv, grid.json, sweep.html, and a folder for each run.";

/// Presets whose short runs are [`SHORT`]: trees that SGD learns at the same sizes and rate.
const TREES: [&str; 3] = ["chain", "icl", "random"];

/// Their short runs.
const SHORT: &str = "
S = 5
T = 12
steps = 1024
batch = 256
shards = 4
lr = 4.0
eval_every = 128
test_size = 2048
checkpoint_every = 1024
";
const DEFAULT_GRID: [&str; 2] = ["alpha=0.03,0.1,0.3,1,3", "T=6,8,12,16,24,32"];
const DEFAULT_SEEDS: u64 = 5;

pub(super) fn sweep(args: &SweepArgs) -> Result<()> {
    let pool = pool(args.threads)?;
    let (study, folder) = match &args.resume {
        Some(folder) if folder.join(STUDY_FILE).is_file() => (Study::load(folder, &Papers)?, folder.clone()),
        Some(folder) => {
            let problem = format!("{} has no {STUDY_FILE}", folder.display());
            return Err(Error::invalid("resume", problem, "the folder of an earlier sweep"));
        }
        None => {
            let study = resolve(args)?;
            pool.install(|| study.check())?;
            let folder = new_folder(args.out.as_deref(), &study.name, false)?;
            (study, folder)
        }
    };
    let threads = pool.current_num_threads();
    drop(pool);
    super::signals::watch()?;
    let outcome = study.outcome(&folder, threads, progress::of_study().as_ref())?;
    let mut section = study.section(&folder, ".")?;
    section.text.push(format!("Common to all runs: {}.", study.common_keys()));
    let page = Page { title: study.title.clone(), summary: String::new(), sections: vec![section] };
    page.save(&folder.join("sweep.html"))?;
    tell(&format!("{}folder: {}\n", outcome.summary, folder.display()))?;
    outcome.figures
}

fn resolve(args: &SweepArgs) -> Result<Study> {
    let (mut preset, mut keys) = (args.preset.clone(), args.keys.clone());
    if let Some(word) = preset.take_if(|p| p.contains('=')) {
        keys.insert(0, word);
    }
    let preset = preset.unwrap_or_else(|| "chain".into());
    if studies::find(&preset).is_some() && !is_preset(&preset) {
        return Err(Error::invalid("preset", preset, "one of a single run"));
    }
    studies::grid_drawing(&preset)?;
    let seeds = take_seeds(&mut keys)?.unwrap_or(DEFAULT_SEEDS);
    // Presets with another task or optimiser use the sizes and rates of their own short form.
    let quick = !TREES.contains(&preset.as_str());
    let own: Table = if quick { Table::new() } else { short()? };
    let mut layer = Table::new();
    let mut axes = Vec::new();
    let several =
        |k: &String| config::parse_values(k, config::KEYS).map_or(true, |(_, values)| values.len() > 1);
    if !keys.iter().any(several) {
        axes = DEFAULT_GRID.iter().map(|k| axis(k)).collect::<Result<_>>()?;
    }
    let mut seen: Vec<(String, String)> = Vec::new();
    for word in &keys {
        let Axis { key, mut values } = axis(word)?;
        let text = word.split_once('=').map_or("", |(_, text)| text).to_string();
        if let Some((_, first)) = seen.iter().find(|(k, _)| *k == key) {
            return Err(config::twice(&key, first, &text));
        }
        if key == "seed" && values.len() > 1 {
            let allowed = "one, the first of those in each cell: their number is seeds=K";
            return Err(Error::invalid("seed", format!("several, {text}"), allowed));
        }
        seen.push((key.clone(), text));
        axes.retain(|a: &Axis| a.key != key);
        if values.len() == 1 {
            layer.insert(key, values.remove(0));
        } else {
            axes.push(Axis { key, values });
        }
    }
    studies::grid((&preset, quick), axes, seeds, &own, &[layer])
}

fn short() -> Result<Table> {
    SHORT.parse().map_err(|e: toml::de::Error| Error::invalid("sweep", e.to_string(), "valid TOML"))
}

fn axis(word: &str) -> Result<Axis> {
    let (key, values) = config::parse_values(word, config::KEYS)?;
    if key == "preset" {
        return Err(Error::invalid(
            key,
            "given as key=value",
            "first word of `run` or `sweep`, or in a file",
        ));
    }
    Ok(Axis { key, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_keeps_its_rate_and_sizes() {
        let first = |preset: &str| {
            let keys = vec!["alpha=0.1,1".into(), "seeds=1".into()];
            let args =
                SweepArgs { preset: Some(preset.into()), keys, out: None, resume: None, threads: None };
            resolve(&args).unwrap().runs.remove(0).config
        };
        for (preset, lr, s, t, steps) in [
            ("chain", 4.0, 5, 12, 1024),
            ("icl", 4.0, 5, 12, 1024),
            ("random", 4.0, 5, 12, 1024),
            ("manual", 1.0, 3, 6, 2048),
            ("many", 1.0, 3, 20, 2048),
            ("two-parents", 0.01, 3, 12, 24_576),
            ("causal-fig8", 0.01, 5, 12, 1024),
        ] {
            let c = first(preset);
            let table = c.table();
            let count = |key: &str| table[key].as_integer().unwrap();
            assert_eq!((c.plan.lr, c.plan.steps), (lr, steps), "{preset}");
            assert_eq!((count("S"), count("T")), (s, t), "{preset}");
        }
    }
}
