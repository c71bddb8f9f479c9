//! Training state on disk, bit for bit.
//!
//! A checkpoint is a `.safetensors` file whose metadata holds its format, the step it was
//! taken after and which configuration it belongs to. Any safetensors reader opens it; only
//! [`Checkpoint::load`] checks these, and the digest of the whole file that the metadata holds too:
//! that of the file's bytes with zeros for its own digits.

use std::collections::BTreeMap;
use std::path::Path;

use super::arrays::{Array, Format, encode_arrays, parse_safetensors, read_file};
use super::digest::{self, Digest};
use super::files::write_bytes_atomic;
use crate::error::{Error, Result};

/// Format name and version stored in every checkpoint. The version grows when an older reader would
/// misread. Version 1 had no digest; version 2 had `param.` before the names of blocks.
pub const FORMAT: &str = "popgrad-checkpoint/3";

/// The digest as the header holds it. A quote inside a text of the header has a backslash before
/// it, so the first of these is the digest.
const DIGEST: &str = "\"digest\":\"";

/// Everything needed to continue a run with the same bits.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Optimiser steps taken so far.
    pub step: u64,
    /// The kind of state, e.g. `popgrad run`; compared by the reader.
    pub kind: String,
    /// Fingerprint of the configuration of the state; compared by the reader.
    pub config_fingerprint: String,
    /// Named arrays: parameters, optimiser moments, counters.
    pub state: BTreeMap<String, Array>,
    /// Any further text, e.g. the crate's version.
    pub extra: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Save to `path` (which ends in `.safetensors`), atomically. Equal checkpoints give equal
    /// bytes.
    ///
    /// # Errors
    /// As [`write_arrays`](super::arrays::write_arrays).
    pub fn save(&self, path: &Path) -> Result<()> {
        require_extension(path)?;
        let mut metadata: BTreeMap<String, String> =
            self.extra.iter().map(|(k, v)| (format!("extra.{k}"), v.clone())).collect();
        metadata.insert("format".into(), FORMAT.into());
        metadata.insert("kind".into(), self.kind.clone());
        metadata.insert("step".into(), self.step.to_string());
        metadata.insert("config_fingerprint".into(), self.config_fingerprint.clone());
        metadata.insert("digest".into(), Digest(0).to_string());
        let arrays: Vec<(&str, &Array)> = self.state.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let mut bytes = encode_arrays(path, Format::Safetensors, &arrays, Some(&metadata))?;
        let at = digest_at(&bytes).ok_or_else(|| Error::format(path, "a header without its digest"))?;
        let digest = Digest::of(&bytes);
        set_digest(&mut bytes, at, digest);
        write_bytes_atomic(path, &bytes)
    }

    /// Load from `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read; [`Error::Format`] when it is corrupt, is not a
    /// checkpoint, or is one of another format version, saying what is expected.
    pub fn load(path: &Path) -> Result<Self> {
        require_extension(path)?;
        let mut bytes = read_file(path)?;
        let (state, mut metadata) = parse_safetensors(path, &bytes)?;
        match metadata.remove("format").as_deref() {
            Some(FORMAT) => {}
            found => {
                let found = found.map_or("none".to_string(), |f| format!("`{f}`"));
                let problem =
                    format!("not a checkpoint of this version: format {found}; expected `{FORMAT}`");
                return Err(Error::format(path, problem));
            }
        }
        let mut take = |key: &str| {
            let missing = || Error::format(path, format!("checkpoint without `{key}` in its metadata"));
            metadata.remove(key).ok_or_else(missing)
        };
        let expected = take("digest")?;
        let expected: Digest = expected.parse().map_err(|()| {
            Error::format(path, format!("checkpoint digest `{expected}`; expected a CRC-32"))
        })?;
        let at = digest_at(&bytes).ok_or_else(|| Error::format(path, "a header without its digest"))?;
        set_digest(&mut bytes, at, Digest(0));
        let found = Digest::of(&bytes);
        if found != expected {
            return Err(digest::damaged(path, found, expected, "its header"));
        }
        let (kind, step, config_fingerprint) = (take("kind")?, take("step")?, take("config_fingerprint")?);
        let step = step.parse().map_err(|_| {
            Error::format(path, format!("checkpoint step `{step}`; expected an unsigned integer"))
        })?;
        // Keys of no known sort come from a later writer that kept the version: they are safe to
        // leave out.
        let extra = metadata
            .into_iter()
            .filter_map(|(k, v)| k.strip_prefix("extra.").map(|k| (k.to_string(), v)))
            .collect();
        Ok(Self { step, kind, config_fingerprint, state, extra })
    }
}

/// Where the digest's text begins in the bytes of a checkpoint.
fn digest_at(bytes: &[u8]) -> Option<usize> {
    bytes.windows(DIGEST.len()).position(|w| w == DIGEST.as_bytes()).map(|at| at + DIGEST.len())
}

fn set_digest(bytes: &mut [u8], at: usize, digest: Digest) {
    let text = digest.to_string();
    if let Some(place) = bytes.get_mut(at..at + text.len()) {
        place.copy_from_slice(text.as_bytes());
    }
}

fn require_extension(path: &Path) -> Result<()> {
    if crate::input::extension(path) == "safetensors" {
        return Ok(());
    }
    Err(Error::format(path, "expected a checkpoint file name that ends in .safetensors"))
}
