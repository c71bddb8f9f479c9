//! Reading the folders of runs.

use crate::errors::{OrRaise, invalid};
use crate::{pools, tables, training};
use numpy::{PyArray1, PyArrayDyn, PyArrayMethods};
use popgrad::config::Dtype;
use popgrad::paper;
use popgrad::report::arrays::{Array, ArrayData};
use popgrad::run::{self, Trained, folder};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;

/// The configuration of the run in `folder`.
#[pyfunction]
pub(crate) fn run_config(py: Python<'_>, folder: PathBuf) -> PyResult<Bound<'_, PyDict>> {
    if !folder.join(folder::CONFIG_FILE).is_file() {
        let found = format!("{} has no {}", folder.display(), folder::CONFIG_FILE);
        return Err(invalid("run", &found, "the folder of a run"));
    }
    tables::dict(py, &folder::read_config(&folder).or_raise()?.table())
}

/// The weights after `step` updates, those of the checkpoint if None, in the type of the run, and
/// their step.
#[pyfunction]
#[pyo3(signature = (folder, step=None))]
pub(crate) fn run_weights(
    py: Python<'_>,
    folder: PathBuf,
    step: Option<u64>,
) -> PyResult<(u64, Bound<'_, PyDict>)> {
    let run = Trained::load(&folder, step, paper::experiment).or_raise()?;
    let layout = run.trace.model().layout();
    let all = layout.blocks().iter().map(|b| {
        let own = &run.params[b.range()];
        let data = match run.config.plan.dtype {
            // They were numbers of this type.
            Dtype::F32 => ArrayData::F32(own.iter().map(|x| *x as f32).collect()),
            Dtype::F64 => ArrayData::F64(own.to_vec()),
        };
        Ok((b.name().to_string(), Array::new(b.shape(), data)?))
    });
    let all: popgrad::Result<Vec<(String, Array)>> = all.collect();
    Ok((run.step, training::params(py, all.or_raise()?)?))
}

/// Attention of each layer (H, T, T): the mean over test sequences, or of layer 0 the pattern by
/// position alone where the model has one; NaN where there is no key.
#[pyfunction]
#[pyo3(signature = (folder, step=None))]
pub(crate) fn run_attention(
    py: Python<'_>,
    folder: PathBuf,
    step: Option<u64>,
) -> PyResult<Vec<Bound<'_, PyArrayDyn<f64>>>> {
    let run = Trained::load(&folder, step, paper::experiment).or_raise()?;
    let (t, s) = (run.trace.model().seq_len(), run.trace.model().vocab());
    let pool = pools::pool(None)?;
    let found = py.detach(|| {
        pool.install(|| run::measure(paper::experiment(&run.config)?, &run.config, s, &run.params))
    });
    let of = |heads: Vec<Vec<f64>>| {
        let count = heads.len();
        PyArray1::from_vec(py, heads.concat()).reshape(vec![count, t, t])
    };
    found.or_raise()?.patterns.into_iter().map(of).collect()
}
