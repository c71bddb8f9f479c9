//! Associative memories set explicitly: probes recall them, and the model is an induction head
//! without training.

use crate::support::Draws;
use popgrad::batch::{Batch, Targets};
use popgrad::model::{FeedForward, Layout, Memories, Memory, MemorySpec, Model, Positions, Report};
use popgrad::probe::memory::{Asked, Recall, memories};
use popgrad::rng::{Key, Purpose};
use popgrad::source::{LossOn, Source, TriggerSource};
use popgrad::task::Corpus;
use popgrad::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, TriggerBigram, Triggers};
use std::sync::Arc;

fn spec(dim: usize) -> MemorySpec {
    MemorySpec { dim, ff2: FeedForward::Linear, ..MemorySpec::default() }
}

fn text() -> Bigrams {
    let corpus = Corpus::shipped();
    Bigrams::new(corpus.unigram_law(), corpus.bigram_law()).unwrap()
}

const OUTPUTS: OutputLaw = OutputLaw { law: Outputs::Uniform, no_repeat: false, allowed: Vec::new() };

/// Share of right predictions where a trigger came at least twice, and its loss: of all such
/// places, and of those whose trigger is not the first token. That one attends to itself for want
/// of a predecessor and looks like its own successor.
fn head(model: &Memory<f32>, params: &[f32], task: TriggerBigram, seqs: usize) -> [[f64; 2]; 2] {
    let (t, n) = (task.seq_len(), task.vocab());
    let source = TriggerSource::new(Arc::new(task), Key::new(4, Purpose::Test), LossOn::Head);
    let mut batch = Batch::with_capacity(Targets::Labels, seqs, t, n).unwrap().with_seen();
    source.fill(0, seqs, &mut source.work(), &mut batch);
    let mut report = Report::new(model as &dyn Model<f32>, Targets::Labels, seqs, false, false);
    let mut ws = model.workspace(Targets::Labels, seqs).unwrap();
    model.report(params, &batch, &mut ws, &mut report).unwrap();
    [true, false].map(|all| {
        let counts = |i: &usize| {
            batch.weights()[*i] > 0.0 && (all || batch.tokens()[*i] != batch.tokens()[*i / t * t])
        };
        let places: Vec<usize> = (0..seqs * t).filter(counts).collect();
        let right = places.iter().filter(|i| report.predicted[**i] == batch.labels()[**i]).count();
        let loss: f64 = places.iter().map(|i| report.losses[*i]).sum();
        [right as f64, loss].map(|x| x / places.len() as f64)
    })
}

fn wide(params: &[f32]) -> Vec<f64> {
    params.iter().map(|x| f64::from(*x)).collect()
}

#[test]
fn written_memories_are_recalled_and_predict() {
    let (laws, t, d) = (text(), 64, 384);
    let n = laws.vocab();
    for positions in [Positions::Random, Positions::SinCos] {
        for fixed in [true, false] {
            let model = Memory::<f32>::new(n, t, &MemorySpec { positions, ..spec(d) }).unwrap();
            let mut params = model.initial(&Draws(Key::new(2, Purpose::Init)));
            let triggers =
                if fixed { Triggers::Fixed { count: 5, offset: 0 } } else { Triggers::Random { count: 5 } };
            let task = TriggerBigram::new(laws.clone(), t, triggers, OUTPUTS).unwrap();
            let all: Vec<u32> = (0..n as u32).collect();
            let asked = Asked { triggers: task.fixed_triggers(), bigram: laws.bigram(), readout: 1.0 };
            let layout = Model::<f32>::layout(&model);
            let before = memories(layout, &wide(&params), &asked).unwrap();
            // A fresh model recalls by chance; 5 symbols at most.
            assert!(before.wk0 < 0.2 && before.wo1 < 0.2 && before.ff1 > 0.5, "{before:?}");
            let list = asked.triggers.unwrap_or(&all);
            let gaps = [60.0, 30.0, 25.0, 1.0];
            let what = Memories { triggers: list, bigram: laws.bigram(), floor: 1e-3, gaps };
            model.write_memories(&mut params, &what).unwrap();
            let after = memories(layout, &wide(&params), &asked).unwrap();
            let [all, most] = head(&model, &params, task, 64);
            eprintln!("{positions:?}, fixed {fixed}: {after:?}, {all:?}, {most:?}");
            if positions == Positions::Random {
                assert_eq!([after.wk0, after.wk0_64, after.wk1, after.wo1], [1.0; 4]);
                assert!(all[0] > 0.9 && most[0] > 0.96, "{all:?} {most:?}");
            } else {
                // Sines of neighbours are nearly the same: a sum of outer products cannot tell them
                // apart.
                assert!(after.wk0 < 0.3 && [after.wk1, after.wo1] == [1.0; 2]);
            }
        }
    }
}

/// A layout of one-hot embeddings: what is recalled can be read off the matrices.
struct Hand {
    layout: Layout,
    params: Vec<f64>,
}

impl Hand {
    fn new(d: usize, blocks: &[(&str, usize)]) -> Self {
        let mut layout = Layout::new();
        for (name, rows) in blocks {
            layout.push(*name, &[*rows, d]).unwrap();
        }
        let params = vec![0.0; layout.len()];
        Hand { layout, params }
    }
    /// Ones at the given places.
    fn ones(&mut self, name: &str, places: &[(usize, usize)]) {
        let block = self.layout.find(name).unwrap();
        let (start, d) = (block.range().start, block.shape()[1]);
        places.iter().for_each(|(i, j)| self.params[start + i * d + j] = 1.0);
    }
    fn ask(&self, asked: &Asked<'_>) -> Recall {
        memories(&self.layout, &self.params, asked).unwrap()
    }
}

#[test]
fn recall_counts_what_the_matrices_say() {
    let (n, t, d) = (4, 70, 74);
    let square = |name: &str| format!("layers.{name}.weight");
    let names: Vec<String> =
        ["0.attention.wk", "0.attention.wv", "0.attention.wo", "1.attention.wk", "1.attention.wv"]
            .into_iter()
            .chain(["1.attention.wo", "1.ff"])
            .map(square)
            .collect();
    let mut blocks = vec![("tok_embeddings.weight", n), ("pe", t)];
    blocks.extend(names.iter().map(|n| (n.as_str(), d)));
    blocks.push(("output.weight", n));
    let mut hand = Hand::new(d, &blocks);
    let identity: Vec<_> = (0..d).map(|i| (i, i)).collect();
    for name in ["tok_embeddings.weight", "output.weight"] {
        hand.ones(name, &identity[..n]);
    }
    hand.ones("pe", &(0..t).map(|i| (i, n + i)).collect::<Vec<_>>());
    for name in &names[1..3] {
        hand.ones(name, &identity);
    }
    hand.ones(&names[4], &identity);
    // Position t recalls t − 1 up to 41, then the one after it; position 70 nothing: the first of
    // equals is position 1.
    let wk: Vec<_> = (1..69).map(|t| (n + t, n + if t <= 40 { t - 1 } else { t + 1 })).collect();
    hand.ones(&names[0], &wk);
    // Symbols 0 and 1 recall themselves in layer 2, 2 recalls 3, 3 nothing, which is 0. Layer 2
    // copies 0, 2, 3 right, 1 to 2.
    hand.ones(&names[3], &[(0, 0), (1, 1), (2, 3)]);
    hand.ones(&names[5], &[(0, 0), (2, 1), (2, 2), (3, 3)]);
    let law = [0.25; 16];
    let asked = Asked { triggers: None, bigram: &law, readout: 1.0 };
    let got = hand.ask(&asked);
    assert_eq!(got.wk0, 40.0 / 69.0);
    assert_eq!(got.wk0_64, 40.0 / 63.0);
    assert_eq!(got.wk1, 0.5);
    assert_eq!(got.wo1, 0.75);
    // A feed-forward of 0 predicts uniformly.
    assert!(got.ff1.abs() < 1e-15);
    let fixed = |list: &[u32]| hand.ask(&Asked { triggers: Some(list), ..asked });
    // Among 1 and 2, 2 recalls neither: the first, 1. Among 0 and 1 all is right; 3 alone cannot be
    // wrong.
    assert_eq!(
        [fixed(&[1, 2]).wk1, fixed(&[0, 1]).wk1, fixed(&[2, 3]).wk1, fixed(&[3]).wk1],
        [0.5, 1.0, 0.0, 1.0]
    );
    // ln 2 apart from the uniform law, at symbol 2 alone; twice that readout is ln 4.
    let mut law = [0.25; 16];
    law[8..12].copy_from_slice(&[0.4, 0.2, 0.2, 0.2]);
    let start = hand.layout.find(&names[6]).unwrap().range().start;
    hand.params[start + 2] = 2f64.ln();
    let asked = Asked { bigram: &law, ..asked };
    assert!(hand.ask(&asked).ff1.abs() < 1e-15);
    let double = hand.ask(&Asked { readout: 2.0, ..asked });
    let kl = 0.4 * (0.4 / (4.0 / 7.0f64)).ln() + 0.6 * (0.2 / (1.0 / 7.0f64)).ln();
    assert!((double.ff1 - kl / 4.0).abs() < 1e-15);
    // Symbols that are triggers are left out.
    let part = hand.ask(&Asked { readout: 2.0, triggers: Some(&[0]), ..asked });
    assert!((part.ff1 - kl / 3.0).abs() < 1e-15);
}

#[test]
fn queries_of_the_full_model_count_and_what_is_not_there_is_minus_one() {
    let d = 6;
    let blocks = [
        ("tok_embeddings.weight", 2),
        ("pos_embeddings.weight", 4),
        ("layers.0.attention.wq.weight", d),
        ("layers.0.attention.wk.weight", d),
        ("layers.0.attention.wv.weight", d),
        ("layers.0.attention.wo.weight", d),
    ];
    let mut hand = Hand::new(d, &blocks);
    hand.ones("tok_embeddings.weight", &[(0, 0), (1, 1)]);
    hand.ones("pos_embeddings.weight", &[(0, 2), (1, 3), (2, 4), (3, 5)]);
    // Keys are what they are; queries name the position before, but that of position 3.
    hand.ones("layers.0.attention.wk.weight", &[(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]);
    hand.ones("layers.0.attention.wq.weight", &[(2, 3), (3, 4)]);
    let asked = Asked { triggers: None, bigram: &[0.5; 4], readout: 1.0 };
    let got = hand.ask(&asked);
    assert_eq!(got, Recall { wk0: 2.0 / 3.0, wk0_64: 2.0 / 3.0, wk1: -1.0, wo1: -1.0, ff1: -1.0 });
    let model = Memory::<f64>::new(2, 4, &MemorySpec { positions: Positions::Rotary, ..spec(6) }).unwrap();
    let params = model.initial(&Draws(Key::new(1, Purpose::Init)));
    let got = memories(Model::<f64>::layout(&model), &params, &asked).unwrap();
    assert_eq!([got.wk0, got.wk0_64], [-1.0; 2]);
    assert!(got.wk1 >= 0.0 && got.wo1 >= 0.0 && got.ff1 > 0.0);
}

#[test]
fn what_does_not_fit_is_said() {
    let model = Memory::<f64>::new(3, 4, &spec(6)).unwrap();
    let mut params = model.initial(&Draws(Key::new(1, Purpose::Init)));
    let layout = Model::<f64>::layout(&model);
    let asked = Asked { triggers: Some(&[1]), bigram: &[1.0 / 3.0; 9], readout: 1.0 };
    let refused = |params: &[f64], asked: Asked<'_>, what: &str| {
        let e = memories(layout, params, &asked).unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
    };
    refused(&params[1..], asked, "params length");
    refused(&params, Asked { triggers: Some(&[3]), ..asked }, "triggers: 3");
    refused(&params, Asked { bigram: &[0.5; 4], ..asked }, "bigram");
    let e = memories(&Layout::new(), &[], &asked).unwrap_err().to_string();
    assert!(e.contains("tok_embeddings.weight"), "{e}");
    let what = Memories { triggers: &[0], bigram: &[1.0 / 3.0; 9], floor: 0.01, gaps: [1.0; 4] };
    let before = params.clone();
    let mut refused = |what: Memories<'_>, field: &str| {
        let e = model.write_memories(&mut params, &what).unwrap_err().to_string();
        assert!(e.contains(field), "{e}");
        assert_eq!(params, before);
    };
    refused(Memories { triggers: &[3], ..what }, "triggers: 3");
    refused(Memories { bigram: &[], ..what }, "bigram");
    refused(Memories { floor: 0.0, ..what }, "floor: 0");
    refused(Memories { gaps: [1.0, 1.0, 0.0, 1.0], ..what }, "gaps: 0");
    refused(Memories { gaps: [1.0, f64::NAN, 1.0, 1.0], ..what }, "gaps: NaN");
    // No direction to write in.
    for (zero, said) in [
        ("tok_embeddings.weight", "tok_embeddings.weight: mean square 0"),
        ("pe", "pe: mean square 0"),
        ("output.weight", "output.weight: mean square 0"),
        ("layers.0.attention.wv.weight", "layer 1: mean square 0"),
        ("layers.0.attention.wo.weight", "layer 1: mean square 0"),
        ("layers.1.attention.wv.weight", "layer 2: mean square 0"),
    ] {
        let mut params = before.clone();
        params[layout.find(zero).unwrap().range()].fill(0.0);
        let kept = params.clone();
        let e = model.write_memories(&mut params, &what).unwrap_err().to_string();
        assert!(e.contains(said), "{zero}: {e}");
        assert_eq!(params, kept, "{zero}");
    }
    let turned = Memory::<f64>::new(3, 4, &MemorySpec { positions: Positions::Rotary, ..spec(6) }).unwrap();
    let mut params = turned.initial(&Draws(Key::new(1, Purpose::Init)));
    assert!(turned.write_memories(&mut params, &what).unwrap_err().to_string().contains("rotary"));
}
