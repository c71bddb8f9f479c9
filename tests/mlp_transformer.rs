//! `mlp_transformer` against a transcription of its equations that shares no code with the engine, and the gradient against
//! differences of that transcription; its start; instruction sets, precision, misfits.

use popgrad::batch::Batch;
use popgrad::model::{Layout, MlpTransformer, Model};
use std::process::Command;

/// Deterministic numbers in (-1, 1).
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
    tokens.iter_mut().for_each(|x| *x = ((draw() + 1.0) * 0.5 * vocab as f64) as u32 % vocab as u32);
    for row in targets.chunks_mut(vocab) {
        row.iter_mut().for_each(|y| *y = draw().abs() + 0.01);
        let z: f64 = row.iter().sum();
        row.iter_mut().for_each(|y| *y /= z);
    }
    weights.iter_mut().for_each(|w| *w = draw().abs());
    batch
}

/// x w √(n/m) + √n b for x of m entries and w (m, n).
fn mu_linear(x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    let (m, n) = (x.len(), b.len());
    let column = |j: usize| -> f64 { (0..m).map(|i| x[i] * w[i * n + j]).sum() };
    (0..n).map(|j| column(j) * (n as f64 / m as f64).sqrt() + (n as f64).sqrt() * b[j]).collect()
}

/// Prediction for one sequence, every layer at every position, and which rectified units are on.
fn figure8(
    layout: &Layout,
    heads: &[usize],
    params: &[f64],
    tokens: &[u32],
    s: usize,
) -> (Vec<f64>, Vec<bool>) {
    let block = |name: String| &params[layout.find(&name).unwrap().range()];
    let (t, d) = (tokens.len(), s + tokens.len());
    let (wte, wpe) = (block("wte".into()), block("wpe".into()));
    let mut x: Vec<Vec<f64>> =
        (0..t).map(|i| (0..d).map(|c| wte[tokens[i] as usize * d + c] + wpe[i * d + c]).collect()).collect();
    let mut on = Vec::new();
    for (l, h) in heads.iter().enumerate() {
        let part = |name: &str| block(format!("mlp.{l}.{name}"));
        let (a, v) = (block(format!("A.{l}")), block(format!("V.{l}")));
        let next = (0..t).map(|i| {
            let mut attended = Vec::new();
            for head in a.chunks(d * d).take(*h) {
                let score = |j: usize| -> f64 {
                    (0..d).map(|r| (0..d).map(|c| x[i][r] * head[r * d + c] * x[j][c]).sum::<f64>()).sum()
                };
                let e: Vec<f64> = (0..=i).map(|j| score(j).exp()).collect();
                let z: f64 = e.iter().sum();
                attended.extend((0..d).map(|c| (0..=i).map(|j| e[j] / z * x[j][c]).sum::<f64>()));
            }
            let y: Vec<f64> = (0..d).map(|c| (0..h * d).map(|r| attended[r] * v[r * d + c]).sum()).collect();
            let mut hidden = mu_linear(&y, part("w1"), part("b1"));
            on.extend(hidden.iter().map(|x| *x > 0.0));
            hidden.iter_mut().for_each(|x| *x = x.max(0.0));
            let out = mu_linear(&hidden, part("w2"), part("b2"));
            x[i].iter().zip(&out).map(|(x, o)| x + o).collect()
        });
        x = next.collect();
    }
    let w = block("W".into());
    let logits: Vec<f64> = (0..s).map(|k| (0..d).map(|c| x[t - 1][c] * w[c * s + k]).sum()).collect();
    let z: f64 = logits.iter().map(|l: &f64| l.exp()).sum();
    (logits.iter().map(|l| l.exp() / z).collect(), on)
}

/// Weighted loss of the transcription and the units that are on.
fn loss(layout: &Layout, heads: &[usize], params: &[f64], batch: &Batch) -> (f64, Vec<bool>) {
    let (mut sum, mut on) = (0.0, Vec::new());
    for b in 0..batch.seqs() {
        let (f, units) = figure8(layout, heads, params, batch.sequence(b), batch.vocab());
        let l: f64 = batch.target(b).iter().zip(&f).map(|(y, f)| -y * f.ln()).sum();
        sum += batch.weights()[b] * l;
        on.extend(units);
    }
    (sum, on)
}

const HEADS: [&[usize]; 6] = [&[1, 1], &[2, 1], &[1], &[3], &[1, 1, 1], &[1, 2, 2]];

fn setup(heads: &[usize], s: usize, t: usize, seed: u64) -> (MlpTransformer<f64>, Vec<f64>, Batch) {
    let model = MlpTransformer::<f64>::new(s, t, heads).unwrap();
    let mut draw = noise(seed);
    let params = (0..Model::<f64>::layout(&model).len()).map(|_| 0.7 * draw()).collect();
    (model, params, random_batch(seed + 1, 5, t, s))
}

fn gradient(model: &MlpTransformer<f64>, params: &[f64], batch: &Batch) -> Vec<f64> {
    let mut ws = model.workspace(batch.seqs()).unwrap();
    let mut grad = vec![f64::NAN; params.len()];
    model.forward(params, batch, &mut ws).unwrap();
    model.backward(params, batch, &mut ws, &mut grad).unwrap();
    grad
}

#[test]
fn forward_is_the_transcription() {
    for heads in HEADS {
        for (s, t) in [(3, 5), (2, 2), (7, 3)] {
            let (model, params, batch) = setup(heads, s, t, 7);
            let mut ws = model.workspace(9).unwrap();
            model.forward(&params, &batch, &mut ws).unwrap();
            for b in 0..batch.seqs() {
                let (f, _) = figure8(Model::<f64>::layout(&model), heads, &params, batch.sequence(b), s);
                for k in 0..s {
                    let got = ws.predictions()[b * s + k];
                    assert!(
                        (got - f[k]).abs() < 1e-12,
                        "{heads:?} S={s} T={t} sequence {b}: {got} for {}",
                        f[k]
                    );
                }
            }
        }
    }
}

#[test]
fn every_block_matches_differences_of_the_transcription() {
    for heads in HEADS {
        let (model, mut params, batch) = setup(heads, 3, 4, 11);
        let grad = gradient(&model, &params, &batch);
        let layout = Model::<f64>::layout(&model).clone();
        let (_, on) = loss(&layout, heads, &params, &batch);
        for block in layout.blocks() {
            let (mut worst, mut size, mut tried) = (0.0f64, 0.0f64, 0);
            for i in block.range() {
                let old = params[i];
                let mut smooth = true;
                // Central differences of fourth order; a unit that switches on the way says nothing about the gradient.
                let mut at = |x: f64| {
                    params[i] = old + x;
                    let (l, units) = loss(&layout, heads, &params, &batch);
                    smooth &= units == on;
                    l
                };
                let h = 2e-4;
                let numeric = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
                params[i] = old;
                if smooth {
                    assert!(numeric.is_finite() && grad[i].is_finite(), "{heads:?} {}", block.name());
                    worst = worst.max((numeric - grad[i]).abs());
                    size = size.max(grad[i].abs());
                    tried += 1;
                }
            }
            let (name, len) = (block.name(), block.len());
            assert!(2 * tried > len, "{heads:?} {name}: only {tried} of {len} entries lie between kinks");
            assert!(size > 1e-4, "{heads:?} {name}: a gradient of {size} would pass any test");
            // Rounding: a few hundred u / h, some 1e-10.
            assert!(worst < 1e-8 * size.max(1e-2), "{heads:?} {name}: error {worst} in {size}");
        }
    }
}

#[test]
fn the_start_is_that_of_the_mu_parametrisation() {
    let (s, t) = (10, 20);
    let model = MlpTransformer::<f64>::new(s, t, &[2, 1]).unwrap();
    let d = (s + t) as f64;
    // ±1: all that a standard deviation shows.
    let signs = |i: u64| if i.is_multiple_of(3) { 1.0 } else { -1.0 };
    for (init, expected_a) in [(0.0, 0.0), (0.25, 0.25)] {
        let params = model.initial(init, &signs);
        for block in Model::<f64>::layout(&model).blocks() {
            let name = block.name();
            let sd = match name {
                "wte" | "wpe" | "V.0" | "V.1" | "mlp.0.w1" | "mlp.1.w1" => 1.0 / d.sqrt(),
                "A.0" | "A.1" => expected_a,
                _ => 0.0,
            };
            for i in block.range() {
                assert_eq!(params[i], sd * signs(i as u64), "{name}");
            }
        }
    }
    // There, as W = 0, the prediction is uniform and only W has a gradient.
    let params = model.initial(0.0, &signs);
    let batch = random_batch(3, 6, t, s);
    let grad = gradient(&model, &params, &batch);
    for block in Model::<f64>::layout(&model).blocks() {
        let zero = grad[block.range()].iter().all(|g| *g == 0.0);
        assert_eq!(zero, block.name() != "W", "{}", block.name());
    }
}

#[test]
fn a_small_batch_in_a_large_workspace_and_again() {
    let (model, params, batch) = setup(&[2, 1], 4, 6, 5);
    let grad = gradient(&model, &params, &batch);
    let mut ws = model.workspace(40).unwrap();
    // What an earlier, larger batch left must not matter.
    let large = random_batch(9, 40, 6, 4);
    let mut again = vec![f64::NAN; params.len()];
    for batch in [&large, &batch] {
        model.forward(&params, batch, &mut ws).unwrap();
        model.backward(&params, batch, &mut ws, &mut again).unwrap();
    }
    assert_eq!(grad, again);
}

#[test]
fn weights_are_linear() {
    let (model, params, batch) = setup(&[2, 1], 3, 5, 3);
    let whole = gradient(&model, &params, &batch);
    let mut sum = vec![0.0; whole.len()];
    for keep in 0..batch.seqs() {
        let mut only = batch.clone();
        only.parts_mut().2.iter_mut().enumerate().for_each(|(i, w)| *w = if i == keep { *w } else { 0.0 });
        gradient(&model, &params, &only).iter().zip(&mut sum).for_each(|(g, s)| *s += g);
    }
    let scale = whole.iter().fold(1.0f64, |m, g| m.max(g.abs()));
    assert!(whole.iter().zip(&sum).all(|(w, s)| (w - s).abs() < 1e-13 * scale));
}

#[test]
fn f32_follows_f64() {
    for heads in HEADS {
        let (model, params, batch) = setup(heads, 3, 5, 23);
        let single = MlpTransformer::<f32>::new(3, 5, heads).unwrap();
        let params32: Vec<f32> = params.iter().map(|p| *p as f32).collect();
        let params: Vec<f64> = params32.iter().map(|p| f64::from(*p)).collect();
        let wide = gradient(&model, &params, &batch);
        let mut ws = single.workspace(5).unwrap();
        let mut narrow = vec![f32::NAN; params.len()];
        single.forward(&params32, &batch, &mut ws).unwrap();
        single.backward(&params32, &batch, &mut ws, &mut narrow).unwrap();
        let scale = wide.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        for (a, b) in wide.iter().zip(&narrow) {
            // A few hundred roundings of u = 6e-8 each stand between the parameters and a gradient entry.
            assert!((a - f64::from(*b)).abs() < 500.0 * 6e-8 * scale, "{heads:?}: {a} {b}");
        }
    }
}

#[test]
fn misfits_are_typed_errors() {
    let (model, params, batch) = setup(&[1, 1], 3, 5, 1);
    let mut ws = model.workspace(5).unwrap();
    let mut bad = batch.clone();
    bad.parts_mut().0[7] = 3;
    let message = model.forward(&params, &bad, &mut ws).unwrap_err().to_string();
    assert!(message.contains("tokens: token 3 in sequence 1"), "{message}");
    let mut grad = vec![0.0; params.len()];
    let message = model.backward(&params, &batch, &mut model.workspace(5).unwrap(), &mut grad).unwrap_err();
    assert!(message.to_string().contains("after a forward"), "{message}");
    assert!(model.forward(&params[1..], &batch, &mut ws).is_err());
    for (s, t, heads) in
        [(1, 5, &[1][..]), (3, 1, &[1]), (3, 5, &[]), (3, 5, &[0]), (3, 5, &[65]), (65536, 65536, &[64])]
    {
        assert!(MlpTransformer::<f32>::new(s, t, heads).is_err(), "{s} {t} {heads:?}");
    }
}

/// The tests above on one instruction set.
fn on(isa: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.env("POPGRAD_ISA", isa).args(["--skip", "every_instruction_set"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("7 passed"), "{isa}: {text}");
}

#[test]
fn every_instruction_set() {
    if std::env::var_os("POPGRAD_ISA").is_some() {
        return;
    }
    popgrad_kernels::Isa::available().for_each(|isa| on(isa.name()));
}
