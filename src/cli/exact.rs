//! `popgrad exact`: loss and gradients of a model on the whole population, no sequence sampled.

use super::grad::{Sizes, evaluate, missing, names, read_params, shape_error, take};
use super::{pool, say, tell};
use crate::batch::Batch;
use crate::config::{self, Key, Kind, key};
use crate::exact::symmetric::{canonical_words, is_symmetric};
use crate::exact::{
    AtomRoots, FinitePrior, MAX_SYMBOLS, Orbits, Prior, Progress, RootLaw, Tree, TreeLaw, brute, law,
    quadrature,
};
use crate::model::{self, Layout, ModelSpec};
use crate::report::arrays::{Array, Format, read_arrays, write_arrays};
use crate::report::metrics::Summary;
use crate::rng::{Key as DrawKey, Purpose};
use crate::source::{Exact, Source};
use crate::task::Forest;
use crate::{Error, Result};
use clap::Args;
use indicatif::ProgressBar;
use popgrad_kernels::Elem;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

mod dag;

/// Arguments of `popgrad exact`.
#[derive(Debug, Args)]
pub(super) struct ExactArgs {
    /// Model: simplified, disentangled or mlp_transformer.
    #[arg(long)]
    model: String,
    /// Task and method, e.g. S=3 T=8 graph=chain alpha=0.1 roots=uniform eps=0.01 method=auto.
    #[arg(value_name = "KEY=VALUE")]
    keys: Vec<String>,
    /// Parameters: one array per block (simplified: A1, A2; disentangled: A.0, A.1, .., W), .npz or .safetensors.
    #[arg(long, value_name = "FILE")]
    params: PathBuf,
    /// Where loss, weight and +dL/dblock go, .npz or .safetensors.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// A finite prior: `pi` (Q,S,S), `weight` (Q), optionally the root laws `roots` (Q,S).
    #[arg(long, value_name = "FILE")]
    prior: Option<PathBuf>,
    /// Also every word: `words` (N,T), `probabilities` (N), `predictions` (N,S).
    #[arg(long)]
    predictions: bool,
    /// Arithmetic: f64 or f32.
    #[arg(long, default_value = "f64")]
    dtype: String,
    /// However long it takes.
    #[arg(long)]
    force: bool,
    /// Worker threads; changes the speed, not one bit of the result [default: all cores].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

pub(super) const AFTER_HELP: &str = "\
Keys: S, T, graph=NAME or parents=-1,0,1,.., alpha, roots=uniform|stationary (the default), eps (simplified), heads (disentangled),
method=auto|tree|orbit|brute (brute: f64 whatever --dtype says), draws, seed. Stationary roots: S=2 by quadrature, its nodes doubled until the loss moves by less than 1e-12; S>2 by draws=N
matrices from the prior, exact given each, with `loss_standard_error`; or a prior file. Several parents (task=causal_dag): graph=two_parents, graph=ngram order=2, or
parent_sets=\"-;0;0,1;..\", roots=shared (the default)|uniform, any model.
Output: `loss` (), `weight` () (the sum of all probabilities, 1 up to rounding) and one array per block. See docs/formats.md.";

/// Keys of this command.
fn keys(simplified: bool) -> Vec<Key> {
    let own = if simplified { "eps" } else { "heads" };
    let task = ["task", "S", "T", "graph", "order", "parents", "parent_sets", "alpha", "roots", "seed"];
    let mut keys = config::keys(&[&task[..], &[own]].concat());
    keys.push(key("method", Kind::Text, "auto, tree, orbit or brute"));
    keys.push(key(
        "draws",
        Kind::Count,
        "matrices drawn from the prior for stationary roots with S > 2, >= 2",
    ));
    keys
}

/// Words that the naive enumeration takes without `--force`: some seconds.
const MOST_BRUTE_WORDS: f64 = 4e6;

const METHODS: [&str; 4] = ["auto", "tree", "orbit", "brute"];

/// What is to be evaluated.
struct Problem {
    forest: Forest,
    symbols: usize,
    alpha: Option<f64>,
    stationary: bool,
    roots_given: bool,
    eps: f64,
    heads: Vec<usize>,
    method: String,
    draws: Option<u64>,
    seed: u64,
}

/// What was found. Gradients are +dL/dblock, flat.
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
    Format::of(&args.out)?;
    let inputs = [("params", Some(&args.params)), ("prior", args.prior.as_ref())];
    for (name, input) in inputs.into_iter().filter_map(|(n, i)| Some((n, i?))) {
        super::grad::not_an_input(&args.out, name, input)?;
    }
    match args.dtype.as_str() {
        "f64" => typed::<f64>(args),
        "f32" => typed::<f32>(args),
        other => Err(Error::unknown("dtype", other, ["f32", "f64"])),
    }
}

fn problem(args: &ExactArgs) -> Result<Problem> {
    let simplified = args.model == "simplified";
    let table = config::parse_keys(&args.keys, &keys(simplified))?;
    let sizes = Sizes::of(&table)?;
    let count = |name: &str| table.get(name).and_then(|v| v.as_integer()).and_then(|i| u64::try_from(i).ok());
    let word = |name: &str| table.get(name).and_then(|v| v.as_str());
    let symbols = sizes.symbols()?;
    let seed = count("seed").unwrap_or(0);
    let t = count("T").map(|t| t as usize);
    let forest = match (word("graph"), table.get("parents").and_then(|v| v.as_array())) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid("parents", "given with graph", "parents=.. or graph=.., not both"));
        }
        (None, Some(list)) => {
            let parents: Vec<i64> = list.iter().filter_map(|v| v.as_integer()).collect();
            Forest::from_parents(&parents)?
        }
        (name, None) => Forest::named(name.unwrap_or("chain"), t.ok_or_else(|| missing("T"))?, seed)?,
    };
    if t.is_some_and(|t| t != forest.seq_len()) {
        let found = format!("{} with {} parents", t.unwrap_or(0), forest.len_context());
        return Err(Error::invalid("T", found, format!("T = {}", forest.seq_len())));
    }
    for name in ["order", "parent_sets"] {
        if let Some(value) = table.get(name) {
            return Err(Error::invalid(name, value.to_string(), "task=causal_dag only"));
        }
    }
    let method = word("method").unwrap_or("auto").to_string();
    if !METHODS.contains(&method.as_str()) {
        return Err(Error::unknown("method", &method, METHODS));
    }
    let stationary = match word("roots").unwrap_or("stationary") {
        "stationary" => true,
        "uniform" => false,
        other => return Err(Error::unknown("roots", other, ["stationary", "uniform"])),
    };
    let draws = count("draws");
    if draws.is_some() && (!stationary || args.prior.is_some()) {
        let found = "given with uniform roots or a prior file";
        return Err(Error::invalid("draws", found, "stationary roots of a Dirichlet prior only"));
    }
    if let Some(n @ 0..2) = draws {
        return Err(Error::invalid("draws", n.to_string(), "draws >= 2"));
    }
    if simplified && symbols > MAX_SYMBOLS {
        return Err(Error::invalid("S", symbols.to_string(), format!("at most {MAX_SYMBOLS}")));
    }
    Ok(Problem {
        forest,
        symbols,
        alpha: table.get("alpha").and_then(|v| v.as_float()),
        stationary,
        roots_given: word("roots").is_some(),
        eps: sizes.eps,
        heads: if simplified { Vec::new() } else { sizes.heads()? },
        method,
        draws,
        seed,
    })
}

fn typed<E: Elem>(args: &ExactArgs) -> Result<()> {
    model::check_name(&args.model)?;
    if dag::exact::<E>(args)?.is_some() {
        return Ok(());
    }
    let problem = problem(args)?;
    let spec = ModelSpec {
        name: args.model.clone(),
        vocab: problem.symbols,
        seq_len: problem.forest.seq_len(),
        heads: problem.heads.clone(),
        eps: problem.eps,
    };
    let model = model::build::<E>(&spec)?;
    let params = read_params::<E>(&args.params, model.layout())?;
    if args.predictions {
        if problem.draws.is_some() {
            return Err(Error::invalid("predictions", "with draws", "a prior that is not sampled"));
        }
        check_word_count(problem.symbols, problem.forest.seq_len())?;
    }
    let file = args.prior.as_deref().map(|p| read_prior(p, &problem)).transpose()?;
    let started = Instant::now();
    let pool = pool(args.threads)?;
    let (found, words) = pool.install(|| -> Result<_> {
        let evaluate = |prior: &Prior| population(args, &problem, model.as_ref(), &params, prior);
        let (found, prior) = over_prior(&problem, file, params.len(), &evaluate)?;
        let words = match prior {
            Some(prior) if args.predictions => {
                let source = Exact::new(&TreeLaw::new(problem.forest.clone(), prior)?)?;
                Some(predictions(&source, model.as_ref(), &params)?)
            }
            _ => None,
        };
        Ok((found, words))
    })?;
    finish(args, model.layout(), &found, words, started)
}

/// Writes the file, prints the summary.
fn finish(
    args: &ExactArgs,
    layout: &Layout,
    found: &Found,
    words: Option<Words>,
    started: Instant,
) -> Result<()> {
    write(&args.out, layout, found, words)?;
    let mut summary = Summary::new();
    summary.set("method", &found.method)?;
    summary.set("words", found.words)?;
    // A summary has no infinity, a loss may be one.
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
    tell(&summary.to_string())
}

/// Evaluates over the prior that the keys or the file name; the prior comes back unless it was drawn from.
fn over_prior(
    x: &Problem,
    file: Option<Prior>,
    params: usize,
    evaluate: &dyn Fn(&Prior) -> Result<Found>,
) -> Result<(Found, Option<Prior>)> {
    if let Some(prior) = file {
        if let Some(alpha) = x.alpha {
            return Err(Error::invalid("alpha", alpha.to_string(), "no alpha beside a prior file"));
        }
        return Ok((evaluate(&prior)?, Some(prior)));
    }
    let alpha = x.alpha.ok_or_else(|| missing("alpha"))?;
    if !x.stationary {
        let prior = Prior::dirichlet(x.symbols, alpha, RootLaw::Uniform)?;
        return Ok((evaluate(&prior)?, Some(prior)));
    }
    if let Some(draws) = x.draws {
        let key = DrawKey::new(x.seed, Purpose::Prior);
        let mut last = None;
        let mut words = 0.0;
        let mean = quadrature::monte_carlo(x.symbols, alpha, &key, draws, 2 + params, |p, out| {
            let found = evaluate(&Prior::Finite(p.clone()))?;
            if !found.loss.is_finite() {
                return Err(Error::invalid(
                    "eps",
                    x.eps.to_string(),
                    "eps > 0 with draws: the loss is infinite",
                ));
            }
            words += found.words;
            (out[0], out[1]) = (found.loss, found.weight);
            out[2..].copy_from_slice(&found.grad);
            last = Some(found.method);
            Ok(())
        })?;
        let method = format!("{}, {draws} matrices drawn", last.unwrap_or_default());
        let standard_error = Some(mean.standard_error[0]);
        let (loss, weight, grad) = (mean.mean[0], mean.mean[1], mean.mean[2..].to_vec());
        return Ok((Found { loss, weight, grad, method, words, standard_error }, None));
    }
    if x.symbols > 2 {
        let allowed = "uniform, or draws=N, or a prior file: stationary roots have no quadrature beyond S=2";
        return Err(Error::invalid("roots", format!("stationary with S={}", x.symbols), allowed));
    }
    let still = |p: &FinitePrior| {
        let found = evaluate(&Prior::Finite(p.clone()))?;
        // An infinite loss never moves; the gradient is finite.
        let size = || found.grad.iter().map(|g| g.abs()).sum();
        Ok(if found.loss.is_finite() { found.loss } else { size() })
    };
    let nodes = quadrature::until_still(alpha, still)?.nodes;
    let prior = Prior::Finite(quadrature::stationary_pairs(alpha, nodes)?);
    let mut found = evaluate(&prior)?;
    found.method += &format!(", quadrature with {nodes} nodes per axis");
    Ok((found, Some(prior)))
}

/// Loss and gradient for one prior, by the method asked for or the cheapest one.
fn population<E: Elem>(
    args: &ExactArgs,
    x: &Problem,
    model: &dyn model::Model<E>,
    params: &[E],
    prior: &Prior,
) -> Result<Found> {
    let (s, t) = (x.symbols, x.forest.seq_len());
    if model.name() != "simplified" {
        if !["auto", "brute"].contains(&x.method.as_str()) {
            let allowed = "auto or brute: only the simplified model has a tree and orbits";
            return Err(Error::invalid("method", &x.method, allowed));
        }
        return of_batches(model, params, &Exact::new(&TreeLaw::new(x.forest.clone(), prior.clone())?)?);
    }
    let wide: Vec<f64> = params.iter().map(|p| p.to_f64()).collect();
    let (a1, a2) = wide.split_at(t * t);
    let minus = |a1: &[f64], a2: &[f64]| a1.iter().chain(a2).map(|g| -g).collect::<Vec<f64>>();
    let form = is_symmetric(a2, s);
    let symmetric = form && prior.is_relabelling_invariant();
    let few = canonical_words(s, t) < (s as f64).powi(t as i32 - 1);
    let bar = Bar::new();
    let watch = |p: Progress| bar.show(p);
    let (loss, weight, grad, words) = match x.method.as_str() {
        "brute" => {
            let words = (s as f64).powi(t as i32);
            if words > MOST_BRUTE_WORDS && !args.force {
                let found = format!("brute with {words:.1e} words");
                return Err(Error::invalid("method", found, "tree, or at most 4e6 words, or --force"));
            }
            let g = brute::population(&x.forest, prior, a1, a2, x.eps)?;
            (g.loss, g.weight, minus(&g.a1, &g.a2), (s as f64).powi(t as i32))
        }
        "orbit" | "auto" if x.method == "orbit" || symmetric && few => {
            if !form {
                return Err(Error::invalid("A2", "not b I + c", "b I + c for method=orbit, or method=tree"));
            }
            let mut orbits = Orbits::<E>::new(&x.forest, prior, x.eps, args.force)?;
            let g = orbits.gradients_with(a1, a2[0] - a2[1], Some(&watch))?.clone();
            let a2: Vec<f64> = g.a2(s).collect();
            (g.loss, g.weight, minus(&g.a1, &a2), orbits.words() as f64)
        }
        _ => {
            let mut tree = Tree::<E>::new(&x.forest, prior, x.eps, args.force)?;
            let g = tree.gradients_with(a1, a2, Some(&watch))?.clone();
            (g.loss, g.weight, minus(&g.a1, &g.a2), tree.words() as f64)
        }
    };
    bar.clear();
    let method = match x.method.as_str() {
        "auto" if symmetric && few => "orbit".to_string(),
        "auto" => "tree".to_string(),
        named => named.to_string(),
    };
    Ok(Found { loss, weight, grad, method, words, standard_error: None })
}

/// Loss and gradient of any model by weighted batches of all words.
fn of_batches<E: Elem>(model: &dyn model::Model<E>, params: &[E], source: &Exact) -> Result<Found> {
    let n = source.words();
    let fill = |start: usize, piece: &mut Batch| {
        source.fill(start as u64, piece.seqs(), n, &mut source.work(), piece);
    };
    let found = evaluate(model, params, n, false, &fill)?;
    Ok(Found {
        loss: found.loss,
        weight: source.weight(),
        grad: found.grad,
        method: "weighted batches of all words".to_string(),
        words: n as f64,
        standard_error: None,
    })
}

/// A progress bar on a terminal, nothing elsewhere.
struct Bar(Option<ProgressBar>);

impl Bar {
    fn new() -> Self {
        Bar(std::io::stderr().is_terminal().then(|| ProgressBar::new(0)))
    }
    fn show(&self, p: Progress) {
        if let Some(bar) = &self.0 {
            bar.set_length(p.total);
            bar.set_position(p.done);
        }
    }
    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Most numbers that `--predictions` writes.
const MOST_PREDICTIONS: u64 = 1 << 26;

/// Refuses predictions that cannot be written, before any work.
fn check_word_count(s: usize, t: usize) -> Result<()> {
    let numbers = law::word_count(s, t).and_then(|n| n.checked_mul((s + t + 1) as u64));
    if numbers.is_none_or(|n| n > MOST_PREDICTIONS) {
        let found = format!("{s}^{t} words");
        return Err(Error::invalid("predictions", found, "words (T + S + 1) <= 2^26"));
    }
    Ok(())
}

/// Named arrays, one row for each word.
type Words = Vec<(&'static str, Array)>;

/// Every word with its probability and the model's prediction.
fn predictions<E: Elem>(source: &Exact, model: &dyn model::Model<E>, params: &[E]) -> Result<Words> {
    let (s, t, n) = (source.vocab(), source.seq_len(), source.words());
    let fill = |start: usize, piece: &mut Batch| {
        source.fill(start as u64, piece.seqs(), n, &mut source.work(), piece);
    };
    let found = evaluate(model, params, n, true, &fill)?;
    let mut tokens = vec![0u32; n * t];
    for (i, row) in tokens.chunks_exact_mut(t).enumerate() {
        law::spell(i as u64, s, row);
    }
    let words: Vec<i64> = tokens.into_iter().map(i64::from).collect();
    let predictions: Vec<f64> = found.predictions.iter().map(|p| p.to_f64()).collect();
    Ok(vec![
        ("words", Array::new(&[n, t], words)?),
        ("probabilities", Array::vector(source.probabilities().to_vec())),
        ("predictions", Array::new(&[n, s], predictions)?),
    ])
}

/// A finite prior from a file.
fn read_prior(path: &Path, x: &Problem) -> Result<Prior> {
    let mut arrays = read_arrays(path)?;
    let held = names(&arrays);
    let s = x.symbols;
    let pi = take(&mut arrays, &held, path, "pi")?;
    let weight = take(&mut arrays, &held, path, "weight")?;
    let roots = arrays.remove("roots");
    if let Some(extra) = arrays.keys().next() {
        let problem = format!("array `{extra}` is not expected; allowed: pi, weight, roots");
        return Err(Error::format(path, problem));
    }
    let &[q] = weight.shape() else { return Err(shape_error(path, "weight", &weight, "(Q)")) };
    if pi.shape() != [q, s, s] {
        return Err(shape_error(path, "pi", &pi, &format!("(Q, S, S) = ({q}, {s}, {s})")));
    }
    let roots = match roots {
        Some(r) if r.shape() != [q, s] => {
            return Err(shape_error(path, "roots", &r, &format!("(Q, S) = ({q}, {s})")));
        }
        Some(_) if x.roots_given => {
            return Err(Error::invalid("roots", "given beside root laws in the prior file", "one of them"));
        }
        Some(r) => AtomRoots::Given(r.to_f64_vec()),
        None if x.stationary => AtomRoots::Stationary,
        None => AtomRoots::Uniform,
    };
    let prior = FinitePrior::new(s, weight.to_f64_vec(), pi.to_f64_vec(), roots);
    // What is wrong is in the file, and the message says which entry.
    Ok(Prior::Finite(prior.map_err(|e| Error::format(path, e.to_string()))?))
}

fn write(path: &Path, layout: &Layout, found: &Found, words: Option<Words>) -> Result<()> {
    let mut arrays =
        vec![("loss", Array::new(&[], vec![found.loss])?), ("weight", Array::new(&[], vec![found.weight])?)];
    if let Some(e) = found.standard_error {
        arrays.push(("loss_standard_error", Array::new(&[], vec![e])?));
    }
    for block in layout.blocks() {
        arrays.push((block.name(), Array::new(block.shape(), found.grad[block.range()].to_vec())?));
    }
    arrays.extend(words.unwrap_or_default());
    let named: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (*n, a)).collect();
    if !found.loss.is_finite() {
        say(
            "the loss is infinite: a symbol of positive probability is predicted with 0; gradients leave such terms out",
        );
    }
    write_arrays(path, &named, None)
}
