//! The same bits whatever the pool and the number of tasks, and what is refused. Every form against
//! one call: `checks/gemm.rs`.

use super::*;
use crate::checks::testkit::{Rng, every_isa};

/// A shape, whether A and B are transposed, and whether k is cut.
const SHAPES: [([usize; 3], [bool; 2], bool); 7] = [
    ([70, 40, 90], [false; 2], false),
    ([260, 530, 300], [false; 2], false),
    // Enough for B to be packed by all, in several blocks.
    ([450, 560, 420], [false, true], false),
    ([450, 1100, 170], [true, false], false),
    ([24, 9000, 40], [true, false], true),
    ([1, 5000, 3], [false; 2], true),
    ([400, 3, 1], [false; 2], false),
];

fn bits<E: Elem>() {
    let pools: Vec<rayon::ThreadPool> = [1, 2, 3, 7]
        .into_iter()
        .map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap())
        .collect();
    // As the library has it, and so that everything is cut: several blocks of B in both directions,
    // other parts of k.
    let small = Spread { task: 1, small: 1 << 11, blocks: 2, large: 0, rows: 1, shared: 1, solo: 0 };
    for kernels in every_isa::<E>() {
        for (how, ([m, k, n], [ta, tb], cut)) in
            [SPREAD, small].into_iter().flat_map(|h| SHAPES.map(|s| (h, s)))
        {
            let plan = Plan::new::<E>(kernels.isa());
            let cut = cut || how != SPREAD && m * n <= how.small && k >= 4 * plan.blocking.kc;
            let mut rng = Rng(m as u64);
            let mut operand =
                |rows, cols, t: bool| (rng.vec::<E>(rows * cols, 1.0), if t { (1, rows) } else { (cols, 1) });
            let ((a, (ra, ca)), (b, (rb, cb))) = (operand(m, k, ta), operand(k, n, tb));
            let a = Mat::with_strides(&a, m, k, ra, ca).unwrap();
            let b = Mat::with_strides(&b, k, n, rb, cb).unwrap();
            let old: Vec<E> = (0..m * n).map(|i| E::from_f64((i % 7) as f64 - 3.0)).collect();
            let each = kernels.gemm_scratch(m, k, n);
            // C by columns where A is.
            let (rs, cs) = if ta { (1, m) } else { (n, 1) };
            let alpha = E::from_f64(0.75);
            let mut one = old.clone();
            let view = MatMut::with_strides(&mut one, m, n, rs, cs).unwrap();
            kernels.gemm(Write::Add, alpha, a, b, view, &mut Scratch::new(each)).unwrap();
            let mut first: Option<Vec<E>> = None;
            for (pool, tasks) in pools.iter().zip([1, 2, 3, 7]).chain(pools.iter().zip([7, 3, 2, 1])) {
                let mut c = old.clone();
                let mut scratch: Vec<_> = (0..tasks).map(|_| Scratch::new(each)).collect();
                let mut shared = Scratch::new(shared_len(&how, &plan, m, k, n));
                shared.as_mut_slice().fill(E::NAN);
                let (all, shared) = (&mut scratch, &mut shared);
                pool.install(|| {
                    let view = MatMut::with_strides(&mut c, m, n, rs, cs).unwrap();
                    let problem = GemmProblem { plan, write: Write::Add, alpha, a, b };
                    kernels.gemm_parallel_planned(how, problem, view, ParallelScratch { tasks: all, shared })
                })
                .unwrap();
                let first = first.get_or_insert_with(|| c.clone());
                assert!(*first == c, "{:?} {m}x{k}x{n}: {tasks} tasks", kernels.isa());
                assert_eq!(k_cuts(&how, &plan, m, k, n).len() > 2, cut, "{m}x{k}x{n}");
                assert!(cut || one == c, "{:?} {m}x{k}x{n}: not as one call", kernels.isa());
            }
        }
    }
}

#[test]
fn the_bits_do_not_depend_on_threads() {
    bits::<f32>();
    bits::<f64>();
}

#[test]
fn what_does_not_fit_is_refused() {
    let kernels = Kernels::<f64>::from_env().unwrap();
    let (m, k, n) = (100, 90, 80);
    let (a, b) = (vec![1.0; m * k], vec![1.0; k * n]);
    let (a, b) = (Mat::new(&a, m, k).unwrap(), Mat::new(&b, k, n).unwrap());
    let call = |b: Mat<'_, f64>, rows: usize, scratch: &[usize], less: usize| {
        let mut c = vec![0.0; rows * n];
        let c = MatMut::new(&mut c, rows, n).unwrap();
        let mut scratch: Vec<_> = scratch.iter().map(|l| Scratch::new(*l)).collect();
        let mut shared = Scratch::new(kernels.gemm_shared_scratch(m, k, n) - less);
        let scratch = ParallelScratch { tasks: &mut scratch, shared: &mut shared };
        kernels.gemm_parallel(Write::Set, 1.0, a, b, c, scratch)
    };
    let each = kernels.gemm_scratch(m, k, n);
    assert_eq!(call(b, m, &[each, each], 0), Ok(()));
    let short = KernelError::ScratchTooSmall { needed: each, have: each - 1 };
    assert_eq!(call(b, m, &[each, each - 1], 0), Err(short));
    assert_eq!(call(b, m, &[], 0), Err(KernelError::ScratchTooSmall { needed: each, have: 0 }));
    let all = kernels.gemm_shared_scratch(m, k, n);
    assert_eq!(call(b, m, &[each; 2], 1), Err(KernelError::ScratchTooSmall { needed: all, have: all - 1 }));
    assert!(matches!(call(b, m - 1, &[each; 2], 0), Err(KernelError::Shape { what: "c rows", .. })));
    assert!(matches!(call(b.t(), m, &[each; 2], 0), Err(KernelError::Shape { what: "b rows", .. })));
}

/// Where k begins to be cut, as documented; no shape is too large to be asked for.
#[test]
fn shapes_that_are_cut() {
    for isa in crate::Isa::available() {
        let kernels = Kernels::<f32>::new(isa).unwrap();
        let plan = Plan::new::<f32>(isa);
        let least = 8 * plan.blocking.kc;
        let parts = |m, k, n| k_cuts(&SPREAD, &plan, m, k, n).len() - 1;
        assert_eq!([parts(256, least - 1, 512), parts(256, least, 512), parts(1, 1 << 30, 1)], [1, 2, 16]);
        assert_eq!([parts(131_072, least, 1), parts(131_073, least, 1)], [2, 1]);
        for big in [usize::MAX, usize::MAX - 7, 1 << 62] {
            for [m, k, n] in [[big, 1, 1], [1, big, 1], [1, 1, big], [big; 3], [0, big, big]] {
                let len = kernels.gemm_shared_scratch(m, k, n);
                assert!(len <= 4 << 20 && (m > 0 || len == 0), "{m} {k} {n}: {len}");
            }
        }
    }
}

/// Borders go up from 0 to all, on multiples of the unit.
#[test]
fn borders() {
    for len in [0, 1, 7, 96, 131] {
        for unit in [1, 8, 16] {
            for parts in [1, 2, 3, 7, 16] {
                let at: Vec<usize> = (0..=parts).map(|i| border(len, unit, i, parts)).collect();
                assert!(at[0] == 0 && at[parts] == len && at.is_sorted(), "{len} {unit} {parts}");
                assert!(at[..parts].iter().all(|x| x % unit == 0 || *x == len));
            }
        }
    }
}
