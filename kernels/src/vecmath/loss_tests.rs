//! Losses, layer norm, updates and table rows: random cases of every operation, special values,
//! refusals.

use crate::Real;
use crate::checks::Layout;
use crate::checks::elementwise::laid_out;
use crate::checks::testkit::{Rng, every_isa};
use crate::checks::vecmath::{check, check_dot, check_rows};
use crate::elem::Elem;
use crate::error::KernelError;
use crate::vecmath::loss::problem::IGNORED;
use crate::vecmath::update::problem::{AdamW, Sgd};
use crate::view::{Mat, MatMut};
use proptest::prelude::*;

/// Header of a case, then tame random operands.
fn case(op: u8, cols: u8, rows: u8, layouts: [u8; 4], par: [u8; 4], seed: u64) -> Vec<u8> {
    let mut rng = Rng(seed);
    let mut data = vec![op | 8, cols, rows];
    data.extend(layouts);
    data.extend(par);
    data.extend((0..6000).map(|_| rng.bits() as u8));
    data
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 400 }))]

    #[test]
    fn every_operation_matches_its_twin(
        op in 0u8..8, cols: u8, rows: u8, layouts: [u8; 4], par: [u8; 4], seed: u64,
    ) {
        let data = case(op, cols, rows, layouts, par, seed);
        check::<f32>(&data);
        check::<f64>(&data);
    }
}

/// Dense rows of every length around the vector lengths, each operation.
#[test]
fn dense_rows_of_every_length() {
    for op in 0..8 {
        for n in (0..70).chain([127, 128, 129, 149]) {
            let data = case(op, n, 3, [0; 4], [200, 230, 250, 12], u64::from(n));
            check::<f32>(&data);
            check::<f64>(&data);
        }
    }
}

/// Numbers with all their bits: products and additions round, so that their errors and their order
/// show.
fn full_mantissas<E: Elem>(seed: u64) {
    let mut rng = Rng(seed);
    let n = rng.below(200);
    let mut x: Vec<E> = (0..n).map(|_| E::from_f64(rng.signed() * 10f64.powi(rng.below(9) as i32))).collect();
    let mut y: Vec<E> = rng.vec(n, 1.0);
    check_dot(&x, &y);
    // The same products again with the other sign, elsewhere, and one small: what is left is below
    // the products' own errors.
    for i in (0..n).rev() {
        x.push(-x[i]);
        y.push(y[i]);
    }
    x.push(E::from_f64(1e-9 * rng.signed()));
    y.push(E::ONE);
    check_dot(&x, &y);
    let layout = Layout { transposed: false, step: 1 + rng.below(2), pad: rng.below(3) };
    let table = laid_out::<E>(layout, 3, 1 + n % 40).random(&mut rng, 1.0);
    let dout = laid_out::<E>(layout, 12, 1 + n % 40).random(&mut rng, 1.0);
    let tokens: Vec<u32> = (0..12).map(|_| rng.below(3) as u32).collect();
    check_rows(&table, &tokens, &dout, layout);
}

#[test]
fn dot_is_compensated_and_rows_add_in_order() {
    for seed in 0..200 {
        full_mantissas::<f32>(seed);
        full_mantissas::<f64>(seed);
    }
}

fn by_hand<E: Elem>() {
    let e = |x: &[f64]| x.iter().map(|x| E::from_f64(*x)).collect::<Vec<E>>();
    for k in every_isa::<E>() {
        // Row (1, −1): mean 0, variance 1.
        let (x, mut out) = (e(&[1.0, -1.0]), e(&[0.0; 2]));
        let (mut mean, mut rstd) = ([9.0], [9.0]);
        let view = Mat::new(&x, 1, 2).unwrap();
        let target = MatMut::new(&mut out, 1, 2).unwrap();
        k.layer_norm(view, &e(&[2.0, 4.0]), &e(&[0.5, 0.25]), 3.0, target, &mut mean, &mut rstd).unwrap();
        assert_eq!((out, mean, rstd), (e(&[1.5, -1.75]), [0.0], [0.5]));
        // b = 0.5 · 2 + (0.25 + 0.5 · 1) = 1.75; θ = 1 − 0.5 b.
        let (mut p, mut b) = (e(&[1.0]), e(&[2.0]));
        let step = Sgd { lr: 0.5, momentum: 0.5, weight_decay: 0.5 };
        k.sgd(step, &mut p, &e(&[0.25]), &mut b).unwrap();
        assert_eq!((p, b), (e(&[0.125]), e(&[1.75])));
        // The first step of AdamW is lr sign(g), whatever the betas.
        let (mut p, mut m, mut v) = (e(&[1.0, 1.0]), e(&[0.0; 2]), e(&[0.0; 2]));
        let step = AdamW { lr: 0.25, beta1: 0.5, beta2: 0.75, eps: 0.0, weight_decay: 1.0 };
        k.adamw(step, 1, &mut p, &e(&[4.0, -4.0]), &mut m, &mut v).unwrap();
        assert_eq!((p, m, v), (e(&[0.5, 1.0]), e(&[2.0, -2.0]), e(&[4.0, 4.0])));
        // Labels, ties, an ignored row of NaN.
        let z = e(&[0.0, 0.0, 0.0, 0.0, 1e30, -1e30, 0.0, -1e30, f64::NAN, 0.0, 0.0, 0.0]);
        let (mut l, mut p, mut d) = ([9.0; 3], e(&[9.0; 12]), e(&[9.0; 12]));
        let labels = [2, 0, IGNORED];
        let view = Mat::new(&z, 3, 4).unwrap();
        k.cross_entropy_labels(view, &labels, &mut l, MatMut::new(&mut p, 3, 4).unwrap()).unwrap();
        assert_eq!(l, [4f64.ln(), 0.0, 0.0]);
        let probs = Mat::new(&p, 3, 4).unwrap();
        k.cross_entropy_labels_backward(probs, &labels, &[4.0, 1.0, 1.0], MatMut::new(&mut d, 3, 4).unwrap())
            .unwrap();
        assert_eq!(d, e(&[1.0, 1.0, -3.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]));
        // Nor does the NaN of a row without weight come through.
        let dz = MatMut::new(&mut d, 3, 4).unwrap();
        k.cross_entropy_labels_backward(probs, &[2, 0, 1], &[0.0; 3], dz).unwrap();
        assert_eq!(d, e(&[0.0; 12]));
        // Log softmax far below the maximum is finite where softmax is 0.
        let mut out = e(&[9.0; 4]);
        let view = Mat::new(&z[4..8], 1, 4).unwrap();
        k.log_softmax_rows(view, MatMut::new(&mut out, 1, 4).unwrap()).unwrap();
        let z = e(&[1e30, -1e30]);
        assert_eq!(out, [E::ZERO, z[1] - z[0], -z[0], z[1] - z[0]]);
        // A probability of zero: kept finite by ε, infinite without; a target of zero never counts.
        let (f, y) = (e(&[0.0, 1.0, 0.0]), [1.0, 0.0, 0.0]);
        let (view, y) = (Mat::new(&f, 1, 3).unwrap(), Mat::new(&y, 1, 3).unwrap());
        let mut l = [9.0];
        k.log_loss(view, y, 0.5, &mut l).unwrap();
        assert_eq!(l, [2f64.ln()]);
        let mut d = e(&[9.0; 3]);
        k.log_loss_backward(view, y, 0.5, &[3.0], MatMut::new(&mut d, 1, 3).unwrap()).unwrap();
        assert_eq!(d, e(&[-6.0, 0.0, 0.0]));
        k.log_loss(view, y, 0.0, &mut l).unwrap();
        assert_eq!(l, [f64::INFINITY]);
        // Σ x y with total cancellation of the leading products.
        let (x, y) = (e(&[1e15, 1.0, -1e15, 3.0]), e(&[1e15, 0.5, 1e15, 0.25]));
        assert_eq!(k.dot(&x, &y).unwrap(), 1.25);
        // −0 and NaN pass the rectifier.
        let mut x = e(&[-0.0, f64::NAN, -1e30, 1e30, f64::NEG_INFINITY]);
        k.relu(&mut x);
        assert!(x[0].to_f64().to_bits() == (-0.0f64).to_bits() && x[1].is_nan());
        assert_eq!(x[2..], e(&[0.0, 1e30, 0.0]));
    }
}

#[test]
fn small_cases_by_hand() {
    by_hand::<f32>();
    by_hand::<f64>();
}

/// Three equal logits of size 2^40, of either sign: the loss is ln 3, which is lost where it is
/// added to a logit first.
fn large_logits_keep_their_logarithm<E: Elem>() {
    let near = |what: &str, got: f64, want: f64| {
        assert!((got - want).abs() <= 4.0 * E::UNIT_ROUNDOFF * want.abs(), "{what}: {got} for {want}");
    };
    for k in every_isa::<E>() {
        for size in [1.0, 2f64.powi(20), -(2f64.powi(20)), 2f64.powi(40), -(2f64.powi(40))] {
            let z = [E::from_f64(size); 3];
            let view = Mat::new(&z, 1, 3).unwrap();
            let (mut loss, mut p) = ([9.0], [E::ONE; 3]);
            k.cross_entropy_labels(view, &[1], &mut loss, MatMut::new(&mut p, 1, 3).unwrap()).unwrap();
            near("label", loss[0], 3f64.ln());
            let y = [0.25, 0.0, 0.5];
            let y = Mat::new(&y, 1, 3).unwrap();
            k.cross_entropy(view, y, &mut loss, MatMut::new(&mut p, 1, 3).unwrap()).unwrap();
            near("law", loss[0], 0.75 * 3f64.ln());
            let mut out = [E::ONE; 3];
            k.log_softmax_rows(view, MatMut::new(&mut out, 1, 3).unwrap()).unwrap();
            out.iter().for_each(|x| near("log softmax", x.to_f64(), -(3f64.ln())));
        }
    }
}

#[test]
fn large_logits() {
    large_logits_keep_their_logarithm::<f32>();
    large_logits_keep_their_logarithm::<f64>();
}

/// Many steps of AdamW against the twin's, started from zero: errors add up at most linearly.
#[test]
fn adamw_follows_its_twin_over_many_steps() {
    let step = AdamW { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01 };
    let (n, steps) = (37, if cfg!(miri) { 3 } else { 200 });
    for k in every_isa::<f64>() {
        let mut rng = Rng(3);
        let mut p: Vec<f64> = rng.vec(n, 1.0);
        let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
        let mut twin: Vec<(f64, f64, f64)> = p.iter().map(|p| (*p, 0.0, 0.0)).collect();
        for t in 1..=steps {
            let g: Vec<f64> = rng.vec(n, 1.0);
            k.adamw(step, t, &mut p, &g, &mut m, &mut v).unwrap();
            for (twin, g) in twin.iter_mut().zip(&g) {
                *twin = crate::reference::adamw(step, t, twin.0, *g, twin.1, twin.2);
            }
            for (p, twin) in p.iter().zip(&twin) {
                // Per step 20 roundings of |θ| + lr, and what 1 − βᵗ loses while t is small.
                let bound = t as f64 * f64::UNIT_ROUNDOFF * (20.0 * (1.0 + step.lr) + 800.0 * step.lr);
                assert!((p - twin.0).abs() <= bound, "{:?} step {t}: {p} for {}", k.isa(), twin.0);
            }
        }
    }
}

/// Every refusal is typed, and nothing has been written.
#[test]
fn refusals() {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let shape = |r: Result<(), KernelError>| assert!(matches!(r, Err(KernelError::Shape { .. })), "{r:?}");
    let domain = |r: Result<(), KernelError>| assert!(matches!(r, Err(KernelError::Domain { .. })), "{r:?}");
    for k in every_isa::<f32>() {
        let (x, w, y) = ([1f32; 6], [1f32; 3], [1f64; 6]);
        let (m, t) = (Mat::new(&x, 2, 3).unwrap(), Mat::new(&y, 2, 3).unwrap());
        let (mut a, mut l, mut l2) = ([7f32; 6], [7f64; 2], [7f64; 2]);
        let (mut v3, mut u3) = ([7f32; 3], [7f32; 3]);
        macro_rules! out {
            ($r:expr, $c:expr) => {
                MatMut::new(&mut a, $r, $c).unwrap()
            };
        }
        shape(k.dot(&x, &w).map(|_| ()));
        shape(k.log_softmax_rows(m, out!(3, 2)));
        shape(k.cross_entropy_labels(m, &[0], &mut l, out!(2, 3)));
        shape(k.cross_entropy_labels(m, &[0; 2], &mut l[..1], out!(2, 3)));
        shape(k.cross_entropy_labels(m, &[0; 2], &mut l, out!(3, 2)));
        domain(k.cross_entropy_labels(m, &[0, 3], &mut l, out!(2, 3)));
        shape(k.cross_entropy_labels_backward(m, &[0; 2], &l[..1], out!(2, 3)));
        shape(k.cross_entropy_labels_backward(m, &[0; 3], &l, out!(2, 3)));
        shape(k.cross_entropy_labels_backward(m, &[0; 2], &l, out!(3, 2)));
        domain(k.cross_entropy_labels_backward(m, &[u32::MAX - 1, 0], &l, out!(2, 3)));
        shape(k.log_loss(m, t.t(), 0.1, &mut l));
        shape(k.log_loss(m, t, 0.1, &mut l[..1]));
        shape(k.log_loss_backward(m, t.t(), 0.1, &[1.0; 2], out!(2, 3)));
        shape(k.log_loss_backward(m, t, 0.1, &[1.0], out!(2, 3)));
        shape(k.log_loss_backward(m, t, 0.1, &[1.0; 2], out!(3, 2)));
        for eps in [nan, inf, -1e-9] {
            domain(k.log_loss(m, t, eps, &mut l));
            domain(k.log_loss_backward(m, t, eps, &[1.0; 2], out!(2, 3)));
            domain(k.layer_norm(m, &w, &w, eps, out!(2, 3), &mut l, &mut l2));
        }
        shape(k.layer_norm(m, &w[..2], &w, 0.1, out!(2, 3), &mut l, &mut l2));
        shape(k.layer_norm(m, &w, &w[..2], 0.1, out!(2, 3), &mut l, &mut l2));
        shape(k.layer_norm(m, &w, &w, 0.1, out!(3, 2), &mut l, &mut l2));
        shape(k.layer_norm(m, &w, &w, 0.1, out!(2, 3), &mut l[..1], &mut l2));
        shape(k.layer_norm(m, &w, &w, 0.1, out!(2, 3), &mut l, &mut l2[..1]));
        shape(k.layer_norm_backward(m, &w[..2], &l, &l2, m, out!(2, 3), &mut v3, &mut u3));
        shape(k.layer_norm_backward(m, &w, &l[..1], &l2, m, out!(2, 3), &mut v3, &mut u3));
        shape(k.layer_norm_backward(m, &w, &l, &l2[..1], m, out!(2, 3), &mut v3, &mut u3));
        shape(k.layer_norm_backward(m, &w, &l, &l2, m.t(), out!(2, 3), &mut v3, &mut u3));
        shape(k.layer_norm_backward(m, &w, &l, &l2, m, out!(3, 2), &mut v3, &mut u3));
        shape(k.layer_norm_backward(m, &w, &l, &l2, m, out!(2, 3), &mut v3[..2], &mut u3));
        shape(k.layer_norm_backward(m, &w, &l, &l2, m, out!(2, 3), &mut v3, &mut u3[..2]));
        shape(k.relu_backward(&x, &mut v3));
        shape(k.gather(m, &[0], out!(2, 3)));
        shape(k.gather(m, &[0, 1, 0], out!(3, 2)));
        domain(k.gather(m, &[0, 2], out!(2, 3)));
        shape(k.scatter_add(m, &[0], out!(2, 3)));
        shape(k.scatter_add(m, &[0, 1], out!(3, 2)));
        domain(k.scatter_add(m, &[0, 2], out!(2, 3)));
        // An output whose rows coincide is no view.
        let overlap = MatMut::with_strides(&mut a, 2, 3, 0, 1);
        assert!(matches!(overlap, Err(KernelError::SelfOverlap { .. })));

        let sgd = Sgd { lr: 0.1, momentum: 0.5, weight_decay: 0.0 };
        shape(k.sgd(sgd, &mut v3, &x, &mut u3));
        shape(k.sgd(sgd, &mut v3, &w, &mut []));
        shape(k.sgd(Sgd { momentum: 0.0, ..sgd }, &mut v3, &w, &mut u3));
        shape(k.accumulate(&x, &mut [7.0; 2]));
        let adam = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0 };
        let mut z3 = [7f32; 3];
        shape(k.adamw(adam, 1, &mut v3, &x, &mut u3, &mut z3));
        shape(k.adamw(adam, 1, &mut v3, &w, &mut u3[..2], &mut z3));
        shape(k.adamw(adam, 1, &mut v3, &w, &mut u3, &mut z3[..2]));
        domain(k.adamw(adam, 0, &mut v3, &w, &mut u3, &mut z3));
        for bad in [nan, inf, -0.1] {
            domain(k.sgd(Sgd { lr: bad, ..sgd }, &mut v3, &w, &mut u3));
            domain(k.sgd(Sgd { momentum: bad, ..sgd }, &mut v3, &w, &mut u3));
            domain(k.sgd(Sgd { weight_decay: bad, ..sgd }, &mut v3, &w, &mut u3));
            for step in [
                AdamW { lr: bad, ..adam },
                AdamW { beta1: bad, ..adam },
                AdamW { beta2: bad, ..adam },
                AdamW { eps: bad, ..adam },
                AdamW { weight_decay: bad, ..adam },
                AdamW { beta1: 1.0, ..adam },
                AdamW { beta2: 1.0, ..adam },
            ] {
                domain(k.adamw(step, 1, &mut v3, &w, &mut u3, &mut z3));
            }
        }
        assert!(a.iter().chain(&v3).chain(&u3).chain(&z3).all(|x| *x == 7.0) && l == [7.0; 2] && l2 == l);
    }
}
