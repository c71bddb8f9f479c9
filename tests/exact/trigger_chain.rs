//! Moments of the trigger chain against enumeration; the reference model against central
//! differences; the three steps.

use popgrad::exact::trigger_chain::{Conditional, Steps, TriggerChain, Word, third_in_c, words};
use popgrad::rng::{Key, Purpose};
use popgrad::theory::associative::Pairs;
use popgrad::theory::plain::{Block, Plain, sampled};

fn key(n: u64) -> Key {
    Key::new(n, Purpose::Probe)
}

fn uniform(n: usize) -> (Vec<f64>, Vec<f64>) {
    (vec![1.0 / n as f64; n], vec![1.0 / n as f64; n * n])
}

/// A law of the first token and bigrams, some of them impossible.
fn drawn(n: usize, key: &Key) -> (Vec<f64>, Vec<f64>) {
    let row = |r: usize| {
        let entry = |x: usize| key.uniforms((r * n + x) as u64, 7, 0);
        let mut row: Vec<f64> = (0..n).map(|x| if entry(x)[1] < 0.2 { 0.0 } else { entry(x)[0] }).collect();
        // No row leads to one symbol only.
        row[r % n] += 0.1;
        row[(r + 1) % n] += 0.1;
        let total: f64 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= total);
        row
    };
    (row(n), (0..n).flat_map(row).collect())
}

fn close(what: &str, x: &[f64], y: &[f64], tolerance: f64) {
    assert_eq!(x.len(), y.len(), "{what}");
    for (i, (x, y)) in x.iter().zip(y).enumerate() {
        assert!((x - y).abs() <= tolerance, "{what}: entry {i}: {x} against {y}");
    }
}

fn mean(all: &[Word], f: impl Fn(&[usize]) -> f64) -> f64 {
    all.iter().map(|w| w.weight * f(&w.tokens)).sum()
}

fn largest(x: &[f64]) -> f64 {
    x.iter().map(|x| x.abs()).fold(0.0, f64::max)
}

fn hot(x: bool) -> f64 {
    f64::from(u8::from(x))
}

/// Every moment of `chain`, whose symbol for token v is class(v), against the list of all
/// sequences.
fn moments(chain: &TriggerChain, all: &[Word], class: impl Fn(usize) -> usize, key: &Key) {
    let (len, s) = (chain.seq_len(), chain.symbols());
    let is = |z: &[usize], t: usize, x: usize| hot(class(z[t]) == x);
    let listed: Vec<f64> = (0..len * s).map(|i| mean(all, |z| is(z, i / s, i % s))).collect();
    close("P(z_t)", &chain.marginals(), &listed, 1e-14);
    for t in 0..len {
        for at in 0..=t {
            let listed: Vec<f64> =
                (0..s * s).map(|i| mean(all, |z| is(z, at, i / s) * is(z, t, i % s))).collect();
            close("P(z_s, z_t)", &chain.pair(at, t), &listed, 1e-14);
        }
    }
    let f: Vec<f64> = (0..s).map(|x| key.normal(x as u64)).collect();
    let listed: Vec<f64> = (0..len * len)
        .map(|i| mean(all, |z| f[class(z[i / len])] * is(z, i % len, chain.trigger())))
        .collect();
    close("E f(z_t) 1[z_s = q]", &chain.with_trigger(&f), &listed, 1e-14);
    let g: Vec<f64> = (0..s).map(|x| key.normal(100 + x as u64)).collect();
    steps(chain, all, &class, &f, &g);
}

/// Steps 2 and 3 by their definitions.
fn steps(chain: &TriggerChain, all: &[Word], class: &impl Fn(usize) -> usize, f: &[f64], g: &[f64]) {
    let len = chain.seq_len();
    let average = |t: usize, x: &dyn Fn(usize) -> f64| (0..=t).map(x).sum::<f64>() / (t + 1) as f64;
    let share = |z: &[usize], t: usize| average(t, &|s| hot(class(z[s]) == chain.trigger()));
    let worth = |z: &[usize], t: usize| average(t, &|s| g[class(z[s])]);
    let centred = |x: &dyn Fn(usize) -> f64, t: usize| x(t) - (0..len).map(x).sum::<f64>() / len as f64;
    let total = |z: &[usize], t: usize| centred(&|t| f[class(z[t])] + worth(z, t), t);
    let found = Conditional::new(chain, f, g);
    let listed: Vec<f64> = (0..len).map(|t| mean(all, |z| total(z, t) * share(z, t))).collect();
    close("key gap", &found.key_gap, &listed, 1e-14);
    let table = |x: &dyn Fn(&[usize], usize, usize) -> f64| -> Vec<f64> {
        let entry = |i: usize| {
            let (t, s) = (i / len, i % len);
            if s <= t { mean(all, |z| x(z, t, s)) / (len * (t + 1)) as f64 } else { 0.0 }
        };
        (0..len * len).map(entry).collect()
    };
    let q = |z: &[usize], s: usize| hot(class(z[s]) == chain.trigger());
    close("c_v", &found.value, &table(&|z, t, s| g[class(z[s])] - worth(z, t)), 1e-14);
    close("c_k", &found.key, &table(&|z, t, s| total(z, t) * (q(z, s) - share(z, t))), 1e-14);
    let cross = table(&|z, t, s| centred(&|t| share(z, t), t) * (g[class(z[s])] - worth(z, t)));
    close("c_x", &found.cross, &cross, 1e-14);
}

#[test]
fn lumped_moments_are_those_of_enumeration() {
    for (n, len) in [(2, 3), (2, 7), (3, 6), (4, 6), (5, 5), (6, 4)] {
        let (start, pi) = uniform(n);
        let all = words(&start, &pi, 0, 1, len).unwrap();
        moments(&TriggerChain::uniform(n, len).unwrap(), &all, |v| v.min(2), &key(n as u64));
    }
}

#[test]
fn moments_of_any_bigrams_are_those_of_enumeration() {
    for (n, len, q, o) in [(2, 5, 1, 0), (3, 6, 0, 2), (4, 6, 2, 1), (5, 5, 4, 0)] {
        for seed in 0..3 {
            let (start, pi) = drawn(n, &key(10 * n as u64 + seed));
            let all = words(&start, &pi, q, o, len).unwrap();
            moments(&TriggerChain::bigram(&start, &pi, q, o, len).unwrap(), &all, |v| v, &key(seed));
        }
    }
}

#[test]
fn lumping_loses_nothing() {
    let (n, len) = (12, 40);
    let (start, pi) = uniform(n);
    let lumped = TriggerChain::uniform(n, len).unwrap();
    let full = TriggerChain::bigram(&start, &pi, 5, 9, len).unwrap();
    let on = |x: usize, at: f64| (0..n).map(|v| if v == x { at } else { 0.0 }).collect::<Vec<f64>>();
    let a = Conditional::new(&lumped, &[0.0, 0.7, 0.0], &[0.0, 0.3, 0.0]);
    let b = Conditional::new(&full, &on(9, 0.7), &on(9, 0.3));
    for (x, y) in [(&a.key_gap, &b.key_gap), (&a.value, &b.value), (&a.key, &b.key), (&a.cross, &b.cross)] {
        close("lumped", x, y, 1e-15);
    }
}

#[test]
fn rows_of_the_third_step_sum_to_zero_and_step_one_tends_to_its_limit() {
    let steps = Steps::uniform(20, 64).unwrap();
    for table in [&steps.rows.value, &steps.rows.key, &steps.rows.cross] {
        for row in table.chunks_exact(64) {
            assert!(
                row.iter().sum::<f64>().abs() <= 1e-16 * row.iter().map(|x| x.abs()).sum::<f64>().max(1.0)
            );
        }
    }
    // N T a → 1 with an error of order 1/N.
    let off = |n: usize| (n * 16) as f64 * Steps::uniform(n, 16).unwrap().token - 1.0;
    assert!(
        off(1_000_000).abs() < 1e-4 && (off(10_000) / off(100_000) - 10.0).abs() < 0.1,
        "{}",
        off(1_000_000)
    );
}

/// A model with every weight drawn.
fn random(n: usize, len: usize, scale: f64) -> Plain {
    let mut model = Plain::zero(n, len);
    for (m, block) in [Block::O2, Block::K2, Block::K1].into_iter().enumerate() {
        let from = (m as u64) << 32;
        model
            .block_mut(block)
            .iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x = scale * key(3).normal(from + i as u64));
    }
    model
}

#[test]
fn gradients_of_the_reference_model_are_central_differences() {
    let (n, len) = (3, 4);
    let (start, pi) = drawn(n, &key(77));
    let all = words(&start, &pi, 2, 0, len).unwrap();
    let model = random(n, len, 0.8);
    for block in [Block::O2, Block::K2, Block::K1] {
        let found = model.descent(&all, block);
        let h = 1e-3;
        let listed: Vec<f64> = (0..found.len())
            .map(|i| {
                let loss = |step: f64| {
                    let mut moved = model.clone();
                    moved.block_mut(block)[i] += step;
                    moved.loss(&all)
                };
                (8.0 * (loss(-h) - loss(h)) + loss(2.0 * h) - loss(-2.0 * h)) / (12.0 * h)
            })
            .collect();
        // h⁴ of a fifth derivative of order 1, and u/h.
        close(&format!("{block:?}"), &found, &listed, 2e-12);
        assert!(found.iter().any(|x| x.abs() > 1e-3));
    }
}

/// One trigger's words under every renaming of (0, 1) to (q, o).
fn all_pairs(n: usize, len: usize) -> Vec<Word> {
    let (start, pi) = uniform(n);
    let mut all = Vec::new();
    for i in (0..n * n).filter(|i| i / n != i % n) {
        let some = words(&start, &pi, i / n, i % n, len).unwrap();
        all.extend(some.into_iter().map(|w| Word { weight: w.weight / (n * (n - 1)) as f64, ..w }));
    }
    all
}

#[test]
fn one_trigger_symmetrised_is_all_triggers() {
    let (n, len) = (4, 5);
    let (start, pi) = uniform(n);
    let (one, all) = (words(&start, &pi, 0, 1, len).unwrap(), all_pairs(n, len));
    let mut model = Plain::zero(n, len);
    // Steps large enough for every softmax to bend.
    for (block, rate) in [(Block::O2, 30.0), (Block::K2, 100.0), (Block::K1, 100.0), (Block::O2, 1.0)] {
        let full = model.descent(&all, block);
        let fast = model.symmetrised(block, &model.descent(&one, block));
        close(&format!("{block:?}"), &fast, &full, 1e-15);
        model.block_mut(block).iter_mut().zip(&fast).for_each(|(x, d)| *x += rate * d);
    }
}

#[test]
fn any_bigrams_have_the_steps_of_the_reference_model() {
    // q, o uniform, the bigrams anything: what step 1 leaves is read off O2 and handed to the chain
    // of each (q, o).
    let (n, len, eta, c) = (4, 5, 1e-5, 1e-4);
    let (start, pi) = drawn(n, &key(5));
    let pi: Vec<f64> = pi.iter().map(|x| 0.9 * x + 0.1 / n as f64).collect();
    let pairs: Vec<(usize, usize)> = (0..n * n).map(|i| (i / n, i % n)).filter(|(q, o)| q != o).collect();
    let scale = 1.0 / pairs.len() as f64;
    let mut all = Vec::new();
    for (q, o) in &pairs {
        let some = words(&start, &pi, *q, *o, len).unwrap();
        all.extend(some.into_iter().map(|w| Word { weight: scale * w.weight, ..w }));
    }
    let mut model = Plain::zero(n, len);
    let step = model.descent(&all, Block::O2);
    model.o2.iter_mut().zip(&step).for_each(|(x, d)| *x = eta * d);
    let w = 2 * (n + len);
    let (mut gaps, mut value, mut changed) = (vec![0.0; n], vec![0.0; len * len], vec![0.0; len * len]);
    for (q, o) in &pairs {
        let centred = |at: usize| {
            let column = |k: usize| step[k * w + at];
            column(*o) - (0..n).map(column).sum::<f64>() / n as f64
        };
        let g: Vec<f64> = (0..n).map(centred).collect();
        let g_mean: Vec<f64> = (0..n).map(|v| centred(n + len + v)).collect();
        let chain = TriggerChain::bigram(&start, &pi, *q, *o, len).unwrap();
        let found = Conditional::new(&chain, &g, &g_mean);
        gaps[*q] += scale * found.key_gap.iter().sum::<f64>() / len as f64;
        for i in 0..len * len {
            value[i] += scale * found.value[i];
            changed[i] += scale * (found.key[i] + found.cross[i]);
        }
    }
    let keys = model.descent(&all, Block::K2);
    let listed: Vec<f64> = (0..n).map(|v| keys[v * w + n + len + v] / eta).collect();
    // Both expansions are of first order in η₁; the even one in C of second.
    let near = |what: &str, x: &[f64], y: &[f64]| close(what, x, y, 1e-4 * largest(x));
    near("w_E(q) w_1(q)", &gaps, &listed);
    assert!(largest(&gaps) > 1e-4, "{gaps:?}");
    let third = |c: f64| {
        let mut model = model.clone();
        model.set_keys(c);
        model.positions(&model.descent(&all, Block::K1))
    };
    let (plus, minus) = (third(c), third(-c));
    let sum: Vec<f64> = plus.iter().zip(&minus).map(|(p, m)| (p + m) / (2.0 * eta)).collect();
    let difference: Vec<f64> = plus.iter().zip(&minus).map(|(p, m)| (p - m) / (2.0 * c * eta)).collect();
    near("c_v", &value, &sum);
    near("c_k + c_x", &changed, &difference);
    assert!(largest(&changed) > 1e-4, "{changed:?}");
}

#[test]
fn the_third_step_exact_in_c_is_that_of_the_reference_model() {
    let eta = 1e-6;
    for (n, len) in [(2, 6), (4, 6), (5, 5)] {
        let (start, pi) = uniform(n);
        let all = words(&start, &pi, 0, 1, len).unwrap();
        let mut model = Plain::zero(n, len);
        let step = model.symmetrised(Block::O2, &model.descent(&all, Block::O2));
        model.o2.iter_mut().zip(&step).for_each(|(x, d)| *x = eta * d);
        for c in [-20.0, -1.0, 0.0, 0.5, 4.0, 30.0] {
            model.set_keys(c);
            let listed: Vec<f64> =
                model.positions(&model.descent(&all, Block::K1)).iter().map(|x| x / eta).collect();
            let found = third_in_c(n, len, c).unwrap();
            close(&format!("N = {n}, C = {c}"), &found, &listed, 1e-5 * largest(&found));
        }
        let steps = Steps::uniform(n, len).unwrap();
        close("C = 0", &third_in_c(n, len, 0.0).unwrap(), &steps.rows.value, 1e-16);
    }
    assert!(
        third_in_c(5, 23, 1.0).is_err()
            && third_in_c(5, 6, 301.0).is_err()
            && third_in_c(5, 6, f64::NAN).is_err()
    );
    assert!(third_in_c(5, 6, -300.0).unwrap().iter().all(|x| x.is_finite()));
}

#[test]
fn memories_hold_what_they_should() {
    // Orthonormal pairs, permuted: recall is 1; a memory of nothing recalls nothing.
    let d = 6;
    let unit = |shift: usize| (0..d * d).map(|i| hot((i / d + shift) % d == i % d)).collect::<Vec<f64>>();
    let pairs = Pairs::new(d, unit(0), unit(2)).unwrap();
    let w = pairs.outer_product();
    assert_eq!((pairs.recall(&w), pairs.recall(&vec![0.0; d * d])), (1.0, 0.0));
    assert!((0..d * d).all(|i| w[i] == hot((i % d + 2) % d == i / d)));
    // The first step is Σ (w_U(i) − mean w_U) w_E(i)ᵀ; the loss before it is ln n.
    let pairs = Pairs::random(9, 4, &key(2), 0).unwrap();
    let (first, losses) = pairs.descend(1, 1.0);
    assert!((losses[0] - 9f64.ln()).abs() < 1e-14);
    let doubled = pairs.descend(1, 2.0).0;
    assert!(first.iter().zip(&doubled).all(|(a, b)| (2.0 * a - b).abs() < 1e-14));
    let (w, losses) = pairs.descend(500, 0.5);
    assert!(
        losses.windows(2).all(|l| l[1] < l[0]) && pairs.recall(&w) >= pairs.recall(&pairs.outer_product())
    );
    assert!(Pairs::random(1, 4, &key(0), 0).is_err() && Pairs::random(4, 0, &key(0), 0).is_err());
    assert!(Pairs::random(usize::MAX, 2, &key(0), 0).is_err() && Pairs::new(0, vec![], vec![]).is_err());
    assert!(Pairs::new(3, vec![0.0; 6], vec![0.0; 9]).is_err());
}

#[test]
fn samples_meet_the_condition_and_its_law() {
    let (n, len, count) = (6, 8, 40_000);
    let all = sampled(n, len, &key(1), count).unwrap();
    let (start, pi) = uniform(n);
    let listed = words(&start, &pi, 0, 1, len).unwrap();
    for w in &all {
        assert!(w.tokens[len - 1] == 0 && w.tokens[..len - 1].contains(&0) && w.label == 1);
        assert!(w.tokens.windows(2).all(|z| z[0] != 0 || z[1] == 1));
    }
    for t in 0..len {
        for v in 0..n {
            let (p, f) = (mean(&listed, |z| hot(z[t] == v)), mean(&all, |z| hot(z[t] == v)));
            // 48 frequencies: five standard deviations; sums of 40,000 weights.
            let bound = 5.0 * (p * (1.0 - p)).max(0.0).sqrt() / (count as f64).sqrt() + 1e-10;
            assert!((p - f).abs() <= bound, "{t} {v}: {p} {f}");
        }
    }
    // A prefix of a larger sample is the smaller one.
    let few = sampled(n, len, &key(1), 10).unwrap();
    assert!(few.iter().zip(&all).all(|(a, b)| a.tokens == b.tokens));
}

#[test]
fn bad_input_is_refused_by_name() {
    let message = |r: Result<TriggerChain, popgrad::Error>| r.unwrap_err().to_string();
    assert!(message(TriggerChain::uniform(1, 5)).starts_with("N: 1"));
    assert!(message(TriggerChain::uniform(5, 2)).starts_with("T: 2"));
    assert!(message(TriggerChain::uniform(5, usize::MAX)).starts_with("T: "));
    let (start, pi) = uniform(3);
    assert!(message(TriggerChain::bigram(&start, &pi, 1, 1, 5)).starts_with("trigger: q = 1, o = 1"));
    assert!(message(TriggerChain::bigram(&start, &pi, 3, 1, 5)).starts_with("trigger: q = 3"));
    assert!(message(TriggerChain::bigram(&start, &pi[1..], 0, 1, 5)).starts_with("pi: 8 entries"));
    let mut bad = pi.clone();
    bad[4] = f64::NAN;
    assert!(message(TriggerChain::bigram(&start, &bad, 0, 1, 5)).starts_with("pi[1]: NaN"));
    bad[4] = 0.5;
    assert!(message(TriggerChain::bigram(&start, &bad, 0, 1, 5)).starts_with("pi[1]: sums to"));
    // Row q is replaced, so it may be anything.
    assert!(TriggerChain::bigram(&start, &bad, 1, 0, 5).is_ok());
    // q only ever comes first.
    let never = [0.0, 0.5, 0.5];
    let message = message(TriggerChain::bigram(&[1.0, 0.0, 0.0], &never.repeat(3), 0, 1, 5));
    assert!(message.contains("P(z_T = q, seen before) = 0"), "{message}");
    assert!(words(&start, &pi, 0, 1, 60).is_err() && words(&start, &pi, 0, 1, 2).is_err());
    assert!(sampled(5, 6, &key(0), 0).is_err());
}

#[test]
fn large_chains_stay_probabilities() {
    let chain = TriggerChain::uniform(1000, 512).unwrap();
    let m = chain.marginals();
    assert!(m.chunks_exact(3).all(|p| (p.iter().sum::<f64>() - 1.0).abs() < 1e-13));
    assert!((m[511 * 3] - 1.0).abs() < 1e-13);
    let n = 65;
    let (start, pi) = drawn(n, &key(8));
    let chain = TriggerChain::bigram(&start, &pi, 3, 17, 256).unwrap();
    assert!(chain.marginals().chunks_exact(n).all(|p| (p.iter().sum::<f64>() - 1.0).abs() < 1e-13));
    // The steps at these sizes: N T a is 1 up to order T/N, rows sum to 0, and the key path
    // remembers t − 1.
    let (len, steps) = (512, Steps::uniform(1000, 512).unwrap());
    assert!(((1000 * len) as f64 * steps.token - 1.0).abs() < len as f64 / 1e3, "{}", steps.token);
    assert!(steps.key_gap > 0.0);
    let third: Vec<f64> = steps.rows.key.iter().zip(&steps.rows.cross).map(|(k, x)| k + x).collect();
    for t in 1..len {
        let row = &third[t * len..t * len + t + 1];
        let best = (0..=t).max_by(|i, j| row[*i].total_cmp(&row[*j]));
        assert!(t < 2 || best == Some(t - 1), "{t}: {best:?}");
    }
    rows_sum_to_zero(&steps.rows, len);
    let worth = |x: usize| (0..n).map(|v| hot(v == x)).collect::<Vec<f64>>();
    let found = Conditional::new(&chain, &worth(17), &worth(17));
    assert!(found.key_gap.iter().all(|x| x.is_finite()));
    rows_sum_to_zero(&found, 256);
}

/// Rows of c_v, c_k and c_x over s <= t, up to the rounding of T terms and of the sums over states
/// before them.
#[track_caller]
fn rows_sum_to_zero(of: &Conditional, len: usize) {
    for (name, table) in [("c_v", &of.value), ("c_k", &of.key), ("c_x", &of.cross)] {
        for (t, row) in table.chunks_exact(len).enumerate() {
            let bound = 4.0 * len as f64 * f64::EPSILON * largest(table);
            let sum: f64 = row.iter().sum();
            assert!(sum.abs() <= bound, "{name}, row {t}: {sum:e} beside {bound:e}");
            assert!(row[t + 1..].iter().all(|x| *x == 0.0), "{name}, row {t}");
        }
    }
}
