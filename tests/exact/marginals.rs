//! Marginals, the population limit g and the finite-T gradient ĝ against enumeration of every
//! sequence.

use popgrad::exact::counts::{leading, leading_averaged};
use popgrad::exact::marginals::{Marginals, Paths, limit, limit_averaged};
use popgrad::exact::transition::Transition;
use popgrad::num::Sum;
use popgrad::rng::{Key, Purpose};
use popgrad::task::Forest;

const U: f64 = f64::EPSILON / 2.0;

/// Rows that sum to 1, entries from about 0.02 up: `number` picks the matrix.
fn transition(s: usize, number: u64) -> Transition {
    let key = Key::new(number, Purpose::Prior);
    let mut pi: Vec<f64> = (0..s * s).map(|i| 0.05 + key.uniforms(i as u64, 0, 0)[0]).collect();
    for row in pi.chunks_exact_mut(s) {
        let total: f64 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= total);
    }
    Transition::new(s, &pi).unwrap()
}

fn law(s: usize, number: u64) -> Vec<f64> {
    transition(s, number + 1000).pi()[..s].to_vec()
}

fn forests(t: usize) -> Vec<Forest> {
    let key = Key::new(3, Purpose::Graph);
    let star: Vec<i64> = (0..t as i64 - 1).map(|i| if i == 0 { -1 } else { 0 }).collect();
    let mut all =
        vec![Forest::chain(t).unwrap(), Forest::icl(t).unwrap(), Forest::from_parents(&star).unwrap()];
    for g in 0..4 {
        all.push(Forest::random(t, &key, g).unwrap());
        all.push(Forest::many_graphs(t, &key, g).unwrap());
    }
    all
}

/// Every word of the context with its probability.
fn words(transition: &Transition, forest: &Forest, roots: &[f64], mut f: impl FnMut(&[usize], f64)) {
    let (s, n) = (transition.symbols(), forest.len_context());
    let mut word = vec![0; n];
    for number in 0..s.pow(n as u32) {
        let (mut rest, mut p) = (number, 1.0);
        for i in 0..n {
            word[i] = rest % s;
            rest /= s;
            p *= forest.parent(i).map_or(roots[word[i]], |q| transition.pi()[word[q] * s + word[i]]);
        }
        f(&word, p);
    }
}

/// ĝ from its definition.
fn leading_by_words(transition: &Transition, forest: &Forest, roots: &[f64], eps: f64) -> Vec<f64> {
    let (s, t, pi) = (transition.symbols(), forest.seq_len(), transition.pi());
    let mut sums = vec![Sum::default(); t * t];
    words(transition, forest, roots, |word, p| {
        for k in 0..s {
            let full: Vec<usize> = word.iter().copied().chain([k]).collect();
            let mean = |x: usize| full.iter().filter(|y| **y == x).count() as f64 / t as f64;
            let occurring = (0..s).filter(|x| mean(*x) > 0.0);
            let r: f64 = occurring.map(|x| pi[k * s + x] * mean(x) / (mean(x) + eps)).sum();
            for i in 0..t {
                for j in (0..=i).filter(|j| full[*j] == k) {
                    // S times the uniform query's 1/S.
                    sums[i * t + j].add(p * (pi[k * s + full[i]] / (mean(full[i]) + eps) - r));
                }
            }
        }
    });
    sums.iter().map(Sum::value).collect()
}

#[track_caller]
fn all_close(found: &[f64], expected: &[f64], tolerance: impl Fn(f64) -> f64, what: &str) {
    assert_eq!(found.len(), expected.len());
    for (n, (x, y)) in found.iter().zip(expected).enumerate() {
        assert!((x - y).abs() <= tolerance(*y), "{what}, entry {n}: {x:e} against {y:e}, off by {:e}", x - y);
    }
}

#[test]
fn pairs_and_triples_are_those_of_enumeration() {
    for (s, t) in [(2, 7), (3, 6), (4, 5)] {
        // Sums and products of positive terms: relative errors, (S + 2) u per product of matrices,
        // T of them at most.
        let relative = |y: f64| 6.0 * t as f64 * (s as f64 + 2.0) * U * y;
        for (number, forest) in forests(t).iter().enumerate() {
            let tr = transition(s, number as u64);
            let (roots, n) = (law(s, number as u64), t - 1);
            for roots in [None, Some(&roots[..])] {
                let m = Marginals::new(&tr, forest, roots).unwrap();
                let roots = roots.unwrap_or(tr.mu());
                let (mut pair, mut triple) = (vec![0.0; s * s], vec![0.0; s * s * s]);
                for i in 0..n {
                    for j in 0..n {
                        let mut sums = vec![Sum::default(); s * s];
                        words(&tr, forest, roots, |w, p| sums[w[i] * s + w[j]].add(p));
                        let expected: Vec<f64> = sums.iter().map(Sum::value).collect();
                        m.pair(i, j, &mut pair).unwrap();
                        all_close(&pair, &expected, relative, &format!("{forest:?} pair {i} {j}"));
                        let k = (i * 5 + j * 3 + number) % n;
                        let mut sums = vec![Sum::default(); s * s * s];
                        words(&tr, forest, roots, |w, p| sums[(w[i] * s + w[j]) * s + w[k]].add(p));
                        let expected: Vec<f64> = sums.iter().map(Sum::value).collect();
                        m.triple([i, j, k], &mut triple).unwrap();
                        all_close(&triple, &expected, relative, &format!("{forest:?} triple {i} {j} {k}"));
                    }
                    let mut sums = vec![Sum::default(); s];
                    words(&tr, forest, roots, |w, p| sums[w[i]].add(p));
                    let expected: Vec<f64> = sums.iter().map(Sum::value).collect();
                    all_close(m.law(i), &expected, relative, "law");
                }
                assert!(m.pair(0, 0, &mut triple).is_err() && m.triple([0; 3], &mut pair).is_err());
            }
        }
    }
}

/// g and χ² from pair marginals as theory 1.3 states them.
#[test]
fn the_limit_is_its_definition() {
    for (s, t) in [(2, 9), (3, 12), (7, 20), (16, 9)] {
        for (number, forest) in forests(t).iter().enumerate() {
            let tr = transition(s, number as u64);
            let roots = law(s, number as u64);
            for roots in [None, Some(&roots[..])] {
                let (pi, mu) = (tr.pi(), tr.mu());
                let least = mu.iter().fold(1.0, |a: f64, b| a.min(*b));
                // The definition subtracts 1 from a sum of order 1/min μ at most, whose parts err
                // by T (S + 2) u each.
                let tolerance = |_| 8.0 * t as f64 * (s as f64 + 2.0) * U / least;
                let m = Marginals::new(&tr, forest, roots).unwrap();
                let mut expected = vec![0.0; t * t];
                let mut chi2 = vec![0.0; t - 1];
                let mut pair = vec![0.0; s * s];
                for i in 0..t - 1 {
                    for j in 0..=i {
                        m.pair(j, i, &mut pair).unwrap();
                        let terms = (0..s * s).map(|n| pi[n] / mu[n % s] * pair[n]);
                        expected[i * t + j] = terms.collect::<Sum>().value() - 1.0;
                        if forest.parent(i) == Some(j) {
                            let ratio = |n: usize| pair[n] * pair[n] / (m.law(j)[n / s] * m.law(i)[n % s]);
                            chi2[i] = (0..s * s).map(ratio).collect::<Sum>().value() - 1.0;
                        }
                    }
                    let stay = |x: usize| m.law(i)[x] * pi[x * (s + 1)] / mu[x];
                    expected[(t - 1) * t + i] = (0..s).map(stay).sum::<f64>() - 1.0;
                }
                expected[t * t - 1] = (0..s).map(|x| pi[x * (s + 1)] / mu[x]).sum::<f64>() - s as f64;
                let l = limit(&tr, forest, roots).unwrap();
                all_close(&l.g, &expected, tolerance, &format!("g {forest:?}"));
                all_close(&l.chi2, &chi2, tolerance, &format!("chi2 {forest:?}"));
                if roots.is_none() {
                    for (i, p) in forest.parents().iter().enumerate() {
                        if let Some(p) = p {
                            assert!((l.g[i * t + p] - tr.chi2()).abs() <= tolerance(0.0));
                            assert!((l.chi2[i] - tr.chi2()).abs() <= tolerance(0.0));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn finite_length_is_enumeration() {
    for (s, t) in [(2, 2), (2, 9), (3, 7), (4, 5)] {
        for (number, forest) in forests(t).iter().enumerate() {
            let tr = transition(s, number as u64);
            let roots = law(s, number as u64);
            for (roots, eps) in [(None, 0.0), (Some(&roots[..]), 0.0), (None, 0.01), (Some(&roots[..]), 0.3)]
            {
                let expected = leading_by_words(&tr, forest, roots.unwrap_or(tr.mu()), eps);
                let found = leading(&tr, forest, roots, eps).unwrap();
                // T frequencies of terms up to 1/(1/T + ε), T messages each: T² u; the
                // specification requires 1e-12.
                let tolerance = 8.0 * (t * t) as f64 * s as f64 * U;
                assert!(tolerance < 1e-12);
                all_close(&found, &expected, |_| tolerance, &format!("{forest:?} S={s} eps={eps}"));
            }
        }
    }
}

/// The value of theory's claim 3: the chain's ĝ tends to g like 1/T.
#[test]
fn finite_length_tends_to_the_limit() {
    let atoms =
        [[0.75, 0.25, 0.45, 0.55], [0.25, 0.75, 0.55, 0.45]].map(|pi| Transition::new(2, &pi).unwrap());
    let atoms = || atoms.iter().map(|a| (0.5, a, None));
    for (t, published) in [(16, 0.0767), (32, 0.0357), (64, 0.0170)] {
        let forest = Forest::chain(t).unwrap();
        let g = limit_averaged(atoms(), &forest).unwrap().g;
        let found = leading_averaged(atoms(), &forest, 0.0).unwrap();
        let context = (t - 1) * t;
        let worst = found[..context].iter().zip(&g).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        assert!((worst - published).abs() <= 0.5e-4, "T = {t}: {worst}");
    }
}

#[test]
fn every_thread_count_gives_the_same_bits() {
    let forest = Forest::random(23, &Key::new(8, Purpose::Graph), 0).unwrap();
    let (tr, roots) = (transition(5, 1), law(5, 2));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let l = limit(&tr, &forest, Some(&roots)).unwrap();
            (l, leading(&tr, &forest, Some(&roots), 0.01).unwrap())
        })
    };
    let one = run(1);
    assert!([2, 5].into_iter().all(|n| run(n) == one));
}

#[test]
fn ancestors_are_the_nearest_common_ones() {
    for forest in forests(14) {
        let paths = Paths::new(&forest).unwrap();
        let above = |i: usize| std::iter::successors(Some(i), |i| forest.parent(*i)).collect::<Vec<_>>();
        for i in 0..13 {
            assert_eq!(paths.depth(i), above(i).len() - 1);
            for j in 0..13 {
                let common = above(i).into_iter().find(|c| above(j).contains(c));
                assert_eq!(paths.lca(i, j), common);
                let fork =
                    common.map(|c| (c, paths.depth(j) - paths.depth(c), paths.depth(i) - paths.depth(c)));
                assert_eq!(paths.fork(i, j), fork);
            }
        }
    }
}

#[test]
fn long_paths_fade_without_harm() {
    // ‖B‖ = 1/3: B^k leaves the range of f64 after some 650 edges.
    let tr = Transition::new(3, &[0.2, 0.4, 0.4, 0.4, 0.2, 0.4, 0.4, 0.4, 0.2]).unwrap();
    let forest = Forest::chain(1500).unwrap();
    let l = limit(&tr, &forest, None).unwrap();
    assert!(l.g.iter().all(|x| x.is_finite()));
    // −1/5 twice: g_{i, i-1-d} = 2 (−1/5)^{d + 2}.
    for d in [0, 1, 7, 100] {
        let (i, expected) = (1400, 2.0 * (-0.2f64).powi(d + 2));
        let found = l.g[i * 1500 + i - 1 - d as usize];
        assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{d}: {found:e} {expected:e}");
    }
    assert_eq!(l.g[1400 * 1500], 0.0);
}

#[test]
fn bad_input_is_refused() {
    let (tr, forest) = (transition(3, 0), Forest::chain(5).unwrap());
    let message = |roots: &[f64]| limit(&tr, &forest, Some(roots)).unwrap_err().to_string();
    assert!(message(&[0.5, 0.5]).starts_with("roots: 2 entries"));
    assert!(message(&[0.5, 0.5, 0.5]).starts_with("roots: 3 entries"));
    assert!(message(&[-0.5, 0.5, 1.0]).starts_with("roots: "));
    assert!(message(&[f64::NAN, 0.5, 0.5]).starts_with("roots: "));
    assert!(leading(&tr, &forest, None, -0.1).unwrap_err().to_string().starts_with("eps: "));
    assert!(leading(&tr, &forest, None, f64::NAN).is_err());
    let long = Forest::chain(5000).unwrap();
    assert!(limit(&tr, &long, None).unwrap_err().to_string().starts_with("T: 5000"));
    assert!(leading(&tr, &long, None, 0.0).unwrap_err().to_string().starts_with("T: 5000"));
}
