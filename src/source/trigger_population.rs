//! Every sequence of a small trigger-bigram task with its probability, as a source.

use super::population::SUM_TOLERANCE;
use super::{LossOn, Source, SourceWork};
use crate::batch::{Batch, Parts, Targets};
use crate::num::{Sum, check_total};
use crate::task::TriggerBigram;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// All sequences of a small trigger-bigram task, each with its probability. Sequence n is entry n
/// modulo the number of entries. An entry is a set of triggers and T + 1 tokens that can occur
/// under it.
///
/// Triggers are part of an entry because they decide which positions count. Outputs are not: they
/// are summed over. The same tokens under different sets of triggers are separate entries.
#[derive(Debug, Clone)]
pub struct TriggerPopulation {
    len: usize,
    vocab: usize,
    loss: LossOn,
    /// True where a symbol is a trigger (sets, N).
    sets: Vec<bool>,
    /// For each entry, the number of its set; its tokens (T + 1) and its probability follow below.
    set_of: Vec<u32>,
    words: Vec<u32>,
    probabilities: Vec<f64>,
}

impl TriggerPopulation {
    /// Largest number of tokens, entries times T + 1: 2^24, which is 64 MiB.
    pub const MAX_TOKENS: usize = 1 << 24;

    /// Enumerates the sequences of `task`; `loss` decides which positions have a weight > 0.
    ///
    /// # Errors
    /// More tokens than [`MAX_TOKENS`](Self::MAX_TOKENS); probabilities that do not sum to 1.
    pub fn new(task: &TriggerBigram, loss: LossOn) -> Result<Self> {
        let (n, t) = (task.vocab(), task.seq_len());
        let most = Self::MAX_TOKENS / (t + 1);
        let refused = || {
            let (words, sets) = ((n as f64).powf(t as f64 + 1.0), subsets(n, task));
            let found = format!("up to {:.3e} words of {} tokens with their triggers", words * sets, t + 1);
            Error::invalid("N, T, K", found, format!("at most {most} that can occur"))
        };
        // Every set has at least a word for each first symbol.
        let possible = task.laws().unigram().iter().filter(|u| **u > 0.0).count();
        if subsets(possible, task) * possible as f64 > most as f64 {
            return Err(refused());
        }
        let sets = trigger_sets(task, most).ok_or_else(refused)?;
        let mut walk = Walk {
            task,
            most,
            outputs: (0..n).flat_map(|q| output_law(task, q)).collect(),
            trigger: vec![false; n],
            output: vec![None; n],
            path: Vec::with_capacity(t + 1),
            steps: Vec::with_capacity(t + 1),
            words: Vec::new(),
            probabilities: Vec::new(),
        };
        let (mut flags, mut set_of) = (Vec::new(), Vec::new());
        for (i, (set, p)) in sets.iter().enumerate() {
            walk.trigger.fill(false);
            set.iter().for_each(|q| walk.trigger[*q] = true);
            flags.extend_from_slice(&walk.trigger);
            for z in 0..n {
                walk.from(z, *p, task.laws().unigram()[z]).ok_or_else(refused)?;
            }
            set_of.resize(walk.probabilities.len(), i as u32);
        }
        let Walk { words, probabilities, .. } = walk;
        let all = TriggerPopulation { len: t, vocab: n, loss, sets: flags, set_of, words, probabilities };
        // The laws of a corpus sum to 1 within 1e-9 each; a word has T + 1 of them.
        check_total(all.weight(), SUM_TOLERANCE * (t + 2) as f64)?;
        Ok(all)
    }

    /// Probability of each entry.
    pub fn probabilities(&self) -> &[f64] {
        &self.probabilities
    }

    /// T + 1 tokens of each entry.
    pub fn words(&self) -> impl Iterator<Item = &[u32]> {
        self.words.chunks_exact(self.len + 1)
    }

    /// For each symbol (N), whether it is a trigger in entry `i`.
    pub fn triggers(&self, i: usize) -> &[bool] {
        let from = self.set_of[i] as usize * self.vocab;
        &self.sets[from..from + self.vocab]
    }

    /// Number of entries.
    pub fn entries(&self) -> usize {
        self.probabilities.len()
    }

    /// Σ of the probabilities: 1 up to rounding.
    pub fn weight(&self) -> f64 {
        crate::num::sum(&self.probabilities)
    }
}

/// C(N, K) or 1.
fn subsets(n: usize, task: &TriggerBigram) -> f64 {
    match task.fixed_triggers() {
        Some(_) => 1.0,
        None => (0..task.triggers()).map(|i| (n - i) as f64 / (i + 1) as f64).product(),
    }
}

/// P(o | q) (N), exclusions applied.
fn output_law(task: &TriggerBigram, q: usize) -> Vec<f64> {
    let weights: Vec<f64> = (0..task.vocab()).map(|o| task.output_weight(q, o)).collect();
    let total = crate::num::sum(&weights);
    // A symbol that can be no trigger may have a total of 0.
    weights.iter().map(|w| if total > 0.0 { w / total } else { 0.0 }).collect()
}

/// Sets of triggers, sorted, with their probabilities, one trigger after the other; `None` if there
/// are more than `most`.
fn trigger_sets(task: &TriggerBigram, most: usize) -> Option<BTreeMap<Vec<usize>, f64>> {
    if let Some(fixed) = task.fixed_triggers() {
        return Some(BTreeMap::from([(fixed.iter().map(|q| *q as usize).collect(), 1.0)]));
    }
    let u = task.laws().unigram();
    let mut sets = BTreeMap::from([(Vec::new(), 1.0)]);
    for _ in 0..task.triggers() {
        let mut larger: BTreeMap<Vec<usize>, Sum> = BTreeMap::new();
        for (set, p) in &sets {
            let open = |q: &usize| !set.contains(q) && u[*q] > 0.0;
            let left: Sum = (0..u.len()).filter(open).map(|q| u[q]).collect();
            for q in (0..u.len()).filter(open) {
                let mut with: Vec<usize> = [set.as_slice(), &[q]].concat();
                with.sort_unstable();
                larger.entry(with).or_default().add(p * u[q] / left.value());
            }
            if larger.len() > most {
                return None;
            }
        }
        sets = larger.into_iter().map(|(set, p)| (set, p.value())).collect();
    }
    Some(sets)
}

/// Depth-first enumeration of the sequences of one set of triggers. The stack is a vector, so their
/// length is not limited by the call stack.
struct Walk<'a> {
    task: &'a TriggerBigram,
    most: usize,
    /// P(o | q) (N, N).
    outputs: Vec<f64>,
    trigger: Vec<bool>,
    /// The output of each trigger that has occurred.
    output: Vec<Option<usize>>,
    path: Vec<u32>,
    /// One for each token of `path`.
    steps: Vec<Step>,
    words: Vec<u32>,
    probabilities: Vec<f64>,
}

/// The state of the enumeration at one token.
struct Step {
    /// Probability of the prefix that ends here.
    p: f64,
    /// The first successor not yet tried.
    next: usize,
    /// True if this token is a trigger's first occurrence, whose successor is its output.
    chooses: bool,
}

impl Walk<'_> {
    /// All sequences that begin with `z`, of probability `factor` under triggers of probability
    /// `p`; `None` if there are too many.
    fn from(&mut self, z: usize, p: f64, factor: f64) -> Option<()> {
        // Not `p * factor`, which may underflow for sequences that can occur.
        if factor == 0.0 {
            return Some(());
        }
        self.enter(z, p * factor);
        while let Some(step) = self.steps.last_mut() {
            let z = self.path[self.path.len() - 1] as usize;
            if self.path.len() == self.task.seq_len() + 1 {
                if self.probabilities.len() == self.most {
                    return None;
                }
                self.words.extend_from_slice(&self.path);
                self.probabilities.push(step.p);
                self.leave();
                continue;
            }
            let (n, p, from) = (self.trigger.len(), step.p, step.next);
            let law = match (self.trigger[z], self.output[z]) {
                (false, _) => &self.task.laws().bigram()[z * n..(z + 1) * n],
                // A later occurrence: the only successor is the trigger's output.
                (true, Some(o)) if !step.chooses => {
                    if from == n {
                        self.leave();
                    } else {
                        step.next = n;
                        self.enter(o, p);
                    }
                    continue;
                }
                (true, _) => {
                    step.chooses = true;
                    &self.outputs[z * n..(z + 1) * n]
                }
            };
            let Some(next) = (from..n).find(|k| law[*k] > 0.0) else {
                if step.chooses {
                    self.output[z] = None;
                }
                self.leave();
                continue;
            };
            step.next = next + 1;
            if step.chooses {
                self.output[z] = Some(next);
            }
            let p = p * law[next];
            self.enter(next, p);
        }
        Some(())
    }

    fn enter(&mut self, z: usize, p: f64) {
        self.path.push(z as u32);
        self.steps.push(Step { p, next: 0, chooses: false });
    }

    fn leave(&mut self) {
        self.path.pop();
        self.steps.pop();
    }
}

impl Source for TriggerPopulation {
    fn seq_len(&self) -> usize {
        self.len
    }

    fn vocab(&self) -> usize {
        self.vocab
    }

    fn population(&self) -> Option<usize> {
        Some(self.entries())
    }

    fn targets(&self) -> Targets {
        Targets::Labels
    }

    fn batch(&self, capacity: usize) -> Result<Batch> {
        Ok(Batch::with_capacity(self.targets(), capacity, self.seq_len(), self.vocab())?.with_seen())
    }

    fn work(&self) -> SourceWork {
        SourceWork::new(vec![0u32; self.vocab])
    }

    fn fill(&self, first: u64, count: usize, work: &mut SourceWork, batch: &mut Batch) {
        let (t, entries) = (self.len, self.entries() as u64);
        assert!(batch.len_tokens() == t && batch.vocab() == self.vocab, "batch of another task");
        batch.set_seqs(count);
        let counts: &mut Vec<u32> = work.get();
        let Parts { tokens, labels, weights, seen, .. } = batch.parts_mut();
        let mut entry = (first % entries) as usize;
        for i in 0..count {
            let (row, word) = (i * t..(i + 1) * t, &self.words[entry * (t + 1)..(entry + 1) * (t + 1)]);
            let (triggers, p) = (self.triggers(entry), self.probabilities[entry]);
            tokens[row.clone()].copy_from_slice(&word[..t]);
            labels[row.clone()].copy_from_slice(&word[1..]);
            counts.fill(0);
            for ((z, seen), w) in word.iter().zip(&mut seen[row.clone()]).zip(&mut weights[row]) {
                let z = *z as usize;
                counts[z] += u32::from(triggers[z]);
                *seen = counts[z];
                *w = if self.loss == LossOn::All || *seen >= 2 { p } else { 0.0 };
            }
            entry = if entry + 1 == self.entries() { 0 } else { entry + 1 };
        }
    }
}
