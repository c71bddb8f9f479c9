//! `export`: the table is the log, the weights are the files', and the test set gives the run's
//! loss to `grad`.

use crate::support::{ok, popgrad, refused, text};
use popgrad::report::arrays::{ArrayData, read_arrays};
use popgrad::report::checkpoint::Checkpoint;
use serde_json::Value;
use std::fs;
use std::path::Path;

fn run(out: &Path, what: &[&str]) {
    let sizes = ["steps=6", "eval_every=2", "checkpoint_every=4", "batch=8"];
    // Algorithm 1 takes the whole population.
    let sizes = if what[0] == "algorithm1" { &sizes[..3] } else { &sizes };
    ok(&[&["run"], what, sizes, &["--out", text(out)]].concat());
}

fn log(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Header and cells, by a reader of its own: no text here holds a comma, a quote or a line end.
fn table(path: &Path) -> (Vec<String>, Vec<Vec<String>>) {
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines().map(|l| l.split(',').map(String::from).collect::<Vec<_>>());
    (lines.next().unwrap(), lines.collect())
}

#[test]
fn the_table_is_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    run(&at("run"), &["algorithm1", "S=2", "T=5", "steps1=4"]);
    ok(&["export", text(&at("run")), "--csv", "--out", text(&at("out"))]);
    let mut names: Vec<_> = fs::read_dir(at("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.retain(|n| n != ".lock");
    assert_eq!(names, ["metrics.csv"]);
    let (header, rows) = table(&at("out").join("metrics.csv"));
    assert_eq!(header[..4], ["step", "stage", "train_loss", "test_loss"]);
    let records = log(&at("run"));
    assert_eq!(rows.len(), records.len());
    let mut numbers = 0;
    for (row, record) in rows.iter().zip(&records) {
        assert_eq!(row.len(), header.len());
        for (name, cell) in header.iter().zip(row) {
            let value = match name.split_once('.') {
                Some((list, i)) => &record[list][i.parse::<usize>().unwrap()],
                None => &record[name.as_str()],
            };
            match value {
                Value::Null => assert_eq!(cell, "", "{name}"),
                Value::Number(n) => {
                    assert_eq!(
                        cell.parse::<f64>().unwrap().to_bits(),
                        n.as_f64().unwrap().to_bits(),
                        "{name}"
                    );
                    numbers += 1;
                }
                other => assert_eq!(*cell, other.to_string(), "{name}"),
            }
        }
    }
    assert!(numbers > 50, "{numbers}");
    assert!(header.iter().any(|h| h == "last_row.4"));
}

#[test]
fn weights_over_time_are_those_of_snapshots_and_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let chain = ["chain", "S=3", "T=5", "shards=2", "test_size=16", "snapshots=0,1,6"];
    run(&at("run"), &chain);
    // Stopped on the way: the checkpoint is of no snapshot's step.
    fs::remove_file(at("run").join("snapshots/step-000000000006.safetensors")).unwrap();
    ok(&["export", text(&at("run")), "--out", text(&at("out"))]);
    let all = read_arrays(&at("out").join("weights.npz")).unwrap();
    assert_eq!(all.keys().collect::<Vec<_>>(), ["A.0", "A.1", "W", "steps"]);
    assert_eq!(*all["steps"].data(), ArrayData::U64(vec![0, 1, 6]));
    let files = ["snapshots/step-000000000000", "snapshots/step-000000000001", "checkpoint"];
    for name in ["A.0", "A.1", "W"] {
        let ArrayData::F32(stacked) = all[name].data() else { panic!("{name} is no f32") };
        for (i, file) in files.iter().enumerate() {
            let one = Checkpoint::load(&at("run").join(format!("{file}.safetensors"))).unwrap().state;
            let ArrayData::F32(own) = one[name].data() else { panic!("{name} is no f32") };
            assert_eq!(all[name].shape()[1..], *one[name].shape());
            assert_eq!(stacked[i * own.len()..(i + 1) * own.len()], own[..], "{name} of {file}");
        }
        assert_eq!(all[name].shape()[0], 3);
    }
    // A snapshot at the checkpoint's step counts once.
    run(&at("again"), &chain);
    ok(&["export", text(&at("again")), "--out", text(&at("twice"))]);
    assert_eq!(read_arrays(&at("twice").join("weights.npz")).unwrap(), all);
}

/// `grad` on the exported test set, at the checkpoint, finds the run's last test loss.
#[test]
fn the_test_set_gives_the_loss_of_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let disentangled = ["--model", "disentangled", "heads=1,1"];
    let two = ["--model", "disentangled", "heads=2,1"];
    let memory = ["--model", "memory"];
    let cases: [(&str, &[&str], &[&str]); 4] = [
        ("chain", &["chain", "S=3", "T=5", "shards=3", "test_size=40"], &disentangled),
        ("exact", &["chain", "S=2", "T=6", "roots=uniform", "source=exact"], &disentangled),
        ("two", &["two-parents", "S=3", "T=6", "shards=2", "test_size=40"], &two),
        ("birth", &["birth", "T=24", "K=2", "dim=8", "shards=2", "test_size=24"], &memory),
    ];
    for (name, what, model) in cases {
        let (folder, out) = (at(name), at(&format!("{name}-out")));
        let exact = what.contains(&"source=exact");
        let words: Vec<&str> =
            [what, &["dtype=f64", "steps=6", "eval_every=2", "checkpoint_every=4"]].concat();
        let words = if exact { words } else { [&words[..], &["batch=8"]].concat() };
        ok(&[&["run"], &words[..], &["--out", text(&folder)]].concat());
        ok(&["export", text(&folder), "--out", text(&out)]);
        let (params, batch) = (folder.join("checkpoint.safetensors"), out.join("test.npz"));
        // Only the blocks: `grad` expects no others.
        let answer = at(&format!("{name}.npz"));
        let files = ["--params", text(&params), "--batch", text(&batch), "--out", text(&answer)];
        ok(&[&["grad"], model, &files].concat());
        let loss = read_arrays(&answer).unwrap()["loss"].to_f64_vec()[0];
        let last = log(&folder).pop().unwrap()["test_loss"].as_f64().unwrap();
        assert!((loss - last).abs() < 1e-12 * last, "{name}: {loss} and {last}");
        let count = read_arrays(&batch).unwrap()["tokens"].shape()[0];
        assert_eq!(
            count,
            if exact {
                64
            } else if name == "birth" {
                24
            } else {
                40
            }
        );
    }
    // Losses without sequences have no test set, and it says so.
    run(&at("sums"), &["algorithm1", "S=2", "T=5", "steps1=4"]);
    let out = popgrad(&["export", text(&at("sums")), "--out", text(&at("sums-out"))]);
    assert!(out.status.success());
    assert!(String::from_utf8(out.stderr).unwrap().contains("no test set"));
    assert!(!at("sums-out").join("test.npz").exists());
}

#[test]
fn what_is_no_run_is_refused_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let out = at("out");
    let to = ["--out", text(&out)];
    let refuse = |run: &Path, code: i32, words: &[&str]| {
        refused(&[&["export", text(run)], &to[..]].concat(), code, words);
        assert!(!out.exists(), "{words:?}");
    };
    refuse(&at("none"), 2, &["run: ", "does not exist", "the folder of a run"]);
    refuse(dir.path(), 2, &["run: ", "has no config.toml"]);
    let study = at("study");
    run(&study, &["chain", "S=2", "T=4", "seeds=2", "shards=1", "test_size=8"]);
    refuse(&study, 2, &["is the folder of a study"]);
    run(&at("run"), &["chain", "S=2", "T=4", "shards=1", "test_size=8"]);
    refused(&["export", text(&at("run")), "--out", text(&study)], 2, &["run folder", "is not empty"]);
    let checkpoint = at("run").join("checkpoint.safetensors");
    let mut bytes = fs::read(&checkpoint).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&checkpoint, bytes).unwrap();
    refuse(&at("run"), 1, &["checkpoint.safetensors"]);
    // An edited log, and a snapshot under the name of another update.
    let kept = at("kept");
    run(&kept, &["chain", "S=2", "T=4", "shards=1", "test_size=8", "snapshots=every 2"]);
    let log = fs::read_to_string(kept.join("metrics.jsonl")).unwrap();
    fs::write(kept.join("metrics.jsonl"), log.replacen("\"test_loss\":0", "\"test_loss\":9", 1)).unwrap();
    refuse(&kept, 1, &["metrics.jsonl"]);
    fs::write(kept.join("metrics.jsonl"), log).unwrap();
    let [two, four] = [2, 4].map(|n| kept.join(format!("snapshots/step-{n:012}.safetensors")));
    fs::copy(two, four).unwrap();
    refuse(&kept, 1, &["step-000000000004", "weights of update 2"]);
    // The event files of TensorBoard are not written here, and the help says who does.
    let help = ok(&["export", "--help"]);
    assert!(help.contains("TensorBoard") && help.contains("Python"), "{help}");
    refused(&["export", text(&at("run")), "--tensorboard"], 2, &["--tensorboard"]);
}
