//! `popgrad sample`: sequences of a task, with the transitions that each was drawn from.

use super::output::check_arrays;
use super::run::is_preset;
use super::table;
use super::{integer, tell, wants_json};
use crate::config::{self, Config, KEYS, Scope, task::TASKS};
use crate::paper::birth::TriggerTasks;
use crate::paper::sample::{Of, draw};
use crate::report::arrays::{Array, ArrayData, write_arrays};
use crate::{Error, Result, paper};
use clap::Args;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use toml::Table;

/// Arguments of `popgrad sample`.
#[derive(Debug, Args)]
pub(super) struct SampleArgs {
    /// A preset, or a task: causal_tree, causal_dag or trigger_bigram.
    #[arg(value_name = "TASK|PRESET")]
    what: String,
    /// How many sequences [default: 8], and keys of the task: S=5 T=12 graph=chain.
    #[arg(value_name = "N|KEY=VALUE")]
    words: Vec<String>,
    /// Output file for the arrays, .npz or .safetensors.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only these arrays, separated by commas, e.g. tokens,targets [default: all].
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    names: Vec<String>,
    /// Seed of every draw.
    #[arg(long, allow_negative_numbers = true)]
    seed: Option<String>,
    /// Number of the first sequence.
    #[arg(long, value_name = "I", default_value_t = 0, allow_negative_numbers = true, value_parser = number)]
    first: u64,
    /// The sequences of the test set instead of those that are trained on.
    #[arg(long)]
    test: bool,
    /// The short form of the preset.
    #[arg(long)]
    quick: bool,
}

pub(super) const AFTER_HELP: &str = "\
The sequences that a run of this preset, these keys and this seed trains on, or with --test its test set, bit by bit: update u of a run \
takes those from number u*batch on. Arrays: tokens (n,T); targets (n,S), laws of the next symbol, or labels and mask (n,T); pi (n,S,S), the \
transitions of each sequence (with several parents pi1, pi2, .. (n,S^k,S)), mu; of trigger bigrams seen, triggers, outputs, unigram, \
bigram. A file of --names tokens,targets, or tokens,labels,mask, is a batch for `popgrad grad`.

Examples:
  popgrad sample chain 4 S=3 T=8
  popgrad sample birth 1000 --test --out test.npz --names tokens,labels,mask
  popgrad sample causal_dag 2 graph=ngram order=2 S=3 T=6 --seed 7 --json
See docs/src/reference/inside.md.";

/// Sequences where no number is given.
const DEFAULT: u64 = 8;
/// Most numbers that --json writes.
const MOST_IN_JSON: usize = 1 << 20;
/// Sequences, and symbols of each, that are shown as text.
const MOST_SHOWN: usize = 32;
const MOST_SYMBOLS: usize = 64;

fn number(text: &str) -> std::result::Result<u64, String> {
    integer(text, 0, i64::MAX as u64)
}

pub(super) fn sample(args: &SampleArgs) -> Result<()> {
    if let Some(out) = &args.out {
        check_arrays("out", out)?;
    }
    let (n, config) = resolve(args)?;
    let of = if args.test { Of::Test } else { Of::Training };
    let mut arrays = draw(&config, of, args.first, n)?;
    let held: Vec<String> = arrays.iter().map(|(name, _)| name.clone()).collect();
    for (i, name) in args.names.iter().enumerate() {
        if !held.contains(name) {
            return Err(Error::unknown("array", name, held.iter().map(String::as_str)));
        }
        if args.names[..i].contains(name) {
            return Err(Error::invalid("names", format!("`{name}` twice"), "every name once"));
        }
    }
    if !args.names.is_empty() {
        arrays.retain(|(name, _)| args.names.contains(name));
    }
    if wants_json() && args.out.is_none() {
        let numbers: usize = arrays.iter().map(|(_, a)| a.data().len()).sum();
        if numbers > MOST_IN_JSON {
            let allowed = format!("at most {MOST_IN_JSON}: fewer sequences, some of --names, or --out");
            return Err(Error::invalid("json", format!("{numbers} numbers"), allowed));
        }
    }
    if let Some(out) = &args.out {
        let named: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (n.as_str(), a)).collect();
        write_arrays(out, &named, None)?;
    }
    if wants_json() {
        let mut all = Map::new();
        all.insert("task".into(), json!(config.task.name()));
        all.insert("seed".into(), json!(config.plan.seed));
        all.insert("first".into(), json!(args.first));
        if let Some(out) = &args.out {
            all.insert("file".into(), json!(out.display().to_string()));
            let shapes = arrays.iter().map(|(name, a)| (name.clone(), json!(a.shape())));
            all.insert("shapes".into(), Value::Object(shapes.collect()));
            return tell(&format!("{}\n", Value::Object(all)));
        }
        all.extend(arrays.iter().map(|(name, a)| (name.clone(), lists(a.data(), a.shape(), 0))));
        return tell(&format!("{}\n", Value::Object(all)));
    }
    match &args.out {
        Some(out) => {
            let shape = |a: &Array| format!("{:?}", a.shape()).replace('[', "(").replace(']', ")");
            let each = table::named(arrays.iter().map(|(name, a)| (name.as_str(), shape(a))));
            let of = if args.test { "test" } else { "training" };
            let head = format!(
                "{n} {of} sequences of {}, seed {}, from number {}, in {}:\n",
                config.task.name(),
                config.plan.seed,
                args.first,
                out.display()
            );
            tell(&(head + &each))
        }
        None => tell(&shown(&config, &arrays)?),
    }
}

/// The number of sequences, and the configuration.
fn resolve(args: &SampleArgs) -> Result<(usize, Config)> {
    let (mut count, mut keys) = (None, Vec::new());
    for word in &args.words {
        if word.contains('=') {
            keys.push(word.clone());
            continue;
        }
        let n =
            integer(word, 1, 1 << 32).map_err(|allowed| Error::invalid("N", format!("`{word}`"), allowed))?;
        if let Some(first) = count.replace(n) {
            return Err(config::twice("N", first, n));
        }
    }
    keys.extend(args.seed.iter().map(|s| format!("seed={s}")));
    let mut table: Table = config::parse_overrides(&keys)?;
    for key in table.keys() {
        let of_task = KEYS.iter().any(|k| k.name == key && matches!(k.scope, Scope::Task(_)));
        if !of_task && key != "task" && key != "seed" {
            return Err(Error::invalid(
                key,
                "not of a task",
                "seed, task and keys of the task: nothing is trained",
            ));
        }
    }
    let preset = match args.what.as_str() {
        "causal_tree" => "chain",
        "causal_dag" => "two-parents",
        "trigger_bigram" => "birth",
        name if is_preset(name) => name,
        name => {
            let presets = paper::PAPERS.iter().flat_map(|p| p.presets).map(|(name, _)| *name);
            return Err(Error::unknown("preset or task", name, presets.chain(TASKS.iter().copied())));
        }
    };
    let mut layers = paper::preset(preset, args.quick)?;
    // Samples, whatever the preset trains on.
    table.insert("source".into(), "sampled".into());
    layers.push(table);
    let config = config::resolve(&layers)?;
    if TASKS.contains(&args.what.as_str()) && config.task.name() != args.what {
        let allowed = format!("keys of {}", args.what);
        return Err(Error::invalid("task", format!("{} by its keys", config.task.name()), allowed));
    }
    Ok((count.unwrap_or(DEFAULT) as usize, config))
}

/// An array as nested lists.
fn lists(data: &ArrayData, shape: &[usize], from: usize) -> Value {
    let Some((rows, rest)) = shape.split_first() else {
        return match data {
            ArrayData::F64(x) => json!(x[from]),
            ArrayData::I64(x) => json!(x[from]),
            other => json!(other.type_name()),
        };
    };
    let each: usize = rest.iter().product();
    (0..*rows).map(|i| lists(data, rest, from + i * each)).collect()
}

/// Sequences as text, with the law of what follows or the labels that count.
fn shown(config: &Config, arrays: &[(String, Array)]) -> Result<String> {
    let find = |name: &str| arrays.iter().find(|(n, _)| n == name).map(|(_, a)| a);
    let Some(tokens) = find("tokens") else {
        return Err(Error::invalid("names", "without tokens", "tokens among them, or --json or --out"));
    };
    let (n, t) = (tokens.shape()[0], tokens.shape()[1]);
    let names = match &config.task {
        config::Task::TriggerBigram(keys) => TriggerTasks::new(keys, config.plan.seed)?.symbols,
        _ => Vec::new(),
    };
    let symbol = |z: &i64| names.get(*z as usize).cloned().unwrap_or_else(|| z.to_string());
    let between = if names.iter().all(|n| n.chars().count() == 1) && !names.is_empty() { "" } else { " " };
    let all = tokens.as_integers("tokens")?;
    let targets = find("targets").map(|a| (a.shape()[1], a.to_f64_vec()));
    let mut text = String::new();
    for (i, row) in all.chunks(t).enumerate().take(MOST_SHOWN) {
        let letters: Vec<String> = row.iter().take(MOST_SYMBOLS).map(symbol).collect();
        text += &letters.join(between);
        if t > MOST_SYMBOLS {
            text += " ..";
        }
        if let Some((s, laws)) = &targets {
            let law = laws[i * s..(i + 1) * s].iter().take(MOST_SYMBOLS).map(|p| format!("{p:.3}"));
            text += &format!("   ->  {}", law.collect::<Vec<_>>().join(" "));
        }
        text += "\n";
    }
    if n > MOST_SHOWN {
        text += &format!(".. {} more\n", n - MOST_SHOWN);
    }
    Ok(text)
}
