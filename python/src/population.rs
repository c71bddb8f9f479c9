//! The exact population of a task: loss and gradient over every sequence.

use crate::errors::{OrRaise, invalid};
use crate::model::Model;
use crate::pools;
use crate::task::{Task, kind_name};
use crate::typed::Call;
use numpy::PyArrayDyn;
use popgrad::Error;
use popgrad::batch::{Batch as Rows, Targets, divisor};
use popgrad::exact::{Prior, Tree};
use popgrad::model::Spec;
use popgrad::num::Sum;
use popgrad::paper::causal::CausalTask;
use popgrad::source::Source;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

/// How the sum over all sequences is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Auto,
    Tree,
    Words,
}

/// Population(task, eps=None, method="auto", max_seconds=60.0)
///
/// Every sequence of a task with its probability: exact loss and gradient, without sampling.
///
/// Args:
///     task: small enough to enumerate, or CausalTree with a Simplified model.
///     eps: checked against that of the Simplified model; by default the model's own is taken.
///     method: "tree" (prefix tree, Simplified on CausalTree), "words" (weighted batches of all
///         words, any model), or "auto".
///     max_seconds: a sum that is estimated to take longer is refused.
///
/// Example:
///     >>> population = popgrad.Population(popgrad.CausalTree("chain", S=2, T=6, roots="uniform"))
///     >>> loss, grad = population.value_and_grad(model, params)
#[pyclass(frozen, module = "popgrad")]
pub(crate) struct Population {
    task: Py<Task>,
    eps: Option<f64>,
    method: Method,
    max_seconds: f64,
    words: OnceLock<Arc<dyn Source>>,
    prior: OnceLock<Prior>,
    /// The prefix tree that no call uses now, with its ε.
    tree: Mutex<Option<(f64, Tree<f64>)>>,
}

impl Population {
    /// The enumerated population.
    fn source(&self, py: Python<'_>) -> PyResult<Arc<dyn Source>> {
        if let Some(source) = self.words.get() {
            return Ok(Arc::clone(source));
        }
        let task = self.task.get();
        let pool = pools::pool(py, pools::count(None)?)?;
        let (causal, triggers) = (task.causal()?, task.triggers(0)?);
        let made = py.detach(|| {
            pool.install(|| -> popgrad::Result<Arc<dyn Source>> {
                Ok(match (&causal, &triggers) {
                    (Some(task), _) => Arc::new(task.population()?),
                    (None, Some(tasks)) => Arc::new(tasks.population()?),
                    (None, None) => return Err(Error::invalid("task", "unknown", "a task")),
                })
            })
        });
        let made = made.or_raise()?;
        Ok(Arc::clone(self.words.get_or_init(|| made)))
    }

    /// True if the prefix tree serves this model on this task.
    fn has_tree(&self, model: &Model) -> PyResult<bool> {
        let tree = matches!(self.task.get().causal()?, Some(CausalTask::Tree(_)));
        let simplified = matches!(model.spec, Spec::Simplified(_));
        match self.method {
            Method::Words => Ok(false),
            Method::Auto => Ok(tree && simplified),
            Method::Tree if tree && simplified => Ok(true),
            Method::Tree => {
                Err(invalid("method", "tree", "auto or words: the tree is for Simplified on CausalTree"))
            }
        }
    }

    /// Refuses a model of other sizes than the task's.
    fn check(&self, model: &Model) -> PyResult<()> {
        let task = self.task.get();
        for (field, found, own) in [("S", model.vocab, task.s()), ("T", model.len, task.t())] {
            if found != own {
                return Err(invalid(field, &found.to_string(), &format!("{own}, the task's")));
            }
        }
        let own = match &model.spec {
            Spec::Simplified(spec) => spec.eps,
            _ => return Ok(()),
        };
        match self.eps.filter(|eps| *eps != own) {
            Some(eps) => Err(invalid("eps", &format!("{own} of the model"), &format!("{eps}, as here"))),
            None => Ok(()),
        }
    }

    /// Loss and gradient by the prefix tree, in the model's layout.
    fn by_tree(
        &self,
        py: Python<'_>,
        model: &Model,
        params: &[f64],
        threads: Option<usize>,
    ) -> PyResult<(f64, Vec<f64>)> {
        let Spec::Simplified(spec) = &model.spec else {
            return Err(invalid("method", "tree", "words for this model"));
        };
        let (task, eps) = (self.task.get().causal()?, spec.eps);
        let Some((task, forest)) = task.as_ref().and_then(|t| match t {
            CausalTask::Tree(own) => Some((t, own.forest())),
            CausalTask::Dag(_) => None,
        }) else {
            return Err(invalid("method", "tree", "words for this task"));
        };
        let pool = pools::pool(py, pools::count(threads)?)?;
        let lock = || self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        let held = lock().take().filter(|(of, _)| *of == eps).map(|(_, tree)| tree);
        let (most, t) = (self.max_seconds, forest.seq_len());
        let found = py.detach(|| {
            pool.install(|| -> popgrad::Result<_> {
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
                let grad = found.a1.iter().chain(&found.a2).map(|g| -g).collect();
                let loss = found.loss;
                Ok((loss, grad, tree))
            })
        });
        let (loss, grad, tree) = found.or_raise()?;
        *lock() = Some((eps, tree));
        Ok((loss, grad))
    }

    /// Refuses a sum over all words that takes too long, by the time of the first ones.
    fn check_time(&self, py: Python<'_>, model: &Model, params: &[f64], source: &dyn Source) -> PyResult<()> {
        let words = source.population().unwrap_or(0);
        let few = words.min(256);
        let fill = |first: usize, piece: &mut Rows| {
            source.fill(first as u64, piece.seqs(), &mut source.work(), piece);
        };
        let call = Call {
            kind: source.targets(),
            seqs: few,
            threads: Some(1),
            keep: false,
            counts: true,
            fill: &fill,
        };
        let start = Instant::now();
        let mut grad = vec![0.0; params.len()];
        model.double.evaluate(py, params, &call, Some(&mut grad))?;
        let each = start.elapsed().as_secs_f64() / few.max(1) as f64;
        let seconds = each * words as f64 / pools::count(None)? as f64;
        if words > 1 << 12 && seconds > self.max_seconds {
            let (words, bytes, limit) = (words as f64, 0.0, self.max_seconds);
            return Err(crate::errors::from(Error::TooLong { words, seconds, bytes, limit }));
        }
        Ok(())
    }
}

#[pymethods]
impl Population {
    #[new]
    #[pyo3(signature = (task, eps=None, method="auto", max_seconds=60.0))]
    fn new(task: Py<Task>, eps: Option<f64>, method: &str, max_seconds: f64) -> PyResult<Self> {
        let method = match method {
            "auto" => Method::Auto,
            "tree" => Method::Tree,
            "words" => Method::Words,
            other => return Err(invalid("method", other, "auto, tree, words")),
        };
        if let Some(eps) = eps {
            popgrad::num::check_eps(eps).or_raise()?;
        }
        if max_seconds.is_nan() || max_seconds <= 0.0 {
            return Err(invalid("max_seconds", &max_seconds.to_string(), "> 0"));
        }
        if let Some(causal) = task.get().causal()? {
            causal.check_prior().or_raise()?;
        }
        let (words, prior, tree) = (OnceLock::new(), OnceLock::new(), Mutex::new(None));
        Ok(Population { task, eps, method, max_seconds, words, prior, tree })
    }

    #[getter]
    fn task(&self, py: Python<'_>) -> Py<Task> {
        self.task.clone_ref(py)
    }

    /// Loss and gradient of the whole population, in the type of `params`. The tree computes in
    /// float64.
    ///
    /// Raises:
    ///     InvalidError: other sizes, a population that cannot be enumerated or takes too long.
    #[pyo3(signature = (model, params, threads=None))]
    fn value_and_grad<'py>(
        &self,
        model: &Model,
        params: &Bound<'py, PyDict>,
        threads: Option<usize>,
    ) -> PyResult<(f64, Bound<'py, PyDict>)> {
        self.check(model)?;
        let py = params.py();
        if self.has_tree(model)? {
            let (loss, grad) = self.by_tree(py, model, &model.in_double(params)?, threads)?;
            return Ok((loss, model.set_like(params, grad)?));
        }
        let source = self.source(py)?;
        self.check_time(py, model, &model.in_double(params)?, source.as_ref())?;
        let fill = |first: usize, piece: &mut Rows| {
            source.fill(first as u64, piece.seqs(), &mut source.work(), piece);
        };
        let seqs = source.population().unwrap_or(0);
        let call = Call { kind: source.targets(), seqs, threads, keep: false, counts: true, fill: &fill };
        model.gradient(params, &call, None, true)
    }

    /// The loss of the whole population in nats.
    ///
    /// Raises:
    ///     InvalidError: as `value_and_grad`.
    #[pyo3(signature = (model, params, threads=None))]
    fn loss(&self, model: &Model, params: &Bound<'_, PyDict>, threads: Option<usize>) -> PyResult<f64> {
        self.check(model)?;
        let py = params.py();
        if self.has_tree(model)? {
            return Ok(self.by_tree(py, model, &model.in_double(params)?, threads)?.0);
        }
        let source = self.source(py)?;
        self.check_time(py, model, &model.in_double(params)?, source.as_ref())?;
        let fill = |first: usize, piece: &mut Rows| {
            source.fill(first as u64, piece.seqs(), &mut source.work(), piece);
        };
        let seqs = source.population().unwrap_or(0);
        let call = Call { kind: source.targets(), seqs, threads, keep: false, counts: true, fill: &fill };
        Ok(model.values(params, &call, true)?.loss)
    }

    /// All sequences as a batch whose weights are their probabilities.
    fn batch(&self, py: Python<'_>) -> PyResult<crate::batch::Batch> {
        let source = self.source(py)?;
        let n = source.population().unwrap_or(0);
        let rows = py.detach(|| -> popgrad::Result<Rows> {
            let mut rows = source.batch(n)?;
            source.fill(0, n, &mut source.work(), &mut rows);
            Ok(rows)
        });
        crate::batch::Batch::of_rows(py, &rows.or_raise()?)
    }

    /// All sequences (n, T), uint32.
    fn words(&self, py: Python<'_>) -> PyResult<Py<PyArrayDyn<u32>>> {
        Ok(self.batch(py)?.tokens(py))
    }

    /// Their probabilities, float64: (n), or (n, T) for labels at every position.
    fn weights(&self, py: Python<'_>) -> PyResult<Py<PyArrayDyn<f64>>> {
        Ok(self.batch(py)?.weights(py))
    }

    /// The loss of the Bayes predictor, the least that any model can have, in nats.
    ///
    /// Raises:
    ///     InvalidError: trigger bigrams; a population that cannot be enumerated.
    fn bayes(&self, py: Python<'_>) -> PyResult<f64> {
        let source = self.source(py)?;
        if source.targets() != Targets::Law {
            return Err(invalid("task", kind_name(source.targets()), "a task over a graph"));
        }
        let n = source.population().unwrap_or(0);
        let loss = py.detach(|| -> popgrad::Result<f64> {
            let (mut rows, mut work) = (source.batch(4096.min(n))?, source.work());
            let (mut loss, mut total) = (Sum::new(), Sum::new());
            for first in (0..n).step_by(4096) {
                source.fill(first as u64, 4096.min(n - first), &mut work, &mut rows);
                for (law, w) in rows.laws().chunks(source.vocab()).zip(rows.weights()) {
                    law.iter().filter(|y| **y > 0.0).for_each(|y| loss.add(-w * y * popgrad::num::ln(*y)));
                    total.add(*w);
                }
            }
            Ok(loss.value() / divisor(total.value()))
        });
        loss.or_raise()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Population({})", self.task.bind(py).repr()?))
    }
}
