//! Models: forward and backward by hand over the kernels.
//!
//! A model sees a [`Batch`] and a flat parameter vector whose named blocks its [`Layout`] lists. It
//! returns the weighted loss Σ w ℓ with the gradient of the blocks that are asked for, and reports
//! losses, predictions and attention.

pub mod construction;
pub mod disentangled;
mod layered;
pub mod layout;
pub mod memory;
pub mod mlp_transformer;
mod outputs;
pub mod simplified;
mod spec;
pub mod transformer;
mod workspace;

pub use disentangled::{Disentangled, DisentangledSpec, Path};
pub use layout::{Block, Layout, named_blocks};
pub use memory::{Memories, Memory, MemorySpec};
pub use mlp_transformer::{MlpTransformer, MlpTransformerSpec};
pub use simplified::{Simplified, SimplifiedSpec};
pub use spec::{FeedForward, MODELS, Output, Positions, Spec};
pub use transformer::{BlockKind, Transformer, TransformerSpec};
pub use workspace::{Workspace, WorkspaceLen};

use crate::batch::{Batch, Targets};
use crate::num::Sum;
use crate::{Error, Result};
use popgrad_kernels::Elem;

/// What every model offers. Object-safe; all working storage comes from a [`Workspace`] made once.
pub trait Model<E: Elem>: Send + Sync {
    /// Registry name.
    fn name(&self) -> &'static str;
    /// Named blocks of the parameter vector, frozen ones and buffers included.
    fn layout(&self) -> &Layout;
    /// Tokens per sequence (T).
    fn seq_len(&self) -> usize;
    /// Alphabet size (S).
    fn vocab(&self) -> usize;
    /// Attention heads of each layer.
    fn heads(&self) -> &[usize];
    /// Refuses targets that the model has no output for, with a sentence that says why.
    ///
    /// # Errors
    /// Labels at every position, for a model that predicts the symbol after the last one only.
    fn accepts(&self, _targets: Targets) -> Result<()> {
        Ok(())
    }
    /// Of each block of the layout, whether training may move it; buffers and frozen outputs it may
    /// not.
    fn trainable(&self) -> &[bool];
    /// Where training starts; `draw` gives addressed draws.
    fn initial(&self, draw: &dyn Draw) -> Vec<E>;
    /// Working storage that batches of up to `seqs` sequences need; `None` on overflow.
    fn workspace_len(&self, targets: Targets, seqs: usize) -> Option<WorkspaceLen>;
    /// Working storage for batches of up to `seqs` sequences with such targets.
    ///
    /// # Errors
    /// When the size overflows; targets that the model does not accept.
    fn workspace(&self, targets: Targets, seqs: usize) -> Result<Workspace<E>> {
        self.accepts(targets)?;
        let len = self.workspace_len(targets, seqs).ok_or_else(|| {
            let found = format!("{seqs} sequences of this model");
            Error::invalid("B", found, "a batch whose activations fit memory")
        })?;
        Ok(Workspace::new(&len))
    }
    /// Σ w ℓ over the outputs with w > 0, and in `grad` (overwritten) its gradient in the blocks
    /// that are `active` (one flag for each block of the layout). Entries of other blocks are left
    /// alone. Buffers (`pe`, the fixed maps of the memory model) have no gradient; a frozen output
    /// has one. With no block active nothing is kept for a backward pass. Allocates nothing.
    ///
    /// # Errors
    /// When the batch, the parameters, the flags or the workspace do not fit the model; a token or
    /// label out of range; a buffer that is active.
    fn loss_and_grad(
        &self,
        params: &[E],
        batch: &Batch,
        active: &[bool],
        ws: &mut Workspace<E>,
        grad: &mut [E],
    ) -> Result<Sum>;
    /// Losses and predictions at every output, whatever its weight, and attention if `report` has
    /// room for it.
    ///
    /// # Errors
    /// As [`Model::loss_and_grad`]; a report of another size.
    fn report(&self, params: &[E], batch: &Batch, ws: &mut Workspace<E>, report: &mut Report) -> Result<()>;
    /// Attention on one sequence of T tokens: `out` (Σ_l H_l, T, T), layer by layer and head by
    /// head; rows are queries, 0 behind the mask. The workspace may be of either kind of targets.
    ///
    /// # Errors
    /// As [`Model::loss_and_grad`]; an output of another size.
    fn attention(&self, params: &[E], tokens: &[u32], ws: &mut Workspace<E>, out: &mut [f64]) -> Result<()>;
    /// Scores of the first layer in the coordinates of one-hot tokens and positions, of a model
    /// that has such: what its attention can be read from without a sequence. None: only
    /// [`Model::attention`] tells.
    fn first_layer_scores(&self, _params: &[f64]) -> Option<FirstLayerScores> {
        None
    }
}

/// Scores of the first layer's heads over (token, position) of query and key: the score of query i
/// and key j is the sum of the entries of {s_i, S + i} x {s_j, S + j}.
#[derive(Debug, Clone)]
pub struct FirstLayerScores {
    /// (H, S + T, S + T), rows the query's.
    pub scores: Vec<f64>,
    /// Is the pattern that of the position-position block alone, whatever the tokens? So the paper
    /// shows it for models whose tokens and positions have dimensions of their own.
    pub by_position: bool,
}

/// Addressed draws for [`Model::initial`]: number i is the same whatever else is drawn.
pub trait Draw {
    /// Standard normal number i.
    fn normal(&self, i: u64) -> f64;
    /// Number i, uniform on (-1, 1).
    fn uniform(&self, i: u64) -> f64;
}

/// What [`Model::report`] fills; B sequences with O outputs each.
#[derive(Debug, Clone)]
pub struct Report {
    /// −ln p̂(label) or −Σ y ln p̂ (B, O).
    pub losses: Vec<f64>,
    /// argmax of the prediction (B, O); ties go to the smaller symbol.
    pub predicted: Vec<u32>,
    /// argmax of the attention, (Σ_l H_l, B, T): the position attended to most; ties go to the
    /// earlier one. Empty: not wanted.
    pub attended: Vec<u32>,
    /// p̂ (B, O, S). Empty: not wanted.
    pub probs: Vec<f64>,
}

impl Report {
    /// For batches of `seqs` sequences with such targets; attention and probabilities if wanted.
    pub fn new<E: Elem>(
        model: &dyn Model<E>,
        targets: Targets,
        seqs: usize,
        attended: bool,
        probs: bool,
    ) -> Self {
        let outputs = seqs * targets.outputs(model.seq_len());
        let maps: usize = model.heads().iter().sum();
        Report {
            losses: vec![0.0; outputs],
            predicted: vec![0; outputs],
            attended: vec![0; if attended { maps * seqs * model.seq_len() } else { 0 }],
            probs: vec![0.0; if probs { outputs * model.vocab() } else { 0 }],
        }
    }

    /// Checks the sizes for a batch of a model with `maps` attention maps.
    pub(crate) fn check(&self, batch: &Batch, maps: usize) -> Result<()> {
        let (n, outputs) = (batch.seqs(), batch.seqs() * batch.outputs());
        // The last two may be empty: not wanted.
        let wanted = |found: usize, needed: usize| if found == 0 { 0 } else { needed };
        for (field, found, needed) in [
            ("losses", self.losses.len(), outputs),
            ("predicted", self.predicted.len(), outputs),
            ("attended", self.attended.len(), wanted(self.attended.len(), maps * n * batch.len_tokens())),
            ("probs", self.probs.len(), wanted(self.probs.len(), outputs * batch.vocab())),
        ] {
            if found != needed {
                let allowed = format!("{needed} for this batch");
                return Err(Error::invalid(field, format!("{found} entries"), allowed));
            }
        }
        Ok(())
    }
}

/// Checks what every model requires of its parameters and its batch.
pub(crate) fn check_operands<E: Elem>(model: &dyn Model<E>, params: &[E], batch: &Batch) -> Result<()> {
    model.accepts(batch.kind())?;
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
    let (s, t) = (model.vocab(), model.seq_len());
    for (field, symbols) in [("tokens", batch.tokens()), ("labels", batch.labels())] {
        if let Some(i) = symbols.iter().position(|x| *x as usize >= s) {
            let found = format!("{} in sequence {}", symbols[i], i / t);
            return Err(Error::invalid(field, found, format!("0 <= symbol < {s}")));
        }
    }
    if let Some(w) = batch.weights().iter().find(|w| !(**w >= 0.0 && w.is_finite())) {
        return Err(Error::invalid("weights", w.to_string(), "finite, >= 0"));
    }
    Ok(())
}

/// Checks the flags and the gradient of [`Model::loss_and_grad`]; `buffers` are blocks without a
/// gradient.
pub(crate) fn check_active<E: Elem>(
    model: &dyn Model<E>,
    active: &[bool],
    buffers: &[usize],
    grad: &[E],
) -> Result<()> {
    let layout = model.layout();
    let blocks = layout.blocks().len();
    if active.len() != blocks {
        return Err(Error::invalid("active", format!("{} flags", active.len()), format!("{blocks} blocks")));
    }
    if grad.len() != layout.len() {
        let allowed = format!("{} entries", layout.len());
        return Err(Error::invalid("grad", format!("{} entries", grad.len()), allowed));
    }
    match buffers.iter().find(|b| active[**b]) {
        Some(b) => Err(Error::invalid("active", layout.blocks()[*b].name(), "blocks that can train")),
        None => Ok(()),
    }
}

/// Checks the parents that a construction is made for: one per position, the query's own left out
/// or not, each at an earlier position, or in the query's place at any.
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
