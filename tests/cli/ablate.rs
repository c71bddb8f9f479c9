//! `ablate`: the whole model is the run's test loss; parts replaced by themselves change nothing;
//! means by a formula; the heads that the papers describe are found.

use crate::support::{ok, refused, text};
use popgrad::batch::Batch;
use popgrad::config::Config;
use popgrad::model::Report;
use popgrad::report::arrays::read_arrays;
use popgrad::rng::Purpose;
use popgrad::{paper, run::params};
use serde_json::Value;
use std::path::Path;

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&ok(&[&["ablate"], args, &["--json"]].concat())).unwrap()
}

fn train(folder: &Path, keys: &[&str]) {
    ok(&[&["run"], keys, &["--out", text(folder)]].concat());
}

/// The change of the loss without `name`.
fn change(found: &Value, name: &str) -> f64 {
    let rows = found["rows"].as_array().unwrap();
    let row = rows.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("no row {name}: {found}"));
    row["change"].as_f64().unwrap_or(f64::INFINITY)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

const SHORT: [&str; 7] =
    ["steps=3", "eval_every=3", "batch=64", "checkpoint_every=3", "dtype=f64", "lr=0.05", "shards=2"];
const SMALL: [&str; 3] = ["S=3", "T=6", "test_size=150"];
const BIRTH: [&str; 6] = ["corpus=dirichlet", "N=7", "alpha=0.3", "T=20", "K=2", "dim=16"];

#[test]
fn the_whole_model_has_the_runs_test_loss() {
    let dir = tempfile::tempdir().unwrap();
    let eps = ["model=simplified", "eps=0.05"];
    for (i, (preset, keys)) in [
        ("chain", &[&SMALL[..], &["model=disentangled", "heads=2,1", "init=0.1"]].concat()[..]),
        ("chain", &[&SMALL[..], &eps].concat()),
        ("chain", &[&SMALL[..], &["model=mlp_transformer"]].concat()),
        ("two-parents", &[&SMALL[..], &["model=transformer", "dim=8", "heads=2"]].concat()),
        ("birth", &[&BIRTH[..], &["test_size=40", "ff1=relu", "ff2=linear"]].concat()),
        ("birth", &[&BIRTH[..], &["test_size=40", "model=transformer", "layers=2", "heads=2"]].concat()),
    ]
    .into_iter()
    .enumerate()
    {
        let folder = dir.path().join(i.to_string());
        train(&folder, &[&[preset], &SHORT[..], keys].concat());
        let found = json(&[text(&folder)]);
        let summary: Value =
            serde_json::from_str(&std::fs::read_to_string(folder.join("summary.json")).unwrap()).unwrap();
        let (own, logged) = (number(&found["whole"]["loss"]), number(&summary["test_loss"]));
        assert!((own - logged).abs() < 1e-11 * logged, "{preset} {keys:?}: {own} {logged}");
        assert_eq!(found["step"], 3);
        match preset {
            "birth" => {
                assert!(found["whole"]["excess"].is_null());
                let key = if keys.contains(&"model=transformer") { "loss_head" } else { "acc_end" };
                let logged = &summary[&format!("{key}_test")];
                assert!((number(&found["whole"][key]) - number(logged)).abs() < 1e-11, "{key}");
            }
            _ => {
                let excess = number(&found["whole"]["excess"]);
                assert!((excess - number(&summary["gap"])).abs() < 1e-11);
                assert!(found["whole"]["acc_end"].is_null());
            }
        }
        // The same bits for any number of threads; itself in place of itself is nothing.
        let one = ok(&["ablate", text(&folder), "--with", "mean", "--threads", "1", "--json"]);
        assert_eq!(one, ok(&["ablate", text(&folder), "--with", "mean", "--threads", "3", "--json"]));
        for args in [&["--with", text(&folder)][..], &["--with", "mean", "--sequences", "1"]] {
            let same = match ok(&[&["ablate", text(&folder), "--json"], args].concat()) {
                text if text.starts_with('{') => serde_json::from_str::<Value>(&text).unwrap(),
                other => panic!("{other}"),
            };
            let rows = same["rows"].as_array().unwrap();
            assert!(!rows.is_empty());
            assert!(rows.iter().all(|r| r["change"] == 0.0), "{args:?} {same}");
        }
        let zeros = found["rows"].as_array().unwrap();
        assert!(zeros.iter().any(|r| r["part"] == "head" && r["change"] != 0.0), "{found}");
        assert!(zeros.iter().any(|r| r["part"] == "block"));
    }
}

#[test]
fn populations_are_the_test_set_where_a_run_trains_on_them() {
    let dir = tempfile::tempdir().unwrap();
    let exact = dir.path().join("exact");
    let keys = ["source=exact", "S=2", "T=5", "roots=uniform", "steps=3", "eval_every=3", "dtype=f64"];
    train(&exact, &[&["chain", "checkpoint_every=3", "lr=0.3"], &keys[..]].concat());
    let algorithm1 = dir.path().join("algorithm1");
    train(&algorithm1, &["algorithm1", "--quick", "T=5"]);
    for (folder, loss) in [(&exact, "test_loss"), (&algorithm1, "loss")] {
        let found = json(&[text(folder), "--with", "mean"]);
        assert_eq!(found["sequences"], 32);
        let summary = std::fs::read_to_string(folder.join("summary.json")).unwrap();
        let summary: Value = serde_json::from_str(&summary).unwrap();
        let (own, logged) = (number(&found["whole"]["loss"]), number(&summary[loss]));
        assert!((own - logged).abs() < 1e-11, "{own} {logged}");
        let shown = ok(&["ablate", text(folder)]);
        assert!(shown.contains(", 32 sequences of the population;"), "{shown}");
        assert!(!shown.contains("-0.0000"), "{shown}");
        refused(&["ablate", text(folder), "--sequences", "31"], 2, &["sequences: 31", "population"]);
    }
    let found = json(&[text(&algorithm1)]);
    let summary = std::fs::read_to_string(algorithm1.join("summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    let excess = number(&summary["loss"]) - number(&summary["bayes"]);
    assert!((number(&found["whole"]["excess"]) - excess).abs() < 1e-11);
    // f = 0 has the loss −ln ε; A2 = 0 is layer 0 without an output.
    let rows = found["rows"].as_array().unwrap();
    let of = |name: &str| number(&rows.iter().find(|r| r["name"] == name).unwrap()["scores"]["loss"]);
    assert!((of("layer1.head0.out") + 0.01f64.ln()).abs() < 1e-12);
    assert!((of("layer0.head0.out") - of("A2")).abs() < 1e-13);
}

/// The run's first test sequences, its parameters, and its model.
fn loaded(folder: &Path, n: usize) -> (Config, Batch, Vec<f64>) {
    let config = Config::read(&folder.join("config.toml")).unwrap();
    let task = paper::causal::task(&config).unwrap();
    let source = task.sampled(config.plan.seed, Purpose::Test);
    let mut batch = source.batch(n).unwrap();
    source.fill(0, n, &mut source.work(), &mut batch);
    let model = config.model.build::<f64>(task.vocab(), task.seq_len()).unwrap();
    let params = params::read(&folder.join("checkpoint.safetensors"), model.layout()).unwrap();
    (config, batch, params)
}

/// Layer 1 of `disentangled`: logits are W's upper rows from x¹ at the query, and its lower rows
/// from the head, whose mean is the same for all sequences.
#[test]
fn a_mean_is_the_mean_of_the_heads_output() {
    let (dir, n) = (tempfile::tempdir().unwrap(), 23);
    let folder = dir.path().join("run");
    train(&folder, &[&["chain", "heads=1,1", "init=0.7"], &SHORT[..], &SMALL[..]].concat());
    let (config, batch, mut params) = loaded(&folder, n);
    let (s, t) = (3, 6);
    let (d0, d1) = (s + t, 2 * (s + t));
    let model = config.model.build::<f64>(s, t).unwrap();
    let w = model.layout().find("W").unwrap().range();
    // W starts at 0 and has moved a little: make it matter.
    params[w.clone()].iter_mut().enumerate().for_each(|(i, x)| *x += (i as f64).sin());
    let block = |name: &str| params[model.layout().find(name).unwrap().range()].to_vec();
    let edited = dir.path().join("edited");
    let arrays: Vec<_> = model
        .layout()
        .blocks()
        .iter()
        .map(|b| (b.name(), popgrad::report::arrays::Array::new(b.shape(), block(b.name())).unwrap()))
        .collect();
    let named: Vec<_> = arrays.iter().map(|(n, a)| (*n, a)).collect();
    let file = dir.path().join("p.npz");
    popgrad::report::arrays::write_arrays(&file, &named, None).unwrap();
    let start = [&["chain", "heads=1,1", "lr=1e-300", "steps=1"], &SHORT[1..5], &SMALL[..]].concat();
    let start: Vec<&str> = start.into_iter().filter(|k| !k.starts_with("eval")).collect();
    train(&edited, &[&start[..], &["--params", text(&file), "eval_every=1"]].concat());
    assert_eq!(loaded(&edited, n).2, params);

    let (mut ws, mut maps) = (model.workspace(batch.kind(), n).unwrap(), vec![0.0; 2 * t * t]);
    let (mut mean, mut own) = (vec![0.0; d1], Vec::new());
    for b in 0..n {
        let tokens = batch.sequence(b);
        model.attention(&params, tokens, &mut ws, &mut maps).unwrap();
        // x¹ (T, 2 d0): one-hot token and position, then layer 0's mixture of them.
        let one = |j: usize, c: usize| f64::from(u8::from(c == tokens[j] as usize || c == s + j));
        let x1 = |j: usize, c: usize| match c < d0 {
            true => one(j, c),
            false => (0..=j).map(|k| maps[j * t + k] * one(k, c - d0)).sum(),
        };
        let row = &maps[t * t + (t - 1) * t..][..t];
        for (c, m) in mean.iter_mut().enumerate() {
            *m += (0..t).map(|j| row[j] * x1(j, c)).sum::<f64>() / n as f64;
        }
        own.push((0..d1).map(|c| x1(t - 1, c)).collect::<Vec<f64>>());
    }
    let w = block("W");
    let mut loss = 0.0;
    for (b, x) in own.iter().enumerate() {
        let f: Vec<f64> = x.iter().chain(&mean).copied().collect();
        let logits: Vec<f64> = (0..s).map(|k| (0..2 * d1).map(|c| f[c] * w[c * s + k]).sum()).collect();
        let log_z = logits.iter().map(|z| z.exp()).sum::<f64>().ln();
        loss -= batch.law(b).iter().zip(&logits).map(|(y, z)| y * (z - log_z)).sum::<f64>() / n as f64;
    }
    let found = json(&[text(&edited), "--with", "mean", "--sequences", "23"]);
    let rows = found["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["layer0.head0.out", "layer1.head0.out"], "a block has no mean");
    assert!((number(&rows[1]["scores"]["loss"]) - loss).abs() < 1e-13, "{} {loss}", rows[1]);
    assert!(change(&found, "layer1.head0.out").abs() > 1e-4);
    // Another run's head on the same sequences: only its own parameters differ.
    let mut report = Report::new(model.as_ref(), batch.kind(), n, false, false);
    let other = loaded(&folder, n).2;
    let a0 = model.layout().find("A.0").unwrap().range();
    params[a0.clone()].copy_from_slice(&other[a0]);
    model.report(&params, &batch, &mut ws, &mut report).unwrap();
    let expected = report.losses.iter().sum::<f64>() / n as f64;
    let found = json(&[text(&edited), "--with", text(&folder), "--sequences", "23"]);
    for name in ["layer0.head0.out", "A.0"] {
        let row = found["rows"].as_array().unwrap().iter().find(|r| r["name"] == name).unwrap();
        assert!((number(&row["scores"]["loss"]) - expected).abs() < 1e-13, "{name}");
    }
}

#[test]
fn the_graph_head_and_the_induction_head_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let [chain, birth] = ["chain", "birth"].map(|name| {
        let folder = dir.path().join(name);
        train(&folder, &[name, "--quick"]);
        folder
    });
    // Without layer 1's view of the parents (layer 0 here) nothing of the graph is left: the loss
    // goes back to its plateau, as it does without layer 1's copy of what follows them.
    for with in ["zero", "mean"] {
        let found = json(&[text(&chain), "--with", with, "--sequences", "2048"]);
        let plateau = 0.5 * number(&found["whole"]["excess"]);
        for name in ["layer0.head0.out", "layer1.head0.out"] {
            assert!(change(&found, name) > plateau.max(0.05), "{name} {with}: {found}");
        }
        // The induction head, and the head at the token before, on which it relies.
        let found = json(&[text(&birth), "--with", with, "--sort", "effect"]);
        assert!(number(&found["whole"]["acc_end"]) > 0.85, "{found}");
        let rows = found["rows"].as_array().unwrap();
        for name in ["layer1.head0.out", "layer0.head0.out"] {
            assert!(change(&found, name) > 1.0, "{name} {with}: {found}");
            let row = rows.iter().find(|r| r["name"] == name).unwrap();
            assert!(number(&row["scores"]["acc_end"]) < 0.5, "{row}");
        }
        let changes: Vec<f64> = rows.iter().map(|r| number(&r["change"]).abs()).collect();
        assert!(changes.is_sorted_by(|a, b| a >= b), "{changes:?}");
    }
    let table = ok(&["ablate", text(&birth), "--sequences", "16"]);
    assert!(table.contains("layer1.head0.out  ") && table.contains("acc_end"), "{table}");
}

#[test]
fn snapshots_are_taken_by_their_step() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    train(&folder, &[&["chain", "snapshots=0,2"], &SHORT[..], &SMALL[..]].concat());
    // Update 0: W = 0, every symbol alike.
    let start = json(&[text(&folder), "--step", "0"]);
    assert_eq!(start["step"], 0);
    assert!((number(&start["whole"]["loss"]) - 3f64.ln()).abs() < 1e-13);
    let [last, named] = [json(&[text(&folder)]), json(&[text(&folder), "--step", "3"])];
    assert_eq!(last, named);
    refused(&["ablate", text(&folder), "--step", "1"], 2, &["step: 1", "allowed: 0, 2, 3"]);
    // Its own start in place of a head that has hardly moved: A = 0 then.
    let back = json(&[text(&folder), "--with", text(&folder), "--with-step", "0"]);
    assert_eq!(back["with_step"], 0);
    let w = back["rows"].as_array().unwrap().iter().find(|r| r["name"] == "W").unwrap();
    assert!((number(&w["scores"]["loss"]) - 3f64.ln()).abs() < 1e-13, "the W of update 0");
    let held = read_arrays(&folder.join("snapshots/step-000000000002.safetensors")).unwrap();
    assert!(held.contains_key("A.0"));
    // A changed bit is seen.
    let kept = folder.join("snapshots/step-000000000002.safetensors");
    let mut bytes = std::fs::read(&kept).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&kept, bytes).unwrap();
    refused(&["ablate", text(&folder), "--step", "2"], 1, &["step-000000000002"]);
}

#[test]
fn what_cannot_be_ablated_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [run, other, empty] = ["run", "other", "empty"].map(|n| dir.path().join(n));
    train(&run, &[&["chain"], &SHORT[..], &SMALL[..]].concat());
    train(&other, &[&["chain", "heads=2,1"], &SHORT[..], &SMALL[..]].concat());
    std::fs::create_dir(&empty).unwrap();
    let with = |more: &[&'static str]| [&["ablate", text(&run)], more].concat();
    refused(&["ablate", text(&empty)], 2, &["run: ", "no config.toml"]);
    refused(&with(&["--with", "nothing"]), 2, &["with: `nothing`", "zero, mean, or the folder"]);
    refused(&["ablate", text(&run), "--with", text(&empty)], 2, &["no config.toml"]);
    refused(&["ablate", text(&run), "--with", text(&other)], 2, &["with: ", "heads: [2, 1]", "[1, 1]"]);
    refused(&with(&["--with-step", "3"]), 2, &["with-step: 3 with --with zero"]);
    refused(&with(&["--step", "7"]), 2, &["step: 7", "kept no snapshots"]);
    refused(&with(&["--step", "-1"]), 2, &["step: -1", "integers"]);
    refused(&with(&["--sequences", "151"]), 2, &["sequences: 151", "1 to 150"]);
    refused(&with(&["--sequences", "0"]), 2, &["sequences: 0"]);
    refused(&with(&["--sort", "size"]), 2, &["unknown sort `size`", "effect"]);
}
