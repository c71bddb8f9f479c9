//! The structured path of one or two layers: x⁰ is one-hot, so products become table look-ups.
//!
//! | symbol | meaning | shape |
//! |---|---|---|
//! | D, d₁, d₂ | widths that layer 0, the top layer and W read: S + T, D (1 + H₀), d₁ (1 + H) | |
//! | x | one-hot rows of a sequence | (T, D) |
//! | P_h | patterns of layer 0, from table look-ups alone | (T, T) |
//! | x¹ | \[x, P_1 x, .., P_H₀ x\]; with one layer x itself | (T, d₁) |
//! | u, f | x¹_T, and \[u, attn_1, .., attn_H\] that W reads | (d₁), (d₂) |
//!
//! x¹ is never formed: x¹ v = x v⁰ + Σ_h P_h (x vʰ) and its transpose are look-ups and
//! triangular products with the patterns. For head A of the top layer q = u A, z = x¹ q, p =
//! softmax z, attn = x¹ᵀ p; backwards dz = p (dp − p·dp) with dp = x¹ dattn, dq = x¹ᵀ dz, dA = uᵀ
//! dq, du += A dq, and dP_h = dz (x qʰ)ᵀ + p (x dattnʰ)ᵀ, to whose last row x duʰ is added.
//!
//! Sequences lie in the columns of all matrices. Of the T position rows of u and f only the
//! query's, the last, is not zero: f is kept as its S token rows, that row of ones, and the rest,
//! beside which rows 0 .. S and D − 1 .. of A and W lie.

use super::super::layered::{Out, Pass, next};
use super::Disentangled;
use crate::Result;
use popgrad_kernels::{Elem, Mat, MatMut, OneHot, PatternTerms, Scratch, Write};

/// The activations of `cols` columns in the arena.
struct Activations<'a, E> {
    /// (S + 1 + d₂ − D, cols).
    f: &'a mut [E],
    /// (H₀, patterns).
    patterns: &'a mut [E],
    /// One head's q, later its dq, (d₁, cols).
    q: &'a mut [E],
    /// Factors of dP: (H, \[dz, p\], T, cols), and (H₀, H, \[x qʰ, x dattnʰ\], T, cols).
    left: &'a mut [E],
    right: &'a mut [E],
    /// Scratch of T rows.
    row: &'a mut [E],
    /// Rows of f from S + 1 on.
    df: &'a mut [E],
}

/// Columns of `n` sequences; `None` on overflow.
pub(super) fn columns(n: usize) -> Option<usize> {
    n.checked_next_multiple_of(OneHot::GROUP)
}

impl<E: Elem> Disentangled<E> {
    /// (D, d₁, d₂), H₀ and H.
    fn shape(&self) -> ([usize; 3], usize, usize) {
        let top = self.top();
        let below = if top == 0 { 0 } else { self.heads[0] };
        ([self.widths[0], self.widths[top], self.widths[top + 1]], below, self.heads[top])
    }

    fn structured_sizes(&self, cols: usize) -> Option<[usize; 7]> {
        let ([d, d1, d2], below, heads) = self.shape();
        let (s, t) = (self.vocab, self.seq_len);
        let mul = |factors: &[usize]| factors.iter().try_fold(cols, |a, b| a.checked_mul(*b));
        Some([
            mul(&[s + 1 + d2 - d])?,
            mul(&[below, t * (t + 1) / 2])?,
            mul(&[d1])?,
            mul(&[2 * heads, t])?,
            mul(&[2 * heads, below, t])?,
            mul(&[t])?,
            mul(&[d2 - d])?,
        ])
    }

    pub(super) fn structured_len(&self, seqs: usize) -> Option<[usize; 2]> {
        let ([d, d1, d2], below, _) = self.shape();
        let (s, k) = (self.vocab, &self.kernels);
        let cols = columns(seqs)?;
        let own = self.structured_sizes(cols)?.into_iter().try_fold(0usize, |a, b| a.checked_add(b))?;
        let rest = 1 + d2 - d;
        let products = [
            (d1, s.max(1 + d * below), cols),
            (cols, s.max(rest), s),
            (s.max(rest), cols, s),
            (d2 - d, s, cols),
            (s.max(1 + d1 - d), cols, d1),
            (d1 - d, d1, cols),
        ];
        let gemm = products.into_iter().map(|(m, kk, n)| k.gemm_scratch(m, kk, n)).max()?;
        Some([own, gemm.max(k.one_hot_scratch(self.seq_len, s)?)])
    }

    fn carve_structured<'a>(&self, cols: usize, arena: &'a mut [E]) -> Activations<'a, E> {
        let sizes = self.structured_sizes(cols).expect("the workspace was made for at least as many");
        let mut rest = arena;
        let [f, patterns, q, left, right, row, df] = sizes.map(|len| next(&mut rest, len));
        Activations { f, patterns, q, left, right, row, df }
    }

    /// x¹ v for v (d₁, cols): into `out` (T, cols). x vʰ is left in `right[h]`, T rows from `term`
    /// T on.
    fn mul(
        &self,
        x: &OneHot<'_>,
        v: &[E],
        patterns: &[E],
        right: &mut [E],
        term: usize,
        out: &mut [E],
    ) -> Result<()> {
        let ([d, ..], below, heads) = self.shape();
        let (k, t, cols) = (&self.kernels, self.seq_len, x.padded());
        k.one_hot_mul(x, Mat::new(v, d, cols)?, MatMut::new(out, t, cols)?)?;
        for h in 0..below {
            let pattern = &patterns[h * x.patterns_len()..][..x.patterns_len()];
            let part = &mut right[(h * 2 * heads + term) * t * cols..][..t * cols];
            k.one_hot_mul(x, Mat::new(&v[(1 + h) * d * cols..], d, cols)?, MatMut::new(part, t, cols)?)?;
            k.patterns_mul_add(x, pattern, Mat::new(part, t, cols)?, MatMut::new(out, t, cols)?)?;
        }
        Ok(())
    }

    /// x¹ᵀ v for v (T, cols): into `out` (d₁, cols).
    fn mul_t(&self, x: &OneHot<'_>, v: &[E], patterns: &[E], row: &mut [E], out: &mut [E]) -> Result<()> {
        let ([d, ..], below, _) = self.shape();
        let (k, t, cols) = (&self.kernels, self.seq_len, x.padded());
        let v = Mat::new(v, t, cols)?;
        k.one_hot_mul_t(x, v, MatMut::new(out, d, cols)?)?;
        for h in 0..below {
            let pattern = &patterns[h * x.patterns_len()..][..x.patterns_len()];
            k.patterns_mul_t(x, pattern, v, MatMut::new(row, t, cols)?)?;
            let out = MatMut::new(&mut out[(1 + h) * d * cols..], d, cols)?;
            k.one_hot_mul_t(x, Mat::new(row, t, cols)?, out)?;
        }
        Ok(())
    }

    /// `c = aᵀ f` or `c = fᵀ a` transposed, over the rows that f keeps: `rows` of `f` against rows
    /// 0 .. S and D − 1 .. of `a`.
    fn contract(
        &self,
        f: Mat<'_, E>,
        a: Mat<'_, E>,
        mut c: MatMut<'_, E>,
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let (s, d, n) = (self.vocab, self.widths[0], a.cols());
        let (rows, cols) = (f.rows(), f.cols());
        let k = &self.kernels;
        // c (n, cols).
        k.gemm(Write::Set, E::ONE, a.sub(0, s, 0, n).t(), f.sub(0, s, 0, cols), c.rb(), kernel)?;
        let (a, f) = (a.sub(d - 1, rows - s, 0, n), f.sub(s, rows - s, 0, cols));
        k.gemm(Write::Add, E::ONE, a.t(), f, c, kernel)?;
        Ok(())
    }

    /// `da = f dcᵀ` spread over all rows of `da` (.., n): zeros at the positions that are no
    /// query's. dc (n, cols).
    fn spread(&self, f: Mat<'_, E>, dc: Mat<'_, E>, da: &mut [E], kernel: &mut Scratch<E>) -> Result<()> {
        let (s, d, n) = (self.vocab, self.widths[0], dc.rows());
        let (rows, cols) = (f.rows(), f.cols());
        let k = &self.kernels;
        let (tokens, rest) = da.split_at_mut(s * n);
        let (zeros, rest) = rest.split_at_mut((d - 1 - s) * n);
        zeros.fill(E::ZERO);
        k.gemm(Write::Set, E::ONE, f.sub(0, s, 0, cols), dc.t(), MatMut::new(tokens, s, n)?, kernel)?;
        let f = f.sub(s, rows - s, 0, cols);
        k.gemm(Write::Set, E::ONE, f, dc.t(), MatMut::new(rest, rows - s, n)?, kernel)?;
        Ok(())
    }

    /// `logits` (cols, S).
    pub(super) fn structured_forward(
        &self,
        pass: &Pass<'_, E>,
        own: &mut [E],
        logits: &mut [E],
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let Pass { params, tokens, n, .. } = *pass;
        let (t, s, top) = (self.seq_len, self.vocab, self.top());
        let ([d, d1, d2], below, heads) = self.shape();
        let x = OneHot::new(tokens, t, s)?;
        let (k, cols) = (&self.kernels, x.padded());
        let act = self.carve_structured(cols, own);
        let block = t * cols;

        // x_T: its token, its position.
        act.f[..s * cols].fill(E::ZERO);
        act.f[s * cols..(s + 1) * cols].fill(E::ONE);
        for b in 0..cols {
            let token = tokens[b.min(n - 1) * t + t - 1] as usize;
            act.f[token * cols + b] = E::ONE;
        }
        let (u, attn) = act.f.split_at_mut((s + 1 + d1 - d) * cols);
        for h in 0..below {
            let pattern = &mut act.patterns[h * x.patterns_len()..][..x.patterns_len()];
            k.one_hot_patterns(self.a(params, 0, h)?, &x, pattern, kernel)?;
            k.patterns_last(&x, pattern, MatMut::new(act.row, t, cols)?)?;
            let mixed = &mut u[(s + 1 + h * d) * cols..][..d * cols];
            k.one_hot_mul_t(&x, Mat::new(act.row, t, cols)?, MatMut::new(mixed, d, cols)?)?;
        }
        for g in 0..heads {
            let u = Mat::new(u, s + 1 + d1 - d, cols)?;
            self.contract(u, self.a(params, top, g)?, MatMut::new(act.q, d1, cols)?, kernel)?;
            let p = &mut act.left[(2 * g + 1) * block..][..block];
            self.mul(&x, act.q, act.patterns, act.right, 2 * g, p)?;
            k.softmax_columns(MatMut::new(p, t, cols)?)?;
            self.mul_t(&x, p, act.patterns, act.row, &mut attn[g * d1 * cols..][..d1 * cols])?;
        }
        let w = Mat::new(&params[self.layout.blocks()[top + 1].range()], d2, s)?;
        let f = Mat::new(act.f, s + 1 + d2 - d, cols)?;
        self.contract(f, w, MatMut::new(logits, cols, s)?.t(), kernel)
    }

    /// `dlogits` (cols, S), zeros in the columns past the batch: so is all that follows there.
    pub(super) fn structured_backward(
        &self,
        pass: &Pass<'_, E>,
        own: &mut [E],
        dlogits: &[E],
        out: &mut Out<'_, E>,
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let Pass { params, tokens, .. } = *pass;
        let (t, s, top) = (self.seq_len, self.vocab, self.top());
        let ([d, d1, d2], below, heads) = self.shape();
        let x = OneHot::new(tokens, t, s)?;
        let (k, cols) = (&self.kernels, x.padded());
        let Activations { f, patterns, q, left, right, row, df } = self.carve_structured(cols, own);
        let block = t * cols;

        let dlogits = Mat::new(dlogits, cols, s)?.t();
        let f = Mat::new(f, s + 1 + d2 - d, cols)?;
        let w_range = self.layout.blocks()[top + 1].range();
        if out.active[top + 1] {
            self.spread(f, dlogits, &mut out.grad[w_range.clone()], kernel)?;
        }
        if !out.any(0..top + 1) {
            return Ok(());
        }
        let w = Mat::new(&params[w_range], d2, s)?.sub(d, d2 - d, 0, s);
        k.gemm(Write::Set, E::ONE, w, dlogits, MatMut::new(df, d2 - d, cols)?, kernel)?;

        let down = top > 0 && out.active[0];
        let (du, dattn) = df.split_at_mut((d1 - d) * cols);
        let range = self.layout.blocks()[top].range();
        for g in 0..heads {
            let (dz, rest) = left[2 * g * block..].split_at_mut(block);
            let p = &rest[..block];
            self.mul(&x, &dattn[g * d1 * cols..][..d1 * cols], patterns, right, 2 * g + 1, dz)?;
            k.softmax_columns_backward(Mat::new(p, t, cols)?, MatMut::new(dz, t, cols)?)?;
            self.mul_t(&x, dz, patterns, row, q)?;
            let dq = Mat::new(q, d1, cols)?;
            if out.active[top] {
                let da = &mut out.grad[range.clone()][g * d1 * d1..][..d1 * d1];
                self.spread(f.sub(0, s + 1 + d1 - d, 0, cols), dq, da, kernel)?;
            }
            if down {
                let a = self.a(params, top, g)?.sub(d, d1 - d, 0, d1);
                k.gemm(Write::Add, E::ONE, a, dq, MatMut::new(du, d1 - d, cols)?, kernel)?;
            }
        }
        for h in (0..below).filter(|_| down) {
            k.one_hot_mul(&x, Mat::new(&du[h * d * cols..], d, cols)?, MatMut::new(row, t, cols)?)?;
            let terms = 2 * heads;
            let from = PatternTerms {
                left: Mat::new(left, terms * t, cols)?,
                right: Mat::new(&right[h * terms * block..], terms * t, cols)?,
                last: Mat::new(row, t, cols)?,
            };
            let pattern = &patterns[h * x.patterns_len()..][..x.patterns_len()];
            let da = MatMut::new(&mut out.grad[h * d * d..][..d * d], d, d)?;
            k.one_hot_patterns_backward(&x, pattern, from, da, kernel)?;
        }
        Ok(())
    }
}
