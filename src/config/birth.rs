//! Configuration of runs on the trigger-bigram task, with models that predict at every position.
//!
//! A table of its own beside that of the causal tasks: the two have the plan of training in common and nothing else. A file belongs here
//! if it says `task = "trigger_bigram"`, which every resolved one does.
//!
//! Past 400 lines: as in the table beside it, keys, fields and refusals are one list.

use super::{Key, Kind, check_keys, key, parse_overrides_of, parse_table};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use toml::{Table, Value};

/// The task's name.
pub const TASK: &str = "trigger_bigram";

/// Every key of a run.
pub const KEYS: [Key; 45] = [
    key("preset", Kind::Text, "the preset that the other keys start from"),
    key("seed", Kind::Count, "seed of every draw"),
    key("dtype", Kind::Text, "f32 or f64: type of parameters and activations"),
    key("task", Kind::Text, "task: trigger_bigram"),
    key(
        "corpus",
        Kind::Text,
        "where unigrams and bigrams come from: shipped, a UTF-8 text file, counts:FOLDER (char_unigrams.csv, char_bigrams.csv), or dirichlet (random rows: `N`, `alpha`; other ones for each seed)",
    ),
    key("N", Kind::Count, "corpus=dirichlet: alphabet size, 2 to 1024"),
    key("alpha", Kind::Real, "corpus=dirichlet: parameter of the rows, 0.001 to 1000"),
    key("T", Kind::Count, "inputs of a sequence, 2 to 4096"),
    key("K", Kind::Count, "triggers of a sequence, >= 1"),
    key(
        "triggers",
        Kind::Text,
        "fixed (the K most frequent symbols after `offset`) or random (drawn for each sequence)",
    ),
    key("offset", Kind::Count, "triggers=fixed: most frequent symbols left out [0]"),
    key("outputs", Kind::Text, "law of what follows a trigger: uniform or bigram"),
    key(
        "test_outputs",
        Kind::Text,
        "the same on the test set: uniform, bigram, or both (two test sets) [that of `outputs`]",
    ),
    key("no_repeat", Kind::Flag, "true: a trigger is never its own output [false]"),
    key(
        "output_split",
        Kind::Real,
        "share of the symbols, from the first on, that are outputs in training; in testing the others are. > 0, < 1 [all are in both]",
    ),
    key(
        "loss",
        Kind::Text,
        "positions that count: head (a trigger's second occurrence and later ones) or all",
    ),
    key("model", Kind::Text, "model: memory or transformer"),
    key("dim", Kind::Count, "width d, 1 to 4096"),
    key("layers", Kind::Count, "transformer: layers, >= 1 [2]"),
    key("heads", Kind::Count, "transformer: heads of each layer, a divisor of dim [4]"),
    key(
        "block",
        Kind::Text,
        "transformer: public (the feed-forward reads the block's input), standard, or postnorm [public]",
    ),
    key("norm", Kind::Flag, "transformer: false leaves layer norms out [true]"),
    key("ff", Kind::Text, "transformer: feed-forward of each layer, none, linear or relu [relu]"),
    key("ff1", Kind::Text, "memory: feed-forward of layer 1, none, linear or relu [none]"),
    key("ff2", Kind::Text, "memory: feed-forward of layer 2, none, linear or relu [none]"),
    key(
        "positions",
        Kind::Text,
        "memory: random, sincos or rotary [random]; transformer: learned or sincos [learned]",
    ),
    key("output", Kind::Text, "output matrix: free, frozen, tied or tied_frozen [free]"),
    key("scale_scores", Kind::Flag, "memory: scores over sqrt(d) [true]"),
    key("scale_embeddings", Kind::Flag, "memory: embeddings start at 1/sqrt(d) instead of 1 [false]"),
    key(
        "frozen",
        Kind::Text,
        "blocks that never train, comma-separated: names or beginnings of names (layers.1.ff), `embeddings`, `output`, or wk0, wk1, wo1, ff1 as in the metrics",
    ),
    key(
        "freeze_until",
        Kind::Text,
        "blocks that train later, e.g. 300:wk0,wk1/500:wo1: the first update that moves them, and names as in `frozen`; `;` serves as `/` does",
    ),
    key("optimizer", Kind::Text, "optimiser: sgd, adamw; of each block its own, from its first update on"),
    key("momentum", Kind::Real, "momentum of sgd, >= 0 [0 if not given]"),
    key("beta1", Kind::Real, "decay of adamw's mean gradient, >= 0, < 1 [0.9]"),
    key("beta2", Kind::Real, "decay of adamw's mean square, >= 0, < 1 [0.999]"),
    key("adam_eps", Kind::Real, "added to the root of adamw's mean square, > 0 [1e-8]"),
    key("lr", Kind::Real, "learning rate, >= 0"),
    key("schedule", Kind::Text, "learning-rate schedule: constant or cosine"),
    key("weight_decay", Kind::Real, "weight decay of every block that trains, >= 0; adamw: decoupled"),
    key("steps", Kind::Count, "updates, >= 1"),
    key("batch", Kind::Count, "sequences per update, >= 1"),
    key(
        "shards",
        Kind::Count,
        "shards per batch, >= 1: fixes the order of sums, so it changes the last bits",
    ),
    key("eval_every", Kind::Count, "updates between evaluations, >= 1"),
    key("test_size", Kind::Count, "sequences of the fixed test set, >= 1"),
    key("checkpoint_every", Kind::Count, "updates between checkpoints, >= 1"),
];

/// What `model` may name.
pub const MODELS: [&str; 2] = ["memory", "transformer"];

/// What `test_outputs` says for two test sets, one of each law.
pub const BOTH: &str = "both";

/// Keys that a configuration may lack to the end.
const OPTIONAL: [&str; 19] = [
    "N",
    "alpha",
    "offset",
    "output_split",
    "layers",
    "heads",
    "block",
    "norm",
    "ff",
    "ff1",
    "ff2",
    "scale_scores",
    "scale_embeddings",
    "frozen",
    "freeze_until",
    "momentum",
    "beta1",
    "beta2",
    "adam_eps",
];

/// Keys of `memory`, with what they are if not given.
fn of_memory() -> Vec<(&'static str, Value)> {
    vec![
        ("ff1", "none".into()),
        ("ff2", "none".into()),
        ("positions", "random".into()),
        ("scale_scores", true.into()),
        ("scale_embeddings", false.into()),
    ]
}

/// Those of `transformer`.
fn of_transformer() -> Vec<(&'static str, Value)> {
    vec![
        ("layers", 2.into()),
        ("heads", 4.into()),
        ("block", "public".into()),
        ("norm", true.into()),
        ("ff", "relu".into()),
        ("positions", "learned".into()),
    ]
}

/// A resolved configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(non_snake_case)]
pub struct BirthConfig {
    /// The preset that the other keys start from.
    pub preset: String,
    /// Seed of every draw.
    pub seed: u64,
    /// `f32` or `f64`.
    pub dtype: String,
    /// [`TASK`].
    pub task: String,
    /// `shipped`, a file, `counts:FOLDER`, or `dirichlet`.
    pub corpus: String,
    /// Alphabet size of random bigrams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub N: Option<usize>,
    /// Their Dirichlet parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Inputs of a sequence.
    pub T: usize,
    /// Triggers of a sequence.
    pub K: usize,
    /// `fixed` or `random`.
    pub triggers: String,
    /// Frequent symbols that are no fixed triggers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<usize>,
    /// `uniform` or `bigram`.
    pub outputs: String,
    /// The same on the test set, or [`BOTH`].
    pub test_outputs: String,
    /// Is a trigger never its own output?
    pub no_repeat: bool,
    /// Share of the symbols that are outputs in training only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_split: Option<f64>,
    /// `head` or `all`.
    pub loss: String,
    /// `memory` or `transformer`.
    pub model: String,
    /// d.
    pub dim: usize,
    /// Layers of a transformer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// Heads of each of its layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Its blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
    /// Has it layer norms?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<bool>,
    /// Its feed-forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ff: Option<String>,
    /// Feed-forward of the memory model's layer 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ff1: Option<String>,
    /// Feed-forward of its layer 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ff2: Option<String>,
    /// How positions are known.
    pub positions: String,
    /// The output matrix.
    pub output: String,
    /// Are the memory model's scores divided by sqrt(d)?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_scores: Option<bool>,
    /// Do its embeddings start at 1/sqrt(d)?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_embeddings: Option<bool>,
    /// Blocks that never train.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<String>,
    /// Blocks that train later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_until: Option<String>,
    /// Optimiser.
    pub optimizer: String,
    /// Momentum of SGD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// β₁ of AdamW.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f64>,
    /// β₂ of AdamW.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta2: Option<f64>,
    /// eps of AdamW.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adam_eps: Option<f64>,
    /// Learning rate.
    pub lr: f64,
    /// Its schedule.
    pub schedule: String,
    /// Weight decay.
    pub weight_decay: f64,
    /// Updates.
    pub steps: u64,
    /// Sequences per update.
    pub batch: usize,
    /// Shards per batch.
    pub shards: usize,
    /// Updates between evaluations.
    pub eval_every: u64,
    /// Sequences of the test set.
    pub test_size: usize,
    /// Updates between checkpoints.
    pub checkpoint_every: u64,
}

/// Does `table` say that it belongs to this task?
pub fn is_of(table: &Table) -> bool {
    table.get("task").and_then(Value::as_str) == Some(TASK)
}

/// Layers `tables`, later over earlier, into a configuration. A layer that names another model takes the keys of the earlier one away,
/// and what it said of blocks (`frozen`, `freeze_until`); so do another corpus (`N`, `alpha`), optimiser (its numbers), random triggers
/// (`offset`) and another law of the outputs (`test_outputs`, where it was the same). What a model does not say is the public code's.
///
/// # Errors
/// A missing key or a value out of range.
pub fn resolve(tables: &[Table]) -> Result<BirthConfig> {
    let mut merged = Table::new();
    for table in tables {
        let other = |key: &str| table.get(key).is_some_and(|v| merged.get(key).is_some_and(|m| m != v));
        let mut dropped: Vec<&str> = Vec::new();
        if other("model") {
            dropped.extend(of_memory().into_iter().chain(of_transformer()).map(|k| k.0));
            dropped.extend(["frozen", "freeze_until"]);
        }
        if other("optimizer") {
            dropped.extend(["momentum", "beta1", "beta2", "adam_eps"]);
        }
        if other("corpus") {
            dropped.extend(["N", "alpha"]);
        }
        if other("triggers") {
            dropped.push("offset");
        }
        // One that differs was asked for.
        if other("outputs") && merged.get("test_outputs") == merged.get("outputs") {
            dropped.push("test_outputs");
        }
        dropped.iter().for_each(|k| drop(merged.remove(*k)));
        merged.extend(table.clone());
    }
    complete(&mut merged)?;
    if let Some(missing) = KEYS.iter().find(|k| !OPTIONAL.contains(&k.name) && !merged.contains_key(k.name)) {
        return Err(Error::invalid(missing.name, "missing", missing.help));
    }
    let config: BirthConfig = merged
        .try_into()
        .map_err(|e: toml::de::Error| Error::invalid("configuration", e.message(), "values in range"))?;
    config.check()?;
    Ok(config)
}

/// Puts in what keys are if not given; refuses those of the other model.
fn complete(merged: &mut Table) -> Result<()> {
    let model = merged.get("model").and_then(Value::as_str).unwrap_or_default().to_string();
    let (own, others) = match model.as_str() {
        "memory" => (of_memory(), of_transformer()),
        "transformer" => (of_transformer(), of_memory()),
        other => return Err(Error::unknown("model", other, MODELS)),
    };
    let foreign = others.iter().find(|(k, _)| merged.contains_key(*k) && own.iter().all(|(o, _)| o != k));
    if let Some((key, _)) = foreign {
        let owner = MODELS[usize::from(model == MODELS[0])];
        return Err(Error::invalid(*key, merged[*key].to_string(), format!("model={owner} only")));
    }
    let always = [("task", TASK.into()), ("no_repeat", false.into()), ("output", "free".into())];
    let test = merged.get("outputs").map(|law| ("test_outputs", law.clone()));
    for (key, value) in own.into_iter().chain(always).chain(test) {
        merged.entry(key).or_insert(value);
    }
    Ok(())
}

/// One of `known`, or an error that names the key.
fn word(key: &'static str, value: &str, known: &[&str]) -> Result<()> {
    if known.contains(&value) { Ok(()) } else { Err(Error::unknown(key, value, known.iter().copied())) }
}

impl BirthConfig {
    /// Checks what no later constructor checks.
    fn check(&self) -> Result<()> {
        word("task", &self.task, &[TASK])?;
        word("dtype", &self.dtype, &["f32", "f64"])?;
        word("triggers", &self.triggers, &["fixed", "random"])?;
        word("outputs", &self.outputs, &["uniform", "bigram"])?;
        word("test_outputs", &self.test_outputs, &["uniform", "bigram", BOTH])?;
        word("loss", &self.loss, &["head", "all"])?;
        word("output", &self.output, &["free", "frozen", "tied", "tied_frozen"])?;
        let positions: &[&str] = match self.model.as_str() {
            "memory" => &["random", "sincos", "rotary"],
            _ => &["learned", "sincos"],
        };
        word("positions", &self.positions, positions)?;
        for (key, value) in [("ff", &self.ff), ("ff1", &self.ff1), ("ff2", &self.ff2)] {
            value.as_ref().map_or(Ok(()), |v| word(key, v, &["none", "linear", "relu"]))?;
        }
        self.block.as_ref().map_or(Ok(()), |v| word("block", v, &["public", "standard", "postnorm"]))?;
        for (name, value, low, high) in [
            ("T", self.T, 2, 4096),
            ("K", self.K, 1, 1024),
            ("dim", self.dim, 1, 4096),
            ("layers", self.layers.unwrap_or(1), 1, 64),
            ("heads", self.heads.unwrap_or(1), 1, self.dim),
            ("N", self.N.unwrap_or(2), 2, 1024),
            ("offset", self.offset.unwrap_or(0), 0, 1023),
            ("batch", self.batch, 1, 1 << 26),
            ("test_size", self.test_size, 1, 1 << 26),
            ("shards", self.shards, 1, 1 << 26),
        ] {
            if !(low..=high).contains(&value) {
                return Err(Error::invalid(name, value.to_string(), format!("{low} <= {name} <= {high}")));
            }
        }
        if let Some(h) = self.heads.filter(|h| !self.dim.is_multiple_of(*h)) {
            return Err(Error::invalid("heads", h.to_string(), format!("a divisor of dim = {}", self.dim)));
        }
        for (name, value) in [
            ("steps", self.steps),
            ("eval_every", self.eval_every),
            ("checkpoint_every", self.checkpoint_every),
        ] {
            if value == 0 {
                return Err(Error::invalid(name, "0", format!("{name} >= 1")));
            }
        }
        // Metrics look one batch ahead.
        if self.steps.checked_add(1).and_then(|n| n.checked_mul(self.batch as u64)).is_none() {
            return Err(Error::invalid("steps", self.steps.to_string(), "steps * batch < 2^64"));
        }
        if !(self.lr.is_finite() && self.lr >= 0.0) {
            return Err(Error::invalid("lr", self.lr.to_string(), "finite, >= 0"));
        }
        self.check_company()?;
        // Their form; which blocks there are only the model knows.
        self.thaws()?;
        Ok(())
    }

    /// Keys that need others beside them.
    fn check_company(&self) -> Result<()> {
        let random = self.corpus == "dirichlet";
        for (name, value) in [("N", self.N.map(|n| n as f64)), ("alpha", self.alpha)] {
            match value {
                None if random => return Err(Error::invalid(name, "missing", "with corpus=dirichlet")),
                Some(x) if !random => {
                    return Err(Error::invalid(name, x.to_string(), "corpus=dirichlet only"));
                }
                _ => {}
            }
        }
        if self.corpus.is_empty() {
            return Err(Error::invalid("corpus", "no name", "shipped, a file, counts:FOLDER, dirichlet"));
        }
        if let Some(offset) = self.offset.filter(|_| self.triggers == "random") {
            return Err(Error::invalid("offset", offset.to_string(), "triggers=fixed only"));
        }
        if let Some(x) = self.output_split.filter(|x| !(*x > 0.0 && *x < 1.0)) {
            return Err(Error::invalid("output_split", x.to_string(), "> 0, < 1"));
        }
        for (name, value, owner) in [
            ("momentum", self.momentum, "sgd"),
            ("beta1", self.beta1, "adamw"),
            ("beta2", self.beta2, "adamw"),
            ("adam_eps", self.adam_eps, "adamw"),
        ] {
            if let Some(x) = value
                && self.optimizer != owner
            {
                return Err(Error::invalid(name, x.to_string(), format!("optimizer={owner} only")));
            }
        }
        Ok(())
    }

    /// The names in `frozen`.
    pub fn frozen_names(&self) -> Vec<&str> {
        names(self.frozen.as_deref().unwrap_or_default()).collect()
    }

    /// Of each name in `freeze_until`, the first update that moves it.
    ///
    /// # Errors
    /// A text that is no schedule.
    pub fn thaws(&self) -> Result<Vec<(u64, &str)>> {
        let Some(text) = &self.freeze_until else { return Ok(Vec::new()) };
        let bad = |part: &str| {
            Error::invalid(
                "freeze_until",
                format!("`{part}`"),
                "UPDATE:NAMES/UPDATE:NAMES, as 300:wk0,wk1/500:wo1",
            )
        };
        let mut all = Vec::new();
        // A shell ends the command at `;`.
        for part in text.split(['/', ';']).map(str::trim).filter(|p| !p.is_empty()) {
            let (from, of) = part.split_once(':').ok_or_else(|| bad(part))?;
            let from: u64 = from.trim().parse().map_err(|_| bad(part))?;
            let before = all.len();
            all.extend(names(of).map(|n| (from, n)));
            if all.len() == before {
                return Err(bad(part));
            }
        }
        Ok(all)
    }

    /// As TOML, for the run folder.
    ///
    /// # Errors
    /// Never in practice: every field has a TOML form.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self)
            .map_err(|e| Error::invalid("configuration", e.to_string(), "values TOML can hold"))
    }
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|n| !n.is_empty())
}

/// As [`super::fuzz`], for this table; returns what resolved.
#[doc(hidden)]
pub fn fuzz(data: &[u8], base: &Table) -> Vec<BirthConfig> {
    let mut all = Vec::new();
    let Ok(text) = std::str::from_utf8(data) else { return all };
    let words: Vec<String> = text.split_whitespace().map(String::from).collect();
    let read = |text: &str| parse_table(Path::new("fuzz.toml"), text).and_then(|t| check_keys(t, &KEYS));
    for table in [read(text), parse_overrides_of(&words, &KEYS)].into_iter().flatten() {
        if let Ok(config) = resolve(&[base.clone(), table])
            && let Ok(written) = config.to_toml()
        {
            let again = read(&written).and_then(|t| resolve(&[t]));
            assert_eq!(again.ok().as_ref(), Some(&config), "round trip of\n{written}");
            all.push(config);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paper::preset;

    fn with(base: &str, overrides: &[&str]) -> Result<BirthConfig> {
        let args: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
        resolve(&[preset(base, false)?, parse_overrides_of(&args, &KEYS)?])
    }

    #[test]
    fn presets_resolve_and_survive_the_round_trip() {
        for base in ["birth", "birth-full"] {
            for quick in [false, true] {
                let c = resolve(&[preset(base, quick).unwrap()]).unwrap();
                let table: Table = c.to_toml().unwrap().parse().unwrap();
                assert!(is_of(&table));
                assert_eq!(resolve(&[table]).unwrap(), c);
            }
        }
        let c = with("birth", &[]).unwrap();
        assert_eq!((c.ff2.as_deref(), c.positions.as_str(), c.heads), (Some("none"), "random", None));
        assert_eq!((c.test_outputs.as_str(), c.momentum), ("uniform", Some(0.9)));
    }

    #[test]
    fn a_layer_takes_away_what_it_contradicts() {
        let c = with("birth", &["model=transformer", "optimizer=adamw", "beta2=0.99"]).unwrap();
        assert_eq!((c.ff1, c.heads, c.positions.as_str(), c.momentum), (None, Some(4), "learned", None));
        let layers = |words: &[&str]| -> Vec<Table> {
            let table = |w: &&str| parse_overrides_of(&[w.to_string()], &KEYS).unwrap();
            std::iter::once(preset("birth", false).unwrap()).chain(words.iter().map(table)).collect()
        };
        let c = resolve(&layers(&["offset=3", "triggers=random"])).unwrap();
        assert_eq!((c.offset, c.triggers.as_str()), (None, "random"));
        let c = resolve(&layers(&["ff2=relu", "model=memory"])).unwrap();
        assert_eq!(c.ff2.as_deref(), Some("relu"), "the same model again");
        assert_eq!(with("birth", &["outputs=bigram"]).unwrap().test_outputs, "bigram");
        // A file that was resolved once says what was derived.
        let file: Table = with("birth", &["freeze_until=9:wk0"]).unwrap().to_toml().unwrap().parse().unwrap();
        let over = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|s| s.to_string()).collect();
            resolve(&[file.clone(), parse_overrides_of(&words, &KEYS).unwrap()]).unwrap()
        };
        assert_eq!(over(&["outputs=bigram"]).test_outputs, "bigram");
        assert_eq!(over(&["outputs=bigram", "test_outputs=uniform"]).test_outputs, "uniform");
        assert_eq!(over(&["K=2"]).test_outputs, "uniform");
        let c = over(&["model=transformer"]);
        assert_eq!((c.frozen, c.freeze_until), (None, None), "they named blocks of the other model");
        let c = over(&["model=transformer", "frozen=layers.0.attention.wq"]);
        assert_eq!(c.frozen_names(), ["layers.0.attention.wq"]);
        assert_eq!(over(&["model=memory"]).freeze_until.as_deref(), Some("9:wk0"));
    }

    #[test]
    fn schedules_of_freezing_are_read() {
        for text in ["freeze_until=300:wk0, wk1;500:wo1", "freeze_until=300:wk0,wk1 / 500:wo1/"] {
            let c = with("birth", &[text]).unwrap();
            assert_eq!(c.thaws().unwrap(), [(300, "wk0"), (300, "wk1"), (500, "wo1")]);
        }
        let c = with("birth", &[]).unwrap();
        assert_eq!(c.frozen_names(), ["embeddings", "output"]);
        assert!(with("birth", &["frozen="]).unwrap().frozen_names().is_empty());
    }

    #[test]
    fn errors_name_the_key_and_what_is_allowed() {
        for (bad, expected) in [
            ("step=3", "unknown key `step`, did you mean `steps`?"),
            ("S=3", "unknown key `S`"),
            ("T=1", "T: 1; allowed: 2 <= T <= 4096"),
            ("K=0", "K: 0; allowed: 1 <= K"),
            ("task=causal_tree", "unknown task `causal_tree`"),
            ("model=memroy", "unknown model `memroy`, did you mean `memory`?"),
            ("triggers=some", "unknown triggers `some`"),
            ("outputs=unifrom", "unknown outputs `unifrom`, did you mean `uniform`?"),
            ("test_outputs=none", "unknown test_outputs `none`"),
            ("loss=heads", "unknown loss `heads`, did you mean `head`?"),
            ("heads=4", "heads: 4; allowed: model=transformer only"),
            ("norm=false", "norm: false; allowed: model=transformer only"),
            ("ff=relu", "ff: \"relu\"; allowed: model=transformer only"),
            ("ff2=gelu", "unknown ff2 `gelu`"),
            ("positions=learned", "unknown positions `learned`"),
            ("no_repeat=1", "no_repeat: `1`; allowed: true: a trigger"),
            ("output_split=1", "output_split: 1; allowed: > 0, < 1"),
            ("N=10", "N: 10; allowed: corpus=dirichlet only"),
            ("corpus=dirichlet", "N: missing; allowed: with corpus=dirichlet"),
            ("corpus=", "corpus: no name"),
            ("freeze_until=300", "freeze_until: `300`; allowed: UPDATE:NAMES"),
            ("freeze_until=x:wk0", "freeze_until: `x:wk0`"),
            ("freeze_until=300:", "freeze_until: `300:`"),
            ("beta1=0.5", "beta1: 0.5; allowed: optimizer=adamw only"),
            ("batch=99999999999", "batch: 99999999999; allowed: 1 <= batch <= 67108864"),
            ("steps=0", "steps: 0; allowed: steps >= 1"),
            ("lr=-1", "lr: -1; allowed: finite, >= 0"),
            ("preset=chain", "preset: given as key=value"),
        ] {
            let message = with("birth", &[bad]).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{bad}: {message}");
        }
        for (bad, expected) in [
            (&["triggers=random", "offset=3"][..], "offset: 3; allowed: triggers=fixed only"),
            (&["model=transformer", "ff1=relu"], "ff1: \"relu\"; allowed: model=memory only"),
            (&["model=transformer", "heads=3"], "heads: 3; allowed: a divisor of dim = 128"),
            (&["model=transformer", "positions=rotary"], "unknown positions `rotary`"),
            (&["model=transformer", "block=pre"], "unknown block `pre`"),
        ] {
            let message = with("birth", bad).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{bad:?}: {message}");
        }
    }

    #[test]
    fn the_fuzz_corpus_and_its_truncations_hold() {
        let base = preset("birth", false).unwrap();
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/config");
        let mut count = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let path = entry.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            (0..=data.len()).for_each(|n| drop(fuzz(&data[..n], &base)));
            count += usize::from(path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("birth")));
        }
        assert!(count >= 3, "the corpus is there");
    }
}
