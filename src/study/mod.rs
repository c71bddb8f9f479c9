//! Studies: several runs in ordinary run folders below one folder, executed in parallel, then drawn
//! together.
//!
//! Every run has the same bits as when it is run alone, on any number of threads. The whole study
//! is written to `study.toml` before its first run starts, so it can be resumed from its folder:
//! finished runs are skipped, unfinished ones continue from their checkpoints, and the figures are
//! drawn again. A [`Drawing`] decides what is gathered from the runs and how it is drawn.

mod forecast;
pub mod gather;
pub mod tables;

pub use forecast::Forecast;

use crate::config::{self, Config, KEYS, check_keys};
use crate::input::decode;
use crate::report::digest;
use crate::report::files::{claim_folder, create_run_dir, lock_folder};
use crate::report::metrics::{SUMMARY_FILE, Summary};
use crate::report::page::{Image, Row, Section};
use crate::run::folder::FIGURES_FOLDER;
use crate::run::{self, Experiment, Outcome, Progress, folder, provenance};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use toml::{Table, Value};

/// The whole study inside its folder.
pub const STUDY_FILE: &str = "study.toml";
/// Folder of the runs inside the study's folder.
pub const RUNS_FOLDER: &str = "runs";
/// Largest number of runs of a study; a larger number is probably a typing error.
pub const MOST_RUNS: usize = 4096;

/// Columns and rows of a short table.
pub type ShortTable = (Vec<&'static str>, Vec<Vec<String>>);

/// How the runs of a study are gathered, put in tables and drawn.
pub trait Drawing: Sync {
    /// Its name in `study.toml`.
    fn name(&self) -> &'static str;
    /// True if it can draw runs of this configuration.
    fn takes(&self, config: &Config) -> bool;
    /// Writes tables and figures of finished runs into the study's folder; returns the summary,
    /// which is also written, and whether the figures were.
    ///
    /// # Errors
    /// Runs that are not over, damaged files, files that cannot be written but for figures.
    fn write(&self, study: &Study, folder: &Path) -> Result<Outcome>;
    /// The key numbers: a row for each run, or for each group of repetitions.
    ///
    /// # Errors
    /// As [`Drawing::write`].
    fn key_numbers(&self, study: &Study, folder: &Path) -> Result<ShortTable>;
    /// Stems and captions of its figures of `study`.
    fn figures(&self, study: &Study) -> &'static [(&'static str, &'static str)];
    /// Its tables beside `summary.json`, `runs.csv` and `curves.csv`.
    fn tables(&self) -> &'static [&'static str] {
        &[]
    }
    /// True if the terminal shows the key numbers because the summary is too long.
    fn shows_key_numbers(&self) -> bool {
        false
    }
    /// True if its runs are repetitions over seeds, whose number can be chosen.
    fn repeats(&self) -> bool {
        false
    }
    /// True if a run that diverges is a result and not a failure.
    fn allows_divergence(&self) -> bool {
        false
    }
    /// The cells of a grid, row by row.
    ///
    /// # Errors
    /// As [`Drawing::write`].
    fn cells(&self, _study: &Study, _folder: &Path) -> Result<Vec<Recovery>> {
        Ok(Vec::new())
    }
}

/// What the runs of a cell of a grid found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recovery {
    /// How many there are.
    pub runs: usize,
    /// How many recovered the graph.
    pub recovered: usize,
    /// Their mean attention on the parents.
    pub attention: Option<f64>,
    /// Their mean test loss less that of the Bayes predictor from counts, nats.
    pub gap: Option<f64>,
}

impl std::fmt::Debug for dyn Drawing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// All experiments and drawings.
pub trait Registry: Sync {
    /// The experiment that runs a configuration.
    ///
    /// # Errors
    /// No experiment runs it.
    fn experiment(&self, config: &Config) -> Result<&'static dyn Experiment>;
    /// The drawing called `name`.
    ///
    /// # Errors
    /// An unknown name.
    fn drawing(&self, name: &str) -> Result<&'static dyn Drawing>;
}

/// A key that a grid varies, with its values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// Configuration key.
    pub key: String,
    /// Its values, in order.
    pub values: Vec<Value>,
}

/// A run of a study.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its folder.
    pub name: String,
    /// Runs of one group are repetitions of each other.
    pub group: String,
    /// Its configuration.
    pub config: Config,
}

/// An experiment made of several runs.
#[derive(Clone)]
pub struct Study {
    /// Its name in folders and commands.
    pub name: String,
    /// Heading of its figures.
    pub title: String,
    /// How it is drawn.
    pub drawing: &'static dyn Drawing,
    /// True if every run also draws its own figures.
    pub figures: bool,
    /// The grid of a sweep: the runs lie in row-major order over the axes, repetitions fastest.
    pub axes: Vec<Axis>,
    /// In the order of tables and figures.
    pub runs: Vec<Member>,
    /// Finds the experiment of each run.
    pub registry: &'static dyn Registry,
}

impl std::fmt::Debug for Study {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Study").field("name", &self.name).field("runs", &self.runs).finish_non_exhaustive()
    }
}

/// A study as `study.toml` has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    title: String,
    drawing: String,
    figures: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    axes: Vec<Axis>,
    runs: Vec<WrittenMember>,
}

/// A run there.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMember {
    name: String,
    group: String,
    config: Table,
}

/// Receives the progress of a study; called from several threads.
pub trait Watcher: Sync {
    /// Called before anything runs, with the number of all runs, and the runs left.
    fn begins(&self, runs: usize, left: &[&Member]);
    /// Called when a run starts; the result receives its progress.
    fn started(&self, run: &Member) -> Box<dyn Progress + '_>;
    /// Called when a run is over.
    fn finished(&self, run: &Member, summary: &Summary);
}

impl Study {
    /// Checks that the study can run, before anything is written.
    ///
    /// # Errors
    /// No run or too many, names that repeat or are no names of folders, runs of Algorithm 1, the
    /// first configuration that cannot run.
    pub fn check(&self) -> Result<()> {
        if !(1..=MOST_RUNS).contains(&self.runs.len()) {
            return Err(Error::invalid("runs", self.runs.len().to_string(), format!("1 to {MOST_RUNS}")));
        }
        let mut names: Vec<&str> = self.runs.iter().map(|m| m.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|w| w[0] == w[1]) {
            return Err(Error::invalid("runs", format!("`{}` twice", pair[0]), "one name for each run"));
        }
        // Of a file system, and room for what is written beside it.
        if let Some(name) = names.iter().find(|n| n.len() > 200) {
            return Err(Error::invalid("runs", format!("name `{name}`"), "names of at most 200 bytes"));
        }
        if let Some(name) = names.iter().find(|n| slug(n) != **n || n.is_empty()) {
            return Err(Error::invalid("runs", format!("name `{name}`"), "letters, digits, `-`, `.`, `=`"));
        }
        let cells: usize = self.axes.iter().map(|a| a.values.len()).product();
        if cells == 0 || !self.runs.len().is_multiple_of(cells) {
            let found = format!("{} runs on a grid of {cells}", self.runs.len());
            return Err(Error::invalid("axes", found, "the same number of runs in each cell"));
        }
        if let Some(m) = self.runs.iter().find(|m| !self.drawing.takes(&m.config)) {
            let found = format!("{} of run `{}`", self.drawing.name(), m.name);
            return Err(Error::invalid("drawing", found, "one that shows the runs' experiment"));
        }
        self.runs.iter().try_for_each(|m| run::check(self.registry.experiment(&m.config)?, &m.config))
    }

    /// As a table, which [`Study::from_table`] reads.
    ///
    /// # Errors
    /// Values that TOML cannot hold.
    pub fn table(&self) -> Result<Table> {
        let written = |m: &Member| WrittenMember {
            name: m.name.clone(),
            group: m.group.clone(),
            config: m.config.table(),
        };
        let written = Written {
            name: self.name.clone(),
            title: self.title.clone(),
            drawing: self.drawing.name().into(),
            figures: self.figures,
            axes: self.axes.clone(),
            runs: self.runs.iter().map(written).collect(),
        };
        let table = Table::try_from(&written);
        table.map_err(|e| Error::invalid("study", e.to_string(), "values that TOML can hold"))
    }

    /// Writes `study.toml` into the folder, and its digest.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        digest::write_with(folder, STUDY_FILE, self.table()?.to_string().as_bytes())
    }

    /// The study that a folder was made with.
    ///
    /// # Errors
    /// A file that is absent, damaged, edited, or holds what cannot run.
    pub fn load(folder: &Path, registry: &'static dyn Registry) -> Result<Self> {
        let path = folder.join(STUDY_FILE);
        let bytes = digest::checked(folder, STUDY_FILE)?;
        let text = decode(&path, &bytes)?;
        Self::from_table(&path, config::parse_table(&path, &text)?, registry)
    }

    /// The study that a table holds; `path` names its file in errors.
    ///
    /// # Errors
    /// A table that is damaged or holds what cannot run.
    pub fn from_table(path: &Path, table: Table, registry: &'static dyn Registry) -> Result<Self> {
        let bad = |problem: String| Error::format(path, problem.replace('\n', " "));
        let Written { name, title, drawing, figures, axes, runs } =
            table.try_into().map_err(|e: toml::de::Error| bad(e.message().into()))?;
        let read = |m: WrittenMember| {
            let config = check_keys(m.config, KEYS).and_then(|t| config::resolve(&[t]));
            let config = config.map_err(|e| bad(format!("run `{}`: {e}", m.name)))?;
            Ok(Member { name: m.name, group: m.group, config })
        };
        let runs = runs.into_iter().map(read).collect::<Result<Vec<_>>>()?;
        let drawing = registry.drawing(&drawing).map_err(|e| bad(e.to_string()))?;
        let study = Study { name, title, drawing, figures, axes, runs, registry };
        study.check().map_err(|e| bad(e.to_string()))?;
        Ok(study)
    }

    /// Folder of a run.
    pub fn folder_of(&self, folder: &Path, member: &Member) -> PathBuf {
        folder.join(RUNS_FOLDER).join(&member.name)
    }

    /// Runs the unfinished runs in `folder` on `threads` threads, then draws. The folder must exist
    /// and be empty or hold an earlier session of the same study.
    ///
    /// # Errors
    /// The first run that failed, once those that had started are over; a folder that holds
    /// anything else or that another process writes into; files that cannot be written;
    /// [`Error::Figures`] once everything else is written.
    pub fn run(&self, folder: &Path, threads: usize, watcher: &dyn Watcher) -> Result<Summary> {
        let outcome = self.outcome(folder, threads, watcher)?;
        outcome.figures.map(|()| outcome.summary)
    }

    /// As [`Study::run`], with the summary even where figures failed.
    ///
    /// # Errors
    /// As [`Study::run`] but for figures.
    pub fn outcome(&self, folder: &Path, threads: usize, watcher: &dyn Watcher) -> Result<Outcome> {
        // The lock before the first file: of two processes, one changes nothing.
        let _lock = if folder.join(STUDY_FILE).exists() {
            let lock = lock_folder(folder)?;
            self.check_same(folder)?;
            lock
        } else {
            let lock = claim_folder(folder)?;
            self.save(folder)?;
            lock
        };
        let runs = folder.join(RUNS_FOLDER);
        std::fs::create_dir_all(&runs).map_err(|e| Error::io(&runs, "cannot create folder", e))?;
        let mut left = self.left(folder)?;
        for member in self.runs.iter().filter(|m| !left.contains(m)) {
            // Only to remove what a killed process left.
            drop(lock_folder(&self.folder_of(folder, member)));
        }
        provenance::record(folder, (self.runs.len() - left.len()) as u64, threads)?;
        watcher.begins(self.runs.len(), &left);
        // Longest jobs first, so that none runs alone for long at the end.
        left.sort_by(|a, b| cost(&b.config).total_cmp(&cost(&a.config)));
        let workers = self.workers(threads.min(left.len()), &left)?;
        // The last runs, fewer than the threads, share the threads.
        let (side_by_side, rest) = left.split_at(left.len() - left.len() % workers);
        let whole = |e: Error| self.stopped_in(folder, e);
        let undrawn = [
            self.side_by_side(folder, side_by_side, workers, threads / workers, watcher).map_err(whole)?,
            self.side_by_side(folder, rest, rest.len(), threads / rest.len().max(1), watcher)
                .map_err(whole)?,
        ];
        let Outcome { summary, figures } = self.drawing.write(self, folder)?;
        let figures = undrawn.into_iter().flatten().next().map_or(figures, Err);
        Ok(Outcome { summary, figures })
    }

    /// A run that was asked to stop, as a study that was.
    fn stopped_in(&self, folder: &Path, e: Error) -> Error {
        let Error::Stopped { .. } = e else { return e };
        let over = self.runs.iter().filter(|m| self.finished(folder, m).unwrap_or(false)).count();
        Error::Stopped { done: format!("{over} of {} runs", self.runs.len()), folder: folder.into() }
    }

    /// Refuses a folder of another study.
    fn check_same(&self, folder: &Path) -> Result<()> {
        let there = Study::load(folder, self.registry)?;
        let same =
            there.runs == self.runs && there.axes == self.axes && there.drawing.name() == self.drawing.name();
        if same {
            return Ok(());
        }
        let found = format!("{} holds another study", folder.display());
        Err(Error::invalid("run folder", found, "a new or an empty folder"))
    }

    /// The study's section of a page: table and pictures; `prefix` is the way from the page to
    /// `folder`.
    ///
    /// # Errors
    /// Runs that are not over, damaged files.
    pub fn section(&self, folder: &Path, prefix: &str) -> Result<Section> {
        let (columns, rows) = self.drawing.key_numbers(self, folder)?;
        let image = |(stem, caption): &(&str, &str)| {
            let path = |kind: &str| format!("{prefix}/{FIGURES_FOLDER}/{stem}.{kind}");
            Image { src: path("svg"), other: path("png"), caption: (*caption).into() }
        };
        let run = |m: &Member| format!("{prefix}/{RUNS_FOLDER}/{}/{SUMMARY_FILE}", m.name);
        let tables = ["summary.json", "runs.csv", "curves.csv"].iter().chain(self.drawing.tables());
        Ok(Section {
            id: self.name.clone(),
            title: self.title.clone(),
            columns: columns.into_iter().map(String::from).collect(),
            rows: rows.into_iter().map(|cells| Row { mark: String::new(), cells }).collect(),
            images: self.drawing.figures(self).iter().map(image).collect(),
            runs: self.runs.iter().map(|m| (m.name.clone(), run(m))).collect(),
            links: tables.map(|f| format!("{prefix}/{f}")).collect(),
            ..Section::default()
        })
    }

    /// How many of `runs`, at most `most` and at least one, run in parallel within the free memory.
    fn workers(&self, most: usize, runs: &[&Member]) -> Result<usize> {
        let of = |m: &&Member| run::bytes(self.registry.experiment(&m.config)?, &m.config);
        let bytes = runs.iter().map(of).collect::<Result<_>>()?;
        Ok(fitting(most, bytes, crate::ram::free().unwrap_or(usize::MAX)))
    }

    /// What all runs have in common, as `key=value, ..`; keys that differ are left out.
    pub fn common_keys(&self) -> String {
        let tables: Vec<Table> = self.runs.iter().map(|m| m.config.table()).collect();
        let Some(first) = tables.first() else { return String::new() };
        let same = first.iter().filter(|(k, v)| tables.iter().all(|t| t.get(*k) == Some(*v)));
        same.map(|(k, v)| format!("{k}={}", value_text(v))).collect::<Vec<_>>().join(", ")
    }

    /// The runs that are not finished, in order.
    ///
    /// # Errors
    /// A run whose configuration is damaged, or not the study's.
    pub fn left(&self, folder: &Path) -> Result<Vec<&Member>> {
        let mut left = Vec::new();
        for member in &self.runs {
            if !self.finished(folder, member)? {
                left.push(member);
            }
        }
        Ok(left)
    }

    /// True if this run is finished.
    fn finished(&self, folder: &Path, member: &Member) -> Result<bool> {
        let run = self.folder_of(folder, member);
        let config = run.join(folder::CONFIG_FILE);
        if !config.exists() {
            return Ok(false);
        }
        if digest::checked(&run, folder::CONFIG_FILE)? != member.config.to_toml().as_bytes() {
            return Err(Error::format(config, format!("not the configuration in {STUDY_FILE}")));
        }
        let drawn = run.join(FIGURES_FOLDER).join("overview.png");
        Ok(run.join(SUMMARY_FILE).exists() && (!self.figures || drawn.exists()))
    }

    /// Executes `runs` on `workers` threads, each with its own pool, so that a thread waiting in
    /// one run never executes a task of another. Returns the first failure of a run's figures.
    fn side_by_side(
        &self,
        folder: &Path,
        runs: &[&Member],
        workers: usize,
        threads: usize,
        watcher: &dyn Watcher,
    ) -> Result<Option<Error>> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (failed, undrawn) = (Mutex::new(None), Mutex::new(None));
        let first = |of: &Mutex<Option<(usize, Error)>>, at: usize, e: Error| {
            let mut held = of.lock().unwrap_or_else(|p| p.into_inner());
            if held.as_ref().is_none_or(|(first, _)| at < *first) {
                *held = Some((at, e));
            }
        };
        let work = || -> std::result::Result<(), (usize, Error)> {
            let pool = pool(threads).map_err(|e| (usize::MAX, e))?;
            while !stop.load(Ordering::Relaxed) {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(member) = runs.get(at) else { break };
                match self.one(folder, member, &pool, watcher) {
                    Err(e) if e.is_of_figures() => first(&undrawn, at, e),
                    other => other.map_err(|e| (at, e))?,
                }
            }
            Ok(())
        };
        let fail = |(at, e): (usize, Error)| {
            stop.store(true, Ordering::Relaxed);
            first(&failed, at, e);
        };
        let worker = || work().unwrap_or_else(fail);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                // `spawn` of the scope panics where the system starts no more.
                if let Err(e) = std::thread::Builder::new().spawn_scoped(scope, worker) {
                    fail((usize::MAX, crate::ram::no_threads(workers, &e)));
                    break;
                }
            }
        });
        match failed.into_inner().unwrap_or_else(|p| p.into_inner()) {
            Some((_, e)) => Err(e),
            None => Ok(undrawn.into_inner().unwrap_or_else(|p| p.into_inner()).map(|(_, e)| e)),
        }
    }

    fn one(
        &self,
        folder: &Path,
        member: &Member,
        pool: &rayon::ThreadPool,
        watcher: &dyn Watcher,
    ) -> Result<()> {
        let run = self.folder_of(folder, member);
        let resumed = run.join(folder::CONFIG_FILE).exists();
        if !resumed {
            create_run_dir(&run)?;
        }
        let mut progress = Quiet { inner: watcher.started(member), figures: self.figures };
        let experiment = self.registry.experiment(&member.config)?;
        match run::run(experiment, &member.config, &run, resumed, pool, &mut progress) {
            Ok(outcome) => {
                watcher.finished(member, &outcome.summary);
                outcome.figures
            }
            // In a grid, divergence is the result of a cell.
            Err(e) if self.drawing.allows_divergence() && e.is_divergence() => {
                let mut summary = Summary::new();
                summary.set("graph_recovered", false)?;
                summary.set("diverged", true)?;
                let _lock = lock_folder(&run)?;
                folder::write_summary(&run, &summary)?;
                watcher.finished(member, &summary);
                Ok(())
            }
            Err(e) => Err(e),
        }
    }
}

/// A watcher's progress that also decides whether the run draws figures.
struct Quiet<'a> {
    inner: Box<dyn Progress + 'a>,
    figures: bool,
}

impl Progress for Quiet<'_> {
    fn stepped(&mut self, step: u64, loss: f64) {
        self.inner.stepped(step, loss);
    }
    fn evaluated(&mut self, name: &'static str, value: f64) {
        self.inner.evaluated(name, value);
    }
    fn finished(&mut self) {
        self.inner.finished();
    }
    fn note(&mut self, text: &str) {
        self.inner.note(text);
    }
    fn warn(&mut self, text: &str) {
        self.inner.warn(text);
    }
    fn verdict(&mut self, text: &str) {
        self.inner.verdict(text);
    }
    fn wants_to_stop(&self) -> bool {
        self.inner.wants_to_stop()
    }
    fn wants_figures(&self) -> bool {
        self.figures
    }
}

fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    let threads = threads.max(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|e| crate::ram::no_threads(threads, &e))
}

/// Relative cost of a run: multiplications of its updates, about.
pub fn cost(config: &Config) -> f64 {
    use crate::model::Spec;
    let (t, layers) = (config.task.seq_len(), |heads: &[usize]| heads.iter().sum::<usize>() + 1);
    let sequence = match &config.model {
        Spec::Disentangled(m) => t * t * layers(&m.heads),
        Spec::MlpTransformer(m) => t * t * layers(&m.heads),
        Spec::Simplified(_) => t * t,
        Spec::Memory(m) => 2 * t * m.dim * (t + 4 * m.dim),
        Spec::Transformer(m) => m.layers * t * m.dim * (t + 4 * m.dim),
    };
    config.plan.steps as f64 * config.plan.batch as f64 * sequence as f64
}

/// How many runs, at most `most` and at least one, fit into `free` bytes in parallel, whichever of
/// them coincide.
fn fitting(most: usize, mut bytes: Vec<usize>, free: usize) -> usize {
    bytes.sort_unstable_by(|a, b| b.cmp(a));
    let sums = bytes.iter().scan(0usize, |sum, b| {
        *sum = sum.saturating_add(*b);
        Some(*sum)
    });
    sums.take(most).take_while(|sum| *sum <= free).count().max(1)
}

/// A value of a grid as a text.
pub fn value_text(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Array(list) => list.iter().map(value_text).collect::<Vec<_>>().join(","),
        // Without a row of digits or zeros.
        Value::Float(x) if *x != 0.0 && !(1e-5..1e15).contains(&x.abs()) => format!("{x:e}"),
        other => other.to_string(),
    }
}

/// A text as the name of a folder.
pub fn slug(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-.=^".contains(c) { c } else { '-' };
    let mut out = String::new();
    for c in text.chars().map(plain) {
        if c != '-' || !out.ends_with('-') {
            out.push(c);
        }
    }
    out.trim_matches('-').trim_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::fitting;

    #[test]
    fn as_many_side_by_side_as_memory_holds() {
        let of = |most, free| fitting(most, vec![1, 5, 3], free);
        // The largest may coincide: 5, 5 + 3, 5 + 3 + 1.
        assert_eq!([of(3, 9), of(3, 8), of(3, 7), of(2, 9), of(3, 0), of(0, 9)], [3, 2, 1, 2, 1, 1]);
        assert_eq!(fitting(2, vec![usize::MAX, usize::MAX], usize::MAX - 1), 1);
    }
}
