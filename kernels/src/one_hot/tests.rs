//! Every kernel against its naive twin, on every instruction set.

use crate::checks::one_hot::{Case, check};
use crate::checks::testkit::every_isa;
use crate::elem::Elem;
use crate::one_hot::problem::{OneHot, PatternTerms};
use crate::scratch::Scratch;
use crate::view::{Mat, MatMut};
use proptest::prelude::*;

proptest! {
    // A failure becomes a named test, not a file.
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 100 })
    })]

    #[test]
    fn kernels_match_their_twins(
        n in 0usize..37, t in 1usize..36, s in 1usize..41, terms in 0usize..5, pad in 0usize..3,
        scale in prop::sample::select(vec![0.0, 0.3, 4.0, 60.0]), integers: bool, seed: u64,
    ) {
        let case = Case { shape: [n, t, s], terms, pad, scale, integers, seed };
        check::<f32>(case);
        check::<f64>(case);
    }
}

#[test]
fn the_papers_shapes() {
    for (n, t, s) in [(64, 20, 10), (33, 32, 5), (1, 1, 1), (16, 2, 3), (17, 70, 20)] {
        let case = Case { shape: [n, t, s], terms: 2, pad: 0, scale: 1.0, integers: false, seed: 3 };
        check::<f32>(case);
        check::<f64>(case);
    }
}

#[test]
fn misfits_are_refused() {
    refusals::<f32>();
    refusals::<f64>();
}

/// Calls that must be refused, and write nothing.
fn refusals<E: Elem>() {
    for k in every_isa::<E>() {
        assert!(OneHot::new(&[0, 1, 2], 3, 2).is_err(), "a token past the symbols");
        assert!(OneHot::new(&[0, 1, 2], 2, 3).is_err(), "half a sequence");
        assert!(OneHot::new(&[], 0, 3).is_err() && OneHot::new(&[0], 1, 0).is_err());
        assert!(OneHot::new(&[0], 1, usize::MAX).is_err());
        let tokens = [1, 0, 2];
        let x = OneHot::new(&tokens, 3, 3).unwrap();
        let (data, mut out) = (vec![E::ONE; 400], vec![E::NAN; 400]);
        let (good, square) = (Mat::new(&data, 3, 16).unwrap(), Mat::new(&data, 6, 6).unwrap());
        let mut scratch = Scratch::new(k.one_hot_scratch(3, 3).unwrap());
        let mut small = Scratch::new(3);
        assert!(k.one_hot_patterns(square, &x, &mut out[..95], &mut scratch).is_err());
        assert!(k.one_hot_patterns(square.t(), &x, &mut out[..96], &mut scratch).is_err(), "strided rows");
        assert!(k.one_hot_patterns(square, &x, &mut out[..96], &mut small).is_err());
        assert!(k.one_hot_patterns(good, &x, &mut out[..96], &mut scratch).is_err());
        let (two, narrow) = (Mat::new(&data, 2, 16).unwrap(), Mat::new(&data, 3, 15).unwrap());
        for bad in [two, narrow, Mat::new(&data, 16, 3).unwrap().t()] {
            fn to<E: Elem>(out: &mut [E]) -> MatMut<'_, E> {
                MatMut::new(out, 3, 16).unwrap()
            }
            assert!(k.patterns_mul_t(&x, &data[..96], bad, to(&mut out)).is_err());
            assert!(k.patterns_mul_add(&x, &data[..96], bad, to(&mut out)).is_err());
            assert!(k.one_hot_mul(&x, bad, to(&mut out)).is_err());
            assert!(k.one_hot_mul_t(&x, bad, MatMut::new(&mut out, 6, 16).unwrap()).is_err());
            assert!(k.softmax_columns_backward(bad, to(&mut out)).is_err());
            for from in [
                PatternTerms { left: bad, right: good, last: good },
                PatternTerms { left: good, right: bad, last: good },
                PatternTerms { left: good, right: good, last: bad },
            ] {
                let dtable = MatMut::new(&mut out, 6, 6).unwrap();
                assert!(k.one_hot_patterns_backward(&x, &data[..96], from, dtable, &mut scratch).is_err());
            }
        }
        assert!(k.patterns_mul_t(&x, &data[..95], good, MatMut::new(&mut out, 3, 16).unwrap()).is_err());
        assert!(k.patterns_last(&x, &data[..96], MatMut::new(&mut out, 2, 16).unwrap()).is_err());
        assert!(k.softmax_columns(MatMut::new(&mut out, 0, 16).unwrap()).is_err());
        assert!(out.iter().all(|x| x.is_nan()), "a refused call wrote");
    }
}
