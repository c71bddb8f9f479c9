//! Views refuse what does not fit.

use super::*;

#[test]
fn bounds_are_checked() {
    let d = [0.0f32; 12];
    assert!(Mat::new(&d, 3, 4).is_ok());
    assert_eq!(Mat::new(&d, 4, 4).unwrap_err(), KernelError::OutOfBounds { needed: 16, have: 12 });
    assert!(Mat::with_strides(&d, 3, 2, 5, 1).is_ok());
    assert_eq!(
        Mat::with_strides(&d, 3, 3, 5, 1).unwrap_err(),
        KernelError::OutOfBounds { needed: 13, have: 12 }
    );
    assert!(Mat::with_strides(&d, 5, 3, 0, 0).is_ok(), "broadcast is fine for reading");
    assert!(Mat::<f32>::new(&[], 0, 7).is_ok());
    assert_eq!(Mat::new(&d, usize::MAX, 2).unwrap_err(), KernelError::Overflow);
    assert_eq!(Mat::with_strides(&d, 3, 3, usize::MAX, 1).unwrap_err(), KernelError::Overflow);
    assert!(Mats::new(&d, [2, 2, 3], 6, 3).is_ok());
    assert!(matches!(Mats::new(&d, [2, 2, 3], 7, 3), Err(KernelError::OutOfBounds { needed: 13, .. })));
}

#[test]
fn outputs_may_not_overlap_themselves() {
    let mut d = [0.0f32; 64];
    for (r, c, rs, cs) in [(2, 2, 0, 1), (2, 2, 1, 0), (2, 2, 1, 1), (3, 3, 2, 1), (2, 4, 3, 1)] {
        let e = MatMut::with_strides(&mut d, r, c, rs, cs);
        assert!(matches!(e, Err(KernelError::SelfOverlap { .. })), "{r} {c} {rs} {cs}");
    }
    for (r, c, rs, cs) in [(1, 4, 0, 1), (4, 1, 1, 0), (3, 3, 1, 3), (3, 3, 7, 2), (0, 3, 0, 0)] {
        assert!(MatMut::with_strides(&mut d, r, c, rs, cs).is_ok(), "{r} {c} {rs} {cs}");
    }
    // Heads side by side in one row: the batch stride is the smaller one.
    assert!(MatsMut::new(&mut d, [2, 4, 3], 3, 6).is_ok());
    assert!(matches!(MatsMut::new(&mut d, [3, 4, 3], 3, 6), Err(KernelError::SelfOverlap { .. })));
}

#[test]
fn splitting_columns_gives_disjoint_halves() {
    let mut d: Vec<f64> = vec![0.0; 2 * 3 * 5];
    let m = MatsMut::new(&mut d, [2, 3, 5], 15, 5).unwrap();
    let (mut l, mut r) = m.split_cols(2);
    for b in 0..2 {
        for i in 0..3 {
            for j in 0..2 {
                l.mat(b).set(i, j, 1.0);
            }
            for j in 0..3 {
                r.mat(b).set(i, j, 2.0);
            }
        }
    }
    for row in d.chunks(5) {
        assert_eq!(row, [1.0, 1.0, 2.0, 2.0, 2.0]);
    }
}

#[test]
fn flattening_joins_rows_that_line_up() {
    let d: Vec<f64> = (0..24).map(f64::from).collect();
    let f = Mats::new(&d, [2, 3, 4], 12, 4).unwrap().flatten().unwrap();
    assert_eq!((f.rows(), f.cols(), f.at(4, 1)), (6, 4, 17.0));
    assert!(Mats::new(&d, [2, 2, 4], 12, 4).unwrap().flatten().is_none());
    let last = Mats::new(&d, [2, 3, 4], 12, 4).unwrap().sub(2, 1, 0, 4).flatten().unwrap();
    assert_eq!((last.rows(), last.at(0, 0), last.at(1, 0)), (2, 8.0, 20.0));
}

/// What `check_matrix` lets pass at once is what the full rule lets pass, on both sides of every
/// limit.
#[test]
fn shortcuts_agree_with_the_rules() {
    let sizes = [0, 1, 2, 3, 5, SMALL - 1, SMALL, SMALL + 1, usize::MAX];
    for (rows, cols) in sizes.into_iter().flat_map(|r| sizes.map(|c| (r, c))) {
        for (rs, cs) in sizes.into_iter().flat_map(|r| sizes.map(|c| (r, c))) {
            for have in [0, 1, 2, 5, 7, 11, SMALL, 3 * SMALL] {
                let (shape, strides) = ([1, rows, cols], [0, rs, cs]);
                let rule = check_bounds(shape, strides, have);
                assert_eq!(check_matrix(rows, cols, rs, cs, have), rule, "{shape:?} {strides:?} {have}");
            }
        }
    }
    let small = [0usize, 1, 2, 3, 4, 5];
    for (rows, cols) in small.into_iter().flat_map(|r| small.map(|c| (r, c))) {
        for (rs, cs) in small.into_iter().flat_map(|r| small.map(|c| (r, c))) {
            let rule = check_injective([1, rows, cols], [0, rs, cs]);
            let found = MatMut::with_strides(&mut [0.0f32; 64], rows, cols, rs, cs).map(|_| ());
            assert_eq!(found, rule, "{rows} {cols} {rs} {cs}");
        }
    }
}

#[test]
fn splitting_rows_gives_disjoint_halves() {
    for r in 0..=4 {
        for transposed in [false, true] {
            let mut d = [0.0f32; 40];
            let view = MatMut::with_strides(&mut d, 4, 3, 8, 2).unwrap();
            let (mut a, mut b) = if transposed { view.t().split_rows(r.min(3)) } else { view.split_rows(r) };
            for (half, x) in [(&mut a, 1.0), (&mut b, 2.0)] {
                for i in 0..half.rows() {
                    for j in 0..half.cols() {
                        half.set(i, j, half.at(i, j) + x);
                    }
                }
            }
            for i in 0..40 {
                let (row, col) = (i / 8, i % 8 / 2);
                let inside = row < 4 && i % 2 == 0 && col < 3;
                let first = if transposed { col < r.min(3) } else { row < r };
                let expected = if !inside {
                    0.0
                } else if first {
                    1.0
                } else {
                    2.0
                };
                assert_eq!(d[i], expected, "{r} {transposed} {i}");
            }
        }
    }
    let mut none = [0.0f32; 0];
    let (a, b) = MatMut::new(&mut none, 3, 0).unwrap().split_rows(2);
    assert_eq!([a.rows(), b.rows(), a.cols()], [2, 1, 0]);
}

#[test]
#[should_panic = "assertion failed"]
fn splitting_rows_out_of_range() {
    let mut d = [0.0f32; 6];
    let _ = MatMut::new(&mut d, 3, 2).unwrap().split_rows(4);
}
