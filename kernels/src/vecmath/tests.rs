//! exp and ln in ulps, softmax and cross-entropy against their naive twins within derived bounds.

use crate::checks::Layout;
use crate::checks::elementwise::{
    MAX_ULP, MAX_ULP_EXP_F64, check_cross_entropy, check_softmax, check_sum, laid_out,
};
use crate::checks::testkit::{Block, Rng, every_isa, same, tiny};
use crate::checks::ulps::{exp_ulps, ln_ulps, ulps_f32};
use crate::elem::Elem;
use crate::kernels::Kernels;
use crate::view::{Mat, MatMut};
use proptest::prelude::*;

/// Every 409th f32 (a prime: all exponents, both signs, NaNs, ten million points).
#[test]
fn f32_exp_and_ln_within_an_ulp() {
    let kernels = every_isa::<f32>();
    let mut out = vec![0f32; 1 << 14];
    let mut at = 0u64;
    while at < 1 << 32 {
        let x: Vec<f32> = (0..out.len() as u64).map(|i| f32::from_bits((at + 409 * i) as u32)).collect();
        at += 409 * out.len() as u64;
        let exp: Vec<f64> = x.iter().map(|x| f64::from(*x).exp()).collect();
        let ln: Vec<f64> = x.iter().map(|x| f64::from(*x).ln()).collect();
        for k in &kernels {
            k.exp(&x, &mut out).unwrap();
            for i in 0..x.len() {
                let e = ulps_f32(exp[i], out[i]);
                assert!(e <= MAX_ULP, "{:?}: exp({:e}) = {:e}, {e} ulp", k.isa(), x[i], out[i]);
            }
            k.ln(&x, &mut out).unwrap();
            for i in 0..x.len() {
                let e = ulps_f32(ln[i], out[i]);
                assert!(e <= MAX_ULP, "{:?}: ln({:e}) = {:e}, {e} ulp", k.isa(), x[i], out[i]);
            }
        }
    }
}

#[test]
fn f64_exp_and_ln_within_an_ulp() {
    let mut rng = Rng(1);
    let n = 1 << 17;
    let x: Vec<f64> =
        (0..n).map(|i| if i % 2 == 0 { rng.signed() } else { rng.signed() * 728.0 - 18.0 }).collect();
    let y: Vec<f64> = (0..n)
        .map(|i| match i % 3 {
            0 => 1.0 + 0.5 * rng.signed(),
            1 => 1.0 + rng.signed() * 0.5f64.powi((i % 50) as i32),
            _ => f64::from_bits(rng.bits() % f64::INFINITY.to_bits()),
        })
        .collect();
    let mut out = vec![0.0; n];
    for k in every_isa::<f64>() {
        k.exp(&x, &mut out).unwrap();
        for (x, got) in x.iter().zip(&out) {
            let e = exp_ulps(*x, *got);
            assert!(e <= MAX_ULP_EXP_F64, "{:?}: exp({x:e}) = {got:e}, {e} ulp", k.isa());
        }
        k.ln(&y, &mut out).unwrap();
        for (y, got) in y.iter().zip(&out) {
            let e = ln_ulps(*y, *got);
            assert!(e <= MAX_ULP, "{:?}: ln({y:e}) = {got:e}, {e} ulp", k.isa());
        }
    }
}

/// The ruler itself: it sees the error of std's functions as under one ulp, and one ulp more as one
/// more.
#[test]
fn the_double_double_ruler_measures_ulps() {
    for x in [0.5, -0.3, 1e-9, 700.0, -700.0, -740.0, 3.25, 0.0] {
        let y = f64::exp(x);
        let (e, up) = (exp_ulps(x, y), exp_ulps(x, y.next_up()));
        assert!(e < 0.6 && (up - e - 1.0).abs() < 1e-6 || (up + e - 1.0).abs() < 1e-6, "{x}: {e} {up}");
    }
    for x in [0.5, 1.0 + 1e-9, 1.0 - 3e-10, 1e300, 5e-324, 3.25] {
        let y = f64::ln(x);
        let (e, up) = (ln_ulps(x, y), ln_ulps(x, y.next_up()));
        assert!(e < 0.6 && (up - e - 1.0).abs() < 1e-6 || (up + e - 1.0).abs() < 1e-6, "{x}: {e} {up}");
    }
}

fn special<E: Elem>() {
    let (inf, nan) = (E::INFINITY.to_f64(), f64::NAN);
    let least = tiny::<E>();
    for k in every_isa::<E>() {
        // Every position in a vector and in its tail.
        for n in [1, 3, 16, 37] {
            let run = |f: fn(&Kernels<E>, &[E], &mut [E]), x: f64| {
                let mut out = vec![E::from_f64(-7.0); n + 1];
                f(&k, &vec![E::from_f64(x); n], &mut out[..n]);
                assert_eq!(out[n].to_f64(), -7.0, "wrote past the end");
                assert!(out[..n].iter().all(|y| same(y.to_f64(), out[0].to_f64())));
                out[0].to_f64()
            };
            let exp = |x: f64| run(|k, x, out| k.exp(x, out).unwrap(), x);
            let ln = |x: f64| run(|k, x, out| k.ln(x, out).unwrap(), x);
            assert_eq!(exp(0.0), 1.0);
            assert_eq!(exp(-0.0), 1.0);
            assert_eq!(exp(inf), inf);
            assert_eq!(exp(-inf), 0.0);
            assert_eq!(exp(1e30), inf);
            assert_eq!(exp(-1e30), 0.0);
            assert_eq!(exp(least), 1.0);
            assert!(exp(nan).is_nan());
            assert_eq!(exp(least.ln()), least);
            assert_eq!(exp(E::from_f64(least.ln() - 0.75).to_f64()), 0.0);
            assert_eq!(ln(1.0).to_bits(), 0);
            assert_eq!(ln(0.0), -inf);
            assert_eq!(ln(-0.0), -inf);
            assert!(ln(-least).is_nan() && ln(-1.0).is_nan() && ln(-inf).is_nan() && ln(nan).is_nan());
            assert_eq!(ln(inf), inf);
            let low = ln(least);
            assert!((low - least.ln()).abs() <= 2.0 * E::UNIT_ROUNDOFF * low.abs(), "{low}");
        }
        assert!(k.exp(&[E::ONE; 2], &mut [E::ONE; 3]).is_err());
        assert!(k.ln(&[E::ONE; 2], &mut [E::ONE; 1]).is_err());
        k.exp(&[], &mut []).unwrap();
        k.ln(&[], &mut []).unwrap();
    }
}

#[test]
fn special_arguments() {
    special::<f32>();
    special::<f64>();
}

/// exp must carry on where results are subnormal, and stop in the right place at both ends.
#[test]
fn exp_ends() {
    for k in every_isa::<f32>() {
        let x: Vec<f32> = [88.72283f32, 88.72284, -87.33655, -103.27892, -103.97208, -103.972084]
            .into_iter()
            .chain((0..2000).map(|i| -87.0 - i as f32 * 0.01))
            .collect();
        let mut out = vec![0.0; x.len()];
        k.exp(&x, &mut out).unwrap();
        for (x, got) in x.iter().zip(&out) {
            let e = ulps_f32(f64::from(*x).exp(), *got);
            assert!(
                e <= MAX_ULP || *got == 0.0 && f64::from(*x).exp() <= 0.5 * tiny::<f32>(),
                "{x} {got} {e}"
            );
        }
    }
}

fn sums<E: Elem>(n: usize, seed: u64) {
    let mut rng = Rng(seed);
    // Wild magnitudes that cancel: x, then −x shuffled in, then a remainder.
    let mut x: Vec<E> =
        (0..n).map(|_| E::from_f64(rng.signed() * 10f64.powi(rng.below(20) as i32))).collect();
    for i in 0..n / 2 {
        x[n - 1 - i] = -x[i];
    }
    for i in (1..n).rev() {
        x.swap(i, rng.below(i + 1));
    }
    check_sum(every_isa(), &x);
}

#[test]
fn sum_is_compensated_and_the_same_everywhere() {
    for n in (0..40).chain([100, 1000, 4099]) {
        sums::<f32>(n, n as u64);
        sums::<f64>(n, n as u64 + 7);
    }
    for k in every_isa::<f64>() {
        assert_eq!(k.sum(&[1.0, f64::INFINITY, 2.0]), f64::INFINITY);
        assert_eq!(k.sum(&[f64::NEG_INFINITY; 20]), f64::NEG_INFINITY);
        assert!(k.sum(&[1.0, f64::NAN]).is_nan() && k.sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
        assert_eq!(k.sum(&[1e100, 1.0, -1e100, 1.0]), 2.0);
    }
}

fn softmax_case<E: Elem>(rows: usize, n: usize, layout: Layout, range: f64, seed: u64) {
    let x = laid_out::<E>(layout, rows, n).random(&mut Rng(seed), range);
    every_isa::<E>().iter().for_each(|k| check_softmax(k, &x));
}

fn cross_entropy_case<E: Elem>(b: usize, n: usize, [pad, step]: [usize; 2], range: f64, seed: u64) {
    let mut rng = Rng(seed);
    let layout = Layout { transposed: false, step, pad };
    let z = laid_out::<E>(layout, b, n).random(&mut rng, range);
    // Soft targets, a third of them zero, not normalised.
    let mut y = Block::<f64>::with_strides([1, b, n], 0, n + pad, 1);
    y.fill(|_| if rng.below(3) == 0 { 0.0 } else { rng.signed() + 0.5 });
    let w: Vec<f64> = rng.vec(b, 1.0);
    every_isa::<E>().iter().for_each(|k| check_cross_entropy(k, &z, &y, &w, [layout; 2]));
}

const RANGES: [f64; 5] = [1.0, 30.0, 300.0, 1e30, 1e-40];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn softmax_matches_its_twin(
        rows in 0usize..5, n in 0usize..90, pad in 0usize..4, step in 1usize..4,
        transposed: bool, range in 0usize..5, seed: u64,
    ) {
        let layout = Layout { transposed, step, pad };
        softmax_case::<f32>(rows, n, layout, RANGES[range], seed);
        softmax_case::<f64>(rows, n, layout, RANGES[range], seed);
    }

    #[test]
    fn cross_entropy_matches_its_twin(
        b in 0usize..5, n in 0usize..70, pad in 0usize..4, cs in 1usize..4, range in 0usize..3, seed: u64,
    ) {
        cross_entropy_case::<f32>(b, n, [pad, cs], RANGES[range], seed);
        cross_entropy_case::<f64>(b, n, [pad, cs], RANGES[range], seed);
    }
}

fn softmax_special<E: Elem>() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    for k in every_isa::<E>() {
        let soft = |row: &[f64]| {
            let mut x: Vec<E> = row.iter().map(|x| E::from_f64(*x)).collect();
            k.softmax_rows(MatMut::new(&mut x, 1, row.len()).unwrap()).unwrap();
            x.iter().map(|x| x.to_f64()).collect::<Vec<_>>()
        };
        for n in [1, 2, 5, 16, 19, 40] {
            for at in [0, n / 2, n - 1] {
                for bad in [nan, inf] {
                    let mut row = vec![0.25; n];
                    row[at] = bad;
                    assert!(soft(&row).iter().all(|p| p.is_nan()), "{:?} {n} {at} {bad}", k.isa());
                }
                let mut row = vec![-inf; n];
                assert!(soft(&row).iter().all(|p| p.is_nan()));
                row[at] = -1e30;
                let p = soft(&row);
                assert!(p.iter().enumerate().all(|(j, p)| *p == f64::from(u8::from(j == at))), "{p:?}");
                row[at] = 1e30;
                assert_eq!(soft(&row)[at], 1.0);
            }
            // Ties are equal to the last bit; powers of two are exact.
            for value in [0.0, -1e30, 1e30, 5.0, tiny::<E>()] {
                let p = soft(&vec![value; n]);
                assert!(p.iter().all(|x| *x == p[0]));
                if n.is_power_of_two() {
                    assert_eq!(p[0], 1.0 / n as f64);
                }
            }
        }
        // Neither subnormal entries nor their slowness: far below the maximum the answer is 0.
        for n in [2, 20, 90] {
            let depth = E::SOFTMAX_MIN.to_f64();
            let p = soft(&(0..n).map(|j| depth * 2.0 * j as f64 / n as f64).collect::<Vec<_>>());
            assert!(p.iter().all(|p| *p == 0.0 || *p >= (depth - 6.0).exp()), "{p:?}");
            assert_eq!(p[n - 1] == 0.0, n > 2);
        }
        // A target of probability zero contributes nothing, though its logit be −∞.
        let z: Vec<E> = [0.0, -inf, 0.0].map(E::from_f64).to_vec();
        let (mut loss, mut p) = ([nan; 2], vec![E::NAN; 6]);
        let both: Vec<E> = [z.clone(), z].concat();
        k.cross_entropy(
            Mat::new(&both, 2, 3).unwrap(),
            Mat::new(&[0.5, 0.0, 0.5, 0.5, 0.5, 0.0], 2, 3).unwrap(),
            &mut loss,
            MatMut::new(&mut p, 2, 3).unwrap(),
        )
        .unwrap();
        assert!((loss[0] - 2f64.ln()).abs() < 4.0 * E::UNIT_ROUNDOFF && loss[1] == inf, "{loss:?}");
        assert_eq!(p.iter().map(|p| p.to_f64()).collect::<Vec<_>>(), [0.5, 0.0, 0.5, 0.5, 0.0, 0.5]);
        for bad in [nan, inf] {
            let z: Vec<E> = [0.0, bad].map(E::from_f64).to_vec();
            let (z, y) = (Mat::new(&z, 1, 2).unwrap(), [1.0, 0.0]);
            k.cross_entropy(
                z,
                Mat::new(&y, 1, 2).unwrap(),
                &mut loss[..1],
                MatMut::new(&mut p[..2], 1, 2).unwrap(),
            )
            .unwrap();
            assert!(loss[0].is_nan() && p[0].is_nan() && p[1].is_nan());
        }
    }
}

#[test]
fn softmax_and_cross_entropy_of_special_rows() {
    softmax_special::<f32>();
    softmax_special::<f64>();
}

#[test]
fn shapes_are_checked() {
    for k in every_isa::<f32>() {
        let (z, y) = ([0f32; 6], [0f64; 6]);
        let (m, t) = (Mat::new(&z, 2, 3).unwrap(), Mat::new(&y, 2, 3).unwrap());
        let (mut l, mut p) = ([0f64; 2], [0f32; 6]);
        assert!(k.cross_entropy(m, t, &mut l, MatMut::new(&mut p, 2, 3).unwrap()).is_ok());
        assert!(k.cross_entropy(m, t, &mut l[..1], MatMut::new(&mut p, 2, 3).unwrap()).is_err());
        assert!(k.cross_entropy(m, t.t(), &mut l, MatMut::new(&mut p, 2, 3).unwrap()).is_err());
        assert!(k.cross_entropy(m, t, &mut l, MatMut::new(&mut p, 3, 2).unwrap()).is_err());
        assert!(k.cross_entropy_backward(m, t, &l[..1], MatMut::new(&mut p, 2, 3).unwrap()).is_err());
        assert!(k.cross_entropy_backward(m, t.t(), &l, MatMut::new(&mut p, 2, 3).unwrap()).is_err());
        assert!(k.cross_entropy_backward(m, t, &l, MatMut::new(&mut p, 3, 2).unwrap()).is_err());
    }
}
