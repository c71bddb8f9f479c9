//! The same bits for any number of threads and tasks, and nothing allocated on the way.

use crate::attention::plan::Plan;
use crate::attention::problem::{KvGrad, Saved};
use crate::checks::attention::{Case, small};
use crate::checks::testkit::{every_isa, gamma, same};
use crate::elem::Elem;
use crate::kernels::Kernels;
use crate::scratch::Scratch;
use crate::{AttentionGrad, ParallelScratch};

/// All that one call forward and one backward write, with `tasks` buffers.
fn run<E: Elem>(k: &Kernels<E>, start: &Case<E>, tasks: usize, shared: bool) -> Case<E> {
    let mut case = start.clone();
    let mut scratch: Vec<Scratch<E>> = (0..tasks).map(|_| start.scratch()).collect();
    let x = start.operands();
    for save in [crate::Save::Rows(case.rows.mats_mut()), crate::Save::Probs(case.probs.mats_mut())] {
        k.attention_parallel_planned(start.plan, &x, case.out.mats_mut(), save, &mut scratch).unwrap();
    }
    let done = case.clone();
    let saved = if start.recompute { Saved::Rows(done.rows.mats()) } else { Saved::Probs(done.probs.mats()) };
    let (dk, dv) = (case.dk.mats_mut(), case.dv.mats_mut());
    let dkv = if shared { KvGrad::Shared(dk) } else { KvGrad::Separate { dk: Some(dk), dv: Some(dv) } };
    let mut fold = Scratch::new(super::fold_len(&x, start.plan));
    fold.as_mut_slice().fill(E::NAN);
    let (out, dout, dq) = (done.out.mats(), done.dout.mats(), case.dq.mats_mut());
    let grad = AttentionGrad { saved, out, dout, dq, dkv };
    let scratch = ParallelScratch { tasks: &mut scratch, shared: &mut fold };
    k.attention_backward_parallel_planned(start.plan, &x, grad, scratch).unwrap();
    case
}

fn equal<E: Elem>(a: &[E], b: &[E]) -> bool {
    a.iter().zip(b).all(|(a, b)| same(a.to_f64(), b.to_f64()))
}

/// Many problems, few long ones (cut between rows), lists; against one call.
fn bits<E: Elem>() {
    let pools: Vec<rayon::ThreadPool> = [1, 2, 3, 7]
        .into_iter()
        .map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap())
        .collect();
    let plan: Plan = small(8);
    for k in every_isa::<E>() {
        for (size, lists) in [
            ([9, 20, 20, 5, 5], false),
            ([2, 70, 70, 6, 6], false),
            ([1, 65, 97, 4, 4], false),
            ([3, 33, 33, 7, 7], true),
            ([1, 1, 9, 3, 3], false),
            ([0, 4, 4, 3, 3], false),
        ] {
            for seed in [4, 5] {
                let mut start = Case::<E>::new(size, 1, seed == 5, 2.0, seed);
                start.plan = plan;
                let start = if lists { start.listed(5, 1) } else { start };
                for shared in [false, true] {
                    let first = pools[0].install(|| run(&k, &start, 1, shared));
                    for (pool, tasks) in pools.iter().zip([1, 2, 3, 7]).skip(1) {
                        let other = pool.install(|| run(&k, &start, tasks, shared));
                        let blocks = |c: &Case<E>| {
                            [&c.out, &c.rows, &c.probs, &c.dq, &c.dk, &c.dv].map(|b| b.data.clone())
                        };
                        for (i, (a, b)) in blocks(&first).iter().zip(&blocks(&other)).enumerate() {
                            assert!(equal(a, b), "{:?} {size:?} output {i}, {tasks} tasks", k.isa());
                        }
                    }
                }
                // One call: the same rows; the sums over queries up to their rounding.
                let parallel = run(&k, &start, 2, false);
                let mut one = start.clone();
                one.forward(&k);
                one.backward(&k, true, true);
                for (a, b) in
                    [(&one.out, &parallel.out), (&one.probs, &parallel.probs), (&one.dq, &parallel.dq)]
                {
                    assert!(equal(&a.data, &b.data), "{:?} {size:?}", k.isa());
                }
                // |dS| <= 2 |dO| |v|, |P| <= 1 per term; entries of Q, K at most 2, of dO and old
                // gradients 1, of V 2.
                let bound = 2.0
                    * gamma::<E>(2 * size[1] + 8)
                    * (1.0 + size[1] as f64 * 2.0 * (4.0 * size[4] as f64 + 2.0));
                for (a, b) in [(&one.dk, &parallel.dk), (&one.dv, &parallel.dv)] {
                    for (x, y) in a.dense().iter().zip(b.dense()) {
                        assert!((x - y).abs() <= bound, "{:?} {size:?} {x} {y}", k.isa());
                    }
                }
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
fn too_little_scratch_is_refused() {
    let k = Kernels::<f32>::from_env().unwrap();
    let mut start = Case::<f32>::new([2, 70, 70, 6, 6], 0, false, 1.0, 1);
    start.plan = small(8);
    let mut out = start.out.clone();
    let x = start.operands();
    let mut call = |scratch: &mut [Scratch<f32>]| {
        k.attention_parallel_planned(start.plan, &x, out.mats_mut(), crate::Save::Nothing, scratch).is_err()
    };
    assert!(call(&mut []));
    assert!(call(&mut [start.scratch(), Scratch::new(3)]));
    assert!(!call(&mut [start.scratch(), start.scratch()]));
}
