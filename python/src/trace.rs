//! Activations: seen and replaced.

use crate::errors::{OrRaise, invalid};
use crate::model::Model;
use numpy::{PyArray1, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use popgrad::model::trace::{Patch, Trace, With};
use popgrad::run::folder::check_memory;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// What takes the place of an activation.
pub(crate) enum Replaced {
    Zero,
    /// One value for all sequences, or one for each of them.
    Value(Vec<f64>),
    Params(Vec<f64>),
}

/// The replacements in `patches`: by name 0 or "zero", an array, or another parameter set.
pub(crate) fn replacements(
    model: &Model,
    trace: &Trace,
    patches: &Bound<'_, PyDict>,
) -> PyResult<Vec<(usize, Replaced)>> {
    let py = patches.py();
    let one = |(name, with): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
        let name: String = name.extract()?;
        let point = trace.find(&name).or_raise()?;
        let zero = with.extract::<f64>().is_ok_and(|x| x == 0.0)
            || with.extract::<String>().is_ok_and(|x| x == "zero");
        if zero {
            return Ok((point, Replaced::Zero));
        }
        if let Ok(params) = with.cast::<PyDict>() {
            return Ok((point, Replaced::Params(model.in_double(params)?)));
        }
        let numpy = py.import(intern!(py, "numpy"))?;
        let array = numpy.call_method1(intern!(py, "ascontiguousarray"), (&with, "float64"))?;
        let array = array.cast_into::<PyArrayDyn<f64>>()?;
        let own = &trace.points()[point].shape;
        let shape = array.shape();
        if shape != own && !(shape.len() == own.len() + 1 && &shape[1..] == own) {
            let allowed = format!("{own:?}, or n before it; 0; or a parameter set");
            return Err(invalid(&format!("patches[{name}]"), &format!("shape {shape:?}"), &allowed));
        }
        Ok((point, Replaced::Value(array.try_readonly()?.as_slice()?.to_vec())))
    };
    patches.iter().map(one).collect()
}

/// Probabilities of every position (n, T, S), and the activations called `names`, all if `None`,
/// each (n, shape), on sequences `tokens` (n, T).
pub(crate) fn run<'py>(
    trace: &Trace,
    params: &[f64],
    tokens: &Bound<'py, PyAny>,
    names: Option<Vec<String>>,
    replaced: Vec<(usize, Replaced)>,
) -> PyResult<(Bound<'py, PyArrayDyn<f64>>, Bound<'py, PyDict>)> {
    let py = tokens.py();
    let (t, s) = (trace.model().seq_len(), trace.model().vocab());
    let wanted: Vec<usize> = match names {
        Some(names) => names.iter().map(|n| trace.find(n).or_raise()).collect::<PyResult<_>>()?,
        None => (0..trace.points().len()).collect(),
    };
    if let Some(twice) = (1..wanted.len()).find(|i| wanted[..*i].contains(&wanted[*i])) {
        let name = &trace.points()[wanted[twice]].name;
        return Err(invalid("names", &format!("`{name}` twice"), "every activation once"));
    }
    let (n, tokens) = sequences(tokens, t)?;
    let kept = wanted.iter().map(|at| trace.points()[*at].len()).chain([t * s]);
    // The pass holds every activation of one sequence beside them.
    let pass: usize = trace.points().iter().map(|p| p.len()).sum();
    let needed = kept.sum::<usize>().checked_mul(n).and_then(|k| k.checked_add(2 * pass)?.checked_mul(8));
    check_memory("memory (n, names)", needed).or_raise()?;
    for (point, with) in &replaced {
        let (len, name) = (trace.points()[*point].len(), &trace.points()[*point].name);
        if let Replaced::Value(x) = with
            && x.len() != len
            && x.len() != n * len
        {
            let found = format!("{} sequences", x.len() / len.max(1));
            return Err(invalid(
                &format!("patches[{name}]"),
                &found,
                &format!("{n}, as tokens, or one value"),
            ));
        }
    }
    let (mut kept, mut probs) = (vec![Vec::new(); trace.points().len()], Vec::new());
    py.detach(|| -> popgrad::Result<()> {
        for (b, tokens) in tokens.chunks(t).enumerate() {
            let patches: Vec<Patch<'_>> = replaced
                .iter()
                .map(|(point, with)| {
                    let len = trace.points()[*point].len();
                    let with = match with {
                        Replaced::Zero => With::Zero,
                        Replaced::Value(x) if x.len() == len => With::Value(x),
                        Replaced::Value(x) => With::Value(&x[b * len..(b + 1) * len]),
                        Replaced::Params(x) => With::Params(x),
                    };
                    Patch { point: *point, with }
                })
                .collect();
            let out = trace.patched(params, tokens, &patches, &mut |at, x| {
                if wanted.contains(&at) {
                    kept[at].extend_from_slice(x);
                }
            })?;
            probs.extend(trace.probabilities(&out)?);
        }
        Ok(())
    })
    .or_raise()?;
    let cache = PyDict::new(py);
    for at in wanted {
        let point = &trace.points()[at];
        let shape = [&[n], &point.shape[..]].concat();
        let array = PyArray1::from_vec(py, std::mem::take(&mut kept[at])).reshape(shape)?;
        cache.set_item(&point.name, array)?;
    }
    Ok((PyArray1::from_vec(py, probs).reshape(vec![n, t, s])?, cache))
}

/// Rows of `t` tokens, or one of them, as integers.
fn sequences(tokens: &Bound<'_, PyAny>, t: usize) -> PyResult<(usize, Vec<u32>)> {
    let py = tokens.py();
    let numpy = py.import(intern!(py, "numpy"))?;
    let array = numpy.call_method1(intern!(py, "atleast_2d"), (tokens,))?;
    let array = numpy.call_method1(intern!(py, "ascontiguousarray"), (array,))?;
    let kind: String = array.getattr("dtype")?.getattr("kind")?.extract()?;
    let shape: Vec<usize> = array.getattr("shape")?.extract()?;
    if !["i", "u", "b"].contains(&kind.as_str()) {
        let found = array.getattr("dtype")?;
        return Err(pyo3::exceptions::PyTypeError::new_err(format!("tokens: {found}; allowed: integers")));
    }
    let &[n, len] = &shape[..] else {
        return Err(invalid("tokens", &format!("shape {shape:?}"), "(n, T) or (T)"));
    };
    if len != t {
        return Err(invalid("T", &len.to_string(), &format!("{t} for this model")));
    }
    let wide = numpy.call_method1(intern!(py, "asarray"), (array, "int64"))?;
    let wide = wide.cast_into::<PyArrayDyn<i64>>()?;
    let wide = wide.try_readonly()?;
    let all = wide
        .as_slice()?
        .iter()
        .map(|z| u32::try_from(*z).map_err(|_| invalid("tokens", &z.to_string(), "0 <= symbol < S")));
    Ok((n, all.collect::<PyResult<_>>()?))
}
