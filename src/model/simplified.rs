//! The simplified two-layer attention model that the theorems of paper 1 (arXiv 2402.14735) are
//! about.
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
//! Where f + ε of a symbol that occurs is so small that v has lost digits of it, ln f and v_i/f are
//! taken from z itself: ln f = ln Σ_{s_i = s'} e^{z_i} − ln Σ e^{z_i}.
//!
//! Queries q before the last have their z and v, a_j = A2\[s_q, s_j\] and i <= q, in reports of
//! attention alone.
//!
//! It is the [disentangled transformer](super::Disentangled) with everything frozen but the
//! position–position block of layer 1 and the token–token block of layer 2, and f read off
//! directly.

use super::layered::{add_weighted, argmax, check_lengths, check_sequence, next, record};
use super::{
    Draw, FirstLayerScores, Layout, Model, Report, Workspace, WorkspaceLen, check_active, check_finite,
    check_operands,
};
use crate::batch::{Batch, Targets};
use crate::num::{Sum, check_eps, exp, ln};
use crate::{Error, Result};
use popgrad_kernels::{Elem, Kernels, Mat, MatMut, Scratch, Write};
use serde::{Deserialize, Serialize};

/// The options of a [`Simplified`]; the sizes S and T come from the task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SimplifiedSpec {
    /// ε of the loss: 0, or within the range of [`num::check_eps`](crate::num::check_eps).
    #[serde(default = "eps")]
    pub eps: f64,
    /// A2 starts at `beta0` times the identity; finite.
    #[serde(default = "beta0")]
    pub beta0: f64,
}

fn eps() -> f64 {
    0.01
}

fn beta0() -> f64 {
    0.1
}

impl Default for SimplifiedSpec {
    fn default() -> Self {
        SimplifiedSpec { eps: eps(), beta0: beta0() }
    }
}

impl SimplifiedSpec {
    /// The default options with this ε.
    pub fn new(eps: f64) -> Self {
        SimplifiedSpec { eps, ..SimplifiedSpec::default() }
    }
}

/// The model: sizes, ε and kernels. Parameters live in a flat vector laid out by [`Model::layout`].
#[derive(Debug)]
pub struct Simplified<E> {
    kernels: Kernels<E>,
    vocab: usize,
    seq_len: usize,
    spec: SimplifiedSpec,
    layout: Layout,
}

/// The activations of `n` sequences in the arena.
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
    /// Predictions (n, S).
    f: &'a mut [E],
}

impl<E: Elem> Simplified<E> {
    /// The model over `vocab` symbols (S) on sequences of `seq_len` tokens (T).
    ///
    /// At ε = 0 the loss is +inf if a target symbol does not occur in the sequence. The gradient
    /// stays finite, because such symbols are left out of r̄.
    ///
    /// # Errors
    /// Sizes, ε or β₀ out of range; `POPGRAD_ISA` names an instruction set that this CPU lacks.
    pub fn new(vocab: usize, seq_len: usize, spec: &SimplifiedSpec) -> Result<Self> {
        check_lengths(vocab, seq_len)?;
        let SimplifiedSpec { eps, beta0 } = *spec;
        check_eps(eps)?;
        check_finite::<E>("beta0", beta0)?;
        let mut layout = Layout::new();
        layout.push_causal("A1", seq_len)?;
        layout.push("A2", &[vocab, vocab])?;
        Ok(Simplified { kernels: Kernels::from_env()?, vocab, seq_len, spec: spec.clone(), layout })
    }

    /// ε.
    pub fn eps(&self) -> f64 {
        self.spec.eps
    }

    /// The paper's induction head: A1\[i, p(i)\] = `scale` where position i has a parent, A2 =
    /// `beta` I, all else 0.
    ///
    /// As scale, β → ∞, f becomes uniform over the positions of largest z/β. That is 1 for a
    /// position whose parent carries the query's symbol and 0 for other children; for a position
    /// without parent it is the share of that symbol among the positions up to it, and for the
    /// query its share in the whole sequence. At finite β the error is of order e^{−β/T} in the
    /// worst sequence.
    ///
    /// # Errors
    /// Not T or T−1 parents; a parent that is not at an earlier position; numbers that are not
    /// finite in `E`.
    pub fn construction(&self, parents: &[Option<usize>], scale: f64, beta: f64) -> Result<Vec<E>> {
        let (t, s) = (self.seq_len, self.vocab);
        super::check_parents(parents, t)?;
        check_finite::<E>("scale", scale)?;
        check_finite::<E>("beta", beta)?;
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

    /// Elements of (mix, dmix, a, v, delta, da, r, f) for `n` sequences.
    fn sizes(&self, n: usize) -> Option<[usize; 8]> {
        let (square, rows) = (self.seq_len * self.seq_len, n.checked_mul(self.seq_len)?);
        Some([square, square, rows, rows, rows, rows, self.vocab, n.checked_mul(self.vocab)?])
    }

    fn carve<'a>(&self, n: usize, arena: &'a mut [E]) -> Activations<'a, E> {
        let mut rest = arena;
        let sizes = self.sizes(n).expect("the workspace was made for at least n");
        let [mix, dmix, a, v, delta, da, r, f] = sizes.map(|len| next(&mut rest, len));
        Activations { mix, dmix, a, v, delta, da, r, f }
    }

    /// M (T, T).
    fn mix(&self, params: &[E], mix: &mut [E]) -> Result<()> {
        let t = self.seq_len;
        for (i, (m, row)) in mix.chunks_exact_mut(t).zip(params.chunks_exact(t)).enumerate() {
            m[..=i].copy_from_slice(&row[..=i]);
            m[i + 1..].fill(E::NEG_INFINITY);
        }
        Ok(self.kernels.softmax_rows(MatMut::new(mix, t, t)?)?)
    }

    /// f + ε below this may have lost digits: softmax sets to zero what is below e^-80 (f32) or
    /// e^-700 (f64) of its largest entry, and T such entries must not matter beside it.
    fn faint(&self) -> f64 {
        let least = if size_of::<E>() == 4 { 2f64.powi(-90) } else { 2f64.powi(-956) };
        self.seq_len as f64 * least
    }

    /// Is there a target symbol of the sequence that occurs, and whose f + ε is faint?
    fn is_faint(&self, tokens: &[u32], y: &[f64], f: &[E]) -> bool {
        let (least, eps) = (self.faint(), self.spec.eps);
        // At most runs' ε nothing is.
        if eps >= least {
            return false;
        }
        let small = |(y, f): (&f64, &E)| *y != 0.0 && f.to_f64() + eps < least;
        y.iter().zip(f).enumerate().any(|(c, x)| small(x) && tokens.contains(&(c as u32)))
    }

    /// Sequence number `i` in logarithms, with `z` (T) to work in.
    fn in_logs<'a>(
        &self,
        tokens: &'a [u32],
        act: &Activations<'_, E>,
        i: usize,
        z: &'a mut [f64],
    ) -> Logs<'a> {
        let t = self.seq_len;
        let a = &act.a[i * t..(i + 1) * t];
        for (q, (z, m)) in z.iter_mut().zip(act.mix.chunks_exact(t)).enumerate() {
            *z = (0..=q).map(|j| m[j].to_f64() * a[j].to_f64()).collect::<Sum>().value();
        }
        let mut logs = Logs { tokens, z, all: (0.0, 0.0), eps: self.spec.eps };
        logs.all = logs.sum(None);
        logs
    }

    /// Computes losses, and predictions in the arena. `z` (T) is room to work in.
    fn forward(
        &self,
        params: &[E],
        batch: &Batch,
        act: &mut Activations<'_, E>,
        (losses, z): (&mut [f64], &mut [f64]),
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let (n, t, s) = (batch.seqs(), self.seq_len, self.vocab);
        self.mix(params, act.mix)?;
        let a2 = &params[t * t..];
        for (tokens, a) in batch.tokens().chunks_exact(t).zip(act.a.chunks_exact_mut(t)) {
            let row = &a2[tokens[t - 1] as usize * s..][..s];
            a.iter_mut().zip(tokens).for_each(|(a, c)| *a = row[*c as usize]);
        }
        let (a, mix) = (Mat::new(act.a, n, t)?, Mat::new(act.mix, t, t)?);
        self.kernels.gemm(Write::Set, E::ONE, a, mix.t(), MatMut::new(act.v, n, t)?, kernel)?;
        self.kernels.softmax_rows(MatMut::new(act.v, n, t)?)?;
        for (i, (tokens, loss)) in batch.tokens().chunks_exact(t).zip(losses).enumerate() {
            let (v, f) = (&act.v[i * t..(i + 1) * t], &mut act.f[i * s..(i + 1) * s]);
            f.fill(E::ZERO);
            tokens.iter().zip(v).for_each(|(c, v)| f[*c as usize] += *v);
            let y = batch.law(i);
            *loss = 0.0;
            if self.is_faint(tokens, y, &act.f[i * s..(i + 1) * s]) {
                let logs = self.in_logs(tokens, act, i, z);
                for (c, y) in y.iter().enumerate().filter(|(_, y)| **y != 0.0) {
                    *loss -= y * logs.near(&logs.symbol(c));
                }
                continue;
            }
            for (y, f) in y.iter().zip(&act.f[i * s..(i + 1) * s]) {
                if *y != 0.0 {
                    *loss -= y * ln(f.to_f64() + self.spec.eps);
                }
            }
        }
        Ok(())
    }

    /// Gradients of A1 and A2, where active. `z` (T) is room to work in.
    fn backward(
        &self,
        batch: &Batch,
        act: &mut Activations<'_, E>,
        z: &mut [f64],
        (active, grad): (&[bool], &mut [E]),
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let (n, t, s) = (batch.seqs(), self.seq_len, self.vocab);
        for (i, tokens) in batch.tokens().chunks_exact(t).enumerate() {
            let (w, y, f) = (batch.weights()[i], batch.law(i), &act.f[i * s..(i + 1) * s]);
            if w == 0.0 {
                // It counts nothing, whatever its loss.
                act.delta[i * t..(i + 1) * t].fill(E::ZERO);
                continue;
            }
            if self.is_faint(tokens, y, f) {
                let logs = self.in_logs(tokens, act, i, z);
                let mut mean = Sum::new();
                (0..s).filter(|c| y[*c] != 0.0).for_each(|c| mean.add(w * y[c] * logs.kept(&logs.symbol(c))));
                let (mean, rows) = (mean.value(), i * t..(i + 1) * t);
                for ((d, v), (c, z)) in
                    act.delta[rows.clone()].iter_mut().zip(&act.v[rows]).zip(tokens.iter().zip(&*logs.z))
                {
                    let own = logs.symbol(*c as usize);
                    let share = exp((z - own.0) - own.1);
                    *d = E::from_f64(w * y[*c as usize] * logs.kept(&own) * share - v.to_f64() * mean);
                }
                continue;
            }
            let (v, delta) = (&act.v[i * t..(i + 1) * t], &mut act.delta[i * t..(i + 1) * t]);
            let mut mean = 0.0;
            for ((r, y), f) in act.r.iter_mut().zip(y).zip(f) {
                let f = f.to_f64();
                // 0/0 where the symbol does not occur and ε = 0; its f r is 0 whatever ε.
                let x = if f > 0.0 { w * y / (f + self.spec.eps) } else { 0.0 };
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
        if active[0] {
            self.kernels.gemm(Write::Set, minus, delta.t(), a, MatMut::new(act.dmix, t, t)?, kernel)?;
            let rows = act.mix.chunks_exact(t).zip(act.dmix.chunks_exact(t));
            for (i, ((m, dm), d)) in rows.zip(d1.chunks_exact_mut(t)).enumerate() {
                let mean: f64 = (0..=i).map(|j| m[j].to_f64() * dm[j].to_f64()).sum();
                for j in 0..=i {
                    d[j] = E::from_f64(m[j].to_f64() * (dm[j].to_f64() - mean));
                }
                d[i + 1..].fill(E::ZERO);
            }
        }
        if active[1] {
            self.kernels.gemm(Write::Set, minus, delta, mix, MatMut::new(act.da, n, t)?, kernel)?;
            d2.fill(E::ZERO);
            for (tokens, da) in batch.tokens().chunks_exact(t).zip(act.da.chunks_exact(t)) {
                let row = &mut d2[tokens[t - 1] as usize * s..][..s];
                tokens.iter().zip(da).for_each(|(c, d)| row[*c as usize] += *d);
            }
        }
        Ok(())
    }

    /// Attention of the second layer at all queries of one sequence, into `v` (T, T), with `a` (T,
    /// T) to work in.
    fn second(
        &self,
        params: &[E],
        tokens: &[u32],
        mix: &[E],
        [a, v]: [&mut [E]; 2],
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let (t, s) = (self.seq_len, self.vocab);
        let a2 = &params[t * t..];
        for (a, query) in a.chunks_exact_mut(t).zip(tokens) {
            let row = &a2[*query as usize * s..][..s];
            a.iter_mut().zip(tokens).for_each(|(a, key)| *a = row[*key as usize]);
        }
        let (a, mix) = (Mat::new(a, t, t)?, Mat::new(mix, t, t)?);
        self.kernels.gemm(Write::Set, E::ONE, a, mix.t(), MatMut::new(v, t, t)?, kernel)?;
        for (q, v) in v.chunks_exact_mut(t).enumerate() {
            v[q + 1..].fill(E::NEG_INFINITY);
        }
        Ok(self.kernels.softmax_rows(MatMut::new(v, t, t)?)?)
    }

    /// Room for z (T) and the losses of `n` sequences (n).
    fn reals<'a>(&self, reals: &'a mut [f64], n: usize) -> Result<[&'a mut [f64]; 2]> {
        let capacity = reals.len().saturating_sub(self.seq_len);
        if n > capacity || reals.len() < self.seq_len {
            let allowed = format!("at most {capacity} (the workspace)");
            return Err(Error::invalid("B", n.to_string(), allowed));
        }
        let (z, losses) = reals.split_at_mut(self.seq_len);
        Ok([z, &mut losses[..n]])
    }

    /// M and two more arrays (T, T) of the arena, to compute attention.
    fn squares<'a>(&self, arena: &'a mut [E]) -> [&'a mut [E]; 3] {
        let (len, mut rest) = (self.seq_len * self.seq_len, arena);
        [len; 3].map(|len| next(&mut rest, len))
    }
}

/// One sequence in logarithms.
struct Logs<'a> {
    tokens: &'a [u32],
    /// z (T).
    z: &'a mut [f64],
    /// max z and ln Σ e^{z − max}.
    all: (f64, f64),
    eps: f64,
}

impl Logs<'_> {
    /// max z and ln Σ e^{z − max} over the positions of one symbol, or all; −∞ first where there
    /// are none.
    fn sum(&self, of: Option<usize>) -> (f64, f64) {
        let is_own = |c: u32| of.is_none_or(|of| of == c as usize);
        let own = || self.z.iter().zip(self.tokens).filter(|(_, c)| is_own(**c)).map(|(z, _)| *z);
        let max = own().fold(f64::NEG_INFINITY, f64::max);
        (max, ln(own().map(|z| exp(z - max)).collect::<Sum>().value()))
    }

    fn symbol(&self, c: usize) -> (f64, f64) {
        self.sum(Some(c))
    }

    /// ln f; the maxima meet first, as a logarithm would be lost beside a large one.
    fn log_f(&self, own: &(f64, f64)) -> f64 {
        if own.0 == f64::NEG_INFINITY { own.0 } else { (own.0 - self.all.0) + (own.1 - self.all.1) }
    }

    /// ln(f + ε).
    fn near(&self, own: &(f64, f64)) -> f64 {
        let log = self.log_f(own);
        if self.eps == 0.0 { log } else { ln(exp(log) + self.eps) }
    }

    /// f/(f + ε); 0 where the symbol does not occur.
    fn kept(&self, own: &(f64, f64)) -> f64 {
        let f = exp(self.log_f(own));
        match self.eps == 0.0 {
            _ if own.0 == f64::NEG_INFINITY => 0.0,
            true => 1.0,
            false => f / (f + self.eps),
        }
    }
}

/// A head in each of two layers.
const HEADS: [usize; 2] = [1, 1];

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
    fn heads(&self) -> &[usize] {
        &HEADS
    }
    fn accepts(&self, targets: Targets) -> Result<()> {
        match targets {
            Targets::Law => Ok(()),
            Targets::Labels => {
                let allowed = "disentangled, mlp_transformer, memory or transformer: this task has a label at every position, and \
                               simplified predicts the symbol after the last position only";
                Err(Error::invalid("model", "simplified", allowed))
            }
        }
    }
    fn trainable(&self) -> &[bool] {
        &[true; 2]
    }

    /// A1 = 0, A2 = β₀ I.
    fn initial(&self, _draw: &dyn Draw) -> Vec<E> {
        let (t, s) = (self.seq_len, self.vocab);
        let mut params = vec![E::ZERO; self.layout.len()];
        params[t * t..].iter_mut().step_by(s + 1).for_each(|p| *p = E::from_f64(self.spec.beta0));
        params
    }

    fn workspace_len(&self, _targets: Targets, seqs: usize) -> Option<WorkspaceLen> {
        let (t, k) = (self.seq_len, &self.kernels);
        let arena = self.sizes(seqs)?.into_iter().try_fold(0usize, |a, b| a.checked_add(b))?;
        // A report needs three (T, T) after the pass.
        let arena = Some(arena.max(3 * t * t)).filter(|a| *a <= isize::MAX as usize / 64)?;
        let reals = seqs.checked_add(t)?;
        let products = [(seqs, t, t), (t, seqs, t), (t, t, t)];
        let kernel = products.into_iter().map(|(m, kk, n)| k.gemm_scratch(m, kk, n)).max()?;
        Some(WorkspaceLen { arena, kernel, reals, ..WorkspaceLen::default() })
    }

    fn loss_and_grad(
        &self,
        params: &[E],
        batch: &Batch,
        active: &[bool],
        ws: &mut Workspace<E>,
        grad: &mut [E],
    ) -> Result<Sum> {
        check_operands(self, params, batch)?;
        check_active(self, active, &[], grad)?;
        let n = batch.seqs();
        let [z, losses] = self.reals(&mut ws.reals, n)?;
        let mut act = self.carve(n, ws.arena.as_mut_slice());
        self.forward(params, batch, &mut act, (&mut *losses, &mut *z), &mut ws.kernel)?;
        if active.contains(&true) {
            self.backward(batch, &mut act, z, (active, grad), &mut ws.kernel)?;
        }
        let mut sum = Sum::new();
        add_weighted(&mut sum, losses, batch.weights());
        Ok(sum)
    }

    fn report(&self, params: &[E], batch: &Batch, ws: &mut Workspace<E>, report: &mut Report) -> Result<()> {
        check_operands(self, params, batch)?;
        report.check(batch, HEADS.iter().sum())?;
        let (n, t) = (batch.seqs(), self.seq_len);
        let [z, _] = self.reals(&mut ws.reals, n)?;
        let mut act = self.carve(n, ws.arena.as_mut_slice());
        self.forward(params, batch, &mut act, (&mut report.losses, z), &mut ws.kernel)?;
        record(act.f, self.vocab, 0, report);
        if report.attended.is_empty() {
            return Ok(());
        }
        let [mix, a, v] = self.squares(ws.arena.as_mut_slice());
        self.mix(params, mix)?;
        let (first, second) = report.attended.split_at_mut(n * t);
        for (b, tokens) in batch.tokens().chunks_exact(t).enumerate() {
            self.second(params, tokens, mix, [&mut *a, &mut *v], &mut ws.kernel)?;
            for i in 0..t {
                first[b * t + i] = argmax(&mix[i * t..][..=i]);
                second[b * t + i] = argmax(&v[i * t..][..=i]);
            }
        }
        Ok(())
    }

    fn attention(&self, params: &[E], tokens: &[u32], ws: &mut Workspace<E>, out: &mut [f64]) -> Result<()> {
        check_sequence(self, params, tokens, out)?;
        if ws.arena.len() < 3 * self.seq_len * self.seq_len {
            return Err(Error::invalid("workspace", "too small", "one of this model"));
        }
        let [mix, a, v] = self.squares(ws.arena.as_mut_slice());
        self.mix(params, mix)?;
        self.second(params, tokens, mix, [a, &mut *v], &mut ws.kernel)?;
        out.iter_mut().zip(mix.iter().chain(&*v)).for_each(|(out, p)| *out = p.to_f64());
        Ok(())
    }

    /// A1 between positions, 0 elsewhere.
    fn first_layer_scores(&self, params: &[f64]) -> Option<FirstLayerScores> {
        let (t, s) = (self.seq_len, self.vocab);
        let d = s + t;
        let mut scores = vec![0.0; d * d];
        let a1 = params.get(..t * t)?.chunks_exact(t);
        let rows = scores[s * d..].chunks_exact_mut(d);
        rows.zip(a1).for_each(|(row, a1)| row[s..].copy_from_slice(a1));
        Some(FirstLayerScores { scores, by_position: true })
    }
}
