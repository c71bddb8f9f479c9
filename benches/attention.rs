//! Causal attention, forward and backward, on every instruction set: a shard of training problems, its last-query layer,
//! and a long sequence.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use popgrad_kernels::{Elem, Isa, KernelError, Kernels, KvGrad, Mats, MatsMut, Scratch};
use std::hint::black_box;

/// (name, count, tq, tk, d = dv, row stride of Q K V and of their gradients).
const SHAPES: [(&str, usize, usize, usize, usize, usize); 3] =
    [("shard", 64, 20, 20, 30, 60), ("last query", 1024, 1, 20, 60, 60), ("long", 8, 256, 256, 128, 128)];

fn numbers<E: Elem>(n: usize) -> Vec<E> {
    (0..n).map(|i| E::from_f64((i * 7919 % 1000) as f64 / 500.0 - 1.0)).collect()
}

fn bench<E: Elem>(c: &mut Criterion) -> Result<(), KernelError> {
    for (name, count, tq, tk, d, rs) in SHAPES {
        let mut group = c.benchmark_group(format!("attention {name} {}", E::NAME));
        group.throughput(Throughput::Elements(count as u64));
        for isa in Isa::available() {
            let kernels = Kernels::<E>::new(isa)?;
            let mut scratch = Scratch::new(kernels.attention_scratch(tq, tk, d, d));
            let (q, k, v) =
                (numbers::<E>(count * tq * rs), numbers::<E>(count * tk * rs), numbers::<E>(count * tk * rs));
            let (mut out, mut probs) = (vec![E::ZERO; count * tq * d], vec![E::ZERO; count * tq * tk]);
            let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
            let dout = numbers::<E>(count * tq * d);
            let scale = E::from_f64(1.0 / (d as f64).sqrt());
            let qv = Mats::new(&q, [count, tq, d], tq * rs, rs)?;
            let kv = Mats::new(&k, [count, tk, d], tk * rs, rs)?;
            let vv = Mats::new(&v, [count, tk, d], tk * rs, rs)?;
            group.bench_function(BenchmarkId::new("forward", isa.name()), |b| {
                b.iter(|| {
                    let out = MatsMut::new(&mut out, [count, tq, d], tq * d, d)?;
                    let probs = MatsMut::new(&mut probs, [count, tq, tk], tq * tk, tk)?;
                    kernels.attention(black_box(qv), kv, vv, scale, out, probs, &mut scratch)
                });
            });
            group.bench_function(BenchmarkId::new("backward", isa.name()), |b| {
                b.iter(|| {
                    kernels.attention_backward(
                        black_box(qv),
                        kv,
                        vv,
                        scale,
                        Mats::new(&probs, [count, tq, tk], tq * tk, tk)?,
                        Mats::new(&dout, [count, tq, d], tq * d, d)?,
                        MatsMut::new(&mut dq, [count, tq, d], tq * rs, rs)?,
                        KvGrad::Separate {
                            dk: Some(MatsMut::new(&mut dk, [count, tk, d], tk * rs, rs)?),
                            dv: Some(MatsMut::new(&mut dv, [count, tk, d], tk * rs, rs)?),
                        },
                        &mut scratch,
                    )
                });
            });
        }
        group.finish();
    }
    Ok(())
}

fn attention(c: &mut Criterion) {
    bench::<f32>(c).expect("the shapes fit together");
    bench::<f64>(c).expect("the shapes fit together");
}

criterion_group!(benches, attention);
criterion_main!(benches);
