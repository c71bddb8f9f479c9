//! The closed forms under test (first paper; those of the second are [`MemoryFormulas`]), each a
//! function that a test can replace by a wrong one.
//!
//! What they are held against (enumeration, differentiation, the engines of `exact`) knows nothing
//! of them.

use super::MemoryFormulas;
use crate::Result;
use crate::exact::Prior;
use crate::exact::brute::{Gradients, Word, words};
use crate::exact::marginals::Paths;
use crate::exact::transition::Transition;
use crate::num::Sum;
use crate::task::Forest;

/// The pieces that the closed forms are made of.
#[derive(Debug, Clone, Copy)]
pub struct Formulas {
    /// Positions that row i of the mask lets through: i + 1.
    pub attended: fn(usize) -> usize,
    /// J(m) x = m ⊙ (x − ⟨m, x⟩): the Jacobian of softmax at its value m.
    pub jacobian: fn(&[f64], &[f64]) -> Vec<f64>,
    /// β₀/(ST) of the leading order, from (β₀, S, T).
    pub prefactor: fn(f64, usize, usize) -> f64,
    /// μ of π.
    pub stationary: fn(&Transition) -> Vec<f64>,
    /// The parent of a position, `None` for a root.
    pub parent: fn(&Forest, usize) -> Option<usize>,
    /// g_ij = ⟨B^x, B^y⟩: (x, y) from the edges (a, b) to j and to i.
    pub exponents: fn(usize, usize) -> [usize; 2],
    /// g at the parent for S = 2 and Dirichlet(α): 1/(2(1 + 2α)).
    pub two_symbols: fn(f64) -> f64,
    /// (g_ii, g_{i,p(i)}) of π = λI + (1 − λ)11ᵀ/S, from (λ, S).
    pub lazy: fn(f64, usize) -> [f64; 2],
    /// What data processing leaves between the parent and other positions, from (‖B‖_F², ‖B‖_op).
    pub margin: fn(f64, f64) -> f64,
    /// I − 11ᵀ/S (S, S), the direction of A2's gradient under symmetric priors.
    pub direction: fn(usize) -> Vec<f64>,
    /// Posterior mean of a row from α and its counts (S).
    pub predictor: fn(f64, &[f64]) -> Vec<f64>,
    /// Σ_{k,l} of T_eff counts ρ^d: what a pair at distance d adds.
    pub overlap: fn(f64, usize) -> f64,
    /// E[y yᵀ] of a Dirichlet row of total A as [A/(A + 1), 1/(A + 1)] of (ȳȳᵀ, diag ȳ).
    pub row_moments: fn(f64) -> [f64; 2],
    /// The parent that head h of layer 1 attends to, of a position's parents.
    pub slot: fn(&[usize], usize) -> Option<usize>,
    /// Those of the second paper.
    pub memory: MemoryFormulas,
}

impl Default for Formulas {
    fn default() -> Self {
        Formulas {
            attended: |i| i + 1,
            jacobian: |m, x| {
                let mean: f64 = m.iter().zip(x).map(|(m, x)| m * x).sum();
                m.iter().zip(x).map(|(m, x)| m * (x - mean)).collect()
            },
            prefactor: |beta, s, t| beta / (s * t) as f64,
            stationary: |transition| transition.mu().to_vec(),
            parent: |forest, i| forest.parent(i),
            exponents: |a, b| [a + 1, b],
            two_symbols: |alpha| 1.0 / (2.0 * (1.0 + 2.0 * alpha)),
            lazy: |lambda, s| [lambda * (s as f64 - 1.0), lambda * lambda * (s as f64 - 1.0)],
            margin: |square, op| square * (1.0 - op),
            direction: |s| {
                let unit = |n: usize| f64::from(u8::from(n / s == n % s));
                (0..s * s).map(|n| unit(n) - 1.0 / s as f64).collect()
            },
            predictor: |alpha, counts| {
                let total = alpha * counts.len() as f64 + counts.iter().sum::<f64>();
                counts.iter().map(|n| (alpha + n) / total).collect()
            },
            overlap: |rho, d| rho.powi(d as i32),
            row_moments: |total| [total / (total + 1.0), 1.0 / (total + 1.0)],
            slot: |parents, h| parents.get(h).copied(),
            memory: MemoryFormulas::default(),
        }
    }
}

impl Formulas {
    /// M (T, T): row softmax of A1 under the mask.
    pub fn mix(&self, a1: &[f64], t: usize) -> Vec<f64> {
        let mut mix = vec![0.0; t * t];
        for i in 0..t {
            let row = i * t..i * t + (self.attended)(i).min(t);
            softmax(&a1[row.clone()], &mut mix[row]);
        }
        mix
    }

    /// Loss and both gradients in closed form, summed over words: −∂L/∂A1\[i, ·\] = Σ_s δ_i J(M_i)
    /// a, −∂L/∂A2\[k, l\] = Σ_s 1\[s_T = k\] Σ_i δ_i Σ_j M_ij 1\[s_j = l\], δ = J(v) r.
    ///
    /// # Errors
    /// More words than can be enumerated.
    pub fn gradients(
        &self,
        forest: &Forest,
        prior: &Prior,
        a1: &[f64],
        a2: &[f64],
        eps: f64,
    ) -> Result<Gradients> {
        let (s, t) = (prior.symbols(), forest.seq_len());
        let mix = self.mix(a1, t);
        let (mut loss, mut weight) = (Sum::new(), Sum::new());
        let (mut d1, mut d2) = (vec![Sum::new(); t * t], vec![Sum::new(); s * s]);
        for Word { tokens, weights } in words(forest, prior)? {
            let query = tokens[t - 1] as usize * s;
            let a: Vec<f64> = tokens.iter().map(|c| a2[query + *c as usize]).collect();
            let z: Vec<f64> = (0..t).map(|i| (0..t).map(|j| mix[i * t + j] * a[j]).sum()).collect();
            let mut v = vec![0.0; t];
            softmax(&z, &mut v);
            let mut f = vec![0.0; s];
            tokens.iter().zip(&v).for_each(|(c, v)| f[*c as usize] += v);
            for (w, f) in weights.iter().zip(&f) {
                weight.add(*w);
                loss.add(-w * (f + eps).ln());
            }
            let r: Vec<f64> = tokens.iter().map(|c| weights[*c as usize] / (f[*c as usize] + eps)).collect();
            let delta = (self.jacobian)(&v, &r);
            for i in 0..t {
                let row = &mix[i * t..(i + 1) * t];
                for (j, x) in (self.jacobian)(row, &a).iter().enumerate() {
                    d1[i * t + j].add(delta[i] * x);
                    d2[query + tokens[j] as usize].add(delta[i] * row[j]);
                }
            }
        }
        let values = |x: &[Sum]| x.iter().map(Sum::value).collect();
        Ok(Gradients { loss: loss.value(), weight: weight.value(), a1: values(&d1), a2: values(&d2) })
    }

    /// −∂L/∂A1 (T, T) to first order in β₀ at A2 = β₀I, given ĝ (T, T).
    pub fn leading(&self, beta: f64, symbols: usize, t: usize, a1: &[f64], g: &[f64]) -> Vec<f64> {
        let mix = self.mix(a1, t);
        let factor = (self.prefactor)(beta, symbols, t);
        let rows = mix.chunks_exact(t).zip(g.chunks_exact(t));
        rows.flat_map(|(m, g)| (self.jacobian)(m, g)).map(|x| factor * x).collect()
    }

    /// g (T, T) for one π and roots ∼ μ, by powers of B, in plain loops.
    ///
    /// # Errors
    /// Sizes out of range.
    pub fn limit(&self, transition: &Transition, forest: &Forest) -> Result<Vec<f64>> {
        let (s, t, pi) = (transition.symbols(), forest.seq_len(), transition.pi());
        let mu = (self.stationary)(transition);
        let root: Vec<f64> = mu.iter().map(|m| m.sqrt()).collect();
        let unit = |n: usize| f64::from(u8::from(n / s == n % s));
        let b: Vec<f64> =
            (0..s * s).map(|n| root[n / s] * pi[n] / root[n % s] - root[n / s] * root[n % s]).collect();
        let zeroth: Vec<f64> = (0..s * s).map(|n| unit(n) - root[n / s] * root[n % s]).collect();
        let mut powers = vec![zeroth, b.clone()];
        let parents: Vec<i64> =
            (0..t - 1).map(|i| (self.parent)(forest, i).map_or(-1, |p| p as i64)).collect();
        let paths = Paths::new(&Forest::from_parents(&parents)?)?;
        while powers.len() < paths.height() + 2 {
            let last = &powers[powers.len() - 1];
            let entry = |n: usize| (0..s).map(|k| last[n / s * s + k] * b[k * s + n % s]).sum();
            let next = (0..s * s).map(entry).collect();
            powers.push(next);
        }
        let mut g = vec![0.0; t * t];
        for i in 0..t - 1 {
            for j in 0..(self.attended)(i) {
                if let Some((_, a, b)) = paths.fork(i, j) {
                    let [x, y] = (self.exponents)(a, b);
                    g[i * t + j] = powers[x].iter().zip(&powers[y]).map(|(x, y)| x * y).sum();
                }
            }
            g[(t - 1) * t + i] = (0..s).map(|x| pi[x * (s + 1)]).sum::<f64>() - 1.0;
        }
        g[t * t - 1] = (0..s).map(|x| pi[x * (s + 1)] / mu[x]).sum::<f64>() - s as f64;
        Ok(g)
    }

    /// T_eff by its double sum.
    ///
    /// # Errors
    /// Sizes out of range.
    pub fn effective_length(&self, forest: &Forest, rho: f64) -> Result<f64> {
        let (t, paths) = (forest.seq_len(), Paths::new(forest)?);
        // The query's own pair.
        let mut sum = Sum::from_iter([1.0]);
        for k in 0..t - 1 {
            for l in 0..t - 1 {
                if let Some((_, a, b)) = paths.fork(k, l) {
                    sum.add((self.overlap)(rho, a + b));
                }
            }
        }
        Ok((t * t) as f64 / sum.value())
    }
}

pub(super) fn softmax(x: &[f64], out: &mut [f64]) {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    out.iter_mut().zip(x).for_each(|(o, x)| *o = (x - max).exp());
    let z: f64 = out.iter().sum();
    out.iter_mut().for_each(|o| *o /= z);
}
