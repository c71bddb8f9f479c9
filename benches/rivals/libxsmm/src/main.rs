//! libxsmm 1.17: a kernel generated for each shape, asked for once and then called. Its matrices
//! are column-major, so operands swap places. A batch is a loop of calls, split over a pool's
//! threads.

use rayon::prelude::*;
use rival_worker::{Case, Gemm, Worker, serve};
use std::ffi::{CStr, c_char, c_int};
use std::ptr::null;

type Kernel<T> = unsafe extern "C" fn(*const T, *const T, *mut T);

/// m, n, k, leading dimensions, alpha, beta, flags, prefetch; column-major.
type Dispatch<T> = unsafe extern "C" fn(
    c_int,
    c_int,
    c_int,
    *const c_int,
    *const c_int,
    *const c_int,
    *const T,
    *const T,
    *const c_int,
    *const c_int,
) -> Option<Kernel<T>>;

#[rustfmt::skip]
unsafe extern "C" {
    fn libxsmm_get_target_arch() -> *const c_char;
    fn libxsmm_smmdispatch(m: c_int, n: c_int, k: c_int, lda: *const c_int, ldb: *const c_int, ldc: *const c_int,
        alpha: *const f32, beta: *const f32, flags: *const c_int, prefetch: *const c_int) -> Option<Kernel<f32>>;
    fn libxsmm_dmmdispatch(m: c_int, n: c_int, k: c_int, lda: *const c_int, ldb: *const c_int, ldc: *const c_int,
        alpha: *const f64, beta: *const f64, flags: *const c_int, prefetch: *const c_int) -> Option<Kernel<f64>>;
}

const TRANS_A: c_int = 1;
const TRANS_B: c_int = 2;

/// The largest product, in multiply-adds, that a kernel is generated for: the library's own default
/// is 64^3; beyond some hundreds its code, which blocks for registers alone, is no rival.
const LARGEST: usize = 256 * 256 * 256;

#[derive(Default)]
struct Rival {
    single: Option<Kernel<f32>>,
    double: Option<Kernel<f64>>,
}

fn generate<T>(case: &Case, dispatch: Dispatch<T>, [zero, one]: [T; 2]) -> Result<Option<Kernel<T>>, String> {
    if case.batch == 1 && case.threads > 1 {
        return Err("one product, one thread".into());
    }
    if case.m * case.k * case.n > LARGEST {
        return Err("a product too large".into());
    }
    let [m, k, n] = [case.m, case.k, case.n].map(|x| x as c_int);
    let [ta, tb] = case.transposed;
    // C^T = B^T A^T: B comes first.
    let flags = if tb { TRANS_A } else { 0 } | if ta { TRANS_B } else { 0 };
    let (ld_b, ld_a, ld_c) = (if tb { k } else { n }, if ta { m } else { k }, n);
    // SAFETY: every pointer is to a value that lives through the call; null means the default.
    let kernel = unsafe { dispatch(n, m, k, &ld_b, &ld_a, &ld_c, &one, &zero, &flags, null()) };
    kernel.map(Some).ok_or_else(|| "no kernel for these strides".into())
}

macro_rules! rival {
    ($t:ty, $field:ident, $dispatch:ident) => {
        impl Gemm<$t> for Rival {
            fn prepare(&mut self, case: &Case) -> Result<(), String> {
                self.$field = generate(case, $dispatch, [0.0, 1.0])?;
                Ok(())
            }
            fn multiply(&mut self, case: &Case, a: &[$t], b: &[$t], c: &mut [$t]) {
                let (m, k, n) = (case.m, case.k, case.n);
                let Some(kernel) = self.$field else { return };
                let one = |a: &[$t], b: &[$t], c: &mut [$t]| {
                    // SAFETY: dense operands of the lengths that the kernel was made for: those of
                    // the chunks.
                    unsafe { kernel(b.as_ptr(), a.as_ptr(), c.as_mut_ptr()) }
                };
                if case.threads == 1 {
                    case.each(a, b, c, |a, b, c| one(a, b, c));
                } else {
                    let problems = a.par_chunks_exact(m * k).zip(b.par_chunks_exact(k * n));
                    let problems = problems.zip(c.par_chunks_exact_mut(m * n)).with_min_len(16);
                    problems.for_each(|((a, b), c)| one(a, b, c));
                }
            }
        }
    };
}
rival!(f32, single, libxsmm_smmdispatch);
rival!(f64, double, libxsmm_dmmdispatch);

impl Worker for Rival {
    fn describe(&self) -> String {
        // SAFETY: a static string.
        let target = unsafe { CStr::from_ptr(libxsmm_get_target_arch()) };
        format!("libxsmm 1.17, target {}", target.to_string_lossy())
    }
}

fn main() {
    rayon::scope(|_| serve(Rival::default()));
}
