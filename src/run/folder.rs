//! The run folder: its files besides logs and figures, and how a stopped run is resumed.

use super::Progress;
use crate::config::Config;
use crate::model::Layout;
use crate::report::arrays::{Array, ArrayData, read_arrays, write_arrays};
use crate::report::checkpoint::Checkpoint;
use crate::report::files::{TEMPORARY_PREFIX, truncate_jsonl_after, write_bytes_atomic};
use crate::report::metrics::{METRICS_FILE, TIMING_FILE};
use crate::train::State;
use crate::{Error, Result};
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
/// Final attention of the first layer inside a run folder: array `layer1`, (heads, T, T), rows
/// queries, NaN where there is no key.
pub const ATTENTION_FILE: &str = "attention.npz";

/// Folder of figures inside the folder of a run or a study.
pub const FIGURES_FOLDER: &str = "figures";

/// The kind that checkpoints of `popgrad run` carry.
const KIND: &str = "popgrad run";

/// One line of `timing.jsonl`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TimingRecord {
    /// Updates done.
    pub(crate) step: u64,
    /// Since the start of the run, earlier sessions included.
    pub(crate) seconds: f64,
    /// Of this session.
    pub(crate) steps_per_second: f64,
}

/// Writes the checkpoint of `state`.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn save<E: Elem>(
    folder: &Path,
    layout: &Layout,
    fingerprint: &str,
    state: &State<E>,
) -> Result<()> {
    let mut arrays = BTreeMap::new();
    for block in layout.blocks() {
        let array = Array::new(block.shape(), elements(&state.params[block.range()]))?;
        arrays.insert(format!("param.{}", block.name()), array);
    }
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
        extra: BTreeMap::from([("isa".to_string(), Isa::from_env()?.name().to_string())]),
    };
    checkpoint.save(&folder.join(CHECKPOINT_FILE))
}

fn elements<E: Elem>(values: &[E]) -> ArrayData {
    match E::NAME {
        "f32" => ArrayData::F32(values.iter().map(|x| x.to_f64() as f32).collect()),
        _ => ArrayData::F64(values.iter().map(|x| x.to_f64()).collect()),
    }
}

/// The fingerprint of a run of configuration `config` on data with this digest, if it has any
/// outside the configuration.
pub(crate) fn with_data(config: &str, digest: Option<u64>) -> String {
    digest.map_or(config.into(), |d| format!("{config}{DATA}{d:016x}\n"))
}

/// Prefix of the line of a fingerprint with the digest of the data.
const DATA: &str = "# data ";

/// The state in `folder`; `None` for a new run or one that stopped before its first checkpoint.
pub(crate) fn load<E: Elem>(
    folder: &Path,
    resumed: bool,
    fingerprint: &str,
    layout: &Layout,
    progress: &mut dyn Progress,
) -> Result<Option<State<E>>> {
    if !resumed {
        return Ok(None);
    }
    let path = folder.join(CHECKPOINT_FILE);
    if !path.exists() {
        progress.note("no checkpoint yet: starting over");
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
    if kind != KIND || config_fingerprint != fingerprint {
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
        progress.note(&format!("checkpoint made on {before}, now on {isa}: the last bits will differ"));
    }
    let mut take = |name: &str, shape: &[usize]| -> Result<Array> {
        let array = state.remove(name).filter(|a| a.shape() == shape);
        array.ok_or_else(|| Error::format(&path, format!("array `{name}` of shape {shape:?} is missing")))
    };
    let mut params = vec![E::ZERO; layout.len()];
    for block in layout.blocks() {
        let array = take(&format!("param.{}", block.name()), block.shape())?;
        let same_type =
            matches!((array.data(), E::NAME), (ArrayData::F32(_), "f32") | (ArrayData::F64(_), "f64"));
        let values = array.to_f64_vec();
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
    Ok(Some(State { step, params, optimizer, interval: ([sum[0], sum[1]], count) }))
}

/// The final parameters of a run in the model's layout, whatever their type.
///
/// # Errors
/// A checkpoint that is absent, damaged, or of another model.
pub(crate) fn read_params(folder: &Path, layout: &Layout) -> Result<Vec<f64>> {
    let path = folder.join(CHECKPOINT_FILE);
    let arrays = read_arrays(&path)?;
    let mut params = vec![0.0; layout.len()];
    for block in layout.blocks() {
        let array = arrays.get(&format!("param.{}", block.name())).filter(|a| a.shape() == block.shape());
        let array =
            array.ok_or_else(|| Error::format(&path, format!("block `{}` is missing", block.name())))?;
        params[block.range()].copy_from_slice(&array.to_f64_vec());
    }
    Ok(params)
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
    let arrays = read_arrays(&path)?;
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
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path, "cannot read", e)),
    };
    let Some(line) = text.lines().last() else { return Ok(None) };
    serde_json::from_str(line).map(Some).map_err(|e| Error::format(&path, format!("last line: {e}")))
}

/// Refuses logs that lack records from before the checkpoint at `step`, in a run with these `steps`
/// and `eval_every`.
///
/// # Errors
/// When `metrics.jsonl` is damaged or too short.
pub(crate) fn check_logs(folder: &Path, (steps, eval_every): (u64, u64), step: u64) -> Result<()> {
    let path = folder.join(METRICS_FILE);
    let found = truncate_jsonl_after(&path, step)? as u64;
    let at_end = step == steps && !step.is_multiple_of(eval_every);
    let expected = 1 + step / eval_every + u64::from(at_end);
    if found == expected {
        return Ok(());
    }
    Err(Error::format(&path, format!("{found} records up to step {step}; expected {expected}")))
}

/// Locks the run folder for this process until the result is dropped, and removes temporary files
/// of a killed process.
///
/// # Errors
/// Another process holds the lock.
pub(crate) fn lock(folder: &Path) -> Result<std::fs::File> {
    lock_on(folder, CONFIG_FILE)
}

/// Locks another file of the folder.
///
/// # Errors
/// As [`lock`].
pub(crate) fn lock_on(folder: &Path, file: &str) -> Result<std::fs::File> {
    let path = folder.join(file);
    let file = std::fs::File::open(&path).map_err(|e| Error::io(&path, "cannot open", e))?;
    match file.try_lock() {
        Err(std::fs::TryLockError::WouldBlock) => {
            return Err(Error::invalid(
                "run folder",
                "another process is running in it",
                "one process at a time",
            ));
        }
        // A file system without locks: continue without one.
        Err(std::fs::TryLockError::Error(_)) | Ok(()) => {}
    }
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, "cannot read", e))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(TEMPORARY_PREFIX) {
            // Left by a kill between writing and renaming; nothing refers to it.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(file)
}

/// Seconds that earlier sessions took, from the last timing record kept.
pub(crate) fn last_seconds(folder: &Path) -> Result<f64> {
    Ok(last_timing(folder)?.map_or(0.0, |t| t.seconds))
}

/// Format version of the run folder. It increases when an older reader would misread the files.
pub const FORMAT: &str = "popgrad-run/2";

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
fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("model name").and_then(|l| l.split_once(':')));
    name.map_or(std::env::consts::ARCH.to_string(), |(_, n)| n.trim().to_string())
}

pub(crate) use super::memory::free as available_memory;

/// Refuses a run that needs more memory than is free; `needed` is `None` if it overflows. `what`
/// names the keys for the error.
///
/// # Errors
/// When it does not fit.
pub(crate) fn check_memory(what: &str, needed: Option<usize>) -> Result<()> {
    let free = available_memory().unwrap_or(usize::MAX);
    match needed {
        Some(bytes) if bytes <= free => Ok(()),
        _ => {
            let gib = |b: usize| format!("{:.1} GiB", b as f64 / f64::from(1 << 30));
            let found =
                needed.map_or("more memory than can be addressed".into(), |b| format!("about {}", gib(b)));
            Err(Error::invalid(what, found, format!("{} free", gib(free))))
        }
    }
}
