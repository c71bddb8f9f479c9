//! The transformer with an MLP of Nichani, Damian and Lee 2024, Figure 8, in the mu-parametrisation of the public code.
//!
//! | symbol | name here | shape | equation |
//! |---|---|---|---|
//! | E | blocks `wte`, `wpe` | (S, d), (T, d) | x⁰_i = wte\[s_i\] + wpe\[i\], d = S + T |
//! | A_h of layer l | block `A.l` | (H, d, d) | attn_h = softmax_{j<=i}(x A_h xᵀ) x, no factor 1/√d |
//! | V of layer l | block `V.l` | (H d, d) | y = \[attn_1, .., attn_H\] V |
//! | W1, b1 | `mlp.l.w1`, `mlp.l.b1` | (d, d), (d) | h = relu(y W1 + √d b1) |
//! | W2, b2 | `mlp.l.w2`, `mlp.l.b2` | (d, d), (d) | x^{l+1} = x^l + h W2 + √d b2 |
//! | W | block `W` | (d, S) | f = softmax(x_T W) |
//! | U | `u` | (H d, d) | U = V W1: nothing stands between the two |
//!
//! Attention enters the stream through the MLP alone. A mu-linear map from m to n is x W √(n/m) + √n b; here m = n = d, so weights
//! have factor 1 and biases √d. Start: wte, wpe, V, W1 normal with standard deviation 1/√d (V too whatever H, as its output has d
//! entries); A, W2, W and the biases zero. All blocks are trained and all decay under weight decay, biases and embeddings too, as in the
//! public code (optax adamw without a mask).
//!
//! The top layer is computed for the last query only; the first one knows one-hot inputs only (`first.rs`).
//!
//! Past 400 lines: half of it is this table and the layout checks that hold it.

mod first;
mod upper;

use super::{Layout, Model, Workspace, check_operands};
use crate::batch::Batch;
use crate::{Error, Result};
use first::First;
use popgrad_kernels::{Elem, Kernels, Mat, MatMut, Scratch, Write};
use std::ops::Range;
use upper::{Layer, LayerMut, Temporary};

/// The model: sizes and kernels. Parameters live in a flat vector laid out by [`Model::layout`].
#[derive(Debug)]
pub struct MlpTransformer<E> {
    kernels: Kernels<E>,
    vocab: usize,
    seq_len: usize,
    heads: Vec<usize>,
    layout: Layout,
}

/// Blocks of one layer, in layout order.
#[derive(Clone, Copy)]
enum Part {
    A,
    V,
    W1,
    B1,
    W2,
    B2,
}

/// Where the activations of `n` sequences lie in the arena. Layers follow each other; `rows` of layer l is T, 1 at the top.
struct Activations<'a, E> {
    /// U of every layer; what the first layer keeps besides.
    u: &'a mut [E],
    r: &'a mut [E],
    g: &'a mut [E],
    c: &'a mut [E],
    /// Inputs of the layers but the first (L − 1, n T, d), then the last rows that leave the top (n, d).
    x: &'a mut [E],
    /// Per layer but the first and head: x A_h (n rows, d), the pattern (n rows, T); per layer: \[attn_1, ..\] (n rows, H d).
    q: &'a mut [E],
    probs: &'a mut [E],
    o: &'a mut [E],
    /// Per layer: h (n rows, d).
    h: &'a mut [E],
    logits: &'a mut [E],
    /// Gradients: of x (n T, d), of x at the top (n, d), of one layer's h, attention, queries of one head, U.
    dx: &'a mut [E],
    dtop: &'a mut [E],
    dh: &'a mut [E],
    dout: &'a mut [E],
    dq: &'a mut [E],
    du: &'a mut [E],
    square: &'a mut [E],
    other: &'a mut [E],
    row: &'a mut [E],
}

impl<E: Elem> MlpTransformer<E> {
    /// `vocab` symbols, sequences of `seq_len` tokens, `heads[l]` heads in layer l.
    ///
    /// # Errors
    /// Sizes out of range, or more parameters than memory holds; an instruction set forced that this CPU lacks.
    pub fn new(vocab: usize, seq_len: usize, heads: &[usize]) -> Result<Self> {
        for (field, value) in [("S", vocab), ("T", seq_len)] {
            if !(2..=1 << 16).contains(&value) {
                return Err(Error::invalid(field, value.to_string(), format!("2 <= {field} <= 65536")));
            }
        }
        if heads.is_empty() || heads.len() > 16 || heads.iter().any(|h| *h == 0 || *h > 64) {
            return Err(Error::invalid("heads", format!("{heads:?}"), "1 to 16 layers of 1 to 64 heads"));
        }
        let d = vocab + seq_len;
        let mut layout = Layout::new();
        layout.push("wte", &[vocab, d])?;
        layout.push("wpe", &[seq_len, d])?;
        for (l, h) in heads.iter().enumerate() {
            layout.push(format!("A.{l}"), &[*h, d, d])?;
            layout.push(format!("V.{l}"), &[h * d, d])?;
            layout.push(format!("mlp.{l}.w1"), &[d, d])?;
            layout.push(format!("mlp.{l}.b1"), &[d])?;
            layout.push(format!("mlp.{l}.w2"), &[d, d])?;
            layout.push(format!("mlp.{l}.b2"), &[d])?;
        }
        layout.push("W", &[d, vocab])?;
        Ok(MlpTransformer { kernels: Kernels::from_env()?, vocab, seq_len, heads: heads.to_vec(), layout })
    }

    /// Heads of each layer.
    pub fn heads(&self) -> &[usize] {
        &self.heads
    }

    /// Width d of the residual stream.
    pub fn width(&self) -> usize {
        self.vocab + self.seq_len
    }

    fn top(&self) -> usize {
        self.heads.len() - 1
    }

    /// Queries of layer l: all positions below the top, the last one in it.
    fn queries(&self, l: usize) -> usize {
        if l == self.top() { 1 } else { self.seq_len }
    }

    fn range(&self, l: usize, part: Part) -> Range<usize> {
        self.layout.blocks()[2 + 6 * l + part as usize].range()
    }

    fn readout(&self) -> Range<usize> {
        self.layout.blocks()[2 + 6 * self.heads.len()].range()
    }

    /// A block as a matrix of d columns.
    fn mat<'p>(&self, params: &'p [E], range: Range<usize>) -> Result<Mat<'p, E>> {
        let d = self.width();
        let rows = range.len() / d;
        Ok(Mat::new(&params[range], rows, d)?)
    }

    /// A_h of layer l, (d, d).
    fn a(&self, l: usize, h: usize) -> Range<usize> {
        let (d, start) = (self.width(), self.range(l, Part::A).start);
        start + h * d * d..start + (h + 1) * d * d
    }

    /// Elements of the arrays of [`Activations`] for `n` sequences, in order.
    fn sizes(&self, n: usize) -> Option<[usize; 19]> {
        let (t, d) = (self.seq_len, self.width());
        let mul = |a: usize, b: usize| a.checked_mul(b);
        let add = |a: &mut usize, b: usize| a.checked_add(b).map(|sum| *a = sum);
        let (square, stream, last) = (mul(d, d)?, mul(mul(n, t)?, d)?, mul(n, d)?);
        let (mut u, mut q, mut p, mut o, mut h, mut dout, mut dq) = (0, 0, 0, 0, 0, 0, 0);
        for (l, heads) in self.heads.iter().copied().enumerate() {
            let rows = mul(n, self.queries(l))?;
            let wide = mul(mul(rows, heads)?, d)?;
            add(&mut u, mul(heads, square)?)?;
            add(&mut h, mul(rows, d)?)?;
            dout = dout.max(wide);
            if l > 0 {
                add(&mut q, wide)?;
                add(&mut p, mul(mul(rows, heads)?, t)?)?;
                add(&mut o, wide)?;
                dq = dq.max(mul(rows, d)?);
            }
        }
        let tables = mul(self.heads[0], square)?;
        let c = mul(mul(mul(n, self.queries(0))?, self.heads[0])?, d)?;
        let x = mul(self.top(), stream)?.checked_add(last)?;
        let dx = if self.top() == 0 { 0 } else { stream };
        let du = mul(self.heads.iter().copied().max().unwrap_or(0), square)?;
        let (logits, dh) = (mul(n, self.vocab)?, mul(mul(n, self.queries(0))?, d)?);
        Some([u, tables, tables, c, x, q, p, o, h, logits, dx, last, dh, dout, dq, du, square, square, d])
    }

    fn carve<'a>(&self, n: usize, arena: &'a mut [E]) -> Activations<'a, E> {
        let mut rest = arena;
        let sizes = self.sizes(n).expect("the workspace was made for at least n");
        let [u, r, g, c, x, q, probs, o, h, logits, dx, dtop, dh, dout, dq, du, square, other, row] =
            sizes.map(|len| next(&mut rest, len));
        Activations { u, r, g, c, x, q, probs, o, h, logits, dx, dtop, dh, dout, dq, du, square, other, row }
    }

    fn root(&self) -> E {
        E::from_f64((self.width() as f64).sqrt())
    }

    fn check_tokens(&self, batch: &Batch) -> Result<()> {
        match batch.tokens().iter().position(|token| *token as usize >= self.vocab) {
            None => Ok(()),
            Some(i) => {
                let found = format!("token {} in sequence {}", batch.tokens()[i], i / self.seq_len);
                Err(Error::invalid("tokens", found, format!("0 <= token < {}", self.vocab)))
            }
        }
    }

    /// h = relu(o U + √d b1) for `o` of m rows; `h` (m, d).
    fn hidden(
        &self,
        params: &[E],
        l: usize,
        o: Mat<'_, E>,
        u: Mat<'_, E>,
        h: &mut [E],
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let (root, b1) = (self.root(), &params[self.range(l, Part::B1)]);
        for row in h.chunks_exact_mut(self.width()) {
            row.iter_mut().zip(b1).for_each(|(h, b)| *h = root * *b);
        }
        let out = MatMut::new(h, o.rows(), self.width())?;
        self.kernels.gemm(Write::Add, E::ONE, o, u, out, kernel)?;
        self.kernels.relu(h);
        Ok(())
    }

    /// From the gradient `dy` (m, d) of h W2 + √d b2 those of W2, b2 and b1; `dh` (m, d) becomes that of what the rectifier took.
    #[allow(clippy::too_many_arguments)]
    fn mlp_backward(
        &self,
        params: &[E],
        l: usize,
        h: &[E],
        dy: &[E],
        dh: &mut [E],
        grad: &mut [E],
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let (k, d) = (&self.kernels, self.width());
        let m = h.len() / d;
        column_sums(dy, self.root(), &mut grad[self.range(l, Part::B2)]);
        let (rows, dy) = (Mat::new(h, m, d)?, Mat::new(dy, m, d)?);
        let dw2 = MatMut::new(&mut grad[self.range(l, Part::W2)], d, d)?;
        k.gemm(Write::Set, E::ONE, rows.t(), dy, dw2, kernel)?;
        let w2 = self.mat(params, self.range(l, Part::W2))?;
        k.gemm(Write::Set, E::ONE, dy, w2.t(), MatMut::new(dh, m, d)?, kernel)?;
        k.relu_backward(h, dh)?;
        column_sums(dh, self.root(), &mut grad[self.range(l, Part::B1)]);
        Ok(())
    }

    /// From `du`, the gradient of U = V W1, those of V and W1.
    fn product_backward(
        &self,
        params: &[E],
        l: usize,
        du: &[E],
        grad: &mut [E],
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let (k, d) = (&self.kernels, self.width());
        let wide = du.len() / d;
        let du = Mat::new(du, wide, d)?;
        let (v, w1) = (self.mat(params, self.range(l, Part::V))?, self.mat(params, self.range(l, Part::W1))?);
        let dv = MatMut::new(&mut grad[self.range(l, Part::V)], wide, d)?;
        k.gemm(Write::Set, E::ONE, du, w1.t(), dv, kernel)?;
        let dw1 = MatMut::new(&mut grad[self.range(l, Part::W1)], d, d)?;
        Ok(k.gemm(Write::Set, E::ONE, v.t(), du, dw1, kernel)?)
    }
}

/// out = factor Σ rows of `x`.
fn column_sums<E: Elem>(x: &[E], factor: E, out: &mut [E]) {
    out.fill(E::ZERO);
    for row in x.chunks_exact(out.len()) {
        out.iter_mut().zip(row).for_each(|(o, x)| *o += *x);
    }
    out.iter_mut().for_each(|o| *o = factor * *o);
}

/// Takes the next `len` elements off the front.
fn next<'a, E>(rest: &mut &'a mut [E], len: usize) -> &'a mut [E] {
    let (piece, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    piece
}

impl<E: Elem> Model<E> for MlpTransformer<E> {
    fn name(&self) -> &'static str {
        "mlp_transformer"
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

    fn initial(&self, attention: f64, normal: &dyn Fn(u64) -> f64) -> Vec<E> {
        let mut params = vec![E::ZERO; self.layout.len()];
        let unit = 1.0 / (self.width() as f64).sqrt();
        for block in self.layout.blocks() {
            let name = block.name();
            let sd = match name {
                "wte" | "wpe" => unit,
                _ if name.starts_with("V.") || name.ends_with(".w1") => unit,
                _ if name.starts_with("A.") => attention,
                _ => 0.0,
            };
            if sd > 0.0 {
                block.range().for_each(|i| params[i] = E::from_f64(sd * normal(i as u64)));
            }
        }
        params
    }

    fn workspace_len(&self, seqs: usize) -> Option<[usize; 2]> {
        let (t, d, s, k) = (self.seq_len, self.width(), self.vocab, &self.kernels);
        let arena = self.sizes(seqs)?.into_iter().try_fold(0usize, |a, b| a.checked_add(b));
        let arena = arena.filter(|a| *a <= isize::MAX as usize / 64)?;
        let mut kernel =
            k.gemm_scratch(seqs, d, s).max(k.gemm_scratch(d, seqs, s)).max(k.gemm_scratch(seqs, s, d));
        for (l, heads) in self.heads.iter().enumerate() {
            let (rows, wide) = (seqs * self.queries(l), heads * d);
            for (m, kk, n) in [
                (rows, wide, d),
                (wide, rows, d),
                (rows, d, wide),
                (wide, d, d),
                (d, wide, d),
                (d, rows, d),
                (rows, d, d),
            ] {
                kernel = kernel.max(k.gemm_scratch(m, kk, n));
            }
            if l > 0 {
                kernel = kernel.max(k.attention_scratch(self.queries(l), t, d, d));
            }
        }
        Some([arena, kernel])
    }

    fn forward(&self, params: &[E], batch: &Batch, ws: &mut Workspace<E>) -> Result<()> {
        check_operands(self, params, batch, ws)?;
        let (n, t, s, d) = (batch.seqs(), self.seq_len, self.vocab, self.width());
        let Workspace { arena, kernel, probs: out, losses, .. } = ws;
        let act = self.carve(n, arena.as_mut_slice());
        self.check_tokens(batch)?;
        let (mut x, mut u, mut q, mut probs, mut o, mut h) = (act.x, act.u, act.q, act.probs, act.o, act.h);
        let rows = n * self.queries(0);
        let layer = First {
            u: next(&mut u, self.heads[0] * d * d),
            r: act.r,
            g: act.g,
            c: act.c,
            h: next(&mut h, rows * d),
            square: act.square,
            other: act.other,
            row: act.row,
        };
        self.first_forward(params, batch, layer, &mut x[..rows * d], kernel)?;
        for l in 1..=self.top() {
            let (rows, heads) = (n * self.queries(l), self.heads[l]);
            let layer = LayerMut {
                u: next(&mut u, heads * d * d),
                q: next(&mut q, heads * rows * d),
                probs: next(&mut probs, heads * rows * t),
                o: next(&mut o, heads * rows * d),
                h: next(&mut h, rows * d),
            };
            let input = next(&mut x, n * t * d);
            self.layer_forward(params, l, n, input, layer, &mut x[..rows * d], kernel)?;
        }
        let w = Mat::new(&params[self.readout()], d, s)?;
        let last = Mat::new(&x[..n * d], n, d)?;
        self.kernels.gemm(Write::Set, E::ONE, last, w, MatMut::new(act.logits, n, s)?, kernel)?;
        let (logits, targets) = (Mat::new(act.logits, n, s)?, Mat::new(batch.targets(), n, s)?);
        let out = MatMut::new(&mut out[..n * s], n, s)?;
        self.kernels.cross_entropy(logits, targets, &mut losses[..n], out)?;
        ws.set_seqs(n);
        Ok(())
    }

    fn backward(&self, params: &[E], batch: &Batch, ws: &mut Workspace<E>, grad: &mut [E]) -> Result<()> {
        check_operands(self, params, batch, ws)?;
        let (n, t, s, d, top) = (batch.seqs(), self.seq_len, self.vocab, self.width(), self.top());
        if grad.len() != params.len() || ws.losses().len() != n {
            let allowed = "a gradient as long as the parameters, after a forward of the same batch";
            return Err(Error::invalid("grad", format!("{} entries", grad.len()), allowed));
        }
        let Workspace { arena, kernel, probs: out, .. } = ws;
        let act = self.carve(n, arena.as_mut_slice());
        let Activations { u, r, g, c, x, q, probs, o, h, logits, dx, dtop, dh, dout, dq, du, .. } = act;
        let k = &self.kernels;

        // Output: dlogits, dW = x_Tᵀ dlogits, dx_T = dlogits Wᵀ.
        let (p, targets) = (Mat::new(&out[..n * s], n, s)?, Mat::new(batch.targets(), n, s)?);
        k.cross_entropy_backward(p, targets, batch.weights(), MatMut::new(logits, n, s)?)?;
        let dlogits = Mat::new(logits, n, s)?;
        let last = Mat::new(&x[top * n * t * d..], n, d)?;
        let dw = MatMut::new(&mut grad[self.readout()], d, s)?;
        k.gemm(Write::Set, E::ONE, last.t(), dlogits, dw, kernel)?;
        let w = Mat::new(&params[self.readout()], d, s)?;
        k.gemm(Write::Set, E::ONE, dlogits, w.t(), MatMut::new(dtop, n, d)?, kernel)?;
        dx.fill(E::ZERO);
        for (dx, dtop) in dx.chunks_exact_mut(t * d).zip(dtop.chunks_exact(d)) {
            dx[(t - 1) * d..].copy_from_slice(dtop);
        }

        let first = self.heads[0] * d * d;
        let (u_first, u) = u.split_at_mut(first);
        let (h_first, h) = h.split_at_mut(n * self.queries(0) * d);
        let (mut u, mut q, mut probs, mut o, mut h) = (&*u, &*q, &*probs, &*o, &*h);
        for l in (1..=top).rev() {
            let (rows, heads) = (n * self.queries(l), self.heads[l]);
            let layer = Layer {
                u: last_of(&mut u, heads * d * d),
                q: last_of(&mut q, heads * rows * d),
                probs: last_of(&mut probs, heads * rows * t),
                o: last_of(&mut o, heads * rows * d),
                h: last_of(&mut h, rows * d),
            };
            let tmp = Temporary { du, dtop, dh, dout, dq };
            let input = &x[(l - 1) * n * t * d..][..n * t * d];
            self.layer_backward(params, l, n, input, layer, tmp, dx, grad, kernel)?;
        }
        let layer =
            First { u: u_first, r, g, c, h: h_first, square: act.square, other: act.other, row: act.row };
        let (rows, dy) = (n * self.queries(0), if top == 0 { &*dtop } else { &*dx });
        let (dh, dc) = (&mut dh[..rows * d], &mut dout[..rows * self.heads[0] * d]);
        self.first_backward(params, batch, layer, dy, dh, dc, &mut du[..first], grad, kernel)
    }
}

/// Takes the last `len` elements off the end.
fn last_of<'a, E>(rest: &mut &'a [E], len: usize) -> &'a [E] {
    let (head, piece) = rest.split_at(rest.len() - len);
    *rest = head;
    piece
}
