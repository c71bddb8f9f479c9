//! Shared code of the models that consist of attention layers and an output matrix W: sizes, the
//! pass over a batch, and reports.
//!
//! If the targets are laws, the batch goes through in one pass, and the top layer is computed for
//! the last query only. With labels at every position it is computed for all queries. The sequences
//! then go through in groups if the activations of the whole batch would be large, and the
//! gradients of the groups are added.

use super::{Model, Report, Workspace, WorkspaceLen, check_active, check_operands};
use crate::batch::{Batch, Targets};
use crate::num::Sum;
use crate::{Error, Result};
use popgrad_kernels::{Elem, Kernels, Mat, MatMut, Scratch, Write};
use std::ops::Range;

/// Largest size in bytes of the activations of a group of sequences with labels. A group holds at
/// least one sequence.
const GROUP_BYTES: usize = 64 << 20;

/// Sequences that go through the model together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass<'a, E> {
    pub(super) params: &'a [E],
    /// Tokens (n, T), checked.
    pub(super) tokens: &'a [u32],
    /// Their number (n).
    pub(super) n: usize,
    /// Queries of the top layer: T, or 1 for the last one only. All layers below have T.
    pub(super) rows: usize,
}

/// The output of a backward pass.
pub(super) struct Out<'a, E> {
    /// For each block, whether its gradient is requested.
    pub(super) active: &'a [bool],
    /// Whether the gradient is overwritten or added to that of other sequences.
    pub(super) write: Write,
    /// The gradient, in the layout of the parameters.
    pub(super) grad: &'a mut [E],
}

impl<E> Out<'_, E> {
    /// True if the gradient of one of these blocks is requested.
    pub(super) fn any(&self, blocks: Range<usize>) -> bool {
        self.active[blocks].iter().any(|on| *on)
    }
}

/// The attention of one head for n sequences: row r is query r, of T entries, `stride` apart.
pub(super) struct Pattern<'a, E> {
    pub(super) data: &'a [E],
    pub(super) stride: usize,
}

/// The parts of a pass that each model implements. `own` is the model's part of the arena.
pub(super) trait Layered<E: Elem>: Model<E> + Sized {
    fn kernels(&self) -> &Kernels<E>;
    /// Elements of `own` and of kernel scratch for n sequences with `rows` queries in the top
    /// layer.
    fn pass_len(&self, n: usize, rows: usize) -> Option<[usize; 2]>;
    /// Rows of the logits of a pass; rows past n `rows` are padding of the model.
    fn logit_rows(&self, n: usize, rows: usize) -> Option<usize> {
        n.checked_mul(rows)
    }
    /// Logits (n rows, S) from the tokens.
    fn layers_forward(
        &self,
        pass: &Pass<'_, E>,
        own: &mut [E],
        logits: &mut [E],
        kernel: &mut Scratch<E>,
    ) -> Result<()>;
    /// Gradients of the active blocks from that of the logits, 0 in the padding, after the forward
    /// pass.
    fn layers_backward(
        &self,
        pass: &Pass<'_, E>,
        own: &mut [E],
        dlogits: &[E],
        out: &mut Out<'_, E>,
        kernel: &mut Scratch<E>,
    ) -> Result<()>;
    /// Attention of head `h` of layer `l` after a forward pass with `rows` = T.
    fn pattern<'a>(&self, n: usize, own: &'a [E], l: usize, h: usize) -> Pattern<'a, E>;
}

/// Refuses sizes, heads and a scale of the start out of range.
pub(super) fn check_sizes(vocab: usize, seq_len: usize, heads: &[usize], init: f64) -> Result<()> {
    check_lengths(vocab, seq_len)?;
    if heads.is_empty() || heads.len() > 16 || heads.iter().any(|h| *h == 0 || *h > 64) {
        return Err(Error::invalid("heads", format!("{heads:?}"), "1 to 16 layers of 1 to 64 heads"));
    }
    if !(0.0..=1e3).contains(&init) {
        return Err(Error::invalid("init", init.to_string(), "0 <= init <= 1000"));
    }
    Ok(())
}

/// Refuses S or T out of range.
pub(super) fn check_lengths(vocab: usize, seq_len: usize) -> Result<()> {
    for (field, value) in [("S", vocab), ("T", seq_len)] {
        if !(2..=1 << 16).contains(&value) {
            return Err(Error::invalid(field, value.to_string(), format!("2 <= {field} <= 65536")));
        }
    }
    Ok(())
}

/// Splits the next `len` elements off the front.
pub(super) fn next<'a, E>(rest: &mut &'a mut [E], len: usize) -> &'a mut [E] {
    let (piece, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    piece
}

/// Σ w ℓ over the outputs that count, in index order, added to `sum`.
pub(super) fn add_weighted(sum: &mut Sum, losses: &[f64], weights: &[f64]) {
    losses.iter().zip(weights).filter(|(_, w)| **w > 0.0).for_each(|(l, w)| sum.add(l * w));
}

/// The index of the largest entry; the first of equal ones.
pub(super) fn argmax<E: Elem>(row: &[E]) -> u32 {
    let first = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
    (1..row.len()).fold(0, first) as u32
}

/// Predictions (outputs, S) into a report, from output `first` on.
pub(super) fn record<E: Elem>(probs: &[E], vocab: usize, first: usize, report: &mut Report) {
    for (p, out) in probs.chunks_exact(vocab).zip(&mut report.predicted[first..]) {
        *out = argmax(p);
    }
    if !report.probs.is_empty() {
        report.probs[first * vocab..].iter_mut().zip(probs).for_each(|(out, p)| *out = p.to_f64());
    }
}

/// The parts of the arena for a pass: the model's own, logits, predictions.
fn carve<'a, E: Elem, M: Layered<E>>(
    model: &M,
    arena: &'a mut [E],
    n: usize,
    rows: usize,
) -> Result<[&'a mut [E]; 3]> {
    let lens = lens(model, n, rows).filter(|l| l.iter().sum::<usize>() <= arena.len());
    let Some([own, logits, probs]) = lens else {
        let allowed = "a batch that the workspace was made for";
        return Err(Error::invalid("B", format!("{n} sequences"), allowed));
    };
    let mut rest = arena;
    Ok([next(&mut rest, own), next(&mut rest, logits), next(&mut rest, probs)])
}

fn lens<E: Elem, M: Layered<E>>(model: &M, n: usize, rows: usize) -> Option<[usize; 3]> {
    let [own, _] = model.pass_len(n, rows)?;
    let s = model.vocab();
    Some([own, model.logit_rows(n, rows)?.checked_mul(s)?, n.checked_mul(rows)?.checked_mul(s)?])
}

/// Elements of the arena for a pass.
fn arena_len<E: Elem, M: Layered<E>>(model: &M, n: usize, rows: usize) -> Option<usize> {
    let len = lens(model, n, rows)?.into_iter().try_fold(0usize, |a, b| a.checked_add(b))?;
    Some(len).filter(|len| *len <= isize::MAX as usize / 64)
}

/// Number of sequences, at least one, whose pass with all queries fits an arena of this length. The
/// length of the arena is affine in their number.
fn group<E: Elem, M: Layered<E>>(model: &M, arena: usize, seqs: usize) -> Option<usize> {
    let t = model.seq_len();
    let (fixed, one) = (arena_len(model, 0, t)?, arena_len(model, 1, t)?);
    Some((arena.saturating_sub(fixed) / (one - fixed).max(1)).clamp(1, seqs.max(1)))
}

/// Body of [`Model::workspace_len`].
pub(super) fn workspace_len<E: Elem, M: Layered<E>>(
    model: &M,
    targets: Targets,
    seqs: usize,
) -> Option<WorkspaceLen> {
    let t = model.seq_len();
    let single = arena_len(model, 1, t)?;
    let (arena, of_batch) = match targets {
        // Reports may need all queries, of one sequence at a time at least.
        Targets::Law => (arena_len(model, seqs, 1)?.max(single), model.pass_len(seqs, 1)?[1]),
        Targets::Labels => {
            let group = group(model, GROUP_BYTES / size_of::<E>(), seqs)?;
            (arena_len(model, group, t)?.max(single), 0)
        }
    };
    let of_group = model.pass_len(group(model, arena, seqs)?, t)?[1];
    let reals = seqs.checked_mul(targets.outputs(t))?;
    Some(WorkspaceLen { arena, kernel: of_batch.max(of_group), reals, ..WorkspaceLen::default() })
}

/// Losses and predictions of the sequences `seqs` of a batch.
fn cross_entropy<E: Elem>(
    kernels: &Kernels<E>,
    batch: &Batch,
    seqs: Range<usize>,
    logits: &[E],
    (losses, probs): (&mut [f64], &mut [E]),
) -> Result<()> {
    let (s, o) = (batch.vocab(), batch.outputs());
    let m = seqs.len() * o;
    let (logits, probs) = (Mat::new(&logits[..m * s], m, s)?, MatMut::new(probs, m, s)?);
    match batch.kind() {
        Targets::Law => {
            let laws = Mat::new(&batch.laws()[seqs.start * s..seqs.end * s], m, s)?;
            kernels.cross_entropy(logits, laws, losses, probs)?;
        }
        Targets::Labels => {
            let labels = &batch.labels()[seqs.start * o..seqs.end * o];
            kernels.cross_entropy_labels(logits, labels, losses, probs)?;
        }
    }
    Ok(())
}

/// Overwrites the logits with their gradient.
fn cross_entropy_backward<E: Elem>(
    kernels: &Kernels<E>,
    batch: &Batch,
    seqs: Range<usize>,
    probs: &[E],
    logits: &mut [E],
) -> Result<()> {
    let (s, o) = (batch.vocab(), batch.outputs());
    let m = seqs.len() * o;
    let (dlogits, padding) = logits.split_at_mut(m * s);
    padding.fill(E::ZERO);
    let (probs, dlogits) = (Mat::new(probs, m, s)?, MatMut::new(dlogits, m, s)?);
    let weights = &batch.weights()[seqs.start * o..seqs.end * o];
    match batch.kind() {
        Targets::Law => {
            let laws = Mat::new(&batch.laws()[seqs.start * s..seqs.end * s], m, s)?;
            kernels.cross_entropy_backward(probs, laws, weights, dlogits)?;
        }
        Targets::Labels => {
            let labels = &batch.labels()[seqs.start * o..seqs.end * o];
            kernels.cross_entropy_labels_backward(probs, labels, weights, dlogits)?;
        }
    }
    Ok(())
}

/// Number of sequences per pass: the whole batch with laws, a group with labels.
///
/// # Errors
/// More than the workspace was made for.
fn together<E: Elem, M: Layered<E>>(model: &M, batch: &Batch, ws: &Workspace<E>) -> Result<usize> {
    let n = batch.seqs();
    check_capacity(batch, ws)?;
    match batch.kind() {
        Targets::Law => Ok(n.max(1)),
        Targets::Labels => {
            let sizes = || Error::invalid("B", n.to_string(), "a batch whose activations fit memory");
            group(model, ws.arena.len(), n).ok_or_else(sizes)
        }
    }
}

/// Refuses more outputs than the workspace has losses for.
pub(super) fn check_capacity<E>(batch: &Batch, ws: &Workspace<E>) -> Result<()> {
    let capacity = ws.reals.len() / batch.outputs();
    if batch.seqs() > capacity {
        let allowed = format!("at most {capacity} (the workspace)");
        return Err(Error::invalid("B", batch.seqs().to_string(), allowed));
    }
    Ok(())
}

fn pass<'a, E>(params: &'a [E], batch: &'a Batch, seqs: &Range<usize>, rows: usize) -> Pass<'a, E> {
    let t = batch.len_tokens();
    Pass { params, tokens: &batch.tokens()[seqs.start * t..seqs.end * t], n: seqs.len(), rows }
}

/// Body of [`Model::loss_and_grad`].
pub(super) fn loss_and_grad<E: Elem, M: Layered<E>>(
    model: &M,
    params: &[E],
    batch: &Batch,
    active: &[bool],
    ws: &mut Workspace<E>,
    grad: &mut [E],
) -> Result<Sum> {
    check_operands(model, params, batch)?;
    check_active(model, active, &[], grad)?;
    let each = together(model, batch, ws)?;
    let (n, o, k) = (batch.seqs(), batch.outputs(), model.kernels());
    if n == 0 {
        let blocks = model.layout().blocks().iter().zip(active).filter(|(_, on)| **on);
        blocks.for_each(|(b, _)| grad[b.range()].fill(E::ZERO));
    }
    let mut out = Out { active, write: Write::Set, grad };
    let mut sum = Sum::new();
    for first in (0..n).step_by(each) {
        let seqs = first..n.min(first + each);
        let outputs = seqs.start * o..seqs.end * o;
        let pass = pass(params, batch, &seqs, o);
        let [own, logits, probs] = carve(model, ws.arena.as_mut_slice(), pass.n, o)?;
        model.layers_forward(&pass, own, logits, &mut ws.kernel)?;
        let losses = &mut ws.reals[outputs.clone()];
        cross_entropy(k, batch, seqs.clone(), logits, (&mut *losses, &mut *probs))?;
        add_weighted(&mut sum, losses, &batch.weights()[outputs]);
        if out.any(0..active.len()) {
            cross_entropy_backward(k, batch, seqs, probs, logits)?;
            model.layers_backward(&pass, own, logits, &mut out, &mut ws.kernel)?;
            out.write = Write::Add;
        }
    }
    Ok(sum)
}

/// Body of [`Model::report`].
pub(super) fn report<E: Elem, M: Layered<E>>(
    model: &M,
    params: &[E],
    batch: &Batch,
    ws: &mut Workspace<E>,
    report: &mut Report,
) -> Result<()> {
    check_operands(model, params, batch)?;
    report.check(batch, model.heads().iter().sum())?;
    let each = together(model, batch, ws)?;
    let (n, o, t) = (batch.seqs(), batch.outputs(), batch.len_tokens());
    for first in (0..n).step_by(each) {
        let seqs = first..n.min(first + each);
        let pass = pass(params, batch, &seqs, o);
        let [own, logits, probs] = carve(model, ws.arena.as_mut_slice(), pass.n, o)?;
        model.layers_forward(&pass, own, logits, &mut ws.kernel)?;
        let losses = &mut report.losses[seqs.start * o..seqs.end * o];
        cross_entropy(model.kernels(), batch, seqs.clone(), logits, (losses, &mut *probs))?;
        record(probs, batch.vocab(), seqs.start * o, report);
        if batch.kind() == Targets::Labels {
            record_attention(model, seqs, own, n, report);
        }
    }
    if batch.kind() == Targets::Law && !report.attended.is_empty() {
        let sizes = || Error::invalid("B", n.to_string(), "a batch whose activations fit memory");
        let each = group(model, ws.arena.len(), n).ok_or_else(sizes)?;
        for first in (0..n).step_by(each) {
            let seqs = first..n.min(first + each);
            let pass = pass(params, batch, &seqs, t);
            let [own, logits, _] = carve(model, ws.arena.as_mut_slice(), pass.n, t)?;
            model.layers_forward(&pass, own, logits, &mut ws.kernel)?;
            record_attention(model, seqs, own, n, report);
        }
    }
    Ok(())
}

/// Positions attended to most, of the sequences `seqs` of `n`, if the report requests them.
fn record_attention<E: Elem, M: Layered<E>>(
    model: &M,
    seqs: Range<usize>,
    own: &[E],
    n: usize,
    report: &mut Report,
) {
    let t = model.seq_len();
    let maps = model.heads().iter().enumerate().flat_map(|(l, heads)| (0..*heads).map(move |h| (l, h)));
    for ((l, h), out) in maps.zip(report.attended.chunks_exact_mut(n * t)) {
        let pattern = model.pattern(seqs.len(), own, l, h);
        for (r, out) in out[seqs.start * t..seqs.end * t].iter_mut().enumerate() {
            *out = argmax(&pattern.data[r * pattern.stride..][..=r % t]);
        }
    }
}

/// Body of [`Model::attention`].
pub(super) fn attention<E: Elem, M: Layered<E>>(
    model: &M,
    params: &[E],
    tokens: &[u32],
    ws: &mut Workspace<E>,
    out: &mut [f64],
) -> Result<()> {
    check_sequence(model, params, tokens, out)?;
    let t = model.seq_len();
    let pass = Pass { params, tokens, n: 1, rows: t };
    let [own, logits, _] = carve(model, ws.arena.as_mut_slice(), 1, t)?;
    model.layers_forward(&pass, own, logits, &mut ws.kernel)?;
    let maps = model.heads().iter().enumerate().flat_map(|(l, heads)| (0..*heads).map(move |h| (l, h)));
    for ((l, h), out) in maps.zip(out.chunks_exact_mut(t * t)) {
        let pattern = model.pattern(1, own, l, h);
        for (i, out) in out.chunks_exact_mut(t).enumerate() {
            let (seen, hidden) = out.split_at_mut(i + 1);
            let row = &pattern.data[i * pattern.stride..];
            seen.iter_mut().zip(row).for_each(|(out, p)| *out = p.to_f64());
            hidden.fill(0.0);
        }
    }
    Ok(())
}

/// Checks the operands of [`Model::attention`].
pub(super) fn check_sequence<E: Elem>(
    model: &dyn Model<E>,
    params: &[E],
    tokens: &[u32],
    out: &[f64],
) -> Result<()> {
    let (s, t) = (model.vocab(), model.seq_len());
    let maps: usize = model.heads().iter().sum();
    for (field, found, needed) in [
        ("params length", params.len(), model.layout().len()),
        ("T", tokens.len(), t),
        ("attention", out.len(), maps * t * t),
    ] {
        if found != needed {
            return Err(Error::invalid(field, found.to_string(), format!("{needed} for this model")));
        }
    }
    match tokens.iter().find(|x| **x as usize >= s) {
        Some(token) => Err(Error::invalid("tokens", token.to_string(), format!("0 <= symbol < {s}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Disentangled, DisentangledSpec, MlpTransformer, MlpTransformerSpec};

    fn number(i: usize) -> f64 {
        ((i * 2654435761 + 12345) % 1000003) as f64 / 500001.5 - 1.0
    }

    fn labelled(n: usize, t: usize, s: usize) -> Batch {
        let mut batch = Batch::with_capacity(Targets::Labels, n, t, s).unwrap();
        batch.set_seqs(n);
        let parts = batch.parts_mut();
        let symbol = |i: usize| ((number(i) + 1.0) * 500.0) as u32 % s as u32;
        parts.tokens.iter_mut().enumerate().for_each(|(i, x)| *x = symbol(i));
        parts.labels.iter_mut().enumerate().for_each(|(i, x)| *x = symbol(i + 9999));
        parts.weights.iter_mut().enumerate().for_each(|(i, w)| *w = number(i).max(0.0));
        batch
    }

    /// With a workspace for groups of two sequences, seven sequences take four groups.
    fn groups_are_one_batch<M: Layered<f64>>(model: &M) {
        let (n, t, s) = (7, model.seq_len(), model.vocab());
        let batch = labelled(n, t, s);
        let params: Vec<f64> = (0..model.layout().len()).map(|i| 0.5 * number(i + 7)).collect();
        let whole = model.workspace(Targets::Labels, n).unwrap();
        let [_, kernel] = model.pass_len(2, t).unwrap();
        let arena = arena_len(model, 2, t).unwrap();
        let len = WorkspaceLen { arena, kernel, reals: n * t, ..WorkspaceLen::default() };
        let [a, b] = [whole, Workspace::new(&len)].map(|mut ws| {
            let mut grad = vec![f64::NAN; params.len()];
            let loss = model.loss_and_grad(&params, &batch, model.trainable(), &mut ws, &mut grad).unwrap();
            let mut report = Report::new(model, Targets::Labels, n, true, true);
            model.report(&params, &batch, &mut ws, &mut report).unwrap();
            (loss, grad, report)
        });
        assert_eq!(group(model, arena, n), Some(2));
        // Losses keep their bits in any grouping; the gradient is added in another order.
        assert_eq!(a.0, b.0);
        assert!(a.2.losses == b.2.losses && a.2.probs == b.2.probs && a.2.attended == b.2.attended);
        let scale = a.1.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        assert!(scale > 1e-3);
        assert!(a.1.iter().zip(&b.1).all(|(a, b)| (a - b).abs() < 1e-13 * scale));
        // A sequence alone.
        let mut one = Batch::with_capacity(Targets::Labels, 1, t, s).unwrap();
        one.set_seqs(1);
        one.parts_mut().tokens.copy_from_slice(batch.sequence(4));
        one.parts_mut().labels.copy_from_slice(&batch.labels()[4 * t..5 * t]);
        let mut report = Report::new(model, Targets::Labels, 1, false, true);
        let mut ws = model.workspace(Targets::Labels, 1).unwrap();
        model.report(&params, &one, &mut ws, &mut report).unwrap();
        assert_eq!(report.losses, a.2.losses[4 * t..5 * t]);
        assert_eq!(report.probs, a.2.probs[4 * t * s..5 * t * s]);
        // A report of laws may also compute attention in groups.
        let mut laws = Batch::with_capacity(Targets::Law, n, t, s).unwrap();
        laws.set_seqs(n);
        laws.parts_mut().tokens.copy_from_slice(batch.tokens());
        let mut report = Report::new(model, Targets::Law, n, true, false);
        let mut ws = model.workspace(Targets::Law, n).unwrap();
        model.report(&params, &laws, &mut ws, &mut report).unwrap();
        assert_eq!(report.attended, a.2.attended);
    }

    #[test]
    fn groups_of_sequences_are_one_batch() {
        for heads in [&[1, 1][..], &[2], &[1, 2, 1]] {
            groups_are_one_batch(&Disentangled::new(4, 6, &DisentangledSpec::new(heads)).unwrap());
            groups_are_one_batch(&MlpTransformer::new(4, 6, &MlpTransformerSpec::new(heads)).unwrap());
        }
    }
}
