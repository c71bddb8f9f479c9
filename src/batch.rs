//! The interface between tasks and models: sequences, targets and weights.
//!
//! A batch is B sequences of T tokens over S symbols. Its targets are of one of two kinds
//! ([`Targets`]): a law of the symbol that follows the last position, or a label at every position.
//! With O outputs a sequence (1 or T), weights are (B, O).
//!
//! **Normalisation.** The loss of a whole batch is the weighted mean Σ w ℓ / Σ w. A sampler writes
//! weight 1 where an output counts and 0 elsewhere; an enumerator writes the probability of the
//! sequence. Models return Σ w ℓ and its gradient. The caller that holds the whole batch divides
//! both by [`divisor`] of Σ w, which is 1 for weights that sum to one.

use crate::{Error, Result};

/// The kind of targets of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Targets {
    /// The law of the symbol that follows the last position: one output a sequence.
    Law,
    /// A label at every position: T outputs a sequence.
    Labels,
}

impl Targets {
    /// Number of outputs (O) of a sequence of `len` tokens: 1 or `len`.
    pub fn outputs(self, len: usize) -> usize {
        match self {
            Targets::Law => 1,
            Targets::Labels => len,
        }
    }
}

/// The divisor of a sum of weighted losses and of its gradient: the total weight Σ w, or exactly 1
/// if that is within 2^-40 of 1.
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

/// Mutable views of the sequences in use, row-major. Views of arrays that the batch does not have
/// are empty.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Tokens (B, T), each below S.
    pub tokens: &'a mut [u32],
    /// Target laws (B, S).
    pub laws: &'a mut [f64],
    /// Labels (B, T), each below S.
    pub labels: &'a mut [u32],
    /// Weights (B, O), finite and >= 0; an output of weight 0 does not count.
    pub weights: &'a mut [f64],
    /// Occurrences of the token so far, this one included, if it is a trigger; else 0 (B, T).
    pub seen: &'a mut [u32],
}

impl Batch {
    /// An empty batch of capacity `capacity` for sequences of `len` tokens over `vocab` symbols.
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

    /// The same batch with the side column [`seen`](Self::seen).
    pub fn with_seen(mut self) -> Self {
        self.seen = vec![0; self.tokens.len()];
        self
    }

    /// The kind of targets.
    pub fn kind(&self) -> Targets {
        self.kind
    }
    /// Number of sequences in use (B).
    pub fn seqs(&self) -> usize {
        self.seqs
    }
    /// Largest number of sequences.
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
    /// Sets the number of sequences in use. Rows keep their old contents until they are written.
    ///
    /// # Panics
    /// If `seqs` exceeds the capacity.
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
    /// Occurrences of the token so far, this one included, if it is a trigger; else 0 (B, T).
    /// `None` if the batch has no such column.
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
    /// Σ w, a compensated sum in index order.
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
