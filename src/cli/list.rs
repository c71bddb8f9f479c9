//! `popgrad list` and `popgrad keys`: what there is to run, and what can be set.

use super::run::{KeysOf, is_preset};
use super::{json, table, tell, wants_json};
use crate::config::{self, Key, task::TASKS};
use crate::model::MODELS;
use crate::paper::{self, studies};
use crate::theory::CLAIMS;
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use toml::Value;

/// Arguments of `popgrad list`.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// presets, studies, models, tasks or claims [default: all of them].
    what: Option<String>,
}

/// Arguments of `popgrad keys`.
#[derive(Debug, Args)]
pub(super) struct KeysArgs {
    /// A preset, task or model, or KEY=VALUE; several narrow it down [default: every key].
    words: Vec<String>,
}

pub(super) const AFTER_HELP: &str = "\
Examples:
  popgrad list presets
  popgrad list claims --json";

pub(super) const AFTER_HELP_OF_KEYS: &str = "\
Examples:
  popgrad keys birth               keys of a preset, with their values
  popgrad keys transformer         those that exist with this model
  popgrad keys causal_dag memory   with this task and this model";

/// What the models are; a test holds it against their names.
const OF_MODELS: &[(&str, &str)] = &[
    ("disentangled", "attention only, every layer appended to its input; the first paper's"),
    ("simplified", "two matrices, A1 over positions and A2 over symbols; the first paper's theory"),
    ("mlp_transformer", "attention through an MLP; Figure 8 of the first paper"),
    ("memory", "two layers without query matrices; the second paper's basic model"),
    ("transformer", "any layers and heads; the second paper's full model"),
];

/// What the tasks are; a test holds it against their names.
const OF_TASKS: &[(&str, &str)] = &[
    ("causal_tree", "sequences over a latent graph, at most one parent a position"),
    ("causal_dag", "the same with several parents, n-grams among them"),
    ("trigger_bigram", "bigrams of a text, with triggers whose followers are of the sequence"),
];

#[derive(Serialize)]
struct Entry {
    name: String,
    what: String,
}

fn entry(name: &str, what: &str) -> Entry {
    Entry { name: name.into(), what: what.into() }
}

/// What can be listed.
pub(super) const KINDS: [&str; 5] = ["presets", "studies", "models", "tasks", "claims"];

fn entries(kind: &str) -> Vec<Entry> {
    match kind {
        "presets" => paper::presets().iter().map(|p| entry(&p.name, &p.what)).collect(),
        "studies" => {
            studies::named_studies().filter(|s| !is_preset(s.name)).map(|s| entry(s.name, s.what)).collect()
        }
        "models" => OF_MODELS.iter().map(|(n, w)| entry(n, w)).collect(),
        "tasks" => OF_TASKS.iter().map(|(n, w)| entry(n, w)).collect(),
        _ => CLAIMS.iter().map(|c| entry(c.id, c.title)).collect(),
    }
}

pub(super) fn list(args: &ListArgs) -> Result<()> {
    let kinds: Vec<&str> = match args.what.as_deref() {
        None => KINDS.to_vec(),
        Some(word) => match KINDS.iter().find(|k| **k == word) {
            Some(kind) => vec![kind],
            None => return Err(Error::unknown("list", word, KINDS)),
        },
    };
    if wants_json() {
        let all: serde_json::Map<String, serde_json::Value> =
            kinds.iter().map(|k| (k.to_string(), serde_json::json!(entries(k)))).collect();
        return tell(&json(&all)?);
    }
    let mut text = String::new();
    for kind in &kinds {
        if kinds.len() > 1 {
            text += &format!("{kind}\n");
        }
        text += &table::named(entries(kind).iter().map(|e| (e.name.as_str(), e.what.clone())));
    }
    tell(&text)
}

#[derive(Serialize)]
struct KeyEntry {
    name: &'static str,
    help: &'static str,
    allowed: String,
    /// Its value in the preset, or its default with the task, model and optimiser that are named;
    /// null if there is none, or if it depends on what is not named.
    value: Option<Value>,
}

pub(super) fn keys(args: &KeysArgs) -> Result<()> {
    let words: Vec<String> = args.words.iter().map(|w| chosen(w)).collect::<Result<_>>()?;
    let found = KeysOf::words(&words);
    if wants_json() {
        let entry =
            |k: &Key| KeyEntry { name: k.name, help: k.help, allowed: k.allowed(), value: found.value(k) };
        return tell(&json(&found.keys.iter().map(entry).collect::<Vec<_>>())?);
    }
    tell(&found.text())
}

/// A word as one of `run`'s: a preset, or KEY=VALUE.
fn chosen(word: &str) -> Result<String> {
    if word.contains('=') {
        config::parse_overrides(&[word.to_string()])?;
        return Ok(word.into());
    }
    if is_preset(word) {
        return Ok(word.into());
    }
    for (key, names) in [("model", MODELS), ("task", TASKS)] {
        if names.contains(&word) {
            return Ok(format!("{key}={word}"));
        }
    }
    let presets = paper::PAPERS.iter().flat_map(|p| p.presets).map(|(name, _)| *name);
    let known = presets.chain(MODELS.iter().copied()).chain(TASKS.iter().copied());
    Err(Error::unknown("preset, task or model", word, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_and_task_has_its_line() {
        assert_eq!(OF_MODELS.iter().map(|m| m.0).collect::<Vec<_>>(), MODELS);
        assert_eq!(OF_TASKS.iter().map(|t| t.0).collect::<Vec<_>>(), TASKS);
        for kind in KINDS {
            assert!(entries(kind).iter().all(|e| !e.what.is_empty()) && !entries(kind).is_empty(), "{kind}");
        }
    }

    #[test]
    fn keys_follow_what_is_named() {
        let has = |words: &[&str], key: &str| {
            let words: Vec<String> = words.iter().map(|w| chosen(w).unwrap()).collect();
            KeysOf::words(&words).keys.iter().any(|k| k.name == key)
        };
        assert!(has(&[], "K") && has(&[], "graph"));
        assert!(has(&["memory"], "ff1") && !has(&["memory"], "block"));
        assert!(has(&["trigger_bigram"], "K") && !has(&["trigger_bigram"], "graph"));
        assert!(has(&["causal_dag", "transformer"], "block") && !has(&["causal_dag", "transformer"], "K"));
        assert!(has(&["birth"], "momentum") && !has(&["birth"], "graph"));
        let value = |words: &[&str], key: &str| {
            let words: Vec<String> = words.iter().map(|w| chosen(w).unwrap()).collect();
            let found = KeysOf::words(&words);
            let key = found.keys.iter().find(|k| k.name == key).unwrap();
            found.value(key).map(|v| v.to_string())
        };
        // Of a preset; a default of all runs; one of a model, once that is named.
        assert_eq!(value(&["chain"], "steps").unwrap(), "131072");
        assert_eq!(value(&[], "dtype").unwrap(), "\"f32\"");
        assert_eq!((value(&[], "dim"), value(&["memory"], "dim").unwrap()), (None, "128".into()));
        assert_eq!(value(&["chain"], "seeds"), None);
        assert!(chosen("memoryy").unwrap_err().to_string().contains("did you mean `memory`?"));
        assert!(chosen("steps=-1").is_err());
    }
}
