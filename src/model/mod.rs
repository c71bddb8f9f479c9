//! Models: forward and backward by hand over the kernels.
//!
//! A model sees a [`Batch`] and a flat parameter vector whose named blocks its [`Layout`] lists; it returns the weighted
//! loss Σ wᵢ ℓᵢ, the per-sequence losses and predictions, and the gradient in the layout of the parameters.

pub mod construction;
pub mod disentangled;
pub mod layout;
pub mod memory;
pub mod mlp_transformer;
pub mod sequence;
pub mod simplified;
pub mod transformer;

pub use disentangled::{Disentangled, Path};
pub use layout::{Block, Layout};
pub use memory::{Memories, Memory};
pub use mlp_transformer::MlpTransformer;
pub use sequence::{
    BlockKind, Draw, FeedForward, MemorySpec, Output, Positions, Report, SequenceMemory, SequenceModel,
    SequenceWorkspace, TransformerSpec,
};
pub use simplified::Simplified;
pub use transformer::Transformer;

use crate::batch::Batch;
use crate::num::Sum;
use crate::{Error, Result};
use popgrad_kernels::{Elem, Scratch};

/// What every model offers. Object-safe; all memory comes from a [`Workspace`] made once.
pub trait Model<E: Elem>: Send + Sync {
    /// Registry name.
    fn name(&self) -> &'static str;
    /// Named blocks of the parameter vector.
    fn layout(&self) -> &Layout;
    /// Tokens per sequence (T).
    fn seq_len(&self) -> usize;
    /// Alphabet size (S).
    fn vocab(&self) -> usize;
    /// Where training starts: `normal(i)` is a standard normal for entry i of the parameter vector, `attention` the standard deviation of
    /// the attention matrices (blocks `A.*`). All else is zero, unless the model has a start of its own.
    fn initial(&self, attention: f64, normal: &dyn Fn(u64) -> f64) -> Vec<E> {
        let mut params = vec![E::ZERO; self.layout().len()];
        if attention > 0.0 {
            for block in self.layout().blocks().iter().filter(|b| b.name().starts_with("A.")) {
                block.range().for_each(|i| params[i] = E::from_f64(attention * normal(i as u64)));
            }
        }
        params
    }
    /// Elements of activations and of kernel scratch that batches of up to `seqs` sequences need; `None` on overflow.
    fn workspace_len(&self, seqs: usize) -> Option<[usize; 2]>;
    /// Memory for batches of up to `seqs` sequences.
    ///
    /// # Errors
    /// When the size overflows.
    fn workspace(&self, seqs: usize) -> Result<Workspace<E>> {
        let [arena, kernel] = self.workspace_len(seqs).ok_or_else(|| {
            Error::invalid(
                "B",
                format!("{seqs} sequences of this model"),
                "a batch whose activations fit memory",
            )
        })?;
        Ok(Workspace::new(seqs, self.vocab(), arena, kernel))
    }
    /// Fills `ws.losses()` and `ws.predictions()`.
    ///
    /// # Errors
    /// When the batch, the parameters or the workspace do not fit the model.
    fn forward(&self, params: &[E], batch: &Batch, ws: &mut Workspace<E>) -> Result<()>;
    /// Overwrites `grad` with the gradient of Σ wᵢ ℓᵢ. Follows a `forward` with the same arguments.
    ///
    /// # Errors
    /// As [`Model::forward`].
    fn backward(&self, params: &[E], batch: &Batch, ws: &mut Workspace<E>, grad: &mut [E]) -> Result<()>;
}

/// Activations and results of one shard, allocated once.
#[derive(Debug)]
pub struct Workspace<E> {
    /// Activations, carved up by the model.
    pub(crate) arena: Scratch<E>,
    /// Lent to kernels.
    pub(crate) kernel: Scratch<E>,
    /// Predictions (capacity, S).
    pub(crate) probs: Vec<E>,
    /// Losses (capacity).
    pub(crate) losses: Vec<f64>,
    seqs: usize,
    vocab: usize,
}

impl<E: Elem> Workspace<E> {
    /// `arena` and `kernel` elements of scratch, results for up to `seqs` sequences over `vocab` symbols.
    pub(crate) fn new(seqs: usize, vocab: usize, arena: usize, kernel: usize) -> Self {
        Workspace {
            arena: Scratch::new(arena),
            kernel: Scratch::new(kernel),
            probs: vec![E::ZERO; seqs * vocab],
            losses: vec![0.0; seqs],
            seqs: 0,
            vocab,
        }
    }

    /// Sequences that fit.
    pub fn capacity(&self) -> usize {
        self.losses.len()
    }

    pub(crate) fn set_seqs(&mut self, seqs: usize) {
        self.seqs = seqs;
    }

    /// −Σ_s y_s log f_s (or f_s + ε) of each sequence of the last forward (B), unweighted.
    pub fn losses(&self) -> &[f64] {
        &self.losses[..self.seqs]
    }

    /// Predicted distributions of the last forward, row-major (B, S).
    pub fn predictions(&self) -> &[E] {
        &self.probs[..self.seqs * self.vocab]
    }

    /// Σ wᵢ ℓᵢ of the last forward, in index order, compensated.
    pub fn weighted_loss(&self, weights: &[f64]) -> Sum {
        let mut sum = Sum::new();
        for (l, w) in self.losses().iter().zip(weights) {
            sum.add(l * w);
        }
        sum
    }
}

/// Checks what every model requires of its operands.
pub(crate) fn check_operands<E: Elem>(
    model: &dyn Model<E>,
    params: &[E],
    batch: &Batch,
    ws: &Workspace<E>,
) -> Result<()> {
    let same = |field: &str, found: usize, expected: usize| {
        if found == expected {
            Ok(())
        } else {
            Err(Error::invalid(field, found.to_string(), format!("{expected} for this model")))
        }
    };
    same("T", batch.len_tokens(), model.seq_len())?;
    same("S", batch.vocab(), model.vocab())?;
    same("params length", params.len(), model.layout().len())?;
    if batch.seqs() > ws.capacity() {
        let allowed = format!("at most {} (the workspace)", ws.capacity());
        return Err(Error::invalid("B", batch.seqs().to_string(), allowed));
    }
    Ok(())
}

/// Checks the parents that a construction is made for: one per position, the query's own left out or not, each at an
/// earlier position, or in the query's place at any.
pub(crate) fn check_parents(parents: &[Option<usize>], t: usize) -> Result<()> {
    if parents.len() != t && parents.len() + 1 != t {
        let allowed = format!("{} or {t} (with the query's)", t - 1);
        return Err(Error::invalid("parents", format!("{} entries", parents.len()), allowed));
    }
    for (i, p) in parents.iter().enumerate() {
        if let Some(p) = p
            && *p >= i + usize::from(i + 1 == t)
        {
            return Err(Error::invalid("parents", format!("entry {i} is {p}"), "an earlier position"));
        }
    }
    Ok(())
}

/// Names that [`build`] knows.
pub const MODELS: [&str; 3] = ["disentangled", "simplified", "mlp_transformer"];

/// What a model is built from, whatever its kind.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// One of [`MODELS`].
    pub name: String,
    /// Alphabet size S.
    pub vocab: usize,
    /// Sequence length T, the query included.
    pub seq_len: usize,
    /// Heads of each layer, where there is a choice.
    pub heads: Vec<usize>,
    /// ε of the loss −Σ y log(f + ε), where the model has one.
    pub eps: f64,
}

/// Refuses a name that is not one of [`MODELS`].
///
/// # Errors
/// With the nearest name that is.
pub fn check_name(name: &str) -> Result<()> {
    if MODELS.contains(&name) { Ok(()) } else { Err(Error::unknown("model", name, MODELS)) }
}

/// Builds a model by name.
///
/// # Errors
/// An unknown name, or sizes out of range.
pub fn build<E: Elem>(spec: &ModelSpec) -> Result<Box<dyn Model<E>>> {
    match spec.name.as_str() {
        "disentangled" => Ok(Box::new(Disentangled::new(spec.vocab, spec.seq_len, &spec.heads)?)),
        "simplified" => Ok(Box::new(Simplified::new(spec.vocab, spec.seq_len, spec.eps)?)),
        "mlp_transformer" => Ok(Box::new(MlpTransformer::new(spec.vocab, spec.seq_len, &spec.heads)?)),
        other => Err(Error::unknown("model", other, MODELS)),
    }
}
