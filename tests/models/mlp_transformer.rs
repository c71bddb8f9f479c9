//! `mlp_transformer` against a transcription of its equations that shares no code with the engine,
//! and the gradient against differences of that transcription; its start; instruction sets,
//! precision, misfits.

use crate::gradients::random_batch;
use crate::support::noise;
use popgrad::batch::{Batch, Targets};
use popgrad::model::{Draw, Layout, MlpTransformer, MlpTransformerSpec, Model, Report};
use popgrad_kernels::Elem;
use std::process::Command;

/// x w √(n/m) + √n b for x of m entries and w (m, n).
fn mu_linear(x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    let (m, n) = (x.len(), b.len());
    let column = |j: usize| -> f64 { (0..m).map(|i| x[i] * w[i * n + j]).sum() };
    (0..n).map(|j| column(j) * (n as f64 / m as f64).sqrt() + (n as f64).sqrt() * b[j]).collect()
}

/// Predictions for one sequence at every position, and which rectified units are on.
fn figure8(
    layout: &Layout,
    heads: &[usize],
    params: &[f64],
    tokens: &[u32],
    s: usize,
) -> (Vec<Vec<f64>>, Vec<bool>) {
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
    let predict = |x: &Vec<f64>| -> Vec<f64> {
        let e = (0..s).map(|k| (0..d).map(|c| x[c] * w[c * s + k]).sum::<f64>().exp());
        let e: Vec<f64> = e.collect();
        let z: f64 = e.iter().sum();
        e.iter().map(|e| e / z).collect()
    };
    (x.iter().map(predict).collect(), on)
}

/// Weighted loss of the transcription and the units that are on.
fn loss(layout: &Layout, heads: &[usize], params: &[f64], batch: &Batch) -> (f64, Vec<bool>) {
    let (mut sum, mut on) = (0.0, Vec::new());
    let (t, o) = (batch.len_tokens(), batch.outputs());
    for b in 0..batch.seqs() {
        let (f, units) = figure8(layout, heads, params, batch.sequence(b), batch.vocab());
        for (at, f) in (b * o..).zip(&f[t - o..]) {
            let l = match batch.kind() {
                Targets::Law => batch.law(b).iter().zip(f).map(|(y, f)| -y * f.ln()).sum(),
                Targets::Labels => -f[batch.labels()[at] as usize].ln(),
            };
            sum += batch.weights()[at] * l;
        }
        on.extend(units);
    }
    (sum, on)
}

const KINDS: [Targets; 2] = [Targets::Law, Targets::Labels];
const HEADS: [&[usize]; 6] = [&[1, 1], &[2, 1], &[1], &[3], &[1, 1, 1], &[1, 2, 2]];

type Setup = (MlpTransformer<f64>, Vec<f64>, Batch);

fn setup(kind: Targets, heads: &[usize], [s, t]: [usize; 2], seed: u64) -> Setup {
    let model = MlpTransformer::<f64>::new(s, t, &MlpTransformerSpec::new(heads)).unwrap();
    let mut draw = noise(seed);
    let params = (0..Model::layout(&model).len()).map(|_| 0.7 * draw()).collect();
    (model, params, random_batch(kind, seed + 1, 5, t, s))
}

fn gradient<E: Elem>(model: &MlpTransformer<E>, params: &[E], batch: &Batch) -> Vec<E> {
    let mut ws = model.workspace(batch.kind(), batch.seqs()).unwrap();
    let mut grad = vec![E::NAN; params.len()];
    model.loss_and_grad(params, batch, model.trainable(), &mut ws, &mut grad).unwrap();
    grad
}

#[test]
fn forward_is_the_transcription() {
    for (kind, heads) in KINDS.into_iter().flat_map(|k| HEADS.map(|h| (k, h))) {
        for [s, t] in [[3, 5], [2, 2], [7, 3]] {
            let (model, params, batch) = setup(kind, heads, [s, t], 7);
            let mut ws = model.workspace(kind, 9).unwrap();
            let mut report = Report::new(&model, kind, batch.seqs(), false, true);
            model.report(&params, &batch, &mut ws, &mut report).unwrap();
            let o = batch.outputs();
            for b in 0..batch.seqs() {
                let (f, _) = figure8(Model::layout(&model), heads, &params, batch.sequence(b), s);
                for (got, f) in report.probs[b * o * s..].iter().zip(f[t - o..].concat()) {
                    let what = format!("{kind:?} {heads:?} S={s} T={t} sequence {b}");
                    assert!((got - f).abs() < 1e-12, "{what}: {got} for {f}");
                }
            }
        }
    }
}

#[test]
fn every_block_matches_differences_of_the_transcription() {
    for (kind, heads) in KINDS.into_iter().flat_map(|k| HEADS.map(|h| (k, h))) {
        let (model, mut params, batch) = setup(kind, heads, [3, 4], 11);
        let grad = gradient(&model, &params, &batch);
        let layout = Model::layout(&model).clone();
        let (_, on) = loss(&layout, heads, &params, &batch);
        for block in layout.blocks() {
            let (mut worst, mut size, mut tried) = (0.0f64, 0.0f64, 0);
            for i in block.range() {
                let old = params[i];
                let mut smooth = true;
                // Central differences of fourth order; a unit that switches on the way says nothing
                // about the gradient.
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
            assert!(worst < 1e-8 * size.max(1e-2), "{kind:?} {heads:?} {name}: error {worst} in {size}");
        }
    }
}

/// ±1: all that a standard deviation shows.
struct Signs;

impl Draw for Signs {
    fn normal(&self, i: u64) -> f64 {
        if i.is_multiple_of(3) { 1.0 } else { -1.0 }
    }
    fn uniform(&self, i: u64) -> f64 {
        self.normal(i)
    }
}

#[test]
fn the_start_is_that_of_the_mu_parametrisation() {
    let (s, t) = (10, 20);
    let new =
        |init| MlpTransformer::<f64>::new(s, t, &MlpTransformerSpec { heads: vec![2, 1], init }).unwrap();
    let d = (s + t) as f64;
    for init in [0.0, 0.25] {
        let model = new(init);
        let params = model.initial(&Signs);
        for block in Model::layout(&model).blocks() {
            let name = block.name();
            let sd = match name {
                "wte" | "wpe" | "V.0" | "V.1" | "mlp.0.w1" | "mlp.1.w1" => 1.0 / d.sqrt(),
                "A.0" | "A.1" => init,
                _ => 0.0,
            };
            for i in block.range() {
                assert_eq!(params[i], sd * Signs.normal(i as u64), "{name}");
            }
        }
    }
    // There, as W = 0, the prediction is uniform and only W has a gradient.
    let model = new(0.0);
    let params = model.initial(&Signs);
    for kind in KINDS {
        let grad = gradient(&model, &params, &random_batch(kind, 3, 6, t, s));
        for block in Model::layout(&model).blocks() {
            let zero = grad[block.range()].iter().all(|g| *g == 0.0);
            assert_eq!(zero, block.name() != "W", "{}", block.name());
        }
    }
}

#[test]
fn a_small_batch_in_a_large_workspace_and_again() {
    for kind in KINDS {
        let (model, params, batch) = setup(kind, &[2, 1], [4, 6], 5);
        let grad = gradient(&model, &params, &batch);
        let mut ws = model.workspace(kind, 40).unwrap();
        // What an earlier, larger batch left must not matter.
        let large = random_batch(kind, 9, 40, 6, 4);
        let mut again = vec![f64::NAN; params.len()];
        for batch in [&large, &batch] {
            model.loss_and_grad(&params, batch, model.trainable(), &mut ws, &mut again).unwrap();
        }
        assert_eq!(grad, again);
    }
}

#[test]
fn weights_are_linear() {
    for kind in KINDS {
        let (model, params, batch) = setup(kind, &[2, 1], [3, 5], 3);
        let whole = gradient(&model, &params, &batch);
        let mut sum = vec![0.0; whole.len()];
        for keep in 0..batch.weights().len() {
            let mut only = batch.clone();
            let weights = only.parts_mut().weights;
            weights.iter_mut().enumerate().for_each(|(i, w)| *w = if i == keep { *w } else { 0.0 });
            gradient(&model, &params, &only).iter().zip(&mut sum).for_each(|(g, s)| *s += g);
        }
        let scale = whole.iter().fold(1.0f64, |m, g| m.max(g.abs()));
        assert!(whole.iter().zip(&sum).all(|(w, s)| (w - s).abs() < 1e-13 * scale));
    }
}

#[test]
fn f32_follows_f64() {
    for (kind, heads) in KINDS.into_iter().flat_map(|k| HEADS.map(|h| (k, h))) {
        let (model, params, batch) = setup(kind, heads, [3, 5], 23);
        let single = MlpTransformer::<f32>::new(3, 5, &MlpTransformerSpec::new(heads)).unwrap();
        let params32: Vec<f32> = params.iter().map(|p| *p as f32).collect();
        let params: Vec<f64> = params32.iter().map(|p| f64::from(*p)).collect();
        let (wide, narrow) = (gradient(&model, &params, &batch), gradient(&single, &params32, &batch));
        let scale = wide.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        for (a, b) in wide.iter().zip(&narrow) {
            // A few hundred roundings of u = 6e-8 each stand between the parameters and a gradient
            // entry.
            assert!((a - f64::from(*b)).abs() < 500.0 * 6e-8 * scale, "{heads:?}: {a} {b}");
        }
    }
}

#[test]
fn misfits_are_typed_errors() {
    let (model, params, batch) = setup(Targets::Law, &[1, 1], [3, 5], 1);
    let mut ws = model.workspace(Targets::Law, 5).unwrap();
    let mut bad = batch.clone();
    bad.parts_mut().tokens[7] = 3;
    let mut grad = vec![0.0; params.len()];
    let on = model.trainable();
    let message = model.loss_and_grad(&params, &bad, on, &mut ws, &mut grad).unwrap_err().to_string();
    assert!(message.contains("tokens: 3 in sequence 1"), "{message}");
    assert!(model.loss_and_grad(&params[1..], &batch, on, &mut ws, &mut grad).is_err());
    for (s, t, heads) in
        [(1, 5, &[1][..]), (3, 1, &[1]), (3, 5, &[]), (3, 5, &[0]), (3, 5, &[65]), (65536, 65536, &[64])]
    {
        let spec = MlpTransformerSpec::new(heads);
        assert!(MlpTransformer::<f32>::new(s, t, &spec).is_err(), "{s} {t} {heads:?}");
    }
}

/// The tests above on one instruction set.
fn on(isa: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command
        .env("POPGRAD_ISA", isa)
        .args(["mlp_transformer::", "--skip", "every_instruction_set"])
        .output()
        .unwrap();
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
