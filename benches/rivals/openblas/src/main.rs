//! The OpenBLAS that numpy's wheel carries, called without Python: the library that RIVAL_OPENBLAS
//! names, loaded at run time. A batch is a loop of calls; threads are the library's own
//! (OPENBLAS_NUM_THREADS).

use rival_worker::library::Library;
use rival_worker::{Case, Gemm, Worker};
use std::ffi::{CStr, c_char, c_int, c_void};

/// CBLAS with 64-bit integers, as numpy's wheels build it: order, transposes, m, n, k, alpha,
/// A, lda, B, ldb, beta, C, ldc.
type Cblas<T> =
    unsafe extern "C" fn(c_int, c_int, c_int, i64, i64, i64, T, *const T, i64, *const T, i64, T, *mut T, i64);
type Name = unsafe extern "C" fn() -> *const c_char;

struct Rival {
    sgemm: Cblas<f32>,
    dgemm: Cblas<f64>,
    about: String,
}

impl Rival {
    fn load() -> Result<Self, String> {
        let path = std::env::var("RIVAL_OPENBLAS").map_err(|_| "RIVAL_OPENBLAS is not set")?;
        let library = Library::open(&path)?;
        let symbol = |name: &CStr| library.symbol(name);
        let (sgemm, dgemm) = (symbol(c"scipy_cblas_sgemm64_")?, symbol(c"scipy_cblas_dgemm64_")?);
        let (core, config) =
            (symbol(c"scipy_openblas_get_corename64_")?, symbol(c"scipy_openblas_get_config64_")?);
        // SAFETY: these symbols have these signatures in every OpenBLAS of numpy's wheels
        // (cblas.h, openblas_config.h, built with INTERFACE64 and the prefix scipy_); both
        // names are static strings.
        unsafe {
            let text = |f: *mut c_void| {
                let f: Name = std::mem::transmute(f);
                CStr::from_ptr(f()).to_string_lossy().into_owned()
            };
            let config = text(config);
            let version = config.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
            Ok(Rival {
                sgemm: std::mem::transmute::<*mut c_void, Cblas<f32>>(sgemm),
                dgemm: std::mem::transmute::<*mut c_void, Cblas<f64>>(dgemm),
                about: format!("{version}, core {}", text(core)),
            })
        }
    }
}

const ROW_MAJOR: c_int = 101;
const PLAIN: c_int = 111;
const TRANSPOSED: c_int = 112;

macro_rules! rival {
    ($t:ty, $gemm:ident) => {
        impl Gemm<$t> for Rival {
            fn multiply(&mut self, case: &Case, a: &[$t], b: &[$t], c: &mut [$t]) {
                let (m, k, n) = (case.m, case.k, case.n);
                let (ta, lda) = if case.transposed[0] { (TRANSPOSED, m) } else { (PLAIN, k) };
                let (tb, ldb) = if case.transposed[1] { (TRANSPOSED, k) } else { (PLAIN, n) };
                case.each(a, b, c, |a, b, c| {
                    let [m, k, n, lda, ldb] = [m, k, n, lda, ldb].map(|x| x as i64);
                    let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
                    // SAFETY: dense operands, their lengths those of the chunks, at the strides
                    // that their order has.
                    unsafe { (self.$gemm)(ROW_MAJOR, ta, tb, m, n, k, 1.0, a, lda, b, ldb, 0.0, c, n) };
                });
            }
        }
    };
}
rival!(f32, sgemm);
rival!(f64, dgemm);

impl Worker for Rival {
    fn describe(&self) -> String {
        self.about.clone()
    }
}

fn main() {
    rival_worker::serve_loaded(Rival::load());
}
