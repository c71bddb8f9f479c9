//! The exact population of a task without the interpreter: every sequence with its probability.

use crate::objective::Core;
use crate::params::Real;
use crate::pools;
use crate::task::{causal_of, triggers_of};
use crate::typed::{Call, Typed, unless_held};
use popgrad::batch::Batch as Rows;
use popgrad::config::Config;
use popgrad::exact::{Prior, Tree};
use popgrad::model::Spec;
use popgrad::paper::causal::CausalTask;
use popgrad::source::Source;
use popgrad::{Error, Result};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

/// How the sum over all sequences is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Auto,
    Tree,
    Words,
}

impl Method {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Method::Auto => "auto",
            Method::Tree => "tree",
            Method::Words => "words",
        }
    }
}

/// The population of a task.
pub(crate) struct Exact {
    config: Config,
    vocab: usize,
    pub(crate) eps: Option<f64>,
    pub(crate) method: Method,
    pub(crate) max_seconds: f64,
    words: OnceLock<Arc<dyn Source>>,
    prior: OnceLock<Prior>,
    /// The prefix tree that no call uses now, with its ε.
    tree: Mutex<Option<(f64, Tree<f64>)>>,
}

impl Exact {
    pub(crate) fn new(
        config: Config,
        vocab: usize,
        eps: Option<f64>,
        method: Method,
        max_seconds: f64,
    ) -> Self {
        let (words, prior, tree) = (OnceLock::new(), OnceLock::new(), Mutex::new(None));
        Exact { config, vocab, eps, method, max_seconds, words, prior, tree }
    }

    /// The enumerated population.
    pub(crate) fn source(&self) -> Result<Arc<dyn Source>> {
        if let Some(source) = self.words.get() {
            return Ok(Arc::clone(source));
        }
        let pool = pools::shared(pools::count(None)?)?;
        let (causal, triggers) = (causal_of(&self.config)?, triggers_of(&self.config, 0)?);
        let made = pool.install(|| -> Result<Arc<dyn Source>> {
            Ok(match (&causal, &triggers) {
                (Some(task), _) => Arc::new(task.population()?),
                (None, Some(tasks)) => Arc::new(tasks.population()?),
                (None, None) => return Err(Error::invalid("task", "unknown", "a task")),
            })
        })?;
        Ok(Arc::clone(self.words.get_or_init(|| made)))
    }

    /// True if the prefix tree serves this model on this task.
    fn has_tree(&self, model: &Core) -> Result<bool> {
        let tree = matches!(causal_of(&self.config)?, Some(CausalTask::Tree(_)));
        let simplified = matches!(model.spec, Spec::Simplified(_));
        match self.method {
            Method::Words => Ok(false),
            Method::Auto => Ok(tree && simplified),
            Method::Tree if tree && simplified => Ok(true),
            Method::Tree => {
                let allowed = "auto or words: the tree is for Simplified on CausalTree";
                Err(Error::invalid("method", "tree", allowed))
            }
        }
    }

    /// Refuses a model of other sizes than the task's.
    fn check(&self, model: &Core) -> Result<()> {
        let own = [("S", model.vocab, self.vocab), ("T", model.len, self.config.task.seq_len())];
        for (field, found, own) in own {
            if found != own {
                return Err(Error::invalid(field, found.to_string(), format!("{own}, the task's")));
            }
        }
        let own = match &model.spec {
            Spec::Simplified(spec) => spec.eps,
            _ => return Ok(()),
        };
        match self.eps.filter(|eps| *eps != own) {
            Some(eps) => Err(Error::invalid("eps", format!("{own} of the model"), format!("{eps}, as here"))),
            None => Ok(()),
        }
    }

    /// The loss of the whole population; writes its gradient to `grad`, if any.
    pub(crate) fn loss<E: Real>(
        &self,
        model: &Core,
        typed: &Typed<E>,
        params: &[E],
        threads: Option<usize>,
        grad: Option<&mut [E]>,
    ) -> Result<f64> {
        self.check(model)?;
        if self.has_tree(model)? {
            let double: Vec<f64> = params.iter().map(|x| x.to_f64()).collect();
            return self.by_tree(model, &double, threads, grad);
        }
        let source = self.source()?;
        self.check_time(model, params, source.as_ref())?;
        let call = Call {
            kind: source.targets(),
            seqs: source.population().unwrap_or(0),
            threads,
            keep: false,
            counts: true,
            fill: &|first, piece: &mut Rows| {
                source.fill(first as u64, piece.seqs(), &mut source.work(), piece);
            },
        };
        Ok(typed.evaluate(params, &call, grad)?.loss)
    }

    /// The loss by the prefix tree, in float64; the gradient in the model's layout.
    fn by_tree<E: Real>(
        &self,
        model: &Core,
        params: &[f64],
        threads: Option<usize>,
        grad: Option<&mut [E]>,
    ) -> Result<f64> {
        let Spec::Simplified(spec) = &model.spec else {
            return Err(Error::invalid("method", "tree", "words for this model"));
        };
        let (task, eps) = (causal_of(&self.config)?, spec.eps);
        let Some((task, forest)) = task.as_ref().and_then(|t| match t {
            CausalTask::Tree(own) => Some((t, own.forest())),
            CausalTask::Dag(_) => None,
        }) else {
            return Err(Error::invalid("method", "tree", "words for this task"));
        };
        let pool = pools::shared(pools::count(threads)?)?;
        let held = unless_held(&self.tree).and_then(|mut tree| tree.take());
        let held = held.filter(|(of, _)| *of == eps).map(|(_, tree)| tree);
        let (most, t) = (self.max_seconds, forest.seq_len());
        let (loss, tree) = pool.install(|| -> Result<_> {
            let mut tree = match held {
                Some(tree) => tree,
                None => {
                    let prior = match self.prior.get() {
                        Some(prior) => prior,
                        None => {
                            let made = task.prior()?;
                            self.prior.get_or_init(|| made)
                        }
                    };
                    let cost = Tree::<f64>::cost(forest, prior, prior.is_relabelling_invariant());
                    if cost.seconds > most {
                        let (words, seconds, bytes) = (cost.words, cost.seconds, cost.bytes);
                        return Err(Error::TooLong { words, seconds, bytes, limit: most });
                    }
                    Tree::new(forest, prior, eps, true)?
                }
            };
            let found = tree.gradients(&params[..t * t], &params[t * t..])?;
            if let Some(grad) = grad {
                let all = grad.iter_mut().zip(found.a1.iter().chain(&found.a2));
                all.for_each(|(to, g)| *to = E::from_f64(-g));
            }
            let loss = found.loss;
            Ok((loss, tree))
        })?;
        if let Some(mut held) = unless_held(&self.tree) {
            *held = Some((eps, tree));
        }
        Ok(loss)
    }

    /// Refuses a sum over all words that takes too long, by the time of the first ones in float64.
    fn check_time<E: Real>(&self, model: &Core, params: &[E], source: &dyn Source) -> Result<()> {
        let words = source.population().unwrap_or(0);
        if words <= 1 << 12 {
            return Ok(());
        }
        let few = words.min(256);
        let call = Call {
            kind: source.targets(),
            seqs: few,
            threads: Some(1),
            keep: false,
            counts: true,
            fill: &|first, piece: &mut Rows| {
                source.fill(first as u64, piece.seqs(), &mut source.work(), piece);
            },
        };
        let start = Instant::now();
        let params: Vec<f64> = params.iter().map(|x| x.to_f64()).collect();
        let mut grad = vec![0.0; params.len()];
        model.double.evaluate(&params, &call, Some(&mut grad))?;
        let each = start.elapsed().as_secs_f64() / few.max(1) as f64;
        let seconds = each * words as f64 / pools::count(None)? as f64;
        if seconds > self.max_seconds {
            let (words, bytes, limit) = (words as f64, 0.0, self.max_seconds);
            return Err(Error::TooLong { words, seconds, bytes, limit });
        }
        Ok(())
    }
}
