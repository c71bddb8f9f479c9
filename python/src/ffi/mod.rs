//! Handlers that XLA calls from compiled programs: `popgrad.jax.loss` without the interpreter.
//!
//! | module | what |
//! |---|---|
//! | `abi` | the layouts of XLA's C interface |
//! | `frame` | a call, read with checks; errors; the state of a compiled call |
//! | `registry` | objectives by number, and who owns them |
//! | `mode` | the floating-point mode |
//!
//! There are two targets. `popgrad_loss` gives the value; `popgrad_value_and_grad` the value and a
//! gradient for each block. Arguments are the blocks of the model's layout, all of one type, and
//! then the columns that the attribute `columns` names, a bit each: 1 tokens, 2 targets, 4 labels,
//! 8 weights. A population has no columns. `threads` is 0 for all cores. Buffers are row-major.
//!
//! Handlers touch no Python object and hold no lock while they compute. Errors have the texts of
//! the package's exceptions; panics become errors.

mod abi;
mod frame;
mod mode;
mod registry;

use crate::args;
use crate::batch::{Column, Sizes, View, check_laws};
use crate::model::Model;
use crate::objective::Over;
use crate::params::Real;
use crate::pools;
use crate::population::Population;
use crate::typed::{Typed, unless_held};
use frame::{Api, Buffer, Frame, Native};
use popgrad::batch::Targets;
use popgrad::{Error, Result};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use registry::{Columns, Idle, Objective, Scratch};
use std::ffi::{c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// XLA's number of the type of states. XLA sets it when the type is registered; 0 before.
static STATE_TYPE: AtomicI64 = AtomicI64::new(0);

const TOKENS: i64 = 1;
const TARGETS: i64 = 2;
const LABELS: i64 = 4;
const WEIGHTS: i64 = 8;

type Handler = unsafe extern "C" fn(*mut abi::CallFrame) -> *mut abi::Error;

/// Gives the objective of a call that is being compiled to the compiled call.
///
/// # Safety
/// `frame` is null or a call frame of XLA.
unsafe extern "C" fn popgrad_instantiate(frame: *mut abi::CallFrame) -> *mut abi::Error {
    // SAFETY: as XLA promises.
    unsafe {
        handle(frame, abi::STAGE_INSTANTIATE, |frame| {
            let id = frame.attribute("objective")?;
            let found = registry::find(id).ok_or_else(|| {
                let allowed = "a function that exists when its program is compiled, in this process";
                Error::invalid("objective", format!("{id}, which is not there"), allowed)
            })?;
            let state = Arc::into_raw(found).cast_mut().cast::<c_void>();
            match frame.set_state(STATE_TYPE.as_ptr(), state) {
                true => Ok(()),
                // XLA may hold the state or not, so the reference is not taken back.
                false => Err(Error::invalid("objective", "refused by XLA", "one for each call")),
            }
        })
    }
}

/// Ends a state.
///
/// # Safety
/// `state` is what `popgrad_instantiate` set, and is not used again.
unsafe extern "C" fn delete_state(state: *mut c_void) {
    let end = || {
        if !state.is_null() {
            // SAFETY: from `Arc::into_raw` of the same type, and this is its only end.
            drop(unsafe { Arc::from_raw(state.cast_const().cast::<Objective>()) });
        }
    };
    // What is dropped has no code of its own that panics.
    let _ = catch_unwind(AssertUnwindSafe(end));
}

/// The loss.
///
/// # Safety
/// `frame` is null or a call frame of XLA.
unsafe extern "C" fn popgrad_loss(frame: *mut abi::CallFrame) -> *mut abi::Error {
    // SAFETY: as XLA promises.
    unsafe { handle(frame, abi::STAGE_EXECUTE, |frame| run(frame, false)) }
}

/// The loss and its gradient.
///
/// # Safety
/// `frame` is null or a call frame of XLA.
unsafe extern "C" fn popgrad_value_and_grad(frame: *mut abi::CallFrame) -> *mut abi::Error {
    // SAFETY: as XLA promises.
    unsafe { handle(frame, abi::STAGE_EXECUTE, |frame| run(frame, true)) }
}

/// Answers XLA: metadata where they are asked for, else what `f` does, null for success.
///
/// # Safety
/// `frame` is null or a call frame of XLA.
unsafe fn handle(
    frame: *const abi::CallFrame,
    stage: c_uint,
    f: impl FnOnce(Frame<'_>) -> Result<()>,
) -> *mut abi::Error {
    let state = if stage == abi::STAGE_INSTANTIATE { STATE_TYPE.load(Ordering::Acquire) } else { 0 };
    // SAFETY: as the caller promises.
    if unsafe { frame::answer(frame, state) } {
        return std::ptr::null_mut();
    }
    // SAFETY: as the caller promises; the call lasts until this returns.
    let Some(api) = (unsafe { Api::of(frame) }) else {
        // Null is success, and there is no function that makes an error.
        eprintln!("popgrad: XLA calls without the functions of its version 0.3");
        std::process::abort();
    };
    let done = catch_unwind(AssertUnwindSafe(|| {
        let _usual = mode::Usual::enter();
        // SAFETY: as the caller promises, and `api` is the frame's.
        f(unsafe { Frame::of(frame, api, stage) }?)
    }));
    match done {
        Ok(Ok(())) => std::ptr::null_mut(),
        Ok(Err(error)) => api.error(&error.to_string(), abi::INVALID_ARGUMENT),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
            api.error(&format!("popgrad: panic: {text}"), abi::INTERNAL)
        }
    }
}

/// Evaluates the objective of the call in the type of its parameters.
fn run(frame: Frame<'_>, gradient: bool) -> Result<()> {
    let own: &Objective = frame.state(STATE_TYPE.as_ptr())?;
    match frame.argument(0)?.dtype {
        abi::F64 => run_in(frame, own, &own.model.double, &own.double, gradient),
        abi::F32 => run_in(frame, own, own.model.single()?, &own.single, gradient),
        _ => Err(Error::invalid("params", "arrays of another type", "float32 or float64")),
    }
}

fn run_in<E: Real + Native>(
    frame: Frame<'_>,
    own: &Objective,
    typed: &Typed<E>,
    idle: &Idle<E>,
    gradient: bool,
) -> Result<()> {
    let taken = unless_held(idle).and_then(|mut idle| idle.pop());
    let mut scratch = taken.unwrap_or_else(|| Scratch {
        params: Vec::new(),
        grad: Vec::new(),
        columns: Columns::default(),
    });
    let done = evaluate(frame, own, typed, &mut scratch, gradient);
    if let Some(mut idle) = unless_held(idle) {
        idle.push(scratch);
    }
    done
}

fn evaluate<E: Real + Native>(
    frame: Frame<'_>,
    own: &Objective,
    typed: &Typed<E>,
    scratch: &mut Scratch<E>,
    gradient: bool,
) -> Result<()> {
    let layout = typed.model.layout();
    let blocks = layout.blocks();
    let present = frame.attribute("columns")?;
    let all = if own.population.is_some() { 0 } else { TOKENS | TARGETS | LABELS | WEIGHTS };
    if present & !all != 0 {
        return Err(Error::invalid("columns", present.to_string(), format!("bits of {all}")));
    }
    let outs = 1 + if gradient { blocks.len() } else { 0 };
    let counts = (blocks.len() as i64 + i64::from(present.count_ones()), outs as i64);
    if frame.counts() != counts {
        let (found, allowed) = (format!("{:?}", frame.counts()), format!("{counts:?}"));
        return Err(Error::invalid("arguments and results", found, allowed));
    }
    let threads = match frame.attribute("threads")? {
        0 => None,
        n => Some(usize::try_from(n).unwrap_or(0)),
    };
    frame.result(0)?.check::<E>(1)?;
    scratch.params.clear();
    scratch.params.reserve(layout.len());
    for (i, block) in blocks.iter().enumerate() {
        let array = frame.argument(i)?;
        shaped(|| format!("params[{}]", block.name()), &array, block.shape())?;
        scratch.params.extend_from_slice(array.read()?);
        if gradient {
            frame.result(1 + i)?.check::<E>(block.len())?;
        }
    }
    scratch.grad.resize(if gradient { layout.len() } else { 0 }, E::ZERO);
    let over = match &own.population {
        Some(exact) => Over::Population(exact),
        None => Over::Batch(view(frame, blocks.len(), present, &mut scratch.columns)?),
    };
    let grad = gradient.then_some(&mut scratch.grad[..]);
    let loss = own.model.loss(typed, &over, &scratch.params, threads, grad)?;
    frame.result(0)?.write(&[E::from_f64(loss)])?;
    if gradient {
        for (i, block) in blocks.iter().enumerate() {
            frame.result(1 + i)?.write(&scratch.grad[block.range()])?;
        }
    }
    Ok(())
}

/// Refuses an array of another shape.
fn shaped(name: impl FnOnce() -> String, array: &Buffer<'_>, shape: &[usize]) -> Result<()> {
    let same = |(found, own): (&i64, &usize)| usize::try_from(*found) == Ok(*own);
    match array.dims.len() == shape.len() && array.dims.iter().zip(shape).all(same) {
        true => Ok(()),
        false => Err(Error::invalid(name(), format!("shape {:?}", array.dims), format!("{shape:?}"))),
    }
}

/// The batch in the arguments from number `next` on.
fn view<'a>(frame: Frame<'a>, mut next: usize, present: i64, held: &'a mut Columns) -> Result<View<'a>> {
    let mut argument = |bit: i64| -> Result<Option<Buffer<'a>>> {
        if present & bit == 0 {
            return Ok(None);
        }
        next += 1;
        frame.argument(next - 1).map(Some)
    };
    let tokens = argument(TOKENS)?.ok_or_else(|| Error::invalid("tokens", "none", "(B, T)"))?;
    let (targets, labels) = (argument(TARGETS)?, argument(LABELS)?);
    let weights = argument(WEIGHTS)?;
    let &[seqs, len] = tokens.dims else {
        return Err(Error::invalid("tokens", format!("shape {:?}", tokens.dims), "(B, T)"));
    };
    // `Buffer` has no dimension below 0.
    let (seqs, len) = (seqs as usize, len as usize);
    let tokens = column("tokens", &tokens, &mut held.tokens)?;
    let (mut laws, mut symbols): (&[f64], &[u32]) = (&[], &[]);
    let (kind, vocab) = match (&targets, &labels) {
        (Some(targets), None) => {
            let s = targets.dims.last().map_or(0, |s| *s as usize);
            shaped(|| "targets".into(), targets, &[seqs, s])?;
            laws = column("targets", targets, &mut held.laws)?;
            check_laws(laws, s, seqs)?;
            (Targets::Law, Some(s))
        }
        (None, Some(labels)) => {
            shaped(|| "labels".into(), labels, &[seqs, len])?;
            symbols = column("labels", labels, &mut held.labels)?;
            (Targets::Labels, None)
        }
        _ => return Err(Error::invalid("targets", "none or two", "targets (B, S) or labels (B, T)")),
    };
    let outputs = if kind == Targets::Law { &[seqs][..] } else { &[seqs, len] };
    let weights = match &weights {
        Some(weights) => {
            shaped(|| "weights".into(), weights, outputs)?;
            column("weights", weights, &mut held.weights)?
        }
        None => {
            held.weights.clear();
            held.weights.resize(outputs.iter().product(), 1.0);
            &held.weights
        }
    };
    let sizes = Sizes { kind, seqs, len, vocab };
    Ok(View { sizes, tokens, laws, labels: symbols, weights })
}

/// The elements of an array, in `held` if they are of another type than `T`.
fn column<'a, T: Column + Native + std::fmt::Display>(
    name: &str,
    array: &Buffer<'a>,
    held: &'a mut Vec<T>,
) -> Result<&'a [T]> {
    fn to<'a, U: Native + std::fmt::Display, T: Column>(
        name: &str,
        from: &[U],
        held: &'a mut Vec<T>,
        f: impl Fn(U) -> Option<T>,
    ) -> Result<&'a [T]> {
        held.clear();
        held.reserve(from.len());
        for x in from {
            held.push(f(*x).ok_or_else(|| Error::invalid(name, x.to_string(), T::ALLOWED))?);
        }
        Ok(held)
    }
    match array.dtype {
        own if own == T::DTYPE => array.read(),
        abi::S32 => to(name, array.read::<i32>()?, held, |x| T::of_integer(i64::from(x))),
        abi::S64 => to(name, array.read::<i64>()?, held, T::of_integer),
        abi::U32 => to(name, array.read::<u32>()?, held, |x| T::of_integer(i64::from(x))),
        abi::U64 => to(name, array.read::<u64>()?, held, |x| T::of_integer(i64::try_from(x).ok()?)),
        abi::F32 => to(name, array.read::<f32>()?, held, |x| T::of_real(f64::from(x))),
        abi::F64 => to(name, array.read::<f64>()?, held, T::of_real),
        _ => Err(Error::invalid(name, "an array of another type", T::ALLOWED)),
    }
}

/// What a function of `popgrad.jax` evaluates, as compiled programs name it.
#[pyclass(frozen, module = "popgrad._native")]
pub(crate) struct FfiObjective {
    /// The attribute `objective`.
    #[pyo3(get)]
    id: i64,
    /// The attribute `threads`.
    #[pyo3(get)]
    threads: usize,
    /// Keeps the objective alive: programs can be compiled as long as this exists.
    _own: Arc<Objective>,
}

#[pymethods]
impl FfiObjective {
    #[new]
    #[pyo3(signature = (model, population=None, threads=None))]
    fn new(
        model: &Model,
        population: Option<&Population>,
        #[pyo3(from_py_with = args::threads)] threads: Option<usize>,
    ) -> PyResult<Self> {
        pools::count(threads).map_err(crate::errors::from)?;
        let (id, own) = registry::register(&model.core, population.map(|p| &p.exact));
        Ok(FfiObjective { id, threads: threads.unwrap_or(0), _own: own })
    }
}

/// Version of XLA's foreign functions that the handlers are for: (major, least minor).
#[pyfunction]
pub(crate) fn ffi_version() -> (i32, i32) {
    abi::VERSION
}

/// Objectives that functions or compiled programs hold.
#[pyfunction]
pub(crate) fn ffi_objectives() -> usize {
    registry::count()
}

/// Pointers for JAX, by name: the handlers "instantiate", "loss" and "value_and_grad"; of the state
/// "type_id" and "type_info".
#[pyfunction]
pub(crate) fn ffi_capsules(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    // XLA keeps the pointer, so this is never freed; it is asked for once.
    let info = Box::into_raw(Box::new(abi::TypeInfo {
        size: size_of::<abi::TypeInfo>(),
        extension: std::ptr::null_mut(),
        deleter: delete_state,
    }));
    let all: [(&str, *mut c_void); 5] = [
        ("instantiate", popgrad_instantiate as Handler as *mut c_void),
        ("loss", popgrad_loss as Handler as *mut c_void),
        ("value_and_grad", popgrad_value_and_grad as Handler as *mut c_void),
        ("type_id", STATE_TYPE.as_ptr().cast()),
        ("type_info", info.cast()),
    ];
    let out = PyDict::new(py);
    for (name, pointer) in all {
        // SAFETY: attached to the interpreter; the pointer is not null. A capsule without a name,
        // as `jax.ffi.pycapsule` makes; none has a destructor.
        let capsule = unsafe {
            let made = pyo3::ffi::PyCapsule_New(pointer, std::ptr::null(), None);
            Bound::from_owned_ptr_or_err(py, made)?
        };
        out.set_item(name, capsule)?;
    }
    Ok(out)
}
