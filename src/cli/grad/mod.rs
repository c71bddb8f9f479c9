//! `popgrad grad`: loss, predictions and gradients of a model at parameters and tokens from files.

mod files;

pub(super) use files::{Params, block_arrays, held_names, missing, not_an_input, shape_error, take};

use super::output::check_arrays;
use super::table::number;
use super::{ModelAt, show};
use crate::batch::{Batch, Targets};
use crate::config::{self, Dtype};
use crate::model::{Model, named_blocks};
use crate::report::arrays::{Array, write_arrays};
use crate::train::{Evaluated, Evaluation};
use crate::{Error, Result};
use clap::Args;
use popgrad_kernels::Elem;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Arguments of `popgrad grad`.
#[derive(Debug, Args)]
pub(super) struct GradArgs {
    /// Keys of the model, as in a run (heads=2,1; layers=3 block=standard; eps, which is 0 if not
    /// given), and frozen: blocks without a gradient. T comes from the tokens, S and dim from the
    /// parameters; if they are given too, they must agree.
    #[arg(value_name = "KEY=VALUE")]
    keys: Vec<String>,
    #[command(flatten)]
    at: ModelAt,
    /// Arrays `tokens` (B,T), `targets` (B,S), optionally `weights` (B); or `tokens`, `labels`
    /// (B,T), optionally `mask` (B,T).
    #[arg(long, value_name = "FILE")]
    batch: PathBuf,
    /// Output file for loss, losses, predictions and gradients, .npz or .safetensors.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Arithmetic: f32 or f64.
    #[arg(long, default_value = "f64")]
    dtype: String,
    #[command(flatten)]
    threads: super::Threads,
}

pub(super) const AFTER_HELP: &str = "\
Output: `loss` (), `losses` (B) or (B,T), `predictions` (B,S) or (B,T,S), and one array per parameter block, +dL/dblock of \
L = sum w losses / sum w, w being `weights` or `mask` (1 if not given). Buffers (pe; memory: wv and wo of layer 0, wv of \
layer 1) and what frozen= names have no gradient. Every model but simplified takes labels. See docs/src/reference/arrays.md.

Examples:
  popgrad sample chain 4 S=3 T=8 --names tokens,targets --out b.npz
  popgrad grad --model disentangled heads=1,1 S=3 --params p.npz --batch b.npz --out g.npz";

pub(super) fn grad(args: GradArgs) -> Result<()> {
    // Refused before any work: an output format that cannot be written.
    check_arrays("out", &args.out)?;
    for (name, input) in [("params", &args.at.params), ("batch", &args.batch)] {
        not_an_input(&args.out, name, input)?;
    }
    match Dtype::named(&args.dtype)? {
        Dtype::F32 => typed::<f32>(&args),
        Dtype::F64 => typed::<f64>(&args),
    }
}

fn typed<E: Elem>(args: &GradArgs) -> Result<()> {
    let mut keys = config::model_keys(&args.at.model)?;
    keys.extend(config::keys(&["S", "frozen"]));
    let table = config::parse_keys(&args.keys, &keys)?;
    let file = Params::read(&args.at.params)?;
    let (spec, vocab) = file.describe(&args.at.model, &table)?;
    let (batch, padding) = files::read_batch(&args.batch, vocab)?;
    let model = spec.build::<E>(vocab, batch.len_tokens())?;
    let model = model.as_ref();
    model.accepts(batch.kind())?;
    let frozen = table.get("frozen").and_then(|v| v.as_str()).unwrap_or_default();
    let active = active(model, frozen)?;
    let params = file.into_blocks::<E>(model.layout())?;
    let evaluation = Evaluation {
        model,
        params: &params,
        active: &active,
        kind: batch.kind(),
        seqs: batch.seqs(),
        keep: true,
    };
    let copy = |first: usize, piece: &mut Batch| copy_rows(&batch, first, piece);
    let result = args.threads.pool()?.install(|| evaluation.run(&copy))?;
    // Losses of outputs that do not count may be anything.
    let counted = result.losses.iter().zip(batch.weights()).filter(|(_, w)| **w > 0.0);
    if !result.loss.is_finite()
        || result.grad.iter().any(|g| !g.is_finite())
        || counted.into_iter().any(|(l, _)| !l.is_finite())
    {
        let found = format!("loss {} or a gradient that is not finite", result.loss);
        let field = format!("params, {}", files::weights_name(batch.kind()));
        return Err(Error::invalid(field, found, "values at which everything stays finite"));
    }
    let outputs = batch.outputs();
    let loss = result.loss;
    write(&args.out, &evaluation, without(result, &padding, outputs))?;
    let found = Written { loss, sequences: batch.seqs(), out: args.out.display().to_string() };
    show(&found, || format!("loss: {}\nout: {}\n", number(loss), found.out))
}

/// What is printed; the rest is in the file.
#[derive(Serialize)]
struct Written {
    loss: f64,
    sequences: usize,
    out: String,
}

/// The same with NaN for what was computed from replaced padding; `outputs` of each sequence.
fn without(mut result: Evaluated, padding: &files::Padding, outputs: usize) -> Evaluated {
    let width = result.predictions.len() / result.losses.len().max(1);
    for row in &padding.rows {
        let of = row * outputs..(row + 1) * outputs;
        result.losses[of.clone()].fill(f64::NAN);
        result.predictions[of.start * width..of.end * width].fill(f64::NAN);
    }
    padding.answers.iter().for_each(|i| result.losses[*i] = f64::NAN);
    result
}

/// The blocks with a gradient: all but buffers and those that `frozen` names.
pub(super) fn active<E: Elem>(model: &dyn Model<E>, frozen: &str) -> Result<Vec<bool>> {
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

/// Fills `piece` with the sequences of `batch` from number `first` on.
fn copy_rows(batch: &Batch, first: usize, piece: &mut Batch) {
    let rows = first..first + piece.seqs();
    let of = |width: usize| rows.start * width..rows.end * width;
    let (t, s, outputs) = (batch.len_tokens(), batch.vocab(), batch.outputs());
    let parts = piece.parts_mut();
    parts.tokens.copy_from_slice(&batch.tokens()[of(t)]);
    match batch.kind() {
        Targets::Law => parts.laws.copy_from_slice(&batch.laws()[of(s)]),
        Targets::Labels => parts.labels.copy_from_slice(&batch.labels()[of(t)]),
    }
    parts.weights.copy_from_slice(&batch.weights()[of(outputs)]);
}

fn write<E: Elem>(path: &Path, of: &Evaluation<'_, E>, result: Evaluated) -> Result<()> {
    let (layout, b) = (of.model.layout(), of.seqs);
    let outputs = match of.kind {
        Targets::Law => vec![b],
        Targets::Labels => vec![b, of.model.seq_len()],
    };
    let predictions = [&outputs[..], &[of.model.vocab()]].concat();
    let mut arrays = vec![
        ("loss", Array::new(&[], vec![result.loss])?),
        ("losses", Array::new(&outputs, result.losses)?),
        ("predictions", Array::new(&predictions, result.predictions)?),
    ];
    arrays.extend(block_arrays(layout, of.active, &result.grad)?);
    let named: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (*n, a)).collect();
    write_arrays(path, &named, None)
}
