//! What each part of a trained model contributes: the loss on the run's own test set with one part
//! at a time replaced.
//!
//! A part is an attention head or a feed-forward part, whose **activation** is replaced
//! ([`trace`]), or a block of **parameters**. What takes its place:
//!
//! | [`Replacement`] | of a head, a feed-forward part | of a block of parameters |
//! |---|---|---|
//! | `Zero` | zeros | zeros |
//! | `Mean` | its mean over the test set's sequences, position by position | (has no mean) |
//! | `Run` | the other run's activation on the same sequence | the other run's block |
//!
//! The mean weights each sequence by 1, and by its probability where the test set is a population
//! (one whose outputs all count nothing by 0). The other run computes its activation from its own
//! embeddings on: what is moved is all that this part of it says about the sequence.
//!
//! [`trace`]: crate::model::trace

use super::{Setup, Trained, folder};
use crate::batch::{Batch, Targets, divisor};
use crate::model::trace::{Kind, Patch, Trace, With};
use crate::num::Sum;
use crate::probe::in_context::Tally;
use crate::train;
use crate::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;

/// What takes the place of a part.
#[derive(Debug, Clone, Copy)]
pub enum Replacement<'a> {
    /// Zeros.
    Zero,
    /// The mean over the test set.
    Mean,
    /// The same part of another run of the same model.
    Run(&'a [f64]),
}

/// The kind of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// An attention head.
    Head,
    /// A feed-forward part.
    Mlp,
    /// A block of parameters.
    Block,
}

/// What is measured, in nats and shares; what the task does not have is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scores {
    /// Test loss; infinite where something that occurs gets no probability.
    pub loss: f64,
    /// Test loss less that of the Bayes predictor on the same sequences.
    pub excess: Option<f64>,
    /// Accuracy where the context determines what follows: a trigger's second occurrence and later
    /// ones.
    pub acc_end: Option<f64>,
    /// Mean loss there.
    pub loss_head: Option<f64>,
    /// Mean loss where the bigrams determine what follows.
    pub loss_bigram: Option<f64>,
}

/// One part replaced.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The activation's stable name, or the block's.
    pub name: String,
    /// Its kind.
    pub part: Part,
    /// What is measured without it.
    pub scores: Scores,
    /// Loss less that of the whole model; `None` where both are infinite.
    pub change: Option<f64>,
}

/// The whole model, and each part replaced, in the model's order: activations, then blocks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ablation {
    /// Sequences of the test set.
    pub sequences: usize,
    /// True if it is a population, whose sequences have probabilities.
    pub population: bool,
    /// The whole model.
    pub whole: Scores,
    /// One part replaced each.
    pub rows: Vec<Row>,
}

/// Sequences that go through the model on one thread, at the least. Sums are folded chunk by
/// chunk, so results do not depend on the number of threads.
const CHUNK: usize = 16;
/// Most chunks.
const CHUNKS: usize = 512;

/// Replaces every part of `trained` in turn, on the first test set of `setup`, or on the population
/// where the run trains on that; on `sequences` of it, from the first, or on all.
///
/// # Errors
/// More sequences than the test set has; no position that counts; parameters of another model;
/// errors of the source.
pub fn ablate(
    trained: &Trained,
    setup: &mut dyn Setup,
    sequences: Option<usize>,
    with: Replacement<'_>,
) -> Result<Ablation> {
    let (batches, population) = test_set(trained, setup, sequences)?;
    setup.prepare(&batches.iter().collect::<Vec<_>>())?;
    let bayes = setup.bayes();
    let (trace, params) = (&trained.trace, &trained.params[..]);
    let layout = trace.model().layout();
    let measure = |params: &[f64], patches: &[Patch<'_>]| scores(trace, params, &batches, patches, bayes);
    let whole = measure(params, &[])?;
    let parts = || trace.points().iter().enumerate().filter(|(_, p)| p.is_component());
    let means = match with {
        Replacement::Mean => {
            let wanted: Vec<usize> = parts().map(|(at, _)| at).collect();
            means(trace, params, &batches, population, &wanted)?
        }
        Replacement::Run(other) if other.len() != layout.len() => {
            let allowed = format!("{} for this model", layout.len());
            return Err(Error::invalid("with", format!("{} parameters", other.len()), allowed));
        }
        Replacement::Zero | Replacement::Run(_) => Vec::new(),
    };
    let row = |name: &str, part, scores: Scores| {
        let change = Some(scores.loss - whole.loss).filter(|c| !c.is_nan());
        Row { name: name.into(), part, scores, change }
    };
    let mut rows = Vec::new();
    for (i, (point, of)) in parts().enumerate() {
        let with = match with {
            Replacement::Zero => With::Zero,
            Replacement::Mean => With::Value(&means[i]),
            Replacement::Run(other) => With::Params(other),
        };
        let part = if of.kind == Kind::Mlp { Part::Mlp } else { Part::Head };
        rows.push(row(&of.name, part, measure(params, &[Patch { point, with }])?));
    }
    for block in layout.blocks() {
        let mut edited = params.to_vec();
        match with {
            Replacement::Zero => edited[block.range()].fill(0.0),
            Replacement::Run(other) => edited[block.range()].copy_from_slice(&other[block.range()]),
            Replacement::Mean => break,
        }
        rows.push(row(block.name(), Part::Block, measure(&edited, &[])?));
    }
    Ok(Ablation { sequences: batches.iter().map(Batch::seqs).sum(), population, whole, rows })
}

/// The test set in chunks; true if it is a population, whose sequences have probabilities.
fn test_set(trained: &Trained, setup: &dyn Setup, sequences: Option<usize>) -> Result<(Vec<Batch>, bool)> {
    let source = setup.test()?;
    let all = source.population().unwrap_or(trained.config.plan.test_size);
    let n = sequences.unwrap_or(all);
    if n == 0 || n > all {
        let allowed = format!("1 to {all}, the test set of this run");
        return Err(Error::invalid("sequences", n.to_string(), allowed));
    }
    if source.population().is_some() && n < all {
        let allowed = format!("{all}: the run's test set is its population, which has to be whole");
        return Err(Error::invalid("sequences", n.to_string(), allowed));
    }
    let bytes = train::batch_bytes(source.targets(), n, source.seq_len(), source.vocab());
    folder::check_memory("memory (sequences)", bytes)?;
    let each = CHUNK.max(n.div_ceil(CHUNKS));
    let starts: Vec<usize> = (0..n).step_by(each).collect();
    let fill = |start: usize| {
        let count = each.min(n - start);
        let mut batch = source.batch(count)?;
        source.fill(start as u64, count, &mut source.work(), &mut batch);
        Ok(batch)
    };
    let batches = starts.into_par_iter().map(fill).collect::<Result<Vec<Batch>>>()?;
    Ok((batches, source.population().is_some()))
}

/// Sums of one chunk.
#[derive(Default)]
struct Sums {
    loss: Sum,
    weight: Sum,
    tally: Option<Tally>,
}

fn scores(
    trace: &Trace,
    params: &[f64],
    batches: &[Batch],
    patches: &[Patch<'_>],
    bayes: Option<f64>,
) -> Result<Scores> {
    let of = |batch: &Batch| -> Result<Sums> {
        let mut report = trace.new_report(batch.kind(), batch.seqs(), false);
        trace.report(params, batch, patches, &mut report)?;
        let mut sums = Sums::default();
        // An output that does not count may have an infinite loss.
        for (l, w) in report.losses.iter().zip(batch.weights()).filter(|(_, w)| **w > 0.0) {
            sums.loss.add(l * w);
            sums.weight.add(*w);
        }
        if batch.kind() == Targets::Labels && batch.seen().is_some() {
            let mut tally = Tally::default();
            tally.add(batch, &report, trace.model().heads())?;
            sums.tally = Some(tally);
        }
        Ok(sums)
    };
    let chunks: Vec<Sums> = batches.par_iter().map(of).collect::<Result<_>>()?;
    let mut all = Sums::default();
    for chunk in chunks {
        all.loss.merge(chunk.loss);
        all.weight.merge(chunk.weight);
        if let Some(tally) = chunk.tally {
            all.tally.get_or_insert_default().merge(&tally);
        }
    }
    let weight = all.weight.value();
    if weight <= 0.0 {
        let allowed = "at least one position that counts: use more sequences";
        return Err(Error::invalid("sequences", "no position of the test set counts", allowed));
    }
    let loss = all.loss.value() / divisor(weight);
    let metrics = all.tally.map(|t| t.metrics());
    Ok(Scores {
        loss,
        excess: bayes.map(|b| loss - b),
        acc_end: metrics.and_then(|m| m.acc_end),
        loss_head: metrics.and_then(|m| m.loss_head),
        loss_bigram: metrics.and_then(|m| m.loss_bigram),
    })
}

/// The mean of the activations `wanted` over the sequences.
fn means(
    trace: &Trace,
    params: &[f64],
    batches: &[Batch],
    population: bool,
    wanted: &[usize],
) -> Result<Vec<Vec<f64>>> {
    let zeros =
        || -> Vec<Vec<f64>> { wanted.iter().map(|at| vec![0.0; trace.points()[*at].len()]).collect() };
    let of = |batch: &Batch| -> Result<(Vec<Vec<f64>>, f64)> {
        let (mut sums, mut weight) = (zeros(), 0.0);
        for b in 0..batch.seqs() {
            let weights = &batch.weights()[b * batch.outputs()..(b + 1) * batch.outputs()];
            // Outputs that count share their sequence's probability.
            let w = if population { weights.iter().copied().fold(0.0, f64::max) } else { 1.0 };
            if w == 0.0 {
                continue;
            }
            weight += w;
            trace.forward(params, batch.sequence(b), &mut |at, x| {
                if let Some(i) = wanted.iter().position(|p| *p == at) {
                    sums[i].iter_mut().zip(&*x).for_each(|(s, x)| *s += w * x);
                }
            })?;
        }
        Ok((sums, weight))
    };
    let chunks: Vec<_> = batches.par_iter().map(of).collect::<Result<_>>()?;
    let (mut all, mut total) = (zeros(), 0.0);
    for (sums, weight) in chunks {
        total += weight;
        let each = all.iter_mut().zip(&sums);
        each.for_each(|(all, sums)| all.iter_mut().zip(sums).for_each(|(a, s)| *a += s));
    }
    all.iter_mut().flatten().for_each(|x| *x /= total);
    Ok(all)
}
