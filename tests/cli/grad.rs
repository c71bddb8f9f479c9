//! `popgrad grad`, for every model and either kind of targets: the library's own numbers from
//! either file format, for any thread count; differences of the loss it prints; frozen blocks; what
//! it refuses.

use crate::support::one_line;
use popgrad::batch::{Batch, Targets, divisor};
use popgrad::model::{
    BlockKind, DisentangledSpec, FeedForward, MODELS, MemorySpec, MlpTransformerSpec, Model, Output,
    Positions, Report, SimplifiedSpec, Spec, TransformerSpec,
};
use popgrad::report::arrays::{Array, read_arrays, write_arrays};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

const S: usize = 5;
const T: usize = 6;
const D: usize = 4;
const KINDS: [Targets; 2] = [Targets::Law, Targets::Labels];

/// Sequences: more than one piece of the command holds.
fn seqs(kind: Targets) -> usize {
    match kind {
        Targets::Law => 270,
        Targets::Labels => 40,
    }
}

fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A command line after `--model`, and the model that it describes.
type Described = (Vec<&'static str>, Spec);

fn memory() -> MemorySpec {
    MemorySpec { dim: D, ..MemorySpec::default() }
}

fn transformer() -> TransformerSpec {
    TransformerSpec { dim: D, ..TransformerSpec::default() }
}

/// One form of each model, that with defaults where there is one.
fn models() -> Vec<Described> {
    let simplified = SimplifiedSpec { eps: 0.05, ..SimplifiedSpec::default() };
    vec![
        (vec!["disentangled", "heads=2,1", "S=5"], Spec::Disentangled(DisentangledSpec::new(&[2, 1]))),
        (vec!["simplified", "eps=0.05"], Spec::Simplified(simplified)),
        (vec!["mlp_transformer"], Spec::MlpTransformer(MlpTransformerSpec::new(&[1, 1]))),
        (vec!["memory", "S=5"], Spec::Memory(memory())),
        (vec!["transformer"], Spec::Transformer(transformer())),
    ]
}

/// Further forms.
fn more_models() -> Vec<Described> {
    let m = |keys: &[&'static str], spec: MemorySpec| ([&["memory"], keys].concat(), Spec::Memory(spec));
    let t = |keys: &[&'static str], spec: TransformerSpec| {
        ([&["transformer"], keys].concat(), Spec::Transformer(spec))
    };
    vec![
        (vec!["disentangled", "heads=1"], Spec::Disentangled(DisentangledSpec::new(&[1]))),
        (vec!["mlp_transformer", "heads=2,1,1"], Spec::MlpTransformer(MlpTransformerSpec::new(&[2, 1, 1]))),
        m(
            &["ff1=linear", "ff2=relu", "positions=rotary", "output=tied", "scale_scores=false"],
            MemorySpec {
                ff1: FeedForward::Linear,
                ff2: FeedForward::Relu,
                positions: Positions::Rotary,
                output: Output::Tied,
                scale_scores: false,
                ..memory()
            },
        ),
        m(
            &["positions=sincos", "output=tied_frozen", "dim=4"],
            MemorySpec { positions: Positions::SinCos, output: Output::TiedFrozen, ..memory() },
        ),
        t(
            &["layers=1", "heads=2", "block=standard", "ff=linear", "output=tied"],
            TransformerSpec {
                layers: 1,
                heads: vec![2],
                block: BlockKind::Standard,
                ff: FeedForward::Linear,
                output: Output::Tied,
                ..transformer()
            },
        ),
        t(
            &["layers=3", "heads=1", "block=postnorm", "positions=sincos", "output=frozen"],
            TransformerSpec {
                layers: 3,
                heads: vec![1],
                block: BlockKind::PostNorm,
                positions: Positions::SinCos,
                output: Output::Frozen,
                ..transformer()
            },
        ),
        t(
            &["norm=false", "ff=none"],
            TransformerSpec { norm: false, ff: FeedForward::None, ..transformer() },
        ),
    ]
}

/// A model with the arrays of one call.
struct Case {
    keys: Vec<&'static str>,
    model: Box<dyn Model<f64>>,
    kind: Targets,
    params: BTreeMap<String, Array>,
    batch: BTreeMap<String, Array>,
}

/// Every model with every kind of targets that it has an output for.
fn cases(of: Vec<Described>) -> Vec<Case> {
    let mut all = Vec::new();
    for (keys, spec) in of {
        for kind in KINDS {
            let case = Case::new(&keys, &spec, kind);
            if case.model.accepts(kind).is_ok() {
                all.push(case);
            }
        }
    }
    all
}

impl Case {
    fn new(keys: &[&'static str], spec: &Spec, kind: Targets) -> Self {
        let model = spec.build::<f64>(S, T).unwrap();
        let b = seqs(kind);
        let mut draw = noise(5);
        let mut params = BTreeMap::new();
        for block in model.layout().blocks() {
            let values: Vec<f64> = (0..block.len()).map(|_| 1.6 * draw() - 0.8).collect();
            params.insert(block.name().to_string(), Array::new(block.shape(), values).unwrap());
        }
        let mut symbols = || -> Array {
            let all: Vec<i64> = (0..b * T).map(|_| (draw() * S as f64) as i64).collect();
            Array::new(&[b, T], all).unwrap()
        };
        let mut batch = BTreeMap::from([("tokens".to_string(), symbols())]);
        match kind {
            Targets::Labels => {
                batch.insert("labels".into(), symbols());
                let mask: Vec<f64> = (0..b * T).map(|_| (2.0 * draw() - 1.0).max(0.0)).collect();
                batch.insert("mask".into(), Array::new(&[b, T], mask).unwrap());
            }
            Targets::Law => {
                let mut laws: Vec<f64> = (0..b * S).map(|_| draw()).collect();
                for row in laws.chunks_mut(S) {
                    let z: f64 = row.iter().sum();
                    row.iter_mut().for_each(|y| *y /= z);
                }
                batch.insert("targets".into(), Array::new(&[b, S], laws).unwrap());
                let weights: Vec<f64> = (0..b).map(|_| (2.0 * draw() - 0.5).max(0.0)).collect();
                batch.insert("weights".into(), Array::vector(weights));
            }
        }
        Case { keys: keys.to_vec(), model, kind, params, batch }
    }

    fn weights(&self) -> &'static str {
        match self.kind {
            Targets::Law => "weights",
            Targets::Labels => "mask",
        }
    }

    fn write(&self, params: &Path, batch: &Path) {
        for (path, arrays) in [(params, &self.params), (batch, &self.batch)] {
            let all: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (n.as_str(), a)).collect();
            write_arrays(path, &all, None).unwrap();
        }
    }

    /// All but buffers: a frozen output has its gradient too.
    fn active(&self) -> Vec<bool> {
        let blocks = self.model.layout().blocks().iter();
        blocks.zip(self.model.trainable()).map(|(b, on)| *on || b.name() == "output.weight").collect()
    }

    /// The library's results in one piece: loss, losses, predictions, gradient.
    fn direct(&self) -> [Vec<f64>; 4] {
        let (model, b) = (self.model.as_ref(), seqs(self.kind));
        let mut flat = vec![0.0; model.layout().len()];
        for block in model.layout().blocks() {
            flat[block.range()].copy_from_slice(&self.params[block.name()].to_f64_vec());
        }
        let mut batch = Batch::with_capacity(self.kind, b, T, S).unwrap();
        batch.set_seqs(b);
        let parts = batch.parts_mut();
        for (name, to) in [("tokens", parts.tokens), ("labels", parts.labels)] {
            if let Some(array) = self.batch.get(name) {
                to.iter_mut().zip(array.to_f64_vec()).for_each(|(t, x)| *t = x as u32);
            }
        }
        if let Some(laws) = self.batch.get("targets") {
            parts.laws.copy_from_slice(&laws.to_f64_vec());
        }
        match self.batch.get(self.weights()) {
            Some(weights) => parts.weights.copy_from_slice(&weights.to_f64_vec()),
            None => parts.weights.fill(1.0),
        }
        let mut ws = model.workspace(self.kind, b).unwrap();
        let mut grad = vec![0.0; flat.len()];
        let loss = model.loss_and_grad(&flat, &batch, &self.active(), &mut ws, &mut grad).unwrap();
        let mut report = Report::new(model, self.kind, b, false, true);
        model.report(&flat, &batch, &mut ws, &mut report).unwrap();
        let by = divisor(batch.total_weight());
        grad.iter_mut().for_each(|g| *g /= by);
        [vec![loss.value() / by], report.losses, report.probs, grad]
    }
}

fn command(keys: &[&str], params: &Path, batch: &Path, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_popgrad"));
    command.args(["grad", "--model"]).args(keys);
    command.arg("--params").arg(params).arg("--batch").arg(batch).arg("--out").arg(out);
    command
}

#[track_caller]
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

#[test]
fn every_model_is_here_with_laws_and_all_but_one_with_labels() {
    let of = |kind: Targets| -> BTreeSet<&str> {
        cases(models()).iter().filter(|c| c.kind == kind).map(|c| c.model.name()).collect()
    };
    assert_eq!(of(Targets::Law), MODELS.iter().copied().collect());
    let without: BTreeSet<&str> = MODELS.iter().copied().filter(|m| *m != "simplified").collect();
    assert_eq!(of(Targets::Labels), without);
}

#[test]
fn the_command_gives_the_librarys_numbers() {
    let dir = tempfile::tempdir().unwrap();
    for (i, mut case) in cases([models(), more_models()].concat()).into_iter().enumerate() {
        let what = format!("{:?} {:?}", case.keys, case.kind);
        let (blocks, active, b) = (case.model.layout().blocks().to_vec(), case.active(), seqs(case.kind));
        let shape = match case.kind {
            Targets::Law => vec![b],
            Targets::Labels => vec![b, T],
        };
        for (format, weighted) in [("npz", true), ("safetensors", false)] {
            if !weighted {
                case.batch.remove(case.weights());
            }
            let at = |name: &str| dir.path().join(format!("{name}{i}.{format}"));
            case.write(&at("p"), &at("b"));
            let [loss, losses, predictions, gradient] = case.direct();
            let out = grad(&case.keys, &at("p"), &at("b"), &at("o"));
            assert_eq!(out["loss"].shape(), [0usize; 0]);
            close(&out["loss"].to_f64_vec(), &loss, 1e-14);
            assert_eq!(out["losses"].shape(), shape, "{what}");
            assert_eq!(out["predictions"].shape(), [&shape[..], &[S]].concat(), "{what}");
            close(&out["losses"].to_f64_vec(), &losses, 1e-13);
            close(&out["predictions"].to_f64_vec(), &predictions, 1e-13);
            for (block, on) in blocks.iter().zip(&active) {
                assert_eq!(out.contains_key(block.name()), *on, "{what}: {}", block.name());
                if *on {
                    assert_eq!(out[block.name()].shape(), block.shape());
                    close(&out[block.name()].to_f64_vec(), &gradient[block.range()], 1e-12);
                }
            }
            assert_eq!(out.len(), 3 + active.iter().filter(|on| **on).count(), "{what}");
            let five = [&case.keys[..], &["--threads", "5"]].concat();
            let five = grad(&five, &at("p"), &at("b"), &at("five"));
            assert!(out.iter().all(|(name, a)| a.same_bits(&five[name])), "{what}: threads changed a bit");
        }
    }
}

/// The loss that the command writes, differenced in the entry of every block whose gradient is
/// largest. The step is short: no rectifier switches within it.
#[test]
fn gradients_are_differences_of_the_loss_written() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(format!("{name}.npz"));
    for case in cases(models()) {
        case.write(&at("p"), &at("b"));
        let out = grad(&case.keys, &at("p"), &at("b"), &at("o"));
        let total = out["loss"].to_f64_vec()[0];
        let mut blocks = 0;
        for block in case.model.layout().blocks().iter().filter(|b| out.contains_key(b.name())) {
            let (name, gradient) = (block.name(), out[block.name()].to_f64_vec());
            let size = |i: &usize| gradient[*i].abs();
            let entry = (0..gradient.len()).max_by(|i, j| size(i).total_cmp(&size(j))).unwrap();
            let loss = |by: f64| -> f64 {
                let mut values = case.params[name].to_f64_vec();
                values[entry] += by;
                let moved = Array::new(block.shape(), values).unwrap();
                let swap = |(n, a)| (String::as_str(n), if n == name { &moved } else { a });
                let all: Vec<(&str, &Array)> = case.params.iter().map(swap).collect();
                write_arrays(&at("q"), &all, None).unwrap();
                grad(&case.keys, &at("q"), &at("b"), &at("r"))["loss"].to_f64_vec()[0]
            };
            let h = 2f64.powi(-21);
            let slope = (loss(h) - loss(-h)) / (2.0 * h);
            // A loss is some 60 roundings of u = ε/2 off; h² f'''/6 is far below that over h.
            let bound = 60.0 * f64::EPSILON * total.max(1.0) / (2.0 * h);
            let (off, found, what) =
                ((slope - gradient[entry]).abs(), gradient[entry], format!("{:?} {name}", case.keys));
            assert!(off <= bound, "{what} {:?}: {found} for {slope}, {bound:e} allowed", case.kind);
            assert!(found.abs() > 1e3 * bound, "{what}: {found} says little at {bound:e}");
            blocks += 1;
        }
        assert_eq!(blocks + 3, out.len(), "every block that is written");
    }
}

#[test]
fn weights_are_shares_whatever_they_sum_to() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(format!("{name}.npz"));
    for mut case in cases(models()) {
        let given = case.batch[case.weights()].clone();
        let total: f64 = given.to_f64_vec().iter().sum();
        let mut of = |by: f64| {
            let scaled = given.to_f64_vec().iter().map(|w| w * by).collect::<Vec<f64>>();
            case.batch.insert(case.weights().into(), Array::new(given.shape(), scaled).unwrap());
            case.write(&at("p"), &at("b"));
            grad(&case.keys, &at("p"), &at("b"), &at("o"))
        };
        let (whole, one, three) = (of(1.0), of(1.0 / total), of(3.0 / total));
        for (name, array) in &whole {
            let size = array.to_f64_vec().iter().fold(0.0f64, |m, x| m.max(x.abs()));
            for other in [&one, &three] {
                for (x, y) in array.to_f64_vec().iter().zip(other[name].to_f64_vec()) {
                    assert!((x - y).abs() <= 1e-12 * size, "{name}: {x} {y}");
                }
            }
        }
    }
}

#[test]
fn frozen_blocks_get_no_gradient_and_change_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(format!("{name}.npz"));
    for case in cases([models(), more_models()].concat()) {
        case.write(&at("p"), &at("b"));
        let whole = grad(&case.keys, &at("p"), &at("b"), &at("o"));
        let first = case.model.layout().blocks()[0].name().to_string();
        let single = format!("frozen={first}");
        // Names, and in models with layers beginnings and the short names of runs.
        let mut all = vec![(single.as_str(), "-")];
        if first == "tok_embeddings.weight" {
            all.push(("frozen=tok_embeddings,layers.0.attention", "layers.0.attention."));
            all.push(("frozen=embeddings,wk0", "layers.0.attention.wk.weight"));
        }
        if whole.len() < 5 {
            continue;
        }
        for (frozen, rest) in all {
            let keys = [&case.keys[..], &[frozen]].concat();
            let part = grad(&keys, &at("p"), &at("b"), &at("s"));
            for (name, array) in &whole {
                let off = *name == first || name.starts_with(rest);
                assert_eq!(part.contains_key(name), !off, "{keys:?}: {name}");
                assert!(off || array.same_bits(&part[name]), "{keys:?}: {name}");
            }
        }
    }
}

#[test]
fn arithmetic_is_of_the_type_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(format!("{name}.npz"));
    for case in cases(models()) {
        case.write(&at("p"), &at("b"));
        let double = grad(&case.keys, &at("p"), &at("b"), &at("o"));
        let keys = [&case.keys[..], &["--dtype", "f32"]].concat();
        let single = grad(&keys, &at("p"), &at("b"), &at("s"));
        assert_eq!(single.keys().collect::<Vec<_>>(), double.keys().collect::<Vec<_>>());
        let size = |a: &Array| a.to_f64_vec().iter().fold(0.0f64, |m, x| m.max(x.abs()));
        // Small blocks may be what larger terms leave.
        let largest = double.iter().filter(|(n, _)| case.params.contains_key(*n)).map(|(_, a)| size(a));
        let largest = largest.fold(0.0, f64::max);
        for (name, array) in &double {
            let (x, y) = (array.to_f64_vec(), single[name].to_f64_vec());
            // A few hundred roundings of 6e-8.
            let allowed = 5e-5 * size(array).max(largest);
            assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() <= allowed), "{:?} {name}", case.keys);
            assert!(!array.same_bits(&single[name]), "{:?} {name}: f32 was asked for", case.keys);
        }
    }
}

#[test]
fn bad_arrays_are_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(format!("{name}.npz"));
    let spec = Spec::Transformer(transformer());
    let of = |kind: Targets| Case::new(&["transformer"], &spec, kind);
    let refused = |case: &Case, keys: &[&str], code: i32, words: &str| {
        case.write(&at("p"), &at("b"));
        let run = command(keys, &at("p"), &at("b"), &at("o")).output().unwrap();
        let text = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(code), "{words}: {text}");
        one_line(&text);
        assert!(text.contains(words), "`{words}` is not in: {text}");
        assert!(!at("o").exists(), "{words}: something was left behind");
    };
    let with = |kind: Targets, name: &str, array: Array| {
        let mut case = of(kind);
        let batch = ["tokens", "labels", "mask", "targets", "weights"].contains(&name);
        let to = if batch { &mut case.batch } else { &mut case.params };
        to.insert(name.into(), array);
        case
    };
    let [laws, labels] = KINDS;
    let (b, n) = (seqs(labels), seqs(laws));
    let symbols = |b: usize, at: usize, x: i64| {
        let mut all = vec![0i64; b * T];
        all[at] = x;
        Array::new(&[b, T], all).unwrap()
    };
    let weights = |w: f64| Array::new(&[b, T], vec![w; b * T]).unwrap();
    let zeros = |shape: &[usize]| Array::new(shape, vec![0.0; shape.iter().product()]).unwrap();
    let narrow = |t: usize| Array::new(&[b, t], vec![0i64; b * t]).unwrap();
    let t = &["transformer"][..];
    for (case, words) in [
        (with(labels, "tokens", symbols(b, 2, 5)), "tokens[0, 2] = 5; allowed: 0 <= symbol < S = 5"),
        (with(laws, "tokens", symbols(n, 2, 5)), "tokens[0, 2] = 5; allowed: 0 <= symbol < S = 5"),
        (with(labels, "labels", Array::new(&[b, T], vec![-1i64; b * T]).unwrap()), "] = -1; allowed"),
        (
            with(labels, "labels", narrow(5)),
            "array `labels` has shape [40, 5]; expected that of tokens, (40, 6)",
        ),
        (with(labels, "tokens", narrow(1)), "expected (B, T) with B >= 1 and T >= 2"),
        (with(laws, "tokens", Array::vector(vec![0i64; 7])), "expected (B, T)"),
        (with(labels, "tokens", zeros(&[b, T])), "tokens"),
        (with(labels, "mask", weights(0.0)), "mask sums to 0; expected a finite sum > 0"),
        (with(labels, "mask", weights(f64::MAX)), "mask sums to inf"),
        (with(labels, "mask", weights(-1.0)), "mask[0, 0] = -1; allowed: finite, >= 0"),
        (with(labels, "mask", weights(f64::NAN)), "mask[0, 0] = NaN"),
        (with(labels, "mask", zeros(&[b])), "array `mask` has shape [40]"),
        (with(laws, "weights", zeros(&[n])), "weights sums to 0; expected a finite sum > 0"),
        (with(laws, "weights", Array::vector(vec![-1.0; n])), "weights[0] = -1; allowed: finite, >= 0"),
        (with(laws, "weights", zeros(&[n, T])), "array `weights` has shape [270, 6]; expected (B,) = (270,)"),
        (
            with(laws, "targets", zeros(&[n, 4])),
            "array `targets` has shape [270, 4]; expected (B, S) = (270, 5)",
        ),
        (with(laws, "targets", zeros(&[n, S])), "targets[0, :] sums to 0; expected 1"),
        (with(laws, "labels", symbols(n, 0, 0)), "arrays `targets` and `labels` are both there"),
        (with(laws, "mask", zeros(&[n])), "array `mask` is not expected; allowed: tokens, targets, weights"),
        (
            with(labels, "weights", zeros(&[b])),
            "array `weights` is not expected; allowed: tokens, labels, mask",
        ),
        (with(labels, "norm.bias", zeros(&[3])), "array `norm.bias` has shape [3]; expected [4]"),
        (with(labels, "norm.bias", Array::vector(vec![f64::NAN; 4])), "`norm.bias`, entry 0"),
        (with(labels, "tok_embeddings.weight", zeros(&[20])), "expected (S, d)"),
        (with(labels, "pe", zeros(&[T, D])), "array `pe` is no block of this model"),
    ] {
        refused(&case, t, 1, words);
    }
    let without = |kind: Targets, name: &str| {
        let mut case = of(kind);
        assert!(case.params.remove(name).is_some() || case.batch.remove(name).is_some());
        case
    };
    let neither = "array `targets` or `labels` is missing; the file holds: ";
    refused(&without(labels, "labels"), t, 1, &format!("{neither}mask, tokens"));
    refused(&without(laws, "targets"), t, 1, &format!("{neither}tokens, weights"));
    refused(&without(laws, "tokens"), t, 1, "array `tokens` is missing");
    refused(&without(labels, "output.weight"), t, 1, "array `output.weight` is missing");
    refused(&without(labels, "tok_embeddings.weight"), t, 1, "array `tok_embeddings.weight` is missing");
    let good = of(labels);
    for (keys, words) in [
        (&["transfromer"][..], "unknown model `transfromer`, did you mean `transformer`?"),
        (&["transformer", "heads=3"], "heads: 3"),
        (&["transformer", "dim=8"], "dim: 8; allowed: 4, the width of tok_embeddings.weight"),
        (&["transformer", "block=pre"], "unknown block `pre`; known: public, standard, postnorm"),
        (&["transformer", "ff=rleu"], "unknown ff `rleu`, did you mean `relu`?"),
        (&["transformer", "norm=1"], "norm: `1`; allowed: true or false"),
        (&["transformer", "layers=0"], "layers: 0; allowed: integers, 1 <= layers <= 64"),
        (&["transformer", "ff1=relu"], "unknown key `ff1`"),
        (&["memory", "heads=1"], "unknown key `heads`"),
        (&["transformer", "positions=rotary"], "positions"),
        (&["transformer", "frozen=layers.7"], "unknown frozen `layers.7`"),
        (&["transformer", "frozen=layers,norm,output,tok_embeddings,pos_embeddings"], "frozen: every block"),
        (&["transformer", "--dtype", "f16"], "unknown dtype `f16`, did you mean `f32`?; known: f32, f64"),
    ] {
        refused(&good, keys, 2, words);
    }
    refused(&good, &["transformer", "layers=1"], 1, "is no block of this model");
    refused(
        &good,
        &["transformer", "S=6"],
        1,
        "array `tok_embeddings.weight` has shape [5, 4]; expected [6, 4]",
    );
    refused(&good, &["memory"], 1, "array `pe` is missing");
    // No output for labels.
    let (keys, spec) = models().swap_remove(1);
    refused(&Case::new(&keys, &spec, Targets::Labels), &keys, 2, "label");
    // S follows from W, A2 or the embeddings.
    let (keys, spec) = models().swap_remove(0);
    let mut case = Case::new(&keys, &spec, laws);
    case.params.remove("W");
    refused(&case, &keys[..2], 1, "array `W` is missing");
}

/// A sequence of weight 0 counts nothing, whatever overflows in it: the gradient is that of the
/// file without it.
#[test]
fn what_has_no_weight_counts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let tokens = |rows: &[[i64; 4]]| Array::new(&[rows.len(), 4], rows.concat()).unwrap();
    let (good, bad) = ([[0i64, 1, 1, 0], [1, 0, 1, 1]], [2i64, 2, 2, 2]);
    let write = |name: &str, arrays: &[(&str, Array)]| {
        let named: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (*n, a)).collect();
        write_arrays(&at(name), &named, None).unwrap();
    };
    let laws = [0.5, 0.5, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0];
    write(
        "one.npz",
        &[("tokens", tokens(&good)), ("targets", Array::new(&[2, 3], laws[..6].to_vec()).unwrap())],
    );
    write(
        "two.npz",
        &[
            ("tokens", tokens(&[good[0], good[1], bad])),
            ("targets", Array::new(&[3, 3], laws.to_vec()).unwrap()),
            ("weights", Array::vector(vec![1.0, 1.0, 0.0])),
        ],
    );
    // Labels: the last two positions of the second sequence do not count, and overflow.
    let labels = Array::new(&[2, 4], vec![1i64, 1, 0, 2, 0, 1, 1, 0]).unwrap();
    let mask = Array::new(&[2, 4], vec![1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 0.0, 0.0]).unwrap();
    for (name, last) in [("plain.npz", [1i64, 0, 1, 1]), ("padded.npz", [1, 0, 2, 2])] {
        let all = [("tokens", tokens(&[good[0], last])), ("labels", labels.clone()), ("mask", mask.clone())];
        write(name, &all);
    }
    // What people pad with: symbols and labels that do not exist, laws that are none.
    let nothing = [0.0, f64::NAN, 0.0];
    write(
        "strange.npz",
        &[
            ("tokens", tokens(&[good[0], good[1], [-1, 99, 3, -100]])),
            ("targets", Array::new(&[3, 3], [&laws[..6], &nothing].concat()).unwrap()),
            ("weights", Array::vector(vec![1.0, 1.0, 0.0])),
        ],
    );
    let ignored = Array::new(&[2, 4], vec![1i64, 1, 0, 2, 0, 1, -100, 7]).unwrap();
    let all = [("tokens", tokens(&good)), ("labels", ignored), ("mask", mask.clone())];
    write("ignored.npz", &all);
    let memory = MemorySpec { dim: D, ..MemorySpec::default() };
    let transformer = TransformerSpec { dim: D, heads: vec![2], norm: false, ..TransformerSpec::default() };
    for (keys, spec) in [
        (vec!["simplified"], Spec::Simplified(SimplifiedSpec::new(0.0))),
        (vec!["disentangled"], Spec::Disentangled(DisentangledSpec::new(&[1, 1]))),
        (vec!["mlp_transformer"], Spec::MlpTransformer(MlpTransformerSpec::new(&[1, 1]))),
        (vec!["memory"], Spec::Memory(memory)),
        (vec!["transformer", "heads=2", "norm=false"], Spec::Transformer(transformer)),
    ] {
        let model = spec.build::<f64>(3, 4).unwrap();
        let mut draw = noise(5);
        let mut params: Vec<f64> = (0..model.layout().len()).map(|_| draw()).collect();
        // mlp_transformer multiplies the embeddings of all symbols, used or not: no overflow there.
        let huge = if spec.name() == "mlp_transformer" { 1e100 } else { 1.5e308 };
        for block in model.layout().blocks() {
            let (d, of) = (*block.shape().last().unwrap(), block.range().start);
            let mut set = |row: usize| params[of + row * d..of + (row + 1) * d].fill(huge);
            match block.name() {
                "tok_embeddings.weight" | "wte" => set(2),
                // Rows that read symbol 2 directly and through either layer.
                "W" if spec.name() == "disentangled" => {
                    [2, 7 + 2, 14 + 2, 21 + 2].into_iter().for_each(&mut set)
                }
                _ => {}
            }
        }
        let arrays: Vec<(&str, Array)> = model
            .layout()
            .blocks()
            .iter()
            .map(|b| (b.name(), Array::new(b.shape(), params[b.range()].to_vec()).unwrap()))
            .collect();
        write("p.npz", &arrays);
        let mut pairs = vec![("one.npz", "two.npz"), ("one.npz", "strange.npz")];
        if spec.name() != "simplified" {
            pairs.extend([("plain.npz", "padded.npz"), ("plain.npz", "ignored.npz")]);
        }
        for (without, with) in pairs {
            let want = grad(&keys, &at("p.npz"), &at(without), &at("g.npz"));
            let got = grad(&keys, &at("p.npz"), &at(with), &at("g.npz"));
            if with == "strange.npz" {
                let given = got["losses"].to_f64_vec();
                assert!(given[2].is_nan() && !given[0].is_nan() && !given[1].is_nan(), "{keys:?}: {given:?}");
                let f = got["predictions"].to_f64_vec();
                assert!(f[6..].iter().all(|f| f.is_nan()) && f[..6].iter().all(|f| f.is_finite()));
            }
            if with == "two.npz" {
                let lost = got["losses"].to_f64_vec()[2];
                assert!(!lost.is_finite() || spec.name() == "mlp_transformer", "{keys:?}: {lost}");
            }
            for (name, array) in want.iter().filter(|(n, _)| !["losses", "predictions"].contains(&n.as_str()))
            {
                let (x, y) = (got[name].to_f64_vec(), array.to_f64_vec());
                assert!(x.iter().all(|x| x.is_finite()), "{keys:?} {with} {name}");
                close(&x, &y, 1e-13);
            }
        }
    }
}
