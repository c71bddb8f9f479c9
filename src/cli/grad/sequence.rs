//! `popgrad grad` for models with a label at every position.

use super::{GradArgs, names, params_of, shape_error, take};
use crate::batch::LabelledBatch;
use crate::config::{self, Key, Kind, key};
use crate::model::memory::Memory;
use crate::model::sequence::{
    BlockKind, FeedForward, MemorySpec, Output, Positions, Report, TransformerSpec, named_blocks,
};
use crate::model::{SequenceModel, Transformer};
use crate::num::Sum;
use crate::report::arrays::{Array, read_arrays, write_arrays};
use crate::{Error, Result};
use popgrad_kernels::Elem;
use rayon::prelude::*;
use std::ops::Range;
use std::path::Path;

/// Names of the models, as in a run's configuration.
pub(super) const MODELS: [&str; 2] = ["memory", "transformer"];

const FLAG: [(&str, bool); 2] = [("true", true), ("false", false)];
const FF: [(&str, FeedForward); 3] =
    [("none", FeedForward::None), ("linear", FeedForward::Linear), ("relu", FeedForward::Relu)];
const OUTPUT: [(&str, Output); 4] = [
    ("free", Output::Free),
    ("frozen", Output::Frozen),
    ("tied", Output::Tied),
    ("tied_frozen", Output::TiedFrozen),
];
const BLOCK: [(&str, BlockKind); 3] =
    [("public", BlockKind::Public), ("standard", BlockKind::Standard), ("postnorm", BlockKind::PostNorm)];

/// Keys of `memory` first, of both, then of `transformer`.
const KEYS: [Key; 11] = [
    key("ff1", Kind::Text, "feed-forward of layer 1: none, linear or relu [none]"),
    key("ff2", Kind::Text, "feed-forward of layer 2: none, linear or relu [none]"),
    key("scale_scores", Kind::Text, "are scores divided by sqrt(d)? true or false [true]"),
    key("dim", Kind::Count, "width d: that of tok_embeddings.weight"),
    key("positions", Kind::Text, "memory: random, sincos or rotary; transformer: learned or sincos"),
    key("output", Kind::Text, "free, frozen, tied or tied_frozen [free]"),
    key(
        "frozen",
        Kind::Text,
        "blocks without a gradient, comma-separated, named as in a run: names, their beginnings, or short names",
    ),
    key("layers", Kind::Count, "layers, >= 1 [2]"),
    key("heads", Kind::Count, "heads of each layer, a divisor of d [4]"),
    key("block", Kind::Text, "public, standard or postnorm [public]"),
    key("norm", Kind::Text, "are there layer norms? true or false [true]"),
];
/// `transformer` alone has it; its name is another in `memory`.
const FF_KEY: Key = key("ff", Kind::Text, "feed-forward of each layer: none, linear or relu [relu]");

/// The word that `name` is, or the one it is if not given.
fn word<T: Copy>(
    table: &toml::Table,
    name: &'static str,
    default: &str,
    known: &[(&'static str, T)],
) -> Result<T> {
    let found = table.get(name).and_then(|v| v.as_str()).unwrap_or(default);
    match known.iter().find(|(word, _)| *word == found) {
        Some((_, value)) => Ok(*value),
        None => Err(Error::unknown(name, found, known.iter().map(|(word, _)| *word))),
    }
}

fn count(table: &toml::Table, name: &str) -> Result<Option<usize>> {
    let Some(value) = table.get(name) else { return Ok(None) };
    let count = value.as_integer().and_then(|i| usize::try_from(i).ok());
    count.map(Some).ok_or_else(|| Error::invalid(name, value.to_string(), "a number >= 0"))
}

/// The model that the command line and the arrays' sizes describe.
fn build<E: Elem>(
    model: &str,
    table: &toml::Table,
    [vocab, seq_len, dim]: [usize; 3],
) -> Result<Box<dyn SequenceModel<E>>> {
    if let Some(given) = count(table, "dim")?.filter(|given| *given != dim) {
        let allowed = format!("{dim}, the width of tok_embeddings.weight");
        return Err(Error::invalid("dim", given.to_string(), allowed));
    }
    let output = word(table, "output", "free", &OUTPUT)?;
    if model == "memory" {
        let positions =
            [("random", Positions::Random), ("sincos", Positions::SinCos), ("rotary", Positions::Rotary)];
        let spec = MemorySpec {
            vocab,
            seq_len,
            dim,
            ff: [word(table, "ff1", "none", &FF)?, word(table, "ff2", "none", &FF)?],
            positions: word(table, "positions", "random", &positions)?,
            output,
            scale_scores: word(table, "scale_scores", "true", &FLAG)?,
            scale_embeddings: false,
            frozen: Vec::new(),
        };
        return Ok(Box::new(Memory::<E>::new(&spec)?));
    }
    let positions = [("learned", Positions::Learned), ("sincos", Positions::SinCos)];
    let spec = TransformerSpec {
        vocab,
        seq_len,
        dim,
        layers: count(table, "layers")?.unwrap_or(2),
        heads: count(table, "heads")?.unwrap_or(4),
        block: word(table, "block", "public", &BLOCK)?,
        norm: word(table, "norm", "true", &FLAG)?,
        ff: word(table, "ff", "relu", &FF)?,
        positions: word(table, "positions", "learned", &positions)?,
        output,
        frozen: Vec::new(),
    };
    Ok(Box::new(Transformer::<E>::new(&spec)?))
}

/// Which blocks get a gradient: all but buffers and those that `frozen` names.
fn active<E: Elem>(model: &dyn SequenceModel<E>, frozen: &str) -> Result<Vec<bool>> {
    let blocks = model.layout().blocks();
    // A frozen output is a choice of training; its gradient exists.
    let mut active: Vec<bool> =
        blocks.iter().zip(model.trainable()).map(|(b, on)| *on || b.name() == "output.weight").collect();
    for name in frozen.split(',').map(str::trim).filter(|n| !n.is_empty()) {
        named_blocks("frozen", name, model.layout())?.into_iter().for_each(|b| active[b] = false);
    }
    if active.contains(&true) {
        return Ok(active);
    }
    Err(Error::invalid("frozen", "every block", "at least one block that gets a gradient"))
}

pub(super) fn typed<E: Elem>(args: &GradArgs) -> Result<()> {
    let mut keys = if args.model == "memory" { KEYS[..7].to_vec() } else { KEYS[3..].to_vec() };
    if args.model == "transformer" {
        keys.push(FF_KEY);
    }
    let table = config::parse_keys(&args.sizes, &keys)?;
    let arrays = read_arrays(&args.params)?;
    let embeddings = arrays.get("tok_embeddings.weight");
    let Some(embeddings) = embeddings else {
        let problem = format!("array `tok_embeddings.weight` is missing; the file holds: {}", names(&arrays));
        return Err(Error::format(&args.params, problem));
    };
    let [vocab, dim] = *embeddings.shape() else {
        return Err(shape_error(&args.params, "tok_embeddings.weight", embeddings, "(N, d)"));
    };
    let batch = read_batch(&args.batch, vocab)?;
    let model = build::<E>(&args.model, &table, [vocab, batch.len_tokens(), dim])?;
    let frozen = table.get("frozen").and_then(|v| v.as_str()).unwrap_or_default();
    let active = active(model.as_ref(), frozen)?;
    let params = params_of::<E>(&args.params, arrays, model.layout())?;
    let result = super::pool(args.threads)?.install(|| evaluate(model.as_ref(), &params, &batch, &active))?;
    if !result.loss.is_finite() || result.grad.iter().any(|g| !g.is_finite()) {
        let found = format!("loss {} or a gradient that is not finite", result.loss);
        return Err(Error::invalid("params", found, "values at which everything stays finite"));
    }
    write(&args.out, model.as_ref(), &batch, &active, result)
}

struct Evaluated {
    loss: f64,
    losses: Vec<f64>,
    predictions: Vec<f64>,
    /// Zeros where no gradient is wanted.
    grad: Vec<f64>,
}

/// Sequences per piece: it fixes the order of sums, so it never depends on the threads.
const PIECE: usize = 32;

struct Piece<E> {
    loss: Sum,
    grad: Vec<E>,
    report: Report,
}

/// Refuses what memory cannot hold: pieces in flight, the results, the batch itself.
fn check_memory<E: Elem>(model: &dyn SequenceModel<E>, seqs: usize) -> Result<()> {
    let piece = model.workspace_len(PIECE.min(seqs)).and_then(|m| m.bytes::<E>());
    let rows = seqs.checked_mul(model.seq_len());
    let bytes = piece.zip(rows).and_then(|(piece, rows)| {
        let grad = model.layout().len().checked_mul(size_of::<E>())?;
        let flying = piece.checked_add(grad)?.checked_mul(rayon::current_num_threads())?;
        let kept = rows.checked_mul(model.vocab().checked_add(4)?)?.checked_mul(16)?;
        flying.checked_add(kept)?.checked_add(model.layout().len().checked_mul(32)?)
    });
    let free = crate::paper::folder::available_memory().unwrap_or(usize::MAX);
    if bytes.is_some_and(|b| b <= free) {
        return Ok(());
    }
    let found = bytes.map_or("more than can be addressed".into(), |b| format!("about {} MiB", b >> 20));
    Err(Error::invalid("memory (B, N, T, d, threads)", found, format!("{} MiB free", free >> 20)))
}

fn evaluate<E: Elem>(
    model: &dyn SequenceModel<E>,
    params: &[E],
    batch: &LabelledBatch,
    active: &[bool],
) -> Result<Evaluated> {
    let (t, vocab, seqs) = (model.seq_len(), model.vocab(), batch.seqs());
    check_memory(model, seqs)?;
    let run = |rows: &Range<usize>| -> Result<Piece<E>> {
        let mut piece = LabelledBatch::with_capacity(rows.len(), t, vocab)?;
        piece.set_seqs(rows.len());
        let (parts, of) = (piece.parts_mut(), rows.start * t..rows.end * t);
        parts.tokens.copy_from_slice(&batch.tokens()[of.clone()]);
        parts.labels.copy_from_slice(&batch.labels()[of.clone()]);
        parts.weights.copy_from_slice(&batch.weights()[of]);
        let mut ws = model.workspace(rows.len())?;
        let mut grad = vec![E::ZERO; params.len()];
        let loss = model.loss_and_grad(params, &piece, active, &mut ws, &mut grad)?;
        let mut report = Report::new(model, rows.len(), false, true);
        model.report(params, &piece, &mut ws, &mut report)?;
        Ok(Piece { loss, grad, report })
    };
    let pieces: Vec<Range<usize>> =
        (0..seqs).step_by(PIECE).map(|start| start..seqs.min(start + PIECE)).collect();
    let (mut loss, mut grad) = (Sum::new(), vec![Sum::new(); params.len()]);
    let (mut losses, mut predictions) = (Vec::new(), Vec::new());
    // A bounded number of pieces in flight; folded in order.
    for group in pieces.chunks(rayon::current_num_threads()) {
        let done: Vec<_> = group.par_iter().map(run).collect();
        for piece in done {
            let piece = piece?;
            loss.merge(piece.loss);
            grad.iter_mut().zip(piece.grad).for_each(|(sum, g)| sum.add(g.to_f64()));
            losses.extend(piece.report.losses);
            predictions.extend(piece.report.probs);
        }
    }
    let weight = batch.total_weight();
    let grad = grad.iter().map(|g| g.value() / weight).collect();
    Ok(Evaluated { loss: loss.value() / weight, losses, predictions, grad })
}

/// (B, T) symbols below N.
fn symbols(path: &Path, name: &str, array: &Array, vocab: usize, out: &mut [u32]) -> Result<()> {
    let t = array.shape()[1];
    let integers = array.as_integers(name).map_err(|e| Error::format(path, e.to_string()))?;
    for (i, (out, found)) in out.iter_mut().zip(integers).enumerate() {
        match u32::try_from(found) {
            Ok(symbol) if (symbol as usize) < vocab => *out = symbol,
            _ => {
                let at = format!("{name}[{}, {}] = {found}", i / t, i % t);
                return Err(Error::format(path, format!("{at}; allowed: 0 <= symbol < N = {vocab}")));
            }
        }
    }
    Ok(())
}

fn read_batch(path: &Path, vocab: usize) -> Result<LabelledBatch> {
    let mut arrays = read_arrays(path)?;
    let held = names(&arrays);
    let tokens = take(&mut arrays, &held, path, "tokens")?;
    let labels = take(&mut arrays, &held, path, "labels")?;
    let mask = arrays.remove("mask");
    if let Some(extra) = arrays.keys().next() {
        let problem = format!("array `{extra}` is not expected; allowed: tokens, labels, mask");
        return Err(Error::format(path, problem));
    }
    let [b, t] = *tokens.shape() else {
        return Err(shape_error(path, "tokens", &tokens, "(B, T)"));
    };
    if b == 0 || t < 2 {
        return Err(shape_error(path, "tokens", &tokens, "(B, T) with B >= 1 and T >= 2"));
    }
    let same = format!("that of tokens, ({b}, {t})");
    for (name, array) in [("labels", Some(&labels)), ("mask", mask.as_ref())] {
        if let Some(array) = array.filter(|a| a.shape() != [b, t]) {
            return Err(shape_error(path, name, array, &same));
        }
    }
    let mut batch = LabelledBatch::with_capacity(b, t, vocab)?;
    batch.set_seqs(b);
    let parts = batch.parts_mut();
    symbols(path, "tokens", &tokens, vocab, parts.tokens)?;
    symbols(path, "labels", &labels, vocab, parts.labels)?;
    match mask {
        None => parts.weights.fill(1.0),
        Some(mask) => parts.weights.copy_from_slice(&mask.to_f64_vec()),
    }
    if let Some((i, w)) = parts.weights.iter().enumerate().find(|(_, w)| !(**w >= 0.0 && w.is_finite())) {
        let problem = format!("mask[{}, {}] = {w}; allowed: finite, >= 0", i / t, i % t);
        return Err(Error::format(path, problem));
    }
    let total = batch.total_weight();
    if total > 0.0 && total.is_finite() {
        return Ok(batch);
    }
    let problem =
        format!("mask sums to {total}; expected a finite sum > 0: at least one position that counts");
    Err(Error::format(path, problem))
}

fn write<E: Elem>(
    path: &Path,
    model: &dyn SequenceModel<E>,
    batch: &LabelledBatch,
    active: &[bool],
    result: Evaluated,
) -> Result<()> {
    let (b, t) = (batch.seqs(), batch.len_tokens());
    let mut arrays = vec![
        ("loss", Array::new(&[], vec![result.loss])?),
        ("losses", Array::new(&[b, t], result.losses)?),
        ("predictions", Array::new(&[b, t, batch.vocab()], result.predictions)?),
    ];
    for (block, _) in model.layout().blocks().iter().zip(active).filter(|(_, on)| **on) {
        arrays.push((block.name(), Array::new(block.shape(), result.grad[block.range()].to_vec())?));
    }
    let named: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (*n, a)).collect();
    write_arrays(path, &named, None)
}
