//! Rows of one-hot attention against their twins: the same operations in the same order, so the
//! same bits.

use crate::checks::testkit::{Rng, every_isa};
use crate::elem::Elem;
use crate::one_hot::problem::OneHot;
use crate::reference;
use crate::view::{Mat, MatMut, Write};
use proptest::prelude::*;

fn check<E: Elem>([n, t, s, rows, heads]: [usize; 5], scale: f64, seed: u64) {
    let mut rng = Rng(seed);
    let (d, rows) = (s + t, rows.min(t));
    let tokens: Vec<u32> = (0..n * t).map(|_| rng.below(s) as u32).collect();
    let tables: Vec<E> = rng.vec(heads * d * d, scale);
    let dc: Vec<E> = rng.vec(n * rows * heads * d, 1.0);
    let (bias, factor): (Vec<E>, E) = (rng.vec(d, 1.0), E::from_f64(rng.signed()));
    let x = OneHot::new(&tokens, t, s).unwrap();
    for k in every_isa::<E>() {
        let about = || format!("{} {} n {n} t {t} s {s} rows {rows} heads {heads}", E::NAME, k.isa().name());
        let mut c = vec![E::NAN; dc.len()];
        let mut row = vec![E::NAN; d.max(rows * d)];
        k.token_patterns(&x, rows, &tables, &mut c, &mut row[..d]).unwrap();
        // The softmax is the kernel's own, tested elsewhere; all before and after it is the twin's.
        let mut want = reference::token_scores(&tables, &tokens, [t, s], rows);
        if !want.is_empty() {
            let all = want.len() / d;
            k.softmax_rows(MatMut::with_strides(&mut want[s..], all, t, d, 1).unwrap()).unwrap();
        }
        reference::token_weights(&mut want, &tokens, [t, s], rows, heads);
        assert!(c == want, "patterns: {}", about());
        for head in 0..heads {
            let mut dtable = vec![E::NAN; d * d];
            let ds = &mut row[..rows * d];
            k.token_patterns_backward(&x, rows, [head, heads], &c, &dc, &mut dtable, ds).unwrap();
            let want = reference::token_patterns_backward(&tokens, [t, s], rows, [head, heads], &c, &dc);
            assert!(dtable == want, "backward of head {head}: {}", about());
        }
        let table = &tables[..d * d];
        let mut out = vec![E::NAN; n * rows * d];
        k.token_rows(&x, rows, Mat::new(table, d, d).unwrap(), factor, &bias, &mut out).unwrap();
        let want = reference::token_rows(&tokens, [t, s], rows, table, factor, &bias);
        assert!(out == want, "rows: {}", about());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 60 })
    })]

    #[test]
    fn rows_match_their_twins(
        n in 0usize..6, t in 1usize..40, s in 1usize..40, rows in 0usize..40, heads in 1usize..4,
        scale in prop::sample::select(vec![0.0, 0.3, 4.0, 60.0]), seed: u64,
    ) {
        check::<f32>([n, t, s, rows, heads], scale, seed);
        check::<f64>([n, t, s, rows, heads], scale, seed);
    }

    #[test]
    fn column_sums_match_their_twin(rows in 0usize..20, d in 1usize..150, add: bool, seed: u64) {
        columns::<f32>(rows, d, add, seed);
        columns::<f64>(rows, d, add, seed);
    }
}

fn columns<E: Elem>(rows: usize, d: usize, add: bool, seed: u64) {
    let mut rng = Rng(seed);
    let (x, old): (Vec<E>, Vec<E>) = (rng.vec(rows * d, 3.0), rng.vec(d, 1.0));
    let factor = E::from_f64(rng.signed());
    let want: Vec<E> = (0..d)
        .map(|j| {
            let mut sum = E::ZERO;
            (0..rows).for_each(|i| sum += x[i * d + j]);
            if add { old[j] + factor * sum } else { factor * sum }
        })
        .collect();
    for k in every_isa::<E>() {
        let mut out = if add { old.clone() } else { vec![E::NAN; d] };
        k.column_sums(&x, factor, if add { Write::Add } else { Write::Set }, &mut out).unwrap();
        assert!(out == want, "{} {} {rows} {d}", E::NAME, k.isa().name());
    }
}

/// The shape of the papers' Figure 8, and one sequence of one symbol.
#[test]
fn named_shapes() {
    for shape in [[16, 20, 10, 20, 1], [16, 20, 10, 1, 2], [1, 1, 1, 1, 1], [0, 3, 2, 3, 1]] {
        check::<f32>(shape, 1.0, 5);
        check::<f64>(shape, 1.0, 6);
    }
}

#[test]
fn misfits_are_refused() {
    for k in every_isa::<f32>() {
        let tokens = [1, 0, 2];
        let x = OneHot::new(&tokens, 3, 3).unwrap();
        let (ones, mut out, mut row) = ([1.0f32; 72], [7.0f32; 36], [0.0f32; 24]);
        let table = Mat::new(&ones[..36], 6, 6).unwrap();
        assert!(k.token_patterns(&x, 3, &ones[..36], &mut out[..17], &mut row[..6]).is_err());
        assert!(k.token_patterns(&x, 3, &ones[..35], &mut out[..18], &mut row[..6]).is_err());
        assert!(k.token_patterns(&x, 3, &ones[..36], &mut out[..18], &mut row[..5]).is_err());
        assert!(k.token_patterns(&x, 4, &ones[..36], &mut out[..24], &mut row[..6]).is_err());
        let mut back = |rows, head, c: usize, dc: usize, table: usize, ds: usize| {
            let (c, dc) = (&ones[..c], &ones[..dc]);
            k.token_patterns_backward(&x, rows, head, c, dc, &mut out[..table], &mut row[..ds]).is_err()
        };
        assert!(back(3, [1, 1], 18, 18, 36, 18), "a head that is not there");
        assert!(back(3, [0, 1], 17, 17, 36, 18) && back(3, [0, 1], 18, 17, 36, 18));
        assert!(back(3, [0, 1], 18, 18, 35, 18) && back(3, [0, 1], 18, 18, 36, 17));
        assert!(back(4, [0, 1], 24, 24, 36, 24), "more rows than positions");
        // Products that wrap around to the lengths that are there.
        assert!(back(3, [0, usize::MAX / 2 + 1], 0, 0, 36, 18));
        assert!(back(3, [1 << 62, 1 << 63], 0, 0, 36, 18));
        assert!(k.token_rows(&x, 3, table.t(), 1.0, &ones[..6], &mut out[..18]).is_err());
        assert!(k.token_rows(&x, 3, table, 1.0, &ones[..5], &mut out[..18]).is_err());
        assert!(k.token_rows(&x, 3, table, 1.0, &ones[..6], &mut out[..17]).is_err());
        assert!(k.token_rows(&x, 4, table, 1.0, &ones[..6], &mut out[..24]).is_err());
        assert!(k.column_sums(&ones[..7], 1.0, Write::Set, &mut out[..3]).is_err());
        assert!(k.column_sums(&ones[..7], 1.0, Write::Set, &mut []).is_err());
        assert_eq!(out, [7.0; 36], "a refused call wrote");
    }
}
