//! Atomic files: complete or absent.
//!
//! A run may be killed at any instruction. Whole files are written beside their destination and
//! renamed over it; logs are JSON lines, of which a crash can tear only the last.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

use super::digest::{self, DIGESTS_FILE, Digest};
use crate::error::{Error, Result};

/// Prefix of the names of files that are not complete yet.
pub const TEMPORARY_PREFIX: &str = ".popgrad-";
/// Their suffix.
const TEMPORARY_SUFFIX: &str = ".tmp";
/// The file whose lock a process holds while it writes into a folder. It is never replaced and
/// never removed: a lock is of the file, not of its name.
pub const LOCK_FILE: &str = ".lock";
/// Folder of figures inside the folder of a run or a study.
pub const FIGURES_FOLDER: &str = "figures";

/// Write `path` through `fill`, atomically: a temporary file in the same folder, synced, then
/// renamed.
///
/// `fill` may return any error of its own. On failure the temporary file is removed and a file that
/// stood at `path` before is left as it was.
///
/// # Errors
/// [`Error::Io`] naming `path` when the folder cannot be written, or whatever `fill` returns.
pub fn write_atomic(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    write_whole(path, true, fill)
}

fn write_whole(path: &Path, replace: bool, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let folder = parent_of(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX).suffix(TEMPORARY_SUFFIX);
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
    if replace {
        temporary.persist(path).map_err(|e| Error::io(path, "cannot replace", e.error))?;
    } else {
        temporary.persist_noclobber(path).map_err(|e| match e.error.kind() {
            ErrorKind::AlreadyExists => exists(path),
            _ => Error::io(path, "cannot create", e.error),
        })?;
    }
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

/// [`write_bytes_atomic`] for a file that must not exist, even if another process makes it
/// meanwhile.
///
/// # Errors
/// [`Error::Invalid`] when it exists, [`Error::Io`] naming `path`.
pub fn write_new_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(path, false, |w| w.write_all(bytes).map_err(|e| Error::io(path, "cannot write", e)))
}

/// The error for a file that should be new.
pub fn exists(path: &Path) -> Error {
    Error::invalid("output", format!("{} exists", path.display()), "a file that does not exist yet")
}

/// Checks that `folder`, given as `field`, holds `file`; `allowed` says what it should be.
///
/// # Errors
/// [`Error::Invalid`] naming `field`: a folder that does not exist, or has no such file.
pub fn expect(field: &'static str, folder: &Path, file: &str, allowed: &'static str) -> Result<()> {
    if folder.join(file).is_file() {
        return Ok(());
    }
    let found = if folder.exists() { format!("has no {file}") } else { "does not exist".into() };
    Err(Error::invalid(field, format!("{} {found}", folder.display()), allowed))
}

/// Create the folder of a new run, parents included.
///
/// This alone gives nobody the folder: another process may have found it empty, too.
/// [`claim_folder`] looks again, under the lock.
///
/// # Errors
/// [`Error::Invalid`] when `path` exists and is not an empty folder (a finished run is never
/// overwritten by accident), [`Error::Io`] when the system refuses.
pub fn create_run_dir(path: &Path) -> Result<()> {
    check_new(path)?;
    fs::create_dir_all(path).map_err(|e| Error::io(path, "cannot create folder", e))
}

/// Checks that [`create_run_dir`] takes `path`, and creates nothing.
///
/// # Errors
/// [`Error::Invalid`] when `path` exists and is not an empty folder, [`Error::Io`] when it cannot
/// be read.
pub fn check_new(path: &Path) -> Result<()> {
    match check_empty(path) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Create the first of `NAME`, `NAME-2`, `NAME-3`, .. in `parent` that does not exist, and return
/// its path. No other process gets the same one.
///
/// # Errors
/// [`Error::Io`] when the system refuses.
pub fn create_numbered(parent: &Path, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(parent).map_err(|e| Error::io(parent, "cannot create folder", e))?;
    let mut number = 1_u64;
    loop {
        let path = parent.join(if number == 1 { name.to_string() } else { format!("{name}-{number}") });
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(Error::io(path, "cannot create folder", e)),
        }
    }
}

/// Refuse a folder that holds anything but what a process leaves there that was killed before its
/// first file was complete.
///
/// # Errors
/// [`Error::Invalid`] for other entries and for a file, [`Error::Io`] when it cannot be read.
fn check_empty(folder: &Path) -> Result<()> {
    let refuse = |problem: &str| {
        let found = format!("{} {problem}", folder.display());
        Err(Error::invalid("run folder", found, "a new or an empty folder"))
    };
    let fail = |e| Error::io(folder, "cannot read folder", e);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotADirectory => return refuse("is a file"),
        Err(e) => return Err(fail(e)),
    };
    for entry in entries {
        let name = entry.map_err(fail)?.file_name();
        let name = name.to_string_lossy();
        if name != LOCK_FILE && name != DIGESTS_FILE && !is_temporary(&name) {
            return refuse("exists and is not empty");
        }
    }
    Ok(())
}

fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY_PREFIX) && name.ends_with(TEMPORARY_SUFFIX)
}

/// A folder that no other process of this program writes into until this is dropped.
#[derive(Debug)]
#[must_use = "the folder is free again as soon as this is dropped"]
pub struct FolderLock {
    _file: File,
}

/// Lock `folder`, which must exist, and remove the temporary files of killed processes there and in
/// its folder of figures.
///
/// # Errors
/// [`Error::Invalid`] when another process holds the lock, before anything is changed;
/// [`Error::Io`] when the system refuses.
pub fn lock_folder(folder: &Path) -> Result<FolderLock> {
    let path = folder.join(LOCK_FILE);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|e| Error::io(&path, "cannot open", e))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let found = format!("another process is running in it: {}", folder.display());
            return Err(Error::invalid("run folder", found, "one process at a time"));
        }
        // A file system without locks: continue without one.
        Err(TryLockError::Error(_)) | Ok(()) => {}
    }
    for folder in [folder.to_path_buf(), folder.join(FIGURES_FOLDER)] {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if is_temporary(&entry.file_name().to_string_lossy()) {
                // Left by a kill between writing and renaming; nothing refers to it.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    Ok(FolderLock { _file: file })
}

/// Create `folder` if need be, lock it, and make sure that it is new or empty.
///
/// # Errors
/// As [`create_run_dir`] and [`lock_folder`].
pub fn claim_folder(folder: &Path) -> Result<FolderLock> {
    create_run_dir(folder)?;
    let lock = lock_folder(folder)?;
    // Another process may have come and gone since.
    check_empty(folder)?;
    Ok(lock)
}

/// The first so many bytes of a log, and their digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Bytes.
    pub bytes: u64,
    /// Of these.
    pub digest: Digest,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.bytes, self.digest)
    }
}

impl FromStr for Mark {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let (bytes, digest) = text.split_once(' ').ok_or(())?;
        Ok(Mark { bytes: bytes.parse().map_err(drop)?, digest: digest.parse()? })
    }
}

/// An append-only log of JSON records, one a line, each flushed to the system as it is written.
#[derive(Debug)]
pub struct JsonlWriter {
    path: PathBuf,
    file: File,
    line: Vec<u8>,
    bytes: u64,
    hasher: crc32fast::Hasher,
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
        file.seek(SeekFrom::Start(0)).map_err(fail)?;
        let (bytes, hasher) = hash(&mut file, end).map_err(fail)?;
        file.seek(SeekFrom::Start(end)).map_err(fail)?;
        Ok(Self { path: path.to_path_buf(), file, line: Vec::new(), bytes, hasher })
    }

    /// What the log holds so far.
    pub fn mark(&self) -> Mark {
        Mark { bytes: self.bytes, digest: Digest(self.hasher.clone().finalize()) }
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
        self.file.write_all(&self.line).map_err(|e| Error::io(&self.path, "cannot append", e))?;
        self.bytes += self.line.len() as u64;
        self.hasher.update(&self.line);
        Ok(())
    }

    /// Ask the system to put everything appended so far on disk.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, "cannot sync", e))
    }
}

/// Cut the log at `path` back to `mark`, after a check that it begins as it did then.
///
/// Resuming from a checkpoint replays the steps after it; their old records must go first. An
/// absent file counts as empty.
///
/// # Errors
/// [`Error::Format`] when the log is shorter or begins with other bytes: it is left as it was;
/// [`Error::Io`] when the system refuses.
pub fn cut_log(path: &Path, mark: Mark) -> Result<()> {
    let short = |found: u64| {
        let problem =
            format!("{found} bytes; expected at least the {} that the checkpoint covers", mark.bytes);
        Err(Error::format(path, problem))
    };
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound && mark.bytes == 0 => return Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => return short(0),
        Err(e) => return Err(Error::io(path, "cannot read", e)),
    };
    let (found, hasher) = hash(&mut file, mark.bytes).map_err(|e| Error::io(path, "cannot read", e))?;
    if found < mark.bytes {
        return short(found);
    }
    let found = Digest(hasher.finalize());
    if found != mark.digest {
        return Err(digest::damaged(path, found, mark.digest, "the checkpoint"));
    }
    file.set_len(mark.bytes).map_err(|e| Error::io(path, "cannot cut", e))
}

/// Reads at most `most` bytes: how many there were, and their hash.
fn hash(file: &mut File, most: u64) -> std::io::Result<(u64, crc32fast::Hasher)> {
    let mut hasher = crc32fast::Hasher::new();
    let (mut left, mut block) = (most, vec![0; 1 << 16]);
    while left > 0 {
        let wanted = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match file.read(&mut block[..wanted]) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&block[..read]);
                left -= read as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok((most - left, hasher))
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
