//! Where results come from: `provenance.jsonl`, a line for each session of a run or a study.
//!
//! It holds what two runs of one configuration need not share: command line, date, machine. It is
//! therefore outside the digests of a folder and outside what is compared between runs, and nothing
//! reads it back.

use super::folder::cpu_name;
use crate::Result;
use crate::report::digest::Digest;
use crate::report::files::JsonlWriter;
use jiff::Timestamp;
use popgrad_kernels::Isa;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The file inside the folder of a run or a study.
pub const PROVENANCE_FILE: &str = "provenance.jsonl";

/// The commit that the binary was built from, `-dirty` if the files were not all as there; set by
/// the build script, in releases.
pub const COMMIT: &str = match option_env!("POPGRAD_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Libraries whose versions can change numbers: `wide` computes on the portable instruction set,
/// `rand_core` seeds, `rayon` cuts work.
const LIBRARIES: [&str; 4] = ["popgrad-kernels", "rand_core", "rayon", "wide"];

/// The lock file of this version.
const LOCK: &str = include_str!("../../Cargo.lock");

/// How a session began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Began {
    /// In a new folder.
    Start,
    /// In the folder of an earlier session.
    Resume,
}

/// One line of `provenance.jsonl`.
#[derive(Debug, Serialize)]
struct Session {
    began: Began,
    /// Updates done before; of a study runs that were over.
    done: u64,
    /// UTC, RFC 3339, whole seconds.
    date: String,
    /// Words of the process's command line; bytes that are no Unicode replaced.
    command: Vec<String>,
    version: &'static str,
    commit: &'static str,
    cpu: String,
    arch: &'static str,
    os: &'static str,
    isa: &'static str,
    threads: usize,
    libraries: BTreeMap<&'static str, String>,
    /// Digest of the bits that the system's mathematical functions return at fixed points.
    libm: String,
}

/// Appends a session on `threads` threads to `provenance.jsonl` of `folder`, which is locked.
/// `done` as there: updates made before, or runs that were over.
///
/// # Errors
/// When it cannot be written; an unknown instruction set.
pub(crate) fn record(folder: &Path, done: u64, threads: usize) -> Result<()> {
    let path = folder.join(PROVENANCE_FILE);
    // `popgrad figures` makes the folders of its studies before they start.
    let began = if done > 0 || path.exists() { Began::Resume } else { Began::Start };
    let session = Session {
        began,
        done,
        date: format!("{:.0}", Timestamp::now()),
        command: std::env::args_os().map(|w| w.to_string_lossy().into_owned()).collect(),
        version: env!("CARGO_PKG_VERSION"),
        commit: COMMIT,
        cpu: cpu_name(),
        arch: std::env::consts::ARCH,
        os: std::env::consts::OS,
        isa: Isa::from_env()?.name(),
        threads,
        libraries: LIBRARIES.iter().filter_map(|l| Some((*l, locked(LOCK, l)?.to_string()))).collect(),
        libm: libm().to_string(),
    };
    let mut log = JsonlWriter::open(&path)?;
    log.append(&session)?;
    log.sync()
}

/// The version of `library` in the text of a lock file.
fn locked<'a>(lock: &'a str, library: &str) -> Option<&'a str> {
    let mut lines = lock.lines();
    lines.find(|l| l.strip_prefix("name = ").is_some_and(|n| n.trim_matches('"') == library))?;
    lines.next()?.strip_prefix("version = ").map(|v| v.trim_matches('"'))
}

/// Functions that Rust takes from the system, which may round them otherwise than another system.
fn libm() -> Digest {
    // Not known when this is compiled: the compiler has its own functions.
    let points = (1..=1000).map(|i| std::hint::black_box(f64::from(i) * 0.017));
    let of = |x: f64| [x.ln(), x.ln_1p(), x.exp(), x.powf(0.3), x.cos(), x.tanh(), x.log2(), (-x).exp_m1()];
    let bytes: Vec<u8> = points.flat_map(of).flat_map(|y| y.to_bits().to_le_bytes()).collect();
    Digest::of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_lock_file() {
        let lock = "[[package]]\nname = \"wide2\"\nversion = \"3\"\n\n[[package]]\nname = \"wide\"\nversion = \"1.7.1\"\n";
        assert_eq!((locked(lock, "wide"), locked(lock, "wid")), (Some("1.7.1"), None));
        for library in LIBRARIES {
            let version = locked(LOCK, library).unwrap();
            assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{library} {version}");
        }
        assert_eq!(locked(LOCK, "popgrad-kernels"), Some(env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn the_functions_of_the_system_have_one_digest() {
        assert_eq!(libm(), libm());
    }
}
