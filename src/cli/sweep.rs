//! `popgrad sweep`: recovery of the graph over a grid of keys, by many short runs.

use super::output::new_folder;
use super::plan::{self, Ahead};
use super::run::{is_preset, show_summary, take_seeds};
use super::table::{self, CellAlignment, Right};
use super::{Threads, progress, tell, wants_json};
use crate::config;
use crate::paper::{Papers, studies};
use crate::report::files::expect;
use crate::report::page::Page;
use crate::run::Outcome;
use crate::study::gather::read_json;
use crate::study::{Axis, Member, STUDY_FILE, Study};
use crate::{Error, Result};
use clap::Args;
use std::path::{Path, PathBuf};
use toml::Table;

/// Arguments of `popgrad sweep`.
#[derive(Debug, Args)]
pub(super) struct SweepArgs {
    /// Preset of the runs [default: chain].
    preset: Option<String>,
    /// Grid and overrides: a key with several values (alpha=0.1,1, or heads=1;1,1 of lists) is an
    /// axis.
    #[arg(value_name = "KEY=VALUES")]
    keys: Vec<String>,
    /// Folder: new or empty [default: runs/PRESET-sweep, numbered].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The file of a sweep, from --print-config: the same sweep.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["preset", "keys"])]
    config: Option<PathBuf>,
    /// Continue the sweep in this folder.
    #[arg(long, value_name = "DIR",
        conflicts_with_all = ["preset", "keys", "out", "config", "print_config", "dry_run"])]
    resume: Option<PathBuf>,
    #[command(flatten)]
    ahead: Ahead,
    #[command(flatten)]
    threads: Threads,
}

pub(super) const AFTER_HELP: &str = "\
Without keys: alpha=0.03,0.1,0.3,1,3 against T=6,8,12,16,24,32, seeds=5: 150 runs. Those of chain, icl and random are short ones \
(S=5, T=12, 1,024 updates of 256 sequences at rate 4); other presets have their own short form, that of `run --quick`.
Every key may have several values, and all their combinations are run: the last key goes fastest, and then the seeds, whose number \
in each cell is seeds=K. Every other key is as in `run`. One key is drawn as curves, two as maps (the first one's values are the \
rows), more as a row of maps over the last two for each choice of the others, up to 16 choices; beyond, there are tables alone.
Results: figures/phase.svg and .png, grid.csv (a line for each cell), grid.json, sweep.html, and a folder for each run.

Examples:
  popgrad sweep
  popgrad sweep chain alpha=0.1,1 T=8,16 S=3,5 seeds=3
  popgrad sweep alpha=0.1,1 lr=1,2,4 --dry-run       how many runs, how long
  popgrad sweep --resume runs/chain-sweep";

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
    let pool = args.threads.pool()?;
    let (study, folder) = match &args.resume {
        Some(folder) => {
            expect("resume", folder, STUDY_FILE, "the folder of an earlier sweep")?;
            (Study::load(folder, &Papers)?, folder.clone())
        }
        None => {
            let study = match &args.config {
                Some(path) => of_file(path)?,
                None => resolve(args)?,
            };
            pool.install(|| study.check())?;
            let runs: Vec<&Member> = study.runs.iter().collect();
            let forecast = |budget| study.forecast(&runs, pool.current_num_threads(), budget);
            if args.ahead.shows(args.out.as_deref(), || study.table(), forecast)? {
                return Ok(());
            }
            let folder = new_folder(args.out.as_deref(), &study.name, false)?;
            (study, folder)
        }
    };
    let threads = pool.current_num_threads();
    drop(pool);
    super::signals::watch()?;
    plan::announce(&[(&study, study.left(&folder)?)], threads);
    let outcome = study.outcome(&folder, threads, progress::of_study().as_ref())?;
    let mut section = study.section(&folder, ".")?;
    section.text.push(format!("Common to all runs: {}.", study.common_keys()));
    let page = Page { title: study.title.clone(), summary: String::new(), sections: vec![section] };
    page.save(&folder.join("sweep.html"))?;
    let Outcome { mut summary, figures } = outcome;
    let grid: serde_json::Value = read_json(&folder.join("grid.json"))?;
    if wants_json() {
        summary.set("grid", grid)?;
    } else {
        tell(&cells(&study.axes, grid.as_array().map_or(&[], Vec::as_slice)))?;
    }
    summary.set("folder", folder.display().to_string())?;
    show_summary(&summary)?;
    figures
}

/// Most cells that are printed; of more there is the file.
const MOST_CELLS: usize = 64;

/// A line for each cell of a grid.
fn cells(axes: &[Axis], grid: &[serde_json::Value]) -> String {
    if grid.len() > MOST_CELLS {
        return format!("{} cells: grid.csv\n\n", grid.len());
    }
    let mut heads: Vec<(&str, CellAlignment)> = axes.iter().map(|a| (a.key.as_str(), Right)).collect();
    let numbers = ["attention_on_parent", "test_loss", "gap"];
    heads.extend(["runs", "recovered"].into_iter().chain(numbers).map(|head| (head, Right)));
    let row = |cell: &serde_json::Value| {
        let at = axes.iter().map(|a| &cell["at"][&a.key]);
        let counts = ["runs", "recovered"].iter().map(|key| &cell[*key]);
        let means = numbers.iter().map(|key| &cell[*key]["mean"]);
        at.chain(counts).chain(means).map(table::value).collect()
    };
    table::columns(&heads, grid.iter().map(row).collect()) + "\n"
}

/// The sweep that a file holds.
fn of_file(path: &Path) -> Result<Study> {
    let table = config::read_table(path)?;
    if !table.contains_key("runs") {
        return Err(Error::format(path, "no runs; expected a sweep, from `sweep .. --print-config`"));
    }
    let study = Study::from_table(path, table, &Papers)?;
    if study.axes.is_empty() {
        return Err(Error::format(path, "a study without axes; expected a sweep, from `--print-config`"));
    }
    Ok(study)
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
            let (out, config, resume) = (None, None, None);
            let (ahead, threads) = (Ahead::default(), Threads::default());
            let args = SweepArgs { preset: Some(preset.into()), keys, out, config, resume, ahead, threads };
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
