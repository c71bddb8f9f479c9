//! Attention against its naive twin within composed error bounds, its gradient against differences,
//! and the mask.

use crate::attention::problem::{Attention, KvGrad, Queries, Save, Saved};
use crate::checks::attention::{Case, check, check_shared, small};
use crate::checks::mask::{check_key_reach, check_query_reach};
use crate::checks::testkit::{Block, Rng, every_isa, gamma, tiny};
use crate::elem::Elem;
use crate::error::KernelError;
use crate::kernels::Kernels;
use crate::scratch::Scratch;
use crate::view::{Mats, MatsMut};
use proptest::prelude::*;

/// With the library's blocks and with the smallest, all queries and some of them.
fn both<E: Elem>(size: [usize; 5], pad: usize, heads: bool, range: f64, given: [bool; 2], seed: u64) {
    let mut start = Case::<E>::new(size, pad, heads, range, seed);
    every_isa::<E>().iter().for_each(|k| check(k, &start, given));
    start.plan = small([1, 2, 4, 8, 16, 32][seed as usize % 6]);
    every_isa::<E>().iter().for_each(|k| check(k, &start, given));
    if size[1] == size[2] {
        let start = start.listed(seed % 9, seed);
        every_isa::<E>().iter().for_each(|k| check(k, &start, given));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn attention_matches_its_twin(
        count in 0usize..4, tq in 1usize..75, more in 0usize..45, last: bool, all: bool, d in 0usize..40,
        dv in 0usize..70, pad in 0usize..4, heads: bool, sharp: bool, given: [bool; 2], seed: u64,
    ) {
        let (tq, more) = if last { (1, more) } else if all { (tq, 0) } else { (tq, more) };
        let (size, range) = ([count, tq, tq + more, d, dv], if sharp { 12.0 } else { 1.0 });
        both::<f32>(size, pad, heads, range, given, seed);
        both::<f64>(size, pad, heads, range, given, seed);
    }
}

#[test]
fn named_shapes() {
    // The training shapes, every edge of a block of rows, one of everything, nothing at all.
    for size in [
        [2, 20, 20, 30, 30],
        [3, 1, 20, 60, 60],
        [1, 70, 130, 33, 17],
        [1, 1, 1, 1, 1],
        [2, 8, 8, 16, 16],
        [2, 9, 9, 16, 1],
        [2, 16, 17, 1, 16],
        [1, 7, 64, 5, 0],
        [1, 7, 12, 0, 5],
        [2, 1, 3, 0, 0],
        [0, 3, 3, 2, 2],
    ] {
        both::<f32>(size, 1, false, 1.0, [true; 2], 5);
        both::<f64>(size, 0, true, 1.0, [true; 2], 6);
    }
}

/// A linear functional of the output, Σ w out, differenced in every input: Richardson's combination
/// of two steps, whose difference bounds the truncation error; rounding adds the forward error over
/// h.
#[test]
fn gradients_are_the_derivatives() {
    for size in [[1, 5, 5, 3, 4], [2, 11, 14, 4, 3], [1, 1, 6, 4, 5], [1, 37, 37, 2, 2]] {
        for k in every_isa::<f64>() {
            let mut case = Case::<f64>::new(size, 1, false, 1.0, 11);
            case.plan = small(8);
            case.dk.fill(|_| 0.0);
            case.dv.fill(|_| 0.0);
            case.forward(&k);
            case.backward(&k, true, true);
            let w = case.dout.dense();
            let (tk, d) = (size[2], size[3]);
            let loss = |c: &Case<f64>| -> f64 {
                let mut c = c.clone();
                c.forward(&k);
                c.out.dense().iter().zip(&w).map(|(o, w)| o * w).sum()
            };
            let mass: f64 = case.out.dense().iter().zip(&w).map(|(o, w)| (o * w).abs()).sum();
            let noise = gamma::<f64>(4 * (tk + d) + 8 + w.len()) * (mass + w.len() as f64);
            let (dq, dk, dv) = (case.dq.dense(), case.dk.dense(), case.dv.dense());
            for (which, grad) in [dq, dk, dv].iter().enumerate() {
                let mut at = 0;
                let shape = [&case.q, &case.k, &case.v][which].shape;
                for b in 0..shape[0] {
                    for i in 0..shape[1] {
                        for c in 0..shape[2] {
                            let slope = |h: f64| {
                                let moved = |by: f64| {
                                    let mut m = case.clone();
                                    let x = [&mut m.q, &mut m.k, &mut m.v].into_iter().nth(which).unwrap();
                                    let e = x.at(b, i, c);
                                    x.data[e] += by;
                                    loss(&m)
                                };
                                (moved(h) - moved(-h)) / (2.0 * h)
                            };
                            let h = 1e-3;
                            let (coarse, fine) = (slope(h), slope(h / 2.0));
                            let best = fine + (fine - coarse) / 3.0;
                            let bound = (fine - coarse).abs() / 3.0 + 8.0 * noise / h;
                            assert!(
                                (grad[at] - best).abs() <= bound,
                                "{:?} input {which} ({b} {i} {c}): {} for {best}, bound {bound:e}",
                                k.isa(),
                                grad[at]
                            );
                            at += 1;
                        }
                    }
                }
            }
        }
    }
}

/// Whatever a later key or value becomes, NaN included, no bit of an earlier query's results
/// changes; nor, backwards, does any bit of the gradients that a query cannot reach when its row is
/// poisoned.
fn causality<E: Elem>() {
    for k in every_isa::<E>() {
        for [tq, tk] in [[20, 20], [9, 23], [33, 33]] {
            let mut start = Case::<E>::new([2, tq, tk, 6, 5], 1, false, 1.0, 3);
            start.plan = small([32, 8, 16][tq % 3]);
            for poison in [E::NAN, E::INFINITY, E::from_f64(7.0)] {
                for j in [tk - 1, tk - tq + 1, tk - tq / 2 - 1, tk - tq + 8] {
                    check_key_reach(&k, &start, j, poison);
                }
            }
            for i in [0, tq / 2, tq - 2] {
                check_query_reach(&k, &start, i);
            }
        }
    }
}

#[test]
fn nothing_passes_the_mask() {
    causality::<f32>();
    causality::<f64>();
}

/// Scores of ±1e30 make hard, finite attention; equal ones uniform attention; NaN and +∞ in a seen
/// key make NaN rows.
fn special<E: Elem>() {
    for k in every_isa::<E>() {
        for (tq, tk) in [(1, 20), (6, 20), (20, 20), (70, 70)] {
            let mut case = Case::<E>::new([1, tq, tk, 1, 2], 0, false, 1.0, 1);
            case.plan = small(16);
            case.scale = E::ONE;
            case.q.fill(|_| E::ONE);
            case.k.fill(|j| E::from_f64(if j == 3 { 1e30 } else { -1e30 }));
            case.forward(&k);
            let last = |b: &Block<E>| b.dense()[(tq - 1) * b.shape[2]..].to_vec();
            assert!(last(&case.probs).iter().enumerate().all(|(j, p)| *p == f64::from(u8::from(j == 3))));
            assert_eq!(last(&case.out), case.v.dense()[6..8]);
            case.backward(&k, true, true);
            assert!(case.dq.dense().iter().chain(&case.dk.dense()).all(|x| x.is_finite()));
            for value in [0.0, 1e30, -1e30, tiny::<E>()] {
                case.k.fill(|_| E::from_f64(value));
                case.forward(&k);
                let p = last(&case.probs);
                assert!(
                    p.iter().all(|x| *x == p[0] && (*x * tk as f64 - 1.0).abs() < 8.0 * E::UNIT_ROUNDOFF)
                );
            }
            for bad in [E::NAN, E::INFINITY] {
                case.k.fill(|j| if j == 2 { bad } else { E::ONE });
                case.forward(&k);
                assert!(last(&case.probs).iter().chain(&last(&case.out)).all(|x| x.is_nan()));
            }
            // −∞ before a finite score counts for nothing, even a whole block of it; nothing but −∞
            // has no softmax.
            case.k.fill(|j| if j + 2 < tk { E::NEG_INFINITY } else { E::ONE });
            case.forward(&k);
            let p = last(&case.probs);
            assert!(p.iter().enumerate().all(|(j, p)| *p == if j + 2 < tk { 0.0 } else { 0.5 }), "{p:?}");
            assert!(last(&case.out).iter().all(|x| x.is_finite()));
            case.k.fill(|_| E::NEG_INFINITY);
            case.forward(&k);
            assert!(last(&case.probs).iter().chain(&last(&case.out)).all(|x| x.is_nan()));
        }
    }
}

#[test]
fn special_scores() {
    special::<f32>();
    special::<f64>();
}

#[test]
fn refusals_are_typed_and_write_nothing() {
    for k in every_isa::<f32>() {
        let mut scratch = Scratch::new(k.attention_scratch(3, 4, 5, 6));
        let data = vec![1f32; 200];
        let m = |c: usize, r: usize, n: usize| Mats::new(&data, [c, r, n], r * n, n).unwrap();
        let queries = Queries::Last;
        let good = Attention { q: m(2, 3, 5), k: m(2, 4, 5), v: m(2, 4, 6), scale: 1.0, queries };
        let refused = |x: &Attention<'_, f32>, o: [usize; 3], p: [usize; 3], rows: bool| {
            let (mut out, mut saved) = (vec![f32::NAN; 200], vec![f32::NAN; 200]);
            let ov = MatsMut::new(&mut out, o, o[1] * o[2], o[2]).unwrap();
            let kv = MatsMut::new(&mut saved, p, p[1] * p[2], p[2]).unwrap();
            let save = if rows { Save::Rows(kv) } else { Save::Probs(kv) };
            let mut scratch = Scratch::new(k.attention_scratch(4, 4, 5, 6));
            let r = k.attention(x, ov, save, &mut scratch);
            assert!(r.is_ok() || out.iter().chain(&saved).all(|x| x.is_nan()));
            r.err()
        };
        assert_eq!(refused(&good, [2, 3, 6], [2, 3, 4], false), None);
        assert_eq!(refused(&good, [2, 3, 6], [2, 3, 2], true), None);
        let shapes = [
            (m(1, 3, 5), good.k, good.v, [2, 3, 6], [2, 3, 4], false),
            (m(2, 3, 4), good.k, good.v, [2, 3, 6], [2, 3, 4], false),
            (good.q, good.k, m(2, 3, 6), [2, 3, 6], [2, 3, 4], false),
            (good.q, good.k, good.v, [2, 4, 6], [2, 3, 4], false),
            (good.q, good.k, good.v, [2, 3, 5], [2, 3, 4], false),
            (good.q, good.k, good.v, [2, 3, 6], [2, 3, 3], false),
            (good.q, good.k, good.v, [2, 3, 6], [1, 3, 4], false),
            (good.q, good.k, good.v, [2, 3, 6], [2, 3, 4], true),
            (good.q, good.k, good.v, [2, 3, 6], [2, 2, 2], true),
            (m(2, 5, 5), good.k, good.v, [2, 5, 6], [2, 5, 4], false),
            (m(2, 0, 5), good.k, good.v, [2, 0, 6], [2, 0, 4], false),
            (m(2, 0, 5), m(2, 0, 5), m(2, 0, 6), [2, 0, 6], [2, 0, 0], false),
        ];
        for (i, (q, key, v, o, p, rows)) in shapes.into_iter().enumerate() {
            let r = refused(&Attention { q, k: key, v, ..good }, o, p, rows);
            assert!(matches!(r, Some(KernelError::Shape { .. })), "{i}: {r:?}");
        }
        // Lists: one per problem, ascending without repetition, inside the keys; rows for all
        // positions.
        let listed = |starts, positions| Queries::Listed { starts, positions };
        let all = Attention { q: m(2, 4, 5), ..good };
        let lists: [(&[usize], &[usize], bool); 10] = [
            (&[0, 2, 3], &[0, 3, 1], true),
            (&[0, 0, 0], &[], true),
            (&[0, 2, 3], &[0, 4, 1], false),
            (&[0, 2, 3], &[3, 0, 1], false),
            (&[0, 2, 3], &[2, 2, 1], false),
            (&[0, 2], &[0, 1], false),
            (&[0, 3, 2], &[0, 1, 2], false),
            (&[1, 2, 3], &[0, 1, 2], false),
            (&[0, 2, 4], &[0, 1, 2], false),
            (&[0, 2, 2], &[0, 1, 2], false),
        ];
        for (starts, positions, good) in lists {
            let x = Attention { queries: listed(starts, positions), ..all };
            let r = refused(&x, [2, 4, 6], [2, 4, 4], false);
            assert_eq!(r.is_none(), good, "{starts:?} {positions:?} {r:?}");
            let typed = matches!(r, None | Some(KernelError::Domain { .. } | KernelError::Shape { .. }));
            assert!(typed, "{r:?}");
        }
        let few = Attention { queries: listed(&[0, 1, 1], &[0]), ..good };
        assert!(refused(&few, [2, 3, 6], [2, 3, 4], false).is_some());

        let (mut a, mut b) = (vec![0f32; 200], vec![0f32; 200]);
        let mut less = Scratch::new(k.attention_scratch(3, 4, 5, 6) - 1);
        let out = MatsMut::new(&mut a, [2, 3, 6], 18, 6).unwrap();
        let save = Save::Probs(MatsMut::new(&mut b, [2, 3, 4], 12, 4).unwrap());
        let r = k.attention(&good, out, save, &mut less);
        assert!(matches!(r, Err(KernelError::ScratchTooSmall { .. })));
        for wrong in 0..8 {
            let w = |i: usize| usize::from(wrong == i);
            let (mut dq, mut dk, mut dv) = (vec![0f32; 200], vec![0f32; 200], vec![0f32; 200]);
            let r = k.attention_backward(
                &good,
                if wrong == 5 { Saved::Rows(m(2, 3, 3)) } else { Saved::Probs(m(2, 3, 4 + w(1))) },
                m(2, 3, 6 + w(6)),
                m(2, 3 + w(2), 6),
                MatsMut::new(&mut dq, [2, 3 + w(7), 5], 20, 5).unwrap(),
                KvGrad::Separate {
                    dk: Some(MatsMut::new(&mut dk, [2 + w(3), 4, 5], 20, 5).unwrap()),
                    dv: Some(MatsMut::new(&mut dv, [2, 4, 6 + w(4)], 30, 7).unwrap()),
                },
                &mut scratch,
            );
            assert_eq!(r.is_ok(), wrong == 0, "{wrong}: {r:?}");
            assert!(wrong == 0 || dq.iter().chain(&dk).chain(&dv).all(|x| *x == 0.0));
        }
    }
}

/// A listed query has the bits of its row among all queries, forward and in dQ; the gradients of
/// rows not listed are 0.
fn lists<E: Elem>() {
    for k in every_isa::<E>() {
        for (t, bq, save) in [(70, 8, 1), (70, 32, 4), (33, 16, 7), (40, 4, 8), (20, 96, 3)] {
            let mut all = Case::<E>::new([3, t, t, 19, 21], 1, false, 3.0, 8);
            all.plan = small(if bq == 96 { 32 } else { bq });
            let mut some = all.clone().listed(save, 4);
            for case in [&mut all, &mut some] {
                case.forward(&k);
                case.backward(&k, true, true);
            }
            for b in 0..3 {
                let listed: Vec<usize> = some.queries(b).iter().map(|q| q.0).collect();
                for i in 0..t {
                    let row = |x: &Block<E>| -> Vec<f64> {
                        (0..x.shape[2]).map(|c| x.data[x.at(b, i, c)].to_f64()).collect()
                    };
                    if listed.contains(&i) {
                        let written = |c: &Case<E>| [&c.out, &c.probs, &c.rows, &c.dq].map(row);
                        assert_eq!(written(&some), written(&all), "{:?} {t} {bq} ({b} {i})", k.isa());
                    } else {
                        assert!(row(&some.out).iter().chain(&row(&some.probs)).all(|x| x.is_nan()));
                        assert!(row(&some.dq).iter().all(|x| x.to_bits() == 0));
                    }
                }
            }
        }
    }
}

#[test]
fn listed_queries_are_the_rows_of_all() {
    lists::<f32>();
    lists::<f64>();
}

#[test]
fn scratch_grows_with_every_argument_and_saturates() {
    let k = Kernels::<f32>::from_env().unwrap();
    let mut rng = Rng(9);
    for _ in 0..2000 {
        let a: [usize; 4] = std::array::from_fn(|_| rng.bits() as usize >> (rng.below(63) as u32));
        let base = k.attention_scratch(a[0], a[1], a[2], a[3]);
        for i in 0..4 {
            let mut more = a;
            more[i] = more[i].saturating_add(1 + rng.below(100));
            assert!(k.attention_scratch(more[0], more[1], more[2], more[3]) >= base, "{a:?} {i}");
        }
    }
    assert_eq!(k.attention_scratch(usize::MAX, usize::MAX, usize::MAX, usize::MAX), usize::MAX);
}

/// One array for both gradients is dK added first and dV after it, bit for bit; and it needs d =
/// dv.
#[test]
fn a_shared_gradient_is_the_sum_of_both() {
    fn all<E: Elem>(size: [usize; 5]) {
        for heads in [false, true] {
            let start = Case::<E>::new(size, 2, heads, 1.0, 77);
            every_isa::<E>().iter().for_each(|k| check_shared(k, &start));
        }
    }
    for size in [[3, 5, 5, 4, 4], [2, 1, 7, 6, 6], [2, 20, 20, 30, 30], [1, 3, 9, 17, 17]] {
        all::<f32>(size);
        all::<f64>(size);
    }
    let kernels = Kernels::<f32>::from_env().unwrap();
    let mut case = Case::<f32>::new([1, 2, 3, 4, 5], 0, false, 1.0, 1);
    let error = case.backward_shared(&kernels).unwrap_err();
    assert!(error.to_string().contains("shared gradient"), "{error}");
}
