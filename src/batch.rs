//! The one interface between tasks and models: sequences, targets and weights.
//!
//! A batch is B sequences of T tokens over S symbols. Its targets are of one of two kinds
//! ([`Targets`]): a law of the symbol that follows the last position, or a label at every position.
//! With O outputs a sequence (1 or T), weights are (B, O).
//!
//! **One rule of normalisation.** The loss of a whole batch is the weighted mean Σ w ℓ / Σ w. A
//! sampler writes weight 1 where an output counts and 0 elsewhere, an enumerator the probability of
//! the sequence, so a model cannot tell which of the two fed it. Models return Σ w ℓ and its
//! gradient; whoever holds the whole batch divides by [`divisor`] of Σ w, which leaves weights that
//! sum to one untouched.

use crate::{Error, Result};

/// What the sequences of a batch are scored on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Targets {
    /// The law of the symbol that follows the last position: one output a sequence.
    Law,
    /// A label at every position: T outputs a sequence.
    Labels,
}

impl Targets {
    /// Outputs of a sequence of `len` tokens (O).
    pub fn outputs(self, len: usize) -> usize {
        match self {
            Targets::Law => 1,
            Targets::Labels => len,
        }
    }
}

/// What a sum of weighted losses, and its gradient, is divided by: the total weight. Weights that
/// are meant to sum to one do so up to rounding (2^-40 is allowed), and then nothing is divided.
pub fn divisor(total_weight: f64) -> f64 {
    const ROUNDING: f64 = 1.0 / (1u64 << 40) as f64;
    if (total_weight - 1.0).abs() <= ROUNDING { 1.0 } else { total_weight }
}

/// `seqs` token sequences of equal length with targets and weights.
///
/// All storage is allocated once, for `capacity` sequences; refilling allocates nothing.
#[derive(Debug, Clone)]
pub struct Batch {
    kind: Targets,
    seqs: usize,
    capacity: usize,
    len: usize,
    vocab: usize,
    tokens: Vec<u32>,
    laws: Vec<f64>,
    labels: Vec<u32>,
    weights: Vec<f64>,
    seen: Vec<u32>,
}

/// Mutable views of the sequences in use, row-major; those that the batch does not have are empty.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Tokens (B, T), each below S.
    pub tokens: &'a mut [u32],
    /// Target laws (B, S).
    pub laws: &'a mut [f64],
    /// Labels (B, T), each below S.
    pub labels: &'a mut [u32],
    /// Weights (B, O), finite and >= 0; 0: that output does not count.
    pub weights: &'a mut [f64],
    /// Occurrences so far of the token if it is a trigger, this one included; else 0 (B, T).
    pub seen: &'a mut [u32],
}

impl Batch {
    /// An empty batch with room for `capacity` sequences of `len` tokens over `vocab` symbols.
    ///
    /// # Errors
    /// When `len` or `vocab` is zero, or the size overflows.
    pub fn with_capacity(kind: Targets, capacity: usize, len: usize, vocab: usize) -> Result<Self> {
        if len == 0 {
            return Err(Error::invalid("T", "0", "T >= 1"));
        }
        if vocab == 0 || vocab > u32::MAX as usize {
            return Err(Error::invalid("S", format!("{vocab}"), "1 <= S < 2^32"));
        }
        let sized = |what: &str, of: usize| {
            let n = capacity.checked_mul(of).filter(|n| *n <= isize::MAX as usize / 8);
            n.ok_or_else(|| Error::invalid("batch", format!("{what} overflows"), "sizes that fit memory"))
        };
        let (laws, labels) = match kind {
            Targets::Law => (sized("B*S", vocab)?, 0),
            Targets::Labels => (0, sized("B*T", len)?),
        };
        Ok(Batch {
            kind,
            seqs: 0,
            capacity,
            len,
            vocab,
            tokens: vec![0; sized("B*T", len)?],
            laws: vec![0.0; laws],
            labels: vec![0; labels],
            weights: vec![0.0; sized("B*T", kind.outputs(len))?],
            seen: Vec::new(),
        })
    }

    /// The same with a side column for how often each trigger has been seen.
    pub fn with_seen(mut self) -> Self {
        self.seen = vec![0; self.tokens.len()];
        self
    }

    /// What its sequences are scored on.
    pub fn kind(&self) -> Targets {
        self.kind
    }
    /// Number of sequences in use (B).
    pub fn seqs(&self) -> usize {
        self.seqs
    }
    /// Sequences that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
    /// Tokens per sequence (T).
    pub fn len_tokens(&self) -> usize {
        self.len
    }
    /// Alphabet size (S).
    pub fn vocab(&self) -> usize {
        self.vocab
    }
    /// Outputs per sequence (O): 1 or T.
    pub fn outputs(&self) -> usize {
        self.kind.outputs(self.len)
    }
    /// Sets the number of sequences in use; contents of newly used rows are whatever they were.
    ///
    /// # Panics
    /// When `seqs` exceeds the capacity.
    pub fn set_seqs(&mut self, seqs: usize) {
        assert!(seqs <= self.capacity, "batch holds at most {} sequences", self.capacity);
        self.seqs = seqs;
    }
    /// Tokens (B, T), each below S.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens[..self.seqs * self.len]
    }
    /// Target laws (B, S); empty where the targets are labels.
    pub fn laws(&self) -> &[f64] {
        &self.laws[..(self.seqs * self.vocab).min(self.laws.len())]
    }
    /// Labels (B, T), each below S; empty where the targets are laws.
    pub fn labels(&self) -> &[u32] {
        &self.labels[..(self.seqs * self.len).min(self.labels.len())]
    }
    /// Weights (B, O), finite and >= 0.
    pub fn weights(&self) -> &[f64] {
        &self.weights[..self.seqs * self.outputs()]
    }
    /// How often each token, if a trigger, has occurred so far, itself included; else 0 (B, T).
    /// None: no such column.
    pub fn seen(&self) -> Option<&[u32]> {
        (!self.seen.is_empty()).then(|| &self.seen[..self.seqs * self.len])
    }
    /// Tokens of sequence `i` (T).
    pub fn sequence(&self, i: usize) -> &[u32] {
        &self.tokens()[i * self.len..(i + 1) * self.len]
    }
    /// Target law of sequence `i` (S).
    ///
    /// # Panics
    /// When the targets are labels.
    pub fn law(&self, i: usize) -> &[f64] {
        &self.laws()[i * self.vocab..(i + 1) * self.vocab]
    }
    /// Σ w, in order, compensated.
    pub fn total_weight(&self) -> f64 {
        crate::num::sum(self.weights())
    }
    /// Mutable views of the sequences in use.
    pub fn parts_mut(&mut self) -> Parts<'_> {
        let (tokens, outputs) = (self.seqs * self.len, self.seqs * self.outputs());
        let [laws, labels, seen] = [
            (self.seqs * self.vocab).min(self.laws.len()),
            tokens.min(self.labels.len()),
            tokens.min(self.seen.len()),
        ];
        Parts {
            tokens: &mut self.tokens[..tokens],
            laws: &mut self.laws[..laws],
            labels: &mut self.labels[..labels],
            weights: &mut self.weights[..outputs],
            seen: &mut self.seen[..seen],
        }
    }
}
