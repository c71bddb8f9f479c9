//! The population as a source: every model computes on it what the plain enumeration gives.

use popgrad::batch::{Batch, Targets, divisor};
use popgrad::exact::brute::{population, words};
use popgrad::exact::quadrature::stationary_pairs;
use popgrad::exact::{AtomRoots, FinitePrior, Prior, RootLaw, TreeLaw, WordLaw};
use popgrad::model::{DisentangledSpec, Model, Report, SimplifiedSpec, Spec};
use popgrad::num::Sum;
use popgrad::optim::{Schedule, Sgd, UnfreezeAt};
use popgrad::probe::attention::causal_row;
use popgrad::probe::noise::gradient_noise;
use popgrad::rng::{Key, Purpose};
use popgrad::source::{Population, Sampled, Source};
use popgrad::task::{CausalTree, Forest, Roots};
use popgrad::train::{Plan, Sharded, Trainer};

fn gaussian(seed: u64, n: usize, scale: f64) -> Vec<f64> {
    let key = Key::new(seed, Purpose::Init);
    (0..n).map(|i| scale * key.normal(i as u64)).collect()
}

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |m, x| m.max(x.abs()))
}

fn mixture(s: usize) -> Prior {
    let key = Key::new(s as u64, Purpose::Probe);
    let mut pi: Vec<f64> = (0..2 * s * s).map(|i| key.uniforms(i as u64, 0, 0)[0] + 0.05).collect();
    for row in pi.chunks_exact_mut(s) {
        let z: f64 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= z);
    }
    FinitePrior::new(s, vec![0.3, 0.7], pi, AtomRoots::Stationary).unwrap().into()
}

fn cases() -> Vec<(Forest, Prior)> {
    let forest = |p: &[i64]| Forest::from_parents(p).unwrap();
    vec![
        (Forest::chain(10).unwrap(), Prior::dirichlet(2, 0.1, RootLaw::Uniform).unwrap()),
        (forest(&[-1, 0, -1, 2, 0, 4]), Prior::dirichlet(3, 0.5, RootLaw::SharedDirichlet).unwrap()),
        (forest(&[-1, -1, 0, 1]), Prior::dirichlet(5, 1.0, RootLaw::Uniform).unwrap()),
        (Forest::icl(8).unwrap(), stationary_pairs(0.1, 8).unwrap().into()),
        (forest(&[-1, 0, 0, 1, -1]), mixture(4)),
    ]
}

fn plan(batch: usize, shards: usize) -> Plan {
    Plan {
        steps: 1000,
        batch,
        shards,
        lr: 1.0,
        schedule: Schedule::Constant,
        eval_every: 1000,
        checkpoint_every: 1000,
    }
}

fn simplified(source: &dyn Source, eps: f64) -> Box<dyn Model<f64>> {
    let spec = Spec::Simplified(SimplifiedSpec::new(eps));
    spec.build(source.vocab(), source.seq_len()).unwrap()
}

/// Plain gradient descent on everything that can train.
fn trainer<'a>(
    model: &'a dyn Model<f64>,
    source: &'a dyn Source,
    plan: Plan,
    params: Vec<f64>,
) -> Trainer<f64, Sharded<'a, f64>> {
    let blocks = model.layout().blocks().iter().zip(model.trainable());
    let unfreeze = UnfreezeAt::all(blocks.map(|(b, can)| (b.name(), b.range(), *can)));
    let objective = Sharded::new(model, source, &plan, unfreeze).unwrap();
    Trainer::new(objective, Box::new(Sgd::new(0.0).unwrap()), plan, params).unwrap()
}

/// Σ w ℓ and its gradient in every block.
fn loss_and_grad(model: &dyn Model<f64>, params: &[f64], batch: &Batch) -> (f64, Vec<f64>) {
    let mut ws = model.workspace(batch.kind(), batch.seqs()).unwrap();
    let mut grad = vec![0.0; params.len()];
    let loss = model.loss_and_grad(params, batch, model.trainable(), &mut ws, &mut grad).unwrap();
    (loss.value(), grad)
}

#[test]
fn every_word_comes_once_with_its_weight() {
    for (forest, prior) in cases() {
        let law = TreeLaw::new(forest.clone(), prior.clone()).unwrap();
        let source = Population::new(&law).unwrap();
        let (s, t, n) = (source.vocab(), source.seq_len(), source.words());
        assert_eq!((source.population(), n), (Some(n), s.pow(t as u32)));
        let (mut whole, mut work) = (source.batch(n).unwrap(), source.work());
        source.fill(0, n, &mut work, &mut whole);
        let mut total = Sum::new();
        for (i, word) in words(&forest, &prior).unwrap().enumerate() {
            assert_eq!(whole.sequence(i), word.tokens);
            total.add(whole.weights()[i]);
            for (y, w) in whole.law(i).iter().zip(&word.weights) {
                // Some 2T factors each way.
                let got = whole.weights()[i] * y;
                assert!((got - w).abs() <= 4.0 * t as f64 * f64::EPSILON * w, "{got} for {w}");
            }
        }
        assert!((total.value() - 1.0).abs() < 1e-14, "{}", total.value());
        // Any slice, past the end too.
        let mut part = source.batch(7).unwrap();
        source.fill(5 * n as u64 - 3, 7, &mut work, &mut part);
        for i in 0..7 {
            let j = (n - 3 + i) % n;
            assert_eq!((part.sequence(i), part.law(i)), (whole.sequence(j), whole.law(j)));
            assert_eq!(part.weights()[i], whole.weights()[j]);
        }
        // The law itself, from any word on.
        let mut w = vec![0.0; 3 * s];
        law.weights(n as u64 - 3, &mut w);
        assert_eq!(w[2 * s..].iter().sum::<f64>(), whole.weights()[n - 1]);
    }
}

/// Loss and gradient of the simplified model through source, shards and model = textbook loops over
/// all words.
#[test]
fn simplified_on_the_population_is_brute_force() {
    for (case, (forest, prior)) in cases().into_iter().enumerate() {
        let source = Population::new(&TreeLaw::new(forest.clone(), prior.clone()).unwrap()).unwrap();
        let (s, t, n) = (source.vocab(), source.seq_len(), source.words());
        let eps = 0.03;
        let model = simplified(&source, eps);
        let params = gaussian(20 + case as u64, t * t + s * s, 1.0);
        let truth = population(&forest, &prior, &params[..t * t], &params[t * t..], eps).unwrap();
        for shards in [1, 7] {
            let mut trainer = trainer(model.as_ref(), &source, plan(n, shards), params.clone());
            let loss = trainer.loss_and_grad().unwrap();
            assert!((loss - truth.loss).abs() < 1e-13 * truth.loss.max(1.0), "{loss} for {}", truth.loss);
            let (g1, g2) = trainer.grad().split_at(t * t);
            for (grad, minus) in [(g1, &truth.a1), (g2, &truth.a2)] {
                for (g, m) in grad.iter().zip(minus) {
                    assert!((g + m).abs() < 1e-13 * largest(minus), "case {case}: {g} for {}", -m);
                }
            }
            trainer.objective().set_tests(&[&source], n).unwrap();
            assert!((trainer.test_loss().unwrap() - loss).abs() < 1e-14 * loss.max(1.0));
        }
    }
}

/// The disentangled transformer one word at a time, W itself as target: the sum over words, in
/// textbook order.
#[test]
fn disentangled_on_the_population_is_the_sum_over_words() {
    let forest = |p: &[i64]| Forest::from_parents(p).unwrap();
    for (forest, s) in
        [(forest(&[-1, 0, 0, -1]), 3), (Forest::chain(12).unwrap(), 2), (Forest::chain(8).unwrap(), 3)]
    {
        let prior = Prior::dirichlet(s, 0.4, RootLaw::Uniform).unwrap();
        let source = Population::new(&TreeLaw::new(forest.clone(), prior.clone()).unwrap()).unwrap();
        let (n, t) = (source.words(), source.seq_len());
        let model = Spec::Disentangled(DisentangledSpec::new(&[1, 1])).build::<f64>(s, t).unwrap();
        let params = gaussian(31, model.layout().len(), 0.5);
        let (mut loss, mut grad) = (Sum::new(), vec![Sum::new(); params.len()]);
        let mut one = Batch::with_capacity(Targets::Law, 1, t, s).unwrap();
        one.set_seqs(1);
        for word in words(&forest, &prior).unwrap() {
            // Weight 1: losses are linear in the target.
            let parts = one.parts_mut();
            parts.tokens.copy_from_slice(&word.tokens);
            parts.laws.copy_from_slice(&word.weights);
            parts.weights[0] = 1.0;
            let (own, g) = loss_and_grad(model.as_ref(), &params, &one);
            loss.add(own);
            grad.iter_mut().zip(&g).for_each(|(s, g)| s.add(*g));
        }
        let mut trainer = trainer(model.as_ref(), &source, plan(n, 4), params);
        assert!((trainer.loss_and_grad().unwrap() - loss.value()).abs() < 1e-14);
        let truth: Vec<f64> = grad.iter().map(Sum::value).collect();
        for (g, t) in trainer.grad().iter().zip(&truth) {
            assert!((g - t).abs() < 1e-13 * largest(&truth), "{g} for {t}");
        }
    }
}

#[test]
fn exact_training_has_the_same_bits_for_any_thread_count() {
    let law = TreeLaw::new(Forest::chain(8).unwrap(), stationary_pairs(0.3, 8).unwrap().into()).unwrap();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let source = Population::new(&law).unwrap();
            let model = simplified(&source, 0.01);
            let mut params = vec![0.0; model.layout().len()];
            (params[64], params[67]) = (0.1, 0.1);
            let mut trainer = trainer(model.as_ref(), &source, plan(256, 8), params);
            let losses: Vec<u64> = (0..20).map(|_| trainer.update().unwrap().to_bits()).collect();
            (losses, trainer.params().iter().map(|p| p.to_bits()).collect::<Vec<_>>())
        })
    };
    let one = run(1);
    assert!(f64::from_bits(one.0[19]) < f64::from_bits(one.0[0]), "it learns");
    for threads in [2, 5] {
        assert_eq!(run(threads), one);
    }
}

/// Samples of the task average to the population: the two sources describe one distribution.
#[test]
fn samples_agree_with_the_population() {
    for (roots, prior) in [
        (Roots::Uniform, Prior::dirichlet(2, 0.5, RootLaw::Uniform).unwrap()),
        (Roots::Stationary, stationary_pairs(0.5, 16).unwrap().into()),
    ] {
        let forest = Forest::icl(6).unwrap();
        let exact = Population::new(&TreeLaw::new(forest.clone(), prior).unwrap()).unwrap();
        let task = CausalTree::new(forest, 2, 0.5, roots).unwrap();
        let sampled = Sampled::new(task, Key::new(8, Purpose::Test));
        let model = simplified(&exact, 0.05);
        let params = gaussian(40, 40, 1.0);
        let n = 40_000;
        let mut batch = sampled.batch(n).unwrap();
        exact.fill(0, 64, &mut exact.work(), &mut batch);
        let (truth, _) = loss_and_grad(model.as_ref(), &params, &batch);
        sampled.fill(0, n, &mut sampled.work(), &mut batch);
        let mut report = Report::new(model.as_ref(), Targets::Law, n, false, false);
        let mut ws = model.workspace(Targets::Law, n).unwrap();
        model.report(&params, &batch, &mut ws, &mut report).unwrap();
        let mean = report.losses.iter().sum::<f64>() / divisor(batch.total_weight());
        let variance = report.losses.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (n as f64 - 1.0);
        // |z| > 5 has probability 6e-7.
        let z = (mean - truth) / (variance / n as f64).sqrt();
        assert!(z.abs() < 5.0, "{roots:?}: z = {z}");
        assert_eq!(sampled.population(), None);
    }
}

#[test]
fn sizes_beyond_the_bound_are_refused() {
    let refused = |s: usize, t: usize| {
        let prior = Prior::dirichlet(s, 0.1, RootLaw::Uniform).unwrap();
        let law = TreeLaw::new(Forest::chain(t).unwrap(), prior).unwrap();
        Population::new(&law).unwrap_err().to_string()
    };
    assert_eq!(refused(2, 25), "S, T: 2^25 words to enumerate; allowed: S^T (S+1) <= 67108864");
    for (s, t) in [(10, 8), (3, 4096), (1024, 3)] {
        assert!(refused(s, t).starts_with("S, T: "));
    }
    let many = stationary_pairs(0.1, 128).unwrap();
    let e = TreeLaw::new(Forest::chain(100).unwrap(), many.into()).unwrap_err().to_string();
    assert!(e.starts_with("prior: 81920 atoms with S = 2, T = 100"), "{e}");
    let bad = Prior::Dirichlet { symbols: 3, alpha: -1.0, roots: RootLaw::Uniform };
    assert!(TreeLaw::new(Forest::chain(3).unwrap(), bad).is_err());
}

/// A law outside the crate: words of independent tokens. The source needs only the trait.
#[test]
fn any_law_of_words_will_do() {
    struct Coins;
    impl WordLaw for Coins {
        fn seq_len(&self) -> usize {
            3
        }
        fn vocab(&self) -> usize {
            2
        }
        fn weights(&self, first: u64, out: &mut [f64]) {
            for (n, row) in out.chunks_mut(2).enumerate() {
                let ones = (first + n as u64).count_ones() as i32;
                let p = 0.25f64.powi(ones) * 0.75f64.powi(3 - ones);
                row.copy_from_slice(&[0.75 * p, 0.25 * p]);
            }
        }
    }
    let source = Population::new(&Coins).unwrap();
    let mut batch = source.batch(8).unwrap();
    source.fill(0, 8, &mut source.work(), &mut batch);
    assert_eq!(batch.weights().iter().sum::<f64>(), 1.0);
    assert!(batch.laws().chunks(2).all(|y| y == [0.75, 0.25]));
    assert_eq!(batch.weights()[5], 0.75 * 0.0625);
}

/// The error of a batch's gradient falls like B^{-1/2}, against the exact gradient and no other.
#[test]
fn sampled_gradients_approach_the_exact_one_like_one_over_root_b() {
    let forest = Forest::chain(7).unwrap();
    let prior = Prior::dirichlet(2, 0.5, RootLaw::Uniform).unwrap();
    let exact = Population::new(&TreeLaw::new(forest.clone(), prior.clone()).unwrap()).unwrap();
    let task = CausalTree::new(forest.clone(), 2, 0.5, Roots::Uniform).unwrap();
    let sampled = Sampled::new(task, Key::new(3, Purpose::Probe));
    let model = simplified(&exact, 0.05);
    let params = gaussian(50, 53, 1.0);
    let batches = [4, 16, 64, 256, 1024, 2048];
    let noise = gradient_noise(model.as_ref(), &params, &exact, &sampled, &batches, 200).unwrap();
    for l in &noise.levels {
        println!("B {:5}: error {:.4e} (ln error ± {:.3})", l.batch, l.error, l.log_error_se);
    }
    println!(
        "slope {:.4} ± {:.4}; critical batch {:.1}",
        noise.slope,
        noise.slope_se,
        noise.critical_batch()
    );
    // |z| > 3.3 has probability 1e-3.
    assert!(noise.slope_se < 0.012 && (noise.slope + 0.5).abs() < 3.3 * noise.slope_se, "{}", noise.slope);
    let truth = population(&forest, &prior, &params[..49], &params[49..], 0.05).unwrap();
    let minus = [truth.a1, truth.a2].concat();
    for (e, (g, m)) in noise.exact.iter().zip(&minus).enumerate() {
        assert!((g + m).abs() < 1e-13 * noise.norm);
        let above = e < 49 && e % 7 > e / 7;
        let ratio = noise.noise_to_signal(e, 256);
        assert_eq!(above || e == 0, noise.deviation[e] == 0.0, "entry {e}");
        assert!(if *g == 0.0 {
            ratio == 0.0
        } else {
            (ratio * g.abs() * 16.0 / noise.deviation[e] - 1.0).abs() < 1e-14
        });
    }
    let b = 1024.0f64;
    let predicted = noise.critical_batch().sqrt() * noise.norm / b.sqrt();
    let level = noise.levels[4];
    assert!((level.error / predicted).ln().abs() < 5.0 * level.log_error_se);
    // Labels that are symbols have the same mean, and more noise.
    let symbols = sampled.clone().with_labels(Key::new(3, Purpose::Label));
    let more = gradient_noise(model.as_ref(), &params, &exact, &symbols, &batches, 200).unwrap();
    assert!((more.slope + 0.5).abs() < 3.3 * more.slope_se, "{} ± {}", more.slope, more.slope_se);
    assert!(more.critical_batch() > 1.1 * noise.critical_batch(), "{}", more.critical_batch());
    // Another population: the error levels off, and the slope says so.
    let other = TreeLaw::new(forest, Prior::dirichlet(2, 2.0, RootLaw::Uniform).unwrap()).unwrap();
    let wrong = Population::new(&other).unwrap();
    let noise = gradient_noise(model.as_ref(), &params, &wrong, &sampled, &batches, 200).unwrap();
    assert!((noise.slope + 0.5) > 3.3 * noise.slope_se, "{} ± {}", noise.slope, noise.slope_se);
    let refused = |population: &dyn Source, batches: &[usize], repeats| {
        gradient_noise(model.as_ref(), &params, population, &sampled, batches, repeats)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&sampled, &[1, 2], 2).starts_with("population: "));
    assert!(
        refused(&exact, &[4, 4], 2).starts_with("batches: ")
            && refused(&exact, &[], 2).starts_with("batches: ")
    );
    assert!(
        refused(&exact, &[0, 4], 2).starts_with("batches: ")
            && refused(&exact, &[1, 4], 1).starts_with("repeats: 1")
    );
}

/// Claim 8 of the theory: Algorithm 1 on the exact population finds the chain and then learns to
/// copy.
#[test]
fn algorithm_1_on_the_population_has_the_losses_of_the_theory() {
    let (t, forest) = (8, Forest::chain(8).unwrap());
    let source =
        Population::new(&TreeLaw::new(forest, stationary_pairs(0.5, 6).unwrap().into()).unwrap()).unwrap();
    let model = simplified(&source, 0.01);
    let mut batch = source.batch(256).unwrap();
    source.fill(0, 256, &mut source.work(), &mut batch);
    let mut params = vec![0.0; 68];
    (params[64], params[67]) = (0.1, 0.1);
    let mut stage = |block: std::ops::Range<usize>, rate: f64, steps: usize| {
        for _ in 0..steps {
            let (_, grad) = loss_and_grad(model.as_ref(), &params, &batch);
            block.clone().for_each(|i| params[i] -= rate * grad[i]);
        }
        (loss_and_grad(model.as_ref(), &params, &batch).0, params.clone())
    };
    let (start, _) = stage(0..64, 0.0, 0);
    let (first, params) = stage(0..64, 4000.0, 400);
    let (second, _) = stage(64..68, 20.0, 200);
    for (loss, expected) in [(start, 0.63384), (first, 0.62351), (second, 0.55583)] {
        assert!((loss - expected).abs() < 6e-6, "{loss} for {expected}");
    }
    for i in 1..t {
        let row = causal_row(&params[..64], t, i);
        // The last row is the query's, which has no parent and drifts to itself.
        assert!(row[if i + 1 == t { i } else { i - 1 }] >= 0.999, "row {i}: {row:?}");
    }
}
