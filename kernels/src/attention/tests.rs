//! Attention against its naive twin within composed error bounds, its gradient against differences, and the mask.

use crate::testkit::{Block, Rng, every_isa, gamma, same, softmax_floor, tiny};
use crate::{Elem, KernelError, Kernels, KvGrad, Mats, MatsMut, Scratch, reference};
use proptest::prelude::*;

fn mats<E: Elem>(b: &Block<E>) -> Mats<'_, E> {
    Mats::new(&b.data, b.shape, b.bs, b.rs).unwrap()
}

fn mats_mut<E: Elem>(b: &mut Block<E>) -> MatsMut<'_, E> {
    MatsMut::new(&mut b.data, b.shape, b.bs, b.rs).unwrap()
}

/// One call's operands: the inputs filled, the outputs NaN.
#[derive(Clone)]
struct Case<E> {
    size: [usize; 5],
    scale: E,
    q: Block<E>,
    k: Block<E>,
    v: Block<E>,
    out: Block<E>,
    probs: Block<E>,
    dout: Block<E>,
    dq: Block<E>,
    dk: Block<E>,
    dv: Block<E>,
}

impl<E: Elem> Case<E> {
    fn new(size: [usize; 5], pad: usize, heads: bool, range: f64, seed: u64) -> Self {
        let [count, tq, tk, d, dv] = size;
        let mut rng = Rng(seed);
        let block = |rows, cols, p: usize| Block::<E>::new([count, rows, cols], (pad + p) % 4, heads);
        let (q, k, v) = (block(tq, d, 0), block(tk, d, 1), block(tk, dv, 2));
        let (out, probs, dout) = (block(tq, dv, 3), block(tq, tk, 0), block(tq, dv, 1));
        let (dq, dk, dv) = (block(tq, d, 2), block(tk, d, 3), block(tk, dv, 0));
        Case {
            size,
            scale: E::from_f64(1.0 / (d.max(1) as f64).sqrt()),
            q: q.random(&mut rng, range),
            k: k.random(&mut rng, range),
            v: v.random(&mut rng, 2.0),
            out,
            probs,
            dout: dout.random(&mut rng, 1.0),
            dq,
            // dK and dV are added to.
            dk: dk.random(&mut rng, 1.0),
            dv: dv.random(&mut rng, 1.0),
        }
    }

    fn scratch(&self, kernels: &Kernels<E>) -> Scratch<E> {
        let [_, tq, tk, d, dv] = self.size;
        let mut s = Scratch::new(kernels.attention_scratch(tq, tk, d, dv));
        s.as_mut_slice().fill(E::NAN);
        s
    }

    fn forward(&mut self, kernels: &Kernels<E>) {
        let mut scratch = self.scratch(kernels);
        let (out, probs) = (mats_mut(&mut self.out), mats_mut(&mut self.probs));
        kernels
            .attention(mats(&self.q), mats(&self.k), mats(&self.v), self.scale, out, probs, &mut scratch)
            .unwrap();
        self.out.assert_canaries();
        self.probs.assert_canaries();
    }

    fn backward(&mut self, kernels: &Kernels<E>, with_dk: bool, with_dv: bool) {
        let mut scratch = self.scratch(kernels);
        let (dk, dv) = (mats_mut(&mut self.dk), mats_mut(&mut self.dv));
        kernels
            .attention_backward(
                mats(&self.q),
                mats(&self.k),
                mats(&self.v),
                self.scale,
                mats(&self.probs),
                mats(&self.dout),
                mats_mut(&mut self.dq),
                KvGrad::Separate { dk: with_dk.then_some(dk), dv: with_dv.then_some(dv) },
                &mut scratch,
            )
            .unwrap();
        self.dq.assert_canaries();
        self.dk.assert_canaries();
        self.dv.assert_canaries();
    }
}

/// Dense f64 operands of problem `b`.
fn problem(x: &[f64], b: usize, len: usize) -> &[f64] {
    &x[b * len..(b + 1) * len]
}

/// The oracle is the reference's formula in f64; for E = f64 it errs as much as the kernel may: hence twice the bound.
fn oracle_slack<E: Elem>() -> f64 {
    if E::UNIT_ROUNDOFF == f64::UNIT_ROUNDOFF { 2.0 } else { 1.0 + 1e-6 }
}

/// Forward bounds, by composition (u unit roundoff, γ_n = n u / (1 − n u), any order of summation):
///
/// - scores: |ŝ_j − s_j| <= Δ_j = γ(d + 2) |scale| Σ_c |q_c k_jc|;
/// - with t_j = s_j − max: subtracting the max (any common shift cancels) moves the exponent by u |t̂_j|, exp errs by 2 u: the
///   exponential of key j is right up to e^±η_j, η_j = Δ_j + u (|t_j| + 2 max Δ) + 2 u;
/// - the sum of exponentials is right up to e^±H, H = ln Σ p_k e^η_k (convexity for the lower side); n additions,
///   reciprocal and product give γ(n + 2): |p̂_j − p_j| <= π_j = p_j expm1(η_j + H + γ(n + 2)) + the floor below which softmax writes 0;
/// - out: Σ_j π_j |v_j| + γ(n + 2) Σ_j (p_j + π_j) |v_j| + n tiny.
fn check_forward<E: Elem>(k: &Kernels<E>, case: &Case<E>) {
    let [count, tq, tk, d, dv] = case.size;
    let (u, slack, tiny) = (E::UNIT_ROUNDOFF, oracle_slack::<E>(), tiny::<E>());
    let (qs, ks, vs) = (case.q.dense(), case.k.dense(), case.v.dense());
    let (outs, probs, scale) = (case.out.dense(), case.probs.dense(), case.scale.to_f64());
    for b in 0..count {
        let (q, key, v) = (problem(&qs, b, tq * d), problem(&ks, b, tk * d), problem(&vs, b, tk * dv));
        for i in 0..tq {
            let n = reference::visible(i, tq, tk);
            let dot = |j: usize, abs: bool| -> f64 {
                (0..d).map(|c| q[i * d + c] * key[j * d + c]).map(|x| if abs { x.abs() } else { x }).sum()
            };
            let s: Vec<f64> = (0..n).map(|j| scale * dot(j, false)).collect();
            let delta: Vec<f64> = (0..n)
                .map(|j| gamma::<E>(d + 2) * scale.abs() * dot(j, true) + (d + 1) as f64 * tiny)
                .collect();
            let p = reference::softmax(&s).0;
            let (max, worst) =
                (s.iter().fold(f64::MIN, |m, x| m.max(*x)), delta.iter().fold(0.0, |m: f64, x| m.max(*x)));
            let eta: Vec<f64> =
                (0..n).map(|j| delta[j] + u * ((s[j] - max).abs() + 2.0 * worst) + 2.0 * u).collect();
            let h = (0..n).map(|j| p[j] * eta[j].exp()).sum::<f64>().ln();
            let pi: Vec<f64> = (0..n)
                .map(|j| p[j] * (eta[j] + h + gamma::<E>(n + 2)).exp_m1() + softmax_floor::<E>())
                .collect();
            for j in 0..tk {
                let got = probs[(b * tq + i) * tk + j];
                if j < n {
                    let bound = slack * pi[j];
                    assert!((got - p[j]).abs() <= bound, "{:?} p({b} {i} {j}): {got} for {}", k.isa(), p[j]);
                } else {
                    assert_eq!(got.to_bits(), 0, "{:?} p({b} {i} {j}) behind the mask", k.isa());
                }
            }
            for c in 0..dv {
                let exact: f64 = (0..n).map(|j| p[j] * v[j * dv + c]).sum();
                let bound: f64 = (0..n)
                    .map(|j| (pi[j] + gamma::<E>(n + 2) * (p[j] + pi[j])) * v[j * dv + c].abs() + tiny)
                    .sum();
                let got = outs[(b * tq + i) * dv + c];
                assert!(
                    (got - exact).abs() <= slack * bound,
                    "{:?} out({b} {i} {c}): {got} for {exact}",
                    k.isa()
                );
            }
        }
    }
}

/// Backward bounds for the given probs (exact inputs here), by composition:
///
/// - dP_ij: A_ij = γ(dv + 2) Σ_c |dO_ic v_jc|;
/// - their mean μ_i = Σ_j p_j dP_j: M_i = Σ_j p_j A_ij + γ(n + 1) Σ_j p_j (|dP_ij| + A_ij);
/// - dS_ij = scale p_j (dP_ij − μ_i): G_ij = |scale| p_j (A_ij + M_i)(1 + γ(3)) + γ(3) |scale| p_j (|dP_ij| + |μ_i|) + underflow;
/// - dQ_ic: Σ_j G_ij |k_jc| + γ(n + 2) Σ_j (|dS_ij| + G_ij) |k_jc|; dK and dV alike over queries, old contents included.
fn check_backward<E: Elem>(k: &Kernels<E>, before: &Case<E>, case: &Case<E>, with_dk: bool, with_dv: bool) {
    let [count, tq, tk, d, dv] = case.size;
    let (slack, tiny) = (oracle_slack::<E>(), tiny::<E>());
    let (qs, ks, vs, dos) = (case.q.dense(), case.k.dense(), case.v.dense(), case.dout.dense());
    let (probs, scale) = (case.probs.dense(), case.scale.to_f64());
    let (dqs, dks, dvs) = (case.dq.dense(), case.dk.dense(), case.dv.dense());
    let (dk0, dv0) = (before.dk.dense(), before.dv.dense());
    for b in 0..count {
        let (q, key, v) = (problem(&qs, b, tq * d), problem(&ks, b, tk * d), problem(&vs, b, tk * dv));
        let (p, o) = (problem(&probs, b, tq * tk), problem(&dos, b, tq * dv));
        let (mut ds, mut g) = (vec![0.0; tq * tk], vec![0.0; tq * tk]);
        for i in 0..tq {
            let n = reference::visible(i, tq, tk);
            let p = &p[i * tk..][..n];
            let terms = |j: usize| (0..dv).map(move |c| o[i * dv + c] * v[j * dv + c]);
            let dp: Vec<f64> = (0..n).map(|j| terms(j).sum()).collect();
            let a: Vec<f64> = (0..n)
                .map(|j| gamma::<E>(dv + 2) * terms(j).map(f64::abs).sum::<f64>() + (dv + 1) as f64 * tiny)
                .collect();
            let mean: f64 = (0..n).map(|j| p[j] * dp[j]).sum();
            let m: f64 =
                (0..n).map(|j| p[j] * a[j] + gamma::<E>(n + 1) * p[j] * (dp[j].abs() + a[j]) + tiny).sum();
            for j in 0..n {
                let sp = scale.abs() * p[j];
                ds[i * tk + j] = scale * p[j] * (dp[j] - mean);
                g[i * tk + j] = sp * (a[j] + m) * (1.0 + gamma::<E>(3))
                    + gamma::<E>(3) * sp * (dp[j].abs() + mean.abs())
                    + tiny * (2.0 + dp[j].abs() + mean.abs());
            }
            for c in 0..d {
                let exact: f64 = (0..n).map(|j| ds[i * tk + j] * key[j * d + c]).sum();
                let bound: f64 = (0..n)
                    .map(|j| (ds[i * tk + j].abs(), g[i * tk + j], key[j * d + c].abs()))
                    .map(|(s, g, k)| g * k + gamma::<E>(n + 2) * (s + g) * k + tiny)
                    .sum();
                let got = dqs[(b * tq + i) * d + c];
                assert!(
                    (got - exact).abs() <= slack * bound,
                    "{:?} dq({b} {i} {c}): {got} for {exact}",
                    k.isa()
                );
            }
        }
        for j in 0..tk {
            let seen = |i: &usize| j < reference::visible(*i, tq, tk);
            for c in 0..d {
                let (at, old) = ((b * tk + j) * d + c, dk0[(b * tk + j) * d + c]);
                if !with_dk {
                    assert_eq!(dks[at].to_bits(), old.to_bits());
                    continue;
                }
                let mut exact = old;
                let mut bound = gamma::<E>(tq + 3) * old.abs();
                for i in (0..tq).filter(seen) {
                    let (s, g, q) = (ds[i * tk + j], g[i * tk + j], q[i * d + c].abs());
                    exact += s * q.copysign(qs[(b * tq + i) * d + c]);
                    bound += g * q + gamma::<E>(tq + 3) * (s.abs() + g) * q + tiny;
                }
                let got = dks[at];
                assert!(
                    (got - exact).abs() <= slack * bound,
                    "{:?} dk({b} {j} {c}): {got} for {exact}",
                    k.isa()
                );
            }
            for c in 0..dv {
                let (at, old) = ((b * tk + j) * dv + c, dv0[(b * tk + j) * dv + c]);
                if !with_dv {
                    assert_eq!(dvs[at].to_bits(), old.to_bits());
                    continue;
                }
                let mut exact = old;
                let mut size = old.abs();
                for i in (0..tq).filter(seen) {
                    exact += p[i * tk + j] * o[i * dv + c];
                    size += (p[i * tk + j] * o[i * dv + c]).abs();
                }
                let bound = gamma::<E>(tq + 3) * size + (tq + 1) as f64 * tiny;
                let got = dvs[at];
                assert!(
                    (got - exact).abs() <= slack * bound,
                    "{:?} dv({b} {j} {c}): {got} for {exact}",
                    k.isa()
                );
            }
        }
    }
}

fn both<E: Elem>(size: [usize; 5], pad: usize, heads: bool, range: f64, [dk, dv]: [bool; 2], seed: u64) {
    let start = Case::<E>::new(size, pad, heads, range, seed);
    for k in every_isa::<E>() {
        let mut case = start.clone();
        case.forward(&k);
        check_forward(&k, &case);
        case.backward(&k, dk, dv);
        check_backward(&k, &start, &case, dk, dv);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn attention_matches_its_twin(
        count in 0usize..4, tq in 1usize..30, more in 0usize..25, last: bool, d in 0usize..40, dv in 0usize..70,
        pad in 0usize..4, heads: bool, sharp: bool, given: [bool; 2], seed: u64,
    ) {
        let tq = if last { 1 } else { tq };
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

/// A linear functional of the output, Σ w out, differenced in every input: Richardson's combination of two steps, whose
/// difference bounds the truncation error; rounding adds the forward error over h.
#[test]
fn gradients_are_the_derivatives() {
    for size in [[1, 5, 5, 3, 4], [2, 11, 14, 4, 3], [1, 1, 6, 4, 5]] {
        for k in every_isa::<f64>() {
            let mut case = Case::<f64>::new(size, 1, false, 1.0, 11);
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

/// Whatever a later key or value becomes, NaN included, no bit of an earlier query's results changes; nor, backwards, does
/// any bit of the gradients that a query cannot reach when its row is poisoned.
fn causality<E: Elem>() {
    for k in every_isa::<E>() {
        for [tq, tk] in [[20, 20], [9, 23], [33, 33]] {
            let mut clean = Case::<E>::new([2, tq, tk, 6, 5], 1, false, 1.0, 3);
            let start = clean.clone();
            clean.forward(&k);
            for poison in [E::NAN, E::INFINITY, E::from_f64(7.0)] {
                for j in [tk - 1, tk - tq + 1, tk - tq / 2 - 1, tk - tq + 8] {
                    let mut dirty = start.clone();
                    for c in 0..6 {
                        let at = dirty.k.at(0, j, c);
                        dirty.k.data[at] = poison;
                    }
                    for c in 0..5 {
                        let at = dirty.v.at(0, j, c);
                        dirty.v.data[at] = poison;
                    }
                    dirty.forward(&k);
                    let mut back = dirty.clone();
                    let mut back_clean = clean.clone();
                    back_clean.backward(&k, true, true);
                    back.backward(&k, true, true);
                    for i in 0..tq {
                        let blind = j >= reference::visible(i, tq, tk);
                        let row = |b: &Block<E>| {
                            let w = b.shape[2];
                            b.dense()[i * w..(i + 1) * w].to_vec()
                        };
                        let equal =
                            |a: &Block<E>, b: &Block<E>| row(a).iter().zip(row(b)).all(|(a, b)| same(*a, b));
                        if blind {
                            assert!(equal(&dirty.out, &clean.out), "{:?} key {j} reached query {i}", k.isa());
                            assert!(
                                equal(&dirty.probs, &clean.probs),
                                "{:?} key {j} reached query {i}",
                                k.isa()
                            );
                            assert!(equal(&back.dq, &back_clean.dq), "{:?} key {j} reached dq {i}", k.isa());
                        } else {
                            assert!(!equal(&dirty.out, &clean.out), "query {i} does not see key {j}");
                        }
                    }
                }
            }
            // Query i is blind for later keys: their gradients do not see a NaN in its row.
            let mut base = clean.clone();
            base.backward(&k, true, true);
            for i in [0, tq / 2, tq - 2] {
                let mut dirty = clean.clone();
                for c in 0..6 {
                    let at = dirty.q.at(0, i, c);
                    dirty.q.data[at] = E::NAN;
                }
                for c in 0..5 {
                    let at = dirty.dout.at(0, i, c);
                    dirty.dout.data[at] = E::NAN;
                }
                dirty.backward(&k, true, true);
                for j in 0..tk {
                    let seen = j < reference::visible(i, tq, tk);
                    for (dirty, base) in [(&dirty.dk, &base.dk), (&dirty.dv, &base.dv)] {
                        for c in 0..dirty.shape[2] {
                            let (x, y) = (dirty.data[dirty.at(0, j, c)], base.data[base.at(0, j, c)]);
                            assert_eq!(seen, x.is_nan(), "{:?} query {i}, key {j}", k.isa());
                            assert!(seen || same(x.to_f64(), y.to_f64()), "{:?} query {i}, key {j}", k.isa());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn nothing_passes_the_mask() {
    causality::<f32>();
    causality::<f64>();
}

/// Scores of ±1e30 make hard, finite attention; equal ones uniform attention; NaN and +∞ in a seen key make NaN rows.
fn special<E: Elem>() {
    for k in every_isa::<E>() {
        for tq in [1, 6, 20] {
            let tk = 20;
            let mut case = Case::<E>::new([1, tq, tk, 1, 2], 0, false, 1.0, 1);
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
                assert!(p.iter().all(|x| *x == p[0] && (*x * 20.0 - 1.0).abs() < 8.0 * E::UNIT_ROUNDOFF));
            }
            for bad in [E::NAN, E::INFINITY] {
                case.k.fill(|j| if j == 2 { bad } else { E::ONE });
                case.forward(&k);
                assert!(last(&case.probs).iter().chain(&last(&case.out)).all(|x| x.is_nan()));
            }
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
        let shapes = [
            ([2, 3, 5], [2, 4, 5], [2, 4, 6], [2, 3, 6], [2, 3, 4], true),
            ([1, 3, 5], [2, 4, 5], [2, 4, 6], [2, 3, 6], [2, 3, 4], false),
            ([2, 3, 4], [2, 4, 5], [2, 4, 6], [2, 3, 6], [2, 3, 4], false),
            ([2, 3, 5], [2, 4, 5], [2, 3, 6], [2, 3, 6], [2, 3, 4], false),
            ([2, 3, 5], [2, 4, 5], [2, 4, 6], [2, 4, 6], [2, 3, 4], false),
            ([2, 3, 5], [2, 4, 5], [2, 4, 6], [2, 3, 5], [2, 3, 4], false),
            ([2, 3, 5], [2, 4, 5], [2, 4, 6], [2, 3, 6], [2, 3, 3], false),
            ([2, 3, 5], [2, 4, 5], [2, 4, 6], [2, 3, 6], [1, 3, 4], false),
            ([2, 5, 5], [2, 4, 5], [2, 4, 6], [2, 5, 6], [2, 5, 4], false),
            ([2, 0, 5], [2, 4, 5], [2, 4, 6], [2, 0, 6], [2, 0, 4], false),
        ];
        for (q, key, v, o, p, good) in shapes {
            let (q, key, v) = (m(q[0], q[1], q[2]), m(key[0], key[1], key[2]), m(v[0], v[1], v[2]));
            let (mut out, mut probs) = (vec![f32::NAN; 200], vec![f32::NAN; 200]);
            let ov = MatsMut::new(&mut out, o, o[1] * o[2], o[2]).unwrap();
            let pv = MatsMut::new(&mut probs, p, p[1] * p[2], p[2]).unwrap();
            let r = k.attention(q, key, v, 1.0, ov, pv, &mut scratch);
            assert_eq!(r.is_ok(), good, "{r:?}");
            assert!(good || matches!(r, Err(KernelError::Shape { .. })));
            assert!(good || out.iter().chain(&probs).all(|x| x.is_nan()));
        }
        let (mut a, mut b) = (vec![0f32; 200], vec![0f32; 200]);
        let mut small = Scratch::new(k.attention_scratch(3, 4, 5, 6) - 1);
        let (ov, pv) = (
            MatsMut::new(&mut a, [2, 3, 6], 18, 6).unwrap(),
            MatsMut::new(&mut b, [2, 3, 4], 12, 4).unwrap(),
        );
        let r = k.attention(m(2, 3, 5), m(2, 4, 5), m(2, 4, 6), 1.0, ov, pv, &mut small);
        assert!(matches!(r, Err(KernelError::ScratchTooSmall { .. })));
        for wrong in 0..5 {
            let w = |i: usize| usize::from(wrong == i);
            let (mut dq, mut dk, mut dv) = (vec![0f32; 200], vec![0f32; 200], vec![0f32; 200]);
            let r = k.attention_backward(
                m(2, 3, 5),
                m(2, 4, 5),
                m(2, 4, 6),
                1.0,
                m(2, 3, 4 + w(1)),
                m(2, 3 + w(2), 6),
                MatsMut::new(&mut dq, [2, 3, 5], 15, 5).unwrap(),
                KvGrad::Separate {
                    dk: Some(MatsMut::new(&mut dk, [2 + w(3), 4, 5], 20, 5).unwrap()),
                    dv: Some(MatsMut::new(&mut dv, [2, 4, 6 + w(4)], 30, 7).unwrap()),
                },
                &mut scratch,
            );
            assert_eq!(r.is_ok(), wrong == 0, "{wrong}: {r:?}");
        }
    }
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

/// One array for both gradients is dK added first and dV after it, bit for bit; and it needs d = dv.
#[test]
fn a_shared_gradient_is_the_sum_of_both() {
    fn check<E: Elem>(kernels: &Kernels<E>, size: [usize; 5]) {
        for heads in [false, true] {
            let mut case = Case::<E>::new(size, 2, heads, 1.0, 77);
            case.forward(kernels);
            let start = case.dk.data.clone();
            case.backward(kernels, true, false);
            // dV goes on top of what dK left.
            case.dv = case.dk.clone();
            case.backward(kernels, false, true);
            let expected = case.dv.data.clone();

            case.dk.data = start;
            let mut scratch = case.scratch(kernels);
            kernels
                .attention_backward(
                    mats(&case.q),
                    mats(&case.k),
                    mats(&case.v),
                    case.scale,
                    mats(&case.probs),
                    mats(&case.dout),
                    mats_mut(&mut case.dq),
                    KvGrad::Shared(mats_mut(&mut case.dk)),
                    &mut scratch,
                )
                .unwrap();
            // NaN canaries differ from themselves: compare bits.
            let bits = |v: &[E]| v.iter().map(|x| x.to_f64().to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&case.dk.data), bits(&expected), "{size:?}");
        }
    }
    for size in [[3, 5, 5, 4, 4], [2, 1, 7, 6, 6], [2, 20, 20, 30, 30], [1, 3, 9, 17, 17]] {
        every_isa::<f32>().iter().for_each(|k| check(k, size));
        every_isa::<f64>().iter().for_each(|k| check(k, size));
    }
    let kernels = Kernels::<f32>::from_env().unwrap();
    let mut case = Case::<f32>::new([1, 2, 3, 4, 5], 0, false, 1.0, 1);
    let mut scratch = case.scratch(&kernels);
    let shared = KvGrad::Shared(mats_mut(&mut case.dk));
    let error = kernels
        .attention_backward(
            mats(&case.q),
            mats(&case.k),
            mats(&case.v),
            case.scale,
            mats(&case.probs),
            mats(&case.dout),
            mats_mut(&mut case.dq),
            shared,
            &mut scratch,
        )
        .unwrap_err();
    assert!(error.to_string().contains("shared gradient"), "{error}");
}
