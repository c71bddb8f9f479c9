//! Models: loss, gradient, predictions.

use crate::args;
use crate::batch::Batch;
use crate::errors::{OrRaise, invalid};
use crate::objective::{Core, Over};
use crate::params::{Arrays, Dtype, Names, Real, views};
use crate::tables;
use crate::typed::{Call, Typed};
use numpy::{PyArray1, PyArrayDyn, PyArrayMethods};
use popgrad::batch::Targets;
use popgrad::model::trace::Trace;
use popgrad::run::folder::check_memory;
use popgrad::train::Values;
use popgrad::{config, model};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// A model of fixed sizes. Parameters are dictionaries with an array for each block.
#[pyclass(frozen, subclass, module = "popgrad")]
pub(crate) struct Model {
    pub(crate) core: Arc<Core>,
    keys: toml::Table,
    names: Names,
    trace: OnceLock<popgrad::Result<Trace>>,
}

impl Model {
    fn trace(&self) -> PyResult<&Trace> {
        let made = self.trace.get_or_init(|| Trace::new(&self.core.spec, self.core.vocab, self.core.len));
        made.as_ref().map_err(|e| invalid("model", &e.to_string(), "a model that can be traced"))
    }

    /// Parameters in f64, of either type.
    pub(crate) fn in_double(&self, params: &Bound<'_, PyDict>) -> PyResult<Vec<f64>> {
        let layout = self.core.double.model.layout();
        Ok(match self.names.dtype(params)? {
            Dtype::F64 => {
                let arrays = Arrays::<f64>::new(params, layout, &self.names)?;
                arrays.read(layout.len(), true, &mut Vec::new())?.to_vec()
            }
            Dtype::F32 => {
                let arrays = Arrays::<f32>::new(params, layout, &self.names)?;
                let mut held = Vec::new();
                arrays.read(layout.len(), true, &mut held)?.iter().map(|x| f64::from(*x)).collect()
            }
        })
    }

    /// Loss, and the gradient as a parameter set in the type of the parameters.
    pub(crate) fn gradient<'py>(
        &self,
        params: &Bound<'py, PyDict>,
        over: &Over<'_>,
        threads: Option<usize>,
        out: Option<&Bound<'py, PyDict>>,
        copy: bool,
    ) -> PyResult<(f64, Bound<'py, PyDict>)> {
        match self.names.dtype(params)? {
            Dtype::F64 => self.gradient_in(&self.core.double, params, over, threads, (out, copy)),
            Dtype::F32 => {
                self.gradient_in(self.core.single().or_raise()?, params, over, threads, (out, copy))
            }
        }
    }

    fn gradient_in<'py, E: Real>(
        &self,
        typed: &Typed<E>,
        params: &Bound<'py, PyDict>,
        over: &Over<'_>,
        threads: Option<usize>,
        (out, copy): (Option<&Bound<'py, PyDict>>, bool),
    ) -> PyResult<(f64, Bound<'py, PyDict>)> {
        let (py, layout) = (params.py(), typed.model.layout());
        let arrays = Arrays::<E>::new(params, layout, &self.names)?;
        let mut held = Vec::new();
        let read = arrays.read(layout.len(), copy, &mut held)?;
        let (grad, arrays_out);
        let flat;
        let to = match out {
            Some(out) => {
                arrays_out = Arrays::<E>::new(out, layout, &self.names)?;
                grad = out.clone();
                arrays_out.write(layout.len())?
            }
            None => {
                flat = PyArray1::<E>::zeros(py, layout.len(), false);
                grad = views(&flat, layout, &self.names)?;
                // SAFETY: made here, and nobody else has it yet.
                unsafe { flat.as_slice_mut()? }
            }
        };
        // Two slices of one memory are no references that Rust allows.
        let into = bytes(to);
        let meet = |from: &Range<*const u8>| from.start < into.end && into.start < from.end;
        if meet(&bytes(read)) {
            return Err(invalid("out", "memory that params lie in", "other arrays"));
        }
        if let Over::Batch(view) = over
            && view.memory().iter().any(meet)
        {
            return Err(invalid("out", "memory that the batch lies in", "other arrays"));
        }
        let loss = py.detach(|| self.core.loss(typed, over, read, threads, Some(to))).or_raise()?;
        Ok((loss, grad))
    }

    /// The loss alone.
    pub(crate) fn value(
        &self,
        params: &Bound<'_, PyDict>,
        over: &Over<'_>,
        threads: Option<usize>,
        copy: bool,
    ) -> PyResult<f64> {
        fn of<E: Real>(
            model: &Model,
            typed: &Typed<E>,
            params: &Bound<'_, PyDict>,
            over: &Over<'_>,
            (threads, copy): (Option<usize>, bool),
        ) -> PyResult<f64> {
            let layout = typed.model.layout();
            let arrays = Arrays::<E>::new(params, layout, &model.names)?;
            let mut held = Vec::new();
            let read = arrays.read(layout.len(), copy, &mut held)?;
            params.py().detach(|| model.core.loss(typed, over, read, threads, None)).or_raise()
        }
        match self.names.dtype(params)? {
            Dtype::F64 => of(self, &self.core.double, params, over, (threads, copy)),
            Dtype::F32 => of(self, self.core.single().or_raise()?, params, over, (threads, copy)),
        }
    }

    /// Values without a gradient.
    fn values<F>(&self, params: &Bound<'_, PyDict>, call: &Call<'_, F>, copy: bool) -> PyResult<Values>
    where
        F: Fn(usize, &mut popgrad::batch::Batch) + Sync,
    {
        fn of<E: Real, F>(
            model: &Model,
            typed: &Typed<E>,
            params: &Bound<'_, PyDict>,
            call: &Call<'_, F>,
            copy: bool,
        ) -> PyResult<Values>
        where
            F: Fn(usize, &mut popgrad::batch::Batch) + Sync,
        {
            let layout = typed.model.layout();
            let arrays = Arrays::<E>::new(params, layout, &model.names)?;
            let mut held = Vec::new();
            let read = arrays.read(layout.len(), copy, &mut held)?;
            params.py().detach(|| typed.evaluate(read, call, None)).or_raise()
        }
        match self.names.dtype(params)? {
            Dtype::F64 => of(self, &self.core.double, params, call, copy),
            Dtype::F32 => of(self, self.core.single().or_raise()?, params, call, copy),
        }
    }
}

/// The memory of a slice.
pub(crate) fn bytes<T>(x: &[T]) -> Range<*const u8> {
    let Range { start, end } = x.as_ptr_range();
    start.cast()..end.cast()
}

#[pymethods]
impl Model {
    #[new]
    fn new(
        keys: &Bound<'_, PyDict>,
        #[pyo3(from_py_with = args::symbols)] vocab: usize,
        #[pyo3(from_py_with = args::length)] len: usize,
    ) -> PyResult<Self> {
        let (py, keys) = (keys.py(), tables::table(keys)?);
        let name = keys.get("model").and_then(|v| v.as_str()).unwrap_or_default();
        let spec = config::model_spec(name, &keys).or_raise()?;
        for (field, found, least, most) in [("S", vocab, 2, 1 << 20), ("T", len, 1, 1 << 20)] {
            if !(least..=most).contains(&found) {
                return Err(invalid(field, &found.to_string(), &format!("{least} <= {field} <= {most}")));
            }
        }
        let core = Arc::new(Core::new(spec, vocab, len).or_raise()?);
        let names = Names::new(py, core.double.model.layout());
        Ok(Model { core, keys, names, trace: OnceLock::new() })
    }

    /// Name of the model in configurations.
    #[getter]
    fn name(&self) -> &'static str {
        self.core.spec.name()
    }

    /// Alphabet size.
    #[getter(S)]
    fn s(&self) -> usize {
        self.core.vocab
    }

    /// Tokens of a sequence.
    #[getter(T)]
    fn t(&self) -> usize {
        self.core.len
    }

    /// Configuration keys and values of the model.
    #[getter]
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        tables::dict(py, &self.keys)
    }

    /// Attention heads of each layer.
    #[getter]
    fn head_counts(&self) -> Vec<usize> {
        self.core.double.model.heads().to_vec()
    }

    /// Shape of each block, by name, in order.
    #[getter]
    fn shapes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(py);
        for block in self.core.double.model.layout().blocks() {
            out.set_item(block.name(), PyTuple::new(py, block.shape())?)?;
        }
        Ok(out)
    }

    /// For each block, by name, whether training may change it.
    #[getter]
    fn trainable<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(py);
        let model = &self.core.double.model;
        for (block, on) in model.layout().blocks().iter().zip(model.trainable()) {
            out.set_item(block.name(), *on)?;
        }
        Ok(out)
    }

    /// Parameters to start from: views of one flat array.
    ///
    /// Args:
    ///     seed: of the draws.
    ///     std: standard deviation of normal numbers in every block that trains. None: the model's
    ///         own start, with the bits of the command line.
    ///     dtype: "float64" or "float32".
    ///
    /// Raises:
    ///     InvalidError: a value out of its domain.
    ///
    /// Example:
    ///     >>> popgrad.Simplified(S=3, T=4).init(seed=0)["A2"].shape
    ///     (3, 3)
    #[pyo3(signature = (seed=0, std=None, dtype="float64"))]
    fn init<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = args::seed)] seed: u64,
        std: Option<f64>,
        dtype: &str,
    ) -> PyResult<Bound<'py, PyDict>> {
        if let Some(x) = std.filter(|x| !(x.is_finite() && *x >= 0.0)) {
            return Err(invalid("std", &x.to_string(), "finite, >= 0, or None for the model's own start"));
        }
        let layout = self.core.double.model.layout();
        check_memory("memory (S, T)", layout.len().checked_mul(16)).or_raise()?;
        match dtype {
            "float64" | "f64" => {
                let made = py.detach(|| self.core.double.init(seed, std));
                views(&PyArray1::from_vec(py, made), layout, &self.names)
            }
            "float32" | "f32" => {
                let single = self.core.single().or_raise()?;
                let made = py.detach(|| single.init(seed, std));
                views(&PyArray1::from_vec(py, made), layout, &self.names)
            }
            other => Err(invalid("dtype", other, "float64, float32")),
        }
    }

    /// A copy of a parameter set as views of one flat array, which calls borrow.
    ///
    /// Example:
    ///     >>> params = model.flat({name: x.copy() for name, x in params.items()})
    fn flat<'py>(&self, params: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyDict>> {
        fn of<'py, E: Real>(model: &Model, params: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyDict>> {
            let layout = model.core.double.model.layout();
            let arrays = Arrays::<E>::new(params, layout, &model.names)?;
            let mut held = Vec::new();
            let all = arrays.read(layout.len(), true, &mut held)?.to_vec();
            views(&PyArray1::from_vec(params.py(), all), layout, &model.names)
        }
        match self.names.dtype(params)? {
            Dtype::F64 => of::<f64>(self, params),
            Dtype::F32 => of::<f32>(self, params),
        }
    }

    /// True if calls read this parameter set where it is, without a copy.
    ///
    /// Raises:
    ///     InvalidError: unknown blocks, other shapes.
    ///     KeyError: a block is missing.
    ///     TypeError: arrays of mixed types, or neither float32 nor float64.
    fn is_borrowed(&self, params: &Bound<'_, PyDict>) -> PyResult<bool> {
        let layout = self.core.double.model.layout();
        Ok(match self.names.dtype(params)? {
            Dtype::F64 => Arrays::<f64>::new(params, layout, &self.names)?.is_flat(),
            Dtype::F32 => Arrays::<f32>::new(params, layout, &self.names)?.is_flat(),
        })
    }

    /// The weighted mean loss Σ w ℓ / Σ w in nats; 0 if no output counts.
    ///
    /// Args:
    ///     params: an array for each block, all float32 or all float64.
    ///     batch: sequences of this model's S and T.
    ///     threads: all cores by default; they change no bit.
    ///     copy: False refuses parameters that would have to be copied.
    ///
    /// Raises:
    ///     InvalidError: sizes that do not fit, tokens that are no symbols, weights out of range.
    ///     TypeError: arrays of mixed types, or neither float32 nor float64.
    ///
    /// Example:
    ///     >>> loss = model.loss(params, batch)
    #[pyo3(signature = (params, batch, threads=None, *, copy=true))]
    fn loss(
        &self,
        params: &Bound<'_, PyDict>,
        batch: &Batch,
        #[pyo3(from_py_with = args::threads)] threads: Option<usize>,
        copy: bool,
    ) -> PyResult<f64> {
        self.value(params, &Over::Batch(batch.view(params.py())?), threads, copy)
    }

    /// The loss, and its gradient as a parameter set in the type of `params`.
    ///
    /// Args:
    ///     params: an array for each block, all float32 or all float64.
    ///     batch: sequences of this model's S and T.
    ///     threads: all cores by default; they change no bit.
    ///     copy: False refuses parameters that would have to be copied.
    ///     out: a parameter set to write the gradient to, as `flat` returns; it is then the one
    ///         that is returned.
    ///
    /// Raises:
    ///     InvalidError: sizes that do not fit, tokens that are no symbols, weights out of range.
    ///     TypeError: arrays of mixed types, or neither float32 nor float64.
    ///
    /// The result has the bits of `popgrad grad`. Entries that the model does not read, and
    /// buffers, have gradient 0.
    ///
    /// Example:
    ///     >>> loss, grad = model.value_and_grad(params, batch, threads=1)
    ///     >>> params["W"] -= 0.1 * grad["W"]
    #[pyo3(signature = (params, batch, threads=None, out=None, *, copy=true))]
    fn value_and_grad<'py>(
        &self,
        params: &Bound<'py, PyDict>,
        batch: &Batch,
        #[pyo3(from_py_with = args::threads)] threads: Option<usize>,
        out: Option<&Bound<'py, PyDict>>,
        copy: bool,
    ) -> PyResult<(f64, Bound<'py, PyDict>)> {
        self.gradient(params, &Over::Batch(batch.view(params.py())?), threads, out, copy)
    }

    /// Predictions, float64: (B, S) where the batch has targets, else (B, T, S).
    ///
    /// Args:
    ///     params: an array for each block, all float32 or all float64.
    ///     batch: sequences of this model's S and T.
    ///     threads: all cores by default; they change no bit.
    ///     copy: False refuses parameters that would have to be copied.
    ///
    /// Raises:
    ///     InvalidError: sizes that do not fit, tokens that are no symbols, weights out of range.
    ///     TypeError: arrays of mixed types, or neither float32 nor float64.
    ///
    /// Example:
    ///     >>> model.predict(params, batch).sum(axis=-1).round(6).tolist()
    ///     [1.0, 1.0, 1.0, 1.0]
    #[pyo3(signature = (params, batch, threads=None, *, copy=true))]
    fn predict<'py>(
        &self,
        params: &Bound<'py, PyDict>,
        batch: &Batch,
        #[pyo3(from_py_with = args::threads)] threads: Option<usize>,
        copy: bool,
    ) -> PyResult<Bound<'py, PyArrayDyn<f64>>> {
        let py = params.py();
        let view = batch.view(py)?;
        view.check(self.core.vocab, self.core.len).or_raise()?;
        let fill = |first: usize, piece: &mut _| view.fill(first, piece);
        let sizes = view.sizes;
        let call =
            Call { kind: sizes.kind, seqs: sizes.seqs, threads, keep: true, counts: true, fill: &fill };
        let found = self.values(params, &call, copy)?;
        let shape = match sizes.kind {
            Targets::Law => vec![sizes.seqs, self.core.vocab],
            Targets::Labels => vec![sizes.seqs, self.core.len, self.core.vocab],
        };
        PyArray1::from_vec(py, found.predictions).reshape(shape)
    }

    /// Names of the activations, with their shapes for one sequence.
    #[getter]
    fn activations<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(py);
        for point in self.trace()?.points() {
            out.set_item(&point.name, PyTuple::new(py, &point.shape)?)?;
        }
        Ok(out)
    }

    /// Probabilities at every position (n, T, S), and a dictionary of activations, each (n, its
    /// shape).
    ///
    /// Computed in float64 whatever the type of `params`, one sequence at a time, by a plain pass.
    ///
    /// Args:
    ///     params: a parameter set.
    ///     tokens: integers (n, T), or (T) for one sequence.
    ///     names: of `activations`; all of them by default.
    ///
    /// Raises:
    ///     InvalidError: unknown names, other sizes, tokens that are no symbols.
    ///
    /// Example:
    ///     >>> probs, cache = model.run_with_cache(params, batch.tokens, ["layer0.pattern"])
    ///     >>> cache["layer0.pattern"].shape
    ///     (4, 1, 6, 6)
    #[pyo3(signature = (params, tokens, names=None))]
    fn run_with_cache<'py>(
        &self,
        params: &Bound<'py, PyDict>,
        tokens: &Bound<'py, PyAny>,
        names: Option<Vec<String>>,
    ) -> PyResult<(Bound<'py, PyArrayDyn<f64>>, Bound<'py, PyDict>)> {
        crate::trace::run(self.trace()?, &self.in_double(params)?, tokens, names, Vec::new())
    }

    /// As `run_with_cache`, with some activations replaced; what is computed from them follows.
    ///
    /// Args:
    ///     patches: by name of the activation: 0 for zeros, an array of its shape, or one for each
    ///         sequence (n, its shape), or a parameter set, whose activation on the same sequence
    ///         takes the place.
    ///
    /// Raises:
    ///     InvalidError: as `run_with_cache`; an array of another shape.
    ///
    /// Example:
    ///     >>> probs, _ = model.patch(params, batch.tokens, {"layer0.head0.out": 0}, names=[])
    #[pyo3(signature = (params, tokens, patches, names=None))]
    fn patch<'py>(
        &self,
        params: &Bound<'py, PyDict>,
        tokens: &Bound<'py, PyAny>,
        patches: &Bound<'py, PyDict>,
        names: Option<Vec<String>>,
    ) -> PyResult<(Bound<'py, PyArrayDyn<f64>>, Bound<'py, PyDict>)> {
        let trace = self.trace()?;
        let replaced = crate::trace::replacements(self, trace, patches)?;
        crate::trace::run(trace, &self.in_double(params)?, tokens, names, replaced)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let (py, own) = (slf.py(), slf.get());
        let keys = tables::dict(py, &own.keys)?;
        crate::tables::rebuilt::<Self, _>(slf.as_any(), (keys, own.core.vocab, own.core.len))
    }

    fn __repr__(&self) -> String {
        let own = self.keys.iter().filter(|(k, _)| *k != "model").map(|(k, v)| format!(", {k}={v}"));
        format!(
            "{}(S={}, T={}{})",
            self.core.spec.name(),
            self.core.vocab,
            self.core.len,
            own.collect::<String>()
        )
    }
}

/// Names of the models.
#[pyfunction]
pub(crate) fn models() -> Vec<&'static str> {
    model::MODELS.to_vec()
}
