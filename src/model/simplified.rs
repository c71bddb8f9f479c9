//! The simplified two-layer attention model that the theorems of paper 1 (arXiv 2402.14735) are about.
//!
//! | symbol | name here | shape | equation |
//! |---|---|---|---|
//! | A1 | block `A1` | (T, T) | entries above the diagonal are never read |
//! | A2 | block `A2` | (S, S) | row = query symbol |
//! | M | `mix` | (T, T) | softmax over j <= i of A1\[i, j\] |
//! | a | `a` | (n, T) | A2\[s_T, s_j\] |
//! | z, v | `v` | (n, T) | z_i = Σ_{j<=i} M_ij a_j; v = softmax(z) |
//! | f | predictions | (n, S) | f(s') = Σ_i v_i 1\[s_i = s'\] |
//! | ℓ | losses | (n) | −Σ_{s'} y(s') ln(f(s') + ε) |
//! | δ | `delta` | (n, T) | v_i (r(s_i) − r̄), r = w y/(f + ε), r̄ = Σ f r: minus ∂L/∂z |
//!
//! It is the [disentangled transformer](super::Disentangled) with everything frozen but the position–position block of layer
//! 1 and the token–token block of layer 2, and f read off directly.

use super::{Layout, Model, Workspace, check_operands};
use crate::batch::Batch;
use crate::num::ln;
use crate::{Error, Result};
use popgrad_kernels::{Elem, Kernels, Mat, MatMut, Write};

/// The model: sizes, ε and kernels. Parameters live in a flat vector laid out by [`Model::layout`].
#[derive(Debug)]
pub struct Simplified<E> {
    kernels: Kernels<E>,
    vocab: usize,
    seq_len: usize,
    eps: f64,
    layout: Layout,
}

/// Where the activations of `n` sequences lie in the arena.
struct Activations<'a, E> {
    mix: &'a mut [E],
    /// ∂L/∂M.
    dmix: &'a mut [E],
    a: &'a mut [E],
    v: &'a mut [E],
    delta: &'a mut [E],
    /// ∂L/∂a.
    da: &'a mut [E],
    /// r of one sequence (S).
    r: &'a mut [E],
}

impl<E: Elem> Simplified<E> {
    /// `vocab` symbols, sequences of `seq_len` tokens, ε = `eps` >= 0 in the loss.
    ///
    /// At ε = 0 the loss is +inf where a target symbol does not occur in the sequence; the gradient stays finite, such
    /// symbols being left out of r̄.
    ///
    /// # Errors
    /// Sizes or ε out of range; an instruction set forced that this CPU lacks.
    pub fn new(vocab: usize, seq_len: usize, eps: f64) -> Result<Self> {
        for (field, value) in [("S", vocab), ("T", seq_len)] {
            if !(2..=1 << 16).contains(&value) {
                return Err(Error::invalid(field, value.to_string(), format!("2 <= {field} <= 65536")));
            }
        }
        if !(eps >= 0.0 && eps.is_finite()) {
            return Err(Error::invalid("eps", eps.to_string(), "finite, >= 0"));
        }
        let mut layout = Layout::new();
        layout.push("A1", &[seq_len, seq_len])?;
        layout.push("A2", &[vocab, vocab])?;
        Ok(Simplified { kernels: Kernels::from_env()?, vocab, seq_len, eps, layout })
    }

    /// ε.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// The paper's induction head: A1\[i, p(i)\] = `scale` where position i has a parent, A2 = `beta` I, all else 0.
    ///
    /// As scale, β → ∞, f becomes uniform over the positions of largest z: those whose parent carries the query's symbol, a
    /// parentless one by its share of that symbol among the positions up to it, and the query by its share in the whole
    /// sequence. At finite β the error is of order e^{−β/T} in the worst sequence.
    ///
    /// # Errors
    /// When there are not T or T−1 parents, or one is not below its child.
    pub fn construction(&self, parents: &[Option<usize>], scale: f64, beta: f64) -> Result<Vec<E>> {
        let (t, s) = (self.seq_len, self.vocab);
        super::check_parents(parents, t)?;
        let mut params = vec![E::ZERO; self.layout.len()];
        let (a1, a2) = params.split_at_mut(t * t);
        for (i, p) in parents.iter().enumerate() {
            if let Some(p) = p {
                a1[i * t + p] = E::from_f64(scale);
            }
        }
        (0..s).for_each(|k| a2[k * s + k] = E::from_f64(beta));
        Ok(params)
    }

    /// Elements of (mix, dmix, a, v, delta, da, r) for `n` sequences.
    fn sizes(&self, n: usize) -> Option<[usize; 7]> {
        let (square, rows) = (self.seq_len * self.seq_len, n.checked_mul(self.seq_len)?);
        Some([square, square, rows, rows, rows, rows, self.vocab])
    }

    fn carve<'a>(&self, n: usize, arena: &'a mut [E]) -> Activations<'a, E> {
        let [square, _, rows, ..] = self.sizes(n).expect("the workspace was made for at least n");
        let (mix, rest) = arena.split_at_mut(square);
        let (dmix, rest) = rest.split_at_mut(square);
        let (a, rest) = rest.split_at_mut(rows);
        let (v, rest) = rest.split_at_mut(rows);
        let (delta, rest) = rest.split_at_mut(rows);
        let (da, rest) = rest.split_at_mut(rows);
        Activations { mix, dmix, a, v, delta, da, r: &mut rest[..self.vocab] }
    }
}

impl<E: Elem> Model<E> for Simplified<E> {
    fn name(&self) -> &'static str {
        "simplified"
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
        let (t, k) = (self.seq_len, &self.kernels);
        let arena = self.sizes(seqs)?.into_iter().try_fold(0usize, |a, b| a.checked_add(b));
        let arena = arena.filter(|a| *a <= isize::MAX as usize / 64)?;
        Some([arena, k.gemm_scratch(seqs, t, t).max(k.gemm_scratch(t, seqs, t))])
    }

    fn forward(&self, params: &[E], batch: &Batch, ws: &mut Workspace<E>) -> Result<()> {
        check_operands(self, params, batch, ws)?;
        let (n, t, s) = (batch.seqs(), self.seq_len, self.vocab);
        let (a1, a2) = params.split_at(t * t);
        let Workspace { arena, kernel, probs: out, losses, .. } = ws;
        let act = self.carve(n, arena.as_mut_slice());
        for (i, (m, row)) in act.mix.chunks_exact_mut(t).zip(a1.chunks_exact(t)).enumerate() {
            m[..=i].copy_from_slice(&row[..=i]);
            m[i + 1..].fill(E::NEG_INFINITY);
        }
        self.kernels.softmax_rows(MatMut::new(act.mix, t, t)?)?;
        for (i, (tokens, a)) in batch.tokens().chunks_exact(t).zip(act.a.chunks_exact_mut(t)).enumerate() {
            if let Some(token) = tokens.iter().find(|c| **c as usize >= s) {
                let found = format!("token {token} in sequence {i}");
                return Err(Error::invalid("tokens", found, format!("0 <= token < {s}")));
            }
            let row = &a2[tokens[t - 1] as usize * s..][..s];
            a.iter_mut().zip(tokens).for_each(|(a, c)| *a = row[*c as usize]);
        }
        let (a, mix) = (Mat::new(act.a, n, t)?, Mat::new(act.mix, t, t)?);
        self.kernels.gemm(Write::Set, E::ONE, a, mix.t(), MatMut::new(act.v, n, t)?, kernel)?;
        self.kernels.softmax_rows(MatMut::new(act.v, n, t)?)?;
        let rows = batch.tokens().chunks_exact(t).zip(act.v.chunks_exact(t));
        for (i, ((tokens, v), f)) in rows.zip(out.chunks_exact_mut(s)).enumerate() {
            f.fill(E::ZERO);
            tokens.iter().zip(v).for_each(|(c, v)| f[*c as usize] += *v);
            let mut loss = 0.0;
            for (y, f) in batch.target(i).iter().zip(&*f) {
                if *y != 0.0 {
                    loss -= y * ln(f.to_f64() + self.eps);
                }
            }
            losses[i] = loss;
        }
        ws.set_seqs(n);
        Ok(())
    }

    fn backward(&self, params: &[E], batch: &Batch, ws: &mut Workspace<E>, grad: &mut [E]) -> Result<()> {
        check_operands(self, params, batch, ws)?;
        let (n, t, s) = (batch.seqs(), self.seq_len, self.vocab);
        if grad.len() != params.len() || ws.losses().len() != n {
            let allowed = "a gradient as long as the parameters, after a forward of the same batch";
            return Err(Error::invalid("grad", format!("{} entries", grad.len()), allowed));
        }
        let Workspace { arena, kernel, probs: f, .. } = ws;
        let act = self.carve(n, arena.as_mut_slice());
        let rows = batch.tokens().chunks_exact(t).zip(act.v.chunks_exact(t));
        for (i, ((tokens, v), delta)) in rows.zip(act.delta.chunks_exact_mut(t)).enumerate() {
            let (w, y, f) = (batch.weights()[i], batch.target(i), &f[i * s..(i + 1) * s]);
            let mut mean = 0.0;
            for ((r, y), f) in act.r.iter_mut().zip(y).zip(f) {
                let f = f.to_f64();
                // 0/0 where the symbol does not occur and ε = 0; its f r is 0 whatever ε.
                let x = if f > 0.0 { w * y / (f + self.eps) } else { 0.0 };
                mean += f * x;
                *r = E::from_f64(x);
            }
            act.r.iter_mut().for_each(|r| *r = E::from_f64(r.to_f64() - mean));
            for ((d, v), c) in delta.iter_mut().zip(v).zip(tokens) {
                *d = *v * act.r[*c as usize];
            }
        }
        let minus = E::from_f64(-1.0);
        let (d1, d2) = grad.split_at_mut(t * t);
        let (delta, a, mix) = (Mat::new(act.delta, n, t)?, Mat::new(act.a, n, t)?, Mat::new(act.mix, t, t)?);
        // z = a Mᵀ: dM = dzᵀ a, da = dz M, with dz = −δ.
        self.kernels.gemm(Write::Set, minus, delta.t(), a, MatMut::new(act.dmix, t, t)?, kernel)?;
        self.kernels.gemm(Write::Set, minus, delta, mix, MatMut::new(act.da, n, t)?, kernel)?;
        let rows = act.mix.chunks_exact(t).zip(act.dmix.chunks_exact(t));
        for (i, ((m, dm), d)) in rows.zip(d1.chunks_exact_mut(t)).enumerate() {
            let mean: f64 = (0..=i).map(|j| m[j].to_f64() * dm[j].to_f64()).sum();
            for j in 0..=i {
                d[j] = E::from_f64(m[j].to_f64() * (dm[j].to_f64() - mean));
            }
            d[i + 1..].fill(E::ZERO);
        }
        d2.fill(E::ZERO);
        for (tokens, da) in batch.tokens().chunks_exact(t).zip(act.da.chunks_exact(t)) {
            let row = &mut d2[tokens[t - 1] as usize * s..][..s];
            tokens.iter().zip(da).for_each(|(c, d)| row[*c as usize] += *d);
        }
        Ok(())
    }
}
