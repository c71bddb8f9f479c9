//! The disentangled (attention-only, concatenating) transformer of Nichani, Damian and Lee 2024.
//!
//! | symbol | name here | shape | equation |
//! |---|---|---|---|
//! | x⁰ | first `d_0` columns of `x` | (T, S+T) | one-hot token, one-hot position |
//! | A_h of layer l | block `A.l` | (heads, d_l, d_l) | attn_h = softmax_{j<=i}(x A_h xᵀ) x |
//! | x^{l+1} | next columns | (T, d_{l+1}) | \[x, attn_1, .., attn_H\], d_{l+1} = d_l (1 + H) |
//! | W | block `W` | (d_L, S) | f = softmax(x_T W) |
//!
//! Scores have no factor 1/√d. Every layer's input is a column prefix of the next one's, so one
//! array holds them all. If the targets are laws, the top layer is computed for the last query
//! only, because nothing else reaches the output. With labels it is computed for all queries, and f
//! at every position.
//!
//! That is the dense path, for any number of layers. With laws, one or two layers use
//! [`structured`](Path::Structured) look-ups instead; tests compare them with the dense path.

mod dense;
mod structured;

use super::layered::{
    Layered, Out, Pass, Pattern, attention, check_sizes, loss_and_grad, report, workspace_len,
};
use super::{Draw, FirstLayerScores, Layout, Model, Report, Workspace, WorkspaceLen};
use crate::batch::{Batch, Targets};
use crate::num::Sum;
use crate::{Error, Result};
use popgrad_kernels::{Elem, Kernels, Mat, Scratch};
use serde::{Deserialize, Serialize};

/// The options of a [`Disentangled`]; the sizes S and T come from the task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DisentangledSpec {
    /// Heads of each layer: 1 to 16 layers of 1 to 64.
    pub heads: Vec<usize>,
    /// Standard deviation of the initial attention matrices, 0 to 1000; W starts at 0.
    #[serde(default)]
    pub init: f64,
}

impl DisentangledSpec {
    /// A model with these numbers of heads in its layers; all parameters start at 0.
    pub fn new(heads: &[usize]) -> Self {
        DisentangledSpec { heads: heads.to_vec(), init: 0.0 }
    }
}

/// How forward and backward passes are computed. Both compute the same function, with different
/// rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Matrix products.
    Dense,
    /// Table look-ups for the one-hot rows; for one or two layers, and laws as targets.
    Structured,
}

/// The model: sizes and kernels. Parameters live in a flat vector laid out by [`Model::layout`].
#[derive(Debug)]
pub struct Disentangled<E> {
    kernels: Kernels<E>,
    vocab: usize,
    seq_len: usize,
    heads: Vec<usize>,
    init: f64,
    /// Width of the input of layer l; the last entry is the width that W reads.
    widths: Vec<usize>,
    layout: Layout,
    trainable: Vec<bool>,
    path: Path,
}

impl<E: Elem> Disentangled<E> {
    /// The model over `vocab` symbols (S) on sequences of `seq_len` tokens (T).
    ///
    /// # Errors
    /// Sizes out of range; more than 2^31 parameters; `POPGRAD_ISA` names an instruction set that
    /// this CPU lacks.
    pub fn new(vocab: usize, seq_len: usize, spec: &DisentangledSpec) -> Result<Self> {
        let DisentangledSpec { heads, init } = spec.clone();
        check_sizes(vocab, seq_len, &heads, init)?;
        let mut widths = vec![vocab + seq_len];
        let mut layout = Layout::new();
        for (l, h) in heads.iter().enumerate() {
            let d = widths[l];
            layout.push(format!("A.{l}"), &[*h, d, d])?;
            widths.push(d * (1 + h));
        }
        layout.push("W", &[widths[heads.len()], vocab])?;
        let trainable = vec![true; layout.blocks().len()];
        let kernels = Kernels::from_env()?;
        let path = if heads.len() <= 2 { Path::Structured } else { Path::Dense };
        Ok(Disentangled { kernels, vocab, seq_len, heads, init, widths, layout, trainable, path })
    }

    /// The same model with another path. [`Disentangled::new`] takes the structured path where it
    /// applies.
    ///
    /// # Errors
    /// [`Path::Structured`] for more than two layers.
    pub fn with_path(mut self, path: Path) -> Result<Self> {
        if path == Path::Structured && self.heads.len() > 2 {
            let found = format!("structured, {} layers", self.heads.len());
            return Err(Error::invalid("path", found, "one or two layers, or the dense path"));
        }
        self.path = path;
        Ok(self)
    }

    /// The same model on these kernels, which may use another instruction set than the process's.
    pub fn with_kernels(mut self, kernels: Kernels<E>) -> Self {
        self.kernels = kernels;
        self
    }

    /// Width d_l of the input of each layer, and of what W reads.
    pub fn widths(&self) -> &[usize] {
        &self.widths
    }

    fn top(&self) -> usize {
        self.heads.len() - 1
    }

    /// Queries of layer l if the top layer has `rows`.
    fn queries(&self, l: usize, rows: usize) -> usize {
        if l == self.top() { rows } else { self.seq_len }
    }

    /// True if a pass with `rows` queries in the top layer uses look-ups.
    fn by_look_ups(&self, rows: usize) -> bool {
        self.path == Path::Structured && rows == 1
    }

    /// Matrix A_h of layer l, (d_l, d_l).
    fn a<'p>(&self, params: &'p [E], l: usize, h: usize) -> Result<Mat<'p, E>> {
        let d = self.widths[l];
        let block = &params[self.layout.blocks()[l].range()];
        Ok(Mat::new(&block[h * d * d..], d, d)?)
    }
}

impl<E: Elem> Layered<E> for Disentangled<E> {
    fn kernels(&self) -> &Kernels<E> {
        &self.kernels
    }

    fn pass_len(&self, n: usize, rows: usize) -> Option<[usize; 2]> {
        if self.by_look_ups(rows) { self.structured_len(n) } else { self.dense_len(n, rows) }
    }

    fn logit_rows(&self, n: usize, rows: usize) -> Option<usize> {
        if self.by_look_ups(rows) { structured::columns(n) } else { n.checked_mul(rows) }
    }

    fn layers_forward(
        &self,
        pass: &Pass<'_, E>,
        own: &mut [E],
        logits: &mut [E],
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        match self.by_look_ups(pass.rows) {
            true => self.structured_forward(pass, own, logits, kernel),
            false => self.dense_forward(pass, own, logits, kernel),
        }
    }

    fn layers_backward(
        &self,
        pass: &Pass<'_, E>,
        own: &mut [E],
        dlogits: &[E],
        out: &mut Out<'_, E>,
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        match self.by_look_ups(pass.rows) {
            true => self.structured_backward(pass, own, dlogits, out, kernel),
            false => self.dense_backward(pass, own, dlogits, out, kernel),
        }
    }

    fn pattern<'a>(&self, n: usize, own: &'a [E], l: usize, h: usize) -> Pattern<'a, E> {
        self.dense_pattern(n, own, l, h)
    }
}

impl<E: Elem> Model<E> for Disentangled<E> {
    fn name(&self) -> &'static str {
        "disentangled"
    }
    fn layout(&self) -> &Layout {
        &self.layout
    }
    fn seq_len(&self) -> usize {
        self.seq_len
    }
    fn vocab(&self) -> usize {
        self.vocab
    }
    fn heads(&self) -> &[usize] {
        &self.heads
    }
    fn trainable(&self) -> &[bool] {
        &self.trainable
    }

    fn initial(&self, draw: &dyn Draw) -> Vec<E> {
        let mut params = vec![E::ZERO; self.layout.len()];
        if self.init > 0.0 {
            for block in &self.layout.blocks()[..self.heads.len()] {
                block.range().for_each(|i| params[i] = E::from_f64(self.init * draw.normal(i as u64)));
            }
        }
        params
    }

    fn workspace_len(&self, targets: Targets, seqs: usize) -> Option<WorkspaceLen> {
        workspace_len(self, targets, seqs)
    }

    fn loss_and_grad(
        &self,
        params: &[E],
        batch: &Batch,
        active: &[bool],
        ws: &mut Workspace<E>,
        grad: &mut [E],
    ) -> Result<Sum> {
        loss_and_grad(self, params, batch, active, ws, grad)
    }

    fn report(&self, params: &[E], batch: &Batch, ws: &mut Workspace<E>, out: &mut Report) -> Result<()> {
        report(self, params, batch, ws, out)
    }

    fn attention(&self, params: &[E], tokens: &[u32], ws: &mut Workspace<E>, out: &mut [f64]) -> Result<()> {
        attention(self, params, tokens, ws, out)
    }

    /// Block `A.0`, unchanged.
    fn first_layer_scores(&self, params: &[f64]) -> Option<FirstLayerScores> {
        let scores = params.get(self.layout.blocks()[0].range())?.to_vec();
        Some(FirstLayerScores { scores, by_position: true })
    }
}
