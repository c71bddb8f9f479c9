//! A batch of any size, piece by piece.

use crate::batch::{Batch, Targets, divisor};
use crate::model::{Model, Report};
use crate::num::Sum;
use crate::{Error, Result, ram};
use popgrad_kernels::Elem;
use rayon::prelude::*;
use std::ops::Range;

/// A model and parameters to evaluate; the sequences are passed separately.
pub(in crate::cli) struct Evaluation<'a, E> {
    pub(in crate::cli) model: &'a dyn Model<E>,
    pub(in crate::cli) params: &'a [E],
    /// Which blocks get a gradient.
    pub(in crate::cli) active: &'a [bool],
    pub(in crate::cli) kind: Targets,
    /// Sequences.
    pub(in crate::cli) seqs: usize,
    /// True if losses and predictions of each output are kept.
    pub(in crate::cli) keep: bool,
}

/// Weighted means, see [`crate::batch`].
pub(in crate::cli) struct Evaluated {
    pub(in crate::cli) loss: f64,
    /// (B, O), whatever the weights; empty if not wanted.
    pub(in crate::cli) losses: Vec<f64>,
    /// (B, O, S); empty if not wanted.
    pub(in crate::cli) predictions: Vec<f64>,
    /// In the model's layout; zeros in blocks without a requested gradient.
    pub(in crate::cli) grad: Vec<f64>,
}

/// Sums over one piece.
struct Piece<E> {
    loss: Sum,
    weight: f64,
    grad: Vec<E>,
    report: Option<Report>,
}

/// Bytes that the working storage of a piece may take.
const PIECE_BYTES: usize = 1 << 28;

impl<E: Elem> Evaluation<'_, E> {
    /// Loss and gradient, piece by piece. `fill` writes the sequences from a number on into a batch
    /// that has its size.
    ///
    /// # Errors
    /// Too little memory; what the model refuses.
    pub(in crate::cli) fn run(&self, fill: &(dyn Fn(usize, &mut Batch) + Sync)) -> Result<Evaluated> {
        let size = self.piece_size();
        self.check_memory(size)?;
        let starts = (0..self.seqs).step_by(size);
        let pieces: Vec<Range<usize>> = starts.map(|i| i..self.seqs.min(i + size)).collect();
        let (mut loss, mut weight) = (Sum::new(), Sum::new());
        let mut grad = vec![Sum::new(); self.params.len()];
        let (mut losses, mut predictions) = (Vec::new(), Vec::new());
        // A bounded number of pieces in flight; folded in order.
        for group in pieces.chunks(rayon::current_num_threads()) {
            let done: Vec<_> = group.par_iter().map(|rows| self.piece(rows, fill)).collect();
            for piece in done {
                let piece = piece?;
                loss.merge(piece.loss);
                weight.add(piece.weight);
                grad.iter_mut().zip(piece.grad).for_each(|(sum, g)| sum.add(g.to_f64()));
                if let Some(report) = piece.report {
                    losses.extend(report.losses);
                    predictions.extend(report.probs);
                }
            }
        }
        let by = divisor(weight.value());
        let grad = grad.iter().map(|g| g.value() / by).collect();
        Ok(Evaluated { loss: loss.value() / by, losses, predictions, grad })
    }

    fn piece(&self, rows: &Range<usize>, fill: &(dyn Fn(usize, &mut Batch) + Sync)) -> Result<Piece<E>> {
        let (model, n) = (self.model, rows.len());
        let mut batch = Batch::with_capacity(self.kind, n, model.seq_len(), model.vocab())?;
        batch.set_seqs(n);
        fill(rows.start, &mut batch);
        let mut ws = model.workspace(self.kind, n)?;
        let mut grad = vec![E::ZERO; self.params.len()];
        let mut loss = model.loss_and_grad(self.params, &batch, self.active, &mut ws, &mut grad)?;
        let all_finite =
            |loss: &Sum, grad: &[E]| loss.value().is_finite() && grad.iter().all(|g| g.is_finite());
        // What overflows in sequences that do not count must not reach the gradient.
        if !all_finite(&loss, &grad)
            && let Some(counting) = counting(&batch)?
        {
            loss = model.loss_and_grad(self.params, &counting, self.active, &mut ws, &mut grad)?;
        }
        let mut report = None;
        if self.keep {
            let mut wanted = Report::new(model, self.kind, n, false, true);
            model.report(self.params, &batch, &mut ws, &mut wanted)?;
            report = Some(wanted);
        }
        Ok(Piece { loss, weight: batch.total_weight(), grad, report })
    }

    /// Sequences per piece. It fixes the order of sums, so it depends on the model and the kind of
    /// targets alone.
    fn piece_size(&self) -> usize {
        let bytes = |n: usize| self.model.workspace_len(self.kind, n)?.bytes::<f64>();
        let mut size = match self.kind {
            Targets::Law => 256,
            Targets::Labels => 32,
        };
        while size > 1 && bytes(size).is_none_or(|b| b > PIECE_BYTES) {
            size /= 2;
        }
        size
    }

    /// Checks that memory can hold the pieces in progress, the results and the batch.
    fn check_memory(&self, size: usize) -> Result<()> {
        let (model, size) = (self.model, size.min(self.seqs));
        let outputs = self.kind.outputs(model.seq_len());
        let needed = || {
            let row = outputs.checked_mul(model.vocab().checked_add(4)?)?.checked_mul(8)?;
            let work = model.workspace_len(self.kind, size)?.bytes::<E>()?;
            let grad = self.params.len().checked_mul(size_of::<E>())?;
            let piece = work.checked_add(grad)?.checked_add(row.checked_mul(2 * size)?)?;
            let flying = rayon::current_num_threads().min(self.seqs.div_ceil(size.max(1)));
            // The results once more as arrays, beside the batch.
            let kept = if self.keep { row.checked_mul(3)?.checked_mul(self.seqs)? } else { 0 };
            let sums = self.params.len().checked_mul(32)?;
            piece.checked_mul(flying)?.checked_add(kept)?.checked_add(sums)
        };
        let free = ram::free().unwrap_or(usize::MAX);
        match needed() {
            Some(bytes) if bytes <= free => Ok(()),
            bytes => {
                let found =
                    bytes.map_or("more than can be addressed".into(), |b| format!("about {} MiB", b >> 20));
                let allowed = format!("{} MiB free", free >> 20);
                Err(Error::invalid("memory (B, S, T, d, heads, threads)", found, allowed))
            }
        }
    }
}

/// The sequences of `batch` with an output that counts, each position after its last such output
/// holding the token of that: no earlier position sees it. `None` if there is nothing to leave out.
fn counting(batch: &Batch) -> Result<Option<Batch>> {
    let (t, s, o) = (batch.len_tokens(), batch.vocab(), batch.outputs());
    let last = |b: usize| batch.weights()[b * o..(b + 1) * o].iter().rposition(|w| *w > 0.0);
    let rows: Vec<(usize, usize)> = (0..batch.seqs()).filter_map(|b| Some((b, last(b)? + t - o))).collect();
    if rows.len() == batch.seqs() && rows.iter().all(|(_, last)| last + 1 == t) {
        return Ok(None);
    }
    let mut out = Batch::with_capacity(batch.kind(), rows.len(), t, s)?;
    out.set_seqs(rows.len());
    let parts = out.parts_mut();
    for (to, (from, last)) in rows.into_iter().enumerate() {
        let tokens = &mut parts.tokens[to * t..(to + 1) * t];
        tokens.copy_from_slice(batch.sequence(from));
        let token = tokens[last];
        tokens[last + 1..].fill(token);
        match batch.kind() {
            Targets::Law => parts.laws[to * s..(to + 1) * s].copy_from_slice(batch.law(from)),
            Targets::Labels => {
                parts.labels[to * t..(to + 1) * t].copy_from_slice(&batch.labels()[from * t..(from + 1) * t]);
            }
        }
        parts.weights[to * o..(to + 1) * o].copy_from_slice(&batch.weights()[from * o..(from + 1) * o]);
    }
    Ok(Some(out))
}
