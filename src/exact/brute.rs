//! Reference for the exact engines: loss and gradients of the simplified model by enumeration of
//! all words, with one plain loop per equation. It is slow, and shares no arithmetic with the
//! engines that it checks.
//!
//! | symbol | name | shape | equation |
//! |---|---|---|---|
//! | A1, A2 | `a1`, `a2` | (T, T), (S, S) | parameters; A1 above the diagonal is not read |
//! | M | `mix` | (T, T) | softmax over j <= i of A1\[i, j\] |
//! | a | `a` | (T) | A2\[s_T, s_j\] |
//! | z, v | `z`, `v` | (T) | z_i = Σ_{j<=i} M_ij a_j; softmax of z |
//! | f | `f` | (S) | f(s') = Σ_i v_i 1\[s_i = s'\] |
//! | W | `weights` | (S) | E_π\[P(s | π) π(s' | s_T)\] |
//! | L | `loss` | | −Σ_s Σ_{s'} W ln(f + ε) |

use super::shards::{check_finite, check_weight};
use super::{Prior, RootLaw};
use crate::num::{Sum, check_eps};
use crate::task::Forest;
use crate::{Error, Result};

/// Most words that [`population`] and [`words`] enumerate.
pub const MAX_WORDS: u64 = 1 << 26;

/// A sequence with the weight of each target symbol.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// s (T), the query last.
    pub tokens: Vec<u32>,
    /// W(s, ·) (S); its sum is P(s), the sum over all words 1.
    pub weights: Vec<f64>,
}

/// Loss and gradients on the whole population.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    /// L.
    pub loss: f64,
    /// Σ W: 1 up to rounding.
    pub weight: f64,
    /// −∂L/∂A1 (T, T), zero above the diagonal.
    pub a1: Vec<f64>,
    /// −∂L/∂A2 (S, S).
    pub a2: Vec<f64>,
}

/// All S^T words in the order of their numbers in base S, first token most significant.
///
/// # Errors
/// More than [`MAX_WORDS`] words, or a prior with fields out of range.
pub fn words<'a>(forest: &'a Forest, prior: &'a Prior) -> Result<impl Iterator<Item = Word> + 'a> {
    prior.check()?;
    let (s, t) = (prior.symbols(), forest.seq_len());
    let count = u32::try_from(t).ok().and_then(|t| (s as u64).checked_pow(t)).filter(|n| *n <= MAX_WORDS);
    let Some(count) = count else {
        return Err(Error::invalid("S, T", format!("{s}^{t} words"), format!("at most {MAX_WORDS} words")));
    };
    Ok((0..count).map(move |code| {
        let mut tokens = vec![0; t];
        let mut c = code;
        for x in tokens.iter_mut().rev() {
            *x = (c % s as u64) as u32;
            c /= s as u64;
        }
        let weights = weights(forest, prior, &tokens);
        Word { tokens, weights }
    }))
}

/// W(s, ·) (S) of the word `tokens` (T).
///
/// # Panics
/// When a token is not below S or their number is not T.
pub fn weights(forest: &Forest, prior: &Prior, tokens: &[u32]) -> Vec<f64> {
    let (s, t) = (prior.symbols(), forest.seq_len());
    assert_eq!(tokens.len(), t, "not a word of this forest");
    let query = tokens[t - 1] as usize;
    let edges = || forest.parents().iter().enumerate().filter_map(|(i, p)| Some((i, (*p)?)));
    match prior {
        Prior::Dirichlet { alpha, roots, .. } => {
            let mut n = vec![vec![0; s]; s];
            let mut r = vec![0; s];
            edges().for_each(|(i, p)| n[tokens[p] as usize][tokens[i] as usize] += 1);
            forest.roots().for_each(|i| r[tokens[i] as usize] += 1);
            let total = |row: &[u32]| row.iter().sum::<u32>();
            // E Π_b p_b^{n_b} under Dirichlet(α): Π_b (α)_{n_b} / (Sα)_{n}, rising factorials.
            let rising = |x: f64, n: u32| (0..n).map(|k| x + k as f64).product::<f64>();
            let moment = |row: &[u32]| {
                row.iter().map(|b| rising(*alpha, *b)).product::<f64>() / rising(s as f64 * alpha, total(row))
            };
            let root_law = match roots {
                RootLaw::Uniform => (s as f64).powi(-(total(&r) as i32)),
                RootLaw::SharedDirichlet => moment(&r),
            };
            let word = root_law * n.iter().map(|row| moment(row)).product::<f64>() / s as f64;
            let row = &n[query];
            row.iter().map(|b| word * (alpha + *b as f64) / (s as f64 * alpha + total(row) as f64)).collect()
        }
        Prior::Finite(p) => {
            let mut out = vec![Sum::new(); s];
            for q in 0..p.atoms() {
                let (pi, roots) = (p.atom_pi(q), p.atom_roots(q));
                let mut word = p.weight()[q] / s as f64;
                edges().for_each(|(i, p)| word *= pi[tokens[p] as usize * s + tokens[i] as usize]);
                forest.roots().for_each(|i| word *= roots[tokens[i] as usize]);
                (0..s).for_each(|b| out[b].add(word * pi[query * s + b]));
            }
            out.iter().map(Sum::value).collect()
        }
    }
}

/// L, −∂L/∂A1 and −∂L/∂A2 of the simplified model at `a1` (T, T), `a2` (S, S) and ε = `eps`:
///
/// r(s') = W/(f + ε), r̄ = Σ f r, δ_i = v_i (r(s_i) − r̄); −∂L/∂A1\[i, j\] = Σ_s δ_i M_ij (a_j −
/// z_i), −∂L/∂A2\[k, l\] = Σ_s 1\[s_T = k\] Σ_i δ_i Σ_{j<=i} M_ij 1\[s_j = l\].
///
/// At ε = 0 a symbol that does not occur is left out of r̄; L is then +inf where its W is positive.
/// Where f + ε of one that occurs is below `FAINT`, the word is summed in logarithms: δ_i = W
/// f/(f + ε) e^(z_i − ln Σ e^z over its positions) − v_i r̄.
///
/// # Errors
/// As [`words`]; operands of another size, A2 or the lower triangle of A1 not finite; ε out of
/// range; probabilities that do not sum to 1; gradients that overflow.
pub fn population(forest: &Forest, prior: &Prior, a1: &[f64], a2: &[f64], eps: f64) -> Result<Gradients> {
    let (s, t) = (prior.symbols(), forest.seq_len());
    for (field, found, expected) in [("A1", a1.len(), t * t), ("A2", a2.len(), s * s)] {
        if found != expected {
            return Err(Error::invalid(field, format!("{found} entries"), format!("{expected}")));
        }
    }
    check_eps(eps)?;
    if let Some(x) = a2.iter().find(|x| !x.is_finite()) {
        return Err(Error::invalid("A2", format!("an entry {x}"), "finite"));
    }
    let mut mix = vec![vec![0.0; t]; t];
    for i in 0..t {
        if let Some(j) = (0..=i).find(|j| !a1[i * t + j].is_finite()) {
            return Err(Error::invalid("A1", format!("[{i}, {j}] = {}", a1[i * t + j]), "finite"));
        }
        softmax(&a1[i * t..i * t + i + 1], &mut mix[i][..i + 1]);
    }
    let (mut loss, mut weight) = (Sum::new(), Sum::new());
    let (mut d1, mut d2) = (vec![Sum::new(); t * t], vec![Sum::new(); s * s]);
    let mut v = vec![0.0; t];
    for Word { tokens, weights } in words(forest, prior)? {
        let query = tokens[t - 1] as usize;
        let a: Vec<f64> = tokens.iter().map(|c| a2[query * s + *c as usize]).collect();
        let z: Vec<f64> = (0..t).map(|i| (0..=i).map(|j| mix[i][j] * a[j]).sum()).collect();
        softmax(&z, &mut v);
        let mut f = vec![0.0; s];
        (0..t).for_each(|i| f[tokens[i] as usize] += v[i]);
        let faint = (0..s).any(|b| f[b] + eps < FAINT && tokens.contains(&(b as u32)));
        let logs = faint.then(|| in_logs(&z, &v, &tokens, &weights, eps));
        for (b, w) in weights.iter().enumerate() {
            weight.add(*w);
            if *w > 0.0 {
                loss.add(-w * logs.as_ref().map_or_else(|| (f[b] + eps).ln(), |(log, _)| log[b]));
            }
        }
        let r: Vec<f64> =
            weights.iter().zip(&f).map(|(w, f)| if *f > 0.0 { w / (f + eps) } else { 0.0 }).collect();
        let mean: f64 = r.iter().zip(&f).map(|(r, f)| r * f).sum();
        for i in 0..t {
            let direct = || v[i] * (r[tokens[i] as usize] - mean);
            let delta = logs.as_ref().map_or_else(direct, |(_, delta)| delta[i]);
            for j in 0..=i {
                d1[i * t + j].add(delta * mix[i][j] * (a[j] - z[i]));
                d2[query * s + tokens[j] as usize].add(delta * mix[i][j]);
            }
        }
    }
    let value = |x: &[Sum]| x.iter().map(Sum::value).collect();
    let out = Gradients { loss: loss.value(), weight: weight.value(), a1: value(&d1), a2: value(&d2) };
    check_weight::<f64>(out.weight)?;
    check_finite(eps, out.loss, out.a1.iter().chain(&out.a2))?;
    Ok(out)
}

/// Below this f + ε has lost digits: exponentials have become subnormal.
const FAINT: f64 = 1e-280;

/// ln(f + ε) (S) and δ (T) of one word from logarithms.
fn in_logs(z: &[f64], v: &[f64], tokens: &[u32], weights: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
    // max z and ln Σ e^(z − max) over the positions of one symbol, or of all.
    let sum = |of: Option<usize>| {
        let own =
            || z.iter().zip(tokens).filter(|(_, c)| of.is_none_or(|b| b == **c as usize)).map(|(z, _)| *z);
        let max = own().fold(f64::NEG_INFINITY, f64::max);
        (max, own().map(|z| (z - max).exp()).sum::<f64>().ln())
    };
    let (most, all) = sum(None);
    let own: Vec<(f64, f64)> = (0..weights.len()).map(|b| sum(Some(b))).collect();
    let occurs = |b: usize| own[b].0 > f64::NEG_INFINITY;
    let log_f = |b: usize| if occurs(b) { (own[b].0 - most) + (own[b].1 - all) } else { f64::NEG_INFINITY };
    let log = |b: usize| if eps == 0.0 { log_f(b) } else { (log_f(b).exp() + eps).ln() };
    // W f/(f + ε).
    let kept = |b: usize| match log_f(b).exp() {
        _ if !occurs(b) => 0.0,
        _ if eps == 0.0 => weights[b],
        f => weights[b] * f / (f + eps),
    };
    let mean: f64 = (0..weights.len()).map(kept).sum();
    let delta = |i: usize| {
        let b = tokens[i] as usize;
        kept(b) * ((z[i] - own[b].0) - own[b].1).exp() - v[i] * mean
    };
    ((0..weights.len()).map(log).collect(), (0..z.len()).map(delta).collect())
}

fn softmax(x: &[f64], out: &mut [f64]) {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    out.iter_mut().zip(x).for_each(|(o, x)| *o = (x - max).exp());
    let z: f64 = out.iter().sum();
    out.iter_mut().for_each(|o| *o /= z);
}
