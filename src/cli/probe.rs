//! `popgrad probe`: what a run would log of a model, at parameters from a file.

use super::grad::{Params, missing, not_an_input};
use super::output::check_arrays;
use super::{ModelAt, show, table};
use crate::config::{self, Dtype};
use crate::model::Spec;
use crate::report::arrays::{Array, write_arrays};
use crate::{Error, Result, paper, run};
use clap::Args;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use toml::Table;

/// Arguments of `popgrad probe`.
#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    /// Keys of the model and the task, as for run: T=20 graph=chain; task=trigger_bigram K=5;
    /// test_size, seed.
    #[arg(value_name = "KEY=VALUE")]
    keys: Vec<String>,
    #[command(flatten)]
    at: ModelAt,
    /// Output file for the attention of each layer: `layer1`, .. (heads,T,T), .npz or .safetensors.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    threads: super::Threads,
}

pub(super) const AFTER_HELP: &str = "\
Prints what `run` logs at an evaluation. Over a graph: test_loss, gap to the counts predictor, \
attention_on_parent_mean, attention_on_parent_min, graph_recovered. Of trigger bigrams: the accuracies and losses, the recall \
of the memories (wk0_acc, wk1_acc, wo1_acc, ..), norms of blocks and of the gradient on the first batch. \
The task is trigger_bigram for memory and transformer unless a key of a graph is given; keys that are not given are those of \
the presets chain and birth, but test_size=4096, batch=512, in f64; S, dim and T follow from the parameters. See docs/src/reference/arrays.md.

Examples:
  popgrad probe --model disentangled heads=1,1 T=20 graph=chain --params p.npz
  popgrad probe --model memory K=5 --params runs/birth/checkpoint.safetensors";

/// Keys that only tasks over a graph have.
const OF_GRAPHS: [&str; 6] = ["graph", "order", "parents", "parent_sets", "roots", "S"];

/// Keys of a run that an evaluation reads.
const EVALUATED: [&str; 5] = ["task", "seed", "test_size", "batch", "shards"];

/// Numbers of a record that say where a run is, which has no meaning here.
const OF_RUNS: [&str; 5] = ["step", "iter", "lr", "train_loss", "grad_norm"];

pub(super) fn probe(args: &ProbeArgs) -> Result<()> {
    if let Some(out) = &args.out {
        check_arrays("out", out)?;
        not_an_input(out, "params", &args.at.params)?;
    }
    let mut table = config::parse_overrides(&args.keys)?;
    for key in ["model", "preset", "dtype", "source"] {
        if let Some(value) = table.get(key).filter(|v| v.as_str() != Some(&args.at.model)) {
            return Err(Error::invalid(key, value.to_string(), "no such key here: --model, f64, samples"));
        }
    }
    for key in table.keys() {
        if !config::describes(key) && !EVALUATED.contains(&key.as_str()) {
            let allowed =
                format!("{}, and keys of the task and the model: nothing is trained", EVALUATED.join(", "));
            return Err(Error::invalid(key, "of a training run", allowed));
        }
    }
    let file = Params::read(&args.at.params)?;
    let (spec, symbols) = file.describe(&args.at.model, &table)?;
    let graph = OF_GRAPHS.iter().any(|k| table.contains_key(*k));
    let memories = matches!(spec, Spec::Memory(_) | Spec::Transformer(_));
    let task = match table.get("task").and_then(toml::Value::as_str) {
        Some(task) => task.to_string(),
        None if memories && !graph => "trigger_bigram".into(),
        None => config::task_of(&table).to_string(),
    };
    complete(&mut table, &args.at.model, (&spec, symbols), &task, file.positions(symbols)?)?;
    let of_triggers = task == "trigger_bigram";
    table.insert("task".into(), task.into());
    let mut layers = paper::preset(if of_triggers { "birth" } else { "chain" }, false)?;
    for base in &mut layers {
        base.remove("frozen");
    }
    layers.push(table);
    let config = config::resolve(&layers)?;
    let experiment = paper::experiment(&config)?;
    let layout = config.model.build::<f64>(symbols, config.task.seq_len())?.layout().clone();
    let params = file.into_blocks::<f64>(&layout)?;
    let found = args.threads.pool()?.install(|| {
        run::check(experiment, &config)?;
        run::measure(experiment, &config, symbols, &params)
    })?;
    if let Some(out) = &args.out {
        let t = config.task.seq_len();
        let mut arrays: Vec<(String, Array)> = Vec::new();
        for (l, heads) in found.patterns.iter().enumerate() {
            arrays.push((format!("layer{}", l + 1), Array::new(&[heads.len(), t, t], heads.concat())?));
        }
        let named: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (n.as_str(), a)).collect();
        write_arrays(out, &named, None)?;
    }
    let mut all = Map::new();
    all.insert("model".into(), json!(args.at.model));
    all.insert("task".into(), json!(config.task.name()));
    all.insert(found.fact.0.into(), found.fact.1);
    if let Value::Object(record) = found.record {
        all.extend(record.into_iter().filter(|(k, _)| !OF_RUNS.contains(&k.as_str())));
    }
    show(&all, || table::of_object(&all))
}

/// Adds the keys that follow from the parameters, and those of an evaluation.
fn complete(
    table: &mut Table,
    model: &str,
    (spec, symbols): (&Spec, usize),
    task: &str,
    positions: Option<usize>,
) -> Result<()> {
    let mut set = |key: &str, value: toml::Value| {
        table.entry(key).or_insert(value);
    };
    let count = |n: usize| toml::Value::Integer(n as i64);
    set("model", model.into());
    set("dtype", Dtype::F64.name().into());
    set("test_size", 4096.into());
    set("batch", 512.into());
    set("steps", 1.into());
    if let Spec::Memory(m) = spec {
        set("dim", count(m.dim));
    }
    if let Spec::Transformer(m) = spec {
        set("dim", count(m.dim));
    }
    if task != "trigger_bigram" {
        set("S", count(symbols));
    }
    match positions {
        Some(t) => set("T", count(t)),
        None if table.contains_key("T") => {}
        None => return Err(missing("T")),
    }
    if task == "trigger_bigram" && table.get("corpus").and_then(toml::Value::as_str) == Some("dirichlet") {
        table.entry("N").or_insert(count(symbols));
    }
    Ok(())
}
