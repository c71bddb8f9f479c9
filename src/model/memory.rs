//! The basic model of Bietti et al. 2023 (arXiv 2306.00802, section 3): two layers of attention
//! without query matrix.
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
//! c = 1; 1/d where the output is tied and trains; 1/√d where it is tied and frozen, whose W_U
//! starts as E/√d: either way the logits of a fresh model are those of E/d. Rotary: x_t of the
//! query and W_K x_s of layer 1 are turned by t and s times 10000^(−2m/d) in the plane of entries
//! 2m, 2m + 1. W_V, W_O of layer 1, W_V of layer 2 and `pe` never train.
//!
//! Start: E, `pe` standard normal, or both divided by √d; W uniform on ±1/√(columns).

mod arena;
mod construction;
mod pass;

pub use construction::Memories;

use super::outputs::{Scored, argmax, check_attention, counted};
use super::{Draw, FeedForward, Layout, Model, Output, Positions, Report, Workspace, WorkspaceLen};
use super::{check_active, check_operands};
use crate::batch::{Batch, Targets};
use crate::num::Sum;
use crate::{Error, Result};
use arena::{Activations, Tables};
use pass::{Grads, Sequence, Store, Wanted, With};
use popgrad_kernels::{Elem, Kernels, Mat, MatMut};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What the model is built from, sizes of the task aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemorySpec {
    /// d.
    pub dim: usize,
    /// What follows attention in layer 1.
    pub ff1: FeedForward,
    /// The same of layer 2.
    pub ff2: FeedForward,
    /// Not [`Positions::Learned`].
    pub positions: Positions,
    /// W_U.
    pub output: Output,
    /// Are scores divided by √d?
    pub scale_scores: bool,
    /// Do embeddings start at standard deviation 1/√d instead of 1?
    pub scale_embeddings: bool,
}

impl Default for MemorySpec {
    fn default() -> Self {
        MemorySpec {
            dim: 128,
            ff1: FeedForward::None,
            ff2: FeedForward::None,
            positions: Positions::Random,
            output: Output::Free,
            scale_scores: true,
            scale_embeddings: false,
        }
    }
}

/// Sizes and options that decide where things lie.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// S.
    vocab: usize,
    /// T.
    len: usize,
    /// d.
    dim: usize,
    /// Of each layer.
    ff: [FeedForward; 2],
    rotary: bool,
}

/// The model: sizes and kernels. Parameters live in a flat vector laid out by [`Model::layout`].
#[derive(Debug)]
pub struct Memory<E> {
    kernels: Kernels<E>,
    spec: MemorySpec,
    shape: Shape,
    layout: Layout,
    blocks: Blocks,
    /// Blocks without a gradient.
    buffers: Vec<usize>,
    trainable: Vec<bool>,
    /// Factor of the scores.
    scale: E,
    /// c.
    readout: E,
    /// 0, 1, .. T − 1.
    counting: Vec<u32>,
    /// cos and sin of t times frequency m (T, d/2); empty unless rotary.
    turns: Vec<[E; 2]>,
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
    /// The model over `vocab` symbols (S) on sequences of `seq_len` tokens (T).
    ///
    /// # Errors
    /// Sizes out of range, an odd width where coordinates go in pairs, positions that this model
    /// has not; an instruction set forced that this CPU lacks.
    pub fn new(vocab: usize, seq_len: usize, spec: &MemorySpec) -> Result<Self> {
        Self::on(vocab, seq_len, spec, Kernels::from_env()?)
    }

    /// The same on given kernels.
    ///
    /// # Errors
    /// As [`Memory::new`].
    pub fn on(vocab: usize, seq_len: usize, spec: &MemorySpec, kernels: Kernels<E>) -> Result<Self> {
        let (s, t, d) = (vocab, seq_len, spec.dim);
        for (field, value, least) in [("S", s, 1), ("T", t, 2), ("d", d, 1)] {
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
        let embeddings = layout.push("tok_embeddings.weight", &[s, d])?;
        let pe = match spec.positions {
            Positions::Rotary => None,
            _ => Some(layout.push("pe", &[t, d])?),
        };
        let ff = [spec.ff1, spec.ff2];
        let mut layer = |l: usize| -> Result<LayerBlocks> {
            let mut push =
                |name: &str, shape: &[usize]| layout.push(format!("layers.{l}.{name}.weight"), shape);
            let [wk, wv, wo] = [
                push("attention.wk", &[d, d])?,
                push("attention.wv", &[d, d])?,
                push("attention.wo", &[d, d])?,
            ];
            let (ff, w2) = match ff[l] {
                FeedForward::None => (None, None),
                FeedForward::Linear => (Some(push("ff", &[d, d])?), None),
                FeedForward::Relu => (Some(push("ff.w1", &[4 * d, d])?), Some(push("ff.w2", &[d, 4 * d])?)),
            };
            Ok(LayerBlocks { wk, wv, wo, ff, w2 })
        };
        let layers = [layer(0)?, layer(1)?];
        let output = match spec.output {
            Output::Tied => None,
            _ => Some(layout.push("output.weight", &[s, d])?),
        };
        let blocks = Blocks { embeddings, pe, layers, output };
        let buffers: Vec<usize> = [layers[0].wv, layers[0].wo, layers[1].wv].into_iter().chain(pe).collect();
        let mut trainable = vec![true; layout.blocks().len()];
        buffers.iter().for_each(|b| trainable[*b] = false);
        if let (Some(b), Output::Frozen | Output::TiedFrozen) = (output, spec.output) {
            trainable[b] = false;
        }
        let root = (d as f64).sqrt();
        let scale = E::from_f64(if spec.scale_scores { 1.0 / root } else { 1.0 });
        let readout = E::from_f64(match spec.output {
            Output::Free | Output::Frozen => 1.0,
            Output::Tied => 1.0 / d as f64,
            Output::TiedFrozen => 1.0 / root,
        });
        let counting = (0..t as u32).collect();
        let turn = |i: usize| {
            let angle = angle(i / (d / 2), i % (d / 2), d);
            [E::from_f64(angle.cos()), E::from_f64(angle.sin())]
        };
        let rotary = spec.positions == Positions::Rotary;
        let turns = if rotary { (0..t * (d / 2)).map(turn).collect() } else { Vec::new() };
        Ok(Memory {
            kernels,
            spec: spec.clone(),
            shape: Shape { vocab, len: seq_len, dim: d, ff, rotary },
            layout,
            blocks,
            buffers,
            trainable,
            scale,
            readout,
            counting,
            turns,
        })
    }

    /// What it was made from.
    pub fn spec(&self) -> &MemorySpec {
        &self.spec
    }

    /// c, the factor of the logits.
    pub fn readout(&self) -> f64 {
        self.readout.to_f64()
    }

    fn range(&self, block: usize) -> Range<usize> {
        self.layout.blocks()[block].range()
    }

    /// Number of a block among all that such a model can have: what its draws are addressed by, so
    /// that options do not change them.
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
}

/// t 10000^(−2m/d).
fn angle(t: usize, m: usize, d: usize) -> f64 {
    t as f64 * 10000f64.powf(-2.0 * m as f64 / d as f64)
}

/// A workspace cut up.
struct Room<'a, E> {
    tables: Tables<'a, E>,
    act: Activations<'a, E>,
    with: With<'a, E>,
    /// Of the queries: positions, losses, weights (T).
    queries: &'a mut [usize],
    losses: &'a mut [f64],
    weights: &'a mut [f64],
}

impl<E: Elem> Memory<E> {
    fn needed(&self) -> Option<WorkspaceLen> {
        let t = self.shape.len;
        let (arena, kernel) = (arena::len(&self.shape)?, pass::kernel_len(&self.kernels, &self.shape));
        Some(WorkspaceLen { arena, kernel, reals: 2 * t, indices: t, packed: 0 })
    }

    fn room<'a>(&self, params: &'a [E], ws: &'a mut Workspace<E>) -> Result<Room<'a, E>> {
        let t = self.shape.len;
        let needed = self.needed().filter(|needed| {
            ws.arena.len() >= needed.arena
                && ws.kernel.len() >= needed.kernel
                && ws.reals.len() >= needed.reals
                && ws.indices.len() >= needed.indices
        });
        if needed.is_none() {
            return Err(Error::invalid("workspace", "too small", "one that this model has made"));
        }
        let (tables, act) = arena::carve(&self.shape, ws.arena.as_mut_slice());
        let (losses, rest) = ws.reals.split_at_mut(t);
        let (with, queries) = (With { params, kernel: &mut ws.kernel }, &mut ws.indices[..t]);
        Ok(Room { tables, act, with, queries, losses, weights: &mut rest[..t] })
    }

    /// What `active` asks for.
    fn wanted(&self, active: &[bool]) -> Wanted {
        let b = self.blocks;
        let on = |block: Option<usize>| block.is_some_and(|b| active[b]);
        Wanted {
            embeddings: active[b.embeddings],
            wk: b.layers.map(|l| active[l.wk]),
            ff: b.layers.map(|l| [on(l.ff), on(l.w2)]),
            wo: active[b.layers[1].wo],
            output: active[b.output.unwrap_or(b.embeddings)],
        }
    }

    /// A sequence with the queries of layer 2 at its positions `first ..`; `room.queries` lists
    /// them.
    fn forward(&self, tokens: &[u32], first: usize, store: Store, room: &mut Room<'_, E>) -> Result<()> {
        let n = tokens.len() - first;
        room.queries.iter_mut().enumerate().for_each(|(i, q)| *q = first + i);
        let s = Sequence { tokens, starts: &[0, n], queries: &room.queries[..n], store };
        self.forward_first(s, &room.tables, &mut room.act, &mut room.with)?;
        self.forward_second(s, &room.tables, &mut room.act, &mut room.with)
    }
}

/// Rows whose positions are listed at a time.
const CHUNK: usize = 64;

impl<E: Elem> Model<E> for Memory<E> {
    fn name(&self) -> &'static str {
        "memory"
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
        &[1, 1]
    }
    fn trainable(&self) -> &[bool] {
        &self.trainable
    }

    fn initial(&self, draw: &dyn Draw) -> Vec<E> {
        let d = self.shape.dim;
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
                        Positions::SinCos => {
                            let angle = angle(i / d, i % d / 2, d);
                            unit * if i % 2 == 0 { angle.sin() } else { angle.cos() }
                        }
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

    /// Independent of both arguments: sequences pass one by one.
    fn workspace_len(&self, _targets: Targets, _seqs: usize) -> Option<WorkspaceLen> {
        self.needed()
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
        check_active(self, active, &self.buffers, grad)?;
        let wanted = self.wanted(active);
        let Room { mut tables, mut act, with, queries, losses, weights } = self.room(params, ws)?;
        for (block, on) in self.layout.blocks().iter().zip(active) {
            if *on {
                grad[block.range()].fill(E::ZERO);
            }
        }
        let mut g = Grads { grad, wanted, with };
        self.fill_tables(&mut tables, &mut g.with)?;
        tables.clear();
        let store = if wanted.any() { Store::Probs } else { Store::Nothing };
        let mut total = Sum::new();
        let (t, vocab) = (self.shape.len, self.shape.vocab);
        for b in 0..batch.seqs() {
            let n = counted(batch, b, queries, weights);
            let Some(last) = queries[..n].last() else { continue };
            let tokens = &batch.tokens()[b * t..][..=*last];
            let s = Sequence { tokens, starts: &[0, n], queries: &queries[..n], store };
            let scored = Scored::of(batch, b);
            self.forward_first(s, &tables, &mut act, &mut g.with)?;
            self.forward_second(s, &tables, &mut act, &mut g.with)?;
            let (logits, probs) = (Mat::new(act.logits, n, vocab)?, MatMut::new(act.probs, n, vocab)?);
            scored.losses(&self.kernels, s.queries, logits, losses, probs)?;
            losses[..n].iter().zip(&*weights).for_each(|(l, w)| total.add(l * w));
            if wanted.any() {
                let (probs, dlogits) = (Mat::new(act.probs, n, vocab)?, MatMut::new(act.logits, n, vocab)?);
                scored.losses_backward(&self.kernels, s.queries, weights, probs, dlogits)?;
                self.backward(s, &mut tables, &mut act, &mut g)?;
            }
        }
        self.tables_backward(&tables, &mut g)?;
        Ok(total)
    }

    fn report(&self, params: &[E], batch: &Batch, ws: &mut Workspace<E>, report: &mut Report) -> Result<()> {
        check_operands(self, params, batch)?;
        report.check(batch, 2)?;
        let (t, vocab, seqs, outputs) = (self.shape.len, self.shape.vocab, batch.seqs(), batch.outputs());
        let mut room = self.room(params, ws)?;
        self.fill_tables(&mut room.tables, &mut room.with)?;
        let attended = !report.attended.is_empty();
        // Attention is shown at every position, whatever has an output.
        let (first, store) = if attended { (0, Store::Probs) } else { (t - outputs, Store::Nothing) };
        for b in 0..seqs {
            self.forward(&batch.tokens()[b * t..(b + 1) * t], first, store, &mut room)?;
            let (skip, of) = (t - outputs - first, b * outputs..(b + 1) * outputs);
            let (queries, act) = (&room.queries[skip..skip + outputs], &mut room.act);
            let logits = Mat::new(&act.logits[skip * vocab..], outputs, vocab)?;
            let losses = &mut report.losses[of.clone()];
            let probs = MatMut::new(act.probs, outputs, vocab)?;
            Scored::of(batch, b).losses(&self.kernels, queries, logits, losses, probs)?;
            let probs = &act.probs[..outputs * vocab];
            for (to, p) in report.predicted[of].iter_mut().zip(probs.chunks_exact(vocab)) {
                *to = argmax(p);
            }
            if !report.probs.is_empty() {
                let to = &mut report.probs[b * outputs * vocab..][..outputs * vocab];
                to.iter_mut().zip(probs).for_each(|(to, p)| *to = p.to_f64());
            }
            if attended {
                for (l, p) in [&*act.p1, &*act.p2].into_iter().enumerate() {
                    let to = &mut report.attended[(l * seqs + b) * t..][..t];
                    for (i, (to, p)) in to.iter_mut().zip(p.chunks(arena::stride(t))).enumerate() {
                        *to = argmax(&p[..=i]);
                    }
                }
            }
        }
        Ok(())
    }

    fn attention(&self, params: &[E], tokens: &[u32], ws: &mut Workspace<E>, out: &mut [f64]) -> Result<()> {
        check_attention(self, params, tokens, out)?;
        let t = self.shape.len;
        let mut room = self.room(params, ws)?;
        self.fill_tables(&mut room.tables, &mut room.with)?;
        self.forward(tokens, 0, Store::Probs, &mut room)?;
        for (p, out) in [&*room.act.p1, &*room.act.p2].into_iter().zip(out.chunks_exact_mut(t * t)) {
            for (p, out) in p.chunks(arena::stride(t)).zip(out.chunks_exact_mut(t)) {
                out.iter_mut().zip(p).for_each(|(o, p)| *o = p.to_f64());
            }
        }
        Ok(())
    }
}
