//! The protocol and its checksums, against the textbook product.

use super::*;

/// The textbook product.
struct Naive {
    spoil: Option<usize>,
}
impl<T: Scalar> Gemm<T> for Naive {
    fn multiply(&mut self, case: &Case, a: &[T], b: &[T], c: &mut [T]) {
        let [[rs_a, cs_a], [rs_b, cs_b]] = case.strides();
        let (m, k, n) = (case.m, case.k, case.n);
        for p in 0..case.batch {
            for i in 0..m {
                for j in 0..n {
                    let x: i64 = (0..k)
                        .map(|l| {
                            let x = a[p * m * k + i * rs_a + l * cs_a].integer().unwrap();
                            x * b[p * k * n + l * rs_b + j * cs_b].integer().unwrap()
                        })
                        .sum();
                    c[p * m * n + i * n + j] = T::of(x);
                }
            }
        }
        if let Some(at) = self.spoil {
            c[at] = T::of(c[at].integer().unwrap() + 1);
        }
    }
}

fn cases() -> Vec<Case> {
    let all = [
        ("nn", 1, 3, 5, 7),
        ("tn", 2, 4, 3, 6),
        ("nt", 7, 5, 2, 3),
        ("nn", 1, 1, 1, 1),
        ("tn-cold", 2, 4, 3, 6),
    ];
    all.map(|(op, batch, m, k, n)| Case::new(op, "f32", [batch, m, k, n, 1])).into()
}

#[test]
fn checksums_are_those_of_the_product_and_see_any_wrong_entry() {
    for case in cases() {
        let want = format!(" {}", expected(&case));
        let answer = Bench::<f32>::new().answer(&mut Naive { spoil: None }, &case, 2).unwrap();
        assert!(answer.ends_with(&want), "{answer}, expected{want}");
        for at in 0..case.batch * case.m * case.n {
            let answer = Bench::<f64>::new().answer(&mut Naive { spoil: Some(at) }, &case, 1).unwrap();
            assert!(!answer.ends_with(&want), "entry {at} of {case:?}");
        }
    }
}

#[test]
fn requests_are_read_back() {
    for case in cases() {
        assert_eq!(Case::parse(&format!("{} 9", case.line())), Ok((case, 9)));
    }
    for bad in ["", "nn", "nn f32 1 2 3 4 5", "nn f32 1 2 3 4 5 x", "nn f32 1 2 3 4 5 6 7"] {
        assert!(Case::parse(bad).is_err(), "{bad}");
    }
}
