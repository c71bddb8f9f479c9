//! The disentangled (attention-only, concatenating) transformer of Nichani, Damian and Lee 2024.
//!
//! | symbol | name here | shape | equation |
//! |---|---|---|---|
//! | x⁰ | first `d_0` columns of `x` | (T, S+T) | one-hot token, one-hot position |
//! | A_h of layer l | block `A.l` | (heads, d_l, d_l) | attn_h = softmax_{j<=i}(x A_h xᵀ) x |
//! | x^{l+1} | next columns of `x` | (T, d_{l+1}) | \[x, attn_1, .., attn_H\], d_{l+1} = d_l (1 + H) |
//! | W | block `W` | (d_L, S) | f = softmax(x_T W) |
//!
//! No factor 1/√d. Every layer's input is a column prefix of the next one's, so one array holds them all. The top layer is
//! computed for the last query only: nothing else reaches the output.
//!
//! That is the dense path, for any number of layers and the oracle of the other: one or two layers go by [`structured`](Path::Structured)
//! look-ups.

mod structured;

use super::{Layout, Model, Workspace, check_operands};
use crate::batch::Batch;
use crate::{Error, Result};
use popgrad_kernels::{
    Attention, Elem, Kernels, KvGrad, Mat, MatMut, Mats, MatsMut, Queries, Save, Saved, Write,
};

/// How forward and backward are computed. The same function; different roundings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Matrix products, whatever the rows hold.
    Dense,
    /// Look-ups where rows are one-hot: one or two layers only.
    Structured,
}

/// The model: sizes and kernels. Parameters live in a flat vector laid out by [`Model::layout`].
#[derive(Debug)]
pub struct Disentangled<E> {
    kernels: Kernels<E>,
    vocab: usize,
    seq_len: usize,
    heads: Vec<usize>,
    /// Width of the input of layer l; the last entry is the width that W reads.
    widths: Vec<usize>,
    layout: Layout,
    path: Path,
}

/// Where the activations of `n` sequences lie in the arena.
struct Activations<'a, E> {
    /// Inputs of all layers, (n T, D) with D the width of the top layer's input.
    x: &'a mut [E],
    /// Per layer and head: x A_h, then the attention pattern.
    q: &'a mut [E],
    probs: &'a mut [E],
    /// \[x_T, attn_1, .., attn_H\] of the top layer, (n, d_L).
    f: &'a mut [E],
    logits: &'a mut [E],
    /// Gradients: of x (n T, D), of f (n, d_L), of one head's queries (n T, d).
    dx: &'a mut [E],
    df: &'a mut [E],
    dq: &'a mut [E],
}

impl<E: Elem> Disentangled<E> {
    /// `vocab` symbols, sequences of `seq_len` tokens, `heads[l]` heads in layer l.
    ///
    /// # Errors
    /// Sizes out of range, or more parameters than memory holds; an instruction set forced that this CPU lacks.
    pub fn new(vocab: usize, seq_len: usize, heads: &[usize]) -> Result<Self> {
        for (field, value, low) in [("S", vocab, 2), ("T", seq_len, 2)] {
            if value < low || value > 1 << 16 {
                return Err(Error::invalid(field, value.to_string(), format!("{low} <= {field} <= 65536")));
            }
        }
        if heads.is_empty() || heads.len() > 16 || heads.iter().any(|h| *h == 0 || *h > 64) {
            return Err(Error::invalid("heads", format!("{heads:?}"), "1 to 16 layers of 1 to 64 heads"));
        }
        let mut widths = vec![vocab + seq_len];
        let mut layout = Layout::new();
        for (l, h) in heads.iter().enumerate() {
            let d = widths[l];
            layout.push(format!("A.{l}"), &[*h, d, d])?;
            widths.push(d * (1 + h));
        }
        layout.push("W", &[widths[heads.len()], vocab])?;
        let kernels = Kernels::from_env()?;
        let path = if heads.len() <= 2 { Path::Structured } else { Path::Dense };
        Ok(Disentangled { kernels, vocab, seq_len, heads: heads.to_vec(), widths, layout, path })
    }

    /// The same model by another path; structured where it applies is what [`Disentangled::new`] takes.
    ///
    /// # Errors
    /// [`Path::Structured`] of more than two layers.
    pub fn with_path(mut self, path: Path) -> Result<Self> {
        if path == Path::Structured && self.heads.len() > 2 {
            let found = format!("structured, {} layers", self.heads.len());
            return Err(Error::invalid("path", found, "one or two layers, or the dense path"));
        }
        self.path = path;
        Ok(self)
    }

    /// The same model on these kernels: another instruction set than the process's.
    pub fn with_kernels(mut self, kernels: Kernels<E>) -> Self {
        self.kernels = kernels;
        self
    }

    /// Heads of each layer.
    pub fn heads(&self) -> &[usize] {
        &self.heads
    }

    /// Width d_l of the input of each layer, and of what W reads.
    pub fn widths(&self) -> &[usize] {
        &self.widths
    }

    fn top(&self) -> usize {
        self.heads.len() - 1
    }

    /// Queries of layer l: all positions below the top, the last one in it.
    fn queries(&self, l: usize) -> usize {
        if l == self.top() { 1 } else { self.seq_len }
    }

    /// Elements of (x, q, probs, f, logits, dq) for `n` sequences.
    fn sizes(&self, n: usize) -> Option<[usize; 6]> {
        let (t, top) = (self.seq_len, self.top());
        let mul = |a: usize, b: usize| a.checked_mul(b);
        let x = mul(mul(n, t)?, self.widths[top])?;
        let (mut q, mut p) = (0usize, 0usize);
        for (l, h) in self.heads.iter().enumerate() {
            let rows = mul(mul(n, self.queries(l))?, *h)?;
            q = q.checked_add(mul(rows, self.widths[l])?)?;
            p = p.checked_add(mul(rows, t)?)?;
        }
        Some([x, q, p, mul(n, self.widths[top + 1])?, mul(n, self.vocab)?, x])
    }

    fn carve<'a>(&self, n: usize, arena: &'a mut [E]) -> Activations<'a, E> {
        let [x, q, p, f, logits, dq] = self.sizes(n).expect("the workspace was made for at least n");
        let (xs, rest) = arena.split_at_mut(x);
        let (qs, rest) = rest.split_at_mut(q);
        let (probs, rest) = rest.split_at_mut(p);
        let (fs, rest) = rest.split_at_mut(f);
        let (ls, rest) = rest.split_at_mut(logits);
        let (dx, rest) = rest.split_at_mut(x);
        let (df, rest) = rest.split_at_mut(f);
        let dq = &mut rest[..dq];
        Activations { x: xs, q: qs, probs, f: fs, logits: ls, dx, df, dq }
    }

    /// Matrix A_h of layer l, (d_l, d_l).
    fn a<'p>(&self, params: &'p [E], l: usize, h: usize) -> Result<Mat<'p, E>> {
        let d = self.widths[l];
        let block = &params[self.layout.blocks()[l].range()];
        Ok(Mat::new(&block[h * d * d..], d, d)?)
    }

    /// One-hot token and position, in the first d_0 columns of x.
    fn embed(&self, batch: &Batch, x: &mut [E]) -> Result<()> {
        let (s, t, width) = (self.vocab, self.seq_len, self.widths[self.top()]);
        for (row, token) in
            x.chunks_exact_mut(width).zip(batch.tokens()).enumerate().map(|(i, (r, k))| ((i, r), k))
        {
            let (i, row) = row;
            let token = *token as usize;
            if token >= s {
                let found = format!("token {token} in sequence {}", i / t);
                return Err(Error::invalid("tokens", found, format!("0 <= token < {s}")));
            }
            row[..s + t].fill(E::ZERO);
            row[token] = E::ONE;
            row[s + i % t] = E::ONE;
        }
        Ok(())
    }
}

/// Scores q·x, values x.
fn attention<'a, E: Elem>(q: Mats<'a, E>, x: Mats<'a, E>) -> Attention<'a, E> {
    Attention { q, k: x, v: x, scale: E::ONE, queries: Queries::Last }
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

    fn workspace_len(&self, seqs: usize) -> Option<[usize; 2]> {
        if self.path == Path::Structured {
            return self.structured_len(seqs);
        }
        let (t, k) = (self.seq_len, &self.kernels);
        let [x, q, p, f, l, dq] = self.sizes(seqs)?;
        let arena = [x, x, q, p, f, f, l, dq].into_iter().try_fold(0usize, |a, b| a.checked_add(b));
        let arena = arena.filter(|a| *a <= isize::MAX as usize / 64)?;
        let mut kernel = 0;
        for (l, d) in self.widths[..=self.top()].iter().copied().enumerate() {
            let rows = seqs * self.queries(l);
            // x A, dA = xᵀ dq, dx += dq Aᵀ; then W with d_L columns.
            for (m, kk, n) in [(rows, d, d), (d, rows, d)] {
                kernel = kernel.max(k.gemm_scratch(m, kk, n));
            }
            kernel = kernel.max(k.attention_scratch(self.queries(l), t, d, d));
        }
        let (f, s) = (self.widths[self.top() + 1], self.vocab);
        for (m, kk, n) in [(seqs, f, s), (f, seqs, s), (seqs, s, f)] {
            kernel = kernel.max(k.gemm_scratch(m, kk, n));
        }
        Some([arena, kernel])
    }

    fn forward(&self, params: &[E], batch: &Batch, ws: &mut Workspace<E>) -> Result<()> {
        check_operands(self, params, batch, ws)?;
        if self.path == Path::Structured {
            return self.forward_structured(params, batch, ws);
        }
        let (n, t, s, top) = (batch.seqs(), self.seq_len, self.vocab, self.top());
        let (width, f_width) = (self.widths[top], self.widths[top + 1]);
        let Workspace { arena, kernel, probs: out, losses, .. } = ws;
        let act = self.carve(n, arena.as_mut_slice());
        self.embed(batch, act.x)?;

        let (mut q_rest, mut p_rest) = (act.q, act.probs);
        for l in 0..=top {
            let (d, rows) = (self.widths[l], self.queries(l));
            for h in 0..self.heads[l] {
                let (q, q_next) = q_rest.split_at_mut(n * rows * d);
                let (p, p_next) = p_rest.split_at_mut(n * rows * t);
                (q_rest, p_rest) = (q_next, p_next);
                let a = self.a(params, l, h)?;
                let cols = d * (1 + h);
                if l < top {
                    let x = MatsMut::new(act.x, [n, t, width], t * width, width)?;
                    let (x, rest) = x.split_cols(d);
                    let x = x.as_ref();
                    let flat = x.flatten().expect("rows of x are evenly spaced");
                    self.kernels.gemm(Write::Set, E::ONE, flat, a, MatMut::new(q, n * t, d)?, kernel)?;
                    let q = Mats::new(q, [n, t, d], t * d, d)?;
                    let pattern = MatsMut::new(p, [n, t, t], t * t, t)?;
                    let out = rest.sub(0, t, cols - d, d);
                    self.kernels.attention(&attention(q, x), out, Save::Probs(pattern), kernel)?;
                } else {
                    let x = Mats::new(act.x, [n, t, d], t * d, d)?;
                    let last = x.sub(t - 1, 1, 0, d).flatten().expect("one row per sequence");
                    self.kernels.gemm(Write::Set, E::ONE, last, a, MatMut::new(q, n, d)?, kernel)?;
                    let q = Mats::new(q, [n, 1, d], d, d)?;
                    let pattern = MatsMut::new(p, [n, 1, t], t, t)?;
                    let f = MatsMut::new(act.f, [n, 1, f_width], f_width, f_width)?.sub(0, 1, cols, d);
                    self.kernels.attention(&attention(q, x), f, Save::Probs(pattern), kernel)?;
                }
            }
        }
        for (f, x) in act.f.chunks_exact_mut(f_width).zip(act.x.chunks_exact(t * width)) {
            f[..width].copy_from_slice(&x[(t - 1) * width..]);
        }
        let w = Mat::new(&params[self.layout.blocks()[top + 1].range()], f_width, s)?;
        let f = Mat::new(act.f, n, f_width)?;
        self.kernels.gemm(Write::Set, E::ONE, f, w, MatMut::new(act.logits, n, s)?, kernel)?;
        let logits = Mat::new(act.logits, n, s)?;
        let targets = Mat::new(batch.targets(), n, s)?;
        self.kernels.cross_entropy(
            logits,
            targets,
            &mut losses[..n],
            MatMut::new(&mut out[..n * s], n, s)?,
        )?;
        ws.set_seqs(n);
        Ok(())
    }

    fn backward(&self, params: &[E], batch: &Batch, ws: &mut Workspace<E>, grad: &mut [E]) -> Result<()> {
        check_operands(self, params, batch, ws)?;
        let (n, t, s, top) = (batch.seqs(), self.seq_len, self.vocab, self.top());
        if grad.len() != params.len() || ws.losses().len() != n {
            let allowed = "a gradient as long as the parameters, after a forward of the same batch";
            return Err(Error::invalid("grad", format!("{} entries", grad.len()), allowed));
        }
        if self.path == Path::Structured {
            return self.backward_structured(params, batch, ws, grad);
        }
        let (width, f_width) = (self.widths[top], self.widths[top + 1]);
        let Workspace { arena, kernel, probs: out, .. } = ws;
        let Activations { x, q, probs, f, logits, dx, df, dq } = self.carve(n, arena.as_mut_slice());
        let k = &self.kernels;

        // Output: dlogits, dW = fᵀ dlogits, df = dlogits Wᵀ.
        let targets = Mat::new(batch.targets(), n, s)?;
        let p = Mat::new(&out[..n * s], n, s)?;
        k.cross_entropy_backward(p, targets, batch.weights(), MatMut::new(logits, n, s)?)?;
        let dlogits = Mat::new(logits, n, s)?;
        let w_range = self.layout.blocks()[top + 1].range();
        let w = Mat::new(&params[w_range.clone()], f_width, s)?;
        let f_rows = Mat::new(f, n, f_width)?;
        k.gemm(
            Write::Set,
            E::ONE,
            f_rows.t(),
            dlogits,
            MatMut::new(&mut grad[w_range], f_width, s)?,
            kernel,
        )?;
        k.gemm(Write::Set, E::ONE, dlogits, w.t(), MatMut::new(df, n, f_width)?, kernel)?;

        // What reaches x_T directly. x⁰ is data: with one layer nothing needs its gradient.
        if top > 0 {
            dx.fill(E::ZERO);
            for (dx, df) in dx.chunks_exact_mut(t * width).zip(df.chunks_exact(f_width)) {
                dx[(t - 1) * width..].copy_from_slice(&df[..width]);
            }
        }

        // Activations of the heads, from the last to the first.
        let (mut q_end, mut p_end) = (q.len(), probs.len());
        for l in (0..=top).rev() {
            let (d, rows) = (self.widths[l], self.queries(l));
            let a_range = self.layout.blocks()[l].range();
            for h in (0..self.heads[l]).rev() {
                q_end -= n * rows * d;
                p_end -= n * rows * t;
                let q = Mats::new(&q[q_end..], [n, rows, d], rows * d, d)?;
                let pattern = Saved::Probs(Mats::new(&probs[p_end..], [n, rows, t], rows * t, t)?);
                let activations = Mats::new(x, [n, t, width], t * width, width)?;
                let x = activations.sub(0, t, 0, d);
                let queries = x.sub(t - rows, rows, 0, d).flatten().expect("rows of x are evenly spaced");
                let head_dq = MatsMut::new(&mut dq[..n * rows * d], [n, rows, d], rows * d, d)?;
                let cols = d * (1 + h);
                if l == top {
                    let dout = Mats::new(df, [n, 1, f_width], f_width, f_width)?.sub(0, 1, cols, d);
                    let dkv = match l {
                        0 => KvGrad::NONE,
                        _ => KvGrad::Shared(MatsMut::new(dx, [n, t, width], t * width, width)?),
                    };
                    let out = Mats::new(f, [n, 1, f_width], f_width, f_width)?.sub(0, 1, cols, d);
                    k.attention_backward(&attention(q, x), pattern, out, dout, head_dq, dkv, kernel)?;
                } else {
                    let both = MatsMut::new(dx, [n, t, width], t * width, width)?;
                    let (dx, right) = both.split_cols(d);
                    let right = right.as_ref();
                    let dout = right.sub(0, t, cols - d, d);
                    let dkv = if l == 0 { KvGrad::NONE } else { KvGrad::Shared(dx) };
                    let out = activations.sub(0, t, cols, d);
                    k.attention_backward(&attention(q, x), pattern, out, dout, head_dq, dkv, kernel)?;
                }
                // q = x A: dA = xᵀ dq, dx += dq Aᵀ.
                let dq = Mat::new(&dq[..n * rows * d], n * rows, d)?;
                let da = &mut grad[a_range.clone()][h * d * d..(h + 1) * d * d];
                k.gemm(Write::Set, E::ONE, queries.t(), dq, MatMut::new(da, d, d)?, kernel)?;
                if l > 0 {
                    let a = self.a(params, l, h)?;
                    let dx = MatsMut::new(dx, [n, t, width], t * width, width)?.sub(t - rows, rows, 0, d);
                    let dx = dx.flatten().expect("rows of dx are evenly spaced");
                    k.gemm(Write::Add, E::ONE, dq, a.t(), dx, kernel)?;
                }
            }
        }
        Ok(())
    }
}
