//! Errors of the engine as Python exceptions, which the package defines in `popgrad.errors`.

use popgrad::Error;
use popgrad_kernels::KernelError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// The class called `name` in `popgrad.errors`.
fn class<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyType>>,
    name: &str,
) -> PyResult<Bound<'py, PyType>> {
    cell.import(py, "popgrad.errors", name).cloned()
}

/// `InvalidError` for a value of `field` out of its domain.
pub(crate) fn invalid(field: &str, problem: &str, allowed: &str) -> PyErr {
    from(Error::invalid(field, problem, allowed))
}

/// The exception of an error.
pub(crate) fn from(error: Error) -> PyErr {
    static INVALID: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static DIVERGED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static FILE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let message = error.to_string();
    Python::attach(|py| {
        let refused = |field: &str, allowed: &str| -> PyResult<PyErr> {
            let made = class(py, &INVALID, "InvalidError")?.call1((&message, field, allowed))?;
            Ok(PyErr::from_value(made))
        };
        let made = match &error {
            Error::Invalid { field, allowed, .. } => refused(field, allowed),
            Error::Unknown { kind, known, .. } => refused(kind, known),
            Error::TooLong { limit, .. } => refused("max_seconds", &format!("at most {limit} s")),
            Error::Kernel(e @ (KernelError::UnknownIsa { .. } | KernelError::IsaUnavailable { .. })) => {
                refused("POPGRAD_ISA", &e.to_string())
            }
            Error::Kernel(_) => refused("operands", "shapes that fit together"),
            Error::Diverged { what, value, step } => class(py, &DIVERGED, "DivergedError")
                .and_then(|c| c.call1((&message, what, *value, *step)))
                .map(PyErr::from_value),
            _ => class(py, &FILE, "FileError").and_then(|c| c.call1((&message,))).map(PyErr::from_value),
        };
        made.unwrap_or_else(|e| e)
    })
}

/// The result of the engine as one of Python.
pub(crate) trait OrRaise<T> {
    /// Raises the error.
    fn or_raise(self) -> PyResult<T>;
}

impl<T> OrRaise<T> for popgrad::Result<T> {
    fn or_raise(self) -> PyResult<T> {
        self.map_err(from)
    }
}

impl<T> OrRaise<T> for Result<T, KernelError> {
    fn or_raise(self) -> PyResult<T> {
        self.map_err(|e| from(e.into()))
    }
}
