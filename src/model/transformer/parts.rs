//! What layers are made of besides attention: norms, weights, the feed-forward.

use super::Transformer;
use super::workspace::{F1, F2, Grads, With};
use crate::Result;
use popgrad_kernels::{Elem, Mat, MatMut, Write};

/// ε of every norm.
const EPS: f64 = 1e-5;

/// What layer `l`'s feed-forward reads, u (m, d), and its hidden layer z.
#[derive(Clone, Copy)]
pub(super) struct Hidden<'a, E> {
    pub(super) l: usize,
    pub(super) u: &'a [E],
    pub(super) z: &'a [E],
}

impl<E: Elem> Transformer<E> {
    /// Is any of a norm's two blocks wanted?
    pub(super) fn norm_wanted(norm: Option<usize>, active: &[bool]) -> bool {
        norm.is_some_and(|w| active[w] || active[w + 1])
    }

    /// LN whose weight is block `norm`; the identity where there is none.
    pub(super) fn norm(
        &self,
        norm: Option<usize>,
        x: &[E],
        out: &mut [E],
        moments: &mut [&mut [f64]; 2],
        with: &With<'_, E>,
    ) -> Result<()> {
        let Some(w) = norm else {
            out.copy_from_slice(x);
            return Ok(());
        };
        let (d, [weight, bias]) = (self.shape.dim, [w, w + 1].map(|b| &with.params[self.range(b)]));
        let m = x.len() / d;
        let [mean, rstd] = moments;
        let out = MatMut::new(out, m, d)?;
        let (mean, rstd) = (&mut mean[..m], &mut rstd[..m]);
        Ok(self.kernels.layer_norm(Mat::new(x, m, d)?, weight, bias, EPS, out, mean, rstd)?)
    }

    /// dx from dout; the norm's gradient is added to.
    pub(super) fn norm_backward(
        &self,
        norm: Option<usize>,
        x: &[E],
        moments: &[&mut [f64]; 2],
        dout: &[E],
        dx: &mut [E],
        g: &mut Grads<'_, E>,
    ) -> Result<()> {
        let Some(w) = norm else {
            dx.copy_from_slice(dout);
            return Ok(());
        };
        let d = self.shape.dim;
        let m = x.len() / d;
        let (weight, both) = (&g.with.params[self.range(w)], self.range(w).start..self.range(w + 1).end);
        let (dweight, dbias) = g.grad[both].split_at_mut(d);
        let (no_weight, no_bias) = g.sink.split_at_mut(d);
        let dweight = if g.active[w] { dweight } else { no_weight };
        let dbias = if g.active[w + 1] { dbias } else { no_bias };
        let (x, dout, dx) = (Mat::new(x, m, d)?, Mat::new(dout, m, d)?, MatMut::new(dx, m, d)?);
        let [mean, rstd] = moments;
        let k = &self.kernels;
        Ok(k.layer_norm_backward(x, weight, &mean[..m], &rstd[..m], dout, dx, dweight, dbias)?)
    }

    /// Gradient of the matrices `first..=last`, stacked, of y = x Wᵀ.
    pub(super) fn weight_backward(
        &self,
        [first, last]: [usize; 2],
        dy: Mat<'_, E>,
        x: Mat<'_, E>,
        g: &mut Grads<'_, E>,
    ) -> Result<()> {
        let range = self.range(first).start..self.range(last).end;
        let dw = MatMut::new(&mut g.grad[range], dy.cols(), x.cols())?;
        Ok(self.kernels.gemm(Write::Add, E::ONE, dy.t(), x, dw, g.with.kernel)?)
    }

    /// z = relu(u W₁ᵀ), where the feed-forward has a hidden layer.
    pub(super) fn ff_hidden(&self, l: usize, u: &[E], z: &mut [E], with: &mut With<'_, E>) -> Result<()> {
        if self.hidden() == 0 {
            return Ok(());
        }
        let (d, wide) = (self.shape.dim, self.hidden());
        let m = u.len() / d;
        let z = &mut z[..m * wide];
        self.product(with, Write::Set, Mat::new(u, m, d)?, self.panels(l, F1), MatMut::new(z, m, wide)?)?;
        self.kernels.relu(z);
        Ok(())
    }

    /// out += FF(u).
    pub(super) fn ff_out(&self, hidden: Hidden<'_, E>, out: &mut [E], with: &mut With<'_, E>) -> Result<()> {
        let (Hidden { l, u, z }, d, wide) = (hidden, self.shape.dim, self.hidden());
        let m = u.len() / d;
        let out = MatMut::new(out, m, d)?;
        if wide > 0 {
            return self.product(with, Write::Add, Mat::new(z, m, wide)?, self.panels(l, F2), out);
        }
        if self.layers[l].ff.is_some() {
            self.product(with, Write::Add, Mat::new(u, m, d)?, self.panels(l, F1), out)?;
        }
        Ok(())
    }

    /// From the gradient of FF(u) those of its matrices, and that of u if wanted.
    pub(super) fn ff_backward(
        &self,
        hidden: Hidden<'_, E>,
        dout: &[E],
        du: Option<&mut [E]>,
        dz: &mut [E],
        g: &mut Grads<'_, E>,
    ) -> Result<()> {
        let Hidden { l, u, z } = hidden;
        let (d, wide, b) = (self.shape.dim, self.hidden(), self.layers[l]);
        let m = u.len() / d;
        let (u, dout) = (Mat::new(u, m, d)?, Mat::new(dout, m, d)?);
        let Some(ff) = b.ff else { return Ok(()) };
        let mut dy = dout;
        if let Some(w2) = b.w2 {
            if g.active[w2] {
                self.weight_backward([w2; 2], dout, Mat::new(z, m, wide)?, g)?;
            }
            if !g.active[ff] && du.is_none() {
                return Ok(());
            }
            let dz = &mut dz[..m * wide];
            let panels = self.panels(l, F2) + 1;
            self.product(&mut g.with, Write::Set, dout, panels, MatMut::new(dz, m, wide)?)?;
            self.kernels.relu_backward(&z[..m * wide], dz)?;
            dy = Mat::new(dz, m, wide)?;
        }
        if g.active[ff] {
            self.weight_backward([ff; 2], dy, u, g)?;
        }
        match du {
            Some(du) => {
                self.product(&mut g.with, Write::Set, dy, self.panels(l, F1) + 1, MatMut::new(du, m, d)?)
            }
            None => Ok(()),
        }
    }
}
