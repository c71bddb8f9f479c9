//! Parameter sets: dictionaries of arrays, one for each block of a model's layout.
//!
//! The engine reads one flat vector. What the package hands out are views of one flat array, in the
//! order of the layout: these are borrowed. Arrays that lie apart are gathered into a vector once a
//! call.

use crate::errors::invalid;
use numpy::ndarray::{ArrayView, IxDyn};
use numpy::npyffi::{_PyArray_GET_ITEM_DATA, NPY_ARRAY_WRITEABLE};
use numpy::{Element, PyArray1, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use popgrad::model::Layout;
use popgrad_kernels::Elem;
use pyo3::exceptions::{PyKeyError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

/// `f32` or `f64`, as Python has them.
pub(crate) trait Real: Elem + Element {}
impl Real for f32 {}
impl Real for f64 {}

/// The two types of parameters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dtype {
    F32,
    F64,
}

/// Names of the blocks as Python strings, made once, in the order of the layout.
pub(crate) struct Names(Vec<Py<PyString>>);

impl Names {
    pub(crate) fn new(py: Python<'_>, layout: &Layout) -> Self {
        Names(layout.blocks().iter().map(|b| PyString::intern(py, b.name()).unbind()).collect())
    }

    /// The array of block `b` in `params`.
    fn array<'py>(&self, params: &Bound<'py, PyDict>, b: usize) -> PyResult<Bound<'py, PyUntypedArray>> {
        let name = self.0[b].bind(params.py());
        let Some(found) = params.get_item(name)? else {
            let all: Vec<String> = self.0.iter().map(|n| n.bind(params.py()).to_string()).collect();
            return Err(PyKeyError::new_err(format!(
                "params: `{name}` is missing; blocks: {}",
                all.join(", ")
            )));
        };
        found.cast_into::<PyUntypedArray>().map_err(|e| {
            let kind = e.into_inner().get_type().to_string();
            PyTypeError::new_err(format!("params[`{name}`]: {kind}; allowed: a NumPy array"))
        })
    }

    /// The type of the parameters: that of the first block; the others are checked where they are
    /// read.
    pub(crate) fn dtype(&self, params: &Bound<'_, PyDict>) -> PyResult<Dtype> {
        let first = self.array(params, 0)?;
        if first.cast::<PyArrayDyn<f64>>().is_ok() {
            Ok(Dtype::F64)
        } else if first.cast::<PyArrayDyn<f32>>().is_ok() {
            Ok(Dtype::F32)
        } else {
            Err(of_type(self.0[0].bind(params.py()), &first, "float32 or float64"))
        }
    }
}

fn of_type(name: &Bound<'_, PyString>, array: &Bound<'_, PyUntypedArray>, allowed: &str) -> PyErr {
    PyTypeError::new_err(format!("params[`{name}`]: {}; allowed: {allowed}", array.dtype()))
}

/// The arrays of a parameter set, checked: their data, and whether they are one flat array.
pub(crate) struct Arrays<'py, E> {
    /// In the order of the layout. They keep the data alive.
    all: Vec<Bound<'py, PyArrayDyn<E>>>,
    flat: bool,
}

impl<'py, E: Real> Arrays<'py, E> {
    /// The arrays of `params`.
    pub(crate) fn new(params: &Bound<'py, PyDict>, layout: &Layout, names: &Names) -> PyResult<Self> {
        let blocks = layout.blocks();
        if params.len() != blocks.len() {
            let known = |n: &Bound<'_, PyAny>| blocks.iter().any(|b| n.to_string() == b.name());
            if let Some(other) = params.keys().iter().find(|n| !known(n)) {
                let all: Vec<&str> = blocks.iter().map(|b| b.name()).collect();
                return Err(invalid("params", &format!("`{other}`"), &format!("blocks: {}", all.join(", "))));
            }
        }
        let mut all: Vec<Bound<'py, PyArrayDyn<E>>> = Vec::with_capacity(blocks.len());
        let mut flat = true;
        let (mut next, mut base) = (std::ptr::null(), std::ptr::null_mut());
        for (b, block) in blocks.iter().enumerate() {
            let found = names.array(params, b)?;
            let array = found.cast_into::<PyArrayDyn<E>>().map_err(|e| {
                let found = e.into_inner();
                let other = found.cast::<PyUntypedArray>();
                let allowed = format!("{}, as the first block", E::get_dtype(params.py()));
                match other {
                    Ok(other) => of_type(names.0[b].bind(params.py()), other, &allowed),
                    Err(e) => e.into(),
                }
            })?;
            if array.shape() != block.shape() {
                let found = format!("shape {:?}", array.shape());
                return Err(invalid(
                    &format!("params[{}]", block.name()),
                    &found,
                    &format!("{:?}", block.shape()),
                ));
            }
            let data = array.data().cast_const();
            // SAFETY: the pointer is to a live array object.
            let own = unsafe { (*_PyArray_GET_ITEM_DATA(array.as_array_ptr())).base };
            flat &= array.is_c_contiguous()
                && array.is_aligned()
                && (b == 0 || data == next && own == base && !own.is_null());
            next = data.wrapping_add(block.len());
            base = own;
            all.push(array);
        }
        Ok(Arrays { all, flat })
    }

    /// True if the engine can read the arrays where they are.
    pub(crate) fn is_flat(&self) -> bool {
        self.flat
    }

    /// The parameters in the layout's order: where they are if that is one flat array, else copied
    /// to `held`. With `copy` false a copy is refused.
    pub(crate) fn read<'a>(&'a self, len: usize, copy: bool, held: &'a mut Vec<E>) -> PyResult<&'a [E]> {
        if self.flat && len > 0 {
            // SAFETY: `new` found the arrays contiguous and aligned, one behind the other, all with
            // the same base object: views of one allocation that covers `len` elements, which
            // `self` keeps alive. Python code that writes to them in another thread while the call
            // is under way changes numbers, as with any NumPy function that releases the lock; the
            // engine takes no index from them.
            return Ok(unsafe { std::slice::from_raw_parts(self.all[0].data().cast_const(), len) });
        }
        if !copy {
            let allowed = "views of one flat array, as init() and flat() return, or copy=True";
            return Err(invalid("params", "arrays that lie apart or are not C-contiguous", allowed));
        }
        held.clear();
        held.reserve(len);
        for array in &self.all {
            let array = array.try_readonly()?;
            held.extend(array.as_array().iter().copied());
        }
        Ok(held)
    }

    /// The arrays as one slice to write to.
    #[expect(clippy::mut_from_ref, reason = "the memory is NumPy's, not that of `self`")]
    pub(crate) fn write(&self, len: usize) -> PyResult<&mut [E]> {
        // SAFETY: the flags are those of live array objects.
        let writeable = self
            .all
            .iter()
            .all(|a| unsafe { (*_PyArray_GET_ITEM_DATA(a.as_array_ptr())).flags & NPY_ARRAY_WRITEABLE != 0 });
        if !self.flat || !writeable || len == 0 {
            let allowed = "writeable views of one flat array, as flat() returns";
            return Err(invalid("out", "arrays that lie apart or are read-only", allowed));
        }
        // SAFETY: as in `read`; writeable, and the caller of the Python function gives `out` away
        // for the time of the call.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.all[0].data(), len) })
    }
}

/// A dictionary of views of `flat`, one for each block.
pub(crate) fn views<'py, E: Real>(
    flat: &Bound<'py, PyArray1<E>>,
    layout: &Layout,
    names: &Names,
) -> PyResult<Bound<'py, PyDict>> {
    let py = flat.py();
    let out = PyDict::new(py);
    // SAFETY: the array is new and contiguous, and nobody writes to it while views are made.
    let all = unsafe { flat.as_slice()? };
    for (name, block) in names.0.iter().zip(layout.blocks()) {
        let view = ArrayView::from_shape(IxDyn(block.shape()), &all[block.range()])
            .map_err(|e| PyTypeError::new_err(e.to_string()))?;
        // SAFETY: the view lies in the data of `flat`, which is its base object; nobody can resize
        // an array that others refer to.
        let view = unsafe { PyArrayDyn::borrow_from_array(&view, flat.clone().into_any()) };
        out.set_item(name.bind(py), view)?;
    }
    Ok(out)
}
