//! Atomic files: complete or absent.
//!
//! A run may be killed at any instruction. Whole files are written beside their destination and
//! renamed over it; logs are JSON lines, of which a crash can tear only the last.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};

/// Prefix of the names of files that are not complete yet.
pub const TEMPORARY_PREFIX: &str = ".popgrad-";

/// Write `path` through `fill`, atomically: a temporary file in the same folder, synced, then
/// renamed.
///
/// `fill` may return any error of its own. On failure the temporary file is removed and a file that
/// stood at `path` before is left as it was.
///
/// # Errors
/// [`Error::Io`] naming `path` when the folder cannot be written, or whatever `fill` returns.
pub fn write_atomic(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let folder = parent_of(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX).suffix(".tmp");
    // tempfile's own default is private to the user; an output file should follow the umask like
    // any other.
    #[cfg(unix)]
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(permissions);
    let temporary = builder.tempfile_in(folder).map_err(|e| Error::io(path, "cannot write", e))?;
    let mut buffer = BufWriter::new(temporary);
    fill(&mut buffer)?;
    let temporary = buffer.into_inner().map_err(|e| Error::io(path, "cannot write", e.into_error()))?;
    temporary.as_file().sync_all().map_err(|e| Error::io(path, "cannot sync", e))?;
    temporary.persist(path).map_err(|e| Error::io(path, "cannot replace", e.error))?;
    // The rename itself must reach the disk too. Not every file system lets a folder be synced, and
    // the file is already complete under either name, so a refusal here is not an error.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// [`write_atomic`] for bytes already in memory.
///
/// # Errors
/// [`Error::Io`] naming `path`.
pub fn write_bytes_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, |w| w.write_all(bytes).map_err(|e| Error::io(path, "cannot write", e)))
}

/// Create the folder of a new run, parents included.
///
/// # Errors
/// [`Error::Invalid`] when `path` exists and is not an empty folder (a finished run is never
/// overwritten by accident), [`Error::Io`] when the system refuses.
pub fn create_run_dir(path: &Path) -> Result<()> {
    let refuse = |problem: &str| {
        Err(Error::invalid("run folder", format!("{} {problem}", path.display()), "a new or an empty folder"))
    };
    match fs::read_dir(path) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return refuse("exists and is not empty");
            }
            Ok(())
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            fs::create_dir_all(path).map_err(|e| Error::io(path, "cannot create folder", e))
        }
        Err(e) if e.kind() == ErrorKind::NotADirectory => refuse("is a file"),
        Err(e) => Err(Error::io(path, "cannot read folder", e)),
    }
}

/// An append-only log of JSON records, one a line, each flushed to the system as it is written.
#[derive(Debug)]
pub struct JsonlWriter {
    path: PathBuf,
    file: File,
    line: Vec<u8>,
}

impl JsonlWriter {
    /// Open `path` for appending, creating it when absent.
    ///
    /// A torn last line (no newline: the crash of an earlier writer) is cut off first, or the next
    /// record would be glued to it.
    ///
    /// # Errors
    /// [`Error::Io`] naming `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |e| Error::io(path, "cannot open for appending", e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(fail)?;
        let end = end_of_last_line(&mut file).map_err(fail)?;
        file.set_len(end).map_err(fail)?;
        file.seek(SeekFrom::Start(end)).map_err(fail)?;
        Ok(Self { path: path.to_path_buf(), file, line: Vec::new() })
    }

    /// Append one record as one line. Floats print with the fewest digits that read back to the
    /// same bits; NaN and infinities, which JSON does not have, become `null`.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file when it cannot be written, [`Error::Format`] when the record
    /// has no JSON form (a map whose keys are not strings).
    pub fn append<T: Serialize + ?Sized>(&mut self, record: &T) -> Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, record)
            .map_err(|e| Error::format(&self.path, format!("record has no JSON form: {e}")))?;
        self.line.push(b'\n');
        // One write call per record, so that a crash tears at most the line being written.
        self.file.write_all(&self.line).map_err(|e| Error::io(&self.path, "cannot append", e))
    }

    /// Ask the system to put everything appended so far on disk.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, "cannot sync", e))
    }
}

/// Keep only the records of `path` whose integer field `step` is at most `step`, and return how
/// many were kept.
///
/// Resuming from a checkpoint replays the steps after it; their old records must go first. A torn
/// last line is dropped. The file is replaced atomically, and not touched when nothing changes; an
/// absent file counts as empty.
///
/// # Errors
/// [`Error::Format`] with the line number when a line other than a torn last one is not a JSON
/// object with an unsigned integer `step`; [`Error::Io`] when the system refuses.
pub fn truncate_jsonl_after(path: &Path, step: u64) -> Result<usize> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(Error::io(path, "cannot read", e)),
    };
    let mut reader = BufReader::new(file);
    let (mut kept, mut count, mut dropped) = (Vec::new(), 0, false);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(|e| Error::io(path, "cannot read", e))?;
        if read == 0 {
            break;
        }
        if line.last() != Some(&b'\n') {
            dropped = true;
            break;
        }
        let record: StepField = serde_json::from_slice(&line).map_err(|e| {
            Error::format(path, format!("line {number}: expected an object with an integer `step`: {e}"))
        })?;
        if record.step <= step {
            kept.extend_from_slice(&line);
            count += 1;
        } else {
            dropped = true;
        }
    }
    if dropped {
        write_bytes_atomic(path, &kept)?;
    }
    Ok(count)
}

/// The one field every log record has.
#[derive(serde::Deserialize)]
struct StepField {
    step: u64,
}

/// Offset just past the last newline; 0 when there is none.
fn end_of_last_line(file: &mut File) -> std::io::Result<u64> {
    const BLOCK: u64 = 4096;
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut block = Vec::with_capacity(BLOCK as usize);
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        Read::by_ref(file).take(end - start).read_to_end(&mut block)?;
        if let Some(at) = block.iter().rposition(|&b| b == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// The folder that holds `path`; `.` for a bare file name.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}
