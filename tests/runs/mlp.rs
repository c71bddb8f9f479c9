//! Whole runs with AdamW, with momentum and with `mlp_transformer`: the same bits for any thread
//! count and after a stop, the files that belong to a run, and what is refused.

use crate::support::last_of_each;
use popgrad::report::checkpoint::Checkpoint;
use popgrad::report::digest::write_with;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const SMALL: [&str; 10] = [
    "S=4",
    "T=8",
    "batch=96",
    "shards=5",
    "eval_every=20",
    "checkpoint_every=30",
    "test_size=300",
    "steps=90",
    "--seed",
    "7",
];

const KINDS: [&[&str]; 5] = [
    &["causal-fig8"],
    &["causal-fig8", "heads=2,1,1", "optimizer=sgd", "momentum=0.9", "lr=0.1"],
    &[
        "chain",
        "optimizer=adamw",
        "lr=0.01",
        "beta1=0.8",
        "beta2=0.95",
        "adam_eps=1e-6",
        "weight_decay=0.001",
    ],
    &["chain", "momentum=0.9", "lr=0.2", "weight_decay=0.001"],
    &["two-parents"],
];

fn popgrad(args: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_popgrad"));
    command.arg("run").args(args).arg("--out").arg(folder).output().unwrap()
}

fn run(kind: &[&str], folder: &Path, extra: &[&str]) {
    let out = popgrad(&last_of_each(&[kind, &SMALL, extra].concat()), folder);
    assert!(out.status.success(), "{kind:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn same_results(a: &Path, b: &Path, kind: &[&str]) {
    for file in ["metrics.jsonl", "checkpoint.safetensors"] {
        assert!(
            fs::read(a.join(file)).unwrap() == fs::read(b.join(file)).unwrap(),
            "{kind:?}: {file} differs"
        );
    }
}

#[test]
fn threads_change_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    for (i, kind) in KINDS.into_iter().enumerate() {
        let at = |threads: &str| dir.path().join(format!("{i}-{threads}"));
        ["1", "2", "5"].into_iter().for_each(|threads| run(kind, &at(threads), &["--threads", threads]));
        same_results(&at("1"), &at("2"), kind);
        same_results(&at("1"), &at("5"), kind);
    }
}

#[test]
fn an_earlier_checkpoint_resumes_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    for (i, kind) in KINDS.into_iter().enumerate() {
        let (whole, cut) = (dir.path().join(format!("{i}-whole")), dir.path().join(format!("{i}-cut")));
        run(kind, &whole, &[]);
        // A run of the same configuration but for its end, under a constant rate; then the long one
        // goes on from its checkpoint.
        let constant = dir.path().join(format!("{i}-constant"));
        run(kind, &constant, &["schedule=constant"]);
        run(kind, &cut, &["schedule=constant", "steps=60"]);
        let path = cut.join("checkpoint.safetensors");
        let mut checkpoint = Checkpoint::load(&path).unwrap();
        let before = checkpoint.config_fingerprint;
        checkpoint.config_fingerprint = before.replace("steps = 60", "steps = 90");
        assert_ne!(checkpoint.config_fingerprint, before, "the checkpoint names its configuration");
        checkpoint.save(&path).unwrap();
        let config = fs::read(constant.join("config.toml")).unwrap();
        write_with(&cut, "config.toml", &config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_popgrad"));
        let out = command.args(["run", "--resume"]).arg(&cut).output().unwrap();
        assert!(out.status.success(), "{kind:?}: {}", String::from_utf8_lossy(&out.stderr));
        same_results(&constant, &cut, kind);
        let metrics = |at: &Path| fs::read(at.join("metrics.jsonl")).unwrap();
        assert_ne!(metrics(&whole), metrics(&constant), "the comparison can fail");
    }
}

#[test]
fn a_run_of_figure_8_holds_its_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    run(KINDS[0], &folder, &["heads=2,1"]);
    for figure in ["loss", "graph", "attention", "A1", "W", "overview"] {
        let path = folder.join("figures").join(format!("{figure}.svg"));
        assert!(fs::metadata(&path).unwrap().len() > 500, "{}", path.display());
    }
    assert!(!folder.join("figures/A2.svg").exists(), "no second layer in these coordinates");
    let summary: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("summary.json")).unwrap()).unwrap();
    assert!(summary["attention_on_parent_mean"].as_f64().unwrap() > 0.0);
}

#[test]
fn bad_numbers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (args, expected) in [
        (&["chain", "beta1=0.9"][..], "beta1: 0.9; allowed: optimizer=adamw only"),
        (&["chain", "optimizer=adamw", "momentum=0.5"], "momentum: 0.5; allowed: optimizer=sgd only"),
        (&["chain", "optimizer=adamw", "beta2=1"], "beta2: 1.0; allowed: >= 0, < 1"),
        (&["chain", "optimizer=adamw", "beta1=-0.1"], "beta1: -0.1; allowed: >= 0, < 1"),
        (&["chain", "optimizer=adamw", "adam_eps=-1"], "adam_eps: -1.0; allowed: adam_eps >= 0"),
        (&["chain", "momentum=-1"], "momentum: -1.0; allowed: >= 0, < 1"),
        (&["chain", "optimizer=adam"], "unknown optimizer `adam`, did you mean `adamw`"),
        (
            &["causal-fig8", "model=mlp_transfomer"],
            "unknown model `mlp_transfomer`, did you mean `mlp_transformer`",
        ),
        (&["causal-fig8", "heads=65,1"], "heads: [65, 1]; allowed: 1 to 16 layers of 1 to 64 heads"),
    ] {
        let folder = dir.path().join("bad");
        let out = popgrad(args, &folder);
        let message = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && message.contains(expected), "{args:?}: {message}");
        assert!(!folder.join("config.toml").exists(), "{args:?} left something behind");
    }
}
