//! The one interface between tasks and models: sequences, soft targets and weights.
//!
//! A sampler writes weights 1/B; an exact enumerator writes probabilities. The loss is Σᵢ wᵢ ℓᵢ either way, so a
//! model cannot tell which of the two fed it.

mod labelled;

pub use labelled::{LabelledBatch, LabelledParts};

use crate::{Error, Result};

/// `seqs` token sequences of equal length with a target distribution and a weight each.
///
/// All storage is allocated once, for `capacity` sequences; refilling allocates nothing.
#[derive(Debug, Clone)]
pub struct Batch {
    seqs: usize,
    len: usize,
    vocab: usize,
    tokens: Vec<u32>,
    targets: Vec<f64>,
    weights: Vec<f64>,
}

impl Batch {
    /// An empty batch with room for `capacity` sequences of `len` tokens over `vocab` symbols.
    ///
    /// # Errors
    /// When `len` or `vocab` is zero, or the size overflows.
    pub fn with_capacity(capacity: usize, len: usize, vocab: usize) -> Result<Self> {
        let too_big =
            |what: &str| Error::invalid("batch", format!("{what} overflows"), "sizes that fit memory");
        if len == 0 {
            return Err(Error::invalid("T", "0", "T >= 1"));
        }
        if vocab == 0 || vocab > u32::MAX as usize {
            return Err(Error::invalid("S", format!("{vocab}"), "1 <= S < 2^32"));
        }
        let nt = capacity.checked_mul(len).filter(|n| *n <= isize::MAX as usize / 8);
        let ns = capacity.checked_mul(vocab).filter(|n| *n <= isize::MAX as usize / 8);
        let (nt, ns) = (nt.ok_or_else(|| too_big("B*T"))?, ns.ok_or_else(|| too_big("B*S"))?);
        Ok(Batch {
            seqs: 0,
            len,
            vocab,
            tokens: vec![0; nt],
            targets: vec![0.0; ns],
            weights: vec![0.0; capacity],
        })
    }

    /// Number of sequences in use (B).
    pub fn seqs(&self) -> usize {
        self.seqs
    }
    /// Sequences that fit.
    pub fn capacity(&self) -> usize {
        self.weights.len()
    }
    /// Tokens per sequence (T, the query included).
    pub fn len_tokens(&self) -> usize {
        self.len
    }
    /// Alphabet size (S).
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
    /// Tokens, row-major (B, T), each below S.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens[..self.seqs * self.len]
    }
    /// Target distributions, row-major (B, S).
    pub fn targets(&self) -> &[f64] {
        &self.targets[..self.seqs * self.vocab]
    }
    /// Weights (B).
    pub fn weights(&self) -> &[f64] {
        &self.weights[..self.seqs]
    }
    /// Tokens of sequence `i`.
    pub fn sequence(&self, i: usize) -> &[u32] {
        &self.tokens()[i * self.len..(i + 1) * self.len]
    }
    /// Target distribution of sequence `i`.
    pub fn target(&self, i: usize) -> &[f64] {
        &self.targets()[i * self.vocab..(i + 1) * self.vocab]
    }
    /// Mutable (tokens, targets, weights) of the sequences in use.
    pub fn parts_mut(&mut self) -> (&mut [u32], &mut [f64], &mut [f64]) {
        let n = self.seqs;
        (&mut self.tokens[..n * self.len], &mut self.targets[..n * self.vocab], &mut self.weights[..n])
    }
}
