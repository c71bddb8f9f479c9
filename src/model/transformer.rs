//! The full model of Bietti et al. 2023 (arXiv 2306.00802, section 3 and the public code): any
//! number of layers and heads.
//!
//! | symbol | name here | shape | equation |
//! |---|---|---|---|
//! | E, P | `tok_embeddings.weight`, `pos_embeddings.weight` or `pe` | (N, d), (T, d) | x⁰_t = E\[z_t\] + P_t |
//! | W_Q, W_K, W_V, W_O of layer l | `layers.l.attention.{wq,wk,wv,wo}.weight` | (d, d) | linear maps are y = x Wᵀ, without bias |
//! | Attn | heads of d/H columns | (T, d) | W_O \[softmax_{s<=t}(q_t·k_s / √(d/H)) v_s\] |
//! | FF | `layers.l.ff.weight`, or `layers.l.ff.{w1,w2}.weight` | (d, d), or (4d, d), (d, 4d) | W x, or W₂ relu(W₁ x) |
//! | LN | `layers.l.{attention_norm,ff_norm}.{weight,bias}`, `norm.{weight,bias}` | (d) | ε = 1e-5; `norm` after the last layer |
//! | W_U | `output.weight` | (N, d) | logits = W_U x; tied: W_U = E, no block |
//!
//! Blocks, with h = x + Attn(LN x): `Public` is h + FF(LN x), as the public code has it;
//! `Standard` is h + FF(LN h). `PostNorm`: h = LN(x + Attn x), then LN(h + FF h), and no `norm`.
//! Without feed-forward there is no `ff_norm`; without norms LN is the identity.
//!
//! Start: E, P standard normal (`pe`: sines and cosines), W uniform on ±1/√(columns), LN weights 1
//! and biases 0; a frozen tied output is a copy of E.
//!
//! Computation: x⁰ depends on token and position alone, so the first layer up to its attention is
//! computed once for every pair of token and position in the batch (`table.rs`); for `Public` that
//! includes its feed-forward. All other layers process one sequence at a time, forward and
//! backward, in a workspace that does not grow with the batch. The top layer is computed only for
//! the positions that count (`pass.rs`).

mod heads;
mod layer;
mod parts;
mod pass;
mod table;
mod workspace;

use super::outputs::check_attention;
use super::{Draw, FeedForward, Layout, Model, Output, Positions, Report, Workspace, WorkspaceLen};
use super::{check_active, check_operands};
use crate::batch::{Batch, Targets};
use crate::num::Sum;
use crate::{Error, Result};
use heads::Mode;
use popgrad_kernels::{Elem, Kernels};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The order of normalisation and addition in a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockKind {
    /// The paper's public code: h = x + Attn(LN x), then h + FF(LN x): the feed-forward reads x,
    /// not h.
    #[default]
    Public,
    /// The usual pre-norm block: h = x + Attn(LN x), then h + FF(LN h).
    Standard,
    /// h = LN(x + Attn x), then LN(h + FF h).
    PostNorm,
}

/// The options of a [`Transformer`]; the sizes S and T come from the task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransformerSpec {
    /// d.
    pub dim: usize,
    /// L.
    pub layers: usize,
    /// H, a divisor of d: one number for all layers, or L equal ones.
    pub heads: Vec<usize>,
    /// The kind of its blocks.
    pub block: BlockKind,
    /// True if there are layer norms. Without them LN is the identity.
    pub norm: bool,
    /// Feed-forward part of every layer.
    pub ff: FeedForward,
    /// [`Positions::Learned`] or [`Positions::SinCos`].
    pub positions: Positions,
    /// W_U; tied without any scaling.
    pub output: Output,
}

impl Default for TransformerSpec {
    fn default() -> Self {
        TransformerSpec {
            dim: 128,
            layers: 2,
            heads: vec![4],
            block: BlockKind::Public,
            norm: true,
            ff: FeedForward::Relu,
            positions: Positions::Learned,
            output: Output::Free,
        }
    }
}

/// Sizes.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// S.
    vocab: usize,
    /// T.
    len: usize,
    /// d.
    dim: usize,
    /// L.
    layers: usize,
    /// H of every layer.
    heads: usize,
}

/// The model: sizes and kernels. Parameters live in a flat vector laid out by [`Model::layout`].
#[derive(Debug)]
pub struct Transformer<E> {
    kernels: Kernels<E>,
    spec: TransformerSpec,
    shape: Shape,
    /// H of each layer.
    heads: Vec<usize>,
    layout: Layout,
    blocks: Blocks,
    layers: Vec<LayerBlocks>,
    trainable: Vec<bool>,
}

/// Indices of the blocks in the layout. For a norm, that of its weight; the bias follows.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    tokens: usize,
    positions: usize,
    norm: Option<usize>,
    output: Option<usize>,
}

/// Indices of the blocks of a layer. wq, wk, wv are consecutive.
#[derive(Debug, Clone, Copy)]
struct LayerBlocks {
    wq: usize,
    wo: usize,
    /// The linear map, or w1.
    ff: Option<usize>,
    w2: Option<usize>,
    attention_norm: Option<usize>,
    ff_norm: Option<usize>,
}

impl LayerBlocks {
    fn wk(&self) -> usize {
        self.wq + 1
    }
    fn wv(&self) -> usize {
        self.wq + 2
    }
}

impl<E: Elem> Transformer<E> {
    /// The model over `vocab` symbols (S) on sequences of `seq_len` tokens (T).
    ///
    /// # Errors
    /// Sizes out of range; heads that do not divide d or differ between layers; positions other
    /// than learned or sinusoidal; an odd width d with sinusoidal ones; `POPGRAD_ISA` names an
    /// instruction set that this CPU lacks.
    pub fn new(vocab: usize, seq_len: usize, spec: &TransformerSpec) -> Result<Self> {
        Self::on(vocab, seq_len, spec, Kernels::from_env()?)
    }

    /// The same on given kernels.
    ///
    /// # Errors
    /// As [`Transformer::new`].
    pub fn on(vocab: usize, seq_len: usize, spec: &TransformerSpec, kernels: Kernels<E>) -> Result<Self> {
        let (s, t, d, layers) = (vocab, seq_len, spec.dim, spec.layers);
        let sizes =
            [("S", s, 1, 1 << 16), ("T", t, 2, 1 << 16), ("d", d, 1, 1 << 16), ("layers", layers, 1, 64)];
        for (field, value, least, most) in sizes {
            if !(least..=most).contains(&value) {
                return Err(Error::invalid(
                    field,
                    value.to_string(),
                    format!("{least} <= {field} <= {most}"),
                ));
            }
        }
        let heads = match spec.heads[..] {
            [h] => h,
            [h, ref more @ ..] if spec.heads.len() == layers && more.iter().all(|m| *m == h) => h,
            _ => {
                let allowed = format!("one number for all layers, or {layers} equal ones");
                return Err(Error::invalid("heads", format!("{:?}", spec.heads), allowed));
            }
        };
        if heads == 0 || !d.is_multiple_of(heads) {
            return Err(Error::invalid("heads", heads.to_string(), format!("a divisor of d = {d}")));
        }
        let pe = match spec.positions {
            Positions::Learned => "pos_embeddings.weight",
            Positions::SinCos => "pe",
            other => {
                let found = format!("{other:?}").to_lowercase();
                return Err(Error::invalid("positions", found, "learned or sincos in this model"));
            }
        };
        if pe == "pe" && d % 2 == 1 {
            return Err(Error::invalid("d", d.to_string(), "an even d: sines and cosines come in pairs"));
        }
        let mut layout = Layout::new();
        let tokens = layout.push("tok_embeddings.weight", &[s, d])?;
        let positions = layout.push(pe, &[t, d])?;
        let blocks_of = (0..layers).map(|l| push_layer(&mut layout, l, spec)).collect::<Result<Vec<_>>>()?;
        let norm = if spec.norm && spec.block != BlockKind::PostNorm {
            Some(push_norm(&mut layout, "norm", d)?)
        } else {
            None
        };
        let output = match spec.output {
            Output::Tied => None,
            _ => Some(layout.push("output.weight", &[s, d])?),
        };
        let mut trainable = vec![true; layout.blocks().len()];
        trainable[positions] = spec.positions == Positions::Learned;
        if let (Some(b), Output::Frozen | Output::TiedFrozen) = (output, spec.output) {
            trainable[b] = false;
        }
        Ok(Transformer {
            kernels,
            spec: spec.clone(),
            shape: Shape { vocab, len: seq_len, dim: d, layers, heads },
            heads: vec![heads; layers],
            layout,
            blocks: Blocks { tokens, positions, norm, output },
            layers: blocks_of,
            trainable,
        })
    }

    /// The options that it was built from.
    pub fn spec(&self) -> &TransformerSpec {
        &self.spec
    }

    fn range(&self, block: usize) -> Range<usize> {
        self.layout.blocks()[block].range()
    }

    /// Columns of a head.
    fn head_dim(&self) -> usize {
        self.shape.dim / self.shape.heads
    }

    /// Width of the feed-forward's hidden layer, 0 if it has none.
    fn hidden(&self) -> usize {
        if self.spec.ff == FeedForward::Relu { 4 * self.shape.dim } else { 0 }
    }

    fn top(&self) -> usize {
        self.shape.layers - 1
    }

    /// The block that is W_U.
    fn output(&self) -> usize {
        self.blocks.output.unwrap_or(self.blocks.tokens)
    }

    /// Number of a block among all that such a model can have: what its draws are addressed by, so
    /// that options do not change them.
    fn family(&self, block: usize) -> u64 {
        for (l, b) in self.layers.iter().enumerate() {
            let all = [Some(b.wq), Some(b.wk()), Some(b.wv()), Some(b.wo), b.ff, b.w2];
            if let Some(i) = all.iter().position(|x| *x == Some(block)) {
                return 8 * (l as u64 + 1) + i as u64;
            }
        }
        let Blocks { tokens, positions, output, .. } = self.blocks;
        [Some(tokens), Some(positions), output].iter().position(|x| *x == Some(block)).unwrap_or(3) as u64
    }
}

fn push_norm(layout: &mut Layout, name: &str, d: usize) -> Result<usize> {
    let weight = layout.push(format!("{name}.weight"), &[d])?;
    layout.push(format!("{name}.bias"), &[d])?;
    Ok(weight)
}

fn push_layer(layout: &mut Layout, l: usize, spec: &TransformerSpec) -> Result<LayerBlocks> {
    let d = spec.dim;
    let mut push = |name: &str, shape: &[usize]| layout.push(format!("layers.{l}.{name}.weight"), shape);
    let wq = push("attention.wq", &[d, d])?;
    push("attention.wk", &[d, d])?;
    push("attention.wv", &[d, d])?;
    let wo = push("attention.wo", &[d, d])?;
    let (ff, w2) = match spec.ff {
        FeedForward::None => (None, None),
        FeedForward::Linear => (Some(push("ff", &[d, d])?), None),
        FeedForward::Relu => (Some(push("ff.w1", &[4 * d, d])?), Some(push("ff.w2", &[d, 4 * d])?)),
    };
    let mut norm = |name: &str, wanted: bool| -> Result<Option<usize>> {
        if !wanted {
            return Ok(None);
        }
        push_norm(layout, &format!("layers.{l}.{name}"), d).map(Some)
    };
    let attention_norm = norm("attention_norm", spec.norm)?;
    let ff_norm = norm("ff_norm", spec.norm && spec.ff != FeedForward::None)?;
    Ok(LayerBlocks { wq, wo, ff, w2, attention_norm, ff_norm })
}

/// sin or cos of t 10000^(−2m/d), j = 2m or 2m + 1.
fn sine(t: usize, j: usize, d: usize) -> f64 {
    let angle = t as f64 * 10000f64.powf(-2.0 * (j / 2) as f64 / d as f64);
    if j.is_multiple_of(2) { angle.sin() } else { angle.cos() }
}

impl<E: Elem> Model<E> for Transformer<E> {
    fn name(&self) -> &'static str {
        "transformer"
    }
    fn layout(&self) -> &Layout {
        &self.layout
    }
    fn seq_len(&self) -> usize {
        self.shape.len
    }
    fn vocab(&self) -> usize {
        self.shape.vocab
    }
    fn heads(&self) -> &[usize] {
        &self.heads
    }
    fn trainable(&self) -> &[bool] {
        &self.trainable
    }

    fn initial(&self, draw: &dyn Draw) -> Vec<E> {
        let d = self.shape.dim;
        let mut params = vec![E::ZERO; self.layout.len()];
        for (b, block) in self.layout.blocks().iter().enumerate() {
            let params = &mut params[block.range()];
            let [_, fan_in] = *block.shape() else {
                let one = block.name().ends_with(".weight");
                params.fill(if one { E::ONE } else { E::ZERO });
                continue;
            };
            let (base, bound) = (self.family(b) << 40, 1.0 / (fan_in as f64).sqrt());
            for (i, x) in params.iter_mut().enumerate() {
                let at = base + i as u64;
                *x = E::from_f64(if b == self.blocks.positions && self.spec.positions == Positions::SinCos {
                    sine(i / d, i % d, d)
                } else if b == self.blocks.tokens || b == self.blocks.positions {
                    draw.normal(at)
                } else {
                    bound * draw.uniform(at)
                });
            }
        }
        if let (Some(b), Output::TiedFrozen) = (self.blocks.output, self.spec.output) {
            params.copy_within(self.range(self.blocks.tokens), self.range(b).start);
        }
        params
    }

    /// Independent of the targets.
    fn workspace_len(&self, _targets: Targets, seqs: usize) -> Option<WorkspaceLen> {
        self.needed(seqs)
    }

    fn workspace(&self, _targets: Targets, seqs: usize) -> Result<Workspace<E>> {
        self.new_workspace(seqs)
    }

    fn loss_and_grad(
        &self,
        params: &[E],
        batch: &Batch,
        active: &[bool],
        ws: &mut Workspace<E>,
        grad: &mut [E],
    ) -> Result<Sum> {
        check_operands(self, params, batch)?;
        let buffers = [self.blocks.positions];
        let buffers = if self.spec.positions == Positions::SinCos { &buffers[..] } else { &[] };
        check_active(self, active, buffers, grad)?;
        self.check_workspace(batch.seqs(), ws)?;
        for (block, _) in self.layout.blocks().iter().zip(active).filter(|(_, on)| **on) {
            grad[block.range()].fill(E::ZERO);
        }
        self.train(params, batch, active, ws, grad)
    }

    fn report(&self, params: &[E], batch: &Batch, ws: &mut Workspace<E>, report: &mut Report) -> Result<()> {
        check_operands(self, params, batch)?;
        self.check_workspace(batch.seqs(), ws)?;
        report.check(batch, self.shape.layers * self.shape.heads)?;
        self.fill_report(params, batch, ws, report)
    }

    fn attention(&self, params: &[E], tokens: &[u32], ws: &mut Workspace<E>, out: &mut [f64]) -> Result<()> {
        check_attention(self, params, tokens, out)?;
        self.check_workspace(1, ws)?;
        let (t, heads) = (self.shape.len, self.shape.heads);
        out.fill(0.0);
        let mut see = |l: usize, h: usize, i: usize, row: &[E]| {
            let to = &mut out[((l * heads + h) * t + i) * t..][..=i];
            to.iter_mut().zip(row).for_each(|(o, p)| *o = p.to_f64());
        };
        self.forward_one(params, tokens, ws, &mut Mode::Shown(&mut see))
    }
}
