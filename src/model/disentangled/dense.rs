//! The dense path: any number of layers, by matrix products.

use super::super::layered::{Out, Pass, Pattern};
use super::Disentangled;
use crate::Result;
use popgrad_kernels::{
    Attention, Elem, KvGrad, Mat, MatMut, Mats, MatsMut, Queries, Save, Saved, Scratch, Write,
};

/// The activations of `n` sequences in the arena. The top layer has `rows` queries, each other
/// layer T.
struct Activations<'a, E> {
    /// Inputs of all layers, (n T, D) with D the width of the top layer's input.
    x: &'a mut [E],
    /// Per layer and head: x A_h, then the attention pattern.
    q: &'a mut [E],
    probs: &'a mut [E],
    /// \[x, attn_1, .., attn_H\] of the top layer, (n rows, d_L).
    f: &'a mut [E],
    /// Gradients: of x (n T, D), of f (n rows, d_L), of one head's queries (n T, d).
    dx: &'a mut [E],
    df: &'a mut [E],
    dq: &'a mut [E],
}

impl<E: Elem> Disentangled<E> {
    /// Elements of (x, q, probs, f, dq) for `n` sequences.
    fn sizes(&self, n: usize, rows: usize) -> Option<[usize; 5]> {
        let (t, top) = (self.seq_len, self.top());
        let mul = |a: usize, b: usize| a.checked_mul(b);
        let x = mul(mul(n, t)?, self.widths[top])?;
        let (mut q, mut p) = (0usize, 0usize);
        for (l, h) in self.heads.iter().enumerate() {
            let rows = mul(mul(n, self.queries(l, rows))?, *h)?;
            q = q.checked_add(mul(rows, self.widths[l])?)?;
            p = p.checked_add(mul(rows, t)?)?;
        }
        Some([x, q, p, mul(mul(n, rows)?, self.widths[top + 1])?, x])
    }

    fn carve<'a>(&self, n: usize, rows: usize, arena: &'a mut [E]) -> Activations<'a, E> {
        let [x, q, p, f, dq] = self.sizes(n, rows).expect("the workspace was made for at least n");
        let (xs, rest) = arena.split_at_mut(x);
        let (qs, rest) = rest.split_at_mut(q);
        let (probs, rest) = rest.split_at_mut(p);
        let (fs, rest) = rest.split_at_mut(f);
        let (dx, rest) = rest.split_at_mut(x);
        let (df, rest) = rest.split_at_mut(f);
        let dq = &mut rest[..dq];
        Activations { x: xs, q: qs, probs, f: fs, dx, df, dq }
    }

    pub(super) fn dense_len(&self, n: usize, rows: usize) -> Option<[usize; 2]> {
        let (t, k) = (self.seq_len, &self.kernels);
        let [x, q, p, f, dq] = self.sizes(n, rows)?;
        let own = [x, x, q, p, f, f, dq].into_iter().try_fold(0usize, |a, b| a.checked_add(b))?;
        let mut kernel = 0;
        for (l, d) in self.widths[..=self.top()].iter().copied().enumerate() {
            let queries = self.queries(l, rows);
            let m = n.checked_mul(queries)?;
            // x A, dA = xᵀ dq, dx += dq Aᵀ; then W with d_L columns.
            for (m, kk, n) in [(m, d, d), (d, m, d)] {
                kernel = kernel.max(k.gemm_scratch(m, kk, n));
            }
            kernel = kernel.max(k.attention_scratch(queries, t, d, d));
        }
        let (m, f, s) = (n.checked_mul(rows)?, self.widths[self.top() + 1], self.vocab);
        for (m, kk, n) in [(m, f, s), (f, m, s), (m, s, f)] {
            kernel = kernel.max(k.gemm_scratch(m, kk, n));
        }
        Some([own, kernel])
    }

    /// One-hot token and position, in the first d_0 columns of x.
    fn embed(&self, tokens: &[u32], x: &mut [E]) {
        let (s, t, width) = (self.vocab, self.seq_len, self.widths[self.top()]);
        for (i, (row, token)) in x.chunks_exact_mut(width).zip(tokens).enumerate() {
            row[..s + t].fill(E::ZERO);
            row[*token as usize] = E::ONE;
            row[s + i % t] = E::ONE;
        }
    }

    pub(super) fn dense_forward(
        &self,
        pass: &Pass<'_, E>,
        own: &mut [E],
        logits: &mut [E],
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let Pass { params, tokens, n, rows: asking } = *pass;
        let (t, s, top) = (self.seq_len, self.vocab, self.top());
        let (width, f_width) = (self.widths[top], self.widths[top + 1]);
        let act = self.carve(n, asking, own);
        self.embed(tokens, act.x);

        let (mut q_rest, mut p_rest) = (act.q, act.probs);
        for l in 0..=top {
            let (d, rows) = (self.widths[l], self.queries(l, asking));
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
                    self.kernels.attention(&problem(q, x), out, Save::Probs(pattern), kernel)?;
                } else {
                    let x = Mats::new(act.x, [n, t, d], t * d, d)?;
                    let asking = x.sub(t - rows, rows, 0, d).flatten().expect("rows of x are evenly spaced");
                    self.kernels.gemm(Write::Set, E::ONE, asking, a, MatMut::new(q, n * rows, d)?, kernel)?;
                    let q = Mats::new(q, [n, rows, d], rows * d, d)?;
                    let pattern = MatsMut::new(p, [n, rows, t], rows * t, t)?;
                    let f = MatsMut::new(act.f, [n, rows, f_width], rows * f_width, f_width)?;
                    let out = f.sub(0, rows, cols, d);
                    self.kernels.attention(&problem(q, x), out, Save::Probs(pattern), kernel)?;
                }
            }
        }
        for (f, x) in act.f.chunks_exact_mut(asking * f_width).zip(act.x.chunks_exact(t * width)) {
            let asking = x[(t - asking) * width..].chunks_exact(width);
            f.chunks_exact_mut(f_width).zip(asking).for_each(|(f, x)| f[..width].copy_from_slice(x));
        }
        let w = Mat::new(&params[self.layout.blocks()[top + 1].range()], f_width, s)?;
        let m = n * asking;
        let (f, logits) = (Mat::new(act.f, m, f_width)?, MatMut::new(logits, m, s)?);
        Ok(self.kernels.gemm(Write::Set, E::ONE, f, w, logits, kernel)?)
    }

    pub(super) fn dense_backward(
        &self,
        pass: &Pass<'_, E>,
        own: &mut [E],
        dlogits: &[E],
        out: &mut Out<'_, E>,
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let Pass { params, n, rows: asking, .. } = *pass;
        let (t, s, top, m) = (self.seq_len, self.vocab, self.top(), n * asking);
        let (width, f_width) = (self.widths[top], self.widths[top + 1]);
        let Activations { x, q, probs, f, dx, df, dq } = self.carve(n, asking, own);
        let k = &self.kernels;

        // Output: dW = fᵀ dlogits, df = dlogits Wᵀ.
        let dlogits = Mat::new(dlogits, m, s)?;
        let w_range = self.layout.blocks()[top + 1].range();
        if out.any(top + 1..top + 2) {
            let dw = MatMut::new(&mut out.grad[w_range.clone()], f_width, s)?;
            k.gemm(out.write, E::ONE, Mat::new(f, m, f_width)?.t(), dlogits, dw, kernel)?;
        }
        // No gradient below the lowest active block is needed.
        let Some(lowest) = (0..=top).find(|l| out.active[*l]) else {
            return Ok(());
        };
        let w = Mat::new(&params[w_range], f_width, s)?;
        k.gemm(Write::Set, E::ONE, dlogits, w.t(), MatMut::new(df, m, f_width)?, kernel)?;

        // What reaches x of the queries directly. The input of the lowest layer needs no gradient.
        if top > lowest {
            dx.fill(E::ZERO);
            for (dx, df) in dx.chunks_exact_mut(t * width).zip(df.chunks_exact(asking * f_width)) {
                let asking = dx[(t - asking) * width..].chunks_exact_mut(width);
                asking.zip(df.chunks_exact(f_width)).for_each(|(dx, df)| dx.copy_from_slice(&df[..width]));
            }
        }

        // Activations of the heads, from the last to the first.
        let (mut q_end, mut p_end) = (q.len(), probs.len());
        for l in (lowest..=top).rev() {
            let (d, rows) = (self.widths[l], self.queries(l, asking));
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
                    let dims = [n, rows, f_width];
                    let dout = Mats::new(df, dims, rows * f_width, f_width)?.sub(0, rows, cols, d);
                    let dkv = match l == lowest {
                        true => KvGrad::NONE,
                        false => KvGrad::Shared(MatsMut::new(dx, [n, t, width], t * width, width)?),
                    };
                    let out = Mats::new(f, dims, rows * f_width, f_width)?.sub(0, rows, cols, d);
                    k.attention_backward(&problem(q, x), pattern, out, dout, head_dq, dkv, kernel)?;
                } else {
                    let both = MatsMut::new(dx, [n, t, width], t * width, width)?;
                    let (dx, right) = both.split_cols(d);
                    let right = right.as_ref();
                    let dout = right.sub(0, t, cols - d, d);
                    let dkv = if l == lowest { KvGrad::NONE } else { KvGrad::Shared(dx) };
                    let out = activations.sub(0, t, cols, d);
                    k.attention_backward(&problem(q, x), pattern, out, dout, head_dq, dkv, kernel)?;
                }
                // q = x A: dA = xᵀ dq, dx += dq Aᵀ.
                let dq = Mat::new(&dq[..n * rows * d], n * rows, d)?;
                if out.active[l] {
                    let da = &mut out.grad[a_range.clone()][h * d * d..(h + 1) * d * d];
                    k.gemm(out.write, E::ONE, queries.t(), dq, MatMut::new(da, d, d)?, kernel)?;
                }
                if l > lowest {
                    let a = self.a(params, l, h)?;
                    let dx = MatsMut::new(dx, [n, t, width], t * width, width)?.sub(t - rows, rows, 0, d);
                    let dx = dx.flatten().expect("rows of dx are evenly spaced");
                    k.gemm(Write::Add, E::ONE, dq, a.t(), dx, kernel)?;
                }
            }
        }
        Ok(())
    }

    /// Attention of head `h` of layer `l` after a pass with all queries.
    pub(super) fn dense_pattern<'a>(&self, n: usize, own: &'a [E], l: usize, h: usize) -> Pattern<'a, E> {
        let t = self.seq_len;
        let [x, q, ..] = self.sizes(n, t).expect("a pass has been made with these sizes");
        let before: usize = self.heads[..l].iter().sum();
        Pattern { data: &own[x + q + (before + h) * n * t * t..], stride: t }
    }
}

/// Scores q·x, values x.
fn problem<'a, E: Elem>(q: Mats<'a, E>, x: Mats<'a, E>) -> Attention<'a, E> {
    Attention { q, k: x, v: x, scale: E::ONE, queries: Queries::Last }
}
