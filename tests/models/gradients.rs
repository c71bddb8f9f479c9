//! Every parameter block of every model against central differences in f64, for both kinds of
//! targets, and `disentangled` against a transcription of the paper's equations that shares no code
//! with the engine.

use crate::support::noise;
use popgrad::batch::{Batch, Targets};
use popgrad::model::{Disentangled, DisentangledSpec, MODELS, Model, Report, Spec};
use popgrad_kernels::Elem;

/// Every third label does not count.
pub(crate) fn random_batch(kind: Targets, seed: u64, seqs: usize, len: usize, vocab: usize) -> Batch {
    let mut draw = noise(seed);
    let mut batch = Batch::with_capacity(kind, seqs, len, vocab).unwrap();
    batch.set_seqs(seqs);
    let parts = batch.parts_mut();
    for x in parts.tokens.iter_mut().chain(parts.labels) {
        *x = ((draw() + 1.0) * 0.5 * vocab as f64) as u32 % vocab as u32;
    }
    for row in parts.laws.chunks_mut(vocab) {
        row.iter_mut().for_each(|y| *y = draw().abs() + 0.01);
        let z: f64 = row.iter().sum();
        row.iter_mut().for_each(|y| *y /= z);
    }
    for (i, w) in parts.weights.iter_mut().enumerate() {
        *w = if kind == Targets::Labels && i % 3 == 1 { 0.0 } else { draw().abs() };
    }
    batch
}

fn gradient<E: Elem>(model: &dyn Model<E>, params: &[E], batch: &Batch) -> (f64, Vec<E>) {
    let mut ws = model.workspace(batch.kind(), batch.seqs()).unwrap();
    let mut grad = vec![E::ZERO; params.len()];
    model.trainable().iter().zip(model.layout().blocks()).filter(|(can, _)| **can).for_each(|(_, b)| {
        grad[b.range()].fill(E::NAN);
    });
    let loss = model.loss_and_grad(params, batch, model.trainable(), &mut ws, &mut grad).unwrap();
    (loss.value(), grad)
}

fn report<E: Elem>(model: &dyn Model<E>, params: &[E], batch: &Batch) -> Report {
    let mut ws = model.workspace(batch.kind(), batch.seqs()).unwrap();
    let mut report = Report::new(model, batch.kind(), batch.seqs(), true, true);
    model.report(params, batch, &mut ws, &mut report).unwrap();
    report
}

fn attention<E: Elem>(model: &dyn Model<E>, params: &[E], tokens: &[u32]) -> Vec<f64> {
    let maps: usize = model.heads().iter().sum();
    [Targets::Law, Targets::Labels]
        .into_iter()
        .filter(|kind| model.accepts(*kind).is_ok())
        .map(|kind| {
            let mut out = vec![f64::NAN; maps * tokens.len().pow(2)];
            model.attention(params, tokens, &mut model.workspace(kind, 1).unwrap(), &mut out).unwrap();
            out
        })
        .reduce(|a, b| {
            assert_eq!(a, b, "a workspace of either kind");
            a
        })
        .unwrap()
}

/// x A_h xᵀ, causal softmax, concatenation, read-out: one sequence, one value at a time.
/// Predictions at every position, and the patterns of all heads.
fn paper_forward(heads: &[usize], params: &[f64], tokens: &[u32], s: usize) -> (Vec<Vec<f64>>, Vec<f64>) {
    let t = tokens.len();
    let mut x: Vec<Vec<f64>> = (0..t)
        .map(|i| {
            let mut row = vec![0.0; s + t];
            row[tokens[i] as usize] = 1.0;
            row[s + i] = 1.0;
            row
        })
        .collect();
    let (mut p, mut patterns) = (params, Vec::new());
    for h in heads {
        let d = x[0].len();
        let mut next = x.clone();
        for _ in 0..*h {
            let (a, rest) = p.split_at(d * d);
            p = rest;
            for i in 0..t {
                let score = |j: usize| -> f64 {
                    let mut z = 0.0;
                    for r in 0..d {
                        for c in 0..d {
                            z += x[i][r] * a[r * d + c] * x[j][c];
                        }
                    }
                    z
                };
                let e: Vec<f64> = (0..=i).map(|j| score(j).exp()).collect();
                let z: f64 = e.iter().sum();
                patterns.extend((0..t).map(|j| if j <= i { e[j] / z } else { 0.0 }));
                for c in 0..d {
                    next[i].push((0..=i).map(|j| e[j] / z * x[j][c]).sum());
                }
            }
        }
        x = next;
    }
    let predict = |row: &Vec<f64>| {
        let logit = |k: usize| -> f64 { (0..row.len()).map(|c| row[c] * p[c * s + k]).sum() };
        let e: Vec<f64> = (0..s).map(|k| logit(k).exp()).collect();
        let z: f64 = e.iter().sum();
        e.iter().map(|e| e / z).collect()
    };
    (x.iter().map(predict).collect(), patterns)
}

/// Σ w ℓ of the transcription.
fn paper_loss(heads: &[usize], params: &[f64], batch: &Batch) -> f64 {
    let (t, s, o) = (batch.len_tokens(), batch.vocab(), batch.outputs());
    let mut sum = 0.0;
    for b in 0..batch.seqs() {
        let (f, _) = paper_forward(heads, params, batch.sequence(b), s);
        for i in t - o..t {
            let at = b * o + i + o - t;
            let loss = match batch.kind() {
                Targets::Law => -batch.law(b).iter().zip(&f[i]).map(|(y, f)| y * f.ln()).sum::<f64>(),
                Targets::Labels => -f[i][batch.labels()[at] as usize].ln(),
            };
            sum += batch.weights()[at] * loss;
        }
    }
    sum
}

const KINDS: [Targets; 2] = [Targets::Law, Targets::Labels];
const HEADS: [&[usize]; 5] = [&[1], &[1, 1], &[2, 1], &[1, 1, 1], &[1, 2]];

fn setup(kind: Targets, heads: &[usize], seed: u64) -> (Disentangled<f64>, Vec<f64>, Batch) {
    let (s, t) = (3, 5);
    let model = Disentangled::<f64>::new(s, t, &DisentangledSpec::new(heads)).unwrap();
    let mut draw = noise(seed);
    let params: Vec<f64> = (0..Model::layout(&model).len()).map(|_| 0.7 * draw()).collect();
    (model, params, random_batch(kind, seed + 1, 4, t, s))
}

#[test]
fn forward_is_the_papers_formula() {
    for (kind, heads) in KINDS.into_iter().flat_map(|k| HEADS.map(|h| (k, h))) {
        let (model, params, batch) = setup(kind, heads, 7);
        let (t, o, got) = (5, batch.outputs(), report(&model, &params, &batch));
        for b in 0..batch.seqs() {
            let (f, patterns) = paper_forward(heads, &params, batch.sequence(b), 3);
            for (at, f) in (b * o..(b + 1) * o).zip(&f[t - o..]) {
                for (k, f) in f.iter().enumerate() {
                    let got = got.probs[at * 3 + k];
                    assert!((got - f).abs() < 1e-13, "{kind:?} {heads:?} sequence {b}: {got} for {f}");
                }
                let best = (0..3).reduce(|best, k| if f[k] > f[best] { k } else { best });
                assert_eq!(Some(got.predicted[at] as usize), best);
                let loss = match kind {
                    Targets::Law => -batch.law(b).iter().zip(f).map(|(y, f)| y * f.ln()).sum::<f64>(),
                    Targets::Labels => -f[batch.labels()[at] as usize].ln(),
                };
                assert!((got.losses[at] - loss).abs() < 1e-13);
            }
            let attention = attention(&model, &params, batch.sequence(b));
            assert_eq!(attention.len(), patterns.len());
            for (i, (got, p)) in attention.iter().zip(&patterns).enumerate() {
                assert!(
                    (got - p).abs() < 1e-13 && (*p != 0.0 || *got == 0.0),
                    "{heads:?} {i}: {got} for {p}"
                );
            }
        }
        let (loss, _) = gradient(&model, &params, &batch);
        assert!((loss - paper_loss(heads, &params, &batch)).abs() < 1e-13);
    }
}

/// Fourth-order central difference of `at`: error h⁴ f⁽⁵⁾/30 + rounding u/h, both far below 1e-9.
fn difference(at: &mut dyn FnMut(f64) -> f64) -> f64 {
    let h = 1e-3;
    (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h)
}

#[test]
fn the_gradient_is_that_of_the_papers_formula() {
    for (kind, heads) in KINDS.into_iter().flat_map(|k| HEADS.map(|h| (k, h))) {
        let (model, mut params, batch) = setup(kind, heads, 17);
        let (_, grad) = gradient(&model, &params, &batch);
        let scale = grad.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        // Every seventh entry: the transcription is slow.
        for i in (0..params.len()).step_by(7) {
            let old = params[i];
            let numeric = difference(&mut |x| {
                params[i] = old + x;
                paper_loss(heads, &params, &batch)
            });
            params[i] = old;
            let what = format!("{kind:?} {heads:?} {i}: {numeric} for {}", grad[i]);
            assert!((numeric - grad[i]).abs() < 1e-8 * scale, "{what}");
        }
    }
}

/// Every model, in some variants: its name, and what its specification has besides.
fn specs() -> Vec<(&'static str, Spec)> {
    let variants = |model: &str| -> Vec<&str> {
        match model {
            "disentangled" | "mlp_transformer" => {
                vec!["heads = [1]", "heads = [1, 1]", "heads = [2, 1]", "heads = [1, 1, 1]", "heads = [1, 2]"]
            }
            "simplified" => vec!["eps = 0.05", ""],
            // No rectifiers: differences say nothing near their kinks.
            "memory" => vec![
                "dim = 6\nff1 = \"linear\"\nff2 = \"linear\"",
                "dim = 6\npositions = \"rotary\"\noutput = \"tied\"",
            ],
            "transformer" => vec![
                "dim = 6\nheads = [2]\nff = \"linear\"",
                "dim = 6\nheads = [3, 3]\nff = \"none\"\nblock = \"standard\"\noutput = \"tied\"",
            ],
            other => panic!("no variant of `{other}`"),
        }
    };
    let spec = |model: &str, rest: &str| toml::from_str(&format!("model = \"{model}\"\n{rest}")).unwrap();
    let all = MODELS.iter().flat_map(|m| variants(m).into_iter().map(|rest| (*m, spec(m, rest))));
    all.collect()
}

/// Parameters of a model, rectified units far from their kinks, where no difference is of use: half
/// of them on, half off.
fn smooth_params(model: &dyn Model<f64>, seed: u64) -> Vec<f64> {
    let mut draw = noise(seed);
    let mut params: Vec<f64> = (0..model.layout().len()).map(|_| 0.7 * draw()).collect();
    for block in model.layout().blocks() {
        for i in block.range() {
            match block.name() {
                name if name.ends_with(".w1") => params[i] *= 0.2,
                name if name.ends_with(".b1") => params[i] = if i % 2 == 0 { 0.6 } else { -0.6 },
                _ => {}
            }
        }
    }
    params
}

#[test]
fn every_block_of_every_model_matches_central_differences() {
    for ((name, spec), kind) in specs().into_iter().flat_map(|s| KINDS.map(|k| (s.clone(), k))) {
        let model = spec.build::<f64>(3, 5).unwrap();
        if let Err(e) = model.accepts(kind) {
            assert!(e.to_string().contains(name), "{e}");
            assert!(model.workspace(kind, 1).is_err());
            continue;
        }
        let batch = random_batch(kind, 12, 4, 5, 3);
        let mut params = smooth_params(&*model, 11);
        let (_, grad) = gradient(&*model, &params, &batch);
        let (mut ws, off) = (model.workspace(kind, 4).unwrap(), vec![false; model.layout().blocks().len()]);
        let mut none = vec![0.0; params.len()];
        for (block, can) in model.layout().blocks().iter().zip(model.trainable()) {
            if !can {
                continue;
            }
            let (mut worst, mut size) = (0.0f64, 0.0f64);
            for i in block.range() {
                let old = params[i];
                let numeric = difference(&mut |x| {
                    params[i] = old + x;
                    model.loss_and_grad(&params, &batch, &off, &mut ws, &mut none).unwrap().value()
                });
                params[i] = old;
                // `max` would pass over a NaN.
                assert!(numeric.is_finite(), "{spec:?} {}", block.name());
                worst = worst.max((numeric - grad[i]).abs());
                size = size.max(grad[i].abs());
            }
            let what = format!("{spec:?} {kind:?} {}", block.name());
            assert!(size > 1e-6, "{what}: a gradient of {size} would pass any test");
            assert!(worst / size < 1e-6, "{what}: relative error {}", worst / size);
        }
        assert!(none.iter().all(|g| *g == 0.0), "with no block active the gradient is left alone");
    }
}

/// Any blocks may be left out: the others have the same bits, and theirs are left alone.
#[test]
fn inactive_blocks_keep_their_bits() {
    for ((_, spec), kind) in specs().into_iter().flat_map(|s| KINDS.map(|k| (s.clone(), k))) {
        let model = spec.build::<f64>(3, 5).unwrap();
        if model.accepts(kind).is_err() {
            continue;
        }
        let batch = random_batch(kind, 32, 4, 5, 3);
        let params = smooth_params(&*model, 31);
        let (loss, whole) = gradient(&*model, &params, &batch);
        let (mut ws, blocks) = (model.workspace(kind, 4).unwrap(), model.layout().blocks());
        let mut draw = noise(33);
        let random = (0..20).map(|_| blocks.iter().map(|_| draw() > 0.0).collect());
        let single = (0..blocks.len()).map(|b| (0..blocks.len()).map(|c| b == c).collect());
        for mut active in random.chain(single).collect::<Vec<Vec<bool>>>() {
            active.iter_mut().zip(model.trainable()).for_each(|(on, can)| *on &= can);
            let mut grad = vec![7.5; params.len()];
            let again = model.loss_and_grad(&params, &batch, &active, &mut ws, &mut grad).unwrap();
            assert_eq!(again.value(), loss);
            for (block, on) in blocks.iter().zip(&active) {
                for i in block.range() {
                    let expected = if *on { whole[i] } else { 7.5 };
                    let what = format!("{spec:?} {kind:?} {active:?} {} {i}", block.name());
                    assert!(grad[i].to_bits() == expected.to_bits(), "{what}: {} for {expected}", grad[i]);
                }
            }
        }
    }
}

/// One label that counts, at the last position, is a law of one symbol.
#[test]
fn both_kinds_of_targets_agree_where_they_say_the_same() {
    for (_, spec) in specs() {
        let model = spec.build::<f64>(3, 5).unwrap();
        if KINDS.iter().any(|k| model.accepts(*k).is_err()) {
            continue;
        }
        let mut labels = random_batch(Targets::Labels, 41, 6, 5, 3);
        let mut laws = random_batch(Targets::Law, 42, 6, 5, 3);
        laws.parts_mut().tokens.copy_from_slice(labels.tokens());
        laws.parts_mut().laws.fill(0.0);
        for b in 0..6 {
            let (w, label) = (laws.weights()[b], labels.labels()[b * 5 + 4]);
            laws.parts_mut().laws[b * 3 + label as usize] = 1.0;
            labels.parts_mut().weights[b * 5..][..5].copy_from_slice(&[0.0, 0.0, 0.0, 0.0, w]);
        }
        let params = smooth_params(&*model, 43);
        let [(a, da), (b, db)] = [&labels, &laws].map(|batch| gradient(&*model, &params, batch));
        assert!((a - b).abs() < 1e-13, "{spec:?}: {a} {b}");
        let scale = db.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        for (i, (a, b)) in da.iter().zip(&db).enumerate() {
            assert!((a - b).abs() < 1e-12 * scale, "{spec:?} {i}: {a} {b}");
        }
        let [a, b] = [&labels, &laws].map(|batch| report(&*model, &params, batch));
        assert_eq!(a.attended, b.attended);
        assert!((0..6).all(|s| a.predicted[s * 5 + 4] == b.predicted[s]));
    }
}

#[test]
fn weights_scale_the_gradient_and_zero_weight_removes_an_output() {
    for kind in KINDS {
        let (model, params, batch) = setup(kind, &[2, 1], 3);
        let (_, whole) = gradient(&model, &params, &batch);
        let mut sum = vec![0.0; whole.len()];
        for keep in 0..batch.weights().len() {
            let mut only = batch.clone();
            let weights = only.parts_mut().weights;
            weights.iter_mut().enumerate().for_each(|(i, w)| *w = if i == keep { *w } else { 0.0 });
            gradient(&model, &params, &only).1.iter().zip(&mut sum).for_each(|(g, s)| *s += g);
        }
        let scale = whole.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        for (w, s) in whole.iter().zip(&sum) {
            assert!((w - s).abs() < 1e-14 * scale.max(1.0));
        }
    }
}

#[test]
fn an_infinite_loss_that_does_not_count_is_nothing() {
    for heads in [&[1, 1][..], &[1, 1, 1]] {
        let (model, mut params, mut batch) = setup(Targets::Labels, heads, 51);
        // Token 0 at position 2 says of symbol 1 that it is impossible: -1e308 twice is -inf.
        let w = Model::layout(&model).find("W").unwrap().range().start;
        let parts = batch.parts_mut();
        parts.tokens.iter_mut().for_each(|x| *x = (*x).max(1));
        parts.tokens[2] = 0;
        parts.labels[2] = 1;
        parts.weights[2] = 0.0;
        for row in [0, 3 + 2] {
            params[w + row * 3 + 1] = -1e308;
        }
        // Elsewhere the label is another symbol, or its weight 0.
        for (label, weight) in parts.labels.iter_mut().zip(parts.weights.iter_mut()).skip(3) {
            *weight = if *label == 1 { 0.0 } else { *weight };
        }
        let losses = report(&model, &params, &batch).losses;
        assert_eq!(losses[2], f64::INFINITY);
        let (loss, grad) = gradient(&model, &params, &batch);
        assert!(loss.is_finite() && grad.iter().all(|g| g.is_finite()), "{heads:?}: {loss}");
    }
}

#[test]
fn at_zero_only_the_readout_moves() {
    for kind in KINDS {
        let spec = Spec::Disentangled(DisentangledSpec::new(&[1, 1]));
        let model = spec.build::<f64>(3, 5).unwrap();
        let batch = random_batch(kind, 5, 6, 5, 3);
        let params = vec![0.0; model.layout().len()];
        let (_, grad) = gradient(&*model, &params, &batch);
        let probs = report(&*model, &params, &batch).probs;
        assert!(probs.iter().all(|p| (p - 1.0 / 3.0).abs() < 1e-15));
        for block in model.layout().blocks() {
            let zero = grad[block.range()].iter().all(|g| *g == 0.0);
            assert_eq!(zero, block.name() != "W", "{}", block.name());
        }
    }
}

#[test]
fn f32_follows_f64() {
    for (kind, heads) in KINDS.into_iter().flat_map(|k| HEADS.map(|h| (k, h))) {
        let (model, params, batch) = setup(kind, heads, 23);
        let single = Disentangled::<f32>::new(3, 5, &DisentangledSpec::new(heads)).unwrap();
        let params32: Vec<f32> = params.iter().map(|p| *p as f32).collect();
        let params: Vec<f64> = params32.iter().map(|p| *p as f64).collect();
        let ((_, g), (_, g32)) = (gradient(&model, &params, &batch), gradient(&single, &params32, &batch));
        let scale = g.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        for (a, b) in g.iter().zip(&g32) {
            // A few hundred roundings of u = 6e-8 each stand between the parameters and a gradient
            // entry.
            assert!((a - *b as f64).abs() < 500.0 * 6e-8 * scale, "{heads:?}: {a} {b}");
        }
    }
}

/// Reports name what `attention` and the predictions are largest at, whatever the kind of targets.
#[test]
fn reports_agree_with_attention() {
    for ((_, spec), kind) in specs().into_iter().flat_map(|s| KINDS.map(|k| (s.clone(), k))) {
        let (model, t) = (spec.build::<f64>(3, 5).unwrap(), 5);
        if model.accepts(kind).is_err() {
            continue;
        }
        let (n, batch, params) = (4, random_batch(kind, 62, 4, 5, 3), smooth_params(&*model, 61));
        let got = report(&*model, &params, &batch);
        for (b, maps) in (0..n).map(|b| (b, attention(&*model, &params, batch.sequence(b)))) {
            for (map, pattern) in maps.chunks(t * t).enumerate() {
                for (i, row) in pattern.chunks(t).enumerate() {
                    assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-13);
                    assert!(row[i + 1..].iter().all(|p| *p == 0.0));
                    let best = (0..=i).fold(0, |best, j| if row[j] > row[best] { j } else { best });
                    assert_eq!(
                        got.attended[(map * n + b) * t + i] as usize,
                        best,
                        "{spec:?} {kind:?} {map} {b} {i}"
                    );
                }
            }
        }
        // Without what is not wanted.
        let mut few = Report::new(&*model, kind, n, false, false);
        model.report(&params, &batch, &mut model.workspace(kind, n).unwrap(), &mut few).unwrap();
        assert!(few.losses == got.losses && few.predicted == got.predicted);
        let mut other = Report::new(&*model, kind, n + 1, false, false);
        assert!(model.report(&params, &batch, &mut model.workspace(kind, n).unwrap(), &mut other).is_err());
    }
}

/// The pattern of the first layer can be read from its scores alone.
#[test]
fn first_layer_scores_give_its_pattern() {
    for (name, spec) in specs() {
        let (model, s, t) = (spec.build::<f64>(3, 5).unwrap(), 3, 5);
        let params = smooth_params(&*model, 71);
        let Some(scores) = model.first_layer_scores(&params) else {
            assert!(["memory", "transformer"].contains(&name), "{name}");
            continue;
        };
        assert_eq!(scores.by_position, name != "mlp_transformer");
        let (d, batch) = (s + t, random_batch(Targets::Law, 72, 1, t, s));
        let (tokens, maps) = (batch.tokens(), attention(&*model, &params, batch.tokens()));
        for (head, g) in scores.scores.chunks(d * d).enumerate() {
            for i in 0..t {
                let parts = |p: usize| [tokens[p] as usize, s + p];
                let score = |j: usize| -> f64 {
                    parts(i).iter().flat_map(|r| parts(j).map(|c| g[r * d + c])).sum::<f64>()
                };
                let e: Vec<f64> = (0..=i).map(|j| score(j).exp()).collect();
                let z: f64 = e.iter().sum();
                for (j, e) in e.iter().enumerate() {
                    let got = maps[(head * t + i) * t + j];
                    assert!((got - e / z).abs() < 1e-12, "{spec:?} {head} {i} {j}: {got} for {}", e / z);
                }
            }
        }
        assert_eq!(scores.scores.len(), model.heads()[0] * d * d);
    }
}

#[test]
fn misfits_are_typed_errors() {
    let (model, params, batch) = setup(Targets::Law, &[1, 1], 1);
    let mut ws = model.workspace(Targets::Law, 4).unwrap();
    let mut error = |params: &[f64], batch: &Batch, active: &[bool], grad: &mut [f64]| {
        model.loss_and_grad(params, batch, active, &mut ws, grad).unwrap_err().to_string()
    };
    let (on, mut grad) = ([true; 3], vec![0.0; params.len()]);
    assert!(error(&params[1..], &batch, &on, &mut grad).contains("params length"));
    let wrong_t = random_batch(Targets::Law, 1, 4, 6, 3);
    assert!(error(&params, &wrong_t, &on, &mut grad).starts_with("T: 6"));
    for kind in KINDS {
        let many = random_batch(kind, 1, 5, 5, 3);
        assert!(error(&params, &many, &on, &mut grad).starts_with("B: 5"));
    }
    let mut bad = batch.clone();
    bad.parts_mut().tokens[7] = 3;
    let message = error(&params, &bad, &on, &mut grad);
    assert!(message.contains("tokens: 3 in sequence 1"), "{message}");
    assert!(error(&params, &batch, &on[1..], &mut grad).starts_with("active: 2 flags"));
    assert!(error(&params, &batch, &on, &mut grad[1..]).starts_with("grad: "));
    let mut ws = model.workspace(Targets::Law, 1).unwrap();
    let mut out = vec![0.0; 2 * 25];
    assert!(model.attention(&params, &[0, 1, 2, 3, 0], &mut ws, &mut out).is_err());
    assert!(model.attention(&params, &[0, 1, 2, 0], &mut ws, &mut out).is_err());
    assert!(model.attention(&params, &[0, 1, 2, 0, 0], &mut ws, &mut out[1..]).is_err());
    let new = |s, t, heads: &[usize]| Disentangled::<f32>::new(s, t, &DisentangledSpec::new(heads));
    assert!(new(1, 5, &[1]).is_err());
    assert!(new(3, 5, &[]).is_err());
    assert!(new(65536, 65536, &[64, 64, 64]).is_err(), "sizes that overflow");
    for init in [-1.0, 1001.0, f64::NAN] {
        let spec = DisentangledSpec { heads: vec![1], init };
        assert!(Disentangled::<f32>::new(3, 5, &spec).unwrap_err().to_string().starts_with("init: "));
    }
    assert!(toml::from_str::<Spec>("model = \"disentagled\"\nheads = [1]").is_err());
}
