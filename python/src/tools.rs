//! Discovery of graphs, claims of the theory, the machine, the command line.

use crate::batch::Batch;
use crate::errors::{OrRaise, invalid};
use crate::pools;
use numpy::{PyArray1, PyArrayDyn, PyArrayMethods};
use popgrad::discover::{self, Labels, Sample};
use popgrad::measure::Machine;
use popgrad::theory::{self, Settings, Verdict};
use pyo3::prelude::*;
use std::ffi::OsString;

/// Runs the command line of `words`, the first of which is the program's name, and returns its exit
/// code.
#[pyfunction]
pub(crate) fn run_words(py: Python<'_>, words: Vec<OsString>) -> u8 {
    py.detach(|| popgrad::cli::run_words(words))
}

/// Facts about the machine, as JSON.
#[pyfunction]
pub(crate) fn machine() -> PyResult<String> {
    let found = Machine::detect(false).or_raise()?;
    serde_json::to_string(&found).map_err(|e| invalid("machine", &e.to_string(), "numbers and texts"))
}

/// The graph of a sample, as JSON, and the scores (rows, rows).
#[pyfunction]
#[pyo3(signature = (batch, symbols, labels, score, level, eps))]
pub(crate) fn find_graph<'py>(
    py: Python<'py>,
    batch: &Batch,
    symbols: usize,
    labels: Option<&Bound<'py, PyArrayDyn<u32>>>,
    score: &str,
    level: f64,
    eps: f64,
) -> PyResult<(String, Bound<'py, PyArrayDyn<f64>>)> {
    let view = batch.view(py)?;
    let laws = batch.targets(py).map(|x| PyResult::Ok(x.bind(py).try_readonly()?.as_slice()?.to_vec()));
    let laws = laws.transpose()?;
    let own = labels.map(|x| PyResult::Ok(x.try_readonly()?.as_array().iter().copied().collect()));
    let symbol_labels = own.transpose()?;
    let labels = match (symbol_labels, laws) {
        (Some(symbols), _) => Some(Labels::Symbols(symbols)),
        (None, Some(laws)) => Some(Labels::Soft(laws)),
        (None, None) => None,
    };
    let (seqs, len) = (view.sizes.seqs, view.sizes.len);
    let sample = Sample { seqs, len, symbols, tokens: view.tokens.to_vec(), labels };
    sample.check().or_raise()?;
    discover::check_level(level).or_raise()?;
    discover::gradient::check_eps(eps).or_raise()?;
    let pool = pools::pool(None)?;
    let found = py.detach(|| {
        pool.install(|| match score {
            "gradient" => discover::gradient::discover(&sample, eps, level),
            "chi2" => discover::chi2::discover(&sample, level),
            other => Err(popgrad::Error::unknown("score", other, ["gradient", "chi2"])),
        })
    });
    let graph = found.or_raise()?;
    let json = serde_json::to_string(&graph).map_err(|e| invalid("graph", &e.to_string(), "numbers"))?;
    let rows = graph.scores.len().isqrt();
    Ok((json, PyArray1::from_vec(py, graph.scores).reshape(vec![rows, rows])?))
}

/// Names of the claims, with their titles.
#[pyfunction]
pub(crate) fn claims() -> Vec<(&'static str, &'static str)> {
    theory::CLAIMS.iter().map(|c| (c.id, c.title)).collect()
}

/// Tests one claim: its verdict, the seconds it took, and its checks as JSON.
#[pyfunction]
pub(crate) fn verify_claim(py: Python<'_>, name: String, thorough: bool) -> PyResult<(String, f64, String)> {
    let claim = theory::select(&[name]).or_raise()?[0];
    let settings = Settings { thorough, ..Settings::default() };
    let pool = pools::pool(None)?;
    let found = py.detach(|| pool.install(|| theory::run(claim, &settings))).or_raise()?;
    let verdict = match found.verdict() {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::Counterexample => "counterexample",
        Verdict::Noted => "noted",
    };
    let checks =
        serde_json::to_string(&found.checks).map_err(|e| invalid("claim", &e.to_string(), "numbers"))?;
    Ok((verdict.into(), found.took.as_secs_f64(), checks))
}
