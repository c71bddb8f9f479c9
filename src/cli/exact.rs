//! `popgrad exact`: loss and gradients of a model on the whole population, without sampling.

mod methods;
mod prior;
mod problem;
mod quantities;

use super::grad::{Params, active, block_arrays};
use super::output::check_arrays;
use super::run::show_summary;
use super::warn;
use crate::batch::Targets;
use crate::config::{self, Dtype, Key, Kind};
use crate::exact::{DagLaw, TreeLaw};
use crate::model::Model;
use crate::num::check_total;
use crate::report::arrays::{Array, write_arrays};
use crate::report::metrics::Summary;
use crate::source::Population;
use crate::{Error, Result};
use clap::Args;
use methods::{Evaluator, Words};
use popgrad_kernels::Elem;
use problem::{Law, METHODS, Problem};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Arguments of `popgrad exact`.
#[derive(Debug, Args)]
pub(super) struct ExactArgs {
    /// Model: disentangled, simplified, mlp_transformer, memory or transformer.
    #[arg(long, required_unless_present = "quantities")]
    model: Option<String>,
    /// Task, method and keys of the model, e.g. S=3 T=8 graph=chain alpha=0.1 roots=uniform
    /// eps=0.01 method=auto.
    #[arg(value_name = "KEY=VALUE")]
    keys: Vec<String>,
    /// Parameters: one array per block, as for grad, .npz or .safetensors.
    #[arg(long, value_name = "FILE", required_unless_present = "quantities")]
    params: Option<PathBuf>,
    /// Output file for loss, weight and +dL/dblock, or for the quantities, .npz or .safetensors.
    #[arg(long, value_name = "FILE", required_unless_present = "quantities")]
    out: Option<PathBuf>,
    /// Instead of a model's loss, quantities of the task: mu, chi2, g, ghat, rho, t_eff of
    /// a graph; c_v, c_k, c_x, a, a_prime of trigger sequences (N=.. T=..).
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    quantities: Vec<String>,
    /// A finite prior: `pi` (Q,S,S), `weight` (Q), optionally the root laws `roots` (Q,S). With
    /// quantities of trigger sequences: `start` (N), `bigram` (N,N).
    #[arg(long, value_name = "FILE")]
    prior: Option<PathBuf>,
    /// Also write every sequence: `words` (N,T), `probabilities` (N), `predictions` (N,S).
    #[arg(long)]
    predictions: bool,
    /// Arithmetic: f64 or f32.
    #[arg(long, default_value = "f64")]
    dtype: String,
    /// Run an evaluation that would be refused as too long.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    threads: super::Threads,
}

pub(super) const AFTER_HELP: &str = "\
Keys: S, T, graph=NAME or parents=-1,0,1,.., alpha, roots=uniform|stationary (the default), method=auto|tree|orbit|brute \
(brute: f64 whatever --dtype says), draws, seed, and those of the model, as for grad. Stationary roots: S=2 by quadrature, \
its nodes doubled until the loss moves by less than 1e-12; S>2 by draws=N matrices from the prior, exact given each, with \
`loss_standard_error`; or a prior file. prior=floored gamma=..: likewise. Several parents (task=causal_dag): graph=two_parents, graph=ngram order=2, graph=random_parents k=2, or \
parent_sets=\"-;0;0,1;..\", roots=shared (the default)|uniform.
Output: `loss` (), `weight` () (the sum of all probabilities, 1 up to rounding) and one array per block that has a \
gradient. See docs/src/reference/arrays.md.

Examples:
  popgrad exact --quantities mu,chi2,g S=2 T=10 graph=chain alpha=0.5
  popgrad exact --model simplified S=2 T=20 alpha=0.1 roots=uniform eps=0.01 --params p.npz --out e.npz";

/// Keys of this command for a model.
fn keys(model: &str) -> Result<Vec<Key>> {
    let mut keys = config::model_keys(model)?;
    keys.extend(task_keys(&["causal_tree", "causal_dag"]));
    Ok(keys)
}

/// Keys of this command for quantities of a task.
fn keys_of_task() -> Result<Vec<Key>> {
    let mut keys = task_keys(&["causal_tree", "trigger_bigram"]);
    keys.extend(config::keys(&["N", "eps"]));
    Ok(keys)
}

fn task_keys(tasks: &'static [&'static str]) -> Vec<Key> {
    let mut keys = Vec::new();
    keys.extend(config::keys(&[
        "S",
        "T",
        "graph",
        "order",
        "k",
        "parents",
        "parent_sets",
        "prior",
        "alpha",
        "gamma",
        "roots",
        "seed",
    ]));
    let tasks = Kind::Word(tasks);
    keys.push(Key::of_command("task", tasks, "task; follows `graph` if it is not given"));
    keys.push(Key::of_command("method", Kind::Word(&METHODS), "how the sum over all sequences is computed"));
    let most = i64::MAX as u64;
    let help = "matrices drawn from the prior for stationary roots or prior=floored, where S > 2; >= 2";
    keys.push(Key::of_command("draws", Kind::Count(2, most), help));
    keys
}

/// The result. Gradients are +dL/dblock, flat.
struct Found {
    loss: f64,
    weight: f64,
    grad: Vec<f64>,
    method: String,
    words: f64,
    standard_error: Option<f64>,
}

pub(super) fn exact(args: &ExactArgs) -> Result<()> {
    // Refused before any work: an output format that cannot be written, an output that is an input.
    if let Some(out) = &args.out {
        check_arrays("out", out)?;
        let inputs = [("params", args.params.as_ref()), ("prior", args.prior.as_ref())];
        for (name, input) in inputs.into_iter().filter_map(|(n, i)| Some((n, i?))) {
            super::grad::not_an_input(out, name, input)?;
        }
    }
    if !args.quantities.is_empty() {
        return quantities::quantities(args);
    }
    match Dtype::named(&args.dtype)? {
        Dtype::F32 => typed::<f32>(args),
        Dtype::F64 => typed::<f64>(args),
    }
}

fn typed<E: Elem>(args: &ExactArgs) -> Result<()> {
    // The parser asks for them.
    let (Some(model), Some(params), Some(out)) = (&args.model, &args.params, &args.out) else {
        return Err(super::grad::missing("model, params, out"));
    };
    let table = config::parse_keys(&args.keys, &keys(model)?)?;
    let file = Params::read(params)?;
    let (spec, symbols) = file.describe(model, &table)?;
    let problem = Problem::new(args, &table, &spec, symbols)?;
    let t = problem.law.seq_len();
    let model = spec.build::<E>(symbols, t)?;
    let model = model.as_ref();
    model.accepts(Targets::Law)?;
    let params = file.into_blocks::<E>(model.layout())?;
    let active = active(model, "")?;
    if args.predictions {
        problem.check_predictions(symbols, t)?;
    }
    let evaluator =
        Evaluator { model, params: &params, active: &active, problem: &problem, force: args.force };
    let started = Instant::now();
    let (found, words) = args.threads.pool()?.install(|| -> Result<_> {
        match &problem.law {
            Law::Tree(tree) => {
                let file = args.prior.as_deref().map(|p| prior::read(p, tree, symbols)).transpose()?;
                let (found, prior) = prior::over(&evaluator, tree, file)?;
                let words = match prior {
                    Some(prior) if args.predictions => {
                        let law = TreeLaw::new(tree.forest.clone(), prior)?;
                        Some(evaluator.predictions(&Population::new(&law)?)?)
                    }
                    _ => None,
                };
                Ok((found, words))
            }
            Law::Dag(task) => {
                let source = Population::new(&DagLaw::new(task.clone()))?;
                let found = evaluator.of_batches(&source)?;
                let words = args.predictions.then(|| evaluator.predictions(&source)).transpose()?;
                Ok((found, words))
            }
        }
    })?;
    check(model, &found)?;
    write(out, model, &active, &found, words)?;
    let mut summary = summary(&found, started)?;
    summary.set("out", out.display().to_string())?;
    show_summary(&summary)
}

/// Refuses results that are not numbers, before anything is written. A loss may be +∞.
fn check<E: Elem>(model: &dyn Model<E>, found: &Found) -> Result<()> {
    check_total(found.weight, if size_of::<E>() == 4 { 1e-3 } else { 1e-9 })?;
    let allowed = "parameters at which everything stays finite";
    let loss = [Some(found.loss), found.standard_error];
    if let Some(x) = loss.into_iter().flatten().find(|x| x.is_nan() || *x == f64::NEG_INFINITY) {
        return Err(Error::invalid("params", format!("loss {x}"), allowed));
    }
    for block in model.layout().blocks() {
        if let Some(g) = found.grad[block.range()].iter().find(|g| !g.is_finite()) {
            return Err(Error::invalid("params", format!("dL/d{} is {g}", block.name()), allowed));
        }
    }
    Ok(())
}

fn summary(found: &Found, started: Instant) -> Result<Summary> {
    let mut summary = Summary::new();
    summary.set("method", &found.method)?;
    summary.set("words", found.words)?;
    // A summary cannot hold an infinite loss.
    if found.loss.is_finite() {
        summary.set("loss", found.loss)?;
    } else {
        summary.set("loss", found.loss.to_string())?;
    }
    if let Some(e) = found.standard_error {
        summary.set("loss_standard_error", e)?;
    }
    summary.set("weight", found.weight)?;
    summary.set("seconds", started.elapsed().as_secs_f64())?;
    Ok(summary)
}

fn write<E: Elem>(
    out: &Path,
    model: &dyn Model<E>,
    active: &[bool],
    found: &Found,
    words: Option<Words>,
) -> Result<()> {
    let scalar = |x: f64| Array::new(&[], vec![x]);
    let mut arrays = vec![("loss", scalar(found.loss)?), ("weight", scalar(found.weight)?)];
    if let Some(e) = found.standard_error {
        arrays.push(("loss_standard_error", scalar(e)?));
    }
    arrays.extend(block_arrays(model.layout(), active, &found.grad)?);
    arrays.extend(words.unwrap_or_default());
    let named: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (*n, a)).collect();
    if !found.loss.is_finite() {
        warn(
            "the loss is infinite: a symbol of positive probability is predicted with 0; gradients leave such terms out",
        );
    }
    write_arrays(out, &named, None)
}
