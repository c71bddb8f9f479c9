//! The exact population of a configuration: its prior, and the objective of training.

use crate::config::{Config, Source};
use crate::exact::symmetric::canonical_words;
use crate::exact::{MAX_SYMBOLS, Orbits, Prior, RootLaw, Tree, TreeLaw, WordLaw, law, quadrature};
use crate::model::{Layout, Simplified, SimplifiedSpec};
use crate::num::Sum;
use crate::run::Progress;
use crate::source::Population;
use crate::task::{CausalTree, Roots, Task};
use crate::train::Objective;
use crate::{Error, Result};
use std::ops::Range;

/// Words up to which the Bayes loss is enumerated: a second or so.
fn most_bayes_words(task: &CausalTree) -> u64 {
    // Without a closed form every word is a sum over the nodes of a quadrature.
    if has_closed_form(task) { 1 << 22 } else { 1 << 14 }
}

/// True where the rows are integrated out in closed form.
fn has_closed_form(task: &CausalTree) -> bool {
    task.roots() == Roots::Uniform && task.floor().is_none()
}

/// Checks that the population can be evaluated, before anything is written.
///
/// # Errors
/// Stationary roots beyond S = 2, a population that takes too long.
pub(super) fn check(config: &Config, task: &CausalTree) -> Result<()> {
    let (forest, symbols) = (task.forest(), task.vocab());
    if symbols > MAX_SYMBOLS {
        let allowed = format!("at most {MAX_SYMBOLS} with source={}", config.plan.source.name());
        return Err(Error::invalid("S", symbols.to_string(), allowed));
    }
    check_prior(task)?;
    let uniform = Prior::dirichlet(symbols, task.alpha(), RootLaw::Uniform)?;
    // Algorithm 1 keeps A2 = bI, so that the tree needs one query.
    let cost = if config.plan.source == Source::Orbit {
        Orbits::<f64>::cost(forest, &uniform)
    } else {
        Tree::<f64>::cost(forest, &uniform, true)
    };
    // Every evaluation takes as long as a step.
    let passes = config.plan.steps + config.plan.steps / config.plan.eval_every + 2;
    let seconds = cost.seconds * passes as f64;
    if seconds > MOST_SECONDS {
        let found = format!(
            "{:.2e} words, about {:.1e} hours for {} steps",
            cost.words,
            seconds / 3600.0,
            config.plan.steps
        );
        let fewer = canonical_words(symbols, forest.seq_len()) / cost.words.max(1.0);
        let hint = if config.plan.source == Source::Exact && fewer < 0.1 { ", or source=orbit" } else { "" };
        return Err(Error::invalid("S, T, steps", found, format!("a day at most{hint}")));
    }
    Ok(())
}

/// Refuses a prior that can only be sampled.
///
/// # Errors
/// Stationary roots and floored priors beyond S = 2.
pub(super) fn check_prior(task: &CausalTree) -> Result<()> {
    let symbols = task.vocab();
    if task.floor().is_some() && symbols > 2 {
        let allowed =
            "dirichlet with source=exact or source=orbit, or S=2: no closed form and no quadrature else";
        return Err(Error::invalid("prior", format!("floored with S={symbols}"), allowed));
    }
    if task.roots() == Roots::Stationary && symbols > 2 {
        let allowed =
            "uniform with source=exact or source=orbit, or S=2: no closed form and no quadrature else";
        return Err(Error::invalid("roots", format!("stationary with S={symbols}"), allowed));
    }
    Ok(())
}

/// Words of the population of sequences of `len` tokens over `vocab` symbols.
///
/// # Errors
/// More than an enumerating source holds.
pub(super) fn words(vocab: usize, len: usize) -> Result<usize> {
    let fits =
        |n: &u64| n.checked_mul(vocab as u64 + 1).is_some_and(|entries| entries <= Population::MAX_ENTRIES);
    match law::word_count(vocab, len).filter(fits) {
        Some(count) => Ok(count as usize),
        None => {
            let allowed = format!("S^T (S+1) <= {} for source=exact", Population::MAX_ENTRIES);
            Err(Error::invalid("S, T", format!("{vocab}^{len} words"), allowed))
        }
    }
}

/// The population of the task as a source of weighted batches.
///
/// # Errors
/// As [`check_prior`]; more words than it holds.
pub(super) fn source(task: &CausalTree) -> Result<Population> {
    Population::new(&TreeLaw::new(task.forest().clone(), prior(task)?)?)
}

/// A day.
const MOST_SECONDS: f64 = 86_400.0;

/// The prior of the task. Where it has no closed form: as many nodes as the Bayes loss needs where
/// its words can be enumerated, or else the losses at the start of Algorithm 1 and at the induction
/// head.
///
/// # Errors
/// As [`check`].
pub(super) fn prior(task: &CausalTree) -> Result<Prior> {
    check_prior(task)?;
    match has_closed_form(task) {
        true => Prior::of_task(task, 0),
        false => {
            let forest = task.forest();
            let few = few_words(task);
            let found = quadrature::until_converged(task.alpha(), |p| {
                let prior = Prior::Finite(p.of_task(task.floor(), task.roots())?);
                if few {
                    return Ok(bayes_of(&TreeLaw::new(forest.clone(), prior)?));
                }
                let mut tree = Tree::<f64>::new(forest, &prior, 0.01, false)?;
                let t = forest.seq_len();
                let spec = SimplifiedSpec { eps: 0.01, beta0: 0.1 };
                let model = Simplified::<f64>::new(2, t, &spec)?;
                let head = model.construction(forest.parents(), 30.0, 30.0)?;
                let start = tree.gradients(&vec![0.0; t * t], &[0.1, 0.0, 0.0, 0.1])?.loss;
                Ok(start + tree.gradients(&head[..t * t], &head[t * t..])?.loss)
            })?;
            Prior::of_task(task, found.nodes)
        }
    }
}

fn few_words(task: &CausalTree) -> bool {
    u32::try_from(task.seq_len())
        .ok()
        .and_then(|t| (task.vocab() as u64).checked_pow(t))
        .is_some_and(|n| n <= most_bayes_words(task))
}

/// −Σ W ln(W / Σ_{s'} W): the loss of the exact posterior.
fn bayes_of(law: &TreeLaw) -> f64 {
    let (s, t) = (law.vocab(), law.seq_len());
    let words = (s as u64).pow(t as u32);
    let (mut loss, mut chunk) = (Sum::new(), vec![0.0; s * words.min(4096) as usize]);
    let mut first = 0;
    while first < words {
        let n = (words - first).min(4096) as usize;
        law.weights(first, &mut chunk[..n * s]);
        for row in chunk[..n * s].chunks_exact(s) {
            let total: f64 = row.iter().sum();
            row.iter().filter(|w| **w > 0.0).for_each(|w| loss.add(-w * (w / total).ln()));
        }
        first += n as u64;
    }
    loss.value()
}

/// Loss of the exact posterior over the whole population; `None` where it is out of reach.
///
/// # Errors
/// As [`prior`].
pub(super) fn bayes_loss(task: &CausalTree) -> Result<Option<f64>> {
    if !few_words(task) || !has_closed_form(task) && task.vocab() > 2 {
        return Ok(None);
    }
    Ok(Some(bayes_of(&TreeLaw::new(task.forest().clone(), prior(task)?)?)))
}

/// The objective of Algorithm 1 with source=exact and source=orbit. `layout` has blocks A1 and A2.
///
/// # Errors
/// As [`check`].
pub(super) fn objective(
    source: Source,
    eps: f64,
    task: &CausalTree,
    layout: &Layout,
    progress: &mut dyn Progress,
) -> Result<Box<dyn Objective<f64>>> {
    let prior = prior(task)?;
    let range = |name: &str| layout.find(name).map(|b| b.range()).unwrap_or_default();
    let blocks = [range("A1"), range("A2")];
    if let Prior::Finite(p) = &prior {
        progress.note(&format!("quadrature over the prior with {} atoms", p.atoms()));
    }
    // Each step was found affordable by `check`.
    Ok(if source == Source::Orbit {
        let orbits = Orbits::new(task.forest(), &prior, eps, true)?;
        Box::new(OnOrbits { orbits, blocks, symbols: task.vocab() })
    } else {
        Box::new(OnTree { tree: Tree::new(task.forest(), &prior, eps, true)?, blocks })
    })
}

struct OnTree {
    tree: Tree,
    /// A1, A2.
    blocks: [Range<usize>; 2],
}

impl Objective<f64> for OnTree {
    fn len(&self) -> usize {
        self.blocks[1].end
    }

    fn loss_and_grad(&mut self, _step: u64, params: &[f64], grad: &mut [f64]) -> Result<f64> {
        let [a1, a2] = self.blocks.clone();
        let found = self.tree.gradients(&params[a1.clone()], &params[a2.clone()])?;
        grad[a1].iter_mut().zip(&found.a1).for_each(|(g, x)| *g = -x);
        grad[a2].iter_mut().zip(&found.a2).for_each(|(g, x)| *g = -x);
        Ok(found.loss)
    }

    fn test_loss(&mut self, params: &[f64]) -> Result<f64> {
        let [a1, a2] = self.blocks.clone();
        Ok(self.tree.gradients(&params[a1], &params[a2])?.loss)
    }
}

/// A2 stays bI + c11ᵀ: its gradient is (dL/db) (I − 11ᵀ/S)/(S − 1).
struct OnOrbits {
    orbits: Orbits,
    blocks: [Range<usize>; 2],
    symbols: usize,
}

impl Objective<f64> for OnOrbits {
    fn len(&self) -> usize {
        self.blocks[1].end
    }

    fn loss_and_grad(&mut self, _step: u64, params: &[f64], grad: &mut [f64]) -> Result<f64> {
        let [a1, a2] = self.blocks.clone();
        let found = self.orbits.gradients_at(&params[a1.clone()], &params[a2.clone()])?;
        grad[a1].iter_mut().zip(&found.a1).for_each(|(g, x)| *g = -x);
        grad[a2].iter_mut().zip(found.a2(self.symbols)).for_each(|(g, x)| *g = -x);
        Ok(found.loss)
    }

    fn test_loss(&mut self, params: &[f64]) -> Result<f64> {
        let [a1, a2] = self.blocks.clone();
        Ok(self.orbits.gradients_at(&params[a1], &params[a2])?.loss)
    }
}
