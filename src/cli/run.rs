//! `popgrad run`: resolve the configuration, pick the folder, hand over to the experiment, print its summary.

use super::{pool, progress, say, tell};
use crate::config;
use crate::paper::experiment::Experiment;
use crate::paper::study::{STUDY_FILE, Study};
use crate::paper::{self, folder, studies};
use crate::report::files::create_run_dir;
use crate::{Error, Result};
use clap::Args;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Arguments of `popgrad run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Preset to start from.
    #[arg(required_unless_present_any = ["resume", "config"])]
    preset: Option<String>,
    /// Overrides, e.g. S=5 alpha=0.5 steps=2^14 heads=2,1.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// The same job made short enough for a minute.
    #[arg(long)]
    quick: bool,
    /// TOML file of keys, applied over the preset.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Run folder: new or empty [default: runs/PRESET, numbered].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Worker threads; changes the speed, not one bit of the result [default: all cores].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Type of parameters and activations: f32 or f64.
    #[arg(long)]
    dtype: Option<String>,
    /// Seed of every draw.
    #[arg(long)]
    seed: Option<u64>,
    /// Continue the run in this folder from its checkpoint.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["preset", "overrides", "quick", "config", "out", "dtype", "seed"])]
    resume: Option<PathBuf>,
}

/// Presets and keys, for `--help`.
pub(super) fn after_help() -> String {
    let mut text = String::from("Presets:\n");
    for (name, what) in paper::PRESETS {
        text += &format!("  {name:<18}{what}\n");
    }
    text += "\nPresets of several runs, side by side in folders of one:\n";
    for s in studies::NAMED.iter().filter(|s| !is_preset(s.name)) {
        text += &format!("  {:<18}{}\n", s.name, s.what);
    }
    text += "\nKeys:\n";
    text += &format!(
        "  {:<18}{}\n",
        "seeds", "repeat a preset of one run over so many seeds, with mean and spread"
    );
    for key in config::KEYS.iter().filter(|k| k.name != "preset") {
        text += &format!("  {:<18}{}\n", key.name, key.help);
    }
    text += "\nKeys of birth, birth-full and their studies:\n";
    for key in config::birth::KEYS.iter().filter(|k| k.name != "preset") {
        text += &format!("  {:<18}{}\n", key.name, key.help);
    }
    text
}

pub(super) fn run(args: RunArgs) -> Result<()> {
    let pool = pool(args.threads)?;
    let (job, folder, resumed) = match &args.resume {
        Some(folder) if folder.join(STUDY_FILE).is_file() => {
            (Job::Study(Study::load(folder)?), folder.clone(), true)
        }
        Some(folder) => (Job::Run(read_run(folder)?), folder.clone(), true),
        None => {
            let job = resolve(&args)?;
            // Everything that can be refused is refused before a folder appears.
            pool.install(|| job.check())?;
            let folder = args.out.clone().unwrap_or_else(|| default_folder(job.name(), args.quick));
            create_run_dir(&folder)?;
            (job, folder, false)
        }
    };
    match job {
        Job::Run(config) => {
            if args.quick {
                say_changes(&config)?;
            }
            let mut progress = progress::new(&config);
            let outcome = config.run(&folder, resumed, &pool, progress.as_mut())?;
            tell(&outcome.summary.to_string())?;
            outcome.figures
        }
        Job::Study(study) => {
            let threads = pool.current_num_threads();
            // Each run brings its own.
            drop(pool);
            if args.quick {
                say_changes(&study.runs[0].config)?;
            }
            let summary = study.run(&folder, threads, progress::of_study().as_ref())?;
            tell(&format!("{}folder: {}\n", study.told(&folder, &summary)?, folder.display()))
        }
    }
}

/// What a command line asks for.
enum Job {
    Run(Experiment),
    Study(Study),
}

impl Job {
    fn check(&self) -> Result<()> {
        match self {
            Job::Run(config) => config.check(),
            Job::Study(study) => study.check(),
        }
    }

    fn name(&self) -> &str {
        match self {
            Job::Run(config) => config.preset(),
            Job::Study(study) => &study.name,
        }
    }
}

fn say_changes(config: &Experiment) -> Result<()> {
    say(&format!("quick form of `{}`; changed from the paper's: {}", config.preset(), changes(config)?));
    Ok(())
}

fn resolve(args: &RunArgs) -> Result<Job> {
    // With --config, the preset may be named in the file, and the first word may be an override.
    let (mut preset, mut overrides) = (args.preset.clone(), args.overrides.clone());
    if let Some(word) = preset.take_if(|p| p.contains('=')) {
        overrides.insert(0, word);
    }
    let mut file = match &args.config {
        Some(path) => config::read_table(path)?,
        None => Table::new(),
    };
    let named = file.remove("preset").and_then(|v| v.as_str().map(String::from));
    let Some(preset) = preset.or(named) else {
        let names: Vec<&str> = paper::PRESETS.iter().map(|p| p.0).collect();
        return Err(Error::invalid("preset", "none", names.join(", ")));
    };
    let keys = studies::keys(&preset)?;
    let file = config::check_keys(file, keys)?;
    let mut last = Table::new();
    if let Some(dtype) = &args.dtype {
        last.insert("dtype".into(), Value::String(dtype.clone()));
    }
    if let Some(seed) = args.seed {
        let seed =
            i64::try_from(seed).map_err(|_| Error::invalid("seed", seed.to_string(), "0 to 2^63 - 1"))?;
        last.insert("seed".into(), Value::Integer(seed));
    }
    let seeds = take_seeds(&mut overrides)?;
    let layers = [file, config::parse_overrides_of(&overrides, keys)?, last];
    if studies::find(&preset).is_some() && !is_preset(&preset) {
        return Ok(Job::Study(studies::named(&preset, args.quick, seeds, &layers)?));
    }
    let base = paper::preset(&preset, args.quick)?;
    if let Some(count) = seeds {
        return Ok(Job::Study(studies::seeds(&preset, args.quick, count, &layers)?));
    }
    let mut tables = vec![base];
    tables.extend(layers);
    Ok(Job::Run(Experiment::resolve(&tables)?))
}

/// Is it the preset of a single run? A study of that run alone may have the same name.
pub(super) fn is_preset(name: &str) -> bool {
    paper::PRESETS.iter().any(|(n, _)| *n == name)
}

/// Takes `seeds=K` out of the overrides: a key of studies, not of runs.
pub(super) fn take_seeds(overrides: &mut Vec<String>) -> Result<Option<u64>> {
    let mut seeds = None;
    let mut rest = Vec::new();
    for word in std::mem::take(overrides) {
        match word.split_once('=') {
            Some((key, text)) if key.trim() == "seeds" => {
                let count = text.trim().parse::<u64>();
                seeds = Some(count.map_err(|_| Error::invalid("seeds", format!("`{text}`"), "1 to 1000"))?);
            }
            _ => rest.push(word),
        }
    }
    *overrides = rest;
    Ok(seeds)
}

/// What differs from the preset's full form, as `key=value, ..`.
fn changes(config: &Experiment) -> Result<String> {
    let full = Experiment::resolve(&[paper::preset(config.preset(), false)?])?.table()?;
    let now = config.table()?;
    let differs = now.iter().filter(|(k, v)| full.get(*k) != Some(*v));
    Ok(differs.map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", "))
}

/// The configuration that a run folder was made with.
fn read_run(run: &Path) -> Result<Experiment> {
    let path = run.join(folder::CONFIG_FILE);
    if !path.is_file() {
        let problem = format!("{} has no {}", run.display(), folder::CONFIG_FILE);
        return Err(Error::invalid("resume", problem, "the folder of an earlier run"));
    }
    Experiment::read(&path)
}

/// `runs/chain`, `runs/chain-2`, ..: the first that does not exist.
pub(super) fn default_folder(name: &str, quick: bool) -> PathBuf {
    let stem = format!("{name}{}", if quick { "-quick" } else { "" });
    let numbered = (2..).map(|i| format!("{stem}-{i}"));
    let mut names = std::iter::once(stem.clone()).chain(numbered).map(|n| Path::new("runs").join(n));
    names.find(|p| !p.exists()).unwrap_or_else(|| Path::new("runs").join(&stem))
}
