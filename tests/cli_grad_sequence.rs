//! `popgrad grad` for models with a label at every position: the library's own numbers from either file format, for any thread count;
//! differences of the loss it prints; what it refuses.

use popgrad::batch::LabelledBatch;
use popgrad::model::{
    BlockKind, FeedForward, Memory, MemorySpec, Output, Positions, Report, SequenceModel, Transformer,
    TransformerSpec,
};
use popgrad::report::arrays::{Array, read_arrays, write_arrays};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const N: usize = 5;
const T: usize = 7;
const D: usize = 4;
/// More sequences than one piece of the command holds.
const B: usize = 40;

fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The arrays of one call.
#[derive(Clone)]
struct Case {
    params: BTreeMap<String, Array>,
    batch: BTreeMap<String, Array>,
}

impl Case {
    fn new(model: &dyn SequenceModel<f64>) -> Self {
        let mut draw = noise(5);
        let mut numbers = |shape: &[usize]| -> Array {
            let n = shape.iter().product();
            Array::new(shape, (0..n).map(|_| 1.6 * draw() - 0.8).collect::<Vec<f64>>()).unwrap()
        };
        let blocks = model.layout().blocks();
        let params = blocks.iter().map(|b| (b.name().to_string(), numbers(b.shape()))).collect();
        let mut symbols = || -> Array {
            let all: Vec<i64> = (0..B * T).map(|_| (draw() * N as f64) as i64).collect();
            Array::new(&[B, T], all).unwrap()
        };
        let mut batch: BTreeMap<String, Array> =
            [("tokens", symbols()), ("labels", symbols())].map(|(n, a)| (n.to_string(), a)).into();
        let weights: Vec<f64> = (0..B * T).map(|_| (2.0 * draw() - 1.0).max(0.0)).collect();
        batch.insert("mask".into(), Array::new(&[B, T], weights).unwrap());
        Case { params, batch }
    }

    fn write(&self, params: &Path, batch: &Path) {
        for (path, arrays) in [(params, &self.params), (batch, &self.batch)] {
            let all: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (n.as_str(), a)).collect();
            write_arrays(path, &all, None).unwrap();
        }
    }

    /// What the library says, in one piece: loss, losses, predictions, gradient.
    fn direct(&self, model: &dyn SequenceModel<f64>, active: &[bool]) -> [Vec<f64>; 4] {
        let mut flat = vec![0.0; model.layout().len()];
        for block in model.layout().blocks() {
            flat[block.range()].copy_from_slice(&self.params[block.name()].to_f64_vec());
        }
        let mut batch = LabelledBatch::with_capacity(B, T, N).unwrap();
        batch.set_seqs(B);
        let parts = batch.parts_mut();
        for (name, to) in [("tokens", parts.tokens), ("labels", parts.labels)] {
            to.iter_mut().zip(self.batch[name].to_f64_vec()).for_each(|(t, x)| *t = x as u32);
        }
        match self.batch.get("mask") {
            Some(mask) => parts.weights.copy_from_slice(&mask.to_f64_vec()),
            None => parts.weights.fill(1.0),
        }
        let mut ws = model.workspace(B).unwrap();
        let mut grad = vec![0.0; flat.len()];
        let loss = model.loss_and_grad(&flat, &batch, active, &mut ws, &mut grad).unwrap().value();
        let mut report = Report::new(model, B, false, true);
        model.report(&flat, &batch, &mut ws, &mut report).unwrap();
        let weight = batch.total_weight();
        grad.iter_mut().for_each(|g| *g /= weight);
        [vec![loss / weight], report.losses, report.probs, grad]
    }
}

fn command(keys: &[&str], params: &Path, batch: &Path, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_popgrad"));
    command.args(["grad", "--model"]).args(keys);
    command.arg("--params").arg(params).arg("--batch").arg(batch).arg("--out").arg(out);
    command
}

fn grad(keys: &[&str], params: &Path, batch: &Path, out: &Path) -> BTreeMap<String, Array> {
    let run = command(keys, params, batch, out).output().unwrap();
    assert!(run.status.success(), "{keys:?}: {}", String::from_utf8_lossy(&run.stderr));
    read_arrays(out).unwrap()
}

#[track_caller]
fn close(got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    let scale = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    for (g, e) in got.iter().zip(expected) {
        assert!((g - e).abs() <= tolerance * scale, "{g} for {e}");
    }
}

fn memory() -> MemorySpec {
    MemorySpec {
        vocab: N,
        seq_len: T,
        dim: D,
        ff: [FeedForward::None; 2],
        positions: Positions::Random,
        output: Output::Free,
        scale_scores: true,
        scale_embeddings: false,
        frozen: Vec::new(),
    }
}

fn transformer() -> TransformerSpec {
    TransformerSpec {
        vocab: N,
        seq_len: T,
        dim: D,
        layers: 2,
        heads: 4,
        block: BlockKind::Public,
        norm: true,
        ff: FeedForward::Relu,
        positions: Positions::Learned,
        output: Output::Free,
        frozen: Vec::new(),
    }
}

type AnyModel = Box<dyn SequenceModel<f64>>;

/// Command lines, and the models that they stand for.
fn models() -> Vec<(Vec<&'static str>, AnyModel)> {
    let m = |spec: MemorySpec| -> AnyModel { Box::new(Memory::new(&spec).unwrap()) };
    let t = |spec: TransformerSpec| -> AnyModel { Box::new(Transformer::new(&spec).unwrap()) };
    vec![
        (vec!["memory"], m(memory())),
        (
            vec!["memory", "ff1=linear", "ff2=relu", "positions=rotary", "output=tied", "scale_scores=false"],
            m(MemorySpec {
                ff: [FeedForward::Linear, FeedForward::Relu],
                positions: Positions::Rotary,
                output: Output::Tied,
                scale_scores: false,
                ..memory()
            }),
        ),
        (
            vec!["memory", "positions=sincos", "output=tied_frozen", "dim=4"],
            m(MemorySpec { positions: Positions::SinCos, output: Output::TiedFrozen, ..memory() }),
        ),
        (vec!["transformer"], t(transformer())),
        (
            vec!["transformer", "layers=1", "heads=2", "block=standard", "ff=linear", "output=tied"],
            t(TransformerSpec {
                layers: 1,
                heads: 2,
                block: BlockKind::Standard,
                ff: FeedForward::Linear,
                output: Output::Tied,
                ..transformer()
            }),
        ),
        (
            vec!["transformer", "layers=3", "heads=1", "block=postnorm", "positions=sincos", "output=frozen"],
            t(TransformerSpec {
                layers: 3,
                heads: 1,
                block: BlockKind::PostNorm,
                positions: Positions::SinCos,
                output: Output::Frozen,
                ..transformer()
            }),
        ),
        (
            vec!["transformer", "norm=false", "ff=none"],
            t(TransformerSpec { norm: false, ff: FeedForward::None, ..transformer() }),
        ),
        (
            vec!["transformer", "heads=1", "block=postnorm", "ff=linear"],
            t(TransformerSpec {
                heads: 1,
                block: BlockKind::PostNorm,
                ff: FeedForward::Linear,
                ..transformer()
            }),
        ),
    ]
}

#[test]
fn the_command_gives_the_librarys_numbers() {
    let dir = tempfile::tempdir().unwrap();
    for (i, (keys, model)) in models().into_iter().enumerate() {
        let mut case = Case::new(model.as_ref());
        let blocks = model.layout().blocks();
        // All but buffers: a frozen output has its gradient too.
        let active: Vec<bool> =
            blocks.iter().zip(model.trainable()).map(|(b, on)| *on || b.name() == "output.weight").collect();
        for (format, mask) in [("npz", true), ("safetensors", false)] {
            if !mask {
                case.batch.remove("mask");
            }
            let at = |name: &str| dir.path().join(format!("{name}{i}.{format}"));
            case.write(&at("p"), &at("b"));
            let [loss, losses, predictions, gradient] = case.direct(model.as_ref(), &active);
            let out = grad(&keys, &at("p"), &at("b"), &at("o"));
            assert_eq!(out["loss"].shape(), [0usize; 0]);
            close(&out["loss"].to_f64_vec(), &loss, 1e-14);
            assert_eq!((out["losses"].shape(), out["predictions"].shape()), (&[B, T][..], &[B, T, N][..]));
            close(&out["losses"].to_f64_vec(), &losses, 1e-14);
            close(&out["predictions"].to_f64_vec(), &predictions, 1e-14);
            for (block, on) in blocks.iter().zip(&active) {
                assert_eq!(out.contains_key(block.name()), *on, "{keys:?}: {}", block.name());
                if *on {
                    assert_eq!(out[block.name()].shape(), block.shape());
                    close(&out[block.name()].to_f64_vec(), &gradient[block.range()], 1e-12);
                }
            }
            assert_eq!(out.len(), 3 + active.iter().filter(|on| **on).count());
            let mut more = keys.clone();
            more.extend(["--threads", "5"]);
            let five = grad(&more, &at("p"), &at("b"), &at("five"));
            assert!(out.iter().all(|(name, a)| a.same_bits(&five[name])), "threads changed a bit");
        }
    }
}

/// The loss that the command writes, differenced in the entry of every block whose gradient is largest. No rectifiers: one of 280
/// positions would switch.
#[test]
fn gradients_are_differences_of_the_loss_written() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(format!("{name}.npz"));
    for (keys, model) in [0, 4, 7].map(|i| models().swap_remove(i)) {
        let case = Case::new(model.as_ref());
        case.write(&at("p"), &at("b"));
        let out = grad(&keys, &at("p"), &at("b"), &at("o"));
        let total = out["loss"].to_f64_vec()[0];
        let mut blocks = 0;
        for block in model.layout().blocks().iter().filter(|b| out.contains_key(b.name())) {
            let (name, gradient) = (block.name(), out[block.name()].to_f64_vec());
            let size = |i: &usize| gradient[*i].abs();
            let entry = (0..gradient.len()).max_by(|i, j| size(i).total_cmp(&size(j))).unwrap();
            let loss = |by: f64| -> f64 {
                let mut values = case.params[name].to_f64_vec();
                values[entry] += by;
                let moved = Array::new(block.shape(), values).unwrap();
                let all: Vec<(&str, &Array)> = case
                    .params
                    .iter()
                    .map(|(n, a)| (n.as_str(), if n == name { &moved } else { a }))
                    .collect();
                write_arrays(&at("q"), &all, None).unwrap();
                grad(&keys, &at("q"), &at("b"), &at("r"))["loss"].to_f64_vec()[0]
            };
            let h = 2f64.powi(-10);
            let [near, far, farther] = [1.0, 2.0, 4.0].map(|i| loss(i * h) - loss(-i * h));
            let (fine, wide) = ((8.0 * near - far) / (12.0 * h), (8.0 * far - farther) / (24.0 * h));
            // The rule is h⁴ f⁽⁵⁾/30 off, sixteen times that with twice the step: a fifteenth of their difference, taken twice for what is
            // of higher order. A loss is some 60 roundings of u = ε/2 off, and the
            // rule takes 18/12 losses a step.
            let truncation = 2.0 * (fine - wide).abs() / 15.0;
            let bound = truncation + 1.5 * 30.0 * f64::EPSILON * total / h;
            let (off, found) = ((fine - gradient[entry]).abs(), gradient[entry]);
            assert!(off <= bound, "{keys:?} {name}: {found} for {fine}, {bound:e} allowed");
            assert!(found.abs() > 1e4 * bound, "{keys:?} {name}: {found} says little at {bound:e}");
            blocks += 1;
        }
        assert_eq!(blocks + 3, out.len(), "every block that is written");
    }
}

#[test]
fn frozen_blocks_get_no_gradient_and_change_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(format!("{name}.npz"));
    for (keys, model) in models() {
        let case = Case::new(model.as_ref());
        case.write(&at("p"), &at("b"));
        let whole = grad(&keys, &at("p"), &at("b"), &at("o"));
        let mut some = keys.clone();
        // Names, beginnings, and the short names of runs.
        for (frozen, rest) in [
            ("frozen=tok_embeddings,layers.0.attention", "layers.0.attention."),
            ("frozen=embeddings,wk0", "layers.0.attention.wk.weight"),
        ] {
            some.push(frozen);
            let part = grad(&some, &at("p"), &at("b"), &at("s"));
            some.pop();
            for (name, array) in &whole {
                let off = name == "tok_embeddings.weight" || name.starts_with(rest);
                assert_eq!(part.contains_key(name), !off, "{keys:?}: {name}");
                assert!(off || array.same_bits(&part[name]), "{keys:?}: {name}");
            }
        }
    }
    let single = ["transformer", "--dtype", "f32"];
    let model = Transformer::<f64>::new(&transformer()).unwrap();
    Case::new(&model).write(&at("p"), &at("b"));
    let (f32s, f64s) =
        (grad(&single, &at("p"), &at("b"), &at("o")), grad(&single[..1], &at("p"), &at("b"), &at("s")));
    let name = "layers.1.attention.wk.weight";
    // A few hundred roundings of 6e-8.
    close(&f32s[name].to_f64_vec(), &f64s[name].to_f64_vec(), 3e-5);
    assert!(!f32s[name].same_bits(&f64s[name]), "f32 arithmetic was asked for");
}

#[test]
fn bad_arrays_are_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(format!("{name}.npz"));
    let model = Transformer::<f64>::new(&transformer()).unwrap();
    let good = Case::new(&model);
    let refused = |case: &Case, keys: &[&str], code: i32, words: &str| {
        case.write(&at("p"), &at("b"));
        let run = command(keys, &at("p"), &at("b"), &at("o")).output().unwrap();
        let text = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(code), "{words}: {text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
        assert!(text.contains(words), "`{words}` is not in: {text}");
        assert!(!at("o").exists(), "{words}: something was left behind");
    };
    let with = |name: &str, array: Array| {
        let mut case = good.clone();
        let of = if case.batch.contains_key(name) { &mut case.batch } else { &mut case.params };
        of.insert(name.into(), array);
        case
    };
    let symbols = |at: usize, x: i64| {
        let mut all = vec![0i64; B * T];
        all[at] = x;
        Array::new(&[B, T], all).unwrap()
    };
    let weights = |w: f64| Array::new(&[B, T], vec![w; B * T]).unwrap();
    let zeros = |shape: &[usize]| Array::new(shape, vec![0.0; shape.iter().product()]).unwrap();
    let narrow = |t: usize| Array::new(&[B, t], vec![0i64; B * t]).unwrap();
    let t = &["transformer"][..];
    for (case, words) in [
        (with("tokens", symbols(9, 5)), "tokens[1, 2] = 5; allowed: 0 <= symbol < N = 5"),
        (with("labels", symbols(0, -1)), "labels[0, 0] = -1; allowed"),
        (with("labels", narrow(6)), "array `labels` has shape [40, 6]; expected that of tokens, (40, 7)"),
        (with("tokens", narrow(1)), "expected (B, T) with B >= 1 and T >= 2"),
        (with("tokens", Array::vector(vec![0i64; 7])), "expected (B, T)"),
        (with("tokens", zeros(&[B, T])), "tokens"),
        (with("mask", weights(0.0)), "mask sums to 0; expected a finite sum > 0"),
        (with("mask", weights(f64::MAX)), "mask sums to inf"),
        (with("mask", weights(-1.0)), "mask[0, 0] = -1; allowed: finite, >= 0"),
        (with("mask", weights(f64::NAN)), "mask[0, 0] = NaN"),
        (with("mask", zeros(&[B])), "array `mask` has shape [40]"),
        (with("norm.bias", zeros(&[3])), "array `norm.bias` has shape [3]; expected [4]"),
        (with("norm.bias", Array::vector(vec![f64::NAN; 4])), "`norm.bias`, entry 0"),
        (with("tok_embeddings.weight", zeros(&[20])), "expected (N, d)"),
        (with("pe", zeros(&[T, D])), "array `pe` is no block of this model"),
    ] {
        refused(&case, t, 1, words);
    }
    let without = |name: &str| {
        let mut case = good.clone();
        assert!(case.params.remove(name).is_some() || case.batch.remove(name).is_some());
        case
    };
    refused(&without("labels"), t, 1, "array `labels` is missing; the file holds: mask, tokens");
    refused(&without("tokens"), t, 1, "array `tokens` is missing");
    refused(&without("output.weight"), t, 1, "array `output.weight` is missing");
    refused(&without("tok_embeddings.weight"), t, 1, "array `tok_embeddings.weight` is missing");
    let mut extra = good.clone();
    extra.batch.insert("targets".into(), zeros(&[B, N]));
    refused(&extra, t, 1, "array `targets` is not expected; allowed: tokens, labels, mask");
    for (keys, words) in [
        (&["transfromer"][..], "unknown model `transfromer`, did you mean `transformer`?"),
        (&["transformer", "heads=3"], "heads: 3; allowed: a divisor of d = 4"),
        (&["transformer", "dim=8"], "dim: 8; allowed: 4, the width of tok_embeddings.weight"),
        (&["transformer", "block=pre"], "unknown block `pre`; known: public, standard, postnorm"),
        (&["transformer", "ff=rleu"], "unknown ff `rleu`, did you mean `relu`?"),
        (&["transformer", "norm=1"], "unknown norm `1`; known: true, false"),
        (&["transformer", "layers=0"], "layers: 0; allowed: 1 <= layers <= 64"),
        (&["transformer", "ff1=relu"], "unknown key `ff1`"),
        (&["memory", "heads=1"], "unknown key `heads`"),
        (&["transformer", "positions=rotary"], "unknown positions `rotary`"),
        (&["transformer", "frozen=layers.7"], "unknown frozen `layers.7`"),
        (&["transformer", "frozen=layers,norm,output,tok_embeddings,pos_embeddings"], "frozen: every block"),
        (&["transformer", "--dtype", "f16"], "unknown dtype `f16`"),
    ] {
        refused(&good, keys, 2, words);
    }
    refused(&good, &["transformer", "layers=1"], 1, "is no block of this model");
    refused(&good, &["memory"], 1, "array `pe` is missing");
}
