//! Matrix product against matrixmultiply: squares from 16 to 512, and the shapes that training
//! meets (many short rows; gradients of weights, which sum over them). `POPGRAD_ISA` picks our
//! instruction set; matrixmultiply takes the CPU's best.
//!
//! matrixmultiply allocates its packing buffers in every call, and the times include that: it is
//! what a caller would pay.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use popgrad_kernels::{Elem, Kernels, Mat, MatMut, Mats, MatsMut, Scratch, Write};
use std::hint::black_box;

/// m, k, n, and whether A and B are views of transposed memory.
type Shape = ([usize; 3], [bool; 2]);

const N: [bool; 2] = [false, false];
const A_T: [bool; 2] = [true, false];
const B_T: [bool; 2] = [false, true];

const SHAPES: &[Shape] = &[
    ([16, 16, 16], N),
    ([32, 32, 32], N),
    ([64, 64, 64], N),
    ([64, 64, 64], B_T),
    ([128, 128, 128], N),
    ([256, 256, 256], N),
    ([256, 256, 256], A_T),
    ([256, 256, 256], B_T),
    ([512, 512, 512], N),
    ([20, 30, 30], N),
    ([20, 30, 30], B_T),
    ([30, 20, 30], A_T),
    ([20480, 30, 30], N),
    ([20480, 30, 30], B_T),
    ([1024, 60, 60], N),
    ([30, 20480, 30], A_T),
];

/// Row-major C = A B of the rival.
trait Rival: Elem {
    fn rival(a: Mat<'_, Self>, b: Mat<'_, Self>, ap: &[Self], bp: &[Self], c: &mut [Self]);
}

macro_rules! rival {
    ($elem:ty, $gemm:path) => {
        impl Rival for $elem {
            fn rival(a: Mat<'_, $elem>, b: Mat<'_, $elem>, ap: &[$elem], bp: &[$elem], c: &mut [$elem]) {
                let (m, k, n) = (a.rows(), a.cols(), b.cols());
                let strides = |v: Mat<'_, $elem>| (v.row_stride() as isize, v.col_stride() as isize);
                let ((ra, ca), (rb, cb)) = (strides(a), strides(b));
                assert!(ap.len() >= m * k && bp.len() >= k * n && c.len() >= m * n);
                let c = c.as_mut_ptr();
                // SAFETY: dense matrices of the lengths asserted, in one order or the other.
                unsafe {
                    $gemm(m, k, n, 1.0, ap.as_ptr(), ra, ca, bp.as_ptr(), rb, cb, 0.0, c, n as isize, 1)
                }
            }
        }
    };
}
rival!(f32, matrixmultiply::sgemm);
rival!(f64, matrixmultiply::dgemm);

fn view<E: Elem>(data: &[E], rows: usize, cols: usize, transposed: bool) -> Mat<'_, E> {
    if transposed { Mat::new(data, cols, rows).unwrap().t() } else { Mat::new(data, rows, cols).unwrap() }
}

fn bench<E: Rival>(criterion: &mut Criterion) {
    let kernels = Kernels::<E>::from_env().expect("POPGRAD_ISA");
    let mut group = criterion.benchmark_group(format!("gemm/{}", E::NAME));
    let entries = |n: usize| -> Vec<E> { (0..n).map(|i| E::from_f64((i as f64 * 0.37).sin())).collect() };
    for &([m, k, n], [ta, tb]) in SHAPES {
        let (a, b, mut c) = (entries(m * k), entries(k * n), vec![E::ZERO; m * n]);
        let (av, bv) = (view(&a, m, k, ta), view(&b, k, n, tb));
        let mut scratch = Scratch::new(kernels.gemm_scratch(m, k, n));
        let name = format!("{m}x{k}x{n}{}{}", if ta { " At" } else { "" }, if tb { " Bt" } else { "" });
        // Throughput in FLOP: criterion prints Gelem/s where GFLOP/s is meant.
        group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
        group.bench_function(BenchmarkId::new(kernels.isa().name(), &name), |bencher| {
            bencher.iter(|| {
                let c = MatMut::new(black_box(&mut c), m, n).unwrap();
                kernels.gemm(Write::Set, E::ONE, black_box(av), black_box(bv), c, &mut scratch).unwrap();
            });
        });
        group.bench_function(BenchmarkId::new("matrixmultiply", &name), |bencher| {
            bencher.iter(|| E::rival(black_box(av), black_box(bv), &a, &b, black_box(&mut c)));
        });
    }
    group.finish();
}

/// 1024 products of 20 x 30 by 30 x 30 in one call, each with a B of its own and all with the same;
/// and a short A with B packed before.
fn reuse<E: Rival>(criterion: &mut Criterion) {
    let kernels = Kernels::<E>::from_env().expect("POPGRAD_ISA");
    let mut group = criterion.benchmark_group(format!("gemm reuse/{}", E::NAME));
    let entries = |n: usize| -> Vec<E> { (0..n).map(|i| E::from_f64((i as f64 * 0.37).sin())).collect() };
    let (count, m, k, n) = (1024, 20, 30, 30);
    let (a, b, mut c) = (entries(count * m * k), entries(count * k * n), vec![E::ZERO; count * m * n]);
    let av = Mats::new(&a, [count, m, k], m * k, k).unwrap();
    let mut scratch = Scratch::new(kernels.gemm_scratch(m, k, n));
    group.throughput(Throughput::Elements(2 * (count * m * k * n) as u64));
    for (name, next_b) in [("1024x20x30x30", k * n), ("1024x20x30x30 shared B", 0)] {
        let bv = Mats::new(&b, [count, k, n], next_b, n).unwrap();
        group.bench_function(BenchmarkId::new(kernels.isa().name(), name), |bencher| {
            bencher.iter(|| {
                let c = MatsMut::new(black_box(&mut c), [count, m, n], m * n, n).unwrap();
                kernels
                    .gemm_batch(Write::Set, E::ONE, black_box(av), black_box(bv), c, &mut scratch)
                    .unwrap();
            });
        });
    }
    let (m, k, n) = (16, 128, 128);
    let (a, b, mut c) = (entries(m * k), entries(k * n), vec![E::ZERO; m * n]);
    let (a, b) = (Mat::new(&a, m, k).unwrap(), Mat::new(&b, n, k).unwrap().t());
    let packed = kernels.pack_b(b).unwrap();
    let mut scratch = Scratch::new(kernels.gemm_scratch(m, k, n));
    group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
    group.bench_function(BenchmarkId::new(kernels.isa().name(), "16x128x128 Bt"), |bencher| {
        bencher.iter(|| {
            let c = MatMut::new(black_box(&mut c), m, n).unwrap();
            kernels.gemm(Write::Set, E::ONE, black_box(a), black_box(b), c, &mut scratch).unwrap();
        });
    });
    group.bench_function(BenchmarkId::new(kernels.isa().name(), "16x128x128 Bt packed"), |bencher| {
        bencher.iter(|| {
            let c = MatMut::new(black_box(&mut c), m, n).unwrap();
            kernels.gemm_packed(Write::Set, E::ONE, black_box(a), &packed, c, &mut scratch).unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, bench::<f32>, bench::<f64>, reuse::<f32>, reuse::<f64>);
criterion_main!(benches);
