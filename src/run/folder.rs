//! The run folder: its files besides logs and figures, and how a stopped run is resumed.

use super::{Experiment, Progress, params};
use crate::config::Config;
use crate::input::{self, RECORDS};
use crate::model::{Block, Layout};
use crate::report::arrays::{Array, ArrayData, ArrayFile, write_arrays};
use crate::report::checkpoint::Checkpoint;
use crate::report::digest::{self, DIGESTS_FILE, Digest};
pub use crate::report::files::FIGURES_FOLDER;
use crate::report::files::{Mark, cut_log, lock_folder, write_bytes_atomic};
use crate::report::metrics::{METRICS_FILE, MetricsWriter, SUMMARY_FILE, Summary, TIMING_FILE};
use crate::train::State;
use crate::{Error, Result, ram};
use popgrad_kernels::{Elem, Isa};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Resolved configuration inside a run folder.
pub const CONFIG_FILE: &str = "config.toml";
/// Version, machine and settings of a run.
pub const RUN_FILE: &str = "run.json";
/// Checkpoint inside a run folder.
pub const CHECKPOINT_FILE: &str = "checkpoint.safetensors";
/// Folder of kept weights inside a run folder; see [`snapshot_name`].
pub const SNAPSHOTS_FOLDER: &str = "snapshots";
/// Final attention of the first layer inside a run folder: array `layer1`, (heads, T, T), rows
/// queries, NaN where there is no key.
pub const ATTENTION_FILE: &str = "attention.npz";

/// The kind that checkpoints of `popgrad run` carry.
const KIND: &str = "popgrad run";
/// The kind that kept weights carry.
const SNAPSHOT: &str = "popgrad snapshot";

/// One line of `timing.jsonl`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimingRecord {
    /// Updates done.
    pub(crate) step: u64,
    /// Since the start of the run, earlier sessions included.
    pub(crate) seconds: f64,
    /// Of this session.
    pub(crate) steps_per_second: f64,
    /// Of the numbers above: seconds of earlier sessions are read back.
    digest: String,
}

impl TimingRecord {
    pub(crate) fn new(step: u64, seconds: f64, steps_per_second: f64) -> Self {
        let digest = Digest::of(format!("{step} {seconds} {steps_per_second}").as_bytes()).to_string();
        TimingRecord { step, seconds, steps_per_second, digest }
    }

    fn is_whole(&self) -> bool {
        Self::new(self.step, self.seconds, self.steps_per_second).digest == self.digest
    }
}

/// Writes the checkpoint of `state`; `log` marks the metrics that lead to it.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn save<E: Elem>(
    folder: &Path,
    layout: &Layout,
    fingerprint: &str,
    state: &State<E>,
    log: Mark,
) -> Result<()> {
    let blocks = params::arrays(layout, &state.params)?;
    let mut arrays: BTreeMap<String, Array> = blocks.into_iter().map(|(n, a)| (n.to_string(), a)).collect();
    for (name, values) in &state.optimizer {
        arrays.insert(format!("optimizer.{name}"), Array::vector(elements(values)));
    }
    let ([sum, carry], count) = state.interval;
    arrays.insert("interval.loss".into(), Array::vector(vec![sum, carry]));
    arrays.insert("interval.count".into(), Array::vector(vec![count]));
    let checkpoint = Checkpoint {
        step: state.step,
        kind: KIND.into(),
        config_fingerprint: fingerprint.into(),
        state: arrays,
        extra: BTreeMap::from([
            ("isa".to_string(), Isa::from_env()?.name().to_string()),
            (METRICS_FILE.to_string(), log.to_string()),
        ]),
    };
    checkpoint.save(&folder.join(CHECKPOINT_FILE))
}

pub(super) fn elements<E: Elem>(values: &[E]) -> ArrayData {
    match E::NAME {
        "f32" => ArrayData::F32(values.iter().map(|x| x.to_f64() as f32).collect()),
        _ => ArrayData::F64(values.iter().map(|x| x.to_f64()).collect()),
    }
}

/// The file of the weights after `step` updates, in [`SNAPSHOTS_FOLDER`]: its name sorts as `step`.
pub fn snapshot_name(step: u64) -> String {
    format!("step-{step:012}.safetensors")
}

/// Keeps the parameters after `step` updates: an array for each block, by its name.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn keep<E: Elem>(
    folder: &Path,
    fingerprint: &str,
    layout: &Layout,
    step: u64,
    params: &[E],
) -> Result<()> {
    let folder = folder.join(SNAPSHOTS_FOLDER);
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "cannot create folder", e))?;
    let blocks = params::arrays(layout, params)?;
    let snapshot = Checkpoint {
        step,
        kind: SNAPSHOT.into(),
        // The same bytes however far the run goes.
        config_fingerprint: but_steps(fingerprint),
        state: blocks.into_iter().map(|(n, a)| (n.to_string(), a)).collect(),
        extra: BTreeMap::new(),
    };
    snapshot.save(&folder.join(snapshot_name(step)))
}

/// The fingerprint of a run of configuration `config` on data with this digest, if it has any
/// outside the configuration.
pub(crate) fn with_data(config: &str, digest: Option<u64>) -> String {
    digest.map_or(config.into(), |d| format!("{config}{DATA}{d:016x}\n"))
}

/// Refuses a checkpoint or a snapshot at `path` that is not of the run whose configuration and
/// digest of data these are.
///
/// # Errors
/// Weights of another run.
pub(crate) fn check_own(path: &Path, of: &str, config: &Config, data: Option<u64>) -> Result<()> {
    if but_steps(of) == but_steps(&with_data(&config.to_toml(), data)) {
        return Ok(());
    }
    let problem = format!("weights of another run; expected those of the configuration in {CONFIG_FILE}");
    Err(Error::format(path, problem))
}

/// A fingerprint without its line on the number of updates: a run may go on to more of them.
fn but_steps(fingerprint: &str) -> String {
    fingerprint.lines().filter(|l| !l.starts_with("steps = ")).collect::<Vec<_>>().join("\n")
}

/// Lets the run in `folder` go on to `steps` updates; nothing else changes. Its configuration from
/// now on. What cannot go on stays as it is: a finished run is finished.
///
/// # Errors
/// A folder in use; a run without checkpoint, or that has made more updates; a checkpoint of
/// another run; a configuration that cannot run with so many.
pub fn extend(
    folder: &Path,
    steps: u64,
    find: impl FnOnce(&Config) -> Result<&'static dyn Experiment>,
) -> Result<Config> {
    let _lock = lock_folder(folder)?;
    let config = read_config(folder)?;
    let path = folder.join(CHECKPOINT_FILE);
    let held = Checkpoint::load(&path)?;
    let done = held.step;
    if steps < done {
        let allowed = format!("at least {done}, the updates that are done");
        return Err(Error::invalid("steps", steps.to_string(), allowed));
    }
    if config.plan.steps == steps {
        return Ok(config);
    }
    let config = config.with_steps(steps)?;
    let experiment = find(&config)?;
    super::check(experiment, &config)?;
    check_own(&path, &held.config_fingerprint, &config, experiment.setup(&config)?.digest())?;
    // Not over yet, or no longer: before the configuration says so.
    forget_summary(folder)?;
    write_config(folder, &config)?;
    Ok(config)
}

/// Prefix of the line of a fingerprint with the digest of the data.
const DATA: &str = "# data ";

/// The state in `folder` and the mark of its metrics; `None` for a new run or one that stopped
/// before its first checkpoint.
pub(crate) fn load<E: Elem>(
    folder: &Path,
    resumed: bool,
    fingerprint: &str,
    layout: &Layout,
    progress: &mut dyn Progress,
) -> Result<Option<(State<E>, Mark)>> {
    if !resumed {
        return Ok(None);
    }
    let path = folder.join(CHECKPOINT_FILE);
    if !path.exists() {
        progress.warn("no checkpoint yet: starting over");
        for log in [METRICS_FILE, TIMING_FILE] {
            match std::fs::remove_file(folder.join(log)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(folder.join(log), "cannot remove", e));
                }
                _ => {}
            }
        }
        return Ok(None);
    }
    let Checkpoint { step, kind, config_fingerprint, mut state, extra } = Checkpoint::load(&path)?;
    let mark = extra.get(METRICS_FILE).and_then(|text| text.parse::<Mark>().ok());
    let mark =
        mark.ok_or_else(|| Error::format(&path, format!("checkpoint without the digest of {METRICS_FILE}")))?;
    if kind != KIND || but_steps(&config_fingerprint) != but_steps(fingerprint) {
        let config = |text: &str| text.split(DATA).next().map(String::from);
        if kind == KIND && config(&config_fingerprint) == config(fingerprint) {
            let problem = "checkpoint of a run on another corpus: its text or counts have changed since";
            return Err(Error::format(&path, problem));
        }
        let problem =
            format!("checkpoint of another run; expected one of the configuration in {CONFIG_FILE}");
        return Err(Error::format(&path, problem));
    }
    let isa = Isa::from_env()?.name();
    if let Some(before) = extra.get("isa").filter(|b| *b != isa) {
        progress.warn(&format!("checkpoint made on {before}, now on {isa}: the last bits will differ"));
    }
    let mut take = |name: &str, shape: &[usize]| -> Result<Array> {
        let array = state.remove(name).filter(|a| a.shape() == shape);
        array.ok_or_else(|| Error::format(&path, format!("array `{name}` of shape {shape:?} is missing")))
    };
    let mut params = vec![E::ZERO; layout.len()];
    for block in layout.blocks() {
        let array = take(block.name(), block.shape())?;
        let same_type =
            matches!((array.data(), E::NAME), (ArrayData::F32(_), "f32") | (ArrayData::F64(_), "f64"));
        let values = read(block, array.to_f64_vec());
        if !same_type || values.iter().any(|x| !x.is_finite()) {
            let problem = format!("parameters of block `{}` are not finite {}", block.name(), E::NAME);
            return Err(Error::format(&path, problem));
        }
        for (p, x) in params[block.range()].iter_mut().zip(values) {
            *p = E::from_f64(x);
        }
    }
    let (sum, count) = (take("interval.loss", &[2])?.to_f64_vec(), take("interval.count", &[1])?);
    let count = u64::try_from(count.as_integers("interval.count")?[0])
        .map_err(|_| Error::format(&path, "interval.count is negative"))?;
    let mut optimizer = Vec::new();
    for (name, array) in state {
        let Some(name) = name.strip_prefix("optimizer.") else {
            return Err(Error::format(&path, format!("array `{name}` is not expected")));
        };
        optimizer.push((name.to_string(), array.to_f64_vec().into_iter().map(E::from_f64).collect()));
    }
    let interval = ([sum[0], sum[1]], count);
    Ok(Some((State { step, params, optimizer, interval }, mark)))
}

/// The final parameters of a run in the model's layout, whatever their type.
///
/// # Errors
/// A checkpoint that is absent, damaged, or of another model.
pub(crate) fn read_params(folder: &Path, layout: &Layout) -> Result<Vec<f64>> {
    let path = folder.join(CHECKPOINT_FILE);
    let arrays = Checkpoint::load(&path)?.state;
    let mut params = vec![0.0; layout.len()];
    for block in layout.blocks() {
        let array = arrays.get(block.name()).filter(|a| a.shape() == block.shape());
        let array =
            array.ok_or_else(|| Error::format(&path, format!("block `{}` is missing", block.name())))?;
        params[block.range()].copy_from_slice(&read(block, array.to_f64_vec()));
    }
    Ok(params)
}

/// Values of a block with 0 where the model does not read, whatever a file holds there.
fn read(block: &Block, mut values: Vec<f64>) -> Vec<f64> {
    values.iter_mut().enumerate().filter(|(i, _)| !block.reads(*i)).for_each(|(_, x)| *x = 0.0);
    values
}

/// Writes [`ATTENTION_FILE`]: patterns of `heads` heads, (t, t) each.
///
/// # Errors
/// When the file cannot be written.
pub fn write_attention(folder: &Path, patterns: &[Vec<f64>], t: usize) -> Result<()> {
    let array = Array::new(&[patterns.len(), t, t], patterns.concat())?;
    write_arrays(&folder.join(ATTENTION_FILE), &[("layer1", &array)], None)
}

/// Patterns that [`write_attention`] wrote; empty if there is no file.
///
/// # Errors
/// A damaged file.
pub fn read_attention(folder: &Path, t: usize) -> Result<Vec<Vec<f64>>> {
    let path = folder.join(ATTENTION_FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let arrays = ArrayFile::open(&path)?.read(&["layer1"])?;
    match arrays.get("layer1") {
        Some(a) if matches!(a.shape(), [_, rows, cols] if *rows == t && *cols == t) => {
            Ok(a.to_f64_vec().chunks(t * t).map(<[f64]>::to_vec).collect())
        }
        _ => Err(Error::format(path, format!("no array `layer1` of (heads, {t}, {t})"))),
    }
}

/// The last record of `timing.jsonl`.
///
/// # Errors
/// When the file cannot be read, or its last line is no record.
pub(crate) fn last_timing(folder: &Path) -> Result<Option<TimingRecord>> {
    let path = folder.join(TIMING_FILE);
    if !path.exists() {
        return Ok(None);
    }
    let text = input::text(&path, RECORDS)?;
    let Some((n, line)) = text.lines().enumerate().last() else { return Ok(None) };
    timing_record(&path, n + 1, line).map(Some)
}

/// Writes the configuration of a new run, whose folder is claimed.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_config(folder: &Path, config: &Config) -> Result<()> {
    digest::write_with(folder, CONFIG_FILE, config.to_toml().as_bytes())
}

/// The configuration that the run in `folder` was started with.
///
/// # Errors
/// A file that is absent, damaged or edited.
pub fn read_config(folder: &Path) -> Result<Config> {
    digest::checked(folder, CONFIG_FILE)?;
    Config::read(&folder.join(CONFIG_FILE))
}

/// Refuses to resume the run in `folder` with another configuration than it was started with.
///
/// # Errors
/// As [`read_config`]; another configuration.
pub(crate) fn check_config(folder: &Path, config: &Config) -> Result<()> {
    if read_config(folder)? == *config {
        return Ok(());
    }
    Err(Error::format(folder.join(CONFIG_FILE), "another configuration than the one to resume with"))
}

/// Writes the summary of a run that is over, after the digests of all that studies read.
///
/// # Errors
/// When they cannot be written.
pub(crate) fn write_summary(folder: &Path, summary: &Summary) -> Result<()> {
    // No summary stands beside digests that are not its own, whenever the process is killed.
    forget_summary(folder)?;
    let mut files = vec![(SUMMARY_FILE, Digest::of(summary.to_json().as_bytes()))];
    for name in [CONFIG_FILE, RUN_FILE, METRICS_FILE, ATTENTION_FILE] {
        let path = folder.join(name);
        if name != ATTENTION_FILE || path.exists() {
            files.push((name, Digest::of(&input::bytes(&path, RECORDS)?)));
        }
    }
    digest::write(folder, &files)?;
    summary.write(folder).map(drop)
}

/// Removes the summary: the run is not over, or no longer.
///
/// # Errors
/// When it cannot be removed.
pub(crate) fn forget_summary(folder: &Path) -> Result<()> {
    let path = folder.join(SUMMARY_FILE);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, "cannot remove", e)),
        _ => Ok(()),
    }
}

/// Checks the files of a finished run that studies read.
///
/// # Errors
/// A file that is absent, damaged or edited.
pub(crate) fn check_results(folder: &Path) -> Result<()> {
    digest::check_all(folder, &[CONFIG_FILE, RUN_FILE, METRICS_FILE, SUMMARY_FILE])?;
    let path = folder.join(ATTENTION_FILE);
    if path.exists() && !digest::read(folder)?.contains_key(ATTENTION_FILE) {
        return Err(Error::format(path, format!("not listed in {DIGESTS_FILE}; remove it or start anew")));
    }
    Ok(())
}

/// Drops the records of both logs after the checkpoint at `step`, whose mark of the metrics this
/// is, and opens the logs.
///
/// # Errors
/// Logs that are damaged, or lack records from before the checkpoint.
pub(crate) fn resume_logs(folder: &Path, mark: Mark, step: u64) -> Result<MetricsWriter> {
    cut_log(&folder.join(METRICS_FILE), mark)?;
    cut_timing(folder, step)?;
    MetricsWriter::open(folder)
}

/// The same of `timing.jsonl`, which has as many records as `metrics.jsonl`.
fn cut_timing(folder: &Path, step: u64) -> Result<()> {
    let path = folder.join(TIMING_FILE);
    let lines = |path: &Path| -> Result<String> {
        // What follows the last line end is the line that a crash has torn.
        let mut text = input::text(path, RECORDS)?;
        text.truncate(text.rfind('\n').map_or(0, |at| at + 1));
        Ok(text)
    };
    let expected = lines(&folder.join(METRICS_FILE))?.lines().count();
    let text = lines(&path)?;
    let (mut kept, mut found) = (String::new(), 0);
    for (n, line) in text.lines().enumerate() {
        if timing_record(&path, n + 1, line)?.step <= step {
            kept += line;
            kept.push('\n');
            found += 1;
        }
    }
    if found != expected {
        let problem = format!("{found} records up to step {step}; expected {expected}, as in {METRICS_FILE}");
        return Err(Error::format(path, problem));
    }
    if kept == text && input::bytes(&path, RECORDS)?.len() == kept.len() {
        return Ok(());
    }
    write_bytes_atomic(&path, kept.as_bytes())
}

fn timing_record(path: &Path, number: usize, line: &str) -> Result<TimingRecord> {
    let bad = |problem: String| Error::format(path, format!("line {number}: {problem}"));
    let record: TimingRecord =
        serde_json::from_str(line).map_err(|e| bad(format!("no record of times: {e}")))?;
    if record.is_whole() { Ok(record) } else { Err(bad("damaged or edited: not its digest".into())) }
}

/// Seconds that earlier sessions took, from the last timing record kept.
pub(crate) fn last_seconds(folder: &Path) -> Result<f64> {
    Ok(last_timing(folder)?.map_or(0.0, |t| t.seconds))
}

/// Format version of the run folder. It increases when an older reader would misread the files.
pub const FORMAT: &str = "popgrad-run/3";

#[derive(Serialize)]
struct RunFile<'a> {
    format: &'a str,
    version: &'a str,
    preset: &'a str,
    seed: u64,
    dtype: &'a str,
    #[serde(flatten)]
    fact: BTreeMap<&'a str, serde_json::Value>,
    cpu: String,
    arch: &'a str,
    isa: &'a str,
    threads: usize,
}

/// Writes `run.json` of a run of `config`, with a fact about its task.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_run_file(
    folder: &Path,
    config: &Config,
    (name, fact): (&'static str, serde_json::Value),
) -> Result<()> {
    let run = RunFile {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION"),
        preset: &config.plan.preset,
        seed: config.plan.seed,
        dtype: config.plan.dtype.name(),
        fact: BTreeMap::from([(name, fact)]),
        cpu: cpu_name(),
        arch: std::env::consts::ARCH,
        isa: Isa::from_env()?.name(),
        threads: rayon::current_num_threads(),
    };
    let path = folder.join(RUN_FILE);
    let text =
        serde_json::to_string_pretty(&run).map_err(|e| Error::format(&path, format!("no JSON form: {e}")))?;
    write_bytes_atomic(&path, (text + "\n").as_bytes())
}

/// The system's name of the processor; the architecture if that is unknown.
pub(super) fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("model name").and_then(|l| l.split_once(':')));
    name.map_or(std::env::consts::ARCH.to_string(), |(_, n)| n.trim().to_string())
}

/// Refuses a run that needs more memory than is free; `needed` is `None` if it overflows. `what`
/// names the keys for the error.
///
/// # Errors
/// When it does not fit.
pub fn check_memory(what: &str, needed: Option<usize>) -> Result<()> {
    let free = ram::free().unwrap_or(usize::MAX);
    match needed {
        Some(bytes) if bytes <= free => Ok(()),
        _ => {
            let mib = |b: usize| format!("{} MiB", b >> 20);
            let found =
                needed.map_or("more memory than can be addressed".into(), |b| format!("about {}", mib(b)));
            Err(Error::invalid(what, found, format!("{} free", mib(free))))
        }
    }
}
