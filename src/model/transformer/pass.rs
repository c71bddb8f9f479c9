//! A batch, sequence by sequence: the layers forward, the loss, the layers backward.

use super::Transformer;
use super::heads::{Asking, Mode};
use super::layer::{Back, Front, FrontGrads, gather};
use super::table::add;
use super::workspace::{Activations, Grads, Indices, O, Reals, Temporary, With};
use crate::Result;
use crate::batch::Batch;
use crate::model::outputs::{Scored, argmax, counted};
use crate::model::{BlockKind, Report, Workspace};
use crate::num::Sum;
use popgrad_kernels::{Elem, Mat, MatMut, Write};

impl<E: Elem> Transformer<E> {
    /// Input of layer `l`, and where what leaves it goes.
    fn streams<'a>(&self, l: usize, x: &'a mut [E]) -> (&'a mut [E], &'a mut [E]) {
        let (each, len) = (self.capacity() * self.shape.dim, self.shape.len * self.shape.dim);
        let (below, above) = x.split_at_mut((l + 1) * each);
        (&mut below[l * each..][..len], &mut above[..len])
    }

    /// Logits of the sequence whose positions have the table's `rows`; at the top of those that
    /// ask.
    fn forward(
        &self,
        rows: &[usize],
        list: Option<&Asking<'_>>,
        act: &mut Activations<'_, E>,
        reals: &mut Reals<'_>,
        mode: &mut Mode<'_, E>,
        with: &mut With<'_, E>,
    ) -> Result<()> {
        let (t, d, n) = (self.shape.len, self.shape.dim, self.shape.vocab);
        let mut m = t;
        for l in 0..self.shape.layers {
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
        let logits = MatMut::new(&mut act.logits[..m * n], m, n)?;
        self.product(with, Write::Set, Mat::new(f, m, d)?, self.output_panels(), logits)
    }

    /// Is the gradient of what enters layer `l` wanted, for anything below? Its blocks come first
    /// in the layout.
    fn down(&self, l: usize, active: &[bool]) -> bool {
        active[..self.layers[l].wq].iter().any(|on| *on)
    }

    /// Adds the gradients of a sequence, from the gradient of its logits down to the table.
    fn backward(
        &self,
        rows: &[usize],
        list: Option<&Asking<'_>>,
        act: &mut Activations<'_, E>,
        reals: &mut Reals<'_>,
        g: &mut Grads<'_, E>,
    ) -> Result<()> {
        let (t, d, n, top) = (self.shape.len, self.shape.dim, self.shape.vocab, self.top());
        let m = list.map_or(t, |a| a.list.len());
        let Temporary { dy, dh, spare, dqkv, dout } = &mut act.tmp;
        let (mut dy, mut dh) = (&mut **dy, &mut **dh);
        let dlogits = Mat::new(act.logits, m, n)?;
        if g.active[self.output()] {
            self.weight_backward([self.output(); 2], dlogits, Mat::new(act.f, m, d)?, g)?;
        }
        if !g.active.iter().enumerate().any(|(b, on)| *on && Some(b) != self.blocks.output) {
            return Ok(());
        }
        let df = &mut spare.t1[..m * d];
        self.product(&mut g.with, Write::Set, dlogits, self.output_panels() + 1, MatMut::new(df, m, d)?)?;
        let (_, y) = self.streams(top, act.x);
        self.norm_backward(self.blocks.norm, &y[..m * d], &reals.norm, df, &mut dy[..m * d], g)?;

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
                let back = Back { l, h: &heads.h[..m * d], layer: &layer };
                self.back_backward(&back, dy, dh, wanted, spare, g)?;
            }
            if !wanted {
                return Ok(());
            }
            // h = base + o W_Oᵀ.
            let dbase = &dh[..m * d];
            let (asked, dfound) = (positions.is_some(), Mat::new(dbase, m, d)?);
            if g.active[b.wo] {
                let found = if asked { &*heads.asking } else { &*heads.o };
                self.weight_backward([b.wo; 2], dfound, Mat::new(found, m, d)?, g)?;
            }
            if !before {
                return Ok(());
            }
            let through = self.attention_wanted(l, down, g.active);
            if through {
                let compact = if asked { &mut spare.t1[..m * d] } else { &mut dout[..t * d] };
                let (panels, compact) = (self.panels(l, O) + 1, MatMut::new(compact, m, d)?);
                self.product(&mut g.with, Write::Set, dfound, panels, compact)?;
                if let Some(list) = positions {
                    for (i, row) in list.iter().zip(spare.t1.chunks_exact(d)) {
                        dout[i * d..][..d].copy_from_slice(row);
                    }
                }
                let stream = self.stream_wanted(l, down, g.active);
                let kv = [b.wk(), b.wv()].map(|b| stream || g.active[b]);
                self.attend_backward(&heads, list, dout, dqkv, kv, &mut g.with)?;
            } else {
                dqkv.fill(E::ZERO);
            }
            if l > 0 {
                let front = Front { l, x, list: positions };
                let dx = down.then_some(&mut dy[..t * d]);
                let from = FrontGrads { dqkv, dbase };
                self.front_backward(&front, &mut layer, from, dx, spare, g)?;
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
        batch: &Batch,
        active: &[bool],
        ws: &mut Workspace<E>,
        grad: &mut [E],
    ) -> Result<Sum> {
        let (t, n, heads) = (self.shape.len, self.shape.vocab, self.shape.heads);
        let backward = active.iter().any(|on| *on);
        let Workspace { arena, kernel, reals, indices, packed } = ws;
        self.pack(params, packed, backward)?;
        let mut act = self.carve(batch.seqs(), arena.as_mut_slice());
        let (mut reals, mut at) = (self.reals(reals), self.indices(batch.seqs(), indices));
        let with = With { params, packed, kernel };
        let mut g = Grads { grad, active, sink: std::mem::take(&mut act.sink), with };
        let pairs = self.number_pairs(batch.tokens(), &mut at);
        let Indices { rows, pairs: all, positions, starts, .. } = at;
        let all = &all[..2 * pairs];
        self.table_forward(all, &mut act, &mut reals, &mut g.with)?;
        if backward {
            act.table.dqkv[..pairs * 3 * self.shape.dim].fill(E::ZERO);
            act.table.dbase[..pairs * self.shape.dim].fill(E::ZERO);
        }
        let mut loss = Sum::new();
        for (b, rows) in rows.chunks_exact(t).enumerate() {
            let m = counted(batch, b, positions, reals.weights);
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
            self.forward(rows, list, &mut act, &mut reals, &mut mode, &mut g.with)?;
            let scored = Scored::of(batch, b);
            let (logits, probs) = (Mat::new(act.logits, m, n)?, MatMut::new(act.probs, m, n)?);
            scored.losses(&self.kernels, asking.list, logits, reals.losses, probs)?;
            reals.losses[..m].iter().zip(&*reals.weights).for_each(|(l, w)| loss.add(w * l));
            if backward {
                let (probs, dlogits) = (Mat::new(act.probs, m, n)?, MatMut::new(act.logits, m, n)?);
                scored.losses_backward(&self.kernels, asking.list, reals.weights, probs, dlogits)?;
                self.backward(rows, list, &mut act, &mut reals, &mut g)?;
            }
        }
        if backward && self.front_wanted(0, self.down(0, active), active) {
            self.table_backward(all, &mut act, &mut reals, &mut g)?;
        }
        Ok(loss)
    }

    /// Losses and predictions at every output, and what else is wanted.
    pub(super) fn fill_report(
        &self,
        params: &[E],
        batch: &Batch,
        ws: &mut Workspace<E>,
        report: &mut Report,
    ) -> Result<()> {
        let (t, n, heads, seqs) = (self.shape.len, self.shape.vocab, self.shape.heads, batch.seqs());
        let Workspace { arena, kernel, reals, indices, packed } = ws;
        self.pack(params, packed, false)?;
        let mut act = self.carve(seqs, arena.as_mut_slice());
        let (mut reals, mut at) = (self.reals(reals), self.indices(seqs, indices));
        let mut with = With { params, packed, kernel };
        let pairs = self.number_pairs(batch.tokens(), &mut at);
        self.table_forward(&at.pairs[..2 * pairs], &mut act, &mut reals, &mut with)?;
        let Report { losses, predicted, attended, probs } = report;
        let (outputs, wanted) = (batch.outputs(), !attended.is_empty());
        // Attention is shown at every position, whatever has an output.
        let first = if wanted { 0 } else { t - outputs };
        let m = t - first;
        for h in 0..heads {
            at.positions[h * m..(h + 1) * m].iter_mut().enumerate().for_each(|(i, p)| *p = first + i);
        }
        at.starts.iter_mut().enumerate().for_each(|(h, start)| *start = h * m);
        let (list, all) = (&at.positions[..m], &at.positions[..heads * m]);
        let asking = Asking { list, positions: all, starts: at.starts };
        for (b, rows) in at.rows.chunks_exact(t).enumerate() {
            let mut see = |l: usize, h: usize, i: usize, row: &[E]| {
                attended[((l * heads + h) * seqs + b) * t + i] = argmax(row);
            };
            let mut mode = if wanted { Mode::Shown(&mut see) } else { Mode::Gone };
            self.forward(rows, (m < t).then_some(&asking), &mut act, &mut reals, &mut mode, &mut with)?;
            let (skip, of) = (m - outputs, b * outputs..(b + 1) * outputs);
            let logits = Mat::new(&act.logits[skip * n..], outputs, n)?;
            let p = MatMut::new(act.probs, outputs, n)?;
            let losses = &mut losses[of.clone()];
            Scored::of(batch, b).losses(&self.kernels, &list[skip..], logits, losses, p)?;
            let p = &act.probs[..outputs * n];
            for (to, p) in predicted[of].iter_mut().zip(p.chunks_exact(n)) {
                *to = argmax(p);
            }
            if !probs.is_empty() {
                let to = &mut probs[b * outputs * n..][..outputs * n];
                to.iter_mut().zip(p).for_each(|(to, p)| *to = p.to_f64());
            }
        }
        Ok(())
    }

    /// One sequence whose tokens have been checked.
    pub(super) fn forward_one(
        &self,
        params: &[E],
        tokens: &[u32],
        ws: &mut Workspace<E>,
        mode: &mut Mode<'_, E>,
    ) -> Result<()> {
        let Workspace { arena, kernel, reals, indices, packed } = ws;
        self.pack(params, packed, false)?;
        let mut act = self.carve(1, arena.as_mut_slice());
        let (mut reals, mut at) = (self.reals(reals), self.indices(1, indices));
        let mut with = With { params, packed, kernel };
        let pairs = self.number_pairs(tokens, &mut at);
        self.table_forward(&at.pairs[..2 * pairs], &mut act, &mut reals, &mut with)?;
        self.forward(at.rows, None, &mut act, &mut reals, mode, &mut with)
    }
}
