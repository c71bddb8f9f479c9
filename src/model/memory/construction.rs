//! The paper's associative memories as explicit parameters (section 4): an induction head without
//! training.

use super::Memory;
use crate::model::FeedForward;
use crate::{Error, Result};
use popgrad_kernels::{Elem, Mat, MatMut, Scratch, Write};

/// The contents of the associative memories and their strengths.
#[derive(Debug, Clone, Copy)]
pub struct Memories<'a> {
    /// Q: the symbols that layer 2 looks for.
    pub triggers: &'a [u32],
    /// π_b (N, N), for a linear feed-forward in layer 2; probabilities below `floor` count as
    /// `floor`.
    pub bigram: &'a [f64],
    /// > 0.
    pub floor: f64,
    /// Strengths, all > 0. If all vectors were orthogonal, the first three would be the gaps
    /// between the right score and the others: of the previous position in layer 1; of the token
    /// after the same trigger in layer 2; of the logit of the attended symbol. The fourth
    /// multiplies ln π_b; it is 1 for the law itself.
    pub gaps: [f64; 4],
}

/// Mean square of rows of d.
fn mean_square<E: Elem>(x: &[E], d: usize) -> f64 {
    let rows = (x.len() / d).max(1) as f64;
    x.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>() / rows
}

impl<E: Elem> Memory<E> {
    /// Writes into `params`, from its E, p, W_V, W_O of layer 1 and W_U, W_K¹ ∝ Σ_t p_t p_{t−1}ᵀ,
    /// W_K² ∝ Σ_{k in Q} w_E(k) w_1(k)ᵀ, W_O² ∝ Σ_v w_U(v) (W_V² w_E(v))ᵀ, w_1 = W_O¹ W_V¹ w_E, and
    /// a linear W_F of layer 2 ∝ Σ_{v,u} ln π_b(u|v) w_U(u) w_E(v)ᵀ, ln π_b(·|v) less its mean,
    /// which no softmax sees. Any other feed-forward becomes 0.
    ///
    /// # Errors
    /// Rotary positions, which have no vectors; a trigger or a table that does not fit; a floor or
    /// gaps that are not finite and > 0; embeddings or images of them that are all 0; memories that
    /// leave `E`. `params` is then unchanged.
    pub fn write_memories(&self, params: &mut [E], what: &Memories<'_>) -> Result<()> {
        let mut written = params.to_vec();
        self.write(&mut written, what)?;
        if written.iter().zip(&*params).any(|(new, old)| old.is_finite() && !new.is_finite()) {
            let found = format!("{:?}: a memory is not finite in {}", what.gaps, E::NAME);
            return Err(Error::invalid("gaps", found, "gaps of a size that it can hold"));
        }
        params.copy_from_slice(&written);
        Ok(())
    }

    fn write(&self, params: &mut [E], what: &Memories<'_>) -> Result<()> {
        let (n, t, d) = (self.shape.vocab, self.shape.len, self.shape.dim);
        let Some(pe) = self.blocks.pe else {
            return Err(Error::invalid("positions", "rotary", "positions that are vectors"));
        };
        if params.len() != self.layout.len() {
            let allowed = format!("{} for this model", self.layout.len());
            return Err(Error::invalid("params length", params.len().to_string(), allowed));
        }
        if let Some(k) = what.triggers.iter().find(|k| **k as usize >= n) {
            return Err(Error::invalid("triggers", k.to_string(), format!("0 <= symbol < {n}")));
        }
        let linear = self.shape.ff[1] == FeedForward::Linear;
        if linear && what.bigram.len() != n * n {
            let found = format!("{} entries", what.bigram.len());
            return Err(Error::invalid("bigram", found, format!("{n} x {n}")));
        }
        for (field, numbers) in [("floor", &[what.floor][..]), ("gaps", &what.gaps)] {
            if let Some(x) = numbers.iter().find(|x| !(**x > 0.0 && x.is_finite())) {
                return Err(Error::invalid(field, x.to_string(), "finite, > 0"));
            }
        }
        let [first, second] = self.blocks.layers;
        let take = |params: &[E], b: usize| params[self.range(b)].to_vec();
        let e = take(params, self.blocks.embeddings);
        let (p, u) = (take(params, pe), take(params, self.blocks.output.unwrap_or(self.blocks.embeddings)));
        let (wv1, wo1, wv2) = (take(params, first.wv), take(params, first.wo), take(params, second.wv));
        let len = self.kernels.gemm_scratch(n.max(t).max(d), n.max(t).max(d), n.max(d));
        let mut scratch = Scratch::new(len);
        // Rows of x times Wᵀ.
        let mut through = |x: &[E], w: &[E]| -> Result<Vec<E>> {
            let rows = x.len() / d;
            let mut y = vec![E::ZERO; x.len()];
            let (x, w, out) = (Mat::new(x, rows, d)?, Mat::new(w, d, d)?, MatMut::new(&mut y, rows, d)?);
            self.kernels.gemm(Write::Set, E::ONE, x, w.t(), out, &mut scratch)?;
            Ok(y)
        };
        let values = through(&e, &wv1)?;
        let w1 = through(&values, &wo1)?;
        let copied = through(&e, &wv2)?;
        // Sums of outer products: Aᵀ B over rows.
        let mut outer = |by: f64, a: &[E], b: &[E], to: &mut [E]| -> Result<()> {
            let rows = a.len() / d;
            let (a, b, to) = (Mat::new(a, rows, d)?, Mat::new(b, rows, d)?, MatMut::new(to, d, d)?);
            Ok(self.kernels.gemm(Write::Set, E::from_f64(by), a.t(), b, to, &mut scratch)?)
        };
        let squares = [&e, &p, &u, &w1, &copied].map(|x| mean_square(x, d));
        let names =
            ["tok_embeddings.weight", "pe", "output.weight", "W_O W_V w_E of layer 1", "W_V w_E of layer 2"];
        if let Some((name, x)) = names.iter().zip(squares).find(|(_, x)| !(*x > 0.0 && x.is_finite())) {
            return Err(Error::invalid(*name, format!("mean square {x}"), "vectors that are not all 0"));
        }
        let [e2, p2, u2, w2, copied2] = squares;
        let scale = self.scale.to_f64();
        let [previous, same, copy, global] = what.gaps;
        let wk1 = &mut params[self.range(first.wk)];
        outer(previous / (p2 * p2 * scale), &p[d..], &p[..(t - 1) * d], wk1)?;
        let of = |x: &[E]| -> Vec<E> {
            what.triggers.iter().flat_map(|k| &x[*k as usize * d..][..d]).copied().collect()
        };
        let wk2 = &mut params[self.range(second.wk)];
        outer(same / (e2 * w2 * scale), &of(&e), &of(&w1), wk2)?;
        let readout = self.readout.to_f64();
        let wo2 = &mut params[self.range(second.wo)];
        outer(copy / (u2 * copied2 * readout), &u, &copied, wo2)?;
        for ff in [first.ff, first.w2, second.ff, second.w2].into_iter().flatten() {
            params[self.range(ff)].fill(E::ZERO);
        }
        if let (Some(ff), true) = (second.ff, linear) {
            // Row v: Σ_u ln π_b(u|v) w_U(u).
            let mut mixed = vec![E::ZERO; n * d];
            for (row, law) in mixed.chunks_exact_mut(d).zip(what.bigram.chunks_exact(n)) {
                let logs: Vec<f64> = law.iter().map(|p| crate::num::ln(p.max(what.floor))).collect();
                let mean = crate::num::sum(&logs) / n as f64;
                for (j, x) in row.iter_mut().enumerate() {
                    let sum: f64 =
                        logs.iter().enumerate().map(|(v, l)| (l - mean) * u[v * d + j].to_f64()).sum();
                    *x = E::from_f64(sum);
                }
            }
            outer(global / (u2 * e2 * readout), &mixed, &e, &mut params[self.range(ff)])?;
        }
        Ok(())
    }
}
