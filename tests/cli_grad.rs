//! `popgrad grad` on arrays made elsewhere: the library's own numbers, whatever the file format, for any thread count.

use popgrad::batch::Batch;
use popgrad::model::{Disentangled, Model};
use popgrad::report::arrays::{Array, read_arrays, write_arrays};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const S: usize = 3;
const T: usize = 5;
const B: usize = 600;

/// Parameters and batch from a fixed recurrence; more sequences than one piece of the command holds.
struct Case {
    model: Disentangled<f64>,
    params: Vec<f64>,
    tokens: Vec<i64>,
    targets: Vec<f64>,
    weights: Vec<f64>,
}

impl Case {
    fn new() -> Self {
        let mut state = 12345u64;
        let mut draw = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let model = Disentangled::<f64>::new(S, T, &[2, 1]).unwrap();
        let params = (0..Model::<f64>::layout(&model).len()).map(|_| draw() - 0.5).collect();
        let tokens = (0..B * T).map(|_| (draw() * S as f64) as i64).collect();
        let mut targets: Vec<f64> = (0..B * S).map(|_| draw()).collect();
        for row in targets.chunks_mut(S) {
            let z: f64 = row.iter().sum();
            row.iter_mut().for_each(|y| *y /= z);
        }
        Case { model, params, tokens, targets, weights: (0..B).map(|_| 0.01 * draw()).collect() }
    }

    fn write(&self, params: &Path, batch: &Path, weights: Option<&[f64]>) {
        let blocks: Vec<(&str, Array)> = Model::<f64>::layout(&self.model)
            .blocks()
            .iter()
            .map(|b| (b.name(), Array::new(b.shape(), self.params[b.range()].to_vec()).unwrap()))
            .collect();
        write_arrays(params, &blocks.iter().map(|(n, a)| (*n, a)).collect::<Vec<_>>(), None).unwrap();
        let tokens = Array::new(&[B, T], self.tokens.clone()).unwrap();
        let targets = Array::new(&[B, S], self.targets.clone()).unwrap();
        let mut arrays = vec![("tokens", &tokens), ("targets", &targets)];
        let weights = weights.map(|w| Array::vector(w.to_vec()));
        if let Some(w) = &weights {
            arrays.push(("weights", w));
        }
        write_arrays(batch, &arrays, None).unwrap();
    }

    /// Loss, losses, predictions and gradient from the library, in one piece.
    fn direct(&self, weights: &[f64]) -> (f64, Vec<f64>, Vec<f64>, Vec<f64>) {
        let mut batch = Batch::with_capacity(B, T, S).unwrap();
        batch.set_seqs(B);
        let (t, y, w) = batch.parts_mut();
        t.iter_mut().zip(&self.tokens).for_each(|(t, x)| *t = *x as u32);
        y.copy_from_slice(&self.targets);
        w.copy_from_slice(weights);
        let mut ws = self.model.workspace(B).unwrap();
        let mut grad = vec![0.0; self.params.len()];
        self.model.forward(&self.params, &batch, &mut ws).unwrap();
        self.model.backward(&self.params, &batch, &mut ws, &mut grad).unwrap();
        let loss = ws.weighted_loss(batch.weights()).value();
        (loss, ws.losses().to_vec(), ws.predictions().to_vec(), grad)
    }
}

fn grad(params: &Path, batch: &Path, out: &Path, extra: &[&str]) -> BTreeMap<String, Array> {
    let run = Command::new(env!("CARGO_BIN_EXE_popgrad"))
        .args(["grad", "--model", "disentangled", "heads=2,1", "S=3", "--params"])
        .arg(params)
        .arg("--batch")
        .arg(batch)
        .arg("--out")
        .arg(out)
        .args(extra)
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
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
fn the_command_gives_the_librarys_numbers() {
    let case = Case::new();
    let dir = tempfile::tempdir().unwrap();
    let uniform = vec![1.0 / B as f64; B];
    for (format, weights) in [("npz", None), ("safetensors", Some(&case.weights[..]))] {
        let at = |name: &str| dir.path().join(format!("{name}.{format}"));
        case.write(&at("p"), &at("b"), weights);
        // Weights given are used as they are: they sum to about 3 here.
        let (loss, losses, predictions, gradient) = case.direct(weights.unwrap_or(&uniform));
        let out = grad(&at("p"), &at("b"), &at("o"), &["--threads", "2"]);
        assert_eq!(out["loss"].shape(), [0usize; 0]);
        close(&out["loss"].to_f64_vec(), &[loss], 1e-14);
        close(&out["losses"].to_f64_vec(), &losses, 1e-14);
        assert_eq!(out["predictions"].shape(), [B, S]);
        close(&out["predictions"].to_f64_vec(), &predictions, 1e-14);
        for block in Model::<f64>::layout(&case.model).blocks() {
            assert_eq!(out[block.name()].shape(), block.shape());
            close(&out[block.name()].to_f64_vec(), &gradient[block.range()], 1e-12);
        }
        assert_eq!(out.len(), 3 + Model::<f64>::layout(&case.model).blocks().len());

        let five = grad(&at("p"), &at("b"), &at("five"), &["--threads", "5"]);
        assert!(out.iter().all(|(name, a)| a.same_bits(&five[name])), "threads changed a bit");

        let single = grad(&at("p"), &at("b"), &at("single"), &["--dtype", "f32"]);
        // A few hundred roundings of 6e-8.
        close(&single["A.0"].to_f64_vec(), &out["A.0"].to_f64_vec(), 3e-5);
        assert!(!single["A.0"].same_bits(&out["A.0"]), "f32 arithmetic was asked for");
    }
}
