//! Trained runs on transitions that their prior does not draw (Theorem 2).
//!
//! Per kind a few matrices π̃, fixed; sequences of the run's graph under each, roots by the run's
//! root law, the query uniform. What is measured is f against π̃(·|s_T): Theorem 2 says that
//! sup_{s'} |f(s') − π̃(s'|s_T)| is small for every π̃ that is not degenerate, of the order of a
//! power of T_eff.

use super::tree;
use crate::batch::{Batch, Parts, Targets};
use crate::exact::effective::effective_length;
use crate::exact::transition::Transition;
use crate::model::Report;
use crate::num::Sum;
use crate::paper::cross_entropy;
use crate::rng::{Key, Purpose};
use crate::run::Trained;
use crate::task::bayes::bayes_counts;
use crate::task::{CausalTree, Forest, Roots, Task};
use crate::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;

/// Every kind of transition matrix, with what it is.
pub const KINDS: [(&str, &str); 8] = [
    ("prior", "Dirichlet rows with the run's own alpha"),
    ("dirichlet1", "Dirichlet rows, alpha = 1"),
    ("sparse", "Dirichlet rows, a tenth of the run's alpha (at least 0.001)"),
    ("deterministic", "a random map, followed with probability 0.95, else uniform"),
    ("uniform", "nine parts uniform, one part Dirichlet rows with alpha = 1"),
    ("cyclic", "to the next symbol with probability 0.9, else uniform"),
    ("lazy", "stays with probability 0.5, else uniform: the diagonal outweighs the parent"),
    ("rank-one", "all rows the same Dirichlet law with alpha = 1: the context's edges tell nothing"),
];

/// Share of the uniform law that is mixed into drawn rows, so that μ > 0 and T_eff exist: it moves
/// no probability further.
const GAMMA: f64 = 1e-6;

/// Sizes of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Matrices of each kind that is random; the others have one.
    pub matrices: usize,
    /// Sequences per matrix.
    pub sequences: usize,
    /// Seed of all draws.
    pub seed: u64,
}

/// One kind on one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Name in [`KINDS`].
    pub kind: &'static str,
    /// Matrices.
    pub matrices: usize,
    /// Mean of ρ = ‖B‖_op over the matrices.
    pub rho: f64,
    /// Mean of T_eff over the matrices.
    pub t_eff: f64,
    /// The model's own loss: E −Σ π̃ ln f, but of `simplified` E −Σ π̃ ln(f + ε).
    pub loss: f64,
    /// Its standard error: of the mean over matrices, whose sequences share what is special about
    /// them; with one matrix, over its sequences, the matrix given.
    pub loss_se: f64,
    /// E −Σ π̃ ln p of the counts predictor p, which takes the run's alpha for granted.
    pub bayes_counts: f64,
    /// E −Σ π̃ ln π̃: no law has a lower E −Σ π̃ ln f; a loss with ε can be lower.
    pub entropy: f64,
    /// E |f(s') − π̃(s'|s_T)|, mean over s'.
    pub mean_error: f64,
    /// E sup_{s'} |f(s') − π̃(s'|s_T)|.
    pub sup_error: f64,
    /// Its standard error, as that of the loss.
    pub sup_error_se: f64,
    /// The same of the counts predictor.
    pub counts_sup_error: f64,
    /// Largest E\[sup | s_T\] over queries and matrices.
    pub worst_query: f64,
}

/// A trained run with its task.
#[derive(Debug)]
pub struct Subject {
    /// Its configuration and weights.
    pub run: Trained,
    /// Its task: graph, root law, the counts predictor's alpha.
    pub task: CausalTree,
}

impl Subject {
    /// # Errors
    /// A run of another task; a model of another S or T than the task's.
    pub fn new(run: Trained) -> Result<Self> {
        let task = tree(&run.config).map_err(|_| {
            let found = format!("a run of task {}", run.config.task.name());
            Error::invalid("run", found, "a run on a graph with one parent each")
        })?;
        let model = run.trace.model();
        if model.seq_len() != task.seq_len()
            || model.vocab() != task.vocab()
            || model.layout().len() != run.params.len()
        {
            let allowed = "one of the task's S and T, with its parameters";
            return Err(Error::invalid("model", model.name(), allowed));
        }
        Ok(Subject { run, task })
    }
}

impl Outcome {
    /// Refuses numbers that are not finite. The loss may be +∞ where a model's ε is 0.
    fn check(&self) -> Result<()> {
        let numbers = [
            ("rho", self.rho),
            ("t_eff", self.t_eff),
            ("loss", if self.loss == f64::INFINITY { 0.0 } else { self.loss }),
            ("bayes_counts", self.bayes_counts),
            ("entropy", self.entropy),
            ("mean_error", self.mean_error),
            ("sup_error", self.sup_error),
            ("worst_query", self.worst_query),
        ];
        match numbers.iter().find(|(_, x)| !x.is_finite()) {
            None => Ok(()),
            Some((name, x)) => {
                let found = format!("{name} is {x} on transitions of kind {}", self.kind);
                Err(Error::invalid("params", found, "parameters at which everything stays finite"))
            }
        }
    }
}

/// The kinds called `names`, all of them where there are none.
///
/// # Errors
/// An unknown name.
pub fn kinds(names: &[String]) -> Result<Vec<&'static str>> {
    if names.is_empty() {
        return Ok(KINDS.iter().map(|k| k.0).collect());
    }
    let find = |name: &String| {
        let known = KINDS.iter().map(|k| k.0);
        known.clone().find(|k| k == name).ok_or_else(|| Error::unknown("kind", name, known))
    };
    names.iter().map(find).collect()
}

/// Kinds of one matrix.
const FIXED: [&str; 2] = ["cyclic", "lazy"];

/// How many matrices of `kind` there are under `sizes`.
pub fn count(kind: &str, sizes: &Sizes) -> usize {
    if FIXED.contains(&kind) { 1 } else { sizes.matrices }
}

/// Matrix number `m` of `kind` (S, S).
///
/// # Errors
/// An unknown kind, values out of range.
pub fn matrix(kind: &str, symbols: usize, alpha: f64, sizes: &Sizes, m: usize) -> Result<Vec<f64>> {
    let s = symbols;
    let at = KINDS.iter().position(|k| k.0 == kind);
    let at = at.ok_or_else(|| Error::unknown("kind", kind, KINDS.iter().map(|k| k.0)))? as u64;
    // Numbers of other purposes than the sequences'.
    let key = Key::new(sizes.seed, Purpose::Prior);
    let number = (at << 32) + m as u64;
    let dirichlet = |alpha: f64| -> Result<Vec<f64>> {
        let task = CausalTree::new(Forest::chain(2)?, s, alpha, Roots::Uniform)?;
        let (mut work, mut target) = (task.work(), vec![0.0; s]);
        task.sample(&key, number, &mut work, &mut [0; 2], &mut target);
        Ok(work.pi().to_vec())
    };
    let mixed =
        |share: f64, pi: Vec<f64>| pi.into_iter().map(|p| (1.0 - share) * p + share / s as f64).collect();
    let moves = |to: &dyn Fn(usize) -> usize, stay: f64| -> Vec<f64> {
        let pi = (0..s * s).map(|e| f64::from(u8::from(to(e / s) == e % s))).collect();
        mixed(1.0 - stay, pi)
    };
    Ok(match kind {
        "prior" => mixed(GAMMA, dirichlet(alpha)?),
        "dirichlet1" => mixed(GAMMA, dirichlet(1.0)?),
        "sparse" => mixed(GAMMA, dirichlet((0.1 * alpha).max(1e-3))?),
        "deterministic" => moves(&|a| key.below(s as u64, number, a as u32, 0) as usize, 0.95),
        "uniform" => mixed(0.9, dirichlet(1.0)?),
        "cyclic" => moves(&|a| (a + 1) % s, 0.9),
        "lazy" => moves(&|a| a, 0.5),
        _ => mixed(GAMMA, dirichlet(1.0)?)[..s].iter().copied().cycle().take(s * s).collect(),
    })
}

/// Sequence number `n` of the forest under `pi`: roots by `root` (S), the query uniform. Two
/// positions to a variate.
pub fn sample_given(
    forest: &Forest,
    symbols: usize,
    pi: &[f64],
    root: &[f64],
    key: &Key,
    n: u64,
    tokens: &mut [u32],
) {
    let (s, t) = (symbols, forest.seq_len());
    let mut pair = [0.0; 2];
    for i in 0..t {
        if i % 2 == 0 {
            pair = key.uniforms(n, (i / 2) as u32, 0);
        }
        let u = pair[i % 2];
        tokens[i] = if i + 1 == t {
            key.below(s as u64, n, t as u32, 0) as u32
        } else {
            invert(forest.parent(i).map_or(root, |p| &pi[tokens[p] as usize * s..][..s]), u)
        };
    }
}

/// The symbol of a uniform `u`; rounding cannot pick one of probability 0.
fn invert(p: &[f64], u: f64) -> u32 {
    let (mut total, mut last) = (0.0, 0);
    for (c, x) in p.iter().enumerate().filter(|(_, x)| **x > 0.0) {
        last = c as u32;
        total += x;
        if total > u {
            break;
        }
    }
    last
}

/// Sequences that go through the model at a time.
const PIECE: usize = 512;

/// Sums over sequences of one matrix.
struct Sums {
    /// Loss, its square, counts' loss, entropy, mean error, sup, its square, counts' sup.
    of: [Sum; 8],
    /// Per query: sum of sup, count.
    query: Vec<[f64; 2]>,
    rho: f64,
    t_eff: f64,
}

/// Most sequences of a kind: matrices times sequences per matrix.
pub const MAX_SEQUENCES: usize = 1 << 30;

/// `subject` on every matrix of `kind`; a few matrices are held at a time, folded in their order.
///
/// # Errors
/// Sizes of 0 or beyond [`MAX_SEQUENCES`]; what model and kind report.
pub fn evaluate(subject: &Subject, kind: &'static str, sizes: &Sizes) -> Result<Outcome> {
    let total = sizes.matrices.checked_mul(sizes.sequences).filter(|n| *n <= MAX_SEQUENCES);
    if sizes.matrices == 0 || sizes.sequences < 2 || total.is_none() {
        let found = format!("{} matrices, {} sequences", sizes.matrices, sizes.sequences);
        let allowed = "at least 1 matrix and 2 sequences, matrices * sequences <= 2^30";
        return Err(Error::invalid("sizes", found, allowed));
    }
    let (s, alpha, number) = (subject.task.vocab(), subject.task.alpha(), count(kind, sizes));
    let mut of = [Sum::new(); 8];
    let (mut rho, mut t_eff, mut worst) = (Sum::new(), Sum::new(), 0.0f64);
    // Loss and sup error of each matrix: their means.
    let mut means = [Vec::with_capacity(number), Vec::with_capacity(number)];
    let all: Vec<usize> = (0..number).collect();
    for group in all.chunks(4 * rayon::current_num_threads()) {
        let one = |m: &usize| under(subject, &matrix(kind, s, alpha, sizes, *m)?, *m, sizes);
        let sums: Vec<Result<Sums>> = group.par_iter().map(one).collect();
        for one in sums {
            let one = one?;
            means[0].push(one.of[0].value() / sizes.sequences as f64);
            means[1].push(one.of[5].value() / sizes.sequences as f64);
            of.iter_mut().zip(one.of).for_each(|(a, b)| a.merge(b));
            rho.add(one.rho);
            t_eff.add(one.t_eff);
            for [sum, count] in one.query.into_iter().filter(|q| q[1] > 0.0) {
                worst = worst.max(sum / count);
            }
        }
    }
    let (q, n) = (number as f64, (number * sizes.sequences) as f64);
    let [loss, loss2, counts, entropy, mean, sup, sup2, counts_sup] = of.map(|x| x.value() / n);
    let se = |means: &[f64], mean: f64, square: f64| match means.len() {
        1 => ((square - mean * mean).max(0.0) / (n - 1.0)).sqrt(),
        _ => (means.iter().map(|m| (m - mean) * (m - mean)).sum::<f64>() / (q * (q - 1.0))).sqrt(),
    };
    let outcome = Outcome {
        kind,
        matrices: number,
        rho: rho.value() / q,
        t_eff: t_eff.value() / q,
        loss,
        loss_se: se(&means[0], loss, loss2),
        bayes_counts: counts,
        entropy,
        mean_error: mean,
        sup_error: sup,
        sup_error_se: se(&means[1], sup, sup2),
        counts_sup_error: counts_sup,
        worst_query: worst,
    };
    outcome.check()?;
    Ok(outcome)
}

fn under(subject: &Subject, pi: &[f64], m: usize, sizes: &Sizes) -> Result<Sums> {
    let Subject { run, task } = subject;
    let model = run.trace.model();
    let (s, t, forest) = (task.vocab(), task.seq_len(), task.forest());
    let transition = Transition::new(s, pi)?;
    let root = match task.roots() {
        Roots::Stationary => transition.mu().to_vec(),
        Roots::Uniform => vec![1.0 / s as f64; s],
    };
    let pi = transition.pi();
    let key = Key::new(sizes.seed, Purpose::Probe);
    let rho = transition.rho();
    let mut sums =
        Sums { of: [Sum::new(); 8], query: vec![[0.0; 2]; s], rho, t_eff: effective_length(forest, rho) };
    let mut batch = Batch::with_capacity(Targets::Law, PIECE.min(sizes.sequences), t, s)?;
    let mut ws = model.workspace(Targets::Law, batch.capacity())?;
    let mut counts = vec![0.0; s];
    for start in (0..sizes.sequences).step_by(PIECE) {
        batch.set_seqs(PIECE.min(sizes.sequences - start));
        let Parts { tokens, laws, weights, .. } = batch.parts_mut();
        weights.fill(1.0);
        for (k, (tokens, target)) in tokens.chunks_exact_mut(t).zip(laws.chunks_exact_mut(s)).enumerate() {
            sample_given(forest, s, pi, &root, &key, ((m as u64) << 40) + (start + k) as u64, tokens);
            target.copy_from_slice(&pi[tokens[t - 1] as usize * s..][..s]);
        }
        let mut report = Report::new(model, Targets::Law, batch.seqs(), false, true);
        model.report(&run.params, &batch, &mut ws, &mut report)?;
        for (k, f) in report.probs.chunks_exact(s).enumerate() {
            let (word, y) = (batch.sequence(k), batch.law(k));
            bayes_counts(task, word, &mut counts);
            let gap = |f: &[f64]| f.iter().zip(y).map(|(f, y)| (f - y).abs()).collect::<Vec<_>>();
            let largest = |gaps: &[f64]| gaps.iter().copied().fold(0.0, f64::max);
            let gaps = gap(f);
            let (loss, sup) = (report.losses[k], largest(&gaps));
            let mean = gaps.iter().sum::<f64>() / s as f64;
            let of = [
                loss,
                loss * loss,
                cross_entropy(y, &counts),
                cross_entropy(y, y),
                mean,
                sup,
                sup * sup,
                largest(&gap(&counts)),
            ];
            sums.of.iter_mut().zip(of).for_each(|(a, x)| a.add(x));
            let query = &mut sums.query[word[t - 1] as usize];
            query[0] += sup;
            query[1] += 1.0;
        }
    }
    Ok(sums)
}
