//! Files that are read: how much of them, and what text is.
//!
//! Every reader of a file goes through this module. A file may be a device or a pipe that never
//! ends, so each kind of input has a [`Limit`] with a name. Text is UTF-8; a byte order mark at its
//! start is no character, and a line ends with LF, CR LF or CR alone, which all arrive as LF.

use crate::{Error, Result, ram};
use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// How much of a kind of input is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What such an input is called in an error.
    pub name: &'static str,
    /// Most bytes.
    pub bytes: u64,
    /// The share of the free memory that it may take, as a divisor; `None` for any share.
    pub share: Option<u64>,
}

/// A configuration.
pub const CONFIGURATION: Limit = Limit { name: "a configuration", bytes: 1 << 20, share: None };
/// Tokens, labels or a corpus as text. What is made of it takes more memory than the text.
pub const TEXT: Limit = Limit { name: "a text", bytes: 1 << 30, share: Some(4) };
/// A file of arrays. Its bytes are held beside the arrays.
pub const ARRAYS: Limit = Limit { name: "a file of arrays", bytes: 1 << 36, share: Some(2) };
/// A file that this program wrote: a study, a log, a summary.
pub const RECORDS: Limit = Limit { name: "a file of a run or a study", bytes: 1 << 32, share: Some(4) };
/// Most bytes of a device or a pipe, whose size is not known in advance, of any kind.
pub const STREAM: u64 = 1 << 30;

impl Limit {
    /// Most bytes now, given the free memory.
    pub fn now(&self) -> u64 {
        match (self.share, ram::free()) {
            (Some(share), Some(free)) => self.bytes.min(free as u64 / share),
            _ => self.bytes,
        }
    }
}

/// The bytes of a file, a pipe or a device.
///
/// # Errors
/// [`Error::Io`] when it cannot be read; [`Error::Format`] for a folder, and for more bytes than
/// `limit`, which the message names.
pub fn bytes(path: &Path, limit: Limit) -> Result<Vec<u8>> {
    let fail = |e| Error::io(path, "cannot read", e);
    let file = File::open(path).map_err(fail)?;
    let about = file.metadata().map_err(fail)?;
    if about.is_dir() {
        return Err(Error::format(path, "a folder; expected a file"));
    }
    let mut most = limit.now();
    if !about.is_file() {
        most = most.min(STREAM);
    }
    let too_large = || {
        let problem = format!("more than {most} bytes; allowed for {}: {}", limit.name, in_words(most));
        Error::format(path, problem)
    };
    if about.is_file() && about.len() > most {
        return Err(too_large());
    }
    let mut out = Vec::new();
    // One byte more shows that there are too many. What a file says of its size is not relied on:
    // it may grow, and files of the system say 0.
    file.take(most + 1).read_to_end(&mut out).map_err(fail)?;
    if out.len() as u64 > most { Err(too_large()) } else { Ok(out) }
}

/// [`bytes`] as text, see [`decode`].
///
/// # Errors
/// As [`bytes`] and [`decode`].
pub fn text(path: &Path, limit: Limit) -> Result<String> {
    let bytes = bytes(path, limit)?;
    decode(path, &bytes).map(Cow::into_owned)
}

/// The text in `bytes`; `path` names them in errors. A byte order mark at the start is left out,
/// and CR LF and CR alone become LF.
///
/// # Errors
/// [`Error::Format`] for UTF-16, UTF-32 and bytes that are not UTF-8, with line and byte.
pub fn decode<'a>(path: &Path, bytes: &'a [u8]) -> Result<Cow<'a, str>> {
    const WIDE: [(&[u8], &str); 4] = [
        (&[0xFF, 0xFE, 0, 0], "UTF-32"),
        (&[0, 0, 0xFE, 0xFF], "UTF-32"),
        (&[0xFF, 0xFE], "UTF-16"),
        (&[0xFE, 0xFF], "UTF-16"),
    ];
    if let Some((_, name)) = WIDE.iter().find(|(mark, _)| bytes.starts_with(mark)) {
        let problem = format!("{name} by its byte order mark; expected text in UTF-8");
        return Err(Error::format(path, problem));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let before = &bytes[..e.valid_up_to()];
        let line = 1 + decode(path, before).map_or(0, |t| t.matches('\n').count());
        let problem = format!("line {line}: byte {}: not UTF-8; expected text in UTF-8", before.len());
        Error::format(path, problem)
    })?;
    Ok(lines_end_alike(text.strip_prefix('\u{feff}').unwrap_or(text)))
}

/// `text` with LF at the end of every line that ended with CR LF or CR.
pub fn lines_end_alike(text: &str) -> Cow<'_, str> {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n").into() } else { text.into() }
}

/// The extension of `path` in small letters; empty if there is none.
pub fn extension(path: &Path) -> String {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase()
}

/// A number of bytes for a message.
pub fn in_words(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) if bytes.is_multiple_of(*size) => format!("{} {unit}", bytes / size),
        Some((size, unit)) => format!("{:.1} {unit}", bytes as f64 / *size as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> String {
        decode(Path::new("t"), bytes).unwrap().into_owned()
    }

    #[test]
    fn marks_and_line_ends_are_no_text() {
        assert_eq!(decoded(b"\xEF\xBB\xBFa\r\nb\rc\n\r\n"), "a\nb\nc\n\n");
        assert_eq!(decoded("a\u{feff}b".as_bytes()), "a\u{feff}b", "only at the start");
        assert!(matches!(decode(Path::new("t"), b"ab\n").unwrap(), Cow::Borrowed(_)));
        let refused = |bytes: &[u8]| decode(Path::new("t"), bytes).unwrap_err().to_string();
        assert_eq!(refused(b"\xFF\xFEa\0"), "t: UTF-16 by its byte order mark; expected text in UTF-8");
        assert!(refused(b"\xFE\xFF\0a").starts_with("t: UTF-16"));
        assert!(refused(b"\xFF\xFE\0\0a\0\0\0").starts_with("t: UTF-32"));
        assert!(refused(b"\0\0\xFE\xFF\0\0\0a").starts_with("t: UTF-32"));
        assert_eq!(refused(b"a\rb\r\nc\xFF"), "t: line 3: byte 6: not UTF-8; expected text in UTF-8");
    }

    #[test]
    fn limits_hold_for_files_and_devices() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let limit = Limit { name: "a small thing", bytes: 2048, share: None };
        std::fs::write(&file, vec![b'x'; 2048]).unwrap();
        assert_eq!(bytes(&file, limit).unwrap().len(), 2048);
        std::fs::write(&file, vec![b'x'; 2049]).unwrap();
        let words = "more than 2048 bytes; allowed for a small thing: 2 KiB";
        let message = bytes(&file, limit).unwrap_err().to_string();
        assert!(message.ends_with(words), "{message}");
        let folder = bytes(dir.path(), limit).unwrap_err().to_string();
        assert!(folder.ends_with("a folder; expected a file"), "{folder}");
        if cfg!(target_os = "linux") {
            let message = bytes(Path::new("/dev/zero"), limit).unwrap_err().to_string();
            assert!(message.ends_with(words), "{message}");
            // A file of the system says that it has no bytes.
            assert!(
                !bytes(Path::new("/proc/meminfo"), Limit { bytes: 1 << 20, ..limit }).unwrap().is_empty()
            );
        }
    }
}
