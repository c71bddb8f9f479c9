//! `popgrad figures`: the studies of the papers in one folder, with a page that shows them.

use super::output::new_folder;
use super::plan::{self, Ahead};
use super::run::take_seeds;
use super::{Threads, progress, say, show, table, tell, wants_json};
use crate::config;
use crate::input::decode;
use crate::paper::studies::{self, Named, named_studies};
use crate::paper::{PAPERS, Paper, Papers};
use crate::report::digest;
use crate::report::files::{FolderLock, claim_folder, create_run_dir, expect, lock_folder};
use crate::report::metrics::Summary;
use crate::report::page::Page;
use crate::study::{Member, Study};
use crate::{Error, Result};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use toml::Table;

/// The list of studies, inside the folder.
pub(super) const FIGURES_FILE: &str = "figures.toml";
/// The page.
const INDEX_FILE: &str = "index.html";

/// Arguments of `popgrad figures`.
#[derive(Debug, Args)]
pub(super) struct FiguresArgs {
    /// Overrides for every run, e.g. steps=2^12.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Short forms: a few minutes in all.
    #[arg(long)]
    quick: bool,
    /// Names of the figures to make [default: those of the papers].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Folder: new or empty [default: runs/figures, numbered].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A file of figures, from --print-config: the same figures.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["overrides", "quick", "only"])]
    config: Option<PathBuf>,
    /// Continue the figures in this folder.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["overrides", "quick", "only", "out", "config",
        "print_config", "dry_run"])]
    resume: Option<PathBuf>,
    #[command(flatten)]
    ahead: Ahead,
    #[command(flatten)]
    threads: Threads,
}

/// Figures, for `--help`.
pub(super) fn after_help() -> String {
    let unasked = |s: &Named| if s.in_paper { "" } else { " [with --only]" };
    let lines = named_studies().map(|s| (s.name, format!("{}{}", s.what, unasked(s))));
    let examples = "  popgrad figures --quick\n  popgrad figures --only causal-fig2,birth-fig2 --dry-run";
    format!("Figures:\n{}\nExamples:\n{examples}", table::named_in_help(lines))
}

/// What a folder of figures holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    /// Names of studies, each a folder.
    studies: Vec<String>,
    quick: bool,
    overrides: Vec<String>,
}

pub(super) fn figures(args: &FiguresArgs) -> Result<()> {
    let pool = args.threads.pool()?;
    let (folder, _lock, plan, all) = match &args.resume {
        Some(folder) => {
            expect("resume", folder, FIGURES_FILE, "the folder of earlier `popgrad figures`")?;
            let lock = lock_folder(folder)?;
            let plan = read_plan(folder)?;
            let all = plan
                .studies
                .iter()
                .map(|n| Study::load(&folder.join(n), &Papers))
                .collect::<Result<Vec<_>>>()?;
            (folder.clone(), lock, plan, all)
        }
        None => {
            let (plan, all) = match &args.config {
                Some(path) => of_file(path)?,
                None => {
                    let plan = make_plan(args)?;
                    let all = studies_of(&plan)?;
                    (plan, all)
                }
            };
            pool.install(|| all.iter().try_for_each(Study::check))?;
            let runs: Vec<(&Study, Vec<&Member>)> =
                all.iter().map(|s| (s, s.runs.iter().collect())).collect();
            let forecast = |budget| plan::of_all(&runs, pool.current_num_threads(), budget);
            if args.ahead.shows(args.out.as_deref(), || to_table(&plan, &all), forecast)? {
                return Ok(());
            }
            let folder = new_folder(args.out.as_deref(), "figures", plan.quick)?;
            let lock = begin(&folder, &plan, &all)?;
            (folder, lock, plan, all)
        }
    };
    super::signals::watch()?;
    let threads = pool.current_num_threads();
    // Each run has its own pool.
    drop(pool);
    let left = all.iter().map(|s| Ok((s, s.left(&folder.join(&s.name))?))).collect::<Result<Vec<_>>>()?;
    plan::announce(&left, threads);
    let mut figures = Ok(());
    let mut made = Vec::new();
    for study in &all {
        say(&format!("{}: {}", study.name, study.title));
        let sub = folder.join(&study.name);
        let outcome = study.outcome(&sub, threads, progress::of_study().as_ref()).map_err(|e| match e {
            Error::Stopped { done, .. } => {
                Error::Stopped { done: format!("{done} of `{}`", study.name), folder: folder.clone() }
            }
            e => e,
        })?;
        if !wants_json() {
            tell(&table::of_outcome(study, &sub, &outcome.summary)?)?;
        }
        made.push(Made::of(study, &outcome.summary)?);
        // The other studies and the page are worth having without it.
        figures = figures.and(outcome.figures);
    }
    let page = page(&folder, &plan, &all)?;
    page.save(&folder.join(INDEX_FILE))?;
    let index = folder.join(INDEX_FILE).display().to_string();
    let all = All { folder: folder.display().to_string(), page: index.clone(), studies: made };
    show(&all, || format!("page: {index}\n"))?;
    figures
}

/// What `--json` prints.
#[derive(Serialize)]
struct All {
    folder: String,
    page: String,
    studies: Vec<Made>,
}

/// A study there.
#[derive(Serialize)]
struct Made {
    name: String,
    title: String,
    summary: serde_json::Value,
}

impl Made {
    fn of(study: &Study, summary: &Summary) -> Result<Self> {
        let read = serde_json::from_str(&summary.to_json());
        let summary = read.map_err(|e| Error::invalid("summary", e.to_string(), "JSON"))?;
        Ok(Made { name: study.name.clone(), title: study.title.clone(), summary })
    }
}

/// A plan with its studies as they are resolved.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolved {
    studies: Vec<String>,
    quick: bool,
    overrides: Vec<String>,
    study: Vec<Table>,
}

fn to_table(plan: &Plan, all: &[Study]) -> Result<Table> {
    let study = all.iter().map(Study::table).collect::<Result<_>>()?;
    let Plan { studies, quick, overrides } = plan;
    let whole = Resolved { studies: studies.clone(), quick: *quick, overrides: overrides.clone(), study };
    Table::try_from(whole).map_err(|e| Error::invalid("figures", e.to_string(), "values that TOML can hold"))
}

/// The figures that a file holds.
fn of_file(path: &Path) -> Result<(Plan, Vec<Study>)> {
    let bad = |problem: &str| Error::format(path, problem.replace('\n', " "));
    let Resolved { studies, quick, overrides, study } =
        config::read_table(path)?.try_into().map_err(|e: toml::de::Error| bad(e.message()))?;
    let all: Vec<Study> =
        study.into_iter().map(|t| Study::from_table(path, t, &Papers)).collect::<Result<_>>()?;
    let named = |s: &Study| studies::find(&s.name).is_some();
    if all.is_empty() || !all.iter().all(named) || !all.iter().map(|s| &s.name).eq(&studies) {
        return Err(bad("`studies` and the tables `study` do not name the same known studies"));
    }
    Ok((Plan { studies, quick, overrides }, all))
}

fn make_plan(args: &FiguresArgs) -> Result<Plan> {
    if let Some(name) = args.only.iter().find(|n| studies::find(n).is_none()) {
        return Err(Error::unknown("figure", name, named_studies().map(|s| s.name)));
    }
    let selected = |s: &&Named| {
        if args.only.is_empty() { s.in_paper } else { args.only.iter().any(|n| n == s.name) }
    };
    Ok(Plan {
        studies: named_studies().filter(selected).map(|s| s.name.to_string()).collect(),
        quick: args.quick,
        overrides: args.overrides.clone(),
    })
}

fn studies_of(plan: &Plan) -> Result<Vec<Study>> {
    let mut overrides = plan.overrides.clone();
    if take_seeds(&mut overrides)?.is_some() {
        return Err(Error::invalid("seeds", "given", "`popgrad run NAME seeds=K`, one study at a time"));
    }
    let layer = config::parse_overrides(&overrides)?;
    let all =
        plan.studies.iter().map(|n| studies::named(n, plan.quick, None, &[])).collect::<Result<Vec<_>>>()?;
    if let Some(key) = layer.keys().find(|k| !means_one_thing(k, &all)) {
        let allowed = "with --only and figures of one paper (causal-.. or birth-..): it means other things in the other";
        return Err(Error::invalid(key, "given", allowed));
    }
    let of = |study: &Study| studies::named(&study.name, plan.quick, None, &[own(study, &layer)]);
    all.iter().map(of).collect()
}

/// The keys of `layer` that the runs of `study` have.
fn own(study: &Study, layer: &Table) -> Table {
    let has = |k: &str| study.runs.iter().all(|m| exists(k, &m.config.table()));
    layer.iter().filter(|(k, _)| has(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// True if a key exists in a run of this configuration.
fn exists(key: &str, config: &Table) -> bool {
    config::keys_with(config).iter().any(|k| k.name == key)
}

/// True if some study has the key, and it means the same in all studies that have it. That holds
/// for keys of every run, for T, and for any key within one paper. It does not hold across papers
/// for the choice of task, model, optimiser or block.
fn means_one_thing(key: &str, all: &[Study]) -> bool {
    let tasks = all.iter().filter(|s| s.runs.iter().all(|m| exists(key, &m.config.table())));
    let paper = |s: &Study| Paper::of(&s.runs[0].config).map_or("", |p| p.citation);
    let mut papers: Vec<&str> = tasks.map(paper).collect();
    papers.dedup();
    let everywhere = config::KEYS.iter().any(|k| k.name == key && k.scope.decided_by().is_none());
    let of_a_paper = ["task", "model", "optimizer", "frozen", "freeze_until"].contains(&key);
    match papers.len() {
        0 => false,
        1 => true,
        _ => key == "T" || (everywhere && !of_a_paper),
    }
}

/// Claims the folder and writes the files of all studies and then the plan, so that a process
/// killed at any later time can be resumed.
fn begin(folder: &Path, plan: &Plan, all: &[Study]) -> Result<FolderLock> {
    let lock = claim_folder(folder)?;
    for study in all {
        let sub = folder.join(&study.name);
        create_run_dir(&sub)?;
        study.save(&sub)?;
    }
    let text = toml::to_string(plan)
        .map_err(|e| Error::invalid("figures", e.to_string(), "values that TOML can hold"))?;
    digest::write_with(folder, FIGURES_FILE, text.as_bytes())?;
    Ok(lock)
}

fn read_plan(folder: &Path) -> Result<Plan> {
    let path = folder.join(FIGURES_FILE);
    let bytes = digest::checked(folder, FIGURES_FILE)?;
    let text = decode(&path, &bytes)?;
    let plan: Plan =
        toml::from_str(&text).map_err(|e| Error::format(&path, e.message().replace('\n', " ")))?;
    match plan.studies.iter().find(|n| studies::find(n).is_none()) {
        Some(name) => Err(Error::format(path, format!("unknown study `{name}`"))),
        None => Ok(plan),
    }
}

fn page(folder: &Path, plan: &Plan, all: &[Study]) -> Result<Page> {
    let mut sections = Vec::new();
    for study in all {
        let mut section = study.section(&folder.join(&study.name), &study.name)?;
        if let Some(of) = studies::find(&study.name) {
            section.text.push(format!("In the paper: {}", of.shows));
            section.text.push(format!("Expected result: {}", of.expect));
        }
        section.text.push(format!("Parameters of all its runs: {}.", study.common_keys()));
        let quick = if plan.quick { " --quick" } else { "" };
        let has = |o: &&String| {
            let key = o.split('=').next().unwrap_or_default().trim();
            study.runs.iter().all(|m| exists(key, &m.config.table()))
        };
        let overrides: String =
            plan.overrides.iter().filter(has).map(|o| format!(" {}", super::output::shell_word(o))).collect();
        section.command = format!("popgrad run {}{overrides}{quick}", study.name);
        section.links.push(format!("{}/study.toml", study.name));
        sections.push(section);
    }
    let form = if plan.quick { "Short forms: other sizes than the paper's. " } else { "" };
    Ok(Page {
        title: "How transformers learn: figures".into(),
        summary: format!(
            "{form}{} By popgrad {}.",
            PAPERS.map(|p| p.citation).join(" "),
            env!("CARGO_PKG_VERSION")
        ),
        sections,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(studies: &[&str], overrides: &[&str]) -> Result<Vec<Study>> {
        let own = |all: &[&str]| all.iter().map(|s| s.to_string()).collect();
        studies_of(&Plan { studies: own(studies), quick: true, overrides: own(overrides) })
    }

    #[test]
    fn keys_go_where_they_mean_the_same() {
        let both = ["causal-fig2", "birth-fig2"];
        for (word, at) in
            [("seed=7", [true, true]), ("T=32", [true, true]), ("S=4", [true, false]), ("K=3", [false, true])]
        {
            let (before, after) = (plan(&both, &[]).unwrap(), plan(&both, &[word]).unwrap());
            for ((a, b), changed) in before.iter().zip(&after).zip(at) {
                assert_eq!(a.runs[0].config != b.runs[0].config, changed, "{word}");
            }
        }
        for word in ["alpha=0.5", "model=memory", "optimizer=adamw", "frozen=W"] {
            let key = word.split('=').next().unwrap();
            let message = plan(&both, &[word]).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{key}: given; allowed: with --only")), "{message}");
        }
        assert!(plan(&both[..1], &["alpha=0.5"]).is_ok() && plan(&["birth-depth"], &["heads=2"]).is_ok());
        for (word, near) in [("triger=3", "`triggers`"), ("rots=uniform", "`roots`")] {
            let message = plan(&both, &[word]).unwrap_err().to_string();
            assert!(message.contains(near), "{message}");
        }
        assert!(plan(&["causal-fig2", "causal-fig5"], &["S=4"]).is_ok(), "two studies of one paper");
        assert!(plan(&both, &["steps"]).is_err());
    }

    #[test]
    fn words_of_a_command_survive_a_shell() {
        assert_eq!(
            crate::cli::output::shell_word("freeze_until=3:wk0,wk1/5:wo1"),
            "freeze_until=3:wk0,wk1/5:wo1"
        );
        assert_eq!(crate::cli::output::shell_word("freeze_until=3:wk0;5:wo1"), "'freeze_until=3:wk0;5:wo1'");
        assert_eq!(crate::cli::output::shell_word("corpus=it's here"), r"'corpus=it'\''s here'");
    }
}
