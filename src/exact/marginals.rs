//! Marginals of one transition matrix on a forest, and the population limit of the leading
//! gradient, in polynomial time.
//!
//! | symbol | shape | meaning |
//! |---|---|---|
//! | m_i | (S) | law of position i: m_i = m_{p(i)} π, roots follow a given law |
//! | c, a, b | | lowest common ancestor of j and i, edges from it to j, to i |
//! | P_ij | (S, S) | P(s_j = s, s_i = s') = Σ_u m_c(u) π^a(u, s) π^b(u, s') |
//! | g_ij | (T, T) | Σ_{s,s'} π(s'\|s)/μ(s') P(s_j = s, s_i = s') − 1: what row i of A1's gradient follows as T grows |
//!
//! In the balanced form of [`Transition`] g needs powers of B alone, and subtracts nothing: g_ij =
//! Σ_u m_c(u)/μ(u) Σ_{s'} B^{a+1}(u, s') B^b(u, s'), B⁰ = I − √μ√μᵀ; for roots that follow μ it is
//! ⟨B^{a+1}, B^b⟩. Across trees, with d = m − μ: g_ij = Σ_{s'} (d_j π)(s') d_i(s')/μ(s'). The query
//! is position T − 1: uniform, without parent; its row is Σ_s m_j(s) π(s|s)/μ(s) − 1, its own entry
//! Σ_s π(s|s)/μ(s) − S. Everything is exact for any law of the roots, given that 1/μ is what the
//! occupation tends to.

use super::transition::Transition;
use crate::num::Sum;
use crate::task::Forest;
use crate::{Error, Result};
use popgrad_kernels::{Kernels, Mat, MatMut, Scratch, Write};
use rayon::prelude::*;
use std::collections::HashMap;

/// Depths and lowest common ancestors of the context positions.
#[derive(Debug, Clone)]
pub struct Paths {
    depth: Vec<u32>,
    /// Row i holds the ancestors of (i, j), j <= i.
    lca: Vec<u32>,
}

/// Longest sequence whose pairs are tabulated.
pub const MAX_LEN: usize = 4096;
const NONE: u32 = u32::MAX;

impl Paths {
    /// The paths of `forest`.
    ///
    /// # Errors
    /// T above [`MAX_LEN`].
    pub fn new(forest: &Forest) -> Result<Self> {
        let n = forest.len_context();
        if forest.seq_len() > MAX_LEN {
            return Err(Error::invalid("T", forest.seq_len().to_string(), format!("2 <= T <= {MAX_LEN}")));
        }
        let mut depth = vec![0; n];
        let mut lca = vec![NONE; n * (n + 1) / 2];
        let at = |i: usize, j: usize| i * (i + 1) / 2 + j;
        for i in 0..n {
            if let Some(p) = forest.parent(i) {
                depth[i] = depth[p] + 1;
                for j in 0..i {
                    lca[at(i, j)] = if j <= p { lca[at(p, j)] } else { lca[at(j, p)] };
                }
            }
            lca[at(i, i)] = i as u32;
        }
        Ok(Paths { depth, lca })
    }

    /// Edges above context position `i`.
    pub fn depth(&self, i: usize) -> usize {
        self.depth[i] as usize
    }

    /// Largest depth.
    pub fn height(&self) -> usize {
        self.depth.iter().max().map_or(0, |d| *d as usize)
    }

    /// Lowest common ancestor of context positions `i` and `j`, `None` across trees.
    pub fn lca(&self, i: usize, j: usize) -> Option<usize> {
        let (i, j) = (i.max(j), i.min(j));
        let c = self.lca[i * (i + 1) / 2 + j];
        (c != NONE).then_some(c as usize)
    }

    /// (c, a, b): the ancestor, edges from it to `j`, to `i`.
    pub fn fork(&self, i: usize, j: usize) -> Option<(usize, usize, usize)> {
        let c = self.lca(i, j)?;
        Some((c, self.depth(j) - self.depth(c), self.depth(i) - self.depth(c)))
    }
}

/// X⁰, X, X², .. of one (S, S) matrix, cut off where they vanish.
struct Powers {
    symbols: usize,
    data: Vec<f64>,
    count: usize,
}

/// Powers below this in norm count as zero: their products would be subnormal, and slow.
const VANISHED: f64 = 1e-150;
/// Most elements that powers may take: 2 GiB.
const MAX_ELEMENTS: usize = 1 << 28;

impl Powers {
    /// X^0 = `zeroth` up to X^`last`.
    fn new(kernels: Kernels<f64>, x: &[f64], zeroth: &[f64], symbols: usize, last: usize) -> Result<Self> {
        let s2 = symbols * symbols;
        if s2.checked_mul(last + 1).is_none_or(|n| n > MAX_ELEMENTS) {
            let problem = format!("S = {symbols} with paths of {last} edges");
            return Err(Error::invalid("memory (S, T)", problem, "S*S*(edges + 1) <= 2^28"));
        }
        let mut scratch = Scratch::new(kernels.gemm_scratch(symbols, symbols, symbols));
        let mut data = Vec::with_capacity(s2 * (last + 1));
        data.extend_from_slice(zeroth);
        let mut count = 1;
        while count <= last {
            let from = data.len();
            data.resize(from + s2, 0.0);
            let (done, new) = data.split_at_mut(from);
            if count == 1 {
                new.copy_from_slice(x);
            } else {
                let a = Mat::new(&done[from - s2..], symbols, symbols)?;
                let c = MatMut::new(new, symbols, symbols)?;
                kernels.gemm(Write::Set, 1.0, a, Mat::new(x, symbols, symbols)?, c, &mut scratch)?;
            }
            if new.iter().all(|v| v.abs() < VANISHED) {
                data.truncate(from);
                break;
            }
            count += 1;
        }
        Ok(Powers { symbols, data, count })
    }

    /// `None` where it has vanished.
    fn get(&self, k: usize) -> Option<&[f64]> {
        let s2 = self.symbols * self.symbols;
        (k < self.count).then(|| &self.data[k * s2..(k + 1) * s2])
    }
}

/// Laws, pairs and triples of the context positions under one π.
pub struct Marginals<'a> {
    transition: &'a Transition,
    paths: Paths,
    kernels: Kernels<f64>,
    /// (height + 1, S): the law at each depth.
    laws: Vec<f64>,
    powers: Powers,
}

/// Checks a law of the roots; `None` is μ.
pub(super) fn root_law(transition: &Transition, roots: Option<&[f64]>) -> Result<Vec<f64>> {
    let Some(roots) = roots else { return Ok(transition.mu().to_vec()) };
    let total = roots.iter().copied().collect::<Sum>().value();
    let is_law = roots.iter().all(|x| *x >= 0.0) && (total - 1.0).abs() <= 1e-12;
    if roots.len() != transition.symbols() || !is_law {
        let problem = format!("{} entries that sum to {total}", roots.len());
        return Err(Error::invalid(
            "roots",
            problem,
            format!("{} entries >= 0, sum 1", transition.symbols()),
        ));
    }
    Ok(roots.iter().map(|x| x / total).collect())
}

/// (height + 1, S): the law at depth 0, 1, ..
fn laws(transition: &Transition, roots: Option<&[f64]>, height: usize) -> Result<Vec<f64>> {
    let s = transition.symbols();
    let mut laws = root_law(transition, roots)?;
    for d in 0..height {
        let from = laws.len();
        laws.resize(from + s, 0.0);
        let (done, next) = laws.split_at_mut(from);
        // μ is stationary: repeating the product would only add rounding.
        if roots.is_none() {
            next.copy_from_slice(transition.mu());
            continue;
        }
        for (m, row) in done[d * s..].iter().zip(transition.pi().chunks_exact(s)) {
            next.iter_mut().zip(row).for_each(|(x, p)| *x += m * p);
        }
    }
    Ok(laws)
}

impl<'a> Marginals<'a> {
    /// On `forest`; `roots` (S) is the law of the roots, `None` for μ.
    ///
    /// # Errors
    /// A root law that is none; sizes out of range.
    pub fn new(transition: &'a Transition, forest: &Forest, roots: Option<&[f64]>) -> Result<Self> {
        let (s, paths) = (transition.symbols(), Paths::new(forest)?);
        let laws = laws(transition, roots, paths.height())?;
        let kernels = Kernels::from_env()?;
        let identity: Vec<f64> = (0..s * s).map(|i| f64::from(u8::from(i / s == i % s))).collect();
        let powers = Powers::new(kernels, transition.pi(), &identity, s, paths.height())?;
        Ok(Marginals { transition, paths, kernels, laws, powers })
    }

    /// Depths and ancestors.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// m_i (S).
    pub fn law(&self, i: usize) -> &[f64] {
        let (s, d) = (self.transition.symbols(), self.paths.depth(i));
        &self.laws[d * s..(d + 1) * s]
    }

    /// P(s_i = row, s_j = column) into `out` (S, S).
    ///
    /// # Errors
    /// `out` of another length.
    pub fn pair(&self, i: usize, j: usize, out: &mut [f64]) -> Result<()> {
        let s = self.transition.symbols();
        check_len(out, s * s)?;
        let Some((c, a, b)) = self.paths.fork(i, j) else {
            for (row, x) in out.chunks_exact_mut(s).zip(self.law(i)) {
                row.iter_mut().zip(self.law(j)).for_each(|(o, y)| *o = x * y);
            }
            return Ok(());
        };
        self.contract(self.law(c), self.power(b), self.power(a), out)
    }

    /// P(s_i = x, s_j = y, s_k = z) into `out` (S, S, S).
    ///
    /// # Errors
    /// `out` of another length.
    pub fn triple(&self, [i, j, k]: [usize; 3], out: &mut [f64]) -> Result<()> {
        let s = self.transition.symbols();
        check_len(out, s * s * s)?;
        // The pair with the deepest common ancestor c; the third meets it at or above c.
        let deep = |x, y| self.paths.lca(x, y).map(|c| self.paths.depth(c));
        let nodes = [i, j, k];
        let [p, q, r] = [[0, 1, 2], [0, 2, 1], [1, 2, 0]]
            .into_iter()
            .max_by_key(|[p, q, _]| deep(nodes[*p], nodes[*q]))
            .unwrap_or([0, 1, 2]);
        let Some((c, a, b)) = self.paths.fork(nodes[p], nodes[q]) else {
            for (n, o) in out.iter_mut().enumerate() {
                *o = self.law(i)[n / (s * s)] * self.law(j)[n / s % s] * self.law(k)[n % s];
            }
            return Ok(());
        };
        let (mut joint, mut slice, mut column) = (vec![0.0; s * s], vec![0.0; s * s], vec![0.0; s]);
        self.pair(c, nodes[r], &mut joint)?;
        let step = [s * s, s, 1];
        for z in 0..s {
            column.iter_mut().enumerate().for_each(|(v, x)| *x = joint[v * s + z]);
            self.contract(&column, self.power(b), self.power(a), &mut slice)?;
            for x in 0..s {
                for y in 0..s {
                    out[x * step[p] + y * step[q] + z * step[r]] = slice[x * s + y];
                }
            }
        }
        Ok(())
    }

    fn power(&self, k: usize) -> &[f64] {
        // Powers of a stochastic matrix do not vanish.
        self.powers.get(k).unwrap_or_default()
    }

    /// out(x, y) = Σ_u w(u) f(u, x) g(u, y).
    fn contract(&self, w: &[f64], f: &[f64], g: &[f64], out: &mut [f64]) -> Result<()> {
        let s = self.transition.symbols();
        let mut weighted = g.to_vec();
        for (row, w) in weighted.chunks_exact_mut(s).zip(w) {
            row.iter_mut().for_each(|x| *x *= w);
        }
        let mut scratch = Scratch::new(self.kernels.gemm_scratch(s, s, s));
        let (f, g) = (Mat::new(f, s, s)?.t(), Mat::new(&weighted, s, s)?);
        Ok(self.kernels.gemm(Write::Set, 1.0, f, g, MatMut::new(out, s, s)?, &mut scratch)?)
    }
}

fn check_len(out: &[f64], expected: usize) -> Result<()> {
    let found = out.len();
    let wrong = || Error::invalid("out", format!("{found} elements"), expected.to_string());
    (found == expected).then_some(()).ok_or_else(wrong)
}

/// The population limit of the leading gradient and what it is judged by.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// g (T, T), zero above the diagonal.
    pub g: Vec<f64>,
    /// χ² mutual information of the edge above each context position (T − 1), 0 at roots.
    pub chi2: Vec<f64>,
    /// ρ = ‖B‖_op.
    pub rho: f64,
}

impl Limit {
    fn zeros(t: usize) -> Self {
        Limit { g: vec![0.0; t * t], chi2: vec![0.0; t - 1], rho: 0.0 }
    }
}

/// g, χ² and ρ for one π; `roots` (S) is the law of the roots, `None` for μ. O(T² + height S³ +
/// forks S²), the forks being the distinct pairs (a, b) of path lengths. Same bits for any thread
/// count.
///
/// # Errors
/// A root law that is none; sizes out of range.
pub fn limit(transition: &Transition, forest: &Forest, roots: Option<&[f64]>) -> Result<Limit> {
    limit_on(transition, forest, &Paths::new(forest)?, roots)
}

/// [`limit`] averaged over atoms (weight, π, roots), in order.
///
/// # Errors
/// As [`limit`].
pub fn limit_averaged<'a>(
    atoms: impl IntoIterator<Item = (f64, &'a Transition, Option<&'a [f64]>)>,
    forest: &Forest,
) -> Result<Limit> {
    let paths = Paths::new(forest)?;
    let t = forest.seq_len();
    let mut sums = vec![Sum::default(); t * t + t];
    for (w, transition, roots) in atoms {
        let one = limit_on(transition, forest, &paths, roots)?;
        let parts = one.g.iter().chain(&one.chi2).chain(std::iter::once(&one.rho));
        sums.iter_mut().zip(parts).for_each(|(s, x)| s.add(w * x));
    }
    let mut out = Limit::zeros(t);
    let parts = out.g.iter_mut().chain(&mut out.chi2).chain(std::iter::once(&mut out.rho));
    parts.zip(&sums).for_each(|(x, s)| *x = s.value());
    Ok(out)
}

fn limit_on(transition: &Transition, forest: &Forest, paths: &Paths, roots: Option<&[f64]>) -> Result<Limit> {
    let (s, t) = (transition.symbols(), forest.seq_len());
    let (mu, pi) = (transition.mu(), transition.pi());
    let laws = laws(transition, roots, paths.height())?;
    let law = |i: usize| &laws[paths.depth(i) * s..(paths.depth(i) + 1) * s];
    let projection: Vec<f64> =
        (0..s * s).map(|n| f64::from(u8::from(n / s == n % s)) - (mu[n / s] * mu[n % s]).sqrt()).collect();
    let powers = Powers::new(Kernels::from_env()?, transition.b(), &projection, s, paths.height() + 1)?;

    // Each distinct pair (a, b) once.
    let mut number = HashMap::new();
    let mut forks = Vec::new();
    for i in 0..t - 1 {
        for j in 0..=i {
            if let Some((_, a, b)) = paths.fork(i, j) {
                number.entry((a, b)).or_insert_with(|| {
                    forks.push((a, b));
                    forks.len() - 1
                });
            }
        }
    }
    let mut table = vec![0.0; forks.len() * s];
    table.par_chunks_exact_mut(s).zip(&forks).for_each(|(h, (a, b))| {
        if let (Some(x), Some(y)) = (powers.get(a + 1), powers.get(*b)) {
            for (h, (x, y)) in h.iter_mut().zip(x.chunks_exact(s).zip(y.chunks_exact(s))) {
                *h = x.iter().zip(y).map(|(x, y)| x * y).sum();
            }
        }
    });

    let mut out = Limit::zeros(t);
    out.rho = transition.rho();
    let excess: Vec<f64> = laws.iter().enumerate().map(|(n, m)| m - mu[n % s]).collect();
    let excess_of = |d: usize| &excess[d * s..(d + 1) * s];
    // d_j π of every depth.
    let mut moved = vec![0.0; excess.len()];
    for (next, d) in moved.chunks_exact_mut(s).zip(excess.chunks_exact(s)) {
        for (x, row) in d.iter().zip(pi.chunks_exact(s)) {
            next.iter_mut().zip(row).for_each(|(n, p)| *n += x * p);
        }
    }
    for i in 0..t - 1 {
        for j in 0..=i {
            out.g[i * t + j] = match paths.fork(i, j) {
                Some((c, a, b)) => {
                    let h = &table[number[&(a, b)] * s..][..s];
                    match roots {
                        None => h.iter().copied().collect::<Sum>().value(),
                        Some(_) => (0..s).map(|u| law(c)[u] / mu[u] * h[u]).collect::<Sum>().value(),
                    }
                }
                // Both are zero for roots that follow μ.
                None => {
                    let (x, y) = (&moved[paths.depth(j) * s..], excess_of(paths.depth(i)));
                    (0..s).map(|u| x[u] * y[u] / mu[u]).sum()
                }
            };
        }
        if let Some(p) = forest.parent(i) {
            let (from, to) = (law(p), law(i));
            // Σ_{s'} (π(s'|s) − m(s'))²/m(s'), nothing where the symbol cannot occur.
            let row = |x: usize| -> f64 {
                let d = |y: usize| pi[x * s + y] - to[y];
                from[x] * (0..s).filter(|y| to[*y] > 0.0).map(|y| d(y) * d(y) / to[y]).sum::<f64>()
            };
            out.chi2[i] = (0..s).map(row).collect::<Sum>().value();
        }
    }
    let last = (t - 1) * t;
    let stay = |x: usize| pi[x * (s + 1)] / mu[x];
    for j in 0..t - 1 {
        out.g[last + j] = (0..s).map(|x| law(j)[x] * stay(x)).collect::<Sum>().value() - 1.0;
    }
    out.g[last + t - 1] = (0..s).map(stay).collect::<Sum>().value() - s as f64;
    Ok(out)
}
