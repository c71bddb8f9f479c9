//! The prefix tree and the orbits against enumeration word by word; against central differences;
//! against themselves on other numbers of threads; refusals.

use popgrad::Error;
use popgrad::exact::brute::{self, Gradients};
use popgrad::exact::{AtomRoots, FinitePrior, Orbits, Prior, Progress, RootLaw, Tree};
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

/// Roundings: every term is a product of some 4 T + 16 roundings; the tree's nested sums and the
/// twin's compensated ones add log-many; the differences that make δ cancel against terms of size Σ
/// W = 1, times a's range, not the gradient's own size.
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

/// −∂L/∂A1 and −∂L/∂A2 against central differences of the loss, which has an error of its own: h²
/// L'''/6 and the loss' rounding over h.
#[test]
fn gradients_are_differences() {
    let (s, t, h) = (3, 6, 1e-4);
    let mut rng = Rng(7);
    let forest = Forest::from_parents(&[-1, 0, -1, 0, 2]).unwrap();
    let (mut a1, mut a2) = (rng.vec(t * t, 1.0), rng.vec(s * s, 1.0));
    let prior = prior(1, s, &mut rng);
    let mut tree = Tree::<f64>::new(&forest, &prior, 1e-2, false).unwrap();
    let at = tree.gradients(&a1, &a2).unwrap().clone();
    // Third derivatives are below 100 here: two factors 1/(f + ε) at most where weights are not
    // tiny.
    let tol = 100.0 * h * h / 6.0 + 16.0 * f64::EPSILON / h;
    for which in 0..t * t + s * s {
        let mut loss = |delta: f64| {
            let x = if which < t * t { &mut a1[which] } else { &mut a2[which - t * t] };
            let old = *x;
            *x += delta;
            let loss = tree.gradients(&a1, &a2).unwrap().loss;
            let x = if which < t * t { &mut a1[which] } else { &mut a2[which - t * t] };
            *x = old;
            loss
        };
        let difference = -(loss(h) - loss(-h)) / (2.0 * h);
        let gradient = if which < t * t { at.a1[which] } else { at.a2[which - t * t] };
        assert!((difference - gradient).abs() < tol, "{which}: {difference:e}, {gradient:e}, {tol:e}");
    }
}

/// Softmax does not see a constant added to a row: rows of both gradients sum to zero.
#[test]
fn rows_sum_to_zero() {
    let mut rng = Rng(3);
    for (s, t, kind) in [(2, 12, 0), (3, 8, 2), (4, 6, 1)] {
        let forest = Forest::chain(t).unwrap();
        let prior = prior(kind, s, &mut rng);
        let mut tree = Tree::<f64>::new(&forest, &prior, 1e-2, false).unwrap();
        let (a1, a2) = (rng.vec(t * t, 1.0), rng.vec(s * s, 2.0));
        let out = tree.gradients(&a1, &a2).unwrap();
        for (x, n) in [(&out.a1, t), (&out.a2, s)] {
            let largest = x.iter().fold(0.0f64, |m, x| x.abs().max(m));
            assert!(largest > 1e-4);
            for row in x.chunks(n) {
                let sum: f64 = row.iter().sum();
                // A1 is corrected for it; A2 keeps the rounding of Σ δ = 0, of terms as large as Σ
                // W = 1.
                let tol = if n == t { n as f64 * f64::EPSILON * largest } else { tolerance(t, 1.0) };
                assert!(sum.abs() <= tol, "{sum:e} of {largest:e}");
            }
        }
        assert_eq!(out.a1[0], 0.0);
    }
}

#[test]
fn same_bits_on_any_number_of_threads() {
    let (s, t) = (3, 10);
    let mut rng = Rng(11);
    let forest = Forest::chain(t).unwrap();
    let prior = prior(0, s, &mut rng);
    let (a1, a2) = (rng.vec(t * t, 1.0), rng.vec(s * s, 2.0));
    let run = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let mut tree = Tree::<f64>::new(&forest, &prior, 1e-2, false).unwrap();
            let mut orbits = Orbits::<f64>::new(&forest, &prior, 1e-2, false).unwrap();
            (tree.gradients(&a1, &a2).unwrap().clone(), orbits.gradients(&a1, 1.5).unwrap().clone())
        })
    };
    let one = run(1);
    assert_eq!(run(2), one);
    assert_eq!(run(5), one);
}

#[test]
fn f32_is_the_f64_population_rounded() {
    let mut rng = Rng(13);
    for (s, t) in [(2, 10), (3, 7), (6, 4)] {
        let forest = Forest::chain(t).unwrap();
        let prior = prior(0, s, &mut rng);
        let (a1, a2) = (rng.vec(t * t, 1.0), rng.vec(s * s, 1.0));
        let want =
            Tree::<f64>::new(&forest, &prior, 1e-2, false).unwrap().gradients(&a1, &a2).unwrap().clone();
        let mut tree = Tree::<f32>::new(&forest, &prior, 1e-2, false).unwrap();
        let got = tree.gradients(&a1, &a2).unwrap();
        let tol = tolerance(t, 2.0) / f64::EPSILON * f64::from(f32::EPSILON);
        close("loss", &[got.loss], &[want.loss], tol);
        close("A1", &got.a1, &want.a1, tol);
        close("A2", &got.a2, &want.a2, tol);
    }
}

/// More symbols than positions, many more orbits than words of one, and the other way round.
#[test]
fn orbits_of_many_symbols() {
    let mut rng = Rng(17);
    let prior = Prior::dirichlet(6, 0.3, RootLaw::SharedDirichlet).unwrap();
    let forest = Forest::from_parents(&[-1, 0, -1, 1]).unwrap();
    let a1 = rng.vec(25, 1.0);
    let want = brute::population(&forest, &prior, &a1, &diagonal(6, 1.5), 1e-2).unwrap();
    let mut orbits = Orbits::<f64>::new(&forest, &prior, 1e-2, false).unwrap();
    let got = orbits.gradients(&a1, 1.5).unwrap();
    close("loss", &[got.loss, got.weight], &[want.loss, 1.0], tolerance(5, 1.5) * want.loss);
    close("A1", &got.a1, &want.a1, tolerance(5, 1.5));
    close("b", &[got.b], &[(0..6).map(|k| want.a2[k * 7]).sum()], 6.0 * tolerance(5, 1.5));
    // Σ W = 1 over 10^12 words, of which 4,213,530 are visited.
    let prior = Prior::dirichlet(10, 0.1, RootLaw::Uniform).unwrap();
    let mut orbits = Orbits::<f64>::new(&Forest::chain(12).unwrap(), &prior, 1e-2, false).unwrap();
    assert_eq!(orbits.words(), 4_213_530);
    assert_eq!(popgrad::exact::symmetric::canonical_words(65, 12), 4_213_597.0);
    let a1 = rng.vec(144, 1.0);
    let got = orbits.gradients(&a1, 2.0).unwrap();
    assert!((got.weight - 1.0).abs() < 1e-13, "{:e}", got.weight - 1.0);
    // No better than knowing nothing, no worse than the uniform guess by more than what attention
    // can do.
    assert!(got.loss > 1.0 && got.loss < 10f64.ln() * 2.0);
}

fn diagonal(s: usize, b: f64) -> Vec<f64> {
    (0..s * s).map(|at| if at / s == at % s { b } else { 0.0 }).collect()
}

#[test]
fn what_takes_too_long_is_refused_with_its_cost() {
    let forest = Forest::chain(45).unwrap();
    let prior = Prior::dirichlet(2, 0.1, RootLaw::Uniform).unwrap();
    let refused = Tree::<f64>::new(&forest, &prior, 1e-2, false).err().unwrap();
    let Error::TooLong { words, seconds, bytes, limit } = refused else { panic!("{refused}") };
    assert!(words == 2f64.powi(44) && seconds > limit && bytes > 0.0);
    assert_eq!(refused.exit_code(), 2);
    assert!(refused.to_string().contains("unless forced"), "{refused}");
    // Forced, it is only the list of prefixes that is too long.
    assert!(matches!(Tree::<f64>::new(&forest, &prior, 1e-2, true), Err(Error::Kernel(_))));
    let prior = Prior::dirichlet(30, 0.1, RootLaw::Uniform).unwrap();
    let refused = Orbits::<f64>::new(&Forest::chain(20).unwrap(), &prior, 1e-2, false).err().unwrap();
    assert!(matches!(refused, Error::TooLong { .. }));
}

#[test]
fn bad_operands_are_named() {
    let forest = Forest::chain(4).unwrap();
    let mut rng = Rng(5);
    let uneven = prior(2, 3, &mut rng);
    let even = prior(0, 3, &mut rng);
    let (a1, a2) = (rng.vec(16, 1.0), diagonal(3, 1.0));
    let message = |r: popgrad::Result<&Gradients>| r.err().unwrap().to_string();
    let mut tree = Tree::<f64>::new(&forest, &even, 1e-2, false).unwrap();
    assert!(message(tree.gradients(&a1[1..], &a2)).contains("A1"));
    assert!(message(tree.gradients(&a1, &a2[1..])).contains("A2"));
    assert!(message(tree.gradients(&[f64::NAN; 16], &a2)).contains("A1"));
    assert!(message(tree.gradients(&a1, &[f64::INFINITY; 9])).contains("A2"));
    assert!(message(tree.gradients(&a1, &diagonal(3, 1e4))).contains("range"));
    // A refusal leaves it usable.
    assert!(tree.gradients(&a1, &a2).is_ok());
    for eps in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(Tree::<f64>::new(&forest, &even, eps, false).err().unwrap().to_string().contains("eps"));
    }
    assert!(Orbits::<f64>::new(&forest, &uneven, 1e-2, false).err().unwrap().to_string().contains("prior"));
    let mut orbits = Orbits::<f64>::new(&forest, &even, 1e-2, false).unwrap();
    assert!(orbits.gradients_at(&a1, &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.5, 1.0]).is_err());
    assert!(orbits.gradients(&a1, f64::NAN).is_err());
    assert!(orbits.gradients(&a1[1..], 1.0).is_err());
}

#[test]
fn progress_ends_at_the_total() {
    let forest = Forest::chain(13).unwrap();
    let prior = Prior::dirichlet(2, 0.1, RootLaw::Uniform).unwrap();
    let mut tree = Tree::<f64>::new(&forest, &prior, 1e-2, false).unwrap();
    let seen = std::sync::Mutex::new(Vec::new());
    let report = |p: Progress| seen.lock().unwrap().push(p);
    tree.gradients_with(&[0.0; 169], &[1.0, 0.0, 0.5, 1.0], Some(&report)).unwrap();
    let seen = seen.into_inner().unwrap();
    assert!(seen.iter().all(|p| p.total == 1 << 13 && p.done <= p.total));
    assert!(seen.iter().any(|p| p.done == p.total) && seen.len() > 1);
}
