//! `.npz`: a zip whose entries are `.npy` files.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

use super::{Array, Compression, npy};
use crate::error::{Error, Result};

/// DEFLATE cannot expand by more than this; a larger declared size is false.
const MAX_DEFLATE_RATIO: u64 = 1032;

pub(super) fn parse(origin: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Array>> {
    let corrupt = |e: &dyn std::fmt::Display| Error::format(origin, format!("not a readable .npz file: {e}"));
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| corrupt(&e))?;
    if archive.has_duplicate_names() {
        return Err(Error::format(origin, "two arrays of the same name"));
    }
    // Entries may overlap, and each may then reach the ratio; all of them together may not.
    let mut budget = (bytes.len() as u64).saturating_mul(MAX_DEFLATE_RATIO);
    let mut arrays = BTreeMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|e| corrupt(&e))?;
        let file_name = entry.name().map_err(|e| corrupt(&e))?.into_owned();
        let Some(name) = file_name.strip_suffix(".npy") else {
            return Err(Error::format(
                origin,
                format!("entry `{file_name}`: expected names that end in .npy"),
            ));
        };
        let wrong =
            |problem: &dyn std::fmt::Display| Error::format(origin, format!("array `{name}`: {problem}"));
        let size = entry.size();
        if size > budget {
            return Err(wrong(&format_args!("{size} bytes are declared, more than the file can hold")));
        }
        budget -= size;
        // The buffer grows with what is really there. One byte past the declared size, so that the
        // reader meets the end of the entry and verifies its checksum.
        let mut content = Vec::new();
        entry.take(size + 1).read_to_end(&mut content).map_err(|e| wrong(&e))?;
        let array = npy::parse(&content).map_err(|e| wrong(&e))?;
        if arrays.insert(name.to_string(), array).is_some() {
            return Err(wrong(&"given twice"));
        }
    }
    Ok(arrays)
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
