//! `popgrad export`: a run's metrics as a table, its weights over time and its test sets as arrays.

use super::finished::run_config;
use super::output::new_folder;
use super::show;
use crate::batch::{Batch, Targets};
use crate::config::Config;
use crate::input::{self, RECORDS};
use crate::paper;
use crate::report::arrays::{Array, ArrayData, write_arrays};
use crate::report::checkpoint::Checkpoint;
use crate::report::files::{claim_folder, write_bytes_atomic};
use crate::report::metrics::{METRICS_FILE, SUMMARY_FILE};
use crate::report::records::{self, Cell};
use crate::run::params::is_of_training;
use crate::run::{self, folder};
use crate::{Error, Result};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Arguments of `popgrad export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Folder of a run.
    run: PathBuf,
    /// The metrics alone.
    #[arg(long)]
    csv: bool,
    /// Folder for the files: new or empty [default: runs/NAME-export, numbered].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) const AFTER_HELP: &str = "\
Files:
  metrics.csv: a row for each evaluation; lists have a column for each entry (last_row.0, ..)
  weights.npz: steps (n), and each block with a leading axis of n, the snapshots and the checkpoint
  test.npz: the sequences of test_loss, as `popgrad grad --batch` takes them
A second test set is test-2.npz; losses that are exact sums without sequences have none.

Examples:
  popgrad run chain --quick snapshots=log && popgrad export runs/chain-quick
  popgrad export runs/chain --csv --out table

TensorBoard's event files are left to the Python package, whose writers are maintained; those for Rust are not.";

/// File with the metrics.
const TABLE_FILE: &str = "metrics.csv";
/// File with the weights over time.
const WEIGHTS_FILE: &str = "weights.npz";
/// Its array of the numbers of updates.
const STEPS: &str = "steps";

pub(super) fn export(args: &ExportArgs) -> Result<()> {
    let config = run_config(&args.run)?;
    if args.run.join(SUMMARY_FILE).is_file() {
        folder::check_results(&args.run)?;
    }
    let table = table(&args.run.join(METRICS_FILE))?;
    let (weights, tests) = match args.csv {
        true => (None, Vec::new()),
        false => (Some(Weights::read(&args.run, &config)?), test_sets(&config)?),
    };
    let name = args.run.canonicalize().ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
    let name = format!("{}-export", name.unwrap_or_else(|| config.plan.preset.clone()));
    let folder = new_folder(args.out.as_deref(), &name, false)?;
    let _lock = claim_folder(&folder)?;
    write_bytes_atomic(&folder.join(TABLE_FILE), &table)?;
    if let Some(weights) = weights {
        weights.write(&folder.join(WEIGHTS_FILE))?;
        for (i, batch) in tests.iter().enumerate() {
            write_batch(&folder.join(test_file(i)), batch)?;
        }
        if tests.is_empty() {
            super::say("no test set: the run's losses are exact, without sequences");
        }
    }
    let mut files: Vec<String> = Vec::new();
    for (file, is_there) in [(TABLE_FILE, true), (WEIGHTS_FILE, !args.csv)] {
        files.extend(is_there.then(|| file.to_string()));
    }
    files.extend((0..tests.len()).map(test_file));
    let written = json!({ "folder": folder.display().to_string(), "files": files });
    show(&written, || format!("{}\nfolder: {}\n", files.join(", "), folder.display()))
}

/// File of test set `i`.
fn test_file(i: usize) -> String {
    if i == 0 { "test.npz".into() } else { format!("test-{}.npz", i + 1) }
}

/// A log as CSV: a column for each key, in order of appearance.
fn table(path: &Path) -> Result<Vec<u8>> {
    let rows = records::cells(path, &input::text(path, RECORDS)?)?;
    let mut columns: Vec<&str> = Vec::new();
    let mut known = std::collections::BTreeSet::new();
    for (key, _) in rows.iter().flatten() {
        if known.insert(key.as_str()) {
            columns.push(key);
        }
    }
    let fail = |e: csv::Error| Error::format(path, format!("no table: {e}"));
    let mut out = csv::Writer::from_writer(Vec::new());
    out.write_record(&columns).map_err(fail)?;
    for row in &rows {
        let of: BTreeMap<&str, &Cell> = row.iter().map(|(k, c)| (k.as_str(), c)).collect();
        out.write_record(columns.iter().map(|k| of.get(k).map_or("", |c| c.as_str()))).map_err(fail)?;
    }
    out.into_inner().map_err(|e| Error::format(path, format!("no table: {e}")))
}

/// The blocks of a model after several numbers of updates.
struct Weights {
    steps: Vec<u64>,
    blocks: BTreeMap<String, Array>,
}

impl Weights {
    /// Those that the run in `folder` has kept, and its last ones.
    fn read(folder: &Path, config: &Config) -> Result<Self> {
        let mut files: Vec<PathBuf> = Vec::new();
        let kept = folder.join(folder::SNAPSHOTS_FOLDER);
        if kept.is_dir() {
            let fail = |e| Error::io(&kept, "cannot read folder", e);
            for entry in std::fs::read_dir(&kept).map_err(fail)? {
                files.push(entry.map_err(fail)?.path());
            }
            files.retain(|p| input::extension(p) == "safetensors");
            files.sort();
        }
        let last = folder.join(folder::CHECKPOINT_FILE);
        if last.is_file() || files.is_empty() {
            files.push(last);
        }
        let width = if config.plan.dtype == crate::config::Dtype::F32 { 4 } else { 8 };
        // What is read, what is put together, and the bytes of the file.
        let bytes = paper::experiment(config).and_then(|e| run::sizes(e, config))?.parameters;
        let needed = bytes.checked_mul(width * 3).and_then(|b| b.checked_mul(files.len()));
        folder::check_memory("weights (snapshots)", needed)?;
        let data = paper::experiment(config)?.setup(config)?.digest();
        let mut found: BTreeMap<u64, BTreeMap<String, Array>> = BTreeMap::new();
        for path in &files {
            let Checkpoint { step, config_fingerprint, mut state, .. } = Checkpoint::load(path)?;
            folder::check_own(path, &config_fingerprint, config, data)?;
            let name = path.file_name().unwrap_or_default();
            if name != folder::CHECKPOINT_FILE && *name != *folder::snapshot_name(step) {
                return Err(Error::format(path, format!("weights of update {step}, not those of its name")));
            }
            state.retain(|name, _| !is_of_training(name));
            if let Some(first) = found.values().next() {
                let shapes = |s: &BTreeMap<String, Array>| -> Vec<(String, Vec<usize>, &'static str)> {
                    s.iter().map(|(n, a)| (n.clone(), a.shape().to_vec(), a.data().type_name())).collect()
                };
                if shapes(first) != shapes(&state) {
                    return Err(Error::format(path, "blocks of another model than the run's other weights"));
                }
            }
            match found.get(&step) {
                Some(same) if !same.iter().all(|(n, a)| a.same_bits(&state[n])) => {
                    let problem = format!("other weights at step {step} than in another file of the run");
                    return Err(Error::format(path, problem));
                }
                _ => drop(found.insert(step, state)),
            }
        }
        let steps: Vec<u64> = found.keys().copied().collect();
        let mut of: BTreeMap<String, (Vec<usize>, Option<ArrayData>)> = BTreeMap::new();
        for (name, array) in found.into_values().flatten() {
            let (shape, data) = of.entry(name).or_insert_with(|| (array.shape().to_vec(), None));
            debug_assert_eq!(shape, array.shape());
            match (data.as_mut(), array.into_data()) {
                (None, first) => *data = Some(first),
                (Some(ArrayData::F32(all)), ArrayData::F32(more)) => all.extend(more),
                (Some(ArrayData::F64(all)), ArrayData::F64(more)) => all.extend(more),
                _ => return Err(Error::format(folder, "weights of several types")),
            }
        }
        let stack = |(name, (shape, data)): (String, (Vec<usize>, Option<ArrayData>))| {
            let data = data.unwrap_or(ArrayData::F64(Vec::new()));
            Ok((name, Array::new(&[&[steps.len()], &shape[..]].concat(), data)?))
        };
        let blocks = of.into_iter().map(stack).collect::<Result<_>>()?;
        Ok(Weights { steps, blocks })
    }

    fn write(self, path: &Path) -> Result<()> {
        let steps = Array::vector(ArrayData::U64(self.steps));
        let mut arrays: Vec<(&str, &Array)> = vec![(STEPS, &steps)];
        arrays.extend(self.blocks.iter().map(|(n, a)| (n.as_str(), a)));
        write_arrays(path, &arrays, None)
    }
}

/// The test sets of a run.
fn test_sets(config: &Config) -> Result<Vec<Batch>> {
    run::test_sets(paper::experiment(config)?, config)
}

/// A batch as `popgrad grad` reads it.
fn write_batch(path: &Path, batch: &Batch) -> Result<()> {
    let (b, t) = (batch.seqs(), batch.len_tokens());
    let integers = |x: &[u32]| ArrayData::U64(x.iter().map(|x| u64::from(*x)).collect());
    let tokens = Array::new(&[b, t], integers(batch.tokens()))?;
    let weights = batch.weights().to_vec();
    let (answers, weights) = match batch.kind() {
        Targets::Law => (Array::new(&[b, batch.vocab()], batch.laws().to_vec())?, Array::vector(weights)),
        Targets::Labels => (Array::new(&[b, t], integers(batch.labels()))?, Array::new(&[b, t], weights)?),
    };
    let names = match batch.kind() {
        Targets::Law => ["targets", "weights"],
        Targets::Labels => ["labels", "mask"],
    };
    write_arrays(path, &[("tokens", &tokens), (names[0], &answers), (names[1], &weights)], None)
}
