//! The native module of the Python package: thin over the library, exact about types and memory.
//!
//! | module | what |
//! |---|---|
//! | `params` | parameter sets: dictionaries of arrays, borrowed where they are one flat array |
//! | `batch` | tokens, targets or labels, weights |
//! | `model`, `typed`, `trace` | loss, gradient, predictions; the two element types; activations |
//! | `task`, `population` | samples, Bayes answers; every sequence with its probability |
//! | `objective`, `exact` | losses over batches and populations, without the interpreter |
//! | `ffi` | the same for programs that JAX compiles |
//! | `training`, `folder` | runs, and reading their folders |
//! | `kernels`, `tools` | single kernels; discovery, claims, the machine, the command line |
//! | `tables`, `errors`, `pools` | configuration keys, exceptions, threads |
//!
//! Locks are never held across a call into the interpreter; computing is done detached. `unsafe` is
//! only where slices are made of NumPy's memory, and in `ffi`.

mod args;
mod batch;
mod errors;
mod exact;
mod ffi;
mod folder;
mod kernels;
mod model;
mod objective;
mod params;
mod pools;
mod population;
mod tables;
mod task;
mod tools;
mod trace;
mod training;
mod typed;

use pyo3::prelude::*;

/// The engine.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::batch::Batch;
    #[pymodule_export]
    use super::ffi::{FfiObjective, ffi_capsules, ffi_objectives, ffi_version};
    #[pymodule_export]
    use super::folder::{run_attention, run_config, run_weights};
    #[pymodule_export]
    use super::kernels::{attention, attention_backward, cross_entropy, gemm, softmax};
    #[pymodule_export]
    use super::model::{Model, models};
    #[pymodule_export]
    use super::population::Population;
    #[pymodule_export]
    use super::task::Task;
    #[pymodule_export]
    use super::tools::{claims, find_graph, machine, run_words, verify_claim};
    #[pymodule_export]
    use super::training::{presets, resolve, resume, train};

    /// Version of the package.
    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "Python's name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
