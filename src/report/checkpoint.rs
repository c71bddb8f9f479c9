//! Training state on disk, bit for bit.
//!
//! A checkpoint is a `.safetensors` file whose metadata holds its format, the step it was
//! taken after and which configuration it belongs to. Any safetensors reader opens it; only
//! [`Checkpoint::load`] checks these.

use std::collections::BTreeMap;
use std::path::Path;

use super::arrays::{Array, read_safetensors, write_arrays};
use crate::error::{Error, Result};

/// Format name and version stored in every checkpoint. The version grows when an older reader would
/// misread.
pub const FORMAT: &str = "popgrad-checkpoint/1";

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
    /// As [`write_arrays`].
    pub fn save(&self, path: &Path) -> Result<()> {
        require_extension(path)?;
        let mut metadata: BTreeMap<String, String> =
            self.extra.iter().map(|(k, v)| (format!("extra.{k}"), v.clone())).collect();
        metadata.insert("format".into(), FORMAT.into());
        metadata.insert("kind".into(), self.kind.clone());
        metadata.insert("step".into(), self.step.to_string());
        metadata.insert("config_fingerprint".into(), self.config_fingerprint.clone());
        let arrays: Vec<(&str, &Array)> = self.state.iter().map(|(k, v)| (k.as_str(), v)).collect();
        write_arrays(path, &arrays, Some(&metadata))
    }

    /// Load from `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read; [`Error::Format`] when it is corrupt, is not a
    /// checkpoint, or is one of another format version, saying what is expected.
    pub fn load(path: &Path) -> Result<Self> {
        require_extension(path)?;
        let (state, mut metadata) = read_safetensors(path)?;
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

fn require_extension(path: &Path) -> Result<()> {
    if path.extension().is_some_and(|e| e == "safetensors") {
        return Ok(());
    }
    Err(Error::format(path, "expected a checkpoint file name that ends in .safetensors"))
}
