//! The numbers that a run reports: `metrics.jsonl` (identical for identical seeds), `timing.jsonl`
//! (never so, which is why it is a file of its own) and the summary.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::files::{JsonlWriter, Mark, write_bytes_atomic};
use crate::error::{Error, Result};

/// File name of the metrics log inside a run folder.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// File name of the timing log inside a run folder.
pub const TIMING_FILE: &str = "timing.jsonl";
/// File name of the summary inside a run folder.
pub const SUMMARY_FILE: &str = "summary.json";

/// The two logs of a run. Records are any [`Serialize`] struct with an unsigned integer field
/// `step`.
#[derive(Debug)]
pub struct MetricsWriter {
    metrics: JsonlWriter,
    timing: JsonlWriter,
}

impl MetricsWriter {
    /// Open both logs of the run folder `dir` for appending.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn open(dir: &Path) -> Result<Self> {
        Ok(Self {
            metrics: JsonlWriter::open(&dir.join(METRICS_FILE))?,
            timing: JsonlWriter::open(&dir.join(TIMING_FILE))?,
        })
    }

    /// What `metrics.jsonl` holds so far, for a checkpoint. (What is in `timing.jsonl` differs from
    /// run to run, so no checkpoint marks it.)
    pub fn mark(&self) -> Mark {
        self.metrics.mark()
    }

    /// Append a record to `metrics.jsonl`: anything a rerun with the same seed reproduces.
    ///
    /// # Errors
    /// As [`JsonlWriter::append`].
    pub fn metric<T: Serialize + ?Sized>(&mut self, record: &T) -> Result<()> {
        self.metrics.append(record)
    }

    /// Append a record to `timing.jsonl`: seconds, rates, anything that depends on the machine.
    ///
    /// # Errors
    /// As [`JsonlWriter::append`].
    pub fn timing<T: Serialize + ?Sized>(&mut self, record: &T) -> Result<()> {
        self.timing.append(record)
    }

    /// Put both logs on disk; call it before a checkpoint that refers to them.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn sync(&self) -> Result<()> {
        self.metrics.sync()?;
        self.timing.sync()
    }
}

/// The outcome of a run: keys in the order they were set, each with a number, a text, or `null` for
/// absent.
///
/// [`fmt::Display`] prints one `key: value` line each, floats with the fewest digits that read back
/// to the same bits and texts bare; [`Summary::write`] stores the same pairs, in the same order, as
/// a JSON object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    // Key and JSON text. Not `serde_json::Value`: that holds f64 only and would print an f32 with
    // digits it never had.
    entries: Vec<(String, String)>,
}

impl Summary {
    /// An empty summary.
    pub fn new() -> Self {
        Self::default()
    }

    /// Set `key`; a key set before keeps its place. `None`, NaN and infinities become `null`.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `key` when `value` has no JSON form.
    pub fn set<T: Serialize>(&mut self, key: &str, value: T) -> Result<()> {
        let text = serde_json::to_string(&value)
            .map_err(|e| Error::invalid(key, format!("no JSON form: {e}"), "numbers, texts, lists, none"))?;
        match self.entries.iter_mut().find(|(k, _)| k == key) {
            Some((_, slot)) => *slot = text,
            None => self.entries.push((key.to_string(), text)),
        }
        Ok(())
    }

    /// The JSON text under `key`; `None` when it was never set.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, text)| text.as_str())
    }

    /// Keys and JSON texts, in the order the keys were set.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(key, text)| (key.as_str(), text.as_str()))
    }

    /// One JSON object, one pair a line, in the order the keys were set.
    pub fn to_json(&self) -> String {
        let lines: Vec<String> = self
            .entries
            .iter()
            .map(|(key, text)| format!("  {}: {text}", Value::from(key.as_str())))
            .collect();
        if lines.is_empty() { "{}\n".to_string() } else { format!("{{\n{}\n}}\n", lines.join(",\n")) }
    }

    /// Write `summary.json` into the run folder `dir`, atomically, and return its path.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn write(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join(SUMMARY_FILE);
        write_bytes_atomic(&path, self.to_json().as_bytes())?;
        Ok(path)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, text) in &self.entries {
            match serde_json::from_str(text) {
                // A line break inside a text would forge another `key: value` line: such a text
                // stays quoted.
                Ok(Value::String(bare)) if !bare.contains(['\n', '\r']) => writeln!(f, "{key}: {bare}")?,
                _ => writeln!(f, "{key}: {text}")?,
            }
        }
        Ok(())
    }
}
