//! Every parameter block of every model against central differences in f64, and the forward against a transcription of
//! the paper's equations that shares no code with the engine.

use popgrad::batch::Batch;
use popgrad::model::{Disentangled, MODELS, Model, ModelSpec, build};

/// Deterministic numbers in (-1, 1), good enough for test data.
fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

fn random_batch(seed: u64, seqs: usize, len: usize, vocab: usize) -> Batch {
    let mut draw = noise(seed);
    let mut batch = Batch::with_capacity(seqs, len, vocab).unwrap();
    batch.set_seqs(seqs);
    let (tokens, targets, weights) = batch.parts_mut();
    for x in tokens {
        *x = ((draw() + 1.0) * 0.5 * vocab as f64) as u32 % vocab as u32;
    }
    for row in targets.chunks_mut(vocab) {
        row.iter_mut().for_each(|y| *y = draw().abs() + 0.01);
        let z: f64 = row.iter().sum();
        row.iter_mut().for_each(|y| *y /= z);
    }
    for w in weights {
        *w = draw().abs();
    }
    batch
}

/// x A_h xᵀ, causal softmax, concatenation, read-out: one sequence, one value at a time.
fn paper_forward(heads: &[usize], params: &[f64], tokens: &[u32], s: usize) -> Vec<f64> {
    let t = tokens.len();
    let mut x: Vec<Vec<f64>> = (0..t)
        .map(|i| {
            let mut row = vec![0.0; s + t];
            row[tokens[i] as usize] = 1.0;
            row[s + i] = 1.0;
            row
        })
        .collect();
    let mut p = params;
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
                for c in 0..d {
                    next[i].push((0..=i).map(|j| e[j] / z * x[j][c]).sum());
                }
            }
        }
        x = next;
    }
    let last = &x[t - 1];
    let logits: Vec<f64> = (0..s).map(|k| (0..last.len()).map(|c| last[c] * p[c * s + k]).sum()).collect();
    let z: f64 = logits.iter().map(|l: &f64| l.exp()).sum();
    logits.iter().map(|l| l.exp() / z).collect()
}

fn setup(heads: &[usize], seed: u64) -> (Disentangled<f64>, Vec<f64>, Batch) {
    let (s, t) = (3, 5);
    let model = Disentangled::<f64>::new(s, t, heads).unwrap();
    let mut draw = noise(seed);
    let params: Vec<f64> = (0..Model::<f64>::layout(&model).len()).map(|_| 0.7 * draw()).collect();
    (model, params, random_batch(seed + 1, 4, t, s))
}

const HEADS: [&[usize]; 5] = [&[1], &[1, 1], &[2, 1], &[1, 1, 1], &[1, 2]];

#[test]
fn forward_is_the_papers_formula() {
    for heads in HEADS {
        let (model, params, batch) = setup(heads, 7);
        let mut ws = model.workspace(4).unwrap();
        model.forward(&params, &batch, &mut ws).unwrap();
        for b in 0..batch.seqs() {
            let f = paper_forward(heads, &params, batch.sequence(b), 3);
            let mut loss = 0.0;
            for k in 0..3 {
                let got = ws.predictions()[b * 3 + k];
                assert!((got - f[k]).abs() < 1e-13, "{heads:?} sequence {b}: {got} for {}", f[k]);
                loss -= batch.target(b)[k] * f[k].ln();
            }
            assert!((ws.losses()[b] - loss).abs() < 1e-13);
        }
    }
}

#[test]
fn every_block_of_every_model_matches_central_differences() {
    for (name, heads) in MODELS.into_iter().flat_map(|m| HEADS.map(|h| (m, h))) {
        let spec = ModelSpec { name: name.into(), vocab: 3, seq_len: 5, heads: heads.to_vec(), eps: 0.05 };
        let model = build::<f64>(&spec).unwrap();
        let (mut draw, batch) = (noise(11), random_batch(12, 4, 5, 3));
        let mut params: Vec<f64> = (0..model.layout().len()).map(|_| 0.7 * draw()).collect();
        let layout = model.layout().clone();
        // Rectified units far from their kinks, where no difference is of use: half of them on, half off.
        for block in layout.blocks() {
            for i in block.range() {
                match block.name() {
                    name if name.ends_with(".w1") => params[i] *= 0.2,
                    name if name.ends_with(".b1") => params[i] = if i % 2 == 0 { 0.6 } else { -0.6 },
                    _ => {}
                }
            }
        }
        let mut ws = model.workspace(4).unwrap();
        let mut grad = vec![f64::NAN; params.len()];
        model.forward(&params, &batch, &mut ws).unwrap();
        model.backward(&params, &batch, &mut ws, &mut grad).unwrap();
        for block in layout.blocks() {
            let (mut worst, mut size) = (0.0f64, 0.0f64);
            for i in block.range() {
                let old = params[i];
                // Fourth-order differences: error h^4 f⁽⁵⁾/30 + rounding u/h, both far below 1e-9 at this h.
                let mut at = |x: f64| {
                    params[i] = x;
                    model.forward(&params, &batch, &mut ws).unwrap();
                    ws.weighted_loss(batch.weights()).value()
                };
                let h = 1e-3;
                let numeric = (8.0 * (at(old + h) - at(old - h)) - (at(old + 2.0 * h) - at(old - 2.0 * h)))
                    / (12.0 * h);
                params[i] = old;
                // `max` would pass over a NaN.
                assert!(numeric.is_finite(), "{heads:?} {}", block.name());
                worst = worst.max((numeric - grad[i]).abs());
                size = size.max(grad[i].abs());
            }
            assert!(
                size > 1e-4,
                "{name} {heads:?} {}: a gradient of {size} would pass any test",
                block.name()
            );
            assert!(
                worst / size < 1e-7,
                "{name} {heads:?} {}: relative error {}",
                block.name(),
                worst / size
            );
        }
    }
}

#[test]
fn weights_scale_the_gradient_and_zero_weight_removes_a_sequence() {
    let (model, params, batch) = setup(&[2, 1], 3);
    let mut ws = model.workspace(4).unwrap();
    let run = |batch: &Batch, ws: &mut _| {
        let mut grad = vec![0.0; params.len()];
        model.forward(&params, batch, ws).unwrap();
        model.backward(&params, batch, ws, &mut grad).unwrap();
        grad
    };
    let whole = run(&batch, &mut ws);
    let mut sum = vec![0.0; whole.len()];
    for keep in 0..4 {
        let mut only = batch.clone();
        only.parts_mut().2.iter_mut().enumerate().for_each(|(i, w)| *w = if i == keep { *w } else { 0.0 });
        run(&only, &mut ws).iter().zip(&mut sum).for_each(|(g, s)| *s += g);
    }
    let scale = whole.iter().fold(0.0f64, |m, g| m.max(g.abs()));
    for (w, s) in whole.iter().zip(&sum) {
        assert!((w - s).abs() < 1e-14 * scale.max(1.0));
    }
}

#[test]
fn at_zero_only_the_readout_moves() {
    let spec = ModelSpec { name: "disentangled".into(), vocab: 3, seq_len: 5, heads: vec![1, 1], eps: 0.0 };
    let model = build::<f64>(&spec).unwrap();
    let batch = random_batch(5, 6, 5, 3);
    let params = vec![0.0; model.layout().len()];
    let (mut ws, mut grad) = (model.workspace(6).unwrap(), vec![f64::NAN; params.len()]);
    model.forward(&params, &batch, &mut ws).unwrap();
    model.backward(&params, &batch, &mut ws, &mut grad).unwrap();
    assert!(ws.predictions().iter().all(|p| (p - 1.0 / 3.0).abs() < 1e-15));
    for block in model.layout().blocks() {
        let zero = grad[block.range()].iter().all(|g| *g == 0.0);
        assert_eq!(zero, block.name() != "W", "{}", block.name());
    }
}

#[test]
fn f32_follows_f64() {
    for heads in HEADS {
        let (model, params, batch) = setup(heads, 23);
        let single = Disentangled::<f32>::new(3, 5, heads).unwrap();
        let params32: Vec<f32> = params.iter().map(|p| *p as f32).collect();
        let params: Vec<f64> = params32.iter().map(|p| *p as f64).collect();
        let (mut ws, mut ws32) = (model.workspace(4).unwrap(), single.workspace(4).unwrap());
        let (mut g, mut g32) = (vec![0.0; params.len()], vec![0.0f32; params.len()]);
        model.forward(&params, &batch, &mut ws).unwrap();
        single.forward(&params32, &batch, &mut ws32).unwrap();
        model.backward(&params, &batch, &mut ws, &mut g).unwrap();
        single.backward(&params32, &batch, &mut ws32, &mut g32).unwrap();
        let scale = g.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        for (a, b) in g.iter().zip(&g32) {
            // A few hundred roundings of u = 6e-8 each stand between the parameters and a gradient entry.
            assert!((a - *b as f64).abs() < 500.0 * 6e-8 * scale, "{heads:?}: {a} {b}");
        }
    }
}

#[test]
fn misfits_are_typed_errors() {
    let (model, params, batch) = setup(&[1, 1], 1);
    let mut ws = model.workspace(4).unwrap();
    let short = &params[1..];
    assert!(model.forward(short, &batch, &mut ws).unwrap_err().to_string().contains("params length"));
    let wrong_t = random_batch(1, 4, 6, 3);
    assert!(model.forward(&params, &wrong_t, &mut ws).unwrap_err().to_string().starts_with("T: 6"));
    let many = random_batch(1, 5, 5, 3);
    assert!(model.forward(&params, &many, &mut ws).unwrap_err().to_string().starts_with("B: 5"));
    let mut bad = batch.clone();
    bad.parts_mut().0[7] = 3;
    let message = model.forward(&params, &bad, &mut ws).unwrap_err().to_string();
    assert!(message.contains("tokens: token 3 in sequence 1"), "{message}");
    assert!(Disentangled::<f32>::new(1, 5, &[1]).is_err());
    assert!(Disentangled::<f32>::new(3, 5, &[]).is_err());
    assert!(Disentangled::<f32>::new(65536, 65536, &[64, 64, 64]).is_err(), "sizes that overflow");
    let spec = ModelSpec { name: "disentagled".into(), vocab: 3, seq_len: 5, heads: vec![1], eps: 0.0 };
    let message = build::<f32>(&spec).err().unwrap().to_string();
    assert!(message.contains("did you mean `disentangled`"), "{message}");
}
