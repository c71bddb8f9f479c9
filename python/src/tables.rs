//! Configuration keys: Python dictionaries as TOML tables, and back.

use crate::errors::{OrRaise, invalid};
use popgrad::config::{self, KEYS};
use pyo3::BoundObject;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use toml::{Table, Value};

/// What `__reduce__` returns: `args` for the constructor of `T`, and the class of `own`, one of its
/// subclasses, whose own constructor takes other arguments.
pub(crate) fn rebuilt<'py, T: pyo3::PyClass, A: IntoPyObject<'py>>(
    own: &Bound<'py, PyAny>,
    args: A,
) -> PyResult<Bound<'py, PyTuple>>
where
    PyErr: From<A::Error>,
{
    let py = own.py();
    let rebuild = py.import("popgrad._bridge")?.getattr("rebuild")?;
    let args = args.into_pyobject(py).map_err(PyErr::from)?.into_bound().into_any();
    (rebuild, (<T as pyo3::PyClass>::NAME, own.get_type(), args)).into_pyobject(py)
}

/// The keys in `dict`, checked one by one; None leaves a key out. Texts are read as on the command
/// line: "2^14", "2,1".
pub(crate) fn table(dict: &Bound<'_, PyDict>) -> PyResult<Table> {
    let mut table = Table::new();
    for (name, value) in dict.iter() {
        let name: String = name.extract()?;
        if value.is_none() {
            continue;
        }
        let key = config::find(&name, KEYS).or_raise()?;
        let value = match value.cast::<PyString>() {
            Ok(text) => key.parse(&text.to_string_lossy()),
            Err(_) => key.check(of(&name, &value)?),
        };
        table.insert(name, value.or_raise()?);
    }
    Ok(table)
}

fn of(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Value> {
    if let Ok(flag) = value.cast::<PyBool>() {
        return Ok(Value::Boolean(flag.is_true()));
    }
    if value.is_instance_of::<PyInt>() {
        let number: i64 =
            value.extract().map_err(|_| invalid(name, &value.to_string(), "integers below 2^63"))?;
        return Ok(Value::Integer(number));
    }
    if value.is_instance_of::<PyFloat>() {
        return Ok(Value::Float(value.extract()?));
    }
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(Value::String(text.to_string_lossy().into_owned()));
    }
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() || value.hasattr("tolist")? {
        // A NumPy scalar has `tolist` too, and gives a plain number.
        let value = if value.hasattr("tolist")? { value.call_method0("tolist")? } else { value.clone() };
        if !value.is_instance_of::<PyList>() && !value.is_instance_of::<PyTuple>() {
            return of(name, &value);
        }
        let all: PyResult<Vec<Value>> = value.try_iter()?.map(|v| of(name, &v?)).collect();
        return Ok(Value::Array(all?));
    }
    let kind = value.get_type().name()?;
    Err(PyTypeError::new_err(format!("{name}: {kind}; allowed: a number, a text, a flag or a list")))
}

/// The table as a dictionary.
pub(crate) fn dict<'py>(py: Python<'py>, table: &Table) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    for (name, value) in table {
        out.set_item(name, object(py, value)?)?;
    }
    Ok(out)
}

fn object<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::String(x) => PyString::new(py, x).into_any(),
        Value::Integer(x) => x.into_pyobject(py)?.into_any(),
        Value::Float(x) => PyFloat::new(py, *x).into_any(),
        Value::Boolean(x) => PyBool::new(py, *x).to_owned().into_any(),
        Value::Datetime(x) => PyString::new(py, &x.to_string()).into_any(),
        Value::Array(all) => {
            let all: PyResult<Vec<_>> = all.iter().map(|v| object(py, v)).collect();
            PyList::new(py, all?)?.into_any()
        }
        Value::Table(table) => dict(py, table)?.into_any(),
    })
}
