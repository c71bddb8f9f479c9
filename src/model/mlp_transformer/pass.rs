//! A pass through all layers, and the layout of its activations.

use super::super::layered::{Layered, Out, Pass, Pattern, next};
use super::MlpTransformer;
use super::first::{First, FirstGrads};
use super::upper::{Layer, LayerMut, Temporary};
use crate::Result;
use popgrad_kernels::{Elem, Kernels, Mat, MatMut, Scratch, Write};

/// The activations of `n` sequences in the arena, layer after layer. Each layer has T `rows`, the
/// top one T or 1.
pub(super) struct Activations<'a, E> {
    /// U of every layer; what the first layer keeps besides.
    u: &'a mut [E],
    r: &'a mut [E],
    g: &'a mut [E],
    c: &'a mut [E],
    /// Inputs of the layers but the first (L − 1, n T, d), then the rows that leave the top (n
    /// rows, d).
    x: &'a mut [E],
    /// Per layer but the first and head: x A_h (n rows, d), the pattern (n rows, T); per layer:
    /// \[attn_1, ..\] (n rows, H d).
    q: &'a mut [E],
    probs: &'a mut [E],
    o: &'a mut [E],
    /// Per layer: h (n rows, d).
    h: &'a mut [E],
    /// Gradients: of x (n T, d), of x at the top (n rows, d), of one layer's h, attention, queries
    /// of one head, U.
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
    /// Elements of the arrays of [`Activations`] for `n` sequences, in order.
    fn sizes(&self, n: usize, rows: usize) -> Option<[usize; 18]> {
        let (t, d) = (self.seq_len, self.width());
        let mul = |a: usize, b: usize| a.checked_mul(b);
        let add = |a: &mut usize, b: usize| a.checked_add(b).map(|sum| *a = sum);
        let (square, stream, last) = (mul(d, d)?, mul(mul(n, t)?, d)?, mul(mul(n, rows)?, d)?);
        let (mut u, mut q, mut p, mut o, mut h, mut dout, mut dq) = (0, 0, 0, 0, 0, 0, 0);
        for (l, heads) in self.heads.iter().copied().enumerate() {
            let rows = mul(n, self.queries(l, rows))?;
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
        let dh = mul(mul(n, self.queries(0, rows))?, d)?;
        let c = mul(dh, self.heads[0])?;
        let x = mul(self.top(), stream)?.checked_add(last)?;
        let dx = if self.top() == 0 { 0 } else { stream };
        let du = mul(self.heads.iter().copied().max().unwrap_or(0), square)?;
        Some([u, tables, tables, c, x, q, p, o, h, dx, last, dh, dout, dq, du, square, square, mul(t, d)?])
    }

    fn carve<'a>(&self, n: usize, rows: usize, own: &'a mut [E]) -> Activations<'a, E> {
        let mut rest = own;
        let sizes = self.sizes(n, rows).expect("the workspace was made for at least n");
        let [u, r, g, c, x, q, probs, o, h, dx, dtop, dh, dout, dq, du, square, other, row] =
            sizes.map(|len| next(&mut rest, len));
        Activations { u, r, g, c, x, q, probs, o, h, dx, dtop, dh, dout, dq, du, square, other, row }
    }
}

impl<E: Elem> Layered<E> for MlpTransformer<E> {
    fn kernels(&self) -> &Kernels<E> {
        &self.kernels
    }

    fn pass_len(&self, n: usize, rows: usize) -> Option<[usize; 2]> {
        let (t, d, s, k) = (self.seq_len, self.width(), self.vocab, &self.kernels);
        let own = self.sizes(n, rows)?.into_iter().try_fold(0usize, |a, b| a.checked_add(b))?;
        let m = n.checked_mul(rows)?;
        let mut kernel = k.gemm_scratch(m, d, s).max(k.gemm_scratch(d, m, s)).max(k.gemm_scratch(m, s, d));
        for (l, heads) in self.heads.iter().enumerate() {
            let queries = self.queries(l, rows);
            let (m, wide) = (n.checked_mul(queries)?, heads * d);
            for (m, kk, n) in
                [(m, wide, d), (wide, m, d), (m, d, wide), (wide, d, d), (d, wide, d), (d, m, d), (m, d, d)]
            {
                kernel = kernel.max(k.gemm_scratch(m, kk, n));
            }
            if l > 0 {
                kernel = kernel.max(k.attention_scratch(queries, t, d, d));
            }
        }
        Some([own, kernel])
    }

    fn layers_forward(
        &self,
        pass: &Pass<'_, E>,
        own: &mut [E],
        logits: &mut [E],
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let Pass { params, n, rows: asking, .. } = *pass;
        let (t, s, d, m) = (self.seq_len, self.vocab, self.width(), n * asking);
        let act = self.carve(n, asking, own);
        let (mut x, mut u, mut q, mut probs, mut o, mut h) = (act.x, act.u, act.q, act.probs, act.o, act.h);
        let rows = n * self.queries(0, asking);
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
        self.first_forward(self.at(pass, 0), layer, &mut x[..rows * d], kernel)?;
        for l in 1..=self.top() {
            let (rows, heads) = (n * self.queries(l, asking), self.heads[l]);
            let layer = LayerMut {
                u: next(&mut u, heads * d * d),
                q: next(&mut q, heads * rows * d),
                probs: next(&mut probs, heads * rows * t),
                o: next(&mut o, heads * rows * d),
                h: next(&mut h, rows * d),
            };
            let input = next(&mut x, n * t * d);
            self.layer_forward(self.at(pass, l), input, layer, &mut x[..rows * d], kernel)?;
        }
        let w = Mat::new(&params[self.readout()], d, s)?;
        let (x, logits) = (Mat::new(&x[..m * d], m, d)?, MatMut::new(logits, m, s)?);
        Ok(self.kernels.gemm(Write::Set, E::ONE, x, w, logits, kernel)?)
    }

    fn layers_backward(
        &self,
        pass: &Pass<'_, E>,
        own: &mut [E],
        dlogits: &[E],
        out: &mut Out<'_, E>,
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let Pass { params, n, rows: asking, .. } = *pass;
        let (t, s, d, top, m) = (self.seq_len, self.vocab, self.width(), self.top(), n * asking);
        let act = self.carve(n, asking, own);
        let Activations { u, r, g, c, x, q, probs, o, h, dx, dtop, dh, dout, dq, du, .. } = act;
        let k = &self.kernels;

        // Output: dW = xᵀ dlogits, dx = dlogits Wᵀ, of the query rows.
        let dlogits = Mat::new(dlogits, m, s)?;
        let layers = self.before(self.heads.len());
        if out.active[layers] {
            let last = Mat::new(&x[top * n * t * d..], m, d)?;
            let dw = MatMut::new(&mut out.grad[self.readout()], d, s)?;
            k.gemm(out.write, E::ONE, last.t(), dlogits, dw, kernel)?;
        }
        if !out.any(0..layers) {
            return Ok(());
        }
        let w = Mat::new(&params[self.readout()], d, s)?;
        k.gemm(Write::Set, E::ONE, dlogits, w.t(), MatMut::new(dtop, m, d)?, kernel)?;
        dx.fill(E::ZERO);
        for (dx, dtop) in dx.chunks_exact_mut(t * d).zip(dtop.chunks_exact(asking * d)) {
            dx[(t - asking) * d..].copy_from_slice(dtop);
        }

        let first = self.heads[0] * d * d;
        let (u_first, u) = u.split_at_mut(first);
        let (h_first, h) = h.split_at_mut(n * self.queries(0, asking) * d);
        let (mut u, mut q, mut probs, mut o, mut h) = (&*u, &*q, &*probs, &*o, &*h);
        for l in (1..=top).rev() {
            if !out.any(0..self.before(l + 1)) {
                return Ok(());
            }
            let (rows, heads) = (n * self.queries(l, asking), self.heads[l]);
            let layer = Layer {
                u: last_of(&mut u, heads * d * d),
                q: last_of(&mut q, heads * rows * d),
                probs: last_of(&mut probs, heads * rows * t),
                o: last_of(&mut o, heads * rows * d),
                h: last_of(&mut h, rows * d),
            };
            let tmp = Temporary { du, dtop, dh, dout, dq, dx };
            let input = &x[(l - 1) * n * t * d..][..n * t * d];
            self.layer_backward(self.at(pass, l), input, layer, tmp, out, kernel)?;
        }
        if !out.any(0..self.before(1)) {
            return Ok(());
        }
        let layer =
            First { u: u_first, r, g, c, h: h_first, square: act.square, other: act.other, row: act.row };
        let (rows, dy) = (n * self.queries(0, asking), if top == 0 { &*dtop } else { &*dx });
        let (dh, dc) = (&mut dh[..rows * d], &mut dout[..rows * self.heads[0] * d]);
        let grads = FirstGrads { dy, dh, dc, dr: &mut du[..first] };
        self.first_backward(self.at(pass, 0), layer, grads, out, kernel)
    }

    fn pattern<'a>(&self, n: usize, own: &'a [E], l: usize, h: usize) -> Pattern<'a, E> {
        let (t, d) = (self.seq_len, self.width());
        let sizes = self.sizes(n, t).expect("a pass has been made with these sizes");
        if l == 0 {
            let c: usize = sizes[..3].iter().sum();
            return Pattern { data: &own[c + h * d + self.vocab..], stride: self.heads[0] * d };
        }
        let (probs, before): (usize, usize) = (sizes[..6].iter().sum(), self.heads[1..l].iter().sum());
        Pattern { data: &own[probs + (before + h) * n * t * t..], stride: t }
    }
}

/// Takes the last `len` elements off the end.
fn last_of<'a, E>(rest: &mut &'a [E], len: usize) -> &'a [E] {
    let (head, piece) = rest.split_at(rest.len() - len);
    *rest = head;
    piece
}
