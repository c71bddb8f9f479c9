//! The basic model of Bietti et al. 2023 (arXiv 2306.00802, section 3): two layers of attention without query matrix.
//!
//! | symbol | name here | shape | equation |
//! |---|---|---|---|
//! | E, p | `tok_embeddings.weight`, `pe` | (N, d), (T, d) | x_t = E\[z_t\] + p_t; rotary: x_t = E\[z_t\] |
//! | W_K, W_V, W_O of layer l | `layers.l.attention.{wk,wv,wo}.weight` | (d, d) | linear maps are y = x Wᵀ |
//! | α | pattern | (T, T) | α_ts = softmax_{s<=t}(scale x_tᵀ W_K x_s), scale = 1/√d or 1 |
//! | Φ, Ψ | W_O W_V of layer 1, of layer 2 | (d, d) | h_t = x_t + Φ Σ_s α_ts x_s; Ψ likewise |
//! | W_F | `layers.l.ff.weight`, or `layers.l.ff.{w1,w2}.weight` | (d, d), or (4d, d), (d, 4d) | x ← h + W_F h, or h + W₂ relu(W₁ h) |
//! | W_U | `output.weight` | (N, d) | logits = c W_U x; tied: W_U = E, no block |
//!
//! c = 1; 1/d where the output is tied and trains; 1/√d where it is tied and frozen, whose W_U starts as E/√d: either way the logits of a
//! fresh model are those of E/d. Rotary: x_t of the query and W_K x_s of layer 1 are turned by t and s times 10000^(−2m/d) in the plane of
//! entries 2m, 2m + 1. W_V, W_O of layer 1, W_V of layer 2 and `pe` never train.
//!
//! Start: E, `pe` standard normal, or both divided by √d; W uniform on ±1/√(columns).

use super::Layout;
use super::sequence::{Draw, Report, SequenceMemory, SequenceModel, SequenceWorkspace};
use super::sequence::{FeedForward, MemorySpec, Output, Positions};
use crate::batch::LabelledBatch;
use crate::num::Sum;
use crate::{Error, Result};
use popgrad_kernels::{Elem, Kernels};
use std::ops::Range;

/// The model: sizes and kernels. Parameters live in a flat vector laid out by [`SequenceModel::layout`].
#[derive(Debug)]
pub struct Memory<E> {
    kernels: Kernels<E>,
    spec: MemorySpec,
    layout: Layout,
    blocks: Blocks,
    trainable: Vec<bool>,
}

/// Where blocks are in the layout.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    embeddings: usize,
    pe: Option<usize>,
    /// Of each layer.
    layers: [LayerBlocks; 2],
    output: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
struct LayerBlocks {
    wk: usize,
    wv: usize,
    wo: usize,
    /// The linear map, or w1.
    ff: Option<usize>,
    w2: Option<usize>,
}

impl<E: Elem> Memory<E> {
    /// The model that `spec` describes.
    ///
    /// # Errors
    /// Sizes out of range, an odd width where coordinates go in pairs, positions that this model has not, a frozen block that it has not; an
    /// instruction set forced that this CPU lacks.
    pub fn new(spec: &MemorySpec) -> Result<Self> {
        Self::on(spec, Kernels::from_env()?)
    }

    /// The same on given kernels.
    ///
    /// # Errors
    /// As [`Memory::new`].
    pub fn on(spec: &MemorySpec, kernels: Kernels<E>) -> Result<Self> {
        let MemorySpec { vocab: n, seq_len: t, dim: d, .. } = *spec;
        for (field, value, least) in [("N", n, 1), ("T", t, 2), ("d", d, 1)] {
            if !(least..=1 << 16).contains(&value) {
                return Err(Error::invalid(field, value.to_string(), format!("{least} <= {field} <= 65536")));
            }
        }
        match spec.positions {
            Positions::Learned => {
                return Err(Error::invalid("positions", "learned", "random, sincos or rotary in this model"));
            }
            Positions::SinCos | Positions::Rotary if d % 2 == 1 => {
                return Err(Error::invalid("d", d.to_string(), "an even d: positions turn pairs of entries"));
            }
            _ => {}
        }
        let mut layout = Layout::new();
        let embeddings = layout.push("tok_embeddings.weight", &[n, d])?;
        let pe = match spec.positions {
            Positions::Rotary => None,
            _ => Some(layout.push("pe", &[t, d])?),
        };
        let mut layer = |l: usize| -> Result<LayerBlocks> {
            let mut push =
                |name: &str, shape: &[usize]| layout.push(format!("layers.{l}.{name}.weight"), shape);
            let [wk, wv, wo] = [
                push("attention.wk", &[d, d])?,
                push("attention.wv", &[d, d])?,
                push("attention.wo", &[d, d])?,
            ];
            let (ff, w2) = match spec.ff[l] {
                FeedForward::None => (None, None),
                FeedForward::Linear => (Some(push("ff", &[d, d])?), None),
                FeedForward::Relu => (Some(push("ff.w1", &[4 * d, d])?), Some(push("ff.w2", &[d, 4 * d])?)),
            };
            Ok(LayerBlocks { wk, wv, wo, ff, w2 })
        };
        let layers = [layer(0)?, layer(1)?];
        let output = match spec.output {
            Output::Tied => None,
            _ => Some(layout.push("output.weight", &[n, d])?),
        };
        let blocks = Blocks { embeddings, pe, layers, output };
        let mut trainable = vec![true; layout.blocks().len()];
        [layers[0].wv, layers[0].wo, layers[1].wv].into_iter().chain(pe).for_each(|b| trainable[b] = false);
        if let (Some(b), Output::Frozen | Output::TiedFrozen) = (output, spec.output) {
            trainable[b] = false;
        }
        for name in &spec.frozen {
            match layout.blocks().iter().position(|b| b.name() == name) {
                Some(b) => trainable[b] = false,
                None => {
                    let known = layout.blocks().iter().map(|b| b.name());
                    return Err(Error::unknown("frozen block", name, known));
                }
            }
        }
        Ok(Memory { kernels, spec: spec.clone(), layout, blocks, trainable })
    }

    /// What it was made from.
    pub fn spec(&self) -> &MemorySpec {
        &self.spec
    }

    fn range(&self, block: usize) -> Range<usize> {
        self.layout.blocks()[block].range()
    }

    /// Number of a block among all that such a model can have: what its draws are addressed by, so that options do not change them.
    fn family(&self, block: usize) -> u64 {
        let Blocks { embeddings, pe, layers, output } = self.blocks;
        for (l, b) in layers.into_iter().enumerate() {
            let all = [Some(b.wk), Some(b.wv), Some(b.wo), b.ff, b.w2];
            if let Some(i) = all.iter().position(|x| *x == Some(block)) {
                return 8 * (l as u64 + 1) + i as u64;
            }
        }
        [Some(embeddings), pe, output].iter().position(|x| *x == Some(block)).unwrap_or(3) as u64
    }

    fn sine(&self, t: usize, j: usize) -> f64 {
        let m = (j / 2) as f64;
        let angle = t as f64 * 10000f64.powf(-2.0 * m / self.spec.dim as f64);
        if j % 2 == 0 { angle.sin() } else { angle.cos() }
    }
}

impl<E: Elem> SequenceModel<E> for Memory<E> {
    fn name(&self) -> &'static str {
        "memory"
    }
    fn layout(&self) -> &Layout {
        &self.layout
    }
    fn seq_len(&self) -> usize {
        self.spec.seq_len
    }
    fn vocab(&self) -> usize {
        self.spec.vocab
    }
    fn attention_shape(&self) -> [usize; 2] {
        [2, 1]
    }
    fn trainable(&self) -> &[bool] {
        &self.trainable
    }

    fn initial(&self, draw: &dyn Draw) -> Vec<E> {
        let d = self.spec.dim;
        let mut params = vec![E::ZERO; self.layout.len()];
        let unit = if self.spec.scale_embeddings { 1.0 / (d as f64).sqrt() } else { 1.0 };
        for (b, block) in self.layout.blocks().iter().enumerate() {
            let (base, fan_in) = (self.family(b) << 40, block.shape()[1]);
            let bound = 1.0 / (fan_in as f64).sqrt();
            for (i, x) in params[block.range()].iter_mut().enumerate() {
                let at = base + i as u64;
                *x = E::from_f64(if b == self.blocks.embeddings {
                    unit * draw.normal(at)
                } else if Some(b) == self.blocks.pe {
                    match self.spec.positions {
                        Positions::SinCos => unit * self.sine(i / d, i % d),
                        _ => unit * draw.normal(at),
                    }
                } else {
                    bound * draw.uniform(at)
                });
            }
        }
        if let (Some(b), Output::TiedFrozen) = (self.blocks.output, self.spec.output) {
            let (from, to) = (self.range(self.blocks.embeddings), self.range(b));
            let by = 1.0 / (d as f64).sqrt();
            for (i, o) in from.zip(to) {
                params[o] = E::from_f64(by * params[i].to_f64());
            }
        }
        params
    }

    fn workspace_len(&self, _seqs: usize) -> Option<SequenceMemory> {
        Some(SequenceMemory::default())
    }

    fn loss_and_grad(
        &self,
        _params: &[E],
        _batch: &LabelledBatch,
        _active: &[bool],
        _ws: &mut SequenceWorkspace<E>,
        _grad: &mut [E],
    ) -> Result<Sum> {
        let _ = self.kernels;
        Err(Error::invalid("model", "memory", "a model that computes"))
    }

    fn report(
        &self,
        _params: &[E],
        _batch: &LabelledBatch,
        _ws: &mut SequenceWorkspace<E>,
        _report: &mut Report,
    ) -> Result<()> {
        Err(Error::invalid("model", "memory", "a model that computes"))
    }

    fn attention(
        &self,
        _params: &[E],
        _tokens: &[u32],
        _ws: &mut SequenceWorkspace<E>,
        _out: &mut [f64],
    ) -> Result<()> {
        Err(Error::invalid("model", "memory", "a model that computes"))
    }
}
