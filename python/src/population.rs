//! The exact population of a task: loss and gradient over every sequence.

use crate::args;
use crate::errors::{OrRaise, invalid};
use crate::exact::{Exact, Method};
use crate::model::Model;
use crate::objective::Over;
use crate::task::{Task, kind_name};
use numpy::PyArrayDyn;
use popgrad::batch::{Batch as Rows, Targets, divisor};
use popgrad::num::Sum;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::sync::Arc;

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
    pub(crate) exact: Arc<Exact>,
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
        let own = task.get();
        let exact = Arc::new(Exact::new(own.config.clone(), own.s(), eps, method, max_seconds));
        Ok(Population { task, exact })
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let (py, own) = (slf.py(), slf.get());
        let Exact { eps, method, max_seconds, .. } = *own.exact;
        crate::tables::rebuilt::<Self, _>(slf.as_any(), (own.task(py), eps, method.name(), max_seconds))
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
        #[pyo3(from_py_with = args::threads)] threads: Option<usize>,
    ) -> PyResult<(f64, Bound<'py, PyDict>)> {
        model.gradient(params, &Over::Population(&self.exact), threads, None, true)
    }

    /// The loss of the whole population in nats.
    ///
    /// Raises:
    ///     InvalidError: as `value_and_grad`.
    #[pyo3(signature = (model, params, threads=None))]
    fn loss(
        &self,
        model: &Model,
        params: &Bound<'_, PyDict>,
        #[pyo3(from_py_with = args::threads)] threads: Option<usize>,
    ) -> PyResult<f64> {
        model.value(params, &Over::Population(&self.exact), threads, true)
    }

    /// All sequences as a batch whose weights are their probabilities.
    fn batch(&self, py: Python<'_>) -> PyResult<crate::batch::Batch> {
        let rows = py.detach(|| -> popgrad::Result<Rows> {
            let source = self.exact.source()?;
            let n = source.population().unwrap_or(0);
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
        let source = py.detach(|| self.exact.source()).or_raise()?;
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
