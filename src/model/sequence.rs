//! Models with a prediction at every position: forward and backward by hand over the kernels.
//!
//! A [`SequenceModel`] sees a [`LabelledBatch`] and a flat parameter vector whose named blocks its [`Layout`] lists. Sums are not
//! normalised: whoever holds all of a batch divides by Σ w. Blocks may be left out of the gradient, and cost nothing then.

use super::Layout;
use crate::batch::LabelledBatch;
use crate::num::Sum;
use crate::{Error, Result};
use popgrad_kernels::{Elem, PackedB, Scratch};

/// What every model with a prediction at every position offers. Object-safe; all memory comes from a [`SequenceWorkspace`] made once.
pub trait SequenceModel<E: Elem>: Send + Sync {
    /// Registry name.
    fn name(&self) -> &'static str;
    /// Named blocks of the parameter vector, frozen ones and buffers included.
    fn layout(&self) -> &Layout;
    /// Tokens per sequence (T).
    fn seq_len(&self) -> usize;
    /// Alphabet size (N).
    fn vocab(&self) -> usize;
    /// Attention layers, and heads of each.
    fn attention_shape(&self) -> [usize; 2];
    /// Of each block of the layout, whether anything ever trains it.
    fn trainable(&self) -> &[bool];
    /// Where training starts; `draw` gives addressed draws.
    fn initial(&self, draw: &dyn Draw) -> Vec<E>;
    /// Memory that batches of up to `seqs` sequences need; `None` on overflow. Models work sequence by sequence, so most of it does
    /// not grow.
    fn workspace_len(&self, seqs: usize) -> Option<SequenceMemory>;
    /// Memory for batches of up to `seqs` sequences.
    ///
    /// # Errors
    /// When the size overflows.
    fn workspace(&self, seqs: usize) -> Result<SequenceWorkspace<E>> {
        let len = self.workspace_len(seqs).ok_or_else(|| {
            let found = format!("{seqs} sequences of this model");
            Error::invalid("B", found, "a batch whose activations fit memory")
        })?;
        Ok(SequenceWorkspace::new(&len))
    }
    /// Σ w ℓ over the positions with w > 0, and in `grad` (overwritten) its gradient in the blocks that are `active` (one flag for
    /// each block of the layout). Entries of other blocks are left alone. Buffers (`pe`, the fixed maps of the basic model) have no
    /// gradient; a frozen output has one. Allocates nothing.
    ///
    /// # Errors
    /// When the batch, the parameters, the flags or the workspace do not fit the model; a token or label out of range; a buffer that is
    /// active.
    fn loss_and_grad(
        &self,
        params: &[E],
        batch: &LabelledBatch,
        active: &[bool],
        ws: &mut SequenceWorkspace<E>,
        grad: &mut [E],
    ) -> Result<Sum>;
    /// Losses and predictions at every position, whatever its weight.
    ///
    /// # Errors
    /// As [`SequenceModel::loss_and_grad`]; a report of another size.
    fn report(
        &self,
        params: &[E],
        batch: &LabelledBatch,
        ws: &mut SequenceWorkspace<E>,
        report: &mut Report,
    ) -> Result<()>;
    /// Attention on one sequence of T tokens: `out` (layers, heads, T, T), rows queries, 0 behind the mask.
    ///
    /// # Errors
    /// As [`SequenceModel::loss_and_grad`]; an output of another size.
    fn attention(
        &self,
        params: &[E],
        tokens: &[u32],
        ws: &mut SequenceWorkspace<E>,
        out: &mut [f64],
    ) -> Result<()>;
}

/// Addressed draws for [`SequenceModel::initial`]: number i of a block is the same whatever else is drawn.
pub trait Draw {
    /// Standard normal number i.
    fn normal(&self, i: u64) -> f64;
    /// Number i, uniform on (-1, 1).
    fn uniform(&self, i: u64) -> f64;
}

/// What [`SequenceModel::report`] fills, for up to `capacity` sequences.
#[derive(Debug, Clone)]
pub struct Report {
    /// −ln p̂(label) (B, T).
    pub losses: Vec<f64>,
    /// argmax of the prediction (B, T); ties go to the smaller symbol.
    pub predicted: Vec<u32>,
    /// argmax of the attention, (layers, heads, B, T): the position attended to most; ties go to the earlier one. Empty: not wanted.
    pub attended: Vec<u32>,
    /// p̂ (B, T, N). Empty: not wanted.
    pub probs: Vec<f64>,
}

impl Report {
    /// For batches of `seqs` sequences of `model`; attention and probabilities if wanted.
    pub fn new<E: Elem>(model: &dyn SequenceModel<E>, seqs: usize, attended: bool, probs: bool) -> Self {
        let n = seqs * model.seq_len();
        let [layers, heads] = model.attention_shape();
        Report {
            losses: vec![0.0; n],
            predicted: vec![0; n],
            attended: vec![0; if attended { layers * heads * n } else { 0 }],
            probs: vec![0.0; if probs { n * model.vocab() } else { 0 }],
        }
    }
}

/// Lengths of a [`SequenceWorkspace`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SequenceMemory {
    /// Elements of activations.
    pub arena: usize,
    /// Elements of kernel scratch.
    pub kernel: usize,
    /// f64 numbers.
    pub reals: usize,
    /// Indices.
    pub indices: usize,
    /// Elements of weights in panels.
    pub packed: usize,
}

impl SequenceMemory {
    /// Bytes in all, with elements of type `E`; `None` on overflow.
    pub fn bytes<E>(&self) -> Option<usize> {
        let elements =
            self.arena.checked_add(self.kernel)?.checked_add(self.packed)?.checked_mul(size_of::<E>())?;
        let others = self.reals.checked_add(self.indices)?.checked_mul(8)?;
        elements.checked_add(others)
    }
}

/// Memory of one shard, allocated once.
#[derive(Debug)]
pub struct SequenceWorkspace<E> {
    /// Activations, carved up by the model.
    pub(crate) arena: Scratch<E>,
    /// Lent to kernels.
    pub(crate) kernel: Scratch<E>,
    /// Losses, moments, weights.
    pub(crate) reals: Vec<f64>,
    /// Lists of positions.
    pub(crate) indices: Vec<usize>,
    /// Weights in panels, for models that want them.
    pub(crate) packed: Vec<PackedB<E>>,
}

impl<E: Elem> SequenceWorkspace<E> {
    pub(crate) fn new(len: &SequenceMemory) -> Self {
        SequenceWorkspace {
            arena: Scratch::new(len.arena),
            kernel: Scratch::new(len.kernel),
            reals: vec![0.0; len.reals],
            indices: vec![0; len.indices],
            packed: Vec::new(),
        }
    }
}

/// What follows attention in a block of width d.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForward {
    /// Nothing.
    None,
    /// h + W h, W (d, d).
    Linear,
    /// h + W2 relu(W1 h), W1 (4d, d), W2 (d, 4d).
    Relu,
}

/// How a model knows positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// Random vectors, never trained (`pe`).
    Random,
    /// Sines and cosines of geometric frequencies, never trained (`pe`).
    SinCos,
    /// Rotation of queries and keys in the first layer; nothing is added to the tokens.
    Rotary,
    /// Vectors that train (`pos_embeddings.weight`).
    Learned,
}

/// The output matrix W_U.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// A matrix of its own, which trains.
    Free,
    /// The same, never trained.
    Frozen,
    /// The token embeddings, gradients from both places.
    Tied,
    /// A copy of the token embeddings (basic model: of E/√d) as they are at the start, never trained.
    TiedFrozen,
}

/// The basic model of Bietti et al. 2023: two layers of attention without query matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct MemorySpec {
    /// N.
    pub vocab: usize,
    /// T.
    pub seq_len: usize,
    /// d.
    pub dim: usize,
    /// Of layer 1 and layer 2.
    pub ff: [FeedForward; 2],
    /// Not [`Positions::Learned`].
    pub positions: Positions,
    /// W_U.
    pub output: Output,
    /// Are scores divided by sqrt(d)?
    pub scale_scores: bool,
    /// Do embeddings start at standard deviation 1/sqrt(d) instead of 1?
    pub scale_embeddings: bool,
    /// Names of further blocks that nothing trains.
    pub frozen: Vec<String>,
}

/// In what order a block of the full model normalises and adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// The paper's public code: h = x + Attn(LN x), then h + FF(LN x): the feed-forward reads x, not h.
    Public,
    /// The usual pre-norm block: h = x + Attn(LN x), then h + FF(LN h).
    Standard,
    /// h = LN(x + Attn x), then LN(h + FF h).
    PostNorm,
}

/// The full model: any number of layers and heads, with queries, norms and learned positions.
#[derive(Debug, Clone, PartialEq)]
pub struct TransformerSpec {
    /// N.
    pub vocab: usize,
    /// T.
    pub seq_len: usize,
    /// d.
    pub dim: usize,
    /// L.
    pub layers: usize,
    /// H, a divisor of d.
    pub heads: usize,
    /// Its blocks.
    pub block: BlockKind,
    /// Are there layer norms? Without them blocks are as they say, LN left out.
    pub norm: bool,
    /// Of every layer.
    pub ff: FeedForward,
    /// [`Positions::Learned`] or [`Positions::SinCos`].
    pub positions: Positions,
    /// W_U; tied without any scaling.
    pub output: Output,
    /// Names of blocks that nothing trains.
    pub frozen: Vec<String>,
}

/// Short names of the memories, with the blocks that hold them.
const ALIASES: [(&str, &str); 6] = [
    ("embeddings", "tok_embeddings.weight"),
    ("output", "output.weight"),
    ("wk0", "layers.0.attention.wk.weight"),
    ("wk1", "layers.1.attention.wk.weight"),
    ("wo1", "layers.1.attention.wo.weight"),
    ("ff1", "layers.1.ff"),
];

/// The blocks that `name` means: a short name, one block of that name, or all whose names begin with it and go on with a point.
///
/// # Errors
/// Names of nothing in this layout; `key` is where the name was given.
pub fn named_blocks(key: &'static str, name: &str, layout: &Layout) -> Result<Vec<usize>> {
    let found = blocks_of(name, layout);
    // What is not there does not train: presets freeze the output of any model, a tied one too.
    if found.is_empty() && (key, name) != ("frozen", "output") {
        let aliases = ALIASES.iter().map(|a| a.0).filter(|a| !blocks_of(a, layout).is_empty());
        return Err(Error::unknown(key, name, layout.blocks().iter().map(|b| b.name()).chain(aliases)));
    }
    Ok(found)
}

fn blocks_of(name: &str, layout: &Layout) -> Vec<usize> {
    let meant = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, block)| block);
    let is = |n: &str| n == meant || n.strip_prefix(meant).is_some_and(|rest| rest.starts_with('.'));
    (0..layout.blocks().len()).filter(|b| is(layout.blocks()[*b].name())).collect()
}

/// Checks what every such model requires of its operands.
pub(crate) fn check_sequences<E: Elem>(
    model: &dyn SequenceModel<E>,
    params: &[E],
    batch: &LabelledBatch,
) -> Result<()> {
    let same = |field: &str, found: usize, expected: usize| {
        if found == expected {
            Ok(())
        } else {
            Err(Error::invalid(field, found.to_string(), format!("{expected} for this model")))
        }
    };
    same("T", batch.len_tokens(), model.seq_len())?;
    same("N", batch.vocab(), model.vocab())?;
    same("params length", params.len(), model.layout().len())?;
    let n = model.vocab();
    for (field, symbols) in [("tokens", batch.tokens()), ("labels", batch.labels())] {
        if let Some(i) = symbols.iter().position(|s| *s as usize >= n) {
            let found = format!("{} in sequence {}", symbols[i], i / model.seq_len());
            return Err(Error::invalid(field, found, format!("0 <= symbol < {n}")));
        }
    }
    if let Some(w) = batch.weights().iter().find(|w| !(**w >= 0.0 && w.is_finite())) {
        return Err(Error::invalid("mask", w.to_string(), "weights that are finite, >= 0"));
    }
    Ok(())
}

/// Refuses flags that ask for the gradient of a buffer.
pub(crate) fn check_buffers(
    layout: &Layout,
    active: &[bool],
    buffers: impl IntoIterator<Item = usize>,
) -> Result<()> {
    match buffers.into_iter().find(|b| active[*b]) {
        Some(b) => Err(Error::invalid("active", layout.blocks()[b].name(), "blocks that can train")),
        None => Ok(()),
    }
}

/// Checks the flags and the gradient of [`SequenceModel::loss_and_grad`].
pub(crate) fn check_active<E: Elem>(model: &dyn SequenceModel<E>, active: &[bool], grad: &[E]) -> Result<()> {
    let blocks = model.layout().blocks().len();
    if active.len() != blocks {
        return Err(Error::invalid("active", format!("{} flags", active.len()), format!("{blocks} blocks")));
    }
    if grad.len() != model.layout().len() {
        let allowed = format!("{} entries", model.layout().len());
        return Err(Error::invalid("grad", format!("{} entries", grad.len()), allowed));
    }
    Ok(())
}
