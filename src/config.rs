//! Run configuration: one flat table of keys, from a preset, a TOML file and `key=value` overrides, in that order.
//!
//! Every key is listed in [`KEYS`] with its type and domain; an unknown key or a value of the wrong type is an error that
//! names both. The resolved table is written to the run folder and read back by `--resume`.
//!
//! [`birth`] has the table of the trigger-bigram task.
//!
//! Past 400 lines: the table of keys, their fields and their refusals are one list, kept in one order.

pub mod birth;

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use toml::{Table, Value};

/// Type of a key's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Non-negative integer.
    Count,
    /// Number.
    Real,
    /// Word.
    Text,
    /// `true` or `false`.
    Flag,
    /// List of integers, `1,1` on the command line.
    Integers,
}

/// One configuration key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Type of its value.
    pub kind: Kind,
    /// What it means and what is allowed.
    pub help: &'static str,
}

/// A key of type `kind`.
pub const fn key(name: &'static str, kind: Kind, help: &'static str) -> Key {
    Key { name, kind, help }
}

/// Every key of a run.
pub const KEYS: [Key; 34] = [
    key("preset", Kind::Text, "the preset that the other keys start from"),
    key("seed", Kind::Count, "seed of every draw"),
    key("dtype", Kind::Text, "f32 or f64: type of parameters and activations"),
    key(
        "task",
        Kind::Text,
        "task: causal_tree, or causal_dag (several parents); follows `graph` if not given",
    ),
    key(
        "graph",
        Kind::Text,
        "latent graph: chain, icl, random, many_graphs, manual, or custom (then `parents`); causal_dag: two_parents, ngram, or custom (then `parent_sets`)",
    ),
    key("order", Kind::Count, "graph=ngram: parents of a position, >= 1"),
    key(
        "parent_sets",
        Kind::Text,
        "parents of each of the T positions and of the target, e.g. `-;0;0,1;1,2` for T=3, - for a root; sets graph=custom, task=causal_dag",
    ),
    key(
        "parents",
        Kind::Integers,
        "parent of each context position (T-1 of them), -1 for a root; sets graph=custom",
    ),
    key("S", Kind::Count, "alphabet size, 2 to 1024"),
    key("T", Kind::Count, "sequence length with the query, 2 to 4096"),
    key("alpha", Kind::Real, "Dirichlet parameter of the transition rows, 0.001 to 1000"),
    key(
        "roots",
        Kind::Text,
        "law of the roots: stationary or uniform; causal_dag: shared (one draw of a law) or uniform",
    ),
    key(
        "source",
        Kind::Text,
        "where batches come from: sampled, exact (the whole population), or orbit (the same up to relabelling; algorithm1)",
    ),
    key("model", Kind::Text, "model: disentangled, mlp_transformer, simplified (algorithm1)"),
    key("eps", Kind::Real, "ε of the simplified model's loss -Σ y log(f + ε), >= 0; algorithm1: > 0"),
    key("heads", Kind::Integers, "attention heads of each layer, e.g. 1,1"),
    key(
        "init",
        Kind::Real,
        "standard deviation of the initial attention matrices, >= 0; 0 leaves several heads equal for ever",
    ),
    key("beta0", Kind::Real, "algorithm1: A2 starts at beta0 times the identity"),
    key("optimizer", Kind::Text, "optimiser: sgd, adamw, staged (algorithm1)"),
    key("momentum", Kind::Real, "momentum of sgd, >= 0 [0 if not given]"),
    key("beta1", Kind::Real, "decay of adamw's mean gradient, >= 0, < 1 [0.9]"),
    key("beta2", Kind::Real, "decay of adamw's mean square, >= 0, < 1 [0.999]"),
    key("adam_eps", Kind::Real, "added to the root of adamw's mean square, > 0 [1e-8]"),
    key("lr", Kind::Real, "learning rate, >= 0; algorithm1: that of its first stage"),
    key("steps1", Kind::Count, "algorithm1: updates of A1 alone; the rest of `steps` goes to A2"),
    key("lr2", Kind::Real, "algorithm1: learning rate of its second stage, >= 0"),
    key("schedule", Kind::Text, "learning-rate schedule: constant or cosine"),
    key("weight_decay", Kind::Real, "weight decay of every parameter, >= 0; adamw: decoupled"),
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

fn sampled() -> String {
    SOURCES[0].into()
}

fn causal_tree() -> String {
    TASKS[0].into()
}

fn is_causal_tree(task: &String) -> bool {
    task == TASKS[0]
}

/// What `task` may name; the first is the one meant where none is.
pub const TASKS: [&str; 2] = ["causal_tree", "causal_dag"];

/// Graphs that only `causal_dag` has.
const DAG_GRAPHS: [&str; 2] = ["two_parents", "ngram"];

/// What `source` may name.
pub const SOURCES: [&str; 3] = ["sampled", "exact", "orbit"];

/// Keys that a configuration may lack.
const OPTIONAL: [&str; 13] = [
    "task",
    "order",
    "parent_sets",
    "parents",
    "source",
    "eps",
    "beta0",
    "steps1",
    "lr2",
    "momentum",
    "beta1",
    "beta2",
    "adam_eps",
];

/// A resolved configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(non_snake_case)]
pub struct Config {
    /// The preset that the other keys start from.
    pub preset: String,
    /// Seed of every draw.
    pub seed: u64,
    /// `f32` or `f64`.
    pub dtype: String,
    /// Task.
    #[serde(default = "causal_tree", skip_serializing_if = "is_causal_tree")]
    pub task: String,
    /// Latent graph.
    pub graph: String,
    /// Parents of a position in an n-gram graph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<usize>,
    /// Parent tuples of a custom graph with several parents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_sets: Option<String>,
    /// Parent list of a custom graph.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<i64>,
    /// Alphabet size.
    pub S: usize,
    /// Sequence length, query included.
    pub T: usize,
    /// Dirichlet parameter.
    pub alpha: f64,
    /// Law of the roots.
    pub roots: String,
    /// Where batches come from.
    #[serde(default = "sampled")]
    pub source: String,
    /// Model.
    pub model: String,
    /// ε of the simplified model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// Heads of each layer.
    pub heads: Vec<usize>,
    /// Standard deviation of the initial attention matrices.
    pub init: f64,
    /// A2 at the start of Algorithm 1, as a multiple of the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta0: Option<f64>,
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
    /// Updates of Algorithm 1's first stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps1: Option<u64>,
    /// Learning rate of its second stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr2: Option<f64>,
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

fn find(name: &str) -> Result<&'static Key> {
    find_in(name, &KEYS)
}

fn find_in<'a>(name: &str, keys: &'a [Key]) -> Result<&'a Key> {
    let known = || keys.iter().map(|k| k.name);
    keys.iter().find(|k| k.name == name).ok_or_else(|| Error::unknown("key", name, known()))
}

/// The run keys called `names`, for commands that take some of them.
pub fn keys(names: &[&str]) -> Vec<Key> {
    KEYS.into_iter().filter(|k| names.contains(&k.name)).collect()
}

/// Brings a value to the type of its key: integers become reals where a real is wanted, one integer a list.
fn coerce(key: &Key, value: Value) -> Result<Value> {
    let wrong = |what: String| Error::invalid(key.name, what, key.help);
    match (key.kind, value) {
        (Kind::Count, Value::Integer(i)) if i >= 0 => Ok(Value::Integer(i)),
        (Kind::Real, Value::Integer(i)) => Ok(Value::Float(i as f64)),
        (Kind::Real, Value::Float(x)) if x.is_finite() => Ok(Value::Float(x)),
        (Kind::Text, Value::String(s)) => Ok(Value::String(s)),
        (Kind::Flag, Value::Boolean(b)) => Ok(Value::Boolean(b)),
        (Kind::Integers, Value::Integer(i)) => Ok(Value::Array(vec![Value::Integer(i)])),
        (Kind::Integers, Value::Array(a)) if a.iter().all(Value::is_integer) => Ok(Value::Array(a)),
        (_, other) => Err(wrong(other.to_string().replace('\n', " "))),
    }
}

/// Parses the text after `key=`.
fn parse(key: &Key, text: &str) -> Result<Value> {
    let wrong = || Error::invalid(key.name, format!("`{text}`"), key.help);
    let integer = |t: &str| t.trim().parse::<i64>().map(Value::Integer).map_err(|_| wrong());
    let value = match key.kind {
        Kind::Count => {
            // Powers such as 2^17 are how step counts are written in the papers.
            match text.split_once('^').map(|(b, e)| (b.parse::<i64>(), e.parse::<u32>())) {
                Some((Ok(b), Ok(e))) => Value::Integer(b.checked_pow(e).ok_or_else(wrong)?),
                _ => integer(text)?,
            }
        }
        Kind::Real => Value::Float(text.parse().map_err(|_| wrong())?),
        Kind::Text => Value::String(text.to_string()),
        Kind::Flag => Value::Boolean(text.trim().parse().map_err(|_| wrong())?),
        Kind::Integers => {
            let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
            Value::Array(inner.split(',').map(integer).collect::<Result<_>>()?)
        }
    };
    coerce(key, value)
}

/// Splits `key=value` arguments and parses them.
///
/// # Errors
/// An argument without `=`, an unknown key, a value of the wrong type, `preset`.
pub fn parse_overrides(args: &[String]) -> Result<Table> {
    parse_overrides_of(args, &KEYS)
}

/// [`parse_overrides`] for runs with other `keys`.
///
/// # Errors
/// As there.
pub fn parse_overrides_of(args: &[String], keys: &[Key]) -> Result<Table> {
    let table = parse_keys(args, keys)?;
    refuse_preset(table.keys().map(String::as_str))?;
    Ok(table)
}

/// Over a preset already taken, `preset` would change the name of a run and nothing else.
fn refuse_preset<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<()> {
    match names.find(|n| *n == "preset") {
        Some(name) => {
            Err(Error::invalid(name, "given as key=value", "first word of `run` or `sweep`, or in a file"))
        }
        None => Ok(()),
    }
}

/// [`parse_overrides`] for a command that takes `keys`.
///
/// # Errors
/// As there.
pub fn parse_keys(args: &[String], keys: &[Key]) -> Result<Table> {
    let mut table = Table::new();
    for arg in args {
        let Some((name, text)) = arg.split_once('=') else {
            return Err(Error::invalid("argument", format!("`{arg}`"), "key=value"));
        };
        let key = find_in(name.trim(), keys)?;
        table.insert(key.name.to_string(), parse(key, text)?);
    }
    Ok(table)
}

/// Values of `key=a,b,..`: several of them make an axis of a grid. A list of integers, and a list of sets, is one value.
///
/// # Errors
/// As [`parse_overrides`]; a value that is given twice.
pub fn parse_values(arg: &str) -> Result<(String, Vec<Value>)> {
    parse_values_of(arg, &KEYS)
}

/// [`parse_values`] for runs with other `keys`.
///
/// # Errors
/// As there.
pub fn parse_values_of(arg: &str, keys: &[Key]) -> Result<(String, Vec<Value>)> {
    let Some((name, text)) = arg.split_once('=') else {
        return Err(Error::invalid("argument", format!("`{arg}`"), "key=value or key=a,b,.."));
    };
    let key = find_in(name.trim(), keys)?;
    refuse_preset(std::iter::once(key.name))?;
    let with_commas =
        key.kind == Kind::Integers || ["parent_sets", "frozen", "freeze_until"].contains(&key.name);
    let parts: Vec<&str> = if with_commas { vec![text] } else { text.split(',').collect() };
    let values: Vec<Value> = parts.into_iter().map(|t| parse(key, t.trim())).collect::<Result<_>>()?;
    if let Some(i) = (1..values.len()).find(|i| values[..*i].contains(&values[*i])) {
        return Err(Error::invalid(key.name, format!("{} twice", values[i]), "every value once"));
    }
    Ok((key.name.to_string(), values))
}

/// Reads a TOML file of keys.
///
/// # Errors
/// An unreadable file, invalid TOML, an unknown key, a value of the wrong type.
pub fn read_file(path: &Path) -> Result<Table> {
    read_file_of(path, &KEYS)
}

/// [`read_file`] for runs with other `keys`.
///
/// # Errors
/// As there.
pub fn read_file_of(path: &Path, keys: &[Key]) -> Result<Table> {
    check_keys(read_table(path)?, keys)
}

/// Reads a TOML file whatever its keys.
///
/// # Errors
/// An unreadable file, invalid TOML.
pub fn read_table(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read", e))?;
    parse_table(path, &text)
}

/// Refuses keys that `keys` lack and values of the wrong type.
///
/// # Errors
/// The first of them.
pub fn check_keys(table: Table, keys: &[Key]) -> Result<Table> {
    table.into_iter().map(|(name, v)| Ok((name.clone(), coerce(find_in(&name, keys)?, v)?))).collect()
}

/// The table that `text` holds; `path` names it in errors.
fn parse_text(path: &Path, text: &str) -> Result<Table> {
    check_keys(parse_table(path, text)?, &KEYS)
}

fn parse_table(path: &Path, text: &str) -> Result<Table> {
    text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map_or(1, |s| 1 + text[..s.start].matches('\n').count());
        Error::format(path, format!("line {line}: {}", e.message().replace('\n', " ")))
    })
}

/// Layers `tables`, later over earlier, into a configuration. `parents` or `parent_sets` given without `graph` means a custom
/// graph, and a graph drops the parents and the order of an earlier layer; the task follows the graph where it is not given.
///
/// # Errors
/// A missing key or a value out of range.
pub fn resolve(tables: &[Table]) -> Result<Config> {
    let mut merged = Table::new();
    for table in tables {
        set_graph(table, &mut merged)?;
        merged.extend(table.clone());
    }
    if let Some(missing) = KEYS.iter().find(|k| !OPTIONAL.contains(&k.name) && !merged.contains_key(k.name)) {
        return Err(Error::invalid(missing.name, "missing", missing.help));
    }
    if let Some(heads) = merged["heads"].as_array()
        && heads.iter().any(|h| h.as_integer().is_none_or(|h| h < 1))
    {
        return Err(Error::invalid("heads", merged["heads"].to_string(), "each layer at least 1 head"));
    }
    let config: Config = merged
        .try_into()
        .map_err(|e: toml::de::Error| Error::invalid("configuration", e.message(), "values in range"))?;
    config.check()?;
    Ok(config)
}

/// The task that `table` names, or that its graph belongs to.
///
/// # Errors
/// An unknown task.
pub fn task_of(table: &Table) -> Result<&'static str> {
    let word = |name: &str| table.get(name).and_then(|v| v.as_str());
    if let Some(task) = word("task") {
        let known = TASKS.into_iter().find(|t| *t == task);
        return known.ok_or_else(|| Error::unknown("task", task, TASKS));
    }
    let dag = table.contains_key("parent_sets") || word("graph").is_some_and(|g| DAG_GRAPHS.contains(&g));
    Ok(TASKS[usize::from(dag)])
}

/// What a layer that names a graph says about the keys beside it.
fn set_graph(table: &Table, merged: &mut Table) -> Result<()> {
    let lists = ["parents", "parent_sets"];
    if !table.contains_key("graph") && !lists.iter().any(|k| table.contains_key(*k)) {
        return Ok(());
    }
    for key in lists.into_iter().chain(["order"]) {
        merged.remove(key);
    }
    if !table.contains_key("graph") {
        merged.insert("graph".into(), Value::String("custom".into()));
    }
    merged.insert("task".into(), Value::String(task_of(table)?.into()));
    Ok(())
}

impl Config {
    /// Checks what no later constructor checks.
    fn check(&self) -> Result<()> {
        let positive = |name: &str, value: u64| match value {
            0 => Err(Error::invalid(name, "0", format!("{name} >= 1"))),
            _ => Ok(()),
        };
        positive("steps", self.steps)?;
        positive("batch", self.batch as u64)?;
        positive("shards", self.shards as u64)?;
        positive("eval_every", self.eval_every)?;
        positive("test_size", self.test_size as u64)?;
        positive("checkpoint_every", self.checkpoint_every)?;
        for (name, value, high) in [("S", self.S, 1024), ("T", self.T, 4096)] {
            if !(2..=high).contains(&value) {
                return Err(Error::invalid(name, value.to_string(), format!("2 <= {name} <= {high}")));
            }
        }
        for (name, value) in [("batch", self.batch), ("test_size", self.test_size)] {
            if value > 1 << 26 {
                return Err(Error::invalid(name, value.to_string(), format!("{name} <= 2^26")));
            }
        }
        if self.steps.checked_mul(self.batch as u64).is_none() {
            return Err(Error::invalid("steps", self.steps.to_string(), "steps * batch < 2^64"));
        }
        if !(self.init >= 0.0 && self.init <= 1e3) {
            return Err(Error::invalid("init", self.init.to_string(), "0 <= init <= 1000"));
        }
        if !["f32", "f64"].contains(&self.dtype.as_str()) {
            return Err(Error::unknown("dtype", &self.dtype, ["f32", "f64"]));
        }
        if !SOURCES.contains(&self.source.as_str()) {
            return Err(Error::unknown("source", &self.source, SOURCES));
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
        self.check_graph()?;
        self.check_staged()
    }

    /// Keys of one task are refused with the other.
    fn check_graph(&self) -> Result<()> {
        if !TASKS.contains(&self.task.as_str()) {
            return Err(Error::unknown("task", &self.task, TASKS));
        }
        let (dag, custom) = (self.task == TASKS[1], self.graph == "custom");
        if let Some(sets) = &self.parent_sets
            && !(dag && custom)
        {
            return Err(Error::invalid("parent_sets", sets, "task=causal_dag with graph=custom only"));
        }
        if let Some(order) = self.order
            && !(dag && self.graph == "ngram")
        {
            return Err(Error::invalid("order", order.to_string(), "graph=ngram only"));
        }
        if dag && !self.parents.is_empty() {
            let found = format!("{} entries with task=causal_dag", self.parents.len());
            return Err(Error::invalid("parents", found, "parent_sets=.., or task=causal_tree"));
        }
        Ok(())
    }

    /// The keys of Algorithm 1 come together with its model and its optimiser, or not at all.
    fn check_staged(&self) -> Result<()> {
        let staged = self.optimizer == "staged";
        let given = [
            ("eps", self.eps),
            ("beta0", self.beta0),
            ("steps1", self.steps1.map(|n| n as f64)),
            ("lr2", self.lr2),
        ];
        for (name, value) in given {
            let help = find(name)?.help;
            match value {
                None if staged => return Err(Error::invalid(name, "missing", help)),
                Some(x) if !staged => {
                    return Err(Error::invalid(name, x.to_string(), "preset algorithm1 only"));
                }
                Some(x) if name != "beta0" && x < 0.0 => {
                    return Err(Error::invalid(name, x.to_string(), help));
                }
                _ => {}
            }
        }
        if self.eps == Some(0.0) {
            return Err(Error::invalid(
                "eps",
                "0",
                "eps > 0: at 0 the loss is infinite and no training starts",
            ));
        }
        if staged {
            if self.weight_decay != 0.0 {
                return Err(Error::invalid(
                    "weight_decay",
                    self.weight_decay.to_string(),
                    "0 for algorithm1",
                ));
            }
            if self.init != 0.0 {
                return Err(Error::invalid(
                    "init",
                    self.init.to_string(),
                    "0 for algorithm1: it starts at A1 = 0",
                ));
            }
            if !self.heads.is_empty() {
                return Err(Error::invalid("heads", format!("{:?}", self.heads), "none for algorithm1"));
            }
            if self.steps1.is_some_and(|n| !n.is_multiple_of(self.eval_every)) {
                let found = self.steps1.unwrap_or_default().to_string();
                let allowed = format!("a multiple of eval_every = {}", self.eval_every);
                return Err(Error::invalid("steps1", found, allowed));
            }
        }
        if staged != (self.model == "simplified") {
            let found = format!("{} with optimizer={}", self.model, self.optimizer);
            return Err(Error::invalid(
                "model",
                found,
                "simplified with staged, other models with sgd or adamw",
            ));
        }
        if self.source == "orbit" && !staged {
            return Err(Error::invalid("source", "orbit", "sampled or exact for this preset"));
        }
        if staged && self.source != "sampled" && self.dtype != "f64" {
            return Err(Error::invalid("dtype", &self.dtype, "f64 for source=exact and source=orbit"));
        }
        if self.steps1.is_some_and(|n| n > self.steps) {
            let found = self.steps1.unwrap_or_default().to_string();
            return Err(Error::invalid("steps1", found, format!("at most steps = {}", self.steps)));
        }
        Ok(())
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

/// Reads bytes as a configuration file and as overrides; never panics, and what resolves survives the round trip through
/// TOML. The body of the fuzz target `config`, replayed on its corpus by a test.
#[doc(hidden)]
pub fn fuzz(data: &[u8], base: &Table) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let words: Vec<String> = text.split_whitespace().map(String::from).collect();
    let file = parse_text(Path::new("fuzz.toml"), text);
    for table in [file, parse_overrides(&words)].into_iter().flatten() {
        if let Ok(config) = resolve(&[base.clone(), table])
            && let Ok(written) = config.to_toml()
        {
            let read = parse_text(Path::new("written.toml"), &written).and_then(|t| resolve(&[t]));
            assert_eq!(read.ok(), Some(config), "round trip of\n{written}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paper::preset;

    fn with(overrides: &[&str]) -> Result<Config> {
        let args: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
        resolve(&[preset("chain", false)?, parse_overrides(&args)?])
    }

    #[test]
    fn overrides_take_effect_and_survive_the_round_trip() {
        let c = with(&["steps=2^10", "heads=2,1", "alpha=1", "parents=-1,0,0", "T=4"]).unwrap();
        assert_eq!((c.steps, c.alpha, c.graph.as_str()), (1024, 1.0, "custom"));
        assert_eq!((c.heads.clone(), c.parents.clone()), (vec![2, 1], vec![-1, 0, 0]));
        let table: Table = c.to_toml().unwrap().parse().unwrap();
        assert_eq!(resolve(&[table]).unwrap(), c);
        assert_eq!(with(&["parents=-1,0,0", "graph=chain"]).unwrap().graph, "chain");
    }

    #[test]
    fn the_task_follows_the_graph() {
        let of = |overrides: &[&str]| {
            let c = with(overrides).unwrap();
            let table: Table = c.to_toml().unwrap().parse().unwrap();
            assert_eq!(resolve(&[table]).unwrap(), c);
            (c.task, c.graph, c.order, c.parent_sets)
        };
        let expected = |task: &str, graph: &str, order, sets: Option<&str>| {
            (task.to_string(), graph.to_string(), order, sets.map(String::from))
        };
        assert_eq!(of(&[]), expected("causal_tree", "chain", None, None));
        assert!(!with(&[]).unwrap().to_toml().unwrap().contains("task"), "as run folders always were");
        assert_eq!(of(&["graph=ngram", "order=2"]), expected("causal_dag", "ngram", Some(2), None));
        assert_eq!(of(&["graph=two_parents"]), expected("causal_dag", "two_parents", None, None));
        assert_eq!(of(&["parent_sets=-;0;0,1"]), expected("causal_dag", "custom", None, Some("-;0;0,1")));
        let layers = |words: &[&str]| -> Vec<Table> {
            let table = |w: &&str| parse_overrides(&[w.to_string()]).unwrap();
            std::iter::once(preset("two-parents", false).unwrap()).chain(words.iter().map(table)).collect()
        };
        // A later graph takes task, order and parents of an earlier one away.
        let c = resolve(&layers(&["parent_sets=-;0;0,1", "graph=chain"])).unwrap();
        assert_eq!((c.task.as_str(), c.parent_sets), ("causal_tree", None));
        let c = resolve(&layers(&["parents=-1,0"])).unwrap();
        assert_eq!((c.task.as_str(), c.graph.as_str()), ("causal_tree", "custom"));
        for (bad, expected) in [
            (&["order=2"][..], "order: 2; allowed: graph=ngram only"),
            (&["parent_sets=-;0;0", "graph=chain"], "parent_sets: -;0;0; allowed: task=causal_dag with"),
            (&["parents=-1,0", "graph=ngram"], "parents: 2 entries with task=causal_dag"),
            (&["task=causal_dga"], "unknown task `causal_dga`, did you mean `causal_dag`?"),
            (&["order=-1"], "order: -1"),
        ] {
            let message = with(bad).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{bad:?}: {message}");
        }
    }

    #[test]
    fn values_of_an_axis() {
        let of = |word: &str| parse_values(word).map(|(key, values)| (key, values.len()));
        assert_eq!(of("alpha=0.1,1").unwrap(), ("alpha".into(), 2));
        // The commas are the value's own.
        assert_eq!(of("parent_sets=-;0;0,1").unwrap(), ("parent_sets".into(), 1));
        assert_eq!(of("heads=2,1").unwrap(), ("heads".into(), 1));
        assert!(of("preset=chain,icl").unwrap_err().to_string().starts_with("preset: given as key=value"));
    }

    #[test]
    fn the_fuzz_corpus_and_its_truncations_hold() {
        let base = preset("chain", false).unwrap();
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/config");
        let mut count = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let data = std::fs::read(entry.unwrap().path()).unwrap();
            (0..=data.len()).for_each(|n| fuzz(&data[..n], &base));
            count += 1;
        }
        assert!(count >= 4, "the corpus is there");
    }

    #[test]
    fn errors_name_the_key_and_what_is_allowed() {
        for (bad, expected) in [
            ("step=3", "unknown key `step`, did you mean `steps`?"),
            ("steps", "argument: `steps`; allowed: key=value"),
            ("steps=-3", "steps: -3; allowed: updates, >= 1"),
            ("steps=0", "steps: 0; allowed: steps >= 1"),
            ("steps=9^99", "steps: `9^99`"),
            ("alpha=nan", "alpha: nan"),
            ("alpha=x", "alpha: `x`; allowed: Dirichlet parameter"),
            ("heads=1,0", "heads: [1, 0]; allowed: each layer at least 1 head"),
            ("dtype=f16", "unknown dtype `f16`, did you mean"),
            ("batch=99999999999", "batch: 99999999999; allowed: batch <= 2^26"),
            ("preset=icl", "preset: given as key=value; allowed: first word of `run`"),
        ] {
            let message = with(&[bad]).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{bad}: {message}");
        }
    }
}
