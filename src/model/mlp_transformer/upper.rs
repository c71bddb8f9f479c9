//! The layers above the first, with dense inputs and outputs.

use super::super::layered::Out;
use super::{At, MlpTransformer, Part};
use crate::Result;
use popgrad_kernels::{
    Attention, Elem, KvGrad, Mat, MatMut, Mats, MatsMut, Queries, Save, Saved, Scratch, Write,
};

/// The activations of layer l, in the shapes of [`Activations`](super::pass::Activations).
pub(super) struct LayerMut<'a, E> {
    pub(super) u: &'a mut [E],
    pub(super) q: &'a mut [E],
    pub(super) probs: &'a mut [E],
    pub(super) o: &'a mut [E],
    pub(super) h: &'a mut [E],
}

/// As [`LayerMut`], to be read.
pub(super) struct Layer<'a, E> {
    pub(super) u: &'a [E],
    pub(super) q: &'a [E],
    pub(super) probs: &'a [E],
    pub(super) o: &'a [E],
    pub(super) h: &'a [E],
}

/// Gradients besides those of the parameters. `dtop`, that of what leaves the top (n rows, d), and
/// `dx`, that of the stream (n T, d), come filled; the others live no longer than their layer.
pub(super) struct Temporary<'a, E> {
    pub(super) du: &'a mut [E],
    pub(super) dtop: &'a [E],
    pub(super) dh: &'a mut [E],
    pub(super) dout: &'a mut [E],
    pub(super) dq: &'a mut [E],
    pub(super) dx: &'a mut [E],
}

impl<E: Elem> MlpTransformer<E> {
    /// From `x` (n T, d), writes x + h W2 + √d b2 of the query rows into `out` (n rows, d).
    pub(super) fn layer_forward(
        &self,
        at: At<'_, E>,
        x: &[E],
        act: LayerMut<'_, E>,
        out: &mut [E],
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let At { params, n, l, rows, .. } = at;
        let (k, t, d, heads) = (&self.kernels, self.seq_len, self.width(), self.heads[l]);
        let LayerMut { u, q, probs, o, h } = act;
        let (m, wide) = (n * rows, heads * d);
        let keys = Mats::new(x, [n, t, d], t * d, d)?;
        let asking = keys.sub(t - rows, rows, 0, d).flatten().expect("rows of x are evenly spaced");
        for i in 0..heads {
            let q = &mut q[i * m * d..][..m * d];
            let probs = &mut probs[i * m * t..][..m * t];
            let a = self.mat(params, self.a(l, i))?;
            k.gemm(Write::Set, E::ONE, asking, a, MatMut::new(q, m, d)?, kernel)?;
            let out = MatsMut::new(o, [n, rows, wide], rows * wide, wide)?.sub(0, rows, i * d, d);
            let keep = Save::Probs(MatsMut::new(probs, [n, rows, t], rows * t, t)?);
            let q = Mats::new(q, [n, rows, d], rows * d, d)?;
            k.attention(&problem(q, keys), out, keep, kernel)?;
        }
        let (v, w1) = (self.mat(params, self.range(l, Part::V))?, self.mat(params, self.range(l, Part::W1))?);
        k.gemm(Write::Set, E::ONE, v, w1, MatMut::new(u, wide, d)?, kernel)?;
        self.hidden(at, Mat::new(o, m, wide)?, Mat::new(u, wide, d)?, h, kernel)?;
        let (root, b2) = (self.root(), &params[self.range(l, Part::B2)]);
        for (sequence, out) in x.chunks_exact(t * d).zip(out.chunks_exact_mut(rows * d)) {
            for (x, out) in sequence[(t - rows) * d..].chunks_exact(d).zip(out.chunks_exact_mut(d)) {
                out.iter_mut().zip(x).zip(b2).for_each(|((o, x), b)| *o = *x + root * *b);
            }
        }
        let w2 = self.mat(params, self.range(l, Part::W2))?;
        Ok(k.gemm(Write::Add, E::ONE, Mat::new(h, m, d)?, w2, MatMut::new(out, m, d)?, kernel)?)
    }

    /// Gradients of layer l. That of what its MLP put out is `tmp.dtop` at the top, and `tmp.dx`,
    /// the stream's, below; what passes through attention is added to `tmp.dx`.
    pub(super) fn layer_backward(
        &self,
        at: At<'_, E>,
        x: &[E],
        act: Layer<'_, E>,
        tmp: Temporary<'_, E>,
        out: &mut Out<'_, E>,
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let At { params, n, l, rows, .. } = at;
        let (k, t, d, heads) = (&self.kernels, self.seq_len, self.width(), self.heads[l]);
        let (m, wide) = (n * rows, heads * d);
        let Temporary { du, dtop, dh, dout, dq, dx } = tmp;
        let (dh, du, dout) = (&mut dh[..m * d], &mut du[..wide * d], &mut dout[..m * wide]);
        self.mlp_backward(at, act.h, if l == self.top() { dtop } else { &*dx }, dh, out, kernel)?;
        // h = relu(o U + ..): dU = oᵀ dh, do = dh Uᵀ.
        let (o, dh) = (Mat::new(act.o, m, wide)?, Mat::new(dh, m, d)?);
        if self.product_wanted(l, out) {
            k.gemm(Write::Set, E::ONE, o.t(), dh, MatMut::new(du, wide, d)?, kernel)?;
            self.product_backward(at, du, out, kernel)?;
        }
        let down = out.any(0..self.before(l));
        if !down && !out.active[self.block(l, Part::A)] {
            return Ok(());
        }
        let u = Mat::new(act.u, wide, d)?;
        k.gemm(Write::Set, E::ONE, dh, u.t(), MatMut::new(dout, m, wide)?, kernel)?;

        let keys = Mats::new(x, [n, t, d], t * d, d)?;
        let asking = keys.sub(t - rows, rows, 0, d).flatten().expect("rows of x are evenly spaced");
        for i in 0..heads {
            let q = Mats::new(&act.q[i * m * d..], [n, rows, d], rows * d, d)?;
            let pattern = Saved::Probs(Mats::new(&act.probs[i * m * t..], [n, rows, t], rows * t, t)?);
            let attended = Mats::new(act.o, [n, rows, wide], rows * wide, wide)?.sub(0, rows, i * d, d);
            let dout = Mats::new(dout, [n, rows, wide], rows * wide, wide)?.sub(0, rows, i * d, d);
            let head_dq = MatsMut::new(&mut dq[..m * d], [n, rows, d], rows * d, d)?;
            let dkv = match down {
                true => KvGrad::Shared(MatsMut::new(dx, [n, t, d], t * d, d)?),
                false => KvGrad::NONE,
            };
            k.attention_backward(&problem(q, keys), pattern, attended, dout, head_dq, dkv, kernel)?;
            // q = x A: dA = xᵀ dq, dx += dq Aᵀ.
            let dq = Mat::new(&dq[..m * d], m, d)?;
            if out.active[self.block(l, Part::A)] {
                let da = MatMut::new(&mut out.grad[self.a(l, i)], d, d)?;
                k.gemm(out.write, E::ONE, asking.t(), dq, da, kernel)?;
            }
            if down {
                let a = self.mat(params, self.a(l, i))?;
                let dx = MatsMut::new(dx, [n, t, d], t * d, d)?.sub(t - rows, rows, 0, d);
                let dx = dx.flatten().expect("rows of dx are evenly spaced");
                k.gemm(Write::Add, E::ONE, dq, a.t(), dx, kernel)?;
            }
        }
        Ok(())
    }
}

fn problem<'a, E: Elem>(q: Mats<'a, E>, x: Mats<'a, E>) -> Attention<'a, E> {
    Attention { q, k: x, v: x, scale: E::ONE, queries: Queries::Last }
}
