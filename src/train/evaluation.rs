//! A batch of any size, piece by piece.

use crate::batch::{Batch, Targets, divisor};
use crate::model::{Model, Report, Workspace};
use crate::num::Sum;
use crate::{Error, Result, ram};
use popgrad_kernels::Elem;
use rayon::prelude::*;
use std::ops::Range;

/// A model and parameters to evaluate; the sequences are passed separately.
#[derive(Clone, Copy)]
pub struct Evaluation<'a, E> {
    /// The model.
    pub model: &'a dyn Model<E>,
    /// Its parameters, in its layout.
    pub params: &'a [E],
    /// Which blocks get a gradient.
    pub active: &'a [bool],
    /// The kind of targets.
    pub kind: Targets,
    /// Sequences.
    pub seqs: usize,
    /// True if losses and predictions of each output are kept.
    pub keep: bool,
}

/// Weighted means, see [`crate::batch`].
#[derive(Debug)]
pub struct Evaluated {
    /// Σ w ℓ / Σ w.
    pub loss: f64,
    /// (B, O), whatever the weights; empty if not wanted.
    pub losses: Vec<f64>,
    /// (B, O, S); empty if not wanted.
    pub predictions: Vec<f64>,
    /// In the model's layout; zeros in blocks without a requested gradient.
    pub grad: Vec<f64>,
}

/// What [`Evaluation::run_in`] finds beside the gradient; fields as in [`Evaluated`].
#[derive(Debug)]
pub struct Values {
    /// Σ w ℓ / Σ w.
    pub loss: f64,
    /// (B, O), or empty.
    pub losses: Vec<f64>,
    /// (B, O, S), or empty.
    pub predictions: Vec<f64>,
}

/// Working storage of evaluations of one model, which later calls use again: a warm call allocates
/// nothing but what it returns.
#[derive(Debug)]
pub struct Storage<E> {
    slots: Vec<Slot<E>>,
    sums: Vec<Sum>,
    /// The kind of targets and the sequences of a piece that the slots are for.
    sized: Option<(Targets, usize)>,
}

impl<E> Default for Storage<E> {
    fn default() -> Self {
        Storage { slots: Vec::new(), sums: Vec::new(), sized: None }
    }
}

/// A piece in progress, and its sums.
#[derive(Debug)]
struct Slot<E> {
    batch: Batch,
    ws: Workspace<E>,
    grad: Vec<E>,
    report: Option<Report>,
    done: Result<(Sum, f64)>,
}

/// Bytes that the working storage of a piece may take.
const PIECE_BYTES: usize = 1 << 28;

impl<E: Elem> Evaluation<'_, E> {
    /// Loss and gradient, piece by piece, on the threads of the current pool. `fill` writes the
    /// sequences from a number on into a batch that has its size.
    ///
    /// # Errors
    /// Too little memory; what the model refuses.
    pub fn run(&self, fill: &(dyn Fn(usize, &mut Batch) + Sync)) -> Result<Evaluated> {
        let mut grad = vec![0.0; self.params.len()];
        let threads = rayon::current_num_threads();
        let Values { loss, losses, predictions } =
            self.run_in(&mut Storage::default(), threads, fill, &mut grad)?;
        Ok(Evaluated { loss, losses, predictions, grad })
    }

    /// The same with `threads` pieces at a time, in `storage`; overwrites `grad`, in the model's
    /// layout. Enters a pool only for more than one piece at a time, and then the current one. The
    /// result does not depend on `threads`.
    ///
    /// # Errors
    /// As [`run`](Self::run). `grad` then holds anything.
    pub fn run_in<G: Elem>(
        &self,
        storage: &mut Storage<E>,
        threads: usize,
        fill: &(dyn Fn(usize, &mut Batch) + Sync),
        grad: &mut [G],
    ) -> Result<Values> {
        let size = self.piece_size();
        let starts = (0..self.seqs).step_by(size);
        let count = starts.len();
        self.reserve(storage, size, threads.clamp(1, count.max(1)))?;
        let backward = self.active.contains(&true);
        let Storage { slots, sums, .. } = storage;
        let (mut loss, mut weight) = (Sum::new(), Sum::new());
        let (mut losses, mut predictions) = (Vec::new(), Vec::new());
        if count > 1 && backward {
            sums.clear();
            sums.resize(self.params.len(), Sum::new());
        }
        // A bounded number of pieces in flight; folded in order.
        let mut first = 0;
        while first < count {
            let group = &mut slots[..threads.clamp(1, count - first)];
            let rows = |i: usize| (first + i) * size..self.seqs.min((first + i + 1) * size);
            match &mut *group {
                [slot] => self.piece(&rows(0), fill, slot),
                group => {
                    group.par_iter_mut().enumerate().for_each(|(i, slot)| self.piece(&rows(i), fill, slot))
                }
            }
            for slot in group.iter_mut() {
                let (piece, of) = std::mem::replace(&mut slot.done, Ok((Sum::new(), 0.0)))?;
                loss.merge(piece);
                weight.add(of);
                if count > 1 && backward {
                    sums.iter_mut().zip(&slot.grad).for_each(|(sum, g)| sum.add(g.to_f64()));
                }
                if let Some(report) = slot.report.as_ref().filter(|_| self.keep) {
                    losses.extend_from_slice(&report.losses);
                    predictions.extend_from_slice(&report.probs);
                }
            }
            first += group.len();
        }
        let by = divisor(weight.value());
        match &slots[..] {
            _ if !backward || count == 0 => grad.fill(G::ZERO),
            // The sum of one piece: a zero of either sign is 0.
            [slot, ..] if count == 1 => {
                let all = grad.iter_mut().zip(&slot.grad);
                all.for_each(|(to, g)| *to = G::from_f64((0.0 + g.to_f64()) / by));
            }
            _ => grad.iter_mut().zip(sums.iter()).for_each(|(to, s)| *to = G::from_f64(s.value() / by)),
        }
        Ok(Values { loss: loss.value() / by, losses, predictions })
    }

    /// Pieces that the sequences are cut into.
    pub fn pieces(&self) -> usize {
        self.seqs.div_ceil(self.piece_size())
    }

    /// Makes slots for `threads` pieces of up to `size` sequences, where `storage` lacks them.
    fn reserve(&self, storage: &mut Storage<E>, size: usize, threads: usize) -> Result<()> {
        let (model, size) = (self.model, size.min(self.seqs));
        let large = |(kind, n): (Targets, usize)| kind == self.kind && n >= size;
        let kept = storage.sized.filter(|s| large(*s));
        if kept.is_some() && storage.slots.len() >= threads {
            return Ok(());
        }
        let size = kept.map_or(size, |(_, n)| n);
        self.check_memory(size, threads)?;
        if kept.is_none() {
            storage.slots.clear();
            storage.sized = None;
        }
        while storage.slots.len() < threads {
            storage.slots.push(Slot {
                batch: Batch::with_capacity(self.kind, size, model.seq_len(), model.vocab())?,
                ws: model.workspace(self.kind, size)?,
                grad: vec![E::ZERO; self.params.len()],
                report: None,
                done: Ok((Sum::new(), 0.0)),
            });
        }
        storage.sized = Some((self.kind, size));
        Ok(())
    }

    /// Evaluates the sequences `rows`; the loss, or what was refused, is left in `slot.done`.
    fn piece(&self, rows: &Range<usize>, fill: &(dyn Fn(usize, &mut Batch) + Sync), slot: &mut Slot<E>) {
        slot.done = self.sums(rows, fill, slot);
    }

    fn sums(
        &self,
        rows: &Range<usize>,
        fill: &(dyn Fn(usize, &mut Batch) + Sync),
        slot: &mut Slot<E>,
    ) -> Result<(Sum, f64)> {
        let (model, n) = (self.model, rows.len());
        let Slot { batch, ws, grad, report, .. } = slot;
        batch.set_seqs(n);
        fill(rows.start, batch);
        let backward = self.active.contains(&true);
        // Blocks that an earlier call asked for, and this one does not.
        for (block, _) in model.layout().blocks().iter().zip(self.active).filter(|(_, on)| backward && !**on)
        {
            grad[block.range()].fill(E::ZERO);
        }
        let mut loss = model.loss_and_grad(self.params, batch, self.active, ws, grad)?;
        let all_finite = |loss: &Sum, grad: &[E]| {
            loss.value().is_finite() && (!backward || grad.iter().all(|g| g.is_finite()))
        };
        // What overflows in sequences that do not count must not reach the gradient.
        if !all_finite(&loss, grad)
            && let Some(counting) = counting(batch)?
        {
            loss = model.loss_and_grad(self.params, &counting, self.active, ws, grad)?;
        }
        if self.keep {
            let fits = |r: &Report| r.losses.len() == n * batch.outputs() && !r.probs.is_empty();
            let mut wanted = match report.take().filter(fits) {
                Some(wanted) => wanted,
                None => Report::new(model, self.kind, n, false, true),
            };
            model.report(self.params, batch, ws, &mut wanted)?;
            *report = Some(wanted);
        }
        Ok((loss, batch.total_weight()))
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
    fn check_memory(&self, size: usize, threads: usize) -> Result<()> {
        let (model, size) = (self.model, size.min(self.seqs));
        let outputs = self.kind.outputs(model.seq_len());
        let needed = || {
            let row = outputs.checked_mul(model.vocab().checked_add(4)?)?.checked_mul(8)?;
            let work = model.workspace_len(self.kind, size)?.bytes::<E>()?;
            let grad = self.params.len().checked_mul(size_of::<E>())?;
            let piece = work.checked_add(grad)?.checked_add(row.checked_mul(2 * size)?)?;
            let flying = threads.min(self.seqs.div_ceil(size.max(1)));
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
