//! `popgrad report`: one page about runs and studies, complete in itself.

use super::finished::run_config;
use super::output::outside_runs;
use super::show;
use crate::config::{self, Config};
use crate::error::brief;
use crate::input::{self, in_words};
use crate::paper::{self, Paper, Papers};
use crate::report::files::{FIGURES_FOLDER, expect, write_bytes_atomic};
use crate::report::html::data::{Command, Part, Picture, RunPart, StudyPart};
use crate::report::html::parts::{anchor, page};
use crate::report::metrics::SUMMARY_FILE;
use crate::report::plot::{LineChart, Series};
use crate::report::records::{shell_word, value};
use crate::run::{self, Results, folder};
use crate::study::gather::groups_of;
use crate::study::{Member, RUNS_FOLDER, STUDY_FILE, Study, value_text};
use crate::{Error, Result};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};

/// The page inside the folder of a run or a study.
const REPORT_FILE: &str = "report.html";
/// Numbers of matrices that a page holds at most: five and a third bytes each.
const MOST_NUMBERS: usize = 800_000;
/// Most runs of a study that have parts of their own.
const MOST_PARTS: usize = 12;
/// Most curves in one chart.
const MOST_CURVES: usize = 14;
/// Largest figure of a study that is put into the page, bytes.
const MOST_PICTURE: usize = 2 << 20;

/// Arguments of `popgrad report`.
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Folders of runs or of studies.
    #[arg(required = true, value_name = "RUN|STUDY")]
    folders: Vec<PathBuf>,
    /// The page, .html [default: report.html in the folder, of a single one].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    threads: super::Threads,
}

pub(super) const AFTER_HELP: &str = "\
The page needs no network and no other file: results, configuration, provenance, curves whose values are read with the pointer or the \
arrow keys, attention and weights with a slider over the run's snapshots (key `snapshots`), the learned graph beside the true one, \
attention on a sample text, the equations, the commands that make it again. Of a study: a table of its runs, their curves, its figures, \
and a part for each of up to 12 runs.
Snapshots are left out where a page would be larger than about 5 MB, which the page says.

Examples:
  popgrad run chain --quick snapshots=log && popgrad report runs/chain-quick
  popgrad report runs/birth-quick --out birth.html
  popgrad report runs/chain-quick runs/birth-quick --out both.html
  popgrad report runs/causal-seeds --json
See docs/src/reference/report.md.";

pub(super) fn report(args: &ReportArgs) -> Result<()> {
    let pool = args.threads.pool()?;
    let out = out(args)?;
    let (parts, title) = pool.install(|| parts(args, &out))?;
    let lead =
        format!("By popgrad {}. The page needs no network and no other file.", env!("CARGO_PKG_VERSION"));
    let text = page(&title, &lead, &parts)?;
    write_bytes_atomic(&out, text.as_bytes())?;
    let runs = parts.iter().filter(|p| matches!(p, Part::Run(_))).count();
    let snapshots: usize =
        parts.iter().map(|p| if let Part::Run(r) = p { r.album.steps.len() } else { 0 }).sum();
    let written = json!({
        "report": out.display().to_string(), "bytes": text.len(), "parts": parts.len(), "runs": runs,
        "snapshots": snapshots,
    });
    show(&written, || format!("report: {} ({})\n", out.display(), in_words(text.len() as u64)))
}

/// Where the page goes.
fn out(args: &ReportArgs) -> Result<PathBuf> {
    match (&args.out, &args.folders[..]) {
        (Some(out), _) => {
            if !["html", "htm"].contains(&input::extension(out).as_str()) {
                let found = out.display().to_string();
                return Err(Error::invalid("out", found, "a file name that ends in .html"));
            }
            // Its own default place is not another's file.
            let own = |f: &PathBuf| is_same(&f.join(REPORT_FILE), out);
            if !args.folders.iter().any(own) {
                outside_runs("out", out)?;
            }
            Ok(out.clone())
        }
        (None, [one]) => Ok(one.join(REPORT_FILE)),
        (None, many) => {
            let found = format!("none, with {} folders", many.len());
            Err(Error::invalid("out", found, "--out FILE, the page about all of them"))
        }
    }
}

/// True if both are the same file of the same folder, whether it exists or not.
fn is_same(a: &Path, b: &Path) -> bool {
    let place = |p: &Path| {
        let parent = p.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some((parent.canonicalize().ok()?, p.file_name()?.to_owned()))
    };
    place(a).is_some_and(|a| place(b) == Some(a))
}

/// The parts of the page, and its heading.
fn parts(args: &ReportArgs, out: &Path) -> Result<(Vec<Part>, String)> {
    let mut studies = 0;
    for folder in &args.folders {
        if folder.join(STUDY_FILE).is_file() {
            studies += 1;
        } else {
            expect("run", folder, folder::CONFIG_FILE, "the folder of a run or a study")?;
        }
    }
    let each = MOST_NUMBERS / args.folders.len();
    let names = names(&args.folders);
    let mut parts = Vec::new();
    for (folder, name) in args.folders.iter().zip(&names) {
        if folder.join(STUDY_FILE).is_file() {
            of_study(name, folder, each, out, &mut parts)?;
        } else {
            parts.push(Part::Run(of_run(name, folder, each)?.into()));
        }
    }
    let title = match (&names[..], studies) {
        ([one], _) => one.clone(),
        (many, 0) => format!("{} runs", many.len()),
        (many, _) => format!("{} runs and studies", many.len()),
    };
    Ok((parts, title))
}

/// Names of folders; those of equal names by their paths.
fn names(folders: &[PathBuf]) -> Vec<String> {
    let plain = |p: &PathBuf| {
        let name = p.canonicalize().ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
        name.unwrap_or_else(|| p.display().to_string())
    };
    let all: Vec<String> = folders.iter().map(plain).collect();
    let alone = |name: &String| all.iter().filter(|n| *n == name).count() == 1;
    all.iter().zip(folders).map(|(n, p)| if alone(n) { n.clone() } else { p.display().to_string() }).collect()
}

fn of_run(name: &str, folder: &Path, most: usize) -> Result<RunPart> {
    let config = run_config(folder)?;
    let mut part = run::report::part(name, folder, &config, paper::experiment, most)?;
    part.about = about(&config)?;
    part.commands = commands(&config)?;
    let line = format!("popgrad report {}", shell_word(&folder.display().to_string()));
    part.commands.push(Command { what: "This page:".into(), line });
    Ok(part)
}

/// What a run is.
fn about(config: &Config) -> Result<Vec<String>> {
    let preset = &config.plan.preset;
    let what = paper::presets().into_iter().find(|p| p.name == *preset).map(|p| p.what);
    let (model, task) = (config.model.name(), config.task.name());
    let of = match what {
        Some(what) => format!("Preset {preset}: {what}."),
        None => format!("Preset {preset}."),
    };
    // Without the names of its figures.
    let paper = Paper::of(config)?.citation;
    let paper = paper.split_once(": ").map_or(paper, |(_, paper)| paper);
    Ok(vec![of, format!("Model {model} on {task}. Paper: {paper}")])
}

/// How to make a run again: the shorter command of both forms of its preset, and its file.
fn commands(config: &Config) -> Result<Vec<Command>> {
    let mut all = Vec::new();
    let lines: Vec<String> = [false, true]
        .iter()
        .filter_map(|quick| by_preset(config, *quick).transpose())
        .collect::<Result<_>>()?;
    if let Some(line) = lines.into_iter().min_by_key(String::len) {
        all.push(Command { what: "The run:".into(), line });
    }
    let line = "popgrad run --config config.toml".into();
    all.push(Command { what: "The same from its configuration above:".into(), line });
    Ok(all)
}

/// `popgrad run PRESET KEY=VALUE ..` where that gives exactly this configuration.
fn by_preset(config: &Config, quick: bool) -> Result<Option<String>> {
    let Ok(preset) = paper::preset(&config.plan.preset, quick) else { return Ok(None) };
    let (base, own) = (config::resolve(&preset)?.table(), config.table());
    let differs = own.iter().filter(|(k, v)| base.get(*k) != Some(*v));
    let words: Vec<String> = differs.map(|(k, v)| format!("{k}={}", value_text(v))).collect();
    let Ok(layer) = config::parse_overrides(&words) else { return Ok(None) };
    if config::resolve_over(&preset, &[layer]).ok().as_ref() != Some(config) {
        return Ok(None);
    }
    let keys: String = words.iter().map(|w| format!(" {}", shell_word(w))).collect();
    let short = if quick { " --quick" } else { "" };
    Ok(Some(format!("popgrad run {}{keys}{short}", config.plan.preset)))
}

/// A run of a study, and what its folder holds.
struct Found<'a> {
    member: &'a Member,
    folder: PathBuf,
    finished: bool,
    results: Results,
}

/// Adds the part of a study, and those of its runs where they are few.
fn of_study(name: &str, folder: &Path, most: usize, out: &Path, parts: &mut Vec<Part>) -> Result<()> {
    let study = Study::load(folder, &Papers)?;
    let mut found = Vec::new();
    for member in &study.runs {
        let run = study.folder_of(folder, member);
        let finished = run.join(SUMMARY_FILE).is_file();
        if finished {
            folder::check_results(&run)?;
        }
        let results = run::report::results(&run)?;
        found.push(Found { member, folder: run, finished, results });
    }
    let all_over = found.iter().all(|f| f.finished);
    let started: Vec<&Found<'_>> =
        found.iter().filter(|f| f.folder.join(folder::CONFIG_FILE).is_file()).collect();
    let with_parts = started.len() <= MOST_PARTS;
    // Links only where the page lies in the study's folder: it may be moved anywhere else.
    let beside = is_same(&folder.join(REPORT_FILE), out);
    let first = parts.len() + 1;
    let mut notes = Vec::new();
    if !all_over {
        let over = found.iter().filter(|f| f.finished).count();
        notes.push(format!("The study is not over: {over} of {} runs are.", found.len()));
    }
    if !with_parts {
        let of_one = format!("{}/{RUNS_FOLDER}/NAME", folder.display());
        notes.push(format!(
            "Its {} runs have no parts in this page; popgrad report {} makes one of a run.",
            started.len(),
            shell_word(&of_one)
        ));
    }
    let keys = result_keys(&found);
    let leads = |f: &Found<'_>| match started.iter().position(|s| s.member.name == f.member.name) {
        Some(at) if with_parts => format!("#{}", anchor(first + at)),
        Some(_) if beside && f.finished => format!("{RUNS_FOLDER}/{}/{SUMMARY_FILE}", f.member.name),
        _ => String::new(),
    };
    let cells = |f: &Found<'_>| {
        let of = |key: &String| {
            f.results.summary.iter().find(|(k, _)| k == key).map_or("-".into(), |(_, v)| value(v))
        };
        std::iter::once(f.member.group.clone()).chain(keys.iter().map(of)).collect()
    };
    let key_numbers = match all_over {
        true => study.drawing.key_numbers(&study, folder)?,
        false => (Vec::new(), Vec::new()),
    };
    let command = Command {
        what: "This page:".into(),
        line: format!("popgrad report {}", shell_word(&folder.display().to_string())),
    };
    let again = Command {
        what: "The study, from the file in its folder:".into(),
        line: format!("popgrad run --config {STUDY_FILE}"),
    };
    parts.push(Part::Study(
        StudyPart {
            name: name.into(),
            title: study.title.clone(),
            about: vec![format!("Common to all runs: {}.", brief(study.common_keys()))],
            key_numbers: (key_numbers.0.into_iter().map(String::from).collect(), key_numbers.1),
            columns: std::iter::once("group".into()).chain(keys.iter().cloned()).collect(),
            runs: found.iter().map(|f| (f.member.name.clone(), leads(f), cells(f))).collect(),
            charts: curves(&found, &mut notes),
            pictures: pictures(&study, folder, &mut notes)?,
            sessions: run::report::sessions(folder)?,
            notes,
            commands: vec![again, command],
        }
        .into(),
    ));
    if with_parts {
        for f in &started {
            let part = of_run(&format!("{name}/{}", f.member.name), &f.folder, most / started.len())?;
            parts.push(Part::Run(part.into()));
        }
    }
    Ok(())
}

/// Columns of a table of runs.
const MOST_COLUMNS: usize = 8;

/// The first numbers of the summaries, in order.
fn result_keys(found: &[Found<'_>]) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for (key, v) in found.iter().flat_map(|f| &f.results.summary) {
        let of_run = crate::study::tables::NOT_OF_THE_RESULT.contains(&key.as_str());
        if !of_run && !v.is_array() && !v.is_object() && !keys.contains(key) {
            keys.push(key.clone());
        }
    }
    keys.truncate(MOST_COLUMNS);
    keys
}

/// Curves of a study: key, heading, axis.
const CURVES: [(&str, &str, &str); 4] = [
    ("test_loss", "Test loss", "nats"),
    ("train_loss", "Training loss", "nats"),
    ("attention_on_parent_mean", "Attention on the parent", "share"),
    ("acc_end_test", "Accuracy in context, held out", "share"),
];

/// A curve for each run; of many runs the mean of each group of repetitions.
fn curves(found: &[Found<'_>], notes: &mut Vec<String>) -> Vec<LineChart> {
    let of_groups = found.len() > MOST_CURVES;
    let groups = groups_of(found.iter().map(|f| (f.member.group.as_str(), f)));
    let mut charts = Vec::new();
    for (key, title, y) in CURVES {
        let mut curves: Vec<(String, Vec<(f64, f64)>)> = match of_groups {
            false => found.iter().map(|f| (f.member.name.clone(), f.results.curve(key))).collect(),
            true => groups.iter().map(|(group, runs)| (group.to_string(), mean(runs, key))).collect(),
        };
        curves.retain(|c| !c.1.is_empty());
        curves.truncate(MOST_CURVES);
        let series = curves.into_iter().enumerate();
        let series: Vec<Series> = series
            .map(|(i, (name, points))| Series { dashed: i >= 7, ..Series::new(name, points, i) })
            .collect();
        if !series.is_empty() {
            charts.push(LineChart::over_steps(title, y, series, None));
        }
    }
    if of_groups && !charts.is_empty() {
        let shown = groups.len().min(MOST_CURVES);
        notes.push(format!("Curves: means of {shown} of {} groups of runs.", groups.len()));
    }
    charts
}

/// The mean over `runs`, at the updates at which all of them were evaluated.
fn mean(runs: &[&Found<'_>], key: &str) -> Vec<(f64, f64)> {
    let all: Vec<Vec<(f64, f64)>> = runs.iter().map(|f| f.results.curve(key)).collect();
    let Some(first) = all.first() else { return Vec::new() };
    let at = |x: f64| {
        let of = |c: &Vec<(f64, f64)>| c.iter().find(|p| p.0 == x).map(|p| p.1);
        let values: Option<Vec<f64>> = all.iter().map(of).collect();
        values.map(|v| (x, v.iter().sum::<f64>() / v.len() as f64))
    };
    first.iter().filter_map(|p| at(p.0)).collect()
}

/// The figures that a study has drawn.
fn pictures(study: &Study, folder: &Path, notes: &mut Vec<String>) -> Result<Vec<Picture>> {
    let mut all = Vec::new();
    for (stem, caption) in study.drawing.figures(study) {
        let path = folder.join(FIGURES_FOLDER).join(format!("{stem}.svg"));
        if !path.is_file() {
            continue;
        }
        let svg = input::bytes(&path, input::RECORDS)?;
        if svg.len() > MOST_PICTURE {
            notes.push(format!("The figure {stem} is left out: {}.", in_words(svg.len() as u64)));
            continue;
        }
        all.push(Picture { caption: (*caption).into(), svg });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_gives_the_configuration_again() {
        let of = |preset: &str, quick: bool, words: &[&str]| {
            let words: Vec<String> = words.iter().map(|w| w.to_string()).collect();
            let layers = paper::preset(preset, quick).unwrap();
            let config = config::resolve_over(&layers, &[config::parse_overrides(&words).unwrap()]).unwrap();
            commands(&config).unwrap()[0].line.clone()
        };
        assert_eq!(of("chain", false, &[]), "popgrad run chain");
        assert_eq!(of("chain", true, &["snapshots=log"]), "popgrad run chain snapshots=log --quick");
        assert_eq!(of("chain", false, &["heads=2,1", "lr=0.5"]), "popgrad run chain heads=2,1 lr=0.5");
        assert_eq!(of("birth", true, &["corpus=a b"]), "popgrad run birth 'corpus=a b' --quick");
    }
}
