//! The first layer, whose input is a token and a position: both are one-hot.
//!
//! With E = \[wte; wpe\] (d, d) and o_i the one-hot rows of token and position, x⁰_i = o_i E.
//! Hence, tables made once per call:
//!
//! | symbol | name here | shape | equation |
//! |---|---|---|---|
//! | G_h | `g` | (H, d, d) | E A_h Eᵀ |
//! | c_i | `c` | (n rows, H d) | Σ_j p_ij o_j of every head |
//! | R_h | `r` | (H d, d) | E U_h: \[attn_1, ..\] U = c R |
//! | e_i | `e` | (d) | Σ_j ds_ij o_j: dG = Σ_i o_iᵀ e_i |
//!
//! score_ij = G\[s_i, s_j\] + G\[s_i, j\] + G\[i, s_j\] + G\[i, j\], position j in row and column S
//! + j. c_i of a head holds the weights of the symbols (S), then the pattern itself (T).
//!
//! The only products of width d per token are c R and its two gradients; scores are look-ups.

use super::super::layered::Out;
use super::{At, MlpTransformer, Part};
use crate::Result;
use popgrad_kernels::{Elem, Mat, MatMut, OneHot, Scratch, Write};

/// The arrays that the layer stores for its backward pass, and its temporaries. `rows` is T, or 1
/// in the top layer.
pub(super) struct First<'a, E> {
    /// U = V W1, R, G.
    pub(super) u: &'a mut [E],
    pub(super) r: &'a mut [E],
    pub(super) g: &'a mut [E],
    /// c, and h behind the rectifier (n rows, d).
    pub(super) c: &'a mut [E],
    pub(super) h: &'a mut [E],
    /// Two (d, d), and rows of d: a row for each query of a sequence.
    pub(super) square: &'a mut [E],
    pub(super) other: &'a mut [E],
    pub(super) row: &'a mut [E],
}

/// Gradients besides those of the parameters: `dy` (n rows, d), that of what the layer put out, and
/// what is overwritten, `dh` (n rows, d), `dc` (n rows, H d), `dr` (H d, d).
pub(super) struct FirstGrads<'a, E> {
    pub(super) dy: &'a [E],
    pub(super) dh: &'a mut [E],
    pub(super) dc: &'a mut [E],
    pub(super) dr: &'a mut [E],
}

impl<E: Elem> MlpTransformer<E> {
    /// E: the first two blocks, one after the other.
    fn embeddings<'p>(&self, params: &'p [E]) -> Result<Mat<'p, E>> {
        let d = self.width();
        Ok(Mat::new(&params[..d * d], d, d)?)
    }

    /// Writes x⁰ + h W2 + √d b2 of the query rows into `out` (n rows, d). Tokens have been checked.
    pub(super) fn first_forward(
        &self,
        at: At<'_, E>,
        act: First<'_, E>,
        out: &mut [E],
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let At { params, tokens: batch, rows, .. } = at;
        let (k, s, t, d) = (&self.kernels, self.vocab, self.seq_len, self.width());
        let (heads, m) = (self.heads[0], at.n * rows);
        let (wide, table) = (heads * d, self.embeddings(params)?);
        let First { u, r, g, c, h, square, row: z, .. } = act;
        let (v, w1) = (self.mat(params, self.range(0, Part::V))?, self.mat(params, self.range(0, Part::W1))?);
        k.gemm(Write::Set, E::ONE, v, w1, MatMut::new(u, wide, d)?, kernel)?;
        for i in 0..heads {
            let head = i * d * d..(i + 1) * d * d;
            let a = self.mat(params, self.a(0, i))?;
            k.gemm(Write::Set, E::ONE, table, a, MatMut::new(square, d, d)?, kernel)?;
            let scores = MatMut::new(&mut g[head.clone()], d, d)?;
            k.gemm(Write::Set, E::ONE, Mat::new(square, d, d)?, table.t(), scores, kernel)?;
            let u = Mat::new(&u[head.clone()], d, d)?;
            k.gemm(Write::Set, E::ONE, table, u, MatMut::new(&mut r[head], d, d)?, kernel)?;
        }
        let x = OneHot::new(batch, t, s)?;
        k.token_patterns(&x, rows, g, c, &mut z[..d])?;
        let (c, r) = (Mat::new(c, m, wide)?, Mat::new(r, wide, d)?);
        self.hidden(at, c, r, h, kernel)?;
        k.token_rows(&x, rows, table, self.root(), &params[self.range(0, Part::B2)], out)?;
        let w2 = self.mat(params, self.range(0, Part::W2))?;
        Ok(k.gemm(Write::Add, E::ONE, Mat::new(h, m, d)?, w2, MatMut::new(out, m, d)?, kernel)?)
    }

    /// Gradients of the layer and of E.
    pub(super) fn first_backward(
        &self,
        at: At<'_, E>,
        act: First<'_, E>,
        grads: FirstGrads<'_, E>,
        out: &mut Out<'_, E>,
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let At { params, tokens: batch, rows, .. } = at;
        let (k, s, t, d) = (&self.kernels, self.vocab, self.seq_len, self.width());
        let (heads, m) = (self.heads[0], at.n * rows);
        let (wide, table) = (heads * d, self.embeddings(params)?);
        let First { u, r, c, h, square, other, row: e, .. } = act;
        let FirstGrads { dy, dh, dc, dr } = grads;
        self.mlp_backward(at, h, dy, dh, out, kernel)?;
        // Rows of E whose gradient is requested: symbols, positions or both.
        let (wte, wpe) = (out.active[0], out.active[1]);
        let (from, to) = (if wte { 0 } else { s }, if wpe { d } else { s });
        let (embeddings, product) = (wte || wpe, self.product_wanted(0, out));
        let asking = out.active[self.block(0, Part::A)];
        // h = relu(c R + ..): dR = cᵀ dh, dc = dh Rᵀ.
        let (rows_of_c, dh) = (Mat::new(c, m, wide)?, Mat::new(dh, m, d)?);
        if embeddings || product {
            k.gemm(Write::Set, E::ONE, rows_of_c.t(), dh, MatMut::new(dr, wide, d)?, kernel)?;
        }
        if embeddings || asking {
            let table_r = Mat::new(r, wide, d)?;
            k.gemm(Write::Set, E::ONE, dh, table_r.t(), MatMut::new(dc, m, wide)?, kernel)?;
        }

        let (de, rest) = out.grad.split_at_mut(d * d);
        let de = if embeddings { &mut de[from * d..to * d] } else { &mut de[..0] };
        // What passes beside the layer.
        if out.write == Write::Set {
            de.fill(E::ZERO);
        }
        if wte {
            for (tokens, dy) in batch.chunks_exact(t).zip(dy.chunks_exact(rows * d)) {
                for (i, dy) in (t - rows..t).zip(dy.chunks_exact(d)) {
                    add(&mut de[tokens[i] as usize * d..][..d], dy);
                }
            }
        }
        if wpe {
            let de = &mut de[(s + t - rows - from) * d..];
            dy.chunks_exact(rows * d).for_each(|dy| add(de, dy));
        }
        let x = OneHot::new(batch, t, s)?;
        for i in (0..heads).filter(|_| embeddings || asking) {
            let (dg, ds) = (&mut *other, &mut e[..rows * d]);
            k.token_patterns_backward(&x, rows, [i, heads], c, dc, dg, ds)?;
            // G = E A Eᵀ, R = E U.
            let head = i * d * d..(i + 1) * d * d;
            let (dg, a) = (Mat::new(dg, d, d)?, self.mat(params, self.a(0, i))?);
            k.gemm(Write::Set, E::ONE, dg, table, MatMut::new(square, d, d)?, kernel)?;
            let dg_e = Mat::new(square, d, d)?;
            if asking {
                let range = self.a(0, i);
                let da = MatMut::new(&mut rest[range.start - d * d..range.end - d * d], d, d)?;
                k.gemm(out.write, E::ONE, table.t(), dg_e, da, kernel)?;
            }
            if !embeddings {
                continue;
            }
            let count = to - from;
            k.gemm(
                Write::Add,
                E::ONE,
                dg_e.sub(from, count, 0, d),
                a.t(),
                MatMut::new(de, count, d)?,
                kernel,
            )?;
            k.gemm(Write::Set, E::ONE, table, a, MatMut::new(square, d, d)?, kernel)?;
            let e_a = Mat::new(square, d, d)?;
            k.gemm(
                Write::Add,
                E::ONE,
                dg.t().sub(from, count, 0, d),
                e_a,
                MatMut::new(de, count, d)?,
                kernel,
            )?;
            let (dr, u) = (Mat::new(&dr[head.clone()], d, d)?, Mat::new(&u[head.clone()], d, d)?);
            k.gemm(Write::Add, E::ONE, dr.sub(from, count, 0, d), u.t(), MatMut::new(de, count, d)?, kernel)?;
        }
        if !product {
            return Ok(());
        }
        // dU = Eᵀ dR head by head, where R no longer is needed.
        for i in 0..heads {
            let head = i * d * d..(i + 1) * d * d;
            let dr = Mat::new(&dr[head.clone()], d, d)?;
            k.gemm(Write::Set, E::ONE, table.t(), dr, MatMut::new(&mut r[head], d, d)?, kernel)?;
        }
        self.product_backward(at, r, out, kernel)
    }
}

/// x += y.
fn add<E: Elem>(x: &mut [E], y: &[E]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += *y);
}
