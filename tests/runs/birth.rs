//! Runs and studies on trigger bigrams, through the binary: every metric under its name, the same
//! bits for any thread count and after a kill, frozen blocks, the order of learning, and what is
//! refused.

use crate::support::{last_of_each, popgrad, refused, stop_at, text};
use popgrad::report::arrays::read_arrays;
use popgrad::report::checkpoint::Checkpoint;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const TINY: [&str; 9] = [
    "T=24",
    "dim=8",
    "batch=20",
    "shards=5",
    "test_size=24",
    "eval_every=4",
    "checkpoint_every=4",
    "steps=12",
    "lr=0.05",
];

#[track_caller]
fn run(preset: &str, folder: &Path, extra: &[&str]) -> String {
    let mut args = vec!["run", preset];
    args.extend(TINY);
    args.extend(extra);
    args.extend(["--out", text(folder)]);
    let out = popgrad(&last_of_each(&args));
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn records(folder: &Path) -> Vec<Map<String, Value>> {
    let log = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    log.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[track_caller]
fn same(a: &Path, b: &Path) {
    for file in ["config.toml", "metrics.jsonl", "checkpoint.safetensors", "attention.npz"] {
        assert!(fs::read(a.join(file)).unwrap() == fs::read(b.join(file)).unwrap(), "{file} differs");
    }
}

#[test]
fn threads_change_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for dtype in ["f32", "f64"] {
        for threads in ["1", "2", "5"] {
            run("birth", &at(&format!("{dtype}-{threads}")), &["--threads", threads, "--dtype", dtype]);
        }
        same(&at(&format!("{dtype}-1")), &at(&format!("{dtype}-2")));
        same(&at(&format!("{dtype}-1")), &at(&format!("{dtype}-5")));
    }
    run("birth", &at("other"), &["--seed", "1"]);
    assert_ne!(records(&at("other")), records(&at("f32-1")), "the comparison can fail");
}

/// A folder with the configuration of the run in `whole`.
fn copy_of(whole: &Path, cut: &Path) {
    fs::create_dir(cut).unwrap();
    fs::copy(whole.join("config.toml"), cut.join("config.toml")).unwrap();
}

#[test]
fn a_stopped_run_resumes_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    for (name, keys) in [
        ("unfreeze", &["freeze_until=7:wk0", "eval_every=3"][..]),
        ("all", &["loss=all", "ff2=relu", "optimizer=adamw", "lr=0.01", "frozen=", "test_outputs=both"]),
    ] {
        let (whole, cut) = (dir.path().join(name), dir.path().join(format!("{name}-cut")));
        run("birth", &whole, keys);
        copy_of(&whole, &cut);
        stop_at(&cut, 6);
        assert!(cut.join("checkpoint.safetensors").exists());
        assert!(!cut.join("summary.json").exists());
        // Twice: a finished run resumes to itself.
        for _ in 0..2 {
            let out = popgrad(&["run", "--resume", text(&cut)]);
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            same(&whole, &cut);
        }
    }
}

/// With one trigger in short sequences, small batches have often no position that counts.
#[test]
fn batches_that_count_nothing_pass() {
    let dir = tempfile::tempdir().unwrap();
    let keys = [
        "triggers=random",
        "K=1",
        "T=12",
        "batch=2",
        "shards=2",
        "steps=60",
        "eval_every=1",
        "lr=0.05",
        "weight_decay=0.01",
        "momentum=0",
        "test_size=64",
        "checkpoint_every=5",
    ];
    let whole = dir.path().join("whole");
    run("birth", &whole, &keys);
    let records = records(&whole);
    assert_eq!(records.len(), 61);
    let (mut empty, mut before) = (0, &records[0]);
    for (i, r) in records.iter().enumerate().skip(1) {
        assert_eq!(r["train_loss"].is_null(), before["loss"].is_null(), "record {i}");
        let gradients = before.iter().filter(|(k, _)| k.starts_with("gradnorm_"));
        assert_eq!(gradients.clone().count(), 3);
        for (k, g) in gradients {
            assert_eq!(g.is_null(), before["loss"].is_null(), "{k} of record {}", i - 1);
        }
        if before["loss"].is_null() {
            // Decay alone moves what trains.
            empty += 1;
            assert_eq!(r["grad_norm"], 0.0);
            let [a, b] = [before, r].map(|r| r["norm_layers.0.attention.wk.weight"].as_f64().unwrap());
            assert!((b / a - (1.0 - 0.05 * 0.01)).abs() < 8.0 * f64::from(f32::EPSILON), "{a} to {b}");
        }
        before = r;
    }
    assert!((5..55).contains(&empty), "{empty} of 60 batches count nothing");
    let cut = dir.path().join("cut");
    copy_of(&whole, &cut);
    stop_at(&cut, 6);
    let out = popgrad(&["run", "--resume", text(&cut)]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    same(&whole, &cut);
}

/// Of theory 2.2, beside the norms.
const METRICS: [&str; 18] = [
    "loss",
    "loss_bigram",
    "loss_head",
    "acc_tot",
    "acc_start",
    "acc_end",
    "acc_end_test",
    "score_acc",
    "score_start_acc",
    "score2_acc",
    "pred_attended_acc",
    "score_cond_acc",
    "repeat_frac",
    "wk0_acc",
    "wk0_64_acc",
    "wk1_acc",
    "wo1_acc",
    "ff1_loss",
];

#[test]
fn every_metric_is_there_and_they_agree_with_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let keys =
        ["eval_every=1", "loss=all", "ff2=linear", "frozen=output", "freeze_until=3:ff1", "--dtype", "f64"];
    let told = run("birth", &folder, &keys);
    let records = records(&folder);
    assert_eq!(records.len(), 13);
    let trained = [
        "tok_embeddings",
        "layers.0.attention.wk",
        "layers.1.attention.wk",
        "layers.1.attention.wo",
        "layers.1.ff",
    ];
    for (i, r) in records.iter().enumerate() {
        assert_eq!((r["step"].as_u64(), r["iter"].as_u64()), (Some(i as u64), Some(i as u64)));
        for key in METRICS {
            let x = r[key].as_f64().unwrap_or_else(|| panic!("{key} of record {i}: {}", r[key]));
            let most = if key.contains("loss") { 20.0 } else { 1.0 };
            assert!((0.0..=most).contains(&x), "{key} = {x}");
        }
        let norms: BTreeSet<&str> = r.keys().filter_map(|k| k.strip_prefix("norm_")).collect();
        let expected: Vec<String> = trained.iter().map(|b| format!("{b}.weight")).collect();
        assert_eq!(norms, expected.iter().map(String::as_str).collect());
        let ahead = &r["gradnorm_layers.1.ff.weight"];
        let none = i < 3 || i == 12;
        assert_eq!(
            ahead.is_null(),
            none,
            "no gradient before the block trains, nor of a batch that is never trained on: {ahead}"
        );
    }
    // Record i measures the next batch as update i finds it.
    let close = |a: f64, b: f64| assert!((a - b).abs() <= 1e-12 * b.abs(), "{a} against {b}");
    for pair in records.windows(2) {
        let number = |r: &Map<String, Value>, key: &str| r[key].as_f64().unwrap();
        close(number(&pair[1], "train_loss"), number(&pair[0], "loss"));
        let norms =
            pair[0].iter().filter(|(k, _)| k.starts_with("gradnorm_")).filter_map(|(_, v)| v.as_f64());
        close(number(&pair[1], "grad_norm"), norms.map(|x| x * x).sum::<f64>().sqrt());
    }
    // The last record is the summary.
    let last = records.last().unwrap();
    let summary: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("summary.json")).unwrap()).unwrap();
    for key in METRICS {
        assert_eq!(summary[key], last[key], "{key}");
        // For people: five digits of it.
        let line = told.lines().find_map(|l| l.strip_prefix(&format!("{key}: ")));
        let shown: f64 = line.unwrap_or_else(|| panic!("{key} in\n{told}")).parse().unwrap();
        let all = last[key].as_f64().unwrap();
        assert!((shown - all).abs() <= 5e-4 * all.abs(), "{key}: {shown}, {all}");
    }
    let arrays = read_arrays(&folder.join("attention.npz")).unwrap();
    assert_eq!(arrays["tokens"].shape(), [24]);
    for layer in ["layer1", "layer2"] {
        assert_eq!(arrays[layer].shape(), [1, 24, 24]);
        for (i, row) in arrays[layer].to_f64_vec().chunks(24).enumerate() {
            let sum: f64 = row[..=i].iter().sum();
            assert!((sum - 1.0).abs() < 1e-12 && row[i + 1..].iter().all(|x| *x == 0.0), "{layer} row {i}");
        }
    }
    for figure in ["curves", "attention", "overview"] {
        assert!(fs::metadata(folder.join(format!("figures/{figure}.png"))).unwrap().len() > 500);
    }
    // Without a feed-forward, and with both output laws.
    let both = dir.path().join("both");
    run("birth", &both, &["test_outputs=both", "outputs=bigram"]);
    for r in self::records(&both) {
        assert_eq!(r["ff1_loss"], -1.0);
        assert_eq!(r["acc_end_test"], r["acc_end_test_bigram"]);
        assert!(r["acc_end_test_uniform"].is_number());
    }
}

#[test]
fn a_transformer_logs_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, keys: &[&str]| {
        let folder = dir.path().join(name);
        run("birth-full", &folder, keys);
        folder
    };
    let (one, five) = (at("1", &["--threads", "1"]), at("5", &["--threads", "5"]));
    same(&one, &five);
    let several_heads = records(&one);
    let layers_1 = records(&at("shallow", &["layers=1", "heads=1"]));
    let deep =
        records(&at("deep", &["layers=3", "heads=1", "block=standard", "norm=false", "positions=sincos"]));
    for i in 0..4 {
        // The first layer's scores only where one head is all there is; the second's where there is
        // one.
        assert!(several_heads[i]["score_acc"].is_null() && several_heads[i]["acc_end"].is_number());
        assert!(layers_1[i]["score_acc"].is_number() && layers_1[i]["score2_acc"].is_null());
        assert_eq!((&layers_1[i]["wk1_acc"], &layers_1[i]["wo1_acc"]), (&(-1.0).into(), &(-1.0).into()));
        assert!(deep[i]["score_acc"].is_number() && deep[i]["score2_acc"].is_number());
        assert!(
            deep[i].contains_key("norm_layers.2.ff.w1.weight") && !deep[i].contains_key("norm_norm.weight")
        );
        assert!(several_heads[i].contains_key("gradnorm_norm.weight"));
    }
    let arrays = read_arrays(&one.join("attention.npz")).unwrap();
    assert_eq!((arrays["layer1"].shape(), arrays["layer2"].shape()), (&[4, 24, 24][..], &[4, 24, 24][..]));
}

fn block(folder: &Path, name: &str) -> Vec<u64> {
    let checkpoint = Checkpoint::load(&folder.join("checkpoint.safetensors")).unwrap();
    let array = &checkpoint.state[&format!("{name}.weight")];
    array.to_f64_vec().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn frozen_blocks_keep_their_bits_and_unfrozen_ones_move() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, keys: &[&str]| {
        let folder = dir.path().join(name);
        run("birth", &folder, keys);
        folder
    };
    let start = at("start", &["steps=1", "lr=0", "frozen=tok_embeddings,layers.1.attention.wk"]);
    let [wk0, wk1, wo1] = ["layers.0.attention.wk", "layers.1.attention.wk", "layers.1.attention.wo"];
    let frozen =
        ["tok_embeddings", "layers.0.attention.wv", "layers.0.attention.wo", "layers.1.attention.wv", wk1];
    let end = at("end", &["frozen=embeddings,wk1"]);
    frozen.iter().for_each(|name| assert!(block(&start, name) == block(&end, name), "{name} moved"));
    for name in [wk0, wo1, "output"] {
        assert!(block(&start, name) != block(&end, name), "{name} did not move");
    }
    // Frozen until update 8: still at the start after 8, moved after 9.
    for (steps, moved) in [("steps=8", false), ("steps=9", true)] {
        let folder = at(steps, &[steps, "freeze_until=8:wk0,wo1"]);
        for name in [wk0, wo1] {
            assert_eq!(block(&start, name) != block(&folder, name), moved, "{name} after {steps}");
        }
    }
}

#[test]
fn corpora_of_every_kind() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("abba.txt"), "abbaabcacbbcaabbacca".repeat(3)).unwrap();
    let file = text(&path("abba.txt")).to_string();
    let symbols = |folder: &Path| -> Vec<String> {
        let run: Value = serde_json::from_str(&fs::read_to_string(folder.join("run.json")).unwrap()).unwrap();
        serde_json::from_value(run["symbols"].clone()).unwrap()
    };
    run("birth", &path("file"), &[&format!("corpus={file}"), "K=1"]);
    assert_eq!(symbols(&path("file")), ["a", "b", "c"]);
    fs::create_dir(path("counts")).unwrap();
    fs::write(path("counts/char_unigrams.csv"), "codepoint,count\n97,2\n98,3\n").unwrap();
    fs::write(path("counts/char_bigrams.csv"), "first,second,count\n97,98,2\n98,97,1\n98,98,1\n").unwrap();
    let counts = format!("corpus=counts:{}", text(&path("counts")));
    run("birth", &path("from-counts"), &[&counts, "K=1"]);
    assert_eq!(symbols(&path("from-counts")), ["a", "b"]);
    run("birth", &path("random"), &["corpus=dirichlet", "N=7", "alpha=0.5", "output_split=0.5", "K=2"]);
    assert_eq!(symbols(&path("random")).len(), 7);
    // A file is no folder of counts, whatever is in it.
    let file_of_counts = format!("corpus=counts:{}", text(&path("counts/char_bigrams.csv")));
    // Bad ones; what is wrong with a file exits with 1.
    fs::write(path("counts/char_bigrams.csv"), "first,second,count\n97,98,2\n98,98,3\n").unwrap();
    fs::write(path("empty.txt"), "").unwrap();
    fs::write(path("latin.txt"), b"caf\xe9 au lait").unwrap();
    fs::write(path("end.txt"), "abababz").unwrap();
    let at = |name: &str| format!("corpus={}", text(&path(name)));
    let folder = path("out");
    for (key, code, words) in [
        (counts.as_str(), 1, &["char_bigrams.csv", "occurs 2 times"][..]),
        (&file_of_counts, 1, &["char_bigrams.csv", "a file; expected a folder with char_unigrams.csv"]),
        (&at("empty.txt"), 1, &["empty.txt", "empty"]),
        (&at("latin.txt"), 1, &["latin.txt", "byte 3: not UTF-8"]),
        (&at("end.txt"), 1, &["end.txt", "nothing follows 'z'"]),
        (&at("nowhere.txt"), 1, &["nowhere.txt", "cannot read"]),
        ("corpus=dirichlet", 2, &["N: missing"]),
    ] {
        refused(&["run", "birth", key, "--out", text(&folder)], code, words);
        assert!(!folder.exists(), "{key} left a folder behind");
    }
}

/// The paper's order of learning, in a task of two triggers small enough for a test: the bigrams
/// are nearly learned long before the outputs that the context determines; in the end both are.
#[test]
fn bigrams_come_first_and_the_context_follows() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let keys =
        ["corpus=dirichlet", "N=12", "alpha=1", "K=2", "T=32", "dim=64", "batch=64", "shards=4", "lr=0.2"];
    let more =
        ["loss=all", "ff2=linear", "steps=260", "eval_every=10", "checkpoint_every=260", "test_size=64"];
    run("birth", &folder, &[&keys[..], &more].concat());
    let records = records(&folder);
    let number = |r: &Map<String, Value>, key: &str| r[key].as_f64().unwrap();
    // Nine tenths of the way.
    let nearly = |key: &str| {
        let (first, last) = (number(&records[0], key), number(records.last().unwrap(), key));
        let there = |r: &&Map<String, Value>| number(r, key) <= last + 0.1 * (first - last);
        number(records.iter().find(there).unwrap(), "step")
    };
    let (bigrams, context) = (nearly("loss_bigram_test"), nearly("loss_head_test"));
    assert!(2.0 * bigrams <= context, "bigrams at {bigrams}, context at {context}");
    let last = records.last().unwrap();
    assert!(number(last, "acc_end_test") > 0.9 && number(last, "wk1_acc") == 1.0, "{last:?}");
    assert!(number(&records[0], "acc_end_test") < 0.3);
}

#[test]
fn a_corpus_that_changed_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (file, folder) = (dir.path().join("text.txt"), dir.path().join("run"));
    let words = "abbaabcacbbcaabbacca".repeat(3);
    fs::write(&file, &words).unwrap();
    run("birth", &folder, &[&format!("corpus={}", text(&file)), "K=1"]);
    let resume = ["run", "--resume", text(&folder)];
    assert!(popgrad(&resume).status.success(), "the same corpus");
    // The same symbols, other counts.
    fs::write(&file, words.replacen("ab", "ba", 1)).unwrap();
    let before = fs::read(folder.join("checkpoint.safetensors")).unwrap();
    refused(&resume, 1, &["checkpoint.safetensors", "another corpus: its text or counts have changed"]);
    assert!(fs::read(folder.join("checkpoint.safetensors")).unwrap() == before);
    fs::write(&file, &words).unwrap();
    assert!(popgrad(&resume).status.success());
    // No checkpoint for commands of the other paper.
    refused(&["ood", text(&folder)], 2, &["run: ", "trigger_bigram", "a run on a graph"]);
}

#[test]
fn bad_input_is_refused_before_a_folder_appears() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    let cases: &[(&[&str], &[&str])] = &[
        (&["run", "birht"], &["unknown preset `birht`", "did you mean `birth`"]),
        (&["run", "birth", "S=4"], &["S: 4", "task=causal_tree|causal_dag only"]),
        (&["run", "birth", "K=66", "corpus=dirichlet", "N=65", "alpha=1"], &["K: 66", "1 to 65: 65 symbols"]),
        (&["run", "birth", "K=30", "offset=60"], &["K: 30"]),
        (&["run", "birth", "T=1"], &["T: 1"]),
        (&["run", "birth", "frozen=embeddings,output,wk0,wk1,wo1"], &["frozen: every block"]),
        (&["run", "birth", "frozen=layers.2"], &["unknown frozen `layers.2`"]),
        (&["run", "birth", "freeze_until=9:ff1"], &["unknown freeze_until `ff1`"]),
        (
            &["run", "birth", "freeze_until=9:layers.0.attention.wv"],
            &["freeze_until: layers.0.attention.wv.weight"],
        ),
        (&["run", "birth", "positions=sincos", "dim=7"], &["d: 7"]),
        (&["run", "birth", "optimizer=sgdm"], &["unknown optimizer `sgdm`"]),
        (&["run", "birth", "momentum=-1"], &["momentum: -1"]),
        (&["run", "birth", "schedule=step"], &["unknown schedule"]),
        (
            &["run", "birth", "T=4096", "dim=4096", "shards=4096", "batch=4096"],
            &["memory (S, T,", "MiB free"],
        ),
        (&["run", "birth", "output_split=0.001"], &["outputs: trigger"]),
        (&["run", "birth-fig2", "seeds=2"], &["seeds: 2", "birth-fig3"]),
        (&["run", "birth-fig3", "T=0"], &["T: 0"]),
        (&["run", "birth-fig4", "K=3"], &["K: given", "not with birth-fig4"]),
        (&["run", "birth", "freeze_until=100:wk0,wk1,wo1", "steps=8"], &["freeze_until: every block until"]),
        (
            &["run", "birth", "freeze_until=3:wk0/5:wk0"],
            &["freeze_until: layers.0.attention.wk.weight twice"],
        ),
        (&["figures", "alpha=0.5"], &["alpha: given", "--only"]),
        (&["sweep", "birth", "K=1,2"], &["preset: birth", "causal-structure paper"]),
        (&["figures", "--only", "birth-fig5"], &["unknown figure `birth-fig5`", "did you mean"]),
        (&["figures", "--only", "birth-fig2", "S=4"], &["S: given", "--only"]),
    ];
    for (args, words) in cases {
        let mut all = args.to_vec();
        all.extend(["--out", text(&folder)]);
        refused(&all, 2, words);
        assert!(!folder.exists(), "{args:?} left a folder behind");
    }
    // Nothing that the loss counts: no K-th trigger comes twice in two tokens.
    let mut none = vec!["run", "birth"];
    none.extend(TINY);
    none.extend([
        "T=2",
        "batch=2",
        "shards=2",
        "test_size=2",
        "corpus=dirichlet",
        "N=500",
        "alpha=1",
        "--out",
        text(&folder),
    ]);
    refused(&last_of_each(&none), 2, &["no position of the test set"]);
}

#[test]
fn studies_leave_their_tables_and_figures() {
    let dir = tempfile::tempdir().unwrap();
    for (name, extra, groups, figures) in [
        ("birth-fig2", &["steps=8"][..], 2, &["attention", "accuracy"][..]),
        ("birth-fig3", &["steps=8", "seeds=2"], 8, &["accuracy", "recall"]),
        ("birth-fig4", &["steps=8", "seeds=2"], 7, &["losses", "laws", "recall", "slower"]),
        ("birth-order", &["steps=8", "seeds=2"], 6, &["losses", "laws", "recall", "slower"]),
        ("birth-realistic", &["steps=8", "seeds=2"], 3, &["accuracy", "recall", "order"]),
        ("birth-depth", &["steps=8", "seeds=2"], 2, &["accuracy", "losses"]),
    ] {
        let folder = dir.path().join(name);
        let told = run(name, &folder, extra);
        assert_eq!(told.lines().count(), groups + 2, "a heading, a row for each group, the folder:\n{told}");
        assert!(
            told.starts_with("group ") && told.ends_with(&format!("folder: {}\n", text(&folder))),
            "{told}"
        );
        let csv = fs::read_to_string(folder.join("curves.csv")).unwrap();
        assert!(csv.starts_with("group,step,key,runs,mean,sd,min,max\n"));
        let of: BTreeSet<&str> = csv
            .lines()
            .skip(1)
            .map(|l| {
                l.strip_prefix('"').map_or(l.split(',').next().unwrap(), |q| q.split('"').next().unwrap())
            })
            .collect();
        assert_eq!(of.len(), groups, "{name}: {of:?}");
        let runs = fs::read_to_string(folder.join("runs.csv")).unwrap();
        let each = if name == "birth-fig2" { 1 } else { 2 };
        assert_eq!(runs.lines().count(), 1 + groups * each, "{name}");
        for figure in figures {
            assert!(
                fs::metadata(folder.join(format!("figures/{figure}.png"))).unwrap().len() > 500,
                "{figure}"
            );
        }
        // Nothing is left to do.
        let out = popgrad(&["run", "--resume", text(&folder)]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(fs::read_to_string(folder.join("curves.csv")).unwrap(), csv);
    }
    // A run of a study is the run alone.
    let member = dir.path().join("birth-fig3/runs/wk1-frozen-at-first-seed-1");
    let alone = dir.path().join("alone");
    let out = popgrad(&["run", "--config", text(&member.join("config.toml")), "--out", text(&alone)]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    same(&member, &alone);
    // Repetitions of a preset.
    let seeds = dir.path().join("seeds");
    run("birth", &seeds, &["seeds=2", "steps=4"]);
    assert!(seeds.join("figures/recall.png").exists());
    let summary: Value =
        serde_json::from_str(&fs::read_to_string(seeds.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["birth, 4 steps: acc_end"]["n"], 2);
}
