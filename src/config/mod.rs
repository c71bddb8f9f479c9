//! Run configuration: one flat table of keys, from a preset, a TOML file and `key=value` overrides,
//! in that order.
//!
//! Every key is declared once, in [`KEYS`]: name, type and domain, default, help, and with which
//! task, model or optimiser it exists. [`resolve`] turns layers of tables into a typed [`Config`];
//! closed choices are enums. The resolved table is written to the run folder and read back by
//! `--resume`.

mod key;
mod keys;
mod snapshots;
pub mod task;

pub use key::{
    Default, Key, Kind, Scope, check_keys, find, parse_keys, parse_table, parse_values, read_table, twice,
};
pub use keys::KEYS;
pub use snapshots::Snapshots;
pub use task::Task;

use crate::model::Spec;
pub use crate::optim::{Rule, Schedule};
use crate::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::path::Path;
use toml::{Table, Value};

/// Type of parameters and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 64 bits.
    F64,
}

impl Dtype {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F64 => "f64",
        }
    }

    /// The type called `name`.
    ///
    /// # Errors
    /// Another name.
    pub fn named(name: &str) -> Result<Self> {
        let all = [Dtype::F32, Dtype::F64];
        let found = all.into_iter().find(|d| d.name() == name);
        found.ok_or_else(|| Error::unknown("dtype", name, all.map(Dtype::name)))
    }
}

/// Where batches come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Samples.
    Sampled,
    /// The whole population.
    Exact,
    /// The whole population up to relabelling of the symbols.
    Orbit,
}

impl Source {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Source::Sampled => "sampled",
            Source::Exact => "exact",
            Source::Orbit => "orbit",
        }
    }
}

/// Keys that every run has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The preset that the other keys start from.
    pub preset: String,
    /// Seed of every draw.
    pub seed: u64,
    /// Type of parameters and activations.
    pub dtype: Dtype,
    /// Where batches come from.
    pub source: Source,
    /// Blocks that never train.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<String>,
    /// Blocks that train later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_until: Option<String>,
    /// Learning rate.
    pub lr: f64,
    /// Its schedule.
    pub schedule: Schedule,
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
    /// When weights are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Snapshots>,
    /// File of the parameters to start from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<String>,
}

/// A resolved configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Keys that every run has.
    pub plan: Plan,
    /// The task.
    pub task: Task,
    /// The model.
    pub model: Spec,
    /// The optimiser.
    pub optimizer: Rule,
}

/// Refuses the key `preset` in overrides, where it would only change the name of the run.
///
/// # Errors
/// When it is there.
pub fn refuse_preset(table: &Table) -> Result<()> {
    if table.contains_key("preset") {
        let allowed = "first word of `run` or `sweep`, or in a file";
        return Err(Error::invalid("preset", "given as key=value", allowed));
    }
    Ok(())
}

/// Parses `key=value` arguments of a run.
///
/// # Errors
/// As [`parse_keys`]; the key `preset`.
pub fn parse_overrides(args: &[String]) -> Result<Table> {
    let table = parse_keys(args, KEYS)?;
    refuse_preset(&table)?;
    Ok(table)
}

/// The run keys called `names`, for commands that take some of them.
pub fn keys(names: &[&str]) -> Vec<Key> {
    KEYS.iter().copied().filter(|k| names.contains(&k.name)).collect()
}

/// Keys of models that say how parameters start, and nothing else.
const AT_START: [&str; 3] = ["init", "beta0", "scale_embeddings"];

/// Keys that exist only with some models, the one called `name` among them, for commands that are
/// given parameters: without those that say how parameters start.
///
/// # Errors
/// No such model.
pub fn model_keys(name: &str) -> Result<Vec<Key>> {
    find("model", KEYS)?.check(Value::String(name.into()))?;
    Ok(keys_of_model(name).filter(|k| !AT_START.contains(&k.name)).copied().collect())
}

fn keys_of_model(name: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |k| matches!(k.scope, Scope::Model(_)) && k.scope.default_with(name).is_some())
}

/// True if a key says what a task or a model is, not how it is trained or how parameters start.
pub fn describes(key: &str) -> bool {
    let of = |k: &&Key| k.name == key && matches!(k.scope, Scope::Task(_) | Scope::Model(_));
    KEYS.iter().any(|k| of(&k)) && !AT_START.contains(&key) && key != "labels"
}

/// The model called `name` with its keys in `table`. Keys that are not there have their defaults;
/// other keys of the table are ignored.
///
/// # Errors
/// No such model; values out of range.
pub fn model_spec(name: &str, table: &Table) -> Result<Spec> {
    let mut own = Table::from_iter([("model".to_string(), Value::String(name.into()))]);
    find("model", KEYS)?.check(Value::String(name.into()))?;
    for key in keys_of_model(name) {
        match (table.get(key.name), key.scope.default_with(name)) {
            (Some(value), _) => drop(own.insert(key.name.into(), value.clone())),
            (None, Some(default)) => set_default(&mut own, key, default)?,
            (None, None) => {}
        }
    }
    typed(&own)
}

/// The keys that exist with the task, model and optimiser in `table`. If it does not name one of
/// these, the keys of all are included.
pub fn keys_with(table: &Table) -> Vec<Key> {
    let exists = |key: &Key| {
        let decided = key.scope.decided_by().and_then(|by| table.get(by)?.as_str());
        decided.is_none_or(|owner| key.scope.default_with(owner).is_some())
    };
    KEYS.iter().copied().filter(exists).collect()
}

/// Keys of earlier layers that a layer removes when it gives key `by` another value.
const UNDONE: [(&str, &[&str]); 5] = [
    ("corpus", &["N", "alpha"]),
    ("triggers", &["offset"]),
    ("prior", &["gamma"]),
    ("model", &["frozen", "freeze_until"]),
    ("task", &["roots"]),
];

/// The models that the papers train by gradient descent at rates of order 1.
const BY_GRADIENT_DESCENT: [&str; 2] = ["simplified", "disentangled"];

/// Gives `layer` the training plan of the model that it names. The rates of plain gradient descent
/// fit the model of their preset and diverge with most others; AdamW trains every model. What the
/// layer says itself stays, and so does an earlier AdamW.
fn set_plan(layer: &mut Table, merged: &Table) {
    let word = |t: &Table, key: &str| t.get(key).and_then(Value::as_str).map(String::from);
    let (Some(from), Some(to)) = (word(merged, "model"), word(layer, "model")) else { return };
    let alike = BY_GRADIENT_DESCENT.contains(&&*from) && BY_GRADIENT_DESCENT.contains(&&*to);
    let adam = |t: &Table| word(t, "optimizer").is_some_and(|o| o == "adamw");
    if from == to || alike || adam(merged) || layer.contains_key("optimizer") && !adam(layer) {
        return;
    }
    let lr = if to == "transformer" { 0.003 } else { 0.01 };
    let plan = [("optimizer", "adamw".into()), ("lr", lr.into()), ("weight_decay", 0.0.into())];
    for (key, value) in plan {
        layer.entry(key).or_insert(value);
    }
}

/// Merges layers of tables, later over earlier, into a configuration.
///
/// A layer that names another task, model or optimiser removes the keys that exist only with the
/// earlier one. Another model also removes `frozen` and `freeze_until` and brings AdamW with a rate
/// of its own in place of plain gradient descent (but `simplified` and `disentangled` share their
/// plans); another corpus removes `N` and `alpha`, another kind of triggers `offset`, another task
/// `roots`, and another law of the outputs an equal `test_outputs`. `parents` or `parent_sets`
/// without `graph` means a custom graph. A graph removes the parents and the order of an earlier
/// layer, and decides the task if that is not given.
///
/// # Errors
/// A missing key, a key that does not exist with this task, model or optimiser, a value out of
/// range.
pub fn resolve(tables: &[Table]) -> Result<Config> {
    let mut merged = Table::new();
    for table in tables {
        let mut layer = table.clone();
        set_graph(&mut layer, &mut merged)?;
        set_plan(&mut layer, &merged);
        let other = |by: &str| layer.get(by).is_some_and(|v| merged.get(by).is_some_and(|m| m != v));
        let mut dropped: Vec<&str> = Vec::new();
        for (_, keys) in UNDONE.iter().filter(|(by, _)| other(by)) {
            dropped.extend(*keys);
        }
        for key in KEYS {
            let by = key.scope.decided_by();
            if by.is_some_and(|by| other(by) && !(by == "task" && alike(&merged, &layer))) {
                dropped.push(key.name);
            }
        }
        // A test law that differs was given explicitly.
        if other("outputs") && merged.get("test_outputs") == merged.get("outputs") {
            dropped.push("test_outputs");
        }
        dropped.iter().for_each(|k| drop(merged.remove(*k)));
        merged.extend(layer);
    }
    Config::from_table(merged)
}

/// [`resolve`] of the layers of a preset and those that the user gave over it.
///
/// # Errors
/// As [`resolve`]; a key given by the user that has no effect beside another one.
pub fn resolve_over(preset: &[Table], given: &[Table]) -> Result<Config> {
    let config = resolve(&[preset, given].concat())?;
    let given = |key: &str| given.iter().rev().find_map(|t| t.get(key));
    let source = config.plan.source;
    if source != Source::Sampled {
        for key in ["batch", "test_size"] {
            if let Some(value) = given(key) {
                let found = format!("{value} with source={}", source.name());
                let allowed = format!("source=sampled only: {} takes the whole population", source.name());
                return Err(Error::invalid(key, found, allowed));
            }
        }
    } else if given("shards").is_some() && config.plan.shards > config.plan.batch {
        let allowed = format!("at most batch = {}", config.plan.batch);
        return Err(Error::invalid("shards", config.plan.shards.to_string(), allowed));
    }
    if given("params").is_some() {
        for key in AT_START {
            if let Some(value) = given(key) {
                let found = format!("{value} with params");
                return Err(Error::invalid(key, found, "without params: the file says how parameters start"));
            }
        }
    }
    Ok(config)
}

/// True if both tasks have a latent graph, so that their keys mean the same.
fn alike(merged: &Table, layer: &Table) -> bool {
    let graph = KEYS.iter().find(|k| k.name == "graph");
    let has_graph = |task: &str| graph.is_some_and(|k| k.scope.default_with(task).is_some());
    let causal = |t: &Table| t.get("task").and_then(Value::as_str).is_some_and(has_graph);
    causal(merged) && causal(layer)
}

/// T of `parents` or `parent_sets`.
fn len_of_lists(layer: &Table) -> Option<usize> {
    let parents = layer.get("parents").and_then(Value::as_array).map(|p| p.len() + 1);
    let sets = layer.get("parent_sets").and_then(Value::as_str).map(|s| s.split(';').count() - 1);
    parents.or(sets)
}

/// Applies the rules of `graph`, `parents`, `parent_sets` and `order` in a layer.
fn set_graph(layer: &mut Table, merged: &mut Table) -> Result<()> {
    let lists = ["parents", "parent_sets"];
    if !layer.contains_key("graph") && !lists.iter().any(|k| layer.contains_key(*k)) {
        return Ok(());
    }
    for key in lists.into_iter().chain(["order", "k"]) {
        merged.remove(key);
    }
    if !layer.contains_key("graph") {
        layer.insert("graph".into(), "custom".into());
        // A list of parents says how long sequences are.
        if let Some(t) = len_of_lists(layer) {
            layer.entry("T").or_insert(Value::Integer(t as i64));
        }
    }
    let task = task_of(layer).to_string();
    layer.entry("task").or_insert(task.into());
    Ok(())
}

/// The causal task that `table` names, or that its graph belongs to.
pub fn task_of(table: &Table) -> &str {
    let word = |name: &str| table.get(name).and_then(Value::as_str);
    let of_graph = || {
        let dag = task::Graph::DAGS.iter().any(|g| Some(g.name()) == word("graph"));
        if dag || table.contains_key("parent_sets") { "causal_dag" } else { "causal_tree" }
    };
    word("task").unwrap_or_else(of_graph)
}

/// The typed part of a table whose keys were checked one by one.
///
/// # Errors
/// A field that is missing or of another type.
pub fn typed<T: serde::de::DeserializeOwned>(table: &Table) -> Result<T> {
    let part = table.clone().try_into();
    part.map_err(|e: toml::de::Error| {
        let text = e.message().replace('\n', " ");
        // What a key's own parser said names the key and the allowed values already.
        let own = KEYS.iter().map(|k| k.name).find_map(|name| {
            let (found, allowed) = text.strip_prefix(name)?.strip_prefix(": ")?.split_once("; allowed: ")?;
            Some(Error::invalid(name, found, allowed))
        });
        own.unwrap_or_else(|| Error::invalid("configuration", text, "values in range"))
    })
}

impl Config {
    /// From a table that holds every key without a default.
    fn from_table(table: Table) -> Result<Self> {
        let mut table = check_keys(table, KEYS)?;
        complete(&mut table)?;
        let config = Config {
            plan: typed(&table)?,
            task: typed(&table)?,
            model: typed(&table)?,
            optimizer: typed(&table)?,
        };
        config.check(&table)?;
        Ok(config)
    }

    /// The same with another number of updates.
    ///
    /// # Errors
    /// One that does not fit the other keys.
    pub fn with_steps(&self, steps: u64) -> Result<Self> {
        let mut table = self.table();
        let count = i64::try_from(steps);
        let count = count.map_err(|_| Error::invalid("steps", steps.to_string(), "below 2^63"))?;
        table.insert("steps".into(), Value::Integer(count));
        resolve(&[table])
    }

    /// Reads a complete configuration from a file.
    ///
    /// # Errors
    /// A file that cannot be read, unknown keys, values out of range.
    pub fn read(path: &Path) -> Result<Self> {
        resolve(&[check_keys(read_table(path)?, KEYS)?])
    }

    /// Keys and values.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        let parts = [
            Table::try_from(&self.plan),
            Table::try_from(&self.task),
            Table::try_from(&self.model),
            Table::try_from(self.optimizer),
        ];
        // Every field has a TOML form: integers were read as i64.
        parts.into_iter().flatten().for_each(|part| table.extend(part));
        table
    }

    /// As TOML, for the run folder.
    pub fn to_toml(&self) -> String {
        self.table().to_string()
    }

    /// Checks the combinations of keys that no later constructor checks.
    fn check(&self, table: &Table) -> Result<()> {
        let p = &self.plan;
        // Metrics use the batch after the last update.
        if p.steps.checked_add(1).and_then(|n| n.checked_mul(p.batch as u64)).is_none() {
            return Err(Error::invalid("steps", p.steps.to_string(), "steps * batch < 2^64"));
        }
        if let Some(snapshots) = &p.snapshots {
            snapshots.check(p.steps)?;
        }
        self.optimizer.hyper(p.weight_decay).check()?;
        self.check_task(table)?;
        if let Rule::Staged { steps1, .. } = self.optimizer {
            if self.model.name() != "simplified" {
                let found = format!("{} with optimizer=staged", self.model.name());
                return Err(Error::invalid("model", found, "simplified; other models with sgd or adamw"));
            }
            if p.weight_decay != 0.0 {
                return Err(Error::invalid("weight_decay", p.weight_decay.to_string(), "0 with staged"));
            }
            if p.frozen.is_some() || p.freeze_until.is_some() {
                let allowed = "not with staged, whose stages say what trains";
                return Err(Error::invalid("frozen, freeze_until", "given", allowed));
            }
            if !steps1.is_multiple_of(p.eval_every) {
                let allowed = format!("a multiple of eval_every = {}", p.eval_every);
                return Err(Error::invalid("steps1", steps1.to_string(), allowed));
            }
            if steps1 > p.steps {
                return Err(Error::invalid(
                    "steps1",
                    steps1.to_string(),
                    format!("at most steps = {}", p.steps),
                ));
            }
            if p.source != Source::Sampled && p.dtype != Dtype::F64 {
                let allowed = "f64 for source=exact and source=orbit";
                return Err(Error::invalid("dtype", p.dtype.name(), allowed));
            }
        } else if p.source == Source::Orbit {
            let allowed = "sampled or exact; orbit with optimizer=staged only";
            return Err(Error::invalid("source", "orbit", allowed));
        }
        if let Spec::Simplified(s) = &self.model
            && s.eps == 0.0
        {
            let allowed = "eps > 0: at 0 the loss is infinite and no training starts";
            return Err(Error::invalid("eps", "0", allowed));
        }
        // The form only; the model checks the names of blocks.
        self.unfreeze_steps().map(drop)
    }

    fn check_task(&self, table: &Table) -> Result<()> {
        if self.plan.source != Source::Sampled && self.task.labels() == Some(task::Labels::Symbol) {
            let found = format!("symbol with source={}", self.plan.source.name());
            return Err(Error::invalid("labels", found, "soft, or source=sampled"));
        }
        match &self.task {
            Task::CausalTree(t) if t.graph != task::Graph::Custom && !t.parents.is_empty() => {
                let found = format!("{:?} with graph={}", t.parents, t.graph.name());
                Err(Error::invalid("parents", found, "graph=custom only"))
            }
            Task::CausalTree(t) => match (t.prior, t.gamma) {
                (task::RowPrior::Dirichlet, Some(gamma)) => {
                    Err(Error::invalid("gamma", gamma.to_string(), "prior=floored only"))
                }
                (task::RowPrior::Floored, None) => {
                    Err(Error::invalid("gamma", "missing", "0 < gamma <= 1 with prior=floored"))
                }
                (task::RowPrior::Floored, Some(0.0)) => {
                    Err(Error::invalid("gamma", "0", "0 < gamma <= 1 with prior=floored"))
                }
                _ => Ok(()),
            },
            Task::CausalDag(t) => {
                if let Some(sets) = t.parent_sets.as_ref().filter(|_| t.graph != task::Graph::Custom) {
                    return Err(Error::invalid("parent_sets", sets, "graph=custom only"));
                }
                for (key, value, of) in
                    [("order", t.order, task::Graph::Ngram), ("k", t.k, task::Graph::RandomParents)]
                {
                    if let Some(value) = value.filter(|_| t.graph != of) {
                        let allowed = format!("graph={} only", of.name());
                        return Err(Error::invalid(key, value.to_string(), allowed));
                    }
                }
                Ok(())
            }
            Task::TriggerBigram(t) => {
                let random = t.corpus == "dirichlet";
                for name in ["N", "alpha"] {
                    match table.get(name) {
                        None if random => {
                            let allowed = format!("{} with corpus=dirichlet", find(name, KEYS)?.allowed());
                            return Err(Error::invalid(name, "missing", allowed));
                        }
                        Some(x) if !random => {
                            return Err(Error::invalid(name, x.to_string(), "corpus=dirichlet only"));
                        }
                        _ => {}
                    }
                }
                if t.corpus.is_empty() || t.corpus == "counts:" {
                    let allowed = "shipped, a file, counts:FOLDER, dirichlet";
                    return Err(Error::invalid("corpus", format!("`{}` names nothing", t.corpus), allowed));
                }
                if let Some(offset) = t.offset.filter(|_| t.triggers == task::TriggerKind::Random) {
                    return Err(Error::invalid("offset", offset.to_string(), "triggers=fixed only"));
                }
                match t.output_split.filter(|x| !(*x > 0.0 && *x < 1.0)) {
                    Some(x) => Err(Error::invalid("output_split", x.to_string(), "> 0, < 1")),
                    None => Ok(()),
                }
            }
        }
    }

    /// The names in `frozen`.
    pub fn frozen_names(&self) -> Vec<&str> {
        names(self.plan.frozen.as_deref().unwrap_or_default()).collect()
    }

    /// For each name in `freeze_until`, the first update that trains it.
    ///
    /// # Errors
    /// A text that is no schedule.
    pub fn unfreeze_steps(&self) -> Result<Vec<(u64, &str)>> {
        let Some(text) = &self.plan.freeze_until else { return Ok(Vec::new()) };
        let bad = |part: &str| {
            let allowed = "UPDATE:NAMES/UPDATE:NAMES, as 300:wk0,wk1/500:wo1";
            Error::invalid("freeze_until", format!("`{part}`"), allowed)
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

    /// Adds to the seed.
    ///
    /// # Errors
    /// When it grows too large.
    pub fn add_to_seed(&mut self, more: u64) -> Result<()> {
        let sum = self.plan.seed.checked_add(more).filter(|s| i64::try_from(*s).is_ok());
        self.plan.seed = sum.ok_or_else(|| Error::invalid("seed", "too large", "seeds up to 2^63 - 1"))?;
        Ok(())
    }
}

/// Fills in the defaults of keys that are not given. Refuses keys that do not exist with the chosen
/// task, model and optimiser.
fn complete(table: &mut Table) -> Result<()> {
    for by in ["task", "model", "optimizer"] {
        let key = find(by, KEYS)?;
        if !table.contains_key(by) {
            match key.scope.default_with("") {
                Some(Default::Is(_)) => drop(table.insert(by.into(), task_of(table).into())),
                _ => return Err(Error::invalid(by, "missing", key.allowed())),
            }
        }
    }
    for key in KEYS {
        let owner = key.scope.decided_by().and_then(|by| table.get(by)?.as_str()).unwrap_or_default();
        let Some(default) = key.scope.default_with(owner) else {
            if let Some(value) = table.get(key.name) {
                let by = key.scope.decided_by().unwrap_or_default();
                let owners: Vec<&str> = key.scope.owners().iter().map(|o| o.0).collect();
                let allowed = format!("{by}={} only", owners.join("|"));
                return Err(Error::invalid(key.name, value.to_string(), allowed));
            }
            continue;
        };
        if !table.contains_key(key.name) {
            set_default(table, key, default)?;
        }
    }
    // The default test law is that of training.
    if let Some(law) = table.get("outputs").cloned() {
        table.entry("test_outputs").or_insert(law);
    }
    Ok(())
}

/// Fills in the default of `key` if it is not given.
fn set_default(table: &mut Table, key: &Key, default: Default) -> Result<()> {
    match default {
        Default::Absent => Ok(()),
        Default::Needed => Err(Error::invalid(key.name, "missing", key.allowed())),
        Default::Is(text) => {
            let value = parse_table(Path::new(key.name), &format!("value = {text}"))?;
            table.extend(value.into_iter().map(|(_, v)| (key.name.to_string(), v)));
            Ok(())
        }
    }
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|n| !n.is_empty())
}

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        self.table().serialize(to)
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let table = Table::deserialize(from)?;
        let resolved = check_keys(table, KEYS).and_then(|t| resolve(&[t]));
        resolved.map_err(|e| serde::de::Error::custom(e.to_string()))
    }
}

/// Reads bytes as a configuration file and as overrides; never panics, and what resolves survives
/// the round trip through TOML. Returns what resolved. The body of the fuzz target `config`,
/// replayed on its corpus by a test.
#[doc(hidden)]
pub fn fuzz(data: &[u8], base: &Table) -> Vec<Config> {
    let mut all = Vec::new();
    let Ok(text) = std::str::from_utf8(data) else { return all };
    let words: Vec<String> = text.split_whitespace().map(String::from).collect();
    let read = |text: &str| parse_table(Path::new("fuzz.toml"), text).and_then(|t| check_keys(t, KEYS));
    for table in [read(text), parse_overrides(&words)].into_iter().flatten() {
        if let Ok(config) = resolve(&[base.clone(), table]) {
            let written = config.to_toml();
            let again = read(&written).and_then(|t| resolve(&[t]));
            assert_eq!(again.ok().as_ref(), Some(&config), "round trip of\n{written}");
            all.push(config);
        }
    }
    all
}

#[cfg(test)]
mod tests;
