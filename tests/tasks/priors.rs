//! Priors: what constructors accept, closures and invariances, weights of words against moments
//! known in closed form; and the naive enumeration held against identities that it does not use.

use popgrad::exact::brute::{population, weights, words};
use popgrad::exact::quadrature::{draws, monte_carlo, power_rule, stationary_pairs, until_converged};
use popgrad::exact::{AtomRoots, FinitePrior, Prior, RootLaw};
use popgrad::num::Sum;
use popgrad::rng::{Key, Purpose};
use popgrad::task::bayes::{Mixture, bayes_counts, bayes_public};
use popgrad::task::{CausalTree, Forest, Roots};

/// A positive row-stochastic (Q, S, S) from addressed draws.
fn random_pi(seed: u64, q: usize, s: usize) -> Vec<f64> {
    let key = Key::new(seed, Purpose::Probe);
    let mut pi: Vec<f64> = (0..q * s * s).map(|i| key.uniforms(i as u64, 0, 0)[0] + 0.05).collect();
    for row in pi.chunks_exact_mut(s) {
        let z: f64 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= z);
    }
    pi
}

fn gaussian(seed: u64, n: usize, scale: f64) -> Vec<f64> {
    let key = Key::new(seed, Purpose::Init);
    (0..n).map(|i| scale * key.normal(i as u64)).collect()
}

fn mixture(seed: u64, s: usize) -> FinitePrior {
    FinitePrior::new(s, vec![0.25, 0.4, 0.35], random_pi(seed, 3, s), AtomRoots::Stationary).unwrap()
}

#[test]
fn constructors_name_what_they_refuse() {
    let half = vec![0.5; 4];
    let single = |pi: Vec<f64>, roots| FinitePrior::single(2, pi, roots).unwrap_err().to_string();
    let u = AtomRoots::Uniform;
    assert_eq!(single(vec![0.5, 0.5, 0.5], u.clone()), "pi: 3 entries; allowed: 4 for these Q and S");
    assert_eq!(single(vec![0.5, 0.5, 1.5, -0.5], u.clone()), "pi[0][1][1]: -0.5; allowed: finite, >= 0");
    assert_eq!(single(vec![0.5, f64::NAN, 1.0, 0.0], u.clone()), "pi[0][0][1]: NaN; allowed: finite, >= 0");
    assert_eq!(
        single(vec![0.5, 0.5, 0.5, 0.25], u.clone()),
        "pi[0][1]: sums to 0.75; allowed: 1 within 1e-12"
    );
    // Twice the tolerance off, then half of it.
    assert!(single(vec![0.5, 0.5, 0.5, 0.5 + 2e-12], u.clone()).starts_with("pi[0][1]: sums to"));
    let p = FinitePrior::single(2, vec![0.5, 0.5, 0.5, 0.5 + 5e-13], u.clone()).unwrap();
    assert!((p.pi()[2] + p.pi()[3] - 1.0).abs() <= f64::EPSILON);
    // Two absorbing states; one transient state.
    for pi in [vec![1.0, 0.0, 0.0, 1.0], vec![0.5, 0.5, 0.0, 1.0], vec![1.0, 0.0, 0.5, 0.5]] {
        assert!(single(pi.clone(), AtomRoots::Stationary).starts_with("pi[0]: reducible"));
        assert!(FinitePrior::single(2, pi, u.clone()).is_ok());
    }
    // A permutation is periodic and irreducible.
    let cycle = vec![0.0, 1.0, 1.0, 0.0];
    assert_eq!(FinitePrior::single(2, cycle, AtomRoots::Stationary).unwrap().roots(), [0.5, 0.5]);
    let given = |r: Vec<f64>| single(half.clone(), AtomRoots::Given(r));
    assert_eq!(given(vec![1.0]), "roots: 1 entries; allowed: 2 for these Q and S");
    assert_eq!(given(vec![0.3, 0.3]), "roots[0]: sums to 0.6; allowed: 1 within 1e-12");
    assert_eq!(given(vec![1.3, -0.3]), "roots[0][1]: -0.3; allowed: finite, >= 0");
    let new = |s, w: Vec<f64>, pi: Vec<f64>| FinitePrior::new(s, w, pi, u.clone()).unwrap_err().to_string();
    assert_eq!(new(2, vec![], vec![]), "weight: no atoms; allowed: at least one");
    assert!(new(2, vec![0.5, 0.6], vec![0.5; 8]).starts_with("weight: sums to 1.1"));
    assert_eq!(new(2, vec![2.0, -1.0], vec![0.5; 8]), "weight[1]: -1; allowed: finite, >= 0");
    assert_eq!(new(1, vec![1.0], vec![1.0]), "S: 1; allowed: 2 <= S <= 1024");
    assert!(new(1024, vec![1.0; 17], vec![]).contains("17825792 entries of pi"));
    for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let e = Prior::dirichlet(3, alpha, RootLaw::Uniform).unwrap_err().to_string();
        assert!(e.starts_with("alpha: "), "{e}");
    }
    assert!(Prior::dirichlet(1, 0.5, RootLaw::Uniform).is_err());
    // 9! atoms of 81 entries.
    let wide = FinitePrior::single(9, vec![1.0 / 9.0; 81], AtomRoots::Uniform).unwrap();
    let e = wide.closed_under_relabelling().unwrap_err().to_string();
    assert!(e.starts_with("relabellings (S! Q): 29393280 entries"), "{e}");
}

#[test]
fn closures_have_the_invariance_they_are_named_for() {
    for s in [2, 3, 4] {
        let p = mixture(s as u64, s);
        assert!(!p.is_relabelling_invariant() && !p.is_constant_mean());
        let r = p.closed_under_relabelling().unwrap();
        assert_eq!(r.atoms(), 3 * (1..=s).product::<usize>());
        assert!(r.is_relabelling_invariant());
        // Relabelling carries the diagonal to the diagonal: the mean stays away from 1/S.
        assert!(!r.is_constant_mean());
        let c = p.closed_under_column_shifts().unwrap();
        assert_eq!(c.atoms(), 3 * s);
        assert!(c.is_constant_mean());
        // For S = 2 the shift swaps p and 1-q, which is no relabelling.
        assert!(!c.is_relabelling_invariant());
        assert!(c.closed_under_relabelling().unwrap().is_constant_mean());
        // Stationary roots: μ π = μ for every atom of either closure.
        for prior in [&r, &c] {
            for q in 0..prior.atoms() {
                let (pi, mu) = (prior.atom_pi(q), prior.atom_roots(q));
                for b in 0..s {
                    let next: f64 = (0..s).map(|a| mu[a] * pi[a * s + b]).sum();
                    assert!((next - mu[b]).abs() < 1e-15, "{next} for {}", mu[b]);
                }
            }
        }
        // The invariance is of the pair (π, μ), and of the weights.
        let mut roots = r.roots().to_vec();
        roots[..s].copy_from_slice(&[vec![1.0], vec![0.0; s - 1]].concat());
        let uneven = FinitePrior::new(s, r.weight().to_vec(), r.pi().to_vec(), AtomRoots::Given(roots));
        assert!(!uneven.unwrap().is_relabelling_invariant());
        let mut w = r.weight().to_vec();
        (w[0], w[3]) = (w[0] + 1e-6, w[3] - 1e-6);
        let uneven = FinitePrior::new(s, w, r.pi().to_vec(), AtomRoots::Stationary).unwrap();
        assert!(!uneven.is_relabelling_invariant());
    }
    // Coinciding atoms: the closure of a symmetric matrix.
    let lazy = FinitePrior::single(3, vec![0.6, 0.2, 0.2, 0.2, 0.6, 0.2, 0.2, 0.2, 0.6], AtomRoots::Uniform);
    let lazy = lazy.unwrap();
    assert!(lazy.is_relabelling_invariant() && !lazy.is_constant_mean());
    assert!(lazy.closed_under_relabelling().unwrap().is_relabelling_invariant());
    // A shift can make a matrix reducible: [0, 1; 1, 0] becomes the identity.
    let swap = FinitePrior::single(2, vec![0.0, 1.0, 1.0, 0.0], AtomRoots::Stationary).unwrap();
    assert!(swap.closed_under_column_shifts().unwrap_err().to_string().starts_with("pi[1]: reducible"));
}

#[test]
fn weights_of_words_by_hand() {
    // Chain of two edges with the query: S = 2, tokens 0, 1, 1, query 1. Edges 0→1 and 1→1, root 0.
    let forest = Forest::chain(4).unwrap();
    let (a, tokens) = (0.3, [0, 1, 1, 1]);
    let w = |roots| weights(&forest, &Prior::dirichlet(2, a, roots).unwrap(), &tokens);
    // ½ query, ½ root, ½ for each first edge, then (α + N_1b)/(2α + 1).
    let base = 0.5f64.powi(4) / (2.0 * a + 1.0);
    for roots in [RootLaw::Uniform, RootLaw::SharedDirichlet] {
        let w = w(roots);
        assert!((w[0] - base * a).abs() < 1e-16 && (w[1] - base * (a + 1.0)).abs() < 1e-16, "{w:?}");
    }
    // Two roots that share one law coincide with probability (1 + α)/(1 + Sα).
    let forest = Forest::from_parents(&[-1, -1]).unwrap();
    let prior = Prior::dirichlet(3, a, RootLaw::SharedDirichlet).unwrap();
    let same: f64 = words(&forest, &prior)
        .unwrap()
        .filter(|w| w.tokens[0] == w.tokens[1])
        .map(|w| w.weights.iter().sum::<f64>())
        .sum();
    assert!((same - (1.0 + a) / (1.0 + 3.0 * a)).abs() < 1e-15);
}

fn cases() -> Vec<(Forest, Prior)> {
    let forest = |p: &[i64]| Forest::from_parents(p).unwrap();
    vec![
        (Forest::chain(6).unwrap(), Prior::dirichlet(2, 0.1, RootLaw::Uniform).unwrap()),
        (forest(&[-1, 0, 0, -1, 3]), Prior::dirichlet(3, 0.7, RootLaw::SharedDirichlet).unwrap()),
        (forest(&[-1, -1, 0, 1]), Prior::dirichlet(4, 1.0, RootLaw::Uniform).unwrap()),
        (Forest::icl(6).unwrap(), mixture(5, 3).into()),
        (forest(&[-1, 0, 0, 1]), mixture(6, 4).into()),
    ]
}

/// Prefixes of the words have the marginal law of a shorter forest: nothing else in the tests knows
/// W.
#[test]
fn weights_sum_to_one_and_are_consistent_between_lengths() {
    for (forest, prior) in cases() {
        let s = prior.symbols();
        let total: Sum = words(&forest, &prior).unwrap().flat_map(|w| w.weights).collect();
        assert!((total.value() - 1.0).abs() < 1e-14, "{}", total.value());
        // Drop the last context position.
        let parents = forest.parents_i64();
        let short = Forest::from_parents(&parents[..parents.len() - 1]).unwrap();
        for word in words(&short, &prior).unwrap() {
            let mut sum = vec![0.0; s];
            for c in 0..s as u32 {
                let mut longer = word.tokens.clone();
                longer.insert(short.len_context(), c);
                sum.iter_mut().zip(weights(&forest, &prior, &longer)).for_each(|(x, w)| *x += w);
            }
            for (x, w) in sum.iter().zip(&word.weights) {
                assert!((x - w).abs() <= 1e-14 * w, "{x} for {w}");
            }
        }
    }
}

#[test]
fn brute_force_gradients_are_central_differences_with_zero_row_sums() {
    for (case, (forest, prior)) in cases().into_iter().enumerate() {
        let (s, t) = (prior.symbols(), forest.seq_len());
        let (mut a1, mut a2) =
            (gaussian(1 + case as u64, t * t, 1.0), gaussian(50 + case as u64, s * s, 1.5));
        let eps = 0.03;
        let g = population(&forest, &prior, &a1, &a2, eps).unwrap();
        assert!((g.weight - 1.0).abs() < 1e-14);
        let largest = |x: &[f64]| x.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        for (rows, n) in [(&g.a1, t), (&g.a2, s)] {
            for row in rows.chunks(n) {
                assert!(row.iter().sum::<f64>().abs() < 4e-16 * n as f64 * largest(rows));
            }
        }
        assert_eq!(g.a1[0], 0.0);
        // Fourth order: h⁴ f⁽⁵⁾/30 + u/h.
        let h = 1e-3;
        let check = |numeric: f64, exact: f64| {
            assert!((numeric - exact).abs() < 3e-11, "case {case}: {numeric} {exact}");
        };
        let five = |at: &mut dyn FnMut(f64) -> f64| {
            -(8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h)
        };
        for e in 0..t * t {
            let old = a1[e];
            let numeric = five(&mut |d| {
                a1[e] = old + d;
                population(&forest, &prior, &a1, &a2, eps).unwrap().loss
            });
            a1[e] = old;
            check(numeric, g.a1[e]);
        }
        for e in 0..s * s {
            let old = a2[e];
            let numeric = five(&mut |d| {
                a2[e] = old + d;
                population(&forest, &prior, &a1, &a2, eps).unwrap().loss
            });
            a2[e] = old;
            check(numeric, g.a2[e]);
        }
    }
}

/// Theory 1.3: with a prior invariant under relabelling and A2 = bI + c11ᵀ, −∂L/∂A2 is a multiple
/// of I − 11ᵀ/S.
#[test]
fn symmetric_priors_give_symmetric_gradients() {
    let (s, forest) = (3, Forest::from_parents(&[-1, 0, -1, 1, 2]).unwrap());
    let t = forest.seq_len();
    let closed = mixture(9, s).closed_under_relabelling().unwrap();
    let a1 = gaussian(3, t * t, 1.0);
    let a2: Vec<f64> = (0..s * s).map(|i| if i % (s + 1) == 0 { 1.7 } else { 0.4 }).collect();
    let off = |prior: &Prior| {
        let g = population(&forest, prior, &a1, &a2, 0.01).unwrap().a2;
        let b = g[0] / (1.0 - 1.0 / s as f64);
        (0..s * s)
            .map(|i| (g[i] - b * (f64::from(i % (s + 1) == 0) - 1.0 / s as f64)).abs())
            .fold(0.0, f64::max)
    };
    assert!(off(&closed.into()) < 1e-15);
    assert!(off(&Prior::dirichlet(s, 0.1, RootLaw::SharedDirichlet).unwrap()) < 1e-15);
    assert!(off(&mixture(9, s).into()) > 1e-3);
}

#[test]
fn enumeration_refuses_what_it_cannot_do() {
    let forest = Forest::chain(30).unwrap();
    let prior = Prior::dirichlet(3, 1.0, RootLaw::Uniform).unwrap();
    let e = words(&forest, &prior).err().unwrap().to_string();
    assert!(e.starts_with("S, T: 3^30 words"), "{e}");
    let forest = Forest::chain(3).unwrap();
    let at = |a1: usize, a2: usize, eps| {
        population(&forest, &prior, &vec![0.0; a1], &vec![0.0; a2], eps).unwrap_err().to_string()
    };
    assert_eq!(at(8, 9, 0.0), "A1: 8 entries; allowed: 9");
    assert_eq!(at(9, 8, 0.0), "A2: 8 entries; allowed: 9");
    assert!(at(9, 9, -1.0).starts_with("eps: -1") && at(9, 9, f64::NAN).starts_with("eps: NaN"));
    // ε = 0: a finite gradient, an infinite loss.
    let g = population(&forest, &prior, &[0.3; 9], &[0.1, 0., 0., 0., 0.2, 0., 0., 0., 0.3], 0.0).unwrap();
    assert!(g.loss == f64::INFINITY && g.a1.iter().chain(&g.a2).all(|x| x.is_finite()));
}

/// Moments c/(c+k) of the density c x^{c-1}, all that the rule promises, odd and even n, down to
/// the smallest α.
#[test]
fn gauss_rules_have_exact_moments() {
    let u = f64::EPSILON / 2.0;
    for n in [1, 2, 3, 5, 8, 12, 25, 48, 96] {
        for c in [1e-3, 0.1, 0.2, 1.0, 2.5, 40.0, 2000.0] {
            let rule = power_rule(n, c);
            assert!(
                rule.nodes.windows(2).all(|x| x[0] < x[1]) && rule.nodes[0] > 0.0 && rule.nodes[n - 1] < 1.0
            );
            let mut worst = 0.0f64;
            for k in 0..2 * n as i32 {
                let terms = rule.nodes.iter().zip(&rule.weights).map(|(x, w)| w * x.powi(k));
                worst = worst.max((terms.collect::<Sum>().value() * (c + k as f64) / c - 1.0).abs());
            }
            println!("n {n}, c {c}: largest relative error of a moment {worst:.2e}");
            // A node's few ulp count 2n times in the highest moment; the recurrence for the weights
            // adds as much.
            assert!(worst < 32.0 * (n as f64 + 4.0) * u, "n {n}, c {c}: {worst:e}");
        }
    }
    // P_2 of c = 1: (3 ∓ √3)/6; n = 1: the mean.
    let rule = power_rule(2, 1.0);
    assert!((rule.nodes[0] - (3.0 - 3f64.sqrt()) / 6.0).abs() < u && (rule.weights[0] - 0.5).abs() < 2.0 * u);
    assert!((power_rule(1, 0.1).nodes[0] - 0.1 / 1.1).abs() < u);
}

fn mean(p: &FinitePrior, f: impl Fn(&[f64], &[f64]) -> f64) -> f64 {
    (0..p.atoms()).map(|q| p.weight()[q] * f(p.atom_pi(q), p.atom_roots(q))).collect::<Sum>().value()
}

/// Theory 1.4 (iii): 5n² atoms for p, q ~ Beta(α, α).
#[test]
fn stationary_pairs_are_beta_variables_with_their_stationary_law() {
    for (alpha, n, tolerance) in
        [(0.001, 12, 1e-12), (0.1, 12, 1e-12), (0.5, 12, 1e-12), (1.0, 12, 1e-12), (6.5, 24, 1e-10)]
    {
        let p = stationary_pairs(alpha, n).unwrap();
        assert_eq!(p.atoms(), 5 * n * n);
        assert!(p.is_relabelling_invariant() && p.is_constant_mean());
        assert!((sum_of(p.weight()) - 1.0).abs() < 1e-14);
        // E p^k = Π (α+i)/(2α+i).
        let moment = |k: i32| (0..k).map(|i| (alpha + i as f64) / (2.0 * alpha + i as f64)).product::<f64>();
        for (k, l) in [(1, 0), (2, 0), (1, 1), (3, 2), (5, 5)] {
            let m = mean(&p, |pi, _| pi[1].powi(k) * pi[2].powi(l));
            assert!((m / (moment(k) * moment(l)) - 1.0).abs() < tolerance, "α {alpha}: {k} {l} {m}");
        }
        // E λ², λ = 1-p-q.
        let g = mean(&p, |pi, _| (1.0 - pi[1] - pi[2]).powi(2));
        assert!((g - 0.5 / (1.0 + 2.0 * alpha)).abs() < tolerance, "{g}");
        for q in 0..p.atoms() {
            let (pi, mu) = (p.atom_pi(q), p.atom_roots(q));
            // Flow balance μ_0 p = μ_1 q, relative to itself.
            assert!((mu[0] * pi[1] / (mu[1] * pi[2]) - 1.0).abs() < 1e-15);
        }
    }
    // α = 1: E μ_0² = ∫∫ q²/(p+q)² = 1 - ln 2, and the plain-sum symmetry E μ_0 = ½.
    let p = stationary_pairs(1.0, 16).unwrap();
    assert!((mean(&p, |_, mu| mu[0] * mu[0]) - (1.0 - std::f64::consts::LN_2)).abs() < 1e-14);
    assert!((mean(&p, |_, mu| mu[0]) - 0.5).abs() < 1e-14);
    // Large α: weights far below the range of f64 before they are normalised.
    assert!((sum_of(stationary_pairs(1000.0, 16).unwrap().weight()) - 1.0).abs() < 1e-13);
    for (alpha, n) in [(1e-4, 8), (f64::NAN, 8), (0.1, 0), (0.1, 257)] {
        assert!(stationary_pairs(alpha, n).is_err());
    }
}

fn sum_of(x: &[f64]) -> f64 {
    popgrad::num::sum(x)
}

/// The convergence that theory 1.4 (iii) states, on weights of words, and the loss that doubling
/// settles on.
#[test]
fn doubling_the_nodes_converges() {
    let forest = Forest::chain(9).unwrap();
    let tokens = [0, 0, 1, 1, 1, 0, 0, 0, 1];
    let w = |alpha, n| weights(&forest, &stationary_pairs(alpha, n).unwrap().into(), &tokens);
    for alpha in [0.1, 0.5] {
        let exact = w(alpha, 48);
        let error = |n| w(alpha, n).iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        println!("α {alpha}: {:e} {:e} {:e}", error(4), error(8), error(12));
        assert!(error(8) < 4e-8 && error(12) < 5e-12 && error(4) > 100.0 * error(8));
    }
    let (a1, a2) = (vec![0.0; 64], vec![0.1, 0.0, 0.0, 0.1]);
    let forest = Forest::chain(8).unwrap();
    let loss = |p: &FinitePrior| Ok(population(&forest, &p.clone().into(), &a1, &a2, 0.01)?.loss);
    let c = until_converged(0.5, loss).unwrap();
    // Claim 8: the loss at the start of Algorithm 1.
    assert!((c.loss - 0.63384).abs() < 5e-6 && c.change < 1e-12 && c.nodes <= 32, "{} {}", c.loss, c.nodes);
    let mut n = 0.0;
    let e = until_converged(0.5, |_| {
        n += 1.0;
        Ok(n)
    })
    .unwrap_err()
    .to_string();
    assert!(e.starts_with("quadrature: the loss still moves by 1e0 at 256 nodes"), "{e}");
}

#[test]
fn monte_carlo_agrees_with_quadrature_within_its_error() {
    let forest = Forest::icl(6).unwrap();
    let (a1, a2) = (gaussian(1, 36, 1.0), vec![1.0, -0.5, 0.2, 0.7]);
    let key = Key::new(4, Purpose::Prior);
    let evaluate = |p: &FinitePrior, out: &mut [f64]| {
        let g = population(&forest, &p.clone().into(), &a1, &a2, 0.05)?;
        out[0] = g.loss;
        out[1..].copy_from_slice(&g.a2);
        Ok(())
    };
    let exact = stationary_pairs(0.3, 24).unwrap();
    let mut truth = [0.0; 5];
    evaluate(&exact, &mut truth).unwrap();
    let mut last = f64::INFINITY;
    for count in [400, 6400] {
        let e = monte_carlo(2, 0.3, &key, count, 5, evaluate).unwrap();
        for ((m, s), t) in e.mean.iter().zip(&e.standard_error).zip(&truth) {
            // Five numbers: |z| > 5 has probability 3e-6.
            assert!((m - t).abs() < 5.0 * s && *s > 0.0, "{m} ± {s} for {t}");
        }
        assert!(e.standard_error[0] < last / 3.0);
        last = e.standard_error[0];
    }
    // The mean of single draws is the population of their mixture: the loss is linear in the prior.
    let mixed = draws(2, 0.3, &key, 0, 400).unwrap();
    let mut at_once = [0.0; 5];
    evaluate(&mixed, &mut at_once).unwrap();
    let one_by_one = monte_carlo(2, 0.3, &key, 400, 5, evaluate).unwrap();
    for (a, b) in at_once.iter().zip(&one_by_one.mean) {
        assert!((a - b).abs() < 1e-14);
    }
    // Tiny α: entries of π underflow, the stationary law does not mind.
    let d = draws(3, 1e-3, &key, 0, 200).unwrap();
    assert!(d.pi().contains(&0.0) && d.roots().iter().all(|m| (0.0..=1.0).contains(m)));
    assert!(monte_carlo(2, 0.3, &key, 1, 5, evaluate).is_err() && draws(2, 0.3, &key, 0, 0).is_err());
}

/// Theory 1.1: with roots drawn from μ the counts are not optimal. Losses of the three predictors
/// by enumeration.
#[test]
fn bayes_predictors_with_stationary_roots_have_the_losses_of_the_theory() {
    let forest = Forest::icl(9).unwrap();
    let task = CausalTree::new(forest.clone(), 2, 0.1, Roots::Stationary).unwrap();
    let p = stationary_pairs(0.1, 24).unwrap();
    let mut mixture = Mixture::new(2, p.weight(), p.pi(), p.roots());
    let (mut f, mut losses) = ([[0.0; 2]; 3], [Sum::new(); 3]);
    for word in words(&forest, &p.clone().into()).unwrap() {
        mixture.predict(&forest, &word.tokens, &mut f[0]).unwrap();
        bayes_counts(&task, &word.tokens, &mut f[1]);
        bayes_public(&task, &word.tokens, &mut f[2]);
        // The posterior mean is W normalised: the definition.
        let total: f64 = word.weights.iter().sum();
        for (f, w) in f[0].iter().zip(&word.weights) {
            assert!((f - w / total).abs() < 1e-14, "{f} for {}", w / total);
        }
        for (loss, f) in losses.iter_mut().zip(&f) {
            word.weights.iter().zip(f).for_each(|(w, f)| loss.add(-w * f.ln()));
        }
    }
    for (loss, expected) in losses.iter().zip([0.321412, 0.364772, 0.369561]) {
        assert!((loss.value() - expected).abs() < 6e-7, "{} for {expected}", loss.value());
    }
    assert_eq!(Prior::of_task(&task, 24).unwrap(), p.into());
    let of = |s, roots| Prior::of_task(&CausalTree::new(forest.clone(), s, 0.1, roots).unwrap(), 8);
    assert_eq!(of(5, Roots::Uniform).unwrap(), Prior::dirichlet(5, 0.1, RootLaw::Uniform).unwrap());
    assert!(of(3, Roots::Stationary).unwrap_err().to_string().starts_with("S: 3 with stationary roots"));
    // Two deterministic atoms: the word picks one, or none.
    let mut sure = Mixture::new(2, &[0.5; 2], &[0., 1., 1., 0., 1., 0., 0., 1.], &[0.5; 4]);
    let (chain, mut out) = (Forest::chain(3).unwrap(), [f64::NAN; 2]);
    assert!(sure.predict(&chain, &[0, 1, 0], &mut out).is_some() && out == [0.0, 1.0]);
    assert!(sure.predict(&chain, &[0, 0, 0], &mut out).is_some() && out == [1.0, 0.0]);
    assert_eq!(sure.predict(&Forest::chain(4).unwrap(), &[0, 1, 1, 0], &mut out), None);
}
