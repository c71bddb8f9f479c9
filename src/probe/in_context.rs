//! Accuracy, loss and attention of a model on sequences with in-context triggers: the metrics of
//! the public code of Bietti et al. 2023, under its names.
//!
//! | symbol | meaning |
//! |---|---|
//! | outs_t | `seen` of the batch: occurrences so far of the trigger z_t, itself included; 0 of any other symbol |
//! | a₁(t), a₂(t) | position that the first, the second layer attends to most from t |
//! | y_t | label, z_{t+1} |

use crate::batch::{Batch, Targets};
use crate::model::Report;
use crate::num::Sum;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Number of first positions that `acc_start` covers.
const START: usize = 10;

/// A share: a count out of a total.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Share {
    hits: u64,
    of: u64,
}

impl Share {
    fn count(&mut self, hit: bool) {
        self.hits += u64::from(hit);
        self.of += 1;
    }

    fn merge(&mut self, other: Share) {
        self.hits += other.hits;
        self.of += other.of;
    }

    fn value(self) -> Option<f64> {
        (self.of > 0).then(|| self.hits as f64 / self.of as f64)
    }
}

/// A mean: Σ w x and Σ w.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: Sum,
    weight: Sum,
}

impl Mean {
    fn add(&mut self, x: f64, w: f64) {
        // An output that does not count may have an infinite loss.
        if w == 0.0 {
            return;
        }
        self.sum.add(x * w);
        self.weight.add(w);
    }

    fn merge(&mut self, other: Mean) {
        self.sum.merge(other.sum);
        self.weight.merge(other.weight);
    }

    fn value(&self) -> Option<f64> {
        let weight = self.weight.value();
        (weight > 0.0).then(|| self.sum.value() / weight)
    }
}

/// Metrics of one batch or test set. A metric is `None` if no position qualifies or the model lacks
/// the layer. Losses are in nats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Σ w ℓ / Σ w.
    pub loss: Option<f64>,
    /// Mean loss where outs = 0, which the weights can predict.
    pub loss_bigram: Option<f64>,
    /// Mean loss where outs >= 2, which the context determines.
    pub loss_head: Option<f64>,
    /// Accuracy where outs >= 1.
    pub acc_tot: Option<f64>,
    /// The same within the first ten positions.
    pub acc_start: Option<f64>,
    /// Accuracy where outs >= 2.
    pub acc_end: Option<f64>,
    /// Share of the positions t with outs >= 1 and a successor for which a₁(t+1) = t.
    pub score_acc: Option<f64>,
    /// The same where outs = 1.
    pub score_start_acc: Option<f64>,
    /// Where outs >= 2: a₂(t) comes right after an earlier z_t.
    pub score2_acc: Option<f64>,
    /// Where outs >= 2: the token at a₂(t) is the prediction.
    pub pred_attended_acc: Option<f64>,
    /// Where outs >= 2: a₁(a₂(t)) = a₂(t) − 1.
    pub score_cond_acc: Option<f64>,
    /// Share of outs >= 1 with z_t = y_t.
    pub repeat_frac: Option<f64>,
}

/// Counts and sums behind [`Metrics`]. All metrics but `loss` count positions without weights: on a
/// population, only `loss` is a mean under the probabilities. Tallies of parts of a batch are added
/// in order, so the number of threads does not matter.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    loss: Mean,
    bigram: Mean,
    head: Mean,
    total: Share,
    start: Share,
    end: Share,
    first: Share,
    first_start: Share,
    second: Share,
    attended: Share,
    conditional: Share,
    repeats: Share,
}

impl Tally {
    /// Adds the sequences of `batch`, which must have labels and a `seen` column. `report` holds
    /// losses and predictions, and optionally attention; `heads` is the number of heads of each
    /// layer. The attention metrics of a layer with several heads are not counted.
    ///
    /// # Errors
    /// A batch without labels or without a `seen` column; a report of the wrong size.
    pub fn add(&mut self, batch: &Batch, report: &Report, heads: &[usize]) -> Result<()> {
        let (t, n) = (batch.len_tokens(), batch.seqs() * batch.len_tokens());
        if batch.kind() != Targets::Labels {
            return Err(Error::invalid("targets", "laws", "a label at every position"));
        }
        let Some(all_seen) = batch.seen() else {
            let allowed = "a source that fills in how often each trigger has been seen";
            return Err(Error::invalid("batch", "no `seen` column", allowed));
        };
        let sizes = [report.losses.len(), report.predicted.len()];
        let (attended, maps) = (report.attended.len(), heads.iter().sum::<usize>());
        if sizes != [n, n] || (attended != 0 && attended != maps * n) {
            let found = format!("{} losses, {} predictions, {attended} positions", sizes[0], sizes[1]);
            return Err(Error::invalid("report", found, format!("those of {n} positions")));
        }
        // The attention map of layer l, if requested and the layer has one head.
        let layer = |l: usize| {
            let before: usize = heads.iter().take(l).sum();
            let one = attended > 0 && heads.get(l) == Some(&1);
            one.then(|| &report.attended[before * n..(before + 1) * n])
        };
        let (first, second) = (layer(0), layer(1));
        for s in 0..batch.seqs() {
            let row = s * t..(s + 1) * t;
            let (tokens, labels) = (&batch.tokens()[row.clone()], &batch.labels()[row.clone()]);
            let (weights, seen) = (&batch.weights()[row.clone()], &all_seen[row.clone()]);
            let (losses, predicted) = (&report.losses[row.clone()], &report.predicted[row.clone()]);
            let [a1, a2] = [first, second].map(|a| a.map(|a| &a[row.clone()]));
            for i in 0..t {
                self.loss.add(losses[i], weights[i]);
                let right = predicted[i] == labels[i];
                if seen[i] == 0 {
                    self.bigram.add(losses[i], 1.0);
                    continue;
                }
                self.total.count(right);
                self.repeats.count(tokens[i] == labels[i]);
                if i < START {
                    self.start.count(right);
                }
                if let Some(to) = a1.and_then(|a| a.get(i + 1)) {
                    let before = *to as usize == i;
                    self.first.count(before);
                    if seen[i] == 1 {
                        self.first_start.count(before);
                    }
                }
                if seen[i] < 2 {
                    continue;
                }
                self.head.add(losses[i], 1.0);
                self.end.count(right);
                if let Some(to) = a2.map(|a| a[i] as usize) {
                    self.second.count(to > 0 && tokens[to - 1] == tokens[i]);
                    self.attended.count(tokens[to] == predicted[i]);
                    if let Some(a1) = a1 {
                        self.conditional.count(to > 0 && a1[to] as usize == to - 1);
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds the tally of another part.
    pub fn merge(&mut self, other: &Tally) {
        self.loss.merge(other.loss);
        self.bigram.merge(other.bigram);
        self.head.merge(other.head);
        let own = [
            &mut self.total,
            &mut self.start,
            &mut self.end,
            &mut self.first,
            &mut self.first_start,
            &mut self.second,
            &mut self.attended,
            &mut self.conditional,
            &mut self.repeats,
        ];
        let more = [
            other.total,
            other.start,
            other.end,
            other.first,
            other.first_start,
            other.second,
            other.attended,
            other.conditional,
            other.repeats,
        ];
        own.into_iter().zip(more).for_each(|(a, b)| a.merge(b));
    }

    /// The metrics of everything added so far.
    pub fn metrics(&self) -> Metrics {
        Metrics {
            loss: self.loss.value(),
            loss_bigram: self.bigram.value(),
            loss_head: self.head.value(),
            acc_tot: self.total.value(),
            acc_start: self.start.value(),
            acc_end: self.end.value(),
            score_acc: self.first.value(),
            score_start_acc: self.first_start.value(),
            score2_acc: self.second.value(),
            pred_attended_acc: self.attended.value(),
            score_cond_acc: self.conditional.value(),
            repeat_frac: self.repeats.value(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sequences of `len` tokens each.
    fn batch(len: usize, tokens: &[u32], labels: &[u32], weights: &[f64], seen: &[u32]) -> Batch {
        let mut b = Batch::with_capacity(Targets::Labels, tokens.len() / len, len, 4).unwrap().with_seen();
        b.set_seqs(tokens.len() / len);
        let parts = b.parts_mut();
        parts.tokens.copy_from_slice(tokens);
        parts.labels.copy_from_slice(labels);
        parts.weights.copy_from_slice(weights);
        parts.seen.copy_from_slice(seen);
        b
    }

    /// Trigger 1 with output 2, twice in the first sequence, thrice in the second.
    fn example() -> (Batch, Report) {
        let b = batch(
            5,
            &[1, 2, 0, 1, 2, 1, 1, 1, 3, 0],
            &[2, 0, 1, 2, 3, 1, 1, 3, 0, 0],
            &[0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0],
            &[1, 0, 0, 2, 0, 1, 2, 3, 0, 0],
        );
        let report = Report {
            losses: vec![1.0, 2.0, 4.0, 8.0, 16.0, 0.5, 0.25, 3.0, 5.0, 7.0],
            predicted: vec![2, 0, 0, 2, 0, 0, 1, 1, 0, 1],
            attended: vec![
                0, 0, 1, 2, 2, 0, 0, 1, 2, 3, // layer 1
                0, 0, 0, 1, 0, 0, 0, 2, 0, 0, // layer 2
            ],
            probs: Vec::new(),
        };
        (b, report)
    }

    #[test]
    fn every_key_by_hand() {
        let (b, report) = example();
        let mut tally = Tally::default();
        tally.add(&b, &report, &[1, 1]).unwrap();
        let m = tally.metrics();
        assert_eq!(m.loss, Some((2.0 * 8.0 + 0.25 + 3.0) / 4.0));
        assert_eq!(m.loss_bigram, Some((2.0 + 4.0 + 16.0 + 5.0 + 7.0) / 5.0));
        assert_eq!(m.loss_head, Some((8.0 + 0.25 + 3.0) / 3.0));
        // outs >= 1 at 0, 3 | 0, 1, 2: right, right | wrong, right, wrong.
        assert_eq!((m.acc_tot, m.acc_start), (Some(3.0 / 5.0), Some(3.0 / 5.0)));
        assert_eq!(m.acc_end, Some(2.0 / 3.0));
        // Successors 1, 4 | 1, 2, 3 look at 0, 2 | 0, 1, 2; wanted 0, 3 | 0, 1, 2.
        assert_eq!(m.score_acc, Some(4.0 / 5.0));
        assert_eq!(m.score_start_acc, Some(1.0));
        // a2 = 1 | 0, 2: after a 1 | the first position | after a 1.
        assert_eq!(m.score2_acc, Some(2.0 / 3.0));
        // z there 2 | 1, 1; predicted 2 | 1, 1.
        assert_eq!(m.pred_attended_acc, Some(1.0));
        // a1(1) = 0 | no position before 0 | a1(2) = 1.
        assert_eq!(m.score_cond_acc, Some(2.0 / 3.0));
        // z = y at neither | the first two of three.
        assert_eq!(m.repeat_frac, Some(2.0 / 5.0));
    }

    #[test]
    fn the_first_ten_positions_and_the_last_one() {
        let n = 12;
        let mut seen = vec![0; n];
        (seen[9], seen[10], seen[11]) = (1, 2, 3);
        let b = batch(n, &[1; 12], &[1; 12], &[0.0; 12], &seen);
        let mut predicted = vec![0; n];
        predicted[9] = 1;
        let report = Report { losses: vec![1.0; n], predicted, attended: vec![10; n], probs: Vec::new() };
        let mut tally = Tally::default();
        tally.add(&b, &report, &[1]).unwrap();
        let m = tally.metrics();
        assert_eq!((m.acc_start, m.acc_tot, m.acc_end), (Some(1.0), Some(1.0 / 3.0), Some(0.0)));
        // The last position has no successor; that of 10 looks at 10.
        assert_eq!((m.score_acc, m.score_start_acc), (Some(0.5), Some(0.0)));
        assert_eq!((m.score2_acc, m.pred_attended_acc, m.score_cond_acc), (None, None, None));
        assert_eq!(m.loss, None, "no weight");
    }

    #[test]
    fn parts_add_up_and_sizes_are_checked() {
        let (b, report) = example();
        let mut whole = Tally::default();
        whole.add(&b, &report, &[1, 1]).unwrap();
        let mut parts = Tally::default();
        for s in 0..2 {
            let r = s * 5..(s + 1) * 5;
            let one = batch(
                5,
                &b.tokens()[r.clone()],
                &b.labels()[r.clone()],
                &b.weights()[r.clone()],
                &b.seen().unwrap()[r.clone()],
            );
            let attended =
                [&report.attended[r.clone()], &report.attended[10 + s * 5..10 + (s + 1) * 5]].concat();
            let report = Report {
                losses: report.losses[r.clone()].to_vec(),
                predicted: report.predicted[r].to_vec(),
                attended,
                probs: Vec::new(),
            };
            let mut part = Tally::default();
            part.add(&one, &report, &[1, 1]).unwrap();
            parts.merge(&part);
        }
        assert_eq!(parts.metrics(), whole.metrics());
        // Several heads: no one position.
        // An infinite loss of no weight is no part of the mean; of some weight, it is the mean.
        let mut bad = report.clone();
        bad.losses[1] = f64::INFINITY;
        let mut tally = Tally::default();
        tally.add(&b, &bad, &[1, 1]).unwrap();
        assert_eq!(tally.metrics().loss, whole.metrics().loss);
        bad.losses[3] = f64::INFINITY;
        let mut tally = Tally::default();
        tally.add(&b, &bad, &[1, 1]).unwrap();
        assert_eq!(tally.metrics().loss, Some(f64::INFINITY));
        let mut several = Tally::default();
        let wide =
            Report { attended: [&report.attended[..], &report.attended[..]].concat(), ..report.clone() };
        several.add(&b, &wide, &[2, 2]).unwrap();
        assert_eq!((several.metrics().score_acc, several.metrics().acc_end), (None, Some(2.0 / 3.0)));
        assert!(several.add(&b, &report, &[2, 2]).is_err());
        // Two heads below, one above: only the upper layer is looked at.
        let (mut mixed, [lower, upper]) = (Tally::default(), [0..10, 10..20]);
        let maps = [lower.clone(), lower, upper].map(|of| &report.attended[of]).concat();
        mixed.add(&b, &Report { attended: maps, ..report.clone() }, &[2, 1]).unwrap();
        let (found, expected) = (mixed.metrics(), whole.metrics());
        assert_eq!((found.score_acc, found.score_cond_acc), (None, None));
        assert_eq!(found.score2_acc, expected.score2_acc);
        assert_eq!(found.pred_attended_acc, expected.pred_attended_acc);
        // Nobody has counted triggers, or there is nothing to predict inside.
        let mut bare = Batch::with_capacity(Targets::Labels, 2, 5, 4).unwrap();
        bare.set_seqs(2);
        let e = mixed.add(&bare, &report, &[1, 1]).unwrap_err().to_string();
        assert!(e.contains("no `seen` column"), "{e}");
        let laws = Batch::with_capacity(Targets::Law, 2, 5, 4).unwrap();
        assert!(mixed.add(&laws, &report, &[1, 1]).unwrap_err().to_string().starts_with("targets: laws"));
        let short = Report { losses: vec![0.0; 9], ..report };
        assert!(several.add(&b, &short, &[1, 1]).unwrap_err().to_string().starts_with("report: 9 losses"));
    }
}
