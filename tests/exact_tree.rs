//! The prefix tree and the orbits against enumeration word by word; against central differences; against themselves on other
//! numbers of threads; refusals.

use popgrad::exact::brute::{self, Gradients};
use popgrad::exact::{AtomRoots, FinitePrior, Orbits, Prior, RootLaw, Tree};
use popgrad::rng::{Key, Purpose};
use popgrad::task::Forest;
use proptest::prelude::*;

/// splitmix64 in [-1, 1).
struct Rng(u64);

impl Rng {
    fn signed(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
    fn vec(&mut self, n: usize, scale: f64) -> Vec<f64> {
        (0..n).map(|_| scale * self.signed()).collect()
    }
}

fn simplex(rng: &mut Rng, rows: usize, n: usize) -> Vec<f64> {
    let mut x: Vec<f64> = (0..rows * n).map(|_| 1.02 + rng.signed()).collect();
    x.chunks_mut(n).for_each(|row| {
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= sum);
    });
    x
}

fn prior(kind: usize, s: usize, rng: &mut Rng) -> Prior {
    let finite = |rng: &mut Rng, roots: AtomRoots| {
        let (weight, pi) = (simplex(rng, 1, 4), simplex(rng, 4 * s, s));
        FinitePrior::new(s, weight, pi, roots).unwrap()
    };
    match kind {
        0 => Prior::dirichlet(s, 0.1, RootLaw::Uniform).unwrap(),
        1 => Prior::dirichlet(s, 0.7, RootLaw::SharedDirichlet).unwrap(),
        2 => finite(rng, AtomRoots::Stationary).into(),
        3 => {
            let roots = simplex(rng, 4, s);
            finite(rng, AtomRoots::Given(roots)).into()
        }
        _ => FinitePrior::single(s, simplex(rng, s, s), AtomRoots::Stationary)
            .unwrap()
            .closed_under_relabelling()
            .unwrap()
            .into(),
    }
}

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |m, x| x.abs().max(m))
}

/// Roundings: every term is a product of some 4 T + 16 roundings; the tree's nested sums and the twin's compensated ones add
/// log-many; the differences that make δ cancel against terms of size Σ W = 1, times a's range, not the gradient's own size.
fn tolerance(t: usize, range: f64) -> f64 {
    (4 * t + 16) as f64 * f64::EPSILON * range.max(1.0)
}

fn close(what: &str, got: &[f64], want: &[f64], tol: f64) {
    for (at, (x, y)) in got.iter().zip(want).enumerate() {
        assert!((x - y).abs() <= tol, "{what}[{at}]: {x:e}, {y:e}, off by {:e} of {tol:e}", (x - y).abs());
    }
}

fn compare(got: &Gradients, want: &Gradients, tol: f64) {
    if want.loss.is_finite() {
        close("loss", &[got.loss], &[want.loss], tol * want.loss.abs().max(1.0));
    } else {
        assert_eq!(got.loss, want.loss);
    }
    close("weight", &[got.weight], &[1.0], 1e-13);
    close("A1", &got.a1, &want.a1, tol);
    close("A2", &got.a2, &want.a2, tol);
}

fn check(s: usize, t: usize, kind: usize, eps: f64, scale: f64, seed: u64) {
    let mut rng = Rng(seed);
    let forest = Forest::random(t, &Key::new(seed, Purpose::Graph), 0).unwrap();
    let prior = prior(kind, s, &mut rng);
    let (mut a1, mut a2) = (rng.vec(t * t, 2.0), rng.vec(s * s, scale));
    for i in 0..t {
        // Not read.
        a1[i * t + i + 1..(i + 1) * t].fill(f64::NAN);
    }
    let tol = tolerance(t, 2.0 * scale);
    let mut tree = Tree::<f64>::new(&forest, &prior, eps, false).unwrap();
    compare(
        tree.gradients(&a1, &a2).unwrap(),
        &brute::population(&forest, &prior, &a1, &a2, eps).unwrap(),
        tol,
    );
    if !prior.is_relabelling_invariant() {
        assert!(Orbits::<f64>::new(&forest, &prior, eps, false).is_err());
        return;
    }
    let (b, c) = (scale * rng.signed(), rng.signed());
    for (at, x) in a2.iter_mut().enumerate() {
        *x = if at / s == at % s { b + c } else { c };
    }
    let want = brute::population(&forest, &prior, &a1, &a2, eps).unwrap();
    compare(tree.gradients(&a1, &a2).unwrap(), &want, tol);
    let mut orbits = Orbits::<f64>::new(&forest, &prior, eps, false).unwrap();
    let got = orbits.gradients_at(&a1, &a2).unwrap();
    let (d, off) = (got.b / s as f64, -got.b / (s * (s - 1)) as f64);
    let a2 = (0..s * s).map(|at| if at / s == at % s { d } else { off }).collect();
    compare(&Gradients { loss: got.loss, weight: got.weight, a1: got.a1.clone(), a2 }, &want, tol);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn tree_and_orbits_are_enumeration(
        s in 2usize..6, t in 2usize..8, kind in 0usize..5, eps in 0usize..3, wide in any::<bool>(), seed in any::<u64>(),
    ) {
        let t = t.min([0, 0, 9, 7, 6, 5][s]);
        let kind = if kind == 4 && s > 4 { 0 } else { kind };
        check(s, t, kind, [1e-2, 1e-6, 0.0][eps], if wide { 8.0 } else { 0.7 }, seed);
    }
}

#[test]
fn longer_words() {
    for kind in 0..5 {
        check(2, 9, kind, 1e-2, 1.0, 100 + kind as u64);
        check(3, 8, kind, 1e-3, 3.0, 200 + kind as u64);
    }
}
