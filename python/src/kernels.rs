//! Single kernels on arrays.

use crate::args;
use crate::errors::{OrRaise, invalid};
use crate::params::Real;
use numpy::{PyArray1, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use popgrad_kernels::{
    Attention, Kernels, KvGrad, Mat, MatMut, Mats, MatsMut, Queries, Save, Saved, Scratch, Write,
};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

type Array<'py, E> = Bound<'py, PyArrayDyn<E>>;

/// Calls `$run` with the operands as arrays of one type: all float64 or all float32.
macro_rules! typed {
    ($run:ident, [$first:expr $(, $other:expr)*] $(, $more:expr)*) => {{
        if $first.cast::<PyArrayDyn<f64>>().is_ok() {
            $run::<f64>(&[same::<f64>($first)? $(, same::<f64>($other)?)*] $(, $more)*)
        } else if $first.cast::<PyArrayDyn<f32>>().is_ok() {
            $run::<f32>(&[same::<f32>($first)? $(, same::<f32>($other)?)*] $(, $more)*)
        } else {
            Err(of_type($first, "an array of float64 or float32"))
        }
    }};
}

fn of_type(x: &Bound<'_, PyAny>, allowed: &str) -> PyErr {
    let found = x.getattr("dtype").map_or_else(|_| x.get_type().to_string(), |d| d.to_string());
    PyTypeError::new_err(format!("{found}; allowed: {allowed}"))
}

fn same<'py, E: Real>(x: &Bound<'py, PyAny>) -> PyResult<Array<'py, E>> {
    let own = x
        .cast::<PyArrayDyn<E>>()
        .map_err(|_| of_type(x, &format!("an array of {}, as the first operand", E::get_dtype(x.py()))))?;
    Ok(own.clone())
}

/// An operand: borrowed where it is C-contiguous, else copied.
enum Operand<'py, E: Real> {
    Borrowed(PyReadonlyArrayDyn<'py, E>),
    Copied(Vec<E>),
}

impl<'py, E: Real> Operand<'py, E> {
    fn new(x: &Array<'py, E>) -> PyResult<Self> {
        let read = x.try_readonly()?;
        if x.is_c_contiguous() && x.is_aligned() {
            return Ok(Operand::Borrowed(read));
        }
        Ok(Operand::Copied(read.as_array().iter().copied().collect()))
    }

    fn data(&self) -> PyResult<&[E]> {
        match self {
            Operand::Borrowed(x) => Ok(x.as_slice()?),
            Operand::Copied(x) => Ok(x),
        }
    }
}

fn shape<const N: usize, E: Real>(name: &str, x: &Array<'_, E>) -> PyResult<[usize; N]> {
    x.shape()
        .try_into()
        .map_err(|_| invalid(name, &format!("shape {:?}", x.shape()), &format!("an array of {N} dimensions")))
}

fn array<'py, E: Real>(py: Python<'py>, x: Vec<E>, shape: &[usize]) -> PyResult<Bound<'py, PyAny>> {
    Ok(PyArray1::from_vec(py, x).reshape(shape.to_vec())?.into_any())
}

/// A B: a (m, k), b (k, n), of one type; returns (m, n).
#[pyfunction]
pub(crate) fn gemm<'py>(a: &Bound<'py, PyAny>, b: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    fn run<'py, E: Real>(x: &[Array<'py, E>; 2]) -> PyResult<Bound<'py, PyAny>> {
        let py = x[0].py();
        let ([m, k], [rows, n]) = (shape("a", &x[0])?, shape("b", &x[1])?);
        let (a, b) = (Operand::new(&x[0])?, Operand::new(&x[1])?);
        let (a, b) = (a.data()?, b.data()?);
        let mut c = args::zeros::<E>("a b", &[m, n])?;
        py.detach(|| {
            let kernels = Kernels::<E>::from_env()?;
            let mut scratch = Scratch::new(kernels.gemm_scratch(m, k, n));
            let (a, b) = (Mat::new(a, m, k)?, Mat::new(b, rows, n)?);
            kernels.gemm(Write::Set, E::ONE, a, b, MatMut::new(&mut c, m, n)?, &mut scratch)
        })
        .or_raise()?;
        array(py, c, &[m, n])
    }
    typed!(run, [a, b])
}

/// Sizes of the operands of attention.
struct Sizes {
    count: usize,
    tq: usize,
    tk: usize,
    d: usize,
    dv: usize,
}

impl Sizes {
    fn of<E: Real>(x: &[Array<'_, E>]) -> PyResult<Self> {
        let ([count, tq, d], [_, tk, _], [_, _, dv]) =
            (shape("q", &x[0])?, shape("k", &x[1])?, shape("v", &x[2])?);
        for (name, array, own) in [("k", &x[1], [count, tk, d]), ("v", &x[2], [count, tk, dv])] {
            if array.shape() != own {
                return Err(invalid(name, &format!("shape {:?}", array.shape()), &format!("{own:?}")));
            }
        }
        if tq == 0 || tq > tk {
            return Err(invalid("q", &format!("{tq} queries"), &format!("1 to {tk}, the keys")));
        }
        Ok(Sizes { count, tq, tk, d, dv })
    }

    fn problem<'a, E: Real>(
        &self,
        [q, k, v]: [&'a [E]; 3],
        scale: f64,
    ) -> Result<Attention<'a, E>, popgrad_kernels::KernelError> {
        let Sizes { count, tq, tk, d, dv } = *self;
        Ok(Attention {
            q: Mats::new(q, [count, tq, d], tq * d, d)?,
            k: Mats::new(k, [count, tk, d], tk * d, d)?,
            v: Mats::new(v, [count, tk, dv], tk * dv, dv)?,
            scale: E::from_f64(scale),
            queries: Queries::Last,
        })
    }
}

/// Causal attention: q (n, tq, d), k (n, tk, d), v (n, tk, dv), the queries being the last tq of
/// the tk positions. Returns the output (n, tq, dv) and the probabilities (n, tq, tk).
#[pyfunction]
#[pyo3(signature = (q, k, v, scale=1.0))]
pub(crate) fn attention<'py>(
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    scale: f64,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    fn run<'py, E: Real>(
        x: &[Array<'py, E>; 3],
        scale: f64,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let (py, sizes) = (x[0].py(), Sizes::of(x)?);
        let Sizes { count, tq, tk, d, dv } = sizes;
        let held = [Operand::new(&x[0])?, Operand::new(&x[1])?, Operand::new(&x[2])?];
        let operands = [held[0].data()?, held[1].data()?, held[2].data()?];
        let mut out = args::zeros::<E>("out", &[count, tq, dv])?;
        let mut probs = args::zeros::<E>("probs", &[count, tq, tk])?;
        py.detach(|| {
            let kernels = Kernels::<E>::from_env()?;
            let mut scratch = Scratch::new(kernels.attention_scratch(tq, tk, d, dv));
            let save = Save::Probs(MatsMut::new(&mut probs, [count, tq, tk], tq * tk, tk)?);
            let to = MatsMut::new(&mut out, [count, tq, dv], tq * dv, dv)?;
            kernels.attention(&sizes.problem(operands, scale)?, to, save, &mut scratch)
        })
        .or_raise()?;
        Ok((array(py, out, &[count, tq, dv])?, array(py, probs, &[count, tq, tk])?))
    }
    typed!(run, [q, k, v], scale)
}

/// Gradients of attention: from `out` and `probs` of the forward pass and dout (n, tq, dv); returns
/// (dq, dk, dv).
#[pyfunction]
#[pyo3(signature = (q, k, v, out, probs, dout, *, scale=1.0))]
pub(crate) fn attention_backward<'py>(
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    out: &Bound<'py, PyAny>,
    probs: &Bound<'py, PyAny>,
    dout: &Bound<'py, PyAny>,
    scale: f64,
) -> PyResult<[Bound<'py, PyAny>; 3]> {
    fn run<'py, E: Real>(x: &[Array<'py, E>; 6], scale: f64) -> PyResult<[Bound<'py, PyAny>; 3]> {
        let (py, sizes) = (x[0].py(), Sizes::of(x)?);
        let Sizes { count, tq, tk, d, dv } = sizes;
        for (name, array, own) in [
            ("out", &x[3], [count, tq, dv]),
            ("probs", &x[4], [count, tq, tk]),
            ("dout", &x[5], [count, tq, dv]),
        ] {
            if array.shape() != own {
                return Err(invalid(name, &format!("shape {:?}", array.shape()), &format!("{own:?}")));
            }
        }
        let held: Vec<Operand<'py, E>> = x.iter().map(Operand::new).collect::<PyResult<_>>()?;
        let all: Vec<&[E]> = held.iter().map(Operand::data).collect::<PyResult<_>>()?;
        let mut dq = args::zeros::<E>("dq", &[count, tq, d])?;
        let mut dk = args::zeros::<E>("dk", &[count, tk, d])?;
        let mut dvalues = args::zeros::<E>("dv", &[count, tk, dv])?;
        py.detach(|| {
            let kernels = Kernels::<E>::from_env()?;
            let mut scratch = Scratch::new(kernels.attention_scratch(tq, tk, d, dv));
            let rows = |x| Mats::new(x, [count, tq, dv], tq * dv, dv);
            let saved = Saved::Probs(Mats::new(all[4], [count, tq, tk], tq * tk, tk)?);
            let dkv = KvGrad::Separate {
                dk: Some(MatsMut::new(&mut dk, [count, tk, d], tk * d, d)?),
                dv: Some(MatsMut::new(&mut dvalues, [count, tk, dv], tk * dv, dv)?),
            };
            let dq = MatsMut::new(&mut dq, [count, tq, d], tq * d, d)?;
            let problem = sizes.problem([all[0], all[1], all[2]], scale)?;
            kernels.attention_backward(&problem, saved, rows(all[3])?, rows(all[5])?, dq, dkv, &mut scratch)
        })
        .or_raise()?;
        Ok([
            array(py, dq, &[count, tq, d])?,
            array(py, dk, &[count, tk, d])?,
            array(py, dvalues, &[count, tk, dv])?,
        ])
    }
    typed!(run, [q, k, v, out, probs, dout], scale)
}

/// The softmax of every row of x (n, S).
#[pyfunction]
pub(crate) fn softmax<'py>(x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    fn run<'py, E: Real>(x: &[Array<'py, E>; 1]) -> PyResult<Bound<'py, PyAny>> {
        let py = x[0].py();
        let [n, s] = shape("x", &x[0])?;
        let mut out = Operand::new(&x[0])?.data()?.to_vec();
        py.detach(|| Kernels::<E>::from_env()?.softmax_rows(MatMut::new(&mut out, n, s)?)).or_raise()?;
        array(py, out, &[n, s])
    }
    typed!(run, [x])
}

/// Cross-entropy of logits (n, S) with targets (n, S) in float64: losses (n) in nats, float64, and
/// probabilities (n, S).
#[pyfunction]
pub(crate) fn cross_entropy<'py>(
    logits: &Bound<'py, PyAny>,
    targets: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    fn run<'py, E: Real>(
        x: &[Array<'py, E>; 1],
        targets: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let py = x[0].py();
        let laws = targets.cast::<PyArrayDyn<f64>>().map_err(|_| of_type(targets, "an array of float64"))?;
        let [n, s] = shape("logits", &x[0])?;
        if laws.shape() != [n, s] {
            return Err(invalid("targets", &format!("shape {:?}", laws.shape()), &format!("{:?}", [n, s])));
        }
        let (logits, laws) = (Operand::new(&x[0])?, Operand::new(laws)?);
        let (logits, laws) = (logits.data()?, laws.data()?);
        let (mut losses, mut probs) = (vec![0.0; n], vec![E::ZERO; n * s]);
        py.detach(|| {
            let (x, y) = (Mat::new(logits, n, s)?, Mat::new(laws, n, s)?);
            Kernels::<E>::from_env()?.cross_entropy(x, y, &mut losses, MatMut::new(&mut probs, n, s)?)
        })
        .or_raise()?;
        Ok((array(py, losses, &[n])?, array(py, probs, &[n, s])?))
    }
    typed!(run, [logits], targets)
}
