//! `sample`: the bits of the run's own sources, with the transitions that they were drawn from.

use crate::support::{ok, refused, text};
use popgrad::config;
use popgrad::paper;
use popgrad::report::arrays::{Array, read_arrays};
use serde_json::Value;
use std::collections::BTreeMap;

fn drawn(args: &[&str]) -> BTreeMap<String, Array> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("s.npz");
    ok(&[&["sample"], args, &["--out", text(&out)]].concat());
    read_arrays(&out).unwrap()
}

/// Sequences `first ..` of the sources of a run: tokens, then laws or labels and weights.
fn of_run(preset: &str, keys: &[&str], test: bool, first: u64, n: usize) -> Vec<Vec<f64>> {
    let keys: Vec<String> = keys.iter().map(|k| k.to_string()).collect();
    let mut layers = paper::preset(preset, false).unwrap();
    layers.push(config::parse_overrides(&keys).unwrap());
    let config = config::resolve(&layers).unwrap();
    let setup = paper::experiment(&config).unwrap().setup(&config).unwrap();
    let source = if test { setup.tests().unwrap().remove(0) } else { setup.train().unwrap() };
    let mut batch = source.batch(n).unwrap();
    source.fill(first, n, &mut source.work(), &mut batch);
    let wide = |x: &[u32]| x.iter().map(|z| f64::from(*z)).collect::<Vec<f64>>();
    match batch.laws().is_empty() {
        true => vec![wide(batch.tokens()), wide(batch.labels()), batch.weights().to_vec()],
        false => vec![wide(batch.tokens()), batch.laws().to_vec()],
    }
}

const BIRTH: [&str; 5] = ["corpus=dirichlet", "N=6", "alpha=0.5", "T=9", "K=2"];

#[test]
fn sequences_are_the_runs() {
    for (preset, keys) in [
        ("chain", &["S=4", "T=7"][..]),
        ("random", &["S=4", "T=7", "seed=3", "labels=symbol"]),
        ("two-parents", &["S=3", "T=6", "seed=2"]),
        ("birth", &[&BIRTH[..], &["triggers=random", "loss=all"]].concat()),
        ("birth", &BIRTH),
    ] {
        for test in [false, true] {
            let more = if test { &["--test"][..] } else { &[] };
            let found = drawn(&[&[preset, "5", "--first", "11"], keys, more].concat());
            let expected = of_run(preset, keys, test, 11, 5);
            let names =
                if preset == "birth" { &["tokens", "labels", "mask"][..] } else { &["tokens", "targets"] };
            for (name, expected) in names.iter().zip(&expected) {
                assert_eq!(&found[*name].to_f64_vec(), expected, "{preset} {name} {test}");
            }
        }
    }
}

#[test]
fn targets_are_rows_of_the_transitions() {
    let found = drawn(&["causal_tree", "6", "S=3", "T=5", "graph=chain", "--seed", "4"]);
    assert_eq!(found["pi"].shape(), [6, 3, 3]);
    let (tokens, pi) = (found["tokens"].to_f64_vec(), found["pi"].to_f64_vec());
    let (targets, mu) = (found["targets"].to_f64_vec(), found["mu"].to_f64_vec());
    for b in 0..6 {
        let pi = &pi[b * 9..(b + 1) * 9];
        let query = tokens[b * 5 + 4] as usize;
        assert_eq!(targets[b * 3..(b + 1) * 3], pi[query * 3..(query + 1) * 3]);
        for to in 0..3 {
            let next: f64 = (0..3).map(|from| mu[b * 3 + from] * pi[from * 3 + to]).sum();
            assert!((next - mu[b * 3 + to]).abs() < 1e-14, "mu is stationary");
        }
    }
    assert!(!drawn(&["chain", "2", "roots=uniform", "S=3", "T=5"]).contains_key("mu"));
    // Two parents: the row of the target's parents, in all of S² rows.
    let found = drawn(&["causal_dag", "6", "graph=ngram", "order=2", "S=3", "T=5"]);
    assert_eq!((found["pi2"].shape(), found["pi0"].shape()), (&[6, 9, 3][..], &[6, 1, 3][..]));
    let (tokens, pi) = (found["tokens"].to_f64_vec(), found["pi2"].to_f64_vec());
    for b in 0..6 {
        let row = (tokens[b * 5 + 3] * 3.0 + tokens[b * 5 + 4]) as usize;
        assert_eq!(found["targets"].to_f64_vec()[b * 3..(b + 1) * 3], pi[(b * 9 + row) * 3..][..3]);
    }
    assert!(pi.chunks(3).all(|r| (r.iter().sum::<f64>() - 1.0).abs() < 1e-15 * 4.0));
    // Triggers: a row of one entry each, elsewhere the bigrams; every step has a probability.
    let found = drawn(&[&["trigger_bigram", "7", "triggers=random"], &BIRTH[..]].concat());
    let [tokens, labels, pi, seen] = ["tokens", "labels", "pi", "seen"].map(|name| found[name].to_f64_vec());
    let [triggers, outputs, bigram] = ["triggers", "outputs", "bigram"].map(|n| found[n].to_f64_vec());
    for b in 0..7 {
        let of = |from: f64, to: f64| pi[b * 36 + from as usize * 6 + to as usize];
        let own = &triggers[b * 2..b * 2 + 2];
        for i in b * 9..b * 9 + 9 {
            assert!(of(tokens[i], labels[i]) > 0.0);
            assert_eq!(seen[i] > 0.0, own.contains(&tokens[i]));
        }
        for q in 0..6 {
            let row = &pi[b * 36 + q * 6..][..6];
            match own.iter().position(|own| *own == q as f64) {
                Some(k) => {
                    assert_eq!((of(q as f64, outputs[b * 2 + k]), row.iter().sum::<f64>()), (1.0, 1.0))
                }
                None => assert_eq!(row, &bigram[q * 6..][..6]),
            }
        }
    }
}

#[test]
fn json_text_and_batches_for_grad() {
    let keys = ["chain", "3", "S=3", "T=5"];
    let found: Value = serde_json::from_str(&ok(&[&["sample"], &keys[..], &["--json"]].concat())).unwrap();
    let arrays = drawn(&keys);
    for name in ["tokens", "targets", "pi"] {
        let mut flat = Vec::new();
        fn flatten(v: &Value, out: &mut Vec<f64>) {
            match v.as_array() {
                Some(list) => list.iter().for_each(|v| flatten(v, out)),
                None => out.push(v.as_f64().unwrap()),
            }
        }
        flatten(&found[name], &mut flat);
        assert_eq!(flat, arrays[name].to_f64_vec(), "{name}");
    }
    assert_eq!((found["pi"].as_array().unwrap().len(), &found["pi"][2][1][0].is_number()), (3, &true));
    let shown = ok(&["sample", "chain", "S=3", "T=5"]);
    assert_eq!(shown.lines().count(), 8);
    assert!(shown.lines().all(|l| l.contains("->")), "{shown}");
    let letters = ok(&["sample", "birth", "2", "--quick"]);
    assert!(letters.lines().all(|l| l.chars().count() == 64), "{letters}");
    // A file of these arrays alone is a batch.
    let dir = tempfile::tempdir().unwrap();
    let [batch, params, out] = ["b.npz", "p.npz", "g.npz"].map(|n| dir.path().join(n));
    ok(&[&["sample"], &keys[..], &["--out", text(&batch), "--names", "tokens,targets"]].concat());
    let array = |n: usize| Array::new(&[n, n], vec![0.25; n * n]).unwrap();
    popgrad::report::arrays::write_arrays(&params, &[("A1", &array(5)), ("A2", &array(3))], None).unwrap();
    let files = ["--params", text(&params), "--batch", text(&batch), "--out", text(&out)];
    ok(&[&["grad", "--model", "simplified", "eps=0.01"], &files[..]].concat());
}

#[test]
fn with_a_file_json_names_it() {
    let dir = tempfile::tempdir().unwrap();
    // Files of these names that are nobody's results are no reason to refuse.
    std::fs::write(dir.path().join("study.toml"), "").unwrap();
    let file = dir.path().join("b.npz");
    let found: Value = serde_json::from_str(&ok(&[
        "sample",
        "chain",
        "200000",
        "S=3",
        "T=4",
        "--out",
        text(&file),
        "--json",
    ]))
    .unwrap();
    assert_eq!((&found["file"], &found["shapes"]["tokens"]), (&text(&file).into(), &[200_000, 4][..].into()));
    assert!(found["tokens"].is_null() && file.exists());
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    refused(&["sample", "chian"], 2, &["unknown preset or task `chian`", "chain"]);
    refused(&["sample", "chain", "0"], 2, &["N: `0`"]);
    refused(&["sample", "chain", "many"], 2, &["N: `many`"]);
    refused(&["sample", "chain", "2", "3"], 2, &["N", "2", "3"]);
    refused(&["sample", "chain", "lr=1"], 2, &["lr: not of a task"]);
    refused(&["sample", "chain", "heads=2"], 2, &["heads: not of a task"]);
    refused(&["sample", "chain", "source=exact"], 2, &["source: not of a task"]);
    refused(&["sample", "causal_tree", "graph=ngram", "order=2"], 2, &["task: causal_dag by its keys"]);
    refused(&["sample", "chain", "--names", "tokens,tokens"], 2, &["names: `tokens` twice"]);
    refused(&["sample", "chain", "--names", "mask"], 2, &["unknown array `mask`"]);
    refused(&["sample", "chain", "100000", "--json"], 2, &["json: ", "--out"]);
    refused(&["sample", "chain", "--names", "pi"], 2, &["names: without tokens"]);
    refused(&["sample", "chain", "4294967296", "S=100"], 2, &["memory (N)"]);
    refused(&["sample", "chain", "--out", "a.txt"], 1, &["a.txt", ".npz"]);
    assert!(ok(&["sample", "algorithm1", "2"]).contains("->"), "its task, drawn");
}
