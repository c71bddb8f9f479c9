//! matrixmultiply 0.3.11: AVX-512 kernels, feature `threading`; it allocates its packing buffers in
//! every call. Built by another package without its features, it has the kernels of the baseline
//! alone and no threads.

use rayon::prelude::*;
use rival_worker::{Case, Gemm, Worker, serve};

struct Rival;

macro_rules! rival {
    ($t:ty, $gemm:path) => {
        impl Gemm<$t> for Rival {
            fn multiply(&mut self, case: &Case, a: &[$t], b: &[$t], c: &mut [$t]) {
                let (m, k, n) = (case.m, case.k, case.n);
                let [[rs_a, cs_a], [rs_b, cs_b]] = case.strides().map(|s| s.map(|x| x as isize));
                let one = |a: &[$t], b: &[$t], c: &mut [$t]| {
                    assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n);
                    let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
                    // SAFETY: dense operands of the lengths asserted, at the strides that their
                    // order has.
                    unsafe { $gemm(m, k, n, 1.0, a, rs_a, cs_a, b, rs_b, cs_b, 0.0, c, n as isize, 1) }
                };
                if case.threads == 1 || case.batch == 1 {
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
rival!(f32, matrixmultiply::sgemm);
rival!(f64, matrixmultiply::dgemm);

impl Worker for Rival {
    fn describe(&self) -> String {
        match env!("CARGO_PKG_NAME") {
            "matrixmultiply-portable" => "matrixmultiply 0.3.11, no detection".into(),
            _ => "matrixmultiply 0.3.11".into(),
        }
    }
}

fn main() {
    serve(Rival);
}
