//! `popgrad run`: resolves the configuration, chooses the folder, runs the experiment, prints its
//! summary.

use super::output::new_folder;
use super::plan::{self, Ahead};
use super::{detail, progress, say, table, tell, wants_json, warn};
use crate::config::{self, Config, Key, Schedule};
use crate::error::brief;
use crate::input::in_words;
use crate::paper::{self, Papers, studies};
use crate::report::files::expect;
use crate::report::metrics::Summary;
use crate::run::{self, Outcome, folder};
use crate::study::{Forecast, STUDY_FILE, Study};
use crate::{Error, Result};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;
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
    /// A short form of the preset that takes at most about a minute.
    #[arg(long)]
    quick: bool,
    /// TOML file of keys, applied over the preset; or the file of a study, from --print-config.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Run folder: new or empty [default: runs/PRESET, numbered].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    threads: super::Threads,
    /// Type of parameters and activations: f32 or f64.
    #[arg(long)]
    dtype: Option<String>,
    /// Seed of every draw.
    #[arg(long, allow_negative_numbers = true)]
    seed: Option<String>,
    /// Start from the parameters in this file: a run's checkpoint or snapshot, or your own arrays.
    #[arg(long, value_name = "FILE")]
    params: Option<PathBuf>,
    /// Continue the run in this folder from its checkpoint. With steps=N it goes on to N updates,
    /// finished or not.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["quick", "config", "out", "dtype", "seed", "params", "print_config", "dry_run"])]
    resume: Option<PathBuf>,
    #[command(flatten)]
    ahead: Ahead,
}

/// Presets and examples, for `--help`; where a preset, task or model is named on the command line,
/// its keys.
pub(super) fn after_help() -> String {
    // Any bytes may be there.
    let mut words = std::env::args_os().skip(1).map(|w| w.to_string_lossy().into_owned());
    let own = words.any(|w| w == "run");
    help_for(&if own { words.collect::<Vec<_>>() } else { Vec::new() })
}

/// [`after_help`] for the arguments of a command line.
fn help_for(words: &[String]) -> String {
    if words.iter().any(|w| is_preset(w) || w.contains('=')) {
        return KeysOf::words(words).text();
    }
    let single: Vec<String> = paper::presets().into_iter().map(|p| p.name).collect();
    let several = studies::named_studies().map(|s| s.name).filter(|n| !is_preset(n));
    let several = several.collect::<Vec<_>>().join(", ");
    format!("Presets: {}.\n\nOf several runs: {several}.\n{EXAMPLES}", single.join(", "))
}

const EXAMPLES: &str = "
`popgrad list` says what they are, `popgrad run PRESET --help` and `popgrad keys` what can be set. seeds=K repeats a preset of one \
run over K seeds.

Examples:
  popgrad run chain --quick                      seconds; figures in runs/chain-quick/figures
  popgrad run chain S=5 T=12 steps=2^13 lr=0.5 snapshots=log
  popgrad run birth model=transformer layers=3 heads=4
  popgrad run icl --params runs/chain/checkpoint.safetensors
  popgrad run --resume runs/chain steps=2^18
  popgrad run chain snapshots=log --dry-run      how long, how large
";

/// Of presets of one run only: [`take_seeds`] takes it out before keys are parsed.
const SEEDS: Key = Key::of_command(
    "seeds",
    config::Kind::Count(1, 1000),
    "repeat a preset of one run over this many seeds, with mean and spread",
);

/// The keys that apply to what the arguments of a command line name.
pub(super) struct KeysOf {
    /// In the order of the table of keys.
    pub(super) keys: Vec<Key>,
    /// The configuration, if they name a preset.
    resolved: Option<Table>,
    /// Task, model and optimiser, as far as they are named.
    chosen: Table,
}

impl KeysOf {
    /// Of the words of a command line.
    pub(super) fn words(words: &[String]) -> KeysOf {
        let resolved = resolved(words);
        let chosen = resolved.clone().unwrap_or_else(|| chosen(words));
        let mut keys = vec![SEEDS];
        keys.extend(config::keys_with(&chosen));
        keys.retain(|k| k.name != "preset");
        KeysOf { keys, resolved, chosen }
    }

    fn named(&self, by: &str) -> Option<&str> {
        self.chosen.get(by).and_then(Value::as_str)
    }

    /// The task, model or optimiser, if named, that decides on `key`.
    fn owner(&self, key: &Key) -> Option<&str> {
        key.scope.decided_by().and_then(|by| self.named(by))
    }

    /// The value of `key` in the preset; else its default.
    pub(super) fn value(&self, key: &Key) -> Option<Value> {
        match &self.resolved {
            Some(table) if key.name != SEEDS.name => table.get(key.name).cloned(),
            _ => key.default_value(self.owner(key)),
        }
    }

    /// A line for each.
    pub(super) fn text(&self) -> String {
        let by = ["task", "model", "optimizer"];
        let with: Vec<String> =
            by.iter().filter_map(|by| self.named(by).map(|w| format!("{by}={w}"))).collect();
        let head =
            if with.is_empty() { "Keys:\n".into() } else { format!("Keys with {}:\n", with.join(", ")) };
        let value = |key: &Key| self.resolved.as_ref().and_then(|table| table.get(key.name));
        head + &table::named(self.keys.iter().map(|k| (k.name, k.line(self.owner(k), value(k)))))
    }
}

/// The configuration that the arguments of a command line describe, if they name a preset.
fn resolved(words: &[String]) -> Option<Table> {
    let preset = words.iter().find(|w| is_preset(w))?;
    let mut layers = paper::preset(preset, words.iter().any(|w| w == "--quick")).ok()?;
    let keys: Vec<String> = words.iter().filter(|w| w.contains('=')).cloned().collect();
    layers.push(config::parse_overrides(&keys).ok()?);
    Some(config::resolve(&layers).ok()?.table())
}

/// The task, model and optimiser that the arguments of a command line choose, by the name of a
/// preset or as keys.
fn chosen(words: &[String]) -> Table {
    let presets = words.iter().filter(|w| is_preset(w)).take(1);
    let mut layers: Vec<Table> = presets.flat_map(|w| paper::preset(w, false).unwrap_or_default()).collect();
    let keys = words.iter().filter_map(|w| config::parse_overrides(std::slice::from_ref(w)).ok());
    layers.extend(keys);
    let mut chosen = Table::new();
    for layer in layers {
        let deciding = |k: &str| ["task", "model", "optimizer"].contains(&k);
        chosen.extend(layer.into_iter().filter(|(k, _)| deciding(k)));
    }
    if chosen.contains_key("model") && words.iter().any(|w| is_preset(w)) {
        chosen.entry("task").or_insert("causal_tree".into());
    }
    chosen
}

pub(super) fn run(args: RunArgs) -> Result<()> {
    let pool = args.threads.pool()?;
    let (job, folder, resumed) = match &args.resume {
        Some(folder) if folder.join(STUDY_FILE).is_file() => {
            if more_steps(&args)?.is_some() {
                return Err(Error::invalid("steps", "of a study", "of a single run"));
            }
            (Job::Study(Study::load(folder, &Papers)?), folder.clone(), true)
        }
        Some(folder) => (Job::Run(Box::new(go_on(&args, folder)?)), folder.clone(), true),
        None => {
            let job = resolve(&args)?;
            // Check everything before a folder is created.
            pool.install(|| job.check())?;
            let threads = pool.current_num_threads();
            let forecast = |budget| pool.install(|| job.forecast(threads, budget));
            if args.ahead.shows(args.out.as_deref(), || job.table(), forecast)? {
                return Ok(());
            }
            let folder = new_folder(args.out.as_deref(), job.name(), args.quick)?;
            (job, folder, false)
        }
    };
    super::signals::watch()?;
    match job {
        Job::Run(config) => {
            if args.quick {
                say_changes(&config)?;
            }
            let mut progress = progress::new(&config);
            let experiment = paper::experiment(&config)?;
            detail(|| format!("{}: {}", experiment.name(), keys_in_line(&config)));
            // Of a resumed run the file of its first weights may be gone: then nothing is said.
            detail(|| match run::bytes(experiment, &config) {
                Ok(bytes) => format!("memory while training: {}", in_words(bytes as u64)),
                Err(_) => "memory while training: unknown".into(),
            });
            let outcome = run::run(experiment, &config, &folder, resumed, &pool, progress.as_mut())?;
            show_summary(&outcome.summary)?;
            outcome.figures
        }
        Job::Study(study) => {
            let threads = pool.current_num_threads();
            // Each run has its own pool.
            drop(pool);
            if args.quick {
                say_changes(&study.runs[0].config)?;
            }
            plan::announce(&[(&study, study.left(&folder)?)], threads);
            let outcome = study.outcome(&folder, threads, progress::of_study().as_ref())?;
            let Outcome { mut summary, figures } = outcome;
            if wants_json() || !study.drawing.shows_key_numbers() {
                summary.set("folder", folder.display().to_string())?;
                show_summary(&summary)?;
            } else {
                tell(&format!("{}folder: {}\n", table::of_study(&study, &folder)?, folder.display()))?;
            }
            figures
        }
    }
}

/// A summary on stdout: as JSON, or rounded.
pub(super) fn show_summary(summary: &Summary) -> Result<()> {
    tell(&if wants_json() { summary.to_json() } else { table::of_summary(summary) })
}

/// The job that a command line describes.
enum Job {
    Run(Box<Config>),
    Study(Study),
}

impl Job {
    fn check(&self) -> Result<()> {
        match self {
            Job::Run(config) => run::check(paper::experiment(config)?, config),
            Job::Study(study) => study.check(),
        }
    }

    fn table(&self) -> Result<Table> {
        match self {
            Job::Run(config) => Ok(config.table()),
            Job::Study(study) => study.table(),
        }
    }

    fn forecast(&self, threads: usize, budget: Duration) -> Result<Forecast> {
        match self {
            Job::Run(config) => plan::of_run(paper::experiment(config)?, config, budget),
            Job::Study(study) => study.forecast(&study.runs.iter().collect::<Vec<_>>(), threads, budget),
        }
    }

    fn name(&self) -> &str {
        match self {
            Job::Run(config) => &config.plan.preset,
            Job::Study(study) => &study.name,
        }
    }
}

fn say_changes(config: &Config) -> Result<()> {
    let preset = &config.plan.preset;
    say(&format!("quick form of `{preset}`; changed from the paper's: {}", changes(config)?));
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
    if let (Some(path), true) = (&args.config, file.contains_key("runs")) {
        plan::alone(&[
            ("preset", preset.is_some()),
            ("key", !overrides.is_empty()),
            ("quick", args.quick),
            ("dtype", args.dtype.is_some()),
            ("seed", args.seed.is_some()),
            ("params", args.params.is_some()),
        ])?;
        return Ok(Job::Study(Study::from_table(path, file, &Papers)?));
    }
    let named = match file.remove("preset") {
        Some(Value::String(name)) => Some(name),
        Some(other) => return Err(Error::invalid("preset", other.to_string(), "the name of a preset")),
        None => None,
    };
    if let (Some(word), Some(name)) = (&preset, &named)
        && word != name
    {
        let allowed = format!("`{name}`, which the file names, or another file");
        return Err(Error::invalid("preset", format!("`{word}`"), allowed));
    }
    let Some(preset) = preset.or(named) else {
        let single = paper::presets().into_iter().map(|p| p.name);
        let several = studies::named_studies().map(|s| s.name).filter(|n| !is_preset(n)).map(String::from);
        let names: Vec<String> = single.chain(several).collect();
        return Err(Error::invalid("preset", "none", names.join(", ")));
    };
    let file = config::check_keys(file, config::KEYS)?;
    // The same keys in another form.
    let params = args.params.as_ref().map(|p| p.to_string_lossy().into_owned());
    for (key, value) in [("dtype", &args.dtype), ("seed", &args.seed), ("params", &params)] {
        overrides.extend(value.iter().map(|v| format!("{key}={v}")));
    }
    let seeds = take_seeds(&mut overrides)?;
    let layers = [file, config::parse_overrides(&overrides)?];
    if studies::find(&preset).is_some() && !is_preset(&preset) {
        return Ok(Job::Study(studies::named(&preset, args.quick, seeds, &layers)?));
    }
    let [file, given] = layers.clone();
    if let Some(whole) = whole(file, &preset).filter(|_| seeds.is_none() && !args.quick) {
        return Ok(Job::Run(Box::new(config::resolve_over(&[whole], &[given])?)));
    }
    let tables = paper::preset(&preset, args.quick)?;
    if let Some(count) = seeds {
        return Ok(Job::Study(studies::seeds(&preset, args.quick, count, &layers)?));
    }
    Ok(Job::Run(Box::new(config::resolve_over(&tables, &layers)?)))
}

/// A file that holds every key, as --print-config prints and run folders hold them: it takes the
/// place of the preset, of which it may be another form.
fn whole(mut file: Table, preset: &str) -> Option<Table> {
    file.insert("preset".into(), preset.into());
    let config = config::resolve(std::slice::from_ref(&file)).ok()?;
    Some(config.table()).filter(|table| *table == file)
}

/// True if it is the preset of a single run. A study of that run may have the same name.
pub(super) fn is_preset(name: &str) -> bool {
    paper::PAPERS.iter().flat_map(|p| p.presets).any(|(n, _)| *n == name)
}

/// Removes `seeds=K` from the overrides, as it is a key of studies and not of runs.
pub(super) fn take_seeds(overrides: &mut Vec<String>) -> Result<Option<u64>> {
    let mut seeds = None;
    let mut rest = Vec::new();
    for word in std::mem::take(overrides) {
        match word.split_once('=') {
            Some((key, text)) if key.trim() == "seeds" => {
                let count = text.trim().parse::<u64>();
                let count = count.map_err(|_| Error::invalid("seeds", format!("`{text}`"), "1 to 1000"))?;
                if let Some(first) = seeds.replace(count) {
                    return Err(config::twice("seeds", first, count));
                }
            }
            _ => rest.push(word),
        }
    }
    *overrides = rest;
    Ok(seeds)
}

/// Every key of a configuration, as `key=value, ..`.
fn keys_in_line(config: &Config) -> String {
    let table = config.table();
    table.iter().map(|(k, v)| format!("{k}={}", brief(v.to_string()))).collect::<Vec<_>>().join(", ")
}

/// What differs from the preset's full form, as `key=value, ..`.
fn changes(config: &Config) -> Result<String> {
    let full = config::resolve(&paper::preset(&config.plan.preset, false)?)?.table();
    let now = config.table();
    let differs = now.iter().filter(|(k, v)| full.get(*k) != Some(*v));
    Ok(differs.map(|(k, v)| format!("{k}={}", brief(v.to_string()))).collect::<Vec<_>>().join(", "))
}

/// The number of updates that a run is to go on to.
fn more_steps(args: &RunArgs) -> Result<Option<u64>> {
    let words: Vec<String> = args.preset.iter().chain(&args.overrides).cloned().collect();
    if let Some(word) = words.iter().find(|w| !w.contains('=')) {
        return Err(Error::invalid("resume", format!("with `{word}`"), "alone, or with steps=N"));
    }
    let given = config::parse_keys(&words, config::KEYS)?;
    if let Some(key) = given.keys().find(|k| *k != "steps") {
        let allowed =
            "steps=N alone: the other keys stay as the run began (another run from its weights: --params)";
        return Err(Error::invalid(key, "given with --resume", allowed));
    }
    Ok(given.get("steps").and_then(Value::as_integer).map(|n| n as u64))
}

/// The configuration to resume with.
fn go_on(args: &RunArgs, folder: &Path) -> Result<Config> {
    let config = read_run(folder)?;
    let Some(steps) = more_steps(args)? else { return Ok(config) };
    let before = config.plan.steps;
    let config = folder::extend(folder, steps, paper::experiment)?;
    if steps != before && config.plan.schedule == Schedule::Cosine {
        warn(&format!("schedule=cosine: the rate goes to 0 at update {steps} now, no longer at {before}"));
    }
    Ok(config)
}

/// The configuration that a run folder was made with.
fn read_run(run: &Path) -> Result<Config> {
    expect("resume", run, folder::CONFIG_FILE, "the folder of an earlier run")?;
    folder::read_config(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_shows_the_keys_that_apply() {
        let keys = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|w| w.to_string()).collect();
            let text = KeysOf::words(&words).text();
            let keys = text.strip_prefix("Keys").unwrap();
            keys.lines()
                .skip(1)
                .filter_map(|l| l.split_whitespace().next().map(String::from))
                .collect::<Vec<_>>()
        };
        let has = |all: &[String], key: &str| all.iter().any(|k| k == key);
        let all = keys(&[]);
        assert!(config::KEYS.iter().filter(|k| k.name != "preset").all(|k| has(&all, k.name)));
        let birth = keys(&["birth", "--help"]);
        assert!(has(&birth, "corpus") && has(&birth, "ff1") && has(&birth, "momentum"));
        assert!(!has(&birth, "graph") && !has(&birth, "init") && !has(&birth, "beta1"));
        let chain = keys(&["chain", "model=transformer", "--help"]);
        assert!(has(&chain, "graph") && has(&chain, "block") && !has(&chain, "init") && !has(&chain, "K"));
        let ngram = keys(&["chain", "graph=ngram", "order=2", "--help"]);
        assert!(has(&ngram, "parent_sets") && !has(&ngram, "parents"));
        // With a preset, the values that a run of it has.
        let line = |words: &[&str], key: &str| {
            let words: Vec<String> = words.iter().map(|w| w.to_string()).collect();
            let start = format!("  {key} ");
            KeysOf::words(&words).text().lines().find(|l| l.starts_with(&start)).map(String::from).unwrap()
        };
        assert!(line(&["chain"], "steps").ends_with("[131072]"));
        assert!(line(&["chain", "--quick"], "steps").ends_with("[2048]"));
        assert!(line(&["chain", "S=7"], "S").ends_with("[7]"));
        assert!(line(&["chain"], "heads").ends_with("[1, 1]"));
        assert!(line(&["birth"], "momentum").ends_with("[0.9]"));
        assert!(line(&["chain", "model=transformer"], "optimizer").ends_with("[adamw]"));
    }
}
