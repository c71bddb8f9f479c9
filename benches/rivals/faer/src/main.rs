//! faer 0.24: its matmul takes AVX-512 kernels where the CPU has them.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use rival_worker::{Case, Gemm, Worker, serve};

struct Rival;

macro_rules! rival {
    ($t:ty) => {
        impl Gemm<$t> for Rival {
            fn multiply(&mut self, case: &Case, a: &[$t], b: &[$t], c: &mut [$t]) {
                let (m, k, n) = (case.m, case.k, case.n);
                let one = |a: &[$t], b: &[$t], c: &mut [$t], par| {
                    let [ta, tb] = case.transposed;
                    let a = match ta {
                        true => MatRef::from_row_major_slice(a, k, m).transpose(),
                        false => MatRef::from_row_major_slice(a, m, k),
                    };
                    let b = match tb {
                        true => MatRef::from_row_major_slice(b, n, k).transpose(),
                        false => MatRef::from_row_major_slice(b, k, n),
                    };
                    matmul(MatMut::from_row_major_slice_mut(c, m, n), Accum::Replace, a, b, 1.0, par);
                };
                if case.threads == 1 {
                    case.each(a, b, c, |a, b, c| one(a, b, c, Par::Seq));
                } else if case.batch == 1 {
                    one(a, b, c, Par::rayon(case.threads));
                } else {
                    let problems = a.par_chunks_exact(m * k).zip(b.par_chunks_exact(k * n));
                    let problems = problems.zip(c.par_chunks_exact_mut(m * n)).with_min_len(16);
                    problems.for_each(|((a, b), c)| one(a, b, c, Par::Seq));
                }
            }
        }
    };
}
rival!(f32);
rival!(f64);

impl Worker for Rival {
    fn describe(&self) -> String {
        "faer 0.24.4".into()
    }
}

fn main() {
    rayon::scope(|_| serve(Rival));
}
