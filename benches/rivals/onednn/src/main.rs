//! oneDNN's sgemm, loaded at run time: the library that RIVAL_ONEDNN names, else Debian's libdnnl.
//! Row-major, f32 only; threads are the library's own (OMP_NUM_THREADS).

use rival_worker::library::Library;
use rival_worker::{Case, Gemm, Worker};
use std::ffi::{c_char, c_int, c_void};

/// Transposes as letters, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc.
#[rustfmt::skip]
type Sgemm = unsafe extern "C" fn(
    c_char, c_char, i64, i64, i64, f32, *const f32, i64, *const f32, i64, f32, *mut f32, i64,
) -> c_int;

#[repr(C)]
struct Version {
    major: c_int,
    minor: c_int,
    patch: c_int,
}

struct Rival {
    sgemm: Sgemm,
    about: String,
}

impl Rival {
    fn load() -> Result<Self, String> {
        let library = match std::env::var("RIVAL_ONEDNN") {
            Ok(path) => Library::open(&path),
            Err(_) => Library::open("libdnnl.so.3").or_else(|_| Library::open("libdnnl.so.2")),
        }?;
        let [sgemm, version] = [c"dnnl_sgemm", c"dnnl_version"].map(|name| library.symbol(name));
        // SAFETY: the signatures of dnnl.h, versions 1 to 3; `dnnl_version_t` begins with three
        // numbers.
        unsafe {
            let version =
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *const Version>(version?);
            let Version { major, minor, patch } = &*version();
            Ok(Rival {
                sgemm: std::mem::transmute::<*mut c_void, Sgemm>(sgemm?),
                about: format!("oneDNN {major}.{minor}.{patch}"),
            })
        }
    }
}

impl Gemm<f32> for Rival {
    fn multiply(&mut self, case: &Case, a: &[f32], b: &[f32], c: &mut [f32]) {
        let [m, k, n] = [case.m, case.k, case.n];
        let letter = |t: bool| if t { b'T' } else { b'N' } as c_char;
        let [ta, tb] = case.transposed.map(letter);
        let (lda, ldb) = (if case.transposed[0] { m } else { k }, if case.transposed[1] { k } else { n });
        case.each(a, b, c, |a, b, c| {
            let [m, k, n, lda, ldb] = [m, k, n, lda, ldb].map(|x| x as i64);
            let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
            // SAFETY: dense operands, their lengths those of the chunks, at the strides that
            // their order has.
            let status = unsafe { (self.sgemm)(ta, tb, m, n, k, 1.0, a, lda, b, ldb, 0.0, c, n) };
            assert_eq!(status, 0, "dnnl_sgemm");
        });
    }
}

impl Gemm<f64> for Rival {
    fn prepare(&mut self, _: &Case) -> Result<(), String> {
        Err("f32 only".into())
    }
    fn multiply(&mut self, _: &Case, _: &[f64], _: &[f64], _: &mut [f64]) {}
}

impl Worker for Rival {
    fn describe(&self) -> String {
        self.about.clone()
    }
}

fn main() {
    rival_worker::serve_loaded(Rival::load());
}
