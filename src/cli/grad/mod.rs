//! `popgrad grad`: loss, predictions and gradients of a model at parameters and tokens made elsewhere.

mod sequence;

use super::pool;
use crate::batch::Batch;
use crate::config;
use crate::model::{self, Layout, Model, ModelSpec};
use crate::num::Sum;
use crate::report::arrays::{Array, Format, read_arrays, write_arrays};
use crate::{Error, Result};
use clap::Args;
use popgrad_kernels::Elem;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Arguments of `popgrad grad`.
#[derive(Debug, Args)]
pub(super) struct GradArgs {
    /// Model: disentangled, simplified, mlp_transformer, memory or transformer.
    #[arg(long)]
    model: String,
    /// Sizes of the model: heads=1,1 S=10 (disentangled, mlp_transformer), S=10 eps=0.01 (simplified; eps is 0 if not given). T comes from the
    /// tokens. memory: ff1, ff2, positions, output, scale_scores, frozen; transformer: layers, heads, block, norm, ff, positions, output, frozen,
    /// as in a run; N and d come from tok_embeddings.weight.
    #[arg(value_name = "KEY=VALUE")]
    sizes: Vec<String>,
    /// Parameters: one array per block (A.0, A.1, .., W; simplified: A1, A2; memory, transformer: tok_embeddings.weight, ..), .npz or
    /// .safetensors.
    #[arg(long, value_name = "FILE")]
    params: PathBuf,
    /// Arrays `tokens` (B,T), `targets` (B,S), optionally `weights` (B); memory, transformer: `tokens`, `labels` (B,T), optionally `mask` (B,T).
    #[arg(long, value_name = "FILE")]
    batch: PathBuf,
    /// Where loss, losses, predictions and gradients go, .npz or .safetensors.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Arithmetic: f32 or f64.
    #[arg(long, default_value = "f64")]
    dtype: String,
    /// Worker threads [default: all cores].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

pub(super) const AFTER_HELP: &str = "\
Output: `loss` (), `losses` (B), `predictions` (B,S) and one array per parameter block, +dL/dblock of
L = sum_i weights_i losses_i. Weights default to 1/B and are never renormalised.
memory and transformer: `losses` (B,T), `predictions` (B,T,N), L = sum mask losses / sum mask; no gradient of
buffers (pe; memory: wv and wo of layer 0, wv of layer 1) nor of what frozen= names. See docs/formats.md.";

pub(super) fn grad(args: GradArgs) -> Result<()> {
    // Refused before any work: an output format that cannot be written.
    Format::of(&args.out)?;
    for (name, input) in [("params", &args.params), ("batch", &args.batch)] {
        not_an_input(&args.out, name, input)?;
    }
    let labelled = sequence::MODELS.contains(&args.model.as_str());
    if !labelled && !model::MODELS.contains(&args.model.as_str()) {
        return Err(Error::unknown("model", &args.model, model::MODELS.into_iter().chain(sequence::MODELS)));
    }
    match args.dtype.as_str() {
        "f32" if labelled => sequence::typed::<f32>(&args),
        "f64" if labelled => sequence::typed::<f64>(&args),
        "f32" => typed::<f32>(&args),
        "f64" => typed::<f64>(&args),
        other => Err(Error::unknown("dtype", other, ["f32", "f64"])),
    }
}

/// Refuses an output that would replace the input `--name`.
pub(super) fn not_an_input(out: &Path, name: &str, input: &Path) -> Result<()> {
    let same = |a: &Path, b: &Path| Some(std::fs::canonicalize(a).ok()? == std::fs::canonicalize(b).ok()?);
    if same(out, input) == Some(true) {
        let problem = format!("{} is also --{name}", out.display());
        return Err(Error::invalid("out", problem, "a file that is not read"));
    }
    Ok(())
}

fn typed<E: Elem>(args: &GradArgs) -> Result<()> {
    let simplified = args.model == "simplified";
    let keys = config::keys(if simplified { &["S", "eps"] } else { &["heads", "S"] });
    let sizes = Sizes::of(&config::parse_keys(&args.sizes, &keys)?)?;
    let vocab = sizes.symbols()?;
    let heads = if simplified { Vec::new() } else { sizes.heads()? };
    let eps = sizes.eps;

    let batch = read_batch(&args.batch, vocab)?;
    let spec = ModelSpec { name: args.model.clone(), vocab, seq_len: batch.len_tokens(), heads, eps };
    let model = model::build::<E>(&spec)?;
    let params = read_params::<E>(&args.params, model.layout())?;
    let (t, s) = (batch.len_tokens(), batch.vocab());
    let copy = |start: usize, piece: &mut Batch| {
        let rows = start..start + piece.seqs();
        let (tokens, targets, weights) = piece.parts_mut();
        tokens.copy_from_slice(&batch.tokens()[rows.start * t..rows.end * t]);
        targets.copy_from_slice(&batch.targets()[rows.start * s..rows.end * s]);
        weights.copy_from_slice(&batch.weights()[rows]);
    };
    let result =
        pool(args.threads)?.install(|| evaluate(model.as_ref(), &params, batch.seqs(), true, &copy))?;
    if !result.loss.is_finite() || result.grad.iter().any(|g| !g.is_finite()) {
        let found = format!("loss {} or a gradient that is not finite", result.loss);
        return Err(Error::invalid("params, weights", found, "values at which everything stays finite"));
    }
    write(&args.out, model.as_ref(), &batch, &result)
}

/// Model sizes given as `key=value`.
pub(super) struct Sizes {
    heads: Option<Vec<usize>>,
    symbols: Option<usize>,
    /// ε, 0 if it is not given.
    pub(super) eps: f64,
}

impl Sizes {
    pub(super) fn of(table: &toml::Table) -> Result<Self> {
        let count = |v: &toml::Value| v.as_integer().and_then(|i| usize::try_from(i).ok());
        let heads = match table.get("heads").and_then(|v| v.as_array()) {
            None => None,
            Some(list) => {
                let heads: Option<Vec<usize>> = list.iter().map(count).collect();
                let refused = || Error::invalid("heads", format!("{list:?}"), "1 to 64 each");
                Some(heads.ok_or_else(refused)?)
            }
        };
        Ok(Sizes {
            heads,
            symbols: table.get("S").and_then(count),
            eps: table.get("eps").and_then(|v| v.as_float()).unwrap_or(0.0),
        })
    }

    pub(super) fn symbols(&self) -> Result<usize> {
        self.symbols.ok_or_else(|| missing("S"))
    }

    pub(super) fn heads(&self) -> Result<Vec<usize>> {
        self.heads.clone().ok_or_else(|| missing("heads"))
    }
}

/// A key that has to be given and is not.
pub(super) fn missing(name: &str) -> Error {
    Error::invalid(name, "missing", format!("{name}=.. on the command line"))
}

pub(super) struct Evaluated<E> {
    pub(super) loss: f64,
    pub(super) losses: Vec<f64>,
    pub(super) predictions: Vec<E>,
    pub(super) grad: Vec<f64>,
}

/// Loss, losses, predictions and gradient of one piece of the batch.
struct Piece<E> {
    loss: f64,
    losses: Vec<f64>,
    predictions: Vec<E>,
    grad: Vec<E>,
}

/// Most sequences per piece, and the elements that a piece may take; a piece's size depends on the model alone, never on the
/// threads, so that sums have one order.
const PIECE: usize = 256;
const PIECE_ELEMENTS: usize = 1 << 25;

/// Sequences per piece for `model`.
fn piece_size<E: Elem>(model: &dyn Model<E>) -> Result<usize> {
    let fits = |n: usize| model.workspace_len(n).is_some_and(|[a, k]| a.saturating_add(k) <= PIECE_ELEMENTS);
    let mut size = PIECE;
    while size > 1 && !fits(size) {
        size /= 2;
    }
    let elements =
        model.workspace_len(size).map(|[a, k]| a.saturating_add(k).saturating_add(model.layout().len()));
    let bytes = elements.and_then(|n| n.checked_mul(size_of::<E>() * rayon::current_num_threads()));
    let free = crate::paper::folder::available_memory().unwrap_or(usize::MAX);
    match bytes {
        Some(bytes) if bytes <= free => Ok(size),
        _ => {
            let found =
                bytes.map_or("more than can be addressed".into(), |b| format!("about {} MiB", b >> 20));
            Err(Error::invalid("memory (S, T, heads, threads)", found, format!("{} MiB free", free >> 20)))
        }
    }
}

/// Loss and gradient over `n` sequences, piece by piece: `fill` writes the sequences from a number on into a batch that has its
/// size. Losses and predictions of each are kept if `keep`.
pub(super) fn evaluate<E: Elem>(
    model: &dyn Model<E>,
    params: &[E],
    n: usize,
    keep: bool,
    fill: &(dyn Fn(usize, &mut Batch) + Sync),
) -> Result<Evaluated<E>> {
    use rayon::prelude::*;
    let (t, s) = (model.seq_len(), model.vocab());
    let size = piece_size(model)?;
    let pieces: Vec<usize> = (0..n).step_by(size).collect();
    let run = |start: &usize| -> Result<Piece<E>> {
        let count = size.min(n - start);
        let mut piece = Batch::with_capacity(count, t, s)?;
        piece.set_seqs(count);
        fill(*start, &mut piece);
        let mut ws = model.workspace(count)?;
        let mut grad = vec![E::ZERO; params.len()];
        model.forward(params, &piece, &mut ws)?;
        model.backward(params, &piece, &mut ws, &mut grad)?;
        let loss = ws.weighted_loss(piece.weights()).value();
        let (losses, predictions) =
            if keep { (ws.losses().to_vec(), ws.predictions().to_vec()) } else { (Vec::new(), Vec::new()) };
        Ok(Piece { loss, losses, predictions, grad })
    };
    let mut out =
        Evaluated { loss: 0.0, losses: Vec::new(), predictions: Vec::new(), grad: vec![0.0; params.len()] };
    let mut loss = Sum::new();
    let mut grad = vec![Sum::new(); params.len()];
    // A bounded number of pieces in flight; folded in order.
    for group in pieces.chunks(rayon::current_num_threads()) {
        let done: Vec<_> = group.par_iter().map(run).collect();
        for piece in done {
            let piece = piece?;
            loss.add(piece.loss);
            out.losses.extend(piece.losses);
            out.predictions.extend(piece.predictions);
            for (o, g) in grad.iter_mut().zip(piece.grad) {
                o.add(g.to_f64());
            }
        }
    }
    out.loss = loss.value();
    out.grad.iter_mut().zip(&grad).for_each(|(o, g)| *o = g.value());
    Ok(out)
}

/// Takes array `name` out of a file's arrays; `held` lists all that the file had.
pub(super) fn take(
    arrays: &mut BTreeMap<String, Array>,
    held: &str,
    path: &Path,
    name: &str,
) -> Result<Array> {
    let problem = || Error::format(path, format!("array `{name}` is missing; the file holds: {held}"));
    arrays.remove(name).ok_or_else(problem)
}

pub(super) fn names(arrays: &BTreeMap<String, Array>) -> String {
    arrays.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

pub(super) fn shape_error(path: &Path, name: &str, array: &Array, expected: &str) -> Error {
    Error::format(path, format!("array `{name}` has shape {:?}; expected {expected}", array.shape()))
}

fn read_batch(path: &Path, vocab: usize) -> Result<Batch> {
    let mut arrays = read_arrays(path)?;
    let held = names(&arrays);
    let tokens = take(&mut arrays, &held, path, "tokens")?;
    let targets = take(&mut arrays, &held, path, "targets")?;
    let weights = arrays.remove("weights");
    if let Some(extra) = arrays.keys().next() {
        let problem = format!("array `{extra}` is not expected; allowed: tokens, targets, weights");
        return Err(Error::format(path, problem));
    }
    let [b, t] = *tokens.shape() else {
        return Err(shape_error(path, "tokens", &tokens, "(B, T)"));
    };
    if b == 0 || t < 2 {
        return Err(shape_error(path, "tokens", &tokens, "(B, T) with B >= 1 and T >= 2"));
    }
    if targets.shape() != [b, vocab] {
        return Err(shape_error(path, "targets", &targets, &format!("(B, S) = ({b}, {vocab})")));
    }
    let mut batch = Batch::with_capacity(b, t, vocab)?;
    batch.set_seqs(b);
    let (out_tokens, out_targets, out_weights) = batch.parts_mut();
    let integers = tokens.as_integers("tokens").map_err(|e| Error::format(path, e.to_string()))?;
    for (i, (out, token)) in out_tokens.iter_mut().zip(integers).enumerate() {
        let found = usize::try_from(token).ok().filter(|x| *x < vocab);
        let Some(token) = found else {
            let problem =
                format!("tokens[{}, {}] = {token}; allowed: 0 <= token < S = {vocab}", i / t, i % t);
            return Err(Error::format(path, problem));
        };
        *out = u32::try_from(token).unwrap_or(u32::MAX);
    }
    let values = targets.to_f64_vec();
    for (i, row) in values.chunks(vocab).enumerate() {
        if let Some((j, y)) = row.iter().enumerate().find(|(_, y)| !(**y >= 0.0 && y.is_finite())) {
            let problem = format!("targets[{i}, {j}] = {y}; allowed: finite, >= 0");
            return Err(Error::format(path, problem));
        }
        let sum: f64 = row.iter().sum();
        // Rows rounded to f32 elsewhere sum to 1 within S u; nothing honest is further off than this.
        if (sum - 1.0).abs() > 1e-6 * (vocab as f64).max(10.0) {
            return Err(Error::format(path, format!("targets[{i}, :] sums to {sum}; expected 1")));
        }
    }
    out_targets.copy_from_slice(&values);
    match weights {
        None => out_weights.fill(1.0 / b as f64),
        Some(w) if w.shape() == [b] => {
            let values = w.to_f64_vec();
            if let Some((i, w)) = values.iter().enumerate().find(|(_, w)| !(**w >= 0.0 && w.is_finite())) {
                return Err(Error::format(path, format!("weights[{i}] = {w}; allowed: finite, >= 0")));
            }
            out_weights.copy_from_slice(&values);
        }
        Some(w) => return Err(shape_error(path, "weights", &w, &format!("(B,) = ({b},)"))),
    }
    Ok(batch)
}

pub(super) fn read_params<E: Elem>(path: &Path, layout: &Layout) -> Result<Vec<E>> {
    params_of(path, read_arrays(path)?, layout)
}

/// The blocks of `layout`, and no others, out of the arrays of the file at `path`.
fn params_of<E: Elem>(path: &Path, mut arrays: BTreeMap<String, Array>, layout: &Layout) -> Result<Vec<E>> {
    let held = names(&arrays);
    let mut params = vec![E::ZERO; layout.len()];
    for block in layout.blocks() {
        let array = take(&mut arrays, &held, path, block.name())?;
        if array.shape() != block.shape() {
            return Err(shape_error(path, block.name(), &array, &format!("{:?}", block.shape())));
        }
        for (i, (p, x)) in params[block.range()].iter_mut().zip(array.to_f64_vec()).enumerate() {
            *p = E::from_f64(x);
            if !p.is_finite() {
                let problem = format!(
                    "array `{}`, entry {i} (C order) is {x}; allowed: finite {}",
                    block.name(),
                    E::NAME
                );
                return Err(Error::format(path, problem));
            }
        }
    }
    match arrays.keys().next() {
        None => Ok(params),
        Some(extra) => {
            let blocks: Vec<&str> = layout.blocks().iter().map(|b| b.name()).collect();
            let problem = format!("array `{extra}` is no block of this model; blocks: {}", blocks.join(", "));
            Err(Error::format(path, problem))
        }
    }
}

fn write<E: Elem>(path: &Path, model: &dyn Model<E>, batch: &Batch, result: &Evaluated<E>) -> Result<()> {
    let predictions: Vec<f64> = result.predictions.iter().map(|p| p.to_f64()).collect();
    let mut arrays = vec![
        ("loss", Array::new(&[], vec![result.loss])?),
        ("losses", Array::vector(result.losses.clone())),
        ("predictions", Array::new(&[batch.seqs(), batch.vocab()], predictions)?),
    ];
    for block in model.layout().blocks() {
        arrays.push((block.name(), Array::new(block.shape(), result.grad[block.range()].to_vec())?));
    }
    let named: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (*n, a)).collect();
    write_arrays(path, &named, None)
}
