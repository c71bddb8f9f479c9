//! The tree against word-by-word enumeration; refusals.

use super::*;
use crate::checks::prefix_tree::check;
use crate::checks::testkit::every_isa;
use crate::view::Mat;
use proptest::prelude::*;

proptest! {
    #[test]
    fn tree_is_enumeration(
        s in 2usize..6, t in 2usize..8, kind in 0usize..4, query in 0usize..6, prefix in 0usize..7,
        wide in any::<bool>(), seed in any::<u64>(),
    ) {
        let t = if s > 3 { t.min(6) } else { t };
        check(s, t, kind, query, prefix, if wide { 6.0 } else { 0.5 }, seed);
    }
}

#[test]
fn every_symbol_count_and_weight() {
    for s in 2..=7 {
        for kind in 0..4 {
            check(s, if s < 4 { 8 } else { 5 }, kind, 1, 2, 1.0, s as u64);
        }
    }
}

/// f32 has its own loops and lanes; the same sums within its own roundings.
#[test]
fn f32_is_the_f64_tree_rounded() {
    let (mix, mix32) = (
        [1.0, f64::NAN, 0.0, 0.25, 0.75, f64::NAN, 0.5, 0.25, 0.25],
        [1.0f32, f32::NAN, 0.0, 0.25, 0.75, 0.0, 0.5, 0.25, 0.25],
    );
    let parents = [None, Some(0)];
    let shape = Shape { symbols: 3, parents: &parents, root_counts: false, canonical: None };
    let plan = Plan::new(&shape, 1, 1).unwrap();
    let walk = Walk {
        plan: &plan,
        query: 1,
        table: &[0.5, 1.0, -0.25],
        mix: Mat::new(&mix, 3, 3).unwrap(),
        eps: 0.0625,
        weights: Weights::Dirichlet { alpha: 0.5, shared_roots: false },
    };
    let walk32 = Walk {
        plan: &plan,
        query: 1,
        table: &[0.5f32, 1.0, -0.25],
        mix: Mat::new(&mix32, 3, 3).unwrap(),
        eps: 0.0625,
        weights: Weights::Dirichlet { alpha: 0.5, shared_roots: false },
    };
    let (loss, weight, sums, _) = crate::reference::prefix_tree(&walk);
    for kernels in every_isa::<f32>() {
        let mut scratch = Scratch::new(kernels.prefix_tree_scratch(&walk32).unwrap());
        let mut acc = Accumulator::new(3, 3);
        kernels.prefix_tree(&walk32, 0..3, &mut acc, &mut scratch).unwrap();
        let tol = 8.0 * 20.0 * 3.0 * f64::from(f32::EPSILON);
        assert!((acc.loss() - loss).abs() < tol && (acc.weight() - weight).abs() < tol);
        for (n, want) in sums.iter().enumerate() {
            assert!((acc.sum(n / 9, n / 3 % 3, n % 3) - want).abs() < tol);
        }
    }
}

#[test]
fn refusals_name_the_operand() {
    let kernels = Kernels::<f64>::new(crate::Isa::Portable).unwrap();
    let mix = [1.0; 9];
    let shape = Shape { symbols: 2, parents: &[None, Some(0)], root_counts: false, canonical: None };
    let of_shape = |s: Shape<'_>, p: usize| Plan::new(&s, p, 1).unwrap_err().to_string();
    assert!(of_shape(Shape { symbols: 1, ..shape }, 1).contains("symbols"));
    assert!(of_shape(Shape { symbols: 256, ..shape }, 1).contains("symbols"));
    assert!(of_shape(Shape { parents: &[None, Some(1)], ..shape }, 1).contains("parents"));
    assert!(of_shape(Shape { parents: &[None; 64], ..shape }, 1).contains("words"));
    assert!(of_shape(Shape { parents: &[], ..shape }, 0).contains("words"));
    assert!(of_shape(shape, 2).contains("prefix_len"));
    assert!(of_shape(Shape { parents: &[None; 18], ..shape }, 0).contains("prefix_len"));
    assert!(of_shape(Shape { parents: &[None; 27], ..shape }, 25).contains("prefixes"));
    assert!(of_shape(Shape { canonical: Some(0), ..shape }, 1).contains("canonical"));
    assert!(of_shape(Shape { canonical: Some(3), symbols: 4, ..shape }, 1).contains("canonical"));
    assert!(
        of_shape(Shape { canonical: Some(1), symbols: 50, parents: &[None; 40], ..shape }, 30)
            .contains("2^16")
    );
    assert!(
        of_shape(Shape { canonical: Some(8), symbols: 50, parents: &[None; 20], ..shape }, 18)
            .contains("2^24")
    );

    let plan = Plan::new(&shape, 1, 1).unwrap();
    let good = Walk {
        plan: &plan,
        query: 0,
        table: &[1.0, 0.0],
        mix: Mat::new(&mix, 3, 3).unwrap(),
        eps: 0.1,
        weights: Weights::Dirichlet { alpha: 1.0, shared_roots: false },
    };
    assert!(kernels.prefix_tree_scratch(&good).is_ok());
    let message = |w: Walk<'_, f64>| kernels.prefix_tree_scratch(&w).unwrap_err().to_string();
    assert!(message(Walk { table: &[1.0], ..good }).contains("table length"));
    assert!(message(Walk { query: 2, ..good }).contains("query"));
    assert!(message(Walk { table: &[1.0, f64::NAN], ..good }).contains("table"));
    assert!(message(Walk { table: &[1300.0, 0.0], ..good }).contains("range"));
    assert!(message(Walk { mix: Mat::new(&mix, 2, 3).unwrap(), ..good }).contains("mix rows"));
    assert!(message(Walk { eps: -1.0, ..good }).contains("eps"));
    let weights = Weights::Dirichlet { alpha: 0.0, shared_roots: false };
    assert!(message(Walk { weights, ..good }).contains("alpha"));
    let weights = Weights::Dirichlet { alpha: 1.0, shared_roots: true };
    assert!(message(Walk { weights, ..good }).contains("roots"));
    let weights = Weights::Atoms { weight: &[1.0], pi: &[0.5; 3], roots: &[0.5; 2] };
    assert!(message(Walk { weights, ..good }).contains("pi length"));
    let weights = Weights::Atoms { weight: &[1.0], pi: &[0.5; 4], roots: &[0.5; 1] };
    assert!(message(Walk { weights, ..good }).contains("roots length"));
    let weights = Weights::Atoms { weight: &[1.0], pi: &[0.5; 4], roots: &[0.5; 2] };
    assert!(message(Walk { weights, ..good }).contains("roots that"));
    let weights = Weights::Table { values: &[0.1; 5] };
    assert!(message(Walk { weights, ..good }).contains("values"));
    let canonical = Plan::new(&Shape { canonical: Some(2), symbols: 3, ..shape }, 1, 1).unwrap();
    let orbits = Walk { plan: &canonical, table: &[1.0, 0.0, 0.0], ..good };
    assert!(kernels.prefix_tree_scratch(&orbits).is_ok());
    assert!(message(Walk { query: 1, ..orbits }).contains("query"));
    assert!(message(Walk { table: &[1.0, 0.0, 0.5], ..orbits }).contains("table"));

    let mut scratch = Scratch::new(kernels.prefix_tree_scratch(&good).unwrap());
    let mut acc = Accumulator::new(2, 3);
    let refused = kernels.prefix_tree(&good, 0..3, &mut acc, &mut scratch).unwrap_err();
    assert!(refused.to_string().contains("prefixes"));
    assert!(kernels.prefix_tree(&good, 0..2, &mut Accumulator::new(3, 3), &mut scratch).is_err());
    assert!(kernels.prefix_tree(&good, 0..2, &mut acc, &mut Scratch::new(3)).is_err());
}
