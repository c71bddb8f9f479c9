//! A layer around its attention: what comes before, which in the first layer is done for the table,
//! and what follows.

use super::Transformer;
use super::parts::Hidden;
use super::table::add;
use super::workspace::{Grads, KV, Layer, Q, Spare, With};
use crate::Result;
use crate::model::BlockKind;
use popgrad_kernels::{Elem, Mat, MatMut, Write};

/// Layer `l` on `x` (n, d), of whose rows those in `list` ask, ascending; `None`: all.
#[derive(Clone, Copy)]
pub(super) struct Front<'a, E> {
    pub(super) l: usize,
    pub(super) x: &'a [E],
    pub(super) list: Option<&'a [usize]>,
}

/// The gradients of what [`Transformer::front_maps`] gives: `qkv` (n, 3 d) and `base` (m, d).
#[derive(Clone, Copy)]
pub(super) struct FrontGrads<'a, E> {
    pub(super) dqkv: &'a [E],
    pub(super) dbase: &'a [E],
}

/// Layer `l` after its attention, on h = x + Attn (m, d).
pub(super) struct Back<'a, 'l, E> {
    pub(super) l: usize,
    pub(super) h: &'a [E],
    pub(super) layer: &'a Layer<'l, E>,
}

/// The first d entries of rows of x, `stride` apart.
pub(super) fn gather<E: Elem>(
    x: &[E],
    rows: impl Iterator<Item = usize>,
    stride: usize,
    out: &mut [E],
    d: usize,
) {
    for (i, out) in rows.zip(out.chunks_exact_mut(d)) {
        out.copy_from_slice(&x[i * stride..][..d]);
    }
}

impl<E: Elem> Transformer<E> {
    /// What the layer's maps before attention read: LN(x), and in `Public` the feed-forward's
    /// hidden layer.
    pub(super) fn front_norms(
        &self,
        front: &Front<'_, E>,
        layer: &mut Layer<'_, E>,
        with: &mut With<'_, E>,
    ) -> Result<()> {
        let (Front { l, x, list }, b, d) = (*front, &self.layers[front.l], self.shape.dim);
        self.norm(self.front_norm(l), x, &mut layer.a[..x.len()], &mut layer.attention, with)?;
        if let Some(list) = list {
            gather(layer.a, list.iter().copied(), d, layer.asking, d);
            gather(x, list.iter().copied(), d, layer.x, d);
        }
        if self.spec.block == BlockKind::Public && b.ff.is_some() {
            let x = list.map_or(x, |list| &layer.x[..list.len() * d]);
            let u = &mut layer.u[..x.len()];
            self.norm(b.ff_norm, x, u, &mut layer.ff, with)?;
            self.ff_hidden(l, u, layer.z, with)?;
        }
        Ok(())
    }

    /// Queries, keys and values into `qkv` (n, 3 d), and into `base` (m, d) x and what `Public`
    /// adds to it besides attention.
    pub(super) fn front_maps(
        &self,
        front: &Front<'_, E>,
        layer: &mut Layer<'_, E>,
        qkv: &mut [E],
        base: &mut [E],
        with: &mut With<'_, E>,
    ) -> Result<()> {
        let (Front { l, x, list }, d) = (*front, self.shape.dim);
        let n = x.len() / d;
        let (a, panels) = (Mat::new(layer.a, n, d)?, self.panels(l, Q));
        match list {
            None => {
                let q = MatMut::with_strides(qkv, n, d, 3 * d, 1)?;
                self.product(with, Write::Set, a, panels, q)?;
                base.copy_from_slice(x);
            }
            Some(list) => {
                // `s` is not in use yet.
                let (m, q) = (list.len(), &mut layer.s[..list.len() * d]);
                let asking = Mat::new(layer.asking, m, d)?;
                self.product(with, Write::Set, asking, panels, MatMut::new(q, m, d)?)?;
                for (i, q) in list.iter().zip(q.chunks_exact(d)) {
                    qkv[i * 3 * d..][..d].copy_from_slice(q);
                }
                base.copy_from_slice(&layer.x[..m * d]);
            }
        }
        let kv = MatMut::with_strides(&mut qkv[d..], n, 2 * d, 3 * d, 1)?;
        self.product(with, Write::Set, a, self.panels(l, KV), kv)?;
        if self.spec.block == BlockKind::Public {
            self.ff_out(Hidden { l, u: &layer.u[..base.len()], z: layer.z }, base, with)?;
        }
        Ok(())
    }

    /// The norm before the queries, keys and values of layer `l`: none in `PostNorm`.
    fn front_norm(&self, l: usize) -> Option<usize> {
        self.layers[l].attention_norm.filter(|_| self.spec.block != BlockKind::PostNorm)
    }

    /// Is anything wanted that lies below the queries, keys and values of layer `l`: their norm, or
    /// what `down` is about?
    pub(super) fn stream_wanted(&self, l: usize, down: bool, active: &[bool]) -> bool {
        down || Self::norm_wanted(self.front_norm(l), active)
    }

    /// Does anything before the attention of layer `l` have a gradient that is wanted, `down` what
    /// is below included?
    pub(super) fn attention_wanted(&self, l: usize, down: bool, active: &[bool]) -> bool {
        let b = &self.layers[l];
        active[b.wq..=b.wv()].iter().any(|on| *on) || self.stream_wanted(l, down, active)
    }

    /// The same of all that [`Transformer::front_backward`] gives: in `Public` the feed-forward's
    /// blocks too.
    pub(super) fn front_wanted(&self, l: usize, down: bool, active: &[bool]) -> bool {
        let b = &self.layers[l];
        let beside =
            [b.ff, b.w2].into_iter().flatten().any(|b| active[b]) || Self::norm_wanted(b.ff_norm, active);
        self.attention_wanted(l, down, active) || (self.spec.block == BlockKind::Public && beside)
    }

    /// From `from` the gradients of the blocks before attention, and `dx` (n, d) if wanted.
    pub(super) fn front_backward(
        &self,
        front: &Front<'_, E>,
        layer: &mut Layer<'_, E>,
        from: FrontGrads<'_, E>,
        mut dx: Option<&mut [E]>,
        spare: &mut Spare<'_, E>,
        g: &mut Grads<'_, E>,
    ) -> Result<()> {
        let (Front { l, x, list }, b, d) = (*front, self.layers[front.l], self.shape.dim);
        let FrontGrads { dqkv, dbase } = from;
        let m = dbase.len() / d;
        let Spare { t1, t2, dz } = &mut *spare;
        let mut beside = false;
        if self.spec.block == BlockKind::Public && b.ff.is_some() {
            beside = dx.is_some() || Self::norm_wanted(b.ff_norm, g.active);
            let du = beside.then_some(&mut t1[..m * d]);
            self.ff_backward(Hidden { l, u: &layer.u[..m * d], z: layer.z }, dbase, du, dz, g)?;
            if beside {
                let x = if list.is_some() { &layer.x[..m * d] } else { x };
                self.norm_backward(b.ff_norm, x, &layer.ff, &t1[..m * d], &mut t2[..m * d], g)?;
            }
        }
        if let Some(dx) = dx.as_deref_mut() {
            let Some(list) = list else {
                dx.copy_from_slice(dbase);
                if beside {
                    add(dx, t2);
                }
                return self.qkv_backward(front, layer, dqkv, Some(dx), spare, g);
            };
            dx.fill(E::ZERO);
            for (r, i) in list.iter().enumerate() {
                let (dx, rows) = (&mut dx[i * d..][..d], r * d..(r + 1) * d);
                dx.copy_from_slice(&dbase[rows.clone()]);
                if beside {
                    add(dx, &t2[rows]);
                }
            }
        }
        self.qkv_backward(front, layer, dqkv, dx, spare, g)
    }

    /// From the gradient of `qkv` those of W_Q, W_K, W_V and of their norm; what passes is added to
    /// `dx`.
    fn qkv_backward(
        &self,
        front: &Front<'_, E>,
        layer: &mut Layer<'_, E>,
        dqkv: &[E],
        dx: Option<&mut [E]>,
        spare: &mut Spare<'_, E>,
        g: &mut Grads<'_, E>,
    ) -> Result<()> {
        let (Front { l, x, list }, b, d) = (*front, self.layers[front.l], self.shape.dim);
        let (n, norm) = (x.len() / d, self.front_norm(l));
        let (t1, t2) = (&mut spare.t1[..n * d], &mut spare.t2[..n * d]);
        let mut dq = Mat::with_strides(dqkv, n, d, 3 * d, 1)?;
        let dkv = Mat::with_strides(&dqkv[d..], n, 2 * d, 3 * d, 1)?;
        let a = Mat::new(layer.a, n, d)?;
        let mut asking = a;
        if let Some(list) = list {
            gather(dqkv, list.iter().copied(), 3 * d, t1, d);
            dq = Mat::new(&t1[..list.len() * d], list.len(), d)?;
            asking = Mat::new(layer.asking, list.len(), d)?;
        }
        if g.active[b.wq] {
            self.weight_backward([b.wq; 2], dq, asking, g)?;
        }
        match [g.active[b.wk()], g.active[b.wv()]] {
            [true, true] => self.weight_backward([b.wk(), b.wv()], dkv, a, g)?,
            [true, false] => self.weight_backward([b.wk(); 2], dkv.sub(0, n, 0, d), a, g)?,
            [false, true] => self.weight_backward([b.wv(); 2], dkv.sub(0, n, d, d), a, g)?,
            [false, false] => {}
        }
        if dx.is_none() && !Self::norm_wanted(norm, g.active) {
            return Ok(());
        }
        self.product(&mut g.with, Write::Set, dkv, self.panels(l, KV) + 1, MatMut::new(t2, n, d)?)?;
        match list {
            None => {
                self.product(&mut g.with, Write::Add, dq, self.panels(l, Q) + 1, MatMut::new(t2, n, d)?)?
            }
            Some(list) => {
                // `s` is no longer in use.
                let (m, da) = (list.len(), &mut layer.s[..list.len() * d]);
                self.product(&mut g.with, Write::Set, dq, self.panels(l, Q) + 1, MatMut::new(da, m, d)?)?;
                for (i, da) in list.iter().zip(da.chunks_exact(d)) {
                    add(&mut t2[i * d..][..d], da);
                }
            }
        }
        self.norm_backward(norm, x, &layer.attention, t2, t1, g)?;
        if let Some(dx) = dx {
            add(dx, t1);
        }
        Ok(())
    }

    /// From h = x + Attn (m, d) what leaves the layer, `out` (m, d). `Public` has nothing here.
    pub(super) fn back(
        &self,
        l: usize,
        h: &[E],
        layer: &mut Layer<'_, E>,
        out: &mut [E],
        with: &mut With<'_, E>,
    ) -> Result<()> {
        let (b, len) = (&self.layers[l], h.len());
        if self.spec.block == BlockKind::PostNorm {
            let (g, s) = (&mut layer.g[..len], &mut layer.s[..len]);
            self.norm(b.attention_norm, h, g, &mut layer.attention, with)?;
            self.ff_hidden(l, g, layer.z, with)?;
            s.copy_from_slice(g);
            self.ff_out(Hidden { l, u: g, z: layer.z }, s, with)?;
            return self.norm(b.ff_norm, s, out, &mut layer.ff, with);
        }
        out.copy_from_slice(h);
        if b.ff.is_some() {
            let u = &mut layer.u[..len];
            self.norm(b.ff_norm, h, u, &mut layer.ff, with)?;
            self.ff_hidden(l, u, layer.z, with)?;
            self.ff_out(Hidden { l, u, z: layer.z }, out, with)?;
        }
        Ok(())
    }

    /// `dh` (m, d) from `dy` if wanted, and the gradients of the blocks after attention.
    pub(super) fn back_backward(
        &self,
        back: &Back<'_, '_, E>,
        dy: &[E],
        dh: &mut [E],
        wanted: bool,
        spare: &mut Spare<'_, E>,
        g: &mut Grads<'_, E>,
    ) -> Result<()> {
        let Back { l, h, layer } = *back;
        let (b, len) = (&self.layers[l], h.len());
        let Spare { t1, t2, dz } = spare;
        let (t1, t2) = (&mut t1[..len], &mut t2[..len]);
        if self.spec.block == BlockKind::PostNorm {
            let (middle, through) =
                (&layer.g[..len], wanted || Self::norm_wanted(b.attention_norm, g.active));
            self.norm_backward(b.ff_norm, &layer.s[..len], &layer.ff, dy, dh, g)?;
            if b.ff.is_some() {
                let hidden = Hidden { l, u: middle, z: layer.z };
                self.ff_backward(hidden, dh, through.then_some(&mut *t1), dz, g)?;
            }
            if !through {
                return Ok(());
            }
            if b.ff.is_some() {
                add(dh, t1);
            }
            self.norm_backward(b.attention_norm, h, &layer.attention, dh, t1, g)?;
            dh.copy_from_slice(t1);
            return Ok(());
        }
        dh.copy_from_slice(dy);
        if b.ff.is_some() {
            let through = wanted || Self::norm_wanted(b.ff_norm, g.active);
            let hidden = Hidden { l, u: &layer.u[..len], z: layer.z };
            self.ff_backward(hidden, dy, through.then_some(&mut *t1), dz, g)?;
            if through {
                self.norm_backward(b.ff_norm, h, &layer.ff, t1, t2, g)?;
                add(dh, t2);
            }
        }
        Ok(())
    }
}
