//! Attention and products allocate nothing, not over threads either.

use crate::{counted, least, pools, wake_all_threads};
use popgrad_kernels::{
    Attention, AttentionGrad, Kernels, KvGrad, Mat, MatMut, Mats, MatsMut, ParallelScratch, Queries, Save,
    Saved, Scratch, Write,
};

fn view_mut([count, t, d]: [usize; 3], m: &mut [f32]) -> MatsMut<'_, f32> {
    MatsMut::new(m, [count, t, d], t * d, d).unwrap()
}

/// Allocations of some calls forward and backward.
fn attention(pool: &rayon::ThreadPool, [count, t, d]: [usize; 3], tasks: usize) -> usize {
    let k = Kernels::<f32>::from_env().unwrap();
    let data: Vec<f32> = (0..count * t * d).map(|i| (i * 7919 % 1000) as f32 / 1000.0).collect();
    let (mut out, mut rows) = (data.clone(), vec![0.0; count * t * 2]);
    let (mut dq, mut dk, mut dv) = (data.clone(), data.clone(), data.clone());
    let shape = [count, t, d];
    let view = Mats::new(&data, shape, t * d, d).unwrap();
    let x = Attention { q: view, k: view, v: view, scale: 0.2, queries: Queries::Last };
    let mut scratch: Vec<_> = (0..tasks).map(|_| Scratch::new(k.attention_scratch(t, t, d, d))).collect();
    let mut fold = Scratch::new(k.attention_fold_scratch(&x));
    let call = || {
        let keep = Save::Rows(MatsMut::new(&mut rows, [count, t, 2], t * 2, 2).unwrap());
        k.attention_parallel(&x, view_mut(shape, &mut out), keep, &mut scratch).unwrap();
        let kept = Saved::Rows(Mats::new(&rows, [count, t, 2], t * 2, 2).unwrap());
        let out = Mats::new(&out, shape, t * d, d).unwrap();
        let dkv = KvGrad::Separate { dk: Some(view_mut(shape, &mut dk)), dv: Some(view_mut(shape, &mut dv)) };
        let grad = AttentionGrad { saved: kept, out, dout: view, dq: view_mut(shape, &mut dq), dkv };
        let scratch = ParallelScratch { tasks: &mut scratch, shared: &mut fold };
        k.attention_backward_parallel(&x, grad, scratch).unwrap();
    };
    count_in(pool, call)
}

/// Allocations of some products by several tasks.
fn products(pool: &rayon::ThreadPool, [m, k, n]: [usize; 3], tasks: usize) -> usize {
    let kernels = Kernels::<f32>::from_env().unwrap();
    let (a, b, mut c) = (vec![0.5; m * k], vec![0.25; k * n], vec![0.0; m * n]);
    let (a, b) = (Mat::new(&a, k, m).unwrap().t(), Mat::new(&b, k, n).unwrap());
    let mut scratch: Vec<_> = (0..tasks).map(|_| Scratch::new(kernels.gemm_scratch(m, k, n))).collect();
    let mut shared = Scratch::new(kernels.gemm_shared_scratch(m, k, n));
    count_in(pool, || {
        let c = MatMut::new(&mut c, m, n).unwrap();
        let scratch = ParallelScratch { tasks: &mut scratch, shared: &mut shared };
        kernels.gemm_parallel(Write::Set, 1.0, a, b, c, scratch).unwrap();
    })
}

/// Allocations of some calls within a pool.
fn count_in(pool: &rayon::ThreadPool, mut call: impl FnMut() + Send) -> usize {
    pool.install(|| {
        wake_all_threads();
        (0..3).for_each(|_| call());
        least(|| counted(|| (0..20).for_each(|_| call())))
    })
}

pub(crate) fn kernels_over_threads() {
    for pool in pools() {
        for shape in [[40, 20, 30], [2, 500, 16]] {
            assert_eq!(attention(pool, shape, pool.current_num_threads()), 0, "{shape:?}");
        }
        // On one thread, a grid of C, parts of k, blocks of B packed by all.
        for shape in [[20, 30, 20], [200, 100, 150], [30, 5000, 40], [700, 600, 700]] {
            assert_eq!(products(pool, shape, pool.current_num_threads()), 0, "{shape:?}");
        }
    }
}
