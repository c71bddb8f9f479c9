//! The sampler's laws: gamma and Dirichlet variates, tokens given π, the query, batches.
//!
//! Seeds are fixed, so nothing here flickers; thresholds are those of the test statistics at p =
//! 10⁻⁶ or beyond.

use popgrad::rng::{Key, LogGamma, Purpose};
use popgrad::source::{Sampled, Source};
use popgrad::task::{CausalTree, Forest, Roots, Task};
use proptest::prelude::*;

const ALPHAS: [f64; 7] = [0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 10.0];

/// ψ and ψ' by recurrence up to 20 and their asymptotic series.
fn digamma_trigamma(mut x: f64) -> (f64, f64) {
    let (mut d, mut t) = (0.0, 0.0);
    while x < 20.0 {
        d -= 1.0 / x;
        t += 1.0 / (x * x);
        x += 1.0;
    }
    let z = 1.0 / (x * x);
    d += x.ln() - 0.5 / x - z * (1.0 / 12.0 - z * (1.0 / 120.0 - z * (1.0 / 252.0 - z / 240.0)));
    t += 1.0 / x + 0.5 * z + z / x * (1.0 / 6.0 - z * (1.0 / 30.0 - z * (1.0 / 42.0 - z / 30.0)));
    (d, t)
}

/// P(ln X <= y) for X ~ Gamma(a, 1): the regularised incomplete gamma function at e^y, its power
/// taken as e^{ay}, so that it is right where e^y underflows.
fn log_gamma_cdf(a: f64, y: f64) -> f64 {
    let x = libm::exp(y);
    if x < a + 1.0 {
        let (mut term, mut total, mut n) = (1.0, 1.0, a);
        while term > 1e-17 * total {
            n += 1.0;
            term *= x / n;
            total += term;
        }
        return total * libm::exp(a * y - x - libm::lgamma(a + 1.0));
    }
    // Lentz's continued fraction of the complement.
    let mut b = x + 1.0 - a;
    let (mut c, mut d) = (1e300, 1.0 / b);
    let mut h = d;
    for i in 1..1000 {
        let an = -(i as f64) * (i as f64 - a);
        b += 2.0;
        d = 1.0 / (an * d + b);
        c = b + an / c;
        h *= d * c;
        if (d * c - 1.0).abs() < 1e-16 {
            break;
        }
    }
    1.0 - h * libm::exp(a * y - x - libm::lgamma(a))
}

/// √n times the Kolmogorov-Smirnov distance of `p` to the uniform law; above 2.694 with probability
/// 10⁻⁶.
fn ks(p: &mut [f64]) -> f64 {
    p.sort_by(f64::total_cmp);
    let n = p.len() as f64;
    let distance = p.iter().enumerate().fold(0f64, |m, (i, &u)| {
        assert!(u.is_finite());
        m.max(u - i as f64 / n).max((i + 1) as f64 / n - u)
    });
    distance * n.sqrt()
}
const KS: f64 = 2.694;

/// (mean - expected) in standard errors.
fn z_score(xs: impl Iterator<Item = f64>, mean: f64, variance: f64) -> f64 {
    let (mut n, mut total) = (0.0, 0.0);
    for x in xs {
        n += 1.0;
        total += x - mean;
    }
    total / (n * variance).sqrt()
}

#[test]
fn gamma_variates_have_their_law() {
    let key = Key::new(2024, Purpose::Test);
    for alpha in ALPHAS {
        let g = LogGamma::new(alpha).unwrap();
        let n = 200_000;
        let ys: Vec<f64> = (0..n).map(|i| g.draw(&key, i, 17)).collect();
        let xs = || ys.iter().map(|y| y.exp());
        let (d, t) = digamma_trigamma(alpha);
        let scores = [
            z_score(xs(), alpha, alpha),
            // The fourth central moment of Gamma(α) is 3α² + 6α.
            z_score(xs().map(|x| (x - alpha).powi(2)), alpha, 2.0 * alpha * alpha + 6.0 * alpha),
            z_score(ys.iter().copied(), d, t),
        ];
        let distance = ks(&mut ys.iter().map(|&y| log_gamma_cdf(alpha, y)).collect::<Vec<_>>());
        println!("alpha {alpha}: mean, variance, mean of log {scores:.2?} standard errors, KS {distance:.3}");
        assert!(scores.iter().all(|z| z.abs() < 5.0), "{alpha}: {scores:?}");
        assert!(distance < KS, "{alpha}: {distance}");
    }
}

#[test]
fn dirichlet_rows_have_their_law() {
    let (s, n) = (4, 40_000);
    for alpha in [0.001, 0.1, 1.0, 5.0] {
        let task = CausalTree::new(Forest::chain(2).unwrap(), s, alpha, Roots::Uniform).unwrap();
        let key = Key::new(7, Purpose::Prior);
        let (mut work, mut tokens, mut target) = (task.work(), vec![0; 2], vec![0.0; s]);
        let (mut p, mut l) = (vec![vec![]; s * s], vec![vec![]; s * s]);
        for i in 0..n {
            task.sample(&key, i, &mut work, &mut tokens, &mut target);
            for e in 0..s * s {
                p[e].push(work.pi()[e]);
                l[e].push(work.log_pi()[e]);
                assert!((work.pi()[e] - work.log_pi()[e].exp()).abs() <= 1e-13 * work.pi()[e] + 1e-300);
            }
        }
        let (sf, a0) = (s as f64, s as f64 * alpha);
        let mean = 1.0 / sf;
        let variance = mean * (1.0 - mean) / (a0 + 1.0);
        let ((d, t), (d0, t0)) = (digamma_trigamma(alpha), digamma_trigamma(a0));
        let mut worst = [0f64; 3];
        for e in 0..s * s {
            worst[0] = worst[0].max(z_score(p[e].iter().copied(), mean, variance).abs());
            worst[1] = worst[1].max(z_score(l[e].iter().copied(), d - d0, t - t0).abs());
            for f in 0..e {
                // Same row: covariance -1/(S²(Sα+1)); different rows: independent.
                let cov = if e / s == f / s { -1.0 / (sf * sf * (a0 + 1.0)) } else { 0.0 };
                let products: Vec<f64> =
                    p[e].iter().zip(&p[f]).map(|(x, y)| (x - mean) * (y - mean)).collect();
                let second = products.iter().map(|x| x * x).sum::<f64>() / n as f64 - cov * cov;
                worst[2] = worst[2].max(z_score(products.into_iter(), cov, second).abs());
            }
        }
        println!("alpha {alpha}: mean, mean of log, covariances: worst {worst:.2?} standard errors");
        // 16 means and 120 covariances: P(one beyond 6) < 1e-6.
        assert!(worst.iter().all(|z| *z < 6.0), "{alpha}: {worst:?}");
    }
}

/// Given π, every token's distribution function, randomised inside its jump, is uniform, and
/// independent of the others': this tests every transition, the root law and the query at once,
/// with π different in each sample.
#[test]
fn tokens_follow_pi_mu_and_the_query_law() {
    let jitter = Key::new(99, Purpose::Probe);
    for roots in [Roots::Stationary, Roots::Uniform] {
        for (s, alpha, forest) in [
            (3, 0.5, Forest::manual()),
            (5, 0.1, Forest::icl(8).unwrap()),
            (2, 0.01, Forest::chain(5).unwrap()),
        ] {
            let task = CausalTree::new(forest, s, alpha, roots).unwrap();
            let (t, n) = (task.seq_len(), 30_000);
            let key = Key::new(3, Purpose::Train);
            let (mut work, mut tokens, mut target) = (task.work(), vec![0; t], vec![0.0; s]);
            let mut u = vec![vec![]; t];
            let uniform = vec![1.0 / s as f64; s];
            for i in 0..n {
                task.sample(&key, i, &mut work, &mut tokens, &mut target);
                let row = |a: u32| &work.pi()[a as usize * s..(a as usize + 1) * s];
                assert_eq!(target, row(tokens[t - 1]));
                for j in 0..t {
                    let law = match (j + 1 < t).then(|| task.forest().parent(j)) {
                        Some(Some(p)) => row(tokens[p]),
                        Some(None) => work.mu().unwrap_or(&uniform),
                        None => &uniform,
                    };
                    let x = tokens[j] as usize;
                    assert!(law[x] > 0.0, "impossible token");
                    let below: f64 = law[..x].iter().sum();
                    u[j].push(below + law[x] * jitter.uniforms(i, j as u32, 0)[0]);
                }
            }
            assert_eq!(work.mu().is_some(), roots == Roots::Stationary);
            let mut worst = 0f64;
            for j in 0..t {
                for k in 0..j {
                    let products = u[j].iter().zip(&u[k]).map(|(x, y)| (x - 0.5) * (y - 0.5));
                    worst = worst.max(z_score(products, 0.0, 1.0 / 144.0).abs());
                }
            }
            let distances: Vec<f64> = u.iter_mut().map(|u| ks(u)).collect();
            println!(
                "{roots:?} S={s} alpha={alpha}: KS {distances:.2?}, correlation {worst:.2} standard errors"
            );
            assert!(distances.iter().all(|d| *d < KS), "{distances:?}");
            assert!(worst < 5.5, "{worst}");
        }
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let task = CausalTree::new(Forest::icl(9).unwrap(), 6, 0.1, Roots::Stationary).unwrap();
    let source = Sampled::new(task, Key::new(5, Purpose::Train));
    let batch = || source.batch(64).unwrap();
    let (mut whole, mut part, mut work) = (batch(), batch(), source.work());
    source.fill(0, 64, &mut work, &mut whole);
    assert!(whole.weights().iter().all(|w| *w == 1.0));
    // The later part first, with fresh storage: neither order nor leftovers matter.
    for (first, count) in [(10, 54), (0, 10)] {
        let mut work = source.work();
        source.fill(first, count, &mut work, &mut part);
        assert_eq!(part.seqs(), count);
        for i in 0..count {
            assert_eq!(part.sequence(i), whole.sequence(first as usize + i));
            assert_eq!(part.law(i), whole.law(first as usize + i));
            assert_eq!(part.weights()[i], 1.0);
        }
    }
    source.fill(u64::MAX, 2, &mut work, &mut part);
    assert_eq!(part.sequence(1), whole.sequence(0));
}

/// Rows γ/S + (1 − γ) Dirichlet(α): the same draws of the Dirichlet rows, floored, and μ is theirs.
#[test]
fn floored_rows_are_the_dirichlet_rows_raised() {
    let key = Key::new(3, Purpose::Train);
    for (s, alpha, gamma) in [(2, 0.1, 0.5), (5, 0.01, 0.1), (10, 1.0, 1.0)] {
        let plain = CausalTree::new(Forest::chain(6).unwrap(), s, alpha, Roots::Stationary).unwrap();
        let task = plain.clone().floored(gamma).unwrap();
        assert_eq!((task.floor(), plain.floor(), task.alpha()), (Some(gamma), None, alpha));
        let (mut of, mut raised, mut target) = (plain.work(), task.work(), vec![0.0; s]);
        let mut tokens = vec![0; 6];
        let mut mean = vec![0.0; s];
        for n in 0..2000 {
            plain.sample(&key, n, &mut of, &mut tokens, &mut target);
            task.sample(&key, n, &mut raised, &mut tokens, &mut target);
            let query = tokens[5] as usize * s;
            assert_eq!(target, raised.pi()[query..query + s]);
            for ((p, y), x) in raised.pi().iter().zip(raised.log_pi()).zip(of.pi()) {
                assert!((p - (gamma / s as f64 + (1.0 - gamma) * x)).abs() < 1e-15);
                assert!(*p >= gamma / s as f64 * (1.0 - 1e-15) && (p.ln() - y).abs() < 1e-14, "{p} {y}");
            }
            let mu = raised.mu().unwrap();
            for b in 0..s {
                let image: f64 = (0..s).map(|a| mu[a] * raised.pi()[a * s + b]).sum();
                assert!((image - mu[b]).abs() < 1e-13, "{image} {}", mu[b]);
                mean[b] += raised.pi()[b] / 2000.0;
            }
        }
        // Constant mean, 1/S: 2000 draws of a number below 1.
        assert!(mean.iter().all(|m| (m - 1.0 / s as f64).abs() < 5.0 * 0.5 / 2000f64.sqrt()), "{mean:?}");
    }
    let task = CausalTree::new(Forest::chain(6).unwrap(), 2, 0.1, Roots::Uniform).unwrap();
    for bad in [0.0, -0.1, 1.1, f64::NAN] {
        let message = task.clone().floored(bad).unwrap_err().to_string();
        assert!(message.ends_with("allowed: 0 < gamma <= 1"), "{message}");
    }
}

/// Labels that are symbols: the same sequences, each with one symbol of its law, however the batch
/// is cut.
#[test]
fn symbols_are_drawn_from_the_laws_of_the_samples() {
    let (s, n) = (4, 6000);
    let task = CausalTree::new(Forest::chain(5).unwrap(), s, 0.5, Roots::Stationary).unwrap();
    let soft = Sampled::new(task, Key::new(5, Purpose::Train));
    let hard = soft.clone().with_labels(Key::new(5, Purpose::Label));
    let other = soft.clone().with_labels(Key::new(6, Purpose::Label));
    let fill = |source: &Sampled, first, count| {
        let mut batch = source.batch(count).unwrap();
        source.fill(first, count, &mut source.work(), &mut batch);
        batch
    };
    let (laws, labels) = (fill(&soft, 0, n), fill(&hard, 0, n));
    assert_eq!(laws.tokens(), labels.tokens());
    let later = fill(&hard, 4000, 2000);
    let (mut off, mut spread) = (0.0, 0.0);
    for i in 0..n {
        let (p, y) = (laws.law(i), labels.law(i));
        let at = y.iter().position(|x| *x == 1.0).unwrap();
        assert!(y.iter().enumerate().all(|(b, x)| *x == f64::from(u8::from(b == at))) && p[at] > 0.0);
        // Symbol by symbol the share of labels is the mean of the laws: of a random function too.
        let f = |b: usize| ((b * 7 + laws.sequence(i)[4] as usize * 3) % 5) as f64;
        let mean: f64 = (0..s).map(|b| p[b] * f(b)).sum();
        off += f(at) - mean;
        spread += (0..s).map(|b| p[b] * (f(b) - mean).powi(2)).sum::<f64>();
        if i >= 4000 {
            assert_eq!(later.law(i - 4000), y);
        }
    }
    assert!(off.abs() < 4.5 * spread.sqrt(), "{off} {spread}");
    let differ = (0..n).filter(|i| fill(&other, *i as u64, 1).law(0) != labels.law(*i)).count();
    assert!(differ > n / 10, "{differ}");
}

#[test]
fn seeds_and_purposes_give_other_samples() {
    let task = CausalTree::new(Forest::chain(20).unwrap(), 10, 1.0, Roots::Uniform).unwrap();
    let (mut work, mut target) = (task.work(), vec![0.0; 10]);
    let mut draw = |seed, purpose| {
        let mut tokens = vec![0; 20];
        task.sample(&Key::new(seed, purpose), 0, &mut work, &mut tokens, &mut target);
        tokens
    };
    let a = draw(0, Purpose::Train);
    assert_eq!(a, draw(0, Purpose::Train));
    assert_ne!(a, draw(1, Purpose::Train));
    assert_ne!(a, draw(0, Purpose::Test));
}

proptest! {
    // A failure becomes a named test, not a file.
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn samples_are_always_distributions(
        s in 2usize..13, t in 2usize..25, log_alpha in -3f64..3.0, seed: u64, n: u64, stationary: bool,
    ) {
        // The ends themselves too.
        let alpha = 10f64.powf(if log_alpha < -2.5 { -3.0 } else { log_alpha }).clamp(1e-3, 1e3);
        let roots = if stationary { Roots::Stationary } else { Roots::Uniform };
        let forest = Forest::named("random", t, seed).unwrap();
        let task = CausalTree::new(forest, s, alpha, roots).unwrap();
        let (mut work, mut tokens, mut target) = (task.work(), vec![u32::MAX; t], vec![f64::NAN; s]);
        let bound = s as f64 * f64::EPSILON;
        for n in [n, 0, u64::MAX] {
            task.sample(&Key::new(seed, Purpose::Train), n, &mut work, &mut tokens, &mut target);
            prop_assert!(tokens.iter().all(|x| (*x as usize) < s));
            prop_assert!(target.iter().all(|p| (0.0..=1.0 + bound).contains(p)));
            prop_assert!((target.iter().sum::<f64>() - 1.0).abs() <= bound);
            prop_assert!(work.log_pi().iter().all(|l| l.is_finite() && *l <= bound));
            if let Some(mu) = work.mu() {
                prop_assert!(mu.iter().all(|m| (0.0..=1.0 + bound).contains(m)));
                prop_assert!((mu.iter().sum::<f64>() - 1.0).abs() <= bound);
            }
        }
    }
}
