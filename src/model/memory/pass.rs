//! Forward and backward of one sequence.

use super::arena::{Activations, Tables, stride};
use super::{CHUNK, Memory, Shape};
use crate::Result;
use crate::model::FeedForward;
use popgrad_kernels::{
    Attention, Elem, Kernels, KvGrad, Mat, MatMut, Mats, MatsMut, Queries, Save, Saved, Scratch, Write,
};

/// Which gradients are wanted, and what they need.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    pub(super) embeddings: bool,
    /// W_K of each layer.
    pub(super) wk: [bool; 2],
    /// Feed-forward of each layer: the linear map or w1, w2.
    pub(super) ff: [[bool; 2]; 2],
    /// W_O of layer 2.
    pub(super) wo: bool,
    /// W_U, in its own block or the embeddings.
    pub(super) output: bool,
}

impl Wanted {
    /// The attention of layer 1.
    pub(super) fn first(&self) -> bool {
        self.embeddings || self.wk[0]
    }
    /// What layer 1 hands on.
    fn stream(&self) -> bool {
        self.first() || self.ff[0] != [false; 2]
    }
    /// The attention of layer 2.
    fn second(&self) -> bool {
        self.wk[1] || self.stream()
    }
    /// What layer 2's attention hands on.
    fn mixed(&self) -> bool {
        self.wo || self.second()
    }
    /// What the output reads.
    fn top(&self) -> bool {
        self.mixed() || self.ff[1] != [false; 2]
    }
    /// What layer `l`'s attention hands on, below its feed-forward.
    fn below_ff(&self, l: usize) -> bool {
        if l == 0 { self.first() } else { self.mixed() }
    }
    /// Anything.
    pub(super) fn any(&self) -> bool {
        self.top() || self.output
    }
}

/// What every product needs.
pub(super) struct With<'a, E> {
    pub(super) params: &'a [E],
    pub(super) kernel: &'a mut Scratch<E>,
}

/// The gradient, what of it is wanted, and what every product needs.
pub(super) struct Grads<'a, E> {
    pub(super) grad: &'a mut [E],
    pub(super) wanted: Wanted,
    pub(super) with: With<'a, E>,
}

/// What layer `l`'s feed-forward reads, h (rows, d), and where its hidden layer lies.
struct Hidden<'a, E> {
    l: usize,
    h: &'a [E],
    f: &'a mut [E],
}

/// What attention keeps for later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Store {
    Nothing,
    /// The probabilities: the backward pass comes before they leave the cache, and is a third
    /// faster than by computing them again.
    Probs,
}

/// One sequence: the positions up to the last query of layer 2, and those queries.
#[derive(Clone, Copy)]
pub(super) struct Sequence<'a> {
    pub(super) tokens: &'a [u32],
    /// 0 and their number.
    pub(super) starts: &'a [usize; 2],
    pub(super) queries: &'a [usize],
    pub(super) store: Store,
}

impl Sequence<'_> {
    fn m(&self) -> usize {
        self.tokens.len()
    }
    fn n(&self) -> usize {
        self.queries.len()
    }
}

fn mat<E: Elem>(x: &[E], rows: usize, cols: usize) -> Result<Mat<'_, E>> {
    Ok(Mat::new(x, rows, cols)?)
}

fn mat_mut<E: Elem>(x: &mut [E], rows: usize, cols: usize) -> Result<MatMut<'_, E>> {
    Ok(MatMut::new(x, rows, cols)?)
}

fn mats<E: Elem>(x: &[E], rows: usize, cols: usize) -> Result<Mats<'_, E>> {
    Ok(Mats::new(x, [1, rows, cols], rows * cols, cols)?)
}

fn mats_mut<E: Elem>(x: &mut [E], rows: usize, cols: usize) -> Result<MatsMut<'_, E>> {
    Ok(MatsMut::new(x, [1, rows, cols], rows * cols, cols)?)
}

fn keep<E: Elem>(store: Store, p: &mut [E], m: usize) -> Result<Save<'_, E>> {
    Ok(match store {
        Store::Nothing => Save::Nothing,
        Store::Probs => Save::Probs(MatsMut::new(p, [1, m, m], p.len(), stride(m))?),
    })
}

fn kept<E: Elem>(p: &[E], m: usize) -> Result<Saved<'_, E>> {
    Ok(Saved::Probs(Mats::new(p, [1, m, m], p.len(), stride(m))?))
}

/// Rows `list` of `from`, side by side.
fn pick<E: Elem>(from: &[E], list: &[usize], d: usize, to: &mut [E]) {
    for (row, i) in to.chunks_exact_mut(d).zip(list) {
        row.copy_from_slice(&from[i * d..][..d]);
    }
}

/// Their inverse: rows of `from` to where `list` says.
fn place<E: Elem>(from: &[E], list: &[usize], d: usize, to: &mut [E]) {
    for (row, i) in from.chunks_exact(d).zip(list) {
        to[i * d..][..d].copy_from_slice(row);
    }
}

impl<E: Elem> Memory<E> {
    /// `to += from`, rows of d.
    fn add_rows(&self, from: &[E], to: &mut [E]) -> Result<()> {
        let (d, rows) = (self.shape.dim, from.len() / self.shape.dim);
        let all = &self.counting[..rows];
        Ok(self.kernels.scatter_add(mat(from, rows, d)?, all, mat_mut(to, rows, d)?)?)
    }

    /// Adds rows of `from` to those of `to` that `list` names.
    fn add_at(&self, from: &[E], list: &[usize], to: &mut [E]) -> Result<()> {
        let d = self.shape.dim;
        for (from, list) in from.chunks(CHUNK * d).zip(list.chunks(CHUNK)) {
            let (n, mut at) = (list.len(), [0; CHUNK]);
            at.iter_mut().zip(list).for_each(|(to, i)| *to = *i as u32);
            let to = mat_mut(to, to.len() / d, d)?;
            self.kernels.scatter_add(mat(from, n, d)?, &at[..n], to)?;
        }
        Ok(())
    }

    /// out = table\[z\] + at\[t\], `at` left out where there is none.
    fn embed(&self, table: &[E], at: &[E], tokens: &[u32], out: &mut [E]) -> Result<()> {
        let (n, d, m) = (self.shape.vocab, self.shape.dim, tokens.len());
        let out = &mut out[..m * d];
        self.kernels.gather(mat(table, n, d)?, tokens, mat_mut(out, m, d)?)?;
        if at.is_empty() { Ok(()) } else { self.add_rows(&at[..m * d], out) }
    }

    /// Turns row t by t times the frequencies, or back.
    fn rotate(&self, x: &mut [E], back: bool) {
        let half = self.shape.dim / 2;
        for (row, turns) in x.chunks_exact_mut(2 * half).zip(self.turns.chunks_exact(half)) {
            for (pair, [c, s]) in row.chunks_exact_mut(2).zip(turns) {
                let (a, b, s) = (pair[0], pair[1], if back { E::ZERO - *s } else { *s });
                pair[0] = *c * a - s * b;
                pair[1] = s * a + *c * b;
            }
        }
    }

    /// y = h + FF(h), (rows, d).
    fn feed_forward(&self, hidden: Hidden<'_, E>, y: &mut [E], with: &mut With<'_, E>) -> Result<()> {
        let (Hidden { l, h, f }, With { params, kernel }) = (hidden, with);
        let (k, d, b) = (&self.kernels, self.shape.dim, self.blocks.layers[l]);
        let rows = h.len() / d;
        let Some(w1) = b.ff.map(|b| &params[self.range(b)]) else { return Ok(()) };
        y[..rows * d].copy_from_slice(h);
        let h = mat(h, rows, d)?;
        let Some(w2) = b.w2.map(|b| &params[self.range(b)]) else {
            return Ok(k.gemm(Write::Add, E::ONE, h, mat(w1, d, d)?.t(), mat_mut(y, rows, d)?, kernel)?);
        };
        k.gemm(Write::Set, E::ONE, h, mat(w1, 4 * d, d)?.t(), mat_mut(f, rows, 4 * d)?, kernel)?;
        k.relu(&mut f[..rows * 4 * d]);
        let (f, w2) = (mat(f, rows, 4 * d)?, mat(w2, d, 4 * d)?);
        Ok(k.gemm(Write::Add, E::ONE, f, w2.t(), mat_mut(y, rows, d)?, kernel)?)
    }

    /// `dy` (rows, d), the gradient of y, becomes that of h where that is wanted; those of the
    /// weights are added. The hidden layer is what [`Memory::feed_forward`] left there, and lost if
    /// the map is linear; `df` has room for its gradient.
    fn feed_forward_backward(
        &self,
        hidden: Hidden<'_, E>,
        dy: &mut [E],
        df: &mut [E],
        g: &mut Grads<'_, E>,
    ) -> Result<()> {
        let (Hidden { l, h, f }, Grads { grad, wanted, with }) = (hidden, g);
        let (through, wanted, With { params, kernel }) = (wanted.below_ff(l), wanted.ff[l], with);
        let (k, d, b) = (&self.kernels, self.shape.dim, self.blocks.layers[l]);
        let rows = h.len() / d;
        let Some(w1) = b.ff else { return Ok(()) };
        let (h, dy) = (mat(h, rows, d)?, &mut dy[..rows * d]);
        let (dw1, w1) = (self.range(w1), &params[self.range(w1)]);
        let Some(w2) = b.w2 else {
            if wanted[0] {
                let dw = mat_mut(&mut grad[dw1], d, d)?;
                k.gemm(Write::Add, E::ONE, mat(dy, rows, d)?.t(), h, dw, kernel)?;
            }
            if through {
                let f = &mut f[..rows * d];
                k.gemm(Write::Set, E::ONE, mat(dy, rows, d)?, mat(w1, d, d)?, mat_mut(f, rows, d)?, kernel)?;
                self.add_rows(f, dy)?;
            }
            return Ok(());
        };
        let hidden = mat(f, rows, 4 * d)?;
        if wanted[1] {
            let dw = mat_mut(&mut grad[self.range(w2)], d, 4 * d)?;
            k.gemm(Write::Add, E::ONE, mat(dy, rows, d)?.t(), hidden, dw, kernel)?;
        }
        if !through && !wanted[0] {
            return Ok(());
        }
        let (df, w2) = (&mut df[..rows * 4 * d], mat(&params[self.range(w2)], d, 4 * d)?);
        k.gemm(Write::Set, E::ONE, mat(dy, rows, d)?, w2, mat_mut(df, rows, 4 * d)?, kernel)?;
        k.relu_backward(&f[..rows * 4 * d], df)?;
        let df = mat(df, rows, 4 * d)?;
        if wanted[0] {
            k.gemm(Write::Add, E::ONE, df.t(), h, mat_mut(&mut grad[dw1], 4 * d, d)?, kernel)?;
        }
        if through {
            k.gemm(Write::Add, E::ONE, df, mat(w1, 4 * d, d)?, mat_mut(dy, rows, d)?, kernel)?;
        }
        Ok(())
    }

    /// Operands of attention in layer 1.
    fn first<'a>(&self, s: Sequence<'a>, act: &'a Activations<'_, E>) -> Result<Attention<'a, E>> {
        let (m, d) = (s.m(), self.shape.dim);
        let k = if self.shape.rotary { &*act.k1 } else { &*act.x0 };
        let (q, k, v) = (mats(act.q1, m, d)?, mats(k, m, d)?, mats(act.v1, m, d)?);
        Ok(Attention { q, k, v, scale: self.scale, queries: Queries::Last })
    }

    /// What layer 1 leaves.
    fn x1<'a>(&self, act: &'a Activations<'_, E>) -> &'a [E] {
        if act.x1.is_empty() { act.h1 } else { act.x1 }
    }

    /// Operands of attention in layer 2.
    fn second<'a>(&self, s: Sequence<'a>, act: &'a Activations<'_, E>) -> Result<Attention<'a, E>> {
        let (m, d) = (s.m(), self.shape.dim);
        let x = mats(self.x1(act), m, d)?;
        let queries = Queries::Listed { starts: s.starts, positions: s.queries };
        Ok(Attention { q: mats(act.q2, m, d)?, k: x, v: x, scale: self.scale, queries })
    }

    /// Layer 1 at all positions of the sequence.
    pub(super) fn forward_first(
        &self,
        s: Sequence<'_>,
        tables: &Tables<'_, E>,
        act: &mut Activations<'_, E>,
        with: &mut With<'_, E>,
    ) -> Result<()> {
        let (m, d, params) = (s.m(), self.shape.dim, with.params);
        let td = m * d;
        let pe = self.blocks.pe.map_or(&[][..], |b| &params[self.range(b)]);
        self.embed(&params[self.range(self.blocks.embeddings)], pe, s.tokens, act.x0)?;
        self.embed(tables.ev, tables.pv, s.tokens, act.v1)?;
        if self.shape.rotary {
            act.q1[..td].copy_from_slice(&act.x0[..td]);
            self.embed(tables.ek, &[], s.tokens, act.k1)?;
            self.rotate(&mut act.q1[..td], false);
            self.rotate(&mut act.k1[..td], false);
        } else {
            self.embed(tables.ek, tables.pk, s.tokens, act.q1)?;
        }
        let (p1, a1) = (std::mem::take(&mut act.p1), std::mem::take(&mut act.a1));
        let done = self.first(s, act).and_then(|x| {
            Ok(self.kernels.attention(&x, mats_mut(a1, m, d)?, keep(s.store, p1, m)?, with.kernel)?)
        });
        (act.p1, act.a1) = (p1, a1);
        done?;
        act.h1[..td].copy_from_slice(&act.x0[..td]);
        self.add_rows(&act.a1[..td], act.h1)?;
        self.feed_forward(Hidden { l: 0, h: &act.h1[..td], f: act.f1 }, act.x1, with)
    }

    /// Layer 2 and the logits at the queries.
    pub(super) fn forward_second(
        &self,
        s: Sequence<'_>,
        tables: &Tables<'_, E>,
        act: &mut Activations<'_, E>,
        with: &mut With<'_, E>,
    ) -> Result<()> {
        let (k, m, n, d) = (&self.kernels, s.m(), s.n(), self.shape.dim);
        let (nd, params) = (n * d, with.params);
        let x1 = if act.x1.is_empty() { &*act.h1 } else { &*act.x1 };
        pick(x1, s.queries, d, &mut act.xq[..nd]);
        let wk = mat(&params[self.range(self.blocks.layers[1].wk)], d, d)?;
        k.gemm(Write::Set, E::ONE, mat(act.xq, n, d)?, wk, mat_mut(act.aq, n, d)?, with.kernel)?;
        place(&act.aq[..nd], s.queries, d, act.q2);
        let (p2, a2) = (std::mem::take(&mut act.p2), std::mem::take(&mut act.a2));
        let done = self
            .second(s, act)
            .and_then(|x| Ok(k.attention(&x, mats_mut(a2, m, d)?, keep(s.store, p2, m)?, with.kernel)?));
        (act.p2, act.a2) = (p2, a2);
        done?;
        pick(act.a2, s.queries, d, &mut act.aq[..nd]);
        act.hq[..nd].copy_from_slice(&act.xq[..nd]);
        let psi = mat(tables.psi, d, d)?;
        k.gemm(Write::Add, E::ONE, mat(act.aq, n, d)?, psi.t(), mat_mut(act.hq, n, d)?, with.kernel)?;
        self.feed_forward(Hidden { l: 1, h: &act.hq[..nd], f: act.fq }, act.yq, with)?;
        let y = if act.yq.is_empty() { &*act.hq } else { &*act.yq };
        let vocab = self.shape.vocab;
        let logits = mat_mut(act.logits, n, vocab)?;
        Ok(k.gemm(Write::Set, self.readout, mat(y, n, d)?, self.output(params)?.t(), logits, with.kernel)?)
    }

    /// W_U (N, d).
    fn output<'p>(&self, params: &'p [E]) -> Result<Mat<'p, E>> {
        let block = self.blocks.output.unwrap_or(self.blocks.embeddings);
        mat(&params[self.range(block)], self.shape.vocab, self.shape.dim)
    }

    /// Adds this sequence's gradient: to blocks, and to the gradients of tables. `act.logits` holds
    /// the gradient of the logits.
    pub(super) fn backward(
        &self,
        s: Sequence<'_>,
        tables: &mut Tables<'_, E>,
        act: &mut Activations<'_, E>,
        g: &mut Grads<'_, E>,
    ) -> Result<()> {
        let (k, m, n, d) = (&self.kernels, s.m(), s.n(), self.shape.dim);
        let (nd, td, vocab) = (n * d, m * d, self.shape.vocab);
        let (params, wanted) = (g.with.params, g.wanted);
        let (dlogits, readout) = (mat(act.logits, n, vocab)?, self.readout);
        if wanted.output {
            let y = if act.yq.is_empty() { &*act.hq } else { &*act.yq };
            let block = self.blocks.output.unwrap_or(self.blocks.embeddings);
            let dw = mat_mut(&mut g.grad[self.range(block)], vocab, d)?;
            k.gemm(Write::Add, readout, dlogits.t(), mat(y, n, d)?, dw, g.with.kernel)?;
        }
        if !wanted.top() {
            return Ok(());
        }
        let w = self.output(params)?;
        k.gemm(Write::Set, readout, dlogits, w, mat_mut(act.dyq, n, d)?, g.with.kernel)?;
        let hidden = Hidden { l: 1, h: &act.hq[..nd], f: act.fq };
        self.feed_forward_backward(hidden, act.dyq, act.df, g)?;
        let dh = mat(act.dyq, n, d)?;
        if wanted.wo {
            let dpsi = mat_mut(tables.dpsi, d, d)?;
            k.gemm(Write::Add, E::ONE, dh.t(), mat(act.aq, n, d)?, dpsi, g.with.kernel)?;
        }
        if !wanted.second() {
            return Ok(());
        }
        let psi = mat(tables.psi, d, d)?;
        k.gemm(Write::Set, E::ONE, dh, psi, mat_mut(act.daq, n, d)?, g.with.kernel)?;
        place(&act.daq[..nd], s.queries, d, act.da2);
        let stream = wanted.stream();
        if stream {
            act.dx1[..td].fill(E::ZERO);
            place(&act.dyq[..nd], s.queries, d, act.dx1);
        }
        let (dq2, dx1) = (std::mem::take(&mut act.dq2), std::mem::take(&mut act.dx1));
        let done = self.second(s, act).and_then(|x| {
            let (out, dout) = (mats(act.a2, m, d)?, mats(act.da2, m, d)?);
            let dkv = if stream { KvGrad::Shared(mats_mut(dx1, m, d)?) } else { KvGrad::NONE };
            let (kept, dq) = (kept(act.p2, m)?, mats_mut(dq2, m, d)?);
            Ok(k.attention_backward(&x, kept, out, dout, dq, dkv, g.with.kernel)?)
        });
        (act.dq2, act.dx1) = (dq2, dx1);
        done?;
        pick(act.dq2, s.queries, d, &mut act.daq[..nd]);
        let dq = mat(act.daq, n, d)?;
        let wk = self.range(self.blocks.layers[1].wk);
        if wanted.wk[1] {
            let dw = mat_mut(&mut g.grad[wk.clone()], d, d)?;
            k.gemm(Write::Add, E::ONE, mat(act.xq, n, d)?.t(), dq, dw, g.with.kernel)?;
        }
        if !stream {
            return Ok(());
        }
        // dyq has been read: x1 is the query too.
        k.gemm(Write::Set, E::ONE, dq, mat(&params[wk], d, d)?.t(), mat_mut(act.dyq, n, d)?, g.with.kernel)?;
        self.add_at(&act.dyq[..nd], s.queries, &mut act.dx1[..td])?;
        let hidden = Hidden { l: 0, h: &act.h1[..td], f: act.f1 };
        self.feed_forward_backward(hidden, act.dx1, act.df, g)?;
        if wanted.first() { self.backward_first(s, tables, act, g) } else { Ok(()) }
    }

    /// From `act.dx1`, the gradient of h1, those of the tables and of the embeddings.
    fn backward_first(
        &self,
        s: Sequence<'_>,
        tables: &mut Tables<'_, E>,
        act: &mut Activations<'_, E>,
        g: &mut Grads<'_, E>,
    ) -> Result<()> {
        let Grads { grad, wanted, with } = g;
        let (k, m, d) = (&self.kernels, s.m(), self.shape.dim);
        let (td, rotary) = (m * d, self.shape.rotary);
        let want_k = rotary || wanted.embeddings;
        if rotary {
            act.dk1[..td].fill(E::ZERO);
        } else if want_k {
            // Keys are x0, whose gradient starts with that of h1.
            act.dk1[..td].copy_from_slice(&act.dx1[..td]);
        }
        if wanted.embeddings {
            act.dv1[..td].fill(E::ZERO);
        }
        let [dq1, dk1, dv1] = [&mut act.dq1, &mut act.dk1, &mut act.dv1].map(std::mem::take);
        let done = self.first(s, act).and_then(|x| {
            let (out, dout) = (mats(act.a1, m, d)?, mats(act.dx1, m, d)?);
            let dk = if want_k { Some(mats_mut(dk1, m, d)?) } else { None };
            let dv = if wanted.embeddings { Some(mats_mut(dv1, m, d)?) } else { None };
            let (kept, dq) = (kept(act.p1, m)?, mats_mut(dq1, m, d)?);
            Ok(k.attention_backward(&x, kept, out, dout, dq, KvGrad::Separate { dk, dv }, with.kernel)?)
        });
        (act.dq1, act.dk1, act.dv1) = (dq1, dk1, dv1);
        done?;
        let n = self.shape.vocab;
        let collect = |from: &[E], to: &mut [E]| -> Result<()> {
            Ok(k.scatter_add(mat(from, m, d)?, s.tokens, mat_mut(to, n, d)?)?)
        };
        let embeddings = self.range(self.blocks.embeddings);
        if rotary {
            self.rotate(&mut act.dk1[..td], true);
            collect(act.dk1, tables.dek)?;
            if wanted.embeddings {
                self.rotate(&mut act.dq1[..td], true);
                self.add_rows(&act.dx1[..td], act.dq1)?;
                collect(act.dq1, &mut grad[embeddings])?;
                collect(act.dv1, tables.dev)?;
            }
            return Ok(());
        }
        collect(act.dq1, tables.dek)?;
        if wanted.wk[0] {
            self.add_rows(&act.dq1[..td], tables.dpk)?;
        }
        if wanted.embeddings {
            collect(act.dk1, &mut grad[embeddings])?;
            collect(act.dv1, tables.dev)?;
        }
        Ok(())
    }

    /// What parameters alone give. The products of layer 2 always; the tables of layer 1 too.
    pub(super) fn fill_tables(&self, tables: &mut Tables<'_, E>, with: &mut With<'_, E>) -> Result<()> {
        let With { params, kernel } = with;
        let (k, d) = (&self.kernels, self.shape.dim);
        let block = |b: usize, rows: usize| mat(&params[self.range(b)], rows, d);
        let [first, second] = self.blocks.layers;
        for (b, out) in [(first, &mut tables.phi), (second, &mut tables.psi)] {
            k.gemm(Write::Set, E::ONE, block(b.wo, d)?, block(b.wv, d)?, mat_mut(out, d, d)?, kernel)?;
        }
        let wk = block(first.wk, d)?;
        let wk = if self.shape.rotary { wk.t() } else { wk };
        let phi = mat(tables.phi, d, d)?.t();
        let e = block(self.blocks.embeddings, self.shape.vocab)?;
        k.gemm(Write::Set, E::ONE, e, wk, mat_mut(tables.ek, e.rows(), d)?, kernel)?;
        k.gemm(Write::Set, E::ONE, e, phi, mat_mut(tables.ev, e.rows(), d)?, kernel)?;
        if let Some(pe) = self.blocks.pe {
            let p = block(pe, self.shape.len)?;
            k.gemm(Write::Set, E::ONE, p, wk, mat_mut(tables.pk, p.rows(), d)?, kernel)?;
            k.gemm(Write::Set, E::ONE, p, phi, mat_mut(tables.pv, p.rows(), d)?, kernel)?;
        }
        Ok(())
    }

    /// Gradients through the tables, after the last sequence.
    pub(super) fn tables_backward(&self, tables: &Tables<'_, E>, g: &mut Grads<'_, E>) -> Result<()> {
        let Grads { grad, wanted, with: With { params, kernel } } = g;
        let (k, d, n) = (&self.kernels, self.shape.dim, self.shape.vocab);
        let block = |b: usize, rows: usize| mat(&params[self.range(b)], rows, d);
        let rotary = self.shape.rotary;
        let [first, second] = self.blocks.layers;
        let e = self.blocks.embeddings;
        if wanted.wo {
            let dwo = mat_mut(&mut grad[self.range(second.wo)], d, d)?;
            k.gemm(Write::Set, E::ONE, mat(tables.dpsi, d, d)?, block(second.wv, d)?.t(), dwo, kernel)?;
        }
        if wanted.wk[0] {
            let dw = &mut grad[self.range(first.wk)];
            let (x, dek) = (block(e, n)?, mat(tables.dek, n, d)?);
            let (a, b) = if rotary { (dek, x) } else { (x, dek) };
            k.gemm(Write::Set, E::ONE, a.t(), b, mat_mut(dw, d, d)?, kernel)?;
            if let Some(pe) = self.blocks.pe {
                let t = self.shape.len;
                let (p, dpk) = (block(pe, t)?, mat(tables.dpk, t, d)?);
                k.gemm(Write::Add, E::ONE, p.t(), dpk, mat_mut(dw, d, d)?, kernel)?;
            }
        }
        if wanted.embeddings {
            let de = &mut grad[self.range(e)];
            let wk = block(first.wk, d)?;
            let wk = if rotary { wk } else { wk.t() };
            k.gemm(Write::Add, E::ONE, mat(tables.dek, n, d)?, wk, mat_mut(de, n, d)?, kernel)?;
            let phi = mat(tables.phi, d, d)?;
            k.gemm(Write::Add, E::ONE, mat(tables.dev, n, d)?, phi, mat_mut(de, n, d)?, kernel)?;
        }
        Ok(())
    }
}

/// Kernel scratch for everything here.
pub(super) fn kernel_len<E: Elem>(kernels: &Kernels<E>, shape: &Shape) -> usize {
    let (n, t, d) = (shape.vocab, shape.len, shape.dim);
    let hidden = if shape.ff.contains(&FeedForward::Relu) { 4 * d } else { d };
    let wide = hidden.max(n).max(t);
    let rows = n.max(t).max(d);
    kernels.gemm_scratch(wide.max(rows), wide.max(rows), wide).max(kernels.attention_scratch(t, t, d, d))
}
