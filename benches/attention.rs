//! Causal attention, forward alone and forward with backward, on one thread and on two: a batch of
//! the papers' main size, its last-query layer, and long sequences. Criterion's throughput counts
//! elements as flops: 2 B T² D forward, 3.5 times that with backward.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use popgrad_kernels::{
    Attention, AttentionGrad, Elem, KernelError, Kernels, KvGrad, Mats, MatsMut, ParallelScratch, Queries,
    Save, Saved, Scratch,
};
use std::hint::black_box;

/// (problems, queries, keys, d = dv): batch times heads is the number of problems.
const SHAPES: [[usize; 4]; 8] = [
    [64, 20, 20, 30],
    [1024, 20, 20, 30],
    // The same in the second-level cache.
    [32, 1, 20, 30],
    [1024, 1, 20, 30],
    [512, 256, 256, 128],
    [256, 256, 256, 32],
    [64, 1024, 1024, 64],
    [8, 4096, 4096, 64],
];

fn numbers<E: Elem>(n: usize) -> Vec<E> {
    (0..n).map(|i| E::from_f64((i * 7919 % 1000) as f64 / 500.0 - 1.0)).collect()
}

fn bench<E: Elem>(c: &mut Criterion) -> Result<(), KernelError> {
    let kernels = Kernels::<E>::from_env()?;
    for [count, tq, tk, d] in SHAPES {
        let mut group = c.benchmark_group(format!("attention {count}x{tq}/{tk}x{d} {}", E::NAME));
        group.sample_size(10);
        let flops = 2 * count * d * if tq == 1 { 2 * tk } else { tk * tk };
        let (sq, sk) = ([count, tq, d], [count, tk, d]);
        let (q, k, v) =
            (numbers::<E>(count * tq * d), numbers::<E>(count * tk * d), numbers::<E>(count * tk * d));
        let (mut out, mut rows) = (vec![E::ZERO; count * tq * d], vec![E::ZERO; count * tq * 2]);
        let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
        let dout = numbers::<E>(count * tq * d);
        let x = Attention {
            q: Mats::new(&q, sq, tq * d, d)?,
            k: Mats::new(&k, sk, tk * d, d)?,
            v: Mats::new(&v, sk, tk * d, d)?,
            scale: E::from_f64(1.0 / (d as f64).sqrt()),
            queries: Queries::Last,
        };
        for threads in [1, 2] {
            let pool =
                rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
            let scratch_of_one = || Scratch::new(kernels.attention_scratch(tq, tk, d, d));
            let mut scratch: Vec<Scratch<E>> = (0..threads).map(|_| scratch_of_one()).collect();
            let mut fold = Scratch::new(kernels.attention_fold_scratch(&x));
            let mut call = |with_backward: bool| -> Result<(), KernelError> {
                let keep = Save::Rows(MatsMut::new(&mut rows, [count, tq, 2], tq * 2, 2)?);
                let to = MatsMut::new(&mut out, sq, tq * d, d)?;
                kernels.attention_parallel(black_box(&x), to, keep, &mut scratch)?;
                if !with_backward {
                    return Ok(());
                }
                kernels.attention_backward_parallel(
                    black_box(&x),
                    AttentionGrad {
                        saved: Saved::Rows(Mats::new(&rows, [count, tq, 2], tq * 2, 2)?),
                        out: Mats::new(&out, sq, tq * d, d)?,
                        dout: Mats::new(&dout, sq, tq * d, d)?,
                        dq: MatsMut::new(&mut dq, sq, tq * d, d)?,
                        dkv: KvGrad::Separate {
                            dk: Some(MatsMut::new(&mut dk, sk, tk * d, d)?),
                            dv: Some(MatsMut::new(&mut dv, sk, tk * d, d)?),
                        },
                    },
                    ParallelScratch { tasks: &mut scratch, shared: &mut fold },
                )
            };
            for (name, with_backward, factor) in [("forward", false, 2), ("with backward", true, 7)] {
                group.throughput(Throughput::Elements((flops * factor / 2) as u64));
                let id = BenchmarkId::new(name, format!("{threads} threads"));
                group.bench_function(id, |b| pool.install(|| b.iter(|| call(with_backward))));
            }
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
