//! Weights along a run: kept, started from, gone on with.

use crate::support::{ok, popgrad, refused, text};
use popgrad::config::Config;
use popgrad::report::arrays::read_arrays;
use popgrad::report::checkpoint::Checkpoint;
use popgrad::run::folder::{SNAPSHOTS_FOLDER, snapshot_name};
use std::fs;
use std::path::Path;

const TINY: [&str; 9] = [
    "run",
    "chain",
    "S=3",
    "T=5",
    "batch=8",
    "shards=2",
    "eval_every=4",
    "checkpoint_every=3",
    "test_size=8",
];

fn run(out: &Path, more: &[&str]) -> String {
    ok(&[&TINY[..], more, &["--out", text(out)]].concat())
}

fn bytes(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).unwrap()
}

fn kept(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder.join(SNAPSHOTS_FOLDER)).unwrap();
    let mut names: Vec<String> = files.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn snapshots_are_the_weights_and_change_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    run(&at("without"), &["steps=10"]);
    run(&at("with"), &["steps=10", "snapshots=log"]);
    assert_eq!(bytes(&at("with"), "metrics.jsonl"), bytes(&at("without"), "metrics.jsonl"));
    let steps = [0, 1, 2, 3, 4, 6, 8, 10];
    assert_eq!(kept(&at("with")), steps.map(snapshot_name));
    // Each is what a run of so many updates ends with, whose rate does not depend on their number.
    for steps in [1u64, 6, 10] {
        let folder = at(&format!("of-{steps}"));
        run(&folder, &["schedule=constant", &format!("steps={steps}")]);
        let long = at("long");
        if !long.exists() {
            run(&long, &["schedule=constant", "steps=10", "snapshots=0,1,6"]);
        }
        let end = Checkpoint::load(&folder.join("checkpoint.safetensors")).unwrap().state;
        let file = long.join(SNAPSHOTS_FOLDER).join(snapshot_name(steps));
        let snapshot = Checkpoint::load(&file).unwrap();
        assert_eq!(snapshot.step, steps);
        assert!(["A.0", "A.1", "W"].iter().all(|n| snapshot.state[*n].same_bits(&end[*n])), "{steps}");
        assert_eq!(read_arrays(&file).unwrap().keys().collect::<Vec<_>>(), ["A.0", "A.1", "W"]);
    }
    // A run that is killed between two of them resumes to the same files.
    let cut = at("cut");
    fs::create_dir(&cut).unwrap();
    fs::copy(at("with").join("config.toml"), cut.join("config.toml")).unwrap();
    crate::support::stop_at(&cut, 8);
    assert!(kept(&cut).len() < steps.len());
    ok(&["run", "--resume", text(&cut)]);
    for name in kept(&at("with")) {
        let name = format!("{SNAPSHOTS_FOLDER}/{name}");
        assert_eq!(bytes(&cut, &name), bytes(&at("with"), &name), "{name}");
    }
    assert_eq!(bytes(&cut, "metrics.jsonl"), bytes(&at("with"), "metrics.jsonl"));
    for (bad, word) in
        [("snapshots=every 0", "every N"), ("snapshots=5,3", "increasing"), ("snapshots=11", "at most")]
    {
        refused(&[&TINY[..], &["steps=10", bad]].concat(), 2, &["snapshots: ", word]);
    }
}

#[test]
fn a_run_starts_from_the_weights_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    run(&at("first"), &["steps=6", "schedule=constant", "snapshots=log"]);
    let checkpoint = at("first").join("checkpoint.safetensors");
    run(&at("second"), &["steps=4", "seed=5", "snapshots=0", "--params", text(&checkpoint)]);
    let of = |folder: &Path, step: u64| {
        read_arrays(&folder.join(SNAPSHOTS_FOLDER).join(snapshot_name(step))).unwrap()
    };
    assert_eq!(of(&at("second"), 0), of(&at("first"), 6));
    // The file is not needed any more.
    crate::support::stop_at(&at("second"), 4);
    let whole = bytes(&at("second"), "checkpoint.safetensors");
    fs::remove_file(&checkpoint).unwrap();
    assert!(!whole.is_empty());
    ok(&["run", "--resume", text(&at("second"))]);
    // Another model's, or none.
    let snapshot = at("first").join(SNAPSHOTS_FOLDER).join(snapshot_name(6));
    let other = ["steps=4", "S=4", "--params", text(&snapshot)];
    refused(&[&TINY[..2], &TINY[3..], &other].concat(), 1, &["A.0", "shape"]);
    refused(&[&TINY[..], &["steps=4", "--params", text(&at("none.npz"))]].concat(), 1, &["none.npz"]);
    // Every command that takes parameters takes these.
    let probe = ["probe", "--model", "disentangled", "heads=1,1", "graph=chain", "--params", text(&snapshot)];
    assert!(ok(&probe).contains("attention_on_parent_mean"));
}

#[test]
fn a_finished_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    // At a constant rate it is the longer run, to the byte.
    run(&at("long"), &["steps=12", "schedule=constant"]);
    run(&at("short"), &["steps=8", "schedule=constant"]);
    assert!(at("short").join("summary.json").exists());
    ok(&["run", "--resume", text(&at("short")), "steps=12"]);
    for name in ["metrics.jsonl", "checkpoint.safetensors", "config.toml", "attention.npz"] {
        assert_eq!(bytes(&at("short"), name), bytes(&at("long"), name), "{name}");
    }
    assert_eq!(Config::read(&at("short").join("config.toml")).unwrap().plan.steps, 12);
    // With a cosine the horizon moves, and it says so.
    run(&at("cosine"), &["steps=8"]);
    let out = popgrad(&["run", "--resume", text(&at("cosine")), "steps=2^4"]);
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success() && err.contains("update 16 now, no longer at 8"), "{err}");

    let short = at("short");
    let resume = ["run", "--resume", text(&short)];
    refused(&[&resume[..], &["steps=11"]].concat(), 2, &["steps: 11", "at least 12"]);
    refused(&[&resume[..], &["lr=2"]].concat(), 2, &["lr"]);
    refused(&[&resume[..], &["chain"]].concat(), 2, &["resume: with `chain`"]);
    refused(&[&resume[..], &["lr=2"]].concat(), 2, &["lr: given with --resume", "steps=N alone"]);
    refused(&[&resume[..], &["seeds=2"]].concat(), 2, &["seeds: not a key of one run"]);
    // What cannot go on stays finished.
    run(&at("kept"), &["steps=8", "snapshots=every 1"]);
    let config = bytes(&at("kept"), "config.toml");
    refused(&["run", "--resume", text(&at("kept")), "steps=2^40"], 2, &["snapshots: ", "at most 100000"]);
    assert!(at("kept").join("summary.json").exists());
    assert_eq!(bytes(&at("kept"), "config.toml"), config);
    // Snapshots do not say how far a run goes, but which run it is.
    let snapshot = |name: &str| at(name).join(SNAPSHOTS_FOLDER).join(snapshot_name(4));
    run(&at("further"), &["steps=16", "schedule=constant", "snapshots=every 4"]);
    run(&at("near"), &["steps=8", "schedule=constant", "snapshots=every 4"]);
    run(&at("alien"), &["steps=8", "schedule=constant", "snapshots=every 4", "seed=1"]);
    assert_eq!(std::fs::read(snapshot("further")).unwrap(), std::fs::read(snapshot("near")).unwrap());
    std::fs::copy(snapshot("alien"), snapshot("near")).unwrap();
    let near = at("near");
    for command in ["ablate", "attend"] {
        let rows = at("rows.txt");
        std::fs::write(&rows, "0 1 0 1 0\n").unwrap();
        let tokens = ["--tokens", text(&rows)];
        let more = if command == "attend" { &tokens[..] } else { &[] };
        let words = [&[command, text(&near), "--step", "4"], more].concat();
        refused(&words, 1, &["weights of another run"]);
    }
    refused(&["export", text(&near), "--out", text(&at("exported"))], 1, &["weights of another run"]);
    assert_eq!(bytes(&at("short"), "checkpoint.safetensors"), bytes(&at("long"), "checkpoint.safetensors"));
}
