//! A batch, sequence by sequence: the layers forward, the loss, the layers backward.

use super::super::sequence::{Report, SequenceWorkspace};
use super::Transformer;
use super::heads::{Asking, Mode};
use super::layer::{Front, gather};
use super::memory::{Activations, Grads, Indices, O, Reals, Temporary, With};
use super::table::add;
use crate::Result;
use crate::batch::LabelledBatch;
use crate::model::BlockKind;
use crate::num::Sum;
use popgrad_kernels::{Elem, Mat, MatMut, Write};

impl<E: Elem> Transformer<E> {
    /// Input of layer `l`, and where what leaves it goes.
    fn streams<'a>(&self, l: usize, x: &'a mut [E]) -> (&'a mut [E], &'a mut [E]) {
        let (each, len) = (self.capacity() * self.spec.dim, self.spec.seq_len * self.spec.dim);
        let (below, above) = x.split_at_mut((l + 1) * each);
        (&mut below[l * each..][..len], &mut above[..len])
    }

    /// Logits, losses and softmax of the sequence whose positions have the table's `rows`; at the top of those that ask.
    #[allow(clippy::too_many_arguments)]
    fn forward(
        &self,
        rows: &[usize],
        labels: &[u32],
        list: Option<&Asking<'_>>,
        act: &mut Activations<'_, E>,
        reals: &mut Reals<'_>,
        mode: &mut Mode<'_, E>,
        with: &mut With<'_, E>,
    ) -> Result<()> {
        let (t, d, n, k) = (self.spec.seq_len, self.spec.dim, self.spec.vocab, &self.kernels);
        let mut m = t;
        for l in 0..self.spec.layers {
            let list = list.filter(|_| l == self.top());
            let positions = list.map(|a| a.list);
            m = positions.map_or(t, <[usize]>::len);
            let (x, out) = self.streams(l, act.x);
            let out = &mut out[..m * d];
            let (mut layer, mut heads) = self.layer(l, act.layers, reals.layers);
            let direct = self.spec.block == BlockKind::Public;
            let h = if direct { &mut *out } else { &mut heads.h[..m * d] };
            if l == 0 {
                gather(act.table.qkv, rows.iter().copied(), 3 * d, heads.qkv, 3 * d);
                match positions {
                    None => gather(act.table.base, rows.iter().copied(), d, h, d),
                    Some(list) => gather(act.table.base, list.iter().map(|i| rows[*i]), d, h, d),
                }
            } else {
                let front = Front { l, x, list: positions };
                self.front_norms(&front, &mut layer, with)?;
                self.front_maps(&front, &mut layer, heads.qkv, h, with)?;
            }
            self.attend(l, &mut heads, list, mode, act.shown, with)?;
            let mut found = &*heads.o;
            if let Some(list) = positions {
                gather(heads.o, list.iter().copied(), d, heads.asking, d);
                found = heads.asking;
            }
            let h = if direct { &mut *out } else { &mut heads.h[..m * d] };
            self.product(with, Write::Add, Mat::new(found, m, d)?, self.panels(l, O), MatMut::new(h, m, d)?)?;
            if !direct {
                self.back(l, &heads.h[..m * d], &mut layer, out, with)?;
            }
        }
        let (_, y) = self.streams(self.top(), act.x);
        let f = &mut act.f[..m * d];
        self.norm(self.blocks.norm, &y[..m * d], f, &mut reals.norm, with)?;
        let logits = &mut act.logits[..m * n];
        let panels = self.output_panels();
        self.product(with, Write::Set, Mat::new(f, m, d)?, panels, MatMut::new(logits, m, n)?)?;
        let Some(asking) = list else {
            let (logits, probs) = (Mat::new(logits, t, n)?, MatMut::new(act.probs, t, n)?);
            return Ok(k.cross_entropy_labels(logits, labels, reals.losses, probs)?);
        };
        // Row by row: the labels of the list do not lie together.
        for (r, i) in asking.list.iter().enumerate() {
            let (row, label) = (r * n..(r + 1) * n, &labels[*i..=*i]);
            let logits = Mat::new(&logits[row.clone()], 1, n)?;
            let probs = MatMut::new(&mut act.probs[row], 1, n)?;
            k.cross_entropy_labels(logits, label, &mut reals.losses[r..=r], probs)?;
        }
        Ok(())
    }

    /// Gradient of the logits, in place of them.
    fn loss_backward(
        &self,
        labels: &[u32],
        weights: &[f64],
        list: Option<&Asking<'_>>,
        act: &mut Activations<'_, E>,
    ) -> Result<()> {
        let (t, n, k) = (self.spec.seq_len, self.spec.vocab, &self.kernels);
        let Some(asking) = list else {
            let (probs, dlogits) = (Mat::new(act.probs, t, n)?, MatMut::new(act.logits, t, n)?);
            return Ok(k.cross_entropy_labels_backward(probs, labels, weights, dlogits)?);
        };
        for (r, i) in asking.list.iter().enumerate() {
            let (row, label, weight) = (r * n..(r + 1) * n, &labels[*i..=*i], &weights[*i..=*i]);
            let probs = Mat::new(&act.probs[row.clone()], 1, n)?;
            let dlogits = MatMut::new(&mut act.logits[row], 1, n)?;
            k.cross_entropy_labels_backward(probs, label, weight, dlogits)?;
        }
        Ok(())
    }

    /// Is the gradient of what enters layer `l` wanted, for anything below? Its blocks come first in the layout.
    fn down(&self, l: usize, active: &[bool]) -> bool {
        active[..self.layers[l].wq].iter().any(|on| *on)
    }

    /// Adds the gradients of a sequence, from the gradient of its logits down to the table.
    #[allow(clippy::too_many_arguments)]
    fn backward(
        &self,
        rows: &[usize],
        list: Option<&Asking<'_>>,
        act: &mut Activations<'_, E>,
        reals: &mut Reals<'_>,
        g: &mut Grads<'_, E>,
        with: &mut With<'_, E>,
    ) -> Result<()> {
        let (t, d, n, top) = (self.spec.seq_len, self.spec.dim, self.spec.vocab, self.top());
        let m = list.map_or(t, |a| a.list.len());
        let Temporary { dy, dh, t1, t2, dz, dqkv, dout } = &mut act.tmp;
        let (mut dy, mut dh) = (&mut **dy, &mut **dh);
        let dlogits = Mat::new(act.logits, m, n)?;
        if g.active[self.output()] {
            self.weight_backward([self.output(); 2], dlogits, Mat::new(act.f, m, d)?, g, with)?;
        }
        if !g.active.iter().enumerate().any(|(b, on)| *on && Some(b) != self.blocks.output) {
            return Ok(());
        }
        let df = &mut t1[..m * d];
        self.product(with, Write::Set, dlogits, self.output_panels() + 1, MatMut::new(df, m, d)?)?;
        let (_, y) = self.streams(top, act.x);
        self.norm_backward(self.blocks.norm, &y[..m * d], &reals.norm, df, &mut dy[..m * d], g, with)?;

        for l in (0..=top).rev() {
            let (b, down) = (self.layers[l], self.down(l, g.active));
            let last = b.ff_norm.or(b.attention_norm).map_or(b.w2.or(b.ff).unwrap_or(b.wo), |w| w + 1);
            if !down && !g.active[b.wq..=last].iter().any(|on| *on) {
                return Ok(());
            }
            let list = list.filter(|_| l == top);
            let positions = list.map(|a| a.list);
            let m = positions.map_or(t, <[usize]>::len);
            let (x, _) = self.streams(l, act.x);
            let (mut layer, heads) = self.layer(l, act.layers, reals.layers);
            let before = self.front_wanted(l, down, g.active);
            let wanted = before || g.active[b.wo];
            if self.spec.block == BlockKind::Public {
                std::mem::swap(&mut dy, &mut dh);
            } else {
                let (dy, dh) = (&dy[..m * d], &mut dh[..m * d]);
                self.back_backward(l, &heads.h[..m * d], &layer, dy, dh, wanted, t1, t2, dz, g, with)?;
            }
            if !wanted {
                return Ok(());
            }
            // h = base + o W_Oᵀ.
            let dbase = &dh[..m * d];
            let (asked, dfound) = (positions.is_some(), Mat::new(dbase, m, d)?);
            if g.active[b.wo] {
                let found = if asked { &*heads.asking } else { &*heads.o };
                self.weight_backward([b.wo; 2], dfound, Mat::new(found, m, d)?, g, with)?;
            }
            if !before {
                return Ok(());
            }
            let through = self.attention_wanted(l, down, g.active);
            if through {
                let compact = if asked { &mut t1[..m * d] } else { &mut dout[..t * d] };
                self.product(with, Write::Set, dfound, self.panels(l, O) + 1, MatMut::new(compact, m, d)?)?;
                if let Some(list) = positions {
                    for (i, row) in list.iter().zip(t1.chunks_exact(d)) {
                        dout[i * d..][..d].copy_from_slice(row);
                    }
                }
                let stream = self.stream_wanted(l, down, g.active);
                let kv = [b.wk(), b.wv()].map(|b| stream || g.active[b]);
                self.attend_backward(&heads, list, dout, dqkv, kv, with)?;
            } else {
                dqkv.fill(E::ZERO);
            }
            if l > 0 {
                let front = Front { l, x, list: positions };
                let dx = down.then_some(&mut dy[..t * d]);
                self.front_backward(&front, &mut layer, dqkv, dbase, dx, t1, t2, dz, g, with)?;
                continue;
            }
            for (r, dqkv) in rows.iter().zip(dqkv.chunks_exact(3 * d)) {
                add(&mut act.table.dqkv[r * 3 * d..][..3 * d], dqkv);
            }
            for (j, dbase) in dbase.chunks_exact(d).enumerate() {
                let r = rows[positions.map_or(j, |list| list[j])];
                add(&mut act.table.dbase[r * d..][..d], dbase);
            }
        }
        Ok(())
    }

    /// Σ w ℓ, and the gradients of the active blocks, which hold zeros.
    pub(super) fn train(
        &self,
        params: &[E],
        batch: &LabelledBatch,
        active: &[bool],
        ws: &mut SequenceWorkspace<E>,
        grad: &mut [E],
    ) -> Result<Sum> {
        let (t, heads, backward) = (self.spec.seq_len, self.spec.heads, active.iter().any(|on| *on));
        let SequenceWorkspace { arena, kernel, reals, indices, packed } = ws;
        self.pack(params, packed, backward)?;
        let mut act = self.carve(batch.seqs(), arena.as_mut_slice());
        let (mut reals, mut at) = (self.reals(reals), self.indices(batch.seqs(), indices));
        let mut with = With { params, packed, kernel };
        let pairs = self.number_pairs(batch.tokens(), &mut at);
        let Indices { rows, pairs: all, positions, starts, .. } = at;
        let all = &all[..2 * pairs];
        self.table_forward(all, &mut act, &mut reals, &mut with)?;
        if backward {
            act.table.dqkv[..pairs * 3 * self.spec.dim].fill(E::ZERO);
            act.table.dbase[..pairs * self.spec.dim].fill(E::ZERO);
        }
        let mut g = Grads { grad, active, sink: std::mem::take(&mut act.sink) };
        let mut loss = Sum::new();
        let sequences = batch.labels().chunks_exact(t).zip(batch.weights().chunks_exact(t));
        for (rows, (labels, weights)) in rows.chunks_exact(t).zip(sequences) {
            let mut m = 0;
            for (i, _) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
                positions[m] = i;
                m += 1;
            }
            if m == 0 {
                continue;
            }
            for h in 1..heads {
                positions.copy_within(..m, h * m);
            }
            starts.iter_mut().enumerate().for_each(|(h, start)| *start = h * m);
            let asking = Asking { list: &positions[..m], positions: &positions[..heads * m], starts };
            let list = (m < t).then_some(&asking);
            let mut mode = if backward { Mode::Saved } else { Mode::Gone };
            self.forward(rows, labels, list, &mut act, &mut reals, &mut mode, &mut with)?;
            for (r, i) in asking.list.iter().enumerate() {
                loss.add(weights[*i] * reals.losses[r]);
            }
            if backward {
                self.loss_backward(labels, weights, list, &mut act)?;
                self.backward(rows, list, &mut act, &mut reals, &mut g, &mut with)?;
            }
        }
        if backward && self.front_wanted(0, self.down(0, active), active) {
            self.table_backward(all, &mut act, &mut reals, &mut g, &mut with)?;
        }
        Ok(loss)
    }

    /// Losses and predictions at every position, and what else is wanted.
    pub(super) fn fill_report(
        &self,
        params: &[E],
        batch: &LabelledBatch,
        ws: &mut SequenceWorkspace<E>,
        report: &mut Report,
    ) -> Result<()> {
        let (t, n, heads, seqs) = (self.spec.seq_len, self.spec.vocab, self.spec.heads, batch.seqs());
        let SequenceWorkspace { arena, kernel, reals, indices, packed } = ws;
        self.pack(params, packed, false)?;
        let mut act = self.carve(seqs, arena.as_mut_slice());
        let (mut reals, mut at) = (self.reals(reals), self.indices(seqs, indices));
        let mut with = With { params, packed, kernel };
        let pairs = self.number_pairs(batch.tokens(), &mut at);
        self.table_forward(&at.pairs[..2 * pairs], &mut act, &mut reals, &mut with)?;
        let Report { losses, predicted, attended, probs } = report;
        for (b, (rows, labels)) in at.rows.chunks_exact(t).zip(batch.labels().chunks_exact(t)).enumerate() {
            let wanted = !attended.is_empty();
            let mut see = |l: usize, h: usize, i: usize, row: &[E]| {
                attended[((l * heads + h) * seqs + b) * t + i] = argmax(row);
            };
            let mut mode = if wanted { Mode::Shown(&mut see) } else { Mode::Gone };
            self.forward(rows, labels, None, &mut act, &mut reals, &mut mode, &mut with)?;
            losses[b * t..(b + 1) * t].copy_from_slice(reals.losses);
            for (to, p) in predicted[b * t..].iter_mut().zip(act.probs.chunks_exact(n)) {
                *to = argmax(p);
            }
            if !probs.is_empty() {
                let to = &mut probs[b * t * n..(b + 1) * t * n];
                to.iter_mut().zip(&*act.probs).for_each(|(to, p)| *to = p.to_f64());
            }
        }
        Ok(())
    }

    /// One sequence whose tokens have been checked, without labels.
    pub(super) fn forward_one(
        &self,
        params: &[E],
        tokens: &[u32],
        ws: &mut SequenceWorkspace<E>,
        mode: &mut Mode<'_, E>,
    ) -> Result<()> {
        let SequenceWorkspace { arena, kernel, reals, indices, packed } = ws;
        self.pack(params, packed, false)?;
        let mut act = self.carve(1, arena.as_mut_slice());
        let (mut reals, mut at) = (self.reals(reals), self.indices(1, indices));
        let mut with = With { params, packed, kernel };
        let pairs = self.number_pairs(tokens, &mut at);
        self.table_forward(&at.pairs[..2 * pairs], &mut act, &mut reals, &mut with)?;
        // Their own labels: no loss is read.
        self.forward(at.rows, tokens, None, &mut act, &mut reals, mode, &mut with)
    }
}

/// Index of the largest entry, the first of several.
fn argmax<E: Elem>(x: &[E]) -> u32 {
    let mut best = 0;
    for (i, v) in x.iter().enumerate() {
        if *v > x[best] {
            best = i;
        }
    }
    best as u32
}
