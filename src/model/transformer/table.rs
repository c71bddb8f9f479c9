//! The first layer up to its attention, once for every pair of token and position of a batch.
//!
//! x⁰_t = E[z_t] + P_t: two sequences with the same token at the same position have the same row
//! there, the same queries, keys and values, and in `Public` the same feed-forward. With N = 65
//! symbols of a text, 128 sequences have some thirty different rows a position. Their gradients are
//! summed before they pass through these maps, which are linear in them.

use super::Transformer;
use super::layer::{Front, FrontGrads};
use super::workspace::{Activations, Grads, Indices, Reals, Temporary, With};
use crate::Result;
use popgrad_kernels::Elem;

impl<E: Elem> Transformer<E> {
    /// Numbers the pairs of `tokens` (B, T), position by position; returns how many there are.
    pub(super) fn number_pairs(&self, tokens: &[u32], at: &mut Indices<'_>) -> usize {
        let (t, n) = (self.shape.len, self.shape.vocab);
        let (row_of, position_of) = at.seen.split_at_mut(n);
        position_of.fill(0);
        let mut count = 0;
        for i in 0..t {
            for b in (i..tokens.len()).step_by(t) {
                let z = tokens[b] as usize;
                if position_of[z] != i + 1 {
                    (position_of[z], row_of[z]) = (i + 1, count);
                    at.pairs[2 * count..2 * count + 2].copy_from_slice(&[z, i]);
                    count += 1;
                }
                at.rows[b] = row_of[z];
            }
        }
        count
    }

    /// x⁰ of pairs (m, d).
    fn stream(&self, params: &[E], pairs: &[usize], x: &mut [E]) {
        let d = self.shape.dim;
        let (e, p) = (&params[self.range(self.blocks.tokens)], &params[self.range(self.blocks.positions)]);
        for (pair, x) in pairs.chunks_exact(2).zip(x.chunks_exact_mut(d)) {
            let (e, p) = (&e[pair[0] * d..][..d], &p[pair[1] * d..][..d]);
            x.iter_mut().zip(e).zip(p).for_each(|((x, e), p)| *x = *e + *p);
        }
    }

    /// Fills the table's rows for `pairs`.
    pub(super) fn table_forward(
        &self,
        pairs: &[usize],
        act: &mut Activations<'_, E>,
        reals: &mut Reals<'_>,
        with: &mut With<'_, E>,
    ) -> Result<()> {
        let (d, chunk) = (self.shape.dim, self.capacity());
        let (mut layer, _) = self.layer(0, act.layers, reals.layers);
        let qkv = act.table.qkv.chunks_mut(chunk * 3 * d);
        let base = act.table.base.chunks_mut(chunk * d);
        for ((pairs, qkv), base) in pairs.chunks(2 * chunk).zip(qkv).zip(base) {
            let m = pairs.len() / 2;
            let x = &mut act.x[..m * d];
            self.stream(with.params, pairs, x);
            let front = Front { l: 0, x, list: None };
            self.front_norms(&front, &mut layer, with)?;
            self.front_maps(&front, &mut layer, &mut qkv[..3 * m * d], &mut base[..m * d], with)?;
        }
        Ok(())
    }

    /// Gradients of the first layer's blocks and of the embeddings, from those of the table.
    pub(super) fn table_backward(
        &self,
        pairs: &[usize],
        act: &mut Activations<'_, E>,
        reals: &mut Reals<'_>,
        g: &mut Grads<'_, E>,
    ) -> Result<()> {
        let (d, chunk) = (self.shape.dim, self.capacity());
        let [tokens, positions] = [self.blocks.tokens, self.blocks.positions];
        let (mut layer, _) = self.layer(0, act.layers, reals.layers);
        let dqkv = act.table.dqkv.chunks(chunk * 3 * d);
        let dbase = act.table.dbase.chunks(chunk * d);
        let Temporary { dh, spare, .. } = &mut act.tmp;
        for ((pairs, dqkv), dbase) in pairs.chunks(2 * chunk).zip(dqkv).zip(dbase) {
            let m = pairs.len() / 2;
            let (x, dx) = (&mut act.x[..m * d], &mut dh[..m * d]);
            self.stream(g.with.params, pairs, x);
            let front = Front { l: 0, x, list: None };
            self.front_norms(&front, &mut layer, &mut g.with)?;
            let down = g.active[tokens] || g.active[positions];
            let from = FrontGrads { dqkv: &dqkv[..3 * m * d], dbase: &dbase[..m * d] };
            self.front_backward(&front, &mut layer, from, down.then_some(&mut *dx), spare, g)?;
            for (which, block) in [tokens, positions].into_iter().enumerate().filter(|(_, b)| g.active[*b]) {
                let to = &mut g.grad[self.range(block)];
                for (pair, dx) in pairs.chunks_exact(2).zip(dx.chunks_exact(d)) {
                    add(&mut to[pair[which] * d..][..d], dx);
                }
            }
        }
        Ok(())
    }
}

/// x += y.
pub(super) fn add<E: Elem>(x: &mut [E], y: &[E]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += *y);
}
