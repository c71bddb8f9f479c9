//! Numbers at the edges of what the engines take: exponentials that underflow, the ranges of ε and
//! α, which every path shares.

use popgrad::batch::Targets;
use popgrad::exact::brute::{self, Gradients};
use popgrad::exact::counts::leading;
use popgrad::exact::quadrature::{draws, stationary_pairs};
use popgrad::exact::transition::Transition;
use popgrad::exact::{AtomRoots, FinitePrior, Orbits, Prior, RootLaw, Tree, TreeLaw};
use popgrad::model::{Model, Simplified, SimplifiedSpec};
use popgrad::num::{MAX_ALPHA, MAX_EPS, MIN_ALPHA, MIN_EPS};
use popgrad::rng::{Key, LogGamma, Purpose};
use popgrad::source::{Population, Source};
use popgrad::task::trigger_bigram::Bigrams;
use popgrad::task::{CausalDag, CausalTree, Dag, DagRoots, Forest, Roots};

fn key() -> Key {
    Key::new(41, Purpose::Probe)
}

fn normals(from: u64, n: usize, scale: f64) -> Vec<f64> {
    (0..n as u64).map(|i| scale * key().normal((from << 32) + i)).collect()
}

/// Symbols that alternate: every target occurs, so that the loss is finite at ε = 0.
fn alternating() -> (Forest, Prior) {
    let pi = vec![0.0, 1.0, 1.0, 0.0];
    let prior = FinitePrior::single(2, pi, AtomRoots::Uniform).unwrap();
    (Forest::chain(6).unwrap(), prior.into())
}

/// A2 whose rows have this range, and an A1 that tells positions apart.
fn wide(range: f64) -> (Vec<f64>, Vec<f64>) {
    let mut a1 = normals(1, 36, 1.0);
    // Positions see mostly themselves: z comes near both ends of the range.
    (0..6).for_each(|i| a1[i * 7] += 9.0);
    (a1, vec![0.6 * range, -0.4 * range, -0.5 * range, 0.5 * range])
}

#[track_caller]
fn same(what: &str, got: &Gradients, want: &Gradients, tol: f64) {
    // Terms of size Σ W = 1 cancel to gradients that are much smaller where ε decides.
    let scale = |x: &[f64]| x.iter().fold(1e-3, |m: f64, x| m.max(x.abs()));
    assert!(
        (got.loss - want.loss).abs() <= tol * want.loss.abs().max(1.0),
        "{what}: {} {}",
        got.loss,
        want.loss
    );
    for (name, x, y) in [("A1", &got.a1, &want.a1), ("A2", &got.a2, &want.a2)] {
        for (at, (x, z)) in x.iter().zip(y).enumerate() {
            assert!((x - z).abs() <= tol * scale(y), "{what} {name}[{at}]: {x:e} for {z:e}");
        }
    }
}

/// The model on a batch of the whole population.
fn by_model(forest: &Forest, prior: &Prior, a: (&[f64], &[f64]), eps: f64) -> Gradients {
    let (s, t) = (prior.symbols(), forest.seq_len());
    let law = TreeLaw::new(forest.clone(), prior.clone()).unwrap();
    let source = Population::new(&law).unwrap();
    let mut batch = source.batch(source.words()).unwrap();
    source.fill(0, source.words(), &mut source.work(), &mut batch);
    let model = Simplified::<f64>::new(s, t, &SimplifiedSpec::new(eps)).unwrap();
    let mut ws = model.workspace(Targets::Law, batch.seqs()).unwrap();
    let params = [a.0, a.1].concat();
    let mut grad = vec![f64::NAN; params.len()];
    let loss = model.loss_and_grad(&params, &batch, &[true; 2], &mut ws, &mut grad).unwrap().value();
    grad.iter_mut().for_each(|g| *g = -*g);
    let a2 = grad.split_off(t * t);
    Gradients { loss, weight: 1.0, a1: grad, a2 }
}

#[test]
fn probabilities_that_underflow_have_their_logarithm() {
    let (forest, prior) = alternating();
    for (range, eps) in [(1150.0, 0.0), (1190.0, MIN_EPS), (100.0, 0.0), (700.0, MIN_EPS), (1190.0, 1e-3)] {
        let (a1, a2) = wide(range);
        let want = brute::population(&forest, &prior, &a1, &a2, eps).unwrap();
        assert!(want.loss.is_finite() && want.a1.iter().any(|g| g.abs() > 1e-9 || eps > 0.0), "{range}");
        if eps == 0.0 {
            // e^-loss is no number of f64 at the larger range.
            assert!(want.loss > 0.95 * range, "{}", want.loss);
        }
        // The reference by differences of its own loss, which is smooth here.
        for at in [0, 6, 12, 13, 31, 36, 37, 38, 39] {
            let h = 1e-3;
            let moved = |sign: f64| {
                let (mut a1, mut a2) = (a1.clone(), a2.clone());
                if at < 36 {
                    a1[at] += sign * h
                } else {
                    a2[at - 36] += sign * h
                }
                brute::population(&forest, &prior, &a1, &a2, eps).unwrap().loss
            };
            let slope = (moved(-1.0) - moved(1.0)) / (2.0 * h);
            let found = if at < 36 { want.a1[at] } else { want.a2[at - 36] };
            assert!((slope - found).abs() <= 1e-4 * found.abs().max(1.0), "{range} {at}: {slope} {found}");
        }
        let mut tree = Tree::<f64>::new(&forest, &prior, eps, false).unwrap();
        same("tree", tree.gradients(&a1, &a2).unwrap(), &want, 1e-11);
        same("model", &by_model(&forest, &prior, (&a1, &a2), eps), &want, 1e-11);
    }
    for (range, eps) in [(115.0, 0.0), (119.0, MIN_EPS), (119.0, 1.0), (90.0, 0.0)] {
        let (a1, a2) = wide(range);
        let want = brute::population(&forest, &prior, &a1, &a2, eps).unwrap();
        let mut tree = Tree::<f32>::new(&forest, &prior, eps, false).unwrap();
        same("f32", tree.gradients(&a1, &a2).unwrap(), &want, 1e-4);
    }
    // Beyond that exponentials overflow, and A2 is named; enumeration has no such bound.
    let (a1, a2) = wide(1300.0);
    let e =
        Tree::<f64>::new(&forest, &prior, 0.0, false).unwrap().gradients(&a1, &a2).unwrap_err().to_string();
    assert!(e.starts_with("A2: row 0 has a range of 1300") && e.contains("1200"), "{e}");
    assert!(brute::population(&forest, &prior, &a1, &a2, 0.0).unwrap().loss.is_finite());
}

/// Orbits at b = 701 with a symbol that is not in the word: W ln ε, not infinite.
#[test]
fn orbits_keep_the_least_eps() {
    let (forest, prior) = (Forest::chain(5).unwrap(), Prior::dirichlet(3, 0.5, RootLaw::Uniform).unwrap());
    for (b, eps) in [(701.0, MIN_EPS), (1100.0, MIN_EPS), (40.0, MAX_EPS)] {
        let a1 = normals(4, 25, 1.0);
        let a2: Vec<f64> = (0..9).map(|i| if i % 4 == 0 { b } else { 0.0 }).collect();
        let want = brute::population(&forest, &prior, &a1, &a2, eps).unwrap();
        let mut orbits = Orbits::<f64>::new(&forest, &prior, eps, false).unwrap();
        let got = orbits.gradients(&a1, b).unwrap();
        assert!((got.loss - want.loss).abs() <= 1e-12 * want.loss.abs(), "{b}: {} {}", got.loss, want.loss);
        let trace: f64 = want.a2.iter().step_by(4).sum();
        assert!((got.b - trace).abs() <= 1e-12, "{b}: {} {trace}", got.b);
    }
}

#[test]
fn every_path_takes_and_refuses_the_same_eps() {
    let (forest, prior) = (Forest::chain(3).unwrap(), Prior::dirichlet(2, 0.5, RootLaw::Uniform).unwrap());
    let (a1, a2) = (vec![0.0; 9], vec![0.3, 0.0, 0.0, 0.3]);
    let transition = Transition::new(2, &[0.7, 0.3, 0.4, 0.6]).unwrap();
    type Path<'a> = (&'static str, Box<dyn Fn(f64) -> Option<String> + 'a>);
    let paths: Vec<Path<'_>> = vec![
        ("brute", Box::new(|e| brute::population(&forest, &prior, &a1, &a2, e).err().map(|e| e.to_string()))),
        ("tree", Box::new(|e| Tree::<f64>::new(&forest, &prior, e, false).err().map(|e| e.to_string()))),
        ("tree, f32", Box::new(|e| Tree::<f32>::new(&forest, &prior, e, false).err().map(|e| e.to_string()))),
        ("orbits", Box::new(|e| Orbits::<f64>::new(&forest, &prior, e, false).err().map(|e| e.to_string()))),
        ("ghat", Box::new(|e| leading(&transition, &forest, None, e).err().map(|e| e.to_string()))),
        (
            "model",
            Box::new(|e| Simplified::<f32>::new(2, 3, &SimplifiedSpec::new(e)).err().map(|e| e.to_string())),
        ),
        ("discover", Box::new(|e| popgrad::discover::gradient::check_eps(e).err().map(|e| e.to_string()))),
    ];
    for (name, path) in &paths {
        for good in [0.0, MIN_EPS, 0.01, MAX_EPS] {
            assert_eq!(path(good), None, "{name}");
        }
        for bad in [-1.0, -1e-300, 5e-324, 1e-306, 0.9 * MIN_EPS, 1.001, 1e20, 1e308, f64::INFINITY, f64::NAN]
        {
            let e = path(bad).unwrap_or_else(|| panic!("{name} took {bad:e}"));
            assert!(e.starts_with("eps: ") && e.contains("1e-30 <= eps <= 1"), "{name}: {e}");
        }
    }
}

#[test]
fn every_path_takes_and_refuses_the_same_alpha() {
    let forest = Forest::chain(4).unwrap();
    let by_hand = |alpha: f64, roots| Prior::Dirichlet { symbols: 2, alpha, roots };
    let uniform = RootLaw::Uniform;
    let (a1, a2) = (vec![0.0; 16], vec![0.3, 0.0, 0.0, 0.3]);
    type Path<'a> = (&'static str, Box<dyn Fn(f64) -> popgrad::Result<()> + 'a>);
    let paths: Vec<Path<'_>> = vec![
        ("prior", Box::new(|a| Prior::dirichlet(2, a, uniform).map(drop))),
        ("brute", Box::new(|a| brute::population(&forest, &by_hand(a, uniform), &a1, &a2, 0.1).map(drop))),
        ("words", Box::new(|a| brute::words(&forest, &by_hand(a, uniform)).map(drop))),
        ("tree", Box::new(|a| Tree::<f64>::new(&forest, &by_hand(a, uniform), 0.1, false).map(drop))),
        ("orbits", Box::new(|a| Orbits::<f32>::new(&forest, &by_hand(a, uniform), 0.1, false).map(drop))),
        ("law", Box::new(|a| TreeLaw::new(forest.clone(), by_hand(a, RootLaw::SharedDirichlet)).map(drop))),
        ("quadrature", Box::new(|a| stationary_pairs(a, 4).map(drop))),
        ("draws", Box::new(|a| draws(3, a, &key(), 0, 2).map(drop))),
        ("gamma", Box::new(|a| LogGamma::new(a).map(drop))),
        ("task", Box::new(|a| CausalTree::new(forest.clone(), 2, a, Roots::Uniform).map(drop))),
        ("dag", Box::new(|a| CausalDag::new(Dag::two_parents(4)?, 2, a, DagRoots::Shared).map(drop))),
        ("corpus", Box::new(|a| Bigrams::dirichlet(4, a, 1).map(drop))),
    ];
    for (name, path) in &paths {
        for good in [MIN_ALPHA, 0.1, MAX_ALPHA] {
            assert!(path(good).is_ok(), "{name} refused {good}");
        }
        for bad in [0.0, -1.0, 1e-300, 5e-324, 9.9e-4, 1000.5, 1e150, 1e300, f64::INFINITY, f64::NAN] {
            let e = path(bad).err().unwrap_or_else(|| panic!("{name} took {bad:e}")).to_string();
            assert!(e.starts_with("alpha: ") && e.contains("1e-3 <= alpha <= 1e3"), "{name}: {e}");
        }
    }
}

/// At the ends of the range of α every engine has the same numbers, f32 too: no product of α or Sα
/// leaves it.
#[test]
fn engines_agree_at_the_ends_of_alpha() {
    for (s, t) in [(2, 13), (7, 6)] {
        let forest = Forest::chain(t).unwrap();
        let (a1, a2) = (normals(7, t * t, 1.0), normals(8, s * s, 1.0));
        for alpha in [MIN_ALPHA, MAX_ALPHA] {
            for roots in [RootLaw::Uniform, RootLaw::SharedDirichlet] {
                let prior = Prior::dirichlet(s, alpha, roots).unwrap();
                let want = brute::population(&forest, &prior, &a1, &a2, 0.01).unwrap();
                let mut tree = Tree::<f64>::new(&forest, &prior, 0.01, false).unwrap();
                same("tree", tree.gradients(&a1, &a2).unwrap(), &want, 1e-11);
                let mut tree = Tree::<f32>::new(&forest, &prior, 0.01, false).unwrap();
                let got = tree.gradients(&a1, &a2).unwrap();
                assert!((got.weight - 1.0).abs() < 1e-5, "{}", got.weight);
                same("f32", got, &want, 1e-3);
            }
        }
    }
}

/// Where many factors α or Sα meet in one word, f32 keeps the quotient: (Sα)^T is beyond its range.
#[test]
fn weights_of_long_words_stay_in_range() {
    let (s, t) = (20, 10);
    let a1 = normals(9, t * t, 1.0);
    // A prefix of the first positions is drawn before lanes part: both orders of parents.
    let star = Forest::from_parents(&[-1, 0, 0, 1, 0, 2, 1, 3, 0]).unwrap();
    for forest in [Forest::chain(t).unwrap(), star] {
        for (alpha, roots) in [
            (MAX_ALPHA, RootLaw::Uniform),
            (MAX_ALPHA, RootLaw::SharedDirichlet),
            (MIN_ALPHA, RootLaw::Uniform),
        ] {
            let prior = Prior::dirichlet(s, alpha, roots).unwrap();
            let mut exact = Orbits::<f64>::new(&forest, &prior, 0.01, false).unwrap();
            let want = exact.gradients(&a1, 1.5).unwrap();
            let mut orbits = Orbits::<f32>::new(&forest, &prior, 0.01, false).unwrap();
            let got = orbits.gradients(&a1, 1.5).unwrap();
            assert!((want.weight - 1.0).abs() < 1e-12, "{}", want.weight);
            assert!((got.weight - 1.0).abs() < 1e-5, "{alpha}: {}", got.weight);
            assert!((got.loss - want.loss).abs() < 1e-5 * want.loss, "{alpha}: {} {}", got.loss, want.loss);
            let scale = want.a1.iter().fold(1e-4, |m: f64, g| m.max(g.abs()));
            for (x, y) in got.a1.iter().zip(&want.a1) {
                assert!((x - y).abs() < 1e-3 * scale, "{alpha}: {x:e} for {y:e}");
            }
        }
    }
}
