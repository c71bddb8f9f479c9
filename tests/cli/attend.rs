//! `attend`: attention is the model's, activations are those of the plain pass, files are whole.

use crate::support::{ok, refused, text};
use popgrad::batch::Targets;
use popgrad::config::Config;
use popgrad::model::trace::Trace;
use popgrad::report::arrays::read_arrays;
use popgrad::run::params;
use serde_json::Value;
use std::path::Path;

fn train(folder: &Path, keys: &[&str]) {
    let short = ["steps=3", "eval_every=3", "checkpoint_every=3", "batch=32", "test_size=64", "dtype=f64"];
    ok(&[&["run"], keys, &short, &["--out", text(folder)]].concat());
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&ok(&[&["attend"], args, &["--json"]].concat())).unwrap()
}

/// The run's pass and parameters.
fn loaded(folder: &Path, vocab: usize) -> (Trace, Vec<f64>) {
    let config = Config::read(&folder.join("config.toml")).unwrap();
    let trace = Trace::new(&config.model, vocab, config.task.seq_len()).unwrap();
    let params = params::read(&folder.join("checkpoint.safetensors"), trace.model().layout()).unwrap();
    (trace, params)
}

#[test]
fn activations_of_token_rows_are_the_models() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    train(&path("run"), &["chain", "S=3", "T=6", "heads=2,1", "init=0.5"]);
    std::fs::write(path("rows"), "0 1 2 0 1 1\n2,2,0,1,0,2\n").unwrap();
    let [run, rows, out, svg] = ["run", "rows", "a.npz", "a.svg"].map(path);
    let args = [text(&run), "--tokens", text(&rows), "--out", text(&out), "--figure", text(&svg)];
    let found = json(&args);
    let arrays = read_arrays(&out).unwrap();
    let (trace, params) = loaded(&run, 3);
    assert_eq!(arrays.len(), trace.points().len() + 1);
    assert_eq!(arrays["tokens"].to_f64_vec(), [0, 1, 2, 0, 1, 1, 2, 2, 0, 1, 0, 2].map(f64::from));
    assert_eq!(arrays["layer0.pattern"].shape(), [2, 2, 6, 6]);
    assert_eq!(arrays["layer0.head1.out"].shape(), [2, 6, 9]);
    assert_eq!(arrays["layer0.resid"].shape(), [2, 6, 27]);
    assert_eq!(arrays["logits"].shape(), [2, 6, 3]);
    for (b, tokens) in [[0, 1, 2, 0, 1, 1], [2, 2, 0, 1, 0, 2]].iter().enumerate() {
        let mut maps = vec![0.0; 3 * 36];
        let mut ws = trace.model().workspace(Targets::Law, 1).unwrap();
        trace.model().attention(&params, tokens, &mut ws, &mut maps).unwrap();
        let own = [
            &arrays["layer0.pattern"].to_f64_vec()[b * 72..(b + 1) * 72],
            &arrays["layer1.pattern"].to_f64_vec()[b * 36..(b + 1) * 36],
        ]
        .concat();
        assert!(own.iter().zip(&maps).all(|(a, b)| (a - b).abs() < 1e-13));
    }
    // What is printed: the last head's row of the first sequence.
    let head = &found["heads"][2];
    assert_eq!(head["name"], "layer1.head0");
    let row = &arrays["layer1.pattern"].to_f64_vec()[30..36];
    let best = head["last"][0]["position"].as_u64().unwrap() as usize;
    assert_eq!(head["last"][0]["attention"], row[best]);
    assert!(row.iter().all(|p| *p <= row[best]));
    let of = |b: usize, i: usize, j: usize| arrays["layer1.pattern"].to_f64_vec()[b * 36 + i * 6 + j];
    let previous = (0..2).flat_map(|b| (1..6).map(move |i| (b, i))).map(|(b, i)| of(b, i, i - 1));
    let previous = previous.sum::<f64>() / 10.0;
    assert!((head["previous"].as_f64().unwrap() - previous).abs() < 1e-15);
    let logits = &arrays["logits"].to_f64_vec()[15..18];
    let z: f64 = logits.iter().map(|z| z.exp()).sum();
    let next = &found["next"][0];
    let token = next["token"].as_u64().unwrap() as usize;
    assert!((next["probability"].as_f64().unwrap() - logits[token].exp() / z).abs() < 1e-14);
    let picture = std::fs::read_to_string(&svg).unwrap();
    assert!(picture.contains("layer0.head1") && picture.contains("layer1.head0"));
    // Only some of them; any number of threads.
    let some = path("b.npz");
    ok(&["attend", text(&run), "--tokens", text(&rows), "--out", text(&some), "--names", "layer1.pattern"]);
    let some = read_arrays(&some).unwrap();
    assert_eq!(some.keys().collect::<Vec<_>>(), ["layer1.pattern", "tokens"]);
    assert!(some["layer1.pattern"].same_bits(&arrays["layer1.pattern"]));
}

#[test]
fn text_goes_through_the_corpus_and_may_be_short() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("corpus"), "abca bcab cabc ababcc").unwrap();
    let corpus = format!("corpus={}", text(&path("corpus")));
    train(&path("run"), &["birth", &corpus, "T=10", "K=2", "dim=8", "ff2=relu", "shards=2"]);
    let [run, short, long] = ["run", "short.npz", "long.safetensors"].map(path);
    let found = json(&[text(&run), "--text", "abc a", "--out", text(&short)]);
    assert_eq!((&found["length"], &found["sequences"]), (&5.into(), &1.into()));
    let arrays = read_arrays(&short).unwrap();
    // Symbols in the order of their characters: blank, a, b, c.
    assert_eq!(arrays["tokens"].to_f64_vec(), [1.0, 2.0, 3.0, 0.0, 1.0]);
    assert_eq!(arrays["layer1.mlp.hidden"].shape(), [1, 5, 32]);
    // The same as the beginning of a longer one, which a file holds.
    std::fs::write(path("words"), "abc abcabc").unwrap();
    ok(&["attend", text(&run), "--text", text(&path("words")), "--out", text(&long)]);
    let whole = read_arrays(&long).unwrap();
    assert_eq!(whole["tokens"].shape(), [1, 10]);
    let (a, b) = (arrays["layer1.resid"].to_f64_vec(), whole["layer1.resid"].to_f64_vec());
    assert_eq!(a, b[..a.len()]);
    let (a, b) = (arrays["layer1.pattern"].to_f64_vec(), whole["layer1.pattern"].to_f64_vec());
    assert!((0..25).all(|e| a[e] == b[e / 5 * 10 + e % 5]));
    let shown = ok(&["attend", text(&run), "--text", "abc a"]);
    assert!(shown.contains("layer1.head0") && shown.contains("next symbol: "), "{shown}");
    let one = json(&[text(&run), "--text", "c"]);
    assert!(one["heads"][0].get("previous").is_none(), "no query but the first");
    refused(&["attend", text(&run), "--text", "abxc"], 2, &["text: `x` at 2", "characters of the corpus"]);
    for file in ["abc.txt", "abc/cab"] {
        let found = format!("text: `{file}`, a file that does not exist");
        refused(&["attend", text(&run), "--text", file], 2, &[&found, "characters of the corpus"]);
    }
    refused(&["attend", text(&run), "--text", ""], 2, &["text: 0 symbols", "1 to 10"]);
    refused(&["attend", text(&run), "--text", "abcabcabcab"], 2, &["text: 11 symbols", "1 to 10"]);
    std::fs::write(path("other"), "abd").unwrap();
    refused(&["attend", text(&run), "--text", text(&path("other"))], 1, &["other: `d` at 2"]);
    refused(&["attend", text(&run), "--text", "a", "--step", "2"], 2, &["step: 2", "no snapshots"]);
}

#[test]
fn what_cannot_be_shown_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    train(&path("run"), &["chain", "S=3", "T=4"]);
    for (name, rows) in [("rows", "0 1 2 0"), ("short", "0 1 2"), ("wide", "0 1 3 0")] {
        std::fs::write(path(name), rows).unwrap();
    }
    let [run, rows, short, wide, out] = ["run", "rows", "short", "wide", "a.npz"].map(path);
    let [run, rows] = [text(&run), text(&rows)];
    refused(&["attend", run], 2, &["--text"]);
    refused(&["attend", run, "--text", "abc"], 2, &["text: a run of task causal_tree", "--tokens FILE"]);
    refused(&["attend", run, "--tokens", text(&short)], 2, &["tokens: 3 symbols", "4, the run's T"]);
    refused(&["attend", run, "--tokens", text(&wide)], 1, &["line 1", "0..=2"]);
    let names = ["--out", text(&out), "--names", "layer0.patern"];
    refused(&[&["attend", run, "--tokens", rows], &names[..]].concat(), 2, &["layer0.pattern"]);
    refused(&["attend", run, "--tokens", rows, "--names", "embed"], 2, &["--out"]);
    refused(&["attend", run, "--tokens", rows, "--out", "a.txt"], 1, &["a.txt", ".npz"]);
    refused(
        &["attend", run, "--tokens", rows, "--figure", "a.gif"],
        2,
        &["figure: a.gif", ".svg, .png or .pdf"],
    );
    assert!(!out.exists());
    // The run's own files stay as they are, and so does a checkpoint of another run beside them.
    let own = path("run").join("checkpoint.safetensors");
    let before = std::fs::read(&own).unwrap();
    for (option, file) in [("--out", "checkpoint.safetensors"), ("--figure", "figures/new.svg")] {
        let file = path("run").join(file);
        let told = ["is in ", "the folder of a run or a study"];
        refused(&["attend", run, "--tokens", rows, option, text(&file)], 2, &told);
        refused(&["sample", "chain", "1", "--out", text(&own)], 2, &told);
        refused(&["compare", run, run, "--out", text(&path("run").join("figures/loss.svg"))], 2, &told);
        for command in [&["export", run, "--out"][..], &["run", "chain", "--out"], &["ood", run, "--out"]] {
            refused(&[command, &[text(&path("run").join("new"))]].concat(), 2, &told);
        }
        refused(&["man", text(&path("run").join("pages"))], 2, &told);
    }
    assert_eq!(std::fs::read(&own).unwrap(), before);
    train(&path("other"), &["chain", "S=3", "T=4", "lr=0.5"]);
    std::fs::copy(path("other").join("checkpoint.safetensors"), &own).unwrap();
    refused(&["attend", run, "--tokens", rows], 1, &["weights of another run"]);
    refused(&["ablate", run], 1, &["weights of another run"]);
    refused(&["export", run, "--out", text(&path("e"))], 1, &["weights of another run"]);
}
