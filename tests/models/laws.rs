//! `memory` and `transformer` on laws of the next symbol: gradients against central differences,
//! one-hot laws against labels, reports, attention patterns; the words of their specs.

use crate::support::Draws;
use popgrad::batch::{Batch, Targets};
use popgrad::model::{
    BlockKind, FeedForward, Memory, MemorySpec, Model, Output, Positions, Report, Spec, Transformer,
    TransformerSpec,
};
use popgrad::probe::attention::{first_layer_patterns, layer_patterns};
use popgrad::rng::{Key, Purpose};

const S: usize = 5;
const T: usize = 6;
const SEQS: usize = 4;

fn memory(spec: MemorySpec) -> Box<dyn Model<f64>> {
    Box::new(Memory::new(S, T, &MemorySpec { dim: 4, ..spec }).unwrap())
}

fn transformer(spec: TransformerSpec) -> Box<dyn Model<f64>> {
    let heads = if spec.heads == [4] { vec![2] } else { spec.heads };
    Box::new(Transformer::new(S, T, &TransformerSpec { dim: 4, heads, ..spec }).unwrap())
}

/// Every option of both models at least once.
fn models() -> Vec<Box<dyn Model<f64>>> {
    use FeedForward::{Linear, None, Relu};
    let (m, t) = (MemorySpec::default, TransformerSpec::default);
    vec![
        memory(MemorySpec { ff2: Linear, ..m() }),
        memory(MemorySpec { ff1: Relu, ff2: Relu, positions: Positions::SinCos, ..m() }),
        memory(MemorySpec { ff1: Linear, positions: Positions::Rotary, output: Output::Tied, ..m() }),
        memory(MemorySpec { output: Output::TiedFrozen, scale_scores: false, scale_embeddings: true, ..m() }),
        transformer(t()),
        transformer(TransformerSpec { block: BlockKind::Standard, output: Output::Tied, ..t() }),
        transformer(TransformerSpec { block: BlockKind::PostNorm, layers: 3, ff: Linear, ..t() }),
        transformer(TransformerSpec { layers: 1, heads: vec![1], ff: None, norm: false, ..t() }),
        transformer(TransformerSpec { positions: Positions::SinCos, output: Output::Frozen, ..t() }),
    ]
}

/// Laws without zeros; weights of a population, one of them 0.
fn laws(seed: u64) -> Batch {
    let key = Key::new(seed, Purpose::Test);
    let mut batch = Batch::with_capacity(Targets::Law, SEQS, T, S).unwrap();
    batch.set_seqs(SEQS);
    let parts = batch.parts_mut();
    for (i, z) in parts.tokens.iter_mut().enumerate() {
        *z = key.below(S as u64, i as u64, 0, 0) as u32;
    }
    for (i, law) in parts.laws.chunks_exact_mut(S).enumerate() {
        (0..S).for_each(|k| law[k] = 0.05 + key.uniforms((i * S + k) as u64, 1, 0)[0]);
        let total: f64 = law.iter().sum();
        law.iter_mut().for_each(|y| *y /= total);
    }
    parts.weights.copy_from_slice(&[0.5, 0.0, 0.125, 0.375]);
    batch
}

fn params(model: &dyn Model<f64>) -> Vec<f64> {
    let mut params = model.initial(&Draws(Key::new(3, Purpose::Init)));
    // Maps larger than they start, so that attention is far from uniform.
    for block in model.layout().blocks().iter().filter(|b| b.name().contains("attention.w")) {
        params[block.range()].iter_mut().for_each(|x| *x *= 1.5);
    }
    params
}

/// Of every block whether it has a gradient at all.
fn all(model: &dyn Model<f64>) -> Vec<bool> {
    let trainable = model.layout().blocks().iter().zip(model.trainable());
    trainable.map(|(b, can)| *can || b.name() == "output.weight").collect()
}

fn gradient(model: &dyn Model<f64>, params: &[f64], batch: &Batch, active: &[bool]) -> (f64, Vec<f64>) {
    let mut ws = model.workspace(batch.kind(), batch.seqs()).unwrap();
    let mut grad = vec![f64::NAN; params.len()];
    let loss = model.loss_and_grad(params, batch, active, &mut ws, &mut grad).unwrap();
    (loss.value(), grad)
}

/// Fourth order, with two steps: where they disagree a rectifier switches in between.
#[test]
fn gradients_on_laws_are_central_differences() {
    let (mut kinks, mut smooth) = (0, 0);
    for (i, model) in models().iter().enumerate() {
        let model = model.as_ref();
        let (params, batch, active) = (params(model), laws(i as u64), all(model));
        let none = vec![false; active.len()];
        let (loss, grad) = gradient(model, &params, &batch, &active);
        assert_eq!(gradient(model, &params, &batch, &none).0, loss);
        let at = |entry: usize, by: f64| {
            let mut moved = params.clone();
            moved[entry] += by;
            gradient(model, &moved, &batch, &none).0
        };
        for (block, _) in model.layout().blocks().iter().zip(&active).filter(|(_, on)| **on) {
            let mut size = 0.0f64;
            for entry in block.range().step_by(if block.len() > 40 { 3 } else { 1 }) {
                let mut estimates = [0.0; 2];
                for (slope, h) in estimates.iter_mut().zip([1e-4, 5e-5]) {
                    let near = at(entry, h) - at(entry, -h);
                    let far = at(entry, 2.0 * h) - at(entry, -2.0 * h);
                    *slope = (8.0 * near - far) / (12.0 * h);
                }
                // Rounding is ε / h, some 1e-11.
                let [wide, slope] = estimates;
                if (wide - slope).abs() > 1e-8 {
                    kinks += 1;
                    continue;
                }
                smooth += 1;
                let off = (slope - grad[entry]).abs();
                assert!(off < 1e-6, "model {i}, {}: {slope} for {}", block.name(), grad[entry]);
                size = size.max(grad[entry].abs());
            }
            assert!(size > 1e-5, "model {i}, {}: {size} would pass any test", block.name());
        }
    }
    assert!(kinks * 50 < smooth, "{kinks} kinks, {smooth} without");
}

/// A law that is one symbol is a label at the last position.
#[test]
fn one_hot_laws_are_labels_at_the_last_position() {
    for (i, model) in models().iter().enumerate() {
        let model = model.as_ref();
        let (params, mut law, active) = (params(model), laws(i as u64), all(model));
        let mut labels = Batch::with_capacity(Targets::Labels, SEQS, T, S).unwrap();
        labels.set_seqs(SEQS);
        let (to, from) = (labels.parts_mut(), law.parts_mut());
        to.tokens.copy_from_slice(from.tokens);
        to.weights.fill(0.0);
        from.laws.fill(0.0);
        for b in 0..SEQS {
            let symbol = (3 * b + 1) % S;
            from.laws[b * S + symbol] = 1.0;
            to.labels[(b + 1) * T - 1] = symbol as u32;
            to.weights[(b + 1) * T - 1] = from.weights[b];
        }
        let [one, other] = [&law, &labels].map(|batch| gradient(model, &params, batch, &active));
        assert_eq!(one.0, other.0, "model {i}");
        assert!(one.1.iter().zip(&other.1).all(|(a, b)| a.to_bits() == b.to_bits()), "model {i}");

        let [mut own, mut every] =
            [Targets::Law, Targets::Labels].map(|targets| Report::new(model, targets, SEQS, true, true));
        let mut ws = model.workspace(Targets::Law, SEQS).unwrap();
        model.report(&params, &law, &mut ws, &mut own).unwrap();
        model.report(&params, &labels, &mut ws, &mut every).unwrap();
        let mut bare = Report::new(model, Targets::Law, SEQS, false, true);
        model.report(&params, &law, &mut ws, &mut bare).unwrap();
        assert_eq!(own.attended, every.attended, "model {i}");
        assert!(own.attended.len() == model.heads().iter().sum::<usize>() * SEQS * T);
        assert_eq!((own.losses.len(), own.probs.len(), bare.attended.len()), (SEQS, SEQS * S, 0));
        let mut sum = 0.0;
        for b in 0..SEQS {
            let last = (b + 1) * T - 1;
            let close = |x: f64, y: f64| assert!((x - y).abs() < 1e-13 * y.abs().max(1.0), "{i}: {x}, {y}");
            for report in [&own, &bare] {
                close(report.losses[b], every.losses[last]);
                assert_eq!(report.predicted[b], every.predicted[last]);
                (0..S).for_each(|k| close(report.probs[b * S + k], every.probs[last * S + k]));
            }
            sum += law.weights()[b] * own.losses[b];
        }
        assert!((sum - one.0).abs() < 1e-13 * one.0);
    }
}

#[test]
fn patterns_are_mean_attention() {
    for (i, model) in models().iter().enumerate() {
        let model = model.as_ref();
        let (params, batch) = (params(model), laws(i as u64));
        let mut ws = model.workspace(Targets::Law, 1).unwrap();
        let maps: usize = model.heads().iter().sum();
        let mut each = vec![0.0; maps * T * T];
        let mut mean = vec![0.0; maps * T * T];
        for b in 0..SEQS {
            model.attention(&params, batch.sequence(b), &mut ws, &mut each).unwrap();
            mean.iter_mut().zip(&each).for_each(|(m, a)| *m += batch.weights()[b] * a);
        }
        let mut mean = mean.chunks_exact(T * T);
        for layer in 0..model.heads().len() {
            let found = layer_patterns(model, &params, &batch, layer).unwrap();
            assert_eq!(found.len(), model.heads()[layer]);
            if layer == 0 {
                let first = first_layer_patterns(model, &params, &batch).unwrap();
                let same = first.iter().flatten().zip(found.iter().flatten());
                assert!(same.into_iter().all(|(a, b)| a.to_bits() == b.to_bits()));
            }
            for pattern in found {
                let expected = mean.next().unwrap();
                for (q, row) in pattern.chunks_exact(T).enumerate() {
                    assert!((row[..=q].iter().sum::<f64>() - 1.0).abs() < 1e-14);
                    assert!(row[q + 1..].iter().all(|a| a.is_nan()));
                    let own = &expected[q * T..q * T + q + 1];
                    assert!(row.iter().zip(own).all(|(a, b)| (a - b).abs() < 1e-15));
                }
            }
        }
        let e = layer_patterns(model, &params, &batch, model.heads().len()).unwrap_err().to_string();
        assert!(e.starts_with("layer: "), "{e}");
        let mut nothing = batch.clone();
        nothing.parts_mut().weights.fill(0.0);
        let e = first_layer_patterns(model, &params, &nothing).unwrap_err().to_string();
        assert!(e.starts_with("sequences: none"), "{e}");
    }
}

#[test]
fn specs_have_words_and_defaults() {
    let read = |text: &str| serde_json::from_str::<Spec>(text).unwrap();
    assert_eq!(read(r#"{"model": "memory"}"#), Spec::Memory(MemorySpec::default()));
    assert_eq!(read(r#"{"model": "transformer"}"#), Spec::Transformer(TransformerSpec::default()));
    let words = r#"{"model": "memory", "dim": 8, "ff1": "relu", "ff2": "linear", "positions": "sincos",
        "output": "tied_frozen", "scale_scores": false, "scale_embeddings": true}"#;
    let expected = MemorySpec {
        dim: 8,
        ff1: FeedForward::Relu,
        ff2: FeedForward::Linear,
        positions: Positions::SinCos,
        output: Output::TiedFrozen,
        scale_scores: false,
        scale_embeddings: true,
    };
    assert_eq!(read(words), Spec::Memory(expected));
    for (word, block) in
        [("public", BlockKind::Public), ("standard", BlockKind::Standard), ("postnorm", BlockKind::PostNorm)]
    {
        let text =
            format!(r#"{{"model": "transformer", "heads": [1, 1], "block": "{word}", "norm": false}}"#);
        let spec = TransformerSpec { heads: vec![1, 1], block, norm: false, ..TransformerSpec::default() };
        assert_eq!(read(&text), Spec::Transformer(spec.clone()));
        let back = serde_json::to_string(&Spec::Transformer(spec.clone())).unwrap();
        assert_eq!(read(&back), Spec::Transformer(spec));
    }
    let model = read(r#"{"model": "transformer", "dim": 8}"#).build::<f32>(S, T).unwrap();
    assert_eq!((model.name(), model.heads(), model.vocab()), ("transformer", &[4, 4][..], S));
}
