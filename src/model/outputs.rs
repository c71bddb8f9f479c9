//! The outputs of one sequence: which of them count, and their losses. For models that process a
//! batch one sequence at a time.

use super::Model;
use crate::batch::{Batch, Targets};
use crate::{Error, Result};
use popgrad_kernels::{Elem, Kernels, Mat, MatMut};

/// The targets of one sequence.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scored<'a> {
    /// The law of the symbol after the last position (S).
    Law(&'a [f64]),
    /// A label at every position (T).
    Labels(&'a [u32]),
}

/// Labels that are listed at a time, on the stack.
const CHUNK: usize = 64;

impl<'a> Scored<'a> {
    /// The targets of sequence `b` of `batch`.
    pub(crate) fn of(batch: &'a Batch, b: usize) -> Self {
        let t = batch.len_tokens();
        match batch.kind() {
            Targets::Law => Scored::Law(batch.law(b)),
            Targets::Labels => Scored::Labels(&batch.labels()[b * t..(b + 1) * t]),
        }
    }

    /// Losses and p̂ (n, S) at the `positions` (n) from their logits (n, S). A law has one
    /// position, the last.
    pub(crate) fn losses<E: Elem>(
        self,
        kernels: &Kernels<E>,
        positions: &[usize],
        logits: Mat<'_, E>,
        losses: &mut [f64],
        mut probs: MatMut<'_, E>,
    ) -> Result<()> {
        let s = logits.cols();
        let labels = match self {
            Scored::Law(law) => {
                return Ok(kernels.cross_entropy(logits, Mat::new(law, 1, s)?, &mut losses[..1], probs)?);
            }
            Scored::Labels(labels) => labels,
        };
        for (c, positions) in positions.chunks(CHUNK).enumerate() {
            let (first, n, own) = (c * CHUNK, positions.len(), listed(labels, positions));
            let (now, rest) = probs.split_rows(n);
            probs = rest;
            let (logits, losses) = (logits.sub(first, n, 0, s), &mut losses[first..first + n]);
            kernels.cross_entropy_labels(logits, &own[..n], losses, now)?;
        }
        Ok(())
    }

    /// The gradient of Σ w ℓ in the logits (n, S), from p̂ (n, S) and the weights (n).
    pub(crate) fn losses_backward<E: Elem>(
        self,
        kernels: &Kernels<E>,
        positions: &[usize],
        weights: &[f64],
        probs: Mat<'_, E>,
        mut dlogits: MatMut<'_, E>,
    ) -> Result<()> {
        let s = probs.cols();
        let labels = match self {
            Scored::Law(law) => {
                let law = Mat::new(law, 1, s)?;
                return Ok(kernels.cross_entropy_backward(probs, law, &weights[..1], dlogits)?);
            }
            Scored::Labels(labels) => labels,
        };
        for (c, positions) in positions.chunks(CHUNK).enumerate() {
            let (first, n, own) = (c * CHUNK, positions.len(), listed(labels, positions));
            let (now, rest) = dlogits.split_rows(n);
            dlogits = rest;
            let (probs, weights) = (probs.sub(first, n, 0, s), &weights[first..first + n]);
            kernels.cross_entropy_labels_backward(probs, &own[..n], weights, now)?;
        }
        Ok(())
    }
}

/// The labels at up to [`CHUNK`] positions.
fn listed(labels: &[u32], positions: &[usize]) -> [u32; CHUNK] {
    let mut own = [0; CHUNK];
    own.iter_mut().zip(positions).for_each(|(to, i)| *to = labels[*i]);
    own
}

/// Positions and weights of the outputs of sequence `b` that count, those of weight > 0; returns
/// how many there are.
pub(crate) fn counted(batch: &Batch, b: usize, positions: &mut [usize], weights: &mut [f64]) -> usize {
    let outputs = batch.outputs();
    // The only output of a law is at the last position.
    let first = batch.len_tokens() - outputs;
    let all = batch.weights()[b * outputs..(b + 1) * outputs].iter().enumerate();
    let mut n = 0;
    for (o, w) in all.filter(|(_, w)| **w > 0.0) {
        (positions[n], weights[n]) = (first + o, *w);
        n += 1;
    }
    n
}

/// The index of the largest entry; the first of equal ones.
pub(crate) fn argmax<E: Elem>(x: &[E]) -> u32 {
    let mut best = 0;
    for (i, y) in x.iter().enumerate() {
        if *y > x[best] {
            best = i;
        }
    }
    best as u32
}

/// Checks the operands of [`Model::attention`].
pub(crate) fn check_attention<E: Elem>(
    model: &dyn Model<E>,
    params: &[E],
    tokens: &[u32],
    out: &[f64],
) -> Result<()> {
    let (t, s, maps) = (model.seq_len(), model.vocab(), model.heads().iter().sum::<usize>());
    for (field, found, needed) in [
        ("T", tokens.len(), t),
        ("params length", params.len(), model.layout().len()),
        ("attention", out.len(), maps * t * t),
    ] {
        if found != needed {
            return Err(Error::invalid(field, found.to_string(), format!("{needed} for this model")));
        }
    }
    match tokens.iter().find(|z| **z as usize >= s) {
        Some(z) => Err(Error::invalid("tokens", z.to_string(), format!("0 <= symbol < {s}"))),
        None => Ok(()),
    }
}
