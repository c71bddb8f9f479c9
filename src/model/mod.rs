//! Models: forward and backward passes written by hand over the kernels.
//!
//! A model takes a [`Batch`] and a flat parameter vector; its [`Layout`] lists the named blocks of
//! that vector. It computes the weighted loss Σ w ℓ and the gradient of the requested blocks, and
//! reports losses, predictions and attention.
//!
//! | module | model |
//! |---|---|
//! | [`disentangled`] | attention-only transformer with a concatenated residual stream (paper 1) |
//! | [`simplified`] | the two-layer model of the theorems of paper 1 |
//! | [`mlp_transformer`] | transformer with an MLP, Figure 8 of paper 1 |
//! | [`memory`] | two layers of attention without query matrix, read as associative memories (paper 2) |
//! | [`transformer`] | full transformer of any depth (paper 2) |
//! | [`trace`] | a plain pass of any of them that shows and changes activations |
//! | [`construction`] | the explicit solution of paper 1 for [`disentangled`] |

pub mod construction;
pub mod disentangled;
mod layered;
pub mod layout;
pub mod memory;
pub mod mlp_transformer;
mod outputs;
pub mod simplified;
mod spec;
pub mod trace;
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

/// The interface of a model. It is object-safe; all working storage comes from a [`Workspace`] that
/// is allocated once.
pub trait Model<E: Elem>: Send + Sync {
    /// Its name in configurations, one of [`MODELS`].
    fn name(&self) -> &'static str;
    /// Named blocks of the parameter vector, frozen ones and buffers included.
    fn layout(&self) -> &Layout;
    /// Tokens per sequence (T).
    fn seq_len(&self) -> usize;
    /// Alphabet size (S).
    fn vocab(&self) -> usize;
    /// Attention heads of each layer.
    fn heads(&self) -> &[usize];
    /// Checks that the model has an output for targets of this kind.
    ///
    /// # Errors
    /// Labels at every position, for a model that predicts the symbol after the last one only.
    fn accepts(&self, _targets: Targets) -> Result<()> {
        Ok(())
    }
    /// For each block of the layout, whether training may change it. Buffers and frozen outputs are
    /// false.
    fn trainable(&self) -> &[bool];
    /// The initial parameters, in the model's layout; `draw` supplies the random numbers.
    fn initial(&self, draw: &dyn Draw) -> Vec<E>;
    /// Size of the workspace for batches of up to `seqs` sequences; `None` on overflow.
    fn workspace_len(&self, targets: Targets, seqs: usize) -> Option<WorkspaceLen>;
    /// A workspace for batches of up to `seqs` sequences with targets of this kind.
    ///
    /// # Errors
    /// A size that overflows; targets that the model does not accept.
    fn workspace(&self, targets: Targets, seqs: usize) -> Result<Workspace<E>> {
        self.accepts(targets)?;
        let len = self.workspace_len(targets, seqs).ok_or_else(|| {
            let found = format!("{seqs} sequences of this model");
            Error::invalid("B", found, "a batch whose activations fit memory")
        })?;
        Ok(Workspace::new(&len))
    }
    /// Returns Σ w ℓ over the outputs with w > 0. Overwrites the entries of `grad` (in the model's
    /// layout) that belong to `active` blocks with the gradient of that sum, not divided by Σ w;
    /// other entries keep their values. `active` has one flag for each block of the layout. Buffers
    /// (`pe`, the fixed maps of the memory model) have no gradient; a frozen output has one. If no
    /// block is active, nothing is stored for a backward pass. Allocates nothing.
    ///
    /// # Errors
    /// A batch, parameters, flags, gradient or workspace that do not fit the model; a token or
    /// label out of range; a weight that is negative or not finite; a buffer that is active.
    fn loss_and_grad(
        &self,
        params: &[E],
        batch: &Batch,
        active: &[bool],
        ws: &mut Workspace<E>,
        grad: &mut [E],
    ) -> Result<Sum>;
    /// Fills `report` with losses and predictions at every output, whatever its weight, and with
    /// attention and probabilities if the report has arrays for them.
    ///
    /// # Errors
    /// As [`Model::loss_and_grad`]; a report of the wrong size.
    fn report(&self, params: &[E], batch: &Batch, ws: &mut Workspace<E>, report: &mut Report) -> Result<()>;
    /// Attention probabilities on one sequence of T tokens: `out` (Σ_l H_l, T, T), ordered by layer
    /// and head. Rows are queries; masked entries are 0. The workspace may be for either kind of
    /// targets.
    ///
    /// # Errors
    /// As [`Model::loss_and_grad`]; an output of the wrong size.
    fn attention(&self, params: &[E], tokens: &[u32], ws: &mut Workspace<E>, out: &mut [f64]) -> Result<()>;
    /// Scores of the first layer in the coordinates of one-hot tokens and positions, from which its
    /// attention can be computed without a sequence. `None` for a model without such scores; use
    /// [`Model::attention`] there.
    fn first_layer_scores(&self, _params: &[f64]) -> Option<FirstLayerScores> {
        None
    }
}

/// Scores of the first layer's heads over (token, position) of query and key: the score of query i
/// and key j is the sum of the entries of {s_i, S + i} x {s_j, S + j}.
#[derive(Debug, Clone)]
pub struct FirstLayerScores {
    /// (H, S + T, S + T); rows belong to the query.
    pub scores: Vec<f64>,
    /// True if the pattern is shown by the position-position block alone. The paper does so for
    /// models whose tokens and positions have separate dimensions.
    pub by_position: bool,
}

/// Random numbers for [`Model::initial`]. Number i does not depend on which others are drawn.
pub trait Draw {
    /// Standard normal number i.
    fn normal(&self, i: u64) -> f64;
    /// Number i, uniform on (-1, 1).
    fn uniform(&self, i: u64) -> f64;
}

/// The arrays that [`Model::report`] fills, for B sequences with O outputs each.
#[derive(Debug, Clone)]
pub struct Report {
    /// Losses in nats, −ln p̂(label) or −Σ y ln p̂ (B, O).
    pub losses: Vec<f64>,
    /// argmax of the prediction (B, O); ties go to the smaller symbol.
    pub predicted: Vec<u32>,
    /// argmax of the attention, (Σ_l H_l, B, T): the position attended to most; ties go to the
    /// earlier one. Empty if not requested.
    pub attended: Vec<u32>,
    /// p̂ (B, O, S). Empty if not requested.
    pub probs: Vec<f64>,
}

impl Report {
    /// A report for batches of `seqs` sequences with targets of this kind. `attended` and `probs`
    /// request the arrays of the same name.
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
        // The last two are empty if not requested.
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

/// Refuses a number that is not finite in `E`.
pub(crate) fn check_finite<E: Elem>(field: &str, x: f64) -> Result<()> {
    if E::from_f64(x).is_finite() {
        return Ok(());
    }
    Err(Error::invalid(field, format!("{x:e}"), format!("finite in {}", E::NAME)))
}

/// Checks the parents of a construction: one per position, with or without the query's. A parent
/// lies at an earlier position; the query's may lie at any position.
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
