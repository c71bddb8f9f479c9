//! Arguments that are whole numbers: what is negative or too large is an error with their name.

use crate::errors::invalid;
use popgrad::run::folder::check_memory;
use popgrad_kernels::Elem;
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;

fn whole<'py, T: for<'a> FromPyObject<'a, 'py>>(
    field: &str,
    x: &Bound<'py, PyAny>,
    allowed: &str,
) -> PyResult<T> {
    x.extract::<T>().map_err(|e| {
        let e: PyErr = e.into();
        if e.is_instance_of::<PyOverflowError>(x.py()) {
            return invalid(field, &x.to_string(), allowed);
        }
        PyTypeError::new_err(format!("{field}: {}; allowed: an integer, {allowed}", x.get_type()))
    })
}

/// Threads of a call.
pub(crate) fn threads(x: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
    if x.is_none() { Ok(None) } else { whole("threads", x, "1 or more, or None for all cores").map(Some) }
}

/// A seed.
pub(crate) fn seed(x: &Bound<'_, PyAny>) -> PyResult<u64> {
    whole("seed", x, "0 <= seed < 2^64")
}

/// A number of sequences.
pub(crate) fn count(x: &Bound<'_, PyAny>) -> PyResult<usize> {
    whole("n", x, "1 <= n <= 2^26")
}

/// The number of the first sequence.
pub(crate) fn start(x: &Bound<'_, PyAny>) -> PyResult<u64> {
    whole("start", x, "0 <= start < 2^63")
}

/// An alphabet size.
pub(crate) fn symbols(x: &Bound<'_, PyAny>) -> PyResult<usize> {
    whole("S", x, "S >= 2")
}

/// Tokens of a sequence.
pub(crate) fn length(x: &Bound<'_, PyAny>) -> PyResult<usize> {
    whole("T", x, "T >= 1")
}

/// Updates of a run, where they are given.
pub(crate) fn steps(x: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
    if x.is_none() { Ok(None) } else { whole("steps", x, "0 <= steps < 2^63").map(Some) }
}

/// Zeros for an array of `shape`, called `what`, if there is memory for them.
pub(crate) fn zeros<E: Elem>(what: &str, shape: &[usize]) -> PyResult<Vec<E>> {
    let len = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let bytes = len.and_then(|n| n.checked_mul(size_of::<E>()));
    let refused = |e: popgrad::Error| crate::errors::from(e);
    check_memory(&format!("memory ({what})"), bytes).map_err(refused)?;
    let mut out = Vec::new();
    out.try_reserve_exact(len.unwrap_or(0))
        .map_err(|_| invalid(what, &format!("shape {shape:?}"), "an array that fits memory"))?;
    out.resize(len.unwrap_or(0), E::ZERO);
    Ok(out)
}
