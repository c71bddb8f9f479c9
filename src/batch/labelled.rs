//! Sequences with a label at every position.

use crate::{Error, Result};

/// `seqs` sequences of T tokens with a label and a weight at every position.
///
/// A model's loss on it is Σ w ℓ / Σ w over all positions of the whole batch, so weights need not sum to 1: a sampler writes 1 where
/// a position counts and 0 elsewhere, an enumerator the probability of the word instead of 1.
///
/// All storage is allocated once, for `capacity` sequences; refilling allocates nothing.
#[derive(Debug, Clone)]
pub struct LabelledBatch {
    seqs: usize,
    len: usize,
    vocab: usize,
    tokens: Vec<u32>,
    labels: Vec<u32>,
    weights: Vec<f64>,
    seen: Vec<u32>,
}

/// Mutable views of the sequences in use, each row-major (B, T).
#[derive(Debug)]
pub struct LabelledParts<'a> {
    /// Tokens, each below N.
    pub tokens: &'a mut [u32],
    /// What follows each, below N.
    pub labels: &'a mut [u32],
    /// Weight of each position's loss; 0: it does not count.
    pub weights: &'a mut [f64],
    /// Occurrences so far of the token if it is a trigger, this one included; else 0.
    pub seen: &'a mut [u32],
}

impl LabelledBatch {
    /// An empty batch with room for `capacity` sequences of `len` tokens over `vocab` symbols.
    ///
    /// # Errors
    /// When `len` or `vocab` is zero, or the size overflows.
    pub fn with_capacity(capacity: usize, len: usize, vocab: usize) -> Result<Self> {
        if len == 0 {
            return Err(Error::invalid("T", "0", "T >= 1"));
        }
        if vocab == 0 || vocab > u32::MAX as usize {
            return Err(Error::invalid("N", format!("{vocab}"), "1 <= N < 2^32"));
        }
        let n = capacity.checked_mul(len).filter(|n| *n <= isize::MAX as usize / 8);
        let n = n.ok_or_else(|| Error::invalid("batch", "B*T overflows", "sizes that fit memory"))?;
        let symbols = || vec![0; n];
        Ok(LabelledBatch {
            seqs: 0,
            len,
            vocab,
            tokens: symbols(),
            labels: symbols(),
            weights: vec![0.0; n],
            seen: symbols(),
        })
    }

    /// Number of sequences in use (B).
    pub fn seqs(&self) -> usize {
        self.seqs
    }
    /// Sequences that fit.
    pub fn capacity(&self) -> usize {
        self.weights.len() / self.len
    }
    /// Tokens per sequence (T).
    pub fn len_tokens(&self) -> usize {
        self.len
    }
    /// Alphabet size (N).
    pub fn vocab(&self) -> usize {
        self.vocab
    }
    /// Sets the number of sequences in use; contents of newly used rows are whatever they were.
    ///
    /// # Panics
    /// When `seqs` exceeds the capacity.
    pub fn set_seqs(&mut self, seqs: usize) {
        assert!(seqs <= self.capacity(), "batch holds at most {} sequences", self.capacity());
        self.seqs = seqs;
    }
    fn used(&self) -> std::ops::Range<usize> {
        0..self.seqs * self.len
    }
    /// Tokens, row-major (B, T), each below N.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens[self.used()]
    }
    /// Labels (B, T), each below N.
    pub fn labels(&self) -> &[u32] {
        &self.labels[self.used()]
    }
    /// Weights (B, T), >= 0.
    pub fn weights(&self) -> &[f64] {
        &self.weights[self.used()]
    }
    /// How often each token, if a trigger, has occurred so far, itself included; else 0. (B, T)
    pub fn seen(&self) -> &[u32] {
        &self.seen[self.used()]
    }
    /// Σ w, in order.
    pub fn total_weight(&self) -> f64 {
        crate::num::sum(self.weights())
    }
    /// Mutable views of the sequences in use.
    pub fn parts_mut(&mut self) -> LabelledParts<'_> {
        let n = self.seqs * self.len;
        LabelledParts {
            tokens: &mut self.tokens[..n],
            labels: &mut self.labels[..n],
            weights: &mut self.weights[..n],
            seen: &mut self.seen[..n],
        }
    }
}
