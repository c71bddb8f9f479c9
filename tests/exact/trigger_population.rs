//! The population of small trigger-bigram tasks against a naive enumeration, and against samples.

use popgrad::model::{FeedForward, Memory, MemorySpec, Model};
use popgrad::rng::{Key, Purpose};
use popgrad::source::{LossOn, Source, TriggerPopulation, TriggerSource};
use popgrad::task::TriggerBigram;
use popgrad::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, Triggers};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Triggers of every sort, with every law of outputs.
fn tasks(n: usize, len: usize, count: usize) -> Vec<TriggerBigram> {
    let laws = Bigrams::dirichlet(n, 0.7, 3).unwrap();
    let mut out = Vec::new();
    for triggers in [Triggers::Fixed { count, offset: 1 }, Triggers::Random { count }] {
        for (law, no_repeat, allowed) in [
            (Outputs::Uniform, false, vec![]),
            (Outputs::Bigram, true, vec![]),
            (Outputs::Uniform, false, (0..n).map(|o| o != 1).collect()),
        ] {
            let outputs = OutputLaw { law, no_repeat, allowed };
            out.push(TriggerBigram::new(laws.clone(), len, triggers, outputs).unwrap());
        }
    }
    out
}

/// P(triggers, word) by its definition: all ordered triggers, all outputs, all words.
fn naive(task: &TriggerBigram) -> BTreeMap<(Vec<bool>, Vec<u32>), f64> {
    let (n, len, k) = (task.vocab(), task.seq_len() + 1, task.triggers());
    let digits = |mut code: usize, count: usize| -> Vec<usize> {
        (0..count)
            .map(|_| {
                let digit = code % n;
                code /= n;
                digit
            })
            .collect()
    };
    let u = task.laws().unigram();
    let mut out = BTreeMap::new();
    for q in (0..n.pow(k as u32)).map(|code| digits(code, k)) {
        let mut p_q = 1.0;
        match task.fixed_triggers() {
            Some(fixed) => p_q = f64::from(u8::from(q.iter().zip(fixed).all(|(q, f)| *q == *f as usize))),
            None => {
                for i in 0..k {
                    let left: f64 = (0..n).filter(|s| !q[..i].contains(s)).map(|s| u[s]).sum();
                    p_q *= if q[..i].contains(&q[i]) { 0.0 } else { u[q[i]] / left };
                }
            }
        }
        for o in (0..n.pow(k as u32)).map(|code| digits(code, k)) {
            let mut p_o = p_q;
            for (q, o) in q.iter().zip(&o) {
                let total: f64 = (0..n).map(|o| task.output_weight(*q, o)).sum();
                p_o *= task.output_weight(*q, *o) / total;
            }
            for word in (0..n.pow(len as u32)).map(|code| digits(code, len)) {
                let mut p = p_o * u[word[0]];
                for z in word.windows(2) {
                    p *= match q.iter().position(|q| *q == z[0]) {
                        Some(k) => f64::from(u8::from(o[k] == z[1])),
                        None => task.laws().bigram()[z[0] * n + z[1]],
                    };
                }
                if p > 0.0 {
                    let flags = (0..n).map(|s| q.contains(&s)).collect();
                    let word = word.iter().map(|z| *z as u32).collect();
                    *out.entry((flags, word)).or_insert(0.0) += p;
                }
            }
        }
    }
    out
}

fn entries(of: &TriggerPopulation) -> BTreeMap<(Vec<bool>, Vec<u32>), f64> {
    let words = of.words().zip(of.probabilities()).enumerate();
    let all: BTreeMap<_, _> = words.map(|(i, (w, p))| ((of.triggers(i).to_vec(), w.to_vec()), *p)).collect();
    assert_eq!(all.len(), of.entries(), "each pair once");
    all
}

#[test]
fn probabilities_are_those_of_the_definition() {
    for (n, len, count) in [(3, 4, 1), (3, 3, 2), (4, 3, 2), (2, 6, 1)] {
        for task in tasks(n, len, count) {
            let population = TriggerPopulation::new(&task, LossOn::All).unwrap();
            assert!((population.weight() - 1.0).abs() < 1e-14, "{}", population.weight());
            let (found, expected) = (entries(&population), naive(&task));
            assert!(found.keys().eq(expected.keys()), "{task:?}");
            for (key, p) in &found {
                // A product of at most T + 1 + 3K factors each way, sums of outputs.
                let bound = 64.0 * f64::EPSILON * expected[key];
                assert!((p - expected[key]).abs() <= bound, "{key:?}: {p}, {}", expected[key]);
            }
        }
    }
}

#[test]
fn samples_follow_the_population() {
    for task in tasks(3, 3, 1).into_iter().chain(tasks(3, 2, 2)) {
        let population = TriggerPopulation::new(&task, LossOn::All).unwrap();
        let law = entries(&population);
        let mut counts: BTreeMap<(Vec<bool>, Vec<u32>), u64> = BTreeMap::new();
        let (mut work, mut tokens, mut seen) =
            (task.work(), vec![0; task.seq_len() + 1], vec![0; task.seq_len()]);
        let draws = 40_000;
        for number in 0..draws {
            task.sample(&Key::new(2, Purpose::Test), number, &mut work, &mut tokens, &mut seen);
            let flags = (0..3).map(|s| work.triggers().contains(&s)).collect();
            *counts.entry((flags, tokens.clone())).or_default() += 1;
        }
        assert!(counts.keys().all(|k| law.contains_key(k)), "nothing impossible is drawn");
        // Cells of at least ten, the others together.
        let (mut chi2, mut cells, mut rest) = (0.0, 0.0, [0.0; 2]);
        for (key, p) in &law {
            let (expected, found) = (p * draws as f64, counts.get(key).copied().unwrap_or_default() as f64);
            if expected >= 10.0 {
                chi2 += (found - expected).powi(2) / expected;
                cells += 1.0;
            } else {
                rest = [rest[0] + expected, rest[1] + found];
            }
        }
        if rest[0] >= 10.0 {
            chi2 += (rest[1] - rest[0]).powi(2) / rest[0];
            cells += 1.0;
        }
        // Five and a half standard deviations.
        let d: f64 = cells - 1.0;
        assert!(cells > 5.0 && chi2 < d + 5.5 * (2.0 * d).sqrt(), "{chi2} in {cells} cells: {task:?}");
    }
}

#[test]
fn batches_hold_weights_labels_and_counts() {
    for task in tasks(3, 4, 1) {
        let t = task.seq_len();
        for loss in [LossOn::Head, LossOn::All] {
            let source = TriggerPopulation::new(&task, loss).unwrap();
            let n = source.population().unwrap();
            let mut whole = source.batch(n).unwrap();
            source.fill(0, n, &mut source.work(), &mut whole);
            let (mut heads, mut total) = (0.0, 0.0);
            for (i, (word, p)) in source.words().zip(source.probabilities()).enumerate() {
                let row = i * t..(i + 1) * t;
                assert_eq!(
                    (&whole.tokens()[row.clone()], &whole.labels()[row.clone()]),
                    (&word[..t], &word[1..])
                );
                for j in 0..t {
                    let count = word[..=j].iter().filter(|z| **z == word[j]).count() as u32;
                    let seen = if source.triggers(i)[word[j] as usize] { count } else { 0 };
                    assert_eq!(whole.seen().unwrap()[i * t + j], seen);
                    let weight = if loss == LossOn::All || seen >= 2 { *p } else { 0.0 };
                    assert_eq!(whole.weights()[i * t + j], weight);
                    heads += if seen >= 2 { *p } else { 0.0 };
                }
                total += p;
            }
            let expected = if loss == LossOn::All { t as f64 * total } else { heads };
            assert!((whole.total_weight() - expected).abs() < 1e-13);
            // Any piece, also across the end.
            let mut piece = source.batch(7).unwrap();
            let mut work = source.work();
            for first in [0, 5, n - 3] {
                source.fill((3 * n + first) as u64, 7, &mut work, &mut piece);
                for i in 0..7 {
                    let (a, b) = ((first + i) % n * t, i * t);
                    assert_eq!(piece.tokens()[b..b + t], whole.tokens()[a..a + t]);
                    assert_eq!(piece.labels()[b..b + t], whole.labels()[a..a + t]);
                    assert_eq!(piece.weights()[b..b + t], whole.weights()[a..a + t]);
                    assert_eq!(piece.seen().unwrap()[b..b + t], whole.seen().unwrap()[a..a + t]);
                }
            }
        }
    }
}

/// Share of positions that count, and how often each label follows: population against samples of
/// the source.
#[test]
fn the_source_of_samples_has_the_populations_means() {
    for task in tasks(4, 4, 2) {
        let task = Arc::new(task);
        let exact = TriggerPopulation::new(&task, LossOn::Head).unwrap();
        let sampled = TriggerSource::new(task, Key::new(9, Purpose::Test), LossOn::Head);
        let mean = |source: &dyn Source, count: usize, scale: f64| -> Vec<[f64; 2]> {
            let mut batch = source.batch(count).unwrap();
            source.fill(0, count, &mut source.work(), &mut batch);
            let mut sums = vec![[0.0; 2]; 4];
            for row in 0..count {
                // Per sequence, for its variance.
                let mut here = [0.0; 4];
                for i in row * 4..row * 4 + 4 {
                    here[batch.labels()[i] as usize] += f64::from(u8::from(batch.weights()[i] > 0.0));
                }
                let p = if scale > 0.0 { scale } else { exact.probabilities()[row] };
                sums.iter_mut().zip(here).for_each(|(s, x)| *s = [s[0] + p * x, s[1] + p * x * x]);
            }
            sums
        };
        let count = 30_000;
        let (law, found) = (mean(&exact, exact.entries(), 0.0), mean(&sampled, count, 1.0 / count as f64));
        for ([m, square], [x, _]) in law.iter().zip(&found) {
            let error = ((square - m * m) / count as f64).sqrt();
            assert!((m - x).abs() <= 5.0 * error + 1e-12, "{m} against {x} +- {error}");
        }
    }
}

#[test]
fn large_tasks_are_refused() {
    let laws = Bigrams::dirichlet(40, 1.0, 1).unwrap();
    let any = OutputLaw { law: Outputs::Uniform, no_repeat: false, allowed: vec![] };
    for (len, triggers) in [
        // Probabilities underflow long before the words end.
        (256, Triggers::Fixed { count: 1, offset: 0 }),
        (4, Triggers::Random { count: 1 }),
        // More sets than anything fits.
        (2, Triggers::Random { count: 20 }),
    ] {
        let task = TriggerBigram::new(laws.clone(), len, triggers, any.clone()).unwrap();
        let e = TriggerPopulation::new(&task, LossOn::All).unwrap_err().to_string();
        assert!(e.starts_with("N, T, K: up to ") && e.contains("words of"), "{e}");
    }
}

/// A small model of the paper.
fn memory() -> Memory<f64> {
    let spec = MemorySpec { dim: 6, ff2: FeedForward::Linear, ..MemorySpec::default() };
    Memory::new(3, 5, &spec).unwrap()
}

/// Σ w ℓ / Σ w and its gradient on sequences `0..count`.
fn gradient(model: &Memory<f64>, params: &[f64], source: &dyn Source, count: usize) -> (f64, Vec<f64>) {
    let mut batch = source.batch(count).unwrap();
    source.fill(0, count, &mut source.work(), &mut batch);
    let (mut ws, mut grad) = (model.workspace(source.targets(), count).unwrap(), vec![0.0; params.len()]);
    let loss = model.loss_and_grad(params, &batch, model.trainable(), &mut ws, &mut grad).unwrap();
    let total = batch.total_weight();
    (loss.value() / total, grad.iter().map(|g| g / total).collect())
}

#[test]
fn the_memory_models_gradient_on_the_population() {
    let model = memory();
    let key = Key::new(6, Purpose::Init);
    let params: Vec<f64> = (0..model.layout().len() as u64).map(|i| 0.4 * key.normal(i)).collect();
    let trained = model.layout().blocks().iter().zip(model.trainable()).filter(|(_, on)| **on);
    let ranges: Vec<_> = trained.map(|(b, _)| b.range()).collect();
    for task in tasks(3, 5, 1) {
        let task = Arc::new(task);
        let exact = TriggerPopulation::new(&task, LossOn::Head).unwrap();
        let (_, grad) = gradient(&model, &params, &exact, exact.entries());
        let scale = grad.iter().map(|g| g.abs()).fold(0.0, f64::max);
        // Central differences: error h² times the third derivative, about the gradient's size here,
        // and 2ε/h of rounding.
        let h = 1e-5;
        for range in &ranges {
            for i in range.clone().step_by(5) {
                let at = |by: f64| {
                    let mut moved = params.clone();
                    moved[i] += by;
                    gradient(&model, &moved, &exact, exact.entries()).0
                };
                let slope = (at(h) - at(-h)) / (2.0 * h);
                assert!((slope - grad[i]).abs() < 1e-8 * (1.0 + scale), "{i}: {slope} {}", grad[i]);
            }
        }
        // Samples, in 32 batches whose spread gives the error of their mean.
        let (batches, size) = (32, 1024);
        let source = TriggerSource::new(task, Key::new(12, Purpose::Test), LossOn::Head);
        let mut sums = vec![[0.0; 2]; params.len()];
        let mut batch = source.batch(size).unwrap();
        let (mut work, mut ws) = (source.work(), model.workspace(source.targets(), size).unwrap());
        let mut one = vec![0.0; params.len()];
        for n in 0..batches {
            source.fill((n * size) as u64, size, &mut work, &mut batch);
            model.loss_and_grad(&params, &batch, model.trainable(), &mut ws, &mut one).unwrap();
            let total = batch.total_weight();
            for (s, g) in sums.iter_mut().zip(&one) {
                let g = g / total;
                *s = [s[0] + g, s[1] + g * g];
            }
        }
        for i in ranges.iter().cloned().flatten() {
            let n = batches as f64;
            let mean = sums[i][0] / n;
            let error = ((sums[i][1] / n - mean * mean) / (n - 1.0)).sqrt();
            // Student's t, 31 degrees of freedom: beyond 6 with probability 1e-6; the bias of a
            // ratio is of order 1/size.
            let bound = 6.0 * error + scale / size as f64;
            assert!((mean - grad[i]).abs() <= bound, "{i}: {mean} +- {error}, exact {}", grad[i]);
        }
    }
}

#[test]
fn long_words_are_listed_or_refused() {
    let task = |bigram: Vec<f64>| {
        let laws = Bigrams::new(vec![0.5, 0.5], bigram).unwrap();
        let outputs = OutputLaw { law: Outputs::Uniform, no_repeat: false, allowed: vec![] };
        TriggerBigram::new(laws, 65_536, Triggers::Fixed { count: 1, offset: 1 }, outputs).unwrap()
    };
    let refused = TriggerPopulation::new(&task(vec![0.5; 4]), LossOn::Head).unwrap_err().to_string();
    assert!(refused.starts_with("N, T, K: up to inf words of 65537 tokens"), "{refused}");
    // The other symbol follows, and either follows the trigger: two words for each first symbol.
    let few = TriggerPopulation::new(&task(vec![0.0, 1.0, 1.0, 0.0]), LossOn::Head).unwrap();
    assert_eq!((few.entries(), few.weight()), (4, 1.0));
    assert!(few.words().all(|w| w.len() == 65_537));
}
