//! Digests of files that are read back, so that one changed bit is noticed.
//!
//! A checkpoint holds its own digest and those of the logs that lead to it. For the other files of
//! a folder [`DIGESTS_FILE`] lists the digests. CRC-32 finds every change of up to 32 bits in a
//! row, and others but for one in 2^32: it is meant against accidents, not against forgers.

use super::files::write_bytes_atomic;
use crate::input::{self, RECORDS};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// File with the digests of others in its folder.
pub const DIGESTS_FILE: &str = "digests.json";

/// Format of [`DIGESTS_FILE`].
const FORMAT: &str = "popgrad-digests/1";

/// A CRC-32; as text `crc32:` and eight hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub u32);

impl Digest {
    /// That of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(crc32fast::hash(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "crc32:{:08x}", self.0)
    }
}

impl FromStr for Digest {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let digits = text.strip_prefix("crc32:").ok_or(())?;
        let digest = u32::from_str_radix(digits, 16).map(Digest).map_err(drop)?;
        // No second spelling of a digest.
        if digest.to_string() == text { Ok(digest) } else { Err(()) }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: String,
    files: BTreeMap<String, String>,
}

/// Writes [`DIGESTS_FILE`] of `folder`: names of files there, with their digests.
///
/// A file that is listed is written after this one, so that it never exists without its digest.
///
/// # Errors
/// When it cannot be written.
pub fn write(folder: &Path, files: &[(&str, Digest)]) -> Result<()> {
    let path = folder.join(DIGESTS_FILE);
    let files = files.iter().map(|(name, digest)| (name.to_string(), digest.to_string())).collect();
    let text = serde_json::to_string_pretty(&Written { format: FORMAT.into(), files })
        .map_err(|e| Error::format(&path, format!("no JSON form: {e}")))?;
    write_bytes_atomic(&path, (text + "\n").as_bytes())
}

/// Writes the file `name` of `folder` and, before it, [`DIGESTS_FILE`] with its digest alone.
///
/// # Errors
/// When they cannot be written.
pub fn write_with(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    write(folder, &[(name, Digest::of(bytes))])?;
    write_bytes_atomic(&folder.join(name), bytes)
}

/// The digests that [`DIGESTS_FILE`] of `folder` lists.
///
/// # Errors
/// A file that is absent or damaged.
pub fn read(folder: &Path) -> Result<BTreeMap<String, Digest>> {
    let path = folder.join(DIGESTS_FILE);
    if !path.exists() {
        let problem =
            "missing: lost, or the folder is of an earlier version of popgrad; start anew in another";
        return Err(Error::format(path, problem));
    }
    let bad = |problem: String| Error::format(&path, format!("damaged: {problem}; {}", REMEDY));
    let Written { format, files } = serde_json::from_slice(&input::bytes(&path, RECORDS)?)
        .map_err(|e| bad(e.to_string().replace('\n', " ")))?;
    if format != FORMAT {
        return Err(bad(format!("format `{format}`; expected `{FORMAT}`")));
    }
    let parse = |(name, text): (String, String)| match text.parse() {
        Ok(digest) => Ok((name, digest)),
        Err(()) => Err(bad(format!("`{text}` is no digest"))),
    };
    files.into_iter().map(parse).collect()
}

/// What to do about a damaged file.
const REMEDY: &str = "restore it from a copy, or start anew in another folder";

/// The error for `path` where its digest is not the one expected, which is kept in `place`.
pub(super) fn damaged(path: &Path, found: Digest, expected: Digest, place: &str) -> Error {
    let problem = format!("damaged or edited: its digest is {found}, not {expected} as in {place}");
    Error::format(path, format!("{problem}; {REMEDY}"))
}

/// The bytes of the file `name` of `folder`, which [`DIGESTS_FILE`] lists.
///
/// # Errors
/// A file that is absent, not listed, or of another digest.
pub fn checked(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let listed = read(folder)?;
    let path = folder.join(name);
    let bytes = input::bytes(&path, RECORDS)?;
    let Some(expected) = listed.get(name) else {
        let problem = format!("no digest of `{name}`; {REMEDY}");
        return Err(Error::format(folder.join(DIGESTS_FILE), problem));
    };
    let found = Digest::of(&bytes);
    if found == *expected { Ok(bytes) } else { Err(damaged(&path, found, *expected, DIGESTS_FILE)) }
}

/// Checks every file that [`DIGESTS_FILE`] of `folder` lists, `needed` among them.
///
/// # Errors
/// As [`checked`].
pub fn check_all(folder: &Path, needed: &[&str]) -> Result<()> {
    let listed = read(folder)?;
    let more = listed.keys().map(String::as_str).filter(|name| !needed.contains(name));
    needed.iter().copied().chain(more).try_for_each(|name| checked(folder, name).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_have_one_spelling() {
        // The check value of CRC-32.
        assert_eq!(Digest::of(b"123456789").to_string(), "crc32:cbf43926");
        assert_eq!("crc32:cbf43926".parse(), Ok(Digest(0xcbf4_3926)));
        for bad in ["crc32:CBF43926", "crc32:+bf43926", "crc32:cbf4392", "cbf43926", ""] {
            assert_eq!(bad.parse::<Digest>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn listed_files_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let message = |e: Result<Vec<u8>>| e.unwrap_err().to_string();
        std::fs::write(dir.path().join("a"), "text").unwrap();
        assert!(message(checked(dir.path(), "a")).contains("digests.json: missing"));
        write_with(dir.path(), "a", b"text").unwrap();
        assert_eq!(checked(dir.path(), "a").unwrap(), b"text");
        assert!(message(checked(dir.path(), "b")).contains("b: cannot read"));
        std::fs::write(dir.path().join("b"), "more").unwrap();
        assert!(message(checked(dir.path(), "b")).contains("digests.json: no digest of `b`"));
        std::fs::write(dir.path().join("a"), "texu").unwrap();
        assert!(message(checked(dir.path(), "a")).contains("a: damaged or edited: its digest is crc32:"));
        std::fs::write(dir.path().join(DIGESTS_FILE), "{").unwrap();
        assert!(message(checked(dir.path(), "a")).contains("digests.json: damaged"));
    }
}
