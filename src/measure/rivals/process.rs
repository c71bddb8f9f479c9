//! A Python process that runs the transcriptions of `rivals.py`, driven by lines of JSON.

use crate::report::arrays::Array;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const SCRIPT: &str = include_str!("rivals.py");

/// PyTorch returns large blocks to the system after every step and faults them in again, which
/// costs it half of a step; so its allocator is told to keep them.
const ALLOCATOR: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "17179869184"),
    ("MALLOC_TRIM_THRESHOLD_", "17179869184"),
    ("MALLOC_TOP_PAD_", "268435456"),
];

/// A framework, started.
pub(super) struct Process {
    pub(super) framework: &'static str,
    /// Its version, as it says.
    pub(super) version: String,
    /// Variants of each case.
    variants: BTreeMap<String, Vec<String>>,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// Why a framework does not take part.
pub(super) type Absent = String;

impl Process {
    /// Starts a framework on `threads` threads.
    pub(super) fn start(
        python: &Path,
        framework: &'static str,
        threads: usize,
    ) -> std::result::Result<Self, Absent> {
        let mut command = Command::new(python);
        command.args(["-c", SCRIPT, framework, &threads.to_string()]).envs(ALLOCATOR);
        for pool in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"] {
            command.env(pool, threads.to_string());
        }
        // Its threads spin between calls: briefly, or they would disturb who comes next.
        command.env("OPENBLAS_THREAD_TIMEOUT", "22").env("GOMP_SPINCOUNT", "100000");
        if threads == 1 {
            command.env("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false");
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.map_err(|e| format!("{framework}: {}: {e}", python.display()))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("{framework}: no pipes"));
        };
        let (version, variants) = (String::new(), BTreeMap::new());
        let mut p = Process { framework, version, variants, child, stdin, stdout: BufReader::new(stdout) };
        let hello = p.answer()?;
        p.version = hello["hello"].as_str().unwrap_or_default().to_string();
        p.variants =
            serde_json::from_value(hello["variants"].clone()).map_err(|e| format!("{framework}: {e}"))?;
        Ok(p)
    }

    /// The variants that it has of a case.
    pub(super) fn variants(&self, kind: &str) -> Vec<String> {
        self.variants.get(kind).cloned().unwrap_or_default()
    }

    /// Prepares a case, runs it once and leaves its numbers in `output`; the number to run it by.
    pub(super) fn open(
        &mut self,
        kind: &str,
        variant: &str,
        files: [&Path; 2],
        config: &Value,
    ) -> std::result::Result<u64, Absent> {
        let [input, output] = files;
        let open =
            json!({"case": kind, "variant": variant, "input": input, "output": output, "config": config});
        self.ask(&json!({ "open": open }))?["handle"]
            .as_u64()
            .ok_or_else(|| format!("{}: an answer without handle", self.framework))
    }

    /// Nanoseconds of `rounds` calls.
    pub(super) fn run(&mut self, handle: u64, rounds: u32) -> std::result::Result<f64, Absent> {
        let answer = self.ask(&json!({"run": {"handle": handle, "rounds": rounds}}))?;
        answer["ns"].as_f64().ok_or_else(|| format!("{}: an answer without ns", self.framework))
    }

    /// Forgets a case.
    pub(super) fn close(&mut self, handle: u64) -> std::result::Result<(), Absent> {
        self.ask(&json!({ "close": handle })).map(|_| ())
    }

    fn ask(&mut self, question: &Value) -> std::result::Result<Value, Absent> {
        let sent = writeln!(self.stdin, "{question}").and_then(|()| self.stdin.flush());
        sent.map_err(|e| format!("{}: {e}", self.framework))?;
        self.answer()
    }

    fn answer(&mut self) -> std::result::Result<Value, Absent> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line) {
            Ok(n) if n > 0 => {}
            _ => return Err(format!("{}: ended without an answer", self.framework)),
        }
        let value: Value =
            serde_json::from_str(&line).map_err(|_| format!("{}: {}", self.framework, line.trim()))?;
        match value["error"].as_str() {
            Some(e) => Err(format!("{}: {e}", self.framework)),
            None => Ok(value),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It ends when its input does; one that hangs is not waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes the operands of a case.
pub(super) fn write(path: &Path, arrays: &[(String, Array)]) -> Result<()> {
    let arrays: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (n.as_str(), a)).collect();
    crate::report::arrays::write_arrays(path, &arrays, None)
}

/// Reads the numbers that a rival left.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Array>> {
    crate::report::arrays::read_arrays(path)
}

/// An array of one of the two types.
pub(super) trait ToArray {
    fn to_array(&self, shape: &[usize]) -> Result<Array>;
}

impl ToArray for [f32] {
    fn to_array(&self, shape: &[usize]) -> Result<Array> {
        Array::new(shape, self.to_vec())
    }
}

impl ToArray for [f64] {
    fn to_array(&self, shape: &[usize]) -> Result<Array> {
        Array::new(shape, self.to_vec())
    }
}

impl ToArray for [u32] {
    fn to_array(&self, shape: &[usize]) -> Result<Array> {
        Array::new(shape, self.iter().map(|x| u64::from(*x)).collect::<Vec<_>>())
    }
}

/// The folder of the files that are exchanged; it goes away with its owner.
pub(super) fn folder() -> Result<tempfile::TempDir> {
    tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), "cannot make a folder", e))
}
