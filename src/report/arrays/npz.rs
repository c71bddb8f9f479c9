//! `.npz`: a zip whose entries are `.npy` files.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

use super::{Array, Compression, npy};
use crate::error::{Error, Result};
use crate::input::{ARRAYS, in_words};

/// DEFLATE cannot expand by more than this; a larger declared size is false.
const MAX_DEFLATE_RATIO: u64 = 1032;

/// An archive, of which only entries that are asked for are opened.
pub(super) struct Npz<'a> {
    origin: PathBuf,
    archive: ZipArchive<Cursor<&'a [u8]>>,
    /// Number of each array's entry.
    entries: BTreeMap<String, usize>,
    /// Bytes that entries may still declare.
    budget: u64,
}

impl<'a> Npz<'a> {
    pub(super) fn open(origin: &Path, bytes: &'a [u8]) -> Result<Self> {
        let corrupt =
            |e: &dyn std::fmt::Display| Error::format(origin, format!("not a readable .npz file: {e}"));
        let archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| corrupt(&e))?;
        if archive.has_duplicate_names() {
            return Err(Error::format(origin, "two arrays of the same name"));
        }
        let mut entries = BTreeMap::new();
        for index in 0..archive.len() {
            let Some(name) = archive.name_for_index(index) else { continue };
            let file_name = name.map_err(|e| corrupt(&e))?.into_owned();
            // NumPy too takes an entry without the suffix by its whole name.
            let name = file_name.strip_suffix(".npy").unwrap_or(&file_name);
            if entries.insert(name.to_string(), index).is_some() {
                return Err(Error::format(origin, format!("array `{name}`: given twice")));
            }
        }
        // Entries may overlap, and each may then reach the ratio; all of them together may not.
        let budget = (bytes.len() as u64).saturating_mul(MAX_DEFLATE_RATIO);
        Ok(Npz { origin: origin.to_path_buf(), archive, entries, budget })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// True if the entry begins like an array of numbers.
    pub(super) fn is_numeric(&mut self, name: &str) -> bool {
        let Some(index) = self.entries.get(name) else { return false };
        let mut start = Vec::new();
        match self.archive.by_index(*index) {
            Ok(entry) => {
                entry.take(npy::LONGEST_START).read_to_end(&mut start).is_ok() && npy::is_numeric(&start)
            }
            Err(_) => false,
        }
    }

    pub(super) fn read(&mut self, name: &str) -> Result<Option<Array>> {
        let Some(index) = self.entries.get(name) else { return Ok(None) };
        let origin = &self.origin;
        let wrong =
            |problem: &dyn std::fmt::Display| Error::format(origin, format!("array `{name}`: {problem}"));
        let entry = self.archive.by_index(*index).map_err(|e| wrong(&e))?;
        let size = entry.size();
        if size > self.budget {
            return Err(wrong(&format_args!("{size} bytes are declared, more than the file can hold")));
        }
        let most = ARRAYS.now();
        if size > most {
            let allowed = format!("allowed for {}: {}", ARRAYS.name, in_words(most));
            return Err(wrong(&format_args!("{size} bytes are declared; {allowed}")));
        }
        self.budget -= size;
        // The buffer grows with what is really there. One byte past the declared size, so that the
        // reader meets the end of the entry and verifies its checksum.
        let mut content = Vec::new();
        entry.take(size + 1).read_to_end(&mut content).map_err(|e| wrong(&e))?;
        npy::parse(&content).map(Some).map_err(|e| wrong(&e))
    }
}

pub(super) fn encode(
    path: &Path,
    arrays: &BTreeMap<&str, &Array>,
    metadata: Option<&BTreeMap<String, String>>,
    compression: Compression,
) -> Result<Vec<u8>> {
    let wrong = |e: &dyn std::fmt::Display| Error::format(path, format!("cannot make a .npz file: {e}"));
    let method = match compression {
        Compression::None => CompressionMethod::Stored,
        Compression::Deflate => CompressionMethod::Deflated,
    };
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, array) in arrays {
        let content = npy::encode(array).map_err(|e| wrong(&format_args!("array `{name}`: {e}")))?;
        let options = SimpleFileOptions::default()
            .compression_method(method)
            // The zip epoch: a real time would make equal arrays into different files.
            .last_modified_time(DateTime::default())
            .unix_permissions(0o644)
            .large_file(content.len() >= u32::MAX as usize);
        zip.start_file(format!("{name}.npy"), options).map_err(|e| wrong(&e))?;
        zip.write_all(&content).map_err(|e| wrong(&e))?;
    }
    if let Some(metadata) = metadata {
        let text = serde_json::to_string(metadata).map_err(|e| wrong(&e))?;
        if text.len() > usize::from(u16::MAX) {
            return Err(wrong(&format_args!("{} bytes of metadata; allowed: 65535", text.len())));
        }
        zip.set_comment(text).map_err(|e| wrong(&e))?;
    }
    Ok(zip.finish().map_err(|e| wrong(&e))?.into_inner())
}
