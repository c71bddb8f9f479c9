//! Batches as Python has them: arrays of tokens, targets or labels, and weights.

use crate::errors::{OrRaise, invalid};
use crate::model::bytes;
use numpy::{Element, PyArray1, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use popgrad::Error;
use popgrad::batch::{Batch as Rows, Targets};
use popgrad::discover::{SOFT, check_soft};
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::ops::Range;

/// Sequences, their targets and weights.
///
/// Arrays of the right type that are C-contiguous are kept as they are, others are copied once, or
/// refused with copy=False.
#[pyclass(frozen, module = "popgrad")]
pub(crate) struct Batch {
    tokens: Py<PyArrayDyn<u32>>,
    targets: Option<Py<PyArrayDyn<f64>>>,
    labels: Option<Py<PyArrayDyn<u32>>>,
    weights: Py<PyArrayDyn<f64>>,
    seen: Option<Py<PyArrayDyn<u32>>>,
    sizes: Sizes,
}

/// Sizes of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) kind: Targets,
    pub(crate) seqs: usize,
    pub(crate) len: usize,
    /// S where the targets are laws.
    pub(crate) vocab: Option<usize>,
}

/// The data of a batch.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) sizes: Sizes,
    pub(crate) tokens: &'a [u32],
    pub(crate) laws: &'a [f64],
    pub(crate) labels: &'a [u32],
    pub(crate) weights: &'a [f64],
}

/// Element types that batches are made of, and what they may be converted from.
pub(crate) trait Column: Copy {
    /// From another type of number; `None` where it does not fit.
    fn of_integer(x: i64) -> Option<Self>;
    /// The same of a real number.
    fn of_real(x: f64) -> Option<Self>;
    /// What is allowed.
    const ALLOWED: &'static str;
}

impl Column for u32 {
    fn of_integer(x: i64) -> Option<Self> {
        u32::try_from(x).ok()
    }
    fn of_real(_: f64) -> Option<Self> {
        None
    }
    const ALLOWED: &'static str = "an array of integers, 0 <= x < 2^32";
}

impl Column for f64 {
    fn of_integer(x: i64) -> Option<Self> {
        Some(x as f64)
    }
    fn of_real(x: f64) -> Option<Self> {
        Some(x)
    }
    const ALLOWED: &'static str = "an array of real numbers";
}

/// `x` as a C-contiguous array of `T`: itself, if it is one.
fn column<T: Column + Element>(name: &str, x: &Bound<'_, PyAny>, copy: bool) -> PyResult<Py<PyArrayDyn<T>>> {
    if let Ok(own) = x.cast::<PyArrayDyn<T>>()
        && own.is_c_contiguous()
        && own.is_aligned()
    {
        return Ok(own.clone().unbind());
    }
    let py = x.py();
    if !copy {
        let allowed = format!("a C-contiguous array of {}, or copy=True", T::get_dtype(py));
        return Err(invalid(name, "an array that must be copied", &allowed));
    }
    let numpy = py.import(intern!(py, "numpy"))?;
    let array = numpy.call_method1(intern!(py, "ascontiguousarray"), (x,))?;
    let array = array.cast_into::<PyUntypedArray>()?;
    let shape = array.shape().to_vec();
    let kind = array.dtype().to_string();
    let wrong = || PyTypeError::new_err(format!("{name}: {kind}; allowed: {}", T::ALLOWED));
    let out = PyArrayDyn::<T>::zeros(py, shape, false);
    if let Ok(same) = array.cast::<PyArrayDyn<T>>() {
        same.copy_to(&out)?;
        return Ok(out.unbind());
    }
    let outside = |x: &dyn std::fmt::Display| invalid(name, &x.to_string(), T::ALLOWED);
    let integers = kind.starts_with("int") || kind.starts_with("uint") || kind == "bool";
    let wide =
        numpy.call_method1(intern!(py, "asarray"), (&array, if integers { "int64" } else { "float64" }));
    let mut all = out.try_readwrite()?;
    if integers {
        let wide = wide?.cast_into::<PyArrayDyn<i64>>()?;
        for (to, x) in all.as_slice_mut()?.iter_mut().zip(wide.try_readonly()?.as_slice()?) {
            *to = T::of_integer(*x).ok_or_else(|| outside(x))?;
        }
    } else {
        let wide = wide.map_err(|_| wrong())?.cast_into::<PyArrayDyn<f64>>()?;
        for (to, x) in all.as_slice_mut()?.iter_mut().zip(wide.try_readonly()?.as_slice()?) {
            *to = T::of_real(*x).ok_or_else(wrong)?;
        }
    }
    drop(all);
    Ok(out.unbind())
}

/// Refuses rows of targets that are no laws.
pub(crate) fn check_laws(all: &[f64], s: usize, rows: usize) -> popgrad::Result<()> {
    for (i, row) in all.chunks(s.max(1)).enumerate().take(rows) {
        check_soft(row).map_err(|p| Error::invalid(format!("targets[{i}]"), p, SOFT))?;
    }
    Ok(())
}

/// Refuses an array of another shape.
fn shaped<T: Element>(name: &str, x: &Bound<'_, PyArrayDyn<T>>, shape: &[usize], text: &str) -> PyResult<()> {
    if x.shape() == shape {
        return Ok(());
    }
    Err(invalid(name, &format!("shape {:?}", x.shape()), &format!("{text} = {shape:?}")))
}

/// The data of an array of a batch.
///
/// # Safety
/// The array is C-contiguous and aligned, and lives as long as the slice.
unsafe fn data<'a, T: Element>(array: &Bound<'_, PyArrayDyn<T>>) -> &'a [T] {
    let len = array.len();
    if len == 0 {
        return &[];
    }
    // SAFETY: what the caller promises.
    unsafe { std::slice::from_raw_parts(array.data().cast_const(), len) }
}

#[pymethods]
impl Batch {
    /// Batch(tokens, targets=None, labels=None, weights=None, *, seen=None, copy=True)
    #[new]
    #[pyo3(signature = (tokens, targets=None, labels=None, weights=None, *, seen=None, copy=true))]
    fn new(
        tokens: &Bound<'_, PyAny>,
        targets: Option<&Bound<'_, PyAny>>,
        labels: Option<&Bound<'_, PyAny>>,
        weights: Option<&Bound<'_, PyAny>>,
        seen: Option<&Bound<'_, PyAny>>,
        copy: bool,
    ) -> PyResult<Self> {
        let py = tokens.py();
        let tokens = column::<u32>("tokens", tokens, copy)?;
        let &[n, t] = tokens.bind(py).shape() else {
            return Err(invalid("tokens", &format!("shape {:?}", tokens.bind(py).shape()), "(B, T)"));
        };
        if t == 0 {
            return Err(invalid("tokens", "T = 0", "T >= 1"));
        }
        let targets = targets.map(|x| column::<f64>("targets", x, copy)).transpose()?;
        let labels = labels.map(|x| column::<u32>("labels", x, copy)).transpose()?;
        let (kind, vocab, outputs) = match (&targets, &labels) {
            (Some(laws), None) => {
                let laws = laws.bind(py);
                let &[rows, s] = laws.shape() else {
                    return Err(invalid("targets", &format!("shape {:?}", laws.shape()), "(B, S)"));
                };
                shaped("targets", laws, &[n, s], "(B, S)")?;
                // SAFETY: `column` returns such arrays; `laws` lives on.
                let all = unsafe { data(laws) };
                check_laws(all, s, rows).or_raise()?;
                (Targets::Law, Some(s), vec![n])
            }
            (None, Some(labels)) => {
                shaped("labels", labels.bind(py), &[n, t], "(B, T)")?;
                (Targets::Labels, None, vec![n, t])
            }
            (None, None) => (Targets::Labels, None, Vec::new()),
            _ => return Err(invalid("labels", "given with targets", "targets (B, S) or labels (B, T)")),
        };
        if outputs.is_empty() {
            return Err(invalid("targets", "none", "targets (B, S) or labels (B, T)"));
        }
        let weights = match weights {
            Some(x) => column::<f64>("weights", x, copy)?,
            None => {
                let ones = PyArrayDyn::<f64>::zeros(py, outputs.clone(), false);
                ones.try_readwrite()?.as_slice_mut()?.fill(1.0);
                ones.unbind()
            }
        };
        shaped("weights", weights.bind(py), &outputs, "one for each output")?;
        let seen = seen.map(|x| column::<u32>("seen", x, copy)).transpose()?;
        if let Some(seen) = &seen {
            shaped("seen", seen.bind(py), &[n, t], "(B, T)")?;
        }
        Ok(Batch { tokens, targets, labels, weights, seen, sizes: Sizes { kind, seqs: n, len: t, vocab } })
    }

    /// Tokens (B, T), uint32.
    #[getter]
    pub(crate) fn tokens(&self, py: Python<'_>) -> Py<PyArrayDyn<u32>> {
        self.tokens.clone_ref(py)
    }

    /// Laws of the symbol after the last position (B, S), float64, or None.
    #[getter]
    pub(crate) fn targets(&self, py: Python<'_>) -> Option<Py<PyArrayDyn<f64>>> {
        self.targets.as_ref().map(|x| x.clone_ref(py))
    }

    /// The symbol after each position (B, T), uint32, or None.
    #[getter]
    fn labels(&self, py: Python<'_>) -> Option<Py<PyArrayDyn<u32>>> {
        self.labels.as_ref().map(|x| x.clone_ref(py))
    }

    /// Weights of the outputs, float64: (B) with targets, (B, T) with labels.
    #[getter]
    pub(crate) fn weights(&self, py: Python<'_>) -> Py<PyArrayDyn<f64>> {
        self.weights.clone_ref(py)
    }

    /// Occurrences of the trigger so far (B, T), 0 of other tokens, or None.
    #[getter]
    fn seen(&self, py: Python<'_>) -> Option<Py<PyArrayDyn<u32>>> {
        self.seen.as_ref().map(|x| x.clone_ref(py))
    }

    fn __len__(&self) -> usize {
        self.sizes.seqs
    }

    fn __repr__(&self) -> String {
        let Sizes { kind, seqs, len, vocab } = self.sizes;
        match (kind, vocab) {
            (Targets::Law, Some(s)) => format!("Batch(B={seqs}, T={len}, S={s}, targets)"),
            _ => format!("Batch(B={seqs}, T={len}, labels)"),
        }
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, own) = (slf.py(), slf.get());
        let arrays = (own.tokens(py), own.targets(py), own.labels(py), own.weights(py));
        let keywords = PyDict::new(py);
        keywords.set_item("seen", own.seen(py))?;
        // `seen` goes by keyword.
        let partial = py.import(intern!(py, "functools"))?.getattr(intern!(py, "partial"))?;
        let made = partial.call((slf.get_type(),), Some(&keywords))?;
        Ok((made, arrays).into_pyobject(py)?.into_any())
    }
}

impl Batch {
    /// The data, for as long as `self` lives.
    ///
    /// NumPy lets Python code change the type and the shape of an array in place, so both are
    /// checked again.
    pub(crate) fn view<'a>(&'a self, py: Python<'_>) -> PyResult<View<'a>> {
        fn checked<T: Element>(name: &str, x: &Bound<'_, PyArrayDyn<T>>, shape: &[usize]) -> PyResult<()> {
            let same = x.as_any().cast::<PyArrayDyn<T>>().is_ok();
            match same && x.shape() == shape && x.is_c_contiguous() && x.is_aligned() {
                true => Ok(()),
                false => {
                    let allowed = "arrays whose type and shape stay as they were; make a new Batch";
                    Err(invalid(name, "changed since the Batch was made", allowed))
                }
            }
        }
        let Sizes { kind, seqs, len, vocab } = self.sizes;
        let tokens = self.tokens.bind(py);
        checked("tokens", tokens, &[seqs, len])?;
        let (targets, labels) = (self.targets.as_ref(), self.labels.as_ref());
        let (targets, labels) = (targets.map(|x| x.bind(py)), labels.map(|x| x.bind(py)));
        targets.map_or(Ok(()), |x| checked("targets", x, &[seqs, vocab.unwrap_or(0)]))?;
        labels.map_or(Ok(()), |x| checked("labels", x, &[seqs, len]))?;
        let weights = self.weights.bind(py);
        let outputs = if kind == Targets::Law { &[seqs][..] } else { &[seqs, len] };
        checked("weights", weights, outputs)?;
        // SAFETY: the arrays are of these types, C-contiguous and aligned, by the checks above, and
        // `self` holds them. Python code that writes to them while a call is under way changes
        // numbers; what the engine takes indices from is its own copy of some rows, which it has
        // checked.
        unsafe {
            Ok(View {
                sizes: self.sizes,
                tokens: data(tokens),
                laws: targets.map_or(&[], |x| data(x)),
                labels: labels.map_or(&[], |x| data(x)),
                weights: data(weights),
            })
        }
    }

    /// A batch with the rows of the engine's `rows`.
    pub(crate) fn of_rows(py: Python<'_>, rows: &Rows) -> PyResult<Self> {
        fn array<T: Element>(py: Python<'_>, x: &[T], shape: &[usize]) -> PyResult<Py<PyArrayDyn<T>>> {
            Ok(PyArray1::from_slice(py, x).reshape(shape.to_vec())?.unbind())
        }
        let (n, t, s) = (rows.seqs(), rows.len_tokens(), rows.vocab());
        let (targets, labels, outputs) = match rows.kind() {
            Targets::Law => (Some(array(py, rows.laws(), &[n, s])?), None, vec![n]),
            Targets::Labels => (None, Some(array(py, rows.labels(), &[n, t])?), vec![n, t]),
        };
        let vocab = (rows.kind() == Targets::Law).then_some(s);
        Ok(Batch {
            tokens: array(py, rows.tokens(), &[n, t])?,
            targets,
            labels,
            weights: array(py, rows.weights(), &outputs)?,
            seen: rows.seen().map(|x| array(py, x, &[n, t])).transpose()?,
            sizes: Sizes { kind: rows.kind(), seqs: n, len: t, vocab },
        })
    }
}

impl View<'_> {
    /// Refuses a batch of other sizes than the model's.
    pub(crate) fn check(&self, vocab: usize, len: usize) -> popgrad::Result<()> {
        let other = |field: &str, found: usize, own: usize| {
            Err(Error::invalid(field, found.to_string(), format!("{own} for this model")))
        };
        match self.sizes.vocab {
            _ if self.sizes.len != len => other("T", self.sizes.len, len),
            Some(s) if s != vocab => other("S", s, vocab),
            _ => Ok(()),
        }
    }

    /// The memory of its arrays.
    pub(crate) fn memory(&self) -> [Range<*const u8>; 4] {
        [bytes(self.tokens), bytes(self.laws), bytes(self.labels), bytes(self.weights)]
    }

    /// True if some output counts.
    pub(crate) fn counts(&self) -> bool {
        // What is negative or NaN counts, so that the engine refuses it.
        self.weights.iter().any(|w| *w != 0.0)
    }

    /// Fills `piece` with the sequences from number `first` on.
    pub(crate) fn fill(&self, first: usize, piece: &mut Rows) {
        let (n, t, s, o) = (piece.seqs(), piece.len_tokens(), piece.vocab(), piece.outputs());
        let of = |width: usize| first * width..(first + n) * width;
        let parts = piece.parts_mut();
        parts.tokens.copy_from_slice(&self.tokens[of(t)]);
        match self.sizes.kind {
            Targets::Law => parts.laws.copy_from_slice(&self.laws[of(s)]),
            Targets::Labels => parts.labels.copy_from_slice(&self.labels[of(t)]),
        }
        parts.weights.copy_from_slice(&self.weights[of(o)]);
    }
}
