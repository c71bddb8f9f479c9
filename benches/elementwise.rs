//! exp, ln, sum, softmax and cross-entropy on every instruction set; std's exp and ln one by one
//! for comparison.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use popgrad_kernels::{Elem, Isa, KernelError, Kernels, Mat, MatMut};
use std::hint::black_box;

/// Fits the first-level cache with its output.
const N: usize = 2048;

fn bench<E: Elem>(c: &mut Criterion, std_exp: fn(E) -> E, std_ln: fn(E) -> E) -> Result<(), KernelError> {
    let x: Vec<E> = (0..N).map(|i| E::from_f64((i * 7919 % 1000) as f64 / 50.0 - 10.0)).collect();
    let y: Vec<E> = (0..N).map(|i| E::from_f64((i * 7919 % 1000) as f64 / 50.0 + 0.01)).collect();
    let mut out = vec![E::ZERO; N];
    let mut group = c.benchmark_group(format!("elementwise {}", E::NAME));
    group.throughput(Throughput::Elements(N as u64));
    group.bench_function("exp/std", |b| {
        b.iter(|| {
            for (o, x) in out.iter_mut().zip(black_box(&x)) {
                *o = std_exp(*x);
            }
        });
    });
    group.bench_function("ln/std", |b| {
        b.iter(|| {
            for (o, y) in out.iter_mut().zip(black_box(&y)) {
                *o = std_ln(*y);
            }
        });
    });
    // One-hot targets over 32 symbols.
    let (rows, symbols) = (N / 32, 32);
    let targets: Vec<f64> =
        (0..N).map(|i| f64::from(u8::from(i % symbols == i / symbols % symbols))).collect();
    let mut losses = vec![0.0; rows];
    for isa in Isa::available() {
        let kernels = Kernels::<E>::new(isa)?;
        group.bench_function(BenchmarkId::new("exp", isa.name()), |b| {
            b.iter(|| kernels.exp(black_box(&x), &mut out));
        });
        group.bench_function(BenchmarkId::new("ln", isa.name()), |b| {
            b.iter(|| kernels.ln(black_box(&y), &mut out));
        });
        group.bench_function(BenchmarkId::new("sum", isa.name()), |b| {
            b.iter(|| kernels.sum(black_box(&x)));
        });
        group.bench_function(BenchmarkId::new("softmax of 32", isa.name()), |b| {
            b.iter(|| kernels.softmax_rows(MatMut::new(black_box(&mut out), rows, symbols)?));
        });
        group.bench_function(BenchmarkId::new("cross-entropy of 32", isa.name()), |b| {
            b.iter(|| {
                let (z, t) = (Mat::new(black_box(&x), rows, symbols)?, Mat::new(&targets, rows, symbols)?);
                kernels.cross_entropy(z, t, &mut losses, MatMut::new(&mut out, rows, symbols)?)
            });
        });
    }
    group.finish();
    Ok(())
}

fn elementwise(c: &mut Criterion) {
    bench::<f32>(c, f32::exp, f32::ln).expect("the shapes fit together");
    bench::<f64>(c, f64::exp, f64::ln).expect("the shapes fit together");
}

criterion_group!(benches, elementwise);
criterion_main!(benches);
