//! `probe`: the numbers that a run logs, at parameters from a file.

use crate::support::{ok, popgrad, refused, text};
use popgrad::report::arrays::{Array, read_arrays, write_arrays};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Trains a little in f64; returns the last record and the checkpoint, a file of parameters.
fn trained(dir: &Path, name: &str, keys: &[&str]) -> (Value, PathBuf) {
    let folder = dir.join(name);
    ok(&[&["run"], keys, &["--dtype", "f64", "--out", text(&folder)]].concat());
    let log = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let last = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    (last, folder.join("checkpoint.safetensors"))
}

fn probe(args: &[&str]) -> Value {
    serde_json::from_str(&ok(&[&["probe", "--json"], args].concat())).unwrap()
}

#[test]
fn attention_and_losses_are_those_that_a_run_logs() {
    let dir = tempfile::tempdir().unwrap();
    let keys = [
        "S=3",
        "T=6",
        "steps=3",
        "eval_every=3",
        "batch=64",
        "test_size=128",
        "lr=0.3",
        "checkpoint_every=3",
    ];
    for (name, model) in [("disentangled", &[][..]), ("simplified", &["eps=0.05"]), ("mlp_transformer", &[])]
    {
        let of_model = format!("model={name}");
        let mut words = vec!["chain", of_model.as_str()];
        words.extend(keys.iter().chain(model));
        let (last, params) = trained(dir.path(), name, &words);
        let out = dir.path().join("maps.npz");
        let files = ["--model", name, "--params", text(&params), "--out", text(&out)];
        let mut args = [&files[..], &["graph=chain", "test_size=128"], model].concat();
        let found = probe(&args);
        for key in [
            "test_loss",
            "gap",
            "attention_on_parent_mean",
            "attention_on_parent_min",
            "graph_recovered",
            "graph_argmax",
        ] {
            assert_eq!(found[key], last[key], "{name} {key}");
        }
        assert!(found.get("step").is_none() && found["parents"].is_array());
        // The mean over edges of the attention that the file holds.
        let maps = read_arrays(&out).unwrap();
        assert_eq!(maps.keys().collect::<Vec<_>>(), ["layer1", "layer2"]);
        assert_eq!(maps["layer1"].shape(), [1, 6, 6]);
        let first = maps["layer1"].to_f64_vec();
        let mean = (1..5).map(|i| first[i * 6 + i - 1]).sum::<f64>() / 4.0;
        let logged = last["attention_on_parent_mean"].as_f64().unwrap();
        let near = if name == "mlp_transformer" { 0.05 } else { 1e-14 };
        assert!((mean - logged).abs() < near, "{name}: {mean} {logged}");
        args.push("T=7");
        let out = popgrad(&[&["probe"], &args[..]].concat());
        assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn recall_of_memories_is_that_which_a_run_logs() {
    let dir = tempfile::tempdir().unwrap();
    let task = ["corpus=dirichlet", "alpha=0.3", "K=2", "test_size=64"];
    let mut words = vec![
        "birth",
        "N=9",
        "T=24",
        "dim=16",
        "steps=4",
        "eval_every=4",
        "batch=32",
        "shards=2",
        "ff2=linear",
    ];
    words.extend(task.iter().chain(&["checkpoint_every=4"]));
    let (last, params) = trained(dir.path(), "memory", &words);
    let files = ["--model", "memory", "ff2=linear", "--params", text(&params), "batch=32", "shards=2"];
    let found = probe(&[&files[..], &task].concat());
    for key in [
        "test_loss",
        "acc_end_test",
        "loss_head_test",
        "wk0_acc",
        "wk0_64_acc",
        "wk1_acc",
        "wo1_acc",
        "ff1_loss",
        "norm_layers.0.attention.wk.weight",
    ] {
        assert!(!last[key].is_null() && found[key] == last[key], "{key}: {} {}", found[key], last[key]);
    }
    assert!(found["gradnorm_layers.1.attention.wk.weight"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_cannot_be_probed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.npz");
    let array = |n: usize| Array::new(&[n, n], vec![0.25; n * n]).unwrap();
    write_arrays(&path, &[("A1", &array(5)), ("A2", &array(3))], None).unwrap();
    let files = ["probe", "--model", "simplified", "--params", text(&path)];
    let with = |more: &[&'static str]| [&files[..], more].concat();
    assert!(ok(&with(&["test_size=32"])).contains("attention_on_parent_mean"));
    refused(&with(&["eps=1e-306"]), 2, &["eps: 1e-306"]);
    refused(&with(&["source=exact"]), 2, &["source"]);
    for key in
        ["lr=3", "steps=300", "optimizer=adamw", "eval_every=3", "frozen=A1", "beta0=3", "labels=symbol"]
    {
        let name = key.split('=').next().unwrap_or_default();
        refused(&with(&[key]), 2, &[&format!("{name}: of a training run"), "nothing is trained"]);
    }
    refused(&with(&["S=4"]), 1, &["`A2`", "[4, 4]"]);
    refused(&with(&["grpah=icl"]), 2, &["unknown key `grpah`", "graph"]);
    refused(&with(&["task=trigger_bigram"]), 2, &["model: simplified"]);
    refused(
        &["probe", "--model", "memory", "--params", text(&path)],
        1,
        &["tok_embeddings.weight", "missing"],
    );
}
