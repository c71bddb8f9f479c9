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
//!
//! Past 400 lines: the names of the blocks, where each begins and what may train are one table, and the trait's methods follow it.

mod arena;
mod construction;
mod pass;

pub use construction::Memories;

use super::Layout;
use super::sequence::{Draw, Report, SequenceMemory, SequenceModel, SequenceWorkspace};
use super::sequence::{FeedForward, MemorySpec, Output, Positions};
use super::sequence::{check_active, check_buffers, check_sequences};
use crate::batch::LabelledBatch;
use crate::num::Sum;
use crate::{Error, Result};
use arena::{Activations, Tables};
use pass::{Sequence, Store, Wanted};
use popgrad_kernels::{Elem, Kernels, Mat, MatMut, Scratch};
use std::ops::Range;

/// The model: sizes and kernels. Parameters live in a flat vector laid out by [`SequenceModel::layout`].
#[derive(Debug)]
pub struct Memory<E> {
    kernels: Kernels<E>,
    spec: MemorySpec,
    layout: Layout,
    blocks: Blocks,
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
        let turns =
            if spec.positions == Positions::Rotary { (0..t * (d / 2)).map(turn).collect() } else { vec![] };
        let spec = spec.clone();
        Ok(Memory { kernels, spec, layout, blocks, trainable, scale, readout, counting, turns })
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
}

/// t 10000^(−2m/d).
fn angle(t: usize, m: usize, d: usize) -> f64 {
    t as f64 * 10000f64.powf(-2.0 * m as f64 / d as f64)
}

/// A workspace cut up.
struct Room<'a, E> {
    tables: Tables<'a, E>,
    act: Activations<'a, E>,
    kernel: &'a mut Scratch<E>,
    /// Of the queries: positions, losses, weights (T).
    queries: &'a mut [usize],
    losses: &'a mut [f64],
    weights: &'a mut [f64],
}

impl<E: Elem> Memory<E> {
    fn room<'a>(&self, ws: &'a mut SequenceWorkspace<E>) -> Result<Room<'a, E>> {
        let t = self.spec.seq_len;
        let needed = self.workspace_len(1).filter(|needed| {
            ws.arena.len() >= needed.arena
                && ws.kernel.len() >= needed.kernel
                && ws.reals.len() >= needed.reals
                && ws.indices.len() >= needed.indices
        });
        if needed.is_none() {
            return Err(Error::invalid("workspace", "too small", "one that this model has made"));
        }
        let (tables, act) = arena::carve(&self.spec, ws.arena.as_mut_slice());
        let (losses, rest) = ws.reals.split_at_mut(t);
        let queries = &mut ws.indices[..t];
        Ok(Room { tables, act, kernel: &mut ws.kernel, queries, losses, weights: &mut rest[..t] })
    }

    /// What `active` asks for.
    fn wanted(&self, active: &[bool]) -> Result<Wanted> {
        let b = self.blocks;
        let fixed = [b.layers[0].wv, b.layers[0].wo, b.layers[1].wv];
        check_buffers(&self.layout, active, fixed.into_iter().chain(b.pe))?;
        let on = |block: Option<usize>| block.is_some_and(|b| active[b]);
        Ok(Wanted {
            embeddings: active[b.embeddings],
            wk: b.layers.map(|l| active[l.wk]),
            ff: b.layers.map(|l| [on(l.ff), on(l.w2)]),
            wo: active[b.layers[1].wo],
            output: active[b.output.unwrap_or(b.embeddings)],
        })
    }

    /// A sequence at all its positions; `room.queries` lists them.
    fn whole(&self, params: &[E], tokens: &[u32], store: Store, room: &mut Room<'_, E>) -> Result<()> {
        room.queries.iter_mut().enumerate().for_each(|(i, q)| *q = i);
        let s = Sequence { tokens, starts: &[0, tokens.len()], queries: room.queries, store };
        self.forward_first(params, s, &room.tables, &mut room.act, room.kernel)?;
        self.forward_second(params, s, &room.tables, &mut room.act, room.kernel)
    }

    /// Losses at the queries, and predictions.
    fn losses(
        &self,
        queries: &[usize],
        labels: &[u32],
        act: &mut Activations<'_, E>,
        losses: &mut [f64],
    ) -> Result<()> {
        let vocab = self.spec.vocab;
        // Labels side by side: a few at a time, on the stack.
        for (c, queries) in queries.chunks(CHUNK).enumerate() {
            let (first, n, mut own) = (c * CHUNK, queries.len(), [0; CHUNK]);
            own.iter_mut().zip(queries).for_each(|(to, i)| *to = labels[*i]);
            let logits = Mat::new(&act.logits[first * vocab..], n, vocab)?;
            let probs = MatMut::new(&mut act.probs[first * vocab..], n, vocab)?;
            self.kernels.cross_entropy_labels(logits, &own[..n], &mut losses[first..first + n], probs)?;
        }
        Ok(())
    }

    /// The gradient of Σ w ℓ in the logits, in their place.
    fn losses_backward(
        &self,
        queries: &[usize],
        labels: &[u32],
        weights: &[f64],
        act: &mut Activations<'_, E>,
    ) -> Result<()> {
        let vocab = self.spec.vocab;
        for (c, queries) in queries.chunks(CHUNK).enumerate() {
            let (first, n, mut own) = (c * CHUNK, queries.len(), [0; CHUNK]);
            own.iter_mut().zip(queries).for_each(|(to, i)| *to = labels[*i]);
            let probs = Mat::new(&act.probs[first * vocab..], n, vocab)?;
            let dlogits = MatMut::new(&mut act.logits[first * vocab..], n, vocab)?;
            let weights = &weights[first..first + n];
            self.kernels.cross_entropy_labels_backward(probs, &own[..n], weights, dlogits)?;
        }
        Ok(())
    }
}

/// Rows whose labels or positions are listed at a time.
const CHUNK: usize = 64;

/// The first of the largest.
fn argmax<E: Elem>(x: &[E]) -> usize {
    let mut best = 0;
    for (i, y) in x.iter().enumerate() {
        if *y > x[best] {
            best = i;
        }
    }
    best
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

    fn workspace_len(&self, _seqs: usize) -> Option<SequenceMemory> {
        let t = self.spec.seq_len;
        let (arena, kernel) = (arena::len(&self.spec)?, pass::kernel_len(&self.kernels, &self.spec));
        Some(SequenceMemory { arena, kernel, reals: 2 * t, indices: t, packed: 0 })
    }

    fn loss_and_grad(
        &self,
        params: &[E],
        batch: &LabelledBatch,
        active: &[bool],
        ws: &mut SequenceWorkspace<E>,
        grad: &mut [E],
    ) -> Result<Sum> {
        check_sequences(self, params, batch)?;
        check_active(self, active, grad)?;
        let wanted = self.wanted(active)?;
        let mut room = self.room(ws)?;
        for (block, on) in self.layout.blocks().iter().zip(active) {
            if *on {
                grad[block.range()].fill(E::ZERO);
            }
        }
        self.fill_tables(params, &mut room.tables, room.kernel)?;
        room.tables.clear();
        let store = if wanted.any() { Store::Probs } else { Store::Nothing };
        let mut total = Sum::new();
        let t = self.spec.seq_len;
        for b in 0..batch.seqs() {
            let row = b * t..(b + 1) * t;
            let (tokens, labels) = (&batch.tokens()[row.clone()], &batch.labels()[row.clone()]);
            let weights = &batch.weights()[row];
            let mut n = 0;
            for (i, w) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
                (room.queries[n], room.weights[n]) = (i, *w);
                n += 1;
            }
            let Some(last) = room.queries[..n].last() else { continue };
            let s =
                Sequence { tokens: &tokens[..=*last], starts: &[0, n], queries: &room.queries[..n], store };
            let (tables, act) = (&mut room.tables, &mut room.act);
            self.forward_first(params, s, tables, act, room.kernel)?;
            self.forward_second(params, s, tables, act, room.kernel)?;
            self.losses(s.queries, labels, act, room.losses)?;
            room.losses[..n].iter().zip(&*room.weights).for_each(|(l, w)| total.add(l * w));
            if wanted.any() {
                self.losses_backward(s.queries, labels, room.weights, act)?;
                self.backward(params, s, &wanted, tables, act, grad, room.kernel)?;
            }
        }
        self.tables_backward(params, &wanted, &room.tables, grad, room.kernel)?;
        Ok(total)
    }

    fn report(
        &self,
        params: &[E],
        batch: &LabelledBatch,
        ws: &mut SequenceWorkspace<E>,
        report: &mut Report,
    ) -> Result<()> {
        check_sequences(self, params, batch)?;
        let (t, vocab, seqs) = (self.spec.seq_len, self.spec.vocab, batch.seqs());
        let all = seqs * t;
        let fits = |field: &str, found: usize, allowed: &[usize]| {
            if allowed.contains(&found) {
                return Ok(());
            }
            Err(Error::invalid(field, format!("{found} entries"), format!("{allowed:?} for this batch")))
        };
        fits("losses", report.losses.len(), &[all])?;
        fits("predicted", report.predicted.len(), &[all])?;
        fits("attended", report.attended.len(), &[0, 2 * all])?;
        fits("probs", report.probs.len(), &[0, vocab * all])?;
        let mut room = self.room(ws)?;
        self.fill_tables(params, &mut room.tables, room.kernel)?;
        let store = if report.attended.is_empty() { Store::Nothing } else { Store::Probs };
        for b in 0..seqs {
            let row = b * t..(b + 1) * t;
            self.whole(params, &batch.tokens()[row.clone()], store, &mut room)?;
            self.losses(room.queries, &batch.labels()[row.clone()], &mut room.act, room.losses)?;
            report.losses[row.clone()].copy_from_slice(room.losses);
            let probs = &room.act.probs[..t * vocab];
            for (to, p) in report.predicted[row.clone()].iter_mut().zip(probs.chunks_exact(vocab)) {
                *to = argmax(p) as u32;
            }
            if !report.probs.is_empty() {
                let to = &mut report.probs[b * t * vocab..(b + 1) * t * vocab];
                to.iter_mut().zip(probs).for_each(|(to, p)| *to = p.to_f64());
            }
            if !report.attended.is_empty() {
                for (l, p) in [&*room.act.p1, &*room.act.p2].into_iter().enumerate() {
                    let to = &mut report.attended[l * all..][row.clone()];
                    for (i, (to, p)) in to.iter_mut().zip(p.chunks(arena::stride(t))).enumerate() {
                        *to = argmax(&p[..=i]) as u32;
                    }
                }
            }
        }
        Ok(())
    }

    fn attention(
        &self,
        params: &[E],
        tokens: &[u32],
        ws: &mut SequenceWorkspace<E>,
        out: &mut [f64],
    ) -> Result<()> {
        let t = self.spec.seq_len;
        for (field, found, allowed) in [
            ("T", tokens.len(), t),
            ("params length", params.len(), self.layout.len()),
            ("attention", out.len(), 2 * t * t),
        ] {
            if found != allowed {
                return Err(Error::invalid(field, found.to_string(), format!("{allowed} for this model")));
            }
        }
        if let Some(z) = tokens.iter().find(|z| **z as usize >= self.spec.vocab) {
            let allowed = format!("0 <= symbol < {}", self.spec.vocab);
            return Err(Error::invalid("tokens", z.to_string(), allowed));
        }
        let mut room = self.room(ws)?;
        self.fill_tables(params, &mut room.tables, room.kernel)?;
        self.whole(params, tokens, Store::Probs, &mut room)?;
        for (p, out) in [&*room.act.p1, &*room.act.p2].into_iter().zip(out.chunks_exact_mut(t * t)) {
            for (p, out) in p.chunks(arena::stride(t)).zip(out.chunks_exact_mut(t)) {
                out.iter_mut().zip(p).for_each(|(o, p)| *o = p.to_f64());
            }
        }
        Ok(())
    }
}
