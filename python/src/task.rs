//! Tasks: samples, the Bayes answer, the graph.

use crate::args;
use crate::batch::Batch;
use crate::errors::{OrRaise, invalid};
use crate::tables;
use numpy::{PyArray1, PyArrayDyn, PyArrayMethods};
use popgrad::batch::Targets;
use popgrad::config::{self, Config, Task as Keys};
use popgrad::paper;
use popgrad::paper::birth::TriggerTasks;
use popgrad::paper::causal::{self, CausalTask};
use popgrad::source::Source;
use popgrad::task::bayes::{bayes_counts, bayes_public};
use popgrad::task::bayes_dag::{bayes_one_parent, bayes_previous, bayes_tuples};
use popgrad::task::{Roots, TriggerBigram};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::sync::{Arc, Mutex, PoisonError};
use toml::Table;

/// A distribution of sequences.
#[pyclass(frozen, subclass, module = "popgrad")]
pub(crate) struct Task {
    /// Keys as they were given.
    keys: Table,
    pub(crate) config: Config,
    vocab: usize,
    /// The last source asked for, with its seed and whether it is that of the test set.
    source: Mutex<Option<Drawn>>,
}

/// A source with its seed, and whether it is that of the test set.
type Drawn = (u64, bool, Arc<dyn Source>);

/// The preset that gives keys which a task leaves out.
pub(crate) fn base(task: &str) -> &'static str {
    match task {
        "causal_dag" => "two-parents",
        "trigger_bigram" => "birth",
        _ => "chain",
    }
}

fn resolve(keys: &Table, seed: u64) -> PyResult<Config> {
    let task = keys.get("task").and_then(|v| v.as_str()).unwrap_or_default();
    let mut layers = paper::preset(base(task), false).or_raise()?;
    let mut own = keys.clone();
    let seed = i64::try_from(seed).map_err(|_| invalid("seed", &seed.to_string(), "below 2^63"))?;
    own.insert("seed".into(), seed.into());
    own.insert("source".into(), "sampled".into());
    layers.push(own);
    config::resolve(&layers).or_raise()
}

impl Task {
    pub(crate) fn source(&self, seed: u64, test: bool) -> PyResult<Arc<dyn Source>> {
        let mut held = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, kind, source)) = held.as_ref()
            && (*of, *kind) == (seed, test)
        {
            return Ok(Arc::clone(source));
        }
        let config = resolve(&self.keys, seed)?;
        let setup = paper::experiment(&config).and_then(|e| e.setup(&config)).or_raise()?;
        let made = if test { setup.test() } else { setup.train() };
        let source: Arc<dyn Source> = Arc::from(made.or_raise()?);
        *held = Some((seed, test, Arc::clone(&source)));
        Ok(source)
    }

    /// The task over a graph; `None` for trigger bigrams.
    pub(crate) fn causal(&self) -> PyResult<Option<CausalTask>> {
        causal_of(&self.config).or_raise()
    }

    /// The trigger-bigram task under `seed`; `None` for tasks over a graph.
    pub(crate) fn triggers(&self, seed: u64) -> PyResult<Option<TriggerTasks>> {
        triggers_of(&self.config, seed).or_raise()
    }
}

/// The task over a graph; `None` for trigger bigrams.
pub(crate) fn causal_of(config: &Config) -> popgrad::Result<Option<CausalTask>> {
    match &config.task {
        Keys::TriggerBigram(_) => Ok(None),
        _ => causal::task(config).map(Some),
    }
}

/// The trigger-bigram task under `seed`; `None` for tasks over a graph.
pub(crate) fn triggers_of(config: &Config, seed: u64) -> popgrad::Result<Option<TriggerTasks>> {
    match &config.task {
        Keys::TriggerBigram(keys) => TriggerTasks::new(keys, seed).map(Some),
        _ => Ok(None),
    }
}

#[pymethods]
impl Task {
    #[new]
    #[pyo3(signature = (keys, seed=0))]
    fn new(keys: &Bound<'_, PyDict>, #[pyo3(from_py_with = args::seed)] seed: u64) -> PyResult<Self> {
        let keys = tables::table(keys)?;
        let config = resolve(&keys, seed)?;
        let experiment = paper::experiment(&config).or_raise()?;
        let vocab = experiment.setup(&config).or_raise()?.vocab();
        Ok(Task { keys, config, vocab, source: Mutex::new(None) })
    }

    /// Name of the task in configurations.
    #[getter]
    fn name(&self) -> &'static str {
        self.config.task.name()
    }

    /// Alphabet size.
    #[getter(S)]
    pub(crate) fn s(&self) -> usize {
        self.vocab
    }

    /// Tokens of a sequence.
    #[getter(T)]
    pub(crate) fn t(&self) -> usize {
        self.config.task.seq_len()
    }

    /// Configuration keys as they were given.
    #[getter]
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        tables::dict(py, &self.keys)
    }

    /// Parents of each position, and of the target where it has several; None for trigger bigrams.
    #[getter]
    fn graph(&self) -> PyResult<Option<Vec<Vec<usize>>>> {
        Ok(match self.causal()? {
            None => None,
            Some(CausalTask::Tree(task)) => {
                Some(task.forest().parents().iter().map(|p| p.iter().copied().collect()).collect())
            }
            Some(CausalTask::Dag(task)) => {
                let dag = task.dag();
                let all = (0..dag.seq_len()).map(|i| dag.parents(i).to_vec());
                Some(all.chain([dag.target().to_vec()]).collect())
            }
        })
    }

    /// What the symbols of a trigger-bigram task are called; None over a graph.
    #[getter]
    fn symbols(&self) -> PyResult<Option<Vec<String>>> {
        Ok(self.triggers(0)?.map(|t| t.symbols))
    }

    /// `n` sequences from number `start` on, under `seed`. Sequence i does not depend on n or
    /// start.
    ///
    /// They are those of `popgrad sample` and of a run with this seed: update u of a run trains on
    /// sequences u * batch on. test: those of the test set.
    ///
    /// Raises:
    ///     InvalidError: a value out of its domain; more memory than is free.
    ///
    /// Example:
    ///     >>> task.sample(8, seed=0, start=8).tokens.shape
    ///     (8, 6)
    #[pyo3(signature = (n, seed=0, start=0, *, test=false))]
    fn sample(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = args::count)] n: usize,
        #[pyo3(from_py_with = args::seed)] seed: u64,
        #[pyo3(from_py_with = args::start)] start: u64,
        test: bool,
    ) -> PyResult<Batch> {
        let source = self.source(seed, test)?;
        if n == 0 || n > 1 << 26 {
            return Err(invalid("n", &n.to_string(), "1 <= n <= 2^26"));
        }
        if start > i64::MAX as u64 {
            return Err(invalid("start", &start.to_string(), "0 <= start < 2^63"));
        }
        let rows = py.detach(|| {
            let row = source.seq_len().checked_mul(16)?.checked_add(source.vocab().checked_mul(16)?)?;
            row.checked_mul(n).map(|bytes| {
                popgrad::run::folder::check_memory("memory (n)", Some(bytes))?;
                let mut rows = source.batch(n)?;
                source.fill(start, n, &mut source.work(), &mut rows);
                popgrad::Result::Ok(rows)
            })
        });
        let rows = rows.ok_or_else(|| invalid("n", &n.to_string(), "a batch that fits memory"))?;
        Batch::of_rows(py, &rows.or_raise()?)
    }

    /// Laws of the next symbol by a Bayes predictor: (B, S), of trigger bigrams (B, T, S).
    ///
    /// Args:
    ///     batch: sequences of this task's S and T.
    ///     method: over a tree "counts" (the default: the posterior mean from the edges, exact
    ///         where roots are uniform), "public" (the public code's variant), "exact"; over
    ///         several parents "counts" (exact), "previous" or "one_parent"; of trigger bigrams
    ///         "exact", with fixed triggers only.
    ///     seed: of the bigrams, where corpus="dirichlet".
    ///
    /// Raises:
    ///     InvalidError: a predictor that has no closed form.
    ///
    /// Example:
    ///     >>> laws = task.bayes(batch)
    ///     >>> loss = -(batch.targets * np.log(laws)).sum(axis=1).mean()
    #[pyo3(signature = (batch, method=None, *, seed=0))]
    fn bayes<'py>(
        &self,
        py: Python<'py>,
        batch: &Batch,
        method: Option<&str>,
        #[pyo3(from_py_with = args::seed)] seed: u64,
    ) -> PyResult<Bound<'py, PyArrayDyn<f64>>> {
        let view = batch.view(py)?;
        view.check(self.vocab, self.t()).or_raise()?;
        let (n, t, s) = (view.sizes.seqs, self.t(), self.vocab);
        if let Some(z) = view.tokens.iter().find(|z| **z as usize >= s) {
            return Err(invalid("tokens", &z.to_string(), &format!("0 <= symbol < {s}")));
        }
        if let Some(tasks) = self.triggers(seed)? {
            if method.is_some_and(|m| m != "exact") {
                return Err(invalid("method", method.unwrap_or_default(), "exact"));
            }
            let mut out = args::zeros("batch", &[n, t, s])?;
            py.detach(|| {
                for (tokens, out) in view.tokens.chunks_exact(t).zip(out.chunks_exact_mut(t * s)) {
                    of_triggers(&tasks.train, tokens, out)?;
                }
                popgrad::Result::Ok(())
            })
            .or_raise()?;
            return PyArray1::from_vec(py, out).reshape(vec![n, t, s]);
        }
        let mut out = args::zeros("batch", &[n, s])?;
        let each = |out: &mut [f64], f: &(dyn Fn(&[u32], &mut [f64]) + Sync)| {
            py.detach(|| {
                view.tokens.chunks_exact(t).zip(out.chunks_exact_mut(s)).for_each(|(x, out)| f(x, out))
            });
        };
        match self.causal()? {
            Some(CausalTask::Tree(task)) => {
                let exact = task.roots() == Roots::Uniform;
                if task.floor().is_some() {
                    return Err(invalid("prior", "floored", "dirichlet: no closed form else"));
                }
                match method.unwrap_or("counts") {
                    "exact" if exact => each(&mut out, &|x, f| bayes_counts(&task, x, f)),
                    "exact" => {
                        let allowed = "counts or public; exact with roots=uniform: no closed form else";
                        return Err(invalid("method", "exact with roots=stationary", allowed));
                    }
                    "counts" => each(&mut out, &|x, f| bayes_counts(&task, x, f)),
                    "public" => each(&mut out, &|x, f| bayes_public(&task, x, f)),
                    other => return Err(invalid("method", other, "counts, public, exact")),
                }
            }
            Some(CausalTask::Dag(task)) => match method.unwrap_or("counts") {
                "counts" | "exact" => each(&mut out, &|x, f| bayes_tuples(&task, x, f)),
                "previous" => each(&mut out, &|x, f| bayes_previous(&task, x, f)),
                "one_parent" => each(&mut out, &|x, f| bayes_one_parent(&task, 0, x, f)),
                other => return Err(invalid("method", other, "counts, exact, previous, one_parent")),
            },
            None => {}
        }
        PyArray1::from_vec(py, out).reshape(vec![n, s])
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let keys = tables::dict(slf.py(), &slf.get().keys)?;
        tables::rebuilt::<Self, _>(slf.as_any(), (keys,))
    }

    fn __repr__(&self) -> String {
        let own = self.keys.iter().filter(|(k, _)| *k != "task").map(|(k, v)| format!("{k}={v}"));
        format!("{}({})", self.config.task.name(), own.collect::<Vec<_>>().join(", "))
    }
}

/// Laws of the next symbol (T, S) at every position of a sequence of fixed triggers: what followed
/// the trigger before; the law of its output where it is new; the bigrams else.
fn of_triggers(task: &TriggerBigram, tokens: &[u32], out: &mut [f64]) -> popgrad::Result<()> {
    let s = task.vocab();
    let Some(triggers) = task.fixed_triggers() else {
        let allowed = "fixed: which symbols are random triggers has no closed form here";
        return Err(popgrad::Error::invalid("triggers", "random", allowed));
    };
    let bigram = task.laws().bigram();
    for (i, out) in out.chunks_exact_mut(s).enumerate() {
        let z = tokens[i];
        out.fill(0.0);
        if !triggers.contains(&z) {
            out.copy_from_slice(&bigram[z as usize * s..(z as usize + 1) * s]);
        } else if let Some(before) = tokens[..i].iter().position(|x| *x == z) {
            out[tokens[before + 1] as usize] = 1.0;
        } else {
            let weights = (0..s).map(|o| task.output_weight(z as usize, o));
            out.iter_mut().zip(weights).for_each(|(p, w)| *p = w);
            let total: f64 = out.iter().sum();
            out.iter_mut().for_each(|p| *p /= total);
        }
    }
    Ok(())
}

/// The kind of targets of a source, as the package names it.
pub(crate) fn kind_name(kind: Targets) -> &'static str {
    match kind {
        Targets::Law => "targets",
        Targets::Labels => "labels",
    }
}
