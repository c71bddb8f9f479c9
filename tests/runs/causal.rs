//! Whole runs of the binary: the same bits for any thread count and after a kill, and what the run
//! folder holds.

use crate::support::last_of_each;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn popgrad() -> Command {
    Command::new(env!("CARGO_BIN_EXE_popgrad"))
}

const SMALL: [&str; 9] = [
    "run",
    "chain",
    "S=4",
    "T=8",
    "batch=96",
    "shards=5",
    "eval_every=20",
    "checkpoint_every=30",
    "test_size=300",
];

fn run(folder: &Path, extra: &[&str]) -> Output {
    let out =
        popgrad().args(last_of_each(&[&SMALL, extra].concat())).arg("--out").arg(folder).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out
}

fn same_results(a: &Path, b: &Path) {
    for file in ["metrics.jsonl", "checkpoint.safetensors", "config.toml"] {
        assert!(fs::read(a.join(file)).unwrap() == fs::read(b.join(file)).unwrap(), "{file} differs");
    }
}

#[test]
fn threads_change_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    for dtype in ["f32", "f64"] {
        let at = |threads: &str| dir.path().join(format!("{dtype}-{threads}"));
        for threads in ["1", "2", "5"] {
            run(&at(threads), &["steps=120", "--threads", threads, "--dtype", dtype, "--seed", "7"]);
        }
        same_results(&at("1"), &at("2"));
        same_results(&at("1"), &at("5"));
    }
    // Seeds and shards do change them: the comparison can fail.
    run(&dir.path().join("other"), &["steps=120", "--seed", "8"]);
    let metrics = |name: &str| fs::read(dir.path().join(name).join("metrics.jsonl")).unwrap();
    assert_ne!(metrics("other"), metrics("f32-1"));
}

#[test]
fn a_killed_run_resumes_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    let steps = "steps=3000";
    run(&whole, &[steps]);

    let mut child = popgrad()
        .args(SMALL)
        .arg(steps)
        .arg("--out")
        .arg(&cut)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !cut.join("checkpoint.safetensors").exists() {
        assert!(started.elapsed() < Duration::from_secs(120), "no checkpoint came");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!cut.join("summary.json").exists(), "the run was over before it could be killed");

    let out = popgrad().args(["run", "--resume"]).arg(&cut).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    same_results(&whole, &cut);
    // A finished run resumes to itself.
    let out = popgrad().args(["run", "--resume"]).arg(&cut).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    same_results(&whole, &cut);
}

#[test]
fn a_run_folder_holds_what_it_should() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let out = run(&folder, &["steps=60", "heads=2,1"]);
    let stdout = String::from_utf8(out.stdout).unwrap();
    let keys: Vec<&str> = stdout.lines().map(|l| l.split_once(": ").unwrap().0).collect();
    let expected = [
        "test_loss",
        "bayes_counts",
        "bayes_public",
        "bayes_posterior",
        "gap",
        "attention_on_parent_mean",
        "attention_on_parent_min",
        "graph_recovered",
        "graph_argmax",
        "recovery",
        "head_of_parent",
        "attention_of_assigned_head",
        "attention_of_heads",
        "warnings",
        "steps",
        "seconds",
        "steps_per_second",
        "run_folder",
    ];
    assert_eq!(keys, expected);
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&read("summary.json")).unwrap();
    assert_eq!(summary["steps"], 60);
    assert!(summary["bayes_posterior"].is_null(), "no closed form with stationary roots");
    let gap = summary["test_loss"].as_f64().unwrap() - summary["bayes_counts"].as_f64().unwrap();
    assert_eq!(summary["gap"].as_f64().unwrap(), gap);
    let run_json: serde_json::Value = serde_json::from_str(&read("run.json")).unwrap();
    for key in ["version", "cpu", "isa", "threads", "seed", "dtype"] {
        assert!(!run_json[key].is_null(), "{key}");
    }
    let metrics = read("metrics.jsonl");
    let steps: Vec<u64> = metrics
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [0, 20, 40, 60]);
    for word in ["second", "thread", folder.to_str().unwrap()] {
        assert!(!metrics.contains(word), "metrics.jsonl mentions {word}");
    }
    for figure in ["loss", "graph", "attention", "A1", "A2", "W", "overview"] {
        for kind in ["svg", "png"] {
            let path = folder.join("figures").join(format!("{figure}.{kind}"));
            assert!(fs::metadata(&path).unwrap().len() > 500, "{}", path.display());
        }
    }
}

#[test]
fn divergence_is_reported_and_keeps_the_last_good_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    for (name, args, resumable) in [
        (
            "late",
            &["lr=1e4", "weight_decay=0.1", "checkpoint_every=1", "eval_every=50", "steps=200"][..],
            true,
        ),
        ("at_once", &["lr=1e39", "steps=1"], false),
        ("in_the_test_loss", &["lr=1e30", "schedule=constant", "eval_every=1", "steps=2"], false),
    ] {
        let folder = dir.path().join(name);
        let out = popgrad()
            .args(last_of_each(&[&SMALL, args].concat()))
            .arg("--out")
            .arg(&folder)
            .output()
            .unwrap();
        let err = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{name}: {err}");
        assert!(err.lines().last().unwrap().contains("training diverged"), "{name}: {err}");
        assert!(!fs::read_to_string(folder.join("metrics.jsonl")).unwrap().contains("null,\"gap\""));
        assert_eq!(folder.join("checkpoint.safetensors").exists(), resumable, "{name}");
        let again = popgrad().args(["run", "--resume"]).arg(&folder).output().unwrap();
        let err = String::from_utf8(again.stderr).unwrap();
        assert!(err.contains("training diverged"), "resuming {name} diverges again, no more: {err}");
    }
}

#[test]
fn a_reader_that_leaves_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let mut child = popgrad()
        .args(SMALL)
        .args(["steps=40", "--quick", "--out"])
        .arg(&folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(folder.join("summary.json").exists());
}

#[test]
fn heads_differ_from_a_random_start_and_only_then() {
    let dir = tempfile::tempdir().unwrap();
    for (init, differ) in [("init=0", false), ("init=1e-2", true)] {
        let folder = dir.path().join(init);
        let out = run(&folder, &["steps=40", "heads=2,1", init]);
        let noted = String::from_utf8(out.stderr).unwrap().contains("heads of a layer stay equal");
        assert_eq!(noted, !differ);
        let arrays = popgrad::report::arrays::read_arrays(&folder.join("checkpoint.safetensors")).unwrap();
        let a = arrays["A.0"].to_f64_vec();
        let (first, second) = a.split_at(a.len() / 2);
        assert_eq!(first != second, differ);
    }
}

#[test]
fn any_number_of_heads_can_be_drawn() {
    let dir = tempfile::tempdir().unwrap();
    for heads in ["heads=64", "heads=1,12", "heads=12,1"] {
        let folder = dir.path().join(heads);
        run(&folder, &["S=2", "T=3", "steps=2", "batch=4", "shards=4", "test_size=4", heads]);
        assert!(folder.join("figures/overview.png").exists());
    }
}

#[test]
fn a_finished_run_keeps_its_summary() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    run(&folder, &["steps=40"]);
    let read = || -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(folder.join("summary.json")).unwrap()).unwrap()
    };
    let before = read();
    fs::write(folder.join(".popgrad-left.tmp"), "half").unwrap();
    let out = popgrad().args(["run", "--resume"]).arg(&folder).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(read()["steps_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(read()["test_loss"], before["test_loss"]);
    assert!(!folder.join(".popgrad-left.tmp").exists(), "what a kill left is cleared");
}

#[test]
fn uniform_roots_have_an_exact_posterior_that_is_the_counts() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    run(&folder, &["steps=20", "roots=uniform", "graph=random"]);
    let summary: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["bayes_posterior"], summary["bayes_counts"]);
}

#[test]
fn two_symbols_have_an_exact_posterior_with_stationary_roots() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    run(&folder, &["steps=1", "S=2", "T=9", "graph=icl", "alpha=0.1", "test_size=40000"]);
    let summary: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("summary.json")).unwrap()).unwrap();
    let loss = |name: &str| summary[name].as_f64().unwrap();
    // Against the enumeration, .321412 .364772 .369561; 40,000 losses of standard deviation below
    // 0.5.
    let noise = 5.0 * 0.5 / 200.0;
    assert!((loss("bayes_posterior") - 0.321412).abs() < noise);
    assert!((loss("bayes_counts") - 0.364772).abs() < noise);
    // Paired on the same sequences, the gaps are known much better.
    assert!((loss("bayes_counts") - loss("bayes_posterior") - 0.043360).abs() < 0.2 * noise);
}

#[test]
fn presets_configs_and_overrides_reach_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("c.toml");
    fs::write(&config, "preset = \"icl\"\nS = 4\nT = 7\nsteps = 9\nbatch = 16\ntest_size = 10\n").unwrap();
    let folder = dir.path().join("run");
    let out = popgrad()
        .args(["run", "--config"])
        .arg(&config)
        .args(["alpha=0.5", "--seed", "3", "--out"])
        .arg(&folder)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let resolved = fs::read_to_string(folder.join("config.toml")).unwrap();
    for line in ["preset = \"icl\"", "graph = \"icl\"", "S = 4", "alpha = 0.5", "seed = 3", "steps = 9"] {
        assert!(resolved.contains(line), "{line} not in\n{resolved}");
    }
    let run_json = fs::read_to_string(folder.join("run.json")).unwrap();
    let run_json: serde_json::Value = serde_json::from_str(&run_json).unwrap();
    assert_eq!(run_json["parents"], serde_json::json!([-1, 0, -1, 2, -1, 4]));
    for preset in ["random", "manual"] {
        let folder = dir.path().join(preset);
        let args = ["run", preset, "--quick", "steps=4", "batch=8", "test_size=8", "--out"];
        let out = popgrad().args(args).arg(&folder).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

/// Several parents: the whole run, its new numbers and pictures, on any number of threads and after
/// a kill.
#[test]
fn several_parents_run_resume_and_split() {
    let dir = tempfile::tempdir().unwrap();
    let args = "run two-parents optimizer=sgd lr=1 S=3 T=9 batch=96 shards=5 eval_every=20 checkpoint_every=30 test_size=300";
    let run = |name: &str, extra: &str| {
        let folder = dir.path().join(name);
        let words: Vec<&str> = args.split(' ').chain(extra.split(' ')).collect();
        let words: Vec<&str> = last_of_each(&words);
        let exact = words.contains(&"source=exact");
        let words =
            words.into_iter().filter(|w| !exact || !w.starts_with("batch") && !w.starts_with("test_size"));
        let out = popgrad().args(words).arg("--out").arg(&folder).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        folder
    };
    let one = run("one", "steps=100 --threads 1");
    let five = run("five", "steps=100 --threads 5");
    same_results(&one, &five);
    let json = |folder: &Path, name: &str| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(folder.join(name)).unwrap()).unwrap()
    };
    assert_eq!(json(&one, "run.json")["parents"], "-;0;0,1;1,2;1,3;2,4;2,5;3,6;3,7;4,8");
    let summary = json(&one, "summary.json");
    let number = |key: &str| summary[key].as_f64().unwrap();
    assert!(number("bayes_counts") < number("bayes_one_parent"), "{summary}");
    assert!(number("bayes_counts") < number("bayes_previous"), "{summary}");
    assert_eq!(number("gap"), number("test_loss") - number("bayes_counts"));
    let heads = summary["attention_of_heads"].as_array().unwrap();
    assert!(heads.len() == 2 && heads.iter().all(|h| h.as_array().unwrap().len() == 2));
    let mut order: Vec<u64> =
        summary["head_of_parent"].as_array().unwrap().iter().map(|h| h.as_u64().unwrap()).collect();
    order.sort_unstable();
    assert_eq!(order, [1, 2], "each parent its own head");
    for figure in ["graph", "heads", "attention", "overview"] {
        assert!(one.join("figures").join(format!("{figure}.svg")).exists(), "{figure}");
    }
    let metrics = fs::read_to_string(one.join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().filter(|l| l.contains("\"heads_split_parents\":")).count(), 6);

    // A finished run has nothing left to do; one that was stopped is resumed in tests/runs/mlp.rs.
    let text = fs::read(one.join("checkpoint.safetensors")).unwrap();
    let again = popgrad().args(["run", "--resume"]).arg(&one).output().unwrap();
    assert!(again.status.success());
    assert!(fs::read(one.join("checkpoint.safetensors")).unwrap() == text);
    same_results(&one, &five);

    // On the whole population the counts are the least loss there is.
    let exact = run("exact", "steps=40 source=exact S=2 T=8 dtype=f64");
    let summary = json(&exact, "summary.json");
    assert!(summary["gap"].as_f64().unwrap() > 0.0, "{summary}");
    let custom = run("custom", "steps=1 T=4 parent_sets=-;-;1,0;2;3,1 roots=uniform");
    assert_eq!(json(&custom, "run.json")["parents"], "-;-;1,0;2;3,1");
    run("ngram", "steps=1 graph=ngram order=3 heads=3,1");
    run("fewer", "steps=1 heads=1,1");
}

#[test]
fn figures_that_fail_lose_no_result() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    run(&folder, &["S=2", "T=3", "steps=2", "batch=4", "shards=4", "test_size=4", "heads=64"]);
    let summary = std::fs::read(folder.join("summary.json")).unwrap();
    // A file where the folder of figures should be.
    let figures = folder.join("figures");
    std::fs::remove_dir_all(&figures).unwrap();
    std::fs::write(&figures, "").unwrap();
    std::fs::remove_file(folder.join("summary.json")).unwrap();
    let resume = || {
        Command::new(env!("CARGO_BIN_EXE_popgrad")).args(["run", "--resume"]).arg(&folder).output().unwrap()
    };
    let out = resume();
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{error}");
    let last = error.trim_end().lines().last().unwrap();
    assert!(last.starts_with("error: figures: ") && last.contains("all else is written in"), "{error}");
    assert!(String::from_utf8_lossy(&out.stdout).contains("test_loss"), "the summary is printed");
    let again = std::fs::read(folder.join("summary.json")).unwrap();
    let field = |bytes: &[u8]| {
        let value: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        value["test_loss"].clone()
    };
    assert_eq!(field(&again), field(&summary));
    std::fs::remove_file(&figures).unwrap();
    assert!(resume().status.success() && figures.join("overview.png").exists());
}
