//! Loss and gradient for one law of words.

use super::Found;
use super::problem::{Method, Problem, TreeProblem};
use crate::batch::{Batch, Targets};
use crate::exact::symmetric::{canonical_words, is_symmetric};
use crate::exact::{Orbits, Prior, Progress, Tree, TreeLaw, brute, law};
use crate::model::Model;
use crate::report::arrays::Array;
use crate::source::{Population, Source};
use crate::train::Evaluation;
use crate::{Error, Result};
use indicatif::ProgressBar;
use popgrad_kernels::Elem;
use std::io::IsTerminal;

/// A model at given parameters, and how to sum over sequences.
pub(super) struct Evaluator<'a, E> {
    pub(super) model: &'a dyn Model<E>,
    pub(super) params: &'a [E],
    pub(super) active: &'a [bool],
    pub(super) problem: &'a Problem,
    /// Evaluate even if it takes longer than an hour.
    pub(super) force: bool,
}

/// Named arrays, one row for each word.
pub(super) type Words = Vec<(&'static str, Array)>;

/// Words that the naive enumeration takes without `--force`: some seconds.
const MOST_BRUTE_WORDS: f64 = 4e6;

impl<E: Elem> Evaluator<'_, E> {
    /// Loss and gradient for one prior, by the chosen method or the cheapest one.
    pub(super) fn over(&self, x: &TreeProblem, prior: &Prior) -> Result<Found> {
        let Some(eps) = self.problem.eps else {
            let law = TreeLaw::new(x.forest.clone(), prior.clone())?;
            return self.of_batches(&Population::new(&law)?);
        };
        let (s, t) = (x.symbols, x.forest.seq_len());
        let wide: Vec<f64> = self.params.iter().map(|p| p.to_f64()).collect();
        let (a1, a2) = wide.split_at(t * t);
        let minus = |a1: &[f64], a2: &[f64]| a1.iter().chain(a2).map(|g| -g).collect::<Vec<f64>>();
        let form = is_symmetric(a2, s);
        let few = canonical_words(s, t) < (s as f64).powi(t as i32 - 1);
        let method = match self.problem.method {
            Method::Auto if form && few && prior.is_relabelling_invariant() => Method::Orbit,
            Method::Auto => Method::Tree,
            named => named,
        };
        let bar = Bar::new();
        let watch = |p: Progress| bar.show(p);
        let (loss, weight, grad, words) = match method {
            Method::Brute => {
                let words = (s as f64).powi(t as i32);
                if words > MOST_BRUTE_WORDS && !self.force {
                    let found = format!("brute with {words:.1e} words");
                    return Err(Error::invalid("method", found, "tree, or at most 4e6 words, or --force"));
                }
                let g = brute::population(&x.forest, prior, a1, a2, eps)?;
                (g.loss, g.weight, minus(&g.a1, &g.a2), words)
            }
            Method::Orbit => {
                if !form {
                    let allowed = "b I + c for method=orbit, or method=tree";
                    return Err(Error::invalid("A2", "not b I + c", allowed));
                }
                let mut orbits = Orbits::<E>::new(&x.forest, prior, eps, self.force)?;
                let g = orbits.gradients_with(a1, a2[0] - a2[1], Some(&watch))?.clone();
                let a2: Vec<f64> = g.a2(s).collect();
                (g.loss, g.weight, minus(&g.a1, &a2), orbits.words() as f64)
            }
            Method::Tree | Method::Auto => {
                let mut tree = Tree::<E>::new(&x.forest, prior, eps, self.force)?;
                let g = tree.gradients_with(a1, a2, Some(&watch))?.clone();
                (g.loss, g.weight, minus(&g.a1, &g.a2), tree.words() as f64)
            }
        };
        bar.clear();
        let method = method.name().to_string();
        Ok(Found { loss, weight, grad, method, words, standard_error: None })
    }

    fn evaluation(&self, source: &Population, keep: bool) -> Evaluation<'_, E> {
        Evaluation {
            model: self.model,
            params: self.params,
            active: self.active,
            kind: Targets::Law,
            seqs: source.words(),
            keep,
        }
    }

    /// Loss and gradient of any model by weighted batches of all words.
    pub(super) fn of_batches(&self, source: &Population) -> Result<Found> {
        let found = self.evaluation(source, false).run(&fill(source))?;
        Ok(Found {
            loss: found.loss,
            weight: source.weight(),
            grad: found.grad,
            method: "weighted batches of all words".to_string(),
            words: source.words() as f64,
            standard_error: None,
        })
    }

    /// Every word with its probability and the model's prediction.
    pub(super) fn predictions(&self, source: &Population) -> Result<Words> {
        let (s, t, n) = (source.vocab(), source.seq_len(), source.words());
        let found = self.evaluation(source, true).run(&fill(source))?;
        let mut tokens = vec![0u32; n * t];
        for (i, row) in tokens.chunks_exact_mut(t).enumerate() {
            law::spell(i as u64, s, row);
        }
        let words: Vec<i64> = tokens.into_iter().map(i64::from).collect();
        Ok(vec![
            ("words", Array::new(&[n, t], words)?),
            ("probabilities", Array::vector(source.probabilities().to_vec())),
            ("predictions", Array::new(&[n, s], found.predictions)?),
        ])
    }
}

/// Fills pieces with the words of `source`.
fn fill(source: &Population) -> impl Fn(usize, &mut Batch) + Sync + '_ {
    |first, piece| source.fill(first as u64, piece.seqs(), &mut source.work(), piece)
}

/// A progress bar on a terminal, nothing elsewhere.
struct Bar(Option<ProgressBar>);

impl Bar {
    fn new() -> Self {
        Bar(std::io::stderr().is_terminal().then(|| ProgressBar::new(0)))
    }
    fn show(&self, p: Progress) {
        if let Some(bar) = &self.0 {
            bar.set_length(p.total);
            bar.set_position(p.done);
        }
    }
    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
