//! Every task with every model: gradients of every block, runs that resume, `grad`, freezing, the
//! exact population; and the pairs that are refused, with the message.

use crate::support::{noise, ok, popgrad, refused, stop_at, text};
use popgrad::batch::{Batch, Targets, divisor};
use popgrad::config::{self, Config};
use popgrad::model::{MODELS, Model};
use popgrad::paper;
use popgrad::report::arrays::{Array, read_arrays, write_arrays};
use std::fs;
use std::path::Path;

/// A preset of each task, small.
const TASKS: [(&str, &[&str]); 3] = [
    ("chain", &["S=3", "T=6"]),
    ("two-parents", &["S=3", "T=6"]),
    ("birth", &["corpus=dirichlet", "N=4", "alpha=1", "T=7", "K=1", "frozen="]),
];
/// The same as populations that can be enumerated.
const POPULATIONS: [(&str, &[&str]); 3] = [
    ("chain", &["S=2", "T=5", "roots=uniform"]),
    ("two-parents", &["S=2", "T=5"]),
    ("birth", &["corpus=dirichlet", "N=3", "alpha=1", "T=4", "K=1", "frozen="]),
];
const PLAN: [&str; 8] = [
    "steps=6",
    "batch=8",
    "shards=3",
    "eval_every=2",
    "checkpoint_every=2",
    "test_size=16",
    "lr=0.01",
    "dtype=f64",
];

/// What makes a model small.
fn sizes(model: &str) -> &'static [&'static str] {
    match model {
        "memory" => &["dim=6"],
        "transformer" => &["dim=6", "heads=2", "layers=2"],
        "simplified" => &[],
        _ => &["heads=2,1", "init=0.3"],
    }
}

/// The words of a pair, or nothing where it makes no sense.
fn words(task: &str, keys: &[&'static str], model: &str) -> Option<Vec<String>> {
    if (task, model) == ("birth", "simplified") {
        return None;
    }
    let all = keys.iter().chain(&PLAN).chain(sizes(model)).map(|w| w.to_string());
    Some(all.chain([format!("model={model}")]).collect())
}

fn config(task: &str, words: &[String]) -> Config {
    let mut layers = paper::preset(task, false).unwrap();
    layers.push(config::parse_overrides(words).unwrap());
    config::resolve(&layers).unwrap()
}

fn each_pair(
    tasks: &[(&'static str, &'static [&'static str])],
    mut check: impl FnMut(&str, &str, Vec<String>),
) {
    let mut count = 0;
    for (task, keys) in tasks {
        for model in MODELS {
            if let Some(words) = words(task, keys, model) {
                check(task, model, words);
                count += 1;
            }
        }
    }
    assert_eq!(count, 14, "3 tasks with 5 models but one");
}

fn loss(model: &dyn Model<f64>, batch: &Batch, params: &[f64]) -> f64 {
    let blocks = model.layout().blocks().len();
    let mut ws = model.workspace(batch.kind(), batch.seqs()).unwrap();
    let mut grad = vec![0.0; params.len()];
    let sum = model.loss_and_grad(params, batch, &vec![false; blocks], &mut ws, &mut grad).unwrap();
    sum.value() / divisor(batch.total_weight())
}

/// Central differences of two step sizes: where they agree, no kink of a rectifier lies between.
#[test]
fn gradients_of_every_block_are_central_differences() {
    each_pair(&TASKS, |task, name, words| {
        let config = config(task, &words);
        let setup = paper::experiment(&config).unwrap().setup(&config).unwrap();
        let source = setup.train().unwrap();
        let model = config.model.build::<f64>(setup.vocab(), config.task.seq_len()).unwrap();
        let mut batch = source.batch(6).unwrap();
        source.fill(0, 6, &mut source.work(), &mut batch);
        let mut draw = noise(7);
        let mut params: Vec<f64> = (0..model.layout().len()).map(|_| 0.4 * draw()).collect();
        let blocks = model.layout().blocks().to_vec();
        let active = model.trainable().to_vec();
        let mut grad = vec![0.0; params.len()];
        let mut ws = model.workspace(batch.kind(), 6).unwrap();
        model.loss_and_grad(&params, &batch, &active, &mut ws, &mut grad).unwrap();
        let by = divisor(batch.total_weight());
        for (block, _) in blocks.iter().zip(&active).filter(|(_, on)| **on) {
            let largest = grad[block.range()].iter().fold(0.0f64, |m, g| m.max(g.abs())) / by;
            let (mut checked, mut tried) = (0, 0);
            for i in block.range().step_by((block.len() / 12).max(1)) {
                let difference = |params: &mut [f64], h: f64| {
                    let at = params[i];
                    let [up, down] = [h, -h].map(|h| {
                        params[i] = at + h;
                        loss(model.as_ref(), &batch, params)
                    });
                    params[i] = at;
                    (up - down) / (2.0 * h)
                };
                let [a, b] = [1e-4, 5e-5].map(|h| difference(&mut params, h));
                // Richardson: the error of order h² goes.
                let found = b + (b - a) / 3.0;
                tried += 1;
                if (a - b).abs() > 1e-5 * (largest + 1e-3) {
                    continue;
                }
                checked += 1;
                let error = (found - grad[i] / by).abs();
                assert!(
                    error <= 1e-6 * largest + 1e-11,
                    "{task} {name} {} entry {i}: {found} against {}",
                    block.name(),
                    grad[i] / by
                );
            }
            assert!(2 * checked > tried, "{task} {name} {}: {checked} of {tried}", block.name());
        }
    });
}

fn run(task: &str, words: &[String], folder: &Path) {
    let mut args = vec!["run", task];
    args.extend(words.iter().map(String::as_str));
    args.extend(["--out", text(folder), "--threads", "2"]);
    ok(&args);
}

#[track_caller]
fn same(a: &Path, b: &Path) {
    for file in ["config.toml", "metrics.jsonl", "checkpoint.safetensors", "attention.npz"] {
        let read = |folder: &Path| fs::read(folder.join(file)).unwrap_or_default();
        assert!(read(a) == read(b), "{} and {}: {file} differs", a.display(), b.display());
    }
}

#[test]
fn runs_resume_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    each_pair(&TASKS, |task, name, words| {
        let [whole, cut] = ["whole", "cut"].map(|n| dir.path().join(format!("{task}-{name}-{n}")));
        run(task, &words, &whole);
        fs::create_dir(&cut).unwrap();
        fs::copy(whole.join("config.toml"), cut.join("config.toml")).unwrap();
        stop_at(&cut, 5);
        assert!(cut.join("checkpoint.safetensors").exists() && !cut.join("summary.json").exists());
        ok(&["run", "--resume", text(&cut), "--threads", "1"]);
        same(&whole, &cut);
        // An evaluation of what was trained, and pictures of it.
        let summary = fs::read_to_string(whole.join("summary.json")).unwrap();
        assert!(summary.contains("\"test_loss\""), "{task} {name}: {summary}");
        for file in ["attention.npz", "figures/overview.png"] {
            assert!(whole.join(file).is_file(), "{task} {name}: no {file}");
        }
    });
}

/// The parameters of a run's checkpoint and a batch of its task through `grad`.
#[test]
fn grad_gives_the_loss_and_gradient_of_the_library() {
    let dir = tempfile::tempdir().unwrap();
    each_pair(&TASKS, |task, name, words| {
        let at = |file: &str| dir.path().join(format!("{task}-{name}-{file}"));
        let config = config(task, &words);
        let setup = paper::experiment(&config).unwrap().setup(&config).unwrap();
        let source = setup.train().unwrap();
        let (s, t) = (setup.vocab(), config.task.seq_len());
        let model = config.model.build::<f64>(s, t).unwrap();
        let mut batch = source.batch(5).unwrap();
        source.fill(40, 5, &mut source.work(), &mut batch);
        if batch.total_weight() == 0.0 {
            batch.parts_mut().weights.fill(1.0);
        }
        let mut draw = noise(3);
        let params: Vec<f64> = (0..model.layout().len()).map(|_| 0.3 * draw()).collect();
        let blocks = model.layout().blocks();
        let arrays: Vec<(String, Array)> = blocks
            .iter()
            .map(|b| (b.name().into(), Array::new(b.shape(), params[b.range()].to_vec()).unwrap()))
            .collect();
        let named: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (n.as_str(), a)).collect();
        write_arrays(&at("p.npz"), &named, None).unwrap();
        let integers = |v: &[u32]| v.iter().map(|x| i64::from(*x)).collect::<Vec<_>>();
        let tokens = Array::new(&[5, t], integers(batch.tokens())).unwrap();
        let weights = batch.weights().to_vec();
        let file = match batch.kind() {
            Targets::Law => vec![
                ("tokens", tokens),
                ("targets", Array::new(&[5, s], batch.laws().to_vec()).unwrap()),
                ("weights", Array::vector(weights)),
            ],
            Targets::Labels => vec![
                ("tokens", tokens),
                ("labels", Array::new(&[5, t], integers(batch.labels())).unwrap()),
                ("mask", Array::new(&[5, t], weights).unwrap()),
            ],
        };
        let named: Vec<(&str, &Array)> = file.iter().map(|(n, a)| (*n, a)).collect();
        write_arrays(&at("b.npz"), &named, None).unwrap();
        let mut args = vec!["grad".to_string(), "--model".into(), name.into()];
        let of_model = |w: &&&str| !w.starts_with("init");
        args.extend(sizes(name).iter().filter(of_model).map(|w| w.to_string()));
        if name == "simplified" {
            args.push("eps=0.01".into());
        }
        for (flag, path) in [("--params", at("p.npz")), ("--batch", at("b.npz")), ("--out", at("g.npz"))] {
            args.extend([flag.to_string(), text(&path).into()]);
        }
        ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let found = read_arrays(&at("g.npz")).unwrap();
        let expected = loss(model.as_ref(), &batch, &params);
        let loss = found["loss"].to_f64_vec()[0];
        assert!((loss - expected).abs() <= 1e-13 * expected.abs(), "{task} {name}: {loss}, {expected}");
        let mut grad = vec![0.0; params.len()];
        let mut ws = model.workspace(batch.kind(), 5).unwrap();
        let active = model.trainable().to_vec();
        model.loss_and_grad(&params, &batch, &active, &mut ws, &mut grad).unwrap();
        let by = divisor(batch.total_weight());
        for (block, _) in blocks.iter().zip(&active).filter(|(_, on)| **on) {
            let own = found[block.name()].to_f64_vec();
            let largest = own.iter().fold(0.0f64, |m, g| m.max(g.abs()));
            for (a, b) in own.iter().zip(&grad[block.range()]) {
                assert!((a - b / by).abs() <= 1e-12 * largest, "{task} {name} {}", block.name());
            }
        }
    });
}

/// The first block waits: until then it keeps the bits of its start, and the others move.
#[test]
fn any_block_of_any_model_can_wait() {
    let dir = tempfile::tempdir().unwrap();
    each_pair(&TASKS, |task, name, mut words| {
        let folder = dir.path().join(format!("{task}-{name}"));
        let model = config(task, &words).model.build::<f64>(4, 6).unwrap();
        let first = model.trainable().iter().position(|can| *can).unwrap();
        let last = model.trainable().iter().rposition(|can| *can).unwrap();
        let [first, last] = [first, last].map(|b| model.layout().blocks()[b].name().to_string());
        words.extend([format!("freeze_until=5:{first}"), "optimizer=adamw".into(), "beta1=0.8".into()]);
        run(task, &words, &folder);
        let block = |step: u64, name: &str| {
            let other = dir.path().join(format!("{task}-{name}-{step}"));
            let _ = fs::remove_dir_all(&other);
            fs::create_dir(&other).unwrap();
            fs::copy(folder.join("config.toml"), other.join("config.toml")).unwrap();
            stop_at(&other, step);
            let arrays = read_arrays(&other.join("checkpoint.safetensors")).unwrap();
            arrays[name].to_f64_vec()
        };
        assert_eq!(block(3, &first), block(5, &first), "{task} {name}: {first} waits");
        assert_ne!(block(3, &last), block(5, &last), "{task} {name}: {last} trains");
        let end = read_arrays(&folder.join("checkpoint.safetensors")).unwrap();
        let end = end[&first].to_f64_vec();
        // With all weights at zero only the output has a gradient.
        let still = block(5, &first) == end;
        assert!(!still || ["disentangled", "mlp_transformer"].contains(&name), "{task} {name}: {first}");
    });
}

/// Values of a key of the metrics, one for each evaluation.
fn logged(folder: &Path, key: &str) -> Vec<f64> {
    let log = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let lines = log.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    lines.map(|line| line[key].as_f64().unwrap()).collect()
}

#[test]
fn every_pair_learns_at_the_rate_that_it_has_by_default() {
    let dir = tempfile::tempdir().unwrap();
    each_pair(&TASKS, |task, name, mut words| {
        let folder = dir.path().join(format!("{task}-{name}"));
        words.retain(|w| !["lr=", "steps=", "batch="].iter().any(|k| w.starts_with(k)));
        words.extend(["steps=60", "batch=64"].map(String::from));
        run(task, &words, &folder);
        let loss = logged(&folder, "test_loss");
        assert!(loss[loss.len() - 1] < loss[0], "{task} {name}: {loss:?}");
    });
}

#[test]
fn every_pair_trains_on_its_population() {
    let dir = tempfile::tempdir().unwrap();
    each_pair(&POPULATIONS, |task, name, mut words| {
        let folder = dir.path().join(format!("{task}-{name}"));
        // The population is the batch and the test set.
        words.retain(|w| !w.starts_with("batch=") && !w.starts_with("test_size="));
        words.push("source=exact".into());
        run(task, &words, &folder);
        assert!(logged(&folder, "test_loss").into_iter().all(|loss| loss > 0.0), "{task} {name}");
    });
}

#[test]
fn a_pair_that_makes_no_sense_is_refused_with_a_sentence() {
    let words = ["simplified", "predicts the symbol after the last position only"];
    refused(&["run", "birth", "model=simplified", "--quick"], 2, &words);
    refused(&["run", "birth", "model=simplified", "optimizer=staged", "steps1=10", "lr2=1"], 2, &[]);
    let out = popgrad(&["run", "chain", "model=transformer", "heads=3"]);
    assert_eq!(out.status.code(), Some(2));
}
