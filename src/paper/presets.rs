//! Presets: TOML files, embedded. `what` is a line for `--help`, `base` a preset that this one
//! starts from, `[keys]` its keys, `[quick]` what its short form changes.

use super::PAPERS;
use super::studies::named_studies;
use crate::config::{KEYS, check_keys};
use crate::{Error, Result};
use serde::Deserialize;
use toml::Table;

/// A preset file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// What it is, in a line.
    pub what: String,
    base: Option<String>,
    keys: Table,
    #[serde(default)]
    quick: Table,
}

/// Every preset of a single run, in order.
pub fn presets() -> Vec<Preset> {
    let all = PAPERS.iter().flat_map(|p| p.presets);
    // A test reads them all.
    all.filter_map(|(name, text)| read(name, text).ok()).collect()
}

fn read(name: &str, text: &str) -> Result<Preset> {
    let bad = |e: toml::de::Error| Error::invalid("preset", format!("{name}: {}", e.message()), "valid TOML");
    let preset: Preset = toml::from_str(text).map_err(bad)?;
    Ok(Preset { name: name.into(), ..preset })
}

/// The layers of preset `name`, in its short form if `quick`: earlier ones are what it starts from.
///
/// # Errors
/// An unknown name.
pub fn preset(name: &str, quick: bool) -> Result<Vec<Table>> {
    let mut all = PAPERS.iter().flat_map(|p| p.presets);
    let Some((_, text)) = all.find(|(n, _)| *n == name) else {
        let single = PAPERS.iter().flat_map(|p| p.presets).map(|(n, _)| *n);
        let several = named_studies().map(|s| s.name).filter(|n| !single.clone().any(|s| s == *n));
        return Err(Error::unknown("preset", name, single.clone().chain(several)));
    };
    let Preset { base, mut keys, quick: short, .. } = read(name, text)?;
    keys.insert("preset".into(), name.into());
    let mut layers = match base {
        Some(base) => preset(&base, quick)?,
        None => Vec::new(),
    };
    layers.push(check_keys(keys, KEYS)?);
    if quick {
        layers.push(check_keys(short, KEYS)?);
    }
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::resolve;

    #[test]
    fn every_preset_resolves_in_both_forms_and_survives_the_round_trip() {
        let all = presets();
        assert_eq!(all.len(), PAPERS.iter().map(|p| p.presets.len()).sum::<usize>());
        for p in &all {
            for quick in [false, true] {
                let config = resolve(&preset(&p.name, quick).unwrap()).unwrap();
                assert_eq!(config.plan.preset, p.name);
                let table: Table = config.to_toml().parse().unwrap();
                assert_eq!(resolve(&[table]).unwrap(), config);
                assert!(super::super::experiment(&config).is_ok());
            }
        }
        assert!(preset("chian", false).unwrap_err().to_string().contains("did you mean `chain`?"));
    }
}
